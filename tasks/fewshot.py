"""Judging an encoder without training it: few examples of each class, a linear classifier.

    judge = FewShotEvaluator(TASKS["sst2"], "SST-2/train.tsv", "SST-2/dev.tsv")
    model = encoder.load("uncased_L-12_H-768_A-12", head="pooler")
    for shot in judge(model.pool): print(shot.k, shot.mean)

The protocol of Scenic's BERT: vectors are standardised by the mean and standard deviation of the
examples, a constant is appended, and ridge regression to +-1 is solved in closed form for every
strength. There the strength is chosen on dev; here on training examples that are held out, unless
asked otherwise, and several fixed draws are made.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from system.files import file_digest
from tasks.resolve import learn
from tasks.rows import read_examples, read_rows
from tasks.sentences import SentenceTask
from utils import UserError, warn

Labelled = tuple[np.ndarray, np.ndarray]  # vectors (N, D) and their labels
Pool = Callable[[list[tuple[str, str | None]]], np.ndarray]  # texts -> (N, D)

SHOTS = (1, 5, 10, 25, 100, 500, 1000)  # examples of each class
# The grid of Scenic's code: 2**-10 to 2**19.
STRENGTHS = 2.0 ** np.arange(-10, 20)  # of the ridge
HELD_OUT = 1000  # training examples that the strength is chosen on
CONSTANT = 100.0  # appended to every vector


@dataclasses.dataclass(frozen=True)
class Shot:
    """What k examples of each class gave: accuracies on dev and chosen strengths, by draw."""

    k: int
    accuracies: list[float]
    strengths: list[float]

    @property
    def mean(self) -> float:
        """Over the draws."""
        return float(np.mean(self.accuracies))

    @property
    def spread(self) -> float:
        """The standard deviation over the draws."""
        return float(np.std(self.accuracies, ddof=1)) if len(self.accuracies) > 1 else 0.0


# ---------------------------------------------------------------------------------- the closed form


def ridge(x: np.ndarray, y: np.ndarray, strengths: Sequence[float] | np.ndarray) -> np.ndarray:
    """(N, D), (N, C) -> (strengths, D, C): argmin |x w - y|^2 + strength |w|^2.

    One decomposition serves all strengths.
    """
    # With x = u s v the solution is v' (s / (s^2 + strength)) u' y.
    u, s, v = np.linalg.svd(x.astype(np.float64), full_matrices=False)  # (N, r), (r,), (r, D)
    projected = u.T @ y  # (r, C)
    shrunk = s / (s**2 + np.asarray(strengths)[:, None])  # (strengths, r)
    return np.einsum("rd,lr,rc->ldc", v, shrunk, projected, optimize=True)


def standardise(x: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Vectors (N, D) -> (N, D + 1), with the constant."""
    return np.hstack([(x - mean) / (deviation + 1e-5), np.full((len(x), 1), CONSTANT)])


def accuracies(
    x: np.ndarray, labels: np.ndarray, others: Sequence[Labelled], n_classes: int
) -> list[np.ndarray]:
    """Learn from vectors (N, D) and their labels; of each other set, the accuracy by strength."""
    # In float64, since the weakest ridge leaves small singular values nearly alone.
    x = x.astype(np.float64)
    mean, deviation = x.mean(0), x.std(0)
    # +1 for the example's class, -1 for all others: a regression per class; argmax chooses.
    targets = 2.0 * (labels[:, None] == np.arange(n_classes)) - 1
    weights = ridge(standardise(x, mean, deviation), targets, STRENGTHS)
    found = []
    for vectors, right in others:
        scores = standardise(vectors.astype(np.float64), mean, deviation) @ weights
        found.append((scores.argmax(2) == right).mean(1))  # (strengths, N, C) -> (strengths,)
    return found


def draw(labels: np.ndarray, k: int, seed: int) -> np.ndarray:
    """(classes, k): k examples of each class, a function of the seed.

    The first of them are those of a smaller k.
    """
    rng = np.random.default_rng(seed)
    # One permutation per class, so that a larger k extends the examples of a smaller one.
    by_class = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    return np.stack([rng.permutation(rows)[:k] for rows in by_class])


def sweep(
    vectors: np.ndarray,
    labels: np.ndarray,
    draws: Sequence[np.ndarray],
    held_out: Labelled,
    dev: Labelled,
    shots: Sequence[int] = SHOTS,
    select: str = "train",
) -> list[Shot]:
    """Accuracy on dev from the first k examples of each class of every draw.

    The strength is chosen on the held-out training examples, or with select="dev" on dev itself.
    """
    results = []
    for k in shots:
        shot = Shot(k, [], [])
        for drawn in draws:
            rows = drawn[:, :k].ravel()
            on_train, on_dev = accuracies(vectors[rows], labels[rows], [held_out, dev], len(drawn))
            # Choosing on dev, as Scenic does, is slightly optimistic.
            best = int((on_dev if select == "dev" else on_train).argmax())
            shot.accuracies.append(float(on_dev[best]))
            shot.strengths.append(float(STRENGTHS[best]))
        results.append(shot)
    return results


# ---------------------------------------------------------------------------------------- the judge


class FewShotEvaluator:
    """A task's examples that encoders are judged by; which are drawn and held out is fixed."""

    def __init__(
        self,
        task: SentenceTask,
        train_file: str,
        dev_file: str,
        shots: Sequence[int] = SHOTS,
        draws: int = 5,
        select: str = "train",
    ):
        rows = read_rows(task, train_file)
        # Data of one's own have no labels until they are read.
        task, examples = learn(task, rows), rows.examples
        if task.problem_type != "single_label_classification":
            raise UserError(f"{task.name} has no classes; few shots are for one label a text")
        dev = read_examples(task, dev_file)
        self.task, self.select = task, select
        labels = task.label_array([example.label for example in examples])
        self.dev_labels = task.label_array([example.label for example in dev])
        # A fixed seed: encoders and steps of a run are compared on the same examples.
        order = np.random.default_rng(0).permutation(len(labels))
        # A quarter at most, so that a small training set keeps something to draw from.
        held_out, rest = np.split(order, [min(HELD_OUT, len(order) // 4)])
        rarest = np.bincount(labels[rest], minlength=task.n_outputs).min()
        self.shots = possible_shots(train_file, shots, rarest)
        drawn = [rest[draw(labels[rest], max(self.shots), seed)] for seed in range(draws)]
        # Only the examples that are drawn or held out are encoded.
        needed = np.unique(np.concatenate([held_out, *(rows.ravel() for rows in drawn)]))
        self.held_out = np.searchsorted(needed, held_out)
        self.drawn = [np.searchsorted(needed, rows) for rows in drawn]
        self.labels = labels[needed]
        # One list, so that all texts are sorted by length together; those to train on come first.
        self.texts = [examples[i].texts for i in needed] + [example.texts for example in dev]
        # Resuming compares this, as a curve over other examples would mean nothing.
        digests = f"{file_digest(train_file)} {file_digest(dev_file)}"
        self.key = hashlib.sha256(digests.encode()).hexdigest()

    def __call__(self, pool: Pool) -> list[Shot]:
        """The accuracies of an encoder, which pools each text once."""
        vectors = pool(self.texts)
        n = len(self.labels)
        held_out = vectors[self.held_out], self.labels[self.held_out]
        dev = vectors[n:], self.dev_labels
        return sweep(vectors[:n], self.labels, self.drawn, held_out, dev, self.shots, self.select)


def possible_shots(train_file: str, shots: Sequence[int], rarest: int) -> list[int]:
    """Those that the rarest class has enough examples for; UserError where there is none."""
    if skipped := [k for k in shots if k > rarest]:
        warn(
            f"{train_file}: the rarest class has {rarest} examples to draw from; skipped: "
            f"{', '.join(map(str, skipped))} of each class"
        )
    possible = [k for k in shots if k <= rarest]
    if not possible:
        raise UserError(
            f"{train_file} has {rarest} examples of its rarest class beside those held out; "
            f"expected {min(shots)} or more"
        )
    return possible

"""Judging an encoder without training it: a few examples of each class, a linear classifier in
closed form.

    judge = Judge(TASKS["sst2"], "SST-2/train.tsv", "SST-2/dev.tsv")
    for shot in judge(vectors.load("uncased_L-12_H-768_A-12", head="pooler")): print(shot.k, shot.mean)

The protocol of Scenic's BERT: vectors are standardised by the mean and standard deviation of the
examples, a constant is appended, ridge regression to +-1 is solved for every strength. There the
strength is chosen on dev; here on training examples that are held out, unless asked otherwise, and
several fixed draws are made.
"""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from tasks.sentences import Task, find_labels, label_array, read_examples
from utils import UserError, file_digest, note
from vectors import Encoder

Labelled = tuple[np.ndarray, np.ndarray]  # vectors (N, D) and their labels
SHOTS = (1, 5, 10, 25, 100, 500, 1000)  # examples of each class
STRENGTHS = 2.0 ** np.arange(-10, 20)  # of the ridge
HELD_OUT = 1000  # training examples that the strength is chosen on
CONSTANT = 100.0  # appended to every vector


@dataclasses.dataclass(frozen=True)
class Shot:
    """What k examples of each class gave: the accuracy on dev of every draw, and the strength that
    was chosen.
    """

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


def ridge(x: np.ndarray, y: np.ndarray, strengths: Sequence[float] | np.ndarray) -> np.ndarray:
    """(N, D), (N, C) -> (strengths, D, C): argmin |x w - y|^2 + strength |w|^2, all from one
    decomposition.
    """
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
    """Learn from (N, D) vectors and their labels; of each other set, the accuracy at every
    strength.
    """
    x = x.astype(np.float64)
    mean, deviation = x.mean(0), x.std(0)
    weights = ridge(
        standardise(x, mean, deviation),
        2.0 * (labels[:, None] == np.arange(n_classes)) - 1,
        STRENGTHS,
    )
    found = []
    for vectors, right in others:
        scores = (
            standardise(vectors.astype(np.float64), mean, deviation) @ weights
        )  # (strengths, N, C)
        found.append((scores.argmax(2) == right).mean(1))
    return found


def draw(labels: np.ndarray, k: int, seed: int) -> np.ndarray:
    """(classes, k): k examples of each class, a function of the seed; the first of them are those
    of a smaller k.
    """
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(np.flatnonzero(labels == c))[:k] for c in np.unique(labels)])


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
            chosen, on_dev = accuracies(vectors[rows], labels[rows], [held_out, dev], len(drawn))
            best = int((on_dev if select == "dev" else chosen).argmax())
            shot.accuracies.append(float(on_dev[best]))
            shot.strengths.append(float(STRENGTHS[best]))
        results.append(shot)
    return results


class Judge:
    """A task's examples that encoders are judged by; which of them are drawn and held out is fixed."""

    def __init__(
        self,
        task: Task,
        train_file: str,
        dev_file: str,
        shots: Sequence[int] = SHOTS,
        draws: int = 5,
        select: str = "train",
    ):
        examples = read_examples(task, train_file)
        task = find_labels(task, examples) if task.labels == () else task
        if task.labels is None or task.separator:
            raise UserError(f"{task.name} has no classes; few shots are for one label a text")
        dev = read_examples(task, dev_file)
        self.task, self.select = task, select
        labels, self.dev_labels = (
            label_array(task, [e.label for e in part]) for part in (examples, dev)
        )
        order = np.random.default_rng(0).permutation(len(labels))
        held, rest = np.split(order, [min(HELD_OUT, len(order) // 4)])
        counts = np.bincount(labels[rest], minlength=task.n_outputs)
        if skipped := [k for k in shots if k > counts.min()]:
            note(
                f"{train_file}: the rarest class has {counts.min()} examples to draw from; "
                "skipped: "
                f"{', '.join(map(str, skipped))} of each class"
            )
        self.key = hashlib.sha256(
            f"{file_digest(train_file)} {file_digest(dev_file)}".encode()
        ).hexdigest()
        self.shots = [k for k in shots if k <= counts.min()]
        if not self.shots:
            raise UserError(
                f"{train_file} has {counts.min()} examples of its rarest class beside those held "
                "out; expected "
                f"{min(shots)} or more"
            )
        drawn = [rest[draw(labels[rest], max(self.shots), seed)] for seed in range(draws)]
        self.needed = np.unique(np.concatenate([held, *(d.ravel() for d in drawn)]))
        self.held, self.drawn = (
            np.searchsorted(self.needed, held),
            [np.searchsorted(self.needed, d) for d in drawn],
        )
        self.labels, self.examples = (
            labels[self.needed],
            [*(examples[i] for i in self.needed), *dev],
        )

    def __call__(self, encoder: Encoder) -> list[Shot]:
        """The accuracies of an encoder, which runs once over each text."""
        found = encoder.pooled(self.examples, self.task)
        n = len(self.needed)
        return sweep(
            found[:n],
            self.labels,
            self.drawn,
            (found[self.held], self.labels[self.held]),
            (found[n:], self.dev_labels),
            self.shots,
            self.select,
        )

"""How good a classifier is, class by class; how sure that is; and whether another one is better.

print(class_table(("no", "yes"), outcome))          # precision, recall, F1, support
interval("Macro-F1", outcome)                       # (.71, .83)
mcnemar(right_of_one, right_of_other)               # (5, 14, .064)
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tasks.metrics import Counts, Outcome, confusion, measure
from tasks.reports import aligned

DRAWS = 1000  # of a bootstrap
SEED = 0  # of its draws: the same examples have the same interval
LEVEL = 0.95

# ----------------------------------------------------------------------------------- class by class


def class_report(names: Sequence[str], outcome: Outcome) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and support of each class, and their averages.

    As scikit-learn's classification_report: macro, weighted by support, and where a text has
    several labels also micro, over all of them, and samples, over the texts. What is not defined
    is 0.
    """
    counts = Counts.of(outcome.predicted, outcome.labels, len(names))
    columns = np.stack([counts.precision, counts.recall, counts.f1], axis=1)  # (labels, 3)
    report = {
        name: values(row, n) for name, row, n in zip(names, columns, counts.true, strict=True)
    }
    total = int(counts.true.sum())
    if outcome.labels.ndim == 2:
        whole = Counts(*(np.array([column.sum()]) for column in counts))
        report["micro avg"] = values(
            np.concatenate([whole.precision, whole.recall, whole.f1]), total
        )
    report["macro avg"] = values(columns.mean(0), total)
    weights = counts.true / max(total, 1)
    report["weighted avg"] = values(weights @ columns, total)
    if outcome.labels.ndim == 2:
        texts = Counts.of(outcome.predicted.T, outcome.labels.T, len(outcome.labels))
        rows = np.stack([texts.precision, texts.recall, texts.f1], axis=1)
        report["samples avg"] = values(rows.mean(0), total)
    return report


def values(row: np.ndarray, support: int) -> dict[str, float]:
    """A line of the report."""
    precision, recall, f1 = map(float, row)
    return {"precision": precision, "recall": recall, "f1": f1, "support": int(support)}


def class_table(report: dict[str, dict[str, float]]) -> str:
    """The report of each class as text."""
    rows = [["", "precision", "recall", "F1", "support"]]
    for name, found in report.items():
        shares = [f"{found[key]:.4f}" for key in ("precision", "recall", "f1")]
        rows.append([name, *shares, str(found["support"])])
    return aligned(rows)


def suspicion(names: Sequence[str], outcome: Outcome, majority: Outcome, metric: str) -> str:
    """What a user has to know before they trust a model: that it has not learnt; else ""."""
    answers = np.unique(outcome.predicted, axis=0)
    if len(answers) == 1:
        answer = answers[0]
        if outcome.labels.ndim == 1:
            said = repr(names[answer])
        else:
            present = [name for name, has in zip(names, answer, strict=True) if has]
            said = ", ".join(map(repr, present)) or "no label"
        return f"The model answers {said} to all {len(outcome.labels)} texts: it has not learnt."
    ours, theirs = silent(metric, outcome), silent(metric, majority)
    if ours <= theirs:
        return (
            f"The model is no better than always giving the most frequent answer: {metric} "
            f"{ours:.4f}, and {theirs:.4f} of that."
        )
    return ""


def silent(metric: str, outcome: Outcome) -> float:
    """A metric; where it is not defined, 0 without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return measure(metric, outcome)


# ----------------------------------------------------------------------------------- how sure it is


def percentiles(statistic: Callable[[np.ndarray], float], n: int) -> tuple[float, float]:
    """The interval that LEVEL of a statistic's values lie in, over draws of the examples.

    Efron's percentile interval; scipy.stats.bootstrap has it as method="percentile".
    """
    rng = np.random.default_rng(SEED)
    found = [statistic(rng.integers(0, n, n)) for _ in range(DRAWS)]
    low, high = np.percentile(found, [50 * (1 - LEVEL), 100 - 50 * (1 - LEVEL)])
    return float(low), float(high)


def interval(metric: str, outcome: Outcome) -> tuple[float, float]:
    """The 95% interval of a metric, by a bootstrap of the examples."""
    return percentiles(lambda rows: silent(metric, outcome.take(rows)), len(outcome.labels))


def difference(metric: str, one: Outcome, other: Outcome) -> tuple[float, float]:
    """The 95% interval of how much a metric of one model is above that of another.

    Both answer the same examples, which are drawn together.
    """

    def gain(rows: np.ndarray) -> float:
        return silent(metric, one.take(rows)) - silent(metric, other.take(rows))

    return percentiles(gain, len(one.labels))


def mcnemar(one: np.ndarray, other: np.ndarray) -> tuple[int, int, float]:
    """How many of the same examples only the one and only the other has right, and the p-value.

    McNemar's exact test: whether both are right equally often (two-sided binomial).

    Args:
        one, other: (N,) whether each answer is right.
    """
    only_one, only_other = int(np.sum(one & ~other)), int(np.sum(other & ~one))
    n, least = only_one + only_other, min(only_one, only_other)
    # In integers, which grow as they have to: n over k, from one k to the next.
    tail = ways = 1
    for k in range(least):
        ways = ways * (n - k) // (k + 1)
        tail += ways
    return only_one, only_other, min(1.0, 2 * tail / 2**n)


def compare(metric: str, one: Outcome, other: Outcome) -> dict[str, Any]:
    """Two models on the same examples: a metric of each, the difference, and how sure it is."""
    found: dict[str, Any] = {
        "metric": metric,
        "this": silent(metric, one),
        "other": silent(metric, other),
        "difference": silent(metric, one) - silent(metric, other),
        "interval": difference(metric, one, other),
    }
    if one.labels.ndim == 1 and len(one.names):
        right = one.predicted == one.labels, other.predicted == other.labels
        found["only this right"], found["only other right"], found["p"] = mcnemar(*right)
    return found


def calibration(
    probabilities: np.ndarray, labels: np.ndarray, n_bins: int = 10
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How often answers are right that a model is so sure of.

    Guo et al., "On Calibration of Modern Neural Networks" (arXiv 1706.04599).

    Args:
        probabilities: (N, C) probabilities.
        labels: (N,) the right classes.

    Returns:
        Of each bin of the highest probability, n_bins of the same width from 0 to 1: the number of
        examples, their mean probability, and the share of right answers; 0 in an empty bin.
    """
    sure, right = probabilities.max(1), probabilities.argmax(1) == labels
    # A probability of 1 belongs to the last bin.
    bins = np.minimum((sure * n_bins).astype(int), n_bins - 1)
    counts = np.bincount(bins, minlength=n_bins)
    sums = [np.bincount(bins, weights, n_bins) for weights in (sure, right)]
    confidence, accuracy = (total / np.maximum(1, counts) for total in sums)
    return counts, confidence, accuracy


def calibration_error(outcome: Outcome) -> float:
    """How far confidence is from accuracy, on average (expected calibration error).

    Where a text has several labels, each of them is an answer.
    """
    p, labels = outcome.probabilities, outcome.labels
    if labels.ndim == 2:
        p, labels = np.stack([1 - p.ravel(), p.ravel()], axis=1), labels.ravel()
    counts, confidence, accuracy = calibration(p, labels)
    return float(counts @ abs(confidence - accuracy) / counts.sum())


def matrix_of(outcome: Outcome) -> np.ndarray:
    """(labels, labels): how often each label (row) was predicted to be each other (column)."""
    return confusion(outcome.predicted, outcome.labels, len(outcome.names))

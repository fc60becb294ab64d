"""How good predictions are: the metrics of GLUE, each a function of what was predicted and what is
right.

    accuracy(np.array([1, 0]), np.array([1, 1]))                # 0.5

Where a metric is not defined (all predictions the same, say), its value is 0 and a warning says so.
"""

import warnings
from collections.abc import Callable

import numpy as np


def undefined(name: str, why: str) -> float:
    """0, with a warning."""
    warnings.warn(f"{name} is not defined where {why}; 0 is given", RuntimeWarning, stacklevel=3)
    return 0.0


def accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    """The share of predictions that equal their label; of several labels a text, all of them must."""
    same = predicted == labels
    return float(np.mean(same.all(1) if same.ndim == 2 else same))


def f1(predicted: np.ndarray, labels: np.ndarray) -> float:
    """The harmonic mean of precision and recall of label 1; of several labels a text, over all of
    them together.
    """
    both = int(np.sum((predicted == 1) & (labels == 1)))
    total = int(np.sum(predicted == 1) + np.sum(labels == 1))
    return (
        2 * both / total
        if total
        else undefined("F1", "nothing is 1 and nothing is predicted to be")
    )


def matthews(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Matthews' correlation, of any number of labels (Gorodkin 2004): 1 all right, 0 as good as
    chance.
    """
    n = 1 + int(max(predicted.max(initial=0), labels.max(initial=0)))
    table = confusion(predicted, labels, n).astype(np.float64)
    right, total, true, guessed = np.trace(table), table.sum(), table.sum(1), table.sum(0)
    spread = (total**2 - guessed @ guessed) * (total**2 - true @ true)
    if spread == 0:
        return undefined("Matthews' correlation", "all labels or all predictions are the same")
    return float((right * total - true @ guessed) / np.sqrt(spread))


def pearson(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Pearson's correlation of numbers."""
    x, y = (
        values.astype(np.float64) - values.astype(np.float64).mean()
        for values in (predicted, labels)
    )
    x, y = (
        values / np.abs(values).max(initial=0) if values.any() else values for values in (x, y)
    )  # no overflow
    spread = np.sqrt((x @ x) * (y @ y))
    if spread == 0 or np.ptp(predicted) == 0 or np.ptp(labels) == 0:
        return undefined("a correlation", "all labels or all predictions are the same")
    return float(np.clip(x @ y / spread, -1, 1))


def spearman(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Pearson's correlation of the ranks, equal numbers having the mean of theirs."""
    return pearson(ranks(predicted), ranks(labels))


def ranks(values: np.ndarray) -> np.ndarray:
    """The rank of each value, from 1; equal ones share the mean.  [3, 1, 3] -> [2.5, 1, 2.5]"""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[which]


def confusion(predicted: np.ndarray, labels: np.ndarray, n: int) -> np.ndarray:
    """(n, n): how often label (row) was predicted to be (column)."""
    return np.bincount(labels * n + predicted, minlength=n * n).reshape(n, n)


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "Accuracy": accuracy,
    "F1": f1,
    "Matthews": matthews,
    "Pearson": pearson,
    "Spearman": spearman,
}

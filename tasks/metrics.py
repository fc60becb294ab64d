"""The metrics of GLUE and SuperGLUE, each a function of what was predicted and what is right.

    accuracy(np.array([1, 0]), np.array([1, 1]))                # 0.5

Where a metric is not defined (all predictions the same, say), its value is 0 and a warning says so.
"""

import warnings
from collections.abc import Callable

import numpy as np


def undefined(name: str, why: str) -> float:
    """0, with a warning."""
    # stacklevel 3 is whoever called the metric.
    warnings.warn(f"{name} is not defined where {why}; 0 is given", RuntimeWarning, stacklevel=3)
    return 0.0


def accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    """The share of predictions that equal their label; of several labels all of them must."""
    same = predicted == labels
    # (N,), or (N, labels) where a text has several.
    return float(np.mean(same.all(1) if same.ndim == 2 else same))


def f1(predicted: np.ndarray, labels: np.ndarray) -> float:
    """The harmonic mean of precision and recall of label 1; of several labels over all of them."""
    both = int(np.sum((predicted == 1) & (labels == 1)))
    # F1 = 2 TP / (2 TP + FP + FN), and both sums below count TP once.
    total = int(np.sum(predicted == 1) + np.sum(labels == 1))
    if not total:
        return undefined("F1", "nothing is 1 and nothing is predicted to be")
    return 2 * both / total


def macro_f1(predicted: np.ndarray, labels: np.ndarray, n_labels: int) -> float:
    """The mean of the F1 of each label, 0 .. n_labels - 1, however often it occurs."""
    table = confusion(predicted, labels, n_labels)
    # F1 = 2 TP / (2 TP + FP + FN), and row and column of a label count TP once each.
    totals = table.sum(0) + table.sum(1)
    if not totals.all():
        undefined("F1 of a label", "it does not occur and nothing is predicted to be it")
    return float(np.mean(2 * table.diagonal() / np.maximum(totals, 1)))


def exact_match(predicted: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> float:
    """The share of groups whose predictions are all right; `groups` has the id of each row's."""
    wrong = np.unique(groups[predicted != labels])
    n = len(np.unique(groups))
    return (n - len(wrong)) / n


def matthews(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Matthews' correlation of any number of labels: 1 all right, 0 as good as chance.

    Gorodkin, "Comparing two K-category assignments by a K-category correlation coefficient" (2004).
    """
    # A label that occurs in neither counts nothing, so that the largest id is enough.
    n = 1 + int(max(predicted.max(initial=0), labels.max(initial=0)))
    # In float64: a product of four counts overflows 64-bit integers from some 55,000 examples on.
    table = confusion(predicted, labels, n).astype(np.float64)
    right, total, true, guessed = np.trace(table), table.sum(), table.sum(1), table.sum(0)
    spread = (total**2 - guessed @ guessed) * (total**2 - true @ true)
    if spread == 0:
        return undefined("Matthews' correlation", "all labels or all predictions are the same")
    return float((right * total - true @ guessed) / np.sqrt(spread))


def pearson(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Pearson's correlation of numbers."""
    x, y = centred(predicted), centred(labels)
    spread = np.sqrt((x @ x) * (y @ y))
    # The spread of equal numbers may differ from 0 by rounding, so they are compared themselves.
    if spread == 0 or np.ptp(predicted) == 0 or np.ptp(labels) == 0:
        return undefined("a correlation", "all labels or all predictions are the same")
    return float(np.clip(x @ y / spread, -1, 1))


def centred(values: np.ndarray) -> np.ndarray:
    """Numbers less their mean, scaled to 1 at most, so that their squares do not overflow."""
    values = values.astype(np.float64)
    values = values - values.mean()
    return values / np.abs(values).max(initial=0) if values.any() else values


def spearman(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Pearson's correlation of the ranks, equal numbers having the mean of theirs."""
    return pearson(ranks(predicted), ranks(labels))


def ranks(values: np.ndarray) -> np.ndarray:
    """The rank of each value, from 1; equal ones share the mean.  [3, 1, 3] -> [2.5, 1, 2.5]"""
    # `which` tells for each value its place among the sorted different ones.
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[which]


def confusion(predicted: np.ndarray, labels: np.ndarray, n: int) -> np.ndarray:
    """(n, n): how often label (row) was predicted to be (column)."""
    # Pairs of label and prediction as one number each, label * n + prediction, are counted in one
    # pass.
    return np.bincount(labels * n + predicted, minlength=n * n).reshape(n, n)


METRICS: dict[str, Callable[..., float]] = {
    "Accuracy": accuracy,
    "F1": f1,
    "Macro-F1": macro_f1,
    "F1a": f1,
    "EM": exact_match,
    "Matthews": matthews,
    "Pearson": pearson,
    "Spearman": spearman,
}
# What some of them ask for beside predictions and labels.
NEEDS = {
    "Macro-F1": "n_labels",
    "EM": "groups",
}

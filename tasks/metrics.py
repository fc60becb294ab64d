"""Metrics, each a function of what was predicted and what is right.

    accuracy(np.array([1, 0]), np.array([1, 1]))                # 0.5
    measure("AUC", Outcome(predicted, labels, probabilities))   # 0.93

Where a metric is not defined (all predictions the same, say), its value is 0 and a warning says so.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

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
    counts = Counts.of(predicted, labels, n_labels)
    if not (counts.true + counts.predicted).all():
        undefined("F1 of a label", "it does not occur and nothing is predicted to be it")
    return float(np.mean(counts.f1))


def balanced_accuracy(predicted: np.ndarray, labels: np.ndarray, n_labels: int) -> float:
    """The mean, over the labels that occur, of the share of their examples that are right."""
    counts = Counts.of(predicted, labels, n_labels)
    occur = counts.true > 0
    return float(np.mean(counts.right[occur] / counts.true[occur]))


class Counts(NamedTuple):
    """Of each label, (labels,) each: how often it is right, predicted, and true."""

    right: np.ndarray
    predicted: np.ndarray
    true: np.ndarray

    @classmethod
    def of(cls, predicted: np.ndarray, labels: np.ndarray, n_labels: int) -> "Counts":
        """Of ids (N,), or where a text has several labels of 0 and 1 (N, labels)."""
        if labels.ndim == 2:
            both = (predicted == 1) & (labels == 1)
            return cls(both.sum(0), (predicted == 1).sum(0), (labels == 1).sum(0))
        table = confusion(predicted, labels, n_labels)
        return cls(table.diagonal(), table.sum(0), table.sum(1))

    @property
    def precision(self) -> np.ndarray:
        """The share of predictions that are right; 0 where there is none."""
        return self.right / np.maximum(self.predicted, 1)

    @property
    def recall(self) -> np.ndarray:
        """The share of true ones that are found; 0 where there is none."""
        return self.right / np.maximum(self.true, 1)

    @property
    def f1(self) -> np.ndarray:
        """2 TP / (2 TP + FP + FN); 0 where nothing is true or predicted."""
        return 2 * self.right / np.maximum(self.true + self.predicted, 1)


def auc(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The area under the ROC curve: of two labels that of label 1, of more the mean of each's.

    The probability that a true example has a higher score than another; equal ones count half.
    """
    return mean_of_labels("AUC", area, probabilities, labels)


def average_precision(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The precision at each true example, averaged; of more than two labels the mean of each's."""
    return mean_of_labels("Average precision", precision_area, probabilities, labels)


def mean_of_labels(
    name: str,
    curve: Callable[[np.ndarray, np.ndarray], float],
    probabilities: np.ndarray,
    labels: np.ndarray,
) -> float:
    """The mean of a curve over the labels that some examples have and others have not."""
    n_labels = probabilities.shape[1]
    truth = labels if labels.ndim == 2 else labels[:, None] == np.arange(n_labels)
    columns = [1] if labels.ndim == 1 and n_labels == 2 else range(n_labels)
    found = [
        curve(probabilities[:, i], truth[:, i] == 1)
        for i in columns
        if 0 < np.sum(truth[:, i] == 1) < len(truth)
    ]
    if not found:
        return undefined(name, "all labels are the same")
    return float(np.mean(found))


def area(scores: np.ndarray, truth: np.ndarray) -> float:
    """The area under the ROC curve of one label, by Mann and Whitney's sum of ranks."""
    n_true = int(truth.sum())
    above = ranks(scores)[truth].sum() - n_true * (n_true + 1) / 2
    return float(above / (n_true * (len(truth) - n_true)))


def precision_area(scores: np.ndarray, truth: np.ndarray) -> float:
    """The average precision of one label: the sum of precision times the gain of recall."""
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(truth[order])
    # Equal scores are told apart by nothing: they come in together.
    last = np.append(np.diff(scores[order]) != 0, True)
    right, n = right[last], (1 + np.arange(len(scores)))[last]
    return float(np.sum(np.diff(right, prepend=0) / right[-1] * right / n))


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


def mean_absolute_error(predicted: np.ndarray, labels: np.ndarray) -> float:
    """The mean distance of numbers."""
    return float(np.mean(np.abs(predicted.astype(np.float64) - labels)))


def root_mean_squared_error(predicted: np.ndarray, labels: np.ndarray) -> float:
    """The root of the mean squared distance of numbers."""
    return float(np.sqrt(np.mean((predicted.astype(np.float64) - labels) ** 2)))


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
    "Balanced accuracy": balanced_accuracy,
    "AUC": auc,
    "Average precision": average_precision,
    "F1a": f1,
    "EM": exact_match,
    "Matthews": matthews,
    "Pearson": pearson,
    "Spearman": spearman,
    "MAE": mean_absolute_error,
    "RMSE": root_mean_squared_error,
}
# What some of them ask for beside predictions and labels.
NEEDS = {
    "Macro-F1": "n_labels",
    "Balanced accuracy": "n_labels",
    "EM": "groups",
}
OF_PROBABILITIES = ("AUC", "Average precision")  # in place of predictions
OF_NUMBERS = ("Pearson", "Spearman", "MAE", "RMSE")
OF_SEVERAL = ("F1", "Accuracy", "Macro-F1", "AUC", "Average precision")  # where a text has several
OF_LABELS = tuple(name for name in METRICS if name not in (*OF_NUMBERS, "F1a", "EM"))
ONE_LABEL = "F1:"  # F1 of a label: F1:complaint


class Outcome(NamedTuple):
    """What was predicted of some examples, and what is right."""

    predicted: np.ndarray  # (N,) ids or numbers, or (N, labels) of 0 and 1
    labels: np.ndarray  # likewise
    probabilities: np.ndarray  # (N, labels); of numbers none
    names: tuple[str, ...]  # of the labels
    groups: np.ndarray  # (N,) the same id for the answers to one question

    @classmethod
    def together(cls, parts: Sequence["Outcome"]) -> "Outcome":
        """Those of several sets of examples."""
        predicted, labels, probabilities = (
            np.concatenate([part[i] for part in parts]) for i in range(3)
        )
        return cls(predicted, labels, probabilities, parts[0].names, np.arange(len(labels)))

    def take(self, rows: np.ndarray) -> "Outcome":
        """Those of some examples."""
        probabilities = self.probabilities[rows] if len(self.probabilities) else self.probabilities
        return self._replace(
            predicted=self.predicted[rows],
            labels=self.labels[rows],
            probabilities=probabilities,
            groups=self.groups[rows],
        )


def measure(name: str, outcome: Outcome) -> float:
    """A metric of METRICS, or the F1 of a label, `F1:label`."""
    if name in OF_PROBABILITIES:
        return METRICS[name](outcome.probabilities, outcome.labels)
    if name not in METRICS:
        label = outcome.names.index(name.removeprefix(ONE_LABEL))
        counts = Counts.of(outcome.predicted, outcome.labels, len(outcome.names))
        return float(counts.f1[label])
    known = {"n_labels": len(outcome.names), "groups": outcome.groups}
    more = {NEEDS[name]: known[NEEDS[name]]} if name in NEEDS else {}
    return METRICS[name](outcome.predicted, outcome.labels, **more)

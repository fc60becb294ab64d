"""Metrics against scikit-learn and scipy, on random and on degenerate input."""

import warnings

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from tasks.metrics import (
    METRICS,
    accuracy,
    confusion,
    exact_match,
    f1,
    macro_f1,
    matthews,
    pearson,
    ranks,
    spearman,
)


@pytest.mark.parametrize("seed", range(20))
def test_metrics_equal_scikit_learn_and_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, labels = rng.integers(2, 300), rng.integers(2, 5)
    predicted, right = rng.integers(0, labels, (2, n))
    exact = pytest.approx
    assert accuracy(predicted, right) == exact(
        sklearn.metrics.accuracy_score(right, predicted), abs=1e-12
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert matthews(predicted, right) == exact(
            sklearn.metrics.matthews_corrcoef(right, predicted), abs=1e-12
        )
        binary = sklearn.metrics.f1_score(right == 1, predicted == 1, zero_division=0)
        assert f1(predicted, right) == exact(binary, abs=1e-12)
        # Two labels more than occur: they count, with an F1 of 0.
        for n_labels in (labels, labels + 2):
            macro = sklearn.metrics.f1_score(
                right, predicted, labels=range(n_labels), average="macro", zero_division=0
            )
            assert macro_f1(predicted, right, n_labels) == exact(macro, abs=1e-12)
    table = sklearn.metrics.confusion_matrix(right, predicted, labels=range(labels))
    assert confusion(predicted, right, labels).tolist() == table.tolist()
    x, y = rng.normal(size=n), rng.integers(0, 6, n) * 10.0 ** rng.integers(-9, 9)
    if n > 2:
        assert pearson(x, y) == exact(scipy.stats.pearsonr(x, y)[0], abs=1e-12)
        assert spearman(x, y) == exact(scipy.stats.spearmanr(x, y)[0], abs=1e-12)
    assert ranks(y).tolist() == scipy.stats.rankdata(y).tolist()
    several, true = rng.integers(0, 2, (2, n, 3))
    assert accuracy(several, true) == exact(
        sklearn.metrics.accuracy_score(true, several), abs=1e-12
    )
    micro = sklearn.metrics.f1_score(true, several, average="micro", zero_division=0)
    assert f1(several, true) == exact(micro, abs=1e-12)


@pytest.mark.parametrize(
    ("metric", "predicted", "labels"),
    [
        ("F1", [0, 0], [0, 0]),
        ("Matthews", [1, 1, 1], [0, 1, 1]),
        ("Matthews", [0, 1], [1, 1]),
        ("Matthews", [0], [0]),
        ("Pearson", [2.0, 2.0, 2.0], [1.0, 2.0, 3.0]),
        ("Pearson", [0.1] * 3, [1.0, 2.0, 3.0]),
        ("Spearman", [1.0, 2.0], [3.0, 3.0]),
    ],
)
def test_what_is_not_defined_is_zero_with_a_warning(
    metric: str, predicted: list, labels: list
) -> None:
    with pytest.warns(RuntimeWarning, match="not defined"):
        assert METRICS[metric](np.array(predicted), np.array(labels)) == 0.0


def test_a_group_is_right_where_all_of_its_rows_are() -> None:
    predicted, labels = np.array([1, 0, 1, 1, 0]), np.array([1, 0, 0, 1, 0])
    # Rows 0 and 3 are right, and rows 1 and 4; row 2, alone in its group, is wrong.
    assert exact_match(predicted, labels, np.array([7, 3, 9, 7, 3])) == 2 / 3
    assert exact_match(predicted, labels, np.arange(5)) == accuracy(predicted, labels) == 0.8
    assert exact_match(predicted, labels, np.zeros(5, int)) == 0


def test_a_label_that_is_nowhere_counts_zero_in_macro_f1_with_a_warning() -> None:
    labels = np.array([0, 0, 1, 1])
    assert macro_f1(labels, labels, 2) == 1
    with pytest.warns(RuntimeWarning, match="F1 of a label is not defined"):
        assert METRICS["Macro-F1"](labels, labels, n_labels=3) == pytest.approx(2 / 3)

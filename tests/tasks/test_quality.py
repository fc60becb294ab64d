"""Quality by class, intervals, tests and thresholds against scikit-learn, scipy and statsmodels."""

import warnings

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
import sklearn.metrics
import sklearn.utils.class_weight
import statsmodels.stats.contingency_tables

from tasks import TASKS, decisions, own_task, quality
from tasks.metrics import Counts, Outcome, measure
from utils import UserError

NAMES = ("a", "b", "c", "d", "e")


def outcome_of(seed: int, several: bool = False) -> Outcome:
    """Random answers; some labels may be absent, and some scores equal."""
    rng = np.random.default_rng(seed)
    n, n_labels = int(rng.integers(2, 120)), int(rng.integers(2, 6))
    scores = rng.normal(size=(n, n_labels)).round(int(rng.integers(0, 4)))
    p = decisions.probabilities(scores, several)
    if several:
        labels = (rng.random((n, n_labels)) < rng.random(n_labels) * 0.6).astype(np.int64)
        return Outcome((p > 0.5).astype(int), labels, p, NAMES[:n_labels], np.arange(n))
    # Some of the labels occur.
    known = rng.choice(n_labels, int(rng.integers(1, n_labels + 1)), replace=False)
    labels = rng.choice(known, n)
    return Outcome(p.argmax(1), labels, p, NAMES[:n_labels], np.arange(n))


@pytest.mark.parametrize("several", [False, True])
def test_the_report_is_scikit_learn_s_on_500_sets(several: bool) -> None:
    for seed in range(500):
        outcome = outcome_of(seed, several)
        expected = sklearn.metrics.classification_report(
            outcome.labels,
            outcome.predicted,
            labels=range(len(outcome.names)),
            target_names=outcome.names,
            output_dict=True,
            zero_division=0,
        )
        found = quality.class_report(outcome.names, outcome)
        # The micro average of one label a text is the accuracy, which scikit-learn names so.
        expected.pop("accuracy", None)
        if not several:
            expected.pop("micro avg", None)
        assert found.keys() == expected.keys()
        for name, row in expected.items():
            ours = list(found[name].values())
            theirs = [row[k] for k in ("precision", "recall", "f1-score", "support")]
            assert ours == pytest.approx(theirs, abs=1e-12), (seed, name)


@pytest.mark.parametrize("several", [False, True])
def test_auc_and_average_precision_are_scikit_learn_s_on_500_sets(several: bool) -> None:
    defined = 0
    for seed in range(500):
        outcome = outcome_of(seed, several)
        truth = outcome.labels
        if not several:
            truth = (outcome.labels[:, None] == np.arange(len(outcome.names))).astype(int)
        columns = range(truth.shape[1]) if several or truth.shape[1] > 2 else [1]
        for name, theirs in (
            ("AUC", sklearn.metrics.roc_auc_score),
            ("Average precision", sklearn.metrics.average_precision_score),
        ):
            # Of a label that all or none have neither is defined.
            expected = [
                theirs(truth[:, i], outcome.probabilities[:, i])
                for i in columns
                if 0 < truth[:, i].sum() < len(truth)
            ]
            if not expected:
                with pytest.warns(RuntimeWarning, match="all labels are the same"):
                    assert measure(name, outcome) == 0
                continue
            defined += 1
            assert measure(name, outcome) == pytest.approx(np.mean(expected), abs=1e-12)
    assert defined > 600


def test_other_metrics_are_scikit_learn_s() -> None:
    for seed in range(200):
        outcome = outcome_of(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = sklearn.metrics.balanced_accuracy_score(outcome.labels, outcome.predicted)
            f1 = sklearn.metrics.f1_score(outcome.labels == 1, outcome.predicted == 1)
        assert measure("Balanced accuracy", outcome) == pytest.approx(expected, abs=1e-12)
        assert measure("F1:b", outcome) == pytest.approx(f1, abs=1e-12)
        several = outcome_of(seed, several=True)
        expected = sklearn.metrics.f1_score(
            several.labels, several.predicted, average="macro", zero_division=0
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert measure("Macro-F1", several) == pytest.approx(expected, abs=1e-12)
        x, y = np.random.default_rng(seed).normal(size=(2, 30))
        numbers = Outcome(x, y, np.zeros(0), (), np.arange(30))
        assert measure("MAE", numbers) == pytest.approx(
            sklearn.metrics.mean_absolute_error(y, x), abs=1e-12
        )
        assert measure("RMSE", numbers) == pytest.approx(
            sklearn.metrics.root_mean_squared_error(y, x), abs=1e-12
        )


def test_the_interval_is_scipy_s_bootstrap_with_the_same_draws() -> None:
    for seed in range(100):
        outcome = outcome_of(seed)
        n = len(outcome.labels)

        def accuracy(rows: np.ndarray, outcome: Outcome = outcome) -> float:
            return measure("Accuracy", outcome.take(rows))

        expected = scipy.stats.bootstrap(
            (np.arange(n),),
            accuracy,
            n_resamples=quality.DRAWS,
            vectorized=False,
            method="percentile",
            rng=np.random.default_rng(quality.SEED),
        ).confidence_interval
        assert quality.interval("Accuracy", outcome) == pytest.approx(tuple(expected), abs=1e-12)


def test_mcnemar_is_statsmodels_s() -> None:
    rng = np.random.default_rng(1)
    for _ in range(100):
        n, p = rng.integers(1, 400), rng.random(2)
        one, other = rng.random((2, n)) < p[:, None]
        table = [
            [np.sum(one & other), np.sum(one & ~other)],
            [np.sum(~one & other), np.sum(~one & ~other)],
        ]
        expected = statsmodels.stats.contingency_tables.mcnemar(table, exact=True).pvalue
        only_one, only_other, found = quality.mcnemar(one, other)
        assert [only_one, only_other] == [table[0][1], table[1][0]]
        assert found == pytest.approx(expected, abs=1e-12)


def test_two_models_are_compared_on_the_same_draws() -> None:
    one = outcome_of(3)
    found = quality.compare("Accuracy", one, one)
    assert (found["difference"], found["interval"], found["p"]) == (0, (0, 0), 1)
    worse = one._replace(predicted=(one.predicted + 1) % len(one.names))
    found = quality.compare("Accuracy", one, worse)
    assert found["difference"] == pytest.approx(measure("Accuracy", one) - found["other"])
    assert found["interval"][0] <= found["difference"] <= found["interval"][1]


def test_balanced_weights_are_scikit_learn_s() -> None:
    for seed in range(500):
        labels = outcome_of(seed).labels
        present = np.unique(labels)
        expected = sklearn.utils.class_weight.compute_class_weight(
            "balanced", classes=present, y=labels
        )
        found = np.array(decisions.balanced_weights(labels, 6))
        assert found[present] == pytest.approx(expected, abs=1e-12)
        assert (np.delete(found, present) == 1).all()
    # 9 of 12 texts lack the first label.
    several = np.array([[1, 1]] * 3 + [[0, 1]] * 3 + [[0, 0]] * 6)
    assert decisions.balanced_weights(several, 2) == [3, 1]


@pytest.mark.parametrize("several", [False, True])
def test_the_temperature_has_the_least_cross_entropy(several: bool) -> None:
    rng = np.random.default_rng(5)
    scores = 4 * rng.normal(size=(300, 3))
    p = decisions.probabilities(scores / 3, several)
    labels = (
        (rng.random(p.shape) < p).astype(int)
        if several
        else np.array([rng.choice(3, p=row) for row in p])
    )
    truth = labels if several else np.eye(3)[labels]

    def loss(t: float) -> float:
        z = scores / t
        if several:
            return float(np.sum(np.logaddexp(0, z) - truth * z))
        return float(np.sum(scipy.special.logsumexp(z, axis=1) - (truth * z).sum(1)))

    found = decisions.temperature(scores, labels)
    best = scipy.optimize.minimize_scalar(loss, bounds=(0.1, 20), method="bounded").x
    assert found == pytest.approx(best, rel=1e-4)
    # It was 3, that the labels were drawn by.
    assert 2 < found < 4
    # What was over-confident is not any more.
    outcomes = [
        Outcome(labels, labels, decisions.probabilities(scores, several, t), NAMES[:3], labels)
        for t in (1.0, found)
    ]
    before, after = map(quality.calibration_error, outcomes)
    assert after < before / 2


def test_calibration_error_by_hand() -> None:
    p = np.array([[0.95, 0.05], [0.91, 0.09], [0.35, 0.65], [0.4, 0.6]])
    outcome = Outcome(p.argmax(1), np.array([0, 1, 1, 1]), p, ("a", "b"), np.arange(4))
    # Bins: .91 and .95, one of two right; .6 and .65, both right.
    expected = abs(0.95 + 0.91 - 1) / 4 + abs(0.6 + 0.65 - 2) / 4
    assert quality.calibration_error(outcome) == pytest.approx(expected, abs=1e-12)


def test_thresholds_of_several_labels_have_the_largest_f1() -> None:
    for seed in range(50):
        outcome = outcome_of(seed, several=True)
        p, labels = outcome.probabilities, outcome.labels
        chosen = decisions.best_thresholds(p, labels)
        found = Counts.of((p >= np.array(chosen)).astype(int), labels, 0).f1
        for i in range(p.shape[1]):
            # Any other threshold gives one of these sets.
            cuts = [0.0, *np.unique(p[:, i])]
            others = [
                sklearn.metrics.f1_score(labels[:, i], p[:, i] >= cut, zero_division=0)
                for cut in cuts
            ]
            if labels[:, i].any():
                assert found[i] == pytest.approx(max(others), abs=1e-12)
            else:
                assert chosen[i] == 0.5


def test_an_answer_is_left_unsaid_where_it_is_more_often_wrong() -> None:
    for seed in range(50):
        outcome = outcome_of(seed)
        p, labels = outcome.probabilities, outcome.labels
        confidence, right = p.max(1), p.argmax(1) == labels

        def gain(t: float, confidence=confidence, right=right) -> int:
            said = confidence >= t
            return int(right[said].sum() - (~right[said]).sum())

        chosen = decisions.confidence_threshold(p, labels)
        assert gain(chosen) == max(gain(t) for t in [0, *confidence])
    task = own_task(TASKS["csv"], labels="no,yes", threshold=0.8)
    scores = np.log(np.array([[0.9, 0.1], [0.3, 0.7], [0.2, 0.8 + 1e-9]]))

    class Given:
        class features:
            @staticmethod
            def of_examples(outputs: np.ndarray) -> np.ndarray:
                return outputs

    assert [a.answer for a in task.answers(Given, scores)] == ["no", "", "yes"]


def test_a_model_that_has_not_learnt_is_told() -> None:
    labels = np.array([0] * 9 + [1])
    even = np.full((10, 2), 0.5)
    same = Outcome(np.zeros(10, int), labels, even, ("neg", "pos"), np.arange(10))
    told = quality.suspicion(same.names, same, same, "Accuracy")
    assert told == "The model answers 'neg' to all 10 texts: it has not learnt."
    worse = same._replace(predicted=np.array([1] + [0] * 9))
    told = quality.suspicion(same.names, worse, same, "Accuracy")
    assert told.startswith("The model is no better than always giving the most frequent answer")
    right = same._replace(predicted=labels)
    assert quality.suspicion(same.names, right, same, "Accuracy") == ""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"labels": "number", "threshold": 0.5}, "are for labels, not numbers"),
        ({"labels": "number", "class_weights": "balanced"}, "are for labels, not numbers"),
        ({"labels": "a,b", "class_weights": "1,2,3"}, "has 3 numbers; expected 2, one for each"),
        ({"labels": "a,b", "class_weights": "heavy"}, "expected balanced, or a number for each"),
        ({"labels": "a,b", "class_weights": "0,1"}, "have to be above 0"),
        ({"labels": "a,b", "threshold": 1.5}, r"threshold=\[1.5\]; expected 0 to 1"),
        ({"labels": "a,b", "metrics": "Pearson"}, "'Pearson' is no metric of a, b; expected some"),
        ({"labels": "a,b", "metrics": "F1:c"}, "'F1:c' is no metric of a, b; .* or F1:LABEL"),
        ({"labels": "number", "metrics": "AUC"}, "'AUC' is no metric of a number; expected some"),
        ({"labels": "a,b", "separator": ";", "metrics": "Matthews"}, "'Matthews' is no metric"),
    ],
)
def test_what_cannot_be_meant_is_refused(given: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        own_task(TASKS["csv"], **given)


def test_metrics_go_by_any_case() -> None:
    task = own_task(TASKS["csv"], labels="a,b", metrics="macro-f1, auc,F1:b")
    assert task.metric_names == ("Macro-F1", "AUC", "F1:b")

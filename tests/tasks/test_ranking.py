"""Rankings: the metrics of trec_eval, and the nearest vectors of a plain sort."""

import collections

import numpy as np
import pytest

from tasks import bitext, nearest, ranking
from tasks.nearest import clusters, hard_negatives, search
from utils import UserError

NAMES = {"nDCG@10": "ndcg_cut_10", "MAP": "map", "recall@100": "recall_100"}


def test_metrics_are_trec_evals_ties_and_absent_texts_included() -> None:
    pytrec_eval = pytest.importorskip("pytrec_eval")
    rng = np.random.default_rng(0)
    n_ties = 0
    for _ in range(500):
        n_texts = int(rng.integers(3, 150))
        names = [f"d{i}" for i in rng.permutation(n_texts)]
        scores, grades = {}, {}
        for query in (f"q{i}" for i in range(int(rng.integers(1, 4)))):
            some = rng.choice(names, int(rng.integers(1, n_texts + 1)), replace=False)
            # Few different values: many ties.
            scores[query] = {str(n): float(rng.integers(0, 9)) / 3 for n in some}
            n_ties += len(some) - len(set(scores[query].values()))
            judged = rng.choice(names, int(rng.integers(1, min(20, n_texts) + 1)), replace=False)
            grades[query] = {str(name): int(rng.integers(-1, 4)) for name in judged}
            grades[query][str(judged[0])] = 1
        found = ranking.measure(scores, grades)
        judge = pytrec_eval.RelevanceEvaluator(grades, {*NAMES.values(), "recip_rank"})
        theirs = judge.evaluate(scores).values()
        for name, their_name in NAMES.items():
            expected = np.mean([one[their_name] for one in theirs])
            assert found[name] == pytest.approx(expected, abs=1e-12), name
        # 1 / rank, where that is 10 at most.
        ranks = [one["recip_rank"] for one in theirs]
        expected = np.mean([rank if rank >= 0.1 else 0.0 for rank in ranks])
        assert found["MRR@10"] == pytest.approx(expected, abs=1e-12)
    assert n_ties > 10_000


def test_a_query_that_no_text_fits_is_left_out_and_one_without_a_score_is_not() -> None:
    grades = {"a": {"x": 1}, "b": {"x": 0}, "c": {"y": 2}}
    found = ranking.measure({"a": {"x": 1.0}}, grades)
    assert found == dict.fromkeys(ranking.METRICS, 0.5)


@pytest.mark.parametrize("k", [1, 7, 64, 500, 5000])
def test_the_nearest_are_those_of_a_sort_ties_in_order(
    k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, "BLOCK", 64)
    monkeypatch.setattr(nearest, "CHUNK", 16)
    monkeypatch.setattr(nearest, "MOST_QUERIES", 5)
    rng = np.random.default_rng(1)
    vectors = rng.integers(-2, 3, (1000, 4)).astype(np.float32)
    queries = rng.integers(-2, 3, (12, 4)).astype(np.float32)
    places, scores = search(vectors, queries, k)
    products = queries @ vectors.T
    for row, values, product in zip(places, scores, products, strict=True):
        expected = sorted(range(1000), key=lambda i: (-product[i], i))[:k]
        assert row.tolist() == expected
        assert values.tolist() == product[expected].tolist()


def test_no_query_and_no_vector_give_no_answer_and_a_nan_is_refused() -> None:
    vectors = np.ones((3, 2), np.float32)
    assert search(vectors, vectors[:0], 2)[0].shape == (0, 2)
    assert search(vectors[:0], vectors, 2)[0].shape == (3, 0)
    with pytest.raises(UserError, match="same width"):
        search(vectors, np.ones((1, 3), np.float32), 1)
    bad = vectors.copy()
    bad[1, 0] = np.nan
    for one, other in ((bad, vectors), (vectors, bad)):
        with pytest.raises(UserError, match="no numbers"):
            search(one, other, 2)


def test_hard_negatives_are_near_and_do_not_fit() -> None:
    # Text i has the cosine 1 - i / 100 with the only query.
    cosines = 1 - np.arange(100) / 100
    vectors = np.stack([cosines, np.sqrt(1 - cosines**2)], 1).astype(np.float32)
    query = np.array([[1, 0]], np.float32)
    # Ranks 10 to 50 are the texts 9 to 49; 12 fits, and those up to 20 are too near to the right.
    (found,) = hard_negatives(vectors, query, np.array([0]), [{0, 12}], 0.0, 5)
    assert found == [9, 10, 11, 13, 14]
    (found,) = hard_negatives(vectors, query, np.array([0]), [{0, 12}], 0.205, 3)
    assert found == [21, 22, 23]
    (found,) = hard_negatives(vectors, query, np.array([0]), [{0}], 0.9, 3)
    assert found == []


def test_margins_and_their_f1_are_those_of_loops() -> None:
    rng = np.random.default_rng(4)
    texts = rng.normal(size=(40, 8)).astype(np.float32)
    queries = (texts[:30] + rng.normal(0, 0.7, (30, 8))).astype(np.float32)
    texts, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (texts, queries))
    cosines = queries @ texts.T
    places, margins = bitext.best_margins(queries, texts, k=3)
    for i, row in enumerate(cosines):
        usual = [
            (sum(sorted(row)[-3:]) / 6 + sum(sorted(cosines[:, j])[-3:]) / 6) for j in range(40)
        ]
        expected = [c / u for c, u in zip(row, usual, strict=True)]
        assert places[i] == int(np.argmax(expected))
        assert margins[i] == pytest.approx(max(expected), abs=1e-5)
    # Five queries have no translation.
    gold = {i: {i} for i in range(25)}
    f1, threshold = bitext.best_f1(places, margins, gold)
    scores = []
    for least in margins:
        taken = [i for i in range(30) if margins[i] >= least]
        right = sum(places[i] in gold.get(i, ()) for i in taken)
        precision, recall = right / len(taken), right / 25
        scores.append(2 * precision * recall / (precision + recall) if right else 0)
    assert f1 == pytest.approx(max(scores), abs=1e-12)
    assert threshold in margins
    assert 0.5 < f1 < 1


def test_groups_are_those_that_the_vectors_form() -> None:
    rng = np.random.default_rng(2)
    centres = np.eye(6, dtype=np.float32)
    truth = rng.integers(0, 6, 300)
    vectors = centres[truth] + rng.normal(0, 0.1, (300, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    groups, found = clusters(vectors, 6, seed=1)
    assert len({(g, t) for g, t in zip(groups.tolist(), truth.tolist(), strict=True)}) == 6
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    again = clusters(vectors, 6, seed=1)[0]
    assert (again == groups).all()
    # Equal vectors, more groups than there are different ones.
    groups, _ = clusters(np.ones((5, 2), np.float32) / np.sqrt(2).astype(np.float32), 3, seed=0)
    assert collections.Counter(groups.tolist()).total() == 5
    with pytest.raises(UserError, match="expected 1 to 5"):
        clusters(np.ones((5, 2), np.float32), 6, seed=0)

"""Rankings judged as trec_eval judges them, and cosines as STS benchmark does.

measure({"q": {"a": .9, "b": .2}}, {"q": {"b": 1}})     # {"nDCG@10": .63, "MRR@10": .5, ...}
"""

from collections.abc import Mapping, Sequence

import numpy as np

METRICS = ("nDCG@10", "MRR@10", "MAP", "recall@100")
DEPTH = 1000  # texts of a query that are ranked at most

Scores = Mapping[str, Mapping[str, float]]
Grades = Mapping[str, Mapping[str, float]]


def order(scores: Mapping[str, float]) -> list[str]:
    """The ids, the highest score first; of equal ones, in float32, the last id first."""
    by_id = sorted(scores, reverse=True)
    return sorted(by_id, key=lambda name: -np.float32(scores[name]))


def measure(scores: Scores, grades: Grades) -> dict[str, float]:
    """The mean of each metric over the queries that some text fits, one without a score too.

    nDCG's gain is the grade itself, its discount log2(rank + 1); a grade of 0 or less fits not.

    Args:
        scores: of a query's texts.
        grades: of texts that were judged.
    """
    found = [
        judge([grades[query].get(name, 0) for name in order(scores.get(query, {}))], fits)
        for query in grades
        if (fits := [grade for grade in grades[query].values() if grade > 0])
    ]
    return dict(zip(METRICS, np.mean(found, axis=0).tolist(), strict=True))


def judge(ranked: Sequence[float], fits: Sequence[float]) -> tuple[float, float, float, float]:
    """METRICS of a query.

    Args:
        ranked: the grades of its texts, in their order.
        fits: all grades above 0 that it has.
    """
    best = sorted(fits, reverse=True)
    places = [i for i, grade in enumerate(ranked, start=1) if grade > 0]
    precisions = [n / place for n, place in enumerate(places, start=1)]
    first = places[0] if places else np.inf
    return (
        gain(ranked[:10]) / gain(best[:10]),
        1 / first if first <= 10 else 0.0,
        sum(precisions) / len(fits),
        sum(place <= 100 for place in places) / len(fits),
    )


def gain(grades: Sequence[float]) -> float:
    """The discounted cumulative gain of some grades in order."""
    return float(sum(max(g, 0) / np.log2(i + 1) for i, g in enumerate(grades, start=1)))

"""Sentences and their translations, found by their vectors: XTREME's Tatoeba and BUCC.

    places, margins = best_margins(german, english)     # (N,) x 2
    np.mean(places == np.arange(len(places)))           # of Tatoeba: accuracy
    f1, threshold = best_f1(places, margins, gold)      # of BUCC

A margin is a cosine divided by what is usual around the two texts (Artetxe and Schwenk,
"Margin-based Parallel Corpus Mining", 2019), so that texts that are near everything win less.
"""

import numpy as np

from tasks.nearest import search

NEIGHBOURS = 4
BLOCK = 1024  # queries that are compared at once


def best_margins(
    queries: np.ndarray, texts: np.ndarray, k: int = NEIGHBOURS
) -> tuple[np.ndarray, np.ndarray]:
    """(N,) the text whose margin with each query is the largest, and (N,) that margin.

    Args:
        queries: (N, D) at length 1.
        texts: (M, D) at length 1.
        k: how many nearest neighbours of a text tell what is usual around it.
    """
    around_queries = search(texts, queries, k)[1].mean(1)
    around_texts = search(queries, texts, k)[1].mean(1)
    places, margins = [], []
    for i in range(0, len(queries), BLOCK):
        usual = (around_queries[i : i + BLOCK, None] + around_texts) / 2
        found = queries[i : i + BLOCK] @ texts.T / usual
        places.append(found.argmax(1))
        margins.append(found.max(1))
    return np.concatenate(places), np.concatenate(margins)


def best_f1(
    places: np.ndarray, margins: np.ndarray, gold: dict[int, set[int]]
) -> tuple[float, float]:
    """The F1 of the pairs whose margin is at least a threshold, at the best one; and that.

    Args:
        gold: the texts that are translations of a query, by its number; others have none.
    """
    order = np.argsort(-margins, kind="stable")
    right = np.array([places[i] in gold.get(int(i), ()) for i in order])
    n_right, n_gold = right.cumsum(), sum(map(len, gold.values()))
    # Precision is n_right / n, recall n_right / n_gold.
    found = 2 * n_right / (np.arange(1, len(order) + 1) + n_gold)
    best = int(found.argmax())
    return float(found[best]), float(margins[order[best]])

"""The nearest of many vectors, exactly, without an index; hard negatives; groups of vectors.

    places, scores = search(vectors, queries, k=10)     # (Q, k) x 2, the nearest first
    groups, centres = clusters(vectors, 20, seed=42)

Vectors may be mapped from the disk: a block of them is in memory at a time.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from system.packages import needs
from utils import UserError

BLOCK = 16_384  # vectors that are compared at once
CHUNK = 128  # of these, whose largest product is looked at first
MOST_QUERIES = 1024  # at once
FIRST_RANK, LAST_RANK = 10, 50  # between which texts are hard, and seldom right ones


def search(vectors: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(Q, k) the places of the largest products of each query, and (Q, k) these, largest first.

    Of equal products the first place comes first. Of vectors of length 1 products are cosines.

    Args:
        vectors: (N, D) float32, in memory or mapped.
        queries: (Q, D) float32
        k: how many of each; all where there are fewer.
    """
    if vectors.ndim != 2 or queries.ndim != 2 or vectors.shape[1] != queries.shape[1]:
        raise UserError(
            f"vectors of shape {vectors.shape} and queries of shape {queries.shape}; expected two "
            "dimensions, and the same width"
        )
    k = min(k, len(vectors))
    if not k or not len(queries):
        return np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
    if not np.isfinite(queries).all():
        raise UserError("queries have elements that are no numbers (NaN or infinite)")
    parts = [
        search_some(
            vectors, torch.from_numpy(np.ascontiguousarray(queries[i : i + MOST_QUERIES])), k
        )
        for i in range(0, len(queries), MOST_QUERIES)
    ]
    places, scores = zip(*parts, strict=True)
    return np.concatenate(places), np.concatenate(scores)


@torch.inference_mode()
def search_some(vectors: np.ndarray, queries: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """search() of as many queries as fit into memory with a block."""
    n, size = len(queries), max(BLOCK, -(-k // CHUNK) * CHUNK)
    rows, places, best = np.empty(0, int), np.empty(0, int), np.empty(0, np.float32)
    least = None  # (Q,) the smallest of the k best so far
    for start in range(0, len(vectors), size):
        block = torch.from_numpy(np.ascontiguousarray(vectors[start : start + size]))
        scores = queries @ block.T  # (Q, block)
        row, at, found = larger(scores, least, k)
        rows = np.concatenate([rows, row])
        places = np.concatenate([places, at + start])
        best = np.concatenate([best, found])
        # Each query's own together, its largest first, of equal ones the first place first.
        order = np.lexsort((places, -best, rows))
        first = np.searchsorted(rows[order], np.arange(n))
        kept = order[(first[:, None] + np.arange(k)).ravel()]
        rows, places, best = rows[kept], places[kept], best[kept]
        least = torch.from_numpy(best.reshape(n, k)[:, -1])
    return places.reshape(n, k), best.reshape(n, k)


def larger(scores: Tensor, least: Tensor | None, k: int) -> tuple[np.ndarray, ...]:
    """Rows, columns and values of scores (Q, N) above `least` (Q,); None: of each row k or more."""
    width = scores.shape[1]
    if width % CHUNK:
        scores = F.pad(scores, (0, -width % CHUNK), value=-torch.inf)
    # Few are wanted: the largest of each chunk tells which chunks have any.
    chunks = scores.unflatten(1, (-1, CHUNK))
    top = chunks.amax(2)  # (Q, chunks); a NaN is the largest, too
    if not (top[:, :-1].isfinite().all() and (top[:, -1] < torch.inf).all()):
        raise UserError("vectors have elements that are no numbers (NaN or infinite)")
    if least is None:
        # k chunks whose largest are at least x have k scores that are.
        known = top if k <= top.shape[1] else scores
        least = known.topk(k, dim=1).values[:, -1]
        least = least.nextafter(torch.full_like(least, -torch.inf))
    row, chunk = (top > least[:, None]).nonzero(as_tuple=True)
    some = chunks[row, chunk]  # (n, CHUNK)
    i, inside = (some > least[row, None]).nonzero(as_tuple=True)
    at = chunk[i] * CHUNK + inside
    return row[i].numpy(), at.numpy(), some[i, inside].numpy()


def search_faiss(vectors: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """search() by an index of FAISS (HNSW), which is faster among many vectors, and approximate."""
    with needs("faiss-cpu", "`index=faiss`", "leave it out, which searches exactly"):
        import faiss

    index = faiss.IndexHNSWFlat(vectors.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.add(np.ascontiguousarray(vectors))
    scores, places = index.search(np.ascontiguousarray(queries), min(k, len(vectors)))
    return places, scores


def hard_negatives(
    vectors: np.ndarray,
    queries: np.ndarray,
    own: np.ndarray,
    fits: Sequence[set[int]],
    margin: float,
    most: int,
) -> list[list[int]]:
    """Of each query texts that are near and do not fit, at ranks 10 to 50, the nearest first.

    Args:
        own: (Q,) the place of the text that fits.
        fits: of each query, places that fit.
        margin: by how much a product is at least below that of what fits.
        most: of each query.
    """
    places, scores = search(vectors, queries, LAST_RANK)
    right = (queries * vectors[own]).sum(1)
    found = []
    for row, values, known, limit in zip(places, scores, fits, right - margin, strict=True):
        near = [
            int(place)
            for place, score in zip(row[FIRST_RANK - 1 :], values[FIRST_RANK - 1 :], strict=True)
            if place not in known and score <= limit
        ]
        found.append(near[:most])
    return found


def clusters(
    vectors: np.ndarray, n: int, seed: int, n_rounds: int = 20
) -> tuple[np.ndarray, np.ndarray]:
    """(N,) the group of each vector, 0 .. n - 1, and (n, D) their centres, at length 1.

    k-means by cosines: each vector goes to the nearest centre, each centre to the mean of its
    vectors. The first centres are drawn far from each other (Arthur and Vassilvitskii, 2007).
    """
    if not 1 <= n <= len(vectors):
        raise UserError(f"`clusters={n}`: expected 1 to {len(vectors)}, the number of texts")
    rng = np.random.default_rng(seed)
    centres = vectors[rng.integers(len(vectors), size=1)].astype(np.float32)
    while len(centres) < n:
        distance = (1 - search(centres, vectors, 1)[1][:, 0]).clip(min=0).astype(float)
        total = distance.sum()
        chance: Any = distance / total if total > 0 else None
        centres = np.concatenate([centres, vectors[rng.choice(len(vectors), 1, p=chance)]])
    groups = np.zeros(len(vectors), int)
    for _ in range(n_rounds):
        before, groups = groups, search(centres, vectors, 1)[0][:, 0]
        sums = np.zeros_like(centres)
        np.add.at(sums, groups, vectors)
        # A group without a vector keeps its centre.
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(lengths > 0, sums / np.maximum(lengths, 1e-12), centres)
        if (before == groups).all():
            break
    return groups, centres

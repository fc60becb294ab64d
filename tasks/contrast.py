"""What vectors are taught by: batches of rows, and losses of all texts of a batch at once.

    contrastive(vectors, relations, temperature=.05)

Shapes: B rows, each a query and K - 1 texts, the first of which fits; D width.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tasks.groups import GroupBatches, GroupFeatures

LOSSES = ("contrastive", "cosent", "cosine", "margin")
SCALE = 20.0  # of cosines in cosent, as its author has it


class Relations(NamedTuple):
    """What is known of the rows of a batch."""

    present: Tensor  # (B, K) bool: whether a row has such a text
    # (B, B, K - 1) bool: texts of the batch that may not count as wrong for a query: equal to what
    # fits it, or known to fit
    friends: Tensor
    scores: Tensor  # (B,) float: how alike a row's query and text are, 0 to 1


@dataclasses.dataclass(frozen=True)
class PairFeatures(GroupFeatures):
    """The different texts of rows as inputs; labels and lines are the rows'."""

    # Of inputs q and t that fit each other: q * inputs + t, sorted.
    fitting: np.ndarray = dataclasses.field(kw_only=True)
    # (inputs,) of texts of one meaning; -1: none
    group: np.ndarray = dataclasses.field(kw_only=True)

    def batches(self, batch_size: int, seed: int | None = None) -> "PairBatches":
        """Batches of rows."""
        return PairBatches(self, batch_size, seed)


class PairBatches(GroupBatches):
    """Batches of rows, and what is known of all rows of one."""

    features: PairFeatures

    def whole(self, n: int) -> Relations:
        """What is known of all rows of batch n."""
        rows, features = self.rows(n), self.features
        which = features.which[rows]  # (B, K)
        texts = which[:, 1:]
        friends = np.empty((len(which), *texts.shape), bool)  # (B, B, K - 1)
        # One query at a time, as numbers of all pairs take eight times the memory.
        for row, query in zip(friends, which[:, 0], strict=True):
            fits = query * len(features.second) + texts
            at = np.searchsorted(features.fitting, fits).clip(max=len(features.fitting) - 1)
            alike = (features.group[texts] == features.group[query]) & (features.group[query] >= 0)
            row[:] = ((features.fitting[at] == fits) | alike) & (texts >= 0)
        return Relations(
            torch.from_numpy(which >= 0),
            torch.from_numpy(friends),
            torch.from_numpy(features.labels[rows]),
        )


def contrastive(
    vectors: Tensor, relations: Relations, temperature: float, both_ways: bool = False
) -> Tensor:
    """The cross-entropy of the text that fits among all texts of the batch, by their cosines.

    Oord et al. (arXiv 1807.03748), with the texts of the other rows as wrong ones.

    Args:
        vectors: (B, K, D)
        both_ways: also of the query that a text fits, among all queries.
    """
    n, k = vectors.shape[:2]
    vectors = F.normalize(vectors, dim=-1)
    queries, texts = vectors[:, 0], vectors[:, 1:].flatten(0, 1)
    scores = queries @ texts.T / temperature  # (B, B (K - 1))
    out = relations.friends | ~relations.present[None, :, 1:]  # (B, B, K - 1)
    # The text of the row itself is the right one.
    own = torch.arange(n, device=vectors.device)
    right = own * (k - 1)
    out[own, own, 0] = False
    loss = F.cross_entropy(scores.masked_fill(out.flatten(1), -torch.inf), right)
    if not both_ways:
        return loss
    back = scores[:, right].masked_fill(out[:, :, 0], -torch.inf).T
    return (loss + F.cross_entropy(back, own)) / 2


def cosent(vectors: Tensor, relations: Relations) -> Tensor:
    """ln(1 + the sum of exp(20 (a - b)) over pairs whose cosines a > b should be a < b).

    Su, "CoSENT" (2022): only the order of the scores counts.
    """
    cosines = pair_cosines(vectors) * SCALE
    # (B, B) by how much more the second pair scores than the first, which should be less alike.
    wrong = cosines[:, None] - cosines[None]
    ordered = relations.scores[:, None] < relations.scores[None]
    terms = wrong.masked_fill(~ordered, -torch.inf).flatten()
    return torch.cat([terms.new_zeros(1), terms]).logsumexp(0)


def cosine(vectors: Tensor, relations: Relations) -> Tensor:
    """The squared difference of cosines and scores."""
    return F.mse_loss(pair_cosines(vectors), relations.scores.to(vectors.dtype))


def margin(vectors: Tensor, relations: Relations, least: float) -> Tensor:
    """By how much each wrong text of a row is nearer to the query than what fits, less a margin."""
    vectors = F.normalize(vectors, dim=-1)
    cosines = (vectors[:, :1] * vectors[:, 1:]).sum(-1)  # (B, K - 1)
    over = F.relu(cosines[:, 1:] - cosines[:, :1] + least)
    own = torch.arange(len(vectors), device=vectors.device)
    wrong = relations.present[:, 2:] & ~relations.friends[own, own, 1:]
    return (over * wrong).sum() / wrong.sum().clamp(min=1)


def pair_cosines(vectors: Tensor) -> Tensor:
    """(B, K, D) -> (B,)"""
    return F.cosine_similarity(vectors[:, 0], vectors[:, 1], dim=-1)

"""Examples of several texts each, which are compared: choices of a question, texts of a query.

features = GroupFeatures.of(encode(texts, tokenizer, 128), which, labels, lines)
batch = features.batches(batch_size=32, seed=42)[0]
scores = model(**batch.inputs)[batch.which]     # (B, K); -1 in which: there is none
"""

import dataclasses
from typing import Any, Self

import numpy as np
import torch

from tasks.encoding import Batch, Batches, Features


@dataclasses.dataclass(frozen=True)
class GroupFeatures(Features):
    """The different texts of groups as inputs; labels and lines are the groups'."""

    # (groups, K) the input of each text; -1: there is none
    which: np.ndarray = dataclasses.field(kw_only=True)

    @classmethod
    def of(
        cls, inputs: Features, which: np.ndarray, labels: np.ndarray, lines: list[int], **more: Any
    ) -> Self:
        """Inputs, and which of them each group has."""
        arrays = {field.name: getattr(inputs, field.name) for field in dataclasses.fields(inputs)}
        arrays |= {"labels": labels, "lines": np.array(lines, int)}
        return cls(**arrays, which=which, **more)

    @property
    def ungrouped(self) -> Features:
        """The different texts by themselves, without labels."""
        n = len(self.second)
        labels, lines = np.zeros(n, np.int64), np.arange(1, n + 1)
        return Features(self.ids, self.starts, self.second, labels, lines)

    def joined(self, more: Any) -> Self:
        """These groups and then others; all have as many places as the largest needs."""
        width = max(self.which.shape[1], more.which.shape[1])
        ours, theirs = self.widened(width), more.widened(width)
        # Inputs of the others come behind one's own.
        others = np.where(theirs.which >= 0, theirs.which + len(self.second), -1)
        both: Any = Features.joined(ours, theirs)
        return dataclasses.replace(both, which=np.concatenate([ours.which, others]))

    def widened(self, width: int) -> Self:
        """The same groups with so many places for texts."""
        extra = ((0, 0), (0, width - self.which.shape[1]))
        which = np.pad(self.which, extra, constant_values=-1)
        # Choices have a label for a question, texts of a query one each.
        labels = self.labels if self.labels.ndim == 1 else np.pad(self.labels, extra)
        return dataclasses.replace(self, which=which, labels=labels)

    def batches(self, batch_size: int, seed: int | None = None) -> "GroupBatches":
        """Batches of groups."""
        return GroupBatches(self, batch_size, seed)


class GroupBatches(Batches):
    """Batches of groups with all of their texts."""

    features: GroupFeatures

    def __init__(self, features: GroupFeatures, batch_size: int, seed: int | None = None):
        super().__init__(features, batch_size, seed)
        # A group is as long as all of its texts.
        self.lengths = (features.lengths[features.which] * (features.which >= 0)).sum(1)

    def shard(self, n: int, rank: int, world: int) -> Batch:
        """The groups rank, rank + world, ... of batch n, on the CPU."""
        rows = self.rows(n)[rank::world]
        which = self.features.which[rows]
        inputs = np.unique(which[which >= 0])
        # Inputs of the same length next to each other.
        lengths = self.features.starts[inputs + 1] - self.features.starts[inputs]
        order = np.argsort(lengths, kind="stable")
        # From numbers in the data to those in the batch.
        number = np.argsort(order)[np.searchsorted(inputs, which).clip(max=len(inputs) - 1)]
        number = np.where(which >= 0, number, -1)
        labels = torch.from_numpy(self.features.labels[rows])
        return Batch(*self.padded(inputs[order]), labels, which=torch.from_numpy(number))

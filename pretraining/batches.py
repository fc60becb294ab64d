"""Instances to batches: which share one, in which order, so that batch n is a function of the seed
and n.

batches = Batches(Pairs(Corpus("books-ids")), batch_size=256, seed=42) input_ids, segment_ids,
input_mask, positions, words, weights, order = batches[0]   # (B, S) x 3, (B, P) x 3, (B,)
"""

import bisect
import dataclasses
import functools
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:  # preparing a corpus needs no torch, which takes long to load
    from torch import Tensor

POOL = 64  # blocks that are shuffled together


@dataclasses.dataclass(frozen=True)
class Plan:
    """N instances before masking: where their tokens are. A is tokens[a:a + n_a], B likewise, after
    truncation.
    """

    keys: np.ndarray  # (N,) what all later choices of an instance follow from
    a: np.ndarray
    n_a: np.ndarray
    b: np.ndarray
    n_b: np.ndarray
    order: np.ndarray  # 1 where B is random
    block: np.ndarray  # which of the blocks asked for it comes from
    single: np.ndarray  # True where B is random because a single sentence made the chunk
    short: np.ndarray  # True where the document's target length is not the full one

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: np.ndarray) -> "Plan":
        """Some of the instances, in this order."""
        return Plan(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))

    @staticmethod
    def join(plans: list["Plan"]) -> "Plan":
        """The instances of all of them."""
        return Plan(
            *(
                np.concatenate([getattr(p, field.name) for p in plans])
                for field in dataclasses.fields(Plan)
            )
        )


class Instances(Protocol):
    """What Batches draws from."""

    corpus: Any  # shards.Corpus
    n_blocks: int

    def counts(self, epoch: int) -> np.ndarray: ...  # (n_blocks,) instances of each block
    def plan(self, blocks: np.ndarray, epoch: int) -> "Plan": ...  # the instances of some blocks
    def lengths(self, plan: "Plan") -> np.ndarray: ...  # (N,) tokens, [CLS] and [SEP] included
    def build(
        self, plan: "Plan", epoch: int
    ) -> tuple[np.ndarray, ...]: ...  # the seven arrays of a batch
    def slots(self, plan: "Plan", epoch: int) -> int: ...  # masked slots of all instances


class Batches:
    """An endless row of batches: batches[n] is a function of the seeds and n, whatever was asked
    for before.

    Every epoch visits the whole corpus. Its blocks are shuffled and put together in pools, the
    instances of a pool are shuffled and cut into batches of similar length, so that little is
    padded. Without a seed nothing is shuffled: for evaluation.
    """

    def __init__(self, instances: Instances, batch_size: int, seed: int | None = None):
        self.instances, self.batch_size, self.seed = instances, batch_size, seed
        self._pool = functools.lru_cache(2)(
            self._make_pool
        )  # a batch may end one and begin the next
        self._epoch = functools.lru_cache(2)(self._make_epoch)
        self._first = [0]  # batch of each epoch, as far as known

    def __len__(self) -> int:
        """Batches of the first epoch; the last of an epoch may be smaller."""
        return self.first(1)

    def first(self, epoch: int) -> int:
        """The number of an epoch's first batch. Epochs differ a little, since each makes its own
        pairs.
        """
        while len(self._first) <= epoch:
            n = int(self.instances.counts(len(self._first) - 1).sum())
            self._first.append(self._first[-1] - (-n // self.batch_size))
        return self._first[epoch]

    def _find(self, n: int) -> tuple[int, int, int]:
        """Epoch of batch n, and the first and last + 1 of its instances in the epoch's order."""
        while self._first[-1] <= n:
            self.first(len(self._first))
        epoch = bisect.bisect_right(self._first, n) - 1
        start = (n - self.first(epoch)) * self.batch_size
        return epoch, start, min(start + self.batch_size, int(self._epoch(epoch)[1][-1]))

    def _make_epoch(self, epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
        """The blocks of each pool, and where its instances start in the epoch's order."""
        blocks = np.arange(self.instances.n_blocks)
        if self.seed is not None:
            blocks = np.random.default_rng([self.seed, epoch]).permutation(blocks)
        pools = np.split(blocks, range(POOL, len(blocks), POOL))
        counts = self.instances.counts(epoch)
        return pools, np.cumsum([0, *(counts[pool].sum() for pool in pools)])

    def _make_pool(self, epoch: int, number: int) -> Plan:
        """The instances of a pool, in the order in which they are trained on."""
        pools, starts = self._epoch(epoch)
        plan = self.instances.plan(pools[number], epoch)
        n, size = len(plan), self.batch_size
        head = min(n, int(-starts[number] % size))  # ends the batch that the last pool began
        lengths = self.instances.lengths(plan)
        if self.seed is None:
            return plan.take(np.argsort(lengths, kind="stable"))
        rng = np.random.default_rng([self.seed, epoch, number])
        order = rng.permutation(n)
        first, middle, last = np.split(order, [head, n - (n - head) % size])
        middle = middle[np.argsort(lengths[middle], kind="stable")].reshape(-1, size)
        return plan.take(np.concatenate([first, rng.permutation(middle).ravel(), last]))

    def rows(self, n: int) -> np.ndarray:
        """Which instances batch n has, in the order of its epoch, (B,)."""
        _, start, end = self._find(n)
        return np.arange(start, end)

    def plan(self, n: int) -> tuple[Plan, int]:
        """The instances of batch n before masking, and its epoch."""
        epoch, start, end = self._find(n)
        starts = self._epoch(epoch)[1]
        parts = []
        for number in range(int(np.searchsorted(starts, start, "right")) - 1, len(starts) - 1):
            if starts[number] >= end:
                break
            rows = (
                np.arange(max(start, starts[number]), min(end, starts[number + 1])) - starts[number]
            )
            parts.append(self._pool(epoch, number).take(rows))
        return Plan.join(parts), epoch

    def arrays(self, n: int, first: int = 0, step: int = 1) -> tuple[np.ndarray, ...]:
        """Batch n as arrays: input_ids, segment_ids, input_mask (B, S), masked positions, words and
        weights (B, P), and order (B,), 1 where the second text is random. The weights are such that
        the mean over the batch's rows of (weights * cross-entropy).sum(1) is Google's loss,
        sum(used * cross-entropy) / (sum(used) + 1e-5).

        Only every `step`-th row is built, from the first one on: a process's share of the batch.
        """
        plan, epoch = self.plan(n)
        mine = plan if step == 1 else plan.take(np.arange(first, len(plan), step))
        *arrays, used, order = self.instances.build(mine, epoch)
        slots = used.sum() if step == 1 else self.instances.slots(plan, epoch)
        return *arrays, used * (len(plan) / (slots + 1e-5)), order

    def part(self, n: int, first: int, step: int) -> "tuple[Tensor, ...]":
        """arrays(...) as tensors on the CPU."""
        import torch

        tensors = [
            torch.from_numpy(np.ascontiguousarray(array)) for array in self.arrays(n, first, step)
        ]
        return tuple(t.float() if t.is_floating_point() else t for t in tensors)

    def __getitem__(self, n: int) -> "tuple[Tensor, ...]":
        """All of batch n."""
        return self.part(n, 0, 1)

    def describe(self, n: int) -> str:
        """Batch n in words, for messages."""
        epoch, start, end = self._find(n)
        return f"batch {n - self.first(epoch) + 1} of epoch {epoch + 1}, instances {start} to {end - 1}"

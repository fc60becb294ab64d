"""Which instances share a batch, in which order: batch n is a function of the seed and n.

pairs = Pairs(Corpus("books-ids"), PairConfig(max_len=128))
batches = PairBatches(pairs, batch_size=256, seed=42)
batches[0].input_ids                # (B, S)
batches.first(1)                    # number of the second epoch's first batch
"""

import bisect
import functools
import threading
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from pretraining.shards import Corpus

if TYPE_CHECKING:  # preparing a corpus needs no torch, which takes long to load
    from torch import Tensor

GROUP = 64  # blocks whose instances are shuffled together
Array = TypeVar("Array")  # np.ndarray or Tensor


class PretrainBatch(NamedTuple, Generic[Array]):
    """The columns of a batch. B instances, S tokens of the longest, P masked slots at most."""

    input_ids: Array  # (B, S)
    segment_ids: Array  # (B, S), 0 for [CLS] A [SEP], 1 for B [SEP]
    input_mask: Array  # (B, S), 0 for padding; or the Packing of it
    positions: Array  # (B, P) of the masked tokens, rising; 0 in an unused slot
    words: Array  # (B, P) ids that were there before masking; 0 in an unused slot
    weights: Array  # (B, P) of the slots in the loss; 0 in an unused slot
    order: Array  # (B,) 1 where B is text from another document

    def packed(self, rounded: bool = False) -> "PretrainBatch":
        """The same with the packing that the model would make of the mask."""
        from layers.packing import Packing

        packing: Any = Packing.of(self.input_mask, rounded)  # type: ignore[arg-type]
        return self._replace(input_mask=packing)


class Instances(Protocol):
    """What PairBatches draws from.

    A plan is an array with an entry or record for each of N instances, from which its tokens and
    masks follow.
    """

    corpus: Corpus
    n_blocks: int
    max_len: int  # tokens of the longest

    def counts(self, epoch: int) -> np.ndarray: ...  # (n_blocks,) instances of each block
    def plan(self, blocks: np.ndarray, epoch: int) -> np.ndarray: ...  # (N,) of some blocks
    def lengths(self, plan: np.ndarray) -> np.ndarray: ...  # (N,) tokens with [CLS] and [SEP]
    def n_slots(self, plan: np.ndarray) -> int: ...  # masked slots of all instances

    # the batch of these instances, with the weight 1 for every slot in use
    def build(self, plan: np.ndarray) -> PretrainBatch[np.ndarray]: ...


class PairBatches:
    """An endless row of batches: batches[n] is a function of the seeds and n alone.

    Every epoch visits the whole corpus. Its blocks are shuffled and put together in groups, the
    instances of a group are shuffled and cut into batches of similar length, so that little is
    padded. Without a seed nothing is shuffled: for evaluation.
    """

    # What a CPU computes at a time: each row has scores of all words for all of its slots.
    cpu_tokens = 8 * 512

    def __init__(self, instances: Instances, batch_size: int, seed: int | None = None):
        self.instances = instances
        self.longest = instances.max_len
        self.batch_size = batch_size
        self.seed = seed
        # two, since a batch may end one group or epoch and begin the next
        self._group = functools.lru_cache(2)(self._make_group)
        self._epoch = functools.lru_cache(2)(self._make_epoch)
        self._first = [0]  # batch of each epoch, as far as known
        # A thread may be making batches while the training loop asks where an epoch ends.
        self._counting = threading.RLock()

    def __len__(self) -> int:
        """Batches of the first epoch; the last of an epoch may be smaller."""
        return self.first(1)

    def first(self, epoch: int) -> int:
        """The number of an epoch's first batch; epochs differ a little in length."""
        with self._counting:
            while len(self._first) <= epoch:
                n_instances = int(self.instances.counts(len(self._first) - 1).sum())
                n_batches = -(-n_instances // self.batch_size)
                self._first.append(self._first[-1] + n_batches)
        return self._first[epoch]

    def _find(self, n: int) -> tuple[int, int, int]:
        """Epoch of batch n, and the first and last + 1 of its instances in the epoch's order."""
        while self._first[-1] <= n:
            self.first(len(self._first))
        # The last epoch whose first batch is not after n.
        epoch = bisect.bisect_right(self._first, n) - 1
        start = (n - self.first(epoch)) * self.batch_size
        n_instances = int(self._epoch(epoch)[1][-1])
        return epoch, start, min(start + self.batch_size, n_instances)

    def _make_epoch(self, epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
        """The blocks of each group, and where its instances start in the epoch's order."""
        blocks = np.arange(self.instances.n_blocks)
        if self.seed is not None:
            blocks = np.random.default_rng([self.seed, epoch]).permutation(blocks)
        groups = np.split(blocks, range(GROUP, len(blocks), GROUP))
        counts = self.instances.counts(epoch)
        return groups, np.cumsum([0, *(counts[group].sum() for group in groups)])

    def _make_group(self, epoch: int, number: int) -> np.ndarray:
        """The instances of a group, in the order in which they are trained on."""
        groups, starts = self._epoch(epoch)
        plan = self.instances.plan(groups[number], epoch)
        lengths = self.instances.lengths(plan)
        # For evaluation lengths alone decide, so that little is padded and nothing is random.
        if self.seed is None:
            return plan[np.argsort(lengths, kind="stable")]
        rng = np.random.default_rng([self.seed, epoch, number])
        n, size = len(plan), self.batch_size
        # the first instances complete the batch that the group before left unfinished
        head = min(n, int(-starts[number] % size))
        # Whole batches in the middle, and an end that the next group completes.
        first, middle, last = np.split(rng.permutation(n), [head, n - (n - head) % size])
        middle = middle[np.argsort(lengths[middle], kind="stable")].reshape(-1, size)
        return plan[np.concatenate([first, rng.permutation(middle).ravel(), last])]

    def rows(self, n: int) -> np.ndarray:
        """Which instances batch n has, in the order of its epoch, (B,)."""
        _, start, end = self._find(n)
        return np.arange(start, end)

    def plan(self, n: int) -> np.ndarray:
        """The instances of batch n before masking, (B,)."""
        epoch, start, end = self._find(n)
        starts = self._epoch(epoch)[1]
        # The groups from that of the batch's first instance to that of its last.
        first, past = np.searchsorted(starts, [start, end - 1], "right")
        groups = [(self._group(epoch, i), starts[i]) for i in range(first - 1, past)]
        return np.concatenate([plan[max(start - at, 0) : end - at] for plan, at in groups])

    def arrays(self, n: int, rank: int = 0, world: int = 1) -> PretrainBatch[np.ndarray]:
        """The rows rank, rank + world, ... of batch n as arrays.

        The weights are such that the mean over the batch's rows of (weights * cross-entropy).sum(1)
        is Google's loss, sum(used * cross-entropy) / (sum(used) + 1e-5), over the whole batch.
        """
        plan = self.plan(n)
        batch = self.instances.build(plan[rank::world])
        # A part of the rows still needs the slots of the whole batch, to which its weights relate.
        n_slots = batch.weights.sum() if world == 1 else self.instances.n_slots(plan)
        return batch._replace(weights=batch.weights * (len(plan) / (n_slots + 1e-5)))

    def shard(self, n: int, rank: int, world: int) -> "PretrainBatch[Tensor]":
        """arrays(...) as tensors on the CPU, the weights in float32."""
        import torch

        # A field of a record array is strided; a copy does not hold on to the whole record.
        tensors = (torch.from_numpy(np.ascontiguousarray(a)) for a in self.arrays(n, rank, world))
        return PretrainBatch(*(t.float() if t.is_floating_point() else t for t in tensors))

    def __getitem__(self, n: int) -> "PretrainBatch[Tensor]":
        """All of batch n."""
        return self.shard(n, 0, 1)

    def describe(self, n: int) -> str:
        """Batch n in words, for messages."""
        epoch, start, end = self._find(n)
        number = n - self.first(epoch) + 1
        return f"batch {number} of epoch {epoch + 1}, instances {start} to {end - 1}"

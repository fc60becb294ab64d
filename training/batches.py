"""Batches on their way to a model: made by a thread, packed, and moved in one copy.

for batch in prefetch(lambda n: prepare(batches[n], device), range(len(batches))):
    model(**batch.inputs)
"""

import collections
import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

# A NamedTuple (or a tuple) of tensors whose first dimension is the example.
Batch = Any
Made = TypeVar("Made")


class Batches(Protocol):
    """What the Trainer trains on: batch n of an endless run, the same whenever it is asked for."""

    def __len__(self) -> int: ...  # batches of the first epoch, and about as many of each
    def first(self, epoch: int) -> int: ...  # the number of an epoch's first batch
    def __getitem__(self, n: int) -> Batch: ...
    def shard(self, n: int, rank: int, world: int) -> Batch: ...  # rows rank, rank + world, ...
    def rows(self, n: int) -> np.ndarray: ...  # which examples batch n has
    def describe(self, n: int) -> str: ...  # batch n in words


def move(batch: Batch, device: torch.device) -> Batch:
    """A batch, and a packing in it, on a device."""
    tensors = tensors_of(batch)
    if device.type == "cuda":
        # One copy instead of one for each; only from pinned memory is it made while a GPU computes.
        buffer = as_bytes(tensors).pin_memory().to(device, non_blocking=True)
        return with_tensors(batch, iter(views(buffer, tensors)))
    return with_tensors(batch, (tensor.to(device) for tensor in tensors))


def tensors_of(batch: Batch) -> list[Tensor]:
    """The tensors of a batch, those of a packing in it too; of several their tensors in turn."""
    if isinstance(batch, Tensor):
        return [batch]
    if isinstance(batch, tuple | list):
        return [tensor for value in batch for tensor in tensors_of(value)]
    return []


def with_tensors(batch: Batch, tensors: Iterator[Tensor]) -> Batch:
    """A batch with other tensors, in the order of tensors_of()."""
    if isinstance(batch, Tensor):
        return next(tensors)
    if isinstance(batch, tuple):
        values = [with_tensors(value, tensors) for value in batch]
        return batch._make(values) if hasattr(batch, "_make") else tuple(values)
    return batch  # a number, or None


def as_bytes(tensors: list[Tensor]) -> Tensor:
    """(n,) uint8: tensors one after the other, each from a multiple of 16 on, for fast loads."""
    buffer = torch.zeros(sum(map(room, tensors)), dtype=torch.uint8)
    for view, tensor in zip(views(buffer, tensors), tensors, strict=True):
        view.copy_(tensor)
    return buffer


def views(buffer: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    """The tensors that as_bytes() has put into a buffer."""
    found, at = list[Tensor](), 0
    for tensor in tensors:
        flat = buffer[at : at + tensor.nbytes].view(tensor.dtype)
        found.append(flat.view(tensor.shape))
        at += room(tensor)
    return found


def room(tensor: Tensor) -> int:
    """The bytes that a tensor takes in a buffer."""
    return -(-tensor.nbytes // 16) * 16


def prepare(
    batch: Batch,
    device: torch.device,
    packed: bool = True,
    rounded: bool = False,
    width: int | None = None,
) -> Batch:
    """A batch on a device, and on the way there all that the device would have to wait for.

    Args:
        packed: pack it here. The replicas of DataParallel do that themselves, each its rows.
        rounded: as Packing.of has it.
        width: how many columns it gets, if it can be widened.
    """
    if width and hasattr(batch, "widened"):
        batch = batch.widened(width)
    if packed and hasattr(batch, "packed"):
        batch = batch.packed(rounded)
    return move(batch, device)


def prefetch(
    make: Callable[[int], Made], numbers: Iterable[int], n_ahead: int = 4
) -> Generator[Made]:
    """make(n) of each number in turn; a thread makes the next few while the caller computes."""
    waiting: collections.deque[Future[Made]] = collections.deque()
    thread = ThreadPoolExecutor(1, "batches")
    try:
        for n in numbers:
            waiting.append(thread.submit(make, n))
            if len(waiting) > n_ahead:
                yield arrived(waiting.popleft().result())
        while waiting:
            yield arrived(waiting.popleft().result())
    finally:
        # Who stops early, or is interrupted, does not wait for what nobody will use.
        thread.shutdown(wait=True, cancel_futures=True)


def arrived(made: Made) -> Made:
    """What a thread has moved to a GPU, on the default stream, for the stream of the caller."""
    if torch.cuda.is_initialized():
        here, there = torch.cuda.current_stream(), torch.cuda.default_stream()
        if here != there:
            here.wait_stream(there)
            # Its memory is not given away before this stream is done with it.
            for tensor in tensors_of(made):
                if tensor.is_cuda:
                    tensor.record_stream(here)
    return made


def drain(values: Iterable[Made], most: int) -> Iterator[list[Made]]:
    """What a pipe has delivered since the last look, at least one and at most so many."""
    # A bounded queue: a producer that is faster than the model must not fill the memory.
    waiting: queue.Queue = queue.Queue(most)

    def read() -> None:
        end: BaseException = StopIteration()
        try:
            for value in values:
                waiting.put(value)
        except BaseException as error:
            # Raised here it would end this thread alone; the reader of the queue raises it.
            end = error
        waiting.put(end)

    # A daemon, since a thread blocked in reading standard input could not be stopped at exit.
    threading.Thread(target=read, daemon=True).start()
    item: Any = None
    while not isinstance(item, BaseException):
        # The first one is waited for, all others are taken only if they are there already.
        chunk, item = [], waiting.get()
        with contextlib.suppress(queue.Empty):
            while not isinstance(item, BaseException):
                chunk.append(item)
                if len(chunk) == most:
                    break
                item = waiting.get_nowait()
        # What came before an error is answered first.
        if chunk:
            yield chunk
    if not isinstance(item, StopIteration):
        raise item

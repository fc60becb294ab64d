"""A model on a device: in a dtype, on several GPUs, and one pass over data with it.

    values = predict(model, batches, get_device(), dtype="bf16")  # (N, ...), in the data's order

No training configuration is needed: evaluation, prediction, vectors and few shots all come here.

Row: core. It imports only from rows below (ARCHITECTURE.md).
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

import distributed
from utils import UserError, rank, size

# A NamedTuple (or a tuple) of tensors whose first dimension is the example.
Batch = Any
Outputs = Callable[[nn.Module, Batch], Tensor]


class Source(Protocol):
    """What the Trainer trains on: batch n of an endless run, the same whenever it is asked for."""

    def __len__(self) -> int: ...  # batches of the first epoch, and about as many of each
    def first(self, epoch: int) -> int: ...  # the number of an epoch's first batch
    def __getitem__(self, n: int) -> Batch: ...
    def part(self, n: int, first: int, step: int) -> Batch: ...  # every step-th row from the first
    def rows(self, n: int) -> np.ndarray: ...  # which examples batch n has
    def describe(self, n: int) -> str: ...  # batch n in words


def rebuild(batch: Batch, tensors: Any) -> Batch:
    """A batch of the same kind from other tensors."""
    return batch._make(tensors) if hasattr(batch, "_make") else tuple(tensors)


def move(batch: Batch, device: torch.device) -> Batch:
    """A batch on a device."""
    return rebuild(batch, (tensor.to(device, non_blocking=True) for tensor in batch))


# ------------------------------------------------------------------------------------------ devices


def get_device() -> torch.device:
    """The GPU if there is one, each process of a machine its own, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # LOCAL_RANK counts the processes of one machine, as CUDA's device numbers do.
    return torch.device("cuda", distributed.local_rank() if size() > 1 else 0)


def count_gpus(device: torch.device, data_parallel: bool = True) -> int:
    """How many GPUs this process uses: all by DataParallel, unless torchrun has started it."""
    # A process of torchrun has one GPU of its own; DataParallel would take those of the others.
    if device.type == "cuda" and data_parallel and size() == 1:
        return torch.cuda.device_count()
    return 1


def device_name(device: torch.device, n_gpus: int = 1) -> str:
    """'cuda (8 GPUs)', 'cpu (2 cores)' or '4 processes, cpu (1 core) each'."""
    n, unit = (n_gpus, "GPU") if device.type == "cuda" else (torch.get_num_threads(), "core")
    one = f"{device.type} ({n} {unit}{'s' if n != 1 else ''})"
    if n_gpus > 1:
        one += f" by DataParallel; torchrun --nproc_per_node {n_gpus} is faster"
    return one if size() == 1 else f"{size()} processes, {one} each"


class Autocast(nn.Module):
    """A model whose matrix products are computed in another type.

    It belongs inside DataParallel, whose threads do not inherit autocast.
    """

    def __init__(self, model: Any, device: torch.device, dtype: str):
        super().__init__()
        self.model, self.device_type, self.enabled = model, device.type, dtype == "bf16"

    def forward(self, *inputs: Any, **more: Any) -> Any:
        """The model's own forward."""
        with torch.autocast(self.device_type, torch.bfloat16, enabled=self.enabled):
            return self.model(*inputs, **more)


def wrap(
    model: nn.Module,
    device: torch.device,
    dtype: str = "fp32",
    n_gpus: int = 1,
    compiled: bool = False,
) -> nn.Module:
    """A model on its device, computed in a dtype, by several GPUs, compiled."""
    if compiled and n_gpus > 1:
        raise UserError(
            f"compile=true works on one GPU, and {n_gpus} are visible; add --data_parallel False"
        )
    # Before compiling, since what is compiled depends on the device.
    model.to(device)
    # Lengths differ from batch to batch; without dynamic shapes each length would be compiled anew.
    called = torch.compile(model, dynamic=True) if compiled else model
    wrapped = Autocast(called, device, dtype)
    return nn.DataParallel(wrapped) if n_gpus > 1 else wrapped


# ---------------------------------------------------------------------------------------- inference


def scores(model: nn.Module, batch: Batch) -> Tensor:
    """What a model makes of a batch's inputs."""
    return model(**batch.inputs)


@torch.inference_mode()
def infer(
    model: nn.Module,
    batches: Source,
    device: torch.device,
    dtype: str = "fp32",
    outputs: Outputs = scores,
    bar: bool = False,
    before_batch: Callable[[], None] = lambda: None,
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """One pass over the data without dropout: of each batch its examples and its `outputs`.

    Several processes take turns, a batch each.
    """
    # A sharded model is where it belongs already, and cannot be moved any more.
    if next(model.parameters()).device != device:
        model.to(device)
    model.eval()
    n_batches = len(batches)
    rounds = range(0, n_batches, size())
    # Processes take turns rather than rows: a batch keeps the lengths that it was sorted for.
    for first in tqdm(rounds, desc="Iter", disable=not bar or rank() > 0):
        before_batch()
        n = first + rank()
        # A forward pass of a sharded model gathers its parts, so that every process has to make the
        # same number of calls. Where the batches do not go round, some compute the last one again.
        batch = move(batches[min(n, n_batches - 1)], device)
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bf16"):
            output = outputs(model, batch)
        # What was computed a second time is dropped.
        if n < n_batches:
            yield batches.rows(n), output


def predict(
    model: nn.Module,
    batches: Source,
    device: torch.device,
    dtype: str = "fp32",
    outputs: Outputs = scores,
    bar: bool = False,
    before_batch: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """(N, ...): a model's outputs for every example, in the order of the data, in every process.

    Args:
        batches: one pass over them is made.
        dtype: of matrix products: fp32 or bf16.
        outputs: what is wanted of a batch, a row an example.
        bar: whether to show progress.
        before_batch: called before each batch; it may raise.
    """
    rows, found = [], []
    for row, output in infer(model, batches, device, dtype, outputs, bar, before_batch):
        rows.append(row)
        found.append(output)
    mine = None
    if found:
        # NumPy has no bfloat16.
        mine = np.concatenate(rows), torch.cat(found).float().cpu().numpy()
    parts = [part for part in distributed.gather(mine) if part is not None]
    order = np.concatenate([part[0] for part in parts])
    values = np.concatenate([part[1] for part in parts])
    # Batches are sorted by length, and processes take turns: `order` says where each row belongs.
    in_order = np.empty_like(values)
    in_order[order] = values
    return in_order

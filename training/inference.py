"""A model on a device: in a dtype, on several GPUs, and one pass over data with it.

    values = predict(model, batches, get_device(), dtype="bf16")  # (N, ...), in the data's order

No training configuration is needed: evaluation, prediction, vectors and few shots all come here.
"""

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from layers import fused, kernels, packing
from layers.kernels import Linear, ResidualNorm
from system import distributed
from system.progress import progress
from training import devices
from training.batches import Batch, Batches, prefetch, prepare
from utils import UserError, rank, size, warn

Outputs = Callable[[nn.Module, Batch], Tensor]


# ---------------------------------------------------------------------------------------- the model


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


def prepack(model: nn.Module, device: torch.device, dtype: str) -> None:
    """Let the blocks of a model that only predicts do so in a dtype, as fast as a device can."""
    dtype = devices.usable_dtype(dtype, device)
    fuse(model, device, dtype == "bf16")
    # On a GPU float32 weights are read as they are.
    if device.type == "cpu" or dtype == "bf16":
        for block in blocks_of(model):
            kernels.prepack(block, int8=dtype == "int8")


def wrap(
    model: nn.Module,
    device: torch.device,
    dtype: str = "fp32",
    n_gpus: int = 1,
    compiled: bool = False,
    flash: bool = False,
) -> nn.Module:
    """A model on its device, computed in a dtype, by several GPUs, compiled.

    Args:
        compiled: each block of layers, in one graph for all lengths.
        flash: attention by the GPU's kernel for packed tokens, if it proves right.
    """
    if (compiled or flash) and n_gpus > 1:
        setting = "compile=true" if compiled else "attention=flash"
        raise UserError(
            f"{setting} works on one GPU, and {n_gpus} are visible; add `data_parallel=False`"
        )
    # Before compiling, since what is compiled depends on the device.
    model.to(device)
    for module in model.modules():
        if hasattr(module, "flash"):
            if flash and (reason := packing.flash_differs(device, module.head_dim)):
                warn(f"attention=flash does not work here ({reason}); attention=sdpa instead")
                flash = False
            module.flash = flash  # type: ignore[assignment]
    # torch.compile merges such steps itself; in the threads of DataParallel they are not tried.
    fuse(model, device, dtype == "bf16" and n_gpus == 1 and not compiled)
    if compiled:
        compile_blocks(model, device)
    wrapped = Autocast(model, device, devices.usable_dtype(dtype, device))
    return nn.DataParallel(wrapped) if n_gpus > 1 else wrapped


def fuse(model: nn.Module, device: torch.device, wanted: bool) -> None:
    """Let fused kernels compute what stands between a model's products, if they prove right."""
    widths = {m.normalized_shape[0] for m in model.modules() if isinstance(m, ResidualNorm)}
    usable = wanted and device.type == "cuda"
    for width in widths if usable else ():
        if reason := fused.fused_differs(device, width):
            devices.warn_once(f"fused kernels do not work here ({reason}); PyTorch's own instead")
            usable = False
    for module in model.modules():
        if isinstance(module, Linear | ResidualNorm):
            module.fused = usable


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The members of a model's ModuleLists: the blocks of an encoder."""
    return [b for m in model.modules() if isinstance(m, nn.ModuleList) for b in m]


def compile_blocks(model: nn.Module, device: torch.device) -> None:
    """Compile each block; all of the same class share the graph."""
    # What torch.compile generates is built here; triton needs a compiler of C, which comes with it.
    found = any(shutil.which(name) for name in (os.environ.get("CXX") or "g++", "clang++"))
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        found = False
    if not found:
        needed = "a C++ compiler (g++, or one named by CXX)"
        needed += " and triton" if device.type == "cuda" else ""
        raise UserError(f"compile=true needs {needed}; install it, or leave compile out")
    # One for each kind of block, of gradients or none, of a single row; eight are soon used up.
    torch._dynamo.config.recompile_limit = 64
    for block in blocks_of(model):
        # Lengths differ from batch to batch; without dynamic shapes each would be compiled anew.
        block.compile(dynamic=True, fullgraph=True)


# ---------------------------------------------------------------------------------------- inference


def scores(model: nn.Module, batch: Batch) -> Tensor:
    """What a model makes of a batch's inputs."""
    return model(**batch.inputs)


@torch.inference_mode()
def infer(
    model: nn.Module,
    batches: Batches,
    device: torch.device,
    dtype: str = "fp32",
    outputs: Outputs = scores,
    bar: bool = False,
    before_batch: Callable[[], None] = lambda: None,
    name: str = "the model",
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """One pass over the data without dropout: of each batch its examples and its `outputs`.

    Several processes take turns, a batch each. At the end of the pass a UserError says so where an
    output is no number; `name` is what it says of the model.
    """
    # A sharded model is where it belongs already, and cannot be moved any more.
    if next(model.parameters()).device != device:
        model.to(device)
    model.eval()
    dtype = devices.usable_dtype(dtype, device)
    # What predicted in int8 before may be asked for another dtype now.
    if dtype == "int8" or any(getattr(m, "packed", None) is not None for m in model.modules()):
        prepack(model, device, dtype)
    n_batches = len(batches)
    packed = not isinstance(model, nn.DataParallel)
    # Processes take turns rather than rows: a batch keeps the lengths that it was sorted for.
    numbers = range(rank(), rank() + n_batches, size())

    def make(n: int) -> tuple[np.ndarray | None, Batch]:
        # A forward pass of a sharded model gathers its parts, so that every process has to make the
        # same number of calls. Where the batches do not go round, some compute the last one again,
        # and what comes of it belongs to no rows.
        rows = batches.rows(n) if n < n_batches else None
        return rows, prepare(batches[min(n, n_batches - 1)], device, packed)

    bar_of = progress(bar and rank() == 0, total=len(numbers), desc="Iter")
    # Of each batch, on the device. Asked once, at the end: asking waits for a GPU.
    finite = list[Tensor]()
    with bar_of, contextlib.closing(prefetch(make, numbers)) as made:
        for rows, batch in made:
            before_batch()
            with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bf16"):
                output = outputs(model, batch)
            bar_of.update()
            finite.append(are_numbers(output))
            if rows is not None:
                yield rows, output
    if finite and not torch.stack(finite).all():
        remedy = "use other weights" if dtype == "fp32" else f"compute in fp32, not in {dtype}"
        raise UserError(f"{name} gives scores that are no numbers (NaN or infinite); {remedy}")


def are_numbers(output: Tensor) -> Tensor:
    """(B, ...) -> (): whether no output is a NaN or infinite, on the device.

    Minus infinity is what some are padded with, but not all of a row.
    """
    # The largest value of a row is a NaN where one is among them.
    return output.reshape(len(output), output[:1].numel()).amax(1).isfinite().all()


def predict(
    model: nn.Module,
    batches: Batches,
    device: torch.device,
    dtype: str = "fp32",
    outputs: Outputs = scores,
    bar: bool = False,
    before_batch: Callable[[], None] = lambda: None,
    name: str = "the model",
) -> np.ndarray:
    """(N, ...): a model's outputs for every example, in the order of the data, in every process.

    Args:
        batches: one pass over them is made.
        dtype: of matrix products: fp32, bf16 or, on a CPU, int8.
        outputs: what is wanted of a batch, a row an example.
        bar: whether to show progress.
        before_batch: called before each batch; it may raise.
        name: what a UserError calls the model, where an output is no number.
    """
    found = list(infer(model, batches, device, dtype, outputs, bar, before_batch, name))
    mine = None
    if found:
        rows, made = zip(*found, strict=True)
        # NumPy has no bfloat16.
        mine = np.concatenate(rows), torch.cat(made).float().cpu().numpy()
    parts = [part for part in distributed.gather(mine) if part is not None]
    order, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    # Batches are sorted by length, and processes take turns: `order` says where each row belongs.
    in_order = np.empty_like(values)
    in_order[order] = values
    return in_order

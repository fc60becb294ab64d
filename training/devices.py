"""Where a model is computed, in which numbers, and what of it follows from the machine.

device = get_device("auto")                 # the GPU, else the CPU
cfg = settle(cfg, device, 1, model, batches)    # no setting is "auto" any more
"""

import dataclasses
import functools
import re
from typing import Any

import torch
from torch import nn

from layers import kernels, packing
from system import distributed
from training.settings import Config
from utils import UserError, size, warn

# Of a batch on one GPU, in training and in predicting: enough to keep it busy, and of BERT-base
# some 20 GB.
TRAINING_TOKENS, PREDICTING_TOKENS = 2**16, 2**15
ROWS = 32  # that a CPU predicts at a time
LEAST_FREE = 2**30  # bytes of a GPU's memory, below which nothing can be trained there


def get_device(name: str = "auto") -> torch.device:
    """The device of a name: cpu, cuda, cuda:N or mps; auto: a GPU that is usable, else the CPU.

    Each process of a machine has a GPU of its own. UserError where a device that was named is not
    usable.
    """
    kind, _, number = str(name).partition(":")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError("`device=mps`: there is none, or this PyTorch does not know it; name cpu")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(f"`device={name}`: no GPU is visible to this PyTorch; name cpu")
    if kind in ("cpu", "mps") or not torch.cuda.is_available():
        return torch.device("cpu" if kind == "auto" else kind)
    if number and size() > 1:
        raise UserError(
            f"`device={name}`: each of several processes has the GPU of its number; name cuda, or "
            "choose them by CUDA_VISIBLE_DEVICES"
        )
    if number and int(number) >= (n := torch.cuda.device_count()):
        raise UserError(f"`device={name}`: {n} GPUs are visible; expected a number below {n}")
    # LOCAL_RANK counts the processes of one machine, as CUDA's device numbers do.
    index = int(number or (distributed.local_rank() if size() > 1 else 0))
    if reason := unusable(index):
        # Several processes cannot differ in where they compute.
        if kind == "cuda" or size() > 1:
            raise UserError(f"cuda:{index} {reason}; name another device, or cpu")
        warn_once(f"cuda:{index} {reason}; the CPU is used instead")
        return torch.device("cpu")
    # cuDNN's attention makes a plan for every new shape, which takes longer than MRPC's training;
    # and in some versions it drops a sixteenth or an eighth where a tenth is asked for.
    torch.backends.cuda.enable_cudnn_sdp(False)
    # Kernels of our own, and events, belong to the current one.
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def unusable(index: int) -> str:
    """Why nothing can be computed on a GPU, in words; "": it can."""
    try:
        major, minor = torch.cuda.get_device_capability(index)
        built_for = re.findall(r"sm_(\d+)", " ".join(torch.cuda.get_arch_list()))
        if 10 * major + minor < min(map(int, built_for), default=0):
            return f"is too old for this PyTorch (compute capability {major}.{minor})"
        free, _ = torch.cuda.mem_get_info(index)
        # What this process keeps for itself is free for what it computes next.
        free += torch.cuda.memory_reserved(index)
    except (AssertionError, RuntimeError) as error:
        return f"does not work ({str(error).splitlines()[0]})"
    return f"is full ({free >> 20} MB are free)" if free < LEAST_FREE else ""


@functools.cache
def warn_once(message: str) -> None:
    """Say something the first time that it is to be said."""
    warn(message)


def check(cfg: Config) -> None:
    """UserError where a device that is named is not there, or computes otherwise than is asked."""
    dtype = usable_dtype(cfg.dtype, get_device(cfg.device))
    if cfg.attention == "flash" and cfg.dtype == "auto" and dtype != "bf16":
        raise UserError(
            f"`attention=flash` is computed in bf16, and this device computes in {dtype}; leave it "
            "out, or set `dtype=bf16`"
        )


def count_gpus(device: torch.device, name: str = "auto", data_parallel: bool = True) -> int:
    """How many GPUs this process uses: all by DataParallel, unless one is named, or torchrun runs.

    Args:
        name: what get_device() was asked for.
    """
    # A process of torchrun has one GPU of its own; DataParallel would take those of the others.
    if device.type == "cuda" and data_parallel and size() == 1 and ":" not in name:
        return torch.cuda.device_count()
    return 1


def describe(device: torch.device, n_gpus: int, **chosen: Any) -> str:
    """The device, and which settings are not plain there: 'cuda (1 GPU), dtype=bf16'."""
    others = [f"{name}={value}" for name, value in chosen.items() if value != PLAIN[name]]
    return ", ".join([device_name(device, n_gpus), *others])


def device_name(device: torch.device, n_gpus: int = 1) -> str:
    """'cuda (8 GPUs)', 'cpu (2 cores)' or '4 processes, cpu (1 core) each'."""
    one = device.type
    if device.type != "mps":
        n, unit = (n_gpus, "GPU") if device.type == "cuda" else (torch.get_num_threads(), "core")
        one += f" ({n} {unit}{'s' if n != 1 else ''})"
    if n_gpus > 1:
        one += f" by DataParallel; torchrun --nproc_per_node {n_gpus} is faster"
    return one if size() == 1 else f"{size()} processes, {one} each"


# ----------------------------------------------------------------------------- what follows from it


# The settings that may say auto, or null, and what every device can do.
DTYPES = ("fp32", "bf16")
PLAIN: dict[str, Any] = {
    "dtype": "fp32",
    "attention": "sdpa",
    "gradient_accumulation": 1,
    "cuda_graphs": False,
}


def settle(
    cfg: Config,
    device: torch.device,
    n_gpus: int,
    model: nn.Module,
    batches: Any,
    run: dict[str, Any] | None = None,
) -> Config:
    """The settings of training with nothing left to choose.

    UserError where a run was begun with what is not computed here.

    Args:
        batches: may know the tokens of their longest row (`longest`), and how many a CPU should
            compute at a time (`cpu_tokens`).
        run: the settings of a run that is resumed, which stay what they were.
    """
    one_gpu = device.type == "cuda" and n_gpus == size() == 1
    asked = {name: getattr(cfg, name) for name in PLAIN}
    asked = {name: value for name, value in asked.items() if value not in ("auto", None)}
    dtype = asked.get("dtype") or usable_dtype("auto", device)
    if run:
        # Earlier versions did not record what was usual then.
        begun = {name: run.get(name, plain) for name, plain in PLAIN.items()}
        # A run may move to where no graphs are: they change no number by more than rounding.
        begun["cuda_graphs"] = asked.pop("cuda_graphs", begun["cuda_graphs"]) is True and one_gpu
        parts = begun["gradient_accumulation"]
        # Another run, or one that was edited: the folder is going to refuse it by what differs.
        edited = not isinstance(parts, int) or begun["dtype"] not in DTYPES
        if edited or any(begun[name] != value for name, value in asked.items()):
            return cfg
        dtype = begun["dtype"]
        usable = {
            "dtype": has_dtype(dtype, device),
            "attention": begun["attention"] == "sdpa" or has_flash(model, device, n_gpus, dtype),
        }
        for name, is_usable in usable.items():
            if not is_usable and name not in asked:
                raise UserError(
                    f"the run was begun with {name}={begun[name]}, which is not computed on this "
                    f"{device.type}; resume it where it is, or name another `save_dir`"
                )
        # With another batch_size it is another run, too.
        begun["gradient_accumulation"] = min(parts, cfg.batch_size)
        return dataclasses.replace(cfg, **begun)
    n_parts = asked.get("gradient_accumulation") or parts_of(
        cfg.batch_size, device, n_gpus, batches
    )
    chosen: dict[str, Any] = {
        "dtype": dtype,
        "attention": "flash" if has_flash(model, device, n_gpus, dtype) else "sdpa",
        "gradient_accumulation": n_parts,
        "cuda_graphs": one_gpu and n_parts == 1 and not cfg.checkpointing,
    }
    if asked.get("cuda_graphs") and not one_gpu:
        warn("cuda_graphs=true is for one GPU and one process; on without graphs")
        asked["cuda_graphs"] = False
    return dataclasses.replace(cfg, **chosen | asked)


def has_dtype(dtype: str, device: torch.device) -> bool:
    """Whether a device computes in a dtype itself."""
    if device.type == "cpu":
        return dtype != "bf16" or kernels.has_bf16_products()
    return dtype == "fp32" or (dtype == "bf16" and device.type == "cuda")


def has_flash(model: nn.Module, device: torch.device, n_gpus: int, dtype: str) -> bool:
    """Whether attention of a model's heads has a kernel for packed tokens, which proves right."""
    if device.type != "cuda" or n_gpus > 1 or dtype != "bf16":
        return False
    widths = {module.head_dim for module in model.modules() if hasattr(module, "flash")}
    return not any(packing.flash_differs(device, width) for width in widths)


def parts_of(batch_size: int, device: torch.device, n_gpus: int, batches: Any) -> int:
    """In how many parts a batch is computed: of so many tokens at most as suit the device."""
    tokens = TRAINING_TOKENS if device.type == "cuda" else getattr(batches, "cpu_tokens", None)
    longest = getattr(batches, "longest", None)
    if not tokens or not longest:
        return 1
    rows = max(1, tokens // longest) * n_gpus * size()
    return -(-batch_size // rows)


def choose_products(device: torch.device, run: dict[str, Any]) -> None:
    """Train with the CPU's products that suit it, or with those that a run was begun with."""
    chosen = run.get("float32 products")
    if chosen not in ("onednn", "pytorch"):
        chosen = kernels.usual_products()
    if chosen == "onednn" and not kernels.has_onednn():
        raise UserError(
            "the run was begun with oneDNN's products, which this PyTorch has not; resume it where "
            "they are, or name another `save_dir`"
        )
    kernels.PRODUCTS.chosen = chosen if device.type == "cpu" else None


@functools.cache
def usable_dtype(dtype: str, device: torch.device) -> str:
    """The dtype itself; of auto bf16 on a GPU that has it, else fp32.

    fp32 too where a CPU would compute bf16 more slowly, and a note says so.
    """
    if dtype == "auto":
        has_bf16 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        return "bf16" if has_bf16 else "fp32"
    if dtype == "bf16" and device.type == "cpu" and not kernels.has_bf16_products():
        warn(
            "dtype=bf16: this processor multiplies no bf16 numbers (it has neither AVX512_BF16 nor "
            "AMX) and would take several times as long; fp32 instead"
        )
        return "fp32"
    if dtype != "fp32" and device.type == "mps":
        raise UserError(f"dtype={dtype} is not computed on mps; name fp32")
    if dtype == "int8" and device.type != "cpu":
        raise UserError("dtype=int8 is computed on a CPU; on a GPU name fp32 or bf16")
    if dtype == "int8" and not kernels.has_int8_products():
        raise UserError("dtype=int8 needs a PyTorch that multiplies 8-bit numbers; name fp32")
    return dtype


def rows_at_once(batch_size: int | None, longest: int, device: torch.device) -> int:
    """How many inputs to predict at a time: those asked for, or what keeps the device busy."""
    if batch_size is None and device.type == "cuda":
        return max(ROWS, PREDICTING_TOKENS // max(longest, 1))
    return batch_size or ROWS

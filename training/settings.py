"""How to train: the settings of a run, their ranges, from JSON and from flags.

cfg = Config.from_json("config/train_mrpc.json", lr=3e-5)
"""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from system.files import read_config
from utils import UserError, checked, nearest, show

# Those of optim.SCHEDULES: their names are known without PyTorch, which optim needs.
SCHEDULES = ("warmup_linear", "linear", "warmup_cosine", "cosine", "warmup_constant")


@dataclasses.dataclass(frozen=True)
class Config:
    """How to train. Unless total_steps is given, n_epochs of the data are the length of the run."""

    seed: int = 42  # of initial weights, order and dropout
    batch_size: int = 32  # examples of an update, all devices and accumulation together
    lr: float = 2e-5  # learning rate at its highest
    n_epochs: int = 3  # how often every example is seen
    warmup: float = 0.1  # share of the steps in which the rate rises
    save_steps: int = 100  # updates between checkpoints
    save_minutes: float | None = None  # minutes between checkpoints too; None: save_steps alone
    total_steps: int | None = None  # updates in all; None: n_epochs times the batches of an epoch
    # cpu, cuda, cuda:N or mps; auto: the GPUs that are usable, else the CPU
    device: str = "auto"
    # of matrix products: fp32 or bf16 (parameters stay float32); auto: bf16 on a GPU that has it
    dtype: str = "auto"
    # parts that a batch is computed in, to save memory; None: on a GPU of 64k tokens at most, on a
    # CPU one, or to pre-train of 4k tokens
    gradient_accumulation: int | None = None
    schedule: str = "warmup_linear"  # of the learning rate: see optim.SCHEDULES
    weight_decay: float = 0.01  # per update and unit of rate; none on biases and LayerNorm
    max_grad_norm: float = 1.0  # longer gradients are shortened to this
    bias_correction: bool = False  # Adam's, which BERT leaves out
    log_steps: int = 10  # updates between lines of metrics.jsonl
    keep_checkpoints: int = 3  # newest model_steps_N.pt to keep beside the best; 0: all
    # on a GPU: sdpa (PyTorch's, padded) or flash (real tokens alone, bf16); auto: flash if it works
    attention: str = "auto"
    compile: bool = False  # torch.compile each block (needs a C++ compiler; triton on a GPU)
    # launch all kernels of a small batch as one: True, False, or auto: on one GPU, in one part
    cuda_graphs: bool | str = "auto"
    # keep fewer activations and compute them again: less memory, a third more work
    checkpointing: bool = False
    head_lr: float | None = None  # learning rate of what lies above the encoder; None: lr
    head_steps: int = 0  # updates in the beginning that train the head alone
    layer_decay: float = 1.0  # each block learns at this times the rate of the block above it
    # checks without a better stop_metric after which to stop; None: never
    patience: int | None = None
    # what the best checkpoint is chosen by; None: the first metric of a check
    stop_metric: str | None = None

    def __post_init__(self) -> None:
        for name, (fits, expected) in EXPECTED.items():
            value = getattr(self, name)
            if value is not None and not fits(value):
                raise UserError(f"{name}={show(value)}; expected {expected}")
        if self.schedule not in SCHEDULES:
            hint = nearest(self.schedule, SCHEDULES)
            raise UserError(
                f"schedule={show(self.schedule)}{hint}; expected one of {', '.join(SCHEDULES)}"
            )
        # Its kernel takes nothing else.
        if self.attention == "flash" and self.dtype not in ("auto", "bf16"):
            raise UserError(
                f"attention=flash is computed in bf16, and dtype={self.dtype}; set dtype=bf16"
            )
        # A graph writes over the gradients that it gave before.
        parts = self.gradient_accumulation or 1
        if self.cuda_graphs is True and (parts > 1 or self.checkpointing):
            raise UserError("cuda_graphs=true needs gradient_accumulation=1 and no checkpointing")
        # A part without an example could not be computed.
        if parts > self.batch_size:
            raise UserError(
                f"gradient_accumulation={self.gradient_accumulation} is more than "
                f"batch_size={self.batch_size}; set gradient_accumulation to {self.batch_size} or "
                "less"
            )

    def check_trainable(self) -> None:
        """UserError where this describes predicting only."""
        if self.dtype == "int8":
            raise UserError("dtype=int8 is for evaluating and predicting; train in fp32 or bf16")

    @classmethod
    def from_json(cls, file: str | Path, **instead: Any) -> "Config":
        """Read a JSON file, some of its settings replaced; an unknown key is an error.

        An n_epochs that is given replaces the file's total_steps too, which would overrule it. An
        error names the file only where the file alone is wrong.
        """
        return cls.from_flags(file, instead)

    @classmethod
    def from_flags(
        cls,
        train_cfg: str | Path | None,
        settings: dict[str, Any] | None,
        usual: Path | None = None,
    ) -> "Config":
        """The file named, or the usual one, or the defaults; with some settings replaced."""
        file, instead = train_cfg or usual, dict(settings or {})
        if instead.get("n_epochs") is not None:
            if instead.get("total_steps") is not None:
                raise UserError(
                    "n_epochs and total_steps both say how long to train; give one of them"
                )
            # total_steps overrules n_epochs: a file's total_steps would make --n_epochs useless.
            instead["total_steps"] = None
        alone = cls()
        if file:
            try:
                return read_config(cls, file, **instead)
            except UserError:
                # Nobody may have named the file: it is the usual one of a command.
                alone = read_config(cls, file)
        return dataclasses.replace(alone, **checked(cls, instead, "the settings"))


def from_to(least: float, most: float = 2**63 - 1) -> Callable[[float], bool]:
    """Whether a number is in a range; a NaN is in none."""
    return lambda value: least <= value <= most


# 2**63 - 1 is the largest integer of 64 bits, with which PyTorch and NumPy count.
COUNT = (from_to(1), "at least 1, and at most 2**63 - 1")
AMOUNT = (from_to(0), "0 or more, and at most 2**63 - 1")

# What the values of a Config are: how that is checked, and how it is said. None is always fine.
EXPECTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "seed": AMOUNT,
    "batch_size": COUNT,
    "lr": AMOUNT,
    "n_epochs": COUNT,
    "warmup": (from_to(0, 1), "a share of the steps, 0 to 1"),
    "save_steps": COUNT,
    "save_minutes": (lambda value: 0 < value < 2**63, "more than 0, or null"),
    "total_steps": (from_to(1), "at least 1, or null to follow from n_epochs"),
    "device": (
        lambda name: bool(re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", str(name))),
        "auto, cpu, cuda, cuda:N or mps",
    ),
    # fp32 or bf16 to train, and to predict int8 too
    "dtype": (
        ("auto", "fp32", "bf16", "int8").__contains__,
        "auto, fp32 or bf16, or int8 to predict",
    ),
    "attention": (("auto", "sdpa", "flash").__contains__, "auto, sdpa or flash"),
    "cuda_graphs": ((True, False, "auto").__contains__, "true, false or auto"),
    "gradient_accumulation": COUNT,
    "weight_decay": AMOUNT,
    "max_grad_norm": (lambda value: 0 < value < 2**63, "more than 0 (a large number: no clipping)"),
    "log_steps": COUNT,
    "keep_checkpoints": AMOUNT,
    "head_lr": AMOUNT,
    "head_steps": AMOUNT,
    "layer_decay": (lambda value: 0 < value <= 1, "more than 0 and at most 1"),
    "patience": (from_to(1), "at least 1, or null to train to the end"),
}

# The settings that evaluating and predicting have a use for: they need neither rates nor a length,
# but memory limits their batches too.
INFERENCE = ("batch_size", "device", "dtype")

"""What benchmarks/gpu.py measures with: its rows, data, our side and that of transformers."""

import contextlib
import dataclasses
import gc
import itertools
import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, TextIO

import numpy as np
import torch
import torch.nn.functional as F
from finetuning import DTYPES
from torch import Tensor, nn

import models
import train
from layers import packing
from optim import BertAdam, parameter_groups
from pretraining.batches import PretrainBatch
from tasks import pretrain as pretraining_task
from tasks.encoding import Batches, Features
from training import inference

HEAD_DIM = 64  # of base and large
SHAPES = {  # width, layers, heads
    "tiny": (32, 2, 2),
    "small": (128, 3, 4),
    "minilm": (384, 6, 12),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}
LENGTHS = {  # of an input in tokens: the mean, the deviation of the logarithm, the most
    "MRPC": (53, 0.3, 128),
    "SST-2": (13, 0.6, 128),
    "SQuAD": (600, 0.4, 384),  # most windows are full
    "128": (10_000, 0.0, 128),
    "512": (10_000, 0.0, 512),
}
# Our ways to compute: arguments of inference.wrap. "without cuDNN" is seen to by Bench.measure.
WAYS: dict[str, dict[str, bool]] = {
    "sdpa": {},
    "sdpa without cuDNN": {},
    "flash": {"flash": True},
    "flash, compiled": {"flash": True, "compiled": True},
    "flash, CUDA graphs": {"flash": True, "compiled": True, "cuda_graphs": True},
}
# Attention's ways, and a model's; last comes what cuDNN makes slow the first time.
ATTENTION = ("flash", "sdpa without cuDNN", "sdpa")
SIDES = ("flash", "sdpa without cuDNN", "transformers without cuDNN", "sdpa", "transformers")
SIZES = {"32 rows": 32, "4k tokens": 32, "16k tokens": 128, "32k tokens": 256}  # of 128 tokens
ON_CPU = ("", "sdpa", "transformers")  # all other ways need a GPU

Found = tuple[Any, str, str]  # a value, its unit, and what else there is to say


class Case(NamedTuple):
    """What is trained: pre-training on inputs of one length, or fine-tuning."""

    model: str
    kind: str  # of LENGTHS
    n_rows: int  # of a batch


BASE = Case("base", "128", 256)
LARGE = Case("large", "128", 128)
MRPC = Case("base", "MRPC", 32)
CASES = (BASE, Case("base", "512", 64), LARGE, Case("large", "512", 32), MRPC)


class Side(NamedTuple):
    """An implementation at work on a case."""

    step: Callable[[Any], Tensor]  # an update with a batch, which returns the loss
    batches: list[Any]  # on the device
    n_tokens: int  # of all batches
    n_masked: int


@dataclasses.dataclass
class Bench:
    """A run: its rows, and what all parts share."""

    device: torch.device
    tiny: bool
    file: TextIO
    part: str = ""
    end: float = 0.0  # of the part, by time.monotonic()
    rate: float = 0.0  # FLOP a second of the fastest product of part 1
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @property
    def gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def dtype(self) -> str:
        return "bf16" if self.gpu else "fp32"

    def random(self, *sizes: int) -> Tensor:
        """Normal numbers in the dtype that products are computed in."""
        return torch.randn(*sizes, device=self.device, dtype=DTYPES[self.dtype])

    def config(self, name: str, p_drop: float = 0.1) -> models.Config:
        """A model's shape; in a tiny run all are tiny."""
        dim, n_layers, n_heads = SHAPES["tiny" if self.tiny else name]
        vocab_size = 1000 if self.tiny else 30522
        return models.Config(vocab_size, dim, n_layers, n_heads, 4 * dim, p_drop, p_drop)

    def write(self, name: str, value: Any, unit: str = "", more: str = "") -> None:
        """A row: kept, printed, and flushed to the file."""
        # JSON has no word for a number that is not finite.
        if isinstance(value, float) and not math.isfinite(value):
            value = str(value)
        row = {"part": self.part, "name": name, "value": value, "unit": unit, "more": more}
        self.rows.append(row)
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()
        print(f"{self.part}: {name}: {shown(value)} {unit} {more}".rstrip(), flush=True)

    def measure(
        self, name: str, way: str, function: Callable[..., Found], *inputs: Any, needs: float = 5
    ) -> None:
        """The row of function(bench, way, *inputs); skipped with fewer seconds left than it needs.

        The way is one of WAYS or of transformers, "" where there is but one, "GPU" on a GPU alone.
        """
        if way not in ("", "GPU"):
            name += f", {way}"
        left = self.end - time.monotonic()
        if way not in ON_CPU and not self.gpu:
            self.write(name, None, "skipped", "needs a GPU")
            return
        if left < needs:
            self.write(name, None, "skipped", f"needs {needs} s, {max(left, 0):.0f} are left")
            return
        try:
            with time_limit(left), cudnn_attention("without cuDNN" not in way):
                found = function(self, way, *inputs)
            self.write(name, *found)
        except ImportError as error:
            self.write(name, None, "skipped", str(error))
        except Exception as error:
            words = f"{type(error).__name__}: {' '.join(str(error).split())}"
            self.write(name, None, "error", words[:300])
        # What was measured is gone by now, and the next measurement gets its memory.
        if self.gpu:
            torch.compiler.reset()
            gc.collect()
            # A kernel that broke the card's context makes every call fail from here on.
            with contextlib.suppress(RuntimeError):
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()


@contextlib.contextmanager
def time_limit(n_seconds: float) -> Iterator[None]:
    """Within it, a TimeoutError comes after some seconds."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"stopped after {n_seconds:.0f} s, at the end of the part's time")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, n_seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def cudnn_attention(allowed: bool) -> Iterator[None]:
    """Within it, PyTorch's attention may use cuDNN's kernels, or must not."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(before and allowed)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


@contextlib.contextmanager
def deterministic(exact: bool) -> Iterator[None]:
    """Within it, kernels are deterministic, and memory that nothing has written to is NaN."""
    # Where there is no such kernel it warns, rather than fails.
    torch.use_deterministic_algorithms(exact, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def shown(value: Any) -> str:
    """A value in a table."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return "" if value is None else str(value)


# --------------------------------------------------------------------------------------------- data


def features(bench: Bench, kind: str, n: int, seed: int = 0) -> Features:
    """Random inputs whose lengths are those of a kind."""
    rng = np.random.default_rng(seed)
    mean, deviation, most = LENGTHS[kind]
    if bench.tiny:
        mean, most = mean // 4, most // 8
    # The mean of a lognormal is above the exponential of its logarithm's mean.
    drawn = rng.lognormal(math.log(mean) - deviation**2 / 2, deviation, n)
    lengths = np.clip(drawn, 4, most).astype(int)
    starts = np.append(0, lengths.cumsum())
    ids = rng.integers(5, bench.config("base").vocab_size, starts[-1])
    labels = rng.integers(0, 2, n)
    if kind == "SQuAD":
        # the first and the last token of an answer
        labels = rng.integers(0, lengths[:, None], (n, 2))
    return Features(ids.astype(np.int32), starts, lengths // 2, labels, np.arange(n))


def pretrain_batch(inputs: Features) -> PretrainBatch:
    """All inputs as a batch; of each, 15% of the tokens of the longest are masked."""
    rng = np.random.default_rng(len(inputs.ids))
    batch = Batches(inputs, len(inputs))[0]
    n, length = batch.input_ids.shape
    shape = (n, max(1, round(0.15 * length)))
    positions = np.sort(rng.integers(1, inputs.lengths.min(), shape))
    words = torch.from_numpy(rng.integers(5, inputs.ids.max(), shape))
    weights = torch.full(shape, 1 / shape[1])
    return PretrainBatch(*batch[:3], torch.from_numpy(positions), words, weights, batch.labels)


def batches_of(bench: Bench, case: Case) -> list[Any]:
    """Batches of a case, on the CPU."""
    n_rows = 4 if bench.tiny else case.n_rows
    if case.kind.isdigit():
        return [pretrain_batch(features(bench, case.kind, n_rows, seed)) for seed in range(2)]
    batches = Batches(features(bench, case.kind, 50 * n_rows), n_rows, seed=1)
    return [batches[n] for n in range(2 if bench.tiny else 8)]


# -------------------------------------------------------------------------------------------- sides


def label_loss(model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a classifier's scores (B, labels), and of an answer's (B, S, 2)."""
    return F.cross_entropy(model(**batch.inputs).float(), batch.labels), {}


def our_model(bench: Bench, case: Case, p_drop: float = 0.1) -> models.BertModel:
    """The model of a case, made on the device, which is faster."""
    kind: Any = models.PretrainModel if case.kind.isdigit() else models.Classifier
    if case.kind == "SQuAD":
        kind = models.QuestionAnswering
    torch.manual_seed(0)
    with bench.device:
        return kind(bench.config(case.model, p_drop))


def check_flash(bench: Bench, way: str) -> None:
    """An error where the program would take another way instead."""
    if WAYS[way].get("flash") and (reason := packing.flash_differs(bench.device, HEAD_DIM)):
        raise RuntimeError(f"attention=flash does not work here: {reason}")


def wrap(bench: Bench, model: nn.Module, way: str) -> nn.Module:
    """The model as the Trainer wraps it."""
    check_flash(bench, way)
    return inference.wrap(model, bench.device, bench.dtype, **WAYS[way])


def our_side(bench: Bench, case: Case, way: str, p_drop: float = 0.1) -> Side:
    """Our model and optimizer, used as the Trainer does."""
    model = our_model(bench, case, p_drop).train()
    wrapped = wrap(bench, model, way)
    optimizer = BertAdam(parameter_groups(model), 2e-5, 10**6)
    get_loss = pretraining_task.get_loss if case.kind.isdigit() else label_loss
    numbers = itertools.count()

    def step(batch: Any) -> Tensor:
        train.seed_step(0, next(numbers))
        loss, _ = get_loss(wrapped, batch)
        loss.backward()
        optimizer.step(loss=loss)
        optimizer.zero_grad()
        return loss.detach()

    rounded = WAYS[way].get("cuda_graphs", False)
    return make_side(bench, case, step, partial(inference.prepare, rounded=rounded))


def make_side(bench: Bench, case: Case, step: Callable, prepare: Callable) -> Side:
    """A side that prepares a case's batches its own way."""
    batches = batches_of(bench, case)
    n_tokens = sum(int(batch.input_mask.sum()) for batch in batches)
    n_masked = sum(batch.words.numel() for batch in batches if hasattr(batch, "words"))
    return Side(step, [prepare(batch, bench.device) for batch in batches], n_tokens, n_masked)


def their_batch(batch: Any, device: torch.device) -> dict[str, Tensor]:
    """A batch as transformers takes it."""
    inputs = {"input_ids": batch.input_ids, "token_type_ids": batch.segment_ids}
    # Where nothing is padded, a mask would make it wait, or choose a slower kernel.
    if not batch.input_mask.all():
        inputs["attention_mask"] = batch.input_mask
    if isinstance(batch, PretrainBatch):
        # -100: not in the loss
        ignored = torch.full_like(batch.input_ids, -100)
        inputs["labels"] = ignored.scatter(1, batch.positions, batch.words)
    else:
        inputs["labels"] = batch.labels
    return {name: tensor.to(device) for name, tensor in inputs.items()}


def their_model(bench: Bench, case: Case) -> nn.Module:
    """The model of transformers for a case."""
    import transformers

    shape = transformers.BertConfig(**bench.config(case.model).to_released())
    head = "MaskedLM" if case.kind.isdigit() else "SequenceClassification"
    kind = getattr(transformers, f"BertFor{head}")
    return kind._from_config(shape, attn_implementation="sdpa").to(bench.device)


def their_side(bench: Bench, case: Case, compiled: bool) -> Side:
    """transformers with fused AdamW and clipping."""
    model = their_model(bench, case).train()
    runs = torch.compile(model, dynamic=True) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), 2e-5, fused=True)

    def step(batch: dict[str, Tensor]) -> Tensor:
        with torch.autocast(bench.device.type, torch.bfloat16, enabled=bench.gpu):
            loss = runs(**batch).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return make_side(bench, case, step, their_batch)

"""What benchmarks/gpu.py measures with: its rows, data, our side and that of transformers."""

import contextlib
import dataclasses
import gc
import importlib.util
import itertools
import json
import math
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TextIO

import numpy as np
import torch
import torch.nn.functional as F
from common import seconds
from finetuning import DTYPES
from torch import Tensor, nn

import models
import train
from layers import packing
from pretraining.batches import PretrainBatch
from tasks import pretrain as pretraining_task
from tasks.encoding import Batches, Features
from training import inference
from training.batches import move, prefetch, prepare
from training.graphs import own_stream

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
# The same, but normal, with the deviation in tokens: of ModernBERT's variable lengths.
NORMAL = {"variable": (256, 64, 512)}


class Way(NamedTuple):
    """How ours computes."""

    flash: bool = False  # attention for real tokens alone
    fused: bool = False  # by kernels of several operations, where inference.wrap sets them
    compiled: bool = False
    graphs: bool = False  # CUDA graphs


# "with cuDNN" is seen to by Bench.attempt.
WAYS = {
    "sdpa": Way(),
    "sdpa with cuDNN": Way(),
    "flash, plain": Way(flash=True),
    "flash, fused": Way(flash=True, fused=True),
    "flash, compiled": Way(flash=True, compiled=True),
    "flash, CUDA graphs": Way(flash=True, graphs=True),
    "flash, fused, CUDA graphs": Way(flash=True, fused=True, graphs=True),
}
# What train.Config is told where CUDA graphs are asked for.
GRAPHS: dict[str, Any] = {"cuda_graphs": True}
# Attention's ways; last comes what cuDNN makes slow the first time.
ATTENTION = ("flash, plain", "sdpa", "sdpa with cuDNN")
ROUNDS = 3  # that sides are measured in, each in its turn

Found = tuple[Any, str, str]  # a value, its unit, and what else there is to say


class Skipped(Exception):
    """Why there is nothing to measure."""


class Case(NamedTuple):
    """What is trained: pre-training on inputs of one length, or fine-tuning."""

    model: str
    kind: str  # of LENGTHS
    n_rows: int  # of a batch


# 32k tokens a step.
BASE = Case("base", "128", 256)
FULL = (BASE, Case("base", "512", 64), Case("large", "128", 256), Case("large", "512", 64))
MRPC = Case("base", "MRPC", 32)


class Side(NamedTuple):
    """An implementation at work on a case."""

    model: nn.Module
    step: Callable[[Any], Tensor]  # an update with a batch, which returns the loss
    batches: list[Any]  # on the device
    n_tokens: int  # of all batches
    n_masked: int


class Entrant(NamedTuple):
    """What is measured in turn with others."""

    ready: Callable[[], object]  # comes before, and is not timed
    run: Callable[[], object]  # what is timed
    amount: float  # of tokens or rows in a run
    describe: Callable[[float], str]  # what else there is to say of a run of so many seconds


@dataclasses.dataclass
class Bench:
    """A run: its rows, and what all parts share."""

    device: torch.device
    tiny: bool
    file: TextIO
    part: str = ""
    end: float = 0.0  # of the part, by time.monotonic()
    rate: float = 0.0  # FLOP a second of the fastest product of part 1
    # The gradients in float64 that others are compared with, by the name of the parameter.
    exact: dict[str, Tensor] | None = None
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

    @property
    def left(self) -> float:
        """Seconds of the part that are left."""
        return self.end - time.monotonic()

    def measure(
        self, name: str, way: str, function: Callable[..., Found], *inputs: Any, needs: float = 5
    ) -> None:
        """The row of what function(bench, way, *inputs) finds, as attempt() calls it."""
        found = self.attempt(name, way, function, *inputs, needs=needs)
        if found is not None:
            self.write(named(name, way), *found)
        self.tidy()

    def attempt(
        self, name: str, way: str, function: Callable[..., Any], *inputs: Any, needs: float = 5
    ) -> Any:
        """function(bench, way, *inputs); None where it fails, which is a row of its own.

        It is skipped with fewer seconds left than it needs. The way is one of WAYS or of
        transformers, "" where there is but one, "GPU" on a GPU alone.
        """
        name, left = named(name, way), self.left
        if not self.gpu and not on_cpu(way):
            self.write(name, None, "skipped", "needs a GPU")
        elif left < needs:
            self.write(name, None, "skipped", f"needs {needs} s, {max(left, 0):.0f} are left")
        else:
            try:
                with time_limit(left), cudnn_attention(uses_cudnn(way)):
                    return function(self, way, *inputs)
            except (ImportError, Skipped) as error:
                self.write(name, None, "skipped", str(error))
            except Exception as error:
                words = f"{type(error).__name__}: {' '.join(str(error).split())}"
                self.write(name, None, "error", words[:300])
            # What failed, for want of memory perhaps, must not keep it.
            gc.collect()
        return None

    def tidy(self) -> None:
        """Free what was measured, so that the next measurement gets its memory."""
        if self.gpu:
            torch.compiler.reset()
            gc.collect()
            # A kernel that broke the card's context makes every call fail from here on.
            with contextlib.suppress(RuntimeError):
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()


def named(name: str, way: str) -> str:
    """The name of a row: "base 128, flash, fused"."""
    return name if way in ("", "GPU") else f"{name}, {way}"


def on_cpu(way: str) -> bool:
    """Whether a CPU will do for a way; compiling there takes minutes."""
    return way in ("", "sdpa") or (way.startswith("transformers") and "compiled" not in way)


def uses_cudnn(way: str) -> bool:
    """Whether attention may use cuDNN's kernels: as PyTorch has it, but not as our programs do."""
    if way.startswith("transformers"):
        return "without cuDNN" not in way
    return "with cuDNN" in way


# ---------------------------------------------------------------------------------- sides in turn


def in_turn(
    bench: Bench,
    name: str,
    ways: dict[str, float],
    start: Callable[..., Entrant],
    *inputs: Any,
    unit: str = "tokens/s",
) -> None:
    """A row for each way: how much it does a second, the median of rounds, and their spread.

    Each round has every way in turn, so that all share the card's moods. start(bench, way,
    *inputs) warms up.

    Args:
        ways: and the seconds that each needs.
    """
    before = clock()
    entrants = started(bench, name, ways, start, *inputs)
    rates = in_rounds(bench, name, entrants)
    after = clock()
    write_rates(bench, name, entrants, rates, unit)
    if before:
        bench.write(f"{name}, clock and power", after, "", f"before {before}")
    entrants.clear()
    bench.tidy()


def started(
    bench: Bench, name: str, ways: dict[str, float], start: Callable[..., Entrant], *inputs: Any
) -> dict[str, Entrant]:
    """The ways that have warmed up; the others have a row that says why not."""
    found = {way: bench.attempt(name, way, start, *inputs, needs=ways[way]) for way in ways}
    return {way: entrant for way, entrant in found.items() if entrant is not None}


def in_rounds(bench: Bench, name: str, entrants: dict[str, Entrant]) -> dict[str, list[float]]:
    """How much each does a second in each round; one that fails is taken out."""
    rates: dict[str, list[float]] = {way: [] for way in entrants}
    taken = 0.0
    for n in range(1 if bench.tiny else ROUNDS):
        # What was measured is not lost for want of time.
        if n and bench.left < 1.5 * taken:
            break
        begun = time.monotonic()
        for way in list(entrants):
            once = bench.attempt(name, way, one_round, entrants[way], needs=0)
            if once is None:
                del entrants[way], rates[way]
            else:
                rates[way].append(entrants[way].amount / once)
        taken = time.monotonic() - begun
    return rates


def write_rates(
    bench: Bench,
    name: str,
    entrants: dict[str, Entrant],
    rates: dict[str, list[float]],
    unit: str,
) -> None:
    """The rows of what was measured in turn."""
    medians = {way: statistics.median(found) for way, found in rates.items()}
    for way, entrant in entrants.items():
        median, spread = median_and_spread(rates[way])
        more = [entrant.describe(entrant.amount / median)]
        more.append(f"spread {spread:.1%} of {len(rates[way])} rounds")
        more += [f"{median / medians[peer]:.2f} times {peer}" for peer in peers(way, medians)]
        if way.startswith("transformers"):
            more += missing()
        bench.write(named(name, way), median, unit, ", ".join(more))


def one_round(_: Bench, __: str, entrant: Entrant) -> float:
    """Seconds of a run."""
    # The side before has taken the memory that PyTorch keeps, in pieces of its own sizes.
    entrant.ready()
    return seconds(entrant.run)


def median_and_spread(values: list[float]) -> tuple[float, float]:
    """The median, and the distance of the extremes as a share of it.

    median_and_spread([90.0, 100.0, 120.0]) -> (100.0, 0.3)
    """
    median = statistics.median(values)
    return median, (max(values) - min(values)) / median


def peers(way: str, others: dict[str, float]) -> list[str]:
    """Whom one of our ways is quoted beside: what is compiled beside what is compiled too.

    Fused kernels are our best without a compiler, and are quoted beside all.
    """
    if way not in WAYS:
        return []
    theirs = [other for other in others if other.startswith("transformers")]
    if WAYS[way].fused:
        return theirs
    return [other for other in theirs if ("compiled" in other) == WAYS[way].compiled]


def missing() -> list[str]:
    """What transformers would be faster with, and the machine lacks."""
    return [] if importlib.util.find_spec("flash_attn") else ["without the flash-attn package"]


def clock() -> str:
    """The clock of the first GPU's multiprocessors and its power: "1980 MHz, 98 W"; "": unknown."""
    query = ["nvidia-smi", "--query-gpu=clocks.sm,power.draw", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=5, check=True)
        mhz, watts = done.stdout.splitlines()[0].split(",")
        return f"{int(mhz)} MHz, {float(watts):.0f} W"
    except (OSError, subprocess.SubprocessError, LookupError, ValueError):
        return ""


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
    torch.backends.cuda.enable_cudnn_sdp(allowed)
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
    mean, deviation, most = (LENGTHS | NORMAL)[kind]
    if bench.tiny:
        mean, most = mean // 4, most // 8
    if kind in NORMAL:
        drawn = rng.normal(mean, deviation, n)
    else:
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
    if WAYS[way].flash and (reason := packing.flash_differs(bench.device, HEAD_DIM)):
        raise RuntimeError(f"attention=flash does not work here: {reason}")


def settings_of(bench: Bench, way: str) -> dict[str, Any]:
    """What train.Config is told to compute in one of our ways."""
    how = WAYS[way]
    settings: dict[str, Any] = {
        "dtype": bench.dtype,
        "attention": "flash" if how.flash else "sdpa",
        "compile": how.compiled,
        "cuda_graphs": False,
        "gradient_accumulation": 1,
    }
    return settings | GRAPHS if how.graphs else settings


def choose_kernels(model: nn.Module, fused: bool) -> None:
    """Let a model that is wrapped compute with its fused kernels, or without; Skipped: it has none.

    Where a kernel works is for inference.wrap to say.
    """
    modules: list[Any] = [module for module in model.modules() if hasattr(module, "fused")]
    if fused and not any(module.fused for module in modules):
        raise Skipped("no fused kernels")
    if not fused:
        for module in modules:
            module.fused = False


def wrap(bench: Bench, model: nn.Module, way: str) -> nn.Module:
    """The model as programs wrap it that predict."""
    check_flash(bench, way)
    how = WAYS[way]
    wrapped = inference.wrap(
        model, bench.device, bench.dtype, compiled=how.compiled, flash=how.flash
    )
    choose_kernels(model, how.fused)
    return wrapped


def trainer_of(
    bench: Bench, case: Case, way: str, folder: str, batches: Any, p_drop: float, **settings: Any
) -> train.Trainer:
    """A Trainer of a case's model."""
    check_flash(bench, way)
    cfg = train.Config(**settings_of(bench, way), **settings)
    model = our_model(bench, case, p_drop)
    trainer = train.Trainer(cfg, model, batches, folder, data_parallel=False)
    choose_kernels(model, WAYS[way].fused)
    return trainer


def our_side(bench: Bench, case: Case, way: str, p_drop: float = 0.1) -> Side:
    """Our model and optimizer, by the Trainer's own step."""
    # The whole rate from the first update on, as nobody trains for so many. Nothing is written.
    length = {"total_steps": 10**6, "warmup": 0.0}
    trainer = trainer_of(bench, case, way, "none", None, p_drop, **length)
    trainer.wrapped.train()
    get_loss = pretraining_task.get_loss if case.kind.isdigit() else label_loss
    numbers = itertools.count()

    def step(batch: Any) -> Tensor:
        trainer.state.step = next(numbers)
        train.seed_step(trainer.cfg.seed, trainer.state.step)
        with own_stream(trainer.device, trainer.records):
            made = train.MicroBatches(1, [train.Part(batch, range(1), 1.0)], None)
            means = trainer.compute(trainer.wrapped, get_loss, made)
            trainer.optimizer.step(loss=means["loss"])
            trainer.optimizer.zero_grad()
        return means["loss"]

    return make_side(bench, case, trainer.model, step, trainer.prepare)


def make_side(
    bench: Bench, case: Case, model: nn.Module, step: Callable, prepare: Callable
) -> Side:
    """A side that prepares a case's batches its own way."""
    batches = batches_of(bench, case)
    n_tokens = sum(int(batch.input_mask.sum()) for batch in batches)
    n_masked = sum(batch.words.numel() for batch in batches if hasattr(batch, "words"))
    return Side(model, step, [prepare(batch) for batch in batches], n_tokens, n_masked)


# ------------------------------------------------------------------------------------ transformers


def their_batch(batch: Any, device: torch.device, gathered: bool = False) -> dict[str, Tensor]:
    """A batch as transformers takes it, or as Gathered does."""
    inputs = {"input_ids": batch.input_ids, "token_type_ids": batch.segment_ids}
    # Where nothing is padded, a mask would make it wait, or choose a slower kernel.
    if not batch.input_mask.all():
        inputs["attention_mask"] = batch.input_mask
    if isinstance(batch, PretrainBatch) and gathered:
        n, length = batch.input_ids.shape
        # (B, P) -> (B * P,) of all tokens of the batch
        inputs["cells"] = (batch.positions + length * torch.arange(n)[:, None]).flatten()
        inputs["labels"] = batch.words.flatten()
    elif isinstance(batch, PretrainBatch):
        # -100: not in the loss
        ignored = torch.full_like(batch.input_ids, -100)
        inputs["labels"] = ignored.scatter(1, batch.positions, batch.words)
    else:
        inputs["labels"] = batch.labels
    return {name: move(tensor, device) for name, tensor in inputs.items()}


class Gathered(nn.Module):
    """BertForMaskedLM of transformers, whose head computes the masked tokens alone."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, cells: Tensor, labels: Tensor, **inputs: Tensor) -> Tensor:
        hidden = self.model.bert(**inputs).last_hidden_state  # (B, S, D)
        scores = self.model.cls(hidden.flatten(0, 1)[cells])  # (B * P, V)
        return F.cross_entropy(scores.float(), labels)


def their_model(bench: Bench, case: Case) -> nn.Module:
    """The model of transformers for a case."""
    import transformers

    shape = transformers.BertConfig(**bench.config(case.model).to_released())
    head = "MaskedLM" if case.kind.isdigit() else "SequenceClassification"
    kind = getattr(transformers, f"BertFor{head}")
    return kind._from_config(shape, attn_implementation="sdpa").to(bench.device)


def their_encoder(bench: Bench, name: str) -> nn.Module:
    """BERT or ModernBERT of transformers without a head, base."""
    import transformers

    if name == "ModernBert":
        # Its defaults are ModernBERT-base.
        tiny = {"vocab_size": 1000, "hidden_size": 32, "intermediate_size": 48}
        tiny |= {"num_hidden_layers": 3, "num_attention_heads": 2}
        tiny |= {f"{token}_token_id": 0 for token in ("pad", "bos", "eos", "cls", "sep")}
        shape = transformers.ModernBertConfig(**tiny if bench.tiny else {})
    else:
        shape = transformers.BertConfig(**bench.config("base").to_released())
    kind = getattr(transformers, f"{name}Model")
    found = "flash_attention_2" if not missing() and bench.gpu else "sdpa"
    dtype = DTYPES[bench.dtype]
    return kind._from_config(shape, attn_implementation=found, dtype=dtype).to(bench.device)


def their_side(bench: Bench, case: Case, way: str) -> Side:
    """transformers with fused AdamW and clipping."""
    model, gathered = their_model(bench, case).train(), "gathered" in way
    runs: Any = Gathered(model) if gathered else model
    if "compiled" in way:
        # Shapes of pre-training are always the same.
        runs = torch.compile(runs, dynamic=not case.kind.isdigit())
    optimizer = torch.optim.AdamW(model.parameters(), 2e-5, fused=True)

    def step(batch: dict[str, Tensor]) -> Tensor:
        with torch.autocast(bench.device.type, torch.bfloat16, enabled=bench.gpu):
            out = runs(**batch)
        loss = out if gathered else out.loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    def prepare(batch: Any) -> dict[str, Tensor]:
        return their_batch(batch, bench.device, gathered)

    return make_side(bench, case, model, step, prepare)


# --------------------------------------------------------------------------------------- predicting


class Reader(NamedTuple):
    """A model that predicts."""

    make: Callable[[int], Any]  # a batch on the device
    compute: Callable[[Any], Tensor]  # its outputs
    run: Callable[[], object]  # one pass over all batches


def our_reader(
    bench: Bench, model: nn.Module, way: str, batches: Batches, outputs: Callable
) -> Reader:
    """Ours, by inference.predict."""
    wrapped = wrap(bench, model, way).eval()
    return Reader(
        lambda n: prepare(batches[n], bench.device),
        torch.inference_mode()(lambda batch: outputs(wrapped, batch)),
        lambda: inference.predict(wrapped, batches, bench.device, bench.dtype, outputs),
    )


def their_reader(bench: Bench, model: nn.Module, batches: Batches, outputs: Callable) -> Reader:
    """That of transformers; a thread makes its batches, too."""
    model.to(DTYPES[bench.dtype]).eval()

    def make(n: int) -> dict[str, Tensor]:
        return their_batch(batches[n], bench.device)

    compute = torch.inference_mode()(lambda batch: outputs(model, batch))

    def run() -> Tensor:
        with contextlib.closing(prefetch(make, range(len(batches)))) as made:
            return torch.cat([compute(batch) for batch in made]).float().cpu()

    return Reader(make, compute, run)


# ---------------------------------------------------------------------------------- whole runs


class Saves:
    """How long the saves of a Trainer take, filled while it trains, in seconds."""

    def __init__(self, trainer: train.Trainer):
        self.held = self.waited = self.written = self.all_waits = 0.0
        self.n = 0
        self.functions = trainer.save, trainer.checkpoints.wait, trainer.checkpoints.write
        trainer.save = self.save  # type: ignore[method-assign]
        trainer.checkpoints.wait = self.wait  # type: ignore[method-assign]
        trainer.checkpoints.write = self.write  # type: ignore[method-assign]

    def save(self) -> None:
        """What holds the loop: the copy on the device, and waiting for the file before."""
        start, before = time.perf_counter(), self.all_waits
        self.functions[0]()
        self.held += time.perf_counter() - start
        self.waited += self.all_waits - before
        self.n += 1

    def wait(self) -> None:
        start = time.perf_counter()
        self.functions[1]()
        self.all_waits += time.perf_counter() - start

    def write(self, *arguments: Any) -> None:
        """In a thread of its own, with the way from the GPU to the CPU."""
        start = time.perf_counter()
        self.functions[2](*arguments)
        self.written += time.perf_counter() - start

    def __str__(self) -> str:
        copied, last = self.held - self.waited, self.all_waits - self.waited
        return (
            f"{self.n} saves: copy {copied:.2f} s, wait {self.waited:.2f} s, write "
            f"{self.written:.2f} s in a thread, {last:.2f} s of it at the end"
        )

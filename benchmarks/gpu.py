"""What one GPU does: attention, exactness, training, fine-tuning, inference, in ten minutes.

    $ python benchmarks/gpu.py [--minutes 10] [--parts 1,4] [--out gpu.jsonl] [--tiny True]

Random token ids and random weights: nothing is downloaded. Each row is written as soon as it is
measured. What fails becomes a row with the error, and what does not fit in the time a row that says
so. With --tiny True all models are tiny, and a CPU will do for what needs no GPU.

Tokens are real ones, without padding. The share of the matrix rate is 6 x (weights of the blocks) x
(tokens), and 6 x (weights of the masked-word head) x (masked tokens), a second, over the fastest
product of part 1. transformers gets fused AdamW, and no mask where nothing is padded; it scores the
vocabulary for every token, ours for the masked ones.
"""

import contextlib
import importlib
import io
import itertools
import re
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import ROOT, as_command, median_seconds, report, seconds
from finetuning import DTYPES
from gpu_sides import (
    ATTENTION,
    BASE,
    CASES,
    HEAD_DIM,
    MRPC,
    SIDES,
    SIZES,
    WAYS,
    Bench,
    Case,
    Found,
    batches_of,
    check_flash,
    deterministic,
    features,
    label_loss,
    our_model,
    our_side,
    pretrain_batch,
    shown,
    their_batch,
    their_model,
    their_side,
    wrap,
)
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

import models
import train
from layers import packing
from system.cli import command
from tasks import pretrain as pretraining_task
from tasks.encoding import Batches
from training import devices, inference
from utils import UserError

# -------------------------------------------------------------------------------------- 1. the card


def card(bench: Bench) -> None:
    """What the card is, and how fast it multiplies and copies."""
    bench.measure("card", "GPU", describe_card)
    bench.measure("torch", "", lambda *_: (torch.__version__, "", f"CUDA {torch.version.cuda}"))
    bench.measure(
        "triton", "GPU", lambda *_: (importlib.import_module("triton").__version__, "", "")
    )
    for sizes in ((8192, 1024, 4096), (2048, 768, 3072)):
        bench.measure(f"product {'x'.join(map(str, sizes))}", "", product_rate, *sizes)
    for source in ("pinned memory", "pageable memory", "the device"):
        bench.measure(f"copy from {source}", "GPU", copy_rate, source)


def describe_card(bench: Bench, _: str) -> Found:
    """Its name and size."""
    found = torch.cuda.get_device_properties(bench.device)
    more = f"{found.total_memory / 1e9:.0f} GB, {found.multi_processor_count} multiprocessors"
    return found.name, "", more


def product_rate(bench: Bench, _: str, n_rows: int, n_in: int, n_out: int) -> Found:
    """The rate of F.linear."""
    if bench.tiny:
        n_rows, n_in, n_out = n_rows // 16, n_in // 16, n_out // 16
    x, weight = bench.random(n_rows, n_in), bench.random(n_out, n_in)
    # Many at a time, or launching them would count.
    taken = median_seconds(lambda: [F.linear(x, weight) for _ in range(50)], 5) / 50
    rate = 2 * n_rows * n_in * n_out / taken
    bench.rate = max(bench.rate, rate)
    return rate / 1e12, "TFLOP/s", bench.dtype


def copy_rate(bench: Bench, _: str, source: str) -> Found:
    """The rate at which a quarter of a gigabyte comes to the device."""
    there = torch.zeros(2**28, dtype=torch.uint8, device=bench.device)
    here = there.clone()
    if "memory" in source:
        here = torch.zeros(2**28, dtype=torch.uint8, pin_memory=source.startswith("pinned"))
    taken = median_seconds(lambda: there.copy_(here, non_blocking=True), 5)
    return 2**28 / taken / 1e9, "GB/s", ""


# ------------------------------------------------------------------------------------- 2. attention


def attention(bench: Bench) -> None:
    """Which kernels compute it, whether they drop what they should, and how long they take."""
    differs = partial(packing.flash_differs, bench.device, HEAD_DIM)
    bench.measure("flash differs from padded", "GPU", lambda *_: (differs() or "no", "", ""))
    for p_drop, masked in itertools.product((0.0, 0.1), (False, True)):
        name = f"kernels, p={p_drop}, {'masked' if masked else 'no mask'}"
        bench.measure(name, "sdpa", kernels_used, p_drop, masked)
    for way in ("sdpa without cuDNN", "sdpa"):
        bench.measure("first call of a shape", way, first_calls, needs=10)
    for way in ATTENTION:
        bench.measure("dropped at p=0.1", way, dropped)
    for (n, length), p_drop in itertools.product(((256, 128), (64, 512)), (0.0, 0.1)):
        for way in ATTENTION:
            name = f"forward and backward {n}x{length}, p={p_drop}"
            bench.measure(name, way, attention_time, n, length, p_drop)


def attend(bench: Bench, n: int, length: int, p_drop: float, masked: bool) -> Callable[[], None]:
    """Forward and backward of PyTorch's attention."""
    n_heads = bench.config("base").n_heads
    inputs = bench.random(3, n, n_heads, length, 64).requires_grad_()
    lengths = torch.randint(length // 2, length + 1, (n, 1, 1, 1), device=bench.device)
    mask = torch.arange(length, device=bench.device) < lengths if masked else None

    def call() -> None:
        inputs.grad = None
        F.scaled_dot_product_attention(*inputs.unbind(), mask, p_drop).sum().backward()

    return call


def kernels_used(bench: Bench, _: str, p_drop: float, masked: bool) -> Found:
    """The kernels that take longest."""
    call = attend(bench, 2 if bench.tiny else 64, 128, p_drop, masked)
    call()
    names = [name for name, _, _ in kernels_of(bench, call)]
    return names[0], "", f"then {', '.join(names[1:4])}"


def first_calls(bench: Bench, _: str) -> Found:
    """What a shape that was not seen before takes, beside what it takes again."""
    # The first of all loads the libraries.
    n = 2 if bench.tiny else 32
    calls = [attend(bench, n, length, 0.1, True) for length in (64, 83, 91, 101, 107, 113)]
    first, again = ([1000 * seconds(call) for call in calls][1:] for _ in range(2))
    each = ", ".join(f"{ms:.1f}" for ms in first)
    return float(np.mean(first)), "ms", f"each {each}; again {np.mean(again):.2f}"


def dropped(bench: Bench, way: str) -> Found:
    """The share of the weights that are dropped: where v is the identity, these come out."""
    n, n_heads, size = (8, 2, 16) if bench.tiny else (128, 12, 64)
    packed = inference.move(packing.Packing.of(torch.ones(n, size)), bench.device)
    identity = torch.eye(size, device=bench.device, dtype=DTYPES[bench.dtype]).repeat(n, n_heads)
    zeros = torch.zeros_like(identity)
    out = packing.self_attention(zeros, zeros, identity, packed, n_heads, 0.1, way == "flash")
    return float((out == 0).float().mean()), "", f"of {out.numel():,} weights"


def attention_time(bench: Bench, way: str, n: int, length: int, p_drop: float) -> Found:
    """Forward and backward of tokens as they are in a model, 90% of the padded batch."""
    if bench.tiny:
        n, length = n // 16, length // 16
    cfg = bench.config("base")
    lengths = torch.randint(int(0.8 * length), length + 1, (n, 1))
    packed = packing.Packing.of(torch.arange(length) < lengths)
    packed = inference.move(packed, bench.device)
    inputs = bench.random(len(packed.cells), 3 * cfg.dim).requires_grad_()

    def call() -> None:
        inputs.grad = None
        q, k, v = inputs.chunk(3, dim=-1)
        out = packing.self_attention(q, k, v, packed, cfg.n_heads, p_drop, way == "flash")
        out.backward(out.detach())

    n_calls = 1 if bench.tiny else 10
    taken = median_seconds(lambda: [call() for _ in range(n_calls)], 3) / n_calls
    return 1000 * taken, "ms", f"{len(inputs):,} tokens, width {cfg.dim}"


# ------------------------------------------------------------------------------------- 3. exactness


def exactness(bench: Bench) -> None:
    """What the fast ways change in the results, and whether a step ever waits for the GPU."""
    for way in ("sdpa", "flash"):
        bench.measure("gradient against float64", way, gradient_difference, False)
        bench.measure("gradient against float64, rounded", way, gradient_difference, True)
        bench.measure("a step twice", way, same_bits, False)
        bench.measure("a step twice, deterministic algorithms", way, same_bits, True)
    for way in ("sdpa without cuDNN", "flash"):
        bench.measure("waits in 20 steps", way, waits)
    for way in ("flash, compiled", "flash, CUDA graphs"):
        bench.measure("losses of 20 steps against flash", way, loss_difference, needs=20)


def gradient(model: nn.Module, loss: Tensor) -> Tensor:
    """The gradients of all parameters, one after the other."""
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def gradient_difference(bench: Bench, way: str, rounded: bool) -> Found:
    """The length of the difference, divided by the gradient's."""
    # Rounding up the tokens of these 64 makes an example of [PAD] that is longer than all others.
    batch = pretrain_batch(features(bench, "MRPC", 64))
    found = []
    for exact in (True, False):
        # On the CPU both times, so that the weights are the same.
        torch.manual_seed(0)
        model = models.PretrainModel(bench.config("small", p_drop=0.0))
        device = torch.device("cpu") if exact else bench.device
        wrapped = model.double() if exact else wrap(bench, model, way)
        made = inference.prepare(batch, device, rounded=rounded and not exact)
        # A kernel that leaves a part of its output unwritten must not pass by good luck.
        with deterministic(rounded):
            found.append(
                gradient(model, pretraining_task.get_loss(wrapped, made)[0]).double().cpu()
            )
    difference = (found[0] - found[1]).norm() / found[0].norm()
    return float(difference), "", f"{bench.dtype}, {len(found[0]):,} parameters"


def same_bits(bench: Bench, way: str, exact: bool) -> Found:
    """Whether a step with the same seed gives the same gradient."""
    model = our_model(bench, MRPC)
    wrapped = wrap(bench, model, way)
    batch = inference.prepare(batches_of(bench, MRPC)[0], bench.device)
    found = []
    for _ in range(2):
        train.seed_step(0, 1)
        with deterministic(exact):
            found.append(gradient(model, label_loss(wrapped, batch)[0]))
    n_other = int((found[0] != found[1]).sum())
    return "other bits" if n_other else "same bits", "", f"{n_other:,} of {len(found[0]):,} differ"


def waits(bench: Bench, way: str) -> Found:
    """Where a step waits for the GPU, if anywhere."""
    side = our_side(bench, MRPC, way)
    # The first update makes the optimizer's state, and may wait.
    side.step(side.batches[0])
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in itertools.islice(itertools.cycle(side.batches), 20):
            side.step(batch)
    except RuntimeError as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f"{Path(f.filename).name}:{f.lineno}" for f in frames if str(ROOT) in f.filename]
        return "yes", "", f"{ours[-1]}: {' '.join(str(error).split())[:200]}"
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "no", "", ""


def loss_difference(bench: Bench, way: str) -> Found:
    """The largest difference; without dropout, whose random numbers a compiler draws otherwise."""
    losses = []
    for each in ("flash", way):
        side = our_side(bench, MRPC, each, p_drop=0.0)
        batches = itertools.islice(itertools.cycle(side.batches), 20)
        losses.append(torch.stack([side.step(batch) for batch in batches]))
    plain, other = losses
    return float((plain - other).abs().max()), "", f"losses {plain[0]:.4f} to {plain[-1]:.4f}"


# -------------------------------------------------------------------------------------- 4. training


def training(bench: Bench) -> None:
    """Tokens a second, the most telling first."""
    rows = [(BASE, way, 8) for way in SIDES]
    rows += [(BASE, "flash, compiled", 20), (MRPC, "flash, CUDA graphs", 20)]
    rows += [(BASE, "transformers without cuDNN, compiled", 40)]
    rows += [(case, way, 8) for case in CASES[1:] for way in SIDES]
    rows += [(case, "flash, compiled", 20) for case in CASES[1:]]
    rows += [(MRPC, "transformers without cuDNN, compiled", 40)]
    for case, way, needs in rows:
        bench.measure(f"{case.model} {case.kind}", way, throughput, case, needs=needs)


def throughput(bench: Bench, way: str, case: Case) -> Found:
    """Tokens a second, when all batches have been seen."""
    theirs = way.startswith("transformers")
    side = their_side(bench, case, "compiled" in way) if theirs else our_side(bench, case, way)
    first = seconds(lambda: [side.step(batch) for batch in side.batches])
    # A CUDA graph is recorded when its shape comes for the second time.
    for batch in side.batches:
        side.step(batch)
    n_rounds = 1 if bench.tiny else -(-20 // len(side.batches))
    taken = seconds(lambda: [side.step(batch) for batch in side.batches * n_rounds]) / n_rounds
    cfg, n_batches = bench.config(case.model), len(side.batches)
    blocks = cfg.n_layers * (4 * cfg.dim**2 + 2 * cfg.dim * cfg.dim_ff)
    work = 6 * (blocks * side.n_tokens + cfg.dim * (cfg.vocab_size + cfg.dim) * side.n_masked)
    more = [f"{work / taken / bench.rate:.0%} of the matrix rate" if bench.rate else "no rate"]
    more += [f"{1000 * taken / n_batches:.2f} ms a step", f"first {n_batches} steps {first:.1f} s"]
    if bench.gpu:
        more.append(f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB")
    return side.n_tokens / taken, "tokens/s", ", ".join(more)


# ----------------------------------------------------------------------------------- 5. fine-tuning


def fine_tuning(bench: Bench) -> None:
    """Whole runs of base by the Trainer: MRPC's 3 epochs, 300 steps of the others."""
    kinds = ("MRPC", "SST-2", "SQuAD")
    rows = [(kind, "flash", saves) for kind in kinds for saves in (False, True)]
    rows += [("MRPC", "flash, compiled", False), ("MRPC", "flash, CUDA graphs", False)]
    rows += [("MRPC", "sdpa without cuDNN", False), ("SQuAD", "sdpa", False)]
    rows += [("MRPC", "sdpa", True)]
    for kind, way, saves in rows:
        name = f"{kind}, {'a checkpoint every 100 steps' if saves else 'no checkpoints'}"
        bench.measure(name, way, run_time, kind, saves, needs=12)


def run_time(bench: Bench, way: str, kind: str, saves: bool) -> Found:
    """Seconds of a run, and how long saving held the loop."""
    n_rows, n_epochs = (3668, 3) if kind == "MRPC" else (9600, 1)
    if bench.tiny:
        n_rows = 64
    check_flash(bench, way)
    how = WAYS[way]
    cfg = train.Config(
        n_epochs=n_epochs,
        save_steps=(2 if bench.tiny else 100) if saves else 10**9,
        dtype=bench.dtype,
        attention="flash" if how.get("flash") else "sdpa",
        compile=how.get("compiled", False),
        cuda_graphs=how.get("cuda_graphs", False),
    )
    model = our_model(bench, Case("base", kind, cfg.batch_size))
    batches = Batches(features(bench, kind, n_rows), cfg.batch_size, cfg.seed)
    held: list[float] = []
    silent = io.StringIO()
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(silent),
        contextlib.redirect_stderr(silent),
    ):
        trainer = train.Trainer(cfg, model, batches, folder, data_parallel=False)
        save = trainer.save
        trainer.save = lambda: held.append(seconds(save))  # type: ignore[method-assign]
        taken = seconds(lambda: trainer.train(label_loss))
    more = f"{trainer.total_steps} steps, {len(held)} saves held the loop {sum(held):.2f} s"
    return taken, "s", more


# ------------------------------------------------------------------------------------- 6. inference


def predicting(bench: Bench) -> None:
    """Rows a second of MRPC's lengths, by batches of rows and of tokens."""
    for model, way, size in itertools.product(("minilm", "base"), SIDES, SIZES):
        case = Case(model, "MRPC", SIZES[size])
        bench.measure(f"{model}, batches of {size}", way, predicting_rate, case, "rows" in size)


def predicting_rate(bench: Bench, way: str, case: Case, by_rows: bool) -> Found:
    """Rows a second of the second pass; the first one meets all shapes for the first time."""
    inputs = features(bench, case.kind, 64 if bench.tiny else 2**13)
    # With a seed batches have as many rows, and similar lengths; without one as many tokens.
    batches = Batches(inputs, case.n_rows, seed=0 if by_rows else None)
    if way.startswith("transformers"):
        model = their_model(bench, case).to(DTYPES[bench.dtype]).eval()
        run = partial(their_outputs, model, batches, bench.device)
    else:
        wrapped = wrap(bench, our_model(bench, case), way)
        run = partial(inference.predict, wrapped, batches, bench.device, bench.dtype)
    first, again = (seconds(run) for _ in range(2))
    more = f"first pass {len(inputs) / first:,.0f}, {len(batches)} batches"
    return len(inputs) / again, "rows/s", more


@torch.inference_mode()
def their_outputs(model: nn.Module, batches: Batches, device: torch.device) -> Tensor:
    """The scores of transformers."""
    made = (their_batch(batches[n], device) for n in range(len(batches)))
    return torch.cat([model(**batch).logits for batch in made]).float().cpu()


# --------------------------------------------------------------------------------------- 7. profile


def profiles(bench: Bench) -> None:
    """What three steps consist of."""
    for case, way in itertools.product((BASE, MRPC), ("flash", "sdpa")):
        bench.measure(f"{case.model} {case.kind}, launches a step", way, launches, case)


def launches(bench: Bench, way: str, case: Case) -> Found:
    """Kernels of a step; the ten costliest have rows of their own."""
    side = our_side(bench, case, way)
    batches = (*side.batches, *side.batches)[:3]

    def three_steps() -> None:
        for batch in batches:
            side.step(batch)

    three_steps()
    taken = 1000 * seconds(three_steps) / 3
    kernels = kernels_of(bench, three_steps)
    for kernel, ms, n_calls in kernels[:10]:
        name = f"{case.model} {case.kind}, {way}: {kernel}"
        bench.write(name, ms / 3, "ms a step", f"{n_calls / 3:.0f} calls")
    # Copies and zeros are "Memcpy" and "Memset".
    n = sum(n_calls for kernel, _, n_calls in kernels if not kernel.startswith("Mem"))
    busy = sum(ms for _, ms, _ in kernels) / 3
    return n / 3, "", f"{busy:.2f} ms in kernels of {taken:.2f} ms a step"


def kernels_of(bench: Bench, function: Callable[[], object]) -> list[tuple[str, float, int]]:
    """Names, milliseconds and calls of the kernels, on a CPU of the operators; longest first."""
    with profile(activities=[ProfilerActivity.CUDA if bench.gpu else ProfilerActivity.CPU]) as seen:
        seconds(function)
    kind = DeviceType.CUDA if bench.gpu else DeviceType.CPU
    found = []
    for event in seen.key_averages():
        # A range that PyTorch names, such as the optimizer's step, is no kernel.
        named = getattr(event, "is_user_annotation", False)
        if event.device_type == kind and not named:
            us = event.self_device_time_total if bench.gpu else event.self_cpu_time_total
            # The arguments of a template tell kernels apart; where they are declared does not.
            name = re.sub(r"^void |at::native::|\(anonymous namespace\)::", "", event.key)
            found.append((name[:120], us / 1000, event.count))
    return sorted(found, key=lambda kernel: -kernel[1])


# ------------------------------------------------------------------------------------------ command

# Each part's share of the time; what one leaves over the next may use.
PARTS: dict[str, tuple[Callable[[Bench], None], float]] = {
    "1 card": (card, 0.06),
    "2 attention": (attention, 0.06),
    "3 exactness": (exactness, 0.13),
    "4 training": (training, 0.42),
    "5 fine-tuning": (fine_tuning, 0.16),
    "6 inference": (predicting, 0.11),
    "7 profile": (profiles, 0.06),
}


def run(
    minutes: float = 10, parts: str = "1,2,3,4,5,6,7", out: str | None = None, tiny: bool = False
) -> None:
    """Measure.

    Args:
        minutes: all of it takes less than this.
        parts: numbers of the parts to measure.
        out: file that gets the rows as JSON lines; None: beside the table, in benchmarks/results.
        tiny: with tiny models, to try the script.
    """
    device = devices.get_device()
    if device.type == "cpu" and not tiny:
        raise UserError("no GPU is visible; --tiny True tries the script on a CPU")
    title = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    file_name = "gpu_" + re.sub(r"\W+", "_", title) + ("_tiny" if tiny else "")
    # The first tensor on a card, and loading the compiler, take seconds, which are no part's.
    torch.zeros(1, device=device)
    torch.compiler.reset()
    # Loading has taken some seconds, and the table takes one.
    start, limit = time.monotonic(), 60 * minutes * 0.94
    chosen = {name: part for name, part in PARTS.items() if name[0] in parts.split(",")}
    whole, end = sum(share for _, share in chosen.values()), start
    with open(out or ROOT / "benchmarks" / "results" / f"{file_name}.jsonl", "w") as file:
        bench = Bench(device, tiny, file)
        for name, (measure, share) in chosen.items():
            end += share / whole * limit
            bench.part, bench.end = name, end
            measure(bench)
    lines = ["| part | what | value | unit | more |", "|---|---|---|---|---|"]
    for row in bench.rows:
        cells = [shown(cell).replace("|", "\\|") for cell in row.values()]
        lines.append(f"| {' | '.join(cells)} |")
    report(file_name, f"One GPU: {title}", "\n".join(lines))


if __name__ == "__main__":
    command(as_command(run))

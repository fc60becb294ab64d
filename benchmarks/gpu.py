"""What one GPU does: products, attention, exactness, training, fine-tuning, inference.

    $ python benchmarks/gpu.py [--minutes 8] [--parts 0,1,3,4,5,6,7] [--out gpu.jsonl] \\
          [--tiny True]

Random token ids and random weights: nothing is downloaded. Each row is written as soon as it is
measured. What fails becomes a row with the error, and what does not fit in the time a row that says
so. With --tiny True all models are tiny, and a CPU will do for what needs no GPU.

Tokens are real ones, without padding. The share of the matrix rate is 6 x (weights of the blocks) x
(tokens), and 6 x (weights of the masked-word head) x (masked tokens), a second, over the fastest
product of part 1. Sides are measured in turn, in three rounds.

transformers gets fused AdamW, no mask where nothing is padded, and cuDNN's attention, which our
programs do without. Its usual form scores the vocabulary for every token, ours for the masked ones;
"gathered" is its encoder with a head on the masked ones alone. "compiled" has static shapes where
these are fixed. Ours is quoted beside what is compiled as it is.
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
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from common import ROOT, as_command, median_seconds, report, seconds
from finetuning import DTYPES
from gpu_sides import (
    ATTENTION,
    BASE,
    FULL,
    HEAD_DIM,
    MRPC,
    WAYS,
    Bench,
    Case,
    Entrant,
    Found,
    Reader,
    Saves,
    Side,
    batches_of,
    check_flash,
    deterministic,
    features,
    in_turn,
    label_loss,
    our_model,
    our_reader,
    our_side,
    pretrain_batch,
    shown,
    their_encoder,
    their_model,
    their_reader,
    their_side,
    trainer_of,
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
from tasks.encoding import Batches, Features
from training import devices, inference
from training.batches import move, prepare
from utils import UserError

# --------------------------------------------------------------------------------------- 0. warm-up


def warm_up(bench: Bench) -> None:
    """What is slow the first time alone: libraries from a cold disk, kernels that are compiled."""
    bench.measure("import transformers", "", first_call, lambda: import_peer("BertModel"))
    bench.measure("first product", "", first_call, lambda: product(bench, 1024, 768, 768)[0]())
    bench.measure("first attention", "GPU", first_call, lambda: check_flash(bench, "flash, plain"))
    for way in ("sdpa", "flash, fused"):
        bench.measure("first step", way, first_step)


def import_peer(name: str) -> object:
    """A class of transformers, which imports what it needs when asked for it."""
    return getattr(importlib.import_module("transformers"), name)


def first_call(bench: Bench, _: str, function: Callable[[], object]) -> Found:
    """Seconds of a call."""
    return seconds(function), "s", ""


def first_step(bench: Bench, way: str) -> Found:
    """Seconds of a step of MRPC, after the model is made."""
    side = our_side(bench, MRPC, way)
    return seconds(lambda: side.step(side.batches[0])), "s", ""


# -------------------------------------------------------------------------------------- 1. the card


# Products of BERT-base: inputs and outputs of a row.
LAYERS = {"qkv": (768, 2304), "out": (768, 768), "fc1": (768, 3072), "fc2": (3072, 768)}
# The masked words of 256 rows of 128 tokens; 30,522 is no multiple of 8, as fast kernels need it.
N_MASKED, VOCABULARIES = 256 * 19, (30522, 30528)


def card(bench: Bench) -> None:
    """What the card is, and how fast it multiplies and copies."""
    bench.measure("card", "GPU", describe_card)
    bench.measure("torch", "", lambda *_: (torch.__version__, "", f"CUDA {torch.version.cuda}"))
    bench.measure(
        "triton", "GPU", lambda *_: (importlib.import_module("triton").__version__, "", "")
    )
    for n_rows in (2**15, 1800):
        for name, (n_in, n_out) in LAYERS.items():
            bench.measure(f"{name}, {n_rows:,} tokens", "", product_rate, n_rows, n_in, n_out)
    for n_words in VOCABULARIES:
        name = f"vocabulary of {n_words:,}, {N_MASKED:,} tokens"
        bench.measure(name, "", product_rate, N_MASKED, 768, n_words)
    bench.measure("product 8192x1024x4096", "", product_rate, 8192, 1024, 4096)
    for source in ("pinned memory", "pageable memory", "the device"):
        bench.measure(f"copy from {source}", "GPU", copy_rate, source)


def describe_card(bench: Bench, _: str) -> Found:
    """Its name and size."""
    found = torch.cuda.get_device_properties(bench.device)
    more = f"{found.total_memory / 1e9:.0f} GB, {found.multi_processor_count} multiprocessors"
    return found.name, "", more


def product(bench: Bench, n_rows: int, n_in: int, n_out: int) -> list[Callable[[], Tensor]]:
    """A layer's products: forward, and the gradients of its inputs and of its weights."""
    x, weight = bench.random(n_rows, n_in), bench.random(n_out, n_in)
    dy = bench.random(n_rows, n_out)
    return [lambda: F.linear(x, weight), lambda: dy @ weight, lambda: dy.t() @ x]


def product_rate(bench: Bench, _: str, n_rows: int, n_in: int, n_out: int) -> Found:
    """The rate of a layer's three products together, and that of each."""
    if bench.tiny:
        n_rows, n_in, n_out = n_rows // 16, n_in // 16, n_out // 16
    # Many at a time, or launching them would count.
    n = 1 if bench.tiny else 20
    taken = [
        median_seconds(lambda call=call: [call() for _ in range(n)], 5) / n
        for call in product(bench, n_rows, n_in, n_out)
    ]
    work = 2 * n_rows * n_in * n_out
    bench.rate = max(bench.rate, work / min(taken))
    names = ("forward", "dX", "dW")
    each = [f"{name} {work / t / 1e12:.4g}" for name, t in zip(names, taken, strict=True)]
    return 3 * work / sum(taken) / 1e12, "TFLOP/s", f"{', '.join(each)}, {bench.dtype}"


def copy_rate(bench: Bench, _: str, source: str) -> Found:
    """The rate at which a gigabyte comes to the device; within it, read and written."""
    size = 2**30
    there = torch.zeros(size, dtype=torch.uint8, device=bench.device)
    if source == "the device":
        here = there.clone()
        taken = median_seconds(lambda: [there.copy_(here) for _ in range(10)], 5) / 10
        return 2 * size / taken / 1e12, "TB/s", "read and written"
    here = torch.zeros(size, dtype=torch.uint8, pin_memory=source.startswith("pinned"))
    taken = median_seconds(lambda: there.copy_(here, non_blocking=True), 3)
    return size / taken / 1e9, "GB/s", ""


# ------------------------------------------------------------------------------------- 2. attention


def attention(bench: Bench) -> None:
    """Which kernels compute it, whether they drop what they should, and how long they take."""
    differs = partial(packing.flash_differs, bench.device, HEAD_DIM)
    bench.measure("flash differs from padded", "GPU", lambda *_: (differs() or "no", "", ""))
    for p_drop, masked in itertools.product((0.0, 0.1), (False, True)):
        name = f"kernels, p={p_drop}, {'masked' if masked else 'no mask'}"
        bench.measure(name, "sdpa", kernels_used, p_drop, masked)
    for way in ("sdpa", "sdpa with cuDNN"):
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
    packed = move(packing.Packing.of(torch.ones(n, size)), bench.device)
    identity = torch.eye(size, device=bench.device, dtype=DTYPES[bench.dtype]).repeat(n, n_heads)
    zeros = torch.zeros_like(identity)
    out = packing.self_attention(zeros, zeros, identity, packed, n_heads, 0.1, WAYS[way].flash)
    return float((out == 0).float().mean()), "", f"of {out.numel():,} weights"


def attention_time(bench: Bench, way: str, n: int, length: int, p_drop: float) -> Found:
    """Forward and backward of tokens as they are in a model, 90% of the padded batch."""
    if bench.tiny:
        n, length = n // 16, length // 16
    cfg = bench.config("base")
    lengths = torch.randint(int(0.8 * length), length + 1, (n, 1))
    packed = packing.Packing.of(torch.arange(length) < lengths)
    packed = move(packed, bench.device)
    inputs = bench.random(len(packed.cells), 3 * cfg.dim).requires_grad_()

    def call() -> None:
        inputs.grad = None
        q, k, v = inputs.chunk(3, dim=-1)
        out = packing.self_attention(q, k, v, packed, cfg.n_heads, p_drop, WAYS[way].flash)
        out.backward(out.detach())

    n_calls = 1 if bench.tiny else 10
    taken = median_seconds(lambda: [call() for _ in range(n_calls)], 3) / n_calls
    return 1000 * taken, "ms", f"{len(inputs):,} tokens, width {cfg.dim}"


# ------------------------------------------------------------------------------------- 3. exactness


# Of these, "fused" is skipped where there are no such kernels.
EAGER = ("sdpa", "flash, plain", "flash, fused")


def exactness(bench: Bench) -> None:
    """What the fast ways change in the results, and whether a step ever waits for the GPU."""
    bench.measure("gradient of 32k tokens in float64", "", exact_gradient)
    for way in EAGER:
        bench.measure("gradient of 32k tokens against float64", way, gradient_of_many)
    for way in EAGER:
        bench.measure("gradient against float64", way, gradient_difference, False)
        bench.measure("gradient against float64, rounded", way, gradient_difference, True)
    for way in EAGER:
        bench.measure("a step twice", way, same_bits, False)
        bench.measure("a step twice, deterministic algorithms", way, same_bits, True)
    for case, way in itertools.product((MRPC, BASE), ("flash, plain", "flash, fused")):
        bench.measure(f"waits in 20 steps of {case.model} {case.kind}", way, waits, case)
    for way in ("flash, CUDA graphs", "flash, fused, CUDA graphs"):
        bench.measure("20 steps of two sizes against eager ones", way, same_as_eager, needs=15)


def gradient(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """The gradient of each parameter, by its name."""
    model.zero_grad()
    loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def difference(exact: dict[str, Tensor], found: dict[str, Tensor]) -> tuple[float, float, str]:
    """How long the difference of two gradients is beside the first one: of all; of the parameter
    where it is most, and its name.

    In float64, and where `exact` is.
    """
    squares, lengths = {}, {}
    for name, gradient in exact.items():
        right = gradient.double()
        squares[name] = float((right - found[name].to(right)).square().sum())
        lengths[name] = float(right.square().sum())
    # A parameter that nothing depends on has the gradient 0.
    shares = {name: (squares[name] / lengths[name]) ** 0.5 for name in squares if lengths[name]}
    worst = max(shares, key=lambda name: shares[name])
    whole = (sum(squares.values()) / sum(lengths.values())) ** 0.5
    return whole, shares[worst], worst


def exact_gradient(bench: Bench, _: str) -> Found:
    """The gradient of base at 32k tokens, without dropout, which gradient_of_many compares with."""
    model = our_model(bench, BASE, p_drop=0.0).double().train()
    # Activations in float64 would take most of the memory.
    model.transformer.checkpointing = True
    batch = prepare(batches_of(bench, BASE)[0], bench.device)
    loss = pretraining_task.get_loss(model, batch)[0]
    bench.exact = gradient(model, loss)
    return float(loss.detach()), "loss", f"{len(batch.input_mask.cells):,} tokens"


def gradient_of_many(bench: Bench, way: str) -> Found:
    """How far a way's gradient of 32k tokens is from the one in float64."""
    if bench.exact is None:
        raise RuntimeError("there is no gradient in float64 to compare with")
    model = our_model(bench, BASE, p_drop=0.0).train()
    wrapped = wrap(bench, model, way)
    batch = prepare(batches_of(bench, BASE)[0], bench.device)
    found = gradient(model, pretraining_task.get_loss(wrapped, batch)[0])
    whole, most, worst = difference(bench.exact, found)
    return whole, "", f"{bench.dtype}, most in {worst}: {most:.3g}"


def gradient_difference(bench: Bench, way: str, rounded: bool) -> Found:
    """The same of a small model, whose gradient in float64 the CPU computes."""
    # Rounding up the tokens of these 64 makes an example of [PAD] that is longer than all others.
    batch = pretrain_batch(features(bench, "MRPC", 64))
    found = []
    for exact in (True, False):
        # On the CPU both times, so that the weights are the same.
        torch.manual_seed(0)
        model = models.PretrainModel(bench.config("small", p_drop=0.0))
        device = torch.device("cpu") if exact else bench.device
        wrapped = model.double() if exact else wrap(bench, model, way)
        made = prepare(batch, device, rounded=rounded and not exact)
        # A kernel that leaves a part of its output unwritten must not pass by good luck.
        with deterministic(rounded):
            found.append(gradient(model, pretraining_task.get_loss(wrapped, made)[0]))
    whole, most, worst = difference(*found)
    return whole, "", f"{bench.dtype}, most in {worst}: {most:.3g}"


def same_bits(bench: Bench, way: str, exact: bool) -> Found:
    """Whether a step with the same seed gives the same gradient."""
    model = our_model(bench, MRPC).train()
    wrapped = wrap(bench, model, way)
    batch = prepare(batches_of(bench, MRPC)[0], bench.device)
    found = []
    for _ in range(2):
        train.seed_step(0, 1)
        with deterministic(exact):
            found.append(gradient(model, label_loss(wrapped, batch)[0]))
    n_other = sum(int((found[0][name] != found[1][name]).sum()) for name in found[0])
    n = sum(tensor.numel() for tensor in found[0].values())
    return "other bits" if n_other else "same bits", "", f"{n_other:,} of {n:,} differ"


def waits(bench: Bench, way: str, case: Case) -> Found:
    """Where a step waits for the GPU, if anywhere."""
    side = our_side(bench, case, way)
    # The first updates make the optimizer's state, and may compile kernels.
    for batch in side.batches:
        side.step(batch)
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


def same_as_eager(bench: Bench, way: str) -> Found:
    """Whether a way with CUDA graphs comes to the same bits as without, on the same batches."""
    eager = next(name for name, how in WAYS.items() if how == WAYS[way]._replace(graphs=False))
    sides = [our_side(bench, MRPC, each) for each in (eager, way)]
    # Prepared for graphs: made up to sizes that repeat.
    batches = sorted(sides[1].batches, key=lambda batch: len(batch.input_mask.cells))
    # A graph is recorded when its size comes again, and replayed from then on.
    turns = list(itertools.islice(itertools.cycle((batches[0], batches[-1])), 20))
    losses = [torch.stack([side.step(batch) for batch in turns]) for side in sides]
    n_other, most = 0, 0.0
    for one, other in zip(*(side.model.parameters() for side in sides), strict=True):
        n_other += int((one != other).sum())
        most = max(most, float((one - other).detach().abs().max()))
    sizes = " and ".join(str(len(batch.input_mask.cells)) for batch in turns[:2])
    more = f"sizes {sizes}; {n_other:,} weights differ, by {most:.2g} at most; losses by "
    more += f"{float((losses[0] - losses[1]).abs().max()):.2g}"
    return "other bits" if n_other else "same bits", "", more


# -------------------------------------------------------------------------------------- 4. training

# Each way, and the seconds that it needs: compiling takes 20 and more.
SIDES = {
    "flash, fused": 10.0,
    "flash, plain": 5.0,
    "transformers": 5.0,
    "transformers, gathered": 5.0,
}
SMALL_SIDES = {
    "sdpa": 5.0,
    "flash, plain": 5.0,
    "flash, fused": 10.0,
    "transformers": 5.0,
    "transformers without cuDNN": 5.0,
    "flash, CUDA graphs": 20.0,
    "flash, fused, CUDA graphs": 20.0,
}
COMPILED = {
    "flash, fused": 10.0,  # to be quoted beside what is compiled
    "flash, compiled": 20.0,
    "transformers, compiled": 30.0,
    "transformers, gathered, compiled": 30.0,
}


def training(bench: Bench) -> None:
    """Tokens a second, the most telling first."""
    for case in (BASE, MRPC, *FULL[1:]):
        ways = SMALL_SIDES if case is MRPC else SIDES
        in_turn(bench, f"{case.model} {case.kind}", ways, start_training, case)


def compiled_training(bench: Bench) -> None:
    """What torch.compile gives, which is slow to begin; and whether its gradients are right."""
    in_turn(bench, f"{BASE.model} {BASE.kind}", COMPILED, start_training, BASE)
    way = "flash, compiled"
    bench.measure("gradient of 32k tokens against float64", way, gradient_of_many, needs=15)
    ways = {"transformers, compiled": COMPILED["transformers, compiled"]}
    in_turn(bench, f"{MRPC.model} {MRPC.kind}", ways, start_training, MRPC)


def start_training(bench: Bench, way: str, case: Case) -> Entrant:
    """A side that has seen all its batches; what is timed is some steps."""
    held = torch.cuda.memory_allocated() if bench.gpu else 0
    if bench.gpu:
        torch.cuda.reset_peak_memory_stats()
    theirs = way.startswith("transformers")
    side = (their_side if theirs else our_side)(bench, case, way)

    def once() -> None:
        for batch in side.batches:
            side.step(batch)

    first = seconds(once)
    # A CUDA graph is recorded when its shape comes for the second time.
    once()
    more = [f"first {len(side.batches)} steps {first:.1f} s"]
    if bench.gpu:
        # Other sides of the case have their weights there, too.
        more.append(f"{(torch.cuda.max_memory_allocated() - held) / 1e9:.1f} GB")
    n_rounds = 1 if bench.tiny else -(-8 // len(side.batches))

    def run() -> None:
        for _ in range(n_rounds):
            once()

    def describe(taken: float) -> str:
        steps = [f"{1000 * taken / n_rounds / len(side.batches):.2f} ms a step"]
        return ", ".join([rate_share(bench, case, side, taken / n_rounds), *steps, *more])

    ready = partial(side.step, side.batches[0])
    return Entrant(ready, run, n_rounds * side.n_tokens, describe)


def rate_share(bench: Bench, case: Case, side: Side, taken: float) -> str:
    """The useful work of all batches beside what products alone could do in the time."""
    cfg = bench.config(case.model)
    blocks = cfg.n_layers * (4 * cfg.dim**2 + 2 * cfg.dim * cfg.dim_ff)
    work = 6 * (blocks * side.n_tokens + cfg.dim * (cfg.vocab_size + cfg.dim) * side.n_masked)
    return f"{work / taken / bench.rate:.0%} of the matrix rate" if bench.rate else "no rate"


# ----------------------------------------------------------------------------------- 5. fine-tuning


def fine_tuning(bench: Bench) -> None:
    """Whole runs of base by the Trainer: MRPC's 3 epochs, 300 steps of the others."""
    graphs, fused, plain = "flash, fused, CUDA graphs", "flash, fused", "flash, plain"
    rows = [("MRPC", graphs, False), ("MRPC", "flash, CUDA graphs", False)]
    rows += [("MRPC", fused, False), ("MRPC", plain, False), ("MRPC", plain, True)]
    rows += [("MRPC", fused, True), ("SST-2", "flash, CUDA graphs", False)]
    rows += [("SST-2", plain, False), ("SST-2", fused, False), ("SST-2", graphs, False)]
    rows += [("MRPC", "sdpa", False), ("MRPC", "sdpa", True), ("SQuAD", plain, True)]
    for kind, way, saves in rows:
        name = f"{kind}, {'a checkpoint every 100 steps' if saves else 'no checkpoints'}"
        bench.measure(name, way, run_time, kind, saves, needs=10)


def run_time(bench: Bench, way: str, kind: str, saves: bool) -> Found:
    """Seconds of a run, and what its saves took."""
    n_rows, n_epochs = (3668, 3) if kind == "MRPC" else (9600, 1)
    if bench.tiny:
        n_rows = 64
    save_steps = (2 if bench.tiny else 100) if saves else 10**9
    n = train.Config.batch_size
    batches = Batches(features(bench, kind, n_rows), n, seed=42)
    silent = io.StringIO()
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(silent),
        contextlib.redirect_stderr(silent),
    ):
        case, length = Case("base", kind, n), {"n_epochs": n_epochs, "save_steps": save_steps}
        trainer = trainer_of(bench, case, way, folder, batches, 0.1, **length)
        times = Saves(trainer)
        taken = seconds(lambda: trainer.train(label_loss))
    return taken, "s", f"{trainer.total_steps} steps, {times}"


# ------------------------------------------------------------------------------------- 6. inference

# Of MRPC's lengths, enough for a second a pass.
N_ROWS = {"minilm": 2**16, "base": 2**14}
TOKENS = 2**15  # of a batch, as predicting on a GPU has it
N_TEXTS = 8192  # of ModernBERT's protocol
READING = dict.fromkeys(("sdpa", "flash, fused", "flash, plain", "transformers"), 5.0)
MODERN = dict.fromkeys(("sdpa", "flash, fused", "flash, plain", "transformers, ModernBERT"), 5.0)


def predicting(bench: Bench) -> None:
    """Rows a second of MRPC's lengths; tokens a second of ModernBERT's texts.

    These are 8,192, all of 512 tokens, or normal around 256 (the deviation of 64 is our choice), as
    in Warner et al., "Smarter, Better, Faster, Longer" (arXiv 2412.13663); what is computed are
    the vectors of all tokens, by base.
    """
    for model, n in N_ROWS.items():
        name = f"{model}, batches of 32k tokens"
        in_turn(bench, name, READING, start_reading, model, n, name, unit="rows/s")
    for kind, lengths in (("variable", "around 256"), ("512", "of 512")):
        in_turn(bench, f"{N_TEXTS:,} texts {lengths} tokens", MODERN, start_encoding, kind)


def by_tokens(bench: Bench, kind: str, n: int) -> tuple[Features, Batches]:
    """Inputs of a kind, and their batches of as many tokens."""
    inputs = features(bench, kind, 64 if bench.tiny else n)
    longest = int(inputs.lengths.max())
    return inputs, Batches(inputs, max(1, TOKENS // longest))


def start_reading(bench: Bench, way: str, name: str, n: int, row: str) -> Entrant:
    """Rows of the name of a model; making batches and computing them get rows of their own."""
    inputs, batches = by_tokens(bench, "MRPC", n)
    case = Case(name, "MRPC", 0)
    if way.startswith("transformers"):
        reader = their_reader(bench, their_model(bench, case), batches, their_scores)
    else:
        reader = our_reader(bench, our_model(bench, case), way, batches, inference.scores)
    n_batches = len(batches)
    making, computing = alone(reader, n_batches)
    for what, taken in (("making batches alone", making), ("GPU alone", computing)):
        if bench.gpu or what.startswith("making"):
            bench.write(f"{row}, {what}, {way}", len(inputs) / taken, "rows/s")
    reader.run()
    return reading(reader, len(inputs), n_batches)


def alone(reader: Reader, n_batches: int) -> tuple[float, float]:
    """Seconds to make all batches, and to compute them when they are made."""
    made: list[Any] = []
    making = seconds(lambda: made.extend(map(reader.make, range(n_batches))))

    def compute() -> None:
        for batch in made:
            reader.compute(batch)

    # The first pass meets all shapes for the first time.
    compute()
    return making, seconds(compute)


def start_encoding(bench: Bench, way: str, kind: str) -> Entrant:
    """ModernBERT's protocol."""
    inputs, batches = by_tokens(bench, kind, N_TEXTS)
    if way.startswith("transformers"):
        reader = their_reader(bench, their_encoder(bench, "ModernBert"), batches, their_vectors)
    else:
        with bench.device:
            model = models.BertModel(bench.config("base"))
        reader = our_reader(bench, model, way, batches, our_vectors)
    # Every shape once, to warm up: those of texts of one length are all the same.
    lengths = [inputs.lengths[batches.rows(n)] for n in range(len(batches))]
    shapes = {(len(each), each.max()): n for n, each in enumerate(lengths)}
    for n in shapes.values():
        reader.compute(reader.make(n))
    return reading(reader, len(inputs.ids), len(batches))


def reading(reader: Reader, amount: int, n_batches: int) -> Entrant:
    """A reader that has warmed up."""
    first = partial(reader.make, 0)
    return Entrant(first, reader.run, amount, lambda taken: f"{n_batches} batches, {taken:.2f} s")


def our_vectors(model: nn.Module, batch: Any) -> Tensor:
    """(B, D) of [CLS], after the vectors of all tokens."""
    return model(**batch.inputs)[0][:, 0]


def their_vectors(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The same of ModernBERT, which has no segments."""
    names = batch.keys() - {"labels", "token_type_ids"}
    return model(**{name: batch[name] for name in names}).last_hidden_state[:, 0]


def their_scores(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """(B, labels) of transformers."""
    return model(**{name: batch[name] for name in batch.keys() - {"labels"}}).logits


# --------------------------------------------------------------------------------------- 7. profile


# What a kernel is for, by the first pattern that is found in its name.
CATEGORIES = {
    "memory": r"^Mem",
    "products": r"nvjet|gemm|splitK",
    "attention": r"flash|fmha",
    "LayerNorm": r"layer_norm|GammaBeta|norm_",
    "optimizer and norm": r"multi_tensor",
    "copies and casts": r"copy_kernel|CatArray",
    "GELU": r"[Gg]elu",
    "dropout": r"dropout",
    "loss": r"softmax|nll|cross_entropy",
    "embeddings": r"embedding|[Ss]ort|index|gather|scatter|grad_weight|krn_|cub::",
    "adds": r"Functor_add|add_|_add",
    "sums": r"reduce_kernel",
}
LEAST = 0.1  # ms of a kernel that has a row of its own


def profiles(bench: Bench) -> None:
    """What three steps consist of."""
    rows = [(BASE, "flash, fused"), (MRPC, "flash, CUDA graphs"), (BASE, "flash, plain")]
    rows += [(MRPC, "flash, fused, CUDA graphs"), (MRPC, "flash, plain"), (MRPC, "sdpa")]
    for case, way in rows:
        bench.measure(f"{case.model} {case.kind}, launches a step", way, launches, case)


def launches(bench: Bench, way: str, case: Case) -> Found:
    """Kernels of a step; categories and the costliest have rows of their own."""
    side = our_side(bench, case, way)
    batches = (*side.batches, *side.batches)[:3]

    def three_steps() -> None:
        for batch in batches:
            side.step(batch)

    # A graph is recorded when its size comes for the second time.
    for _ in range(2):
        three_steps()
    taken = 1000 * seconds(three_steps) / 3
    kernels = kernels_of(bench, three_steps)
    name = f"{case.model} {case.kind}, {way}"
    for category, (ms, n_calls) in by_category(kernels).items():
        bench.write(f"{name}: {category}", ms / 3, "ms a step", f"{n_calls / 3:.0f} calls")
    # On a CPU, whose operators are no kernels, a few will do.
    shown_ones = [kernel for kernel in kernels if kernel[1] / 3 >= LEAST]
    for kernel, ms, n_calls in shown_ones if bench.gpu else shown_ones[:3]:
        bench.write(f"{name}: {kernel}", ms / 3, "ms a step", f"{n_calls / 3:.0f} calls")
    # Copies and zeros are "Memcpy" and "Memset".
    n = sum(n_calls for kernel, _, n_calls in kernels if not kernel.startswith("Mem"))
    busy = sum(ms for _, ms, _ in kernels) / 3
    return n / 3, "", f"{busy:.2f} ms in kernels of {taken:.2f} ms a step"


def category_of(kernel: str) -> str:
    """What a kernel is for: "fmha_cutlassB_bf16_aligned" -> "attention"."""
    found = (name for name, pattern in CATEGORIES.items() if re.search(pattern, kernel))
    return next(found, "other")


def by_category(kernels: list[tuple[str, float, int]]) -> dict[str, tuple[float, int]]:
    """Milliseconds and calls of each category of kernels, the longest first."""
    found: dict[str, tuple[float, int]] = {}
    for kernel, ms, n_calls in kernels:
        before, n_before = found.get(category_of(kernel), (0.0, 0))
        found[category_of(kernel)] = before + ms, n_before + n_calls
    return dict(sorted(found.items(), key=lambda item: -item[1][0]))


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


class Part(NamedTuple):
    """A part, and how much of the time it gets."""

    measure: Callable[[Bench], None]
    share: float = 0.0  # of what the parts of a fixed time leave, beside the shares of others
    fixed: float = 0.0  # seconds


# In the order that they are measured in. What one leaves over the others share.
PARTS = {
    "0 warm-up": Part(warm_up, fixed=60),
    "1 card": Part(card, fixed=30),
    "2 attention": Part(attention, 30),
    "3 exactness": Part(exactness, 45),
    "4 training": Part(training, 110),
    "5 fine-tuning": Part(fine_tuning, 85),
    "6 inference": Part(predicting, 75),
    "7 profile": Part(profiles, 25),
    # Last, since a compiler is not to be stopped within a product of its own.
    "4 training, compiled": Part(compiled_training, 60),
}


def plan(parts: dict[str, Part], n_seconds: float) -> dict[str, float]:
    """When each part has to end, in seconds from now.

    Fixed times are cut where all together have less: no more than half is fixed.
    """
    fixed = sum(part.fixed for part in parts.values())
    whole = sum(part.share for part in parts.values())
    most = n_seconds / 2 if whole else n_seconds
    scale = min(1.0, most / fixed) if fixed else 1.0
    left, end, ends = n_seconds - scale * fixed, 0.0, {}
    for name, part in parts.items():
        end += scale * part.fixed + (left * part.share / whole if whole else 0.0)
        ends[name] = end
    return ends


def run(
    minutes: float = 8, parts: str = "0,1,2,3,4,5,6,7", out: str | None = None, tiny: bool = False
) -> None:
    """Measure.

    Args:
        minutes: all of it takes less than this.
        parts: numbers of the parts to measure.
        out: file that gets the rows as JSON lines; None: beside the table, in benchmarks/results.
        tiny: with tiny models, to try the script.
    """
    # Loading has taken some seconds, and the table takes one.
    end = time.monotonic() + 60 * minutes * 0.94
    device = devices.get_device()
    if device.type == "cpu" and not tiny:
        raise UserError("no GPU is visible; --tiny True tries the script on a CPU")
    title = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    file_name = "gpu_" + re.sub(r"\W+", "_", title) + ("_tiny" if tiny else "")
    chosen = {name: part for name, part in PARTS.items() if name[0] in parts.split(",")}
    with open(out or ROOT / "benchmarks" / "results" / f"{file_name}.jsonl", "w") as file:
        bench = Bench(device, tiny, file)
        # The first tensor on a card, the libraries of the first product and the compiler take
        # seconds, which are no part's.
        x = torch.ones(64, 64, device=device, dtype=DTYPES[bench.dtype])
        seconds(lambda: x @ x)
        torch.compiler.reset()
        while chosen:
            name, part = next(iter(chosen.items()))
            now = time.monotonic()
            # Again after each part, so that those of a fixed time keep it.
            bench.part, bench.end = name, now + plan(chosen, end - now)[name]
            try:
                part.measure(bench)
            except Exception as error:
                words = f"{type(error).__name__}: {' '.join(str(error).split())}"
                bench.write("the rest of the part", None, "error", words[:300])
                bench.tidy()
            del chosen[name]
    lines = ["| part | what | value | unit | more |", "|---|---|---|---|---|"]
    for row in bench.rows:
        cells = [shown(cell).replace("|", "\\|") for cell in row.values()]
        lines.append(f"| {' | '.join(cells)} |")
    report(file_name, f"One GPU: {title}", "\n".join(lines))


if __name__ == "__main__":
    command(as_command(run))

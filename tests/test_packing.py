"""Packed batches: the same numbers as padded ones, and nothing that a GPU has to wait for."""

import itertools
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode

import train
from layers import packing
from layers.packing import Packing, attention_packed, size_step
from models import BertModel, Classifier, Config, PretrainModel, QuestionAnswering
from optim import BertAdam, parameter_groups
from tasks.encoding import Batches, Features
from training import inference
from training.batches import as_bytes, move, prefetch, tensors_of, views, with_tensors
from utils import UserError

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
# Each head, and the positions that one of them takes beside BERT's inputs.
HEADS: dict[str, Callable[[Config], torch.nn.Module]] = {
    "encoder": BertModel,
    "classifier": lambda cfg: Classifier(cfg, 3),
    "answer": QuestionAnswering,
    "pretrain": PretrainModel,
}
POSITIONS = torch.tensor([[3, 16], [8, 1], [2, 0], [11, 4], [0, 0]])


def features(lengths: list[int]) -> Features:
    """Inputs of random tokens, [PAD] not among them."""
    rng = np.random.default_rng(0)
    n, starts = len(lengths), np.cumsum([0, *lengths])
    ids = rng.integers(1, 100, starts[-1]).astype(np.int32)
    labels = rng.integers(0, 2, n)
    return Features(ids, starts, np.array(lengths) // 2, labels, np.arange(1, n + 1))


def undropped(cfg: Config) -> Config:
    return Config(**{**vars(cfg), "p_drop_hidden": 0.0, "p_drop_attn": 0.0})


def results(head: str, cfg: Config, inputs: Inputs, mask: Any) -> list[torch.Tensor]:
    """A head's outputs and the gradients of all parameters, in float64."""
    torch.manual_seed(0)
    model = HEADS[head](cfg).double().train()
    more = (POSITIONS,) if head == "pretrain" else ()
    outputs = model(*inputs[:2], mask, *more)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    # Padding scores minus infinity in `answer`, which has no square.
    loss = sum(torch.where(o.isfinite(), o, o.new_zeros(())).square().sum() for o in outputs)
    parameters = list(model.parameters())
    return [*outputs, *torch.autograd.grad(loss, parameters)]


@pytest.mark.parametrize("head", HEADS)
def test_packed_and_padded_attention_and_round_sizes_give_the_same_numbers(
    head: str, tiny: Config, padded_batch: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg, mask = undropped(tiny), padded_batch[2]
    rounded = Packing.of(mask, rounded=True)
    assert (len(Packing.of(mask).cells), len(rounded.cells)) == (42, 44)
    plain = results(head, cfg, padded_batch, mask)
    found = [results(head, cfg, padded_batch, Packing.of(mask))]
    found.append(results(head, cfg, padded_batch, rounded))
    # As on a GPU.
    monkeypatch.setattr(
        packing,
        "attention_by_length",
        lambda q, k, v, _, n, p: packing.attention_padded(q, k, v, Packing.of(mask), n, p, None),
    )
    found.append(results(head, cfg, padded_batch, mask))
    for other in found:
        for a, b in zip(plain, other, strict=True):
            assert torch.equal(a.isfinite(), b.isfinite())
            finite = a.isfinite()
            assert (a[finite] - b[finite]).abs().max() <= 1e-12 * max(1, a[finite].abs().max())


def test_what_makes_up_a_round_size_changes_no_gradient(tiny: Config, padded_batch: Inputs) -> None:
    cfg, ids = undropped(tiny), padded_batch[0]
    packed = Packing.of(padded_batch[2], rounded=True)
    found = []
    for garbage in (0.0, 1e6):
        torch.manual_seed(0)
        model = Classifier(cfg).double()
        # The tokens that were added are [PAD]s, which stand nowhere else.
        with torch.no_grad():
            model.transformer.embedding.token.weight[0] = garbage
        model(ids, padded_batch[1], packed).square().sum().backward()
        found.append([p.grad for p in model.parameters()])
        assert not model.transformer.embedding.token.weight.grad[0].any()
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_what_makes_up_a_round_size_may_be_longer_than_every_example() -> None:
    # 2,049 tokens of examples of three, and 255 that are added: the kernel has to look that far.
    packed = Packing.of(torch.ones(683, 3), rounded=True)
    assert (len(packed.cells), packed.starts[-2:].tolist()) == (2304, [2049, 2304])
    assert packed.longest == 256
    # There is one more example even where nothing is added, so that shapes repeat.
    packed = Packing.of(torch.ones(4, 16), rounded=True)
    assert (packed.starts.tolist(), packed.longest) == ([0, 16, 32, 48, 64, 64], 16)


def test_sizes_are_eight_between_a_power_of_two_and_the_next() -> None:
    for low in (64, 1024, 4096):
        sizes = {n + -n % size_step(n) for n in range(low, 2 * low)}
        assert sizes == set(range(low, 2 * low + 1, low // 8))


def test_twenty_steps_have_the_same_losses_packed_and_padded(tiny: Config) -> None:
    batches = Batches(features([random.Random(0).randint(3, 40) for _ in range(64)]), 8, seed=1)
    losses = []
    for rounded in (None, False, True):
        torch.manual_seed(0)
        model = Classifier(undropped(tiny)).double()
        optimizer = BertAdam(parameter_groups(model), 1e-3, 20)
        losses.append([])
        for n in range(20):
            batch = batches[n] if rounded is None else batches[n].packed(rounded)
            loss = F.cross_entropy(model(**batch.inputs), batch.labels)
            loss.backward()
            optimizer.step(loss=loss)
            optimizer.zero_grad()
            losses[-1].append(float(loss.detach()))
    assert losses[0][0] > losses[0][-1]
    assert np.abs(np.diff(losses, axis=0)).max() <= 1e-12


# ------------------------------------------------------------------------------ what a GPU would do


class Counted(TorchDispatchMode):
    """Counts the operators that are called within it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # A view launches nothing.
        if not func.is_view:
            self.calls[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["classifier", "pretrain"])
def test_a_training_step_waits_for_nothing(kind: str, tiny: Config, padded_batch: Inputs) -> None:
    model = HEADS[kind](tiny).train()
    packed = Packing.of(padded_batch[2])
    more = (POSITIONS,) if kind == "pretrain" else ()
    with Counted() as counted:
        outputs = model(*padded_batch[:2], packed, *more)
        first = outputs[0] if isinstance(outputs, tuple) else outputs
        first.square().mean().backward()
    assert counted.calls["addmm"] + counted.calls["linear"] > 0
    for waits in ("nonzero", "_local_scalar_dense", "is_nonzero", "equal"):
        assert counted.calls[waits] == 0, waits
    # The same, packed by the model: that one does wait, and the count sees it.
    with Counted() as counted:
        model(*padded_batch, *more)
    assert counted.calls["nonzero"] == 1


@pytest.mark.parametrize("flash", [False, True])
def test_the_kernels_of_a_step_of_base_are_counted_without_a_gpu(flash: bool) -> None:
    lengths = [50, 40, 30, 20]
    batch = move(Batches(features(lengths), 4)[0].packed(), torch.device("meta"))
    with torch.device("meta"):
        model = Classifier(Config()).bfloat16().train()
    for block in model.transformer.blocks:
        block.attention.flash = flash
    with Counted() as counted:
        scores = model(**batch.inputs)
        F.cross_entropy(scores, batch.labels).backward()
    assert scores.shape == (4, 2)
    assert all(p.grad.shape == p.shape for p in model.parameters())
    assert counted.calls["_flash_attention_forward"] == (12 if flash else 0)
    assert counted.calls["_flash_attention_backward"] == (12 if flash else 0)
    assert counted.calls["nonzero"] == counted.calls["_local_scalar_dense"] == 0
    # The padded way pads queries, keys and values in every block; the last one has few queries.
    assert counted.calls["index_copy_"] == (0 if flash else 35)
    # Dropout, which is one kernel on a GPU, counts three or four here.
    if flash:
        assert counted.calls.total() < 600


def test_flash_attention_takes_the_list_of_tokens_and_where_examples_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[Any] = []

    def record(q: torch.Tensor, *more: Any) -> tuple[torch.Tensor]:
        given.append((tuple(q.shape), *more[2:]))
        return (q,)

    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", record, raising=False)
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    packed = Packing.of(torch.cat([mask] * 9), rounded=True)  # 45 tokens, and 3 that are added
    k = torch.randn(48, 8)
    assert attention_packed(k, k, k, packed, 2, 0.1).shape == (48, 8)
    q = torch.randn(18, 1, 8)
    assert attention_packed(q, k, k, packed, 2, 0.1).shape == (18, 1, 8)
    starts = [*np.cumsum([0, *[3, 2] * 9]), 48]
    for shape, starts_q, starts_k, longest_q, longest_k, *rest in given:
        assert rest == [0.1, False, False]
        assert starts_k.tolist() == starts
        assert starts_k.dtype == starts_q.dtype == torch.int32
        assert longest_k == 4
        # One query of each example, and none of the tokens that were added.
        expected = starts if shape[0] == 48 else [*range(19), 18]
        assert (starts_q.tolist(), longest_q) == (expected, 4 if shape[0] == 48 else 1)
        assert shape[1:] == (2, 4)


def test_without_the_kernel_the_padded_way_is_taken_and_a_note_says_why(
    tiny: Config, capsys: pytest.CaptureFixture
) -> None:
    packing.flash_differs.cache_clear()
    model = Classifier(tiny)
    inference.wrap(model, torch.device("cpu"), flash=True)
    assert not any(block.attention.flash for block in model.transformer.blocks)
    assert "attention=flash does not work here (" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("factor", "when", "expected"),
    [
        (1.0, "always", ""),
        (1.1, "always", "outputs differ by 0.09"),
        (1.1, "some", "outputs differ by "),
        (1.1, "rounded", "outputs differ by "),
        (math.nan, "rounded", "outputs differ by nan"),
    ],
)
def test_the_kernel_is_tried_against_the_padded_way(
    factor: float, when: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kernel(q: torch.Tensor, k: Any, v: Any, packed: Packing, *more: Any) -> torch.Tensor:
        made_up = len(packed.cells) > sum(packed.lengths)
        wrong = {"always": True, "some": q.dim() == 3, "rounded": made_up}[when]
        out = packing.attention_padded(q, k, v, packed, *more, None)
        return out * factor if wrong else out

    packing.flash_differs.cache_clear()
    monkeypatch.setattr(packing, "attention_packed", kernel)
    found = packing.flash_differs(torch.device("cpu"), 16)
    assert found.startswith(expected)
    assert bool(found) == bool(expected)
    packing.flash_differs.cache_clear()


@pytest.mark.parametrize("kind", ["padded", "flash"])
def test_blocks_are_compiled_to_one_graph_for_all_lengths(kind: str, tiny: Config) -> None:
    device = torch.device("meta" if kind == "flash" else "cpu")
    torch._dynamo.reset()
    counter = CompileCounter()
    with device:
        model = Classifier(tiny).train()
    if kind == "flash":
        model.bfloat16()
    for block in model.transformer.blocks:
        block.attention.flash = kind == "flash"
        block.compile(backend=counter, dynamic=True, fullgraph=True)
    rng = random.Random(0)
    for size in (8, 5, 8, 7, 6):
        lengths = [rng.randint(3, 40) for _ in range(size)]
        # One of them is not padded at all.
        batch = Batches(features(lengths if size != 7 else [20] * 7), size)[0]
        moved = move(batch.packed(), device)
        model(**moved.inputs).sum().backward()
    # One for the blocks, and one for the last, which computes [CLS] alone.
    assert counter.frame_count == 2
    torch._dynamo.reset()


# ------------------------------------------------------------------------------- batches made ahead


def test_batches_made_ahead_are_the_same_and_in_order() -> None:
    main = threading.get_ident()
    made: list[tuple[int, int]] = []

    def make(n: int) -> int:
        made.append((n, threading.get_ident()))
        return n * n

    assert list(prefetch(make, range(10))) == [n * n for n in range(10)]
    assert [n for n, _ in made] == list(range(10))
    assert all(thread != main for _, thread in made)
    assert list(prefetch(make, range(0))) == []


def test_an_error_comes_with_the_batch_that_caused_it_and_leaving_ends_the_thread() -> None:
    def make(n: int) -> int:
        if n == 5:
            raise UserError("batch 5")
        return n

    batches = prefetch(make, range(10**9))
    assert [next(batches) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(UserError, match="batch 5"):
        next(batches)
    with closing(prefetch(lambda n: n, range(10**9))) as batches:
        assert [next(batches), next(batches)] == [0, 1]
    deadline = time.monotonic() + 60
    while any(t.name.startswith("batches") for t in threading.enumerate()):
        assert time.monotonic() < deadline


def test_short_inputs_share_larger_batches_when_nothing_is_shuffled() -> None:
    rng = random.Random(0)
    lengths = np.array([40, *(rng.randint(3, 40) for _ in range(199))])
    batches = Batches(features(list(lengths)), 4)
    rows = [batches.rows(n) for n in range(len(batches))]
    assert sorted(np.concatenate(rows)) == list(range(200))
    assert (np.diff(np.concatenate([lengths[r] for r in rows])) >= 0).all()
    for this, following in itertools.pairwise(rows):
        # As many tokens as four of the longest have, and no room for the next one.
        assert len(this) * lengths[this].max() <= 160
        assert (len(this) + 1) * lengths[following[0]] > 160
    assert len(Batches(features([]), 4)) == 0


# ------------------------------------------------------------------------------------- the settings


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"attention": "flash", "dtype": "fp32"},
            "attention=flash is computed in bf16, and dtype=fp32",
        ),
        ({"attention": "fast"}, "attention='fast'; expected auto, sdpa or flash"),
        (
            {"cuda_graphs": True, "compile": True, "gradient_accumulation": 2},
            "cuda_graphs=true needs gradient_accumulation=1",
        ),
        ({"cuda_graphs": "on"}, "cuda_graphs='on'; expected true, false or auto"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(given: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train.Config(**given)


def test_compiling_without_a_compiler_is_refused(
    tiny: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match=r"compile=true needs a C\+\+ compiler"):
        inference.wrap(Classifier(tiny), torch.device("cpu"), compiled=True)


def test_tensors_of_all_kinds_come_out_of_one_buffer_as_they_went_in() -> None:
    batch = Batches(features([3, 5, 1]), 4)[0].packed()
    tensors = [*tensors_of(batch), torch.tensor(2.5), torch.ones(3, 0), torch.randn(3).bfloat16()]
    assert {t.dtype for t in tensors} >= {torch.bool, torch.int32, torch.int64, torch.float32}
    buffer = as_bytes(tensors)
    for found, expected in zip(views(buffer, tensors), tensors, strict=True):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert torch.equal(found, expected)
        assert found.storage_offset() * found.element_size() % 16 == 0
    again = with_tensors(batch, iter(views(buffer, tensors)))
    assert type(again.input_mask) is Packing
    assert again.input_mask.lengths == batch.input_mask.lengths
    assert torch.equal(again.input_mask.cells, batch.input_mask.cells)
    assert (again.weights, again.which) == (None, None)

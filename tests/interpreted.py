"""The kernels of layers/fused.py against float64, in Triton's interpreter: without a GPU.

    $ TRITON_INTERPRET=1 python -m pytest tests/interpreted.py

test_fused.py runs it in a process of its own: Triton reads the variable when kernels are defined.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from layers import fused, triton_kernels
from layers.kernels import Linear, ResidualNorm
from models import Classifier, Config

FP32, BF16 = torch.float32, torch.bfloat16
# How far a value may be off: of float32 the rounding of a few steps, of bf16 its own, twice: the
# interpreter cuts off what a GPU rounds to the nearest.
TOLERANCE = {FP32: 2e-6, BF16: 8e-3}
# (T, D): one row, rows that fill no tile, several tiles a program; D no power of two, small, large.
SHAPES = [(1, 96), (7, 96), (300, 96), (7, 5), (7, 384), (2, 768)]
worst = {FP32: 0.0, BF16: 0.0}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module", autouse=True)
def report() -> Iterator[None]:
    """With -s: the largest errors of all tests."""
    yield
    print("largest errors", worst)


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    for value, right in zip(found, expected, strict=True):
        assert value.shape == right.shape
        off = ((value.detach().double() - right).norm() / right.norm()).item()
        worst[value.dtype] = max(worst[value.dtype], off)
        assert off < TOLERANCE[value.dtype]


def normal(*shape: int, dtype: torch.dtype = FP32) -> Tensor:
    return torch.randn(shape).to(dtype).requires_grad_()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("p_drop", [0.0, 0.1])
@pytest.mark.parametrize(
    ("types", "with_bias"),
    [((FP32, FP32), True), ((FP32, BF16), False), ((FP32, BF16), True), ((BF16, BF16), False)],
)
def test_norm_and_its_gradients(
    shape: tuple[int, int], p_drop: float, types: tuple, with_bias: bool
) -> None:
    x, for_full = (normal(*shape, dtype=types[0]) for _ in range(2))
    h, for_low = (normal(*shape, dtype=types[1]) for _ in range(2))
    inputs = [x, h, *(normal(shape[1]) for _ in range(2 + with_bias))]
    full, low = fused.residual_norm(*inputs[:4], 1e-12, p_drop, *inputs[4:])
    assert (full.dtype, low.dtype) == types
    # Of one tensor autograd would round the sum of the two gradients.
    for_low = torch.zeros_like(low) if low is full else for_low
    found = torch.autograd.grad((full, low), inputs, (for_full, for_low))
    # Forward and backward drop the same: otherwise the outputs would be those of another formula.
    keep = found[1].double() != 0

    def plain(x: Tensor, h: Tensor, weight: Tensor, shift: Tensor, *bias: Tensor) -> Tensor:
        h = h + bias[0] if bias else h
        return F.layer_norm(x + h * keep / (1 - p_drop), shape[1:], weight, shift, 1e-12)

    grad = for_full.double() + for_low.double()
    y, *gradients = fused.exact(plain, inputs, grad)
    assert_close([full, low, *found], [y, y, *gradients])
    n = keep.numel()
    dropped = 1 - keep.double().mean().item()
    assert abs(dropped - p_drop) <= 4 * (p_drop * (1 - p_drop) / n) ** 0.5


@pytest.mark.parametrize("used", ["full", "low"])
def test_a_result_that_nothing_reads_has_no_gradient(
    used: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = [normal(9, 96), normal(9, 96, dtype=BF16), normal(96), normal(96)]
    results = dict(zip(("full", "low"), fused.residual_norm(*inputs, 1e-12), strict=True))
    launch, given = fused.launch, []

    def record(kernel: str, grid: tuple, arguments: tuple, tile: dict) -> None:
        given.append(arguments[:2])
        launch(kernel, grid, arguments, tile)

    monkeypatch.setattr(fused, "launch", record)
    out = results[used]
    grad = torch.randn_like(out)
    found = torch.autograd.grad(out, inputs, grad)
    # Nor are zeros read in its place.
    ((for_full, for_low),) = given
    assert (for_full.dtype, for_low) == (out.dtype, None)
    _, *expected = fused.exact(
        lambda x, h, *norm: F.layer_norm(x + h, (96,), *norm, 1e-12), inputs, grad.double()
    )
    assert_close(list(found), expected)


def test_results_that_pass_no_gradient_on_have_none() -> None:
    class Unread(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, full: Tensor, low: Tensor) -> Tensor:
            return full + low

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[None, None]:
            return None, None

    inputs = [normal(9, 96), normal(9, 96, dtype=BF16), normal(96), normal(96)]
    out = Unread.apply(*fused.residual_norm(*inputs, 1e-12))
    assert torch.autograd.grad(out.sum(), inputs, allow_unused=True) == (None,) * 4


def test_predicting_gives_the_same() -> None:
    inputs = [normal(9, 96), normal(9, 96, dtype=BF16), normal(96), normal(96)]
    expected = [*fused.residual_norm(*inputs, 1e-12), fused.bias_gelu(inputs[1], inputs[2])]
    with torch.inference_mode():
        found = [*fused.residual_norm(*inputs, 1e-12), fused.bias_gelu(inputs[1], inputs[2])]
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_model_learns_the_same(
    checkpointing: bool, tiny: Config, padded_batch: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "for_gpu", lambda x: True)
    model = Classifier(dataclasses.replace(tiny, p_drop_hidden=0.0, p_drop_attn=0.0)).train()
    model.transformer.checkpointing = checkpointing
    gradients = []
    for is_fused in (False, True):
        for module in model.modules():
            if isinstance(module, Linear | ResidualNorm):
                module.fused = is_fused
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(*padded_batch).float().square().sum()
        found = torch.autograd.grad(loss, list(model.parameters()))
        gradients.append(torch.cat([g.flatten() for g in found]))
    plain, quick = gradients
    assert 0 < (plain - quick).norm() / plain.norm() < 2e-2


def test_elements_are_dropped_one_by_one() -> None:
    n, dim = 128, 256
    x, h = normal(n, dim), torch.ones(n, dim, requires_grad=True)
    drawn = []
    for _ in range(2):
        full, _ = fused.residual_norm(x, h, torch.ones(dim), torch.zeros(dim), 1e-12, 0.1)
        (for_h,) = torch.autograd.grad(full, h, torch.randn(n, dim))
        drawn.append((for_h == 0).double())
    first, second = drawn
    assert abs(first.mean() - 0.1) < 4 * (0.09 / first.numel()) ** 0.5
    # Nothing depends on a neighbour, on one of the eight that share a draw, on the row before, or
    # on the call before.
    others = [(first[:, k:], first[:, :-k]) for k in range(1, 9)]
    others += [(first[1:], first[:-1]), (first, second)]
    for a, b in others:
        both = torch.stack([a.flatten(), b.flatten()])
        assert abs(torch.corrcoef(both)[0, 1]) < 4 / a.numel() ** 0.5


def test_the_same_random_state_drops_the_same_and_checkpoint_relies_on_it() -> None:
    inputs = [normal(33, 96), normal(33, 96, dtype=BF16), normal(96), normal(96)]
    results = []
    for again in (False, True, True):
        torch.manual_seed(5)
        arguments = (*inputs, 1e-12, 0.1)
        if again:
            out = checkpoint(fused.residual_norm, *arguments, use_reentrant=False)
        else:
            out = fused.residual_norm(*arguments)
        loss = out[0].square().sum() + out[1].float().sum()
        results.append([*out, *torch.autograd.grad(loss, inputs)])
    for values in zip(*results, strict=True):
        assert torch.equal(values[0], values[1])
        assert torch.equal(values[0], values[2])


@pytest.mark.parametrize("shape", [*SHAPES, (5, 1100)])
@pytest.mark.parametrize("dtype", [FP32, BF16])
def test_gelu_and_its_gradients(shape: tuple[int, int], dtype: torch.dtype) -> None:
    inputs = [(3 * torch.randn(shape)).to(dtype).requires_grad_(), normal(shape[1])]
    out = fused.bias_gelu(*inputs)
    grad = torch.randn(shape).to(dtype)
    assert out.dtype == dtype
    found = torch.autograd.grad(out, inputs, grad)
    expected = fused.exact(lambda u, bias: F.gelu(u + bias), inputs, grad.double())
    assert_close([out, *found], expected)


def test_any_number_of_dimensions_and_any_strides_and_no_rows() -> None:
    x, h, weight, shift = normal(6, 5, 96), normal(6, 5, 96), normal(96), normal(96)
    flat, _ = fused.residual_norm(x.flatten(0, 1), h.flatten(0, 1), weight, shift, 1e-12)
    full, low = fused.residual_norm(x, h, weight, shift, 1e-12)
    assert low is full
    assert torch.equal(full, flat.view(6, 5, 96))
    moved, _ = fused.residual_norm(x.transpose(0, 1), h.transpose(0, 1), weight, shift, 1e-12)
    assert torch.equal(moved, full.transpose(0, 1))
    across = x.flatten(0, 1).T.contiguous().T
    assert not across.is_contiguous()
    assert torch.equal(fused.residual_norm(across, h.flatten(0, 1), weight, shift, 1e-12)[0], flat)
    assert torch.equal(fused.bias_gelu(across, shift), fused.bias_gelu(x.flatten(0, 1), shift))
    assert torch.equal(
        fused.bias_gelu(x, shift), fused.bias_gelu(x.flatten(0, 1), shift).view_as(x)
    )
    # A gradient that is one number, spread out, or of another order.
    for out, inputs in ((full, (x, h, weight, shift)), (fused.bias_gelu(x, shift), (x, shift))):
        spread = torch.autograd.grad(out.sum(), inputs, retain_graph=True)
        plain = torch.autograd.grad(out, inputs, torch.ones_like(out), retain_graph=True)
        for a, b in zip(spread, plain, strict=True):
            assert torch.equal(a, b)
    none, _ = fused.residual_norm(x[:0], h[:0], weight, shift, 1e-12, 0.1)
    assert fused.norm_grid("norm_forward", x[:0, 0])[0] == (1,)
    assert fused.gelu_grid("gelu_forward", x[:0, 0])[0] == (1, 1)
    assert none.shape == fused.bias_gelu(x[:0], shift).shape == (0, 5, 96)
    for out, inputs in ((none, (weight, shift)), (fused.bias_gelu(x[:0], shift), (shift,))):
        assert all(not g.any() for g in torch.autograd.grad(out.sum(), inputs))


def test_the_kernels_prove_right_and_no_random_number_is_used_up() -> None:
    fused.fused_differs.cache_clear()
    before = torch.get_rng_state()
    assert fused.fused_differs(torch.device("cpu"), 96) == ""
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("kernel", "argument", "reason"),
    [
        ("norm_forward", "FULL", "norm differs by 0."),
        ("norm_forward", "LOW", "its copy differs by 0."),
        ("norm_backward", "FOR_X", "gradient of x differs by 0."),
        ("norm_backward", "SUMS", "of the weight differs by 0."),
        # Backward drops others than forward.
        ("norm_backward", "SEED", "norm differs by 0."),
        ("gelu_forward", "OUT", "GELU differs by 0."),
        ("gelu_backward", "SUMS", "of its bias differs by 0."),
    ],
)
def test_a_kernel_that_is_wrong_is_found_out(
    kernel: str, argument: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = getattr(triton_kernels, kernel)
    place = right.arg_names.index(argument)

    class Wrong:
        """A kernel with another seed, or with results that are a tenth too large."""

        def __getitem__(self, grid: tuple[int, ...]) -> Callable:
            def launch(*arguments: Any, **settings: Any) -> None:
                value = arguments[place]
                if argument == "SEED" and value is not None:
                    arguments = (*arguments[:place], value + 1, *arguments[place + 1 :])
                right[grid](*arguments, **settings)
                if argument != "SEED":
                    value.mul_(1.1)

            return launch

    fused.fused_differs.cache_clear()
    monkeypatch.setattr(triton_kernels, kernel, Wrong())
    assert fused.fused_differs(torch.device("cpu"), 96).startswith(reason)
    fused.fused_differs.cache_clear()

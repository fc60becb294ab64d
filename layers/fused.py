"""What stands between BERT's products, on a GPU in bf16: two kernels in place of a dozen.

    full, low = residual_norm(x, h, weight, shift, eps, p_drop)     # LayerNorm(x + dropout(h))
    y = bias_gelu(u, bias)                                          # GELU(u + bias), exact

Such steps take as long as the memory needs for what they read and write, and PyTorch's read and
write it a dozen times. Here each tensor is read once and written once: nothing is stored between
sum, dropout and norm; what was dropped is drawn again in the backward pass; the gradients of
biases, weights and shifts are summed on the way.

The kernels are written in Triton (triton_kernels.py), which is imported when the first one is
called.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Elements of a tile: as many as registers hold together with the sums over them.
NORM_TILE, GELU_TILE = 1024, 2048
GELU_COLUMNS = 512
# Warps that a multiprocessor runs at a time, as many as its registers serve.
WARPS = {"norm_forward": 32, "norm_backward": 20, "gelu_forward": 40, "gelu_backward": 24}


def for_gpu(x: Tensor) -> bool:
    """Whether `x` is where the kernels belong: on a GPU, under autocast to bf16."""
    # torch.compile merges such steps itself, and an exported graph has to run elsewhere.
    if x.device.type != "cuda" or torch.compiler.is_compiling():
        return False
    return torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda") == torch.bfloat16


@functools.cache
def n_processors(device: torch.device) -> int:
    """The multiprocessors of a GPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count


def n_programs(kernel: str, x: Tensor, n_tiles: int, n_warps: int) -> int:
    """How many programs of a kernel share some tiles: as many as the GPU runs at a time."""
    # Triton's interpreter, on a CPU, runs one after the other; a few show that they share.
    at_a_time = WARPS[kernel] // n_warps * n_processors(x.device) if x.is_cuda else 3
    # One for no rows, too: a GPU launches no empty grid.
    return max(1, min(at_a_time, n_tiles))


def launch(kernel: str, grid: tuple[int, ...], arguments: tuple, tile: dict[str, int]) -> None:
    """Have a kernel computed by a grid of programs, on the GPU where its first argument is."""
    from layers import triton_kernels

    # Triton takes the current GPU, whichever one the tensors are on.
    with torch.cuda.device_of(arguments[0]):
        # Products and sums in one rounding, which one version does unasked and another does not.
        getattr(triton_kernels, kernel)[grid](*arguments, **tile, enable_fp_fusion=True)


# ----------------------------------------------------------------- LayerNorm(x + dropout(h + bias))


def residual_norm(
    x: Tensor,
    h: Tensor,
    weight: Tensor,
    shift: Tensor,
    eps: float,
    p_drop: float = 0.0,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """LayerNorm(x + dropout(h + bias)), (..., D) x 2 -> (..., D), in x's type and in h's.

    x stays in float32 from block to block. Its copy in bf16 is for products, which would make it
    themselves otherwise; where the types are the same both are one tensor.

    Args:
        weight, shift: (D,) of the LayerNorm, with `eps` inside its root.
        p_drop: probability of dropping an element; exact to 1/65536, as kernels.dropout has it.
        bias: (D,) of the product that gave h, if that did not add it.
    """
    full, low = ResidualNormFunction.apply(
        x.flatten(0, -2), h.flatten(0, -2), weight, shift, bias, eps, p_drop
    )
    full = full.view(x.shape)
    return full, full if low is None else low.view(x.shape)


def norm_grid(kernel: str, x: Tensor) -> tuple[tuple[int], dict[str, int]]:
    """The programs for a matrix (T, D), and the settings of their kernel."""
    n_rows, dim = x.shape
    # Whole rows, in powers of two; dropout draws for eight columns at once.
    columns = max(8, 1 << (dim - 1).bit_length())
    rows = max(1, NORM_TILE // columns)
    n_warps = min(16, max(4, columns // 256))
    n = n_programs(kernel, x, -(-n_rows // rows), n_warps)
    return (n,), {"D": dim, "N": columns, "R": rows, "num_warps": n_warps}


class ResidualNormFunction(torch.autograd.Function):
    """residual_norm of matrices, (T, D) x 2."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        h: Tensor,
        weight: Tensor,
        shift: Tensor,
        bias: Tensor | None,
        eps: float,
        p_drop: float,
    ) -> tuple[Tensor, Tensor | None]:
        # The last block's copy has no gradient, and the full one none where nothing is added to it.
        ctx.set_materialize_grads(False)
        x, h = x.contiguous(), h.contiguous()
        full = torch.empty_like(x)
        low = None if h.dtype == x.dtype else torch.empty_like(h)
        mean, scale = torch.empty(2, len(x), dtype=torch.float32, device=x.device)
        # Drawn on the device from PyTorch's generator: nothing waits for it, checkpoint() draws the
        # same one again, and a CUDA graph another one at each replay.
        seed = torch.randint(2**62, (1,), device=x.device) if p_drop else None
        dropping = (round(p_drop * 2**16), 1 / (1 - p_drop))
        arguments = (x, h, bias, weight, shift, full, low, mean, scale, seed)
        grid, tile = norm_grid("norm_forward", x)
        launch("norm_forward", grid, (*arguments, len(x), eps, *dropping), tile)
        ctx.save_for_backward(x, h, weight, bias, mean, scale, seed)
        ctx.dropping = dropping
        return full, low

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, for_full: Tensor | None, for_low: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        x, h, weight, bias, mean, scale, seed = ctx.saved_tensors
        if for_full is None:
            for_full, for_low = for_low, None
        if for_full is None:
            return (None,) * 7
        for_full = for_full.contiguous()
        for_low = None if for_low is None else for_low.contiguous()
        for_x, for_h = torch.empty_like(x), torch.empty_like(h)
        grid, tile = norm_grid("norm_backward", x)
        sums = torch.empty(*grid, 3, x.shape[1], dtype=torch.float32, device=x.device)
        arguments = (for_full, for_low, x, h, bias, weight, mean, scale, seed, for_x, for_h, sums)
        launch("norm_backward", grid, (*arguments, len(x), *ctx.dropping), tile)
        for_weight, for_shift, for_bias = sums.sum(0)
        return for_x, for_h, for_weight, for_shift, None if bias is None else for_bias, None, None


# ----------------------------------------------------------------------------------- GELU(u + bias)


def bias_gelu(u: Tensor, bias: Tensor) -> Tensor:
    """GELU(u + bias), with the error function: (..., D), (D,) -> (..., D) in the type of u.

    Args:
        u: what a product gave without its bias.
    """
    return BiasGeluFunction.apply(u.flatten(0, -2), bias).view(u.shape)


class BiasGeluFunction(torch.autograd.Function):
    """bias_gelu of a matrix, (T, D)."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, bias: Tensor) -> Tensor:
        u = u.contiguous()
        out = torch.empty_like(u)
        grid, tile = gelu_grid("gelu_forward", u)
        launch("gelu_forward", grid, (u, bias, out, len(u)), tile)
        ctx.save_for_backward(u, bias)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, for_out: Tensor) -> tuple[Tensor, Tensor]:
        u, bias = ctx.saved_tensors
        for_u = torch.empty_like(u)
        grid, tile = gelu_grid("gelu_backward", u)
        sums = torch.empty(grid[0], u.shape[1], dtype=torch.float32, device=u.device)
        arguments = (for_out.contiguous(), u, bias, for_u, sums, len(u))
        launch("gelu_backward", grid, arguments, tile)
        return for_u, sums.sum(0)


def gelu_grid(kernel: str, u: Tensor) -> tuple[tuple[int, int], dict[str, int]]:
    """The programs for a matrix (T, D), by rows and columns, and the settings of their kernel."""
    n_rows, dim = u.shape
    rows, n_warps = GELU_TILE // GELU_COLUMNS, 4
    across = -(-dim // GELU_COLUMNS)
    # Of the programs that the GPU runs at a time, some for each group of columns.
    n = n_programs(kernel, u, -(-n_rows // rows) * across, n_warps)
    grid = max(1, n // across), across
    return grid, {"D": dim, "N": GELU_COLUMNS, "R": rows, "num_warps": n_warps}


# ----------------------------------------------------------------------------------- are they right


@functools.cache
def fused_differs(device: torch.device, dim: int) -> str:
    """Why the kernels are not used on a device for vectors of this width, in words; "": they are.

    Triton may be missing, or not know the GPU, or compile something else than is written. So each
    run tries the kernels before relying on them: outputs and gradients against PyTorch's own steps.
    """
    try:
        # What is drawn here must not shift what is drawn in training.
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            for p_drop in (0.0, 0.1):
                if reason := norm_differs(device, dim, p_drop):
                    return reason
            return gelu_differs(device, dim)
    except Exception as error:  # whatever Triton or its compilers raise
        return str(error).strip().split("\n")[0] or type(error).__name__


def norm_differs(device: torch.device, dim: int, p_drop: float) -> str:
    """How residual_norm differs from the plain formula in float64; "": it does not."""
    x, h, for_full, for_low, others = random(5, 37, dim, device)
    h, for_low = h.bfloat16(), for_low.bfloat16()
    inputs = [value.clone().requires_grad_() for value in (x, h, *others[:3])]
    x, h, weight, shift, bias = inputs
    results = residual_norm(x, h, weight, shift, 1e-12, p_drop, bias)
    found = [*results, *torch.autograd.grad(results, inputs, (for_full, for_low))]
    # What was dropped has no gradient.
    keep = found[3] != 0
    share, expected = 1 - keep.double().mean().item(), round(p_drop * 2**16) / 2**16
    # Within five standard errors, and of no dropout exactly.
    if abs(share - expected) > 5 * (expected * (1 - expected) / keep.numel()) ** 0.5:
        return f"{share:.3f} of the elements are dropped, not {expected:.3f}"

    def plain(x: Tensor, h: Tensor, weight: Tensor, shift: Tensor, bias: Tensor) -> Tensor:
        return F.layer_norm(x + (h + bias) * keep / (1 - p_drop), (dim,), weight, shift, 1e-12)

    y, *gradients = exact(plain, inputs, for_full.double() + for_low.double())
    names = "norm,its copy,gradient of x,of h,of the weight,of the shift,of the bias"
    return first_difference(names, found, [y, y, *gradients])


def gelu_differs(device: torch.device, dim: int) -> str:
    """How bias_gelu differs from the plain formula in float64; "": it does not."""
    u, for_out, other = random(3, 37, dim, device)
    u, for_out, bias = u.bfloat16(), for_out.bfloat16(), other[0].clone()
    inputs = [u.requires_grad_(), bias.requires_grad_()]
    out = bias_gelu(*inputs)
    found = [out, *torch.autograd.grad(out, inputs, for_out)]
    expected = exact(lambda u, bias: F.gelu(u + bias), inputs, for_out.double())
    return first_difference("GELU,gradient of GELU,of its bias", found, expected)


def random(n: int, n_rows: int, dim: int, device: torch.device) -> Tensor:
    """(n, rows, D): normal numbers, the same ones at every call."""
    return torch.randn(n, n_rows, dim, generator=torch.Generator().manual_seed(0)).to(device)


def exact(plain: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor) -> list[Tensor]:
    """In float64: a formula's value, and the gradients of its inputs."""
    inputs = [value.detach().double().requires_grad_() for value in inputs]
    out = plain(*inputs)
    return [out, *torch.autograd.grad(out, inputs, grad)]


def first_difference(names: str, found: list[Tensor], expected: list[Tensor]) -> str:
    """The first value that differs by more than its type rounds, in words; "": none does."""
    for name, value, right in zip(names.split(","), found, expected, strict=True):
        difference = ((value.detach().double() - right).norm() / right.norm()).item()
        # bf16 has eight bits, float32 24; a NaN is not less than anything.
        if not difference < (1e-2 if value.dtype == torch.bfloat16 else 1e-5):
            return f"{name} differs by {difference:.2g}"
    return ""

"""Products, dropout and attention, computed the fast way on each processor.

    y = linear(x, weight, bias)                 # F.linear: (..., D), (O, D), (O,) -> (..., O)
    y = dropout(x, 0.1, training=True)          # F.dropout

On a GPU these are PyTorch's own. On a CPU three of them are slower than the processor:

- float32 products go to MKL, which uses AVX-512 on Intel's processors alone. Elsewhere oneDNN,
  which PyTorch ships for other types, is about twice as fast and just as exact.
- F.dropout draws a float for every element and takes as long as a product.
- The fused attention cannot drop.

Row: ground. It imports only from rows below (ARCHITECTURE.md).
"""

import functools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

SMALL_PRODUCT = 2**20  # multiplications below which calling oneDNN is not worth it

# ----------------------------------------------------------------------------------------- products


@functools.cache
def onednn_is_faster() -> bool:
    """Whether this processor has AVX-512 and is not Intel's, and PyTorch has oneDNN's product."""
    # Only Linux tells the processor's maker so; elsewhere the product is left to PyTorch.
    try:
        with open("/proc/cpuinfo") as f:
            intel = "GenuineIntel" in f.read(10_000)
    except OSError:
        return False
    return (
        not intel
        and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(T, D), (O, D), (O,) -> (T, O)"""
    # PyTorch has this operator for its compiler; onednn_is_faster() checks that it is there.
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class OneDNNLinear(torch.autograd.Function):
    """oneDNN's product and its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # (T, O)
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        # What needs no gradient, such as the input of a frozen layer, is not multiplied.
        return (
            product(grad, weight.T) if for_x else None,
            product(grad.T, x.T) if for_weight else None,
            grad.sum(0) if for_bias else None,
        )


def uses_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN computes this product."""
    # Other types go to oneDNN already, and a GPU has kernels of its own.
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return False
    if torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
        return False
    return x.numel() * len(weight) >= SMALL_PRODUCT and onednn_is_faster()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear: (..., D), (O, D), (O,) -> (..., O)."""
    if not uses_onednn(x, weight):
        return F.linear(x, weight, bias)
    # The operator takes matrices: (..., D) -> (T, D).
    flat = x.flatten(0, -2)
    inputs = (x, weight) if bias is None else (x, weight, bias)
    # Without a gradient the plain operator saves what autograd would keep.
    needs_gradient = torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
    compute = OneDNNLinear.apply if needs_gradient else product
    return compute(flat, weight, bias).view(*x.shape[:-1], -1)


class Linear(nn.Linear):
    """nn.Linear by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


# ------------------------------------------------------------------------------------------ dropout


def keep_mask(x: Tensor, p: float) -> Tensor:
    """A tensor like `x`: 0 with probability p, 1 / (1 - p) elsewhere; from PyTorch's CPU generator.

    16 random bits of each element are compared with p, so the rate is exact to 1/65536. Drawing a
    float for each, as F.dropout does on a CPU, takes seven times as long.
    """
    # Four elements share a 64-bit random number, which takes a quarter of the calls.
    words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64)
    bits = words.random_(-(2**63), None).view(torch.int16)[: x.numel()].view(x.shape)
    # Of the 65,536 values from -32768 on, the first p x 65536 drop.
    first_kept = round(p * 2**16) - 2**15
    return bits.ge(first_kept).to(x.dtype).mul_(1 / (1 - p))


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """F.dropout, fast on a CPU too."""
    if not training or p == 0:
        return x
    if x.device.type == "cpu":
        return x * keep_mask(x, p)
    return F.dropout(x, p)


# ---------------------------------------------------------------------------------------- attention


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    may_attend: Tensor | None,
    p_drop: float,
    maps: list[Tensor] | None = None,
) -> Tensor:
    """softmax(q k' / sqrt(W)) v, for each head: (B, H, M, W), 2 x (B, H, S, W) -> (B, H, M, W).

    Args:
        may_attend: (B, 1, 1, S), True: a token to look at; None: all are.
        p_drop: probability of dropping a weight.
        maps: gets the weights appended, (B, H, M, S).
    """
    # On a CPU the fused kernel has no dropout.
    fused_can_drop = q.device.type != "cpu"
    if maps is None and (p_drop == 0 or fused_can_drop):
        return F.scaled_dot_product_attention(q, k, v, may_attend, p_drop)
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])  # (B, H, M, S)
    if may_attend is not None:
        # The least number rather than minus infinity: a row with nothing to look at would be NaN.
        scores = scores.masked_fill(~may_attend, torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1)
    if maps is not None:
        maps.append(weights)
    return dropout(weights, p_drop, p_drop > 0) @ v

"""x W' + b in float32 on a processor where PyTorch's own product runs at half speed.

    y = linear(x, weight, bias)                                 # F.linear, bit for bit elsewhere, to rounding here

PyTorch multiplies float32 matrices by MKL, which uses AVX-512 on Intel's processors alone. On
others, oneDNN (which PyTorch brings along for its other types) is about twice as fast; the result
is a float32 product as exact as MKL's.
"""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


@functools.cache
def faster() -> bool:
    """Whether this processor has AVX-512 and is not Intel's, and this PyTorch has oneDNN's product."""
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


def product(
    x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:  # (T, D), (O, D), (O,) -> (T, O)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class OneDNN(torch.autograd.Function):
    """The product and its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # (T, O)
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        return (
            product(grad, weight.T) if for_x else None,
            product(grad.T, x.T) if for_weight else None,
            grad.sum(0) if for_bias else None,
        )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear: (..., D), (O, D), (O,) -> (..., O)."""
    if (
        x.device.type != "cpu"
        or x.dtype != torch.float32
        or torch.is_autocast_enabled("cpu")
        or not faster()
        or torch.compiler.is_compiling()
        or x.numel() * len(weight) < 2**20
    ):  # a small one is not worth the call
        return F.linear(x, weight, bias)
    flat = x.flatten(0, -2)
    if torch.is_grad_enabled() and (
        x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    ):
        out = OneDNN.apply(flat, weight, bias)
    else:
        out = product(flat, weight, bias)
    return out.view(*x.shape[:-1], -1)


class Linear(nn.Linear):
    """nn.Linear by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)

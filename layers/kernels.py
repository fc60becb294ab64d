"""Products, dropout, norms and attention, computed the fast way on each processor.

    y = linear(x, weight, bias)                 # F.linear: (..., D), (O, D), (O,) -> (..., O)
    y = dropout(x, 0.1, training=True)          # F.dropout

On a GPU these are PyTorch's own, or in bf16 kernels that do several of their steps at once
(fused.py). On a CPU three of them are slower than the processor:

- float32 products go to MKL, which uses AVX-512 on Intel's processors alone. Elsewhere oneDNN,
  which PyTorch ships for other types, is about twice as fast and just as exact.
- F.dropout draws a float for every element and takes as long as a product.
- The fused attention cannot drop.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from layers import fused

# A product with a packed weight: of its input, and one of ACTIVATIONS after it.
Product = Callable[[Tensor, str | None], Tensor]

SMALL_PRODUCT = 2**20  # multiplications below which calling oneDNN is not worth it

# Hugging Face computes the exact GELU for "gelu", and calls the tanh approximation gelu_new.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,  # exact, with the error function
    "gelu_new": functools.partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}
# What oneDNN calls them, to compute one together with a product.
ONEDNN_NAMES = {
    None: ("none", ""),
    "gelu": ("gelu", "none"),
    "gelu_new": ("gelu", "tanh"),
    "relu": ("relu", ""),
}

# ----------------------------------------------------------------------------------------- products


def has_onednn() -> bool:
    """Whether this PyTorch has oneDNN's product."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def blocks_are_faster() -> bool:
    """Whether this processor has AVX-512, where oneDNN's product of weights in blocks is fastest.

    An activation costs nothing there.
    """
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512") and has_onednn()


@functools.cache
def onednn_is_faster() -> bool:
    """Whether oneDNN multiplies weights as they are faster than PyTorch: not on Intel's own."""
    # Only Linux tells the processor's maker so; elsewhere the product is left to PyTorch.
    try:
        with open("/proc/cpuinfo") as f:
            intel = "GenuineIntel" in f.read(10_000)
    except OSError:
        return False
    return blocks_are_faster() and not intel


@dataclasses.dataclass
class Products:
    """Which float32 products a process trains with."""

    chosen: str | None = None  # onednn or pytorch; None: as suits the processor


PRODUCTS = Products()


def usual_products() -> str:
    """Which float32 products suit this processor, by a rule: a run has to give the same bits."""
    return "onednn" if onednn_is_faster() else "pytorch"


def product(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None
) -> Tensor:
    """(T, D), (O, D), (O,) -> (T, O)"""
    name, kind = ONEDNN_NAMES[activation]
    # PyTorch has this operator for its compiler; onednn_is_faster() checks that it is there.
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, name, [], kind)


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
    if x.numel() * len(weight) < SMALL_PRODUCT:
        return False
    return (PRODUCTS.chosen or usual_products()) == "onednn"


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None
) -> Tensor:
    """F.linear: (..., D), (O, D), (O,) -> (..., O), and one of ACTIVATIONS after it."""
    if uses_onednn(x, weight):
        inputs = (x, weight) if bias is None else (x, weight, bias)
        # The operator takes matrices: (..., D) -> (T, D).
        flat = x.flatten(0, -2)
        # Without a gradient the plain operator saves what autograd would keep.
        if not (torch.is_grad_enabled() and any(t.requires_grad for t in inputs)):
            return product(flat, weight, bias, activation).view(*x.shape[:-1], -1)
        y = OneDNNLinear.apply(flat, weight, bias).view(*x.shape[:-1], -1)
    else:
        y = F.linear(x, weight, bias)
    return ACTIVATIONS[activation](y) if activation else y


class Linear(nn.Linear):
    """nn.Linear by `linear`.

    After prepack() it predicts with its weight packed as products read it fastest: bf16 converted
    once, not at every call; on a CPU fp32 in oneDNN's blocks, or int8 with a scale for each output,
    while inputs are rounded to 8 bits between the least and the largest of a batch.
    """

    # (dtype, outputs from the first, to before the last) -> product; None: not prepacked
    packed: dict[tuple[str, int, int], Product] | None = None
    made_of: tuple = ()  # the weight and bias that were packed, as they were then
    int8 = False
    fused = False  # True: on a GPU in bf16, bias and GELU by a kernel of their own

    def __getstate__(self) -> dict[str, Any]:
        # It is packed again where a copy, or a file, is used.
        return self.__dict__ | {"packed": None if self.packed is None else {}}

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        if compute := self.packed_product(0, self.out_features):
            return compute(x, activation)
        if self.fused and activation == "gelu" and fused.for_gpu(x):
            return fused.bias_gelu(F.linear(x, self.weight), self.bias)
        return linear(x, self.weight, self.bias, activation)

    def part(self, x: Tensor, first: int, last: int) -> Tensor:
        """The outputs from the first to before the last: (..., D) -> (..., last - first)."""
        if compute := self.packed_product(first, last):
            return compute(x, None)
        return linear(x, self.weight[first:last], self.bias[first:last])

    def packed_product(self, first: int, last: int) -> Product | None:
        """The product with some outputs, made when first asked for; None: use the parameters."""
        if self.packed is None or torch.compiler.is_compiling():
            return None
        # PyTorch's fused optimizers change a weight without counting its version.
        if torch.is_grad_enabled():
            self.packed.clear()
            return None
        # Who loads other weights into the model predicts with these. Weights that were made for
        # inference have no version, and cannot be changed outside of it.
        version = 0 if self.weight.is_inference() else self.weight._version
        made_of = (version, self.weight.data_ptr(), self.bias.data_ptr(), self.weight.dtype)
        if self.made_of != made_of:
            self.made_of, self.packed = made_of, {}
        dtype = "bf16" if torch.is_autocast_enabled(self.weight.device.type) else "fp32"
        key = ("int8" if self.int8 else dtype, first, last)
        if key not in self.packed:
            weight, bias = self.weight[first:last].detach(), self.bias[first:last].detach()
            self.packed[key] = PACK[key[0]](weight, bias)
        return self.packed[key]


# --------------------------------------------------------------------------------------- predicting


def has_bf16_products() -> bool:
    """Whether this processor multiplies bf16 numbers; emulated, they take longer than float32."""
    known = processor()
    return any(known.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))


def has_int8_products() -> bool:
    """Whether this PyTorch multiplies 8-bit numbers."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.onednn, "qlinear_pointwise")


@functools.cache
def processor() -> Mapping[str, Any]:
    """What the processor can do, by the names of torch.cpu.get_capabilities()."""
    if hasattr(torch.cpu, "get_capabilities"):
        return torch.cpu.get_capabilities()
    # Before PyTorch 2.12 single questions are answered.
    return {
        "avx512_bf16": torch.cpu._is_avx512_bf16_supported(),
        "amx_bf16": torch.cpu._is_amx_tile_supported(),
        "avx512_vnni": torch.cpu._is_vnni_supported(),
    }


def pack_float(weight: Tensor, bias: Tensor) -> Product:
    """A product with a weight in oneDNN's blocks, where that is faster, else with it as it is."""
    if weight.dtype != torch.float32 or weight.device.type != "cpu" or not has_onednn():
        return lambda x, activation: linear(x, weight, bias, activation)
    blocks = weight  # until they are asked for

    def multiply(x: Tensor, activation: str | None) -> Tensor:
        nonlocal blocks
        flat = x.flatten(0, -2)
        way = fastest_way(*weight.shape, activation, flat.shape[0] < FEW_ROWS)
        if way.blocks and blocks is weight:
            blocks = torch.ops.mkldnn._reorder_linear_weight(weight)
        y = way.multiply(flat, blocks if way.blocks else weight, bias, activation)
        return y.view(*x.shape[:-1], len(bias))

    return multiply


class Way(NamedTuple):
    """A way to multiply float32 numbers."""

    onednn: bool  # by oneDNN, else by what PyTorch has: MKL, on most processors
    blocks: bool  # with weights in oneDNN's blocks
    fused: bool  # an activation in the product, else after it

    def multiply(self, x: Tensor, weight: Tensor, bias: Tensor, activation: str | None) -> Tensor:
        """(T, D), the weight of (O, D), in blocks if the way is, (O,) -> (T, O)"""
        if self.fused:
            return product(x, weight, bias, activation)
        y = product(x, weight, bias) if self.onednn else F.linear(x, weight, bias)
        return ACTIVATIONS[activation](y) if activation else y


PLAIN = Way(onednn=False, blocks=False, fused=False)
FEW_ROWS = 64  # below which a processor may be fastest in another way
MEASURED_ROWS = {True: 16, False: 96}  # few rows, and as many as show which way is fastest
MEASURING = 0.1  # seconds for a shape at most
ROUNDS = {True: 10, False: 3}  # the fewer rows, the more chance
CLEARLY = 0.9  # of the time of the usual way: less of a gain may be chance
LARGE_PRODUCT = 2**30  # multiplications above which nothing is measured


@functools.cache
def fastest_way(n_out: int, n_in: int, activation: str | None, few: bool) -> Way:
    """How this processor multiplies matrices of a shape fastest, measured in some milliseconds.

    Which instructions it has does not say it: MKL, oneDNN and its activations differ by a quarter
    either way. Only for predicting: training has to give the same bits when it is resumed.
    """
    n_rows = MEASURED_ROWS[few]
    fused = Way(onednn=True, blocks=True, fused=True)
    usual = fused if blocks_are_faster() else PLAIN
    # Of the scores of a vocabulary even one would take long.
    if not SMALL_PRODUCT <= n_rows * n_in * n_out < LARGE_PRODUCT:
        return usual
    ways = [usual, PLAIN, fused, fused._replace(blocks=False)]
    ways += [fused._replace(fused=False)] if activation else []
    x, weight, bias = torch.ones(n_rows, n_in), torch.ones(n_out, n_in), torch.ones(n_out)
    blocks = torch.ops.mkldnn._reorder_linear_weight(weight)
    seconds, deadline = dict.fromkeys(ways, math.inf), time.perf_counter() + MEASURING
    # In turn, so that what else the machine does disturbs all of them. The first round warms up.
    for n in range(ROUNDS[few]):
        for way in seconds:
            began = time.perf_counter()
            way.multiply(x, blocks if way.blocks else weight, bias, activation)
            if n:
                seconds[way] = min(seconds[way], time.perf_counter() - began)
        # A machine that is busy tells nothing.
        if time.perf_counter() > deadline and n < 2:
            return usual
    best = min(seconds, key=lambda way: seconds[way])
    return best if seconds[best] < CLEARLY * seconds[usual] else usual


def pack_int8(weight: Tensor, bias: Tensor) -> Product:
    """A product of 8-bit numbers, given back in float32."""
    scales = weight.abs().amax(1).clamp(min=1e-12) / 127
    rounded = (weight / scales[:, None]).round().to(torch.int8)
    zeros = torch.zeros(len(weight), dtype=torch.int32)
    blocks = torch.ops.onednn.qlinear_prepack(rounded, None)

    def multiply(x: Tensor, activation: str | None) -> Tensor:
        inputs, scale, zero = to_8_bits(x.flatten(0, -2))
        name, kind = ONEDNN_NAMES[activation]
        y = torch.ops.onednn.qlinear_pointwise(
            inputs, scale, zero, blocks, scales, zeros, bias, 1.0, 0, torch.float32, name, [], kind
        )
        return y.view(*x.shape[:-1], len(bias))

    return multiply


def to_8_bits(x: Tensor) -> tuple[Tensor, float, int]:
    """Numbers in equal steps from the least to the largest, the size of a step, and which is 0."""
    if not x.numel():
        return x.to(torch.uint8), 1.0, 0
    known = processor()
    # Without VNNI two products are added in 16 bits; inputs of 7 bits do not overflow these.
    n_steps = 255 if known.get("avx512_vnni") or known.get("avx_vnni") else 127
    least, largest = (float(value) for value in x.aminmax())
    least, largest = min(least, 0.0), max(largest, 0.0)
    step = max((largest - least) / n_steps, 1e-30)
    if not math.isfinite(step):
        # As other products of such numbers; a scale that is not finite makes all of them NaN.
        return torch.zeros_like(x, dtype=torch.uint8), math.nan, 0
    zero = round(-least / step)
    # Half a step more, since a conversion cuts off what is behind the point.
    steps = x.add(step * (zero + 0.5)).mul_(1 / step).clamp_(0, n_steps)
    return steps.to(torch.uint8), step, zero


PACK: dict[str, Callable[[Tensor, Tensor], Product]] = {
    "fp32": pack_float,
    "bf16": lambda weight, bias: pack_float(weight.bfloat16(), bias.bfloat16()),
    "int8": pack_int8,
}


def prepack(model: nn.Module, int8: bool = False) -> None:
    """Let a model's products on a CPU predict as fast as they can, or in 8 bits.

    Its parameters stay what they are. Packed weights take as much memory again in float32, half
    of it in bf16 and a quarter in int8.
    """
    for layer in model.modules():
        if isinstance(layer, Linear):
            # What is packed already stays so.
            layer.int8, layer.packed = int8, layer.packed or {}


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
    # The compiler has a dropout of its own, which it merges with what stands around it.
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        return x * keep_mask(x, p)
    return F.dropout(x, p)


# ------------------------------------------------------------------------------------------- norms


class Stream(NamedTuple):
    """What flows from block to block: each adds to it, and normalises it; (..., D)."""

    full: Tensor
    low: Tensor  # what products read of it: the same tensor, or a copy in bf16 made with it


class ResidualNorm(nn.LayerNorm):
    """What follows a layer of a block: LayerNorm(x + dropout(h))."""

    fused = False  # True: on a GPU in bf16, by one kernel

    def __init__(self, dim: int, eps: float, p_drop: float):
        super().__init__(dim, eps)
        self.p_drop = p_drop

    def forward(self, x: Tensor, h: Tensor) -> Stream:  # type: ignore[override]
        # (..., D) x 2 -> (..., D)
        if self.fused and fused.for_gpu(x):
            p_drop = self.p_drop if self.training else 0.0
            return Stream(*fused.residual_norm(x, h, self.weight, self.bias, self.eps, p_drop))
        y = super().forward(x + dropout(h, self.p_drop, self.training))
        return Stream(y, y)


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

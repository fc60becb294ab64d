"""The fused kernels of a GPU, without one: what they compute, compile to, and are used for.

Triton's interpreter computes what the kernels say (interpreted.py); its compiler shows whether they
fit an H200; and models are tried with the plain formulas in the kernels' place.
"""

import copy
import importlib.metadata
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from layers import fused, kernels
from layers.kernels import Linear, ResidualNorm, Stream, dropout
from layers.packing import Packing
from models import Classifier, Config, PretrainModel, QuestionAnswering, Tagger, Transformer
from training import devices, inference

ROOT = Path(__file__).resolve().parent.parent
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


def needs_triton(least: tuple[int, int] = (3, 0)) -> pytest.MarkDecorator:
    """Skip where there is no Triton, or an older one."""
    try:
        found = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return pytest.mark.skipif(True, reason="triton is not installed (requirements-dev.txt)")
    version = tuple(int(number) for number in found.split(".")[:2])
    reason = f"triton {found} is older than {least[0]}.{least[1]}"
    return pytest.mark.skipif(version < least, reason=reason)


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """What was found out of kernels is forgotten."""
    for cache in (fused.fused_differs, devices.warn_once):
        cache.cache_clear()
    yield
    for cache in (fused.fused_differs, devices.warn_once):
        cache.cache_clear()


# ------------------------------------------------------------------------------------ the kernels


@pytest.mark.slow
# The interpreter of earlier versions fails with NumPy 2.4.
@needs_triton((3, 7))
def test_the_kernels_compute_the_formulas() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/interpreted.py", "-p", "no:cacheprovider"],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert re.search(r"^\d{2,} passed", done.stdout, re.MULTILINE), done.stdout


# Pointers and numbers of the kernels, as Triton names their types; what is not here is a constant.
FP32, BF16 = "*fp32", "*bf16"
COUNTS = {"n_rows": "i32", "first_kept": "i32", "eps": "fp32", "kept_scale": "fp32"}
ROWS = {"WEIGHT": FP32, "SHIFT": FP32, "MEAN": FP32, "SCALE": FP32, "SUMS": FP32}
STREAM = {"X": FP32, "FULL": FP32, "FOR_FULL": FP32, "FOR_X": FP32}
COPIES = {"H": BF16, "LOW": BF16, "FOR_LOW": BF16, "FOR_H": BF16}
NORM = COUNTS | ROWS | STREAM | COPIES | {"SEED": "*i64"}
GELU = COUNTS | {"U": BF16, "FOR_U": BF16, "OUT": BF16, "FOR_OUT": BF16, "BIAS": FP32, "SUMS": FP32}


@pytest.mark.slow
@needs_triton()
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="nothing is compiled")
@pytest.mark.parametrize(
    ("kernel", "dim"),
    [(f"norm_{way}", dim) for way in ("forward", "backward") for dim in (384, 768, 1024)]
    + [(f"gelu_{way}", dim) for way in ("forward", "backward") for dim in (1536, 3072)],
)
def test_a_multiprocessor_of_an_h200_runs_as_many_programs_as_are_started(
    kernel: str, dim: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from layers import triton_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    function = getattr(triton_kernels, kernel)
    of, grid = (NORM, fused.norm_grid) if "norm" in kernel else (GELU, fused.gelu_grid)
    _, tile = grid(kernel, torch.empty(1, dim))
    types = {name: of.get(name, "constexpr") for name in function.arg_names}
    constants = {
        (i,): tile.get(name) for i, (name, kind) in enumerate(types.items()) if kind == "constexpr"
    }
    # PyTorch's tensors start at multiples of 16 bytes.
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, kind in enumerate(types.values()) if kind[0] == "*"
    }
    compiled = triton.compile(
        ASTSource(function, types, constants, aligned),
        target=GPUTarget("cuda", 90, 32),
        options={"num_warps": tile["num_warps"], "enable_fp_fusion": True},
    )
    cubin = tmp_path / "kernel.cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not tool.exists():
        pytest.skip("this triton has no cuobjdump")
    usage = subprocess.run([tool, "-res-usage", cubin], capture_output=True, text=True).stdout
    registers, stack, local = map(
        int, re.search(r"REG:(\d+) STACK:(\d+).*LOCAL:(\d+)", usage).groups()
    )
    # With -s.
    print(f"{kernel} {dim}: {registers} registers, {stack} and {local} bytes of memory")
    # Nothing that a row needs goes through the memory.
    assert (local, stack <= 8) == (0, True), usage
    # 2,048 registers of each of 32 lanes, given out by eights.
    assert -(-registers // 8) * 8 * fused.WARPS[kernel] <= 2048


# ----------------------------------------------------------------------------------- without them


def plain_norm(
    x: Tensor,
    h: Tensor,
    weight: Tensor,
    shift: Tensor,
    eps: float,
    p_drop: float = 0.0,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """What residual_norm computes, by PyTorch's own steps."""
    z = h if bias is None else h + bias
    y = F.layer_norm(x + dropout(z, p_drop, p_drop > 0), x.shape[-1:], weight, shift, eps)
    return y, y.to(h.dtype)


def plain_gelu(u: Tensor, bias: Tensor) -> Tensor:
    """What bias_gelu computes, by PyTorch's own steps."""
    return F.gelu(u + bias).to(u.dtype)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU takes the part of the GPU, and plain formulas that of the kernels."""
    monkeypatch.setattr(fused, "for_gpu", lambda x: True)
    monkeypatch.setattr(fused, "residual_norm", plain_norm)
    monkeypatch.setattr(fused, "bias_gelu", plain_gelu)


def test_without_triton_or_a_gpu_a_reason_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    # Whatever is there, nothing is launched for tensors on a CPU.
    assert fused.fused_differs(CPU, 96)
    fused.fused_differs.cache_clear()
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "layers.triton_kernels", raising=False)
    monkeypatch.delattr("layers.triton_kernels", raising=False)
    assert "triton" in fused.fused_differs(CPU, 96)


@pytest.mark.parametrize("error", [RuntimeError("of\nmany lines"), OSError(), KeyError("gcc")])
def test_whatever_a_compiler_raises_is_a_reason(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(fused, "launch", fail)
    expected = {RuntimeError: "of", OSError: "OSError", KeyError: "'gcc'"}[type(error)]
    assert fused.fused_differs(CPU, 96) == expected


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("nothing", ""),
        ("output", "norm differs by "),
        ("copy", "its copy differs by "),
        ("gradient", "of the weight differs by "),
        ("share", " of the elements are dropped, not 0.100"),
        ("never drops", "0.000 of the elements are dropped, not 0.100"),
        ("nan", "norm differs by nan"),
        ("gelu", "GELU differs by "),
        ("its bias", "of its bias differs by "),
    ],
)
def test_kernels_are_tried_against_the_plain_formulas(
    change: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def norm(
        x: Tensor, h: Tensor, weight: Tensor, shift: Tensor, eps: float, p: float, bias: Tensor
    ) -> tuple:
        p = {"share": 2 * p, "never drops": 0.0}.get(change, p)
        weight = 0.99 * weight.detach() + 0.01 * weight if change == "gradient" else weight
        full, low = plain_norm(x, h, weight, shift, eps, p, bias)
        full = full * {"output": 1.001, "nan": float("nan")}.get(change, 1.0)
        return full, low * (1.1 if change == "copy" else 1.0)

    def gelu(u: Tensor, bias: Tensor) -> Tensor:
        bias = 2 * bias - bias.detach() if change == "its bias" else bias
        return plain_gelu(u, bias) * (1.1 if change == "gelu" else 1.0)

    monkeypatch.setattr(fused, "residual_norm", norm)
    monkeypatch.setattr(fused, "bias_gelu", gelu)
    before = torch.get_rng_state()
    found = fused.fused_differs(CPU, 96)
    assert reason in found
    assert bool(found) == bool(reason)
    # What is drawn in training does not depend on it.
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("is_fused", [False, True])
def test_on_a_cpu_a_norm_is_pytorchs_to_the_last_bit(training: bool, is_fused: bool) -> None:
    norm = ResidualNorm(96, 1e-12, 0.1).train(training)
    assert list(norm.state_dict()) == ["weight", "bias"]
    norm.fused = is_fused
    torch.nn.init.normal_(norm.weight)
    x, h = torch.randn(2, 7, 96)
    torch.manual_seed(3)
    found = norm(x, h)
    torch.manual_seed(3)
    y = F.layer_norm(x + dropout(h, 0.1, training), (96,), norm.weight, norm.bias, 1e-12)
    assert torch.equal(found.full, y)
    assert found.low is found.full


def test_kernels_are_for_a_gpu_under_autocast_to_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnGpu:
        device = CUDA

    x: Any = OnGpu()
    with torch.autocast("cpu", torch.bfloat16):
        assert not fused.for_gpu(torch.ones(1))
        assert not fused.for_gpu(x)
    half, bf16 = torch.float16, torch.bfloat16
    for enabled, dtype in ((False, bf16), (True, half), (True, bf16)):
        monkeypatch.setattr(torch, "is_autocast_enabled", lambda device, on=enabled: on)
        monkeypatch.setattr(torch, "get_autocast_dtype", lambda device, dtype=dtype: dtype)
        assert fused.for_gpu(x) == (enabled and dtype == bf16)
    # A graph that is exported has to run elsewhere.
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not fused.for_gpu(x)


# ------------------------------------------------------------------------------------- in a model


def results(model: torch.nn.Module, call: Callable, bf16: bool) -> list[Tensor]:
    """What a model gives, and the gradients of its parameters; float32 where it was not rounded."""
    torch.manual_seed(4)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        out = call(model)
    out = out if isinstance(out, tuple) else (out,)
    loss = sum(value[value.isfinite()].float().square().mean() for value in out)
    return [*out, *torch.autograd.grad(loss, list(model.parameters()))]


KINDS = {
    "pool": (Classifier, ()),
    "tokens": (QuestionAnswering, ()),
    "words": (PretrainModel, (torch.tensor([[1, 2], [3, 4], [1, 1], [5, 0], [0, 0]]),)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("bf16", [False, True])
def test_a_model_gives_the_same_by_way_of_the_kernels(
    kind: str, checkpointing: bool, bf16: bool, tiny: Config, padded_batch: tuple, plain: None
) -> None:
    of, more = KINDS[kind]
    usual = of(tiny).train()
    usual.transformer.checkpointing = checkpointing
    quick = copy.deepcopy(usual)
    for module in quick.modules():
        if isinstance(module, Linear | ResidualNorm):
            module.fused = True
    values = [results(m, lambda m: m(*padded_batch, *more), bf16) for m in (usual, quick)]
    for a, b in zip(*values, strict=True):
        assert a.dtype == b.dtype
        finite = a.isfinite()
        assert torch.equal(finite, b.isfinite())
        off = (a[finite].double() - b[finite]).norm() / a[finite].double().norm().clamp(min=1e-3)
        # bf16 is rounded in other places.
        assert off < (5e-2 if bf16 else 1e-5)


def test_every_step_of_a_block_goes_by_way_of_the_kernels(
    tiny: Config, padded_batch: tuple, plain: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    types: list[tuple] = []

    def norm(x: Tensor, h: Tensor, *more: Any) -> tuple:
        types.append((x.dtype, h.dtype, more[3]))
        return plain_norm(x, h, *more)

    def gelu(u: Tensor, bias: Tensor) -> Tensor:
        types.append((u.dtype, bias.dtype))
        return plain_gelu(u, bias)

    monkeypatch.setattr(fused, "residual_norm", norm)
    monkeypatch.setattr(fused, "bias_gelu", gelu)
    model = Transformer(tiny).train()
    monkeypatch.setattr(fused, "fused_differs", lambda device, dim: "")
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device: self)
    inference.fuse(model, CUDA, True)
    outputs: list[Tensor] = []
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model(*padded_batch, outputs=outputs)
    fp32, bf16 = torch.float32, torch.bfloat16
    block = [(fp32, bf16, 0.1), (bf16, fp32), (fp32, bf16, 0.1)]
    assert types == block * tiny.n_layers
    # What others read of the blocks is the stream itself.
    assert {value.dtype for value in [hidden, *outputs]} == {fp32}
    types.clear()
    model.eval()(*padded_batch)
    assert [p for *_, p in types if isinstance(p, float)] == [0.0] * 2 * tiny.n_layers


def test_products_read_the_copy_of_the_stream(tiny: Config, padded_batch: tuple) -> None:
    block = Tagger(tiny, 3).transformer.blocks[0].eval()
    packing = Packing.of(padded_batch[2])
    full, low = torch.randn(2, len(packing.cells), tiny.dim)
    usual = block(Stream(full, full), packing)
    assert usual.full is usual.low
    # Keys and values see the copy, the sum does not; of the last block in the wanted rows alone.
    other = block(Stream(full, low), packing)
    assert not torch.allclose(usual.full, other.full)
    rows = packing.rows(packing.first)
    assert torch.allclose(block(Stream(full, low), packing, rows).full, other.full[rows], atol=1e-6)
    h = block.attention(low, packing, None, None)
    x = block.norm1(full, h).full
    assert torch.equal(other.full, block.norm2(x, block.feed_forward(x)).full)


@pytest.mark.parametrize(
    ("device", "dtype", "n_gpus", "compiled", "reason", "expected"),
    [
        (CUDA, "bf16", 1, False, "", True),
        (CUDA, "bf16", 1, False, "No module named 'triton'", False),
        (CUDA, "fp32", 1, False, "", False),
        (CUDA, "bf16", 2, False, "", False),
        # torch.compile merges these steps itself.
        (CUDA, "bf16", 1, True, "", False),
        (CPU, "bf16", 1, False, "", False),
    ],
)
def test_where_kernels_are_used(
    device: torch.device,
    dtype: str,
    n_gpus: int,
    compiled: bool,
    reason: str,
    expected: bool,
    tiny: Config,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    asked = []

    def differs(*question: Any) -> str:
        asked.append(question)
        return reason

    monkeypatch.setattr(fused, "fused_differs", differs)
    monkeypatch.setattr(devices, "usable_dtype", lambda dtype, device: dtype)
    monkeypatch.setattr(inference, "compile_blocks", lambda *_: None)
    monkeypatch.setattr(torch.nn, "DataParallel", lambda model: model)
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device: self)
    model = Classifier(tiny)
    # Twice: what was used before is left off where it cannot be any more, and a note comes once.
    for layer in model.modules():
        if isinstance(layer, Linear | ResidualNorm):
            layer.fused = not expected
    for _ in range(2):
        inference.wrap(model, device, dtype, n_gpus, compiled)
    layers = [m for m in model.modules() if isinstance(m, kernels.Linear | kernels.ResidualNorm)]
    assert len(layers) == 3 * 6 + 2
    assert {layer.fused for layer in layers} == {expected}
    assert set(asked) == ({(CUDA, 32)} if expected or reason else set())
    said = f"fused kernels do not work here ({reason}); PyTorch's own instead"
    assert capsys.readouterr().err.count(said) == (1 if reason else 0)

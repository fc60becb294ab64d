"""The product by oneDNN: as exact as PyTorch's own, with its gradients, and taken only where it is
meant.
"""

import copy
import itertools
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import train
from layers import kernels
from layers.kernels import ACTIVATIONS, PLAIN, Linear, OneDNNLinear, Way, linear, product
from models import Classifier, Config
from tasks.encoding import Batches, Features, PooledBatch, PooledBatches, cut_by_tokens
from training import devices, inference
from utils import UserError

drain = hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch.backends.mkldnn.is_available()


@pytest.fixture(autouse=True)
def usual(monkeypatch: pytest.MonkeyPatch) -> None:
    """No run has chosen its products."""
    monkeypatch.setattr(kernels.PRODUCTS, "chosen", None)


@pytest.mark.skipif(not drain, reason="this PyTorch has no oneDNN")
@pytest.mark.parametrize(("rows", "dim", "out"), [(1, 3, 2), (77, 384, 1152), (300, 1536, 384)])
def test_product_and_gradients_are_as_exact_as_pytorchs(rows: int, dim: int, out: int) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(rows, dim), torch.randn(out, dim), torch.randn(out)
    grad = torch.randn(rows, out)
    inputs = [t.requires_grad_() for t in (x, weight, bias)]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    expected = F.linear(*exact)
    theirs, ours = F.linear(*inputs), OneDNNLinear.apply(*inputs)
    assert torch.equal(ours, product(x.detach(), weight.detach(), bias.detach()))
    wanted = [expected, *torch.autograd.grad(expected, exact, grad.double())]
    plain = [theirs, *torch.autograd.grad(theirs, inputs, grad)]
    for value, other, right in zip(
        [ours, *torch.autograd.grad(ours, inputs, grad)], plain, wanted, strict=True
    ):
        assert value.shape == right.shape
        scale = right.detach().abs().max().item()
        ours_off, theirs_off = (
            (v.detach() - right.detach()).abs().max().item() / scale for v in (value, other)
        )
        assert ours_off < max(2e-6, 3 * theirs_off)


def test_what_needs_no_gradient_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "onednn_is_faster", lambda: drain)
    x, weight, bias = (
        torch.randn(4, 64, 512),
        torch.randn(512, 512, requires_grad=True),
        torch.randn(512),
    )
    out = linear(x, weight, bias)
    assert out.shape == (4, 64, 512)
    out.sum().backward()
    assert torch.allclose(
        weight.grad, x.flatten(0, 1).sum(0).expand(512, 512), rtol=1e-4, atol=1e-3
    )
    assert (x.grad, bias.grad) == (None, None)
    with torch.no_grad():
        assert linear(x, weight, bias).grad_fn is None


@pytest.mark.parametrize("kind", ["float64", "autocast", "small", "elsewhere"])
def test_everything_else_is_left_to_pytorch(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "onednn_is_faster", lambda: kind != "elsewhere")
    monkeypatch.setattr(kernels, "product", lambda *_: pytest.fail("oneDNN was called"))
    n = 8 if kind == "small" else 512
    x, weight = torch.randn(64, n), torch.randn(n, n)
    if kind == "float64":
        x, weight = x.double(), weight.double()
    with torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"):
        assert torch.equal(linear(x, weight), F.linear(x, weight))


# --------------------------------------------------------------------------------------- predicting


def layer(dim: int = 384, out: int = 96) -> Linear:
    torch.manual_seed(0)
    found = Linear(dim, out)
    torch.nn.init.normal_(found.bias)
    return found


def one_token(n: int) -> Features:
    rows = np.arange(n)
    return Features(rows.astype(np.int32), np.arange(n + 1), rows, rows, rows)


def laid_out(plain: torch.nn.Module, int8: bool = False) -> torch.nn.Module:
    model = copy.deepcopy(plain)
    kernels.prepack(model, int8)
    return model


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize("blocks", [False, True])
def test_a_layer_that_predicts_gives_the_same_products(
    activation: str | None, blocks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "onednn_is_faster", lambda: blocks and drain)
    monkeypatch.setattr(kernels, "blocks_are_faster", lambda: blocks and drain)
    plain, x = layer(), torch.randn(5, 3, 384) * 2
    fast = laid_out(plain)
    with torch.inference_mode():
        exact = F.linear(x.double(), plain.weight.double(), plain.bias.double())
        expected = ACTIVATIONS[activation](exact) if activation else exact
        assert (fast(x, activation) - expected).abs().max() < 1e-5
        assert (fast.part(x, 32, 96) - exact[..., 32:96]).abs().max() < 1e-5


@pytest.mark.skipif(not drain, reason="this PyTorch has no oneDNN")
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
def test_all_ways_to_multiply_give_the_same_products(activation: str | None) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(50, 96), torch.randn(64, 96), torch.randn(64)
    expected = F.linear(x.double(), weight.double(), bias.double())
    expected = ACTIVATIONS[activation](expected) if activation else expected
    blocks = torch.ops.mkldnn._reorder_linear_weight(weight)
    for way in itertools.product((True, False), repeat=3):
        one = Way(*way)
        # What is not oneDNN's has neither its blocks nor its activations.
        if one.onednn or not (one.blocks or one.fused):
            found = one.multiply(x, blocks if one.blocks else weight, bias, activation)
            assert (found - expected).abs().max() < 1e-4, one


@pytest.mark.skipif(not drain, reason="this PyTorch has no oneDNN")
def test_few_rows_and_many_may_be_multiplied_in_different_ways(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def fastest_way(n_out: int, n_in: int, activation: str | None, few: bool) -> Way:
        asked.append((n_out, n_in, activation, few))
        return Way(True, True, True) if few else PLAIN

    monkeypatch.setattr(kernels, "fastest_way", fastest_way)
    layer, x = Linear(96, 64), torch.randn(300, 96)
    kernels.prepack(layer)
    with torch.inference_mode():
        for n in (300, 3, 300, 63, 64):
            expected = ACTIVATIONS["gelu"](F.linear(x[:n], layer.weight, layer.bias))
            assert (layer(x[:n], "gelu") - expected).abs().max() < 1e-4
    assert [few for *_, few in asked] == [False, True, False, True, False]
    assert asked[0][:3] == (64, 96, "gelu")


@pytest.mark.parametrize(("few", "wide"), [(False, True), (True, True), (False, False)])
def test_the_fastest_way_is_the_one_that_was_measured_so(
    monkeypatch: pytest.MonkeyPatch, few: bool, wide: bool
) -> None:
    onednn = Way(onednn=True, blocks=False, fused=True)
    usual = Way(True, True, True) if wide else PLAIN
    monkeypatch.setattr(kernels, "blocks_are_faster", lambda: wide)
    clock, costs = [0.0], {}

    def multiply(way: Way, x: torch.Tensor, *rest: object) -> None:
        assert len(x) == kernels.MEASURED_ROWS[few]
        clock[0] += costs.get(way, 0.002)

    monkeypatch.setattr(kernels.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(Way, "multiply", multiply)
    for cost, expected in ((0.001, onednn), (0.00195, usual), (0.003, usual)):
        costs[onednn] = cost
        # 5% may be chance, and a machine that is busy tells nothing.
        kernels.fastest_way.cache_clear()
        assert kernels.fastest_way(512, 512, "gelu", few) == expected
    costs[PLAIN] = 1.0
    kernels.fastest_way.cache_clear()
    assert kernels.fastest_way(512, 512, "gelu", few) == usual
    costs.clear()
    # Of a small product nothing is measured.
    assert kernels.fastest_way(8, 8, "gelu", few) == usual
    kernels.fastest_way.cache_clear()


def test_bf16_products_are_those_of_autocast() -> None:
    plain, x = layer(), torch.randn(7, 384)
    fast = laid_out(plain)
    with torch.inference_mode():
        before = fast(x)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fast(x), plain(x))
        assert torch.equal(fast.part(x, 0, 32), plain.part(x, 0, 32))
    with torch.inference_mode():
        assert torch.equal(fast(x), before)


def test_int8_products_are_those_of_rounded_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, x = layer(), torch.randn(9, 384)
    known = kernels.processor()
    # 8 bits overflow where there is no VNNI.
    has_vnni = bool(known.get("avx512_vnni") or known.get("avx_vnni"))
    for vnni, levels in ((False, 127), *[(True, 255)] * has_vnni):
        monkeypatch.setattr(kernels, "processor", lambda vnni=vnni: {"avx512_vnni": vnni})
        with torch.inference_mode():
            found = laid_out(plain, int8=True)(x)
        # Weights: 127 steps up to the largest of each output. Inputs: all steps between the least
        # and the largest number, 0 among them.
        scale = plain.weight.abs().amax(1, keepdim=True) / 127
        weight = (plain.weight / scale).round() * scale
        step = (x.max() - x.min()) / levels
        zero = (-x.min() / step).round()
        rounded = ((x / step + zero).round().clamp(0, levels) - zero) * step
        expected = F.linear(rounded.double(), weight.double(), plain.bias.double())
        assert (found - expected).abs().max() < 1e-4
        assert 1e-3 < (found - plain(x)).abs().max() < 0.2


def test_other_weights_and_training_are_noticed() -> None:
    fast, x = laid_out(layer(), int8=True), torch.randn(4, 384)
    with torch.inference_mode():
        before = fast(x)
    fast.load_state_dict({name: 2 * p for name, p in fast.state_dict().items()})
    with torch.inference_mode():
        assert torch.allclose(fast(x), 2 * before, atol=1e-4)
    # However they come: a new bias, other memory, another type.
    with torch.inference_mode():
        expected = fast(x) + 1
        fast.bias = torch.nn.Parameter(fast.bias + 1)
        assert torch.allclose(fast(x), expected, atol=1e-4)
        fast.weight.data = torch.zeros_like(fast.weight)
        assert torch.equal(fast(x), fast.bias.expand(4, -1))
        fast.int8 = False
        assert fast(x).dtype == torch.float32
        fast.double()
        assert fast(x.double()).dtype == torch.float64
    fast = laid_out(layer(), int8=True)
    # Training is as exact as ever.
    plain = Linear(384, 96)
    plain.load_state_dict(fast.state_dict())
    gradients = []
    for model in (plain, fast):
        assert torch.equal(model(x), plain(x))
        gradients.append(torch.autograd.grad(model(x).square().sum(), list(model.parameters())))
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)


def test_blocks_alone_are_computed_in_int8_and_heads_stay_exact(tiny: Config) -> None:
    model = Classifier(tiny)
    inference.prepack(model, torch.device("cpu"), "int8")
    layers = {name: m for name, m in model.named_modules() if isinstance(m, Linear)}
    assert len(layers) == 3 * 4 + 2
    for name, found in layers.items():
        assert (found.packed is not None, found.int8) == ("blocks" in name, "blocks" in name), name


# --------------------------------------------------------------------------- what a processor lacks


def test_bf16_is_computed_in_fp32_where_a_processor_has_no_such_products(
    tiny: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    device, x = torch.device("cpu"), torch.ones(1, 5, dtype=torch.long)
    found = {}
    for name in ("avx512_bf16", "avx2"):
        monkeypatch.setattr(kernels, "processor", lambda name=name: {name: True})
        devices.usable_dtype.cache_clear()
        torch.manual_seed(0)
        model = inference.wrap(Classifier(tiny), device, "bf16").eval()
        # Said once, not at every evaluation.
        assert devices.usable_dtype("bf16", device) == ("bf16" if name != "avx2" else "fp32")
        found[name] = model(x, x, x).dtype
    devices.usable_dtype.cache_clear()
    assert found == {"avx512_bf16": torch.bfloat16, "avx2": torch.float32}
    err = capsys.readouterr().err
    assert err.count("dtype=bf16: this processor multiplies no bf16 numbers") == 1


def test_int8_is_for_predicting_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    devices.usable_dtype.cache_clear()
    with pytest.raises(UserError, match="int8 is computed on a CPU; on a GPU name fp32 or bf16"):
        devices.usable_dtype("int8", torch.device("cuda"))
    with pytest.raises(UserError, match="int8 is for evaluating and predicting; train in fp32"):
        train.Config(dtype="int8").check_trainable()


@pytest.mark.parametrize("numbers", [[0.0, 0.0], [1.0, 3.0], [-3.0, -1.0], [-0.0412, 1.0]])
def test_a_step_of_8_bits_is_the_largest_error(numbers: list[float]) -> None:
    x = torch.cat([torch.tensor(numbers), torch.linspace(*numbers, 999)])[None]
    steps, step, zero = kernels.to_8_bits(x)
    assert ((steps.double() - zero) * step - x).abs().max() <= 0.5001 * step + 1e-12


def test_numbers_that_are_not_finite_stay_so_in_int8() -> None:
    x = torch.randn(3, 384)
    x[1, 5] = torch.inf
    with torch.inference_mode():
        assert not laid_out(layer(), int8=True)(x).isfinite().any()


@pytest.mark.parametrize("int8", [False, True])
def test_what_is_laid_out_is_copied_and_stored_and_takes_an_empty_batch(
    int8: bool, tiny: Config
) -> None:
    model = laid_out(Classifier(tiny), int8).eval()
    x = torch.ones(2, 5, dtype=torch.long)
    with torch.no_grad():
        expected = model(x, x, x)
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(other(x, x, x), expected)
        assert model(x[:0], x[:0], x[:0]).shape == (0, 2)


def test_a_model_that_has_predicted_and_is_trained_predicts_with_its_new_weights(
    tiny: Config,
) -> None:
    model, x = laid_out(Classifier(tiny)), torch.ones(2, 5, dtype=torch.long)
    optimizer = torch.optim.AdamW(model.parameters(), 0.1, fused=True)
    with torch.no_grad():
        model.eval()(x, x, x)
    model.train()(x, x, x).square().sum().backward()
    optimizer.step()
    plain = Classifier(tiny).eval()
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.allclose(model.eval()(x, x, x), plain(x, x, x), atol=1e-5)


def test_int8_does_not_stay_when_another_dtype_is_asked_for(tiny: Config) -> None:
    plain = layer()
    model = torch.nn.ModuleList([copy.deepcopy(plain)])
    x, device = torch.randn(4, 384), torch.device("cpu")
    batches = PooledBatches(x.numpy(), Batches(one_token(4), 4))

    def outputs(model: torch.nn.Module, batch: PooledBatch) -> torch.Tensor:
        return model[0](batch.pooled)

    rows = [inference.predict(model, batches, device, d, outputs) for d in ("int8", "fp32")]
    expected = plain(x).detach().numpy()
    assert abs(rows[0] - expected).max() > 1e-3
    assert abs(rows[1] - expected).max() < 1e-5


def test_an_input_without_tokens_does_not_hang() -> None:
    cut = cut_by_tokens(np.arange(3), np.array([0, 3, 5]), 40)
    assert np.concatenate(cut).tolist() == [0, 1, 2]

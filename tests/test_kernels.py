"""The product by oneDNN: as exact as PyTorch's own, with its gradients, and taken only where it is
meant.
"""

import pytest
import torch
import torch.nn.functional as F

import kernels
from kernels import OneDNNLinear, linear, product

available = hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch.backends.mkldnn.is_available()


@pytest.mark.skipif(not available, reason="this PyTorch has no oneDNN")
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
    monkeypatch.setattr(kernels, "onednn_is_faster", lambda: available)
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

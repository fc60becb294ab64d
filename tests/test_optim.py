"""BertAdam against the formula in float64 and PyTorch's AdamW; schedules; parameter groups."""

import math

import pytest
import torch
from torch import nn

from models import Classifier, Config, PretrainModel
from optim import BertAdam, global_norm, parameter_groups, rate
from utils import UserError


class Formula:
    """The rule of google-research/bert, a number at a time, in float64."""

    def __init__(self, tensors: list[torch.Tensor], decays: list[float], bias_correction: bool):
        self.p = [t.detach().double().clone() for t in tensors]
        self.m, self.v = (
            [torch.zeros_like(p) for p in self.p],
            [torch.zeros_like(p) for p in self.p],
        )
        self.decays, self.bias_correction, self.t = decays, bias_correction, 0

    def step(self, grads: list[torch.Tensor], lr: float) -> None:
        self.t += 1
        norm = math.sqrt(sum((g.double() ** 2).sum().item() for g in grads))
        for i, g in enumerate(grads):
            g = g.double() * min(1.0, 1.0 / norm)
            self.m[i] = 0.9 * self.m[i] + 0.1 * g
            self.v[i] = 0.999 * self.v[i] + 0.001 * g * g
            m, v = self.m[i], self.v[i]
            if self.bias_correction:
                m, v = m / (1 - 0.9**self.t), v / (1 - 0.999**self.t)
            self.p[i] = self.p[i] - lr * (m / (v.sqrt() + 1e-6) + self.decays[i] * self.p[i])


@pytest.mark.parametrize("bias_correction", [False, True])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
@pytest.mark.parametrize("scale", [1e-3, 1.0])  # below and above the clipping length
def test_fifty_steps_equal_the_formula(
    bias_correction: bool, dtype: torch.dtype, limit: float, scale: float
) -> None:
    torch.manual_seed(0)
    model = PretrainModel(
        Config(vocab_size=30, dim=16, n_layers=1, n_heads=2, dim_ff=32, max_len=8)
    ).to(dtype)
    groups = parameter_groups(model)
    optimizer = BertAdam(
        groups, lr=1e-2, total_steps=60, warmup=0.1, bias_correction=bias_correction
    )
    parameters = [p for group in groups for p in group["params"]]
    formula = Formula(
        parameters,
        [group["weight_decay"] for group in groups for _ in group["params"]],
        bias_correction,
    )
    for s in range(50):
        grads = [torch.randn_like(p) * scale / 10 for p in parameters]
        for p, g in zip(parameters, grads, strict=True):
            p.grad = g.clone()
        lr = 1e-2 * (s / 6 if s < 6 else 1 - s / 60)
        assert optimizer.lr == pytest.approx(lr, abs=1e-15)
        norm = optimizer.step()
        assert norm.item() == pytest.approx(
            math.sqrt(sum((g.double() ** 2).sum().item() for g in grads)), rel=1e-6
        )
        formula.step(grads, lr)
    assert optimizer.updates == 50
    assert (
        max((p - q).abs().max().item() for p, q in zip(parameters, formula.p, strict=True)) <= limit
    )


def test_with_bias_correction_it_is_torchs_adamw() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(20, 20).double(), nn.Linear(20, 20).double()
    theirs.load_state_dict(ours.state_dict())
    a = BertAdam(
        ours.parameters(),
        1e-2,
        10**9,
        warmup=0,
        schedule="warmup_constant",
        bias_correction=True,
        max_grad_norm=1e9,
    )
    b = torch.optim.AdamW(theirs.parameters(), 1e-2, eps=1e-6, weight_decay=0.01)
    for _ in range(20):
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        a.step()
        b.step()
    assert (ours.weight - theirs.weight).abs().max() < 1e-14


def test_every_bias_and_norm_is_exempt_from_decay() -> None:
    model = PretrainModel(Config(vocab_size=30, dim=16, n_layers=2, n_heads=2, dim_ff=32))
    decaying, exempt = parameter_groups(model, 0.02)
    assert (decaying["weight_decay"], exempt["weight_decay"]) == (0.02, 0.0)
    names = {id(p): name for name, p in model.named_parameters()}
    assert {names[id(p)] for p in exempt["params"]} == {
        n for n in names.values() if n.endswith("bias") or "norm" in n
    }
    assert len(decaying["params"]) + len(exempt["params"]) == len(names)
    assert "transformer.embedding.token.weight" in {names[id(p)] for p in decaying["params"]}
    assert "masked_lm.bias" in {names[id(p)] for p in exempt["params"]}


def test_rates_fall_from_block_to_block_and_the_head_has_its_own() -> None:
    model = Classifier(Config(vocab_size=30, dim=16, n_layers=3, n_heads=2, dim_ff=32))
    groups = parameter_groups(model, 0.01, lr=1e-3, head_lr=5e-3, layer_decay=0.5)
    names = {id(p): name for name, p in model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in groups for p in group["params"]}
    expected = {
        "transformer.embedding.": 1e-3 / 8,
        "transformer.blocks.0.": 1e-3 / 4,
        "transformer.blocks.1.": 1e-3 / 2,
        "transformer.blocks.2.": 1e-3,
        "pooler.": 5e-3,
        "classifier.": 5e-3,
    }
    assert rates == {
        name: next(r for start, r in expected.items() if name.startswith(start))
        for name in names.values()
    }
    for group in groups:
        assert all(
            (group["weight_decay"] == 0)
            == (names[id(p)].endswith("bias") or "norm" in names[id(p)])
            for p in group["params"]
        )
    optimizer = BertAdam(
        groups,
        1e-3,
        10**9,
        warmup=0,
        schedule="warmup_constant",
        bias_correction=True,
        weight_decay=0,
    )
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.full_like(p, 1e-3)
    optimizer.step()  # Adam's first step is the rate, whatever the gradient
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            assert (before[name] - p).mean().item() == pytest.approx(rates[name], rel=2e-2)
    model.freeze()
    assert {
        names[id(p)] for group in parameter_groups(model, lr=1e-3) for p in group["params"]
    } == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("warmup_linear", {0: 0.0, 5: 0.5, 10: 0.9, 50: 0.5, 99: 0.01, 100: 0.0, 150: 0.0}),
        ("linear", {0: 0.0, 5: 0.5, 10: 1.0, 55: 0.5, 100: 0.0, 150: 0.0}),
        ("cosine", {0: 0.0, 5: 0.5, 10: 1.0, 55: 0.5, 100: 0.0, 150: 0.0}),
        ("warmup_cosine", {0: 0.0, 5: 0.5, 50: 0.5, 100: 0.0, 150: 0.0}),
        ("warmup_constant", {0: 0.0, 5: 0.5, 10: 1.0, 99: 1.0, 150: 1.0}),
    ],
)
def test_schedules_by_hand(schedule: str, expected: dict[int, float]) -> None:
    for step, share in expected.items():
        assert rate(schedule, step, 10, 100) == pytest.approx(share, abs=1e-12), step
    assert rate(schedule, 0, 0, 100) == 1.0  # without a warm-up the first step has the whole rate
    assert rate(schedule, 1, 1, 1) in (0.0, 1.0)


@pytest.mark.parametrize(("warmup", "total"), [(0, 7), (3, 20), (1, 1), (10, 100)])
def test_linear_and_cosine_are_the_schedules_of_transformers(warmup: int, total: int) -> None:
    transformers = pytest.importorskip("transformers")
    for name in ("linear", "cosine"):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=1.0)
        theirs = transformers.get_scheduler(name, optimizer, warmup, total)
        for step in range(total + 1):
            assert rate(name, step, warmup, total) == pytest.approx(
                theirs.get_last_lr()[0], abs=1e-12
            )
            optimizer.step()
            theirs.step()


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing_and_is_remembered(poison: float) -> None:
    layer = nn.Linear(3, 3)
    optimizer = BertAdam(parameter_groups(layer), 0.1, 10, warmup=0)

    def step(value: float, loss: float = 1.0) -> None:
        for p in layer.parameters():
            p.grad = torch.ones_like(p)
        layer.weight.grad[1, 1] = value
        optimizer.step(loss=torch.tensor(loss))

    step(1.0)
    before = layer.weight.clone()
    assert int(optimizer.failed_step) == -1
    step(poison)
    assert int(optimizer.failed_step) == 1
    step(1.0)  # nor do the steps after it
    assert int(optimizer.failed_step) == 1
    assert torch.equal(layer.weight, before)
    other = BertAdam(parameter_groups(layer), 0.1, 10, warmup=0)
    optimizer = other
    step(1.0, loss=poison)
    assert int(other.failed_step) == 0
    assert torch.equal(layer.weight, before)


def test_state_saved_and_loaded_goes_on_to_the_same_bits() -> None:
    def make() -> tuple[Classifier, BertAdam]:
        torch.manual_seed(0)
        model = Classifier(Config(vocab_size=30, dim=16, n_layers=1, n_heads=2, dim_ff=32))
        return model, BertAdam(parameter_groups(model), 1e-2, 20)

    def steps(model: Classifier, optimizer: BertAdam, first: int, last: int) -> None:
        for s in range(first, last):
            torch.manual_seed(s)
            for p in model.parameters():
                p.grad = torch.randn_like(p)
            optimizer.step()

    whole, optimizer = make()
    steps(whole, optimizer, 0, 12)
    half, optimizer = make()
    steps(half, optimizer, 0, 5)
    model, again = make()
    model.load_state_dict(half.state_dict())
    again.load_state_dict(optimizer.state_dict())
    assert again.updates == 5
    steps(model, again, 5, 12)
    assert all(
        torch.equal(a, b) for a, b in zip(whole.parameters(), model.parameters(), strict=True)
    )


def test_the_norm_of_a_large_matrix_is_accurate_in_float32() -> None:
    torch.manual_seed(0)
    grads = [torch.randn(30522, 64) * 1e-3, torch.randn(64)]
    exact = math.sqrt(sum((g.double() ** 2).sum().item() for g in grads))
    assert global_norm(grads).item() == pytest.approx(exact, rel=1e-6)


def test_an_unknown_schedule_is_named() -> None:
    with pytest.raises(UserError, match=r"schedule='linaer' \(did you mean linear\?\)"):
        BertAdam(nn.Linear(1, 1).parameters(), 0.1, 10, schedule="linaer")

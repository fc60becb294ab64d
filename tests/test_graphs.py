"""Recorded steps: with a recorder that plays a GPU's on a CPU, the same bits as without.

What a graph does to Python is played too: a function is called when it is recorded, and what it
computes then is thrown away; a replay computes from the inputs that were recorded.
"""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import train
from formats.weights import read_pt
from layers.packing import Packing
from models import Classifier, Config
from tasks import TASKS
from tasks.encoding import Batches, Features
from tasks.tags import IGNORED
from training import graphs
from training.graphs import StepGraphs


def features(lengths: list[int]) -> Features:
    """Texts of such lengths, of random words, and random labels."""
    rng = np.random.default_rng(0)
    return Features(
        rng.integers(1, 100, sum(lengths)).astype(np.int32),
        np.append(0, np.cumsum(lengths)),
        np.array(lengths),
        rng.integers(0, 2, len(lengths)),
        np.arange(len(lengths)),
    )


# Two sizes, as made up: 8 x 10 tokens are 80, 8 x 16 are 128.
LENGTHS = [10] * 40 + [16] * 40


@pytest.fixture
def trainer(tiny: Config, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], train.Trainer]:
    """A trainer that records as one on a GPU would."""
    monkeypatch.setattr(graphs, "Recorder", lambda: lambda function: function)

    def make(folder: Path) -> train.Trainer:
        torch.manual_seed(0)
        cfg = train.Config(lr=1e-3, batch_size=8, total_steps=20, save_steps=7, log_steps=1)
        made = train.Trainer(cfg, Classifier(tiny), Batches(features(LENGTHS), 8, 1), folder)
        made.records = True
        return made

    return make


def weights(folder: Path) -> dict[str, torch.Tensor]:
    contents = read_pt(folder / "model_steps_20.pt")
    assert contents
    return contents["model"]


def test_twenty_steps_of_two_sizes_have_the_same_bits_with_and_without_graphs(
    trainer: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = trainer(tmp_path / "recorded")
    recorded.train(TASKS["mrpc"].loss)
    assert len(recorded.graphs.recorded) == 2
    assert not recorded.graphs.failed
    # A run that was stopped records its shapes anew.
    (tmp_path / "recorded" / "model_steps_20.pt").rename(tmp_path / "whole.pt")
    trainer(tmp_path / "recorded").train(TASKS["mrpc"].loss)
    with monkeypatch.context() as patch:
        patch.setattr(StepGraphs, "__call__", lambda self, batch: None)
        trainer(tmp_path / "plain").train(TASKS["mrpc"].loss)
    expected, whole = weights(tmp_path / "plain"), read_pt(tmp_path / "recorded/model_steps_20.pt")
    (tmp_path / "whole.pt").rename(tmp_path / "recorded" / "model_steps_20.pt")
    for name, found in weights(tmp_path / "recorded").items():
        assert torch.equal(found, expected[name]), name
        assert whole
        assert torch.equal(found, whole["model"][name]), name
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("recorded", "plain")]
    assert lines[0] == lines[1]


class Toy(nn.Module):
    """Two weights, of which a batch reaches the second one only where it has a 1."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.ones(2)) for _ in range(2))


def toy_graphs(wrong: float = 0.0) -> tuple[Toy, StepGraphs, Callable]:
    """Graphs of a toy, whose replays are wrong by a share."""
    model = Toy()

    def compute(batch: tuple) -> dict[str, torch.Tensor]:
        (x,) = batch
        loss = (model.a * x).sum() * torch.rand(())
        if len(x) == 1:
            loss = loss + model.b.sum()
        loss.backward()
        return {"loss": loss.detach()}

    def record(function: Callable) -> Callable:
        def replay() -> None:
            function()
            for grad in found.grads:
                grad.mul_(1 + wrong)

        return replay

    found = StepGraphs(compute, model.parameters(), lambda: torch.manual_seed(3), record)
    return model, found, compute


def test_a_replay_computes_its_own_batch_and_leaves_what_it_does_not_reach() -> None:
    model, found, compute = toy_graphs()
    for n in range(5):
        for shape in ((2, 2), (1, 2)):
            batch = (torch.full(shape, float(n)),)
            torch.manual_seed(3)
            means = found(batch)
            assert (means is None) == (n == 0)
            gradients = [model.a.grad, model.b.grad]
            model.a.grad = model.b.grad = None
            torch.manual_seed(3)
            expected = compute(batch)
            if means is not None:
                assert torch.equal(means["loss"], expected["loss"])
                assert torch.equal(gradients[0], model.a.grad)
                assert (gradients[1] is None) == (model.b.grad is None) == (shape == (2, 2))
            model.a.grad = model.b.grad = None


@pytest.mark.parametrize("how", ["refused", "wrong"])
def test_what_cannot_be_recorded_is_computed_and_said_once(
    how: str, capsys: pytest.CaptureFixture
) -> None:
    model, found, _ = toy_graphs(0.1 if how == "wrong" else 0.0)
    if how == "refused":

        def refuse(function: Callable) -> Callable:
            function()
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

        found.record = refuse
    seeds = []
    for _ in range(4):
        torch.manual_seed(9)
        assert found((torch.ones(2, 2),)) is None
        assert model.a.grad is None
        seeds.append(torch.initial_seed())
    # Having tried, it leaves the generators where the step begins.
    assert seeds == [9, 3, 9, 9]
    err = capsys.readouterr().err
    reasons = {
        "refused": "operation not permitted when stream is capturing",
        "wrong": "it gives other gradients than the step itself",
    }
    assert err.count("\n") == 1
    assert f"a step could not be recorded ({reasons[how]}); on without graphs" in err


def test_a_batch_that_needs_no_padding_is_computed_as_one_that_does() -> None:
    packed = Packing.of(torch.ones(4, 16), rounded=True)
    assert (len(packed.cells), packed.exact, packed.full) == (64, False, False)
    x = torch.randn(4, 16, 3)
    assert torch.equal(packed.pad(packed.pack(x)), x)
    # The constants of a graph are those of every batch of its size.
    lengths = [random.Random(n).randint(9, 16) for n in range(16)]
    mask = torch.arange(16) < torch.tensor(lengths)[:, None]
    mask[-1] = True
    whole = Packing.of(mask, rounded=True)
    assert whole.longest == Packing.of(torch.ones(len(whole.cells) // 16, 16), rounded=True).longest


def test_wider_batches_have_the_same_values() -> None:
    batch = Batches(features([3, 5, 5, 2]), 4)[0]
    wide = batch.widened(9)
    for found, expected in zip(wide[:3], batch[:3], strict=True):
        assert found.shape == (4, 9)
        assert torch.equal(found[:, :5], expected)
        assert not found[:, 5:].any()
    assert torch.equal(wide.labels, batch.labels)
    tags = batch._replace(labels=batch.input_ids, weights=torch.ones(4)).widened(9)
    assert (tags.labels[:, 5:] == IGNORED).all()
    assert torch.equal(tags.labels[:, :5], batch.input_ids)

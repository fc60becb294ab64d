"""Scores that are no numbers are refused where they leave a model, whatever asks for them."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import seeds
import torch

import finetune
import models
from encoder import load as load_encoder
from pretrain import Pretrain
from training.inference import are_numbers
from utils import UserError

NO_NUMBERS = r"gives scores that are no numbers \(NaN or infinite\); use other weights"


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of each kind of task."""
    folder = tmp_path_factory.mktemp("models") / "kinds"
    torch.manual_seed(0)
    seeds.kinds(folder)
    seeds.pretrained_model(folder / "pretrained")
    return folder


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[1.0, -2.0], [3.0, -math.inf]], True),  # padded
        ([[1.0, math.nan], [3.0, 4.0]], False),
        ([[1.0, math.inf], [3.0, 4.0]], False),
        ([[-math.inf, math.nan], [3.0, 4.0]], False),
        ([[1.0, 2.0], [-math.inf, -math.inf]], False),
        ([1.0, -math.inf], False),  # a number for each row
        ([[[1.0, 2.0], [3.0, math.nan]]], False),
        ([[[1.0, 2.0], [3.0, -math.inf]]], True),
        ([1.0, -3e38], True),
    ],
)
def test_a_nan_or_what_is_infinite_but_no_padding_is_no_number(rows: list, expected: bool) -> None:
    assert bool(are_numbers(torch.tensor(rows))) == expected
    assert bool(are_numbers(torch.tensor(rows).bfloat16())) == expected


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", seeds.INPUTS)
def test_every_kind_of_task_refuses_scores_that_are_no_numbers(
    kinds: Path, kind: str, value: float
) -> None:
    saved = finetune.load(kinds / kind)
    inputs = [seeds.INPUTS[kind]] * 3
    assert len(saved.predict(inputs)) == 3
    with torch.no_grad():
        getattr(saved.model, saved.task.head).bias.fill_(value)
    with pytest.raises(UserError, match=rf"model_steps_3\.pt on the inputs {NO_NUMBERS}"):
        saved.predict(inputs)


def test_choices_of_different_numbers_are_no_fault(kinds: Path) -> None:
    saved = finetune.load(kinds / "choices")
    found = saved.predict([("anna", ["a", "b"]), ("anna", ["a", "b", "c", "d"])])
    assert [len(answer.probabilities) for answer in found] == [2, 4]
    assert all(np.isfinite(answer.probabilities).all() for answer in found)


def test_vectors_blanks_and_pre_training_refuse_them_too(
    kinds: Path, monkeypatch: pytest.MonkeyPatch, run: Callable
) -> None:
    folder = kinds / "pretrained"
    encoder, filler = load_encoder(folder, max_len=24), load_encoder(folder, head="masked_lm")
    assert len(list(encoder.extract(["anna", "it"], [-1]))) == 2
    for model in (encoder.model, filler.model):
        with torch.no_grad():
            model.transformer.embedding.token.weight[5:] = math.nan
    for use in (
        lambda: list(encoder.extract(["anna sold it"], [-1])),
        lambda: list(encoder.extract(["anna sold it"], [-1], "mean")),
        lambda: encoder.pool([("anna sold it", None)]),
        lambda: list(filler.fill(["anna [MASK] it"])),
        lambda: list(filler.score(["anna sold it"])),
    ):
        with pytest.raises(UserError, match=rf"pretrained/model_steps_3\.pt {NO_NUMBERS}"):
            use()
    forward = models.PretrainModel.forward
    monkeypatch.setattr(
        models.PretrainModel, "forward", lambda *args: tuple(x * math.nan for x in forward(*args))
    )
    line = f"--mode eval --model_file {folder} --data_file {folder}/corpus"
    status, _, err = run(line, Pretrain)
    assert status == 2
    assert "pretrained/corpus gives scores that are no numbers" in err.splitlines()[-1]
    assert not (folder / "eval_results.json").exists()

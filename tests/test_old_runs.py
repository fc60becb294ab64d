"""Runs of an earlier version resume to the same numbers, evaluate and predict the same."""

import contextlib
import io
import json
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch

from formats.weights import read_pt

ROOT = Path(__file__).resolve().parent.parent
RUNS = Path(__file__).parent / "old_runs"
LINES = json.loads((RUNS / "lines.json").read_text())
EXPECTED = json.loads((RUNS / "expected.json").read_text())
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of these runs, in which the test runs."""
    shutil.copytree(RUNS, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def output_of(line: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines that a command prints, but for the one that names the device."""
    script, *words = shlex.split(line)
    monkeypatch.setattr(sys, "argv", [script, *words])
    with contextlib.redirect_stdout(io.StringIO()) as out:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    lines = out.getvalue().splitlines()
    return [line for line in lines if not re.match(r"(cpu|cuda) \(", line)]


@pytest.mark.parametrize("name", LINES)
def test_a_stopped_run_ends_as_the_one_that_was_not_stopped(
    name: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped, finished = here / "stopped" / name, here / "finished" / name
    output_of(f"{LINES[name]} --save_dir {stopped}", monkeypatch)
    metrics, expected = (
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (stopped, finished)
    )
    for line in metrics:
        line.pop("eval_character_loss", None)  # that version did not have it
    # On the machine that made them the bits are the same; other processors round in another way.
    assert metrics == [pytest.approx(line, rel=1e-4) for line in expected]
    ours, theirs = (read_pt(run / "model_steps_6.pt")["model"] for run in (stopped, finished))
    assert ours.keys() == theirs.keys()
    for key, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("line", EXPECTED)
def test_a_finished_run_evaluates_and_predicts_as_it_did(
    line: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed, expected = output_of(line, monkeypatch), EXPECTED[line]
    # A later version may print more, but each of these lines, in their order.
    words = [NUMBER.sub("", one) for one in expected]
    found = [one for one in printed if NUMBER.sub("", one) in words]
    assert [NUMBER.sub("", one) for one in found] == words
    numbers, known = (
        list(map(float, NUMBER.findall("\n".join(lines)))) for lines in (found, expected)
    )
    assert numbers == pytest.approx(known, rel=1e-4, abs=1e-5)


def test_a_pooler_that_is_drawn_and_frozen_is_told(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    line = (
        "classify.py --task tsv --data_file pairs.tsv --text_a text_a --text_b text_b --label label"
    )
    line += " --max_len 32 --total_steps 1 --freeze_encoder True"
    # A tagger has no pooler, and pre-training gives one.
    for name, told in (("tag", True), ("pretrain", False)):
        output_of(f"{line} --pretrain_file finished/{name} --save_dir new-{name}", monkeypatch)
        assert ("has no pooler: --freeze_encoder keeps one" in capsys.readouterr().err) == told

"""One way for every kind of task: prepare, fit, load, evaluate, predict; and what it refuses."""

import dataclasses
import json
from pathlib import Path

import kinds
import pytest
import torch

import corpus
import features
import finetune
import models
import pretrained
import train
from checkpoint import Checkpoint
from formats.weights import read_pt
from tasks import TASKS, Task
from utils import UserError

CFG = train.Config(batch_size=8, n_epochs=1, lr=1e-3, save_steps=3)


@pytest.fixture(params=list(kinds.TASK_OF))
def case(request: pytest.FixtureRequest, sample: Path, tmp_path: Path) -> tuple[Task, Path, list]:
    """A task, a file of it, and inputs as a notebook has them."""
    file = kinds.write(request.param, sample, tmp_path)
    return kinds.TASK_OF[request.param], file, [kinds.INPUTS_OF[request.param]]


def start_of(sample: Path) -> pretrained.Pretrained:
    return pretrained.find(None, f"{sample}/config.json", f"{sample}/vocab.txt")


def test_every_kind_of_task_goes_the_same_way(
    case: tuple[Task, Path, list], sample: Path, tmp_path: Path
) -> None:
    task, file, inputs = case
    run = finetune.prepare(task, file, start_of(sample), file, CFG)
    result = run.fit(tmp_path / "run")
    saved = finetune.load(result.best_file)
    assert saved.task == run.task
    # What the loop measured on the way is what the saved model has.
    assert saved.evaluate(file) == pytest.approx(result.best)
    assert (len(saved.predict(inputs * 3)), len(saved.predict(inputs)), saved.predict([])) == (
        3,
        1,
        [],
    )
    # A stream and a file are answered one by one, and as the list of their rows is.
    stream = saved.predict(one for one in inputs * 3)
    assert iter(stream) is stream
    assert str(list(stream)) == str(saved.predict(inputs * 3))
    answers = list(saved.predict(file))
    data = saved.load(file, labelled=False)
    assert str(answers) == str(saved.task.answers(data, saved.outputs(data)))
    # A run of an earlier version, which recorded less, is resumed: nothing is left to train.
    recorded = json.loads((tmp_path / "run/run.json").read_text())
    for name in ("freeze_encoder", "boost", "reinit_layers", "attention", "cuda_graphs"):
        del recorded[name]
    (tmp_path / "run/run.json").write_text(json.dumps(recorded))
    assert run.fit(tmp_path / "run").file == result.file


def test_a_run_of_any_kind_that_was_stopped_ends_with_the_same_bits(
    case: tuple[Task, Path, list], sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, file, _ = case
    cfg = dataclasses.replace(CFG, gradient_accumulation=2)
    run = finetune.prepare(task, file, start_of(sample), file, cfg)
    whole = run.fit(tmp_path / "whole").file
    update, calls = train.Trainer.update, iter(range(10**9))

    def stopping(trainer: train.Trainer, *arguments: object) -> object:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return update(trainer, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(train.Trainer, "update", stopping)
        with pytest.raises(KeyboardInterrupt):
            run.fit(tmp_path / "stopped")
    again = run.fit(tmp_path / "stopped").file
    a, b = (read_pt(path)["model"] for path in (whole, again))
    assert all(torch.equal(a[name], b[name]) for name in a)
    logs = [(path.parent / "metrics.jsonl").read_bytes() for path in (whole, again)]
    assert logs[0] == logs[1]


def test_a_metric_that_the_task_lacks_is_refused_before_training(
    case: tuple[Task, Path, list], sample: Path
) -> None:
    task, file, _ = case
    cfg = dataclasses.replace(CFG, stop_metric="loss")
    if "loss" in task.stop_metrics:
        finetune.prepare(task, file, start_of(sample), file, cfg)
        return
    expected = f"stop_metric='loss'; expected one of {task.stop_metrics[0]}, "
    with pytest.raises(UserError, match=expected):
        finetune.prepare(task, file, start_of(sample), file, cfg)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("one text", "the inputs are one text, 'one text'; expected a list of them"),
        (["one text"], "input 1 is 'one text'; expected a pair of texts"),
        ([("a", "b"), ("a", "b", "c")], r"input 2 is \('a', 'b', 'c'\); expected a pair of texts"),
    ],
)
def test_inputs_of_another_form_are_refused(
    inputs: list, message: str, sample: Path, tmp_path: Path
) -> None:
    task = dataclasses.replace(TASKS["mrpc"], max_len=64)
    run = finetune.prepare(task, sample / "dev.tsv", start_of(sample), cfg=CFG)
    saved = finetune.load(run.fit(tmp_path / "run").file)
    with pytest.raises(UserError, match=message):
        saved.predict(inputs)


@pytest.mark.parametrize(
    ("ours", "theirs", "columns"),
    [
        (("US", "us"), ["US", "us"], [0, 1]),
        (("us", "US"), ["US", "us"], [1, 0]),
        (("LABEL_1", "LABEL_0"), ["LABEL_0", "LABEL_1"], [1, 0]),
        (("no", "yes"), ["LABEL_0", "LABEL_1"], [0, 1]),
        (("no", "yes"), ["YES", "No"], [1, 0]),
        (("no", "yes"), ["YES", "yes"], None),
        (("no", "yes"), ["no", "maybe"], None),
    ],
)
def test_labels_are_matched_by_name(
    ours: tuple[str, ...], theirs: list[str], columns: list[int] | None, tiny: models.Config
) -> None:
    tensors = dict(models.Classifier(tiny).state_dict())
    source = Checkpoint("a classifier", Path("m.pt"), tiny, tensors, theirs)
    task = dataclasses.replace(TASKS["csv"], labels=ours)
    assert task.label_columns(source) == columns
    if columns:
        fitted = task.match_head(source, training=False)
        expected = source.tensors["classifier.bias"][columns]
        assert torch.equal(fitted.tensors["classifier.bias"], expected)


def test_values_that_would_do_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("a text\n")
    lines = str(tmp_path / "lines.txt")
    for more, message in (
        ({"batch_size": 0}, "batch_size=0; expected at least 1"),
        ({"dtype": "bf61"}, "dtype='bf61'; expected auto, fp32 or bf16"),
    ):
        with pytest.raises(UserError, match=message):
            features.Extract("nowhere", lines, str(tmp_path / "out"), **more).run()
    with pytest.raises(UserError, match="--n -1: expected 0 or more"):
        features.Similar("nowhere", lines, "a query", n=-1).run()
    with pytest.raises(UserError, match="--batch_size 0: expected at least 1"):
        corpus.Describe("nowhere", batch_size=0).run()

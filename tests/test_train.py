"""The loop: a run is one state, stops before a bad update, and counts its own steps."""

import dataclasses
import json
import math
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import checkpoint
import train
from formats.weights import checkpoints_in, read_pt
from layers import kernels
from models import Classifier, Config
from system import progress
from tasks import TASKS
from tasks.encoding import Batches
from tokenization import FullTokenizer
from training import runs
from training.checkpoints import Checkpoints
from utils import UserError

ROOT = Path(__file__).resolve().parent.parent
MRPC = dataclasses.replace(TASKS["mrpc"], max_len=64)


@pytest.fixture
def make(sample: Path, tmp_path: Path) -> Callable[..., train.Trainer]:
    """A Trainer of a small classifier on the sample, which saves in a folder of the test's."""
    features = MRPC.load(sample / "train.tsv", FullTokenizer(sample / "vocab.txt")).features
    vocab_size = len((sample / "vocab.txt").read_text().split())

    def trainer(folder: str = "run", p_drop: float = 0.1, **settings: object) -> train.Trainer:
        cfg = train.Config(
            **{
                "batch_size": 32,
                "n_epochs": 3,
                "lr": 1e-3,
                "save_steps": 5,
                "log_steps": 2,
                **settings,
            }
        )
        torch.manual_seed(cfg.seed)
        model = Classifier(Config(vocab_size, 32, 2, 2, 64, p_drop, p_drop, 64))
        return train.Trainer(
            cfg, model, Batches(features, cfg.batch_size, cfg.seed), tmp_path / folder
        )

    return trainer


def parameters(trainer: train.Trainer) -> dict[str, torch.Tensor]:
    return trainer.model.state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def interrupted_at(step: int, error: type[BaseException] = KeyboardInterrupt) -> train.GetLoss:
    calls = iter(range(10**9))

    def get_loss(model: torch.nn.Module, batch: train.Batch) -> tuple[torch.Tensor, dict]:
        if next(calls) == step:
            raise error
        return MRPC.loss(model, batch)

    return get_loss


def test_total_steps_follow_from_the_data_and_name_the_last_file(
    make: Callable, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS", 0)
    trainer = make()  # 200 rows: 7 batches, the last of 8 rows
    assert trainer.total_steps == 21
    assert trainer.train(MRPC.loss).name == "model_steps_21.pt"
    out, err = capsys.readouterr()
    assert [line.split(" : ")[0] for line in out.splitlines() if "Epoch" in line] == [
        "Epoch 1/3",
        "Epoch 2/3",
        "Epoch 3/3",
    ]
    assert "Average Loss 0." in out
    assert "100%" in err
    assert "7/7" in err
    assert [p.name for p in checkpoints_in(trainer.save_dir)] == [
        f"model_steps_{n}.pt" for n in (15, 20, 21)
    ]
    lines = [
        json.loads(line) for line in (trainer.save_dir / "metrics.jsonl").read_text().splitlines()
    ]
    assert [line["step"] for line in lines] == [*range(2, 21, 2), 21]
    assert set(lines[0]) == {"step", "epoch", "lr", "loss", "grad_norm"}
    assert lines[0]["epoch"] == round(2 / len(trainer.batches), 4)
    seconds = [
        json.loads(line) for line in (trainer.save_dir / "times.jsonl").read_text().splitlines()
    ]
    assert [line["step"] for line in seconds] == [line["step"] for line in lines]
    assert [line["seconds"] for line in seconds] == sorted(line["seconds"] for line in seconds)
    assert lines[0]["lr"] == pytest.approx(
        1e-3 / 2
    )  # the rate of the second update, of two warming up


@pytest.mark.parametrize("stops", [[4], [5], [6, 3], [7], [14, 2, 3]])
def test_interrupted_and_started_again_gives_the_same_bits_and_metrics(
    make: Callable, stops: list[int], capsys: pytest.CaptureFixture
) -> None:
    whole = make("whole")
    whole.train(MRPC.loss)
    averages = [line for line in capsys.readouterr().out.splitlines() if "Average Loss" in line]
    assert len(averages) == 3
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            make("broken").train(interrupted_at(stop))
    again = make("broken")
    again.train(MRPC.loss)
    assert {line for line in capsys.readouterr().out.splitlines() if "Average Loss" in line} == set(
        averages
    )
    assert same(parameters(whole), parameters(again))
    assert (again.save_dir / "metrics.jsonl").read_bytes() == (
        whole.save_dir / "metrics.jsonl"
    ).read_bytes()
    finished = make("broken")
    finished.train(interrupted_at(0))  # nothing is left to do
    assert same(parameters(whole), parameters(finished))


@pytest.mark.slow
def test_killed_at_any_moment_and_started_again_gives_the_same_bits(
    sample: Path, tmp_path: Path
) -> None:
    settings = {"batch_size": 16, "n_epochs": 4, "lr": 1e-3, "save_steps": 3, "keep_checkpoints": 2}
    (tmp_path / "train.json").write_text(json.dumps(settings))
    flags = {
        "data_file": sample / "train.tsv",
        "model_cfg": sample / "config.json",
        "vocab": sample / "vocab.txt",
        "train_cfg": tmp_path / "train.json",
        "max_len": 64,
    }
    command = [
        sys.executable,
        "classify.py",
        *(f"--{name}={value}" for name, value in flags.items()),
    ]
    rng, kills = random.Random(1), 0
    for _ in range(3):
        process = subprocess.Popen(
            [*command, "--save_dir", str(tmp_path / "killed")],
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60  # let it get somewhere new, then kill it in mid-flight
        before = len(list((tmp_path / "killed").glob("model_steps_*.pt")))
        while process.poll() is None and time.monotonic() < deadline:
            if len(list((tmp_path / "killed").glob("model_steps_*.pt"))) > before or before == 2:
                time.sleep(rng.random() * (3 if before == 2 else 0.3))
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills >= 1  # at least one of them hit a run in mid-flight
    for folder in ("killed", "whole"):
        done = subprocess.run(
            [*command, "--save_dir", str(tmp_path / folder)],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    files = [checkpoints_in(tmp_path / folder)[-1] for folder in ("killed", "whole")]
    assert files[0].name == files[1].name == "model_steps_52.pt"
    assert same(*(checkpoint.read(file).tensors for file in files))
    metrics = [(tmp_path / folder / "metrics.jsonl").read_bytes() for folder in ("killed", "whole")]
    assert metrics[0] == metrics[1]
    assert not list((tmp_path / "killed").glob(".*.part"))


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    make: Callable, capsys: pytest.CaptureFixture
) -> None:
    whole = make("whole")
    whole.train(MRPC.loss)
    with pytest.raises(KeyboardInterrupt):
        make("broken").train(interrupted_at(12))
    damaged = make("broken").save_dir / "model_steps_10.pt"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    again = make("broken")
    again.train(MRPC.loss)
    out = capsys.readouterr().out
    assert f"{damaged} is altered" in out
    assert "Resuming from" in out
    assert "model_steps_5.pt" in out
    assert same(parameters(whole), parameters(again))
    for file in checkpoints_in(again.save_dir):
        file.write_bytes(b"junk")
    with pytest.raises(UserError, match=r"no checkpoint in .* is whole"):
        make("broken").train(MRPC.loss)


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_a_loss_or_gradient_not_finite_stops_before_the_update_and_names_the_batch(
    make: Callable, poison: str
) -> None:
    steps = iter(range(100))

    def get_loss(model: torch.nn.Module, batch: train.Batch) -> tuple[torch.Tensor, dict]:
        loss, metrics = MRPC.loss(model, batch)
        if next(steps) == 8:
            if poison == "loss":
                return loss * float("nan"), metrics
            trainer.model.pooler.dense.weight.register_hook(lambda g: g * float("inf"))
        return loss, metrics

    trainer = make()
    lines = ", ".join(map(str, sorted(trainer.batches.features.lines[trainer.batches.rows(8)])))
    with pytest.raises(
        UserError, match=r"not finite at step 9 .*; stopped before that update"
    ) as error:
        trainer.train(get_loss)
    assert f"(batch 2 of epoch 2, lines {lines})" in str(error.value)
    assert "model_steps_5.pt" in str(error.value)
    healthy = make("healthy")
    with pytest.raises(KeyboardInterrupt):
        healthy.train(interrupted_at(8))
    assert same(parameters(trainer), parameters(healthy))


@pytest.mark.parametrize("parts", [2, 3, 32])
def test_accumulation_changes_nothing_but_memory(make: Callable, parts: int) -> None:
    whole, divided = (make(f"a{n}", p_drop=0.0, gradient_accumulation=n) for n in (1, parts))
    for trainer in (whole, divided):
        trainer.model.double()
        trainer.train(MRPC.loss)
    for name, value in parameters(whole).items():
        assert torch.allclose(value, parameters(divided)[name], rtol=0, atol=1e-8), name


def test_settings_do_what_they_say(make: Callable) -> None:
    short = make("short", total_steps=9, keep_checkpoints=0)
    short.train(MRPC.loss)
    assert [p.name for p in checkpoints_in(short.save_dir)] == [
        "model_steps_5.pt",
        "model_steps_9.pt",
    ]
    plain, again, saving = (
        make(name, n_epochs=1, **more)
        for name, more in (("p", {}), ("b", {"dtype": "bf16"}), ("c", {"checkpointing": True}))
    )
    for trainer in (plain, again, saving):
        trainer.train(MRPC.loss)
    assert same(parameters(plain), parameters(saving))
    assert saving.model.transformer.checkpointing
    # Where the processor has no bf16 products, fp32 takes their place.
    assert same(parameters(plain), parameters(again)) != kernels.has_bf16_products()
    assert all(p.dtype == torch.float32 for p in again.model.parameters())


def test_the_optimizer_gets_every_setting_and_the_groups(make: Callable) -> None:
    trainer = make(
        n_epochs=1,
        schedule="warmup_cosine",
        weight_decay=0.05,
        max_grad_norm=0.7,
        bias_correction=True,
        warmup=0.3,
    )
    trainer.train(MRPC.loss)
    optimizer = trainer.optimizer
    assert (optimizer.schedule, optimizer.max_grad_norm, optimizer.bias_correction) == (
        "warmup_cosine",
        0.7,
        True,
    )
    assert (optimizer.total_steps, optimizer.warmup_steps) == (7, 2)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.0]


def test_training_after_an_evaluation_drops_again(make: Callable) -> None:
    plain, evaluated = make("plain", n_epochs=1), make("evaluated", n_epochs=1)
    evaluated.predict(Batches(evaluated.batches.features, 32), MRPC.outputs)
    for trainer in (plain, evaluated):
        trainer.train(MRPC.loss)
    assert same(parameters(plain), parameters(evaluated))


def test_pruning_never_leaves_a_damaged_checkpoint_alone(make: Callable) -> None:
    with pytest.raises(KeyboardInterrupt):
        make(save_steps=3).train(interrupted_at(7))
    damaged = make().save_dir / "model_steps_6.pt"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(KeyboardInterrupt):
        make(save_steps=1, keep_checkpoints=1).train(
            interrupted_at(2)
        )  # resumes from 3, saves 4 and 5
    assert [p.name for p in checkpoints_in(damaged.parent)] == [
        "model_steps_5.pt",
        "model_steps_6.pt",
    ]
    assert make(save_steps=1, keep_checkpoints=1).train(MRPC.loss).name == "model_steps_21.pt"


def test_a_finished_run_needs_no_optimizer_for_its_best_checkpoint(
    make: Callable, capsys: pytest.CaptureFixture
) -> None:
    accuracy = {7: 0.9, 14: 0.5, 21: 0.4}

    def run(get_loss: train.GetLoss = MRPC.loss) -> Path:
        trainer = make(keep_checkpoints=1)
        evaluation = train.Evaluation(lambda: {"Accuracy": accuracy[trainer.state.step]}, True)
        return trainer.train(get_loss, evaluation)

    # Stopped after the best evaluation, it resumes from a later checkpoint.
    with pytest.raises(KeyboardInterrupt):
        run(interrupted_at(16))
    best = make().save_dir / "model_steps_7.pt"
    before, content = read_pt(best), best.read_bytes()
    assert before["optimizer"]
    assert run().name == "model_steps_21.pt"
    files = [file.name for file in checkpoints_in(best.parent)]
    assert files == ["model_steps_7.pt", "model_steps_21.pt"]
    # What is left is whole: read_pt compares the digest.
    after = read_pt(best)
    assert set(after) == {"step", "model", "best"} == set(read_pt(best.parent / files[1]))
    assert same(after["model"], before["model"])
    assert (after["step"], after["best"]) == (7, before["best"])
    assert best.stat().st_size < len(content) / 2
    # Again there is nothing to do, and nothing is done.
    times = {file: file.stat().st_mtime_ns for file in best.parent.iterdir()}
    assert run().name == "model_steps_21.pt"
    assert {file: file.stat().st_mtime_ns for file in best.parent.iterdir()} == times
    # Killed before the file had its name: the same command does what is left.
    best.write_bytes(content)
    (best.parent / ".model_steps_7.pt.part").write_bytes(content[:100])
    capsys.readouterr()
    run()
    assert "model_steps_21.pt is there already, with all 21 steps" in capsys.readouterr().out
    assert set(read_pt(best)) == set(after)
    assert not list(best.parent.glob(".*"))


def test_curves_are_written_where_a_log_dir_is_given(make: Callable, tmp_path: Path) -> None:
    trainer = make(n_epochs=1)
    trainer.log_dir = tmp_path / "logs"
    trainer.train(MRPC.loss)
    content = next((tmp_path / "logs").glob("events*")).read_bytes()
    for name in (b"train/loss", b"train/lr", b"train/grad_norm", b"configuration"):
        assert name in content
    assert b"| batch_size | " in content
    # A curve of the steps would be a straight line.
    assert b"step" not in content.replace(b"_steps", b"")


def test_curves_of_evaluations_and_speed_have_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensorboard = pytest.importorskip("tensorboardX")
    seen = []
    monkeypatch.setattr(
        tensorboard.SummaryWriter,
        "add_scalar",
        lambda self, name, value, step: seen.append((name, step)),
    )
    log = train.MetricsLog(tmp_path, 0, False, tmp_path / "logs", {})
    log.tokens = 100
    log.write({"step": 5, "epoch": 0.5, "eval_Accuracy": 0.7, "eval_loss": 0.6})
    log.close()
    names = ["eval/Accuracy", "eval/loss", "speed/tokens_per_second"]
    assert seen == [(name, 5) for name in names]


def test_evaluation_returns_rows_in_the_order_of_the_data_and_draws_no_dropout(
    make: Callable,
) -> None:
    trainer = make()
    data = Batches(trainer.batches.features, 7)
    scores = trainer.predict(data, MRPC.outputs)
    assert scores.shape == (200, 2)
    assert np.array_equal(scores, trainer.predict(data, MRPC.outputs))
    counted = trainer.predict(data, lambda model, batch: batch.input_mask.real.sum(1, keepdim=True))
    assert counted[:, 0].tolist() == data.features.lengths.tolist()


def test_a_folder_belongs_to_one_run(tmp_path: Path) -> None:
    def begin(folder: Path, settings: dict) -> None:
        with runs.run_lock(folder, settings):
            pass

    begin(tmp_path, {"lr": 1e-3, "seed": 1, "save_steps": 10})
    begin(tmp_path, {"lr": 1e-3, "seed": 1, "save_steps": 20})  # what is written may change
    with pytest.raises(
        UserError, match=r"belongs to another run \(lr was 0.001, now 0.002; seed was 1, now None\)"
    ):
        begin(tmp_path, {"lr": 2e-3, "save_steps": 10})
    # An earlier version did not record columns that had their usual names.
    begin(tmp_path, {"lr": 1e-3, "seed": 1, "save_steps": 20, "text_a": "text", "label": "label"})
    (tmp_path / "run.json").write_text('{"lr": 1e-3, "seed": 1}')
    with pytest.raises(UserError, match="text_a was None, now 'title'"):
        begin(tmp_path, {"lr": 1e-3, "seed": 1, "text_a": "title", "label": "label"})
    (tmp_path / "run.json").unlink()
    for name in ("config.json", "pytorch_model.bin", "model_steps_3.pt"):
        (tmp_path / name[:3]).mkdir()
        (tmp_path / name[:3] / name).write_text("")
        with pytest.raises(UserError, match=rf"holds a model already \(.*{name}\) and no run.json"):
            begin(tmp_path / name[:3], {"lr": 1e-3})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"batchsize": 32}', r"unknown key 'batchsize' \(did you mean batch_size\?\)"),
        ('{"batch_size": 0}', "batch_size=0; expected at least 1"),
        ('{"lr": "2e-5"}', "lr is '2e-5'; expected float"),
        ('{"lr": -1}', "lr=-1; expected 0 or more"),
        ('{"dtype": "fp16"}', "dtype='fp16'; expected auto, fp32 or bf16"),
        ('{"schedule": "cosines"}', "schedule='cosines'.*expected one of warmup_linear"),
        ('{"warmup": 100}', "warmup=100; expected a share"),
        ('{"total_steps": 0}', "total_steps=0; expected at least 1"),
        ('{"gradient_accumulation": 64}', "gradient_accumulation=64 is more than batch_size=32"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(UserError, match=message):
        train.Config.from_json(tmp_path / "t.json")


def test_a_checkpoint_is_put_off_while_the_one_before_is_written_unless_an_evaluation_needs_it(
    make: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for name in ("periodic", "evaluated"):
        trainer = make(name, total_steps=8, save_steps=2, keep_checkpoints=0, n_epochs=1)
        trainer.postpones = True  # as on a GPU, where a step is short
        monkeypatch.setattr(
            Checkpoints, "is_writing", property(lambda self, t=trainer: t.state.step < 5)
        )
        metrics = None if name == "periodic" else lambda: {"loss": 1.0}
        trainer.train(MRPC.loss, train.Evaluation(metrics, each_epoch=False))
        found[name] = [int(file.stem[12:]) for file in checkpoints_in(trainer.save_dir)]
    assert found == {"periodic": [5, 6, 8], "evaluated": [2, 4, 6, 8]}
    # What an evaluation has saved meanwhile is not saved once more.
    trainer = make("between", total_steps=8, save_steps=3, keep_checkpoints=0, n_epochs=1)
    trainer.postpones = True
    monkeypatch.setattr(Checkpoints, "is_writing", property(lambda self: trainer.state.step == 3))
    due = trainer.due

    def evaluated_at_4() -> train.Due:
        fourth = trainer.state.step == 4
        return dataclasses.replace(due(), evaluate=fourth, save=due().save or fourth)

    monkeypatch.setattr(trainer, "due", evaluated_at_4)
    monkeypatch.setattr(trainer, "evaluate", lambda due: None)
    trainer.train(MRPC.loss)
    assert [int(file.stem[12:]) for file in checkpoints_in(trainer.save_dir)] == [4, 6, 8]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 8}, "gradient_accumulation=32 is more than batch_size=8; set gradient_acc"),
        ({"batch_size": 0}, "batch_size=0; expected at least 1"),
        (
            {"attention": "flash", "dtype": "fp32"},
            "attention=flash is computed in bf16, and dtype=fp32; set dtype",
        ),
        ({"learning": 1}, "the settings: unknown key 'learning'"),
    ],
)
def test_a_flag_that_clashes_is_named_and_not_the_usual_file(
    tmp_path: Path, settings: dict, message: str
) -> None:
    file = tmp_path / "usual.json"
    file.write_text('{"batch_size": 64, "gradient_accumulation": 32}')
    with pytest.raises(UserError) as error:
        train.Config.from_flags(None, settings, file)
    assert str(error.value).startswith(message)
    # What the file itself has wrong is still the file's.
    file.write_text('{"batch_size": 64, "gradient_accumulation": 65}')
    with pytest.raises(UserError, match=r"usual\.json: gradient_accumulation=65"):
        train.Config.from_flags(None, {"lr": 1e-3}, file)
    # Flags may mend what a file has.
    assert train.Config.from_flags(None, {"batch_size": 65}, file).batch_size == 65


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lr": math.inf}, "lr=inf; expected 0 or more, and at most 2"),
        ({"lr": math.nan}, "lr=nan; expected 0 or more, and at most 2"),
        ({"weight_decay": math.inf}, "weight_decay=inf"),
        ({"save_minutes": math.nan}, "save_minutes=nan"),
        ({"max_grad_norm": math.inf}, "max_grad_norm=inf"),
        ({"seed": 99999999999999999999}, "seed=99999999999999999999; exp"),
        (
            {"batch_size": 2**70},
            "batch_size=1180591620717411303424; expected at least 1, and at most 2",
        ),
    ],
)
def test_a_number_that_is_none_is_refused(given: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train.Config(**given)


def test_an_n_epochs_that_is_given_goes_before_the_files_total_steps() -> None:
    file = Path(__file__).parent.parent / "config/pretrain.json"
    assert train.Config.from_json(file).total_steps == 1_000_000
    given = train.Config.from_json(file, n_epochs=3)
    assert (given.n_epochs, given.total_steps) == (3, None)
    assert train.Config.from_json(file, total_steps=7).total_steps == 7
    with pytest.raises(
        UserError, match="n_epochs and total_steps both say how long to train; give one of them"
    ):
        train.Config.from_json(file, n_epochs=3, total_steps=7)


@pytest.mark.parametrize(
    "end", [b'{"step": 8, "lo', b"\0\0\0\0\n", b"\xff\xfe\n", b'["step"]\n', b'{"loss": 1}\n']
)
def test_a_damaged_last_line_of_metrics_is_cut_off_and_reported(
    tmp_path: Path, end: bytes, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "metrics.jsonl"
    whole = b'{"step": 4, "loss": 1.5}\n{"step": 6, "loss": 1.25}\n'
    file.write_bytes(whole + end)
    with runs.open_metrics(file, 10, False):
        pass
    assert file.read_bytes() == whole
    assert (
        capsys.readouterr().out == f"{file}: its last line was not written whole and is removed\n"
    )
    file.write_bytes(b"x\n" + whole)
    with pytest.raises(
        UserError, match=r"metrics\.jsonl, line 1: 'x' is no line of metrics; remove it"
    ):
        runs.open_metrics(file, 10, False)
    assert file.read_bytes() == b"x\n" + whole

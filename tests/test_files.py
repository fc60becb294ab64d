"""Files that two processes write, files that must not be written, and files without an end."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import kinds
import pytest
import torch

import checkpoint
import classify
import features
import models
import squad
import tag
from choose import Choose
from formats.vocab import Vocabulary, load_vocab
from formats.weights import write_pt
from models import Config, PretrainModel
from system import files
from system.files import (
    MODEL_FILES,
    check_output,
    read_config,
    read_json,
    read_text,
    whole_file,
    whole_folder,
)
from system.locks import locked
from tasks.questions import read_squad
from training import runs
from utils import UserError


@contextlib.contextmanager
def at_once(seconds: int = 20) -> Iterator[None]:
    """Within it, what waits for ever fails instead."""

    def late(*_: object) -> None:
        raise AssertionError("still waiting")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder, hidden ones too."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


# -------------------------------------------------------------------------------- two at one target


@pytest.mark.parametrize("there", [False, True])
def test_of_two_that_write_a_file_at_once_each_is_whole_and_the_second_says_where(
    tmp_path: Path, there: bool
) -> None:
    target = tmp_path / "out.tsv"
    if there:
        target.write_text("old")

    def write_both() -> None:
        with whole_file(target) as late:
            late.write(b"la")
            with whole_file(target) as early:
                early.write(b"ear")
                late.write(b"te")
                early.write(b"ly")
            late.write(b"!")  # of the same size as what is there

    with pytest.raises(UserError) as error:
        write_both()
    kept = re.fullmatch(
        rf"{re.escape(str(target))} was written by another process meanwhile and is left as it is; "
        r"what this command has written is (\S+/out-[0-9a-f]{8}\.tsv)",
        str(error.value),
    )
    assert kept, error.value
    assert contents(tmp_path) == {"out.tsv": b"early", Path(kept[1]).name: b"late!"}


def test_one_that_fails_removes_nothing_of_the_other(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with whole_file(target) as good:
        with contextlib.suppress(KeyboardInterrupt), whole_file(target) as bad:
            bad.write(b"half")
            raise KeyboardInterrupt
        good.write(b"whole")
    assert contents(tmp_path) == {"out": b"whole"}


def test_a_file_that_was_removed_meanwhile_is_written_all_the_same(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_text("old")
    with whole_file(target) as f:
        f.write(b"new")
        target.unlink()
    assert contents(tmp_path) == {"out": b"new"}


def test_a_file_that_may_not_be_there_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("old")
    with (
        pytest.raises(UserError, match="is left as it is"),
        whole_file(tmp_path / "out", replace=False) as f,
    ):
        f.write(b"new")
    assert sorted(contents(tmp_path).values()) == [b"new", b"old"]


def test_a_file_that_cannot_be_replaced_costs_no_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, replace = tmp_path / "out", os.replace

    def refuse(old: Path, new: Path) -> None:  # as Windows does where a program has it open
        if new == target:
            raise PermissionError(13, "Permission denied")
        replace(old, new)

    target.write_text("old")
    monkeypatch.setattr(os, "replace", refuse)
    with (
        pytest.raises(UserError, match=r"cannot be replaced \(is it open\?\)"),
        whole_file(target) as f,
    ):
        f.write(b"new")
    assert sorted(contents(tmp_path).values()) == [b"new", b"old"]


@pytest.mark.parametrize("there", [False, True])
def test_of_two_that_fill_a_folder_at_once_each_is_whole(tmp_path: Path, there: bool) -> None:
    target = tmp_path / "model"
    if there:
        target.mkdir()

    def fill_both() -> None:
        with whole_folder(target) as late:
            (late / "a").write_text("late")
            with whole_folder(target) as early:
                (early / "a").write_text("early")
                (early / "b").write_text("early")

    with pytest.raises(UserError, match="was written by another process meanwhile") as error:
        fill_both()
    kept = str(error.value).split(" is ")[-1]
    found = contents(tmp_path)
    assert found.pop(f"{Path(kept).name}/a") == b"late"
    assert found == {"model/a": b"early", "model/b": b"early"}


def two_models(folder: Path, tiny: Config) -> list[Path]:
    """Two folders with a model each, whose weights and vocabularies differ."""
    made = []
    for i in range(2):
        model = folder / f"model{i}"
        model.mkdir()
        tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        tokens += [f"word{i}x{n}" for n in range(tiny.vocab_size - len(tokens))]
        (model / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens))
        torch.manual_seed(i)
        weights = PretrainModel(tiny).state_dict()
        write_pt(model / "weights.pt", {"config": vars(tiny), "model": weights})
        made.append(model)
    return made


@pytest.mark.parametrize("target", ["hf", "ours/model.pt"])
def test_two_conversions_to_one_target_leave_one_model(
    tiny: Config, tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = two_models(tmp_path, tiny)
    expected = []
    for model in (a, b):
        out = tmp_path / f"alone-{model.name}" / target
        checkpoint.convert(str(model), str(out))
        expected.append(contents(tmp_path / f"alone-{model.name}"))
    together, errors = tmp_path / "together", list[str]()

    def convert(model: Path) -> None:
        try:
            checkpoint.convert(str(model), str(together / target))
        except UserError as error:
            errors.append(str(error))

    second = threading.Thread(target=convert, args=(b,))
    name = "save_for_transformers" if target == "hf" else "save"
    save = getattr(Vocabulary, name)

    def interleaved(*arguments: object, **more: object) -> None:
        monkeypatch.setattr(Vocabulary, name, save)
        save(*arguments, **more)
        # In the middle of the first one; the second is done with a folder, and waits for a .pt.
        second.start()
        second.join(60 if target == "hf" else 0.2)

    monkeypatch.setattr(Vocabulary, name, interleaved)
    convert(a)
    second.join(60)
    (error,) = errors
    found = contents(together)
    if target == "hf":
        kept = Path(error.split(" is ")[-1]).name
        first = {name: text for name, text in found.items() if name.startswith(f"{kept}/")}
        assert {name.replace(kept, "hf"): text for name, text in first.items()} == expected[0]
        assert {name: found[name] for name in found.keys() - first.keys()} == expected[1]
    else:
        assert error == f"{together / target} exists already; name another target"
        assert found == expected[0]


# --------------------------------------------------------------------------------- names and rights


def test_a_lock_does_not_follow_a_link(tmp_path: Path) -> None:
    letter, lock = tmp_path / "letter", tmp_path / "run/.lock"
    letter.write_text("dear")
    lock.parent.mkdir()
    lock.symlink_to(letter)
    with (
        pytest.raises(UserError, match=r"\.lock is a link; remove it"),
        runs.run_lock(lock.parent, {"lr": 1}),
    ):
        pass
    lock.unlink()
    os.mkfifo(lock)
    with at_once(), pytest.raises(UserError, match=r"\.lock is no file; remove it"), locked(lock):
        pass
    assert letter.read_text() == "dear"
    assert [path.name for path in lock.parent.iterdir()] == [".lock"]


def test_a_private_file_stays_private_and_a_new_one_is_as_the_umask_says(tmp_path: Path) -> None:
    modes_seen = []

    def write(name: str) -> int:
        with whole_file(tmp_path / name) as f:
            modes_seen.append(os.fstat(f.fileno()).st_mode & 0o777)
        return (tmp_path / name).stat().st_mode & 0o777

    (tmp_path / "private").touch(0o600)
    (tmp_path / "folder").mkdir(0o700)
    before = os.umask(0o027)
    try:
        assert (write("private"), write("new")) == (0o600, 0o640)
        for name in ("folder", "new folder"):
            with whole_folder(tmp_path / name):
                pass
    finally:
        os.umask(before)
    assert modes_seen == [0o600, 0o640]  # while they were written, too
    seen = [(tmp_path / name).stat().st_mode & 0o777 for name in ("folder", "new folder")]
    assert seen == [0o700, 0o750]


def test_what_killed_processes_have_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here = re.sub("[^A-Za-z0-9.-]", "-", socket.gethostname())[:40]
    left = {
        f".out.{here}-{ended.pid}-0123abcd.part": False,
        f".out.{here}-{os.getpid()}-0123abcd.part": True,  # another thread's
        f".out.{here}x-{ended.pid}-0123abcd.part": True,  # another machine's
        f".other.{here}-{ended.pid}-0123abcd.part": True,  # another file's
    }
    for name in left:
        (tmp_path / name).write_text("half")
    with whole_file(tmp_path / "out") as f:
        f.write(b"whole")
    kept = [name for name, stays in left.items() if stays]
    assert sorted(contents(tmp_path)) == sorted([*kept, "out"])
    folder = tmp_path / f".folder.{here}-{ended.pid}-0123abcd.part"
    (folder / "inside").mkdir(parents=True)
    with whole_folder(tmp_path / "folder"):
        pass
    assert not folder.exists()


def test_names_of_255_bytes_are_written(tmp_path: Path) -> None:
    for name in ("a" * 255, "좋" * 85):
        with whole_file(tmp_path / name) as f:
            f.write(b"whole")
    assert len(list(tmp_path.iterdir())) == 2


# --------------------------------------------------------------------- what no result may replace


def test_what_is_read_is_not_written_whatever_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("data", "other"):
        Path(name).write_text("rows")
    Path("link").symlink_to("data")
    os.link("data", "hard")
    Path("folder").mkdir()
    for out in ("data", "./folder/../data", str(tmp_path / "data"), "link", "hard"):
        for inputs in (["data"], ["other,data"], [None, "link"]):
            with pytest.raises(UserError, match=f"^{out} is read by this command; name another"):
                check_output(out, inputs)
    for out in ("other", "new", "folder/data", "/dev/stdout", "/dev/null"):
        check_output(out, ["data", "-", None, "", "a" * 5000, "/dev/null", "nothing"])
    # python ... --data_file - --out data < data
    code = "from system.files import check_output\ncheck_output('data', ['-'])"
    with open("data") as stdin:
        root = Path(files.__file__).parent.parent
        environment = {**os.environ, "PYTHONPATH": str(root)}
        done = subprocess.run(
            [sys.executable, "-c", code], stdin=stdin, env=environment, capture_output=True
        )
    assert b"UserError: data is read by this command" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is full")
def test_a_device_that_takes_no_more_is_named() -> None:
    with pytest.raises(OSError, match="/dev/full"), whole_file("/dev/full") as f:
        f.write(b"rows")


@pytest.mark.parametrize(
    "name", [*MODEL_FILES, "model_steps_12.pt", "model.safetensors", "bert_model.ckpt.index"]
)
def test_a_model_loses_none_of_its_files_to_a_result(tmp_path: Path, name: str) -> None:
    check_output(tmp_path / name)  # no model is here
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "link").symlink_to(name)
    for out in (tmp_path / name, tmp_path / "link"):  # even one that it lacks
        with pytest.raises(UserError, match=r"belongs to the model in \S+; name another file"):
            check_output(out)
    check_output(tmp_path / "predictions.tsv")


@pytest.mark.parametrize(
    ("line", "main"),
    [
        ("--mode predict --model_file none --data_file {d} --out {o}", classify.Classify),
        ("--mode predict --model_file none --data_file {d} --out {o}", tag.Tag),
        ("--mode predict --model_file none --data_file {d} --out {o}", Choose),
        ("--pretrain_file none --input_file {d} --output_file {o}", features.Extract),
        (
            "--task csv --pretrain_file none --data_file {d} --eval_file {d} --out {o}",
            features.Fewshot,
        ),
    ],
)
def test_commands_refuse_before_they_read_a_model(
    tmp_path: Path, line: str, main: Callable, run: Callable
) -> None:
    data, model = tmp_path / "data", tmp_path / "run"
    data.write_text("rows\n")
    model.mkdir()
    (model / "run.json").write_text("{}")
    for out in (data, model / "run.json"):
        status, _, err = run(line.format(d=data, o=out), main)
        assert (status, err.count("\n")) == (2, 1), err
        assert re.search("is read by this command|belongs to the model in", err), err
    assert contents(tmp_path) == {"data": b"rows\n", "run/run.json": b"{}"}


def test_reports_replace_no_file_that_is_evaluated(tmp_path: Path) -> None:
    for data, endings in (("dev.tsv", (".tsv",)), ("dev.json", ()), ("run.csv", ())):
        (tmp_path / data).write_text("rows")
        (tmp_path / "run.json").write_text("{}")
        command = Choose(mode="eval", data_file=str(tmp_path / data), out=str(tmp_path))
        command.report_endings, name = endings, Path(data).stem
        with pytest.raises(UserError, match=r"is read by this command|belongs to the model"):
            command.check_reports(tmp_path, [tmp_path / name])
        command.check_reports(tmp_path / "eval", [tmp_path / "eval" / name])
        with pytest.raises(UserError, match=rf"run.json is a file; name a folder to write {name}"):
            command.check_reports(tmp_path / "run.json", [tmp_path / "run.json" / name])
    questions = tmp_path / "predictions.json"
    questions.write_text("{}")
    command = squad.Squad(predict_file=str(questions), out=str(tmp_path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "load", lambda: SimpleNamespace(task=None))
        for out, message in ((tmp_path, "is read by this command"), (questions, "name a folder")):
            command.out = str(out)
            with pytest.raises(UserError, match=message):
                command.answer_file()


def test_a_folder_of_glue_is_not_predicted_into_itself(tmp_path: Path) -> None:
    (tmp_path / "val.jsonl").write_text("{}")
    (tmp_path / "test.jsonl").write_text("{}")
    command = classify.Classify(mode="predict", data_dir=str(tmp_path), out=str(tmp_path))
    task = SimpleNamespace(submission=(), test=("test.jsonl",))
    with pytest.raises(UserError, match="is read by this command"):
        command.predict_folder(SimpleNamespace(task=task), str(tmp_path))


# ----------------------------------------------------------------------------------- without an end


@pytest.mark.parametrize("endless", ["fifo", "/dev/zero"])
def test_a_model_whose_files_have_no_end_is_refused(
    tiny: Config, tmp_path: Path, endless: str
) -> None:
    model, _ = two_models(tmp_path, tiny)

    def put(name: str) -> Path:
        file = model / name
        file.unlink(missing_ok=True)
        if endless == "fifo":
            os.mkfifo(file)
        else:
            file.symlink_to(endless)
        return file

    with at_once():
        for name in MODEL_FILES:
            before = (model / name).read_bytes() if (model / name).exists() else None
            file = put(name)
            with pytest.raises(UserError, match=f"{name} is a pipe or a device"):
                checkpoint.read(model)
            with (
                pytest.raises(UserError, match=f"{name} is a pipe or a device"),
                runs.run_lock(model, {"lr": 1}),
            ):
                pass
            for reader in (read_json, lambda file: read_config(models.Config, file), load_vocab):
                with pytest.raises(UserError, match=f"{name} is a pipe or a device"):
                    reader(file)
            file.unlink()
            if before is not None:
                file.write_bytes(before)
        put("weights.pt")
        with pytest.raises(UserError, match=r"weights\.pt is a pipe or a device"):
            checkpoint.read(model)
        (model / "weights.pt").unlink()
        (model / "bert.ckpt.index").write_bytes(b"")
        put("bert.ckpt.data-00000-of-00001")
        with pytest.raises(UserError, match="00001 is a pipe or a device"):
            checkpoint.read(model)


def test_data_may_come_through_a_pipe_and_have_an_end(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = kinds.write("questions", sample, tmp_path)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def through_the_pipe(content: bytes) -> None:
        threading.Thread(target=pipe.write_bytes, args=(content,), daemon=True).start()

    through_the_pipe(file.read_bytes())
    with at_once():
        assert read_squad(pipe) == read_squad(file)
    monkeypatch.setattr(files, "LONGEST_PIPE", 2**20)
    through_the_pipe(b" " * 2**20)
    with at_once(), pytest.raises(UserError, match="pipe does not end within 1 MB"):
        read_text(pipe)
    with at_once(), pytest.raises(UserError, match="/dev/zero is a device, which may have no end"):
        read_text("/dev/zero")

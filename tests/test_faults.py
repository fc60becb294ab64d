"""Nothing is lost: a little of what tests/faults.py does at length, signals, and hostile files."""

import dataclasses
import hashlib
import io
import json
import os
import pickle
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import faults
import numpy as np
import pytest
import torch

import checkpoint
import models
import train
from formats.weights import checkpoints_in, read_pt, write_pt
from pretraining import shards
from pretraining.shards import Corpus
from pretraining.text import prepare_text
from system import signals
from system.files import whole_file, whole_folder
from system.locks import locked
from system.signals import Interrupted, Signals
from tasks import TASKS
from tasks.encoding import Batches
from tokenization import FullTokenizer
from training import checkpoints, runs
from utils import UserError

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
MRPC = dataclasses.replace(TASKS["mrpc"], max_len=64)
LITTLE = """import sys; sys.path[:0] = ["tests"]
import faults
from pathlib import Path
print(faults.{})"""


def a_little(call: str) -> str:
    """Call a function of faults.py in a process of its own, since it forks."""
    done = subprocess.run(
        [sys.executable, "-c", LITTLE.format(call)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("kind", ["classify", "pretrain"])
def test_killed_at_random_moments_the_run_comes_to_the_same_bits(tmp_path: Path, kind: str) -> None:
    found = a_little(f"kills({kind!r}, 4, Path({str(tmp_path)!r}))")
    assert re.match(
        r"[4-9]\d* kills, [1-9]\d* of them of runs that had resumed; [1-9]\d* runs came to the "
        r"same",
        found,
    )


def test_messages_that_cannot_be_written_cost_no_work(tmp_path: Path) -> None:
    assert a_little(f"streams('classify', Path({str(tmp_path)!r}))").startswith("the same end")


@pytest.mark.parametrize("full", [False, True])
def test_a_save_cut_short_is_told_and_the_one_before_it_used(tmp_path: Path, full: bool) -> None:
    assert a_little(f"cut_saves('classify', 3, Path({str(tmp_path)!r}), {full})").startswith(
        "3 saves"
    )


def test_every_flipped_bit_and_every_truncation_is_noticed(tmp_path: Path) -> None:
    assert a_little(f"damages(60, Path({str(tmp_path)!r}))").startswith(
        "60 flipped bits, 60 truncations"
    )


@pytest.mark.parametrize("mode", ["nan", "infinite-sharded", "hang", "die", "error", "data"])
def test_a_process_that_fails_ends_them_all_with_its_reason(tmp_path: Path, mode: str) -> None:
    faults.lost(mode, tmp_path)


def test_a_worker_that_is_killed_costs_the_steps_since_the_last_save(tmp_path: Path) -> None:
    assert "resumed 1 times, same bits" in faults.restarted("classify", tmp_path, 1)


def test_a_signal_to_torchrun_saves_and_the_same_command_goes_on(tmp_path: Path) -> None:
    sample, mark = faults.make_sample(tmp_path / "sample"), f"{os.getpid()}-signal"
    flags = faults.flags("classify", sample, tmp_path / "run", save_steps=10**6, total_steps=100)
    process = faults.torchrun(2, "classify.py", *flags, FAULTS=mark)
    limit = time.monotonic() + 100
    while not (file := tmp_path / "run/metrics.jsonl").is_file() or not file.read_text().count(
        "\n"
    ):
        assert time.monotonic() < limit
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert "classify.py: terminated at step" in output
    assert not faults.marked(mark)
    (saved,) = checkpoints_in(tmp_path / "run")
    assert faults.torchrun(2, "classify.py", *flags).wait(timeout=120) == 0
    assert (
        faults.torchrun(
            2,
            "classify.py",
            *faults.flags(
                "classify", sample, tmp_path / "whole", save_steps=10**6, total_steps=100
            ),
        ).wait(timeout=120)
        == 0
    )
    assert faults.step([saved]) < 100
    faults.assert_same(tmp_path / "run", tmp_path / "whole")


# ------------------------------------------------------------------------------------------ signals


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., train.Trainer]:
    """A Trainer of a small classifier."""
    sample = faults.make_sample(tmp_path / "sample")
    features = MRPC.load(sample / "train.tsv", FullTokenizer(sample / "vocab.txt")).features
    shape = models.Config.from_json(sample / "config.json")

    def trainer(folder: str, **settings: object) -> train.Trainer:
        cfg = train.Config(
            **{
                "batch_size": 12,
                "total_steps": 20,
                "lr": 1e-3,
                "save_steps": 100,
                "log_steps": 2,
                **settings,
            }
        )
        torch.manual_seed(0)
        model, batches = models.Classifier(shape), Batches(features, 12, 1)
        return train.Trainer(cfg, model, batches, tmp_path / folder)

    return trainer


def same_end(a: train.Trainer, b: train.Trainer) -> bool:
    x, y = a.model.state_dict(), b.model.state_dict()
    files = [(t.save_dir / "metrics.jsonl").read_bytes() for t in (a, b)]
    return (
        all(torch.equal(x[name], y[name]) for name in x)
        and files[0] == files[1]
        and a.state.best == b.state.best
    )


@pytest.mark.parametrize("where", ["check", "probe"])
def test_a_signal_within_an_evaluation_leaves_it_due_and_the_end_the_same(
    make: Callable, where: str
) -> None:
    def evaluation(trainer: train.Trainer, interrupt: bool) -> train.Evaluation:
        data, calls = Batches(trainer.batches.features, 30), iter(range(100))

        def score(name: str) -> dict[str, float]:
            if interrupt and name == where and next(calls) == 1:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(1)
            scores = trainer.predict(data, MRPC.outputs, bar=False)
            return {f"{name}_mean": float(scores.mean())}

        return train.Evaluation(lambda: score("check"), True, lambda: score("probe"), 10)

    whole, broken, again = make("whole"), make("broken"), make("broken")
    whole.train(MRPC.loss, evaluation(whole, False))
    with pytest.raises(Interrupted, match="at step 20 of 20; the same command resumes from"):
        broken.train(MRPC.loss, evaluation(broken, True))
    again.train(MRPC.loss, evaluation(again, False))
    assert same_end(whole, again)
    lines = [
        json.loads(line) for line in (again.save_dir / "metrics.jsonl").read_text().splitlines()
    ]
    assert (
        sum("probe_mean" in line for line in lines)
        == sum("eval_check_mean" in line for line in lines)
        == 2
    )


def test_a_signal_between_the_parts_of_a_batch_gives_the_step_up(make: Callable) -> None:
    calls = iter(range(1000))

    def get_loss(model: torch.nn.Module, batch: train.Batch) -> tuple[torch.Tensor, dict]:
        if next(calls) == 13:  # the second part of step 5's four
            os.kill(os.getpid(), signal.SIGINT)
        return MRPC.loss(model, batch)

    settings = {"gradient_accumulation": 4}
    with pytest.raises(Interrupted, match="at step 3 of 20") as interrupted:
        make("broken", **settings).train(get_loss)
    assert interrupted.value.number == signal.SIGINT
    assert next(calls) == 14
    again, whole = make("broken", **settings), make("whole", **settings)
    for trainer in (again, whole):
        trainer.train(MRPC.loss)
    assert same_end(whole, again)


def test_a_signal_while_text_is_prepared_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable
) -> None:
    sample = faults.make_sample(tmp_path / "sample")
    monkeypatch.setattr(
        FullTokenizer, "encode", lambda *_: os.kill(os.getpid(), signal.SIGTERM) or [1]
    )
    line = " ".join(faults.flags("pretrain", sample, tmp_path / "run"))
    status, _, err = run(line, faults.Pretrain)
    assert (status, err.splitlines()[-1]) == (143, "prog.py: terminated")
    assert not (tmp_path / "run").exists()


def test_a_signal_sent_twice_still_saves(make: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        signals, "watch", lambda _: None
    )  # on a slow machine a second may pass between the two
    write, trainer = checkpoints.write_pt, make("run")

    def slow(file: Path, state: dict) -> None:
        os.kill(os.getpid(), signal.SIGTERM)  # by a scheduler and by torchrun
        time.sleep(0.5)
        write(file, state)

    def get_loss(model: torch.nn.Module, batch: train.Batch) -> tuple[torch.Tensor, dict]:
        if trainer.state.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return MRPC.loss(model, batch)

    monkeypatch.setattr(checkpoints, "write_pt", slow)
    with pytest.raises(Interrupted, match="at step 5 of 20"):
        trainer.train(get_loss)
    assert [faults.step([file]) for file in checkpoints_in(trainer.save_dir)] == [5]


def test_a_signal_that_comes_late_is_heeded(
    make: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = checkpoints.write_pt
    monkeypatch.setattr(
        checkpoints,
        "write_pt",
        lambda *a: (os.kill(os.getpid(), signal.SIGINT), time.sleep(0.2), write(*a)),
    )
    with pytest.raises(Interrupted, match="at step 20 of 20"):
        make("run").train(MRPC.loss)
    assert make("run").train(MRPC.loss).name == "model_steps_20.pt"


def test_a_second_signal_ends_the_process_at_once(tmp_path: Path) -> None:
    code = (
        "import time\nfrom system import signals\n"
        "with signals.Signals() as asked:\n"
        "    print('ready', flush=True)\n"
        "    while True: time.sleep(0.1)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout
    process.stdout.readline()
    for _ in range(2):  # the same one, sent by two: not yet
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(5) == 130


def test_signals_are_python_s_own_again_afterwards() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def receive() -> None:
        with Signals(at_once=True):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)

    with pytest.raises(Interrupted):
        receive()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert signal.set_wakeup_fd(-1) == -1


# -------------------------------------------------------------------------------------------- saves


def test_training_goes_on_while_a_checkpoint_is_written(
    make: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, whole = make("run", save_steps=5), make("whole", save_steps=5)
    write, reached = checkpoints.write_pt, threading.Event()

    def slow(file: Path, state: dict) -> None:
        if state["step"] == 5:
            assert reached.wait(30)  # by the loop, four steps on
        write(file, state)

    def get_loss(model: torch.nn.Module, batch: train.Batch) -> tuple[torch.Tensor, dict]:
        if trainer.state.step == 9:
            assert not (trainer.save_dir / "model_steps_5.pt").exists()
            reached.set()
        return MRPC.loss(model, batch)

    monkeypatch.setattr(checkpoints, "write_pt", slow)
    trainer.train(get_loss)
    monkeypatch.undo()
    whole.train(MRPC.loss)
    for step in (10, 15, 20):  # what is written is the state of its step
        states = [read_pt(t.save_dir / f"model_steps_{step}.pt") for t in (trainer, whole)]
        assert all(
            torch.equal(states[0]["model"][name], tensor)
            for name, tensor in states[1]["model"].items()
        )


def test_minutes_save_too_and_change_nothing(
    make: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10**6, 20))  # each look at it is 20 seconds later
    # Its own alone: others look at the time too.
    monkeypatch.setattr(train, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    timed = make("timed", save_minutes=1, keep_checkpoints=0)
    timed.train(MRPC.loss)
    monkeypatch.undo()
    assert [faults.step([file]) for file in checkpoints_in(timed.save_dir)] == [
        *range(4, 20, 4),
        20,
    ]
    whole = make("whole")
    whole.train(MRPC.loss)
    assert same_end(timed, whole)
    for minutes in (1, 3):  # may change
        with runs.run_lock(timed.save_dir / "other", {"save_minutes": minutes}):
            pass
    with pytest.raises(UserError, match="save_minutes=0; expected more than 0"):
        train.Config(save_minutes=0)


def test_a_failed_write_ends_the_run_and_keeps_the_one_before(
    make: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = checkpoints.write_pt

    def full(file: Path, state: dict) -> None:
        if state["step"] == 10:
            raise OSError("no room")
        write(file, state)

    monkeypatch.setattr(checkpoints, "write_pt", full)
    with pytest.raises(OSError, match="no room"):
        make("run", save_steps=5).train(MRPC.loss)
    assert [faults.step([file]) for file in checkpoints_in(make("run").save_dir)] == [5]


def test_one_process_prepares_and_the_others_find_it_done(tmp_path: Path) -> None:
    order: list[str] = []

    def enter(name: str) -> None:
        with locked(tmp_path / "new/.thing.lock"):
            order.append(f"{name} in")
            time.sleep(0.2)
            order.append(f"{name} out")

    threads = [threading.Thread(target=enter, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert order in (["a in", "a out", "b in", "b out"], ["b in", "b out", "a in", "a out"])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


# ------------------------------------------------------------------------------------ hostile files


def archive(
    file: Path, members: dict[str, bytes], digest: bool = True, claim: int | None = None
) -> None:
    """A .pt of ours with some members, its digest right; `claim`: the size that the last member
    says to have.
    """
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as z:
        for name, content in members.items():
            z.writestr(name, content)
        z.comment = b"0" * 64 if digest else b""
    content = bytearray(data.getvalue())
    if claim is not None:
        name = list(members)[-1].encode()
        at = content.rindex(name) - 46  # of the last entry of the directory: sizes at 20 and 24
        assert content[at : at + 4] == b"PK\x01\x02"
        content[at + 20 : at + 28] = struct.pack("<II", claim, claim)
    if digest:
        content[-64:] = hashlib.sha256(content[:-64]).hexdigest().encode()
    file.write_bytes(content)


class Bomb:
    """A pickle that runs code."""

    def __reduce__(self) -> tuple:
        return os.system, ("touch EXPLODED",)


def test_a_hostile_checkpoint_is_refused_in_one_line_and_nothing_is_done(
    make: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    good = make("run", save_steps=10)
    good.train(MRPC.loss)
    file = good.save_dir / "model_steps_20.pt"
    whole = read_pt(file)
    (good.save_dir / "model_steps_10.pt").unlink()
    tensors = {"a": torch.zeros(4)}
    data = io.BytesIO()
    torch.save(tensors, data)
    parts = {name: zipfile.ZipFile(data).read(name) for name in zipfile.ZipFile(data).namelist()}
    storage = next(name for name in parts if name.endswith("data/0"))
    rest = {name: content for name, content in parts.items() if name != storage}

    def ours(**changes: object) -> Callable[[], None]:
        return lambda: write_pt(file, {**whole, **changes})

    # Each is refused by a guard of its own, which its message shows.
    cases: list[tuple[Callable[[], object], str]] = [
        (
            lambda: archive(
                file, {"archive/data.pkl": pickle.dumps(Bomb()), "archive/version": b"3\n"}
            ),
            "not readable as weights (Weights only load failed",
        ),
        (
            lambda: archive(file, {**parts, "../../EXPLODED": b"x"}),
            "../../EXPLODED is no name of a part",
        ),
        (
            lambda: archive(file, {**parts, "/tmp/EXPLODED": b"x"}),
            "/tmp/EXPLODED is no name of a part",
        ),
        (
            lambda: archive(file, {**rest, storage: parts[storage]}, claim=2**32 - 2),
            "claims 4294967294 bytes",
        ),
        (
            lambda: archive(file, {"archive/data.pkl": b"\x80\x02.", "archive/version": b"3\n"}),
            "not readable as weights",
        ),
        (
            ours(model={"pooler.dense.weight": torch.zeros(1)}),
            "does not fit this run (Error(s) in loading state_dict",
        ),
        (ours(model=[1, 2]), "does not fit this run ('list' object has no attribute 'items')"),
        (ours(step="../../x"), "holds no state to resume from"),
        (ours(step=-3), "holds no state to resume from"),
        (
            ours(model={"../x": torch.zeros(3)}),
            "does not fit this run (Error(s) in loading state_dict",
        ),
        (lambda: write_pt(file, {"step": 20}), "does not fit this run ('model')"),
        (
            ours(optimizer={"state": {0: 1}, "param_groups": []}, sums={}, due=True),
            "does not fit this run",
        ),
    ]
    for write, message in cases:
        write()
        capsys.readouterr()
        with pytest.raises(UserError) as error:
            make("run").train(MRPC.loss)
        assert str(tmp_path / "run") in str(error.value), message
        assert message in capsys.readouterr().out + str(error.value)
    assert not list(tmp_path.rglob("EXPLODED"))
    assert not Path("/tmp/EXPLODED").exists()


def test_hostile_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    header = json.dumps(
        {"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
    ).encode()
    for content in (
        struct.pack("<Q", 2**45) + b"{}",
        struct.pack("<Q", len(header)) + header,
        struct.pack("<Q", 2) + b"{}" + b"x" * 100,
    ):
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(UserError, match=r"model\.safetensors"):
            checkpoint.read(tmp_path)


def test_a_prepared_corpus_names_no_files_elsewhere(tmp_path: Path, sample: Path) -> None:
    prepare_text([sample / "corpus.txt"], sample / "vocab.txt", tmp_path)
    shard = tmp_path / "shard-0-of-1"
    about = json.loads((shard / "shard.json").read_text())
    shutil.copy(shard / "tokens.bin", tmp_path / "elsewhere.bin")
    about["arrays"]["../elsewhere"] = about["arrays"]["tokens"]
    (shard / "shard.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match=r"with the arrays .*, \.\./elsewhere is no kind of corpus"):
        Corpus(tmp_path)


# --------------------------------------------------------------------------- whole, and on the disk


def test_what_takes_its_name_is_on_the_disk_before_and_its_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def sync(number: int) -> None:
        done.append(("sync", os.readlink(f"/proc/self/fd/{number}")))
        fsync(number)

    def rename(old: Path, new: Path) -> None:
        done.append(("rename", str(new)))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", rename)
    with whole_file(tmp_path / "a/file") as f:
        f.write(b"x")
    a, unfinished = tmp_path / "a", Path(f.name)
    assert done == [("sync", str(unfinished)), ("rename", str(a / "file")), ("sync", str(a))]
    assert unfinished.parent == a
    done.clear()
    with whole_folder(tmp_path / "b/folder") as partial:
        array = shards.ArrayFile(partial / "x.bin", np.dtype("<i8"))
        array.append([1])
        array.close()
    b = tmp_path / "b"
    assert done == [
        ("sync", str(partial / "x.bin")),
        ("sync", str(partial)),
        ("rename", str(b / "folder")),
        ("sync", str(b)),
    ]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a megabyte, where one can be mounted."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True
    ).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_full_keeps_what_was_saved_and_is_named(
    small_disk: Path, tmp_path: Path, run: Callable
) -> None:
    sample = faults.make_sample(tmp_path / "sample")
    line = " ".join(
        faults.flags("classify", sample, small_disk / "run", keep_checkpoints=0, save_steps=1)
    )
    status, _, err = run(line, faults.Classify)
    kept = checkpoints_in(small_disk / "run")
    assert (status, len(kept) > 0) == (2, True)
    assert re.fullmatch(
        r"prog\.py: .+/model_steps_\d+\.pt could not be written whole; is the disk full\? Make "
        r"room and "
        r"start the same command again: what was saved before is intact",
        err.splitlines()[-1],
    )
    assert not list((small_disk / "run").glob(".*.part"))
    for file in kept:
        assert read_pt(file)


@pytest.mark.parametrize("size", [1, 1000, 100_000])
def test_a_file_that_grows_too_large_is_named_and_not_left(tmp_path: Path, size: int) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        with (
            pytest.raises(OSError, match=f"File too large: '{tmp_path}/file'"),
            whole_file(tmp_path / "file") as f,
        ):
            f.write(b"x" * (size + 1))  # in the buffer, until it is closed
        with pytest.raises(OSError, match="file could not be written whole; is the disk full"):
            write_pt(tmp_path / "file", {"model": torch.zeros(50_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------- one run a folder

HOLDER = """import sys, time
from pathlib import Path
from system.locks import locked
with locked(Path(sys.argv[1]) / ".lock"):
    print("holds", flush=True)
    time.sleep(1000)
"""


def test_a_folder_has_one_run_at_a_time_and_a_dead_ones_lock_is_taken_over(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, cwd=ROOT
    )
    assert other.stdout
    other.stdout.readline()
    before = list(folder.iterdir())
    name = f"process {other.pid} on {socket.gethostname()}"
    with (
        pytest.raises(
            UserError, match=f"{folder} is in use by {name}; wait for it to end, or name another"
        ),
        runs.run_lock(folder, {"lr": 1}),
    ):
        pass
    assert list(folder.iterdir()) == before
    other.kill()
    other.wait()
    assert (folder / ".lock").read_text() == f"{name}\n"  # left behind
    with runs.run_lock(folder, {"lr": 1}):
        assert (folder / ".lock").read_text().startswith(f"process {os.getpid()} on ")
        with (
            pytest.raises(UserError, match=f"in use by process {os.getpid()} on"),
            runs.run_lock(folder, {"lr": 1}),
        ):
            pass
    assert [path.name for path in folder.iterdir()] == ["run.json"]


def test_a_second_run_in_the_folder_ends_before_it_writes(tmp_path: Path, run: Callable) -> None:
    sample = faults.make_sample(tmp_path / "sample")
    for kind in faults.KINDS:
        folder = tmp_path / kind
        line = " ".join(faults.flags(kind, sample, folder, total_steps=2))
        assert run(line, faults.KINDS[kind][0])[0] == 0
        with locked(folder / ".lock"):
            before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
            status, _, err = run(line, faults.KINDS[kind][0])
            assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
        assert (status, f"{folder} is in use by process {os.getpid()} on" in err) == (2, True)


def test_a_second_signal_of_another_kind_ends_nothing() -> None:
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        with Signals() as asked:
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(1.2)
            os.kill(os.getpid(), signal.SIGUSR1)  # would end the process, were it counted
            time.sleep(0.2)
            assert asked.number == 0
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_results_are_utf_8_whatever_the_terminal_says() -> None:
    code = "import dataclasses\nfrom system import cli\n@dataclasses.dataclass\nclass Main:\n"
    code += "  def run(self) -> None:\n    print('좋음')\ncli.command(Main)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert (done.returncode, done.stdout.decode(), done.stderr) == (0, "좋음\n", b"")

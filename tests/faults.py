"""What happens to long runs, done to short ones: kills, saves cut short, full disks, damaged files,
lost processes.

    $ python tests/faults.py [--n 200] [--minutes 60] [--out FILE]
    $ python tests/faults.py --pairs 200    # two commands with one target, and nothing else

`make soak` does all of it, the tests a little of each. Each function does its worst n times and
raises AssertionError where something was lost; it returns what it saw, in words. Children are
forked from a process that has torch loaded but has computed nothing, so that one starts in a
moment.
"""

import builtins
import collections
import contextlib
import errno
import functools
import io
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

import checkpoint
from benchmarks.common import as_command
from classify import Classify
from examples import sample as world
from formats.weights import checkpoints_in, read_pt
from pretrain import Pretrain
from system import files
from system.cli import command
from training.checkpoints import newest_state
from utils import UserError

torch.set_num_threads(1)
FLAGS = "--lr 1e-3 --total_steps 60 --save_steps 2 --log_steps 3 --keep_checkpoints 2"
KINDS = {
    "classify": (
        Classify,
        "--data_file {s}/train.tsv --eval_file {s}/dev.tsv --model_cfg {s}/config.json "
        "--vocab {s}/vocab.txt --max_len 64 --batch_size 8 " + FLAGS,
    ),
    "pretrain": (
        Pretrain,
        "--data_file {s}/corpus.txt --eval_file {s}/held_out.txt --model_cfg {s}/config.json "
        "--vocab {s}/vocab.txt --max_len 48 --batch_size 8 --gradient_accumulation 2 " + FLAGS,
    ),
}


def flags(kind: str, sample: Path, folder: Path, **more: object) -> list[str]:
    """The flags of a short run that saves often; later ones instead of earlier."""
    # A folder's name may have a space.
    words = [word.format(s=sample) for word in KINDS[kind][1].split()]
    given = dict(zip(words[::2], words[1::2], strict=True))
    given |= {
        "--save_dir": str(folder),
        **{f"--{name}": str(value) for name, value in more.items()},
    }
    return [word for pair in given.items() for word in pair]


def make_sample(folder: Path) -> Path:
    """The built-in sample and its model, small."""
    with contextlib.redirect_stdout(io.StringIO()):
        world.write(str(folder), n_train=120, n_dev=20, n_documents=12)
    shape = files.read_json(folder / "config.json") | {"dim": 32, "n_heads": 2, "dim_ff": 64}
    files.write_json(folder / "config.json", shape | {"p_drop_hidden": 0.1, "p_drop_attn": 0.1})
    return folder


def fork(
    kind: str,
    arguments: list[str],
    log: Path,
    before: Callable[[], None] = lambda: None,
    function: Callable | None = None,
) -> int:
    """Start a command in a child, by default that of KINDS; its process number."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    if child := os.fork():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        return child
    status = 70
    # What it has is the parent's; a command sets its own when it begins.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        with open(log, "ab") as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
        sys.stdout, sys.stderr = (open(n, "w", buffering=1) for n in (1, 2))
        sys.argv = [f"{kind}.py", *arguments]
        before()
        if function:
            command(as_command(function))
        else:
            command(KINDS[kind][0], processes=True)
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def wait(child: int) -> int:
    """The exit status of a child, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def wait_for(what: Callable[[], bool], child: int) -> None:
    """Wait until something is so, or the child has ended."""
    while not what() and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.005)


def streams(kind: str, folder: Path) -> str:
    """A run whose messages cannot be written comes to the same end: full or closed stdin, stdout
    and stderr.
    """
    sample = make_sample(folder / "sample")
    undisturbed(kind, sample, folder / "whole", total_steps=6)

    def full(*numbers: int) -> None:
        for number in numbers:
            os.dup2(os.open("/dev/full", os.O_WRONLY), number)

    def closed() -> None:
        for number in range(3):
            os.close(number)
        sys.stdin = sys.stdout = sys.stderr = None  # as Python has them then

    for name, before, expected in (
        ("full stderr", lambda: full(2), 0),
        ("full stdout", lambda: full(1), 2),
        ("both full", lambda: full(1, 2), 2),
        ("closed", closed, 0),
    ):
        run = folder / name.replace(" ", "_")
        status = wait(
            fork(kind, flags(kind, sample, run, total_steps=6), run.with_suffix(".log"), before)
        )
        assert status == expected, (name, status, run.with_suffix(".log").read_text())
        assert_same(run, folder / "whole")
    return "the same end, whatever became of its messages"


def last(folder: Path) -> dict[str, torch.Tensor]:
    """The parameters of the last checkpoint."""
    state = read_pt(checkpoints_in(folder)[-1])
    assert state
    return state["model"]


def assert_same(a: Path, b: Path) -> None:
    """The same last parameters to the bit, and the same metrics."""
    assert checkpoints_in(a)[-1].name == checkpoints_in(b)[-1].name, (
        checkpoints_in(a),
        checkpoints_in(b),
    )
    x, y = last(a), last(b)
    assert all(torch.equal(x[name], y[name]) for name in x), a
    assert (a / "metrics.jsonl").read_bytes() == (b / "metrics.jsonl").read_bytes(), a


def undisturbed(kind: str, sample: Path, folder: Path, **more: object) -> float:
    """Run a command to its end; the seconds that took."""
    start, log = time.monotonic(), folder.with_suffix(".log")
    assert wait(fork(kind, flags(kind, sample, folder, **more), log)) == 0, log.read_text()
    return time.monotonic() - start


# -------------------------------------------------------------------------------------------- kills


def kills(kind: str, n: int, folder: Path, seed: int = 0) -> str:
    """SIGKILL at random moments, every second one once a checkpoint has been written; after each
    the same command resumes, and comes to the same bits. There are more than n where no run was
    killed that had resumed from a checkpoint.
    """
    rng, sample = random.Random(seed), make_sample(folder / "sample")
    seconds = undisturbed(kind, sample, folder / "whole")
    done = complete = resumed = 0
    run, log = folder / "killed", folder / "killed.log"

    def another(known: int) -> bool:
        return step(checkpoints_in(run)) > known

    while done < n or not resumed or (run / "metrics.jsonl").exists():
        assert done < 3 * n + 20, "no run resumed from a checkpoint"
        child, before = fork(kind, flags(kind, sample, run), log), checkpoints_in(run)
        if done < n or not resumed:
            if done % 2:
                wait_for(functools.partial(another, step(before)), child)
                time.sleep(rng.random() * 0.1 * seconds)
            else:
                time.sleep(rng.random() * 0.7 * seconds)
            os.kill(child, signal.SIGKILL)
        if (status := wait(child)) == -signal.SIGKILL:
            done += 1
            resumed += bool(before)
            assert step(checkpoints_in(run)) >= step(before), (before, checkpoints_in(run))
            continue
        assert status == 0, log.read_text()[-2000:]  # to its end, perhaps just before the kill
        assert_same(run, folder / "whole")
        complete += 1
        log.unlink()
        subprocess.run(["rm", "-r", str(run)], check=True)
    return (
        f"{done} kills, {resumed} of them of runs that had resumed; {complete} runs came to the "
        "same bits and metrics"
    )


def step(files: list[Path]) -> int:
    """The last of some checkpoints, as a number."""
    return int(re.findall(r"\d+", files[-1].name)[0]) if files else 0


# ---------------------------------------------------------------------------------- saves cut short


class Faulty:
    """A file that does something when so many bytes are written."""

    def __init__(self, file: io.BufferedRandom, after: int, fault: Callable[[], None]):
        self.file, self.left, self.fault = file, after, fault

    def write(self, data: bytes) -> int:
        if len(data := memoryview(data).cast("B")) >= self.left:
            self.file.write(data[: self.left])
            self.file.flush()
            self.fault()
        self.left -= len(data)
        return self.file.write(data)

    def __getattr__(self, name: str) -> object:
        return getattr(self.file, name)


def inject(name: str, after: int, fault: Callable[[], None]) -> Callable[[], None]:
    """Have the writing of a file end in a fault, in this process from now on."""

    def before() -> None:
        def opened(file: str | Path, *arguments: object, **more: object) -> object:
            real = builtins.open(file, *arguments, **more)  # type: ignore[call-overload]
            return Faulty(real, after, fault) if Path(file).name.startswith(f".{name}.") else real

        files.open = opened  # type: ignore[attr-defined]

    return before


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def no_room() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def cut_saves(kind: str, n: int, folder: Path, full: bool = False, seed: int = 0) -> str:
    """A save that ends at a random byte, by SIGKILL or for want of room; the checkpoint before it
    is resumed from.
    """
    rng, sample, short = (
        random.Random(seed),
        make_sample(folder / "sample"),
        {"total_steps": 6, "save_steps": 2},
    )
    undisturbed(kind, sample, folder / "whole", **short, keep_checkpoints=0)
    size = (folder / "whole/model_steps_4.pt").stat().st_size
    for i in range(n):
        run, log = folder / f"cut{i}", folder / f"cut{i}.log"
        at = rng.randrange(1, size + 1)
        child = fork(
            kind,
            flags(kind, sample, run, **short),
            log,
            inject("model_steps_4.pt", at, no_room if full else die),
        )
        status = wait(child)
        assert status == (2 if full else -signal.SIGKILL), (status, at, log.read_text())
        assert [file.name for file in checkpoints_in(run)] == ["model_steps_2.pt"]
        if full:
            line = log.read_text().strip().split("\n")[-1]
            assert re.match(
                rf"{kind}\.py: .*model_steps_4\.pt.*(could not be written whole|No space left)",
                line,
            ), line
            assert not list(run.glob(".*.part"))
        log.unlink()
        assert wait(fork(kind, flags(kind, sample, run, **short), log)) == 0, log.read_text()
        text = log.read_text()
        assert f"Resuming from {run}/model_steps_2.pt" in text
        left = re.search(
            rf"{run}/\.model_steps_4\.pt\.\S+\.part was not written to its end and is removed", text
        )
        assert full or left, (at, text)
        assert_same(run, folder / "whole")
        subprocess.run(["rm", "-r", str(run)], check=True)
    what = "a full disk" if full else "SIGKILL"
    return (
        f"{n} saves of {size:,} bytes cut short at random bytes by {what}: the one before was "
        "used, the end the same"
    )


def damages(n: int, folder: Path, seed: int = 0) -> str:
    """One flipped bit anywhere, and truncation anywhere: always noticed, the file named, the one
    before it resumed from.
    """
    rng, sample = random.Random(seed), make_sample(folder / "sample")
    undisturbed("classify", sample, folder / "run", total_steps=6, save_steps=2, keep_checkpoints=0)
    (folder / "run/model_steps_6.pt").unlink()
    good, bad = (folder / f"run/model_steps_{k}.pt" for k in (2, 4))
    content = bad.read_bytes()
    ends = [
        (i, 1 << rng.randrange(8))
        for i in [0, 1, len(content) - 66, len(content) - 65, len(content) - 64, len(content) - 1]
    ]
    flips = (ends + [(rng.randrange(len(content)), 1 << rng.randrange(8)) for _ in range(n)])[
        : max(n, len(ends))
    ]
    cuts = (
        [0, 1, len(content) - 1, len(content) - 64, len(content) - 66, len(content) - 88]
        + [rng.randrange(len(content)) for _ in range(n)]
    )[: max(n, 6)]
    for place, change in [*flips, *((cut, 0) for cut in cuts)]:
        if change:
            bad.write_bytes(
                content[:place] + bytes([content[place] ^ change]) + content[place + 1 :]
            )
        else:
            bad.write_bytes(content[:place])
        with contextlib.redirect_stdout(io.StringIO()) as out:
            state = newest_state(folder / "run", 6)
        assert (state or {}).get("file") == str(good), (place, change)
        assert str(bad) in out.getvalue(), (place, change)
        with pytest.raises(UserError, match=re.escape(str(bad))):  # asked for by name
            checkpoint.read(bad)
    return (
        f"{len(flips)} flipped bits, {len(cuts)} truncations of {len(content):,} bytes: all "
        "noticed, the one before used"
    )


# -------------------------------------------------------------------------------- several processes


def torchrun(n: int, *words: object, restarts: int = 0, **variables: str) -> subprocess.Popen:
    """Start a script in n processes; FAULTS marks them, so that none can be left alone unseen."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc_per_node",
            str(n),
            "--max_restarts",
            str(restarts),
            "--rdzv_backend",
            "c10d",
            "--rdzv_endpoint",
            "localhost:0",
            *map(str, words),
        ],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def marked(mark: str, rank: str | None = None) -> list[int]:
    """The processes with a mark in their environment, of a rank or all."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            values = (folder / "environ").read_bytes().split(b"\0")
            if f"FAULTS={mark}".encode() in values and (
                rank is None or f"RANK={rank}".encode() in values
            ):
                found.append(int(folder.name))
    return found


def restarted(kind: str, folder: Path, times: int = 1, seed: int = 0) -> str:
    """Under torchrun --max_restarts, a worker killed now and then costs the steps since the last
    save, no more.
    """
    rng, sample, mark = random.Random(seed), make_sample(folder / "sample"), f"{os.getpid()}-{kind}"
    script = ROOT / f"{kind}.py"
    whole = torchrun(
        2, script, *flags(kind, sample, folder / "whole", total_steps=40 * (times + 1))
    )
    output = whole.communicate(timeout=300)[0]
    assert whole.returncode == 0, output
    process = torchrun(
        2,
        script,
        *flags(kind, sample, folder / "killed", total_steps=40 * (times + 1)),
        restarts=times,
        FAULTS=mark,
    )
    for _ in range(times):
        seen, limit = step(checkpoints_in(folder / "killed")), time.monotonic() + 120
        while step(checkpoints_in(folder / "killed")) <= seen and process.poll() is None:
            if time.monotonic() > limit:
                process.terminate()
                raise AssertionError(process.communicate()[0])
            time.sleep(0.01)
        time.sleep(rng.random() * 0.3)
        for victim in marked(mark, str(rng.randrange(2)))[:1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        time.sleep(2)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    assert_same(folder / "killed", folder / "whole")
    assert not marked(mark)
    resumed = output.count("Resuming from")
    return (
        f"{times} workers killed under torchrun --max_restarts: resumed {resumed} times, same bits"
    )


# What ends a run of two processes, and what is told.
NOT_FINITE = (
    r"lost\.py: (process 1: )?loss or gradient is not finite at step 8 \(batch 2 of epoch 2, "
    r"lines [\d, ]+\); stopped before that update; .*"
)
OTHER = r"lost\.py: (process 1: )?process 1 has other "
SILENT = r"lost\.py: process 1 of 2 did not answer within 6 seconds; see what it does, or set "
LOST = {
    "nan": NOT_FINITE + r"the last checkpoint is .+/model_steps_5\.pt",
    "infinite": NOT_FINITE,
    "hang": SILENT + "BERT_TIMEOUT",
    "die": r"lost\.py: process 1 of 2 has ended without a word \(killed\?\); the same command "
    r"resumes from the last checkpoint",
    "error": r"lost\.py: process 1: rows\.tsv, line 3: two columns; expected 3; mend the line",
    "crash": r"ZeroDivisionError: a mistake of ours",
    "flags": OTHER + r"training \(lr is 0\.5, the first one's 0\.01\); start all",
    "data": OTHER + r"settings \(sha256 of data_file is '0123', the first one's",
    "absent": r"lost\.py: process 1 of 2 did not answer within 6 seconds",
}


def lost(mode: str, folder: Path) -> str:
    """A process that fails ends them all in time, with the reason told once; the last checkpoint is
    whole.
    """
    word, mark = mode.removesuffix("-sharded"), f"{os.getpid()}-{mode}"
    sample, out, start = make_sample(folder / "sample"), folder / mode, time.monotonic()
    process = torchrun(2, "tests/lost.py", mode, sample, out, BERT_TIMEOUT="6", FAULTS=mark)
    output = process.communicate(timeout=150)[0]
    seconds = time.monotonic() - start
    assert process.returncode, output
    told = [line for line in output.splitlines() if line.startswith("lost.py:")]
    assert re.search(LOST[word], output), (mode, output)
    assert len(told) == (word != "crash"), (mode, told)
    assert not marked(mark), (mode, marked(mark))
    if word not in ("flags", "data", "absent"):
        state = newest_state(out, 20)
        assert (state or {}).get("step") == 5, mode
    return f"{mode} {seconds:.0f} s"


# ------------------------------------------------------------------------- two commands, one target

OLD = {"": b"what was there before"}


def whole(target: Path) -> dict[str, bytes]:
    """What is at a target: a file's contents, or those of all files of a folder, by their names."""
    if target.is_file():
        return {"": target.read_bytes()}
    files = (file for file in target.rglob("*") if file.is_file())
    return {str(file.relative_to(target)): file.read_bytes() for file in files}


def two_at_once(n: int, folder: Path, seed: int = 0) -> str:
    """Two commands that begin at about the same time and write to one target, sometimes one of
    them killed or interrupted: what is there is one whole result, and nobody says what is not so.
    """
    rng, sample = random.Random(seed), make_sample(folder / "sample")
    for k in (0, 1):
        undisturbed("classify", sample, folder / f"model{k}", total_steps=2, seed=k)
    data = f"--mode predict --data_file {sample}/dev.tsv --max_len 64"
    # What a user names, and below it all that is written.
    targets = {"predict": ("out.tsv", "out.tsv"), "folder": ("hf", "hf"), "pt": ("pt/a.pt", "pt")}

    def start(kind: str, k: int, place: Path, delay: float = 0) -> int:
        model, target = folder / f"model{k}", str(place / targets[kind][0])
        arguments = [str(model), target]
        if kind == "predict":
            arguments = [*data.split(), "--model_file", str(model), "--out", target]
        function = None if kind == "predict" else checkpoint.Convert
        log = place / f"log{k}"
        return fork("classify", arguments, log, lambda: time.sleep(delay), function)

    alone, seconds = {}, {}
    for kind in targets:
        for k in (0, 1):
            place, begun = folder / f"{kind}{k}", time.monotonic()
            place.mkdir()
            assert wait(start(kind, k, place)) == 0, (place / f"log{k}").read_text()
            seconds[kind] = time.monotonic() - begun
            alone[kind, k] = whole(place / targets[kind][1])
        assert alone[kind, 0] != alone[kind, 1]
    seen = collections.Counter[str]()
    for i in range(n):
        kind, place = rng.choice(list(targets)), folder / f"pair{i}"
        place.mkdir()
        target = place / targets[kind][1]
        there = kind == "predict" and rng.random() < 0.5
        if there:
            target.write_bytes(OLD[""])
        # Most of them overlap; of some one begins when the other one is done.
        late = rng.randrange(2)
        delays = [0.0, 0.0]
        delays[late] = rng.random() * 1.2 * seconds[kind] * rng.randrange(2)
        children = [start(kind, k, place, delays[k]) for k in (0, 1)]
        end = rng.choice([None, None, signal.SIGKILL, signal.SIGINT])
        if end:
            time.sleep(rng.random() * 1.5 * seconds[kind])
            os.kill(children[rng.randrange(2)], end)  # one that has ended waits for its parent
        status = [wait(child) for child in children]
        check_pair(kind, place, target, status, alone, there, bool(end))
        seen[" and ".join(sorted(f"{s}" for s in status))] += 1
        subprocess.run(["rm", "-r", str(place)], check=True)
    counts = ", ".join(f"{times} x {what}" for what, times in sorted(seen.items()))
    return f"{n} pairs of commands with one target: one whole result each; statuses {counts}"


def check_pair(
    kind: str,
    place: Path,
    target: Path,
    status: list[int],
    alone: dict[tuple[str, int], dict[str, bytes]],
    there: bool,
    ended: bool,
) -> None:
    """AssertionError where two commands have not left what they should have."""
    logs = [(place / f"log{k}").read_text() for k in (0, 1)]
    told = (kind, status, logs, sorted(place.rglob("*")))
    found, results = whole(target), [alone[kind, k] for k in (0, 1)]
    # A .pt that was given up may have left the files beside it, which belong together.
    if kind == "pt" and "a.pt" not in found:
        assert all(found[name] in [r.get(name) for r in results] for name in visible(found)), told
        found = {}
    found = {name: found[name] for name in visible(found)}
    said = [k for k in (0, 1) if status[k] == 0]
    for k in (0, 1):
        assert "Traceback" not in logs[k], told
        assert status[k] in (0, 2, -signal.SIGKILL, 130), told
        assert ended or status[k] in (0, 2), told
        assert ("Saved" in logs[k] or " -> " in logs[k]) or status[k] != 0, told
        if status[k] == 2:
            line = logs[k].strip().split("\n")[-1]
            kept = re.search(r" meanwhile and is left as it is; .* written is (\S+)", line)
            assert kept or "exists already" in line, told
            if kept:
                assert whole(Path(kept[1])) == (results[k] if kind != "pt" else None), told
    # A prediction may be replaced by one that begins later, a model never.
    assert len(said) < 2 or kind == "predict", told
    if not said:
        assert found in [*results, OLD if there else {}], told
    elif len(said) == 1 and (kind != "predict" or not ended):
        assert found == results[said[0]], told
    else:
        assert found in results, told
    if not ended:
        assert not [path for path in place.rglob(".*") if path != place], told


def visible(names: Iterable[str]) -> list[str]:
    """The names of files that are not hidden."""
    return [name for name in names if not Path(name).name.startswith(".")]


# -------------------------------------------------------------------------------------- memory, all


def memory(minutes: float, folder: Path) -> str:
    """The memory of a training process, every minute (a tenth of the time, if that is less)."""
    sample = make_sample(folder / "sample")
    child = fork(
        "pretrain",
        flags("pretrain", sample, folder / "run", total_steps=10**6, save_steps=500, batch_size=32),
        folder / "log",
    )
    seen, every = [], min(60, 6 * minutes)
    for _ in range(round(60 * minutes / every)):
        time.sleep(every)
        status = Path(f"/proc/{child}/status").read_text()
        seen.append(int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024)
    os.kill(child, signal.SIGTERM)
    assert wait(child) == 143
    steps = step(checkpoints_in(folder / "run"))
    early = max(seen[: max(1, len(seen) // 6)])
    return (
        f"{minutes:g} minutes, {steps:,} steps: {seen[0]:.0f} MB at first, {early:.0f} at most in "
        f"the first sixth, {max(seen[len(seen) // 2 :]):.0f} at most in the second half, "
        f"{seen[-1]:.0f} at the end"
    )


def soak(
    n: int = 200, minutes: float = 60, out: str | None = None, pairs: int | None = None
) -> None:
    """Do all of it.

    Args:
        n: how often each.
        minutes: how long memory is watched; 0: not at all.
        out: Markdown to add the results to.
        pairs: how many pairs of commands write to one target; nothing else is done then.
    """
    cases: dict[str, Callable[[Path], str]] = {
        "SIGKILL, classify.py": lambda folder: kills("classify", n, folder),
        "SIGKILL, pretrain.py": lambda folder: kills("pretrain", n, folder),
        "SIGKILL in a save": lambda folder: cut_saves("classify", n, folder),
        "full disk in a save": lambda folder: cut_saves("pretrain", n, folder, full=True),
        "full and closed streams": lambda folder: streams("classify", folder),
        "damaged checkpoints": lambda folder: damages(n, folder),
        "a process fails": lambda folder: ", ".join(
            lost(mode + how, folder) for mode in LOST for how in ("", "-sharded")
        ),
        "workers killed, classify.py": lambda folder: restarted("classify", folder, 4),
        "workers killed, pretrain.py": lambda folder: restarted("pretrain", folder, 4),
        "two commands, one target": lambda folder: two_at_once(pairs or n, folder),
        **({"memory": lambda folder: memory(minutes, folder)} if minutes else {}),
    }
    if pairs:
        cases = {name: case for name, case in cases.items() if name.startswith("two ")}
    for name, case in cases.items():
        with tempfile.TemporaryDirectory() as folder:
            start = time.monotonic()
            result = case(Path(folder))
        line = f"| {name} | {result} | {(time.monotonic() - start) / 60:.1f} |"
        print(line, flush=True)
        if out:
            with open(out, "a") as f:
                f.write(line + "\n")


if __name__ == "__main__":
    command(as_command(soak))

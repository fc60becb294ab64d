"""A run's folder: whose it is, its checkpoints, written while training goes on, its metrics.

with held("runs/mrpc", settings): ...                       # or UserError: it is another run's, or
in use writer = Writer(); writer.write(file, state, keep); ...; writer.wait()
"""

import concurrent.futures
import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import nn

import checkpoint
import distributed
from utils import (
    UserError,
    locked,
    name_file,
    rank,
    read_json,
    say,
    short,
    show,
    whole_file,
    write_json,
)

# Settings that may differ when a run goes on: they change what is written, not what is computed.
FREE = {"save_steps", "save_minutes", "log_steps", "keep_checkpoints"}
# Settings that earlier versions did not record: a run of theirs is taken at its word.
RECORDED_LATER = {"sha256 of eval_file", "sha256 of few shots"}
# Names of columns that earlier versions did not record where they were these.
USUAL_COLUMNS = {"text_a": ("text", "sentence"), "label": ("label",)}


def check_free(save_dir: str | Path) -> None:
    """UserError if a folder holds a model that is no run's."""
    names = (
        "config.json",
        "bert_config.json",
        "vocab.txt",
        "task.json",
        "model.safetensors",
        "pytorch_model.bin",
    )
    taken = [name for name in names if (Path(save_dir) / name).exists()] + checkpoint.saved(
        save_dir
    )
    if taken and not (Path(save_dir) / "run.json").is_file():
        raise UserError(
            f"{save_dir} holds a model already ({taken[0]}) and no run.json; name another "
            "--save_dir"
        )


@contextlib.contextmanager
def held(save_dir: str | Path, settings: dict[str, Any]) -> Iterator[None]:
    """Make a folder this run's own, by its settings, and keep every other process out of it within
    the block.

    UserError names every setting that differs from the run that is there, so that no run goes on
    with another one's checkpoints; every one that some process has other than the first; and the
    process that trains there already.
    """
    distributed.check_same("settings", settings)
    if rank():
        yield
        return
    check_own(save_dir, settings)  # a mistake writes nothing, not even the lock
    with locked(Path(save_dir) / ".lock", wait=False):
        check_own(save_dir, settings)  # another run may have begun in between
        write_json(Path(save_dir) / "run.json", settings)
        yield


def check_own(save_dir: str | Path, settings: dict[str, Any]) -> None:
    """UserError where a folder belongs to a run with other settings, or holds a model that is no
    run's.
    """
    file = Path(save_dir) / "run.json"
    if not file.is_file():
        check_free(save_dir)
        return
    theirs = read_json(file)
    compared = (theirs.keys() | settings.keys()) - FREE - (RECORDED_LATER - theirs.keys())
    compared -= {
        name
        for name, usual in USUAL_COLUMNS.items()
        if name not in theirs and settings.get(name) in usual
    }
    different = [
        f"{short(name)} was {show(theirs.get(name), 40)}, now {show(settings.get(name), 40)}"
        for name in sorted(compared)
        if theirs.get(name) != settings.get(name)
    ]
    if different:
        raise UserError(
            f"{save_dir} belongs to another run ({'; '.join(different[:3])}{more(different, 3)}); "
            f"name another --save_dir, or remove it"
        )


def more(items: list, shown: int) -> str:
    """What follows the first few items of a list in a message."""
    return f" and {len(items) - shown} more" if len(items) > shown else ""


def weights_digest(model: nn.Module) -> str:
    """A digest of a model's parameters."""
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(distributed.whole(tensor).cpu().contiguous().numpy().data)
    return digest.hexdigest()


# -------------------------------------------------------------------------------------- checkpoints


def snapshot(value: Any) -> Any:
    """A copy of a state in the memory of the first process's CPU, sharded tensors whole; all
    processes have to ask.
    """
    if isinstance(value, torch.Tensor):
        tensor = distributed.whole(value.detach())
        return tensor.to("cpu", copy=True) if rank() == 0 else None
    if isinstance(value, dict):
        return {key: snapshot(item) for key, item in value.items()}
    return [snapshot(item) for item in value] if isinstance(value, list) else value


class Writer:
    """Writes checkpoints in a thread of its own, one at a time; what goes wrong there comes out of
    the next call.
    """

    def __init__(self) -> None:
        self.thread = concurrent.futures.ThreadPoolExecutor(1)
        self.written: concurrent.futures.Future | None = None

    def write(self, file: Path, state: dict[str, Any], keep: int, best: Path) -> None:
        """Write a state that nobody changes any more; then keep only so many files up to this one,
        and the best. 0: all.
        """
        self.wait()

        def work() -> None:
            checkpoint.write_ours(file, state)
            files = checkpoint.saved(file.parent)  # later ones than this are damaged: see newest()
            for old in files[: 1 + files.index(file)][:-keep] if keep else []:
                if old != best:
                    old.unlink()

        self.written = self.thread.submit(work)

    def wait(self) -> None:
        """Until all is on the disk."""
        if self.written:
            written, self.written = self.written, None
            written.result()


def newest(folder: Path, total_steps: int) -> dict[str, Any] | None:
    """The state of the newest checkpoint that is whole, or None where there is none; a damaged one
    is named and passed over.
    """
    for part in folder.glob(".model_steps_*.pt.part"):
        say(f"{part} was not written to its end and is removed")
        part.unlink()
    files = checkpoint.saved(folder)
    for file in reversed(files):
        try:
            state = checkpoint.read_ours(file)
            if (
                not isinstance(state, dict)
                or f"model_steps_{state.get('step')}.pt" != file.name
                or not state.get("optimizer", state["step"] == total_steps)
            ):
                raise UserError(f"{file} holds no state to go on from")
            return state | {"file": str(file)}
        except UserError as error:
            say(str(error))
    if files:
        raise UserError(f"no checkpoint in {folder} is whole; remove them to start again")
    return None


# ------------------------------------------------------------------------------------------ metrics


def open_metrics(file: Path, step: int, due: bool) -> TextIO:
    """Open metrics.jsonl to write on, without what a run that was cut short wrote after its
    checkpoint of step `step`; nor, if evaluating is still `due` then, what it wrote of that.

    A last line that is damaged, by a power cut say, is dropped too, and reported; a damaged one
    further up is a UserError.
    """
    content = file.read_bytes() if file.is_file() else b""
    lines = content.decode("utf-8", "replace").splitlines(keepends=True)
    with whole_file(file) as f:
        for number, line in enumerate(lines, start=1):
            values = metrics_of(line)
            if values is None and number < len(lines):
                raise UserError(
                    f"{file}, line {number}: {show(line.strip())} is no line of metrics; remove it"
                )
            if values is None:
                say(f"{file}: its last line was not written whole and is removed")
            elif values["step"] < step or (
                values["step"] == step and not (due and "loss" not in values)
            ):
                f.write(line.encode())
    return open(file, "a", encoding="utf-8")


def write_line(file: TextIO, values: dict[str, float]) -> None:
    """A line of metrics, at once. An OSError names the file."""
    try:
        file.write(json.dumps(values) + "\n")
        file.flush()
    except OSError as error:
        name_file(error, file.name)
        raise


def read_checks(file: Path) -> dict[int, dict[str, float]]:
    """What each evaluation of a run gave, by its step."""
    lines = [metrics_of(line) for line in file.read_text().splitlines(keepends=True)]
    return {
        line["step"]: {
            name.removeprefix("eval_"): value
            for name, value in line.items()
            if name.startswith("eval_")
        }
        for line in lines
        if line and "eval_loss" in line
    }


def metrics_of(line: str) -> dict[str, Any] | None:
    """The values of a line of metrics.jsonl; None where it is none."""
    try:
        values = json.loads(line) if line.endswith("\n") else None
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) and type(values.get("step")) is int else None

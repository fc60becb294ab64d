"""A run's folder: whose it is, its checkpoints, written while training goes on, its metrics.

    claim("runs/mrpc", settings)                                # or UserError: it belongs to another run
    writer = Writer(); writer.write(file, state, keep); ...; writer.wait()
"""
import concurrent.futures
import hashlib
import json
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import nn

import checkpoint
import distributed
from utils import UserError, rank, read_json, whole_file, write_json

# Settings that may differ when a run goes on: they change what is written, not what is computed.
FREE = {"save_steps", "save_minutes", "log_steps", "keep_checkpoints"}


def check_free(save_dir: str | Path) -> None:
    """UserError if a folder holds a model that is no run's."""
    names = ("config.json", "bert_config.json", "vocab.txt", "task.json", "model.safetensors", "pytorch_model.bin")
    taken = [name for name in names if (Path(save_dir) / name).exists()] + checkpoint.saved(save_dir)
    if taken and not (Path(save_dir) / "run.json").is_file():
        raise UserError(f"{save_dir} holds a model already ({taken[0]}) and no run.json; name another --save_dir")


def claim(save_dir: str | Path, settings: dict[str, Any]) -> None:
    """Make a folder this run's own: write its settings, or compare them with those of the run that is there.

    UserError names every setting that differs, so that no run goes on with another one's checkpoints; and every one that
    some process has other than the first.
    """
    distributed.check_same("settings", settings)
    if rank():
        return
    file = Path(save_dir) / "run.json"
    if file.is_file():
        theirs = read_json(file)
        different = [f"{name} was {theirs.get(name)!r}, now {settings.get(name)!r}" for name in sorted(theirs | settings)
                     if name not in FREE and theirs.get(name) != settings.get(name)]
        if different:
            raise UserError(f"{save_dir} belongs to another run ({'; '.join(different)}); name another --save_dir, "
                            f"or remove it")
    else:
        check_free(save_dir)
    write_json(file, settings)


def weights_digest(model: nn.Module) -> str:
    """A digest of a model's parameters."""
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(distributed.whole(tensor).cpu().contiguous().numpy().data)
    return digest.hexdigest()


# --------------------------------------------------------------------------------------------------- checkpoints

def snapshot(value: Any) -> Any:
    """A copy of a state in the memory of the first process's CPU, sharded tensors whole; all processes have to ask."""
    if isinstance(value, torch.Tensor):
        tensor = distributed.whole(value.detach())
        return tensor.to("cpu", copy=True) if rank() == 0 else None
    if isinstance(value, dict):
        return {key: snapshot(item) for key, item in value.items()}
    return [snapshot(item) for item in value] if isinstance(value, list) else value


class Writer:
    """Writes checkpoints in a thread of its own, one at a time; what goes wrong there comes out of the next call."""

    def __init__(self) -> None:
        self.thread = concurrent.futures.ThreadPoolExecutor(1)
        self.written: concurrent.futures.Future | None = None

    def write(self, file: Path, state: dict[str, Any], keep: int, best: Path) -> None:
        """Write a state that nobody changes any more; then keep only so many files up to this one, and the best. 0: all."""
        self.wait()

        def work() -> None:
            checkpoint.write_ours(file, state)
            files = checkpoint.saved(file.parent)               # later ones than this are damaged: see newest()
            for old in files[:1 + files.index(file)][:-keep] if keep else []:
                if old != best:
                    old.unlink()

        self.written = self.thread.submit(work)

    def wait(self) -> None:
        """Until all is on the disk."""
        if self.written:
            written, self.written = self.written, None
            written.result()


def newest(folder: Path, total_steps: int) -> dict[str, Any] | None:
    """The state of the newest checkpoint that is whole, or None where there is none; a damaged one is named and passed
    over."""
    for part in folder.glob(".model_steps_*.pt.part"):
        print(f"{part} was not written to its end and is removed", flush=True)
        part.unlink()
    files = checkpoint.saved(folder)
    for file in reversed(files):
        try:
            state = checkpoint.read_ours(file)
            if not isinstance(state, dict) or f"model_steps_{state.get('step')}.pt" != file.name \
                    or not state.get("optimizer", state["step"] == total_steps):
                raise UserError(f"{file} holds no state to go on from")
            return state | {"file": str(file)}
        except UserError as error:
            print(f"{error}", flush=True)
    if files:
        raise UserError(f"no checkpoint in {folder} is whole; remove them to start again")
    return None


# ------------------------------------------------------------------------------------------------------- metrics

def open_metrics(file: Path, step: int, due: bool) -> TextIO:
    """Open metrics.jsonl to write on, without what a run that was cut short wrote after its checkpoint of step `step`; nor,
    if evaluating is still `due` then, what it wrote of that."""
    lines = file.read_text().splitlines(keepends=True) if file.is_file() else []
    with whole_file(file) as f:
        for line in lines:
            if line.endswith("\n") and ((values := json.loads(line))["step"] < step or (
                    values["step"] == step and not (due and "loss" not in values))):
                f.write(line.encode())
    return open(file, "a", encoding="utf-8")

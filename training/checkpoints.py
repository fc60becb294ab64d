"""The checkpoints of a run: what training resumes from, written in a thread.

checkpoints = Checkpoints("runs/mrpc", model, optimizer, {"config": {...}}, keep=3)
checkpoints.resume(state, total_steps)  # from the newest that is whole, if there is one
checkpoints.save(state, finished=False)  # while training continues
"""

import concurrent.futures
import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn

from formats.weights import checkpoints_in, read_pt, write_pt
from system import distributed
from utils import UserError, log, nearest, rank

# What of a checkpoint only resuming needs: two thirds of its size.
RESUMING = ("optimizer", "sums", "due")


@dataclasses.dataclass
class TrainState:
    """What training resumes from, beside the model and the optimizer."""

    step: int = 0  # updates made
    # Whether the evaluation and the checkpoint that follow the last update are still to be done.
    evaluation_pending: bool = False
    # The metric, value and step of the best evaluation, and how many evaluations came `since`.
    best: dict[str, Any] = dataclasses.field(default_factory=dict)
    # Sums of the metrics since the epoch began and since the last line of the log; "steps" counts.
    sums: dict[str, dict[str, Any]] = dataclasses.field(
        default_factory=lambda: {"epoch": {}, "log": {}}
    )

    def add(self, metrics: dict[str, Any]) -> None:
        """Add the metrics of an update to the sums."""
        # Values stay tensors on the GPU: reading one after each update would make the CPU wait.
        for sums in self.sums.values():
            for name, value in {"steps": 1, **metrics}.items():
                sums[name] = sums.get(name, 0) + value

    def means(self, interval: str) -> dict[str, float]:
        """The means of an interval's metrics."""
        sums = self.sums[interval]
        return {name: float(sums[name]) / sums["steps"] for name in sums if name != "steps"}

    def add_evaluation(self, values: dict[str, float], metric: str | None) -> None:
        """Compare an evaluation with the best so far, by a metric; None: the first one."""
        # The first metric of a task is the one it is usually judged by.
        metric = metric or next(iter(values))
        if metric not in values:
            raise UserError(
                f"stop_metric={metric!r}{nearest(metric, values)}; expected one of "
                f"{', '.join(values)}"
            )
        value = float(values[metric])
        sign = direction(metric)
        if not self.best or sign * value > sign * self.best["value"]:
            self.best = {"metric": metric, "value": value, "step": self.step, "since": 0}
        else:
            self.best["since"] += 1


def direction(metric: str) -> int:
    """Whether a metric rises as a model gets better, 1, or falls, -1, as losses and errors do."""
    return -1 if metric.endswith(("loss", "MAE", "RMSE")) else 1


class Checkpoints:
    """The model_steps_N.pt of a run.

    Args:
        folder: of the run.
        model: whose parameters they hold.
        optimizer: whose moments they hold until the run is finished.
        contents: stored in each: `config`, the model's configuration as a dict.
        keep: how many of the newest to keep beside the best; 0: all.
    """

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        contents: dict[str, Any],
        keep: int,
    ):
        self.folder, self.model, self.optimizer = folder, model, optimizer
        self.contents, self.keep = contents, keep
        self.thread = concurrent.futures.ThreadPoolExecutor(1)
        self.written: concurrent.futures.Future | None = None

    def file(self, step: int) -> Path:
        """The checkpoint of a step."""
        return self.folder / f"model_steps_{step}.pt"

    def best(self, state: TrainState) -> Path:
        """The checkpoint of the best evaluation; the newest one where there was none."""
        return self.file(state.best.get("step", state.step))

    def save(self, state: TrainState, finished: bool) -> None:
        """Begin to write a checkpoint; drop the oldest. That of a finished run has the model alone.

        All processes have to call this; the first one writes, in a thread. An error there is raised
        by the next call, or by wait().
        """
        saved: dict[str, Any] = {"step": state.step, **self.contents}
        saved |= {"model": dict(self.model.state_dict()), "best": state.best}
        # Adam's moments take twice the space of the model, and a finished run needs them no more.
        if not finished:
            sums = {
                interval: {name: float(value) for name, value in values.items()}
                for interval, values in state.sums.items()
            }
            saved |= {"optimizer": self.optimizer.state_dict(), "sums": sums}
            saved["due"] = state.evaluation_pending

        copied = self.copy(saved)
        if rank() == 0:
            # One at a time; and an error comes out here.
            self.wait()
            files = self.file(state.step), self.best(state)
            self.written = self.thread.submit(self.write, *copied, *files)

    def copy(self, saved: dict[str, Any]) -> tuple[Any, torch.cuda.Event | None]:
        """A copy of a state, since the next update changes it in place; when it is ready."""

        # Where there is room, on the device, which takes no time; the thread moves it to the CPU.
        def on_device(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.detach().clone()

        # Sharded tensors are put together, one at a time: the GPU has no room for all of them.
        def on_cpu(tensor: torch.Tensor) -> torch.Tensor | None:
            whole = distributed.whole(tensor.detach())
            return whole.to("cpu", copy=True) if rank() == 0 else None

        first = next(self.model.parameters())
        n_bytes = 3 * sum(p.nbytes for p in self.model.parameters())
        alone = first.is_cuda and distributed.local(first) is first and rank() == 0
        if alone and has_room(first.device, n_bytes):
            with contextlib.suppress(torch.OutOfMemoryError):
                copied = distributed.map_tensors(saved, on_device)
                ready = torch.cuda.Event()
                ready.record(torch.cuda.current_stream(first.device))
                return copied, ready
        return distributed.map_tensors(saved, on_cpu), None

    @property
    def is_writing(self) -> bool:
        """Whether the checkpoint before is still being written."""
        return self.written is not None and not self.written.done()

    def write(
        self, saved: dict[str, Any], ready: torch.cuda.Event | None, file: Path, best: Path
    ) -> None:
        """Write a checkpoint; then drop all but the newest, and the best however old it is."""
        if ready:
            saved = from_gpu(saved, ready)
        write_pt(file, saved)
        files = checkpoints_in(self.folder)
        # Files of later steps are damaged: newest_state() has passed over them.
        older = files[: 1 + files.index(file)]
        for old in older[: -self.keep] if self.keep else []:
            # Windows removes none that is read just now; the next call tries again.
            if old != best:
                with contextlib.suppress(PermissionError):
                    old.unlink()

    def wait(self) -> None:
        """Until everything is on the disk."""
        if self.written:
            # Forgotten before it is asked, or an error would be raised again by every later call.
            written, self.written = self.written, None
            written.result()

    def shrink_best(self, state: TrainState) -> None:
        """At the end of a run, leave of its best checkpoint the model; the last one ends it."""
        best = self.best(state)
        if rank() == 0 and best != self.file(state.step) and best.is_file():
            drop_optimizer(best)

    def resume(self, state: TrainState, total_steps: int) -> None:
        """Take the state of the newest whole checkpoint, which the first process reads."""
        # One process reads: a shared disk would deliver the same file to each of them.
        found = newest_state(self.folder, total_steps) if rank() == 0 else None
        saved = distributed.from_first(found)
        if saved is None:
            return
        # The file is whole, but may be of another model or program: restore() raises any of these.
        try:
            self.restore(state, saved)
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            reason = str(error).split("\n")[0]
            raise UserError(
                f"{saved['file']} does not fit this run ({reason}); remove it, or name another "
                "`save_dir`"
            ) from None
        if "optimizer" in saved:
            log(f"Resuming from {saved['file']}")

    def restore(self, state: TrainState, saved: dict[str, Any]) -> None:
        """Take over what a checkpoint holds; one of Python's errors where it does not fit."""
        own = self.model.state_dict()
        like = distributed.sharded_like
        weights = {name: like(tensor, own.get(name)) for name, tensor in saved["model"].items()}
        self.model.load_state_dict(weights)
        state.step = int(saved["step"])
        state.evaluation_pending = bool(saved.get("due", False))
        if best := saved.get("best", {}):
            state.best = {
                "metric": str(best["metric"]),
                "value": float(best["value"]),
                "step": int(best["step"]),
                "since": int(best["since"]),
            }
        # The checkpoint of a finished run has the model alone.
        if "optimizer" not in saved:
            return
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        moments = saved["optimizer"]["state"]
        # "step" is a number; the moments have the parameter's shape, and are divided as it is.
        for i, values in moments.items():
            for name in values.keys() - {"step"}:
                values[name] = like(values[name], parameters[i])
        self.optimizer.load_state_dict(saved["optimizer"])
        state.sums = {interval: dict(saved["sums"][interval]) for interval in state.sums}


def has_room(device: torch.device, n_bytes: int) -> bool:
    """Whether a GPU can keep so much beside what training takes at its most."""
    free, total = torch.cuda.mem_get_info(device)
    others = total - free - torch.cuda.memory_reserved(device)
    return torch.cuda.max_memory_allocated(device) + n_bytes < 0.9 * total - others


def from_gpu(saved: dict[str, Any], ready: torch.cuda.Event) -> dict[str, Any]:
    """A state on the CPU, copied while training goes on: on a stream of its own, when it is ready.

    Through pinned memory, from which alone a copy does not hold up the GPU.
    """
    pinned = torch.empty(0, dtype=torch.uint8)
    stream = torch.cuda.Stream(ready.device)
    stream.wait_event(ready)

    def move(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal pinned
        if not tensor.is_cuda:
            return tensor
        if pinned.nbytes < tensor.nbytes:
            pinned = torch.empty(tensor.nbytes, dtype=torch.uint8, pin_memory=True)
        part = pinned[: tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        part.copy_(tensor, non_blocking=True)
        stream.synchronize()
        return part.clone()

    with torch.cuda.stream(stream):
        return distributed.map_tensors(saved, move)


def drop_optimizer(file: Path) -> None:
    """Leave of a checkpoint what the last one of a run has: the model alone.

    A file that cannot be read or written stays as it is: a finished run needs the model alone.
    """
    # A full disk is no reason to fail after training: the file before is whole.
    with contextlib.suppress(OSError, UserError):
        state = read_pt(file)
        if state and "optimizer" in state:
            write_pt(file, {name: state[name] for name in state if name not in RESUMING})


def newest_state(folder: Path, total_steps: int) -> dict[str, Any] | None:
    """The state in the newest whole checkpoint; None where there is none. Reports damaged ones."""
    # A process that was killed while writing leaves a part that no other one needs.
    for part in folder.glob(".model_steps_*.pt.*part"):
        log(f"{part} was not written to its end and is removed")
        part.unlink()
    files = checkpoints_in(folder)
    for file in reversed(files):
        try:
            return read_state(file, total_steps) | {"file": str(file)}
        except UserError as error:
            log(str(error))
    # Starting anew without a word would overwrite what may still be mended.
    if files:
        raise UserError(f"no checkpoint in {folder} is whole; remove them to start again")
    return None


def read_state(file: Path, total_steps: int) -> dict[str, Any]:
    """The state in a checkpoint; UserError where training cannot resume from it."""
    state = read_pt(file)
    # The name has to be that of the step inside: files are copied and renamed by hand.
    if not isinstance(state, dict) or file.name != f"model_steps_{state.get('step')}.pt":
        raise UserError(f"{file} holds no state to resume from")
    # The last checkpoint of a run holds the model alone.
    if not state.get("optimizer") and state["step"] != total_steps:
        raise UserError(f"{file} holds no state to resume from")
    return state

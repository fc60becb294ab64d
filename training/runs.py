"""A run's folder: whose it is, and its metrics.

with run_lock("runs/mrpc", settings):  # UserError where it is another run's, or in use
    log.write({"step": 10, "loss": 0.6})
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from torch import nn

from formats.weights import checkpoints_in
from system import distributed
from system.files import check_model_files, named, read_json, whole_file, write_json
from system.locks import locked
from training.checkpoints import direction
from utils import UserError, json_text, log, rank, short, show

# Settings that may differ when a run is resumed: they change what is written, not what is computed.
# Of weights by name the digest is compared, not the name.
FREE = {"save_steps", "save_minutes", "log_steps", "keep_checkpoints", "weights", "device"}
FREE |= {"cuda_graphs", "float32 products"}

# Settings that earlier versions did not record: whatever they were, a run of theirs is resumed.
RECORDED_LATER = {
    "sha256 of eval_file",
    "sha256 of few shots",
    "pair rules",
    "tokenizer rules",
    "masked_lm head",
}

# Settings that earlier versions did not record where they had one of these values.
USUAL: dict[str, tuple] = {
    "text_a": ("text", "sentence"),
    "label": ("label",),
    "freeze_encoder": (False,),
    "boost": (False,),
    "reinit_layers": (0,),
    "head_steps": (0,),
    "attention": ("sdpa",),
    "cuda_graphs": (False,),
    "metrics": (["Accuracy"],),
}

# Any of these tells that somebody keeps a model here, which a run would mix with its own.
TAKEN = (
    "config.json",
    "bert_config.json",
    "vocab.txt",
    "task.json",
    "model.safetensors",
    "pytorch_model.bin",
)


# ---------------------------------------------------------------------------------------- ownership


def check_unused(save_dir: str | Path) -> None:
    """UserError if a folder holds a model that is no run's."""
    folder = Path(save_dir)
    taken = [name for name in TAKEN if (folder / name).exists()]
    taken += [str(file) for file in checkpoints_in(folder)]
    if taken and not (folder / "run.json").is_file():
        raise UserError(
            f"{save_dir} holds a model already ({taken[0]}) and no run.json; name another "
            "`save_dir`"
        )


@contextlib.contextmanager
def run_lock(save_dir: str | Path, settings: dict[str, Any]) -> Iterator[None]:
    """Within it, a folder is this run's own: no other process can train there.

    UserError names every setting that differs from those of the run in the folder, so that no run
    resumes from another one's checkpoints; every setting that differs between processes; and the
    process that trains there already.
    """
    distributed.check_same("settings", settings)
    # The first process holds the folder for all of them.
    if rank():
        yield
        return
    # A mistake writes nothing, not even the lock.
    check_own(save_dir, settings)
    with locked(Path(save_dir) / ".lock", wait=False):
        # Another run may have begun in between.
        check_own(save_dir, settings)
        write_json(Path(save_dir) / "run.json", settings)
        yield


def check_own(save_dir: str | Path, settings: dict[str, Any]) -> None:
    """UserError where a folder belongs to a run with other settings, or holds a model."""
    check_model_files(Path(save_dir))
    file = Path(save_dir) / "run.json"
    if not file.is_file():
        check_unused(save_dir)
        return
    theirs = read_json(file)
    compared = (theirs.keys() | settings.keys()) - FREE - (RECORDED_LATER - theirs.keys())
    for name, usual in USUAL.items():
        # A setting that is missing because it was the usual one is no difference.
        if name not in theirs and settings.get(name) in usual:
            compared -= {name}
    different = [
        f"{short(name)} was {show(theirs.get(name), 40)}, now {show(settings.get(name), 40)}"
        for name in sorted(compared)
        if theirs.get(name) != settings.get(name)
    ]
    if different:
        more = f" and {len(different) - 3} more" if len(different) > 3 else ""
        raise UserError(
            f"{save_dir} belongs to another run ({'; '.join(different[:3])}{more}); name another "
            "`save_dir`, or remove it"
        )


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of a model's parameters."""
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        # Bytes in the order of the state dict, so equal weights have equal digests on any device.
        digest.update(distributed.whole(tensor).cpu().contiguous().numpy().data)
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------ metrics


class MetricsLog:
    """metrics.jsonl, times.jsonl and TensorBoard's curves; the first process alone writes.

    Args:
        folder: of the run.
        step: at which it is; what was written after that is dropped.
        evaluation_pending: whether what an evaluation at this step wrote is dropped too.
        log_dir: folder for TensorBoard; None: no curves. Their groups are train, eval and speed.
        settings: of the run, which TensorBoard shows as a text.
    """

    def __init__(
        self,
        folder: Path,
        step: int,
        evaluation_pending: bool,
        log_dir: str | Path | None,
        settings: dict[str, Any],
    ):
        self.metrics: TextIO | None = None
        self.times: TextIO | None = None
        self.curves: Any = None
        self.started = time.perf_counter()
        # Tokens seen since a time, for the rate in TensorBoard.
        self.tokens: Any = 0
        self.since = self.started
        if rank():
            return
        self.metrics = open_metrics(folder / "metrics.jsonl", step, evaluation_pending)
        self.times = open_metrics(folder / "times.jsonl", step, evaluation_pending)
        if log_dir:
            # TensorBoard is optional, and so is its package.
            from tensorboardX import SummaryWriter

            # Points after this step are hidden: the run computes them again.
            self.curves = SummaryWriter(str(log_dir), purge_step=step + 1)
            rows = "".join(f"| {name} | {value} |\n" for name, value in settings.items())
            self.curves.add_text("configuration", f"| setting | value |\n|---|---|\n{rows}", step)

    def write(self, values: dict[str, float]) -> None:
        """A line of metrics, with its `step`, and a point of every curve.

        Seconds and rates, which are never the same again, are not in metrics.jsonl: the same run
        writes the same bytes there.
        """
        if not self.metrics or not self.times:
            return
        step, now = int(values["step"]), time.perf_counter()
        write_line(self.metrics, values)
        # Times differ from run to run, so that they are kept out of metrics.jsonl.
        write_line(self.times, {"step": step, "seconds": round(now - self.started, 3)})
        if not self.curves:
            return
        for name, value in values.items():
            # The curves of step and epoch would be straight lines.
            if name not in ("step", "epoch"):
                group = "eval" if name.startswith("eval_") else "train"
                self.curves.add_scalar(f"{group}/{name.removeprefix('eval_')}", value, step)
        # Asking for the number makes the CPU wait for a GPU, as a line of metrics does anyway.
        if tokens := float(self.tokens):
            self.curves.add_scalar("speed/tokens_per_second", tokens / (now - self.since), step)
            self.tokens, self.since = 0, now

    def sync(self) -> None:
        """Put metrics.jsonl on the disk."""
        if self.metrics:
            os.fsync(self.metrics.fileno())

    def close(self) -> None:
        """Close all files."""
        for file in (self.metrics, self.times, self.curves):
            if file:
                file.close()


def open_metrics(file: Path, step: int, evaluation_pending: bool) -> TextIO:
    """Open a file of metrics to append to, without the lines after a step.

    They are of a run that was cut short after its checkpoint of that step; if an evaluation was
    pending then, its lines go too. A damaged last line, by a power cut say, is dropped and
    reported; a damaged one further up is a UserError.
    """
    content = file.read_bytes() if file.is_file() else b""
    # Damaged bytes are replaced, and then found to be no JSON.
    lines = content.decode("utf-8", "replace").splitlines(keepends=True)
    # The file is written anew without what is dropped; a crash here leaves the old one.
    with whole_file(file) as f:
        for number, line in enumerate(lines, start=1):
            values = parse_metrics(line)
            if values is None:
                if number < len(lines):
                    raise UserError(
                        f"{file}, line {number}: {show(line.strip())} is no line of metrics; "
                        "remove it"
                    )
                log(f"{file}: its last line was not written whole and is removed")
                continue
            # A line of training has a loss; others have eval_loss or a few-shot accuracy.
            dropped = evaluation_pending and "loss" not in values
            if values["step"] < step or (values["step"] == step and not dropped):
                f.write(line.encode())
    # Windows would write "\r\n", and the same run has to write the same bytes.
    return open(file, "a", encoding="utf-8", newline="\n")


def write_line(file: TextIO, values: dict[str, float]) -> None:
    """Write a line of metrics and flush it. An OSError names the file."""
    line = json_text(values, file.name)
    with named(file.name):
        file.write(f"{line}\n")
        file.flush()


def read_evaluations(file: Path) -> dict[int, dict[str, float]]:
    """The metrics of each evaluation of a run, by its step."""
    found = {}
    for line in file.read_text("utf-8").splitlines(keepends=True):
        values = parse_metrics(line) or {}
        # Their prefix tells evaluations from the means of training.
        names = [name for name in values if name.startswith("eval_")]
        if names:
            found[values["step"]] = {name.removeprefix("eval_"): values[name] for name in names}
    return found


def found_in(folder: Path) -> list[dict[str, Any]]:
    """What each run in a folder, or in its folders, is: its settings, its best evaluation, when.

    The best is by the first metric, as it is logged.
    """
    found = []
    for file in sorted(folder.rglob("run.json")):
        metrics = file.parent / "metrics.jsonl"
        evaluations = read_evaluations(metrics) if metrics.is_file() else {}
        row: dict[str, Any] = {"folder": file.parent, "settings": read_json(file), "best": None}
        row["time"] = (metrics if metrics.is_file() else file).stat().st_mtime
        if evaluations:
            name = next(iter(next(iter(evaluations.values()))))
            values = [values[name] for values in evaluations.values() if name in values]
            row["best"] = (name, max(values, key=lambda value: direction(name) * value))
        found.append(row)
    return found


def parse_metrics(line: str) -> dict[str, Any] | None:
    """The values of a line of metrics.jsonl; None where it is none."""
    # A line that was cut short has no end.
    if not line.endswith("\n"):
        return None
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) and type(values.get("step")) is int else None

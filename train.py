"""The training loop. It knows no task: a command hands it a model, batches, an optimizer and a
closure for the loss.

    trainer = Trainer(Config(), model, batches, "runs/mrpc")
    trainer.train(lambda model, batch: (F.cross_entropy(model(*batch[:3]), batch[3]), {}))
    scores = trainer.evaluate(lambda model, batch: model(*batch[:3]), eval_batches)

A run is one state. What step n does follows from the state before it and from (seed, n): its batch,
and every random number drawn in it. A checkpoint holds that state, so a run that was killed and
started again goes on bit for bit.

Started by torchrun, every process takes its rows of each batch, and the gradients are averaged: the
same run, but for rounding and for which elements dropout drops.
"""

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

import checkpoint
import distributed
from optim import SCHEDULES, BertAdam, parameter_groups
from runs import Writer, newest, open_metrics, snapshot, write_line
from utils import (
    Interrupted,
    Signals,
    UserError,
    nearest,
    rank,
    read_config,
    refuse,
    say,
    show,
    size,
)

Batch = tuple[Tensor, ...]
Check = Callable[[], dict[str, float]]
GetLoss = Callable[[nn.Module, Batch], tuple[Tensor, dict[str, Tensor]]]


@dataclasses.dataclass(frozen=True)
class Config:
    """How to train. Unless total_steps is given, n_epochs of the data are the length of the run."""

    seed: int = 42  # of initial weights, order and dropout
    batch_size: int = 32  # examples of an update, all devices and accumulation together
    lr: float = 2e-5  # learning rate at its highest
    n_epochs: int = 3  # how often every example is seen
    warmup: float = 0.1  # share of the steps in which the rate rises
    save_steps: int = 100  # updates between checkpoints
    save_minutes: float | None = (
        None  # minutes between checkpoints, beside save_steps; None: save_steps alone
    )
    total_steps: int | None = None  # updates in all; None: n_epochs times the batches of an epoch
    dtype: str = "fp32"  # of matrix products: fp32 or bf16 (parameters stay float32)
    gradient_accumulation: int = 1  # parts that a batch is computed in, to save memory
    schedule: str = "warmup_linear"  # of the learning rate: see optim.SCHEDULES
    weight_decay: float = 0.01  # per update and unit of rate; none on biases and LayerNorm
    max_grad_norm: float = 1.0  # longer gradients are shortened to this
    bias_correction: bool = False  # Adam's, which BERT leaves out
    log_steps: int = 10  # updates between lines of metrics.jsonl
    keep_checkpoints: int = (
        3  # how many model_steps_N.pt to keep, the newest, beside the best; 0: all
    )
    compile: bool = False  # torch.compile the model (needs a C++ compiler)
    checkpointing: bool = (
        False  # keep fewer activations and compute them again: less memory, a third more work
    )
    head_lr: float | None = None  # learning rate of what lies above the encoder; None: lr
    layer_decay: float = 1.0  # each block learns at this times the rate of the block above it
    patience: int | None = (
        None  # checks without a better stop_metric after which to stop; None: never
    )
    stop_metric: str | None = (
        None  # what the best checkpoint is chosen by; None: the first metric of a check
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and not abs(value) < 2**63:  # also a NaN is not less
                raise UserError(
                    f"{field.name}={show(value)}; expected a finite number of at most 2**63 - 1"
                )
        for name in ("batch_size", "n_epochs", "save_steps", "gradient_accumulation", "log_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}; expected at least 1")
        if self.total_steps is not None and self.total_steps < 1:
            raise UserError(
                f"total_steps={self.total_steps}; expected at least 1, or null to follow from "
                "n_epochs"
            )
        if not 0 <= self.warmup <= 1:
            raise UserError(f"warmup={self.warmup}; expected a share of the steps, 0 to 1")
        if not self.max_grad_norm > 0:
            raise UserError(
                f"max_grad_norm={self.max_grad_norm}; expected more than 0 (a large number: no "
                "clipping)"
            )
        if self.patience is not None and self.patience < 1:
            raise UserError(
                f"patience={self.patience}; expected at least 1, or null to train to the end"
            )
        if not 0 < self.layer_decay <= 1:
            raise UserError(f"layer_decay={self.layer_decay}; expected more than 0 and at most 1")
        if self.save_minutes is not None and not self.save_minutes > 0:
            raise UserError(f"save_minutes={self.save_minutes}; expected more than 0, or null")
        for name in ("lr", "weight_decay", "keep_checkpoints", "seed", "head_lr"):
            if (value := getattr(self, name)) is not None and not value >= 0:
                raise UserError(f"{name}={getattr(self, name)}; expected 0 or more")
        if self.dtype not in ("fp32", "bf16"):
            raise UserError(f"dtype={show(self.dtype)}; expected fp32 or bf16")
        if self.schedule not in SCHEDULES:
            hint = nearest(self.schedule, SCHEDULES)
            raise UserError(
                f"schedule={show(self.schedule)}{hint}; expected one of {', '.join(SCHEDULES)}"
            )
        if self.gradient_accumulation > self.batch_size:
            raise UserError(
                f"gradient_accumulation={self.gradient_accumulation} is more than "
                f"batch_size={self.batch_size}"
            )

    @classmethod
    def from_json(cls, file: str | Path, **instead: Any) -> "Config":
        """Read a JSON file, some of its settings replaced; an unknown key is an error.

        An n_epochs that is given replaces the file's total_steps too, which would overrule it.
        """
        if instead.get("n_epochs") is not None:
            if instead.get("total_steps") is not None:
                raise UserError(
                    "n_epochs and total_steps both say how long to train; give one of them"
                )
            instead["total_steps"] = None
        return read_config(cls, file, **instead)


# The settings that evaluating and predicting heed.
EVALUATION = ("batch_size", "dtype", "compile")


def refuse_training_settings(mode: str, settings: dict[str, Any] | None) -> None:
    """UserError where a setting is given that only training heeds."""
    refuse(
        f"--mode {mode} has no use for",
        **{n: v for n, v in (settings or {}).items() if n not in EVALUATION},
    )


class Source(Protocol):
    """What the Trainer trains on: batch n of an endless run, the same whenever it is asked for."""

    def __len__(self) -> int: ...  # batches of the first epoch, and about as many of each
    def first(self, epoch: int) -> int: ...  # the number of an epoch's first batch
    def __getitem__(self, n: int) -> Batch: ...  # tensors whose first dimension is the example
    def part(
        self, n: int, first: int, step: int
    ) -> Batch: ...  # every step-th row of it, from the first on
    def rows(self, n: int) -> np.ndarray: ...  # which examples batch n has
    def describe(self, n: int) -> str: ...  # batch n in words


def get_device() -> torch.device:
    """The GPU if there is one, each process of a machine its own, else the CPU."""
    return (
        torch.device("cuda", distributed.local_rank() if size() > 1 else 0)
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


def device_name(device: torch.device, n_gpus: int = 1) -> str:
    """'cuda (8 GPUs)', 'cpu (2 cores)' or '4 processes, cpu (1 core) each'."""
    n, unit = (n_gpus, "GPU") if device.type == "cuda" else (torch.get_num_threads(), "core")
    one = f"{device.type} ({n} {unit}{'s' * (n != 1)})"
    if n_gpus > 1:
        one += f" by DataParallel; torchrun --nproc_per_node {n_gpus} is faster"
    return one if size() == 1 else f"{size()} processes, {one} each"


def seed_step(seed: int, step: int) -> None:
    """Start PyTorch's random generators for one step, as a function of the run's seed and the step."""
    first, *others = (
        np.random.SeedSequence([seed, step, rank()])
        .generate_state(max(1, torch.cuda.device_count()), np.uint64)
        .tolist()
    )
    torch.manual_seed(first)
    for i, state in enumerate(
        others if size() == 1 else [], start=1
    ):  # DataParallel's must not drop the same
        with torch.cuda.device(i):
            torch.cuda.manual_seed(state)


class Autocast(nn.Module):
    """A model whose matrix products are computed in another type; inside DataParallel, since its
    threads forget ours.
    """

    def __init__(self, model: Any, device: torch.device, dtype: str):
        super().__init__()
        self.model, self.device_type, self.enabled = model, device.type, dtype == "bf16"

    def forward(self, *inputs: Any, **more: Any) -> Any:
        """The model's own forward."""
        with torch.autocast(self.device_type, torch.bfloat16, enabled=self.enabled):
            return self.model(*inputs, **more)


class Trainer:
    """Trains a model on batches, in a folder that holds its checkpoints and metrics; evaluates it.

    Args:
        cfg: how to train.
        model: moved to `device`.
        batches: what to train on; None where only evaluate() is called.
        save_dir: gets model_steps_N.pt and metrics.jsonl; training goes on from what is there.
        contents: stored in every checkpoint beside the run's state: `config`, the model's
            configuration as a dict.
        data_parallel: use all visible GPUs, where torchrun has not started a process for each.
        log_dir: gets curves for TensorBoard.
        shard: divide parameters, gradients and the optimizer's state among the processes.
    """

    def __init__(
        self,
        cfg: Config,
        model: nn.Module,
        batches: Source | None = None,
        save_dir: str | Path = ".",
        contents: dict[str, Any] | None = None,
        device: torch.device | None = None,
        data_parallel: bool = True,
        log_dir: str | Path | None = None,
        shard: bool = False,
    ):
        self.cfg, self.batches, self.save_dir, self.log_dir = cfg, batches, Path(save_dir), log_dir
        self.device, self.contents = device or get_device(), contents or {}
        distributed.start()
        self.n_gpus = (
            torch.cuda.device_count()
            if self.device.type == "cuda" and data_parallel and size() == 1
            else 1
        )
        if cfg.compile and self.n_gpus > 1:
            raise UserError(
                f"compile=true works on one GPU, and {self.n_gpus} are visible; add "
                "--data_parallel False"
            )
        if shard and size() == 1:
            raise UserError(
                "--shard True divides a model among processes, and this is one; start several with "
                "torchrun"
            )
        self.model, self.shard = model, shard  # the parameters; parallel is what runs them
        if shard:
            distributed.shard(model, model.transformer.blocks, self.device.type)  # type: ignore[union-attr]
        model.to(self.device)
        self.parallel: nn.Module = Autocast(
            torch.compile(self.model, dynamic=True) if cfg.compile else self.model,
            self.device,
            cfg.dtype,
        )
        if self.n_gpus > 1:
            self.parallel = nn.DataParallel(self.parallel)
        for module in self.model.modules():
            if hasattr(module, "checkpointing"):
                module.checkpointing = cfg.checkpointing  # type: ignore[assignment]
        self.total_steps = cfg.total_steps or (batches.first(cfg.n_epochs) if batches else 0)
        self.step = 0  # updates made
        self.due = False  # what follows the last update is still to be done
        self.seen: Any = 0  # tokens, since the time below; for TensorBoard
        self.since = time.perf_counter()
        self.sums: dict[str, dict[str, Any]] = {
            "epoch": {},
            "log": {},
        }  # of metrics, since either began
        self.best: dict[
            str, Any
        ] = {}  # metric, value and step of the best check; checks since then
        self.signals: Signals | None = None  # while training: has a signal come?
        self.started = 0.0  # when training began here
        self.writer, self.saved = Writer(), time.monotonic()  # when a checkpoint was last begun

    # ------------------------------------------------------------------------------------- training

    def train(
        self,
        get_loss: GetLoss,
        check: Check | None = None,
        each_epoch: bool = False,
        probe: tuple[int, Check] | None = None,
    ) -> Path:
        """Train to total_steps, or on from the newest checkpoint in save_dir; returns the last
        checkpoint.

        get_loss(model, batch) returns the mean loss over the batch's examples and a dict of further
        such means, all scalar tensors; of one called "tokens" TensorBoard also gets the rate per
        second. check() is called before a checkpoint is written, or with `each_epoch` at the end of
        every epoch, which then writes one; what it returns becomes a line of metrics.jsonl, decides
        which checkpoint is the best (`self.best`; it is kept) and when patience is at its end.
        `probe`: a number of updates, and what is called every so many and logged likewise. A loss
        or gradient that is not finite ends the run before the update, with a UserError that names
        the step and the batch. SIGINT and SIGTERM save, and raise Interrupted.
        """
        assert self.batches is not None
        cfg = self.cfg
        distributed.check_same(
            "training",
            {
                **dataclasses.asdict(cfg),
                "total_steps": self.total_steps,
                "shard": self.shard,
                "evaluation": check is not None,
                "few shots": probe and probe[0],
            },
        )
        groups = parameter_groups(
            self.model, cfg.weight_decay, cfg.lr, cfg.head_lr, cfg.layer_decay
        )
        self.optimizer = BertAdam(
            groups,
            cfg.lr,
            self.total_steps,
            cfg.warmup,
            cfg.schedule,
            max_grad_norm=cfg.max_grad_norm,
            bias_correction=cfg.bias_correction,
        )
        self.resume()
        if not self.due and (self.step >= self.total_steps or self.stopped):
            say(
                f"{self.file} is there already, "
                + (
                    f"with all {self.total_steps} steps"
                    if not self.stopped
                    else f"stopped after {cfg.patience} checks without a better {self.best['metric']}"
                )
            )
            return self.file
        self.log_writer, self.since, self.saved = (
            self.open_logs(),
            time.perf_counter(),
            time.monotonic(),
        )
        self.started = time.perf_counter()
        self.parallel.train()
        with (
            Signals() as self.signals
        ):  # also while saving: what follows the first signal changes nothing
            try:
                self.run_steps(get_loss, check, each_epoch, probe)
                self.writer.wait()
                self.heed_signals()  # one that came late
            except Interrupted as interrupted:
                self.optimizer.zero_grad()
                self.save()
                self.writer.wait()
                raise Interrupted(
                    interrupted.number,
                    f"at step {self.step} of {self.total_steps}; the same command goes "
                    f"on from {self.file}",
                ) from None
            finally:
                self.signals = None
                self.writer.wait()
                with contextlib.suppress(
                    OSError
                ):  # closing writes once more what a full disk has refused
                    self.close_logs()
        if self.stopped:
            say(f"Stopped: {cfg.patience} checks without a better {self.best['metric']}")
        say(f"Saved {self.file}")
        return self.file

    def run_steps(
        self,
        get_loss: GetLoss,
        check: Check | None,
        each_epoch: bool,
        probe: tuple[int, Check] | None,
    ) -> None:
        """All updates that are left, and what follows each."""
        assert self.batches is not None
        replicas, epoch = self.replicate(get_loss), 0
        if self.due:
            self.settle(check, each_epoch, probe)
        while self.step < self.total_steps and not self.stopped:
            while (end := self.batches.first(epoch + 1)) <= self.step:
                epoch += 1
            start, end = self.batches.first(epoch), min(self.total_steps, end)
            if self.step == start:
                self.sums["epoch"] = {}
            with tqdm(
                total=end - start,
                initial=self.step - start,
                desc="Iter (loss=X.XXX)",
                disable=rank() > 0,
            ) as bar:
                while self.step < end and not self.stopped:
                    self.train_step(replicas, get_loss, bar)
                    if self.step < end:
                        self.settle(check, each_epoch, probe)
            if self.due:  # the epoch's last update; the bar is closed now
                self.settle(check, each_epoch, probe)

    @property
    def file(self) -> Path:
        """The checkpoint of the step the run is at."""
        return self.save_dir / f"model_steps_{self.step}.pt"

    @property
    def best_file(self) -> Path:
        """The checkpoint of the best check; the newest one where nothing was checked."""
        return self.save_dir / f"model_steps_{self.best.get('step', self.step)}.pt"

    @property
    def stopped(self) -> bool:
        """Whether patience is at its end."""
        return self.cfg.patience is not None and self.best.get("since", 0) >= self.cfg.patience

    def replicate(self, get_loss: GetLoss) -> nn.Module:
        """What is trained: with several processes, a model whose gradients are averaged over them."""
        if size() == 1:
            return self.parallel
        replicas = self.parallel
        if not self.shard:
            from torch.nn.parallel import DistributedDataParallel

            replicas = DistributedDataParallel(
                self.parallel,
                [self.device] if self.device.type == "cuda" else None,
                gradient_as_bucket_view=True,
            )
        # The first backward decides in which order gradients are added up from the second on, and
        # what memory parts are gathered in. With one row of it before all else, a run that goes on
        # does as one that was never stopped.
        assert self.batches is not None
        get_loss(replicas, self.to_device(self.batches.part(0, 0, len(self.batches.rows(0)))))[
            0
        ].backward()
        self.optimizer.zero_grad()
        return replicas

    def train_step(self, replicas: nn.Module, get_loss: GetLoss, bar: tqdm) -> None:
        """One update, and its metrics. Of several processes each computes its rows of the batch."""
        assert self.batches is not None
        cfg = self.cfg
        seed_step(cfg.seed, self.step)
        n, means = len(self.batches.rows(self.step)), dict[str, Tensor]()
        rows = len(range(rank(), n, size()))  # of them this process's
        batch = self.to_device(self.batches.part(self.step, rank() if rows else 0, size()))
        n_parts = min(cfg.gradient_accumulation, -(-n // size()))  # the same in every process
        for i, part in enumerate(
            zip(*(tensor.tensor_split(n_parts) for tensor in batch), strict=True)
        ):
            self.heed_signals()
            share = len(part[0]) / n if rows else 0.0  # of the batch's mean
            if len(part[0]) == 0:  # others have one row more
                part, share = tuple(tensor[:1] for tensor in batch), 0.0
            wait = i < n_parts - 1 and hasattr(replicas, "no_sync")
            with replicas.no_sync() if wait else contextlib.nullcontext():  # type: ignore[operator]
                loss, metrics = get_loss(replicas, part)
                (loss * (share * size())).backward()  # the processes' mean is taken
            for name, value in {"loss": loss, **metrics}.items():
                means[name] = means.get(name, 0) + value.detach() * share
        if size() > 1:
            means = dict(
                zip(means, distributed.total(torch.stack(list(means.values()))), strict=True)
            )
        lr = self.optimizer.lr
        norm = self.optimizer.step(loss=means["loss"])
        self.optimizer.zero_grad()
        self.step += 1
        self.due = True
        self.seen = self.seen + means.get("tokens", 0) * n
        for sums in self.sums.values():
            sums["steps"] = sums.get("steps", 0) + 1
            for name, value in {**means, "grad_norm": norm}.items():
                sums[name] = sums.get(name, 0) + value
        logging, saving = (
            self.step == self.total_steps or self.step % n == 0
            for n in (cfg.log_steps, cfg.save_steps)
        )
        if logging or saving or self.device.type == "cpu":  # reading a GPU's numbers makes it wait
            self.check_finite()
            bar.set_description(f"Iter (loss={float(means['loss']):5.3f})", refresh=False)
        bar.update()
        if logging:
            self.log({"step": self.step, "lr": lr, **self.mean("log")})
            self.sums["log"] = {}

    def settle(
        self, check: Check | None, each_epoch: bool, probe: tuple[int, Check] | None
    ) -> None:
        """What follows an update: the end of an epoch is told, few shots, an evaluation, a
        checkpoint, where one is due.
        """
        assert self.batches is not None
        cfg, epoch = self.cfg, 1
        while self.batches.first(epoch) < self.step:
            epoch += 1
        last = self.step == self.total_steps
        if ends := last or self.step == self.batches.first(epoch):
            n_epochs = (
                -(-self.total_steps // len(self.batches)) if cfg.total_steps else cfg.n_epochs
            )
            say(
                f"Epoch {epoch}/{max(n_epochs, epoch)} : Average Loss "
                f"{self.mean('epoch')['loss']:.3f}"
            )
        probing = probe is not None and self.step % probe[0] == 0
        saving = last or self.step % cfg.save_steps == 0 or (each_epoch and ends)
        checking = check is not None and saving and (ends or not each_epoch)
        lines = []
        if probing or checking:
            self.check_finite()
            with self.stoppable():
                if probing:
                    assert probe
                    lines.append(probe[1]())
                if checking:
                    assert check
                    values = check()
                    lines.append({f"eval_{name}": value for name, value in values.items()})
            if checking:
                self.note_best(values)
            for line in lines:
                self.log({"step": self.step, **line})
            self.parallel.train()
        self.due = False
        if saving or self.minutes_are_over():
            self.save()

    def heed_signals(self) -> None:
        """Interrupted if this process has got a signal to end, or another one has."""
        if self.signals and (number := distributed.any_of(self.signals.number)[0]):
            raise Interrupted(number)

    @contextlib.contextmanager
    def stoppable(self) -> Iterator[None]:
        """A signal interrupts what is done within, in a single process at once; the checkpoint then
        tells that it is still due.
        """
        self.heed_signals()
        if self.signals:
            self.signals.at_once = size() == 1
        try:
            yield
        finally:
            if self.signals:
                self.signals.at_once = False

    def minutes_are_over(self) -> bool:
        """Whether save_minutes have passed since the last checkpoint, by the first process's clock."""
        if self.cfg.save_minutes is None:
            return False
        over = time.monotonic() - self.saved > 60 * self.cfg.save_minutes
        return distributed.any_of(int(over and rank() == 0))[0] > 0

    def to_device(self, batch: Batch) -> Batch:
        """Move a batch's tensors."""
        return tuple(tensor.to(self.device, non_blocking=True) for tensor in batch)

    def check_finite(self) -> None:
        """UserError if an update was refused because the loss or a gradient was not finite."""
        if (failed := int(self.optimizer.failed_step)) >= 0:
            assert self.batches is not None
            self.writer.wait()
            kept = checkpoint.saved(self.save_dir)
            raise UserError(
                f"loss or gradient is not finite at step {failed + 1} "
                f"({self.batches.describe(failed)}); "
                f"stopped before that update; look at that data, lower lr or use fp32"
                + (f"; the last checkpoint is {kept[-1]}" if kept else "")
            )

    def mean(self, interval: str) -> dict[str, float]:
        """The means of an interval's metrics."""
        sums = self.sums[interval]
        return {
            name: float(value) / sums["steps"] for name, value in sums.items() if name != "steps"
        }

    # ----------------------------------------------------------------------------------- evaluation

    @torch.inference_mode()
    def evaluate(
        self, predict: Callable[[nn.Module, Batch], Tensor], batches: Source, bar: bool = True
    ) -> np.ndarray:
        """One pass over the data without dropout: predict(model, batch) gives a row an example,
        returned in data order.

        Several processes take turns, a batch each, and all return everything.
        """
        self.parallel.eval()
        rows, outputs = [], []
        for first in tqdm(
            range(0, len(batches), size()), desc="Iter", disable=not bar or rank() > 0
        ):
            if size() > 1:
                self.heed_signals()
            n = first + rank()
            output = predict(
                self.parallel, self.to_device(batches[min(n, len(batches) - 1)])
            )  # sharded, all have to
            if n < len(batches):
                outputs.append(output)
                rows.append(batches.rows(n))
        mine = (np.concatenate(rows), torch.cat(outputs).float().cpu().numpy()) if outputs else None
        order, values = (
            np.concatenate(both)
            for both in zip(*filter(None, distributed.gather(mine)), strict=True)
        )
        ordered = np.empty_like(values)
        ordered[order] = values
        return ordered

    # ----------------------------------------------------------------------------- files of the run

    def save(self) -> None:
        """Begin to write model_steps_N.pt: the whole state, or after the last step the model alone.
        Drop the oldest.
        """
        self.check_finite()
        if rank() == 0:
            os.fsync(self.metrics_file.fileno())  # a checkpoint's lines are on the disk before it
        state: dict[str, Any] = {
            "step": self.step,
            **self.contents,
            "model": dict(self.model.state_dict()),
            "best": self.best,
        }
        if self.step < self.total_steps or self.due:
            sums = {
                name: {k: float(v) for k, v in values.items()} for name, values in self.sums.items()
            }
            state |= {"optimizer": self.optimizer.state_dict(), "sums": sums, "due": self.due}
        state, self.saved = snapshot(state), time.monotonic()
        if rank() == 0:
            self.writer.write(
                self.file,
                state,
                self.cfg.keep_checkpoints,
                self.best_file if self.best else self.file,
            )

    def note_best(self, values: dict[str, float]) -> None:
        """Compare a check with the best so far."""
        metric = self.cfg.stop_metric or next(iter(values))
        if metric not in values:
            raise UserError(
                f"stop_metric={metric!r}{nearest(metric, values)}; expected one of "
                f"{', '.join(values)}"
            )
        sign = -1 if metric.endswith("loss") else 1
        if not self.best or sign * values[metric] > sign * self.best["value"]:
            self.best = {
                "metric": metric,
                "value": float(values[metric]),
                "step": self.step,
                "since": 0,
            }
        else:
            self.best["since"] += 1

    def resume(self) -> None:
        """Take up the state of the newest whole checkpoint, which the first process reads and hands
        on to the others.
        """
        state = distributed.from_first(
            newest(self.save_dir, self.total_steps) if rank() == 0 else None
        )
        if state is None:
            return
        try:
            own = self.model.state_dict()
            self.model.load_state_dict(
                {
                    name: distributed.sharded_like(tensor, own.get(name))
                    for name, tensor in state["model"].items()
                }
            )
            self.step, self.due, best = (
                int(state["step"]),
                bool(state.get("due", False)),
                state.get("best", {}),
            )
            self.best = best and {
                "metric": str(best["metric"]),
                "value": float(best["value"]),
                "step": int(best["step"]),
                "since": int(best["since"]),
            }
            if "optimizer" in state:
                parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
                state["optimizer"]["state"] = {
                    i: {
                        name: sharded
                        if name == "step"
                        else distributed.sharded_like(sharded, parameters[i])
                        for name, sharded in moments.items()
                    }
                    for i, moments in state["optimizer"]["state"].items()
                }
                self.optimizer.load_state_dict(state["optimizer"])
                self.sums = {name: dict(state["sums"][name]) for name in self.sums}
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = str(error).split("\n")[0]
            raise UserError(
                f"{state['file']} does not fit this run ({reason}); remove it, or name another "
                f"--save_dir"
            ) from None
        if "optimizer" in state:
            say(f"Going on from {state['file']}")

    def open_logs(self) -> Any:
        """Open metrics.jsonl and TensorBoard's files."""
        if rank():
            return None
        self.metrics_file = open_metrics(self.save_dir / "metrics.jsonl", self.step, self.due)
        self.times_file = open_metrics(self.save_dir / "times.jsonl", self.step, self.due)
        if not self.log_dir:
            return None
        from tensorboardX import SummaryWriter

        return SummaryWriter(str(self.log_dir), purge_step=self.step + 1)

    def close_logs(self) -> None:
        """Close what open_logs() has opened."""
        if rank() == 0:
            self.metrics_file.close()
            self.times_file.close()
        if self.log_writer:
            self.log_writer.close()

    def log(self, values: dict[str, float]) -> None:
        """A line of metrics.jsonl with the epoch, and a point of every curve. The seconds, which
        are never the same again, have a file of their own.
        """
        if rank():
            return
        assert self.batches is not None
        epoch = round(self.step / len(self.batches), 4)
        seconds = round(time.perf_counter() - self.started, 3)
        write_line(self.metrics_file, {"step": values["step"], "epoch": epoch, **values})
        write_line(self.times_file, {"step": values["step"], "seconds": seconds})
        if self.log_writer:
            for name, value in values.items():
                self.log_writer.add_scalar(name, value, values["step"])
            if seen := float(self.seen):  # not in metrics.jsonl, which is the same for the same run
                self.log_writer.add_scalar(
                    "tokens_per_second", seen / (time.perf_counter() - self.since), values["step"]
                )
                self.seen, self.since = 0, time.perf_counter()

"""The training loop: it knows no task and no model.

    trainer = Trainer(Config(), model, batches, "runs/mrpc")
    trainer.train(lambda model, batch: (F.cross_entropy(model(**batch.inputs), batch.labels), {}))
    scores = predict(model, eval_batches, trainer.device)

A run is one state. What step n does follows from the state before it and from (seed, n): its batch,
and every random number drawn in it. A checkpoint holds that state, so a run that was killed and
started again computes the same bits as one that was not.

Started by torchrun, every process takes its rows of each batch, and the gradients are averaged: the
same run, but for rounding and for which elements dropout drops.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from formats.weights import checkpoints_in
from optim import BertAdam, parameter_groups
from system import distributed
from system.files import read_settings
from system.progress import progress
from system.signals import Interrupted, Signals
from training import devices, inference
from training.batches import Batch, Batches, move, prefetch, prepare
from training.checkpoints import Checkpoints, TrainState
from training.graphs import StepGraphs, is_rounded, is_small, own_stream
from training.inference import Outputs
from training.runs import MetricsLog
from training.settings import Config
from training.whole import WholeLoss, backward_whole
from utils import UserError, log, rank, size

Metrics = Callable[[], dict[str, float]]
GetLoss = Callable[[nn.Module, Batch], tuple[Tensor, dict[str, Tensor]]]


def seed_step(seed: int, step: int) -> None:
    """Seed PyTorch's generators for one step, as a function of the run's seed and the step."""
    n_devices = torch.cuda.device_count()
    # SeedSequence mixes its numbers, so that neighbouring steps get unrelated random numbers. The
    # process is one of them: each drops other elements.
    sequence = np.random.SeedSequence([seed, step, rank()])
    states = sequence.generate_state(max(1, n_devices), np.uint64).tolist()
    # torch.manual_seed looks for devices of every kind, which takes 2 ms where there are none.
    torch.default_generator.manual_seed(states[0])
    if size() > 1 and n_devices:
        torch.cuda.manual_seed(states[0])
        return
    # The replicas of DataParallel must not drop the same elements.
    for i in range(n_devices):
        with torch.cuda.device(i):
            torch.cuda.manual_seed(states[i])


# ----------------------------------------------------------------------------------------- training


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What is measured while a model trains.

    What `metrics` returns becomes a line of metrics.jsonl, decides which checkpoint is the best,
    and when patience is exhausted.
    """

    metrics: Metrics | None = None  # called before a checkpoint is written
    each_epoch: bool = False  # True: at the end of every epoch, which writes a checkpoint
    probe: Metrics | None = None  # only logged
    probe_steps: int = 0  # updates between calls of probe


@dataclasses.dataclass(frozen=True)
class Due:
    """What follows an update, in this order."""

    log: bool  # a line of metrics
    epoch: int | None  # the one that ends with it, counted from 1
    probe: bool
    evaluate: bool
    save: bool


class Part(NamedTuple):
    """Some rows of a batch."""

    batch: Batch
    rows: range  # which they are; none: a row that counts nothing
    share: float  # of all rows


class MicroBatches(NamedTuple):
    """What an update computes on."""

    n_rows: int  # of the whole batch, in all processes
    parts: list[Part]  # of this process
    whole: Any  # what its batches say of all rows, for a WholeLoss


class Trainer:
    """Trains a model on batches, in a folder that gets its checkpoints and metrics.

    Args:
        model: moved to `device`.
        save_dir: gets model_steps_N.pt and metrics.jsonl; training resumes from what is there.
        contents: stored in every checkpoint: `config`, the model's configuration as a dict.
        data_parallel: use all visible GPUs, where torchrun has not started a process for each.
        log_dir: gets curves for TensorBoard.
        shard: divide parameters, gradients and optimizer state among the processes.
    """

    def __init__(
        self,
        cfg: Config,
        model: nn.Module,
        batches: Batches,
        save_dir: str | Path,
        contents: dict[str, Any] | None = None,
        data_parallel: bool = True,
        log_dir: str | Path | None = None,
        shard: bool = False,
    ):
        # A notebook makes a Trainer without a command, so that the group is joined here as well.
        distributed.start()
        if shard and size() == 1:
            raise UserError(
                "`shard=True` divides a model among processes, and this is one; start several with "
                "torchrun"
            )
        cfg.check_trainable()
        self.save_dir, self.log_dir = Path(save_dir), log_dir
        self.device = devices.get_device(cfg.device)
        self.n_gpus = devices.count_gpus(self.device, cfg.device, data_parallel)
        # A run that is resumed is computed as it was begun.
        run = distributed.from_first({} if rank() else read_settings(self.save_dir / "run.json"))
        devices.choose_products(self.device, run)
        cfg = devices.settle(cfg, self.device, self.n_gpus, model, batches, run)
        self.cfg, self.batches = cfg, batches
        # Epochs of pre-training differ in length, so that their total is asked for, not multiplied.
        self.total_steps = cfg.total_steps or batches.first(cfg.n_epochs)
        self.model, self.sharded = model, shard
        # Parameters have to be divided before the optimizer is made, whose moments follow them.
        if shard:
            distributed.shard(model, self.device.type)
        flash = cfg.attention == "flash"
        self.wrapped = inference.wrap(
            model, self.device, cfg.dtype, self.n_gpus, cfg.compile, flash
        )
        # The Trainer knows no model: whatever can recompute its activations has this attribute.
        for module in model.modules():
            if hasattr(module, "checkpointing"):
                module.checkpointing = cfg.checkpointing  # type: ignore[assignment]
        self.optimizer = BertAdam(
            parameter_groups(
                *(model, cfg.weight_decay, cfg.lr, cfg.head_lr, cfg.layer_decay, cfg.head_steps)
            ),
            cfg.lr,
            self.total_steps,
            cfg.warmup,
            cfg.schedule,
            max_grad_norm=cfg.max_grad_norm,
            bias_correction=cfg.bias_correction,
        )
        self.state = TrainState()
        self.checkpoints = Checkpoints(
            self.save_dir, model, self.optimizer, contents or {}, cfg.keep_checkpoints
        )
        self.saved_at = time.monotonic()  # when a checkpoint was last begun
        # Small batches, as graphs.
        one_gpu = self.device.type == "cuda" and self.n_gpus == size() == 1
        self.records = one_gpu and cfg.cuda_graphs is True
        self.graphs: StepGraphs | None = None
        self.postpones, self.postponed = self.device.type == "cuda", False  # a checkpoint
        # While training:
        self.evaluation = Evaluation()
        self.log: MetricsLog | None = None
        self.signals: Signals | None = None

    @property
    def file(self) -> Path:
        """The checkpoint of the step the run is at."""
        return self.checkpoints.file(self.state.step)

    @property
    def best_file(self) -> Path:
        """The checkpoint of the best evaluation; the newest one where there was none."""
        return self.checkpoints.best(self.state)

    @property
    def out_of_patience(self) -> bool:
        """Whether there were `patience` evaluations since the best one."""
        patience = self.cfg.patience
        return patience is not None and self.state.best.get("since", 0) >= patience

    @property
    def finished(self) -> bool:
        """Whether no update is left."""
        return self.state.step >= self.total_steps or self.out_of_patience

    def train(self, get_loss: GetLoss | WholeLoss, evaluation: Evaluation | None = None) -> Path:
        """Train to total_steps, or resume from the newest checkpoint; returns the last checkpoint.

        get_loss(model, batch) returns the mean loss over the batch's examples and a dict of further
        such means, all scalar tensors; of one called "tokens" TensorBoard also gets the rate. A
        WholeLoss in its place looks at all examples of a batch at once.

        A loss or gradient that is not finite ends the run before the update, with a UserError that
        names the step and the batch. SIGINT, SIGTERM and SIGHUP save, and raise Interrupted.
        """
        self.evaluation = evaluation or Evaluation()
        state, settings = self.state, dataclasses.asdict(self.cfg)
        # Settings of one process, started on another machine with another file, may differ, and
        # processes that train differently would wait for each other forever.
        more = {"total_steps": self.total_steps, "shard": self.sharded}
        more["evaluation"] = self.evaluation.metrics is not None
        more["few shots"] = self.evaluation.probe_steps
        distributed.check_same("training", settings | more)
        self.checkpoints.resume(state, self.total_steps)
        # No error: the command may be part of a script that is run again.
        if self.finished and not state.evaluation_pending:
            reason = f"with all {self.total_steps} steps"
            if self.out_of_patience:
                reason = f"stopped after {self.cfg.patience} checks without a better "
                reason += state.best["metric"]
            log(f"{self.file} is there already, {reason}")
            # Where the run was killed before it could.
            self.checkpoints.shrink_best(state)
            return self.file
        self.log = MetricsLog(
            self.save_dir, state.step, state.evaluation_pending, self.log_dir, settings
        )
        self.saved_at = time.monotonic()
        # Within it while saving, too: a scheduler and torchrun may both signal the same end, and
        # the second signal must not cut the checkpoint short.
        with Signals() as self.signals:
            try:
                self.run_updates(get_loss)
                self.checkpoints.wait()
                # A signal may come after the last update, while the checkpoint is being written.
                self.check_signals()
            except Interrupted as interrupted:
                # A notebook may call train() again, without this batch's gradients.
                self.optimizer.zero_grad()
                self.save()
                self.checkpoints.wait()
                raise Interrupted(
                    interrupted.number,
                    f"at step {state.step} of {self.total_steps}; the same command resumes from "
                    f"{self.file}",
                ) from None
            finally:
                self.signals = None
                # The writer may still be at work on a checkpoint when an error ends the run.
                self.checkpoints.wait()
                # Closing writes once more what a full disk has refused.
                with contextlib.suppress(OSError):
                    self.log.close()
        if self.out_of_patience:
            log(f"Stopped: {self.cfg.patience} checks without a better {state.best['metric']}")
        log(f"Saved {self.file}")
        self.checkpoints.shrink_best(state)
        return self.file

    def run_updates(self, get_loss: GetLoss | WholeLoss) -> None:
        """All updates that are left, and what follows each; every epoch has a bar of its own."""
        state, epoch = self.state, 0
        # Those of an earlier call may be of another loss.
        self.graphs = None
        self.wrapped.train()
        replicas = self.replicate(get_loss)
        # The run was stopped between an update and what follows it.
        if state.evaluation_pending:
            self.after_update()
        # What the next updates compute on is made while this one is computed.
        left = range(state.step, self.total_steps)
        with (
            own_stream(self.device, self.records),
            contextlib.closing(prefetch(self.micro_batches, left)) as made,
        ):
            while not self.finished:
                # Epochs may differ in length, so that no division tells which one a step is in.
                while self.batches.first(epoch + 1) <= state.step:
                    epoch += 1
                start = self.batches.first(epoch)
                end = min(self.total_steps, self.batches.first(epoch + 1))
                done = state.step - start
                # A run that resumes within an epoch goes on adding to the sums of its checkpoint.
                if not done:
                    state.sums["epoch"] = {}
                with progress(rank() == 0, total=end - start, initial=done, desc="Iter") as bar:
                    while state.step < end and not self.out_of_patience:
                        self.update(replicas, get_loss, next(made), bar)
                        # The bar of an epoch is closed before its evaluation prints anything.
                        if state.step < end:
                            self.after_update()
                if state.evaluation_pending:
                    self.after_update()

    # ---------------------------------------------------------------------------------- an update

    def update(
        self,
        replicas: nn.Module,
        get_loss: GetLoss | WholeLoss,
        micro_batches: MicroBatches,
        bar: tqdm,
    ) -> None:
        """One update, and its metrics."""
        cfg, state = self.cfg, self.state
        assert self.log
        # Dropout's random numbers follow from the step alone, so no generator has to be saved.
        seed_step(cfg.seed, state.step)
        self.check_signals()
        means = self.compute(replicas, get_loss, micro_batches)
        # The rate of this update; step() moves on to the next one.
        lr = self.optimizer.lr
        norm = self.optimizer.step(loss=means["loss"])
        # Gradients are freed rather than zeroed, which saves memory while evaluating.
        self.optimizer.zero_grad()
        state.step += 1
        # From here on a signal saves a checkpoint that still owes the evaluation of this step.
        state.evaluation_pending = True
        state.add(means | {"grad_norm": norm})
        self.log.tokens = self.log.tokens + means.get("tokens", 0) * micro_batches.n_rows
        due = self.due()
        # Reading a GPU's numbers makes the CPU wait for it.
        if due.log or due.save or self.device.type == "cpu":
            self.check_finite()
            bar.set_description(f"Iter (loss={float(means['loss']):5.3f})", refresh=False)
        bar.update()
        if due.log:
            self.write_metrics({"lr": lr, **state.means("log")})
            state.sums["log"] = {}

    def due(self) -> Due:
        """What follows the last update."""
        step, cfg, evaluation, epoch = self.state.step, self.cfg, self.evaluation, 1
        while self.batches.first(epoch) < step:
            epoch += 1
        last = step == self.total_steps
        epoch_ends = last or step == self.batches.first(epoch)
        # A checkpoint follows every evaluation, so that the best model is always on the disk.
        save = last or step % cfg.save_steps == 0 or (evaluation.each_epoch and epoch_ends)
        # Tasks are evaluated once an epoch, whatever save_steps says; else at every checkpoint.
        evaluate = epoch_ends if evaluation.each_epoch else save
        return Due(
            log=last or step % cfg.log_steps == 0,
            epoch=epoch if epoch_ends else None,
            probe=evaluation.probe is not None and step % evaluation.probe_steps == 0,
            evaluate=evaluation.metrics is not None and evaluate,
            save=save,
        )

    def micro_batches(self, step: int) -> MicroBatches:
        """This process's rows of a batch, in gradient_accumulation of them, on the device."""
        n_rows = len(self.batches.rows(step))
        # By the largest share of rows, so that every process has as many: each is collective.
        n = min(self.cfg.gradient_accumulation or 1, -(-n_rows // size()))
        parts = []
        for i in range(n):
            first, every = rank() + i * size(), n * size()
            # Of different size, they add up to the mean: each counts by its share of the rows.
            rows = range(first, n_rows, every)
            if not rows:
                # Other processes have a row more, and all have to take part in every backward pass:
                # this one computes a row that counts nothing.
                first, every = 0, n_rows
            batch = self.prepare(self.batches.shard(step, first, every))
            parts.append(Part(batch, rows, len(rows) / n_rows))
        about = getattr(self.batches, "whole", None)
        return MicroBatches(n_rows, parts, about and move(about(step), self.device))

    def prepare(self, batch: Batch) -> Batch:
        """A batch as it is computed, on the device."""
        small = self.records and is_small(batch)
        # Attention by the flash kernel does not compute padding.
        width = getattr(self.batches, "width", None) if self.cfg.attention == "flash" else None
        return prepare(batch, self.device, self.n_gpus == 1, small, width if small else None)

    def compute(
        self, replicas: nn.Module, get_loss: GetLoss | WholeLoss, made: MicroBatches
    ) -> dict[str, Tensor]:
        """backward(), by a graph where that is faster."""
        if isinstance(get_loss, WholeLoss):
            in_turn = self.each_part(replicas, made.parts)
            return backward_whole(get_loss, replicas, made, self.device, in_turn)
        part, *others = made.parts
        # Small batches, and those alone, have been made up to sizes that repeat.
        if self.records and not others and is_rounded(part.batch):
            self.graphs = self.graphs or StepGraphs(
                lambda batch: self.backward(replicas, get_loss, [part._replace(batch=batch)]),
                self.model.parameters(),
                lambda: seed_step(self.cfg.seed, self.state.step),
            )
            if means := self.graphs(part.batch):
                return means
        return self.backward(replicas, get_loss, made.parts)

    def each_part(self, replicas: nn.Module, parts: list[Part]) -> Iterator[tuple[int, Part]]:
        """The parts of a batch in turn, each with its number; within it a part is computed."""
        for i, part in enumerate(parts):
            # Asking the other processes costs a GPU more than a micro-batch; its steps are short.
            if i > 0 and self.device.type == "cpu":
                self.check_signals()
            # Averaging gradients once, with the last one, saves the traffic of all the others.
            # DistributedDataParallel can; a sharded model adds up all gradients at once: whole ones
            # would take the memory that sharding saves.
            no_sync = getattr(replicas, "no_sync", contextlib.nullcontext)
            with contextlib.nullcontext() if part is parts[-1] else no_sync():
                yield i, part

    def backward(
        self, replicas: nn.Module, get_loss: GetLoss, parts: list[Part]
    ) -> dict[str, Tensor]:
        """The gradients of a batch's mean loss, and the means of its metrics, the loss first."""
        means: dict[str, Tensor] = {}
        for _, (batch, _, share) in self.each_part(replicas, parts):
            loss, metrics = get_loss(replicas, batch)
            # Gradients are averaged over the processes, not summed.
            (loss * (share * size())).backward()
            for name, value in {"loss": loss, **metrics}.items():
                means[name] = means.get(name, 0) + value.detach() * share
        # One exchange for all. Every process sees the same loss, and stops if it is not finite.
        if size() > 1:
            stacked = torch.stack(list(means.values()))
            means = dict(zip(means, distributed.total(stacked), strict=True))
        return means

    def replicate(self, get_loss: GetLoss | WholeLoss) -> nn.Module:
        """What is trained: with several processes, a model whose gradients they average."""
        if size() == 1:
            return self.wrapped
        replicas = self.wrapped
        if not self.sharded:
            from torch.nn.parallel import DistributedDataParallel

            gpus = [self.device] if self.device.type == "cuda" else None
            replicas = DistributedDataParallel(self.wrapped, gpus, gradient_as_bucket_view=True)
        # The first backward decides in which order gradients are added up from the second on, and
        # in what memory shards are gathered. With one row of it before all else, a run that resumes
        # does as one that was never stopped.
        row = self.prepare(self.batches.shard(0, 0, len(self.batches.rows(0))))
        if isinstance(get_loss, WholeLoss):
            get_loss.outputs(replicas, row).sum().backward()
        else:
            get_loss(replicas, row)[0].backward()
        self.optimizer.zero_grad()
        return replicas

    # --------------------------------------------------------------------------- what follows it

    def after_update(self) -> None:
        """Report the end of an epoch; probe, evaluate and save where they are due."""
        cfg, due = self.cfg, self.due()
        if due.epoch is not None:
            n_epochs = cfg.n_epochs
            # With total_steps the number of epochs is an estimate, as epochs may differ in length.
            if cfg.total_steps:
                n_epochs = -(-self.total_steps // len(self.batches))
            loss = self.state.means("epoch")["loss"]
            log(f"Epoch {due.epoch}/{max(n_epochs, due.epoch)} : Average Loss {loss:.3f}")
        if due.probe or due.evaluate:
            self.evaluate(due)
        # Cleared before saving: the checkpoint states that nothing is left to do at its step.
        self.state.evaluation_pending = False
        save = due.save
        if cfg.save_minutes is not None and not save:
            passed = time.monotonic() - self.saved_at > 60 * cfg.save_minutes
            # By the first one's clock: clocks differ, and all processes have to save together.
            save = distributed.maximum(int(passed and rank() == 0)) > 0
        # A step is short on a GPU: there the loop does not wait for the checkpoint before to be
        # written, unless an evaluation or the end of the run belongs to this one.
        if (save or self.postponed) and self.postpones and not (due.evaluate or self.finished):
            self.postponed = distributed.maximum(int(self.checkpoints.is_writing)) > 0
            save = not self.postponed
        if save:
            self.save()

    def evaluate(self, due: Due) -> None:
        """Probe and evaluate; the best evaluation is remembered, and all of it logged."""
        # An update that was refused would make the evaluation measure the model before it.
        self.check_finite()
        # A signal that is here already would otherwise be noticed only after the evaluation.
        self.check_signals()
        assert self.signals
        # One that comes now interrupts a single process at once: the checkpoint says that the
        # evaluation is pending. Several would wait for one that leaves a collective operation.
        self.signals.at_once = size() == 1
        lines = []
        try:
            if due.probe:
                assert self.evaluation.probe
                lines.append(self.evaluation.probe())
            if due.evaluate:
                assert self.evaluation.metrics
                values = self.evaluation.metrics()
                lines.append({f"eval_{name}": value for name, value in values.items()})
        finally:
            self.signals.at_once = False
        if due.evaluate:
            # Before the log is written, since a stop_metric that is unknown is an error.
            self.state.add_evaluation(values, self.cfg.stop_metric)
        for line in lines:
            self.write_metrics(line)
        self.wrapped.train()

    def predict(
        self, batches: Batches, outputs: Outputs = inference.scores, bar: bool = True
    ) -> np.ndarray:
        """(N, ...): outputs of the model as it is, as predict() gives them."""
        # A single process is interrupted by the signal itself; several agree between two batches.
        watch = self.check_signals if size() > 1 else lambda: None
        return inference.predict(
            self.wrapped, batches, self.device, self.cfg.dtype, outputs, bar, before_batch=watch
        )

    def write_metrics(self, values: dict[str, float]) -> None:
        """A line of metrics.jsonl."""
        assert self.log
        epoch = round(self.state.step / len(self.batches), 4)
        self.log.write({"step": self.state.step, "epoch": epoch, **values})

    def check_finite(self) -> None:
        """UserError if an update was refused because the loss or a gradient was not finite."""
        failed = int(self.optimizer.failed_step)
        if failed < 0:
            return
        # The last checkpoint that the message names has to be whole.
        self.checkpoints.wait()
        message = (
            f"loss or gradient is not finite at step {failed + 1} "
            f"({self.batches.describe(failed)}); stopped before that update; look at that data, "
            "lower lr or use fp32"
        )
        if kept := checkpoints_in(self.save_dir):
            message += f"; the last checkpoint is {kept[-1]}"
        raise UserError(message)

    # ------------------------------------------------------------------------------------ signals

    def check_signals(self) -> None:
        """Raise Interrupted if a signal to end has reached this process, or another one."""
        if self.signals and (number := distributed.maximum(self.signals.number)):
            raise Interrupted(number)

    # --------------------------------------------------------------------------------- checkpoints

    def save(self) -> None:
        """Begin to write the checkpoint of this step."""
        self.postponed = False
        # Parameters that are not finite must not replace a checkpoint that is.
        self.check_finite()
        # A power cut must not leave a checkpoint whose lines of metrics are lost.
        if self.log:
            self.log.sync()
        state = self.state
        finished = state.step >= self.total_steps and not state.evaluation_pending
        self.checkpoints.save(state, finished)
        self.saved_at = time.monotonic()

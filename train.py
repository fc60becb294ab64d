"""The training loop. It knows no task: a command hands it a model, batches, an optimizer and a closure for the loss.

    trainer = Trainer(Config(), model, batches, "runs/mrpc")
    trainer.train(lambda model, batch: (F.cross_entropy(model(*batch[:3]), batch[3]), {}))
    scores = trainer.evaluate(lambda model, batch: model(*batch[:3]), eval_batches)

A run is one state. What step n does follows from the state before it and from (seed, n): its batch, and every random
number drawn in it. A checkpoint holds that state, so a run that was killed and started again goes on bit for bit.
"""
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

import checkpoint
import distributed
from optim import SCHEDULES, BertAdam, parameter_groups
from utils import UserError, nearest, read_config, read_json, whole_file, write_json

Batch = tuple[Tensor, ...]
Check = Callable[[], dict[str, float]]
GetLoss = Callable[[nn.Module, Batch], tuple[Tensor, dict[str, Tensor]]]

# Settings that may differ when a run goes on: they change what is written, not what is computed.
FREE = {"save_steps", "log_steps", "keep_checkpoints"}


@dataclasses.dataclass(frozen=True)
class Config:
    """How to train. Unless total_steps is given, n_epochs of the data are the length of the run."""

    seed: int = 42                      # of initial weights, order and dropout
    batch_size: int = 32                # examples of an update, all devices and accumulation together
    lr: float = 2e-5                    # learning rate at its highest
    n_epochs: int = 3                   # how often every example is seen
    warmup: float = 0.1                 # share of the steps in which the rate rises
    save_steps: int = 100               # updates between checkpoints
    total_steps: int | None = None      # updates in all; None: n_epochs times the batches of an epoch
    dtype: str = "fp32"                 # of matrix products: fp32 or bf16 (parameters stay float32)
    gradient_accumulation: int = 1      # parts that a batch is computed in, to save memory
    schedule: str = "warmup_linear"     # of the learning rate: see optim.SCHEDULES
    weight_decay: float = 0.01          # per update and unit of rate; none on biases and LayerNorm
    max_grad_norm: float = 1.0          # longer gradients are shortened to this
    bias_correction: bool = False       # Adam's, which BERT leaves out
    log_steps: int = 10                 # updates between lines of metrics.jsonl
    keep_checkpoints: int = 3           # how many model_steps_N.pt to keep, the newest, beside the best; 0: all
    compile: bool = False               # torch.compile the model (needs a C++ compiler)
    checkpointing: bool = False         # keep fewer activations and compute them again: less memory, a third more work
    head_lr: float | None = None        # learning rate of what lies above the encoder; None: lr
    layer_decay: float = 1.0            # each block learns at this times the rate of the block above it
    patience: int | None = None         # checks without a better stop_metric after which to stop; None: never
    stop_metric: str | None = None      # what the best checkpoint is chosen by; None: the first metric of a check

    def __post_init__(self) -> None:
        for name in ("batch_size", "n_epochs", "save_steps", "gradient_accumulation", "log_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}; expected at least 1")
        if self.total_steps is not None and self.total_steps < 1:
            raise UserError(f"total_steps={self.total_steps}; expected at least 1, or null to follow from n_epochs")
        if not 0 <= self.warmup <= 1:
            raise UserError(f"warmup={self.warmup}; expected a share of the steps, 0 to 1")
        if not self.max_grad_norm > 0:
            raise UserError(f"max_grad_norm={self.max_grad_norm}; expected more than 0 (a large number: no clipping)")
        if self.patience is not None and self.patience < 1:
            raise UserError(f"patience={self.patience}; expected at least 1, or null to train to the end")
        if not 0 < self.layer_decay <= 1:
            raise UserError(f"layer_decay={self.layer_decay}; expected more than 0 and at most 1")
        for name in ("lr", "weight_decay", "keep_checkpoints", "seed", "head_lr"):
            if (value := getattr(self, name)) is not None and not value >= 0:
                raise UserError(f"{name}={getattr(self, name)}; expected 0 or more")
        if self.dtype not in ("fp32", "bf16"):
            raise UserError(f"dtype={self.dtype!r}; expected fp32 or bf16")
        if self.schedule not in SCHEDULES:
            hint = nearest(self.schedule, SCHEDULES)
            raise UserError(f"schedule={self.schedule!r}{hint}; expected one of {', '.join(SCHEDULES)}")
        if self.gradient_accumulation > self.batch_size:
            raise UserError(f"gradient_accumulation={self.gradient_accumulation} is more than batch_size={self.batch_size}")

    @classmethod
    def from_json(cls, file: str | Path, **instead: Any) -> "Config":
        """Read a JSON file, some of its settings replaced; an unknown key is an error."""
        return read_config(cls, file, **instead)


class Source(Protocol):
    """What the Trainer trains on: batch n of an endless run, the same whenever it is asked for."""

    def __len__(self) -> int: ...                       # batches of the first epoch, and about as many of each
    def first(self, epoch: int) -> int: ...             # the number of an epoch's first batch
    def __getitem__(self, n: int) -> Batch: ...         # tensors whose first dimension is the example
    def rows(self, n: int) -> np.ndarray: ...           # which examples batch n has
    def describe(self, n: int) -> str: ...              # batch n in words


def get_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(device: torch.device, n_gpus: int = 1) -> str:
    """'cuda (8 GPUs)' or 'cpu (2 cores)'."""
    n, unit = (n_gpus, "GPU") if device.type == "cuda" else (torch.get_num_threads(), "core")
    return f"{device.type} ({n} {unit}{'s' * (n != 1)})"


def seed_step(seed: int, step: int) -> None:
    """Start PyTorch's random generators for one step, as a function of the run's seed and the step."""
    first, *others = np.random.SeedSequence([seed, step, distributed.rank()]).generate_state(
        max(1, torch.cuda.device_count()), np.uint64).tolist()
    torch.manual_seed(first)
    for i, state in enumerate(others, start=1):         # DataParallel's GPUs must not drop the same elements
        with torch.cuda.device(i):
            torch.cuda.manual_seed(state)


def check_free(save_dir: str | Path) -> None:
    """UserError if a folder holds a model that is no run's."""
    names = ("config.json", "bert_config.json", "vocab.txt", "task.json", "model.safetensors", "pytorch_model.bin")
    taken = [name for name in names if (Path(save_dir) / name).exists()] + checkpoint.saved(save_dir)
    if taken and not (Path(save_dir) / "run.json").is_file():
        raise UserError(f"{save_dir} holds a model already ({taken[0]}) and no run.json; name another --save_dir")


def claim(save_dir: str | Path, settings: dict[str, Any]) -> None:
    """Make a folder this run's own: write its settings, or compare them with those of the run that is there.

    UserError names every setting that differs, so that no run goes on with another one's checkpoints.
    """
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
        digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()


class Autocast(nn.Module):
    """A model whose matrix products are computed in another type; inside DataParallel, since its threads forget ours."""

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
        contents: stored in every checkpoint beside the run's state: `config`, the model's configuration as a dict.
        data_parallel: use all visible GPUs.
        log_dir: gets curves for TensorBoard.
    """

    def __init__(self, cfg: Config, model: nn.Module, batches: Source | None = None, save_dir: str | Path = ".",
                 contents: dict[str, Any] | None = None, device: torch.device | None = None, data_parallel: bool = True,
                 log_dir: str | Path | None = None):
        self.cfg, self.batches, self.save_dir, self.log_dir = cfg, batches, Path(save_dir), log_dir
        self.device, self.contents = device or get_device(), contents or {}
        distributed.refuse_other_processes()
        self.n_gpus = torch.cuda.device_count() if self.device.type == "cuda" and data_parallel else 1
        if cfg.compile and self.n_gpus > 1:
            raise UserError(f"compile=true works on one GPU, and {self.n_gpus} are visible; add --data_parallel False")
        self.model = model.to(self.device)              # the parameters; parallel is what runs them
        self.parallel: nn.Module = Autocast(torch.compile(self.model, dynamic=True) if cfg.compile else self.model,
                                            self.device, cfg.dtype)
        if self.n_gpus > 1:
            self.parallel = nn.DataParallel(self.parallel)
        for module in self.model.modules():
            if hasattr(module, "checkpointing"):
                module.checkpointing = cfg.checkpointing  # type: ignore[assignment]
        self.total_steps = cfg.total_steps or (batches.first(cfg.n_epochs) if batches else 0)
        self.step = 0                                   # updates made
        self.seen: Any = 0                              # tokens, since the time below; for TensorBoard
        self.since = time.perf_counter()
        self.sums: dict[str, dict[str, Any]] = {"epoch": {}, "log": {}}         # of metrics, since either began
        self.best: dict[str, Any] = {}                  # metric, value and step of the best check; checks since then

    # -------------------------------------------------------------------------------------------------- training

    def train(self, get_loss: GetLoss, check: Check | None = None, each_epoch: bool = False,
              probe: tuple[int, Check] | None = None) -> Path:
        """Train to total_steps, or on from the newest checkpoint in save_dir; returns the last checkpoint.

        get_loss(model, batch) returns the mean loss over the batch's examples and a dict of further such means, all
        scalar tensors; of one called "tokens" TensorBoard also gets the rate per second. check() is called before a
        checkpoint is written, or with `each_epoch` at the end of every epoch, which then writes one; what it returns
        becomes a line of metrics.jsonl, decides which checkpoint is the best (`self.best`; it is kept) and when patience
        is at its end. `probe`: a number of updates, and what is called every so many and logged likewise. A loss or
        gradient that is not finite ends the run before the update, with a UserError that names the step and the batch.
        """
        assert self.batches is not None
        cfg = self.cfg
        groups = parameter_groups(self.model, cfg.weight_decay, cfg.lr, cfg.head_lr, cfg.layer_decay)
        self.optimizer = BertAdam(groups, cfg.lr, self.total_steps, cfg.warmup, cfg.schedule,
                                  max_grad_norm=cfg.max_grad_norm, bias_correction=cfg.bias_correction)
        self.resume()
        if self.step >= self.total_steps or self.stopped:
            print(f"{self.file} is there already, " + (f"with all {self.total_steps} steps" if not self.stopped else
                  f"stopped after {cfg.patience} checks without a better {self.best['metric']}"), flush=True)
            return self.file
        writer, self.since = self.open_logs(), time.perf_counter()
        n_epochs, epoch = -(-self.total_steps // len(self.batches)) if cfg.total_steps else cfg.n_epochs, 0
        self.parallel.train()
        try:
            while self.step < self.total_steps and not self.stopped:
                while (end := self.batches.first(epoch + 1)) <= self.step:
                    epoch += 1
                start, end = self.batches.first(epoch), min(self.total_steps, end)
                if self.step == start:
                    self.sums["epoch"] = {}
                with tqdm(total=end - start, initial=self.step - start, desc="Iter (loss=X.XXX)") as bar:
                    while self.step < end and not self.stopped:
                        self.train_step(get_loss, bar, writer)
                        if probe and self.step % probe[0] == 0:
                            self.log({"step": self.step, **probe[1]()}, writer)
                            self.parallel.train()
                        if self.step < end and self.step % cfg.save_steps == 0:
                            self.save(None if each_epoch else check, writer)
                average = self.mean("epoch")["loss"]
                print(f"Epoch {epoch + 1}/{max(n_epochs, epoch + 1)} : Average Loss {average:.3f}", flush=True)
                if self.step == end and (each_epoch or end == self.total_steps or end % cfg.save_steps == 0):
                    self.save(check, writer)
        except KeyboardInterrupt:
            kept = checkpoint.saved(self.save_dir)
            where = f"goes on from {kept[-1]}" if kept else "starts again, since nothing is saved before step " \
                f"{cfg.save_steps} (save_steps)"
            raise KeyboardInterrupt(f"at step {self.step} of {self.total_steps}; the same command {where}") from None
        finally:
            self.metrics_file.close()
            if writer:
                writer.close()
        if self.stopped:
            print(f"Stopped: {cfg.patience} checks without a better {self.best['metric']}", flush=True)
        print(f"Saved {self.file}", flush=True)
        return self.file

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

    def train_step(self, get_loss: GetLoss, bar: tqdm, writer: Any) -> None:
        """One update, and its metrics."""
        cfg = self.cfg
        seed_step(cfg.seed, self.step)
        batch = self.to_device(self.batches[self.step])                         # type: ignore[index]
        n, means = len(batch[0]), dict[str, Tensor]()
        for part in zip(*(tensor.tensor_split(cfg.gradient_accumulation) for tensor in batch), strict=True):
            if len(part[0]) == 0:
                continue
            loss, metrics = get_loss(self.parallel, part)
            share = len(part[0]) / n                                            # of the batch's mean
            (loss * share).backward()
            for name, value in {"loss": loss, **metrics}.items():
                means[name] = means.get(name, 0) + value.detach() * share
        lr = self.optimizer.lr
        norm = self.optimizer.step(loss=means["loss"])
        self.optimizer.zero_grad()
        self.step += 1
        self.seen = self.seen + means.get("tokens", 0) * n
        for sums in self.sums.values():
            sums["steps"] = sums.get("steps", 0) + 1
            for name, value in {**means, "grad_norm": norm}.items():
                sums[name] = sums.get(name, 0) + value
        logging, saving = (self.step == self.total_steps or self.step % n == 0 for n in (cfg.log_steps, cfg.save_steps))
        if logging or saving or self.device.type == "cpu":                      # reading a GPU's numbers makes it wait
            self.check_finite()
            bar.set_description(f"Iter (loss={float(means['loss']):5.3f})", refresh=False)
        bar.update()
        if logging:
            self.log({"step": self.step, "lr": lr, **self.mean("log")}, writer)
            self.sums["log"] = {}

    def to_device(self, batch: Batch) -> Batch:
        """Move a batch's tensors."""
        return tuple(tensor.to(self.device, non_blocking=True) for tensor in batch)

    def check_finite(self) -> None:
        """UserError if an update was refused because the loss or a gradient was not finite."""
        if (failed := int(self.optimizer.failed_step)) >= 0:
            assert self.batches is not None
            kept = checkpoint.saved(self.save_dir)
            raise UserError(f"loss or gradient is not finite at step {failed + 1} ({self.batches.describe(failed)}); "
                            f"stopped before that update; look at that data, lower lr or use fp32"
                            + (f"; the last checkpoint is {kept[-1]}" if kept else ""))

    def mean(self, interval: str) -> dict[str, float]:
        """The means of an interval's metrics."""
        sums = self.sums[interval]
        return {name: float(value) / sums["steps"] for name, value in sums.items() if name != "steps"}

    # ------------------------------------------------------------------------------------------------ evaluation

    @torch.inference_mode()
    def evaluate(self, predict: Callable[[nn.Module, Batch], Tensor], batches: Source, bar: bool = True) -> np.ndarray:
        """One pass over the data without dropout: predict(model, batch) gives a row an example, returned in data order."""
        self.parallel.eval()
        rows, outputs = [], []
        for n in tqdm(range(len(batches)), desc="Iter", disable=not bar):
            outputs.append(predict(self.parallel, self.to_device(batches[n])))
            rows.append(batches.rows(n))
        values = torch.cat(outputs).float().cpu().numpy()
        ordered = np.empty_like(values)
        ordered[np.concatenate(rows)] = values
        return ordered

    # ----------------------------------------------------------------------------------------- files of the run

    def save(self, check: Check | None = None, writer: Any = None) -> None:
        """Check, then write model_steps_N.pt: the whole state, or after the last step the model alone. Drop the oldest."""
        self.check_finite()
        if check:
            values = check()
            self.log({"step": self.step, **{f"eval_{name}": value for name, value in values.items()}}, writer)
            self.note_best(values)
            self.parallel.train()
        state: dict[str, Any] = {"step": self.step, **self.contents, "model": self.model.state_dict(), "best": self.best}
        if self.step < self.total_steps:
            sums = {name: {k: float(v) for k, v in values.items()} for name, values in self.sums.items()}
            state |= {"optimizer": self.optimizer.state_dict(), "sums": sums}
        checkpoint.write_ours(self.file, state)
        if self.cfg.keep_checkpoints:
            files = checkpoint.saved(self.save_dir)             # later ones than ours are damaged: see resume()
            ours = files[:1 + files.index(self.file)]
            for old in ours[:-self.cfg.keep_checkpoints]:
                if not self.best or old != self.best_file:
                    old.unlink()

    def note_best(self, values: dict[str, float]) -> None:
        """Compare a check with the best so far."""
        metric = self.cfg.stop_metric or next(iter(values))
        if metric not in values:
            raise UserError(f"stop_metric={metric!r}{nearest(metric, values)}; expected one of {', '.join(values)}")
        sign = -1 if metric.endswith("loss") else 1
        if not self.best or sign * values[metric] > sign * self.best["value"]:
            self.best = {"metric": metric, "value": float(values[metric]), "step": self.step, "since": 0}
        else:
            self.best["since"] += 1

    def resume(self) -> None:
        """Take up the state of the newest checkpoint that is whole; a damaged one is named and passed over."""
        damaged = 0
        for file in reversed(checkpoint.saved(self.save_dir)):
            try:
                state = checkpoint.read_ours(file)
                if state is None or not state.get("optimizer", state.get("step") == self.total_steps):
                    raise UserError(f"{file} holds no state to go on from")
            except UserError as error:
                print(f"{error}", flush=True)
                damaged += 1
                continue
            self.model.load_state_dict(state["model"])
            self.step, self.best = state["step"], state.get("best", {})
            if "optimizer" in state:
                self.optimizer.load_state_dict(state["optimizer"])
                self.sums = state["sums"]
                print(f"Going on from {file}", flush=True)
            return
        if damaged:
            raise UserError(f"no checkpoint in {self.save_dir} is whole; remove them to start again")

    def open_logs(self) -> Any:
        """Open metrics.jsonl, without what a run that was cut short wrote after its checkpoint, and TensorBoard's files."""
        file = self.save_dir / "metrics.jsonl"
        lines = file.read_text().splitlines(keepends=True) if file.is_file() else []
        with whole_file(file) as f:
            for line in lines:
                if line.endswith("\n") and json.loads(line)["step"] <= self.step:
                    f.write(line.encode())
        self.metrics_file = open(file, "a", encoding="utf-8")
        if not self.log_dir:
            return None
        from tensorboardX import SummaryWriter
        return SummaryWriter(str(self.log_dir), purge_step=self.step + 1)

    def log(self, values: dict[str, float], writer: Any) -> None:
        """A line of metrics.jsonl, and a point of every curve."""
        self.metrics_file.write(json.dumps(values) + "\n")
        self.metrics_file.flush()
        if writer:
            for name, value in values.items():
                writer.add_scalar(name, value, values["step"])
            if (seen := float(self.seen)):              # not in metrics.jsonl, which is the same for the same run
                writer.add_scalar("tokens_per_second", seen / (time.perf_counter() - self.since), values["step"])
                self.seen, self.since = 0, time.perf_counter()

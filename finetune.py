"""Fine-tuning, evaluating and predicting without a command line, for any kind of task.

run = prepare(TASKS["mrpc"], "MRPC/train.tsv", "uncased_L-12_H-768_A-12", ["MRPC/dev.tsv"])
result = run.fit("runs/mrpc")                   # result.best_file, result.best["Accuracy"]
saved = load(result.best_file)
saved.evaluate("MRPC/dev.tsv")                  # {"Accuracy": .86, "F1": .90, "loss": .34}
saved.predict([("A first text.", "A second one.")])         # [Prediction("1", [.1, .9])]
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import models
import pretrained
import train
from formats.beside import CHOSEN_LATER
from layers import kernels
from pretrained import Pretrained
from system import distributed
from system.files import read_settings, whole_file, write_json
from tasks import kept, own_task, reports, teachers
from tasks.lessons import Lesson
from tasks.saved import Saved, decide, load
from tasks.table_rows import Objects, source_of
from tasks.task import Data
from tasks.teachers import Teacher
from training import devices, runs
from utils import UserError, json_text, log, rank, show, warn

__all__ = ["FineTuneConfig", "Result", "Run", "Saved", "decide", "load", "prepare"]


@dataclasses.dataclass(frozen=True)
class FineTuneConfig:
    """How a model is fine-tuned, beside train.Config."""

    freeze_encoder: bool = False  # train the head alone
    boost: bool = False  # encode every text once and keep the pooled vectors
    reinit_layers: int = 0  # how many of the top layers start anew

    def __post_init__(self) -> None:
        if self.boost and not self.freeze_encoder:
            raise UserError(
                "`boost` encodes every text once, before training; it needs `freeze_encoder=True`"
            )
        if self.freeze_encoder and self.reinit_layers:
            raise UserError(
                "`reinit_layers` starts layers anew and `freeze_encoder` would keep them so; leave "
                "one out"
            )

    def check_lesson(self, lesson: Lesson) -> None:
        """UserError where a teacher could not teach a model that is fine-tuned so."""
        if self.boost:
            raise UserError(
                "`boost` trains on vectors that are kept, a teacher on texts; leave one out"
            )
        if self.freeze_encoder and lesson.layers:
            raise UserError(
                "`freeze_encoder` keeps the hidden states that `teacher_layers` would change; "
                "leave one out"
            )


@dataclasses.dataclass
class Result:
    """What a training run came to."""

    file: Path  # the last checkpoint
    step: int  # how many updates it has had
    best_file: Path  # the one that was best on the first of the evaluation files
    last: dict[str, float]  # its metrics; empty where nothing is evaluated
    best: dict[str, float]


@dataclasses.dataclass
class Run:
    """Everything a training run needs, checked; nothing is written yet."""

    cfg: train.Config
    start: Pretrained
    task: Any  # a Task
    data: Data
    eval_data: list[Data]
    settings: dict[str, Any]  # what shapes the result, beside cfg and start
    tuning: FineTuneConfig
    held_out: Objects | None = None  # the rows of its only file that are evaluated
    teacher: Teacher | None = None

    def __repr__(self) -> str:
        return f"<run of {self.task.name} on {self.data!r}, {self.start!r}>"

    def learn_from(self, found: Pretrained, lesson: Lesson, unlabelled: Any = None) -> None:
        """Let a teacher's outputs count, too; of unlabelled rows these alone."""
        self.teacher = Teacher.load(found, lesson, self.task, self.data, self.start, self.cfg)
        if unlabelled is not None:
            rows = source_of(unlabelled, "the unlabelled data")
            self.data = self.teacher.with_unlabelled(self.task, self.data, rows, self.start)
            log(self.data.summary)
        self.settings |= self.teacher.settings

    def model(self, begun: Mapping[str, Any] | None = None) -> models.BertModel:
        """The model that training starts with, as it follows from the seed.

        Args:
            begun: the run.json of a run that goes on.
        """
        # Before the model is built: a head that weights lack is drawn from this seed.
        torch.manual_seed(self.cfg.seed)
        model = self.task.model(self.start.config)
        new = self.start.load_into(model, self.task.fresh, self.task.complete)
        self.settings |= self.task.begin_heads(model, new, self.data, begun or {})
        # After loading, or the weights would overwrite what starts anew.
        if self.tuning.reinit_layers:
            model.reinitialise(self.tuning.reinit_layers)
        if self.tuning.freeze_encoder:
            model.freeze()
        return model

    def fit(
        self,
        save_dir: str | Path,
        log_dir: str | None = None,
        data_parallel: bool = True,
        shard: bool = False,
        probe: Callable[[train.Trainer], dict[str, float]] | None = None,
        probe_steps: int = 0,
    ) -> Result:
        """Train, evaluating on the way. The folder gets all that evaluating needs.

        Args:
            probe: further numbers to log every probe_steps updates.
        """
        # Pooled vectors need no encoder while training, so that there is nothing to divide.
        if shard and self.tuning.boost:
            raise UserError(
                "`shard=True` and `boost`: the last layer alone is trained, and fits everywhere; "
                "leave one out"
            )
        folder = Path(save_dir)
        begun = distributed.from_first({} if rank() else read_settings(folder / "run.json"))
        model = self.model(begun)
        batches = self.data.features.batches(self.cfg.batch_size, self.cfg.seed)
        config = self.start.config.to_json()
        trainer = train.Trainer(
            self.cfg, model, batches, folder, {"config": config}, data_parallel, log_dir, shard
        )
        # All that shapes the result; run.json compares it when the same command is started again.
        settings = dataclasses.asdict(trainer.cfg) | self.settings
        settings["float32 products"] = kernels.PRODUCTS.chosen  # what the next start computes with
        # The folder is held before the first file is written, so that two runs cannot mix theirs.
        with self.start.run_lock(folder, model, settings):
            settings_file = folder / self.task.settings_file
            # What was chosen when this very run had ended stays.
            before = read_settings(settings_file)
            chosen_later = {name: before[name] for name in CHOSEN_LATER if name in before}
            write_json(settings_file, chosen_later | self.task.to_json())
            if self.held_out:
                with whole_file(folder / str(self.held_out)) as f:
                    f.writelines(
                        f"{json_text(row, folder, ensure_ascii=False)}\n".encode()
                        for row in self.held_out
                    )
            chosen = {name: getattr(trainer.cfg, name) for name in devices.PLAIN}
            log(devices.describe(trainer.device, trainer.n_gpus, **chosen))
            measure = functools.partial(probe, trainer) if probe else None
            return self.fit_held(trainer, model, batches, measure, probe_steps)

    def fit_held(
        self,
        trainer: train.Trainer,
        model: models.BertModel,
        batches: Any,
        probe: train.Metrics | None,
        probe_steps: int,
    ) -> Result:
        """fit() in a folder that no other process trains in."""
        # Evaluation takes the memory of a part of a training batch, which is known to fit.
        cfg = trainer.cfg
        rows = cfg.batch_size // (cfg.gradient_accumulation or 1)
        # A GPU has nothing to do with so few, and keeps no activations of more.
        if trainer.device.type == "cuda":
            rows = max(rows, devices.rows_at_once(None, self.task.max_len, trainer.device))
        # Without a seed the examples are sorted by length and nothing is shuffled.
        eval_batches = [data.features.batches(rows) for data in self.eval_data]
        evaluated: Sequence[Any] = eval_batches
        # The encoder is frozen, so that it gives the same vectors in every epoch.
        if self.tuning.boost:
            cache, device = trainer.save_dir.parent / "pooled", trainer.device
            trainer.batches = kept.pool(model, cfg.dtype, batches, cache, device)
            evaluated = [kept.pool(model, cfg.dtype, b, cache, device) for b in eval_batches]
        loss = self.task.loss
        if self.teacher:
            loss = self.teacher.loss(self.task, self.data, trainer, model, rows)

        def evaluate() -> dict[str, float]:
            results: dict[str, float] = {}
            names = reports.short_names([str(data.file) for data in self.eval_data])
            for name, data, data_batches in zip(names, self.eval_data, evaluated, strict=True):
                # An evaluation while training is one pass with the weights as they are; dropout is
                # off in predict().
                found = self.task.metrics(data, trainer.predict(data_batches, self.task.outputs))
                shown = ", ".join(f"{metric} {value:.4f}" for metric, value in found.items())
                log(f"{name}: {shown}")
                # The names of the first file's are plain: they decide which checkpoint is best.
                results |= reports.named_after(found, name, results)
            return results

        evaluation = train.Evaluation(
            evaluate if self.eval_data else None, self.task.each_epoch, probe, probe_steps
        )
        file = trainer.train(loss, evaluation)
        metrics = trainer.save_dir / "metrics.jsonl"
        # Metrics were logged by the first process alone, and all of them return the same result.
        evaluations = distributed.from_first({} if rank() else runs.read_evaluations(metrics))
        state = trainer.state
        if state.best:
            metric, value = state.best["metric"], state.best["value"]
            log(f"Best: {metric} {value:.4f}, {trainer.best_file}")
        # A run that stopped between two evaluations has none at its last step.
        last = evaluations.get(state.step, {})
        best = evaluations.get(state.best.get("step"), {})
        return Result(file, state.step, trainer.best_file, last, best)


def prepare(
    task: Any,
    data_file: Any,
    start: Pretrained | str | Path,
    eval_files: Any = (),
    cfg: train.Config | None = None,
    tuning: FineTuneConfig | None = None,
    dev_split: float | None = None,
    teacher: str | Path | None = None,
    lesson: Lesson | None = None,
    unlabelled_file: Any = None,
    **columns: Any,
) -> Run:
    """Read and check everything before anything is written or trained.

    Args:
        task: one of tasks.TASKS, or of another kind; its labels may be those of the data.
        data_file: to train on: a file, or a DataFrame, a Dataset, a mapping of columns or a list of
            dicts.
        start: weights to start from, or what pretrained.find() gave.
        eval_files: evaluated after every epoch: one of these, or a list or tuple of them.
        cfg: how to train; None: the task's usual configuration.
        dev_split: of sentences and tagged words, the share of the rows that is evaluated instead of
            eval_files, and not trained on; which rows follows from cfg.seed, and dev.jsonl in the
            run's folder has them.
        teacher: a model that was trained on the same task, whose outputs are learnt too.
        lesson: how much they count.
        unlabelled_file: more rows, for which the teacher alone has answers.
        columns: of sentences, what the data's columns are: text_a="review", label="stars", as
            tasks.own_task has them.
    """
    if columns:
        task = own_task(task, **columns)
    data_file, evaluated = source_of(data_file), sources_of(eval_files)
    cfg, tuning = cfg or train.Config.from_json(task.train_cfg), tuning or FineTuneConfig()
    cfg.check_trainable()
    # The loss is no metric of the task, and a stop_metric all the same.
    if cfg.stop_metric is not None and cfg.stop_metric not in task.stop_metrics:
        raise UserError(
            f"stop_metric={show(cfg.stop_metric)}; expected one of {', '.join(task.stop_metrics)}"
        )
    if (cfg.patience or cfg.stop_metric) and not (evaluated or dev_split):
        raise UserError("patience and stop_metric are about evaluation; name an `eval_file`")
    # One that is named has to be there.
    devices.check(cfg)
    # A notebook names weights by their path, a command has found them already.
    if not isinstance(start, Pretrained):
        start = pretrained.find(start)
    task = task.for_start(start)
    # Lengths and layers are checked before any text is read, which may take minutes.
    task.check_start(start)
    if not 0 <= tuning.reinit_layers <= start.config.n_layers:
        raise UserError(
            f"reinit_layers={tuning.reinit_layers}; expected 0 to {start.config.n_layers}, the "
            "layers of the model"
        )
    if tuning.freeze_encoder and start.is_trained and "pooler" not in start.heads:
        warn(f"{start.file} has no pooler: `freeze_encoder` keeps one that is drawn at random")
    lesson, found = lesson or Lesson(), None
    if teacher is not None:
        tuning.check_lesson(lesson)
        found = teachers.check(teacher, lesson, unlabelled_file is not None, task, start)
    elif unlabelled_file is not None:
        raise UserError("`unlabelled_file`: its rows have a teacher's answers alone; add `teacher`")
    # The task as its training data make it: the evaluation files need its labels and columns.
    task, data = task.load_training(data_file, start.tokenizer)
    task.check_batch_size(cfg.batch_size)
    weights: Pretrained = task.fit_start(start, data)
    eval_data, rows = [task.load(file, weights.tokenizer) for file in evaluated], None
    if dev_split is not None:
        if eval_data or not 0 < dev_split < 1:
            raise UserError(
                f"dev_split={dev_split}: expected a share from 0 to 1, and no `eval_file` beside it"
            )
        data, dev = divided(task, data, dev_split, cfg.seed, weights)
        eval_data, rows = [dev], dev.file
    for read in (data, *eval_data):
        read.features.check(weights.config)
        if read.summary:
            log(read.summary)
    settings = {**task.run_settings(data, eval_data), **dataclasses.asdict(tuning)}
    run = Run(cfg, weights, task, data, eval_data, settings, tuning, rows)
    if found:
        run.learn_from(found, lesson, unlabelled_file)
    return run


def divided(
    task: Any, data: Data, dev_split: float, seed: int, start: Pretrained
) -> tuple[Data, Data]:
    """Data without a share of its rows, and that share."""
    log(data.summary)
    kept, dev = task.divide(data, (1 - dev_split, dev_split), seed, start.tokenizer)
    held_out = task.held_out(dev.examples)
    return (
        dataclasses.replace(kept, summary=f"Trained on: {kept.summary}"),
        dataclasses.replace(dev, file=held_out, summary=f"Evaluated: {dev.summary}"),
    )


def sources_of(given: Any) -> list[Any]:
    """What is evaluated: one source of rows, or a list or tuple of several."""
    several = isinstance(given, list | tuple) and not any(isinstance(x, Mapping) for x in given)
    sources = list(given) if several else [given]
    names = [f"evaluation data {n}" for n in range(1, len(sources) + 1)]
    if len(sources) == 1:
        names = ["the evaluation data"]
    return [source_of(one, name) for one, name in zip(sources, names, strict=True)]

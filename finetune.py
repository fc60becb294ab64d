"""Fine-tuning, evaluating and predicting without a command line, for any kind of task.

run = prepare(TASKS["mrpc"], "MRPC/train.tsv", "uncased_L-12_H-768_A-12", ["MRPC/dev.tsv"])
result = run.fit("runs/mrpc")                   # result.best_file, result.best["Accuracy"]
saved = load(result.best_file)
saved.evaluate("MRPC/dev.tsv")                  # {"Accuracy": .86, "F1": .90, "loss": .34}
saved.predict([("A first text.", "A second one.")])         # [Prediction("1", [.1, .9])]
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import models
import pretrained
import train
from formats.beside import CHOSEN_LATER
from formats.names import LABELLED
from formats.onnx import OnnxModel
from layers import kernels
from pretrained import Pretrained
from system import distributed
from system.files import (
    read_settings,
    whole_file,
    write_json,
)
from system.progress import progress
from tasks import (
    KINDS,
    PretrainTask,
    RankTask,
    VectorTask,
    kept,
    kind_beside,
    own_task,
    quality,
    reports,
)
from tasks.inputs import inputs_of, length_of
from tasks.table_rows import Objects, as_path, source_of
from tasks.task import Data, Task, digest_of
from tasks.teachers import Lesson, MaskedLesson, TaughtBatches
from training import devices, inference, runs
from training.batches import drain
from utils import UserError, json_text, log, rank, show, warn

CHUNK = 64  # batches of examples that are predicted at a time

# What run.json says of a teacher.
TEACHING = ("sha256 of teacher", "temperature of teacher", "teacher_weight")

# ----------------------------------------------------------------------------------------- training


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
    teacher: "Saved | None" = None
    lesson: Lesson = Lesson()  # noqa: RUF009

    def __repr__(self) -> str:
        return f"<run of {self.task.name} on {self.data!r}, {self.start!r}>"

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
        loss = self.learn(trainer, model, batches, rows) if self.teacher else self.task.loss

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

    def learn(
        self, trainer: train.Trainer, model: models.BertModel, batches: Any, rows: int
    ) -> Any:
        """The loss with what the teacher teaches, which the batches get.

        Args:
            rows: that the teacher computes at a time, about.
        """
        teacher, device, dtype = self.teacher, trainer.device, trainer.cfg.dtype
        assert teacher
        if isinstance(self.task, PretrainTask):
            if trainer.n_gpus > 1:
                raise UserError(
                    "a teacher of masked words works on one GPU, or a process each; start several "
                    "with torchrun, or add `data_parallel=False`"
                )
            # Every epoch has other masks, so that it computes each batch when it is needed.
            theirs = inference.wrap(teacher.model, device, dtype).eval()
            return MaskedLesson(self.lesson, theirs, model).loss(self.task)
        folder, outputs = trainer.save_dir.parent / "taught", self.task.taught
        # In order of length; no more at a time than a part of a training batch has.
        asked = self.data.features.batches(rows)
        # A ranker reads a query and a text together, which are inputs of its own.
        if isinstance(teacher.task, RankTask) and isinstance(self.task, VectorTask):
            queries = self.task.rows_to_rank(self.data)
            ranked = teacher.task.encode_examples(self.data.file, queries, teacher.start.tokenizer)
            outputs, asked = teacher.task.outputs, ranked.features.batches(rows)
        found = kept.outputs_of(
            *(teacher.model, [teacher.model], asked, folder, device, dtype, outputs),
            about=repr(self.task),
        )
        teacher.model.to("cpu")  # its part is done
        trainer.batches = TaughtBatches(batches, self.task.of_teacher(found, teacher.task))
        return self.lesson.loss(self.task)


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
        unlabelled_file: of sentences, more rows for which the teacher alone has answers.
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
        log(data.summary)
        shares = (1 - dev_split, dev_split)
        data, dev = task.divide(data, shares, cfg.seed, weights.tokenizer)
        rows = task.held_out(dev.examples)
        eval_data = [dataclasses.replace(dev, file=rows, summary=f"Evaluated: {dev.summary}")]
        data = dataclasses.replace(data, summary=f"Trained on: {data.summary}")
    for read in (data, *eval_data):
        read.features.check(weights.config)
        if read.summary:
            log(read.summary)
    settings = {**task.run_settings(data, eval_data), **dataclasses.asdict(tuning)}
    run = Run(cfg, weights, task, data, eval_data, settings, tuning, rows)
    if teacher is not None:
        add_teacher(run, teacher, lesson or Lesson())
    if unlabelled_file is not None:
        add_unlabelled(run, source_of(unlabelled_file, "the unlabelled data"))
    return run


def add_teacher(run: Run, file: str | Path, lesson: Lesson) -> None:
    """Let a run learn from a teacher, too."""
    run.teacher, run.lesson = find_teacher(file, run), lesson
    digest = runs.weights_digest(run.teacher.model)[:16]
    how = (digest, lesson.temperature, lesson.weight)
    run.settings.update(zip(TEACHING, how, strict=True))


def add_unlabelled(run: Run, rows: Any) -> None:
    """More rows to train a run on, for which its teacher alone has answers."""
    if not run.teacher or not run.lesson.weight:
        raise UserError("`unlabelled_file`: its rows have a teacher's answers alone; name one")
    if not hasattr(run.task, "with_unlabelled"):
        raise UserError("`unlabelled_file` is for sentences; leave it out")
    run.task, run.data = run.task.with_unlabelled(run.data, rows, run.start.tokenizer)
    run.settings["sha256 of unlabelled_file"] = digest_of(as_path(rows))[:16]
    log(run.data.summary)


def find_teacher(file: str | Path, run: Run) -> "Saved":
    """A teacher of a run's task; UserError where it answers something else, or reads otherwise."""
    task, start = run.task, run.start
    if run.tuning.boost:
        raise UserError(
            "`boost` trains on vectors that are kept, a teacher on texts; leave one out"
        )
    found = pretrained.find(file)
    if found.vocabulary.tokens != start.vocabulary.tokens:
        raise UserError(
            f"{found.file} has another vocabulary than the model that it is to teach; name a "
            "teacher of the same one"
        )
    if task.head not in (*found.heads, VectorTask.head):
        raise UserError(pretrained.lacking(found, task.head, file))
    kind, other = type(task), kind_beside(found.folder)
    # A ranker's scores teach vectors too.
    if kind is VectorTask and other is RankTask:
        kind = RankTask
        task.rows_to_rank(run.data)
    own = kind.saved(found)
    taught = task.as_taught(own, found, start) if kind is type(task) else own
    saved = load(file, taught, found, None, run.cfg.dtype, False, run.cfg.device, packed=False)
    saved.task = own
    return saved


def sources_of(given: Any) -> list[Any]:
    """What is evaluated: one source of rows, or a list or tuple of several."""
    several = isinstance(given, list | tuple) and not any(isinstance(x, Mapping) for x in given)
    sources = list(given) if several else [given]
    names = [f"evaluation data {n}" for n in range(1, len(sources) + 1)]
    if len(sources) == 1:
        names = ["the evaluation data"]
    return [source_of(one, name) for one, name in zip(sources, names, strict=True)]


def decide(saved: "Saved", data: Data, threshold: bool, calibrate: bool) -> str:
    """Choose a temperature and thresholds on data that was not trained on; what was chosen.

    They are stored in the task.json beside the model, and used from now on.
    """
    outputs, before = saved.outputs(data, bar=False), saved.task
    saved.task = before.decide(data, outputs, threshold, calibrate)
    write_json(saved.folder / before.settings_file, saved.task.to_json())
    said = []
    if calibrate:
        errors = [
            quality.calibration_error(task.outcome(data, outputs)) for task in (before, saved.task)
        ]
        said.append(
            f"temperature {saved.task.temperature:.4f}: expected calibration error "
            f"{errors[0]:.4f} before, {errors[1]:.4f} now"
        )
    if threshold:
        values = ", ".join(f"{value:.4f}" for value in saved.task.thresholds)
        said.append(f"threshold {values}")
    return f"Chosen on {data.file}: {'; '.join(said)}"


# ------------------------------------------------------------------------------------ a saved model


@dataclasses.dataclass
class Saved:
    """A trained model, ready to evaluate and predict."""

    start: Pretrained
    task: Any  # a Task, of the kind that it was trained on
    model: nn.Module
    batch_size: int
    dtype: str
    device: torch.device
    n_gpus: int

    def __repr__(self) -> str:
        return f"<{self.describe()}, {self.task!r}>"

    @property
    def file(self) -> Path:
        """Where its weights were read from."""
        return self.start.file

    @property
    def folder(self) -> Path:
        """Where evaluations of it are written: the run's folder; one of its own for a .onnx."""
        return self.file.with_suffix("") if self.start.onnx else self.file.parent

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the labels, in the order of probabilities; of a number none."""
        return tuple(getattr(self.task, "labels", ()))

    def describe(self) -> str:
        """Which file it is, in words."""
        return self.start.describe()

    def load(self, file: Any, labelled: bool = True) -> Data:
        """A file of the task, or rows that Python has, as inputs of the model."""
        return self.task.load(source_of(file), self.start.tokenizer, labelled)

    def outputs(self, data: Data, bar: bool = True) -> np.ndarray:
        """(N, ...): the model's outputs for every input."""
        data.features.check(self.start.config)
        batches, name = data.features.batches(self.batch_size), f"{self.file} on {data.file}"
        return inference.predict(
            self.model, batches, self.device, self.dtype, self.task.outputs, bar, name=name
        )

    def evaluate(self, file: Any) -> dict[str, float]:
        """The metrics of a file with labels, or of sentences of such rows that Python has."""
        data = self.load(file)
        return self.task.metrics(data, self.outputs(data))

    def predict(self, inputs: Iterable[Any] | Path) -> Any:
        """An answer for each input, in order: a list of them for what has a length.

        Of any other iterable, such as a generator, and of a Path, a file of the task, answers come
        one by one, and memory does not grow. What takes long shows a bar.

        Args:
            inputs: of sentences texts or pairs, of questions (question, text), of tags texts or
                lists of words, of choices (context, [choice, ...]); of a DataFrame, a Dataset, a
                mapping of columns or mappings as rows, the task's columns are read.
        """
        total = None
        if isinstance(inputs, Path):
            parts = self.stream(inputs, self.task.read_unlabelled(inputs), bar=True)
        else:
            total = length_of(inputs)
            examples = self.task.examples_of(inputs_of(inputs, self.task.input_columns))
            parts = self.stream("the inputs", examples, bar=True, total=total)
        answers = (answer for _, found in parts for answer in found)
        return answers if total is None else list(answers)

    def stream(
        self,
        file: str | Path,
        examples: Iterator[Any],
        waiting: bool = True,
        bar: bool = False,
        total: int | None = None,
    ) -> Iterator[tuple[Data, list[Any]]]:
        """Examples of a file and their answers, a part at a time, so that memory does not grow.

        Args:
            waiting: fill a part before it is computed; False: take what a pipe has delivered.
            bar: show progress, if it takes longer than a few seconds.
            total: how many examples there are, where it is known.
        """
        most = CHUNK * self.batch_size
        # A part has many batches: examples are sorted by length within it, and little is padded.
        chunks = iter(lambda: list(islice(examples, most)), [])
        if not waiting:
            chunks = drain(examples, most)
        n, truncation = 0, np.zeros(3, int)
        with progress(bar and rank() == 0, total=total, unit=" inputs", delay=3) as shown:
            for chunk in chunks:
                data = self.task.encode_examples(file, chunk, self.start.tokenizer)
                yield data, self.task.answers(data, self.outputs(data, bar=False))
                n += len(data.features.second)  # choices count one by one
                truncation += data.features.truncation
                shown.update(len(chunk))
        # Features of each part count what was cut off; the message comes once for the whole.
        self.task.report_truncation(file, n, truncation)


def load(
    model_file: str | Path,
    task: Task | type[Task] | None = None,
    start: Pretrained | None = None,
    batch_size: int | None = None,
    dtype: str = "auto",
    data_parallel: bool = True,
    device: str = "auto",
    packed: bool = True,
) -> Saved:
    """A trained model.

    Args:
        model_file: its .pt, the folder of its run: the best checkpoint, or a .onnx.
        task: what it was trained on; a kind of task, or None: as the file beside it says.
        start: what pretrained.find() gave of model_file, where its parts lie elsewhere.
        batch_size: inputs that are computed at once; None: 32, on a GPU 32k tokens.
        dtype, device: as those of train.Config.
        packed: compute products in the way that is measured to be the fastest; False: as training
            does, so that the same weights and texts always give the same bits.
    """
    rows = devices.ROWS if batch_size is None else batch_size
    train.Config(batch_size=rows, dtype=dtype, device=device)  # checks these values
    runs_on = devices.get_device(device)
    start = start or pretrained.find(model_file, predicting=True)
    # The head in the file says which kind of task it was trained on, or else what lies beside it.
    task = task or kind_beside(start.folder)
    head = task.head if task else next((h for h in start.heads if h in KINDS), None)
    # Vectors need no head.
    if head not in (*start.heads, VectorTask.head):
        wanted = head or " or ".join(KINDS)
        raise UserError(pretrained.lacking(start, wanted, model_file))
    if task is None or isinstance(task, type):
        task = (task or KINDS[str(head)]).saved(start)
    assert isinstance(task, Task)
    task.check_start(start)
    start = task.match_head(start, training=False)
    if start.onnx:
        if device not in ("auto", "cpu"):
            raise UserError(f"`device={device}`: a .onnx is computed on the CPU; leave it out")
        return load_onnx(start, task, batch_size or devices.ROWS, dtype)
    with models.undrawn():
        model = task.model(start.config)
    pretrained.load(model, start, task.optional)
    dtype = devices.usable_dtype(dtype, runs_on)
    n_gpus = devices.count_gpus(runs_on, device, data_parallel)
    wrapped: nn.Module = model
    if n_gpus > 1:
        wrapped = inference.wrap(model, runs_on, dtype, n_gpus)
    elif packed:
        # One device needs no wrapper: inference.predict moves the model and computes in its dtype.
        inference.prepack(model, runs_on, dtype)
    rows = devices.rows_at_once(batch_size, task.max_len, runs_on)
    return Saved(start, task, wrapped, rows, dtype, runs_on, n_gpus)


def load_onnx(start: Pretrained, task: Task, batch_size: int, dtype: str) -> Saved:
    """A trained model that onnxruntime computes, its scores in the order of the task's labels."""
    if dtype not in ("auto", "fp32"):
        raise UserError(
            f"dtype={dtype}: {start.file} computes as it was converted (checkpoint.py convert, "
            "which has `int8`); leave dtype out"
        )
    assert start.onnx
    columns = start.tensors[f"{task.head}.bias"] if task.head in LABELLED else None
    model = OnnxModel(start.onnx, columns)
    return Saved(start, task, model, batch_size, "fp32", torch.device("cpu"), 1)

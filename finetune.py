"""Fine-tuning, evaluating and predicting without a command line: what classify.py does, for scripts
and notebooks.

run = prepare(TASKS["mrpc"], "MRPC/train.tsv", pretrain_file="uncased_L-12_H-768_A-12",
dev_files=["MRPC/dev.tsv"]) result = run.fit("runs/mrpc")                               #
result.best_file, result.best["Accuracy"] saved = load(result.best_file) scores =
saved.scores(saved.reader.read("MRPC/dev.tsv"))    # (N, labels)
"""

import dataclasses
import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import checkpoint
import distributed
import models
import pretrained as start
import runs
import train
from tasks.metrics import METRICS
from tasks.records import LONG, Data, Reader, check_long, task_of_records
from tasks.sentences import (
    TASKS,
    Batches,
    Features,
    Task,
    find_labels,
    get_task,
    own_task,
    read_rows,
    with_columns,
)
from tfrecords import RECORDS
from utils import (
    UserError,
    append_digest,
    checked,
    digest_matches,
    file_digest,
    make,
    note,
    rank,
    read_json,
    say,
    short,
    show,
    whole_file,
    write_json,
)
from vectors import Pool

# --------------------------------------------------------------------------- from scores to results


def loss_of(scores: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of label ids (B,), squared error of numbers (B,), or each label's own
    cross-entropy of (B, labels).
    """
    if not labels.is_floating_point():
        return F.cross_entropy(scores, labels)
    labels = labels.to(scores.dtype)
    return (
        F.mse_loss(scores[:, 0], labels)
        if labels.ndim == 1
        else F.binary_cross_entropy_with_logits(scores, labels)
    )


def get_loss(model: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean loss of a batch: its inputs, and last its labels."""
    scores = model(*batch[:-1])
    return loss_of(
        scores.to(torch.promote_types(scores.dtype, torch.float32)), batch[-1]
    ), {}  # float64 stays


def predict(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    """The score of every label, (B, labels)."""
    return model(*batch[:-1])


def predictions(task: Task, scores: np.ndarray) -> np.ndarray:
    """(N, labels) scores -> label ids (N,), numbers (N,), or where a text may have several 0 and 1
    (N, labels).
    """
    return (
        scores[:, 0]
        if task.labels is None
        else (scores > 0).astype(int)
        if task.separator
        else scores.argmax(1)
    )


def probabilities(task: Task, scores: np.ndarray) -> np.ndarray:
    """(N, labels) scores -> the probability of every label."""
    logits = torch.from_numpy(scores.astype(np.float64))
    return (logits.sigmoid() if task.separator else logits.softmax(1)).numpy()


def measure(task: Task, predicted: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The metrics of a task; where one is not defined, a note says so."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results = {name: METRICS[name](predicted, labels) for name in task.metrics}
    for warning in caught:
        note(str(warning.message))
    return results


def constant(task: Task, labels: np.ndarray) -> float:
    """What the first metric is for whoever always answers the mean, or the most frequent label."""
    values, counts = np.unique(labels, axis=0, return_counts=True)
    answer = labels.mean() if task.labels is None else values[counts.argmax()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return METRICS[task.metrics[0]](np.broadcast_to(answer, labels.shape), labels)


# ------------------------------------------------------------------------------------- the training


@dataclasses.dataclass
class Result:
    """What a training run came to."""

    file: Path  # the last checkpoint
    best_file: Path  # the one that was best on the first of the dev files
    last: dict[str, float]  # its metrics on the dev files; empty where there are none
    best: dict[str, float]


@dataclasses.dataclass
class Run:
    """Everything a training run needs, checked; nothing is written yet."""

    cfg: train.Config
    begin: start.Start  # weights, shape, vocabulary
    reader: Reader
    data: Data
    dev: list[Data]
    settings: dict[str, Any]  # what shapes the result, beside cfg and begin
    freeze_encoder: bool = False
    boost: bool = False
    reinit_layers: int = 0

    def __repr__(self) -> str:
        return f"<run of {self.task.name} on {self.data!r}, {self.begin!r}>"

    @property
    def task(self) -> Task:
        """The task, with its labels."""
        return self.reader.task

    def model(self) -> models.Classifier:
        """The model that training starts with, as it follows from the seed."""
        torch.manual_seed(self.cfg.seed)
        model = models.Classifier(self.begin.config, self.task.n_outputs)
        self.begin.load(model, ("pooler", "classifier"), "with its classifier")
        if self.reinit_layers:
            model.reinitialise(self.reinit_layers)
        if self.freeze_encoder:
            model.freeze()
        return model

    def fit(
        self,
        save_dir: str | Path,
        log_dir: str | None = None,
        data_parallel: bool = True,
        cache_dir: str | Path | None = None,
        shard: bool = False,
    ) -> Result:
        """Train, evaluating after every epoch. The folder gets all that evaluating needs."""
        if shard and self.boost:
            raise UserError(
                "--shard True and --boost: the last layer alone is trained, and fits everywhere; "
                "leave one out"
            )
        folder, cfg, model = Path(save_dir), self.cfg, self.model()
        batches = Batches(self.data.features, cfg.batch_size, cfg.seed)
        trainer = train.Trainer(
            cfg,
            model,
            batches,
            folder,
            {"config": dataclasses.asdict(self.begin.config)},
            data_parallel=data_parallel,
            log_dir=log_dir,
            shard=shard,
        )
        with self.begin.held(folder, model, cfg, self.settings):
            write_json(folder / "task.json", task_json(self.reader))
            say(train.device_name(trainer.device, trainer.n_gpus))
            return self.fit_held(
                trainer, model, batches, Path(cache_dir or folder.parent / "pooled")
            )

    def fit_held(
        self, trainer: train.Trainer, model: models.Classifier, batches: Batches, cache: Path
    ) -> Result:
        """fit() in a folder that no other process trains in."""
        cfg, task = self.cfg, self.task
        dev_batches = [Batches(data.features, cfg.batch_size) for data in self.dev]
        dev: list[train.Source] = [*dev_batches]
        if self.boost:
            trainer.batches = Pooled(pool(model, cfg, batches, cache), batches)
            dev = [Pooled(pool(model, cfg, b, cache), b) for b in dev_batches]

        def check() -> dict[str, float]:
            results: dict[str, float] = {}
            for data, evaluated in zip(self.dev, dev, strict=True):
                found = evaluate(task, data.features, trainer.evaluate(predict, evaluated))
                say(
                    f"{data.file.name}: "
                    f"{', '.join(f'{name} {value:.4f}' for name, value in found.items())}"
                )
                further = f" ({data.file.stem})" if results else ""
                results |= {name + further: value for name, value in found.items()}
            return results

        file = trainer.train(get_loss, check if dev else None, each_epoch=True)
        checks = distributed.from_first(
            {} if rank() else runs.read_checks(trainer.save_dir / "metrics.jsonl")
        )
        best = trainer.best
        if best:
            say(f"Best: {best['metric']} {best['value']:.4f}, {trainer.best_file}")
        return Result(
            file, trainer.best_file, checks.get(trainer.step, {}), checks.get(best.get("step"), {})
        )


def evaluate(task: Task, features: Features, scores: np.ndarray) -> dict[str, float]:
    """A task's metrics and loss from the scores of its inputs."""
    scores, labels = features.average(scores), features.example_labels
    loss = loss_of(torch.from_numpy(scores), torch.from_numpy(labels))
    return {**measure(task, predictions(task, scores), labels), "loss": float(loss)}


def prepare(
    task: Task | None,
    data_file: str | Path,
    train_cfg: str | None = None,
    model_cfg: str | None = None,
    pretrain_file: str | Path | None = None,
    vocab: str | None = None,
    max_len: int | None = None,
    do_lower_case: bool | None = None,
    *,
    dev_files: Sequence[str | Path] = (),
    long: str = "truncate",
    meta_data_file: str | None = None,
    freeze_encoder: bool = False,
    boost: bool = False,
    reinit_layers: int = 0,
    settings: dict[str, Any] | None = None,
) -> Run:
    """Read and check everything before anything is written or trained.

    Args:
        task: may be None where a meta_data_file names it.
        train_cfg: JSON of train.Config; None: config/train_TASK.json.
        max_len: longest input in tokens; None: 128, or what the meta_data_file says.
        dev_files: evaluated after every epoch.
        long: one of inputs.LONG.
        settings: of train.Config, instead of those in train_cfg.

    The other arguments are flags of classify.py.
    """
    check_long(long)
    if boost and not freeze_encoder:
        raise UserError(
            "--boost encodes every text once, before training; it needs --freeze_encoder True"
        )
    if freeze_encoder and reinit_layers:
        raise UserError(
            "--reinit_layers starts layers anew and --freeze_encoder would keep them so; leave one "
            "out"
        )
    if meta_data_file:
        task, length = task_of_records(meta_data_file, task)
        max_len = length if max_len is None else max_len
    if task is None:
        raise UserError("no task; name one with --task")
    usual = Path(__file__).parent / "config" / f"train_{'own' if task.own else task.name}.json"
    if not train_cfg and not usual.is_file():
        raise UserError(
            f"{task.name} has no data to train on; train on {task.kin}, or name a --train_cfg"
        )
    cfg = train.Config.from_json(train_cfg or usual, **(settings or {}))
    if cfg.stop_metric not in (None, "loss", *task.metrics):
        raise UserError(
            f"stop_metric={show(cfg.stop_metric)}; expected one of "
            f"{', '.join((*task.metrics, 'loss'))}"
        )
    if (cfg.patience or cfg.stop_metric) and not dev_files:
        raise UserError("patience and stop_metric are about evaluation; name an --eval_file")
    rows = None if RECORDS.search(str(data_file)) else read_rows(task, data_file)
    if rows:
        task = with_columns(task, rows)
    if task.labels == ():
        if not rows:
            raise UserError(
                f"{data_file} has no names of labels; name its --task, --labels or --meta_data_file"
            )
        task = find_labels(task, rows.examples)
    max_len = 128 if max_len is None else max_len
    begin = start.find(pretrain_file, model_cfg, vocab, do_lower_case, max_len)
    if not 0 <= reinit_layers <= begin.config.n_layers:
        raise UserError(
            f"reinit_layers={reinit_layers}; expected 0 to {begin.config.n_layers}, the layers of "
            "the model"
        )
    reader = Reader(task, begin.tokenizer, max_len, long)
    data = reader.encode_rows(rows) if rows else reader.read(data_file)
    dev = [reader.read(file) for file in dev_files]
    source = begin.source
    if source and (
        source.labels is None or label_columns(source, task) != list(range(task.n_outputs))
    ):
        begin.source = source.without("classifier")
    for read in (data, *dev):
        say(read.summary)
    shaping = {
        **task_json(reader),
        "freeze_encoder": freeze_encoder,
        "boost": boost,
        "reinit_layers": reinit_layers,
        "sha256 of data_file": file_digest(data_file)[:16],
        **{
            f"sha256 of eval_file {i}": file_digest(file)[:16]
            for i, file in enumerate(dev_files, start=1)
        },
    }
    return Run(cfg, begin, reader, data, dev, shaping, freeze_encoder, boost, reinit_layers)


# --------------------------------------------------------------------------- a frozen encoder, once


class Pooled:
    """The batches of others, with pooled vectors instead of tokens: (B, D) and labels."""

    def __init__(self, vectors: np.ndarray, batches: Batches):
        self.vectors, self.batches = vectors, batches
        self.first, self.rows, self.describe = batches.first, batches.rows, batches.describe

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, n: int) -> tuple[Tensor, Tensor]:
        return self.part(n, 0, 1)

    def part(self, n: int, first: int, step: int) -> tuple[Tensor, Tensor]:
        rows = self.rows(n)[first::step]
        return torch.from_numpy(self.vectors[rows]), torch.from_numpy(
            self.batches.features.labels[rows]
        )


def pool(model: models.Classifier, cfg: train.Config, batches: Batches, folder: Path) -> np.ndarray:
    """The pooled vectors (N, D) of all inputs, kept in a file that is named by a digest of encoder,
    texts and dtype, and that ends with a digest of itself.
    """
    digest = hashlib.sha256(cfg.dtype.encode())
    for part in (model.transformer, model.pooler):
        digest.update(runs.weights_digest(part).encode())
    features = batches.features
    for array in (features.ids, features.starts, features.second):
        digest.update(array.tobytes())
    file, shape = (
        folder / f"{digest.hexdigest()[:32]}.npy",
        (len(features), model.transformer.cfg.dim),
    )
    vectors = None
    if file.is_file() and digest_matches(file):  # else, or cut short: make it again
        vectors = np.load(file, mmap_mode="r")
    if not distributed.any_of(int(vectors is None or vectors.shape != shape))[
        0
    ]:  # every process has it
        assert vectors is not None
        return vectors
    vectors = train.Trainer(cfg, Pool(model)).evaluate(predict, batches)
    with whole_file(file) as f:
        np.save(f, vectors)
        append_digest(f)
    return vectors


# ------------------------------------------------------------------------------------ a saved model


def task_json(reader: Reader) -> dict[str, Any]:
    """What evaluating needs to know: the task, its labels, max_len, and whatever is not as the
    table of tasks says.
    """
    task, usual = reader.task, TASKS[reader.task.name]
    other = {
        field.name: getattr(task, field.name)
        for field in dataclasses.fields(Task)
        if getattr(task, field.name) != getattr(usual, field.name)
    }
    return {
        "task": task.name,
        **other,
        "labels": task.labels,
        "max_len": reader.max_len,
        **({"long": reader.long} if reader.long != "truncate" else {}),
    }


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What task.json holds beside the task's own fields."""

    task: str | None = None  # name of the task; None: labels alone are known
    max_len: int = 128  # tokens
    long: str = "truncate"  # one of inputs.LONG


def read_task_json(file: Path) -> tuple[Evaluation, Task | None]:
    """How a saved model is evaluated, and its task, where the file names one."""
    values = read_json(file) if file.is_file() else {}
    names = {field.name for field in dataclasses.fields(Evaluation)}
    how = make(Evaluation, {name: value for name, value in values.items() if name in names}, file)
    if how.max_len < 1 or how.long not in LONG:
        raise UserError(
            f"{file}: max_len is {how.max_len}, long {show(how.long)}; expected 1 or more, and "
            f"{LONG}"
        )
    changes = checked(
        Task, {name: value for name, value in values.items() if name not in names}, file
    )
    if how.task is None:
        return how, None
    task = dataclasses.replace(get_task(how.task), **changes)
    if not task.metrics or not set(task.metrics) <= set(METRICS):
        raise UserError(
            f"{file}: metrics are {show(task.metrics)}; expected some of {', '.join(METRICS)}"
        )
    return how, task


def task_of_labels(source: checkpoint.Checkpoint) -> Task | None:
    """Sentences of one's own, with the labels that a classifier has; of a single score, a number."""
    if len(source.tensors["classifier.bias"]) == 1:
        return own_task(TASKS["csv"], labels="number")
    return dataclasses.replace(TASKS["csv"], labels=tuple(source.labels)) if source.labels else None


def label_columns(source: checkpoint.Checkpoint, task: Task) -> list[int] | None:
    """Which column of a classifier's scores each label of the task has; None if its labels are
    others.

    The labels neutral, entailment, contradiction, and MNLI -> [2, 1, 0]. LABEL_0 ... are the task's
    own order.
    """
    n = len(source.tensors.get("classifier.bias", ()))
    numbered = [f"label_{i}" for i in range(n)]
    names = [name.lower() for name in source.labels or numbered]
    if n != task.n_outputs or (task.labels is None and names != numbered):
        return None
    if names == numbered or task.labels is None:
        return list(range(n))
    return (
        [names.index(label.lower()) for label in task.labels]
        if {*names} == {*map(str.lower, task.labels)}
        else None
    )


@dataclasses.dataclass
class Saved:
    """A saved model, ready to evaluate and predict."""

    file: Path
    reader: Reader
    trainer: train.Trainer
    columns: list[int]  # of the scores, in the order of the task's labels
    source: str  # which file it is, in words

    def __repr__(self) -> str:
        return f"<{self.source}, {self.task!r}>"

    @property
    def task(self) -> Task:
        """The task, with its labels."""
        return self.reader.task

    @property
    def device(self) -> str:
        """What it runs on, in words."""
        return train.device_name(self.trainer.device, self.trainer.n_gpus)

    def scores(self, data: Data, bar: bool = True) -> np.ndarray:
        """(N, labels): the scores of every example of a file, those of a long text's windows
        averaged.
        """
        batches = Batches(data.features, self.trainer.cfg.batch_size)
        return data.features.average(self.trainer.evaluate(predict, batches, bar))[:, self.columns]


def load(
    model_file: str | Path,
    task: str | None = None,
    table: dict[str, Any] | None = None,
    train_cfg: str | None = None,
    model_cfg: str | None = None,
    vocab: str | None = None,
    max_len: int | None = None,
    do_lower_case: bool | None = None,
    long: str | None = None,
    data_parallel: bool = True,
    settings: dict[str, Any] | None = None,
) -> Saved:
    """A saved model. What is not given is read from its folder; `table` are arguments of
    tasks.own_task.
    """
    begin = start.find(model_file, model_cfg, vocab, do_lower_case, head="classifier")
    source = begin.source
    assert source
    saved, trained = read_task_json(source.file.parent / "task.json")
    named = get_task(task) if task else None
    if (
        trained and named and trained.own and named.own
    ):  # the same columns in a table of another form
        named = dataclasses.replace(trained, name=named.name, form=named.form)
    elif trained and named and trained.name not in (named.name, named.kin):
        raise UserError(
            f"{source.file} was trained on {trained.name}, not on {named.name}; leave --task out"
        )
    if (chosen := named or trained or task_of_labels(source)) is None:
        raise UserError(f"no task.json beside {source.file}; name the task with --task")
    if trained and table and table.get("separator") not in (None, trained.separator):
        raise UserError(
            f"{source.file} was trained with {trained.separator or 'no'} separator between labels; "
            "leave "
            f"--separator out"
        )
    kind = own_task(chosen, **(table or {}))
    if kind.labels == () and source.labels:
        kind = dataclasses.replace(kind, labels=tuple(source.labels))
    if (columns := label_columns(source, kind)) is None:
        theirs = short(
            ", ".join(source.labels or [str(len(source.tensors["classifier.bias"]))]), 80
        )
        ours = (
            short(", ".join(kind.labels), 80)
            if kind.labels
            else "none"
            if kind.labels == ()
            else "a number"
        )
        raise UserError(
            f"{source.file} has the labels {theirs}, and {kind.name} has {ours}; name the same "
            "labels in its "
            f"configuration"
        )
    cfg = (
        train.Config.from_json(train_cfg, **(settings or {}))
        if train_cfg
        else train.Config(**(settings or {}))
    )
    max_len = saved.max_len if max_len is None else max_len
    checkpoint.check_fit(source.config, begin.vocab, max_len)
    long = long or saved.long
    check_long(long)
    model = models.Classifier(source.config, kind.n_outputs)
    checkpoint.load(model, source)
    trainer = train.Trainer(cfg, model, data_parallel=data_parallel)
    return Saved(
        source.file, Reader(kind, begin.tokenizer, max_len, long), trainer, columns, source.words()
    )

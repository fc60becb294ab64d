"""Sentences and pairs with a class, several labels or a number: GLUE, SuperGLUE, and your own.

task = TASKS["mrpc"]
data = task.load("MRPC/dev.tsv", tokenizer)
answers = task.answers(data, scores)  # [Prediction(answer="1", probabilities=[.1, .9]), ...]
"""

import dataclasses
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import models
from formats.finding import settings_beside
from formats.tfrecords import RECORDS
from pretrained import Pretrained
from system.files import read_json
from tasks.features import LONG, encode
from tasks.labels import question
from tasks.metrics import METRICS, NEEDS
from tasks.records import read_features, read_meta_data
from tasks.rows import (
    Example,
    Rows,
    TableTask,
    count_labels,
    header_hint,
    open_rows,
    read_rows,
)
from tasks.task import CONFIG, Data, exact
from tokenization import FullTokenizer
from utils import UserError, checked, nearest, short, show, typed, warn


class Prediction(NamedTuple):
    """A model's answer to a text or a pair."""

    answer: str  # the label, the labels with a separator between them, or the number
    probabilities: list[float]  # of every label, in the task's order; empty for a number


@dataclasses.dataclass(frozen=True, repr=False)
class SentenceTask(TableTask):
    """What is learned from labelled sentences or pairs."""

    metric_names: tuple[str, ...] = ("Accuracy",)  # of metrics.METRICS, the most important first
    # Files beside train.tsv, to evaluate. superglue.FILES has their names in SuperGLUE.
    dev: tuple[str, ...] = ("dev.tsv",)
    test: tuple[str, ...] = ("test.tsv",)  # without labels, to predict
    submission: tuple[str, ...] = ()  # what GLUE's site wants their predictions to be called
    compatible_with: str = ""  # a task whose models do this one too
    any_texts: bool = False  # texts and pairs alike: of a model that does not say which it takes
    max_len: int = dataclasses.field(default=128, kw_only=True)  # tokens
    long: str = "truncate"  # what becomes of longer texts: one of features.LONG

    head: ClassVar[str] = "classifier"
    data_flag: ClassVar[str] = "data_file"
    fresh: ClassVar[tuple[str, ...]] = ("pooler", "classifier")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.long not in LONG:
            raise UserError(f"`long={show(self.long)}`: expected {' or '.join(LONG)}")

    # ------------------------------------------------------------------------------------- rows

    def load(self, file: str | Path, tokenizer: FullTokenizer, labelled: bool = True) -> Data:
        """A table of the task, or a TFRecord file of the official code."""
        # A TFRecord holds token ids, made by a tokenizer that is not known; they are taken as they
        # are.
        if RECORDS.search(str(file)):
            if self.group:
                raise UserError(
                    f"{file}: a TFRecord does not say which rows answer one {self.group}; name "
                    f"{self.name}'s own file"
                )
            features = read_features(self, Path(file), len(tokenizer.vocab), labelled)
            return Data(Path(file), features, [], f"{file}: {len(features)} records")
        rows = read_rows(self, file, labelled)
        if rows.separator != self.separator:
            raise UserError(f"{file}: its texts have several labels, and the model gives them one")
        return self.encode_rows(rows, tokenizer)

    def load_training(
        self, file: str | Path, tokenizer: FullTokenizer
    ) -> tuple["SentenceTask", Data]:
        """The task with the labels and columns of its training data; and the data."""
        if RECORDS.search(str(file)):
            # Ids alone do not say what the labels are called, and task.json has to name them.
            if self.lacks_labels:
                raise UserError(
                    f"{file} has no names of labels; name its `task`, `labels` or `meta_data_file`"
                )
            return self, self.load(file, tokenizer)
        rows = read_rows(self, file)
        task = self.of_training(rows)
        return task, task.encode_rows(rows, tokenizer)

    def of_training(self, rows: Rows) -> "SentenceTask":
        """The task as the rows of its training data make it."""
        # The columns are fixed before the labels are sought, so that later files are read from the
        # same ones.
        task = self.with_columns(rows)
        if rows.separator != task.separator:
            task = own_task(task, separator=rows.separator)
        # The labels of the training data decide how many outputs the head has.
        if not task.lacks_labels:
            return task
        try:
            return task.with_labels(rows.examples)
        except UserError as error:
            # A header that was taken for a row looks like odd labels too.
            if rows.header or self.header is not None:
                raise
            raise UserError(f"{error}. {header_hint(rows.first)}") from None

    def encode_rows(self, rows: Rows, tokenizer: FullTokenizer) -> Data:
        """All rows of a table; reports how much was truncated."""
        data = self.encode_examples(rows.file, rows.examples, tokenizer)
        self.report_truncation(rows.file, len(rows.examples), data.features.truncation)
        return dataclasses.replace(data, summary=rows.describe())

    def encode_examples(
        self, file: str | Path, examples: list[Example], tokenizer: FullTokenizer
    ) -> Data:
        """Rows that were read already."""
        texts = [example.texts for example in examples]
        features = encode(texts, tokenizer, self.max_len, self.long)
        labels = self.label_array([example.label for example in examples])
        lines = np.array([example.line for example in examples], int)
        return Data(Path(file), features.labelled(labels, lines), examples)

    def read_unlabelled(self, file: str | Path) -> Iterator[Example]:
        """The rows of a table."""
        return open_rows(self, file, labelled=False)[1]

    @property
    def input_columns(self) -> tuple[str, ...]:
        """The columns of the texts."""
        return (self.text_a,) if self.text_b is None else (self.text_a, self.text_b)

    def examples_of(self, inputs: Iterable[Any]) -> Iterator[Example]:
        """Texts, or pairs of texts."""
        n_texts = 1 if self.text_b is None else 2
        for line, given in enumerate(inputs, start=1):
            texts = given if isinstance(given, list | tuple) else (given,)
            as_many = len(texts) == n_texts or (self.any_texts and len(texts) in (1, 2))
            if not as_many or not all(isinstance(text, str) for text in texts):
                expected = "a text" if n_texts == 1 else "a pair of texts"
                raise UserError(f"input {line} is {show(given, 40)}; expected {expected}")
            yield Example(line, texts[0], texts[1] if len(texts) == 2 else None, None)

    def report_truncation(
        self,
        file: str | Path,
        n_rows: int,
        truncation: np.ndarray,
        remedy: str = "`long=window` keeps them",
    ) -> None:
        """Say how much of a file was cut off, if anything was."""
        super().report_truncation(file, n_rows, truncation, remedy)

    def with_columns(self, rows: Rows) -> "SentenceTask":
        """Of the user's own data, with the columns that a header has named.

        Other files of the task then have to have them.
        """
        uses = ("text_a", "text_b", "label")
        columns: dict[str, Any] = {use: rows.columns[use] for use in uses if use in rows.columns}
        return dataclasses.replace(self, **columns) if self.custom and rows.header else self

    def with_labels(self, examples: list[Example]) -> "SentenceTask":
        """With the labels that examples have, sorted; UserError where there can be none."""
        # Sorted, so that ids do not depend on the order of the rows. list(set(...)) would give
        # others in every run.
        counts = count_labels(examples, self.separator)
        found = sorted(counts)
        column = f"the column {self.label.replace('|', ' or ')!r}"

        def line_of(label: str) -> int:
            return next(e.line for e in examples if label in self.split_label(e.label or ""))

        # With a separator one label is enough: a text may have it or not.
        if len(found) < 2 and not (self.separator and found):
            raise UserError(
                f"{column} has the label {', '.join(map(repr, found)) or 'none'} in all "
                f"{len(examples)} rows; expected two labels or more; name the right column with "
                "`label`"
            )
        # Labels that hardly repeat are sentences or numbers: the wrong column was named.
        if len(found) > 2 and len(found) > len(examples) / 2:
            raise UserError(
                f"{column} has {len(found)} labels in {len(examples)} rows, such as "
                f"{show(found[0], 40)}; name the right column with `label`, name all labels with "
                "`labels`, or use `labels=number`"
            )
        # Labels are written to tables, in which an empty one or a line end could not be read back.
        if odd := [name for name in found if not name or {"\t", "\n", "\r"} & set(name)]:
            raise UserError(
                f"{column}, line {line_of(odd[0])}: the label is {odd[0]!r}; expected no empty "
                "labels, and no tabs or line ends in them; mend the line, or remove it"
            )
        asked, odd_label = ("", "") if self.sure else question(counts)
        if asked:
            raise UserError(
                f"{column}, line {line_of(odd_label)}: {asked}; mend the file, or say that all of "
                "them are labels: `labels=all`"
            )
        return dataclasses.replace(self, labels=tuple(found))

    # ------------------------------------------------------------------------------------ model

    def model(self, config: models.Config) -> models.Classifier:
        """A classifier with a score for each label, or one for a number."""
        return models.Classifier(config, self.n_outputs)

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean of loss_of() over a batch."""
        return self.loss_of(exact(self.outputs(model, batch)), batch.labels), {}

    def loss_of(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of classes (B,), of each label (B, labels), squared error of numbers."""
        # Class ids stay integers, as cross_entropy takes them.
        if self.kind == "class":
            return F.cross_entropy(scores, labels)
        labels = labels.to(scores.dtype)
        if self.kind == "number":
            # STS-B is regression: the head has one output, and its error is squared.
            return F.mse_loss(scores[:, 0], labels)
        # Several labels are independent: each is a decision of its own.
        return F.binary_cross_entropy_with_logits(scores, labels)

    def outputs(self, model: nn.Module, batch: Any) -> Tensor:
        """The score of every label, (B, labels)."""
        return model(**batch.inputs)

    # ---------------------------------------------------------------------------------- answers

    def answers(self, data: Data, outputs: np.ndarray) -> list[Prediction]:
        """A prediction for each example."""
        # A text in several windows has the mean of their scores.
        scores = data.features.average(outputs)
        predicted = self.predicted(scores)
        if self.number:
            return [Prediction(self.name_of(answer), []) for answer in predicted]
        chances = self.probabilities(scores).tolist()
        return [
            Prediction(self.name_of(answer), row)
            for answer, row in zip(predicted, chances, strict=True)
        ]

    def predicted(self, scores: np.ndarray) -> np.ndarray:
        """(N, labels) scores -> ids (N,), numbers (N,), or rows of 0 and 1 (N, labels)."""
        if self.number:
            return scores[:, 0]
        if self.separator:
            # A score of 0 is a probability of one half.
            return (scores > 0).astype(int)
        return scores.argmax(1)

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """(N, labels) scores -> the probability of every label."""
        # In float64, so that the printed probabilities add up to 1.
        logits = torch.from_numpy(scores.astype(np.float64))
        return (logits.sigmoid() if self.separator else logits.softmax(1)).numpy()

    def name_of(self, answer: Any) -> str:
        """A label or prediction in words."""
        if self.number:
            # Six digits are what a float32 has to say.
            return f"{answer:.6g}"
        if not self.separator:
            return self.labels[answer]
        present = [name for name, has in zip(self.labels, answer, strict=True) if has]
        return self.separator.join(present)

    def metrics(self, data: Data, outputs: np.ndarray) -> dict[str, float]:
        """The task's metrics and the loss."""
        scores, labels = data.features.average(outputs), data.features.example_labels
        # The loss of averaged scores, which is not the average of the windows' losses.
        loss = self.loss_of(torch.from_numpy(scores), torch.from_numpy(labels))
        return {**self.measure(self.predicted(scores), data), "loss": float(loss)}

    @property
    def stop_metrics(self) -> tuple[str, ...]:
        """The metrics, and the loss."""
        return (*self.metric_names, "loss")

    def measure(self, predicted: np.ndarray, data: Data) -> dict[str, float]:
        """The task's metrics of a prediction per example; where one is not defined, a note."""
        labels, groups = data.features.example_labels, groups_of(data.examples)
        # A metric that is not defined warns; a note is one line, without the source line of a
        # warning.
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            results = {
                name: self.metric(name, predicted, labels, groups) for name in self.metric_names
            }
        for warning in caught:
            warn(str(warning.message))
        return results

    def metric(
        self, name: str, predicted: np.ndarray, labels: np.ndarray, groups: np.ndarray
    ) -> float:
        """One metric, with whatever else it needs to know."""
        known = {"n_labels": len(self.labels), "groups": groups}
        more = {NEEDS[name]: known[NEEDS[name]]} if name in NEEDS else {}
        return METRICS[name](predicted, labels, **more)

    def majority_baseline(self, labels: np.ndarray) -> float:
        """The first metric of always answering the mean, or the most frequent label."""
        # The mean is the best constant for squared error.
        if self.number:
            answer = labels.mean()
        else:
            values, counts = np.unique(labels, axis=0, return_counts=True)
            answer = values[counts.argmax()]
        # Its correlation is not defined, and a warning about an answer that nobody gave would
        # mislead.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            constant = np.broadcast_to(answer, labels.shape)
            return self.metric(self.metric_names[0], constant, labels, np.arange(len(labels)))

    # --------------------------------------------------------------------------------- settings

    @property
    def train_cfg(self) -> Path:
        """config/train_TASK.json, train_own.json for the user's own data."""
        # Data of one's own share a configuration, whatever the form of the table.
        file = CONFIG / f"train_{'own' if self.custom else self.name}.json"
        if not file.is_file():
            raise UserError(
                f"{self.name} has no data to train on; train on {self.compatible_with}, or name a "
                "`train_cfg`"
            )
        return file

    def to_json(self) -> dict[str, Any]:
        """The task's name, labels and max_len, and whatever is not as in TASKS."""
        # Only what differs is written, so that the file shows what is special about the model.
        usual = TASKS[self.name]
        other = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            # `number` follows from labels being null, and would be said twice.
            if value != getattr(usual, field.name) and field.name not in ("number", "sure"):
                other[JSON_NAMES.get(field.name, field.name)] = value
        labels = None if self.number else self.labels
        return {"task": self.name, **other, "labels": labels, "max_len": self.max_len}

    @classmethod
    def saved(cls, source: Pretrained) -> "SentenceTask":
        """The task in the task.json beside weights, or that their labels make."""
        return find_task(source)

    def match_head(self, source: Pretrained, training: bool) -> Pretrained:
        """Weights whose classifier scores the task's labels, in their order.

        For training another classifier is left out, for answering it is a UserError.
        """
        columns = self.label_columns(source)
        # A classifier without names of labels may have any order; for training it starts anew.
        if training:
            in_order = columns == list(range(self.n_outputs))
            return source if source.labels and in_order else source.without(self.head)
        if columns is None:
            n_scores = len(source.tensors[f"{self.head}.bias"])
            theirs = f"{n_scores} labels without names"
            if source.labels:
                theirs = f"the labels {short(', '.join(source.labels), 80)}"
            ours = "none" if self.lacks_labels else self.describe_labels()
            raise UserError(
                f"{source.file} has {theirs}, and {self.name} has {short(ours, 80)}; name the same "
                "labels in its configuration"
            )
        # A checkpoint may be shared, so its dict is copied before two entries change.
        tensors = dict(source.tensors)
        for name in (f"{self.head}.weight", f"{self.head}.bias"):
            # The rows of weight (labels, D) and bias (labels,) go into the order of the task's
            # labels.
            tensors[name] = tensors[name][columns]
        return dataclasses.replace(source, tensors=tensors)

    def label_columns(self, source: Pretrained) -> list[int] | None:
        """Which column of a classifier's scores each label has; None if its labels are others.

        The labels neutral, entailment, contradiction, and MNLI -> [2, 1, 0]. LABEL_0, LABEL_1 and
        so on are the task's own order.
        """
        n_scores = len(source.tensors.get(f"{self.head}.bias", ()))
        if n_scores != self.n_outputs:
            return None
        # The same names, also where they differ in capitals alone: US and us are two labels.
        if source.labels and set(source.labels) == set(self.labels):
            return [source.labels.index(label) for label in self.labels]
        # Hugging Face calls labels LABEL_0, LABEL_1 where nobody has named them.
        numbered = [f"label_{i}" for i in range(n_scores)]
        names = [name.lower() for name in source.labels or numbered]
        if names == numbered:
            return list(range(n_scores))
        # Published models often write MNLI's labels in capitals.
        ours = [label.lower() for label in self.labels]
        if self.number or len(set(names)) < n_scores or set(names) != set(ours):
            return None
        return [names.index(label) for label in ours]


def groups_of(examples: list[Example]) -> np.ndarray:
    """(N,) the same id for examples of one line and group: the answers to a question, say."""
    ids: dict[tuple[int, str], int] = {}
    # setdefault gives a new group the next number, and a known one its own.
    return np.array([ids.setdefault((e.line, e.group), len(ids)) for e in examples], int)


def find_task(
    source: Pretrained, named: SentenceTask | None = None, separator: str | None = None
) -> SentenceTask:
    """The task that a classifier was trained on.

    Args:
        source: its weights; the task.json beside them says what the task is.
        named: what the user says it is; its files may have another form.
        separator: what the user says stands between labels.
    """
    saved, trained = read_task(source.folder / SentenceTask.settings_file)
    known = trained or task_of_labels(source)
    # Either side may say what the task is; where both do, they must agree.
    if known and known.custom and named and named.custom:
        # Columns and labels are the trained model's, the form of the file is the user's.
        named = dataclasses.replace(known, name=named.name, form=named.form)
    elif trained and named and trained.name not in (named.name, named.compatible_with):
        raise UserError(
            f"{source.file} was trained on {trained.name}, not on {named.name}; leave `task` out"
        )
    # Another separator would change how many labels the model was trained on.
    if trained and separator not in (None, trained.separator):
        raise UserError(
            f"{source.file} was trained with {trained.separator or 'no'} separator between labels; "
            "leave `separator` out"
        )
    task = named or known
    if task is None:
        raise UserError(f"no task.json beside {source.file}; name the task with `task`")
    # max_len and long are the model's, even where the task is named anew.
    return dataclasses.replace(task, **saved)


def task_of_labels(source: Pretrained) -> SentenceTask | None:
    """Data of one's own, with the labels that a classifier has; of a single score, a number."""
    usual = TASKS["csv"]
    # Weights from elsewhere may have fewer positions than a task's usual length.
    length = min(usual.max_len, source.config.max_len)
    task = dataclasses.replace(usual, max_len=length, any_texts=True)
    n_scores = len(source.tensors.get("classifier.bias", ()))
    file, settings = settings_beside(source.folder / source.file.name)
    problem = settings.get("problem_type")
    # transformers leaves out the names of two labels that have none of their own.
    labels = source.labels
    if not labels and "architectures" in settings:
        labels = [f"LABEL_{i}" for i in range(n_scores)]
    # Hugging Face's word for texts that have several labels, or none.
    if problem == "multi_label_classification" and labels:
        return dataclasses.replace(own_task(task, separator=","), labels=tuple(labels))
    # One score is a number, as Hugging Face saves a regression.
    if n_scores == 1:
        return own_task(task, labels="number")
    if problem == "regression":
        raise UserError(
            f"{file}: problem_type is regression, and the classifier has {n_scores} scores; "
            "expected one, for a number"
        )
    return dataclasses.replace(task, labels=tuple(labels)) if labels else None


# What a field is called in task.json, where that is another name.
JSON_NAMES = {"metric_names": "metrics", "compatible_with": "kin", "submission": "hand_in"}


# The fields that say how a model is evaluated, whatever the task is called.
EVALUATION = ("max_len", "long")


def read_task(file: Path) -> tuple[dict[str, Any], SentenceTask | None]:
    """How a model is evaluated by the task.json beside it, and the task, where it names one."""
    values = read_json(file) if file.is_file() else {}
    name = typed(values.pop("task", None), str | None, f"{file}: task")
    # null stands for a number, for which there are no labels.
    if values.get("labels", ()) is None:
        values |= {"labels": [], "number": True}
    for ours, theirs in JSON_NAMES.items():
        if theirs in values:
            values[ours] = values.pop(theirs)
    # A file may be edited by hand, so that its keys and types are checked like those of a
    # configuration.
    changes = checked(SentenceTask, values, file)
    try:
        task = dataclasses.replace(get_task(name or "csv"), **changes)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    # Other checks of max_len ask the model, which is not read yet.
    if task.max_len < 1:
        raise UserError(f"{file}: max_len is {task.max_len}; expected 1 or more")
    if not task.metric_names or not set(task.metric_names) <= set(METRICS):
        raise UserError(
            f"{file}: metrics are {show(task.metric_names)}; expected some of {', '.join(METRICS)}"
        )
    # A model without a task is evaluated as the task that the user names says.
    known = EVALUATION if name else [field for field in EVALUATION if field in changes]
    evaluation = {field: getattr(task, field) for field in known}
    return evaluation, task if name else None


# ---------------------------------------------------------------------------------------- the table

# The order of the labels is the order of the head's outputs, and part of what a saved model means.
NLI = ("contradiction", "entailment", "neutral")
ENTAILMENT = ("entailment", "not_entailment")
CORRELATIONS = ("Pearson", "Spearman")
BOOLEANS = ("false", "true")  # as JSON writes them

ALL = (
    # CoLA's train and dev have no header; its test file has one. Matthews, since its classes are
    # uneven.
    SentenceTask(
        "cola", "sentence|3", label="label|1", metric_names=("Matthews",), submission=("CoLA.tsv",)
    ),
    SentenceTask("sst2", "sentence", submission=("SST-2.tsv",)),
    SentenceTask(
        "mrpc",
        "#1 String",
        "#2 String",
        label="Quality",
        metric_names=("Accuracy", "F1"),
        submission=("MRPC.tsv",),
    ),
    SentenceTask(
        "stsb",
        "sentence1",
        "sentence2",
        label="score",
        labels=(),
        number=True,
        metric_names=CORRELATIONS,
        submission=("STS-B.tsv",),
    ),
    # QQP's files have rows with too few fields, which are skipped while training.
    SentenceTask(
        "qqp",
        "question1",
        "question2",
        label="is_duplicate",
        metric_names=("Accuracy", "F1"),
        submission=("QQP.tsv",),
        short_rows=True,
    ),
    SentenceTask(
        "mnli",
        "sentence1",
        "sentence2",
        label="gold_label",
        labels=NLI,
        dev=("dev_matched.tsv", "dev_mismatched.tsv"),
        test=("test_matched.tsv", "test_mismatched.tsv"),
        submission=("MNLI-m.tsv", "MNLI-mm.tsv"),
        compatible_with="xnli",
    ),
    SentenceTask("qnli", "question", "sentence", labels=ENTAILMENT, submission=("QNLI.tsv",)),
    # GLUE's tables and SuperGLUE's JSON lines.
    SentenceTask(
        "rte",
        "sentence1|premise",
        "sentence2|hypothesis",
        labels=ENTAILMENT,
        submission=("RTE.tsv",),
    ),
    SentenceTask("wnli", "sentence1", "sentence2", submission=("WNLI.tsv",)),
    # The diagnostic set has no training data: an MNLI model answers it.
    SentenceTask(
        "ax",
        "sentence1",
        "sentence2",
        labels=NLI,
        metric_names=("Matthews",),
        test=("diagnostic.tsv",),
        submission=("AX.tsv",),
        compatible_with="mnli",
    ),
    # SuperGLUE. 95% of the rows of BoolQ's val and of MultiRC's are whole at these lengths; at 128
    # tokens it would be half of the former and none of the latter.
    SentenceTask("boolq", "passage", "question", labels=BOOLEANS, form="jsonl", max_len=256),
    SentenceTask(
        "cb",
        "premise",
        "hypothesis",
        labels=NLI,
        form="jsonl",
        metric_names=("Accuracy", "Macro-F1"),
        max_len=256,
    ),
    # Of these three, superglue.FLATTEN makes the columns.
    SentenceTask("wic", "sentence1", "sentence2", labels=BOOLEANS, form="jsonl"),
    SentenceTask("wsc", "text", labels=BOOLEANS, form="jsonl"),
    SentenceTask(
        "multirc",
        "passage",
        "answer",
        form="jsonl",
        group="question",
        metric_names=("F1a", "EM"),
        max_len=512,
    ),
    # PAWS-X has NS for a sentence that was not translated.
    SentenceTask("pawsx", "sentence1", "sentence2", no_text="NS"),
    # XNLI's train and dev files name their columns differently, and spell one label in another way;
    # a language on its own has three columns without a header.
    SentenceTask(
        "xnli",
        "premise|sentence1|0",
        "hypo|sentence2|1",
        label="label|gold_label|2",
        labels=NLI,
        aliases=(("contradictory", "contradiction"),),
        compatible_with="mnli",
    ),
    # Data of one's own.
    SentenceTask("csv", "text|sentence|0", label="label|1", labels=(), form="csv"),
    SentenceTask("tsv", "text|sentence|0", label="label|1", labels=(), form="tsv"),
    SentenceTask("jsonl", "text|sentence|0", label="label|1", labels=(), form="jsonl"),
)
TASKS = {task.name: task for task in ALL}


# Tasks of other kinds, and the commands that know them.
ELSEWHERE = {
    **dict.fromkeys(("squad", "record", "mlqa", "xquad"), "squad.py"),
    **dict.fromkeys(("ner", "pos", "conll2003", "wnut17", "wikiann", "germeval"), "tag.py"),
    **dict.fromkeys(("swag", "copa", "commonsenseqa", "arc", "openbookqa"), "choose.py"),
}


def get_task(name: str) -> SentenceTask:
    """A task by its name: mrpc, SST-2, sts_b ..."""
    # sts_b, STS-B and stsb are one task: folders and other programs spell it in different ways.
    key = name.lower().replace("-", "").replace("_", "")
    if key in ELSEWHERE:
        raise UserError(f"`task={short(name)}` is a task of {ELSEWHERE[key]}; see docs/tasks.md")
    if key not in TASKS:
        raise UserError(
            f"`task={short(name)}`: unknown task{nearest(key, TASKS)}; the tasks are "
            f"{', '.join(TASKS)}"
        )
    return TASKS[key]


def own_task(
    task: SentenceTask,
    text_a: str | None = None,
    text_b: str | None = None,
    label: str | None = None,
    labels: str | None = None,
    header: bool | None = None,
    separator: str | None = None,
    delimiter: str | None = None,
) -> SentenceTask:
    """A task whose columns or labels are others than usual.

    Args:
        labels: with commas between them, "number", or "all" that are found, whatever they are.
        delimiter: a character, or "tab".
    """
    if delimiter in ("tab", "\\t"):
        delimiter = "\t"
    given = {"text_a": text_a, "text_b": text_b, "label": label, "header": header}
    given |= {"delimiter": delimiter}
    changes: dict[str, Any] = {name: v for name, v in given.items() if v is not None}
    # "number" is a word of its own, which no list of at least two labels can be.
    if labels == "number":
        if separator:
            raise UserError(
                "`separator` is for several labels of a text, `labels=number` for a number; leave "
                "one out"
            )
        changes |= {"labels": (), "number": True, "metric_names": CORRELATIONS}
    elif labels == "all":
        changes |= {"sure": True}
    elif labels is not None:
        names = [name.strip() for name in labels.split(",")]
        if len(set(names)) < len(names) or not all(names) or len(names) < 2:
            raise UserError(
                f"`labels={labels}`: expected different labels with commas between them, or number"
            )
        changes |= {"labels": tuple(names), "number": False}
    if separator:
        if not task.custom:
            raise UserError(
                f"`separator` is for data of your own; a text of {task.name} has one label"
            )
        # Over several labels accuracy asks for all of them at once, so that F1 says more.
        changes |= {"separator": separator, "metric_names": ("F1", "Accuracy")}
    return dataclasses.replace(task, **changes)


def task_of_meta_data(meta_data_file: str, task: SentenceTask | None) -> SentenceTask:
    """The task that the JSON beside a TFRecord describes, with its max_len.

    Labels that no task knows are called 0, 1, ...
    """
    meta = read_meta_data(meta_data_file)
    if task is None:
        name = meta.processor_type.lower().replace("-", "").replace("_", "")
        # A task that is not GLUE's is data of one's own; the form does not matter to a TFRecord.
        task = TASKS.get(name, TASKS["tsv"])
    # Without labels of its own the task takes their number from the meta data, and numbers as
    # names.
    if task.lacks_labels:
        if meta.number:
            changes: dict[str, Any] = {"number": True, "metric_names": CORRELATIONS}
        else:
            n_labels = meta.num_labels or 0
            changes = {"labels": tuple(map(str, range(n_labels))), "metric_names": ("Accuracy",)}
        task = dataclasses.replace(task, **changes)
    if meta.number != task.number:
        what = "labels, not numbers" if meta.number else "numbers, not labels"
        raise UserError(f"{meta_data_file}: {task.name} has {what}; name another `task`")
    if not meta.number and meta.num_labels not in (None, task.n_outputs):
        raise UserError(
            f"{meta_data_file}: num_labels is {meta.num_labels}; {task.name} has "
            f"{', '.join(task.labels)}"
        )
    # Inputs were cut at this length when the file was made.
    return dataclasses.replace(task, max_len=meta.max_seq_length)

"""Sentences and pairs with a class, several labels or a number: GLUE, SuperGLUE, and your own.

task = TASKS["mrpc"]
data = task.load("MRPC/dev.tsv", tokenizer)
answers = task.answers(data, scores)  # [Prediction(answer="1", probabilities=[.1, .9]), ...]
"""

import dataclasses
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import models
from formats.tfrecords import RECORDS
from pretrained import Pretrained
from tasks import decisions, known, splits
from tasks.encoding import encode
from tasks.labels import labels_in_words, places
from tasks.lessons import soft_labels
from tasks.metrics import Outcome, measure
from tasks.records import read_features
from tasks.resolve import learn, resolve, to_json
from tasks.rows import Rows, count_labels, open_rows, read_rows
from tasks.table_config import READING, Example, TableConfig
from tasks.table_rows import Objects, Source, as_path
from tasks.task import CONFIG, AnsweringTask, Data, exact
from tokenization import FullTokenizer
from utils import UserError, short, show, warn


class Answer(NamedTuple):
    """An answer, which may be unpacked."""

    answer: str  # the label, the labels with a separator between them, or the number
    probabilities: list[float]  # of every label, in the task's order; empty for a number


class Prediction(Answer):
    """A model's answer to a text or a pair, which knows the names of the labels."""

    task: "SentenceTask"

    @property
    def scores(self) -> dict[str, float]:
        """The probability of each label by its name."""
        return dict(zip(self.task.labels, self.probabilities, strict=True))

    @property
    def confidence(self) -> float:
        """The probability of the most probable label; of several, of the least certain decision."""
        if self.task.separator:
            return min(max(p, 1 - p) for p in self.probabilities)
        return max(self.probabilities, default=math.nan)


@dataclasses.dataclass(frozen=True, repr=False)
class SentenceTask(TableConfig, AnsweringTask):
    """What is learned from labelled sentences or pairs."""

    head: ClassVar[str] = "classifier"
    data_flag: ClassVar[str] = "data_file"
    fresh: ClassVar[tuple[str, ...]] = ("pooler", "classifier")

    # ------------------------------------------------------------------------------------- rows

    def load(self, file: Source, tokenizer: FullTokenizer, labelled: bool = True) -> Data:
        """A table of the task, or a TFRecord file of the official code."""
        # A TFRecord holds token ids, made by a tokenizer that is not known; they are taken as they
        # are.
        if isinstance(file, str | Path) and RECORDS.search(str(file)):
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

    def load_training(self, file: Source, tokenizer: FullTokenizer) -> tuple["SentenceTask", Data]:
        """The task with the labels and columns of its training data; and the data."""
        if RECORDS.search(str(file)):
            # Ids alone do not say what the labels are called, and task.json has to name them.
            if self.lacks_labels:
                raise UserError(
                    f"{file} has no names of labels; name its `task`, `labels` or `meta_data_file`"
                )
            return self, self.load(file, tokenizer)
        rows = read_rows(self, file)
        task = learn(self, rows)
        return task, task.encode_rows(rows, tokenizer)

    def encode_rows(self, rows: Rows, tokenizer: FullTokenizer) -> Data:
        """All rows of a table; reports how much was truncated."""
        data = self.encode_examples(rows.file, rows.examples, tokenizer)
        self.report_truncation(str(rows.file), len(rows.examples), data.features.truncation)
        return dataclasses.replace(data, summary=rows.describe())

    def divide(
        self, data: Data, shares: Sequence[float], seed: int, tokenizer: FullTokenizer
    ) -> list[Data]:
        """The parts of data, whose labels have the same shares, and whose texts differ."""
        if not data.examples:
            raise UserError(f"{data.file} has no texts to divide; name an `eval_file`")
        part_of = splits.split_examples(self, data.examples, shares, seed)
        parts = []
        for i in range(len(shares)):
            examples = [e for e, part in zip(data.examples, part_of, strict=True) if part == i]
            part = self.encode_examples(data.file, examples, tokenizer)
            words = labels_in_words(count_labels(examples, self.separator))
            parts.append(dataclasses.replace(part, summary=f"{len(examples)} rows ({words})"))
        return parts

    def held_out(self, examples: list[Example]) -> Objects:
        """Examples with their lines, texts and labels."""
        return splits.held_out(self, examples)

    def encode_examples(
        self, file: Source, examples: list[Example], tokenizer: FullTokenizer
    ) -> Data:
        """Rows that were read already."""
        texts = [example.texts for example in examples]
        features = encode(texts, tokenizer, self.max_len, self.long)
        labels = self.label_array([example.label for example in examples])
        lines = np.array([example.line for example in examples], int)
        return Data(as_path(file), features.labelled(labels, lines), examples)

    def read_unlabelled(self, file: Source) -> Iterator[Example]:
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
        file: Source,
        n_rows: int,
        truncation: np.ndarray,
        remedy: str = "`long=window` keeps them",
    ) -> None:
        """Say how much of a file was cut off, if anything was."""
        super().report_truncation(file, n_rows, truncation, remedy)

    # ------------------------------------------------------------------------------------ model

    def model(self, config: models.Config) -> models.Classifier:
        """A classifier with a score for each label, or one for a number."""
        return models.Classifier(config, self.n_outputs)

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean of loss_of() over a batch, with the labels' weights."""
        scores = exact(self.outputs(model, batch))
        weights = scores.new_tensor(self.class_weights) if self.class_weights else None
        return self.loss_of(scores, batch.labels, weights), {}

    def loss_of(self, scores: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Cross-entropy of classes (B,), of each label (B, labels), squared error of numbers."""
        # Class ids stay integers, as cross_entropy takes them.
        if self.problem_type == "single_label_classification":
            if weights is None:
                return F.cross_entropy(scores, labels)
            # Divided by the rows, not by their weights: a batch has the same loss in any parts.
            return F.cross_entropy(scores, labels, weights, reduction="sum") / len(labels)
        labels = labels.to(scores.dtype)
        if self.problem_type == "regression":
            # STS-B is regression: the head has one output, and its error is squared.
            return F.mse_loss(scores[:, 0], (labels - self.mean) / self.spread)
        # Several labels are independent: each is a decision of its own.
        return F.binary_cross_entropy_with_logits(scores, labels, pos_weight=weights)

    def of_teacher(self, outputs: np.ndarray, teacher: Any) -> np.ndarray:
        """Numbers are learnt in standard deviations from the mean of one's own data."""
        if not self.number:
            return outputs
        numbers = outputs * teacher.spread + teacher.mean
        return ((numbers - self.mean) / self.spread).astype(np.float32)

    def imitation(self, ours: Tensor, theirs: Tensor, batch: Any, temperature: float) -> Tensor:
        """Divergence of classes, of each label by itself, squared error of numbers."""
        if self.number:
            return F.mse_loss(ours, theirs)
        if self.separator:
            return soft_labels(ours, theirs, temperature).mean()
        return super().imitation(ours, theirs, batch, temperature)

    def outputs(self, model: nn.Module, batch: Any) -> Tensor:
        """The score of every label, (B, labels)."""
        return model(**batch.inputs)

    # ---------------------------------------------------------------------------------- answers

    def answers(self, data: Data, outputs: np.ndarray) -> list[Prediction]:
        """A prediction for each example."""
        # A text in several windows has the mean of their scores.
        scores = data.features.of_examples(outputs)
        predicted = self.predicted(scores)
        names, rows = [self.name_of(answer) for answer in predicted], [list[float]()] * len(scores)
        if not self.number:
            probabilities = self.probabilities(scores)
            rows = probabilities.tolist()
            # What is less probable than the threshold is left unsaid.
            if self.thresholds and not self.separator:
                sure = probabilities.max(1) >= self.thresholds[0]
                names = [name if said else "" for name, said in zip(names, sure, strict=True)]
        found = [Prediction(*pair) for pair in zip(names, rows, strict=True)]
        for prediction in found:
            prediction.task = self
        return found

    def predicted(self, scores: np.ndarray) -> np.ndarray:
        """(N, labels) scores -> ids (N,), numbers (N,), or rows of 0 and 1 (N, labels)."""
        if self.number:
            return scores[:, 0] * self.spread + self.mean
        if not self.separator:
            return scores.argmax(1)
        if not self.thresholds:
            # A score of 0 is a probability of one half.
            return (scores > 0).astype(int)
        return (self.probabilities(scores) >= np.array(self.thresholds)).astype(int)

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """(N, labels) scores -> the probability of every label."""
        return decisions.probabilities(scores, bool(self.separator), self.temperature)

    def name_of(self, answer: Any) -> str:
        """A label or prediction in words."""
        if self.scale:
            low, high = self.scale
            return str(min(max(round(float(answer)), low), high))
        if self.number:
            # Six digits are what a float32 has to say.
            return f"{answer:.6g}"
        if not self.separator:
            return self.labels[answer]
        present = [name for name, has in zip(self.labels, answer, strict=True) if has]
        return self.separator.join(present)

    def metrics(self, data: Data, outputs: np.ndarray) -> dict[str, float]:
        """The task's metrics and the loss."""
        scores, labels = data.features.of_examples(outputs), data.features.example_labels
        # The loss of averaged scores, which is not the average of the windows' losses.
        loss = self.loss_of(torch.from_numpy(scores), torch.from_numpy(labels))
        return {**self.measure(self.outcome(data, outputs)), "loss": float(loss)}

    def outcome(self, data: Data, outputs: np.ndarray) -> Outcome:
        """What was predicted of labelled data, and what is right."""
        # A text in several windows has several inputs; its score is their mean.
        scores = data.features.of_examples(outputs)
        return Outcome(
            self.predicted(scores),
            data.features.example_labels,
            np.zeros(0) if self.number else self.probabilities(scores),
            self.labels,
            groups_of(data.examples) if data.examples else np.arange(len(scores)),
        )

    @property
    def stop_metrics(self) -> tuple[str, ...]:
        """The metrics, and the loss."""
        return (*self.metric_names, "loss")

    def decide(self, data: Data, outputs: np.ndarray, threshold: bool, calibrate: bool) -> Any:
        """The task with a temperature and thresholds that suit a model's outputs of some data."""
        if self.number:
            raise UserError("`threshold` and `calibrate` are for labels; the answer is a number")
        scores, labels = data.features.of_examples(outputs), data.features.example_labels
        task = self
        if calibrate:
            task = dataclasses.replace(task, temperature=decisions.temperature(scores, labels))
        if threshold:
            p = task.probabilities(scores)
            found = [decisions.confidence_threshold(p, labels)] if not self.separator else []
            found = found or decisions.best_thresholds(p, labels)
            task = dataclasses.replace(task, thresholds=tuple(found))
        return task

    def measure(self, outcome: Outcome) -> dict[str, float]:
        """The task's metrics; where one is not defined, a note."""
        # A metric that is not defined warns; a note is one line, without the source line of a
        # warning.
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            results = {name: measure(name, outcome) for name in self.metric_names}
        for warning in caught:
            warn(str(warning.message))
        return results

    def majority(self, outcome: Outcome) -> Outcome:
        """The same with one answer to all: the mean, or the most frequent label."""
        labels = outcome.labels
        # The mean is the best constant for squared error.
        if self.number:
            return outcome._replace(predicted=np.broadcast_to(labels.mean(), labels.shape))
        values, counts = np.unique(labels, axis=0, return_counts=True)
        most = np.broadcast_to(values[counts.argmax()], labels.shape)
        # All examples have the same probabilities.
        same = np.ones(outcome.probabilities.shape) / max(len(self.labels), 1)
        return outcome._replace(predicted=most, probabilities=same)

    def majority_baseline(self, labels: np.ndarray) -> float:
        """The first metric of always answering the mean, or the most frequent label."""
        none = np.zeros((len(labels), len(self.labels)))
        outcome = Outcome(labels, labels, none, self.labels, np.arange(len(labels)))
        # Its correlation is not defined, and a warning about an answer that nobody gave would
        # mislead.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return measure(self.metric_names[0], self.majority(outcome))

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
        return to_json(self)

    def run_settings(self, data: Data, eval_data: list[Data]) -> dict[str, Any]:
        """What run.json records; also how files were read, where that was said."""
        said = {name: getattr(self, name) for name in READING if getattr(self, name)}
        said.pop("plain_numbers", None)
        return super().run_settings(data, eval_data) | said

    @classmethod
    def new(cls, **given: Any) -> "SentenceTask":
        """The task to train, as resolve() has it."""
        return cls(**vars(resolve(**given)))

    @classmethod
    def saved(cls, source: Pretrained, **given: Any) -> "SentenceTask":
        """The task in the task.json beside weights, or that their labels make."""
        return cls(**vars(resolve(source, **given)))

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
        """Which column of a classifier's scores each label has; None if its labels are others."""
        n_scores = len(source.tensors.get(f"{self.head}.bias", ()))
        if n_scores != self.n_outputs:
            return None
        return places(self.labels, source.labels or (), n_scores, self.number)


def groups_of(examples: list[Example]) -> np.ndarray:
    """(N,) the same id for examples of one line and group: the answers to a question, say."""
    ids: dict[tuple[int, str], int] = {}
    # setdefault gives a new group the next number, and a known one its own.
    return np.array([ids.setdefault((e.line, e.group), len(ids)) for e in examples], int)


TASKS = {name: SentenceTask(**vars(config)) for name, config in known.KNOWN.items()}


def get_task(name: str) -> SentenceTask:
    """A task by its name: mrpc, SST-2, sts_b ..."""
    return TASKS[known.find(name).name]

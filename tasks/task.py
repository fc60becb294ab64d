"""What a kind of task has to say, so that one way of training and predicting serves them all.

    task = TASKS["mrpc"]
    task, data = task.load_training("train.tsv", tokenizer)
    model = task.model(config)
    loss, _ = task.loss(model, Batches(data.features, batch_size=32, seed=42)[0])

A kind of task is a class in a file of its own: sentences.py, questions.py, tags.py, choices.py.
"""

import abc
import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

import models
from pretrained import Pretrained
from system.files import file_digest, read_json
from tasks.encoding import report_truncation
from tasks.lessons import divergence, exact
from tasks.table_rows import Source
from tokenization import FullTokenizer
from utils import UserError, checked, nearest, show

CONFIG = Path(__file__).parent.parent / "config"


@dataclasses.dataclass(frozen=True)
class Data:
    """A file as inputs of a model, and its examples for answers and messages."""

    file: Any  # a Path, or what else has rows: table_rows.Objects
    features: Any  # Features, or what else makes batches of inputs: batches(batch_size, seed)
    examples: list[Any]  # none of a TFRecord or of text to pre-train on
    summary: str = ""  # what was understood of the file, in a line

    def __repr__(self) -> str:
        return f"<{self.summary or self.file}: {self.features}>"

    def __len__(self) -> int:
        """How many examples there are."""
        return len(self.examples) or len(self.features.example_labels)


@dataclasses.dataclass(frozen=True)
class Task(abc.ABC):
    """What is learnt from a file: its inputs, head, loss and metrics.

    The fields of a subclass are all that shapes the data: where columns are, labels, lengths.
    """

    name: str
    max_len: int = dataclasses.field(kw_only=True)  # tokens of an input
    # Of texts that are not UTF-8. It belongs to a file, so that no saved task has it.
    encoding: str | None = dataclasses.field(default=None, kw_only=True)

    head: ClassVar[str]  # the name of its head in a checkpoint
    mark: ClassVar[str] = ""  # a setting that no other kind with that head has
    settings_file: ClassVar[str] = "task.json"  # what lies beside a trained model
    settings: ClassVar[tuple[str, ...]] = ()  # the fields that it has
    data_flag: ClassVar[str] = "train_file"  # what a run calls the file that it was trained on
    # Heads that weights may lack when training starts, and those that they may lack afterwards.
    fresh: ClassVar[tuple[str, ...]]
    optional: ClassVar[tuple[str, ...]] = ()
    may_lack_labels: ClassVar[bool] = (
        False  # whether a row without a label is an input all the same
    )
    each_epoch: ClassVar[bool] = True  # evaluated after every epoch; False: at every checkpoint

    @property
    def complete(self) -> str:
        """What weights are that have its head, in words."""
        return f"with its {self.head}"

    # ------------------------------------------------------------------------------------- data

    @abc.abstractmethod
    def load(self, file: Any, tokenizer: FullTokenizer, labelled: bool = True) -> Data:
        """A file with labels, or without them, as inputs of a model."""

    @abc.abstractmethod
    def load_training(self, file: Any, tokenizer: FullTokenizer) -> tuple[Any, Data]:
        """The task with all that follows from its training data, such as labels; and the data."""

    # ------------------------------------------------------------------------------------ model

    @abc.abstractmethod
    def model(self, config: models.Config) -> models.BertModel:
        """A model with fresh weights."""

    def begin_heads(
        self, model: Any, new: Sequence[str], data: Data, begun: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Let heads that weights lack begin with more than random numbers; what run.json says so.

        Args:
            begun: the run.json of a run that goes on.
        """
        return {}

    @abc.abstractmethod
    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss of a batch, and further means to log."""

    def as_taught(self, teacher: Any, theirs: Pretrained, ours: Pretrained) -> Any:
        """The task that a teacher is loaded for, so that its outputs are comparable to one's own.

        Args:
            teacher: the task that it was trained on.
            theirs, ours: the weights of teacher and student.
        """
        return self

    def of_teacher(self, outputs: np.ndarray, teacher: Any) -> np.ndarray:
        """What a teacher's outputs are in one's own units."""
        return outputs

    def taught(self, model: nn.Module, batch: Any) -> Tensor:
        """(B, ...): what a teacher's are compared with; alike in all batches but for B."""
        return exact(self.outputs(model, batch))

    def imitation(self, ours: Tensor, theirs: Tensor, batch: Any, temperature: float) -> Tensor:
        """How far what taught() gives is from what it gives of a teacher, 0 where it is equal."""
        return divergence(ours, theirs, temperature).mean()

    @abc.abstractmethod
    def outputs(self, model: nn.Module, batch: Any) -> Tensor:
        """(B, ...): what metrics and answers need of a batch's inputs."""

    @abc.abstractmethod
    def metrics(self, data: Data, outputs: np.ndarray) -> dict[str, float]:
        """The metrics of labelled data, the one that matters most first."""

    @property
    @abc.abstractmethod
    def metric_names(self) -> tuple[str, ...]:
        """What metrics() gives."""

    @property
    def stop_metrics(self) -> tuple[str, ...]:
        """What the best checkpoint may be chosen by."""
        return self.metric_names

    # --------------------------------------------------------------------------------- settings

    @property
    def train_cfg(self) -> Path:
        """The usual training configuration."""
        return CONFIG / f"train_{self.name}.json"

    def to_json(self) -> dict[str, Any]:
        """What evaluating needs to know, for a file beside the model."""
        return {name: getattr(self, name) for name in self.settings}

    @classmethod
    def new(cls, **given: Any) -> Any:
        """The task to train: the usual one, but for the fields that are given."""
        return cls(**given)

    @classmethod
    def saved(cls, source: Pretrained, **given: Any) -> Any:
        """The task that weights were trained on, but for the fields that are given.

        The settings file beside them says it; without one it is the usual task.
        """
        file = source.folder / cls.settings_file
        values = read_json(file) if file.is_file() else {}
        # Weights of another kind of task may serve this one.
        if cls.mark not in values and cls.mark:
            values = {}
        if unknown := sorted(values.keys() - set(cls.settings)):
            raise UserError(
                f"{file}: unknown key {show(unknown[0])}{nearest(unknown[0], cls.settings)}; known "
                f"are {', '.join(cls.settings)}"
            )
        # Weights from elsewhere may have fewer positions than a task's usual length.
        usual: Any = cls.__dataclass_fields__["max_len"].default
        values.setdefault("max_len", min(usual, source.config.max_len))
        known = checked(cls, cls.of_weights(values, source), file)
        try:
            task = cls(**known)
        except UserError as error:
            raise UserError(f"{file}: {error}") from None
        # All at once: what follows from a field that is given follows from that.
        return cls(**known | given) if given else task

    @classmethod
    def of_weights(cls, values: dict[str, Any], source: Pretrained) -> dict[str, Any]:
        """The settings of a saved task, with what its weights themselves say."""
        return values

    def match_head(self, source: Pretrained, training: bool) -> Pretrained:
        """Weights whose head is the task's own; by default they are taken as they are.

        For training the head of another task is left out; for answering it is a UserError.
        """
        return source

    def for_start(self, start: Pretrained) -> Any:
        """The task with what the weights that it starts from say, where it was not said."""
        return self

    def check_start(self, start: Pretrained) -> None:
        """UserError where a model cannot take the task's inputs."""
        start.config.check_length(self.max_len)

    def check_batch_size(self, n: int) -> None:
        """UserError where batches of n examples teach nothing."""
        return

    def fit_start(self, start: Pretrained, data: Data) -> Pretrained:
        """What training starts from, as the task and its data need it."""
        # A head of another task is left out here, so that it starts anew.
        if not start.is_trained:
            return start
        return self.match_head(start, training=True)

    def run_settings(self, data: Data, eval_data: list[Data]) -> dict[str, Any]:
        """What the run's run.json records of the task and its data."""
        # A digest of each file: the same path with other contents is another run.
        files = {self.data_flag: data.file}
        files |= {f"eval_file {i}": one.file for i, one in enumerate(eval_data, start=1)}
        digests = {f"sha256 of {name}": digest_of(file)[:16] for name, file in files.items()}
        return {**self.to_json(), **digests}


def digest_of(source: Any) -> str:
    """A digest of a file, or of rows that Python has."""
    if not isinstance(source, Path):
        return source.digest
    if not source.is_dir():
        return file_digest(source)
    # A collection: the digests of its files, by name.
    files = sorted((*source.glob("*.jsonl"), *source.glob("qrels/*.tsv")))
    parts = [f"{file.relative_to(source)} {file_digest(file)}" for file in files]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class AnsweringTask(Task):
    """A kind of supervised task: each example has an answer, which can be predicted."""

    answer_columns: ClassVar[str] = ""  # the first line of a file of answers
    may_lack_labels: ClassVar[bool] = True

    @abc.abstractmethod
    def read_unlabelled(self, file: Source) -> Iterator[Any]:
        """The examples of a file to predict, one by one."""

    @property
    @abc.abstractmethod
    def input_columns(self) -> tuple[str, ...]:
        """What is read of mappings and DataFrames to predict; `a|b` goes by either name."""

    @abc.abstractmethod
    def examples_of(self, inputs: Iterable[Any]) -> Iterator[Any]:
        """What a notebook has in hand, such as texts, as examples, one by one."""

    @abc.abstractmethod
    def encode_examples(self, file: Source, examples: list[Any], tokenizer: FullTokenizer) -> Data:
        """Examples that were read already, as inputs of a model."""

    @abc.abstractmethod
    def answers(self, data: Data, outputs: np.ndarray) -> list[Any]:
        """An answer for each example, from the outputs of the data's inputs."""

    def divide(
        self, data: Data, shares: Sequence[float], seed: int, tokenizer: FullTokenizer
    ) -> list[Data]:
        """The parts of data, which have equal shares of each label, and no text in common."""
        raise UserError("`dev_split` divides sentences and tagged words; name an `eval_file`")

    def check_sizes(self, file: Any, examples: list[Any]) -> None:
        """UserError where examples are too large to be trained on."""
        return

    def with_unlabelled(self, data: Data, file: Any, tokenizer: FullTokenizer) -> Data:
        """Data with the examples of another file behind its own, whose labels mean nothing."""
        examples = list(self.read_unlabelled(file))
        if not examples:
            raise UserError(f"{file} has no rows; expected texts")
        self.check_sizes(file, examples)
        more = self.encode_examples(file, examples, tokenizer).features
        self.report_truncation(file, len(more.second), more.truncation)
        summary = f"{data.summary}; and {len(examples)} rows of {file} without labels"
        return dataclasses.replace(data, features=data.features.joined(more), summary=summary)

    def report_truncation(
        self, file: Source, n_rows: int, truncation: np.ndarray, remedy: str = ""
    ) -> None:
        """Say how much of a file was cut off; the arguments are those of features."""
        report_truncation(file, n_rows, truncation, self.max_len, remedy)

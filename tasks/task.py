"""What a kind of task has to say, so that one way of training and predicting serves them all.

    task = TASKS["mrpc"]
    task, data = task.load_training("train.tsv", tokenizer)
    model = task.model(config)
    loss, _ = task.loss(model, Batches(data.features, batch_size=32, seed=42)[0])

A kind of task is a class in a file of its own: sentences.py, questions.py, tags.py, choices.py.
"""

import abc
import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

import models
from formats.loading import Checkpoint
from system.files import file_digest, read_json
from tasks.features import Features
from tokenization import FullTokenizer
from utils import UserError, checked, nearest, note, show

CONFIG = Path(__file__).parent.parent / "config"


@dataclasses.dataclass(frozen=True)
class Data:
    """A file as inputs of a model, and its examples for answers and messages."""

    file: Path
    features: Features
    examples: list[Any]  # none of a TFRecord
    summary: str = ""  # what was understood of the file, in a line

    def __repr__(self) -> str:
        return f"<{self.summary or self.file}: {self.features}>"


@dataclasses.dataclass(frozen=True)
class Task(abc.ABC):
    """A kind of supervised task: its rows, features, head, loss, answers, metrics and output.

    The fields of a subclass are all that shapes the data: where columns are, labels, lengths.
    """

    name: str
    max_len: int = dataclasses.field(kw_only=True)  # tokens of an input

    head: ClassVar[str]  # the name of its head in a checkpoint
    settings_file: ClassVar[str] = "task.json"  # what lies beside a trained model
    settings: ClassVar[tuple[str, ...]] = ()  # the fields that it has
    answer_columns: ClassVar[str] = ""  # the first line of a file of answers
    # Heads that weights may lack when training starts.
    fresh: ClassVar[tuple[str, ...]]

    # ------------------------------------------------------------------------------------- rows

    @abc.abstractmethod
    def load(self, file: str | Path, tokenizer: FullTokenizer, labelled: bool = True) -> Data:
        """A file with labels, or without them, as inputs of a model."""

    @abc.abstractmethod
    def load_training(self, file: str | Path, tokenizer: FullTokenizer) -> tuple[Any, Data]:
        """The task with all that follows from its training data, such as labels; and the data."""

    @abc.abstractmethod
    def read_unlabelled(self, file: str | Path) -> Iterator[Any]:
        """The examples of a file to predict, one by one."""

    @property
    @abc.abstractmethod
    def input_columns(self) -> tuple[str, ...]:
        """What is read of mappings and DataFrames to predict; `a|b` goes by either name."""

    @abc.abstractmethod
    def examples_of(self, inputs: Iterable[Any]) -> Iterator[Any]:
        """What a notebook has in hand, such as texts, as examples, one by one."""

    @abc.abstractmethod
    def encode_examples(
        self, file: str | Path, examples: list[Any], tokenizer: FullTokenizer
    ) -> Data:
        """Examples that were read already, as inputs of a model."""

    def report_truncation(
        self, file: str | Path, n_rows: int, truncation: np.ndarray, remedy: str = ""
    ) -> None:
        """Say how much of a file was cut off, if anything was.

        Args:
            truncation: the Features' own.
            remedy: what keeps it.
        """
        n_truncated, n_lost, n_kept = truncation
        if not n_truncated:
            return
        message = (
            f"{file}: {n_truncated} of {n_rows} rows are longer than max_len={self.max_len}; "
            f"{n_lost} of their tokens are cut off, {n_lost / (n_lost + n_kept):.1%} of all"
        )
        if remedy:
            message += f"; {remedy}"
        note(message)

    # ------------------------------------------------------------------------------------ model

    @abc.abstractmethod
    def model(self, config: models.Config) -> models.BertModel:
        """A model with fresh weights."""

    @abc.abstractmethod
    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss of a batch, and further means to log."""

    @abc.abstractmethod
    def outputs(self, model: nn.Module, batch: Any) -> Tensor:
        """(B, ...): what answers need of a batch's inputs."""

    # ---------------------------------------------------------------------------------- answers

    @abc.abstractmethod
    def answers(self, data: Data, outputs: np.ndarray) -> list[Any]:
        """An answer for each example, from the outputs of the data's inputs."""

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
    def saved(cls, source: Checkpoint) -> Any:
        """The task that weights were trained on, as the settings file beside them says.

        Without one it is the usual task.
        """
        file = source.folder / cls.settings_file
        values = read_json(file) if file.is_file() else {}
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
            return cls(**known)
        except UserError as error:
            raise UserError(f"{file}: {error}") from None

    @classmethod
    def of_weights(cls, values: dict[str, Any], source: Checkpoint) -> dict[str, Any]:
        """The settings of a saved task, with what its weights themselves say."""
        return values

    def fit_weights(self, source: Checkpoint, training: bool) -> Checkpoint:
        """Weights whose head is the task's own; by default they are taken as they are.

        For training the head of another task is left out; for answering it is a UserError.
        """
        return source

    def run_settings(self, data_file: str | Path) -> dict[str, Any]:
        """What the run's run.json records of the task and its training data."""
        return {**self.to_json(), "sha256 of train_file": file_digest(data_file)[:16]}

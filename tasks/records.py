"""A file of a sentence task as inputs of a model: a table, or the official TensorFlow code's
TFRecord.

reader = Reader(TASKS["mrpc"], tokenizer, max_len=128) data = reader.read("MRPC/dev.tsv")
# data.features for Batches, data.examples for messages
"""

import dataclasses
from pathlib import Path

import numpy as np

from tasks.sentences import TASKS, Example, Features, Rows, Task, encode, label_array, read_rows
from tfrecords import RECORDS, read_records
from tokenization import FullTokenizer
from utils import UserError, make, note, read_json, show

LONG = ("truncate", "window")  # what to do with texts of more than max_len tokens


def check_long(long: str) -> None:
    """UserError where --long is something else."""
    if long not in LONG:
        raise UserError(f"--long {long}: expected {' or '.join(LONG)}")


def tell_cut(
    file: str | Path, examples: int, max_len: int, texts: int, lost: int, kept: int
) -> None:
    """Say how much was truncated, if anything was."""
    if texts:
        note(
            f"{file}: {texts} of {examples} rows are longer than max_len={max_len}; {lost} of "
            "their tokens are cut off, "
            f"{lost / (lost + kept):.1%} of all; --long window keeps them"
        )


@dataclasses.dataclass(frozen=True)
class Data:
    """A file as inputs of a model, and its rows for messages (none of a TFRecord)."""

    file: Path
    features: Features
    examples: list[Example]
    summary: str = ""  # what was understood of the file, in a line

    def __repr__(self) -> str:
        return f"<{self.summary or self.file}: {self.features}>"


@dataclasses.dataclass(frozen=True)
class Reader:
    """How files become inputs."""

    task: Task
    tokenizer: FullTokenizer
    max_len: int
    long: str = "truncate"

    def read(self, file: str | Path, labelled: bool = True) -> Data:
        """A table of the task, or a TFRecord file; says how much was truncated."""
        if RECORDS.search(str(file)):
            features = self.records(Path(file), labelled)
            return Data(Path(file), features, [], f"{file}: {len(features)} records")
        return self.encode_rows(read_rows(self.task, file, labelled))

    def encode_rows(self, rows: Rows) -> Data:
        """All rows of a table; says how much was truncated."""
        data = self.encode(rows.file, rows.examples)
        tell_cut(
            rows.file, len(rows.examples), self.max_len, *data.features.cut, len(data.features.ids)
        )
        return dataclasses.replace(data, summary=rows.describe())

    def encode(self, file: str | Path, examples: list[Example]) -> Data:
        """Rows that were read already."""
        return Data(
            Path(file),
            encode(examples, self.task, self.tokenizer, self.max_len, self.long),
            examples,
        )

    def records(self, file: Path, labelled: bool) -> Features:
        """The official code's TFRecord of a classification task."""
        parts: dict[str, list] = {"ids": [], "lengths": [], "second": [], "labels": []}
        wanted = {
            "input_ids": ("input_word_ids",),
            "input_mask": (),
            "segment_ids": ("input_type_ids",),
            "label_ids": ("label",),
            "is_real_example": (),
            "weight": (),
        }
        optional = ("is_real_example", "weight", *(() if labelled else ("label_ids",)))
        for rows in read_records(file, wanted, optional):
            if not np.all(rows.get("weight", 1) == 1):
                raise UserError(
                    f"{file}: weight is not 1 everywhere; weighted examples are not supported"
                )
            keep = rows.get("is_real_example", np.ones((len(rows["input_ids"]), 1))).ravel() > 0
            ids, mask, segments = (
                rows[name][keep] for name in ("input_ids", "input_mask", "segment_ids")
            )
            if not ids.shape == mask.shape == segments.shape or any(
                a.dtype.kind != "i" for a in (ids, mask, segments)
            ):
                raise UserError(
                    f"{file}: input_ids, input_mask and segment_ids differ in length, or are no "
                    "integers"
                )
            if (
                not np.isin(mask, (0, 1)).all()
                or not np.isin(segments, (0, 1)).all()
                or (ids < 0).any()
            ):
                raise UserError(
                    f"{file}: expected input_mask and segment_ids of 0 and 1, and input_ids of 0 "
                    "or more"
                )
            if ids.shape[1] > self.max_len:
                raise UserError(
                    f"{file} has inputs of {ids.shape[1]} tokens; set --max_len {ids.shape[1]}"
                )
            if (np.diff(mask, axis=1) > 0).any() or (
                np.diff(segments, axis=1)[mask[:, 1:] > 0] < 0
            ).any():
                raise UserError(
                    f"{file}: expected padding at the end, and segment_ids of zeros, then ones"
                )
            parts["ids"].append(ids[mask > 0].astype(np.int32))
            parts["lengths"].append(mask.sum(1))
            parts["second"].append(((segments == 0) & (mask > 0)).sum(1))
            found = rows.get("label_ids", np.zeros((len(keep), 1)))[keep]
            if found.shape != (len(ids), 1) or not np.isfinite(found).all():
                raise UserError(
                    f"{file}: label_ids of shape {found.shape[1:]}; expected one number a row"
                )
            parts["labels"].append(found.ravel())
        ids, lengths, second, labels = (np.concatenate(part) for part in parts.values())
        if ids.max(initial=0) >= len(self.tokenizer.vocab):
            raise UserError(
                f"{file} has token ids up to {ids.max()}, the vocabulary "
                f"{len(self.tokenizer.vocab)} tokens; "
                f"use the one it was made with"
            )
        if self.task.labels is not None and not np.isin(labels, range(self.task.n_outputs)).all():
            raise UserError(
                f"{file} has label ids from {labels.min():g} to {labels.max():g}; {self.task.name} "
                "has "
                f"{self.task.n_outputs} labels"
            )
        return Features(
            ids,
            np.concatenate([[0], np.cumsum(lengths)]),
            second,
            labels.astype(label_array(self.task, []).dtype),
            np.arange(1, len(labels) + 1),
        )


@dataclasses.dataclass(frozen=True)
class MetaData:
    """What is used of the JSON that the official code writes beside a TFRecord."""

    processor_type: str = ""  # name of the task
    task_type: str = ""  # bert_regression: a number
    label_type: str = ""  # float: a number
    num_labels: int | None = None
    max_seq_length: int = 128  # tokens


def task_of_records(meta_data_file: str, task: Task | None) -> tuple[Task, int]:
    """The task and max_len that the JSON beside a TFRecord tells; labels that no task knows are
    called 0, 1, ...
    """
    values = read_json(meta_data_file)
    names = {field.name for field in dataclasses.fields(MetaData)}
    meta = make(
        MetaData, {name: value for name, value in values.items() if name in names}, meta_data_file
    )
    if not 1 <= meta.max_seq_length < 2**31 or not (
        meta.num_labels is None or 1 <= meta.num_labels < 2**20
    ):
        raise UserError(
            f"{meta_data_file}: max_seq_length is {show(meta.max_seq_length)}, num_labels "
            f"{show(meta.num_labels)}; expected numbers of tokens and of labels"
        )
    if task is None:
        name = meta.processor_type.lower().replace("-", "").replace("_", "")
        task = TASKS.get(name, dataclasses.replace(TASKS["tsv"], labels=()))
    number = meta.task_type == "bert_regression" or meta.label_type == "float"
    if number != (task.labels is None) and task.labels != ():
        raise UserError(
            f"{meta_data_file}: {task.name} has "
            f"{'labels, not numbers' if number else 'numbers, not labels'}; "
            f"name another --task"
        )
    n = 1 if number else task.n_outputs if meta.num_labels is None else meta.num_labels
    if task.labels == ():
        task = dataclasses.replace(
            task,
            labels=None if number else tuple(map(str, range(n))),
            metrics=("Pearson", "Spearman") if number else ("Accuracy",),
        )
    if n != task.n_outputs:
        raise UserError(
            f"{meta_data_file}: num_labels is {n}; {task.name} has {', '.join(task.labels or ())}"
        )
    return task, meta.max_seq_length

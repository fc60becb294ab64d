"""TFRecords that the official TensorFlow code wrote for a sentence task, as inputs of a model.

features = read_features(TASKS["mrpc"], Path("train.tf_record"), vocab_size=30522)
meta = read_meta_data("meta.json")  # the JSON beside it
"""

import dataclasses
from pathlib import Path

import numpy as np

from formats.tfrecords import read_records
from system.files import read_json
from tasks.encoding import Features
from tasks.table_config import TableConfig
from utils import UserError, make, show

# What an example has: our name, and others it goes by.
WANTED: dict[str, tuple[str, ...]] = {
    "input_ids": ("input_word_ids",),
    "input_mask": (),
    "segment_ids": ("input_type_ids",),
    "label_ids": ("label",),
    "is_real_example": (),
    "weight": (),
}


def read_features(
    task: TableConfig, file: Path, vocab_size: int, labelled: bool = True
) -> Features:
    """The inputs in a TFRecord file; UserError where they cannot be the task's."""
    parts: dict[str, list] = {"ids": [], "lengths": [], "second": [], "labels": []}
    optional = ["is_real_example", "weight"]
    if not labelled:
        optional.append("label_ids")
    for rows in read_records(file, WANTED, tuple(optional)):
        # The loss here counts every example once, so that other weights would be lost.
        if not np.all(rows.get("weight", 1) == 1):
            raise UserError(
                f"{file}: weight is not 1 everywhere; weighted examples are not supported"
            )
        n = len(rows["input_ids"])
        # Google pads the last batch with examples that are not real, which must not count in
        # metrics.
        real = rows.get("is_real_example", np.ones((n, 1))).ravel() > 0
        ids, mask, segments = (rows[x][real] for x in ("input_ids", "input_mask", "segment_ids"))
        check_inputs(file, ids, mask, segments, task.max_len)
        labels = rows.get("label_ids", np.zeros((n, 1)))[real]
        if labels.shape != (len(ids), 1) or not np.isfinite(labels).all():
            raise UserError(
                f"{file}: label_ids of shape {labels.shape[1:]}; expected one number a row"
            )
        # Padding is dropped here, and added again in batches of similar length.
        parts["ids"].append(ids[mask > 0].astype(np.int32))
        parts["lengths"].append(mask.sum(1))
        # Segment 1 starts after as many tokens as segment 0 has.
        parts["second"].append(((segments == 0) & (mask > 0)).sum(1))
        parts["labels"].append(labels.ravel())
    ids, lengths, second, labels = (np.concatenate(part) for part in parts.values())
    if not len(lengths):
        raise UserError(f"{file} has no real example, only padding")
    # An id beyond the embeddings is a crash without a message on a GPU.
    if ids.max(initial=0) >= vocab_size:
        raise UserError(
            f"{file} has token ids up to {ids.max()}, the vocabulary {vocab_size} tokens; use the "
            "one it was made with"
        )
    if not task.number and not np.isin(labels, range(task.n_outputs)).all():
        raise UserError(
            f"{file} has label ids from {labels.min():g} to {labels.max():g}; {task.name} has "
            f"{task.n_outputs} labels"
        )
    starts = np.concatenate([[0], np.cumsum(lengths)])
    labels = labels.astype(task.label_array([]).dtype)
    return Features(ids, starts, second, labels, np.arange(1, len(labels) + 1))


def check_inputs(
    file: Path, ids: np.ndarray, mask: np.ndarray, segments: np.ndarray, max_len: int
) -> None:
    """UserError where arrays (n, S) are not what BERT takes."""
    integers = all(array.dtype.kind == "i" for array in (ids, mask, segments))
    if not ids.shape == mask.shape == segments.shape or not integers:
        raise UserError(
            f"{file}: input_ids, input_mask and segment_ids differ in length, or are no integers"
        )
    binary = np.isin(mask, (0, 1)).all() and np.isin(segments, (0, 1)).all()
    if not binary or (ids < 0).any():
        raise UserError(
            f"{file}: expected input_mask and segment_ids of 0 and 1, and input_ids of 0 or more"
        )
    if ids.shape[1] > max_len:
        raise UserError(f"{file} has inputs of {ids.shape[1]} tokens; set `max_len={ids.shape[1]}`")
    # np.diff finds a 1 after a 0 in the mask, and a 0 after a 1 in the segments, padding aside.
    mask_rises = (np.diff(mask, axis=1) > 0).any()
    segments_fall = (np.diff(segments, axis=1)[mask[:, 1:] > 0] < 0).any()
    # [CLS] is real in every input.
    if mask_rises or segments_fall or not mask[:, :1].all():
        raise UserError(f"{file}: expected padding at the end, and segment_ids of zeros, then ones")


@dataclasses.dataclass(frozen=True)
class MetaData:
    """What is used of the JSON that the official code writes beside a TFRecord."""

    processor_type: str = ""  # name of the task
    task_type: str = ""  # bert_regression: a number
    label_type: str = ""  # float: a number
    num_labels: int | None = None
    max_seq_length: int = 128  # tokens

    @property
    def number(self) -> bool:
        """Whether the label is a number."""
        return self.task_type == "bert_regression" or self.label_type == "float"


def read_meta_data(file: str) -> MetaData:
    """The JSON beside a TFRecord; its other keys are ignored."""
    names = {field.name for field in dataclasses.fields(MetaData)}
    values = {name: value for name, value in read_json(file).items() if name in names}
    meta = make(MetaData, values, file)
    n_labels_fit = meta.num_labels is None or 1 <= meta.num_labels < 2**20
    if not 1 <= meta.max_seq_length < 2**31 or not n_labels_fit:
        raise UserError(
            f"{file}: max_seq_length is {show(meta.max_seq_length)}, num_labels "
            f"{show(meta.num_labels)}; expected numbers of tokens and of labels"
        )
    return meta

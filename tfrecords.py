"""TFRecord files of the official TensorFlow code, read with TensorFlow, which is loaded for nothing
else here.

for rows in read_records(Path("train.tf_record"), {"input_ids": ("input_word_ids",), "label_ids":
()}): ...
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from utils import UserError, check_file, check_regular

RECORDS = re.compile(r"\.tf_?records?(\.gz)?(-\d+-of-\d+)?$")


def read_records(
    file: Path, wanted: dict[str, tuple[str, ...]], optional: tuple[str, ...] = ()
) -> Iterator[dict[str, np.ndarray]]:
    """The examples of a TFRecord file, plain or GZIP, some thousand at a time: {our name: (n,
    length)}.

    `wanted` has our name of every feature and the others it goes by. UserError where one is
    missing, unless `optional`.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    check_file(file, "a TFRecord file")
    check_regular(file)
    try:
        import tensorflow as tf
    except ImportError:
        raise UserError(f"{file} is a TFRecord file; pip install tensorflow to read it") from None
    with open(file, "rb") as f:
        compression = "GZIP" if f.read(2) == b"\x1f\x8b" else ""
    records = tf.data.TFRecordDataset(str(file), compression)
    try:
        example = tf.train.Example.FromString(next(iter(records)).numpy()).features.feature
    except StopIteration:
        raise UserError(f"{file} holds no records") from None
    except Exception as error:
        raise UserError(
            f"{file} is no TFRecord file of examples, or is damaged ({type(error).__name__})"
        ) from None
    names = {
        ours: next((name for name in (ours, *others) if name in example), None)
        for ours, others in wanted.items()
    }
    if missing := [ours for ours, name in names.items() if name is None and ours not in optional]:
        raise UserError(
            f"{file}: no {', '.join(missing)} among its features {', '.join(sorted(example))}; "
            "expected a file "
            f"made by the official code"
        )
    expected, present = {}, {ours: name for ours, name in names.items() if name is not None}
    for name in present.values():
        integers, floats = example[name].int64_list.value, example[name].float_list.value
        expected[name] = tf.io.FixedLenFeature(
            [len(integers) or len(floats)], tf.float32 if floats else tf.int64
        )
    done = 0
    try:
        for batch in records.batch(2048):
            parsed = tf.io.parse_example(batch, expected)
            yield {ours: parsed[name].numpy() for ours, name in present.items()}
            done += len(batch)
    except (tf.errors.OpError, ValueError) as error:
        raise UserError(
            f"{file}: after record {done}, one has other features or another length than the "
            "first, or is "
            f"damaged ({type(error).__name__}); make the file again"
        ) from None

"""TFRecord files of the official code, read with TensorFlow, which is loaded for nothing else.

    for rows in read_records(Path("train.tf_record"), {"input_ids": ("input_word_ids",)}):
        rows["input_ids"]  # (n, length)

It needs no torch, which takes seconds to load: corpora are prepared without it.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from system.files import check_file, check_regular
from system.packages import tensorflow
from utils import UserError

RECORDS = re.compile(r"\.tf_?records?(\.gz)?(-\d+-of-\d+)?$")  # names of TFRecord files


def read_records(
    file: Path, wanted: dict[str, tuple[str, ...]], optional: tuple[str, ...] = ()
) -> Iterator[dict[str, np.ndarray]]:
    """The examples of a TFRecord file, plain or GZIP, 2,048 at a time: {our name: (n, length)}.

    Args:
        wanted: our name of every feature, and the other names it may have.
        optional: our names of those that may be missing; UserError where another one is.
    """
    # TensorFlow's own log would fill the terminal; a level the user has set stays.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    check_file(file, "a TFRecord file")
    check_regular(file)
    try:
        tf = tensorflow()
    except ImportError:
        raise UserError(f"{file} is a TFRecord file; pip install tensorflow to read it") from None
    with open(file, "rb") as f:
        # GZIP begins with these two bytes; names do not say, since newer code compresses without a
        # suffix.
        compression = "GZIP" if f.read(2) == b"\x1f\x8b" else ""
    records = tf.data.TFRecordDataset(str(file), compression)
    # An iterator that ends at once raises StopIteration; TensorFlow raises its own errors for
    # damage.
    try:
        example = tf.train.Example.FromString(next(iter(records)).numpy()).features.feature
    except StopIteration:
        raise UserError(f"{file} holds no records") from None
    except Exception as error:
        raise UserError(
            f"{file} is no TFRecord file of examples, or is damaged ({type(error).__name__})"
        ) from None
    names: dict[str, str] = {}
    # The name in BERT's original code comes first, then those of later versions.
    for ours, others in wanted.items():
        if found := [name for name in (ours, *others) if name in example]:
            names[ours] = found[0]
    if missing := [ours for ours in wanted if ours not in names and ours not in optional]:
        raise UserError(
            f"{file}: no {', '.join(missing)} among its features {', '.join(sorted(example))}; "
            "expected a file made by the official code"
        )
    # All examples have the lengths and types of the first.
    lengths = {}
    for name in names.values():
        integers, floats = example[name].int64_list.value, example[name].float_list.value
        # An example has a list of integers or of floats, and parse_example has to be told which.
        dtype = tf.float32 if floats else tf.int64
        lengths[name] = tf.io.FixedLenFeature([len(integers) or len(floats)], dtype)
    done = 0
    try:
        # One call parses 2,048 examples, of which an array holds a column.
        for batch in records.batch(2048):
            parsed = tf.io.parse_example(batch, lengths)
            yield {ours: parsed[name].numpy() for ours, name in names.items()}
            done += len(batch)
    except (tf.errors.OpError, ValueError) as error:
        raise UserError(
            f"{file}: after record {done}, one has other features or another length than the "
            f"first, or is damaged ({type(error).__name__}); make the file again"
        ) from None

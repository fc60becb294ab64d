"""Fixed pre-training instances as the official code has them, for the tests of what reads them."""

from pathlib import Path

import numpy as np
import pytest

N, LENGTH, SLOTS = 70, 16, 4


def make_arrays() -> dict[str, np.ndarray]:
    """Instances as the official code writes them: padded at the end, unused slots zero."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(6, LENGTH + 1, N)
    mask = (np.arange(LENGTH) < lengths[:, None]).astype(np.int64)
    second = rng.integers(2, lengths - 1)
    n = rng.integers(1, SLOTS + 1, N)
    used = np.arange(SLOTS) < n[:, None]
    positions = (
        np.stack(
            [
                np.sort(rng.choice(np.arange(1, length - 1), SLOTS, replace=False))
                for length in lengths
            ]
        )
        * used
    )
    return {
        "input_ids": rng.integers(5, 40, (N, LENGTH)) * mask,
        "input_mask": mask,
        "segment_ids": (np.arange(LENGTH) >= second[:, None]) * mask,
        "masked_lm_positions": positions,
        "masked_lm_ids": rng.integers(5, 40, (N, SLOTS)) * used,
        "masked_lm_weights": used.astype(np.float32),
        "next_sentence_labels": rng.integers(0, 2, (N, 1)),
    }


def write_records(
    file: Path,
    arrays: dict[str, np.ndarray],
    compression: str = "",
    rename: dict[str, str] | None = None,
) -> None:
    tf = pytest.importorskip("tensorflow")

    def feature(values: np.ndarray):
        if values.dtype == np.float32:
            return tf.train.Feature(float_list=tf.train.FloatList(value=values.tolist()))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values.tolist()))

    with tf.io.TFRecordWriter(str(file), compression) as writer:
        for i in range(len(next(iter(arrays.values())))):
            features = {
                (rename or {}).get(name, name): feature(values[i])
                for name, values in arrays.items()
            }
            writer.write(
                tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
            )

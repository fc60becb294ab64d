"""Instances that were masked elsewhere: the official code's TFRecords and GluonNLP's npz.

prepare_instances([Path("tf_examples.tfrecord")], "examples-ids")
instances = FixedInstances(Corpus("examples-ids"), max_len=128)
batches = PairBatches(instances, batch_size=32, seed=42)
"""

import math
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from formats.tfrecords import RECORDS, read_records
from pretraining.batches import PretrainBatch
from pretraining.shards import FORMAT, SIZES, Corpus, digests_of, new_shard, write_once, write_shard
from system.files import check_regular
from system.progress import progress
from utils import UserError, short

FIXED = re.compile(rf"{RECORDS.pattern}|\.npz$")  # names of files with fixed instances

# What a TFRecord's example or an npz of pre-training has: our name, and others it goes by.
FEATURES = {
    "input_ids": ("input_word_ids",),
    "input_mask": (),
    "segment_ids": ("input_type_ids",),
    "masked_lm_positions": (),
    "masked_lm_ids": (),
    "masked_lm_weights": (),
    "next_sentence_labels": (),
}
Instances = dict[str, np.ndarray]  # the features above, each (n, L), (n, P) or (n, 1)


def read_npz(file: Path) -> Iterator[Instances]:
    """GluonNLP's npz: the same arrays, with valid_lengths for the mask."""
    check_regular(file)
    try:
        check_archive(file)
        with np.load(file) as npz:
            arrays = {name: npz[name] for name in npz.files if name in KNOWN}
            others = sorted(set(npz.files) - KNOWN)
    except Exception as error:  # numpy and zipfile have many for a damaged file
        if isinstance(error, UserError) or (isinstance(error, OSError) and error.filename):
            raise
        raise UserError(
            f"{file}: not an npz of plain arrays ({short(' '.join(str(error).split()), 80)})"
        ) from None
    # GluonNLP gives the number of real tokens, from which a mask (n, L) follows.
    ids, lengths = arrays.get("input_ids"), arrays.get("valid_lengths")
    if ids is not None and lengths is not None and ids.ndim == 2:
        arrays["input_mask"] = np.arange(ids.shape[1]) < lengths.reshape(-1, 1)
    for ours, names in FEATURES.items():
        for name in names:
            if name in arrays:
                arrays[ours] = arrays[name]
    if missing := [name for name in FEATURES if name not in arrays]:
        raise UserError(
            f"{file}: no {', '.join(missing)} among its arrays "
            f"{short(', '.join([*arrays, *others]), 100)}"
        )
    # Google has (n, 1), GluonNLP (n,).
    arrays["next_sentence_labels"] = arrays["next_sentence_labels"].reshape(-1, 1)
    if len({array.shape[:1] for name, array in arrays.items() if name in FEATURES}) > 1:
        raise UserError(f"{file}: its arrays have different numbers of rows")
    if arrays["input_ids"].size == 0:
        raise UserError(f"{file} holds no instances")
    yield {name: arrays[name] for name in FEATURES}


KNOWN = {"valid_lengths", *FEATURES, *(name for names in FEATURES.values() for name in names)}
MOST_PACKED = 200  # times its size that an npz may unpack to; real ones take 5 to 20


def check_archive(file: Path) -> None:
    """UserError or ValueError where an npz does not hold what its headers say, or far more."""
    size = file.stat().st_size
    with zipfile.ZipFile(file) as archive:
        # What unpacks to far more than instances do would fill the memory. 1 MB: small files.
        if sum(entry.file_size for entry in archive.infolist()) > MOST_PACKED * size + 2**20:
            raise UserError(
                f"{file} unpacks to over {MOST_PACKED} times its {size:,} bytes; expected instances"
            )
        for entry in archive.infolist():
            if entry.filename.removesuffix(".npy") not in KNOWN:
                continue
            with archive.open(entry) as member:
                # Two versions of the header differ in the size of its length.
                major, _ = npy.read_magic(member)
                header = npy.read_array_header_1_0 if major == 1 else npy.read_array_header_2_0
                shape, _, dtype = header(member)
                # Unpickling objects can run code. A wrong size would read beyond the file.
                if (
                    dtype.kind not in "biuf"
                    or math.prod(shape) * dtype.itemsize != entry.file_size - member.tell()
                ):
                    raise ValueError(
                        f"{entry.filename} is {dtype} {shape} in {entry.file_size} bytes"
                    )


def check_instances(file: Path, rows: Instances) -> None:
    """UserError where instances cannot be what the format says."""
    if rows["input_ids"].ndim != 2 or rows["masked_lm_ids"].ndim != 2:
        raise UserError(
            f"{file}: input_ids or masked_lm_ids are no table; expected a row for each instance"
        )
    length, slots = rows["input_ids"].shape[1], rows["masked_lm_ids"].shape[1]
    # Of each the columns and the end of its values: ids are stored in 32 bits, flags are 0 or 1.
    expected = {
        "input_ids": (length, 2**31),
        "masked_lm_ids": (slots, 2**31),
        "masked_lm_positions": (slots, 2**31),
        "masked_lm_weights": (slots, 2),
        "input_mask": (length, 2),
        "segment_ids": (length, 2),
        "next_sentence_labels": (1, 2),
    }
    for name, (n, _) in expected.items():
        if rows[name].shape[1:] != (n,):
            raise UserError(
                f"{file}: {name} has length {rows[name].shape[1:]}, expected {n} as its fellows "
                "have"
            )
    # Other weights cannot be kept: a slot is in use or not.
    if not np.isin(rows["masked_lm_weights"], (0, 1)).all():
        raise UserError(f"{file}: masked_lm_weights other than 0 and 1; expected Google's")
    for name, (_, end) in expected.items():
        values = rows[name]
        # Written so that a NaN, which compares with nothing, fails too.
        if not ((values >= 0) & (values < end)).all() or (values != np.floor(values)).any():
            raise UserError(
                f"{file}: {name} from {values.min()} to {values.max()}; expected integers, 0 to "
                f"{end - 1}"
            )
    mask, weights = rows["input_mask"], rows["masked_lm_weights"]
    # [CLS] is real in every instance, and padding only follows.
    if (np.diff(mask.astype(np.int8), axis=1) > 0).any() or not mask[:, 0].all():
        raise UserError(f"{file}: input_mask has zeros before ones; expected padding at the end")
    if (np.diff(rows["segment_ids"] * mask.astype(np.int8), axis=1)[mask[:, 1:] > 0] < 0).any():
        raise UserError(f"{file}: segment_ids fall within a row; expected zeros, then ones")
    # Only slots in use are compared; what the others hold is up to the program that wrote them.
    if (rows["masked_lm_positions"] * (weights > 0) >= mask.sum(1, keepdims=True)).any():
        raise UserError(f"{file}: masked_lm_positions beyond the tokens; make the file again")


def prepare_instances(files: list[Path], out: str | Path) -> Path:
    """Take TFRecords or npz into a prepared corpus as they are; returns the shard's folder."""
    folder = Path(out) / "shard-0-of-1"
    made_from = {
        "format": FORMAT,
        "kind": "instances",
        "shard": [0, 1],
        "text": digests_of(files),
    }
    write_once(folder, lambda: write_instances(files, folder, made_from))
    return folder


def write_instances(files: list[Path], folder: Path, made_from: dict) -> None:
    """Write the shard of prepare_instances()."""
    types = {
        "tokens": "<u4",
        "instances": "<i8",
        "second": "<i4",
        "slots": "<i8",
        "positions": "<i4",
        "words": "<u4",
        "order": "u1",
    }
    length, most = 0, 0
    with new_shard(folder, types) as (partial, arrays):
        for file in progress(iterable=files, desc="Preparing", unit="file"):
            for rows in read_npz(file) if file.suffix == ".npz" else read_records(file, FEATURES):
                check_instances(file, rows)
                ids, words = rows["input_ids"], rows["masked_lm_ids"]
                # max_len is one number for the whole corpus.
                if length not in (0, ids.shape[1]):
                    raise UserError(
                        f"{file} has instances of {ids.shape[1]} tokens, {files[0]} of {length}; "
                        "train on files of one length"
                    )
                length = ids.shape[1]
                # Compared with the model's vocabulary without reading the arrays again.
                most = max(most, int(ids.max()), int(words.max()))
                # Padding and unused slots are dropped: no length of instances wastes space.
                mask, real = rows["input_mask"] > 0, rows["masked_lm_weights"] > 0
                arrays["instances"].append(arrays["tokens"].size + np.cumsum(mask.sum(1)))
                arrays["tokens"].append(ids[mask])
                arrays["second"].append((mask & (rows["segment_ids"] == 0)).sum(1))
                arrays["slots"].append(arrays["words"].size + np.cumsum(real.sum(1)))
                arrays["positions"].append(rows["masked_lm_positions"][real])
                arrays["words"].append(words[real])
                arrays["order"].append(rows["next_sentence_labels"][:, 0])
        counts = {name: arrays[SIZES[name]].size for name in ("instances", "tokens", "masked")}
        about = made_from | {"counts": counts, "max_len": length, "largest_id": most}
        write_shard(partial, about, arrays)


class FixedInstances:
    """Instances that were masked elsewhere, trained on as they are."""

    BLOCK = 512  # instances

    def __init__(self, corpus: Corpus, max_len: int):
        # The length is part of what the instances are, and cannot be changed by a flag.
        if (length := corpus.about["max_len"]) != max_len:
            raise UserError(
                f"max_len={max_len}, and the instances of {corpus.folder} have {length} tokens; "
                f"set `max_len={length}`"
            )
        self.corpus, self.n = corpus, corpus.counts["instances"]
        self.max_len = max_len
        self.n_blocks = -(-self.n // self.BLOCK)

    def counts(self, epoch: int) -> np.ndarray:
        """(n_blocks,) instances of each block."""
        return np.diff(np.append(np.arange(self.n_blocks) * self.BLOCK, self.n))

    def plan(self, blocks: np.ndarray, epoch: int) -> np.ndarray:
        """The numbers of the instances of some blocks, (N,)."""
        starts = (blocks * self.BLOCK).tolist()
        return np.concatenate([np.arange(a, min(a + self.BLOCK, self.n)) for a in starts])

    def lengths(self, plan: np.ndarray) -> np.ndarray:
        """(N,) tokens of each instance."""
        return self.corpus.instances[plan + 1] - self.corpus.instances[plan]

    def n_slots(self, plan: np.ndarray) -> int:
        """Masked slots of some instances."""
        return int((self.corpus.slots[plan + 1] - self.corpus.slots[plan]).sum())

    def build(self, plan: np.ndarray) -> PretrainBatch[np.ndarray]:
        """The batch of some instances."""
        corpus = self.corpus
        lengths = self.lengths(plan)[:, None]
        column = np.arange(lengths.max())
        real = column < lengths
        # Places that are not real are looked up at token 0, always there, and then set to 0.
        index = np.where(real, corpus.instances[plan][:, None] + column, 0)
        ids = np.where(real, corpus.tokens[index], 0)
        segments = real & (column >= corpus.second[plan][:, None])
        first = corpus.slots[plan][:, None]
        n = corpus.slots[plan + 1][:, None] - first
        # One slot at least, since the model takes at least one position.
        slot = np.arange(max(1, n.max()))
        used = slot < n
        index = np.where(used, first + slot, 0)
        positions, words = (
            np.where(used, array[index], 0) if len(array) else np.zeros(index.shape, np.int64)
            for array in (corpus.positions, corpus.words)
        )
        # An id beyond the vocabulary would be an error only on the device, without a name.
        largest = max(int(ids.max()), int(words.max(initial=0)))
        if (positions >= lengths).any() or largest > corpus.about.get("largest_id", largest):
            raise UserError(
                f"{corpus.folder} has positions beyond the tokens or ids beyond the largest; "
                "prepare it again"
            )
        order = corpus.order[plan]
        corpus.release()
        segments, real = segments.astype(np.int64), real.astype(np.int64)
        return PretrainBatch(ids, segments, real, positions, words, used, order)

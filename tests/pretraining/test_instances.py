"""Instances masked elsewhere come in as they are: the official code's TFRecords, GluonNLP's npz."""

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fixed_instances import LENGTH, make_arrays, write_records

from formats.vocab import Vocabulary
from pretraining.batches import PairBatches
from pretraining.builder import CorpusBuilder
from pretraining.instances import FixedInstances, prepare_instances
from pretraining.shards import Corpus
from utils import UserError


def instances(batches: PairBatches) -> Iterator[tuple]:
    """What a pass over the batches holds, without padding."""
    for n in range(len(batches)):
        for ids, segments, mask, positions, words, weights, order in zip(
            *batches.arrays(n), strict=True
        ):
            length, used = mask.sum(), weights > 0
            yield (
                ids[:length].tolist(),
                segments[:length].tolist(),
                positions[used].tolist(),
                words[used].tolist(),
                int(order),
            )


def expected(arrays: dict[str, np.ndarray]) -> list[tuple]:
    found = []
    for ids, mask, segments, positions, words, weights, order in zip(*arrays.values(), strict=True):
        length, used = mask.sum(), weights > 0
        found.append(
            (
                ids[:length].tolist(),
                segments[:length].tolist(),
                positions[used].tolist(),
                words[used].tolist(),
                int(order[0]),
            )
        )
    return found


@pytest.mark.parametrize(
    ("name", "compression", "rename"),
    [
        ("a.tfrecord", "", {}),
        ("a.tf_record", "GZIP", {"input_ids": "input_word_ids", "segment_ids": "input_type_ids"}),
    ],
)
def test_records_plain_or_zipped_with_old_or_new_names_are_trained_on_as_they_are(
    tmp_path: Path, name: str, compression: str, rename: dict
) -> None:
    arrays = make_arrays()
    write_records(tmp_path / name, arrays, compression, rename)
    prepare_instances([tmp_path / name], tmp_path / "ids")
    batches = PairBatches(FixedInstances(Corpus(tmp_path / "ids"), LENGTH), 16, seed=1)
    assert len(batches) == 5
    assert sorted(instances(batches)) == sorted(expected(arrays))
    lengths = [
        PairBatches(FixedInstances(Corpus(tmp_path / "ids"), LENGTH), 16).arrays(n)[2].sum(1)
        for n in range(5)
    ]
    assert (np.diff(np.concatenate(lengths)) >= 0).all()


def test_gluonnlp_s_npz_is_the_same(tmp_path: Path) -> None:
    arrays = make_arrays()
    lengths = arrays["input_mask"].sum(1)
    rest = {name: values for name, values in arrays.items() if name != "input_mask"}
    np.savez(
        tmp_path / "a.npz",
        **rest
        | {"valid_lengths": lengths, "next_sentence_labels": arrays["next_sentence_labels"][:, 0]},
    )
    prepare_instances([tmp_path / "a.npz"], tmp_path / "ids")
    batches = PairBatches(FixedInstances(Corpus(tmp_path / "ids"), LENGTH), 16, seed=1)
    assert sorted(instances(batches)) == sorted(expected(arrays))


def test_several_files_are_one_corpus(tmp_path: Path) -> None:
    arrays = make_arrays()
    for i in range(2):
        half = {name: values[i * 35 : (i + 1) * 35] for name, values in arrays.items()}
        write_records(tmp_path / f"x.tfrecord-0000{i}-of-00002", half)
    builder = CorpusBuilder(tmp_path / "cache")
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    vocabulary = Vocabulary.read(tmp_path / "vocab.txt")
    found = builder.prepare(f"{tmp_path}/x.tfrecord*", vocabulary)
    assert (found.kind, found.counts["instances"]) == ("instances", 70)
    assert sorted(instances(PairBatches(FixedInstances(found, LENGTH), 16, seed=1))) == sorted(
        expected(arrays)
    )
    assert builder.prepare(f"{tmp_path}/x.tfrecord*", vocabulary).folder == found.folder


def without(name: str) -> Callable[[dict], dict]:
    return lambda arrays: {k: v for k, v in arrays.items() if k != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("masked_lm_ids"), "no masked_lm_ids among its features"),
        (
            lambda a: a | {"segment_ids": a["segment_ids"][:, :9]},
            r"segment_ids has length \(9,\), expected 16",
        ),
        (lambda a: a | {"input_mask": a["input_mask"][:, ::-1]}, "zeros before ones"),
        (
            lambda a: a | {"masked_lm_weights": a["masked_lm_weights"] * 0.5},
            "weights other than 0 and 1",
        ),
        (
            lambda a: a | {"masked_lm_positions": a["masked_lm_positions"] + 20},
            "positions beyond the tokens",
        ),
    ],
)
def test_records_that_are_none_are_named_and_nothing_is_left(
    tmp_path: Path, change: Callable, message: str
) -> None:
    write_records(tmp_path / "a.tfrecord", change(make_arrays()))
    with pytest.raises(UserError, match=message):
        prepare_instances([tmp_path / "a.tfrecord"], tmp_path / "ids")
    assert not (tmp_path / "ids").exists()


def test_a_record_of_another_length_or_a_damaged_file_is_named(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    arrays = make_arrays()
    write_records(
        tmp_path / "long.tfrecord",
        {name: values[:, : LENGTH // 2] for name, values in arrays.items()},
    )
    write_records(tmp_path / "a.tfrecord", arrays)
    with tf.io.TFRecordWriter(str(tmp_path / "b.tfrecord")) as writer:
        for file in ("a", "long"):
            for record in tf.data.TFRecordDataset(str(tmp_path / f"{file}.tfrecord")):
                writer.write(record.numpy())
    content = (tmp_path / "a.tfrecord").read_bytes()
    (tmp_path / "c.tfrecord").write_bytes(content[:-30])
    (tmp_path / "d.tfrecord").write_bytes(b"no record at all, but text that is long enough")
    (tmp_path / "e.tfrecord").write_bytes(b"")
    (tmp_path / "f.npz").write_bytes(b"nothing")
    for name, message in (
        ("b.tfrecord", "another length than the first"),
        ("c.tfrecord", "is damaged|or is damaged"),
        ("d.tfrecord", "no TFRecord file"),
        ("e.tfrecord", "holds no records"),
        ("f.npz", "not an npz"),
    ):
        with pytest.raises(UserError, match=message):
            prepare_instances([tmp_path / name], tmp_path / "ids")
    half = {
        name: values[:, :8] if values.shape[1] == LENGTH else values * 0
        for name, values in arrays.items()
    }
    write_records(tmp_path / "half.tfrecord", half)
    with pytest.raises(UserError, match=r"has instances of 8 tokens, .* of 16"):
        prepare_instances([tmp_path / "a.tfrecord", tmp_path / "half.tfrecord"], tmp_path / "ids")


def test_max_len_must_be_the_instances_own(tmp_path: Path) -> None:
    write_records(tmp_path / "a.tfrecord", make_arrays())
    prepare_instances([tmp_path / "a.tfrecord"], tmp_path / "ids")
    with pytest.raises(
        UserError, match=r"max_len=128, and the instances of .* have 16 tokens; set `max_len=16`"
    ):
        FixedInstances(Corpus(tmp_path / "ids"), 128)


def arrays(n: int = 6, length: int = 16, slots: int = 3) -> dict[str, np.ndarray]:
    """GluonNLP's arrays, as they should be."""
    rng = np.random.default_rng(0)
    return {
        "input_ids": rng.integers(5, 50, (n, length)),
        "valid_lengths": np.full(n, length),
        "segment_ids": np.tile(np.arange(length) > 7, (n, 1)).astype(np.int64),
        "masked_lm_positions": np.tile([1, 2, 4], (n, 1)),
        "masked_lm_ids": rng.integers(5, 50, (n, slots)),
        "masked_lm_weights": np.ones((n, slots), np.float32),
        "next_sentence_labels": rng.integers(0, 2, n),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masked_lm_positions": -1}, "masked_lm_positions from -1 to .*; expected integers, 0 to"),
        ({"input_ids": -7}, "input_ids from -7 to"),
        ({"masked_lm_ids": 2**40}, "masked_lm_ids from .* to 1099511627776; expected integers"),
        (
            {"next_sentence_labels": 2},
            "next_sentence_labels from .* to 2; expected integers, 0 to 1",
        ),
        ({"segment_ids": 3}, "segment_ids from 0 to 3; expected integers, 0 to 1"),
        ({"masked_lm_positions": 16}, "masked_lm_positions beyond the tokens"),
    ],
)
def test_numbers_out_of_range_are_named_before_anything_is_prepared(
    tmp_path: Path, change: dict, message: str
) -> None:
    values = arrays()
    for name, value in change.items():
        values[name].flat[-1] = value
    np.savez(tmp_path / "a.npz", **values)
    with pytest.raises(UserError, match=message):
        prepare_instances([tmp_path / "a.npz"], tmp_path / "ids")
    assert not (tmp_path / "ids").exists()


def test_an_npz_that_claims_or_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    zeros = np.zeros((2000, 4096), np.int64)  # 64 MB, and 65 KB when it is compressed
    np.savez_compressed(tmp_path / "bomb.npz", **(arrays() | {"input_ids": zeros}))
    assert (tmp_path / "bomb.npz").stat().st_size < 100_000
    with pytest.raises(UserError, match=r"unpacks to over 200 times its .* bytes"):
        prepare_instances([tmp_path / "bomb.npz"], tmp_path / "ids")
    np.savez(tmp_path / "a.npz", **arrays())
    with (
        zipfile.ZipFile(tmp_path / "a.npz") as good,
        zipfile.ZipFile(tmp_path / "claim.npz", "w") as bad,
    ):
        for entry in good.infolist():
            content = good.read(entry)
            if entry.filename == "input_ids.npy":
                content = content.replace(b"(6, 16)", b"(8796093022208,)")
            bad.writestr(entry.filename, content)
    with pytest.raises(UserError, match="not an npz of plain arrays"):
        prepare_instances([tmp_path / "claim.npz"], tmp_path / "ids")
    np.savez_compressed(tmp_path / "packed.npz", **arrays())  # fine
    assert prepare_instances([tmp_path / "packed.npz"], tmp_path / "ids")

"""Rows, batches and metrics."""
from pathlib import Path

import numpy as np
import pytest

from tasks import TASKS, Batches, Example, Features, encode, get_task, read_examples, truncate_pair
from tokenization import FullTokenizer
from utils import UserError

MRPC = TASKS["mrpc"]
HEADER = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"


def write(folder: Path, content: bytes | str) -> Path:
    file = folder / "train.tsv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def test_rows_survive_a_byte_order_mark_windows_line_ends_quotes_and_odd_characters(tmp_path: Path) -> None:
    rows = ['1\t7\t8\tHe said " hi\tshe "said\' hi', "0\t9\t10\ta\u2028b\x0cc\ta\x85b"]
    file = write(tmp_path, b"\xef\xbb\xbf" + "\r\n".join([HEADER, *rows]).encode())
    assert read_examples(MRPC, file) == [Example(2, 'He said " hi', "she \"said' hi", "1"),
                                         Example(3, "a\u2028b\x0cc", "a\x85b", "0")]


@pytest.mark.parametrize(("content", "message"), [
    ("", "is empty; expected a header line"),
    (HEADER + "\n", "has a header and no rows"),
    (HEADER + "\n1\t2\t3\ta\tb\n1\t2\t3\ta\n", "line 3: 4 columns; expected 5 as in the header"),
    (HEADER + "\n1\t2\t3\ta\tb\n2\t2\t3\ta\tb\n", "line 3: unknown label '2'; the labels of mrpc are 0, 1"),
    ("1\t2\t3\ta\tb\n", "line 1: '1' is a label; expected a header line first"),
    ("a,b,c\n", "line 1: 1 columns; mrpc needs 5"),
    (HEADER.encode() + b"\n1\t2\t3\t\xff\tb\n", "line 2: not UTF-8 text"),
])
def test_wrong_rows_are_named_with_file_and_line(tmp_path: Path, content: bytes | str, message: str) -> None:
    file = write(tmp_path, content)
    with pytest.raises(UserError, match=message) as error:
        read_examples(MRPC, file)
    assert str(file) in str(error.value)


def test_the_last_column_of_mnli_is_its_label(tmp_path: Path) -> None:
    for columns in (12, 16):
        row = [f"c{i}" for i in range(columns - 1)] + ["neutral"]
        file = write(tmp_path, "\t".join(f"h{i}" for i in range(columns)) + "\n" + "\t".join(row) + "\n")
        assert read_examples(TASKS["mnli"], file) == [Example(2, "c8", "c9", "neutral")]


@pytest.mark.parametrize(("lengths", "room", "kept"), [
    ((5, 3), 8, (5, 3)), ((5, 3), 7, (4, 3)), ((5, 3), 6, (3, 3)), ((5, 3), 5, (3, 2)), ((3, 5), 4, (2, 2)),
    ((4, 4), 7, (4, 3)), ((9, 1), 3, (2, 1)), ((0, 6), 3, (0, 3)), ((1, 1), 1, (1, 0)),
])
def test_pairs_are_truncated_by_googles_rule(lengths: tuple[int, int], room: int, kept: tuple[int, int]) -> None:
    a, b = truncate_pair(list(range(lengths[0])), list(range(lengths[1])), room)
    assert (a, b) == (list(range(kept[0])), list(range(kept[1])))


def test_a_pair_becomes_cls_a_sep_b_sep(sample: Path) -> None:
    tokenizer = FullTokenizer(sample / "vocab.txt")
    features = encode([Example(2, "green sold the lamp", "red bought it", "1")], MRPC, tokenizer, 9)
    input_ids, segment_ids, input_mask, label_ids = Batches(features, 4)[0]
    assert tokenizer.convert_ids_to_tokens(input_ids[0].tolist()) == [
        "[CLS]", "green", "sold", "the", "[SEP]", "red", "bought", "it", "[SEP]"]
    assert segment_ids.tolist() == [[0, 0, 0, 0, 0, 1, 1, 1, 1]]
    assert input_mask.tolist() == [[1] * 9]
    assert label_ids.tolist() == [1]
    with pytest.raises(UserError, match="max_len=4; a row of mrpc needs at least 5 tokens"):
        encode([], MRPC, tokenizer, 4)


def features(n: int, seed: int = 0) -> Features:
    lengths = np.random.default_rng(seed).integers(5, 60, n)
    starts = np.concatenate([[0], lengths.cumsum()])
    ids = np.concatenate([np.full(length, i + 1, np.int32) for i, length in enumerate(lengths)])
    return Features(ids, starts, np.full(n, 3), np.arange(n) % 2, np.arange(n) + 2)


def test_an_epoch_visits_every_example_once_and_the_next_in_another_order() -> None:
    batches = Batches(features(1003), 32, seed=1)
    assert len(batches) == 32
    epochs = [[tuple(batches.rows(n)) for n in range(e * 32, e * 32 + 32)] for e in range(3)]
    for epoch in epochs:
        assert sorted(row for rows in epoch for row in rows) == list(range(1003))
        assert sorted(map(len, epoch)) == [11] + [32] * 31
    assert epochs[0] != epochs[1] != epochs[2]


def test_batch_n_is_a_function_of_seed_and_n_alone() -> None:
    asked = Batches(features(500), 16, seed=3)
    in_order = [asked.rows(n).tolist() for n in range(100)]
    fresh = Batches(features(500), 16, seed=3)
    for n in (99, 0, 41, 40, 99):
        assert fresh.rows(n).tolist() == in_order[n]
    assert Batches(features(500), 16, seed=4).rows(0).tolist() != in_order[0]


def test_examples_of_a_batch_have_similar_lengths_and_padding_is_zero() -> None:
    data = features(3200)
    batches = Batches(data, 32, seed=0)
    real = total = 0
    for n in range(len(batches)):
        ids, segments, mask, labels = (t.numpy() for t in batches[n])
        rows = batches.rows(n)
        assert mask.sum(1).tolist() == data.lengths[rows].tolist()
        assert (ids == (rows + 1)[:, None] * mask).all()
        assert (segments == mask * (np.arange(mask.shape[1]) >= 3)).all()
        assert labels.tolist() == data.labels[rows].tolist()
        real, total = real + mask.sum(), total + mask.size
    assert real / total > 0.97


def test_an_unknown_task_is_answered_with_the_list() -> None:
    assert get_task("MRPC") is MRPC
    with pytest.raises(UserError, match=r"--task mprc: unknown task \(did you mean mrpc\?\); the tasks are mrpc, mnli"):
        get_task("mprc")


@pytest.mark.real
def test_real_files_have_the_known_numbers_of_rows(real: Path) -> None:
    assert len(read_examples(MRPC, real / "glue/MRPC/train.tsv")) == 3668
    assert len(read_examples(MRPC, real / "glue/MRPC/dev.tsv")) == 408
    for name in ("train", "dev_matched", "dev_mismatched"):
        assert read_examples(TASKS["mnli"], real / f"glue_layout/MNLI/{name}.tsv")

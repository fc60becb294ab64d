"""Rows, batches and metrics."""

import dataclasses
import io
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

from tasks import TASKS, get_task, own_task
from tasks.encoding import Batches, Features, encode, head_tail, truncate_pair, window_starts
from tasks.records import check_inputs
from tasks.resolve import learn, with_labels
from tasks.rows import open_rows, read_examples, read_rows
from tasks.table_config import Example
from tokenization import FullTokenizer
from utils import UserError

MRPC = TASKS["mrpc"]
HEADER = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"


def write(folder: Path, content: bytes | str) -> Path:
    file = folder / "train.tsv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def test_rows_survive_a_byte_order_mark_windows_line_ends_quotes_and_odd_characters(
    tmp_path: Path,
) -> None:
    rows = ['1\t7\t8\tHe said " hi\tshe "said\' hi', "0\t9\t10\ta\u2028b\x0cc\ta\x85b"]
    file = write(tmp_path, b"\xef\xbb\xbf" + "\r\n".join([HEADER, *rows]).encode())
    assert read_examples(MRPC, file) == [
        Example(2, 'He said " hi', "she \"said' hi", "1"),
        Example(3, "a\u2028b\x0cc", "a\x85b", "0"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty; expected rows of #1 String, #2 String, Quality"),
        (HEADER + "\n", "has a header and no rows"),
        (
            HEADER + "\n1\t2\t3\ta\tb\n1\t2\t3\ta\n",
            "line 3: 4 columns; expected 5 as in the first row",
        ),
        (
            HEADER + "\n1\t2\t3\ta\tb\n2\t2\t3\ta\tb\n",
            "line 3: unknown label '2'; the labels of mrpc are 0, 1",
        ),
        (
            "1\t2\t3\ta\tb\n",
            "no column '#1 String'; the columns of its first row are 1, 2, 3, a, b; name the right "
            "one",
        ),
        (
            HEADER.replace("Quality", "Qualty") + "\n",
            r"no column 'Quality' \(did you mean Qualty\?\)",
        ),
        (HEADER.encode() + b"\n1\t2\t3\t\xff\tb\n", "line 2: not UTF-8 text"),
    ],
)
def test_wrong_rows_are_named_with_file_and_line(
    tmp_path: Path, content: bytes | str, message: str
) -> None:
    file = write(tmp_path, content)
    with pytest.raises(UserError, match=message) as error:
        read_examples(MRPC, file)
    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    ("task", "content", "expected"),
    [  # a row of every layout that GLUE has
        ("cola", "gj04\t1\t\tThe sailors rode.\n", (1, "The sailors rode.", None, "1")),
        ("cola", "index\tsentence\n0\tBill whistled.\n", (2, "Bill whistled.", None, None)),
        ("sst2", "sentence\tlabel\nfine \t1\n", (2, "fine ", None, "1")),
        ("sst2", "index\tsentence\n0\tfine\n", (2, "fine", None, None)),
        (
            "stsb",
            "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2"
            "\tsentence1\tsentence2\tscore\n"
            "0\tg\tf\t2012\t1\tn\tn\tA\tB\t3.750\n",
            (2, "A", "B", "3.750"),
        ),
        (
            "qqp",
            "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t2\t3\tA\tB\t0\n",
            (2, "A", "B", "0"),
        ),
        ("qqp", "id\tquestion1\tquestion2\n0\tA\tB\n", (2, "A", "B", None)),
        (
            "mnli",
            "index\ts1\tsentence1\tsentence2\tlabel1\tgold_label\n"
            "0\tx\tA\tB\tneutral\tentailment\n",
            (2, "A", "B", "entailment"),
        ),
        (
            "qnli",
            "index\tquestion\tsentence\tlabel\n0\tA\tB\tnot_entailment\n",
            (2, "A", "B", "not_entailment"),
        ),
        ("wnli", "index\tsentence1\tsentence2\tlabel\n0\tA\tB\t1\n", (2, "A", "B", "1")),
        ("ax", "index\tsentence1\tsentence2\n0\tA\tB\n", (2, "A", "B", None)),
        ("xnli", "premise\thypo\tlabel\nA\tB\tcontradictory\n", (2, "A", "B", "contradiction")),
        (
            "xnli",
            "language\tgold_label\tp1\tp2\tp3\tp4\tsentence1\tsentence2\tid\n"
            "de\tneutral\t\t\t\t\tA\tB\t1\n",
            (2, "A", "B", "neutral"),
        ),
        ("xnli", "A\tB\tcontradiction\n", (1, "A", "B", "contradiction")),
        ("pawsx", "id\tsentence1\tsentence2\tlabel\n4\tA\tB\t1\n", (2, "A", "B", "1")),
        (
            "boolq",
            '{"question": "is it", "passage": "It is.", "idx": 0, "label": true}\n',
            (1, "It is.", "is it", "true"),
        ),
        (
            "cb",
            '{"premise": "A", "hypothesis": "B", "label": "neutral", "idx": 0}\n',
            (1, "A", "B", "neutral"),
        ),
    ],
)
def test_every_layout_of_glue_and_superglue_is_read(
    tmp_path: Path, task: str, content: str, expected: tuple
) -> None:
    file = write(tmp_path, content)
    assert read_examples(TASKS[task], file, labelled=expected[3] is not None) == [
        Example(*expected)
    ]


def test_short_rows_of_qqp_are_skipped_and_told_and_empty_texts_too(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    file = write(tmp_path, header + "1\t2\t3\tA\tB\t0\n1\t2\t3\tA B\t0\n1\t2\t3\t\tB\t0\n")
    assert [e.line for e in read_examples(TASKS["qqp"], file)] == [2, 4]
    assert capsys.readouterr().err.splitlines() == [
        f"{file}: skipped 1 of its rows: line 3 has 5 columns, not 6",
        f"{file}: 1 row has no text, line 4",
    ]


def test_rows_of_paws_x_without_a_translation_are_skipped_and_told_but_predicted(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = "4\tA\tB\t1\n5\tNS\tB\t0\n6\tA NS\tB\t0\n7\tA\tNS\t0\n"
    file = write(tmp_path, f"id\tsentence1\tsentence2\tlabel\n{rows}")
    assert [e.line for e in read_examples(TASKS["pawsx"], file)] == [2, 4]
    assert (
        capsys.readouterr().err
        == f"{file}: skipped 2 of its rows, whose text is 'NS', the first of them line 3\n"
    )
    predicted = read_examples(TASKS["pawsx"], file, labelled=False)
    assert [e.line for e in predicted] == [2, 3, 4, 5]


# ----------------------------------------------------------------------------------- one's own data


def test_own_data_needs_no_flag_where_it_is_text_and_label(tmp_path: Path) -> None:
    for name, content in (
        ("a.csv", '"good, really",pos\nbad,neg\n'),
        ("b.csv", 'label,text\npos,"good, really"\nneg,bad\n'),
        ("c.tsv", "good, really\tpos\nbad\tneg\n"),
        ("d.jsonl", '{"text": "good, really", "label": "pos"}\n{"text": "bad", "label": "neg"}\n'),
    ):
        (tmp_path / name).write_text(content)
        for task in ("csv", "tsv", "jsonl"):  # a file's ending says what it is
            examples = read_examples(TASKS[task], tmp_path / name)
            assert [(e.text_a, e.text_b, e.label) for e in examples] == [
                ("good, really", None, "pos"),
                ("bad", None, "neg"),
            ]
        assert with_labels(TASKS["csv"], examples).labels == ("neg", "pos")


def test_columns_and_labels_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("id,one,two,score\n7,a,b,1.5\n8,c,d,-2\n")
    task = own_task(TASKS["csv"], "one", "two", "score", labels="number")
    examples = read_examples(task, tmp_path / "x.csv")
    assert [(e.text_a, e.text_b) for e in examples] == [("a", "b"), ("c", "d")]
    assert task.label_array([e.label for e in examples]).tolist() == [1.5, -2.0]
    task = own_task(TASKS["csv"], "1", label="-1", labels="-2,1.5", header=True)
    examples = read_examples(task, tmp_path / "x.csv")
    assert task.label_array([e.label for e in examples]).tolist() == [1, 0]


def test_several_labels_of_a_text_are_split_at_the_separator(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(
        '{"text": "a", "label": ["red", "big"]}\n{"text": "b", "label": []}\n'
        '{"text": "c", "label": ["big"]}\n'
    )
    task = own_task(TASKS["jsonl"], separator=";")
    examples = read_examples(task, tmp_path / "x.jsonl")
    task = with_labels(task, examples)
    assert task.labels == ("big", "red")
    assert task.label_array([e.label for e in examples]).tolist() == [[1, 1], [0, 0], [1, 0]]


@pytest.mark.parametrize(
    ("flags", "content", "message"),
    [
        ({}, "a,x\nb,x\n", "has the label 'x' in all 2 rows; expected two labels or more"),
        (
            {},
            "".join(f"text {i},{i}\n" for i in range(30)),
            "has 30 labels in 30 rows, such as '0'; name the right column",
        ),
        ({"labels": "number"}, "a,1\nb,one\n", "line 2: label 'one'; expected a number"),
        ({"labels": "number"}, "a,1\nb,nan\n", "line 2: label 'nan'; expected a number"),
        ({"labels": "number"}, "a,1\nb,1_000\n", "line 2: label '1_000'; expected a number"),
        (
            {"labels": "number"},
            "a,3.4e38\nb,-1e308\n",
            "line 2: label '-1e308'; expected a number from -3.40282e.38 to 3.40282e.38",
        ),
        ({"labels": "number"}, "a,1\nb,1e400\n", "line 2: label '1e400'; expected a number from"),
        (
            {"labels": "neg,pos"},
            "a,neg\nb,poss\n",
            r"line 2: unknown label 'poss' \(did you mean pos\?\); the labels of csv are ",
        ),
        ({"labels": "neg"}, "", "`labels=neg`: expected different labels with commas"),
        ({"labels": "number", "separator": ";"}, "", "leave one out"),
        ({"text_a": "5"}, "a,x\nb,y\n", "no column '5'; the columns of its first row are a, x"),
        ({}, "a,x\nb\n", "line 2: 1 columns; expected 2"),
    ],
)
def test_mistakes_in_own_data_are_named(
    tmp_path: Path, flags: dict, content: str, message: str
) -> None:
    (tmp_path / "x.csv").write_text(content)

    def read() -> None:
        task = own_task(TASKS["csv"], **flags)
        with_labels(task, read_examples(task, tmp_path / "x.csv"))

    with pytest.raises(UserError, match=message):
        read()


def test_lines_of_a_pipe_are_texts_or_pairs_or_a_table_with_the_task_s_header(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def piped(task: str, text: str) -> list[tuple[str, str | None]]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        lines = dataclasses.replace(TASKS[task], form="lines")
        return [(e.text_a, e.text_b) for e in open_rows(lines, "-", labelled=False)[1]]

    assert piped("sst2", 'a "b", c\n\nd\te\n') == [('a "b", c', None), ("", None), ("d\te", None)]
    assert piped("mrpc", "a b\tc\nd\te\n") == [("a b", "c"), ("d", "e")]
    assert piped("cola", "index\tsentence\n0\ta b\n") == [("a b", None)]
    assert piped("csv", "a, b\nc\n") == [("a, b", None), ("c", None)]
    with pytest.raises(
        UserError, match="line 1: one text, and the model compares two; put a tab between them"
    ):
        piped("mrpc", "only one text\n")
    with pytest.raises(UserError, match="standard input, line 2: 1 columns; expected 2"):
        piped("mrpc", "a\tb\nonly one text\n")


# ----------------------------------------------------------------------------------------- features


def test_windows_cover_a_text_evenly_and_overlap() -> None:
    for n, expected in ((10, [0]), (12, [0]), (20, [0, 8]), (30, [0, 9, 18])):
        assert window_starts(n, 12) == expected
    for room in (1, 2, 3, 10, 126):
        for n in range(1, 400):
            starts = window_starts(n, room)
            assert starts[0] == 0
            assert starts[-1] + room >= n
            assert starts == sorted(set(starts))
            assert all(b - a <= room - room // 4 for a, b in itertools.pairwise(starts))
            assert starts[-1] <= max(0, n - room)


def test_of_a_long_text_the_beginning_and_the_end_are_kept(sample: Path) -> None:
    tokenizer = FullTokenizer(sample / "vocab.txt")
    words = "green sold the lamp red bought it".split()

    def kept(text: str, pair: str | None, max_len: int) -> list[str]:
        data = encode([(text, pair)], tokenizer, max_len, "head_tail")
        assert data.n_lost == len(f"{text} {pair or ''}".split()) - (len(data.ids) - 2 - bool(pair))
        return tokenizer.convert_ids_to_tokens(data.ids.tolist())

    # A quarter of 4, 5 and 6, rounded up.
    assert kept(" ".join(words), None, 6) == ["[CLS]", "green", *words[4:], "[SEP]"]
    assert kept(" ".join(words), None, 7) == ["[CLS]", *words[:2], *words[4:], "[SEP]"]
    assert kept(" ".join(words), None, 9) == ["[CLS]", *words, "[SEP]"]
    # Of a pair the longer one is cut, as Google's rule has it.
    found = kept("red lamp", " ".join(words), 9)
    assert found == ["[CLS]", "red", "lamp", "[SEP]", "green", "red", "bought", "it", "[SEP]"]
    # As in Sun et al. (2019).
    assert head_tail(list(range(900)), 510) == [*range(128), *range(518, 900)]


def test_long_texts_become_windows_whose_scores_are_averaged(sample: Path) -> None:
    tokenizer = FullTokenizer(sample / "vocab.txt")
    words = "green sold the lamp red bought it".split()
    task = with_labels(TASKS["csv"], [Example(1, "", None, x) for x in "ab"])
    texts = [" ".join(words[:3]), " ".join(words), " ".join(words[:2])]
    examples = [Example(i, text, None, "ab"[i % 2]) for i, text in enumerate(texts)]
    task = dataclasses.replace(task, max_len=6, long="window")  # 4 of 7 words fit
    data = task.encode_examples("x.csv", examples, tokenizer).features
    got = [
        tokenizer.convert_ids_to_tokens(data.ids[a:b].tolist())[1:-1]
        for a, b in itertools.pairwise(data.starts)
    ]
    assert got == [words[:3], words[0:4], words[3:7], words[:2]]
    assert data.labels.tolist() == [0, 1, 1, 0]
    assert data.example_labels.tolist() == [0, 1, 0]
    assert data.lines.tolist() == [0, 1, 1, 2]
    assert data.of_examples(np.array([[1.0], [2], [5], [7]])).tolist() == [[1], [3.5], [7]]
    data = task.encode_examples("x.csv", examples, tokenizer).features
    task = dataclasses.replace(task, long="window_max")
    largest = task.encode_examples("x.csv", examples, tokenizer).features
    assert largest.ids.tolist() == data.ids.tolist()
    found = largest.of_examples(np.array([[1.0, 0], [2, 9], [5, 1], [7, 3]]))
    assert found.tolist() == [[1, 0], [5, 9], [7, 3]]
    cut = encode([(text, None) for text in texts], tokenizer, 6)
    assert (cut.n_truncated, cut.n_lost, len(cut)) == (1, 3, 3)
    # green and 4 of 7 words
    data = encode([("green", " ".join(words))], tokenizer, 8, "window")
    got = [
        tokenizer.convert_ids_to_tokens(data.ids[a:b].tolist())
        for a, b in itertools.pairwise(data.starts)
    ]
    assert got == [["[CLS]", "green", "[SEP]", *words[i : i + 4], "[SEP]"] for i in (0, 3)]
    assert data.second.tolist() == [3, 3]


@pytest.mark.parametrize(
    ("lengths", "room", "kept"),
    [
        ((5, 3), 8, (5, 3)),
        ((5, 3), 7, (4, 3)),
        ((5, 3), 6, (3, 3)),
        ((5, 3), 5, (3, 2)),
        ((3, 5), 4, (2, 2)),
        ((4, 4), 7, (4, 3)),
        ((9, 1), 3, (2, 1)),
        ((0, 6), 3, (0, 3)),
        ((1, 1), 1, (1, 0)),
    ],
)
def test_pairs_are_truncated_by_googles_rule(
    lengths: tuple[int, int], room: int, kept: tuple[int, int]
) -> None:
    a, b = truncate_pair(list(range(lengths[0])), list(range(lengths[1])), room)
    assert (a, b) == (list(range(kept[0])), list(range(kept[1])))


def test_a_pair_becomes_cls_a_sep_b_sep(sample: Path) -> None:
    tokenizer = FullTokenizer(sample / "vocab.txt")
    example = Example(2, "green sold the lamp", "red bought it", "1")
    task = dataclasses.replace(MRPC, max_len=9)
    features = task.encode_examples("x.tsv", [example], tokenizer).features
    input_ids, segment_ids, input_mask, label_ids = Batches(features, 4)[0][:4]
    assert tokenizer.convert_ids_to_tokens(input_ids[0].tolist()) == [
        "[CLS]",
        "green",
        "sold",
        "the",
        "[SEP]",
        "red",
        "bought",
        "it",
        "[SEP]",
    ]
    assert segment_ids.tolist() == [[0, 0, 0, 0, 0, 1, 1, 1, 1]]
    assert input_mask.tolist() == [[1] * 9]
    assert label_ids.tolist() == [1]
    with pytest.raises(UserError, match="max_len=4; these texts need at least 5 tokens"):
        encode([example.texts], tokenizer, 4)
    with pytest.raises(UserError, match="max_len=2; these texts need at least 3 tokens"):
        encode([("green", None)], tokenizer, 2)


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
        ids, segments, mask, labels = (t.numpy() for t in batches[n][:4])
        rows = batches.rows(n)
        assert mask.sum(1).tolist() == data.lengths[rows].tolist()
        assert (ids == (rows + 1)[:, None] * mask).all()
        assert (segments == mask * (np.arange(mask.shape[1]) >= 3)).all()
        assert labels.tolist() == data.labels[rows].tolist()
        real, total = real + mask.sum(), total + mask.size
    assert real / total > 0.97


def test_an_unknown_task_is_answered_with_the_list() -> None:
    assert get_task("MRPC") is MRPC
    assert (get_task("SST-2"), get_task("sts_b")) == (TASKS["sst2"], TASKS["stsb"])
    with pytest.raises(
        UserError,
        match=r"`task=mprc`: unknown task \(did you mean mrpc\?\); the tasks are cola, sst2, mrpc",
    ):
        get_task("mprc")


ROWS = {  # of data.md's files: rows without the header
    "AX/diagnostic": 1104,
    "CoLA/dev": 1043,
    "CoLA/test": 1063,
    "CoLA/train": 8551,
    "MRPC/dev": 408,
    "MRPC/test": 1725,
    "MRPC/train": 3668,
    "QNLI/dev": 5463,
    "QNLI/test": 5463,
    "QQP/dev": 3000,
    "QQP/train": 15000,
    "RTE/dev": 277,
    "RTE/test": 3000,
    "RTE/train": 2490,
    "SST-2/dev": 872,
    "SST-2/test": 1821,
    "SST-2/train": 67349,
    "STS-B/dev": 1500,
    "STS-B/test": 1379,
    "STS-B/train": 5749,
    "WNLI/dev": 71,
    "WNLI/test": 146,
    "WNLI/train": 635,
}


@pytest.mark.real
def test_every_real_file_of_glue_is_read_in_full(real: Path, capsys: pytest.CaptureFixture) -> None:
    found = {}
    for folder in ("glue", "glue_layout"):
        for file in sorted((real / folder).glob("*/*.tsv")):
            labelled = not file.stem.startswith(("test", "diagnostic"))
            examples = read_examples(get_task(file.parent.name), file, labelled)
            assert all(e.text_a.strip() for e in examples)
            if folder == "glue":
                found[f"{file.parent.name}/{file.stem}"] = len(examples)
            else:
                lines = len(file.read_text().splitlines())
                assert len(examples) == lines - (file.parent.name != "CoLA" or file.stem == "test")
    assert found == ROWS
    assert (
        capsys.readouterr().err
        == f"{real}/glue/QQP/train.tsv: skipped 1 of its rows: line 15002 has 5 columns, not 6\n"
    )


@pytest.mark.real
def test_every_real_file_of_one_language_is_read_in_full(
    real: Path, capsys: pytest.CaptureFixture
) -> None:
    found = {}
    for file in sorted((real / "crosslingual").glob("*/*.t*")):
        examples = read_examples(get_task(file.parent.name.split("_")[0]), file)
        found[f"{file.parent.name}/{file.stem}"] = len(examples)
    assert found == {
        # 2,000 each, less the 68 and 32 that were not translated.
        "pawsx_de/dev": 1932,
        "pawsx_de/test": 1968,
        "xnli_de/dev": 250,
        "xnli_de/test": 5010,
        "xnli_de/train": 2245,
    }
    skipped = capsys.readouterr().err
    assert "dev.tsv: skipped 68 of its rows" in skipped
    assert "test.tsv: skipped 32 of its rows" in skipped


@pytest.mark.real
def test_the_reference_system_s_csv_and_a_korean_tsv_are_read_in_full(real: Path) -> None:
    for name, flags, rows, labels in (
        ("imdb_train.csv", {}, 4000, ("neg", "pos")),
        ("imdb_test.csv", {}, 2000, ("neg", "pos")),
        ("nsmc_train.tsv", {"text_a": "document"}, 20000, ("0", "1")),
        ("nsmc_test.tsv", {"text_a": "document"}, 5000, ("0", "1")),
    ):
        task = own_task(TASKS["csv"], **flags)
        examples = read_examples(task, real / "csv" / name)
        assert len(examples) == rows
        assert with_labels(task, examples).labels == labels


# ------------------------------------------------------------------------------------------ headers

REVIEWS = "a good film,pos\nso bad,neg\nfine,pos\nawful,neg\n"


@pytest.mark.parametrize("header", ["review,sentiment", "comment_text,toxic", "Titel,Note"])
def test_a_header_with_other_names_is_asked_about(tmp_path: Path, header: str) -> None:
    (tmp_path / "x.csv").write_text(f"{header}\n{REVIEWS}")
    text, label = header.split(",")
    with pytest.raises(
        UserError,
        match=f"is its first row a header\\? Its label, '{label}', is that of no other row",
    ):
        read_rows(TASKS["csv"], tmp_path / "x.csv")
    rows = read_rows(own_task(TASKS["csv"], text, label=label), tmp_path / "x.csv")
    assert [example.label for example in rows.examples] == ["pos", "neg", "pos", "neg"]
    rows = read_rows(own_task(TASKS["csv"], header=False), tmp_path / "x.csv")
    assert rows.examples[0].label == label


@pytest.mark.parametrize("header", ["Text,Label", "TEXT,LABEL", "Sentence,label", "text,label"])
def test_names_match_in_capitals_or_not(tmp_path: Path, header: str) -> None:
    (tmp_path / "x.csv").write_text(f"{header}\n{REVIEWS}")
    rows = read_rows(TASKS["csv"], tmp_path / "x.csv")
    assert [example.text_a for example in rows.examples] == [
        "a good film",
        "so bad",
        "fine",
        "awful",
    ]
    assert rows.header


def test_a_column_of_texts_is_no_label(tmp_path: Path) -> None:
    reviews = "".join(f"{i},review number {i},{'pos' if i % 2 else 'neg'}\n" for i in range(8))
    for header in ("", "id,review,sentiment\n"):
        (tmp_path / "x.csv").write_text(header + reviews)
        with pytest.raises(UserError, match=r"labels in . rows, such as 'review"):
            with_labels(TASKS["csv"], read_rows(TASKS["csv"], tmp_path / "x.csv").examples)


def test_a_header_is_not_predicted_or_evaluated_as_a_row(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(f"review,sentiment\n{REVIEWS}")
    task = dataclasses.replace(TASKS["csv"], labels=("neg", "pos"))
    with pytest.raises(UserError, match="is its first row a header\\? review, sentiment"):
        list(open_rows(task, tmp_path / "x.csv", labelled=False)[1])
    with pytest.raises(
        UserError, match=r"line 1: unknown label 'sentiment'.*If the first row is a header, name"
    ):
        read_rows(task, tmp_path / "x.csv")
    number = own_task(TASKS["csv"], labels="number")
    (tmp_path / "y.csv").write_text("review,stars\nfine,4\nbad,1.5\n")
    with pytest.raises(
        UserError, match=r"line 1: label 'stars'; expected a number. If the first row is a header"
    ):
        read_rows(number, tmp_path / "y.csv")


def test_what_was_understood_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(f"review,sentiment\n{REVIEWS}fine,pos\n")
    task = own_task(TASKS["csv"], "review", label="sentiment")
    rows = read_rows(task, tmp_path / "x.csv")
    assert (
        rows.describe()
        == f"{tmp_path}/x.csv: 5 rows; text: 'review'; label: 'sentiment' (neg 2, pos 3)"
    )
    assert repr(rows) == f"<{rows.describe()}>"
    kept = learn(TASKS["csv"], rows)
    assert (kept.text_a, kept.label) == ("review", "sentiment")  # which other files have to have
    (tmp_path / "y.csv").write_text("fine,pos\nfine,neg\n")
    with pytest.raises(
        UserError, match="no column 'review'; the columns of its first row are fine, pos"
    ):
        read_rows(kept, tmp_path / "y.csv")
    assert (
        "2 rows without a header; text: column 0; label: column 1 (neg 1, pos 1)"
        in read_rows(TASKS["csv"], tmp_path / "y.csv").describe()
    )
    (tmp_path / "pairs.csv").write_text("fine,good,pos\nfine,bad,neg\n")
    pairs = read_rows(own_task(TASKS["csv"], "0", "1", "2", header=False), tmp_path / "pairs.csv")
    assert "texts: column 0, column 1; label: column 2" in pairs.describe()
    numbers = "".join(f"text {i},{i / 2}\n" for i in range(20))
    (tmp_path / "z.csv").write_text(numbers)
    assert (
        "(0 to 9.5)"
        in read_rows(own_task(TASKS["csv"], labels="number"), tmp_path / "z.csv").describe()
    )


def test_a_digit_of_another_script_is_no_column(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(REVIEWS)
    with pytest.raises(UserError, match="no column '²'"):
        read_rows(own_task(TASKS["csv"], "²"), tmp_path / "x.csv")


def test_a_header_is_asked_about_where_texts_have_several_labels(tmp_path: Path) -> None:
    rows = [
        f"text {i},{';'.join(name for j, name in enumerate('abcdefg') if i >> j & 1) or 'a'}"
        for i in range(24)
    ]
    (tmp_path / "x.csv").write_text("\n".join(["comment,tags", *rows]) + "\n")
    with pytest.raises(
        UserError, match=r"is its first row a header\? Its label, 'tags', is that of no other row"
    ):
        read_rows(own_task(TASKS["csv"], separator=";"), tmp_path / "x.csv")
    with pytest.raises(
        UserError, match="`separator` is for data of your own; a text of mrpc has one label"
    ):
        own_task(TASKS["mrpc"], separator=";")


def test_a_header_without_labels_is_not_predicted_as_a_row(tmp_path: Path) -> None:
    task = dataclasses.replace(TASKS["csv"], labels=("neg", "pos"))
    (tmp_path / "x.csv").write_text("review\ngood film\nbad one\n")
    with pytest.raises(UserError, match=r"is its first row a header\? review"):
        list(open_rows(task, tmp_path / "x.csv", labelled=False)[1])
    (tmp_path / "x.csv").write_text("good film\nbad\n")
    assert len(list(open_rows(task, tmp_path / "x.csv", labelled=False)[1])) == 2


def test_a_record_without_a_token_is_refused() -> None:
    ids = np.ones((2, 4), np.int64)
    mask = np.array([[1, 1, 0, 0], [0, 0, 0, 0]])
    check_inputs(Path("x.tf_record"), ids[:1], mask[:1], ids[:1] * 0, 4)
    with pytest.raises(UserError, match=r"x\.tf_record: expected padding at the end"):
        check_inputs(Path("x.tf_record"), ids, mask, ids * 0, 4)

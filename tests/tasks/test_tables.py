"""Tables: every row of every form, with its line; and one clear line for what is wrong."""

import io
import sys
from pathlib import Path

import pytest

from system import texts
from system.files import read_text
from tasks import table_rows, tables
from tasks.questions import read_squad
from utils import UserError


def rows(
    file: Path | str, form: str, header: bool | None = None, **wanted: str | None
) -> list[tuple[int, list[str]]]:
    table = tables.read(file, form, wanted, header)
    return [(line, [fields[i] for i in table.columns.values()]) for line, fields in table.rows]


def write(folder: Path, content: str | bytes, name: str = "rows") -> Path:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def test_quotes_are_literal_in_tsv_and_fields_in_csv(tmp_path: Path) -> None:
    tsv = write(tmp_path, 'text\tlabel\nHe said "hi\tone\n"\ttwo\n')
    assert rows(tsv, "tsv", a="text", b="label") == [(2, ['He said "hi', "one"]), (3, ['"', "two"])]
    csv = write(tmp_path, 'text,label\n"He said ""hi"",\nand left",one\nplain,two\n')
    assert rows(csv, "csv", a="text", b="label") == [
        (2, ['He said "hi",\nand left', "one"]),
        (4, ["plain", "two"]),
    ]


@pytest.mark.parametrize("form", table_rows.FORMS)
def test_byte_order_marks_windows_line_ends_and_odd_separators_do_no_harm(
    tmp_path: Path, form: str
) -> None:
    text = "a\u2028b\x0cc\x85d"
    content = {
        "tsv": f"text\tlabel\r\n{text}\tx\r\n",
        "csv": f"text,label\r\n{text},x\r\n",
        "jsonl": '{"text": "a\u2028b\\fc\x85d", "label": "x"}\r\n',
    }[form]
    file = write(tmp_path, b"\xef\xbb\xbf" + content.encode())
    assert rows(file, form, a="text", b="label") == [(1 if form == "jsonl" else 2, [text, "x"])]


def test_the_first_row_is_a_header_where_it_names_every_column(tmp_path: Path) -> None:
    wanted = {"a": "sentence|3", "b": "label|1"}
    assert rows(write(tmp_path, "x\t1\t\thello\n"), "tsv", **wanted) == [(1, ["hello", "1"])]
    assert rows(write(tmp_path, "label\tsentence\n1\thello\n"), "tsv", **wanted) == [
        (2, ["hello", "1"])
    ]
    unsure = write(tmp_path, "x\tlabel\t\tone of two\n")
    with pytest.raises(
        UserError, match=r"no column 'sentence'; .* the right one with `a`, or if .* `header=False`"
    ):
        rows(unsure, "tsv", **wanted)
    assert rows(unsure, "tsv", header=False, **wanted) == [(1, ["one of two", "label"])]
    assert rows(write(tmp_path, "x\ty\n1\t2\n"), "tsv", header=True, a="0", b="-1") == [
        (2, ["1", "2"])
    ]
    assert rows(write(tmp_path, "text\tlabel\n1\t2\n"), "tsv", header=False, a="0", b="1")[0] == (
        1,
        ["text", "label"],
    )
    assert rows(write(tmp_path, "text\tlabel\n1\t2\n"), "tsv", a="text", b="1") == [(2, ["1", "2"])]


def test_json_values_become_text_and_lists_of_labels_stay_lists(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        '{"t": "x", "y": ["a", "b"], "n": 1.5}\n\n'
        '{"n": null, "t": "é", "y": []}\n{"y": true, "t": ""}\n',
    )
    assert rows(file, "jsonl", a="t", label="y") == [
        (1, ["x", '["a", "b"]']),
        (3, ["é", "[]"]),
        (4, ["", "true"]),
    ]
    with pytest.raises(UserError, match=r"line 1: 'y' is \['a', 'b'\]; expected a text"):
        rows(file, "jsonl", a="t", text_b="y")
    spans = write(tmp_path, '{"t": "Ada left", "y": [[0, 3, "PER"]]}\n')
    with pytest.raises(UserError, match=r"line 1: 'y' is \[\[0, .*expected a label or a list"):
        rows(spans, "jsonl", a="t", label="y")


def separated(folder: Path, content: str, **wanted: str) -> tuple[str, list[list[str]]]:
    file = write(folder, content)
    table = tables.read(file, "csv", wanted)
    return table.delimiter, [[row[i] for i in table.columns.values()] for _, row in table.rows]


def test_what_stands_between_the_fields_of_a_csv_is_seen_in_its_rows(tmp_path: Path) -> None:
    columns = {"a": "text|0", "label": "label|1"}
    body = [["good, fast", "pos"], ["slow", "neg"]]
    for delimiter in ";\t|":
        text = "\n".join(delimiter.join(row) for row in [["text", "label"], *body])
        assert separated(tmp_path, text, **columns) == (delimiter, body)
    # Quoted fields may hold the other separator, and Excel's first line names one.
    assert separated(tmp_path, 'text;label\n"a; b";x\n"c, d";y\n', **columns) == (
        ";",
        [["a; b", "x"], ["c, d", "y"]],
    )
    assert separated(tmp_path, "sep=,\ntext,label\na;b,x\n", **columns) == (",", [["a;b", "x"]])
    assert separated(tmp_path, "sep=;\r\na;x\r\n", **columns) == (";", [["a", "x"]])
    # A comma where the others are part of some texts only.
    assert separated(tmp_path, "a; b,x\nc,y\n", **columns) == (",", [["a; b", "x"], ["c", "y"]])
    # Both in all rows: the one that makes a header of the first row.
    both = "n,text;label\nfast, good;pos\nbad, slow;neg\n"
    assert separated(tmp_path, both, label="label") == (";", [["pos"], ["neg"]])
    # Beyond its beginning a file is not looked at.
    long = "text;label\n" + "a, b;x\n" * 20_000
    assert separated(tmp_path, long, **columns)[0] == ";"


def test_a_separator_that_may_be_one_or_another_is_asked_about(tmp_path: Path) -> None:
    file = write(tmp_path, "fast, good;pos\nslow, bad;neg\n", "rows.csv")
    asked = r"rows.csv: ',' and ';' stand in each of its rows equally often; .*: `delimiter=','`,"
    with pytest.raises(UserError, match=asked):
        tables.read(file, "csv", {"a": "text|0"})
    for delimiter, first in ((",", "fast"), (";", "fast, good")):
        table = tables.read(file, "csv", {"a": "text|0"}, delimiter=delimiter)
        assert next(table.rows)[1][0] == first


def test_two_columns_of_one_name_are_asked_about(tmp_path: Path) -> None:
    file = write(tmp_path, "text,label,label\na,x,1\n")
    with pytest.raises(UserError, match=r"columns 1 and 2 are both called 'label'; .* `label=1`$"):
        rows(file, "csv", label="label")
    assert rows(file, "csv", header=True, label="2") == [(2, ["1"])]


@pytest.mark.parametrize(
    ("form", "content", "message"),
    [
        ("tsv", "", "is empty; expected rows of text, label"),
        (
            "tsv",
            "txt\tlabel\nx\ty\n",
            r"no column 'text' \(did you mean txt\?\); the columns of its first row are txt, "
            r"label; name "
            "the right one with `a`",
        ),
        (
            "tsv",
            "text\ty\nx\ty\n",
            "no column 'label'; the columns of its first row are text, y; name the right one with "
            "`b`",
        ),
        ("csv", 'text,label\nx,y\n"open,z\n', "line 3: not csv"),
        (
            "jsonl",
            '{"text": "x", "label": 1}\n{"text": "x"}\n',
            "line 2: no 'label'; expected text, label",
        ),
        ("jsonl", '{"text": "x", "label": 1}\n{"text": \n', "line 2: not JSON"),
        ("jsonl", "[1]\n", r"line 1: found '\[1\]'; expected a JSON object"),
        ("tsv", b"text\tlabel\nx\ty\n\xff\ty\n", "line 3: not UTF-8"),
        ("csv", b"text,label\nx,y\n\xff,y\n", "line 3: not UTF-8"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(
    tmp_path: Path, form: str, content: str | bytes, message: str
) -> None:
    file = write(tmp_path, content)
    with pytest.raises(UserError, match=message) as error:
        rows(file, form, a="text", b="label")
    assert str(file) in str(error.value)


def test_standard_input_is_read_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("text\tlabel\nä\tb\n".encode())))
    assert rows("-", "tsv", a="text") == [(2, ["ä"])]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"x\n\xff\n")))
    with pytest.raises(UserError, match=r"standard input, after line [01]: not UTF-8"):
        rows("-", "tsv", a="0")


def test_a_field_may_be_longer_than_csv_s_limit(tmp_path: Path) -> None:
    file = write(tmp_path, "word " * 50_000 + ",x\n")
    assert len(rows(file, "csv", a="0", b="1")[0][1][0]) == 250_000


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no /dev/zero")
def test_what_has_no_end_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for read in (
        lambda: table_rows.open_text("/dev/zero", "tsv", "lines"),
        lambda: read_text("/dev/zero"),
        lambda: read_squad("/dev/zero"),
    ):
        with pytest.raises(UserError, match="/dev/zero is a device, which may have no end"):
            read()
    assert list(table_rows.open_text("/dev/null", "tsv", "lines")[1]) == []
    # A pipe may have a line without an end.
    monkeypatch.setattr(texts, "LONGEST", 1000)
    with open("/dev/zero") as endless, pytest.raises(UserError, match="line 1: more than 1,000 ch"):
        list(texts.lines_of(endless, None, None))
    (tmp_path / "x.csv").write_text('text\n"' + "a\n" * 600)
    rows = table_rows.csv_rows(table_rows.open_text(tmp_path / "x.csv", "csv")[1], "x.csv")
    with pytest.raises(UserError, match=r"x.csv, line 2: not csv \(field larger"):
        list(rows)


@pytest.mark.parametrize("number", ["NaN", "1e400", "-Infinity"])
def test_a_number_that_json_does_not_have_is_no_label(tmp_path: Path, number: str) -> None:
    file = write(tmp_path, f'{{"text": "a", "label": 1, "n": {number}}}\n' * 2, "x.jsonl")
    assert rows(file, "jsonl", a="text", b="label") == [(1, ["a", "1"]), (2, ["a", "1"])]
    for use in ("text", "label"):
        values = {"text": '"a"', "label": "1"} | {use: number}
        line = ", ".join(f'"{name}": {value}' for name, value in values.items())
        file.write_text('{"text": "a", "label": 1}\n{' + line + "}\n")
        message = f"x.jsonl, line 2: {use!r} is -?(nan|inf); expected a finite number"
        with pytest.raises(UserError, match=message):
            rows(file, "jsonl", a="text", b="label")


@pytest.mark.parametrize(
    ("content", "wanted", "message"),
    [
        (
            "pos,good\n",
            {"text_a": "text|0", "label": "0"},
            "`text_a` and `label` are both its colu",
        ),
        ("x,label\na,b\n", {"text_a": "label", "label": "label"}, "are both its column 1; name an"),
        ("id,sentence1,sentence2\n", {"text_a": "text"}, "`text_a=sentence1` `text_b=sentence2`$"),
        ("a,text_a,text_b\n", {"text_a": "text"}, "or of pairs `text_a=text_a` `text_b=text_b`$"),
        ("one text\n", {"text_a": "review"}, "if that row is no header by its number, `text_a=0`"),
    ],
)
def test_advice_about_columns_can_be_followed(
    tmp_path: Path, content: str, wanted: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        rows(write(tmp_path, content), "csv", **wanted)

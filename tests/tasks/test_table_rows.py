"""A table says the same in every form that people have it in, and what is wrong is one line."""

import csv
import dataclasses
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest

from tasks import TASKS, own_task, table_rows
from tasks.rows import read_rows
from tasks.table_rows import Objects
from utils import UserError

ROWS = [
    {"id": 7, "text": 'Größe "XL",\nand a tab\t.', "label": "gut"},
    {"id": 8, "text": "x — y", "label": "schlecht"},
    {"id": 9, "text": "- 1+1", "label": "gut"},
]
FRAME = pd.DataFrame(ROWS)


def csv_text(delimiter: str = ",") -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(ROWS[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return out.getvalue()


def excel(frame: pd.DataFrame = FRAME, **sheets: pd.DataFrame) -> bytes:
    out = io.BytesIO()
    with pd.ExcelWriter(out, engine="openpyxl") as book:
        for name, sheet in {"Data": frame, **sheets}.items():
            sheet.to_excel(book, sheet_name=name, index=False)
    return out.getvalue()


def parquet(frame: pd.DataFrame = FRAME) -> bytes:
    out = io.BytesIO()
    frame.to_parquet(out)
    return out.getvalue()


LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
FILES: dict[str, bytes] = {
    "plain.csv": csv_text().encode(),
    "german.csv": csv_text(";").encode(),
    "packed.csv.gz": gzip.compress(csv_text().encode()),
    "windows.csv": csv_text().encode("utf-16"),
    "big.csv": b"\xfe\xff" + csv_text().encode("utf-16-be"),
    "mark.csv": csv_text().encode("utf-8-sig"),
    "lines.jsonl": LINES.encode(),
    "lines.jsonl.gz": gzip.compress(LINES.encode()),
    "array.json": json.dumps(ROWS, indent=1).encode(),
    "array.jsonl": json.dumps(ROWS).encode(),
    "array.json.gz": gzip.compress(json.dumps(ROWS).encode("utf-16")),
    "book.xlsx": excel(),
    "book_of_one.xlsx": excel(notes=pd.DataFrame()),
    "table.parquet": parquet(),
}
IN_MEMORY: dict[str, Callable[[], Any]] = {
    "DataFrame": lambda: FRAME,
    "columns": lambda: {name: list(FRAME[name]) for name in FRAME},
    "arrays": lambda: {name: FRAME[name].to_numpy() for name in FRAME},
    "dicts": lambda: ROWS,
    "generator": lambda: (row for row in ROWS),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_says_the_same_in_every_form(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(FILES[name])
    rows = read_rows(TASKS["csv"], file)
    assert [(e.text_a, e.label) for e in rows.examples] == [(r["text"], r["label"]) for r in ROWS]
    assert (rows.header, rows.columns) == (True, {"text_a": "text", "label": "label"})


@pytest.mark.parametrize("name", IN_MEMORY)
def test_what_python_has_says_the_same_as_a_file(name: str) -> None:
    source = table_rows.source_of(IN_MEMORY[name]())
    # Twice, since looking for columns of labels reads the rows too.
    for _ in range(2):
        rows = read_rows(TASKS["csv"], source)
        assert [(e.line, e.text_a, e.label) for e in rows.examples] == [
            (i, row["text"], row["label"]) for i, row in enumerate(ROWS, start=1)
        ]
    assert rows.describe() == "the data: 3 rows; text: 'text'; label: 'label' (gut 2, schlecht 1)"
    assert isinstance(source, Objects)
    assert source.digest == Objects(ROWS).digest != Objects(ROWS[:2]).digest


def test_a_file_in_another_encoding_is_read_by_its_name_alone(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_bytes("text,label\nplain,a\nGröße,b\nx,a\ny,b\n".encode("cp1252"))
    with pytest.raises(UserError, match=r"line 3: not UTF-8 text; .*`encoding=cp1252`"):
        read_rows(TASKS["csv"], file)
    found = read_rows(own_task(TASKS["csv"], encoding="cp1252"), file)
    assert [e.text_a for e in found.examples] == ["plain", "Größe", "x", "y"]
    # A mark in the file says more.
    file.write_bytes("text,label\nGröße,b\nx,a\n".encode("utf-8-sig"))
    found = read_rows(own_task(TASKS["csv"], encoding="cp1252"), file)
    assert found.examples[0].text_a == "Größe"
    for wrong in ("cp12520", "hex"):
        with pytest.raises(UserError, match="expected one that Python knows, such as cp1252"):
            own_task(TASKS["csv"], encoding=wrong)


def test_what_is_said_of_a_file_is_no_setting_of_the_model() -> None:
    plain = TASKS["csv"]
    said = own_task(plain, encoding="cp1252", unlabelled="drop", empty="keep")
    assert said.to_json() == plain.to_json()
    with pytest.raises(UserError, match=r"`empty='dorp'`: expected drop or keep"):
        own_task(plain, empty="dorp")


def test_missing_values_of_a_table_are_no_text_and_no_label() -> None:
    values = [None, np.nan, pd.NA, pd.NaT]
    frame = pd.DataFrame({"text": ["a", "b", "c", "d", "e", "f"], "label": [*values, "x", "y"]})
    with pytest.raises(UserError, match=r"the data: 4 rows have no label, lines 1, 2, 3, 4; "):
        read_rows(TASKS["csv"], Objects(frame))
    rows = read_rows(own_task(TASKS["csv"], unlabelled="drop"), Objects(frame))
    assert [e.text_a for e in rows.examples] == ["e", "f"]
    # Nor a number: a column with gaps has floats.
    frame = pd.DataFrame({"text": ["a", np.nan, "c"], "label": [1, 0, 1]})
    rows = read_rows(own_task(TASKS["csv"], empty="drop"), Objects(frame))
    assert [(e.text_a, e.label) for e in rows.examples] == [("a", "1"), ("c", "1")]


def test_rows_that_lack_something_are_asked_about_unless_glue_has_them(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "x.csv"
    file.write_text("text,label\n" + "a,yes\n,no\nb,no\n" * 6)
    with pytest.raises(UserError, match=r"lines 3, 6, 9, 12, 15 \.\.\.; comp.*: `empty=drop`, or"):
        read_rows(TASKS["csv"], file)
    assert len(read_rows(own_task(TASKS["csv"], empty="drop"), file).examples) == 12
    assert len(read_rows(own_task(TASKS["csv"], empty="keep"), file).examples) == 18
    err = capsys.readouterr().err.splitlines()
    assert [line.partition(" ... ")[0] for line in err] == [
        f"{file}: 6 rows have no text, lines 3, 6, 9, 12, 15 ...; left out",
        f"{file}: 6 rows have no text, lines 3, 6, 9, 12, 15 ...",
    ]
    # Both are asked at once.
    file.write_text("text,label\n" + "a,yes\n,no\nb,\n" * 6)
    with pytest.raises(
        UserError, match=r"6 rows .*; 6 rows .*: `unlabelled=drop` `empty=drop`, or"
    ):
        read_rows(TASKS["csv"], file)
    # Predicted they all are.
    unlabelled = read_rows(TASKS["csv"], file, labelled=False)
    assert len(unlabelled.examples) == 18


def test_numbers_of_classes_get_the_names_that_datasets_has_for_them(tmp_path: Path) -> None:
    feature = {"names": ["bad", "good"], "_type": "ClassLabel"}
    about = {
        "info": {"features": {"text": {"dtype": "string", "_type": "Value"}, "label": feature}}
    }
    table = pyarrow.table({"text": ["a", "b", "c"], "label": [1, 0, 1]})
    table = table.replace_schema_metadata({"huggingface": json.dumps(about)})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    rows = read_rows(TASKS["csv"], tmp_path / "x.parquet")
    assert [e.label for e in rows.examples] == ["good", "bad", "good"]
    # GLUE's tasks have their own names.
    task = dataclasses.replace(TASKS["sst2"], text_a="text")
    assert [e.label for e in read_rows(task, tmp_path / "x.parquet").examples] == ["1", "0", "1"]


BAD = {
    "x.xlsx": (excel(second=FRAME), r"has the sheets Data, second; which of them is meant\?"),
    "y.xlsx": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1old", "no workbook of Excel .*; save it as .xlsx"),
    "x.parquet": (b"PAR1broken", r"no Parquet table \(.*\); write it again"),
    "x.csv.gz": (gzip.compress(csv_text().encode())[:-9], "damaged .*; compress or copy it"),
    "x.json": (b'[{"text": "a", "label": "b"}, 3]', "item 2: found 3; expected a JSON object"),
    "z.json": (b'{"a": 1}', r"no column 'text'"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, name: str) -> None:
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_rows(TASKS["csv"], tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([1, 2], "the data: row 1 is 1; expected a dict"),
        ({"text": "a", "label": ["b"]}, "the data: 'text' is no column"),
        ({"text": ["a"], "label": ["b", "c"]}, "the data: columns of different lengths"),
        ([], "the data is empty"),
        (pd.concat([FRAME, FRAME], axis=1), "two columns are called 'id'; expected each once"),
    ],
)
def test_python_s_rows_are_checked(given: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_rows(TASKS["csv"], Objects(given))


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.parquet").write_bytes(FILES["table.parquet"])
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"x.parquet needs pyarrow \(pip install pyarrow\); or"):
        read_rows(TASKS["csv"], tmp_path / "x.parquet")

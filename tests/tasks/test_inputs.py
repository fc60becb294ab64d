"""What is given to predict(): texts and rows as they are, of tables the columns of the task."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kinds
import numpy as np
import pandas as pd
import pytest

from tasks import TASKS
from tasks.inputs import inputs_of
from tasks.table_rows import Objects
from tokenization import FullTokenizer
from utils import UserError

SINGLE, PAIR = TASKS["csv"], TASKS["rte"]
FRAME = {"id": [1, 2], "Text": ["good", "bad"], "sentence1": ["a", "b"], "sentence2": ["c", "d"]}


class Frame:
    """What a DataFrame has: columns by name, and the names when it is iterated over."""

    def __init__(self, columns: dict[str, list[Any]]):
        self.columns, self.values = list(columns), columns

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.values[self.columns[0]])

    def __getitem__(self, name: str) -> np.ndarray:
        return np.array(self.values[name], object)


def texts(task: Any, inputs: Any) -> list[tuple[str, str | None]]:
    return [e.texts for e in task.examples_of(inputs_of(inputs, task.input_columns))]


def rows() -> list[dict[str, Any]]:
    return [dict(zip(FRAME, row, strict=True)) for row in zip(*FRAME.values(), strict=True)]


@pytest.mark.parametrize("make", [dict, Frame, lambda _: rows(), lambda _: iter(rows())])
def test_of_tables_and_mappings_the_columns_of_the_task_are_read(make: Any) -> None:
    assert texts(SINGLE, make(FRAME)) == [("good", None), ("bad", None)]
    assert texts(PAIR, make(FRAME)) == [("a", "c"), ("b", "d")]


def test_a_real_data_frame_is_read_by_its_columns() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(FRAME)
    assert texts(SINGLE, frame) == [("good", None), ("bad", None)]
    assert texts(PAIR, frame) == [("a", "c"), ("b", "d")]
    assert texts(SINGLE, frame["Text"]) == [("good", None), ("bad", None)]


def test_strings_of_numpy_are_texts_and_lists_and_tuples_are_rows() -> None:
    assert texts(SINGLE, np.array(["good", "bad"])) == [("good", None), ("bad", None)]
    assert texts(SINGLE, [np.str_("good"), ("bad",)]) == [("good", None), ("bad", None)]
    assert texts(PAIR, [["a", "b"], ("c", np.str_("d"))]) == [("a", "b"), ("c", "d")]
    assert texts(PAIR, np.array([["a", "b"]])) == [("a", "b")]


@pytest.mark.parametrize("odd", [None, float("nan"), np.nan, 3, [1], b"good", {"good"}, ("a", "b")])
def test_an_input_that_is_no_text_is_named_by_its_number(odd: Any) -> None:
    with pytest.raises(UserError, match=r"^input 2 is .*; expected a text$"):
        texts(SINGLE, ["good", odd])
    with pytest.raises(UserError, match=r"^input 2 is .*; expected a text$"):
        texts(SINGLE, {"text": ["good", odd]})


@pytest.mark.parametrize("odd", ["q", ("q", None), ("q", float("nan")), ("a", "b", "c"), ["q", 1]])
def test_an_input_that_is_no_pair_is_named_by_its_number(odd: Any) -> None:
    with pytest.raises(UserError, match=r"^input 1 is .*; expected a pair of texts$"):
        texts(PAIR, [odd])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("one text", "the inputs are one text, 'one text'; expected a list of them, or a Path"),
        (b"bytes", "the inputs are b'bytes'; expected a list"),
        (None, "the inputs are None; expected a list"),
        (7, "the inputs are 7; expected a list"),
        ({"text": {"r1": "one"}}, "the inputs are one row, .*; expected a list of rows"),
        ({"text": {"one", "two"}}, "the inputs are one row, .*; expected a list of rows"),
        ({"text": "one"}, "the inputs are one row, .*; expected a list of rows"),
        ({"review": ["one"]}, "the inputs: no 'text' or 'sentence'; found review"),
        ([{"text": "one"}, {"review": "two"}], "input 2: no 'text' or .*; found review"),
        (np.array("one"), "expected a list of them"),
        ([{}], "input 1: no 'text' or .*; found nothing"),
    ],
)
def test_inputs_that_cannot_be_read_are_named(inputs: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        texts(SINGLE, inputs)


def test_columns_of_different_lengths_are_no_rows() -> None:
    with pytest.raises(UserError, match="columns of different lengths"):
        texts(PAIR, {"sentence1": ["a", "b"], "sentence2": ["c"]})


@pytest.mark.parametrize("form", ["list", "columns", "frame"])
@pytest.mark.parametrize("kind", ["questions", "choice"])
def test_rows_that_python_has_are_those_of_a_file(
    kind: str, form: str, sample: Path, tmp_path: Path
) -> None:
    if kind == "questions":
        rows: list[dict[str, Any]] = [
            {
                "id": str(i),
                "question": f"who sold lamp {i} ?",
                "context": "anna sold the lamp to boris .",
                "answers": {"text": ["anna"], "answer_start": [0]},
            }
            for i in range(7)
        ]
    else:
        rows = [
            {"context": f"anna {i}", "choices": ["sold .", "bought it ."], "label": i % 2}
            for i in range(7)
        ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    given = {"list": rows, "columns": columns, "frame": pd.DataFrame(columns)}[form]
    tokenizer = FullTokenizer(f"{sample}/vocab.txt")
    task: Any = kinds.TASK_OF[kind]
    found, expected = task.load(Objects(given), tokenizer), task.load(file, tokenizer)
    for name in ("ids", "starts", "labels"):
        assert np.array_equal(getattr(found.features, name), getattr(expected.features, name))
    assert found.file.digest

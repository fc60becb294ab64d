"""Predictions as a table that other programs open: .csv, .jsonl or .parquet, with named columns.

    write(saved, "new.csv", "answers.csv", keep=("id", "text"))

The columns are those of the file that are kept, then `answer`, `confidence`, and the probability of
each class by its name.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from formats.tfrecords import RECORDS
from system.files import whole_file
from system.packages import needs
from tasks.labels import is_number
from tasks.rows import open_rows
from tasks.tables import find_column
from utils import UserError, nearest, short, show, warn

FORMULA = tuple("=+-@\t\r")  # what a cell begins with that a spreadsheet computes
Columns = Sequence[str]
Rows = list[list[Any]]


class Writer(Protocol):
    """What writes rows into an open file."""

    def rows(self, rows: Rows) -> None:
        """Some more rows."""

    def close(self) -> None:
        """What stands at the end."""


class CsvWriter:
    """Commas between the fields, quotes where they are needed; numbers with all their digits."""

    def __init__(self, file: BinaryIO, columns: Columns, excel: bool):
        self.text = io.TextIOWrapper(
            file, "utf-8-sig" if excel else "utf-8", newline="", write_through=True
        )
        self.excel = excel
        # The module quotes what has the line end that it writes, and readers take "\r" for one too.
        self.writers = {
            False: csv.writer(self.text, lineterminator="\n"),
            True: csv.writer(self.text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC),
        }
        self.rows([list(columns)])

    def rows(self, rows: Rows) -> None:
        """Some more rows."""
        for row in rows:
            cells = [self.cell(value) for value in row]
            has_return = any(isinstance(cell, str) and "\r" in cell for cell in cells)
            self.writers[has_return].writerow(cells)

    def cell(self, value: Any) -> Any:
        """A cell that a spreadsheet shows and does not compute, if it is for one."""
        is_formula = isinstance(value, str) and value.startswith(FORMULA)
        # A negative number is none.
        if self.excel and is_formula and not is_number(value):
            return f"'{value}"
        return "" if value is None else value

    def close(self) -> None:
        """The file itself stays open: it is not complete yet."""
        self.text.flush()
        self.text.detach()


class JsonWriter:
    """An object a line."""

    def __init__(self, file: BinaryIO, columns: Columns, excel: bool):
        self.file, self.columns = file, columns

    def rows(self, rows: Rows) -> None:
        """Some more rows."""
        for row in rows:
            values = dict(zip(self.columns, row, strict=True))
            self.file.write((json.dumps(values, ensure_ascii=False) + "\n").encode())

    def close(self) -> None:
        """A line ends with its line."""


class ParquetWriter:
    """A Parquet table: texts, and numbers as float64."""

    def __init__(self, file: BinaryIO, columns: Columns, excel: bool):
        import pyarrow
        import pyarrow.parquet

        n_texts = len(columns) - columns[::-1].index("answer")
        types = [
            pyarrow.string() if i < n_texts else pyarrow.float64() for i in range(len(columns))
        ]
        self.pyarrow, self.schema = pyarrow, pyarrow.schema(list(zip(columns, types, strict=True)))
        self.writer = pyarrow.parquet.ParquetWriter(file, self.schema)

    def rows(self, rows: Rows) -> None:
        """Some more rows."""
        columns = [list(column) for column in zip(*rows, strict=True)]
        self.writer.write_table(self.pyarrow.table(columns, schema=self.schema))

    def close(self) -> None:
        """Where its parts are stands at the end of such a file."""
        self.writer.close()


WRITERS: dict[str, Callable[[BinaryIO, Columns, bool], Writer]] = {
    ".csv": CsvWriter,
    ".jsonl": JsonWriter,
    ".parquet": ParquetWriter,
}


def check(out: str | None, keep: Columns, excel: bool) -> bool:
    """Whether a file becomes such a table, by its name; UserError where flags need one."""
    suffix = Path(out or "").suffix
    if suffix not in WRITERS:
        if keep or excel:
            flag = "keep" if keep else "excel"
            raise UserError(f"`{flag}` is for tables: `out` has to end in {', '.join(WRITERS)}")
        return False
    if excel and suffix != ".csv":
        raise UserError("`excel` is for a .csv; name such a file with `out`")
    if suffix == ".parquet":
        with needs("pyarrow", str(out), "write a .csv"):
            import pyarrow  # noqa: F401
    return True


def write(saved: Any, data_file: str, out: str, keep: Columns = (), excel: bool = False) -> None:
    """Predict a file, `-`: standard input, into a table, which is whole or absent.

    Args:
        saved: a finetune.Saved of a SentenceTask.
        keep: columns of the file, by name, or by number where there is no header; ("all",): all.
        excel: what a spreadsheet opens as it is: a byte order mark, and no cell is a formula.
    """
    task = saved.task
    if RECORDS.search(data_file):
        raise UserError(f"{data_file} has no columns; write its predictions to a .tsv")
    table, examples = open_rows(task, data_file, labelled=False, with_fields=bool(keep))
    places, names = kept_columns(table, keep)
    columns = [*names, "answer"]
    if not task.number:
        columns += ["confidence", *task.labels]
    check_names(columns, out, "leave it out of `keep`, or write a .tsv" if keep else "write a .tsv")
    with whole_file(out) as f:
        writer = WRITERS[Path(out).suffix](f, columns, excel)
        for rows in answer_rows(saved, data_file, examples, places):
            writer.rows(rows)
        writer.close()
    warn(f"Saved {out}")


def check_names(columns: Columns, out: str, remedy: str) -> None:
    """UserError where two columns of a table would have the same name, such as a class's."""
    if twice := sorted({name for name in columns if columns.count(name) > 1}):
        raise UserError(f"the column {show(twice[0])} would stand in {out} twice; {remedy}")


def out_of_fold_columns(task: Any) -> list[str]:
    """The columns of out_of_fold.csv; UserError where a class is called as another column is."""
    columns = ["line", "label", "answer"]
    if not task.number:
        columns += ["confidence", *task.labels]
    check_names(columns, "out_of_fold.csv", "call that label otherwise")
    return columns


def write_out_of_fold(task: Any, pairs: Sequence[tuple[Any, Any]], folder: Path) -> None:
    """out_of_fold.csv: each example's line, label and answer by a model not trained on it."""
    with whole_file(folder / "out_of_fold.csv") as f:
        writer = CsvWriter(f, out_of_fold_columns(task), excel=False)
        for example, found in pairs:
            more = [] if task.number else [found.confidence, *found.probabilities]
            writer.rows([[example.line, example.label, found.answer, *more]])
        writer.close()


def kept_columns(table: Any, keep: Columns) -> tuple[list[int], list[str]]:
    """Where the columns to keep are, and their names; UserError where one is missing."""
    names = table.fields if table.header else [f"column {i}" for i in range(len(table.fields))]
    if tuple(keep) == ("all",):
        return list(range(len(names))), list(names)
    places = []
    for name in keep:
        place = find_column([name], table.fields, table.header)
        if place is None:
            raise UserError(
                f"{table.name}: no column {show(name)} to keep{nearest(name, names)}; it has "
                f"{short(', '.join(names), 100)}"
            )
        places.append(place)
    return places, [names[place] for place in places]


def answer_rows(
    saved: Any, data_file: str, examples: Iterator[Any], places: list[int]
) -> Iterator[Rows]:
    """The rows of a table of answers, some at a time."""
    number, first = saved.task.number, True
    for data, answers in saved.stream(data_file, examples, waiting=data_file != "-", bar=True):
        # The first rows have been read without an error, so the model's name is worth a line.
        if first:
            warn(saved.describe())
        first = False
        rows = []
        for example, found in zip(data.examples, answers, strict=True):
            kept = [example.fields[i] for i in places]
            more = [] if number else [found.confidence, *found.probabilities]
            answer = found.answer
            if number:
                answer = int(answer) if saved.task.scale else float(answer)
            rows.append([*kept, answer, *more])
        yield rows

"""The rows of a table in each form that people have: text, a workbook, Parquet, Python's objects.

    for line, fields in csv_rows(*open_text("reviews.csv", "csv")): ...
    for line, values in objects("rows.jsonl"): ...      # {"text": ..., "label": ...}
    for line, values in objects(frame): ...             # a DataFrame, a Dataset, a list of dicts

A row has the number of its line; in what has no lines its own number, from 1.
"""

import contextlib
import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any

from system import forms, texts
from system.packages import needs
from tasks.inputs import is_column, plain
from utils import UserError, parse_json, short, show

FORMS = ("tsv", "csv", "jsonl")  # of text
DELIMITERS = ",;\t|"  # of a csv, the usual one first
Row = tuple[int, list[str]]  # line of the file, from 1, and fields


class Objects:
    """Rows that Python has: a DataFrame, a Dataset, a mapping of columns, a list of dicts.

    In messages they go by a name, as a file does.
    """

    def __init__(self, rows: Any, name: str = "the data"):
        # What can be gone through once, such as a generator, is kept.
        self.rows = rows if hasattr(rows, "__len__") else list(rows)
        self.name = name

    def __str__(self) -> str:
        return self.name

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return rows_of_objects(self.rows, self.name)

    @property
    def digest(self) -> str:
        """A digest of all rows."""
        found = hashlib.sha256()
        for row in self:
            found.update(repr(row).encode())
        return found.hexdigest()


Source = str | Path | Objects


def source_of(data: Any, name: str = "the data") -> Source:
    """The name of a file as it is; anything else as rows of Python, which go by a name."""
    return data if isinstance(data, str | Path | Objects) else Objects(data, name)


def as_path(source: Source) -> Path | Objects:
    """What data remember of where they come from."""
    return source if isinstance(source, Objects) else Path(source)


def form_of(source: Source, usual: str, custom: bool) -> str:
    """The form of a source, of FORMS, or excel, parquet, objects.

    What the bytes of a file say comes first, then its suffix, then what is `usual`.

    Args:
        custom: data of one's own; a suffix says more than a task's usual form there. RTE is a table
            in GLUE and JSON lines in SuperGLUE.
    """
    if isinstance(source, Objects):
        return "objects"
    if str(source) != "-" and (form := forms.recognise(source)) in ("excel", "parquet"):
        return form
    suffix = Path(str(source).removesuffix(".gz")).suffix[1:]
    if suffix == "json" and custom:
        return "jsonl"
    return suffix if suffix == "jsonl" or (custom and suffix in FORMS) else usual


def open_text(
    file: str | Path, form: str, reader: str = "", encoding: str | None = None
) -> tuple[str, Iterator[str]]:
    """The name of a file for messages, and its lines with their ends, without a byte order mark.

    `reader`: who asks, of forms.EXPECTED, if it is no reader of tables. UserError where the file
    has another form than it reads.
    """
    # The csv module needs line ends as they are, since a quoted field may contain some. In a tsv
    # only "\n" ends a row: a lone "\r" may be part of a text.
    newline = "" if form == "csv" else "\n"
    if str(file) != "-":
        forms.check(file, reader or ("jsonl" if form == "jsonl" else "table"))
    return texts.open_lines(file, newline, encoding)


# --------------------------------------------------------------------------------------------- text


def tsv_rows(stream: Iterator[str], delimiter: str = "\t") -> Iterator[Row]:
    """Fields between tabs."""
    for number, line in enumerate(stream, start=1):
        # Only the line's end is stripped: an empty last field ends with a tab.
        yield number, line.rstrip("\n").removesuffix("\r").split(delimiter)


def csv_rows(stream: Iterator[str], name: str, delimiter: str = ",") -> Iterator[Row]:
    """Fields by the rules of csv; a blank line is no row, and neither is Excel's `sep=;`."""
    # A field may be a whole document, and the limit is 128 kB otherwise.
    csv.field_size_limit(texts.LONGEST)
    # strict, so that a quote that is never closed is an error and does not swallow the file.
    reader = csv.reader(stream, strict=True, delimiter=delimiter)
    while True:
        # A row may span lines; it is named by its first one.
        number = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(
                f"{name}, line {number}: not csv ({error}); mend the line: a quote inside a quoted "
                'field is written "", not \\"'
            ) from None
        is_hint = number == 1 and SEPARATOR_LINE.fullmatch(delimiter.join(fields))
        if fields and not is_hint:
            yield number, fields


# What Excel is told the separator by; split at a separator, which may be its own.
SEPARATOR_LINE = re.compile(r"sep=(.)\s*")


def rows_of(
    file: str | Path,
    form: str,
    names: Set[str],
    delimiter: str | None = None,
    encoding: str | None = None,
) -> tuple[str, Iterator[Row], str]:
    """The name of a table for messages, its rows of fields, and what stands between these.

    Args:
        form: tsv, csv or excel.
        names: of columns that are looked for.
        delimiter: None: a tab in a tsv; in a csv what its beginning shows.
    """
    if form == "excel":
        return str(file), excel_rows(file), ""
    name, stream = open_text(file, form, encoding=encoding)
    if form == "csv":
        delimiter = delimiter or find_delimiter(file, names, encoding)
        return name, csv_rows(stream, name, delimiter), delimiter
    delimiter = delimiter or "\t"
    return name, tsv_rows(stream, delimiter), delimiter


def find_delimiter(file: str | Path, names: Set[str], encoding: str | None = None) -> str:
    """What stands between the fields of a csv; UserError where that may be one or another.

    A separator that gives all rows the same number of columns, two or more; of several the one
    whose first row has some of the `names` of columns; a comma where there is none, or in a pipe.
    """
    if not Path(file).is_file():
        return ","
    head, is_whole = texts.head_of(file, forms.HEAD, encoding)
    if hint := SEPARATOR_LINE.fullmatch(head.partition("\n")[0]):
        return hint[1]
    found = {}
    for delimiter in DELIMITERS:
        rows = first_rows(head, delimiter, is_whole)
        if len(rows) > 1 and len(rows[0]) > 1 and len({len(row) for row in rows}) == 1:
            found[delimiter] = {field.strip().casefold() for field in rows[0]}
    # A lone row, or rows of different lengths, say nothing.
    if len(found) < 2:
        return next(iter(found), ",")
    lower = {name.casefold() for name in names}
    named = [delimiter for delimiter, fields in found.items() if fields & lower]
    if len(named) == 1:
        return named[0]
    ways = " and ".join(map(show, found))
    raise UserError(
        f"{file}: {ways} stand in each of its rows equally often; which of them is between the "
        "fields? Name it: `delimiter=','`, or ';' or tab"
    )


def first_rows(head: str, delimiter: str, is_whole: bool) -> list[list[str]]:
    """The rows of a csv's beginning, but the last one, if it is cut off; none if it is no csv."""
    rows = []
    try:
        for row in csv.reader(io.StringIO(head, newline=""), strict=True, delimiter=delimiter):
            if row:
                rows.append(row)
    except csv.Error as error:
        # The beginning may end inside a quoted field, of a row that is not counted.
        ends_inside = not is_whole and "unexpected end" in str(error)
        return rows if ends_inside else []
    return rows if is_whole else rows[:-1]


def json_lines(
    stream: Iterator[str], name: str, expected: str = "a JSON object {...}"
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of JSON lines, each with its line; UserError for what is none."""
    for number, line in enumerate(stream, start=1):
        # A file often ends in an empty line.
        if line.strip():
            where = f"{name}, line {number}"
            values = parse_json(line.strip(), where)
            if not isinstance(values, dict):
                raise UserError(f"{where}: found {show(line.strip(), 40)}; expected {expected}")
            yield number, values


# ---------------------------------------------------------------------------- workbooks and objects


def excel_rows(file: str | Path) -> Iterator[Row]:
    """The rows of a workbook's only sheet that has any; a row without values is none."""
    with needs("openpyxl", file, "save it as csv"):
        import openpyxl

    try:
        book = openpyxl.load_workbook(file, read_only=True, data_only=True)
    except Exception as error:  # a workbook of before 2007, one with a password, a damaged one
        raise UserError(
            f"{file}: no workbook of Excel ({error}); save it as .xlsx or csv"
        ) from None
    with contextlib.closing(book):
        sheets = [sheet for sheet in book.worksheets if any(sheet_rows(sheet))]
        if len(sheets) > 1:
            names = short(", ".join(sheet.title for sheet in sheets), 100)
            raise UserError(
                f"{file} has the sheets {names}; which of them is meant? Keep it alone, or save it "
                "as csv"
            )
        for sheet in sheets:
            yield from sheet_rows(sheet)


def sheet_rows(sheet: Any) -> Iterator[Row]:
    """The rows of a sheet that have a value."""
    for number, values in enumerate(sheet.iter_rows(values_only=True), start=1):
        if any(value is not None for value in values):
            yield number, [as_text(value) for value in values]


def objects(
    source: Source,
    encoding: str | None = None,
    expected: str = "a JSON object {...}",
    class_names: bool = False,
) -> tuple[str, Iterator[tuple[int, dict[str, Any]]]]:
    """The name of a source for messages, and its rows as objects, each with its line.

    Args:
        source: JSON lines, a JSON array of objects, Parquet, or Python's objects.
        expected: what an object should look like, for messages.
        class_names: give the names of classes that `datasets` has written as numbers.
    """
    if isinstance(source, Objects):
        names = {}
        if class_names:
            names = names_of_classes(getattr(source.rows, "features", None))
        return source.name, enumerate((named(row, names) for row in source), start=1)
    if str(source) != "-" and forms.recognise(source) == "parquet":
        return str(source), parquet_objects(source, class_names)
    name, lines = open_text(source, "jsonl", encoding=encoding)
    if str(source) != "-" and forms.recognise(source, unpack=True) == "json array":
        return name, array_objects("".join(lines), name, expected)
    return name, json_lines(lines, name, expected)


def read_objects(
    file: Source, names: Set[str] = frozenset(), expected: str = "a JSON object {...}"
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a table with a header, or the objects of what has no rows of fields.

    Args:
        names: of columns that are looked for.
        expected: what an object should look like, for messages.
    """
    form = form_of(file, "jsonl", custom=True)
    if isinstance(file, Objects) or form not in ("csv", "tsv", "excel"):
        yield from objects(file, expected=expected)[1]
        return
    name, rows = rows_of(file, form, names)[:2]
    header = next(rows, (0, []))[1]
    if len(set(header)) < len(header):
        raise UserError(f"{name}: two columns have the same name; expected each once")
    for line, fields in rows:
        if fields == [""]:  # a blank line
            continue
        if len(fields) != len(header):
            raise UserError(
                f"{name}, line {line}: {len(fields)} columns; expected {len(header)} as in the "
                "first row; mend the line"
            )
        yield line, dict(zip(header, fields, strict=True))


def rows_of_objects(source: Any, where: str) -> Iterator[dict[str, Any]]:
    """The rows of Python's objects: a table's by its columns, else mappings one by one."""
    # Of pandas and polars as of a mapping, each column by its name.
    if hasattr(source, "columns") or isinstance(source, Mapping):
        names = [str(name) for name in getattr(source, "columns", source)]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise UserError(f"{where}: two columns are called {twice!r}; expected each once")
        columns = {str(name): source[name] for name in getattr(source, "columns", source)}
        if odd := [name for name, values in columns.items() if not is_column(values)]:
            raise UserError(f"{where}: {odd[0]!r} is no column; expected columns, or rows as dicts")
        if len({len(values) for values in columns.values()}) > 1:
            raise UserError(f"{where}: columns of different lengths; expected rows")
        for row in zip(*columns.values(), strict=True):
            yield present(dict(zip(columns, row, strict=True)))
        return
    if not isinstance(source, Iterable):
        raise UserError(f"{where} are {show(source, 40)}; expected a file, a table, or dicts")
    for number, given in enumerate(source, start=1):
        if not isinstance(given, Mapping):
            raise UserError(f"{where}: row {number} is {show(given, 40)}; expected a dict")
        yield present({str(name): value for name, value in given.items()})


def present(row: dict[str, Any]) -> dict[str, Any]:
    """A row with Python's own values, None where there is none."""
    values = {name: plain(value) for name, value in row.items()}
    return {name: None if is_missing(value) else value for name, value in values.items()}


def parquet_objects(file: str | Path, class_names: bool) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a Parquet table, some of them in memory at a time."""
    with needs("pyarrow", file, "write it as JSON lines"):
        import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(file)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{file}: no Parquet table ({reason}); write it again") from None
    with contextlib.closing(table):
        names: dict[str, list[str]] = {}
        about = (table.schema_arrow.metadata or {}).get(b"huggingface")
        if class_names and about:
            # What `datasets` says of its columns.
            with contextlib.suppress(ValueError, KeyError, TypeError):
                names = names_of_classes(json.loads(about)["info"]["features"])
        number = 0
        for batch in table.iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield number, named(present(row), names)


def names_of_classes(features: Any) -> dict[str, list[str]]:
    """What `datasets` calls the numbers in each of its columns of classes."""
    found = {}
    for column, feature in features.items() if isinstance(features, Mapping) else ():
        # A list of classes, the tags of a sentence say, has them in its feature.
        for one in (feature, inner(feature)):
            names = one.get("names") if isinstance(one, Mapping) else getattr(one, "names", None)
            if isinstance(names, list):
                found[column] = [str(name) for name in names]
    return found


def inner(feature: Any) -> Any:
    """The feature of the items of a list."""
    return (
        feature.get("feature")
        if isinstance(feature, Mapping)
        else getattr(feature, "feature", None)
    )


def named(row: Mapping[str, Any], names: dict[str, list[str]]) -> dict[str, Any]:
    """A row with the names of its classes in place of their numbers; -1 stands for none."""
    row = dict(row)
    for column, known in names.items():
        value = row.get(column)
        if isinstance(value, list):
            row[column] = [
                known[i] if isinstance(i, int) and 0 <= i < len(known) else i for i in value
            ]
        elif isinstance(value, int):
            row[column] = known[value] if 0 <= value < len(known) else None
    return row


def array_objects(text: str, name: str, expected: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSON array, which is in memory as a whole."""
    for number, values in enumerate(parse_json(text, name, lines=True), start=1):
        # spaCy's training data: a text, and what is marked in it.
        if isinstance(values, list) and list(map(type, values)) == [str, dict]:
            values = {"text": values[0]} | values[1]
        if not isinstance(values, dict):
            raise UserError(f"{name}, item {number}: found {show(values, 40)}; expected {expected}")
        yield number, values


def as_text(value: object) -> str:
    """A value as the text of a field; lists and objects as JSON has them, "" of none."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool | int | float | list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def is_missing(value: object) -> bool:
    """Whether a value is what pandas has where there is none: NaN, NaT, NA."""
    # They alone differ from themselves; whether NA does cannot be said.
    try:
        return not isinstance(value, list | dict) and bool(value != value)
    except TypeError:
        return True

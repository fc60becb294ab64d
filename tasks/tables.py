"""Rows of a table with their line numbers: tsv as GLUE has it, csv, JSON lines; also from a pipe.

    table = read("train.tsv", "tsv", {"text_a": "sentence|3", "label": "label|1"})
    for line, fields in table.rows: print(line, fields[table.columns["text_a"]])

A column is named by a header's name, in capitals or not, or by its number from 0. Where it goes by
several, `|` stands between them, and the first row decides: if it names all wanted columns, it is a
header; if it names none, it is a row, and numbers count.

A csv has commas between its fields, unless all rows of its beginning have another separator.
"""

import csv
import dataclasses
import io
import itertools
import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from system import forms
from system.files import check_file, read_text
from utils import UserError, nearest, parse_json, short, show

FORMATS = ("tsv", "csv", "jsonl")
DELIMITERS = ",;\t|"  # of a csv, the usual one first
LONGEST = 2**26  # characters of a line, or a field; what has no end must not fill the memory
Row = tuple[int, list[str]]  # line of the file, from 1, and fields
# A JSON object and its place, for messages -> rows of keys and values.
Flatten = Callable[[dict[str, Any], str], list[dict[str, Any]]]


@dataclasses.dataclass
class Table:
    """A table being read: its rows can be gone through once."""

    name: str  # of the file, for messages
    fields: list[str]  # of the first row
    columns: dict[str, int | None]  # which column each of the wanted ones is
    names: dict[str, str]  # what it is called, by the header or by its number
    header: bool  # whether it has one
    delimiter: str  # between fields; "" of JSON lines
    rows: Iterator[Row]


def read(
    file: str | Path,
    form: str,
    wanted: dict[str, str | None],
    header: bool | None = None,
    optional: tuple[str, ...] = (),
    flatten: Flatten | None = None,
    delimiter: str | None = None,
) -> Table:
    """Open a table; `-` is standard input, read as it comes.

    In a tsv quotes are literal, and a row is a line. In a csv a quoted field may hold commas and
    line ends, and "" is a quote. Of JSON lines the first object's keys are the columns; values
    become text, lists and objects as JSON has them.

    Args:
        wanted: what each column is for, and how it is named; None: not wanted. UserError if one is
            not there.
        header: whether the first row has names; None: look. UserError where it names some of the
            wanted columns.
        optional: columns that a row without a header may lack.
        flatten: of JSON lines, what makes an object and its place (for messages) into rows; None:
            an object is a row.
        delimiter: of a csv; None: look.
    """
    name, stream = open_text(file, form)
    # The name as a whole comes first, then its parts: a header may contain a `|` itself.
    specs = {use: [spec, *spec.split("|")] for use, spec in wanted.items() if spec is not None}
    names = {alternative for alternatives in specs.values() for alternative in alternatives}
    # The keys of JSON lines are the columns, so that there is always a header.
    if form == "jsonl":
        texts = {spec for use, of_use in specs.items() if use != "label" for spec in of_use}
        rows, header = jsonl_rows(stream, name, names, texts, flatten), True
        delimiter = ""
    elif form == "csv":
        delimiter = delimiter or find_delimiter(file, names)
        rows = csv_rows(stream, name, delimiter)
    else:
        delimiter = delimiter or "\t"
        rows = tsv_rows(stream, delimiter)
    # The first row decides what the columns are, and is put back if it turns out to be data.
    first = next(rows, None)
    if first is None:
        raise UserError(
            f"{name} is empty; expected rows of {', '.join(filter(None, wanted.values()))}"
        )
    fields = [field.strip() for field in first[1]]
    header, columns = choose_columns(name, fields, specs, header, optional)
    # What the columns are called in messages and in task.json: by name only where there is one.
    names_of = {}
    for use, column in columns.items():
        if column is not None:
            names_of[use] = fields[column] if header else str(column)
    if not header:
        rows = itertools.chain([first], rows)
    return Table(name, fields, columns, names_of, header, delimiter, rows)


def choose_columns(
    name: str,
    fields: list[str],
    specs: dict[str, list[str]],
    header: bool | None,
    optional: tuple[str, ...] = (),
) -> tuple[bool, dict[str, int | None]]:
    """Whether the first row is a header, and which column each use has.

    UserError lists the columns if a use has none.
    """
    lower = {field.casefold() for field in fields}
    # The uses that go by a name, and those of them whose name is in the first row.
    nameable, named = [], []
    for use, spec in specs.items():
        names = {alternative.casefold() for alternative in spec if not is_number(alternative)}
        if names:
            nameable.append(use)
        if names & lower:
            named.append(use)
    # Some names found, some not: a misspelt header, or a row that has such a word by chance.
    unsure = header is None and 0 < len(named) < len(nameable)
    header = len(named) > 0 if header is None else header
    columns = {use: find_column(spec, fields, header) for use, spec in specs.items()}
    for use, column in columns.items():
        # By a number one of them can be meant.
        if header and column is not None and not is_number(specs[use][0]):
            same = [i for i, field in enumerate(fields) if field == fields[column]]
            if len(same) > 1:
                raise UserError(
                    f"{name}: columns {' and '.join(map(str, same))} are both called "
                    f"{show(fields[column])}; name one by its number, `{use}={same[0]}`"
                )
    check_distinct(name, fields, columns)
    missing = [use for use, column in columns.items() if column is None]
    # Predicting a line without a header may do without the second text; that is checked by the
    # caller.
    if not header:
        missing = [use for use in missing if use not in optional]
    if not missing:
        return header, columns
    # The message names a use that the header does not have, rather than one whose number is too
    # high.
    use = next((use for use in missing if use not in named), missing[0])
    usable = specs[use][1:]
    # With a header, a number counts only where no name was asked for.
    if header:
        usable = [spec for spec in usable if not is_number(spec)] or usable
    message = (
        f"{name}: no column {' or '.join(map(repr, usable))}{nearest(usable[0], fields)}; the "
        f"columns of its first row are {short(', '.join(fields), 120)}; name the right one with "
        f"`{use}`"
    )
    if unsure:
        message += ", or if that row is no header, add `header=False`"
    elif header is False and not is_number(specs[use][0]):
        message += f", if that row is no header by its number, `{use}=0`"
    if len(fields) == 1 and (others := [d for d in DELIMITERS if d in fields[0]]):
        message += f"; if its fields have {show(others[0])} between them, name it a .csv"
    if use == "text_a" and (pair := names_of_pair(fields)):
        message += f", or of pairs `text_a={pair[0]}` `text_b={pair[1]}`"
    raise UserError(message)


def check_distinct(name: str, fields: list[str], columns: dict[str, int | None]) -> None:
    """UserError where a column would be two things: the text its own label, say."""
    uses: dict[int, str] = {}
    for use, column in columns.items():
        if column is not None and uses.setdefault(column, use) != use:
            raise UserError(
                f"{name}: `{uses[column]}` and `{use}` are both its column {column}; name another "
                f"one of {short(', '.join(fields), 100)} with `{uses[column]}`"
            )


def names_of_pair(fields: list[str]) -> tuple[str, str] | None:
    """Two names of columns that differ at their end alone, as sentence1 and sentence2 do."""
    for first, second in itertools.pairwise(fields):
        if first[:-1] == second[:-1] and (first[-1:], second[-1:]) in (("1", "2"), ("a", "b")):
            return first, second
    return None


def is_number(name: str) -> bool:
    """Whether a column is named by its number; -1 is the last."""
    return re.fullmatch("-?[0-9]{1,9}", name) is not None


def find_column(alternatives: list[str], fields: list[str], header: bool) -> int | None:
    """The column that is named so; numbers count where there is no header, or no name to go by."""
    lower = [field.casefold() for field in fields]
    for alternative in alternatives if header else []:
        if alternative in fields:
            return fields.index(alternative)
        if alternative.casefold() in lower:
            return lower.index(alternative.casefold())
    numbers = [int(alternative) for alternative in alternatives if is_number(alternative)]
    has_name = len(numbers) < len(alternatives)
    # A header decides by names. A number in the same list is for files without one.
    if not numbers or (header and has_name):
        return None
    # The remainder turns -1 into the last column.
    return numbers[0] % len(fields) if -len(fields) <= numbers[0] < len(fields) else None


def open_text(file: str | Path, form: str, reader: str = "") -> tuple[str, Iterator[str]]:
    """The name of a file for messages, and its lines with their ends, without a byte order mark.

    `reader`: who asks, of forms.EXPECTED, if it is no reader of tables. UserError where the file
    has another form than it reads.
    """
    # The csv module needs line ends as they are, since a quoted field may contain some. In a tsv
    # only "\n" ends a row: a lone "\r" may be part of a text.
    newline = "" if form == "csv" else "\n"
    if str(file) == "-":
        # A daemon or a notebook may have no standard input at all.
        if sys.stdin is None or sys.stdin.closed:
            raise UserError("standard input is closed; name a file instead of -")
        # utf-8-sig drops a byte order mark, which Windows programs write.
        stream = io.TextIOWrapper(sys.stdin.buffer, "utf-8-sig", newline=newline)
        return "standard input", lines(stream, None)
    check_file(file, "a table or a text")
    forms.check(file, reader or ("jsonl" if form == "jsonl" else "table"))
    return str(file), lines(open(file, encoding="utf-8-sig", newline=newline), file)


def lines(stream: TextIO, file: str | Path | None) -> Iterator[str]:
    """The lines of a stream; UserError where they are not UTF-8."""
    n = 0
    try:
        with stream:
            while line := stream.readline(LONGEST):
                n += 1
                if len(line) == LONGEST:
                    raise UserError(
                        f"{file or 'standard input'}, line {n}: more than {LONGEST:,} characters; "
                        "expected shorter lines"
                    )
                yield line
    except UnicodeDecodeError:
        # A file can be read again as a whole, which finds the line of the bad byte; a pipe cannot.
        if file is not None and Path(file).is_file():
            read_text(file)  # knows the line
        raise UserError(
            f"{file or 'standard input'}, after line {n}: not UTF-8 text; convert it to UTF-8"
        ) from None


def tsv_rows(stream: Iterator[str], delimiter: str = "\t") -> Iterator[Row]:
    """Fields between tabs."""
    for number, line in enumerate(stream, start=1):
        # Only the line's end is stripped: an empty last field ends with a tab.
        yield number, line.rstrip("\n").removesuffix("\r").split(delimiter)


def csv_rows(stream: Iterator[str], name: str, delimiter: str = ",") -> Iterator[Row]:
    """Fields by the rules of csv; a blank line is no row, and neither is Excel's `sep=;`."""
    # A field may be a whole document, and the limit is 128 kB otherwise.
    csv.field_size_limit(LONGEST)
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


def find_delimiter(file: str | Path, names: set[str]) -> str:
    """What stands between the fields of a csv; UserError where that may be one or another.

    A separator that gives all rows the same number of columns, two or more; of several the one
    whose first row has some of the `names` of columns; a comma where there is none, or in a pipe.
    """
    if not Path(file).is_file():
        return ","
    with open(file, encoding="utf-8-sig", errors="replace", newline="") as f:
        head = f.read(forms.HEAD)
        is_whole = not f.read(1)
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
    lower = {name.casefold() for name in names if not is_number(name)}
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


def jsonl_rows(
    stream: Iterator[str],
    name: str,
    needed: set[str],
    texts: set[str],
    flatten: Flatten | None = None,
) -> Iterator[Row]:
    """First the keys of the first object, then each object's values under these keys.

    Those that are `needed` may not be missing, and those that are `texts` may be no lists.
    """
    keys: list[str] = []
    for number, values in json_lines(stream, name):
        where = f"{name}, line {number}"
        for row in flatten(values, where) if flatten else [values]:
            # The keys of the first row stand for a header, which a table of other forms has.
            if not keys:
                keys = list(row)
                yield number, keys
            # Other keys may be missing: they would not be looked at.
            if missing := [key for key in keys if key not in row and key in needed]:
                raise UserError(
                    f"{where}: no {missing[0]!r}; expected {', '.join(keys)} as in the first row"
                )
            check_values(row, needed, texts, where)
            yield number, [as_text(row.get(key)) for key in keys]


def check_values(row: dict[str, Any], needed: set[str], texts: set[str], where: str) -> None:
    """UserError for a value that is neither a text nor, of labels, a list of some."""
    for key in needed & row.keys():
        value, expected = row[key], ""
        # Python reads NaN and 1e400, which JSON does not have.
        if isinstance(value, float) and not math.isfinite(value):
            expected = "a finite number, a text or null"
        elif isinstance(value, list | dict) and key in texts:
            expected = "a text"
        # Spans, say: [[0, 13, "ORG"]].
        elif isinstance(value, list) and any(isinstance(item, list | dict) for item in value):
            expected = "a label or a list of labels"
        if expected:
            raise UserError(f"{where}: {key!r} is {show(value, 40)}; expected {expected}")


def as_text(value: object) -> str:
    """A JSON value as the text of a field."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)

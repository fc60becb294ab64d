"""Rows of a table with the lines they stand on: tab-separated as GLUE has them, csv, or JSON lines;
from a file or a pipe.

    table = read("train.tsv", "tsv", {"text_a": "sentence|3", "label": "label|1"})
    for line, fields in table.rows: print(line, fields[table.columns["text_a"]])

A column is named by a header's name, in capitals or not, or by its number from 0. Where it goes by
several, `|` stands between them, and the first row decides: if it names all wanted columns, it is a
header; if it names none, it is a row, and numbers count.
"""

import csv
import dataclasses
import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from utils import UserError, check_file, nearest, parse_json, read_text, short, show

FORMATS = ("tsv", "csv", "jsonl")
Row = tuple[int, list[str]]  # line of the file, from 1, and fields


@dataclasses.dataclass
class Table:
    """A table being read: its rows can be gone through once."""

    name: str  # of the file, for messages
    width: int  # columns
    columns: dict[str, int | None]  # which column each of the wanted ones is
    names: dict[str, str]  # what it is called, by the header or by its number
    header: bool  # whether it has one
    rows: Iterator[Row]


def read(
    file: str | Path,
    form: str,
    wanted: dict[str, str | None],
    header: bool | None = None,
    joint: str = ",",
    optional: tuple[str, ...] = (),
) -> Table:
    """Open a table; `-` is standard input, read as it comes.

    In a tsv quotes are literal, and a row is a line. In a csv a quoted field may hold commas and
    line ends, and "" is a quote. Of JSON lines the first object's keys are the columns; values
    become text, lists with `joint` between items.

    Args:
        wanted: what each column is for, and how it is named; None: not wanted. UserError if one is
            not there.
        header: whether the first row has names; None: look. UserError where it names some of the
            wanted columns.
        optional: columns that a row without a header may lack.
    """
    name, stream = open_text(file, form)
    specs = {use: [spec, *spec.split("|")] for use, spec in wanted.items() if spec is not None}
    names = {alternative for alternatives in specs.values() for alternative in alternatives}
    rows = (
        jsonl_rows(stream, name, joint, names)
        if form == "jsonl"
        else (csv_rows if form == "csv" else tsv_rows)(stream, name)
    )
    first = next(rows, None)
    if first is None:
        raise UserError(
            f"{name} is empty; expected rows of {', '.join(filter(None, wanted.values()))}"
        )
    fields = [field.strip() for field in first[1]]
    header, columns = choose(name, fields, specs, True if form == "jsonl" else header, optional)
    names_of = {
        use: fields[column] if header else str(column)
        for use, column in columns.items()
        if column is not None
    }
    return Table(
        name, len(fields), columns, names_of, header, rows if header else chain(first, rows)
    )


def choose(
    name: str,
    fields: list[str],
    specs: dict[str, list[str]],
    header: bool | None,
    optional: tuple[str, ...] = (),
) -> tuple[bool, dict[str, int | None]]:
    """Whether the first row is a header, and which column each use has; UserError lists the columns
    if one has none.
    """
    by_name = {
        use: {a.casefold() for a in alternatives if not number(a)}
        for use, alternatives in specs.items()
    }
    named = [
        use
        for use, alternatives in by_name.items()
        if not alternatives.isdisjoint(map(str.casefold, fields))
    ]
    unsure = header is None and 0 < len(named) < sum(map(bool, by_name.values()))
    header = len(named) > 0 if header is None else header
    columns = {use: find(alternatives, fields, header) for use, alternatives in specs.items()}
    if missing := [
        use for use, column in columns.items() if column is None and (header or use not in optional)
    ]:
        use = next((use for use in missing if use not in named), missing[0])
        usable = [a for a in specs[use][1:] if not (header and number(a))] or specs[use][1:]
        message = (
            f"{name}: no column {' or '.join(map(repr, usable))}{nearest(usable[0], fields)}; the "
            "columns of its "
            f"first row are {short(', '.join(fields), 120)}; name the right one with --{use}"
        )
        if unsure:
            message += ", or if that row is no header, add --header False"
        raise UserError(message)
    return header, columns


def number(name: str) -> bool:
    """Whether a column is named by its number; -1 is the last."""
    return re.fullmatch("-?[0-9]{1,9}", name) is not None


def find(alternatives: list[str], fields: list[str], header: bool) -> int | None:
    """The column that is named so; numbers count where there is no header, or no name to go by."""
    lower = [field.casefold() for field in fields]
    for alternative in alternatives if header else []:
        if alternative in fields:
            return fields.index(alternative)
        if alternative.casefold() in lower:
            return lower.index(alternative.casefold())
    numbers = [int(a) for a in alternatives if number(a)]
    if (
        numbers
        and (not header or len(numbers) == len(alternatives))
        and -len(fields) <= numbers[0] < len(fields)
    ):
        return numbers[0] % len(fields)
    return None


def chain(first: Row, rows: Iterator[Row]) -> Iterator[Row]:
    """The first row, and then the others."""
    yield first
    yield from rows


def open_text(file: str | Path, form: str) -> tuple[str, Iterator[str]]:
    """The name of a file for messages, and its lines; without a byte order mark, and with their
    line ends.
    """
    newline = "" if form == "csv" else "\n"
    if str(file) == "-":
        if sys.stdin is None or sys.stdin.closed:
            raise UserError("standard input is closed; name a file instead of -")
        return "standard input", lines(
            io.TextIOWrapper(sys.stdin.buffer, "utf-8-sig", newline=newline), None
        )
    check_file(file, "a table or a text")
    return str(file), lines(open(file, encoding="utf-8-sig", newline=newline), file)


def lines(stream: TextIO, file: str | Path | None) -> Iterator[str]:
    """The lines of a stream; UserError where they are not UTF-8."""
    n = 0
    try:
        with stream:
            for line in stream:
                n += 1
                yield line
    except UnicodeDecodeError:
        if file is not None and Path(file).is_file():
            read_text(file)  # knows the line
        raise UserError(
            f"{file or 'standard input'}, after line {n}: not UTF-8 text; convert it to UTF-8"
        ) from None


def tsv_rows(stream: Iterator[str], name: str) -> Iterator[Row]:
    """Fields between tabs."""
    for number, line in enumerate(stream, start=1):
        yield number, line.rstrip("\n").removesuffix("\r").split("\t")


def csv_rows(stream: Iterator[str], name: str) -> Iterator[Row]:
    """Fields by the rules of csv; a blank line is no row."""
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(stream, strict=True)
    while True:
        number = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(f"{name}, line {number}: not csv ({error}); mend the line") from None
        if fields:
            yield number, fields


def jsonl_rows(stream: Iterator[str], name: str, joint: str, needed: set[str]) -> Iterator[Row]:
    """First the keys of the first object, then the values of each under these keys, of which some
    are needed.
    """
    keys: list[str] = []
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        values = parse_json(line.strip(), f"{name}, line {number}")
        if not isinstance(values, dict):
            raise UserError(
                f"{name}, line {number}: found {show(line.strip(), 40)}; expected a JSON object "
                f"{{...}}"
            )
        if not keys:
            keys = list(values)
            yield number, keys
        if missing := [key for key in keys if key not in values and key in needed]:
            raise UserError(
                f"{name}, line {number}: no {missing[0]!r}; expected {', '.join(keys)} as in the "
                "first row"
            )
        yield number, [as_text(values.get(key), joint) for key in keys]


def as_text(value: object, joint: str) -> str:
    """A JSON value as the text of a field."""
    if isinstance(value, list):
        return joint.join(as_text(item, joint) for item in value)
    return (
        value
        if isinstance(value, str)
        else ""
        if value is None
        else json.dumps(value, ensure_ascii=False)
    )

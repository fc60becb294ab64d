"""A table whose columns are known by name or number: GLUE's tsv, csv, JSON lines, a workbook.

    table = read("train.tsv", "tsv", {"text_a": "sentence|3", "label": "label|1"})
    for line, fields in table.rows: print(line, fields[table.columns["text_a"]])

A column is named by a header's name, in capitals or not, or by its number from 0. Where it goes by
several, `|` stands between them, and the first row decides: if it names all wanted columns, it is a
header; if it names none, it is a row, and numbers count.

A csv has commas between its fields, unless all rows of its beginning have another separator.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

from tasks import table_rows
from tasks.table_rows import DELIMITERS, Row, Source, as_text
from utils import UserError, nearest, short, show

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
    source: Source,
    form: str,
    wanted: dict[str, str | None],
    header: bool | None = None,
    optional: tuple[str, ...] = (),
    flatten: Flatten | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    class_names: bool = False,
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
        encoding: of a text without a byte order mark; None: UTF-8.
        class_names: give the names of classes that `datasets` has written as numbers.
    """
    # The name as a whole comes first, then its parts: a header may contain a `|` itself.
    specs = {use: [spec, *spec.split("|")] for use, spec in wanted.items() if spec is not None}
    names = {alternative for alternatives in specs.values() for alternative in alternatives}
    # The keys of objects are the columns, so that there is always a header.
    if form in ("jsonl", "parquet", "objects"):
        texts = {spec for use, of_use in specs.items() if use != "label" for spec in of_use}
        name, objects = table_rows.objects(source, encoding, class_names=class_names)
        rows, header, delimiter = object_rows(objects, name, names, texts, flatten), True, ""
    else:
        assert not isinstance(source, table_rows.Objects)
        words = {name for name in names if not is_number(name)}
        name, rows, delimiter = table_rows.rows_of(source, form, words, delimiter, encoding)
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


def object_rows(
    objects: Iterator[tuple[int, dict[str, Any]]],
    name: str,
    needed: set[str],
    texts: set[str],
    flatten: Flatten | None = None,
) -> Iterator[Row]:
    """First the keys of the first object, then each object's values under these keys.

    Those that are `needed` may not be missing, and those that are `texts` may be no lists.
    """
    keys: list[str] = []
    for number, values in objects:
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

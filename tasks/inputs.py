"""What a notebook has in hand, such as a list, a DataFrame or a Dataset, as inputs one by one.

    list(inputs_of(["A text."], ["text"]))                  # ["A text."]
    list(inputs_of([{"text": "A text."}], ["text"]))        # ["A text."]
    list(inputs_of(frame, ["sentence1", "sentence2"]))      # [("A text.", "Another.")], a row each

Iterating over a DataFrame or a mapping would give the names of its columns, which are texts too.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set, Sized
from typing import Any

from utils import UserError, short, show


def inputs_of(inputs: Any, columns: Sequence[str]) -> Iterator[Any]:
    """The inputs one by one; of mappings and tables what their columns have: a value, or a tuple.

    Args:
        inputs: any iterable; a DataFrame, a Dataset, or a mapping of columns.
        columns: what a kind of task reads; `a|b` goes by either name.
    """
    if isinstance(inputs, str | bytes) or not isinstance(inputs, Iterable):
        what = "one text, " if isinstance(inputs, str) else ""
        raise UserError(
            f"the inputs are {what}{show(inputs, 40)}; expected a list of them, or a Path"
        )
    try:
        rows: Iterator[Any] = iter(inputs)
    except TypeError as error:  # an array of no dimension, say
        raise UserError(f"the inputs are {show(inputs, 40)}: {error}; expected a list of them")
    # pandas and polars have columns, which are taken by name as those of a mapping are.
    if hasattr(inputs, "columns") or isinstance(inputs, Mapping):
        table: Any = inputs
        names = {str(name): name for name in getattr(table, "columns", table)}
        found = [table[names[column_of(column, names, "the inputs")]] for column in columns]
        if not all(is_column(values) for values in found):
            raise UserError(
                f"the inputs are one row, {show(inputs, 40)}; expected a list of rows, or a Path"
            )
        if len({len(values) for values in found}) > 1:
            raise UserError("the inputs have columns of different lengths; expected rows")
        rows = zip(*found, strict=True) if len(found) > 1 else iter(found[0])
    for number, row in enumerate(rows, start=1):
        if isinstance(row, Mapping):
            names = {str(name): name for name in row}
            found = [row[names[column_of(column, names, f"input {number}")]] for column in columns]
            row = tuple(found) if len(found) > 1 else found[0]
        yield tuple(map(plain, row)) if isinstance(row, tuple) else plain(row)


def is_column(values: Any) -> bool:
    """Whether it has a value for each row, in their order: no text, and no names of rows."""
    return isinstance(values, Sized) and not isinstance(values, str | bytes | Mapping | Set)


def length_of(inputs: Any) -> int | None:
    """How many inputs there are; None where that is not known before they are asked for."""
    try:
        return len(inputs)
    except (TypeError, ValueError, OverflowError):
        return None


def plain(value: Any) -> Any:
    """A value of NumPy's as Python's: an array as a list, numpy.str_ as a str."""
    return value.tolist() if hasattr(value, "tolist") else value


def column_of(column: str, names: Iterable[str], where: str) -> str:
    """The name that a column goes by, in capitals or not; UserError where it is missing."""
    lower = {name.casefold(): name for name in names}
    for alternative in column.split("|"):
        if alternative in names:
            return alternative
        if alternative.casefold() in lower:
            return lower[alternative.casefold()]
    # A number is a column of a file without a header.
    wanted = " or ".join(map(repr, re.sub(r"(\|\d+)+$", "", column).split("|")))
    raise UserError(f"{where}: no {wanted}; found {short(', '.join(names), 100) or 'nothing'}")

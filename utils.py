"""Errors meant for the user, values checked against their types, progress, signals.

raise UserError(f"max_len={n}; expected at least 1")  # one line and exit status 2
cfg = make(Config, {"lr": 3e-5}, "the flags")  # a dataclass, its values checked
"""

import contextlib
import dataclasses
import difflib
import json
import math
import os
import re
import sys
import types
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO, TypeVar

T = TypeVar("T")


class UserError(ValueError):
    """A mistake the user can mend: what was given, what was expected, what to do, in one line."""


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The hint for an unknown name.

    nearest("n_layer", ["n_layers", "dim"]) -> ' (did you mean n_layers?)'
    """
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f" (did you mean {match[0]}?)" if match else ""


def short(text: str, limit: int = 60) -> str:
    """A text in a message, its middle left out where it is long.

    short("abcdefghijkl", 9) -> 'abcd...kl'
    """
    if len(text) <= limit:
        return text
    kept = limit - len("...")
    # Two thirds of the beginning and one of the end, where names of files differ.
    return text[: kept - kept // 3] + "..." + text[len(text) - kept // 3 :]


# What is no character to see, but steers a terminal: controls (but for tab and line feed), marks
# that turn the direction of writing round, Unicode's line ends; and half characters, as Python has
# them for the bytes of a file's name that are no UTF-8.
STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
HALVES = re.compile("[\ud800-\udfff]")


def visible(text: str) -> str:
    """A text that may come from anywhere as a terminal can show it: its looks are all it has.

    visible("\\x1b[2J") -> '\\\\x1b[2J'
    """
    return STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def in_a_line(text: str) -> str:
    """The same for a cell of a table or a part of a line, which tabs and line feeds would cut."""
    return visible(text).replace("\t", "\\t").replace("\n", "\\n")


def is_text(name: str | Path) -> bool:
    """Whether the name of a file is UTF-8, as some libraries expect it."""
    return not HALVES.search(str(name))


def show(value: object, limit: int = 60) -> str:
    """A value in a message, as Python writes it, its middle left out where it is long."""
    try:
        return short(repr(value).replace("\n", " "), limit)  # a table's has several lines
    except (ValueError, RecursionError):  # more digits, or more levels, than Python writes
        return f"a very large {type(value).__name__}"


def rank() -> int:
    """The number of this process among those that torchrun has started; 0 prints and writes."""
    return int(os.environ.get("RANK", "0"))


def size() -> int:
    """How many processes torchrun has started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


# ------------------------------------------------------------------------------------------- values


def parse_json(text: str, where: str, lines: bool = False) -> Any:
    """The value of a JSON text; UserError where it is none, or cannot be written again.

    `lines`: the text is a whole file, so that the message names its line.
    """
    half = None
    try:
        value = json.loads(text)
        # Half of a surrogate pair is no character: it can only come from an escape such as \ud800,
        # and few texts have one.
        if "\\ud" in text.lower():
            half = HALVES.search(json.dumps(value, ensure_ascii=False))
    except json.JSONDecodeError as error:
        line = f", line {error.lineno}" if lines else ""
        raise UserError(f"{where}{line}: not JSON ({error.msg}); mend the file") from None
    except RecursionError:
        raise UserError(f"{where}: JSON nested too deeply; expected a few levels") from None
    except ValueError:
        # Python refuses to convert integers of more than 4,300 digits.
        raise UserError(f"{where}: a number of thousands of digits; mend the file") from None
    if half:
        raise UserError(
            f"{where}: half of a surrogate pair (\\ud800 or alike); expected whole characters"
        )
    return value


def json_text(value: Any, where: str | Path, **form: Any) -> str:
    """A value as JSON text, in the form that json.dumps is told.

    UserError names `where` and the key of a number that is not finite. Bytes of a file's name that
    are no UTF-8 become what visible() shows, where `form` does not ask for ASCII.
    """
    try:
        text = json.dumps(value, allow_nan=False, **form)
    except ValueError:
        key, number = next(not_finite(value))
        raise UserError(
            f"{where}: {in_a_line(key)} is {number}, and JSON has finite numbers alone; look at "
            "the model and the data that it came from"
        ) from None
    # Within a JSON text a backslash is written twice.
    return HALVES.sub(lambda half: "\\" + visible(half[0]), text)


def not_finite(value: Any, key: str = "a value") -> Iterator[tuple[str, float]]:
    """The numbers of a value that are NaN or infinite, each with its key."""
    if isinstance(value, float) and not math.isfinite(value):
        yield key, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from not_finite(item, str(name))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from not_finite(item, key)


def convert(value: Any, kind: Any) -> Any:
    """A JSON value as an annotated type, its lists as tuples where these are asked for.

    TypeError where it is of another type.

    An int is a float too, but a bool is not an int, and every number has to be finite.
    """
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any or (kind is type(None) and value is None):
        return value
    if isinstance(kind, types.UnionType):
        # The first type that fits: int | float leaves an integer as it is.
        for choice in inner:
            with contextlib.suppress(TypeError):
                return convert(value, choice)
    elif origin is list and isinstance(value, list):
        return [convert(item, inner[0]) for item in value]
    elif origin is tuple and isinstance(value, list | tuple):
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
        if len(kinds) == len(value):
            return tuple(map(convert, value, kinds))
    elif origin is dict and isinstance(value, dict):
        return {convert(name, inner[0]): convert(item, inner[1]) for name, item in value.items()}
    elif kind is float and type(value) in (int, float):
        if abs(value) < 1e300:  # neither a NaN, nor more than a float can be
            return value
    elif type(value) is kind:
        # type() rather than isinstance(), since a bool is an int to Python and not to a user.
        return value
    raise TypeError


def typed(value: Any, kind: Any, source: str | Path) -> Any:
    """convert(), with a UserError that names `source`, and of an object the wrong key."""
    try:
        return convert(value, kind)
    except TypeError:
        pass
    # The message names the key, which is easier to find than the whole object.
    if typing.get_origin(kind) is dict and isinstance(value, dict):
        for name, item in value.items():
            typed(name, typing.get_args(kind)[0], f"{source}: a key")
            typed(item, typing.get_args(kind)[1], f"{source}: {short(name)}")
    finite = "a finite " if isinstance(value, float) else ""
    raise UserError(f"{source} is {show(value)}; expected {finite}{type_name(kind)}")


def type_name(kind: Any) -> str:
    """type_name(int | None) -> 'int'"""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, types.UnionType):
        return " or ".join(type_name(k) for k in inner if k is not type(None))
    if origin is dict:
        return "a JSON object {...}" + ("" if inner[1] is Any else f" of {type_name(inner[1])}")
    if origin in (list, tuple):
        return f"a list of {type_name(inner[0])}"
    return kind.__name__


def checked(cls: type, values: dict[str, Any], source: str | Path) -> dict[str, Any]:
    """Values for some fields of a dataclass, checked; errors name `source`."""
    hints = typing.get_type_hints(cls)
    # Most often a misspelt one, which would otherwise have no effect.
    for key in values:
        if key not in hints:
            raise UserError(
                f"{source}: unknown key {show(key)}{nearest(key, hints)}; known are "
                f"{', '.join(hints)}"
            )
    return {key: typed(value, hints[key], f"{source}: {key}") for key, value in values.items()}


def make(cls: type[T], values: dict[str, Any], source: str | Path) -> T:
    """A dataclass from a dict; unknown keys, missing keys and wrong types are errors."""
    given = checked(cls, values, source)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    # A default_factory would count as required; no class that is read from JSON has one.
    required = {field.name for field in fields if field.default is dataclasses.MISSING}
    if missing := sorted(required - values.keys()):
        raise UserError(f"{source} lacks {', '.join(missing)}; add what is missing")
    try:
        return cls(**given)
    except UserError as error:
        # A dataclass checks its own values; only the file's name is missing from its message.
        raise UserError(f"{source}: {error}") from None


# ----------------------------------------------------------------------------------------- messages


# What is quoted, or joined to more, is from elsewhere: a column `label`, a file `a`.tsv.
SETTING = re.compile(r"(?<![\w'\"])`(\w+)(?:=([^`]*))?`(?!\.?[\w'\"])")


def told(text: str) -> str:
    """A message as it is shown: its settings, in backticks, are flags where a command shows it.

    told("lower `max_len`, or use `long=window`") -> "lower --max_len, or use --long window"
    """
    if not STREAMS.flags:
        return text
    return SETTING.sub(lambda found: f"--{' '.join(filter(None, found.groups()))}", text)


def warn(text: str) -> None:
    """Tell the user something in a line on stderr, where it disturbs no output."""
    text = told(text)
    if rank() == 0:
        # A closed stderr raises ValueError, a full disk OSError; a note is not worth the work.
        with contextlib.suppress(OSError, ValueError):
            print(in_a_line(text), file=sys.stderr, flush=True)


@dataclasses.dataclass
class Streams:
    """What has become of the streams that this process prints to."""

    lost: OSError | None = None  # the error that stdout has failed with
    flags: bool = False  # whether settings in messages are shown as flags: in a command


STREAMS = Streams()


def log(text: str) -> None:
    """Report progress on stdout.

    Work continues where nobody can read of it (a full disk, a closed pipe); the command ends with
    that error, in STREAMS.lost, when its work is done.
    """
    try:
        print(visible(told(text)), flush=True)
    except OSError as error:
        STREAMS.lost = error
        drop_stdout()


def data_stream() -> TextIO:
    """stdout for what a command was asked to output: as it is, unless a terminal shows it."""
    return getattr(sys.stdout, "plain", sys.stdout)


def drop_stdout() -> None:
    """Send what stdout has not taken, and whatever follows, nowhere; Python would try again."""
    if sys.stdout:
        with contextlib.suppress(OSError, ValueError):
            # Python flushes stdout once more at its end, which would fail again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

"""What every module may lean on: errors meant for the user, JSON settings, files that are whole or absent, commands.

    cfg = read_config(Config, "config/train_mrpc.json")         # an unknown key names the nearest known one
    with whole_file("out/model.pt") as f: f.write(...)          # renamed into place when all of it is on the disk
    if __name__ == "__main__": command(main)                    # the flags are checked before anything runs
"""
import contextlib
import dataclasses
import difflib
import errno
import glob
import hashlib
import inspect
import json
import os
import re
import shutil
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

T = TypeVar("T")


class UserError(ValueError):
    """A mistake the user can mend. The message is one line: what was given, what was expected, what to do."""


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The hint for an unknown name.  nearest("n_layer", ["n_layers", "dim"]) -> ' (did you mean n_layers?)'"""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f" (did you mean {match[0]}?)" if match else ""


# ------------------------------------------------------------------------------------------------------- reading

def read_text(file: str | Path) -> str:
    """The UTF-8 text of a file without a byte order mark, its line ends as they are."""
    path = Path(file)
    if not path.is_file():
        raise UserError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}; expected a text file")
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: not UTF-8 text; convert the file to UTF-8") from None


def read_json(file: str | Path) -> dict:
    """The JSON object in a file."""
    try:
        values = json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise UserError(f"{file}, line {error.lineno}: not JSON ({error.msg}); mend the file") from None
    if not isinstance(values, dict):
        raise UserError(f"{file}: expected a JSON object {{...}}, found a {type(values).__name__}")
    return values


def find(names: str) -> list[Path]:
    """Files that a comma list of files, globs and folders names, sorted within each; UserError where there are none."""
    files: list[Path] = []
    for name in filter(None, (part.strip() for part in names.split(","))):
        found = [Path(name)] if Path(name).exists() else [Path(p) for p in sorted(glob.glob(name, recursive=True))]
        if not found:
            raise UserError(f"{name} does not exist; expected a file, a glob or a folder")
        for path in found:
            inside = sorted(path.rglob("*")) if path.is_dir() else [path]
            files += [p for p in inside if p.is_file() and not p.name.startswith(".") and p not in files]
    if not files:
        raise UserError(f"{names!r} has no files; expected text")
    return files


def fits(value: object, kind: Any) -> bool:
    """Whether a value is of an annotated type: an int is a float too, but a bool is not an int."""
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    return any(type(value) is k or (k is float and type(value) is int) or (k is type(None) and value is None)
               for k in kinds)


def type_name(kind: Any) -> str:
    """type_name(int | None) -> 'int'"""
    names = [k.__name__ for k in (typing.get_args(kind) or (kind,)) if k is not type(None)]
    return " or ".join(names)


def make(cls: type[T], values: dict, source: str | Path) -> T:
    """A dataclass from a dict; unknown keys, missing keys and wrong types are errors that name `source`."""
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    for key, value in values.items():
        if key not in fields:
            raise UserError(f"{source}: unknown key {key!r}{nearest(key, fields)}; known are {', '.join(fields)}")
        if not fits(value, hints[key]):
            raise UserError(f"{source}: {key} is {value!r}; expected {type_name(hints[key])}")
    for name, field in fields.items():
        if field.default is dataclasses.MISSING and name not in values:
            raise UserError(f"{source}: {name} is missing; add it")
    try:
        return cls(**values)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def read_config(cls: type[T], file: str | Path, **instead: object) -> T:
    """A dataclass from a JSON file, some of its values replaced."""
    return make(cls, read_json(file) | instead, file)


# ------------------------------------------------------------------------------------------------------- writing

@contextlib.contextmanager
def whole_file(file: str | Path) -> Iterator[BinaryIO]:
    """A file to write into that takes its name only when it is complete and on the disk; else nothing is left."""
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    try:
        with open(partial, "w+b") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)                  # the new name is part of the folder
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """A folder to fill that takes its name only when it is complete; else nothing is left, or at most what the next one
    to write it removes. Files in it are put on the disk by whoever writes them."""
    path = Path(folder)
    partial = path.with_name(f".{path.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    new = [parent for parent in path.parents if not parent.exists()]
    partial.mkdir(parents=True)
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        for parent in new:
            with contextlib.suppress(OSError):                  # somebody else uses it by now
                parent.rmdir()
        raise


def write_json(file: str | Path, values: dict) -> None:
    """A dict as readable JSON, whole or not at all."""
    with whole_file(file) as f:
        f.write((json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode())


def refuse(reason: str, **flags: object) -> None:
    """UserError if one of the flags was given."""
    if given := [f"--{name}" for name, value in flags.items() if value is not None]:
        raise UserError(f"{reason} {', '.join(given)}; see --help")


def note(text: str) -> None:
    """Tell the user something on stderr, where it disturbs no output."""
    print(text, file=sys.stderr, flush=True)


def file_digest(file: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(file, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


# ------------------------------------------------------------------------------------------------------ commands

def parse_value(flag: str, text: str, kind: Any) -> object:
    """The value of a flag by its annotated type (fire would guess: 2020 a number, a,b a tuple)."""
    kinds = typing.get_args(kind) or (kind,)
    if type(None) in kinds and text in ("None", "null"):
        return None
    if bool in kinds and text.lower() in ("true", "false"):
        return text.lower() == "true"
    for number in (int, float):
        if number in kinds:
            with contextlib.suppress(ValueError):
                return number(text)
    if str in kinds:
        return text
    raise UserError(f"{flag} {text}: expected {type_name(kind).replace('bool', 'True or False')}")


def parse_arguments(function: Callable, arguments: list[str], settings: type | None = None) -> dict[str, object]:
    """Keyword arguments of a function from a command line: `--name value`, `--name=value`, `--name` alone for True.

    Parameters without a default may stand without their name, in order; a last one that is a list takes all that is left
    so. The fields of a dataclass `settings` are flags too, and become the function's parameter of that name, a dict. Every
    mistake is found before anything runs.
    """
    parameters, hints = dict(inspect.signature(function).parameters), typing.get_type_hints(function)
    extra = {} if settings is None else typing.get_type_hints(settings)
    if settings:
        del parameters["settings"]
        hints |= extra
        parameters |= inspect.signature(settings).parameters
    required = [name for name, p in parameters.items() if p.default is p.empty]
    lists: dict[str, list[str]] = {name: [] for name in required if hints[name] == list[str]}
    given: dict[str, str] = {}
    queue = list(arguments)
    while queue:
        argument = queue.pop(0)
        if match := re.fullmatch(r"(--?[A-Za-z][\w-]*)(?:=(.*))?", argument, re.DOTALL):
            flag, text = match.groups()
            name = flag.lstrip("-").replace("-", "_")
            flags = [name for name in parameters if name not in lists]
            if name not in flags or not flag.startswith("--"):
                hint = nearest(name, flags).replace("mean ", "mean --")
                raise UserError(f"unknown flag {flag}{hint or '; the flags are --' + ' --'.join(flags)}")
            if text is None and queue and not re.match(r"--?[A-Za-z]", queue[0]):
                text = queue.pop(0)
            elif text is None:
                if hints[name] is not bool:
                    raise UserError(f"{flag} has no value; expected {type_name(hints[name])}")
                text = "True"
        else:
            left = [name for name in required if name not in given]
            if left and left[0] in lists:
                lists[left[0]].append(argument)
                continue
            if not left:
                raise UserError(f"unexpected {argument!r}; flags are written --name value")
            name = flag = left[0]
            text = argument
        if name in given:
            raise UserError(f"{flag} is given twice; keep one")
        given[name] = text
    if missing := [name.upper() if name in lists or not lists else f"--{name}" for name in required
                   if name not in given and not lists.get(name)]:
        raise UserError(f"{' and '.join(missing)} missing; see --help")
    values = {name: parse_value(f"--{name}", text, hints[name]) for name, text in given.items()}
    chosen = {name: values.pop(name) for name in list(values) if name in extra}
    return {**lists, **values, **({"settings": chosen} if chosen else {})}


@contextlib.contextmanager
def one_line_errors(program: str) -> Iterator[None]:
    """Turn the user's mistakes into one line on stderr and exit status 2, an interruption into 130."""
    try:
        yield
    except BrokenPipeError:                                     # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (UserError, OSError) as error:
        message = str(error)
        if isinstance(error, OSError) and error.strerror:
            message = f"{error.filename or 'writing'}: {error.strerror}"
            message += "; make room and start again" * (error.errno == errno.ENOSPC)
        print(f"{program}: {' '.join(message.split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as interruption:
        print(f"\n{program}: interrupted {interruption}".rstrip(), file=sys.stderr)
        sys.exit(130)


def command(*functions: Callable, named: bool = False, settings: type | None = None) -> None:
    """Run a function as a command line, its signature being the flags; several functions, or `named`, are subcommands.
    The fields of a dataclass `settings` are flags of a function with a parameter of that name."""
    program, arguments = Path(sys.argv[0]).name, sys.argv[1:]
    table, named = {function.__name__: function for function in functions}, named or len(functions) > 1
    with one_line_errors(program):
        if {"--help", "-h"} & set(arguments) or (named and not arguments):
            import fire
            chosen = [name for name in arguments[:1] if name in table] if named else []
            fire.Fire(table if named else functions[0], command=[*chosen, "--help"], name=program)
            return
        function = functions[0]
        if named:
            name = arguments.pop(0)
            if name not in table:
                raise UserError(f"unknown command {name!r}{nearest(name, table)}; the commands are {', '.join(table)}")
            function = table[name]
        function(**parse_arguments(function, arguments, settings))

"""What every module may lean on: errors meant for the user, JSON settings, files that are whole or absent, signals.

    cfg = read_config(Config, "config/train_mrpc.json")         # an unknown key names the nearest known one
    with whole_file("out/model.pt") as f: f.write(...)          # renamed into place when all of it is on the disk
"""
import contextlib
import dataclasses
import difflib
import glob
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import types
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

T = TypeVar("T")


class UserError(ValueError):
    """A mistake the user can mend. The message is one line: what was given, what was expected, what to do."""


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The hint for an unknown name.  nearest("n_layer", ["n_layers", "dim"]) -> ' (did you mean n_layers?)'"""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f" (did you mean {match[0]}?)" if match else ""


def rank() -> int:
    """The number of this process among those that torchrun has started, from 0. The first one prints and writes."""
    return int(os.environ.get("RANK", "0"))


def size() -> int:
    """How many processes torchrun has started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


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
def whole_file(file: str | Path, everywhere: bool = False) -> Iterator[BinaryIO]:
    """A file to write into that takes its name only when it is complete and on the disk; else nothing is left.

    Of several processes the first alone writes it, unless `everywhere`.
    """
    if rank() and not everywhere:
        with tempfile.TemporaryFile() as nowhere:
            yield nowhere
        return
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


@contextlib.contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """One process at a time, also of several machines that share the disk; the lock goes with the process that holds it."""
    import fcntl
    file = Path(path).with_name(f".{Path(path).name}.lock")
    new = [parent for parent in file.parents if not parent.exists()]
    while True:
        with contextlib.suppress(FileNotFoundError):                    # the last holder removes what it has made
            file.parent.mkdir(parents=True, exist_ok=True)
            f = open(file, "w")
            fcntl.flock(f, fcntl.LOCK_EX)
            if os.fstat(f.fileno()).st_ino == file.stat().st_ino:
                break
            f.close()
    try:
        yield
    finally:
        file.unlink()
        f.close()
        for parent in new:
            with contextlib.suppress(OSError):                  # something was written there
                parent.rmdir()


def write_json(file: str | Path, values: dict, everywhere: bool = False) -> None:
    """A dict as readable JSON, whole or not at all."""
    with whole_file(file, everywhere) as f:
        f.write((json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode())


def refuse(reason: str, **flags: object) -> None:
    """UserError if one of the flags was given."""
    if given := [f"--{name}" for name, value in flags.items() if value is not None]:
        raise UserError(f"{reason} {', '.join(given)}; see --help")


def note(text: str) -> None:
    """Tell the user something on stderr, where it disturbs no output."""
    if rank() == 0:
        print(text, file=sys.stderr, flush=True)


def file_digest(file: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(file, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


# ------------------------------------------------------------------------------------------------------- signals

class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM has come; the message says what becomes of the work."""

    raised = False                      # whether a signal has led to one

    def __init__(self, number: int, message: str = ""):
        super().__init__(message)
        self.number = number
        Interrupted.raised = True


class Signals:
    """Within `with Signals() as asked:` a first SIGINT or SIGTERM does no harm: `asked.number` tells of it, so that the
    work can be brought to a good end. `at_once`: it raises Interrupted instead. A second one ends the process.

    What comes within a second of the first is the same one: a scheduler and torchrun may both send it.
    """

    def __init__(self, at_once: bool = False):
        self.at_once, self.number = at_once, 0

    def handle(self, number: int, frame: types.FrameType | None) -> None:
        """Python calls this between two of its instructions."""
        if not self.number and not Interrupted.raised:
            self.number = number
            if self.at_once:
                raise Interrupted(number)

    def __enter__(self) -> "Signals":
        self.before, self.pipe, Interrupted.raised = {}, 0, False
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self.handle) for number in (signal.SIGINT, signal.SIGTERM)}
            if (outer := signal.set_wakeup_fd(-1)) >= 0:        # somebody watches already
                signal.set_wakeup_fd(outer)
            else:
                read, self.pipe = os.pipe()
                os.set_blocking(self.pipe, False)
                signal.set_wakeup_fd(self.pipe)
                threading.Thread(target=watch, args=(read,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if self.pipe:
            signal.set_wakeup_fd(-1)
            os.close(self.pipe)


def watch(signals: int) -> None:
    """End the process on a second signal, whatever it is at."""
    since = 0.0
    while data := os.read(signals, 1):                          # until nobody writes any more
        if since and time.monotonic() - since > 1:
            os._exit(128 + data[0])
        since = since or time.monotonic()
    os.close(signals)

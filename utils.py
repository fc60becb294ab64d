"""What every module may lean on: errors meant for the user, JSON settings, files that are whole or
absent, signals.

cfg = read_config(Config, "config/train_mrpc.json")         # an unknown key names the nearest known
one with whole_file("out/model.pt") as f: f.write(...)          # renamed into place when all of it
is on the disk
"""

import contextlib
import dataclasses
import difflib
import glob
import hashlib
import json
import os
import re
import shutil
import signal
import socket
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
    """A mistake the user can mend. The message is one line: what was given, what was expected, what
    to do.
    """


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The hint for an unknown name.  nearest("n_layer", ["n_layers", "dim"]) -> ' (did you mean
    n_layers?)'
    """
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f" (did you mean {match[0]}?)" if match else ""


def short(text: str, limit: int = 60) -> str:
    """A text in a message, its middle left out where it is long.  short("abcdefghijkl", 9) ->
    'abcd...kl'
    """
    if len(text) <= limit:
        return text
    kept = limit - len("...")
    return text[: kept - kept // 3] + "..." + text[len(text) - kept // 3 :]


def show(value: object, limit: int = 60) -> str:
    """A value in a message, as Python writes it, its middle left out where it is long.  show("768")
    -> "'768'"
    """
    try:
        return short(repr(value), limit)
    except (ValueError, RecursionError):  # more digits, or more levels, than Python writes
        return f"a very large {type(value).__name__}"


def rank() -> int:
    """The number of this process among those that torchrun has started, from 0. The first one
    prints and writes.
    """
    return int(os.environ.get("RANK", "0"))


def size() -> int:
    """How many processes torchrun has started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


# ------------------------------------------------------------------------------------------ reading


def check_file(file: str | Path, expected: str = "a file") -> None:
    """UserError where there is nothing to read: the path does not exist, or is a folder. A pipe is
    fine.
    """
    path = Path(file)
    try:
        exists, folder = path.exists(), path.is_dir()
    except (OSError, ValueError) as error:  # a name too long, or with a zero byte in it
        raise UserError(
            f"{short(str(file))}: {getattr(error, 'strerror', error)}; expected {expected}"
        ) from None
    if not exists or folder:
        raise UserError(
            f"{path} {'is a folder' if folder else 'does not exist'}; expected {expected}"
        )


def check_regular(file: str | Path) -> None:
    """UserError for a pipe or a device where a file is read more than once."""
    if Path(file).exists() and not (Path(file).is_file() or Path(file).is_dir()):
        raise UserError(
            f"{file} is a pipe or a device, and is read more than once; write it to a file first"
        )


def read_text(file: str | Path) -> str:
    """The UTF-8 text of a file or a pipe without a byte order mark, its line ends as they are."""
    path = Path(file)
    check_file(path, "a text file")
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: not UTF-8 text; convert the file to UTF-8") from None


def parse_json(text: str, where: str, lines: bool = False) -> Any:
    """The value of a JSON text; UserError where it is none, or has numbers or characters that
    cannot be written again.

    `lines`: the text is a whole file, so that the message names its line.
    """
    half = False
    try:
        value = json.loads(text)
        # Half of a surrogate pair is no character: it can only come from an escape such as \ud800.
        if "\\ud" in text.lower():
            half = any(0xD800 <= ord(char) < 0xE000 for char in strings_of(value))
    except json.JSONDecodeError as error:
        line = f", line {error.lineno}" if lines else ""
        raise UserError(f"{where}{line}: not JSON ({error.msg}); mend the file") from None
    except RecursionError:
        raise UserError(f"{where}: JSON nested too deeply; expected a few levels") from None
    except ValueError:
        raise UserError(f"{where}: a number of thousands of digits; mend the file") from None
    if half:
        raise UserError(
            f"{where}: half of a surrogate pair (\\ud800 or alike); expected whole characters"
        )
    return value


def strings_of(value: Any) -> str:
    """All strings of a JSON value, one after the other."""
    if isinstance(value, dict):
        return "".join(key + strings_of(item) for key, item in value.items())
    if isinstance(value, list):
        return "".join(map(strings_of, value))
    return value if isinstance(value, str) else ""


def read_json(file: str | Path, kind: Any = dict[str, Any]) -> Any:
    """The JSON value in a file, of an annotated type: by default an object."""
    return typed(parse_json(read_text(file), str(file), lines=True), kind, file)


def find(names: str) -> list[Path]:
    """Files that a comma list of files, globs and folders names, sorted within each; UserError
    where there are none.
    """
    files: list[Path] = []
    for name in filter(None, (part.strip() for part in names.split(","))):
        found = (
            [Path(name)]
            if Path(name).exists()
            else [Path(p) for p in sorted(glob.glob(name, recursive=True))]
        )
        if not found:
            raise UserError(f"{name} does not exist; expected a file, a glob or a folder")
        for path in found:
            check_regular(path)
            inside = sorted(path.rglob("*")) if path.is_dir() else [path]
            files += [
                p for p in inside if p.is_file() and not p.name.startswith(".") and p not in files
            ]
    if not files:
        raise UserError(f"{names!r} has no files; expected text")
    return files


def convert(value: Any, kind: Any) -> Any:
    """A JSON value as an annotated type, lists as the tuples that are asked for; TypeError where it
    is of another type.

    An int is a float too, but a bool is not an int, and every number has to be finite.
    """
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any or (kind is type(None) and value is None):
        return value
    if isinstance(kind, types.UnionType):
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
        return {name: convert(item, inner[1]) for name, item in value.items()}
    elif kind is float and type(value) in (int, float):
        if abs(value) < 1e300:  # neither a NaN, nor more than a float can be
            return value
    elif type(value) is kind:
        return value
    raise TypeError


def typed(value: Any, kind: Any, source: str | Path) -> Any:
    """convert(), with a UserError that names `source`, and of an object the key whose value is
    wrong.
    """
    try:
        return convert(value, kind)
    except TypeError:
        pass
    if typing.get_origin(kind) is dict and isinstance(value, dict):
        for name, item in value.items():
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
    """Values for some fields of a dataclass; unknown keys and wrong types are errors that name
    `source`.
    """
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in hints:
            raise UserError(
                f"{source}: unknown key {show(key)}{nearest(key, hints)}; known are "
                f"{', '.join(hints)}"
            )
    return {key: typed(value, hints[key], f"{source}: {key}") for key, value in values.items()}


def make(cls: type[T], values: dict[str, Any], source: str | Path) -> T:
    """A dataclass from a dict; unknown keys, missing keys and wrong types are errors that name
    `source`.
    """
    given = checked(cls, values, source)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    required = [field.name for field in fields if field.default is dataclasses.MISSING]
    if missing := sorted(set(required) - set(values)):
        raise UserError(f"{source} lacks {', '.join(missing)}; add what is missing")
    try:
        return cls(**given)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def read_config(cls: type[T], file: str | Path, **instead: object) -> T:
    """A dataclass from a JSON file, some of its values replaced."""
    return make(cls, read_json(file) | instead, file)


# ------------------------------------------------------------------------------------------ writing


@contextlib.contextmanager
def whole_file(file: str | Path, everywhere: bool = False) -> Iterator[BinaryIO]:
    """A file to write into that takes its name only when it is complete and on the disk; else
    nothing is left.

    Only a file is replaced, also one that a link points to; a device or a pipe is written to as it
    is. Of several processes the first alone writes, unless `everywhere`. An OSError names the file.
    """
    if rank() and not everywhere:
        with tempfile.TemporaryFile() as nowhere:
            yield nowhere
        return
    path = Path(file)
    if path.is_dir():
        raise UserError(f"{file or repr(file)} is a folder; name a file to write")
    if is_stream(path):
        with open(path, "ab") as stream:  # what an open file holds already stays
            yield stream
        return
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    try:
        f = open(partial, "w+b")
        try:
            yield f
            f.flush()
            os.fsync(f.fileno())
        finally:
            with contextlib.suppress(OSError):  # it writes what a full disk has refused once more
                f.close()
        os.replace(partial, path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        name_file(error, file)
        raise
    sync_folder(path.parent)


def name_file(error: BaseException, file: str | Path) -> None:
    """Add the name of a file to an error of the system that has none: of a full disk, say."""
    if isinstance(error, OSError) and error.errno and error.filename is None:
        error.filename = str(file)


def is_stream(path: Path) -> bool:
    """Whether a path is a device, a pipe or an open file (/dev/stdout), which cannot be replaced by
    a new file.
    """
    if path.is_dir() or not path.exists():
        return False
    while not OPEN_FILE.fullmatch(str(path.absolute())):
        if not path.is_symlink():
            return not path.is_file()
        path = path.parent / os.readlink(path)
    return True


OPEN_FILE = re.compile(r"/dev/(stdin|stdout|stderr|fd/\d+)|/proc/[^/]+/fd/\d+")


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        name_file(error, folder)
        raise
    finally:
        os.close(number)


@contextlib.contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """A folder to fill that takes its name only when it is complete; else nothing is left, or at
    most what the next one to write it removes. Files in it are put on the disk by whoever writes
    them. An OSError names a file.
    """
    path = Path(os.path.realpath(folder))
    partial = path.with_name(f".{path.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    new = [parent for parent in path.parents if not parent.exists()]
    partial.mkdir(parents=True)
    try:
        yield partial
        sync_folder(partial)
        os.replace(partial, path)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        remove_empty(new)
        name_file(error, folder)
        raise
    sync_folder(path.parent)


def remove_empty(folders: list[Path]) -> None:
    """Remove folders, the innermost first, as far as nobody has put anything there."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


@contextlib.contextmanager
def locked(file: Path, wait: bool = True) -> Iterator[None]:
    """One process at a time, also of several machines that share the disk, by a lock file that
    names it.

    The system frees the lock of a process that has ended, however that was. Unless `wait`, a lock
    that is held is a UserError with the holder's name.
    """
    import fcntl

    new = [parent for parent in file.parents if not parent.exists()]
    while True:
        with contextlib.suppress(FileNotFoundError):  # the last holder removes what it has made
            file.parent.mkdir(parents=True, exist_ok=True)
            f = open(file, "a+")
            try:
                fcntl.flock(f, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                f.seek(0)
                holder = f.read(200).strip() or "another process"
                f.close()
                raise UserError(
                    f"{file.parent} is in use by {holder}; wait for it to end, or name another "
                    "folder"
                ) from None
            if os.fstat(f.fileno()).st_ino == file.stat().st_ino:
                break
            f.close()
    try:
        f.truncate(0)
        f.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        f.flush()
        yield
    finally:
        file.unlink(missing_ok=True)
        f.close()
        remove_empty(new)


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
        with contextlib.suppress(OSError, ValueError):
            print(text, file=sys.stderr, flush=True)


def say(text: str) -> None:
    """Report progress on stdout. Work goes on where nobody can read of it (a full disk, a pipe that
    is closed); a command ends with that error, in LOST_STDOUT, when its work is done.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        LOST_STDOUT.append(error)
        drop_stdout()


LOST_STDOUT: list[OSError] = []


def drop_stdout() -> None:
    """Send what stdout has not taken, and whatever follows, nowhere: Python would try again when it
    ends.
    """
    if sys.stdout:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def file_digest(file: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal. UserError for a pipe: what is digested is read elsewhere
    too.
    """
    check_regular(file)
    with open(file, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


# A digest at the end of a file notices every altered byte of it.

DIGEST_SIZE = 64  # SHA-256 in hexadecimal


def append_digest(f: BinaryIO) -> None:
    """Write at the end of a file that is open to read and write the digest of all that is in it."""
    f.seek(0)
    digest = hashlib.file_digest(f, "sha256").hexdigest()  # type: ignore[arg-type]
    f.seek(0, os.SEEK_END)
    f.write(digest.encode())


def digest_matches(file: str | Path) -> bool:
    """Whether a file ends with the digest of the rest of it."""
    with open(file, "rb") as f:
        left = f.seek(0, os.SEEK_END) - DIGEST_SIZE
        f.seek(0)
        digest = hashlib.sha256()
        while left > 0 and (block := f.read(min(left, 2**20))):
            digest.update(block)
            left -= len(block)
        return digest.hexdigest().encode() == f.read()


# ------------------------------------------------------------------------------------------ signals


class Interrupted(KeyboardInterrupt):
    """SIGINT, SIGTERM or SIGHUP has come; the message says what becomes of the work."""

    raised = False  # whether a signal has led to one

    def __init__(self, number: int, message: str = ""):
        super().__init__(message)
        self.number = number
        Interrupted.raised = True


ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """Within `with Signals() as asked:` a first SIGINT, SIGTERM or SIGHUP does no harm:
    `asked.number` tells of it, so that the work can be brought to a good end. `at_once`: it raises
    Interrupted instead. A second one ends the process. A SIGHUP that is ignored (nohup) stays so.

    What comes within a second of the first is the same one: a scheduler and torchrun may both send
    it.
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
            ignored = [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else []
            self.before = {
                number: signal.signal(number, self.handle)
                for number in ENDING
                if number not in ignored
            }
            if (outer := signal.set_wakeup_fd(-1)) >= 0:  # somebody watches already
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
    while data := os.read(signals, 1):  # until nobody writes any more
        if data[0] not in ENDING:  # any signal that Python handles comes this way
            continue
        if since and time.monotonic() - since > 1:
            os._exit(128 + data[0])
        since = since or time.monotonic()
    os.close(signals)

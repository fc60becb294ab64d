"""Files that are whole or absent, JSON settings, locks and digests.

cfg = read_config(Config, "config/train_mrpc.json")  # an unknown key names the nearest known one
with whole_file("out/model.pt") as f:  # renamed into place once everything is on the disk
    f.write(...)
"""

import contextlib
import errno
import functools
import glob
import hashlib
import operator
import os
import re
import socket
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeVar

from system.locks import locked, remove, remove_empty
from utils import UserError, json_text, make, parse_json, rank, short, typed

T = TypeVar("T")

# What a model's folder holds beside its weights: results replace none of it, and none is a pipe.
MODEL_FILES = (
    "config.json",
    "bert_config.json",
    "vocab.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "task.json",
    "squad.json",
    "pretrain.json",
    "run.json",
    "metrics.jsonl",
    "times.jsonl",
)
WEIGHTS = re.compile(
    r".*\.(pt|pth|onnx)|(pytorch_)?model(-\d+-of-\d+)?\.(safetensors|bin)|.*\.ckpt\..*"
)

# ------------------------------------------------------------------------------------------ reading


def named_files(names: str | Path, folders: bool = False) -> list[str]:
    """The files of a flag: a file of that name, or several with commas between them.

    Args:
        folders: some of them may be folders.
    """
    names = str(names)
    if Path(names).exists():
        return [names]
    files = [name.strip() for name in names.split(",") if name.strip()] or [names]
    # The last file is looked for before the first one is evaluated.
    if len(files) > 1:
        for file in files:
            if not (folders and Path(file).is_dir()):
                check_file(file)
    return files


def check_file(file: str | Path, expected: str = "a file") -> None:
    """UserError where there is nothing to read: no such path, or a folder. A pipe is fine."""
    path = Path(file)
    # exists() raises for names that the system cannot hold.
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
    # /dev/zero and /dev/urandom never end. A terminal does, and pipes are no such devices.
    if path.is_char_device() and not path.samefile(os.devnull):
        with open(path, "rb", buffering=0) as f:
            typed_in = f.isatty()
        if not typed_in:
            raise UserError(f"{path} is a device, which may have no end; expected {expected}")


def check_regular(file: str | Path) -> None:
    """UserError for a pipe or a device where a file is read more than once."""
    if Path(file).exists() and not (Path(file).is_file() or Path(file).is_dir()):
        raise UserError(
            f"{file} is a pipe or a device, and is read more than once; write it to a file first"
        )


def check_model_files(folder: Path) -> None:
    """UserError where a pipe or a device has the name of a model's file: it may have no end."""
    for name in MODEL_FILES:
        check_regular(folder / name)


LONGEST_PIPE = 2**28  # bytes; /dev/zero has no end


def read_text(file: str | Path) -> str:
    """The UTF-8 text of a file or a pipe without a byte order mark, its line ends as they are."""
    return decoded(read_content(Path(file)), Path(file))


def read_content(path: Path) -> bytes:
    """The bytes of a text file or a pipe."""
    check_file(path, "a text file")
    limit = -1 if path.is_file() else LONGEST_PIPE
    with open(path, "rb") as f:
        content = f.read(limit)
    if len(content) == limit:
        raise UserError(f"{path} does not end within {LONGEST_PIPE >> 20} MB; expected a text file")
    return content


def decoded(content: bytes, path: Path) -> str:
    """The text of the bytes of a file, without a byte order mark."""
    # utf-8-sig drops a byte order mark, which Windows programs write.
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: not UTF-8 text; convert the file to UTF-8") from None


def read_json(file: str | Path, kind: Any = dict[str, Any], pipe: bool = False) -> Any:
    """The JSON value in a file, of an annotated type: by default an object.

    Settings are in files; `pipe`: data, which may come through one.
    """
    if not pipe:
        check_regular(file)
    return typed(parse_json(read_text(file), str(file), lines=True), kind, file)


def read_settings(file: Path) -> dict[str, Any]:
    """The JSON object in a file that may be missing; of no file an empty one."""
    return read_json(file) if file.is_file() else {}


def read_config(cls: type[T], file: str | Path, **instead: object) -> T:
    """A dataclass from a JSON file, some of its values replaced."""
    return make(cls, read_json(file) | instead, file)


def find_files(names: str) -> list[Path]:
    """Files that a comma list of files, globs and folders names, sorted within each.

    UserError where there are none.
    """
    files: list[Path] = []
    for name in filter(None, (part.strip() for part in names.split(","))):
        # A name with a * in it may be a file's, so that looking comes before globbing.
        found = [name] if Path(name).exists() else sorted(glob.glob(name, recursive=True))
        if not found:
            raise UserError(f"{name} does not exist; expected a file, a glob or a folder")
        for path in map(Path, found):
            check_regular(path)
            # Hidden files are left out: editors, and whole_file() itself, leave some.
            inside = sorted(path.rglob("*")) if path.is_dir() else [path]
            files += [
                p for p in inside if p.is_file() and not p.name.startswith(".") and p not in files
            ]
    if not files:
        raise UserError(f"{names!r} has no files; expected text")
    return files


# ------------------------------------------------------------------------------------------ writing


def check_output(out: str | Path, inputs: Iterable[str | Path | None] = ()) -> None:
    """UserError where writing a file would destroy one that is read, or a part of a model.

    A file is known by what it is: by links and other spellings of its name, too.

    Args:
        inputs: what is read: files, several with commas between them, `-`; None: nothing.
    """
    path = Path(out)
    # A terminal may be read and written at the same time.
    if is_stream(path):
        return
    for names in filter(None, inputs):
        for name in {str(names), *str(names).split(",")}:
            # A shell may have opened the file as standard input, whose number is 0.
            if same_file(path, 0 if name == "-" else name.strip()):
                raise UserError(f"{out} is read by this command; name another file to write")
    for parent in path.parents:
        if parent.exists() and not parent.is_dir():
            raise UserError(f"{parent} is a file; name a folder to write {path.name} into")
    path = Path(os.path.realpath(path))
    # One that is missing would be taken for the model's from then on.
    in_use = path.exists() or any((path.parent / name).exists() for name in MODEL_FILES)
    if in_use and (path.name in MODEL_FILES or WEIGHTS.fullmatch(path.name)):
        raise UserError(f"{out} belongs to the model in {path.parent}; name another file to write")


def check_unused(out: Path) -> None:
    """UserError where something is there already, but for an empty folder where one is written."""
    # The working folder is not replaced: the shell would be left in a folder that is gone.
    is_empty_folder = out.is_dir() and not any(out.iterdir()) and not out.samefile(".")
    if out.exists() and not (is_empty_folder and out.suffix.lower() not in (".pt", ".onnx")):
        raise UserError(f"{out} exists already; name another target")


def same_file(path: Path, other: str | int) -> bool:
    """Whether two names, or a name and the number of an open file, are of one file that exists."""
    # What no file can be called is no file's name.
    with contextlib.suppress(OSError, ValueError):
        return os.path.samefile(path, other)
    return False


@contextlib.contextmanager
def whole_file(
    file: str | Path, everywhere: bool = False, replace: bool = True
) -> Iterator[BinaryIO]:
    """A file to write into that gets its name only when it is complete and on the disk.

    Else nothing is left. Only a file is replaced, also one that a link points to; a device or a
    pipe is written to as it is. UserError where another process has written the file meanwhile: it
    stays as it is, and the message names the file beside it that was written here. Unless
    `replace`, a file that was there before stays too.

    Of several processes the first alone writes, unless `everywhere`. An OSError names the file.
    """
    # All run the same code, so that those which do not write get a file that leads nowhere.
    if rank() and not everywhere:
        with tempfile.TemporaryFile() as nowhere:
            yield nowhere
        return
    path = Path(file)
    if path.is_dir():
        raise UserError(f"{file or repr(file)} is a folder; name a file to write")
    if is_stream(path):
        # Opened to append: what an open file such as /dev/stdout holds already stays.
        with named(file), open(path, "ab") as stream:
            yield stream
        return
    # A link stays a link, and the file it points to is replaced.
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    before = state_of(path)
    # A file that others may not read stays so while it is written and when it is replaced.
    mode = stat.S_IMODE(before.st_mode) & 0o777 if before else 0o666
    with unfinished(path, file) as partial:
        try:
            # "x" opens no file that is there, nor what a link points to.
            f = open(partial, "x+b", opener=functools.partial(os.open, mode=mode))
        except OSError as error:
            error.filename = str(file)
            raise
        try:
            yield f
            # Without fsync a power cut may leave the new name and none of the contents.
            f.flush()
            os.fsync(f.fileno())
        finally:
            # Closing writes once more what a full disk has refused, and must not hide the first
            # error.
            with contextlib.suppress(OSError):
                f.close()
        put_in_place(partial, path, before if replace else None)


def state_of(path: Path) -> os.stat_result | None:
    """What the system knows of a file or a folder; None where there is none."""
    with contextlib.suppress(FileNotFoundError):
        return path.stat()
    return None


def put_in_place(partial: Path, path: Path, before: os.stat_result | None) -> None:
    """Give a complete file its name, if what had that name is as it was `before`, or gone."""
    with contextlib.ExitStack() as stack:
        # Looking and renaming are one step to all who write here, as far as they can be.
        with contextlib.suppress(OSError, UserError):
            stack.enter_context(locked(path.with_name(f".{path.name}.lock")))
        now = state_of(path)
        if now and not (before and IDENTITY(now) == IDENTITY(before)):
            raise_kept(partial, path, "was written by another process meanwhile")
        try:
            os.replace(partial, path)
        except PermissionError:
            # Windows replaces no file that a program has open.
            raise_kept(partial, path, "cannot be replaced (is it open?)")


# A file that replaces one is another inode, even if its size and its time are the same.
IDENTITY = operator.attrgetter("st_ino", "st_size", "st_mtime_ns")


def raise_kept(partial: Path, path: Path, why: str) -> NoReturn:
    """Leave a complete file or folder beside the one that it does not replace, and say so."""
    kept = path.with_name(f"{path.stem}-{os.urandom(4).hex()}{path.suffix}")
    os.replace(partial, kept)
    raise UserError(f"{path} {why} and is left as it is; what this command has written is {kept}")


# --------------------------------------------------------------------------------- unfinished files


@contextlib.contextmanager
def unfinished(path: Path, file: str | Path) -> Iterator[Path]:
    """Where to write what is to be called `path`, so that nothing is left if that fails.

    No other writer has the name. It is in the same folder, since renaming does not work from one
    disk to another; the dot hides it. An OSError names `file`.
    """
    # Only folders that are made from here on are removed when something fails.
    new = [parent for parent in path.parents if not parent.exists()]
    # A system allows names of 255 bytes, and characters have up to four.
    machine = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:40]
    prefix = f".{path.name[:40]}.{machine}-"
    remove_left_overs(path.parent, prefix)
    partial = path.with_name(f"{prefix}{os.getpid()}-{os.urandom(4).hex()}.part")
    try:
        with named(file):
            yield partial
    except BaseException:
        # Ctrl-C, too, must leave nothing behind.
        remove(partial)
        remove_empty(new)
        raise
    sync_folder(path.parent)


def remove_left_overs(folder: Path, prefix: str) -> None:
    """Remove what killed processes of this machine have left of a file or folder."""
    # Windows has no such question: os.kill would end the process.
    if os.name == "nt":
        return
    for other in folder.glob(f"{glob.escape(prefix)}*.part"):
        process = re.fullmatch(r"(\d{1,9})-[0-9a-f]{8}\.part", other.name.removeprefix(prefix))
        if not process:
            continue
        try:
            os.kill(int(process[1]), 0)  # signal 0 is sent to nobody
        except ProcessLookupError:
            remove(other)
        except PermissionError:
            pass  # one that may not be sent has somebody to get it


# ------------------------------------------------------------------------------- names and folders


@contextlib.contextmanager
def named(file: str | Path) -> Iterator[None]:
    """Within it, an error of the system that names no file (of a full disk, say) names this one."""
    try:
        yield
    except OSError as error:
        if error.errno and error.filename is None:
            error.filename = str(file)
        raise


def is_stream(path: Path) -> bool:
    """Whether a path is a device, a pipe or an open file (/dev/stdout): nothing to replace."""
    if path.is_dir() or not path.exists():
        return False
    # /dev/stdout is a link to /proc/self/fd/1, and that again to a file which must not be replaced.
    while not OPEN_FILE.fullmatch(str(path.absolute())):
        if not path.is_symlink():
            return not path.is_file()
        path = path.parent / os.readlink(path)
    return True


OPEN_FILE = re.compile(r"/dev/(stdin|stdout|stderr|fd/\d+)|/proc/[^/]+/fd/\d+")


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk, where the system has a way to."""
    # A folder is opened as a file is, and fsync keeps its new names. Windows opens no folder.
    try:
        number = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        with named(folder):
            os.fsync(number)
    finally:
        os.close(number)


@contextlib.contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """A folder to fill that gets its name only when it is complete, and the name is free.

    Else nothing is left. An empty folder of that name is replaced. UserError where another process
    has filled it meanwhile; the message names the folder beside it that was written here.

    Files in it are put on the disk, and closed, by whoever writes them. An OSError names a file.
    """
    path = Path(os.path.realpath(folder))
    before = state_of(path)
    mode = stat.S_IMODE(before.st_mode) | stat.S_IRWXU if before else 0o777
    with unfinished(path, folder) as partial:
        partial.mkdir(mode, parents=True)
        yield partial
        sync_folder(partial)
        try:
            # Windows renames a folder to free names alone.
            with contextlib.suppress(FileNotFoundError):
                path.rmdir()
            os.replace(partial, path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            raise_kept(partial, path, "was written by another process meanwhile")


def write_json(file: str | Path, values: dict, everywhere: bool = False) -> None:
    """A dict as readable JSON, whole or not at all."""
    text = json_text(values, file, indent=2, ensure_ascii=False)
    with whole_file(file, everywhere) as f:
        f.write(f"{text}\n".encode())


def file_digest(file: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal; UserError for a pipe, which is read elsewhere too."""
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
        # In blocks, to keep a large file out of memory.
        while left > 0 and (block := f.read(min(left, 2**20))):
            digest.update(block)
            left -= len(block)
        return digest.hexdigest().encode() == f.read()

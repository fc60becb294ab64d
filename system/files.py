"""Files that are whole or absent, JSON settings, locks and digests.

cfg = read_config(Config, "config/train_mrpc.json")  # an unknown key names the nearest known one
with whole_file("out/model.pt") as f:  # renamed into place once everything is on the disk
    f.write(...)
"""

import contextlib
import glob
import hashlib
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from utils import UserError, json_text, make, parse_json, rank, short, typed

T = TypeVar("T")

# ------------------------------------------------------------------------------------------ reading


def named_files(names: str) -> list[str]:
    """The files of a flag: a file of that name, or several with commas between them."""
    if Path(names).exists():
        return [names]
    files = [name.strip() for name in names.split(",") if name.strip()] or [names]
    # The last file is looked for before the first one is evaluated.
    if len(files) > 1:
        for file in files:
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
    if path.is_char_device() and not path.samefile(os.devnull) and not is_terminal(path):
        raise UserError(f"{path} is a device, which may have no end; expected {expected}")


def is_terminal(path: Path) -> bool:
    """Whether somebody types what is read of a path."""
    with open(path, "rb", buffering=0) as f:
        return f.isatty()


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
    # utf-8-sig drops a byte order mark, which Windows programs write.
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: not UTF-8 text; convert the file to UTF-8") from None


def read_json(file: str | Path, kind: Any = dict[str, Any]) -> Any:
    """The JSON value in a file, of an annotated type: by default an object."""
    return typed(parse_json(read_text(file), str(file), lines=True), kind, file)


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
        found = (
            [Path(name)]
            if Path(name).exists()
            else [Path(p) for p in sorted(glob.glob(name, recursive=True))]
        )
        if not found:
            raise UserError(f"{name} does not exist; expected a file, a glob or a folder")
        for path in found:
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


@contextlib.contextmanager
def whole_file(file: str | Path, everywhere: bool = False) -> Iterator[BinaryIO]:
    """A file to write into that gets its name only when it is complete and on the disk.

    Else nothing is left.

    Only a file is replaced, also one that a link points to; a device or a pipe is written to as it
    is. Of several processes the first alone writes, unless `everywhere`. An OSError names the file.
    """
    # Every process runs the same code, so that those which do not write get a file that leads
    # nowhere.
    if rank() and not everywhere:
        with tempfile.TemporaryFile() as nowhere:
            yield nowhere
        return
    path = Path(file)
    if path.is_dir():
        raise UserError(f"{file or repr(file)} is a folder; name a file to write")
    if is_stream(path):
        # Opened to append: what an open file such as /dev/stdout holds already stays.
        with open(path, "ab") as stream:
            yield stream
        return
    # A link stays a link, and the file it points to is replaced.
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, since renaming does not work from one disk to another. The dot hides it.
    partial = path.with_name(f".{path.name}.part")
    try:
        f = open(partial, "w+b")
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
        os.replace(partial, path)
    except BaseException as error:
        # Ctrl-C, too, must leave nothing behind.
        partial.unlink(missing_ok=True)
        name_file(error, file)
        raise
    sync_folder(path.parent)


def name_file(error: BaseException, file: str | Path) -> None:
    """Add the name of a file to an error of the system that has none: of a full disk, say."""
    if isinstance(error, OSError) and error.errno and error.filename is None:
        error.filename = str(file)


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
    """Put the names in a folder on the disk."""
    # A folder is opened as a file is, which only POSIX allows; fsync then keeps its new names.
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
    """A folder to fill that gets its name only when it is complete.

    Else nothing is left, or at most what the next one to write it removes. Files in it are put on
    the disk by whoever writes them. An OSError names a file.
    """
    path = Path(os.path.realpath(folder))
    partial = path.with_name(f".{path.name}.part")
    # A process that was killed may have left its unfinished folder.
    shutil.rmtree(partial, ignore_errors=True)
    # Only folders that were made here are removed when something fails.
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
    """One process at a time, also of several machines that share the disk.

    The lock file names the process.

    The system frees the lock of a process that has ended, however that was. Unless `wait`, a lock
    that is held is a UserError with the holder's name.
    """
    # fcntl exists on POSIX alone, and nothing else in this module needs it.
    import fcntl

    new = [parent for parent in file.parents if not parent.exists()]
    while True:
        # The last holder removes the folders that it has made, perhaps just now; then it all begins
        # anew.
        with contextlib.suppress(FileNotFoundError):
            file.parent.mkdir(parents=True, exist_ok=True)
            # "a+" makes the file where it is missing and leaves the name of a holder in it.
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
            # The file may have been removed between opening and locking; a lock on it would protect
            # nothing.
            if os.fstat(f.fileno()).st_ino == file.stat().st_ino:
                break
            f.close()
    try:
        f.truncate(0)
        f.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        f.flush()
        yield
    finally:
        # Removed while it is still locked: whoever waits for it sees by the inode that it has gone.
        file.unlink(missing_ok=True)
        f.close()
        remove_empty(new)


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
    # The digest covers all before it, so the file is read once more from its start.
    digest = hashlib.file_digest(f, "sha256").hexdigest()  # type: ignore[arg-type]
    f.seek(0, os.SEEK_END)
    f.write(digest.encode())


def digest_matches(file: str | Path) -> bool:
    """Whether a file ends with the digest of the rest of it."""
    with open(file, "rb") as f:
        left = f.seek(0, os.SEEK_END) - DIGEST_SIZE
        # The last 64 bytes are the digest and not part of it. Blocks keep a large file out of
        # memory.
        f.seek(0)
        digest = hashlib.sha256()
        while left > 0 and (block := f.read(min(left, 2**20))):
            digest.update(block)
            left -= len(block)
        return digest.hexdigest().encode() == f.read()

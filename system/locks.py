"""Locks among processes, also of several machines that share a disk.

with locked(Path("runs/mrpc/.lock"), wait=False):  # UserError, with its name, where one is in there
    ...
"""

import contextlib
import errno
import os
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from utils import UserError


@contextlib.contextmanager
def locked(file: Path, wait: bool = True) -> Iterator[None]:
    """One process at a time, also of several machines that share the disk; the file names it.

    The system frees the lock of a process that has ended, however that was. Unless `wait`, a lock
    that is held is a UserError with the holder's name, and a disk that knows no locks an OSError.
    """
    new = [parent for parent in file.parents if not parent.exists()]
    number = None
    while number is None:
        # The last holder removes the folders that it has made, perhaps just now; then it all begins
        # anew.
        with contextlib.suppress(FileNotFoundError):
            file.parent.mkdir(parents=True, exist_ok=True)
            number = open_lock(file, wait)
    try:
        os.ftruncate(number, 0)
        os.lseek(number, 0, os.SEEK_SET)
        os.write(number, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
    finally:
        # Removed while it is still locked: whoever waits for it sees by the inode that it has gone.
        # Windows removes it when it is closed, unless the next one has opened it by then.
        removed = remove(file)
        os.close(number)
        if not removed:
            remove(file)
        remove_empty(new)


def open_lock(file: Path, wait: bool) -> int | None:
    """The number of a lock file, open and locked; None where it is another file by then."""
    # A link is not followed, as the file that it points to would be emptied.
    if file.is_symlink():
        raise UserError(f"{file} is a link; remove it")
    number = os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    with contextlib.ExitStack() as closing:
        closing.callback(os.close, number)
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise UserError(f"{file} is no file; remove it")
        while not try_lock(number, needed=not wait):
            if not wait:
                holder = os.read(number, 200).decode(errors="replace").strip()
                raise UserError(
                    f"{file.parent} is in use by {holder or 'another process'}; wait for it to "
                    "end, or name another folder"
                )
            time.sleep(0.01)
        # The file may have been removed between opening and locking; a lock on it would protect
        # nothing.
        if not os.path.samestat(os.fstat(number), file.lstat()):
            return None
        closing.pop_all()
        return number


# Windows lets nobody read bytes that are locked, so the one that is lies far behind the text.
LOCKED_BYTE = 2**30


def try_lock(number: int, needed: bool) -> bool:
    """Lock an open file, unless somebody else has; the system frees it when its process ends.

    OSError where a disk knows no locks; unless `needed`, the file counts as locked there.
    """
    try:
        import fcntl
    except ImportError:
        import msvcrt

        os.lseek(number, LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(number, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except PermissionError:
            return False
        finally:
            os.lseek(number, 0, os.SEEK_SET)
        return True
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if needed or error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
    return True


def remove(path: Path) -> bool:
    """Remove a file or folder that nobody needs; whether it is gone."""
    with contextlib.suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        return True
    return False


def remove_empty(folders: list[Path]) -> None:
    """Remove folders, the innermost first, as far as nobody has put anything there."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()

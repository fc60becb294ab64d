"""What Windows lacks or refuses, taken from Python on Linux, for the commands that follow.

    lacking(); status = run("classify.py --mode eval ...")

No SIGHUP, no fcntl (msvcrt instead), no madvise; no folder is opened, no file that is open is
removed or replaced; text is in cp1252 with "\\r\\n" unless encoding and line ends are asked for.
What these tests cannot show is Windows itself.
"""

import builtins
import fcntl
import io
import mmap
import os
import runpy
import shutil
import signal
import subprocess  # noqa: F401  # before msvcrt is there, by which it knows Windows
import sys
import types
from collections.abc import Callable
from pathlib import Path

import torch  # noqa: F401

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def in_use(path: str | Path) -> bool:
    """Whether this process has a file open or mapped, or one in a folder."""
    names = [os.path.realpath(file) for file in Path("/proc/self/fd").iterdir()]
    maps = Path("/proc/self/maps").read_bytes().decode().splitlines()
    names += [line.split(maxsplit=5)[-1] for line in maps]
    path = os.path.realpath(path)
    return any(name == path or name.startswith(path + os.sep) for name in names)


def refuse(path: object) -> None:
    raise PermissionError(13, "Permission denied", str(path))


def guarded(function: Callable, n_paths: int = 1) -> Callable:
    """A function of `os` that leaves files alone which are in use."""

    def call(*arguments: object, **more: object) -> object:
        for path in arguments[:n_paths]:
            if in_use(path):  # type: ignore[arg-type]
                refuse(path)
        # A folder takes no name that is in use, even that of an empty one.
        if n_paths == 2 and os.path.isdir(arguments[1]):  # type: ignore[arg-type]
            refuse(arguments[1])
        return function(*arguments, **more)

    return call


def text_of_windows(real: Callable) -> Callable:
    """open() with the defaults of Windows."""

    def call(
        file: object,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        **more: object,
    ) -> object:
        if "b" not in mode:
            encoding = "cp1252" if encoding in (None, "locale") else encoding
            newline = "\r\n" if newline is None and "r" not in mode else newline
        return real(file, mode, buffering, encoding, errors, newline, **more)

    return call


def lacking() -> None:
    """Take all of it away."""
    flock, exclusive = fcntl.flock, fcntl.LOCK_EX | fcntl.LOCK_NB

    def locking(number: int, mode: int, n_bytes: int) -> None:
        # Nobody may read what is locked.
        assert os.lseek(number, 0, os.SEEK_CUR) >= 1000
        try:
            flock(number, exclusive)
        except BlockingIOError:
            refuse(number)

    open_, flags = os.open, getattr(os, "O_TMPFILE", 0)

    def open_file(path: str, how: int, *arguments: object, **more: object) -> int:
        # A temporary file without a name, as Windows has it in another way, begins with its folder.
        if os.path.isdir(path) and how & flags != flags:
            refuse(path)
        return open_(path, how, *arguments, **more)  # type: ignore[arg-type]

    msvcrt = types.ModuleType("msvcrt")
    msvcrt.locking, msvcrt.LK_NBLCK = locking, 2  # type: ignore[attr-defined]
    sys.modules["msvcrt"], sys.modules["fcntl"] = msvcrt, None  # type: ignore[assignment]
    for module, names in (
        (signal, ["SIGHUP"]),
        (os, ["set_blocking", "sched_getaffinity", "fchmod", "O_NOFOLLOW"]),
        (mmap, ["MADV_DONTNEED"]),
    ):
        for name in names:
            delattr(module, name)
    os.open = open_file  # type: ignore[assignment]
    os.unlink, os.remove, os.rmdir = map(guarded, (os.unlink, os.remove, os.rmdir))
    os.replace, os.rename = guarded(os.replace, 2), guarded(os.rename, 2)
    shutil._use_fd_functions = False  # type: ignore[attr-defined]  # which open folders
    builtins.open = io.open = text_of_windows(open)  # type: ignore[assignment]


def run(line: str) -> int:
    """Run a script with its flags as a command line; its exit status."""
    sys.argv = line.split()
    try:
        runpy.run_path(str(ROOT / sys.argv[0]), run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0)
    return 0

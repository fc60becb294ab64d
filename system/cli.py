"""Running a dataclass as a command line: its flags checked, a mistake in one line, signals obeyed.

    if __name__ == "__main__":
        command(Classify)

A mistake of the user's ends in one line on stderr and exit status 2, before anything runs.
"""

import contextlib
import errno
import inspect
import io
import os
import signal
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from system import distributed
from system.flags import command_list, help_text, name_of, parse
from system.signals import ENDING, Signals
from utils import STREAMS, UserError, drop_stdout, nearest, rank, short, size, told, visible

# ------------------------------------------------------------------------------------------ streams


class TolerantStream:
    """A stream that drops what it cannot write.

    A bar or a note that nobody reads is no reason to lose the work.
    """

    def __init__(self, stream: Any):
        self.stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Visible:
    """A stream that shows what would steer a terminal.

    `plain` is for what a command was asked to output: the stream as it is, unless it is a terminal.
    """

    def __init__(self, stream: Any):
        self.stream = stream
        self.plain = self if stream.isatty() else stream

    def write(self, text: str) -> int:
        self.stream.write(visible(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def sound_streams() -> Iterator[None]:
    """Streams that a command can rely on: UTF-8 on stdout as in files, an stderr that never fails.

    What is printed is visible(), and calls settings as a command line does: `max_len=5` is
    --max_len 5. A standard stream that is closed is opened on nothing, or the next file would get
    its number.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The system gives the lowest free number, which is the one that was just missing.
            os.open(os.devnull, os.O_RDWR)
    # In another locale Python would encode what it prints in another way, or fail; on Windows it
    # would write "\r\n".
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace", newline="\n")
    stdout: Any = Visible(sys.stdout) if sys.stdout else None
    stderr = TolerantStream(sys.stderr) if sys.stderr else open(os.devnull, "w")
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        STREAMS.flags = True
        try:
            yield
        finally:
            STREAMS.flags = False


# ------------------------------------------------------------------------------------------- errors

LONGEST_MESSAGE = 300  # characters


@contextlib.contextmanager
def one_line_errors(program: str) -> Iterator[None]:
    """Turn the user's mistakes into one line on stderr and exit status 2.

    SIGINT becomes status 130, SIGHUP 129 and SIGTERM 143. Of several processes that fail, the first
    one reports why; the errors of the others follow from that.
    """
    try:
        # Until a training run handles signals itself, they end the command at once.
        with Signals(at_once=True):
            yield
            # What is still in the buffer may fail to be written, and has to fail here, where it is
            # reported.
            if sys.stdout:
                sys.stdout.flush()
            if STREAMS.lost:
                error, STREAMS.lost = STREAMS.lost, None
                raise error
            distributed.end()
    except BrokenPipeError:
        # The reader of a pipe has seen enough.
        drop_stdout()
        distributed.publish_failure("nobody reads what it prints")
        # 141 is 128 + SIGPIPE, as a shell reports a program that a closed pipe has ended.
        leave(141)
    except KeyboardInterrupt as error:
        # torchrun ends the processes that a lost one leaves behind.
        leave_if_lost(program, error.__context__)
        number = getattr(error, "number", signal.SIGINT)
        # Every process got the signal; one line is enough.
        if rank() == 0:
            print(visible(f"\n{program}: {ENDING[number]} {error}".rstrip()), file=sys.stderr)
        # A shell expects 128 plus the signal's number.
        leave(128 + number)
    except Exception as error:
        # An OSError without a file is stdout's.
        if isinstance(error, OSError) and error.filename is None:
            drop_stdout()
        if (message := words_of(error)) is not None:
            report(program, message)
            leave(2)
        leave_if_lost(program, error)
        # A bug: its traceback is kept, and the other processes are told that this one is gone.
        distributed.publish_failure(repr(error))
        raise


def leave_if_lost(program: str, error: BaseException | None) -> None:
    """Exit where an error means that another process does not answer."""
    if distributed.peer_failed(error):
        if reason := distributed.diagnose(error):
            report(program, reason)
        leave(2)


def words_of(error: Exception) -> str | None:
    """A mistake of the user's, or what his machine lacks, as a message; None: a bug."""
    if isinstance(error, OSError) and error.strerror:
        message = f"{error.filename or 'standard output'}: {error.strerror}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message += "; make room and start again"
        return message
    # PyTorch raises a plain RuntimeError on a CPU, which only its text tells apart.
    out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if out_of_memory or "can't allocate memory" in str(error):
        return (
            "out of memory; use a smaller batch_size, more gradient_accumulation, or a smaller "
            "model"
        )
    return str(error) if isinstance(error, UserError | OSError) else None


def report(program: str, message: str) -> None:
    """Print why this process ends, unless another one has reported it."""
    # Messages of libraries may have many lines.
    message = short(visible(told(" ".join(message.split()))), LONGEST_MESSAGE)
    if not distributed.publish_failure(message):
        return
    if rank():
        # The first process's bar may stand in the line.
        program = f"\n{program}: process {rank()}"
    print(f"{program}: {message}", file=sys.stderr)


def leave(status: int) -> typing.NoReturn:
    """Exit; of several processes at once, as another thread may still wait for one that is gone."""
    # os._exit leaves threads alone, so that buffers have to be flushed before.
    if distributed.GROUP.store:
        try:
            if sys.stdout:
                sys.stdout.flush()
        except OSError:
            drop_stdout()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


# ------------------------------------------------------------------------------------------ running

HELP = {"--help", "-h"}


def command(*commands: type, named: bool = False, processes: bool = False) -> None:
    """Run a dataclass as a command line: its fields are the flags, its run() the work.

    Args:
        commands: the command; several are subcommands, which go by their names, beside a first one
            with a --mode, which needs none.
        named: whether one command alone is a subcommand, too.
        processes: whether torchrun may start several processes of it.
    """
    program, line = Path(sys.argv[0]).name, sys.argv[1:]
    with sound_streams(), one_line_errors(program):
        chosen, usage = commands[0], program
        has_modes = hasattr(chosen, "mode")
        table = {name_of(one): one for one in commands[has_modes:]}
        if has_modes and not line:
            # The head of the module has what it does, in commands to copy.
            print(inspect.getdoc(sys.modules[chosen.__module__]))
            print(f"\npython {program} --help lists the flags.")
            return
        if has_modes and line[0] in table:
            usage += f" {line[0]}"
            chosen = table[line.pop(0)]
        elif not has_modes and (named or len(commands) > 1):
            name = line.pop(0) if line else "--help"
            if name in HELP:
                print(command_list(program, commands))
                return
            if name not in table:
                raise UserError(
                    f"unknown command {name!r}{nearest(name, table)}; the commands are "
                    f"{', '.join(table)}"
                )
            chosen, usage = table[name], f"{program} {name}"
        # Before anything is checked, so that --help works beside any other flag.
        if HELP & set(line):
            print(help_text(usage, chosen))
            return
        values = parse(chosen, line)
        if size() > 1 and not processes:
            raise UserError(
                f"WORLD_SIZE={size()}: {program} works in one process; start it without torchrun"
            )
        # Flags are checked before, since a mistake needs no other process to be reported.
        distributed.start()
        chosen(**values).run()

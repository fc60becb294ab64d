"""Command lines: a function's signature is its flags, a mistake is one line, a signal is obeyed.

    if __name__ == "__main__": command(main)                    # the flags are checked before anything runs
"""
import contextlib
import errno
import inspect
import os
import re
import signal
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import distributed
from utils import Signals, UserError, nearest, rank, size, type_name


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
    """Turn the user's mistakes into one line on stderr and exit status 2, SIGINT into 130 and SIGTERM into 143.

    Of several processes that fail, the first one tells why; what the others say follows from that.
    """
    try:
        with Signals(at_once=True):
            yield
            distributed.end()
    except BrokenPipeError:                                     # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        distributed.leave_reason("nobody reads what it prints")
        leave(141)
    except (UserError, OSError) as error:
        message = str(error)
        if isinstance(error, OSError) and error.strerror:
            message = f"{error.filename or 'writing'}: {error.strerror}"
            message += "; make room and start again" * (error.errno == errno.ENOSPC)
        tell(program, message)
        leave(2)
    except (KeyboardInterrupt, Exception) as error:
        lost = error.__context__ if isinstance(error, KeyboardInterrupt) else error     # torchrun ends those left alone
        if distributed.is_lost(lost):
            if reason := distributed.why_lost(lost):
                tell(program, reason)
            leave(2)
        if isinstance(error, KeyboardInterrupt):
            number = getattr(error, "number", signal.SIGINT)
            what = "terminated" if number == signal.SIGTERM else "interrupted"
            if rank() == 0:
                print(f"\n{program}: {what} {error}".rstrip(), file=sys.stderr)
            leave(128 + number)
        distributed.leave_reason(repr(error))
        raise


def tell(program: str, message: str) -> None:
    """Print why this process ends, unless another one has told it."""
    message = " ".join(message.split())
    if distributed.leave_reason(message):
        start, which = ("\n", f" process {rank()}:") if rank() else ("", "")     # the first one's bar may stand in the line
        print(f"{start}{program}:{which} {message}", file=sys.stderr)


def leave(status: int) -> None:
    """Exit; of several processes at once, since another thread may still wait for one that is gone."""
    if distributed.STORE:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def command(*functions: Callable, named: bool = False, settings: type | None = None, processes: bool = False) -> None:
    """Run a function as a command line, its signature being the flags; several functions, or `named`, are subcommands.
    The fields of a dataclass `settings` are flags of a function with a parameter of that name. `processes`: several may be
    started together, by torchrun."""
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
        given = parse_arguments(function, arguments, settings)
        if size() > 1 and not processes:
            raise UserError(f"WORLD_SIZE={size()}: {program} works in one process; start it without torchrun")
        distributed.start()
        function(**given)

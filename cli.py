"""Command lines: a function's signature is its flags, a mistake is one line, a signal is obeyed.

if __name__ == "__main__": command(main)                    # the flags are checked before anything
runs
"""

import contextlib
import errno
import inspect
import io
import os
import re
import signal
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import distributed
from utils import (
    LOST_STDOUT,
    Signals,
    UserError,
    drop_stdout,
    nearest,
    rank,
    short,
    size,
    type_name,
)

# What other programs call our flags.
SYNONYMS = {
    "train_file": "data_file",
    "data": "data_file|train_file",
    "input_file": "data_file",
    "test_file": "data_file",
    "validation_file": "eval_file",
    "dev_file": "eval_file",
    "output_dir": "save_dir|out",
    "task_name": "task",
    "learning_rate": "lr",
    "batch": "batch_size",
    "train_batch_size": "batch_size",
    "per_device_train_batch_size": "batch_size",
    "epochs": "n_epochs",
    "num_train_epochs": "n_epochs",
    "num_train_steps": "total_steps",
    "max_steps": "total_steps",
    "warmup_ratio": "warmup",
    "warmup_proportion": "warmup",
    "gradient_accumulation_steps": "gradient_accumulation",
    "gradient_checkpointing": "checkpointing",
    "max_seq_length": "max_len",
    "max_seq_len": "max_len",
    "vocab_file": "vocab",
    "config": "train_cfg",
    "bert_config_file": "model_cfg",
    "config_name": "model_cfg",
    "model_name_or_path": "pretrain_file",
    "init_checkpoint": "pretrain_file",
    "model": "model_file",
    "text_column": "text_a",
    "label_column": "label",
    "do_train": "mode train",
    "do_eval": "mode eval",
    "do_predict": "mode predict",
    "fp16": "dtype bf16",
    "bf16": "dtype bf16",
    "n_best_size": "n_best",
    "max_query_length": "max_query_len",
    "max_answer_length": "max_answer_len",
}
# What is no flag of any command, and how it is done.
INSTEAD = {
    "device": "the GPUs that are visible are used; CUDA_VISIBLE_DEVICES= hides them",
    "no_cuda": "CUDA_VISIBLE_DEVICES= hides the GPUs",
    "gpu": "CUDA_VISIBLE_DEVICES=N chooses the GPUs",
    "local_rank": "torchrun starts several processes",
}


def parse_value(flag: str, text: str, kind: Any) -> object:
    """The value of a flag by its annotated type (fire would guess: 2020 a number, a,b a tuple)."""
    kinds = typing.get_args(kind) or (kind,)
    if type(None) in kinds and text in ("None", "null"):
        return None
    if bool in kinds and text.lower() in ("true", "false"):
        return text.lower() == "true"
    for number in (int, float):
        value = None
        with contextlib.suppress(ValueError):
            value = number(text) if number in kinds else None
        if value is not None:
            if not abs(value) < 1e300:
                raise UserError(f"{flag} {short(text)}: expected a finite number")
            return value
    if str in kinds:
        return text
    raise UserError(
        f"{flag} {short(text)}: expected {type_name(kind).replace('bool', 'True or False')}"
    )


def flag_hint(name: str, flags: list[str]) -> str:
    """What to write instead of an unknown flag."""
    if name in INSTEAD:
        return f"; {INSTEAD[name]}"
    for ours in SYNONYMS.get(name, "").split("|"):
        if ours.split(" ")[0] in flags:
            return f" (it is --{ours} here)"
    return nearest(name, flags).replace("mean ", "mean --") or "; --help lists the flags"


def parse_arguments(
    function: Callable, arguments: list[str], settings: type | None = None
) -> dict[str, object]:
    """Keyword arguments of a function from a command line: `--name value`, `--name=value`, `--name`
    alone for True.

    Parameters without a default may stand without their name, in order; a last one that is a list
    takes all that is left so. The fields of a dataclass `settings` are flags too, and become the
    function's parameter of that name, a dict. Every mistake is found before anything runs.
    """
    parameters, hints = (
        dict(inspect.signature(function).parameters),
        typing.get_type_hints(function),
    )
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
                raise UserError(f"unknown flag {short(flag)}{flag_hint(name, flags)}")
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
    if missing := [
        name.upper() if name in lists or not lists else f"--{name}"
        for name in required
        if name not in given and not lists.get(name)
    ]:
        raise UserError(f"{' and '.join(missing)} missing; see --help")
    values = {name: parse_value(f"--{name}", text, hints[name]) for name, text in given.items()}
    chosen = {name: values.pop(name) for name in list(values) if name in extra}
    return {**lists, **values, **({"settings": chosen} if chosen else {})}


class Forgiving(io.TextIOBase):
    """A stream that loses what it cannot write: a bar or a note that nobody reads is no reason to
    lose the work.
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

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.stream.encoding  # a bar is drawn in blocks where it is UTF-8

    def fileno(self) -> int:
        return self.stream.fileno()

    def isatty(self) -> bool:
        return self.stream.isatty()


@contextlib.contextmanager
def sound_streams() -> Iterator[None]:
    """Streams that a command can rely on: none of the three numbers free for a file that is opened
    later, UTF-8 on stdout as in files, and an stderr that never fails.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    before = sys.stderr
    sys.stderr = Forgiving(before) if before else open(os.devnull, "w")
    try:
        yield
    finally:
        sys.stderr = before


@contextlib.contextmanager
def one_line_errors(program: str) -> Iterator[None]:
    """Turn the user's mistakes into one line on stderr and exit status 2, SIGINT into 130, SIGHUP
    into 129 and SIGTERM into 143.

    Of several processes that fail, the first one tells why; what the others say follows from that.
    """
    try:
        with Signals(at_once=True):
            yield
            if sys.stdout:
                sys.stdout.flush()
            if LOST_STDOUT:
                raise LOST_STDOUT.pop()
            distributed.end()
    except BrokenPipeError:  # the reader of a pipe has seen enough
        drop_stdout()
        distributed.leave_reason("nobody reads what it prints")
        leave(141)
    except (UserError, OSError, MemoryError) as error:
        if isinstance(error, OSError) and error.filename is None:  # stdout has no name
            drop_stdout()
        tell(program, words_of(error))
        leave(2)
    except (KeyboardInterrupt, Exception) as error:
        lost = (
            error.__context__ if isinstance(error, KeyboardInterrupt) else error
        )  # torchrun ends those left alone
        if distributed.is_lost(lost):
            if reason := distributed.why_lost(lost):
                tell(program, reason)
            leave(2)
        if isinstance(error, KeyboardInterrupt):
            number = getattr(error, "number", signal.SIGINT)
            what = {signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}.get(
                number, "interrupted"
            )
            if rank() == 0:
                print(f"\n{program}: {what} {error}".rstrip(), file=sys.stderr)
            leave(128 + number)
        if is_out_of_memory(error):
            tell(program, words_of(error))
            leave(2)
        distributed.leave_reason(repr(error))
        raise


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a tensor found no room: PyTorch has no class of its own for that
    on a CPU.
    """
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)


def words_of(error: BaseException) -> str:
    """An error as a message."""
    if isinstance(error, OSError) and error.strerror:
        message = f"{error.filename or 'standard output'}: {error.strerror}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message += "; make room and start again"
        return message
    if isinstance(error, MemoryError) or is_out_of_memory(error):
        return "out of memory; use a smaller batch_size, more gradient_accumulation, or a smaller model"
    return str(error)


LONGEST_MESSAGE = 300  # characters


def tell(program: str, message: str) -> None:
    """Print why this process ends, unless another one has told it."""
    message = short(" ".join(message.split()), LONGEST_MESSAGE)
    if distributed.leave_reason(message):
        start, which = (
            ("\n", f" process {rank()}:") if rank() else ("", "")
        )  # the first one's bar may stand in the line
        print(f"{start}{program}:{which} {message}", file=sys.stderr)


def leave(status: int) -> None:
    """Exit; of several processes at once, since another thread may still wait for one that is gone."""
    if distributed.STORE:
        try:
            if sys.stdout:
                sys.stdout.flush()
        except OSError:
            drop_stdout()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def show_help(program: str, component: Any) -> None:
    """Print what fire makes of a function's signature and docstring, without the one-letter flags
    it would offer too.
    """
    from fire import helptext, trace

    text = helptext.HelpText(component, trace.FireTrace(component, name=program))
    print(
        re.sub(r"^( *)-\w, --", r"\1--", text, flags=re.MULTILINE).replace(f"'{program}'", program)
    )


def command(
    *functions: Callable, named: bool = False, settings: type | None = None, processes: bool = False
) -> None:
    """Run a function as a command line, its signature being the flags; several functions, or
    `named`, are subcommands. The fields of a dataclass `settings` are flags of a function with a
    parameter of that name. `processes`: several may be started together, by torchrun.
    """
    program, arguments = Path(sys.argv[0]).name, sys.argv[1:]
    table, named = (
        {function.__name__: function for function in functions},
        named or len(functions) > 1,
    )
    with sound_streams(), one_line_errors(program):
        if {"--help", "-h"} & set(arguments) or (named and not arguments):
            if named and arguments and arguments[0] in table:
                program, functions, named = (
                    f"{program} {arguments[0]}",
                    (table[arguments[0]],),
                    False,
                )
            show_help(program, table if named else functions[0])
            return
        function = functions[0]
        if named:
            name = arguments.pop(0)
            if name not in table:
                raise UserError(
                    f"unknown command {name!r}{nearest(name, table)}; the commands are "
                    f"{', '.join(table)}"
                )
            function = table[name]
        given = parse_arguments(function, arguments, settings)
        if size() > 1 and not processes:
            raise UserError(
                f"WORLD_SIZE={size()}: {program} works in one process; start it without torchrun"
            )
        distributed.start()
        function(**given)

"""A dataclass as a command line: its fields are the flags, the comments on them the help.

    @dataclasses.dataclass
    class Learn:
        "Learn a vocabulary from text."

        texts: list[str]  # files of UTF-8 text
        _: dataclasses.KW_ONLY
        out: str  # vocab.txt to write
        vocab_size: int = 30522  # tokens at most

    parse(Learn, ["a.txt", "b.txt", "--out", "c.txt"])  # {"texts": ["a.txt", "b.txt"], "out": ...}
    print(help_text("tokenization.py learn", Learn))

fire splits the line; names and types are checked before anything runs.
"""

import contextlib
import dataclasses
import inspect
import itertools
import re
import textwrap
import typing
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from utils import UserError, nearest, short, type_name

# What other programs call our flags, such as run_glue.py and Google's run_classifier.py.
SYNONYMS = {
    "data_file": "train_file data input_file test_file train_path",
    "train_file": "data train_path",
    "eval_file": "validation_file dev_file valid_path",
    "save_dir": "output_dir",
    "out": "output_dir",
    "task": "task_name",
    "lr": "learning_rate lr_main",
    "batch_size": "batch train_batch_size per_device_train_batch_size",
    "n_epochs": "epochs num_train_epochs",
    "total_steps": "num_train_steps max_steps num_steps",
    "pretrain_file": "bert_model model_name_or_path init_checkpoint",
    "model_file": "model",
    "model_cfg": "bert_config_file config_name",
    "train_cfg": "config",
    "vocab": "vocab_file",
    "max_len": "max_length max_seq_length max_seq_len",
    "max_pred": "max_predictions_per_seq",
    "mask_prob": "masked_lm_prob",
    "warmup": "warmup_ratio warmup_proportion",
    "gradient_accumulation": "accumulate gradient_accumulation_steps",
    "checkpointing": "gradient_checkpointing",
    "patience": "early_stop",
    "text_a": "text_column",
    "label": "label_column",
    "n_best": "n_best_size",
    "max_query_len": "max_query_length",
    "max_answer_len": "max_answer_length",
    "mode train": "do_train",
    "mode eval": "do_eval",
    "mode predict": "do_predict",
    "dtype bf16": "fp16 bf16",
}
# What is no flag of any command, and how it is done.
INSTEAD = {
    "no_cuda": "--device cpu",
    "gpu": "--device cuda:N chooses a GPU",
    "local_rank": "torchrun starts several processes",
    "do_lower_case": "the vocabulary says it; tokenizer_config.json beside it overrules that",
}

# ------------------------------------------------------------------------------------------- fields


def only(modes: str, default: Any = None) -> Any:
    """A flag that some values of --mode alone have a use for: `only("eval predict")`."""
    return dataclasses.field(default=default, metadata={"modes": tuple(modes.split())})


def settings_of(cls: type, everywhere: tuple[str, ...]) -> Any:
    """A dict of settings, each field of a dataclass a flag of its own, for --mode train.

    Args:
        everywhere: the fields that the other modes have a use for, too.
    """
    metadata = {"settings": cls, "everywhere": everywhere}
    return dataclasses.field(default_factory=dict, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Flag:
    """What is known of a flag."""

    name: str
    kind: Any  # its annotated type
    default: Any  # dataclasses.MISSING: it has to be given
    needs_name: bool  # whether --name has to stand before the value
    modes: tuple[str, ...]  # that use it; none: all do
    group: str
    help: str

    @property
    def is_required(self) -> bool:
        return self.default is dataclasses.MISSING

    @property
    def is_list(self) -> bool:
        """Whether it takes all words without a name that are left."""
        return self.kind in (list[str], list[str] | None)

    @property
    def usage(self) -> str:
        """As the first line of --help shows it: TARGET, --out OUT, TEXTS..., [TEXTS...]."""
        name = self.name.upper()
        if self.is_list:
            return f"{name}..." if self.is_required else f"[{name}...]"
        return f"--{self.name} {name}" if self.needs_name else name


# A field of a dataclass with the comments above it and the one behind it. A comment "# -- Data"
# begins a group of flags.
FIELD = re.compile(r"((?:^ {4}# .*\n)*)^ {4}(\w+): [^#\n(]*(?:\(\n)?[^#\n]*(#.*)?", re.MULTILINE)
GROUP = re.compile(r"^ {4}# -- (.+)\n", re.MULTILINE)
SETTINGS = "Settings of --train_cfg (a flag overrides the file, the file overrides the default)"


def flags_of(command: type) -> dict[str, Flag]:
    """The flags of a command by name: those of its own class, of its bases, of its settings."""
    found: dict[str, Flag] = {}
    settings: dict[str, Flag] = {}
    for cls in filter(dataclasses.is_dataclass, command.__mro__):
        for field, flag in own_flags(cls):
            if kind := field.metadata.get("settings"):
                for _, one in own_flags(kind):
                    modes = () if one.name in field.metadata["everywhere"] else ("train",)
                    settings[one.name] = dataclasses.replace(
                        one, needs_name=True, modes=modes, group=SETTINGS
                    )
            else:
                found.setdefault(flag.name, flag)
    return found | settings


def own_flags(cls: type) -> Iterator[tuple[dataclasses.Field, Flag]]:
    """The fields that a class has beside those of its bases, in its order, and each as a flag."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    comments: dict[str, tuple[str, str]] = {}  # the group of a field, and what is said of it
    group, source = "Flags", ""
    # A class that was typed in has no file.
    with contextlib.suppress(OSError, TypeError):
        source = inspect.getsource(cls)
    for above, name, behind in FIELD.findall(source):
        if begun := GROUP.findall(above):
            group = begun[-1]
        text = behind or GROUP.sub("", above)
        comments[name] = (group, " ".join(text.replace("#", "").split()))
    for name in filter(fields.__contains__, inspect.get_annotations(cls)):
        field, (group, text) = fields[name], comments.get(name, ("Flags", ""))
        modes, needs_name = field.metadata.get("modes", ()), bool(field.kw_only)
        yield field, Flag(name, hints[name], field.default, needs_name, modes, group, text)


def flag_fields(cls: type) -> Iterator[tuple[str, Flag]]:
    """The fields of a dataclass of settings as flags, by name."""
    return ((flag.name, flag) for _, flag in own_flags(cls))


def usual_flags(command: type, flags: dict[str, Flag]) -> list[Flag]:
    """Those that have to be given, and lists, as a call of the class takes them: bases first."""
    in_order = [flags[field.name] for field in dataclasses.fields(command) if field.name in flags]
    return [flag for flag in in_order if flag.is_required or flag.is_list]


# ---------------------------------------------------------------------------------------- arguments

# A negative number is not a flag: "-1" has no letter after its dash.
FLAG = re.compile(r"(--?[A-Za-z][\w-]*)(=.*)?", re.DOTALL)

# Of several types that a flag may have, the first of these that takes the text is used.
READERS: dict[type, Callable[[str], Any]] = {
    type(None): {"None": None, "null": None}.__getitem__,
    bool: lambda text: {"true": True, "false": False}[text.lower()],
    # int comes before float, so that 3 stays an integer where both may be.
    int: int,
    float: float,
    str: str,
}


def parse(command: type, line: list[str]) -> dict[str, Any]:
    """The fields of a command from its command line; what is not given is left to the defaults.

    `--name value`, `--name=value`, or `--name` alone for True; `-` may stand for `_` in a name.
    Values without a name are the fields without a default, in order; a list takes all that are
    left, and may have a default.

    UserError for every mistake, before anything runs.
    """
    flags = flags_of(command)
    check_names(line, flags)
    words, texts = split(line)
    lists = {}
    shown = usual_flags(command, flags)
    for flag in shown:
        if words and flag.is_list:
            lists[flag.name], words = words, []
        elif words and flag.name not in texts:
            texts[flag.name] = words.pop(0)
    if words:
        raise UserError(f"unexpected {words[0]!r}; flags are written --name value")
    missing = [flag for flag in shown if flag.is_required and not (texts | lists).get(flag.name)]
    if missing:
        raise UserError(f"{' and '.join(flag.usage for flag in missing)} missing; see --help")
    values = {name: read(text, flags[name]) for name, text in texts.items()}
    # Only what was given: the rest is up to the configuration file.
    settings = {name: values.pop(name) for name in texts if flags[name].group == SETTINGS}
    return lists | values | ({"settings": settings} if settings else {})


def check_names(line: list[str], flags: dict[str, Flag]) -> None:
    """UserError where a word of a command line is no flag but looks like one, or lacks its value.

    fire would take --no_cuda for a negation, the last of two --lr, and True for a missing text.
    """
    seen = set()
    for word, following in itertools.pairwise([*line, "--end"]):
        match = FLAG.fullmatch(word)
        if not match:
            # fire takes all that begins so for a flag.
            if word.startswith("--") or re.match("-[A-Za-z]", word):
                raise UserError(f"unexpected {word!r}; flags are written --name value")
            continue
        given, value = match.groups()
        name = given.removeprefix("--").replace("-", "_")
        # The hint is for the name without dashes: -lr may mean --lr.
        if name not in flags or flags[name].is_list:
            raise UserError(f"unknown flag {short(given)}{hint(name.lstrip('_'), flags)}")
        # Twice the same flag is a mistake in a long command, and which counts would be a guess.
        if name in seen:
            raise UserError(f"{given} is given twice; keep one")
        seen.add(name)
        # What looks like a flag is never a value; --name=-x says that it is.
        if value is None and FLAG.fullmatch(following) and flags[name].kind is not bool:
            expected = type_name(flags[name].kind)
            raise UserError(f"{given} has no value; expected {expected}")


def split(line: list[str]) -> tuple[list[str], dict[str, str]]:
    """The words without a name and the flags of a command line, as texts."""
    import fire

    words, texts = list[str](), dict[str, str]()

    # str: 2020 stays a text, and what it means is up to the flag's type.
    @fire.decorators.SetParseFn(str)
    def keep(*all_words: str, **all_flags: str) -> None:
        words.extend(all_words)
        texts.update(all_flags)

    # fire's separator of calls is "-", which is standard input here.
    fire.Fire(keep, [*line, "--", "--separator", "\0"])
    return words, texts


def read(text: str, flag: Flag) -> Any:
    """The value of a flag by its annotated type: 2020 stays a str where a str is expected."""
    shown = f"--{flag.name} {short(text)}"
    # The order of READERS decides between types: "None" is None before it is a text.
    for one, reader in READERS.items():
        if one in (typing.get_args(flag.kind) or (flag.kind,)):
            with contextlib.suppress(KeyError, ValueError):
                value = reader(text)
                break
    else:
        expected = type_name(flag.kind).replace("bool", "True or False")
        raise UserError(f"{shown}: expected {expected}")
    # float() takes "nan" and "inf", which no setting can be.
    if isinstance(value, int | float) and not abs(value) < 1e300:
        raise UserError(f"{shown}: expected a finite number")
    return value


def hint(name: str, flags: Iterable[str]) -> str:
    """What to write instead of an unknown flag."""
    if name in INSTEAD:
        return f"; {INSTEAD[name]}"
    for ours, theirs in SYNONYMS.items():
        if name in theirs.split() and ours.split()[0] in flags:
            return f" (it is --{ours} here)"
    return nearest(name, flags).replace("mean ", "mean --") or "; --help lists the flags"


def given_flags(command: Any) -> list[str]:
    """The flags whose value is not the default, of a command or a dataclass alike.

    A flag that is given with its default value has no effect, and so it passes as not given.
    """
    flags = [flag for flag in flags_of(type(command)).values() if flag.group != SETTINGS]
    given = [flag.name for flag in flags if getattr(command, flag.name) != flag.default]
    return given + [*getattr(command, "settings", {})]


def check_mode(command: Any) -> None:
    """UserError where a flag was given that a command's --mode has no use for.

    A flag that another mode alone reads would otherwise be ignored silently.
    """
    flags, mode = flags_of(type(command)), command.mode
    # A setting that is none is for Config to refuse, which knows what it may have meant.
    given = [flags[name] for name in given_flags(command) if name in flags]
    useless = [flag.name for flag in given if flag.modes and mode not in flag.modes]
    if useless:
        shown = ", ".join(f"--{name}" for name in useless)
        raise UserError(f"--mode {mode} has no use for {shown}; see --help")


# --------------------------------------------------------------------------------------------- help

WIDTH = 100  # columns of --help
COLUMN = 32  # where descriptions begin
FIRST = ("What to do", "Data")
LAST = ("Weights", "Training", "A smaller model", "Output", SETTINGS)


def help_text(program: str, command: type) -> str:
    """What --help prints of a command: usage, its docstring, the flags in groups."""
    flags = flags_of(command)
    groups: dict[str, list[str]] = {}
    # The mode comes first, since it decides which others have a use.
    for flag in sorted(flags.values(), key=lambda flag: flag.name != "mode"):
        groups.setdefault(flag.group, []).append(flag_help(flag))
    between = [group for group in groups if group not in FIRST + LAST]
    ordered = [group for group in (*FIRST, *between, *LAST) if group in groups]
    shown = [flag.usage for flag in usual_flags(command, flags)]
    usage = " ".join([program, *shown, "[--name value ...]"])
    parts = ["\n".join([f"{group}:", *groups[group]]) for group in ordered]
    return "\n\n".join([f"usage: python {usage}", (inspect.getdoc(command) or "").strip(), *parts])


def flag_help(flag: Flag) -> str:
    """A flag's name, type, modes, description and default."""
    head = flag.usage if flag.is_list else f"--{flag.name} {type_name(flag.kind)}"
    text = flag.help.removesuffix(".")
    # All settings of training but a few are for one mode; their title says it.
    if flag.modes and flag.group != SETTINGS:
        text = f"({', '.join(flag.modes)}) {text}"
    if flag.is_required:
        text += " (required)"
    elif flag.default is not None and "default" not in text.lower():
        text += f" (default {flag.default})"
    return two_columns(head, text)


def name_of(command: type) -> str:
    """The name of a subcommand: learn for Learn."""
    return command.__name__.lower()


def command_list(program: str, commands: Iterable[type]) -> str:
    """What --help prints of a program with subcommands."""
    lines = [f"usage: python {program} COMMAND ...", ""]
    for command in commands:
        first_line = (inspect.getdoc(command) or "").partition("\n")[0]
        lines.append(two_columns(name_of(command), first_line))
    lines += ["", f"python {program} COMMAND --help lists the flags of a command."]
    return "\n".join(lines)


def two_columns(head: str, text: str) -> str:
    """A name and, beside it, what it means."""
    line = f"  {head}  ".ljust(COLUMN) + text
    return textwrap.fill(line, WIDTH, subsequent_indent=" " * COLUMN, break_on_hyphens=False)

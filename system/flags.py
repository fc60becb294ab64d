"""A function's signature is its flags, its docstring the text of --help.

def main(task: str, max_len: int = 128) -> None: ...

parse_arguments(main, ["--task", "mrpc", "--max_len", "64"])  # {"task": "mrpc", "max_len": 64}
print(help_text("script.py", main))
"""

import contextlib
import inspect
import re
import textwrap
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from utils import UserError, nearest, short, type_name

# What other programs call our flags, such as run_glue.py and Google's run_classifier.py.
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
    "num_steps": "total_steps",
    "bert_model": "pretrain_file",
    "max_length": "max_len",
    "accumulate": "gradient_accumulation",
    "early_stop": "patience",
    "lr_main": "lr",
    "train_path": "data_file|train_file",
    "valid_path": "eval_file",
    "max_predictions_per_seq": "max_pred",
    "masked_lm_prob": "mask_prob",
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
# The flags that a run on the built-in sample has a use for.
SAMPLE_FLAGS = ("save_dir", "log_dir", "data_parallel", "shard")

# What is no flag of any command, and how it is done.
INSTEAD = {
    "device": "the GPUs that are visible are used; CUDA_VISIBLE_DEVICES= hides them",
    "no_cuda": "CUDA_VISIBLE_DEVICES= hides the GPUs",
    "gpu": "CUDA_VISIBLE_DEVICES=N chooses the GPUs",
    "local_rank": "torchrun starts several processes",
    "do_lower_case": "the vocabulary says it; tokenizer_config.json beside it overrules that",
}

# ---------------------------------------------------------------------------------------- arguments

# A negative number is not a flag: "-1" has no letter after its dash.
FLAG = re.compile(r"(--?[A-Za-z][\w-]*)(?:=(.*))?", re.DOTALL)

# Of several types that a flag may have, the first of these that takes the text is used.
READERS: dict[type, Callable[[str], Any]] = {
    type(None): {"None": None, "null": None}.__getitem__,
    bool: lambda text: {"true": True, "false": False}[text.lower()],
    # int comes before float, so that 3 stays an integer where both may be.
    int: int,
    float: float,
    str: str,
}


def parameters_of(function: Callable, settings: type | None = None) -> dict[str, inspect.Parameter]:
    """The flags of a command: the parameters of its function and the fields of its settings."""
    parameters = dict(inspect.signature(function).parameters)
    if settings:
        # A field of the settings is a flag like any other, and not the dict that they are passed
        # in.
        del parameters["settings"]
        parameters |= inspect.signature(settings).parameters
    return parameters


def is_list(parameter: inspect.Parameter) -> bool:
    """Whether a parameter takes all arguments without a name that are left."""
    return parameter.annotation in (list[str], list[str] | None)


def list_name(parameter: inspect.Parameter) -> str:
    """TEXTS..., or [TEXTS...] where there may be none."""
    name = f"{parameter.name.upper()}..."
    return name if parameter.default is parameter.empty else f"[{name}]"


def usage_parameters(parameters: dict[str, inspect.Parameter]) -> dict[str, str]:
    """The parameters without a default and the lists, as usage shows them: TARGET, --out OUT."""
    shown = {}
    for name, parameter in parameters.items():
        if is_list(parameter):
            shown[name] = list_name(parameter)
        elif parameter.default is parameter.empty:
            flag = f"--{name} " if parameter.kind is parameter.KEYWORD_ONLY else ""
            shown[name] = f"{flag}{name.upper()}"
    return shown


def parse_arguments(
    function: Callable, arguments: list[str], settings: type | None = None
) -> dict[str, Any]:
    """Keyword arguments of a function from a command line.

    `--name value`, `--name=value`, or `--name` alone for True; `-` may stand for `_` in a name.
    Values without a name are the parameters without a default, in order; a list takes all that are
    left, and may have a default. The fields of a dataclass `settings` become the parameter
    `settings`, a dict.

    UserError for every mistake, before anything runs.
    """
    parameters = parameters_of(function, settings)
    given, unnamed = split_flags(arguments, parameters)
    shown = usage_parameters(parameters)
    needed = [name for name in shown if parameters[name].default is inspect.Parameter.empty]
    lists = {}
    for name in shown:
        # A list takes all arguments without a name that are left; without any, its default stays.
        if unnamed and is_list(parameters[name]):
            lists[name], unnamed = unnamed, []
        elif unnamed and name not in given:
            given[name] = unnamed.pop(0)
    if unnamed:
        raise UserError(f"unexpected {unnamed[0]!r}; flags are written --name value")
    if missing := [shown[name] for name in needed if not (given | lists).get(name)]:
        raise UserError(f"{' and '.join(missing)} missing; see --help")
    values = {name: parse_value(text, parameters[name]) for name, text in given.items()}
    fields = typing.get_type_hints(settings) if settings else ()
    # Only what was given: the rest is up to the configuration file.
    if chosen := {name: values.pop(name) for name in fields if name in values}:
        values["settings"] = chosen
    return lists | values


def split_flags(
    arguments: list[str], parameters: dict[str, inspect.Parameter]
) -> tuple[dict[str, str], list[str]]:
    """The texts of the flags by name, and the arguments that stand without a name."""
    given: dict[str, str] = {}
    unnamed = []
    kinds = {name: p.annotation for name, p in parameters.items() if not is_list(p)}
    queue = list(arguments)
    while queue:
        match = FLAG.fullmatch(argument := queue.pop(0))
        if not match:
            unnamed.append(argument)
            continue
        flag, text = match.groups()
        name = flag.removeprefix("--").replace("-", "_")
        # The hint is for the name without dashes: -lr may mean --lr.
        if name not in kinds:
            raise UserError(f"unknown flag {short(flag)}{flag_hint(name.lstrip('_'), kinds)}")
        # Twice the same flag is a mistake in a long command, and which one counts would be a guess.
        if name in given:
            raise UserError(f"{flag} is given twice; keep one")
        # What looks like a flag is never a value; --name=-x says that it is.
        if text is None and queue and not FLAG.fullmatch(queue[0]):
            text = queue.pop(0)
        elif text is None and kinds[name] is not bool:
            raise UserError(f"{flag} has no value; expected {type_name(kinds[name])}")
        given[name] = "True" if text is None else text
    return given, unnamed


def parse_value(text: str, parameter: inspect.Parameter) -> Any:
    """The value of a flag by its annotated type: 2020 stays a str where a str is expected."""
    flag, kind = f"--{parameter.name} {short(text)}", parameter.annotation
    # The order of READERS decides between types: "None" is None before it is a text.
    for one, read in READERS.items():
        if one in (typing.get_args(kind) or (kind,)):
            with contextlib.suppress(KeyError, ValueError):
                value = read(text)
                break
    else:
        expected = type_name(kind).replace("bool", "True or False")
        raise UserError(f"{flag}: expected {expected}")
    # float() takes "nan" and "inf", which no setting can be.
    if isinstance(value, int | float) and not abs(value) < 1e300:
        raise UserError(f"{flag}: expected a finite number")
    return value


def flag_hint(name: str, flags: Iterable[str]) -> str:
    """What to write instead of an unknown flag."""
    if name in INSTEAD:
        return f"; {INSTEAD[name]}"
    for ours in SYNONYMS.get(name, "").split("|"):
        if ours.split(" ")[0] in flags:
            return f" (it is --{ours} here)"
    return nearest(name, flags).replace("mean ", "mean --") or "; --help lists the flags"


def given_flags(function: Callable, values: Mapping[str, Any]) -> list[str]:
    """The flags that a command was called with: those whose value is not the default.

    Args:
        function: the command, whose signature has the defaults.
        values: its locals(); those in a dict `settings` were given.
    """
    parameters = inspect.signature(function).parameters
    # A flag given with its default value has no effect, and so it passes as not given.
    names = [name for name, p in parameters.items() if values.get(name, p.default) != p.default]
    settings = values.get("settings") or {}
    return [name for name in names if name != "settings"] + list(settings)


def check_mode(
    function: Callable, mode: str, values: Mapping[str, Any], used_in: Mapping[str, str]
) -> None:
    """UserError where a flag was given that a mode has no use for.

    Args:
        mode: the mode that runs.
        used_in: flag -> the modes that use it, as {"out": "eval predict"}; a flag that is not in
            it is for all modes.
    """
    names = given_flags(function, values)
    useless = [f"--{name}" for name in names if mode not in used_in.get(name, mode).split()]
    if useless:
        raise UserError(f"--mode {mode} has no use for {', '.join(useless)}; see --help")


def check_sample(function: Callable, values: Mapping[str, Any]) -> None:
    """UserError where a flag was given that a run on the built-in sample has no use for."""
    names = [name for name in given_flags(function, values) if name not in SAMPLE_FLAGS]
    if names:
        shown = ", ".join(f"--{name}" for name in names)
        raise UserError(f"no --data_file, which is needed with {shown}; see --help")


# --------------------------------------------------------------------------------------------- help

WIDTH = 100  # columns of --help
COLUMN = 32  # where descriptions begin
SETTINGS = "Settings of --train_cfg (a flag overrides the file, the file overrides the default)"

# Flags that mean the same in several commands: their group and their description.
SHARED = {
    "pretrain_file": (
        "Weights",
        "weights to start training from: a TensorFlow checkpoint or Google's .zip, a Hugging Face "
        "folder, a .pt, or a name of `checkpoint.py list`; default: none, so that training starts "
        "from scratch",
    ),
    "model_file": (
        "Weights",
        "a model trained here, to evaluate or predict with: its folder, its .pt or its .onnx",
    ),
    "model_cfg": (
        "Weights",
        "JSON of the model's shape, ours or Google's bert_config.json; default: what lies beside "
        "the weights",
    ),
    "vocab": ("Weights", "vocab.txt; default: what lies beside the weights"),
    "train_cfg": (
        "Training",
        "JSON of train.Config; default: the task's own in config/",
    ),
    "data_parallel": ("Training", "use all visible GPUs"),
    "shard": (
        "Training",
        "started by torchrun, divide the model among the processes, where it does not fit into one "
        "GPU",
    ),
    "settings": ("Training", 'settings that replace those of train_cfg, as {"lr": 3e-5}'),
    "save_dir": (
        "Output",
        "folder of the run, which the same command resumes; default: runs/TASK",
    ),
    "log_dir": ("Output", "folder for TensorBoard's curves"),
}

# Below "Args:", a description may go on in lines that are indented more than its first one.
ENTRY = re.compile(r"^( +)(\w[^:\n]*):(?: (.+(?:\n\1 .*)*))?$", re.MULTILINE)
# A field of a dataclass with the comment above it and the one behind it.
FIELD = re.compile(r"((?:^ {4}# .*\n)*)^ {4}(\w+): [^#\n(]*(?:\(\n)?[^#\n]*(#.*)?", re.MULTILINE)


def help_text(program: str, function: Callable, settings: type | None = None) -> str:
    """What --help prints of a command: usage, the head of the docstring, the flags in groups."""
    parameters = parameters_of(function, settings)
    head, _, body = (inspect.getdoc(function) or "").partition("Args:\n")
    about = described(body)
    about |= {name: text for name, text in SHARED.items() if name not in about}
    if settings:
        about |= {name: (SETTINGS, text) for name, text in field_comments(settings).items()}
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys([*about, *parameters]):
        if name in parameters:
            group, text = about.get(name, ("Other", ""))
            groups.setdefault(group, []).append(flag_help(parameters[name], text))
    # These come last in every command.
    for group in ("Weights", "Training", "Output", SETTINGS, "Other"):
        if group in groups:
            groups[group] = groups.pop(group)
    usage = " ".join([program, *usage_parameters(parameters).values(), "[--name value ...]"])
    parts = ["\n".join([f"{group}:", *entries]) for group, entries in groups.items()]
    return "\n\n".join([f"usage: python {usage}", head.strip(), *parts])


def described(body: str) -> dict[str, tuple[str, str]]:
    """The group and the description of each parameter in the "Args:" of a docstring.

    A line with nothing behind its colon starts a group; the entries of a group are indented.
    """
    about = {}
    group = "Flags"
    for _, head, text in ENTRY.findall(body):
        if text:
            about[head] = (group, " ".join(text.split()))
        else:
            group = head
    return about


def field_comments(cls: type) -> dict[str, str]:
    """The comment behind each field of a dataclass, or above it."""
    found = FIELD.findall(inspect.getsource(cls))
    return {
        name: " ".join((behind or above).replace("#", "").split()) for above, name, behind in found
    }


def flag_help(parameter: inspect.Parameter, text: str) -> str:
    """A flag's name, type, description and default."""
    head = f"--{parameter.name} {type_name(parameter.annotation)}"
    if is_list(parameter):
        head = list_name(parameter)
    text = text.removesuffix(".")
    if parameter.default is parameter.empty:
        text += " (required)"
    elif parameter.default is not None and "default" not in text.lower():
        text += f" (default {parameter.default})"
    return two_columns(head, text)


def name_of(function: Callable) -> str:
    """The name of a subcommand: list_ is list, since Python has a list of its own."""
    return function.__name__.rstrip("_")


def command_list(program: str, functions: Iterable[Callable]) -> str:
    """What --help prints of a program with subcommands."""
    lines = [f"usage: python {program} COMMAND ...", ""]
    for function in functions:
        first_line = (inspect.getdoc(function) or "").partition("\n")[0]
        lines.append(two_columns(name_of(function), first_line))
    lines += ["", f"python {program} COMMAND --help lists the flags of a command."]
    return "\n".join(lines)


def two_columns(head: str, text: str) -> str:
    """A name and, beside it, what it means."""
    line = f"  {head}  ".ljust(COLUMN) + text
    return textwrap.fill(line, WIDTH, subsequent_indent=" " * COLUMN, break_on_hyphens=False)

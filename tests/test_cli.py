"""Command lines: what a signature makes of arguments, what --help shows, what a mode refuses."""

import dataclasses
import inspect
import re
from collections.abc import Callable
from types import ModuleType

import pytest

import checkpoint
import choose
import classify
import corpus
import features
import pretrain
import squad
import tag
import tokenization
import train
from system import flags
from utils import UserError

COMMANDS = [
    classify.main,
    squad.main,
    tag.main,
    tag.score,
    choose.main,
    pretrain.main,
    features.extract,
    features.similar,
    features.fewshot,
    features.fill,
    features.score,
    corpus.prepare,
    corpus.describe,
    checkpoint.convert,
    checkpoint.inspect,
    checkpoint.compare,
    tokenization.learn,
]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings for the tests: comments of every kind."""

    # how often
    # everything is seen
    n_epochs: int = 3
    lr: float = 2e-5  # at its highest
    seed: int = 42
    minutes: float | None = None  # between checkpoints

    def __post_init__(self) -> None:
        pass  # a comment that is no field's


def sample(
    source: str,
    target: str,
    mode: str = "train",
    max_len: int | None = None,
    plots: bool = False,
    language: bool | str = False,
    secret: int = 7,
    settings: dict | None = None,
) -> None:
    """Do what it is for.

    And more of it.

    Args:
        What to do:
            mode: train or eval.
            max_len: longest input in tokens; Default: 128, or
                None: as trained.
        Data, and the like:
            target: where to.
            source: where from.
            plots: write pictures.
            language: of the text.
    """


def listed(texts: list[str], *, out: str, size: int = 1) -> None:
    """Read texts.

    Args:
        texts: files.
        out: a folder.
    """


def optional(source: str, texts: list[str] | None = None, size: int = 1) -> None:
    """Read texts, or standard input.

    Args:
        texts: one or more; default: standard input.
    """


def parse(line: str, function: Callable = sample) -> dict[str, object]:
    return flags.parse_arguments(function, line.split(), Settings if function is sample else None)


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("a b", {}),
        ("a b --max_len 5", {"max_len": 5}),
        ("a b --max-len=5", {"max_len": 5}),
        ("--max_len null a b", {"max_len": None}),
        ("a b --max_len None", {"max_len": None}),
        ("a --target b --plots", {"plots": True}),
        ("--target b a --plots false", {"plots": False}),
        ("a b --plots --mode 2020", {"plots": True, "mode": "2020"}),
        ("a b --mode=", {"mode": ""}),
        ("a b --mode -", {"mode": "-"}),
        ("a b --mode -1,-2", {"mode": "-1,-2"}),
        ("a b --mode null", {"mode": "null"}),
        ("a b --language True", {"language": True}),
        ("a b --language de", {"language": "de"}),
        ("a b --lr 3e-5 --n_epochs 4", {"settings": {"n_epochs": 4, "lr": 3e-5}}),
        ("a b --lr -1e-4", {"settings": {"lr": -1e-4}}),
        ("a b --minutes None", {"settings": {"minutes": None}}),
    ],
)
def test_arguments_are_typed_by_the_signature(line: str, values: dict) -> None:
    assert parse(line) == {"source": "a", "target": "b", **values}


def test_a_list_takes_all_values_without_a_name() -> None:
    found = parse("a b --out c d", listed)
    assert found == {"texts": ["a", "b", "d"], "out": "c"}


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("a", {"source": "a"}),
        ("--source a --size 2", {"source": "a", "size": 2}),
        ("a b c", {"source": "a", "texts": ["b", "c"]}),
        ("b --source a --size 2 c", {"source": "a", "size": 2, "texts": ["b", "c"]}),
    ],
)
def test_a_list_with_a_default_takes_what_is_left_or_nothing(line: str, values: dict) -> None:
    assert parse(line, optional) == values


@pytest.mark.parametrize(
    ("line", "function", "message"),
    [
        ("a", sample, "TARGET missing; see --help"),
        ("", sample, "SOURCE and TARGET missing; see --help"),
        ("a b c", sample, "unexpected 'c'; flags are written --name value"),
        ("a b --xyzzy 3", sample, "unknown flag --xyzzy; --help lists the flags"),
        ("a b --max_le 3", sample, "unknown flag --max_le (did you mean --max_len?)"),
        ("a b --epochs 3", sample, "unknown flag --epochs (it is --n_epochs here)"),
        ("a b -mode x", sample, "unknown flag -mode (did you mean --mode?)"),
        ("a b --settings x", sample, "unknown flag --settings"),
        ("a b --max_len 3.5", sample, "--max_len 3.5: expected int"),
        ("a b --max_len --plots", sample, "--max_len has no value; expected int"),
        ("a b --plots 1", sample, "--plots 1: expected True or False"),
        ("a b --lr=-inf", sample, "--lr -inf: expected a finite number"),
        ("a b --lr 1 --lr=1", sample, "--lr is given twice; keep one"),
        ("a b --source c", sample, "unexpected 'b'"),
        ("--out c", listed, "TEXTS... missing; see --help"),
        ("a b", listed, "--out OUT missing; see --help"),
        ("--texts a --out c", listed, "unknown flag --texts"),
        ("--texts b a", optional, "unknown flag --texts"),
        ("--size 2", optional, "SOURCE missing; see --help"),
    ],
)
def test_every_mistake_of_a_command_line_is_found(
    line: str, function: Callable, message: str
) -> None:
    with pytest.raises(UserError) as error:
        parse(line, function)
    assert str(error.value).startswith(message)


def test_help_has_groups_types_defaults_and_settings() -> None:
    assert (
        flags.help_text("x.py", sample, Settings)
        == """\
usage: python x.py SOURCE TARGET [--name value ...]

Do what it is for.

And more of it.

What to do:
  --mode str                    train or eval (default train)
  --max_len int                 longest input in tokens; Default: 128, or None: as trained

Data, and the like:
  --target str                  where to (required)
  --source str                  where from (required)
  --plots bool                  write pictures (default False)
  --language bool or str        of the text (default False)

Settings of --train_cfg (a flag overrides the file, the file overrides the default):
  --n_epochs int                how often everything is seen (default 3)
  --lr float                    at its highest (default 2e-05)
  --seed int                     (default 42)
  --minutes float               between checkpoints

Other:
  --secret int                   (default 7)"""
    )


def test_help_shows_what_has_no_default() -> None:
    assert (
        flags.help_text("x.py listed", listed)
        == """\
usage: python x.py listed TEXTS... --out OUT [--name value ...]

Read texts.

Flags:
  TEXTS...                      files (required)
  --out str                     a folder (required)

Other:
  --size int                     (default 1)"""
    )
    lines = flags.help_text("x.py optional", optional).splitlines()
    assert lines[0] == "usage: python x.py optional SOURCE [TEXTS...] [--name value ...]"
    assert "  [TEXTS...]                    one or more; default: standard input" in lines


def test_help_of_classify_names_every_parameter_and_setting_once_with_its_default(
    run: Callable,
) -> None:
    status, out, err = run("--help", classify.main)
    assert (status, err) == (0, "")
    parameters = dict(inspect.signature(classify.main).parameters)
    del parameters["settings"]
    parameters |= inspect.signature(train.Config).parameters
    entries = re.findall(r"^  --(\w+) [\s\S]*?(?=^  --|^\S|\Z)", out, re.MULTILINE)
    assert sorted(entries) == sorted(parameters)
    for name, parameter in parameters.items():
        text = re.search(rf"^  --{name} ([\s\S]*?)(?=^  --|^\S|\Z)", out, re.MULTILINE)[1]
        stated = re.search(r"[Dd]efault:? (.*?)\)?$", " ".join(text.split()))
        # None says that there is no default, or that it depends on other things.
        assert parameter.default is None or stated[1] == str(parameter.default)
    titles = re.findall(r"^(\S.*):$", out, re.MULTILINE)
    assert titles[:6] == [
        "What to do",
        "Data",
        "Your own columns",
        "Weights",
        "Training",
        "Output",
    ]
    assert titles[6].startswith("Settings of --train_cfg")


@pytest.mark.parametrize("function", COMMANDS, ids=lambda f: f"{f.__module__}.{f.__name__}")
def test_help_fits_100_columns_and_describes_no_flag_that_does_not_exist(
    function: Callable,
) -> None:
    settings = train.Config if function.__name__ == "main" else None
    text = flags.help_text("program.py command", function, settings)
    assert max(map(len, text.splitlines())) <= 100
    body = inspect.getdoc(function).partition("Args:\n")[2]
    assert set(flags.described(body)) <= set(inspect.signature(function).parameters)


def test_every_setting_of_training_has_a_comment() -> None:
    comments = flags.field_comments(train.Config)
    assert all(comments[field.name] for field in dataclasses.fields(train.Config))


def test_help_of_subcommands_lists_them_and_shows_one(run: Callable) -> None:
    functions = (features.extract, features.similar)
    for line in ("", "--help", "-h", "--help extract"):
        status, out, err = run(line, *functions)
        assert (status, err) == (0, "")
        assert re.findall(r"^  (\w+)  +(\w+)", out, re.MULTILINE) == [
            ("extract", "Write"),
            ("similar", "Print"),
        ]
    status, out, _ = run("similar --help", *functions)
    assert out.startswith("usage: python prog.py similar PRETRAIN_FILE INPUT_FILE QUERY [--name")


USED_IN = {"target": "train", "max_len": "train eval", "plots": "eval", "lr": "train"}


@pytest.mark.parametrize(
    ("mode", "given", "useless"),
    [
        ("train", {}, ""),
        ("train", {"target": "b", "max_len": 5, "secret": 8}, ""),
        ("train", {"target": "b", "plots": True}, "--plots"),
        ("predict", {"target": "b", "max_len": 5}, "--target, --max_len"),
        ("predict", {"plots": False, "max_len": None, "secret": 7}, ""),
        ("predict", {"settings": {"lr": 1.0, "seed": 1}}, "--lr"),
        ("eval", {"target": "b", "settings": {"lr": 1.0}}, "--target, --lr"),
        ("eval", {"settings": None}, ""),
    ],
)
def test_a_flag_that_the_mode_has_no_use_for_is_refused(
    mode: str, given: dict, useless: str
) -> None:
    if not useless:
        flags.check_mode(sample, mode, given, USED_IN)
        return
    with pytest.raises(UserError) as error:
        flags.check_mode(sample, mode, given, USED_IN)
    assert str(error.value) == f"--mode {mode} has no use for {useless}; see --help"


@pytest.mark.parametrize("module", [classify, squad, pretrain])
def test_the_table_of_modes_names_flags_that_exist(module: ModuleType) -> None:
    known = flags.parameters_of(module.main, train.Config)
    assert module.USED_IN.keys() <= known.keys()


def test_check_mode_takes_the_local_variables_of_a_command() -> None:
    def main(mode: str = "train", out: str | None = None, n: int = 3) -> str:
        flags.check_mode(main, mode, locals(), {"out": "eval", "n": "train"})
        return mode

    assert main() == main(n=4) == "train"
    with pytest.raises(UserError, match=r"^--mode train has no use for --out; see --help$"):
        main(out="x")
    with pytest.raises(UserError, match=r"^--mode eval has no use for --n; see --help$"):
        main("eval", "x", 4)

"""Command lines: what a dataclass makes of arguments, what --help shows, what a mode refuses."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import checkpoint
import corpus
import features
import tag
import tokenization
import train
from choose import Choose
from classify import Classify
from pretrain import Pretrain
from squad import Squad
from system import flags
from utils import UserError

COMMANDS = [
    Classify,
    Squad,
    tag.Tag,
    tag.Score,
    Choose,
    Pretrain,
    features.Extract,
    features.Similar,
    features.Fewshot,
    features.Fill,
    features.Score,
    corpus.Prepare,
    corpus.Describe,
    checkpoint.Convert,
    checkpoint.Inspect,
    checkpoint.Compare,
    checkpoint.List,
    tokenization.Learn,
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


@dataclasses.dataclass
class Base:
    """What the tests' commands have in common."""

    source: str  # where from
    target: str  # where to
    secret: int = flags.only("train eval", 7)
    # -- Output
    settings: dict[str, Any] = flags.settings_of(Settings, everywhere=("seed",))  # noqa: RUF009


@dataclasses.dataclass
class Sample(Base):
    """Do what it is for.

    And more of it.
    """

    # -- Data, and the like
    # where to,
    # really
    target: str
    plots: bool = False  # write pictures.
    language: bool | str = False  # of the text
    # -- What to do
    # longest input in tokens; Default: 128, or
    # None: as trained
    max_len: int | None = flags.only("train eval")
    mode: str = "train"  # train or eval


@dataclasses.dataclass
class Listed:
    """Read texts."""

    texts: list[str]  # files
    _: dataclasses.KW_ONLY
    out: str  # a folder
    size: int = 1


@dataclasses.dataclass
class Optional:
    """Read texts, or standard input."""

    source: str
    texts: list[str] | None = None  # one or more; default: standard input
    size: int = 1


def parse(line: str, kind: type = Sample) -> dict[str, object]:
    return flags.parse(kind, line.split())


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
def test_arguments_are_typed_by_the_fields(line: str, values: dict) -> None:
    assert parse(line) == {"source": "a", "target": "b", **values}


def test_a_list_takes_all_values_without_a_name() -> None:
    found = parse("a b --out c d", Listed)
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
    assert parse(line, Optional) == values


@pytest.mark.parametrize(
    ("line", "kind", "message"),
    [
        ("a", Sample, "TARGET missing; see --help"),
        ("", Sample, "SOURCE and TARGET missing; see --help"),
        ("a b c", Sample, "unexpected 'c'; flags are written --name value"),
        ("a b --xyzzy 3", Sample, "unknown flag --xyzzy; --help lists the flags"),
        ("a b --max_le 3", Sample, "unknown flag --max_le (did you mean --max_len?)"),
        ("a b --epochs 3", Sample, "unknown flag --epochs (it is --n_epochs here)"),
        ("a b -mode x", Sample, "unknown flag -mode (did you mean --mode?)"),
        ("a b --settings x", Sample, "unknown flag --settings"),
        ("a b --noplots", Sample, "unknown flag --noplots"),
        ("a b --", Sample, "unexpected '--'; flags are written --name value"),
        ("a b --1", Sample, "unexpected '--1'; flags are written --name value"),
        ("a b -x.y", Sample, "unexpected '-x.y'; flags are written --name value"),
        ("a b --max_len 3.5", Sample, "--max_len 3.5: expected int"),
        ("a b --max_len --plots", Sample, "--max_len has no value; expected int"),
        ("a b --plots 1", Sample, "--plots 1: expected True or False"),
        ("a b --lr=-inf", Sample, "--lr -inf: expected a finite number"),
        ("a b --lr 1 --lr=1", Sample, "--lr is given twice; keep one"),
        ("a b --source c", Sample, "unexpected 'b'"),
        ("--out c", Listed, "TEXTS... missing; see --help"),
        ("a b", Listed, "--out OUT missing; see --help"),
        ("--texts a --out c", Listed, "unknown flag --texts"),
        ("--texts b a", Optional, "unknown flag --texts"),
        ("--size 2", Optional, "SOURCE missing; see --help"),
    ],
)
def test_every_mistake_of_a_command_line_is_found(line: str, kind: type, message: str) -> None:
    with pytest.raises(UserError) as error:
        parse(line, kind)
    assert str(error.value).startswith(message)


def test_help_has_groups_types_modes_defaults_and_settings() -> None:
    assert (
        flags.help_text("x.py", Sample)
        == """\
usage: python x.py SOURCE TARGET [--name value ...]

Do what it is for.

And more of it.

What to do:
  --mode str                    train or eval (default train)
  --max_len int                 (train, eval) longest input in tokens; Default: 128, or None: as
                                trained

Data, and the like:
  --target str                  where to, really (required)
  --plots bool                  write pictures (default False)
  --language bool or str        of the text (default False)

Flags:
  --source str                  where from (required)
  --secret int                  (train, eval)  (default 7)

Settings of --train_cfg (a flag overrides the file, the file overrides the default):
  --n_epochs int                how often everything is seen (default 3)
  --lr float                    at its highest (default 2e-05)
  --seed int                     (default 42)
  --minutes float               between checkpoints"""
    )


def test_help_shows_what_has_no_default() -> None:
    assert (
        flags.help_text("x.py listed", Listed)
        == """\
usage: python x.py listed TEXTS... --out OUT [--name value ...]

Read texts.

Flags:
  TEXTS...                      files (required)
  --out str                     a folder (required)
  --size int                     (default 1)"""
    )
    lines = flags.help_text("x.py optional", Optional).splitlines()
    assert lines[0] == "usage: python x.py optional SOURCE [TEXTS...] [--name value ...]"
    assert "  [TEXTS...]                    one or more; default: standard input" in lines


def test_help_of_classify_names_every_parameter_and_setting_once_with_its_default(
    run: Callable,
) -> None:
    status, out, err = run("--help", Classify)
    assert (status, err) == (0, "")
    fields = {f.name: f for f in dataclasses.fields(Classify) if f.name != "settings"}
    fields |= {field.name: field for field in dataclasses.fields(train.Config)}
    entries = re.findall(r"^  --(\w+) [\s\S]*?(?=^  --|^\S|\Z)", out, re.MULTILINE)
    assert sorted(entries) == sorted(fields)
    for name, field in fields.items():
        text = re.search(rf"^  --{name} ([\s\S]*?)(?=^  --|^\S|\Z)", out, re.MULTILINE)[1]
        stated = re.search(r"[Dd]efault:? (.*?)\)?$", " ".join(text.split()))
        # None says that there is no default, or that it depends on other things.
        assert field.default is None or stated[1] == str(field.default)
    titles = re.findall(r"^(\S.*):$", out, re.MULTILINE)
    assert titles[:8] == [
        "What to do",
        "Data",
        "Your own columns",
        "Quality",
        "Weights",
        "Training",
        "A smaller model",
        "Output",
    ]
    assert titles[8].startswith("Settings of --train_cfg")


@pytest.mark.parametrize("kind", COMMANDS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_help_fits_100_columns_and_describes_every_flag(kind: type) -> None:
    assert max(map(len, flags.help_text("program.py command", kind).splitlines())) <= 100
    for flag in flags.flags_of(kind).values():
        assert flag.help, flag.name


def test_help_of_subcommands_lists_them_and_shows_one(run: Callable) -> None:
    kinds = (features.Extract, features.Similar)
    for line in ("", "--help", "-h", "--help extract"):
        status, out, err = run(line, *kinds)
        assert (status, err) == (0, "")
        assert re.findall(r"^  (\w+)  +(\w+)", out, re.MULTILINE) == [
            ("extract", "Write"),
            ("similar", "Print"),
        ]
    status, out, _ = run("similar --help", *kinds)
    assert out.startswith("usage: python prog.py similar PRETRAIN_FILE INPUT_FILE QUERY [--name")


@pytest.mark.parametrize(
    ("mode", "given", "useless"),
    [
        ("train", {}, ""),
        ("train", {"max_len": 5, "secret": 8, "settings": {"lr": 1.0}}, ""),
        ("eval", {"plots": True, "max_len": 5, "settings": {"seed": 1}}, ""),
        ("predict", {"max_len": 5, "secret": 8}, "--max_len, --secret"),
        ("predict", {"plots": False, "max_len": None, "secret": 7}, ""),
        ("predict", {"settings": {"lr": 1.0, "seed": 1}}, "--lr"),
        ("eval", {"secret": 8, "settings": {"lr": 1.0}}, "--lr"),
    ],
)
def test_a_flag_that_the_mode_has_no_use_for_is_refused(
    mode: str, given: dict, useless: str
) -> None:
    command = Sample("a", "b", mode=mode, **given)
    if not useless:
        flags.check_mode(command)
        return
    with pytest.raises(UserError) as error:
        flags.check_mode(command)
    assert str(error.value) == f"--mode {mode} has no use for {useless}; see --help"


@pytest.mark.parametrize("kind", [Classify, Squad, tag.Tag, Choose])
def test_the_modes_of_a_flag_are_modes_of_the_command(kind: type) -> None:
    known = set(kind.modes)
    for flag in flags.flags_of(kind).values():
        assert set(flag.modes) <= known


def test_a_command_runs_from_python_as_from_the_command_line(
    sample: Path, tmp_path: Path, run: Callable
) -> None:
    shape = {"model_cfg": f"{sample}/config.json", "vocab": f"{sample}/vocab.txt"}
    given = {"task": "mrpc", "data_file": f"{sample}/train.tsv", "max_len": 32, **shape}
    settings = {"total_steps": 3, "log_steps": 1}
    Classify(**given, settings=settings, save_dir=f"{tmp_path}/python").run()
    line = " ".join(f"--{name} {value}" for name, value in (given | settings).items())
    assert run(f"{line} --save_dir {tmp_path}/line", Classify)[0] == 0
    python, typed = (tmp_path / name / "metrics.jsonl" for name in ("python", "line"))
    assert python.read_text() == typed.read_text()
    with pytest.raises(UserError, match="--mode train has no use for --out"):
        Classify(out="x").run()
    with pytest.raises(UserError, match="no --data_file; see --help"):
        Classify().run()
    with pytest.raises(UserError, match="unknown key 'total_stps' \\(did you mean total_steps"):
        Choose(train_file="x", settings={"total_stps": 3}).run()


@pytest.mark.parametrize("kind", [Classify, Squad, tag.Tag, Choose, Pretrain])
def test_a_command_without_a_flag_prints_what_it_can_do(kind: type, run: Callable) -> None:
    status, out, err = run("", kind)
    assert (status, err) == (0, "")
    module = kind.__module__
    assert f"$ python {module}.py --mode eval --model_file runs/" in out or module == "squad"
    assert out.endswith("\npython prog.py --help lists the flags.\n")

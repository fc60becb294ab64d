"""The house: who may import whom, what importing costs, and that files which belong together
agree.
"""

import ast
import graphlib
import inspect
import itertools
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import checkpoint
import choose
import classify
import corpus
import embed
import features
import models
import pretrain
import rank
import squad
import tag
import tokenization
import train
from examples import architecture
from system.flags import name_of, parse

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("tasks", "pretraining", "training", "formats", "layers", "system")
ROWS = {  # a module or package imports only from rows below its own
    "commands": tuple(
        "classify squad tag choose embed rank pretrain features corpus checkpoint".split()
    ),
    "command": ("command",),
    "jobs": ("finetune", "encoder"),
    "data": ("tasks",),
    "start and loop": ("pretrained", "train", "pretraining"),
    "text and runs": ("tokenization", "training"),
    "formats": ("formats",),
    "core": ("models", "optim"),
    "ground": ("layers", "system"),
    "base": ("utils",),
}
# What loads without torch, which takes seconds: every command, and what all modules import.
LIGHT = ("tokenization", "system", "utils", "pretraining", "command", *ROWS["commands"])
LIGHT_INSIDE = [f"tasks.{name}" for name in ("metrics", "reports", "squad_metrics")]
LIGHT_INSIDE += ["tasks.superglue", "tasks.tables", "formats.vocab", "formats.tfrecords"]

FILES = {path.stem: path for path in ROOT.glob("*.py")}
for package in PACKAGES:
    for path in (ROOT / package).glob("*.py"):
        name = package if path.stem == "__init__" else f"{package}.{path.stem}"
        FILES[name] = path


def imports(name: str) -> set[str]:
    """What a module imports, anywhere in it: modules of the project, and others."""
    found = set()
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names} & FILES.keys()
            # `from tasks import tables` is a module, `from tasks import TASKS` the package itself.
            found |= inside
            if len(inside) < len(node.names):
                found.add(node.module)
    return found


IMPORTS = {name: imports(name) for name in FILES}


def reached(name: str) -> set[str]:
    """All that a module imports, and what those modules do."""
    found, left = set(), [name]
    while left:
        new = IMPORTS.get(left.pop(), set()) - found
        found |= new
        left += new
    return found


def test_modules_import_only_from_rows_below_their_own() -> None:
    height = {unit: -i for i, row in enumerate(ROWS.values()) for unit in row}
    assert set(height) == {name.split(".")[0] for name in FILES}
    for name, others in IMPORTS.items():
        unit = name.split(".")[0]
        for other in {other.split(".")[0] for other in others} & height.keys() - {unit}:
            assert height[other] < height[unit], f"{name} imports {other}"


@pytest.mark.parametrize("chart", ["README.md", "ARCHITECTURE.md"])
def test_a_chart_shows_the_rows(chart: str) -> None:
    for row, units in ROWS.items():
        line = re.search(rf"^{row}  .*(\n  .*)*", (ROOT / chart).read_text(), re.MULTILINE)
        assert line, row
        shown = set(re.findall(r"(\w+)(?:\.py|/)", line[0]))
        assert shown == set(units), row


def test_the_picture_of_the_modules_is_that_of_their_imports() -> None:
    assert architecture.svg() == (ROOT / "docs" / "architecture.svg").read_text()


def test_no_module_imports_itself_by_way_of_others() -> None:
    ours = {name: others & FILES.keys() for name, others in IMPORTS.items()}
    graphlib.TopologicalSorter(ours).prepare()  # CycleError shows the cycle


def test_the_loop_knows_no_task_and_no_model() -> None:
    ours = reached("train") & FILES.keys()
    units = {name.split(".")[0] for name in ours}
    assert units == {"training", "formats", "optim", "layers", "system", "utils"}
    assert {name for name in ours if name.startswith("formats.")} == {"formats.weights"}


@pytest.mark.parametrize("name", LIGHT_INSIDE)
def test_what_computes_no_model_needs_no_torch(name: str) -> None:
    assert "torch" not in {other.split(".")[0] for other in reached(name)}


# What is imported where it is used, since it needs what may not be there.
NEEDS = {"layers.triton_kernels": "triton"}
# With torch, each import takes seconds: all of these are one case.
HEAVY = [unit for units in ROWS.values() for unit in units if unit not in LIGHT]


@pytest.mark.parametrize("units", [[unit] for unit in LIGHT] + [HEAVY], ids=lambda u: u[0])
def test_importing_is_silent_and_light(units: list[str], tmp_path: Path) -> None:
    modules = [name for name in FILES if name.split(".")[0] in units and name not in NEEDS]
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {', '.join(modules)}; "
    code += "print('loaded:', *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stderr == ""
    assert done.stdout.startswith("loaded: ")
    loaded = set(done.stdout.split())
    assert not loaded & {
        *NEEDS,
        "tensorflow",
        "transformers",
        "tensorboardX",
        "safetensors",
        "matplotlib",
    }
    if units != HEAVY:
        assert "torch" not in loaded
    assert list(tmp_path.iterdir()) == []


def test_every_configuration_loads() -> None:
    sizes = {
        "tiny": (128, 2),
        "mini": (256, 4),
        "small": (512, 4),
        "medium": (512, 8),
        "base": (768, 12),
        "large": (1024, 24),
    }
    for name, (dim, n_layers) in sizes.items():
        cfg = models.Config.from_json(ROOT / f"config/bert_{name}.json")
        assert (cfg.dim, cfg.n_layers, cfg.dim_ff, cfg.n_heads) == (
            dim,
            n_layers,
            4 * dim,
            dim // 64,
        )
        assert cfg.vocab_size == 30522
    for name, vocab_size in (
        ("base_cased", 28996),
        ("base_multilingual_cased", 119547),
        ("base_chinese", 21128),
    ):
        cfg = models.Config.from_json(ROOT / f"config/bert_{name}.json")
        assert (cfg.dim, cfg.n_layers, cfg.vocab_size) == (768, 12, vocab_size)
    assert train.Config.from_json(ROOT / "config/train_mrpc.json") == train.Config(42, 32, 2e-5, 3)
    for file in ROOT.glob("config/*.json"):
        assert "lr" in json.loads(file.read_text()) or models.Config.from_json(file)
        assert file.name in (ROOT / "config/README.md").read_text()


def test_every_dependency_has_a_range_a_pin_and_a_reason() -> None:
    def names(file: str) -> set[str]:
        lines = (ROOT / file).read_text().splitlines()
        return {re.match(r"[\w-]+", line)[0].lower() for line in lines if re.match(r"\w", line)}

    readme = (ROOT / "README.md").read_text().lower()
    for name in names("requirements.txt"):
        assert name in names("constraints.txt")
        assert f"| {name} |" in readme
    assert names("requirements-dev.txt") <= names("constraints.txt")
    for module in ROOT.glob("*.py"):
        assert module.name in readme
    assert "make test" in (ROOT / ".ci/run").read_text()


COMMANDS = {
    "choose": choose,
    "classify": classify,
    "checkpoint": checkpoint,
    "corpus": corpus,
    "embed": embed,
    "rank": rank,
    "features": features,
    "pretrain": pretrain,
    "squad": squad,
    "tag": tag,
    "tokenization": tokenization,
}


def n_values(arguments: list[str]) -> int:
    """How many values a command line gives: words, --name=value, and a --name alone."""
    n = 0
    for word, following in itertools.pairwise([*arguments, "--"]):
        has_value = "=" in word or following.startswith("--")
        n += not word.startswith("--") or has_value
    return n


# What README and docs show is run, see test_documented.py.
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_at_the_head_of_a_module_has_flags_that_exist(name: str) -> None:
    text = (ROOT / f"{name}.py").read_text().replace("\\\n", " ")
    text = re.sub(r"[\\\[\]]", "", text)
    started = r"(?:python|torchrun(?: --\w+ \S+)+)"
    scripts = rf"(?:{'|'.join(COMMANDS)})\.py"
    lines = re.findall(rf"^ *(?:\$ )?{started} +({scripts}.*)$", text, re.MULTILINE)
    assert lines
    for script, *arguments in (shlex.split(line, comments=True) for line in lines):
        module = COMMANDS[script.removesuffix(".py")]
        # What follows a pipe is another command.
        arguments = list(itertools.takewhile(lambda word: word != "|", arguments))
        # A subcommand goes by its name; a command with a --mode needs none.
        kinds = [k for k in vars(module).values() if inspect.isclass(k) and hasattr(k, "run")]
        script_name = script.removesuffix(".py")
        named = {name_of(k): k for k in kinds if k.__module__ == script_name}
        kind = named[script_name] if arguments[0] not in named else named[arguments.pop(0)]
        values = parse(kind, arguments)
        values |= values.pop("settings", {})
        found = [v if isinstance(v, list) else [v] for v in values.values()]
        assert sum(map(len, found)) == n_values(arguments), arguments

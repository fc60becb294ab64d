"""The house: who may import whom, what importing costs, and that files which belong together agree."""

import ast
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import checkpoint
import classify
import corpus
import features
import models
import pretrain
import squad
import tokenization
import train
from cli import parse_arguments

ROOT = Path(__file__).resolve().parent.parent
ROWS = (  # a module imports only from rows below its own
    ("classify", "pretrain", "squad", "features"),
    ("finetune", "fewshot"),
    ("vectors",),
    ("start",),
    ("train",),
    ("inputs", "corpus", "instances", "runs"),
    ("questions",),
    ("tasks", "pairs"),
    ("checkpoint", "shards", "tables", "records"),
    ("models", "optim", "tokenization", "sentences", "metrics", "batches", "reports"),
    ("cli",),
    ("distributed",),
    ("utils", "linear"),
)


def test_modules_import_only_from_rows_below_their_own() -> None:
    height = {name: len(ROWS) - i for i, row in enumerate(ROWS) for name in row}
    assert set(height) == {path.stem for path in ROOT.glob("*.py")}
    for name in height:
        tree = ast.parse((ROOT / f"{name}.py").read_text())
        imported = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        imported |= {
            node.module
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module
        }
        for other in imported & set(height):
            assert height[other] < height[name], f"{name} imports {other}"


@pytest.mark.parametrize("module", [name for row in ROWS for name in row])
def test_importing_is_silent_and_light(module: str, tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {module}; print('loaded:', *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stderr == ""
    assert done.stdout.startswith("loaded: ")
    loaded = set(done.stdout.split())
    assert not loaded & {"tensorflow", "transformers", "tensorboardX", "safetensors", "fire"}
    if module in (
        "tokenization",
        "utils",
        "metrics",
        "tables",
        "records",
        "reports",
        "sentences",
        "shards",
        "batches",
        "pairs",
        "instances",
        "corpus",
    ):
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
    "classify": classify,
    "checkpoint": checkpoint,
    "corpus": corpus,
    "features": features,
    "pretrain": pretrain,
    "squad": squad,
    "tokenization": tokenization,
}


@pytest.mark.parametrize("file", ["README.md", *(f"{name}.py" for name in COMMANDS)])
def test_every_command_shown_has_flags_that_exist(file: str) -> None:
    text = (
        (ROOT / file)
        .read_text()
        .replace("\\\n", " ")
        .replace("\\", "")
        .replace("[", "")
        .replace("]", "")
    )
    started = r"(?:python|torchrun(?: --\w+ \S+)+)"
    lines = re.findall(
        rf"^ *(?:\$ )?{started} +((?:{'|'.join(COMMANDS)})\.py.*)$", text, re.MULTILINE
    )
    assert lines
    for script, *arguments in (shlex.split(line, comments=True) for line in lines):
        if "--maxlen" in arguments:  # shown for its error message
            continue
        module = COMMANDS[script.removesuffix(".py")]
        function = module.main if hasattr(module, "main") else getattr(module, arguments.pop(0))
        given = [
            v if isinstance(v, list) else [v]
            for v in parse_arguments(
                function, arguments, train.Config if hasattr(module, "main") else None
            ).values()
        ]
        assert sum(map(len, given)) == sum(not a.startswith("--") or "=" in a for a in arguments)

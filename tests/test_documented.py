"""What README and docs show, commands and Python, runs as it stands, on small files."""

import functools
import io
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import documented
import pytest
from documented import ROOT, SCRIPTS, VARIABLES

from examples import demo
from examples import sample as sample_world

pytestmark = pytest.mark.slow

PAGES = ["README.md", *(f"docs/{file.name}" for file in sorted((ROOT / "docs").glob("*.md")))]
COMMANDS = [page for page in PAGES if documented.commands(page)]
PYTHON = [page for page in PAGES if documented.snippets(page)]

# What all commands of a table have in common stands once at its head.
COMMON = {"docs/results.md": " --pretrain_file bert"}
# What a page takes for granted, since another one has shown it.
BEFORE = {
    "docs/formats.md": [
        "python classify.py --task csv --data_file reviews.csv --pretrain_file bert "
        "--save_dir runs/mine"
    ],
    "docs/scaling.md": ["python corpus.py prepare books/*.txt --vocab $VOCAB --out books-ids"],
}


@pytest.fixture(scope="session")
def world(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all files that commands name."""
    pytest.importorskip("tensorflow")
    folder = tmp_path_factory.mktemp("world")
    documented.write(folder, sample)
    return folder


def split(line: str) -> list[str]:
    """The words of a command as a shell has them, from the script on."""
    # The file that standard output goes to is the shell's matter.
    line = re.sub(r" > \S+$", "", line)
    words = shlex.split(os.path.expandvars(line), comments=True)
    # torchrun is tested elsewhere; here one process does the work of all.
    (script,) = (i for i, word in enumerate(words) if word.removesuffix(".py") in SCRIPTS)
    # A glob in quotes is the command's own.
    quoted = set(re.findall('"(.*?)"', line))
    found = []
    for word in words[script:]:
        files = (
            sorted(map(str, Path().glob(word))) if "*" in word and word not in quoted else [word]
        )
        assert files, f"{word} matches nothing"
        found += files
    return found


def status_of(line: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """What a command line ends with, in this process, which has loaded the modules already."""
    text, pipe, command = line.rpartition("| ")
    if pipe:
        piped = subprocess.run(text, shell=True, capture_output=True, check=True).stdout
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(piped)))
    words = split(command)
    # Each page gives its folders new contents, and no page lacks one of its own.
    for flag in ("--save_dir", "convert"):
        if flag in words:
            made = words[words.index(flag) + (1 if flag == "--save_dir" else 2)]
            shutil.rmtree(made, ignore_errors=True)
    monkeypatch.setattr(sys, "argv", words)
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as exit_:
        return int(exit_.code or 0)
    return 0


@pytest.fixture
def here(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of these files, in which the test runs."""
    shutil.copytree(world, tmp_path / "here", symlinks=True)
    monkeypatch.chdir(tmp_path / "here")
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    return tmp_path / "here"


@pytest.mark.parametrize("page", COMMANDS)
def test_every_command_shown_runs(
    page: str, here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    for line in (*BEFORE.get(page, []), *documented.commands(page)):
        line += COMMON.get(page, "")
        # MRPC's 3,668 rows make 345 steps, the 200 that are here 21.
        line = line.replace("model_steps_345", "model_steps_21")
        expected = 2 if "--maxlen" in line else 0  # shown for its message
        # "and 1/4, 2/4, 3/4 elsewhere", as the comment has it.
        for shard in range(4) if "--shard 0/4" in line else [0]:
            status = status_of(line.replace("--shard 0/4", f"--shard {shard}/4"), monkeypatch)
            assert status == expected, f"{line}\n{capfd.readouterr().err[-2000:]}"


@pytest.mark.parametrize("page", PYTHON)
def test_the_python_shown_runs(page: str, here: Path) -> None:
    if page == "docs/serving.md":
        for package in ("fastapi", "onnxscript", "onnxruntime", "tokenizers"):
            pytest.importorskip(package)
    for snippet in documented.snippets(page):
        if ".fit(" in snippet:  # each trains anew
            shutil.rmtree(here / "runs")
        exec(compile(snippet, page, "exec"), {})


def test_the_demo_compares_two_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    smaller = functools.partial(sample_world.write, n_train=64, n_dev=20, n_documents=20)
    monkeypatch.setattr(sample_world, "write", smaller)
    demo.demo()
    printed = capsys.readouterr().out
    for name in ("scratch", "pre-trained"):
        found = re.search(rf"  .*{name} +([\d.]+)  ([\d.]+)   mean ([\d.]+), spread", printed)
        assert found, printed
        logs = [f"runs/demo/{name}_{seed}/metrics.jsonl" for seed in demo.SEEDS]
        last = [json.loads(Path(log).read_text().splitlines()[-1]) for log in logs]
        accuracies = [line["eval_Accuracy"] for line in last]
        assert [float(number) for number in found.groups()] == pytest.approx(
            [*accuracies, sum(accuracies) / 2], abs=6e-4
        )
    # The pre-trained ones began with the weights that were pre-trained here.
    starts = [
        json.loads(Path(f"runs/demo/{name}_1/run.json").read_text())["sha256 of initial weights"]
        for name in ("scratch", "pre-trained")
    ]
    assert starts[0] != starts[1]

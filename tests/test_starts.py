"""What a start costs: no PyTorch for --help, each file read once, no weights drawn in vain."""

import collections
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

import encoder
import finetune
from formats import weights

ROOT = Path(__file__).resolve().parent.parent
RUNS = Path(__file__).parent / "old_runs"
COMMANDS = {
    "classify": [],
    "squad": [],
    "tag": [],
    "choose": [],
    "pretrain": [],
    "features": ["extract"],
    "corpus": ["prepare"],
    "checkpoint": ["convert"],
    "tokenization": ["learn"],
}
OPENED: collections.Counter[str] | None = None  # how often each file is read, while a test counts


def count(event: str, arguments: tuple) -> None:
    """Python calls this for whatever it opens."""
    is_path = event == "open" and isinstance(arguments[0], str | os.PathLike)
    if OPENED is not None and is_path and not set(str(arguments[1] or "r")) & set("wax+"):
        OPENED[os.path.abspath(arguments[0])] += 1


sys.addaudithook(count)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> collections.Counter:
    counter = collections.Counter[str]()
    monkeypatch.setattr(sys.modules[__name__], "OPENED", counter)
    return counter


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with finished runs, in which the test runs."""
    shutil.copytree(RUNS, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def call(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    script, *words = line.split()
    monkeypatch.setattr(sys, "argv", [script, *words])
    runpy.run_path(str(ROOT / script), run_name="__main__")


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(("flag", "status"), [("--help", 0), ("--xyzzy", 2)])
def test_help_and_a_wrong_flag_need_no_torch(name: str, flag: str, status: int) -> None:
    code = (
        f"import runpy, sys\nsys.argv = {[f'{name}.py', *COMMANDS[name], flag]!r}\n"
        f"try:\n    runpy.run_path({str(ROOT / name) + '.py'!r}, run_name='__main__')\n"
        "except SystemExit as exit_:\n    status = exit_.code\nelse:\n    status = 0\n"
        "print(status, 'torch' in sys.modules, file=sys.__stderr__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr.splitlines()[-1] == f"{status} False"


@pytest.mark.parametrize(
    "line",
    [
        "classify.py --task tsv --data_file pairs.tsv --text_a text_a --text_b text_b "
        "--label label --pretrain_file finished/pretrain --max_len 32 --total_steps 2 "
        "--save_dir new",
        "classify.py --mode predict --model_file finished/classify --data_file new.tsv",
        "pretrain.py --data_file corpus.txt --pretrain_file finished/classify --max_len 32 "
        "--batch_size 8 --gradient_accumulation 1 --total_steps 2 --save_dir new",
        "pretrain.py --mode eval --model_file finished/pretrain --data_file held_out.txt "
        "--save_dir finished/pretrain",
    ],
)
def test_a_vocabulary_is_read_once(
    line: str, here: Path, opened: collections.Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    call(line, monkeypatch)
    model = next(word for word in line.split() if word.startswith("finished/"))
    assert opened[str(here / model / "vocab.txt")] == 1


def test_a_corpus_and_its_text_are_read_twice_at_most(
    here: Path, opened: collections.Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = "--model_cfg model.json --vocab vocab.txt --max_len 32"
    steps = "--batch_size 8 --gradient_accumulation 1 --total_steps 2 --save_dir new"
    call(f"pretrain.py --data_file corpus.txt {shape} {steps}", monkeypatch)
    (tokens,) = here.glob("new/corpus-*/shard-0-of-1/tokens.bin")
    # Once for its digest, and once mapped into memory.
    assert opened[str(tokens)] == 2
    opened.clear()
    call(f"pretrain.py --data_file corpus.txt {shape} {steps}", monkeypatch)
    assert opened[str(tokens)] == 2
    assert opened[str(here / "vocab.txt")] == 1


def test_the_newest_checkpoint_is_not_read_to_find_the_best(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []
    monkeypatch.setattr(weights, "digest_matches", lambda file: compared.append(file.name) or True)
    saved = finetune.load("finished/classify")
    assert saved.file.name == "model_steps_4.pt"
    assert compared == ["model_steps_4.pt"]


@pytest.mark.parametrize(
    "load",
    [
        lambda: finetune.load("finished/squad"),
        lambda: encoder.load("finished/pretrain", max_len=32),
        lambda: encoder.load("finished/pretrain", head="masked_lm"),
    ],
)
def test_a_model_that_predicts_draws_no_weights(
    load: Callable, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr(nn.init, "trunc_normal_", lambda *_, **__: drawn.append(1))
    load()
    assert drawn == []

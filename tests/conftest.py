"""What the tests share: a small sample, a small model, the real data where there is some."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# Models in tests are too small to gain from threads, and threads wait for each other where cores
# are shared. PyTorch reads this when it is imported, here and in the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# What a scheduler, or who runs the tests, has set for other commands.
os.environ.pop("RANK", None)
os.environ.pop("LOCAL_RANK", None)
os.environ.pop("WORLD_SIZE", None)
os.environ.pop("BERT_TIMEOUT", None)
os.environ.pop("TQDM_DISABLE", None)

import pytest
import torch

# Before TensorFlow, which some tests import themselves; see system/packages.py.
with contextlib.suppress(ImportError):
    import triton  # noqa: F401

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import models
import train
from examples import sample as world
from system.cli import command

ROOT = Path(train.__file__).parent


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the built-in sample, small."""
    folder = tmp_path_factory.mktemp("sample")
    world.write(str(folder), n_train=200, n_dev=60, n_documents=20)
    return folder


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of real data; the test is skipped without it."""
    if not (folder := os.environ.get("BERT_DATA")):
        pytest.skip("BERT_DATA names no real data")
    return Path(folder)


@pytest.fixture
def tiny() -> models.Config:
    """A model small enough to train in a test."""
    return models.Config(vocab_size=100, dim=32, n_layers=3, n_heads=4, dim_ff=64, max_len=40)


@pytest.fixture
def padded_batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """input_ids, segment_ids and input_mask (5, 17) of examples of 17, 9, 3, 12 and 1 tokens."""
    torch.manual_seed(1)
    mask = (torch.arange(17) < torch.tensor([17, 9, 3, 12, 1])[:, None]).long()
    ids = torch.randint(1, 100, (5, 17)) * mask
    return ids, (torch.arange(17) > 5).long() * mask, mask


@pytest.fixture
def signals() -> Iterator[None]:
    """Signals as a command in the foreground has them.

    nohup has SIGHUP ignored, and a script what it starts with & SIGINT; both are inherited.
    """
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def words_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    """The words of a command line; spaces in the names of the folders of tests divide none."""
    folders = {"\0T": str(tmp_path_factory.getbasetemp()), "\0R": str(ROOT)}

    def call(line: str) -> list[str]:
        for mark, folder in folders.items():
            line = line.replace(folder, mark)
        words = line.split()
        for mark, folder in folders.items():
            words = [word.replace(mark, folder) for word in words]
        return words

    return call


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, words_of: Callable
) -> Callable:
    """Run classes as a command line: run("--max_len 8", Choose) -> (status, stdout, stderr)."""

    def call(line: str, *functions: type) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["prog.py", *words_of(line)])
        capsys.readouterr()
        try:
            command(*functions)
            status = 0
        except SystemExit as exit_:
            status = int(exit_.code or 0)
        return (status, *capsys.readouterr())

    return call

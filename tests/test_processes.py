"""Several processes are the same run as one: started by torchrun, plain and sharded, on a CPU by
gloo.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import processes
import pytest
import torch
from processes import HALF, KINDS, RUNS, STEPS

from formats.weights import read_pt
from pretraining.batches import PairBatches
from pretraining.instances import FixedInstances, prepare_instances
from pretraining.pairs import PairConfig, Pairs
from pretraining.shards import Corpus
from system.locks import locked
from tasks.encoding import Batches

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
SIZES = (2, 4)


def torchrun(n: int, *arguments: object) -> subprocess.CompletedProcess:
    """Run a script in n processes, a core each."""
    return subprocess.run(
        [*processes.TORCHRUN, "--nproc_per_node", str(n), *map(str, arguments)],
        cwd=ROOT,
        timeout=300,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def done(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The runs of 1, 2 and 4 processes."""
    root = tmp_path_factory.getbasetemp()
    # pytest-xdist's workers have folders in the session's, and share what takes minutes.
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    out = root / "processes"
    with locked(root / "processes.lock"):
        if not out.is_dir():
            train(sample, root / "processes.part")
            (root / "processes.part").rename(out)
    return {n: out / str(n) for n in (1, *SIZES)}


def train(sample: Path, out: Path) -> None:
    """Train every kind of task, in one process and in several."""
    for kind in KINDS:
        processes.train_whole(kind, sample, out / f"1/{kind}_plain")
    for n in SIZES:
        result = torchrun(n, "tests/processes.py", sample, out / str(n), out / "1")
        assert result.returncode == 0, result.stderr[-3000:]


def numbers(file: Path) -> dict[str, torch.Tensor]:
    """The parameters and the optimizer's state of a checkpoint, by name."""
    state = read_pt(file)
    assert state
    moments = {
        f"{i} {name}": tensor
        for i, values in state.get("optimizer", {}).get("state", {}).items()
        for name, tensor in values.items()
    }
    return state["model"] | moments


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.parametrize("name", ["plain", "sharded", "plain_on", "sharded_on"])
@pytest.mark.parametrize(("kind", "n"), RUNS)
def test_losses_and_parameters_are_those_of_one_process(
    done: dict[int, Path], kind: str, n: int, name: str
) -> None:
    one, several = done[1] / f"{kind}_plain", done[n] / f"{kind}_{name}"
    for step in (HALF, STEPS):
        assert (
            distance(*(numbers(folder / f"model_steps_{step}.pt") for folder in (one, several)))
            < 1e-10
        )
    expected, lines = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (one, several)
    )
    assert [line["step"] for line in lines] == [line["step"] for line in expected][
        STEPS - len(lines) :
    ]
    assert len(lines) == (
        HALF if name.endswith("on") else STEPS
    )  # those that went on have logged their own half
    for mine, theirs in zip(lines, expected[STEPS - len(lines) :], strict=True):
        for name, value in theirs.items():  # the mean number of tokens is a float32
            assert mine[name] == pytest.approx(
                value, rel=1e-6 if name == "tokens" else 0, abs=1e-10
            ), (mine["step"], name)


@pytest.mark.parametrize(("kind", "n"), RUNS)
def test_a_checkpoint_loaded_by_others_is_the_same_to_the_bit(
    done: dict[int, Path], kind: str, n: int
) -> None:
    expected = numbers(done[1] / f"{kind}_plain/model_steps_{HALF}.pt")
    for name in ("plain", "sharded"):
        again = numbers(done[n] / f"{kind}_{name}_on_again/model_steps_{HALF}.pt")
        assert again.keys() == expected.keys()
        assert all(torch.equal(again[key], expected[key]) for key in expected)


@pytest.mark.parametrize("name", ["plain", "sharded"])
@pytest.mark.parametrize(("kind", "n"), RUNS)
def test_interrupted_in_an_evaluation_they_go_on_with_it(
    done: dict[int, Path], kind: str, n: int, name: str
) -> None:
    folder = done[n] / f"{kind}_{name}_due"
    files = [f / f"model_steps_{STEPS}.pt" for f in (folder, done[1] / f"{kind}_plain")]
    assert distance(*map(numbers, files)) < 1e-10
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "eval_rows" in line] == [HALF, STEPS]


@pytest.mark.parametrize("name", ["plain", "sharded"])
@pytest.mark.parametrize("kind", KINDS)
def test_one_process_goes_on_from_several(
    done: dict[int, Path], sample: Path, tmp_path: Path, kind: str, name: str
) -> None:
    shutil.copytree(
        done[dict(RUNS)[kind]] / f"{kind}_{name}",
        tmp_path / "run",
        ignore=lambda _, files: {f"model_steps_{STEPS}.pt"},
    )
    processes.train_whole(kind, sample, tmp_path / "run")
    ends = (
        numbers(folder / f"model_steps_{STEPS}.pt")
        for folder in (tmp_path / "run", done[1] / f"{kind}_plain")
    )
    assert distance(*ends) < 1e-10


@pytest.mark.parametrize("whole_word_mask", [False, True])
def test_the_processes_parts_are_the_batch(
    sample: Path, tmp_path: Path, whole_word_mask: bool
) -> None:
    features = processes.trainer("sentences", sample, tmp_path / "run").batches
    assert isinstance(features, Batches)
    processes.trainer("pretrain", sample, tmp_path / "run")  # prepares the text
    config = PairConfig(max_len=48, whole_word_mask=whole_word_mask)
    pairs = PairBatches(Pairs(Corpus(sample / "prepared"), config, seed=3), 10, seed=3)
    for batches in (features, pairs):
        for n in (0, 5, len(batches) - 1):
            whole = batches[n]
            for w in (2, 3, 16):
                for r in range(min(w, len(whole[0]))):
                    for tensor, part in zip(whole, batches.shard(n, r, w), strict=True):
                        if tensor is None:  # what batches of other kinds have
                            assert part is None
                            continue
                        mine = tensor[r::w]
                        if mine.ndim == 2:  # fewer columns where the longest row is another's
                            assert not mine[:, part.shape[1] :].any()
                            mine = mine[:, : part.shape[1]]
                        assert torch.equal(mine, part)


def test_the_parts_of_fixed_instances_are_the_batch(tmp_path: Path) -> None:
    rng, length, n = np.random.default_rng(0), 12, 30
    mask = (np.arange(length) < rng.integers(6, length + 1, (n, 1))).astype(np.int64)
    weights = (np.arange(3) < rng.integers(1, 4, (n, 1))).astype(np.float32)
    np.savez(
        tmp_path / "x.npz",
        input_ids=rng.integers(5, 90, (n, length)) * mask,
        valid_lengths=mask.sum(1),
        segment_ids=(np.arange(length) > 3) * mask,
        masked_lm_positions=np.tile([1, 2, 4], (n, 1)),
        masked_lm_ids=rng.integers(5, 90, (n, 3)),
        masked_lm_weights=weights,
        next_sentence_labels=rng.integers(0, 2, n),
    )
    prepare_instances([tmp_path / "x.npz"], tmp_path / "prepared")
    batches = PairBatches(FixedInstances(Corpus(tmp_path / "prepared"), length), 7, seed=1)
    for r in range(3):
        expected, found = batches[1].weights[r::3], batches.shard(1, r, 3).weights
        assert torch.equal(expected[:, : found.shape[1]], found)

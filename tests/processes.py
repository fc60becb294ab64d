"""Short runs in float64 without dropout, for one process or for several that torchrun starts:

    $ torchrun --nproc_per_node 2 tests/processes.py SAMPLE OUT FROM

trains in OUT, plain and sharded; then resumes from the checkpoints that another number of processes
has left in FROM.
"""

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import kinds
import numpy as np
import torch

import models
import train
from pretraining.batches import PairBatches
from pretraining.pairs import PairConfig, Pairs
from pretraining.shards import Corpus
from pretraining.text import prepare_text
from system import distributed
from system.signals import Interrupted
from tasks import pretrain as pretraining_task
from tasks.lessons import Lesson, States, TaughtBatches
from tokenization import FullTokenizer
from training.batches import Batches
from utils import size

TORCHRUN = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--rdzv_backend",
    "c10d",
    "--rdzv_endpoint",
    "localhost:0",
]
STEPS, HALF = 20, 10
TASK_KINDS = ("sentences", "tags", "choice", "vectors", "ranking")
TAUGHT = "choice"  # the kind that learns from a teacher, too
KINDS = (*TASK_KINDS, "pretrain", "taught")
LESSON = Lesson(weight=0.6, layers=(1, 0))
# Which kinds run in how many processes; what differs between kinds shows in two.
RUNS = [(kind, 2) for kind in KINDS] + [("sentences", 4), ("pretrain", 4)]


def trainer(
    kind: str, sample: Path, folder: Path, shard: bool = False, **settings: object
) -> train.Trainer:
    """A small model of a command, and what it learns from; the last batch of an epoch has three
    rows.
    """
    cfg = train.Config(
        **{
            "batch_size": 10,
            "lr": 3e-3,
            "total_steps": STEPS,
            "save_steps": HALF,
            "log_steps": 1,
            "keep_checkpoints": 0,
            "gradient_accumulation": 2,
            **settings,
        }
    )
    vocab = sample / "vocab.txt"
    torch.manual_seed(0)
    shape = models.Config(len(vocab.read_text().split()), 32, 2, 2, 64, 0.0, 0.0, 64)
    model: models.BertModel
    batches: Batches
    if kind in TASK_KINDS or kind == "taught":
        task = kinds.TASK_OF[TAUGHT if kind == "taught" else kind]
        # Each process writes its own, so that none reads what another has written in part.
        own = folder.parent / f"data{distributed.rank()}"
        own.mkdir(parents=True, exist_ok=True)
        file = kinds.write(TAUGHT if kind == "taught" else kind, sample, own)
        task, data = task.load_training(file, FullTokenizer(vocab))
        model, batches = task.model(shape), data.features.batches(10, 1)
        if kind == "taught":
            teacher = task.model(shape).double().eval()
            batches = taught(task, data, teacher)
    else:
        prepare_text([sample / "corpus.txt"], vocab, sample / "prepared")
        pairs = Pairs(Corpus(sample / "prepared"), PairConfig(max_len=48), seed=1)
        model, batches = models.PretrainModel(shape), PairBatches(pairs, 10, seed=1)
    return train.Trainer(cfg, model.double(), batches, folder, shard=shard)


def taught(task: Any, data: Any, teacher: Any) -> Any:
    """Batches with a teacher's outputs and hidden states; every third row has no label."""
    states = States(teacher, LESSON.layers, training=False)

    def hidden_states(model: Any, batch: Any) -> torch.Tensor:
        model(**batch.inputs)
        return states.take()

    def computed(features: Any, get: Any) -> Any:
        every = features.batches(100)
        order = np.argsort(np.concatenate([every.rows(n) for n in range(len(every))]))
        with torch.no_grad():
            found = [get(teacher, every[n]) for n in range(len(every))]
        return torch.cat(found)[order].numpy()

    outputs = computed(data.features, task.taught)
    hidden = computed(data.features.ungrouped, hidden_states)
    n_labelled = len(data.features) * 2 // 3
    return TaughtBatches(data.features.batches(10, 1), outputs, hidden, n_labelled)


def get_loss(kind: str, model: Any) -> train.GetLoss | train.WholeLoss:
    """What a Trainer of the kind takes, for the model that it trains."""
    if kind == "taught":
        return LESSON.loss(kinds.TASK_OF[TAUGHT], model)
    return kinds.TASK_OF[kind].loss if kind in TASK_KINDS else exact_loss


def exact_loss(model: torch.nn.Module, batch: train.Batch) -> tuple[torch.Tensor, dict]:
    """Pre-training's, its weights in float64 as in Google's formula."""
    return pretraining_task.get_loss(model, batch._replace(weights=batch.weights.double()))


def train_whole(kind: str, sample: Path, folder: Path, shard: bool = False) -> None:
    """From the first step to the last."""
    one = trainer(kind, sample, folder, shard)
    one.train(get_loss(kind, one.model))


def resume(kind: str, sample: Path, start: Path, folder: Path, shard: bool) -> None:
    """From another run's checkpoint in the middle: load it, save it again at once, then train to
    the end.
    """
    one = trainer(kind, sample, folder, shard)
    if not distributed.rank():
        folder.mkdir(parents=True)
        shutil.copy(start / f"model_steps_{HALF}.pt", folder)
    distributed.wait_for_all()

    loss = get_loss(kind, one.model)

    def terminate(model: torch.nn.Module, batch: train.Batch) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return (loss.outputs if isinstance(loss, train.WholeLoss) else loss)(model, batch)

    whole = isinstance(loss, train.WholeLoss)
    try:
        one.train(loss._replace(outputs=terminate) if whole else terminate)
    except Interrupted:
        if not distributed.rank():
            shutil.copytree(folder, f"{folder}_again")
    distributed.wait_for_all()
    train_whole(kind, sample, folder, shard)


def interrupt_evaluation(kind: str, sample: Path, folder: Path, shard: bool) -> None:
    """A signal comes in the first evaluation; resuming begins with that one."""

    def outputs(model: torch.nn.Module, batch: train.Batch) -> torch.Tensor:
        if kind == "pretrain":
            model(*batch[:4])
            return batch.input_ids.sum(1)
        if kind == "taught":
            return kinds.TASK_OF[TAUGHT].outputs(model, batch.batch)
        return kinds.TASK_OF[kind].outputs(model, batch)

    def check(one: train.Trainer, interrupt: bool) -> dict[str, float]:
        if interrupt:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"rows": float(len(one.predict(one.batches, outputs, bar=False)))}

    one, two = (trainer(kind, sample, folder, shard) for _ in range(2))
    try:
        one.train(get_loss(kind, one.model), train.Evaluation(lambda: check(one, True)))
    except Interrupted:
        two.train(get_loss(kind, two.model), train.Evaluation(lambda: check(two, False)))


def gloo_threads() -> int:
    """How many threads of this process may still drop a tensor of an exchange."""
    n = 0
    for file in Path("/proc/self/task").glob("*/comm"):
        with contextlib.suppress(OSError):  # it has ended
            n += file.read_text().strip() == "pt_gloo_runloop"
    return n


if __name__ == "__main__":
    sample, out, start = map(Path, sys.argv[1:])
    distributed.start()
    for kind in [kind for kind, n in RUNS if n == size()]:
        for name, shard in [("plain", False)] + [("sharded", True)] * (size() > 1):
            train_whole(kind, sample, out / f"{kind}_{name}", shard)
            resume(kind, sample, start / f"{kind}_plain", out / f"{kind}_{name}_on", shard)
            interrupt_evaluation(kind, sample, out / f"{kind}_{name}_due", shard)
    distributed.end()
    until = time.monotonic() + 10  # the system still lists a thread that has just ended
    while gloo_threads():
        assert time.monotonic() < until, (
            "a thread of gloo is left, which may abort the end of Python"
        )
        time.sleep(0.01)

"""Processes against threads: pre-training in one process with all cores, and in as many processes
with a core each.

    $ BERT_DATA=... python benchmarks/scaling.py [--shape mini] [--batch_size 32] [--steps 6] \\
          [--processes 2]

The steps of the Trainer, on the same batches, dropout included, float32; the median of `steps`
after two. What is lost to communication is told by the same processes with gradients kept to
themselves; what they exchange alone, and how long that takes by itself, is in rows of their own. On
GPUs `--processes` is how many there are, and one process is one GPU.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from common import ROOT, as_command, data, report, seconds

import models
import train
from pretraining.batches import PairBatches
from pretraining.pairs import PairConfig, Pairs
from pretraining.shards import Corpus
from pretraining.text import prepare_text
from system import distributed
from system.cli import command
from system.progress import progress
from tasks import pretrain as pretraining_task
from utils import rank, size

SHAPES = {"mini": (256, 4, 4), "base": (768, 12, 12), "large": (1024, 24, 16)}


def worker(how: str, corpus: str, shape: str, batch_size: int, steps: int) -> None:
    """Time steps in this process, one of several perhaps; the first prints."""
    distributed.start()
    dim, n_layers, n_heads = SHAPES[shape]
    torch.manual_seed(0)
    model = models.PretrainModel(
        models.Config(dim=dim, n_layers=n_layers, n_heads=n_heads, dim_ff=4 * dim, max_len=128)
    )
    batches = PairBatches(Pairs(Corpus(corpus), PairConfig(max_len=128)), batch_size, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        trainer = train.Trainer(
            train.Config(batch_size=batch_size, total_steps=10**6, log_steps=10**6),
            model,
            batches,
            folder,
            shard=how == "sharded",
        )
        trainer.wrapped.train()
        replicas = trainer.replicate(pretraining_task.get_loss)
        if how == "apart":  # gradients stay where they are
            replicas = trainer.wrapped
        trainer.signals = train.Signals()
        trainer.log = train.MetricsLog(Path(folder), 0, False, None, {})
        with progress(shown=False) as bar:

            def step() -> None:
                trainer.update(replicas, pretraining_task.get_loss, bar)

            for _ in range(2):
                step()
            times, tokens = [], []
            for _ in range(steps):
                tokens.append(int(batches[trainer.state.step].input_mask.sum()))
                times.append(seconds(step) / tokens[-1])
    exchange = words = 0.0
    if size() > 1:
        n = sum(p.numel() for p in model.parameters()) if how != "sharded" else 1
        gradients = torch.zeros(n, device=trainer.device)
        exchange = statistics.median(
            seconds(lambda: distributed.total(gradients)) for _ in range(7)
        )
        words = statistics.median(seconds(lambda: distributed.maximum(0)) for _ in range(101))
    if rank() == 0:
        print(
            json.dumps(
                {
                    "rate": 1 / statistics.median(times),
                    "tokens": statistics.mean(tokens),
                    "exchange": exchange,
                    "words": words,
                    "parameters": sum(p.numel() for p in model.parameters()),
                }
            )
        )


def measure(how: str, n: int, threads: int, *arguments: object) -> dict[str, float]:
    """What `worker` prints, started in n processes."""
    words = [str(ROOT / "benchmarks" / "scaling.py"), how, *map(str, arguments)]
    start = (
        [sys.executable]
        if n == 1
        else [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc_per_node",
            str(n),
            "--rdzv_backend",
            "c10d",
            "--rdzv_endpoint",
            "localhost:0",
        ]
    )
    done = subprocess.run(
        [*start, *words],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        text=True,
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


def run(
    shape: str = "mini", batch_size: int = 32, steps: int = 6, processes: int = 2, rounds: int = 3
) -> None:
    """Measure.

    Args:
        shape: mini, base or large.
        batch_size: instances of a step, all processes together.
        steps: timed steps of each round.
        processes: how many share the machine.
        rounds: how often all are measured, one after the other; the medians count.
    """
    gpu = torch.cuda.is_available()
    cores = len(os.sched_getaffinity(0))
    cases = {
        "one process": ("plain", 1, cores),
        f"{processes} processes": ("plain", processes, cores // processes),
        f"{processes} processes, sharded": ("sharded", processes, cores // processes),
        f"{processes} processes, gradients not exchanged": ("apart", processes, cores // processes),
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in cases}
    with tempfile.TemporaryDirectory() as folder:
        prepare_text(
            [data("corpus/wikipedia.txt")],
            data("vocab/bert-base-uncased/vocab.txt"),
            Path(folder),
            2,
            language="en",
        )
        for _ in range(rounds):
            for name, (how, n, threads) in cases.items():
                found[name].append(
                    measure(how, n, max(1, threads), folder, shape, batch_size, steps)
                )
                print(name, found[name][-1], flush=True)
    rate = {name: statistics.median(r["rate"] for r in results) for name, results in found.items()}
    one, plain, sharded, apart = rate.values()
    several = found[f"{processes} processes"]
    exchange, words, tokens, parameters = (
        statistics.median(r[key] for r in several)
        for key in ("exchange", "words", "tokens", "parameters")
    )
    table = [
        "| | real tokens/s | times one process |",
        "|---|---|---|",
        *(f"| {name} | {value:.0f} | {value / one:.2f} |" for name, value in rate.items()),
        "",
        f"Lost to communication: {1 - plain / apart:.1%} of a step ({tokens:.0f} tokens), sharded "
        f"{1 - sharded / apart:.1%}. By itself, summing {parameters / 1e6:.1f} M gradients "
        f"({4e-6 * parameters:.0f} MB) takes {1e3 * exchange:.0f} ms, "
        f"{exchange * plain / tokens:.1%} of a step; asking whether a signal has come "
        f"{1e6 * words:.0f} us.",
    ]
    report(
        f"scaling_{'gpu' if gpu else 'cpu'}_{shape}",
        f"Pre-training {shape} at 128, batches of {batch_size}, in {processes} processes",
        "\n".join(table),
    )


if __name__ == "__main__":
    if sys.argv[1:2] and not sys.argv[1].startswith("-"):
        worker(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
        distributed.end()  # when nothing holds a sharded model any more
    else:
        command(as_command(run))

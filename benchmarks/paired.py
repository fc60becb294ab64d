"""Accuracy beside transformers: both sides fine-tuned from the same start on the same batches.

    $ BERT_DATA=... python benchmarks/paired.py --task MRPC [--seeds 10] [--dtype bf16] \\
          [--weights FOLDER] [--total_steps 345]

A pair has the same pretrained weights, the same first weights of the head, and the same rows in
the same batches in the same order, all as they follow from its seed; the recipe is that of
benchmarks/accuracy.py. What differs is the code that computes, and which elements dropout drops.
The mean difference of the pairs comes with its 95% interval, of the t distribution. Pairs are kept
in a file a line each, so that a benchmark that was stopped goes on.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from accuracy import TASKS, our_run, their_metrics, their_step
from common import as_command, data, report
from peers import named, quiet
from torch import nn

import finetune
import models
import train
from system.cli import command
from tasks.encoding import Batch
from training import devices
from training.batches import move
from utils import UserError

LR = 5e-5
SIDES = ("ours", "transformers")


def pair(
    task: str, seed: int, dtype: str, weights: Path, total_steps: int | None
) -> dict[str, float]:
    """The metric of each side, and the minutes that both took."""
    start, metric = time.perf_counter(), TASKS[task][2]
    run = our_run(task, seed, LR, dtype, weights, total_steps)
    with tempfile.TemporaryDirectory() as folder:
        found = run.fit(folder, data_parallel=False).last
    values = {"ours": found[metric], "transformers": theirs(task, run, dtype, weights)[metric]}
    return values | {"minutes": (time.perf_counter() - start) / 60}


def theirs(task: str, run: finetune.Run, dtype: str, weights: Path) -> dict[str, float]:
    """Metrics on dev of transformers, with the start and the batches of a run of ours."""
    cfg, device = run.cfg, devices.get_device()
    model = their_model(run.model(), weights).to(device).train()
    batches = run.data.features.batches(cfg.batch_size, cfg.seed)
    total = cfg.total_steps or batches.first(cfg.n_epochs)
    step = their_step(model, LR, total, device.type, dtype)
    for n in range(total):
        train.seed_step(cfg.seed, n)
        step(their_batch(batches[n], device))
    dev = run.eval_data[0].features.batches(cfg.batch_size)
    inputs: Iterable = (their_batch(dev[n], device) for n in range(len(dev)))
    return their_metrics(task, model, inputs, device.type, dtype)


def their_model(ours: models.BertModel, weights: Path) -> nn.Module:
    """The model of transformers, whose pooler and classifier start as ours do."""
    from transformers import BertForSequenceClassification

    n_labels = len(ours.classifier.bias)
    with quiet():
        model = BertForSequenceClassification.from_pretrained(weights, num_labels=n_labels)
    # Some weights have no pooler: then that is drawn at random as well.
    model.bert.pooler.dense.load_state_dict(ours.pooler.dense.state_dict())
    model.classifier.load_state_dict(ours.classifier.state_dict())
    return model


def their_batch(batch: Batch, device: torch.device) -> dict[str, torch.Tensor]:
    """A batch of ours under their names; a number that is learned is a float."""
    labels = batch.labels.float() if batch.labels.is_floating_point() else batch.labels
    inputs = named(batch) | {"labels": labels}
    return {name: move(tensor, device) for name, tensor in inputs.items()}


def interval(differences: list[float]) -> tuple[float, float]:
    """The mean, and how far its 95% interval reaches to each side (Student's t).

    interval([1.0, 3.0]) -> (2.0, 12.706...)
    """
    from scipy import stats

    n = len(differences)
    width = stats.t.ppf(0.975, n - 1) * statistics.stdev(differences) / n**0.5
    return statistics.mean(differences), float(width)


def table(pairs: dict[int, dict[str, Any]], metric: str) -> str:
    """A row for each seed, and one for their mean."""
    lines = [f"| seed | ours, {metric} | transformers | difference | minutes |"]
    lines.append("|---|---|---|---|---|")
    differences = []
    for seed, row in pairs.items():
        differences.append(row["ours"] - row["transformers"])
        cells = [f"{seed}", *(f"{row[side]:.4f}" for side in SIDES), f"{differences[-1]:+.4f}"]
        lines.append(f"| {' | '.join(cells)} | {row['minutes']:.1f} |")
    mean, width = interval(differences)
    means = [statistics.mean(row[side] for row in pairs.values()) for side in SIDES]
    cells = [*(f"{value:.4f}" for value in means), f"{mean:+.4f} ± {width:.4f}"]
    minutes = statistics.mean(row["minutes"] for row in pairs.values())
    lines.append(f"| mean, 95% interval | {' | '.join(cells)} | {minutes:.1f} |")
    return "\n".join(lines)


def run(
    task: str = "MRPC",
    seeds: int = 10,
    dtype: str = "fp32",
    weights: str | None = None,
    total_steps: int | None = None,
    runs: str = "runs/paired.jsonl",
) -> None:
    """Train both sides with every seed and compare them pair by pair.

    Args:
        task: of RTE, MRPC, CoLA, STS-B.
        seeds: how many, from 0; at least 2.
        dtype: fp32 or bf16.
        weights: folder of a BERT as transformers reads it; None: minilm of the data.
        total_steps: updates of each run; None: three epochs.
        runs: the file that keeps what was run already.
    """
    if task not in TASKS:
        raise UserError(f"task={task!r}; expected one of {', '.join(TASKS)}")
    if seeds < 2:
        raise UserError(f"seeds={seeds}; an interval needs at least 2")
    folder = Path(weights) if weights else data("minilm")
    # What makes two pairs of a seed the same.
    key = {"task": task, "dtype": dtype, "weights": str(folder), "total_steps": total_steps}
    file, pairs = Path(runs), dict[int, dict[str, Any]]()
    file.parent.mkdir(parents=True, exist_ok=True)
    for line in file.read_text().splitlines() if file.is_file() else []:
        row = json.loads(line)
        if row.items() >= key.items() and row["seed"] < seeds:
            pairs[row["seed"]] = row
    for seed in range(seeds):
        if seed not in pairs:
            pairs[seed] = key | {"seed": seed} | pair(task, seed, dtype, folder, total_steps)
            with open(file, "a") as f:
                f.write(json.dumps(pairs[seed]) + "\n")
        shown = ", ".join(f"{side} {pairs[seed][side]:.4f}" for side in SIDES)
        print(f"{task}, seed {seed}: {shown}", flush=True)
    steps = f"{total_steps} steps" if total_steps else "3 epochs"
    report(
        f"paired_{task}_{dtype}",
        f"{task} beside transformers, {folder.name}, {dtype}, {steps}, {seeds} pairs",
        table(dict(sorted(pairs.items())), TASKS[task][2]),
    )


if __name__ == "__main__":
    command(as_command(run))

"""One class with 95% of the rows: what class weights and a threshold change.

    $ BERT_DATA=... python benchmarks/imbalance.py [--seeds 3] [--n_epochs 2] [--max_len 128]

IMDB reviews, 1,900 negative and 100 positive ones to train on, 950 and 50 of the test part to
evaluate; minilm, config/train_own.json at a rate of 5e-5. A tenth of the training rows is held out,
on which the threshold is chosen: below it a review is left unanswered.
"""

import csv
import dataclasses
import statistics
import tempfile
from typing import Any

import numpy as np
from common import as_command, data, report
from peers import quiet

import finetune
import train
from layers import kernels
from system.cli import command
from tasks import TASKS, own_task, quality
from tasks.metrics import Outcome, measure

WAYS: dict[str, dict[str, str]] = {"as it is": {}, "balanced": {"class_weights": "balanced"}}
METRICS = ("Macro-F1", "F1:pos", "Accuracy", "AUC")


def rows_of(name: str, n: dict[str, int]) -> list[dict[str, str]]:
    """The first reviews of each label."""
    found: dict[str, list[dict[str, str]]] = {label: [] for label in n}
    with open(data(f"csv/{name}"), newline="", encoding="utf-8") as f:
        for text, label in csv.reader(f):
            if len(found[label]) < n[label]:
                found[label].append({"text": text, "label": label})
    return [row for rows in found.values() for row in rows]


def fit(seed: int, settings: dict[str, Any], way: dict[str, str]) -> dict[str, float]:
    """The metrics of one run on the test rows; of those that it answers, too."""
    dtype = "bf16" if kernels.has_bf16_products() else "fp32"
    task = own_task(TASKS["csv"], metrics=",".join(METRICS), **way)
    task = dataclasses.replace(task, max_len=settings.pop("max_len"))
    cfg = train.Config.from_json(task.train_cfg, lr=5e-5, seed=seed, dtype=dtype, **settings)
    rows = rows_of("imdb_train.csv", {"neg": 1900, "pos": 100})
    with quiet(), tempfile.TemporaryDirectory() as folder:
        run = finetune.prepare(task, rows, data("minilm"), cfg=cfg, dev_split=0.1)
        saved = finetune.load(run.fit(folder).best_file)
        finetune.decide(saved, run.eval_data[0], threshold=True, calibrate=False)
        test = saved.load(rows_of("imdb_test.csv", {"neg": 950, "pos": 50}))
        outcome = saved.task.outcome(test, saved.outputs(test))
    found = {name: quality.silent(name, outcome) for name in METRICS}
    said = np.flatnonzero(outcome.probabilities.max(1) >= saved.task.thresholds[0])
    answered: Outcome = outcome.take(said)
    found["answered"] = len(said) / len(outcome.labels)
    found["Accuracy of these"] = measure("Accuracy", answered)
    return found


def run(seeds: int = 3, n_epochs: int = 2, max_len: int = 128) -> None:
    """Measure.

    Args:
        seeds: runs of each way.
        n_epochs: of each run.
        max_len: tokens of a review.
    """
    lines = []
    for name, way in WAYS.items():
        settings = {"n_epochs": n_epochs, "max_len": max_len}
        found = [fit(seed, dict(settings), way) for seed in range(seeds)]
        cells = []
        for metric in found[0]:
            values = [one[metric] for one in found]
            cells.append(f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}")
        if not lines:
            lines = [f"| class weights | {' | '.join(found[0])} |", "|---" * (len(cells) + 1) + "|"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    title = f"IMDB reviews at 95:5, minilm, {n_epochs} epochs, {seeds} seeds: mean ± deviation"
    report("imbalance", title, "\n".join(lines))


if __name__ == "__main__":
    command(as_command(run))

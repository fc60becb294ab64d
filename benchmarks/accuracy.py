"""Dev results of GLUE's small tasks against transformers with the same recipe: weights, batch 32,
rate, 3 epochs, linear schedule with a tenth of warm-up, Adam with bias correction, batches of
similar length, the same seeds.

    $ BERT_DATA=... python benchmarks/accuracy.py [--tasks RTE,MRPC,CoLA,STS-B] [--seeds 3] \\
          [--lr 5e-5] [--dtype bf16]

Ours runs finetune.py; transformers a plain loop around its model and tokenizer, its rows read and
its metrics computed without a line of ours. The initial classifier, the order and dropout differ
between seeds and sides, as they do between any two runs. Runs are kept in a file a line each, so
that a benchmark that was stopped goes on.
"""

import dataclasses
import itertools
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from common import as_command, data, report
from torch import nn

import finetune
import train
from system.cli import command
from tasks.sentences import get_task
from training import devices

# columns of texts and label; labels, none: a number; the metric compared
TASKS = {
    "RTE": ((1, 2, 3), ("entailment", "not_entailment"), "Accuracy"),
    "MRPC": ((3, 4, 0), ("0", "1"), "Accuracy"),
    "CoLA": ((3, None, 1), ("0", "1"), "Matthews"),
    "STS-B": ((7, 8, 9), None, "Pearson"),
}
EPOCHS, BATCH, MAX_LEN, WARMUP = 3, 32, 128, 0.1


def our_run(
    task: str, seed: int, lr: float, dtype: str, weights: Path, total_steps: int | None = None
) -> finetune.Run:
    """One run of ours, with the recipe of transformers."""
    cfg = train.Config(
        seed=seed,
        lr=lr,
        dtype=dtype,
        schedule="linear",
        bias_correction=True,
        save_steps=10**6,
        n_epochs=EPOCHS,
        total_steps=total_steps,
        batch_size=BATCH,
        warmup=WARMUP,
        keep_checkpoints=1,
    )
    train_file, dev_file = (data(f"glue/{task}/{split}.tsv") for split in ("train", "dev"))
    kind = dataclasses.replace(get_task(task), max_len=MAX_LEN)
    return finetune.prepare(kind, train_file, weights, [dev_file], cfg)


def ours(task: str, seed: int, lr: float, dtype: str) -> dict[str, float]:
    """Metrics on dev of one run of ours."""
    with tempfile.TemporaryDirectory() as folder:
        return our_run(task, seed, lr, dtype, data("minilm")).fit(folder).last


def their_rows(task: str, split: str, tokenizer) -> list:
    """Token ids, segment ids and label of every row."""
    (a, b, y), labels, _ = TASKS[task]
    lines = [
        line for line in data(f"glue/{task}/{split}.tsv").read_text("utf-8-sig").split("\n") if line
    ]
    fields = [line.split("\t") for line in lines[task != "CoLA" :]]
    encoded = tokenizer(
        [f[a] for f in fields],
        None if b is None else [f[b] for f in fields],
        truncation=True,
        max_length=MAX_LEN,
    )
    answers = [float(f[y]) if labels is None else labels.index(f[y]) for f in fields]
    return list(zip(encoded["input_ids"], encoded["token_type_ids"], answers, strict=True))


def their_batches(rows: list, seed: int, device: str) -> Iterator[dict[str, torch.Tensor]]:
    """Shuffled, of similar length within 50 batches as with group_by_length, padded."""
    rng, order = random.Random(seed), rows[:]
    rng.shuffle(order)
    pool = 50 * BATCH
    order = [
        row
        for i in range(0, len(order), pool)
        for row in sorted(order[i : i + pool], key=lambda row: -len(row[0]))
    ]
    batches = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
    rng.shuffle(batches)
    for batch in batches:
        width = max(len(row[0]) for row in batch)
        columns = [
            [row[0] for row in batch],
            [row[1] for row in batch],
            [[1] * len(row[0]) for row in batch],
        ]
        padded = [
            torch.tensor([values + [0] * (width - len(values)) for values in column], device=device)
            for column in columns
        ]
        yield {
            "input_ids": padded[0],
            "token_type_ids": padded[1],
            "attention_mask": padded[2],
            "labels": torch.tensor([row[2] for row in batch], device=device),
        }


def theirs(task: str, seed: int, lr: float, dtype: str) -> dict[str, float]:
    """Metrics on dev of one run of transformers."""
    from transformers import AutoTokenizer, BertForSequenceClassification

    torch.manual_seed(seed)
    device, labels = str(devices.get_device()), TASKS[task][1]
    tokenizer = AutoTokenizer.from_pretrained(data("minilm"))
    model = BertForSequenceClassification.from_pretrained(
        data("minilm"), num_labels=len(labels or "1")
    ).to(device)
    rows, dev = their_rows(task, "train", tokenizer), their_rows(task, "dev", tokenizer)
    step = their_step(model, lr, EPOCHS * -(-len(rows) // BATCH), device, dtype)
    model.train()
    for epoch in range(EPOCHS):
        for batch in their_batches(rows, 1000 * seed + epoch, device):
            step(batch)
    return their_metrics(task, model, their_batches(dev, 0, device), device, dtype)


def their_step(
    model: nn.Module, lr: float, total: int, device: str, dtype: str
) -> Callable[[dict[str, torch.Tensor]], None]:
    """An update of transformers with a batch."""
    plain = ("bias", "LayerNorm.weight")
    groups = [
        {
            "params": [p for n, p in model.named_parameters() if n.endswith(plain) == exempt],
            "weight_decay": 0.0 if exempt else 0.01,
        }
        for exempt in (False, True)
    ]
    optimizer = torch.optim.AdamW(groups, lr, eps=1e-6, fused=True)
    warm, steps = int(WARMUP * total), itertools.count()

    def step(batch: dict[str, torch.Tensor]) -> None:
        n = next(steps)
        for group in optimizer.param_groups:
            group["lr"] = lr * (n / warm if n < warm else (total - n) / (total - warm))
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bf16"):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def their_metrics(
    task: str, model: nn.Module, batches: Iterable[dict[str, torch.Tensor]], device: str, dtype: str
) -> dict[str, float]:
    """Metrics of transformers on the batches of dev."""
    from scipy import stats
    from sklearn import metrics

    model.eval()
    autocast = torch.autocast(device, torch.bfloat16, enabled=dtype == "bf16")
    with torch.inference_mode(), autocast:
        found = [(model(**batch).logits.float().cpu(), batch["labels"].cpu()) for batch in batches]
    scores, right = (torch.cat(part).numpy() for part in zip(*found, strict=True))
    if TASKS[task][1] is None:
        return {
            "Pearson": float(stats.pearsonr(scores[:, 0], right)[0]),
            "Spearman": float(stats.spearmanr(scores[:, 0], right)[0]),
        }
    predicted = scores.argmax(1)
    return {
        "Accuracy": float((predicted == right).mean()),
        "F1": float(metrics.f1_score(right, predicted)),
        "Matthews": float(metrics.matthews_corrcoef(right, predicted)),
    }


def run(
    tasks: str = "RTE,MRPC,CoLA,STS-B",
    seeds: int = 3,
    lr: float = 5e-5,
    dtype: str = "bf16",
    sides: str = "ours,transformers",
    runs: str = "runs/accuracy.jsonl",
) -> None:
    """Train both sides with every seed and compare the means.

    Args:
        tasks: of RTE, MRPC, CoLA, STS-B.
        seeds: how many, from 0.
        lr: learning rate.
        dtype: fp32 or bf16.
        sides: of ours, transformers.
        runs: the file that keeps what was run already.
    """
    file, done = Path(runs), {}
    file.parent.mkdir(parents=True, exist_ok=True)
    for line in file.read_text().splitlines() if file.is_file() else []:
        row = json.loads(line)
        done[row["side"], row["task"], row["seed"]] = row
    for side in sides.split(","):
        for task in tasks.split(","):
            for seed in range(seeds):
                if (side, task, seed) not in done:
                    start = time.perf_counter()
                    row = {
                        "side": side,
                        "task": task,
                        "seed": seed,
                        **(ours if side == "ours" else theirs)(task, seed, lr, dtype),
                        "minutes": (time.perf_counter() - start) / 60,
                    }
                    done[side, task, seed] = row
                    with open(file, "a") as f:
                        f.write(json.dumps(row) + "\n")
    table = [
        "| task, metric | side | mean | standard deviation | each | minutes a run |",
        "|---|---|---|---|---|---|",
    ]
    for task in tasks.split(","):
        metric = TASKS[task][2]
        for side in ("ours", "transformers"):
            rows = [row for (s, t, _), row in sorted(done.items()) if (s, t) == (side, task)]
            if len(rows) > 1:
                values = [row[metric] for row in rows]
                table.append(
                    f"| {task}, {metric} | {side} | {statistics.mean(values):.4f} | "
                    f"{statistics.stdev(values):.4f} | {', '.join(f'{x:.4f}' for x in values)} | "
                    f"{statistics.mean(row['minutes'] for row in rows):.1f} |"
                )
    report(
        f"accuracy_glue_{dtype}",
        f"Dev results, minilm, {seeds} seeds, rate {lr}, {dtype}",
        "\n".join(table),
    )


if __name__ == "__main__":
    command(as_command(run))

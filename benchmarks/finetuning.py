"""Fine-tuning speed on MRPC against transformers, both in one run, step by step in turn.

    $ BERT_DATA=... python benchmarks/finetuning.py [--models minilm,base] [--dtypes fp32,bf16] \\
          [--steps 20] [--compiled]

Same weights' shape, same rows, batch 32, max_len 128. transformers has its best settings: dynamic
padding, SDPA, fused AdamW; its group_by_length batches, which its Trainer has switched off, are a
row of their own. The share of the matrix rate is 6 x (parameters outside the embeddings) x (real
tokens) a second over the measured rate of F.linear: the useful work (above 100% where kernels.py
multiplies faster than that). Our last block computes only what the classifier reads, so less is
really done: the column beside it. transformers does more than the useful work, on padding.
"""

import dataclasses
import random

import torch
import torch.nn.functional as F
from common import as_command, data, median_seconds, report, seconds

import models
from optim import BertAdam, parameter_groups
from system.cli import command
from tasks.encoding import Batches
from tasks.sentences import TASKS
from tokenization import FullTokenizer
from training import inference
from training.batches import prepare

BATCH, MAX_LEN = 32, 128
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def matrix_rate(dtype: torch.dtype, device: str) -> float:
    """FLOP a second of a matrix product of BERT-base's size."""
    x, w = (
        torch.randn(2048, 768, device=device, dtype=dtype),
        torch.randn(3072, 768, device=device, dtype=dtype),
    )
    return 2 * 2048 * 768 * 3072 / median_seconds(lambda: F.linear(x, w), 31)


def their_batches(
    rows: list[tuple[list[int], int, int]], seed: int, by_length: bool
) -> list[dict[str, torch.Tensor]]:
    """The batches of transformers: shuffled or, as its group_by_length does, sorted within groups
    of 50 batches.
    """
    order = rows[:]
    random.Random(seed).shuffle(order)
    if by_length:
        size = BATCH * 50
        order = [
            row
            for i in range(0, len(order), size)
            for row in sorted(order[i : i + size], key=lambda r: -len(r[0]))
        ]
    batches = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
    if by_length:
        random.Random(seed).shuffle(batches)
    out = []
    for batch in batches:
        width = max(len(ids) for ids, _, _ in batch)
        out.append(
            {
                "input_ids": torch.tensor([ids + [0] * (width - len(ids)) for ids, _, _ in batch]),
                "token_type_ids": torch.tensor(
                    [
                        [int(i >= second) for i in range(len(ids))] + [0] * (width - len(ids))
                        for ids, second, _ in batch
                    ]
                ),
                "attention_mask": torch.tensor(
                    [[1] * len(ids) + [0] * (width - len(ids)) for ids, _, _ in batch]
                ),
                "labels": torch.tensor([label for _, _, label in batch]),
            }
        )
    return out


def run(
    models: str = "minilm,base", dtypes: str = "fp32,bf16", steps: int = 20, compiled: bool = False
) -> None:
    """Measure.

    Args:
        models: of minilm, base.
        dtypes: of fp32, bf16.
        steps: timed steps of each.
        compiled: with torch.compile on our side too, as rows of their own.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = FullTokenizer(data("vocab/bert-base-uncased/vocab.txt"))
    task = dataclasses.replace(TASKS["mrpc"], max_len=MAX_LEN)
    features = task.load(data("glue/MRPC/train.tsv"), tokenizer).features
    ours = Batches(features, BATCH, seed=42)
    rows = [
        (features.ids[a:b].tolist(), int(second), int(label))
        for a, b, second, label in zip(
            features.starts[:-1], features.starts[1:], features.second, features.labels, strict=True
        )
    ]
    theirs = {
        by_length: [b for b in their_batches(rows, 42, by_length) if len(b["labels"]) == BATCH]
        for by_length in (False, True)
    }
    table = [
        "| model | dtype | side | examples/s | real tokens/s | useful work of the matrix rate | "
        "really done | times transformers |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for dtype in dtypes.split(","):
        rate = matrix_rate(DTYPES[dtype], device)
        for name in models.split(","):
            table += measure(name, dtype, steps, device, rate, ours, theirs, compiled)
            print("\n".join(table[-4:]), flush=True)
        table.append(f"| matrix rate | {dtype} | F.linear | | | {rate / 1e9:.0f} GFLOP/s | | |")
    report(
        f"finetuning_{device}_{dtypes.replace(',', '_')}",
        f"Fine-tuning speed on MRPC, {dtypes}",
        "\n".join(table),
    )


def measure(
    name: str,
    dtype: str,
    steps: int,
    device: str,
    rate: float,
    ours: Batches,
    theirs: dict,
    compiled: bool,
) -> list[str]:
    """Rows of the table for one model and dtype: every side does a step in turn, so that all share
    the machine's moods.
    """
    from transformers import BertConfig, BertForSequenceClassification

    shape = BertConfig.from_pretrained(data("minilm")) if name == "minilm" else BertConfig()
    config = models.Config.from_dict(shape.to_dict())
    work = 6 * sum(p.numel() for p in models.Classifier(config).transformer.blocks.parameters())

    def our_step(compile_it: bool):
        torch.manual_seed(0)
        model = models.Classifier(config).to(device).train()
        if compile_it:
            inference.compile_blocks(model, torch.device(device), cuda_graphs=False)
        optimizer = BertAdam(parameter_groups(model), 2e-5, 10**6)

        def step(batch):
            with torch.autocast(device, torch.bfloat16, enabled=dtype == "bf16"):
                loss, _ = TASKS["mrpc"].loss(model, batch)
            loss.backward()
            optimizer.step(loss=loss)
            optimizer.zero_grad()

        return step

    their_model = (
        BertForSequenceClassification._from_config(shape, attn_implementation="sdpa")
        .to(device)
        .train()
    )
    optimizer = torch.optim.AdamW(their_model.parameters(), 2e-5, fused=True)

    def their_step(batch):
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bf16"):
            loss = their_model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(their_model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    full = [n for n in range(len(ours)) if len(ours.rows(n)) == BATCH]
    sides = {
        "transformers": (
            their_step,
            lambda n: {k: t.to(device) for k, t in theirs[False][n].items()},
        ),
        "transformers, group_by_length": (
            their_step,
            lambda n: {k: t.to(device) for k, t in theirs[True][n].items()},
        ),
        "ours": (our_step(False), lambda n: prepare(ours[full[n]], torch.device(device))),
    }
    if compiled:
        sides["ours, compiled"] = (our_step(True), sides["ours"][1])
    # of a block's 12 D^2 weights, all but the 2 D^2 of keys and values are skipped in the last one,
    # [CLS] aside
    ours_done = 1 - 10 / 12 / config.n_layers
    taken, tokens, width = (
        dict.fromkeys(sides, 0.0),
        dict.fromkeys(sides, 0),
        dict.fromkeys(sides, 0),
    )
    for n in range(-3, steps):  # three to warm up
        for side, (step, batch) in sides.items():
            inputs = batch(n % len(full))
            t = seconds(lambda step=step, inputs=inputs: step(inputs))
            if n >= 0:
                taken[side] += t
                mask = (
                    inputs["attention_mask"] if isinstance(inputs, dict) else inputs.input_mask.real
                )
                tokens[side] += int(mask.sum())
                width[side] += mask.numel()
    per_second = {side: tokens[side] / taken[side] for side in sides}
    done = {
        side: ours_done if side.startswith("ours") else width[side] / tokens[side] for side in sides
    }
    return [
        f"| {name} | {dtype} | {side} | {steps * BATCH / taken[side]:.1f} | {per_second[side]:.0f} "
        f"| {work * per_second[side] / rate:.0%} | "
        f"{done[side] * work * per_second[side] / rate:.0%} | "
        f"{per_second[side] / per_second['transformers']:.2f} |"
        for side in sides
    ]


if __name__ == "__main__":
    command(as_command(run))

"""Pre-training speed against transformers' BertForPreTraining with its collator, both in one run,
step by step in turn.

    $ BERT_DATA=... python benchmarks/pretraining.py [--models base,large] [--lengths 128,512] \\
          [--dtypes bf16] [--steps 8]

The same pairs of corpus/wikipedia.txt, split into sentences. transformers has its best settings:
SDPA, fused AdamW, its DataCollatorForLanguageModeling (dynamic padding, masks anew), lengths
grouped as ours. A step is everything from the corpus to the update: making the batch, loss,
gradients, clipping. Useful work is 6 x (parameters of the blocks) x (real tokens), and 6 x
(parameters of the masked-word head) x (masked tokens), a second, over the measured rate of
F.linear.
"""

import itertools
import tempfile

import torch
from common import as_command, data, report, seconds
from finetuning import DTYPES, matrix_rate

import models
from optim import BertAdam, parameter_groups
from pretraining.batches import PairBatches
from pretraining.pairs import PairConfig, Pairs
from pretraining.shards import Corpus
from pretraining.text import prepare_text
from system.cli import command
from tasks import pretrain as pretraining_task
from training import inference
from training.batches import prepare

SHAPES = {"mini": (256, 4, 4), "base": (768, 12, 12), "large": (1024, 24, 16)}


def run(
    models: str = "base",
    lengths: str = "128",
    dtypes: str = "bf16",
    steps: int = 8,
    batch_size: int = 32,
    compiled: bool = False,
) -> None:
    """Measure.

    Args:
        models: of mini, base, large.
        lengths: values of max_len.
        dtypes: of fp32, bf16.
        steps: timed steps of each.
        batch_size: instances of a step.
        compiled: with torch.compile on our side too, as rows of their own.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    table = [
        "| model | max_len | dtype | side | real tokens/s | GFLOP a token | useful work of the "
        "matrix rate | making batches | times transformers |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        prepare_text(
            [data("corpus/wikipedia.txt")],
            data("vocab/bert-base-uncased/vocab.txt"),
            folder,
            2,
            language="en",
        )
        corpus = Corpus(folder)
        for dtype in dtypes.split(","):
            rate = matrix_rate(DTYPES[dtype], device)
            for name, max_len in itertools.product(models.split(","), map(int, lengths.split(","))):
                table += measure(
                    name, max_len, dtype, steps, batch_size, device, rate, corpus, compiled
                )
                print("\n".join(table[-3:]), flush=True)
            table.append(
                f"| matrix rate | | {dtype} | F.linear | | | {rate / 1e9:.0f} GFLOP/s | | |"
            )
    report(
        f"pretraining_{device}_{dtypes.replace(',', '_')}",
        f"Pre-training speed, batches of {batch_size}",
        "\n".join(table),
    )


def measure(
    name: str,
    max_len: int,
    dtype: str,
    steps: int,
    batch_size: int,
    device: str,
    rate: float,
    corpus: Corpus,
    compiled: bool,
) -> list[str]:
    """Rows of the table for one model and length."""
    from transformers import (
        BertConfig,
        BertForPreTraining,
        BertTokenizerFast,
        DataCollatorForLanguageModeling,
    )

    dim, n_layers, n_heads = SHAPES[name]
    config = models.Config(dim=dim, n_layers=n_layers, n_heads=n_heads, dim_ff=4 * dim)
    pairs = Pairs(corpus, PairConfig(max_len=max_len))
    batches = PairBatches(pairs, batch_size, seed=1)

    def ours(compile_it: bool):
        torch.manual_seed(0)
        model = models.PretrainModel(config).to(device).train()
        if compile_it:
            inference.compile_blocks(model, torch.device(device))
        optimizer = BertAdam(parameter_groups(model), 1e-4, 10**6)

        def make(n: int):
            return prepare(batches[n], torch.device(device))

        def step(batch):
            with torch.autocast(device, torch.bfloat16, enabled=dtype == "bf16"):
                loss, _ = pretraining_task.get_loss(model, batch)
            loss.backward()
            optimizer.step(loss=loss)
            optimizer.zero_grad()

        def count(batch):
            return sum(batch.input_mask.lengths), int((batch.weights > 0).sum())

        return make, step, count

    def theirs():
        torch.manual_seed(0)
        model = BertForPreTraining._from_config(
            BertConfig(**config.to_released()), attn_implementation="sdpa"
        )
        model = model.to(device).train()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
        collate = DataCollatorForLanguageModeling(
            BertTokenizerFast(str(corpus.vocab_file)), mlm_probability=0.15
        )

        def make(n: int):
            rows = []
            for a, n_a, b, n_b, order, _ in batches.plan(n).tolist():
                ids = [101, *corpus.tokens[a : a + n_a], 102, *corpus.tokens[b : b + n_b], 102]
                rows.append(
                    {
                        "input_ids": list(map(int, ids)),
                        "token_type_ids": [0] * (n_a + 2) + [1] * (n_b + 1),
                        "next_sentence_label": order,
                    }
                )
            return {k: v.to(device, non_blocking=True) for k, v in collate(rows).items()}

        def step(batch):
            with torch.autocast(device, torch.bfloat16, enabled=dtype == "bf16"):
                loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

        return (
            make,
            step,
            lambda batch: (int(batch["attention_mask"].sum()), int((batch["labels"] >= 0).sum())),
        )

    sides = {"transformers": theirs(), "ours": ours(False)}
    if compiled:
        sides["ours, compiled"] = ours(True)
    blocks = sum(p.numel() for p in models.PretrainModel(config).transformer.blocks.parameters())
    head = dim * config.vocab_size + dim * dim
    taken, making, real, masked = (dict.fromkeys(sides, 0.0) for _ in range(4))
    full = [n for n in range(len(batches)) if len(batches.rows(n)) == batch_size]
    for n in range(-2, steps):  # two to warm up
        for side, (make, step, count) in sides.items():
            batch: list = []
            t_make = seconds(
                lambda make=make, n=n, batch=batch: batch.append(make(full[n % len(full)]))
            )
            t_step = seconds(lambda step=step, batch=batch: step(batch[0]))
            if n >= 0:
                tokens, slots = count(batch[0])
                taken[side] += t_make + t_step
                making[side] += t_make
                real[side] += tokens
                masked[side] += slots
    rows = []
    for side in sides:
        per_second = real[side] / taken[side]
        work = 6 * (blocks + head * masked[side] / real[side])
        ratio = per_second / (real["transformers"] / taken["transformers"])
        rows.append(
            f"| {name} | {max_len} | {dtype} | {side} | {per_second:.0f} | {work / 1e9:.3f} | "
            f"{work * per_second / rate:.0%} | {making[side] / taken[side]:.1%} | {ratio:.2f} |"
        )
    return rows


if __name__ == "__main__":
    command(as_command(run))

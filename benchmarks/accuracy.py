"""MRPC dev accuracy against transformers with the same recipe: weights, batch 32, rate, 3 epochs, linear schedule, seeds.

    $ BERT_DATA=... python benchmarks/accuracy.py [--seeds 5] [--lr 5e-5] [--dtype bf16]

Ours runs classify.py's parts; transformers a plain loop with dynamic padding and fused AdamW. The initial classifier, the
order and dropout differ between seeds and sides, as they do between any two runs.
"""
import statistics
import tempfile
import time

import numpy as np
import torch
from common import data, report
from finetune import their_batches

import classify
import train
from metrics import accuracy, f1
from optim import parameter_groups, rate
from tasks import TASKS, encode, read_examples
from tokenization import FullTokenizer
from utils import command, write_json

MRPC = TASKS["mrpc"]


def ours(seed: int, lr: float, dtype: str) -> tuple[float, float]:
    """Accuracy and F1 on dev of one run of ours."""
    with tempfile.TemporaryDirectory() as folder:
        write_json(f"{folder}/train.json", {"seed": seed, "lr": lr, "dtype": dtype, "schedule": "linear",
                                            "bias_correction": True, "save_steps": 10**6})
        run = classify.prepare(MRPC, str(data("glue/MRPC/train.tsv")), f"{folder}/train.json", None, str(data("minilm")),
                               None, 128, None)
        file = run.fit(f"{folder}/run")
        results = classify.evaluate(file, str(data("glue/MRPC/dev.tsv")), train_cfg=f"{folder}/train.json")
    return results["Accuracy"], results["F1"]


def theirs(seed: int, lr: float, dtype: str) -> tuple[float, float]:
    """Accuracy and F1 on dev of one run of transformers."""
    from transformers import BertForSequenceClassification
    torch.manual_seed(seed)
    device = str(train.get_device())
    model = BertForSequenceClassification.from_pretrained(data("minilm"), num_labels=2).to(device)
    tokenizer = FullTokenizer(data("minilm/vocab.txt"))

    def rows(file: str) -> list:
        features = encode(read_examples(MRPC, data(file)), MRPC, tokenizer, 128)
        return [(features.ids[a:b].tolist(), int(s), int(label)) for a, b, s, label in
                zip(features.starts[:-1], features.starts[1:], features.second, features.labels, strict=True)]

    rows_train, dev = rows("glue/MRPC/train.tsv"), their_batches(rows("glue/MRPC/dev.tsv"), 0, True)
    total = 3 * -(-len(rows_train) // 32)
    optimizer = torch.optim.AdamW(parameter_groups(model), lr, eps=1e-6, fused=True)
    step = 0
    for epoch in range(3):
        for batch in their_batches(rows_train, 1000 * seed + epoch, False):
            for group in optimizer.param_groups:
                group["lr"] = lr * rate("linear", step, int(0.1 * total), total)
            model.train()
            with torch.autocast(device, torch.bfloat16, enabled=dtype == "bf16"):
                loss = model(**{k: t.to(device) for k, t in batch.items()}).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
    model.eval()
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=dtype == "bf16"):
        predicted = np.concatenate([model(**{k: t.to(device) for k, t in b.items()}).logits.argmax(1).cpu() for b in dev])
    labels = np.concatenate([b["labels"] for b in dev])
    return accuracy(predicted, labels), f1(predicted, labels)


def run(seeds: int = 5, lr: float = 5e-5, dtype: str = "bf16") -> None:
    """Train both sides with every seed and compare the means.

    Args:
        seeds: how many.
        lr: learning rate.
        dtype: fp32 or bf16.
    """
    table = ["| side | accuracy, mean | standard deviation | F1, mean | each accuracy | minutes a run |",
             "|---|---|---|---|---|---|"]
    for name, side in (("ours", ours), ("transformers", theirs)):
        start = time.perf_counter()
        scores = [side(seed, lr, dtype) for seed in range(seeds)]
        accuracies = [a for a, _ in scores]
        spread = statistics.stdev(accuracies) if seeds > 1 else 0.0
        mean, mean_f1 = statistics.mean(accuracies), statistics.mean(f for _, f in scores)
        table.append(f"| {name} | {mean:.4f} | {spread:.4f} | {mean_f1:.4f} "
                     f"| {', '.join(f'{a:.4f}' for a in accuracies)} | {(time.perf_counter() - start) / seeds / 60:.1f} |")
        print(table[-1], flush=True)
    report(f"accuracy_mrpc_{dtype}", f"MRPC dev accuracy, minilm, {seeds} seeds, rate {lr}, {dtype}", "\n".join(table))


if __name__ == "__main__":
    command(run)

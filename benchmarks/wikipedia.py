"""A real run: learn a vocabulary, pre-train a small model on Wikipedia, fine-tune it, compare with
from scratch.

    $ BERT_DATA=... python benchmarks/wikipedia.py [--total_steps 16000] [--folder runs/wikipedia]

442 articles, a paragraph a line, are split into sentences; every twentieth article is held out. The
same fine-tuning from the pre-trained weights and from fresh ones, with the same seeds, on MRPC. A
stopped run goes on where it was. With so little text and time 30% is masked instead of 15%: what
counts is the number of words guessed. Dropout is for fine-tuning.
"""

import json
import math
import statistics
from pathlib import Path

import numpy as np
from common import as_command, data, report

import finetune
from pretrain import Pretrain
from pretraining.shards import Corpus
from system.cli import command
from system.files import write_json
from tasks.sentences import TASKS
from tokenization import Learn

SHAPE = {
    "dim": 256,
    "n_layers": 3,
    "n_heads": 4,
    "dim_ff": 1024,
    "max_len": 128,
    "n_segments": 2,
    "p_drop_hidden": 0.0,
    "p_drop_attn": 0.0,
}
TRAIN = {
    "seed": 42,
    "batch_size": 32,
    "lr": 1e-3,
    "warmup": 0.1,
    "save_steps": 1000,
    "keep_checkpoints": 1,
    "dtype": "bf16",
    "bias_correction": True,
}
TUNE = {
    "batch_size": 32,
    "lr": 1e-4,
    "n_epochs": 2,
    "warmup": 0.1,
    "save_steps": 10000,
    "dtype": "bf16",
    "bias_correction": True,
}


def unigram_entropy(corpus: Corpus, held_out: Corpus, vocab_size: int) -> float:
    """The cross-entropy in nats of held-out tokens under the word frequencies of the training text
    (plus one).
    """
    counts = np.bincount(corpus.tokens[0 : len(corpus.tokens)], minlength=vocab_size) + 1
    return float(-np.log(counts / counts.sum())[held_out.tokens[0 : len(held_out.tokens)]].mean())


def run(
    total_steps: int = 16000, folder: str = "runs/wikipedia", seeds: int = 5, vocab_size: int = 8192
) -> None:
    """Train and report.

    Args:
        total_steps: of pre-training.
        folder: for everything.
        seeds: fine-tunings of each kind.
        vocab_size: of the vocabulary learnt.
    """
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    articles = data("corpus/wikipedia.txt").read_text(encoding="utf-8").split("\n\n")
    for name, chosen in (
        ("train", [a for i, a in enumerate(articles) if i % 20]),
        ("held_out", articles[::20]),
    ):
        (out / f"{name}.txt").write_text("\n\n".join(chosen) + "\n", encoding="utf-8")
    if not (out / "vocab/vocab.txt").exists():
        vocab = str(out / "vocab/vocab.txt")
        Learn([str(out / "train.txt")], out=vocab, vocab_size=vocab_size).run()
    write_json(out / "model.json", {**SHAPE, "vocab_size": vocab_size})
    write_json(out / "train.json", {**TRAIN, "total_steps": total_steps})
    Pretrain(
        train_cfg=f"{out}/train.json",
        model_cfg=f"{out}/model.json",
        data_file=f"{out}/train.txt",
        eval_file=f"{out}/held_out.txt",
        vocab=f"{out}/vocab/vocab.txt",
        save_dir=f"{out}/run",
        cache_dir=f"{out}/cache",
        max_len=64,
        mask_prob=0.3,
        split_sentences=True,
    ).run()
    corpora = sorted(
        (Corpus(path) for path in (out / "cache").glob("corpus-*")),
        key=lambda c: -c.counts["tokens"],
    )
    entropy = unigram_entropy(corpora[0], corpora[1], vocab_size)
    lines_of_metrics = map(json.loads, (out / "run/metrics.jsonl").read_text().splitlines())
    curve = [line for line in lines_of_metrics if "eval_masked_lm_loss" in line]
    rows = [
        "| step | masked_lm_loss | masked_lm_accuracy | next_sentence_accuracy |",
        "|---|---|---|---|",
    ]
    for line in curve[:: -max(1, len(curve) // 16)][::-1]:
        rows.append(
            f"| {line['step']} | {line['eval_masked_lm_loss']:.3f} | "
            f"{line['eval_masked_lm_accuracy']:.3f} | {line['eval_next_sentence_accuracy']:.3f} |"
        )
    lines = [
        f"{corpora[0].counts['tokens']} tokens of training text, {corpora[1].counts['tokens']} "
        f"held out. The unigram entropy of the held-out text is {entropy:.3f} nats (perplexity "
        f"{math.exp(entropy):.0f}).",
        "",
        *rows,
        "",
        "| task | start | dev accuracy of each seed | mean | spread |",
        "|---|---|---|---|---|",
    ]
    write_json(
        out / "tuned.json",
        {**SHAPE, "vocab_size": vocab_size, "p_drop_hidden": 0.1, "p_drop_attn": 0.1},
    )
    for start, weights in (("pre-trained", f"{out}/run"), ("scratch", None)):
        found = []
        for seed in range(1, seeds + 1):
            write_json(out / "tune.json", {**TUNE, "seed": seed})
            saved = f"{out}/mrpc-{start}-{seed}"
            tuning = finetune.prepare(
                TASKS["mrpc"],
                data("glue/MRPC/train.tsv"),
                f"{out}/tune.json",
                f"{out}/tuned.json",
                weights,
                f"{out}/vocab/vocab.txt",
                128,
                dev_files=[data("glue/MRPC/dev.tsv")],
            )
            found.append(tuning.fit(saved).last["Accuracy"])
        spread = statistics.stdev(found) if seeds > 1 else 0.0
        lines.append(
            f"| MRPC | {start} | {', '.join(f'{x:.4f}' for x in found)} | "
            f"{statistics.mean(found):.4f} | {spread:.4f} |"
        )
    title = f"Pre-training 3 x 256 on Wikipedia, {total_steps} steps of {TRAIN['batch_size']}"
    report("wikipedia", title, "\n".join(lines))


if __name__ == "__main__":
    command(as_command(run))

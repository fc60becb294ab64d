"""What pre-training gains: pre-train on the built-in corpus, fine-tune from it and from scratch,
three seeds each.

$ python examples/demo.py
"""

import contextlib
import os
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import finetune
import pretrain
from cli import command
from tasks.sentences import get_task, read_examples
from utils import read_json, write_json

SAMPLE, SEEDS = pretrain.SAMPLE, (1, 2, 3)


def fine_tune(seed: int, weights: str | None) -> float:
    """The accuracy of one fine-tuning, from weights or from scratch."""
    settings, save_dir = (
        f"{SAMPLE}/train_{seed}.json",
        f"runs/demo/{'pre-trained' if weights else 'scratch'}_{seed}",
    )
    write_json(settings, read_json(SAMPLE / "train.json") | {"seed": seed})
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        run = finetune.prepare(
            get_task("mrpc"),
            f"{SAMPLE}/train.tsv",
            settings,
            f"{SAMPLE}/config.json",
            weights,
            f"{SAMPLE}/vocab.txt",
            64,
            True,
            dev_files=[f"{SAMPLE}/dev.tsv"],
        )
        return run.fit(save_dir).last["Accuracy"]


def demo() -> None:
    """Run it; a run that was stopped goes on."""
    pretrain.run_sample("runs/demo/pretrain", None)
    labels = [example.label for example in read_examples(get_task("mrpc"), f"{SAMPLE}/dev.tsv")]
    majority = max(map(labels.count, set(labels))) / len(labels)
    print("\nFine-tuning on the sample's pairs of sentences, accuracy on 1000 others:")
    for name, weights in (("from scratch", None), ("pre-trained", "runs/demo/pretrain")):
        found = [fine_tune(seed, weights) for seed in SEEDS]
        print(
            f"  {name:14}{'  '.join(f'{x:.3f}' for x in found)}   mean "
            f"{statistics.mean(found):.3f}, "
            f"spread {statistics.stdev(found):.3f}",
            flush=True,
        )
    print(f"  always the most frequent label  {majority:.3f}")


if __name__ == "__main__":
    command(demo)

"""What pre-training gains: pre-train on the built-in corpus, fine-tune from it and from scratch.

$ python examples/demo.py
"""

import contextlib
import dataclasses
import os
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import finetune
import pretrained
import train
from examples import sample
from system.cli import command
from tasks import TASKS
from tasks.rows import read_examples

SAMPLE, SEEDS = sample.SAMPLE, (1, 2)
TASK = dataclasses.replace(TASKS["mrpc"], max_len=64)


def fine_tune(seed: int, weights: str | None) -> float:
    """The accuracy of one fine-tuning, from weights or from scratch."""
    cfg = train.Config.from_json(SAMPLE / "train.json", seed=seed)
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        start = pretrained.find(weights, f"{SAMPLE}/config.json", f"{SAMPLE}/vocab.txt")
        dev_files = [f"{SAMPLE}/dev.tsv"]
        run = finetune.prepare(TASK, f"{SAMPLE}/train.tsv", start, dev_files, cfg)
        name = "pre-trained" if weights else "scratch"
        return run.fit(f"runs/demo/{name}_{seed}").last["Accuracy"]


def demo() -> None:
    """Run it; a run that was stopped is resumed."""
    sample.pretrain("runs/demo/pretrain", None)
    labels = [example.label for example in read_examples(TASK, f"{SAMPLE}/dev.tsv")]
    majority = max(map(labels.count, set(labels))) / len(labels)
    print("\nFine-tuning on the sample's pairs of sentences, accuracy on 1000 others:")
    for name, weights in (("from scratch", None), ("pre-trained", "runs/demo/pretrain")):
        found = [fine_tune(seed, weights) for seed in SEEDS]
        each = "  ".join(f"{accuracy:.3f}" for accuracy in found)
        mean, spread = statistics.mean(found), statistics.stdev(found)
        print(f"  {name:14}{each}   mean {mean:.3f}, spread {spread:.3f}", flush=True)
    print(
        f"  always the most frequent label  {majority:.3f}\n\n"
        "Next, with data of your own (columns text and label) and weights in a folder:\n"
        "  python classify.py --task csv --data_file train.csv --eval_file dev.csv "
        "--pretrain_file FOLDER --save_dir runs/mine"
    )


@dataclasses.dataclass
class Demo:
    """Pre-train on the built-in corpus, fine-tune from it and from scratch, and compare."""

    def run(self) -> None:
        demo()


if __name__ == "__main__":
    command(Demo)

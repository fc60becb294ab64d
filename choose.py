"""Fine-tune BERT on multiple choice, evaluate it, let it choose: SWAG, CommonsenseQA, ARC, COPA.

    $ python choose.py --train_file train.jsonl --eval_file dev.jsonl --pretrain_file BERT \\
          --save_dir runs/csqa
    $ python choose.py --mode eval --model_file runs/csqa --data_file dev.jsonl
    $ python choose.py --mode predict --model_file runs/csqa --data_file test.jsonl
"""

from types import SimpleNamespace
from typing import Any

import modes
import train
from finetune import Saved
from system.cli import command
from tasks import ChoiceTask


def main(
    mode: str = "train",
    train_file: str | None = None,
    eval_file: str | None = None,
    data_file: str | None = None,
    max_len: int | None = None,
    pretrain_file: str | None = None,
    model_file: str | None = None,
    model_cfg: str | None = None,
    vocab: str | None = None,
    train_cfg: str | None = None,
    data_parallel: bool = True,
    shard: bool = False,
    save_dir: str | None = None,
    log_dir: str | None = None,
    out: str | None = None,
    settings: dict[str, Any] | None = None,
) -> None:
    """Fine-tune BERT on multiple choice, evaluate it, or let it choose.

    Args:
        What to do:
            mode: train, eval or predict.
        Data:
            train_file: questions to train on: SWAG's csv, CommonsenseQA's or ARC's JSON lines,
                OpenBookQA's tsv, COPA's JSON lines, or {"context": ..., "choices": [...],
                "label": number} a line.
            eval_file: evaluated after every epoch of training; several with commas between them.
            data_file: the file to evaluate (several with commas between them) or to answer; `-`
                answers JSON lines of standard input.
            max_len: tokens of a context with a choice; the longer one loses its end. Default 128,
                or what the model was trained with.
        Output:
            save_dir: folder of the run, which the same command resumes; default: runs/choice.
            out: of predict, the file to write; default: standard output. Of eval, the folder for
                metrics; default: eval beside the model.
    """
    flags = SimpleNamespace(**locals())
    of_mode = {"train": fit, "eval": evaluate, "predict": predict}
    modes.run(main, flags, of_mode, modes.USED_IN)


def fit(flags: SimpleNamespace) -> None:
    """--mode train"""
    modes.fit(ChoiceTask(**modes.given(flags, ("max_len",))), flags)


def load(flags: SimpleNamespace) -> Saved:
    """The saved model, with the length that flags ask for."""
    return modes.load(ChoiceTask, flags, modes.given(flags, ("max_len",)))


def evaluate(flags: SimpleNamespace) -> None:
    """--mode eval"""
    for _, _, stem in modes.evaluate(load(flags), flags):
        print(f"Saved {stem}.json")


def predict(flags: SimpleNamespace) -> None:
    """--mode predict"""
    modes.predict(load(flags), flags)


if __name__ == "__main__":
    command(main, settings=train.Config, processes=True)

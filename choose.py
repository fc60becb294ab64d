"""Fine-tune BERT on multiple choice, evaluate it, let it choose: SWAG, CommonsenseQA, ARC, COPA.

    $ python choose.py --train_file train.jsonl --eval_file dev.jsonl --pretrain_file BERT \\
          --save_dir runs/csqa
    $ python choose.py --mode eval --model_file runs/csqa --data_file dev.jsonl
    $ python choose.py --mode predict --model_file runs/csqa --data_file test.jsonl
"""

import dataclasses

from command import FilesCommand
from system.cli import command
from system.flags import only


@dataclasses.dataclass(kw_only=True)
class Choose(FilesCommand):
    """Fine-tune BERT on multiple choice, evaluate it, or let it choose."""

    kind = "choice"

    # -- Data
    # questions to train on: SWAG's csv, CommonsenseQA's or ARC's JSON lines, OpenBookQA's tsv,
    # COPA's JSON lines, or {"context": ..., "choices": [...], "label": number} a line
    train_file: str | None = only("train")
    # tokens of a context with a choice; the longer one loses its end. Default 128, or what the
    # model was trained with
    max_len: int | None = None


if __name__ == "__main__":
    command(Choose, processes=True)

"""Train a ranker, which reads a query and a text together; evaluate it; rank again what was found.

    $ python rank.py --train_file rows.jsonl --eval_file dev.jsonl --pretrain_file BERT \\
          --save_dir runs/ranker
    $ python rank.py --mode eval --model_file runs/ranker --data_dir cranfield \\
          --candidates found.jsonl
    $ python embed.py --mode search --model_file runs/vectors --data_file corpus.jsonl \\
          --queries queries.txt --top 50 \\
          | python rank.py --mode predict --model_file runs/ranker --data_file -
"""

import dataclasses
from typing import Any

from command import FilesCommand
from system.cli import command
from system.flags import only


@dataclasses.dataclass(kw_only=True)
class Rank(FilesCommand):
    """Train a ranker of texts, evaluate it, or rank again what was found."""

    kind = "ranker"
    reads_folders = True
    task_fields = ("rank_loss", "candidates", "text_a", "text_b", "label", "max_len")

    # -- Data
    # a query, a text and a grade in each row, or pairs with negatives: csv, tsv or JSON lines; or a
    # folder of BEIR's
    train_file: str | None = only("train")
    # to evaluate: the same (several with commas between them); to predict: what
    # `embed.py --mode search` wrote, `-`: from standard input
    data_file: str | None = only("eval predict")
    # a folder of BEIR's (corpus.jsonl, queries.jsonl, qrels), instead of train_file or data_file
    data_dir: str | None = only("train eval")
    # of BEIR's folder: what `embed.py --mode search` found, whose texts are ranked; in training
    # those that were judged too
    candidates: str | None = only("train eval")
    text_a: str | None = only("train eval")  # column of the query; default: look
    text_b: str | None = only("train eval")  # column of the text
    label: str | None = only("train eval")  # column of the grade
    # tokens of a query with a text; the longer one loses its end. Default 256, or what the model
    # was trained with
    max_len: int | None = None
    # -- Training
    # softmax over the texts of a query, pointwise (fits or not), squared (the grade as a number),
    # or lambda: nDCG itself. Default: softmax, where a query has several texts
    loss: str | None = only("train")

    def given(self) -> dict[str, Any]:
        """The task's fields that were given."""
        values = {name: getattr(self, name, None) for name in self.task_fields}
        values["rank_loss"] = self.loss
        return {name: value for name, value in values.items() if value is not None}


if __name__ == "__main__":
    command(Rank, processes=True)

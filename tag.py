"""Fine-tune BERT to tag words: named entities, parts of speech. Evaluate it, tag texts with it.

    $ python tag.py --train_file train.txt --eval_file dev.txt --pretrain_file BERT \\
          --save_dir runs/ner
    $ python tag.py --mode eval --model_file runs/ner --data_file test.txt
    $ python tag.py --mode predict --model_file runs/ner --data_file new.txt --out tagged.txt
    $ python tag.py score runs/ner/eval/test.tsv
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from command import FilesCommand
from system.cli import command
from system.files import whole_file
from system.flags import only

if TYPE_CHECKING:
    from finetune import Result, Run, Saved
    from tasks.task import Data


@dataclasses.dataclass(kw_only=True)
class Tag(FilesCommand):
    """Fine-tune BERT to tag words, evaluate it, or tag texts with it.

    `score FILE` needs no model.
    """

    kind = "tags"
    task_fields = ("column", "context", "decode", "aggregation", "encoding", "max_len")
    report_endings = (".tsv",)

    # -- Data
    # words and tags to train on, blank lines between sentences: CoNLL-2003, CoNLL-U, GermEval,
    # WikiANN, or two columns
    train_file: str | None = only("train")
    # the file to evaluate (several with commas between them) or to tag; `-` tags lines of standard
    # input, plain text
    data_file: str | None = only("eval predict")
    # of the tags, by number from 0 or by name, such as upos; default: upos of CoNLL-U, the outer
    # tags of GermEval, else the last column
    column: str | None = only("train eval")
    # what fills an input: a sentence, or document: its neighbours too. Default: sentence, or what
    # the model was trained with
    context: str | None = only("train")
    # greedy: the best tag of each word; viterbi: of entities the best sequence that BIO allows.
    # Default: greedy
    decode: str | None = only("eval predict")
    # entities or words: answer in JSON, with where each stands in the text, its type and its score;
    # default: in the form of the file
    aggregation: str | None = only("predict")
    # without an eval_file, the share of the texts that is evaluated and not trained on, such as
    # 0.1: with each type's share, equal texts on one side; SAVE_DIR/dev.jsonl has them
    dev_split: float | None = only("train")
    # encoding of files that are neither UTF-8 nor UTF-16, such as cp1252
    encoding: str | None = None
    # longest input in tokens; longer ones are cut into windows. Default 128, or what the model was
    # trained with
    max_len: int | None = None

    def finish(self, run: "Run", result: "Result") -> None:
        if saved := self.load_best(run, result):
            self.report_best(run, saved)

    def report(
        self, saved: "Saved", data: "Data", outputs: Any, stem: Path
    ) -> tuple[dict[str, Any], list[str]]:
        """What conlleval prints, which has the entities of each type; and a file that it takes."""
        answers = saved.task.answers(data, outputs)
        found = {}
        if saved.task.is_entities:
            counts = saved.task.count(data.examples, answers)
            print(counts.report())
            found = {"types": counts.as_json()}
        # Word, gold and predicted tag.
        with whole_file(f"{stem}.tsv") as f:
            for text, answer in zip(data.examples, answers, strict=True):
                for i, row in enumerate(zip(text.words, text.tags, answer.tags, strict=True)):
                    line = "\t".join(row) + "\n"
                    f.write(("\n" + line if i in text.starts else line).encode())
        return found, [f"{stem}.tsv"]


@dataclasses.dataclass
class Score:
    """Compare gold and predicted tags, and print what conlleval prints."""

    file: str  # these tags in its last two columns, blank lines between sentences

    def run(self) -> None:
        from tasks.conlleval import count_file

        print(count_file(self.file).report())


if __name__ == "__main__":
    command(Tag, Score, processes=True)

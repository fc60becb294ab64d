"""Fine-tune BERT to tag words: named entities, parts of speech. Evaluate it, tag texts with it.

    $ python tag.py --train_file train.txt --eval_file dev.txt --pretrain_file BERT \\
          --save_dir runs/ner
    $ python tag.py --mode eval --model_file runs/ner --data_file test.txt
    $ python tag.py --mode predict --model_file runs/ner --data_file new.txt --out tagged.txt
    $ python tag.py score runs/ner/eval/test.tsv
"""

from types import SimpleNamespace
from typing import Any

import modes
import train
from finetune import Saved
from system.cli import command
from system.files import whole_file
from tasks import TagTask
from tasks.conlleval import count_file


def main(
    mode: str = "train",
    train_file: str | None = None,
    eval_file: str | None = None,
    data_file: str | None = None,
    column: str | None = None,
    context: str | None = None,
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
    """Fine-tune BERT to tag words, evaluate it, or tag texts with it. `score FILE` needs no model.

    Args:
        What to do:
            mode: train, eval or predict.
        Data:
            train_file: words and tags to train on, blank lines between sentences: CoNLL-2003,
                CoNLL-U, GermEval, WikiANN, or two columns.
            eval_file: evaluated after every epoch of training; several with commas between them.
            data_file: the file to evaluate (several with commas between them) or to tag; `-` tags
                lines of standard input, plain text.
            column: of the tags, by number from 0 or by name, such as upos; default: upos of
                CoNLL-U, the outer tags of GermEval, else the last column.
            context: what fills an input: a sentence, or document: its neighbours too. Default:
                sentence, or what the model was trained with.
            max_len: longest input in tokens; longer ones are cut into windows. Default 128, or
                what the model was trained with.
        Output:
            save_dir: folder of the run, which the same command resumes; default: runs/tags.
            out: of predict, the file to write; default: standard output. Of eval, the folder for
                metrics and tagged words; default: eval beside the model.
    """
    flags = SimpleNamespace(**locals())
    of_mode = {"train": fit, "eval": evaluate, "predict": predict}
    used_in = modes.USED_IN | {"column": "train eval", "context": "train"}
    modes.run(main, flags, of_mode, used_in)


def fit(flags: SimpleNamespace) -> None:
    """--mode train"""
    # A flag that was not given is left to TagTask, where each default stands once.
    task = TagTask(**modes.given(flags, ("column", "context", "max_len")))
    modes.fit(task, flags)


def load(flags: SimpleNamespace) -> Saved:
    """The saved model, with the column and the length that flags ask for."""
    return modes.load(TagTask, flags, modes.given(flags, ("column", "max_len")))


def evaluate(flags: SimpleNamespace) -> None:
    """--mode eval"""
    saved = load(flags)
    for data, answers, stem in modes.evaluate(saved, flags, (".tsv",)):
        # What conlleval prints has the entities of each type.
        if saved.task.is_entities:
            print(saved.task.count(data.examples, answers).report())
        # Word, gold and predicted tag: what `score` and conlleval take.
        with whole_file(f"{stem}.tsv") as f:
            for text, answer in zip(data.examples, answers, strict=True):
                for i, row in enumerate(zip(text.words, text.tags, answer.tags, strict=True)):
                    line = "\t".join(row) + "\n"
                    f.write(("\n" + line if i in text.starts else line).encode())
        print(f"Saved {stem}.json, {stem}.tsv")


def predict(flags: SimpleNamespace) -> None:
    """--mode predict"""
    modes.predict(load(flags), flags)


def score(file: str) -> None:
    """Compare gold and predicted tags, and print what conlleval prints.

    Args:
        file: these tags in its last two columns, blank lines between sentences.
    """
    print(count_file(file).report())


if __name__ == "__main__":
    command(main, score, settings=train.Config, processes=True)

"""From text to a prepared corpus, and what is in it.

    $ python corpus.py prepare TEXT... --vocab vocab.txt --out DIR [--workers 8] [--shard 0/4] \\
          [--split_sentences True]
    $ python corpus.py describe DIR --max_len 512
"""

import re

from formats.vocab import casing
from pretraining.describe import look_into
from pretraining.pairs import PairConfig
from pretraining.shards import Corpus
from pretraining.text import cores, language_of, prepare_text
from system.cli import command
from system.files import find_files, read_json
from utils import UserError


def prepare(
    texts: list[str],
    *,
    vocab: str,
    out: str,
    workers: int | None = None,
    shard: str = "0/1",
    split_sentences: bool | str = False,
) -> None:
    """Tokenise text once, for pretrain.py --data_file DIR.

    Args:
        texts: files, globs or folders of UTF-8 text, a sentence a line, a blank line between
            documents.
        vocab: vocab.txt.
        out: folder of the prepared corpus.
        workers: processes; default: one for each core.
        shard: I/N prepares part I of N, from 0; all parts in one folder are used together.
        split_sentences: split lines into sentences: True for English, or a language code; joins
            hard-wrapped lines first.
    """
    if not (match := re.fullmatch(r"(\d{1,9})/(\d{1,9})", shard)):
        raise UserError(f"--shard {shard}: expected I/N, such as 0/4")
    folder = prepare_text(
        find_files(",".join(texts)),
        vocab,
        out,
        casing(vocab),
        cores() if workers is None else workers,
        (int(match[1]), int(match[2])),
        language_of(split_sentences),
    )
    counts = read_json(folder / "shard.json")["counts"]
    print(
        f"{folder}: {counts['documents']} documents, {counts['sentences']} sentences, "
        f"{counts['tokens']} tokens"
    )


def describe(
    folder: str,
    max_len: int = PairConfig.max_len,
    max_pred: int | None = PairConfig.max_pred,
    mask_prob: float = PairConfig.mask_prob,
    batch_size: int = 256,
    next_sentence: bool = PairConfig.next_sentence,
) -> None:
    """Print what pre-training will see of a prepared corpus, and warn where something looks wrong.

    Args:
        folder: made by prepare, or by pretrain.py in its save_dir.
        max_len: tokens of an instance.
        max_pred: masked tokens of an instance at most; default max_len times mask_prob, rounded up.
        mask_prob: share of the tokens to mask.
        batch_size: instances of a step.
        next_sentence: False: no pairs.
    """
    if batch_size < 1:
        raise UserError(f"--batch_size {batch_size}: expected at least 1")
    config = PairConfig(max_len, max_pred, mask_prob, next_sentence=next_sentence)
    found = look_into(Corpus(folder), config, batch_size)
    for name, value in found.figures.items():
        print(f"{name + ':':24}{value}")
    for warning in found.warnings:
        print(f"warning: {warning}")


if __name__ == "__main__":
    command(prepare, describe)

"""From text to a prepared corpus, and what is in it.

    $ python corpus.py prepare TEXT... --vocab vocab.txt --out DIR [--workers 8] [--shard 0/4] \\
          [--split_sentences True]
    $ python corpus.py describe DIR --max_len 512
"""

import dataclasses
import re

from formats.vocab import Vocabulary
from pretraining.describe import look_into
from pretraining.pairs import PairConfig
from pretraining.shards import Corpus
from pretraining.text import cores, language_of, prepare_text
from system.cli import command
from system.files import find_files, read_json
from utils import UserError, told


@dataclasses.dataclass
class Prepare:
    """Tokenise text once, for pretrain.py --data_file DIR."""

    # files, globs or folders of UTF-8 text, a sentence a line, a blank line between documents
    texts: list[str]
    _: dataclasses.KW_ONLY
    vocab: str  # vocab.txt
    out: str  # folder of the prepared corpus
    workers: int | None = None  # processes; default: one for each core
    # I/N prepares part I of N, from 0; all parts in one folder are used together
    shard: str = "0/1"
    # split lines into sentences: True for English, or a language code; joins hard-wrapped lines
    # first
    split_sentences: bool | str = False

    def run(self) -> None:
        if not (match := re.fullmatch(r"(\d{1,9})/(\d{1,9})", self.shard)):
            raise UserError(f"--shard {self.shard}: expected I/N, such as 0/4")
        folder = prepare_text(
            find_files(",".join(self.texts)),
            Vocabulary.read(self.vocab),
            self.out,
            cores() if self.workers is None else self.workers,
            (int(match[1]), int(match[2])),
            language_of(self.split_sentences),
        )
        counts = read_json(folder / "shard.json")["counts"]
        print(
            f"{folder}: {counts['documents']} documents, {counts['sentences']} sentences, "
            f"{counts['tokens']} tokens"
        )


@dataclasses.dataclass
class Describe:
    """Print what pre-training will see of a prepared corpus.

    It warns where something looks wrong.
    """

    folder: str  # made by prepare, or by pretrain.py in its save_dir
    max_len: int = PairConfig.max_len  # tokens of an instance
    # masked tokens of an instance at most; default max_len times mask_prob, rounded up
    max_pred: int | None = PairConfig.max_pred
    mask_prob: float = PairConfig.mask_prob  # share of the tokens to mask
    batch_size: int = 256  # instances of a step
    next_sentence: bool = PairConfig.next_sentence  # False: no pairs

    def run(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"--batch_size {self.batch_size}: expected at least 1")
        config = PairConfig(
            self.max_len, self.max_pred, self.mask_prob, next_sentence=self.next_sentence
        )
        found = look_into(Corpus(self.folder), config, self.batch_size)
        for name, value in found.figures.items():
            print(f"{name + ':':24}{value}")
        for warning in found.warnings:
            print(f"warning: {told(warning)}")


if __name__ == "__main__":
    command(Prepare, Describe)

"""From text to a prepared corpus, and what is in it; a vocabulary that suits a text.

    $ python corpus.py prepare TEXT... --vocab vocab.txt --out DIR [--workers 8] [--shard 0/4] \\
          [--split_sentences True]
    $ python corpus.py describe DIR --max_len 512
    $ python corpus.py extend --pretrain_file BERT --data_file my_text --n_words 1000 --out FOLDER
    $ python corpus.py shrink --pretrain_file BERT --data_file my_text --out FOLDER
"""

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING

from formats.vocab import Vocabulary
from pretraining.describe import look_into
from pretraining.pairs import PairConfig
from pretraining.shards import Corpus
from pretraining.text import cores, language_of, prepare_text
from system.cli import command
from system.files import check_unused, find_files, read_json, whole_folder
from tokenization import FullTokenizer
from utils import UserError, told, visible, warn

if TYPE_CHECKING:
    from pretrained import Pretrained
    from pretraining.new_words import Words


@dataclasses.dataclass
class Prepare:
    """Tokenise text once, for pretrain.py --data_file DIR."""

    # files, globs or folders of UTF-8 text, a sentence a line, a blank line between documents; or
    # of JSON lines, or WikiExtractor's output; also packed, .gz or .zst
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
    text_a: str | None = None  # of JSON lines, the column of the text; default: text

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
            column=self.text_a,
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


# ------------------------------------------------------------------------------ vocabularies to fit


@dataclasses.dataclass(kw_only=True)
class Resize:
    """What extend and shrink have in common."""

    # the weights: a TensorFlow checkpoint, a Hugging Face folder, a .pt, a run's folder, or a name
    # of `checkpoint.py list`
    pretrain_file: str
    data_file: str  # the text, as for prepare: files, globs or folders with commas between them
    out: str  # the folder to write, which every command reads, and transformers
    model_cfg: str | None = None  # JSON of the model's shape; default: what lies beside the weights
    vocab: str | None = None  # vocab.txt; default: what lies beside the weights
    text_a: str | None = None  # of JSON lines, the column of the text; default: text

    def read(self) -> tuple["Pretrained", "Words"]:
        """The weights, and the words of the text."""
        import pretrained
        from pretraining.new_words import count_words

        out = Path(self.out)
        if out.suffix.lower() in (".pt", ".onnx"):
            raise UserError(f"--out {self.out}: expected the name of a folder")
        check_unused(out)
        files = find_files(self.data_file)
        start = pretrained.find(self.pretrain_file, self.model_cfg, self.vocab)
        words = count_words(files, start.tokenizer, self.text_a)
        if not any(word.isalpha() for word in words):
            raise UserError(f"{self.data_file} has no words; expected a text")
        return start, words

    def write(
        self, source: "Pretrained", vocabulary: "Vocabulary", words: "Words", before: float
    ) -> str:
        """Write the folder; how many tokens a text has now."""
        from tasks.exports import write_hugging_face

        with whole_folder(self.out) as folder:
            left_out = write_hugging_face(source, folder, vocabulary)
        for head in left_out:
            warn(f"left out its {head}, for which a folder with the others has no place")
        after = words.tokens(FullTokenizer(vocabulary))
        return f"tokens a text: {before:.2f} before, {after:.2f} now ({after / before - 1:+.1%})"


@dataclasses.dataclass(kw_only=True)
class Extend(Resize):
    """Add words of a text to a vocabulary, and rows for them to the weights.

    Texts without these words keep their hidden states. A new row is the mean of those of the pieces
    that it stands for; train it with pretrain.py.
    """

    n_words: int = 1000  # words and endings to add, those that save most tokens
    # put them in the places of [unused1] and so on first, which are free
    unused: bool = False

    def run(self) -> None:
        if self.n_words < 1:
            raise UserError(f"--n_words {self.n_words}: expected 1 or more")
        start, words = self.read()
        from pretraining.new_words import choose
        from tasks.vocabularies import extend

        new = choose(words, start.tokenizer, self.n_words)
        if not new:
            raise UserError(f"{self.data_file}: no word of it would save a token; nothing to add")
        if len(new) < self.n_words:
            warn(f"only {len(new)} words would save a token")
        source, vocabulary = extend(start, start.tokenizer, words, new, self.unused)
        told_of = self.write(source, vocabulary, words, words.tokens(start.tokenizer))
        print(f"{self.out}: {len(new)} new words, {', '.join(map(visible, new[:8]))} ...")
        print(told_of)


@dataclasses.dataclass(kw_only=True)
class Shrink(Resize):
    """Take out of a vocabulary, and of the weights, the tokens that a text never has.

    The text keeps its tokens and its hidden states. Special tokens stay, and all characters of the
    text.
    """

    def run(self) -> None:
        start, words = self.read()
        from tasks.vocabularies import shrink

        source, vocabulary = shrink(start, start.tokenizer, words)
        told_of = self.write(source, vocabulary, words, words.tokens(start.tokenizer))
        sizes = [sum(t.numel() for t in one.tensors.values()) for one in (start, source)]
        print(
            f"{self.out}: {source.config.vocab_size} of {start.config.vocab_size} tokens, "
            f"{sizes[1]:,} of {sizes[0]:,} parameters"
        )
        print(told_of)


if __name__ == "__main__":
    command(Prepare, Describe, Extend, Shrink)

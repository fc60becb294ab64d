"""A pre-trained encoder as it is: write vectors of texts, rank and judge by them; fill blanks.

    $ python features.py extract --pretrain_file FOLDER --input_file lines.txt \\
          --output_file out.jsonl --layers=-1,-2,-3,-4
    $ python features.py similar --pretrain_file FOLDER --input_file lines.txt \\
          --query "a dog runs"
    $ python features.py fewshot --pretrain_file FOLDER --task sst2 --data_dir GLUE/SST-2
    $ python features.py fill --pretrain_file FOLDER "Paris is the [MASK] of France."
    $ python features.py score --pretrain_file FOLDER "A text."
"""

import dataclasses
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from formats.arrays import write_arrays
from system.cli import command
from system.files import check_output, whole_file, write_json
from utils import UserError, data_stream, json_text

if TYPE_CHECKING:
    from encoder import Encoder, Vectors

FORMATS = ("jsonl", "npz", "safetensors")
POOLING = ("none", "cls", "mean", "max")


@dataclasses.dataclass
class EncoderCommand:
    """The flags of every command here."""

    # -- Weights
    # a TensorFlow checkpoint, a Hugging Face folder, a .pt, or a name of `checkpoint.py list`
    pretrain_file: str
    _: dataclasses.KW_ONLY
    # JSON of the model's shape; default: what lies beside the weights
    model_cfg: str | None = None
    vocab: str | None = None  # vocab.txt; default: what lies beside the weights
    # -- Computing
    # cpu, cuda, cuda:N or mps; auto: the GPU if one is usable, else the CPU
    device: str = "auto"
    # of matrix products: fp32, bf16 or, on a CPU, int8; auto: bf16 on a GPU that has it
    dtype: str = "auto"

    @property
    def weights(self) -> tuple[str, str | None, str | None]:
        """The weights, and the shape and the vocabulary where they are named."""
        return self.pretrain_file, self.model_cfg, self.vocab


# ------------------------------------------------------------------------------------------ extract


@dataclasses.dataclass
class Extract(EncoderCommand):
    """Write the vectors of every line of a text: `text`, or `text a ||| text b`."""

    # -- Data
    input_file: str  # a text a line; `-`: standard input
    # the file to write, whole or not at all; `-`: standard output (jsonl only)
    output_file: str
    # jsonl (Google's), or npz or safetensors: `values` (tokens, layers, D), `starts` (lines + 1)
    format: str = "jsonl"
    # -- Vectors
    layers: str = "-1,-2,-3,-4"  # comma list: -1 the last, -2 the one before
    pooling: str = "none"  # none: of every token; cls: of [CLS]; mean, max: over the tokens
    # tokens of a line at most; the rest is cut off; default: what the folder of a sentence encoder
    # says, else 128
    max_len: int | None = None
    # lines that are computed at once; default: 32, on a GPU 32k tokens
    batch_size: int | None = None

    def run(self) -> None:
        layers = integers("layers", self.layers)
        if self.format not in FORMATS:
            raise UserError(f"--format {self.format}: expected one of {', '.join(FORMATS)}")
        check_pooling(self.pooling, POOLING)
        if self.output_file == "-" and self.format != "jsonl":
            raise UserError(f"--format {self.format} needs an --output_file")
        if self.output_file != "-":
            check_output(self.output_file, (self.input_file, *self.weights))
        from encoder import load

        # Flags are checked before the weights are loaded, layers, which depend on these, after it.
        encoder = load(
            *self.weights,
            self.max_len,
            self.batch_size,
            self.dtype,
            device=self.device,
            stated=False,
        )
        encoder.check_layers(layers)
        found = encoder.extract(read_lines(self.input_file), layers, self.pooling, self.input_file)
        lines = (f"{as_json(i, text, layers)}\n" for i, text in enumerate(found))
        if self.output_file == "-":
            # Each line is written as it is done, so that a program at the other end need not wait.
            for line in lines:
                sys.stdout.write(line)
                sys.stdout.flush()
            return
        with whole_file(self.output_file) as f:
            if self.format == "jsonl":
                f.writelines(line.encode() for line in lines)
            else:
                values = (text.values for text in found)
                write_arrays(f, self.format, values, (len(layers), encoder.model.cfg.dim))


def check_pooling(pooling: str, known: tuple[str, ...]) -> None:
    """UserError where a word is none of them."""
    if pooling not in known:
        raise UserError(f"--pooling {pooling}: expected one of {', '.join(known)}")


def integers(flag: str, text: str) -> list[int]:
    """The numbers of a comma list."""
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise UserError(
            f"--{flag} {text}: expected numbers with commas between them, such as -1,-2"
        ) from None


def read_lines(file: str) -> Iterator[str]:
    """The lines of a file, without their ends."""
    from tasks.table_rows import open_text

    # A text with tabs is one text: form "tsv" only says how lines end.
    for line in open_text(file, "tsv", "lines")[1]:
        yield line.rstrip("\n").removesuffix("\r")


def as_json(number: int, text: "Vectors", layers: list[int]) -> str:
    """A line of Google's format, which calls it `linex_index`; numbers have six decimals."""

    def numbered(vectors: list) -> list[dict[str, Any]]:
        return [{"index": i, "values": vector} for i, vector in zip(layers, vectors, strict=True)]

    # In float64, as rounding a float32 gives no short decimals.
    rounded = np.round(text.values.astype(np.float64), 6).tolist()
    # Pooled: a vector for each layer, and no tokens.
    if text.values.ndim == 2:
        found = {"layers": numbered(rounded)}
    else:
        pairs = zip(text.tokens, rounded, strict=True)
        found = {"features": [{"token": token, "layers": numbered(v)} for token, v in pairs]}
    return json_text({"linex_index": number, **found}, f"text {number}")


# ------------------------------------------------------------------------------------------ similar


@dataclasses.dataclass
class Similar(EncoderCommand):
    """Print the lines of a text that are most like a query, by the cosine of their vectors."""

    # -- Data
    input_file: str  # a text a line; `-`: standard input
    query: str  # a text
    n: int = 10  # how many lines to print; 0: all
    # -- Vectors
    # mean or max over the tokens, or cls; default: what the folder of a sentence encoder says, else
    # mean
    pooling: str | None = None
    layer: int = -1  # of the encoder; -1 the last
    # tokens of a line at most; the rest is cut off; default: what the folder says, else 128
    max_len: int | None = None

    def run(self) -> None:
        if self.pooling is not None:
            check_pooling(self.pooling, POOLING[1:])
        if self.n < 0:
            raise UserError(f"--n {self.n}: expected 0 or more")
        if not self.query.strip():
            raise UserError("--query is empty; expected a text")
        from encoder import load

        form = {"pooling": self.pooling} if self.pooling else None
        encoder = load(*self.weights, self.max_len, dtype=self.dtype, device=self.device, form=form)
        encoder.check_layers([self.layer])
        pooling = self.pooling or encoder.token_pooling
        lines = [line for line in read_lines(self.input_file) if line.strip()]
        if not lines:
            raise UserError(f"{self.input_file} has no lines; expected a text a line")
        # The query is the first text, so that one pass serves all.
        texts = [self.query, *lines]
        found = encoder.extract(texts, [self.layer], pooling, f"--query and {self.input_file}")
        pooled = np.stack([text.values[0] for text in found])
        scores = cosine(pooled[1:], pooled[:1])
        for i in np.argsort(-scores, kind="stable")[: self.n or None]:
            print(f"{scores[i]:.4f}\t{lines[i]}", file=data_stream())


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, D), (N or 1, D) -> (N,)"""
    return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


# ---------------------------------------------------------------------------------------- few shots


@dataclasses.dataclass
class Fewshot(EncoderCommand):
    """Judge an encoder without training it: accuracy on dev from k examples of each class."""

    # -- Data
    task: str  # as for classify.py: sst2, mnli ... csv
    # a folder of GLUE or SuperGLUE, instead of data_file and eval_file
    data_dir: str | None = None
    data_file: str | None = None  # to draw examples from
    eval_file: str | None = None  # to measure on
    max_len: int = 128  # longest input in tokens
    # -- Your own columns
    text_a: str | None = None  # column of the text, as for classify.py
    text_b: str | None = None  # column of a second text
    label: str | None = None  # column of the label
    labels: str | None = None  # the labels, with commas between them
    header: bool | None = None  # whether the first row names the columns
    # -- Measurement
    shots: str = "1,5,10,25,100,500,1000"  # comma list of k
    draws: int = 5  # how many fixed draws; mean and spread are over them
    # what the strength of the ridge is chosen on: train (examples held out) or dev, as the original
    # did
    select: str = "train"
    out: str | None = None  # JSON to write the results to

    def run(self) -> None:
        if self.select not in ("train", "dev"):
            raise UserError(f"--select {self.select}: expected train or dev")
        shots = integers("shots", self.shots)
        if min(shots) < 1 or self.draws < 1:
            raise UserError(f"--shots {self.shots} --draws {self.draws}: expected 1 or more")
        from encoder import load
        from tasks import get_task, own_task
        from tasks.fewshot import FewShotEvaluator
        from tasks.superglue import file_in

        columns = (self.text_a, self.text_b, self.label, self.labels, self.header)
        task = own_task(get_task(self.task), *columns)
        data_file, eval_file = self.data_file, self.eval_file
        if self.data_dir:
            for name, value in (("data_file", data_file), ("eval_file", eval_file)):
                if value:
                    raise UserError(f"--data_dir has train and dev already; leave out --{name}")
            data_file = file_in(self.data_dir, "train.tsv")
            eval_file = file_in(self.data_dir, task.dev[0])
        if not data_file or not eval_file:
            raise UserError("fewshot needs --data_dir, or --data_file and --eval_file")
        if self.out:
            check_output(self.out, (data_file, eval_file, *self.weights))
        judge = FewShotEvaluator(task, data_file, eval_file, shots, self.draws, self.select)
        encoder = load(
            *self.weights, self.max_len, dtype=self.dtype, head="pooler", device=self.device
        )
        files = f"{data_file} and {eval_file}"
        results = judge(functools.partial(encoder.pool, file=files))
        for result in results:
            print(f"{result.k:5} of each class: {result.mean:.4f} +- {result.spread:.4f}")
        if self.out:
            found = {str(result.k): vars(result) for result in results}
            write_json(Path(self.out), {"task": task.name, "select": self.select, "shots": found})


# ------------------------------------------------------------------------- the masked-language head


@dataclasses.dataclass
class BlanksCommand(EncoderCommand):
    """The flags of the commands that use the masked-language head."""

    # -- What to do
    # one or more; `text a ||| text b` is a pair; default: the lines of standard input
    texts: list[str] | None = None
    # -- Computing
    max_len: int | None = None  # tokens of a text at most; default: as many as the model takes
    # texts, each with one token masked, that are computed at once; default: 32, on a GPU 32k tokens
    batch_size: int | None = None

    def load(self) -> "Encoder":
        """The model, ready to fill and to score."""
        from encoder import load

        return load(
            *self.weights, self.max_len, self.batch_size, self.dtype, "masked_lm", self.device
        )


@dataclasses.dataclass
class Fill(BlanksCommand):
    """Print the words that fit best where a text has [MASK].

    A table with tabs: the number of the text, from 0, of its [MASK], the word, its probability.
    """

    # -- What to do
    # each with one [MASK] or more; `text a ||| text b` is a pair; default: the lines of standard
    # input
    texts: list[str] | None = None
    top: int = 5  # how many words of each [MASK]
    # comma list of the words to choose from; default: all of the vocabulary
    words: str | None = None

    def run(self) -> None:
        filler = self.load()
        candidates = self.words.split(",") if self.words is not None else None
        found = filler.fill(self.texts or read_lines("-"), self.top, candidates)
        print("index\tmask\tword\tprobability")
        for index, masks in enumerate(found):
            for mask, best in enumerate(masks):
                for word, probability in best:
                    line = f"{index}\t{mask}\t{word}\t{probability:.6f}"
                    print(line, file=data_stream())
            # Whoever reads the other end of a pipe need not wait.
            sys.stdout.flush()


@dataclasses.dataclass
class Score(BlanksCommand):
    """Print how likely a text is: the sum over its tokens of ln P(token | the others).

    A table with tabs: the number of the text, from 0, the sum, the number of tokens, the text.
    """

    def run(self) -> None:
        scorer = self.load()
        print("index\tscore\ttokens\ttext")
        for index, found in enumerate(scorer.score(self.texts or read_lines("-"))):
            # A tab or a line's end in a text would look like the table's.
            text = " ".join(found.text.split())
            line = f"{index}\t{found.score:.6f}\t{found.n_tokens}\t{text}"
            print(line, file=data_stream(), flush=True)


if __name__ == "__main__":
    command(Extract, Similar, Fewshot, Fill, Score)

"""A pre-trained encoder as it is: write vectors of texts, rank and judge by them; fill blanks.

    $ python features.py extract --pretrain_file FOLDER --input_file lines.txt \\
          --output_file out.jsonl --layers=-1,-2,-3,-4
    $ python features.py similar --pretrain_file FOLDER --input_file lines.txt \\
          --query "a dog runs"
    $ python features.py fewshot --pretrain_file FOLDER --task sst2 --data_dir GLUE/SST-2
    $ python features.py fill --pretrain_file FOLDER "Paris is the [MASK] of France."
    $ python features.py score --pretrain_file FOLDER "A text."
"""

import functools
import json
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

import blanks
import vectors
from system.cli import command
from system.files import check_output, whole_file, write_json
from tasks import fewshot as few
from tasks import get_task, own_task
from tasks.superglue import file_in
from tasks.tables import open_text
from utils import UserError, data_stream, json_text

FORMATS = ("jsonl", "npz", "safetensors")


# ------------------------------------------------------------------------------------------ extract


def extract(
    pretrain_file: str,
    input_file: str,
    output_file: str,
    layers: str = "-1,-2,-3,-4",
    pooling: str = "none",
    format: str = "jsonl",
    max_len: int | None = None,
    batch_size: int = 32,
    dtype: str = "fp32",
    model_cfg: str | None = None,
    vocab: str | None = None,
) -> None:
    """Write the vectors of every line of a text: `text`, or `text a ||| text b`.

    Args:
        Data:
            input_file: a text a line; `-`: standard input.
            output_file: the file to write, whole or not at all; `-`: standard output (jsonl only).
            format: jsonl (Google's), or npz or safetensors: `values` (tokens, layers, D), `starts`
                (lines + 1).
        Vectors:
            layers: comma list: -1 the last, -2 the one before.
            pooling: none: of every token; cls: of [CLS]; mean, max: over the tokens.
            max_len: tokens of a line at most; the rest is cut off; default: what the folder of a
                sentence encoder says, else 128.
            batch_size: lines that are computed at once.
            dtype: of matrix products: fp32, bf16 or, on a CPU, int8.
        Weights:
            pretrain_file: a TensorFlow checkpoint, a Hugging Face folder, a .pt, or a name of
                `checkpoint.py list`.
            model_cfg: JSON of the model's shape; default: what lies beside the weights.
            vocab: vocab.txt; default: what lies beside the weights.
    """
    chosen = integers("layers", layers)
    if format not in FORMATS:
        raise UserError(f"--format {format}: expected one of {', '.join(FORMATS)}")
    if pooling not in vectors.POOLING:
        raise UserError(f"--pooling {pooling}: expected one of {', '.join(vectors.POOLING)}")
    if output_file == "-" and format != "jsonl":
        raise UserError(f"--format {format} needs an --output_file")
    if output_file != "-":
        check_output(output_file, (input_file, pretrain_file, model_cfg, vocab))
    # Flags are checked before the weights are loaded, layers after it: they depend on the model.
    encoder = vectors.load(pretrain_file, model_cfg, vocab, max_len, batch_size, dtype)
    encoder.check_layers(chosen)
    found = encoder.extract(read_lines(input_file), chosen, pooling, input_file)
    if output_file == "-":
        # Each line is written as it is done, so that a program at the other end need not wait.
        for i, text in enumerate(found):
            sys.stdout.write(as_json(i, text, chosen) + "\n")
            sys.stdout.flush()
        return
    with whole_file(output_file) as f:
        if format == "jsonl":
            for i, text in enumerate(found):
                f.write((as_json(i, text, chosen) + "\n").encode())
        else:
            write_arrays(f, format, found, (len(chosen), encoder.model.cfg.dim))


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
    # A text with tabs is one text: form "tsv" only says how lines end.
    for line in open_text(file, "tsv", "lines")[1]:
        yield line.rstrip("\n").removesuffix("\r")


def as_json(number: int, text: vectors.Vectors, layers: list[int]) -> str:
    """A line of Google's format, which calls it `linex_index`; numbers have six decimals."""
    # Six decimals, as extract_features.py writes them. In float64, as rounding a float32 gives no
    # short decimals.
    rounded = np.round(text.values.astype(np.float64), 6).tolist()
    # Pooled: a vector for each layer, and no tokens.
    if text.values.ndim == 2:
        line: dict[str, Any] = {"linex_index": number, "layers": numbered(layers, rounded)}
        return json_text(line, f"text {number}")
    features = [
        {"token": token, "layers": numbered(layers, values)}
        for token, values in zip(text.tokens, rounded, strict=True)
    ]
    return json_text({"linex_index": number, "features": features}, f"text {number}")


def numbered(layers: list[int], values: list) -> list[dict[str, Any]]:
    """The vectors of some layers, with their numbers."""
    return [{"index": i, "values": vector} for i, vector in zip(layers, values, strict=True)]


def write_arrays(
    f: BinaryIO, format: str, found: Iterator[vectors.Vectors], shape: tuple[int, int]
) -> None:
    """`values` and `starts` as npz or safetensors.

    The values go through a file, so that memory does not grow.
    """
    # Where each text starts among the rows of `values`, and the end.
    ends = [0]
    with tempfile.TemporaryFile() as values:
        for text in found:
            part = np.ascontiguousarray(text.values.reshape(-1, *shape), np.float32)
            values.write(part.data)
            ends.append(ends[-1] + len(part))
        starts, size = np.array(ends, np.int64), values.tell()
        # The number of rows, which the header states, is known only now.
        values.seek(0)
        write = write_npz if format == "npz" else write_safetensors
        write(f, starts, values, size, (ends[-1], *shape))


def write_npz(
    f: BinaryIO, starts: np.ndarray, values: BinaryIO, size: int, shape: tuple[int, ...]
) -> None:
    """`starts`, and float32 `values` that are copied from a file."""
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    with zipfile.ZipFile(f, "w") as archive:
        with archive.open("starts.npy", "w") as member:
            np.lib.format.write_array(member, starts)
        # zip64 from the start: the size is unknown, and may be more than 4 GB.
        with archive.open("values.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            shutil.copyfileobj(values, member)


def write_safetensors(
    f: BinaryIO, starts: np.ndarray, values: BinaryIO, size: int, shape: tuple[int, ...]
) -> None:
    """`starts`, and float32 `values` of `size` bytes that are copied from a file."""
    middle = starts.nbytes
    # Offsets count from the end of the header.
    about = {
        "starts": {"dtype": "I64", "shape": [len(starts)], "data_offsets": [0, middle]},
        "values": {"dtype": "F32", "shape": shape, "data_offsets": [middle, middle + size]},
    }
    header = json.dumps(about).encode()
    # The data begin at a multiple of eight bytes.
    header += b" " * (-len(header) % 8)
    f.write(len(header).to_bytes(8, "little") + header + starts.tobytes())
    shutil.copyfileobj(values, f)


# ------------------------------------------------------------------------------------------ similar


def similar(
    pretrain_file: str,
    input_file: str,
    query: str,
    n: int = 10,
    pooling: str | None = None,
    layer: int = -1,
    max_len: int | None = None,
    model_cfg: str | None = None,
    vocab: str | None = None,
) -> None:
    """Print the lines of a text that are most like a query, by the cosine of their vectors.

    Args:
        Data:
            input_file: a text a line; `-`: standard input.
            query: a text.
            n: how many lines to print; 0: all.
        Vectors:
            layer: of the encoder; -1 the last.
            pooling: mean or max over the tokens, or cls; default: what the folder of a sentence
                encoder says, else mean.
            max_len: tokens of a line at most; the rest is cut off; default: what the folder says,
                else 128.
        Weights:
            pretrain_file: a TensorFlow checkpoint, a Hugging Face folder, a .pt, or a name of
                `checkpoint.py list`.
            model_cfg: JSON of the model's shape; default: what lies beside the weights.
            vocab: vocab.txt; default: what lies beside the weights.
    """
    if pooling is not None and pooling not in vectors.POOLING[1:]:
        raise UserError(f"--pooling {pooling}: expected one of {', '.join(vectors.POOLING[1:])}")
    if n < 0:
        raise UserError(f"--n {n}: expected 0 or more")
    if not query.strip():
        raise UserError("--query is empty; expected a text")
    encoder = vectors.load(pretrain_file, model_cfg, vocab, max_len)
    encoder.check_layers([layer])
    pooling = pooling or encoder.usual_pooling
    lines = [line for line in read_lines(input_file) if line.strip()]
    if not lines:
        raise UserError(f"{input_file} has no lines; expected a text a line")
    # The query is the first text, so that one pass serves all.
    texts = encoder.extract([query, *lines], [layer], pooling, f"--query and {input_file}")
    found = np.stack([text.values[0] for text in texts])
    scores = cosine(found[1:], found[:1])
    for i in np.argsort(-scores, kind="stable")[: n or None]:
        print(f"{scores[i]:.4f}\t{lines[i]}", file=data_stream())


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, D), (N or 1, D) -> (N,)"""
    return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


# ---------------------------------------------------------------------------------------- few shots


def fewshot(
    pretrain_file: str,
    task: str,
    data_dir: str | None = None,
    data_file: str | None = None,
    eval_file: str | None = None,
    shots: str = ",".join(map(str, few.SHOTS)),
    draws: int = 5,
    select: str = "train",
    max_len: int = 128,
    out: str | None = None,
    text_a: str | None = None,
    text_b: str | None = None,
    label: str | None = None,
    labels: str | None = None,
    header: bool | None = None,
    model_cfg: str | None = None,
    vocab: str | None = None,
) -> None:
    """Judge an encoder without training it: accuracy on dev from k examples of each class.

    Args:
        Data:
            task: as for classify.py: sst2, mnli ... csv.
            data_dir: a folder of GLUE or SuperGLUE, instead of data_file and eval_file.
            data_file: to draw examples from.
            eval_file: to measure on.
            max_len: longest input in tokens.
        Your own columns:
            text_a: column of the text, as for classify.py.
            text_b: column of a second text.
            label: column of the label.
            labels: the labels, with commas between them.
            header: whether the first row names the columns.
        Measurement:
            shots: comma list of k.
            draws: how many fixed draws; mean and spread are over them.
            select: what the strength of the ridge is chosen on: train (examples held out) or dev,
                as the original did.
            out: JSON to write the results to.
        Weights:
            pretrain_file: weights with a pooler: a TensorFlow checkpoint, a Hugging Face folder, a
                .pt, or a name of `checkpoint.py list`.
            model_cfg: JSON of the model's shape; default: what lies beside the weights.
            vocab: vocab.txt; default: what lies beside the weights.
    """
    if select not in ("train", "dev"):
        raise UserError(f"--select {select}: expected train or dev")
    wanted = integers("shots", shots)
    if min(wanted) < 1 or draws < 1:
        raise UserError(f"--shots {shots} --draws {draws}: expected 1 or more")
    kind = own_task(get_task(task), text_a, text_b, label, labels, header)
    if data_dir:
        for name, value in (("data_file", data_file), ("eval_file", eval_file)):
            if value:
                raise UserError(f"--data_dir has train and dev already; leave out --{name}")
        data_file, eval_file = file_in(data_dir, "train.tsv"), file_in(data_dir, kind.dev[0])
    if not data_file or not eval_file:
        raise UserError("fewshot needs --data_dir, or --data_file and --eval_file")
    if out:
        check_output(out, (data_file, eval_file, pretrain_file, model_cfg, vocab))
    judge = few.Judge(kind, data_file, eval_file, wanted, draws, select)
    encoder = vectors.load(pretrain_file, model_cfg, vocab, max_len, head="pooler")
    files = f"{data_file} and {eval_file}"
    results = judge(functools.partial(encoder.pool, file=files))
    for result in results:
        print(f"{result.k:5} of each class: {result.mean:.4f} +- {result.spread:.4f}")
    if out:
        found = {str(result.k): vars(result) for result in results}
        write_json(Path(out), {"task": kind.name, "select": select, "shots": found})


# ------------------------------------------------------------------------- the masked-language head


def fill(
    pretrain_file: str,
    texts: list[str] | None = None,
    top: int = 5,
    words: str | None = None,
    max_len: int | None = None,
    batch_size: int = 32,
    dtype: str = "fp32",
    model_cfg: str | None = None,
    vocab: str | None = None,
) -> None:
    """Print the words that fit best where a text has [MASK].

    A table with tabs: the number of the text, from 0, of its [MASK], the word, its probability.

    Args:
        What to do:
            texts: each with one [MASK] or more; `text a ||| text b` is a pair; default: the lines
                of standard input.
            top: how many words of each [MASK].
            words: comma list of the words to choose from; default: all of the vocabulary.
        Computing:
            max_len: tokens of a text at most; default: as many as the model takes.
            batch_size: texts that are computed at once.
            dtype: of matrix products: fp32, bf16 or, on a CPU, int8.
        Weights:
            pretrain_file: weights with a masked-language head: a TensorFlow checkpoint, a Hugging
                Face folder, a .pt, or a name of `checkpoint.py list`.
            model_cfg: JSON of the model's shape; default: what lies beside the weights.
            vocab: vocab.txt; default: what lies beside the weights.
    """
    filler = blanks.load(pretrain_file, model_cfg, vocab, max_len, batch_size, dtype)
    candidates = words.split(",") if words is not None else None
    found = filler.fill(texts or read_lines("-"), top, candidates)
    print("index\tmask\tword\tprobability")
    for index, masks in enumerate(found):
        for mask, best in enumerate(masks):
            for word, probability in best:
                line = f"{index}\t{mask}\t{word}\t{probability:.6f}"
                print(line, file=data_stream())
        # Whoever reads the other end of a pipe need not wait.
        sys.stdout.flush()


def score(
    pretrain_file: str,
    texts: list[str] | None = None,
    max_len: int | None = None,
    batch_size: int = 32,
    dtype: str = "fp32",
    model_cfg: str | None = None,
    vocab: str | None = None,
) -> None:
    """Print how likely a text is: the sum over its tokens of ln P(token | the others).

    A table with tabs: the number of the text, from 0, the sum, the number of tokens, the text.

    Args:
        What to do:
            texts: one or more; `text a ||| text b` is a pair; default: the lines of standard input.
        Computing:
            max_len: tokens of a text at most; default: as many as the model takes.
            batch_size: copies of texts, each with another token masked, that are computed at once.
            dtype: of matrix products: fp32, bf16 or, on a CPU, int8.
        Weights:
            pretrain_file: weights with a masked-language head: a TensorFlow checkpoint, a Hugging
                Face folder, a .pt, or a name of `checkpoint.py list`.
            model_cfg: JSON of the model's shape; default: what lies beside the weights.
            vocab: vocab.txt; default: what lies beside the weights.
    """
    scorer = blanks.load(pretrain_file, model_cfg, vocab, max_len, batch_size, dtype)
    print("index\tscore\ttokens\ttext")
    for index, found in enumerate(scorer.score(texts or read_lines("-"))):
        # A tab or a line's end in a text would look like the table's.
        text = " ".join(found.text.split())
        line = f"{index}\t{found.score:.6f}\t{found.n_tokens}\t{text}"
        print(line, file=data_stream(), flush=True)


if __name__ == "__main__":
    command(extract, similar, fewshot, fill, score)

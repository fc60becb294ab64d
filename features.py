"""Texts to vectors: write them, rank by them, judge an encoder by them.

$ python features.py extract --pretrain_file FOLDER --input_file lines.txt --output_file out.jsonl
--layers=-1,-2,-3,-4 $ python features.py similar --pretrain_file FOLDER --input_file lines.txt
--query "a dog runs" $ python features.py fewshot --pretrain_file FOLDER --task sst2 --data_dir
GLUE/SST-2
"""

import json
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

import vectors
from cli import command
from tasks import fewshot as few
from tasks.sentences import get_task, own_task
from tasks.tables import open_text
from utils import UserError, refuse, whole_file, write_json

FORMATS = ("jsonl", "npz", "safetensors")


# ------------------------------------------------------------------------------------------ extract


def extract(
    pretrain_file: str,
    input_file: str,
    output_file: str,
    layers: str = "-1,-2,-3,-4",
    pooling: str = "none",
    format: str = "jsonl",
    max_len: int = 128,
    batch_size: int = 32,
    dtype: str = "fp32",
    model_cfg: str | None = None,
    vocab: str | None = None,
    do_lower_case: bool | None = None,
) -> None:
    """Write the vectors of every line of a text: `text`, or `text a ||| text b`.

    Args:
        pretrain_file: a TensorFlow checkpoint, a Hugging Face folder, a .pt.
        input_file: a text a line; `-`: standard input.
        output_file: the file to write, whole or not at all; `-`: standard output (jsonl only).
        layers: comma list: -1 the last, -2 the one before.
        pooling: none: of every token; cls: of [CLS]; mean: the mean over the tokens.
        format: jsonl (Google's), or npz or safetensors: `values` (tokens, layers, D), `starts`
            (lines + 1).
        max_len: tokens of a line at most, the rest is cut off.
        batch_size: lines that are computed at once.
        dtype: of matrix products: fp32 or bf16.
        model_cfg: JSON of the model's shape; default: what lies beside the weights.
        vocab: vocab.txt; default: what lies beside the weights.
        do_lower_case: only to insist; it follows from the checkpoint.
    """
    try:
        chosen = [int(layer) for layer in layers.split(",")]
    except ValueError:
        raise UserError(
            f"--layers {layers}: expected numbers with commas between them, such as -1,-2"
        ) from None
    if format not in FORMATS:
        raise UserError(f"--format {format}: expected one of {', '.join(FORMATS)}")
    if pooling not in vectors.POOLING:
        raise UserError(f"--pooling {pooling}: expected one of {', '.join(vectors.POOLING)}")
    if output_file == "-" and format != "jsonl":
        raise UserError(f"--format {format} needs an --output_file")
    encoder = vectors.load(
        pretrain_file, model_cfg, vocab, do_lower_case, max_len, batch_size, dtype
    )
    encoder.check(chosen)
    found = encoder.extract(texts(input_file), chosen, pooling)
    if output_file == "-":
        for i, text in enumerate(found):
            sys.stdout.write(as_json(i, text, chosen) + "\n")
            sys.stdout.flush()
        return
    with whole_file(output_file) as f:
        if format == "jsonl":
            for i, text in enumerate(found):
                f.write((as_json(i, text, chosen) + "\n").encode())
        else:
            write_arrays(f, format, found, (len(chosen), encoder.model.transformer.cfg.dim))


def texts(file: str) -> Iterator[str]:
    """The lines of a file, without their ends."""
    for line in open_text(file, "tsv")[1]:
        yield line.rstrip("\n").removesuffix("\r")


def as_json(number: int, text: vectors.Vectors, layers: list[int]) -> str:
    """A line of Google's format (`linex_index` is its name there), numbers rounded to six decimals."""
    rounded = np.round(text.values.astype(np.float64), 6).tolist()
    if text.values.ndim == 2:
        return json.dumps({"linex_index": number, "layers": named(layers, rounded)})
    return json.dumps(
        {
            "linex_index": number,
            "features": [
                {"token": token, "layers": named(layers, values)}
                for token, values in zip(text.tokens, rounded, strict=True)
            ],
        }
    )


def named(layers: list[int], values: list) -> list[dict[str, Any]]:
    """The vectors of some layers, with their numbers."""
    return [
        {"index": layer, "values": vector} for layer, vector in zip(layers, values, strict=True)
    ]


def write_arrays(
    f: BinaryIO, format: str, found: Iterator[vectors.Vectors], shape: tuple[int, int]
) -> None:
    """`values` and `starts` as npz or safetensors; the values go through a file, so that memory
    does not grow.
    """
    ends = [0]
    with tempfile.TemporaryFile() as values:
        for text in found:
            part = np.ascontiguousarray(text.values.reshape(-1, *shape), np.float32)
            values.write(part.data)
            ends.append(ends[-1] + len(part))
        starts, size = np.array(ends, np.int64), values.tell()
        values.seek(0)
        if format == "npz":
            with zipfile.ZipFile(f, "w") as archive:
                with archive.open("starts.npy", "w") as member:
                    np.lib.format.write_array(member, starts)
                with archive.open("values.npy", "w", force_zip64=True) as member:
                    header = {"descr": "<f4", "fortran_order": False, "shape": (ends[-1], *shape)}
                    np.lib.format.write_array_header_1_0(member, header)
                    shutil.copyfileobj(values, member)
            return
        at = [0, starts.nbytes, starts.nbytes + size]
        about = json.dumps(
            {
                "starts": {"dtype": "I64", "shape": [len(starts)], "data_offsets": at[:2]},
                "values": {"dtype": "F32", "shape": [ends[-1], *shape], "data_offsets": at[1:]},
            }
        ).encode()
        about += b" " * (-len(about) % 8)
        f.write(len(about).to_bytes(8, "little") + about + starts.tobytes())
        shutil.copyfileobj(values, f)


# ------------------------------------------------------------------------------------------ similar


def similar(
    pretrain_file: str,
    input_file: str,
    query: str,
    n: int = 10,
    pooling: str = "mean",
    layer: int = -1,
    max_len: int = 128,
    model_cfg: str | None = None,
    vocab: str | None = None,
    do_lower_case: bool | None = None,
) -> None:
    """Print the lines of a text that are most like a query, by the cosine of their vectors.

    Args:
        pretrain_file: a TensorFlow checkpoint, a Hugging Face folder, a .pt.
        input_file: a text a line; `-`: standard input.
        query: a text.
        n: how many lines to print; 0: all.
        pooling: mean over the tokens, or cls.
        layer: of the encoder; -1 the last.
        max_len: tokens of a line at most, the rest is cut off.
        model_cfg: JSON of the model's shape; default: what lies beside the weights.
        vocab: vocab.txt; default: what lies beside the weights.
        do_lower_case: only to insist; it follows from the checkpoint.
    """
    if pooling not in vectors.POOLING[1:]:
        raise UserError(f"--pooling {pooling}: expected one of {', '.join(vectors.POOLING[1:])}")
    if not query.strip():
        raise UserError("--query is empty; expected a text")
    encoder = vectors.load(pretrain_file, model_cfg, vocab, do_lower_case, max_len)
    encoder.check([layer])
    lines = [line for line in texts(input_file) if line.strip()]
    if not lines:
        raise UserError(f"{input_file} has no lines; expected a text a line")
    found = np.stack(
        [text.values[0] for text in encoder.extract([query, *lines], [layer], pooling)]
    )
    scores = cosine(found[1:], found[:1])
    for i in np.argsort(-scores, kind="stable")[: n or None]:
        print(f"{scores[i]:.4f}\t{lines[i]}")


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
    do_lower_case: bool | None = None,
) -> None:
    """Judge an encoder without training it: accuracy on dev from k examples of each class.

    Args:
        pretrain_file: weights with a pooler: a TensorFlow checkpoint, a Hugging Face folder, a .pt.
        task: as for classify.py: sst2, mnli ... csv.
        data_dir: a folder of GLUE; or name the files:
        data_file: to draw examples from.
        eval_file: to measure on.
        shots: comma list of k.
        draws: how many fixed draws; mean and spread are over them.
        select: what the strength of the ridge is chosen on: train (examples held out) or dev, as
            the original did.
        max_len: longest input in tokens.
        out: JSON to write the results to.
        text_a: column of the text, as for classify.py.
        text_b: column of a second text.
        label: column of the label.
        labels: the labels, with commas between them.
        header: whether the files have one.
        model_cfg: JSON of the model's shape; default: what lies beside the weights.
        vocab: vocab.txt; default: what lies beside the weights.
        do_lower_case: only to insist; it follows from the checkpoint.
    """
    if select not in ("train", "dev"):
        raise UserError(f"--select {select}: expected train or dev")
    try:
        wanted = [int(k) for k in shots.split(",")]
    except ValueError:
        raise UserError(f"--shots {shots}: expected numbers with commas between them") from None
    if min(wanted) < 1 or draws < 1:
        raise UserError(f"--shots {shots} --draws {draws}: expected 1 or more")
    if data_dir:
        refuse(
            "--data_dir has train and dev already; leave out",
            data_file=data_file,
            eval_file=eval_file,
        )
    elif not (data_file and eval_file):
        raise UserError("fewshot needs --data_dir, or --data_file and --eval_file")
    kind = own_task(get_task(task), text_a, text_b, label, labels, header)
    names = (
        [f"{data_dir}/{name}" for name in ("train.tsv", kind.dev[0])]
        if data_dir
        else [str(data_file), str(eval_file)]
    )
    judge = few.Judge(kind, names[0], names[1], wanted, draws, select)
    results = judge(
        vectors.load(pretrain_file, model_cfg, vocab, do_lower_case, max_len, head="pooler")
    )
    for result in results:
        print(f"{result.k:5} of each class: {result.mean:.4f} +- {result.spread:.4f}")
    if out:
        write_json(
            Path(out),
            {"task": kind.name, "select": select, "shots": {str(r.k): vars(r) for r in results}},
        )


if __name__ == "__main__":
    command(extract, similar, fewshot)

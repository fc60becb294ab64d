"""Weights from and for others: Google's TensorFlow checkpoints, Hugging Face's folders, ONNX.

$ python checkpoint.py convert uncased_L-12_H-768_A-12 bert/base.pt  # TensorFlow, HF -> ours
$ python checkpoint.py convert runs/mrpc my-model  # anything -> a Hugging Face folder
$ python checkpoint.py convert runs/mrpc model.onnx
$ python checkpoint.py inspect FILE
$ python checkpoint.py compare A B
$ python checkpoint.py list  # BERT models that can be named instead of a file
$ python checkpoint.py runs runs  # what was trained there, and how well

source = read("uncased_L-12_H-768_A-12")
write_hugging_face(source, Path("my-model"), lower_case=True)
"""

import dataclasses
import datetime
import math
import re
import sys
from pathlib import Path
from typing import Any

from system.cli import command
from system.files import check_unused, whole_folder
from system.locks import locked
from utils import UserError, in_a_line, warn


def __getattr__(name: str) -> Any:
    """read, load, Checkpoint and write_hugging_face, for which PyTorch is loaded."""
    if name == "write_hugging_face":
        from tasks import exports

        return exports.write_hugging_face
    if name in ("read", "load", "Checkpoint"):
        import pretrained

        return getattr(pretrained, {"Checkpoint": "Pretrained"}.get(name, name))
    raise AttributeError(f"module 'checkpoint' has no attribute {name!r}")


# ------------------------------------------------------------------------------------------ convert

# Endings of files that are not written here; a folder may have any other in its name.
OTHER_FILES = ".bin .safetensors .pth .ckpt .h5 .msgpack .tflite .pb .npz .zip .json".split()


def convert(
    source: str,
    target: str,
    model_cfg: str | None = None,
    vocab: str | None = None,
    int8: bool = False,
    onnx: bool = False,
) -> None:
    """Convert weights, as the command of this name does, whose fields the arguments are."""
    out = Path(target)
    ending = out.suffix.lower()
    if int8 and not (onnx or ending == ".onnx"):
        raise UserError(f"{target}: --int8 is for a .onnx; leave it out")
    if onnx and ending in (".pt", ".onnx"):
        raise UserError(f"{target}: --onnx is for a folder; leave it out")
    check_unused(out)
    if ending in OTHER_FILES:
        raise UserError(
            f"{target}: files ending in {out.suffix} are not written here; expected a name ending "
            "in .pt or .onnx, or a folder's"
        )
    from formats.vocab import find_vocabulary
    from models import Config
    from pretrained import read
    from tasks import exports

    found = read(source, Config.from_json(model_cfg) if model_cfg else None)
    found.check_labels()
    vocabulary = find_vocabulary(vocab, found.file)
    vocabulary.check_size(found.config.vocab_size, found.file)
    left_out, more = list[str](), ""
    if ending == ".pt":
        # The files of two models that are written at once would mix, each of them whole.
        with locked(out.parent / ".convert.lock"):
            check_unused(out)
            exports.write_with_vocab(out, found, vocabulary)
    elif ending == ".onnx":
        warn("Exporting and checking, which takes up to a minute")
        left_out, more = exports.write_onnx(out, found, vocabulary, int8)
    else:
        # A folder is renamed when it is complete, so that nobody finds half a model.
        with whole_folder(out) as folder:
            left_out = exports.write_hugging_face(found, folder, vocabulary)
            if onnx:
                warn("Exporting and checking, which takes up to a minute")
                file = folder / "onnx" / ("model_quantized.onnx" if int8 else "model.onnx")
                _, more = exports.write_onnx(file, found, vocabulary, int8, pooled=False)
    heads = ", ".join(head for head in found.heads if head not in left_out) or "none"
    message = f"{found.describe()} -> {target}: {len(found.tensors)} tensors, heads: {heads}"
    if left_out:
        message += f"; left out, as no model has all of them: {', '.join(left_out)}"
    print(message + more)


@dataclasses.dataclass
class Convert:
    """Convert weights: to TARGET.pt, this project's format, to TARGET.onnx, or to a folder.

    A folder is Hugging Face's. A .onnx runs without PyTorch; to write one, pip install onnxscript
    onnxruntime.
    """

    # a TensorFlow checkpoint, a Hugging Face folder or file, a .pt, or a folder with one of them
    # (of a run: the best checkpoint)
    source: str
    # the .pt, .onnx or folder to write, whole or not at all; what it holds already is not
    # overwritten
    target: str
    model_cfg: str | None = None  # the model's configuration, where none lies beside SOURCE
    vocab: str | None = None  # vocab.txt, where none lies beside SOURCE
    int8: bool = False  # of a .onnx: weights of a byte each
    # in a folder also onnx/model.onnx, which optimum, transformers.js and others read
    onnx: bool = False

    def run(self) -> None:
        convert(self.source, self.target, self.model_cfg, self.vocab, self.int8, self.onnx)


# ------------------------------------------------------------------------------------------ looking


@dataclasses.dataclass
class Inspect:
    """Print what a file holds: names, shapes and types as they stand there, and the parameters."""

    file: str  # a TensorFlow checkpoint, a Hugging Face folder or file, a .pt, or a folder

    def run(self) -> None:
        from formats.finding import read_raw, settings_beside
        from formats.names import HEADS, OURS, names_of, table_rows
        from formats.translate import head_of
        from formats.weights import is_plain

        kind, path, tensors, extra = read_raw(self.file)
        n_odd = 0
        for name, t in tensors.items():
            shape, dtype = "x".join(map(str, t.shape)), str(t.dtype).removeprefix("torch.")
            # Sparse tensors and alike have no numbers to look at one by one.
            odd = int((~t.isfinite()).sum()) if is_plain(t) else 0
            n_odd += odd
            print(
                f"{in_a_line(name):55} {shape:>12}  {dtype}"
                + (f"  {odd} NaN or infinite" if odd else "")
            )
        heads = {row.head for row in table_rows(1) if {*names_of(row, kind)[:1]} & tensors.keys()}
        # Several heads are called "classifier" elsewhere; what lies beside it tells them apart.
        if kind != OURS and "classifier" in heads:
            _, settings = settings_beside(path)
            heads = heads - {"classifier"} | {head_of(settings, tensors, kind)}
        names = ", ".join(head for head in HEADS if head in heads) or "none"
        step = f", step {extra['step']}" if "step" in extra else ""
        total = sum(t.numel() for t in tensors.values())
        message = f"{path}: {kind}{step}; heads: {names}; {total:,} parameters"
        print(message + (f", {n_odd:,} of them NaN or infinite" if n_odd else ""))


@dataclasses.dataclass
class Compare:
    """Print the largest difference, tensor by tensor.

    Exit status 1 if one is over the tolerance or has no partner.
    """

    a: str  # a checkpoint, as for convert
    b: str  # another one
    tolerance: float = 0.0  # the largest difference that is none

    def run(self) -> None:
        from pretrained import read

        left, right = read(self.a, finite=False).tensors, read(self.b, finite=False).tensors
        worst, alone = 0.0, 0
        for name in left | right:
            if name not in left or name not in right:
                alone += 1
                print(f"{name:45} only in {self.a if name in left else self.b}")
            elif left[name].shape != right[name].shape:
                alone += 1
                print(f"{name:45} of two shapes")
            else:
                difference = (left[name].double() - right[name].double()).abs().max().item()
                # A NaN compares with nothing, and stays the largest difference.
                worst = difference if not (difference <= worst or math.isnan(worst)) else worst
                print(f"{name:45} {difference:.3e}")
        print(f"largest difference {worst:.3e}, {alone} tensors without a partner")
        if alone or not worst <= self.tolerance:
            sys.exit(1)


@dataclasses.dataclass
class List:
    """Print the BERT models that a name stands for, wherever weights are asked for."""

    def run(self) -> None:
        from formats import hub

        head = ["name", "layers x width", "casing", "languages", "what for"]
        for name, *cells in [head, *([name, *others] for name, _, *others in hub.FAMILY)]:
            print(f"{name:37}  {cells[0]:15} {cells[1]:8} {cells[2]:14} {cells[3]}")
        print(f"{hub.SMALL_LINE}: English, uncased, for experiments and small machines")
        print("hf:owner/name, or hf:owner/name@revision, is any BERT model of Hugging Face's hub")


# Settings that say what was trained on what, not how: a column for each would say nothing.
IDENTITY = re.compile(r"sha256 .*|model_cfg\..*|weights|device|labels|mean|spread|class_weights")


@dataclasses.dataclass
class Runs:
    """Print the runs in a folder: task, best evaluation, date, and the settings that differ."""

    folder: str  # of runs, or of folders of runs

    def run(self) -> None:
        from tasks.reports import aligned
        from training.runs import found_in

        found = found_in(Path(self.folder))
        if not found:
            raise UserError(f"{self.folder} has no runs; expected folders with a run.json")
        settings = [row["settings"] for row in found]
        names = sorted({name for one in settings for name in one if not IDENTITY.fullmatch(name)})
        names = [name for name in names if len({str(one.get(name)) for one in settings}) > 1]
        names = [name for name in names if name != "task"]
        table = [["run", "task", "best", "date", *names]]
        for row in found:
            values = row["settings"]
            best = "{} {:.4f}".format(*row["best"]) if row["best"] else "-"
            date = datetime.datetime.fromtimestamp(row["time"]).strftime("%Y-%m-%d %H:%M")
            place = str(row["folder"].relative_to(self.folder))
            cells = [str(values.get(name, "-")) for name in names]
            table.append([place, str(values.get("task", "-")), best, date, *cells])
        print(aligned(table))


if __name__ == "__main__":
    command(Convert, Inspect, Compare, List, Runs)

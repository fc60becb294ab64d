"""Weights from and for others: Google's TensorFlow checkpoints, Hugging Face's folders, ONNX.

$ python checkpoint.py convert uncased_L-12_H-768_A-12 bert/base.pt  # TensorFlow, HF -> ours
$ python checkpoint.py convert runs/mrpc my-model  # anything -> a Hugging Face folder
$ python checkpoint.py convert runs/mrpc model.onnx
$ python checkpoint.py inspect FILE
$ python checkpoint.py compare A B
$ python checkpoint.py list  # BERT models that can be named instead of a file

source = read("uncased_L-12_H-768_A-12")    # loading.py's
write_hugging_face(source, Path("my-model"), lower_case=True)
"""

import dataclasses
import json
import math
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor

from formats import cards, hub, onnx
from formats.loading import MODELS, Checkpoint, load, read, read_raw, settings_beside
from formats.names import ARCHITECTURES, CLASSIFIERS, HEADS, LABELLED, OURS, names_of, table_rows
from formats.translate import head_of
from formats.vocab import (
    casing,
    check_size,
    find_vocab,
    load_vocab,
    save_for_transformers,
    save_vocab,
    stated_rules,
)
from formats.weights import is_plain, write_pt
from models import Config
from system.cli import command
from system.files import read_json, whole_file, whole_folder, write_json
from system.locks import locked
from tasks.sentences import task_of_labels
from utils import UserError, in_a_line, note, typed

# ------------------------------------------------------------------------------------------ writing


def write_hugging_face(
    source: Checkpoint, folder: Path, lower_case: bool, vocab: Path | None = None
) -> list[str]:
    """A folder that `transformers` loads: config.json, model.safetensors, vocabulary, casing.

    Returns the heads left out, which the class of transformers that fits best has no place for.
    """
    from safetensors.torch import save

    # ARCHITECTURES ends with BertModel, which needs no head, so that there is always one.
    architecture = next(name for name, heads in ARCHITECTURES.items() if heads <= set(source.heads))
    heads = ARCHITECTURES[architecture]
    prefix = ""
    # BertModel's own names have no prefix, and its pooler is optional.
    if architecture == "BertModel":
        heads, prefix = {"pooler"}, "bert."  # the bare encoder goes without it
    own = CLASSIFIERS.get(architecture, "classifier")
    tensors: dict[str, Tensor] = {}
    for row in table_rows(source.config.n_layers):
        if row.ours in source.tensors and row.head in heads | {"transformer"}:
            parts = source.tensors[row.ours].float().chunk(len(row.hugging_face))
            for name, part in zip(row.hugging_face, parts, strict=True):
                # Our tags and choice are called "classifier" by their own classes.
                name = re.sub(rf"^{own}\.", "classifier.", name.removeprefix(prefix))
                # safetensors writes contiguous memory alone.
                tensors[name] = part.contiguous()
    settings = {
        "architectures": [architecture],
        "model_type": "bert",
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        **source.config.to_released(),
        **label_settings(source, heads),
    }
    # transformers reads the metadata to know that the tensors are laid out as PyTorch's are.
    with whole_file(folder / "model.safetensors") as f:
        f.write(save(tensors, metadata={"format": "pt"}))
    if vocab:
        rules, _ = stated_rules(vocab, source.folder / source.file.name)
        # A model that fills [MASK] is of no use to transformers where its text is split.
        masks, max_len = "masked_lm" in heads, source.config.max_len
        save_for_transformers(vocab, folder, lower_case, rules, max_len, masks)
    # Our settings of the task, so that the folder is read back without a flag.
    beside = source.folder
    for name, values in task_settings(source).items():
        write_json(folder / name, values)
    best = typed(source.extra.get("best") or {}, dict[str, Any], f"{source.file}: best")
    head = next((name for name in cards.PIPELINES if name in heads), None)
    with whole_file(folder / "README.md") as f:
        f.write(cards.card(beside, head, best).encode())
    # Last, since a folder with a config.json passes for a model.
    write_json(folder / "config.json", settings)
    return [head for head in source.heads if head not in heads]


def write_onnx(
    out: Path, source: Checkpoint, vocab: Path, lower_case: bool, int8: bool
) -> tuple[list[str], str]:
    """A model in ONNX, with labels and vocabulary; returns heads left out, and what was checked."""
    name = next(name for name, (_, heads) in MODELS.items() if heads <= set(source.heads))
    kind, heads = MODELS[name]
    more: dict[str, Any] = {"with_pooler": False} if name == "encoder" else {}
    if name in LABELLED:
        more["n_tags" if name == "tags" else "n_labels"] = len(source.tensors[f"{name}.bias"])
    model: Any = kind(source.config, **more)
    load(model, source)
    if name == "encoder":
        model = model.transformer
    metadata = {"head": name, "labels": json.dumps(source.labels)}
    # All that a model's folder holds beside the weights.
    rules, _ = stated_rules(vocab, source.file)
    with tempfile.TemporaryDirectory() as beside:
        folder = Path(beside)
        save_vocab(vocab, folder, lower_case, rules)
        write_json(folder / "config.json", source.config.to_json())
        for settings_file, values in own_settings(source).items():
            write_json(folder / settings_file, values)
        metadata |= {file.name: file.read_bytes().decode() for file in folder.iterdir()}
    # Line ends as Unix has them, for readers elsewhere.
    metadata["vocab.txt"] = "".join(f"{token}\n" for token in load_vocab(vocab))
    worst = onnx.write(out, model, metadata, int8)
    checked = f"; onnxruntime's numbers differ from PyTorch's by at most {worst:.1e}"
    if int8:
        checked = f"; of random tokens, int8 changes the numbers by at most {worst:.1e}"
    return [head for head in source.heads if head not in heads], checked


def task_settings(source: Checkpoint) -> dict[str, Any]:
    """Our settings files beside weights that have a head to go with them: {name: contents}."""
    beside = source.folder
    used = set(source.heads) - {"pooler", "masked_lm", "next_sentence"}
    names = ("task.json", "squad.json") if used else ()
    return {name: read_json(beside / name) for name in names if (beside / name).is_file()}


def own_settings(source: Checkpoint) -> dict[str, Any]:
    """The same, and the labels where nothing more is known of a task."""
    settings = task_settings(source)
    if source.labels and "task.json" not in settings:
        settings["task.json"] = {"labels": source.labels}
        # That a text has several is known from a file that is not copied.
        task = task_of_labels(source) if "classifier" in source.heads else None
        if task and task.separator:
            settings["task.json"] = task.to_json()
    return settings


def label_settings(source: Checkpoint, heads: set[str]) -> dict[str, Any]:
    """Hugging Face's id2label, label2id and problem_type, where one of the heads has labels."""
    for head in LABELLED:
        if head in heads:
            n_labels = len(source.tensors[f"{head}.bias"])
            labels = source.labels or [f"LABEL_{i}" for i in range(n_labels)]
            kind = {}
            if head == "classifier":
                task = own_settings(source).get("task.json", {})
                kind = {"problem_type": cards.problem_type(task, n_labels)}
            return kind | {
                "id2label": {str(i): label for i, label in enumerate(labels)},
                "label2id": {label: i for i, label in enumerate(labels)},
            }
    return {}


def write_with_vocab(out: Path, source: Checkpoint, vocab: Path, lower_case: bool) -> None:
    """A .pt, and before it what belongs to it: whoever finds the .pt finds the rest too."""
    folder, settings = out.parent, own_settings(source)
    rules, _ = stated_rules(vocab, source.file)

    def same_rules() -> bool:
        there, _ = stated_rules(folder / "vocab.txt")
        if there.do_lower_case not in (None, lower_case):
            return False
        return there.unusual() == dataclasses.replace(rules, do_lower_case=lower_case).unusual()

    fits = {
        "vocab.txt": lambda: load_vocab(folder / "vocab.txt") == load_vocab(vocab),
        "tokenizer_config.json": same_rules,
    }
    # What is there already must fit, and what is new is removed again if writing fails.
    new = []
    for name in (*fits, *settings):
        path = folder / name
        if not path.exists():
            new.append(path)
        elif not (fits[name]() if name in fits else read_json(path) == settings[name]):
            raise UserError(
                f"{folder} holds another model's {name} already; name a target in a folder of its "
                "own"
            )
    try:
        save_vocab(vocab, folder, lower_case, rules)
        for name, values in settings.items():
            write_json(folder / name, values)
        contents = {"config": source.config.to_json(), "model": source.tensors}
        write_pt(out, contents)
    except BaseException:
        # A .pt that is there, as flushing the folder to the disk alone has failed, keeps its own.
        for path in [] if out.exists() else new:
            path.unlink(missing_ok=True)
        raise


# ----------------------------------------------------------------------------------------- commands

# Endings of files that are not written here; a folder may have any other in its name.
OTHER_FILES = ".bin .safetensors .pth .ckpt .h5 .msgpack .tflite .pb .npz .zip .json".split()


def check_free(out: Path) -> None:
    """UserError where something is there already, but for an empty folder where one is written."""
    # The working folder is not replaced: the shell would be left in a folder that is gone.
    is_empty_folder = out.is_dir() and not any(out.iterdir()) and not out.samefile(".")
    if out.exists() and not (is_empty_folder and out.suffix.lower() not in (".pt", ".onnx")):
        raise UserError(f"{out} exists already; name another target")


def convert(
    source: str,
    target: str,
    model_cfg: str | None = None,
    vocab: str | None = None,
    int8: bool = False,
) -> None:
    """Convert weights: to TARGET.pt, this project's format, to TARGET.onnx, or to a folder.

    A folder is Hugging Face's. A .onnx runs without PyTorch; to write one, pip install onnxscript
    onnxruntime.

    Args:
        source: a TensorFlow checkpoint, a Hugging Face folder or file, a .pt, or a folder with one
            of them (of a run: the best checkpoint).
        target: the .pt, .onnx or folder to write, whole or not at all; what it holds already is not
            overwritten.
        model_cfg: the model's configuration, where none lies beside SOURCE.
        vocab: vocab.txt, where none lies beside SOURCE.
        int8: of a .onnx: weights of a byte each.
    """
    out = Path(target)
    ending = out.suffix.lower()
    if int8 and ending != ".onnx":
        raise UserError(f"{target}: --int8 is for a .onnx; leave it out")
    check_free(out)
    if ending in OTHER_FILES:
        raise UserError(
            f"{target}: files ending in {out.suffix} are not written here; expected a name ending "
            "in .pt or .onnx, or a folder's"
        )
    found = read(source, Config.from_json(model_cfg) if model_cfg else None)
    found.check_labels()
    vocab_file = find_vocab(vocab, found.file)
    check_size(vocab_file, found.config.vocab_size, found.file)
    lower_case = casing(vocab_file, found.file)
    left_out, more = list[str](), ""
    if ending == ".pt":
        # The files of two models that are written at once would mix, each of them whole.
        with locked(out.parent / ".convert.lock"):
            check_free(out)
            write_with_vocab(out, found, vocab_file, lower_case)
    elif ending == ".onnx":
        note("Exporting and checking, which takes up to a minute")
        left_out, more = write_onnx(out, found, vocab_file, lower_case, int8)
    else:
        # A folder is renamed when it is complete, so that nobody finds half a model.
        with whole_folder(out) as folder:
            left_out = write_hugging_face(found, folder, lower_case, vocab_file)
    heads = ", ".join(head for head in found.heads if head not in left_out) or "none"
    message = f"{found.describe()} -> {target}: {len(found.tensors)} tensors, heads: {heads}"
    if left_out:
        message += f"; left out, as no model has all of them: {', '.join(left_out)}"
    print(message + more)


def inspect(file: str) -> None:
    """Print what a file holds: names, shapes and types as they stand there, and the parameters.

    Args:
        file: a TensorFlow checkpoint, a Hugging Face folder or file, a .pt, or a folder.
    """
    kind, path, tensors, extra = read_raw(file)
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


def compare(a: str, b: str, tolerance: float = 0.0) -> None:
    """Print the largest difference, tensor by tensor.

    Exit status 1 if one is over the tolerance or has no partner.

    Args:
        a: a checkpoint, as for convert.
        b: another one.
        tolerance: the largest difference that is none.
    """
    left, right = read(a, finite=False).tensors, read(b, finite=False).tensors
    worst, alone = 0.0, 0
    for name in left | right:
        if name not in left or name not in right:
            alone += 1
            print(f"{name:45} only in {a if name in left else b}")
        elif left[name].shape != right[name].shape:
            alone += 1
            print(f"{name:45} of two shapes")
        else:
            difference = (left[name].double() - right[name].double()).abs().max().item()
            # A NaN compares with nothing, and stays the largest difference.
            worst = difference if not (difference <= worst or math.isnan(worst)) else worst
            print(f"{name:45} {difference:.3e}")
    print(f"largest difference {worst:.3e}, {alone} tensors without a partner")
    if alone or not worst <= tolerance:
        sys.exit(1)


def list_() -> None:
    """Print the BERT models that a name stands for, wherever weights are asked for."""
    head = ["name", "layers x width", "casing", "languages", "what for"]
    for name, *cells in [head, *([name, *others] for name, _, *others in hub.family())]:
        print(f"{name:37}  {cells[0]:15} {cells[1]:8} {cells[2]:14} {cells[3]}")
    print(f"{hub.SMALL_LINE}: English, uncased, for experiments and small machines")
    print("hf:owner/name, or hf:owner/name@revision, is any BERT model of Hugging Face's hub")


if __name__ == "__main__":
    command(convert, inspect, compare, list_)

"""The weights that a path or a name means, and their tensors under the names that they have there.

file = find_weights("runs/mrpc")  # of a run the best checkpoint, of a folder what it holds
kind, file, tensors, extra = read_raw("uncased_L-12_H-768_A-12")
"""

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from formats import hub
from formats.names import DHLEE347, HUGGING_FACE, OURS, TENSORFLOW
from formats.translate import WORDS, as_hugging_face, without_wrapper
from formats.weights import (
    INDEX,
    OUR_NAME,
    WEIGHTS,
    check_tensors,
    checkpoints_in,
    read_pt,
    read_tensorflow,
    read_weights,
)
from models import Config
from system.files import check_file, check_model_files, read_json
from utils import UserError, nearest, short, typed, warn


def find_weights(source: str | Path) -> Path:
    """The weights that a path means, or a name: the file, the prefix, or the one in a folder."""
    if folder := hub.fetch(str(source)):
        return find_in_folder(folder)
    # A user may name any of the three files of a TensorFlow checkpoint, whose prefix they share.
    source = Path(re.sub(r"\.(index|meta|data-\d+-of-\d+)$", "", str(source)))
    is_weights = source.is_file() and (source.suffix in WEIGHTS or source.name.endswith(INDEX))
    if is_weights or Path(f"{source}.index").is_file():
        return source
    if source.suffix == ".zip" and source.is_file():
        return find_in_folder(hub.unzipped(source))
    if is_onnx(source) and source.is_file():
        raise UserError(
            f"{source} serves to evaluate and predict alone, as the `model_file` of the command "
            "that trained it; name the folder that it was made from"
        )
    if source.is_file():
        raise UserError(
            f"{source} is no checkpoint; expected {', '.join(WEIGHTS)}, a TensorFlow checkpoint's "
            "prefix or Google's .zip"
        )
    if source.is_dir():
        return find_in_folder(source)
    hint = nearest(str(source), [row[0] for row in hub.FAMILY], cutoff=0.8)
    raise UserError(
        f"{source} does not exist{hint}; expected a TensorFlow checkpoint, a Hugging Face folder, "
        "a .pt, or a name: hf:owner/name or one of `checkpoint.py list`"
    )


def find_in_folder(folder: Path) -> Path:
    """The weights in a folder; of a run the best checkpoint."""
    # safetensors first: it holds the same weights, and cannot run code.
    for kind in ("model.safetensors", "pytorch_model.bin"):
        for name in (kind, kind + INDEX):
            if (folder / name).is_file():
                return folder / name
    if files := checkpoints_in(folder):
        return best_of(files)
    if ours := sorted(folder.glob("*.pt")):
        return ours[-1]
    # By the numbers in the name: as text, step 900 would come after step 1000.
    by_step = sorted(
        folder.glob("*ckpt*.index"), key=lambda p: [int(n) for n in re.findall(r"\d+", p.stem)]
    )
    if by_step:
        return by_step[-1].with_suffix("")
    # The folder of several seeds holds no model itself.
    if seeds := sorted(folder.glob("seed-*/run.json")):
        return best_of_seeds(folder, seeds[0].parent)
    raise UserError(
        f"{folder} has no checkpoint; expected model.safetensors, pytorch_model.bin, "
        "model_steps_N.pt or NAME.ckpt.index in it"
    )


def best_of_seeds(folder: Path, one: Path) -> Path:
    """The checkpoint that the results.json of several seeds calls the best; which it is is said."""
    results = folder / "results.json"
    if not results.is_file():
        raise UserError(
            f"{folder} holds the runs of several seeds, and no results.json that says which is the "
            f"best: they have not ended; name one, such as {one}"
        )
    best = typed(read_json(results).get("best"), dict[str, Any], f"{results}: best")
    seed = typed(best.get("seed"), int, f"{results}: best: seed")
    name = typed(best.get("best_file"), str, f"{results}: best: best_file")
    # The folder may have been moved since; the names in it stay.
    file = folder / f"seed-{seed}" / Path(name).name
    check_file(file, f"the best of the seeds, as {results} says")
    warn(f"{folder} holds the runs of several seeds; the best is {file.parent}")
    return file


def best_of(files: list[Path]) -> Path:
    """Which of a run's checkpoints its folder stands for: the best evaluated, else the last."""
    # The newest file knows the best step of the whole run, which is all that is wanted of it.
    last = read_pt(files[-1], whole=False)
    best = last.get("best") if isinstance(last, dict) else None
    if not isinstance(best, dict):
        return files[-1]
    file = files[-1].with_name(f"model_steps_{best.get('step')}.pt")
    # An older best file may have been deleted; the newest stands for it.
    return file if file in files else files[-1]


def read_raw(source: str | Path) -> tuple[str, Path, dict[str, Tensor], dict[str, Any]]:
    """A checkpoint's kind, file, tensors under their names there, and what else our .pt holds."""
    file = find_weights(source)
    check_model_files(file.parent)
    # A .pt may be torch.save's file from elsewhere, for which read_pt() gives None.
    contents = read_pt(file) if file.suffix == ".pt" else None
    if contents is not None:
        tensors = contents.pop("model", None) if isinstance(contents, dict) else None
        if not isinstance(tensors, dict) or not all(
            isinstance(t, Tensor) for t in tensors.values()
        ):
            raise UserError(
                f"{file} has no entry 'model' of tensors; expected a checkpoint written by "
                "train.py or convert"
            )
    elif file.suffix in WEIGHTS or file.name.endswith(INDEX):
        tensors = read_weights(file)
    else:
        return TENSORFLOW, file, read_tensorflow(file), {}
    # A nested one has no shape to speak of.
    check_tensors({name: t for name, t in tensors.items() if t.is_nested}, file)
    if contents is not None:
        return OURS, file, tensors, contents
    tensors = without_wrapper(tensors, file)
    if WORDS[DHLEE347][0] in tensors:
        return DHLEE347, file, tensors, {}
    # The state dict of a model of ours, saved without what write_pt() adds.
    if OUR_NAME in tensors:
        return OURS, file, tensors, {}
    return HUGGING_FACE, file, as_hugging_face(tensors, file), {}


def is_onnx(source: Path) -> bool:
    """Whether a path names a .onnx; a run's folder may have any name."""
    return source.suffix.lower() == ".onnx" and not source.is_dir()


# ------------------------------------------------------------------------------ what lies beside it


def stated_config(
    file: Path, extra: dict[str, Any], beside: Path | None, settings: dict[str, Any]
) -> Config:
    """The configuration in a .pt, or the one beside weights."""
    if "config" in extra:
        values = typed(extra["config"], dict[str, Any], f"{file}: config")
        return Config.from_dict(values, file)
    if beside:
        return Config.from_dict(settings, beside)
    raise UserError(
        f"no config.json or bert_config.json beside {file}; name the configuration with `model_cfg`"
    )


def settings_beside(file: Path) -> tuple[Path | None, dict[str, Any]]:
    """The configuration beside weights, its file and what is in it."""
    for name in ("config.json", "bert_config.json"):
        # Hugging Face's name comes first: a folder that was converted may still have Google's file
        # too.
        if (beside := file.parent / name).is_file():
            return beside, read_json(beside)
    return None, {}


def saved_labels(folder: Path) -> list[str] | None:
    """The labels in a task.json, if there are any."""
    if not (file := folder / "task.json").is_file():
        return None
    return typed(read_json(file).get("labels"), list[str] | None, f"{file}: labels")


def released_labels(settings: dict[str, Any], file: Path) -> list[str] | None:
    """The labels in Hugging Face's configuration, in the order of their ids."""
    names = typed(settings.get("id2label") or {}, dict[str, str | int], f"{file}: id2label")
    where = "keys of id2label"
    # Either of the two says it; transformers writes both.
    if not names:
        ids = typed(settings.get("label2id") or {}, dict[str, int], f"{file}: label2id")
        names, where = {str(i): label for label, i in ids.items()}, "ids of label2id"
        if len(names) != len(ids):
            raise UserError(f"{file}: label2id gives two labels the same id; mend it")
    # Keys of a JSON object are text, and a gap would shift all labels after it.
    if sorted(names) != sorted(map(str, range(len(names)))):
        raise UserError(
            f"{file}: the {where} are {short(', '.join(names))}; expected 0 to {len(names) - 1}"
        )
    # A name may be a number, such as one of stars.
    return [str(names[str(i)]) for i in range(len(names))] or None

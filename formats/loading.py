"""The weights of a model: Google's TensorFlow checkpoints, Hugging Face's folders, our own .pt.

And those of github.com/dhlee347/pytorchic-bert, whose names are others.

source = read("uncased_L-12_H-768_A-12")    # a Checkpoint: our names, float32
model = Classifier(source.config)
load(model, source, fresh=("classifier",))
"""

import dataclasses
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from formats import hub
from formats.beside import check as check_beside
from formats.names import (
    DHLEE347,
    HEADS,
    HUGGING_FACE,
    LABELLED,
    ONNX,
    OURS,
    TENSORFLOW,
    table_rows,
)
from formats.onnx import OnnxFile
from formats.translate import (
    WORDS,
    as_hugging_face,
    foreign_prefixes,
    head_of,
    listed,
    to_ours,
    without_strange,
    without_unusable,
    without_wrapper,
)
from formats.weights import (
    INDEX,
    OUR_NAME,
    WEIGHTS,
    check_finite,
    check_tensors,
    checkpoints_in,
    read_pt,
    read_tensorflow,
    read_weights,
)
from models import (
    BertModel,
    Classifier,
    Config,
    MultipleChoice,
    PretrainModel,
    QuestionAnswering,
    Tagger,
)
from system.files import check_file, check_model_files, read_json
from utils import UserError, note, short, typed

# The model of each kind that ONNX files are of, and its heads; the first that a checkpoint fills.
MODELS: dict[str, tuple[type[BertModel], set[str]]] = {
    "classifier": (Classifier, {"pooler", "classifier"}),
    "tags": (Tagger, {"tags"}),
    "choice": (MultipleChoice, {"pooler", "choice"}),
    "answer": (QuestionAnswering, {"answer"}),
    "masked_lm": (PretrainModel, {"pooler", "masked_lm", "next_sentence"}),
    "pooler": (BertModel, {"pooler"}),
    "encoder": (BertModel, set()),
}


def shapes(config: Config, n_labels: int = 2) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter that a model of this configuration may have, by its name."""
    d, f, vocabulary = config.dim, config.dim_ff, config.vocab_size
    # The rows of each matrix, by the end of its module's name: (out, in), or (entries, width).
    matrices = {
        "embedding.token": (vocabulary, d),
        "embedding.position": (config.max_len, d),
        "embedding.segment": (config.n_segments, d),
        "attention.qkv": (3 * d, d),
        "attention.out": (d, d),
        "feed_forward.fc1": (f, d),
        "feed_forward.fc2": (d, f),
        "pooler.dense": (d, d),
        "masked_lm.dense": (d, d),
        "next_sentence": (2, d),
        "classifier": (n_labels, d),
        "answer": (2, d),  # a start and an end
        "tags": (n_labels, d),
        "choice": (1, d),
    }
    found: dict[str, tuple[int, ...]] = {}
    for row in table_rows(config.n_layers):
        module, _, kind = row.ours.rpartition(".")
        matrix = next((m for name, m in matrices.items() if module.endswith(name)), None)
        if matrix:
            found[row.ours] = matrix if kind == "weight" else matrix[:1]
        else:
            # A norm, or the bias of each word's score.
            found[row.ours] = (vocabulary,) if module == "masked_lm" else (d,)
    return found


# ------------------------------------------------------------------------------------- a checkpoint


@dataclasses.dataclass
class Checkpoint:
    """The weights of a model under our names, its configuration, and what lies beside it."""

    kind: str  # what the file is, in words
    file: Path
    config: Config
    tensors: dict[str, Tensor]
    labels: list[str] | None = None  # of the classifier, where known
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)  # of a .pt: step, best ...
    onnx: OnnxFile | None = None  # what computes a .onnx; `tensors` then are shapes
    unusable: dict[str, str] = dataclasses.field(default_factory=dict)  # heads left out, and why
    wrong_labels: str = ""  # why names of labels that lie beside it are none of its own

    @property
    def folder(self) -> Path:
        """Where configuration, vocabulary and task are."""
        return self.onnx.folder if self.onnx else self.file.parent

    @property
    def heads(self) -> list[str]:
        """Which heads it has."""
        present = {name.split(".")[0] for name in self.tensors}
        return [head for head in HEADS if head in present]

    def check_labels(self) -> None:
        """UserError where the labels beside it are wrong; training may begin without any."""
        if self.wrong_labels:
            raise UserError(self.wrong_labels)

    def without(self, head: str) -> "Checkpoint":
        """The same without one of its heads."""
        kept = {name: t for name, t in self.tensors.items() if not name.startswith(f"{head}.")}
        return dataclasses.replace(self, tensors=kept)

    def __repr__(self) -> str:
        heads = ", ".join(self.heads) or "none"
        return f"<{self.kind} {self.file}, {len(self.tensors)} tensors, heads: {heads}>"

    def describe(self) -> str:
        """Which file it is, and of a run's best checkpoint what makes it the best."""
        # Each checkpoint of a run holds the best evaluation so far, which is its own only at the
        # same step.
        best = self.extra.get("best")
        if not isinstance(best, dict) or best.get("step") != self.extra.get("step"):
            return f"{self.kind} {self.file}"
        measured, value = "its evaluations", best.get("value")
        if isinstance(value, float):
            measured = f"{short(str(best.get('metric')))} {value:.4f}"
        return f"{self.kind} {self.file} (the best of its run: {measured})"


def read(
    source: str | Path,
    config: Config | None = None,
    predicting: bool = False,
    finite: bool = True,
) -> Checkpoint:
    """Weights from a TensorFlow checkpoint (its prefix), a Hugging Face file, a .pt, or a folder.

    UserError lists every tensor that is missing, left over or of another shape. What is no part of
    BERT is left out, and a note names it.

    Args:
        config: what the weights must fit; None: what config.json or bert_config.json beside them
            says.
        predicting: a .onnx will do, whose weights cannot be had.
        finite: UserError where a number is NaN or infinite.
    """
    if predicting and is_onnx(Path(source)):
        if config is not None:
            raise UserError(f"{source} has its configuration in it; leave --model_cfg out")
        return read_onnx(Path(source))
    kind, file, theirs, extra = read_raw(source)
    check_beside(file.parent)
    beside, settings = settings_beside(file)
    if config is None:
        config = stated_config(file, extra, beside, settings)
    names, strange, unusable = list(theirs), list[str](), dict[str, str]()
    if kind != OURS:
        theirs, strange = without_strange(theirs, kind)
    # Nothing is read from a tensor before it is known to be made of plain numbers.
    check_tensors(theirs, file)
    if kind == OURS:
        tensors, problems = theirs, list[str]()
        # Our task.json and Hugging Face's id2label are two places for the same names.
        labels = saved_labels(file.parent)
    else:
        head = head_of(settings, theirs, kind)
        theirs, unusable = without_unusable(theirs, kind, config, head)
        tensors, problems = to_ours(theirs, kind, config, head)
        labels = released_labels(settings, beside) if beside else None
    labelled = next((head for head in LABELLED if f"{head}.bias" in tensors), None)
    # The head's own size says how many labels it has, which the configuration need not.
    n_labels = tensors[f"{labelled}.bias"].numel() if labelled else 0
    expected = shapes(config, n_labels or 2)
    # to_ours() has found what is missing in other formats; ours needs no renaming.
    if kind == OURS:
        # An encoder is always there, and of a head that is there, all of it.
        parts = {"transformer"} | {name.split(".")[0] for name in tensors}
        needed = [name for name in expected if name.split(".")[0] in parts]
        problems += [f"{name} is missing" for name in needed if name not in tensors]
    problems += differences(tensors, expected)
    problems += [f"{short(name)} is left over" for name in sorted(tensors.keys() - expected.keys())]
    if problems and (others := foreign_prefixes(names)):
        raise UserError(
            f"{file}: the names of its word embeddings begin with {others}; expected one encoder, "
            "with the names of a BertModel"
        )
    refuse_problems(f"{file} contradicts the model configuration", problems)
    if finite:
        check_finite(tensors, file)
    if strange:
        names = [short(name) for name in strange]
        note(f"{file}: left out, since BERT has no such tensors: {listed(names)}")
    for name, reason in unusable.items():
        note(f"{file}: left out its {name}: {reason}")
    labels = labels if labelled else None
    found = Checkpoint(kind, file, config, tensors, labels, extra, unusable=unusable)
    if found.labels and len(found.labels) != n_labels:
        found.wrong_labels = (
            f"{file} has {n_labels} labels, and {len(found.labels)} names of labels lie beside it; "
            "mend id2label"
        )
        found.labels = None
    return found


def read_onnx(file: Path) -> Checkpoint:
    """A .onnx that `checkpoint.py convert` has written: a model that predicts, and its head."""
    onnx = OnnxFile(file)
    config = Config.from_json(onnx.folder / "config.json")
    if onnx.head not in MODELS:
        raise UserError(f"{file} has an unknown head, {short(onnx.head)}; convert it again")
    n_labels = onnx.n_scores if onnx.head in LABELLED else None
    # The exporter folds weights into others; what is known of them are the shapes of the head.
    tensors = {
        name: torch.empty(shape, device="meta")
        for name, shape in shapes(config, n_labels or 2).items()
        if name.split(".")[0] in MODELS[onnx.head][1]
    }
    # Whoever puts labels into another order moves the numbers of their columns with them.
    if n_labels:
        tensors[f"{onnx.head}.bias"] = torch.arange(n_labels)
    labels = saved_labels(onnx.folder)
    if n_labels and labels and len(labels) != n_labels:
        raise UserError(
            f"{file} has {n_labels} scores, and names {len(labels)} labels; convert its model again"
        )
    return Checkpoint(ONNX, file, config, tensors, labels if n_labels else None, onnx=onnx)


def is_onnx(source: Path) -> bool:
    """Whether a path names a .onnx; a run's folder may have any name."""
    return source.suffix.lower() == ".onnx" and not source.is_dir()


def load(model: nn.Module, source: Checkpoint, fresh: tuple[str, ...] = ()) -> list[str]:
    """Copy weights into a model; returns which heads in `fresh` the checkpoint lacks.

    These stay as they are. Heads of the checkpoint that the model has no use for are ignored;
    UserError lists whatever else does not fit.
    """
    own = model.state_dict()
    # Heads that the model has no use for are left alone: a classifier takes the encoder of a
    # pre-trained model.
    used = {name: t for name, t in source.tensors.items() if name in own}
    missing = [name for name in own if name not in used]
    new = sorted({name.split(".")[0] for name in missing} & set(fresh))
    problems = [f"{name} is missing" for name in missing if name.split(".")[0] not in new]
    problems += differences(used, {name: tuple(t.shape) for name, t in own.items()})
    refuse_problems(f"{source.file} does not fit the {type(model).__name__}", problems)
    # Every name was checked above; what is not loaded are the fresh heads.
    model.load_state_dict(used, strict=False)
    return new


def differences(tensors: dict[str, Tensor], expected: dict[str, tuple[int, ...]]) -> list[str]:
    """Which tensors have another shape than expected, in words."""
    return [
        f"{name} is {tuple(tensors[name].shape)}, expected {shape}"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]


def refuse_problems(what: str, problems: list[str]) -> None:
    """UserError with the first five problems and the number of the rest, if there are any."""
    if problems:
        raise UserError(f"{what}: {listed(problems)}")


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
        f"no config.json or bert_config.json beside {file}; name the configuration with --model_cfg"
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


# ------------------------------------------------------------------------------ finding and reading


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
            f"{source} serves to evaluate and predict alone, as the --model_file of the command "
            "that trained it; name the folder that it was made from"
        )
    if source.is_file():
        raise UserError(
            f"{source} is no checkpoint; expected {', '.join(WEIGHTS)}, a TensorFlow checkpoint's "
            "prefix or Google's .zip"
        )
    if source.is_dir():
        return find_in_folder(source)
    raise UserError(
        f"{source} does not exist{hub.suggestion(str(source))}; expected a TensorFlow checkpoint, "
        "a Hugging Face folder, a .pt, or a name: hf:owner/name or one of `checkpoint.py list`"
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
    seed, name = (
        typed(best.get(key), kind, f"{results}: best: {key}")
        for key, kind in (("seed", int), ("best_file", str))
    )
    # The folder may have been moved since; the names in it stay.
    file = folder / f"seed-{seed}" / Path(name).name
    check_file(file, f"the best of the seeds, as {results} says")
    note(f"{folder} holds the runs of several seeds; the best is {file.parent}")
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
    if file.suffix == ".pt" and (contents := read_pt(file)) is not None:
        weights = contents.get("model") if isinstance(contents, dict) else None
        if not isinstance(weights, dict) or not all(
            isinstance(t, Tensor) for t in weights.values()
        ):
            raise UserError(
                f"{file} has no entry 'model' of tensors; expected a checkpoint written by "
                "train.py or convert"
            )
        check_not_nested(weights, file)
        return OURS, file, contents.pop("model"), contents
    if file.suffix in WEIGHTS or file.name.endswith(INDEX):
        tensors = read_weights(file)
        check_not_nested(tensors, file)
        tensors = without_wrapper(tensors, file)
        if WORDS[DHLEE347][0] in tensors:
            return DHLEE347, file, tensors, {}
        # The state dict of a model of ours, saved without what write_pt() adds.
        if OUR_NAME in tensors:
            return OURS, file, tensors, {}
        return HUGGING_FACE, file, as_hugging_face(tensors, file), {}
    return TENSORFLOW, file, read_tensorflow(file), {}


def check_not_nested(tensors: dict[str, Tensor], file: Path) -> None:
    """UserError where a tensor has no shape to speak of."""
    check_tensors({name: t for name, t in tensors.items() if t.is_nested}, file)

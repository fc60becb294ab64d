"""Weights from and for others: Google's TensorFlow checkpoints, Hugging Face's folders, ONNX.

    $ python checkpoint.py convert uncased_L-12_H-768_A-12 bert/base.pt  # TensorFlow, HF -> ours
    $ python checkpoint.py convert runs/mrpc my-model  # anything -> a Hugging Face folder
    $ python checkpoint.py convert runs/mrpc model.onnx
    $ python checkpoint.py inspect FILE
    $ python checkpoint.py compare A B
    $ python checkpoint.py list  # BERT models that can be named instead of a file

    source = read("uncased_L-12_H-768_A-12")
    model = Classifier(source.config)
    load(model, source, fresh=("classifier",))

Row: weights and runs. It imports only from rows below (ARCHITECTURE.md).
"""

import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import cards
import hub
import onnx_files
from cli import command
from files import read_json, whole_file, whole_folder, write_json
from formats import (
    WEIGHTS,
    check_tensors,
    checkpoints_in,
    read_pt,
    read_tensorflow,
    read_weights,
    write_pt,
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
from names import ARCHITECTURES, CLASSIFIERS, HEADS, LABELLED, Row, table_rows
from utils import UserError, note, short, typed
from vocab import (
    casing,
    check_size,
    find_vocab,
    load_vocab,
    save_vocab,
    stated_rules,
    vocab_text,
)

# What a file is called in messages, and by which its names are told apart.
OURS = "pytorchic-bert checkpoint"
HUGGING_FACE = "Hugging Face weights"
TENSORFLOW = "TensorFlow checkpoint"

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
    """The shape of every parameter that a model of this configuration may have."""
    # On the meta device tensors have shapes and no memory, so that a large model costs nothing.
    with torch.device("meta"):
        # An answer has a start and an end, a choice one score; tags have as many as the file says.
        sizes = {"answer": 2, "tags": n_labels, "choice": 1}
        heads = {name: nn.Linear(config.dim, size) for name, size in sizes.items()}
        modules = [Classifier(config, n_labels), PretrainModel(config), nn.ModuleDict(heads)]
    return {name: tuple(t.shape) for module in modules for name, t in module.state_dict().items()}


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

    @property
    def heads(self) -> list[str]:
        """Which heads it has."""
        present = {name.split(".")[0] for name in self.tensors}
        return [head for head in HEADS if head in present]

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


def read(source: str | Path, config: Config | None = None) -> Checkpoint:
    """Weights from a TensorFlow checkpoint (its prefix), a Hugging Face file, a .pt, or a folder.

    `config` says what the weights must fit; without it, the config.json or bert_config.json beside
    them does. UserError lists every tensor that is missing, left over or of another shape.
    """
    kind, file, theirs, extra = read_raw(source)
    beside, settings = settings_beside(file)
    if config is None:
        config = stated_config(file, extra, beside, settings)
    # Nothing is read from a tensor before it is known to be made of plain numbers.
    check_tensors(theirs, file)
    if kind == OURS:
        tensors, problems = theirs, list[str]()
        # Our task.json and Hugging Face's id2label are two places for the same names.
        labels = saved_labels(file.parent)
    else:
        tensors, problems = to_ours(theirs, kind, config, head_of(settings))
        labels = released_labels(settings, beside) if beside else None
    labelled = next((head for head in LABELLED if f"{head}.bias" in tensors), None)
    # The head's own size says how many labels it has, which the configuration need not.
    n_labels = tensors[f"{labelled}.bias"].numel() if labelled else 0
    expected = shapes(config, n_labels or 2)
    # to_ours() has found what is missing in other formats; ours needs no renaming.
    if kind == OURS:
        encoder = [name for name in expected if name.startswith("transformer.")]
        problems += [f"{name} is missing" for name in encoder if name not in tensors]
    problems += differences(tensors, expected)
    problems += [f"{short(name)} is left over" for name in sorted(tensors.keys() - expected.keys())]
    refuse_problems(f"{file} contradicts the model configuration", problems)
    if labelled and labels and len(labels) != n_labels:
        raise UserError(
            f"{file} has {n_labels} labels, and {len(labels)} names of labels lie beside it; mend "
            "id2label"
        )
    return Checkpoint(kind, file, config, tensors, labels if labelled else None, extra)


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
        rest = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise UserError(f"{what}: {'; '.join(problems[:5])}{rest}")


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
    names = typed(settings.get("id2label") or {}, dict[str, str], f"{file}: id2label")
    # Keys of a JSON object are text, and a gap would shift all labels after it.
    if sorted(names) != sorted(map(str, range(len(names)))):
        raise UserError(
            f"{file}: the keys of id2label are {short(', '.join(names))}; expected 0 to "
            f"{len(names) - 1}"
        )
    return [names[str(i)] for i in range(len(names))] or None


def head_of(settings: dict[str, Any]) -> str:
    """Our name of the head that Hugging Face calls "classifier"."""
    # Google's files name no class, and their classifier is one of whole inputs.
    classes = settings.get("architectures")
    if isinstance(classes, list):
        for name, head in CLASSIFIERS.items():
            if name in classes:
                return head
    return "classifier"


# ------------------------------------------------------------------------------ finding and reading


def find_weights(source: str | Path) -> Path:
    """The weights that a path means, or a name: the file, the prefix, or the one in a folder."""
    if folder := hub.fetch(str(source)):
        return find_in_folder(folder)
    # A user may name any of the three files of a TensorFlow checkpoint, whose prefix they share.
    source = Path(re.sub(r"\.(index|meta|data-\d+-of-\d+)$", "", str(source)))
    is_weights = source.is_file() and source.suffix in WEIGHTS
    if is_weights or Path(f"{source}.index").is_file():
        return source
    if source.suffix == ".zip" and source.is_file():
        return find_in_folder(hub.unzipped(source))
    if source.suffix == ".onnx":
        raise UserError(
            f"{source} is for onnxruntime (docs/serving.md); name the folder that it was made from"
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
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return folder / name
    if files := checkpoints_in(folder):
        return best_of(files)
    if ours := sorted(folder.glob("*.pt")):
        return ours[-1]
    # By the numbers in the name: as text, step 900 would come after step 1000.
    by_step = sorted(
        folder.glob("*.ckpt*.index"), key=lambda p: [int(n) for n in re.findall(r"\d+", p.stem)]
    )
    if by_step:
        return by_step[-1].with_suffix("")
    # The folder of several seeds holds no model itself, and the message names one that does.
    if seeds := sorted(folder.glob("seed-*/run.json")):
        raise UserError(
            f"{folder} holds the runs of {len(seeds)} seeds; name one, such as {seeds[0].parent}"
        )
    raise UserError(
        f"{folder} has no checkpoint; expected model.safetensors, pytorch_model.bin, "
        "model_steps_N.pt or NAME.ckpt.index in it"
    )


def best_of(files: list[Path]) -> Path:
    """Which of a run's checkpoints its folder stands for: the best evaluated, else the last."""
    # The newest file knows the best step of the whole run.
    last = read_pt(files[-1])
    best = last.get("best") if isinstance(last, dict) else None
    if not isinstance(best, dict):
        return files[-1]
    file = files[-1].with_name(f"model_steps_{best.get('step')}.pt")
    # An older best file may have been deleted; the newest stands for it.
    return file if file in files else files[-1]


def read_raw(source: str | Path) -> tuple[str, Path, dict[str, Tensor], dict[str, Any]]:
    """A checkpoint's kind, file, tensors under their names there, and what else our .pt holds."""
    file = find_weights(source)
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
        return OURS, file, contents.pop("model"), contents
    if file.suffix in WEIGHTS:
        return HUGGING_FACE, file, read_hugging_face(file), {}
    return TENSORFLOW, file, read_tensorflow(file), {}


def read_hugging_face(file: Path) -> dict[str, Tensor]:
    """{Hugging Face's name of today: tensor}, without what is there twice."""
    tensors = {
        modern_name(name): tensor
        for name, tensor in read_weights(file).items()
        if not name.endswith("position_ids")
    }
    check_tensors(tensors, file)
    # The decoder is a copy of the word embeddings, which models tie. One that differs would give
    # other scores than the model here.
    table, decoder = "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder"
    if f"{decoder}.bias" in tensors:
        tensors.setdefault("cls.predictions.bias", tensors[f"{decoder}.bias"])
    check_tied(file, tensors, f"{decoder}.weight", table, "the word embeddings")
    check_tied(file, tensors, f"{decoder}.bias", "cls.predictions.bias", "cls.predictions.bias")
    copies = (f"{decoder}.weight", f"{decoder}.bias")
    return {name: t for name, t in tensors.items() if name not in copies}


def check_tied(
    file: Path, tensors: dict[str, Tensor], copy: str, original: str, words: str
) -> None:
    """UserError where a copy of a tensor differs from it."""
    if copy not in tensors or original not in tensors:
        return
    if not torch.equal(tensors[original], tensors[copy]):
        raise UserError(f"{file}: {copy} differs from {words}; BERT shares them")


def modern_name(name: str) -> str:
    """Hugging Face's name of today for an older one, or one without bert.

    pooler.dense.bias -> bert.pooler.dense.bias
    """
    # Hugging Face's first conversions, bert-base-uncased among them, have gamma and beta still.
    name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    # A bare BertModel has no prefix of its own.
    return re.sub(r"^(embeddings|encoder|pooler)\.", r"bert.\1.", name)


def to_ours(
    theirs: dict[str, Tensor], kind: str, config: Config, head: str
) -> tuple[dict[str, Tensor], list[str]]:
    """Rename to our names, in float32; and what is missing or left over, in words.

    `head` is our name of the one that Hugging Face calls "classifier".
    """
    left = {re.sub(r"^classifier\.", f"{head}.", name): tensor for name, tensor in theirs.items()}
    missing: list[tuple[Row, str]] = []
    ours: dict[str, Tensor] = {}
    for row in table_rows(config.n_layers):
        names = row.tensorflow if kind == TENSORFLOW else row.hugging_face
        absent = [name for name in names if name not in left]
        missing += [(row, name) for name in absent]
        parts = [left.pop(name) for name in names if name in left]
        # nn.Linear keeps (out, in), TensorFlow's kernels (in, out).
        if kind == TENSORFLOW and row.transposed:
            parts = [part.T for part in parts]
        # Query, key and value are stacked, which only matrices of one width allow.
        fit_together = len({part.shape[1:] for part in parts}) == 1
        if not absent and fit_together and all(part.ndim for part in parts):
            # In float32, whatever the file has: mixed types would fail in the first product.
            ours[row.ours] = torch.cat([part.float() for part in parts]).contiguous()
    # Of a head that is there, and of the encoder, nothing may be missing.
    needed = {name.split(".")[0] for name in ours} | {"transformer"}
    problems = [f"{name} is missing" for row, name in missing if row.head in needed]
    return ours, problems + [f"{short(name)} is left over" for name in left]


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
        more = {"tokenizer_class": "BertTokenizer", "model_max_length": source.config.max_len}
        save_vocab(vocab, folder, lower_case, more)
    # Our settings of the task, so that the folder is read back without a flag.
    beside = source.file.parent
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
    metadata = {
        "head": name,
        "config": json.dumps(dataclasses.asdict(source.config)),
        "vocab": vocab_text(vocab).decode(),
        "do_lower_case": json.dumps(lower_case),
        "labels": json.dumps(source.labels),
    }
    worst = onnx_files.write(out, model, metadata, int8)
    checked = f"; onnxruntime's numbers differ from PyTorch's by at most {worst:.1e}"
    if int8:
        checked = f"; of random tokens, int8 changes the numbers by at most {worst:.1e}"
    return [head for head in source.heads if head not in heads], checked


def task_settings(source: Checkpoint) -> dict[str, Any]:
    """Our settings files beside weights that have a head to go with them: {name: contents}."""
    beside = source.file.parent
    used = set(source.heads) - {"pooler", "masked_lm", "next_sentence"}
    names = ("task.json", "squad.json") if used else ()
    return {name: read_json(beside / name) for name in names if (beside / name).is_file()}


def label_settings(source: Checkpoint, heads: set[str]) -> dict[str, Any]:
    """Hugging Face's id2label, label2id and problem_type, where one of the heads has labels."""
    for head in LABELLED:
        if head in heads:
            n_labels = len(source.tensors[f"{head}.bias"])
            labels = source.labels or [f"LABEL_{i}" for i in range(n_labels)]
            kind = {}
            if head == "classifier":
                task = cards.settings(source.file.parent / "task.json")
                kind = {"problem_type": cards.problem_type(task, n_labels)}
            return kind | {
                "id2label": {str(i): label for i, label in enumerate(labels)},
                "label2id": {label: i for i, label in enumerate(labels)},
            }
    return {}


def write_with_vocab(out: Path, source: Checkpoint, vocab: Path, lower_case: bool) -> None:
    """A .pt, and before it what belongs to it: whoever finds the .pt finds the rest too."""
    folder = out.parent
    # What our task is, where that is known; else the labels.
    settings = task_settings(source)
    if source.labels and "task.json" not in settings:
        settings["task.json"] = {"labels": source.labels}
    rules, unusual = stated_rules(folder / "vocab.txt")[0], stated_rules(vocab)[0].unusual()
    fits = {
        "vocab.txt": lambda: load_vocab(folder / "vocab.txt") == load_vocab(vocab),
        "tokenizer_config.json": lambda: (
            rules.do_lower_case in (None, lower_case) and rules.unusual() == unusual
        ),
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
        save_vocab(vocab, folder, lower_case)
        for name, values in settings.items():
            write_json(folder / name, values)
        contents = {"config": dataclasses.asdict(source.config), "model": source.tensors}
        write_pt(out, contents)
    except BaseException:
        # The file may have its name already, when flushing the folder to the disk has failed.
        out.unlink(missing_ok=True)
        for path in new:
            path.unlink(missing_ok=True)
        raise


# ----------------------------------------------------------------------------------------- commands

# Endings of files that are not written here; a folder may have any other in its name.
OTHER_FILES = ".bin .safetensors .pth .ckpt .h5 .msgpack .tflite .pb .npz .zip .json".split()


def convert(
    source: str,
    target: str,
    model_cfg: str | None = None,
    vocab: str | None = None,
    int8: bool = False,
) -> None:
    """Convert weights: TARGET.pt is this project's format, any other name a Hugging Face folder.

    TARGET.onnx is a model that runs without PyTorch.

    Args:
        source: a TensorFlow checkpoint, a Hugging Face folder or file, a .pt, or a folder with one
            of them (of a run: the best checkpoint).
        target: the .pt or the folder to write, whole or not at all; what it holds already is not
            overwritten.
        model_cfg: the model's configuration, where none lies beside SOURCE.
        vocab: vocab.txt, where none lies beside SOURCE.
        int8: of a .onnx: weights of a byte each.
    """
    out = Path(target)
    ending = out.suffix.lower()
    if int8 and ending != ".onnx":
        raise UserError(f"{target}: --int8 is for a .onnx; leave it out")
    # The working folder is not replaced: the shell would be left in a folder that is gone.
    is_empty_folder = out.is_dir() and not any(out.iterdir()) and not out.samefile(".")
    if out.exists() and not (is_empty_folder and ending not in (".pt", ".onnx")):
        raise UserError(f"{target} exists already; name another target")
    if ending in OTHER_FILES:
        raise UserError(
            f"{target}: files ending in {out.suffix} are not written here; expected a name ending "
            "in .pt or .onnx, or a folder's"
        )
    found = read(source, Config.from_json(model_cfg) if model_cfg else None)
    vocab_file = find_vocab(vocab, found.file)
    check_size(vocab_file, found.config.vocab_size)
    lower_case = casing(vocab_file, found.file)
    left_out, more = list[str](), ""
    if ending == ".pt":
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
    for name, t in tensors.items():
        shape, dtype = "x".join(map(str, t.shape)), str(t.dtype).removeprefix("torch.")
        print(f"{name:55} {shape:>12}  {dtype}")
    heads = set()
    for row in table_rows(1):
        first = {OURS: row.ours, HUGGING_FACE: row.hugging_face[0], TENSORFLOW: row.tensorflow[0]}
        if first[kind] in tensors:
            heads.add(row.head)
    # Hugging Face calls several heads "classifier"; the class in config.json tells them apart.
    if kind == HUGGING_FACE and "classifier" in heads:
        _, settings = settings_beside(path)
        heads = heads - {"classifier"} | {head_of(settings)}
    names = ", ".join(head for head in HEADS if head in heads) or "none"
    step = f", step {extra['step']}" if "step" in extra else ""
    total = sum(t.numel() for t in tensors.values())
    print(f"{path}: {kind}{step}; heads: {names}; {total:,} parameters")


def compare(a: str, b: str, tolerance: float = 0.0) -> None:
    """Print the largest difference, tensor by tensor.

    Exit status 1 if one is over the tolerance or has no partner.

    Args:
        a: a checkpoint, as for convert.
        b: another one.
        tolerance: the largest difference that is none.
    """
    left, right = read(a).tensors, read(b).tensors
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
            # A NaN compares with nothing, and counts as the largest difference.
            worst = difference if not difference <= worst else worst
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

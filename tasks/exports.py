"""A saved model for others: a folder for transformers, a .onnx, a .pt with what belongs to it.

source = loading.read("runs/mrpc")
write_hugging_face(source, Path("my-model"), lower_case=True, vocab=Path("runs/mrpc/vocab.txt"))
"""

import dataclasses
import json
import re
import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor

import models
from formats import cards, onnx
from formats.names import ARCHITECTURES, CLASSIFIERS, LABELLED, table_rows
from formats.rules import TokenizerFiles
from formats.sentence_encoders import Form
from formats.vocab import Vocabulary, load_vocab
from formats.weights import write_pt
from pretrained import MODELS, PRETRAINED_HEADS, Pretrained, load
from system.files import read_json, whole_file, write_json
from tasks import KINDS, kind_beside
from tasks.resolve import of_labels, to_json
from tasks.vectors import VectorTask, encoder_of, form_of, length_of
from utils import UserError, typed


def write_hugging_face(
    source: Pretrained, folder: Path, vocabulary: Vocabulary | None = None
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
    source, own_files = with_plain_scores(source)
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
    if vocabulary:
        # A model that fills [MASK] is of no use to transformers where its text is split.
        vocabulary.save_for_transformers(folder, source.config.max_len, "masked_lm" in heads)
    # Our settings of the task, so that the folder is read back without a flag.
    for name in task_settings(source):
        write_json(folder / name, own_files[name])
    best = typed(source.extra.get("best") or {}, dict[str, Any], f"{source.file}: best")
    form = sentence_form(source)
    head = next((name for name in cards.PIPELINES if name in heads), "encoder" if form else None)
    if kind_beside(source.folder) is KINDS["ranker"]:
        head = "ranker"
    with whole_file(folder / "README.md") as f:
        f.write(cards.card(source.folder, head, best).encode())
    if form:
        dense = {n: source.tensors[f"dense.{n}"] for n in ("weight", "bias") if form.dense}
        max_len = length_of(source) or source.config.max_len
        form.save(folder, max_len, source.config.dim, dense)
    # Last, since a folder with a config.json passes for a model.
    write_json(folder / "config.json", settings)
    written = heads | ({"dense"} if form and form.dense else set())
    return [head for head in source.heads if head not in written]


def write_onnx(
    out: Path, source: Pretrained, vocabulary: Vocabulary, int8: bool, pooled: bool = True
) -> tuple[list[str], str]:
    """A model in ONNX, with labels and vocabulary; returns heads left out, and what was checked.

    Args:
        pooled: a sentence encoder's vectors of texts; False: those of tokens, which others pool.
    """
    name = next(name for name, (_, heads) in MODELS.items() if heads <= set(source.heads))
    kind, heads = MODELS[name]
    more: dict[str, Any] = {"with_pooler": False} if name == "encoder" else {}
    if name in LABELLED:
        more["n_tags" if name == "tags" else "n_labels"] = len(source.tensors[f"{name}.bias"])
    source, own = with_plain_scores(source)
    with models.undrawn():
        model: Any = kind(source.config, **more)
    form = sentence_form(source) if pooled else None
    if form:
        # The vectors themselves, pooled as the form says.
        name, heads = "encoder", {"dense"}
        with models.undrawn():
            model = encoder_of(source.config, form)
    load(model, source)
    if name == "encoder" and not form:
        model = model.transformer
    metadata = {"head": name, "labels": json.dumps(source.labels)}
    # All that a model's folder holds beside the weights.
    with tempfile.TemporaryDirectory() as beside:
        folder = Path(beside)
        vocabulary.save(folder)
        write_json(folder / "config.json", source.config.to_json())
        for settings_file, values in own.items():
            write_json(folder / settings_file, values)
        metadata |= {file.name: file.read_bytes().decode() for file in folder.iterdir()}
    # Line ends as Unix has them, for readers elsewhere.
    metadata["vocab.txt"] = "".join(f"{token}\n" for token in vocabulary.tokens)
    worst = onnx.write(out, model, metadata, int8)
    checked = f"; onnxruntime's numbers differ from PyTorch's by at most {worst:.1e}"
    if int8:
        checked = f"; of random tokens, int8 changes the numbers by at most {worst:.1e}"
    return [head for head in source.heads if head not in heads], checked


# What a head's weights take up, so that its scores are what others expect: numbers as they are,
# and probabilities that are calibrated.
FOLDED = ("mean", "spread", "temperature")


def with_plain_scores(source: Pretrained) -> tuple[Pretrained, dict[str, Any]]:
    """Weights whose scores are answers as they are, and our settings files that say no more so."""
    settings = own_settings(source)
    task = settings.get("task.json", {})
    # The temperature of vectors is one of training.
    scored = "classifier" in source.heads
    folded = {name: task.pop(name) for name in FOLDED if scored and name in task}
    if not folded:
        return source, settings
    scale = folded.get("spread", 1.0) / folded.get("temperature", 1.0)
    weight, bias = (f"classifier.{name}" for name in ("weight", "bias"))
    tensors = source.tensors | {
        weight: source.tensors[weight] * scale,
        bias: source.tensors[bias] * scale + folded.get("mean", 0.0),
    }
    return dataclasses.replace(source, tensors=tensors), settings


def sentence_form(source: Pretrained) -> Form | None:
    """How an encoder without another head makes a vector of a text; None: nothing says so."""
    others = set(source.heads) - {*PRETRAINED_HEADS, "dense"}
    return None if others else form_of(source)


def task_settings(source: Pretrained) -> dict[str, Any]:
    """Our settings files beside weights that have a head to go with them: {name: contents}."""
    files = [source.folder / name for name in ("task.json", "squad.json")]
    used = set(source.heads) - set(PRETRAINED_HEADS) or VectorTask.form_beside(source.folder)
    return {file.name: read_json(file) for file in files if used and file.is_file()}


def own_settings(source: Pretrained) -> dict[str, Any]:
    """The same, and the labels where nothing more is known of a task."""
    settings = task_settings(source)
    if "task.json" not in settings and (form := sentence_form(source)):
        length = length_of(source) or source.config.max_len
        settings["task.json"] = dataclasses.asdict(form) | {"max_len": length}
    if source.labels and "task.json" not in settings:
        settings["task.json"] = {"labels": source.labels}
        # That a text has several is known from a file that is not copied.
        task = of_labels(source) if "classifier" in source.heads else None
        if task and task.separator:
            settings["task.json"] = to_json(task)
    return settings


def label_settings(source: Pretrained, heads: set[str]) -> dict[str, Any]:
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


def write_with_vocab(out: Path, source: Pretrained, vocabulary: Vocabulary) -> None:
    """A .pt, and before it what belongs to it: whoever finds the .pt finds the rest too."""
    folder, settings = out.parent, own_settings(source)

    def same_rules() -> bool:
        there, ours = TokenizerFiles.read(folder), vocabulary.rules
        rules, _ = there.rules(vocabulary.tokens if there.in_their_form else None)
        same_casing = rules.do_lower_case in (None, ours.do_lower_case)
        return same_casing and rules.unusual() == ours.unusual()

    fits = {
        "vocab.txt": lambda: load_vocab(folder / "vocab.txt") == vocabulary.tokens,
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
        vocabulary.save(folder)
        for name, values in settings.items():
            write_json(folder / name, values)
        write_pt(out, {"config": source.config.to_json(), "model": source.tensors})
    except BaseException:
        # A .pt that is there, as flushing the folder to the disk alone has failed, keeps its own.
        for path in [] if out.exists() else new:
            path.unlink(missing_ok=True)
        raise

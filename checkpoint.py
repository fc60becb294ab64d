"""Weights in and out: Google's TensorFlow checkpoints, Hugging Face folders and this project's .pt,
by one name table.

$ python checkpoint.py convert uncased_L-12_H-768_A-12 bert/base.pt     # TensorFlow or Hugging Face
-> ours $ python checkpoint.py convert runs/mrpc my-model                       # anything -> a
Hugging Face folder $ python checkpoint.py inspect FILE $ python checkpoint.py compare A B

found = read("uncased_L-12_H-768_A-12"); model = Classifier(found.config); load(model, found,
fresh=("classifier",))
"""

import contextlib
import dataclasses
import os
import re
import sys
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cli import command
from models import Classifier, Config, PretrainModel
from tokenization import casing, find_vocab_file, load_vocab, save_vocab, stated_rules, vocab_digest
from utils import (
    DIGEST_SIZE,
    UserError,
    append_digest,
    check_file,
    digest_matches,
    read_json,
    short,
    show,
    typed,
    whole_file,
    whole_folder,
    write_json,
)

# One row a module: our name, Hugging Face's, what kind of parameters it has, and TensorFlow's name
# where that is not Hugging Face's with slashes. N is a block's number, QKV the three that we keep
# as one.   kind      ours and Hugging Face's    TensorFlow's
TABLE = """
transformer.embedding.token            bert.embeddings.word_embeddings                  weight
transformer.embedding.position         bert.embeddings.position_embeddings              weight
transformer.embedding.segment          bert.embeddings.token_type_embeddings            weight
transformer.embedding.norm             bert.embeddings.LayerNorm                        norm
transformer.blocks.N.attention.qkv     bert.encoder.layer.N.attention.self.QKV          linear
transformer.blocks.N.attention.out     bert.encoder.layer.N.attention.output.dense      linear
transformer.blocks.N.norm1             bert.encoder.layer.N.attention.output.LayerNorm  norm
transformer.blocks.N.feed_forward.fc1  bert.encoder.layer.N.intermediate.dense          linear
transformer.blocks.N.feed_forward.fc2  bert.encoder.layer.N.output.dense                linear
transformer.blocks.N.norm2             bert.encoder.layer.N.output.LayerNorm            norm
pooler.dense                           bert.pooler.dense                                linear
masked_lm.dense                        cls.predictions.transform.dense                  linear
masked_lm.norm                         cls.predictions.transform.LayerNorm              norm
masked_lm                              cls.predictions                                  bias    cls/predictions/output_bias
next_sentence                          cls.seq_relationship                             output  cls/seq_relationship/output_
classifier                             classifier                                       output  output_
answer                                 qa_outputs                                       output  cls/squad/output_
tags                                   tags                                             output  tags/output_
choice                                 choice                                           output  choice/output_
"""
# Hugging Face calls these heads "classifier" too; the class in config.json tells which it is.
CLASSIFIERS = {"BertForTokenClassification": "tags", "BertForMultipleChoice": "choice"}
KINDS = {  # our and Hugging Face's parameter: TensorFlow's ending
    "linear": {"weight": "/kernel", "bias": "/bias"},  # a kernel is (in, out), our weight (out, in)
    "norm": {"weight": "/gamma", "bias": "/beta"},
    "output": {"weight": "weights", "bias": "bias"},  # (out, in) there too
    "weight": {"weight": ""},
    "bias": {"bias": ""},
}
OURS, HUGGING_FACE, TENSORFLOW = (
    "pytorchic-bert checkpoint",
    "Hugging Face weights",
    "TensorFlow checkpoint",
)
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
HEADS = (
    "pooler",
    "masked_lm",
    "next_sentence",
    "classifier",
    "answer",
    "tags",
    "choice",
)  # what a checkpoint may lack
LABELLED = ("classifier", "tags")  # the heads whose outputs have names
IGNORED_TENSORFLOW = re.compile(r"(^|/)(adam_[mv]|Adam(_1)?|global_step|beta[12]_power)$")
IGNORED_HUGGING_FACE = re.compile(r"cls\.predictions\.decoder\.(weight|bias)$")


@dataclasses.dataclass(frozen=True)
class Row:
    """One of our parameters and the names it has elsewhere: three for query, key, value. Is
    TensorFlow's (in, out)?
    """

    ours: str
    hugging_face: list[str]
    tensorflow: list[str]
    transposed: bool


def rows(n_layers: int) -> list[Row]:
    """The name table written out for every parameter of every head."""
    out = []
    for line in TABLE.strip().splitlines():
        ours, hugging_face, kind, *other = line.split()
        tensorflow = (
            other[0] if other else hugging_face.replace(".", "/").replace("layer/N", "layer_N")
        )
        parts = ("query", "key", "value") if "QKV" in hugging_face else ("",)
        for n in range(n_layers) if ".N." in ours else [0]:
            a, b, c = (
                re.sub(r"(?<=[._])N(?=[./])", str(n), name)
                for name in (ours, hugging_face, tensorflow)
            )
            out += [
                Row(
                    f"{a}.{name}",
                    [f"{b.replace('QKV', part)}.{name}" for part in parts],
                    [c.replace("QKV", part) + ending for part in parts],
                    ending == "/kernel",
                )
                for name, ending in KINDS[kind].items()
            ]
    return out


@dataclasses.dataclass
class Checkpoint:
    """The weights of a model under our names, its configuration, and what lies beside it."""

    kind: str  # what the file is, in words
    file: Path
    config: Config
    tensors: dict[str, Tensor]
    labels: list[str] | None = None  # of the classifier, where known
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)  # of a .pt: step, optimizer ...

    @property
    def vocab(self) -> Path | None:
        """The vocabulary beside the weights, vocab.txt or tokenizer.json, if there is one."""
        return find_vocab_file(self.file.parent)

    @property
    def heads(self) -> list[str]:
        """Which heads it has."""
        return [head for head in HEADS if any(name.startswith(head + ".") for name in self.tensors)]

    def without(self, head: str) -> "Checkpoint":
        """The same without one of its heads."""
        kept = {name: t for name, t in self.tensors.items() if not name.startswith(f"{head}.")}
        return dataclasses.replace(self, tensors=kept)

    def __repr__(self) -> str:
        parts = [f"{len(self.tensors)} tensors", f"heads: {', '.join(self.heads) or 'none'}"]
        return f"<{self.kind} {self.file}, {', '.join(parts)}>"

    def words(self) -> str:
        """Which file it is, and of a run's best checkpoint what makes it the best."""
        best = self.extra.get("best")
        if not isinstance(best, dict) or best.get("step") != self.extra.get("step"):
            return f"{self.kind} {self.file}"
        value = best.get("value")
        measured = (
            f"{short(str(best.get('metric')))} {value:.4f}"
            if isinstance(value, float)
            else "its evaluations"
        )
        return f"{self.kind} {self.file} (the best of its run: {measured})"


# ------------------------------------------------------------------------------------------ reading


def read(source: str | Path, config: Config | None = None) -> Checkpoint:
    """Weights from a TensorFlow checkpoint (its prefix), a Hugging Face file, a .pt, or a folder
    with one of them.

    `config` says what the weights must fit; without it, the config.json or bert_config.json beside
    them does. UserError lists every tensor that is missing, left over or of another shape.
    """
    kind, file, theirs, extra = read_raw(source)
    beside, settings = settings_beside(file)
    if config is None:
        if "config" in extra:
            config = Config.from_dict(
                typed(extra["config"], dict[str, Any], f"{file}: config"), file
            )
        elif beside:
            config = Config.from_dict(settings, beside)
        else:
            raise UserError(
                f"no config.json or bert_config.json beside {file}; name the configuration with "
                "--model_cfg"
            )
    check_tensors(theirs, file)
    tensors, problems = (
        (theirs, list[str]()) if kind == OURS else to_ours(theirs, kind, config, head_of(settings))
    )
    labels = saved_labels(file.parent) if kind == OURS else None
    if kind != OURS and beside:
        labels = released_labels(settings, beside)
    labelled = next((head for head in LABELLED if f"{head}.bias" in tensors), None)
    n_labels = len(tensors[f"{labelled}.bias"].flatten()) if labelled else 0
    expected = shapes(config, n_labels or 2)
    if kind == OURS:
        problems += [
            f"{name} is missing"
            for name in expected
            if name.startswith("transformer.") and name not in tensors
        ]
    problems += differences(tensors, expected)
    problems += [f"{short(name)} is left over" for name in sorted(tensors.keys() - expected.keys())]
    refuse_problems(f"{file} contradicts the model configuration", problems)
    if not labelled:
        labels = None
    if labels and len(labels) != n_labels:
        raise UserError(
            f"{file} has {n_labels} labels, and {len(labels)} names of labels lie beside it; mend "
            "id2label"
        )
    return Checkpoint(kind, file, config, tensors, labels, extra)


def settings_beside(file: Path) -> tuple[Path | None, dict[str, Any]]:
    """The configuration beside weights, its file and what is in it."""
    for name in ("config.json", "bert_config.json"):
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
    if sorted(names) != sorted(map(str, range(len(names)))):
        raise UserError(
            f"{file}: the keys of id2label are {short(', '.join(names))}; expected 0 to "
            f"{len(names) - 1}"
        )
    return [names[str(i)] for i in range(len(names))] or None


def head_of(settings: dict[str, Any]) -> str:
    """Our name of the head that Hugging Face calls "classifier"."""
    classes = settings.get("architectures")
    found = [
        CLASSIFIERS[name] for name in CLASSIFIERS if isinstance(classes, list) and name in classes
    ]
    return found[0] if found else "classifier"


def check_tensors(tensors: dict[str, Tensor], file: Path) -> None:
    """UserError where a tensor is not one of plain numbers with room for each of them."""
    for name, t in tensors.items():
        if t.layout != torch.strided or t.is_meta or t.is_quantized or not t.is_floating_point():
            what = (
                "quantised"
                if t.is_quantized
                else f"{t.device.type} {t.layout} of {t.dtype}".replace("torch.", "")
            )
            raise UserError(
                f"{file}: {short(name)} is {what}; expected ordinary floating-point numbers"
            )
        if t.numel() * t.element_size() > t.untyped_storage().nbytes():
            raise UserError(
                f"{file}: {short(name)} repeats few numbers as a tensor of {t.numel()}; save a "
                "contiguous copy"
            )


def differences(tensors: dict[str, Tensor], expected: dict[str, tuple[int, ...]]) -> list[str]:
    """In words, which tensors have another shape than expected."""
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


def read_raw(source: str | Path) -> tuple[str, Path, dict[str, Tensor], dict[str, Any]]:
    """The kind of a checkpoint, its file, its tensors under their names there, and what else a .pt
    of ours holds.
    """
    file = find(Path(source))
    if file.suffix == ".pt" and (contents := read_ours(file)) is not None:
        weights = contents.get("model") if isinstance(contents, dict) else None
        if not isinstance(weights, dict) or not all(
            isinstance(tensor, Tensor) for tensor in weights.values()
        ):
            raise UserError(
                f"{file} has no entry 'model' of tensors; expected a checkpoint written by "
                "train.py or convert"
            )
        return OURS, file, contents.pop("model"), contents
    if file.suffix in WEIGHTS:
        return HUGGING_FACE, file, read_hugging_face(file), {}
    return TENSORFLOW, file, read_tensorflow(file), {}


def find(source: Path) -> Path:
    """The weights that a path means: the file, the checkpoint prefix, or the one in a folder."""
    source = Path(re.sub(r"\.(index|meta|data-\d+-of-\d+)$", "", str(source)))
    if Path(f"{source}.index").is_file() or (source.is_file() and source.suffix in WEIGHTS):
        return source
    if source.is_file():
        raise UserError(
            f"{source} is no checkpoint; expected {', '.join(WEIGHTS)} or a TensorFlow "
            "checkpoint's prefix"
        )
    if not source.is_dir():
        if (
            re.fullmatch(r"([\w-]+/)?[\w.-]*bert[\w.-]*", str(source), re.IGNORECASE)
            and not source.suffix
        ):
            raise UserError(
                f"{source} does not exist here, and weights are not downloaded by their names; "
                "fetch its "
                f"config.json, vocab.txt and model.safetensors into a folder, and name that"
            )
        raise UserError(
            f"{source} does not exist; expected a TensorFlow checkpoint, a Hugging Face folder or "
            "a .pt file"
        )
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (source / name).is_file():
            return source / name
    if files := saved(source):
        return best_of(files)
    if ours := sorted(source.glob("*.pt")):
        return ours[-1]
    if theirs := sorted(
        source.glob("*.ckpt*.index"), key=lambda p: [int(n) for n in re.findall(r"\d+", p.stem)]
    ):
        return theirs[-1].with_suffix("")
    if seeds := sorted(source.glob("seed-*/run.json")):
        raise UserError(
            f"{source} holds the runs of {len(seeds)} seeds; name one, such as {seeds[0].parent}"
        )
    raise UserError(
        f"{source} has no checkpoint; expected model.safetensors, pytorch_model.bin, "
        "model_steps_N.pt "
        f"or NAME.ckpt.index in it"
    )


def best_of(files: list[Path]) -> Path:
    """Which of a run's checkpoints its folder stands for: the best by its evaluations, else the
    last one.
    """
    last = read_ours(files[-1])
    best = last.get("best") if isinstance(last, dict) else None
    file = (
        files[-1].with_name(f"model_steps_{best.get('step')}.pt")
        if isinstance(best, dict)
        else files[-1]
    )
    return file if file in files else files[-1]


def read_tensorflow(prefix: Path) -> dict[str, Tensor]:
    """{TensorFlow's variable name: tensor}; optimizer slots and counters are left where they are."""
    try:
        with silent_stderr():  # TensorFlow greets there, whatever it is told
            import tensorflow

            reader = tensorflow.train.load_checkpoint(str(prefix))
            return {
                name: torch.from_numpy(np.array(reader.get_tensor(name)))
                for name in sorted(reader.get_variable_to_shape_map())
                if not IGNORED_TENSORFLOW.search(name)
            }
    except ImportError:
        raise UserError(
            f"{prefix} is a TensorFlow checkpoint; to read it, pip install tensorflow"
        ) from None
    except Exception as error:  # TensorFlow's reader turns its errors into many of Python's
        raise UserError(f"{prefix} is truncated or altered ({error}); fetch it again") from None


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """Send what C++ code writes to stderr nowhere."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def read_hugging_face(file: Path) -> dict[str, Tensor]:
    """{Hugging Face's name: tensor} from safetensors or PyTorch's format, old (before 1.6) or new."""
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        try:
            tensors = load_file(file)
        except Exception as error:  # the library has several for a broken file
            if isinstance(error, OSError) and error.filename:
                raise
            raise unreadable(file, error) from None
    else:
        tensors = read_archive(file)
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise UserError(
            f"{file}: expected names and tensors, found a {type(tensors).__name__} of other things"
        )
    tensors = {
        modern_name(str(name)): t
        for name, t in tensors.items()
        if not str(name).endswith("position_ids")
    }
    check_tensors(tensors, file)
    # Tied copies: a decoder of its own would give other scores.
    table, decoder = "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder"
    bias = (
        tensors.setdefault("cls.predictions.bias", tensors[f"{decoder}.bias"])
        if f"{decoder}.bias" in tensors
        else None
    )
    for name, own, what in (
        (f"{decoder}.weight", tensors.get(table), "the word embeddings"),
        (f"{decoder}.bias", bias, "cls.predictions.bias"),
    ):
        if own is not None and name in tensors and not torch.equal(own, tensors[name]):
            raise UserError(f"{file}: {name} differs from {what}; BERT shares them")
    return {name: t for name, t in tensors.items() if not IGNORED_HUGGING_FACE.search(name)}


def unreadable(file: Path, error: BaseException) -> UserError:
    """What to say of weights that their library cannot read."""
    reason = short(str(error).split("\n")[0].split(". ")[0], 100)
    return UserError(
        f"{file}: not readable as weights ({reason}); it is truncated, altered or something else"
    )


def read_archive(file: Path) -> Any:
    """What torch.save has written, old format or new: tensors and plain values. UserError where a
    file is damaged, or would have code run, room allocated that it does not fill, or other files
    named.
    """
    check_file(file, "weights")
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                for entry in archive.infolist():
                    if (
                        entry.compress_type != zipfile.ZIP_STORED
                        or entry.file_size > file.stat().st_size
                    ):
                        raise ValueError(f"{entry.filename} claims {entry.file_size} bytes")
                    if ".." in entry.filename.split("/") or entry.filename.startswith("/"):
                        raise ValueError(f"{entry.filename} is no name of a part")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except (
        Exception
    ) as error:  # each format has its own for a broken file; a pickle that runs code ends here too
        if isinstance(error, OSError) and error.filename:
            raise
        raise unreadable(file, error) from None


def modern_name(name: str) -> str:
    """Hugging Face's name of today for an older one, or one without bert.:  pooler.dense.bias ->
    bert.pooler.dense.bias
    """
    name = re.sub(
        r"LayerNorm\.gamma$",
        "LayerNorm.weight",
        re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name),
    )
    return re.sub(r"^(embeddings|encoder|pooler)\.", r"bert.\1.", name)


def to_ours(
    theirs: dict[str, Tensor], kind: str, config: Config, head: str = "classifier"
) -> tuple[dict[str, Tensor], list[str]]:
    """Rename to our names, in float32; and in words what the encoder lacks, what is half there and
    what is left over.

    `head` is our name of the one that Hugging Face calls "classifier".
    """
    left = {re.sub(r"^classifier\.", f"{head}.", name): tensor for name, tensor in theirs.items()}
    missing: list[tuple[str, str]] = []
    ours: dict[str, Tensor] = {}
    for row in rows(config.n_layers):
        names = row.tensorflow if kind == TENSORFLOW else row.hugging_face
        absent = [name for name in names if name not in left]
        missing += [(row.ours, name) for name in absent]
        parts = [left.pop(name) for name in names if name in left]
        if kind == TENSORFLOW and row.transposed:
            parts = [part.T for part in parts]
        if (
            not absent
            and all(part.ndim for part in parts)
            and len({part.shape[1:] for part in parts}) == 1
        ):
            ours[row.ours] = torch.cat([part.float() for part in parts]).contiguous()
    present = {name.split(".")[0] for name in ours}
    problems = [
        f"{name} is missing"
        for mine, name in missing
        if mine.split(".")[0] in present | {"transformer"}
    ]
    return ours, problems + [f"{short(name)} is left over" for name in left]


def shapes(config: Config, n_labels: int = 2) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter that a model of this configuration may have."""
    with torch.device("meta"):
        sizes = {"answer": 2, "tags": n_labels, "choice": 1}
        others = nn.ModuleDict({name: nn.Linear(config.dim, size) for name, size in sizes.items()})
        modules = [Classifier(config, n_labels), PretrainModel(config), others]
    return {name: tuple(t.shape) for module in modules for name, t in module.state_dict().items()}


def load(model: nn.Module, checkpoint: Checkpoint, fresh: tuple[str, ...] = ()) -> list[str]:
    """Copy weights into a model; returns the names of the heads in `fresh` that the checkpoint
    lacks and that stay new.

    Heads of the checkpoint that the model has no use for are passed over; UserError lists whatever
    else does not fit.
    """
    own = model.state_dict()
    used = {name: t for name, t in checkpoint.tensors.items() if name in own}
    missing = [name for name in own if name not in used]
    new = sorted({name.split(".")[0] for name in missing} & set(fresh))
    problems = [f"{name} is missing" for name in missing if name.split(".")[0] not in new]
    problems += differences(used, {name: tuple(t.shape) for name, t in own.items()})
    refuse_problems(f"{checkpoint.file} does not fit the {type(model).__name__}", problems)
    model.load_state_dict(used, strict=False)
    return new


# --------------------------------------------------------------------------- this project's own .pt


def saved(folder: str | Path) -> list[Path]:
    """The model_steps_N.pt of a folder, fewest steps first."""
    found = [
        (int(match[1]), file)
        for file in Path(folder).glob("model_steps_*.pt")
        if (match := re.fullmatch(r"model_steps_(\d+)\.pt", file.name))
    ]
    return [file for _, file in sorted(found)]


def write_ours(file: str | Path, contents: dict[str, Any]) -> None:
    """Write a .pt, whole or not at all, that torch.load can read and that notices every altered
    byte.

    torch.save makes a zip archive; its comment, the last bytes of the file, takes the SHA-256 of
    all bytes before it.
    """
    with whole_file(file) as f:
        try:
            torch.save(contents, f)
            f.seek(-2, os.SEEK_END)
            f.write(bytes([DIGEST_SIZE, 0]))  # the length of the comment
            append_digest(f)
        except (OSError, RuntimeError) as error:  # torch.save has the second for a full disk
            raise OSError(
                f"{file} could not be written whole; is the disk full? Make room and start the "
                "same command "
                f"again: what was saved before is intact"
            ) from error


def read_ours(file: Path) -> dict[str, Any] | None:
    """The contents of a .pt of ours, its digest checked; None if the file is something else that
    ends in .pt.
    """
    with open(file, "rb") as f:
        start = f.read(2)
        size = f.seek(0, os.SEEK_END)
        f.seek(max(0, size - DIGEST_SIZE - 2))
        tail = f.read()
    if not re.fullmatch(rb"\x40\x00[0-9a-f]{64}", tail):
        if b"PK\x05\x06" in tail[-22:] or (
            start and not start.startswith(b"PK")
        ):  # a whole archive, or none at all
            return None
        raise UserError(
            f"{file} is truncated or altered: it has no digest at its end; use an earlier "
            "checkpoint"
        )
    if not digest_matches(file):
        raise UserError(
            f"{file} is altered: its digest does not match its contents; use an earlier checkpoint"
        )
    return read_archive(file)


# ------------------------------------------------------------------------------------------ writing

# The classes of transformers and the heads they have; the first that a checkpoint fills is written.
ARCHITECTURES: tuple[tuple[str, set[str]], ...] = (
    ("BertForSequenceClassification", {"pooler", "classifier"}),
    ("BertForTokenClassification", {"tags"}),
    ("BertForMultipleChoice", {"pooler", "choice"}),
    ("BertForPreTraining", {"pooler", "masked_lm", "next_sentence"}),
    ("BertForQuestionAnswering", {"answer"}),
    ("BertForNextSentencePrediction", {"pooler", "next_sentence"}),
    ("BertForMaskedLM", {"masked_lm"}),
    ("BertModel", set()),
)


def write_hugging_face(
    checkpoint: Checkpoint, folder: Path, lower_case: bool | None, vocab: Path | None = None
) -> list[str]:
    """A folder that `transformers` loads: config.json, model.safetensors, and of a vocabulary
    vocab.txt and tokenizer_config.json.

    Returns the heads left out, which the class of transformers that fits best has no place for.
    """
    from safetensors.torch import save

    architecture, heads = next(
        (name, heads) for name, heads in ARCHITECTURES if heads <= set(checkpoint.heads)
    )
    if architecture == "BertModel":
        heads = {"pooler"}
    prefix = "bert." if architecture == "BertModel" else ""  # the bare encoder goes without it
    own = CLASSIFIERS.get(architecture, "classifier")
    tensors: dict[str, Tensor] = {}
    for row in rows(checkpoint.config.n_layers):
        if row.ours in checkpoint.tensors and row.ours.split(".")[0] in heads | {"transformer"}:
            parts = checkpoint.tensors[row.ours].float().chunk(len(row.hugging_face))
            names = [
                re.sub(rf"^{own}\.", "classifier.", name.removeprefix(prefix))
                for name in row.hugging_face
            ]
            tensors |= {name: part.contiguous() for name, part in zip(names, parts, strict=True)}
    settings = {
        "architectures": [architecture],
        "model_type": "bert",
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        **checkpoint.config.to_released(),
    }
    if labelled := [head for head in LABELLED if head in heads]:
        labels = checkpoint.labels or [
            f"LABEL_{i}" for i in range(len(checkpoint.tensors[f"{labelled[0]}.bias"]))
        ]
        settings["id2label"] = {str(i): label for i, label in enumerate(labels)}
        settings["label2id"] = {label: i for i, label in enumerate(labels)}
    with whole_file(folder / "model.safetensors") as f:
        f.write(save(tensors, metadata={"format": "pt"}))
    if vocab:
        more = {"tokenizer_class": "BertTokenizer", "model_max_length": checkpoint.config.max_len}
        save_vocab(vocab, folder, bool(lower_case), more)
    write_json(folder / "config.json", settings)
    return [head for head in checkpoint.heads if head not in heads]


def write_beside(out: Path, checkpoint: Checkpoint, vocab: Path, lower_case: bool) -> None:
    """A .pt, and before it what belongs to it: whoever finds the .pt finds the rest too."""
    folder, own = out.parent, {path: path.exists() for path in map(out.with_name, BESIDE)}
    labels = {"labels": checkpoint.labels}
    rules, _ = stated_rules(folder / "vocab.txt")
    fits = {
        "vocab.txt": lambda: load_vocab(folder / "vocab.txt") == load_vocab(vocab),
        "tokenizer_config.json": lambda: (
            rules.do_lower_case in (None, lower_case)
            and rules.unusual() == stated_rules(vocab)[0].unusual()
        ),
        "task.json": lambda: read_json(folder / "task.json") == labels,
    }
    for path, there in own.items():
        if there and not fits[path.name]():
            raise UserError(
                f"{folder} holds another model's {path.name} already; name a target in a folder of "
                "its own"
            )
    try:
        save_vocab(vocab, folder, lower_case)
        if checkpoint.labels:
            write_json(folder / "task.json", labels)
        write_ours(
            out, {"config": dataclasses.asdict(checkpoint.config), "model": checkpoint.tensors}
        )
    except BaseException:
        out.unlink(missing_ok=True)  # it may have its name, though that is not on the disk
        for path, there in own.items():
            if not there:
                path.unlink(missing_ok=True)
        raise


BESIDE = ("vocab.txt", "tokenizer_config.json", "task.json")


def find_vocab(
    vocab: str | Path | None, source: Checkpoint | None, other: Path | None = None
) -> Path:
    """The vocabulary named, or the one beside the weights, or another that is known.

    UserError where there is none, and where it is not the one that the weights beside a run.json
    were trained with.
    """
    beside = source.vocab if source else None
    if source and (own := beside or vocab):
        check_own_vocab(source.file.with_name("run.json"), Path(own))
    if vocab:
        if beside:
            check_same_tokens(Path(vocab), beside)
        return Path(vocab)
    if (found := beside or other) is None:
        where = (
            f"no vocab.txt or tokenizer.json beside {source.file}"
            if source
            else "neither --vocab nor --pretrain_file"
        )
        raise UserError(f"{where}; name a vocab.txt with --vocab")
    return found


def check_same_tokens(vocab: Path, own: Path) -> None:
    """UserError where a vocabulary has other tokens than the model's own, as many as these;
    [unused1] and so on are free for new ones.
    """
    theirs, ours = list(load_vocab(own)), list(load_vocab(vocab))
    if len(theirs) == len(ours):
        for i, (old, new) in enumerate(zip(theirs, ours, strict=True)):
            if old != new and not old.startswith("[unused"):
                raise UserError(
                    f"{vocab} has {show(new)} as token {i}, and {own} beside the weights "
                    f"{show(old)}; "
                    f"leave --vocab out"
                )


def check_own_vocab(run: Path, vocab: Path) -> None:
    """UserError where a run's vocabulary is not the one that its run.json, if there is one, has the
    digest of.
    """
    known = read_json(run).get("sha256 of vocab") if run.is_file() else None
    if known is not None and not vocab_digest(vocab).startswith(str(known)):
        raise UserError(
            f"{vocab} is not the vocabulary that the model was trained with, whose digest {run} "
            "has; use that "
            f"one"
        )


def check_fit(config: Config, vocab_file: Path, max_len: int) -> None:
    """UserError where the vocabulary or max_len contradict the model."""
    if (n := len(load_vocab(vocab_file))) != config.vocab_size:
        raise UserError(f"{vocab_file} has {n} tokens, the model {config.vocab_size}; use its own")
    check_length(config, max_len)


def check_length(config: Config, max_len: int) -> None:
    """UserError where inputs could be longer than the model takes."""
    if max_len > config.max_len:
        raise UserError(
            f"max_len={max_len} is more than the {config.max_len} positions of the model; lower "
            "--max_len"
        )


# ----------------------------------------------------------------------------------------- commands

# Endings of files that are not written here; a folder may have any other in its name.
OTHER_FILES = (
    ".onnx .bin .safetensors .pth .ckpt .h5 .msgpack .tflite .pb .npz .zip .json"
).split()


def convert(
    source: str, target: str, model_cfg: str | None = None, vocab: str | None = None
) -> None:
    """Convert weights: TARGET ending in .pt is this project's format, any other a Hugging Face
    folder.

    Args:
        source: a TensorFlow checkpoint, a Hugging Face folder or file, a .pt, or a folder with one
            of them (of a run: the best checkpoint).
        target: the .pt or the folder to write, whole or not at all; what it holds already is not
            overwritten.
        model_cfg: the model's configuration, where none lies beside SOURCE.
        vocab: vocab.txt, where none lies beside SOURCE.
    """
    out = Path(target)
    if out.exists() and (
        not out.is_dir() or any(out.iterdir()) or out.suffix == ".pt" or out.samefile(".")
    ):
        raise UserError(f"{target} exists already; name another target")
    if out.suffix.lower() in OTHER_FILES:
        raise UserError(
            f"{target}: files ending in {out.suffix} are not written here; expected a name ending "
            "in .pt, or a "
            f"folder's"
        )
    found = read(source, Config.from_json(model_cfg) if model_cfg else None)
    vocab_file = find_vocab(vocab, found)
    check_fit(found.config, vocab_file, 0)
    lower_case = casing(vocab_file, None, found.file)
    left_out: list[str] = []
    if out.suffix == ".pt":
        write_beside(out, found, vocab_file, lower_case)
    else:
        with whole_folder(out) as folder:
            left_out = write_hugging_face(found, folder, lower_case, vocab_file)
    heads = ", ".join(head for head in found.heads if head not in left_out) or "none"
    print(
        f"{found.words()} -> {target}: {len(found.tensors)} tensors, heads: {heads}"
        + (
            f"; left out, as transformers has no class with all of them: {', '.join(left_out)}"
            if left_out
            else ""
        )
    )


def inspect(file: str) -> None:
    """Print what a checkpoint is: names, shapes and types as they stand in the file, and the number
    of parameters.
    """
    kind, path, tensors, extra = read_raw(file)
    for name, t in tensors.items():
        print(f"{name:55} {'x'.join(map(str, t.shape)):>12}  {str(t.dtype).removeprefix('torch.')}")
    total = sum(t.numel() for t in tensors.values())
    step = f", step {extra['step']}" if "step" in extra else ""
    heads = {
        row.ours.split(".")[0]
        for row in rows(1)
        if {OURS: row.ours, HUGGING_FACE: row.hugging_face[0], TENSORFLOW: row.tensorflow[0]}[kind]
        in tensors
    }
    if kind == HUGGING_FACE and "classifier" in heads:
        heads = heads - {"classifier"} | {head_of(settings_beside(path)[1])}
    print(
        f"{path}: {kind}{step}; "
        f"heads: {', '.join(head for head in HEADS if head in heads) or 'none'}; {total:,} "
        "parameters"
    )


def compare(a: str, b: str, tolerance: float = 0.0) -> None:
    """Print the largest difference, tensor by tensor; exit status 1 if one is over the tolerance or
    has no partner.
    """
    left, right = read(a).tensors, read(b).tensors
    worst, alone = 0.0, 0
    for name in left | right:
        if name in left and name in right and left[name].shape == right[name].shape:
            difference = (left[name].double() - right[name].double()).abs().max().item()
            worst = difference if not difference <= worst else worst  # a NaN is worst of all
            print(f"{name:45} {difference:.3e}")
        else:
            alone += 1
            what = (
                "of two shapes"
                if name in left and name in right
                else f"only in {a if name in left else b}"
            )
            print(f"{name:45} {what}")
    print(f"largest difference {worst:.3e}, {alone} tensors without a partner")
    if alone or not worst <= tolerance:
        sys.exit(1)


if __name__ == "__main__":
    command(convert, inspect, compare)

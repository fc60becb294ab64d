"""Weights, and the shape, vocabulary and tokenizer that fit them: what every command begins with.

bert = find("uncased_L-12_H-768_A-12")
model = Classifier(bert.config, n_labels=2)
bert.load_into(model, fresh=("classifier",))
ids = bert.tokenizer.encode("A text.")

weights = read("model.safetensors")  # without a vocabulary
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import models
from formats import hub
from formats.beside import check as check_beside
from formats.cards import COMMANDS
from formats.finding import (
    is_onnx,
    read_raw,
    released_labels,
    saved_labels,
    settings_beside,
    stated_config,
)
from formats.names import HEADS, HUGGING_FACE, LABELLED, ONNX, OURS
from formats.onnx import OnnxFile
from formats.rules import began_by_googles_rule
from formats.sentence_encoders import dense_tensors
from formats.translate import (
    differences,
    foreign_prefixes,
    head_of,
    listed,
    shapes,
    to_ours,
    without_strange,
    without_unusable,
)
from formats.vocab import Vocabulary, find_vocabulary
from formats.weights import check_finite, check_tensors
from system.files import write_json
from tokenization import FullTokenizer
from training import runs
from utils import UserError, log, short, warn

# The heads that pre-training gives a model.
PRETRAINED_HEADS = ("pooler", "masked_lm", "next_sentence")

# The model of each kind that ONNX files are of, and its heads; the first that a checkpoint fills.
MODELS: dict[str, tuple[type[models.BertModel], set[str]]] = {
    "classifier": (models.Classifier, {"pooler", "classifier"}),
    "tags": (models.Tagger, {"tags"}),
    "choice": (models.MultipleChoice, {"pooler", "choice"}),
    "answer": (models.QuestionAnswering, {"answer"}),
    "masked_lm": (models.PretrainModel, {"pooler", "masked_lm", "next_sentence"}),
    "pooler": (models.BertModel, {"pooler"}),
    "encoder": (models.BertModel, set()),
}


@dataclasses.dataclass
class Pretrained:
    """The weights of a model under our names, and what belongs to them.

    From scratch there is the shape of a model alone, and its tokenizer.
    """

    kind: str  # what the file is, in words; "": from scratch
    file: Path
    config: models.Config
    tensors: dict[str, Tensor]
    labels: list[str] | None = None  # of the classifier, where known
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)  # of a .pt: step, best ...
    onnx: OnnxFile | None = None  # what computes a .onnx; `tensors` then are shapes
    unusable: dict[str, str] = dataclasses.field(default_factory=dict)  # heads left out, and why
    wrong_labels: str = ""  # why names of labels that lie beside it are none of its own
    found_tokenizer: FullTokenizer | None = None  # None: weights alone were asked for

    @property
    def tokenizer(self) -> FullTokenizer:
        """That of find()."""
        assert self.found_tokenizer
        return self.found_tokenizer

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens that the embeddings are of."""
        return self.tokenizer.vocabulary

    @property
    def is_trained(self) -> bool:
        """Whether there are weights."""
        return bool(self.kind)

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

    def with_layers(self, layers: Sequence[int]) -> "Pretrained":
        """The same with some of its blocks alone, by their numbers from 0."""
        n = self.config.n_layers
        if not layers or not all(0 <= i < n for i in layers) or sorted(set(layers)) != [*layers]:
            raise UserError(
                f"`keep_layers={','.join(map(str, layers))}`: expected rising numbers from 0 to "
                f"{n - 1}, the layers of {self.file or 'the model'}"
            )
        if not self.is_trained:
            raise UserError("`keep_layers` is of weights to start from; name a `pretrain_file`")
        tensors = {}
        for name, tensor in self.tensors.items():
            prefix, block, rest = name.rpartition("blocks.")
            number, _, rest = rest.partition(".")
            if not block:
                tensors[name] = tensor
            elif int(number) in layers:
                tensors[f"{prefix}{block}{layers.index(int(number))}.{rest}"] = tensor
        config = dataclasses.replace(self.config, n_layers=len(layers))
        log(f"Starts from the layers {', '.join(map(str, layers))} of {n}")
        return dataclasses.replace(self, config=config, tensors=tensors)

    def without(self, head: str) -> "Pretrained":
        """The same without one of its heads."""
        kept = {name: t for name, t in self.tensors.items() if not name.startswith(f"{head}.")}
        return dataclasses.replace(self, tensors=kept)

    def __repr__(self) -> str:
        text = "from scratch"
        if self.is_trained:
            heads = ", ".join(self.heads) or "none"
            text = f"{self.kind} {self.file}, {len(self.tensors)} tensors, heads: {heads}"
        return f"<{text}, {self.vocabulary.file}>" if self.found_tokenizer else f"<{text}>"

    def describe(self) -> str:
        """Which file it is, and of a run's best checkpoint what makes it the best."""
        # Each checkpoint of a run holds the best evaluation so far: its own at the same step.
        best = self.extra.get("best")
        if not isinstance(best, dict) or best.get("step") != self.extra.get("step"):
            return f"{self.kind} {self.file}"
        measured, value = "its evaluations", best.get("value")
        if isinstance(value, float):
            measured = f"{short(str(best.get('metric')))} {value:.4f}"
        return f"{self.kind} {self.file} (the best of its run: {measured})"

    def load_into(
        self, model: nn.Module, fresh: tuple[str, ...] = (), complete: str = "all heads"
    ) -> list[str]:
        """Copy the weights into a model, and say which heads in `fresh` are new, or `complete`.

        Returns those that are new.
        """
        if not self.is_trained:
            return []
        new = load(model, self, fresh)
        heads = f"new: {', '.join(new)}" if new else complete
        log(f"{self.describe()}, {heads}")
        return new

    @contextlib.contextmanager
    def run_lock(self, folder: Path, model: nn.Module, settings: dict[str, Any]) -> Iterator[None]:
        """Within it, a folder is the run's own; it gets the model's shape and vocabulary.

        Args:
            settings: all that shapes the result, beside what is known here.
        """
        config = self.config.to_json()
        recorded = {f"model_cfg.{name}": value for name, value in config.items()}
        for name, value in settings.items():
            # As JSON has it, to compare with what was recorded.
            recorded[name] = list(value) if isinstance(value, tuple) else value
        # Which commit of the hub the weights were, and their digest; what they are is below.
        if self.is_trained and (origin := hub.origin(self.file)):
            recorded["weights"] = origin
        recorded["do_lower_case"] = self.tokenizer.do_lower_case
        recorded["tokenizer rules"] = self.tokenizer.rules.unusual()
        recorded["sha256 of vocab"] = self.vocabulary.digest[:16]
        # A digest of the weights that training begins with: another start is another run.
        recorded["sha256 of initial weights"] = runs.weights_digest(model)[:16]
        if self.tokenizer.rules.added and began_by_googles_rule(folder):
            raise UserError(
                f"{folder} was begun by Google's rule, which splits every text alike; find its "
                "weights with save_dir, so that it goes on by it"
            )
        # The lock is taken before anything is written, and kept until training ends.
        with runs.run_lock(folder, recorded):
            self.vocabulary.save(folder)
            write_json(folder / "config.json", config)
            yield


# ------------------------------------------------------------------------------------------ finding


def find(
    weights: str | Path | None,
    model_cfg: str | None = None,
    vocab: str | None = None,
    head: str = "",
    predicting: bool = False,
    save_dir: str | Path | None = None,
    other_vocab: Path | None = None,
) -> Pretrained:
    """Read weights, or without any the shape of a model, and what belongs to them.

    UserError where the parts contradict each other, or the weights lack a head.

    Args:
        weights: a TensorFlow checkpoint, a Hugging Face folder, a .pt, a run's folder, a name of
            Hugging Face's hub (hub.fetch); None: from scratch, by `model_cfg`.
        model_cfg: JSON of the model's shape; None: what lies beside the weights.
        vocab: vocab.txt; None: what lies beside the weights.
        head: one that the weights have to have.
        predicting: as read() has it.
        save_dir: folder of a run that may go on, by the rule for its texts that it was begun with.
        other_vocab: the vocabulary where none is named and none lies beside the weights.
    """
    # --model_cfg overrules what lies beside the weights, which must then fit it.
    config = models.Config.from_json(model_cfg) if model_cfg else None
    file = None
    if weights:
        found = read(weights, config, predicting)
        if head and head not in found.heads:
            raise UserError(lacking(found, head, weights))
        # A head that is to answer needs the names of its labels; another one is thrown away.
        if predicting:
            found.check_labels()
        file = found.folder / found.file.name
    elif config:
        found = Pretrained("", Path(), config, {})
    else:
        raise UserError(
            "neither `pretrain_file` nor `model_cfg`; name weights to start from, or the shape of "
            "a model"
        )
    vocabulary = find_vocabulary(vocab, file, other_vocab)
    vocabulary.check_size(found.config.vocab_size, file)
    if save_dir and began_by_googles_rule(Path(save_dir)):
        vocabulary = vocabulary.googles()
    found.found_tokenizer = FullTokenizer(vocabulary)
    return found


def lacking(source: Pretrained, head: str, weights: str | Path | None) -> str:
    """That weights have no such head, and what to do, as a message."""
    others = [COMMANDS[other] for other in source.heads if other in COMMANDS]
    if head in COMMANDS and others:
        message = f"{source.file} is a model of {others[0]}, and has no {head}; name one of "
        message += COMMANDS[head]
        # A .onnx is no start.
        if not source.onnx:
            message += f", or train it from this one with `pretrain_file={weights}`"
        return message
    remedy = f"train one first (`mode=train` `pretrain_file={weights}`), or name weights that"
    # No task trains these for their own sake.
    if head in PRETRAINED_HEADS:
        remedy = "name weights that pretrain.py or Google made, which"
    elif source.onnx:
        remedy = "name models that"
    # It may have one that is not like BERT's.
    what = f": {source.unusable[head]}" if head in source.unusable else f" has no {head}"
    return f"{source.file}{what}; {remedy} have one"


# ------------------------------------------------------------------------------------------ reading


def read(
    source: str | Path,
    config: models.Config | None = None,
    predicting: bool = False,
    finite: bool = True,
) -> Pretrained:
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
            raise UserError(f"{source} has its configuration in it; leave `model_cfg` out")
        return read_onnx(Path(source))
    kind, file, theirs, extra = read_raw(source)
    if kind == HUGGING_FACE:
        theirs |= dense_tensors(file.parent)
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
    n_dense = len(tensors["dense.bias"]) if "dense.bias" in tensors else 0
    expected = shapes(config, n_labels or 2, n_dense)
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
    if problems:
        raise UserError(f"{file} contradicts the model configuration: {listed(problems)}")
    if finite:
        check_finite(tensors, file)
    if strange:
        names = [short(name) for name in strange]
        warn(f"{file}: left out, since BERT has no such tensors: {listed(names)}")
    for name, reason in unusable.items():
        warn(f"{file}: left out its {name}: {reason}")
    labels = labels if labelled else None
    found = Pretrained(kind, file, config, tensors, labels, extra, unusable=unusable)
    if found.labels and len(found.labels) != n_labels:
        found.wrong_labels = (
            f"{file} has {n_labels} labels, and {len(found.labels)} names of labels lie beside it; "
            "mend id2label"
        )
        found.labels = None
    return found


def read_onnx(file: Path) -> Pretrained:
    """A .onnx that `checkpoint.py convert` has written: a model that predicts, and its head."""
    onnx = OnnxFile(file)
    config = models.Config.from_json(onnx.folder / "config.json")
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
    return Pretrained(ONNX, file, config, tensors, labels if n_labels else None, onnx=onnx)


def load(model: nn.Module, source: Pretrained, fresh: tuple[str, ...] = ()) -> list[str]:
    """Copy weights into a model; returns which heads in `fresh` the checkpoint lacks.

    These stay as they are. Heads of the checkpoint that the model has no use for are ignored;
    UserError lists whatever else does not fit.
    """
    own = model.state_dict()
    # A classifier takes the encoder of a pre-trained model, and leaves its heads alone.
    used = {name: t for name, t in source.tensors.items() if name in own}
    missing = [name for name in own if name not in used]
    new = sorted({name.split(".")[0] for name in missing} & set(fresh))
    problems = [f"{name} is missing" for name in missing if name.split(".")[0] not in new]
    problems += differences(used, {name: tuple(t.shape) for name, t in own.items()})
    if problems:
        kind = type(model).__name__
        raise UserError(f"{source.file} does not fit the {kind}: {listed(problems)}")
    # Every name was checked above; what is not loaded are the fresh heads.
    model.load_state_dict(used, strict=False)
    return new

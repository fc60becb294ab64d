"""Other programs' weights under our names: what they put before names, what is no part of BERT.

tensors = without_wrapper(tensors, file)                # "module.bert..." -> "bert..."
tensors, strange = without_strange(tensors, HUGGING_FACE)
ours, problems = to_ours(tensors, HUGGING_FACE, config, "classifier")
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from formats.names import (
    CLASSIFIERS,
    DHLEE347,
    HEADS,
    HUGGING_FACE,
    TENSORFLOW,
    Row,
    names_of,
    table_rows,
)
from models import Config
from utils import UserError, short, warn

# How the names of an encoder and of pre-training's heads begin; what begins otherwise and is in no
# row of the table belongs to something else that was trained on top of BERT.
BERTS_OWN = {
    HUGGING_FACE: ("bert.", "cls.predictions.", "cls.seq_relationship."),
    TENSORFLOW: ("bert/", "cls/predictions/", "cls/seq_relationship/"),
    DHLEE347: ("transformer.",),
}

# The word embeddings, and a copy of them that some files have, since models share the two.
WORDS = {
    HUGGING_FACE: ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
    DHLEE347: ("transformer.embed.tok_embed.weight", "decoder.weight"),
}

# What stands before all names where a model was saved within another object: DataParallel,
# torch.compile, Lightning, sentence-transformers, a class of one's own.
WRAPPERS = re.compile(r"((module|_orig_mod|model|auto_model|bert_model|encoder|bert|\d+)\.)*")

WORD_EMBEDDINGS = re.compile(
    r"(.*?)(?:bert\.)?(embeddings\.word_embeddings|transformer\.embed\.tok_embed"
    r"|transformer\.embedding\.token)\.weight"
)


def without_wrapper(tensors: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """The same tensors without what the model was saved within has put before their names."""
    found = {m[1] for name in tensors if (m := WORD_EMBEDDINGS.fullmatch(name))}
    if len(found) != 1 or not (prefix := found.pop()) or not WRAPPERS.fullmatch(prefix):
        return tensors
    # What lacks it is no part of the model: a layer of the object around it.
    inside = {name: t for name, t in tensors.items() if name.startswith(prefix)}
    message = f"{file}: names are read without {prefix!r} before them"
    if others := sorted(tensors.keys() - inside.keys()):
        message += f"; left out, since they lack it: {listed(others)}"
    warn(message)
    return {name.removeprefix(prefix): t for name, t in inside.items()}


def foreign_prefixes(names: Iterable[str]) -> str:
    """What stands before the names of the word embeddings, where that is not BERT's."""
    found = {m[1] for name in names if (m := WORD_EMBEDDINGS.fullmatch(name))}
    return " and ".join(sorted(map(repr, found))) if found != {""} else ""


def as_hugging_face(tensors: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """{Hugging Face's name of today: tensor}; UserError where two would have the same."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if (new := modern_name(name)) in found:
            raise UserError(f"{file} has two tensors that are {short(new)}; remove the wrong one")
        # A buffer of position_ids counts from 0, and is no parameter.
        if not name.endswith("position_ids"):
            found[new] = tensor
    return found


def modern_name(name: str) -> str:
    """Hugging Face's name of today for an older one, or one without bert.

    pooler.dense.bias -> bert.pooler.dense.bias
    """
    # Hugging Face's first conversions, bert-base-uncased among them, have gamma and beta still.
    name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    # A bare BertModel has no prefix of its own.
    return re.sub(r"^(embeddings|encoder|pooler)\.", r"bert.\1.", name)


def without_strange(tensors: dict[str, Tensor], kind: str) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors that are BERT's by their names, and the names of the others."""
    known = {name for row in table_rows(0) for name in names_of(row, kind)}
    known |= {name for names in WORDS.values() for name in names}
    strange = [n for n in tensors if n not in known and not n.startswith(BERTS_OWN[kind])]
    return {n: t for n, t in tensors.items() if n not in strange}, strange


def without_unusable(
    tensors: dict[str, Tensor], kind: str, config: Config, head: str
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors without copies and without the heads that differ from BERT's; and why these do.

    `head` is our name of the one that is called "classifier".
    """
    kept, reasons = dict(tensors), dict[str, str]()
    own = {
        head: [n for row in table_rows(0) if row.head == head for n in names_of(row, kind)]
        for head in HEADS
    }
    words, decoder = WORDS.get(kind, ("", ""))
    bias, copy = "cls.predictions.bias", "cls.predictions.decoder.bias"
    if copy in kept:
        kept.setdefault(bias, kept[copy])
    # Models share the words' vectors with the decoder. One of its own gives other scores.
    for a, b in ((decoder, words), (copy, bias)):
        if a in kept and b in kept and not torch.equal(kept[a], kept[b]):
            reasons["masked_lm"] = f"{a} differs from {b}; BERT shares them"
        kept.pop(a, None)
    # A layer on other vectors than the encoder's, or one without a bias. What pre-training's heads
    # lack is damage.
    for name in ("classifier", "answer", "tags", "choice"):
        if not kept.keys() & own[name]:
            continue
        if absent := [n for n in own[name] if n not in kept]:
            reasons[name] = f"it has no {absent[0]}"
        elif (shape := tuple(kept[own[name][0]].shape))[1:] != (config.dim,):
            reasons[name] = f"{own[name][0]} is {shape}, expected (labels, {config.dim})"
    left_out = {n for name in reasons for n in own[name]}
    kept = {n: t for n, t in kept.items() if n not in left_out}
    return kept, {head if name == "classifier" else name: why for name, why in reasons.items()}


def head_of(settings: dict[str, Any], names: Iterable[str], kind: str) -> str:
    """Our name of the head that is called "classifier" among these names."""
    if kind == DHLEE347:
        # Pre-training's own layers stand beside its classifier of next sentences.
        return "next_sentence" if {"linear.weight", "decoder_bias"} & set(names) else "classifier"
    # Google's files name no class, and their classifier is one of whole inputs.
    classes = settings.get("architectures")
    if isinstance(classes, list):
        for name, head in CLASSIFIERS.items():
            if name in classes:
                return head
    return "classifier"


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
        names = names_of(row, kind)
        absent = [name for name in names if name not in left]
        missing += [(row, name) for name in absent]
        parts = [left.pop(name) for name in names if name in left]
        # nn.Linear keeps (out, in), TensorFlow's kernels (in, out).
        if kind == TENSORFLOW and row.transposed:
            parts = [part.T for part in parts]
        # Query, key and value are stacked, which only matrices of one width allow.
        fit_together = len({part.shape[1:] for part in parts}) == 1
        if parts and not absent and fit_together and all(part.ndim for part in parts):
            # In float32, whatever the file has: mixed types would fail in the first product.
            ours[row.ours] = torch.cat([part.float() for part in parts]).contiguous()
    # Its label 1 is ours 0: B follows A.
    if kind == DHLEE347:
        for name in {"next_sentence.weight", "next_sentence.bias"} & ours.keys():
            ours[name] = ours[name].flip(0)
    # Of a head that is there, and of the encoder, nothing may be missing.
    needed = {name.split(".")[0] for name in ours} | {"transformer"}
    problems = [f"{name} is missing" for row, name in missing if row.head in needed]
    return ours, problems + [f"{short(name)} is left over" for name in left]


def listed(texts: list[str]) -> str:
    """The first five of some texts, and the number of the rest."""
    rest = f"; and {len(texts) - 5} more" if len(texts) > 5 else ""
    return "; ".join(texts[:5]) + rest


# ------------------------------------------------------------------------------------------- shapes


def shapes(config: Config, n_labels: int = 2, dense: int = 0) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter that a model of this configuration may have, by its name."""
    d, f, vocabulary = config.dim, config.dim_ff, config.vocab_size
    # By the end of a module's name: (out, in), or (entries, width).
    matrices: dict[str, tuple[int, ...]] = {
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
        "dense": (dense, d),  # of a sentence encoder, after pooling
    }
    found: dict[str, tuple[int, ...]] = {}
    for row in table_rows(config.n_layers):
        module, _, kind = row.ours.rpartition(".")
        # What is no matrix is a norm, or the bias of each word's score.
        vector = (vocabulary,) if module == "masked_lm" else (d,)
        shape = next((m for name, m in matrices.items() if module.endswith(name)), vector)
        found[row.ours] = shape if kind == "weight" else shape[:1]
    if not dense:
        found = {name: shape for name, shape in found.items() if not name.startswith("dense.")}
    return found


def differences(tensors: dict[str, Tensor], expected: dict[str, tuple[int, ...]]) -> list[str]:
    """Which tensors have another shape than expected, in words."""
    return [
        f"{name} is {tuple(tensors[name].shape)}, expected {shape}"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]

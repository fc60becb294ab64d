"""How a text becomes a vector, as folders of sentence-transformers say it beside the weights.

form = Form.of(Path("all-MiniLM-L6-v2"))         # Form(pooling="mean", normalize=True, ...)
stated_length(Path("all-MiniLM-L6-v2"), True)    # 256
form.save(Path("my-model"), max_len=256, width=384, dense=None)
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from formats.weights import read_weights
from system.files import read_json, read_settings, whole_file, write_json
from utils import UserError, show, typed

POOLING = ("mean", "cls", "max", "layers")
# sentence-transformers' names of what is done to the vectors of tokens, and ours.
THEIR_POOLING = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max"}
# PyTorch's names of what follows a dense layer, and ours.
ACTIVATIONS = {
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.linear.Identity": "identity",
}
THEIRS = "sentence_transformers.models."
DENSE = "2_Dense"
MODULES = ("Transformer", "Pooling", "Dense", "Normalize")


@dataclasses.dataclass(frozen=True)
class Form:
    """How a text becomes a vector."""

    pooling: str = "mean"  # one of POOLING
    normalize: bool = True  # to length 1
    dense: int = 0  # width of a layer behind pooling; 0: none
    activation: str = "tanh"  # behind it: tanh or identity
    query_prompt: str = ""  # what begins a query
    document_prompt: str = ""  # what begins a text that is searched

    def __post_init__(self) -> None:
        if self.pooling not in POOLING:
            raise UserError(f"`pooling={show(self.pooling)}`: expected {', '.join(POOLING)}")
        if self.activation not in ACTIVATIONS.values():
            expected = " or ".join(ACTIVATIONS.values())
            raise UserError(f"`activation={show(self.activation)}`: expected {expected}")
        if self.dense < 0:
            raise UserError(f"`dense={self.dense}`: expected the width of a layer, or 0 for none")

    @classmethod
    def of(cls, folder: Path, given: Mapping[str, Any]) -> "Form | None":
        """What a folder of sentence-transformers says; None: it does not say.

        UserError at what is not computed here, unless another pooling is given.
        """
        modules = folder / "modules.json"
        if not modules.is_file():
            return None
        found: dict[str, Any] = {"normalize": False}
        if "pooling" in given:
            return cls(**found | prompts_of(folder))
        names = list[str]()
        for module in read_json(modules, list[dict[str, Any]]):
            name, part = str(module.get("type")).split(".")[-1], str(module.get("path"))
            settings = folder / part / "config.json"
            names.append(name)
            if name == "Pooling":
                found["pooling"] = pooling_of(settings)
            elif name == "Dense":
                values = read_json(settings)
                found["dense"] = typed(values.get("out_features"), int, f"{settings}: out_features")
                activation = values.get("activation_function")
                if activation not in ACTIVATIONS:
                    raise UserError(
                        f"{settings}: activation_function is {show(activation)}; expected one of "
                        f"{', '.join(ACTIVATIONS)}"
                    )
                found["activation"] = ACTIVATIONS[activation]
            elif name == "Normalize":
                found["normalize"] = True
            elif name != "Transformer":
                raise UserError(
                    f"{modules}: {show(name)} changes the vectors in a way that is not computed "
                    "here; `pooling` cls, mean or max takes the encoder's own vectors"
                )
        if names != [name for name in MODULES if name in names]:
            raise UserError(
                f"{modules}: {', '.join(names)}; expected {', '.join(MODULES)}, each once and in "
                "this order"
            )
        return cls(**found | prompts_of(folder))

    def save(self, folder: Path, max_len: int, width: int, dense: Mapping[str, Tensor]) -> None:
        """The files that sentence-transformers reads beside a model of transformers.

        Args:
            width: of the encoder.
            dense: weight and bias of the dense layer, if there is one.
        """
        if self.pooling == "layers":
            raise UserError("`pooling=layers` has no form in sentence-transformers; use mean")
        named = {"": "Transformer", "1_Pooling": "Pooling"}
        pooling = {
            f"pooling_mode_{theirs}": ours == self.pooling for theirs, ours in THEIR_POOLING.items()
        }
        write_json(folder / "1_Pooling/config.json", {"word_embedding_dimension": width, **pooling})
        if self.dense:
            from safetensors.torch import save

            named[DENSE] = "Dense"
            activation = next(a for a, ours in ACTIVATIONS.items() if ours == self.activation)
            about = {"in_features": width, "out_features": self.dense, "bias": True}
            settings = about | {"activation_function": activation}
            write_json(folder / DENSE / "config.json", settings)
            with whole_file(folder / DENSE / "model.safetensors") as f:
                f.write(save({f"linear.{name}": t.contiguous() for name, t in dense.items()}))
        if self.normalize:
            named[f"{len(named)}_Normalize"] = "Normalize"
        modules = [
            {"idx": i, "name": str(i), "path": path, "type": THEIRS + name}
            for i, (path, name) in enumerate(named.items())
        ]
        write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_len})
        prompts = {"query": self.query_prompt, "document": self.document_prompt}
        write_json(
            folder / "config_sentence_transformers.json",
            {"prompts": prompts, "default_prompt_name": None, "similarity_fn_name": "cosine"},
        )
        write_json(folder / "modules.json", modules)  # type: ignore[arg-type]


def pooling_of(file: Path) -> str:
    """Which of POOLING the file of a Pooling module asks for."""
    values, remedy = read_json(file), "`pooling` cls, mean or max takes the encoder's own vectors"
    # Newer files name the ways, older ones say yes or no to each.
    named = values.get("pooling_mode")
    if named is None:
        chosen = [name for name, on in values.items() if on and name.startswith("pooling_mode_")]
        ways = [name.removeprefix("pooling_mode_") for name in chosen]
        ways = [THEIR_POOLING.get(way, way) for way in ways]
    else:
        ways = [named] if isinstance(named, str) else typed(named, list[str], file)
    if len(ways) != 1 or ways[0] not in THEIR_POOLING.values():
        raise UserError(
            f"{file} pools by {show(' and '.join(ways))}, which is not computed here; {remedy}"
        )
    if values.get("include_prompt") is False:
        raise UserError(f"{file}: include_prompt is false, which is not computed here; {remedy}")
    return ways[0]


def prompts_of(folder: Path) -> dict[str, str]:
    """What a folder puts before queries and before texts."""
    file = folder / "config_sentence_transformers.json"
    values = read_settings(file)
    prompts = typed(values.get("prompts") or {}, dict[str, str], f"{file}: prompts")
    usual = values.get("default_prompt_name")
    if usual is not None and usual not in prompts:
        raise UserError(f"{file}: default_prompt_name is {show(usual)}, which is none of prompts")
    before = prompts[usual] if usual else ""
    named = {
        "query_prompt": next((prompts[n] for n in ("query", "s2p_query") if n in prompts), before),
        "document_prompt": next(
            (prompts[n] for n in ("document", "passage", "corpus") if n in prompts), before
        ),
    }
    return {name: prompt for name, prompt in named.items() if prompt}


def dense_tensors(folder: Path) -> dict[str, Tensor]:
    """The weights of a folder's dense layer, by the names of the table."""
    modules = folder / "modules.json"
    found: dict[str, Tensor] = {}
    for module in read_json(modules, list[dict[str, Any]]) if modules.is_file() else []:
        if str(module.get("type")).endswith(".Dense"):
            part = folder / str(module.get("path"))
            names = ("model.safetensors", "pytorch_model.bin")
            file = next((part / name for name in names if (part / name).is_file()), None)
            # Who needs it finds that it is missing.
            if file is not None:
                found |= {f"{DENSE}.{name}": t for name, t in read_weights(file).items()}
    return found


def stated_length(folder: Path, do_lower_case: bool) -> int | None:
    """How many tokens of a text a folder of sentence-transformers reads; None: it does not say.

    UserError where it lower-cases texts that its tokenizer does not.
    """
    file = folder / "sentence_bert_config.json"
    values = read_settings(file)
    if values.get("do_lower_case") and not do_lower_case:
        raise UserError(
            f"{file}: do_lower_case is true, and the vocabulary is cased; make the two agree"
        )
    name = "max_seq_length"
    # Folders of today leave it to the tokenizer.
    if values and name not in values:
        file, name = folder / "tokenizer_config.json", "model_max_length"
        values = read_settings(file)
    length = typed(values.get(name), int | float | None, f"{file}: {name}")
    # A number as large as can be means no limit.
    return None if length is None or length > 10**6 else int(length)

"""What a folder of sentence-transformers says beside its weights: how vectors are pooled, lengths.

stated_pooling(Path("all-MiniLM-L6-v2"))         # "mean"
stated_length(Path("all-MiniLM-L6-v2"), True)    # 256
"""

from pathlib import Path
from typing import Any

from system.files import read_json, read_settings
from utils import UserError, show, typed

# sentence-transformers' names of what is done to the vectors of tokens, and ours.
THEIR_POOLING = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max"}


def stated_pooling(folder: Path) -> str | None:
    """How a folder of sentence-transformers makes a vector of a text; None: it does not say.

    A layer that brings vectors to length 1 changes no cosine. UserError at what is not computed
    here.
    """
    modules = folder / "modules.json"
    if not modules.is_file():
        return None
    remedy = "`pooling` cls, mean or max takes the encoder's own vectors"
    pooling = None
    for module in read_json(modules, list[dict[str, Any]]):
        name = str(module.get("type")).split(".")[-1]
        if name == "Pooling":
            pooling = pooling_of(folder / str(module.get("path")) / "config.json", remedy)
        elif name not in ("Transformer", "Normalize"):
            raise UserError(
                f"{modules}: {show(name)} changes the vectors in a way that is not computed here; "
                f"{remedy}"
            )
    prompts = folder / "config_sentence_transformers.json"
    default = read_settings(prompts).get("default_prompt_name")
    if default is not None:
        raise UserError(
            f"{prompts}: default_prompt_name is {show(default)}, which puts words before each "
            f"text; {remedy}, of texts as they are"
        )
    return pooling


def pooling_of(file: Path, remedy: str) -> str:
    """Which of POOLING the file of a Pooling module asks for."""
    values = read_json(file)
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
    return ways[0]


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
    return typed(values.get("max_seq_length"), int | None, f"{file}: max_seq_length")

"""What may lie beside weights: which files are read, and which refused; others change nothing.

check(Path("bert"))  # UserError at a file that would change the results and is not read

Every way of opening weights asks this module once: a folder, a name of the hub, a zip file, a
run. docs/formats.md has the table in words.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from system.files import read_json, read_settings
from utils import UserError, show, typed

# What is read, and by whom. Folders of the hub are fetched by these names.
USED = {
    "config.json": "the shape of the model, its labels and its class",
    "bert_config.json": "Google's shape of the model",
    "vocab.txt": "the vocabulary",
    "tokenizer.json": "the vocabulary, how text is split, tokens that are kept whole",
    "tokenizer_config.json": "casing, how text is split, tokens that are kept whole",
    "special_tokens_map.json": "tokens that are kept whole, in folders of transformers before 4.34",
    "added_tokens.json": "the same",
    "modules.json": "features.py: what sentence-transformers does with the vectors",
    "sentence_bert_config.json": "features.py: tokens of a text at most",
    "config_sentence_transformers.json": "features.py: words before each text, which are refused",
    "*/config.json": "features.py: how vectors are pooled",
    "task.json": "the task that a model was trained on",
    "squad.json": "the same of squad.py",
    "pretrain.json": "the same of pretrain.py",
    "run.json": "what the files of a run have to agree with",
}

# What would make another model, or other tokens, of what is read here.
REFUSED = {
    "adapter_config.json": "the weights are changed by an adapter; merge it into them first",
    "spiece.model": "its texts are split by SentencePiece, which is not BERT's",
    "sentencepiece.bpe.model": "its texts are split by SentencePiece, which is not BERT's",
    "tokenizer.model": "its texts are split by SentencePiece, which is not BERT's",
    "merges.txt": "its texts are split by byte pairs, which is not BERT's",
    "bpe.codes": "its texts are split by byte pairs, which is not BERT's",
}


def check(folder: Path) -> None:
    """UserError where a file beside weights is not supported, or contradicts the run's record."""
    for name, reason in REFUSED.items():
        if (folder / name).is_file():
            raise UserError(f"{folder / name}: {reason}; remove it if that is not so")
    check_record(folder)


# ----------------------------------------------------------------------------------- a run's record


# What the file of a task may have, and a run's record of it then has too.
TASK_FIELDS = frozenset(
    "task labels max_len long text_a text_b label separator header form metrics aliases no_text "
    "column context doc_stride max_query_len version_2_with_negative".split()
)
# What is chosen when training has ended, or by hand: how a model's scores become answers.
CHOSEN_LATER = {"temperature", "thresholds"}


def check_record(folder: Path) -> None:
    """UserError where a file of a run says otherwise than its run.json.

    The model was trained with what run.json has. Earlier versions recorded less: of their runs what
    is there is compared, and nothing is missed.
    """
    file = folder / "run.json"
    if not file.is_file():
        return
    run = read_json(file)
    rules = run.get("tokenizer rules")
    for name in ("task.json", "squad.json", "pretrain.json"):
        if (folder / name).is_file():
            values = read_json(folder / name)
            known = values.keys() & run.keys()
            # Of a run of this version a value that was added or taken out is noticed as well.
            if rules is not None and name != "pretrain.json":
                known = values.keys() | (TASK_FIELDS & run.keys())
            compare(folder / name, values, run, known - CHOSEN_LATER)
    config = folder / "tokenizer_config.json"
    if config.is_file():
        values = read_json(config)
        compare(config, values, run, {"do_lower_case"} & run.keys())
        if rules is not None:
            compare(config, values, rules, (values.keys() | rules.keys()) - {"do_lower_case"})


def recorded_rules(folder: Path) -> dict[str, Any]:
    """What the tokenizer_config.json of a run says, which may be missing, as run.json has it."""
    file = folder / "run.json"
    run = read_settings(file)
    rules = typed(run.get("tokenizer rules", {}), dict[str, Any], f"{file}: tokenizer rules")
    return {"do_lower_case": run.get("do_lower_case")} | rules


def compare(file: Path, values: dict[str, Any], run: dict[str, Any], names: Iterable[str]) -> None:
    """UserError at the first of some values of a file that is another in run.json."""
    for name in sorted(names):
        if values.get(name) != run.get(name):
            remedy = "restore that"
            if name == "max_len":
                remedy += ", or use another with `max_len`"
            raise UserError(
                f"{file}: {name} is {show(values.get(name))}, and the model was trained with "
                f"{show(run.get(name))}, as run.json beside it says; {remedy}"
            )

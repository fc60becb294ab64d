"""The files of a vocabulary: vocab.txt or tokenizer.json, and the rules stated beside it.

vocab = load_vocab("bert/vocab.txt")        # {token: id}
lower_case = casing("bert/vocab.txt")       # whether its tokenizer lower-cases
save_vocab("bert/vocab.txt", Path("runs/mrpc"), lower_case)
"""

import dataclasses
import hashlib
import re
from pathlib import Path
from typing import Any

from system.files import check_regular, read_json, read_text, whole_file, write_json
from utils import UserError, note, show, typed

UNKNOWN = "[UNK]"
# [PAD] is padding, [CLS] and [SEP] frame an input, and [MASK] is what pre-training hides words by.
SPECIAL = ("[PAD]", UNKNOWN, "[CLS]", "[SEP]", "[MASK]")


# ------------------------------------------------------------------------------------------- tokens


def load_vocab(file: str | Path) -> dict[str, int]:
    """{token: id} of a vocab.txt, whose line numbers (from 0) are the ids, or a tokenizer.json."""
    if Path(file).suffix == ".json":
        return read_tokenizer_json(Path(file))[0]
    check_regular(file)
    lines = read_text(file).split("\n")
    # The file ends with a line end, after which there is no token.
    if lines and not lines[-1]:
        lines.pop()
    vocab: dict[str, int] = {}
    for i, line in enumerate(lines):
        # A vocab.txt that Windows has edited has "\r" at its line ends.
        token = line.strip()
        if token in vocab:
            raise UserError(
                f"{file}: the token {show(token)} stands on line {vocab[token] + 1} and on line "
                f"{i + 1}; expected each once"
            )
        vocab[token] = i
    return with_specials(vocab, file)


def with_specials(vocab: dict[str, int], file: str | Path) -> dict[str, int]:
    """The vocabulary, or UserError where it lacks one of BERT's special tokens."""
    if missing := [token for token in SPECIAL if token not in vocab]:
        unit = "tokens" if Path(file).suffix == ".json" else "lines"
        raise UserError(
            f"{file}: no {', '.join(missing)} among its {len(vocab)} {unit}; expected a BERT "
            "vocab.txt"
        )
    return vocab


def find_vocab_file(folder: Path) -> Path | None:
    """The vocabulary in a folder, if there is one; UserError where two of them differ."""
    text, tokenizer = folder / "vocab.txt", folder / "tokenizer.json"
    # A run and Google's checkpoints have a vocab.txt, new Hugging Face folders a tokenizer.json
    # alone.
    if not tokenizer.is_file():
        return text if text.is_file() else None
    if not text.is_file():
        return tokenizer
    if load_vocab(text) != load_vocab(tokenizer):
        raise UserError(
            f"{text} and {tokenizer.name} beside it have different tokens; remove the wrong one"
        )
    return text


def vocab_text(file: str | Path) -> bytes:
    """A vocabulary as the contents of a vocab.txt."""
    # The same tokens give the same digest in both forms.
    if Path(file).suffix == ".json":
        return "".join(f"{token}\n" for token in load_vocab(file)).encode()
    check_regular(file)
    return Path(file).read_bytes()


def vocab_digest(file: str | Path) -> str:
    """SHA-256 of a vocabulary's vocab.txt, in hexadecimal."""
    return hashlib.sha256(vocab_text(file)).hexdigest()


def save_vocab(
    vocab_file: str | Path,
    folder: Path,
    do_lower_case: bool,
    more: dict[str, Any] | None = None,
    everywhere: bool = False,
) -> None:
    """Write a vocabulary and its rules into another folder: vocab.txt, tokenizer_config.json."""
    text = vocab_text(vocab_file)
    stated, _ = stated_rules(vocab_file)
    # The rules that do not follow from casing travel with the vocabulary, or Chinese would be split
    # otherwise in a copy.
    rules = dataclasses.replace(stated, do_lower_case=do_lower_case)
    with whole_file(folder / "vocab.txt", everywhere) as f:
        f.write(text)
    settings = {"do_lower_case": do_lower_case, **rules.unusual(), **(more or {})}
    write_json(folder / "tokenizer_config.json", settings, everywhere)


# -------------------------------------------------------------------------------------------- rules


@dataclasses.dataclass(frozen=True)
class Rules:
    """How tokenizers of BERTs differ beside their vocabularies, by Hugging Face's names."""

    do_lower_case: bool | None = None  # None: not stated
    strip_accents: bool | None = None  # None: as do_lower_case
    tokenize_chinese_chars: bool = True  # whether every Chinese character is a word

    def unusual(self) -> dict[str, bool]:
        """The settings beside casing that are not Google's."""
        found = {}
        # strip_accents follows do_lower_case unless it is stated otherwise.
        if self.strip_accents not in (None, self.do_lower_case):
            found["strip_accents"] = bool(self.strip_accents)
        if not self.tokenize_chinese_chars:
            found["tokenize_chinese_chars"] = False
        return found


# The parts of a tokenizer.json that tokenization.py does the work of, and what has to be in them.
TOKENIZER_JSON: dict[str, dict[str, Any]] = {
    "model": {"type": "WordPiece", "unk_token": UNKNOWN, "continuing_subword_prefix": "##"},
    "normalizer": {"type": "BertNormalizer", "clean_text": True},
    "pre_tokenizer": {"type": "BertPreTokenizer"},
}


def read_tokenizer_json(file: Path) -> tuple[dict[str, int], Rules]:
    """Vocabulary and rules of a tokenizer.json; UserError where it tokenises as BERT does not."""
    values = read_json(file)
    for part, expected in TOKENIZER_JSON.items():
        found = typed(values.get(part), dict[str, Any], f"{file}: {part}")
        for name, value in expected.items():
            if found.get(name) != value:
                raise UserError(
                    f"{file}: {name} of its {part} is {show(found.get(name))}; only {value!r} is "
                    "BERT's"
                )
    vocab = typed(values["model"].get("vocab"), dict[str, int], f"{file}: vocab")
    # Ids are rows of the embedding matrix, so that none may be missing.
    if sorted(vocab.values()) != list(range(len(vocab))):
        raise UserError(
            f"{file}: the ids of its {len(vocab)} tokens are not 0 to {len(vocab) - 1}, each once"
        )
    added = typed(values.get("added_tokens") or [], list[dict[str, Any]], f"{file}: added_tokens")
    for token in added:
        # Hugging Face adds tokens that are never split, which Google's rule does not know.
        if token.get("content") not in SPECIAL:
            raise UserError(
                f"{file} adds the token {show(token.get('content'))}, which is never split; tokens "
                f"beside {', '.join(SPECIAL)} are not supported"
            )
    normalizer = values["normalizer"]
    rules = {
        "do_lower_case": normalizer.get("lowercase"),
        "strip_accents": normalizer.get("strip_accents"),
        "tokenize_chinese_chars": normalizer.get("handle_chinese_chars", True),
    }
    typed(rules, dict[str, bool | None], file)
    by_id = dict(sorted(vocab.items(), key=lambda item: item[1]))
    return with_specials(by_id, file), Rules(**rules)


def stated_rules(vocab_file: str | Path) -> tuple[Rules, str]:
    """The rules in tokenizer_config.json and tokenizer.json beside a vocabulary, and where.

    UserError where the two contradict each other, or ask for what is not supported.
    """
    folder = Path(vocab_file).parent
    config, tokenizer = folder / "tokenizer_config.json", folder / "tokenizer.json"
    found: dict[str, bool] = {}
    places = []
    if config.is_file():
        values = read_json(config)
        # never_split changes how text is cut, and a model trained so would get other tokens here.
        if values.get("never_split"):
            raise UserError(
                f"{config}: never_split is {show(values['never_split'])}; such tokens are not "
                "supported"
            )
        names = [field.name for field in dataclasses.fields(Rules)]
        stated = {name: values[name] for name in names if values.get(name) is not None}
        found = typed(stated, dict[str, bool], config)
        if found:
            places.append(config.name)
    if tokenizer.is_file():
        _, rules = read_tokenizer_json(tokenizer)
        for name, value in dataclasses.asdict(rules).items():
            if value is None:
                continue
            if found.get(name, value) != value:
                raise UserError(
                    f"{tokenizer} has {name}={value}, and {config.name} beside it {found[name]}; "
                    "make them agree, or remove the wrong one"
                )
            found[name] = value
        places.append(tokenizer.name)
    if not places:
        return Rules(), ""
    where = f"{folder / ' and '.join(places)} has do_lower_case={found.get('do_lower_case')}"
    return Rules(**found), where


def casing(vocab_file: str | Path, *checkpoints: str | Path) -> bool:
    """Whether to lower-case.

    Asked in this order: tokenizer_config.json and tokenizer.json beside the vocabulary; the words
    "cased" or "uncased" in the names of the files and their folders; and the vocabulary itself,
    where a cased one has many tokens with capitals.
    """
    known, _ = stated_casing(vocab_file, *checkpoints)
    if known is not None:
        return known
    # Neither a file nor a name says it, so that the tokens have to.
    _, is_cased = count_capitals(vocab_file)
    return not is_cased


def count_capitals(vocab_file: str | Path) -> tuple[int, bool]:
    """How many tokens have capitals, and whether these are many: a cased vocabulary."""
    tokens = [token for token in load_vocab(vocab_file) if not token.startswith("[")]
    capitals = sum(token != token.lower() for token in tokens)
    # An uncased vocabulary has next to none; 1% allows for a few odd ones.
    return capitals, capitals >= 0.01 * len(tokens)


def stated_casing(vocab_file: str | Path, *checkpoints: str | Path) -> tuple[bool | None, str]:
    """Whether to lower-case by settings or names alone, and why; None where neither says."""
    rules, reason = stated_rules(vocab_file)
    if rules.do_lower_case is not None:
        return rules.do_lower_case, reason
    # The checkpoint's name comes first: a vocabulary is often copied from elsewhere.
    for path in (Path(p).resolve() for p in (*checkpoints, vocab_file)):
        for name in (path.name, path.parent.name):
            if found := re.search("(un)?cased", name, re.IGNORECASE):
                return found[1] is not None, f"its name is {name}"
    return None, ""


# ----------------------------------------------------------------------------- the one that belongs


def find_vocab(vocab: str | Path | None, weights: Path | None, other: Path | None = None) -> Path:
    """The vocabulary named, or the one beside a weights file, or another that is known.

    UserError where there is none, and where it is not the one that the weights beside a run.json
    were trained with.
    """
    beside = find_vocab_file(weights.parent) if weights else None
    if weights and (own := beside or vocab):
        check_own_vocab(weights.with_name("run.json"), Path(own))
    # Where both are there, the one named may only fill the free places of the model's own.
    if vocab:
        if beside:
            check_same_tokens(Path(vocab), beside)
        return Path(vocab)
    if found := beside or other:
        return found
    where = f"no vocab.txt or tokenizer.json beside {weights}"
    if weights is None:
        where = "neither --vocab nor --pretrain_file"
    raise UserError(f"{where}; name a vocab.txt with --vocab")


def check_same_tokens(vocab: Path, own: Path) -> None:
    """UserError where a vocabulary lacks a token of the model's own, or has another in its place.

    [unused1] and so on are free for new ones, and so is what comes after the last.
    """
    theirs, ours = list(load_vocab(own)), list(load_vocab(vocab))
    if len(ours) < len(theirs):
        raise UserError(
            f"{vocab} has {len(ours)} tokens, and {own} beside the weights {len(theirs)}; leave "
            "--vocab out"
        )
    # Whether the model has room for more is another question, which check_size asks.
    for i, (old, new) in enumerate(zip(theirs, ours, strict=False)):
        if old != new and not old.startswith("[unused"):
            raise UserError(
                f"{vocab} has {show(new)} as token {i}, and {own} beside the weights {show(old)}; "
                "leave --vocab out"
            )


def check_own_vocab(run: Path, vocab: Path) -> None:
    """UserError where a run's vocabulary is not the one whose digest its run.json has."""
    # run.json has the first 16 digits of the digest; folders from elsewhere have none.
    known = read_json(run).get("sha256 of vocab") if run.is_file() else None
    if known is not None and not vocab_digest(vocab).startswith(str(known)):
        raise UserError(
            f"{vocab} is not the vocabulary that the model was trained with, whose digest {run} "
            "has; use that one"
        )


# More rows without a token than padding to a multiple of 128 makes.
MANY_ROWS = 128


def check_size(vocab_file: Path, n_rows: int, trained: bool) -> None:
    """UserError where a vocabulary does not fit the rows of the model's embeddings.

    A model that was trained elsewhere may have rows without a token, to make their number a round
    one; where they are many, a note says so.
    """
    n = len(load_vocab(vocab_file))
    if n > n_rows or (n < n_rows and not trained):
        remedy = "name the one it was trained with" if trained else f"set its vocab_size to {n}"
        raise UserError(f"{vocab_file} has {n} tokens, the model {n_rows}; {remedy}")
    if n_rows - n >= MANY_ROWS:
        note(f"{vocab_file} has {n} tokens, the model {n_rows}: is it the one it was trained with?")

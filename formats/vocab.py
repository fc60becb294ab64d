"""The files of a vocabulary: vocab.txt or tokenizer.json, and the rules stated beside it.

vocab = load_vocab("bert/vocab.txt")        # {token: id}
lower_case = casing("bert/vocab.txt")       # whether its tokenizer lower-cases
save_vocab("bert/vocab.txt", Path("runs/mrpc"), lower_case)
"""

import dataclasses
import hashlib
import re
from pathlib import Path

from formats.rules import (
    NAMED,
    SPECIAL,
    TRANSFORMERS_LONGEST,
    Rules,
    is_in_their_form,
    read_tokenizer_json,
    special_tokens,
    stated,
    tokenizer_json,
)
from system.files import check_regular, read_json, read_text, whole_file, write_json
from utils import UserError, note, show

# ------------------------------------------------------------------------------------------- tokens


def load_vocab(file: str | Path) -> dict[str, int]:
    """{token: id} of a vocab.txt, whose line numbers (from 0) are the ids, or a tokenizer.json."""
    if Path(file).suffix == ".json":
        return with_specials(read_tokenizer_json(Path(file))[0], file)
    check_regular(file)
    lines = read_text(file).split("\n")
    # The file ends with a line end, after which there is no token.
    if lines and not lines[-1]:
        lines.pop()
    vocab: dict[str, int] = {}
    for i, line in enumerate(lines):
        # A vocab.txt that Windows has edited has "\r" at its line ends. Nothing else that Unicode
        # calls white space: U+2028 is a token of Chinese BERT.
        token = line.strip(" \t\r")
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
    rules: Rules | None = None,
    everywhere: bool = False,
) -> None:
    """Write a vocabulary and its rules into another folder: vocab.txt, tokenizer_config.json.

    Args:
        rules: how its texts are tokenised; None: as the files beside it say.
    """
    text = vocab_text(vocab_file)
    if rules is None:
        rules, _ = stated_rules(vocab_file)
    # The rules that do not follow from casing travel with the vocabulary, or Chinese would be split
    # otherwise in a copy.
    rules = dataclasses.replace(rules, do_lower_case=do_lower_case)
    with whole_file(folder / "vocab.txt", everywhere) as f:
        f.write(text)
    settings = {"do_lower_case": do_lower_case, **rules.unusual()}
    write_json(folder / "tokenizer_config.json", settings, everywhere)


def save_for_transformers(
    vocab_file: str | Path,
    folder: Path,
    do_lower_case: bool,
    rules: Rules,
    max_len: int,
    masks: bool,
) -> None:
    """The same for transformers' AutoTokenizer, so that it gives the same tokens.

    Args:
        max_len: tokens that the model takes.
        masks: the model fills [MASK], which transformers has to find in a text.
    """
    rules = dataclasses.replace(rules, do_lower_case=do_lower_case)
    if masks and not rules.added:
        rules = dataclasses.replace(rules, added=special_tokens(load_vocab(vocab_file)))
    save_vocab(vocab_file, folder, do_lower_case, rules)
    settings = read_json(folder / "tokenizer_config.json") | rules.in_their_form()
    settings["model_max_length"] = max_len
    # BertTokenizer has a limit of its own and reads no other; the general class reads the file.
    if rules.max_input_chars_per_word != TRANSFORMERS_LONGEST:
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        settings["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
        settings |= NAMED
        write_json(folder / "tokenizer.json", tokenizer_json(load_vocab(vocab_file), rules))
    write_json(folder / "tokenizer_config.json", settings)


# ------------------------------------------------------------------------------------------- casing


def stated_rules(vocab_file: str | Path, weights: Path | None = None) -> tuple[Rules, str]:
    """How text is tokenised with a vocabulary, and which files say so.

    These lie beside the vocabulary, or beside weights that have tokenizer files of their own.
    """
    folder = Path(vocab_file).parent
    if weights and (find_vocab_file(weights.parent) or is_in_their_form(weights.parent)):
        folder = weights.parent
    # Google's rule keeps no token whole, and needs none.
    vocab = load_vocab(vocab_file) if is_in_their_form(folder) else None
    return stated(folder, vocab)


# Between other letters, as in "lowercased", the word says nothing.
NAMED_CASING = re.compile(r"(?<![^\W\d_])(un)?cased(?![^\W\d_])", re.IGNORECASE)


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
    rules, reason = stated(Path(vocab_file).parent, None)
    if rules.do_lower_case is not None:
        return rules.do_lower_case, reason
    # The checkpoint's name comes first: a vocabulary is often copied from elsewhere.
    for path in (Path(p).resolve() for p in (*checkpoints, vocab_file)):
        for name in (path.name, path.parent.name):
            if found := NAMED_CASING.search(name):
                check_named_casing(vocab_file, name, uncased=found[1] is not None)
                return found[1] is not None, f"its name is {name}"
    return None, ""


def check_named_casing(vocab_file: str | Path, name: str, uncased: bool) -> None:
    """UserError where a name says how a vocabulary is cased, and its tokens the contrary."""
    capitals, is_cased = count_capitals(vocab_file)
    contradicts = is_cased if uncased else capitals == 0
    if contradicts:
        raise UserError(
            f"{vocab_file}: the name {name} says {'uncased' if uncased else 'cased'}, and "
            f"{capitals or 'none'} of its tokens have capitals; write a tokenizer_config.json "
            'beside it: {"do_lower_case": true}, or false'
        )


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


def check_size(vocab_file: Path, n_rows: int, weights: Path | None = None) -> None:
    """UserError where a vocabulary does not fit the rows of the model's embeddings.

    A model that was trained, whose weights are named, may have rows without a token, to make their
    number a round one; where they are many, a note says so.
    """
    vocab, (rules, _) = load_vocab(vocab_file), stated_rules(vocab_file, weights)
    # Tokens that were added behind the vocabulary's own have rows of the embeddings too.
    n = len(vocab.keys() | {token.content for token in rules.added})
    if n > n_rows or (n < n_rows and not weights):
        remedy = "name the one it was trained with" if weights else f"set its vocab_size to {n}"
        raise UserError(f"{vocab_file} has {n} tokens, the model {n_rows}; {remedy}")
    if n_rows - n >= MANY_ROWS:
        note(f"{vocab_file} has {n} tokens, the model {n_rows}: is it the one it was trained with?")

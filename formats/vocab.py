"""A vocabulary and the rules of its tokenizer: vocab.txt or tokenizer.json, and files beside it.

    vocabulary = Vocabulary.read("bert/vocab.txt")
    vocabulary.tokens                 # {token: id}
    vocabulary.rules.do_lower_case    # whether its tokenizer lower-cases
    vocabulary.save(Path("runs/mrpc"))

Its files are read once, when the object is made.
"""

import dataclasses
import functools
import hashlib
import re
from pathlib import Path

from formats.rules import (
    NAMED,
    SPECIAL,
    TRANSFORMERS_LONGEST,
    Rules,
    TokenizerFiles,
    read_tokenizer_json,
    special_tokens,
    tokenizer_json,
)
from system.files import (
    check_regular,
    decoded,
    read_content,
    read_json,
    read_settings,
    whole_file,
    write_json,
)
from utils import UserError, show, warn

# Between other letters, as in "lowercased", the word says nothing.
NAMED_CASING = re.compile(r"(?<![^\W\d_])(un)?cased(?![^\W\d_])", re.IGNORECASE)

# More rows without a token than padding to a multiple of 128 makes.
MANY_ROWS = 128


@dataclasses.dataclass(frozen=True, repr=False)
class Vocabulary:
    """Tokens, and how text is split into them."""

    file: Path
    text: bytes  # as the contents of a vocab.txt, in whichever form its file is
    tokens: dict[str, int]
    rules: Rules  # with the casing, and with the tokens that were added
    reason: str = ""  # why its casing is so; "": the tokens alone say it

    def __repr__(self) -> str:
        return f"<{self.file}, {len(self.tokens)} tokens>"

    @classmethod
    def read(cls, file: str | Path, weights: Path | None = None) -> "Vocabulary":
        """A vocabulary from its files; UserError where they are not BERT's, or disagree.

        Args:
            weights: a file of weights, whose name may say the casing, and which may have tokenizer
                files of its own beside it.
        """
        file = Path(file)
        beside = files = TokenizerFiles.read(file.parent)
        known = None
        if beside.tokenizer and file.name == "tokenizer.json":
            known = beside.tokenizer[0]
        text, tokens = read_tokens(file, known)
        # Rules lie beside the vocabulary, or beside weights that have tokenizer files of their own.
        if weights and weights.parent != file.parent:
            own = TokenizerFiles.read(weights.parent)
            if own.in_their_form or find_vocab_file(weights.parent):
                files = own
        lower_case, reason = stated_casing(file, beside, tokens, weights)
        if lower_case is None:
            lower_case = not has_many(count_capitals(tokens), tokens)
        # Google's rule keeps no token whole, and needs none.
        rules, _ = files.rules(tokens if files.in_their_form else None)
        rules = dataclasses.replace(rules, do_lower_case=lower_case)
        return cls(file, text, tokens, rules, reason)

    def check_casing(self, lower_case: bool) -> None:
        """UserError where its files or names say the contrary."""
        if self.reason and (known := self.rules.do_lower_case) != lower_case:
            raise UserError(
                f"do_lower_case={lower_case} contradicts the vocabulary ({self.reason}); set "
                f"{known}"
            )

    def with_rules(self, rules: Rules | None, lower_case: bool) -> "Vocabulary":
        """The same, split by other rules; None: by its own."""
        rules = dataclasses.replace(rules or self.rules, do_lower_case=lower_case)
        return dataclasses.replace(self, rules=rules)

    def googles(self) -> "Vocabulary":
        """The same by Google's rule, which keeps no token whole, and takes longer words."""
        rules = Rules(
            self.rules.do_lower_case, self.rules.strip_accents, self.rules.tokenize_chinese_chars
        )
        return dataclasses.replace(self, rules=rules)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of its vocab.txt, in hexadecimal; the same tokens have the same."""
        return hashlib.sha256(self.text).hexdigest()

    def save(self, folder: Path, everywhere: bool = False) -> None:
        """Write it into another folder: vocab.txt, and tokenizer_config.json with its rules."""
        with whole_file(folder / "vocab.txt", everywhere) as f:
            f.write(self.text)
        # The rules that do not follow from casing travel with the vocabulary, or Chinese would be
        # split otherwise in a copy.
        settings = {"do_lower_case": self.rules.do_lower_case, **self.rules.unusual()}
        write_json(folder / "tokenizer_config.json", settings, everywhere)

    def save_for_transformers(self, folder: Path, max_len: int, masks: bool) -> None:
        """The same for transformers' AutoTokenizer, so that it gives the same tokens.

        Args:
            max_len: tokens that the model takes.
            masks: the model fills [MASK], which transformers has to find in a text.
        """
        rules = self.rules
        if masks and not rules.added:
            rules = dataclasses.replace(rules, added=special_tokens(self.tokens))
        dataclasses.replace(self, rules=rules).save(folder)
        settings = read_json(folder / "tokenizer_config.json") | rules.in_their_form()
        settings["model_max_length"] = max_len
        # BertTokenizer has a limit of its own and reads no other; the general class reads the file.
        if rules.max_input_chars_per_word != TRANSFORMERS_LONGEST:
            settings["tokenizer_class"] = "PreTrainedTokenizerFast"
            settings["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
            settings |= NAMED
            write_json(folder / "tokenizer.json", tokenizer_json(self.tokens, rules))
        write_json(folder / "tokenizer_config.json", settings)

    def check_size(self, n_rows: int, weights: Path | None = None) -> None:
        """UserError where it does not fit the rows of a model's embeddings.

        A model that was trained, whose weights are named, may have rows without a token, to make
        their number a round one; where they are many, a note says so.
        """
        # Tokens that were added behind the vocabulary's own have rows of the embeddings too.
        n = len(self.tokens.keys() | {token.content for token in self.rules.added})
        if n > n_rows or (n < n_rows and not weights):
            remedy = f"set its vocab_size to {n}"
            if weights:
                remedy = "name the one it was trained with"
                # Somebody may have added words to a file alone.
                if n > n_rows:
                    remedy += ", or add words by `python corpus.py extend`, which gives them rows"
            raise UserError(f"{self.file} has {n} tokens, the model {n_rows}; {remedy}")
        if n_rows - n >= MANY_ROWS:
            warn(
                f"{self.file} has {n} tokens, the model {n_rows}: is it the one it was trained "
                "with?"
            )

    def check_holds(self, own: "Vocabulary") -> None:
        """UserError where it lacks a token of a model's own, or has another in its place.

        [unused1] and so on are free for new ones, and so is what comes after the last.
        """
        theirs, ours = list(own.tokens), list(self.tokens)
        if len(ours) < len(theirs):
            raise UserError(
                f"{self.file} has {len(ours)} tokens, and {own.file} beside the weights "
                f"{len(theirs)}; leave `vocab` out"
            )
        # Whether the model has room for more is another question, which check_size asks.
        for i, (old, new) in enumerate(zip(theirs, ours, strict=False)):
            if old != new and not old.startswith("[unused"):
                raise UserError(
                    f"{self.file} has {show(new)} as token {i}, and {own.file} beside the weights "
                    f"{show(old)}; leave `vocab` out"
                )


# ------------------------------------------------------------------------------------------- tokens


def load_vocab(file: str | Path) -> dict[str, int]:
    """{token: id} of a vocab.txt, whose line numbers (from 0) are the ids, or a tokenizer.json."""
    return read_tokens(Path(file))[1]


def read_tokens(file: Path, known: dict[str, int] | None = None) -> tuple[bytes, dict[str, int]]:
    """A vocabulary as the contents of a vocab.txt, and {token: id}.

    Args:
        known: the tokens of a tokenizer.json that was read already.
    """
    # The same tokens give the same contents in both forms.
    if file.suffix == ".json":
        vocab = read_tokenizer_json(file)[0] if known is None else known
        content, unit = "".join(f"{token}\n" for token in vocab).encode(), "tokens"
    else:
        check_regular(file)
        content, unit = read_content(file), "lines"
        vocab = parse_tokens(decoded(content, file), file)
    if missing := [token for token in SPECIAL if token not in vocab]:
        raise UserError(
            f"{file}: no {', '.join(missing)} among its {len(vocab)} {unit}; expected a BERT "
            "vocab.txt"
        )
    return content, vocab


def parse_tokens(text: str, file: Path) -> dict[str, int]:
    """{token: id} of the text of a vocab.txt."""
    lines = text.split("\n")
    # The file ends with a line end, after which there is no token.
    if not lines[-1]:
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
    return vocab


# ------------------------------------------------------------------------------------------- casing


def stated_casing(
    file: Path, beside: TokenizerFiles, tokens: dict[str, int], weights: Path | None
) -> tuple[bool | None, str]:
    """Whether to lower-case by settings or names alone, and why; None where neither says.

    Asked in this order: the tokenizer files beside the vocabulary; the words "cased" or "uncased"
    in the names of the files and their folders.
    """
    rules, reason = beside.rules(None)
    if rules.do_lower_case is not None:
        return rules.do_lower_case, reason
    # The checkpoint's name comes first: a vocabulary is often copied from elsewhere.
    for path in (Path(p).resolve() for p in (weights, file) if p):
        for name in (path.name, path.parent.name):
            if found := NAMED_CASING.search(name):
                check_named_casing(file, tokens, name, uncased=found[1] is not None)
                return found[1] is not None, f"its name is {name}"
    return None, ""


def count_capitals(tokens: dict[str, int]) -> int:
    """How many tokens have capitals."""
    return sum(token != token.lower() for token in tokens if not token.startswith("["))


def has_many(capitals: int, tokens: dict[str, int]) -> bool:
    """Whether these are many: a cased vocabulary."""
    # An uncased vocabulary has next to none; 1% allows for a few odd ones.
    return capitals >= 0.01 * sum(not token.startswith("[") for token in tokens)


def check_named_casing(file: Path, tokens: dict[str, int], name: str, uncased: bool) -> None:
    """UserError where a name says how a vocabulary is cased, and its tokens the contrary."""
    capitals = count_capitals(tokens)
    contradicts = has_many(capitals, tokens) if uncased else capitals == 0
    if contradicts:
        raise UserError(
            f"{file}: the name {name} says {'uncased' if uncased else 'cased'}, and "
            f"{capitals or 'none'} of its tokens have capitals; write a tokenizer_config.json "
            'beside it: {"do_lower_case": true}, or false'
        )


# ----------------------------------------------------------------------------- the one that belongs


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


def find_vocabulary(
    vocab: str | Path | None, weights: Path | None, other: Path | None = None
) -> Vocabulary:
    """The vocabulary named, or the one beside a weights file, or another that is known.

    UserError where there is none, and where it is not the one that the weights beside a run.json
    were trained with.
    """
    beside = find_vocab_file(weights.parent) if weights else None
    chosen = vocab or beside or other
    if chosen is None:
        where = f"no vocab.txt or tokenizer.json beside {weights}"
        if weights is None:
            where = "neither `vocab` nor `pretrain_file`"
        raise UserError(f"{where}; name a vocab.txt with `vocab`")
    found = Vocabulary.read(chosen, weights)
    # Of the one that another is named for only the tokens matter.
    own = Vocabulary(beside, *read_tokens(beside), found.rules) if vocab and beside else found
    if weights and (beside or vocab):
        run = weights.with_name("run.json")
        # It has the first 16 digits of the digest; folders from elsewhere have none.
        known = read_settings(run).get("sha256 of vocab")
        if known is not None and not own.digest.startswith(str(known)):
            raise UserError(
                f"{own.file} is not the vocabulary that the model was trained with, whose digest "
                f"{run} has; use that one"
            )
    # Where both are there, the one named may only fill the free places of the model's own.
    if vocab and beside:
        found.check_holds(own)
    return found

"""How texts are tokenised beside a vocabulary's tokens: what tokenizer files of a folder say.

    rules, where = TokenizerFiles.read(Path("bert")).rules(vocab)  # vocab: {token: id}
    rules.added  # tokens that are kept whole where they stand in a text

Google's rule splits every text alike. transformers keeps special and added tokens whole, and takes
words of 100 characters at most; folders in its form are tokenised as it does it. A folder is in its
form where its weights, a tokenizer.json or a tokenizer_class say so.
"""

import dataclasses
from pathlib import Path
from typing import Any

from formats.beside import recorded_rules
from system.files import read_json, read_settings
from utils import UserError, show, typed

UNKNOWN = "[UNK]"
# [PAD] is padding, [CLS] and [SEP] frame an input, and [MASK] is what pre-training hides words by.
SPECIAL = ("[PAD]", UNKNOWN, "[CLS]", "[SEP]", "[MASK]")
# Hugging Face's names of them.
NAMED = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}

GOOGLES_LONGEST, TRANSFORMERS_LONGEST = 200, 100  # characters of a word; a longer one is [UNK]

# Classes of transformers that tokenise by BERT's rule, with or without "Fast" behind the name.
CLASSES = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer")
# Those that do whatever a tokenizer.json says.
GENERAL_CLASSES = ("PreTrainedTokenizer", "TokenizersBackend")

# Settings of a tokenizer_config.json that change the tokens in a way that is not computed here, and
# the value that changes nothing.
REFUSED: dict[str, Any] = {
    "never_split": None,
    "do_basic_tokenize": True,
    "word_tokenizer_type": "basic",
    "subword_tokenizer_type": "wordpiece",
    "wordpieces_prefix": "##",
}

# The parts of a tokenizer.json that tokenization.py does the work of, and what has to be in them.
TOKENIZER_JSON: dict[str, dict[str, Any]] = {
    "model": {"type": "WordPiece", "unk_token": UNKNOWN, "continuing_subword_prefix": "##"},
    "normalizer": {"type": "BertNormalizer", "clean_text": True},
    "pre_tokenizer": {"type": "BertPreTokenizer"},
}


@dataclasses.dataclass(frozen=True)
class AddedToken:
    """A token that is found in a text before the rule splits it, and kept whole."""

    content: str
    id: int
    special: bool = True
    normalized: bool = False  # looked for in the text after lower-casing, not before
    lstrip: bool = False  # takes the white space before it along
    rstrip: bool = False  # and that behind it

    def flags(self) -> dict[str, Any]:
        """As transformers writes it, without the id."""
        values = dataclasses.asdict(self)
        return {name: values[name] for name in values if name != "id"} | {"single_word": False}


@dataclasses.dataclass(frozen=True)
class Rules:
    """How tokenizers of BERTs differ beside their vocabularies, by Hugging Face's names.

    The defaults are Google's rule.
    """

    do_lower_case: bool | None = None  # None: not stated
    strip_accents: bool | None = None  # None: as do_lower_case
    tokenize_chinese_chars: bool = True  # whether every Chinese character is a word
    max_input_chars_per_word: int = GOOGLES_LONGEST  # a longer word is [UNK]
    added: tuple[AddedToken, ...] = ()  # kept whole where they stand in a text; by id
    split_special_tokens: bool = False  # not those of them that are special

    def unusual(self) -> dict[str, Any]:
        """The settings beside casing that are not Google's, for a tokenizer_config.json."""
        found: dict[str, Any] = {}
        # strip_accents follows do_lower_case unless it is stated otherwise.
        if self.strip_accents not in (None, self.do_lower_case):
            found["strip_accents"] = bool(self.strip_accents)
        if not self.tokenize_chinese_chars:
            found["tokenize_chinese_chars"] = False
        # A file without a tokenizer_class means Google's rule, as in runs of earlier versions.
        if self.added or self.max_input_chars_per_word != GOOGLES_LONGEST:
            found |= self.in_their_form()
        return found

    def in_their_form(self) -> dict[str, Any]:
        """Which words are too long and which tokens are kept whole, as transformers has it."""
        found: dict[str, Any] = {"tokenizer_class": "BertTokenizer"}
        if self.max_input_chars_per_word != TRANSFORMERS_LONGEST:
            found["max_input_chars_per_word"] = self.max_input_chars_per_word
        if self.split_special_tokens or not any(token.special for token in self.added):
            found["split_special_tokens"] = True
        # The five special tokens go without saying.
        plain = {AddedToken(token.content, token.id) for token in self.added}
        others = {token.content for token in self.added} - set(SPECIAL)
        if others or plain != set(self.added):
            found["added_tokens_decoder"] = {str(token.id): token.flags() for token in self.added}
        return found


def special_tokens(vocab: dict[str, int]) -> tuple[AddedToken, ...]:
    """BERT's special tokens, to be kept whole."""
    return tuple(sorted((AddedToken(t, vocab[t]) for t in SPECIAL), key=lambda token: token.id))


def began_by_googles_rule(folder: Path) -> bool:
    """Whether a run in a folder, or one of several seeds there, was begun by Google's rule.

    Runs of earlier versions all were, and go on by it, whatever they were begun from.
    """
    runs = [run for run in (folder, *folder.glob("seed-*")) if (run / "run.json").is_file()]
    return any("tokenizer_class" not in recorded_rules(run) for run in runs)


# ------------------------------------------------------------------------------------ what is there


@dataclasses.dataclass(frozen=True)
class TokenizerFiles:
    """What the tokenizer files of a folder say, each read once."""

    folder: Path
    values: dict[str, Any]  # of tokenizer_config.json; of a run without one, of its record
    is_config: bool  # whether they are of a tokenizer_config.json
    # Vocabulary, rules and added tokens of a tokenizer.json, if there is one.
    tokenizer: tuple[dict[str, int], dict[str, Any], list[dict[str, Any]]] | None

    @classmethod
    def read(cls, folder: Path) -> "TokenizerFiles":
        """UserError where they ask for what is not supported."""
        config, tokenizer = folder / "tokenizer_config.json", folder / "tokenizer.json"
        is_config = config.is_file()
        # A run knows it all the same.
        values = read_json(config) if is_config else recorded_rules(folder)
        check_supported(values, config)
        parsed = read_tokenizer_json(tokenizer) if tokenizer.is_file() else None
        return cls(folder, values, is_config, parsed)

    @property
    def in_their_form(self) -> bool:
        """Whether what lies in the folder is in transformers' form."""
        # Weights of several files have an index beside them, and numbers in their names.
        return (
            self.tokenizer is not None
            or "tokenizer_class" in self.values
            or any(self.folder.glob("model*.safetensors"))
            or any(self.folder.glob("pytorch_model*.bin"))
        )

    def rules(self, vocab: dict[str, int] | None) -> tuple[Rules, str]:
        """The rules that they state, and which files do.

        UserError where they contradict each other.

        Args:
            vocab: the tokens that belong to them; None: leave `added` out.
        """
        config, values = self.folder / "tokenizer_config.json", self.values
        found: dict[str, Any] = {}
        places = []
        fields = ("do_lower_case", "strip_accents", "tokenize_chinese_chars")
        told = {name: values[name] for name in fields if values.get(name) is not None}
        if told:
            found = typed(told, dict[str, bool], config)
            places.append(config.name if self.is_config else "run.json")
        longest = values.get("max_input_chars_per_word")
        if longest is not None:
            found["max_input_chars_per_word"] = typed(longest, int, f"{config}: its longest word")
        listed: list[dict[str, Any]] = []
        if self.tokenizer:
            tokenizer = self.folder / "tokenizer.json"
            _, theirs, listed = self.tokenizer
            for name, value in theirs.items():
                if found.get(name, value) != value:
                    raise UserError(
                        f"{tokenizer} has {name}={value}, and {config.name} beside it "
                        f"{found[name]}; make them agree, or remove the wrong one"
                    )
                found[name] = value
            places.append(tokenizer.name)
        if self.in_their_form:
            found.setdefault("max_input_chars_per_word", TRANSFORMERS_LONGEST)
            if vocab is not None:
                added = added_tokens(self.folder, values, listed, vocab)
                # Special tokens are then split like any text, and of no use, unless they are behind
                # the vocabulary: the model has a row for them.
                if values.get("split_special_tokens"):
                    added = tuple(t for t in added if not t.special or t.content not in vocab)
                    found["split_special_tokens"] = any(token.special for token in added)
                found["added"] = added
        where = ""
        if places:
            files = self.folder / " and ".join(places)
            where = f"{files} has do_lower_case={found.get('do_lower_case')}"
        return Rules(**found), where


def check_supported(values: dict[str, Any], config: Path) -> None:
    """UserError where a tokenizer_config.json asks for a tokenizer that is not BERT's."""
    name, file = values.get("tokenizer_class"), config
    # Older folders name the class beside the shape of the model.
    if name is None:
        file = config.with_name("config.json")
        name = read_settings(file).get("tokenizer_class")
    if name is not None:
        known = typed(name, str, f"{file}: tokenizer_class").removesuffix("Fast")
        general = known in GENERAL_CLASSES and config.with_name("tokenizer.json").is_file()
        if known not in CLASSES and not general:
            raise UserError(
                f"{file}: tokenizer_class is {show(name)}, which does not split text as BERT does; "
                f"expected {CLASSES[0]}, or a tokenizer.json beside it and {GENERAL_CLASSES[0]}Fast"
            )
    for name, usual in REFUSED.items():
        if values.get(name) not in (None, [], usual):
            raise UserError(
                f"{config}: {name} is {show(values[name])}, which is not supported; only "
                f"{usual!r} is"
            )


def read_tokenizer_json(file: Path) -> tuple[dict[str, int], dict[str, Any], list[dict[str, Any]]]:
    """Vocabulary, rules and added tokens of a tokenizer.json; UserError where it is not BERT's."""
    values = read_json(file)
    for part, expected in TOKENIZER_JSON.items():
        found = typed(values.get(part), dict[str, Any], f"{file}: {part}")
        for name, value in expected.items():
            if found.get(name) != value:
                raise UserError(
                    f"{file}: {name} of its {part} is {show(found.get(name))}; only {value!r} is "
                    "BERT's"
                )
    model, normalizer = values["model"], values["normalizer"]
    vocab = typed(model.get("vocab"), dict[str, int], f"{file}: vocab")
    # Ids are rows of the embedding matrix, so that none may be missing.
    if sorted(vocab.values()) != list(range(len(vocab))):
        raise UserError(
            f"{file}: the ids of its {len(vocab)} tokens are not 0 to {len(vocab) - 1}, each once"
        )
    flags = {
        "do_lower_case": normalizer.get("lowercase"),
        "strip_accents": normalizer.get("strip_accents"),
        "tokenize_chinese_chars": normalizer.get("handle_chinese_chars", True),
    }
    stated = {name: value for name, value in flags.items() if value is not None}
    rules: dict[str, Any] = typed(stated, dict[str, bool], file)
    longest = model.get("max_input_chars_per_word", TRANSFORMERS_LONGEST)
    where = f"{file}: max_input_chars_per_word"
    rules["max_input_chars_per_word"] = typed(longest, int, where)
    added = typed(values.get("added_tokens") or [], list[dict[str, Any]], f"{file}: added_tokens")
    by_id = dict(sorted(vocab.items(), key=lambda item: item[1]))
    return by_id, rules, [token | {"where": file} for token in added]


# ------------------------------------------------------------------------------------- added tokens


def added_tokens(
    folder: Path, values: dict[str, Any], listed: list[dict[str, Any]], vocab: dict[str, int]
) -> tuple[AddedToken, ...]:
    """The tokens that a folder in transformers' form keeps whole, as transformers finds them.

    Args:
        values: of its tokenizer_config.json.
        listed: of its tokenizer.json.
    """
    config = folder / "tokenizer_config.json"
    decoder = values.get("added_tokens_decoder")
    names = dict(values)
    tokens: list[dict[str, Any]] = []
    where = f"{config}: added_tokens_decoder"
    for i, token in typed(decoder or {}, dict[str, dict[str, Any]], where).items():
        is_id = i.isdecimal() and len(i) < 10
        tokens.append(token | {"id": int(i) if is_id else i, "where": config})
    # Files of before that setting was, which transformers does not read where it is there.
    if decoder is None:
        names |= read_settings(folder / "special_tokens_map.json")
        # transformers 5 counts those that were called additional, in this file alone, as not
        # special.
        counted = dict(names)
        if "additional_special_tokens" not in values:
            counted.pop("additional_special_tokens", None)
        special = [token.get("content") for token in named_tokens(counted, config)]
        added_file = folder / "added_tokens.json"
        for content, i in typed(read_settings(added_file), dict[str, int], added_file).items():
            is_special = content in (*special, *SPECIAL)
            token = {"content": content, "id": i, "special": is_special, "where": added_file}
            tokens.append(token)
    tokens += listed
    tokens.sort(key=lambda token: token["id"] if isinstance(token.get("id"), int) else 0)
    # Of a token that several files have, the one that says most comes first.
    tokens += named_tokens(names, config)
    tokens += [{"content": token, "special": True, "where": config} for token in SPECIAL]
    found: dict[str, AddedToken] = {}
    for token in tokens:
        made = added_token(token, vocab, len(vocab) + sum(t not in vocab for t in found))
        known = found.setdefault(made.content, made)
        if "id" in token and dataclasses.replace(known, special=made.special) != made:
            raise UserError(
                f"{token['where']}: {show(made.content)} has other settings in another file beside "
                "it; make them agree, or remove the wrong one"
            )
    return tuple(sorted(found.values(), key=lambda token: token.id))


def named_tokens(values: dict[str, Any], file: Path) -> list[dict[str, Any]]:
    """The special tokens among the settings of a tokenizer; UserError where BERT's are others."""
    tokens = []
    for name, value in values.items():
        if name.endswith("_token") and isinstance(value, str | dict):
            content = value.get("content") if isinstance(value, dict) else value
            if NAMED.get(name, content) != content:
                raise UserError(
                    f"{file}: {name} is {show(content)}; only {NAMED[name]} is supported"
                )
            tokens.append(value)
    for name in ("additional_special_tokens", "extra_special_tokens"):
        several = values.get(name) or []
        # A dict gives them names, which nobody asks for here.
        tokens += several.values() if isinstance(several, dict) else several
    made = [token if isinstance(token, dict) else {"content": token} for token in tokens]
    return [{**token, "special": True, "where": file} for token in made]


def added_token(token: dict[str, Any], vocab: dict[str, int], free: int) -> AddedToken:
    """A token of one of the files, checked.

    Args:
        free: the id of the next token that the vocabulary lacks.
    """
    file, content = token["where"], token.get("content")
    if not isinstance(content, str) or not content:
        raise UserError(f"{file}: a token is {show(content)}; expected a text")
    flags = {
        name: typed(token[name], bool, f"{file}: {name} of {show(content)}")
        for name in ("special", "normalized", "lstrip", "rstrip", "single_word")
        if name in token
    }
    if flags.pop("single_word", False):
        raise UserError(
            f"{file}: single_word of the token {show(content)} is true, which is not supported; "
            "only false is"
        )
    i = vocab.get(content, free)
    if token.get("id", i) != i:
        raise UserError(
            f"{file}: the token {show(content)} has the id {show(token['id'])}, and its place "
            f"among the tokens is {i}; mend the file"
        )
    # transformers' own defaults: what is not special is looked for in the lower-cased text.
    special = flags.pop("special", False) or content in SPECIAL
    return AddedToken(content, i, special, **{"normalized": not special, **flags})


def tokenizer_json(vocab: dict[str, int], rules: Rules) -> dict[str, Any]:
    """A vocabulary and its rules as the tokenizer.json that transformers reads."""
    # Special tokens are listed even where a setting beside it has them split.
    added = {token.content: token for token in (*special_tokens(vocab), *rules.added)}
    ordered = sorted(added.values(), key=lambda token: token.id)
    frame = [{"SpecialToken": {"id": token, "type_id": 0}} for token in ("[CLS]", "[SEP]")]
    first = [frame[0], {"Sequence": {"id": "A", "type_id": 0}}, frame[1]]
    second = [
        {"Sequence": {"id": "B", "type_id": 1}},
        {"SpecialToken": {"id": "[SEP]", "type_id": 1}},
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": token.id, **token.flags()} for token in ordered],
        "normalizer": {
            **TOKENIZER_JSON["normalizer"],
            "handle_chinese_chars": rules.tokenize_chinese_chars,
            "strip_accents": rules.strip_accents,
            "lowercase": rules.do_lower_case,
        },
        "pre_tokenizer": TOKENIZER_JSON["pre_tokenizer"],
        "post_processor": {
            "type": "TemplateProcessing",
            "single": first,
            "pair": first + second,
            "special_tokens": {
                token: {"id": token, "ids": [vocab[token]], "tokens": [token]}
                for token in ("[CLS]", "[SEP]")
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            **TOKENIZER_JSON["model"],
            "max_input_chars_per_word": rules.max_input_chars_per_word,
            "vocab": vocab,
        },
    }

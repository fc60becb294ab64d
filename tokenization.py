"""WordPiece: text to token ids and back, by Google's rule to the letter.

    tokenizer = FullTokenizer("vocab.txt", do_lower_case=True)
    tokenizer.tokenize("Fine-tuning")       # ['fine', '-', 'tuning']
    tokenizer.encode("Fine-tuning")         # [2986, 1011, 17372]

    $ python tokenization.py learn TEXT... --vocab_size 30522 --out vocab.txt      # a vocabulary of one's own

The rule is slow (it looks at every character) and text repeats itself, so it runs once for each
distinct piece between white space and is remembered: a memo of pieces above a memo of words. That
makes plain Python faster than compiled tokenizers that do the work anew each time. Source of the
rule: tokenization.py of google-research/bert.
"""

import collections
import dataclasses
import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from cli import command
from utils import (
    UserError,
    check_regular,
    find,
    read_json,
    read_text,
    show,
    typed,
    whole_file,
    write_json,
)

UNKNOWN = "[UNK]"
SPECIAL = ("[PAD]", UNKNOWN, "[CLS]", "[SEP]", "[MASK]")
LONGEST_WORD = 200  # characters; a longer word is [UNK]
LONGEST_REMEMBERED = 40  # characters; a longer piece seldom comes twice
MEMO_SIZE = 2**18  # entries of each of the three memos, 65-85 MB when full; a full one is emptied

CJK = re.compile(
    "[\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f"
    "\U0002b820-\U0002ceaf\uf900-\ufaff\U0002f800-\U0002fa1f]"
)
CJK_OR_OTHERS = re.compile(f"{CJK.pattern}|(?:(?!{CJK.pattern}).)+", re.DOTALL)
OTHERS = re.compile(".+", re.DOTALL)
ASCII_WORDS = re.compile(
    r"[0-9A-Za-z]+|[^0-9A-Za-z]"
)  # in printable ASCII all the rest is punctuation

# str.split() breaks at these control characters, but the rule drops them, which joins what stands
# around them.
DROPPED_SPACES = "\x0b\x0c\x1c\x1d\x1e\x1f\x85"
PIECE = re.compile(rf"(?:\S|[{DROPPED_SPACES}])+")


def is_dropped(char: str) -> bool:
    """Control and format characters other than white space, NUL and the replacement character."""
    return char == "\ufffd" or (char not in "\t\n\r" and unicodedata.category(char) in ("Cc", "Cf"))


def is_punctuation(char: str) -> bool:
    """ASCII that is neither letter, digit, space nor control, and Unicode's P categories: each a
    word of its own.
    """
    if char.isascii():
        return char.isprintable() and not char.isalnum() and char != " "
    return unicodedata.category(char).startswith("P")


def decompose(text: str, sources: list[int]) -> tuple[str, list[int]]:
    """Unicode's NFD of `text`, and for each of its characters the source of the character that it
    comes from.
    """
    parts = [unicodedata.normalize("NFD", char) for char in text]
    pairs = [(char, source) for part, source in zip(parts, sources, strict=True) for char in part]
    start = 0  # canonical order: each run of combining characters sorted by class
    for i in range(len(pairs) + 1):
        if i == len(pairs) or not unicodedata.combining(pairs[i][0]):
            if i - start > 1:
                pairs[start:i] = sorted(
                    pairs[start:i], key=lambda pair: unicodedata.combining(pair[0])
                )
            start = i + 1
    return "".join(char for char, _ in pairs), [source for _, source in pairs]


class Memo(dict):
    """A dict that computes what it lacks and remembers it, up to a limit."""

    def __init__(self, function: Callable[[str], Any]):
        super().__init__()
        self.function = function

    def __missing__(self, key: str) -> Any:
        value = self.function(key)
        if len(key) <= LONGEST_REMEMBERED:
            if len(self) >= MEMO_SIZE:
                self.clear()
            self[key] = value
        return value


# ------------------------------------------------------------------------ the files of a vocabulary


def load_vocab(file: str | Path) -> dict[str, int]:
    """{token: id} of a vocab.txt, a token a line, the line number (from 0) its id; or of a
    tokenizer.json.
    """
    if Path(file).suffix == ".json":
        return read_tokenizer_json(Path(file))[0]
    check_regular(file)
    lines = read_text(file).split("\n")
    if lines and not lines[-1]:
        lines.pop()
    vocab: dict[str, int] = {}
    for i, line in enumerate(lines):
        token = line.strip()
        if token in vocab:
            raise UserError(
                f"{file}: the token {show(token)} stands on line {vocab[token] + 1} and on line "
                f"{i + 1}; "
                f"expected each once"
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


@dataclasses.dataclass(frozen=True)
class Rules:
    """What the tokenizers of BERTs differ in beside their vocabularies, by the names that Hugging
    Face has for it.
    """

    do_lower_case: bool | None = None  # None: not stated
    strip_accents: bool | None = None  # None: as do_lower_case
    tokenize_chinese_chars: bool = True  # a space around every Chinese character

    def unusual(self) -> dict[str, bool]:
        """The settings beside casing that are not Google's."""
        values = {
            "strip_accents": self.strip_accents,
            "tokenize_chinese_chars": self.tokenize_chinese_chars,
        }
        usual = {"strip_accents": (None, self.do_lower_case), "tokenize_chinese_chars": (True,)}
        return {name: bool(value) for name, value in values.items() if value not in usual[name]}


# The parts of a tokenizer.json that this module does the work of, and what has to be in them.
TOKENIZER_JSON: dict[str, dict[str, Any]] = {
    "model": {"type": "WordPiece", "unk_token": UNKNOWN, "continuing_subword_prefix": "##"},
    "normalizer": {"type": "BertNormalizer", "clean_text": True},
    "pre_tokenizer": {"type": "BertPreTokenizer"},
}


def read_tokenizer_json(file: Path) -> tuple[dict[str, int], Rules]:
    """Vocabulary and rules of a tokenizer.json of transformers; UserError where it tokenises as
    BERT does not.
    """
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
    if sorted(vocab.values()) != list(range(len(vocab))):
        raise UserError(
            f"{file}: the ids of its {len(vocab)} tokens are not 0 to {len(vocab) - 1}, each once"
        )
    for token in typed(
        values.get("added_tokens") or [], list[dict[str, Any]], f"{file}: added_tokens"
    ):
        if token.get("content") not in SPECIAL:
            raise UserError(
                f"{file} adds the token {show(token.get('content'))}, which is never split; "
                f"tokens beside {', '.join(SPECIAL)} are not supported"
            )
    normalizer = values["normalizer"]
    rules = {
        "do_lower_case": normalizer.get("lowercase"),
        "strip_accents": normalizer.get("strip_accents"),
        "tokenize_chinese_chars": normalizer.get("handle_chinese_chars", True),
    }
    typed(rules, dict[str, bool | None], file)
    return with_specials(dict(sorted(vocab.items(), key=lambda item: item[1])), file), Rules(
        **rules
    )


def stated_rules(vocab_file: str | Path) -> tuple[Rules, str]:
    """The rules that tokenizer_config.json and tokenizer.json beside a vocabulary state, and where
    they do.

    UserError where the two contradict each other, or ask for what is not done here.
    """
    folder, found, places = Path(vocab_file).parent, dict[str, bool](), []
    config, tokenizer = folder / "tokenizer_config.json", folder / "tokenizer.json"
    if config.is_file():
        values = read_json(config)
        if values.get("never_split"):
            raise UserError(
                f"{config}: never_split is {show(values['never_split'])}; such tokens are not "
                "supported"
            )
        names = [
            field.name for field in dataclasses.fields(Rules) if values.get(field.name) is not None
        ]
        found = typed({name: values[name] for name in names}, dict[str, bool], config)
        places = [config.name] if found else []
    if tokenizer.is_file():
        _, rules = read_tokenizer_json(tokenizer)
        for name, value in dataclasses.asdict(rules).items():
            if value is None:
                continue
            if found.get(name, value) != value:
                raise UserError(
                    f"{tokenizer} has {name}={value}, and {config.name} beside it {found[name]}; "
                    f"make them agree, or remove the wrong one"
                )
            found[name] = value
        places.append(tokenizer.name)
    where = (
        f"{folder / ' and '.join(places)} has do_lower_case={found.get('do_lower_case')}"
        if places
        else ""
    )
    return Rules(**found), where


def find_vocab_file(folder: Path) -> Path | None:
    """The vocabulary in a folder, if there is one; UserError where two of them differ."""
    text, tokenizer = folder / "vocab.txt", folder / "tokenizer.json"
    if not tokenizer.is_file():
        return text if text.is_file() else None
    if text.is_file() and load_vocab(text) != load_vocab(tokenizer):
        raise UserError(
            f"{text} and {tokenizer.name} beside it have different tokens; remove the wrong one"
        )
    return text if text.is_file() else tokenizer


def vocab_text(file: str | Path) -> bytes:
    """A vocabulary as the contents of a vocab.txt."""
    if Path(file).suffix == ".json":
        return "".join(f"{token}\n" for token in load_vocab(file)).encode()
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
    """Write a vocabulary and its rules into another folder: vocab.txt and tokenizer_config.json."""
    text, rules = (
        vocab_text(vocab_file),
        dataclasses.replace(stated_rules(vocab_file)[0], do_lower_case=do_lower_case),
    )
    with whole_file(folder / "vocab.txt", everywhere) as f:
        f.write(text)
    settings = {"do_lower_case": do_lower_case, **rules.unusual(), **(more or {})}
    write_json(folder / "tokenizer_config.json", settings, everywhere)


def casing(
    vocab_file: str | Path, do_lower_case: bool | None = None, *checkpoints: str | Path
) -> bool:
    """Whether to lower-case, by what is known of a checkpoint; UserError if `do_lower_case`
    contradicts it.

    Asked in this order: tokenizer_config.json and tokenizer.json beside the vocabulary, the words
    "cased" or "uncased" in the names of the files and their folders, and the vocabulary itself,
    where a cased one has many tokens with capitals.
    """
    known, reason = stated_casing(vocab_file, *checkpoints)
    if known is None:
        tokens = [t for t in load_vocab(vocab_file) if not t.startswith("[")]
        capitals = sum(t != t.lower() for t in tokens)
        known, reason = (
            capitals < 0.01 * len(tokens),
            f"{capitals} of {len(tokens)} tokens in {vocab_file} have capitals",
        )
    if do_lower_case is not None and do_lower_case != known:
        raise UserError(
            f"do_lower_case={do_lower_case} contradicts the checkpoint ({reason}); leave it out or "
            f"set {known}"
        )
    return known


def stated_casing(vocab_file: str | Path, *checkpoints: str | Path) -> tuple[bool | None, str]:
    """Whether to lower-case, by settings or names alone, and in words why; None where neither
    tells.
    """
    rules, reason = stated_rules(vocab_file)
    if rules.do_lower_case is not None:
        return rules.do_lower_case, reason
    for path in (Path(p).resolve() for p in (*checkpoints, vocab_file)):
        for name in (path.name, path.parent.name):
            if found := re.search("(un)?cased", name, re.IGNORECASE):
                return found[1] is not None, f"its name is {name}"
    return None, ""


class FullTokenizer:
    """Google's tokenizer: clean, split at white space, CJK and punctuation, lower-case, greedy
    longest word pieces.
    """

    def __init__(self, vocab_file: str | Path, do_lower_case: bool = True):
        known, reason = stated_casing(vocab_file)
        if known is not None and known != do_lower_case:
            raise UserError(
                f"do_lower_case={do_lower_case} contradicts the vocabulary ({reason}); set {known}"
            )
        self.vocab = load_vocab(vocab_file)
        self.tokens = {i: token for token, i in self.vocab.items()}
        self.do_lower_case = do_lower_case
        rules, _ = stated_rules(vocab_file)
        self.strip_accents = do_lower_case if rules.strip_accents is None else rules.strip_accents
        self.tokenize_chinese_chars = rules.tokenize_chinese_chars
        self._longest = max(map(len, self.vocab))
        self._word_ids = Memo(self._word_to_ids)
        self._piece_ids = Memo(self._piece_to_ids)
        self._piece_spans = Memo(self._piece_to_spans)

    def encode(self, text: str) -> list[int]:
        """The ids of a text's tokens, without [CLS] or [SEP].  'Fine-tuning' -> [2986, 1011, 17372]"""
        pieces = (
            PIECE.findall(text) if any(char in text for char in DROPPED_SPACES) else text.split()
        )
        return list(chain.from_iterable(map(self._piece_ids.__getitem__, pieces)))

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids, and for each the (start, end) of the characters of `text` that it stands for.

        'Ünter Bäumen' -> ids of ['un', '##ter', 'ba', '##umen'], [(0, 2), (2, 5), (6, 8), (8, 12)]
        """
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        for match in PIECE.finditer(text):
            ids += self._piece_ids[match[0]]
            at = match.start()
            spans += [(at + start, at + end) for start, end in self._piece_spans[match[0]]]
        return ids, spans

    def tokenize(self, text: str) -> list[str]:
        """The tokens of a text.  'Fine-tuning' -> ['fine', '-', 'tuning']"""
        return self.convert_ids_to_tokens(self.encode(text))

    def convert_tokens_to_ids(self, tokens: list[str]) -> list[int]:
        """Ids of tokens; UserError at one that the vocabulary lacks."""
        try:
            return [self.vocab[token] for token in tokens]
        except KeyError as error:
            raise UserError(
                f"{error.args[0]!r} is not among the {len(self.vocab)} tokens; use tokenize()"
            ) from None

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        """Tokens of ids; UserError at an id outside the vocabulary."""
        try:
            return [self.tokens[int(i)] for i in ids]
        except KeyError as error:
            raise UserError(
                f"id {error.args[0]} is outside the vocabulary of {len(self.vocab)} tokens"
            ) from None

    # -------------------------------------------------- the rule, for one piece between white space

    def _words(self, piece: str) -> list[tuple[str, list[int]]]:
        """The words of a piece, and for each of their characters its index in the piece."""
        words: list[tuple[list[str], list[int]]] = []
        kept = [i for i, char in enumerate(piece) if not is_dropped(char)]
        cleaned = "".join(piece[i] for i in kept)
        runs = CJK_OR_OTHERS if self.tokenize_chinese_chars else OTHERS
        for run in runs.finditer(cleaned):
            text, sources = run[0], kept[run.start() : run.end()]
            if self.do_lower_case:  # lower() of one character may give two
                sources = [i for char, i in zip(text, sources, strict=True) for _ in char.lower()]
                text = text.lower()
            if self.strip_accents:
                text, sources = decompose(text, sources)
            start = True
            for char, source in zip(text, sources, strict=True):
                if (
                    self.strip_accents and unicodedata.category(char) == "Mn"
                ):  # the accent, now by itself
                    continue
                alone = is_punctuation(char)
                if alone or start:
                    words.append(([], []))
                words[-1][0].append(char)
                words[-1][1].append(source)
                start = alone
        return [("".join(chars), sources) for chars, sources in words]

    def _piece_to_ids(self, piece: str) -> tuple[int, ...]:
        if piece.isascii() and piece.isprintable():  # nearly all of English, in one quick step
            words = ASCII_WORDS.findall(piece.lower() if self.do_lower_case else piece)
        else:
            words = [word for word, _ in self._words(piece)]
        return tuple(chain.from_iterable(map(self._word_ids.__getitem__, words)))

    def _piece_to_spans(self, piece: str) -> list[tuple[int, int]]:
        spans = []
        for word, sources in self._words(piece):
            ids = self._word_ids[word]
            if ids == (self.vocab[UNKNOWN],):
                spans.append((sources[0], sources[-1] + 1))
                continue
            start = 0
            for i in ids:
                end = (
                    start + len(self.tokens[i]) - (2 if start else 0)
                )  # without the ## of a continuation
                spans.append((sources[start], sources[end - 1] + 1))
                start = end
        return spans

    def _word_to_ids(self, word: str) -> tuple[int, ...]:
        """Greedy, the longest piece first: 'tuning' -> tuning, or tun ##ing, or t ##un ##ing, or
        [UNK].
        """
        vocab = self.vocab
        if word in vocab:
            return (vocab[word],)
        if len(word) > LONGEST_WORD:
            return (vocab[UNKNOWN],)
        ids, start, prefix = [], 0, ""
        while start < len(word):
            for end in range(min(len(word), start + self._longest), start, -1):
                i = vocab.get(prefix + word[start:end])
                if i is not None:
                    break
            else:
                return (vocab[UNKNOWN],)
            ids.append(i)
            start, prefix = end, "##"
        return tuple(ids)


# --------------------------------------------------------------------------------- a new vocabulary


def lines_of(files: list[Path]) -> Iterator[str]:
    """The lines of UTF-8 texts, one after the other; UserError names the file and line that is
    none.
    """
    for file in files:
        with open(file, "rb") as f:
            for number, line in enumerate(f, start=1):
                try:
                    yield line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError:
                    raise UserError(
                        f"{file}, line {number}: not UTF-8 text; convert the file to UTF-8"
                    ) from None


def learn(texts: list[str], *, out: str, vocab_size: int = 30522, lower_case: bool = True) -> None:
    """Learn a WordPiece vocabulary from text; tokenizer_config.json beside it keeps the casing. The
    same text gives the same vocabulary.

    Args:
        texts: files, globs or folders of UTF-8 text.
        out: vocab.txt to write.
        vocab_size: tokens at most, [PAD] [UNK] [CLS] [SEP] [MASK] included.
        lower_case: learn from lower-cased text without accents.
    """
    try:
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    except ImportError:
        raise UserError(
            "learning a vocabulary needs the package tokenizers; pip install tokenizers"
        ) from None
    target, settings = Path(out), {"do_lower_case": lower_case}
    beside = target.parent / "tokenizer_config.json"
    if vocab_size <= len(SPECIAL):
        raise UserError(
            f"--vocab_size {vocab_size}: expected more than the {len(SPECIAL)} special tokens"
        )
    if target.exists() or (beside.exists() and read_json(beside) != settings):
        raise UserError(
            f"{target if target.exists() else beside} exists already; name another --out"
        )
    tokenizer = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer(
        strip_accents=lower_case, lowercase=lower_case
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words: collections.Counter[str] = collections.Counter()
    for line in lines_of(find(",".join(texts))):
        pieces = tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(line))
        words.update(word for word, _ in pieces)
    if not words:
        raise UserError(f"{', '.join(texts)}: no text to learn from")
    characters = alphabet(words, max(1000, vocab_size // 4))
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL, *characters],
        initial_alphabet=[c for c in characters if len(c) == 1],
        limit_alphabet=sum(len(c) == 1 for c in characters),
        show_progress=False,
    )
    # One word a time, so that the trainer counts what was counted here: its order does not matter.
    tokenizer.train_from_iterator(words.elements(), trainer)
    vocab = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    write_json(beside, settings)
    with whole_file(target) as f:
        f.write("".join(f"{token}\n" for token, _ in vocab).encode())
    print(f"{target}: {len(vocab)} tokens")


def alphabet(words: dict[str, int], limit: int) -> list[str]:
    """The characters of counted words, the most frequent `limit` of them, in an order that follows
    from the text alone: first those that begin a word, then (as ##x) those that continue one.

    The trainer numbers characters as it meets them in a hash table, in another order each time, and
    breaks ties between merges by these numbers. Given as special tokens, they have their numbers
    before.
    """
    count: collections.Counter[str] = collections.Counter()
    inside: set[str] = set()
    for word, n in words.items():
        for char in word:
            count[char] += n
        inside.update(word[1:])
    kept = sorted(sorted(count, key=lambda char: (-count[char], char))[:limit])
    return kept + [f"##{char}" for char in kept if char in inside]


if __name__ == "__main__":
    command(learn, named=True)

"""WordPiece: text to token ids and back, by Google's rule to the letter.

    tokenizer = FullTokenizer("vocab.txt", do_lower_case=True)
    tokenizer.tokenize("Fine-tuning")       # ['fine', '-', 'tuning']
    tokenizer.encode("Fine-tuning")         # [2986, 1011, 17372]

    $ python tokenization.py learn TEXT... --vocab_size 30522 --out vocab.txt      # a vocabulary of one's own

The rule is slow (it looks at every character) and text repeats itself, so it runs once for each distinct piece between
white space and is remembered: a memo of pieces above a memo of words. That makes plain Python faster than compiled
tokenizers that do the work anew each time. Source of the rule: tokenization.py of google-research/bert.
"""
import re
import unicodedata
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from cli import command
from utils import UserError, find, read_json, read_text, whole_file, write_json

UNKNOWN = "[UNK]"
SPECIAL = ("[PAD]", UNKNOWN, "[CLS]", "[SEP]", "[MASK]")
LONGEST_WORD = 200                  # characters; a longer word is [UNK]
LONGEST_REMEMBERED = 40             # characters; a longer piece seldom comes twice
MEMO_SIZE = 2**18                   # entries of each of the three memos, 65-85 MB when full; a full one is emptied

CJK = re.compile("[\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f"
                 "\U0002b820-\U0002ceaf\uf900-\ufaff\U0002f800-\U0002fa1f]")
ASCII_WORDS = re.compile(r"[0-9A-Za-z]+|[^0-9A-Za-z]")          # in printable ASCII all the rest is punctuation

# str.split() breaks at these control characters, but the rule drops them, which joins what stands around them.
DROPPED_SPACES = "\x0b\x0c\x1c\x1d\x1e\x1f\x85"
PIECE = re.compile(rf"(?:\S|[{DROPPED_SPACES}])+")


def is_dropped(char: str) -> bool:
    """Control and format characters other than white space, NUL and the replacement character."""
    return char == "\ufffd" or (char not in "\t\n\r" and unicodedata.category(char) in ("Cc", "Cf"))


def is_punctuation(char: str) -> bool:
    """ASCII that is neither letter, digit, space nor control, and Unicode's P categories: each a word of its own."""
    if char.isascii():
        return char.isprintable() and not char.isalnum() and char != " "
    return unicodedata.category(char).startswith("P")


def decompose(text: str, sources: list[int]) -> tuple[str, list[int]]:
    """Unicode's NFD of `text`, and for each of its characters the source of the character that it comes from."""
    parts = [unicodedata.normalize("NFD", char) for char in text]
    pairs = [(char, source) for part, source in zip(parts, sources, strict=True) for char in part]
    start = 0                                   # canonical order: each run of combining characters sorted by class
    for i in range(len(pairs) + 1):
        if i == len(pairs) or not unicodedata.combining(pairs[i][0]):
            if i - start > 1:
                pairs[start:i] = sorted(pairs[start:i], key=lambda pair: unicodedata.combining(pair[0]))
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


def load_vocab(file: str | Path) -> dict[str, int]:
    """{token: id} of a vocab.txt: a token a line, the line number (from 0) its id."""
    lines = read_text(file).split("\n")
    if lines and not lines[-1]:
        lines.pop()
    vocab = {line.strip(): i for i, line in enumerate(lines)}
    if missing := [token for token in SPECIAL if token not in vocab]:
        raise UserError(f"{file}: no {', '.join(missing)} among its {len(lines)} lines; expected a BERT vocab.txt")
    return vocab


def casing(vocab_file: str | Path, do_lower_case: bool | None = None, *checkpoints: str | Path) -> bool:
    """Whether to lower-case, by what is known of a checkpoint; UserError if `do_lower_case` contradicts it.

    Asked in this order: a tokenizer_config.json beside the vocabulary, the words "cased" or "uncased" in the names of the
    files and their folders, and the vocabulary itself, where a cased one has many tokens with capitals.
    """
    known, reason = stated_casing(vocab_file, *checkpoints)
    if known is None:
        tokens = [t for t in load_vocab(vocab_file) if not t.startswith("[")]
        capitals = sum(t != t.lower() for t in tokens)
        known, reason = capitals < 0.01 * len(tokens), f"{capitals} of {len(tokens)} tokens in {vocab_file} have capitals"
    if do_lower_case is not None and do_lower_case != known:
        raise UserError(f"do_lower_case={do_lower_case} contradicts the checkpoint ({reason}); leave it out or set {known}")
    return known


def stated_casing(vocab_file: str | Path, *checkpoints: str | Path) -> tuple[bool | None, str]:
    """Whether to lower-case, by settings or names alone, and in words why; None where neither tells."""
    settings = Path(vocab_file).parent / "tokenizer_config.json"
    if settings.is_file() and isinstance(value := read_json(settings).get("do_lower_case"), bool):
        return value, f"{settings} has do_lower_case={value}"
    for path in (Path(p).resolve() for p in (*checkpoints, vocab_file)):
        for name in (path.name, path.parent.name):
            if found := re.search("(un)?cased", name, re.IGNORECASE):
                return found[1] is not None, f"its name is {name}"
    return None, ""


class FullTokenizer:
    """Google's tokenizer: clean, split at white space, CJK and punctuation, lower-case, greedy longest word pieces."""

    def __init__(self, vocab_file: str | Path, do_lower_case: bool = True):
        known, reason = stated_casing(vocab_file)
        if known is not None and known != do_lower_case:
            raise UserError(f"do_lower_case={do_lower_case} contradicts the vocabulary ({reason}); set {known}")
        self.vocab = load_vocab(vocab_file)
        self.tokens = {i: token for token, i in self.vocab.items()}
        self.do_lower_case = do_lower_case
        self._longest = max(map(len, self.vocab))
        self._word_ids = Memo(self._word_to_ids)
        self._piece_ids = Memo(self._piece_to_ids)
        self._piece_spans = Memo(self._piece_to_spans)

    def encode(self, text: str) -> list[int]:
        """The ids of a text's tokens, without [CLS] or [SEP].  'Fine-tuning' -> [2986, 1011, 17372]"""
        pieces = PIECE.findall(text) if any(char in text for char in DROPPED_SPACES) else text.split()
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
            raise UserError(f"{error.args[0]!r} is not among the {len(self.vocab)} tokens; use tokenize()") from None

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        """Tokens of ids; UserError at an id outside the vocabulary."""
        try:
            return [self.tokens[int(i)] for i in ids]
        except KeyError as error:
            raise UserError(f"id {error.args[0]} is outside the vocabulary of {len(self.vocab)} tokens") from None

    # ------------------------------------------------------------------- the rule, for one piece between white space

    def _words(self, piece: str) -> list[tuple[str, list[int]]]:
        """The words of a piece, and for each of their characters its index in the piece."""
        words: list[tuple[list[str], list[int]]] = []
        kept = [i for i, char in enumerate(piece) if not is_dropped(char)]
        cleaned = "".join(piece[i] for i in kept)
        for run in re.finditer(f"{CJK.pattern}|(?:(?!{CJK.pattern}).)+", cleaned, re.DOTALL):
            text, sources = run[0], kept[run.start():run.end()]
            if self.do_lower_case:                                      # lower() of one character may give two
                sources = [i for char, i in zip(text, sources, strict=True) for _ in char.lower()]
                text, sources = decompose(text.lower(), sources)
            start = True
            for char, source in zip(text, sources, strict=True):
                if self.do_lower_case and unicodedata.category(char) == "Mn":      # the accent, now by itself
                    continue
                alone = is_punctuation(char)
                if alone or start:
                    words.append(([], []))
                words[-1][0].append(char)
                words[-1][1].append(source)
                start = alone
        return [("".join(chars), sources) for chars, sources in words]

    def _piece_to_ids(self, piece: str) -> tuple[int, ...]:
        if piece.isascii() and piece.isprintable():                     # nearly all of English, in one quick step
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
                end = start + len(self.tokens[i]) - (2 if start else 0)         # without the ## of a continuation
                spans.append((sources[start], sources[end - 1] + 1))
                start = end
        return spans

    def _word_to_ids(self, word: str) -> tuple[int, ...]:
        """Greedy, the longest piece first: 'tuning' -> tuning, or tun ##ing, or t ##un ##ing, or [UNK]."""
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


# ------------------------------------------------------------------------------------------------ a new vocabulary

def lines_of(files: list[Path]) -> Iterator[str]:
    """The lines of UTF-8 texts, one after the other; UserError names the file and line that is none."""
    for file in files:
        with open(file, "rb") as f:
            for number, line in enumerate(f, start=1):
                try:
                    yield line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError:
                    raise UserError(f"{file}, line {number}: not UTF-8 text; convert the file to UTF-8") from None


def learn(texts: list[str], *, out: str, vocab_size: int = 30522, lower_case: bool = True) -> None:
    """Learn a WordPiece vocabulary from text; tokenizer_config.json beside it keeps the casing.

    Args:
        texts: files, globs or folders of UTF-8 text.
        out: vocab.txt to write.
        vocab_size: tokens at most, [PAD] [UNK] [CLS] [SEP] [MASK] included.
        lower_case: learn from lower-cased text without accents.
    """
    try:
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    except ImportError:
        raise UserError("learning a vocabulary needs the package tokenizers; pip install tokenizers") from None
    target = Path(out)
    if vocab_size <= len(SPECIAL):
        raise UserError(f"--vocab_size {vocab_size}: expected more than the {len(SPECIAL)} special tokens")
    if taken := [path for path in (target, target.parent / "tokenizer_config.json") if path.exists()]:
        raise UserError(f"{taken[0]} exists already; name another --out")
    tokenizer = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer(strip_accents=lower_case, lowercase=lower_case)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(lines_of(find(",".join(texts))), trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL), limit_alphabet=max(1000, vocab_size // 4)))
    vocab = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if len(vocab) == len(SPECIAL):
        raise UserError(f"{', '.join(texts)}: no text to learn from")
    with whole_file(target) as f:
        f.write("".join(f"{token}\n" for token, _ in vocab).encode())
    write_json(target.parent / "tokenizer_config.json", {"do_lower_case": lower_case})
    print(f"{target}: {len(vocab)} tokens")


if __name__ == "__main__":
    command(learn, named=True)

"""WordPiece: text to token ids and back, by Google's rule to the letter.

    tokenizer = FullTokenizer("vocab.txt", do_lower_case=True)
    tokenizer.tokenize("Fine-tuning")       # ['fine', '-', 'tuning']
    tokenizer.encode("Fine-tuning")         # [2986, 1011, 17372]
    model(**tokenizer(["A text.", ("Two", "texts.")]))

    $ python tokenization.py learn TEXT... --vocab_size 30522 --out vocab.txt   # one of your own

The rule is slow (it looks at every character) and text repeats itself, so it runs once for each
distinct piece between white space and is remembered: a memo of pieces above a memo of words. That
makes plain Python faster than compiled tokenizers that do the work anew each time. Source of the
rule: tokenization.py of google-research/bert.
"""

import dataclasses
import re
import unicodedata
from collections.abc import Callable, Container, Iterable, Iterator
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from formats.rules import SPECIAL, UNKNOWN, AddedToken, Rules
from formats.vocab import Vocabulary
from system import forms
from system.cli import command
from system.files import find_files, read_json, whole_file, write_json
from utils import UserError, show

if TYPE_CHECKING:
    from torch import Tensor

LONGEST_REMEMBERED = 40  # characters; a longer piece seldom comes twice
MEMO_SIZE = 2**18  # entries of each of the three memos, 65-85 MB when full; a full one is emptied

# The blocks of Chinese characters in Google's code, without Japanese kana and Korean Hangul.
CJK = re.compile(
    "[\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f"
    "\U0002b820-\U0002ceaf\uf900-\ufaff\U0002f800-\U0002fa1f]"
)
# In printable ASCII all that is neither letter nor digit is punctuation.
ASCII_WORDS = re.compile(r"[0-9A-Za-z]+|[^0-9A-Za-z]")

# str.split() breaks at these control characters; the rule drops them and joins what is around them.
DROPPED_SPACES = "\x0b\x0c\x1c\x1d\x1e\x1f\x85"
PIECE = re.compile(rf"(?:\S|[{DROPPED_SPACES}])+")
# White space as transformers takes it along with a token, on either side.
BEFORE, BEHIND = re.compile(r"[^\S\x1c-\x1f]*\Z"), re.compile(r"[^\S\x1c-\x1f]*")


def split_line(line: str) -> tuple[str, str | None]:
    """The text or the pair of texts that a line has, as Google's extract_features.py has it.

    The last ` ||| ` separates, with a space on both sides.

    'a ||| b' -> ('a', 'b')      'a|||b' -> ('a|||b', None)
    """
    first, separator, second = line.strip().rpartition(" ||| ")
    return (first, second) if separator else (second, None)


def split(text: str) -> list[str]:
    """What stands between white space, as the rule has it."""
    # str.split() is much faster than the expression, and few texts have one of the seven.
    if any(char in text for char in DROPPED_SPACES):
        return PIECE.findall(text)
    return text.split()


def is_dropped(char: str) -> bool:
    """Control and format characters other than white space, NUL and the replacement character."""
    return char == "\ufffd" or (char not in "\t\n\r" and unicodedata.category(char) in ("Cc", "Cf"))


def is_punctuation(char: str) -> bool:
    """ASCII that is neither letter, digit, space nor control, and Unicode's P categories.

    Each is a word of its own.
    """
    # Google counts all of ASCII's symbols as punctuation, "$" and "+" too, which Unicode does not.
    if char.isascii():
        return char.isprintable() and not char.isalnum() and char != " "
    return unicodedata.category(char).startswith("P")


def decompose(text: str, sources: list[int]) -> tuple[str, list[int]]:
    """Unicode's NFD of `text` without accents, and of each of its characters the source."""

    def combining_class(pair: tuple[str, int]) -> int:
        return unicodedata.combining(pair[0])

    parts = [unicodedata.normalize("NFD", char) for char in text]
    pairs = [(char, source) for part, source in zip(parts, sources, strict=True) for char in part]
    kept: list[tuple[str, int]] = []
    for combines, run in groupby(pairs, lambda pair: combining_class(pair) > 0):
        ordered = list(run)
        # As NFD of the whole text sorts each run of combining characters.
        if combines:
            ordered.sort(key=combining_class)
        # NFD has split an accented letter, so that the accent stands by itself.
        kept += [pair for pair in ordered if unicodedata.category(pair[0]) != "Mn"]
    return "".join(char for char, _ in kept), [source for _, source in kept]


def cut_words(text: str, sources: list[int]) -> list[tuple[str, list[int]]]:
    """The words of a normalised text, and for each of their characters its source."""
    words: list[tuple[list[str], list[int]]] = []
    start = True
    for char, source in zip(text, sources, strict=True):
        if char == " ":
            start = True
            continue
        alone = is_punctuation(char)
        if alone or start:
            words.append(([], []))
        words[-1][0].append(char)
        words[-1][1].append(source)
        start = alone
    return [("".join(chars), places) for chars, places in words]


def truncate_pair(a: list[int], b: list[int], room: int) -> tuple[list[int], list[int]]:
    """Google's rule: the longer text loses its last token, on a tie the second, until both fit."""
    keep_a, keep_b = len(a), len(b)
    while keep_a + keep_b > room:
        if keep_a > keep_b:
            keep_a -= 1
        else:
            keep_b -= 1
    return a[:keep_a], b[:keep_b]


def longest_pieces(word: str, pieces: Container[str], longest: int) -> tuple[list[str], int]:
    """The pieces of a word, the longest first, and where they end: before its end where one lacks.

    Args:
        longest: characters of a piece at most.
    """
    found, start, prefix = list[str](), 0, ""
    while start < len(word):
        for end in range(min(len(word), start + longest), start, -1):
            piece = prefix + word[start:end]
            if piece in pieces:
                break
        else:
            break
        found.append(piece)
        start, prefix = end, "##"
    return found, start


class Memo(dict):
    """A dict that computes what it lacks and remembers it, up to a limit."""

    def __init__(self, function: Callable[[str], Any]):
        super().__init__()
        self.function = function

    def __missing__(self, key: str) -> Any:
        value = self.function(key)
        if len(key) <= LONGEST_REMEMBERED:
            # Emptied rather than trimmed, which would have to keep track of what was used last.
            if len(self) >= MEMO_SIZE:
                self.clear()
            self[key] = value
        return value


class WholeTokens:
    """Tokens that are kept whole: where they stand in a text, the leftmost and longest first."""

    def __init__(self, tokens: dict[str, AddedToken]):
        self.tokens = tokens
        # At each place the longest one that matches is found, as it comes first; of none, nothing.
        longest_first = sorted(tokens, key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        # Looking for a character is much faster than the expression, and few texts have one.
        self.starts = "".join({token[0] for token in tokens})

    def split(self, text: str) -> Iterator[tuple[AddedToken | None, int, int]]:
        """The text from its start to its end in parts: a token, or None, and where it stands."""
        done = 0
        for match in self.pattern.finditer(text):
            token = self.tokens[match[0]]
            start, end = match.span()
            if token.lstrip and (space := BEFORE.search(text, min(done, start), start)):
                start = max(space.start(), done)
            if token.rstrip and (space := BEHIND.match(text, end)):
                end = space.end()
            if done < start:
                yield None, done, start
            yield token, start, end
            done = end
        if done < len(text):
            yield None, done, len(text)


class FullTokenizer:
    """Google's tokenizer: clean, split, lower-case, then the longest word pieces greedily.

    Where the files beside the vocabulary are transformers', it does what they ask for beside that:
    tokens that are kept whole, and another length up to which a word is split (formats/rules.py).

    Args:
        vocab_file: its file, or a Vocabulary that was read, with its casing and rules.
        rules: what the files beside it say; None: they are read.
    """

    def __init__(
        self,
        vocab_file: str | Path | Vocabulary,
        do_lower_case: bool = True,
        rules: Rules | None = None,
    ):
        if isinstance(vocab_file, Vocabulary):
            self.vocabulary = vocab_file
        else:
            found = Vocabulary.read(vocab_file)
            # The files beside the vocabulary know better than a flag how it was made.
            found.check_casing(do_lower_case)
            self.vocabulary = found.with_rules(rules, do_lower_case)
        self.rules = rules = self.vocabulary.rules
        self.do_lower_case = bool(rules.do_lower_case)
        self.strip_accents = rules.strip_accents
        if rules.strip_accents is None:
            self.strip_accents = self.do_lower_case
        # What was added behind the vocabulary is no piece of a word.
        self.pieces = self.vocabulary.tokens
        self.vocab = self.pieces | {token.content: token.id for token in rules.added}
        # No piece is longer than the longest token, so that the search need not begin further out.
        self._longest = max(map(len, self.pieces))
        self.tokens = {i: token for token, i in self.vocab.items()}
        self._word_ids = Memo(self._word_to_ids)
        self._piece_ids = Memo(self._piece_to_ids)
        self._piece_spans = Memo(self._piece_to_spans)
        # Some are looked for in the text as it is given, the others as it is after lower-casing.
        whole = [t for t in rules.added if not (t.special and rules.split_special_tokens)]
        self._whole = WholeTokens({t.content: t for t in whole if not t.normalized})
        lowered = {self._normalise(t.content)[0]: t for t in whole if t.normalized}
        lowered.pop("", None)
        self._whole_lowered = WholeTokens(lowered)

    def __call__(
        self, texts: str | Iterable[str | tuple[str, str]], max_len: int = 512
    ) -> dict[str, "Tensor"]:
        """The batch that a model takes, of texts and pairs: input_ids, segment_ids, input_mask.

        (B, S) each, [CLS] a [SEP] or [CLS] a [SEP] b [SEP] and padding. What is longer than max_len
        loses its end, by Google's rule.
        """
        # Nothing else here needs PyTorch, which takes seconds to load.
        import torch

        cls, sep = self.convert_tokens_to_ids(["[CLS]", "[SEP]"])
        rows = []
        for text in [texts] if isinstance(texts, str) else texts:
            parts = (text,) if isinstance(text, str) else text
            is_pair = isinstance(parts, list | tuple) and 1 <= len(parts) <= 2
            if not is_pair or not all(isinstance(part, str) for part in parts):
                raise UserError(f"{show(text, 40)}: expected a text or a pair of texts")
            if max_len < 1 + len(parts):
                raise UserError(f"max_len={max_len}; expected at least {1 + len(parts)}")
            a, b = self.encode(parts[0]), self.encode("".join(parts[1:]))
            # [CLS] and a [SEP] behind each text.
            a, b = truncate_pair(a, b, max_len - 1 - len(parts))
            rows.append(([cls, *a, sep], [*b, sep] if len(parts) == 2 else []))
        longest = max((len(a) + len(b) for a, b in rows), default=0)
        ids, segments, mask = torch.zeros(3, len(rows), longest, dtype=torch.long)
        for i, (a, b) in enumerate(rows):
            ids[i, : len(a) + len(b)] = torch.tensor(a + b)
            segments[i, len(a) : len(a) + len(b)] = 1
            mask[i, : len(a) + len(b)] = 1
        return {"input_ids": ids, "segment_ids": segments, "input_mask": mask}

    def encode(self, text: str) -> list[int]:
        """The ids of a text's tokens, without [CLS] or [SEP].

        'Fine-tuning' -> [2986, 1011, 17372]
        """
        if self._has_whole(text):
            return self._encode_parts(text)[0]
        return list(chain.from_iterable(map(self._piece_ids.__getitem__, split(text))))

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids, and for each the (start, end) of the characters of `text` that it stands for.

        'Ünter Bäumen' -> ids of ['un', '##ter', 'ba', '##umen'], [(0, 2), (2, 5), (6, 8), (8, 12)]
        """
        if self._has_whole(text):
            return self._encode_parts(text)
        ids, spans = list[int](), list[tuple[int, int]]()
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

    # ------------------------------------------------------------------- tokens that are kept whole

    def _has_whole(self, text: str) -> bool:
        """Whether a text may have tokens that are kept whole."""
        for char in self._whole.starts:
            if char in text and self._whole.pattern.search(text):
                return True
        if not self._whole_lowered.starts:
            return False
        # Of printable ASCII lower-casing is all that is done to a text.
        if text.isascii() and text.isprintable():
            text = text.lower() if self.do_lower_case else text
            return self._whole_lowered.pattern.search(text) is not None
        return True

    def _encode_parts(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """encode_with_offsets() of a text that has tokens that are kept whole."""
        ids, spans = list[int](), list[tuple[int, int]]()
        for token, start, end in self._whole.split(text):
            if token:
                ids.append(token.id)
                spans.append((start, end))
                continue
            chars, sources = self._normalise(text[start:end], start)
            for lowered, first, last in self._whole_lowered.split(chars):
                if lowered:
                    ids.append(lowered.id)
                    spans.append((sources[first], sources[last - 1] + 1))
                    continue
                for word, places in cut_words(chars[first:last], sources[first:last]):
                    ids += self._word_ids[word]
                    spans += self._word_to_spans(word, places)
        return ids, spans

    # -------------------------------------------------- the rule, for one piece between white space

    def _normalise(self, text: str, at: int = 0) -> tuple[str, list[int]]:
        """A text cleaned, lower-cased and without accents, and the source of each character.

        Args:
            at: the source of the first one.
        """
        # Each with its index, so that offsets point into the text as it was given.
        chars, sources = list[str](), list[int]()
        for i, char in enumerate(text, start=at):
            if is_dropped(char):
                continue
            # White space on both sides makes a word of a Chinese character.
            if self.rules.tokenize_chinese_chars and CJK.match(char):
                char = f" {char} "
            elif char.isspace():
                char = " "
            chars.append(char)
            sources += [i] * len(char)
        cleaned = "".join(chars)
        # lower() of one character may give two, as of the dotted capital I, both of one source.
        if self.do_lower_case:
            sources = [i for char, i in zip(cleaned, sources, strict=True) for _ in char.lower()]
            cleaned = cleaned.lower()
        return decompose(cleaned, sources) if self.strip_accents else (cleaned, sources)

    def words(self, piece: str) -> list[str]:
        """The normalised words, later cut into word pieces, of what has no white space.

        'Élan-vital' -> ['elan', '-', 'vital']
        """
        # Nearly all of English, in one quick step.
        if piece.isascii() and piece.isprintable():
            return ASCII_WORDS.findall(piece.lower() if self.do_lower_case else piece)
        return [word for word, _ in cut_words(*self._normalise(piece))]

    def _piece_to_ids(self, piece: str) -> tuple[int, ...]:
        return tuple(chain.from_iterable(map(self._word_ids.__getitem__, self.words(piece))))

    def _piece_to_spans(self, piece: str) -> list[tuple[int, int]]:
        words = cut_words(*self._normalise(piece))
        return [span for word in words for span in self._word_to_spans(*word)]

    def _word_to_spans(self, word: str, sources: list[int]) -> list[tuple[int, int]]:
        """Where the pieces of a word stand, of which each character has a source."""
        ids = self._word_ids[word]
        if ids == (self.vocab[UNKNOWN],):
            return [(sources[0], sources[-1] + 1)]
        spans, start = [], 0
        for i in ids:
            # The ## of a continuation stands for no character.
            end = start + len(self.tokens[i]) - (2 if start else 0)
            spans.append((sources[start], sources[end - 1] + 1))
            start = end
        return spans

    def _word_to_ids(self, word: str) -> tuple[int, ...]:
        """The longest piece first: 'tuning' -> tuning, or tun ##ing, or t ##un ##ing, or [UNK]."""
        pieces, unknown = self.pieces, (self.vocab[UNKNOWN],)
        if len(word) > self.rules.max_input_chars_per_word:
            return unknown
        # The usual case: a word in the vocabulary is its own longest piece.
        if word in pieces:
            return (pieces[word],)
        found, end = longest_pieces(word, pieces, self._longest)
        return tuple(pieces[piece] for piece in found) if end == len(word) else unknown


# --------------------------------------------------------------------------------- a new vocabulary


@dataclasses.dataclass
class Learn:
    """Learn a WordPiece vocabulary from text.

    The same text gives the same vocabulary; tokenizer_config.json beside it keeps the casing.
    """

    texts: list[str]  # files, globs or folders of UTF-8 text
    _: dataclasses.KW_ONLY
    out: str  # vocab.txt to write
    vocab_size: int = 30522  # tokens at most, [PAD] [UNK] [CLS] [SEP] [MASK] included
    lower_case: bool = True  # learn from lower-cased text without accents
    text_a: str | None = None  # of JSON lines, the column of the text; default: text

    def run(self) -> None:
        try:
            import tokenizers  # noqa: F401
        except ImportError:
            raise UserError(
                "learning a vocabulary needs the package tokenizers; pip install tokenizers"
            ) from None
        from formats.learning import count_words, train_vocab

        target, settings = Path(self.out), {"do_lower_case": self.lower_case}
        beside = target.parent / "tokenizer_config.json"
        if (n := self.vocab_size) <= len(SPECIAL):
            raise UserError(
                f"`vocab_size={n}`: expected more than the {len(SPECIAL)} special tokens"
            )
        # Models belong to a vocabulary: one that is overwritten would leave them without theirs.
        if target.exists() or (beside.exists() and read_json(beside) != settings):
            found = target if target.exists() else beside
            raise UserError(f"{found} exists already; name another `out`")
        files = find_files(",".join(self.texts))
        for file in files:
            forms.check(file, "corpus")
        words = count_words(files, self.lower_case, self.text_a)
        if not words:
            raise UserError(f"{', '.join(self.texts)}: no text to learn from")
        vocab = train_vocab(words, self.vocab_size)
        write_json(beside, settings)
        # Another process may have written it since.
        with whole_file(target, replace=False) as f:
            f.write("".join(f"{token}\n" for token in vocab).encode())
        print(f"{target}: {len(vocab)} tokens")


if __name__ == "__main__":
    command(Learn, named=True)

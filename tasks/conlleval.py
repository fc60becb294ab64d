"""Entities in tags, counted as CoNLL-2000's conlleval counts them, illegal sequences included.

chunks(["B-PER", "I-PER", "O"])      # [("PER", 0, 2)]
counts = Counts()
counts.add(gold_tags, predicted_tags)   # of each sentence
print(counts.report())               # what conlleval prints
"""

import collections
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tasks.table_rows import open_text
from utils import UserError, warn

Chunk = tuple[str, int, int]  # type, the first word, one past the last

BOUNDARY = "-X-"  # a line of conlleval's between sentences, as a blank one


class Tag(NamedTuple):
    """The two parts of a tag."""

    prefix: str
    kind: str

    @classmethod
    def of(cls, tag: str) -> "Tag":
        """'B-PER' -> ('B', 'PER')      'O' -> ('O', '')"""
        prefix, _, kind = tag.partition("-")
        # A type called 0 is none in Perl.
        return cls(prefix, "" if kind == "0" else kind)


OUTSIDE = Tag("O", "")

# Prefixes of a tag and of the next one of the same type: where a chunk ends, where one starts.
ENDS = {tuple(pair) for pair in ("BB", "BO", "IB", "IO", "EE", "EI", "EO")}
STARTS = {tuple(pair) for pair in ("BB", "IB", "OB", "OI", "EE", "EI", "OE")}
ALONE = ("[", "]")  # a chunk of a single word, in data of the nineties
NO_CHUNK = ("O", ".")  # a change of type says nothing there


def chunks(tags: Iterable[str]) -> list[Chunk]:
    """The chunks of a sentence. A tag of another type than the one before it starts one, too."""
    found, opened, before = list[Chunk](), list[int](), OUTSIDE
    split = [Tag.of(tag) for tag in tags]
    for i, tag in enumerate(split):
        prefixes, changes = (before.prefix, tag.prefix), before.kind != tag.kind
        leaves = changes and before.prefix not in NO_CHUNK
        if prefixes in ENDS or leaves or before.prefix in ALONE:
            found += [(before.kind, start, i) for start in opened]
            opened = []
        # A bracket starts a chunk where another one may still be open.
        enters = changes and tag.prefix not in NO_CHUNK
        if prefixes in STARTS or enters or tag.prefix in ALONE:
            opened.append(i)
        before = tag
    return found + [(before.kind, start, len(split)) for start in opened]


class Scores(NamedTuple):
    """In percent, 0 where they are not defined: rounding depends on the unit."""

    precision: float
    recall: float
    f1: float

    @classmethod
    def of(cls, n_gold: int, n_found: int, n_right: int) -> "Scores":
        """From counted chunks."""
        precision, recall = percent(n_right, n_found), percent(n_right, n_gold)
        f1 = 2 * precision * recall / (precision + recall) if n_right else 0.0
        return cls(precision, recall, f1)


class Counts:
    """Words and chunks of gold and predicted tags, counted sentence by sentence."""

    def __init__(self) -> None:
        self.n_words = self.n_right = 0
        # Chunks of each type: the gold ones, those found, and those of both.
        self.gold, self.found, self.both = (collections.Counter[str]() for _ in range(3))

    def add(self, gold: Sequence[str], predicted: Sequence[str]) -> None:
        """Count a sentence."""
        pairs = zip(map(Tag.of, gold), map(Tag.of, predicted), strict=True)
        self.n_words += len(gold)
        self.n_right += sum(a == b for a, b in pairs)
        in_gold, in_predicted = chunks(gold), chunks(predicted)
        self.gold.update(kind for kind, _, _ in in_gold)
        self.found.update(kind for kind, _, _ in in_predicted)
        # Chunks that overlap end together, and are right once.
        right = {(kind, end) for kind, _, end in {*in_gold} & {*in_predicted}}
        self.both.update(kind for kind, _ in right)

    @property
    def accuracy(self) -> float:
        """Of words: the percentage with the right tag."""
        return percent(self.n_right, self.n_words)

    @property
    def overall(self) -> Scores:
        """Of chunks of all types."""
        return Scores.of(self.gold.total(), self.found.total(), self.both.total())

    def by_type(self) -> dict[str, Scores]:
        """Of the chunks of each type."""
        return {
            kind: Scores.of(self.gold[kind], self.found[kind], self.both[kind])
            for kind in sorted(self.gold | self.found)
        }

    def as_json(self) -> dict[str, dict[str, float]]:
        """by_type() as shares, and how many there are of each."""
        return {
            kind: {
                "precision": scores.precision / 100,
                "recall": scores.recall / 100,
                "f1": scores.f1 / 100,
                "support": self.gold[kind],
            }
            for kind, scores in self.by_type().items()
        }

    def report(self) -> str:
        """What conlleval prints."""
        gold, found, both = self.gold.total(), self.found.total(), self.both.total()
        lines = [
            f"processed {self.n_words} tokens with {gold} phrases; found: {found} phrases; "
            f"correct: {both}."
        ]
        if self.n_words:
            lines.append(f"accuracy: {self.accuracy:6.2f}%; {in_words(self.overall)}")
        for kind, scores in self.by_type().items():
            line = f"{kind:>17}: {in_words(scores)}  {self.found[kind]}"
            # Without a name a type is listed for the gold tags and for the predicted ones.
            is_twice = kind == "" and self.gold[kind] and self.found[kind]
            lines += [line, line] if is_twice else [line]
        return "\n".join(lines)


def in_words(scores: Scores) -> str:
    """Scores as conlleval prints them."""
    precision, recall, f1 = scores
    return f"precision: {precision:6.2f}%; recall: {recall:6.2f}%; FB1: {f1:6.2f}"


def percent(n: int, n_all: int) -> float:
    """n of n_all in percent; 0 of none. Multiplied first: 14.375 of 23 in 160, which is 14.38."""
    return 100 * n / max(n_all, 1)


def count_file(file: str | Path) -> Counts:
    """Gold and predicted tags in the last two columns of a file, blank lines between sentences."""
    counts, width = Counts(), 0
    gold, predicted = list[str](), list[str]()
    for number, fields in columns(file):
        # Lines of -X- stand between sentences, too.
        if not fields or fields[0] == BOUNDARY:
            counts.add(gold, predicted)
            gold, predicted = [], []
            continue
        width = width or len(fields)
        if len(fields) != width or width < 2:
            expected = f"{width} as before" if len(fields) != width else "2 or more"
            raise UserError(
                f"{file}, line {number}: {len(fields)} columns; expected {expected}, of which the "
                "last two are the gold and the predicted tag"
            )
        gold.append(fields[-2])
        predicted.append(fields[-1])
    counts.add(gold, predicted)
    if not counts.n_words:
        raise UserError(f"{file} has no words; expected gold and predicted tags in two columns")
    # A file that was only tagged has words where gold tags are expected.
    if not counts.n_right:
        warn(
            f"{file}: no predicted tag is the gold one; are its last two columns the gold and the "
            "predicted tag, as in eval/NAME.tsv of `mode=eval`?"
        )
    return counts


def columns(file: str | Path) -> Iterator[tuple[int, list[str]]]:
    """The line numbers and fields of a file, between tabs if its first line has one."""
    separator = None
    for number, line in enumerate(open_text(file, "tsv", "tags")[1], start=1):
        line = line.rstrip("\r\n")
        if separator is None and not is_blank(line):
            separator = "\t" if "\t" in line else " "
        yield number, split_line(line, separator or " ")


def split_line(line: str, separator: str) -> list[str]:
    """The fields of a line; none of a blank one."""
    if is_blank(line):
        return []
    if separator == "\t":
        return line.split("\t")
    return [field for field in line.split(" ") if field]


def is_blank(line: str) -> bool:
    """Whether a line has white space alone, of any kind, or a byte order mark."""
    return not line.replace("\ufeff", "").strip()

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

from tasks.tables import open_text
from utils import UserError, note

Chunk = tuple[str, int, int]  # type, the first word, one past the last

# What a blank line may consist of: a token may be other white space, or a control character alone.
BLANK = " \t\ufeff"
BOUNDARY = "-X-"  # a line of conlleval's between sentences, as a blank one

# Of a tag and the next one of the same type: where a chunk ends, and where one starts.
ENDS = {"BB", "BO", "IB", "IO", "EE", "EI", "EO"}
STARTS = {"BB", "IB", "OB", "OI", "EE", "EI", "OE"}
ALONE = ("[", "]")  # a chunk of a single word, in data of the nineties


def split_tag(tag: str) -> tuple[str, str]:
    """'B-PER' -> ('B', 'PER')      'O' -> ('O', '')"""
    prefix, _, kind = tag.partition("-")
    return prefix, kind


def chunks(tags: Iterable[str]) -> list[Chunk]:
    """The chunks of a sentence. A tag of another type than the one before it starts one, too."""
    found, start = list[Chunk](), None
    before, kind_before = "O", ""
    # An O behind the last word ends what is still open.
    for i, tag in enumerate([*tags, "O"]):
        prefix, kind = split_tag(tag)
        other_kind = kind != kind_before
        ends = before + prefix in ENDS or other_kind or before in ALONE
        if start is not None and ends:
            found.append((kind_before, start, i))
            start = None
        starts = before + prefix in STARTS or prefix in ALONE
        if starts or (other_kind and prefix not in ("O", ".")):
            start = i
        before, kind_before = prefix, kind
    return found


class Scores(NamedTuple):
    """Shares of 1; 0 where they are not defined."""

    precision: float
    recall: float
    f1: float

    @classmethod
    def of(cls, n_gold: int, n_found: int, n_right: int) -> "Scores":
        """From counted chunks."""
        precision, recall = n_right / max(n_found, 1), n_right / max(n_gold, 1)
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
        self.n_words += len(gold)
        self.n_right += sum(a == b for a, b in zip(gold, predicted, strict=True))
        in_gold, in_predicted = set(chunks(gold)), set(chunks(predicted))
        for counter, some in (
            (self.gold, in_gold),
            (self.found, in_predicted),
            (self.both, in_gold & in_predicted),
        ):
            counter.update(kind for kind, _, _ in some)

    @property
    def accuracy(self) -> float:
        """The share of words with the right tag."""
        return self.n_right / max(self.n_words, 1)

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

    def report(self) -> str:
        """What conlleval prints."""
        gold, found, both = self.gold.total(), self.found.total(), self.both.total()
        lines = [
            f"processed {self.n_words} tokens with {gold} phrases; found: {found} phrases; "
            f"correct: {both}."
        ]
        if self.n_words:
            lines.append(f"accuracy: {self.accuracy:7.2%}; {in_words(self.overall)}")
        for kind, scores in self.by_type().items():
            lines.append(f"{kind:>17}: {in_words(scores)}  {self.found[kind]}")
        return "\n".join(lines)


def in_words(scores: Scores) -> str:
    """Scores as conlleval prints them."""
    precision, recall, f1 = (100 * score for score in scores)
    return f"precision: {precision:6.2f}%; recall: {recall:6.2f}%; FB1: {f1:6.2f}"


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
        note(
            f"{file}: no predicted tag is the gold one; are its last two columns the gold and the "
            "predicted tag, as in eval/NAME.tsv of --mode eval?"
        )
    return counts


def columns(file: str | Path) -> Iterator[tuple[int, list[str]]]:
    """The line numbers and fields of a file, between tabs if its first line has one."""
    separator = None
    for number, line in enumerate(open_text(file, "tsv", "tags")[1], start=1):
        line = line.rstrip("\r\n")
        if separator is None and line.strip(BLANK):
            separator = "\t" if "\t" in line else " "
        yield number, split_line(line, separator or " ")


def split_line(line: str, separator: str) -> list[str]:
    """The fields of a line; none of a blank one."""
    if not line.strip(BLANK):
        return []
    if separator == "\t":
        return line.split("\t")
    return [field for field in line.split(" ") if field]

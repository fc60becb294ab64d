"""Files of words with a tag each: CoNLL-2003, CoNLL-U, GermEval, WikiANN, two columns.

for text in read_texts("train.txt"):
    text.words, text.tags       # ["U.N.", "official"], ["B-ORG", "O"]
lines = with_column(text, ["B-ORG", "O"])   # the file's lines with a column added
"""

import dataclasses
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from tasks.conlleval import BLANK, chunks, split_line
from tasks.tables import is_number, open_text
from tokenization import CJK
from utils import UserError, short

LONGEST = 10_000  # words of a sentence; of a document that is read as a whole
NEW_DOCUMENT = ("-DOCSTART-", "# newdoc")

# Columns that have names, by whether the first one numbers the words, and by how many there are.
NAMES = {
    (True, 10): "id form lemma upos xpos feats head deprel deps misc".split(),  # CoNLL-U
    (True, 4): ["index", "word", "outer", "inner"],  # GermEval
    (False, 4): ["word", "pos", "chunk", "ner"],  # CoNLL-2003
}
# The usual tags of numbered columns; of others they are in the last one.
USUAL = {10: 3, 4: 2}

# What a tag of a chunk begins with, and what IOBES and BILOU call the same in BIO.
PREFIXES = "BIESLU"
IOBES = {"S": "B", "U": "B", "E": "I", "L": "I"}

# A line that begins with the number of a word, of a range of words, or of an empty node.
NUMBERED = re.compile(r"(\d+(?:[-.]\d+)?)\t.*\t")

# Characters of a word that Python's \w lacks: marks on a letter, and the joiners between letters.
MARKS = "".join(
    re.escape(chr(code))
    for code in range(0x300, 0x11000)
    if unicodedata.category(chr(code)) in ("Mn", "Mc", "Me")
)
LETTER = rf"(?!{CJK.pattern})[\w{MARKS}\u200c\u200d]"
# A Chinese character, an abbreviation, a number, a word with an apostrophe, a hyphen or a point
# inside; all else by itself.
WORD = re.compile(
    rf"{CJK.pattern}|(?:\w\.){{2,}}|\d+(?:[.,:]\d+)+|(?:{LETTER}|['’./@&-](?=\w))+|[^\w\s]"
)


@dataclasses.dataclass
class Text:
    """The words of a sentence, or of a document's sentences, and the lines that they stand in."""

    line: int  # of the file, where the first word is
    words: list[str] = dataclasses.field(default_factory=list)
    tags: list[str] = dataclasses.field(default_factory=list)  # of each word, where they are wanted
    starts: list[int] = dataclasses.field(default_factory=list)  # a sentence's first word, each
    rows: list[str] = dataclasses.field(default_factory=list)  # lines without their ends
    at: list[int] = dataclasses.field(default_factory=list)  # in which of them each word stands
    separator: str = "\t"  # of columns

    def sentences(self, tags: list[str]) -> Iterator[list[str]]:
        """The tags of each sentence."""
        ends = [*self.starts[1:], len(self.words)]
        for start, end in zip(self.starts, ends, strict=True):
            yield tags[start:end]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which column of a file is what."""

    file: str
    width: int  # columns
    separator: str
    numbered: bool  # whether the first column counts the words; then lines of # are comments
    prefix: str  # of every word, as "en:"; "": none
    tag: int | None  # column of the tags; None: not wanted

    @classmethod
    def of(cls, file: str, rows: list[str], column: str | None, labelled: bool) -> "Layout | None":
        """As the first sentence of a file shows it; None of rows without a word."""
        rows = [row for row in rows if row.strip(BLANK) and not row.startswith("-DOCSTART-")]
        uncommented = [row for row in rows if not row.startswith("#")]
        # A # begins a comment where words are numbered, and is a word as any other elsewhere.
        numbers = [match[1] for row in uncommented if (match := NUMBERED.match(row))]
        counted = [int(number) for number in numbers if number.isdecimal()]
        numbered = len(numbers) == len(uncommented) and counted == [*range(1, len(counted) + 1)]
        numbered = numbered and len(counted) > 0
        if numbered:
            rows = uncommented
        elif not uncommented and all(row.startswith("# ") for row in rows):
            return None
        separator = "\t" if "\t" in rows[0] else " "
        width = len(split_line(rows[0], separator))
        tag = find_column(file, column, width, numbered) if labelled else None
        # WikiANN writes the language before each word.
        languages = {row.partition(":")[0] for row in rows}
        language, *others = languages
        is_prefix = not others and re.fullmatch("[a-z]{2,3}(-[a-z]+)*|simple", language)
        prefix = f"{language}:" if is_prefix and len(rows) > 1 and not numbered else ""
        # One line of many words is a text; of several, the second one has other columns.
        if not labelled and len(rows) == 1 and separator == " " and width > 4:
            raise UserError(
                f"{file}: its first sentence is a line of {width} columns; expected a word a "
                f"line; plain text comes from standard input: --data_file - < {file}"
            )
        return cls(file, width, separator, numbered, prefix, tag)

    def fields(self, number: int, row: str) -> list[str] | None:
        """The columns of a line; None where it has no word. UserError at another number of them."""
        if row.startswith("-DOCSTART-") or (self.numbered and row.startswith("#")):
            return None
        fields = split_line(row, self.separator)
        if fields and len(fields) != self.width:
            raise UserError(
                f"{self.file}, line {number}: {len(fields)} columns; expected {self.width} as in "
                "the first sentence, a word and its tags a line; mend the line"
            )
        # In CoNLL-U 3-4 is a range of words that are written as one, and 3.1 no word at all.
        if not fields or (self.numbered and re.fullmatch(r"\d+[-.]\d+", fields[0])):
            return None
        if self.numbered and not fields[0].isdecimal():
            raise UserError(
                f"{self.file}, line {number}: found {short(fields[0])}; expected a word's number "
                "as in the first sentence"
            )
        if not fields[1 if self.numbered else 0].startswith(self.prefix):
            raise UserError(
                f"{self.file}, line {number}: no {self.prefix} before the word; expected it as in "
                "the first sentence"
            )
        return fields


def find_column(file: str, column: str | None, width: int, numbered: bool) -> int:
    """The number of the column that has the tags."""
    names = NAMES.get((numbered, width), [])
    first = 2 if numbered else 1
    found = USUAL.get(width, first) if numbered else width - 1
    if column is not None and is_number(column):
        # The remainder turns -1 into the last column.
        found = int(column) % width if abs(int(column)) <= width else width
    elif column is not None:
        found = names.index(column.lower()) if column.lower() in names else width
    if not first <= found < width:
        wanted = "" if column is None else f"--column {short(column)}: "
        known = f" or {', '.join(names[first:])}" if names else ""
        if width <= first:
            raise UserError(
                f"{file} has words alone; expected their tags in a column beside them (--mode "
                "predict needs none)"
            )
        raise UserError(
            f"{wanted}{file} has {width} columns, numbered from 0; expected one of tags, {first} "
            f"to {width - 1}{known}"
        )
    return found


# ------------------------------------------------------------------------------------------ reading


def read_texts(
    file: str | Path, column: str | None = None, labelled: bool = True, by_document: bool = False
) -> Iterator[Text]:
    """The sentences of a file, one by one; or its documents.

    Args:
        column: of the tags, by number from 0 or by name; None: upos of CoNLL-U, the outer tags of
            GermEval, else the last one.
        by_document: join the sentences up to the next -DOCSTART- or `# newdoc`, some thousand words
            of them at most.
    """
    layout, text, before = None, None, list[str]()
    starts_document = False
    for number, rows in blocks(file):
        starts_document |= any(row.startswith(NEW_DOCUMENT) for row in rows)
        layout = layout or Layout.of(str(file), rows, column, labelled)
        found = [layout.fields(number + i, row) for i, row in enumerate(rows)] if layout else []
        # Lines without words belong to what comes before them, or to the first text.
        if not layout or not any(found):
            (text.rows if text else before).extend(rows)
            continue
        if text and (starts_document or not by_document or len(text.words) >= LONGEST):
            yield text
            text = None
        if text is None:
            first = next(i for i, fields in enumerate(found) if fields)
            separator = layout.separator if layout.width > 1 else "\t"
            text = Text(number + first, rows=before, separator=separator)
            before, starts_document = [], False
        add_sentence(text, layout, rows, found, number)
    if text is None:
        raise UserError(f"{file} has no words; expected a word a line, and its tag beside it")
    yield text


def blocks(file: str | Path) -> Iterator[tuple[int, list[str]]]:
    """The lines of a file up to each blank one, with the number of the first of them."""
    rows, first = list[str](), 1
    for number, line in enumerate(open_text(file, "tsv", "tags")[1], start=1):
        rows.append(line.rstrip("\n").removesuffix("\r"))
        if len(rows) > LONGEST:
            raise UserError(
                f"{file}, line {first}: a sentence of more than {LONGEST:,} lines; expected blank "
                "lines between sentences"
            )
        if not rows[-1].strip(BLANK):
            yield first, rows
            rows, first = [], number + 1
    if rows:
        yield first, rows


def add_sentence(
    text: Text, layout: Layout, rows: list[str], found: list[list[str] | None], number: int
) -> None:
    """Append the words of a block to a text."""
    text.starts.append(len(text.words))
    for i, fields in enumerate(found):
        if not fields:
            continue
        text.at.append(len(text.rows) + i)
        text.words.append(fields[1 if layout.numbered else 0].removeprefix(layout.prefix))
        if layout.tag is not None:
            tag = fields[layout.tag].strip()
            if not tag:
                raise UserError(
                    f"{layout.file}, line {number + i}: the tag is empty; mend the line"
                )
            text.tags.append(tag)
    text.rows += rows


def split_words(text: str) -> list[str]:
    """The words of a plain text.  "The U.N.'s Ekeus left." -> The U.N. 's Ekeus left ."""
    return WORD.findall(text)


def with_column(text: Text, tags: list[str]) -> Iterator[str]:
    """The lines of a text with a tag after each word's columns."""
    of_row = dict(zip(text.at, tags, strict=True))
    for i, row in enumerate(text.rows):
        more = of_row.get(i, "")
        # Every line has the same number of columns, also where no word stands.
        if row.startswith("-DOCSTART-"):
            more = "O"
        elif not more and row.strip(BLANK) and not row.startswith("#"):
            more = "_"
        yield row + text.separator + more if more else row


# ------------------------------------------------------------------------------------------ schemes


def are_entities(tags: Iterable[str]) -> bool:
    """Whether tags mark chunks, such as names: B-PER, I-PER, O, and no others."""
    marked = [tag for tag in tags if tag != "O"]
    return bool(marked) and all(
        "-" in tag and tag[0] in PREFIXES and tag[1] == "-" for tag in marked
    )


def to_bio(tags: list[str]) -> list[str]:
    """The tags of a sentence's chunks with B at the first word of each, I at the others.

    IOB1 begins a chunk with I, but where one of the same type ends just before it; IOBES and BILOU
    mark last and single words; and a sequence that BIO does not allow is read as conlleval does.
    """
    known = [IOBES.get(tag[0], tag[0]) + tag[1:] for tag in tags]
    begins = {start for _, start, _ in chunks(known)}
    return [
        tag if tag == "O" else ("B" if i in begins else "I") + tag[1:]
        for i, tag in enumerate(known)
    ]

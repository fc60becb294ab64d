"""Files of words with a tag each: CoNLL-2003, CoNLL-U, GermEval, WikiANN, two columns.

for text in read_texts("train.txt"):
    text.words, text.tags       # ["U.N.", "official"], ["B-ORG", "O"]
lines = with_column(text, ["B-ORG", "O"])   # the file's lines with a column added
"""

import collections
import dataclasses
import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from system import forms
from tasks.conlleval import is_blank, split_line
from tasks.notations import notation_of
from tasks.table_rows import open_text
from tasks.tables import is_number
from tokenization import CJK
from utils import UserError, short

LONGEST = 10_000  # words of a sentence; of a document that is read as a whole
# Lines between documents.
MARKS = ("-DOCSTART-", "###MEDLINE:", "#begin document", "#end document")
NEW_DOCUMENT = (*MARKS, "# newdoc")

# Columns that have names, by whether the first one numbers the words, and by how many there are.
NAMES = {
    (True, 10): "id form lemma upos xpos feats head deprel deps misc".split(),  # CoNLL-U
    (True, 4): ["index", "word", "outer", "inner"],  # GermEval
    (False, 4): ["word", "pos", "chunk", "ner"],  # CoNLL-2003
}
USUAL = ("upos", "outer")  # the tags of numbered columns; of others they are in the last one

# The names of columns, in a first row that has no words: of the words, and of others.
WORD_NAMES = ("word", "words", "token", "tokens", "form", "text")
OTHER_NAMES = (
    "id index sentence lemma tag tags label labels ner ner_tag ner_tags entity iob bio pos pos_tag "
    "upos xpos chunk feats head deprel deps misc outer inner predicted"
).split()
COLUMNS = "# global.columns = "  # what CoNLL-U Plus calls its columns


# The number of a word, of a range of words that are written as one, or of an empty node.
NUMBER = re.compile(r"\d{1,9}(?:[-.]\d{1,9})?")
# A comment of CoNLL-U's, which may have as many columns as a word's line.
COMMENT = re.compile(r"# (?:newdoc\b|newpar\b|\w[\w.:-]* = )")


def characters(*categories: str) -> str:
    """The characters of some of Unicode's categories, for a set in a regular expression."""
    found = [chr(code) for code in range(0x11000) if unicodedata.category(chr(code)) in categories]
    return "".join(re.escape(char) for char in found if not char.isspace())


# What Python's \w lacks of a word: marks on a letter.
MARK = characters("Mn", "Mc", "Me")
LETTER = rf"(?!{CJK.pattern})[\w{MARK}]"
# Control and format characters, the letters of a flag's region among them: alone no word.
INVISIBLE = characters("Cc", "Cf") + "\U000e0001-\U000e007f"
# A symbol with what changes its look: a variation, a key's frame, a skin tone, a region.
SYMBOL = rf"[^\w\s{INVISIBLE}][\ufe00-\ufe0f\u20e3\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]*"
INSIDE = r"['’./@&-](?=\w)"
# A Chinese character, an abbreviation, a number, a word with an apostrophe, a hyphen or a point
# inside; a key, a flag, symbols that are joined to one; all else by itself.
WORD = re.compile(
    rf"{CJK.pattern}|(?:\w\.){{2,}}|\d+(?:[.,:]\d+)+|[0-9]\ufe0f?\u20e3"
    rf"|(?:{LETTER}|{INSIDE})(?:{LETTER}|{INSIDE}|[\u200c\u200d]|[{INVISIBLE}]+(?={LETTER}))*"
    rf"|[\U0001f1e6-\U0001f1ff]{{2}}|{SYMBOL}(?:\u200d{SYMBOL})*"
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
    layout: "Layout | None" = None  # of the file; None: words of a plain text
    # Of a text that was given as a whole, it, where its words are, and the object it stood in.
    given: str = ""
    offsets: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    source: dict[str, Any] | None = None

    def line_of(self, i: int) -> int:
        """The line of a word, in the file."""
        return self.line + self.at[i] - self.at[0]

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
    names: list[str]  # of the columns; []: they have none
    header: str  # the line that names them, unless it is a comment; it may come again
    numbered: bool  # whether the first column counts the words; then lines of # are comments
    prefix: str  # of every word, as "en:"; "": none
    word: int  # column of the words
    tag: int | None  # column of the tags; None: not wanted

    @classmethod
    def of(
        cls, file: str, head: list[list[str]], column: str | None, labelled: bool
    ) -> "Layout | None":
        """As the first sentences of a file show it; None where they have no word."""
        sentences = lines_of_words(head)
        if not sentences:
            return None
        forms.check_tagged(file, [row for rows in sentences for row in rows])
        separator = "\t" if "\t" in sentences[0][0] else " "
        first = split_line(sentences[0][0], separator)
        width, header = len(first), ""
        lines = (row for rows in head for row in rows)
        names = next((row[len(COLUMNS) :].split() for row in lines if row.startswith(COLUMNS)), [])
        if is_header(first):
            names, header = first, sentences[0].pop(0)
            sentences = [rows for rows in sentences if rows]
        if not sentences:
            return None
        numbered = are_numbered([split_line(row, separator) for row in sentences[0]])
        if len(names) != width:
            names = NAMES.get((numbered, width), [])
        is_word = [name.lower() in WORD_NAMES for name in names]
        word = is_word.index(True) if True in is_word else int(numbered)
        tag = find_column(file, column, width, numbered, names, word) if labelled else None
        # One line of many words is a text; of several, the second one has other columns.
        if not labelled and len(sentences[0]) == 1 and separator == " " and width > 4:
            raise UserError(
                f"{file}: its first sentence is a line of {width} columns; expected a word a "
                f"line; plain text comes from standard input: `data_file=-` < {file}"
            )
        prefix = "" if numbered else language_of(sentences[0])
        layout = cls(file, width, separator, names, header, numbered, prefix, word, tag)
        layout.check_words([split_line(row, separator) for rows in sentences for row in rows])
        return layout

    def check_words(self, rows: list[list[str]]) -> None:
        """UserError where tags stand in the column of the words."""
        words = collections.Counter(row[self.word] for row in rows if len(row) == self.width)
        if self.width > 1 and words.total() > 2 and all(word.isdecimal() for word in words):
            raise UserError(
                f"{self.file}: column {self.word} has numbers, such as {short(next(iter(words)))}; "
                "expected words; remove it, or name the columns in a first line: id, word, tag"
            )
        if self.width == 1 or not notation_of(words):
            return
        example = next(word for word, _ in words.most_common() if word.upper() != "O")
        remedy = "put each word before its tag"
        if self.width == 2:
            flag = "-F'\\t' " if self.separator == "\t" else ""
            remedy += f": awk {flag}'{{print $2 FS $1}}' {self.file} > NEW"
        raise UserError(
            f"{self.file}: column {self.word} has tags, such as {short(example)}; expected words; "
            f"{remedy}"
        )

    def block(self, number: int, rows: list[str]) -> list[list[str] | None]:
        """The columns of each line up to a blank one; None where it has no word.

        `number`: of the first line, for messages. UserError at another number of columns.
        """
        found = list[list[str] | None]()
        begins = True
        for i, row in enumerate(rows):
            found.append(self.fields(number + i, row, begins))
            begins = begins and not found[-1]
        return found

    def is_comment(self, row: str, begins: bool) -> bool:
        """Whether a line is a comment; `begins`: no word comes before it in its sentence.

        Where words are numbered each line of # is one. Elsewhere # is a word as any other; a
        comment begins with "# ", stands before the first word, and has another number of columns
        than the file, or is "# newdoc", "# newpar" or "# name = value".
        """
        if self.numbered:
            return row.startswith("#")
        if not begins or not row.startswith("# "):
            return False
        return len(split_line(row, self.separator)) != self.width or bool(COMMENT.match(row))

    def fields(self, number: int, row: str, begins: bool) -> list[str] | None:
        """The columns of a line; None where it has no word. UserError at another number of them."""
        if row.startswith(MARKS) or row == self.header or self.is_comment(row, begins):
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
        if not fields[self.word].startswith(self.prefix):
            raise UserError(
                f"{self.file}, line {number}: no {self.prefix} before the word; expected it as in "
                "the first sentence"
            )
        return fields

    def describe(self, tags: str) -> str:
        """Which columns were read, in words; `tags`: how often each tag occurs."""
        parts = [f"words: {self.name_of(self.word)}"]
        if self.tag is not None:
            parts.append(f"tags: {self.name_of(self.tag)} ({tags})")
        between = "tabs" if self.separator == "\t" else "spaces"
        return "; ".join([*parts, f"{self.width} columns between {between}"])

    def name_of(self, column: int) -> str:
        """A column in a message: what the file's header calls it, or its number and usual name."""
        name = self.names[column] if self.names else ""
        if self.header:
            return repr(name)
        return f"column {column}, {name}" if name else f"column {column}"


def lines_of_words(head: list[list[str]]) -> list[list[str]]:
    """Of each sentence the lines that certainly have words, as far as it has some."""
    found = [
        [row for row in rows if not is_blank(row) and not row.startswith(("#", *MARKS))]
        for rows in head
    ]
    # A # may be a word or begin a comment: it counts where there is nothing else.
    if not any(found):
        found = [
            [row for row in rows if row.startswith("#") and not COMMENT.match(row)] for rows in head
        ]
    return [rows for rows in found if rows]


def are_numbered(rows: list[list[str]]) -> bool:
    """Whether the first column of a sentence counts its words, from 1 or from 0."""
    if min(map(len, rows)) < 2 or not all(NUMBER.fullmatch(fields[0]) for fields in rows):
        return False
    counted = [int(fields[0]) for fields in rows if fields[0].isdecimal()]
    # A lone number may be a word; before two columns or more it is hardly one.
    if len(counted) < 2 and len(rows[0]) < 3:
        return False
    return counted in ([*range(len(counted))], [*range(1, len(counted) + 1)]) and counted != []


def language_of(rows: list[str]) -> str:
    """What WikiANN writes before each word of a sentence, as "en:"; "": nothing."""
    language, *others = {row.partition(":")[0] for row in rows}
    is_one = not others and re.fullmatch("[a-z]{2,3}(-[a-z]+)*|simple", language)
    return f"{language}:" if is_one and len(rows) > 1 else ""


def is_header(fields: list[str]) -> bool:
    """Whether the first line of a file names its columns.  ["WORD", "TAG"] -> True"""
    names = {field.lower() for field in fields}
    others = names - set(WORD_NAMES)
    return len(fields) == len(names) > len(others) > 0 and others <= set(OTHER_NAMES)


def find_column(
    file: str, column: str | None, width: int, numbered: bool, names: list[str], word: int
) -> int:
    """The number of the column that has the tags."""
    free = [i for i in range(int(numbered), width) if i != word]
    names = [name.lower() for name in names]
    usual = [names.index(name) for name in USUAL if name in names]
    found = (usual or free or [width])[0] if numbered else (free or [width])[-1]
    if column is not None and is_number(column):
        # The remainder turns -1 into the last column.
        found = int(column) % width if abs(int(column)) <= width else width
    elif column is not None:
        found = names.index(column.lower()) if column.lower() in names else width
    if found not in free:
        wanted = "" if column is None else f"`column={short(column)}`: "
        if not free:
            raise UserError(
                f"{file} has words alone; expected their tags in a column beside them "
                "(`mode=predict` needs none)"
            )
        known = f" or {', '.join(names[i] for i in free)}" if names else ""
        raise UserError(
            f"{wanted}{file} has {width} columns, numbered from 0; expected one of tags, "
            f"{free[0]} to {free[-1]}{known}"
        )
    return found


# ------------------------------------------------------------------------------------------ reading


def read_texts(
    file: str | Path,
    column: str | None = None,
    labelled: bool = True,
    by_document: bool = False,
    encoding: str | None = None,
) -> Iterator[Text]:
    """The sentences of a file, one by one; or its documents.

    Args:
        column: of the tags, by number from 0 or by name, usual or the file's own; None: upos of
            CoNLL-U, the outer tags of GermEval, else the last one.
        by_document: join the sentences up to the next -DOCSTART- or `# newdoc`, some thousand words
            of them at most.
        encoding: of a file that is neither UTF-8 nor UTF-16.
    """
    lines = open_text(file, "tsv", "tags", encoding)[1]
    # What the columns are is seen in the beginning, which is read twice.
    head = list(itertools.islice(lines, LONGEST))
    first_blocks = [rows for _, rows in blocks(file, head)]
    layout = Layout.of(str(file), first_blocks, column, labelled)
    if layout is None:
        raise UserError(f"{file} has no words; expected a word a line, and its tag beside it")
    text, before, starts_document = None, list[str](), False
    for number, rows in blocks(file, itertools.chain(head, lines)):
        starts_document |= any(row.startswith(NEW_DOCUMENT) for row in rows)
        found = layout.block(number, rows)
        # Lines without words belong to what comes before them, or to the first text.
        if not any(found):
            (text.rows if text else before).extend(rows)
            continue
        if text and (starts_document or not by_document or len(text.words) >= LONGEST):
            yield text
            text = None
        if text is None:
            first = next(i for i, fields in enumerate(found) if fields)
            text = Text(number + first, rows=before, layout=layout)
            before, starts_document = [], False
        add_sentence(text, layout, rows, found, number)
    if text:
        yield text


def blocks(file: str | Path, lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """The lines of a file up to each blank one, with the number of the first of them."""
    rows, first = list[str](), 1
    for number, line in enumerate(lines, start=1):
        rows.append(line.rstrip("\n").removesuffix("\r"))
        if len(rows) > LONGEST:
            raise UserError(
                f"{file}, line {first}: a sentence of more than {LONGEST:,} lines; expected blank "
                "lines between sentences"
            )
        if is_blank(rows[-1]):
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
        text.words.append(fields[layout.word].removeprefix(layout.prefix))
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
    layout = text.layout
    separator = layout.separator if layout and layout.width > 1 else "\t"
    for i, row in enumerate(text.rows):
        more = of_row.get(i, "")
        # Every line has the same number of columns, also where no word stands.
        if row.startswith("-DOCSTART-"):
            more = "O"
        elif layout and row and row == layout.header:
            more = "predicted"
        elif not more and not is_blank(row) and not row.startswith("#"):
            more = "_"
        yield row + separator + more if more else row

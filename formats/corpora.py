"""Text to learn from, in whatever form it comes: plain, packed, JSON lines, WikiExtractor's.

for line in lines([Path("wiki_00.gz")]): ...  # as in plain text: "" where a document ends

A line is a sentence or a paragraph, with its end; a blank one ends a document.
"""

import html
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from system import forms, texts
from utils import UserError, short

COLUMN = "text"  # of JSON lines
ARTICLE = re.compile(r"<doc\b.*>\s*")
TITLE = re.compile(r'\btitle="(.*)"\s*>')  # which may have quotes in it


def lines(files: Iterable[Path], column: str | None = None) -> Iterator[str]:
    """The lines of files, and a blank one behind each.

    UserError where they are no text, or JSON lines lack the column; None: "text".
    """
    for file in files:
        yield from lines_of(file, column)
        yield "\n"


def is_plain(file: Path) -> bool:
    """Whether a file's bytes are its lines, in UTF-8."""
    return forms.recognise(file) == forms.TEXT


def lines_of(file: Path, column: str | None = None) -> Iterator[str]:
    """The lines of one file."""
    forms.check(file, "corpus")
    form = forms.recognise(file, unpack=True)
    _, found = texts.open_lines(file)
    if form == "json lines":
        yield from texts_of_objects(file, found, column or COLUMN)
    elif form == "wiki":
        yield from articles(found)
    else:
        yield from found


def texts_of_objects(file: Path, found: Iterable[str], column: str) -> Iterator[str]:
    """The text of each object, its lines without blank ones, and a blank line behind it."""
    for n, line in enumerate(found, start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file}, line {n}: {error}; expected a JSON object") from None
        text = values.get(column) if isinstance(values, dict) else None
        if not isinstance(text, str):
            names = ", ".join(values) if isinstance(values, dict) else line.strip()
            raise UserError(
                f"{file}, line {n}: found {short(names, 60)}; expected a text named {column}; name "
                "its column with `text_a`"
            )
        # Half a character, of a text that was cut within one, is none.
        text = text.encode("utf-8", "replace").decode()
        yield from (f"{part}\n" for part in text.splitlines() if part.strip())
        yield "\n"


def articles(found: Iterable[str]) -> Iterator[str]:
    """The paragraphs of WikiExtractor's articles without their titles, and a blank line behind."""
    title = None
    for line in found:
        if ARTICLE.fullmatch(line):
            match = TITLE.search(line)
            title = html.unescape(match[1]) if match else None
        elif line.startswith("</doc>"):
            yield "\n"
        # A blank line within an article does not end it.
        elif line.strip():
            is_title = html.unescape(line.strip()) == title
            title = None
            if not is_title:
                yield line

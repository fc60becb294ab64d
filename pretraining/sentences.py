"""From the lines of a file to sentences: one a line, or split, hard-wrapped lines joined first.

list(sentences(["Mr. Smith went. He", "came back."], Layout(width=18, paragraphs=True), "en"))
# ['Mr. Smith went. ', 'He came back.']
"""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

from utils import UserError

# What a sentence ends with, quotes and brackets after its full stop included.
ENDS = (".", "!", "?", ":", '"', "'", "”", "’", ")", "。", "！", "？")


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a file's lines make sentences, where they have to be split: as its beginning looks."""

    width: int = 0  # of hard-wrapped lines, in characters; 0: a line is a paragraph
    paragraphs: bool = False  # a blank line ends a paragraph, and only two or more end a document


def layout(file: Path) -> Layout:
    """Look at the first 256 KB of a file."""
    with open(file, "rb") as f:
        # The last line may be cut in the middle, and is left out.
        lines = [line.rstrip() for line in f.read(2**18).decode("utf-8", "ignore").split("\n")][:-1]
    widths = sorted(len(line) for line in lines if line)
    if not widths:
        return Layout()
    # 98%: a few long lines, such as a web address, do not change the width.
    widest, median = widths[int(len(widths) * 0.98)], widths[len(widths) // 2]
    open_ended = sum(not line.endswith(ENDS) for line in lines if line)
    # Hard-wrapped: long lines of a common width, many of which end in the middle of a sentence.
    # Such texts have a blank line between paragraphs.
    if median >= 40 and widest <= 100 and open_ended > len(widths) / 3:
        return Layout(widest, True)
    # Otherwise blocks of a single line are paragraphs, with a blank line after each.
    runs = [
        len(run.strip("\n").split("\n"))
        for run in re.split(r"\n{2,}", "\n".join(lines))
        if run.strip()
    ]
    return Layout(0, sum(n == 1 for n in runs) > len(runs) / 2 > 1)


def paragraphs(lines: list[str], form: Layout) -> Iterator[str | None]:
    """The paragraphs of a text, and None where a document ends.

    A hard-wrapped line continues in the next one, unless it ends a sentence and the next word had
    fitted on it.
    """
    blank, held = 0, ""
    # Where blank lines separate paragraphs, only the second one ends a document.
    ends_document = 2 if form.paragraphs else 1
    for line in map(str.strip, lines):
        blank = 0 if line else blank + 1
        goes_on = bool(form.width and line)
        last = held.rpartition("\n")[2]
        if goes_on and last.endswith(ENDS):
            goes_on = len(last) + 1 + len(line.split(None, 1)[0]) > form.width
        if held and not goes_on:
            yield held
            held = ""
        if blank == ends_document:
            yield None
        if line:
            held = f"{held}\n{line}" if held else line
    if held:  # the end of these lines need not be a document's
        yield held


def sentences(lines: list[str], form: Layout, language: str | None) -> Iterator[str | None]:
    """The sentences of a text, its lines where no language splits them; None ends a document."""
    if language is None:
        for line in lines:
            yield line if line.strip() else None
        return
    import sentencex

    for paragraph in paragraphs(lines, form):
        if paragraph is None:
            yield None
        else:
            # Lines are joined by spaces, since a sentence may go on in the next one.
            yield from sentencex.segment(language, " ".join(paragraph.split("\n")))


def check_splitter(language: str) -> None:
    """UserError where lines cannot be split into sentences."""
    if not re.fullmatch("[a-z]{2,3}", language):
        raise UserError(
            f"`split_sentences={language}`: expected True (English), False, or a language code "
            "such as de"
        )
    try:
        import sentencex  # noqa: F401
    except ImportError:
        raise UserError(
            "`split_sentences` needs the package sentencex; pip install sentencex, or leave it out"
        ) from None

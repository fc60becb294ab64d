"""What a file is, by its first bytes: one table of forms, and of what each reader makes of them.

    forms.recognise("reviews.csv")          # "json lines", where its first rows are JSON objects
    forms.check("reviews.csv", "table")     # UserError: it is JSON lines; call it .jsonl ...

A reader looks before it reads. Another form read as its own would give wrong results without a
word: markup that is trained on as text, keys of JSON as words with tags.
"""

import contextlib
import csv
import json
import shlex
import zipfile
from pathlib import Path
from typing import NamedTuple

from system import texts
from utils import UserError, show

HEAD = 2**16  # bytes of a file that are looked at


class Form(NamedTuple):
    """A form that a file may have."""

    words: str  # what it is called in messages
    remedy: str  # what makes text of it


TEXT = "text"  # what is none of these
FORMS = {
    "gzip": Form("compressed by gzip", "unpack it first: gunzip FILE"),
    "bzip2": Form("compressed by bzip2", "unpack it first: bunzip2 FILE"),
    "xz": Form("compressed by xz", "unpack it first: unxz FILE"),
    "zstd": Form("compressed by zstd", "unpack it first: unzstd FILE"),
    "excel": Form("an Excel workbook", "save it as csv, UTF-8"),
    "zip": Form("a zip archive", "unpack it first"),
    "parquet": Form("a Parquet table", "write it as JSON lines, with pandas for example"),
    "arrow": Form("an Arrow table", "write it as JSON lines, with datasets for example"),
    "pdf": Form("a PDF", "take its text out first, with pdftotext for example"),
    "sqlite": Form("an SQLite database", "write its table as csv"),
    "utf-16": Form("UTF-16 text", "convert it to UTF-8: iconv -f UTF-16 -t UTF-8 FILE"),
    "json lines": Form("JSON lines", "take what is needed out of its objects"),
    "json object": Form("a JSON object", "take what is needed out of it"),
    "json array": Form("a JSON array", "write an object a line: jq -c '.[]' FILE > FILE.jsonl"),
    "wiki": Form(
        "WikiExtractor's output, with a <doc ...> around each article",
        "take the tags out: sed -E 's/^<\\/?doc.*$//' FILE",
    ),
    "cr": Form("text with the line ends of old Macs", "convert them: tr '\\r' '\\n' < FILE > NEW"),
    "html": Form("HTML", "take its text out first"),
    "xml": Form("XML", "take its text out first"),
}

# The first bytes of files that are no UTF-8 text.
MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "excel",  # of before 2007
    b"PK\x03\x04": "zip",
    b"PAR1": "parquet",
    b"ARROW1": "arrow",
    b"%PDF-": "pdf",
    b"SQLite format 3\0": "sqlite",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
# The first characters of markup.
MARKUP = {"<doc ": "wiki", "<!doctype html": "html", "<html": "html", "<?xml": "xml"}

# What each reader expects, and what it makes of a form: None, it reads it; else what helps there
# more than the form's own remedy. What is not here it does not read.
EXPECTED = {
    "table": "a row a line, fields between commas or tabs",
    "jsonl": "a JSON object a line",
    "lines": "a text a line",
    "corpus": "text, a sentence a line and a blank line between documents, or JSON lines",
    "tags": "a word and its tag a line, and a blank line between sentences",
    "context": "a text to find the answer in",
    "questions": "SQuAD's JSON, or a question and its context in each row",
}
# What a text may be packed in, and is read through where a reader takes it.
PACKED = ("gzip", "zstd", "utf-16")
READ_PACKED = dict[str, str | None].fromkeys(PACKED)
READERS: dict[str, dict[str, str | None]] = {
    "table": {
        "json lines": "call it FILE.jsonl, or name --task jsonl",
        "json object": "write an object a line, in a file .jsonl",
        "cr": None,
        **READ_PACKED,
    },
    "jsonl": dict.fromkeys(("json lines", "json object", "json array", *PACKED)),
    "lines": {
        **READ_PACKED,
        "json lines": "take its texts out: jq -r .text FILE > NEW",
    },
    "corpus": {"json lines": None, "wiki": None, **READ_PACKED},
    "tags": dict.fromkeys(
        ("json lines", "json object", "json array"), "write each token and its tag into a line"
    )
    | READ_PACKED,
    "questions": {"json object": None, "json lines": None, "json array": None},
}


def recognise(file: str | Path, unpack: bool = False) -> str:
    """The form of a file, one of FORMS, or TEXT; what cannot be read twice, a pipe, is TEXT.

    `unpack`: of a text that is PACKED, its own form.
    """
    path = Path(file)
    if not path.is_file():
        return TEXT
    with open(path, "rb") as f:
        head = f.read(HEAD)
        whole = len(head) < HEAD or not f.read(1)
    for magic, form in MAGIC.items():
        if head.startswith(magic):
            if unpack and form in PACKED:
                return form_of_text(*texts.head_of(path, HEAD))
            return "excel" if form == "zip" and is_workbook(path) else form
    return form_of_text(head.decode("utf-8-sig", "replace"), whole)


def is_workbook(path: Path) -> bool:
    """Whether a zip archive is an Excel workbook, as they are since 2007."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.startswith("xl/") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def form_of_text(head: str, whole: bool) -> str:
    """The form of a text that begins so; `whole`: it has no more."""
    start = head.lstrip()
    for characters, form in MARKUP.items():
        if start[: len(characters)].lower() == characters:
            return form
    if start[:1] not in ("{", "["):
        return "cr" if head.count("\r") > 1 and "\n" not in head else TEXT
    first, _, rest = start.partition("\n")
    alone = is_json(first)
    # One object more, and it is a list of them; an object alone may be both.
    if alone and rest.lstrip()[:1] == start[0]:
        return "json lines"
    if alone or is_json(start, cut_off=not whole):
        return "json object" if start[0] == "{" else "json array"
    return TEXT


def is_json(text: str, cut_off: bool = False) -> bool:
    """Whether a text is a JSON object, or a list of anything but numbers; or begins as one."""
    # "[1] A footnote" and "[ O" begin a text.
    if text[0] == "[" and text[1:].lstrip()[:1] not in ("{", "[", '"'):
        return False
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        # What is wrong with the beginning of a JSON text is only that it ends.
        at_end = error.pos >= len(text.rstrip()) - 1 or error.msg.startswith("Unterminated string")
        return cut_off and at_end
    except (ValueError, RecursionError):  # a number of thousands of digits; thousands of levels
        return True
    return True


def check(file: str | Path, reader: str) -> None:
    """UserError where a file has a form that a reader, one of EXPECTED, would take for its own."""
    known = READERS.get(reader, {})
    form = recognise(file, unpack=all(known.get(packed, "") is None for packed in PACKED))
    if form == TEXT:
        return
    remedy = known.get(form, FORMS[form].remedy)
    if remedy is not None:
        remedy = remedy.replace("FILE", shlex.quote(str(file)))
        raise UserError(f"{file} is {FORMS[form].words}; expected {EXPECTED[reader]}; {remedy}")


# ------------------------------------------------------------------------------- layouts of a text


def one_separator(rows: list[str], separators: str) -> list[str]:
    """Which of some characters stand in every row, and in each as often as in the others."""
    return [
        separator
        for separator in separators
        if len({row.count(separator) for row in rows}) == 1 and separator in rows[0]
    ]


def check_tagged(file: str | Path, rows: list[str]) -> None:
    """UserError where rows are sentences, or fields of a csv, instead of a word and its tag."""
    expected = EXPECTED["tags"]
    if separator := sentence_a_line(rows):
        remedy = "write each word and its tag into a line"
        if separator != " ":
            remedy = f"awk '{{print $0 RS}}' {file} | tr ' {separator}' '\\n\\t' > NEW"
        raise UserError(
            f"{file} has a sentence a line, {show(rows[0], 40)}; expected {expected}; {remedy}"
        )
    # Where all rows have as many spaces, a comma is part of a word: "1,000 O".
    for separator in "" if one_separator(rows, "\t ") else ",;":
        with contextlib.suppress(csv.Error):
            widths = {len(fields) for fields in csv.reader(rows, delimiter=separator)}
            if len(widths) == 1 and widths != {1}:
                raise UserError(
                    f"{file} is a csv, with {separator!r} between its columns; expected "
                    f"{expected}; write it so, with a tab between the columns"
                )


def sentence_a_line(rows: list[str]) -> str:
    """What stands between a word and its tag where a row is a sentence of them; "": it is none.

    "Ada|NNP|B-PER left|VBD|O" -> "|"      "Ada left<tab>B-PER O" -> " "
    """
    words = [row.split(" ") for row in rows]
    if all(len(row) == 1 for row in words):
        return ""
    if found := one_separator([word for row in words for word in row if word], "|/_"):
        return found[0]
    # As many words between spaces in each field.
    widths = [{len(field.split(" ")) for field in row.split("\t")} for row in rows]
    as_many = all(len(width) == 1 and "\t" in row for width, row in zip(widths, rows, strict=True))
    return " " if as_many else ""

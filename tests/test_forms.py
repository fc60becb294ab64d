"""What a file is: each form is recognised by its beginning, and refused by who does not read it."""

import bz2
import gzip
import io
import json
import lzma
import re
import zipfile
from pathlib import Path

import pytest

from system import forms
from utils import UserError


def zipped(*names: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return content.getvalue()


TEXT = b"A sentence.\nAnother one.\n"
ROW = {"text": "a", "label": ["x"]}
CONTENTS = {
    "gzip": gzip.compress(TEXT),
    "bzip2": bz2.compress(TEXT),
    "xz": lzma.compress(TEXT),
    "zstd": b"\x28\xb5\x2f\xfd\x00\x58",
    "zip": zipped("a.txt"),
    "excel": zipped("[Content_Types].xml", "xl/workbook.xml"),
    "parquet": b"PAR1\x15\x04",
    "arrow": b"ARROW1\0\0",
    "pdf": b"%PDF-1.7\n",
    "sqlite": b"SQLite format 3\0",
    "utf-16": "text\tlabel\n".encode("utf-16"),
    "json lines": (json.dumps(ROW) + "\n").encode() * 2,
    "json object": json.dumps({"data": [ROW]}, indent=1).encode(),
    "json array": json.dumps([ROW, ROW]).encode(),
    "wiki": b'\n<doc id="1" url="u" title="T">\nT\n\nText.\n</doc>\n',
    "cr": b"A sentence.\rAnother one.\r",
    "html": b"<!DOCTYPE html>\n<html></html>",
    "xml": b"\xef\xbb\xbf<?xml version='1.0'?>\n<a/>",
}


@pytest.mark.parametrize("form", forms.FORMS)
def test_a_form_is_recognised_by_its_beginning(tmp_path: Path, form: str) -> None:
    file = tmp_path / "a file.txt"
    file.write_bytes(CONTENTS[form])
    assert forms.recognise(file) == form
    for reader, expected in forms.EXPECTED.items():
        read = form in forms.READERS.get(reader, {}) and forms.READERS[reader][form] is None
        if read:
            forms.check(file, reader)
            continue
        with pytest.raises(UserError) as caught:
            forms.check(file, reader)
        message = str(caught.value)
        assert message.startswith(f"{file} is {forms.FORMS[form].words}; expected {expected}; ")
        assert "\n" not in message
        # A command in the message can be pasted.
        assert not re.search(rf"(?<!'){re.escape(str(file))}", message[len(str(file)) :])


@pytest.mark.parametrize(
    "content",
    [
        TEXT,
        b"",
        b"[1] A footnote.\n[2] Another.\n",
        b"[ O\nAda B-PER\n] O\n",
        b"[\tO\n",
        b"{{Infobox}} of a page\n",
        b"{curly} and so on\n",
        b'["quoted] text\n',
        b"<unk> is a token\n",
        b"PKZIP is a program\n",
        b"text,label\n{},x\n",
    ],
)
def test_a_text_is_a_text_whatever_it_begins_with(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    assert forms.recognise(tmp_path / "x") == forms.TEXT


def test_json_that_is_longer_than_what_is_looked_at_is_json(tmp_path: Path) -> None:
    long = {
        "data": [{"text": "x" * 50, "n": i, "deep": {"a": [1, 2.5, None]}} for i in range(3000)]
    }
    for value, form in ((long, "json object"), (long["data"], "json array")):
        for indent in (None, 1):
            (tmp_path / "x").write_text(json.dumps(value, indent=indent))
            assert forms.recognise(tmp_path / "x") == form
    (tmp_path / "x").write_text((json.dumps(long) + "\n") * 2)
    # The second line is not seen; who reads lines reads an object too.
    assert forms.recognise(tmp_path / "x") == "json object"


def test_what_is_no_file_is_read_as_it_comes(tmp_path: Path) -> None:
    assert forms.recognise("-") == forms.recognise(tmp_path) == forms.TEXT

"""A text file line by line: in UTF-8, UTF-16 or another encoding, from gzip or zstd, or a pipe.

name, lines = texts.open_lines("reviews.csv.gz", newline="")
for line in lines: print(line, end="")
"""

import codecs
import contextlib
import gzip
import io
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from system.files import check_file
from utils import UserError, show

LONGEST = 2**26  # characters of a line, or a field; what has no end must not fill the memory
GZIP = b"\x1f\x8b"  # the first bytes of what it compressed
ZSTD = b"\x28\xb5\x2f\xfd"
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def open_lines(
    file: str | Path, newline: str = "\n", encoding: str | None = None
) -> tuple[str, Iterator[str]]:
    """The name of a file for messages, and its lines with their ends, without a byte order mark.

    Args:
        file: `-`: standard input.
        newline: as open() has it: "" ends lines at "\\r" too.
        encoding: of a file without a byte order mark; None: UTF-8.
    """
    if str(file) == "-":
        # A daemon or a notebook may have no standard input at all.
        if sys.stdin is None or sys.stdin.closed:
            raise UserError("standard input is closed; name a file instead of -")
        # utf-8-sig drops a byte order mark, which Windows programs write.
        stream = io.TextIOWrapper(sys.stdin.buffer, encoding or "utf-8-sig", newline=newline)
        return "standard input", lines_of(stream, None, encoding)
    check_file(file, "a table or a text")
    stream = io.TextIOWrapper(open_binary(file), encoding_of(file, encoding), newline=newline)
    return str(file), lines_of(stream, file, encoding)


def open_binary(file: str | Path) -> BinaryIO:
    """A file's bytes, unpacked if gzip or zstd has compressed it."""
    # A pipe cannot be looked into and read again.
    if not Path(file).is_file():
        return open(file, "rb")
    with open(file, "rb") as f:
        start = f.read(4)
    if start == ZSTD:
        return open_zstd(file)
    compressed = start.startswith(GZIP)
    return gzip.open(file, "rb") if compressed else open(file, "rb")  # type: ignore[return-value]


def open_zstd(file: str | Path) -> BinaryIO:
    """The bytes of a file that zstd has compressed."""
    try:
        import zstandard
    except ImportError:
        raise UserError(
            f"{file} is compressed by zstd, which the package zstandard reads; pip install "
            "zstandard, or unpack it first"
        ) from None

    def blocks() -> Generator[bytes]:
        # Long windows too, which large dumps are packed with.
        unpack = zstandard.ZstdDecompressor(max_window_size=2**31)
        with open(file, "rb") as f:
            frame, inside, packed = unpack.decompressobj(), False, f.read(2**17)
            while packed:
                yield frame.decompress(packed)
                inside, packed = not frame.eof, frame.unused_data
                # Parallel compressors write several frames.
                if not inside:
                    frame = unpack.decompressobj()
                packed = packed or f.read(2**17)
        if inside:
            raise EOFError("it ends within a frame")

    class Reader(io.RawIOBase):
        """What is in it; a damaged file is an error as it is of gzip."""

        def __init__(self) -> None:
            self.blocks, self.left = blocks(), memoryview(b"")

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            try:
                while not self.left and (block := next(self.blocks, None)) is not None:
                    self.left = memoryview(block)
            except zstandard.ZstdError as error:
                raise gzip.BadGzipFile(str(error)) from None
            n = min(len(buffer), len(self.left))
            buffer[:n], self.left = self.left[:n], self.left[n:]
            return n

        def close(self) -> None:
            self.blocks.close()
            super().close()

    return io.BufferedReader(Reader())  # type: ignore[return-value]


def head_of(file: str | Path, n: int, encoding: str | None = None) -> tuple[str, bool]:
    """The text that a file begins with, of n bytes, and whether that is all of it."""
    with open_binary(file) as f:
        try:
            head = f.read(n)
            whole = len(head) < n or not f.read(1)
        except (OSError, EOFError):  # gzip's; whoever reads it next says more
            head, whole = b"", False
    return head.decode(encoding_of(file, encoding), "replace"), whole


def encoding_of(file: str | Path, encoding: str | None = None) -> str:
    """What a file is read as: what its byte order mark says, then `encoding`, then UTF-8."""
    if Path(file).is_file():
        with open_binary(file) as f:
            try:
                start = f.read(4)
            except (OSError, EOFError):
                start = b""
        if start.startswith(UTF_16) and not start.startswith(codecs.BOM_UTF32_LE):
            return "utf-16"
        if start.startswith(codecs.BOM_UTF8):
            return "utf-8-sig"
    return encoding or "utf-8-sig"


def check_encoding(encoding: str | None) -> None:
    """UserError where Python knows no text encoding of that name."""
    try:
        # Some that it knows turn bytes into bytes.
        known = encoding is None or codecs.lookup(encoding)._is_text_encoding
    except LookupError:
        known = False
    if not known:
        raise UserError(
            f"`encoding={show(encoding)}`: expected one that Python knows, such as cp1252"
        )


def lines_of(stream: TextIO, file: str | Path | None, encoding: str | None) -> Iterator[str]:
    """The lines of a stream; UserError where they are not of its encoding."""
    n, name = 0, file or "standard input"
    try:
        with stream:
            while line := stream.readline(LONGEST):
                n += 1
                if len(line) == LONGEST:
                    raise UserError(
                        f"{name}, line {n}: more than {LONGEST:,} characters; expected shorter "
                        "lines"
                    )
                yield line
    except UnicodeDecodeError:
        # A file can be read again, which finds the line of the bad byte; a pipe cannot.
        where = f"after line {n}"
        if file is not None and Path(file).is_file():
            where = f"line {first_bad_line(file, stream.encoding)}"
        words = "UTF-8" if encoding is None else encoding
        raise UserError(
            f"{name}, {where}: not {words} text; name its encoding, such as `encoding=cp1252`, or "
            "convert it to UTF-8"
        ) from None
    except (EOFError, gzip.BadGzipFile, OSError) as error:
        if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
            raise
        raise damaged(name, error) from None


def damaged(name: str | Path, error: Exception) -> UserError:
    """That a file cannot be unpacked."""
    return UserError(f"{name}: damaged ({error}); compress or copy it again")


def first_bad_line(file: str | Path, encoding: str) -> int:
    """The first line whose bytes are no text of an encoding."""
    decoder, number = codecs.getincrementaldecoder(encoding)(), 0
    with open_binary(file) as f, contextlib.suppress(UnicodeDecodeError):
        try:
            for line in f:
                number += 1
                decoder.decode(line)
        except (EOFError, gzip.BadGzipFile) as error:
            raise damaged(file, error) from None
    return number

"""Vectors of texts as files of arrays: npz and safetensors, written as the texts come.

with open("vectors.npz", "wb") as f:
    write_arrays(f, "npz", (vectors_of(text) for text in texts), (4, 768))
"""

import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from system.files import check_file
from utils import UserError


def write_arrays(
    f: BinaryIO, format: str, texts: Iterable[np.ndarray], shape: tuple[int, int]
) -> None:
    """`values` and `starts` as npz or safetensors.

    The values go through a file, so that memory does not grow.
    """
    # Where each text starts among the rows of `values`, and the end.
    ends = [0]
    with tempfile.TemporaryFile() as values:
        for text in texts:
            part = np.ascontiguousarray(text.reshape(-1, *shape), np.float32)
            values.write(part.data)
            ends.append(ends[-1] + len(part))
        starts, size = np.array(ends, np.int64), values.tell()
        # The number of rows, which the header states, is known only now.
        values.seek(0)
        write = write_npz if format == "npz" else write_safetensors
        write(f, starts, values, size, (ends[-1], *shape))


def write_npz(
    f: BinaryIO, starts: np.ndarray, values: BinaryIO, size: int, shape: tuple[int, ...]
) -> None:
    """`starts`, and float32 `values` that are copied from a file."""
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    with zipfile.ZipFile(f, "w") as archive:
        with archive.open("starts.npy", "w") as member:
            np.lib.format.write_array(member, starts)
        # zip64 from the start: the size is unknown, and may be more than 4 GB.
        with archive.open("values.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            shutil.copyfileobj(values, member)


def write_safetensors(
    f: BinaryIO, starts: np.ndarray, values: BinaryIO, size: int, shape: tuple[int, ...]
) -> None:
    """`starts`, and float32 `values` of `size` bytes that are copied from a file."""
    middle = starts.nbytes
    # Offsets count from the end of the header.
    about = {
        "starts": {"dtype": "I64", "shape": [len(starts)], "data_offsets": [0, middle]},
        "values": {"dtype": "F32", "shape": shape, "data_offsets": [middle, middle + size]},
    }
    header = json.dumps(about).encode()
    # The data begin at a multiple of eight bytes.
    header += b" " * (-len(header) % 8)
    f.write(len(header).to_bytes(8, "little") + header + starts.tobytes())
    shutil.copyfileobj(values, f)


def write_npy(
    f: BinaryIO, parts: Iterable[np.ndarray], shape: tuple[int, int], about: dict[str, str]
) -> None:
    """A .npy of float32 rows, which come part by part, and behind it a line of JSON about them."""
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(f, header)
    for part in parts:
        f.write(np.ascontiguousarray(part, np.float32).data)
    f.write(f"{json.dumps(about)}\n".encode())


def read_npy(file: Path) -> tuple[np.ndarray, dict[str, str]]:
    """The rows of write_npy(), mapped from the disk, and what is said of them.

    What is written into them stays in memory."""
    check_file(file, "a .npy of vectors")
    try:
        vectors = np.load(file, mmap_mode="c", allow_pickle=False)
        about: Any = {}
        if isinstance(vectors, np.memmap):
            with open(file, "rb") as f:
                f.seek(vectors.offset + vectors.nbytes)
                about = json.loads(f.read() or "{}")
        if not isinstance(vectors, np.ndarray):
            raise ValueError("several arrays")
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{file} is no .npy of vectors ({error}); make it again") from None
    if vectors.ndim != 2 or vectors.dtype != np.float32 or not isinstance(about, dict):
        raise UserError(f"{file}: {vectors.dtype} of shape {vectors.shape}; expected float32 rows")
    return vectors, about

"""Packages that not everybody has, loaded where they are needed.

with needs("openpyxl", "book.xlsx", "save it as csv"):
    import openpyxl
"""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from utils import UserError


@contextlib.contextmanager
def needs(package: str, file: str | Path, otherwise: str) -> Iterator[None]:
    """UserError where an import of an optional package fails."""
    try:
        yield
    except ImportError:
        raise UserError(f"{file} needs {package} (pip install {package}); or {otherwise}") from None


def tensorflow() -> Any:
    """TensorFlow, imported; ImportError where it is missing.

    Triton, which PyTorch needs on a GPU, comes first: a process in which TensorFlow has loaded its
    compiler before Triton's ends with a segmentation fault when PyTorch imports that.
    """
    # Where a notebook has loaded TensorFlow itself it is too late for that.
    if "tensorflow" not in sys.modules:
        with contextlib.suppress(ImportError):
            import triton  # noqa: F401
    import tensorflow as found

    return found

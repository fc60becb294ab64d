"""A made text, and texts as prepared corpora."""

from pathlib import Path

from pretraining.shards import Corpus
from pretraining.text import prepare_text

TEXT = "\n".join(
    f"the red lamp number {i} .{' it was sold .' * (i % 3)}{chr(10) * (i % 7 == 0)}"
    for i in range(300)
)


def make(
    folder: Path, vocab: Path, *texts: str | bytes, name: str = "ids", **settings: object
) -> Corpus:
    """Write texts as files and prepare them."""
    files = []
    for i, text in enumerate(texts):
        files.append(folder / f"text{i}.txt")
        files[-1].write_bytes(text if isinstance(text, bytes) else text.encode())
    prepare_text(files, vocab, folder / name, **settings)
    return Corpus(folder / name)

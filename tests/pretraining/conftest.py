"""What the tests of pre-training data share."""

from pathlib import Path

import pytest


@pytest.fixture
def vocab(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample's vocabulary, with digits."""
    file = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    file.write_text(
        (sample / "vocab.txt").read_text() + "".join(f"{i}\n##{i}\n" for i in range(10))
    )
    return file

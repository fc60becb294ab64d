"""Damaged files are read or refused in a line: a few of the mutations that tests/fuzz.py makes
thousands of.
"""

from pathlib import Path

import fuzz
import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", fuzz.READERS)
def test_damaged_files_are_read_or_refused_in_a_line(name: str, tmp_path: Path) -> None:
    n = 30
    if name in fuzz.NEED_TENSORFLOW:
        pytest.importorskip("tensorflow")
        n = 8
    result = fuzz.fuzz(name, range(n), tmp_path)
    assert result.failures() == []
    assert result.files == n
    assert result.refusals


def test_a_run_follows_from_its_number_alone(tmp_path: Path) -> None:
    found = []
    for first in (40, 49):
        folder = tmp_path / str(first)
        fuzz.fuzz("configurations", range(first, 50), folder)
        files = (folder / "work").iterdir()
        found.append({file.name: file.read_bytes() for file in files if file.is_file()})
    assert found[0] == found[1]


def test_what_is_no_refusal_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(file: Path) -> None:
        if file.name == "ours.json":
            raise OSError("names no file")
        if file.name == "google.json":
            while True:
                pass
        raise OSError(2, "no such file", str(file))

    reader = fuzz.Reader(1, fuzz.seeds.configurations, read, fuzz.CONFIGURATIONS)
    monkeypatch.setitem(fuzz.READERS, "broken", reader)
    monkeypatch.setattr(fuzz, "SECONDS", 0.1)
    result = fuzz.fuzz("broken", range(12), tmp_path)
    assert [line.split(",")[0].split(" at ")[0] for line in result.failures()] == [
        "Hang",
        "OSError",
    ]
    assert result.successes == 0
    assert result.refusals == 12 - sum(
        map(len, [*result.tracebacks.values(), *result.hangs.values()])
    )

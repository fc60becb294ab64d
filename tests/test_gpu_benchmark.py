"""The benchmark of a GPU, with tiny models: every part gives rows, whatever happens to them."""

import importlib
import json
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    # Last, since benchmarks has modules of the same names as the project's.
    monkeypatch.setattr(sys, "path", [*sys.path, str(BENCHMARKS)])
    return importlib.import_module("gpu")


def test_every_part_gives_rows_and_the_table_has_all_of_them(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(name: str, title: str, table: str) -> None:
        (tmp_path / f"{name}.md").write_text(table)

    monkeypatch.setattr(gpu, "report", write)
    gpu.run(out=str(tmp_path / "rows.jsonl"), tiny=True)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    for row in rows:
        assert row.keys() == {"part", "name", "value", "unit", "more"}
        assert row["unit"] != "error", row
    measured = {row["part"] for row in rows if row["unit"] != "skipped"}
    assert sorted(measured) == list(gpu.PARTS)
    assert len({(row["part"], row["name"]) for row in rows}) == len(rows)
    (table,) = tmp_path.glob("gpu_*.md")
    assert len(table.read_text().splitlines()) == 2 + len(rows)


def test_what_fails_and_what_has_no_time_left_is_a_row(gpu: ModuleType, tmp_path: Path) -> None:
    def fail(bench: object, way: str) -> None:
        raise RuntimeError("out of\nmemory")

    def hang(bench: object, way: str) -> None:
        time.sleep(60)

    with open(tmp_path / "rows.jsonl", "w") as file:
        bench = gpu.Bench(torch.device("cpu"), True, file, "1 card", time.monotonic() + 60)
        bench.measure("fails", "", fail)
        bench.end = time.monotonic() + 0.1
        bench.measure("hangs", "sdpa", hang, needs=0)
        bench.measure("is late", "", hang)
        # flushed already
        lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    found = {row["name"]: (row["unit"], row["more"]) for row in map(json.loads, lines)}
    assert found["fails"] == ("error", "RuntimeError: out of memory")
    assert found["hangs, sdpa"][0] == "error"
    assert found["hangs, sdpa"][1].startswith("TimeoutError: stopped after 0 s")
    assert found["is late"] == ("skipped", "needs 5 s, 0 are left")

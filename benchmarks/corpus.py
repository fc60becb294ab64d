"""Preparing text and making batches: how fast, and in how much memory, for a corpus and one twenty
times as large.

    $ BERT_DATA=... python benchmarks/corpus.py

The larger corpus is corpus/wikipedia.txt twenty times over. Memory is the most that one process
held (VmHWM); of training, what a process that only makes batches holds after having made many
(VmRSS), less what it held before it opened the corpus.
"""

import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import ROOT, as_command, data, report

from pretraining.batches import PairBatches
from pretraining.pairs import PairConfig, Pairs
from pretraining.shards import Corpus
from system.cli import command


def held(pid: int | str, what: str) -> float:
    """MB that a process holds (VmRSS) or held at most (VmHWM); 0 once it has ended."""
    try:
        found = re.search(rf"{what}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0.0
    return int(found[1]) / 1000 if found else 0.0


def prepare(text: Path, out: str, split: bool, watch: bool) -> float:
    """Seconds of corpus.py prepare with 2 workers, or, watching, which takes time, the MB of its
    largest process.
    """
    arguments = [
        sys.executable,
        str(ROOT / "corpus.py"),
        "prepare",
        str(text),
        "--vocab",
        str(data("vocab/bert-base-uncased/vocab.txt")),
        "--out",
        out,
        "--workers",
        "2",
        "--split_sentences",
        str(split),
    ]
    start, most = time.perf_counter(), 0.0
    process = subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    while watch and process.poll() is None:
        pids = subprocess.run(
            ["pgrep", "-s", str(process.pid)], capture_output=True, text=True
        ).stdout.split()
        most = max([most, *(held(pid, "VmHWM") for pid in pids)])
        time.sleep(0.05)
    assert process.wait() == 0
    return most if watch else time.perf_counter() - start


def make_batches(folder: str, max_len: int, n: int = 400) -> tuple[float, float]:
    """Tokens a second of batches as tensors, and the MB by which this process has grown."""
    before = held("self", "VmRSS")
    pairs = Pairs(Corpus(folder), PairConfig(max_len=max_len))
    batches = PairBatches(pairs, 256 if max_len == 128 else 64, seed=1)
    len(batches), batches[0]
    rates = []
    for part in range(5):
        start, tokens = time.perf_counter(), 0
        for i in range(part * n // 5, (part + 1) * n // 5):
            tokens += int(batches[i].input_mask.sum())
        rates.append(tokens / (time.perf_counter() - start))
    return statistics.median(rates), held("self", "VmRSS") - before


def share(folder: str, processes: int, size: int = 4096, n: int = 30) -> float:
    """Tokens a second of large batches of which this process builds the rows of one of so many."""
    pairs = Pairs(Corpus(folder), PairConfig(max_len=128))
    batches = PairBatches(pairs, size, seed=1)
    tokens = [int(pairs.lengths(batches.plan(i)).sum()) for i in range(n)]
    batches = PairBatches(pairs, size, seed=1)
    len(batches), batches.shard(0, 0, processes)
    rates = []
    for i in range(n):  # some of them plan a group of blocks
        start = time.perf_counter()
        batches.shard(i, 0, processes)
        rates.append(time.perf_counter() - start)
    return sum(tokens) / sum(rates)


def run() -> None:
    """Measure."""
    import torch

    torch.zeros(1)
    text = data("corpus/wikipedia.txt")
    size = text.stat().st_size / 1e6
    with tempfile.TemporaryDirectory() as folder:
        large = Path(folder) / "large.txt"
        large.write_bytes((text.read_bytes() + b"\n\n") * 20)
        rows = [
            "| preparing, 2 workers | MB/s, the whole command | largest process, MB |",
            "|---|---|---|",
        ]
        for name, file, factor, split in (
            ("wikipedia.txt", text, 1, False),
            ("wikipedia.txt, split", text, 1, True),
            ("20 times", large, 20, False),
            ("20 times, split", large, 20, True),
        ):
            taken = [
                prepare(file, f"{folder}/{name}{i}", split, False)
                for i in range(9 if factor == 1 else 3)
            ]
            most = prepare(file, f"{folder}/{name} watched", split, True)
            rows.append(f"| {name} | {size * factor / statistics.median(taken):.1f} | {most:.0f} |")
        rows += [
            "",
            "| making batches, one process | max_len | million tokens/s | MB more |",
            "|---|---|---|---|",
        ]
        for name in ("wikipedia.txt, split", "20 times, split"):
            for max_len in (128, 512):
                rate, more = make_batches(f"{folder}/{name}0", max_len)
                rows.append(f"| {name} | {max_len} | {rate / 1e6:.1f} | {more:.0f} |")
        rows += [
            "",
            "| batches of 4,096 at 128, a process's share | million tokens/s of the whole batch |",
            "|---|---|",
        ]
        rows += [
            f"| 1 of {n} | {share(f'{folder}/20 times, split0', n) / 1e6:.0f} |"
            for n in (1, 8, 64, 512)
        ]
        start = time.perf_counter()
        found = Pairs(Corpus(f"{folder}/20 times, split0"), PairConfig(max_len=128))
        opened = time.perf_counter()
        n = int(found.counts(0).sum())
        rows += [
            "",
            f"Opening and checking the larger one: {opened - start:.2f} s; counting its {n} "
            f"instances of an epoch: {time.perf_counter() - opened:.2f} s.",
        ]
    report("corpus", "Preparing text and making batches", "\n".join(rows))


if __name__ == "__main__":
    command(as_command(run))

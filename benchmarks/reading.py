"""Reading, tokenising and batching many rows: MRPC's, repeated to 400,000.

$ BERT_DATA=... python benchmarks/reading.py [--rows 400000]
$ BERT_DATA=... python benchmarks/reading.py --csv_mb 1024  # a csv, beside a bare csv.reader loop
"""

import csv
import resource
import statistics
import tempfile
from itertools import cycle, islice
from pathlib import Path

from common import as_command, data, report, seconds

from system.cli import command
from tasks.encoding import Batches
from tasks.rows import open_rows, read_examples
from tasks.sentences import TASKS
from tokenization import FullTokenizer


def memory() -> float:
    """The most memory this process has had, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def read_csv(megabytes: int, folder: Path) -> list[str]:
    """Rows of the table: a csv of IMDB reviews, read to be predicted, and by a bare loop."""
    file = folder / "reviews.csv"
    with open(data("csv/imdb_train.csv"), newline="", encoding="utf-8") as f:
        texts = [text for text, _ in csv.reader(f)]
    with open(file, "w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f)
        writer.writerow(["id", "text"])
        for number, text in enumerate(cycle(texts)):
            if f.tell() >= megabytes << 20:
                break
            writer.writerow([number, text])

    def bare() -> None:
        with open(file, newline="", encoding="utf-8") as f:
            for _ in csv.reader(f):
                pass

    def ours() -> None:
        for _ in open_rows(TASKS["csv"], file, labelled=False)[1]:
            pass

    before, taken = memory(), {bare: list[float](), ours: list[float]()}
    for _ in range(3):
        for side, times in taken.items():
            times.append(seconds(side))
    loop, rows = (statistics.median(times) for times in taken.values())
    more = memory() - before
    return [
        "| file | bare loop, s | open_rows, s | times the loop | more memory, GB |",
        "|---|---|---|---|---|",
        f"| {megabytes} MB | {loop:.2f} | {rows:.2f} | {rows / loop:.2f} | {more:.2f} |",
    ]


def run(rows: int = 400_000, csv_mb: int | None = None) -> None:
    """Measure.

    Args:
        rows: of the file.
        csv_mb: measure a csv of so many MB instead.
    """
    if csv_mb:
        with tempfile.TemporaryDirectory() as folder:
            table = read_csv(csv_mb, Path(folder))
        report("reading_csv", "Reading a csv to predict it, one core", "\n".join(table))
        return
    task, tokenizer = TASKS["mrpc"], FullTokenizer(data("vocab/bert-base-uncased/vocab.txt"))
    with tempfile.TemporaryDirectory() as folder:
        file, before = Path(folder) / "train.tsv", memory()
        header, *lines = data("glue/MRPC/train.tsv").read_text("utf-8-sig").strip("\n").split("\n")
        with open(file, "w") as f:
            f.writelines(f"{line}\n" for line in (header, *islice(cycle(lines), rows)))
        size, found = file.stat().st_size / 2**30, {}
        table = [
            "| step | seconds | most memory so far, GB |",
            "|---|---|---|",
            f"| before | | {before:.2f} |",
        ]

        def step(name: str, function) -> None:
            taken = seconds(lambda: found.update({name: function()}))
            table.append(f"| {name} | {taken:.1f} | {memory():.2f} |")

        step(f"read {rows} rows, {size:.2f} GB", lambda: read_examples(task, file))
        rows_read = found.pop(next(iter(found)))
        step("tokenise", lambda: task.encode_examples(file, rows_read, tokenizer))
        batches = Batches(found["tokenise"].features, 32, seed=42)
        step(
            f"an epoch of {len(batches)} batches",
            lambda: [batches[n] is None for n in range(len(batches))],
        )
    report("reading", f"Reading and batching {rows} rows, one core", "\n".join(table))


if __name__ == "__main__":
    command(as_command(run))

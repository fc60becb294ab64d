"""Reading, tokenising and batching many rows: MRPC's, repeated to 400,000.

$ BERT_DATA=... python benchmarks/reading.py [--rows 400000]
"""

import resource
import tempfile
from itertools import cycle, islice
from pathlib import Path

from common import as_command, data, report, seconds

from system.cli import command
from tasks.encoding import Batches
from tasks.rows import read_examples
from tasks.sentences import TASKS
from tokenization import FullTokenizer


def memory() -> float:
    """The most memory this process has had, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def run(rows: int = 400_000) -> None:
    """Measure.

    Args:
        rows: of the file.
    """
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

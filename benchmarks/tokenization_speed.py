"""Tokenization speed against `tokenizers` on one thread, the same text in the same run.

$ BERT_DATA=... python benchmarks/tokenization_speed.py
"""

import os
import statistics
from collections.abc import Callable

os.environ["RAYON_NUM_THREADS"] = "1"

from common import as_command, data, report, seconds
from tokenizers import BertWordPieceTokenizer

from system.cli import command
from tokenization import FullTokenizer


def run(repeats: int = 5) -> None:
    """Tokenise corpus/wikipedia.txt line by line, from cold (a new tokenizer) and warm (the same
    one again).

    Args:
        repeats: medians of this many.
    """
    vocab = data("vocab/bert-base-uncased/vocab.txt")
    lines = data("corpus/wikipedia.txt").read_text(encoding="utf-8").split("\n")
    size = sum(len(line.encode()) + 1 for line in lines) / 1e6
    theirs = BertWordPieceTokenizer(str(vocab), lowercase=True)
    tokenizer = FullTokenizer(vocab)
    different = sum(
        tokenizer.encode(line) != theirs.encode(line, add_special_tokens=False).ids
        for line in lines
    )

    def each(encode) -> Callable[[], None]:
        def all_lines() -> None:
            for line in lines:
                encode(line)

        return all_lines

    def batch() -> None:
        for i in range(0, len(lines), 1000):
            theirs._tokenizer.encode_batch_fast(lines[i : i + 1000], add_special_tokens=False)

    rates: dict[str, list[float]] = {}
    for _ in range(repeats):  # in turn, so that all share the machine's moods
        tokenizer = FullTokenizer(vocab)
        for name, work in (
            ("ours, cold", each(tokenizer.encode)),
            ("ours, warm", each(tokenizer.encode)),
            ("ours with offsets, these cold", each(tokenizer.encode_with_offsets)),
            ("ours with offsets, warm", each(tokenizer.encode_with_offsets)),
            (
                "tokenizers, encode",
                each(lambda line: theirs.encode(line, add_special_tokens=False).ids),
            ),
            ("tokenizers, encode_batch_fast, 1000 lines a call", batch),
        ):
            rates.setdefault(name, []).append(size / seconds(work))
    median = {name: statistics.median(values) for name, values in rates.items()}
    table = ["| side | MB/s | times encode | times encode_batch_fast |", "|---|---|---|---|"]
    peers = [median[name] for name in median if name.startswith("tokenizers")]
    table += [
        f"| {name} | {value:.1f} | {value / peers[0]:.1f} | {value / peers[1]:.1f} |"
        for name, value in median.items()
    ]
    table.append(f"\n{len(lines)} lines, {size:.1f} MB; {different} lines tokenised differently")
    report("tokenization", "Tokenization speed, one thread, corpus/wikipedia.txt", "\n".join(table))


if __name__ == "__main__":
    command(as_command(run))

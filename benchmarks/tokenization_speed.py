"""Tokenization speed against `tokenizers` on one thread, the same text in the same run.

    $ BERT_DATA=... python benchmarks/tokenization_speed.py
"""
import os
import statistics

os.environ["RAYON_NUM_THREADS"] = "1"

from common import data, report, seconds
from tokenizers import BertWordPieceTokenizer

from tokenization import FullTokenizer
from utils import command


def run(repeats: int = 5) -> None:
    """Tokenise corpus/wikipedia.txt line by line, from cold (a new tokenizer) and warm (the same one again).

    Args:
        repeats: medians of this many.
    """
    vocab = data("vocab/bert-base-uncased/vocab.txt")
    lines = data("corpus/wikipedia.txt").read_text(encoding="utf-8").split("\n")
    size = sum(len(line.encode()) + 1 for line in lines) / 1e6
    theirs = BertWordPieceTokenizer(str(vocab), lowercase=True)
    tokenizer = FullTokenizer(vocab)
    different = sum(tokenizer.encode(line) != theirs.encode(line, add_special_tokens=False).ids for line in lines)

    def tokenize(encode) -> float:
        def all_lines() -> None:
            for line in lines:
                encode(line)
        return size / seconds(all_lines)

    rates: dict[str, list[float]] = {}
    for _ in range(repeats):                                    # in turn, so that all share the machine's moods
        tokenizer = FullTokenizer(vocab)
        for name, encode in (("ours, cold", tokenizer.encode), ("ours, warm", tokenizer.encode),
                             ("ours with offsets, warm but for them", tokenizer.encode_with_offsets),
                             ("ours with offsets, warm", tokenizer.encode_with_offsets),
                             ("tokenizers", lambda line: theirs.encode(line, add_special_tokens=False).ids)):
            rates.setdefault(name, []).append(tokenize(encode))
    peer = statistics.median(rates["tokenizers"])
    table = ["| side | MB/s | times tokenizers |", "|---|---|---|"]
    table += [f"| {name} | {statistics.median(values):.1f} | {statistics.median(values) / peer:.1f} |"
              for name, values in rates.items()]
    table.append(f"\n{len(lines)} lines, {size:.1f} MB; {different} lines tokenised differently")
    report("tokenization", "Tokenization speed, one thread, corpus/wikipedia.txt", "\n".join(table))


if __name__ == "__main__":
    command(run)

"""Vectors of texts against a plain loop of transformers at batch 32; what they are worth: STS-B,
few shots on SST-2.

    $ BERT_DATA=... python benchmarks/vectors_speed.py [--lines 2000] [--repeats 3]

minilm, float32, the last four layers of every token, into an npz; lines are sentences of QNLI dev.
"""

import contextlib
import io
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import as_command, data, report, seconds

import features
from encoder import load as load_encoder
from system.cli import command
from tasks import fewshot
from tasks.metrics import spearman
from tasks.rows import read_examples
from tasks.sentences import TASKS


def plain(model, tokenizer, lines: list[str], out: Path) -> None:
    """A loop over lines as they come, padded to the longest of each batch."""
    values, starts = [], [0]
    with torch.inference_mode():
        for i in range(0, len(lines), 32):
            batch = tokenizer(
                lines[i : i + 32],
                padding=True,
                truncation=True,
                max_length=128,
                return_tensors="pt",
            )
            hidden = torch.stack(model(**batch, output_hidden_states=True).hidden_states[-4:], 2)
            for row, mask in zip(hidden, batch["attention_mask"].bool(), strict=True):
                values.append(row[mask].numpy())
                starts.append(starts[-1] + len(values[-1]))
    np.savez(out, values=np.concatenate(values), starts=np.array(starts))


def run(lines: int = 2000, repeats: int = 3) -> None:
    """Measure.

    Args:
        lines: of text.
        repeats: of each side, in turn; the median counts.
    """
    from transformers import AutoTokenizer, BertModel

    texts = [e.text_b for e in read_examples(TASKS["qnli"], data("glue/QNLI/dev.tsv"))][:lines]
    model, tokenizer = (
        BertModel.from_pretrained(data("minilm")).eval(),
        AutoTokenizer.from_pretrained(data("minilm")),
    )
    times: dict[str, list[float]] = {"ours": [], "transformers": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "lines.txt").write_text("\n".join(texts) + "\n")

        def ours() -> None:
            with contextlib.redirect_stdout(io.StringIO()):
                features.Extract(
                    str(data("minilm")),
                    f"{folder}/lines.txt",
                    f"{folder}/ours.npz",
                    "-4,-3,-2,-1",
                    format="npz",
                ).run()

        for _ in range(repeats):
            times["ours"].append(seconds(ours))
            times["transformers"].append(
                seconds(lambda: plain(model, tokenizer, texts, folder / "theirs.npz"))
            )
        a, b = np.load(folder / "ours.npz"), np.load(folder / "theirs.npz")
        assert a["starts"].tolist() == b["starts"].tolist()
        difference = np.abs(a["values"] - b["values"]).max()
    rate = {side: lines / statistics.median(values) for side, values in times.items()}
    table = [
        "| side | lines/s | times transformers |",
        "|---|---|---|",
        *(
            f"| {side} | {value:.1f} | {value / rate['transformers']:.2f} |"
            for side, value in rate.items()
        ),
        "",
        f"Largest difference of a value: {difference:.1e}. Ours loads the weights within the time.",
        "",
    ]
    encoder = load_encoder(data("minilm"), head="pooler")
    pairs = read_examples(TASKS["stsb"], data("glue/STS-B/dev.tsv"))
    halves = [
        np.stack(
            [t.values[0] for t in encoder.extract([getattr(e, text) for e in pairs], [-1], "mean")]
        )
        for text in ("text_a", "text_b")
    ]
    right = np.array([float(e.label) for e in pairs])
    found_rank = spearman(features.cosine(*halves), right)
    table.append(f"STS-B dev, cosine of mean vectors, untrained: Spearman {found_rank:.4f}.\n")
    judge = fewshot.FewShotEvaluator(
        TASKS["sst2"], str(data("glue/SST-2/train.tsv")), str(data("glue/SST-2/dev.tsv"))
    )
    found: list[fewshot.Shot] = []
    encoding = seconds(lambda: encoder.pool(judge.texts))
    taken = seconds(lambda: found.extend(judge(encoder.pool)))
    table += [
        "| k of each class, SST-2 | accuracy on dev | spread over 5 draws |",
        "|---|---|---|",
        *(f"| {shot.k} | {shot.mean:.4f} | {shot.spread:.4f} |" for shot in found),
        "",
        f"{len(judge.texts)} texts in {taken:.0f} s; the encoder alone takes {encoding:.0f} s.",
    ]
    report("vectors", "Vectors of texts, minilm, float32", "\n".join(table))


if __name__ == "__main__":
    command(as_command(run))

"""Predicting against transformers' pipeline at its best batch size, same weights, same texts, both
in one run in turn.

    $ BERT_DATA=... python benchmarks/predicting.py [--repeats 3]

872 sentences of SST-2 dev and 5,463 pairs of QNLI dev, minilm, float32, max_len 128. Ours is
`classify.py --mode predict` from the file to the lines with every label's probability, but for
loading the model; the pipeline gets the texts as a list in memory and returns the same
probabilities. How far the two differ stands in the last column.
"""

import contextlib
import io
import os
import statistics
import tempfile
from pathlib import Path

import numpy as np
from common import data, report, seconds

import checkpoint
import classify
import finetune
import train
from cli import command
from tasks.rows import read_examples
from tasks.sentences import get_task

BATCH_SIZES = (1, 8, 32)


def a_model(task: str, folder: Path) -> finetune.Saved:
    """A classifier of minilm's size and weights, hardly trained; and as a Hugging Face folder
    beside it.
    """
    split = "train" if task == "SST-2" else "dev"
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        kind = get_task(task)
        cfg = train.Config.from_json(kind.train_cfg, total_steps=2)
        file = data(f"glue/{task}/{split}.tsv")
        run = finetune.prepare(kind, file, data("minilm"), cfg=cfg)
        file = run.fit(folder / "ours").file
        checkpoint.convert(str(file), str(folder / "theirs"))
    return finetune.load(file)


def run(repeats: int = 3) -> None:
    """Measure.

    Args:
        repeats: of SST-2, whose median counts; QNLI, which takes minutes, is run once.
    """
    from transformers import AutoTokenizer, BertForSequenceClassification, pipeline

    table = [
        "| data | side | rows/s | times the best pipeline | largest difference of a probability |",
        "|---|---|---|---|---|",
    ]
    for task in ("SST-2", "QNLI"):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            saved, file = a_model(task, folder), str(data(f"glue/{task}/dev.tsv"))
            examples = read_examples(saved.task, file)
            texts = [
                e.text_a if e.text_b is None else {"text": e.text_a, "text_pair": e.text_b}
                for e in examples
            ]
            model = BertForSequenceClassification.from_pretrained(folder / "theirs").eval()
            tokenizer = AutoTokenizer.from_pretrained(folder / "theirs")
            pipe = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
            found: dict[str, np.ndarray] = {}

            def ours(saved=saved, file=file, found=found) -> None:
                lines = "".join(classify.prediction_lines(saved, file, True)).splitlines()[1:]
                found["ours"] = np.array(
                    [[float(x) for x in line.split("\t")[2:]] for line in lines]
                )

            def theirs(size: int, pipe=pipe, texts=texts, saved=saved, found=found) -> None:
                out = pipe(texts, batch_size=size, top_k=None, truncation=True, max_length=128)
                scores = [{item["label"]: item["score"] for item in row} for row in out]
                found["theirs"] = np.array(
                    [[row[label] for label in saved.task.labels] for row in scores]
                )

            times: dict[str, list[float]] = {}
            for _ in range(repeats if len(texts) < 2000 else 1):
                times.setdefault("ours", []).append(seconds(ours))
                for size in BATCH_SIZES:
                    times.setdefault(f"pipeline, batch {size}", []).append(
                        seconds(lambda size=size: theirs(size))
                    )
            rate = {side: len(texts) / statistics.median(values) for side, values in times.items()}
            best = max(value for side, value in rate.items() if side != "ours")
            difference = np.abs(found["ours"] - found["theirs"]).max()
            table += [
                f"| {task} dev, {len(texts)} | {side} | {value:.1f} | {value / best:.2f} | "
                f"{f'{difference:.1e}' if side == 'ours' else ''} |"
                for side, value in rate.items()
            ]
            print("\n".join(table[-1 - len(BATCH_SIZES) :]), flush=True)
    report("predicting_cpu", "Predicting, minilm, float32", "\n".join(table))


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    command(run)

"""A frozen encoder, encoded once (--boost) and in every epoch: time and accuracy, IMDB reviews,
minilm, 10 epochs.

$ BERT_DATA=... python benchmarks/boost.py [--rows 1000] [--max_len 64] [--dtype bf16]
"""

import contextlib
import dataclasses
import io
import tempfile
from pathlib import Path

from common import as_command, data, report, seconds

import finetune
import train
from system.cli import command
from tasks.sentences import TASKS


def run(rows: int = 1000, max_len: int = 64, dtype: str = "bf16", epochs: int = 10) -> None:
    """Measure.

    Args:
        rows: of the training data, and half as many to evaluate after every epoch.
        max_len: tokens of a review.
        dtype: fp32 or bf16.
        epochs: of training.
    """
    table = [
        "| side | seconds | times faster | accuracy, last epoch | loss |",
        "|---|---|---|---|---|",
    ]
    task = dataclasses.replace(TASKS["csv"], max_len=max_len)
    cfg = train.Config.from_json(
        task.train_cfg,
        lr=1e-2,
        n_epochs=epochs,
        dtype=dtype,
        save_steps=10**6,
        keep_checkpoints=1,
    )
    with tempfile.TemporaryDirectory() as name:
        folder, files = Path(name), []
        for split, n in (("train", rows), ("test", rows // 2)):
            lines = data(f"csv/imdb_{split}.csv").read_bytes().split(b"\r\n")
            files.append(folder / f"{split}.csv")
            files[-1].write_bytes(b"\r\n".join(lines[:n]) + b"\r\n")
        first = 0.0
        for side in (False, True):

            def fit(side=side, files=files, folder=folder) -> finetune.Result:
                tuning = finetune.FineTuneConfig(freeze_encoder=True, boost=side)
                run = finetune.prepare(task, files[0], data("minilm"), files[1:], cfg, tuning)
                return run.fit(folder / str(side))

            results = []
            with (
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(io.StringIO()),
            ):
                taken = seconds(lambda fit=fit, results=results: results.append(fit()))
            first = first or taken
            table.append(
                f"| {'boost' if side else 'frozen'} | {taken:.1f} | {first / taken:.1f} | "
                f"{results[0].last['Accuracy']:.4f} | {results[0].last['loss']:.4f} |"
            )
            print(table[-1], flush=True)
    report(
        "boost",
        f"A frozen encoder, {rows} reviews, {epochs} epochs, max_len {max_len}, {dtype}",
        "\n".join(table),
    )


if __name__ == "__main__":
    command(as_command(run))

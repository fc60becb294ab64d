"""Predicting on a CPU against transformers, onnxruntime and OpenVINO; how accurate int8 is.

    $ BERT_DATA=... python benchmarks/predicting.py [--models minilm,base] [--tasks SST-2,QNLI] \\
          [--batches 40] [--repeats 5]
    $ BERT_DATA=... python benchmarks/predicting.py --accuracy True [--train_rows 6000]

The first command measures dev sets, max_len 128, all sides in turn with the same weights and number
of threads. Of the model alone: every side takes the same padded batches of 32, sorted by length. Of
minilm also the whole way from a list of texts to probabilities, by finetune.Saved.predict and the
pipeline of transformers. minilm has its own weights and a classifier that is trained a little; base
is random, so that its answers mean nothing. The second command fine-tunes minilm and compares the
accuracy of int8 and fp32.

Peers have their best settings: SDPA, the fused graphs of onnxruntime, one stream of OpenVINO. int8
is quantize_dynamic of onnxruntime with signed weights, and for OpenVINO the post-training
quantization of NNCF, calibrated on some of the same batches. The rows of a peer that is missing are
left out; for all of them:

    $ pip install onnx onnxruntime openvino nncf
"""

import os
import shutil
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from common import as_command, data, report, seconds
from peers import Sides, export, installed, onnxruntime_sides, peers, pipeline_of, quiet

import checkpoint
import finetune
import train
from layers import kernels
from system.cli import command
from tasks.encoding import Batch, Batches
from tasks.sentences import SentenceTask, get_task
from training import inference

BATCH = 32
PIPELINE_BATCHES = (1, 8, 32)
RATE = 5e-5  # learning rate of minilm
TRAIN_STEPS = 60  # of a classifier whose speed is measured: enough for answers to differ
EPOCHS = {"SST-2": 2, "MRPC": 3}  # of the classifiers whose accuracy is measured
ACCURATE = ("ours fp32", "ours int8", "onnxruntime int8")  # whose accuracy that is


class Measured(NamedTuple):
    """What a side returned, and how long it took."""

    values: np.ndarray  # (N, labels), scores or probabilities
    seconds: float


# ---------------------------------------------------------------------------------------- weights


def fine_tuned(task: SentenceTask, file: Path, folder: Path, **settings: object) -> Path:
    """minilm trained on a task, as a Hugging Face folder, which every side can load."""
    cfg = train.Config.from_json(task.train_cfg, lr=RATE, **settings)
    with quiet():
        result = finetune.prepare(task, file, data("minilm"), cfg=cfg).fit(folder / "run")
        checkpoint.convert(str(result.file), str(folder / "weights"))
    return folder / "weights"


def make_weights(model: str, name: str, folder: Path) -> Path:
    """The weights whose speed is measured."""
    from transformers import BertConfig, BertForSequenceClassification

    if model == "base":
        torch.manual_seed(0)
        BertForSequenceClassification(BertConfig()).save_pretrained(folder / "weights")
        shutil.copy(data("vocab/bert-base-uncased/vocab.txt"), folder / "weights")
        return folder / "weights"
    # QNLI's training set is not among the benchmarks' data. How good answers are is not asked here.
    file = data(f"glue/{name}/{'train' if name == 'SST-2' else 'dev'}.tsv")
    return fine_tuned(get_task(name), file, folder, total_steps=TRAIN_STEPS)


def our_models(weights: Path, task: SentenceTask) -> dict[str, finetune.Saved]:
    """Our model in each dtype that this processor multiplies."""
    dtypes = ("fp32", "bf16", "int8") if kernels.has_bf16_products() else ("fp32", "int8")
    with quiet():
        return {f"ours {dtype}": finetune.load(weights, task, dtype=dtype) for dtype in dtypes}


# ------------------------------------------------------------------------------------------ sides


def our_sides(models: dict[str, finetune.Saved]) -> Sides:
    """Our models, called as inference.predict calls them."""

    def side(saved: finetune.Saved) -> Callable[[Batch], np.ndarray]:
        model = inference.wrap(saved.model, saved.device, saved.dtype).eval()
        return torch.inference_mode()(lambda batch: model(**batch.inputs).float().numpy())

    return {name: side(saved) for name, saved in models.items()}


# -------------------------------------------------------------------------------------- measuring


def in_turn(sides: dict[str, Callable[[], np.ndarray]], repeats: int) -> dict[str, Measured]:
    """The median time of each side, after a round to warm up."""
    values = {name: run() for name, run in sides.items()}
    names, taken = list(sides), {name: list[float]() for name in sides}
    for repeat in range(repeats):
        # Each round begins with another side, so that none is always the first.
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            taken[name].append(seconds(sides[name]))
    return {name: Measured(values[name], statistics.median(taken[name])) for name in names}


def spread(n_all: int, n: int) -> np.ndarray:
    """n numbers spread evenly over those from 0 to before n_all, or all of them."""
    return np.linspace(0, n_all - 1, min(n, n_all)).astype(int)


def share(a: np.ndarray, b: np.ndarray) -> float:
    """How many of the answers are equal."""
    return float((a.argmax(1) == b.argmax(1)).mean())


HEADER = (
    "| data | model | side | rows/s | times the best fp32 peer | times onnxruntime int8 | "
    "largest difference of a probability | equal answers |\n|---|---|---|---|---|---|---|---|"
)
ACCURACY_HEADER = (
    "| trained on | side | accuracy on dev | answers equal to ours fp32 |\n|---|---|---|---|"
)


def rows_of(what: str, model: str, found: dict[str, Measured]) -> list[str]:
    """Rows of the table; the first peer has the right probabilities."""
    fp32 = [name for name in found if "fp32" in name and not name.startswith("ours")]
    best, right = min(found[name].seconds for name in fp32), found[fp32[0]].values
    int8 = found.get("onnxruntime int8")
    rows = []
    for name, (values, taken) in found.items():
        per_second = len(values) / taken
        of_int8 = f"{int8.seconds / taken:.2f}" if int8 and name.endswith("int8") else ""
        difference = equal = ""
        if name != fp32[0]:
            difference = f"{np.abs(values - right).max():.1e}"
            # Random weights give nearly the same scores to all texts.
            equal = "" if model == "base" else f"{share(values, right):.2%}"
        measured = f"{per_second:.1f} | {best / taken:.2f} | {of_int8} | {difference} | {equal}"
        rows.append(f"| {what}, {len(values)} | {model} | {name} | {measured} |")
    print("\n".join(rows), flush=True)
    return rows


def measure(model: str, name: str, folder: Path, n_batches: int, repeats: int) -> list[str]:
    """The rows of a model and a task."""
    weights, task = make_weights(model, name, folder), get_task(name)
    ours = our_models(weights, task)
    with quiet():
        dev = ours["ours fp32"].load(data(f"glue/{name}/dev.tsv"))
    # With a seed a batch has 32 rows of similar length, whatever the length.
    by_length = Batches(dev.features, BATCH, seed=0)
    batches = [by_length[n] for n in spread(len(by_length), n_batches)]

    def over(side: Callable[[Batch], np.ndarray]) -> Callable[[], np.ndarray]:
        return lambda: task.probabilities(np.concatenate([side(batch) for batch in batches]))

    sides = our_sides(ours) | peers(weights, batches)
    found = in_turn({title: over(side) for title, side in sides.items()}, repeats)
    rows = rows_of(f"{name} batches", model, found)
    if model != "minilm":
        return rows
    examples = [dev.examples[n] for n in spread(len(dev.examples), n_batches * BATCH)]
    texts = [e.text_a if e.text_b is None else e.texts for e in examples]
    pipe = pipeline_of(weights, task, examples)

    def predict(saved: finetune.Saved) -> np.ndarray:
        with quiet():
            return np.array([answer.probabilities for answer in saved.predict(texts)])

    whole_way = {title: lambda saved=saved: predict(saved) for title, saved in ours.items()}
    for size in PIPELINE_BATCHES:
        whole_way[f"pipeline fp32, batch {size}"] = lambda size=size: pipe(size)
    return rows + rows_of(f"{name} texts", model, in_turn(whole_way, repeats))


def measure_accuracy(name: str, folder: Path, n_rows: int | None) -> list[str]:
    """Train on the first rows of a task, or on all; rows of the table of accuracy."""
    dtype = "bf16" if kernels.has_bf16_products() else "fp32"
    task, file = get_task(name), folder / "train.tsv"
    header, *rows = data(f"glue/{name}/train.tsv").read_bytes().splitlines(keepends=True)
    rows = rows[:n_rows]
    file.write_bytes(b"".join([header, *rows]))
    weights = fine_tuned(task, file, folder, n_epochs=EPOCHS[name], dtype=dtype)
    ours = our_models(weights, task)
    with quiet():
        dev = ours["ours fp32"].load(data(f"glue/{name}/dev.tsv"))
    sides = our_sides(ours)
    if installed("onnxruntime", "onnx", "onnxruntime"):
        sides |= onnxruntime_sides(export(weights))
    batches = Batches(dev.features, BATCH)
    order = np.concatenate([batches.rows(n) for n in range(len(batches))])
    trained = f"{name}, {len(rows)} rows, {EPOCHS[name]} epochs, {dtype}"
    scores: dict[str, np.ndarray] = {}
    table = []
    for title in ACCURATE:
        # onnxruntime may be missing.
        if title in sides:
            found = np.concatenate([sides[title](batches[n]) for n in range(len(batches))])
            # Batches are sorted by length.
            scores[title] = found[np.argsort(order)]
            accuracy = task.measure(task.predicted(scores[title]), dev)["Accuracy"]
            equal = share(scores[title], scores["ours fp32"])
            table.append(f"| {trained} | {title} | {accuracy:.4f} | {equal:.2%} |")
    print("\n".join(table), flush=True)
    return table


def run(
    models: str = "minilm,base",
    tasks: str = "SST-2,QNLI",
    batches: int = 40,
    repeats: int = 5,
    accuracy: bool = False,
    train_rows: int = 6000,
) -> None:
    """Measure.

    Args:
        models: of minilm, base.
        tasks: of SST-2, QNLI.
        batches: how many of each task, spread evenly over its lengths; as many texts.
        repeats: of every side, in turn; the median counts.
        accuracy: measure that of int8, instead of speed.
        train_rows: of SST-2, to train on before accuracy is measured.
    """
    if accuracy:
        table = [ACCURACY_HEADER]
        for name in EPOCHS:
            with tempfile.TemporaryDirectory() as folder:
                # MRPC is small, so that all of it is used.
                n_rows = train_rows if name == "SST-2" else None
                table += measure_accuracy(name, Path(folder), n_rows)
    else:
        table = [HEADER]
        for model in models.split(","):
            for name in tasks.split(","):
                with tempfile.TemporaryDirectory() as folder:
                    table += measure(model, name, Path(folder), batches, repeats)
    what = "Accuracy of int8" if accuracy else "Predicting"
    file = "predicting_accuracy" if accuracy else f"predicting_{models.replace(',', '_')}_cpu"
    report(file, f"{what} on a CPU", "\n".join(table))


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    # On a machine with a GPU our side alone would use it.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    command(as_command(run))

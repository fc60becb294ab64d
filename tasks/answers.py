"""What a sentence model's answers become: rows of predictions, the worst mistakes, pictures.

    for lines in prediction_lines(saved, "new.csv"):
        print(lines, end="")

`saved` is a finetune.Saved of a SentenceTask.
"""

import collections
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from formats.tfrecords import RECORDS
from system.files import read_settings
from tasks import pictures, quality, reports
from tasks.metrics import Outcome
from tasks.rows import describe_table, open_rows
from tasks.sentences import SentenceTask
from tasks.task import Data
from utils import UserError, show, visible, warn

WORST = 100  # mistakes that are written down
WIDEST = 10  # labels of a matrix, and
LONGEST = 40  # labels of a list that are printed


def prediction_lines(
    saved: Any, data_file: str, probabilities: bool = True, bar: bool = False
) -> Iterator[str]:
    """The lines of a table, some at a time: index, prediction, and the probability of each label.

    There is a row for each row of the file, in its order, counted from 0; `-` is standard input.

    Args:
        bar: show progress.
    """
    task = saved.task
    # Columns of probabilities need names, and a number has none.
    names = task.labels if probabilities else ()
    header = "\t".join(["index", "prediction", *names]) + "\n"
    table, index = None, 0
    # A TFRecord's records are read as a whole, since it has no lines that a pipe could deliver.
    if RECORDS.search(data_file):
        data = saved.load(data_file, labelled=False)
        parts = iter([(data, task.answers(data, saved.outputs(data, bar=False)))])
    else:
        # Rows are read as needed, so a file of any size is predicted in the memory of one part.
        table, examples = open_rows(task, data_file, labelled=False)
        # From a pipe nothing is waited for: an interactive user wants an answer to each line.
        parts = saved.stream(data_file, examples, waiting=data_file != "-", bar=bar)
    # A part's answers are in the order of its rows, though its batches were sorted by length.
    for _, answers in parts:
        lines = []
        if index == 0:
            # The first rows have been read without an error, so the model's name is worth a line.
            warn(saved.describe())
            lines.append(header)
        for answer, row in answers:
            shown = [f"{p:.6f}" for p in row] if names else []
            lines.append("\t".join([str(index), answer, *shown]) + "\n")
            index += 1
        yield "".join(lines)
    # A file without rows still becomes a table, since another program may read it.
    if index == 0:
        yield header
    if table and data_file != "-":
        warn(describe_table(data_file, index, table.names, table.header, collections.Counter()))


def report(
    saved: Any,
    data: Data,
    outputs: np.ndarray,
    stem: Path,
    plots: bool = False,
    other: Any = None,
) -> tuple[dict[str, Any], list[str]]:
    """Print the confusion matrix, write the worst mistakes, and pictures if they are asked for.

    Returns the labels and the matrix, for the file of metrics, and the names of the tables written.

    Args:
        stem: how the names of the files begin.
        other: a model to compare with.
    """
    task = saved.task
    outcome = task.outcome(data, outputs)
    about = describe_quality(task, outcome)
    # Only with one label a text are label and prediction the row and column of a matrix.
    if task.problem_type == "single_label_classification":
        matrix = quality.matrix_of(outcome)
        about |= {"labels": task.labels, "confusion": matrix.tolist()}
        # More columns would not fit a terminal; the file of metrics has all of them.
        if len(task.labels) <= WIDEST:
            print(reports.confusion_table(task.labels, matrix))
        if plots:
            title = f"{task.name}, {visible(data.file.name)}"
            figure = pictures.confusion(task.labels, matrix, title)
            pictures.save(figure, f"{stem}_confusion.png")
    header = ["line", "label", "prediction", "probability", "of the label", "text_a", "text_b"]
    if task.number:
        header = ["line", "label", "prediction", "difference", "text_a", "text_b"]
    reports.write_tsv(Path(f"{stem}_errors.tsv"), header, worst(task, data, outcome))
    if other:
        about["compared"] = compare(saved, other, data, outcome)
    # A model from elsewhere has no metrics.jsonl beside it.
    if plots:
        picture_of_run(saved.folder, stem.parent)
    return about, [f"{stem}_errors.tsv"]


def compare(saved: Any, other: Any, data: Data, outcome: Outcome) -> dict[str, Any]:
    """Print whether another model answers the same labelled examples better; for the metrics' file.

    Args:
        other: a finetune.Saved, whose labels are the same.
    """
    if other.task.labels != saved.task.labels or other.task.number != saved.task.number:
        raise UserError(
            f"{other.file} answers {other.task.describe_labels()}, and {saved.file} "
            f"{saved.task.describe_labels()}; compare models of the same labels"
        )
    # Another vocabulary, or another length, makes other inputs of the same rows.
    theirs = other.load(data.file)
    outcome_there = other.task.outcome(theirs, other.outputs(theirs))
    found = quality.compare(saved.task.metric_names[0], outcome, outcome_there)
    low, high = found["interval"]
    print(
        f"Compared with {other.folder}: {found['metric']} {found['this']:.4f} here, "
        f"{found['other']:.4f} there; difference {found['difference']:+.4f}, 95% interval "
        f"{low:+.4f} to {high:+.4f}"
    )
    if "p" in found:
        print(
            f"Only this one is right {found['only this right']} times, only the other "
            f"{found['only other right']} times: p = {found['p']:.4g} (McNemar, exact)"
        )
    runs = [read_settings(one.folder / "run.json") for one in (saved, other)]
    names = sorted(
        name for name in {**runs[0], **runs[1]} if runs[0].get(name) != runs[1].get(name)
    )
    shown = [
        f"{name} {show(runs[0].get(name), 30)}, {show(runs[1].get(name), 30)}" for name in names
    ]
    print(f"Settings that differ (here, there): {'; '.join(shown) or 'none'}")
    return found | {"with": str(other.file), "settings that differ": names}


def describe_quality(task: SentenceTask, outcome: Outcome) -> dict[str, Any]:
    """Print how sure the first metric is, each class's quality, and what one answer would score.

    Returns the same for the file of metrics.
    """
    first = task.metric_names[0]
    low, high = quality.interval(first, outcome)
    print(f"95% interval of {first}: {low:.4f} to {high:.4f} ({len(outcome.labels)} examples)")
    about: dict[str, Any] = {"interval": [low, high]}
    if task.number:
        return about
    report = quality.class_report(task.labels, outcome)
    if len(task.labels) <= LONGEST:
        print(quality.class_table(report))
    majority = task.majority(outcome)
    constant = {name: quality.silent(name, majority) for name in task.metric_names}
    shown = ", ".join(f"{name} {value:.4f}" for name, value in constant.items())
    print(f"Always giving the most frequent answer: {shown}")
    about |= {"classes": report, "most frequent answer": constant}
    # The metrics are those of all answers, also of those that are left unsaid.
    if task.thresholds and outcome.labels.ndim == 1:
        said = np.flatnonzero(outcome.probabilities.max(1) >= task.thresholds[0])
        right = quality.silent("Accuracy", outcome.take(said)) if len(said) else 0.0
        print(
            f"Answered at a threshold of {task.thresholds[0]:.4f}: {len(said)} of "
            f"{len(outcome.labels)}, Accuracy of these {right:.4f}"
        )
        about |= {"answered": len(said), "Accuracy of the answered": right}
    if doubt := quality.suspicion(task.labels, outcome, majority, first):
        warn(doubt)
    return about


def picture_of_run(folder: Path, target: Path) -> None:
    """Draw the curves of the run in a folder, if there is one, into another folder."""
    log = folder / "metrics.jsonl"
    if log.is_file():
        pictures.save(pictures.learning(log), target / "learning.png")


def worst(task: SentenceTask, data: Data, outcome: Outcome) -> list[list[object]]:
    """Mistakes, the most confident first; of numbers, the furthest off.

    Each is line, label, prediction, the probability of what was said and of what is right (of
    numbers their difference), and texts. Of several labels, the one that it is most wrong about.
    """
    predicted, labels, p = outcome.predicted, outcome.labels, outcome.probabilities
    wrong = predicted != labels
    if task.number:
        measures = np.abs(predicted - labels)[:, None]
    elif labels.ndim == 1:
        rows = np.arange(len(labels))
        measures = np.stack([p[rows, predicted], p[rows, labels]], axis=1)
    else:
        said = (np.where(predicted == 1, p, 1 - p) * wrong).max(1)
        measures = np.stack([said, 1 - said], axis=1)
        wrong = wrong.any(1)
    order = np.argsort(-measures[:, 0], kind="stable")
    lines, rows_of_table = data.features.example_lines, list[list[object]]()
    # Sorting all examples and keeping the wrong ones leaves the stable order of equal confidences
    # alone.
    for i in order[wrong[order]][:WORST]:
        texts = ["", ""]
        if data.examples:
            texts = [data.examples[i].text_a, data.examples[i].text_b or ""]
        names = task.name_of(labels[i]), task.name_of(predicted[i])
        shown = [f"{value:.4f}" for value in measures[i]]
        rows_of_table.append([lines[i], *names, *shown, *texts])
    return rows_of_table

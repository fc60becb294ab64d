"""Results for people: the confusion matrix, the worst mistakes, seeds compared, pictures.

    print(confusion_table(("0", "1"), confusion(predicted, labels, 2)))

Row: data and loop. It imports only from rows below (ARCHITECTURE.md).
"""

import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from files import whole_file
from utils import UserError, short


def confusion_table(names: Sequence[str], matrix: np.ndarray) -> str:
    """A confusion matrix as text: a row for each label, a column for each prediction."""
    cells = [["label \\ predicted", *names]]
    cells += [[name, *map(str, row)] for name, row in zip(names, matrix, strict=True)]
    return aligned(cells)


def aligned(rows: list[list[str]]) -> str:
    """Rows of cells as text, the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *map(str.rjust, others, widths[1:])]
        lines.append("  ".join(cells))
    return "\n".join(lines)


def write_tsv(file: Path, header: Sequence[object], rows: Sequence[Sequence[object]]) -> None:
    """A table; tabs and line ends in a cell become spaces."""
    # A table without quotes can hold neither, and readers of GLUE know no quotes.
    spaces = str.maketrans("\t\n\r", "   ")
    with whole_file(file) as f:
        for row in [header, *rows]:
            f.write(("\t".join(str(cell).translate(spaces) for cell in row) + "\n").encode())


def over_seeds(
    runs: list[dict[str, Any]], metric: str, constant: float
) -> tuple[str, dict[str, Any]]:
    """A table of runs, and the same as a dict.

    It has each run, mean and spread (standard deviation), the best run, and how many failed to
    learn: whose `metric` is not above `constant`, that of always giving the same answer.

    Args:
        runs: {"seed", "last": metrics after the last epoch, "best": of the best checkpoint,
            "best_file"} each.
    """
    columns = {name: [run["last"][name] for run in runs] for name in runs[0]["last"]}
    # The best checkpoint may be of any epoch, the other columns are of the last one.
    columns[f"best {metric}"] = [run["best"][metric] for run in runs]
    mean = {name: statistics.mean(values) for name, values in columns.items()}
    # The standard deviation of one value is not defined.
    spread = dict.fromkeys(columns, 0.0)
    if len(runs) > 1:
        spread = {name: statistics.stdev(values) for name, values in columns.items()}
    # "not above" rather than "at most": a metric that is not a number has failed too.
    failed = [run["seed"] for run in runs if not run["best"][metric] > constant]
    best = max(runs, key=lambda run: run["best"][metric])
    table = [["seed", *columns]]
    for i, run in enumerate(runs):
        table.append([str(run["seed"]), *(f"{values[i]:.4f}" for values in columns.values())])
    for name, row in (("mean", mean), ("spread", spread)):
        table.append([name, *(f"{value:.4f}" for value in row.values())])
    text = (
        f"{aligned(table)}\n"
        f"Best: {metric} {best['best'][metric]:.4f}, seed {best['seed']}, {best['best_file']}\n"
        f"Failed to learn: {len(failed)} of {len(runs)} runs ({metric} not above {constant:.4f}, "
        "that of one answer)"
    )
    return text, {
        "runs": runs,
        "mean": mean,
        "spread": spread,
        "best": best,
        "failed": failed,
        "always the same answer": constant,
    }


def short_names(files: Sequence[str]) -> list[str]:
    """Of each path the end that tells it from the others, apart from suffixes.

    short_names(["xnli/de/test.tsv", "xnli/fr/test.tsv"]) -> ["de/test.tsv", "fr/test.tsv"]
    """
    parts = [Path(file).parts for file in files]
    for n in range(1, 2 + max(map(len, parts))):
        names = [str(Path(*part[-n:])) for part in parts]
        # Reports are called after the files, with suffixes of their own.
        if len({os.path.splitext(name)[0] for name in names}) == len(names):
            return names
    raise UserError(
        f"the reports of {short(', '.join(files))} would have the same names; evaluate each file "
        "once, those that differ in their suffix one by one"
    )


def over_files(results: dict[str, dict[str, float]]) -> tuple[str, dict[str, Any]]:
    """One model's metrics of several files, by name: a table with their means, and as JSON."""
    metrics = list(next(iter(results.values())))
    mean = {
        metric: statistics.mean(found[metric] for found in results.values()) for metric in metrics
    }
    table = [["file", *metrics]]
    for name, found in [*results.items(), ("mean", mean)]:
        table.append([name, *(f"{found[metric]:.4f}" for metric in metrics)])
    return aligned(table), {"files": results, "mean": mean}


# ----------------------------------------------------------------------------------------- pictures


def pyplot() -> Any:
    """matplotlib, drawing into files."""
    try:
        import matplotlib
    except ImportError:
        raise UserError("--plots True needs matplotlib; pip install matplotlib") from None
    # Agg draws without a display, which servers lack.
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def plot_confusion(file: Path, names: Sequence[str], matrix: np.ndarray, title: str) -> None:
    """A confusion matrix as a picture, shaded by the share of each label's examples."""
    plt = pyplot()
    # Room for each label's name; a small matrix would have no room for its title otherwise.
    size = max(4.0, 0.5 * len(names) + 2)
    figure, axes = plt.subplots(figsize=(size + 1, size), layout="constrained")
    # Shares of a row: with uneven classes, counts would show the largest class alone.
    shares = matrix / np.maximum(1, matrix.sum(1, keepdims=True))
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    # Longer names would leave no room for the picture.
    short = [name if len(name) <= 20 else name[:19] + "…" for name in names]
    axes.set_xticks(range(len(names)), short, rotation=0 if len(names) < 4 else 90)
    axes.set_yticks(range(len(names)), short)
    axes.set(xlabel="predicted", ylabel="label", title=title)
    # Numbers in more than 400 cells could not be read.
    if len(names) <= 20:
        for i, j in np.ndindex(matrix.shape):
            axes.text(
                j,
                i,
                str(matrix[i, j]),
                ha="center",
                va="center",
                color="white" if shares[i, j] > 0.5 else "black",
            )
    figure.colorbar(image, label="share of the label's examples")
    save(plt, figure, file)


def plot_learning(file: Path, metrics_file: Path) -> None:
    """The learning curve in a metrics.jsonl: the loss while training, and each evaluation."""
    plt = pyplot()
    lines = [json.loads(line) for line in metrics_file.read_text().splitlines()]
    # metrics.jsonl mixes lines of training and of evaluations, which differ in their keys.
    training = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    checks = [line for line in lines if "eval_loss" in line]
    names = [name for name in (checks[0] if checks else {}) if name.startswith("eval_")]
    # A loss has another scale than metrics, which lie between -1 and 1, and gets a picture of its
    # own.
    others = [name for name in names if "loss" not in name]
    columns = 1 + bool(others)
    # squeeze=False: one picture is in a grid too.
    figure, grid = plt.subplots(
        1, columns, figsize=(5 * columns, 4), layout="constrained", squeeze=False
    )
    left, *right = grid[0]
    # A line through one point would not be seen.
    left.plot(
        *zip(*training, strict=True),
        label="training",
        linewidth=1,
        marker="." if len(training) < 10 else None,
    )
    for name in names:
        axes, label = right[0] if right else left, name.removeprefix("eval_")
        if "loss" in name:
            axes, label = left, f"{label} on dev"
        axes.plot(
            [line["step"] for line in checks],
            [line[name] for line in checks],
            marker="o",
            label=label,
        )
    left.set(xlabel="updates", ylabel="loss", title="Loss")
    # A loss starts near ln(classes), and only a scale from 0 shows how far it has fallen.
    left.set_ylim(bottom=0)
    left.legend()
    for axes in right:
        axes.set(xlabel="updates", title="Evaluation")
        axes.legend()
    save(plt, figure, file)


def save(plt: Any, figure: Any, file: Path) -> None:
    """Write a picture, whole or not at all."""
    with whole_file(file) as f:
        figure.savefig(f, format="png", dpi=120)
    # pyplot keeps figures until they are closed, and warns about many.
    plt.close(figure)

"""What came of it, for people: the confusion matrix, the worst mistakes, a table over seeds,
pictures.

print(confusion_table(("0", "1"), confusion(predicted, labels, 2)))
"""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils import UserError, whole_file


def confusion_table(names: Sequence[str], matrix: np.ndarray) -> str:
    """A confusion matrix as text: a row for each label, a column for each prediction."""
    cells = [
        ["label \\ predicted", *names],
        *([name, *map(str, row)] for name, row in zip(names, matrix, strict=True)),
    ]
    return aligned(cells)


def aligned(rows: list[list[str]]) -> str:
    """Rows of cells as text, the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    )


def write_tsv(file: Path, header: Sequence[object], rows: Sequence[Sequence[object]]) -> None:
    """A table; tabs and line ends in a cell become spaces."""
    lines = [
        "\t".join(
            " ".join(str(cell).split("\t")).replace("\n", " ").replace("\r", " ") for cell in row
        )
        for row in [header, *rows]
    ]
    with whole_file(file) as f:
        f.write(("\n".join(lines) + "\n").encode())


def over_seeds(
    runs: list[dict[str, Any]], metric: str, constant: float
) -> tuple[str, dict[str, Any]]:
    """A table of runs, and the same as a dict: each run, mean and spread (standard deviation), the
    best one, how many failed to learn: whose `metric` is not above what always giving the same
    answer has.

    A run is {"seed", "last": metrics after the last epoch, "best": of the best checkpoint,
    "best_file"}.
    """
    names = list(runs[0]["last"])
    columns = {name: [run["last"][name] for run in runs] for name in names}
    columns[f"best {metric}"] = [run["best"][metric] for run in runs]
    mean = {name: statistics.mean(values) for name, values in columns.items()}
    spread = {
        name: statistics.stdev(values) if len(runs) > 1 else 0.0 for name, values in columns.items()
    }
    failed = [run["seed"] for run in runs if not run["best"][metric] > constant]
    best = max(runs, key=lambda run: run["best"][metric])
    rows = [["seed", *columns]]
    rows += [
        [str(run["seed"]), *(f"{values[i]:.4f}" for values in columns.values())]
        for i, run in enumerate(runs)
    ]
    rows += [
        [name, *(f"{value:.4f}" for value in row.values())]
        for name, row in (("mean", mean), ("spread", spread))
    ]
    text = (
        f"{aligned(rows)}\nBest: {metric} {best['best'][metric]:.4f}, seed {best['seed']}, "
        f"{best['best_file']}\n"
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


# ----------------------------------------------------------------------------------------- pictures


def pyplot() -> Any:
    """matplotlib, drawing into files."""
    try:
        import matplotlib
    except ImportError:
        raise UserError("--plots True needs matplotlib; pip install matplotlib") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def plot_confusion(file: Path, names: Sequence[str], matrix: np.ndarray, title: str) -> None:
    """A confusion matrix as a picture, shaded by the share of each label's examples."""
    plt = pyplot()
    size = max(4.0, 0.5 * len(names) + 2)
    figure, axes = plt.subplots(figsize=(size + 1, size), layout="constrained")
    shares = matrix / np.maximum(1, matrix.sum(1, keepdims=True))
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    short = [name if len(name) <= 20 else name[:19] + "…" for name in names]
    axes.set_xticks(range(len(names)), short, rotation=0 if len(names) < 4 else 90)
    axes.set_yticks(range(len(names)), short)
    axes.set(xlabel="predicted", ylabel="label", title=title)
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
    """The learning curve of a run, from its metrics.jsonl: the loss while training, and what each
    evaluation gave.
    """
    plt = pyplot()
    lines = [json.loads(line) for line in metrics_file.read_text().splitlines()]
    training = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    checks = [line for line in lines if "eval_loss" in line]
    names = [name for name in (checks[0] if checks else {}) if name.startswith("eval_")]
    others = [name for name in names if "loss" not in name]
    columns = 1 + bool(others)
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
    plt.close(figure)

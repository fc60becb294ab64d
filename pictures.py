"""Pictures, as figures of matplotlib: a notebook shows them, save() writes them.

    figure = learning("runs/mrpc/metrics.jsonl")
    save(figure, "learning.png")

Row: formats. It imports only from rows below (ARCHITECTURE.md).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from files import whole_file
from utils import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new(size: tuple[float, float]) -> "Figure":
    """An empty figure of so many inches, without a window; UserError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("pictures need matplotlib; pip install matplotlib") from None
    return Figure(figsize=size, layout="constrained")


def save(figure: "Figure", file: str | Path) -> None:
    """Write a picture, whole or not at all."""
    with whole_file(Path(file)) as f:
        figure.savefig(f, format="png", dpi=120)


def confusion(names: Sequence[str], matrix: np.ndarray, title: str) -> "Figure":
    """A confusion matrix, shaded by the share of each label's examples."""
    # Room for each label's name; a small matrix would have no room for its title otherwise.
    size = max(4.0, 0.5 * len(names) + 2)
    figure = new((size + 1, size))
    axes = figure.subplots()
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
    return figure


def learning(metrics_file: str | Path) -> "Figure":
    """The learning curve in a metrics.jsonl: the loss while training, and each evaluation."""
    lines = [json.loads(line) for line in Path(metrics_file).read_text().splitlines()]
    # metrics.jsonl mixes lines of training and of evaluations, which differ in their keys.
    training = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    checks = [line for line in lines if "eval_loss" in line]
    names = [name for name in (checks[0] if checks else {}) if name.startswith("eval_")]
    # A loss has another scale than metrics, which lie between -1 and 1, and gets a picture of its
    # own.
    others = [name for name in names if "loss" not in name]
    columns = 1 + bool(others)
    # squeeze=False: one picture is in a grid too.
    figure = new((5 * columns, 4))
    grid = figure.subplots(1, columns, squeeze=False)
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
    return figure

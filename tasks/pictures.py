"""Pictures, as figures of matplotlib: a notebook shows them, save() writes them.

    figure = learning("runs/mrpc/metrics.jsonl")
    save(figure, "learning.png")
    heads(previous, "attention to the previous token")  # (layers, heads)

Shapes: L layers, H heads of a layer, S tokens, N examples, C classes.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from system.files import whole_file
from tasks import quality
from utils import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
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


def write_cells(axes: "Axes", shades: np.ndarray, texts: np.ndarray, size: int | None) -> None:
    """A text in each cell of a matrix, white where the cell is dark."""
    for (i, j), shade in np.ndenumerate(shades):
        color = "white" if shade > 0.5 else "black"
        axes.text(j, i, str(texts[i, j]), ha="center", va="center", color=color, fontsize=size)


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
        write_cells(axes, shares, matrix.astype(str), size=None)
    figure.colorbar(image, label="share of the label's examples")
    return figure


def learning(metrics_file: str | Path) -> "Figure":
    """The learning curve in a metrics.jsonl: the loss while training, and each evaluation."""
    lines = [json.loads(line) for line in Path(metrics_file).read_text("utf-8").splitlines()]
    # metrics.jsonl mixes lines of training and of evaluations, which differ in their keys.
    training = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    checks = [line for line in lines if "eval_loss" in line]
    names = [name for name in (checks[0] if checks else {}) if name.startswith("eval_")]
    # A loss has another scale than metrics, from -1 to 1, and gets a picture of its own.
    columns = 1 + any("loss" not in name for name in names)
    figure = new((5 * columns, 4))
    left, *right = figure.subplots(1, columns, squeeze=False)[0]
    # A line through one point would not be seen.
    marker = "." if len(training) < 10 else None
    left.plot(*zip(*training, strict=True), label="training", linewidth=1, marker=marker)
    steps = [line["step"] for line in checks]
    for name in names:
        axes, label = right[0] if right else left, name.removeprefix("eval_")
        if "loss" in name:
            axes, label = left, f"{label} on dev"
        axes.plot(steps, [line[name] for line in checks], marker="o", label=label)
    left.set(xlabel="updates", ylabel="loss", title="Loss")
    # A loss starts near ln(classes), and only a scale from 0 shows how far it has fallen.
    left.set_ylim(bottom=0)
    left.legend()
    for axes in right:
        axes.set(xlabel="updates", title="Evaluation")
        axes.legend()
    return figure


def lines(
    x: Sequence[float] | Sequence[str],
    series: Mapping[str, Sequence[float]],
    labels: tuple[str, str],
    title: str,
    log: bool = False,
) -> "Figure":
    """Series of numbers over the same x, by name.

    Args:
        labels: of the two axes.
        log: the vertical axis counts powers of ten.
    """
    figure = new((6.5, 3.6))
    axes = figure.subplots()
    for name, values in series.items():
        axes.plot(x, values, marker="o", markersize=4, label=name)
    axes.set(xlabel=labels[0], ylabel=labels[1], title=title)
    axes.set_yscale("log" if log else "linear")
    if isinstance(x[0], str):
        # Names side by side would run into each other.
        axes.tick_params(axis="x", rotation=30)
    else:
        # A layer or an update has a whole number.
        axes.locator_params(axis="x", integer=True)
    axes.grid(alpha=0.3)
    # Below the picture a legend hides no line.
    figure.legend(loc="outside lower center", ncols=min(3, len(series)))
    return figure


# ---------------------------------------------------------------------------------------- attention


def attention(tokens: Sequence[str], maps: Mapping[str, np.ndarray]) -> "Figure":
    """Attention maps (S, S) by title: each row shows where a token looks; a row adds up to 1."""
    columns = min(3, len(maps))
    rows = -(-len(maps) // columns)
    side = max(2.4, 0.19 * len(tokens))
    figure = new((columns * side + 1.6, rows * (side + 0.3) + 0.8))
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    places = range(len(tokens))
    for i, (title, weights) in enumerate(maps.items()):
        axes = grid.flat[i]
        # One scale for all maps, or a head that looks everywhere would seem to look somewhere.
        image = axes.imshow(weights, cmap="Blues", vmin=0, vmax=1)
        axes.set_title(title, fontsize=10)
        axes.set_xticks(places, tokens, rotation=90, fontsize=8)
        axes.set_yticks(places, tokens, fontsize=8)
        # The lowest map of each column, which the last row need not have.
        axes.tick_params(labelbottom=i + columns >= len(maps))
    for axes in grid.flat[len(maps) :]:
        axes.set_axis_off()
    figure.supxlabel("token that is looked at", fontsize=10)
    figure.supylabel("token that looks", fontsize=10)
    figure.colorbar(image, ax=grid, label="attention weight", shrink=0.7)
    return figure


def all_attention(maps: np.ndarray, title: str) -> "Figure":
    """Every map (L, H, S, S), small and without tokens: a row for each layer."""
    n_layers, n_heads = maps.shape[:2]
    figure = new((0.75 * n_heads + 1.2, 0.8 * n_layers + 0.8))
    grid = figure.subplots(n_layers, n_heads, squeeze=False)
    for (layer, head), axes in np.ndenumerate(grid):
        image = axes.imshow(maps[layer, head], cmap="Blues", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        if layer == 0:
            axes.set_title(str(head), fontsize=10)
        if head == 0:
            axes.set_ylabel(str(layer), fontsize=10, rotation=0, ha="right", va="center")
    figure.suptitle(f"{title}\nhead")
    figure.supylabel("layer")
    figure.colorbar(image, ax=grid, label="attention weight", shrink=0.7)
    return figure


def heads(values: np.ndarray, title: str, label: str = "attention") -> "Figure":
    """A number from 0 to 1 for each layer and head, (L, H)."""
    n_layers, n_heads = values.shape
    figure = new((0.5 * n_heads + 1.8, 0.36 * n_layers + 1.3))
    axes = figure.subplots()
    image = axes.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    write_cells(axes, values, np.char.mod("%.2f", values), size=8)
    axes.set(xlabel="head", ylabel="layer", title=title)
    axes.set(xticks=range(n_heads), yticks=range(n_layers))
    figure.colorbar(image, label=label)
    return figure


# --------------------------------------------------------------------------- vectors and confidence


def principal(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, D) -> the two directions in which they differ most: places (N, 2), shares (2,).

    A share is that of all the variance.
    """
    centred = vectors - vectors.mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    return u[:, :2] * s[:2], s[:2] ** 2 / (s**2).sum()


def scatter(
    points: np.ndarray, groups: Sequence[str], labels: tuple[str, str], title: str
) -> "Figure":
    """Points (N, 2) on a map, a colour and a marker for each group."""
    figure = new((7, 4.4))
    axes = figure.subplots()
    markers = "os^Dv*P<>X"
    for i, name in enumerate(dict.fromkeys(groups)):
        own = points[[group == name for group in groups]]
        axes.scatter(own[:, 0], own[:, 1], marker=markers[i % len(markers)], label=name)
    # A unit is as long in both directions, so that distances can be compared.
    axes.set_aspect("equal", adjustable="datalim")
    axes.set(xlabel=labels[0], ylabel=labels[1], title=title)
    figure.legend(loc="outside right upper")
    return figure


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, n_bins: int = 10) -> float:
    """The expected calibration error: |confidence - accuracy| on average over the examples."""
    counts, confidence, accuracy = quality.calibration(probabilities, labels, n_bins)
    return float((counts * abs(confidence - accuracy)).sum() / counts.sum())


def reliability(
    probabilities: np.ndarray, labels: np.ndarray, title: str, n_bins: int = 10
) -> "Figure":
    """A reliability diagram: how often answers are right, and how many there are, by confidence."""
    counts, _, accuracy = quality.calibration(probabilities, labels, n_bins)
    error = calibration_error(probabilities, labels, n_bins)
    figure = new((5, 5))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    middles = (np.arange(n_bins) + 0.5) / n_bins
    upper.bar(middles, accuracy, 0.9 / n_bins, label="share of right answers")
    upper.plot([0, 1], [0, 1], color="black", linestyle="--", label="as sure as right")
    upper.set(ylabel="share of right answers", title=f"{title}: expected error {error:.3f}")
    upper.legend(loc="upper left")
    lower.bar(middles, counts, 0.9 / n_bins, color="gray")
    # The highest of C probabilities is 1 / C at least.
    lower.set(xlabel="probability of the answer", ylabel="examples", xlim=(0, 1))
    return figure

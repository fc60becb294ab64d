"""Results for people: the confusion matrix, the worst mistakes, seeds compared.

print(confusion_table(("0", "1"), confusion(predicted, labels, 2)))
"""

import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from system.files import whole_file
from utils import UserError, in_a_line, short, visible


def confusion_table(names: Sequence[str], matrix: np.ndarray) -> str:
    """A confusion matrix as text: a row for each label, a column for each prediction."""
    rows = [[name, *map(str, row)] for name, row in zip(names, matrix, strict=True)]
    return aligned([["label \\ predicted", *names], *rows])


def aligned(rows: list[list[str]]) -> str:
    """Rows of cells as text, the first column to the left, the others to the right."""
    # Names of labels and files are other people's.
    rows = [[in_a_line(cell) for cell in row] for row in rows]
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


def seeds_table(
    runs: list[dict[str, Any]], metric: str, constant: float, sign: int = 1
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
    failed = [run["seed"] for run in runs if not sign * run["best"][metric] > sign * constant]
    best = max(runs, key=lambda run: sign * run["best"][metric])
    table = [["seed", *columns]]
    for i, run in enumerate(runs):
        table.append([str(run["seed"]), *(f"{values[i]:.4f}" for values in columns.values())])
    for name, row in (("mean", mean), ("spread", spread)):
        table.append([name, *(f"{value:.4f}" for value in row.values())])
    text = (
        f"{aligned(table)}\n"
        f"Best: {metric} {best['best'][metric]:.4f}, seed {best['seed']}, {best['best_file']}\n"
        f"Failed to learn: {len(failed)} of {len(runs)} runs ({metric} not "
        f"{'above' if sign > 0 else 'below'} {constant:.4f}, that of one answer)"
    )
    return text, {
        "runs": runs,
        "mean": mean,
        "spread": spread,
        "best": best,
        "failed": failed,
        "always the same answer": constant,
    }


def grid_table(
    rows: list[dict[str, Any]], metric: str, sign: int
) -> tuple[str, dict[str, Any], str]:
    """A table of combinations of settings, the best mean first; as a dict; the best run's folder.

    Args:
        rows: {"settings", "runs": [{"folder", "best": metrics}, ...]} each.
        sign: 1 where a larger metric is better, -1 where a smaller one is.
    """
    for row in rows:
        values = [one["best"][metric] for one in row["runs"]]
        row["mean"] = statistics.mean(values)
        row["spread"] = statistics.stdev(values) if len(values) > 1 else 0.0
    rows = sorted(rows, key=lambda row: -sign * row["mean"])
    several = len(rows[0]["runs"]) > 1
    names = list(rows[0]["settings"])
    table = [[*names, metric, *(["spread"] if several else [])]]
    for row in rows:
        settings = [str(row["settings"][name]) for name in names]
        spread = [f"{row['spread']:.4f}"] if several else []
        table.append([*settings, f"{row['mean']:.4f}", *spread])
    best = max(rows[0]["runs"], key=lambda one: sign * one["best"][metric])
    summary = {"metric": metric, "combinations": rows, "best": best}
    return aligned(table), summary, best["folder"]


def folds_table(metrics: list[dict[str, float]]) -> tuple[str, dict[str, Any]]:
    """A table of the metrics of each fold, their means and standard deviations, and as a dict."""
    names = list(metrics[0])
    columns = {name: [found[name] for found in metrics] for name in names}
    mean = {name: statistics.mean(values) for name, values in columns.items()}
    spread = {name: statistics.stdev(values) for name, values in columns.items()}
    table = [["fold", *names]]
    rows: list[tuple[str, dict[str, float]]] = [
        *((str(i), found) for i, found in enumerate(metrics, start=1)),
        ("mean", mean),
        ("spread", spread),
    ]
    for title, found in rows:
        table.append([title, *(f"{found[name]:.4f}" for name in names)])
    return aligned(table), {"folds": metrics, "mean": mean, "spread": spread}


def named_after(metrics: dict[str, float], file: str, before: dict[str, float]) -> dict[str, float]:
    """Metrics of one of several files: those of the first, which nothing is before, are plain."""
    suffix = f" ({visible(os.path.splitext(file)[0])})" if before else ""
    return {name + suffix: value for name, value in metrics.items()}


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


def report_name(file: str) -> str:
    """How the names of a file's reports begin: report_name("a/dev.tsv") -> "a_dev"."""
    return Path(file).with_suffix("").as_posix().replace("/", "_")


def files_table(results: dict[str, dict[str, float]]) -> tuple[str, dict[str, Any]]:
    """One model's metrics of several files, by name: a table with their means, and as JSON."""
    metrics = list(dict.fromkeys(name for found in results.values() for name in found))
    # Files of two kinds have metrics of their own.
    mean = {
        name: statistics.mean(found[name] for found in results.values() if name in found)
        for name in metrics
    }
    table = [["file", *metrics]]
    for file, found in [*results.items(), ("mean", mean)]:
        table.append([file, *(f"{found[name]:.4f}" if name in found else "-" for name in metrics)])
    return aligned(table), {"files": results, "mean": mean}

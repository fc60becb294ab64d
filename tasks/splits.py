"""One file divided: every part has each label's share, and no text stands in two of them.

    parts = split(keys, groups, shares=(.9, .1), seed=42)       # [0, 0, 1, 0, ...]

Rows belong together that have equal texts, or the same value of a column, such as a customer. The
division follows from the rows, the shares and the seed alone, on any machine.
"""

import collections
import random
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from tasks.rows import count_labels
from tasks.table_config import Example, TableConfig
from tasks.table_rows import Objects
from utils import UserError, show

N_BINS = 10  # into which numbers are sorted
FEWEST = 10  # rows that a metric can be measured on
HELD_OUT = "dev.jsonl"  # in the run's folder, the rows that were not trained on


def split(
    labels: Sequence[Hashable], groups: Sequence[int], shares: Sequence[float], seed: int
) -> np.ndarray:
    """(N,) the part, 0 .. len(shares) - 1, of each row.

    Groups are dealt out one by one, the largest first, each to the part that is furthest from its
    share of the group's labels. One row at a time this is Webster's method of dividing seats: each
    label's count in a part is its share, rounded.

    Args:
        labels: of each row.
        groups: of each row; rows of one group stay together.
        shares: of the parts, which add up to 1.
    """
    counts: dict[int, collections.Counter[Hashable]] = {}
    for label, group in zip(labels, groups, strict=True):
        counts.setdefault(group, collections.Counter())[label] += 1
    order = sorted(counts)
    # Python promises this order for a seed, on any machine.
    random.Random(seed).shuffle(order)
    order.sort(key=lambda group: -counts[group].total())
    totals = collections.Counter(labels)
    dealt = [collections.Counter[Hashable]() for _ in shares]
    part_of = {}
    for group in order:
        # How much further from even the parts' labels, each in shares of its total, would be.
        costs = [
            sum(
                ((part[label] + n) ** 2 - part[label] ** 2) / (share * totals[label] ** 2)
                for label, n in counts[group].items()
            )
            for part, share in zip(dealt, shares, strict=True)
        ]
        best = min(range(len(shares)), key=lambda i: (costs[i], -shares[i]))
        part_of[group] = best
        dealt[best].update(counts[group])
    return np.array([part_of[group] for group in groups], int)


def together(*columns: Sequence[Hashable]) -> list[int]:
    """The group of each row: those share one that have the same value in a column, also in turn.

    together(["a", "b", "a", "c"], [1, 2, 3, 3]) -> [0, 1, 0, 0]
    """
    parents = list(range(len(columns[0])))

    def root(i: int) -> int:
        while parents[i] != i:
            parents[i] = parents[parents[i]]
            i = parents[i]
        return i

    for column in columns:
        first: dict[Hashable, int] = {}
        for i, value in enumerate(column):
            # Rows go to the group that began first.
            a, b = sorted((root(i), root(first.setdefault(value, i))))
            parents[b] = a
    return [root(i) for i in range(len(parents))]


def split_examples(
    task: TableConfig, examples: list[Example], shares: Sequence[float], seed: int
) -> np.ndarray:
    """(N,) the part of each example of a task.

    Texts are equal that differ in capitals and blanks alone.
    """
    texts = [tuple(" ".join((t or "").lower().split()) for t in e.texts) for e in examples]
    columns: list[Sequence[Hashable]] = [texts]
    if task.split_by:
        # A blank cell is no customer whom rows would share.
        columns.append([e.group.strip() or i for i, e in enumerate(examples)])
    labels: Sequence[Any] = [e.label for e in examples]
    if task.number:
        # In bins of as many rows each, numbers have labels too.
        order = np.argsort([float(e.label or 0) for e in examples], kind="stable")
        ranks = np.empty(len(order), int)
        ranks[order] = np.arange(len(order))
        labels = (ranks * N_BINS // len(order)).tolist()
    return split_together(labels, columns, shares, seed)


def split_together(
    labels: Sequence[Hashable],
    columns: Sequence[Sequence[Hashable]],
    shares: Sequence[float],
    seed: int,
) -> np.ndarray:
    """(N,) the part of each row; rows with the same value in a column are in the same part."""
    groups = together(*columns)
    parts = split(labels, groups, shares, seed)
    fewest = np.bincount(parts, minlength=len(shares)).min()
    if fewest < FEWEST:
        raise UserError(
            f"{len(labels)} rows with {len(set(groups))} different texts or groups: a part of "
            f"them would have {fewest} rows, too few to evaluate; divide them otherwise, or name "
            "an `eval_file`"
        )
    return parts


def check_folds(task: TableConfig, examples: list[Example], n_folds: int) -> None:
    """UserError where a label has fewer rows than there are folds."""
    if task.number:
        return
    counts = count_labels(examples, task.separator)
    rare = min(counts, key=lambda label: counts[label])
    if counts[rare] < n_folds:
        rows = "1 row" if counts[rare] == 1 else f"{counts[rare]} rows"
        raise UserError(
            f"the label {show(rare)} has {rows}, and {n_folds} folds need as many of each; use "
            "fewer `folds`, or leave that label out"
        )


def held_out(task: TableConfig, examples: list[Example]) -> Objects:
    """Examples as rows of JSON lines that the task reads back, each with its line of the file."""
    a, b, label = (
        name.split("|")[0] if name else "" for name in (task.text_a, task.text_b, task.label)
    )
    rows = []
    for example in examples:
        row: dict[str, Any] = {"line": example.line, a: example.text_a}
        if example.text_b is not None:
            row[b] = example.text_b
        said: Any = example.label
        row[label] = task.split_label(said or "") if task.separator else said
        rows.append(row)
    return Objects(rows, HELD_OUT)

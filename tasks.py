"""Sentence tasks: where their columns are, their labels and metrics; and from their rows to batches.

    task = TASKS["mrpc"]
    features = encode(read_examples(task, "train.tsv"), task, tokenizer, max_len=128)
    batches = Batches(features, batch_size=32, seed=42)
    input_ids, segment_ids, input_mask, label_ids = batches[0]          # (B, S) x 3, (B,)
"""
import dataclasses
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tokenization import FullTokenizer
from utils import UserError, nearest, read_text


@dataclasses.dataclass(frozen=True)
class Task:
    """A task of labelled sentences or pairs in a TSV with a header; columns count from 0, -1 is the last."""

    name: str
    text_a: int
    text_b: int | None
    label: int
    labels: tuple[str, ...]                     # in the order of their ids
    metrics: tuple[str, ...]                    # of metrics.METRICS


TASKS = {task.name: task for task in (
    Task("mrpc", text_a=3, text_b=4, label=0,  labels=("0", "1"), metrics=("Accuracy", "F1")),
    Task("mnli", text_a=8, text_b=9, label=-1, labels=("contradiction", "entailment", "neutral"), metrics=("Accuracy",)),
)}


def get_task(name: str) -> Task:
    """A task by its name."""
    if name.lower() not in TASKS:
        raise UserError(f"--task {name}: unknown task{nearest(name.lower(), TASKS)}; the tasks are {', '.join(TASKS)}")
    return TASKS[name.lower()]


# ---------------------------------------------------------------------------------------------------------- rows

@dataclasses.dataclass(frozen=True)
class Example:
    """A row of a task's file."""

    line: int                                   # in the file, from 1
    text_a: str
    text_b: str | None
    label: str


def read_examples(task: Task, file: str | Path) -> list[Example]:
    """The rows of a TSV; UserError names the line where a column is missing or the label is none of the task's.

    Quotes are literal, as in GLUE. A byte order mark and Windows' line ends are fine.
    """
    lines = read_text(file).split("\n")
    if not lines[-1]:
        lines.pop()
    if not lines:
        raise UserError(f"{file} is empty; expected a header line and rows of {task.name}")
    width = len(lines[0].split("\t"))
    label = task.label % width if -width <= task.label < width else task.label
    needed = 1 + max(task.text_a, task.text_b or 0, label)
    if width < needed:
        raise UserError(f"{file}, line 1: {width} columns; {task.name} needs {needed}, separated by tabs, under a header")
    if (name := lines[0].split("\t")[label].strip()) in task.labels:
        raise UserError(f"{file}, line 1: {name!r} is a label; expected a header line first")
    examples = []
    for number, line in enumerate(lines[1:], start=2):
        fields = line.rstrip("\r").split("\t")
        if len(fields) != width:
            raise UserError(f"{file}, line {number}: {len(fields)} columns; expected {width} as in the header")
        name = fields[label].strip()
        if name not in task.labels:
            raise UserError(f"{file}, line {number}: unknown label {name!r}; the labels of {task.name} are "
                            f"{', '.join(task.labels)}")
        examples.append(Example(number, fields[task.text_a], None if task.text_b is None else fields[task.text_b], name))
    if not examples:
        raise UserError(f"{file} has a header and no rows; expected rows of {task.name}")
    return examples


# ------------------------------------------------------------------------------------------------------ features

@dataclasses.dataclass(frozen=True)
class Features:
    """N examples as token ids, one after the other in flat arrays."""

    ids: np.ndarray             # (all tokens,) int32: [CLS] a [SEP], or [CLS] a [SEP] b [SEP]
    starts: np.ndarray          # (N + 1,) where each example starts, and the end
    second: np.ndarray          # (N,) at which of its tokens segment 1 starts
    labels: np.ndarray          # (N,) label ids
    lines: np.ndarray           # (N,) lines of the file

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> np.ndarray:
        """(N,) tokens of each example."""
        return np.diff(self.starts)


def truncate_pair(a: list[int], b: list[int], room: int) -> tuple[list[int], list[int]]:
    """Google's rule: while both together are too long, the longer one loses its last token, on a tie the second."""
    keep_a, keep_b = len(a), len(b)
    while keep_a + keep_b > room:
        if keep_a > keep_b:
            keep_a -= 1
        else:
            keep_b -= 1
    return a[:keep_a], b[:keep_b]


def encode(examples: list[Example], task: Task, tokenizer: FullTokenizer, max_len: int) -> Features:
    """Tokenise rows into [CLS] a [SEP] or [CLS] a [SEP] b [SEP], truncated to max_len tokens."""
    least = 3 if task.text_b is None else 5
    if max_len < least:
        raise UserError(f"max_len={max_len}; a row of {task.name} needs at least {least} tokens")
    cls, sep = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]"])
    flat: list[int] = []
    starts, second = [0], []
    for example in examples:
        a = tokenizer.encode(example.text_a)
        if example.text_b is None:
            flat += [cls, *a[:max_len - 2], sep]
            second.append(len(flat) - starts[-1])
        else:
            a, b = truncate_pair(a, tokenizer.encode(example.text_b), max_len - 3)
            flat += [cls, *a, sep, *b, sep]
            second.append(len(a) + 2)
        starts.append(len(flat))
    label_ids = {name: i for i, name in enumerate(task.labels)}
    return Features(np.array(flat, np.int32), np.array(starts), np.array(second),
                    np.array([label_ids[e.label] for e in examples]), np.array([e.line for e in examples]))


class Batches:
    """An endless row of batches: batches[n] is a function of the seed and n, whatever was asked for before.

    Every epoch visits each example once. Examples of similar length share a batch, so that little is padded: the shuffled
    examples are cut into pools, each is sorted by length and cut into batches, and the batches are shuffled. Without a
    seed nothing is shuffled: the examples are sorted by length as a whole, for evaluation.
    """

    POOL = 50                   # batches

    def __init__(self, features: Features, batch_size: int, seed: int | None = None):
        self.features, self.batch_size, self.seed = features, batch_size, seed
        self.lengths = features.lengths
        self._epoch, self._rows = -1, [np.empty(0, int)]

    def __len__(self) -> int:
        """Batches of an epoch; the last of them may be smaller."""
        return -(-len(self.features) // self.batch_size)

    def first(self, epoch: int) -> int:
        """The number of an epoch's first batch."""
        return epoch * len(self)

    def rows(self, n: int) -> np.ndarray:
        """Which examples batch n has, (B,)."""
        epoch, i = divmod(n, len(self))
        if epoch != self._epoch:
            self._epoch, self._rows = epoch, self._order(epoch)
        return self._rows[i]

    def _order(self, epoch: int) -> list[np.ndarray]:
        lengths, size = self.lengths, self.batch_size
        if self.seed is None:
            order = np.argsort(lengths, kind="stable")
            return [order[i:i + size] for i in range(0, len(order), size)]
        rng = np.random.default_rng([self.seed, epoch])
        order, pool = rng.permutation(len(lengths)), size * self.POOL
        order = np.concatenate([p[np.argsort(lengths[p], kind="stable")]
                                for p in np.split(order, range(pool, len(order), pool))])
        batches = [order[i:i + size] for i in range(0, len(order), size)]
        return [batches[i] for i in rng.permutation(len(batches))]

    def __getitem__(self, n: int) -> tuple[Tensor, ...]:
        """input_ids, segment_ids, input_mask (B, S) and label_ids (B,) of batch n, on the CPU."""
        features, rows = self.features, self.rows(n)
        lengths = self.lengths[rows][:, None]                                   # (B, 1)
        column = np.arange(lengths.max())                                       # (S,)
        mask = column < lengths                                                 # (B, S)
        ids = np.zeros(mask.shape, np.int64)
        ids[mask] = np.concatenate([features.ids[features.starts[r]:features.starts[r + 1]] for r in rows])
        segments = mask & (column >= features.second[rows][:, None])
        return (torch.from_numpy(ids), torch.from_numpy(segments.astype(np.int64)),
                torch.from_numpy(mask.astype(np.int64)), torch.from_numpy(features.labels[rows]))

    def describe(self, n: int) -> str:
        """Batch n in words, for messages."""
        lines = sorted(self.features.lines[self.rows(n)])
        return f"batch {n % len(self) + 1} of epoch {n // len(self) + 1}, lines {', '.join(map(str, lines))}"

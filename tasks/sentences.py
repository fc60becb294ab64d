"""Sentence tasks: where their columns are, their labels and metrics; and from their rows to
batches.

task = TASKS["mrpc"]
features = encode(read_examples(task, "train.tsv"), task, tokenizer, max_len=128)
batches = Batches(features, batch_size=32, seed=42)
input_ids, segment_ids, input_mask, labels = batches[0]             # (B, S) x 3, (B,)
"""

import array
import collections
import contextlib
import dataclasses
import itertools
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tasks import tables
from tokenization import FullTokenizer
from utils import UserError, nearest, note, short, show


@dataclasses.dataclass(frozen=True)
class Task:
    """A task of labelled sentences or pairs in a table.

    A column is named as in tables.read: `premise|sentence1` goes by either name, `sentence|3` by
    its number where a file has no header.
    """

    name: str
    text_a: str  # column of the first text
    text_b: str | None = None  # of the second; None: single sentences
    label: str = "label"  # of the label
    labels: tuple[str, ...] | None = (
        "0",
        "1",
    )  # in the order of their ids; None: a number; (): yet to be found
    metrics: tuple[str, ...] = ("Accuracy",)  # of metrics.METRICS, the one that matters most first
    dev: tuple[str, ...] = (
        "dev.tsv",
    )  # files in the task's folder beside train.tsv, to evaluate on
    test: tuple[str, ...] = ("test.tsv",)  # without labels, to predict
    hand_in: tuple[str, ...] = ()  # what GLUE's site wants the predictions of each to be called
    kin: str = ""  # a task whose models do this one too
    aliases: tuple[tuple[str, str], ...] = ()  # other spellings of labels
    short_rows: bool = False  # rows with too few fields are known: skip and report them
    form: str = "tsv"  # of tables.FORMATS
    header: bool | None = None  # whether files have one; None: look
    separator: str = ""  # between several labels of one text; "": always one

    def __post_init__(self) -> None:
        if self.form not in (*tables.FORMATS, "lines"):
            raise UserError(f"form={show(self.form)}; expected one of {', '.join(tables.FORMATS)}")
        if len(set(self.labels or ())) < len(self.labels or ()):
            raise UserError(f"labels={show(self.labels)}; expected each once")

    def __repr__(self) -> str:
        labels = (
            "a number"
            if self.labels is None
            else short(", ".join(self.labels)) or "labels of its data"
        )
        return f"<task {self.name}: {labels}>"

    @property
    def n_outputs(self) -> int:
        """Scores that a model gives: one for each label, or the number."""
        return 1 if self.labels is None else len(self.labels)

    @property
    def own(self) -> bool:
        """Whether it is the user's own data, not a task that is known."""
        return self.name in tables.FORMATS


NLI = ("contradiction", "entailment", "neutral")
TWO = ("entailment", "not_entailment")
TASKS = {
    task.name: task
    for task in (
        #     name    texts                                 label           labels and metrics
        Task("cola", "sentence|3", None, "label|1", metrics=("Matthews",), hand_in=("CoLA.tsv",)),
        Task("sst2", "sentence", None, "label", hand_in=("SST-2.tsv",)),
        Task(
            "mrpc",
            "#1 String",
            "#2 String",
            "Quality",
            metrics=("Accuracy", "F1"),
            hand_in=("MRPC.tsv",),
        ),
        Task(
            "stsb",
            "sentence1",
            "sentence2",
            "score",
            None,
            ("Pearson", "Spearman"),
            hand_in=("STS-B.tsv",),
        ),
        Task(
            "qqp",
            "question1",
            "question2",
            "is_duplicate",
            metrics=("Accuracy", "F1"),
            hand_in=("QQP.tsv",),
            short_rows=True,
        ),
        Task(
            "mnli",
            "sentence1",
            "sentence2",
            "gold_label",
            NLI,
            hand_in=("MNLI-m.tsv", "MNLI-mm.tsv"),
            dev=("dev_matched.tsv", "dev_mismatched.tsv"),
            test=("test_matched.tsv", "test_mismatched.tsv"),
            kin="xnli",
        ),
        Task("qnli", "question", "sentence", "label", TWO, hand_in=("QNLI.tsv",)),
        Task("rte", "sentence1", "sentence2", "label", TWO, hand_in=("RTE.tsv",)),
        Task("wnli", "sentence1", "sentence2", "label", hand_in=("WNLI.tsv",)),
        Task(
            "ax",
            "sentence1",
            "sentence2",
            "label",
            NLI,
            ("Matthews",),
            test=("diagnostic.tsv",),
            hand_in=("AX.tsv",),
            kin="mnli",
        ),
        Task(
            "xnli",
            "premise|sentence1",
            "hypo|sentence2",
            "label|gold_label",
            NLI,
            kin="mnli",
            aliases=(("contradictory", "contradiction"),),
        ),
        Task("csv", "text|sentence|0", None, "label|1", (), form="csv"),
        Task("tsv", "text|sentence|0", None, "label|1", (), form="tsv"),
        Task("jsonl", "text|sentence|0", None, "label|1", (), form="jsonl"),
    )
}


def get_task(name: str) -> Task:
    """A task by its name: mrpc, SST-2, sts_b ..."""
    key = name.lower().replace("-", "").replace("_", "")
    if key not in TASKS:
        raise UserError(
            f"--task {short(name)}: unknown task{nearest(key, TASKS)}; the tasks are "
            f"{', '.join(TASKS)}"
        )
    return TASKS[key]


def own_task(
    task: Task,
    text_a: str | None = None,
    text_b: str | None = None,
    label: str | None = None,
    labels: str | None = None,
    header: bool | None = None,
    separator: str | None = None,
) -> Task:
    """A task whose columns or labels are others than usual. `labels`: a comma list, or "number"."""
    changes: dict = {
        name: value
        for name, value in (
            ("text_a", text_a),
            ("text_b", text_b),
            ("label", label),
            ("header", header),
        )
        if value is not None
    }
    if labels == "number":
        if separator:
            raise UserError(
                "--separator is for several labels of a text, --labels number for a number; leave "
                "one out"
            )
        changes |= {"labels": None, "metrics": ("Pearson", "Spearman")}
    elif labels is not None:
        names = [name.strip() for name in labels.split(",")]
        if len(set(names)) < len(names) or not all(names) or len(names) < 2:
            raise UserError(
                f"--labels {labels}: expected different labels with commas between them, or number"
            )
        changes["labels"] = tuple(names)
    if separator and not task.own:
        raise UserError(f"--separator is for data of your own; a text of {task.name} has one label")
    if separator:
        changes |= {"separator": separator, "metrics": ("F1", "Accuracy")}
    return dataclasses.replace(task, **changes)


# --------------------------------------------------------------------------------------------- rows


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """A row of a task's file."""

    line: int  # in the file, from 1
    text_a: str
    text_b: str | None
    label: str | None  # None where there is none


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of a task's file, and which columns they were read from."""

    file: str
    examples: list[Example]
    columns: dict[str, str]  # text_a, text_b, label -> a header's name, or a number
    header: bool

    def __repr__(self) -> str:
        return f"<{self.describe()}>"

    def describe(self) -> str:
        """What was understood, in a line: rows, which column is what, and the labels with their
        counts.
        """
        labels = collections.Counter(
            example.label for example in self.examples if example.label is not None
        )
        return understood(self.file, len(self.examples), self.columns, self.header, labels)


def understood(
    file: str, n: int, columns: dict[str, str], header: bool, labels: collections.Counter[str]
) -> str:
    """What was understood of a table of n rows, in a line."""
    words = {use: repr(name) if header else f"column {name}" for use, name in columns.items()}
    texts = [words[use] for use in ("text_a", "text_b") if use in words]
    parts = [f"{file}: {n} rows" + ("" if header else " without a header")]
    parts.append(f"{'texts' if len(texts) > 1 else 'text'}: {', '.join(texts)}")
    if "label" in words and labels:
        parts.append(f"label: {words['label']} ({counted(labels)})")
    return "; ".join(parts)


def counted(labels: collections.Counter[str]) -> str:
    """Labels and how often each occurs, sorted; of many the range or the first.  'neg 12, pos 8'"""
    if len(labels) <= 10:
        return ", ".join(f"{short(name, 30)} {labels[name]}" for name in sorted(labels))
    with contextlib.suppress(ValueError):
        numbers = [float(name) for name in labels]
        return f"{min(numbers):g} to {max(numbers):g}"
    first = sorted(labels)[:3]
    return (
        ", ".join(f"{short(name, 30)} {labels[name]}" for name in first)
        + f" and {len(labels) - 3} more labels"
    )


def read_rows(task: Task, file: str | Path, labelled: bool = True) -> Rows:
    """All rows of a file, as iterate() gives them.

    UserError where a first row that names no column may be a header all the same: its label is that
    of no other row, and the others have few.
    """
    table, rows = open_rows(task, file, labelled)
    examples = list(rows)
    if not examples:
        raise UserError(f"{file} has a header and no rows; expected rows of {task.name}")
    if task.own and task.header is None and not table.header and labelled and task.labels == ():
        first, *others = (split_labels(task, example.label or "") for example in examples)
        known = collections.Counter(itertools.chain.from_iterable(others))
        if first and not known.keys() & set(first) and len(known) <= known.total() / 2:
            raise UserError(
                f"{file}: is its first row a header? Its label, {show(examples[0].label)}, is that "
                "of no other "
                f"row. {HEADER_HINT}"
            )
    return Rows(str(file), examples, table.names, table.header)


HEADER_HINT = "If the first row is a header, name its columns with --text_a and --label; if not, add --header False"


def with_columns(task: Task, rows: Rows) -> Task:
    """A task of the user's own data with the columns that a header has named, so that other files
    have to have them.
    """
    columns: dict = rows.columns
    return dataclasses.replace(task, **columns) if task.own and rows.header else task


def read_examples(task: Task, file: str | Path, labelled: bool = True) -> list[Example]:
    """The rows of a file; UserError names the line where a column is missing or the label is none
    of the task's.
    """
    return read_rows(task, file, labelled).examples


def iterate(task: Task, file: str | Path, labelled: bool = True) -> Iterator[Example]:
    """The rows of a file one by one; unless `labelled`, without their labels. `-` is standard
    input.

    A task whose form is "lines" takes a text a line, of a pair a tab between the two; or a tsv with
    the task's header.
    """
    yield from open_rows(task, file, labelled)[1]


def open_rows(
    task: Task, file: str | Path, labelled: bool = True
) -> tuple[tables.Table, Iterator[Example]]:
    """The table in a file, and its rows for iterate()."""
    form = (
        Path(file).suffix[1:] if task.own and Path(file).suffix[1:] in tables.FORMATS else task.form
    )
    wanted = {
        "text_a": task.text_a,
        "text_b": task.text_b,
        "label": task.label if labelled else None,
    }
    if form == "lines":
        for i, use in enumerate(("text_a", "text_b")):
            names = [
                name for name in (wanted[use] or "").split("|") if name and not tables.number(name)
            ]
            wanted[use] = "|".join([*names, str(i)]) if wanted[use] else None
    table = tables.read(
        file,
        form,
        wanted,
        None if form == "lines" else task.header,
        task.separator or ",",
        optional=("text_b",) if form == "lines" else (),
    )
    if task.text_b and table.columns["text_b"] is None:
        raise UserError(
            f"{table.name}, line 1: one text, and the model compares two; put a tab between them"
        )
    return table, parse_rows(task, table, labelled, lines=form == "lines")


def parse_rows(task: Task, table: tables.Table, labelled: bool, lines: bool) -> Iterator[Example]:
    """The rows of a table as examples, checked; in the end notes of what was skipped."""
    a, b, label = (table.columns.get(use) for use in ("text_a", "text_b", "label"))
    whole_line = lines and b is None and not table.header
    assert a is not None
    aliases, short_rows, empty = dict(task.aliases), [], []
    may_be_header = task.own and task.header is None and not table.header and not lines
    rows = table.rows
    if may_be_header and not labelled:
        start = list(itertools.islice(rows, 2))
        if len(start) == 2 and looks_like_header(task, start[0][1], start[1][1]):
            raise UserError(
                f"{table.name}: is its first row a header? {short(', '.join(start[0][1]))}. "
                f"{HEADER_HINT}"
            )
        rows = itertools.chain(start, rows)
    for number, (line, fields) in enumerate(rows):
        if whole_line:
            fields = ["\t".join(fields)]
        elif len(fields) != table.width:
            if fields == [""]:  # a blank line
                continue
            if (
                not task.short_rows or not labelled or len(fields) > table.width
            ):  # predictions have to keep count
                raise UserError(
                    f"{table.name}, line {line}: {len(fields)} columns; expected {table.width} as "
                    "in the first "
                    f"row; mend the line"
                )
            short_rows.append(f"line {line} has {len(fields)} columns, not {table.width}")
            continue
        name = None
        if label is not None:
            name = fields[label].strip()
            name = aliases.get(name, name)
            check_label(
                task,
                name,
                f"{table.name}, line {line}",
                HEADER_HINT if may_be_header and number == 0 else "",
            )
        if not fields[a].strip() or (b is not None and not fields[b].strip()):
            empty.append(line)
        yield Example(line, fields[a], None if b is None else fields[b], name)
    if short_rows:
        rest = " ..." if len(short_rows) > 3 else ""
        note(
            f"{table.name}: skipped {len(short_rows)} of its rows: "
            f"{'; '.join(short_rows[:3])}{rest}"
        )
    if empty:
        note(
            f"{table.name}: {len(empty)} rows have an empty text, the first of them line {empty[0]}"
        )


def are_names(fields: list[str]) -> bool:
    """Whether all fields are single words, as the names of columns are."""
    return all(re.fullmatch(r"\s*[^\W\d]\w*\s*", field) for field in fields)


def looks_like_header(task: Task, first: list[str], second: list[str]) -> bool:
    """Whether of the first two rows of a file only the second has one of the task's labels where
    labels are; where there are none, whether only the first is a row of single words.
    """
    column = next((int(name) for name in task.label.split("|") if tables.number(name)), None)
    if column is None or not task.labels or min(len(first), len(second)) <= column:
        return are_names(first) and not are_names(second)
    return first[column].strip() not in task.labels and second[column].strip() in task.labels


def check_label(task: Task, label: str, where: str, hint: str = "") -> None:
    """UserError where a label is none of the task's, or not a number where one is wanted."""
    hint = hint and f". {hint}"
    if task.labels is None:
        try:
            if math.isfinite(float(label)):
                return
        except ValueError:
            pass
        raise UserError(f"{where}: label {show(label)}; expected a number{hint}")
    for name in split_labels(task, label) if task.labels else ():
        if name not in task.labels:
            known = ", ".join(task.labels[:20])
            if len(task.labels) > 20:
                known += " ..."
            raise UserError(
                f"{where}: unknown label {show(name)}{nearest(name, task.labels)}; "
                f"the labels of {task.name} are {short(known, 100)}{hint}"
            )


def split_labels(task: Task, label: str) -> list[str]:
    """The labels in a field: one, or where there is a separator any number."""
    return (
        [part.strip() for part in label.split(task.separator) if part.strip()]
        if task.separator
        else [label]
    )


def find_labels(task: Task, examples: list[Example]) -> Task:
    """The task with the labels that the examples have, in sorted order; UserError where there can
    be none to learn.
    """
    found = sorted(
        {name for example in examples for name in split_labels(task, example.label or "")}
    )
    column = f"the column {task.label.replace('|', ' or ')!r}"
    if len(found) < 2 and not (task.separator and found):
        raise UserError(
            f"{column} has the label {', '.join(map(repr, found)) or 'none'} in all "
            f"{len(examples)} rows; "
            f"expected two labels or more; name the right column with --label"
        )
    if len(found) > 2 and len(found) > len(examples) / 2:
        raise UserError(
            f"{column} has {len(found)} labels in {len(examples)} rows, such as "
            f"{show(found[0], 40)}; name "
            f"the right column with --label, name all labels with --labels, or use --labels number"
        )
    if odd := [name for name in found if not name or {"\t", "\n", "\r"} & set(name)]:
        raise UserError(
            f"{column} has the label {odd[0]!r}; expected no empty labels, and no tabs or line "
            "ends in them"
        )
    return dataclasses.replace(task, labels=tuple(found))


# ----------------------------------------------------------------------------------------- features


@dataclasses.dataclass(frozen=True)
class Features:
    """N inputs as token ids, one after the other in flat arrays."""

    ids: np.ndarray  # (all tokens,) int32: [CLS] a [SEP], or [CLS] a [SEP] b [SEP]
    starts: np.ndarray  # (N + 1,) where each input starts, and the end
    second: np.ndarray  # (N,) at which of its tokens segment 1 starts
    labels: (
        np.ndarray
    )  # (N,) label ids or numbers, or (N, labels) of 0 and 1 where a text has several
    lines: np.ndarray  # (N,) lines of the file
    first: np.ndarray | None = None  # where each example's inputs start, if long texts have several
    cut: tuple[int, int] = (0, 0)  # examples that were truncated, and their tokens that are lost

    def __len__(self) -> int:
        return len(self.lines)

    def __repr__(self) -> str:
        return f"<{len(self)} inputs of {len(self.ids)} tokens>"

    @property
    def lengths(self) -> np.ndarray:
        """(N,) tokens of each input."""
        return np.diff(self.starts)

    @property
    def example_labels(self) -> np.ndarray:
        """The labels of the examples."""
        return self.labels if self.first is None else self.labels[self.first]

    def average(self, scores: np.ndarray) -> np.ndarray:
        """(N, ...) scores of inputs -> (examples, ...), the mean of those of each."""
        if self.first is None:
            return scores
        counts = np.diff(np.append(self.first, len(self)))
        return np.add.reduceat(scores, self.first) / counts.reshape(
            -1, *[1] * (scores.ndim - 1)
        ).astype(scores.dtype)


def truncate_pair(a: list[int], b: list[int], room: int) -> tuple[list[int], list[int]]:
    """Google's rule: while both together are too long, the longer one loses its last token, on a
    tie the second.
    """
    keep_a, keep_b = len(a), len(b)
    while keep_a + keep_b > room:
        if keep_a > keep_b:
            keep_a -= 1
        else:
            keep_b -= 1
    return a[:keep_a], b[:keep_b]


def windows(n: int, room: int) -> list[int]:
    """Where windows of `room` tokens start that cover n, evenly, each a quarter or more within its
    neighbour.

    windows(10, 12) -> [0]      windows(20, 12) -> [0, 8]       windows(30, 12) -> [0, 9, 18]
    """
    count = 1 + max(0, math.ceil((n - room) / (room - room // 4)))
    return [round(i * (n - room) / (count - 1)) for i in range(count)] if count > 1 else [0]


def pieces(
    a: list[int], b: list[int] | None, room: int, long: str
) -> list[tuple[list[int], list[int]]]:
    """The texts that fit into `room` tokens: truncated, or as windows over the longer one (the
    other has at most half).
    """
    b = b or []
    if len(a) + len(b) <= room:
        return [(a, b)]
    if long != "window":
        return [truncate_pair(a, b, room)]
    if len(a) > len(b):
        b = b[: room // 2]
        width = room - len(b)
        return [(a[i : i + width], b) for i in windows(len(a), width)]
    a = a[: room // 2]
    width = room - len(a)
    return [(a, b[i : i + width]) for i in windows(len(b), width)]


def encode(
    examples: Iterable[Example],
    task: Task,
    tokenizer: FullTokenizer,
    max_len: int,
    long: str = "truncate",
) -> Features:
    """Tokenise rows into [CLS] a [SEP] or [CLS] a [SEP] b [SEP] of at most max_len tokens.

    What is longer is truncated or, with long="window", becomes several inputs of one example.
    """
    if max_len < (least := 3 if task.text_b is None else 5):
        raise UserError(f"max_len={max_len}; a row of {task.name} needs at least {least} tokens")
    cls, sep = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]"])
    examples = list(examples)
    flat = array.array("i")
    starts, cut, lost = [0], 0, 0
    second, lines, first = list[int](), list[int](), list[int]()
    for example in examples:
        a = tokenizer.encode(example.text_a)
        single = example.text_b is None
        b = None if example.text_b is None else tokenizer.encode(example.text_b)
        first.append(len(lines))
        parts = pieces(a, b, max_len - (2 if single else 3), long)
        for kept_a, kept_b in parts:
            flat.extend([cls, *kept_a, sep] if single else [cls, *kept_a, sep, *kept_b, sep])
            second.append(len(kept_a) + 2)
            starts.append(len(flat))
            lines.append(example.line)
        if long != "window" and (over := len(a) + len(b or ()) - len(kept_a) - len(kept_b)):
            cut, lost = cut + 1, lost + over
    windowed = len(lines) > len(examples)
    labels = label_array(task, [example.label for example in examples])
    if windowed:
        labels = labels[np.repeat(np.arange(len(first)), np.diff([*first, len(lines)]))]
    return Features(
        np.array(flat, np.int32),
        np.array(starts),
        np.array(second, int),
        labels,
        np.array(lines, int),
        np.array(first) if windowed else None,
        (cut, lost),
    )


def label_array(task: Task, labels: list[str | None]) -> np.ndarray:
    """Labels as what a model learns: numbers, ids, or where a text has several a row of 0 and 1.
    Those of None are 0.
    """
    if task.labels is None:
        return np.array([float(label or 0) for label in labels], np.float32)
    ids = {name: i for i, name in enumerate(task.labels)}
    if not task.separator:
        return np.array([0 if label is None else ids[label] for label in labels], np.int64)
    array = np.zeros((len(labels), len(ids)), np.float32)
    for row, label in enumerate(labels):
        array[row, [ids[name] for name in split_labels(task, label or "")]] = 1
    return array


class Batches:
    """An endless row of batches: batches[n] is a function of the seed and n, whatever was asked for
    before.

    Every epoch visits each example once. Examples of similar length share a batch, so that little
    is padded: the shuffled examples are cut into pools, each is sorted by length and cut into
    batches, and the batches are shuffled. Without a seed nothing is shuffled: the examples are
    sorted by length as a whole, for evaluation.
    """

    POOL = 50  # batches

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
            return [order[i : i + size] for i in range(0, len(order), size)]
        rng = np.random.default_rng([self.seed, epoch])
        order, pool = rng.permutation(len(lengths)), size * self.POOL
        order = np.concatenate(
            [
                p[np.argsort(lengths[p], kind="stable")]
                for p in np.split(order, range(pool, len(order), pool))
            ]
        )
        batches = [order[i : i + size] for i in range(0, len(order), size)]
        return [batches[i] for i in rng.permutation(len(batches))]

    def __getitem__(self, n: int) -> tuple[Tensor, ...]:
        """All of batch n."""
        return self.part(n, 0, 1)

    def part(self, n: int, first: int, step: int) -> tuple[Tensor, ...]:
        """input_ids, segment_ids, input_mask (B, S) and labels (B,) or (B, labels) of every
        `step`-th row of batch n, from the first one on, on the CPU.
        """
        features, rows = self.features, self.rows(n)[first::step]
        lengths = self.lengths[rows][:, None]  # (B, 1)
        column = np.arange(lengths.max())  # (S,)
        mask = column < lengths  # (B, S)
        ids = np.zeros(mask.shape, np.int64)
        ids[mask] = np.concatenate(
            [features.ids[features.starts[r] : features.starts[r + 1]] for r in rows]
        )
        segments = mask & (column >= features.second[rows][:, None])
        return (
            torch.from_numpy(ids),
            torch.from_numpy(segments.astype(np.int64)),
            torch.from_numpy(mask.astype(np.int64)),
            torch.from_numpy(features.labels[rows]),
        )

    def describe(self, n: int) -> str:
        """Batch n in words, for messages."""
        lines = sorted(self.features.lines[self.rows(n)])
        return f"batch {n % len(self) + 1} of epoch {n // len(self) + 1}, lines {', '.join(map(str, lines))}"

"""What the table of a task of labelled texts is like: its columns, its labels, its form.

TableConfig("sst2", "sentence").label_array(["1", "0"])  # [1, 0]
"""

import contextlib
import dataclasses
import math
import re

import numpy as np

from system import texts
from tasks.encoding import LONG
from tasks.labels import split_label
from tasks.table_rows import FORMS
from utils import UserError, nearest, short, show

# What is said of a file, or asked of it, and is no setting of the model that is trained on it.
READING = ("encoding", "plain_numbers", "split_by", "unlabelled", "empty", "sure", "weighting")
LARGEST = float(np.finfo(np.float32).max)  # of the labels that are numbers


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """A row of a task's file."""

    line: int  # in the file, from 1
    text_a: str
    text_b: str | None
    label: str | None  # None where there is none
    group: str = ""  # what it shares with other rows of its line
    fields: tuple[str, ...] = ()  # all of its row, where they were asked for

    @property
    def texts(self) -> tuple[str, str | None]:
        """Both texts."""
        return self.text_a, self.text_b


@dataclasses.dataclass(frozen=True, repr=False)
class TableConfig:
    """The columns of labelled sentences or pairs, and what is learned from them.

    A column is named as in tables.read: `premise|sentence1` goes by either name, `sentence|3` by
    its number where a file has no header.
    """

    name: str  # of known.KNOWN
    text_a: str  # column of the first text
    text_b: str | None = None  # of the second; None: single sentences
    label: str = "label"  # of the label
    # In the order of their ids; (): those of the training data.
    labels: tuple[str, ...] = ("0", "1")
    number: bool = False  # whether the label is a number; then there are no labels
    separator: str = ""  # between several labels of one text; "": always one
    aliases: tuple[tuple[str, str], ...] = ()  # other spellings of labels
    short_rows: bool = False  # rows with too few fields are known: skip and report them
    form: str = "tsv"  # of table_rows.FORMS, or "lines": a text a line
    header: bool | None = None  # whether files have one; None: look
    no_text: str = ""  # what stands for a missing text: skip and report such rows
    # Column of the rows that answer one thing together; it counts within a line of the file.
    group: str | None = None
    delimiter: str | None = None  # between the fields of a csv; None: look
    sure: bool = False  # labels are learnt as they are found, whatever they look like
    metric_names: tuple[str, ...] = ("Accuracy",)  # of metrics.METRICS, the most important first
    # Files beside train.tsv, to evaluate. superglue.FILES has their names in SuperGLUE.
    dev: tuple[str, ...] = ("dev.tsv",)
    test: tuple[str, ...] = ("test.tsv",)  # without labels, to predict
    submission: tuple[str, ...] = ()  # what GLUE's site wants their predictions to be called
    compatible_with: str = ""  # a task whose models do this one too
    any_texts: bool = False  # texts and pairs alike: of a model that does not say which it takes
    max_len: int = dataclasses.field(default=128, kw_only=True)  # tokens
    long: str = "truncate"  # what becomes of longer texts: one of features.LONG
    # What each label counts in the loss: of a text with several, where it is present; (): 1 each.
    class_weights: tuple[float, ...] = ()
    weighting: str = ""  # "balanced": class_weights as the training data have labels
    temperature: float = 1.0  # what scores are divided by
    # A number is learnt as how many spreads it is above the mean, so that prices train as stars do.
    mean: float = 0.0
    spread: float = 1.0
    scale: tuple[int, ...] = ()  # the least and the largest of whole numbers that are answered
    plain_numbers: bool = False  # learn numbers as they are, as earlier versions did
    # Of several labels of a text the probability of each from which on it is answered; else one,
    # below which nothing is. (): one half; always answer.
    thresholds: tuple[float, ...] = ()
    # How a file is read, which belongs to it alone: see READING.
    encoding: str | None = dataclasses.field(default=None, kw_only=True)  # where it is not UTF-8
    split_by: str | None = None  # column whose rows stay together where the file is divided
    unlabelled: str = ""  # "drop": rows without a label are left out; "": they are asked about
    empty: str = ""  # "drop": rows without a text are left out; "keep"; "": they are asked about

    def __post_init__(self) -> None:
        if self.form not in (*FORMS, "lines"):
            raise UserError(f"form={show(self.form)}; expected one of {', '.join(FORMS)}")
        # The order of the labels is the order of ids; one that occurs twice would have two.
        if len(set(self.labels)) < len(self.labels):
            raise UserError(f"labels={show(self.labels)}; expected each once")
        if self.delimiter is not None and len(self.delimiter) != 1:
            raise UserError(f"delimiter={show(self.delimiter)}; expected one character")
        texts.check_encoding(self.encoding)
        for name, known in (("unlabelled", ("drop",)), ("empty", ("drop", "keep"))):
            if (value := getattr(self, name)) not in ("", *known):
                raise UserError(f"`{name}={show(value)}`: expected {' or '.join(known)}")
        self.check_decisions()
        if self.long not in LONG:
            raise UserError(f"`long={show(self.long)}`: expected {', '.join(LONG)}")

    def check_decisions(self) -> None:
        """UserError for weights, a temperature or thresholds that cannot be meant."""
        asked = self.weighting or self.class_weights or self.thresholds
        if self.number and (asked or self.temperature != 1):
            raise UserError("class weights, thresholds and calibration are for labels, not numbers")
        if self.weighting not in ("", "balanced"):
            raise UserError(f"class_weights={show(self.weighting)}: expected balanced, or numbers")
        n = len(self.labels)
        if self.class_weights and n and len(self.class_weights) != n:
            raise UserError(
                f"class_weights has {len(self.class_weights)} numbers; expected {n}, one for each "
                f"label: {short(', '.join(self.labels), 100)}"
            )
        if not all(0 < weight < math.inf for weight in (*self.class_weights, self.temperature)):
            raise UserError("class weights and a temperature have to be above 0, and finite")
        if not (math.isfinite(self.mean) and 0 < self.spread < math.inf):
            raise UserError(f"mean={self.mean}, spread={self.spread}: expected finite numbers")
        if self.scale and not (len(self.scale) == 2 and self.scale[0] < self.scale[1]):
            raise UserError(f"scale={show(list(self.scale))}; expected the least and the largest")
        if not all(0 <= threshold <= 1 for threshold in self.thresholds):
            raise UserError(f"threshold={show(list(self.thresholds))}; expected 0 to 1")
        expected = n if self.separator else 1
        if self.thresholds and n and len(self.thresholds) not in (1, expected):
            raise UserError(f"{len(self.thresholds)} thresholds; expected {expected}")

    def __repr__(self) -> str:
        return f"<task {self.name}: {self.describe_labels()}>"

    @property
    def problem_type(self) -> str:
        """What an answer is, in transformers' words: a label, several, or a number."""
        if self.number:
            return "regression"
        labels = "multi" if self.separator else "single"
        return f"{labels}_label_classification"

    @property
    def lacks_labels(self) -> bool:
        """Whether the labels are yet to be found in the training data."""
        return not self.number and not self.labels

    @property
    def n_outputs(self) -> int:
        """Scores that a model gives: one for each label, or the number."""
        return 1 if self.number else len(self.labels)

    @property
    def custom(self) -> bool:
        """Whether it is the user's own data, not a task that is known."""
        # The names of forms are the names of tasks for the user's own data.
        return self.name in FORMS

    def describe_labels(self) -> str:
        """'0, 1', 'a number' or 'labels of its data'."""
        if self.scale:
            return f"a whole number from {self.scale[0]} to {self.scale[1]}"
        if self.number:
            return "a number"
        return short(", ".join(self.labels)) or "labels of its data"

    # ----------------------------------------------------------------------------------- labels

    def split_label(self, label: str) -> list[str]:
        """The labels in a field: one, or where there is a separator any number."""
        return split_label(label, self.separator)

    def label_array(self, labels: list[str | None]) -> np.ndarray:
        """What a model learns: numbers, ids, or rows of 0 and 1; those of None are 0."""
        if self.number:
            # float32, as the squared error needs. A missing label is 0: it is not looked at when
            # predicting.
            return np.array([float(label or 0) for label in labels], np.float32)
        ids = {name: i for i, name in enumerate(self.labels)}
        if not self.separator:
            # int64, as PyTorch's cross-entropy takes class ids.
            return np.array([0 if label is None else ids[label] for label in labels], np.int64)
        # (N, labels), as the binary cross-entropy takes them; float32 for the same reason.
        array = np.zeros((len(labels), len(ids)), np.float32)
        for row, label in enumerate(labels):
            array[row, [ids[name] for name in self.split_label(label or "")]] = 1
        return array

    def check_label(self, label: str, where: str, hint: str = "") -> None:
        """UserError where a label is none of the task's, or not a number where one is wanted."""
        hint = hint and f". {hint}"
        if self.number:
            expected = "a number"
            # float() takes "nan" and "inf" too, from which no gradient follows.
            with contextlib.suppress(ValueError):
                # Python takes 1_000 too, and digits of any script.
                if not re.fullmatch(r"[-+.\deE]+|nan|-?inf.*", label, re.ASCII | re.IGNORECASE):
                    raise ValueError
                number = float(label)
                if self.scale:
                    low, high = self.scale
                    expected = f"a number from {low} to {high}"
                    if low <= number <= high:
                        return
                elif abs(number) <= LARGEST:
                    return
                if not math.isnan(number) and not self.scale:
                    expected = f"a number from {-LARGEST:.6g} to {LARGEST:.6g}"
            if re.fullmatch(r"-?\d+,\d+", label):
                expected += ", with a point before its decimals"
            raise UserError(f"{where}: label {show(label)}; expected {expected}{hint}")
        # The labels are still to be found in this very file.
        if self.lacks_labels:
            return
        for name in self.split_label(label):
            if name not in self.labels:
                # A task may have hundreds of labels; a message has one line.
                more = " ..." if len(self.labels) > 20 else ""
                known = short(", ".join(self.labels[:20]) + more, 100)
                raise UserError(
                    f"{where}: unknown label {show(name)}{nearest(name, self.labels)}; the labels "
                    f"of {self.name} are {known}{hint}"
                )

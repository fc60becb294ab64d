"""Labels as they stand in a file: lists of several, and what looks as if it were no label.

    listed("['toxic', 'insult']")           # ["toxic", "insult"]
    listed('{"toxic": 1, "insult": 0}')     # ["toxic"]
    question({"5": 20, "5.0": 1, "1": 19})   # "'5' and '5.0' are the same number", "5.0"

What is learnt from data of one's own follows from the labels that are found there. A placeholder, a
misspelling or a list that is taken for a class would be learnt as one, without a word.
"""

import ast
import collections
import contextlib
import json
import re
import shlex
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from utils import in_a_line, short, show

# What other programs write where there is no label, in lower case.
PLACEHOLDERS = {"nan", "n/a", "#n/a", "na", "<na>", "none", "null", "nil", "?", "-", "--", "."}
# With fewer rows than this each label may well occur once.
FEW_ROWS = 10


def split_label(label: str, separator: str) -> list[str]:
    """The labels in a field: one, or where there is a separator any number."""
    # Without a separator a comma or a space belongs to the label.
    if not separator:
        return [label]
    return [part.strip() for part in label.split(separator) if part.strip()]


def listed(field: str) -> list[str] | None:
    """The labels in a field that is a list, of JSON or of Python, or an object of 0 and 1.

    None for any other field, which is a label itself. A list of 0 and 1 stays one; see in_places().
    """
    if field[:1] + field[-1:] not in ("[]", "{}"):
        return None
    try:
        value = json.loads(field)
    except ValueError:
        try:
            value = ast.literal_eval(field)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    except RecursionError:
        return None
    if isinstance(value, dict) and all(is_bit(item) for item in value.values()):
        return [str(name) for name, item in value.items() if item]
    # Spans, say, are lists of lists, which are no labels.
    if not isinstance(value, list) or not all(isinstance(x, str | int | float) for x in value):
        return None
    return [item if isinstance(item, str) else json.dumps(item) for item in value]


def is_bit(value: Any) -> bool:
    """Whether a value says that a text has a label, or that it has not."""
    return isinstance(value, bool | int | float) and value in (0, 1)


BITS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}


def in_places(items: list[str], labels: tuple[str, ...]) -> list[str]:
    """The labels that a list names, or whose places have a 1: [0, 1, 0] of a, b, c -> [b]"""
    is_list_of_bits = len(items) == len(labels) and all(item in BITS for item in items)
    if is_list_of_bits and not set(items) <= set(labels):
        return [label for item, label in zip(items, labels, strict=True) if BITS[item]]
    return items


def question(counts: Mapping[str, int]) -> tuple[str, str]:
    """What is to be asked about labels that were found, with how often each occurs, and of which.

    The rarest of them; "" where there is nothing to ask.
    """
    if same := alike(counts):
        first, other = same
        what = "the same number" if is_number(first) else "alike but for how they are written"
        return f"the labels {show(first)} and {show(other)} are {what}", other
    missing = [label for label in counts if label.casefold() in PLACEHOLDERS]
    if missing:
        names = ", ".join(map(show, missing[:3]))
        ending = "s" if len(missing) > 1 else ""
        return f"the label{ending} {names} may stand for none", missing[0]
    # Between labels that occur alone, too.
    for label in counts:
        for separator in "|;,":
            parts = [part.strip() for part in label.split(separator)]
            if len(parts) > 1 and all(part in counts for part in parts):
                what = f"the label {show(label)} may be several, with {separator!r} between them"
                return f"{what} (`separator={shlex.quote(separator)}`)", label
    single = [label for label, n in counts.items() if n == 1]
    # Of a few rows, nothing follows from that.
    if single and sum(counts.values()) >= FEW_ROWS:
        return f"the label {show(single[0])} occurs once", single[0]
    return "", ""


def alike(counts: Mapping[str, int]) -> tuple[str, str] | None:
    """Two labels that differ in nothing but how they are written, the more frequent one first."""
    seen: dict[str, str] = {}
    for label in sorted(counts, key=lambda label: -counts[label]):
        if (first := seen.setdefault(normal(label), label)) != label:
            return first, label
    return None


def normal(label: str) -> str:
    """A label without what is written in different ways.

    Capitals, blanks, quotes, accents, wide and invisible characters, forms of a number.
    """
    text = unicodedata.normalize("NFKC", label)
    text = "".join(char for char in text if unicodedata.category(char) != "Cf")
    text = " ".join(text.strip("\"' ").split()).casefold()
    number = re.sub(r"^(-?\d+),(\d+)$", r"\1.\2", text)
    number = {"true": "1", "false": "0"}.get(number, number)
    return repr(float(number)) if is_number(number) else text


def is_number(label: str) -> bool:
    """Whether a label is a number in digits; "nan" and "infinity" are words."""
    try:
        return abs(float(label)) < float("inf")
    except ValueError:
        return False


def places(
    ours: Sequence[str], theirs: Sequence[str], n_scores: int, number: bool = False
) -> list[int] | None:
    """Which of a classifier's scores each of our labels has; None if its labels are others.

    Ours as MNLI has them, theirs neutral, entailment, contradiction -> [2, 1, 0]. LABEL_0, LABEL_1
    and so on are our own order.
    """
    # The same names, also where they differ in capitals alone: US and us are two labels.
    if theirs and set(theirs) == set(ours):
        return [theirs.index(label) for label in ours]
    # Hugging Face calls labels LABEL_0, LABEL_1 where nobody has named them.
    numbered = [f"label_{i}" for i in range(n_scores)]
    names = [name.lower() for name in theirs or numbered]
    if names == numbered:
        return list(range(n_scores))
    # Published models often write MNLI's labels in capitals.
    lower = [label.lower() for label in ours]
    if number or len(set(names)) < n_scores or set(names) != set(lower):
        return None
    return [names.index(label) for label in lower]


def labels_in_words(labels: collections.Counter[str]) -> str:
    """Labels and how often each occurs; of many the range or the first.  'neg 12, pos 8'"""
    if len(labels) > 10:
        # Many different labels are numbers, of which the range says more than a list; or names, of
        # which some do.
        with contextlib.suppress(ValueError):
            numbers = [float(name) for name in labels]
            return f"{min(numbers):g} to {max(numbers):g}"
    shown = sorted(labels) if len(labels) <= 10 else sorted(labels)[:3]
    text = ", ".join(f"{short(in_a_line(name), 30)} {labels[name]}" for name in shown)
    if len(shown) < len(labels):
        text += f" and {len(labels) - len(shown)} more labels"
    return text

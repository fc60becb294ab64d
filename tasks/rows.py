"""Labelled rows of a table: which column is what, and each row as an Example with its line.

rows = read_rows(TASKS["mrpc"], "MRPC/train.tsv")
rows.examples[0]  # Example(line=2, text_a="Amrozi accused ...", text_b=..., label="1")
rows.describe()   # what was understood of the file, in a line
"""

import collections
import dataclasses
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from tasks import superglue, table_rows, tables
from tasks.labels import BITS, in_places, labels_in_words, listed, split_label
from tasks.table_config import Example, TableConfig
from tasks.table_rows import Objects, Source
from utils import UserError, short, show, warn


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of a task's file, and which columns they were read from."""

    file: Source
    examples: list[Example]
    columns: dict[str, str]  # text_a, text_b, label -> a header's name, or a number
    header: bool
    first: list[str]  # the fields of the first row
    delimiter: str  # between fields
    separator: str  # between several labels of a text; "": a text has one

    def __repr__(self) -> str:
        return f"<{self.describe()}>"

    def describe(self) -> str:
        """What was understood: rows, which column is what, and the labels with their counts."""
        counts = count_labels(self.examples, self.separator)
        text = describe_table(
            str(self.file), len(self.examples), self.columns, self.header, counts, self.delimiter
        )
        return f"{text}, several of a text" if self.separator else text


def describe_table(
    file: str,
    n: int,
    columns: dict[str, str],
    header: bool,
    labels: collections.Counter[str],
    delimiter: str = "",
) -> str:
    """What was understood of a table of n rows, in a line."""
    words = {use: repr(name) if header else f"column {name}" for use, name in columns.items()}
    texts = [words[use] for use in ("text_a", "text_b") if use in words]
    parts = [f"{file}: {n} rows"]
    if not header:
        # Whether there is a header was guessed, so it is reported.
        parts[0] += " without a header"
    # Of the usual ones nothing need be said.
    if delimiter not in ("", ",", "\t"):
        parts.append(f"{delimiter!r} between fields")
    parts.append(f"{'texts' if len(texts) > 1 else 'text'}: {', '.join(texts)}")
    if labels:
        where = f" {words['label']}" if "label" in words else " columns"
        parts.append(f"label:{where} ({labels_in_words(labels)})")
    return "; ".join(parts)


def count_labels(examples: list[Example], separator: str) -> collections.Counter[str]:
    """How often each label occurs."""
    fields = (example.label for example in examples if example.label is not None)
    return collections.Counter(name for field in fields for name in split_label(field, separator))


# ------------------------------------------------------------------------------------------ reading


def read_rows(task: TableConfig, file: Source, labelled: bool = True) -> Rows:
    """All rows of a file; UserError where its first row may be a header all the same."""
    table, task = open_table(task, file, labelled)
    # All rows at once, since labels have to be known before the first row is encoded.
    examples = list(parse_rows(task, table, labelled))
    if not examples:
        raise UserError(f"{file} has a header and no rows; expected rows of {task.name}")
    # Only where labels are sought can a header pass for a label: known labels are checked one by
    # one.
    if task.custom and task.header is None and not table.header and labelled and task.lacks_labels:
        check_first_label(task, file, table.fields, examples)
    return Rows(
        file,
        examples,
        table.names,
        table.header,
        table.fields,
        table.delimiter,
        task.separator,
    )


def check_first_label(
    task: TableConfig, file: Source, fields: list[str], examples: list[Example]
) -> None:
    """UserError where the first row's label is that of no other row, and the others have few."""
    first, *others = (task.split_label(example.label or "") for example in examples)
    known = collections.Counter(itertools.chain.from_iterable(others))
    labels_repeat = len(known) <= known.total() / 2
    # A label that all other rows lack, among labels that repeat: most likely the name of the
    # column.
    if first and not known.keys() & set(first) and labels_repeat:
        raise UserError(
            f"{file}: is its first row a header? Its label, {show(examples[0].label)}, is that of "
            f"no other row. {header_hint(fields)}"
        )


def header_hint(fields: list[str]) -> str:
    """What to do where a first row may be a header."""
    names = short(", ".join(fields), 100)
    hint = (
        f"If the first row is a header, name its columns with `text_a` and `label` ({names}); if "
        "not, add `header=False`"
    )
    # A title, or a date, above the header.
    if "" in fields:
        hint += "; lines above a header have to be removed"
    return hint


def read_examples(task: TableConfig, file: Source, labelled: bool = True) -> list[Example]:
    """The rows of a file; UserError names the line where something is missing or unknown."""
    return read_rows(task, file, labelled).examples


def open_rows(
    task: TableConfig, file: Source, labelled: bool = True, with_fields: bool = False
) -> tuple[tables.Table, Iterator[Example]]:
    """The table in a file, and its rows one by one.

    Args:
        labelled: with their labels.
        with_fields: with all fields of each row.
    """
    table, task = open_table(task, file, labelled)
    return table, parse_rows(task, table, labelled, with_fields)


def open_table(
    task: TableConfig, file: Source, labelled: bool = True
) -> tuple[tables.Table, TableConfig]:
    """The table in a file, and the task; with a separator where texts there have several labels.

    `-` is standard input. A task whose form is "lines" takes a text a line, of a pair a tab between
    the two; or a tsv with the task's header.
    """
    form = table_rows.form_of(file, task.form, task.custom)
    # A test file has no labels, and its last column may be anything.
    wanted = {"text_a": task.text_a, "text_b": task.text_b, "label": None, "group": None}
    if labelled:
        wanted |= {"label": task.label, "group": task.group}
        if task.split_by:
            wanted["split_by"] = task.split_by
    # A column of 0 and 1 for each label.
    has_columns = labelled and has_label_columns(task, file, form)
    if has_columns:
        wanted |= {"label": None, **label_columns(task)}
        task = dataclasses.replace(task, separator=task.separator or SEPARATOR)
    header = task.header
    optional: tuple[str, ...] = ()
    if form == "lines":
        header, optional = None, ("text_b",)
        # Where there is no header, the texts are the first columns, whatever the task's are.
        for i, use in enumerate(("text_a", "text_b")):
            if column := wanted[use]:
                names = [name for name in column.split("|") if not tables.is_number(name)]
                wanted[use] = "|".join([*names, str(i)])
    flatten = superglue.FLATTEN.get(task.name)
    table = tables.read(
        file, form, wanted, header, optional, flatten, task.delimiter, task.encoding, task.custom
    )
    # A single column of text cannot be compared with anything.
    if task.text_b and table.columns["text_b"] is None:
        raise UserError(
            f"{table.name}, line 1: one text, and the model compares two; put a tab between them"
        )
    if labelled and task.custom and not task.number and not has_columns:
        task = with_lists(task, table)
    return table, task


SEPARATOR = ","  # between labels that stand in a list


def label_columns(task: TableConfig) -> dict[str, str]:
    """What the columns of 0 and 1 are for, and how they are named."""
    return {f"label {label}": label for label in task.labels}


def has_label_columns(task: TableConfig, file: Source, form: str) -> bool:
    """Whether a table of one's own has a column for each of the task's labels, and none of all."""
    if not task.custom or len(task.labels) < 2:
        return False
    # A pipe cannot be read twice.
    if not isinstance(file, Objects) and not Path(file).is_file():
        return False
    try:
        fields = tables.read(
            file, form, {}, True, delimiter=task.delimiter, encoding=task.encoding
        ).fields
    except UserError:
        # Of a file that cannot be read, whoever reads it next says more.
        return False
    if tables.find_column(task.label.split("|"), fields, True) is not None:
        return False
    missing = [name for name in task.labels if name not in fields]
    if missing and task.separator and len(missing) < len(task.labels):
        raise UserError(
            f"{file}: no column {missing[0]!r}, which is one of the labels "
            f"{short(', '.join(task.labels), 100)}; its columns are {short(', '.join(fields), 100)}"
        )
    return not missing


def with_lists(task: TableConfig, table: tables.Table) -> TableConfig:
    """The task with a separator, if the labels in a table are lists, as its first row shows."""
    first = next(table.rows, None)
    if first is None:
        return task
    table.rows = itertools.chain([first], table.rows)
    line, fields = first
    column = table.columns["label"]
    assert column is not None
    field = fields[column].strip() if column < len(fields) else ""
    items = listed(field)
    if items is None:
        return task
    where = f"{table.name}, line {line}: label {show(field)}"
    if task.lacks_labels and items and all(item in BITS for item in items):
        raise UserError(
            f"{where} is a list of 0 and 1; name all labels in their order with `labels`"
        )
    # A list of JSON is meant; one in a csv may have come from anywhere.
    if task.lacks_labels and not task.separator and table.delimiter:
        raise UserError(
            f"{where} is a list of labels; if texts have several, add `separator={SEPARATOR}` or "
            "name all labels with `labels`"
        )
    return dataclasses.replace(task, separator=task.separator or SEPARATOR)


def label_in(task: TableConfig, field: str, where: str) -> str:
    """The label in a field; of a list the labels with the task's separator between them."""
    items = listed(field) if task.custom and not task.number else None
    if items is None or field in task.labels:
        return field
    if not task.separator:
        raise UserError(
            f"{where}: label {show(field)} is a list, and that of the first row is none; expected "
            "the same in all rows"
        )
    items = in_places(items, task.labels)
    if odd := [item for item in items if task.separator in item]:
        raise UserError(
            f"{where}: the label {show(odd[0])} has {task.separator!r} in it, which stands between "
            "labels; name another `separator`"
        )
    return task.separator.join(items)


def label_of_columns(task: TableConfig, table: tables.Table, fields: list[str], where: str) -> str:
    """The labels whose columns have a 1, with the task's separator between them."""
    present = []
    for name in task.labels:
        column = table.columns[f"label {name}"]
        assert column is not None
        if (value := fields[column].strip().lower()) not in BITS:
            raise UserError(f"{where}: {show(value)} in the column {name!r}; expected 0 or 1")
        if BITS[value]:
            present.append(name)
    return task.separator.join(present)


def parse_rows(
    task: TableConfig, table: tables.Table, labelled: bool, with_fields: bool = False
) -> Iterator[Example]:
    """The rows of a table as examples, checked; at the end notes of what was skipped."""
    uses = ("text_a", "text_b", "label", "group")
    a, b, label, group = (table.columns.get(use) for use in uses)
    # What a known task's rows share, or what a user says that rows share.
    group = table.columns.get("split_by") if group is None else group
    assert a is not None
    lines = task.form == "lines"
    aliases = dict(task.aliases)
    has_columns = bool(task.labels) and label_columns(task).keys() <= table.columns.keys()
    short_rows, missing = list[str](), list[int]()
    unlabelled, empty = list[int](), list[int]()
    # GLUE's forms are known. A wrong guess about one's own file would cost the first row, or train
    # on a header.
    may_be_header = task.custom and task.header is None and not table.header and not lines
    rows = table.rows
    # With labels, the label of the first row decides; see check_first_label and check_label.
    if may_be_header and not labelled:
        rows = check_first_row(task, table)
    # A plain text may contain tabs, which are part of the text where a model takes one.
    whole_line = lines and b is None and not table.header
    for number, (line, fields) in enumerate(rows):
        where = f"{table.name}, line {line}"
        if whole_line:
            fields = ["\t".join(fields)]
        elif len(fields) != len(table.fields):
            if fields == [""]:  # a blank line
                continue
            # Predictions keep the file's numbering, so that they skip nothing.
            may_skip = task.short_rows and labelled and len(fields) < len(table.fields)
            if not may_skip:
                raise UserError(
                    f"{where}: {len(fields)} columns; expected {len(table.fields)} as in the first "
                    "row; mend the line"
                )
            short_rows.append(f"line {line} has {len(fields)} columns, not {len(table.fields)}")
            continue
        # Two files in one: of the second header a text and a label would be made.
        elif table.header and [field.strip() for field in fields] == table.fields:
            raise UserError(f"{where}: the header stands here once more; remove the line")
        texts = [fields[a].strip()] if b is None else [fields[a].strip(), fields[b].strip()]
        # Like short rows, they are predicted all the same.
        if task.no_text and labelled and task.no_text in texts:
            missing.append(line)
            continue
        name = None
        # Only the first row can be a header that was not recognised, so only there the message
        # suggests it.
        if label is not None:
            name = label_in(task, fields[label].strip(), where)
            name = aliases.get(name, name)
            # Where texts may have several labels, they may have none.
            if not name and not task.separator and name not in task.labels:
                unlabelled.append(line)
                continue
            hint = header_hint(table.fields) if may_be_header and number == 0 else ""
            task.check_label(name, where, hint)
        elif has_columns:
            name = label_of_columns(task, table, fields, where)
        # An empty text is legal, and all there is to learn from it is its label.
        if "" in texts:
            empty.append(line)
            if labelled and task.empty == "drop":
                continue
        text_b = None if b is None else fields[b]
        shared = "" if group is None else fields[group]
        row = tuple(fields) if with_fields else ()
        yield Example(line, fields[a], text_b, name, shared, row)
    report_odd_rows(table.name, short_rows)
    # GLUE's rows without a text are few and known, and what is predicted needs no more.
    known = "" if task.custom and labelled else "keep"
    lacking = {
        "label": (unlabelled, task.unlabelled),
        "text": (empty, (labelled and task.empty) or known),
    }
    check_lacking(table.name, lacking)
    if missing:
        warn(
            f"{table.name}: skipped {len(missing)} of its rows, whose text is {task.no_text!r}, "
            f"the first of them line {missing[0]}"
        )


def report_odd_rows(file: str, short_rows: list[str]) -> None:
    """Say which rows were skipped."""
    if short_rows:
        more = " ..." if len(short_rows) > 3 else ""
        first = "; ".join(short_rows[:3])
        warn(f"{file}: skipped {len(short_rows)} of its rows: {first}{more}")


def check_lacking(file: str, lacking: dict[str, tuple[list[int], str]]) -> None:
    """UserError where rows lack a text or a label and nobody has said what to do with them.

    Args:
        lacking: of label and text, the lines that have none, and what was said: "drop", "keep".
    """
    asked, remedies = list[str](), list[str]()
    for what, (lines, choice) in lacking.items():
        if not lines:
            continue
        first = ", ".join(map(str, lines[:5])) + (" ..." if len(lines) > 5 else "")
        found = f"{len(lines)} rows have no {what}, lines {first}"
        if len(lines) == 1:
            found = f"1 row has no {what}, line {first}"
        if choice:
            warn(f"{file}: {found}{'; left out' if choice == 'drop' else ''}")
            continue
        asked.append(found)
        remedies.append("`unlabelled=drop`" if what == "label" else "`empty=drop`")
    if asked:
        message = f"{file}: {'; '.join(asked)}; complete them, or leave them out: "
        message += " ".join(remedies)
        if "`empty=drop`" in remedies:
            message += ", or learn from those without a text: `empty=keep`"
        raise UserError(message)


def check_first_row(task: TableConfig, table: tables.Table) -> Iterator[tables.Row]:
    """All rows of a table; UserError where the first one looks like a header."""
    start = list(itertools.islice(table.rows, 2))
    if len(start) == 2 and looks_like_header(task, start[0][1], start[1][1]):
        names = short(", ".join(start[0][1]))
        raise UserError(
            f"{table.name}: is its first row a header? {names}. {header_hint(table.fields)}"
        )
    return itertools.chain(start, table.rows)


def looks_like_header(task: TableConfig, first: list[str], second: list[str]) -> bool:
    """Whether of the first two rows only the second has one of the task's labels.

    Where there are no labels, whether only the first is a row of single words.
    """
    numbers = [int(name) for name in task.label.split("|") if tables.is_number(name)]
    # Without a label column by number, or known labels, all there is to go by is the look of the
    # rows.
    if not numbers or not task.labels or min(len(first), len(second)) <= numbers[0]:
        return are_names(first) and not are_names(second)
    column = numbers[0]
    return first[column].strip() not in task.labels and second[column].strip() in task.labels


def are_names(fields: list[str]) -> bool:
    """Whether all fields are single words, as the names of columns are."""
    return all(re.fullmatch(r"\s*[^\W\d]\w*\s*", field) for field in fields)

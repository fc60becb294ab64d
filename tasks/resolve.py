"""Which task, columns and labels a run has, and who decides it.

config = resolve(task="mrpc", max_len=64)  # to train
config = resolve(pretrained.find("runs/mrpc"), long="window")  # of a trained model
config = learn(config, read_rows(config, "train.csv"))  # with what training data say
"""

import dataclasses
import re
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from formats.finding import settings_beside
from pretrained import Pretrained
from system.files import read_json
from tasks.decisions import balanced_weights
from tasks.known import CORRELATIONS, KNOWN, find, key_of
from tasks.labels import question
from tasks.metrics import METRICS, OF_LABELS, OF_NUMBERS, OF_SEVERAL, ONE_LABEL
from tasks.records import MetaData, read_meta_data
from tasks.rows import Rows, count_labels, header_hint
from tasks.table_config import READING, Example, TableConfig
from utils import UserError, checked, show, typed

AnyConfig = TypeVar("AnyConfig", bound=TableConfig)

SETTINGS_FILE = "task.json"  # what is said beside a trained model
# What a field is called there, where that is another name.
JSON_NAMES = {"metric_names": "metrics", "compatible_with": "kin", "submission": "hand_in"}
# The fields that say how a model is evaluated, whatever the task is called.
EVALUATION = ("max_len", "long")


def resolve(
    source: Pretrained | None = None,
    task: str | None = None,
    meta_data_file: str | None = None,
    max_len: int | None = None,
    long: str | None = None,
    **columns: Any,
) -> TableConfig:
    """A task as its user, a trained model or the usual one has it.

    For each field the first that says something decides, from the left to the right:

                 user             task.json     weights             data       else
    name         task             task          custom, by labels   meta data  mrpc
    columns      text_a, ...      text_a, ...                       header     the task's
    labels       labels           labels        names of labels     sorted     the task's
    several      separator        separator     problem_type        lists      one label
    a number     labels=number    labels=null   a single score      meta data  the task's
    max_len      max_len          max_len       its positions       meta data  the task's
    long         long             long                                         truncate

    Only what the model was trained on cannot be changed: another task (unless it is compatible) or
    another separator is a UserError. What a header, lists and labels in data say comes later, from
    learn().

    Args:
        source: the trained model; None: the task is to be trained.
        meta_data_file: the JSON beside a TFRecord of the official code.
        columns: as own_task() has them. Of all arguments None is: not said.
    """
    named = find(task) if task else None
    meta = read_meta_data(meta_data_file) if meta_data_file else None
    if source:
        config = of_model(source, named, columns.get("separator"))
    elif meta and not named:
        # A task that is not GLUE's is data of one's own; the form does not matter to a TFRecord.
        config = KNOWN.get(key_of(meta.processor_type), KNOWN["tsv"])
    else:
        config = named or KNOWN["mrpc"]
    config = own_task(config, **columns)
    if meta:
        config = of_meta_data(config, meta, str(meta_data_file))
    # A model of another program has no task.json, but Hugging Face's config.json names labels.
    if source and config.lacks_labels and source.labels:
        config = dataclasses.replace(config, labels=tuple(source.labels))
    asked: dict[str, Any] = {"max_len": max_len, "long": long}
    evaluation = {name: value for name, value in asked.items() if value is not None}
    return dataclasses.replace(config, **evaluation)


# --------------------------------------------------------------------------------------- the user


def own_task(
    config: AnyConfig,
    text_a: str | None = None,
    text_b: str | None = None,
    label: str | None = None,
    labels: str | None = None,
    header: bool | None = None,
    separator: str | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    unlabelled: str | None = None,
    empty: str | None = None,
    metrics: str | None = None,
    class_weights: str | None = None,
    threshold: float | None = None,
    split_by: str | None = None,
) -> AnyConfig:
    """A task whose columns or labels are others than usual.

    Args:
        labels: with commas between them, "number", "1..5" of whole numbers, or "all" that are
            found, whatever they are.
        delimiter: a character, or "tab".
        encoding, split_by, unlabelled, empty: as TableConfig has them.
        metrics: names of metrics with commas between them, the most important first.
        class_weights: "balanced", or a number for each label with commas between them.
        threshold: the probability from which on a label is answered.
    """
    if delimiter in ("tab", "\\t"):
        delimiter = "\t"
    given: dict[str, Any] = {
        "text_a": text_a,
        "text_b": text_b,
        "label": label,
        "split_by": split_by,
    }
    # From Python a column may be named by a number that is one.
    given = {name: None if column is None else str(column) for name, column in given.items()}
    given["header"] = header
    given |= {"delimiter": delimiter, "encoding": encoding}
    given |= {"unlabelled": unlabelled, "empty": empty}
    changes: dict[str, Any] = {name: v for name, v in given.items() if v is not None}
    # "number" is a word of its own, which no list of at least two labels can be.
    scale = re.fullmatch(r"(-?\d{1,9})\.\.(-?\d{1,9})", labels or "")
    if labels == "number" or scale:
        if separator:
            raise UserError(
                "`separator` is for several labels of a text, `labels=number` for a number; leave "
                "one out"
            )
        changes |= {"labels": (), "number": True, "metric_names": CORRELATIONS}
        if scale:
            changes |= {"scale": tuple(map(int, scale.groups()))}
    elif labels == "all":
        changes |= {"sure": True}
    elif labels is not None:
        names = [name.strip() for name in labels.split(",")]
        if len(set(names)) < len(names) or not all(names) or len(names) < 2:
            raise UserError(
                f"`labels={labels}`: expected different labels with commas between them, or number"
            )
        changes |= {"labels": tuple(names), "number": False}
    if separator:
        if not config.custom:
            raise UserError(
                f"`separator` is for data of your own; a text of {config.name} has one label"
            )
        # Over several labels accuracy asks for all of them at once, so that F1 says more.
        changes |= {"separator": separator, "metric_names": ("F1", "Accuracy")}
    if class_weights is not None:
        changes |= weights_of(class_weights)
    if threshold is not None:
        changes |= {"thresholds": (float(threshold),)}
    if metrics is not None:
        changes |= {"metric_names": tuple(known_metric(name) for name in metrics.split(","))}
    changed = dataclasses.replace(config, **changes)
    check_metrics(changed, f"metrics={show(metrics)}")
    return changed


def weights_of(text: str) -> dict[str, Any]:
    """The fields that say what labels count, from `balanced` or `1,3,2`."""
    if text == "balanced":
        return {"weighting": text}
    try:
        return {"class_weights": tuple(float(number) for number in text.split(","))}
    except ValueError:
        raise UserError(
            f"class_weights={show(text)}: expected balanced, or a number for each label"
        ) from None


def known_metric(name: str) -> str:
    """A metric as it is printed, however it was written: macro-f1 -> Macro-F1."""
    names = {known.casefold(): known for known in METRICS}
    return names.get(name.strip().casefold(), name.strip())


def check_metrics(config: TableConfig, where: str) -> None:
    """UserError where a metric is none of what is learnt."""
    known = OF_SEVERAL if config.separator else OF_LABELS
    if config.number:
        known = OF_NUMBERS
    # What a question's rows answer together.
    if config.group:
        known = (*known, "F1a", "EM")
    for name in config.metric_names:
        label = name.removeprefix(ONE_LABEL)
        of_label = label != name and not config.number
        # Labels may be yet to be found.
        if name in known or (of_label and (label in config.labels or config.lacks_labels)):
            continue
        more = "" if config.number else f", or {ONE_LABEL}LABEL"
        raise UserError(
            f"{where}: {show(name)} is no metric of {config.describe_labels()}; "
            f"expected some of {', '.join(known)}{more}"
        )


# -------------------------------------------------------------------------------- a trained model


def of_model(source: Pretrained, named: TableConfig | None, separator: str | None) -> TableConfig:
    """The task that a classifier was trained on, in its task.json or by its labels.

    Args:
        named: what the user says it is; its files may have another form.
        separator: what the user says stands between labels.
    """
    evaluation, trained = read_task(source.folder / SETTINGS_FILE)
    known = trained or of_labels(source)
    # Either side may say what the task is; where both do, they must agree.
    if known and known.custom and named and named.custom:
        # Columns and labels are the trained model's, the form of the file is the user's.
        named = dataclasses.replace(known, name=named.name, form=named.form)
    elif trained and named and trained.name not in (named.name, named.compatible_with):
        raise UserError(
            f"{source.file} was trained on {trained.name}, not on {named.name}; leave `task` out"
        )
    # Another separator would change how many labels the model was trained on.
    if trained and separator not in (None, trained.separator):
        raise UserError(
            f"{source.file} was trained with {trained.separator or 'no'} separator between labels; "
            "leave `separator` out"
        )
    config = named or known
    if config is None:
        raise UserError(f"no task.json beside {source.file}; name the task with `task`")
    # max_len and long are the model's, even where the task is named anew.
    return dataclasses.replace(config, **evaluation)


def of_labels(source: Pretrained) -> TableConfig | None:
    """Data of one's own, with the labels that a classifier has; of a single score, a number."""
    usual = KNOWN["csv"]
    # Weights from elsewhere may have fewer positions than a task's usual length.
    length = min(usual.max_len, source.config.max_len)
    config = dataclasses.replace(usual, max_len=length, any_texts=True)
    n_scores = len(source.tensors.get("classifier.bias", ()))
    file, settings = settings_beside(source.folder / source.file.name)
    problem = settings.get("problem_type")
    # transformers leaves out the names of two labels that have none of their own.
    labels = source.labels
    if not labels and "architectures" in settings:
        labels = [f"LABEL_{i}" for i in range(n_scores)]
    # Hugging Face's word for texts that have several labels, or none.
    if problem == "multi_label_classification" and labels:
        return dataclasses.replace(own_task(config, separator=","), labels=tuple(labels))
    # One score is a number, as Hugging Face saves a regression.
    if n_scores == 1:
        return own_task(config, labels="number")
    if problem == "regression":
        raise UserError(
            f"{file}: problem_type is regression, and the classifier has {n_scores} scores; "
            "expected one, for a number"
        )
    return dataclasses.replace(config, labels=tuple(labels)) if labels else None


def to_json(config: TableConfig) -> dict[str, Any]:
    """A task for its task.json: its name, labels and max_len, and whatever is not as in KNOWN."""
    # Only what differs is written, so that the file shows what is special about the model.
    usual, other = KNOWN[config.name], {}
    for field in dataclasses.fields(TableConfig):
        value = getattr(config, field.name)
        # `number` follows from labels being null, and would be said twice.
        differs = value != getattr(usual, field.name) and field.name not in ("number", *READING)
        # Of one's own data they are always said: what is usual for these has changed once.
        if differs or (config.custom and field.name == "metric_names"):
            other[JSON_NAMES.get(field.name, field.name)] = value
    labels = None if config.number else config.labels
    return {"task": config.name, **other, "labels": labels, "max_len": config.max_len}


def read_task(file: Path) -> tuple[dict[str, Any], TableConfig | None]:
    """How a model is evaluated by the task.json beside it, and the task, where it names one."""
    values = read_json(file) if file.is_file() else {}
    name = typed(values.pop("task", None), str | None, f"{file}: task")
    # null stands for a number, for which there are no labels.
    if values.get("labels", ()) is None:
        values |= {"labels": [], "number": True}
    for ours, theirs in JSON_NAMES.items():
        if theirs in values:
            values[ours] = values.pop(theirs)
    # A file may be edited by hand, so that its keys and types are checked like those of a
    # configuration.
    changes = checked(TableConfig, values, file)
    try:
        config = dataclasses.replace(find(name or "csv"), **changes)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    # Other checks of max_len ask the model, which is not read yet.
    if config.max_len < 1:
        raise UserError(f"{file}: max_len is {config.max_len}; expected 1 or more")
    # Earlier versions measured data of one's own by these, and wrote nothing of it.
    if config.custom and "metric_names" not in changes:
        usual = ("F1", "Accuracy") if config.separator else ("Accuracy",)
        usual = CORRELATIONS if config.number else usual
        config = dataclasses.replace(config, metric_names=usual)
    if not config.metric_names:
        raise UserError(f"{file}: metrics are missing; expected some of {', '.join(METRICS)}")
    check_metrics(config, f"{file}: metrics")
    # A model without a task is evaluated as the task that the user names says.
    known = EVALUATION if name else [field for field in EVALUATION if field in changes]
    evaluation = {field: getattr(config, field) for field in known}
    return evaluation, config if name else None


# ------------------------------------------------------------------------------------------- data


def of_meta_data(config: TableConfig, meta: MetaData, file: str) -> TableConfig:
    """A task with what the JSON beside a TFRecord says: its labels, if they are not known, max_len.

    Labels that no task knows are called 0, 1, ...
    """
    if config.lacks_labels:
        if meta.number:
            changes: dict[str, Any] = {"number": True, "metric_names": CORRELATIONS}
        else:
            n_labels = meta.num_labels or 0
            changes = {
                "labels": tuple(map(str, range(n_labels))),
                "metric_names": KNOWN["tsv"].metric_names,
            }
        config = dataclasses.replace(config, **changes)
    if meta.number != config.number:
        what = "labels, not numbers" if meta.number else "numbers, not labels"
        raise UserError(f"{file}: {config.name} has {what}; name another `task`")
    if not meta.number and meta.num_labels not in (None, config.n_outputs):
        raise UserError(
            f"{file}: num_labels is {meta.num_labels}; {config.name} has {', '.join(config.labels)}"
        )
    # Inputs were cut at this length when the file was made.
    return dataclasses.replace(config, max_len=meta.max_seq_length)


def learn(config: AnyConfig, rows: Rows) -> AnyConfig:
    """A task as the rows of its training data make it: their columns, separator and labels."""
    # Later files are read from the columns that the header of one's own data has named, which they
    # then have to have.
    if config.custom and rows.header:
        uses = ("text_a", "text_b", "label")
        columns: dict[str, Any] = {use: rows.columns[use] for use in uses if use in rows.columns}
        config = dataclasses.replace(config, **columns)
    if rows.separator != config.separator:
        config = own_task(config, separator=rows.separator)
    # The labels of the training data decide how many outputs the head has.
    try:
        if config.lacks_labels:
            config = with_labels(config, rows.examples)
    except UserError as error:
        # A header that was taken for a row looks like odd labels too.
        if rows.header or config.header is not None:
            raise
        raise UserError(f"{error}. {header_hint(rows.first)}") from None
    check_metrics(config, "metrics")
    if config.custom and config.number and not config.plain_numbers:
        numbers = np.array([float(example.label or 0) for example in rows.examples])
        # Where all are the same there is nothing to divide by.
        config = dataclasses.replace(
            config, mean=float(numbers.mean()), spread=float(numbers.std()) or 1.0
        )
    if config.weighting:
        labels = config.label_array([example.label for example in rows.examples])
        weights = tuple(balanced_weights(labels, len(config.labels)))
        config = dataclasses.replace(config, class_weights=weights)
    return config


def with_labels(config: AnyConfig, examples: list[Example]) -> AnyConfig:
    """A task with the labels that examples have, sorted; UserError where there can be none."""
    # Sorted, so that ids do not depend on the order of the rows. list(set(...)) would give others
    # in every run.
    counts = count_labels(examples, config.separator)
    found = sorted(counts)
    column = f"the column {config.label.replace('|', ' or ')!r}"

    def line_of(label: str) -> int:
        return next(e.line for e in examples if label in config.split_label(e.label or ""))

    # With a separator one label is enough: a text may have it or not.
    if len(found) < 2 and not (config.separator and found):
        raise UserError(
            f"{column} has the label {', '.join(map(repr, found)) or 'none'} in all "
            f"{len(examples)} rows; expected two labels or more; name the right column with "
            "`label`"
        )
    # Labels that hardly repeat are sentences or numbers: the wrong column was named.
    if len(found) > 2 and len(found) > len(examples) / 2:
        raise UserError(
            f"{column} has {len(found)} labels in {len(examples)} rows, such as "
            f"{show(found[0], 40)}; name the right column with `label`, name all labels with "
            "`labels`, or use `labels=number`"
        )
    # Labels are written to tables, in which an empty one or a line end could not be read back.
    if odd := [name for name in found if not name or {"\t", "\n", "\r"} & set(name)]:
        raise UserError(
            f"{column}, line {line_of(odd[0])}: the label is {odd[0]!r}; expected no empty labels, "
            "and no tabs or line ends in them; mend the line, or remove it"
        )
    asked, odd_label = ("", "") if config.sure else question(counts)
    if asked:
        raise UserError(
            f"{column}, line {line_of(odd_label)}: {asked}; mend the file, or say that all of them "
            "are labels: `labels=all`"
        )
    return dataclasses.replace(config, labels=tuple(found))

"""Texts that belong together, in any of the forms that people have, and judged collections.

    found = read_pairs("pairs.jsonl")       # Pairs([Pair(line, "a query", ["its text"], None)])
    judged = read_judged(Path("cranfield"))  # BEIR's folder: queries, texts, and which fit

A row has a query and a text, also with texts that do not fit (hard negatives), a number that says
how alike the two are, or a label (entailment, contradiction); or a text and its group.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks import table_rows
from tasks.table_rows import Objects, Source
from utils import UserError, short, show, warn

# What columns are called, the usual name first.
QUERY = ("query", "anchor", "question", "sentence1", "text_a", "premise", "sent0")
TEXT = (
    *("text", "positive", "pos", "answer", "document", "passage", "sentence2", "text_b"),
    *("hypothesis", "context", "sent1"),
)
NEGATIVES = ("negatives", "negative", "neg", "hard_neg")
SCORE = ("grade", "relevance", "score", "similarity", "label", "similarity_score", "gold_label")
GROUP = ("group", "class", "set", "id")
TEXTS = ("texts", "set")
# Labels of pairs: what belongs together, what does not, and what says nothing.
POSITIVE, NEGATIVE = ("entailment", "paraphrase", "duplicate"), ("contradiction",)
IGNORED = ("neutral", "-")
EXPECTED = (
    'a query and a text in each row, such as {"query": ..., "text": ...}, with "negatives", a '
    '"score" or a "label" beside them; or a text and its "group"'
)


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """A query and what belongs to it."""

    line: int  # of the file, from 1
    query: str
    texts: list[str]  # the one that fits, then those that do not
    score: float | None = None  # how alike query and text are


@dataclasses.dataclass
class Pairs:
    """The rows of a file."""

    name: str
    pairs: list[Pair]
    # By query, others that fit it beside its own text.
    related: dict[str, set[str]] = dataclasses.field(default_factory=dict)
    groups: dict[str, int] = dataclasses.field(default_factory=dict)  # of texts of one meaning

    @property
    def scored(self) -> bool:
        """Whether a number says how alike two texts are."""
        return self.pairs[0].score is not None

    def describe(self) -> str:
        """What was understood, in a line."""
        n = sum(len(pair.texts) - 1 for pair in self.pairs)
        more = ""
        if self.scored:
            scores = [pair.score or 0.0 for pair in self.pairs]
            more = f", scores {min(scores):g} to {max(scores):g}"
        elif n:
            more = f", {n} texts that do not fit"
        return f"{self.name}: {len(self.pairs)} pairs{more}"


@dataclasses.dataclass
class Judged:
    """Queries, texts to find, and which fit how well."""

    name: str
    queries: dict[str, str]
    texts: dict[str, str]
    grades: dict[str, dict[str, int]]  # of a query's id, by a text's; 0 and less: it does not fit
    by_text: bool = False  # a query may be one of the texts, and is not sought there

    def describe(self) -> str:
        """What was understood, in a line."""
        n = sum(grade > 0 for grades in self.grades.values() for grade in grades.values())
        return f"{self.name}: {len(self.grades)} queries, {len(self.texts)} texts, {n} that fit"


# --------------------------------------------------------------------------------------------- rows


def read_pairs(source: Source, columns: dict[str, str | None] | None = None) -> Pairs:
    """The rows of a file, of a BEIR folder, or of Python's objects.

    UserError names the line where something is missing.

    Args:
        columns: by `text_a`, `text_b` and `label`, the names of columns; None: the usual ones.
    """
    if not isinstance(source, Objects) and Path(source).is_dir():
        return of_judged(read_judged(Path(source), training=True))
    name, rows = rows_of(source)
    wanted = columns or {}
    found, number = list[Pair](), dict[str, int]()
    groups: dict[tuple[str, str], dict[str, int]] = {}
    labelled: dict[str, tuple[list[tuple[int, str]], list[str]]] = {}
    for line, row in rows:
        where = f"{name}, line {line}"
        if group := group_of(row, wanted, where):
            # A row of several texts is a group by itself.
            kind, texts = ("rows", str(line)) if group[0] is None else ("named", group[0]), group[1]
            for text in texts:
                groups.setdefault(kind, {}).setdefault(text, line)
            continue
        query = cell(row, wanted.get("text_a"), QUERY, where)
        text = cell(row, wanted.get("text_b"), TEXT, where)
        score = said_of(row, wanted.get("label"), where)
        if isinstance(score, str):
            fits, other = labelled.setdefault(query, ([], []))
            word = score.strip().lower()
            if word not in POSITIVE + NEGATIVE + IGNORED:
                raise UserError(
                    f"{where}: the label {show(score)}; expected a number, or one of "
                    f"{', '.join(POSITIVE + NEGATIVE)} or neutral"
                )
            if word in POSITIVE:
                fits.append((line, text))
            elif word in NEGATIVE:
                other.append(text)
            continue
        found.append(Pair(line, query, [text, *negatives_of(row, where)], score))
    for query, (fits, other) in labelled.items():
        found += [Pair(line, query, [text, *other]) for line, text in fits]
    for n, members in enumerate(groups.values()):
        # Each text with the next of its group; the last one with the first.
        texts = list(members)
        for (text, line), following in zip(members.items(), texts[1:] + texts[:1], strict=True):
            number.setdefault(text, n)
            if text != following:
                found.append(Pair(line, text, [following]))
    check_pairs(name, found)
    return Pairs(name, found, groups=number)


def check_pairs(name: str, found: list[Pair]) -> None:
    """UserError where rows have nothing to learn from, or are of two forms."""
    if not found:
        raise UserError(f"{name} has no pairs of texts that belong together; expected {EXPECTED}")
    if odd := next((p for p in found if (p.score is None) != (found[0].score is None)), None):
        first = found[0].line
        raise UserError(
            f"{name}: a score in line {max(first, odd.line)} or line {min(first, odd.line)} alone; "
            "expected one in every row, or in none"
        )


def rows_of(source: Source) -> tuple[str, Iterator[tuple[int, dict[str, Any]]]]:
    """The name of a source and its rows as objects."""
    if not isinstance(source, Objects) and is_sts(Path(source)):
        return str(source), sts_rows(Path(source))
    return str(source), table_rows.read_objects(source, {*QUERY, *TEXT, *GROUP}, EXPECTED)


def cell(row: dict[str, Any], column: str | None, usual: tuple[str, ...], where: str) -> str:
    """The text of a column, by its name or a usual one."""
    names = (column,) if column else usual
    name = next((name for name in names if name in row), None)
    value = row.get(name) if name else None
    # Some have a list of the texts that fit.
    if isinstance(value, list) and len(value) == 1:
        [value] = value
    if name is None:
        raise UserError(
            f"{where}: found {short(', '.join(row), 60)}; expected {EXPECTED}; name other columns "
            "with `text_a`, `text_b` and `label`"
        )
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: {show(name)} is {show(value, 40)}; expected a text")
    return value


def said_of(row: dict[str, Any], column: str | None, where: str) -> float | str | None:
    """How alike two texts are: a number, a label, or None."""
    # What search wrote: its scores are no judgements.
    if {"query_id", "rank", "score"} <= row.keys() and not {column, "grade", "label"} & row.keys():
        raise UserError(
            f"{where}: what search found, and nobody has judged; add a `grade` to each row, or "
            "name the column that is one with `label`"
        )
    name = next((name for name in ((column,) if column else SCORE) if name in row), None)
    if column and name is None:
        raise UserError(f"{where}: no column {show(column)}; found {short(', '.join(row), 60)}")
    value = row.get(name) if name else None
    if value is None or value == "":
        return None
    if isinstance(value, int) and {"premise", "hypothesis"} <= row.keys():
        raise UserError(
            f"{where}: the label of a premise and a hypothesis is the number {value}; write its "
            "name, such as entailment"
        )
    number = number_of(float(value) if isinstance(value, bool) else value)
    if number is None and not isinstance(value, str):
        raise UserError(f"{where}: {show(name)} is {show(value)}; expected a number or a label")
    return str(value) if number is None else number


def number_of(value: Any) -> float | None:
    """The number that a value is; None: it is none."""
    try:
        number = float(str(value))
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def negatives_of(row: dict[str, Any], where: str) -> list[str]:
    """The texts of a row that do not fit: in a list, or in columns negative, negative_1 ..."""
    found = list[str]()
    for name, value in row.items():
        if name in NEGATIVES or re.fullmatch(r"(hard_)?neg(ative)?_?\d{1,4}", name):
            found += value if isinstance(value, list) else [value]
    found = [text for text in found if text not in (None, "")]
    if wrong := [text for text in found if not isinstance(text, str)]:
        raise UserError(f"{where}: a negative is {show(wrong[0], 40)}; expected a text")
    return found


def group_of(
    row: dict[str, Any], wanted: dict[str, str | None], where: str
) -> tuple[str | None, list[str]] | None:
    """The group of a row, or None where the row is one, and its texts; None: it is a pair."""
    column = wanted.get("text_a") or "text"
    others = [name for name in (*QUERY, *TEXT) if name in row and name != column]
    if wanted.get("text_b") or others:
        return None
    texts = next((row[name] for name in TEXTS if isinstance(row.get(name), list)), None)
    name = next((name for name in GROUP if name in row), None)
    if texts is None and (name is None or column not in row):
        return None
    group = None
    if texts is None:
        texts, group = [row[column]], row[str(name)]
        if group is None or group == "":
            raise UserError(f"{where}: {show(name)} is empty; expected the group of the text")
    if odd := [text for text in texts if not isinstance(text, str) or not text.strip()]:
        raise UserError(f"{where}: {show(odd[0], 40)}; expected texts")
    return (None if group is None else str(group)), texts


# ---------------------------------------------------------------------------------- STS benchmark's


def is_sts(file: Path) -> bool:
    """Whether a file is STS benchmark's own: seven columns or more between tabs, without names."""
    if not file.is_file() or file.suffix not in (".csv", ".tsv", ".txt"):
        return False
    with open(file, "rb") as f:
        fields = f.readline(10_000).decode(errors="replace").split("\t")
    return len(fields) >= 7 and fields[0].startswith("main-") and number_of(fields[4]) is not None


def sts_rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Its rows: genre, file, year, id, score, two sentences. Quotes are parts of the texts."""
    for line, text in enumerate(table_rows.open_text(file, "tsv")[1], start=1):
        fields = text.rstrip("\r\n").split("\t")
        if len(fields) < 7 or number_of(fields[4]) is None:
            raise UserError(
                f"{file}, line {line}: {len(fields)} columns; expected genre, file, year, id, "
                "score and two sentences between tabs"
            )
        yield line, {"query": fields[5], "text": fields[6], "score": float(fields[4])}


# ----------------------------------------------------------------------------------- BEIR's folders


def read_judged(folder: Path, training: bool = False) -> Judged:
    """corpus.jsonl, queries.jsonl and qrels/test.tsv of a folder; for training qrels/train.tsv.

    A query that no text fits is left out.
    """
    texts = dict(read_texts(folder / "corpus.jsonl"))
    queries = dict(read_texts(folder / "queries.jsonl"))
    names = ("train", "dev", "test") if training else ("test", "dev", "train")
    qrels = next((q for name in names if (q := folder / "qrels" / f"{name}.tsv").is_file()), None)
    if qrels is None:
        raise UserError(f"{folder} has no qrels/test.tsv, which says which texts fit a query")
    if qrels.stem != names[0]:
        warn(f"{folder} has no qrels/{names[0]}.tsv; {qrels} is taken")
    grades: dict[str, dict[str, int]] = {}
    for line, row in table_rows.read_objects(qrels, {"query-id", "corpus-id", "score"}):
        query, text, grade = (row.get(name) for name in ("query-id", "corpus-id", "score"))
        where = f"{qrels}, line {line}"
        number = number_of(grade)
        if number is None or number != int(number):
            raise UserError(f"{where}: the score {show(grade)}; expected a whole number")
        for known, name, file in ((queries, query, "queries"), (texts, text, "corpus")):
            if name not in known:
                raise UserError(f"{where}: {file}.jsonl has no {show(name)}; mend the line")
        grades.setdefault(str(query), {})[str(text)] = int(number)
    kept = {q: found for q, found in grades.items() if max(found.values()) > 0}
    if not kept:
        raise UserError(f"{qrels} has no text that fits a query; expected scores above 0")
    if len(kept) < len(grades):
        warn(f"{qrels}: {len(grades) - len(kept)} queries that no text fits are left out")
    return Judged(str(folder), queries, texts, kept)


def of_judged(judged: Judged) -> Pairs:
    """Each query with each text that fits it."""
    pairs, related = list[Pair](), dict[str, set[str]]()
    for query, grades in judged.grades.items():
        fits = [judged.texts[text] for text, grade in grades.items() if grade > 0]
        related[judged.queries[query]] = set(fits)
        pairs += [Pair(len(pairs) + 1, judged.queries[query], [text]) for text in fits if text]
    return Pairs(judged.name, pairs, related)


def as_judged(pairs: Pairs) -> Judged:
    """Pairs as queries whose texts are to be found among all texts of the file."""
    queries, texts = dict[str, str](), dict[str, str]()
    grades: dict[str, dict[str, int]] = {}
    groups = collections.defaultdict[int, list[str]](list)
    for text, n in pairs.groups.items():
        groups[n].append(text)
    for pair in pairs.pairs:
        for text in pair.texts:
            texts.setdefault(text, str(len(texts) + 1))
    for pair in pairs.pairs:
        query = queries.setdefault(pair.query, str(len(queries) + 1))
        alike = groups[pairs.groups[pair.query]] if pair.query in pairs.groups else []
        fits = {pair.texts[0], *alike, *pairs.related.get(pair.query, ())} - {pair.query}
        for text in sorted(fits & texts.keys()):
            grades.setdefault(query, {})[texts[text]] = 1
    by_id = {name: text for text, name in queries.items()}, {n: t for t, n in texts.items()}
    return Judged(pairs.name, *by_id, grades, by_text=True)


# -------------------------------------------------------------------------------------- plain texts


def read_texts(
    source: str | Path, column: str | None = None, usual: tuple[str, ...] = ("text", *QUERY)
) -> Iterator[tuple[str, str]]:
    """The texts of a file with their ids: `_id` and title, blank, text; or a line's number.

    Args:
        source: lines of text, or a table or JSON lines with a text in each row.
        column: of the text; None: the first of the `usual` ones that a row has.
    """
    plain = Path(str(source).removesuffix(".gz")).suffix in (".txt", "")
    if str(source) == "-" or plain:
        for line, text in enumerate(table_rows.open_text(source, "tsv")[1], start=1):
            yield str(line), text.rstrip("\r\n")
        return
    for line, row in table_rows.read_objects(source, {"text", *QUERY}, '{"text": ...}'):
        names = (column,) if column else usual
        name = next((name for name in names if name in row), None)
        if name is None or not isinstance(row[name], str):
            raise UserError(
                f"{source}, line {line}: found {short(', '.join(row), 60)}; expected a text; name "
                "its column with `text_a`"
            )
        known = next((row[key] for key in ("_id", "id") if row.get(key) not in (None, "")), line)
        title = row.get("title") if name == "text" else None
        yield str(known), f"{title} {row[name]}".strip() if title else row[name]

"""Files of questions about texts: SQuAD's JSON, its flat form as any table, ReCoRD's JSON lines.

    read_squad("dev-v1.1.json")     # [Question(id, text, context, answers), ...]
    read_squad("mine.csv")          # the same

The flat form has a question and its context in each row: as `datasets` exports it, with `answers`,
or with an `answer`, whose place in the context is found where it stands there once.
"""

import collections
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from system import forms
from system.files import check_file, read_json
from tasks import table_rows
from tasks.squad_metrics import Question, stands_at
from tasks.superglue import read_record
from utils import UserError, short, show, warn

FLAT = "a question and its context in each row"
EXPECTED_ROWS = '{"question": ..., "context": ..., "answer": ...} or ReCoRD\'s passages'


def read_squad(file: table_rows.Source) -> list[Question]:
    """The questions of a file by its form, or of rows in the flat form.

    UserError names what is missing, and where. Answers that do not stand in the text where the file
    says are reported.
    """
    if isinstance(file, table_rows.Objects):
        questions, misplaced = flat_questions(*table_rows.objects(file))
    else:
        check_file(file, "SQuAD's JSON")
        questions, misplaced = by_form(file)
    if not questions:
        raise UserError(f"{file} has no questions; expected SQuAD's JSON, or {FLAT}")
    ids = collections.Counter(question.id for question in questions)
    name, n = ids.most_common(1)[0]
    if n > 1:
        raise UserError(
            f"{file}: {n} questions have the id {show(name)}, and predictions.json can hold one of "
            "them; give each question an id of its own"
        )
    if misplaced:
        warn(
            f"{file}: {len(misplaced)} answers do not stand where the file says and are not "
            f"trained on, the first of them {misplaced[0]}"
        )
    return questions


def by_form(file: str | Path) -> tuple[list[Question], list[str]]:
    """The questions of a file, and its misplaced answers in words."""
    form = table_rows.form_of(file, "json", custom=True)
    if form in ("csv", "tsv", "excel", "parquet"):
        return flat_questions(str(file), table_rows.read_objects(file))
    form = forms.recognise(file, unpack=True)
    if form not in ("json lines", "json array", "gzip") and Path(file).suffix != ".jsonl":
        forms.check(file, "questions")
        data = read_json(file, Any, pipe=True)
        # Some have the flat form under SQuAD's own key.
        rows: Any = data.get("data", [data]) if isinstance(data, dict) else data
        if is_flat(rows):
            return flat_questions(str(file), enumerate(rows, start=1))
        return squad_questions(data, file)
    name, objects = table_rows.objects(file, expected=EXPECTED_ROWS)
    found = list(objects)
    # ReCoRD has a passage with its queries in each line.
    if found and "passage" in found[0][1]:
        return read_record(file)
    return flat_questions(name, iter(found))


def is_flat(rows: Any) -> bool:
    """Whether the first of some rows has a question and its context beside it."""
    first = rows[0] if isinstance(rows, list) and rows else None
    return isinstance(first, dict) and {"question", "context"} <= first.keys()


# ---------------------------------------------------------------------------------------- the forms


def flat_questions(
    name: str, rows: Iterator[tuple[int, dict[str, Any]]]
) -> tuple[list[Question], list[str]]:
    """Questions with their contexts beside them, and their misplaced answers in words."""
    questions, misplaced = list[Question](), list[str]()
    for line, row in rows:
        where = f"{name}, line {line}"
        entry: dict[str, Any] = {
            key: row[key] for key in ("id", "question", "is_impossible") if key in row
        }
        given = answers_of(row, where)
        if given is not None:
            entry["answers"] = given
        # A number in a cell is a text.
        if isinstance(entry.get("is_impossible"), str):
            entry["is_impossible"] = entry["is_impossible"].lower() in ("true", "1")
        context = member(row, "context", str, where)
        if not context.strip():
            raise UserError(f"{where}: the context is empty; expected a text")
        question, wrong = read_question(entry, context, where, line)
        questions.append(question)
        misplaced += wrong
    return questions, misplaced


def answers_of(row: dict[str, Any], where: str) -> list[dict[str, Any]] | None:
    """A flat row's answers as SQuAD has them; None: it says nothing of any."""
    given = row.get("answers", row.get("answer"))
    if isinstance(given, str) and given.startswith(("{", "[")) and "answers" in row:
        # A list in a cell.
        try:
            given = json.loads(given)
        except ValueError:
            raise UserError(f"{where}: 'answers' is {show(given, 40)}; expected JSON") from None
    if given is None:
        return None
    # As `datasets` has them: a list of texts, and one of where they start.
    if isinstance(given, dict):
        texts: Any = given.get("text")
        starts: Any = given.get("answer_start")
        whole = isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts)
        if not whole:
            raise UserError(f"{where}: 'answers' is {show(given, 40)}; expected text, answer_start")
        return [{"text": text, "answer_start": at} for text, at in zip(texts, starts, strict=True)]
    if isinstance(given, list):
        return given
    if not str(given).strip():
        return []
    start = row.get("answer_start")
    said = {} if start in (None, "") else {"answer_start": start}
    if isinstance(start, str) and start.strip().isdecimal():
        said = {"answer_start": int(start)}
    return [{"text": str(given), **said}]


def squad_questions(data: Any, file: str | Path) -> tuple[list[Question], list[str]]:
    """SQuAD's questions, and their misplaced answers in words."""
    questions: list[Question] = []
    misplaced: list[str] = []
    for i, article in enumerate(member(data, "data", list, f"{file}")):
        paragraphs = member(article, "paragraphs", list, f"{file}: data[{i}]")
        for j, paragraph in enumerate(paragraphs):
            where = f"{file}: data[{i}].paragraphs[{j}]"
            context = member(paragraph, "context", str, where)
            if not context.strip():
                raise UserError(f"{where}: the context is empty; expected a text")
            for k, entry in enumerate(member(paragraph, "qas", list, where)):
                question, wrong = read_question(
                    entry, context, f"{where}.qas[{k}]", len(questions) + 1
                )
                questions.append(question)
                misplaced += wrong
    return questions, misplaced


def read_question(entry: Any, context: str, where: str, number: int) -> tuple[Question, list[str]]:
    """A question about a context, and its misplaced answers in words; these start at -1.

    `number`: what it goes by if it has no id.
    """
    text = member(entry, "question", str, where)
    name = entry.get("id")
    if type(name) is int or name in (None, ""):
        name = str(number if name in (None, "") else name)
    elif not isinstance(name, str):
        name = member(entry, "id", str, where)
    if not text.strip():
        raise UserError(f"{where}: the question {name} is empty; expected a text")
    impossible = entry.get("answers") == []
    if entry.get("is_impossible") is not None:
        # A text such as "false" counts as true to Python.
        impossible |= member(entry, "is_impossible", bool, where)
    answers: list[tuple[str, int]] = []
    misplaced: list[str] = []
    if not impossible and "answers" in entry:
        for answer in member(entry, "answers", list, where):
            words = member(answer, "text", str, where)
            start = place_of(answer, context, words, where)
            if stands_at(context, words, start):
                answers.append((words, start))
            else:
                answers.append((words, -1))
                misplaced.append(f"{short(words, 40)!r} at {start} of question {short(name)}")
    return Question(name, text, context, tuple(answers), impossible), misplaced


def place_of(answer: dict[str, Any], context: str, words: str, where: str) -> int:
    """Where an answer starts in a context: as it says, or where it stands once; -1: nowhere."""
    if "answer_start" in answer:
        return member(answer, "answer_start", int, where)
    n = context.count(words) if words else 0
    if n > 1:
        raise UserError(
            f"{where}: the answer {show(words, 40)} stands in its context {n} times; say which "
            "in a column answer_start, from 0"
        )
    return context.find(words) if n else -1


# What a value of SQuAD's JSON has to be, in words.
EXPECTED = {
    str: "a text in quotes",
    int: "a whole number",
    bool: "true or false",
    list: "a list, [...]",
}
# What a question that lacks something should look like.
QUESTION = '{"id": text, "question": text, "answers": [{"text": text, "answer_start": number}]}'


def member(values: Any, key: str, kind: type, where: str) -> Any:
    """A value of a JSON object; UserError where it is missing or of another type."""
    if not isinstance(values, dict):
        raise UserError(f"{where} is {show(values, 40)}; expected SQuAD's JSON, an object {{...}}")
    if key not in values:
        keys = short(", ".join(values)) or "none"
        expected = f"a question {QUESTION}" if ".qas[" in where else "SQuAD's JSON"
        raise UserError(f"{where} has no {key!r}, its keys are {keys}; expected {expected}")
    # type() rather than isinstance(), since a bool is an int to Python.
    if type(values[key]) is not kind:
        value = "null" if values[key] is None else show(values[key], 40)
        raise UserError(f"{where}: {key!r} is {value}; expected {EXPECTED[kind]}")
    return values[key]

"""SuperGLUE's JSON lines: what its files are called, an object to rows of texts or to questions.

    wic({"sentence1": "a bat", "start1": 2, "end1": 5, ...}, "val.jsonl, line 1")
    # [{"sentence1": "a * bat *", "sentence2": ..., "label": False}]

BoolQ, CB and RTE are plain tables, an object a row, and need no function here.
"""

from pathlib import Path
from typing import Any

from tasks.squad_metrics import Question, stands_at
from tasks.table_rows import json_lines, open_text
from tasks.tables import Flatten
from utils import UserError, short, show, typed

# What SuperGLUE calls the files that GLUE has.
FILES = {"train.tsv": "train.jsonl", "dev.tsv": "val.jsonl", "test.tsv": "test.jsonl"}

# A marked word has these before and after it, as T5 marks WSC. They are single tokens of every
# published vocabulary of BERT, which splits them off a word; a token such as [E1] would be new, and
# have no trained vector. Hardly any text has them for itself (1 of 638 rows of WiC's val).
FIRST, SECOND = "*", "#"


def file_in(folder: str | Path, name: str) -> str:
    """A file of a task in a folder, by GLUE's name for it, or by SuperGLUE's where only that is."""
    file, other = f"{folder}/{name}", f"{folder}/{FILES.get(name, name)}"
    return other if Path(other).is_file() and not Path(file).is_file() else file


def files_in(folder: str | Path, names: tuple[str, ...]) -> list[str]:
    """Those of a task's files that are in a folder; UserError where none is."""
    # A copy of GLUE may lack one of MNLI's two development sets; the other one is enough.
    files = [file_in(folder, name) for name in names]
    found = [file for file in files if Path(file).is_file()]
    if not found:
        raise UserError(
            f"{folder} has no {' or '.join(names)} (in SuperGLUE {FILES.get(names[0], names[0])}); "
            "expected the folder of one task, such as GLUE/MRPC or SuperGLUE/BoolQ"
        )
    return found


def wic(values: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """Both sentences, each with its word marked where the characters from start to end say."""
    row = {}
    for number in ("1", "2"):
        text = value(values, f"sentence{number}", str, where)
        start = value(values, f"start{number}", int, where)
        end = value(values, f"end{number}", int, where)
        if not 0 <= start < end <= len(text):
            raise UserError(
                f"{where}: start{number}={show(start)}, end{number}={show(end)}; expected a word "
                f"in the {len(text)} characters of sentence{number}"
            )
        row[f"sentence{number}"] = f"{text[:start]}{FIRST} {text[start:end]} {FIRST}{text[end:]}"
    return [row | label_of(values)]


def wsc(values: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """The text, with the noun marked by * and the pronoun by #, as {"text": ...}.

    A span is as many words as its text has, from its index on. What stands there is marked, also
    where its text differs: "The table" for "the table", "him" for "him,".
    """
    # Indices count what single spaces separate, so that two spaces have an empty word between them.
    words = value(values, "text", str, where).split(" ")
    target, inside = value(values, "target", dict[str, Any], where), f"{where}: target"
    spans = []
    for name, mark in (("span1", FIRST), ("span2", SECOND)):
        first = value(target, f"{name}_index", int, inside)
        n_words = len(value(target, f"{name}_text", str, inside).split()) or 1
        if not 0 <= first <= len(words) - n_words:
            raise UserError(
                f"{inside}: {name}_index={show(first)} for {n_words} words; expected a place among "
                f"the {len(words)} words of the text"
            )
        spans.append((n_words, first, mark))
    # A pronoun may be part of the noun phrase; the shorter span is the inner one.
    for n_words, first, mark in sorted(spans):
        last = first + n_words - 1
        words[first] = f"{mark} {words[first]}"
        words[last] = f"{words[last]} {mark}"
    return [{"text": " ".join(words), **label_of(values)}]


def multirc(values: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """A row for each answer to each question about a passage; `question` is the question's number.

    {"passage": ..., "answer": "Who was it? Anna", "question": 0, "label": 1}
    """
    passage, inside = value(values, "passage", dict[str, Any], where), f"{where}: passage"
    text = value(passage, "text", str, inside)
    rows = []
    for number, question in enumerate(value(passage, "questions", list[dict[str, Any]], inside)):
        at = f"{inside}.questions[{number}]"
        words = value(question, "question", str, at)
        for i, answer in enumerate(value(question, "answers", list[dict[str, Any]], at)):
            joined = f"{words} {value(answer, 'text', str, f'{at}.answers[{i}]')}"
            row = {"passage": text, "answer": joined, "question": number}
            rows.append(row | label_of(answer))
    return rows


# The tasks whose objects are more than a row of texts.
FLATTEN: dict[str, Flatten] = {
    "wic": wic,
    "wsc": wsc,
    "multirc": multirc,
}


def read_record(file: str | Path) -> tuple[list[Question], list[str]]:
    """ReCoRD's queries about passages, in which @placeholder stands for what to find.

    And the answers, in words, that do not stand where the file says; these start at -1.
    """
    questions, misplaced = list[Question](), list[str]()
    name, lines = open_text(file, "jsonl", "questions")
    for number, values in json_lines(lines, name):
        where = f"{name}, line {number}"
        passage = value(values, "passage", dict[str, Any], where)
        context = value(passage, "text", str, f"{where}: passage")
        for i, entry in enumerate(value(values, "qas", list[dict[str, Any]], where)):
            at = f"{where}: qas[{i}]"
            idx, query = value(entry, "idx", int, at), value(entry, "query", str, at)
            if not context.strip() or not query.strip():
                raise UserError(f"{at}: an empty query or passage; expected texts")
            answers = []
            # Test files have no answers.
            given = value(entry, "answers", list[dict[str, Any]], at) if "answers" in entry else []
            for answer in given:
                text, start = value(answer, "text", str, at), value(answer, "start", int, at)
                # `end` is the last character here, not the one after it; the text says as much.
                if not stands_at(context, text, start):
                    misplaced.append(f"{short(text, 40)!r} at {show(start)} of query {show(idx)}")
                    start = -1
                answers.append((text, start))
            questions.append(Question(str(idx), query, context, tuple(answers)))
    return questions, misplaced


def label_of(values: dict[str, Any]) -> dict[str, Any]:
    """The label, where there is one: test files have none."""
    return {"label": values["label"]} if "label" in values else {}


def value(values: dict[str, Any], key: str, kind: Any, where: str) -> Any:
    """A value of a JSON object; UserError where it is missing or of another type."""
    if key not in values:
        keys = short(", ".join(values)) or "none"
        raise UserError(f"{where} has no {key!r}, its keys are {keys}; expected SuperGLUE's JSON")
    return typed(values[key], kind, f"{where}: {key}")

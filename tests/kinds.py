"""Small files of each kind of task, made from the built-in sample."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from tasks import TASKS, ChoiceTask, QuestionTask, RankTask, TagTask, Task, VectorTask

TASK_OF: dict[str, Task] = {
    "sentences": dataclasses.replace(TASKS["mrpc"], max_len=64),
    "questions": QuestionTask(max_len=64, doc_stride=16, max_query_len=8),
    "tags": TagTask(max_len=12),  # so short that some sentences need two windows
    "choice": ChoiceTask(max_len=32),
    "vectors": VectorTask(max_len=32, both_ways=True),
    "ranking": RankTask(max_len=32),
}
# What a notebook has in hand, and what is none of it.
INPUTS_OF: dict[str, Any] = {
    "sentences": ("anna sold a lamp .", "boris bought a lamp ."),
    "questions": ("anna ?", "anna sold the lamp to boris ."),
    "tags": "anna sold the lamp to boris .",
    "choice": ("anna sold", ["a lamp .", "boris .", "the lamp to boris ."]),
    "vectors": "anna sold the lamp to boris .",
    "ranking": ("anna sold", ["a lamp .", "boris .", "the lamp to boris ."]),
}


def sentences(sample: Path) -> list[list[str]]:
    """The words of some sentences of the sample."""
    lines = (sample / "corpus.txt").read_text().splitlines()
    return [line.split() for line in lines if line][:40]


def write(kind: str, sample: Path, folder: Path) -> Path:
    """A file of a kind of task."""
    words = sentences(sample)
    if kind == "sentences":
        # 53 rows, so that the last batch of ten has three.
        lines = (sample / "train.tsv").read_text().splitlines()[:54]
        (folder / "train.tsv").write_text("\n".join(lines) + "\n")
        return folder / "train.tsv"
    if kind == "questions":
        return write_questions(words, folder / "squad.json")
    file = folder / f"{kind}.jsonl"
    lines = []
    for i, one in enumerate(words):
        if kind == "tags":
            # A name is a chunk of its first two words, long words are another.
            tags = ["B-START", "I-START"] + ["B-LONG" if len(w) > 4 else "O" for w in one[2:]]
            lines += [f"{word}\t{tag}" for word, tag in zip(one, tags, strict=False)] + [""]
        elif kind == "ranking":
            # One to four texts of a query, of which the others fit less or not.
            row = {"query_id": i, "query": " ".join(one)}
            for k in range(1 + i % 4):
                text = " ".join(words[(i + k * k) % 40][2:])
                lines.append(json.dumps(row | {"id": k, "text": text, "grade": max(2 - k, 0)}))
        elif kind == "vectors":
            # Some queries come twice, some texts too; every third row has texts that do not fit.
            wrong = [" ".join(words[(i * 7 + k) % 40]) for k in range(i % 3)]
            row = {"query": " ".join(one[:2]), "text": " ".join(words[i // 2]), "negatives": wrong}
            lines.append(json.dumps(row))
        else:
            # Two to four choices, some of them twice.
            choices = [" ".join(words[(i + k * k) % 40][2:]) for k in range(2 + i % 3)] + ["a"] * 2
            answer = i % len(choices)
            lines.append(json.dumps({"context": one[0], "choices": choices, "label": answer}))
    file.write_text("\n".join(lines) + "\n")
    return file


def write_questions(words: list[list[str]], file: Path) -> Path:
    """Questions whose answer is the third word of a sentence."""
    paragraphs = []
    for i, one in enumerate(words):
        line, answer = " ".join(one), one[2]
        question: dict[str, Any] = {"id": str(i), "question": f"{one[0]} ?"}
        question["answers"] = [{"text": answer, "answer_start": line.index(f" {answer} ") + 1}]
        paragraphs.append({"context": line, "qas": [question]})
    file.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    return file

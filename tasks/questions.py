"""Questions about texts, SQuAD's way: from its JSON to windows of tokens, from scores to answers,
and how good these are.

    questions = read_squad("dev-v1.1.json")
    windows = make_windows(questions, tokenizer, max_len=384, doc_stride=128)
    answers = find_answers(questions, windows, scores)          # of every question, the best first
    evaluate(questions, {answer.id: answer.best for answer in answers})

Rules and names follow run_squad.py of google-research/bert and SQuAD's official evaluation.
"""

import array
import collections
import dataclasses
import re
import string
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tasks.sentences import Features
from tokenization import FullTokenizer
from utils import UserError, note, read_json, short, show

N_BEST = 20  # starts and ends of a window that are looked at, and answers that are written


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """A question about a text, and its right answers: text and where it starts, in characters; -1:
    it does not stand where the file says.
    """

    id: str
    text: str
    context: str
    answers: tuple[tuple[str, int], ...] = ()
    impossible: bool = False  # SQuAD 2.0: the text has no answer


def read_squad(file: str | Path) -> list[Question]:
    """The questions of a file; UserError names what is missing, and where. Answers that do not
    stand in the text where the file says are told.
    """
    data = read_json(file)
    questions: list[Question] = []
    misplaced: list[str] = []
    for i, article in enumerate(member(data, "data", list, f"{file}")):
        for j, paragraph in enumerate(member(article, "paragraphs", list, f"{file}: data[{i}]")):
            where = f"{file}: data[{i}].paragraphs[{j}]"
            context = member(paragraph, "context", str, where)
            if not context.strip():
                raise UserError(f"{where}: the context is empty; expected a text")
            for k, entry in enumerate(member(paragraph, "qas", list, where)):
                here = f"{where}.qas[{k}]"
                name, text = member(entry, "id", str, here), member(entry, "question", str, here)
                if not text.strip():
                    raise UserError(f"{here}: the question {name} is empty; expected a text")
                impossible = bool(entry.get("is_impossible")) or entry.get("answers") == []
                answers = []
                for answer in (
                    []
                    if impossible or "answers" not in entry
                    else member(entry, "answers", list, here)
                ):
                    words, start = (
                        member(answer, "text", str, here),
                        member(answer, "answer_start", int, here),
                    )
                    fits = (
                        bool(words) and start >= 0 and context[start : start + len(words)] == words
                    )
                    answers.append((words, start if fits else -1))
                    if not fits:
                        misplaced.append(
                            f"{short(words, 40)!r} at {start} of question {short(name)}"
                        )
                questions.append(Question(name, text, context, tuple(answers), impossible))
    if not questions:
        raise UserError(f"{file} has no questions; expected SQuAD's JSON")
    if misplaced:
        note(
            f"{file}: {len(misplaced)} answers do not stand where answer_start says and are not "
            "trained on, the first of "
            f"them {misplaced[0]}"
        )
    return questions


def member(values: Any, key: str, kind: type, where: str) -> Any:
    """A value of a JSON object; UserError where it is missing or of another type."""
    if not isinstance(values, dict) or key not in values:
        raise UserError(f"{where} has no {key!r}; expected SQuAD's JSON")
    if not isinstance(values[key], kind):
        raise UserError(f"{where}: {key!r} is {show(values[key], 40)}; expected {kind.__name__}")
    return values[key]


# ------------------------------------------------------------------------------------------ windows


@dataclasses.dataclass(frozen=True)
class Windows:
    """N windows over the contexts of questions. Positions are tokens of a window, [CLS] being 0."""

    features: Features  # [CLS] question [SEP] piece of context [SEP]; labels (N, 2): start and end
    question: np.ndarray  # (N,) which question each belongs to
    start: np.ndarray  # (N,) at which token of the context the piece starts
    shift: np.ndarray  # (N,) position of the piece's first token
    size: np.ndarray  # (N,) tokens of the piece
    spans: dict[str, np.ndarray]  # of a context, (tokens, 2): the characters each token stands for


def make_windows(
    questions: list[Question],
    tokenizer: FullTokenizer,
    max_len: int,
    doc_stride: int,
    max_query_len: int = 64,
    training: bool = False,
    keep_outside: bool = False,
) -> Windows:
    """Windows of max_len tokens at most, a doc_stride apart.

    For training each has the tokens of the first answer as its labels, or (0, 0), [CLS], where the
    question has none. A window that lacks the answer is left out, unless keep_outside: then its
    labels are (0, 0) too. A question whose answers are all misplaced is left out.
    """
    if max_len < max_query_len + 4 or not doc_stride > 0:
        raise UserError(
            f"max_len={max_len}, doc_stride={doc_stride}; expected max_len of at least "
            "max_query_len + 4 = "
            f"{max_query_len + 4}, and a doc_stride of 1 or more"
        )
    if doc_stride > (room := max_len - max_query_len - 3):
        raise UserError(
            f"doc_stride={doc_stride} is more than the {room} tokens of context that a window has "
            "beside a "
            f"question of {max_query_len}; tokens between windows would not be seen; lower "
            "--doc_stride"
        )
    cls, sep = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]"])
    flat, spans = array.array("i"), dict[str, np.ndarray]()
    ids_of = dict[str, list[int]]()
    columns: dict[str, array.array] = {
        name: array.array("q") for name in ("end", "second", "question", "start", "size")
    }
    labels = array.array("i")
    for number, question in enumerate(questions):
        if question.context not in spans:
            ids, pairs = tokenizer.encode_with_offsets(question.context)
            ids_of[question.context], spans[question.context] = (
                ids,
                np.array(pairs, np.int32).reshape(-1, 2),
            )
        ids, query = ids_of[question.context], tokenizer.encode(question.text)[:max_query_len]
        room, answer = max_len - len(query) - 3, (-1, -1)
        placed = [a for a in question.answers if a[1] >= 0]
        if training and placed:
            answer = token_span(spans[question.context], *placed[0])
        elif training and question.answers:
            continue
        begin = 0
        while True:
            size = min(room, len(ids) - begin)
            shift = len(query) + 2
            inside = begin <= answer[0] and answer[1] < begin + size
            if not training or inside or not question.answers or keep_outside:
                flat.extend([cls, *query, sep, *ids[begin : begin + size], sep])
                for name, value in (
                    ("end", len(flat)),
                    ("second", shift),
                    ("question", number),
                    ("start", begin),
                    ("size", size),
                ):
                    columns[name].append(value)
                labels.extend(
                    [answer[0] - begin + shift, answer[1] - begin + shift] if inside else [0, 0]
                )
            if begin + size >= len(ids):
                break
            begin += min(size, doc_stride)
    arrays = {name: np.array(values, np.int64) for name, values in columns.items()}
    features = Features(
        np.array(flat, np.int32),
        np.append(0, arrays["end"]),
        arrays["second"],
        np.array(labels, np.int64).reshape(-1, 2),
        arrays["question"],
    )
    return Windows(
        features, arrays["question"], arrays["start"], arrays["second"], arrays["size"], spans
    )


def token_span(spans: np.ndarray, text: str, start: int) -> tuple[int, int]:
    """The first and the last token that has a character of an answer; (-1, -1) where no token has."""
    stripped = start + len(text) - len(text.lstrip())
    end = start + len(text.rstrip())
    first = int(np.searchsorted(spans[:, 1], stripped, "right"))
    last = int(np.searchsorted(spans[:, 0], end, "left")) - 1
    return (first, last) if first <= last else (-1, -1)


# ------------------------------------------------------------------------------------------ answers


@dataclasses.dataclass(frozen=True)
class Answer:
    """What was found for a question."""

    id: str
    n_best: list[dict[str, Any]]  # text, probability, start_logit, end_logit; the best first
    best: str  # the best text that is not empty
    null_odds: float  # score of no answer, less that of the best


def find_answers(
    questions: list[Question],
    windows: Windows,
    scores: np.ndarray,
    max_answer_len: int = 30,
    with_null: bool = False,
    n_best: int = N_BEST,
) -> list[Answer]:
    """Of every question the best pieces of its context.

    `scores` (N, 4k + 2) has of every window what `best_positions` gives. A piece begins where its
    window gives the token the most context, and has max_answer_len tokens at most. `with_null`: no
    answer is an answer too (SQuAD 2.0).
    """
    k = (scores.shape[1] - 2) // 4
    start_scores, starts, end_scores, ends = (scores[:, i * k : (i + 1) * k] for i in range(4))
    starts, ends = starts.astype(np.int64), ends.astype(np.int64)
    null = scores[:, -2] + scores[:, -1]
    first, last = windows.shift[:, None], (windows.shift + windows.size)[:, None]
    good_start = (starts >= first) & (starts < last) & np.isfinite(start_scores)
    good_end = (ends >= first) & (ends < last) & np.isfinite(end_scores)
    bounds = np.searchsorted(windows.question, np.arange(len(questions) + 1))
    found = []
    for number, question in enumerate(questions):
        rows = np.arange(bounds[number], bounds[number + 1])
        if len(rows) > 1:
            for row in rows:
                tokens = windows.start[row] + starts[row] - windows.shift[row]
                good_start[row] &= (
                    most_context(tokens, windows.start[rows], windows.size[rows]) == row - rows[0]
                )
        length = ends[rows][:, None, :] - starts[rows][:, :, None] + 1  # (windows, k, k)
        valid = (
            good_start[rows][:, :, None]
            & good_end[rows][:, None, :]
            & (length >= 1)
            & (length <= max_answer_len)
        )
        total = start_scores[rows][:, :, None] + end_scores[rows][:, None, :]
        w, s, e = np.nonzero(valid)
        order = np.argsort(-total[w, s, e], kind="stable")
        spans = windows.spans[question.context]
        candidates: list[tuple[str, float, float]] = []
        seen: set[str] = set()
        for i in order:
            if len(candidates) >= n_best:
                break
            row = rows[w[i]]
            tokens = (
                windows.start[row]
                - windows.shift[row]
                + np.array([starts[row, s[i]], ends[row, e[i]]])
            )
            text = question.context[spans[tokens[0], 0] : spans[tokens[1], 1]]
            if text not in seen:
                seen.add(text)
                candidates.append(
                    (text, float(start_scores[row, s[i]]), float(end_scores[row, e[i]]))
                )
        best = candidates[0] if candidates else ("", 0.0, 0.0)
        row = rows[np.argmin(null[rows])]
        if with_null:  # no answer has a place of its own among the n_best
            nothing = ("", float(scores[row, -2]), float(scores[row, -1]))
            candidates = sorted([*candidates[: n_best - 1], nothing], key=lambda c: -(c[1] + c[2]))
        candidates = candidates or [("", 0.0, 0.0)]
        sums = np.array([a + b for _, a, b in candidates])
        chances = np.exp(sums - sums.max())
        chances /= chances.sum()
        found.append(
            Answer(
                question.id,
                [
                    {"text": text, "probability": float(chance), "start_logit": a, "end_logit": b}
                    for (text, a, b), chance in zip(candidates, chances, strict=True)
                ],
                best[0],
                float(null[row]) - best[1] - best[2],
            )
        )
    return found


def most_context(tokens: np.ndarray, starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Which of some windows gives each token of a context the most context: min(left, right) + 0.01
    * its size.
    """
    left = tokens[:, None] - starts  # (tokens, windows)
    right = starts + sizes - 1 - tokens[:, None]
    score = np.where((left >= 0) & (right >= 0), np.minimum(left, right) + 0.01 * sizes, -1.0)
    return score.argmax(1)


# --------------------------------------------------------------------------------------- evaluation


def normalise(text: str) -> str:
    """Lower case, without punctuation, articles and extra white space."""
    text = "".join(char for char in text.lower() if char not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(answer: str, right: str) -> float:
    """1 if both are the same but for what normalise() drops."""
    return float(normalise(answer) == normalise(right))


def f1(answer: str, right: str) -> float:
    """The harmonic mean of precision and recall of the words, rounded as in the official
    evaluation.
    """
    a, b = normalise(answer).split(), normalise(right).split()
    same = sum((collections.Counter(a) & collections.Counter(b)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(a), same / len(b)
    return 2 * precision * recall / (precision + recall)


def evaluate(
    questions: list[Question],
    answers: dict[str, str],
    null_odds: dict[str, float] | None = None,
    threshold: float = 0.0,
) -> dict[str, float]:
    """EM and F1 in percent, of each question the best over its right answers, as SQuAD's official
    evaluations have them, to the last digit. A question without a prediction counts 0, and a note
    says how many there are.

    Where questions have no answer (SQuAD 2.0), also apart for those with and without one. There
    with `null_odds` answers whose odds are above the threshold count as none, and the best
    thresholds come along. UserError where the odds of a question are missing, or no question has a
    prediction.
    """
    two = any(q.impossible for q in questions)
    missing = [q.id for q in questions if q.id not in answers]
    if len(missing) == len(questions):
        raise UserError(
            f"{len(missing)} of {len(questions)} questions have no prediction; predict the same "
            "file"
        )
    if missing:
        note(
            f"{len(missing)} of {len(questions)} questions have no prediction and count 0, the "
            f"first of them {missing[0]}"
        )
    plain = [score(answers[q.id], q, two) if q.id in answers else (0.0, 0.0) for q in questions]
    scores = plain
    if two and null_odds is not None:
        if unknown := [q.id for q in questions if q.id in answers and q.id not in null_odds]:
            raise UserError(
                f"{len(unknown)} questions have no odds, the first of them {unknown[0]}; name the "
                "null_odds of "
                f"the same predictions"
            )
        scores = [
            (float(not q.answers),) * 2 if q.id in answers and null_odds[q.id] > threshold else pair
            for q, pair in zip(questions, plain, strict=True)
        ]
    results: dict[str, float] = {}
    parts = {"": scores}
    if two:
        parts["HasAns_"] = [pair for q, pair in zip(questions, scores, strict=True) if q.answers]
        parts["NoAns_"] = [pair for q, pair in zip(questions, scores, strict=True) if not q.answers]
    for name, rows in parts.items():
        if rows:
            for i, metric in enumerate(("exact", "f1")):
                results[f"{name}{metric}"] = (
                    100.0 * sum_in_order(pair[i] for pair in rows) / len(rows)
                )
            results[f"{name}total"] = len(rows)
    if two and null_odds is not None:
        for i, metric in enumerate(("exact", "f1")):
            by_id = {q.id: pair[i] for q, pair in zip(questions, plain, strict=True)}
            best, where = best_threshold(questions, by_id, answers, null_odds)
            results |= {f"best_{metric}": best, f"best_{metric}_thresh": where}
    return results


def sum_in_order(values: Iterable[float]) -> float:
    """One by one, as the official evaluation adds up: sum() of a newer Python rounds otherwise."""
    total = 0.0
    for value in values:
        total += value
    return total


def score(answer: str, question: Question, two: bool) -> tuple[float, float]:
    """EM and F1 of an answer. In SQuAD 2.0 a right answer that normalise() leaves nothing of is
    none, and of texts without words, F1 is 1 where both have none.
    """
    rights = [text for text, _ in question.answers if not two or normalise(text)] or [""]
    exact = max(exact_match(answer, right) for right in rights)
    words = max(f1(answer, right) for right in rights)
    return exact, float(exact) if two and not normalise(answer) else words


def best_threshold(
    questions: list[Question],
    scores: dict[str, float],
    answers: dict[str, str],
    odds: dict[str, float],
) -> tuple[float, float]:
    """The best score in percent that a threshold on the odds gives, and that threshold: the
    official script's search, which takes equal odds in the order of their file.
    """
    answerable = {q.id: bool(q.answers) for q in questions}
    current = best = float(sum(not known for known in answerable.values()))
    threshold = 0.0
    for name in sorted(odds, key=lambda name: odds[name]):
        if name not in scores:
            continue
        if answerable[name]:
            current += scores[name]
        elif answers.get(name):
            current -= 1
        if current > best:
            best, threshold = current, odds[name]
    return 100.0 * best / len(scores), threshold

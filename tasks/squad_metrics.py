"""Exact match and F1 of answers, as SQuAD's official evaluations of 1.1 and 2.0 compute them.

    evaluate(questions, {"56be4db0acb8001400a502ec": "Denver Broncos"})  # {"exact": 0.1, "f1": ...}

Answers in other languages are compared by the rules of MLQA (Lewis et al., 1910.07475).
"""

import collections
import dataclasses
import functools
import operator
import re
import string
import unicodedata

from utils import UserError, nearest, show, warn

METRICS = ("exact", "f1")

# What normalise() leaves out of an answer, by language. English is SQuAD's rule; that of the others
# is MLQA's, whose punctuation is Unicode's. In Vietnamese they are classifiers and the like, since
# there are no articles; Hindi and Chinese have none.
ARTICLES = {
    "en": r"\b(a|an|the)\b",
    "es": r"\b(un|una|unos|unas|el|la|los|las)\b",
    "de": r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "vi": r"\b(của|là|cái|chiếc|những)\b",
    # Officially wherever these two letters stand, not only at the beginning of a word.
    "ar": "ال",
    "hi": "",
    "zh": "",
}
# The Chinese characters that are words of their own; officially no others.
CHINESE = re.compile("([\u4e00-\u9fa5])")


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """A question about a text, and its right answers: texts and where they start, in characters.

    A start of -1: the answer does not stand where the file says.
    """

    id: str
    text: str
    context: str
    answers: tuple[tuple[str, int], ...] = ()
    impossible: bool = False  # SQuAD 2.0: the text has no answer


def stands_at(context: str, words: str, start: int) -> bool:
    """Whether an answer is a piece of a context that starts at this character."""
    return bool(words) and start >= 0 and context[start : start + len(words)] == words


def check_language(language: str) -> None:
    """UserError where answers in a language cannot be compared."""
    if language not in ARTICLES:
        raise UserError(
            f"language={show(language)}{nearest(language, ARTICLES)}; expected one of "
            f"{', '.join(ARTICLES)}"
        )


def normalise(text: str, language: str = "en") -> str:
    """Lower case, without punctuation, articles and extra white space.

    normalise("Der Löwe!", "de") -> "löwe"        normalise("在1998年。", "zh") -> "在 1998 年"
    """
    # The order matters: punctuation goes first, so that "a." becomes an article and goes as well.
    text = "".join(char for char in text.lower() if not is_punctuation(char, language))
    if ARTICLES[language]:
        text = re.sub(ARTICLES[language], " ", text)
    # Chinese has no spaces between words, so that each character counts as one.
    if language == "zh":
        text = CHINESE.sub(r" \1 ", text)
    return " ".join(text.split())


def is_punctuation(char: str, language: str) -> bool:
    """Whether it is punctuation: for SQuAD ASCII's alone, for MLQA Unicode's too."""
    of_unicode = language != "en" and unicodedata.category(char).startswith("P")
    return of_unicode or char in string.punctuation


def exact_match(answer: str, right: str, language: str = "en") -> float:
    """1 if both are the same but for what normalise() drops."""
    return float(normalise(answer, language) == normalise(right, language))


def f1(answer: str, right: str, language: str = "en") -> float:
    """The harmonic mean of precision and recall of the words, rounded as officially."""
    a, b = normalise(answer, language).split(), normalise(right, language).split()
    # A Counter's & keeps the smaller count of each word: one twice in the answer matches two.
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
    language: str = "en",
) -> dict[str, float]:
    """EM and F1 in percent, of each question the best over its right answers.

    As SQuAD's official evaluations have them, to the last digit. A question without a prediction
    counts 0, and a note says how many there are.

    Where questions have no answer (SQuAD 2.0), also apart for those with and without one. There
    with `null_odds` answers whose odds are above the threshold count as none, and the best
    thresholds come along. UserError where the odds of a question are missing, or no question has a
    prediction.
    """
    # A file of SQuAD 1.1 has no impossible question, and 2.0's rules would differ for it.
    two = any(q.impossible for q in questions)
    check_predicted(questions, answers)
    plain = [
        score(answers[q.id], q, two, language) if q.id in answers else (0.0, 0.0) for q in questions
    ]
    if not two:
        return means("", plain)
    scores = plain
    if null_odds is not None:
        scores = with_threshold(questions, plain, answers, null_odds, threshold)
    pairs = list(zip(questions, scores, strict=True))
    results = means("", scores)
    # The official evaluation of 2.0 names these parts so.
    results |= means("HasAns_", [pair for q, pair in pairs if q.answers])
    results |= means("NoAns_", [pair for q, pair in pairs if not q.answers])
    if null_odds is not None:
        for i, metric in enumerate(METRICS):
            by_id = {q.id: pair[i] for q, pair in zip(questions, plain, strict=True)}
            best, where = best_threshold(questions, by_id, answers, null_odds)
            results |= {f"best_{metric}": best, f"best_{metric}_thresh": where}
    return results


def check_predicted(questions: list[Question], answers: dict[str, str]) -> None:
    """UserError where no question has a prediction; a note where some have none."""
    missing = [q.id for q in questions if q.id not in answers]
    # Not one prediction fits: most likely those of another file.
    if len(missing) == len(questions):
        raise UserError(
            f"{len(missing)} of {len(questions)} questions have no prediction; predict the same "
            "file"
        )
    if missing:
        warn(
            f"{len(missing)} of {len(questions)} questions have no prediction and count 0, the "
            f"first of them {missing[0]}"
        )


def with_threshold(
    questions: list[Question],
    scores: list[tuple[float, float]],
    answers: dict[str, str],
    null_odds: dict[str, float],
    threshold: float,
) -> list[tuple[float, float]]:
    """The scores where answers whose odds are above a threshold count as none."""
    if unknown := [q.id for q in questions if q.id in answers and q.id not in null_odds]:
        raise UserError(
            f"{len(unknown)} questions have no odds, the first of them {unknown[0]}; name the "
            "null_odds of the same predictions"
        )
    changed = list(scores)
    for i, q in enumerate(questions):
        # Beyond the threshold a question counts as unanswered: right, if it has no answer.
        if q.id in answers and null_odds[q.id] > threshold:
            changed[i] = (float(not q.answers), float(not q.answers))
    return changed


def means(prefix: str, scores: list[tuple[float, float]]) -> dict[str, float]:
    """The means in percent and how many there are; nothing where there is no question."""
    if not scores:
        return {}
    results: dict[str, float] = {}
    for metric, values in zip(METRICS, zip(*scores, strict=True), strict=True):
        # One by one, as officially: sum() of a newer Python rounds otherwise.
        results[f"{prefix}{metric}"] = 100.0 * functools.reduce(operator.add, values) / len(scores)
    return results | {f"{prefix}total": len(scores)}


def score(answer: str, question: Question, two: bool, language: str = "en") -> tuple[float, float]:
    """EM and F1 of an answer.

    In SQuAD 2.0 a right answer that normalise() leaves nothing of is none, and of texts without
    words, F1 is 1 where both have none.
    """
    rights = [text for text, _ in question.answers if not two or normalise(text, language)] or [""]
    exact = max(exact_match(answer, right, language) for right in rights)
    words = max(f1(answer, right, language) for right in rights)
    return exact, float(exact) if two and not normalise(answer, language) else words


def best_threshold(
    questions: list[Question],
    scores: dict[str, float],
    answers: dict[str, str],
    odds: dict[str, float],
) -> tuple[float, float]:
    """The best score in percent that a threshold on the odds gives, and that threshold.

    The official script's search, which takes equal odds in the order of their file.
    """
    answerable = {q.id: bool(q.answers) for q in questions}
    # With a threshold below all odds nothing is answered, and all impossible questions are right.
    current = best = float(sum(not known for known in answerable.values()))
    threshold = 0.0
    # Raising the threshold past a question's odds means answering it.
    for name in sorted(odds, key=lambda name: odds[name]):
        if name not in scores:
            continue
        if answerable[name]:
            current += scores[name]
        elif answers.get(name):
            # An empty answer to an impossible question stays right.
            current -= 1
        if current > best:
            best, threshold = current, odds[name]
    return 100.0 * best / len(scores), threshold

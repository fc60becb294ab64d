"""Answers in other languages, by MLQA's rules: examples worked by hand."""

from pathlib import Path

import pytest

from tasks.questions import QuestionTask
from tasks.squad_metrics import ARTICLES, Question, evaluate, exact_match, f1, normalise
from utils import UserError


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "The  Cat, a dog!", "cat dog"),
        # Typographic quotes are no punctuation to SQuAD, and are to MLQA.
        ("en", "“the cat”", "“ cat”"),
        ("de", "„Die Katze“", "katze"),
        ("de", "Eine Katze, der Hund; des the", "katze hund the"),
        ("de", "dieser Ein-Euro-Job", "dieser eineurojob"),
        ("es", "¿La gata y unos perros?", "gata y perros"),
        ("vi", "Những con mèo của tôi là cái", "con mèo tôi"),
        # Both letters go wherever they stand.
        ("ar", "القط، والكلب", "قط و كلب"),
        ("hi", "बिल्ली। और the", "बिल्ली और the"),
        ("zh", "在1998年，北京 Beijing大学。", "在 1998 年 北 京 beijing 大 学"),
        # A character outside of the range that counts is part of the word beside it.
        ("zh", "㐀a京", "㐀a 京"),
        ("zh", "", ""),
    ],
)
def test_answers_are_normalised_by_language(language: str, text: str, expected: str) -> None:
    assert normalise(text, language) == expected


def test_english_is_the_default_and_squad_s_rule() -> None:
    assert normalise("“The cat”") == normalise("“The cat”", "en")
    assert QuestionTask().language == "en"


def test_a_chinese_character_counts_as_a_word() -> None:
    # 北京大学 and 北京: two of four characters, and both of two.
    assert f1("北京大学", "北京。", "zh") == pytest.approx(2 / 3)
    assert f1("北京大学", "北京") == 0  # one word of another language
    assert exact_match("《北京》", "北 京", "zh") == 1
    assert exact_match("《北京》", "北京") == 0


def test_a_file_is_evaluated_in_its_language() -> None:
    question = Question("a", "Wer?", "Das war der Hund.", (("der Hund", 8),))
    right = {"a": "Hund"}
    assert evaluate([question], right, language="de")["exact"] == 100
    assert evaluate([question], right)["exact"] == 0
    assert evaluate([question], right)["f1"] == pytest.approx(100 * 2 / 3)
    # With questions that have no answer the same rules hold: "die" is none.
    nothing = Question("b", "Wann?", "Das war der Hund.", (), impossible=True)
    results = evaluate([question, nothing], {"a": "Hund", "b": "die"}, language="de")
    assert (results["exact"], results["NoAns_exact"]) == (100, 100)


@pytest.mark.parametrize("language", ["fr", "EN", "", "deu"])
def test_an_unknown_language_is_answered_with_those_known(language: str) -> None:
    with pytest.raises(UserError, match="expected one of en, es, de, vi, ar, hi, zh"):
        QuestionTask(language=language)


def test_every_language_leaves_white_space_and_capitals_out(tmp_path: Path) -> None:
    for language in ARTICLES:
        assert normalise(" X \t\n y. ", language) == "x y"

"""squad.py on ReCoRD's JSON lines, and in another language."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from squad import Squad
from system.files import read_json


def write_squad(file: Path, answer: str, context: str) -> None:
    answers = [{"text": answer, "answer_start": context.index(answer)}]
    asked = [{"id": "a", "question": "wer?", "answers": answers}]
    article = {"paragraphs": [{"context": context, "qas": asked}]}
    file.write_text(json.dumps({"version": "1.1", "data": [article]}))


def test_record_trains_and_is_evaluated(sample: Path, tmp_path: Path, run: Callable) -> None:
    answers = [{"text": "lamp", "start": 18, "end": 21}, {"text": "anna", "start": 0, "end": 3}]
    row = {
        "passage": {"text": "anna sold the red lamp to boris", "entities": []},
        "qas": [{"idx": 3, "query": "boris has a @placeholder", "answers": answers}],
    }
    file = tmp_path / "val.jsonl"
    file.write_text(json.dumps(row) + "\n")
    status, out, err = run(
        f"--train_file {file} --eval_file {file} --model_cfg {sample}/config.json --vocab "
        f"{sample}/vocab.txt --train_cfg {sample}/train.json --total_steps 2 --max_len 40 "
        f"--max_query_len 12 --doc_stride 16 --save_dir {tmp_path}/run",
        Squad,
    )
    assert status == 0, err
    assert f"{file}: 1 of 1 questions, 1 windows" in out
    # The run has said how it is evaluated.
    line = re.search(r"^Evaluate it:  python squad.py (--mode eval .*)$", out, re.MULTILINE)
    assert line
    # It is quoted for a shell.
    status, out, err = run(line[1].replace("'", "").replace("FILE", str(file)), Squad)
    assert status == 0, err
    assert "\ntotal: 1\n" in out
    assert read_json(tmp_path / "run/predictions/predictions.json").keys() == {"3"}


def test_answers_are_evaluated_in_their_language(tmp_path: Path, run: Callable) -> None:
    write_squad(tmp_path / "dev.json", "der Hund", "das war der Hund")
    (tmp_path / "answers.json").write_text('{"a": "Hund"}')
    line = f"--mode eval --predict_file {tmp_path}/dev.json --predictions {tmp_path}/answers.json"
    assert run(line, Squad)[1].startswith("exact: 0.0\n")
    assert run(f"{line} --language de", Squad)[1].startswith("exact: 100.0\n")
    # The other way round: English articles are words of German.
    (tmp_path / "answers.json").write_text('{"a": "the der Hund"}')
    assert run(f"{line} --language de", Squad)[1].startswith("exact: 0.0\n")
    assert run(line, Squad)[1].startswith("exact: 100.0\n")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--mode eval --predict_file x --predictions y --language fr", "language='fr'; expected"),
        ("--train_file x --eval_file y --language fr", "language='fr'; expected one of en, es, de"),
        ("--train_file x --language de", "--language is about evaluation; name an --eval_file"),
        ("--mode predict --predict_file x --model_file y --language de", "--language"),
    ],
)
def test_a_language_that_is_unknown_or_useless_is_refused(
    run: Callable, line: str, message: str
) -> None:
    status, _, err = run(line, Squad)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1

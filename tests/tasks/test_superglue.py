"""SuperGLUE: its JSON lines as rows worked by hand, what is wrong in a line, its real files."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.metrics import Outcome
from tasks.questions import QuestionTask, read_squad
from tasks.rows import read_examples, read_rows
from tasks.sentences import TASKS, get_task, groups_of
from tasks.squad_metrics import Question, evaluate
from tasks.superglue import FLATTEN, file_in
from tasks.table_config import Example
from tokenization import FullTokenizer
from utils import UserError

WIC = {
    "word": "bat",
    "sentence1": "A bat flew.",
    "start1": 2,
    "end1": 5,
    "sentence2": "Bats, they say",
    "start2": 0,
    "end2": 4,
    "label": False,
}
WSC = {
    "text": "Anna  thanked the man because he, as ever, had helped.",
    "target": {
        "span1_index": 3,
        "span1_text": "The man",
        "span2_index": 6,
        "span2_text": "he",
    },
    "label": True,
}
MULTIRC = {
    "passage": {
        "text": "Anna sold it to Boris.",
        "questions": [
            {
                "question": "Who sold it?",
                "answers": [{"text": "Anna", "label": 1}, {"text": "Boris", "label": 0}],
            },
            {"question": "To whom?", "answers": [{"text": "Boris", "label": 1}]},
        ],
    },
}


def write(folder: Path, *values: Any) -> Path:
    file = folder / "val.jsonl"
    file.write_text("".join(json.dumps(value) + "\n" for value in values))
    return file


def test_the_word_of_wic_is_marked_in_both_sentences(tmp_path: Path) -> None:
    assert read_examples(TASKS["wic"], write(tmp_path, WIC)) == [
        Example(1, "A * bat * flew.", "* Bats *, they say", "false")
    ]


def test_the_spans_of_wsc_are_marked_at_their_words_whatever_their_text(tmp_path: Path) -> None:
    # The two spaces have an empty word between them, and "he," is a word with its comma.
    marked = "Anna  thanked * the man * because # he, # as ever, had helped."
    assert read_examples(TASKS["wsc"], write(tmp_path, WSC)) == [Example(1, marked, None, "true")]


def test_a_pronoun_inside_of_the_noun_phrase_is_marked_inside(tmp_path: Path) -> None:
    target = {"span1_index": 1, "span1_text": "their mothers", "span2_index": 1}
    row = {"text": "Call their mothers now", "target": target | {"span2_text": "their"}}
    examples = read_examples(TASKS["wsc"], write(tmp_path, row), labelled=False)
    assert examples[0].text_a == "Call * # their # mothers * now"


def test_multirc_has_a_row_for_each_answer_and_a_group_for_each_question(tmp_path: Path) -> None:
    examples = read_examples(TASKS["multirc"], write(tmp_path, MULTIRC, MULTIRC))
    text = "Anna sold it to Boris."
    assert examples == [
        Example(line, text, answer, label, group)
        for line in (1, 2)
        for answer, label, group in (
            ("Who sold it? Anna", "1", "0"),
            ("Who sold it? Boris", "0", "0"),
            ("To whom? Boris", "1", "1"),
        )
    ]
    assert groups_of(examples).tolist() == [0, 0, 1, 2, 2, 3]


def test_multirc_is_measured_by_answer_and_by_question(tmp_path: Path, sample: Path) -> None:
    tokenizer = FullTokenizer(sample / "vocab.txt")
    data = TASKS["multirc"].load(write(tmp_path, MULTIRC), tokenizer)
    assert data.features.labels.tolist() == [1, 0, 1]
    # One of two answers to the first question is wrong, the second question is right. F1 of label
    # 1: two right, one too many.
    scores = np.array([[0.0, 1], [0, 1], [0, 1]], np.float32)
    found = TASKS["multirc"].metrics(data, scores)
    assert (found["F1a"], found["EM"]) == (4 / 5, 1 / 2)


def test_test_files_have_no_labels(tmp_path: Path) -> None:
    wic, multirc = copy.deepcopy((WIC, MULTIRC))
    del wic["label"]
    for question in multirc["passage"]["questions"]:
        for answer in question["answers"]:
            del answer["label"]
    for task, row, n in (("wic", wic, 1), ("multirc", multirc, 3)):
        file = write(tmp_path, row)
        examples = read_examples(TASKS[task], file, labelled=False)
        assert [e.label for e in examples] == [None] * n
        with pytest.raises(UserError, match=r"val.jsonl: no column 'label'"):
            read_examples(TASKS[task], file)


def test_rte_is_read_in_the_form_that_the_suffix_says(tmp_path: Path) -> None:
    row = {"premise": "A\tb", "hypothesis": "c", "label": "entailment", "idx": 0}
    expected = Example(1, "A\tb", "c", "entailment")
    assert read_examples(TASKS["rte"], write(tmp_path, row)) == [expected]
    (tmp_path / "dev.tsv").write_text("index\tsentence1\tsentence2\tlabel\n0\tA\tc\tentailment\n")
    assert read_examples(TASKS["rte"], tmp_path / "dev.tsv")[0].texts == ("A", "c")


def changed(values: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """An object with another value at `a.0.b`; None: without that key."""
    values = copy.deepcopy(values)
    *parents, last = (int(key) if key.isdigit() else key for key in path.split("."))
    inner: Any = values
    for key in parents:
        inner = inner[key]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return values


@pytest.mark.parametrize(
    ("task", "path", "value", "message"),
    [
        ("wic", "start1", None, "has no 'start1', its keys are word, .*; expected SuperGLUE's"),
        ("wic", "sentence2", 5, "sentence2 is 5; expected str"),
        ("wic", "end1", "5", "end1 is '5'; expected int"),
        ("wic", "end1", 12, "start1=2, end1=12; expected a word in the 11 characters of sentence1"),
        ("wic", "start2", -1, "start2=-1, end2=4; expected a word in the 14 characters"),
        ("wic", "end2", 0, "start2=0, end2=0; expected a word"),
        ("wic", "label", None, "no 'label'; expected sentence1, sentence2, label as in the first"),
        ("wic", "label", "no", "unknown label 'no'.*; the labels of wic are false, true"),
        ("wsc", "target", None, "has no 'target'"),
        ("wsc", "target", [], r"target is \[\]; expected a JSON object"),
        ("wsc", "target.span2_text", None, "target has no 'span2_text'"),
        ("wsc", "target.span1_index", 2.0, "target: span1_index is 2.0; expected a finite int"),
        ("wsc", "target.span1_index", 10, "span1_index=10 for 2 words; expected .* the 11 words"),
        ("wsc", "target.span2_index", -1, "span2_index=-1 for 1 words"),
        ("multirc", "passage", "x", "passage is 'x'; expected a JSON object"),
        ("multirc", "passage.questions", {}, r"questions is \{\}; expected a list of"),
        ("multirc", "passage.questions", [1], "expected a list of a JSON object"),
        (
            "multirc",
            "passage.questions.1.question",
            None,
            r"passage.questions\[1\] has no 'question'",
        ),
        (
            "multirc",
            "passage.questions.0.answers.1.text",
            None,
            r"passage.questions\[0\].answers\[1\] has no 'text'",
        ),
        ("multirc", "passage.questions.0.answers.1.label", 2, "unknown label '2'"),
        ("multirc", "passage.questions.1.answers.0.label", None, "no 'label'; expected passage,"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_line(
    tmp_path: Path, task: str, path: str, value: Any, message: str
) -> None:
    right = {"wic": WIC, "wsc": WSC, "multirc": MULTIRC}[task]
    file = write(tmp_path, right, changed(right, path, value))
    with pytest.raises(UserError, match=rf"val.jsonl, line 2\b.*{message}") as error:
        read_examples(TASKS[task], file)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_record_without_questions_is_refused(tmp_path: Path, sample: Path) -> None:
    tokenizer = FullTokenizer(sample / "vocab.txt")
    with pytest.raises(UserError, match="does not say which rows answer one question; name mult"):
        TASKS["multirc"].load(tmp_path / "train.tf_record", tokenizer)


def test_a_folder_s_files_go_by_glue_s_names_or_superglue_s(tmp_path: Path) -> None:
    assert file_in(tmp_path, "dev.tsv") == f"{tmp_path}/dev.tsv"  # which a message will name
    (tmp_path / "val.jsonl").touch()
    assert file_in(tmp_path, "dev.tsv") == f"{tmp_path}/val.jsonl"
    assert file_in(tmp_path, "dev_matched.tsv") == f"{tmp_path}/dev_matched.tsv"
    (tmp_path / "dev.tsv").touch()
    assert file_in(tmp_path, "dev.tsv") == f"{tmp_path}/dev.tsv"


# ------------------------------------------------------------------------------------------- ReCoRD

PASSAGE = "Anna met Boris.\n@highlight\nBoris Li met Anna"
RECORD = {
    "passage": {"text": PASSAGE, "entities": [{"start": 0, "end": 3}, {"start": 9, "end": 13}]},
    "qas": [
        {
            "idx": 7,
            "query": "Whom did she meet? @placeholder",
            # The end is the answer's last character.
            "answers": [
                {"text": "Boris", "start": 9, "end": 13},
                {"text": "Boris Li", "start": 27, "end": 34},
            ],
        },
        {"idx": 8, "query": "@placeholder met him."},
    ],
}


def test_the_queries_of_record_are_questions_with_all_their_answers(tmp_path: Path) -> None:
    questions = read_squad(write(tmp_path, RECORD))
    first = Question(
        "7", "Whom did she meet? @placeholder", PASSAGE, (("Boris", 9), ("Boris Li", 27))
    )
    assert questions == [first, Question("8", "@placeholder met him.", PASSAGE)]
    found = evaluate([first], {"7": "the boris li!"})
    assert found == {"exact": 100.0, "f1": 100.0, "total": 1}
    # Two of three words against "Boris Li", one of three against "Boris": the better one counts.
    found = evaluate([first], {"7": "met Boris Li"})
    assert (found["exact"], found["f1"]) == (0, pytest.approx(80))


def test_the_answers_of_record_become_tokens_to_learn(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text(
        "\n".join("[PAD] [UNK] [CLS] [SEP] [MASK] anna met boris li . @ highlight".split())
    )
    tokenizer = FullTokenizer(tmp_path / "vocab.txt")
    task, data = QuestionTask(max_len=64, max_query_len=16, doc_stride=32).load_training(
        write(tmp_path, RECORD), tokenizer
    )
    assert task.version_2_with_negative is False
    # The second query has no answer to learn from. The passage begins: anna met boris.
    assert len(data.features) == 1
    start = int(data.features.second[0])
    assert data.features.labels.tolist() == [[start + 2, start + 2]]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("passage", None, "has no 'passage'"),
        ("passage.text", 5, "passage: text is 5; expected str"),
        ("passage.text", " ", "an empty query or passage; expected texts"),
        ("qas", "x", "qas is 'x'; expected a list of a JSON object"),
        ("qas.1.query", None, r"qas\[1\] has no 'query'"),
        ("qas.1.idx", "8", r"qas\[1\]: idx is '8'; expected int"),
        ("qas.0.answers.1.start", 2.5, r"qas\[0\]: start is 2.5; expected a finite int"),
    ],
)
def test_what_is_wrong_in_record_is_named_with_file_and_line(
    tmp_path: Path, path: str, value: Any, message: str
) -> None:
    file = write(tmp_path, RECORD, changed(RECORD, path, value))
    with pytest.raises(UserError, match=rf"val.jsonl, line 2\b.*{message}"):
        read_squad(file)


def test_a_misplaced_answer_of_record_is_told_and_not_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    # Python would count the last of these from the end.
    for start in (10, 10**9, PASSAGE.rindex("Boris") - len(PASSAGE)):
        file = write(tmp_path, changed(RECORD, "qas.0.answers.0.start", start))
        assert read_squad(file)[0].answers == (("Boris", -1), ("Boris Li", 27))
        assert f"the first of them 'Boris' at {start} of query 7" in capsys.readouterr().err


# --------------------------------------------------------------------------------------- real files

VAL = {"BoolQ": 3270, "CB": 56, "MultiRC": 4848, "RTE": 277, "WiC": 638, "WSC": 104}
# Of val, in percent: each metric of always giving the most frequent label.
FLOORS = {
    "BoolQ": {"Accuracy": 62.17},
    "CB": {"Accuracy": 50.00, "Macro-F1": 22.22},
    "RTE": {"Accuracy": 52.71},
    "WiC": {"Accuracy": 50.00},
    "WSC": {"Accuracy": 63.46},
}


@pytest.mark.real
@pytest.mark.parametrize("name", VAL)
def test_every_real_file_of_superglue_is_read_in_full(real: Path, name: str) -> None:
    folder, task = real / "superglue" / name, get_task(name)
    assert len(read_rows(task, folder / "val.jsonl").examples) == VAL[name]
    for split in ("train", "dev32"):
        examples = read_rows(task, folder / f"{split}.jsonl").examples
        # MultiRC's 32 passages are as many lines.
        assert {e.line for e in examples} == set(range(1, 33))


@pytest.mark.real
def test_multirc_has_as_many_passages_questions_and_answers_as_published(real: Path) -> None:
    examples = read_examples(TASKS["multirc"], real / "superglue/MultiRC/val.jsonl")
    passages, questions = {e.line for e in examples}, set(groups_of(examples))
    assert (len(passages), len(questions), len(examples)) == (83, 953, 4848)


def constant(name: str, real: Path, answer: int | None = None) -> dict[str, float]:
    """The metrics in percent of one answer to all rows of val, by default the most frequent."""
    task = get_task(name)
    examples = read_examples(task, real / "superglue" / name / "val.jsonl")
    labels = task.label_array([e.label for e in examples])
    if answer is None:
        answer = int(np.bincount(labels).argmax())
    predicted, groups = np.full(len(labels), answer), groups_of(examples)
    none = np.zeros((len(labels), len(task.labels)))
    found = task.measure(Outcome(predicted, labels, none, task.labels, groups))
    return {metric: round(100 * value, 2) for metric, value in found.items()}


@pytest.mark.real
@pytest.mark.parametrize("name", FLOORS)
def test_the_majority_scores_what_it_does_elsewhere(real: Path, name: str) -> None:
    assert constant(name, real) == FLOORS[name]


@pytest.mark.real
def test_all_answers_of_multirc_right_score_what_they_do_elsewhere(real: Path) -> None:
    assert constant("MultiRC", real, answer=1) == {"F1a": 59.95, "EM": 0.84}


@pytest.mark.real
@pytest.mark.parametrize(("name", "n"), [("WiC", [4, 0]), ("WSC", [2, 2])])
def test_marks_of_real_rows_are_tokens_of_their_own(real: Path, name: str, n: list[int]) -> None:
    tokenizer = FullTokenizer(real / "vocab/bert-base-uncased/vocab.txt")
    examples = read_examples(get_task(name), real / f"superglue/{name}/val.jsonl")
    odd = 0
    for example in examples:
        tokens = tokenizer.tokenize(f"{example.text_a} {example.text_b or ''}")
        odd += [tokens.count(mark) for mark in "*#"] != n
    # One text of WiC has an asterisk of its own.
    assert odd == (name == "WiC")


@pytest.mark.real
def test_nine_of_wsc_s_spans_differ_from_the_words_at_their_index(real: Path) -> None:
    differing = 0
    for line in (real / "superglue/WSC/val.jsonl").open():
        values = json.loads(line)
        text = FLATTEN["wsc"](values, "val.jsonl")[0]["text"]
        for span, mark in (("span1", "*"), ("span2", "#")):
            marked = text.split(f"{mark} ", 1)[1].split(f" {mark}", 1)[0]
            # The pronoun of one row is part of its noun phrase, marks and all.
            marked = marked.replace("# ", "").replace(" #", "")
            differing += marked != values["target"][f"{span}_text"]
    assert differing == 9


@pytest.mark.real
@pytest.mark.parametrize(("split", "n_answers"), [("train", 77), ("dev32", 76)])
def test_every_answer_of_real_record_stands_where_it_says(
    real: Path, capsys: pytest.CaptureFixture, split: str, n_answers: int
) -> None:
    questions = read_squad(real / f"superglue/ReCoRD/{split}.jsonl")
    assert len(questions) == len({q.id for q in questions}) == 32
    assert sum(len(q.answers) for q in questions) == n_answers
    assert all("@placeholder" in q.text for q in questions)
    assert capsys.readouterr().err == ""

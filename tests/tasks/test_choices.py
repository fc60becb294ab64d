"""Multiple choice: files of every form, batches of different choices, the command."""

import io
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import kinds
import numpy as np
import pytest
import torch

import checkpoint
import finetune
import models
import pretrained
import train
from choose import Choose
from formats.vocab import Vocabulary
from tasks import ChoiceTask
from tasks.choices import read_questions
from tasks.encoding import encode
from tokenization import FullTokenizer
from utils import UserError

SWAG = (
    ",video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,ending1,ending2,ending3,label"
)
SWAG_ROW = '0,v,3,A man sits. He,A man sits.,He,gold,stands.,"runs, fast.",eats.,waits.,1'
ARC = {
    "id": "x",
    "question": {
        "stem": "Who?",
        "choices": [{"label": "1", "text": "a cat"}, {"label": "2", "text": "dogs"}],
    },
    "answerKey": "2",
}
COPA = {"premise": "It rained.", "choice1": "Dry.", "choice2": "Wet.", "question": "effect"}
OPENBOOK = "ID\tQuestion Stem\tChoices\tComplete Question\tAnswer Key\n"
OPENBOOK += "7-1\tThe sun is\t(A) hot (B) a (small) star (C) cold\tx\tC\n"
OWN = {"context": "a", "choices": ["b", "c", "d"], "label": 2}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (
            "swag.csv",
            f"{SWAG}\n{SWAG_ROW}\n",
            ("A man sits.", ["He stands.", "He runs, fast.", "He eats.", "He waits."], 1),
        ),
        ("arc.jsonl", json.dumps(ARC), ("Who?", ["a cat", "dogs"], 1)),
        (
            "copa.jsonl",
            json.dumps(COPA | {"label": 1}),
            ("It rained. What happened then?", ["Dry.", "Wet."], 1),
        ),
        (
            "copa.jsonl",
            json.dumps(COPA | {"question": "cause", "label": 0}),
            ("It rained. What was the cause?", ["Dry.", "Wet."], 0),
        ),
        ("openbook.tsv", OPENBOOK, ("The sun is", ["hot", "a (small) star", "cold"], 2)),
        (
            "swag.jsonl",
            '{"sent1": "a", "sent2": "b", "ending1": "d", "ending0": "c", "label": 0}',
            ("a", ["b c", "b d"], 0),
        ),
        (
            "excel.csv",
            "sent1;sent2;ending0;ending1;label\na;b;c, d;e;1\n",
            ("a", ["b c, d", "b e"], 1),
        ),
        (
            "hellaswag.jsonl",
            json.dumps({"ctx_a": "a", "ctx_b": "then b", "ctx": "a then b", "endings": ["c", "d"]}
                       | {"label": 1}),
            ("a", ["then b c", "then b d"], 1),
        ),
        ("piqa.jsonl", json.dumps({"goal": "a", "sol1": "b", "sol2": "c", "label": 1}),
         ("a", ["b", "c"], 1)),
        ("race.jsonl", json.dumps({"article": "a", "question": "b _ .", "options": ["c", "d"]}
                                  | {"answer": "B"}), ("a", ["b c .", "b d ."], 1)),
        ("race.txt", json.dumps({"article": "a", "questions": ["Who?"], "options": [["c", "d"]]}
                                | {"answers": ["A"], "id": "x"}), ("a", ["Who? c", "Who? d"], 0)),
        ("own.jsonl", json.dumps(OWN | {"question": "x"}), ("a x", ["b", "c", "d"], 2)),
        ("own.jsonl", "\n" + json.dumps(OWN) + "\n\n", ("a", ["b", "c", "d"], 2)),
    ],
)  # fmt: skip
def test_every_form_is_read(tmp_path: Path, name: str, text: str, expected: tuple) -> None:
    (tmp_path / name).write_text(text)
    (found,) = read_questions(tmp_path / name)
    assert (found.context, found.choices, found.answer) == expected
    (again,) = read_questions(tmp_path / name, labelled=False)
    assert (again.choices, again.answer) == (found.choices, None)


def test_an_article_of_race_has_several_questions(tmp_path: Path) -> None:
    row = {"article": "a", "questions": ["b?", "c?"], "options": [["d", "e"], ["f", "g"]]}
    (tmp_path / "x.jsonl").write_text(json.dumps(row | {"answers": ["A", "B"]}))
    found = list(read_questions(tmp_path / "x.jsonl"))
    assert [(q.choices, q.answer) for q in found] == [(["b? d", "b? e"], 0), (["c? f", "c? g"], 1)]
    (tmp_path / "x.jsonl").write_text(json.dumps(row | {"answers": ["A"]}))
    with pytest.raises(UserError, match="line 1: a value is of another type"):
        list(read_questions(tmp_path / "x.jsonl"))


@pytest.mark.real
@pytest.mark.parametrize(
    ("file", "n", "sizes", "labelled"),
    [
        ("choice/commonsenseqa/train_rand_split.jsonl", 9741, {5}, True),
        ("choice/commonsenseqa/dev_rand_split.jsonl", 1221, {5}, True),
        ("choice/commonsenseqa/test_rand_split_no_answers.jsonl", 1140, {5}, False),
        # One question has two choices called D.
        ("choice/openbookqa/train.tsv", 4957, {4, 5}, True),
        ("choice/openbookqa/dev.tsv", 500, {4}, True),
        ("choice/openbookqa/test.tsv", 500, {4}, True),
        ("choice/arc/arc_easy_train.jsonl", 2251, {3, 4, 5}, True),
        ("choice/arc/arc_easy_test.jsonl", 2376, {3, 4, 5}, True),
        ("choice/swag/sample.jsonl", 10, {4}, True),
        ("superglue/COPA/val.jsonl", 100, {2}, True),
        ("superglue/COPA/train.jsonl", 32, {2}, True),
    ],
)
def test_real_files_have_the_published_counts(
    real: Path, file: str, n: int, sizes: set[int], labelled: bool
) -> None:
    found = list(read_questions(real / file, labelled))
    assert (len(found), {len(q.choices) for q in found}) == (n, sizes)
    if "COPA/val" in file:  # always answering the second choice is right in 55 of 100
        assert sum(q.answer == 1 for q in found) == 45


# ------------------------------------------------------------------------------------------ batches


def test_equal_choices_are_one_input_of_a_batch(sample: Path, tmp_path: Path) -> None:
    tokenizer = FullTokenizer(sample / "vocab.txt")
    task = ChoiceTask(max_len=16)
    inputs = [
        ("anna sold", ["a lamp .", "a lamp .", "it ."]),
        ("anna sold", ["it .", "the red lamp to boris ."]),
        ("boris", ["it ."] * 4),
    ]
    data = task.encode_examples("x", list(task.examples_of(inputs)), tokenizer)
    batches = data.features.batches(4)
    batch = batches[0]
    assert len(batch.input_ids) == 4
    # An input is as wide as the longest one, an example as long as all of its choices.
    lengths = data.features.lengths
    assert (batches.width, batches.longest > batches.width) == (lengths.max(), True)
    assert batch.which.shape == (3, 4)
    # The inputs are those that encode() makes, and none is more than once.
    rows = data.features.batches(4).rows(0)
    for row, number in zip(batch.which, rows, strict=True):
        question = data.examples[number]
        assert (row >= 0).sum() == len(question.choices)
        for input_, choice in zip(row, question.choices, strict=False):
            expected = encode([(question.context, choice)], tokenizer, 16)
            mask = batch.input_mask[input_].bool()
            assert batch.input_ids[input_][mask].tolist() == expected.ids.tolist()
            assert int(batch.segment_ids[input_].sum()) == len(expected.ids) - expected.second[0]
    # The shortest come first, as attention among equal lengths wants them.
    lengths = batch.input_mask.sum(1).tolist()
    assert lengths == sorted(lengths)


def test_scores_are_compared_within_a_question(sample: Path) -> None:
    tokenizer = FullTokenizer(sample / "vocab.txt")
    task = ChoiceTask(max_len=16)
    inputs = [("anna", ["a .", "it ."]), ("anna", ["it .", "a .", "the lamp ."])]
    data = task.encode_examples("x", list(task.examples_of(inputs)), tokenizer)
    batch = data.features.batches(2)[0]

    class Lengths(torch.nn.Module):
        """Scores an input by the sum of its ids."""

        def forward(self, input_ids: torch.Tensor, **_: object) -> torch.Tensor:
            return input_ids.sum(1) / 10.0

    scores = task.outputs(Lengths(), batch)
    rows = data.features.batches(2).rows(0)
    by_hand = []
    for number in rows:
        question = data.examples[number]
        encoded = [encode([(question.context, c)], tokenizer, 16) for c in question.choices]
        found = [int(one.ids.sum()) / 10 for one in encoded]
        by_hand.append(found + [-math.inf] * (3 - len(found)))
    assert torch.allclose(scores, torch.tensor(by_hand))
    in_order = scores.numpy()[np.argsort(rows)]
    chances = [answer.probabilities for answer in task.answers(data, in_order)]
    assert [len(row) for row in chances] == [2, 3]
    assert [sum(row) for row in chances] == pytest.approx([1, 1])
    loss, _ = task.loss(Lengths(), batch)
    expected = np.mean([-np.log(row[0]) for row in chances])
    assert float(loss) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "given",
    [None, float("nan"), 3, "ab", ("q", None), ("q", "ab"), (None, ["a", "b"]), ("q", ["a", None])]
    + [("q", ["a"]), ("q",), {"q": 1, "c": ["a", "b"]}, ("q", ["a", 3]), (3.5, ["a", "b"])],
)
def test_an_input_that_is_no_context_with_choices_is_named(given: object) -> None:
    with pytest.raises(UserError, match="input 2"):
        list(ChoiceTask().examples_of([("anna", ("a", "b")), given]))
    (found,) = ChoiceTask().examples_of([[np.str_("anna"), [np.str_("a"), "b"]]])
    assert (found.context, found.choices, found.names) == ("anna", ["a", "b"], ["0", "1"])


def test_the_head_is_that_of_transformers(
    tiny: models.Config, padded_batch: tuple, tmp_path: Path
) -> None:
    from transformers import BertForMultipleChoice

    torch.manual_seed(0)
    ours = models.MultipleChoice(tiny).eval()
    for parameter in ours.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    source = checkpoint.Checkpoint("ours", tmp_path, tiny, dict(ours.state_dict()))
    tokens = [*map(str, range(95)), "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens) + "\n")
    (tmp_path / "hf").mkdir()
    checkpoint.write_hugging_face(source, tmp_path / "hf", Vocabulary.read(tmp_path / "vocab.txt"))
    theirs = BertForMultipleChoice.from_pretrained(tmp_path / "hf").double().eval()
    ids, segments, mask = padded_batch
    # Their question has all five choices.
    expected = theirs(ids[None], mask[None], segments[None]).logits[0]
    assert (ours.double()(ids, segments, mask) - expected).abs().max() < 1e-10
    again = checkpoint.read(tmp_path / "hf")
    assert again.heads == ["pooler", "choice"]
    assert ChoiceTask.saved(again).max_len == 40


# ----------------------------------------------------------------------------------------- commands


@pytest.fixture
def trained(sample: Path, tmp_path: Path) -> Path:
    """A model trained for a few steps."""
    file = kinds.write("choice", sample, tmp_path)
    start = pretrained.find(None, f"{sample}/config.json", f"{sample}/vocab.txt")
    cfg = train.Config(batch_size=8, n_epochs=1, lr=1e-3)
    run = finetune.prepare(ChoiceTask(max_len=32), file, start, cfg=cfg)
    return run.fit(tmp_path / "run").file


def test_the_command_evaluates_and_predicts(
    trained: Path, tmp_path: Path, run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "choice.jsonl"
    status, out, err = run(f"--mode eval --model_file {trained} --data_file {file}", Choose)
    assert status == 0, err
    report = json.loads((trained.parent / "eval/choice.json").read_text())
    assert f"Accuracy: {report['Accuracy']}" in out
    line = f"--mode predict --model_file {trained} --data_file {file}"
    status, out, _ = run(line, Choose)
    header, *rows = (line.split("\t") for line in out.splitlines())
    assert header == ["index", "prediction", "choice", "probabilities"]
    given = [json.loads(line) for line in file.read_text().splitlines()]
    right = 0
    for i, (row, question) in enumerate(zip(rows, given, strict=True)):
        index, name, text, chances = row
        numbers = [float(chance) for chance in chances.split()]
        assert (index, len(numbers)) == (str(i), len(question["choices"]))
        assert text == question["choices"][int(name)]
        assert numbers[int(name)] == max(numbers)
        right += int(name) == question["label"]
    assert report["Accuracy"] == pytest.approx(right / len(given))
    # From a pipe come JSON lines.
    stream = io.TextIOWrapper(io.BytesIO(file.read_bytes()))
    monkeypatch.setattr(sys, "stdin", stream)
    _, piped, _ = run(f"--mode predict --model_file {trained} --data_file -", Choose)
    assert [row.split("\t")[:2] for row in piped.splitlines()] == [header[:2]] + [
        row[:2] for row in rows
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.jsonl", json.dumps(OWN | {"choices": ["b"]}), "line 1: 1 choices; expected at least 2"),
        ("x.jsonl", json.dumps(OWN | {"label": 3}), "right choice is 3; expected one of 0, 1, 2"),
        ("x.jsonl", json.dumps({**OWN, "label": None}), "not said which choice is right; expected"),
        ("x.jsonl", json.dumps(ARC | {"answerKey": "C"}), "choice is 'C'; expected one of 1, 2"),
        (
            "x.jsonl",
            json.dumps(ARC).replace('"label": "1"', '"label": NaN'),
            "a choice is called nan; expected a letter",
        ),
        ("x.jsonl", json.dumps(OWN | {"choices": "b c"}), "expected a context and a list of texts"),
        ("x.jsonl", json.dumps(OWN | {"choices": ["b", 1]}), "a context and a list of texts"),
        ("x.jsonl", json.dumps({"premise": "b"}), "line 1: found premise; expected rows of SWAG"),
        ("x.jsonl", json.dumps({"choice1": "b", "question": "why"}), "line 1: no 'why'; expected"),
        ("x.jsonl", json.dumps({"question": "b"}), "line 1: a value is of another type; expected"),
        ("x.jsonl", "[1]", "line 1: found '[1]'; expected rows of SWAG"),
        ("x.jsonl", "{", "line 1: not JSON"),
        ("x.jsonl", "\n", "x.jsonl has no questions; expected a row for each"),
        ("x.tsv", OPENBOOK.replace("(B)", "(C)"), "two choices are called 'C', the right one's"),
        ("x.csv", f"{SWAG},label\n{SWAG_ROW},1\n", "x.csv: two columns have the same name"),
        ("x.csv", f"{SWAG}\n{SWAG_ROW},7\n", "line 2: 13 columns; expected 12 as in the first row"),
        ("x.tsv", OPENBOOK.replace("(C)", "(D)"), "choice is 'C'; expected one of A, B, D"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_a_line(
    sample: Path, tmp_path: Path, run: Callable, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    line = f"--train_file {tmp_path}/{name} --model_cfg {sample}/config.json --vocab "
    line += f"{sample}/vocab.txt --save_dir {tmp_path}/run"
    status, _, err = run(line, Choose)
    assert status == 2, err
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "given",
    ["a text", ("a", "b c"), ("a", ["b"]), ("a", "b", "c"), ("a", [1, 2]), None, 5, ("a", None)],
)
def test_inputs_of_another_form_are_refused(trained: Path, given: object) -> None:
    with pytest.raises(UserError, match="input 1"):
        finetune.load(trained).predict([given])

"""Questions about texts: windows, answers and their evaluation, against plain versions of the
rules.
"""

import dataclasses
import functools
import itertools
import json
import math
import operator
import random
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import models
import squad
from formats import names
from system.files import read_json
from system.flags import parse
from tasks import questions as asked
from tasks.encoding import Batch
from tasks.questions import QuestionTask, most_context, read_squad, token_span
from tasks.squad_metrics import Question, evaluate, normalise
from tokenization import FullTokenizer
from utils import UserError

WORDS = (
    "the a cat dog bird fish red blue green sat ran flew on under over mat tree sky house".split()
)


@pytest.fixture(scope="module")
def shape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a vocabulary, a small model's shape, and questions that can be learnt."""
    folder = tmp_path_factory.mktemp("squad")
    tokens = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *WORDS,
        "which",
        "colour",
        "animal",
        "?",
        ".",
        "##s",
        "un",
        "##ter",
    ]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    config = models.Config(
        vocab_size=len(tokens),
        dim=32,
        n_layers=2,
        n_heads=2,
        dim_ff=64,
        p_drop_hidden=0.0,
        p_drop_attn=0.0,
        max_len=64,
        init_std=0.2,
    )
    (folder / "model.json").write_text(json.dumps(vars(config)))
    rng = random.Random(0)
    for name, n, two in (
        ("train1", 300, False),
        ("dev1", 60, False),
        ("train2", 400, True),
        ("dev2", 80, True),
    ):
        paragraphs = []
        for i in range(n):
            kinds = {"colour": ("red", "blue", "green"), "animal": ("cat", "dog", "bird", "fish")}
            asked = rng.choice(list(kinds))
            words = [
                rng.choice(["the", "a", "sat", "ran", "on", "under", "mat", "tree"])
                for _ in range(rng.randint(4, 30))
            ]
            none = two and rng.random() < 0.4
            other = rng.choice(kinds["animal" if asked == "colour" else "colour"])
            words[0] = other
            answers = []
            if not none:
                at = rng.randrange(1, len(words))
                words[at] = rng.choice(kinds[asked])
                answers = [{"text": words[at], "answer_start": len(" ".join(words[:at])) + 1}]
            entry = {
                "id": f"q{i}",
                "question": f"Which {asked}?",
                "answers": answers,
                **({"is_impossible": none} if two else {}),
            }
            paragraphs.append({"context": " ".join(words), "qas": [entry]})
        (folder / f"{name}.json").write_text(
            json.dumps({"version": "x", "data": [{"title": "t", "paragraphs": paragraphs}]})
        )
    return folder


@pytest.fixture(scope="module")
def tokenizer(shape: Path) -> FullTokenizer:
    return FullTokenizer(shape / "vocab.txt")


def outputs_of(task: QuestionTask, scores: torch.Tensor) -> np.ndarray:
    """What the task keeps of a model's scores (N, S, 2)."""
    return task.outputs(lambda: scores, SimpleNamespace(inputs={})).numpy()


# ------------------------------------------------------------------------------------------ windows


def test_windows_advance_by_the_stride_and_point_at_the_answer(tokenizer: FullTokenizer) -> None:
    context = "the cat sat on the red mats under the green tree"  # 12 tokens: mats is two
    question = Question("x", "Which colour?", context, (("red mats", context.index("red")),))
    task = QuestionTask(max_len=3 + 3 + 6, doc_stride=4, max_query_len=3)
    data = task.make_windows([question], tokenizer, training=True)
    assert data.windows.start.tolist() == [4]  # the windows at 0 and at 8 lack the answer
    for keeping in ("keep_outside", "version_2_with_negative"):
        keeps = dataclasses.replace(task, **{keeping: True})
        data = keeps.make_windows([question], tokenizer, training=True)
        assert data.windows.start.tolist() == [0, 4, 8]
        assert data.windows.size.tolist() == [6, 6, 4]
        # [CLS] which colour ? [SEP] the red mat ##s
        assert data.features.labels.tolist() == [[0, 0], [6, 8], [0, 0]]
    tokens = [
        tokenizer.convert_ids_to_tokens(data.features.ids[a:b].tolist())
        for a, b in itertools.pairwise(data.features.starts)
    ]
    assert tokens[1] == "[CLS] which colour ? [SEP] the red mat ##s under the [SEP]".split()
    assert data.features.second.tolist() == [5, 5, 5]
    impossible = Question("y", "Which animal?", context, (), True)
    data = task.make_windows([impossible], tokenizer, training=True)
    assert data.features.labels.tolist() == [[0, 0]] * 3
    misplaced = Question("z", "Which animal?", context, (("dog", -1),))
    assert len(task.make_windows([misplaced], tokenizer, training=True).features) == 0


def test_the_window_with_most_context_is_the_official_one() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        n, room, stride = rng.integers(20, 90), rng.integers(8, 30), rng.integers(2, 9)
        starts, sizes, at = [], [], 0
        while True:
            starts.append(at)
            sizes.append(min(room, n - at))
            if at + sizes[-1] >= n:
                break
            at += min(stride, sizes[-1])
        for token in range(n):
            best, which = None, None
            for i, (start, size) in enumerate(zip(starts, sizes, strict=True)):
                if start <= token < start + size:
                    value = min(token - start, start + size - 1 - token) + 0.01 * size
                    if best is None or value > best:
                        best, which = value, i
            assert most_context(np.array([token]), np.array(starts), np.array(sizes))[0] == which


def plain_n_best(
    candidates: list[tuple[float, str]], null: float | None, n_best: int
) -> tuple[list[str], list[float]]:
    """Texts and probabilities by the rule of run_squad.py, from candidates, the best first."""
    ranked = [*candidates] if null is None else [*candidates, (null, "")]
    ranked.sort(key=lambda candidate: candidate[0], reverse=True)
    seen: dict[str, float] = {}
    for score, text in ranked:
        if len(seen) < n_best:
            seen.setdefault(text, score)
    if null is not None:
        seen.setdefault("", null)
    powers = [math.exp(score) for score in seen.values()]
    return list(seen), [power / sum(powers) for power in powers]


# Added to the scores of no answer: it comes last, somewhere among the others, first.
@pytest.mark.parametrize("more", [None, -9.0, 0.0, 9.0])
def test_answers_are_those_of_a_plain_search(
    tokenizer: FullTokenizer, monkeypatch: pytest.MonkeyPatch, more: float | None
) -> None:
    with_null = more is not None
    rng = np.random.default_rng(1)
    contexts = [" ".join(rng.choice(WORDS, n)) for n in (3, 9, 25, 40)]
    questions = [Question(str(i), "which cat ?", text) for i, text in enumerate(contexts)]
    width, k, longest = 16, 6, 3
    monkeypatch.setattr(asked, "N_BEST", k)
    task = QuestionTask(
        max_len=width,
        doc_stride=4,
        max_query_len=3,
        max_answer_len=longest,
        n_best=5,
        version_2_with_negative=with_null,
    )
    data = task.make_windows(questions, tokenizer)
    windows, lengths = data.windows, data.features.lengths
    scores = rng.normal(size=(len(lengths), width, 2)).astype(np.float32)
    scores[:, 0] += more or 0
    tensors = torch.tensor(scores).masked_fill(
        torch.arange(width)[None, :, None] >= torch.tensor(lengths)[:, None, None], -1e9
    )
    outputs = outputs_of(task, tensors)
    assert outputs.shape == (len(lengths), 2, k + 1, 2)
    found = task.answers(data, outputs)
    places = set[int | None]()
    for number, question in enumerate(questions):
        spans, candidates = windows.spans[question.context], []
        rows = [r for r in range(len(lengths)) if windows.question[r] == number]
        for row in rows:
            logits = tensors[row].numpy()
            best = [
                sorted(range(width), key=lambda i, c=c, logits=logits: -logits[i, c])[:k]
                for c in (0, 1)
            ]
            low, high = windows.shift[row], windows.shift[row] + windows.size[row]
            for s, e in itertools.product(*best):
                if not (low <= s < high and low <= e < high and s <= e < s + longest):
                    continue
                first, last = windows.start[row] + s - low, windows.start[row] + e - low
                owner = most_context(
                    np.array([first]), windows.start[rows], windows.size[rows]
                ).item()
                if rows[owner] == row:
                    text = question.context[spans[first, 0] : spans[last, 1]]
                    candidates.append((float(logits[s, 0] + logits[e, 1]), text))
        candidates.sort(key=lambda c: -c[0])
        null = min(float(tensors[row, 0, 0] + tensors[row, 0, 1]) for row in rows)
        got = found[number]
        assert got.best == candidates[0][1]
        assert got.null_odds == pytest.approx(null - candidates[0][0], abs=1e-5)
        texts, chances = plain_n_best(candidates, null if with_null else None, 5)
        assert [x["text"] for x in got.n_best] == texts
        assert [x["probability"] for x in got.n_best] == pytest.approx(chances, abs=1e-6)
        places.add(texts.index("") if with_null else None)
    # Behind the five, first, and among them.
    assert places == {None: {None}, -9.0: {5}, 9.0: {0}}.get(more, places)
    assert more != 0 or places & {1, 2, 3, 4}


def test_an_answer_is_a_piece_of_the_text_whatever_lower_casing_did_to_it(
    tokenizer: FullTokenizer,
) -> None:
    for context, answer in (
        ("The ÜNTER cats", "ÜNTER"),
        ("a red\u00a0\u200b dog", "dog"),
        ("İ the CAT.", "CAT"),
        ("日本cat語", "cat"),
    ):
        _ids, spans = tokenizer.encode_with_offsets(context)
        first, last = token_span(np.array(spans), answer, context.index(answer))
        assert context[spans[first][0] : spans[last][1]] == answer
    assert token_span(np.array([(0, 3)]), "x", 5) == (-1, -1)


# --------------------------------------------------------------------------------------- evaluation


def plainly(
    questions: list[Question], answers: dict, odds: dict | None, threshold: float
) -> dict[str, float]:
    """The official evaluations' rules, written down slowly."""
    two = any(q.impossible for q in questions)

    def words(text: str) -> list[str]:
        text = re.sub(r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]", "", text.lower())
        return list(re.sub(r"\b(a|an|the)\b", " ", text).split())

    def overlap(a: list[str], b: list[str]) -> float:
        if two and (not a or not b):
            return float(a == b)
        left, same = list(b), 0
        for word in a:
            if word in left:
                left.remove(word)
                same += 1
        return (
            0.0
            if same == 0
            else 2 * (same / len(a)) * (same / len(b)) / (same / len(a) + same / len(b))
        )

    exact, f1 = {}, {}
    for q in questions:
        golds = [text for text, _ in q.answers]
        if two:
            golds = [text for text in golds if words(text)] or [""]
        exact[q.id] = max(float(words(answers[q.id]) == words(gold)) for gold in golds)
        f1[q.id] = max(overlap(words(answers[q.id]), words(gold)) for gold in golds)
    results = {}
    for name, raw in (("exact", exact), ("f1", f1)):
        used = {
            i: float(not q.answers) if odds and odds[q.id] > threshold else raw[q.id]
            for q in questions
            for i in [q.id]
        }
        groups = [("", questions)] + (
            [
                ("HasAns_", [q for q in questions if q.answers]),
                ("NoAns_", [q for q in questions if not q.answers]),
            ]
            if two
            else []
        )
        for prefix, group in groups:
            if group:
                # sum() of Python 3.12 and newer rounds otherwise than the official script does.
                total = functools.reduce(operator.add, (used[q.id] for q in group))
                results[prefix + name] = 100 * total / len(group)
                results[prefix + "total"] = len(group)
        if odds:
            best = []
            for limit in [0.0, *sorted(odds.values())]:
                kept = (
                    {q.id for q in questions if odds[q.id] <= limit}
                    if limit != 0.0 or best
                    else set()
                )
                value = sum(
                    raw[q.id] if q.answers else float(not answers[q.id])
                    for q in questions
                    if q.id in kept
                )
                value += sum(float(not q.answers) for q in questions if q.id not in kept)
                best.append(100 * value / len(questions))
            results[f"best_{name}"] = max(best)
    return results


@pytest.mark.parametrize("seed", range(30))
def test_em_and_f1_equal_a_plain_version_of_the_official_rules(seed: int) -> None:
    rng = random.Random(seed)
    two = seed % 2 == 1

    def text() -> str:
        return " ".join(
            rng.choice([*WORDS[:6], "The", "cat,", "(dog)", "a-b", "it's", "A"])
            for _ in range(rng.randint(1, 4))
        )

    questions, answers, odds = [], {}, {}
    for i in range(50):
        none = two and rng.random() < 0.4
        golds = () if none else tuple((text(), 0) for _ in range(rng.randint(1, 3)))
        questions.append(Question(str(i), "?", "x", golds, none))
        answers[str(i)] = (
            rng.choice(golds)[0].upper()
            if golds and rng.random() < 0.4
            else rng.choice([text(), text(), ""])
        )
        odds[str(i)] = rng.gauss(0, 1)
    for given in (None, odds) if two else (None,):
        found, expected = (
            evaluate(questions, answers, given, 0.3),
            plainly(questions, answers, given, 0.3),
        )
        for name, value in expected.items():
            # To the last digit, but for what is searched for in another order.
            exact = not name.startswith("best")
            assert found[name] == (value if exact else pytest.approx(value, abs=1e-9)), name


def test_evaluation_by_hand() -> None:
    questions = [
        Question("1", "?", "x", (("the Cat", 0), ("dog", 3))),
        Question("2", "?", "x", (("red house", 0),)),
    ]
    assert evaluate(questions, {"1": "cat!", "2": "a red tree house"}) == {
        "exact": 50.0,
        "f1": 100 * (1 + 0.8) / 2,
        "total": 2,
    }
    assert normalise("  The U.S.  (an) ant") == "us ant"
    with pytest.raises(UserError, match="2 of 2 questions have no prediction"):
        evaluate(questions, {})


# ---------------------------------------------------------------------------------------- the model


def test_scores_and_loss_are_those_of_transformers(tiny: models.Config) -> None:
    from transformers import BertConfig, BertForQuestionAnswering

    torch.manual_seed(0)
    ours = models.QuestionAnswering(tiny).eval()
    theirs = BertForQuestionAnswering(BertConfig(**tiny.to_released())).eval()
    released = theirs.state_dict()
    for row in names.table_rows(tiny.n_layers):
        if row.ours in ours.state_dict():
            for name, part in zip(
                row.hugging_face,
                ours.state_dict()[row.ours].chunk(len(row.hugging_face)),
                strict=True,
            ):
                released[name].copy_(part)
    ids = torch.randint(5, 100, (3, 17))
    ones, labels = torch.ones_like(ids), torch.tensor([[3, 5], [0, 0], [16, 16]])
    segments = (torch.arange(17) > 6).long().expand(3, 17)
    expected = theirs(
        ids,
        attention_mask=ones,
        token_type_ids=segments,
        start_positions=labels[:, 0],
        end_positions=labels[:, 1],
    )
    scores = ours(ids, segments, ones)
    assert torch.allclose(scores[..., 0], expected.start_logits, atol=1e-5)
    assert torch.allclose(scores[..., 1], expected.end_logits, atol=1e-5)
    loss, _ = QuestionTask().loss(ours, Batch(ids, segments, ones, labels))
    assert loss.item() == pytest.approx(expected.loss.item(), abs=1e-5)
    padded = torch.cat([ids, torch.zeros(3, 4, dtype=torch.long)], 1)
    mask = torch.cat([ones, torch.zeros(3, 4, dtype=torch.long)], 1)
    wide = ours(padded, mask * 0 + torch.nn.functional.pad(segments, (0, 4)), mask)
    assert torch.allclose(wide[:, :17], scores, atol=1e-5)
    assert (wide[:, 17:] == -torch.inf).all()


# -------------------------------------------------------------------------------------- the command


def flags(shape: Path, save_dir: Path, version: int = 1, **more: object) -> str:
    given = {
        "train_file": shape / f"train{version}.json",
        "model_cfg": shape / "model.json",
        "vocab": shape / "vocab.txt",
        "save_dir": save_dir,
        "max_len": 24,
        "doc_stride": 8,
        "max_query_len": 6,
        "lr": 3e-3,
        "batch_size": 8,
        "n_epochs": 6,
        **more,
    }
    return " ".join(f"--{name} {value}" for name, value in given.items())


@pytest.mark.parametrize("version", [1, 2])
def test_questions_are_learnt_answered_and_evaluated(
    shape: Path,
    tmp_path: Path,
    run: Callable,
    version: int,
    capsys: pytest.CaptureFixture,
) -> None:
    status, out, err = run(flags(shape, tmp_path / "run", version), squad.Squad)
    assert status == 0, err
    model = f"--model_file {tmp_path}/run --predict_file {shape}/dev{version}.json"
    status, out, err = run(f"--mode eval {model} --out {tmp_path}/out", squad.Squad)
    assert status == 0, err
    results = {
        line.split(": ")[0]: float(line.split(": ")[1])
        for line in out.splitlines()
        if re.match(r"\w+: [\d.e-]+$", line)
    }
    assert results["f1"] > 90, out
    assert results["total"] == (60, 80)[version - 1]
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == [
        "nbest_predictions.json",
        *(["null_odds.json"] if version == 2 else []),
        "predictions.json",
    ]
    predictions = read_json(tmp_path / "out/predictions.json")
    questions = read_squad(shape / f"dev{version}.json")
    assert all(predictions[q.id] in q.context for q in questions)
    assert evaluate(questions, predictions)["f1"] == pytest.approx(results["f1"])
    if version == 2:
        assert {"HasAns_f1", "NoAns_f1", "best_f1", "best_f1_thresh"} <= set(results)
        assert results["best_f1"] >= results["f1"]
    again = run(
        f"--mode eval --predict_file {shape}/dev{version}.json --predictions "
        f"{tmp_path}/out/predictions.json",
        squad.Squad,
    )
    assert f"f1: {results['f1']}" in again[1]
    (tmp_path / "text.txt").write_text("the GREEN mat sat on the dog")
    status, out, _ = run(
        f"--question Colour --context_file {tmp_path}/text.txt --model_file {tmp_path}/run",
        squad.Squad,
    )
    assert (
        status,
        out.strip() == "(no answer)" or out.strip() in "the GREEN mat sat on the dog",
    ) == (0, True)
    # The same as JSON, of a text that is given itself: the answer, where it stands, and others.
    text = "the GREEN mat sat on the dog"
    line = f"--question Colour --json True --model_file {tmp_path}/run"
    words = [*line.split(), "--context", text]
    squad.Squad(**{k: v for k, v in parse(squad.Squad, words).items() if k != "settings"}).run()
    as_json = capsys.readouterr().out
    found = json.loads(as_json)
    assert (found["answer"] or "(no answer)") == out.strip()
    for one in (found, *found["n_best"]):
        if one["start"] is not None:
            assert text[one["start"] : one["end"]] == one["answer"]
    scores = [one["score"] for one in found["n_best"]]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1)
    both = run(f"{line} --context_file {tmp_path}/text.txt --context mat", squad.Squad)
    assert (both[0], "--context_file and --context are both given" in both[2]) == (2, True)
    assert "needed with --json" in run("--mode predict --json True", squad.Squad)[2]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--mode answer", "--mode answer: expected train, predict or eval"),
        ("--mode train", "--mode train needs --train_file"),
        (
            "--mode predict --model_file x",
            "--mode predict needs --model_file, and --predict_file or --question",
        ),
        ("--train_file {bad}/no.json {more}", "no.json does not exist"),
        ("--train_file {bad}/list.json {more}", "its keys are rows; expected SQuAD's"),
        ("--train_file {bad}/qas.json {more}", "qas.json: data[0].paragraphs[0] has no 'qas'"),
        ("--train_file {bad}/empty.json {more}", "data[0].paragraphs[0]: the context is empty"),
        (
            "--train_file {bad}/question.json {more}",
            "data[0].paragraphs[0].qas[0]: the question x is empty",
        ),
        ("--train_file {bad}/start.json {more}", "'answer_start' is 'one'; expected a whole"),
        (
            "--train_file {own}/train1.json {more} --max_len 8",
            "max_len=8, doc_stride=8; expected max_len of at least",
        ),
        (
            "--train_file {own}/train1.json {more} --doc_stride 30",
            "doc_stride=30 is more than the 15 tokens",
        ),
        (
            "--mode eval --predict_file {own}/dev1.json --predictions {bad}/none.json",
            "60 of 60 questions have no prediction",
        ),
        (
            "--mode eval --predict_file {own}/dev1.json --predictions {bad}/list.json",
            "list.json: rows is []; expected str",
        ),
    ],
)
def test_a_mistake_ends_in_one_line(
    shape: Path, tmp_path: Path, run: Callable, line: str, message: str
) -> None:
    def squad_file(name: str, paragraph: dict) -> None:
        (tmp_path / f"{name}.json").write_text(json.dumps({"data": [{"paragraphs": [paragraph]}]}))

    (tmp_path / "list.json").write_text('{"rows": []}')
    (tmp_path / "none.json").write_text("{}")
    squad_file("qas", {"context": "x"})
    squad_file("empty", {"context": " ", "qas": []})
    squad_file("question", {"context": "x", "qas": [{"id": "x", "question": " "}]})
    squad_file(
        "start",
        {
            "context": "x",
            "qas": [
                {"id": "x", "question": "?", "answers": [{"text": "x", "answer_start": "one"}]}
            ],
        },
    )
    more = " ".join(
        part
        for part in re.findall(r"--\S+ .+?(?= --|$)", flags(shape, tmp_path / "run"))
        if not part.startswith("--train_file") and part.split()[0] not in re.findall(r"--\w+", line)
    )
    status, out, err = run(line.format(bad=tmp_path, own=shape, more=more), squad.Squad)
    assert message in err
    assert (status, len(err.strip().splitlines()), "Traceback" in out + err) == (2, 1, False)
    assert not (tmp_path / "run").exists()


def test_a_misplaced_answer_is_told_and_not_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    entry = {
        "id": "x",
        "question": "?",
        "answers": [{"text": "cat", "answer_start": 3}, {"text": "cat", "answer_start": 4}],
    }
    (tmp_path / "x.json").write_text(
        json.dumps({"data": [{"paragraphs": [{"context": "the cat", "qas": [entry]}]}]})
    )
    assert read_squad(tmp_path / "x.json")[0].answers == (("cat", -1), ("cat", 4))
    assert (
        "1 answers do not stand where the file says and are not trained on, the first of them "
        "'cat' at 3" in capsys.readouterr().err
    )


@pytest.mark.real
@pytest.mark.parametrize(
    ("casing", "file", "share"),
    [
        ("uncased", "train-v1.1", 0.995),
        ("cased", "train-v1.1", 0.995),
        ("uncased", "dev-v1.1", 0.995),
        ("cased", "dev-v1.1", 0.995),
        ("uncased", "dev-v2.0", 0.995),
        ("cased", "dev-v2.0", 0.995),
    ],
)
def test_real_answers_map_to_tokens_and_back(
    real: Path, casing: str, file: str, share: float
) -> None:
    tokenizer = FullTokenizer(real / f"vocab/bert-base-{casing}/vocab.txt", casing == "uncased")
    questions = read_squad(real / f"squad/{file}.json")
    spans: dict[str, np.ndarray] = {}
    good = total = 0
    for question in questions:
        if question.context not in spans:
            spans[question.context] = np.array(tokenizer.encode_with_offsets(question.context)[1])
        found = spans[question.context]
        for text, start in question.answers:
            first, last = token_span(found, text, start)
            back = question.context[found[first, 0] : found[last, 1]]
            total += 1
            if normalise(back) == normalise(text):
                good += 1
            else:  # the rest: an answer that begins or ends within a word
                end = start + len(text)
                assert found[first, 0] < start or found[last, 1] > end
    assert good / total >= share
    assert len(questions) == {"train-v1.1": 87599, "dev-v1.1": 10570, "dev-v2.0": 11873}[file]


# ------------------------------------------------------------------------------- the official rules


def test_equal_odds_count_in_the_order_of_their_file() -> None:
    questions = [Question("a", "?", "x", (("cat", 0),)), Question("b", "?", "x", (), True)]
    answers = {"a": "cat", "b": "dog"}
    # With a first, its threshold has both right: a's answer, and none for b. With b first,
    # answering b costs as much.
    found = evaluate(questions, answers, {"a": 0.5, "b": 0.5})
    assert (found["best_exact"], found["best_exact_thresh"]) == (100.0, 0.5)
    found = evaluate(questions, answers, {"b": 0.5, "a": 0.5})
    assert (found["best_exact"], found["best_exact_thresh"]) == (50.0, 0.0)


def test_a_question_without_a_prediction_counts_nothing_and_is_noted(
    capsys: pytest.CaptureFixture,
) -> None:
    questions = [Question(str(i), "?", "x", (("cat", 0),)) for i in range(4)]
    assert evaluate(questions, {"0": "cat", "2": "a cat"}) == {
        "exact": 50.0,
        "f1": 50.0,
        "total": 4,
    }
    assert (
        "2 of 4 questions have no prediction and count 0, the first of them 1"
        in capsys.readouterr().err
    )
    two = [*questions, Question("n", "?", "x", (), True)]
    found = evaluate(two, {"0": "cat", "2": "cat"}, {"0": -1.0, "2": -1.0})
    assert (found["exact"], found["HasAns_exact"], found["NoAns_exact"]) == (40.0, 50.0, 0.0)
    with pytest.raises(UserError, match="1 questions have no odds, the first of them 2"):
        evaluate(two, {"0": "cat", "2": "cat"}, {"0": -1.0})


def test_an_empty_list_of_answers_means_no_answer(tmp_path: Path) -> None:
    qas = [
        {"id": "a", "question": "?", "answers": [{"text": "cat", "answer_start": 4}]},
        {"id": "b", "question": "?", "answers": []},
    ]
    (tmp_path / "x.json").write_text(
        json.dumps({"data": [{"paragraphs": [{"context": "the cat", "qas": qas}]}]})
    )
    questions = read_squad(tmp_path / "x.json")
    assert [q.impossible for q in questions] == [False, True]
    found = evaluate(questions, {"a": "cat", "b": ""})
    assert (found["exact"], found["f1"], found["NoAns_f1"]) == (100.0, 100.0, 100.0)


@pytest.mark.parametrize("with_null", [False, True])
def test_n_best_has_n_best_entries_and_perhaps_no_answer_behind_them(
    tokenizer: FullTokenizer, with_null: bool
) -> None:
    rng = np.random.default_rng(0)
    questions = [Question("x", "which cat ?", " ".join(rng.choice(WORDS, 40)))]
    usual = QuestionTask(
        max_len=64, doc_stride=16, max_query_len=8, version_2_with_negative=with_null
    )
    for task, n in ((usual, 20), (dataclasses.replace(usual, n_best=25), 25)):
        data = task.make_windows(questions, tokenizer)
        scores = torch.randn(len(data.features), 64, 2)
        scores[:, 0] = -9
        (answer,) = task.answers(data, outputs_of(task, scores))
        texts = [entry["text"] for entry in answer.n_best]
        assert texts[n:] == [""] * with_null
        assert "" not in texts[:n]


def test_a_file_of_another_kind_is_named(shape: Path, tmp_path: Path, run: Callable) -> None:
    (tmp_path / "nbest.json").write_text(json.dumps({"q0": [{"text": "cat"}]}))
    line = f"--mode eval --predict_file {shape}/dev1.json --predictions {tmp_path}/nbest.json"
    status, _, err = run(line, squad.Squad)
    assert (status, "q0 is [{'text': 'cat'}]; expected str" in err) == (2, True)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--train_file {own}/train1.json --n_best 3", "--mode train has no use for --n_best"),
        (
            "--train_file {own}/train1.json --null_score_diff_threshold 2",
            "no use for --null_score_diff_threshold",
        ),
        (
            "--mode predict --model_file x --predict_file y --lr 4",
            "--mode predict has no use for --lr",
        ),
        (
            "--mode predict --model_file x --predict_file y --predictions z",
            "--mode predict has no use for --predictions",
        ),
        (
            "--mode eval --model_file x --predict_file y --null_odds z",
            "no --predictions, which is needed with --null_odds",
        ),
        (
            "--mode eval --predict_file {own}/dev2.json --predictions x "
            "--null_score_diff_threshold 3",
            "no --null_odds, which is needed with --null_score_diff_threshold",
        ),
        (
            "--mode eval --predict_file {own}/dev2.json --predictions {own}/dev2.json --out x",
            "leave out --out",
        ),
    ],
)
def test_flags_that_could_do_nothing_are_refused(
    shape: Path, run: Callable, line: str, message: str
) -> None:
    status, _, err = run(line.format(own=shape), squad.Squad)
    assert (status, message in err) == (2, True), err


# ------------------------------------------------------------------------------------ other forms

FLAT = [
    {"id": "7", "title": "t", "context": "the red cat ran", "question": "who ran ?", "answers": a}
    for a in (
        {"text": ["cat", "red cat"], "answer_start": [8, 4]},
        {"text": [], "answer_start": []},
    )
]
FLAT[1]["id"] = "8"


def json_of(**changes: object) -> str:
    """SQuAD's JSON with a question, some of it replaced; "": left out."""
    answers = [{"text": "cat", "answer_start": 8}]
    entry = {"id": "7", "question": "who ran ?", "answers": answers} | changes
    entry = {name: value for name, value in entry.items() if value != ""}
    return json.dumps({"data": [{"paragraphs": [{"context": "the red cat ran", "qas": [entry]}]}]})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "[1, 2]", "expected SQuAD's JSON"),
        ("a.csv", "question,text,answer\nwho ?,the cat,cat\n", "a.csv, line 2 has no 'context'"),
        ("a.csv", "question,context,answer\nq,a cat a cat,cat\n", "context 2 times; say which in"),
        ("a.json", json_of(id=[7]), "qas[0]: 'id' is [7]; expected a text in quotes"),
        ("a.json", json_of(answers=None), "qas[0]: 'answers' is null; expected a list, [...]"),
        ("a.json", json_of(answers=[{"text": "r"}]), "'r' stands in its context 2 times; say whi"),
        (
            "a.json",
            json_of(is_impossible="false"),
            "'is_impossible' is 'false'; expected true or false",
        ),
    ],
)
def test_a_file_of_another_form_is_named_in_a_line(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as error:
        read_squad(tmp_path / name)
    assert message in str(error.value)
    assert "SuperGLUE" not in str(error.value)
    assert "\n" not in str(error.value)


CELLS = [
    {"id": 7, "context": "the red cat ran", "question": "who ran ?", "answer": "red cat"},
    {"id": 8, "context": "the red cat ran", "question": "who ran ?", "answer": ""},
]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", "\n".join(map(json.dumps, FLAT))),
        ("a.json", "\n".join(map(json.dumps, FLAT))),
        ("a.json", json.dumps(FLAT)),
        ("a.jsonl", json.dumps(FLAT, indent=1)),
        ("a.json", json.dumps({"version": "2", "data": FLAT})),
        ("a.jsonl", "\n".join(map(json.dumps, CELLS))),
        (
            "a.csv",
            "id,context,question,answer\n7,the red cat ran,who ran ?,red cat\n"
            "8,the red cat ran,who ran ?,\n",
        ),
        (
            "a.tsv",
            "id\tcontext\tquestion\tanswers\n7\tthe red cat ran\twho ran ?\t"
            '{"text": ["red cat"], "answer_start": [4]}\n8\tthe red cat ran\twho ran ?\t[]\n',
        ),
        (
            "a.csv",
            "id,context,question,answer,answer_start\n7,the red cat ran,who ran ?,red cat,4\n"
            "8,the red cat ran,who ran ?,,\n",
        ),
    ],
)
def test_the_flat_form_is_read_from_any_table(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    found = read_squad(tmp_path / name)
    assert [(q.id, q.text, q.context) for q in found] == [
        (i, "who ran ?", "the red cat ran") for i in ("7", "8")
    ]
    assert ("red cat", 4) in found[0].answers
    assert [q.impossible for q in found] == [False, True]


def test_what_occurs_once_needs_no_position_and_a_question_no_id(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "a.json").write_text(json_of(id="", answers=[{"text": "cat"}]))
    [found] = read_squad(tmp_path / "a.json")
    assert (found.id, found.answers) == ("1", (("cat", 8),))
    (tmp_path / "a.json").write_text(json_of(id=70, answers=[{"text": "dog"}]))
    [found] = read_squad(tmp_path / "a.json")
    assert (found.id, found.answers) == ("70", (("dog", -1),))
    assert "1 answers do not stand where the file says" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["twice.json", "twice.jsonl"])
def test_an_id_that_occurs_twice_is_refused(tmp_path: Path, name: str) -> None:
    data = json.loads(json_of())
    data["data"] *= 2
    record = {"passage": {"text": "a cat"}, "qas": [{"idx": 7, "query": "@placeholder ?"}]}
    lines = json.dumps(record) + "\n" + json.dumps(record)
    (tmp_path / name).write_text(lines if name.endswith("l") else json.dumps(data))
    with pytest.raises(UserError, match=f"{name}: 2 questions have the id '7', and predictions"):
        read_squad(tmp_path / name)


def test_one_text_that_gives_most_windows_and_long_questions_are_told(
    tokenizer: FullTokenizer, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    def write(*contexts: str) -> Path:
        paragraphs = [
            {"context": text, "qas": [{"id": str(i), "question": "who ran on the mat ?"}]}
            for i, text in enumerate(contexts)
        ]
        (tmp_path / "x.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
        return tmp_path / "x.json"

    task = QuestionTask(max_len=16, doc_stride=4, max_query_len=4)
    # [CLS] four tokens [SEP] ... [SEP]: nine tokens of the text, the next four tokens on.
    data = task.load(write("the cat ran", "the cat " * 20, "a bird"), tokenizer)
    assert len(data.features) == 2 + 9
    cut, joined = capsys.readouterr().err.splitlines()
    assert cut.endswith(
        "3 questions are longer than max_query_len=4; 6 of their tokens are cut off"
    )
    assert "one text of 160 characters" in joined
    assert "gives 9 of the 11 windows" in joined
    for contexts in (["the cat " * 20], ["the cat " * 20, "the bird " * 20]):
        QuestionTask(max_len=24, doc_stride=4, max_query_len=8).load(write(*contexts), tokenizer)
        assert capsys.readouterr().err == ""
    list(task.examples_of([]))


@pytest.mark.parametrize(
    "given",
    [
        None,
        float("nan"),
        3,
        "a text",
        ("q", None),
        ("q",),
        ["q", "c", "d"],
        {"q": 1, "c": 2},
        b"ab",
    ],
)
def test_an_input_that_is_no_question_and_context_is_named(given: object) -> None:
    task = QuestionTask()
    with pytest.raises(UserError, match=r"input 2 is .*; expected a question"):
        list(task.examples_of([("who ?", "a cat"), given]))
    text = np.str_("who ?")
    assert list(task.examples_of([[text, "a cat"]])) == [Question("0", "who ?", "a cat")]

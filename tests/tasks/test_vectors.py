"""Vectors: losses that are those of the whole batch, files in all forms, folders of others."""

import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import models
import train
from tasks import VectorTask, pairs
from tasks.contrast import LOSSES
from tasks.pairs import as_judged, read_judged, read_pairs, read_texts
from tasks.table_rows import Objects
from tokenization import FullTokenizer
from utils import UserError

ROWS = [
    # Two queries of one text, two texts of one query, a text that is a query too.
    {"query": "anna sold", "text": "the lamp .", "negatives": ["boris .", "a lamp to anna ."]},
    {"query": "anna sold", "text": "a lamp .", "negatives": []},
    {"query": "boris bought", "text": "the lamp .", "negatives": ["green"]},
    {"query": "the lamp .", "text": "it is green .", "negatives": []},
    {"query": "red", "text": "blue", "negatives": ["the lamp .", "anna sold"]},
    {"query": "green", "text": "green", "negatives": ["a lamp ."]},
    {"query": "who sold", "text": "anna", "negatives": []},
]
ROWS += [{"query": f"anna {w}", "text": f"{w} boris", "negatives": [w]} for w in "abcdefghi"]
# Of pairs; divided by the largest they are exact in float32.
SCORES = [4, 0.5, 3, 3, 1, 0, 2.5, 2, 2, 2, 0.25, 3.75, 1.5, 0, 4, 1]


def task_of(loss: str, **fields: Any) -> VectorTask:
    return VectorTask(max_len=16, loss_name=loss, **fields)


def rows_of(loss: str) -> list[dict[str, Any]]:
    if loss in ("cosent", "cosine"):
        return [
            {"query": row["query"], "text": row["text"], "score": score}
            for row, score in zip(ROWS, SCORES, strict=True)
        ]
    return ROWS


@pytest.fixture
def trainer_of(sample: Path, tmp_path: Path) -> Callable[..., train.Trainer]:
    """A Trainer of a small encoder in float64 whose only batch has all rows."""
    tokenizer = FullTokenizer(sample / "vocab.txt")
    n_words = len((sample / "vocab.txt").read_text().split())

    def make(task: VectorTask, n_parts: int, p_drop: float = 0.0) -> train.Trainer:
        rows = rows_of(str(task.loss_name))
        _, data = task.load_training(Objects(rows), tokenizer)
        torch.manual_seed(0)
        model = task.model(models.Config(n_words, 32, 2, 2, 64, p_drop, p_drop, 64)).double()
        # Large weights: random vectors would be alike.
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(4 if parameter.dim() > 1 else 1)
        cfg = train.Config(batch_size=len(rows), total_steps=1, gradient_accumulation=n_parts)
        batches = data.features.batches(len(rows), 1)
        return train.Trainer(cfg, model, batches, tmp_path / f"{n_parts}")

    return make


def gradients(trainer: train.Trainer, task: VectorTask) -> tuple[Tensor, list[Tensor]]:
    """The loss of the first batch, and the gradient of each parameter."""
    train.seed_step(1, 0)
    trainer.model.train()
    means = trainer.compute(trainer.wrapped, task.loss, trainer.micro_batches(0))
    found = [p.grad.clone() for p in trainer.model.parameters() if p.grad is not None]
    trainer.model.zero_grad()
    return means["loss"], found


def plainly(trainer: train.Trainer, task: VectorTask) -> tuple[Tensor, list[Tensor]]:
    """The same of vectors that are all kept, by loops over rows; dropout as the parts drew it."""
    train.seed_step(1, 0)
    model = trainer.model.train()
    made = trainer.micro_batches(0)
    vectors: list[Any] = [None] * made.n_rows
    for part in made.parts:
        texts = model(**part.batch.inputs)
        for row, which in zip(part.rows, part.batch.which.tolist(), strict=True):
            vectors[row] = [texts[i] for i in which if i >= 0]
    numbers = trainer.batches.rows(0)
    rows = [rows_of(str(task.loss_name))[i] for i in numbers]
    widths = sorted({*task.widths, vectors[0][0].shape[-1]})
    losses = [
        LOOPS[str(task.loss_name)](
            [[v[:w] / v[:w].norm() for v in row] for row in vectors], rows, task
        )
        for w in widths
    ]
    loss = sum(losses) / len(losses)
    loss.backward()
    found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return loss.detach(), found


def contrastive(vectors: list, rows: list[dict], task: VectorTask) -> Tensor:
    texts = [
        (i, text, vectors[i][1 + j])
        for i, row in enumerate(rows)
        for j, text in enumerate([row["text"], *row["negatives"]])
    ]
    terms, back = [], []
    for i, row in enumerate(rows):
        query = row["query"]
        fits = {other["text"] for other in rows if other["query"] == query} | {query}
        wrong = [vector for _, text, vector in texts if text not in fits]
        scores = [vectors[i][0] @ v / task.temperature for v in [vectors[i][1], *wrong]]
        terms.append(torch.stack(scores).logsumexp(0) - scores[0])
        wrong = [
            vectors[k][0]
            for k, other in enumerate(rows)
            if row["text"] not in {o["text"] for o in rows if o["query"] == other["query"]}
            and row["text"] != other["query"]
        ]
        scores = [q @ vectors[i][1] / task.temperature for q in [vectors[i][0], *wrong]]
        back.append(torch.stack(scores).logsumexp(0) - scores[0])
    mean = torch.stack(terms).mean()
    return (mean + torch.stack(back).mean()) / 2 if task.both_ways else mean


def cosent(vectors: list, rows: list[dict], task: VectorTask) -> Tensor:
    cosines = [row[0] @ row[1] for row in vectors]
    total = torch.ones((), dtype=torch.float64)
    for i, j in itertools.permutations(range(len(rows)), 2):
        if rows[i]["score"] < rows[j]["score"]:
            total = total + (20 * (cosines[i] - cosines[j])).exp()
    return total.log()


def cosine(vectors: list, rows: list[dict], task: VectorTask) -> Tensor:
    pairs_of = zip(vectors, rows, strict=True)
    return sum((v[0] @ v[1] - row["score"] / 4) ** 2 for v, row in pairs_of) / len(rows)


def margin(vectors: list, rows: list[dict], task: VectorTask) -> Tensor:
    terms = [
        (task.margin + v[0] @ wrong - v[0] @ v[1]).clamp(min=0) for v in vectors for wrong in v[2:]
    ]
    return torch.stack(terms).mean()


LOOPS = {"contrastive": contrastive, "cosent": cosent, "cosine": cosine, "margin": margin}
FIELDS: dict[str, dict[str, Any]] = {
    "contrastive": {"temperature": 0.1},
    "contrastive, both ways": {"both_ways": True, "pooling": "cls"},
    "contrastive, widths": {"widths": (4, 16), "normalize": False},
    "contrastive, dense": {"dense": 12, "pooling": "max"},
    "cosent": {},
    "cosine": {"pooling": "layers"},
    "margin": {"margin": 0.9},
}
assert {name.split(",")[0] for name in FIELDS} == set(LOSSES)


@pytest.mark.parametrize("p_drop", [0.0, 0.3])
@pytest.mark.parametrize("n_parts", [1, 2, 4, 16])
@pytest.mark.parametrize("name", FIELDS)
def test_a_loss_is_that_of_the_whole_batch_whatever_its_parts(
    trainer_of: Callable, name: str, n_parts: int, p_drop: float
) -> None:
    task = task_of(name.split(",")[0], **FIELDS[name])
    trainer = trainer_of(task, n_parts, p_drop)
    loss, found = gradients(trainer, task)
    expected_loss, expected = plainly(trainer, task)
    assert float(loss) == pytest.approx(float(expected_loss), abs=1e-10)
    assert len(found) == len(expected)
    largest = max(float(gradient.abs().max()) for gradient in expected)
    assert largest > 1e-3
    for mine, theirs in zip(found, expected, strict=True):
        assert float((mine - theirs).abs().max()) < 1e-10 * largest
    if n_parts > 1 and not p_drop:
        alone = gradients(trainer_of(task, 1), task)
        assert all((a - b).abs().max() < 1e-10 for a, b in zip(alone[1], found, strict=True))


# --------------------------------------------------------------------------------------------- rows


def write(folder: Path, name: str, lines: list[str]) -> Path:
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder / name


def test_rows_are_read_in_every_form(tmp_path: Path) -> None:
    two = [pairs.Pair(1, "a b", ["c"]), pairs.Pair(2, "d", ["e", "f"])]
    for rows in (
        [{"query": "a b", "text": "c"}, {"query": "d", "text": "e", "negatives": ["f"]}],
        [{"anchor": "a b", "positive": "c"}, {"anchor": "d", "positive": "e", "negative": "f"}],
        [{"query": "a b", "pos": ["c"], "neg": []}, {"query": "d", "pos": ["e"], "neg": ["f"]}],
        [
            {"question": "a b", "answer": "c", "negative_1": "", "negative_2": None},
            {"question": "d", "answer": "e", "negative_1": "", "negative_2": "f"},
        ],
    ):
        file = write(tmp_path, "rows.jsonl", [json.dumps(row) for row in rows])
        assert read_pairs(file).pairs == read_pairs(Objects(rows)).pairs == two
    file = write(tmp_path, "rows.csv", ["query,text,negative", "a b,c,", "d,e,f"])
    assert [dataclasses.replace(p, line=p.line - 1) for p in read_pairs(file).pairs] == two
    file = write(tmp_path, "own.tsv", ["who\twhat", "a b\tc"])
    (found,) = read_pairs(file, {"text_a": "who", "text_b": "what", "label": None}).pairs
    assert (found.query, found.texts, found.score) == ("a b", ["c"], None)
    file = write(tmp_path, "s.csv", ["sentence1,sentence2,score", "a,b,2.5", "c,d,0"])
    assert [p.score for p in read_pairs(file).pairs] == [2.5, 0.0]
    # STS benchmark's own: quotes are parts of texts, and something may stand behind them.
    line = 'main-news\tMSRpar\t2012test\t0024\t3.800\t"A b" c.\td\tx'
    file = write(tmp_path, "sts.csv", [line])
    assert read_pairs(file).pairs == [pairs.Pair(1, '"A b" c.', ["d"], 3.8)]


def test_labels_and_groups_become_pairs() -> None:
    rows = [
        {"premise": "p", "hypothesis": "fits", "label": "entailment"},
        {"premise": "p", "hypothesis": "wrong", "label": "contradiction"},
        {"premise": "p", "hypothesis": "else", "label": "neutral"},
        {"premise": "q", "hypothesis": "no", "label": "contradiction"},
    ]
    assert read_pairs(Objects(rows)).pairs == [pairs.Pair(1, "p", ["fits", "wrong"])]
    groups = [{"text": t, "group": g} for t, g in (("a", 1), ("b", 2), ("c", 1), ("d", 1))]
    found = read_pairs(Objects(groups))
    assert [(p.query, p.texts) for p in found.pairs] == [("a", ["c"]), ("c", ["d"]), ("d", ["a"])]
    assert (found.groups["a"], found.groups["c"], found.groups["d"]) == (0, 0, 0)
    judged = as_judged(found)
    names = {text: name for name, text in judged.texts.items()}
    fits = {judged.queries[q]: set(grades) for q, grades in judged.grades.items()}
    # All of the group but the text itself, whatever the order of the rows.
    assert fits["a"] == {names["c"], names["d"]}
    assert fits["d"] == {names["a"], names["c"]}
    found = read_pairs(Objects([{"texts": ["a", "c", "d"]}]))
    assert found.groups == dict.fromkeys("acd", 0)


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    """A collection: five texts, three queries, one of which nothing fits."""
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    texts = [("1", "", "green lamp"), ("2", "red", "lamp"), ("3", "", "anna sold"), ("9", "x", "")]
    rows = [json.dumps({"_id": i, "title": title, "text": text}) for i, title, text in texts]
    write(folder, "corpus.jsonl", rows)
    queries = [("q1", "lamp"), ("q2", "sold"), ("q3", "boris")]
    write(folder, "queries.jsonl", [json.dumps({"_id": i, "text": t}) for i, t in queries])
    lines = ["query-id\tcorpus-id\tscore", "q1\t1\t2", "q1\t2\t1", "q2\t3\t1", "q3\t1\t0"]
    write(folder / "qrels", "test.tsv", lines)
    return folder


def test_a_folder_of_beirs_is_judged_and_trains(beir: Path, capsys: pytest.CaptureFixture) -> None:
    found = read_judged(beir)
    assert found.texts == {"1": "green lamp", "2": "red lamp", "3": "anna sold", "9": "x"}
    assert found.grades == {"q1": {"1": 2, "2": 1}, "q2": {"3": 1}}
    assert "1 queries that no text fits are left out" in capsys.readouterr().err
    trained = read_pairs(beir)
    assert [(p.query, p.texts) for p in trained.pairs] == [
        ("lamp", ["green lamp"]),
        ("lamp", ["red lamp"]),
        ("sold", ["anna sold"]),
    ]
    assert trained.related["lamp"] == {"green lamp", "red lamp"}
    assert list(read_texts(beir / "corpus.jsonl"))[1] == ("2", "red lamp")


def test_pairs_are_judged_among_all_texts_of_their_file() -> None:
    judged = as_judged(read_pairs(Objects(ROWS[:4])))
    fits = {
        judged.queries[q]: {judged.texts[t] for t in found} for q, found in judged.grades.items()
    }
    assert fits == {
        "anna sold": {"the lamp .", "a lamp ."},
        "boris bought": {"the lamp ."},
        "the lamp .": {"it is green ."},
    }
    assert len(judged.texts) == 6


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (['{"query": "a"}'], "line 1: found query; expected a query and a text"),
        (['{"query": "a", "text": ""}'], "line 1: 'text' is ''; expected a text"),
        (['{"query": "a", "text": 3}'], "line 1: 'text' is 3; expected a text"),
        (['{"query": "a", "text": "b", "negatives": [1]}'], "line 1: a negative is 1"),
        (['{"query": "a", "text": "b", "label": "yes"}'], "line 1: the label 'yes'; expected a"),
        (
            ['{"query": "a", "text": "b", "score": 1}', '{"query": "a", "text": "c"}'],
            "a score in line 2 or line 1 alone; expected one in every row, or in none",
        ),
        (['{"premise": "a", "hypothesis": "b", "label": "neutral"}'], "has no pairs of texts"),
        (['{"premise": "a", "hypothesis": "b", "label": 2}'], "hypothesis is the number 2; write"),
        (['{"query": "a", "text": "b", "score": NaN}'], "line 1: 'score' is nan; expected a"),
        (['{"text": "b", "group": null}'], "line 1: 'group' is empty; expected the group"),
        (['{"texts": ["b", ""]}'], "line 1: ''; expected texts"),
        (
            ['{"query_id": "1", "query": "a", "rank": 1, "score": 0.5, "text": "b"}'],
            "what search found, and nobody has judged",
        ),
    ],
)
def test_rows_that_cannot_be_are_named(tmp_path: Path, rows: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_pairs(write(tmp_path, "x.jsonl", rows))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q1\t7\t1", r"line 6: corpus.jsonl has no '7'; mend the line"),
        ("q7\t1\t1", r"line 6: queries.jsonl has no 'q7'; mend the line"),
        ("q1\t1\tx", r"line 6: the score 'x'; expected a whole number"),
        ("q1\t1\t0.5", r"line 6: the score '0.5'; expected a whole number"),
    ],
)
def test_judgements_of_what_is_not_there_are_named(beir: Path, line: str, message: str) -> None:
    file = beir / "qrels" / "test.tsv"
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(UserError, match=message):
        read_judged(beir)


@pytest.mark.parametrize(
    ("loss", "rows", "message"),
    [
        ("cosine", ROWS, "the pairs of the data have none"),
        ("contrastive", rows_of("cosent"), "the pairs of the data have a number"),
        ("margin", [{"query": "a", "text": "b"}], "has no texts that do not fit"),
        (
            "cosent",
            [{"query": "a", "text": t, "score": 1} for t in "bc"],
            "every pair has the score 1, which teaches nothing",
        ),
    ],
)
def test_a_loss_for_other_data_is_refused(
    sample: Path, loss: str, rows: list[dict], message: str
) -> None:
    tokenizer = FullTokenizer(sample / "vocab.txt")
    with pytest.raises(UserError, match=message):
        task_of(loss).load_training(Objects(rows), tokenizer)
    assert VectorTask().load_training(Objects(ROWS), tokenizer)[0].loss_name == "contrastive"
    scored = Objects(rows_of("cosent"))
    assert VectorTask().load_training(scored, tokenizer)[0].loss_name == "cosent"

"""Rankers: losses that are those of plain loops for any parts, rows of all forms, ranks anew."""

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from test_pipelines import CONFIG, trained
from torch import Tensor

import checkpoint
import finetune
import models
import rank
import train
from tasks import RankTask
from tasks.rankers import LOSSES, read_found
from tasks.table_rows import Objects
from tokenization import FullTokenizer
from utils import UserError

ROWS = [
    {"query": f"anna {q}", "text": f"lamp {t} .", "grade": (3 * q + t * t) % 4}
    for q in range(16)
    for t in range(2 + q % 4)
]


@pytest.fixture
def trainer_of(sample: Path, tmp_path: Path) -> Callable[..., train.Trainer]:
    """A Trainer of a small ranker in float64 whose only batch has all queries."""
    n_words = len((sample / "vocab.txt").read_text().split())

    def make(task: RankTask, n_parts: int) -> train.Trainer:
        _, data = task.load_training(Objects(ROWS), FullTokenizer(sample / "vocab.txt"))
        torch.manual_seed(0)
        model = models.Classifier(models.Config(n_words, 32, 2, 2, 64, 0.0, 0.0, 64), 1).double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(4 if parameter.dim() > 1 else 1)
        cfg = train.Config(batch_size=16, total_steps=1, gradient_accumulation=n_parts)
        trainer = train.Trainer(cfg, model, data.features.batches(16, 1), tmp_path / f"{n_parts}")
        return trainer

    return make


def plain(scores: list[Tensor], grades: list[float], loss: str) -> Tensor:
    """The loss of one query."""
    if loss == "squared":
        return torch.stack([(s - g) ** 2 for s, g in zip(scores, grades, strict=True)]).mean()
    if loss == "pointwise":
        signed = [(-s if g > 0 else s) for s, g in zip(scores, grades, strict=True)]
        return torch.stack([(1 + s.exp()).log() for s in signed]).mean()
    if loss == "softmax":
        total = torch.stack(scores).exp().sum()
        terms = [
            -g / sum(grades) * (s.exp() / total).log() for s, g in zip(scores, grades, strict=True)
        ]
        return torch.stack(terms).sum()
    order = sorted(range(len(scores)), key=lambda i: (-float(scores[i]), i))
    place = {i: n for n, i in enumerate(order, start=1)}
    best = sum(g / math.log2(n + 1) for n, g in enumerate(sorted(grades, reverse=True), start=1))
    found = torch.zeros((), dtype=torch.float64)
    for a, b in itertools.permutations(range(len(scores)), 2):
        if grades[a] > grades[b]:
            lost = 1 / math.log2(place[a] + 1) - 1 / math.log2(place[b] + 1)
            weight = abs((grades[a] - grades[b]) * lost) / best
            found = found + weight * (1 + (scores[b] - scores[a]).exp()).log()
    return found


@pytest.mark.parametrize("n_parts", [1, 4, 16])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_is_that_of_plain_loops_whatever_its_parts(
    trainer_of: Callable, loss: str, n_parts: int
) -> None:
    task = RankTask(max_len=16, rank_loss=loss)
    trainer = trainer_of(task, n_parts)
    means = trainer.compute(trainer.wrapped, task.loss, trainer.micro_batches(0))
    found = [p.grad.clone() for p in trainer.model.parameters()]
    trainer.model.zero_grad()
    batch = trainer.batches[0]
    scores = trainer.model(**batch.inputs)[:, 0]
    losses = []
    for row, grades in zip(batch.which.tolist(), batch.labels.tolist(), strict=True):
        there = [i for i in row if i >= 0]
        losses.append(plain([scores[i] for i in there], grades[: len(there)], loss))
    expected = torch.stack(losses).mean()
    expected.backward()
    assert float(means["loss"]) == pytest.approx(float(expected.detach()), abs=1e-10)
    for mine, parameter in zip(found, trainer.model.parameters(), strict=True):
        assert float((mine - parameter.grad).abs().max()) < 1e-10


def test_rows_with_grades_and_with_negatives_are_queries_with_texts(sample: Path) -> None:
    tokenizer = FullTokenizer(sample / "vocab.txt")
    rows = [
        {"query": "a", "text": "x", "grade": 2},
        {"query": "b", "text": "y", "grade": 0},
        {"query": "a", "text": "z", "grade": 0},
    ]
    task, data = RankTask().load_training(Objects(rows), tokenizer)
    assert task.rank_loss == "softmax"
    # b has nothing to compare.
    assert [(one.query, one.texts, one.grades) for one in data.examples] == [
        ("a", ["x", "z"], [2.0, 0.0])
    ]
    task, data = RankTask(rank_loss="squared").load_training(Objects(rows), tokenizer)
    assert [one.query for one in data.examples] == ["a", "b"]
    pairs = [{"query": "a", "text": "x", "negatives": ["y", "z"]}]
    (one,) = RankTask().load_training(Objects(pairs), tokenizer)[1].examples
    assert (one.texts, one.grades, one.fits) == (["x", "y", "z"], [1.0, 0.0, 0.0], {"1": 1})
    with pytest.raises(UserError, match="no query has texts of different grades"):
        RankTask(rank_loss="lambda").load_training(Objects(rows[1:2]), tokenizer)
    assert RankTask().load_training(Objects(rows[1:2]), tokenizer)[0].rank_loss == "pointwise"


def found_rows(folder: Path) -> Path:
    """What search wrote for two queries."""
    rows = [
        {"query_id": q, "query": f"word{i}", "rank": n, "score": 1 / n, "id": f"t{n}", "text": t}
        for i, q in enumerate(("q1", "q2"), start=1)
        for n, t in enumerate(("word5 word6", "word7", "word5 word9"), start=1)
    ]
    (folder / "found.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "found.jsonl"


def test_what_was_found_is_ranked_again(tmp_path: Path, run: Callable) -> None:
    torch.manual_seed(5)
    folder = trained(
        tmp_path / "run", models.Classifier(CONFIG, 1), {"rank_loss": "softmax", "max_len": 32}
    )
    file = found_rows(tmp_path)
    line = f"--mode predict --model_file {folder} --data_file {file} --out {tmp_path}/again.jsonl"
    status, _, err = run(line, rank.Rank)
    assert status == 0, err
    rows = [json.loads(x) for x in (tmp_path / "again.jsonl").read_text().splitlines()]
    saved = finetune.load(folder)
    assert isinstance(saved.task, RankTask)
    for name, group in itertools.groupby(rows, key=lambda row: row["query_id"]):
        mine = list(group)
        assert [row["rank"] for row in mine] == [1, 2, 3]
        assert sorted(row["id"] for row in mine) == ["t1", "t2", "t3"]
        scores = [row["score"] for row in mine]
        assert scores == sorted(scores, reverse=True)
        (answer,) = saved.predict([(mine[0]["query"], [row["text"] for row in mine])])
        assert answer.texts == [row["text"] for row in mine]
        assert answer.scores == pytest.approx(scores, abs=1e-6)
        assert name in ("q1", "q2")


def test_a_folder_of_cross_encoders_is_read_and_written(tmp_path: Path) -> None:
    theirs = pytest.importorskip("sentence_transformers")
    torch.manual_seed(6)
    settings = {"rank_loss": "softmax", "max_len": 32}
    folder = trained(tmp_path / "run", models.Classifier(CONFIG, 1), settings)
    checkpoint.convert(str(folder), str(tmp_path / "folder"))
    model = theirs.CrossEncoder(str(tmp_path / "folder"), device="cpu", max_length=32)
    texts = ["word5 word6", "word7", "word5 word9"]
    pairs = [("word1", text) for text in texts]
    expected = model.predict(pairs, activation_fn=torch.nn.Identity())
    model.save(str(tmp_path / "theirs"))
    for source in ("run", "folder", "theirs"):
        (tmp_path / source / "task.json").unlink(missing_ok=source == "theirs")
        saved = finetune.load(tmp_path / source, RankTask)
        (answer,) = saved.predict([("word1", texts)])
        scores = dict(zip(answer.texts, answer.scores, strict=True))
        np.testing.assert_allclose([scores[text] for text in texts], expected, atol=1e-6)


def test_candidates_of_a_collection_are_judged_by_all_that_fits(tmp_path: Path) -> None:
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    texts = ("word5 word6", "word7", "word5 word9", "word20")
    for name, rows in (
        ("corpus", [{"_id": f"t{i}", "text": t} for i, t in enumerate(texts, start=1)]),
        ("queries", [{"_id": f"q{i}", "text": f"word{i}"} for i in (1, 2)]),
    ):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    qrels = ["query-id\tcorpus-id\tscore", "q1\tt3\t2", "q1\tt4\t1", "q2\tt4\t1"]
    (folder / "qrels/test.tsv").write_text("\n".join(qrels) + "\n")
    task = RankTask(candidates=str(found_rows(tmp_path)))
    one, two = task.read(folder)
    assert (one.names, one.grades) == (["t1", "t2", "t3"], [0.0, 0.0, 2.0])
    assert (one.fits, two.fits) == ({"t3": 2, "t4": 1}, {"t4": 1})
    one, two = task.read(folder, training=True)
    assert (one.names, one.grades) == (["t1", "t2", "t3", "t4"], [0.0, 0.0, 2.0, 1.0])
    assert two.texts[-1] == "word20"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--loss hinge", "--loss 'hinge': expected softmax, pointwise, squared, lambda"),
        ("--max_len 3", "--max_len 3: "),
        ("--data_dir {t}", "--train_file and --data_dir are both given; keep one"),
        ("--label nothing --max_len 16", "no column 'nothing'"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    tmp_path: Path, sample: Path, run: Callable, flags: str, message: str
) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    line = f"--train_file {tmp_path}/rows.jsonl --model_cfg {sample}/config.json --vocab "
    line += f"{sample}/vocab.txt --save_dir {tmp_path}/run {flags.format(t=tmp_path)}"
    status, _, err = run(line, rank.Rank)
    assert status == 2, err
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_classifier_is_no_ranker_and_rows_lack_nothing(tmp_path: Path) -> None:
    folder = trained(tmp_path / "run", models.Classifier(CONFIG, 3), {"max_len": 16})
    with pytest.raises(UserError, match="has 3 scores, one for each label"):
        finetune.load(folder, RankTask)
    (tmp_path / "x.jsonl").write_text('{"query": "a"}\n')
    with pytest.raises(UserError, match="line 1: found query; expected"):
        read_found(tmp_path / "x.jsonl")

"""Models that leave: the pipelines of transformers answer as predict() does, and back again."""

import asyncio
import dataclasses
import importlib
import itertools
import random
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import checkpoint
import finetune
import models
from classify import Classify
from formats import cards
from formats.weights import write_pt
from system.files import read_json, write_json
from system.flags import parse
from tasks import KINDS
from tasks.resolve import resolve
from training import runs

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{i}" for i in range(65))]
CONFIG = models.Config(70, 16, 2, 2, 32, max_len=128)
TEXTS = ["word1 word2", "word7 word3 word11", "word60"]
SCORES = 2e-6


def trained(folder: Path, model: torch.nn.Module, settings: dict[str, Any]) -> Path:
    """A run's folder with a random model."""
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    write_json(folder / "tokenizer_config.json", {"do_lower_case": True})
    write_json(folder / "task.json", settings)
    contents = {"config": dataclasses.asdict(CONFIG), "model": model.state_dict()}
    write_pt(folder / "model_steps_1.pt", contents)
    return folder


@pytest.fixture
def texts() -> list[str]:
    """Three short texts; a test may have others."""
    return TEXTS


@pytest.fixture
def answers(tmp_path: Path, texts: list[str]) -> Callable:
    """Our answers, those of a pipeline on the converted folder, and of that folder read back."""
    transformers = pytest.importorskip("transformers")

    def answer(task: str, settings: dict[str, Any], model: torch.nn.Module, **how: Any) -> tuple:
        # Larger weights than a new model has: a random one would score all texts alike.
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(3 if parameter.dim() > 1 else 1)
        run = trained(tmp_path / "run", model, settings)
        checkpoint.convert(str(run), str(tmp_path / "folder"))
        pipeline = transformers.pipeline(task, str(tmp_path / "folder"), device="cpu")
        ours = finetune.load(run).predict(texts)
        # Back again, from a folder and from that as a .pt, without a flag.
        checkpoint.convert(str(tmp_path / "folder"), str(tmp_path / "back" / "model.pt"))
        for back in ("folder", "back"):
            assert finetune.load(tmp_path / back).predict(texts) == ours
        return ours, pipeline(texts, **how)

    return answer


def test_classes_and_several_labels_and_numbers(answers: Callable, tmp_path: Path) -> None:
    torch.manual_seed(1)
    ours, theirs = answers(
        "text-classification",
        {"task": "csv", "text_a": "text", "label": "label", "labels": ["x", "y", "z"]},
        models.Classifier(CONFIG, 3),
        top_k=None,
    )
    for mine, scores in zip(ours, theirs, strict=True):
        found = {score["label"]: score["score"] for score in scores}
        assert mine.answer == max(found, key=lambda label: found[label])
        assert mine.probabilities == pytest.approx([found[x] for x in "xyz"], abs=SCORES)


def test_several_labels(answers: Callable, tmp_path: Path) -> None:
    torch.manual_seed(2)
    settings = {"task": "csv", "text_a": "text", "label": "tags", "separator": "+"}
    settings |= {"labels": ["x", "y", "z"], "metrics": ["F1", "Accuracy"]}
    ours, theirs = answers(
        "text-classification", settings, models.Classifier(CONFIG, 3), top_k=None
    )
    for mine, scores in zip(ours, theirs, strict=True):
        found = {score["label"]: score["score"] for score in scores}
        assert mine.probabilities == pytest.approx([found[x] for x in "xyz"], abs=SCORES)
        assert mine.answer == "+".join(x for x in "xyz" if found[x] > 0.5)
    # From elsewhere there is Hugging Face's word for it alone, and copies keep what it means.
    (tmp_path / "folder" / "task.json").unlink()
    checkpoint.convert(str(tmp_path / "folder"), str(tmp_path / "copy" / "m.pt"))
    checkpoint.convert(str(tmp_path / "folder"), str(tmp_path / "again"))
    for file in ("folder", "copy", "again"):
        again = finetune.load(tmp_path / file)
        assert again.task.separator == ","
        assert resolve(checkpoint.read(tmp_path / file), task="tsv").separator == ","
        for mine, other in zip(again.predict(TEXTS), ours, strict=True):
            assert mine.probabilities == pytest.approx(other.probabilities)


def test_a_number(answers: Callable, tmp_path: Path) -> None:
    torch.manual_seed(3)
    settings = {"task": "csv", "text_a": "text", "label": "score", "labels": None}
    settings["metrics"] = ["Pearson", "Spearman"]
    ours, theirs = answers("text-classification", settings, models.Classifier(CONFIG, 1))
    assert read_json(tmp_path / "folder" / "config.json")["problem_type"] == "regression"
    for mine, score in zip(ours, theirs, strict=True):
        assert float(mine.answer) == pytest.approx(score["score"], abs=1e-4)


def test_tags(answers: Callable, tmp_path: Path) -> None:
    torch.manual_seed(4)
    settings = {"labels": ["O", "B-LOC", "I-LOC"]}
    ours, theirs = answers(
        "token-classification", settings, models.Tagger(CONFIG, 3), ignore_labels=[]
    )
    for mine, tokens in zip(ours, theirs, strict=True):
        assert mine.tags == [token["entity"] for token in tokens]
        chances = [token["score"] for token in tokens]
        assert mine.probabilities == pytest.approx(chances, abs=SCORES)


RNG = random.Random(6)
SENTENCES = [" ".join(RNG.choices(WORDS[5:], k=RNG.randint(2, 30))) for _ in range(200)]


@pytest.mark.parametrize("texts", [SENTENCES])
def test_entities_are_those_of_a_pipeline_where_words_are_pieces(answers: Callable) -> None:
    torch.manual_seed(2)
    labels = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    ours, theirs = answers(
        "token-classification",
        {"labels": labels},
        models.Tagger(CONFIG, len(labels)),
        aggregation_strategy="simple",
    )
    illegal = 0
    for text, mine, found in zip(SENTENCES, ours, theirs, strict=True):
        assert [(e.type, e.start, e.end) for e in mine.entities] == [
            (entity["entity_group"], entity["start"], entity["end"]) for entity in found
        ]
        assert [e.score for e in mine.entities] == pytest.approx(
            [entity["score"] for entity in found], abs=SCORES
        )
        assert [e.text for e in mine.entities] == [text[e.start : e.end] for e in mine.entities]
        illegal += any(b[:2] == "I-" and a[1:] != b[1:] for a, b in itertools.pairwise(mine.tags))
    assert sum(len(mine.entities) for mine in ours) > 200
    assert illegal > 20


def test_the_card_says_what_was_trained_how_and_how_well(sample: Path, tmp_path: Path) -> None:
    n_words = len((sample / "vocab.txt").read_text().split())
    write_json(tmp_path / "model.json", dataclasses.asdict(CONFIG) | {"vocab_size": n_words})
    arguments = [
        "--task", "mrpc", "--data_file", f"{sample}/train.tsv", "--eval_file", f"{sample}/dev.tsv",
        "--model_cfg", f"{tmp_path}/model.json", "--vocab", f"{sample}/vocab.txt",
        "--total_steps", "3", "--save_dir", str(tmp_path / "run"), "--max_len", "32",
    ]  # fmt: skip
    Classify(**parse(Classify, arguments)).run()
    checkpoint.convert(str(tmp_path / "run"), str(tmp_path / "folder"))
    card = (tmp_path / "folder" / "README.md").read_text()
    (last,) = runs.read_evaluations(tmp_path / "run" / "metrics.jsonl").values()
    assert f"| Accuracy | {last['Accuracy']:.4f} |" in card
    run = read_json(tmp_path / "run" / "run.json")
    assert f"- data_file: {run['sha256 of data_file']}" in card
    assert "pipeline_tag: text-classification" in card
    # The command, with its files, is that of the same run.
    line = re.search(r"python classify.py (.*)", card)
    assert line
    values = parse(Classify, line[1].split())
    settings = values.pop("settings")
    assert (values["task"], values["max_len"]) == ("mrpc", 32)
    assert (settings["total_steps"], settings["lr"]) == (3, run["lr"])


def test_every_kind_has_a_pipeline_and_a_command() -> None:
    assert KINDS.keys() == cards.COMMANDS.keys()
    assert KINDS.keys() < cards.PIPELINES.keys()


def server_of(folder: Path) -> tuple[finetune.Saved, Any]:
    settings = {"task": "csv", "text_a": "text", "label": "label", "labels": ["0", "1"]}
    run = trained(folder / "run", models.Classifier(CONFIG, 2), settings)
    saved = finetune.load(run)
    serve = importlib.import_module("examples.serve")
    return saved, serve.app_of(saved)


def test_the_server_answers_as_predict_does(tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    saved, app = server_of(tmp_path)
    (ours,) = saved.predict(["word1 word2"])
    with TestClient(app) as client:
        answer = client.post("/predict", json=["word1 word2"]).json()
        assert answer == [
            {
                "answer": ours.answer,
                "confidence": ours.confidence,
                "probabilities": dict(zip("01", ours.probabilities, strict=True)),
            }
        ]
        assert client.post("/predict", json=[]).json() == []
        assert client.post("/predict", json="no list").status_code == 422
        wrong = client.post("/predict", json=[["word1", "word2"]])
        assert wrong.status_code == 422
        assert "expected a text" in wrong.json()["detail"]


def test_requests_that_arrive_together_are_answered_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fastapi")
    import httpx

    saved, app = server_of(tmp_path)
    predict, calls, go_on = saved.predict, list[int](), threading.Event()

    def slow(texts: list[str]) -> Any:
        calls.append(len(texts))
        assert go_on.wait(60)
        return predict(texts)

    monkeypatch.setattr(saved, "predict", slow)
    given = [[f"word{i}"] * (i + 1) for i in range(5)]

    async def ask_all() -> list[Any]:
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://server") as client,
        ):
            asked = [asyncio.create_task(client.post("/predict", json=given[0]))]
            while not calls:
                await asyncio.sleep(0.001)
            # The first is being computed, and the others wait for it.
            asked += [asyncio.create_task(client.post("/predict", json=t)) for t in given[1:]]
            while app.state.waiting.qsize() < 4:
                await asyncio.sleep(0.001)
            go_on.set()
            return [answer.json() for answer in await asyncio.gather(*asked)]

    found = asyncio.run(asyncio.wait_for(ask_all(), 60))
    assert calls == [1, 2 + 3 + 4 + 5]
    for texts, answers in zip(given, found, strict=True):
        expected = [prediction.probabilities[1] for prediction in predict(texts)]
        assert [a["probabilities"]["1"] for a in answers] == pytest.approx(expected, abs=1e-6)

"""Data of one's own, from a messy file to a model that can be trusted and a table of answers."""

import collections
import csv
import dataclasses
import random
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
import sklearn.metrics

import finetune
import models
import train
from classify import Classify
from pretrained import Pretrained, find
from system.files import read_json, write_json
from system.flags import parse
from tasks import TASKS

WORDS = "the a film book was is and very it good fine great bad poor awful".split()
WORTH = {"good": "praise", "great": "praise", "bad": "complaint", "awful": "complaint"}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's shape and vocabulary, and feedback of three classes, one of them rare."""
    folder = tmp_path_factory.mktemp("small")
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    shape = models.Config(
        **{"vocab_size": len(tokens), "dim": 32, "n_layers": 2, "n_heads": 2, "dim_ff": 64},
        **{"p_drop_hidden": 0.0, "p_drop_attn": 0.0, "max_len": 128, "init_std": 0.2},
    )
    write_json(folder / "model.json", shape.to_json())
    write_json(folder / "train.json", {"batch_size": 8, "n_epochs": 3, "lr": 3e-3})
    rng = random.Random(3)
    rows = []
    for n in range(300):
        kind = rng.choices(list(WORTH) + ["none"], [9, 9, 2, 2, 6])[0]
        words = rng.choices(WORDS[:9], k=rng.randint(2, 9))
        if kind != "none":
            words.insert(rng.randrange(len(words)), kind)
        rows.append((f"c{n % 40}", " ".join(words), WORTH.get(kind, "other"), 1.5 * len(words)))
    with open(folder / "feedback.csv", "w", newline="") as f:
        csv.writer(f).writerows([("customer", "text", "label", "price"), *rows])
    return folder


def start(small: Path) -> Pretrained:
    return find(None, str(small / "model.json"), str(small / "vocab.txt"))


def test_a_frame_trains_the_same_model_as_its_file(small: Path, tmp_path: Path) -> None:
    cfg = train.Config.from_json(small / "train.json", total_steps=6)
    frame = pd.read_csv(small / "feedback.csv").rename(columns={"text": "said", "label": "kind"})
    run = finetune.prepare(
        TASKS["csv"], frame, start(small), [frame[:50]], cfg, text_a="said", label="kind"
    )
    from_frame = run.fit(tmp_path / "frame")
    run = finetune.prepare(
        TASKS["csv"], small / "feedback.csv", start(small), small / "feedback.csv", cfg
    )
    from_file = run.fit(tmp_path / "file")
    a, b = (finetune.load(result.file) for result in (from_frame, from_file))
    assert all(
        (p == q).all() for p, q in zip(a.model.parameters(), b.model.parameters(), strict=True)
    )
    assert a.evaluate(frame) == b.evaluate(small / "feedback.csv")
    # The same rows go on, others do not.
    settings = read_json(tmp_path / "frame" / "run.json")
    digest = next(value for name, value in settings.items() if name.startswith("sha256"))
    assert len(digest) == 16


def trained(small: Path, folder: Path, line: str = "") -> None:
    """Train as a command does, on the last 200 rows, evaluated on the first 100."""
    rows = list(csv.reader(open(small / "feedback.csv", newline="")))
    for name, part in (("dev", rows[1:101]), ("train", rows[101:])):
        with open(folder / f"{name}.csv", "w", newline="") as f:
            csv.writer(f).writerows([rows[0], *part])
    flags = f"--task csv --data_file {folder}/train.csv --eval_file {folder}/dev.csv "
    flags += f"--train_cfg {small}/train.json --model_cfg {small}/model.json "
    flags += f"--vocab {small}/vocab.txt --save_dir {folder}/run {line}"
    parse_and_run(flags)


def parse_and_run(flags: str) -> None:
    Classify(**parse(Classify, shlex.split(flags))).run()


def test_training_ends_with_a_report_of_each_class(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    trained(small, tmp_path, "--class_weights balanced --threshold auto --calibrate True")
    out = capsys.readouterr().out
    saved = finetune.load(tmp_path / "run")
    # What was chosen is stored with the model, and used.
    settings = read_json(tmp_path / "run/task.json")
    counts = collections.Counter(pd.read_csv(tmp_path / "train.csv").label)
    assert settings["class_weights"] == pytest.approx(
        [200 / (3 * counts[label]) for label in ("complaint", "other", "praise")]
    )
    assert settings["temperature"] == saved.task.temperature != 1
    assert settings["thresholds"] == list(saved.task.thresholds)
    assert re.search(
        r"^Chosen on .*dev.csv: temperature [\d.]+: expected calibration error", out, re.M
    )
    dev = pd.read_csv(tmp_path / "dev.csv")
    answers = dataclasses.replace(saved, task=dataclasses.replace(saved.task, thresholds=()))
    answers = [a.answer for a in answers.predict(list(dev.text))]
    expected = sklearn.metrics.classification_report(dev.label, answers, output_dict=True)
    found = read_json(tmp_path / "run/eval/dev.json")
    for name in ("complaint", "other", "praise", "macro avg", "weighted avg"):
        assert found["classes"][name]["f1"] == pytest.approx(expected[name]["f1-score"], abs=1e-12)
        assert re.search(rf"^{name} +[\d.]+ +[\d.]+ +{expected[name]['f1-score']:.4f} ", out, re.M)
    low, high = found["interval"]
    assert low < found["Macro-F1"] < high
    assert f"95% interval of Macro-F1: {low:.4f} to {high:.4f} (100 examples)" in out
    assert "Always giving the most frequent answer: Macro-F1 0." in out
    # Mistakes have the probability of what was said, and of what is right.
    with open(tmp_path / "run/eval/dev_errors.tsv") as f:
        mistakes = list(csv.DictReader(f, delimiter="\t"))
    for row in mistakes:
        [answer] = saved.predict([row["text_a"]])
        scores = dict(zip(saved.task.labels, answer.probabilities, strict=True))
        assert float(row["probability"]) == pytest.approx(scores[row["prediction"]], abs=1e-4)
        assert float(row["of the label"]) == pytest.approx(scores[row["label"]], abs=1e-4)

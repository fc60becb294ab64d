"""Data of one's own, from a messy file to a model that can be trusted and a table of answers."""

import csv
import random
from pathlib import Path

import pandas as pd
import pytest

import finetune
import models
import train
from pretrained import Pretrained, find
from system.files import read_json, write_json
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

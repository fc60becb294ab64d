"""The benchmark of accuracy beside transformers: its interval, and that its sides start alike."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import models
import pretrained
from tasks.encoding import Batch

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def paired(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    # Last, since benchmarks has modules of the same names as the project's.
    monkeypatch.setattr(sys, "path", [*sys.path, str(BENCHMARKS)])
    return importlib.import_module("paired")


def test_the_interval_is_that_of_students_t(paired: ModuleType) -> None:
    # 12.706 deviations of the mean at one degree of freedom, 2.776 at four
    assert paired.interval([1.0, 3.0]) == (2.0, pytest.approx(12.7062, abs=1e-4))
    mean, width = paired.interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (mean, width) == (3.0, pytest.approx(2.7764 * 2.5**0.5 / 5**0.5, abs=1e-4))


def test_the_table_has_every_pair_and_the_mean_of_their_differences(paired: ModuleType) -> None:
    pairs = {
        0: {"ours": 0.75, "transformers": 0.5, "minutes": 1.0},
        1: {"ours": 0.5, "transformers": 0.5, "minutes": 2.0},
    }
    assert paired.table(pairs, "Accuracy").splitlines() == [
        "| seed | ours, Accuracy | transformers | difference | minutes |",
        "|---|---|---|---|---|",
        "| 0 | 0.7500 | 0.5000 | +0.2500 | 1.0 |",
        "| 1 | 0.5000 | 0.5000 | +0.0000 | 2.0 |",
        "| mean, 95% interval | 0.6250 | 0.5000 | +0.1250 ± 1.5883 | 1.5 |",
    ]


def test_both_sides_start_with_the_same_scores(paired: ModuleType, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    ours = models.Classifier(models.Config(50, 32, 2, 2, 64, max_len=16), n_labels=3).eval()
    shape = transformers.BertConfig(**ours.cfg.to_released())
    transformers.BertModel(shape).save_pretrained(tmp_path)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{n}" for n in range(45))]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    ids = torch.randint(5, 50, (2, 8))
    batch = Batch(ids, torch.zeros_like(ids), torch.ones_like(ids), torch.tensor([0, 2]))
    pretrained.find(tmp_path).load_into(ours, ("pooler", "classifier"))
    torch.nn.init.normal_(ours.classifier.weight)
    theirs = paired.their_model(ours, tmp_path).eval()
    inputs = paired.their_batch(batch, torch.device("cpu"))
    torch.testing.assert_close(theirs(**inputs).logits, ours(**batch.inputs))

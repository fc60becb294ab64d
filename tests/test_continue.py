"""Continued pre-training: a head that the weights lack, steps of the head alone, several held-out
texts, and a loss that vocabularies can be compared by.
"""

import dataclasses
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import checkpoint
import finetune
import pretrained
import train
from formats.rules import SPECIAL
from formats.vocab import load_vocab
from formats.weights import checkpoints_in
from optim import BertAdam, parameter_groups
from pretrain import Pretrain
from pretraining.builder import CorpusBuilder
from tasks.exports import write_hugging_face
from tasks.pretrain import PretrainTask
from tokenization import FullTokenizer
from utils import UserError

CFG = train.Config(batch_size=16, n_epochs=1, lr=1e-3, save_steps=100, log_steps=1)


@pytest.fixture
def encoder(sample: Path, tmp_path: Path) -> Path:
    """A folder with an encoder alone."""
    config = str(sample / "config.json")
    start = pretrained.find(None, config, str(sample / "vocab.txt"))
    torch.manual_seed(7)
    model = PretrainTask(max_len=48).model(start.config)
    tensors = {n: t for n, t in model.state_dict().items() if n.startswith("transformer.")}
    found = dataclasses.replace(start, kind="weights", tensors=tensors)
    (tmp_path / "encoder").mkdir()
    write_hugging_face(found, tmp_path / "encoder", start.vocabulary)
    return tmp_path / "encoder"


def prepare(
    sample: Path, weights: Path, folder: Path, eval_files: Any = (), **settings: Any
) -> finetune.Run:
    cfg = dataclasses.replace(CFG, **settings)
    task = PretrainTask(max_len=48, next_sentence=False, builder=CorpusBuilder(folder))
    return finetune.prepare(task, str(sample / "corpus.txt"), weights, eval_files, cfg)


# ----------------------------------------------------------------------------------------- the head


def test_a_head_that_weights_lack_knows_how_often_each_token_occurs(
    sample: Path, encoder: Path, tmp_path: Path
) -> None:
    run = prepare(sample, encoder, tmp_path / "run")
    head = run.model().masked_lm
    tokenizer = FullTokenizer(sample / "vocab.txt")
    counts = Counter(tokenizer.encode((sample / "corpus.txt").read_text()))
    n = sum(counts.values()) + len(tokenizer.vocab)
    expected = [math.log((counts[i] + 1) / n) for i in range(len(tokenizer.vocab))]
    torch.testing.assert_close(head.bias, torch.tensor(expected))
    rest = head.dense.weight - torch.eye(len(head.dense.weight))
    assert rest.std().item() == pytest.approx(0.02, rel=0.1)
    assert not head.dense.bias.any()
    assert run.settings["masked_lm head"] == "frequencies"
    # Weights that have one keep it.
    result = prepare(sample, encoder, tmp_path / "run").fit(tmp_path / "run")
    again = prepare(sample, result.file, tmp_path / "next")
    own = checkpoint.read(result.file).tensors
    assert torch.equal(again.model().masked_lm.bias, own["masked_lm.bias"])
    assert "masked_lm head" not in again.settings


def test_the_head_from_frequencies_is_better_than_a_random_one(
    sample: Path, encoder: Path, tmp_path: Path
) -> None:
    first = {}
    for name, begun in {"frequencies": {}, "random": {"seed": 42}}.items():
        run = prepare(sample, encoder, tmp_path / name)
        model = run.model(begun)
        with torch.no_grad():
            first[name] = run.task.loss(model.eval(), run.data.features.batches(16, 1)[0])[0]
    assert first["frequencies"] < first["random"] - 0.3


def test_a_run_of_an_earlier_version_goes_on_with_its_random_head(
    sample: Path, encoder: Path, tmp_path: Path
) -> None:
    folder, run = tmp_path / "run", prepare(sample, encoder, tmp_path / "run")
    # As such a run has begun: all but the settings that it did not know.
    model = run.model({"seed": 42})
    settings = dataclasses.asdict(run.cfg) | run.settings
    with run.start.run_lock(folder, model, settings):
        pass
    recorded = json.loads((folder / "run.json").read_text())
    for name in ("masked_lm head", "head_steps"):
        recorded.pop(name, None)
    (folder / "run.json").write_text(json.dumps(recorded))
    prepare(sample, encoder, folder).fit(folder)
    assert "masked_lm head" not in json.loads((folder / "run.json").read_text())


# ---------------------------------------------------------------------------------------- its steps


def test_the_encoder_stays_as_it_is_for_the_steps_of_the_head(
    sample: Path, encoder: Path, tmp_path: Path
) -> None:
    run = prepare(sample, encoder, tmp_path / "run", head_steps=3, save_steps=1, total_steps=5)
    run = dataclasses.replace(run, cfg=dataclasses.replace(run.cfg, keep_checkpoints=0, warmup=0))
    start = {name: t.clone() for name, t in run.model().state_dict().items()}
    run.fit(tmp_path / "run")
    for file in checkpoints_in(tmp_path / "run"):
        found = checkpoint.read(file)
        changed = {name for name, t in found.tensors.items() if not torch.equal(t, start[name])}
        assert any(name.startswith("masked_lm") for name in changed)
        assert any(name.startswith("transformer") for name in changed) == (found.extra["step"] > 3)


def test_groups_that_wait_keep_their_moments_and_then_go_on_with_the_schedule() -> None:
    def made(head_steps: int) -> tuple[nn.Module, BertAdam]:
        torch.manual_seed(0)
        model = nn.ModuleDict(
            {"transformer": nn.ModuleDict({"embedding": nn.Linear(3, 3)}), "head": nn.Linear(3, 1)}
        )
        groups = parameter_groups(model, 0.1, 1e-2, head_steps=head_steps)
        return model, BertAdam(groups, 1e-2, total_steps=10, warmup=0, max_grad_norm=math.inf)

    model, optimizer = made(2)
    encoder, head = model["transformer"]["embedding"], model["head"]  # type: ignore[index]
    before, rates = encoder.weight.detach().clone(), []
    for _ in range(3):
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
        rates.append([group["lr"] for group in optimizer.param_groups])
        if len(rates) < 3:
            assert torch.equal(encoder.weight, before)
    waiting = [group.get("wait", 0) for group in optimizer.param_groups]
    assert sorted(waiting) == [0, 0, 2, 2]
    for row, share in zip(rates, (1.0, 0.9, 0.8), strict=True):
        late = share if share < 0.85 else 0.0
        expected = [1e-2 * (late if wait else share) for wait in waiting]
        assert row == pytest.approx(expected)
    assert not torch.equal(encoder.weight, before)
    # Its moments are those of three gradients of ones.
    assert optimizer.state[encoder.weight]["exp_avg"].mean().item() == pytest.approx(1 - 0.9**3)
    # Without such steps the groups are as they were.
    plain = parameter_groups(made(0)[0], 0.1, 1e-2)
    assert [sorted(group) for group in plain] == 2 * [["lr", "params", "weight_decay"]]
    assert head.weight.grad is not None


# ---------------------------------------------------------------------------------------- held out


def flags(sample: Path, encoder: Path, tmp_path: Path, **more: Any) -> dict[str, Any]:
    given = {"pretrain_file": str(encoder), "data_file": str(sample / "corpus.txt"), "max_len": 48}
    given |= {"next_sentence": False, "cache_dir": str(tmp_path / "cache")}
    return given | {"settings": {"batch_size": 16, "total_steps": 3}} | more


def results(folder: Path) -> dict[str, float]:
    return json.loads((folder / "eval_results.json").read_text())


def evaluate_saved(folder: Path, run: str, files: str, out: str) -> None:
    Pretrain(
        mode="eval",
        model_file=str(folder / run),
        eval_file=files,
        save_dir=str(folder / out),
        cache_dir=str(folder / "cache"),
    ).run()


def test_several_held_out_texts_are_evaluated_one_by_one(
    sample: Path, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (sample / "corpus.txt").read_text().splitlines()
    for i, name in enumerate(("near", "far")):
        (tmp_path / f"{name}.txt").write_text("\n".join(lines[30 * i : 30 * i + 25]) + "\n")
    files = [str(tmp_path / f"{name}.txt") for name in ("near", "far")]
    for name, eval_file in {"both": ",".join(files), "near": files[0], "far": files[1]}.items():
        save_dir = str(tmp_path / f"run-{name}")
        Pretrain(**flags(sample, encoder, tmp_path, eval_file=eval_file, save_dir=save_dir)).run()
    both, near, far = (results(tmp_path / f"run-{name}") for name in ("both", "near", "far"))
    assert {name: both[name] for name in near} == near
    assert {name: both[f"{name} (far)"] for name in far if name != "global_step"} == {
        name: value for name, value in far.items() if name != "global_step"
    }
    assert "masked_lm_loss (far) = " in capsys.readouterr().out
    # And of a saved model.
    evaluate_saved(tmp_path, "run-both", ",".join(files), "eval")
    assert results(tmp_path / "eval") == pytest.approx(both)
    # A run of an earlier version, which took them for one text, goes on with it.
    given = {"eval_file": ",".join(files), "save_dir": str(tmp_path / "run-near")}
    run = Pretrain(**flags(sample, encoder, tmp_path, **given)).prepare(tmp_path / "run-near")
    assert len(run.eval_data) == 1
    # But for its own evaluation.
    evaluate_saved(tmp_path, "run-near", ",".join(files), "eval2")
    assert "masked_lm_loss (far)" in results(tmp_path / "eval2")


def test_the_loss_of_a_character_is_that_of_all_masked_tokens_by_their_characters(
    sample: Path, encoder: Path, tmp_path: Path
) -> None:
    run = prepare(sample, encoder, tmp_path / "run", str(sample / "corpus.txt"))
    data, model = run.eval_data[0], run.model()
    batches = data.features.batches(7)
    tokens = list(load_vocab(sample / "vocab.txt"))
    losses, characters = 0.0, 0
    with torch.no_grad():
        for i in range(len(batches)):
            batch = batches[i]
            words, _ = model.eval()(*batch[:4])
            for row, slots, weights in zip(words, batch.words, batch.weights, strict=True):
                for scores, word, weight in zip(row, slots, weights, strict=True):
                    if weight:
                        losses -= scores.double().log_softmax(0)[word].item()
                        token = tokens[word]
                        characters += 1 if token in SPECIAL else len(token.replace("##", ""))
        outputs = torch.cat([run.task.outputs(model, batches[i]) for i in range(len(batches))])
    found = run.task.metrics(data, outputs.numpy())
    assert found["character_loss"] == pytest.approx(losses / characters, rel=1e-5)
    assert "character_loss" in run.task.metric_names


def test_head_steps_are_a_number() -> None:
    with pytest.raises(UserError, match="head_steps=-1; expected 0 or more"):
        train.Config(head_steps=-1)

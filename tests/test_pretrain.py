"""Pre-training: losses equal the reference's, a run goes on to the bit, and the command does what
its users expect.
"""

import gzip
import json
import math
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fixed_instances import make_arrays, write_records

import checkpoint
import corpus as corpus_command
import finetune
import models
import pretrain
import pretrained
import tokenization
import train
from classify import Classify
from formats.weights import checkpoints_in
from optim import BertAdam, parameter_groups
from pretraining.batches import PairBatches, PretrainBatch
from pretraining.builder import CorpusBuilder
from pretraining.pairs import PairConfig, Pairs
from pretraining.shards import Corpus
from pretraining.text import prepare_text
from tasks import pretrain as pretraining_task
from training import inference

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = {"batch_size": 16, "n_epochs": 2, "lr": 1e-3, "save_steps": 5, "log_steps": 3}


@pytest.fixture(scope="module")
def corpus(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    prepare_text([sample / "corpus.txt"], sample / "vocab.txt", folder)
    return Corpus(folder)


@pytest.fixture
def flags(sample: Path, tmp_path: Path) -> dict[str, object]:
    """What a short run on the sample is started with."""
    (tmp_path / "train.json").write_text(json.dumps(SETTINGS))
    return {
        "train_cfg": tmp_path / "train.json",
        "model_cfg": sample / "config.json",
        "data_file": sample / "corpus.txt",
        "vocab": sample / "vocab.txt",
        "save_dir": tmp_path / "run",
        "max_len": 48,
    }


def line(flags: dict[str, object], **more: object) -> str:
    return " ".join(
        f"--{name} {value}" for name, value in (flags | more).items() if value is not None
    )


def last(folder: Path) -> checkpoint.Checkpoint:
    return checkpoint.read(checkpoints_in(folder)[-1])


def same(a: Path, b: Path) -> bool:
    x, y = last(a), last(b)
    return x.file.name == y.file.name and all(
        torch.equal(x.tensors[name], y.tensors[name]) for name in x.tensors
    )


def evaluate(model: models.PretrainModel, batches: PairBatches) -> dict[str, float]:
    answers = inference.predict(
        model, batches, torch.device("cpu"), outputs=pretraining_task.outputs
    )
    return pretraining_task.metrics(answers, next_sentence=True)


def prepare(flags: dict[str, object], save_dir: Path) -> finetune.Run:
    cfg = train.Config.from_json(str(flags["train_cfg"]))
    builder = CorpusBuilder(save_dir)
    task = pretraining_task.PretrainTask(max_len=48, builder=builder, seed=cfg.seed)
    start = pretrained.find(None, str(flags["model_cfg"]), str(flags["vocab"]))
    return finetune.prepare(task, str(flags["data_file"]), start, cfg=cfg)


# ---------------------------------------------------------------------------- against the reference


def test_twenty_steps_in_float64_have_the_losses_of_transformers_with_google_s_update(
    corpus: Corpus, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = models.Config(
        vocab_size=Pairs(corpus, PairConfig(max_len=48)).vocab_size,
        dim=32,
        n_layers=2,
        n_heads=2,
        dim_ff=64,
        max_len=48,
        p_drop_hidden=0.0,
        p_drop_attn=0.0,
    )
    ours = models.PretrainModel(config)
    checkpoint.write_hugging_face(
        checkpoint.Checkpoint("ours", tmp_path, config, dict(ours.state_dict())), tmp_path
    )
    theirs = (
        transformers.BertForPreTraining.from_pretrained(tmp_path, attn_implementation="eager")
        .double()
        .train()
    )
    theirs.bert.embeddings.word_embeddings.padding_idx = (
        None  # a random word may be [PAD], and Google's learns that
    )
    ours = ours.double().train()
    steps, lr, warmup = 20, 1e-2, 0.2
    optimizer = BertAdam(parameter_groups(ours), lr, steps, warmup)
    moments = {
        name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in theirs.named_parameters()
    }
    batches = PairBatches(Pairs(corpus, PairConfig(max_len=48), seed=1), 16, seed=1)
    differences, values = [], []
    for step in range(steps):
        batch = PretrainBatch(*map(torch.from_numpy, batches.arrays(step)))
        loss, _ = pretraining_task.get_loss(ours, batch)
        loss.backward()
        optimizer.step(loss=loss)
        optimizer.zero_grad()

        ids, segments, mask, positions, words, weights, order = batch
        out = theirs(input_ids=ids, token_type_ids=segments, attention_mask=mask)
        used = (weights > 0).double()
        scores = out.prediction_logits[torch.arange(len(ids))[:, None], positions]
        entropy = F.cross_entropy(scores.flatten(0, 1), words.flatten(), reduction="none").view(
            words.shape
        )
        expected = (used * entropy).sum() / (float(used.sum()) + 1e-5) + F.cross_entropy(
            out.seq_relationship_logits, order
        )
        expected.backward()
        norm = math.sqrt(sum(float(p.grad.pow(2).sum()) for p in theirs.parameters()))
        rate = lr * (step / (warmup * steps) if step < warmup * steps else 1 - step / steps)
        with torch.no_grad():
            for name, p in theirs.named_parameters():
                g, (m, v) = p.grad / max(1.0, norm), moments[name]
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.999).add_(0.001 * g * g)
                decay = 0.0 if name.endswith("bias") or "LayerNorm" in name else 0.01
                p.sub_(rate * (m / (v.sqrt() + 1e-6) + decay * p))
                p.grad = None
        differences.append(abs(float(loss) - float(expected)))
        values.append(float(loss))
    assert max(differences) <= 1e-8
    assert values[-1] < values[0] - 0.5  # and they learn


def test_the_first_loss_of_a_fresh_model_is_that_of_guessing() -> None:
    torch.manual_seed(0)
    cfg = models.Config.from_json(ROOT / "config/bert_tiny.json")
    model = models.PretrainModel(cfg)
    ids = torch.randint(1000, 30000, (16, 64))
    positions = torch.arange(1, 60, 5).repeat(16, 1)
    batch = PretrainBatch(
        ids,
        (torch.arange(64) > 30).long().repeat(16, 1),
        torch.ones_like(ids),
        positions,
        ids.gather(1, positions),
        torch.full(positions.shape, 1 / positions.shape[1]),
        torch.randint(0, 2, (16,)),
    )
    loss, metrics = pretraining_task.get_loss(model, batch)
    assert abs(float(loss) - math.log(cfg.vocab_size) - math.log(2)) < 0.1
    assert float(metrics["loss_lm"] + metrics["loss_clsf"]) == pytest.approx(float(loss))
    assert float(metrics["tokens"]) == 64


def test_parts_of_a_batch_add_up_to_google_s_loss(corpus: Corpus, sample: Path) -> None:
    torch.manual_seed(0)
    model = models.PretrainModel(models.Config.from_json(sample / "config.json")).double().eval()
    batches = PairBatches(Pairs(corpus, PairConfig(max_len=48)), 24, seed=1)
    batch = PretrainBatch(*map(torch.from_numpy, batches.arrays(0)))
    whole, _ = pretraining_task.get_loss(model, batch)
    parts = [PretrainBatch(*(t[i : i + 7] for t in batch)) for i in range(0, 24, 7)]
    assert sum(
        float(pretraining_task.get_loss(model, p)[0]) * len(p[0]) / 24 for p in parts
    ) == pytest.approx(float(whole), rel=1e-12)
    word_loss, order_loss, *_ = pretraining_task.losses(model, batch)
    used = batch.weights > 0
    google = word_loss[used].sum() / (int(used.sum()) + 1e-5) + order_loss.mean()
    assert float(google) == pytest.approx(float(whole), rel=1e-12)


def test_evaluation_is_the_plain_average_over_all_slots_and_pairs(
    corpus: Corpus, sample: Path
) -> None:
    torch.manual_seed(0)
    config = models.Config.from_json(sample / "config.json")
    model = models.PretrainModel(config)
    batches = PairBatches(Pairs(corpus, PairConfig(max_len=48), seed=0, fixed=True), 16)
    found = evaluate(model, batches)
    slots, right, word_loss, order_right, order_loss = 0, 0, 0.0, [], []
    model = model.double().eval()
    for n in range(len(batches)):
        ids, segments, mask, positions, words, weights, order = batches[n]
        for row in range(len(ids)):
            length, used = int(mask[row].sum()), weights[row] > 0
            scores, pair = model(
                ids[row : row + 1, :length],
                segments[row : row + 1, :length],
                mask[row : row + 1, :length],
                positions[row : row + 1],
            )
            chance = scores[0].log_softmax(-1)[used]
            slots += int(used.sum())
            right += int((chance.argmax(-1) == words[row][used]).sum())
            word_loss -= float(chance.gather(1, words[row][used][:, None]).sum())
            order_right.append(int(pair[0].argmax()) == int(order[row]))
            order_loss.append(-float(pair[0].log_softmax(-1)[order[row]]))
    assert found["masked_lm_accuracy"] == right / slots
    assert found["masked_lm_loss"] == pytest.approx(word_loss / slots, rel=1e-5)
    assert found["next_sentence_accuracy"] == np.mean(order_right)
    assert found["next_sentence_loss"] == pytest.approx(np.mean(order_loss), rel=1e-5)
    assert found["loss"] == pytest.approx(found["masked_lm_loss"] + found["next_sentence_loss"])


# ------------------------------------------------------------------------------------------ the run


def test_a_run_trains_evaluates_and_leaves_a_folder_to_fine_tune_from(
    flags: dict, sample: Path, tmp_path: Path, run: Callable
) -> None:
    status, out, _ = run(
        line(flags, eval_file=sample / "held_out.txt", log_dir=tmp_path / "logs"), pretrain.Pretrain
    )
    assert status == 0
    folder = tmp_path / "run"
    names = [
        "masked_lm_accuracy",
        "masked_lm_loss",
        "next_sentence_accuracy",
        "next_sentence_loss",
        "loss",
        "character_loss",
        "global_step",
    ]
    results = json.loads((folder / "eval_results.json").read_text())
    assert list(results) == names
    assert [x.split(" = ")[0] for x in out.splitlines() if " = " in x] == names
    assert results["global_step"] == last(folder).extra["step"]
    logged = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {"loss", "loss_lm", "loss_clsf", "loss_total", "lr", "tokens"} <= set(logged[0])
    assert [x["step"] for x in logged if "eval_masked_lm_loss" in x] == [
        *range(5, results["global_step"], 5),
        results["global_step"],
    ]
    status, out, _ = run(
        f"--mode eval --model_file {folder} --data_file {sample / 'held_out.txt'}",
        pretrain.Pretrain,
    )
    again = {x.split(" = ")[0]: float(x.split(" = ")[1]) for x in out.splitlines() if " = " in x}
    # a folder stands for its best checkpoint, which need not be the last
    evaluated = [x for x in logged if "eval_masked_lm_accuracy" in x]
    best = max(evaluated, key=lambda x: x["eval_masked_lm_accuracy"])
    assert again["global_step"] == best["step"]
    for name in names[:-1]:
        assert again[name] == pytest.approx(best[f"eval_{name}"])
        assert results[name] == pytest.approx(evaluated[-1][f"eval_{name}"])
    curves = next((tmp_path / "logs").iterdir()).read_bytes()
    assert all(
        name in curves
        for name in (b"loss_lm", b"loss_clsf", b"loss_total", b"lr", b"tokens_per_second")
    )
    (tmp_path / "tune.json").write_text('{"batch_size": 32, "n_epochs": 1}')
    status, out, err = run(
        f"--task mrpc --train_cfg {tmp_path}/tune.json --data_file {sample}/train.tsv "
        f"--pretrain_file {folder} --save_dir {tmp_path}/tuned --max_len 48",
        Classify,
    )
    assert status == 0, err
    assert "new: classifier" in out


def test_the_corpus_is_prepared_once_and_a_prepared_one_gives_the_same_run(
    flags: dict, sample: Path, tmp_path: Path, run: Callable
) -> None:
    assert run(line(flags), pretrain.Pretrain)[0] == 0
    prepared = next((tmp_path / "run").glob("corpus-*"))
    made = (prepared / "shard-0-of-1").stat().st_mtime_ns
    status, out, _ = run(line(flags), pretrain.Pretrain)
    assert (status, (prepared / "shard-0-of-1").stat().st_mtime_ns) == (0, made)
    assert "is there already, with all" in out
    assert (
        run(
            line(flags, data_file=prepared, vocab=None, save_dir=tmp_path / "other"),
            pretrain.Pretrain,
        )[0]
        == 0
    )
    assert same(tmp_path / "run", tmp_path / "other")
    assert (
        run(
            line(flags, cache_dir=tmp_path / "cache", save_dir=tmp_path / "third"),
            pretrain.Pretrain,
        )[0]
        == 0
    )
    assert len(list((tmp_path / "cache").glob("corpus-*"))) == 1
    assert not list((tmp_path / "third").glob("corpus-*"))


@pytest.mark.slow
def test_killed_at_any_moment_and_started_again_gives_the_same_bits(
    flags: dict, sample: Path, tmp_path: Path, words_of: Callable
) -> None:
    flags["train_cfg"].write_text(json.dumps(SETTINGS | {"n_epochs": 3, "save_steps": 4}))
    command = [
        sys.executable,
        "pretrain.py",
        *words_of(line(flags, eval_file=sample / "held_out.txt")),
    ]
    rng, kills = random.Random(1), 0
    for i in range(3):
        process = subprocess.Popen(
            command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 60
        before = {p.name for p in (tmp_path / "run").glob("model_steps_*.pt")}
        while process.poll() is None and time.monotonic() < deadline:
            if {p.name for p in (tmp_path / "run").glob("model_steps_*.pt")} - before or i == 0:
                time.sleep(rng.random() * (2.5 if i == 0 else 0.1))
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills >= 1
    for folder in ("run", "whole"):
        again = [
            *command[:2],
            *words_of(line(flags, eval_file=sample / "held_out.txt", save_dir=tmp_path / folder)),
        ]
        done = subprocess.run(again, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert same(tmp_path / "run", tmp_path / "whole")
    metrics = [(tmp_path / folder / "metrics.jsonl").read_bytes() for folder in ("run", "whole")]
    assert metrics[0] == metrics[1]


@pytest.mark.parametrize("stop", [1, 6, 9])
def test_interrupted_between_epochs_and_started_again_gives_the_same_bits(
    flags: dict,
    sample: Path,
    tmp_path: Path,
    stop: int,
) -> None:
    def start(folder: str) -> train.Trainer:
        run, save_dir = prepare(flags, tmp_path / folder), tmp_path / folder
        model = run.model()
        with run.start.run_lock(save_dir, model, run.settings):
            pass
        batches = run.data.features.batches(run.cfg.batch_size, run.cfg.seed)
        return train.Trainer(run.cfg, model, batches, save_dir, {"config": {}})

    whole = start("whole")
    whole.train(pretraining_task.get_loss)
    calls = iter(range(10**6))

    def interrupted(model: torch.nn.Module, batch: train.Batch) -> tuple[torch.Tensor, dict]:
        if next(calls) == stop:
            raise KeyboardInterrupt
        return pretraining_task.get_loss(model, batch)

    with pytest.raises(KeyboardInterrupt):
        start("broken").train(interrupted)
    again = start("broken")
    again.train(pretraining_task.get_loss)
    assert again.state.step == whole.state.step == whole.batches.first(2)
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            whole.model.state_dict().values(), again.model.state_dict().values(), strict=True
        )
    )
    assert (tmp_path / "whole/metrics.jsonl").read_bytes() == (
        tmp_path / "broken/metrics.jsonl"
    ).read_bytes()


def test_without_next_sentence_prediction_only_words_are_learnt(
    flags: dict, sample: Path, tmp_path: Path, run: Callable
) -> None:
    status, out, _ = run(
        line(flags, next_sentence=False, whole_word_mask=True, eval_file=sample / "held_out.txt"),
        pretrain.Pretrain,
    )
    assert status == 0
    assert "next_sentence_" not in out.replace(str(tmp_path), "")
    logged = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[0])
    assert "loss_clsf" not in logged
    assert logged["loss"] == logged["loss_lm"]
    saved = json.loads((tmp_path / "run/pretrain.json").read_text())
    assert saved == {
        "max_len": 48,
        "max_pred": 8,
        "mask_prob": 0.15,
        "short_seq_prob": 0.1,
        "next_sentence": False,
        "whole_word_mask": True,
    }


def test_weights_from_elsewhere_come_with_all_heads_and_ours_go_on_at_another_length(
    flags: dict, sample: Path, tmp_path: Path, run: Callable
) -> None:
    assert run(line(flags), pretrain.Pretrain)[0] == 0
    assert (
        run(f"convert {tmp_path}/run {tmp_path}/hf", checkpoint.Convert, checkpoint.Inspect)[0] == 0
    )
    more = {"model_cfg": None, "vocab": None}
    status, out, err = run(
        line(flags | more, pretrain_file=tmp_path / "hf", save_dir=tmp_path / "on"),
        pretrain.Pretrain,
    )
    assert status == 0, err
    assert f"Hugging Face weights {tmp_path}/hf/model.safetensors, all heads" in out
    status, out, err = run(
        line(flags | more, model_file=tmp_path / "run", save_dir=tmp_path / "longer", max_len=96),
        pretrain.Pretrain,
    )
    assert status == 0, err
    assert "all heads" in out
    a, b = (
        run(
            f"--mode eval --model_file {tmp_path}/{name} --data_file {sample}/held_out.txt "
            f"--max_len 48 --save_dir {tmp_path}/{name}-eval",
            pretrain.Pretrain,
        )[1].splitlines()
        for name in ("run", "hf")
    )
    assert [x for x in a if " = " in x and "step" not in x] == [
        x for x in b if " = " in x and "step" not in x
    ]


def test_fixed_instances_are_trained_on_through_the_command(
    flags: dict, sample: Path, tmp_path: Path, run: Callable
) -> None:
    write_records(tmp_path / "a.tfrecord", make_arrays())
    flags |= {"data_file": tmp_path / "a.tfrecord", "max_len": 16}
    status, _, err = run(line(flags, eval_file=tmp_path / "a.tfrecord"), pretrain.Pretrain)
    assert status == 0, err
    assert json.loads((tmp_path / "run/eval_results.json").read_text())["global_step"] == 10
    for more, message in (
        ({"mask_prob": 0.2}, "are trained on as they are; leave out --mask_prob"),
        ({"max_len": 32}, "max_len=32, and the instances of .* have 16 tokens; set --max_len 16"),
    ):
        status, _, err = run(line(flags | {"save_dir": tmp_path / "no"}, **more), pretrain.Pretrain)
        assert status == 2
        assert __import__("re").search(message, err.splitlines()[-1])


def test_fixed_instances_evaluate_a_model_whatever_it_was_trained_with(
    flags: dict, sample: Path, tmp_path: Path, run: Callable
) -> None:
    """Their own length and masks hold, and not those that the run records."""
    arrays = make_arrays()
    np.savez(tmp_path / "a.npz", **arrays)
    flags |= {"mask_prob": 0.3, "max_pred": 5}
    status, _, err = run(line(flags, eval_file=tmp_path / "a.npz"), pretrain.Pretrain)
    assert status == 0, err
    trained = json.loads((tmp_path / "run/eval_results.json").read_text())
    asked = {"mode": "eval", "model_file": tmp_path / "run", "data_file": tmp_path / "a.npz"}
    status, _, err = run(line(asked), pretrain.Pretrain)
    assert status == 0, err
    found = json.loads((tmp_path / "run/eval_results.json").read_text())
    assert found == pytest.approx(trained)
    # Every masked slot of the file counts, which no draw of the run's own masks would give.
    share = found["masked_lm_accuracy"] * arrays["masked_lm_weights"].sum()
    assert share == pytest.approx(round(share))
    # Ids and positions beyond the model are told before anything is computed.
    arrays["input_ids"][0, 1] = 4000
    np.savez(tmp_path / "ids.npz", **arrays)
    for more, message in (
        ({"mask_prob": 0.2}, "are trained on as they are; leave out --mask_prob"),
        ({"data_file": tmp_path / "ids.npz"}, "has token ids up to 4000, the model"),
    ):
        status, _, err = run(line(asked | more), pretrain.Pretrain)
        assert status == 2
        assert message in err.splitlines()[-1]
    status, _, err = run(
        line(flags, eval_file=tmp_path / "ids.npz", save_dir=tmp_path / "no"), pretrain.Pretrain
    )
    assert (status, "has token ids up to 4000, the model" in err) == (2, True), err


def test_what_follows_from_a_setting_follows_from_the_one_that_is_given(
    tiny: models.Config, tmp_path: Path
) -> None:
    """Without a pretrain.json beside the weights the number of masked tokens is not recorded."""
    source = pretrained.Pretrained("ours", tmp_path / "model.pt", tiny, {})
    task = pretraining_task.PretrainTask.saved(source, mask_prob=0.5, max_len=48)
    assert (task.max_len, task.max_pred) == (48, 24)
    (tmp_path / "pretrain.json").write_text('{"max_len": 40, "max_pred": 3}')
    assert pretraining_task.PretrainTask.saved(source, mask_prob=0.5).max_pred == 3


def test_a_corpus_smaller_than_a_batch_is_trained_on(
    flags: dict, tmp_path: Path, run: Callable
) -> None:
    (tmp_path / "small.txt").write_text(
        "anna sold the red lamp to boris .\n\nboris bought the map .\n"
    )
    status, _, err = run(line(flags, data_file=tmp_path / "small.txt"), pretrain.Pretrain)
    assert status == 0, err
    assert last(tmp_path / "run").extra["step"] == 2


# ----------------------------------------------------------------------------------------- mistakes


def test_every_mistake_is_one_line_and_nothing_is_left(
    flags: dict, sample: Path, tmp_path: Path, run: Callable
) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "single.txt").write_text("anna sold the red lamp .\nit was red .\n")
    (tmp_path / "binary.txt").write_bytes(b"text\n\0\1")
    (tmp_path / "short_vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nlamp\n")
    prepare_text([sample / "corpus.txt"], tmp_path / "short_vocab.txt", tmp_path / "prepared")
    before = sorted(tmp_path.rglob("*"))
    for more, message in (
        ({"data_file": tmp_path / "none.txt"}, "none.txt does not exist"),
        ({"data_file": tmp_path / "empty.txt"}, "empty.txt holds no text"),
        ({"data_file": tmp_path / "binary.txt"}, "binary.txt, line 2: a zero byte"),
        ({"data_file": tmp_path / "prepared"}, "was prepared with another vocabulary"),
        ({"data_file": tmp_path / "prepared", "vocab": None}, "has 6 tokens, the model"),
        ({"vocab": tmp_path / "short_vocab.txt"}, "has 6 tokens, the model"),
        ({"max_len": 500}, "max_len=500 is more than the 128 positions of the model"),
        ({"mask_prob": 2}, "mask_prob=2.0; expected a share"),
        ({"vocab": None}, "name a vocab.txt with --vocab"),
        ({"model_cfg": None}, "neither --pretrain_file nor --model_cfg"),
        ({"mode": "test"}, "--mode test: expected train or eval"),
        ({"mode": "eval"}, "--mode eval needs --model_file"),
        ({"model_file": "a", "pretrain_file": "b"}, "both name weights"),
        ({"maxpred": 3}, "unknown flag --maxpred (did you mean --max_pred?)"),
        ({"split_sentences": "Ture"}, "expected True (English), False, or a language code"),
        ({"data_file": None}, "no --data_file, which is needed with --max_len, "),
        ({"data_file": f"{sample}/corpus.txt,{tmp_path}/a.npz"}, "a.npz does not exist"),
    ):
        status, _, err = run(line(flags, **more), pretrain.Pretrain)
        lines = [x for x in err.splitlines() if "Preparing" not in x]
        assert status == 2, more
        assert message in lines[-1], lines
    left = [p for p in sorted(tmp_path.rglob("*")) if p not in before and "corpus-" not in str(p)]
    assert [p.name for p in left] in (
        [],
        ["run"],
    )  # a prepared text may stay: it is good for the next try
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    status, _, err = run(line(flags, data_file=tmp_path / "single.txt"), pretrain.Pretrain)
    assert status == 2
    assert "single document" in err
    assert "--next_sentence False" in err
    assert (
        run(line(flags, data_file=tmp_path / "single.txt", next_sentence=False), pretrain.Pretrain)[
            0
        ]
        == 0
    )


NO_TEXT = {  # what is in a file, and what a message calls it
    "page.txt": ("<!DOCTYPE html>\n<p>A lamp.</p>\n", "is HTML"),
    "lamps.xml": ("<?xml version='1.0'?>\n<lamps/>\n", "is XML"),
    "list.txt": ('[{"text": "A lamp."}, {"text": "A map."}]\n', "is a JSON array"),
    "one.txt": ('{"text": "A lamp."}\n', "is a JSON object"),
    "page.txt.gz": (gzip.compress(b"<html>A lamp.</html>\n"), "is HTML"),
    "corpus.txt.xz": (b"\xfd7zXZ\0 and more", "is compressed by xz"),
}


@pytest.mark.parametrize("name", NO_TEXT)
def test_what_is_no_text_is_refused_before_anything_is_written(
    flags: dict, tmp_path: Path, run: Callable, name: str
) -> None:
    content, message = NO_TEXT[name]
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.txt").write_text("A lamp.\nA map.\n\nA tent.\n")
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    before = sorted(tmp_path.rglob("*"))
    prepare_line = f"prepare {folder} --vocab {flags['vocab']} --out {tmp_path}/ids"
    for command_line, *functions in (
        (line(flags, data_file=folder), pretrain.Pretrain),
        # Not even the text to train on, which is fine, is prepared.
        (line(flags, eval_file=folder), pretrain.Pretrain),
        (prepare_line, corpus_command.Prepare, corpus_command.Describe),
        (f"{folder} --out {tmp_path}/learnt.txt --vocab_size 99", tokenization.Learn),
    ):
        status, _, err = run(command_line, *functions)
        assert (status, len(err.strip().splitlines())) == (2, 1), err
        assert f"{folder / name} " in err
        assert message in err
        assert sorted(tmp_path.rglob("*")) == before


def test_training_warns_of_what_describe_warns_of_unless_it_resumes(
    flags: dict, tmp_path: Path, run: Callable
) -> None:
    words = "anna boris lamp map tent red blue sold bought it".split()
    rng = random.Random(0)
    lines = [" ".join(rng.choices(words, k=6)) for _ in range(60)]
    (tmp_path / "lines.txt").write_text("\n\n".join(lines) + "\n")
    given = line(flags, data_file=tmp_path / "lines.txt", n_epochs=1, max_pred=2)
    status, out, err = run(given, pretrain.Pretrain)
    found = [text for text in err.splitlines() if text.startswith("warning: ")]
    assert status == 0
    assert "60 documents, 60 sentences" in out
    (prepared,) = (tmp_path / "run").glob("corpus-*")
    settings = "--max_len 48 --max_pred 2 --batch_size 16"
    described = run(
        f"describe {prepared} {settings}", corpus_command.Prepare, corpus_command.Describe
    )[1]
    expected = [text for text in described.splitlines() if text.startswith("warning: ")]
    # The pairs of another seed give slightly other figures.
    assert [re.sub("[0-9.]+%", "", x) for x in found] == [
        re.sub("[0-9.]+%", "", x) for x in expected
    ]
    assert "most documents are a single sentence" in " ".join(found)
    assert "max_pred=2 masks" in " ".join(found)
    assert "warning" not in run(given, pretrain.Pretrain)[2]


def test_a_folder_of_another_run_is_refused_before_text_is_prepared(
    flags: dict, tmp_path: Path, run: Callable
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/vocab.txt").write_text("x")
    status, _, err = run(line(flags), pretrain.Pretrain)
    assert (status, [p.name for p in (tmp_path / "run").iterdir()]) == (2, ["vocab.txt"])
    assert "holds a model already" in err


# ---------------------------------------------------------------------------------------- real text


@pytest.mark.real
def test_google_s_sample_text_is_learnt_by_heart(real: Path, tmp_path: Path) -> None:
    vocab = real / "vocab/bert-base-uncased/vocab.txt"
    config = json.loads((ROOT / "config/bert_tiny.json").read_text()) | {
        "p_drop_hidden": 0.0,
        "p_drop_attn": 0.0,
    }
    (tmp_path / "model.json").write_text(json.dumps(config))
    settings = {"batch_size": 32, "lr": 3e-3, "total_steps": 1000, "save_steps": 1000}
    (tmp_path / "train.json").write_text(json.dumps(settings))
    pretrain.Pretrain(
        train_cfg=str(tmp_path / "train.json"),
        model_cfg=str(tmp_path / "model.json"),
        fixed_masks=True,
        data_file=str(real / "corpus/sample_text.txt"),
        vocab=str(vocab),
        save_dir=str(tmp_path / "run"),
        max_len=128,
    ).run()
    saved = json.loads((tmp_path / "run/pretrain.json").read_text())
    source = checkpoint.read(tmp_path / "run")
    model = models.PretrainModel(source.config)
    checkpoint.load(model, source)
    corpus = Corpus(next((tmp_path / "run").glob("corpus-*")))
    instances = Pairs(corpus, PairConfig(**saved), seed=42, fixed=True)
    results = evaluate(model, PairBatches(instances, 32))
    assert results["masked_lm_accuracy"] >= 0.98
    assert results["next_sentence_accuracy"] == 1.0


@pytest.mark.real
def test_wikipedia_a_paragraph_a_line_has_the_random_share_of_google_s_own_generator(
    real: Path, tmp_path: Path
) -> None:
    prepare_text(
        [real / "corpus/wikipedia.txt"],
        real / "vocab/bert-base-uncased/vocab.txt",
        tmp_path,
        workers=2,
    )
    pairs = Pairs(Corpus(tmp_path), PairConfig(max_len=128))
    plan = pairs.plan(np.arange(pairs.n_blocks), 0)
    assert plan["order"].mean() == pytest.approx(0.84, abs=0.01)


def test_few_shots_are_logged_while_it_trains_and_change_nothing(
    tmp_path: Path, sample: Path, run: Callable
) -> None:
    settings = {"batch_size": 16, "lr": 1e-3, "total_steps": 6, "save_steps": 100, "log_steps": 2}
    (tmp_path / "train.json").write_text(json.dumps(settings))
    flags = (
        f"--train_cfg {tmp_path}/train.json --model_cfg {sample}/config.json --data_file "
        f"{sample}/corpus.txt --vocab {sample}/vocab.txt --max_len 64 --save_dir "
    )
    judged = (
        f"{flags}{tmp_path}/judged --fewshot_steps 3 --fewshot_task mrpc --fewshot_dir {sample}"
    )
    status, out, err = run(judged, pretrain.Pretrain)
    assert status == 0, err
    assert run(f"{flags}{tmp_path}/plain", pretrain.Pretrain)[0] == 0
    lines = [json.loads(x) for x in (tmp_path / "judged/metrics.jsonl").read_text().splitlines()]
    shots = [x for x in lines if "fewshot_1" in x]
    assert [x["step"] for x in shots] == [3, 6]
    assert all(0 < x["fewshot_25"] < 1 for x in shots)
    assert f"Step 3, few shots: 1: {shots[0]['fewshot_1']:.4f}, " in out
    plain = [json.loads(x) for x in (tmp_path / "plain/metrics.jsonl").read_text().splitlines()]
    assert [x for x in lines if "loss" in x] == plain
    status, _, err = run(f"{flags}{tmp_path}/no --fewshot_steps 3", pretrain.Pretrain)
    assert (status, "expected 1 or more, and --fewshot_task and --fewshot_dir" in err) == (2, True)


# ---------------------------------------------------------------------------- what a run depends on


def test_an_edited_eval_file_is_noticed(
    flags: dict, sample: Path, tmp_path: Path, run: Callable
) -> None:
    held_out = tmp_path / "held_out.txt"
    shutil.copy(sample / "held_out.txt", held_out)
    command = line(flags, eval_file=held_out, total_steps=2)
    assert run(command, pretrain.Pretrain)[0] == 0
    assert run(command, pretrain.Pretrain)[0] == 0  # the same again
    held_out.write_text(held_out.read_text().replace("\n", "\n\n", 1))
    status, _, err = run(command, pretrain.Pretrain)
    assert (status, "sha256 of eval_file was '" in err) == (2, True)
    # A run of an earlier version has not recorded it, and goes on.
    settings = json.loads((tmp_path / "run/run.json").read_text())
    del settings["sha256 of eval_file"], settings["sha256 of few shots"]
    (tmp_path / "run/run.json").write_text(json.dumps(settings))
    assert run(command, pretrain.Pretrain)[0] == 0


def test_flags_that_could_do_nothing_are_refused(flags: dict, sample: Path, run: Callable) -> None:
    for more, message in (
        ({"patience": 2}, "patience and stop_metric are about evaluation; name an --eval_file"),
        (
            {"eval_file": sample / "held_out.txt", "stop_metric": "Accuracy"},
            "expected one of masked_lm_accuracy",
        ),
        ({"n_epochs": 3, "total_steps": 5}, "n_epochs and total_steps both say how long to train"),
    ):
        status, _, err = run(line(flags, **more), pretrain.Pretrain)
        assert (status, message in err) == (2, True), err


def test_n_epochs_on_the_command_line_goes_before_total_steps_in_the_file(
    flags: dict, sample: Path, tmp_path: Path, run: Callable
) -> None:
    (tmp_path / "train.json").write_text(json.dumps(SETTINGS | {"total_steps": 1_000_000}))
    status, out, _ = run(line(flags, n_epochs=1), pretrain.Pretrain)
    assert (status, out.count("Epoch 1/1"), out.count("Epoch")) == (0, 1, 1)


def test_what_a_notebook_shows_of_a_run_is_a_line(
    flags: dict, sample: Path, tmp_path: Path
) -> None:
    run = prepare(flags, tmp_path / "run")
    assert repr(run).count("\n") == 0
    assert len(repr(run)) < 500

"""Fine-tuning as a user does it: own data, predictions, early stop, a frozen encoder, several
seeds, what went wrong.
"""

import csv
import dataclasses
import json
import math
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import checkpoint
import finetune
import models
import pretrained
import train
from classify import Classify
from formats.weights import checkpoints_in, write_pt
from system.files import read_json, write_json
from tasks import TASKS, SentenceTask, own_task, pictures
from tasks.encoding import Batches
from tokenization import FullTokenizer

ROOT = Path(__file__).resolve().parent.parent
GOOD, BAD = "good fine great".split(), "bad poor awful".split()
WORDS = "the a film book was is and very it".split()


@pytest.fixture(scope="module")
def shape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small vocabulary and model shape, and texts with labels to learn."""
    folder = tmp_path_factory.mktemp("own")
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *GOOD, *BAD]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    model = models.Config(
        vocab_size=len(tokens),
        dim=32,
        n_layers=2,
        n_heads=2,
        dim_ff=64,
        p_drop_hidden=0.05,
        p_drop_attn=0.0,
        max_len=64,
        init_std=0.2,
    )
    (folder / "model.json").write_text(json.dumps(vars(model)))
    settings = {"batch_size": 8, "n_epochs": 4, "lr": 3e-3, "save_steps": 1000}
    (folder / "train.json").write_text(json.dumps(settings))
    rng = random.Random(5)
    for name, n in (("train", 400), ("dev", 60)):
        rows = []
        for _ in range(n):
            label = rng.choice(("pos", "neg"))
            words = [rng.choice(WORDS) for _ in range(rng.randint(2, 12))] + [
                rng.choice(GOOD if label == "pos" else BAD)
            ]
            rng.shuffle(words)
            rows.append((" ".join(words), label))
        with open(folder / f"{name}.csv", "w", newline="") as f:
            csv.writer(f).writerows(rows)
        with open(folder / f"{name}.jsonl", "w") as f:
            for text, label in rows:
                n_words, score = len(text.split()), float(label == "pos") * 2 - 1
                both = [label, "long"] if n_words > 7 else [label]
                f.write(json.dumps({"id": 1, "body": text, "tags": both, "score": score}) + "\n")
    return folder


def flags(shape: Path, save_dir: Path, **more: object) -> str:
    """Command-line flags for training on the small data."""
    given = {
        "task": "csv",
        "data_file": shape / "train.csv",
        "model_cfg": shape / "model.json",
        "vocab": shape / "vocab.txt",
        "train_cfg": shape / "train.json",
        "save_dir": save_dir,
        "max_len": 32,
        **more,
    }
    return " ".join(f"--{name} {value}" for name, value in given.items() if value is not None)


CSV = dataclasses.replace(TASKS["csv"], max_len=32)


def prepared(
    shape: Path,
    task: SentenceTask = CSV,
    tuning: finetune.FineTuneConfig | None = None,
    model_cfg: Path | None = None,
    form: str = "csv",
    **settings: object,
) -> finetune.Run:
    """A run on the small data, evaluated after every epoch."""
    cfg = train.Config.from_json(shape / "train.json", **settings)
    model_cfg = model_cfg or shape / "model.json"
    start = pretrained.find(None, str(model_cfg), str(shape / "vocab.txt"))
    files = [shape / f"dev.{form}"]
    return finetune.prepare(task, shape / f"train.{form}", start, files, cfg, tuning)


@pytest.fixture(scope="module")
def trained(shape: Path, tmp_path_factory: pytest.TempPathFactory) -> finetune.Result:
    """A small model that has learnt the small data."""
    return prepared(shape).fit(tmp_path_factory.mktemp("trained") / "run")


# ----------------------------------------------------------------------------------- one's own data


def test_a_headerless_csv_trains_evaluates_and_predicts(
    shape: Path, tmp_path: Path, run: Callable
) -> None:
    status, out, _ = run(flags(shape, tmp_path / "run", eval_file=shape / "dev.csv"), Classify)
    assert status == 0
    epochs = re.findall(
        r"^Epoch (\d)/4 : Average Loss [\d.]+\n"
        r"dev\.csv: Macro-F1 [\d.]+, Accuracy ([\d.]+), loss ([\d.]+)$",
        out,
        re.MULTILINE,
    )
    assert [int(n) for n, _, _ in epochs] == [1, 2, 3, 4]
    best = max(float(a) for _, a, _ in epochs)
    assert best > 0.9
    assert re.search(
        rf"^Best: Macro-F1 {best:.4f}, {tmp_path}/run/model_steps_\d+\.pt$", out, re.MULTILINE
    )
    assert json.loads((tmp_path / "run/task.json").read_text()) == {
        "task": "csv",
        "metrics": ["Macro-F1", "Accuracy"],
        "labels": ["neg", "pos"],
        "max_len": 32,
    }

    model = f"--model_file {tmp_path}/run --data_file {shape}/dev.csv"
    status, out, _ = run(f"--mode eval {model}", Classify)
    accuracy = float(re.search(r"^Accuracy: ([\d.]+)$", out, re.MULTILINE)[1])
    assert f"{accuracy:.4f}" == f"{best:.4f}"
    report = read_json(tmp_path / "run/eval/dev.json")
    labels = [row[1] for row in csv.reader(open(shape / "dev.csv", newline=""))]
    assert report["Accuracy"] == accuracy
    assert [sum(row) for row in report["confusion"]] == [labels.count("neg"), labels.count("pos")]
    assert sum(report["confusion"][i][i] for i in (0, 1)) / len(labels) == accuracy
    status, out, _err = run(f"--mode predict {model}", Classify)
    rows = [line.split("\t") for line in out.splitlines()]
    assert rows.pop(0) == ["index", "prediction", "neg", "pos"]
    assert [int(row[0]) for row in rows] == list(range(60))
    assert np.mean([row[1] == label for row, label in zip(rows, labels, strict=True)]) == accuracy
    for _, prediction, neg, pos in rows:
        assert float(neg) + float(pos) == pytest.approx(1, abs=2e-6)
        assert prediction == ("pos" if float(pos) > float(neg) else "neg")


def test_json_lines_with_several_labels_a_text(shape: Path, tmp_path: Path, run: Callable) -> None:
    status, out, err = run(
        flags(
            shape,
            tmp_path / "run",
            task="jsonl",
            data_file=shape / "train.jsonl",
            text_a="body",
            label="tags",
            separator="+",
            eval_file=shape / "dev.jsonl",
            n_epochs=12,
        ),
        Classify,
    )
    assert status == 0, err
    assert read_json(tmp_path / "run/task.json") == {
        "task": "jsonl",
        "text_a": "body",
        "label": "tags",
        "metrics": ["F1", "Accuracy"],
        "separator": "+",
        "labels": ["long", "neg", "pos"],
        "max_len": 32,
    }
    # The best epoch need not be the last one.
    f1 = max(map(float, re.findall(r"dev.jsonl: F1 ([\d.]+), Accuracy [\d.]+, loss", out)))
    assert f1 > 0.9
    status, out, _ = run(
        f"--mode predict --model_file {tmp_path}/run --data_file {shape}/dev.jsonl",
        Classify,
    )
    rows = [line.split("\t") for line in out.splitlines()]
    assert rows.pop(0) == ["index", "prediction", "long", "neg", "pos"]
    for _, prediction, *chances in rows:
        assert prediction == "+".join(
            n for n, p in zip(("long", "neg", "pos"), chances, strict=True) if float(p) > 0.5
        )
    status, out, _ = run(
        f"--mode eval --model_file {tmp_path}/run --data_file {shape}/dev.jsonl", Classify
    )
    assert float(re.search(r"^F1: ([\d.]+)", out, re.MULTILINE)[1]) == pytest.approx(f1, abs=5.1e-5)


def test_a_number_is_learnt_by_squared_error(shape: Path, tmp_path: Path, run: Callable) -> None:
    status, out, err = run(
        flags(
            shape,
            tmp_path / "run",
            task="jsonl",
            data_file=shape / "train.jsonl",
            text_a="body",
            label="score",
            labels="number",
            eval_file=shape / "dev.jsonl",
            n_epochs=16,
        ),
        Classify,
    )
    assert status == 0, err
    checks = re.findall(r"dev.jsonl: Pearson ([\d.]+), Spearman ([\d.]+), loss ([\d.]+)", out)
    # The best epoch need not be the last one, and several may show the same figure.
    best = max(float(pearson) for pearson, _, _ in checks)
    assert best > 0.9
    status, out, _ = run(
        f"--mode predict --model_file {tmp_path}/run --data_file {shape}/dev.jsonl",
        Classify,
    )
    rows = [line.split("\t") for line in out.splitlines()]
    assert rows.pop(0) == ["index", "prediction"]
    wanted = [json.loads(line)["score"] for line in open(shape / "dev.jsonl")]
    errors = [(float(value) - score) ** 2 for (_, value), score in zip(rows, wanted, strict=True)]
    losses = [float(loss) for pearson, _, loss in checks if float(pearson) == best]
    assert min(abs(np.mean(errors) - loss) for loss in losses) < 1e-4
    status, out, _ = run(
        f"--mode eval --model_file {tmp_path}/run --data_file {shape}/dev.jsonl", Classify
    )
    lines = (tmp_path / "run/eval/dev_errors.tsv").read_text().splitlines()
    assert lines[0] == "line\tlabel\tprediction\tdifference\ttext_a\ttext_b"
    worst = [float(line.split("\t")[3]) for line in lines[1:]]
    assert worst == sorted(worst, reverse=True)
    assert worst[0] == pytest.approx(math.sqrt(max(errors)), abs=1e-4)


def test_losses_are_those_of_their_definitions() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(7, 3))

    def loss(task: SentenceTask, labels: np.ndarray) -> float:
        return float(task.loss_of(torch.tensor(scores), torch.tensor(labels)))

    ids = rng.integers(0, 3, 7)
    expected = np.mean([np.log(np.exp(s).sum()) - s[i] for s, i in zip(scores, ids, strict=True)])
    assert loss(TASKS["mnli"], ids) == pytest.approx(expected, rel=1e-12)
    many = rng.integers(0, 2, (7, 3)).astype(np.float64)
    p = 1 / (1 + np.exp(-scores))
    expected = -np.mean(many * np.log(p) + (1 - many) * np.log(1 - p))
    several = own_task(TASKS["csv"], labels="a,b,c", separator=";")
    assert loss(several, many) == pytest.approx(expected, rel=1e-12)
    numbers = rng.normal(size=7)
    expected = np.mean((scores[:, 0] - numbers) ** 2)
    assert loss(TASKS["stsb"], numbers) == pytest.approx(expected, rel=1e-12)


def test_what_the_same_answer_always_scores() -> None:
    task = own_task(TASKS["csv"], labels="a,b,c")
    # F1 of c is 6 / 8, and 0 of the others.
    assert task.majority_baseline(np.array([2, 0, 2, 1, 2])) == 0.25
    accuracy = dataclasses.replace(task, metric_names=("Accuracy",))
    assert accuracy.majority_baseline(np.array([2, 0, 2, 1, 2])) == 0.6
    assert TASKS["cola"].majority_baseline(np.array([1, 0, 1])) == 0
    assert TASKS["stsb"].majority_baseline(np.array([1.0, 0, 3], np.float32)) == 0
    task = own_task(TASKS["csv"], labels="a,b", separator=";")
    labels = np.array([[1, 0], [1, 0], [1, 1]], np.float32)
    assert task.majority_baseline(labels) == pytest.approx(6 / 7)


# -------------------------------------------------------------------------------------- predictions


def test_predictions_need_no_label_and_come_in_order_from_every_source(
    shape: Path, trained: finetune.Result, tmp_path: Path, run: Callable, words_of: Callable
) -> None:
    model = f"--mode predict --model_file {trained.file}"
    whole = run(f"{model} --data_file {shape}/dev.csv", Classify)[1]
    texts = [row[0] for row in csv.reader(open(shape / "dev.csv", newline=""))]
    (tmp_path / "texts.csv").write_text("\n".join(texts) + "\n")
    assert run(f"{model} --data_file {tmp_path}/texts.csv", Classify)[1] == whole
    (tmp_path / "table.tsv").write_text(
        "".join(f"{i}\t{text}\n" for i, text in enumerate(["text", *texts]))
    )
    assert (
        run(f"{model} --data_file {tmp_path}/table.tsv --text_a 1 --header True", Classify)[1]
        == whole
    )
    assert (
        run(
            f"{model} --data_file {tmp_path}/texts.csv --out {tmp_path}/out/p.tsv",
            Classify,
        )[1]
        == ""
    )
    assert (tmp_path / "out/p.tsv").read_text() == whole
    labels = [line.split("\t")[:2] for line in whole.splitlines()]
    for more, content in (
        ("", "\n".join(texts) + "\n"),
        (" --task csv", (shape / "dev.csv").read_text()),
    ):
        done = subprocess.run(
            [sys.executable, str(ROOT / "classify.py"), *words_of(f"{model} --data_file -{more}")],
            input=content,
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        assert [line.split("\t")[:2] for line in done.stdout.splitlines()] == labels
        chances = [
            [float(x) for x in line.split("\t")[2:]]
            for text in (done.stdout, whole)
            for line in text.splitlines()[1:]
        ]
        assert np.abs(np.array(chances[:60]) - np.array(chances[60:])).max() < 1e-4


def test_a_pipe_is_answered_line_by_line_and_an_error_keeps_what_was_answered(
    trained: finetune.Result, tmp_path: Path
) -> None:
    with subprocess.Popen(
        [
            sys.executable,
            str(ROOT / "classify.py"),
            "--mode",
            "predict",
            "--model_file",
            str(trained.file),
            "--data_file",
            "-",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
    ) as process:
        assert None not in (process.stdin, process.stdout, process.stderr)
        for i, text in enumerate((b"a good film\n", b"it was awful\n", b"\n")):
            process.stdin.write(text)
            process.stdin.flush()
            if i == 0:
                assert process.stdout.readline() == b"index\tprediction\tneg\tpos\n"
            answer = process.stdout.readline().split(b"\t")  # comes while the pipe is still open
            assert answer[0] == str(i).encode()
            if i < 2:
                assert answer[1] == (b"pos", b"neg")[i]
        process.stdin.write(b"\xff\n")
        process.stdin.close()
        assert process.stdout.read() == b""
        assert process.wait() == 2
        assert b"standard input, after line 3: not UTF-8" in process.stderr.read()


@pytest.mark.parametrize(
    ("task", "train_rows", "test_rows", "names"),
    [
        (
            "sst2",
            "sentence\tlabel\ngood film\t1\nbad film\t0\n",
            "index\tsentence\n0\tgood\n1\tbad\n",
            ["SST-2.tsv"],
        ),
        (
            "stsb",
            "sentence1\tsentence2\tscore\ngood\tgood\t5.0\ngood\tbad\t0.5\n",
            "index\tsentence1\tsentence2\n0\tgood\tgood\n1\tgood\tbad\n",
            ["STS-B.tsv"],
        ),
        (
            "mnli",
            "sentence1\tsentence2\tgold_label\ngood\tbad\tneutral\nbad\tbad\tentailment\n",
            "index\tsentence1\tsentence2\n0\tgood\tgood\n1\tgood\tbad\n",
            ["MNLI-m.tsv", "MNLI-mm.tsv"],
        ),
    ],
)
def test_test_files_of_glue_become_what_its_site_takes(
    shape: Path,
    tmp_path: Path,
    run: Callable,
    task: str,
    train_rows: str,
    test_rows: str,
    names: list[str],
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.tsv").write_text(train_rows)
    for name in TASKS[task].dev:
        (data / name).write_text(train_rows)
    for name in TASKS[task].test:
        (data / name).write_text(test_rows)
    status, out, err = run(
        flags(shape, tmp_path / "run", task=task, data_file=None, data_dir=data, total_steps=2),
        Classify,
    )
    assert status == 0, err
    for name in TASKS[task].dev:  # every one is evaluated
        assert f"\n{name}: {TASKS[task].metric_names[0]} " in out
    assert (
        run(
            f"--mode predict --model_file {tmp_path}/run --data_dir {data} --out {tmp_path}/in",
            Classify,
        )[0]
        == 0
    )
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == names
    for name in names:
        lines = [line.split("\t") for line in (tmp_path / "in" / name).read_text().splitlines()]
        assert [line[0] for line in lines] == ["index", "0", "1"]
        assert [len(line) for line in lines] == [2, 2, 2]
        assert lines[0][1] == "prediction"
        assert all(
            math.isfinite(float(x[1])) if task == "stsb" else x[1] in TASKS[task].labels
            for x in lines[1:]
        )
    if task == "mnli":  # the diagnostic set is for its models too
        (data / "diagnostic.tsv").write_text(test_rows)
        assert (
            run(
                f"--task ax --mode predict --model_file {tmp_path}/run --data_dir {data} --out "
                f"{tmp_path}/in",
                Classify,
            )[0]
            == 0
        )
        assert (tmp_path / "in/AX.tsv").read_text() == (tmp_path / "in/MNLI-m.tsv").read_text()
        status, out, _ = run(f"--mode eval --model_file {tmp_path}/run --data_dir {data}", Classify)
        assert re.findall(r"^(dev_\w+\.tsv):\nAccuracy: [\d.]+$", out, re.MULTILINE) == list(
            TASKS[task].dev
        )


# --------------------------------------------------------------------------------- training choices


def test_a_frozen_encoder_keeps_its_bits_and_boost_gives_the_same_model(
    shape: Path, tmp_path: Path
) -> None:
    def fit(
        name: str, boost: bool, seed: int = 1
    ) -> tuple[finetune.Run, finetune.Result, dict[str, torch.Tensor]]:
        tuning = finetune.FineTuneConfig(freeze_encoder=True, boost=boost)
        run = prepared(shape, tuning=tuning, seed=seed, lr=0.05)
        result = run.fit(tmp_path / name)
        return run, result, checkpoint.read(result.file).tensors

    run, slow, plain = fit("plain", False)
    start = run.model().state_dict()
    for name in plain:
        assert torch.equal(plain[name], start[name]) == (not name.startswith("classifier.")), name
    _, fast, boosted = fit("boosted", True)
    for name in plain:
        assert torch.allclose(plain[name], boosted[name], atol=1e-5), name
    assert fast.last == pytest.approx(slow.last, abs=1e-5)
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "pooled").iterdir()}
    assert len(kept) == 2  # of train and dev
    fit("again", True)  # another run: the vectors are there already
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "pooled").iterdir()} == kept
    file = next(iter(kept))
    content = bytearray(file.read_bytes())
    for i, damaged in enumerate(
        (b"cut short", content[:-100], content[:200] + b"altered!" + content[208:])
    ):
        file.write_bytes(damaged)
        assert torch.equal(
            fit(f"third{i}", True)[2]["classifier.weight"], boosted["classifier.weight"]
        )
        assert file.read_bytes() == content  # noticed by its digest, and made again
    assert repr(run).count("\n") == 0
    assert len(repr(run)) < 500
    fit("other", True, seed=2)  # another encoder: other vectors
    assert len(list((tmp_path / "pooled").iterdir())) == 4


def test_top_layers_can_start_anew(shape: Path, trained: finetune.Result) -> None:
    def start(layers: int) -> dict[str, torch.Tensor]:
        tuning = finetune.FineTuneConfig(reinit_layers=layers)
        run = finetune.prepare(CSV, shape / "train.csv", trained.file, tuning=tuning)
        return run.model().state_dict()

    old = checkpoint.read(trained.file).tensors
    for layers, fresh in (
        (0, ()),
        (1, ("transformer.blocks.1.", "pooler.")),
        (2, ("transformer.blocks.", "pooler.")),
    ):
        model = start(layers)
        for name in old:
            assert torch.equal(model[name], old[name]) == (not name.startswith(fresh or "none")), (
                name
            )
    assert torch.equal(model["transformer.blocks.0.norm1.weight"], torch.ones(32))
    assert model["transformer.blocks.0.feed_forward.fc1.weight"].std() == pytest.approx(
        0.176, rel=0.05
    )  # .2, cut at two


def test_training_stops_when_patience_ends_and_keeps_the_best(
    shape: Path, tmp_path: Path, run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = [0.9, 0.5, 0.6, 0.5, 0.7, 0.1]

    def metrics(*_: object) -> dict[str, float]:
        return {"Macro-F1": 0.5, "Accuracy": 0.5, "loss": losses[calls.pop(0) if calls else -1]}

    monkeypatch.setattr(SentenceTask, "metrics", metrics)
    (tmp_path / "six.json").write_text(
        json.dumps(read_json(shape / "train.json") | {"n_epochs": 6})
    )
    line = flags(
        shape,
        tmp_path / "run",
        train_cfg=tmp_path / "six.json",
        eval_file=shape / "dev.csv",
        patience=3,
        stop_metric="loss",
        keep_checkpoints=1,
    )
    calls = list(range(6))
    status, out, _ = run(line, Classify)
    assert status == 0
    assert out.count("Epoch") == 5
    assert "Stopped: 3 checks without a better loss\n" in out
    best = tmp_path / "run/model_steps_100.pt"  # 50 batches an epoch
    assert f"Best: loss 0.5000, {best}\n" in out
    assert checkpoints_in(tmp_path / "run") == [best, tmp_path / "run/model_steps_250.pt"]
    status, out, _ = run(line, Classify)  # the same command has nothing left to do
    assert (status, out.count("Epoch")) == (0, 0)
    assert "stopped after 3 checks without a better loss" in out
    assert f"Best: loss 0.5000, {best}\n" in out
    calls = list(range(6))  # interrupted in between, and gone on with: the same end
    with monkeypatch.context() as patch:
        # A run that ends at step 150 would leave no optimizer in its best checkpoint.
        patch.setattr("training.checkpoints.drop_optimizer", lambda file: None)
        run(line.replace("/run", "/broken") + " --total_steps 150", Classify)
    (tmp_path / "broken/model_steps_150.pt").unlink()
    settings = tmp_path / "broken/run.json"
    settings.write_text(settings.read_text().replace('"total_steps": 150', '"total_steps": null'))
    calls = list(range(2, 6))
    status, out, _ = run(line.replace("/run", "/broken"), Classify)
    assert "Resuming from" in out
    assert f"Best: loss 0.5000, {tmp_path}/broken/model_steps_100.pt\n" in out
    assert out.count("Epoch") == 3


def test_the_best_checkpoint_is_the_one_evaluation_says(shape: Path, tmp_path: Path) -> None:
    result = prepared(shape).fit(tmp_path / "run")
    saved = finetune.load(result.best_file)
    assert saved.evaluate(shape / "dev.csv") == pytest.approx(result.best, abs=1e-6)
    checks = [
        json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    ]
    checks = [line for line in checks if "eval_loss" in line]
    assert [line["step"] for line in checks] == [50, 100, 150, 200]
    assert result.best["Macro-F1"] == max(line["eval_Macro-F1"] for line in checks)
    names = ("Macro-F1", "Accuracy", "loss")
    assert result.last == {name: checks[-1][f"eval_{name}"] for name in names}


def test_several_seeds_are_compared_and_runs_that_failed_to_learn_counted(
    shape: Path, tmp_path: Path, run: Callable
) -> None:
    line = flags(shape, tmp_path / "run", eval_file=shape / "dev.csv", seeds=3, n_epochs=1)
    status, out, err = run(line, Classify)
    assert status == 0, err
    results = read_json(tmp_path / "run/results.json")
    values = [r["last"]["Macro-F1"] for r in results["runs"]]
    assert [r["seed"] for r in results["runs"]] == [42, 43, 44]
    assert len(set(values)) > 1
    assert results["mean"]["Macro-F1"] == pytest.approx(np.mean(values))
    assert results["spread"]["Macro-F1"] == pytest.approx(np.std(values, ddof=1))
    assert results["best"]["best"]["Macro-F1"] == max(
        r["best"]["Macro-F1"] for r in results["runs"]
    )
    labels = [row[1] for row in csv.reader(open(shape / "dev.csv", newline=""))]
    most = max(labels.count("pos"), labels.count("neg"))
    # Its F1 is 2 most / (60 + most), that of the other label 0.
    assert results["always the same answer"] == pytest.approx(most / (60 + most))
    table = [line.split() for line in out[out.index("\nseed ") + 1 :].splitlines()]
    assert [row[0] for row in table[1:6]] == ["42", "43", "44", "mean", "spread"]
    assert [float(row[1]) for row in table[1:4]] == [round(value, 4) for value in values]
    failed = [
        r["seed"]
        for r in results["runs"]
        if r["best"]["Macro-F1"] <= results["always the same answer"]
    ]
    assert results["failed"] == failed
    assert f"Failed to learn: {len(failed)} of 3 runs" in out
    for seed in (42, 43, 44):  # each is a run of its own
        assert checkpoints_in(tmp_path / f"run/seed-{seed}")
    # The best of them is what is named at the end, and what their folder stands for.
    best = Path(results["best"]["best_file"])
    seed = results["best"]["seed"]
    assert best.parent == tmp_path / f"run/seed-{seed}"
    assert f", seed {seed}, {best}\n" in out
    next_commands = out[out.index("\nEvaluate it: ") :]
    assert (
        next_commands.count(f"{tmp_path}/run/seed-") == 3 == next_commands.count(f"{best.parent}")
    )
    status, out, _ = run(line, Classify)  # all is there already
    assert (status, out.count("Epoch"), read_json(tmp_path / "run/results.json")) == (0, 0, results)
    # The folder may be moved; results.json decides.
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    for chosen in [results["best"], *results["runs"]]:
        write_json(moved / "results.json", {**results, "best": chosen})
        line = f"--mode eval --model_file {moved} --data_file {shape}/dev.csv --out {tmp_path}/eval"
        status, out, err = run(line, Classify)
        file = moved / f"seed-{chosen['seed']}" / Path(chosen["best_file"]).name
        assert (status, out.split(" (")[0]) == (0, f"pytorchic-bert checkpoint {file}")
        said = f"{moved} holds the runs of several seeds; the best is {file.parent}\n"
        assert err.startswith(said)
    (moved / "results.json").unlink()
    status, _, err = run(line, Classify)
    assert (status, f"they have not ended; name one, such as {moved}/seed-42" in err) == (2, True)
    line = flags(shape, tmp_path / "lame", eval_file=shape / "dev.csv", seeds=2, lr=0.0)
    status, out, _ = run(line, Classify)
    values = [r["best"]["Macro-F1"] for r in read_json(tmp_path / "lame/results.json")["runs"]]
    assert (
        f"Failed to learn: {sum(v <= results['always the same answer'] for v in values)} of 2 runs"
        in out
    )


@pytest.mark.parametrize("labels", ["ids", "numbers", "several"])
def test_accumulation_gives_the_same_parameters_and_loses_no_partial_group(
    shape: Path, tmp_path: Path, labels: str
) -> None:
    more = {
        "ids": {"label": "score", "labels": "-1.0,1.0"},
        "numbers": {"label": "score", "labels": "number"},
        "several": {"label": "tags", "separator": "+"},
    }[labels]
    model = json.loads((shape / "model.json").read_text()) | {
        "p_drop_hidden": 0.0,
        "p_drop_attn": 0.0,
    }
    (tmp_path / "model.json").write_text(json.dumps(model))
    found = []
    for parts in (1, 2, 4):  # 400 rows in batches of 22: the last has 4
        run = prepared(
            shape,
            dataclasses.replace(own_task(TASKS["jsonl"], "body", **more), max_len=32),
            model_cfg=tmp_path / "model.json",
            form="jsonl",
            batch_size=22,
            gradient_accumulation=parts,
            n_epochs=1,
        )
        result = run.fit(tmp_path / str(parts))
        assert result.file.name == "model_steps_19.pt"
        found.append(checkpoint.read(result.file).tensors)
    for other in found[1:]:
        for name, expected in found[0].items():
            assert torch.allclose(other[name], expected, rtol=1e-4, atol=2e-5), name


# ------------------------------------------------------------------ TFRecords, long texts, pictures


@pytest.fixture(scope="module")
def records(shape: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small data as the official code's TFRecords, and the JSON beside them."""
    tf = pytest.importorskip("tensorflow")
    folder = tmp_path_factory.mktemp("records")
    task = dataclasses.replace(own_task(TASKS["csv"], labels="neg,pos"), max_len=24)
    tokenizer = FullTokenizer(shape / "vocab.txt")
    for split in ("train", "dev"):
        features = task.load(shape / f"{split}.csv", tokenizer).features
        batches = Batches(features, 1, seed=0)
        rows = {int(batches.rows(n)[0]): batches[n] for n in range(len(features))}
        with tf.io.TFRecordWriter(str(folder / f"{split}.tf_record")) as writer:
            for i in [*range(len(features)), None]:
                ids, segments, mask, label = (t[0].tolist() for t in rows[i or 0][:4])
                values = {"input_ids": ids, "input_mask": mask, "segment_ids": segments}
                values = {name: v + [0] * (24 - len(v)) for name, v in values.items()}
                # The last one fills up a batch.
                values |= {"label_ids": [label], "is_real_example": [int(i is not None)]}
                feature = {
                    name: tf.train.Feature(int64_list=tf.train.Int64List(value=v))
                    for name, v in values.items()
                }
                example = tf.train.Example(features=tf.train.Features(feature=feature))
                writer.write(example.SerializeToString())
    (folder / "meta.json").write_text(
        json.dumps(
            {
                "processor_type": "IMDB",
                "train_data_size": 400,
                "eval_data_size": 60,
                "max_seq_length": 24,
                "task_type": "bert_classification",
                "num_labels": 2,
            }
        )
    )
    return folder


def test_the_official_code_s_records_train_as_their_table_does(
    shape: Path, records: Path, tmp_path: Path, run: Callable
) -> None:
    table = flags(
        shape,
        tmp_path / "table",
        max_len=24,
        eval_file=shape / "dev.csv",
        n_epochs=1,
        labels="neg,pos",
    )
    assert run(table, Classify)[0] == 0
    line = flags(
        shape,
        tmp_path / "run",
        task=None,
        max_len=None,
        data_file=records / "train.tf_record",
        n_epochs=1,
        eval_file=records / "dev.tf_record",
        meta_data_file=records / "meta.json",
    )
    status, _out, err = run(line, Classify)
    assert status == 0, err
    files = [tmp_path / f"{name}/model_steps_50.pt" for name in ("table", "run")]
    a, b = (checkpoint.read(file).tensors for file in files)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert (tmp_path / "table/metrics.jsonl").read_text() == (
        tmp_path / "run/metrics.jsonl"
    ).read_text()
    model = f"--model_file {tmp_path}/run"
    assert run(f"--mode eval {model} --data_file {records}/dev.tf_record", Classify)[0] == 0
    rows = []
    for m, f in (
        (model, records / "dev.tf_record"),
        (f"--model_file {tmp_path}/table", shape / "dev.csv"),
    ):
        out = run(f"--mode predict {m} --data_file {f}", Classify)[1]
        rows.append([line.split("\t") for line in out.splitlines()[1:]])
    names = {"0": "neg", "1": "pos"}
    assert [[i, names[answer], *chances] for i, answer, *chances in rows[0]] == rows[1]
    status, _, err = run(line.replace("train.csv", "") + " --max_len 20", Classify)
    assert (status, "has inputs of 24 tokens; set --max_len 24" in err) == (2, True)


def test_long_texts_are_cut_and_told_or_averaged_over_windows(
    shape: Path, trained: finetune.Result, tmp_path: Path, run: Callable
) -> None:
    line = f"--mode eval --model_file {trained.file} --data_file {shape}/dev.csv --max_len 8 "
    line += f"--out {tmp_path}"
    status, cut, err = run(line, Classify)
    texts = [row[0].split() for row in csv.reader(open(shape / "dev.csv", newline=""))]
    long, lost = sum(len(t) > 6 for t in texts), sum(max(0, len(t) - 6) for t in texts)
    share = lost / (sum(map(len, texts)) + 2 * len(texts))
    assert (
        status,
        f"{long} of 60 rows are longer than max_len=8; {lost} of their tokens are cut off, "
        f"{share:.1%} of all",
    ) == (0, re.search(r"\d+ of 60 rows .* of all", err)[0])
    assert run(line + " --long window", Classify)[1] != cut
    task = finetune.load(trained.file).task
    saved = finetune.load(trained.file, dataclasses.replace(task, max_len=8, long="window"))
    data = saved.load(shape / "dev.csv")
    scores = data.features.of_examples(saved.outputs(data))
    row = max(range(60), key=lambda i: len(texts[i]))
    ids = saved.start.tokenizer.encode(" ".join(texts[row]))
    starts = (
        [round(i * (len(ids) - 6) / 2) for i in range(3)] if len(ids) > 10 else [0, len(ids) - 6]
    )
    parts = [torch.tensor([[2, *ids[i : i + 6], 3]]) for i in starts]
    model = saved.model.cpu().eval()
    with torch.no_grad():
        expected = torch.stack(
            [model(p, torch.zeros_like(p), torch.ones_like(p))[0] for p in parts]
        ).mean(0)
    assert scores[row] == pytest.approx(expected.numpy(), abs=1e-5)


def test_mistakes_are_written_with_the_most_confident_first_and_pictures_drawn(
    shape: Path, trained: finetune.Result, tmp_path: Path, run: Callable
) -> None:
    pytest.importorskip("matplotlib")
    rows = list(csv.reader(open(shape / "dev.csv", newline="")))
    turned = [(text, {"pos": "neg", "neg": "pos"}[label]) for text, label in rows[:20]] + rows[20:]
    with open(tmp_path / "dev.csv", "w", newline="") as f:
        csv.writer(f).writerows(turned)
    line = f"--mode eval --model_file {trained.file} --data_file {tmp_path}/dev.csv "
    line += f"--out {tmp_path}/eval --plots"
    status, out, err = run(line, Classify)
    assert status == 0, err
    assert re.search(
        r"^label \\ predicted +neg +pos\nneg +\d+ +\d+\npos +\d+ +\d+$", out, re.MULTILINE
    )
    mistakes = [
        line.split("\t") for line in (tmp_path / "eval/dev_errors.tsv").read_text().splitlines()[1:]
    ]
    assert len(mistakes) >= 15
    confidence = [float(row[3]) for row in mistakes]
    assert confidence == sorted(confidence, reverse=True)
    for number, label, prediction, said, right, text, _ in mistakes:
        # Of two labels.
        assert float(said) + float(right) == pytest.approx(1, abs=1.1e-4)
        assert [text, label] == list(turned[int(number) - 1])
        assert prediction != label
    for name in ("dev_confusion.png", "learning.png"):
        assert (tmp_path / "eval" / name).read_bytes().startswith(b"\x89PNG")


# ----------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "{train} --boost",
            "--boost encodes every text once, before training; it needs --freeze_encoder True",
        ),
        ("{train} --freeze_encoder --reinit_layers 1", "leave one out"),
        ("{train} --reinit_layers 3", "reinit_layers=3; expected 0 to 2, the layers of the model"),
        ("{train} --seeds 3", "--seeds compares evaluations; name an --eval_file"),
        ("{train} --seeds 0", "--seeds 0: expected at least 1"),
        (
            "{train} --patience 2",
            "patience and stop_metric are about evaluation; name an --eval_file",
        ),
        (
            "{train} --eval_file {own}/dev.csv --stop_metric F2",
            "stop_metric='F2'; expected one of Macro-F1, Accuracy, loss",
        ),
        ("{train} --layer_decay 1.5", "layer_decay=1.5; expected more than 0 and at most 1"),
        ("{train} --head_lr high", "--head_lr high: expected float"),
        ("{train} --lr -1", "lr=-1.0; expected 0 or more"),
        ("{train} --long cut", "--long 'cut': expected truncate, head_tail, window, window_max"),
        ("{train} --out x", "--mode train has no use for --out"),
        (
            "{train} --eval_file {bad}/new.csv",
            "new.csv, line 2: unknown label 'neutral'; the labels of csv are neg, pos",
        ),
        ("{train} --text_a body", "no column 'body'; the columns of its first row are "),
        ("{train} --data_dir {own}", "--data_file and --data_dir are both given"),
        ("--task mrpc --data_dir {bad}/nowhere", "nowhere has no dev.tsv"),
        ("--task sst2 --data_dir {bad} {rest}", "train.tsv does not exist"),
        ("{predict} --data_file {own}/dev.csv --boost", "--mode predict has no use for --boost"),
        ("{predict} --data_dir {own}", "--data_dir is predicted into a folder; name it with --out"),
        (
            "--mode predict --model_file {bare} --data_file {own}/dev.csv",
            "has no classifier; train one first",
        ),
        (
            "--mode predict --model_file {model} --data_file {own}/dev.csv --task stsb",
            "was trained on csv, not on stsb",
        ),
        ("{predict} --data_file {bad}/few.csv", "few.csv, line 3: 1 columns; expected 2"),
        (
            "--mode eval --model_file {model} --data_file {bad}/new.csv",
            "new.csv, line 2: unknown label 'neutral'",
        ),
        (
            "--mode eval --model_file {model} --data_file {bad}/texts.csv",
            "no column 'label' or '1'",
        ),
        (
            "--data_file {own}/train.csv --meta_data_file {bad}/meta.json {rest}",
            "meta.json: num_labels is 3; mrpc has 0, 1",
        ),
    ],
)
def test_a_mistake_ends_in_one_line_and_writes_nothing(
    line: str, message: str, shape: Path, trained: finetune.Result, tmp_path: Path, run: Callable
) -> None:
    bad, bare = tmp_path / "bad", tmp_path / "bare.pt"
    bad.mkdir()
    (bad / "new.csv").write_text("a film,pos\na book,neutral\n")
    (bad / "few.csv").write_text("a film,pos\na book,neg\nalone\n")
    (bad / "texts.csv").write_text("a film\na book\n")
    (bad / "dev.tsv").write_text("sentence\tlabel\na film\t1\n")
    (bad / "meta.json").write_text(json.dumps({"processor_type": "MRPC", "num_labels": 3}))
    found = checkpoint.read(trained.file)
    write_pt(
        bare,
        {
            "config": vars(found.config),
            "model": {
                name: t for name, t in found.tensors.items() if not name.startswith("classifier.")
            },
        },
    )
    before = sorted(tmp_path.rglob("*"))
    words = {
        "train": flags(shape, tmp_path / "run"),
        "predict": f"--mode predict --model_file {trained.file}",
        "own": shape,
        "rest": flags(shape, tmp_path / "run", task=None, data_file=None),
        "bad": bad,
        "model": trained.file,
        "bare": bare,
    }
    status, out, err = run(line.format(**words), Classify)
    assert message in err
    assert (status, len(err.strip().splitlines())) == (2, 1)
    assert "Traceback" not in out + err
    assert sorted(tmp_path.rglob("*")) == before


def test_every_setting_of_training_is_a_flag(shape: Path, tmp_path: Path, run: Callable) -> None:
    status, _, err = run(
        flags(
            shape,
            tmp_path / "run",
            lr=0.001,
            n_epochs=1,
            bias_correction=True,
            layer_decay=0.9,
            head_lr=0.002,
            schedule="linear",
        ),
        Classify,
    )
    assert status == 0, err
    settings = read_json(tmp_path / "run/run.json")
    assert [
        settings[k]
        for k in (
            "lr",
            "n_epochs",
            "bias_correction",
            "layer_decay",
            "head_lr",
            "schedule",
            "batch_size",
        )
    ] == [0.001, 1, True, 0.9, 0.002, "linear", 8]
    status, _, err = run(flags(shape, tmp_path / "run", n_epoch=1), Classify)
    assert (status, "unknown flag --n_epoch (did you mean --n_epochs?)" in err) == (2, True)


@pytest.mark.real
def test_every_small_task_of_glue_trains_evaluates_and_predicts_from_its_folder(
    real: Path, tmp_path: Path, run: Callable
) -> None:
    """A few steps of each with its own configuration: the columns, metrics and files of the real
    data fit.
    """
    for folder, metric in (
        ("CoLA", "Matthews"),
        ("SST-2", "Accuracy"),
        ("MRPC", "Accuracy"),
        ("STS-B", "Pearson"),
        ("RTE", "Accuracy"),
        ("WNLI", "Accuracy"),
        ("QQP", "Accuracy"),
    ):
        data = tmp_path / folder  # the first rows of each file, so that this takes seconds
        data.mkdir()
        for file in (real / "glue" / folder).glob("*.tsv"):
            lines = file.read_text(encoding="utf-8").split("\n")
            (data / file.name).write_text("\n".join(lines[:80]) + "\n", encoding="utf-8")
        status, out, err = run(
            f"--task {folder} --data_dir {data} --pretrain_file {real}/minilm --save_dir "
            f"{tmp_path}/run-{folder} --n_epochs 1",
            Classify,
        )
        assert status == 0, err
        assert f"dev.tsv: {metric} " in out
        if (data / "test.tsv").is_file():
            status, out, err = run(
                f"--mode predict --model_file {tmp_path}/run-{folder} --data_dir {data} --out "
                f"{tmp_path}/in",
                Classify,
            )
            assert status == 0, err
            task = TASKS[folder.lower().replace("-", "")]
            lines = (tmp_path / "in" / task.submission[0]).read_text().splitlines()
            assert [line.split("\t")[0] for line in lines] == ["index", *map(str, range(79))]


def test_a_picture_of_one_evaluation_shows_its_point(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    lines = [
        {"step": 5, "epoch": 1.0, "lr": 0.1, "loss": 0.5},
        {"step": 5, "epoch": 1.0, "eval_F1": 0.7, "eval_loss": 0.6},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    figure = pictures.learning(tmp_path / "metrics.jsonl")
    drawn = {
        line.get_label(): line.get_marker() for axes in figure.axes for line in axes.get_lines()
    }
    assert set(drawn) == {"training", "loss on dev", "F1"}
    assert "None" not in drawn.values()


def test_a_header_in_other_capitals_trains_and_the_columns_belong_to_the_model(
    shape: Path, tmp_path: Path, run: Callable
) -> None:
    content = (shape / "train.csv").read_text()
    (tmp_path / "train.csv").write_text("Text,Label\n" + content)
    (tmp_path / "other.csv").write_text("review,sentiment\n" + content)
    line = flags(shape, tmp_path / "run", data_file=tmp_path / "train.csv", n_epochs=1)
    status, out, err = run(line, Classify)
    assert status == 0, err
    assert re.search(
        r"train\.csv: \d+ rows; text: 'Text'; label: 'Label' \(neg \d+, pos \d+\)", out
    )
    assert read_json(tmp_path / "run/task.json")["text_a"] == "Text"
    status, out, err = run(
        f"--mode predict --model_file {tmp_path}/run --data_file {tmp_path}/other.csv",
        Classify,
    )
    assert (
        status,
        out,
        "no column 'Text'; the columns of its first row are review, sentiment" in err,
    ) == (2, "", True)
    status, _, err = run(flags(shape, tmp_path / "new", data_file=tmp_path / "other.csv"), Classify)
    assert (status, "is its first row a header?" in err) == (2, True)
    assert not (tmp_path / "new").exists()

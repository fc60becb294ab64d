"""Data of one's own, from a messy file to a model that can be trusted and a table of answers."""

import collections
import csv
import dataclasses
import io
import json
import random
import re
import shlex
import statistics
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics

import checkpoint
import finetune
import models
import train
from classify import Classify
from pretrained import Pretrained, find
from system.files import read_json, write_json
from system.flags import parse
from tasks import TASKS
from utils import UserError

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
        label = WORTH.get(kind, "other")
        price = {"praise": 9, "other": 6, "complaint": 1}[label] + len(words) / 10
        rows.append((f"c{n % 40}", " ".join(words), label, price))
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


@pytest.fixture(scope="module")
def model(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained run, and the files that it was trained and evaluated on."""
    folder = tmp_path_factory.mktemp("model")
    trained(small, folder)
    return folder


READ = {
    "csv": lambda file: pd.read_csv(file, float_precision="round_trip", keep_default_na=False),
    "jsonl": lambda file: pd.read_json(file, lines=True, precise_float=True),
    "parquet": pd.read_parquet,
}


@pytest.mark.parametrize("form", READ)
def test_a_table_of_answers_is_what_python_gets(model: Path, tmp_path: Path, form: str) -> None:
    new, out = tmp_path / "new.csv", tmp_path / f"answers.{form}"
    texts = ["a good film", '=good "film",\nbad', "", "it was very awful"]
    pd.DataFrame({"id": [3, 1, 2, 7], "text": texts, "note": ["x", "-y", "@z", ""]}).to_csv(
        new, index=False
    )
    line = f"--mode predict --model_file {model}/run --data_file {new} --out {out}"
    parse_and_run(f"{line} --keep id,note")
    found, saved = READ[form](out), finetune.load(model / "run")
    assert saved.labels == ("complaint", "other", "praise")
    expected = saved.predict(texts)
    assert list(found) == ["id", "note", "answer", "confidence", *saved.labels]
    assert found.id.astype(int).to_list() == [3, 1, 2, 7]
    assert found.note.to_list() == ["x", "-y", "@z", ""]
    assert found.answer.to_list() == [prediction.answer for prediction in expected]
    assert found.confidence.to_list() == [max(prediction.probabilities) for prediction in expected]
    for name in saved.labels:
        assert found[name].to_list() == [prediction.scores[name] for prediction in expected]
    # A prediction is the pair that it always was.
    _, probabilities = expected[0]
    assert list(expected[0].scores.values()) == probabilities
    parse_and_run(f"{line} --keep all")
    assert list(READ[form](out))[:4] == ["id", "text", "note", "answer"]


def test_a_spreadsheet_computes_no_cell(model: Path, tmp_path: Path) -> None:
    new, out = tmp_path / "new.csv", tmp_path / "answers.csv"
    new.write_bytes(b'text,note\n"=1+1",-x\n"good, ""really""",-5\n"a\rb",fine\n')
    line = f"--mode predict --model_file {model}/run --data_file {new} --out {out} --keep note,text"
    parse_and_run(f"{line} --excel True")
    content = out.read_bytes()
    assert content.startswith(b"\xef\xbb\xbfnote,text,answer,confidence,")
    rows = list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")))
    # A number is no formula, and a line end of any kind stands in quotes.
    assert [row[:2] for row in rows[1:]] == [
        ["'-x", "'=1+1"],
        ["-5", 'good, "really"'],
        ["fine", "a\rb"],
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--keep id --out x.tsv", r"`keep` is for tables: `out` has to end in \.csv, \.jsonl"),
        ("--excel True --out x.jsonl", "`excel` is for a .csv"),
        (
            "--keep idd --out x.csv",
            r"no column 'idd' to keep \(did you mean id\?\); it has id, tex",
        ),
        (
            "--keep all --out x.csv",
            "the column 'answer' would stand in .*x.csv twice; leave it out",
        ),
        ("--threshold auto --out x.csv", "--threshold auto: expected a number"),
    ],
)
def test_a_table_that_cannot_be_written_is_not(
    model: Path, tmp_path: Path, flags: str, message: str
) -> None:
    (tmp_path / "new.csv").write_text("id,text,answer\n1,good,2\n")
    flags = flags.replace("x.", f"{tmp_path}/x.")
    with pytest.raises(UserError, match=message):
        parse_and_run(
            f"--mode predict --model_file {model}/run --data_file {tmp_path}/new.csv {flags}"
        )
    assert [file.name for file in tmp_path.iterdir()] == ["new.csv"]


def line_of(small: Path, folder: Path) -> str:
    line = f"--task csv --data_file {small}/feedback.csv --train_cfg {small}/train.json "
    line += f"--model_cfg {small}/model.json --vocab {small}/vocab.txt --save_dir {folder}"
    return line


def test_one_file_is_enough(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    line = f"{line_of(small, tmp_path / 'run')} --dev_split 0.2 --split_by customer"
    parse_and_run(line)
    out = capsys.readouterr().out
    rows = pd.read_csv(small / "feedback.csv")
    held = pd.read_json(tmp_path / "run/dev.jsonl", lines=True)
    # They are rows of the file, whose labels have their shares, and no customer is on both sides.
    assert (rows.text[held.line - 2].to_numpy() == held.text).all()
    assert (rows.label[held.line - 2].to_numpy() == held.label).all()
    others = rows.drop(held.line - 2)
    assert not set(rows.customer[held.line - 2]) & set(others.customer)
    assert not set(held.text) & set(others.text)
    for label, n in rows.label.value_counts().items():
        # Customers have eight rows each.
        assert abs((held.label == label).sum() - 0.2 * n) < 8
    assert re.search(rf"^Trained on: {len(others)} rows \(complaint \d+, ", out, re.M)
    # Evaluating that file says what training said.
    said = read_json(tmp_path / "run/eval/dev.json")
    parse_and_run(
        f"--mode eval --model_file {tmp_path}/run --data_file {tmp_path}/run/dev.jsonl "
        f"--out {tmp_path}/again"
    )
    again = read_json(tmp_path / "again/dev.json")
    assert again["classes"] == said["classes"]
    # The same command resumes; another share is another run.
    parse_and_run(line)
    with pytest.raises(UserError, match="belongs to another run"):
        parse_and_run(line.replace("0.2", "0.3"))


def test_folds_answer_every_row_by_a_model_that_was_not_trained_on_it(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    parse_and_run(f"{line_of(small, tmp_path / 'run')} --folds 3")
    out = capsys.readouterr().out
    rows, answers = (
        pd.read_csv(small / "feedback.csv"),
        pd.read_csv(tmp_path / "run/out_of_fold.csv"),
    )
    assert (answers.line == rows.index + 2).all()
    assert (answers.label == rows.label).all()
    results = read_json(tmp_path / "run/results.json")
    expected = sklearn.metrics.f1_score(rows.label, answers.answer, average="macro")
    assert results["of all answers"]["Macro-F1"] == pytest.approx(expected, abs=1e-12)
    seen = list[int]()
    for i in (1, 2, 3):
        held = pd.read_json(tmp_path / f"run/fold-{i}/dev.jsonl", lines=True)
        saved = finetune.load(max((tmp_path / f"run/fold-{i}").glob("*.pt")))
        found = [prediction.answer for prediction in saved.predict(list(held.text))]
        assert answers.answer[held.line - 2].to_list() == found
        expected = sklearn.metrics.accuracy_score(held.label, found)
        assert results["folds"][i - 1]["Accuracy"] == pytest.approx(expected)
        seen += held.line.to_list()
    assert sorted(seen) == answers.line.to_list()
    values = [fold["Macro-F1"] for fold in results["folds"]]
    assert results["mean"]["Macro-F1"] == pytest.approx(statistics.mean(values))
    assert results["spread"]["Macro-F1"] == pytest.approx(statistics.stdev(values))
    low, high = results["interval"]
    assert f"95% interval {low:.4f} to {high:.4f}\n" in out
    assert not list((tmp_path / "run").glob("*.pt"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--dev_split 0.1 --folds 5", "--dev_split and --folds are both given; keep one"),
        ("--dev_split 1.5", "dev_split=1.5: expected a share from 0 to 1"),
        ("--dev_split 0.01", "300 rows with .* would have 3 rows, too few to evaluate"),
        ("--folds 1", "--folds 1: expected at least 2"),
        ("--folds 3 --calibrate True", "--folds ends with no single model; leave --calibrate out"),
        ("--split_by customer", "--split_by is for --dev_split or --folds; add one"),
        ("--dev_split 0.1 --split_by client", "no column 'client'"),
        ("--calibrate True", "--calibrate is chosen on data that is not trained on; add --eval_fi"),
        ("--threshold often", "--threshold often: expected a number or auto"),
        ("--labels number --label price --threshold 0.5", "are for labels, not numbers"),
        (
            "--labels number --label price --dev_split 0.2 --threshold auto",
            "--threshold and --calibrate are for labels",
        ),
        ("--dev_split 0.1 --split_by nobody", "name the right one with `split_by`"),
    ],
)
def test_flags_that_contradict_each_other_are_named(
    small: Path, tmp_path: Path, flags: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        parse_and_run(f"{line_of(small, tmp_path / 'run')} {flags}")
    assert not list(tmp_path.iterdir())


def test_what_was_chosen_stays_when_the_same_run_is_started_again(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    trained(small, tmp_path, "--threshold auto --calibrate True")
    chosen = read_json(tmp_path / "run/task.json")
    out = capsys.readouterr().out
    # The report says what is answered, and how well.
    threshold, n, total, accuracy = re.search(
        r"^Answered at a threshold of ([\d.]+): (\d+) of (\d+), Accuracy of these ([\d.]+)$",
        out,
        re.M,
    ).groups()
    dev = pd.read_csv(tmp_path / "dev.csv")
    answers = [a.answer for a in finetune.load(tmp_path / "run").predict(list(dev.text))]
    said = [(a, label) for a, label in zip(answers, dev.label, strict=True) if a]
    assert (int(n), int(total)) == (len(said), len(dev))
    assert float(accuracy) == pytest.approx(sum(a == b for a, b in said) / len(said), abs=1e-4)
    assert float(threshold) == pytest.approx(chosen["thresholds"][0], abs=1e-4)
    trained(small, tmp_path)
    assert read_json(tmp_path / "run/task.json") == chosen


def test_the_best_seed_has_the_least_error(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    line = f"{line_of(small, tmp_path / 'run')} --labels number --label price --metrics MAE "
    parse_and_run(f"{line} --dev_split 0.2 --seeds 3 --total_steps 20")
    results = read_json(tmp_path / "run/results.json")
    errors = {one["seed"]: one["best"]["MAE"] for one in results["runs"]}
    assert results["best"]["seed"] == min(errors, key=lambda seed: errors[seed])
    constant = results["always the same answer"]
    assert results["failed"] == [seed for seed, error in errors.items() if not error < constant]
    assert f"(MAE not below {constant:.4f}, that of one answer)" in capsys.readouterr().out


def test_two_models_are_compared_on_the_same_rows(
    small: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    other = line_of(small, tmp_path / "run").replace(f"{small}/feedback", f"{model}/train")
    parse_and_run(f"{other} --lr 0.0005 --n_epochs 1")
    line = f"--mode eval --model_file {model}/run --data_file {model}/dev.csv --out {tmp_path}/eval"
    capsys.readouterr()
    parse_and_run(f"{line} --compare {tmp_path}/run")
    out, found = capsys.readouterr().out, read_json(tmp_path / "eval/dev.json")["compared"]
    dev = pd.read_csv(model / "dev.csv")
    both = [
        [answer.answer for answer in finetune.load(folder / "run").predict(list(dev.text))]
        for folder in (model, tmp_path)
    ]
    f1 = [sklearn.metrics.f1_score(dev.label, answers, average="macro") for answers in both]
    assert found["difference"] == pytest.approx(f1[0] - f1[1], abs=1e-12)
    right = [np.array(answers) == dev.label.to_numpy() for answers in both]
    assert found["only this right"] == (right[0] & ~right[1]).sum()
    assert f"p = {found['p']:.4g} (McNemar, exact)" in out
    assert {"lr", "n_epochs"} <= set(found["settings that differ"])
    assert re.search(r"^Settings that differ \(here, there\): .*lr 0.003, 0.0005", out, re.M)
    number = f"{line_of(small, tmp_path / 'number')} --labels number --label price --total_steps 1"
    parse_and_run(number)
    with pytest.raises(UserError, match=r"answers a number, and .* complaint, other, praise; comp"):
        parse_and_run(f"{line} --compare {tmp_path}/number")


def test_prices_train_and_are_answered_as_they_are(small: Path, tmp_path: Path) -> None:
    prices = pd.read_csv(small / "feedback.csv")
    # A thousand times as large as what a head of random weights says.
    prices["price"] = 5000 + 400 * prices.price
    prices.to_csv(tmp_path / "prices.csv", index=False)
    line = line_of(small, tmp_path / "run").replace(f"{small}/feedback", f"{tmp_path}/prices")
    parse_and_run(
        f"{line} --labels number --label price --dev_split 0.2 --metrics MAE,Pearson --n_epochs 9"
    )
    settings = read_json(tmp_path / "run/task.json")
    assert settings["mean"] == pytest.approx(prices.price.mean())
    assert settings["spread"] == pytest.approx(prices.price.std(ddof=0))
    found = read_json(tmp_path / "run/eval/dev.json")
    assert found["Pearson"] > 0.8
    assert found["MAE"] < prices.price.std() / 2
    # The best checkpoint is the one with the least error.
    run = [json.loads(row) for row in open(tmp_path / "run/metrics.jsonl")]
    errors = {row["step"]: row["eval_MAE"] for row in run if "eval_MAE" in row}
    best = min(errors, key=lambda step: errors[step])
    assert Path(found["model_file"]).name == f"model_steps_{best}.pt"
    texts = ["a good film", "the film was very bad and it is awful"]
    answers = [float(a.answer) for a in finetune.load(tmp_path / "run").predict(texts)]
    # So do weights that are written for other programs, without our settings.
    checkpoint.convert(str(tmp_path / "run"), str(tmp_path / "hf"))
    converted = finetune.load(tmp_path / "hf")
    assert converted.task.spread == 1
    again = [float(a.answer) for a in converted.predict(texts)]
    assert again == pytest.approx(answers, rel=1e-4)


def test_whole_numbers_are_answered_on_their_scale(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    stars = pd.read_csv(small / "feedback.csv")
    stars["stars"] = (1 + stars.price // 2.5).astype(int)
    stars.to_csv(tmp_path / "stars.csv", index=False)
    line = line_of(small, tmp_path / "run").replace(f"{small}/feedback", f"{tmp_path}/stars")
    parse_and_run(f"{line} --labels 1..5 --label stars --dev_split 0.2 --n_epochs 9")
    saved = finetune.load(tmp_path / "run")
    found = [prediction.answer for prediction in saved.predict(list(stars.text))]
    assert set(found) <= set("12345")
    assert np.abs(stars.stars - np.array(found, int)).mean() < 1
    stars.loc[3, "stars"] = 6
    stars.to_csv(tmp_path / "stars.csv", index=False)
    with pytest.raises(UserError, match=r"line 5: label '6'; expected a number from 1 to 5$"):
        parse_and_run(f"{line} --labels 1..5 --label stars --dev_split 0.3")


def test_calibrated_probabilities_are_those_of_converted_weights(
    small: Path, tmp_path: Path
) -> None:
    trained(small, tmp_path, "--calibrate True")
    checkpoint.convert(str(tmp_path / "run"), str(tmp_path / "hf"))
    texts = ["a good film", "it was very awful"]
    ours, theirs = (finetune.load(tmp_path / name).predict(texts) for name in ("run", "hf"))
    assert finetune.load(tmp_path / "run").task.temperature != 1
    assert finetune.load(tmp_path / "hf").task.temperature == 1
    for a, b in zip(ours, theirs, strict=True):
        assert a.probabilities == pytest.approx(b.probabilities, abs=1e-5)


def test_a_grid_is_a_table_of_runs_that_resume(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = f"{line_of(small, tmp_path / 'run')} --dev_split 0.2 --total_steps 20 --seeds 2 "
    line += "--grid 'lr=1e-6,0.003 batch_size=8,16'"
    parse_and_run(line)
    out, results = capsys.readouterr().out, read_json(tmp_path / "run/results.json")
    found = results["combinations"]
    assert [row["settings"] for row in found] == sorted(
        ({"lr": lr, "batch_size": n} for lr in (1e-6, 0.003) for n in (8, 16)),
        key=lambda s: next(-row["mean"] for row in found if row["settings"] == s),
    )
    for row in found:
        values = []
        for seed, one in zip((42, 43), row["runs"], strict=True):
            settings = read_json(tmp_path / "run" / one["folder"] / "run.json")
            assert settings["seed"] == seed
            assert {name: settings[name] for name in row["settings"]} == row["settings"]
            values.append(one["best"]["Macro-F1"])
        assert row["mean"] == pytest.approx(statistics.mean(values))
        assert row["spread"] == pytest.approx(statistics.stdev(values))
    best = tmp_path / "run" / results["best"]["folder"]
    assert f"The best run: {best}\n" in out
    assert f"--model_file {best} " in out
    # The same line resumes: what is there is not trained again.
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("*.pt")}
    parse_and_run(line)
    assert times == {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("*.pt")}
    capsys.readouterr()
    checkpoint.Runs(str(tmp_path / "run")).run()
    table = [row.split() for row in capsys.readouterr().out.splitlines()]
    assert table[0] == ["run", "task", "best", "date", "batch_size", "lr", "seed"]
    assert len(table) == 9
    assert table[1][:3] == ["lr-0.003_batch_size-16/seed-42", "csv", "Macro-F1"]


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ("lr=1e-5,2e-5 lr=3e-5", "expected each setting once"),
        ("lr", "expected each setting once, as in `lr=1e-5"),
        ("learn=1", "'learn' is no setting of training"),
        ("lr=fast", "--lr fast: expected float"),
        ("batch_size=8,0", "batch_size=0; expected at least 1"),
        ("seed=" + ",".join(map(str, range(10_000))), "are 10000 runs; expected at most 500"),
    ],
)
def test_a_grid_that_cannot_be_meant_is_refused_before_anything_is_trained(
    small: Path, tmp_path: Path, grid: str, message: str
) -> None:
    line = f"{line_of(small, tmp_path / 'run')} --dev_split 0.2 --grid '{grid}'"
    with pytest.raises(UserError, match=message):
        parse_and_run(line)
    assert not list(tmp_path.iterdir())

"""classify.py on SuperGLUE's folders, and evaluating several files with one model."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import checkpoint
import models
from classify import Classify
from system.cli import command
from system.files import read_json
from tasks import reports
from tasks.resolve import resolve
from utils import UserError

WORDS = "anna sold the red lamp to boris".split()


def write(file: Path, *values: dict[str, Any]) -> None:
    file.write_text("".join(json.dumps(value) + "\n" for value in values))


def question(text: str, *labels: int) -> dict[str, Any]:
    answers = [{"text": word} for word in WORDS[: len(labels)]]
    # Test files have no labels.
    for answer, label in zip(answers, labels, strict=True):
        if label >= 0:
            answer["label"] = label
    return {"question": text, "answers": answers}


def passage(*questions: dict[str, Any]) -> dict[str, Any]:
    return {"passage": {"text": " ".join(WORDS), "questions": list(questions)}}


def train(sample: Path, folder: Path, task: str, data: str) -> str:
    """A command that trains two steps on the sample's vocabulary and shape."""
    return (
        f"--task {task} {data} --model_cfg {sample}/config.json --vocab {sample}/vocab.txt "
        f"--train_cfg {sample}/train.json --total_steps 2 --save_dir {folder} --max_len 40"
    )


def test_a_folder_of_multirc_trains_evaluates_and_predicts_a_line_for_each_answer(
    sample: Path, tmp_path: Path, run: Callable
) -> None:
    rows = passage(question("who ?", 1, 0, 0), question("what ?", 0, 1))
    for name in ("train", "val"):
        write(tmp_path / f"{name}.jsonl", rows, rows)
    write(tmp_path / "test.jsonl", passage(question("who ?", -1, -1)), passage(question("x", -1)))
    line = train(sample, tmp_path / "run", "multirc", f"--data_dir {tmp_path}")
    status, out, err = run(line, Classify)
    assert status == 0, err
    assert re.search(r"^val.jsonl: F1a [\d.]+, EM [\d.]+, loss [\d.]+$", out, re.MULTILINE)
    model = f"--model_file {tmp_path}/run --data_dir {tmp_path}"
    status, out, err = run(f"--mode eval {model}", Classify)
    assert status == 0, err
    assert re.search(r"^F1a: [\d.]+\nEM: [\d.]+$", out, re.MULTILINE)
    assert read_json(tmp_path / "run/eval/val.json")["examples"] == 10
    status, out, err = run(f"--mode predict {model} --out {tmp_path}/out", Classify)
    assert status == 0, err
    predicted = [line.split("\t") for line in (tmp_path / "out/test.tsv").read_text().splitlines()]
    assert [row[0] for row in predicted] == ["index", "0", "1", "2"]
    assert all(row[1] in ("0", "1") for row in predicted[1:])


def test_rte_is_trained_on_superglue_s_folder_and_evaluated_on_glue_s(
    sample: Path, tmp_path: Path, run: Callable
) -> None:
    rows = [
        {"premise": "anna sold the lamp", "hypothesis": "red lamp", "label": label}
        for label in ("entailment", "not_entailment")
    ]
    for name in ("train", "val"):
        write(tmp_path / f"{name}.jsonl", *rows)
    line = train(sample, tmp_path / "run", "rte", f"--data_dir {tmp_path}")
    assert run(line, Classify)[0] == 0
    glue = tmp_path / "glue"
    glue.mkdir()
    (glue / "dev.tsv").write_text("index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n")
    status, out, err = run(f"--mode eval --model_file {tmp_path}/run --data_dir {glue}", Classify)
    assert status == 0, err
    assert f"{glue}/dev.tsv: 1 rows" in out


def test_a_model_without_a_task_has_the_max_len_of_the_task_that_is_named(
    tiny: models.Config, tmp_path: Path
) -> None:
    source = checkpoint.Checkpoint("ours", tmp_path / "model.pt", tiny, {})
    lengths = {name: resolve(source, task=name).max_len for name in ("mrpc", "boolq")}
    assert lengths == {"mrpc": 128, "boolq": 256}
    # What is written beside the model goes before it.
    (tmp_path / "task.json").write_text('{"max_len": 64}')
    assert resolve(source, task="boolq").max_len == 64


@pytest.fixture(scope="module")
def xnli(sample: Path, tmp_path_factory: pytest.TempPathFactory, words_of: Callable) -> Path:
    """A folder with a model, and files of three languages without a header."""
    folder = tmp_path_factory.mktemp("xnli")
    labels = ("contradiction", "entailment", "neutral")
    # Whatever the model answers, its accuracies differ.
    for language, n in (("de", 3), ("fr", 4), ("zh", 9)):
        (folder / language).mkdir()
        rows = [f"{' '.join(WORDS[:i])} x\tlamp\t{labels[i // 2 % 3]}\n" for i in range(n)]
        (folder / f"{language}.tsv").write_text("".join(rows))
        (folder / language / "test.tsv").write_text("".join(rows))
    shutil.copy(folder / "de.tsv", folder / "de,fr.tsv")
    task = train(sample, folder / "run", "xnli", f"--data_file {folder}/zh.tsv")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["classify.py", *words_of(task)])
        command(Classify)
    return folder


def test_several_files_are_compared_in_a_table_with_their_mean(xnli: Path, run: Callable) -> None:
    names = ("de.tsv", "fr.tsv", "zh.tsv")
    files = [f"{xnli}/{name}" for name in names]
    model = f"--mode eval --model_file {xnli}/run --out {xnli}/eval --data_file "
    alone = {}
    for name, file in zip(names, files, strict=True):
        out = run(model + file, Classify)[1]
        assert name not in out.replace(file, "")  # one file needs no title
        alone[name] = float(re.search(r"^Accuracy: ([\d.]+)$", out, re.MULTILINE)[1])
    status, out, err = run(model + ",".join(files), Classify)
    assert status == 0, err
    shown = dict(re.findall(r"^(\w+\.tsv):\nAccuracy: ([\d.]+)$", out, re.MULTILINE))
    assert {name: float(value) for name, value in shown.items()} == alone
    mean = sum(alone.values()) / 3
    table = ["file    Accuracy", *(f"{n}    {v:.4f}" for n, v in alone.items())]
    table += [f"mean      {mean:.4f}", f"Saved {xnli}/eval/all_files.json"]
    assert out.splitlines()[-6:] == table
    report = read_json(xnli / "eval/all_files.json")
    assert report["files"] == {name: {"Accuracy": value} for name, value in alone.items()}
    assert report["mean"]["Accuracy"] == pytest.approx(mean)
    assert report["data_files"] == files
    assert read_json(xnli / "eval/fr.json")["examples"] == 4


def test_files_of_the_same_name_are_told_apart_by_their_folders(xnli: Path, run: Callable) -> None:
    files = f"{xnli}/de/test.tsv,{xnli}/fr/test.tsv"
    model = f"--mode eval --model_file {xnli}/run --out {xnli}/folders --data_file "
    status, out, err = run(model + files, Classify)
    assert status == 0, err
    assert "\nfr/test.tsv:\nAccuracy: " in out
    examples = [read_json(xnli / f"folders/{x}_test.json")["examples"] for x in ("de", "fr")]
    assert examples == [3, 4]


def test_a_file_whose_name_has_a_comma_is_one_file(xnli: Path, run: Callable) -> None:
    model = f"--mode eval --model_file {xnli}/run --out {xnli}/comma --data_file "
    status, out, err = run(f"{model}{xnli}/de,fr.tsv", Classify)
    assert status == 0, err
    assert "mean" not in out
    assert read_json(xnli / "comma/de,fr.json")["examples"] == 3
    status, out, err = run(f"{model}{xnli}/de.tsv,nothing.tsv", Classify)
    assert (status, "nothing.tsv does not exist" in err, "Accuracy" in out) == (2, True, False)


def test_short_names_are_the_ends_that_tell_paths_apart() -> None:
    assert reports.short_names(["a/b/dev.tsv"]) == ["dev.tsv"]
    assert reports.short_names(["a/x.tsv", "b/y.tsv"]) == ["x.tsv", "y.tsv"]
    assert reports.short_names(["a/c/x.tsv", "b/c/x.tsv"]) == ["a/c/x.tsv", "b/c/x.tsv"]
    assert reports.short_names(["/x.tsv", "x.txt"]) == ["/x.tsv", "x.txt"]
    for files in (["x.tsv", "x.tsv"], ["x.tsv", "x.txt"], ["./x.tsv", "x.tsv"]):
        with pytest.raises(UserError, match="would have the same names; evaluate each file once"):
            reports.short_names(files)

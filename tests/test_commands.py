"""The commands as a user types them: the main job, and one clear line for every mistake."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import stat
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import checkpoint
from classify import Classify
from examples import sample as world
from system import progress
from system.files import whole_file
from tasks import SentenceTask
from tasks.encoding import Batch
from utils import UserError


@pytest.fixture(scope="module")
def trained(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished, very short run on the sample."""
    folder = tmp_path_factory.mktemp("trained")
    cfg = folder / "train.json"
    cfg.write_text('{"batch_size": 32, "n_epochs": 1, "lr": 1e-4}')
    Classify(
        data_file=str(sample / "train.tsv"),
        model_cfg=str(sample / "config.json"),
        train_cfg=str(cfg),
        vocab=str(sample / "vocab.txt"),
        save_dir=str(folder / "run"),
        max_len=64,
    ).run()
    return folder


def test_the_built_in_sample_is_learnt_and_the_next_step_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(progress, "SECONDS", 0)
    status, out, err = run("--demo True", Classify)
    assert status == 0
    assert re.search(r"^cpu \(\d+ cores?\)$|^cuda \(\d+ GPUs?\)$", out, re.MULTILINE)
    assert re.search(r"^Epoch 3/3 : Average Loss \d\.\d{3}$", out, re.MULTILINE)
    assert re.search(r"^Iter \(loss=[ \d.]+\): 100% 125/125 \[", err, re.MULTILINE)
    majority = float(re.search(r"most frequent label would give an accuracy of ([\d.]+)", out)[1])
    learnt = float(re.search(r"^Accuracy: ([\d.]+)$", out, re.MULTILINE)[1])
    assert learnt > majority + 0.1
    assert re.search(r"^F1: 0\.\d+$", out, re.MULTILINE)
    assert "python classify.py --task csv --data_file train.csv" in out
    assert "python classify.py --mode predict --model_file runs/mine" in out
    # The same command again has nothing left to train.
    assert run("--demo True", Classify)[1].count("Epoch") == 0


def test_the_sample_is_the_same_everywhere(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        world.write(str(tmp_path / folder), 50, 20, 5)
    for file in ("train.tsv", "dev.tsv", "corpus.txt", "held_out.txt", "vocab.txt"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert (
        (tmp_path / "a/train.tsv").read_text().split("\n")[1].startswith(("0\t0\t1\t", "1\t0\t1\t"))
    )
    words = set((tmp_path / "a/vocab.txt").read_text().split())
    assert set((tmp_path / "a/corpus.txt").read_text().split()) - words <= set(world.PEOPLE)


def test_a_saved_model_needs_its_folder_and_nothing_else(
    trained: Path, sample: Path, tmp_path: Path, run: Callable
) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(trained / "run", moved)
    status, out, _ = run(
        f"--mode eval --model_file {moved}/model_steps_7.pt --data_file {sample}/dev.tsv",
        Classify,
    )
    assert status == 0
    long_form = run(
        f"--task mrpc --mode eval --train_cfg {trained}/train.json --model_cfg "
        f"{sample}/config.json --data_file {sample}/dev.tsv --model_file {moved}/model_steps_7.pt "
        f"--vocab {sample}/vocab.txt --max_len 64",
        Classify,
    )
    assert long_form[:2] == (0, out)
    assert json.loads((moved / "task.json").read_text()) == {
        "task": "mrpc",
        "labels": ["0", "1"],
        "max_len": 64,
    }
    assert run(f"--mode eval --model_file {moved} --data_file {sample}/dev.tsv", Classify)[1] == out


def test_training_starts_from_a_hugging_face_folder_without_further_flags(
    trained: Path, sample: Path, tmp_path: Path, run: Callable
) -> None:
    checkpoint.convert(str(trained / "run"), str(tmp_path / "hf"))
    status, out, _ = run(
        f"--data_file {sample}/train.tsv --pretrain_file {tmp_path}/hf --train_cfg "
        f"{trained}/train.json --save_dir {tmp_path}/run --max_len 64",
        Classify,
    )
    assert status == 0
    assert "Hugging Face weights" in out
    # the classifier comes along too, so evaluating the folder itself works as well
    status, out, _ = run(
        f"--task mrpc --mode eval --model_file {tmp_path}/hf --data_file {sample}/dev.tsv "
        "--max_len 64",
        Classify,
    )
    assert status == 0
    assert "Accuracy: " in out


def test_the_labels_of_a_foreign_classifier_are_taken_by_name(
    trained: Path, sample: Path, tmp_path: Path, run: Callable
) -> None:
    checkpoint.convert(str(trained / "run"), str(tmp_path / "hf"))
    line = f"--task mrpc --mode eval --model_file {tmp_path}/hf --data_file {sample}/dev.tsv "
    line += "--max_len 64"
    settings = json.loads((tmp_path / "hf/config.json").read_text())
    assert settings["id2label"] == {"0": "0", "1": "1"}
    results = {}
    for names in (("0", "1"), ("1", "0"), ("LABEL_0", "LABEL_1"), ("no", "yes")):
        (tmp_path / "hf/config.json").write_text(
            json.dumps(settings | {"id2label": dict(enumerate(names))})
        )
        results[names] = run(line, Classify)
    right = float(re.search(r"Accuracy: ([\d.]+)", results["0", "1"][1])[1])
    swapped = float(re.search(r"Accuracy: ([\d.]+)", results["1", "0"][1])[1])
    assert right + swapped == pytest.approx(1)
    assert (
        results["LABEL_0", "LABEL_1"] == results["0", "1"]
        or results["LABEL_0", "LABEL_1"][1] == results["0", "1"][1]
    )
    assert results["no", "yes"][0] == 2
    assert "has the labels no, yes, and mrpc has 0, 1" in results["no", "yes"][2]
    train = f"--data_file {sample}/train.tsv --pretrain_file {tmp_path}/hf "
    train += f"--train_cfg {trained}/train.json --max_len 64 "
    assert "new: classifier" in run(train + f"--save_dir {tmp_path}/new", Classify)[1]
    status, _, err = run(train + f"--save_dir {tmp_path}/hf", Classify)
    assert (status, "holds a model already (config.json)" in err) == (2, True)


TRAIN = (
    "--data_file {sample}/train.tsv --model_cfg {sample}/config.json --vocab {sample}/vocab.txt "
    "--train_cfg {trained}/train.json --save_dir {new}/run "
)
EVAL = "--mode eval --model_file {trained}/run/model_steps_7.pt --data_file {sample}/dev.tsv "


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--maxlen 64", "unknown flag --maxlen (did you mean --max_len?)"),
        ("-t mrpc", "unknown flag -t"),
        ("train", "unexpected 'train'; flags are written --name value"),
        ("--max_len abc", "--max_len abc: expected int"),
        ("--lr inf", "--lr inf: expected a finite number"),
        ("--lr nan", "--lr nan: expected a finite number"),
        ("--train_file x --data_file y", "--train_file and --data_file both say what to train on"),
        ("--train_file x", "neither --pretrain_file nor --model_cfg"),
        ("--learning_rate 1e-4", "unknown flag --learning_rate (it is --lr here)"),
        ("--output_dir x", "unknown flag --output_dir (it is --save_dir here)"),
        ("--fp16", "unknown flag --fp16 (it is --dtype bf16 here)"),
        ("--gpu 0", "unknown flag --gpu; --device cuda:N chooses a GPU"),
        (TRAIN + "--device gpu", "device='gpu'; expected auto, cpu, cuda, cuda:N or mps"),
        (TRAIN + "--device mps", "--device mps: there is none, or this PyTorch does not know it"),
        ("--xyzzy 1", "unknown flag --xyzzy; --help lists the flags"),
        ("--data_file -", "standard input is for --mode predict"),
        (
            TRAIN + "--seed 99999999999999999999",
            "seed=99999999999999999999; expected 0 or more, and at most 2**63 - 1",
        ),
        (
            TRAIN + "--n_epochs 3 --total_steps 5",
            "n_epochs and total_steps both say how long to train",
        ),
        (TRAIN + "--pretrain_file bert-base-uncased", "the hub is not reached"),
        ("--data_parallel maybe", "--data_parallel maybe: expected True or False"),
        ("--task", "--task has no value"),
        ("--task mrpc --task mnli", "--task is given twice"),
        ("--mode test", "--mode test: expected train, eval or predict"),
        ("--mode eval", "needs --model_file and --data_file"),
        ("--task mprc --data_file x", "--task mprc: unknown task (did you mean mrpc?)"),
        ("--task mrpc --max_len 9", "no --data_file, which is needed with --task, --max_len"),
        (EVAL + "--save_dir x", "--mode eval has no use for --save_dir"),
        (EVAL + "--lr 1e-3 --n_epochs 4", "--mode eval has no use for --lr, --n_epochs"),
        ("--lr 1e999", "--lr 1e999: expected a finite number"),
        (TRAIN + "--task qqq", "the tasks are cola, sst2, mrpc"),
        (TRAIN.replace("train.tsv", "nothing.tsv"), "nothing.tsv does not exist"),
        (TRAIN.replace("--vocab {sample}/vocab.txt", ""), "name a vocab.txt with --vocab"),
        (
            TRAIN.replace("--model_cfg {sample}/config.json", ""),
            "neither --pretrain_file nor --model_cfg",
        ),
        (
            TRAIN.replace("{trained}/train.json", "{bad}/train.json"),
            "unknown key 'n_epoch' (did you mean n_epochs?)",
        ),
        (TRAIN.replace("{sample}/vocab.txt", "{bad}/vocab.txt"), "has 132 tokens, the model 131"),
        (
            TRAIN.replace("{sample}/config.json", "{bad}/config.json"),
            "dim=100 is not divisible by n_heads=12",
        ),
        (TRAIN + "--max_len 129", "max_len=129 is more than the 128 positions"),
        (TRAIN + "--max_len 4", "max_len=4; these texts need at least 5 tokens"),
        (
            TRAIN + "--do_lower_case False",
            "unknown flag --do_lower_case; the vocabulary says it; tokenizer_config.json beside",
        ),
        (EVAL + "--compile", "--mode eval has no use for --compile"),
        (TRAIN + "--model_file x.pt", "--model_file is for --mode eval"),
        (TRAIN + "--pretrain_file {new}", "has no checkpoint; expected"),
        (
            TRAIN + "--pretrain_file {bad}/nowhere",
            "does not exist; expected a TensorFlow checkpoint",
        ),
        (
            TRAIN.replace("{sample}/config.json", "{bad}/other.json")
            + "--pretrain_file {trained}/run",
            "contradicts the model configuration: transformer.embedding.token.weight is (131, "
            "128), expected (131, 64)",
        ),
        (TRAIN.replace("{new}/run", "{trained}/run"), "max_len was 64, now 128"),
        (TRAIN.replace("{sample}/train.tsv", "{bad}/few.tsv"), "few.tsv, line 3: 4 columns"),
        (
            TRAIN.replace("{sample}/train.tsv", "{bad}/label.tsv"),
            "label.tsv, line 2: unknown label 'yes'",
        ),
        (TRAIN.replace("{sample}/train.tsv", "{bad}/empty.tsv"), "empty.tsv is empty"),
        (TRAIN.replace("--save_dir {new}/run", "--save_dir {bad}/empty.tsv"), "empty.tsv"),
        (EVAL + "--task mnli", "was trained on mrpc, not on mnli"),
        (EVAL.replace("model_steps_7", "model_steps_8"), "does not exist"),
        (
            EVAL.replace("{trained}/run/model_steps_7.pt", "{bad}/cut.pt"),
            "cut.pt is truncated or altered",
        ),
        (EVAL + "--vocab {bad}/vocab.txt", "has 132 tokens, the model 131"),
    ],
)
def test_a_mistake_ends_in_one_line_with_status_2_and_nothing_written(
    line: str,
    message: str,
    trained: Path,
    sample: Path,
    tmp_path: Path,
    run: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bad, new = tmp_path / "bad", tmp_path / "new"
    bad.mkdir()
    new.mkdir()
    header = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    for name, content in {
        "few.tsv": header + "1\t1\t2\ta\tb\n1\t1\t2\ta\n",
        "label.tsv": header + "yes\t1\t2\ta\tb\n",
        "empty.tsv": "",
        "train.json": '{"n_epoch": 3}',
        "config.json": '{"dim": 100, "n_heads": 12}',
        "vocab.txt": (sample / "vocab.txt").read_text() + "extra\n",
    }.items():
        (bad / name).write_text(content)
    other = json.loads((sample / "config.json").read_text()) | {"dim": 64}
    (bad / "other.json").write_text(json.dumps(other))
    content = (trained / "run/model_steps_7.pt").read_bytes()
    (bad / "cut.pt").write_bytes(content[:-1000])
    monkeypatch.chdir(new)
    before = {p: p.stat().st_mtime_ns for p in [*bad.rglob("*"), *trained.rglob("*")]}
    status, out, err = run(line.format(sample=sample, trained=trained, bad=bad, new=new), Classify)
    assert message in err
    assert status == 2
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in out + err
    assert list(new.iterdir()) == []
    assert {p: p.stat().st_mtime_ns for p in [*bad.rglob("*"), *trained.rglob("*")]} == before


def test_a_command_for_one_process_refuses_several_before_anything_is_written(
    trained: Path, tmp_path: Path, run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    status, _, err = run(
        f"convert {trained}/run {tmp_path}/new", checkpoint.Convert, checkpoint.Inspect
    )
    assert (status, err) == (
        2,
        "prog.py: WORLD_SIZE=2: prog.py works in one process; start it without torchrun\n",
    )
    assert list(tmp_path.iterdir()) == []


def test_subcommands_are_checked_too(run: Callable, tmp_path: Path) -> None:
    commands = (checkpoint.Convert, checkpoint.Inspect, checkpoint.Compare)
    for line, message in (
        ("convrt a b", "unknown command 'convrt' (did you mean convert?)"),
        ("convert a", "TARGET missing"),
        ("inspect a b", "unexpected 'b'"),
        (f"inspect {tmp_path}", "has no checkpoint"),
        ("compare a b --tol 1", "unknown flag --tol"),
    ):
        status, _, err = run(line, *commands)
        assert (status, message in err) == (2, True), err


@pytest.mark.parametrize(
    ("number", "status", "what"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "terminated"),
        (signal.SIGHUP, 129, "hung up"),
    ],
)
@pytest.mark.usefixtures("signals")
def test_a_signal_saves_and_says_how_to_go_on(
    run: Callable,
    monkeypatch: pytest.MonkeyPatch,
    sample: Path,
    trained: Path,
    tmp_path: Path,
    number: int,
    status: int,
    what: str,
) -> None:
    loss, calls = SentenceTask.loss, iter(range(100))

    def interrupted(task: SentenceTask, model: torch.nn.Module, batch: Batch) -> tuple:
        if next(calls) == 3:
            os.kill(os.getpid(), number)
        return loss(task, model, batch)

    monkeypatch.setattr(SentenceTask, "loss", interrupted)
    line = TRAIN.format(sample=sample, trained=trained, new=tmp_path) + "--max_len 64"
    found, _, err = run(line, Classify)
    assert found == status
    assert (
        f"prog.py: {what} at step 4 of 7; the same command resumes from "
        f"{tmp_path}/run/model_steps_4.pt" in err
    )
    assert "Resuming from" in run(line, Classify)[1]
    assert (tmp_path / "run/model_steps_7.pt").read_bytes() == (
        trained / "run/model_steps_7.pt"
    ).read_bytes()


@pytest.mark.real
def test_the_seed_commands_run_on_real_mrpc_from_tensorflow_weights(
    real: Path, tmp_path: Path, run: Callable
) -> None:
    cfg = tmp_path / "train.json"  # as config/train_mrpc.json, but cut short
    cfg.write_text(
        json.dumps(
            json.loads(Path("config/train_mrpc.json").read_text())
            | {"total_steps": 6, "dtype": "bf16"}
        )
    )
    weights = real / "minilm_tf"
    status, out, err = run(
        f"--task mrpc --mode train --train_cfg {cfg} --model_cfg {weights}/bert_config.json "
        f"--data_file {real}/glue/MRPC/train.tsv --pretrain_file {weights}/bert_model.ckpt --vocab "
        f"{weights}/vocab.txt --save_dir {tmp_path}/run --max_len 128",
        Classify,
    )
    assert status == 0, err
    assert "TensorFlow checkpoint" in out
    status, out, _ = run(
        f"--task mrpc --mode eval --train_cfg {cfg} --model_cfg {weights}/bert_config.json "
        f"--data_file {real}/glue/MRPC/dev.tsv --model_file {tmp_path}/run/model_steps_6.pt "
        f"--vocab {weights}/vocab.txt --max_len 128",
        Classify,
    )
    assert status == 0
    assert 0.6 < float(re.search(r"^Accuracy: ([\d.]+)$", out, re.MULTILINE)[1]) < 0.9
    assert os.listdir(tmp_path / "run")


def piped(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


def test_a_single_line_for_a_pair_says_what_separates_the_two(
    trained: Path, run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    piped(monkeypatch, "only one text\n")
    status, out, err = run(f"--mode predict --model_file {trained}/run --data_file -", Classify)
    assert (status, out) == (2, "")
    assert err.endswith(
        "standard input, line 1: one text, and the model compares two; put a tab between them\n"
    )
    monkeypatch.setattr("sys.stdin", None)
    status, out, err = run(f"--mode predict --model_file {trained}/run --data_file -", Classify)
    assert (status, out, "standard input is closed" in err) == (2, "", True)


def test_which_file_is_used_is_said(
    trained: Path, sample: Path, run: Callable, tmp_path: Path
) -> None:
    said = f"pytorchic-bert checkpoint {trained}/run/model_steps_7.pt"
    _, out, _ = run(
        f"--mode eval --model_file {trained}/run --data_file {sample}/dev.tsv --out {tmp_path}",
        Classify,
    )
    assert out.startswith(said)
    assert (
        f"{sample}/dev.tsv: 60 rows; texts: '#1 String', '#2 String'; label: 'Quality' (0 " in out
    )
    line = (
        f"--mode predict --model_file {trained}/run --data_file {sample}/dev.tsv --out {tmp_path}/x"
    )
    err = run(line, Classify)[2]
    assert err.startswith(said)
    assert f"{sample}/dev.tsv: 60 rows; texts: '#1 String', '#2 String'\n" in err


def test_a_classifier_of_hugging_face_needs_no_task(
    trained: Path, tmp_path: Path, run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.convert(str(trained / "run"), str(tmp_path / "hf"))
    # One from elsewhere has labels, and no task of ours.
    (tmp_path / "hf/task.json").unlink()
    settings = json.loads((tmp_path / "hf/config.json").read_text())
    (tmp_path / "hf/config.json").write_text(
        json.dumps(settings | {"id2label": {"0": "나쁨", "1": "좋음"}})
    )
    piped(monkeypatch, "one text\nanother\n")
    status, out, _ = run(
        f"--mode predict --model_file {tmp_path}/hf --data_file - --max_len 64", Classify
    )
    assert status == 0
    assert out.splitlines()[0] == "index\tprediction\t나쁨\t좋음"
    assert len(out.splitlines()) == 3


def test_files_that_are_read_once_may_be_pipes(
    trained: Path, sample: Path, tmp_path: Path, run: Callable
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    content = (sample / "dev.tsv").read_bytes()
    line = f"--mode predict --model_file {trained}/run --out {tmp_path}/%s --data_file "
    run(line % "a" + str(sample / "dev.tsv"), Classify)
    threading.Thread(target=pipe.write_bytes, args=(content,), daemon=True).start()
    status, _, err = run(line % "b" + str(pipe), Classify)
    assert (status, (tmp_path / "a").read_bytes()) == (0, (tmp_path / "b").read_bytes()), err
    # What is read more than once may not: its digest is taken too.
    threading.Thread(target=pipe.write_bytes, args=(content,), daemon=True).start()
    line = TRAIN.format(sample=sample, trained=trained, new=tmp_path).replace(
        f"{sample}/train.tsv", str(pipe)
    )
    status, _, err = run(line + "--max_len 64", Classify)
    assert (
        status,
        "pipe is a pipe or a device, and is read more than once; write it to a file first" in err,
    ) == (2, True)


def test_only_files_are_replaced(tmp_path: Path) -> None:
    target, link, pipe = tmp_path / "target", tmp_path / "link", tmp_path / "pipe"
    target.write_text("old")
    link.symlink_to(target)
    os.mkfifo(pipe)
    with whole_file(link) as f:
        f.write(b"new")
    assert (link.is_symlink(), target.read_text()) == (True, "new")
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()))
    reader.start()
    with whole_file(pipe) as f:
        f.write(b"through")
    reader.join(30)
    assert (received, pipe.is_fifo()) == ([b"through"], True)
    number = os.open(target, os.O_WRONLY | os.O_APPEND)  # as of a shell's > target
    with whole_file(f"/dev/fd/{number}") as f:
        f.write(b" and more")
    os.close(number)
    assert target.read_text() == "new and more"
    assert not list(tmp_path.glob(".*"))
    if Path("/dev/shm").is_dir():  # files there are files
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            file = Path(folder) / "file"
            file.write_text("old")
            with contextlib.suppress(ZeroDivisionError), whole_file(file) as f:
                f.write(b"new")
                raise ZeroDivisionError
            assert file.read_text() == "old"
    with pytest.raises(UserError, match="is a folder; name a file to write"), whole_file(tmp_path):
        pass
    device = tmp_path / "null"
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        device.read_bytes()
    except OSError:
        return  # only root may make one
    with whole_file(device) as f:
        f.write(b"nothing")
    assert device.is_char_device()

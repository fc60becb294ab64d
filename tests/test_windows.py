"""What the commands do without what Windows lacks; tests/windows.py says what that is."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from classify import Classify
from system.files import read_json, write_json

ROOT = Path(__file__).resolve().parent.parent
LINES = {
    "train": "classify.py --task csv --data_file rows.csv --eval_file rows.csv --vocab vocab.txt "
    "--model_cfg config.json --save_dir run --max_len 16 --batch_size 8 --total_steps 4 "
    "--save_steps 1 --log_steps 1 --keep_checkpoints 1 --lr 1e-3",
    "eval": "classify.py --mode eval --model_file run --data_file rows.csv",
    "predict": "classify.py --mode predict --model_file run --data_file rows.csv --out out.tsv",
    "predict again": "classify.py --mode predict --model_file run --data_file rows.csv --out "
    "out.tsv",
    "convert": "checkpoint.py convert run empty",
    "convert to .pt": "checkpoint.py convert empty ours/model.pt",
    "prepare": "corpus.py prepare corpus.txt --vocab vocab.txt --out ids",
    "pretrain": "pretrain.py --data_file ids --vocab vocab.txt --model_cfg config.json "
    "--save_dir pretrained --max_len 16 --batch_size 8 --gradient_accumulation 1 --total_steps 2",
    "prepare what is no text": "corpus.py prepare bad.txt --vocab vocab.txt --out bad",
}
CODE = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, "tests")
import windows
windows.lacking()
os.chdir(sys.argv[1])
lines = json.loads(sys.argv[2])
status = {name: windows.run(line) for name, line in lines.items()}
from system.files import locked
with locked(Path("run/.lock")):
    status["in use"] = windows.run(lines["train"])
status["resume"] = windows.run(lines["train"])
print(json.dumps(status), file=sys.stderr)
"""


def test_commands_do_without_what_windows_lacks(
    sample: Path, tmp_path: Path, run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [f"좋음,{i} one" if i % 2 else f"나쁨,{i} two" for i in range(24)]
    folders = [tmp_path / name for name in ("linux", "windows")]
    for folder in folders:
        folder.mkdir()
        (folder / "empty").mkdir()
        (folder / "rows.csv").write_text("\n".join(["label,text", *rows]), encoding="utf-8")
        (folder / "bad.txt").write_bytes(b"\xff\xfe\xfd")
        for name in ("vocab.txt", "corpus.txt"):
            (folder / name).write_bytes((sample / name).read_bytes())
        shape = {"dim": 16, "n_heads": 2, "n_layers": 1, "dim_ff": 32}
        write_json(folder / "config.json", read_json(sample / "config.json") | shape)
    linux, windows = folders
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(windows), json.dumps(LINES)],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    *_, last = done.stderr.splitlines()
    refused = {"prepare what is no text": 2, "in use": 2}
    assert json.loads(last) == dict.fromkeys([*LINES, "resume"], 0) | refused, done.stderr[-3000:]
    assert "run is in use by process " in done.stderr
    assert f" on {socket.gethostname()}; wait for it to end" in done.stderr
    # Nothing unfinished and no lock is left, not even of what failed.
    assert not list(windows.rglob(".*"))
    assert not (windows / "bad").exists()
    # The same bytes as elsewhere.
    monkeypatch.chdir(linux)
    for name in ("train", "predict"):
        assert run(LINES[name].split(" ", 1)[1], Classify)[0] == 0
    for name in ("out.tsv", "run/metrics.jsonl", "run/task.json", "run/vocab.txt", "run/run.json"):
        assert (windows / name).read_bytes() == (linux / name).read_bytes(), name
    assert "좋음" in (windows / "out.tsv").read_text("utf-8")
    assert os.listdir(windows / "empty")

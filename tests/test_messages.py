"""What reaches a terminal, a log and JSON: foreign text shown, bars as lines, numbers that are."""

import ast
import dataclasses
import io
import json
import math
import os
import re
import signal
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import checkpoint
import corpus
import features
import squad
import utils
from classify import Classify
from system import cli, progress
from system.files import write_json
from tasks import reports
from training import runs
from utils import STREAMS, UserError, in_a_line, json_text, log, told, visible, warn

# ------------------------------------------------------------------------------------ foreign text

# Unicode Technical Report 36: what turns the direction of writing round, and the marks that do.
BIDIRECTIONAL = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
MARKS = "\u200e\u200f\u061c"


def steers(char: str) -> bool:
    """By Unicode's own tables: a control, half a character, a line's end, or one of direction."""
    if char in "\t\n":
        return False
    kinds = {"Cc", "Cs", "Zl", "Zp"}
    direction = unicodedata.bidirectional(char) in BIDIRECTIONAL
    return unicodedata.category(char) in kinds or direction or char in MARKS


def test_what_steers_a_terminal_is_shown_and_every_other_character_stays() -> None:
    characters = [chr(i) for i in range(sys.maxunicode + 1)]
    shown = [repr(char)[1:-1] if steers(char) else char for char in characters]
    assert visible("".join(characters)) == "".join(shown)
    for text in ("é", "e\u0301", "中文", "👩\u200d🔬", "שלום", "a\tb\nc", r"a\x1b"):
        assert visible(text) == text
    assert visible(visible("\x1b[2J\udce9")) == visible("\x1b[2J\udce9") == r"\x1b[2J\udce9"
    assert in_a_line("a\tb\n\x9b") == r"a\tb\n\x9b"


ROOT = Path(__file__).resolve().parent.parent
HOSTILE = "a\x1b[2J\u202eb\rc\u2028\x85d\udce9"
SHOWN = r"a\x1b[2J\u202eb\rc\u2028\x85d\udce9"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@dataclasses.dataclass
class Told:
    """A command that tells foreign text in every way."""

    def run(self) -> None:
        warn(f"note {HOSTILE}\n2")
        log(f"say {HOSTILE}")
        print(f"print {HOSTILE}")
        print(reports.confusion_table((HOSTILE, "b\n"), np.array([[1, 2], [3, 4]])))
        raise UserError(f"error {HOSTILE}")


def test_a_command_shows_foreign_text_whichever_way_it_is_told(run: Callable) -> None:
    status, out, err = run("", Told)
    lines = out.splitlines()
    assert (status, lines[:2]) == (2, [f"say {SHOWN}", f"print {SHOWN}"])
    assert len({len(line) for line in lines[2:]}) == 1  # aligned as they are seen
    assert [line.split() for line in lines[3:]] == [[SHOWN, "1", "2"], [r"b\n", "3", "4"]]
    assert err == f"note {SHOWN}\\n2\nprog.py: error a\\x1b[2J\\u202eb c d\\udce9\n"


@pytest.mark.parametrize("terminal", [False, True])
def test_data_on_stdout_stay_as_they_are_but_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding="ascii")
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stdout", stream)
    with cli.sound_streams():
        print(HOSTILE, file=utils.data_stream())
        print(HOSTILE)
    stream.flush()
    # Half a character is none in UTF-8.
    data = SHOWN if terminal else HOSTILE.replace("\udce9", r"\udce9")
    assert written.getvalue().decode() == f"{data}\n{SHOWN}\n"


def test_messages_in_a_notebook_are_shown_too(capsys: pytest.CaptureFixture) -> None:
    log(HOSTILE)
    warn(HOSTILE)
    assert capsys.readouterr() == (f"{SHOWN}\n", f"{SHOWN}\n")


def test_labels_and_columns_of_a_file_reach_no_terminal_raw(
    sample: Path, tmp_path: Path, run: Callable
) -> None:
    file = tmp_path / "rows\x1b[31m.jsonl"
    labels = ("a\x1b]0;x\x07", "b\u202ec")
    rows = [{"te\u2066xt": "anna sold the lamp", "label": labels[i % 2]} for i in range(6)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = f"--task jsonl --text_a te\u2066xt --data_file {file} "
    shape = f"--model_cfg {sample}/config.json --vocab {sample}/vocab.txt --max_len 16"
    found = [run(f"{own}--eval_file {file} --save_dir {tmp_path}/run --n_epochs 1 {shape}", MAIN)]
    more = f"--mode eval --model_file {tmp_path}/run --data_file {file}"
    found.append(run(more, MAIN))
    # A column that is missing is named in an error.
    found.append(run(f"{own}--text_b x\x9b {shape}", MAIN))
    assert [status for status, _, _ in found] == [0, 0, 2]
    for _, out, err in found:
        assert not [char for char in out + err if steers(char)]
    summary = r"rows\x1b[31m.jsonl: 6 rows; text: 'te\u2066xt'; "
    assert summary + r"label: 'label' (a\x1b]0;x\x07 3, b\u202ec 3)" in found[1][1]
    # What was asked for is not talk: a file and a pipe get it as it is.
    line = f"--mode predict --model_file {tmp_path}/run --data_file {file}"
    status, out, _ = run(line, MAIN)
    assert run(f"{line} --out {tmp_path}/out", MAIN)[0] == status == 0
    assert (tmp_path / "out").read_bytes().decode() == out
    assert "\x1b]0;x\x07" in out


MAIN = Classify


# --------------------------------------------------------------------- names that are not UTF-8


def test_files_and_folders_whose_names_are_no_utf_8_serve_as_any_others(
    sample: Path, tmp_path: Path, run: Callable
) -> None:
    folder = tmp_path / os.fsdecode(b"r\xff")
    folder.mkdir()
    names = {"train.tsv": b"caf\xe9.tsv", "dev.tsv": b"d\xe9v.tsv", "corpus.txt": b"c\xe9.txt"}
    train, dev, text = (folder / os.fsdecode(name) for name in names.values())
    for name, target in zip(names, (train, dev, text), strict=True):
        target.write_bytes((sample / name).read_bytes())
    model, shape = folder / "run", f"--model_cfg {sample}/config.json --vocab {sample}/vocab.txt"
    line = f"--data_file {train} --eval_file {dev},{train} --save_dir {model} {shape} --max_len 64 "
    line += f"--total_steps 2 --batch_size 8 --log_dir {folder}/curves"
    status, out, err = run(line, MAIN)
    assert (status, f"{tmp_path}/r\\udcff/run/model_steps_2.pt" in out) == (0, True), err
    line = f"--mode eval --model_file {model} --data_file {dev},{train}"
    status, out, err = run(line, MAIN)
    assert status == 0, err
    assert re.search(r"^caf\\udce9\.tsv +0\.", out, re.MULTILINE)
    report = json.loads((model / "eval" / os.fsdecode(b"d\xe9v.json")).read_bytes().decode())
    assert report["data_file"] == f"{tmp_path}/r\\udcff/d\\udce9v.tsv"
    for line, functions in (
        (f"--mode predict --model_file {model} --data_file {dev} --out {folder}/answers", [MAIN]),
        (f"convert {model} {folder}/hf", [checkpoint.Convert, checkpoint.Compare]),
        (f"compare {model} {folder}/hf", [checkpoint.Convert, checkpoint.Compare]),
        (f"prepare {text} --vocab {sample}/vocab.txt --out {folder}/ids", PREPARE),
        (f"prepare {text} --vocab {sample}/vocab.txt --out {folder}/ids", PREPARE),
        (f"describe {folder}/ids --max_len 48", PREPARE),
    ):
        status, out, err = run(line, *functions)
        assert (status, "Traceback" in err) == (0, False), err
    missing = folder / os.fsdecode(b"\xe9")
    status, _, err = run(f"--mode eval --model_file {model} --data_file {missing}", MAIN)
    assert (status, err.count("\n")) == (2, 1)
    assert "r\\udcff/\\udce9 does not exist" in err


PREPARE = [corpus.Prepare, corpus.Describe]


# ------------------------------------------------------------------------------------------- bars


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The seconds that progress sees."""
    seen = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: seen.now))
    monkeypatch.setattr(progress.Lines, "shown_at", seen.now)
    return seen


def test_bars_in_a_file_write_a_line_every_half_minute_between_them(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture
) -> None:
    for _ in range(3):
        with progress.progress(total=100, desc="Iter", mininterval=0) as bar:
            for _ in range(100):
                clock.now += 1
                bar.set_description("Iter (loss=0.693)", refresh=False)
                bar.update()
    written = capsys.readouterr().err
    lines = written.splitlines()
    assert "\r" not in written
    shown = [
        re.match(r"Iter \(loss=0\.693\): +(\d+)% (\d+)/100 \[\S+<\S+, .*\]$", s) for s in lines
    ]
    # 300 seconds: every thirtieth step, whichever bar it belongs to.
    assert [int(found[2]) for found in shown] == [30, 60, 90, 20, 50, 80, 10, 40, 70, 100]
    assert all(found[1] == found[2] for found in shown)


def test_of_an_unknown_length_a_line_has_the_count_and_the_rate(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture
) -> None:
    with progress.progress(unit=" inputs", mininterval=0) as bar:
        clock.now += 31
        bar.update(64)
    assert re.fullmatch(r"64 inputs \[\S+, .* inputs/s\]\n", capsys.readouterr().err)


def test_a_short_bar_a_silenced_one_and_another_process_write_nothing(
    clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    with progress.progress(total=5) as bar:
        bar.update(5)
    monkeypatch.setattr(progress, "SECONDS", 0)
    with progress.progress(shown=False, total=5) as bar:
        bar.update(5)
    assert capsys.readouterr().err == ""


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress.progress(total=4, desc="Iter") as bar:
        bar.update(4)
    assert re.search(r"\rIter: 100%\|.*\| 4/4 \[", sys.stderr.getvalue())


# ------------------------------------------------------------------------------------------- JSON


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_has_no_word_for_is_named_and_nothing_written(
    tmp_path: Path, number: float
) -> None:
    file = tmp_path / "x.json"
    values = {"a": 1.0, "mean": {"loss": [0.5, number]}}
    for write in (write_json, squad.write):
        with pytest.raises(UserError, match=f"^{re.escape(str(file))}: loss is {number}, and JSON"):
            write(file, values)
    with (
        open(file, "w") as f,
        pytest.raises(UserError, match=rf"x\.json: eval_loss is {number}, and JSON"),
    ):
        runs.write_line(f, {"step": 1, "eval_loss": number})
    assert file.read_text() == ""
    vectors = SimpleNamespace(values=np.array([[number]]), tokens=[])
    with pytest.raises(UserError, match=f"^text 3: values is {number}, and JSON"):
        features.as_json(3, vectors, [-1])


def test_json_is_as_it_was_where_all_numbers_are_finite(tmp_path: Path) -> None:
    values = {"é": [1, 2.5, None, "中"], "b": {"c": True}}
    write_json(tmp_path / "x.json", values)
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    assert (tmp_path / "x.json").read_text() == text
    assert json_text(values, "x") == json.dumps(values)


# ---------------------------------------------------------------------------------------- signals


@pytest.mark.usefixtures("signals")
def test_signals_of_tests_are_those_of_a_command_in_the_foreground() -> None:
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_a_setting_is_a_flag_in_a_command_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    message = (
        "lower `max_len`, or use `long=window`; see `checkpoint.py list`, and `x-y`; "
        "of a file '`label`', `a`.tsv"
    )
    assert told(message) == message
    monkeypatch.setattr(STREAMS, "flags", True)
    assert told(message) == (
        "lower --max_len, or use --long window; see `checkpoint.py list`, and `x-y`; "
        "of a file '`label`', `a`.tsv"
    )


def test_no_module_below_the_commands_speaks_of_flags() -> None:
    commands = {"classify", "squad", "tag", "choose", "embed", "rank", "pretrain", "features"}
    commands |= {"corpus", "checkpoint", "command"}
    files = [f for f in ROOT.glob("*.py") if f.stem not in commands]
    for room in ("tasks", "pretraining", "training", "formats", "layers"):
        files += (ROOT / room).glob("*.py")
    for file in files:
        tree = ast.parse(file.read_text())
        documented = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                # torchrun has flags of its own.
                spoken = re.search("--(?!nproc_per_node)[a-z]", node.value)
                assert id(node) in documented or not spoken, (file.name, node.value)

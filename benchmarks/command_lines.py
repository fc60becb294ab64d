"""What some 200 command lines answer, right ones and wrong ones, to compare two versions of the
code.

    $ python benchmarks/command_lines.py > after.txt                # here
    $ python benchmarks/command_lines.py ../before > before.txt     # in another checkout
    $ diff before.txt after.txt

The lines of command_lines.txt and --help of every command run in this process, in a copy of
tests/old_runs, on its small files and finished runs. Printed are the exit status, stdout (1) and
stderr (2).
"""

import contextlib
import io
import os
import re
import runpy
import shlex
import shutil
import string
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

HERE = Path(__file__).resolve().parent.parent
SCRIPTS = "classify squad tag choose pretrain features corpus checkpoint tokenization".split()
NAMED = {
    "tag": ["score"],
    "features": ["extract", "similar", "fewshot", "fill", "score"],
    "corpus": ["prepare", "describe"],
    "checkpoint": ["convert", "inspect", "compare", "list"],
    "tokenization": ["learn"],
}
MODES = {
    "classify": ("--data_file pairs.tsv", "pairs_dev.tsv", "new.tsv"),
    "tag": ("--train_file tags.txt", "tags_dev.txt", "tags_dev.txt"),
    "choose": ("--train_file choices.jsonl", "choices_dev.jsonl", "choices_dev.jsonl"),
}
WEIGHTS = "--model_cfg model.json --vocab vocab.txt"
SHORT = "--batch_size 8 --lr 1e-3 --total_steps 2 --max_len 32"
TSV = "--task tsv --text_a text_a --text_b text_b --label label"

SHORT_FOR = {"WEIGHTS": WEIGHTS, "SHORT": SHORT, "TSV": TSV}
TEXT = (HERE / "benchmarks" / "command_lines.txt").read_text()
LINES = string.Template(TEXT).substitute(SHORT_FOR).splitlines()
LINES += [f"{name}.py" for name in SCRIPTS if name not in ("classify", "pretrain")]
LINES += [f"{name}.py --help" for name in SCRIPTS]
LINES += [f"{name}.py {word} --help" for name, words in NAMED.items() for word in words]
LINES += [f"{name}.py {word} --xyzzy 3" for name, words in NAMED.items() for word in words]
for name, (_, labelled, file) in MODES.items():
    model = f"{name}.py --model_file finished/{name}"
    LINES += [f"{model} --mode eval --data_file {labelled} --out {name}_eval"]
    LINES += [f"{model} --mode predict --data_file {file}", f"{model} --mode predict --data_file -"]
    LINES += [f"{model} --mode predict --data_file {file} --n_epochs 3 --out x"]


def clean(text: str, folder: str) -> str:
    """What is printed, without what differs from run to run."""
    text = re.sub(r"[^\n]*\r", "", text.replace(folder, "."))
    text = re.sub(r"^.*\d(?:it|batch(?:es)?|\w+)/s.*$", "", text, flags=re.MULTILINE)
    return re.sub(r"\d+\.\d+ (seconds|s)\b|\d+s\b", "N s", text)


def answer(root: Path, line: str) -> tuple[object, str, str]:
    """The exit status, stdout and stderr of a command line."""
    out, err = io.StringIO(), io.StringIO()
    script, *words = shlex.split(line)
    sys.argv = [str(root / script), *words]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
            status: object = 0
        except SystemExit as exit_:
            status = exit_.code or 0
        except BaseException as error:
            status = repr(error)
    return status, out.getvalue(), err.getvalue()


def main() -> None:
    """Print what every line answers."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else HERE).resolve()
    sys.path[0] = str(root)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve() / "world"
        shutil.copytree(HERE / "tests" / "old_runs", folder)
        os.chdir(folder)
        for line in LINES:
            # Standard input is two lines of text, whoever reads them.
            sys.stdin = io.TextIOWrapper(io.BytesIO(b"anna sold it .\nboris lent it .\n"))
            status, out, err = answer(root, line)
            print(f"$ {line}\n[{status}]")
            for mark, text in (("1", out), ("2", err)):
                # What is left of a bar is an empty line, or none: that depends on the time alone.
                for part in clean(text, str(folder)).splitlines():
                    if part or mark == "1":
                        print(f"{mark} {part}")
            print(flush=True)
        os.chdir("/")


if __name__ == "__main__":
    main()

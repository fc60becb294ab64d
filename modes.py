"""What --mode train, eval and predict of the commands do, whatever the kind of task.

    run(main, flags, {"train": fit, ...}, USED_IN)  # the function of flags.mode, after checks

Flags are the arguments of a command's main.
"""

import dataclasses
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import finetune
import pretrained
import train
from finetune import Saved
from formats.cards import COMMANDS
from system.files import check_output, named_files, whole_file, write_json
from system.flags import check_mode
from tasks import reports
from tasks.task import Data, Task
from training.settings import TRAINING_FLAGS
from utils import UserError, data_stream, note, say, size

# Which modes of a command have a use for a flag; those that are not here are for all.
USED_IN = {
    **dict.fromkeys(
        ("train_file", "eval_file", "pretrain_file", "save_dir", "log_dir", "shard"), "train"
    ),
    **dict.fromkeys(("model_file", "data_file", "out"), "eval predict"),
    **TRAINING_FLAGS,
}


def run(
    main: Callable,
    flags: SimpleNamespace,
    modes: Mapping[str, Callable[[SimpleNamespace], object]],
    used_in: dict[str, str],
) -> None:
    """Call the function of --mode with the flags of a command, which are checked before."""
    if flags.mode not in modes:
        *others, last = modes
        raise UserError(f"--mode {flags.mode}: expected {', '.join(others)} or {last}")
    # A flag that another mode alone reads would be ignored silently, so it is an error here.
    check_mode(main, flags.mode, vars(flags), used_in)
    if flags.mode != "train" and not (flags.model_file and flags.data_file):
        raise UserError(f"--mode {flags.mode} needs --model_file and --data_file")
    if flags.data_file == "-" and flags.mode == "eval":
        raise UserError("--data_file -: standard input is for --mode predict; name a file")
    # Each process would take some of the lines, and no two the same.
    if flags.data_file == "-" and size() > 1:
        raise UserError(
            f"--data_file -: {size()} processes cannot share standard input; start one, without "
            "torchrun"
        )
    if flags.mode == "predict" and flags.out:
        check_outputs(flags, [flags.out])
    modes[flags.mode](flags)


def check_outputs(flags: SimpleNamespace, outputs: Iterable[str | Path]) -> None:
    """UserError where a file to write is one that a flag names, or a part of a model."""
    inputs = [
        value
        for name, value in vars(flags).items()
        if isinstance(value, str) and name not in ("out", "save_dir", "log_dir")
    ]
    for file in outputs:
        check_output(file, inputs)


def report_name(file: str) -> str:
    """How the names of a file's reports begin: report_name("a/dev.tsv") -> "a_dev"."""
    return Path(file).with_suffix("").as_posix().replace("/", "_")


def check_reports(
    flags: SimpleNamespace, folder: Path, names: Iterable[str], endings: tuple[str, ...]
) -> None:
    """check_outputs() of all that evaluating files writes into a folder."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder for the reports")
    stems = [folder / report_name(name) for name in names]
    found = [f"{stem}{ending}" for stem in stems for ending in (".json", *endings)]
    check_outputs(flags, [*found, folder / "all_files.json"])


def fit(task: Task, flags: SimpleNamespace, file_flag: str = "data_file") -> None:
    """Train a task as the flags of a command say: its --mode train.

    Args:
        file_flag: the one that names a file to evaluate or predict.
    """
    if not flags.train_file:
        raise UserError("--mode train needs --train_file")
    cfg = train.Config.from_flags(flags.train_cfg, flags.settings, task.train_cfg)
    folder = flags.save_dir or f"runs/{task.name}"
    start = pretrained.find(flags.pretrain_file, flags.model_cfg, flags.vocab, save_dir=folder)
    eval_files = named_files(flags.eval_file) if flags.eval_file else []
    run = finetune.prepare(task, flags.train_file, start, eval_files, cfg)
    run.fit(folder, flags.log_dir, flags.data_parallel, flags.shard)
    say_next(COMMANDS[task.head], folder, file_flag)


def say_next(script: str, folder: str | Path, file_flag: str = "data_file") -> None:
    """Say which commands go on from a trained model."""
    model = shlex.quote(str(folder))
    say(
        f"Evaluate it:  python {script} --mode eval --model_file {model} --{file_flag} FILE\n"
        f"Predict:      python {script} --mode predict --model_file {model} --{file_flag} FILE\n"
        f"Take it away: python checkpoint.py convert {model} FOLDER  # transformers, or FILE.onnx"
    )


def load(kind: type[Task], flags: SimpleNamespace, changes: dict[str, Any]) -> Saved:
    """The model that the flags of a command name, with some of its task's fields replaced."""
    start = pretrained.find(
        flags.model_file, flags.model_cfg, flags.vocab, kind.head, predicting=True
    )
    assert start.source
    task = dataclasses.replace(kind.saved(start.source), **changes)
    # Of the configuration only the batch size and dtype matter now, and a file need not be named.
    cfg = train.Config.from_flags(flags.train_cfg, flags.settings)
    parallel = flags.data_parallel
    return finetune.load(flags.model_file, task, start, cfg.batch_size, cfg.dtype, parallel)


def given(flags: SimpleNamespace, names: tuple[str, ...]) -> dict[str, Any]:
    """Those of the flags that were given."""
    return {name: getattr(flags, name) for name in names if getattr(flags, name) is not None}


def evaluate(
    saved: Saved, flags: SimpleNamespace, endings: tuple[str, ...] = ()
) -> Iterator[tuple[Data, list[Any], Path]]:
    """Print and write the metrics of each file of --data_file, of several a table at the end.

    Yields each file's data and answers, and the path of further files about it, without a suffix.

    Args:
        endings: of the further files that the caller writes.
    """
    say(saved.describe())
    files, results = named_files(flags.data_file), {}
    folder = Path(flags.out or saved.folder / "eval")
    names = reports.short_names(files)
    check_reports(flags, folder, names, endings)
    for name, file in zip(names, files, strict=True):
        data = saved.load(file)
        say(data.summary)
        outputs = saved.outputs(data)
        results[name] = saved.task.metrics(data, outputs)
        for metric, value in results[name].items():
            print(f"{metric}: {value}")
        stem = folder / report_name(name)
        report = {"model_file": str(saved.file), "data_file": file, "examples": len(data.examples)}
        write_json(Path(f"{stem}.json"), report | results[name])
        yield data, saved.task.answers(data, outputs), stem
    if len(files) > 1:
        text, summary = reports.over_files(results)
        write_json(folder / "all_files.json", {"model_file": str(saved.file), **summary})
        print(f"{text}\nSaved {folder / 'all_files.json'}")


def predict(saved: Saved, flags: SimpleNamespace) -> None:
    """Write the answers to --data_file, `-` being standard input, as they are there."""
    task, file = saved.task, flags.data_file
    examples = task.read_unlabelled(file)
    # From a pipe nothing is waited for: an interactive user wants an answer to each line.
    parts = saved.stream(file, examples, waiting=file != "-", bar=flags.out is not None)

    def lines() -> Iterator[str]:
        n, head = 0, f"{task.answer_columns}\n" if task.answer_columns else ""
        for data, answers in parts:
            # The first rows have been read without an error, so the model's name is worth a line.
            if n == 0:
                note(saved.describe())
                yield head
            yield "".join(f"{line}\n" for line in task.lines(data, answers, n))
            n += len(answers)
        # A file without rows still becomes a table, since another program may read it.
        if n == 0:
            yield head

    write_answers(lines(), flags.out)


def write_answers(lines: Iterable[str], out: str | None) -> None:
    """Lines into a file, whole or absent, or to standard output as they come."""
    if out is not None:
        # A pipe that ends early, or an error in a late row, must not leave half a file.
        with whole_file(out) as f:
            for line in lines:
                f.write(line.encode())
        note(f"Saved {out}")
        return
    if sys.stdout is None:
        raise UserError("standard output is closed; name a file with --out")
    out_stream = data_stream()
    # Flushing after each part lets a program that reads the other end go on at once.
    for line in lines:
        out_stream.write(line)
        out_stream.flush()

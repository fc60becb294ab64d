"""Fine-tune BERT on a sentence task, evaluate it, predict with it.

$ python classify.py  # the built-in sample: makes it, trains, evaluates
$ python classify.py --task mrpc --data_dir GLUE/MRPC --pretrain_file BERT --save_dir runs/mrpc
$ python classify.py --mode eval --model_file runs/mrpc --data_file GLUE/MRPC/dev.tsv
$ python classify.py --mode predict --model_file runs/mrpc --data_file GLUE/MRPC/test.tsv
"""

import collections
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

import finetune
import modes
import pictures
import pretrained
import train
from finetune import Result, Run, Saved
from formats.tfrecords import RECORDS
from system import distributed
from system.cli import command
from system.files import check_output, named_files, write_json
from system.flags import check_mode, check_sample
from tasks import TASKS, SentenceTask, get_task, own_task, reports
from tasks.metrics import confusion
from tasks.rows import describe_table, open_rows, read_examples
from tasks.sentences import find_task, task_of_meta_data
from tasks.superglue import FILES, file_in
from tasks.task import Data
from training import inference, runs
from training.settings import TRAINING_FLAGS
from utils import UserError, note, rank, say, size, visible

SAMPLE = Path("runs/sample")
WORST = 100  # mistakes that are written down

# Which modes have a use for a flag; those that are not here are for all.
USED_IN = {
    "pretrain_file": "train",
    "save_dir": "train",
    "log_dir": "train",
    "eval_file": "train",
    "meta_data_file": "train",
    "freeze_encoder": "train",
    "boost": "train",
    "reinit_layers": "train",
    "seeds": "train",
    "shard": "train",
    "model_file": "eval predict",
    "out": "eval predict",
    "plots": "train eval",
    **TRAINING_FLAGS,
}


def main(
    task: str | None = None,
    mode: str = "train",
    train_cfg: str | None = None,
    model_cfg: str | None = None,
    data_file: str | None = None,
    model_file: str | None = None,
    pretrain_file: str | None = None,
    data_parallel: bool = True,
    vocab: str | None = None,
    save_dir: str | None = None,
    log_dir: str | None = None,
    max_len: int | None = None,
    data_dir: str | None = None,
    eval_file: str | None = None,
    text_a: str | None = None,
    text_b: str | None = None,
    label: str | None = None,
    labels: str | None = None,
    header: bool | None = None,
    separator: str | None = None,
    delimiter: str | None = None,
    long: str | None = None,
    meta_data_file: str | None = None,
    freeze_encoder: bool = False,
    boost: bool = False,
    reinit_layers: int = 0,
    seeds: int | None = None,
    out: str | None = None,
    plots: bool = False,
    shard: bool = False,
    settings: dict[str, Any] | None = None,
) -> None:
    """Fine-tune BERT on a sentence task, evaluate it, or predict with it.

    Without a flag: make the built-in sample, train on it, evaluate.

    Args:
        What to do:
            mode: train, eval or predict.
            task: cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte, wnli or ax of GLUE; boolq, cb, rte,
                wic, wsc or multirc of SuperGLUE; pawsx or xnli; csv, tsv or jsonl for data of your
                own. Default: mrpc, or the task of the saved model.
        Data:
            data_file: the file to train on, to evaluate or to predict; `-` predicts lines of
                standard input. To evaluate, several with commas between them.
            data_dir: a folder of GLUE or SuperGLUE, instead of data_file: train.tsv or train.jsonl
                to train on, dev.tsv or val.jsonl to evaluate, test.tsv or test.jsonl to predict.
            eval_file: evaluated after every epoch of training; several with commas between them.
            max_len: longest input in tokens; default 128, for boolq 256 and multirc 512, or what
                the model was trained with.
            long: what to do with texts longer than max_len: truncate, or window: average over
                overlapping parts. Default: truncate, or what the model was trained with.
            meta_data_file: the JSON beside a .tf_record of the official code.
        Your own columns:
            text_a: column of the text, by name or by number from 0; default: text, or the first.
            text_b: column of a second text.
            label: column of the label; default: label, or the second.
            labels: the labels, with commas between them, or `number`; default: those of the
                training data, sorted, and `all` of them where some look like mistakes. Each may
                have a column of 0 and 1.
            header: whether the first row names the columns; default: if it has all columns named
                here.
            separator: what stands between several labels of one text; default: a text has one, or
                a list of JSON.
            delimiter: what stands between the fields of a csv, such as `;` or `tab`; default:
                look.
        Training:
            train_cfg: JSON of train.Config; default: config/train_TASK.json, or train_own.json for
                data of your own.
            freeze_encoder: train the last layer alone.
            boost: with a frozen encoder, encode every text once and keep the vectors.
            reinit_layers: how many of the top layers start anew.
            seeds: how often to train, each time from another seed, into SAVE_DIR/seed-N; default:
                once, into SAVE_DIR.
        Output:
            out: of predict, the file (for a data_dir: the folder) to write; default: standard
                output. Of eval, the folder for metrics, confusion matrix and errors; default: eval
                beside the model.
            plots: write pictures too (needs matplotlib).
    """
    flags = SimpleNamespace(**locals())
    of_mode = {"train": fit, "eval": evaluate_files, "predict": predict_files}
    if mode not in of_mode:
        raise UserError(f"--mode {mode}: expected train, eval or predict")
    if model_file and mode == "train":
        raise UserError(
            "--model_file is for --mode eval and predict; to start from weights use --pretrain_file"
        )
    # A flag that another mode alone reads would be ignored silently, so it is an error here.
    check_mode(main, mode, vars(flags), USED_IN)
    if data_file and data_dir:
        raise UserError("--data_file and --data_dir are both given; keep one")
    if mode != "train" and not (model_file and (data_file or data_dir)):
        raise UserError(f"--mode {mode} needs --model_file and --data_file or --data_dir")
    of_mode[mode](flags)


def columns_of(flags: SimpleNamespace) -> dict[str, Any]:
    """The flags that say what the columns of a table are."""
    names = ("text_a", "text_b", "label", "labels", "header", "separator", "delimiter")
    return {name: getattr(flags, name) for name in names}


def in_folder(folder: str, names: tuple[str, ...]) -> list[str]:
    """Those of the files that are there; UserError where none is."""
    # A copy of GLUE may lack one of MNLI's two development sets; the other one is enough.
    files = [file_in(folder, name) for name in names]
    found = [file for file in files if Path(file).is_file()]
    if not found:
        raise UserError(
            f"{folder} has no {' or '.join(names)} (in SuperGLUE {FILES.get(names[0], names[0])}); "
            "expected the folder of one task, such as GLUE/MRPC or SuperGLUE/BoolQ"
        )
    return found


# ----------------------------------------------------------------------------------------- training


def fit(flags: SimpleNamespace) -> None:
    """--mode train"""
    if flags.data_file == "-":
        raise UserError(
            "--data_file -: standard input is for --mode predict; training reads its data more "
            "than once"
        )
    # Without data the command shows what it does. Flags about data would have no effect there.
    if not flags.data_file and not flags.data_dir:
        check_sample(main, vars(flags))
        run_sample(flags)
        return
    if flags.seeds is not None and flags.seeds < 1:
        raise UserError(f"--seeds {flags.seeds}: expected at least 1")
    run = prepare(flags)
    if flags.plots:
        # matplotlib may be missing. Better to learn that now than after a day of training.
        pictures.new((1, 1))
    results, best = fit_seeds(run, flags)
    modes.say_next("classify.py", best.file.parent)
    # All processes return the same results; one of them writes the pictures.
    if flags.plots and rank() == 0:
        for result in results:
            folder = result.file.parent
            pictures.save(pictures.learning(folder / "metrics.jsonl"), folder / "learning.png")


def prepare(flags: SimpleNamespace) -> Run:
    """Everything that training needs, read and checked."""
    task = None
    # The meta data may name the task itself; the default, MRPC, must not hide that.
    if flags.task or not flags.meta_data_file:
        task = own_task(get_task(flags.task or "mrpc"), **columns_of(flags))
    if flags.meta_data_file:
        task = task_of_meta_data(flags.meta_data_file, task)
    assert task
    task = with_length(task, flags)
    eval_files = named_files(flags.eval_file) if flags.eval_file is not None else []
    data_file = flags.data_file
    if flags.data_dir:
        data_file = file_in(flags.data_dir, "train.tsv")
        # Files that were named replace those of the folder.
        eval_files = eval_files or in_folder(flags.data_dir, task.dev)
    tuning = finetune.Tuning(flags.freeze_encoder, flags.boost, flags.reinit_layers)
    # Where --train_cfg is given the task's usual configuration is not asked for: AX has none.
    usual = None if flags.train_cfg else task.train_cfg
    cfg = train.Config.from_flags(flags.train_cfg, flags.settings, usual)
    folder = flags.save_dir or f"runs/{task.name}"
    start = pretrained.find(flags.pretrain_file, flags.model_cfg, flags.vocab, save_dir=folder)
    return finetune.prepare(task, data_file, start, eval_files, cfg, tuning)


def with_length(task: SentenceTask, flags: SimpleNamespace) -> SentenceTask:
    """A task with the max_len and long that were given."""
    given = {"max_len": flags.max_len, "long": flags.long}
    # None means "not given", which leaves the task's own value alone.
    changes: dict[str, Any] = {name: v for name, v in given.items() if v is not None}
    return dataclasses.replace(task, **changes)


def fit_seeds(run: Run, flags: SimpleNamespace) -> tuple[list[Result], Result]:
    """Train from one seed, or from several and compare them.

    Returns what each came to, and the best of them.
    """
    folder = Path(flags.save_dir or f"runs/{run.task.name}")
    log_dir, parallel, shard = flags.log_dir, flags.data_parallel, flags.shard
    if flags.seeds is None or flags.seeds == 1:
        result = run.fit(folder, log_dir, parallel, shard)
        return [result], result
    # The table of seeds has a column for each metric, so without an evaluation it would be empty.
    if not run.eval_data:
        raise UserError("--seeds compares evaluations; name an --eval_file or a --data_dir")
    # Beside some other model, results.json and the seeds' folders would be taken for its own.
    runs.check_free(folder)
    results, outcomes = [], []
    # Seeds are consecutive from the configuration's own, so that --seeds 5 contains the run of
    # --seeds 3.
    for seed in range(run.cfg.seed, run.cfg.seed + flags.seeds):
        say(f"Seed {seed}")
        name = f"seed-{seed}"
        # The data were read once. Each seed differs in its initial weights, the order and dropout
        # alone.
        one = dataclasses.replace(run, cfg=dataclasses.replace(run.cfg, seed=seed))
        logs = f"{log_dir}/{name}" if log_dir else None
        result = one.fit(folder / name, logs, parallel, shard)
        results.append(result)
        outcomes.append(
            {
                "seed": seed,
                "last": result.last,
                "best": result.best,
                "file": str(result.file),
                "best_file": str(result.best_file),
            }
        )
    task = run.task
    # A constant answer shows which seeds failed to learn: BERT-large collapses on small data sets
    # at some seeds.
    assert isinstance(task, SentenceTask)
    constant = task.constant_metric(run.eval_data[0].features.example_labels)
    text, summary = reports.over_seeds(outcomes, task.metric_names[0], constant)
    write_json(folder / "results.json", summary)
    print(f"{text}\nSaved {folder / 'results.json'}")
    return results, results[outcomes.index(summary["best"])]


def run_sample(flags: SimpleNamespace) -> None:
    """The main job on the built-in sample, from scratch: make it, train, evaluate."""
    from examples import sample

    print(f"No --data_file: training on the built-in sample in {SAMPLE}")
    sample.write(str(SAMPLE))
    # The first process writes the sample; the others must not read it half written.
    distributed.wait_for_all()
    task = dataclasses.replace(TASKS["mrpc"], max_len=64)
    start = pretrained.find(None, f"{SAMPLE}/config.json", f"{SAMPLE}/vocab.txt")
    # The sample has a configuration of its own: a tiny model needs a higher rate than a pre-trained
    # BERT.
    cfg = train.Config.from_json(SAMPLE / "train.json")
    run = finetune.prepare(task, f"{SAMPLE}/train.tsv", start, cfg=cfg)
    save_dir = flags.save_dir or "runs/sample_model"
    result = run.fit(save_dir, flags.log_dir, flags.data_parallel, flags.shard)
    dev = f"{SAMPLE}/dev.tsv"
    # The model is loaded from its file, as the user's next command would do it.
    evaluate(finetune.load(result.file), dev, result.file.parent / "eval")
    labels = [example.label for example in read_examples(task, dev)]
    majority = max(map(labels.count, set(labels))) / len(labels)
    print(
        f"Always answering the most frequent label would give an accuracy of {majority}\n\n"
        "Next, with data of your own and weights from Google or Hugging Face:\n"
        "  python classify.py --task csv --data_file train.csv --eval_file dev.csv "
        "--pretrain_file FOLDER --save_dir runs/mine\n"
        "  python classify.py --mode predict --model_file runs/mine --data_file new.csv"
    )


# ---------------------------------------------------------------------------------------- answering


def load(flags: SimpleNamespace) -> Saved:
    """The saved model, with whatever flags say of its task."""
    start = pretrained.find(
        flags.model_file, flags.model_cfg, flags.vocab, "classifier", predicting=True
    )
    # --task may name a task whose files have other columns; the labels stay those of the model.
    assert start.source
    named = get_task(flags.task) if flags.task else None
    # What the flags say of columns wins over the task.json that lies beside the model.
    task = find_task(start.source, named, flags.separator)
    task = with_length(own_task(task, **columns_of(flags)), flags)
    # A model of another program has no task.json, but Hugging Face's config.json names its labels.
    if task.lacks_labels and start.source.labels:
        task = dataclasses.replace(task, labels=tuple(start.source.labels))
    # Of the configuration only the batch size and dtype matter now, and a file need not be named.
    cfg = train.Config.from_flags(flags.train_cfg, flags.settings)
    return finetune.load(
        flags.model_file, task, start, cfg.batch_size, cfg.dtype, flags.data_parallel
    )


def evaluate_files(flags: SimpleNamespace) -> None:
    """--mode eval"""
    saved = load(flags)
    say(saved.describe())
    say(inference.device_name(saved.device, saved.n_gpus))
    folder = Path(flags.out or saved.folder / "eval")
    if flags.data_dir:
        files = in_folder(flags.data_dir, saved.task.dev)
    else:
        files = named_files(flags.data_file)
    results, names = {}, reports.short_names(files)
    modes.check_reports(flags, folder, names, ("_errors.tsv",))
    for name, file in zip(names, files, strict=True):
        results[name] = evaluate(saved, file, folder, flags.plots, name, titled=len(files) > 1)
    if len(files) > 1:
        text, summary = reports.over_files(results)
        report = {"model_file": str(saved.file), "data_files": files, **summary}
        write_json(folder / "all_files.json", report)
        print(f"{text}\nSaved {folder / 'all_files.json'}")


def evaluate(
    saved: Saved,
    data_file: str,
    folder: Path,
    plots: bool = False,
    name: str | None = None,
    titled: bool = False,
) -> dict[str, float]:
    """Print and return a saved model's metrics, below the file's name if they are `titled`.

    They, the confusion matrix and the worst mistakes are written into a folder, in files that are
    called after the name; None: the name of data_file.
    """
    # matplotlib is needed last, but its absence has to be noticed first.
    if plots:
        pictures.new((1, 1))
    task, data = saved.task, saved.load(data_file)
    say(data.summary)
    # A text in several windows has several inputs; its score is their mean. Metrics count texts.
    scores, labels = data.features.average(saved.outputs(data)), data.features.example_labels
    predicted = task.predicted(scores)
    results = task.measure(predicted, data)
    name = name or data.file.name
    # Metrics of several files have the same names; MNLI usually has two.
    if titled or len(task.dev) > 1:
        print(f"{name}:")
    for metric, value in results.items():
        print(f"{metric}: {value}")
    stem = modes.report_name(name)
    report: dict[str, Any] = {"model_file": str(saved.file), "data_file": data_file}
    report |= {"examples": len(labels), **results}
    # Only with one label a text are label and prediction the row and column of a matrix.
    if task.kind == "class":
        matrix = confusion(predicted, labels, len(task.labels))
        report |= {"labels": task.labels, "confusion": matrix.tolist()}
        # More columns would not fit a terminal; the JSON has all of them.
        if len(task.labels) <= 10:
            print(reports.confusion_table(task.labels, matrix))
        if plots:
            title = f"{task.name}, {visible(data.file.name)}"
            pictures.save(
                pictures.confusion(task.labels, matrix, title), folder / f"{stem}_confusion.png"
            )
    write_json(folder / f"{stem}.json", report)
    measure = "difference" if task.number else "probability"
    header = ["line", "label", "prediction", measure, "text_a", "text_b"]
    mistakes = worst(task, data, scores, predicted)
    reports.write_tsv(folder / f"{stem}_errors.tsv", header, mistakes)
    # A model from elsewhere has no metrics.jsonl beside it.
    if plots and (log := saved.folder / "metrics.jsonl").is_file():
        pictures.save(pictures.learning(log), folder / "learning.png")
    print(f"Saved {folder / stem}.json, {folder / stem}_errors.tsv")
    return results


def worst(
    task: SentenceTask, data: Data, scores: np.ndarray, predicted: np.ndarray
) -> list[list[object]]:
    """Mistakes, the most confident first; of numbers, the furthest off.

    Each is line, label, prediction, confidence and texts.
    """
    labels, lines = data.features.example_labels, data.features.example_lines
    wrong = predicted != labels
    if task.kind == "number":
        confidence = np.abs(predicted - labels)
    elif task.kind == "class":
        confidence = task.probabilities(scores).max(1)
    else:
        # Of the label that it is most wrong about.
        chances = task.probabilities(scores)
        confidence = (np.maximum(chances, 1 - chances) * wrong).max(1)
        wrong = wrong.any(1)
    order = np.argsort(-confidence, kind="stable")
    rows: list[list[object]] = []
    # Sorting all examples and keeping the wrong ones leaves the stable order of equal confidences
    # alone.
    for i in order[wrong[order]][:WORST]:
        texts = ["", ""]
        if data.examples:
            texts = [data.examples[i].text_a, data.examples[i].text_b or ""]
        names = task.name_of(labels[i]), task.name_of(predicted[i])
        rows.append([lines[i], *names, f"{confidence[i]:.4f}", *texts])
    return rows


def predict_files(flags: SimpleNamespace) -> None:
    """--mode predict"""
    # Each process would take some of the lines, and no two the same.
    if size() > 1 and flags.data_file == "-":
        raise UserError(
            f"--data_file -: {size()} processes cannot share standard input; start one, without "
            "torchrun"
        )
    if flags.data_dir and not flags.out:
        raise UserError("--data_dir is predicted into a folder; name it with --out")
    if flags.out and not flags.data_dir:
        modes.check_outputs(flags, [flags.out])
    saved = load(flags)
    if flags.data_dir:
        # GLUE's site expects file names of its own, one for each test file of the task.
        names = saved.task.hand_in or saved.task.test
        for name, target in zip(saved.task.test, names, strict=True):
            file = file_in(flags.data_dir, name)
            # Only the first test file is required: a folder may have MNLI's matched set alone.
            if Path(file).is_file() or name == saved.task.test[0]:
                # RTE is SuperGLUE's too, whose file is none for GLUE's site.
                target = target if file.endswith(name) else name
                check_output(f"{flags.out}/{target}", [file])
                predict_into(saved, file, f"{flags.out}/{target}")
        return
    # Lines typed or piped have no columns, unless the user says of which task they are.
    if flags.data_file == "-" and not flags.task:
        saved.task = dataclasses.replace(saved.task, form="lines")
    predict_into(saved, flags.data_file, flags.out)


def predict_into(saved: Saved, data_file: str, out: str | None) -> None:
    """Predict a file, or `-`, into another, whole or absent, or to standard output as it goes."""
    # GLUE's site accepts no columns beside index and prediction.
    for_site = saved.task.hand_in and Path(data_file).name in saved.task.test
    # Answers on a terminal show that it goes on; a file shows nothing.
    lines = prediction_lines(saved, data_file, probabilities=not for_site, bar=out is not None)
    modes.write_answers(lines, out)


def prediction_lines(saved: Saved, data_file: str, probabilities: bool, bar: bool) -> Iterator[str]:
    """The lines of a table, some at a time: index, prediction, and the probability of each label.

    There is a row for each row of the file, in its order, counted from 0.
    """
    task = saved.task
    # Columns of probabilities need names, and a number has none.
    names = task.labels if probabilities else ()
    header = "\t".join(["index", "prediction", *names]) + "\n"
    table, index = None, 0
    # A TFRecord's records are read as a whole, since it has no lines that a pipe could deliver.
    if RECORDS.search(data_file):
        data = saved.load(data_file, labelled=False)
        parts = iter([(data, task.answers(data, saved.outputs(data, bar=False)))])
    else:
        # Rows are read as needed, so a file of any size is predicted in the memory of one part.
        table, examples = open_rows(task, data_file, labelled=False)
        # From a pipe nothing is waited for: an interactive user wants an answer to each line.
        parts = saved.stream(data_file, examples, waiting=data_file != "-", bar=bar)
    # A part's answers are in the order of its rows, though its batches were sorted by length.
    for _, answers in parts:
        lines = []
        if index == 0:
            # The first rows have been read without an error, so the model's name is worth a line.
            note(saved.describe())
            lines.append(header)
        for answer, chances in answers:
            shown = [f"{chance:.6f}" for chance in chances] if names else []
            lines.append("\t".join([str(index), answer, *shown]) + "\n")
            index += 1
        yield "".join(lines)
    # A file without rows still becomes a table, since another program may read it.
    if index == 0:
        yield header
    if table and data_file != "-":
        note(describe_table(data_file, index, table.names, table.header, collections.Counter()))


if __name__ == "__main__":
    command(main, settings=train.Config, processes=True)

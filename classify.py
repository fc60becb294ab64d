"""Fine-tune BERT on a sentence task, evaluate it, predict with it.

$ python classify.py                                    # the built-in sample: makes it, trains,
evaluates $ python classify.py --task mrpc --data_dir GLUE/MRPC --pretrain_file FOLDER --save_dir
runs/mrpc $ python classify.py --mode eval --model_file runs/mrpc/model_steps_345.pt --data_file
GLUE/MRPC/dev.tsv $ python classify.py --mode predict --model_file runs/mrpc/model_steps_345.pt
--data_file GLUE/MRPC/test.tsv
"""

import collections
import contextlib
import dataclasses
import queue
import sys
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

import distributed
import finetune
import runs
import train
from cli import command
from finetune import Result, Run, Saved
from tasks import reports
from tasks.metrics import confusion
from tasks.records import Data, tell_cut
from tasks.sentences import Example, Task, get_task, open_rows, own_task, read_examples, understood
from tfrecords import RECORDS
from utils import UserError, note, rank, refuse, say, size, whole_file, write_json

SAMPLE = Path("runs/sample")
CHUNK = 64  # batches of rows that are predicted at a time
WORST = 100  # mistakes that are written down


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
    do_lower_case: bool | None = None,
    data_dir: str | None = None,
    eval_file: str | None = None,
    text_a: str | None = None,
    text_b: str | None = None,
    label: str | None = None,
    labels: str | None = None,
    header: bool | None = None,
    separator: str | None = None,
    long: str | None = None,
    meta_data_file: str | None = None,
    freeze_encoder: bool = False,
    boost: bool = False,
    cache_dir: str | None = None,
    reinit_layers: int = 0,
    seeds: int | None = None,
    out: str | None = None,
    probabilities: bool | None = None,
    plots: bool = False,
    shard: bool = False,
    settings: dict[str, Any] | None = None,
) -> None:
    """Fine-tune BERT on a sentence task, evaluate it, or predict with it. Without a flag: train on
    the built-in sample.

    Args:
        task: cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte, wnli, ax or xnli; csv, tsv or jsonl for
            data of your own. A saved model knows its task.
        mode: train, eval or predict.
        train_cfg: JSON of train.Config; default config/train_TASK.json, train_own.json for data of
            your own.
        model_cfg: JSON of the model's shape, ours or Google's bert_config.json; default: what lies
            beside the weights.
        data_file: the file to train on, to evaluate or to predict; `-` predicts lines of standard
            input.
        model_file: a model trained here, to evaluate or predict with.
        pretrain_file: weights to start from: a TensorFlow checkpoint, a Hugging Face folder, a .pt.
            None: from scratch.
        data_parallel: use all visible GPUs.
        vocab: vocab.txt; default: what lies beside the weights.
        save_dir: folder of the run, which the same command goes on with; default runs/TASK.
        log_dir: folder for TensorBoard's curves.
        max_len: longest input in tokens; default 128, or what the model was trained with.
        do_lower_case: only to insist; it follows from the checkpoint.
        data_dir: a folder of GLUE: train.tsv to train on, dev.tsv to evaluate, test.tsv to predict.
        eval_file: evaluated after every epoch; several with commas between them.
        text_a: column of the text, by name or by number from 0; default text, or the first.
        text_b: column of a second text.
        label: column of the label; default label, or the second.
        labels: the labels, with commas between them, or `number`; default: those of the training
            data, sorted.
        header: whether the file has one; default: if all columns are named in its first row.
        separator: what stands between several labels of one text; default: a text has one.
        long: what to do with texts longer than max_len: truncate, or `window`: average over
            overlapping parts.
        meta_data_file: the JSON beside a .tf_record of the official code.
        freeze_encoder: train the last layer alone.
        boost: with a frozen encoder, encode every text once and keep the vectors.
        cache_dir: where boost keeps them; default `pooled` beside the save_dir.
        reinit_layers: how many of the top layers start anew.
        seeds: train so many times, from so many seeds, into SAVE_DIR/seed-N.
        out: predict: the file (for a data_dir: folder) to write, default standard output; eval: the
            folder for metrics, confusion matrix and errors, default `eval` beside the model.
        probabilities: whether to write the probability of every label; default: but for GLUE's test
            files.
        plots: write pictures too (needs matplotlib).
        shard: started by torchrun, divide the model among the processes, where it does not fit into
            one GPU.
        settings: no flag of its own: every setting of train_cfg is one, such as --lr 3e-5
            (config/README.md).
    """
    if mode not in ("train", "eval", "predict"):
        raise UserError(f"--mode {mode}: expected train, eval or predict")
    if data_file and data_dir:
        raise UserError("--data_file and --data_dir are both given; keep one")
    table: dict[str, Any] = {
        "text_a": text_a,
        "text_b": text_b,
        "label": label,
        "labels": labels,
        "header": header,
        "separator": separator,
    }
    if mode == "train":
        refuse("--mode train has no use for", out=out, probabilities=probabilities)
        if model_file:
            raise UserError(
                "--model_file is for --mode eval and predict; to start from weights use "
                "--pretrain_file"
            )
        if data_file == "-":
            raise UserError(
                "--data_file -: standard input is for --mode predict; training reads its data more "
                "than once"
            )
        if not boost:
            refuse("no --boost, which is needed with", cache_dir=cache_dir)
        if not data_file and not data_dir:
            refuse(
                "no --data_file, which is needed with",
                task=task,
                train_cfg=train_cfg,
                model_cfg=model_cfg,
                pretrain_file=pretrain_file,
                vocab=vocab,
                max_len=max_len,
                do_lower_case=do_lower_case,
                seeds=seeds,
                eval_file=eval_file,
                meta_data_file=meta_data_file,
                **table,
                **(settings or {}),
            )
            run_sample(save_dir, log_dir, shard)
            return
        chosen = own_task(get_task(task or "mrpc"), **table) if task or not meta_data_file else None
        dev = eval_file.split(",") if eval_file else []
        if data_dir:
            data_file, dev = (
                f"{data_dir}/train.tsv",
                dev or in_folder(data_dir, chosen.dev if chosen else ("dev.tsv",)),
            )
        run = finetune.prepare(
            chosen,
            str(data_file),
            train_cfg,
            model_cfg,
            pretrain_file,
            vocab,
            max_len,
            do_lower_case,
            dev_files=dev,
            long=long or "truncate",
            meta_data_file=meta_data_file,
            freeze_encoder=freeze_encoder,
            boost=boost,
            reinit_layers=reinit_layers,
            settings=settings,
        )
        if plots:
            reports.pyplot()  # before a day is spent, not after
        folder = Path(save_dir or f"runs/{run.task.name}")
        results = fit_seeds(
            run, 1 if seeds is None else seeds, folder, log_dir, data_parallel, cache_dir, shard
        )
        for result in results if plots and rank() == 0 else []:
            reports.plot_learning(
                result.file.parent / "learning.png", result.file.parent / "metrics.jsonl"
            )
        return
    if not model_file or not (data_file or data_dir):
        raise UserError(f"--mode {mode} needs --model_file and --data_file or --data_dir")
    refuse(
        f"--mode {mode} has no use for",
        pretrain_file=pretrain_file,
        save_dir=save_dir,
        log_dir=log_dir,
        seeds=seeds,
        eval_file=eval_file,
        cache_dir=cache_dir,
        freeze_encoder=freeze_encoder or None,
        boost=boost or None,
        reinit_layers=reinit_layers or None,
        meta_data_file=meta_data_file,
        shard=shard or None,
    )
    train.refuse_training_settings(mode, settings)
    if mode == "eval":
        refuse("--mode eval has no use for", probabilities=probabilities)
    else:
        refuse("--mode predict has no use for", plots=plots or None)
        if size() > 1 and data_file == "-":
            raise UserError(
                f"--data_file -: {size()} processes cannot share standard input; start one, "
                "without torchrun"
            )
        if data_dir and not out:
            raise UserError("--data_dir is predicted into a folder; name it with --out")
    saved = finetune.load(
        model_file,
        task,
        table,
        train_cfg,
        model_cfg,
        vocab,
        max_len,
        do_lower_case,
        long,
        data_parallel,
        settings,
    )
    if mode == "eval":
        say(saved.source)
        say(saved.device)
        for name in in_folder(data_dir, saved.task.dev) if data_dir else [str(data_file)]:
            evaluate(saved, name, Path(out or saved.file.parent / "eval"), plots)
        return
    if data_dir:
        for name, target in zip(
            saved.task.test, saved.task.hand_in or saved.task.test, strict=True
        ):
            if (file := Path(data_dir) / name).is_file() or name == saved.task.test[0]:
                predict_into(saved, str(file), f"{out}/{target}", probabilities)
    else:
        if str(data_file) == "-" and not task:
            saved.reader = dataclasses.replace(
                saved.reader, task=dataclasses.replace(saved.task, form="lines")
            )
        predict_into(saved, str(data_file), out, probabilities)


def in_folder(folder: str, names: tuple[str, ...]) -> list[str]:
    """Those of the files that are there; UserError where none is."""
    if not (
        found := [str(Path(folder) / name) for name in names if (Path(folder) / name).is_file()]
    ):
        raise UserError(f"{folder} has no {' or '.join(names)}; expected a folder of GLUE")
    return found


# ----------------------------------------------------------------------------------------- training


def fit_seeds(
    run: Run,
    n: int,
    folder: Path,
    log_dir: str | None = None,
    data_parallel: bool = True,
    cache_dir: str | None = None,
    shard: bool = False,
) -> list[Result]:
    """Train from one seed, or from several and compare them; returns what each came to."""
    if n < 1:
        raise UserError(f"--seeds {n}: expected at least 1")
    if n == 1:
        return [run.fit(folder, log_dir, data_parallel, cache_dir, shard)]
    if not run.dev:
        raise UserError("--seeds compares evaluations; name an --eval_file or a --data_dir")
    runs.check_free(folder)
    results, outcomes = [], []
    for seed in range(run.cfg.seed, run.cfg.seed + n):
        name = f"seed-{seed}"
        say(f"Seed {seed}")
        one = dataclasses.replace(run, cfg=dataclasses.replace(run.cfg, seed=seed))
        result = one.fit(
            folder / name,
            f"{log_dir}/{name}" if log_dir else None,
            data_parallel,
            cache_dir or folder / "pooled",
            shard,
        )
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
    text, summary = reports.over_seeds(
        outcomes,
        run.task.metrics[0],
        finetune.constant(run.task, run.dev[0].features.example_labels),
    )
    write_json(folder / "results.json", summary)
    print(f"{text}\nSaved {folder / 'results.json'}")
    return results


def run_sample(save_dir: str | None, log_dir: str | None, shard: bool = False) -> None:
    """The main job on the built-in sample, from scratch: make it, train, evaluate, tell what comes
    next.
    """
    from examples import sample

    print(f"No --data_file: training on the built-in sample in {SAMPLE}")
    sample.write(str(SAMPLE))
    distributed.meet()
    task = get_task("mrpc")
    run = finetune.prepare(
        task,
        f"{SAMPLE}/train.tsv",
        f"{SAMPLE}/train.json",
        f"{SAMPLE}/config.json",
        None,
        f"{SAMPLE}/vocab.txt",
        64,
        True,
    )
    result = run.fit(save_dir or "runs/sample_model", log_dir, shard=shard)
    evaluate(finetune.load(result.file), f"{SAMPLE}/dev.tsv", result.file.parent / "eval")
    labels = [example.label for example in read_examples(task, f"{SAMPLE}/dev.tsv")]
    majority = max(map(labels.count, set(labels))) / len(labels)
    print(
        f"Always answering the most frequent label would give an accuracy of {majority}\n\n"
        f"Next, with data of your own and weights from Google or Hugging Face:\n"
        "  python classify.py --task mrpc --data_file MRPC/train.tsv --pretrain_file FOLDER "
        "--save_dir runs/mrpc\n"
        "  python classify.py --mode eval --model_file runs/mrpc/model_steps_345.pt --data_file "
        "MRPC/dev.tsv"
    )


# --------------------------------------------------------------------------------------- evaluation


def evaluate(saved: Saved, data_file: str, folder: Path, plots: bool = False) -> dict[str, float]:
    """Print and return a saved model's metrics; write them, the confusion matrix and the worst
    mistakes into a folder.
    """
    if plots:
        reports.pyplot()
    task, data = saved.task, saved.reader.read(data_file)
    say(data.summary)
    scores, labels = saved.scores(data), data.features.example_labels
    predicted = finetune.predictions(task, scores)
    results = finetune.measure(task, predicted, labels)
    if len(task.dev) > 1:
        print(f"{data.file.name}:")
    for name, value in results.items():
        print(f"{name}: {value}")
    report: dict[str, Any] = {
        "model_file": str(saved.file),
        "data_file": data_file,
        "examples": len(labels),
        **results,
    }
    stem = data.file.stem
    if task.labels and not task.separator:
        matrix = confusion(predicted, labels, len(task.labels))
        report |= {"labels": task.labels, "confusion": matrix.tolist()}
        if len(task.labels) <= 10:
            print(reports.confusion_table(task.labels, matrix))
        if plots:
            reports.plot_confusion(
                folder / f"{stem}_confusion.png",
                task.labels,
                matrix,
                f"{task.name}, {data.file.name}",
            )
    write_json(folder / f"{stem}.json", report)
    measure = "difference" if task.labels is None else "probability"
    reports.write_tsv(
        folder / f"{stem}_errors.tsv",
        ["line", "label", "prediction", measure, "text_a", "text_b"],
        worst(task, data, scores, predicted),
    )
    if plots and (metrics_file := saved.file.parent / "metrics.jsonl").is_file():
        reports.plot_learning(folder / "learning.png", metrics_file)
    print(f"Saved {folder / stem}.json, {folder / stem}_errors.tsv")
    return results


def worst(task: Task, data: Data, scores: np.ndarray, predicted: np.ndarray) -> list[list[object]]:
    """Mistakes, the most confident first (of numbers, the furthest off): line, label, prediction,
    confidence, texts.
    """
    labels, features = data.features.example_labels, data.features
    if task.labels is None:
        confidence = np.abs(predicted - labels)
        wrong = confidence > 0
    else:
        chances = finetune.probabilities(task, scores)
        wrong = predicted != labels
        if task.separator:  # of the label that it is most wrong about
            confidence, wrong = (np.maximum(chances, 1 - chances) * wrong).max(1), wrong.any(1)
        else:
            confidence = chances.max(1)
    order = np.argsort(-confidence, kind="stable")
    lines = features.lines if features.first is None else features.lines[features.first]
    rows: list[list[object]] = []
    for i in order[wrong[order]][:WORST]:
        texts = (
            [data.examples[i].text_a, data.examples[i].text_b or ""] if data.examples else ["", ""]
        )
        rows.append(
            [
                lines[i],
                name_of(task, labels[i]),
                name_of(task, predicted[i]),
                f"{confidence[i]:.4f}",
                *texts,
            ]
        )
    return rows


def name_of(task: Task, answer: Any) -> str:
    """A label or prediction in words."""
    if task.labels is None:
        return f"{answer:.6g}"
    if task.separator:
        return task.separator.join(
            name for name, has in zip(task.labels, answer, strict=True) if has
        )
    return task.labels[answer]


# -------------------------------------------------------------------------------------- predictions


def predict_into(saved: Saved, data_file: str, out: str | None, probabilities: bool | None) -> None:
    """Predict a file, or `-`, into another, which is whole or absent, or to standard output as it
    goes.
    """
    if probabilities is None:
        probabilities = not (saved.task.hand_in and Path(data_file).name in saved.task.test)
    if out is None and sys.stdout is None:
        raise UserError("standard output is closed; name a file with --out")
    if out is None:
        for line in predictions(saved, data_file, probabilities):
            sys.stdout.write(line)
            sys.stdout.flush()
        return
    with whole_file(out) as f:
        for line in predictions(saved, data_file, probabilities):
            f.write(line.encode())
    note(f"Saved {out}")


def predictions(saved: Saved, data_file: str, probabilities: bool) -> Iterator[str]:
    """The lines of a table, some at a time: index and prediction, as GLUE takes them, and the
    probability of every label.

    Rows come in the order of the file, counted from 0.
    """
    task, index, cut = saved.task, 0, np.zeros(3, int)
    names = task.labels if probabilities and task.labels else ()
    header, table = "\t".join(["index", "prediction", *names]) + "\n", None
    if RECORDS.search(data_file):
        parts: Iterator[Data] = iter([saved.reader.read(data_file, labelled=False)])
    else:
        table, examples = open_rows(task, data_file, labelled=False)
        size = CHUNK * saved.trainer.cfg.batch_size
        chunks = (
            at_hand(examples, size)
            if data_file == "-"
            else iter(lambda: list(islice(examples, size)), [])
        )
        parts = (saved.reader.encode(data_file, chunk) for chunk in chunks)
    for data in parts:
        scores = saved.scores(data, bar=False)
        predicted = finetune.predictions(task, scores)
        chances = finetune.probabilities(task, scores) if names else np.empty((len(scores), 0))
        if header:  # now that there is something to predict
            note(saved.source)
        lines, header = [header], ""
        for answer, row in zip(predicted, chances, strict=True):
            lines.append(
                "\t".join([str(index), name_of(task, answer), *(f"{chance:.6f}" for chance in row)])
                + "\n"
            )
            index += 1
        cut += (*data.features.cut, len(data.features.ids))
        yield "".join(lines)
    if header:
        yield header
    if table and data_file != "-":
        note(understood(data_file, index, table.names, table.header, collections.Counter()))
    tell_cut(data_file, index, saved.reader.max_len, *cut)


def at_hand(examples: Iterator[Example], most: int) -> Iterator[list[Example]]:
    """What a pipe has delivered since the last look, at least one and at most so many."""
    waiting: queue.Queue = queue.Queue(most)

    def read() -> None:
        try:
            for example in examples:
                waiting.put(example)
            waiting.put(None)
        except BaseException as error:  # for the thread that waits
            waiting.put(error)

    threading.Thread(target=read, daemon=True).start()
    item = None
    while True:
        chunk = []
        item = waiting.get()
        with contextlib.suppress(queue.Empty):
            while isinstance(item, Example):
                chunk.append(item)
                if len(chunk) == most:
                    break
                item = waiting.get_nowait()
        if chunk:
            yield chunk
        if isinstance(item, BaseException):
            raise item
        if item is None:
            return


if __name__ == "__main__":
    command(main, settings=train.Config, processes=True)

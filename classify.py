"""Fine-tune BERT on a sentence task, evaluate it, predict with it.

$ python classify.py --demo True  # makes a small sample, trains on it, evaluates
$ python classify.py --task mrpc --data_dir GLUE/MRPC --pretrain_file BERT --save_dir runs/mrpc
$ python classify.py --mode eval --model_file runs/mrpc --data_file GLUE/MRPC/dev.tsv
$ python classify.py --mode predict --model_file runs/mrpc --data_file GLUE/MRPC/test.tsv
"""

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from command import RunCommand, TaskCommand, check_demo, check_shared, write_answers
from system.cli import command
from system.files import check_output, named_files
from system.flags import only
from utils import UserError, log, rank

if TYPE_CHECKING:
    from finetune import FineTuneConfig, Result, Run, Saved
    from tasks import SentenceTask
    from tasks.task import Data


@dataclasses.dataclass(kw_only=True)
class Classify(TaskCommand):
    """Fine-tune BERT on a sentence task, evaluate it, or predict with it."""

    kind = "classifier"
    data_trains = True
    task_fields = (
        *("task", "meta_data_file", "max_len", "long", "text_a", "text_b", "label", "labels"),
        *("header", "separator", "delimiter", "encoding", "unlabelled", "empty"),
        *("metrics", "class_weights", "split_by"),
    )
    report_endings = ("_errors.tsv",)

    # -- What to do
    # cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte, wnli or ax of GLUE; boolq, cb, rte, wic, wsc or
    # multirc of SuperGLUE; pawsx or xnli; csv, tsv or jsonl for data of your own. Default: mrpc, or
    # the task of the saved model
    task: str | None = None
    # make the built-in sample, train on it, evaluate
    demo: bool = only("train", False)
    # -- Data
    # the file to train on; --data_file does so too
    train_file: str | None = only("train")
    # the file to evaluate or to predict; `-` predicts lines of standard input. To evaluate, several
    # with commas between them
    data_file: str | None = None
    # a folder of GLUE or SuperGLUE, instead of data_file: train.tsv or train.jsonl to train on,
    # dev.tsv or val.jsonl to evaluate, test.tsv or test.jsonl to predict
    data_dir: str | None = None
    # longest input in tokens; default 128, for boolq 256 and multirc 512, or what the model was
    # trained with
    max_len: int | None = None
    # what to do with texts longer than max_len: truncate; head_tail: cut off their middle; window:
    # average over overlapping parts; window_max: take the largest score of each label over them.
    # Default: truncate, or what the model was trained with
    long: str | None = None
    # without an eval_file, the share of the rows that is evaluated and not trained on, such as 0.1:
    # with each label's share, equal texts on one side; SAVE_DIR/dev.jsonl has them
    dev_split: float | None = only("train")
    # train so many times, each time evaluated on another part of the rows, into SAVE_DIR/fold-N
    folds: int | None = only("train")
    # column of what has to stay on one side of such a division, a customer say
    split_by: str | None = only("train")
    meta_data_file: str | None = only("train")  # the JSON beside a .tf_record of the official code
    # -- Your own columns
    # column of the text, by name or by number from 0; default: text, or the first
    text_a: str | None = None
    text_b: str | None = None  # column of a second text
    label: str | None = None  # column of the label; default: label, or the second
    # the labels, with commas between them, or `number`, or `1..5` for whole numbers; default: those
    # of the training data, sorted, and `all` of them where some look like mistakes. Each may have a
    # column of 0 and 1
    labels: str | None = None
    # whether the first row names the columns; default: if it has all columns named here
    header: bool | None = None
    # what stands between several labels of one text; default: a text has one, or a list of JSON
    separator: str | None = None
    # what stands between the fields of a csv, such as `;` or `tab`; default: look
    delimiter: str | None = None
    # encoding of files that are neither UTF-8 nor UTF-16, such as cp1252
    encoding: str | None = None
    # what to do with rows that have no label: drop; default: ask
    unlabelled: str | None = only("train eval")
    # what to do with rows that have no text: drop, or keep; default: ask
    empty: str | None = only("train eval")
    # -- Quality
    # what is measured, with commas between, the first decides which checkpoint is best: Accuracy,
    # F1, Macro-F1, F1:LABEL, Balanced accuracy, Matthews, AUC, Average precision; of numbers
    # Pearson, Spearman, MAE, RMSE. Default: the task's own
    metrics: str | None = None
    # what each label counts in the loss: balanced, or numbers with commas between them, in the
    # order of the labels
    class_weights: str | None = only("train")
    # the probability below which a text gets no answer, or of several labels from which on it has
    # one: a number, or in training auto, chosen on the first eval_file
    threshold: str | float | None = None
    # divide scores by what makes confidence honest on the first eval_file
    calibrate: bool = only("train", False)
    # -- Training
    # train the classifier alone; encoder and pooler stay as they are
    freeze_encoder: bool = only("train", False)
    # with a frozen encoder, encode every text once and keep the vectors
    boost: bool = only("train", False)
    reinit_layers: int = only("train", 0)  # how many of the top layers start anew
    # how often to train, each time from another seed, into SAVE_DIR/seed-N; default: once, into
    # SAVE_DIR
    seeds: int | None = only("train")
    # settings to try, such as "lr=1e-5,2e-5 batch_size=16,32": every combination in a folder of its
    # own in SAVE_DIR, with --seeds from so many seeds each
    grid: str | None = only("train")
    # -- Output
    # of predict, the file (for a data_dir: the folder) to write; default: standard output. Of eval,
    # the folder for metrics, confusion matrix and errors; default: eval beside the model
    out: str | None = only("eval predict")
    # columns of the data that a .csv, .jsonl or .parquet to write begins with, with commas between
    # them, or all; behind them are answer, confidence and a column for each class
    keep: str | None = only("predict")
    # write a .csv that a spreadsheet opens as it is: with a byte order mark, and no cell a formula
    excel: bool = only("predict", False)
    # another model of the same labels, to compare with on the same rows
    compare: str | None = only("eval")
    plots: bool = only("train eval", False)  # write pictures too (needs matplotlib)

    def check(self) -> None:
        if self.mode == "train" and self.model_file:
            raise UserError(
                "--model_file is for --mode eval and predict; to start from weights use "
                "--pretrain_file"
            )
        RunCommand.check(self)
        if self.data_file and self.data_dir:
            raise UserError("--data_file and --data_dir are both given; keep one")
        if isinstance(self.threshold, str) and (self.threshold != "auto" or self.mode != "train"):
            expected = "a number or auto" if self.mode == "train" else "a number"
            raise UserError(f"--threshold {self.threshold}: expected {expected}")
        if self.mode == "train":
            self.check_training()
        elif not self.model_file or not (self.data_file or self.data_dir):
            raise UserError(f"--mode {self.mode} needs --model_file and --data_file or --data_dir")
        if self.mode == "predict":
            check_shared(self.data_file)
            if self.data_dir and not self.out:
                raise UserError("--data_dir is predicted into a folder; name it with --out")
            self.check_table()
            if self.out and not self.data_dir:
                self.check_outputs([self.out])
        if self.plots:
            # matplotlib may be missing. Better to learn that now than after a day of training.
            from tasks import pictures

            pictures.new((1, 1))

    def check_table(self) -> None:
        """UserError where --keep and --excel have no table to be about."""
        from tasks import answer_tables

        if self.data_dir and (self.keep or self.excel):
            raise UserError("--keep and --excel are for a --data_file, not for a --data_dir")
        if not self.data_dir:
            answer_tables.check(self.out, self.kept, self.excel)

    def check_training(self) -> None:
        """UserError where flags do not say what to train on."""
        if self.data_file == "-":
            raise UserError(
                "--data_file -: standard input is for --mode predict; training reads its data more "
                "than once"
            )
        check_demo(self, self.data_file or self.data_dir)
        decides = self.threshold == "auto" or self.calibrate
        if decides and self.grid:
            flag = "--calibrate" if self.calibrate else "--threshold auto"
            raise UserError(f"{flag} is for one run; train the best of the --grid with it")
        if decides and self.shard:
            raise UserError("--threshold auto and --calibrate do not go with --shard; leave it out")
        self.check_division()
        if decides and not (self.eval_file or self.data_dir or self.dev_split):
            flag = "--calibrate" if self.calibrate else "--threshold auto"
            raise UserError(f"{flag} is chosen on data that is not trained on; add --eval_file")
        if self.seeds is not None and self.seeds < 1:
            raise UserError(f"--seeds {self.seeds}: expected at least 1")

    def check_division(self) -> None:
        """UserError where flags divide the data in two ways, or not at all."""
        evaluated = self.eval_file or self.data_dir
        flag = "--dev_split" if self.dev_split is not None else "--folds"
        if self.dev_split is not None and self.folds is not None:
            raise UserError("--dev_split and --folds are both given; keep one")
        if (self.dev_split is not None or self.folds is not None) and evaluated:
            given = "--eval_file" if self.eval_file else "--data_dir"
            raise UserError(f"{flag} evaluates rows of --data_file; leave {given} out")
        if self.split_by and self.dev_split is None and self.folds is None:
            raise UserError("--split_by is for --dev_split or --folds; add one")
        if self.folds is not None and self.folds < 2:
            raise UserError(f"--folds {self.folds}: expected at least 2")
        if self.folds is not None and self.unlabelled_file:
            raise UserError("--unlabelled_file and --folds do not go together; leave one out")
        if self.folds is not None:
            others: dict[str, Any] = {
                "--seeds": self.seeds,
                "--shard": self.shard,
                "--calibrate": self.calibrate,
            }
            others |= {"--threshold auto": self.threshold == "auto", "--grid": self.grid}
            if clashing := [name for name, value in others.items() if value]:
                raise UserError(f"--folds ends with no single model; leave {clashing[0]} out")

    # ------------------------------------------------------------------------------------ train

    def train(self) -> None:
        """Train from one seed, or from several and compare them."""
        if self.demo:
            from examples import sample

            sample.fine_tune(self.save_dir, self.log_dir, self.data_parallel, self.shard)
            return
        from tasks import answers, trials

        task = self.new_task()
        run = self.prepare(task, *self.training_files(task), self.tuning, self.dev_split)
        if run.task.number and (self.threshold == "auto" or self.calibrate):
            raise UserError("--threshold and --calibrate are for labels; the answer is a number")
        folder = Path(self.save_dir or f"runs/{run.task.name}")
        how = (self.log_dir, self.data_parallel, self.shard)
        if self.folds:
            trials.fit_folds(run, self.folds, folder, self.log_dir, self.data_parallel)
            return
        if self.grid:
            grid = trials.parse_grid(self.grid)
            self.say_next(trials.fit_grid(run, grid, self.seeds or 1, folder, *how))
            return
        if self.seeds in (None, 1):
            best = run.fit(folder, *how)
            results = [best]
        else:
            results, best = trials.fit_seeds(run, self.seeds or 1, folder, *how)
        for result in results:
            self.finish(run, result)
        self.report_costs(run, best)
        self.say_next(best.file.parent)
        # All processes return the same results; one of them writes the pictures.
        if self.plots and rank() == 0:
            for result in results:
                answers.picture_of_run(result.file.parent, result.file.parent)

    def finish(self, run: "Run", result: "Result") -> None:
        """Choose thresholds and a temperature with the best checkpoint, and report what it does."""
        import finetune

        if not (saved := self.load_best(run, result)):
            return
        if self.threshold == "auto" or self.calibrate:
            log(finetune.decide(saved, run.eval_data[0], self.threshold == "auto", self.calibrate))
        if self.seeds in (None, 1):
            self.report_best(run, saved)

    def given(self) -> dict[str, Any]:
        """The task's fields that were given; a threshold that is found later is none."""
        threshold = None if self.threshold == "auto" else self.threshold
        return super().given() | ({} if threshold is None else {"threshold": threshold})

    def new_task(self) -> "SentenceTask":
        """The task to train, as the flags say; a run of an earlier version goes on as it began."""
        from system.files import read_settings

        task = super().new_task()
        begun = read_settings(Path(self.save_dir or f"runs/{task.name}") / "run.json")
        if not (task.custom and begun):
            return task
        if self.metrics is None and "metrics" not in begun:
            task = dataclasses.replace(task, metric_names=("Accuracy",))
        return dataclasses.replace(task, plain_numbers=task.number and "spread" not in begun)

    def training_files(self, task: "SentenceTask") -> tuple[str, list[str]]:
        """The file to train on, and those to evaluate."""
        from tasks.superglue import file_in, files_in

        if self.data_dir:
            # Files that were named replace those of the folder.
            eval_files = self.eval_files or files_in(self.data_dir, task.dev)
            return file_in(self.data_dir, "train.tsv"), eval_files
        assert self.data_file
        return self.data_file, self.eval_files

    @property
    def tuning(self) -> "FineTuneConfig":
        """How the model is fine-tuned, beside train.Config."""
        from finetune import FineTuneConfig

        return FineTuneConfig(self.freeze_encoder, self.boost, self.reinit_layers)

    # ------------------------------------------------------------------------- eval and predict

    def eval(self) -> None:
        """Print and write the metrics of each file."""
        from tasks.superglue import files_in

        saved = self.load()
        if self.data_dir:
            files = files_in(self.data_dir, saved.task.dev)
        else:
            assert self.data_file
            files = named_files(self.data_file)
        self.evaluate(saved, files)

    @functools.cached_property
    def other(self) -> "Saved | None":
        """The model that --compare names."""
        import finetune

        return finetune.load(self.compare, **self.inference()) if self.compare else None

    def report(
        self, saved: "Saved", data: "Data", outputs: Any, stem: Path
    ) -> tuple[dict[str, Any], list[str]]:
        """The confusion matrix, the worst mistakes and pictures."""
        from tasks import answers

        return answers.report(saved, data, outputs, stem, self.plots, self.other)

    def predict(self) -> None:
        """Write a row for each row: its number, the prediction, the probability of each label."""
        saved = self.load()
        if self.data_dir:
            self.predict_folder(saved, self.data_dir)
            return
        assert self.data_file
        # Lines typed or piped have no columns, unless the user says of which task they are.
        if self.data_file == "-" and not self.task:
            saved.task = dataclasses.replace(saved.task, form="lines")
        predict_file(saved, self.data_file, self.out, self.kept, self.excel)

    @property
    def kept(self) -> tuple[str, ...]:
        """The columns that --keep names."""
        return tuple(name.strip() for name in self.keep.split(",")) if self.keep else ()

    def predict_folder(self, saved: "Saved", folder: str) -> None:
        """Predict the test files of a folder into another folder."""
        from tasks.superglue import file_in

        task = saved.task
        # GLUE's site expects file names of its own, one for each test file of the task.
        for name, target in zip(task.test, task.submission or task.test, strict=True):
            file = file_in(folder, name)
            # Only the first test file is required: a folder may have MNLI's matched set alone.
            if Path(file).is_file() or name == task.test[0]:
                # RTE is SuperGLUE's too, whose file is none for GLUE's site.
                out = f"{self.out}/{target if file.endswith(name) else name}"
                check_output(out, [file])
                predict_file(saved, file, out)


def predict_file(
    saved: "Saved",
    data_file: str,
    out: str | None,
    keep: tuple[str, ...] = (),
    excel: bool = False,
) -> None:
    """Predict a file, or `-`, into another, whole or absent, or to standard output as it goes."""
    from tasks import answer_tables, answers

    if out and answer_tables.check(out, keep, excel):
        answer_tables.write(saved, data_file, out, keep, excel)
        return
    # GLUE's site accepts no columns beside index and prediction.
    for_site = saved.task.submission and Path(data_file).name in saved.task.test
    # Answers on a terminal show that it goes on; a file shows nothing.
    lines = answers.prediction_lines(saved, data_file, not for_site, bar=out is not None)
    write_answers(lines, out)


if __name__ == "__main__":
    command(Classify, processes=True)

"""Commands that train, evaluate and predict: their flags, and what each --mode does.

    class Choose(FilesCommand):
        kind = "choice"

    Choose(train_file="train.jsonl", pretrain_file="bert", save_dir="runs/csqa").run()

Whatever loads PyTorch, which takes seconds, is imported when it is used: --help and a wrong flag
need none of it.
"""

import dataclasses
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from system.files import check_output, named_files, whole_file, write_json
from system.flags import check_mode, given_flags, only, settings_of
from training.settings import INFERENCE, Config
from utils import UserError, data_stream, log, size, warn

if TYPE_CHECKING:
    import finetune
    from pretrained import Pretrained
    from tasks.task import Data, Task

# What a run on the built-in sample has a use for.
DEMO_FLAGS = ("demo", "save_dir", "log_dir", "data_parallel", "shard")


@dataclasses.dataclass(kw_only=True)
class RunCommand:
    """The flags of every command that trains."""

    modes: ClassVar[tuple[str, ...]] = ("train", "eval", "predict")
    data_trains: ClassVar[bool] = False  # whether --data_file may be what is trained on

    # -- What to do
    mode: str = "train"  # train, eval or predict
    # -- Weights
    # weights to start training from: a TensorFlow checkpoint or Google's .zip, a Hugging Face
    # folder, a .pt, or a name of `checkpoint.py list`; default: none, so that training starts from
    # scratch
    pretrain_file: str | None = only("train")
    # a model trained here, to evaluate or predict with: its folder, its .pt or its .onnx
    model_file: str | None = only("eval predict")
    # JSON of the model's shape, ours or Google's bert_config.json; default: what lies beside the
    # weights
    model_cfg: str | None = None
    vocab: str | None = None  # vocab.txt; default: what lies beside the weights
    # -- Training
    train_cfg: str | None = None  # JSON of train.Config; default: the task's own in config/
    data_parallel: bool = True  # use all visible GPUs
    # started by torchrun, divide the model among the processes, where it does not fit into one GPU
    shard: bool = only("train", False)
    # -- A smaller model
    # start from these blocks of the encoder alone, as 0,2,5
    keep_layers: str | None = only("train")
    n_layers: int | None = only("train")  # the same, so many of them, evenly spaced
    # a model trained on the same task, whose answers count beside those of the data
    teacher: str | None = only("train")
    # what scores are divided by, so that more than the teacher's best answer counts; default 2
    temperature: float | None = only("train")
    teacher_weight: float | None = only("train")  # of the teacher in the loss; default .75
    # blocks of the teacher, one for each block of the model, whose [CLS] is learnt too, as 1,3,5
    teacher_layers: str | None = only("train")
    # -- Training
    # settings that replace those of train_cfg, as {"lr": 3e-5}
    settings: dict[str, Any] = settings_of(Config, everywhere=INFERENCE)  # noqa: RUF009
    # -- Output
    # folder of the run, which the same command resumes; default: runs/TASK
    save_dir: str | None = only("train")
    log_dir: str | None = only("train")  # folder for TensorBoard's curves

    def run(self) -> None:
        """Call the method of --mode, once the flags are found to fit."""
        self.name_data()
        self.check()
        getattr(self, self.mode)()

    def name_data(self) -> None:
        """Of commands that train on --data_file too, take --train_file for it."""
        given = getattr(self, "train_file", None)
        if not self.data_trains or given is None or self.mode != "train":
            return
        if getattr(self, "data_file", None) is not None:
            raise UserError("--train_file and --data_file both say what to train on; keep one")
        vars(self).update(data_file=given, train_file=None)

    def smaller(self, start: "Pretrained") -> "Pretrained":
        """Weights with the layers that --keep_layers or --n_layers names."""
        if self.keep_layers is not None and self.n_layers is not None:
            raise UserError("--keep_layers and --n_layers both choose layers; keep one")
        if self.keep_layers is not None:
            return start.with_layers(numbers_in(self.keep_layers, "keep_layers"))
        if (n := self.n_layers) is None:
            return start
        most = start.config.n_layers
        if not 1 <= n <= most:
            raise UserError(f"--n_layers {n}: expected 1 to {most}, the layers of the weights")
        # The first and the last, and as many between them as are asked for.
        return start.with_layers([i * (most - 1) // max(n - 1, 1) for i in range(n)])

    def lesson(self) -> dict[str, Any]:
        """What finetune.prepare() takes of a teacher."""
        given: dict[str, Any] = {"weight": self.teacher_weight, "temperature": self.temperature}
        # Of vectors it is that of a loss, and they are compared as they are.
        others = getattr(self, "task_fields", ())
        given = {k: v for k, v in given.items() if v is not None and k not in others}
        if self.teacher_layers is not None:
            given["layers"] = tuple(numbers_in(self.teacher_layers, "teacher_layers"))
        if not self.teacher:
            if given:
                raise UserError(
                    "--temperature, --teacher_weight and --teacher_layers are for a --teacher; "
                    "name one"
                )
            return {}
        from tasks.lessons import Lesson

        return {"teacher": self.teacher, "lesson": Lesson(**given)}

    def load_best(
        self, run: "finetune.Run", result: "finetune.Result", task: "Task | None" = None
    ) -> "finetune.Saved | None":
        """The best checkpoint of a run; None where it is not known, or takes several processes.

        Args:
            task: it is of; None: as the file beside it says.
        """
        import finetune

        # A divided model does not fit into one process.
        if not run.eval_data or self.shard:
            return None
        return finetune.load(
            result.best_file,
            task,
            dtype=run.cfg.dtype,
            data_parallel=self.data_parallel,
            device=run.cfg.device,
        )

    def report_costs(
        self, run: "finetune.Run", result: "finetune.Result", task: "Task | None" = None
    ) -> None:
        """Say what the best checkpoint costs and answers beside its teacher."""
        from tasks import costs

        if run.teacher and (saved := self.load_best(run, result, task)):
            for line in costs.beside(saved, run.teacher.saved, run.eval_data[0]):
                log(line)

    def inference(self) -> dict[str, Any]:
        """How a saved model is computed, as finetune.load() takes it; no file need be named."""
        cfg = Config.from_flags(self.train_cfg, self.settings)
        asked = self.train_cfg or "batch_size" in self.settings
        return {
            "batch_size": cfg.batch_size if asked else None,
            "dtype": cfg.dtype,
            "data_parallel": self.data_parallel,
            "device": cfg.device,
        }

    def check(self) -> None:
        """UserError where flags do not go together."""
        if self.mode not in self.modes:
            *others, last = self.modes
            raise UserError(f"--mode {self.mode}: expected {', '.join(others)} or {last}")
        check_mode(self)


def numbers_in(text: str, flag: str) -> list[int]:
    """The layers that a flag lists."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise UserError(f"--{flag} {text}: expected numbers, as 0,2,5")
    return [int(part) for part in parts]


@dataclasses.dataclass(kw_only=True)
class TaskCommand(RunCommand):
    """The flags of a command for one kind of task, and what its modes have in common."""

    kind: ClassVar[str]  # of task: the name of its head
    task_fields: ClassVar[tuple[str, ...]] = ("max_len",)  # which flags of the same names set
    file_flag: ClassVar[str] = "data_file"  # the flag that names a file to evaluate or predict
    report_endings: ClassVar[tuple[str, ...]] = ()  # of the files that report() writes
    reads_folders: ClassVar[bool] = False  # whether a folder may be what is read, such as BEIR's

    # -- Data
    # evaluated after every epoch of training; several with commas between them
    eval_file: str | None = only("train")
    # more rows, without labels, of which a --teacher's answers are learnt
    unlabelled_file: str | None = only("train")
    # longest input in tokens; default: the task's own, or what the model was trained with
    max_len: int | None = None
    # -- Output
    # of predict, the file to write; default: standard output. Of eval, the folder for metrics;
    # default: eval beside the model
    out: str | None = only("eval predict")

    def given(self) -> dict[str, Any]:
        """Those of the task's fields that were given."""
        values = {name: getattr(self, name) for name in self.task_fields}
        # A flag that was not given is left to the task, where each default stands once.
        return {name: value for name, value in values.items() if value is not None}

    def check_outputs(self, files: Iterable[str | Path]) -> None:
        """UserError where a file to write is one that a flag names, or a part of a model."""
        outputs = ("out", "save_dir", "log_dir")
        given = [value for name, value in vars(self).items() if name not in outputs]
        inputs = [value for value in given if isinstance(value, str)]
        for file in files:
            check_output(file, inputs)

    # ------------------------------------------------------------------------------------ train

    def new_task(self) -> Any:
        """The task to train, as the flags say."""
        from tasks import KINDS

        return KINDS[self.kind].new(**self.given())

    def fit(self, data_file: str | None) -> None:
        """Train on a file, and say which commands go on from there."""
        if not data_file:
            raise UserError("--mode train needs --train_file")
        dev_split = getattr(self, "dev_split", None)
        run = self.prepare(self.new_task(), data_file, self.eval_files, dev_split=dev_split)
        folder = self.save_dir or f"runs/{run.task.name}"
        result = run.fit(folder, self.log_dir, self.data_parallel, self.shard)
        self.finish(run, result)
        self.report_costs(run, result)
        self.say_next(folder)

    def finish(self, run: "finetune.Run", result: "finetune.Result") -> None:
        """What follows on training."""

    def report_best(self, run: "finetune.Run", saved: "finetune.Saved") -> None:
        """Evaluate the best checkpoint on what was evaluated while training."""
        log(f"The best checkpoint, {saved.file}:")
        loaded = {str(data.file): data for data in run.eval_data}
        self.report_files(saved, list(loaded), loaded.__getitem__)

    @property
    def eval_files(self) -> list[str]:
        """The files that --eval_file names."""
        given = self.eval_file
        return named_files(given, self.reads_folders) if given is not None else []

    def prepare(
        self,
        task: "Task",
        data_file: str,
        eval_files: list[str],
        tuning: "finetune.FineTuneConfig | None" = None,
        dev_split: float | None = None,
    ) -> "finetune.Run":
        """Everything that training needs, read and checked."""
        import finetune
        import pretrained

        # Where --train_cfg is given the task's usual configuration is not asked for: AX has none.
        usual = None if self.train_cfg else task.train_cfg
        cfg = Config.from_flags(self.train_cfg, self.settings, usual)
        folder = self.save_dir or f"runs/{task.name}"
        start = pretrained.find(self.pretrain_file, self.model_cfg, self.vocab, save_dir=folder)
        more = {**self.lesson(), "unlabelled_file": self.unlabelled_file}
        start = self.smaller(start)
        return finetune.prepare(task, data_file, start, eval_files, cfg, tuning, dev_split, **more)

    def say_next(self, folder: str | Path) -> None:
        """Say which commands go on from a trained model."""
        from formats.cards import COMMANDS

        script, model = f"python {COMMANDS[self.kind]}", shlex.quote(str(folder))
        log(
            f"Evaluate it:  {script} --mode eval --model_file {model} --{self.file_flag} FILE\n"
            f"Predict:      {script} --mode predict --model_file {model} --{self.file_flag} FILE\n"
            f"Take it away: python checkpoint.py convert {model} FOLDER  # transformers, or "
            "FILE.onnx"
        )

    # ------------------------------------------------------------------------- eval and predict

    def load(self) -> "finetune.Saved":
        """The saved model, with what flags say of its task."""
        import finetune
        import pretrained
        from tasks import KINDS

        assert self.model_file
        start = pretrained.find(
            self.model_file, self.model_cfg, self.vocab, KINDS[self.kind].head, predicting=True
        )
        task = KINDS[self.kind].saved(start, **self.given())
        return finetune.load(self.model_file, task, start, **self.inference())

    def evaluate(self, saved: "finetune.Saved", files: list[str]) -> None:
        """Print and write the metrics of each file, of several a table at the end."""
        from training import devices

        log(saved.describe())
        log(devices.describe(saved.device, saved.n_gpus, dtype=saved.dtype))
        self.report_files(saved, files, saved.load)

    def report_files(
        self, saved: "finetune.Saved", files: list[str], load: Callable[[str], "Data"]
    ) -> None:
        """Print and write the metrics of each file.

        Args:
            load: what a file becomes.
        """
        from tasks import reports

        folder, names = Path(self.out or saved.folder / "eval"), reports.short_names(files)
        stems = [folder / reports.report_name(name) for name in names]
        self.check_reports(folder, stems)
        results = {}
        for name, file, stem in zip(names, files, stems, strict=True):
            data = load(file)
            log(data.summary)
            outputs = saved.outputs(data)
            found = saved.task.metrics(data, outputs)
            names_of = saved.task.metric_names
            results[name] = {metric: found[metric] for metric in names_of if metric in found}
            if len(files) > 1:
                print(f"{name}:")
            print_metrics(results[name])
            about = {"model_file": str(saved.file), "data_file": file, "examples": len(data)}
            more, written = self.report(saved, data, outputs, stem)
            write_json(Path(f"{stem}.json"), about | results[name] | more)
            print("Saved " + ", ".join([f"{stem}.json", *written]))
        if len(files) > 1:
            text, summary = reports.files_table(results)
            models = {"model_file": str(saved.file), "data_files": files}
            write_json(folder / "all_files.json", models | summary)
            print(f"{text}\nSaved {folder / 'all_files.json'}")

    def check_reports(self, folder: Path, stems: list[Path]) -> None:
        """check_outputs() of all that evaluating files writes into a folder."""
        endings = (".json", *self.report_endings)
        files = [f"{stem}{ending}" for stem in stems for ending in endings]
        self.check_outputs([*files, folder / "all_files.json"])

    def report(
        self, saved: "finetune.Saved", data: "Data", outputs: Any, stem: Path
    ) -> tuple[dict[str, Any], list[str]]:
        """What a kind of task prints and writes beside its metrics.

        Returns what the file of metrics gets too, and the names of the files written.
        """
        return {}, []


@dataclasses.dataclass(kw_only=True)
class FilesCommand(TaskCommand):
    """A command that trains on one file, and evaluates and predicts others."""

    # -- Data
    train_file: str | None = only("train")  # the examples to train on
    # the file to evaluate (several with commas between them) or to predict; `-`: standard input
    data_file: str | None = only("eval predict")

    def name_data(self) -> None:
        """Of commands that read folders, --data_dir is what the mode reads."""
        super().name_data()
        folder = getattr(self, "data_dir", None)
        if not folder:
            return
        name = "train_file" if self.mode == "train" else "data_file"
        if getattr(self, name):
            raise UserError(f"--{name} and --data_dir are both given; keep one")
        setattr(self, name, folder)

    def check(self) -> None:
        super().check()
        if self.mode != "train" and not (self.model_file and self.data_file):
            raise UserError(f"--mode {self.mode} needs --model_file and --data_file")
        if self.data_file == "-" and self.mode == "eval":
            raise UserError("--data_file -: standard input is for --mode predict; name a file")
        check_shared(self.data_file)
        if self.mode == "predict" and self.out:
            self.check_outputs([self.out])

    def train(self) -> None:
        """Train on --train_file."""
        self.fit(self.train_file)

    def eval(self) -> None:
        """Print and write the metrics of each file of --data_file."""
        assert self.data_file
        saved = self.load()
        self.evaluate(saved, named_files(self.data_file, self.reads_folders))

    def predict(self) -> None:
        """Write the answers to the examples of --data_file, as they are there."""
        assert self.data_file
        saved = self.load()
        write_answers(answer_lines(saved, self.data_file, bar=self.out is not None), self.out)


def print_metrics(metrics: dict[str, float]) -> None:
    """A metric a line."""
    for name, value in metrics.items():
        print(f"{name}: {value}")


def check_demo(command: Any, data: str | None) -> None:
    """UserError where there are neither data nor --demo, or flags that a demo has no use for."""
    names = [name for name in given_flags(command) if name != "data_file" or data]
    others = [f"--{name}" for name in names if name not in DEMO_FLAGS]
    if command.demo and others:
        raise UserError(f"--demo has no use for {', '.join(others)}; see --help")
    if not command.demo and not data:
        shown = ", ".join(others or [f"--{name}" for name in names])
        needed = f", which is needed with {shown}" if shown else ""
        raise UserError(f"no --data_file{needed}; see --help")


def check_shared(data_file: str | None) -> None:
    """UserError where several processes would share standard input."""
    # Each process would take some of the lines, and no two the same.
    if data_file == "-" and size() > 1:
        raise UserError(
            f"--data_file -: {size()} processes cannot share standard input; start one, without "
            "torchrun"
        )


def answer_lines(saved: "finetune.Saved", file: str, bar: bool) -> Iterator[str]:
    """The lines of a file of answers, a part at a time; `-` reads standard input."""
    task, n = saved.task, 0
    head = f"{task.answer_columns}\n" if task.answer_columns else ""
    # From a pipe nothing is waited for: an interactive user wants an answer to each line.
    parts = saved.stream(file, task.read_unlabelled(file), waiting=file != "-", bar=bar)
    for data, answers in parts:
        # The first rows have been read without an error, so the model's name is worth a line.
        if n == 0:
            warn(saved.describe())
            yield head
        yield "".join(f"{line}\n" for line in task.lines(data, answers, n))
        n += len(answers)
    # A file without rows still becomes a table, since another program may read it.
    if n == 0:
        yield head


def write_answers(lines: Iterable[str], out: str | None) -> None:
    """Lines into a file, whole or absent, or to standard output as they come."""
    if out is not None:
        # A pipe that ends early, or an error in a late row, must not leave half a file.
        with whole_file(out) as f:
            f.writelines(line.encode() for line in lines)
        warn(f"Saved {out}")
        return
    if sys.stdout is None:
        raise UserError("standard output is closed; name a file with --out")
    # Flushing after each part lets a program that reads the other end go on at once.
    for line in lines:
        print(line, end="", file=data_stream(), flush=True)

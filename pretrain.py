"""Pre-train BERT on text: guess masked words, and whether the second sentence follows the first.

    $ python pretrain.py --demo True  # makes a small corpus, trains on it, evaluates
    $ python pretrain.py --data_file corpus.txt --model_cfg config/bert_base.json \\
          --vocab vocab.txt --save_dir runs/base
    $ python pretrain.py --mode eval --model_file runs/base --data_file held_out.txt
"""

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from command import RunCommand, check_demo
from pretraining.builder import CorpusBuilder, vocab_of
from pretraining.describe import look_for_faults
from pretraining.pairs import PairConfig, Pairs
from pretraining.shards import is_prepared
from pretraining.text import language_of
from system.cli import command
from system.files import read_json, read_settings, write_json
from system.flags import only
from training.settings import Config
from utils import UserError, log, rank, warn

if TYPE_CHECKING:
    from finetune import Run
    from tasks.fewshot import FewShotEvaluator
    from tasks.pretrain import PretrainTask
    from train import Trainer

CONFIG = Path(__file__).parent / "config" / "pretrain.json"


@dataclasses.dataclass(kw_only=True)
class Pretrain(RunCommand):
    """Pre-train BERT on text, or evaluate it."""

    modes = ("train", "eval")
    data_trains = True

    # -- What to do
    mode: str = "train"  # train or eval
    demo: bool = only("train", False)  # make the built-in corpus, train on it, evaluate
    # -- Data
    # text, a sentence a line and a blank line between documents, or JSON lines, or WikiExtractor's
    # output, also as .gz or .zst: a file, several (a comma list or a glob), a folder; or a prepared
    # corpus (corpus.py), or the official code's *.tfrecord, or an *.npz with GluonNLP's arrays,
    # padded
    data_file: str | None = None
    train_file: str | None = only("train")  # the same, to train on
    # held-out text, evaluated at every checkpoint and at the end; several with commas between them
    # are evaluated one by one
    eval_file: str | None = None
    # split lines into sentences: True for English, or a language code
    split_sentences: bool | str = False
    text_a: str | None = None  # of JSON lines, the column of the text; default: text
    cache_dir: str | None = None  # folder for prepared text; default: save_dir
    # -- Instances
    # longest input in tokens; default 512, or what the model to evaluate was trained with
    max_len: int | None = None
    # masked tokens of an input at most; default: max_len times mask_prob, rounded up
    max_pred: int | None = None
    mask_prob: float | None = None  # share of the tokens to mask; default 0.15
    # share of the documents cut into shorter inputs; default 0.1
    short_seq_prob: float | None = None
    # False: no pairs of sentences, masked words only; default True
    next_sentence: bool | None = None
    whole_word_mask: bool | None = None  # mask all pieces of a word or none; default False
    # every epoch has the pairs and masks of the first
    fixed_masks: bool = only("train", False)
    # -- Weights
    # a model trained here, to start from or to evaluate: its folder or its .pt
    model_file: str | None = None
    # vocab.txt; default: what lies beside the weights or in the prepared corpus
    vocab: str | None = None
    # -- Few-shot evaluation while training
    # updates between evaluations of the encoder (features.py fewshot); default: none
    fewshot_steps: int | None = only("train")
    fewshot_task: str | None = only("train")  # the task, as for classify.py
    fewshot_dir: str | None = only("train")  # the task's folder, as GLUE has it
    # -- Output
    # folder of the run, which the same command resumes; default: runs/pretrain. Of eval, the folder
    # for eval_results.json; default: that of the model
    save_dir: str | None = None

    def check(self) -> None:
        super().check()
        if self.mode == "train":
            if self.model_file and self.pretrain_file:
                raise UserError(
                    "--model_file and --pretrain_file both name weights to start from; keep one"
                )
            check_demo(self, self.data_file)
        elif not self.model_file or not (self.data_file or self.eval_file):
            raise UserError("--mode eval needs --model_file and --data_file")
        elif self.data_file and self.eval_file:
            raise UserError("--mode eval has no use for --eval_file beside --data_file; see --help")

    def given(self) -> dict[str, Any]:
        """Those of the flags about instances that were given: they are called as its fields."""
        names = [field.name for field in dataclasses.fields(PairConfig)]
        values = {name: getattr(self, name) for name in names}
        # None means "not given", which leaves the default to PairConfig or to a saved run.
        return {name: value for name, value in values.items() if value is not None}

    def task(self, folder: Path, seed: int) -> "PretrainTask":
        """What instances are like; prepared text is kept in a folder."""
        from tasks.pretrain import PretrainTask

        # Prepared text belongs to the run unless a folder is named that several runs share.
        builder = CorpusBuilder(
            self.cache_dir or folder, language_of(self.split_sentences), self.text_a
        )
        return PretrainTask(
            **self.given(), builder=builder, seed=seed, fixed_masks=self.fixed_masks
        )

    # ------------------------------------------------------------------------------------ train

    def train(self) -> None:
        """Train from scratch, or from weights."""
        if self.demo:
            from examples import sample

            sample.pretrain(self.save_dir, self.log_dir, self.data_parallel, self.shard)
            return
        # The few-shot files are read first: they are small, and preparing a corpus may take hours.
        judge, steps = self.judge(), self.fewshot_steps or 0
        folder = Path(self.save_dir or "runs/pretrain")
        run = self.prepare(folder)
        # Few-shot evaluation resumes only on the same examples, or its curve would have a break.
        run.settings["sha256 of few shots"] = judge.key[:16] if judge else None
        warn_of_text(run, folder)
        probe = functools.partial(few_shots, judge, run, steps) if judge else None
        result = run.fit(folder, self.log_dir, self.data_parallel, self.shard, probe, steps)
        if result.last:
            report(result.last, result.step, folder)
        self.report_costs(run, result, run.task)

    def prepare(self, folder: Path) -> "Run":
        """Everything that training needs, read and checked; nothing but text is written yet."""
        import finetune
        import pretrained
        from training import runs

        assert self.data_file
        cfg = Config.from_flags(self.train_cfg, self.settings, CONFIG)
        # Preparing text writes into the folder, so another model's folder is refused before.
        runs.check_unused(folder)
        task = self.task(folder, cfg.seed)
        start = pretrained.find(
            self.model_file or self.pretrain_file,
            self.model_cfg,
            self.vocab,
            save_dir=folder,
            # The vocabulary in a prepared corpus comes after the one named and the weights' own.
            other_vocab=vocab_of(self.data_file),
        )
        begun = read_settings(folder / "run.json")
        # In runs of earlier versions all of them together were one corpus.
        joined = begun.get("sha256 of eval_file") and "sha256 of eval_file 2" not in begun
        eval_files = [self.eval_file] if self.eval_file and joined else self.held_out
        # These texts are looked at before the first one is prepared, which may take hours.
        for file in eval_files:
            if not is_prepared(file):
                task.builder.find(file)
        start = self.smaller(start)
        return finetune.prepare(task, self.data_file, start, eval_files, cfg, **self.lesson())

    @property
    def held_out(self) -> list[str]:
        """What --eval_file names, as one corpus each."""
        names = [name.strip() for name in (self.eval_file or "").split(",")]
        return [name for name in names if name]

    def judge(self) -> "FewShotEvaluator | None":
        """What few-shot evaluation needs, if it is asked for."""
        if self.fewshot_steps is None:
            if self.fewshot_task or self.fewshot_dir:
                raise UserError(
                    "no --fewshot_steps, which is needed with --fewshot_task and --fewshot_dir; "
                    "see --help"
                )
            return None
        if self.fewshot_steps < 1 or not self.fewshot_task or not self.fewshot_dir:
            raise UserError(
                f"--fewshot_steps {self.fewshot_steps}: expected 1 or more, and --fewshot_task and "
                "--fewshot_dir"
            )
        from tasks import get_task
        from tasks.fewshot import FewShotEvaluator
        from tasks.superglue import file_in

        task, folder = get_task(self.fewshot_task), self.fewshot_dir
        # Of MNLI's two development sets the first is enough to follow a curve.
        return FewShotEvaluator(task, file_in(folder, "train.tsv"), file_in(folder, task.dev[0]))

    # ------------------------------------------------------------------------------------- eval

    def eval(self) -> None:
        """Print and write a saved model's results, on instances as it was trained with."""
        import finetune
        import pretrained
        from tasks.pretrain import HEADS, PretrainTask, check_ready_made
        from tasks.reports import named_after, short_names
        from training import devices

        assert self.model_file
        start = pretrained.find(self.model_file, self.model_cfg, self.vocab)
        folder = Path(self.save_dir or start.folder)
        # Held-out accuracy depends on max_len and on masking, so it is measured as the run was.
        builder = self.task(folder, 0).builder
        task = PretrainTask.saved(start, **self.given(), builder=builder)
        # A classifier fine-tuned from BERT has the encoder alone, and scores of new heads would
        # mean nothing.
        needed = HEADS if task.next_sentence else ("masked_lm",)
        if missing := [head for head in needed if head not in start.heads]:
            raise UserError(
                f"{start.file} has no {', '.join(missing)}; evaluate a model that was pre-trained"
            )
        saved = finetune.load(self.model_file, task, start, **self.inference())
        log(saved.describe())
        log(devices.describe(saved.device, saved.n_gpus, dtype=saved.dtype))
        results: dict[str, float] = {}
        files = [self.data_file] if self.data_file else self.held_out
        for name, file in zip(short_names(files), files, strict=True):
            data = saved.load(file)
            check_ready_made(data.features.instances.corpus, self.given())
            results |= named_after(saved.task.metrics(data, saved.outputs(data)), name, results)
        # A checkpoint from elsewhere does not know its step.
        report(results, int(start.extra.get("step", 0)), folder)


def warn_of_text(run: "Run", folder: Path) -> None:
    """Say what looks wrong with a text, as `corpus.py describe` does, and what has changed."""
    instances = run.data.features.instances
    file = folder / "run.json"
    if file.is_file():
        # Earlier versions drew other pairs from the seed.
        if "pair rules" in run.settings and "pair rules" not in read_json(file):
            warn(
                f"{folder} began with an earlier version, which drew other pairs from the same "
                "seed; from here on it is trained on pairs of this version"
            )
    # A run that resumes has been warned when it began.
    elif isinstance(instances, Pairs) and rank() == 0:
        for warning in look_for_faults(instances, run.cfg.batch_size):
            warn(f"warning: {warning}")


def few_shots(
    judge: "FewShotEvaluator", run: "Run", steps: int, trainer: "Trainer"
) -> dict[str, float]:
    """What a few labelled examples teach about the encoder, as it is after some updates."""
    from encoder import Encoder
    from system import distributed

    model: Any = trainer.model
    step = trainer.state.step
    tokenizer, max_len, dtype = run.start.tokenizer, run.task.max_len, trainer.cfg.dtype
    encoder = Encoder(model, tokenizer, max_len, trainer.device, dtype=dtype)
    # What is cut off is the same each time, and told the first time.
    file = "the few shots" if step <= steps else None
    # A sharded model's parts are gathered once, since the judge calls its methods directly.
    with distributed.gathered(model):
        shots = judge(functools.partial(encoder.pool, file=file))
    log(f"Step {step}, few shots: {', '.join(f'{shot.k}: {shot.mean:.4f}' for shot in shots)}")
    return {f"fewshot_{shot.k}": shot.mean for shot in shots}


def report(results: dict[str, float], step: int, folder: Path) -> None:
    """Print results, and write them to eval_results.json."""
    results = {**results, "global_step": step}
    for name, value in results.items():
        print(f"{name} = {value}")
    write_json(folder / "eval_results.json", results)


if __name__ == "__main__":
    command(Pretrain, processes=True)

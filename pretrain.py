"""Pre-train BERT on text: guess masked words, and whether the second sentence follows the first.

    $ python pretrain.py                                    # the built-in corpus: makes it, trains, evaluates
    $ python pretrain.py --train_cfg config/pretrain.json --model_cfg config/bert_base.json --data_file corpus.txt \\
          --vocab vocab.txt --save_dir runs/base --max_len 512
    $ python pretrain.py --mode eval --model_file runs/base --data_file held_out.txt
"""

import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import checkpoint
import distributed
import models
import runs
import train
from cli import command
from corpus import cores, language, prepare_text, source_settings
from pretraining.batches import Batches, Instances
from pretraining.instances import FIXED, FixedInstances, prepare_instances
from pretraining.pairs import Pairs
from pretraining.pairs import check as check_shape
from pretraining.shards import Corpus, is_prepared
from tasks.fewshot import Judge
from tasks.sentences import get_task
from tokenization import FullTokenizer, casing, load_vocab, save_vocab, vocab_digest
from utils import UserError, checked, file_digest, find, read_json, refuse, say, show, write_json
from vectors import Encoder

SAMPLE = Path("runs/sample")
EVALUATION_SEED = 0  # of the pairs and masks that held-out text is evaluated with


def main(
    train_cfg: str | None = None,
    model_cfg: str | None = None,
    data_file: str | None = None,
    model_file: str | None = None,
    data_parallel: bool = True,
    vocab: str | None = None,
    save_dir: str | None = None,
    log_dir: str | None = None,
    max_len: int | None = None,
    max_pred: int | None = None,
    mask_prob: float | None = None,
    mode: str = "train",
    pretrain_file: str | None = None,
    eval_file: str | None = None,
    cache_dir: str | None = None,
    do_lower_case: bool | None = None,
    split_sentences: bool | str = False,
    next_sentence: bool | None = None,
    whole_word_mask: bool | None = None,
    short_seq_prob: float | None = None,
    fixed_masks: bool = False,
    workers: int | None = None,
    fewshot_steps: int | None = None,
    fewshot_task: str | None = None,
    fewshot_dir: str | None = None,
    shard: bool = False,
    settings: dict[str, Any] | None = None,
) -> None:
    """Pre-train BERT on text, or evaluate it. Without a flag: on the built-in corpus.

    Args:
        train_cfg: JSON of train.Config; default config/pretrain.json.
        model_cfg: JSON of the model's shape, ours or Google's bert_config.json; default: what lies
            beside the weights.
        data_file: text, a sentence a line and a blank line between documents: a file, several (a
            comma list or a glob), a folder; or a prepared corpus (corpus.py), or the official
            code's *.tfrecord or GluonNLP's *.npz.
        model_file: one of our models, to go on from or to evaluate.
        data_parallel: use all visible GPUs.
        vocab: vocab.txt; default: what lies beside the weights or in the prepared corpus.
        save_dir: folder of the run, which the same command goes on with; default runs/pretrain.
        log_dir: folder for TensorBoard's curves.
        max_len: longest input in tokens; default 512, or what the model to evaluate was trained
            with.
        max_pred: masked tokens of an input at most; default max_len times mask_prob, rounded up.
        mask_prob: share of the tokens to mask; default 0.15.
        mode: train or eval.
        pretrain_file: weights to start from, all heads: a TensorFlow checkpoint, a Hugging Face
            folder. None: from scratch.
        eval_file: held-out text, evaluated at every checkpoint and at the end.
        cache_dir: folder for prepared text; default: save_dir.
        do_lower_case: only to insist; it follows from the vocabulary.
        split_sentences: split lines into sentences: True for English, or a language code.
        next_sentence: False: no pairs of sentences, masked words only; default True.
        whole_word_mask: mask all pieces of a word or none; default False.
        short_seq_prob: share of the documents cut into shorter inputs; default 0.1.
        fixed_masks: every epoch has the pairs and masks of the first.
        workers: processes that tokenise; default: one for each core.
        fewshot_steps: judge the encoder every so many updates by few examples of a task
            (features.py fewshot).
        fewshot_task: the task; fewshot_dir: its folder, as GLUE has it.
        shard: started by torchrun, divide the model among the processes, where it does not fit into
            one GPU.
        settings: no flag of its own: every setting of train_cfg is one, such as --lr 3e-5
            (config/README.md).
    """
    if mode not in ("train", "eval"):
        raise UserError(f"--mode {mode}: expected train or eval")
    text = Text(
        vocab,
        cache_dir,
        do_lower_case,
        language(split_sentences),
        cores() if workers is None else workers,
    )
    shape = {
        "max_len": max_len,
        "max_pred": max_pred,
        "mask_prob": mask_prob,
        "short_seq_prob": short_seq_prob,
        "next_sentence": next_sentence,
        "whole_word_mask": whole_word_mask,
    }
    if mode == "eval":
        if not model_file or not (data_file or eval_file):
            raise UserError("--mode eval needs --model_file and --data_file")
        refuse(
            "--mode eval has no use for",
            pretrain_file=pretrain_file,
            log_dir=log_dir,
            shard=shard or None,
            eval_file=eval_file if data_file else None,
        )
        train.refuse_training_settings(mode, settings)
        evaluate(
            model_file,
            str(data_file or eval_file),
            text,
            shape,
            train_cfg,
            model_cfg,
            save_dir,
            data_parallel,
            settings,
        )
        return
    if model_file and pretrain_file:
        raise UserError(
            "--model_file and --pretrain_file both name weights to start from; keep one"
        )
    if data_file is None:
        refuse(
            "no --data_file, which is needed with",
            train_cfg=train_cfg,
            model_cfg=model_cfg,
            model_file=model_file,
            pretrain_file=pretrain_file,
            vocab=vocab,
            eval_file=eval_file,
            **shape,
            **(settings or {}),
        )
        run_sample(save_dir, log_dir, shard)
        return
    judge = None
    if fewshot_steps is not None:
        if fewshot_steps < 1 or not fewshot_task or not fewshot_dir:
            raise UserError(
                f"--fewshot_steps {fewshot_steps}: expected 1 or more, and --fewshot_task and "
                "--fewshot_dir"
            )
        task = get_task(fewshot_task)
        judge = Judge(task, f"{fewshot_dir}/train.tsv", f"{fewshot_dir}/{task.dev[0]}")
    else:
        refuse(
            "no --fewshot_steps, which is needed with",
            fewshot_task=fewshot_task,
            fewshot_dir=fewshot_dir,
        )
    run = prepare_run(
        data_file,
        eval_file,
        text,
        shape,
        train_cfg,
        model_cfg,
        model_file or pretrain_file,
        Path(save_dir or "runs/pretrain"),
        fixed_masks,
        settings,
    )
    run.fit(log_dir, data_parallel, judge, fewshot_steps or 0, shard)


# ----------------------------------------------------------------------------------------- the data


@dataclasses.dataclass(frozen=True)
class Text:
    """How files become a prepared corpus."""

    vocab: str | None = None
    cache_dir: str | None = None
    do_lower_case: bool | None = None
    language: str | None = None  # to split lines into sentences in
    workers: int = 1

    def prepare(
        self, names: str, beside: Path, source: checkpoint.Checkpoint | None = None
    ) -> Corpus:
        """The corpus that files, or a folder prepared earlier, hold; new ones are written beside
        the run.
        """
        if is_prepared(names):
            corpus = Corpus(names)
            vocab = Path(self.vocab) if self.vocab else source.vocab if source else None
            if vocab and corpus.vocab_file and load_vocab(vocab) != load_vocab(corpus.vocab_file):
                raise UserError(
                    f"{names} was prepared with another vocabulary than {vocab}; prepare the text "
                    "again, or "
                    f"name the model that belongs to it"
                )
            if self.do_lower_case not in (
                None,
                corpus.about.get("do_lower_case", self.do_lower_case),
            ):
                raise UserError(
                    f"{names} was prepared with do_lower_case={corpus.about['do_lower_case']}; "
                    "leave the flag "
                    f"out"
                )
            if self.language not in (None, corpus.about.get("split_sentences")):
                raise UserError(
                    f"{names} was prepared with --split_sentences "
                    f"{corpus.about.get('split_sentences')}; leave "
                    f"the flag out, or prepare the text again"
                )
            return corpus
        files, cache = find(names), Path(self.cache_dir or beside)
        records = [file for file in files if FIXED.search(file.name)]
        if records and records != files:
            other = next(file for file in files if file not in records)
            raise UserError(f"{records[0]} has fixed instances, {other} text; train on one kind")
        if records:
            folder = cache / corpus_name(
                {"text": [[file.name, file_digest(file)] for file in files]}
            )
            prepare_instances(files, folder)
            return Corpus(folder)
        vocab = checkpoint.find_vocab(self.vocab, source)
        lower = casing(vocab, self.do_lower_case, *([source.file] if source else []))
        folder = cache / corpus_name(source_settings(files, vocab, lower, self.language))
        prepare_text(files, vocab, folder, lower, self.workers, language=self.language)
        return Corpus(folder)


@dataclasses.dataclass(frozen=True)
class Shape:
    """The instances of a run, as its pretrain.json has them."""

    max_len: int  # tokens
    next_sentence: bool | None
    max_pred: int | None  # masked tokens; None, as all below: fixed instances have their own
    mask_prob: float | None
    short_seq_prob: float | None
    whole_word_mask: bool | None


def corpus_name(settings: dict) -> str:
    """The name of the folder for a text prepared by some settings."""
    return f"corpus-{hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]}"


def get_instances(corpus: Corpus, shape: dict, seed: int, fixed: bool) -> Instances:
    """What a corpus gives to train on."""
    if corpus.kind == "instances":
        return FixedInstances(corpus, shape["max_len"])
    return Pairs(corpus, **given(shape), seed=seed, fixed=fixed)


def given(flags: dict) -> dict:
    """The flags that were given."""
    return {name: value for name, value in flags.items() if value is not None}


# ------------------------------------------------------------------------------------- the training


def losses(model: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cross-entropy of every masked slot (B, P) and of the order (B,), and the scores: (B, P, V),
    (B, 2).
    """
    input_ids, segment_ids, input_mask, positions, words, _, order = batch
    word_scores, order_scores = model(input_ids, segment_ids, input_mask, positions)
    exact = torch.promote_types(word_scores.dtype, torch.float32)  # from bf16; float64 stays
    word_loss = F.cross_entropy(
        word_scores.to(exact).flatten(0, 1), words.flatten(), reduction="none"
    )
    return (
        word_loss.view(words.shape),
        F.cross_entropy(order_scores.to(exact), order, reduction="none"),
        word_scores,
        order_scores,
    )


def get_loss(
    model: nn.Module, batch: tuple[Tensor, ...], next_sentence: bool = True
) -> tuple[Tensor, dict[str, Tensor]]:
    """Google's loss: sum(w * CE) / (sum(w) + 1e-5) over the masked slots, whose weights have that
    in them already, plus the mean cross-entropy of the order.
    """
    word_loss, order_loss, _, _ = losses(model, batch)
    loss_lm, loss_clsf = (batch[5] * word_loss).sum(1).mean(), order_loss.mean()
    total = loss_lm + loss_clsf if next_sentence else loss_lm
    return total, {
        "loss_lm": loss_lm,
        **({"loss_clsf": loss_clsf} if next_sentence else {}),
        "loss_total": total,
        "tokens": batch[2].sum(1).float().mean(),
    }


def predict(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    """Of each instance, (B, 5): masked slots, those guessed right, their summed loss; is the order
    right, its loss.
    """
    word_loss, order_loss, word_scores, order_scores = losses(model, batch)
    used = batch[5] > 0
    right = (word_scores.argmax(-1) == batch[4]) & used
    return torch.stack(
        [
            used.sum(1),
            right.sum(1),
            (word_loss * used).sum(1),
            order_scores.argmax(-1) == batch[6],
            order_loss,
        ],
        dim=1,
    )


def score(trainer: train.Trainer, batches: Batches, next_sentence: bool) -> dict[str, float]:
    """The results that Google's pre-training prints, but for global_step."""
    slots, right, word_loss, order_right, order_loss = (
        trainer.evaluate(predict, batches).astype(np.float64).T
    )
    results = {
        "masked_lm_accuracy": right.sum() / slots.sum(),
        "masked_lm_loss": word_loss.sum() / slots.sum(),
    }
    if next_sentence:
        results |= {
            "next_sentence_accuracy": order_right.mean(),
            "next_sentence_loss": order_loss.mean(),
        }
    results["loss"] = results["masked_lm_loss"] + results.get("next_sentence_loss", 0)
    return {name: float(value) for name, value in results.items()}


def report(results: dict[str, float], step: int, folder: Path) -> dict[str, float]:
    """Print results, and write them to eval_results.json."""
    results = {**results, "global_step": step}
    for name, value in results.items():
        print(f"{name} = {value}")
    write_json(folder / "eval_results.json", results)
    return results


@dataclasses.dataclass
class Run:
    """Everything a training run needs, checked; nothing but prepared text is written yet."""

    cfg: train.Config
    model: models.PretrainModel
    corpus: Corpus
    batches: Batches
    eval_batches: Batches | None
    vocab: Path
    do_lower_case: bool
    shape: dict  # of the instances: max_len and so on
    save_dir: Path
    settings: dict

    def __repr__(self) -> str:
        return f"<pre-training in {self.save_dir} on {self.corpus!r}>"

    def fit(
        self,
        log_dir: str | None = None,
        data_parallel: bool = True,
        judge: Judge | None = None,
        judge_steps: int = 0,
        shard: bool = False,
    ) -> Path:
        """Train, and return the last model's file. The folder gets all that fine-tuning and
        evaluating need. A judge of few shots is asked every judge_steps updates.
        """
        folder, config = self.save_dir, dataclasses.asdict(self.model.transformer.cfg)
        trainer = train.Trainer(
            self.cfg,
            self.model,
            self.batches,
            folder,
            {"config": config},
            data_parallel=data_parallel,
            log_dir=log_dir,
            shard=shard,
        )
        with runs.held(
            folder, self.settings | {"sha256 of few shots": judge.key[:16] if judge else None}
        ):
            save_vocab(self.vocab, folder, self.do_lower_case)
            write_json(folder / "config.json", config)
            write_json(folder / "pretrain.json", self.shape)
            say(train.device_name(trainer.device, trainer.n_gpus))
            return self.fit_held(trainer, judge, judge_steps)

    def fit_held(self, trainer: train.Trainer, judge: Judge | None, judge_steps: int) -> Path:
        """fit() in a folder that no other process trains in."""
        next_sentence = self.shape["next_sentence"]
        results: dict[str, float] = {}

        def check() -> dict[str, float]:
            assert self.eval_batches
            results.update(score(trainer, self.eval_batches, next_sentence))
            return results

        def probe() -> dict[str, float]:
            assert judge
            with distributed.gathered(self.model):
                shots = judge(
                    Encoder(
                        self.model,
                        tokenizer,
                        self.shape["max_len"],
                        trainer.device,
                        dtype=self.cfg.dtype,
                    )
                )
            say(
                f"Step {trainer.step}, few shots: "
                f"{', '.join(f'{s.k}: {s.mean:.4f}' for s in shots)}"
            )
            return {f"fewshot_{s.k}": s.mean for s in shots}

        tokenizer = FullTokenizer(self.vocab, self.do_lower_case)
        file = trainer.train(
            lambda model, batch: get_loss(model, batch, next_sentence),
            check if self.eval_batches else None,
            probe=(judge_steps, probe) if judge else None,
        )
        if self.eval_batches:
            report(results or check(), trainer.step, self.save_dir)
        return file


def prepare_run(
    data_file: str,
    eval_file: str | None,
    text: Text,
    shape: dict,
    train_cfg: str | None,
    model_cfg: str | None,
    weights: str | None,
    save_dir: Path,
    fixed_masks: bool = False,
    settings: dict[str, Any] | None = None,
) -> Run:
    """Read and check everything, and prepare the text, before anything is trained."""
    cfg = train.Config.from_json(
        train_cfg or Path(__file__).parent / "config" / "pretrain.json", **(settings or {})
    )
    check_stopping(cfg, eval_file, shape["next_sentence"] is not False)
    config = models.Config.from_json(model_cfg) if model_cfg else None
    source = checkpoint.read(weights, config) if weights else None
    if config is None:
        if source is None:
            raise UserError(
                "no --model_cfg; name the shape of a model, or weights to start from with "
                "--pretrain_file"
            )
        config = source.config
    shape = {**shape, "max_len": shape["max_len"] or 512}
    checkpoint.check_length(config, shape["max_len"])
    runs.check_free(save_dir)
    check_shape(**given(shape))
    if text.vocab or source:  # before a long text is prepared
        checkpoint.check_fit(config, checkpoint.find_vocab(text.vocab, source), shape["max_len"])
    corpus = text.prepare(data_file, save_dir, source)
    vocab = checkpoint.find_vocab(text.vocab, source, corpus.vocab_file)
    lower = (
        casing(vocab, text.do_lower_case)
        if corpus.kind == "instances"
        else corpus.about["do_lower_case"]
    )
    checkpoint.check_fit(config, vocab, shape["max_len"])
    if corpus.about.get("largest_id", 0) >= config.vocab_size:
        raise UserError(
            f"{corpus.folder} has token ids up to {corpus.about['largest_id']}, the model "
            f"{config.vocab_size} "
            f"tokens; use the vocabulary the instances were made with"
        )
    if corpus.kind == "instances":
        refuse(
            f"the instances of {corpus.folder} are trained on as they are; leave out",
            fixed_masks=fixed_masks or None,
            **{
                name: value
                for name, value in shape.items()
                if name not in ("max_len", "next_sentence")
            },
        )
    instances = get_instances(corpus, shape, cfg.seed, fixed_masks)
    shape |= {"next_sentence": shape["next_sentence"] is not False}
    shape |= {
        name: getattr(instances, name) for name in shape if hasattr(instances, name)
    }  # the defaults too
    eval_batches = None
    if eval_file:
        held_out = dataclasses.replace(text, vocab=str(vocab), do_lower_case=lower).prepare(
            eval_file, save_dir
        )
        eval_batches = evaluation_batches(
            held_out, shape, cfg.batch_size // cfg.gradient_accumulation
        )
    torch.manual_seed(cfg.seed)
    model = models.PretrainModel(config)
    if source:
        new = checkpoint.load(model, source, fresh=("pooler", "masked_lm", "next_sentence"))
        say(f"{source.words()}, " + (f"new: {', '.join(new)}" if new else "all heads"))
    if not shape["next_sentence"]:  # nothing to learn there
        for head in (model.pooler, model.next_sentence):
            head.requires_grad_(False)
    describe(instances)
    shaping = {
        **dataclasses.asdict(cfg),
        **shape,
        "fixed_masks": fixed_masks,
        "do_lower_case": lower,
        **{f"model_cfg.{name}": value for name, value in dataclasses.asdict(config).items()},
        "sha256 of corpus": corpus.key[:16],
        "sha256 of vocab": vocab_digest(vocab)[:16],
        "sha256 of eval_file": eval_batches.instances.corpus.key[:16] if eval_batches else None,
        "sha256 of initial weights": runs.weights_digest(model)[:16],
    }
    return Run(
        cfg,
        model,
        corpus,
        Batches(instances, cfg.batch_size, cfg.seed),
        eval_batches,
        vocab,
        lower,
        shape,
        save_dir,
        shaping,
    )


def check_stopping(cfg: train.Config, eval_file: str | None, next_sentence: bool) -> None:
    """UserError where the run could not do what patience and stop_metric ask for."""
    if (cfg.patience or cfg.stop_metric) and not eval_file:
        raise UserError("patience and stop_metric are about evaluation; name an --eval_file")
    metrics = ["masked_lm_accuracy", "masked_lm_loss", "loss"]
    if next_sentence:
        metrics += ["next_sentence_accuracy", "next_sentence_loss"]
    if cfg.stop_metric not in (None, *metrics):
        raise UserError(
            f"stop_metric={show(cfg.stop_metric)}; expected one of {', '.join(metrics)}"
        )


def describe(instances: Instances) -> None:
    """Say what will be trained on."""
    if isinstance(instances, Pairs):
        counts, wanted = instances.corpus.counts, instances.max_len * instances.mask_prob
        say(
            f"{counts['documents']} documents, {counts['sentences']} sentences, {counts['tokens']} "
            "tokens"
        )
        if instances.max_pred < 0.9 * wanted:
            say(
                f"max_pred={instances.max_pred} masks {instances.max_pred / instances.max_len:.1%} "
                "of an input of "
                f"{instances.max_len} tokens, not {instances.mask_prob:.0%}: leave --max_pred out "
                "for "
                f"{math.ceil(wanted)}"
            )


def evaluation_batches(corpus: Corpus, shape: dict, batch_size: int) -> Batches:
    """Held-out text, its pairs and masks always the same."""
    return Batches(get_instances(corpus, shape, EVALUATION_SEED, fixed=True), batch_size)


def evaluate(
    model_file: str,
    data_file: str,
    text: Text,
    shape: dict | None = None,
    train_cfg: str | None = None,
    model_cfg: str | None = None,
    save_dir: str | None = None,
    data_parallel: bool = True,
    settings: dict[str, Any] | None = None,
) -> dict[str, float]:
    """Print, write and return a saved model's results. What is not given is read from the folder of
    the model.
    """
    source = checkpoint.read(model_file, models.Config.from_json(model_cfg) if model_cfg else None)
    if missing := [
        head for head in ("pooler", "masked_lm", "next_sentence") if head not in source.heads
    ]:
        raise UserError(
            f"{source.file} has no {', '.join(missing)}; evaluate a model that was pre-trained"
        )
    beside = source.file.parent / "pretrain.json"
    saved = checked(Shape, read_json(beside), beside) if beside.is_file() else {}
    shape = saved | given(shape or {})
    shape["max_len"] = shape.get("max_len") or 512
    vocab = checkpoint.find_vocab(text.vocab, source)
    checkpoint.check_fit(source.config, vocab, shape["max_len"])
    cfg = (
        train.Config.from_json(train_cfg, **(settings or {}))
        if train_cfg
        else train.Config(**(settings or {}))
    )
    folder = Path(save_dir or source.file.parent)
    corpus = dataclasses.replace(text, vocab=str(vocab)).prepare(data_file, folder, source)
    if corpus.kind == "instances":
        shape = {"max_len": corpus.about["max_len"], "next_sentence": shape.get("next_sentence")}
    batches = evaluation_batches(corpus, shape, cfg.batch_size)
    model = models.PretrainModel(source.config)
    checkpoint.load(model, source)
    trainer = train.Trainer(cfg, model, data_parallel=data_parallel)
    say(source.words())
    say(train.device_name(trainer.device, trainer.n_gpus))
    results = score(trainer, batches, shape.get("next_sentence") is not False)
    return report(results, int(source.extra.get("step", 0)), folder)


def run_sample(save_dir: str | None, log_dir: str | None, shard: bool = False) -> None:
    """The main job on the built-in corpus: make it, train, evaluate on documents held out, tell
    what comes next.
    """
    from examples import sample

    print(f"No --data_file: pre-training on the built-in corpus in {SAMPLE}")
    sample.write(str(SAMPLE))
    distributed.meet()
    folder = Path(save_dir or "runs/sample_pretrain")
    shape = dict.fromkeys(
        ("max_len", "max_pred", "mask_prob", "short_seq_prob", "next_sentence", "whole_word_mask")
    )
    run = prepare_run(
        f"{SAMPLE}/corpus.txt",
        f"{SAMPLE}/held_out.txt",
        Text(f"{SAMPLE}/vocab.txt"),
        {**shape, "max_len": 64},
        f"{SAMPLE}/pretrain.json",
        f"{SAMPLE}/config.json",
        None,
        folder,
    )
    run.fit(log_dir, shard=shard)
    print(
        f"\nNext, fine-tune from it:\n"
        f"  python classify.py --task mrpc --train_cfg {SAMPLE}/train.json --data_file "
        f"{SAMPLE}/train.tsv "
        f"--pretrain_file {folder} --save_dir runs/sample_tuned --max_len 64"
    )


if __name__ == "__main__":
    command(main, settings=train.Config, processes=True)

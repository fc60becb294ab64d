"""Pre-train BERT on text: guess masked words, and whether the second sentence follows the first.

    $ python pretrain.py  # the built-in corpus: makes it, trains, evaluates
    $ python pretrain.py --data_file corpus.txt --model_cfg config/bert_base.json \\
          --vocab vocab.txt --save_dir runs/base
    $ python pretrain.py --mode eval --model_file runs/base --data_file held_out.txt
"""

import dataclasses
import functools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import models
import pretrained
import train
from formats import loading
from formats.rules import began_by_googles_rule
from formats.vocab import casing, check_size, find_vocab, stated_rules
from layers.packing import Packing
from pretrained import Pretrained
from pretraining.batches import Instances, PairBatches, PretrainBatch
from pretraining.describe import look_for_faults
from pretraining.instances import FixedInstances
from pretraining.pairs import PairConfig, Pairs
from pretraining.shards import Corpus, is_prepared
from pretraining.source import Source
from pretraining.text import language_of
from system import distributed
from system.cli import command
from system.files import read_json, write_json
from system.flags import check_mode, check_sample
from tasks import get_task
from tasks.fewshot import Judge
from tasks.superglue import file_in
from tokenization import FullTokenizer
from training import inference, runs
from training.settings import TRAINING_FLAGS
from utils import UserError, checked, note, rank, say, show
from vectors import Encoder

SAMPLE = Path("runs/sample")
CONFIG = Path(__file__).parent / "config" / "pretrain.json"
# Google's checkpoints have all three. A model that lacks one cannot be scored as theirs are.
HEADS = ("pooler", "masked_lm", "next_sentence")
EVALUATION_SEED = 0  # of the pairs and masks that held-out text is evaluated with

# Which pairs a seed means. Runs that began with others record another number, or none.
PAIR_RULES = 2

# Which modes have a use for a flag; those that are not here are for all.
USED_IN = {
    "pretrain_file": "train",
    "log_dir": "train",
    "fixed_masks": "train",
    "fewshot_steps": "train",
    "fewshot_task": "train",
    "fewshot_dir": "train",
    "shard": "train",
    **TRAINING_FLAGS,
}
# The flags are called as the fields of PairConfig, so that the two cannot drift apart.
INSTANCE_FLAGS = tuple(field.name for field in dataclasses.fields(PairConfig))


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
    split_sentences: bool | str = False,
    next_sentence: bool | None = None,
    whole_word_mask: bool | None = None,
    short_seq_prob: float | None = None,
    fixed_masks: bool = False,
    fewshot_steps: int | None = None,
    fewshot_task: str | None = None,
    fewshot_dir: str | None = None,
    shard: bool = False,
    settings: dict[str, Any] | None = None,
) -> None:
    """Pre-train BERT on text, or evaluate it.

    Without a flag: make the built-in corpus, train on it, evaluate.

    Args:
        What to do:
            mode: train or eval.
        Data:
            data_file: text, a sentence a line and a blank line between documents: a file, several
                (a comma list or a glob), a folder; or a prepared corpus (corpus.py), or the
                official code's *.tfrecord, or an *.npz with GluonNLP's arrays, padded.
            eval_file: held-out text, evaluated at every checkpoint and at the end.
            split_sentences: split lines into sentences: True for English, or a language code.
            cache_dir: folder for prepared text; default: save_dir.
        Instances:
            max_len: longest input in tokens; default 512, or what the model to evaluate was trained
                with.
            max_pred: masked tokens of an input at most; default: max_len times mask_prob, rounded
                up.
            mask_prob: share of the tokens to mask; default 0.15.
            short_seq_prob: share of the documents cut into shorter inputs; default 0.1.
            next_sentence: False: no pairs of sentences, masked words only; default True.
            whole_word_mask: mask all pieces of a word or none; default False.
            fixed_masks: every epoch has the pairs and masks of the first.
        Weights:
            pretrain_file: weights to start from, all heads: a TensorFlow checkpoint or Google's
                .zip, a Hugging Face folder, a .pt, or a name of `checkpoint.py list`; default:
                none, so that training starts from scratch.
            model_file: a model trained here, to start from or to evaluate: its folder or its .pt.
            model_cfg: JSON of the model's shape, ours or Google's bert_config.json; default: what
                lies beside the weights.
            vocab: vocab.txt; default: what lies beside the weights or in the prepared corpus.
        Training:
            train_cfg: JSON of train.Config; default: config/pretrain.json.
            data_parallel: use all visible GPUs.
            shard: started by torchrun, divide the model among the processes, where it does not fit
                into one GPU.
            settings: settings that replace those of train_cfg, as {"lr": 3e-5}.
        Few-shot evaluation while training:
            fewshot_steps: updates between evaluations of the encoder (features.py fewshot);
                default: none.
            fewshot_task: the task, as for classify.py.
            fewshot_dir: the task's folder, as GLUE has it.
        Output:
            save_dir: folder of the run, which the same command resumes; default: runs/pretrain. Of
                eval, the folder for eval_results.json; default: that of the model.
            log_dir: folder for TensorBoard's curves.
    """
    flags = SimpleNamespace(**locals())
    if mode not in ("train", "eval"):
        raise UserError(f"--mode {mode}: expected train or eval")
    # A flag that another mode alone reads would be ignored silently, so it is an error here.
    check_mode(main, mode, vars(flags), USED_IN)
    if mode == "eval":
        evaluate_files(flags)
        return
    if model_file and pretrain_file:
        raise UserError(
            "--model_file and --pretrain_file both name weights to start from; keep one"
        )
    # Without data the command shows what it does. Flags about data would have no effect there.
    if data_file is None:
        check_sample(main, vars(flags))
        run_sample(save_dir, log_dir, data_parallel, shard)
        return
    # The few-shot files are read first: they are small, and preparing a corpus may take hours.
    judge = make_judge(flags)
    run = prepare(
        data_file,
        given(flags),
        Source(vocab, cache_dir, language_of(split_sentences)),
        (model_file or pretrain_file, model_cfg),
        Path(save_dir or "runs/pretrain"),
        train.Config.from_flags(train_cfg, settings, CONFIG),
        eval_file,
        fixed_masks,
    )
    run.fit(log_dir, data_parallel, judge, fewshot_steps or 0, shard)


def given(flags: SimpleNamespace) -> dict[str, Any]:
    """Those of the flags about instances that were given."""
    values = {name: getattr(flags, name) for name in INSTANCE_FLAGS}
    # None means "not given", which leaves the default to PairConfig or to a saved run.
    return {name: value for name, value in values.items() if value is not None}


def make_judge(flags: SimpleNamespace) -> Judge | None:
    """What few-shot evaluation needs, if it is asked for."""
    if flags.fewshot_steps is None:
        if flags.fewshot_task or flags.fewshot_dir:
            raise UserError(
                "no --fewshot_steps, which is needed with --fewshot_task and --fewshot_dir; see "
                "--help"
            )
        return None
    if flags.fewshot_steps < 1 or not flags.fewshot_task or not flags.fewshot_dir:
        raise UserError(
            f"--fewshot_steps {flags.fewshot_steps}: expected 1 or more, and --fewshot_task and "
            "--fewshot_dir"
        )
    task, folder = get_task(flags.fewshot_task), flags.fewshot_dir
    # Of MNLI's two development sets the first is enough to follow a curve.
    return Judge(task, file_in(folder, "train.tsv"), file_in(folder, task.dev[0]))


# ----------------------------------------------------------------------------------------- the loss


def losses(model: nn.Module, batch: PretrainBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cross-entropies of every masked slot (B, P) and of the order (B,), and what scores they have.

    The scores: (B, P, V), (B, 2).
    """
    words, order = model(batch.input_ids, batch.segment_ids, batch.input_mask, batch.positions)
    # Cross-entropy over 30,000 words loses digits in bf16. A float64 model (in tests) stays as it
    # is.
    exact = torch.promote_types(words.dtype, torch.float32)
    # (B, P, V) -> (B * P, V); the labels are flattened likewise.
    flat = words.to(exact).flatten(0, 1)
    # Not reduced here: unused slots have the weight 0, and a mean would count them.
    word_loss = F.cross_entropy(flat, batch.words.flatten(), reduction="none")
    order_loss = F.cross_entropy(order.to(exact), batch.order, reduction="none")
    return word_loss.view(batch.words.shape), order_loss, words, order


def get_loss(
    model: nn.Module, batch: PretrainBatch, next_sentence: bool = True
) -> tuple[Tensor, dict[str, Tensor]]:
    """Google's loss: of the masked slots, plus the mean cross-entropy of the order.

    Google divides the sum over the slots by (their number + 1e-5); the batch's weights have that in
    them already.
    """
    word_loss, order_loss, _, _ = losses(model, batch)
    # The weights contain the number of slots in the whole batch, so the sum is over a row's slots,
    # and the mean over rows. Parts of a batch then add up to the loss of the whole.
    loss_lm = (batch.weights * word_loss).sum(1).mean()
    means = {"loss_lm": loss_lm}
    total = loss_lm
    # Without pairs the order is not defined, and its head is not trained.
    if next_sentence:
        means["loss_clsf"] = order_loss.mean()
        total = loss_lm + means["loss_clsf"]
    means["loss_total"] = total
    # Real tokens of an instance, from which the log derives the speed.
    means["tokens"] = Packing.of(batch.input_mask).real.sum(1).float().mean()
    return total, means


def outputs(model: nn.Module, batch: PretrainBatch) -> Tensor:
    """(B, 5): masked slots, those guessed right, their summed loss; order right, its loss."""
    word_loss, order_loss, words, order = losses(model, batch)
    used = batch.weights > 0
    right = (words.argmax(-1) == batch.words) & used
    order_right = order.argmax(-1) == batch.order
    # Counts, not means: instances have different numbers of slots, so that only sums can be
    # averaged over batches without a bias.
    columns = [used.sum(1), right.sum(1), (word_loss * used).sum(1), order_right, order_loss]
    return torch.stack(columns, dim=1)


def metrics(found: np.ndarray, next_sentence: bool) -> dict[str, float]:
    """What Google's pre-training prints, but for global_step, from outputs() (N, 5)."""
    # In float64: float32 counts exactly only up to 2**24, and held-out text may have more slots.
    slots, right, word_loss, order_right, order_loss = found.astype(np.float64).T
    results = {
        "masked_lm_accuracy": right.sum() / slots.sum(),
        "masked_lm_loss": word_loss.sum() / slots.sum(),
    }
    if next_sentence:
        results["next_sentence_accuracy"] = order_right.mean()
        results["next_sentence_loss"] = order_loss.mean()
    results["loss"] = results["masked_lm_loss"] + results.get("next_sentence_loss", 0)
    return {name: float(value) for name, value in results.items()}


def report(results: dict[str, float], step: int, folder: Path) -> dict[str, float]:
    """Print results, and write them to eval_results.json."""
    results = {**results, "global_step": step}
    for name, value in results.items():
        print(f"{name} = {value}")
    write_json(folder / "eval_results.json", results)
    return results


# ----------------------------------------------------------------------------------------- training


@dataclasses.dataclass
class PretrainRun:
    """Everything a training run needs, checked; nothing but prepared text is written yet."""

    cfg: train.Config
    start: Pretrained
    instances: Instances
    eval_batches: PairBatches | None
    pairs: PairConfig  # what instances are like
    recorded: dict[str, Any]  # the same as pretrain.json has it
    save_dir: Path
    settings: dict[str, Any]  # what shapes the result, beside cfg, start and pairs

    def __repr__(self) -> str:
        return f"<pre-training in {self.save_dir} on {self.instances.corpus!r}>"

    def model(self) -> models.PretrainModel:
        """The model that training starts with, as it follows from the seed."""
        # The heads are drawn too where weights lack them, so the seed comes before the model.
        torch.manual_seed(self.cfg.seed)
        model = models.PretrainModel(self.start.config)
        self.start.load_into(model, HEADS)
        if not self.pairs.next_sentence:
            # Without pairs nothing trains these two. Weight decay would still shrink them.
            for head in (model.pooler, model.next_sentence):
                head.requires_grad_(False)
        return model

    def fit(
        self,
        log_dir: str | None = None,
        data_parallel: bool = True,
        judge: Judge | None = None,
        judge_steps: int = 0,
        shard: bool = False,
    ) -> Path:
        """Train, and return the last model's file. The folder gets all that evaluating needs.

        Args:
            judge: asked every judge_steps updates.
        """
        model, folder = self.model(), self.save_dir
        describe(self.instances)
        # A run that resumes has been warned when it began.
        if not (folder / "run.json").is_file():
            warn(self.instances, self.cfg.batch_size)
        batches = PairBatches(self.instances, self.cfg.batch_size, self.cfg.seed)
        contents = {"config": self.start.config.to_json()}
        trainer = train.Trainer(
            self.cfg, model, batches, folder, contents, data_parallel, log_dir, shard
        )
        settings = dataclasses.asdict(self.cfg) | self.recorded | self.settings
        # Few-shot evaluation resumes only on the same examples, or its curve would have a break.
        settings["sha256 of few shots"] = judge.key[:16] if judge else None
        # The folder gets all that evaluating needs before the first step, so that a run which is
        # killed at any time can be evaluated.
        with self.start.held(folder, model, settings):
            write_json(folder / "pretrain.json", self.recorded)
            say(inference.device_name(trainer.device, trainer.n_gpus))
            return self.fit_held(trainer, model, judge, judge_steps)

    def fit_held(
        self,
        trainer: train.Trainer,
        model: models.PretrainModel,
        judge: Judge | None,
        judge_steps: int,
    ) -> Path:
        """fit() in a folder that no other process trains in."""
        next_sentence = self.pairs.next_sentence
        # Shared by evaluate() and the report at the end, which shows what was evaluated last.
        results: dict[str, float] = {}

        def evaluate() -> dict[str, float]:
            assert self.eval_batches
            found = trainer.predict(self.eval_batches, outputs)
            results.update(metrics(found, next_sentence))
            return results

        def probe() -> dict[str, float]:
            assert judge
            tokenizer, max_len = self.start.tokenizer, self.pairs.max_len
            encoder = Encoder(model, tokenizer, max_len, trainer.device, dtype=self.cfg.dtype)
            # What is cut off is the same each time, and told the first time.
            file = "the few shots" if trainer.state.step <= judge_steps else None
            # A sharded model's parts are gathered once, since the judge calls its methods directly.
            with distributed.gathered(model):
                shots = judge(functools.partial(encoder.pool, file=file))
            shown = ", ".join(f"{shot.k}: {shot.mean:.4f}" for shot in shots)
            say(f"Step {trainer.state.step}, few shots: {shown}")
            return {f"fewshot_{shot.k}": shot.mean for shot in shots}

        evaluation = train.Evaluation(
            evaluate if self.eval_batches else None,
            probe=probe if judge else None,
            probe_steps=judge_steps,
        )
        file = trainer.train(lambda model, batch: get_loss(model, batch, next_sentence), evaluation)
        # A run that resumes when it is finished evaluates nothing any more, so that `results` is
        # empty.
        if self.eval_batches:
            report(results or evaluate(), trainer.state.step, self.save_dir)
        return file


def prepare(
    data_file: str,
    changes: dict[str, Any],
    source: Source,
    weights: tuple[str | None, str | None],
    save_dir: Path,
    cfg: train.Config,
    eval_file: str | None = None,
    fixed_masks: bool = False,
) -> PretrainRun:
    """Read and check everything, and prepare the text, before anything is trained.

    Args:
        data_file: as the flag.
        changes: fields of PairConfig that are not the usual ones.
        source: how files become a prepared corpus.
        weights: what training starts from, and the model's shape: the flags of these names.
    """
    cfg.check_trainable()
    # The shape comes first: it decides whether max_len and the vocabulary fit, which takes no time.
    config, found = pretrained.read_config_and_weights(*weights)
    # Training would go on with a fresh head in the place of the one that was trained.
    if found and "masked_lm" in found.unusable:
        raise UserError(f"{found.file}: {found.unusable['masked_lm']}; use other weights")
    pairs = PairConfig(**changes)
    check_stopping(cfg, eval_file, pairs.next_sentence)
    config.check_length(pairs.max_len)
    if pairs.next_sentence:
        config.check_pairs()
    # Preparing text writes into the folder, so another model's folder is refused before.
    runs.check_free(save_dir)
    file = found.file if found else None
    if source.vocab or file:
        # Preparing a long text takes hours; a vocabulary that does not fit is noticed before.
        check_size(find_vocab(source.vocab, file), config.vocab_size, file)
    if began_by_googles_rule(save_dir):
        source = dataclasses.replace(source, googles_rule=True)
    # The second text is looked at before the first one is prepared.
    if eval_file and not is_prepared(eval_file):
        source.find(eval_file)
    corpus = source.prepare(data_file, save_dir, file)
    start = with_vocabulary(corpus, source, config, found)
    # Ready-made instances have their masks already, so flags about masking would have no effect.
    if corpus.kind == "instances":
        check_fixed(corpus, changes, fixed_masks, config)
    instances = make_instances(corpus, pairs, cfg.seed, fixed_masks)
    # Recorded with all defaults, so that a run does not change with a later version's defaults.
    recorded = dataclasses.asdict(pairs)
    if corpus.kind == "instances":
        # Their masks were made elsewhere, and what they were made with is not known.
        recorded |= dict.fromkeys(recorded.keys() - {"max_len", "next_sentence"})
    eval_batches = None
    if eval_file:
        # Held-out text is tokenised with the vocabulary that the corpus was, whatever else lies
        # nearby.
        own = dataclasses.replace(source, vocab=str(start.vocab))
        held_out = own.prepare(eval_file, save_dir)
        # Evaluation takes the memory of a part of a training batch, which is known to fit.
        rows = cfg.batch_size // cfg.gradient_accumulation
        eval_batches = evaluation_batches(held_out, pairs, rows)
    settings = {"fixed_masks": fixed_masks, "sha256 of corpus": corpus.key[:16]}
    settings["sha256 of eval_file"] = None
    if eval_batches:
        settings["sha256 of eval_file"] = eval_batches.instances.corpus.key[:16]
    # Fixed instances are the same whatever the rules for drawing pairs are.
    kinds = {corpus.kind} | ({eval_batches.instances.corpus.kind} if eval_batches else set())
    # Fixed instances are the same in every version.
    if "text" in kinds:
        settings["pair rules"] = PAIR_RULES
        report_older_rules(save_dir)
    return PretrainRun(cfg, start, instances, eval_batches, pairs, recorded, save_dir, settings)


def with_vocabulary(
    corpus: Corpus, source: Source, config: models.Config, found: loading.Checkpoint | None
) -> Pretrained:
    """What training starts from, with the vocabulary that the corpus was prepared with."""
    # The vocabulary in the prepared corpus comes last, after the one named and the one of the
    # weights.
    vocab = find_vocab(source.vocab, found.file if found else None, corpus.vocab_file)
    check_size(vocab, config.vocab_size, found.file if found else None)
    # Tokens were cased by the rule of their preparation. GluonNLP's and TensorFlow's files do not
    # state it.
    lower_case = corpus.about.get("do_lower_case")
    if lower_case is None:
        lower_case = casing(vocab)
    # And split by it, whatever lies beside the vocabulary.
    rules, _ = stated_rules(corpus.vocab_file or vocab)
    rules = rules.googles() if source.googles_rule else rules
    return Pretrained(config, found, vocab, FullTokenizer(vocab, lower_case, rules))


def check_fixed(
    corpus: Corpus, changes: dict[str, Any], fixed_masks: bool, config: models.Config
) -> None:
    """UserError where fixed instances do not fit the model, or are asked to be others."""
    # An id beyond the embeddings is an error in PyTorch only where it is looked up, on a GPU
    # without a clear message.
    if (largest := corpus.about["largest_id"]) >= config.vocab_size:
        raise UserError(
            f"{corpus.folder} has token ids up to {largest}, the model {config.vocab_size} tokens; "
            "use the vocabulary the instances were made with"
        )
    names = [name for name in changes if name not in ("max_len", "next_sentence")]
    if fixed_masks:
        # Instances that are read from a file are the same in every epoch anyway.
        names.append("fixed_masks")
    if names:
        raise UserError(
            f"the instances of {corpus.folder} are trained on as they are; leave out "
            f"{', '.join(f'--{name}' for name in names)}; see --help"
        )


def make_instances(corpus: Corpus, pairs: PairConfig, seed: int, fixed: bool) -> Instances:
    """What a corpus gives to train on."""
    if corpus.kind == "instances":
        return FixedInstances(corpus, pairs.max_len)
    return Pairs(corpus, pairs, seed, fixed)


def evaluation_batches(corpus: Corpus, pairs: PairConfig, batch_size: int) -> PairBatches:
    """Held-out text, its pairs and masks always the same."""
    return PairBatches(make_instances(corpus, pairs, EVALUATION_SEED, fixed=True), batch_size)


def check_stopping(cfg: train.Config, eval_file: str | None, next_sentence: bool) -> None:
    """UserError where the run could not do what patience and stop_metric ask for."""
    if (cfg.patience or cfg.stop_metric) and not eval_file:
        raise UserError("patience and stop_metric are about evaluation; name an --eval_file")
    names = ["masked_lm_accuracy", "masked_lm_loss", "loss"]
    if next_sentence:
        names += ["next_sentence_accuracy", "next_sentence_loss"]
    if cfg.stop_metric not in (None, *names):
        raise UserError(f"stop_metric={show(cfg.stop_metric)}; expected one of {', '.join(names)}")


def report_older_rules(save_dir: Path) -> None:
    """Say so where a run began with an earlier version, which drew other pairs from the seed."""
    file = save_dir / "run.json"
    if file.is_file() and "pair rules" not in read_json(file):
        note(
            f"{save_dir} began with an earlier version, which drew other pairs from the same seed; "
            "from here on it is trained on pairs of this version"
        )


def describe(instances: Instances) -> None:
    """Say what will be trained on."""
    if not isinstance(instances, Pairs):
        return
    counts = instances.corpus.counts
    say(
        f"{counts['documents']} documents, {counts['sentences']} sentences, {counts['tokens']} "
        "tokens"
    )


def warn(instances: Instances, batch_size: int) -> None:
    """Say what looks wrong with a text, as `corpus.py describe` does."""
    if not isinstance(instances, Pairs) or rank():
        return
    for warning in look_for_faults(instances, batch_size):
        note(f"warning: {warning}")


# --------------------------------------------------------------------------------------- evaluating


def evaluate_files(flags: SimpleNamespace) -> None:
    """--mode eval"""
    data_file = flags.data_file or flags.eval_file
    if not flags.model_file or not data_file:
        raise UserError("--mode eval needs --model_file and --data_file")
    if flags.data_file and flags.eval_file:
        raise UserError("--mode eval has no use for --eval_file beside --data_file; see --help")
    cfg = train.Config.from_flags(flags.train_cfg, flags.settings)
    source = Source(flags.vocab, flags.cache_dir, language_of(flags.split_sentences))
    weights = (flags.model_file, flags.model_cfg)
    evaluate(data_file, given(flags), source, weights, cfg, flags.save_dir, flags.data_parallel)


def evaluate(
    data_file: str,
    changes: dict[str, Any],
    source: Source,
    weights: tuple[str | None, str | None],
    cfg: train.Config,
    save_dir: str | None = None,
    data_parallel: bool = True,
) -> dict[str, float]:
    """Print, write and return a saved model's results, on instances as it was trained with."""
    config, found = pretrained.read_config_and_weights(*weights)
    assert found
    # Held-out accuracy depends on max_len and on masking, so it is measured as the run was.
    saved = saved_instances(found.file.with_name("pretrain.json"))
    pairs = PairConfig(**saved | changes)
    # A classifier fine-tuned from BERT has the encoder alone, and scores of new heads would mean
    # nothing.
    needed = HEADS if pairs.next_sentence else ("masked_lm",)
    if missing := [head for head in needed if head not in found.heads]:
        raise UserError(
            f"{found.file} has no {', '.join(missing)}; evaluate a model that was pre-trained"
        )
    config.check_length(pairs.max_len)
    if pairs.next_sentence:
        config.check_pairs()
    vocab = find_vocab(source.vocab, found.file)
    check_size(vocab, config.vocab_size, found.file)
    folder = Path(save_dir or found.file.parent)
    corpus = dataclasses.replace(source, vocab=str(vocab)).prepare(data_file, folder, found.file)
    if corpus.kind == "instances":
        check_fixed(corpus, changes, False, config)
    # The instances of a file have a length of their own, which may be other than the model's.
    if corpus.kind == "instances":
        pairs = PairConfig(corpus.about["max_len"], next_sentence=pairs.next_sentence)
    model = models.PretrainModel(config)
    loading.load(model, found, fresh=HEADS)
    device = inference.get_device()
    n_gpus = inference.count_gpus(device, data_parallel)
    say(found.describe())
    say(inference.device_name(device, n_gpus))
    # Only DataParallel needs a wrapper; inference.predict moves a plain model to its device itself.
    runs_on = inference.wrap(model, device, cfg.dtype, n_gpus) if n_gpus > 1 else model
    batches = evaluation_batches(corpus, pairs, cfg.batch_size)
    name = f"{found.file} on {data_file}"
    answers = inference.predict(runs_on, batches, device, cfg.dtype, outputs, bar=True, name=name)
    results = metrics(answers, pairs.next_sentence)
    # A checkpoint from elsewhere does not know its step.
    return report(results, int(found.extra.get("step", 0)), folder)


def saved_instances(file: Path) -> dict[str, Any]:
    """What the instances of a run were like; of fixed ones much is null."""
    # Older folders and models from elsewhere lack the file, and are evaluated by the defaults.
    values = read_json(file) if file.is_file() else {}
    return checked(PairConfig, {k: v for k, v in values.items() if v is not None}, file)


# ---------------------------------------------------------------------------------- built-in corpus


def run_sample(
    save_dir: str | None, log_dir: str | None, data_parallel: bool = True, shard: bool = False
) -> None:
    """The main job on the built-in corpus: make it, train, evaluate on documents held out."""
    from examples import sample

    print(f"No --data_file: pre-training on the built-in corpus in {SAMPLE}")
    sample.write(str(SAMPLE))
    # The first process writes the sample; the others must not read it half written.
    distributed.wait_for_all()
    folder = Path(save_dir or "runs/sample_pretrain")
    # Short instances of a small model make the demonstration take minutes on a CPU.
    run = prepare(
        f"{SAMPLE}/corpus.txt",
        {"max_len": 64},
        Source(f"{SAMPLE}/vocab.txt"),
        (None, f"{SAMPLE}/config.json"),
        folder,
        train.Config.from_json(SAMPLE / "pretrain.json"),
        f"{SAMPLE}/held_out.txt",
    )
    run.fit(log_dir, data_parallel, shard=shard)
    print(
        "\nNext, fine-tune from it:\n"
        f"  python classify.py --task mrpc --train_cfg {SAMPLE}/train.json --data_file "
        f"{SAMPLE}/train.tsv --pretrain_file {folder} --save_dir runs/sample_tuned --max_len 64"
    )


if __name__ == "__main__":
    command(main, settings=train.Config, processes=True)

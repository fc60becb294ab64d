"""Pre-training as a kind of task: masked words, and whether the second sentence follows the first.

    task = PretrainTask(max_len=128, builder=CorpusBuilder(cache_dir="runs/base"))
    run = finetune.prepare(task, "corpus.txt", start, "held_out.txt", cfg)
    run.fit("runs/base").last["masked_lm_accuracy"]

Source of the loss and of the metrics: run_pretraining.py of google-research/bert.
"""

# B instances, P masked slots at most, V words of the vocabulary

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import models
from formats.rules import SPECIAL
from formats.vocab import Vocabulary, load_vocab
from layers.packing import Packing
from pretrained import Pretrained
from pretraining.batches import Instances, PairBatches, PretrainBatch
from pretraining.builder import CorpusBuilder
from pretraining.instances import FixedInstances
from pretraining.pairs import PairConfig, Pairs
from pretraining.shards import Corpus
from tasks.task import CONFIG, Data, Task, exact
from tokenization import FullTokenizer
from utils import UserError

# Google's checkpoints have all three.
HEADS = ("pooler", "masked_lm", "next_sentence")
EVALUATION_SEED = 0  # of the pairs and masks that held-out text is evaluated with

# Which pairs a seed means. Runs that began with others record another number, or none.
PAIR_RULES = 2
# What an instance is like.
PAIR_FIELDS = tuple(field.name for field in dataclasses.fields(PairConfig))


@dataclasses.dataclass(frozen=True)
class PretrainFeatures:
    """Instances as a task's features are: something that makes batches."""

    instances: Instances
    has_pairs: bool

    def check(self, config: models.Config) -> None:
        """UserError where a model cannot take the instances."""
        if self.has_pairs:
            config.check_pairs()
        if isinstance(self.instances, FixedInstances):
            # An id or a position beyond the embeddings is an error in PyTorch only where it is
            # looked up, on a GPU without a clear message.
            about, folder = self.instances.corpus.about, self.instances.corpus.folder
            if about["largest_id"] >= config.vocab_size:
                raise UserError(
                    f"{folder} has token ids up to {about['largest_id']}, the model "
                    f"{config.vocab_size} tokens; use the vocabulary the instances were made with"
                )
            if about["max_len"] > config.max_len:
                raise UserError(
                    f"the instances of {folder} have {about['max_len']} tokens, the model "
                    f"{config.max_len} positions; use instances of at most {config.max_len}"
                )

    @functools.cached_property
    def masked_characters(self) -> int:
        """Characters of all masked tokens; 0 where their vocabulary is not known."""
        if not (file := self.instances.corpus.vocab_file):
            return 0
        # What is no word, such as [UNK], counts as one.
        lengths = np.array(
            [1 if t in SPECIAL else len(t.removeprefix("##")) for t in load_vocab(file)]
        )
        batches = self.batches(256)
        made = (batches.arrays(i) for i in range(len(batches)))
        return sum(int(lengths[batch.words[batch.weights > 0]].sum()) for batch in made)

    def batches(self, batch_size: int, seed: int | None = None) -> PairBatches:
        """Without a seed nothing is shuffled: for evaluation."""
        return PairBatches(self.instances, batch_size, seed)


@dataclasses.dataclass(frozen=True)
class PretrainTask(PairConfig, Task):
    """What instances are like, how files become them, and what is learnt from them."""

    name: str = "pretrain"
    max_len: int = PairConfig.max_len
    builder: CorpusBuilder = CorpusBuilder()  # noqa: RUF009 # how files become a corpus
    seed: int = 0  # of pairs and masks
    fixed_masks: bool = False  # every epoch has the pairs and masks of the first
    ready_made: bool = False  # trained on instances that were masked elsewhere

    head: ClassVar[str] = "masked_lm"
    fresh: ClassVar[tuple[str, ...]] = HEADS
    optional: ClassVar[tuple[str, ...]] = HEADS
    settings_file: ClassVar[str] = "pretrain.json"
    settings: ClassVar[tuple[str, ...]] = PAIR_FIELDS
    each_epoch: ClassVar[bool] = False
    complete: ClassVar[str] = "all heads"  # type: ignore[misc]

    # --------------------------------------------------------------------------------------- data

    def load(self, file: str | Path, tokenizer: FullTokenizer, labelled: bool = True) -> Data:
        """Held-out text, its pairs and masks always the same."""
        task, corpus = self, self.builder.prepare(str(file), tokenizer.vocabulary)
        if corpus.kind == "instances":
            # The instances of a file have a length of their own, other than the model's perhaps.
            task = dataclasses.replace(self, max_len=corpus.about["max_len"], max_pred=None)
        return task.data(file, corpus, EVALUATION_SEED, fixed=True)

    def load_training(
        self, file: str | Path, tokenizer: FullTokenizer
    ) -> tuple["PretrainTask", Data]:
        """The task, and the instances that it trains on."""
        corpus = self.builder.prepare(str(file), tokenizer.vocabulary)
        task = dataclasses.replace(self, ready_made=corpus.kind == "instances")
        check_ready_made(corpus, self.changed)
        return task, task.data(file, corpus, self.seed, self.fixed_masks, describe(corpus))

    def data(
        self, file: str | Path, corpus: Corpus, seed: int, fixed: bool, summary: str = ""
    ) -> Data:
        """What a corpus gives to train on, or to evaluate with."""
        instances: Instances
        if corpus.kind == "instances":
            instances = FixedInstances(corpus, self.max_len)
        else:
            instances = Pairs(corpus, self, seed, fixed)
        return Data(Path(file), PretrainFeatures(instances, self.next_sentence), [], summary)

    @property
    def changed(self) -> list[str]:
        """What instances are asked to be like that is not the default."""
        usual = PairConfig(self.max_len, next_sentence=self.next_sentence)
        names = [name for name in PAIR_FIELDS if getattr(self, name) != getattr(usual, name)]
        # It follows from mask_prob where it is not given.
        if self.max_pred == PairConfig(self.max_len, mask_prob=self.mask_prob).max_pred:
            names = [name for name in names if name != "max_pred"]
        if self.fixed_masks:
            # Instances that are read from a file are the same in every epoch anyway.
            names.append("fixed_masks")
        return names

    def check_start(self, start: Pretrained) -> None:
        """UserError where a model cannot take instances, or has a head that is not BERT's."""
        # Training would go on with a fresh head in the place of the one that was trained.
        if "masked_lm" in start.unusable:
            reason = start.unusable["masked_lm"]
            raise UserError(f"{start.file}: {reason}; use other weights")
        super().check_start(start)
        if self.next_sentence:
            start.config.check_pairs()

    def fit_start(self, start: Pretrained, data: Data) -> Pretrained:
        """Weights with the tokenizer that a corpus was prepared by."""
        corpus = data.features.instances.corpus
        # GluonNLP's and TensorFlow's files do not state how their text was split.
        if corpus.vocab_file is None:
            return start
        # Whatever lies beside the model's vocabulary, text was split by the rules of the corpus.
        rules = Vocabulary.read(corpus.vocab_file).rules
        start.vocabulary.check_casing(bool(rules.do_lower_case))
        vocabulary = dataclasses.replace(start.vocabulary, rules=rules)
        return dataclasses.replace(start, found_tokenizer=FullTokenizer(vocabulary))

    # -------------------------------------------------------------------------------------- model

    def model(self, config: models.Config) -> models.PretrainModel:
        """Encoder, pooler and both heads."""
        model = models.PretrainModel(config)
        if not self.next_sentence:
            # Without pairs nothing trains these two. Weight decay would still shrink them.
            for head in (model.pooler, model.next_sentence):
                head.requires_grad_(False)
        return model

    def begin_heads(
        self, model: Any, new: Sequence[str], data: Data, begun: Mapping[str, Any]
    ) -> dict[str, Any]:
        """A masked-LM head that trained weights lack begins with how often each token occurs.

        One that is random would do harm to the encoder before it learns that much.
        """
        # Earlier versions began with random numbers, and their runs go on so.
        if "masked_lm" not in new or (begun and "masked_lm head" not in begun):
            return {}
        head, corpus = model.masked_lm, data.features.instances.corpus
        counts = 1 + token_counts(corpus, len(head.bias))
        with torch.no_grad():
            head.bias.copy_(torch.from_numpy(np.log(counts / counts.sum())))
            # What the encoder says is passed on nearly as it is.
            head.dense.weight.copy_(torch.eye(len(head.dense.weight)))
            head.dense.weight += torch.empty_like(head.dense.weight).normal_(std=0.02)
            head.dense.bias.zero_()
        return {"masked_lm head": "frequencies"}

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Google's loss: of the masked slots, plus the mean cross-entropy of the order."""
        return get_loss(model, batch, self.next_sentence)

    def outputs(self, model: nn.Module, batch: Any) -> Tensor:
        """(B, 5), as outputs() below."""
        return outputs(model, batch)

    def metrics(self, data: Data, outputs: np.ndarray) -> dict[str, float]:
        """What Google's pre-training prints, but for global_step, from outputs() (N, 5).

        And character_loss, the loss of all masked tokens by their characters: of models with
        different vocabularies this can be compared.
        """
        found = metrics(outputs, self.next_sentence)
        if characters := data.features.masked_characters:
            slots = outputs[:, 0].sum(dtype=np.float64)
            found["character_loss"] = float(found["masked_lm_loss"] * slots / characters)
        return found

    @property
    def metric_names(self) -> tuple[str, ...]:
        """What metrics() gives."""
        words = ("masked_lm_accuracy", "masked_lm_loss", "loss")
        order = ("next_sentence_accuracy", "next_sentence_loss")
        return (*words, *(order if self.next_sentence else ()), "character_loss")

    # ----------------------------------------------------------------------------------- settings

    @property
    def train_cfg(self) -> Path:
        return CONFIG / "pretrain.json"

    def to_json(self) -> dict[str, Any]:
        """What instances are like, with all defaults; of ready-made ones most is not known."""
        known = ("max_len", "next_sentence") if self.ready_made else PAIR_FIELDS
        return {name: getattr(self, name) if name in known else None for name in PAIR_FIELDS}

    @classmethod
    def of_weights(cls, values: dict[str, Any], source: Pretrained) -> dict[str, Any]:
        return {name: value for name, value in values.items() if value is not None}

    def run_settings(self, data: Data, eval_data: list[Data]) -> dict[str, Any]:
        corpora = [one.features.instances.corpus for one in (data, *eval_data)]
        settings = {**self.to_json(), "fixed_masks": self.fixed_masks}
        settings["sha256 of corpus"], *others = (corpus.key[:16] for corpus in corpora)
        settings["sha256 of eval_file"] = others[0] if others else None
        for i, key in enumerate(others[1:], start=2):
            settings[f"sha256 of eval_file {i}"] = key
        # Ready-made instances are the same in every version.
        if any(corpus.kind == "text" for corpus in corpora):
            settings["pair rules"] = PAIR_RULES
        return settings


def check_ready_made(corpus: Corpus, names: Iterable[str]) -> None:
    """UserError where instances that were masked elsewhere are asked to be others."""
    # They have the length and the kind that they have.
    asked = [name for name in names if name not in ("max_len", "next_sentence")]
    if corpus.kind == "instances" and asked:
        raise UserError(
            f"the instances of {corpus.folder} are trained on as they are; leave out "
            f"{', '.join(f'`{name}`' for name in asked)}"
        )


def token_counts(corpus: Corpus, vocab_size: int) -> np.ndarray:
    """(V,) how often each token is in a text; of ready-made instances, is masked."""
    tokens = corpus.arrays["tokens" if corpus.kind == "text" else "words"]
    counts = np.zeros(vocab_size, np.int64)
    # In parts, so that little is in memory.
    for start in range(0, len(tokens), 2**22):
        counts += np.bincount(tokens[start : start + 2**22], minlength=vocab_size)
        corpus.release()
    return counts


def describe(corpus: Corpus) -> str:
    """What will be trained on, in words."""
    if corpus.kind == "instances":
        return ""
    counts = corpus.counts
    return (
        f"{counts['documents']} documents, {counts['sentences']} sentences, {counts['tokens']} "
        "tokens"
    )


# ----------------------------------------------------------------------------------------- the loss


def losses(model: nn.Module, batch: PretrainBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cross-entropies of every masked slot (B, P) and of the order (B,), and what scores they have.

    The scores: (B, P, V), (B, 2).
    """
    words, order = model(batch.input_ids, batch.segment_ids, batch.input_mask, batch.positions)
    # (B, P, V) -> (B * P, V); the labels are flattened likewise.
    flat = exact(words).flatten(0, 1)
    # Not reduced here: unused slots have the weight 0, and a mean would count them.
    word_loss = F.cross_entropy(flat, batch.words.flatten(), reduction="none")
    order_loss = F.cross_entropy(exact(order), batch.order, reduction="none")
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

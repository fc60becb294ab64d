"""Weights, and the shape, vocabulary and tokenizer that fit them: what every command begins with.

pretrained = find("uncased_L-12_H-768_A-12")
model = Classifier(pretrained.config, n_labels=2)
pretrained.load_into(model, fresh=("classifier",))
ids = pretrained.tokenizer.encode("A text.")
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

import models
from formats import hub, loading
from formats.cards import COMMANDS
from formats.rules import began_by_googles_rule
from formats.vocab import Vocabulary, find_vocabulary
from system.files import write_json
from tokenization import FullTokenizer
from training import runs
from utils import UserError, say

# The heads that pre-training gives a model.
PRETRAINED_HEADS = ("pooler", "masked_lm", "next_sentence")


@dataclasses.dataclass
class Pretrained:
    """Weights, if there are any, and what belongs to them."""

    config: models.Config
    source: loading.Checkpoint | None  # None: from scratch
    tokenizer: FullTokenizer

    def __repr__(self) -> str:
        return f"<{self.source or 'from scratch'}, {self.vocabulary}>"

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens that the embeddings are of."""
        return self.tokenizer.vocabulary

    def load_into(
        self, model: nn.Module, fresh: tuple[str, ...] = (), complete: str = "all heads"
    ) -> None:
        """Copy the weights into a model, and say which heads in `fresh` are new, or `complete`."""
        if self.source:
            new = loading.load(model, self.source, fresh)
            heads = f"new: {', '.join(new)}" if new else complete
            say(f"{self.source.describe()}, {heads}")

    @contextlib.contextmanager
    def held(self, folder: Path, model: nn.Module, settings: dict[str, Any]) -> Iterator[None]:
        """Within it, a folder is the run's own; it gets the model's shape and vocabulary.

        Args:
            settings: all that shapes the result, beside what is known here.
        """
        config = self.config.to_json()
        recorded = {f"model_cfg.{name}": value for name, value in config.items()}
        for name, value in settings.items():
            # As JSON has it, to compare with what was recorded.
            recorded[name] = list(value) if isinstance(value, tuple) else value
        # Which commit of the hub the weights were, and their digest; what they are is below.
        if self.source and (origin := hub.origin(self.source.file)):
            recorded["weights"] = origin
        recorded["do_lower_case"] = self.tokenizer.do_lower_case
        recorded["tokenizer rules"] = self.tokenizer.rules.unusual()
        recorded["sha256 of vocab"] = self.vocabulary.digest[:16]
        # A digest of the weights that training begins with: another start is another run.
        recorded["sha256 of initial weights"] = runs.weights_digest(model)[:16]
        if self.tokenizer.rules.added and began_by_googles_rule(folder):
            raise UserError(
                f"{folder} was begun by Google's rule, which splits every text alike; find its "
                "weights with save_dir, so that it goes on by it"
            )
        # The lock is taken before anything is written, and kept until training ends.
        with runs.held(folder, recorded):
            self.vocabulary.save(folder)
            write_json(folder / "config.json", config)
            yield


def find(
    weights: str | Path | None,
    model_cfg: str | None = None,
    vocab: str | None = None,
    head: str = "",
    predicting: bool = False,
    save_dir: str | Path | None = None,
    other_vocab: Path | None = None,
) -> Pretrained:
    """Read weights, or without any the shape of a model, and what belongs to them.

    UserError where the parts contradict each other, or the weights lack a head.

    Args:
        weights: a TensorFlow checkpoint, a Hugging Face folder, a .pt, a run's folder, a name of
            Hugging Face's hub (hub.fetch); None: from scratch, by `model_cfg`.
        model_cfg: JSON of the model's shape; None: what lies beside the weights.
        vocab: vocab.txt; None: what lies beside the weights.
        head: one that the weights have to have.
        predicting: as loading.read has it.
        save_dir: folder of a run that may go on, by the rule for its texts that it was begun with.
        other_vocab: the vocabulary where none is named and none lies beside the weights.
    """
    config, source = read_config_and_weights(weights, model_cfg, predicting)
    if source and head and head not in source.heads:
        raise UserError(lacking(source, head, weights))
    # A head that is to answer needs the names of its labels; another one is thrown away.
    if source and predicting:
        source.check_labels()
    file = source.folder / source.file.name if source else None
    vocabulary = find_vocabulary(vocab, file, other_vocab)
    vocabulary.check_size(config.vocab_size, file)
    if save_dir and began_by_googles_rule(Path(save_dir)):
        vocabulary = vocabulary.googles()
    return Pretrained(config, source, FullTokenizer(vocabulary))


def lacking(source: loading.Checkpoint, head: str, weights: str | Path | None) -> str:
    """That weights have no such head, and what to do, as a message."""
    others = [COMMANDS[other] for other in source.heads if other in COMMANDS]
    if head in COMMANDS and others:
        message = f"{source.file} is a model of {others[0]}, and has no {head}; name one of "
        message += COMMANDS[head]
        # A .onnx is no start.
        if not source.onnx:
            message += f", or train it from this one with --pretrain_file {weights}"
        return message
    remedy = f"train one first (--mode train --pretrain_file {weights}), or name weights that"
    # No task trains these for their own sake.
    if head in PRETRAINED_HEADS:
        remedy = "name weights that pretrain.py or Google made, which"
    elif source.onnx:
        remedy = "name models that"
    # It may have one that is not like BERT's.
    what = f": {source.unusable[head]}" if head in source.unusable else f" has no {head}"
    return f"{source.file}{what}; {remedy} have one"


def read_config_and_weights(
    weights: str | Path | None, model_cfg: str | None, predicting: bool = False
) -> tuple[models.Config, loading.Checkpoint | None]:
    """The shape of a model, and its weights, if there are any."""
    # --model_cfg overrules what lies beside the weights, which must then fit it.
    config = models.Config.from_json(model_cfg) if model_cfg else None
    if weights:
        source = loading.read(weights, config, predicting)
        return source.config, source
    if config is None:
        raise UserError(
            "neither --pretrain_file nor --model_cfg; name weights to start from, or the shape of "
            "a model"
        )
    return config, None

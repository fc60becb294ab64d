"""What a command begins with: weights, their shape, a vocabulary and its tokenizer that fit each
other; and a run's folder.

begin = find("uncased_L-12_H-768_A-12", max_len=128)        # begin.config, begin.tokenizer,
begin.source
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

import checkpoint
import models
import runs
import train
from tokenization import FullTokenizer, casing, save_vocab, vocab_digest
from utils import UserError, say, write_json


@dataclasses.dataclass
class Start:
    """Weights, if there are any, and what they need."""

    config: models.Config
    source: checkpoint.Checkpoint | None
    vocab: Path
    tokenizer: FullTokenizer

    def __repr__(self) -> str:
        return f"<start from {self.source or 'scratch'}, {self.vocab}>"

    def load(self, model: nn.Module, fresh: tuple[str, ...], complete: str) -> None:
        """Copy the weights into a model and say so: which heads in `fresh` are new, or that it is
        complete.
        """
        if self.source:
            new = checkpoint.load(model, self.source, fresh)
            say(f"{self.source.words()}, " + (f"new: {', '.join(new)}" if new else complete))

    @contextlib.contextmanager
    def held(
        self, folder: Path, model: nn.Module, cfg: train.Config, settings: dict[str, Any]
    ) -> Iterator[None]:
        """Make a folder the run's own, by its settings, and keep it so within the block; it gets
        what evaluating needs.
        """
        config = dataclasses.asdict(self.config)
        with runs.held(
            folder,
            {
                **dataclasses.asdict(cfg),
                **{f"model_cfg.{name}": value for name, value in config.items()},
                **{
                    name: list(value) if isinstance(value, tuple) else value
                    for name, value in settings.items()
                },  # as in JSON
                "do_lower_case": self.tokenizer.do_lower_case,
                "sha256 of vocab": vocab_digest(self.vocab)[:16],
                "sha256 of initial weights": runs.weights_digest(model)[:16],
            },
        ):
            save_vocab(self.vocab, folder, self.tokenizer.do_lower_case)
            write_json(folder / "config.json", config)
            yield


def find(
    weights: str | Path | None,
    model_cfg: str | None = None,
    vocab: str | None = None,
    do_lower_case: bool | None = None,
    max_len: int = 0,
    head: str = "",
) -> Start:
    """Read weights, or without any the shape of a model; UserError where the parts contradict each
    other, or the weights lack a head.
    """
    config = models.Config.from_json(model_cfg) if model_cfg else None
    source = checkpoint.read(weights, config) if weights else None
    if config is None:
        if source is None:
            raise UserError(
                "neither --pretrain_file nor --model_cfg; name weights to start from, or the shape "
                "of a model"
            )
        config = source.config
    if source and head and head not in source.heads:
        raise UserError(
            f"{source.file} has no {head}; train one first (--mode train --pretrain_file "
            f"{weights}), or name "
            f"weights that have one"
        )
    vocab_file = checkpoint.find_vocab(vocab, source)
    tokenizer = FullTokenizer(
        vocab_file, casing(vocab_file, do_lower_case, *([source.file] if source else []))
    )
    checkpoint.check_fit(config, vocab_file, max_len)
    return Start(config, source, vocab_file, tokenizer)

"""Texts to vectors: what an encoder makes of them, token by token or one vector a text.

encoder = load("uncased_L-12_H-768_A-12") for text in encoder.extract(["A line.", "Two ||| texts."],
layers=[-1], pooling="mean"): text.values     # (1, D)
"""

import dataclasses
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import checkpoint
import models
import pretrained as start
import train
from tasks.sentences import TASKS, Batches, Example, Features, Task, encode
from tokenization import FullTokenizer
from utils import UserError

POOLING = ("none", "cls", "mean")
CHUNK = 32  # batches of texts that are sorted by length together
SEPARATOR = "|||"  # between the two texts of a line


@dataclasses.dataclass(frozen=True)
class Vectors:
    """A text's tokens, and its vectors of some layers: (tokens, layers, D), or pooled (layers, D)."""

    tokens: list[str]  # [CLS] and [SEP] included
    values: np.ndarray


class Layers(nn.Module):
    """An encoder that gives the outputs of some layers, of its real tokens one after the other."""

    def __init__(self, transformer: models.Transformer, layers: list[int], pooling: str):
        super().__init__()
        self.transformer, self.layers, self.pooling = transformer, layers, pooling

    def forward(self, input_ids: Tensor, segment_ids: Tensor, input_mask: Tensor) -> Tensor:
        # (B, S) x 3 -> (T, layers, D), or pooled (B, layers, D)
        outputs: list[Tensor] = []
        self.transformer(input_ids, segment_ids, input_mask, outputs=outputs)
        chosen = torch.stack(
            [outputs[1:][layer] for layer in self.layers], dim=1
        )  # [0] is the embeddings'
        lengths = input_mask.sum(1)
        if self.pooling == "cls":
            return chosen[lengths.cumsum(0) - lengths]
        if self.pooling == "mean":
            sums = chosen.new_zeros(len(lengths), *chosen.shape[1:], dtype=torch.float32)
            which = torch.arange(len(lengths), device=chosen.device).repeat_interleave(lengths)
            return sums.index_add_(0, which, chosen.float()) / lengths[:, None, None]
        return chosen


class Pool(nn.Module):
    """The pooled vectors of a model with an encoder and a pooler, as a model of its own."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Tensor:  # (B, S) x 3 -> (B, D)
        return models.pool(self.model, *inputs)


@dataclasses.dataclass
class Encoder:
    """An encoder, its pooler and its tokenizer."""

    model: models.Classifier | models.PretrainModel
    tokenizer: FullTokenizer
    max_len: int
    device: torch.device
    batch_size: int = 32
    dtype: str = "fp32"

    def check(self, layers: list[int]) -> None:
        """UserError where a layer is none of the model's."""
        n = self.model.transformer.cfg.n_layers
        if wrong := [layer for layer in layers if not -n <= layer < n]:
            raise UserError(
                f"layers={wrong[0]}: the model has {n} layers; expected -{n} (the lowest) to -1, "
                "or 0 to "
                f"{n - 1}"
            )

    @torch.inference_mode()
    def extract(
        self, lines: Iterable[str], layers: list[int], pooling: str = "none"
    ) -> Iterator[Vectors]:
        """The vectors of each line, in order; a line is a text, or two with ` ||| ` between them.

        Only some thousand lines are in memory at a time, sorted by length, so that little is
        padded.
        """
        self.check(layers)
        model = train.Autocast(
            Layers(self.model.transformer, layers, pooling), self.device, self.dtype
        ).eval()
        rest = iter(lines)
        while chunk := list(islice(rest, CHUNK * self.batch_size)):
            ids, found = self.tokens(chunk), [np.empty(0)] * len(chunk)
            batches = Batches(ids, self.batch_size)
            for n in range(len(batches)):
                batch = [tensor.to(self.device) for tensor in batches[n][:3]]
                values = model(*batch).float().cpu().numpy()
                if pooling == "none":
                    parts = np.split(values, np.cumsum(batch[2].sum(1).cpu().numpy())[:-1])
                else:
                    parts = list(values)
                for row, part in zip(batches.rows(n), parts, strict=True):
                    found[row] = part
            for i, values in enumerate(found):
                tokens = self.tokenizer.convert_ids_to_tokens(
                    ids.ids[ids.starts[i] : ids.starts[i + 1]].tolist()
                )
                yield Vectors(tokens, values)

    @torch.inference_mode()
    def pooled(self, examples: list[Example], task: Task) -> np.ndarray:
        """(N, D): what a sentence head reads of rows of a task."""
        features = encode(examples, task, self.tokenizer, self.max_len)
        model = train.Autocast(Pool(self.model), self.device, self.dtype).eval()
        batches = Batches(features, self.batch_size)
        found = np.empty((len(features), self.model.transformer.cfg.dim), np.float32)
        for n in range(len(batches)):
            found[batches.rows(n)] = (
                model(*(t.to(self.device) for t in batches[n][:3])).float().cpu().numpy()
            )
        return found

    def tokens(self, lines: list[str]) -> Features:
        """Lines as inputs: [CLS] a [SEP], or [CLS] a [SEP] b [SEP]."""
        examples = []
        for i, line in enumerate(lines):
            a, found, b = line.partition(SEPARATOR)
            examples.append(Example(i, a.strip(), b.strip() if found else None, None))
        return encode(examples, TASKS["mrpc"], self.tokenizer, self.max_len)


def load(
    weights: str | Path,
    model_cfg: str | None = None,
    vocab: str | None = None,
    do_lower_case: bool | None = None,
    max_len: int = 128,
    batch_size: int = 32,
    dtype: str = "fp32",
    head: str = "",
) -> Encoder:
    """The encoder of a checkpoint: TensorFlow's, Hugging Face's or ours. `head`: one that it has to
    have.
    """
    begin = start.find(weights, model_cfg, vocab, do_lower_case, max_len, head)
    assert begin.source
    model, device = models.Classifier(begin.config), train.get_device()
    checkpoint.load(model, begin.source.without("classifier"), fresh=("pooler", "classifier"))
    return Encoder(model.to(device).eval(), begin.tokenizer, max_len, device, batch_size, dtype)

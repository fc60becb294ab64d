"""Texts to vectors: what an encoder makes of them, token by token or one vector a text.

encoder = load("uncased_L-12_H-768_A-12")
for text in encoder.extract(["A line.", "Two ||| texts."], layers=[-1], pooling="mean"):
    text.values  # (1, D)
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import models
import pretrained
import train
from formats import loading
from layers.packing import Packing
from system.files import read_json
from tasks.features import Batch, Batches, encode, report_truncation
from tokenization import FullTokenizer, split_line
from training import inference
from utils import UserError, show, typed

POOLING = ("none", "cls", "mean", "max")
MAX_LEN = 128  # tokens of a text at most, where neither the caller nor the folder says it
CHUNK = 32  # batches of texts that are sorted by length together


@dataclasses.dataclass(frozen=True)
class Vectors:
    """A text's tokens and its vectors of some layers."""

    tokens: list[str]  # [CLS] and [SEP] included
    values: np.ndarray  # (tokens, layers, D), or pooled (layers, D)


@dataclasses.dataclass
class Encoder:
    """An encoder, its pooler and its tokenizer."""

    model: models.BertModel
    tokenizer: FullTokenizer
    max_len: int
    device: torch.device
    batch_size: int = 32
    dtype: str = "fp32"
    name: str = "the encoder"  # of it in messages: the file of its weights
    folder: Path | None = None  # what lies beside the weights

    @property
    def usual_pooling(self) -> str:
        """How the folder pools a text's vectors, as stated_pooling() has it; else their mean."""
        return (self.folder and stated_pooling(self.folder)) or "mean"

    def check_layers(self, layers: list[int]) -> None:
        """UserError where a layer is none of the model's."""
        n = self.model.cfg.n_layers
        if wrong := [layer for layer in layers if not -n <= layer < n]:
            raise UserError(
                f"layers={wrong[0]}: the model has {n} layers; expected -{n} (the lowest) to -1, "
                f"or 0 to {n - 1}"
            )

    def extract(
        self,
        lines: Iterable[str],
        layers: list[int],
        pooling: str = "none",
        file: str | Path = "the lines",
    ) -> Iterator[Vectors]:
        """The vectors of each line, in order; a line is a text, or two with ` ||| ` between them.

        Only some thousand lines are in memory at a time, sorted by length, so that little is
        padded. At the end a note says how much of the lines was cut off; `file` is their name.
        """
        self.check_layers(layers)

        # The layers and the pooling, as inference.infer wants a function of a model and a batch.
        def outputs(model: Any, batch: Batch) -> Tensor:
            return layer_outputs(model.transformer, batch, layers, pooling)

        rest, n, truncation = iter(lines), 0, np.zeros(3, int)
        # As many lines as are sorted by length together: memory stays the same, and little is
        # padded.
        while chunk := list(islice(rest, CHUNK * self.batch_size)):
            texts = encode([split_line(line) for line in chunk], self.tokenizer, self.max_len)
            n, truncation = n + len(chunk), truncation + texts.truncation
            found = [np.empty(0)] * len(chunk)
            batches = Batches(texts, self.batch_size)
            for rows, output in inference.infer(
                self.model, batches, self.device, self.dtype, outputs, name=self.name
            ):
                values = output.float().cpu().numpy()
                parts = list(values)
                # The vectors of all tokens of a batch come as one array, cut at the ends of its
                # texts.
                if pooling == "none":
                    parts = np.split(values, np.cumsum(texts.lengths[rows])[:-1])
                for row, part in zip(rows, parts, strict=True):
                    found[row] = part
            # The order of the lines: batches were sorted by length.
            for i, values in enumerate(found):
                ids = texts.ids[texts.starts[i] : texts.starts[i + 1]].tolist()
                yield Vectors(self.tokenizer.convert_ids_to_tokens(ids), values)
        report_truncation(file, n, truncation, self.max_len)

    def pool(
        self, texts: Sequence[tuple[str, str | None]], file: str | Path | None = "the texts"
    ) -> np.ndarray:
        """(N, D): what a sentence head reads of texts and pairs.

        A note says how much of them was cut off; `file` is their name, None: no note.
        """
        inputs = encode(texts, self.tokenizer, self.max_len)
        if file is not None:
            report_truncation(file, len(inputs), inputs.truncation, self.max_len)
        batches = Batches(inputs, self.batch_size)

        def outputs(model: Any, batch: Batch) -> Tensor:
            return model.pool(**batch.inputs)

        return inference.predict(
            self.model, batches, self.device, self.dtype, outputs, name=self.name
        )


def layer_outputs(
    transformer: models.Transformer, batch: Batch, layers: list[int], pooling: str
) -> Tensor:
    """(T, layers, D), the real tokens one after the other; or pooled (B, layers, D)."""
    outputs: list[Tensor] = []
    transformer(**batch.inputs, outputs=outputs)
    blocks = outputs[1:]  # the first is the embeddings'
    # (layers) x (T, D) -> (T, layers, D)
    chosen = torch.stack([blocks[layer] for layer in layers], dim=1)
    if pooling == "none":
        return chosen
    lengths = Packing.of(batch.input_mask).real.sum(1)
    # [CLS] is the first token of each text, and texts follow each other.
    if pooling == "cls":
        return chosen[lengths.cumsum(0) - lengths]
    if pooling == "max":
        return torch.segment_reduce(chosen.float(), "max", lengths=lengths)
    # (T,) the number of the text that each token belongs to.
    text = torch.arange(len(lengths), device=chosen.device).repeat_interleave(lengths)
    # Summed in float32: bf16 would lose small vectors in a long text.
    sums = chosen.new_zeros(len(lengths), *chosen.shape[1:], dtype=torch.float32)
    return sums.index_add_(0, text, chosen.float()) / lengths[:, None, None]


def load(
    weights: str | Path,
    model_cfg: str | None = None,
    vocab: str | None = None,
    max_len: int | None = None,
    batch_size: int = 32,
    dtype: str = "fp32",
    head: str = "",
) -> Encoder:
    """The encoder of a checkpoint: TensorFlow's, Hugging Face's or ours.

    Args:
        max_len: tokens of a text at most; None: as the folder of a sentence encoder says, else 128.
        head: one that it has to have.
    """
    # The values are checked where a Config is made.
    train.Config(batch_size=batch_size, dtype=dtype)
    start = pretrained.find(weights, model_cfg, vocab, head)
    assert start.source
    folder = start.source.folder
    if max_len is None:
        max_len = stated_length(folder, start.tokenizer.do_lower_case) or MAX_LEN
    start.config.check_length(max_len)
    model, device = models.BertModel(start.config), inference.get_device()
    # A masked-LM checkpoint has no pooler, and token vectors need none.
    loading.load(model, start.source, fresh=("pooler",))
    inference.lay_out(model, device, dtype)
    name = str(start.source.file)
    model.to(device).eval()
    return Encoder(
        model, start.tokenizer, max_len, device, batch_size, dtype, name=name, folder=folder
    )


# -------------------------------------------------------------- the folder of a sentence encoder

# sentence-transformers' names of what is done to the vectors of tokens, and ours.
THEIR_POOLING = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max"}


def stated_pooling(folder: Path) -> str | None:
    """How a folder of sentence-transformers makes a vector of a text; None: it does not say.

    A layer that brings vectors to length 1 changes no cosine. UserError at what is not computed
    here.
    """
    modules = folder / "modules.json"
    if not modules.is_file():
        return None
    remedy = "--pooling cls, mean or max takes the encoder's own vectors"
    pooling = None
    for module in read_json(modules, list[dict[str, Any]]):
        name = str(module.get("type")).split(".")[-1]
        if name == "Pooling":
            pooling = pooling_of(folder / str(module.get("path")) / "config.json", remedy)
        elif name not in ("Transformer", "Normalize"):
            raise UserError(
                f"{modules}: {show(name)} changes the vectors in a way that is not computed here; "
                f"{remedy}"
            )
    prompts = folder / "config_sentence_transformers.json"
    default = read_json(prompts).get("default_prompt_name") if prompts.is_file() else None
    if default is not None:
        raise UserError(
            f"{prompts}: default_prompt_name is {show(default)}, which puts words before each "
            f"text; {remedy}, of texts as they are"
        )
    return pooling


def pooling_of(file: Path, remedy: str) -> str:
    """Which of POOLING the file of a Pooling module asks for."""
    values = read_json(file)
    # Newer files name the ways, older ones say yes or no to each.
    named = values.get("pooling_mode")
    if named is None:
        chosen = [name for name, on in values.items() if on and name.startswith("pooling_mode_")]
        ways = [name.removeprefix("pooling_mode_") for name in chosen]
        ways = [THEIR_POOLING.get(way, way) for way in ways]
    else:
        ways = [named] if isinstance(named, str) else typed(named, list[str], file)
    if len(ways) != 1 or ways[0] not in THEIR_POOLING.values():
        raise UserError(
            f"{file} pools by {show(' and '.join(ways))}, which is not computed here; {remedy}"
        )
    return ways[0]


def stated_length(folder: Path, do_lower_case: bool) -> int | None:
    """How many tokens of a text a folder of sentence-transformers reads; None: it does not say.

    UserError where it lower-cases texts that its tokenizer does not.
    """
    file = folder / "sentence_bert_config.json"
    values = read_json(file) if file.is_file() else {}
    if values.get("do_lower_case") and not do_lower_case:
        raise UserError(
            f"{file}: do_lower_case is true, and the vocabulary is cased; make the two agree"
        )
    return typed(values.get("max_seq_length"), int | None, f"{file}: max_seq_length")

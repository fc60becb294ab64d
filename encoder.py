"""An encoder as it is: vectors of texts, the words that fit a [MASK], how likely a text is.

    encoder = load("uncased_L-12_H-768_A-12")
    for text in encoder.extract(["A line.", "Two ||| texts."], layers=[-1], pooling="mean"):
        text.values  # (1, D)

    encoder = load("all-MiniLM-L6-v2")
    encoder.encode(["A text.", "Another one."])  # (2, D)

    encoder = load("uncased_L-12_H-768_A-12", head="masked_lm")
    for masks in encoder.fill(["Paris is the [MASK] of France."]):
        masks[0]  # of its first [MASK]: [("capital", 0.99), ...]
    for found in encoder.score(["A text.", "Two ||| texts."]):
        found.score, found.n_tokens

Shapes: B inputs, S tokens of the longest one, T tokens of all, M [MASK]s of the one with most of
them, K [MASK]s of all inputs together, D width, V vocabulary.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import models
import pretrained
from formats.rules import UNKNOWN
from formats.sentence_encoders import Form
from layers.packing import Packing
from system.progress import progress
from tasks.encoding import Batch, Batches, Features, encode, report_truncation
from tasks.task import exact
from tasks.vectors import encoder_of, form_of, length_of
from tokenization import FullTokenizer, split_line
from training import devices, inference, runs
from training.settings import Config
from utils import UserError, rank, show

MAX_LEN = 128  # tokens of a text at most, where neither the caller nor the folder says it
PROMPTS = ("", "query", "document")
CHUNK = 32  # batches of texts that are sorted by length together
PART = 512  # the same where a text has one vector, which takes little memory
MASK = "[MASK]"
SLICE = 256  # [MASK]s whose V scores are in memory at once


@dataclasses.dataclass(frozen=True)
class Vectors:
    """A text's tokens and its vectors of some layers."""

    tokens: list[str]  # [CLS] and [SEP] included
    values: np.ndarray  # (tokens, layers, D), or pooled (layers, D)


class Score(NamedTuple):
    """How likely a model finds a text."""

    text: str
    score: float  # the sum over its tokens of ln P(token | all others)
    n_tokens: int  # without [CLS] and [SEP]


class Inputs(NamedTuple):
    """A text as the model reads it: with its own [MASK]s, or a copy for each token to mask."""

    text: str
    ids: np.ndarray  # (copies, tokens) int32: [CLS] a [SEP], or [CLS] a [SEP] b [SEP]
    second: int  # at which of its tokens segment 1 starts
    hidden: np.ndarray  # (copies,) int64: the token that was masked


@dataclasses.dataclass
class Encoder:
    """An encoder, its pooler or its masked-language head, and its tokenizer."""

    model: Any  # a BertModel; to fill and to score, a PretrainModel
    tokenizer: FullTokenizer
    max_len: int
    device: torch.device
    batch_size: int = 32
    dtype: str = "fp32"
    name: str = "the encoder"  # of it in messages: the file of its weights
    form: Form = dataclasses.field(default_factory=Form)  # how a text becomes a vector

    def infer(
        self, inputs: Features, n_rows: np.ndarray, outputs: inference.Outputs
    ) -> list[np.ndarray]:
        """The outputs of each input, of which a batch gives n_rows, one input's after another's."""
        found = [np.empty(0)] * len(inputs)
        batches = Batches(inputs, self.batch_size)
        for numbers, output in inference.infer(
            self.model, batches, self.device, self.dtype, outputs, name=self.name
        ):
            parts = np.split(output.cpu().numpy(), np.cumsum(n_rows[numbers])[:-1])
            # The order of the inputs: batches are sorted by length.
            for number, part in zip(numbers, parts, strict=True):
                found[number] = part
        return found

    # -------------------------------------------------------------------------------- vectors

    @property
    def token_pooling(self) -> str:
        """How its form pools the vectors of tokens, where nothing follows that changes cosines."""
        form = self.form
        # A prompt of every text, a query's alone is another matter.
        if form.dense or form.document_prompt or form.pooling == "layers":
            raise UserError(
                f"{self.name} makes its vectors by more than pooling; `pooling` cls, mean or max "
                "takes those of its tokens, embed.py makes its own"
            )
        return form.pooling

    @functools.cached_property
    def digest(self) -> str:
        """Which model makes these vectors: a digest of its weights and of all else that counts."""
        # A query's prompt is no matter of the texts.
        form = dataclasses.replace(self.form, query_prompt="")
        rules = self.tokenizer.rules, self.tokenizer.vocabulary.digest
        about = f"{runs.weights_digest(self.model)} {self.model.cfg} {form} {rules} {self.max_len}"
        return hashlib.sha256(about.encode()).hexdigest()[:32]

    @property
    def width(self) -> int:
        """Of a text's vector."""
        return self.form.dense or self.model.cfg.dim

    def encode(
        self,
        texts: Iterable[str],
        prompt: str = "",
        bar: bool = True,
        file: str | Path = "the texts",
    ) -> np.ndarray:
        """(N, D) float32: a vector for each text, as the form says. What takes long shows a bar.

        Args:
            prompt: query or document: what the form puts before such texts.
            file: the name of the texts in a note about what is cut off.
        """
        parts = list(self.encode_parts(texts, prompt, bar, file))
        return np.concatenate(parts) if parts else np.empty((0, self.width), np.float32)

    def encode_parts(
        self,
        texts: Iterable[str],
        prompt: str = "",
        bar: bool = True,
        file: str | Path = "the texts",
    ) -> Iterator[np.ndarray]:
        """encode() of some thousand texts at a time, so that memory does not grow."""
        if prompt not in PROMPTS:
            raise UserError(f"prompt={show(prompt)}; expected query, document or none")
        before = getattr(self.form, f"{prompt}_prompt") if prompt else ""
        rest, n, truncation = iter(texts), 0, np.zeros(3, int)
        total = len(texts) if isinstance(texts, Sized) else None
        with progress(bar and rank() == 0, total=total, unit=" texts", delay=3) as shown:
            while chunk := list(islice(rest, PART * self.batch_size)):
                if wrong := [text for text in chunk if not isinstance(text, str)]:
                    raise UserError(f"{file}: {show(wrong[0], 40)}; expected texts")
                inputs = encode([(before + t, None) for t in chunk], self.tokenizer, self.max_len)
                n, truncation = n + len(chunk), truncation + inputs.truncation
                batches = Batches(inputs, self.batch_size)
                yield inference.predict(
                    self.model, batches, self.device, self.dtype, name=self.name
                ).astype(np.float32, copy=False)
                shown.update(len(chunk))
        report_truncation(file, n, truncation, self.max_len)

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
        outputs = functools.partial(layer_outputs, layers=layers, pooling=pooling)
        rest, n, truncation = iter(lines), 0, np.zeros(3, int)
        while chunk := list(islice(rest, CHUNK * self.batch_size)):
            texts = encode([split_line(line) for line in chunk], self.tokenizer, self.max_len)
            n, truncation = n + len(chunk), truncation + texts.truncation
            n_vectors = texts.lengths if pooling == "none" else np.ones(len(chunk), int)
            for i, values in enumerate(self.infer(texts, n_vectors, outputs)):
                ids = texts.ids[texts.starts[i] : texts.starts[i + 1]].tolist()
                tokens = self.tokenizer.convert_ids_to_tokens(ids)
                yield Vectors(tokens, values if pooling == "none" else values[0])
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

    # ----------------------------------------------------------------------------- blanks

    def fill(
        self, texts: Iterable[str], top: int = 5, words: list[str] | None = None
    ) -> Iterator[list[list[tuple[str, float]]]]:
        """For each text, in order, and each of its [MASK]s: words and probabilities, best first.

        Each [MASK] has words of its own, the others being masked too. UserError where a text has no
        [MASK], or more than max_len tokens.

        Args:
            texts: a text each, or two with ` ||| ` between them.
            top: how many words.
            words: candidates, one token each; probabilities stay those among all words.
        """
        if top < 1:
            raise UserError(f"top={top}; expected at least 1")
        candidates = torch.tensor(self.candidates(words), dtype=torch.long, device=self.device)
        outputs = functools.partial(best_words, mask=self.mask, candidates=candidates, top=top)
        found = self.compute(texts, False, outputs)
        return ([self.named(best) for best in masks] for _, (masks,) in found)

    def score(self, texts: Iterable[str]) -> Iterator[Score]:
        """The pseudo-log-likelihood of each text, in order, in natural logarithms.

        Salazar et al., "Masked Language Model Scoring" (arXiv 1910.14659): each token is masked in
        turn, in a copy of the text. Of a pair the tokens of both texts count; an empty text has
        none and scores 0. UserError where a text has a [MASK], or more than max_len tokens.
        """
        outputs = functools.partial(hidden_words, mask=self.mask)
        for text, logs in self.compute(texts, True, outputs):
            yield Score(text, float(np.sum(logs)), len(logs))

    @property
    def mask(self) -> int:
        """The id of [MASK]."""
        return self.tokenizer.vocab[MASK]

    def candidates(self, words: list[str] | None) -> list[int]:
        """The ids of words, each once; None: of all. UserError where a word is not one token."""
        if words is None:
            return list(self.tokenizer.vocab.values())
        found = []
        for word in words:
            tokens = self.tokenizer.tokenize(word)
            if len(tokens) != 1 or tokens == [UNKNOWN]:
                becomes = " ".join(tokens) or "no token"
                raise UserError(
                    f"words: {show(word)} becomes {becomes}; expected words that are one token of "
                    "the vocabulary; leave this one out"
                )
            found += self.tokenizer.convert_tokens_to_ids(tokens)
        # Two words may be the same token: Paris and paris, where the tokenizer lower-cases.
        return list(dict.fromkeys(found))

    def named(self, best: np.ndarray) -> list[tuple[str, float]]:
        """(top, 2) ids and probabilities -> words and probabilities."""
        words = self.tokenizer.convert_ids_to_tokens(best[:, 0].tolist())
        return list(zip(words, best[:, 1].tolist(), strict=True))

    def with_masks(self, text: str) -> list[int]:
        """The ids of a text in which [MASK] is a token; the tokenizer makes it three."""
        ids = list[int]()
        for part in text.split(MASK):
            ids += [self.mask, *self.tokenizer.encode(part)]
        return ids[1:]

    def with_blanks(self, index: int, text: str, in_turn: bool) -> Inputs:
        """A text with its [MASK]s, or a copy for each of its tokens; nothing is ever cut off."""
        a, b = split_line(text)
        cls, sep = self.tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]"])
        ids = [cls, *self.with_masks(a), sep]
        second = len(ids)
        if b is not None:
            ids += [*self.with_masks(b), sep]
        what, n_masks = f"text {index}, {show(text)}, has", ids.count(self.mask)
        if not in_turn and not n_masks:
            raise UserError(f"{what} no {MASK}; write it where a word is wanted, or use score")
        if in_turn and n_masks:
            raise UserError(f"{what} a {MASK}; write a word in its place, or use fill")
        if len(ids) > self.max_len:
            remedy = "shorten it"
            if self.max_len < (most := self.model.cfg.max_len):
                remedy += f", or raise max_len (the model takes {most})"
            raise UserError(
                f"{what} {len(ids)} tokens with [CLS] and [SEP]; expected at most "
                f"max_len={self.max_len}; {remedy}"
            )
        array = np.array(ids, np.int32)
        if not in_turn:
            return Inputs(text, array[None], second, np.zeros(1, np.int64))
        # All but [CLS] and the [SEP] behind each text.
        tokens = np.delete(np.arange(len(ids)), [0, second - 1, len(ids) - 1])
        copies = np.tile(array, (len(tokens), 1))
        copies[np.arange(len(tokens)), tokens] = self.mask
        return Inputs(text, copies, second, array[tokens].astype(np.int64))

    def compute(
        self, texts: Iterable[str], in_turn: bool, outputs: inference.Outputs
    ) -> Iterator[tuple[str, list[np.ndarray]]]:
        """Each text, in order, and of each of its inputs the outputs of the [MASK]s.

        Only some thousand inputs are in memory at a time, sorted by length, so that little is
        padded.
        """
        chunk, n = list[Inputs](), 0
        for index, text in enumerate(texts):
            chunk.append(self.with_blanks(index, text, in_turn))
            n += len(chunk[-1].ids)
            # Empty texts have no inputs and take memory all the same.
            if max(len(chunk), n) >= CHUNK * self.batch_size:
                yield from self.compute_chunk(chunk, outputs)
                chunk, n = [], 0
        if chunk:
            yield from self.compute_chunk(chunk, outputs)

    def compute_chunk(
        self, chunk: list[Inputs], outputs: inference.Outputs
    ) -> Iterator[tuple[str, list[np.ndarray]]]:
        """compute() of texts that are in memory together."""
        texts, ids, second, hidden = zip(*chunk, strict=True)
        n_copies = [len(copies) for copies in ids]
        lengths = np.repeat([copies.shape[1] for copies in ids], n_copies)
        features = Features(
            np.concatenate([copies.ravel() for copies in ids]),
            np.append(0, lengths.cumsum()),
            np.repeat(second, n_copies),
            np.concatenate(hidden),
            np.arange(len(lengths)),
        )
        n_masks = np.concatenate([(copies == self.mask).sum(1) for copies in ids])
        rest = iter(self.infer(features, n_masks, outputs))
        for text, n in zip(texts, n_copies, strict=True):
            yield text, [next(rest) for _ in range(n)]


# -------------------------------------------------------------------------------------- the outputs


def layer_outputs(model: Any, batch: Batch, layers: list[int], pooling: str) -> Tensor:
    """(T, layers, D), the real tokens one after the other; or pooled (B, layers, D)."""
    outputs: list[Tensor] = []
    model.transformer(**batch.inputs, outputs=outputs)
    blocks = outputs[1:]  # the first is the embeddings'
    # (layers) x (T, D) -> (T, layers, D); in float32, as sums in bf16 would lose small vectors.
    chosen = torch.stack([blocks[layer] for layer in layers], dim=1).float()
    if pooling == "none":
        return chosen
    lengths = Packing.of(batch.input_mask).real.sum(1)
    # [CLS] is the first token of each text, and texts follow each other.
    if pooling == "cls":
        return chosen[lengths.cumsum(0) - lengths]
    if pooling == "max":
        return torch.segment_reduce(chosen, "max", lengths=lengths)
    # (T,) the number of the text that each token belongs to.
    text = torch.arange(len(lengths), device=chosen.device).repeat_interleave(lengths)
    sums = chosen.new_zeros(len(lengths), *chosen.shape[1:])
    return sums.index_add_(0, text, chosen) / lengths[:, None, None]


def best_words(model: Any, batch: Batch, mask: int, candidates: Tensor, top: int) -> Tensor:
    """(K, top, 2): the ids of the most probable candidates at each [MASK], and P of each."""
    found = []
    for vectors in mask_vectors(model, batch, mask).split(SLICE):
        logs = word_logs(model, vectors)[:, candidates]
        best, places = logs.topk(min(top, len(candidates)))
        # float64 holds every id as it is.
        found.append(torch.stack([candidates[places].double(), best.double().exp()], -1))
    return torch.cat(found)


def hidden_words(model: Any, batch: Batch, mask: int) -> Tensor:
    """(B,) ln P of the token that the [MASK] of each input hides."""
    found = []
    vectors = mask_vectors(model, batch, mask)
    for part, hidden in zip(vectors.split(SLICE), batch.labels.split(SLICE), strict=True):
        found.append(word_logs(model, part).gather(1, hidden[:, None]).squeeze(1))
    # Many numbers are going to be added.
    return torch.cat(found).double()


def mask_vectors(model: models.PretrainModel, batch: Batch, mask: int) -> Tensor:
    """(K, D): what the encoder makes of each [MASK], those of an input from left to right."""
    # Padding has the id 0, which may be any token's.
    masked = (batch.input_ids == mask) & Packing.of(batch.input_mask).real  # (B, S)
    n_slots = int(masked.sum(1).max())
    # The [MASK]s of each input; where it has fewer than M, the first of its other tokens.
    positions = masked.int().argsort(dim=1, descending=True, stable=True)[:, :n_slots]  # (B, M)
    vectors = model.transformer(**batch.inputs, positions=positions)  # (B, M, D)
    return vectors[masked.gather(1, positions)]


def word_logs(model: models.PretrainModel, vectors: Tensor) -> Tensor:
    """(K, D) -> (K, V): ln P of every word."""
    scores = model.masked_lm(vectors, model.transformer.embedding.token.weight)
    return exact(scores).log_softmax(-1)


# ------------------------------------------------------------------------------------------ loading


def load(
    weights: str | Path,
    model_cfg: str | None = None,
    vocab: str | None = None,
    max_len: int | None = None,
    batch_size: int | None = None,
    dtype: str = "auto",
    head: str = "",
    device: str = "auto",
    form: Mapping[str, Any] | None = None,
    usual_len: int = MAX_LEN,
    stated: bool = True,
) -> Encoder:
    """The encoder of a checkpoint: TensorFlow's, Hugging Face's or ours.

    Args:
        form: what of its Form is not as the folder says; nothing said is the mean, at length 1.
        stated: False: no vectors of texts are wanted, whatever the folder says of them.
        max_len: tokens of a text at most; None: as the folder of a sentence encoder says, else
            usual_len; to fill and to score, as many as the model takes.
        batch_size: texts that are computed at once; None: 32, on a GPU 32k tokens.
        dtype, device: as those of train.Config.
        head: one that it has to have: pooler to judge, masked_lm to fill and to score.
    """
    rows = devices.ROWS if batch_size is None else batch_size
    Config(batch_size=rows, dtype=dtype, device=device)  # checks these values
    runs_on = devices.get_device(device)
    start = pretrained.find(weights, model_cfg, vocab, head)
    predicts = head == "masked_lm"
    # Blanks are filled in whole texts; vectors are of their beginnings.
    if max_len is None and not predicts:
        max_len = length_of(start)
    if max_len is None:
        max_len = start.config.max_len if predicts else min(usual_len, start.config.max_len)
    start.config.check_length(max_len)
    beside = form_of(start, form) if stated and not head else None
    made = dataclasses.replace(beside or Form(), **(form or {}))
    with models.undrawn():
        if predicts:
            model: models.BertModel = models.PretrainModel(start.config)
        elif head:
            model = models.BertModel(start.config)
        else:
            model = encoder_of(start.config, made)
            # What pools is there for whoever asks.
            if "pooler" in start.heads:
                model.pooler = models.Pooler(start.config)
    dtype = devices.usable_dtype(dtype, runs_on)
    # Token vectors and blanks need no pooler, and transformers' BertForMaskedLM has none.
    pretrained.load(model, start, fresh=("pooler", "next_sentence"))
    inference.prepack(model, runs_on, dtype)
    model.to(runs_on).eval()
    rows, name = devices.rows_at_once(batch_size, max_len, runs_on), str(start.file)
    found = Encoder(model, start.tokenizer, max_len, runs_on, rows, dtype, name, made)
    return found

"""Texts to inputs of a model, and inputs to batches of similar length.

features = encode([("A text.", None), ("A pair", "of texts.")], tokenizer, max_len=128)
batches = Batches(features, batch_size=32, seed=42)
input_ids, segment_ids, input_mask, labels = batches[0]  # (B, S) x 3, (B,)
"""

import array
import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import models
from layers.packing import Packing
from tokenization import FullTokenizer, truncate_pair
from utils import UserError, warn

# What to do with texts of more than max_len tokens.
# What becomes of texts that are too long: their end is cut off, or their middle; or they become
# several inputs, whose scores are averaged, or of which the largest of each label counts.
LONG = ("truncate", "head_tail", "window", "window_max")

# Batches whose examples are shuffled together before they are sorted by length: enough to find
# neighbours of similar length, few enough to keep batches random.
SHUFFLE_BATCHES = 50


class Batch(NamedTuple):
    """Inputs padded to the longest one, and what is learned from them, of any kind of task."""

    input_ids: Tensor  # (B, S)
    segment_ids: Tensor  # (B, S)
    input_mask: Tensor | Packing  # (B, S), 1: real token, 0: padding; or where the real ones are
    labels: Tensor  # (B,), or (B, labels); of each token (B, S)
    weights: Tensor | None = None  # (B,) of the labels, as TagTask.loss has them
    # (questions, K) the input of each question's choices; -1: it has no such choice
    which: Tensor | None = None

    @property
    def inputs(self) -> dict[str, Any]:
        """What the model is called with."""
        return {name: getattr(self, name) for name in self._fields[:3]}

    def packed(self, rounded: bool = False) -> "Batch":
        """The same with the packing that the model would make of the mask."""
        return self._replace(input_mask=Packing.of(self.input_mask, rounded))

    def widened(self, width: int) -> "Batch":
        """The same with so many columns, so that the shapes of batches repeat."""
        extra = (0, width - self.input_ids.shape[1])
        assert isinstance(self.input_mask, Tensor)
        return self._replace(
            input_ids=F.pad(self.input_ids, extra),
            segment_ids=F.pad(self.segment_ids, extra),
            input_mask=F.pad(self.input_mask, extra),
            # Those of tokens alone have weights; -100 is no label.
            labels=self.labels if self.weights is None else F.pad(self.labels, extra, value=-100),
        )


# ---------------------------------------------------------------------------------- texts to inputs


@dataclasses.dataclass(frozen=True)
class Features:
    """N inputs as token ids, one after the other in flat arrays."""

    ids: np.ndarray  # (all tokens,) int32: [CLS] a [SEP], or [CLS] a [SEP] b [SEP]
    starts: np.ndarray  # (N + 1,) where each input starts, and the end
    second: np.ndarray  # (N,) at which of its tokens segment 1 starts
    labels: np.ndarray  # (N,), or (N, labels)
    lines: np.ndarray  # (N,) lines of the file, for messages
    first: np.ndarray | None = None  # where each example's inputs start, if some have several
    largest: bool = False  # of the scores of an example's inputs the largest counts, not the mean
    n_truncated: int = 0  # examples
    n_lost: int = 0  # their tokens that are cut off

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def truncation(self) -> np.ndarray:
        """Examples that were truncated, their tokens that are lost, all tokens that are kept."""
        return np.array([self.n_truncated, self.n_lost, len(self.ids)])

    def __repr__(self) -> str:
        return f"<{len(self)} inputs of {len(self.ids)} tokens>"

    def check(self, config: models.Config) -> None:
        """UserError where a model cannot take the inputs."""
        if (self.second < self.lengths).any():
            config.check_pairs()

    @property
    def lengths(self) -> np.ndarray:
        """(N,) tokens of each input."""
        return np.diff(self.starts)

    @property
    def example_labels(self) -> np.ndarray:
        """The labels of the examples."""
        return self.labels if self.first is None else self.labels[self.first]

    @property
    def example_lines(self) -> np.ndarray:
        """The lines of the examples."""
        return self.lines if self.first is None else self.lines[self.first]

    def spread(
        self, values: np.ndarray, inputs: np.ndarray, mask: np.ndarray, empty: int
    ) -> np.ndarray:
        """A value of each token, of some of the inputs, -> (B, S), `empty` where padded."""
        starts, ends = self.starts[inputs], self.starts[inputs + 1]
        table = np.full(mask.shape, empty, np.int64)
        # Where the mask is True, the values of all rows follow each other in the order of the flat
        # array.
        table[mask] = np.concatenate([values[a:b] for a, b in zip(starts, ends, strict=True)])
        return table

    def of_examples(self, scores: np.ndarray) -> np.ndarray:
        """(N, ...) scores of inputs -> (examples, ...): the mean, or the largest, of each's."""
        if self.first is None:
            return scores
        if self.largest:
            return np.maximum.reduceat(scores, self.first)
        # The last example ends where the inputs do.
        counts = np.diff(np.append(self.first, len(self)))
        counts = counts.reshape(-1, *[1] * (scores.ndim - 1)).astype(scores.dtype)
        return np.add.reduceat(scores, self.first) / counts

    def batches(self, batch_size: int, seed: int | None = None) -> "Batches":
        """Batches of these inputs; without a seed of one pass over them, for evaluation."""
        return Batches(self, batch_size, seed)

    def joined(self, more: "Features") -> "Features":
        """These inputs and then others."""
        first = None
        if self.first is not None or more.first is not None:
            each = [np.arange(len(one)) if one.first is None else one.first for one in (self, more)]
            first = np.concatenate([each[0], len(self) + each[1]])
        return dataclasses.replace(
            self,
            ids=np.concatenate([self.ids, more.ids]),
            starts=np.concatenate([self.starts, self.starts[-1] + more.starts[1:]]),
            second=np.concatenate([self.second, more.second]),
            labels=np.concatenate([self.labels, more.labels]),
            lines=np.concatenate([self.lines, more.lines]),
            first=first,
        )

    def labelled(self, labels: np.ndarray, lines: np.ndarray) -> "Features":
        """The same with the labels and lines of its examples."""
        if self.first is not None:
            n_inputs = np.diff(np.append(self.first, len(self)))
            labels, lines = np.repeat(labels, n_inputs, axis=0), np.repeat(lines, n_inputs)
        return dataclasses.replace(self, labels=labels, lines=lines)


def window_starts(n: int, room: int) -> list[int]:
    """Where windows of `room` tokens start that cover n, evenly, overlapping by a quarter or more.

    window_starts(10, 12) -> [0]        window_starts(30, 12) -> [0, 9, 18]
    """
    # Windows start at most three quarters of a window apart.
    count = 1 + max(0, math.ceil((n - room) / (room - room // 4)))
    if count == 1:
        return [0]
    return [round(i * (n - room) / (count - 1)) for i in range(count)]


def most_context(tokens: np.ndarray, starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Which of some windows gives each token of a text the most context.

    Google's rule: min(left, right) + 0.01 * size.
    """
    left = tokens[:, None] - starts  # (tokens, windows)
    right = starts + sizes - 1 - tokens[:, None]
    score = np.where((left >= 0) & (right >= 0), np.minimum(left, right) + 0.01 * sizes, -1.0)
    return score.argmax(1)


def fit(a: list[int], b: list[int], room: int, long: str) -> list[tuple[list[int], list[int]]]:
    """The texts in `room` tokens: truncated, or as windows over the longer one.

    The shorter one has at most half of a window.
    """
    if len(a) + len(b) <= room:
        return [(a, b)]
    if not long.startswith("window"):
        kept_a, kept_b = truncate_pair(a, b, room)
        if long == "head_tail":
            return [(head_tail(a, len(kept_a)), head_tail(b, len(kept_b)))]
        return [(kept_a, kept_b)]
    # The shorter text, a question say, is in every window; the longer one moves through them.
    if len(a) > len(b):
        b = b[: room // 2]
        width = room - len(b)
        return [(a[i : i + width], b) for i in window_starts(len(a), width)]
    a = a[: room // 2]
    width = room - len(a)
    return [(a, b[i : i + width]) for i in window_starts(len(b), width)]


def head_tail(tokens: list[int], n: int) -> list[int]:
    """A text in n tokens: a quarter from its beginning, the rest from its end.

    Of 510 these are 128 and 382, which Sun et al., "How to Fine-Tune BERT for Text Classification?"
    (2019) found best.
    """
    if len(tokens) <= n:
        return tokens
    n_head = -(-n // 4)
    return tokens[:n_head] + tokens[len(tokens) - (n - n_head) :]


def encode(
    texts: Sequence[tuple[str, str | None]],
    tokenizer: FullTokenizer,
    max_len: int,
    long: str = "truncate",
) -> Features:
    """Tokenise texts and pairs into [CLS] a [SEP] or [CLS] a [SEP] b [SEP], max_len at most.

    What is longer is cut off or becomes several inputs, as one of LONG says. Labels are 0.
    """
    # [CLS] a [SEP] needs three tokens with one of text, a pair five.
    least = 5 if any(b is not None for _, b in texts) else 3
    if max_len < least:
        raise UserError(f"max_len={max_len}; these texts need at least {least} tokens")
    cls, sep = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]"])
    # array("i") holds four bytes a token, where a list of Python's integers takes more than 30.
    ids, starts = array.array("i"), [0]
    second, first = list[int](), list[int]()
    n_truncated = n_lost = 0
    for text_a, text_b in texts:
        a = tokenizer.encode(text_a)
        b = [] if text_b is None else tokenizer.encode(text_b)
        room = max_len - (2 if text_b is None else 3)
        first.append(len(second))
        for kept_a, kept_b in fit(a, b, room, long):
            ids.extend([cls, *kept_a, sep])
            if text_b is not None:
                ids.extend([*kept_b, sep])
            second.append(len(kept_a) + 2)
            starts.append(len(ids))
        over = len(a) + len(b) - room
        if not long.startswith("window") and over > 0:
            n_truncated, n_lost = n_truncated + 1, n_lost + over
    n = len(second)
    # None where each example has one input, which is nearly always: averaging is skipped.
    windowed = np.array(first) if n > len(texts) else None
    return Features(
        np.array(ids, np.int32),
        np.array(starts),
        np.array(second, int),
        np.zeros(n, np.int64),
        np.arange(1, n + 1),
        windowed,
        long == "window_max",
        n_truncated,
        n_lost,
    )


def report_truncation(
    file: Any, n_rows: int, truncation: np.ndarray, max_len: int, remedy: str = ""
) -> None:
    """Say how much of some texts was cut off, if anything was.

    Args:
        file: where the texts are from.
        truncation: the Features' own.
        remedy: what keeps it.
    """
    n_truncated, n_lost, n_kept = truncation
    if not n_truncated:
        return
    message = (
        f"{file}: {n_truncated} of {n_rows} rows are longer than max_len={max_len}; {n_lost} of "
        f"their tokens are cut off, {n_lost / (n_lost + n_kept):.1%} of all"
    )
    if remedy:
        message += f"; {remedy}"
    warn(message)


# -------------------------------------------------------------------------------- inputs to batches


class Batches:
    """An endless row of batches: batches[n] is a function of (seed, n) alone.

    Every epoch visits each example once. Examples of similar length share a batch, so that little
    is padded: the shuffled examples are cut into groups of SHUFFLE_BATCHES batches, each group is
    sorted by length and cut into batches, and all batches are shuffled.

    Without a seed nothing is shuffled, for evaluation: all examples are sorted by length,
    and a batch has as many as fit into the tokens of batch_size of the longest.
    """

    def __init__(self, features: Features, batch_size: int, seed: int | None = None):
        self.features, self.batch_size, self.seed = features, batch_size, seed
        self.lengths, self.lines = features.lengths, features.lines
        # The epoch asked for last, and its batches. A thread may ask for another one, so that both
        # are replaced at once.
        self._last: tuple[int, list[np.ndarray]] = (-1, [])

    @property
    def longest(self) -> int:
        """Tokens of the longest example."""
        return int(self.lengths.max(initial=0))

    @functools.cached_property
    def width(self) -> int:
        """Tokens of the longest input, of which an example may have several."""
        return int(self.features.lengths.max(initial=0))

    def __len__(self) -> int:
        """Batches of an epoch."""
        if self.seed is None:
            return len(self.batches_of(0))
        # The last of them may be smaller.
        return -(-len(self.lengths) // self.batch_size)

    def first(self, epoch: int) -> int:
        """The number of an epoch's first batch."""
        return epoch * len(self)

    def rows(self, n: int) -> np.ndarray:
        """Which examples batch n has, (B,)."""
        epoch, i = divmod(n, len(self))
        return self.batches_of(epoch)[i]

    def batches_of(self, epoch: int) -> list[np.ndarray]:
        """order(epoch), which is kept for the next request."""
        last, order = self._last
        if last != epoch:
            order = self.order(epoch)
            self._last = (epoch, order)
        return order

    def order(self, epoch: int) -> list[np.ndarray]:
        """The examples of each batch of an epoch."""
        lengths, size = self.lengths, self.batch_size
        if self.seed is None:
            # A stable sort, so that the order does not depend on NumPy's algorithm.
            by_length = np.argsort(lengths, kind="stable")
            return cut_by_tokens(by_length, lengths[by_length], size * self.longest)
        # The epoch is part of the seed, so any batch can be made without those before it.
        rng = np.random.default_rng([self.seed, epoch])
        groups = cut(rng.permutation(len(lengths)), size * SHUFFLE_BATCHES)
        by_length = np.concatenate(
            [group[np.argsort(lengths[group], kind="stable")] for group in groups]
        )
        batches = cut(by_length, size)
        return [batches[i] for i in rng.permutation(len(batches))]

    def __getitem__(self, n: int) -> Batch:
        """All of batch n."""
        return self.shard(n, 0, 1)

    def shard(self, n: int, rank: int, world: int) -> Batch:
        """The rows rank, rank + world, ... of batch n, on the CPU."""
        rows = self.rows(n)[rank::world]
        labels = torch.from_numpy(self.features.labels[rows])
        return Batch(*self.padded(rows), labels)

    def padded(self, inputs: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Some of the inputs as input_ids, segment_ids and input_mask, (B, S) each."""
        features = self.features
        # Of these inputs alone: a data set may have a million.
        lengths = (features.starts[inputs + 1] - features.starts[inputs])[:, None]  # (B, 1)
        column = np.arange(lengths.max())  # (S,)
        mask = column < lengths  # (B, S)
        # [PAD] is in segment 0, as in Google's inputs.
        segments = mask & (column >= features.second[inputs][:, None])
        return (
            torch.from_numpy(features.spread(features.ids, inputs, mask, empty=0)),
            torch.from_numpy(segments.astype(np.int64)),
            torch.from_numpy(mask.astype(np.int64)),
        )

    def describe(self, n: int) -> str:
        """Batch n in words, for messages."""
        lines = ", ".join(map(str, sorted(self.lines[self.rows(n)])))
        epoch, i = divmod(n, len(self))
        return f"batch {i + 1} of epoch {epoch + 1}, lines {lines}"


def cut(values: np.ndarray, size: int) -> list[np.ndarray]:
    """An array in pieces of a size, the last one shorter."""
    return [values[i : i + size] for i in range(0, len(values), size)]


def cut_by_tokens(rows: np.ndarray, lengths: np.ndarray, tokens: int) -> list[np.ndarray]:
    """Rows of rising lengths in batches, each padded to its last one, of so many tokens at most."""
    batches, start = [], 0
    while start < len(rows):
        # No later batch has more rows than fit of the next one's length.
        candidates = lengths[start : start + tokens // max(int(lengths[start]), 1)]
        n = int((candidates * np.arange(1, len(candidates) + 1) <= tokens).sum())
        # Where no input has a token, none would ever fit.
        n = max(n, 1)
        batches.append(rows[start : start + n])
        start += n
    return batches


class PooledBatch(NamedTuple):
    """Examples as the vectors that the pooler gave, and their labels."""

    pooled: Tensor  # (B, D)
    labels: Tensor

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What the model is called with."""
        return {"pooled": self.pooled}


class PooledBatches:
    """The batches of others, with pooled vectors (N, D) instead of tokens."""

    def __init__(self, vectors: np.ndarray, batches: Batches):
        self.vectors, self.batches = vectors, batches
        # The same order and the same rows, so that training on vectors sees what training on tokens
        # does.
        self.first, self.rows, self.describe = batches.first, batches.rows, batches.describe

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, n: int) -> PooledBatch:
        return self.shard(n, 0, 1)

    def shard(self, n: int, rank: int, world: int) -> PooledBatch:
        """The rows rank, rank + world, ... of batch n."""
        rows = self.rows(n)[rank::world]
        labels = self.batches.features.labels[rows]
        return PooledBatch(torch.from_numpy(self.vectors[rows]), torch.from_numpy(labels))

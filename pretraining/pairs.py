"""From a prepared corpus to masked sentence pairs, as Google's generator makes them.

    pairs = Pairs(Corpus("books-ids"), PairConfig(max_len=128), seed=42)
    batches = PairBatches(pairs, batch_size=256, seed=42)

The text is divided into blocks of some 65,000 tokens, and the pairs of a block are made with a
random generator of its own. So an instance depends on the seed, the epoch and its place in the
text, not on what was asked for before, by whom, or in which order, and nothing need be saved to
resume. Source of the rules: create_pretraining_data.py of google-research/bert.
"""

# N instances, B of them in a batch, S tokens of the longest, P masked slots at most

import dataclasses
import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from formats.vocab import load_vocab
from pretraining.batches import PretrainBatch
from pretraining.masks import choose, replace
from pretraining.shards import Corpus
from utils import UserError, short

BLOCK = 2**16  # tokens, about: what is read in one go
VARIANTS = 10  # epochs with pairs of their own, Google's dupe_factor; masks are always new
# What a generator is for: ends its seed, so that no two are the same.
CHUNKS, TEXTS, MASKS = 1, 2, 3


@dataclasses.dataclass(frozen=True)
class PairConfig:
    """What instances are like; UserError where a value is out of range."""

    max_len: int = 512  # tokens, [CLS] and [SEP] included
    max_pred: int | None = None  # masked tokens at most; None: max_len * mask_prob, rounded up
    mask_prob: float = 0.15  # share of the tokens to mask
    short_seq_prob: float = 0.1  # share of the documents with a shorter target length
    next_sentence: bool = True  # pairs of texts; False: pieces of one document
    whole_word_mask: bool = False  # mask all pieces of a word or none

    def __post_init__(self) -> None:
        # [CLS] a [SEP] b [SEP], or [CLS] a [SEP], with one token of each text.
        least = 5 if self.next_sentence else 3
        # Positions below 2**16: masks.replace() draws its numbers from there on.
        if not least <= self.max_len < 2**16:
            raise UserError(f"max_len={self.max_len}; expected {least} to {2**16 - 1}")
        if not 0 < self.mask_prob < 1:
            raise UserError(
                f"mask_prob={self.mask_prob}; expected a share of the tokens, more than 0 and less "
                "than 1"
            )
        if not 0 <= self.short_seq_prob <= 1:
            raise UserError(f"short_seq_prob={self.short_seq_prob}; expected a probability, 0 to 1")
        # Google's default of 20 masks 3.9% of 512 tokens; this follows max_len instead.
        if self.max_pred is None:
            object.__setattr__(self, "max_pred", math.ceil(self.max_len * self.mask_prob))
        elif not 1 <= self.max_pred <= self.max_len:
            raise UserError(f"max_pred={self.max_pred}; expected 1 to max_len={self.max_len}")

    @property
    def n_special(self) -> int:
        """[CLS] and [SEP] of an instance."""
        return 3 if self.next_sentence else 2


class Chunk(NamedTuple):
    """Sentences of a document that were gathered up to the target length."""

    document: int
    target: int  # tokens
    start: int  # the first sentence of A
    a_end: int  # A's last sentence + 1
    end: int  # the chunk's last sentence + 1
    is_random_next: bool  # B is text from another document


# An instance before masking. A is tokens[a : a + n_a] of the corpus, B likewise.
INSTANCE = np.dtype(
    [
        ("a", np.int64),
        ("n_a", np.int64),
        ("b", np.int64),
        ("n_b", np.int64),
        ("order", np.int64),  # 1 where B is text from another document
        ("mask_seed", np.uint64),
    ]
)


class Pairs:
    """The sentence pairs of a prepared text.

    Sentences of a document are gathered up to the target length (max_len - 3; for a tenth of the
    documents a random shorter one), and the chunk is split at a random sentence. With probability
    .5, and always where it is a single sentence, B is text from another document instead, and what
    was to be B is gathered again. A document longer than a block is walked in parts. Without
    next-sentence prediction an instance is a piece of one document: [CLS] text [SEP].

    Args:
        corpus: of the kind "text".
        config: what instances are like.
        seed: of every choice.
        fixed: every epoch is the first one again, masks and all.
    """

    def __init__(self, corpus: Corpus, config: PairConfig, seed: int = 0, fixed: bool = False):
        self.corpus = corpus
        self.config, self.max_len = config, config.max_len
        self.seed = seed
        self.fixed = fixed
        self.n_documents = len(corpus.documents) - 1
        self.n_sentences = len(corpus.sentences) - 1
        # B from another document needs one; Google's code would draw from the same.
        if config.next_sentence and self.n_documents < 2:
            names = short(", ".join(name for name, _ in corpus.about.get("text", [])))
            raise UserError(
                f"{names or corpus.folder} is a single document, so no sentence from another one "
                "can be had; separate documents by blank lines, or turn next-sentence prediction "
                "off: `next_sentence=False`"
            )
        assert corpus.vocab_file
        vocab = load_vocab(corpus.vocab_file)
        self.cls, self.sep, self.mask = (vocab[token] for token in ("[CLS]", "[SEP]", "[MASK]"))
        self.vocab_size = len(vocab)
        # of each id, whether it is a piece that continues a word
        self.continues = np.zeros(max(vocab.values()) + 1, bool)
        self.continues[[i for token, i in vocab.items() if token.startswith("##")]] = True
        # sentences of a block
        self.block = max(64, BLOCK * self.n_sentences // corpus.counts["tokens"])
        self.n_blocks = -(-self.n_sentences // self.block)
        self._counts: dict[int, np.ndarray] = {}

    # ---------------------------------------------------------------------------------- the pairs

    def edge(self, block: int) -> int:
        """The sentence a block starts at: a document's start, unless none is in it."""
        at = min(block * self.block, self.n_sentences)
        document = int(self.corpus.documents[self.corpus.documents.search(at)])
        return document if document < at + self.block else at

    def counts(self, epoch: int) -> np.ndarray:
        """(n_blocks,) how many instances each block gives in an epoch."""
        variant = self._variant(epoch)
        # Counting walks through the whole corpus, and is done once for each of the ten variants.
        if variant not in self._counts:
            walk = self.chunks if self.config.next_sentence else self._pieces
            counts = np.zeros(self.n_blocks, np.int64)
            for block in range(self.n_blocks):
                counts[block] = len(walk(block, epoch))
                self.corpus.release()
            self._counts[variant] = counts
        return self._counts[variant]

    def plan(self, blocks: np.ndarray, epoch: int) -> np.ndarray:
        """(N,) records, INSTANCE, of the instances of some blocks in an epoch."""
        plans = []
        for block in blocks.tolist():
            if self.config.next_sentence:
                plan = self._pairs(self.chunks(block, epoch), self._rng(epoch, block, TEXTS))
            else:
                plan = np.array(self._pieces(block, epoch), INSTANCE)
            # unlike the pairs, the masks are new in every epoch
            masks = np.random.default_rng([self.seed, 0 if self.fixed else epoch, block, MASKS])
            plan["mask_seed"] = masks.integers(2**64, size=len(plan), dtype=np.uint64)
            plans.append(plan)
            self.corpus.release()
        return np.concatenate(plans)

    def _variant(self, epoch: int) -> int:
        """Which of the different sets of pairs an epoch has."""
        return 0 if self.fixed else epoch % VARIANTS

    def _rng(self, epoch: int, block: int, purpose: int) -> np.random.Generator:
        """What the pairs of a block are drawn from."""
        return np.random.default_rng([self.seed, self._variant(epoch), block, purpose])

    def _documents(self, block: int) -> tuple[int, list[int]]:
        """Of the documents in a block, or parts of them: the first one's number; where each starts.

        As sentences, with the end of the last; none where no document is in the block.
        """
        first, past = self.edge(block), self.edge(block + 1)
        # The end of the text counts as a document's start, so that the block before may take all
        # that is left, and the last one nothing.
        if first == past:
            return 0, []
        documents = self.corpus.documents
        number = documents.search(first + 1) - 1
        starts = documents[number : documents.search(past)].clip(first).tolist()
        return number, [*starts, past]

    def _target(self, rng: np.random.Generator) -> int:
        """The tokens that the instances of a document are to have, without [CLS] and [SEP]."""
        room = self.config.max_len - self.config.n_special
        # Short instances let the model see short inputs, as those of many tasks are.
        if rng.random() < self.config.short_seq_prob:
            return int(rng.integers(min(2, room), room + 1))
        return room

    def chunks(self, block: int, epoch: int) -> list[Chunk]:
        """Walk through a block: what makes its pairs, before random B's are found."""
        number, edges = self._documents(block)
        if not edges:
            return []
        base = edges[0]
        # At which token each sentence starts, and where the last one ends.
        token = self.corpus.sentences[base : edges[-1] + 1].tolist()
        rng = self._rng(epoch, block, CHUNKS)
        chunks = []
        for document, (first, past) in enumerate(pairwise(edges), start=number):
            target = self._target(rng)
            start, past = first - base, past - base
            while start < past:
                end = start + 1
                # At least one sentence, until the target length is reached or the document ends.
                while end < past and token[end] - token[start] < target:
                    end += 1
                is_single = end - start == 1
                # one of start + 1 .. end - 1: so it takes a quarter of the time of rng.integers
                a_end = start + 1 + int(rng.random() * (end - start - 1))
                # A single sentence leaves no text for B: always random then, as in Google's code.
                is_random_next = is_single or rng.random() < 0.5
                chunks.append(
                    Chunk(document, target, base + start, base + a_end, base + end, is_random_next)
                )
                # what was to be B is gathered again
                start = a_end if is_random_next else end
        return chunks

    def _pieces(self, block: int, epoch: int) -> list[tuple[int, ...]]:
        """Documents cut into pieces of their target length, the last one shorter; as INSTANCE."""
        _, edges = self._documents(block)
        rng = self._rng(epoch, block, CHUNKS)
        pieces: list[tuple[int, ...]] = []
        for start, stop in pairwise(self.corpus.sentences[np.array(edges, np.int64)].tolist()):
            target = self._target(rng)
            pieces += [(a, min(target, stop - a), 0, 0, 0, 0) for a in range(start, stop, target)]
        return pieces

    def _pairs(self, chunks: list[Chunk], rng: np.random.Generator) -> np.ndarray:
        """(N,) INSTANCE: find the random B's, and truncate."""
        columns = np.array(chunks, np.int64).reshape(-1, len(Chunk._fields)).T
        document, target, start, a_end, end, is_random_next = columns
        a, b, stop = (self.corpus.sentences[at] for at in (start, a_end, end))
        n_a, n_b = b - a, stop - b  # as if every B were the text that follows
        # Only the chunks with a random B are looked up; all others keep the text that follows.
        rows = np.flatnonzero(is_random_next)
        b[rows], n_b[rows] = self._other_texts(document[rows], (target - n_a)[rows], rng)
        keep_a, keep_b = truncate(n_a, n_b, self.config.max_len - self.config.n_special)
        plan = np.zeros(len(chunks), INSTANCE)
        # Google drops each token from the front or the back by a coin: binomially many in front.
        plan["a"] = a + rng.binomial(n_a - keep_a, 0.5)
        plan["n_a"] = keep_a
        plan["b"] = b + rng.binomial(n_b - keep_b, 0.5)
        plan["n_b"] = keep_b
        plan["order"] = is_random_next
        return plan

    def _other_texts(
        self, own: np.ndarray, wanted: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """First tokens and lengths of texts from other documents than `own`.

        Sentences from a random one on, until the tokens wanted are there or the document ends.
        """
        sentences, documents = self.corpus.sentences, self.corpus.documents
        # one document fewer, and its own is stepped over: so the others are equally likely
        other = rng.integers(self.n_documents - 1, size=len(own))
        other += other >= own
        stop = documents[other + 1]
        first = rng.integers(documents[other], stop)
        start = sentences[first]
        end = first + 1
        # All texts grow by a sentence at a time until none is too short.
        while (short := (sentences[end] - start < wanted) & (end < stop)).any():
            end += short
        return start, sentences[end] - start

    # ---------------------------------------------------------------------------------- the masks

    def lengths(self, plan: np.ndarray) -> np.ndarray:
        """(N,) tokens of each instance, [CLS] and [SEP] included."""
        return plan["n_a"] + plan["n_b"] + self.config.n_special

    def n_slots(self, plan: np.ndarray) -> int:
        """How many tokens of some instances build() masks."""
        if self.config.whole_word_mask:  # words may not fit: ask the rule itself
            return int(self.build(plan).weights.sum())
        return int(self._n_to_mask(plan).sum())

    def _n_to_mask(self, plan: np.ndarray) -> np.ndarray:
        """(N,) how many tokens to mask: min(max_pred, max(1, round(length * mask_prob)))."""
        n = np.rint(self.lengths(plan) * self.config.mask_prob).astype(np.int64)
        # an instance may have fewer tokens than that, [CLS] and [SEP] not counted
        return np.minimum(n.clip(1, self.config.max_pred), plan["n_a"] + plan["n_b"])

    def build(self, plan: np.ndarray) -> PretrainBatch[np.ndarray]:
        """The batch of some instances, masked; the weight of a slot in use is 1."""
        lengths = self.lengths(plan)[:, None]  # (B, 1)
        column = np.arange(lengths.max())  # (S,)
        b_start = plan["n_a"][:, None] + 2  # after [CLS] A [SEP]
        real = column < lengths
        special = (column == 0) | (column == b_start - 1) | (column == lengths - 1)
        # From columns of the batch to tokens of the corpus: [CLS] stands before A, [SEP] before B.
        a_index = plan["a"][:, None] + column - 1
        b_index = plan["b"][:, None] + column - b_start
        index = np.where(column < b_start, a_index, b_index)
        is_text = real & ~special
        # Places without text are looked up at token 0, and then set to 0, [PAD].
        ids = np.where(is_text, self.corpus.tokens[np.where(is_text, index, 0)], 0)
        self.corpus.release()
        # A corpus that was altered would be an error only on the device, without a name.
        if (largest := int(ids.max())) >= self.vocab_size:
            raise UserError(
                f"{self.corpus.folder} has token {largest} of {self.vocab_size}; prepare it again"
            )
        # The [SEP]s and [CLS] are written last, since `special` covers all three.
        ids[special] = self.sep
        ids[:, 0] = self.cls
        segments = real & (column >= b_start)
        seeds = plan["mask_seed"]
        # before any is masked: [MASK] continues no word
        continues = self.continues[ids] if self.config.whole_word_mask else None
        positions, used = choose(is_text, self._n_to_mask(plan), seeds, continues)
        words = np.where(used, np.take_along_axis(ids, positions, axis=1), 0)
        # A slot that is not used has the position 0, and must not overwrite [CLS].
        rows, slots = np.nonzero(used)
        masked = replace(words, seeds, self.mask, self.vocab_size)
        ids[rows, positions[rows, slots]] = masked[rows, slots]
        segments, real = segments.astype(np.int64), real.astype(np.int64)
        return PretrainBatch(ids, segments, real, positions, words, used, plan["order"])


def truncate(n_a: np.ndarray, n_b: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray]:
    """The lengths left when the longer one loses a token, on a tie B, until both fit."""
    # As dropping token after token: both end at half of the room, unless one is shorter.
    half = (room + 1) // 2
    keep_a = np.where(n_a <= half, n_a, np.minimum(n_a, np.maximum(half, room - n_b)))
    return keep_a, np.minimum(n_b, room - keep_a)

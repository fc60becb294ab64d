"""From a prepared corpus to masked sentence pairs, as Google's generator makes them; batches.py
puts them together.

    pairs = Pairs(Corpus("books-ids"), max_len=128, max_pred=20)
    batches = Batches(pairs, batch_size=256, seed=42)
    input_ids, segment_ids, input_mask, positions, words, weights, order = batches[0]   # (B, S) x 3, (B, P) x 3, (B,)

Every random choice is a hash of the seed, the epoch and the place in the corpus, not the next
number of a generator. So an instance does not depend on what was asked for before, by whom, or in
which order, and nothing need be saved to go on. Source of the rules: create_pretraining_data.py of
google-research/bert.
"""

import dataclasses
import math

import numpy as np

from pretraining.batches import POOL, Plan
from pretraining.shards import Corpus
from tokenization import load_vocab
from utils import UserError

BLOCK = 2**16  # tokens, about: what is read in one go
VARIANTS = 10  # epochs with pairs of their own, Google's dupe_factor; masks are always new
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


# ------------------------------------------------------------------------------------------- chance


def mix(x: np.ndarray) -> np.ndarray:
    """Scramble 64-bit integers: the output function of the generator SplitMix64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def draw(keys: np.ndarray, which: int | np.ndarray) -> np.ndarray:
    """Number `which` of the random 64-bit integers that belong to each key."""
    return mix(keys + GOLDEN * np.asarray(which, np.uint64))


def below(n: np.ndarray | int, keys: np.ndarray, which: int) -> np.ndarray:
    """A random integer of 0 .. n - 1 for each key."""
    return ((draw(keys, which) >> np.uint64(11)) * 2.0**-53 * n).astype(np.int64)


def coin(p: float, keys: np.ndarray, which: int | np.ndarray) -> np.ndarray:
    """True with probability p for each key."""
    return (draw(keys, which) >> np.uint64(11)) * 2.0**-53 < p


def base_key(*numbers: int) -> np.uint64:
    """A key for a seed and an epoch, far from every other one's."""
    return np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]


def heads(n: np.ndarray, keys: np.ndarray, which: int) -> np.ndarray:
    """How many of n coins show heads, for each key."""
    count, word, left = np.zeros(len(n), np.int64), 0, n
    while len(left) and left.max() > 0:
        bits = np.clip(left, 0, 64).astype(np.uint64)
        mask = np.where(
            bits == 64, ~np.uint64(0), (np.uint64(1) << (bits % np.uint64(64))) - np.uint64(1)
        )
        count += np.bitwise_count(draw(keys, which + word) & mask)
        word, left = word + 1, left - 64
    return count


# ---------------------------------------------------------------------------------------- the pairs


def truncate(n_a: np.ndarray, n_b: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray]:
    """The lengths left when, while both are too long together, the longer one loses a token, on a
    tie B.
    """
    half = (room + 1) // 2
    keep_a = np.where(n_a <= half, n_a, np.minimum(n_a, np.maximum(half, room - n_b)))
    return keep_a, np.minimum(n_b, room - keep_a)


def check(
    max_len: int = 128,
    max_pred: int | None = None,
    mask_prob: float = 0.15,
    short_seq_prob: float = 0.1,
    next_sentence: bool = True,
    **_: object,
) -> int:
    """UserError where settings of Pairs are out of range; returns max_pred."""
    least = 5 if next_sentence else 3
    if not least <= max_len < 2**16:
        raise UserError(f"max_len={max_len}; expected {least} to {2**16 - 1}")
    if not 0 < mask_prob < 1:
        raise UserError(
            f"mask_prob={mask_prob}; expected a share of the tokens, more than 0 and less than 1"
        )
    if not 0 <= short_seq_prob <= 1:
        raise UserError(f"short_seq_prob={short_seq_prob}; expected a probability, 0 to 1")
    if max_pred is not None and not 1 <= max_pred <= max_len:
        raise UserError(f"max_pred={max_pred}; expected 1 to max_len={max_len}")
    return math.ceil(max_len * mask_prob) if max_pred is None else max_pred


class Pairs:
    """The sentence pairs of a prepared text.

    Sentences of a document are gathered up to the target length (max_len - 3; for a tenth of the
    documents a random shorter one), and the chunk is split at a random sentence. With probability
    .5, and always where it is a single sentence, B is text from another document instead, and what
    was to be B is gathered again. A document longer than a block is walked in parts. Without
    next-sentence prediction an instance is a piece of one document: [CLS] text [SEP].

    Args:
        corpus: of the kind "text".
        max_len: tokens of an instance at most.
        max_pred: masked tokens of an instance at most; None: as many as mask_prob asks for.
        mask_prob: share of the tokens to mask.
        short_seq_prob: share of the documents with a shorter target.
        next_sentence: False: no pairs.
        whole_word_mask: mask all pieces of a word or none.
        seed: of every choice.
        fixed: every epoch is the first one again, masks and all.
    """

    def __init__(
        self,
        corpus: Corpus,
        max_len: int = 128,
        max_pred: int | None = None,
        mask_prob: float = 0.15,
        short_seq_prob: float = 0.1,
        next_sentence: bool = True,
        whole_word_mask: bool = False,
        seed: int = 0,
        fixed: bool = False,
    ):
        self.max_pred = check(max_len, max_pred, mask_prob, short_seq_prob, next_sentence)
        self.corpus, self.max_len, self.mask_prob, self.short_seq_prob = (
            corpus,
            max_len,
            mask_prob,
            short_seq_prob,
        )
        self.next_sentence, self.whole_word_mask, self.seed, self.fixed = (
            next_sentence,
            whole_word_mask,
            seed,
            fixed,
        )
        self.n_sentences, self.n_documents = len(corpus.sentences) - 1, len(corpus.documents) - 1
        if next_sentence and self.n_documents < 2:
            raise UserError(
                f"{corpus.folder} is a single document, so no sentence from another one can be "
                "had; separate "
                "documents by blank lines, or turn next-sentence prediction off: --next_sentence "
                "False"
            )
        assert corpus.vocab_file
        vocab = load_vocab(corpus.vocab_file)
        self.cls, self.sep, self.mask = (vocab[token] for token in ("[CLS]", "[SEP]", "[MASK]"))
        self.vocab_size = len(vocab)
        self.continues = np.zeros(
            max(vocab.values()) + 1, bool
        )  # ids of pieces that continue a word
        self.continues[[i for token, i in vocab.items() if token.startswith("##")]] = True
        n_tokens = corpus.counts["tokens"]
        self.block = max(64, BLOCK * self.n_sentences // n_tokens)  # sentences
        self.n_blocks = -(-self.n_sentences // self.block)
        self._counts: dict[int, np.ndarray] = {}

    # ------------------------------------------------------------------------------------- planning

    def variant(self, epoch: int) -> int:
        """Which of the different sets of pairs an epoch has."""
        return 0 if self.fixed else epoch % VARIANTS

    def edge(self, block: int) -> int:
        """The sentence a block starts at: a document's start, unless none is in it."""
        at = min(block * self.block, self.n_sentences)
        document = int(self.corpus.documents[self.corpus.documents.search(at)])
        return document if document < at + self.block else at

    def counts(self, epoch: int) -> np.ndarray:
        """(n_blocks,) how many instances each block gives in an epoch."""
        variant = self.variant(epoch)
        if variant not in self._counts:
            counts = [
                np.bincount(self._walk(blocks, variant).block, minlength=len(blocks))
                for blocks in np.split(np.arange(self.n_blocks), range(POOL, self.n_blocks, POOL))
            ]
            self._counts[variant] = np.concatenate(counts)
        return self._counts[variant]

    def plan(self, blocks: np.ndarray, epoch: int) -> Plan:
        """The instances of some blocks in an epoch."""
        plan = self._walk(blocks, self.variant(epoch))
        if self.next_sentence:
            rows = np.arange(len(plan))  # by parts, so that few pages are in memory at a time
            plan = Plan.join(
                [
                    self._finish(plan.take(part))
                    for part in np.split(rows, range(4096, len(rows), 4096))
                ]
            )
        return plan

    def _walk(self, blocks: np.ndarray, variant: int) -> Plan:
        """Go through all documents of some blocks at once, chunk by chunk; B and truncation are for
        _finish().
        """
        corpus, base = self.corpus, base_key(self.seed, variant)
        room = self.max_len - (3 if self.next_sentence else 2)
        sections, offsets, at = [], [np.zeros(1, np.int64)], 0
        for i, block in enumerate(blocks.tolist()):
            first, past = self.edge(block), self.edge(block + 1)
            if first == past:
                continue
            one, last = corpus.documents.search(first + 1) - 1, corpus.documents.search(past)
            starts = corpus.documents[one:last].clip(first)  # of the documents, in the corpus
            n = len(starts)
            tokens = corpus.sentences[first : past + 1]
            sections.append(
                np.stack(
                    [
                        starts - first + at,
                        np.append(starts[1:], past) - first + at,  # in the pool
                        np.full(n, first - at),
                        np.full(n, tokens[0] - offsets[-1][-1]),  # shifts
                        np.arange(one, last),
                        np.full(n, i),
                    ]
                )
            )
            offsets.append(tokens[1:] - tokens[0] + offsets[-1][-1])
            at += past - first
        corpus.release()
        if not sections:
            nothing = np.empty(0, np.int64)
            return Plan(
                nothing.astype(np.uint64),
                nothing,
                nothing,
                nothing,
                nothing,
                nothing,
                nothing,
                nothing > 0,
                nothing > 0,
            )
        offset = np.concatenate(offsets)  # at which token of the pool each sentence starts
        start, stop, shift, token_shift, document, which = np.concatenate(
            sections, axis=1
        )  # (lanes,) each
        keys = mix(base + GOLDEN * (start + shift).astype(np.uint64))
        short = coin(self.short_seq_prob, keys, 1)
        target = np.where(short, 2 + below(room - 1, keys, 2), room)
        if not self.next_sentence:
            return self._pieces(
                base, offset[start] + token_shift, offset[stop] + token_shift, target, which, short
            )
        chunks = []
        lanes, now = (
            np.arange(len(start)),
            start,
        )  # a lane: a document and the sentence it has come to
        while len(lanes):
            end = np.minimum(np.searchsorted(offset, offset[now] + target[lanes]), stop[lanes])
            n = end - now
            keys = mix(base + GOLDEN * ((now + shift[lanes]).astype(np.uint64) + np.uint64(2**62)))
            single = n == 1
            split = now + np.where(single, 1, 1 + below(n - 1, keys, 1))
            order = single | coin(0.5, keys, 2)
            chunks.append((keys, now, split, end, order, single, lanes))
            now = np.where(order, split, end)
            left = now < stop[lanes]
            lanes, now = lanes[left], now[left]
        keys, now, split, end, order, single, lanes = (
            np.concatenate(c) for c in zip(*chunks, strict=True)
        )
        # for _finish(): of a random B, `b` is A's document and `n_b` the tokens wanted
        a, n_a = offset[now], offset[split] - offset[now]
        return Plan(
            keys,
            a + token_shift[lanes],
            n_a,
            np.where(order, document[lanes], offset[split] + token_shift[lanes]),
            np.where(order, target[lanes] - n_a, offset[end] - offset[split]),
            order.astype(np.int64),
            which[lanes],
            single,
            short[lanes],
        )

    def _pieces(
        self,
        base: np.uint64,
        start: np.ndarray,
        stop: np.ndarray,
        target: np.ndarray,
        which: np.ndarray,
        short: np.ndarray,
    ) -> Plan:
        """Documents cut into pieces of their target length, the last one shorter."""
        n = -((start - stop) // target)
        document = np.repeat(np.arange(len(n)), n)
        a = (
            start[document]
            + (np.arange(len(document)) - np.repeat(np.cumsum(n) - n, n)) * target[document]
        )
        keys, zeros = (
            mix(base + GOLDEN * (a.astype(np.uint64) + np.uint64(2**62))),
            np.zeros(len(a), np.int64),
        )
        return Plan(
            keys,
            a,
            np.minimum(target[document], stop[document] - a),
            a,
            zeros,
            zeros,
            which[document],
            zeros > 0,
            short[document],
        )

    def _finish(self, plan: Plan) -> Plan:
        """Find the random B's, and truncate."""
        corpus, rows = self.corpus, np.flatnonzero(plan.order)
        b, n_b, keys = plan.b.copy(), plan.n_b.copy(), plan.keys
        other = below(self.n_documents - 1, keys[rows], 3)
        other += other >= plan.b[rows]  # any document but A's
        first, stop = corpus.documents[other], corpus.documents[other + 1]
        first = first + below(stop - first, keys[rows], 4)
        b[rows] = corpus.sentences[first]
        end, open_ = first + 1, np.arange(len(rows))
        while len(open_):  # sentences up to the length wanted
            got = corpus.sentences[end[open_]] - b[rows[open_]]
            open_ = open_[(got < plan.n_b[rows[open_]]) & (end[open_] < stop[open_])]
            end[open_] += 1
        n_b[rows] = corpus.sentences[end] - b[rows]
        corpus.release()
        keep_a, keep_b = truncate(plan.n_a, n_b, self.max_len - 3)
        a = plan.a + heads(plan.n_a - keep_a, keys, 2**10)  # each token from the front or the back
        b += heads(n_b - keep_b, keys, 2**20)
        return dataclasses.replace(plan, a=a, n_a=keep_a, b=b, n_b=keep_b)

    # ------------------------------------------------------------------------------------- building

    def lengths(self, plan: Plan) -> np.ndarray:
        """(N,) tokens of each instance, [CLS] and [SEP] included."""
        return plan.n_a + plan.n_b + (3 if self.next_sentence else 2)

    def slots(self, plan: Plan, epoch: int) -> int:
        """How many tokens of some instances build() masks."""
        if self.whole_word_mask:  # words may not fit: ask the rule itself
            return int(self.build(plan, epoch)[5].sum())
        lengths = self.lengths(plan)
        return int(
            np.minimum(n_masked(lengths, self.max_pred, self.mask_prob), plan.n_a + plan.n_b).sum()
        )

    def build(self, plan: Plan, epoch: int) -> tuple[np.ndarray, ...]:
        """The arrays of a batch, masked."""
        lengths = self.lengths(plan)[:, None]
        column = np.arange(lengths.max())  # (S,)
        second = plan.n_a[:, None] + 2  # (B, 1) where segment 1 starts
        real = column < lengths
        index = column + np.where(column < second, plan.a[:, None] - 1, plan.b[:, None] - second)
        index = np.where(real, index, 0).clip(
            0, len(self.corpus.tokens) - 1
        )  # [CLS] and [SEP] may lie outside
        ids = np.where(real, self.corpus.tokens[index], 0)
        if (largest := int(ids.max())) >= self.vocab_size:
            raise UserError(
                f"{self.corpus.folder} has token {largest} of {self.vocab_size}; prepare it again"
            )
        ids[:, 0] = self.cls
        ends = (column == second - 1) | (column == lengths - 1)
        ids[ends] = self.sep
        self.corpus.release()
        keys = mix(plan.keys + base_key(self.seed, 0 if self.fixed else epoch, 1))
        positions, weights = choose(
            ids,
            real & ~ends & (column > 0),
            lengths,
            keys,
            self.max_pred,
            self.mask_prob,
            self.continues if self.whole_word_mask else None,
        )
        words = np.take_along_axis(ids, positions, 1)
        masked = replace(words, keys, self.mask, self.vocab_size)
        rows = np.broadcast_to(np.arange(len(ids))[:, None], positions.shape)
        ids[rows[weights], positions[weights]] = masked[weights]
        segments = real & (column >= second)
        return (
            ids,
            segments.astype(np.int64),
            real.astype(np.int64),
            positions,
            words,
            weights,
            plan.order,
        )


def n_masked(lengths: np.ndarray, max_pred: int, mask_prob: float) -> np.ndarray:
    """Tokens to mask of instances of some lengths: min(max_pred, max(1, round(length *
    mask_prob))).
    """
    return np.clip(np.rint(lengths * mask_prob).astype(np.int64), 1, max_pred)


def choose(
    ids: np.ndarray,
    allowed: np.ndarray,
    lengths: np.ndarray,
    keys: np.ndarray,
    max_pred: int,
    mask_prob: float,
    continues: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Which positions of a batch to mask: (B, P) positions, rising, and (B, P) whether the slot is
    in use.

    n_masked() of the allowed positions, at random. With `continues`, which tells of an id whether
    it continues a word, whole words at random, passing over those that are more than what is left.

    Args:
        ids, allowed: (B, S).
        lengths: (B, 1).
        keys: (B,).
    """
    n = np.minimum(n_masked(lengths, max_pred, mask_prob), allowed.sum(1, keepdims=True))
    column, most = np.arange(ids.shape[1]), int(n.max())
    if continues is None:
        low = np.uint64(2**16 - 1)  # a random number, and the position in it
        chance = draw(keys[:, None], column + 2**10) & ~low | column.astype(np.uint64)
        chance[~allowed] = ~np.uint64(0)
        positions = (np.sort(chance, axis=1)[:, :most] & low).astype(np.int64)
        taken = np.arange(most) < n
    else:
        starts = allowed & ~(
            continues[ids] & np.roll(allowed, 1, axis=1)
        )  # a piece cut off its word is one itself
        word = np.cumsum(starts, axis=1) - 1  # (B, S) number of the word
        n_words = word[:, -1:] + 1
        size = np.zeros_like(ids)  # (B, word) its pieces
        np.add.at(size, (np.nonzero(allowed)[0], word[allowed]), 1)
        chance = np.where(column < n_words, draw(keys[:, None], column + 2**10), ~np.uint64(0))
        take, left = np.zeros_like(allowed), n[:, 0].copy()
        for which in np.argsort(chance, axis=1).T:  # (B,) each row's next word
            fits = size[np.arange(len(ids)), which]
            fits = np.where((fits <= left) & (fits > 0), fits, 0)
            take[np.arange(len(ids)), which] |= fits > 0
            left -= fits
            if not left.any():
                break
        chosen = allowed & np.take_along_axis(take, word.clip(0), 1)
        most = max(1, int(chosen.sum(1).max()))
        positions = np.argsort(~chosen, axis=1, kind="stable")[:, :most]
        taken = np.arange(most) < chosen.sum(1, keepdims=True)
    positions = np.sort(np.where(taken, positions, ids.shape[1]), axis=1)
    return np.where(taken, positions, 0), taken


def replace(words: np.ndarray, keys: np.ndarray, mask: int, vocab_size: int) -> np.ndarray:
    """What stands for masked words: [MASK] (80%), the word itself (10%), a random one of the
    vocabulary (10%).
    """
    chance = draw(keys[:, None], np.arange(words.shape[1]) + 2**20)
    share = (chance >> np.uint64(11)) * 2.0**-53
    random = (mix(chance) >> np.uint64(11)) * 2.0**-53 * vocab_size
    return np.where(share < 0.8, mask, np.where(share < 0.9, words, random.astype(np.int64)))

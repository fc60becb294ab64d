"""What pre-training will see of a prepared corpus, and what looks wrong with it.

found = look_into(Corpus("books-ids"), PairConfig(max_len=128), batch_size=256)
found.figures["tokens"], found.warnings
"""

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise

import numpy as np

from formats.rules import UNKNOWN
from formats.vocab import count_capitals, has_many, load_vocab
from pretraining.batches import PairBatches
from pretraining.pairs import PairConfig, Pairs
from pretraining.shards import Corpus

SAMPLE = 200  # blocks, some 13 million tokens, that look_for_faults() goes through at most


@dataclasses.dataclass
class Description:
    """What pre-training will see of a corpus."""

    figures: dict[str, str]  # name -> value, as printed
    warnings: list[str]


@dataclasses.dataclass
class Statistics:
    """Counts and shares of a text and of its first epoch."""

    steps: int
    same: float  # share of the sentences that are the same as an earlier one
    sentence_lengths: np.ndarray  # tokens of some sentences, rising
    seen_tokens: int  # of the text that was looked at
    used_tokens: int = 0  # of these, in an instance of their own document
    instances: int = 0
    instance_tokens: int = 0  # of all instances, [CLS] and [SEP] included
    random: int = 0  # instances whose B is text from another document
    single: int = 0  # those that have one since a single sentence made the chunk
    masked: float = 0.0  # share of an instance's tokens


def look_into(corpus: Corpus, config: PairConfig, batch_size: int) -> Description:
    """Plan an epoch, build some of its batches, and judge them."""
    if corpus.kind == "instances":
        return describe_instances(corpus, batch_size)
    # a single document has no random second text; a warning tells so
    next_sentence = config.next_sentence and corpus.counts["documents"] > 1
    pairs = Pairs(corpus, dataclasses.replace(config, next_sentence=next_sentence))
    found = measure(pairs, batch_size)
    return Description(
        describe_text(pairs, found, batch_size), list(warnings(pairs, found, config))
    )


def describe_instances(corpus: Corpus, batch_size: int) -> Description:
    """Fixed instances leave nothing to plan or to judge."""
    n, tokens = corpus.counts["instances"], corpus.counts["tokens"]
    n_random = int(corpus.order[0:n].sum())
    figures = {
        "instances": f"{n:,} of {corpus.about['max_len']} tokens at most, {tokens / n:.1f} on "
        "average",
        "masked": f"{corpus.counts['masked'] / tokens:.1%} of the tokens",
        "random second text": f"{n_random / n:.1%}",
        "steps of an epoch": f"{-(-n // batch_size):,} of {batch_size} instances",
    }
    return Description(figures, [])


def look_for_faults(pairs: Pairs, batch_size: int) -> list[str]:
    """The warnings of look_into(), of a large text from a sample of its blocks: in seconds."""
    places = np.linspace(0, pairs.n_blocks - 1, min(pairs.n_blocks, SAMPLE), dtype=int)
    return list(warnings(pairs, measure(pairs, batch_size, places.tolist()), pairs.config))


# ----------------------------------------------------------------------------------------- measures


def measure(pairs: Pairs, batch_size: int, blocks: Sequence[int] | None = None) -> Statistics:
    """Go through the first epoch, or some blocks of it, and build about 20 of its batches."""
    blocks = range(pairs.n_blocks) if blocks is None else blocks
    edges = [(pairs.edge(block), pairs.edge(block + 1)) for block in blocks]
    sentences = pairs.corpus.sentences
    batches = PairBatches(pairs, batch_size, seed=0)
    # 1,000 sentences at each of 50 places, evenly spread: a corpus is often sorted by source.
    places = np.linspace(0, len(sentences) - 1, 50, dtype=int)
    found = Statistics(
        steps=len(batches),
        same=duplicates(pairs.corpus, edges),
        sentence_lengths=np.sort(
            np.concatenate([np.diff(sentences[a : a + 1001]) for a in places])
        ),
        seen_tokens=sum(int(sentences[past] - sentences[first]) for first, past in edges),
    )
    for block in blocks:
        plan = pairs.plan(np.array([block]), epoch=0)
        found.instances += len(plan)
        found.instance_tokens += int(pairs.lengths(plan).sum())
        # A random B does not count as used, since it is used elsewhere too.
        found.used_tokens += int(plan["n_a"].sum() + plan["n_b"][plan["order"] == 0].sum())
        found.random += int(plan["order"].sum())
        # Without pairs there are no chunks, and a single sentence is no problem.
        if pairs.config.next_sentence:
            chunks = pairs.chunks(block, epoch=0)
            found.single += sum(chunk.end - chunk.start == 1 for chunk in chunks)
    n_masked = n_seen = 0
    # About 20 batches from all over the epoch, or all if there are fewer.
    for i in range(0, len(batches), -(-len(batches) // 20)):
        batch = batches.arrays(i)
        n_masked += int((batch.weights > 0).sum())
        n_seen += int(batch.input_mask.sum())
    found.masked = n_masked / n_seen
    return found


def duplicates(
    corpus: Corpus, parts: Iterable[tuple[int, int]] | None = None, most: int = 2**20
) -> float:
    """The share of sentences, in parts of the text or all, that are the same as an earlier one.

    Exact up to `most` different sentences; of a larger corpus, those whose hash falls in a part of
    all hashes are counted, so memory stays the same.
    """
    seen: set[int] = set()
    part, counted = 1, 0  # the sentences whose hash is a multiple of `part` are counted
    parts = [(0, len(corpus.sentences) - 1)] if parts is None else parts
    for value in chain.from_iterable(sentence_hashes(corpus, *part) for part in parts):
        if value % part:
            continue
        counted += 1
        seen.add(value)
        # Twice the multiple halves the set, and what was counted so far is scaled likewise.
        if len(seen) > most:
            part *= 2
            kept = {v for v in seen if v % part == 0}
            counted = round(counted * len(kept) / len(seen))
            seen = kept
    return 1 - len(seen) / max(1, counted)


def sentence_hashes(corpus: Corpus, start: int, past: int) -> Iterator[int]:
    """64 bits of each sentence's tokens."""
    # 16,384 sentences at a time, so that few pages are in memory.
    for first in range(start, past, 2**14):
        starts = corpus.sentences[first : min(first + 2**14, past) + 1]
        tokens = corpus.tokens[int(starts[0]) : int(starts[-1])]
        content = tokens.tobytes()
        for a, b in pairwise(((starts - starts[0]) * tokens.itemsize).tolist()):
            # Python's own hash is salted, and would give other figures in every run.
            yield int.from_bytes(hashlib.blake2b(content[a:b], digest_size=8).digest(), "little")
        corpus.release()


# -------------------------------------------------------------------------------------------- words


def describe_text(pairs: Pairs, found: Statistics, batch_size: int) -> dict[str, str]:
    """The figures, as printed."""
    counts, config, lengths = pairs.corpus.counts, pairs.config, found.sentence_lengths
    documents, sentences, tokens = (counts[name] for name in ("documents", "sentences", "tokens"))
    half, nine_tenths = lengths[len(lengths) // 2], lengths[len(lengths) * 9 // 10]
    figures = {
        "documents": f"{documents:,}, {sentences / documents:.1f} sentences each on average",
        "sentences": f"{sentences:,}, from {counts['lines']:,} lines; {found.same:.1%} are the "
        "same as another",
        "tokens": f"{tokens:,} of {counts['bytes']:,} bytes; {counts['unknown'] / tokens:.2%} are "
        f"{UNKNOWN}",
        "tokens of a sentence": f"{tokens / sentences:.1f} on average; half have {half} at most, "
        f"nine tenths {nine_tenths}, the longest seen {lengths[-1]}",
        "instances of an epoch": f"{found.instances:,}, "
        f"{found.instance_tokens / found.instances:.1f} tokens each on average of {config.max_len} "
        "at most",
        "steps of an epoch": f"{found.steps:,} of {batch_size} instances",
        "text used": f"{found.used_tokens / tokens:.1%} of the tokens are in an instance of their "
        "own document",
        "masked": f"{found.masked:.1%} of the tokens, at most {config.max_pred} in an instance",
    }
    if config.next_sentence:
        figures["random second text"] = (
            f"{found.random / found.instances:.1%} of the pairs; "
            f"{found.single / found.instances:.1%} as one sentence was all"
        )
    return figures


def warnings(pairs: Pairs, found: Statistics, asked: PairConfig) -> Iterator[str]:
    """What looks wrong, in words, with what to do."""
    yield from document_warnings(pairs.corpus, found, asked.next_sentence)
    yield from vocabulary_warnings(pairs.corpus)
    config = pairs.config
    # 0.9 allows for rounding, and for whole words that do not fit.
    if found.masked < 0.9 * config.mask_prob:
        yield (
            f"max_pred={config.max_pred} masks {found.masked:.1%} of the tokens, not "
            f"{config.mask_prob:.0%}; leave `max_pred` out for "
            f"{math.ceil(config.max_len * config.mask_prob)}"
        )
    if found.same > 0.1:
        yield (
            f"{found.same:.0%} of the sentences are the same as another; menus, footers or copies "
            "should be taken out"
        )


def document_warnings(corpus: Corpus, found: Statistics, next_sentence: bool) -> Iterator[str]:
    """What looks wrong with the text's division into documents and sentences."""
    counts = corpus.counts
    per_document = counts["sentences"] / counts["documents"]
    length = counts["tokens"] / counts["sentences"]
    single = found.single / found.instances
    if counts["documents"] == 1 and next_sentence:
        yield (
            "the text is a single document, so there is no random second text: separate documents "
            "by blank lines, or pre-train with `next_sentence=False`"
        )
    elif per_document > 5000:
        # 5,000 sentences are a book; longer documents are most likely several.
        yield (
            f"documents have {per_document:,.0f} sentences on average: are blank lines between "
            "documents missing?"
        )
    elif per_document < 2 and next_sentence:
        yield (
            "most documents are a single sentence, so nearly every second text is random: are "
            "there blank lines between sentences? Documents should have several"
        )
    # Paragraphs on a line: long, and often one alone fills an instance.
    if per_document >= 2 and single > 0.1 and length > 40:
        cut_off = 1 - found.used_tokens / found.seen_tokens
        yield (
            f"lines seem to be paragraphs ({length:.0f} tokens on average): {single:.0%} of the "
            f"pairs have a random second text only since one line fills them, and {cut_off:.0%} of "
            "the text is cut off; prepare with `split_sentences=True`"
        )
    if corpus.about.get("hard_wrapped"):
        yield (
            "lines seem to be hard-wrapped, so sentences are cut at line ends: prepare with "
            "`split_sentences=True`, which joins them first"
        )


def vocabulary_warnings(corpus: Corpus) -> Iterator[str]:
    """Where the vocabulary does not seem to fit the text."""
    unknown = corpus.counts["unknown"] / corpus.counts["tokens"]
    lower_case = corpus.about["do_lower_case"]
    if unknown > 0.01:
        yield (
            f"{unknown:.1%} of the tokens are {UNKNOWN}: the vocabulary, or its casing "
            f"(do_lower_case={lower_case}), does not fit the text; another one, or learn one with "
            "python tokenization.py learn"
        )
    assert corpus.vocab_file
    tokens = load_vocab(corpus.vocab_file)
    capitals = count_capitals(tokens)
    # A vocabulary with many capitals is a cased one; that of lower-cased text has next to none.
    if lower_case == has_many(capitals, tokens):
        yield (
            f"do_lower_case={lower_case}, and {capitals} of the vocabulary's tokens have capitals; "
            "prepare the text with the other casing"
        )

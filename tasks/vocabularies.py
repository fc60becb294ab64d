"""Weights with more words, or without those that a text never has; the others stay as they are.

more, vocabulary = extend(source, tokenizer, words, ["whale", "##fish"])
fewer, vocabulary = shrink(source, tokenizer, words)
exports.write_hugging_face(more, Path("bert-whales"), vocabulary)
"""

import collections
import dataclasses
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from formats.rules import SPECIAL
from formats.vocab import Vocabulary
from pretrained import Pretrained
from tokenization import FullTokenizer, longest_pieces
from utils import UserError

ROWS = ("transformer.embedding.token.weight", "masked_lm.bias")  # one for each token
UNUSED = re.compile(r"\[unused\d+\]")


def extend(
    source: Pretrained,
    tokenizer: FullTokenizer,
    words: Mapping[str, int],
    new: Sequence[str],
    unused: bool = False,
) -> tuple[Pretrained, Vocabulary]:
    """Weights with a row for each new token, and the vocabulary with them.

    A new row is the mean of those of the pieces that its token stands for, weighted by how often it
    stands for them in the words.

    Args:
        words: counted, of some texts.
        new: tokens that the vocabulary lacks, "whale" or "##fish".
        unused: take the places of [unusedN] first; then, and else, those behind the last token.
    """
    old = source.tensors[ROWS[0]]
    tokens = list(tokenizer.pieces)
    behind = [token.content for token in tokenizer.rules.added if token.id >= len(tokens)]
    free = [i for i, token in enumerate(tokens) if UNUSED.fullmatch(token)] if unused else []
    if behind and len(new) > len(free):
        raise UserError(
            f"{tokenizer.vocabulary.file}: {behind[0]} was added behind the vocabulary, where new "
            f"words would be; add no more than there are [unused] places, {len(free)} with "
            "`unused=True`"
        )
    for token, place in zip(new, free, strict=False):
        tokens[place] = token
    tokens += new[len(free) :]
    vocabulary = with_tokens(tokenizer.vocabulary, tokens)
    stand_for = replaced(tokenizer, FullTokenizer(vocabulary), words, set(new))
    # Rows behind the last token, which make their number a round one, are taken first.
    n_rows = max(len(old), len(tokens))
    places = {token: i for i, token in enumerate(tokens)}
    tensors = dict(source.tensors)
    for name in ROWS:
        if name not in tensors:
            continue
        rows = grown(tensors[name], n_rows)
        for token in new:
            pieces = stand_for[token]
            weights = torch.tensor(list(pieces.values()), dtype=torch.float64)
            theirs = tensors[name][list(pieces)].double()
            mean = torch.tensordot(weights, theirs, dims=1) / weights.sum()
            rows[places[token]] = mean.to(rows.dtype)
        tensors[name] = rows
    config = dataclasses.replace(source.config, vocab_size=n_rows)
    return dataclasses.replace(source, config=config, tensors=tensors), vocabulary


def grown(rows: Tensor, n: int) -> Tensor:
    """(V, ...) -> (n, ...), with zeros below."""
    return torch.cat([rows, rows.new_zeros(n - len(rows), *rows.shape[1:])])


def replaced(
    old: FullTokenizer, new: FullTokenizer, words: Mapping[str, int], tokens: set[str]
) -> dict[str, dict[int, float]]:
    """{token: {id of a piece: how often the token stands for it}} in words.

    A piece that a token covers in part counts by that part. A token that is in no word any more,
    since later ones took its place, stands for its own pieces.
    """
    found = {token: collections.defaultdict[int, float](float) for token in tokens}
    for word, n in words.items():
        ids, spans = new.encode_with_offsets(word)
        for i, (start, end) in zip(ids, spans, strict=True):
            if (token := new.tokens[i]) not in tokens:
                continue
            for piece, (a, b) in zip(*old.encode_with_offsets(word), strict=True):
                if shared := max(0, min(b, end) - max(a, start)):
                    found[token][piece] += n * shared / (b - a)
    for token, pieces in found.items():
        if not pieces:
            pieces.update(dict.fromkeys(old.encode(token.removeprefix("##")), 1.0))
    return {token: dict(pieces) for token, pieces in found.items()}


def shrink(
    source: Pretrained, tokenizer: FullTokenizer, words: Mapping[str, int]
) -> tuple[Pretrained, Vocabulary]:
    """Weights without the rows of tokens that some words never have, and the vocabulary left.

    Special tokens stay, and so do the characters of the words, so that other words of them can be
    spelt.
    """
    pieces, rules = tokenizer.pieces, tokenizer.rules
    longest = max(map(len, pieces))
    used = {*SPECIAL, *(token.content for token in rules.added)}
    for word in words:
        # Also those of a word that ends as [UNK]: without them it would be split otherwise.
        used.update(longest_pieces(word, pieces, longest)[0])
        used.update(word)
        used.update(f"##{char}" for char in word)
    kept = [i for i, token in sorted(tokenizer.tokens.items()) if token in used]
    number = {old: new for new, old in enumerate(kept)}
    tokens = [tokenizer.tokens[i] for i in kept if tokenizer.tokens[i] in pieces]
    added = tuple(dataclasses.replace(t, id=number[t.id]) for t in rules.added)
    vocabulary = with_tokens(tokenizer.vocabulary, tokens)
    vocabulary = dataclasses.replace(
        vocabulary, rules=dataclasses.replace(vocabulary.rules, added=added)
    )
    tensors = dict(source.tensors)
    for name in ROWS:
        if name in tensors:
            tensors[name] = tensors[name][kept].clone()
    config = dataclasses.replace(source.config, vocab_size=len(kept))
    return dataclasses.replace(source, config=config, tensors=tensors), vocabulary


def with_tokens(vocabulary: Vocabulary, tokens: Sequence[str]) -> Vocabulary:
    """A vocabulary of other tokens, by the same rules."""
    text = "".join(f"{token}\n" for token in tokens).encode()
    numbered = {token: i for i, token in enumerate(tokens)}
    return dataclasses.replace(vocabulary, text=text, tokens=numbered)

"""Which tokens of a batch to mask, and what to put in their place.

    seeds = np.arange(256, dtype=np.uint64)                     # one for each row
    positions, used = choose(allowed, n_to_mask, seeds)         # (B, S), (B,) -> (B, P)
    words = np.take_along_axis(ids, positions, axis=1)
    masked = replace(words, seeds, mask=103, vocab_size=30522)

All follows from the seed of a row, not from the batch that it is in.
"""

# B rows, S tokens of the longest, P masked slots of the row with the most

import numpy as np


def uniform(seeds: np.ndarray, first: int, n: int) -> np.ndarray:
    """(N, n) random numbers, 0 to 1: of each seed's own row the numbers `first` and following.

    This is the generator SplitMix64, which needs no state: so the numbers of an instance are the
    same in every batch, and those of a batch are made at once.
    """
    number = np.arange(first + 1, first + n + 1, dtype=np.uint64)
    # The constants are SplitMix64's. Overflow of uint64 wraps around, as the generator wants.
    x: np.ndarray = seeds[:, None] + number * 0x9E3779B97F4A7C15
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    # The upper 53 bits, as many as a float64 holds, divided by 2**53.
    return ((x ^ (x >> 31)) >> 11) * 2.0**-53


def choose_words(
    allowed: np.ndarray, n: np.ndarray, chance: np.ndarray, continues: np.ndarray
) -> np.ndarray:
    """(B, S) n allowed tokens of each row at most, as whole words, by rising chance.

    Words with more pieces than are left are passed over. `continues`, (B, S): a word goes on.
    """
    # a piece that was cut off its word is a word itself
    starts = allowed & ~(continues & np.roll(allowed, 1, axis=1))
    word = (np.cumsum(starts, axis=1) - 1).clip(0)  # (B, S) number of each token's word
    rows = np.arange(len(allowed))
    size = np.zeros(allowed.shape, np.int64)  # (B, S) pieces of each word
    np.add.at(size, (np.nonzero(allowed)[0], word[allowed]), 1)
    taken = np.zeros_like(allowed)
    left = n.copy()
    # All rows at once take their words one after the other, each row in its own random order.
    for next_word in np.argsort(np.where(size > 0, chance, 2.0), axis=1).T:
        pieces = size[rows, next_word]
        fits = (pieces > 0) & (pieces <= left)
        taken[rows, next_word] = fits
        left -= pieces * fits
        if not left.any():
            break
    return allowed & np.take_along_axis(taken, word, axis=1)


def choose(
    allowed: np.ndarray, n: np.ndarray, seeds: np.ndarray, continues: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Which tokens to mask: (B, P) positions, rising, and (B, P) whether a slot is in use.

    Args:
        allowed: (B, S) whether a token may be masked.
        n: (B,) how many to mask, of those allowed.
        seeds: (B,) uint64.
        continues: (B, S) whether a token continues a word; then whole words are masked, and fewer
            than n tokens where no word fits.
    """
    chance = uniform(seeds, 0, allowed.shape[1])
    if continues is None:
        # Those of the least chance; 2.0 is more than any, so that what is not allowed comes last.
        chance = np.where(allowed, chance, 2.0)
        chosen = chance <= np.take_along_axis(np.sort(chance, axis=1), n[:, None] - 1, axis=1)
    else:
        chosen = choose_words(allowed, n, chance, continues)
    n_chosen = chosen.sum(1)
    # At least one slot, since a batch of no slots has no shape that the model takes.
    used = np.arange(max(1, n_chosen.max())) < n_chosen[:, None]
    positions = np.zeros(used.shape, np.int64)
    # np.nonzero goes row by row, so the positions rise within each.
    positions[used] = np.nonzero(chosen)[1]
    return positions, used


def replace(words: np.ndarray, seeds: np.ndarray, mask: int, vocab_size: int) -> np.ndarray:
    """(B, P) what stands for masked words: 80% [MASK], 10% the word itself, 10% a random one."""
    # other numbers than those of choose(), whose rows are shorter than 2**16
    share = uniform(seeds, 2**16, words.shape[1])
    # The random word may be any of the vocabulary, special tokens included, as in Google's code.
    random = (uniform(seeds, 2**17, words.shape[1]) * vocab_size).astype(np.int64)
    return np.where(share < 0.8, mask, np.where(share < 0.9, words, random))

"""A WordPiece vocabulary learned from text, the same each time.

words = count_words([Path("corpus.txt")], lower_case=True)
tokens = train_vocab(words, 30522)  # in the order of their ids
"""

import collections
from pathlib import Path

from formats import corpora
from formats.rules import SPECIAL, UNKNOWN


def count_words(
    files: list[Path], lower_case: bool, column: str | None = None
) -> collections.Counter[str]:
    """How often each word occurs, split and normalised as BERT does.

    Args:
        column: of JSON lines, as corpora.lines has it.
    """
    from tokenizers import normalizers, pre_tokenizers

    normalizer = normalizers.BertNormalizer(strip_accents=lower_case, lowercase=lower_case)
    splitter = pre_tokenizers.BertPreTokenizer()
    words: collections.Counter[str] = collections.Counter()
    for line in corpora.lines(files, column):
        pieces = splitter.pre_tokenize_str(normalizer.normalize_str(line))
        words.update(word for word, _ in pieces)
    return words


def train_vocab(words: collections.Counter[str], vocab_size: int) -> list[str]:
    """The tokens of a WordPiece vocabulary learned from counted words, in the order of their ids.

    The trainer numbers characters as it meets them in a hash table, in another order each time, and
    breaks ties between merges by these numbers. Given as special tokens, they are numbered before.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    # For single characters a quarter of the vocabulary, or 1,000: the rarest ones become [UNK].
    characters = alphabet(words, max(1000, vocab_size // 4))
    single = [char for char in characters if len(char) == 1]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL, *characters],
        initial_alphabet=single,
        limit_alphabet=len(single),
        show_progress=False,
    )
    # One word at a time, so that the trainer counts what was counted here: their order is lost.
    tokenizer.train_from_iterator(words.elements(), trainer)
    by_id = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return [token for token, _ in by_id]


def alphabet(words: dict[str, int], limit: int) -> list[str]:
    """The most frequent characters of counted words, in an order that the text alone decides.

    First those that begin a word, then (as ##x) those that continue one.
    """
    count: collections.Counter[str] = collections.Counter()
    inside: set[str] = set()
    for word, n in words.items():
        for char in word:
            count[char] += n
        inside.update(word[1:])
    # The most frequent characters, ties by code point; then in an order without frequencies.
    kept = sorted(sorted(count, key=lambda char: (-count[char], char))[:limit])
    return kept + [f"##{char}" for char in kept if char in inside]

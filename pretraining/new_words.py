"""Which words and endings a vocabulary should have for a text: those that save most tokens.

words = count_words([Path("novels.txt")], tokenizer)
choose(words, tokenizer, 1000)      # ["whale", "##fish", ...], the one that saves most first
"""

import collections
import heapq
from collections.abc import Iterable
from pathlib import Path

from formats import corpora
from system.progress import progress
from tokenization import FullTokenizer, longest_pieces, split

MAKES_UNKNOWN = -(10**9)  # what no saving elsewhere makes up for


class Words(collections.Counter[str]):
    """How often each word of some texts occurs, as a tokenizer has them."""

    n_texts = 0  # lines that are not blank

    def tokens(self, tokenizer: FullTokenizer) -> float:
        """The tokens of a text, on average."""
        n_tokens = sum(n * len(tokenizer.encode(word)) for word, n in self.items())
        return n_tokens / max(1, self.n_texts)


def count_words(
    files: Iterable[Path], tokenizer: FullTokenizer, column: str | None = None
) -> Words:
    """The words of files, or of the column of JSON lines."""
    found, pieces = Words(), collections.Counter[str]()
    with progress(unit=" lines", delay=3) as bar:
        for line in corpora.lines(files, column):
            pieces.update(found_here := split(line))
            found.n_texts += bool(found_here)
            bar.update()
    # The few distinct pieces between white space are cut once each.
    for piece, n in pieces.items():
        for word in tokenizer.words(piece):
            found[word] += n
    return found


def choose(words: Words, tokenizer: FullTokenizer, n: int) -> list[str]:
    """n new tokens at most: each time the one that saves most tokens, given those before it.

    Candidates are the words themselves and, behind ##, their endings; of letters alone. Equal ones
    come in the order of the alphabet. A word that is [UNK] saves nothing, and is none.
    """
    pieces, longest = set(tokenizer.pieces), max(map(len, words), default=0)
    most = tokenizer.rules.max_input_chars_per_word
    # What is a token is its own longest piece, whatever comes later.
    several = [
        w for w in words if w not in pieces and len(w) <= most and pieces_of(w, pieces, longest)
    ]
    candidates = {token for word in several if word.isalpha() for token in tokens_in(word)}
    candidates -= pieces
    containing = collections.defaultdict[str, list[str]](list)  # token -> words
    gains = collections.Counter[str]()
    for word in several:
        for token in parts_of(word) & candidates:
            containing[token].append(word)
        for token, saved in savings(word, pieces, candidates, longest).items():
            gains[token] += saved * words[word]
    # What was pushed stays until it comes to the top, where its gain may be another one by now.
    heap = [(-gain, token) for token, gain in gains.items()]
    heapq.heapify(heap)
    chosen = list[str]()
    while heap and len(chosen) < n:
        gain, token = heapq.heappop(heap)
        if token in pieces or -gain != gains[token]:
            continue
        if -gain <= 0:
            break
        chosen.append(token)
        changed = set[str]()
        for word in containing[token]:
            for other, saved in savings(word, pieces, candidates, longest).items():
                gains[other] -= saved * words[word]
                changed.add(other)
        pieces.add(token)
        for word in containing[token]:
            for other, saved in savings(word, pieces, candidates, longest).items():
                gains[other] += saved * words[word]
                changed.add(other)
        for other in changed:
            heapq.heappush(heap, (-gains[other], other))
    return chosen


def tokens_in(word: str) -> set[str]:
    """A word as a token, and its endings: {"cats", "##ats", "##ts", "##s"}."""
    return {word, *(f"##{word[i:]}" for i in range(1, len(word)))}


def parts_of(word: str) -> set[str]:
    """All that may be a piece of a word."""
    n = len(word)
    inner = {f"##{word[i:j]}" for i in range(1, n) for j in range(i + 1, n + 1)}
    return inner | {word[:j] for j in range(1, n + 1)}


def pieces_of(word: str, pieces: set[str], longest: int) -> list[str]:
    """The pieces of a word; none of one that is [UNK]."""
    found, end = longest_pieces(word, pieces, longest + 2)
    return found if end == len(word) else []


def savings(word: str, pieces: set[str], candidates: set[str], longest: int) -> dict[str, int]:
    """How many tokens of a word each candidate would save; a negative one costs some."""
    own = pieces_of(word, pieces, longest)
    found, at = dict[str, int](), 0
    for piece in own:
        prefix = "##" if at else ""
        length = len(piece) - len(prefix)
        # It changes the word where it is longer than a piece that begins where it does.
        for end in range(at + length + 1, len(word) + 1):
            token = prefix + word[at:end]
            if token in candidates and token not in found and token not in pieces:
                pieces.add(token)
                now = pieces_of(word, pieces, longest)
                pieces.remove(token)
                found[token] = len(own) - len(now) if now else MAKES_UNKNOWN
        at += length
    return found

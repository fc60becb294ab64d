"""How tags mark chunks, such as names: BIO, IOB1, IOBES and others, and how they are written.

notation_of(collections.Counter(["O", "B_PER", "I_PER"]))   # "B_PER"
hyphenated("B_PER", "B_PER")                                # "B-PER"
to_bio(["I-PER", "I-PER", "O"])                             # ["B-PER", "I-PER", "O"]
"""

import collections
import re
from collections.abc import Iterable, Sequence

import numpy as np

from tasks.conlleval import chunks

# What a tag of a chunk begins with, and what IOBES, BILOU and BMES call the same in BIO.
PREFIX = "(?P<prefix>[BIESLUM])"

IOBES = {"S": "B", "U": "B", "E": "I", "L": "I", "M": "I"}

# How tags of chunks are written, by an example.
NOTATIONS = {
    "B-PER": re.compile(f"O|{PREFIX}-(?P<type>.*)"),
    "B": re.compile(f"O|{PREFIX}"),
    "B_PER": re.compile(f"O|{PREFIX}_(?P<type>.+)"),
    "PER-B": re.compile(f"O|(?P<type>.+)-{PREFIX}"),
    "PER_B": re.compile(f"O|(?P<type>.+)_{PREFIX}"),
    "b-per": re.compile("[Oo]|(?P<prefix>[bieslum])-(?P<type>.+)"),
}

BIO = ("B-PER", "B")  # those that are learnt; the others are read as B-PER

MOSTLY = 0.95  # of a file's tags; the others are mistakes


def notation_of(tags: collections.Counter[str], share: float = MOSTLY) -> str:
    """The notation, one of NOTATIONS, that a share of some counted tags has; "": none."""
    for name, pattern in NOTATIONS.items():
        found = {tag: match["prefix"] for tag in tags if (match := pattern.fullmatch(tag))}
        n_found = sum(tags[tag] for tag in found)
        # Prefixes alone could be any letters, but where there is an O beside them.
        if (
            any(found.values())
            and n_found >= share * tags.total()
            and (name != "B" or "O" in found)
        ):
            return name
    return ""


def are_entities(tags: Iterable[str]) -> bool:
    """Whether tags mark chunks, such as names: B-PER, I-PER, O, or B, I, O; and no others."""
    return notation_of(collections.Counter(tags), share=1) in BIO


def hyphenated(tag: str, notation: str) -> str | None:
    """A tag of a notation with its prefix first, B-PER; None of one that is none of it."""
    match = NOTATIONS[notation].fullmatch(tag)
    if not match:
        return None
    if match["prefix"] is None:
        return "O"
    return tag if notation == "B" else f"{match['prefix'].upper()}-{match['type']}"


def to_bio(tags: list[str]) -> list[str]:
    """The tags of a sentence's chunks with B at the first word of each, I at the others.

    IOB1 begins a chunk with I, but where one of the same type ends just before it; IOBES and BILOU
    mark last and single words; and a sequence that BIO does not allow is read as conlleval does.
    """
    known = [IOBES.get(tag[0], tag[0]) + tag[1:] for tag in tags]
    begins = {start for _, start, _ in chunks(known)}
    return [
        tag if tag == "O" else ("B" if i in begins else "I") + tag[1:]
        for i, tag in enumerate(known)
    ]


def legal_steps(labels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """What BIO allows: (tags,) to begin a sentence with, (tags, tags) to follow each other.

    I-PER comes after B-PER or I-PER alone. 0 is legal, minus infinity is not.
    """
    inside = np.array([label.startswith("I") for label in labels])
    kinds = np.array([label[1:] for label in labels])
    continues = (kinds[:, None] == kinds) & np.array([label != "O" for label in labels])[:, None]
    begin = np.where(inside, -np.inf, 0.0)
    return begin, np.where(inside & ~continues, -np.inf, 0.0)


def best_path(scores: np.ndarray, begin: np.ndarray, legal: np.ndarray) -> list[int]:
    """The tags of the sequence with the largest sum of scores (words, tags), by Viterbi."""
    if not len(scores):
        return []
    total, before = begin + scores[0], list[np.ndarray]()
    for row in scores[1:]:
        ways = total[:, None] + legal  # (tag before, tag)
        before.append(ways.argmax(0))
        total = ways.max(0) + row
    path = [int(total.argmax())]
    for choices in reversed(before):
        path.append(int(choices[path[-1]]))
    return path[::-1]

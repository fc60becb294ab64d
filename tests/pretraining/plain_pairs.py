"""Google's rule for sentence pairs, written down plainly: one document, one sentence, one random
number after the other.
"""

import random

# tokens of A and of B, whether B is random, whether the target was shorter than the room
Instance = tuple[list, list, bool, bool]


def instances(
    documents: list[list[list]],
    which: int,
    max_len: int,
    rng: random.Random,
    short_seq_prob: float = 0.1,
) -> list[Instance]:
    """The pairs of one document; a token may be anything."""
    document, room, found, gathered, i = documents[which], max_len - 3, [], [], 0
    target = rng.randint(2, room) if rng.random() < short_seq_prob else room
    while i < len(document):
        gathered.append(document[i])
        if i == len(document) - 1 or sum(map(len, gathered)) >= target:
            split = rng.randint(1, len(gathered) - 1) if len(gathered) > 1 else 1
            a = [token for sentence in gathered[:split] for token in sentence]
            is_random = len(gathered) == 1 or rng.random() < 0.5
            if is_random:
                other = rng.choice([k for k in range(len(documents)) if k != which])
                b: list = []
                for sentence in documents[other][rng.randrange(len(documents[other])) :]:
                    b += sentence
                    if len(b) >= target - len(a):
                        break
                i -= len(gathered) - split
            else:
                b = [token for sentence in gathered[split:] for token in sentence]
            while len(a) + len(b) > room:
                longer = a if len(a) > len(b) else b
                del longer[0 if rng.random() < 0.5 else -1]
            found.append((a, b, is_random, target < room))
            gathered = []
        i += 1
    return found

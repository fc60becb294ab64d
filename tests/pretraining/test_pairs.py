"""Pairs and masks: Google's rules, exactly where they are exact, within sampling error where they
are chance.
"""

import hashlib
import math
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import plain_pairs
import pytest

from corpus import prepare_text
from pretraining.batches import Batches, Plan
from pretraining.pairs import Pairs, choose, coin, draw, heads, truncate
from pretraining.shards import Corpus
from utils import UserError

ROOT = Path(__file__).resolve().parents[2]
WORDS = 500
Documents = list[list[list[int]]]


def make_documents(n: int, seed: int = 1, longest: int = 30) -> Documents:
    """Documents of sentences of word numbers; some sentences are longer than an instance."""
    rng = random.Random(seed)
    return [
        [
            [
                rng.randrange(WORDS)
                for _ in range(rng.choice((rng.randint(1, longest), rng.randint(1, 6 * longest))))
            ]
            for _ in range(rng.choice((1, 2, 5, 12, 40)))
        ]
        for _ in range(n)
    ]


def write(documents: Documents, folder: Path, shards: int = 1) -> Corpus:
    folder.mkdir(exist_ok=True)
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(WORDS))]
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n")
    text = "\n".join("\n".join(" ".join(f"w{i}" for i in s) for s in d) + "\n" for d in documents)
    (folder / "text.txt").write_text(text)
    for i in range(shards):
        prepare_text(
            [folder / "text.txt"], folder / "vocab.txt", folder / "ids", True, shard=(i, shards)
        )
    return Corpus(folder / "ids")


@pytest.fixture(scope="module")
def documents() -> Documents:
    return make_documents(600)


@pytest.fixture(scope="module")
def corpus(documents: Documents, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return write(documents, tmp_path_factory.mktemp("corpus"))


def whole_epoch(pairs: Pairs, epoch: int = 0) -> Plan:
    return pairs.plan(np.arange(pairs.n_blocks), epoch)


def document_of(corpus: Corpus, token: np.ndarray) -> np.ndarray:
    starts = corpus.sentences[corpus.documents[0 : len(corpus.documents)]]
    return np.searchsorted(starts, token, "right") - 1


def close(found: np.ndarray, expected: np.ndarray, what: str, sigmas: float = 5) -> None:
    """Two samples' means agree within the sampling error of both."""
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    error = math.sqrt(found.var() / len(found) + expected.var() / len(expected))
    assert abs(found.mean() - expected.mean()) <= sigmas * error, (
        f"{what}: {found.mean()} and {expected.mean()} +- {error}"
    )


# ---------------------------------------------------------------------------------------- the pairs


def test_the_corpus_holds_the_text_and_nothing_else(corpus: Corpus, documents: Documents) -> None:
    ids = corpus.tokens[0 : len(corpus.tokens)]
    assert ids.tolist() == [
        5 + word for document in documents for sentence in document for word in sentence
    ]
    assert len(corpus.documents) - 1 == len(documents)
    assert len(corpus.sentences) - 1 == sum(map(len, documents))


@pytest.mark.parametrize("room", [7, 8, 125])
def test_truncation_is_google_s_token_by_token_rule(room: int) -> None:
    rng = np.random.default_rng(0)
    n_a, n_b = rng.integers(1, 2 * room, (2, 3000))
    keep_a, keep_b = truncate(n_a, n_b, room)
    for a, b, kept_a, kept_b in zip(n_a, n_b, keep_a, keep_b, strict=True):
        while a + b > room:
            if a > b:
                a -= 1
            else:
                b -= 1
        assert (kept_a, kept_b) == (a, b)


def test_chance_is_fair() -> None:
    keys = draw(np.arange(200_000, dtype=np.uint64), 7)
    assert abs(coin(0.3, keys, 1).mean() - 0.3) < 5 * math.sqrt(0.21 / 200_000)
    for n in (1, 5, 64, 65, 300):  # heads of n coins: mean n/2, variance n/4
        count = heads(np.full(200_000, n), keys, 3)
        assert abs(count.mean() - n / 2) < 5 * math.sqrt(n / 4 / 200_000)
        assert abs(count.var() / (n / 4) - 1) < 0.03
        assert count.max() <= n


@pytest.mark.parametrize("max_len", [24, 128])
def test_a_hundred_thousand_pairs_have_google_s_statistics(
    corpus: Corpus, documents: Documents, max_len: int
) -> None:
    ours: list[Plan] = []
    seed = 0
    while sum(map(len, ours)) < 100_000:  # epochs of several seeds, all different
        pairs = Pairs(corpus, max_len, seed=seed // 10)
        ours.append(whole_epoch(pairs, seed % 10))
        seed += 1
    plan = Plan.join(ours)
    rng, theirs = random.Random(5), []
    while len(theirs) < 60_000:
        for which in range(len(documents)):
            theirs += plain_pairs.instances(documents, which, max_len, rng)
    a, b = (np.array([len(instance[i]) for instance in theirs]) for i in (0, 1))
    is_random, short = (np.array([instance[i] for instance in theirs]) for i in (2, 3))
    # chance is drawn once a document for its target: its error is that of documents, not of
    # instances
    per_epoch = [part.short.mean() for part in ours]
    spread = np.std(per_epoch) * math.sqrt(1 / len(ours) + len(ours[0]) / len(theirs))
    assert abs(plan.short.mean() - short.mean()) < 5 * spread
    for chosen, their_choice, what in ((plan.short, short, "short"), (~plan.short, ~short, "full")):
        close(plan.order[chosen], is_random[their_choice], f"{what}: share of random B")
        if what == "full":
            close(plan.n_a[chosen], a[their_choice], "length of A")
            close(plan.n_b[chosen], b[their_choice], "length of B")
            close((plan.n_a + plan.n_b)[chosen], (a + b)[their_choice], "length")
            close(plan.n_a[chosen] ** 2, a[their_choice] ** 2, "length of A squared")
            for edge in (1, 5, 10, max_len // 2):
                close(plan.n_a[chosen] <= edge, a[their_choice] <= edge, f"share of A up to {edge}")
                close(plan.n_b[chosen] <= edge, b[their_choice] <= edge, f"share of B up to {edge}")
    own = document_of(corpus, plan.a)
    other = document_of(corpus, plan.b)
    assert (own[plan.order == 1] != other[plan.order == 1]).all()
    assert (own[plan.order == 0] == other[plan.order == 0]).all()
    assert (own == document_of(corpus, plan.a + plan.n_a - 1)).all()
    assert (other == document_of(corpus, plan.b + plan.n_b - 1)).all()
    assert plan.n_a.min() >= 1
    assert plan.n_b.min() >= 1
    assert (plan.n_a + plan.n_b).max() == max_len - 3


def test_a_tenth_of_the_documents_has_a_shorter_target(corpus: Corpus) -> None:
    shares = []
    for seed in range(20):
        plan = whole_epoch(Pairs(corpus, 64, seed=seed))
        own = document_of(corpus, plan.a)
        shares.append(len(np.unique(own[plan.short])) / len(np.unique(own)))
    assert abs(np.mean(shares) - 0.1) < 5 * math.sqrt(0.09 / 600 / 20)


def test_an_epoch_walks_through_the_whole_corpus(corpus: Corpus) -> None:
    pairs = Pairs(corpus, 32, seed=3)
    plan = pairs._walk(np.arange(pairs.n_blocks), 0)  # before B is drawn and the pairs truncated
    end = np.where(plan.order == 1, plan.a + plan.n_a, plan.b + plan.n_b)
    order = np.argsort(plan.a)
    assert plan.a[order[0]] == 0
    assert (plan.a[order][1:] == end[order][:-1]).all()
    assert end.max() == len(corpus.tokens)


def test_without_pairs_an_instance_is_a_piece_of_a_document_and_nothing_is_cut_off(
    corpus: Corpus,
) -> None:
    pairs = Pairs(corpus, 32, next_sentence=False)
    plan = whole_epoch(pairs)
    order = np.argsort(plan.a)
    assert (plan.a[order][1:] == (plan.a + plan.n_a)[order][:-1]).all()
    assert plan.n_a.sum() == len(corpus.tokens)
    ids, segments, mask, *_ = pairs.build(plan, 0)
    assert not segments.any()
    assert (mask.sum(1) == plan.n_a + 2).all()
    assert (ids[np.arange(len(ids)), mask.sum(1) - 1] == 3).all()
    assert (document_of(corpus, plan.a) == document_of(corpus, plan.a + plan.n_a - 1)).all()


def test_a_document_longer_than_a_block_is_walked_in_parts(tmp_path: Path) -> None:
    corpus = write([[[1] * 5] * 2000, [[2] * 5] * 3], tmp_path)
    pairs = Pairs(corpus, 16)
    pairs.block, pairs.n_blocks = 64, -(-pairs.n_sentences // 64)
    edges = [pairs.edge(k) for k in range(pairs.n_blocks + 1)]
    assert edges[:3] == [0, 64, 128]
    assert edges[-2:] == [2000, 2003]  # the second document begins a block of its own
    counts = pairs.counts(0)
    assert counts.sum() == len(whole_epoch(pairs))
    plan = pairs._walk(np.arange(pairs.n_blocks), 0)
    assert np.where(plan.order == 1, plan.n_a, plan.n_a + plan.n_b).sum() == len(corpus.tokens)


def test_a_last_block_in_which_no_document_begins_is_empty_and_nothing_is_lost(
    tmp_path: Path,
) -> None:
    corpus = write([[[1] * 5] * 60, [[2] * 5] * 136], tmp_path)
    pairs = Pairs(corpus, 16)
    pairs.block, pairs.n_blocks = 64, 4  # the last has 4 sentences, of a document begun before
    assert [pairs.edge(k) for k in range(5)] == [0, 64, 128, 196, 196]
    assert pairs.counts(0)[3] == len(pairs.plan(np.array([3]), 0)) == 0
    plan = pairs._walk(np.arange(4), 0)
    assert np.where(plan.order == 1, plan.n_a, plan.n_a + plan.n_b).sum() == len(corpus.tokens)


# ---------------------------------------------------------------------------------------- the masks


def test_masked_batches_have_google_s_numbers_and_shares(corpus: Corpus) -> None:
    pairs = Pairs(corpus, 128, max_pred=15, mask_prob=0.15)
    batches = Batches(pairs, 64, seed=1)
    same = masked = other = total = 0
    for n in range(150):
        ids, segments, mask, positions, words, weights, order = batches.arrays(n)
        used = weights > 0
        lengths = mask.sum(1)
        assert (used.sum(1) == [min(15, max(1, round(int(n) * 0.15))) for n in lengths]).all()
        assert weights[used].max() * used.sum() == pytest.approx(len(ids), rel=1e-5)
        original = ids.copy()
        rows = np.nonzero(used)[0]
        original[rows, positions[used]] = words[used]
        for row in range(0, len(ids), 16):
            chosen = positions[row][used[row]]
            assert (np.diff(chosen) > 0).all()  # rising, so no place twice
            assert chosen.min() > 0
            assert mask[row].tolist() == [1] * lengths[row] + [0] * (len(mask[row]) - lengths[row])
            ends = np.flatnonzero(original[row] == 3)
            assert ends[-1] == lengths[row] - 1
            assert len(ends) == 2
            assert not set(ends) & set(chosen)
            assert segments[row].tolist() == [0] * (ends[0] + 1) + [1] * (ends[1] - ends[0]) + [
                0
            ] * (len(mask[row]) - lengths[row])
            assert original[row, 0] == 2
            assert ids[row, 0] == 2
        now = ids[rows, positions[used]]
        total += len(now)
        masked += int((now == 4).sum())
        same += int((now == words[used]).sum())
        other += int(((now != 4) & (now != words[used])).sum())
        assert set(order.tolist()) <= {0, 1}
    for share, count in (
        (0.8 + 0.1 / 505, masked),
        (0.1 + 0.1 / 505, same),
        (0.1 - 0.2 / 505, other),
    ):
        assert abs(count / total - share) < 5 * math.sqrt(share * (1 - share) / total)


def test_every_place_is_masked_equally_often() -> None:
    ids = np.full((20_000, 20), 9)
    allowed = np.ones_like(ids, bool)
    allowed[:, [0, 7, 19]] = False
    positions, used = choose(
        ids,
        allowed,
        np.full((20_000, 1), 20),
        draw(np.arange(20_000, dtype=np.uint64), 0),
        20,
        0.15,
    )
    counts = np.bincount(positions[used], minlength=20)
    assert not counts[[0, 7, 19]].any()
    assert used.sum(1).tolist() == [3] * 20_000
    assert np.abs(counts[allowed[0]] / 20_000 - 3 / 17).max() < 5 * math.sqrt(3 / 17 / 20_000)


def test_whole_word_masks_take_all_of_a_word_or_none_and_never_too_many() -> None:
    rng = np.random.default_rng(0)
    continues = np.array([False] * 10 + [True] * 10)
    ids = rng.integers(5, 20, (500, 40))
    ids[:, 0], ids[:, 20], ids[:, 39] = 2, 3, 3
    allowed = np.ones_like(ids, bool)
    allowed[:, [0, 20, 39]] = False
    positions, used = choose(
        ids,
        allowed,
        np.full((500, 1), 40),
        draw(np.arange(500, dtype=np.uint64), 0),
        20,
        0.15,
        continues,
    )
    assert used.sum(1).max() == 6  # round(40 * .15)
    assert used.sum(1).mean() > 5.5  # what does not fit is passed over, not the end of it
    for row in range(500):
        chosen = set(positions[row][used[row]].tolist())
        words: list[list[int]] = []
        for place in range(40):
            if allowed[row, place]:
                if continues[ids[row, place]] and words and words[-1][-1] == place - 1:
                    words[-1].append(place)
                else:
                    words.append([place])
        assert all(chosen >= set(word) or not chosen & set(word) for word in words)


# -------------------------------------------------------------------------------------------- order


def test_a_batch_depends_on_the_seed_and_its_number_alone(corpus: Corpus) -> None:
    def fresh() -> Batches:
        return Batches(Pairs(corpus, 48, seed=4), 32, seed=4)

    batches = fresh()
    n = len(batches)
    forward = [batches.arrays(i) for i in range(2 * n + 3)]
    for i in (2 * n + 1, n, n - 1, 5, 0):  # backwards, each from nothing
        assert all(np.array_equal(x, y) for x, y in zip(fresh().arrays(i), forward[i], strict=True))
    assert not np.array_equal(
        Batches(Pairs(corpus, 48, seed=5), 32, seed=5).arrays(0)[0], forward[0][0]
    )


def test_another_process_makes_the_same_global_batches(corpus: Corpus) -> None:
    code = (
        f"import sys, hashlib; sys.path.insert(0, {str(ROOT)!r})\n"
        f"from batches import Batches; from pairs import Pairs; from shards import Corpus\n"
        f"b = Batches(Pairs(Corpus({str(corpus.folder)!r}), 48, seed=4), 32, seed=4)\n"
        "print(hashlib.sha256(b''.join(x.tobytes() for n in (7, 3, len(b) + 2) for x in "
        "b.arrays(n))).hexdigest())"
    )
    others = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ]
    batches = Batches(Pairs(corpus, 48, seed=4), 32, seed=4)
    ours = hashlib.sha256(
        b"".join(x.tobytes() for n in (7, 3, len(batches) + 2) for x in batches.arrays(n))
    ).hexdigest()
    assert [o.strip() for o in others] == [ours, ours]


def test_an_epoch_has_every_instance_once_in_full_batches_of_similar_length(
    corpus: Corpus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pretraining.batches.POOL", 2)  # several pools, so that batches span two
    pairs = Pairs(corpus, 48, seed=4)
    pairs.block, pairs.n_blocks = 500, -(-pairs.n_sentences // 500)
    batches = Batches(pairs, 32, seed=4)
    for epoch in (0, 1):
        plans = [batches.plan(n)[0] for n in range(batches.first(epoch), batches.first(epoch + 1))]
        assert all(len(plan) == 32 for plan in plans[:-1])
        expected = whole_epoch(pairs, epoch)
        assert sorted(np.concatenate([plan.keys for plan in plans]).tolist()) == sorted(
            expected.keys.tolist()
        )
        spread = [np.ptp(pairs.lengths(plan)) for plan in plans]
        assert np.median(spread) <= 2
    assert batches.describe(batches.first(1)) == "batch 1 of epoch 2, instances 0 to 31"
    assert not np.array_equal(batches.plan(0)[0].keys, batches.plan(batches.first(1))[0].keys)


def test_masks_are_new_in_every_epoch_or_fixed(corpus: Corpus) -> None:
    new, fixed = (
        Batches(Pairs(corpus, 48, seed=4, fixed=fixed), 32, seed=4) for fixed in (False, True)
    )

    def masks(batches: Batches, epoch: int) -> dict[bytes, bytes]:
        found = {}
        for n in range(batches.first(epoch), batches.first(epoch + 1)):
            arrays, keys = batches.arrays(n), batches.plan(n)[0].keys
            for key, ids, mask in zip(keys, arrays[0], arrays[2], strict=True):
                found[key.tobytes()] = ids[mask > 0].tobytes()
        return found

    assert masks(fixed, 0) == masks(fixed, 1)
    first, later = masks(new, 0), masks(new, 10)  # the same pairs again, ten epochs later
    assert first.keys() == later.keys()
    assert np.mean([first[key] == later[key] for key in first]) < 0.05
    assert len(masks(new, 1).keys() & first.keys()) < len(first)


def test_shards_together_are_the_corpus_in_one_piece(
    documents: Documents, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corpus.JOB", 20_000)
    parts = write(documents, tmp_path, shards=3)
    for name in ("tokens", "sentences", "documents"):
        joined, whole = getattr(parts, name), getattr(corpus, name)
        assert len(joined.parts) == 3
        assert joined[0 : len(joined)].tolist() == whole[0 : len(whole)].tolist()
        index = np.random.default_rng(0).integers(0, len(whole), 500)
        assert joined[index].tolist() == whole[index].tolist()
    for value in (0, 1, 777, len(corpus.sentences) - 1):
        assert parts.documents.search(value) == corpus.documents.search(value)
    a, b = (Batches(Pairs(c, 48, seed=4), 32, seed=4) for c in (parts, corpus))
    assert all(
        np.array_equal(x, y) for n in (0, 9) for x, y in zip(a.arrays(n), b.arrays(n), strict=True)
    )


# ----------------------------------------------------------------------------------------- mistakes


def test_a_single_document_has_no_random_second_text(tmp_path: Path) -> None:
    corpus = write([[[1, 2, 3]] * 50], tmp_path)
    with pytest.raises(UserError, match=r"single document.*--next_sentence False"):
        Pairs(corpus, 32)
    assert len(Batches(Pairs(corpus, 32, next_sentence=False), 8)) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_len": 4}, "max_len=4; expected 5 to 65535"),
        ({"mask_prob": 0.0}, "mask_prob=0.0"),
        ({"mask_prob": 1.0}, "mask_prob=1.0"),
        ({"max_pred": 0}, "max_pred=0; expected 1 to max_len=128"),
        ({"short_seq_prob": 2.0}, "short_seq_prob=2.0"),
    ],
)
def test_settings_out_of_range_are_refused(corpus: Corpus, settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Pairs(corpus, **{"max_len": 128, **settings})


def test_max_pred_follows_from_max_len(corpus: Corpus) -> None:
    assert [Pairs(corpus, max_len).max_pred for max_len in (128, 512)] == [20, 77]

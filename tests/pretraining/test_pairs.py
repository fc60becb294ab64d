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

from pretraining.batches import PairBatches
from pretraining.masks import choose, uniform
from pretraining.pairs import Chunk, PairConfig, Pairs, truncate
from pretraining.shards import Corpus
from pretraining.text import prepare_text
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
        prepare_text([folder / "text.txt"], folder / "vocab.txt", folder / "ids", shard=(i, shards))
    return Corpus(folder / "ids")


@pytest.fixture(scope="module")
def documents() -> Documents:
    return make_documents(600)


@pytest.fixture(scope="module")
def corpus(documents: Documents, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return write(documents, tmp_path_factory.mktemp("corpus"))


def make_pairs(corpus: Corpus, max_len: int, seed: int = 0, **settings: object) -> Pairs:
    return Pairs(corpus, PairConfig(max_len, **settings), seed)


def whole_epoch(pairs: Pairs, epoch: int = 0) -> np.ndarray:
    return pairs.plan(np.arange(pairs.n_blocks), epoch)


def all_chunks(pairs: Pairs, epoch: int = 0) -> dict[str, np.ndarray]:
    """The columns of all chunks, which whole_epoch() makes instances of, in the same order."""
    chunks = [chunk for block in range(pairs.n_blocks) for chunk in pairs.chunks(block, epoch)]
    return dict(zip(Chunk._fields, np.array(chunks).T, strict=True))


def next_sentence_of(chunks: dict[str, np.ndarray]) -> np.ndarray:
    """Where the walk through a document resumes after each chunk."""
    return np.where(chunks["is_random_next"], chunks["a_end"], chunks["end"])


def identity(plan: np.ndarray) -> list[tuple[int, ...]]:
    """The instances but for their masks."""
    return list(map(tuple, plan[["a", "n_a", "b", "n_b"]].tolist()))


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


def test_each_token_too_many_leaves_from_the_front_or_the_back_by_a_coin_of_its_own(
    corpus: Corpus,
) -> None:
    front, back = [], []
    for seed in range(3):
        pairs = make_pairs(corpus, 24, seed)
        plan, chunks = whole_epoch(pairs), all_chunks(pairs)
        start, end = corpus.sentences[chunks["start"]], corpus.sentences[chunks["a_end"]]
        front.append(plan["a"] - start)
        back.append(end - plan["a"] - plan["n_a"])
    front, back = np.concatenate(front), np.concatenate(back)
    n = front + back
    assert front.min() == back.min() == 0
    assert (n > 0).sum() > 10_000
    assert abs((front - n / 2).sum()) < 5 * math.sqrt(n.sum() / 4)
    for size in (1, 2, 30):  # binomial: variance n / 4
        chosen = front[n == size]
        error = math.sqrt(2 / len(chosen)) if size > 2 else 1 / math.sqrt(len(chosen))
        assert abs(chosen.var() / (size / 4) - 1) < 5 * error


def test_random_numbers_are_uniform_and_a_row_s_are_its_seed_s_alone() -> None:
    seeds = np.arange(20_000, dtype=np.uint64)
    found = uniform(seeds, 5, 20)
    assert found.min() >= 0
    assert found.max() < 1
    assert abs(found.mean() - 0.5) < 5 * math.sqrt(1 / 12 / found.size)
    assert np.abs(np.histogram(found, 50)[0] / found.size - 0.02).max() < 5 * math.sqrt(
        0.02 / found.size
    )
    for axis in (0, 1):  # neighbours are not correlated
        steps = np.diff(found, axis=axis)
        assert abs(steps.var() - 1 / 6) < 5 * math.sqrt(7 / 180 / steps.size)
    assert np.array_equal(uniform(seeds[[7, 3]], 6, 4), found[[7, 3], 1:5])


@pytest.mark.parametrize("max_len", [24, 128])
def test_a_hundred_thousand_pairs_have_google_s_statistics(
    corpus: Corpus, documents: Documents, max_len: int
) -> None:
    plans, shorts = [], []
    while sum(map(len, plans)) < 100_000:  # epochs of several seeds, all different
        pairs = make_pairs(corpus, max_len, seed=len(plans) // 10)
        plans.append(whole_epoch(pairs, len(plans) % 10))
        shorts.append(all_chunks(pairs, (len(plans) - 1) % 10)["target"] < max_len - 3)
    plan, is_short = np.concatenate(plans), np.concatenate(shorts)
    rng, theirs = random.Random(5), []
    while len(theirs) < 60_000:
        for which in range(len(documents)):
            theirs += plain_pairs.instances(documents, which, max_len, rng)
    a, b = (np.array([len(instance[i]) for instance in theirs]) for i in (0, 1))
    is_random, short = (np.array([instance[i] for instance in theirs]) for i in (2, 3))
    # chance is drawn once a document for its target: its error is that of documents, not of
    # instances
    spread = np.std([part.mean() for part in shorts])
    spread *= math.sqrt(1 / len(plans) + len(plans[0]) / len(theirs))
    assert abs(is_short.mean() - short.mean()) < 5 * spread
    for chosen, their_choice, what in ((is_short, short, "short"), (~is_short, ~short, "full")):
        ours, n_a, n_b = plan[chosen], plan["n_a"][chosen], plan["n_b"][chosen]
        close(ours["order"], is_random[their_choice], f"{what}: share of random B")
        if what == "full":
            close(n_a, a[their_choice], "length of A")
            close(n_b, b[their_choice], "length of B")
            close(n_a + n_b, (a + b)[their_choice], "length")
            close(n_a**2, a[their_choice] ** 2, "length of A squared")
            for edge in (1, 5, 10, max_len // 2):
                close(n_a <= edge, a[their_choice] <= edge, f"share of A up to {edge}")
                close(n_b <= edge, b[their_choice] <= edge, f"share of B up to {edge}")
    own, other = document_of(corpus, plan["a"]), document_of(corpus, plan["b"])
    assert (own[plan["order"] == 1] != other[plan["order"] == 1]).all()
    assert (own[plan["order"] == 0] == other[plan["order"] == 0]).all()
    assert (own == document_of(corpus, plan["a"] + plan["n_a"] - 1)).all()
    assert (other == document_of(corpus, plan["b"] + plan["n_b"] - 1)).all()
    assert plan["n_a"].min() >= 1
    assert plan["n_b"].min() >= 1
    assert (plan["n_a"] + plan["n_b"]).max() == max_len - 3


def test_every_other_document_and_every_sentence_of_it_may_begin_a_random_text(
    tmp_path: Path,
) -> None:
    documents = [[[1]] * 8, [[2]] * 2, [[3], [4], [5]]]
    corpus = write(documents, tmp_path)
    counts = np.zeros(13)
    n = 0
    for seed in range(2000):
        plan = whole_epoch(make_pairs(corpus, 5, seed))
        chosen = plan[(plan["order"] == 1) & (plan["a"] < 8)]  # of the first document's
        counts += np.bincount(chosen["b"], minlength=13)
        n += len(chosen)
    expected = np.array([0] * 8 + [1 / 4] * 2 + [1 / 6] * 3)
    assert n > 2000
    assert np.abs(counts / n - expected).max() < 5 * math.sqrt(3 / 16 / n)
    assert not counts[:8].any()


def test_chunks_are_split_anywhere_and_half_of_those_that_can_be_have_a_random_second_text(
    corpus: Corpus,
) -> None:
    parts = [
        all_chunks(make_pairs(corpus, 64, seed), epoch) for seed in range(5) for epoch in range(10)
    ]
    chunks = {name: np.concatenate([part[name] for part in parts]) for name in Chunk._fields}
    n = chunks["end"] - chunks["start"]
    n_a = chunks["a_end"] - chunks["start"]
    assert chunks["is_random_next"][n == 1].all()
    assert (n_a[n == 1] == 1).all()
    several = n > 1
    share = chunks["is_random_next"][several].mean()
    assert abs(share - 0.5) < 5 * math.sqrt(0.25 / several.sum())
    for size in (2, 3, 5):
        counts = np.bincount(n_a[n == size], minlength=size)
        expected = np.array([0] + [1 / (size - 1)] * (size - 1))
        error = 5 * math.sqrt(expected[-1] * (1 - expected[-1]) / counts.sum())
        assert np.abs(counts / counts.sum() - expected).max() <= error


def test_a_tenth_of_the_documents_has_a_shorter_target(corpus: Corpus) -> None:
    shares = []
    for seed in range(20):
        chunks = all_chunks(make_pairs(corpus, 64, seed))
        shorter = chunks["document"][chunks["target"] < 61]
        shares.append(len(np.unique(shorter)) / len(np.unique(chunks["document"])))
        assert chunks["target"].min() >= 2
    # one of the 60 lengths from 2 to 61 is the full one
    assert abs(np.mean(shares) - 0.1 * 59 / 60) < 5 * math.sqrt(0.09 / 600 / 20)


def test_an_epoch_walks_through_the_whole_corpus(corpus: Corpus) -> None:
    chunks = all_chunks(make_pairs(corpus, 32, seed=3))
    end = next_sentence_of(chunks)
    assert chunks["start"][0] == 0
    assert (chunks["start"][1:] == end[:-1]).all()
    assert end[-1] == len(corpus.sentences) - 1


def test_without_pairs_an_instance_is_a_piece_of_a_document_and_nothing_is_cut_off(
    corpus: Corpus,
) -> None:
    pairs = make_pairs(corpus, 32, next_sentence=False)
    plan = whole_epoch(pairs)
    a, end = plan["a"], plan["a"] + plan["n_a"]
    assert (a[1:] == end[:-1]).all()
    assert plan["n_a"].sum() == len(corpus.tokens)
    assert pairs.counts(0).sum() == len(plan)
    ids, segments, mask, *_ = pairs.build(plan)
    assert not segments.any()
    assert (mask.sum(1) == plan["n_a"] + 2).all()
    assert (ids[np.arange(len(ids)), mask.sum(1) - 1] == 3).all()
    assert (document_of(corpus, a) == document_of(corpus, end - 1)).all()


def test_the_shortest_instances_have_a_token_of_each_text(corpus: Corpus) -> None:
    plan = whole_epoch(make_pairs(corpus, 5, short_seq_prob=1.0))
    assert set(plan["n_a"]) == set(plan["n_b"]) == {1}
    plan = whole_epoch(make_pairs(corpus, 3, short_seq_prob=1.0, next_sentence=False))
    assert set(plan["n_a"]) == {1}
    assert len(plan) == len(corpus.tokens)


def test_a_document_longer_than_a_block_is_walked_in_parts(tmp_path: Path) -> None:
    corpus = write([[[1] * 5] * 2000, [[2] * 5] * 3], tmp_path)
    pairs = make_pairs(corpus, 16)
    pairs.block, pairs.n_blocks = 64, -(-pairs.n_sentences // 64)
    edges = [pairs.edge(k) for k in range(pairs.n_blocks + 1)]
    assert edges[:3] == [0, 64, 128]
    assert edges[-2:] == [2000, 2003]  # the second document begins a block of its own
    counts = pairs.counts(0)
    assert counts.sum() == len(whole_epoch(pairs))
    chunks = all_chunks(pairs)
    assert (next_sentence_of(chunks) - chunks["start"]).sum() == 2003


def test_a_last_block_in_which_no_document_begins_is_empty_and_nothing_is_lost(
    tmp_path: Path,
) -> None:
    corpus = write([[[1] * 5] * 60, [[2] * 5] * 136], tmp_path)
    pairs = make_pairs(corpus, 16)
    pairs.block, pairs.n_blocks = 64, 4  # the last has 4 sentences, of a document begun before
    assert [pairs.edge(k) for k in range(5)] == [0, 64, 128, 196, 196]
    assert pairs.counts(0)[3] == len(pairs.plan(np.array([3]), 0)) == 0
    chunks = all_chunks(pairs)
    assert (next_sentence_of(chunks) - chunks["start"]).sum() == 196


# ---------------------------------------------------------------------------------------- the masks


def test_masked_batches_have_google_s_numbers_and_shares(corpus: Corpus) -> None:
    pairs = make_pairs(corpus, 128, max_pred=15, mask_prob=0.15)
    batches = PairBatches(pairs, 64, seed=1)
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
    allowed = np.ones((20_000, 20), bool)
    allowed[:, [0, 7, 19]] = False
    seeds = np.arange(20_000, dtype=np.uint64)
    positions, used = choose(allowed, np.full(20_000, 3), seeds)
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
    seeds = np.arange(500, dtype=np.uint64)
    positions, used = choose(allowed, np.full(500, 6), seeds, continues[ids])
    assert used.sum(1).max() == 6
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


@pytest.mark.parametrize("whole_word_mask", [False, True])
def test_the_masks_of_an_instance_do_not_depend_on_its_batch(
    corpus: Corpus, whole_word_mask: bool
) -> None:
    pairs = make_pairs(corpus, 48, whole_word_mask=whole_word_mask)
    plan = whole_epoch(pairs)[:200]
    together = pairs.build(plan)
    for i in range(0, 200, 7):
        alone = pairs.build(plan[i : i + 1])
        for array, row in zip(together[:-1], alone[:-1], strict=True):
            assert np.array_equal(array[i, : row.shape[1]], row[0])
            assert not array[i, row.shape[1] :].any()


# -------------------------------------------------------------------------------------------- order


def test_a_batch_depends_on_the_seed_and_its_number_alone(corpus: Corpus) -> None:
    def fresh() -> PairBatches:
        return PairBatches(make_pairs(corpus, 48, seed=4), 32, seed=4)

    batches = fresh()
    n = len(batches)
    forward = [batches.arrays(i) for i in range(2 * n + 3)]
    for i in (2 * n + 1, n, n - 1, 5, 0):  # backwards, each from nothing
        assert all(np.array_equal(x, y) for x, y in zip(fresh().arrays(i), forward[i], strict=True))
    other = PairBatches(make_pairs(corpus, 48, seed=5), 32, seed=5)
    assert not np.array_equal(other.arrays(0).input_ids, forward[0].input_ids)


def test_another_process_makes_the_same_global_batches(corpus: Corpus) -> None:
    code = (
        f"import sys, hashlib; sys.path.insert(0, {str(ROOT)!r})\n"
        "from pretraining.batches import PairBatches\n"
        "from pretraining.pairs import PairConfig, Pairs\n"
        "from pretraining.shards import Corpus\n"
        f"pairs = Pairs(Corpus({str(corpus.folder)!r}), PairConfig(max_len=48), seed=4)\n"
        "b = PairBatches(pairs, 32, seed=4)\n"
        "print(hashlib.sha256(b''.join(x.tobytes() for n in (7, 3, len(b) + 2) for x in "
        "b.arrays(n))).hexdigest())"
    )
    others = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ]
    batches = PairBatches(make_pairs(corpus, 48, seed=4), 32, seed=4)
    ours = hashlib.sha256(
        b"".join(x.tobytes() for n in (7, 3, len(batches) + 2) for x in batches.arrays(n))
    ).hexdigest()
    assert [o.strip() for o in others] == [ours, ours]


def test_an_epoch_has_every_instance_once_in_full_batches_of_similar_length(
    corpus: Corpus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pretraining.batches.GROUP", 2)  # several, so that batches span two
    pairs = make_pairs(corpus, 48, seed=4)
    pairs.block, pairs.n_blocks = 500, -(-pairs.n_sentences // 500)
    batches = PairBatches(pairs, 32, seed=4)
    for epoch in (0, 1):
        plans = [batches.plan(n) for n in range(batches.first(epoch), batches.first(epoch + 1))]
        assert all(len(plan) == 32 for plan in plans[:-1])
        expected = whole_epoch(pairs, epoch)
        assert sorted(np.concatenate(plans).tolist()) == sorted(expected.tolist())
        spread = [np.ptp(pairs.lengths(plan)) for plan in plans]
        assert np.median(spread) <= 2
    assert batches.describe(batches.first(1)) == "batch 1 of epoch 2, instances 0 to 31"
    assert identity(batches.plan(0)) != identity(batches.plan(batches.first(1)))


def test_masks_are_new_in_every_epoch_or_fixed(corpus: Corpus) -> None:
    config = PairConfig(max_len=48)
    new, fixed = (
        PairBatches(Pairs(corpus, config, seed=4, fixed=fixed), 32, seed=4)
        for fixed in (False, True)
    )

    def masks(batches: PairBatches, epoch: int) -> dict[tuple[int, ...], bytes]:
        found = {}
        for n in range(batches.first(epoch), batches.first(epoch + 1)):
            batch, instances = batches.arrays(n), identity(batches.plan(n))
            for instance, ids, mask in zip(
                instances, batch.input_ids, batch.input_mask, strict=True
            ):
                found[instance] = ids[mask > 0].tobytes()
        return found

    assert masks(fixed, 0) == masks(fixed, 1)
    first, later = masks(new, 0), masks(new, 10)  # the same pairs again, ten epochs later
    assert first.keys() == later.keys()
    assert np.mean([first[key] == later[key] for key in first]) < 0.05
    assert len(masks(new, 1).keys() & first.keys()) < len(first)


def test_no_two_instances_share_their_masks_in_any_epoch(corpus: Corpus) -> None:
    pairs = make_pairs(corpus, 48, seed=4)
    seeds = np.concatenate([whole_epoch(pairs, epoch)["mask_seed"] for epoch in range(12)])
    assert len(np.unique(seeds)) == len(seeds)


def test_shards_together_are_the_corpus_in_one_piece(
    documents: Documents, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pretraining.text.JOB", 20_000)
    parts = write(documents, tmp_path, shards=3)
    for name in ("tokens", "sentences", "documents"):
        joined, whole = getattr(parts, name), getattr(corpus, name)
        assert len(joined.parts) == 3
        assert joined[0 : len(joined)].tolist() == whole[0 : len(whole)].tolist()
        index = np.random.default_rng(0).integers(0, len(whole), 500)
        assert joined[index].tolist() == whole[index].tolist()
    for value in (0, 1, 777, len(corpus.sentences) - 1):
        assert parts.documents.search(value) == corpus.documents.search(value)
    a, b = (PairBatches(make_pairs(c, 48, seed=4), 32, seed=4) for c in (parts, corpus))
    assert all(
        np.array_equal(x, y) for n in (0, 9) for x, y in zip(a.arrays(n), b.arrays(n), strict=True)
    )


# ----------------------------------------------------------------------------------------- mistakes


def test_a_single_document_has_no_random_second_text(tmp_path: Path) -> None:
    corpus = write([[[1, 2, 3]] * 50], tmp_path)
    with pytest.raises(UserError, match=r"single document.*`next_sentence=False`"):
        make_pairs(corpus, 32)
    assert len(PairBatches(make_pairs(corpus, 32, next_sentence=False), 8)) == 1


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
def test_settings_out_of_range_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        PairConfig(**{"max_len": 128, **settings})


def test_max_pred_follows_from_max_len() -> None:
    assert [PairConfig(max_len).max_pred for max_len in (128, 512)] == [20, 77]


def test_making_batches_of_arrays_needs_no_torch(corpus: Corpus) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import corpus, pretraining.describe, pretraining.instances, pretraining.text\n"
        "from pretraining import batches, pairs, shards\n"
        f"text = shards.Corpus({str(corpus.folder)!r})\n"
        "batches.PairBatches(pairs.Pairs(text, pairs.PairConfig()), 8).arrays(0)\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

"""One file divided: each label's share in each part, no text and no customer in two of them."""

import collections

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from tasks import TASKS, own_task
from tasks.splits import check_folds, split, split_examples, together
from tasks.table_config import Example
from utils import UserError


def shares_of(labels: np.ndarray, parts: np.ndarray, n: int) -> np.ndarray:
    """(parts, labels): how many of each label a part has."""
    return np.array([np.bincount(labels[parts == i], minlength=labels.max() + 1) for i in range(n)])


@pytest.mark.parametrize("seed", range(20))
def test_each_label_s_share_is_that_of_scikit_learn_or_closer(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, k = int(rng.integers(60, 600)), int(rng.integers(2, 6))
    labels = rng.choice(4, n, p=[0.7, 0.2, 0.07, 0.03])
    groups = rng.integers(0, n // int(rng.integers(1, 6)), n)
    found = split(labels.tolist(), groups.tolist(), [1 / k] * k, seed)
    for group in set(groups):
        assert len(set(found[groups == group])) == 1
    theirs = np.empty(n, int)
    folds = StratifiedGroupKFold(k, shuffle=True, random_state=seed)
    for i, (_, rows) in enumerate(folds.split(labels, labels, groups)):
        theirs[rows] = i
    even = np.bincount(labels) / k
    ours = np.abs(shares_of(labels, found, k) - even).max(0)
    # As far from an even share as a part of theirs, or a row further.
    assert (ours <= np.abs(shares_of(labels, theirs, k) - even).max(0) + 1).all()
    # Row by row shares are rounded.
    alone = split(labels.tolist(), list(range(n)), [1 / k] * k, seed)
    assert (np.abs(shares_of(labels, alone, k) - even) < 1).all()


@pytest.mark.parametrize("share", [0.05, 0.1, 0.25, 0.5])
def test_a_part_has_its_share_of_every_label(share: float) -> None:
    labels = np.repeat([0, 1, 2], [900, 90, 11])
    found = split(labels.tolist(), list(range(len(labels))), (1 - share, share), 3)
    counts = shares_of(labels, found, 2)[1]
    assert (np.abs(counts - share * np.array([900, 90, 11])) < 1).all()
    # The seed decides which rows, and nothing else does.
    again = split(labels.tolist(), list(range(len(labels))), (1 - share, share), 3)
    other = split(labels.tolist(), list(range(len(labels))), (1 - share, share), 4)
    assert (found == again).all()
    assert (found != other).any()


def test_the_rows_are_the_same_on_any_machine() -> None:
    labels, groups = list("aabbaabbab"), [0, 1, 2, 3, 4, 5, 6, 7, 8, 8]
    assert split(labels, groups, (0.5, 0.5), 42).tolist() == [1, 0, 0, 1, 1, 0, 0, 1, 0, 0]


def test_what_is_equal_in_turn_stays_together() -> None:
    assert together(["a", "b", "a", "c"], [1, 2, 3, 3]) == [0, 1, 0, 0]
    assert together(["a", "b", "c"]) == [0, 1, 2]
    assert together([1, 2, 3, 4], ["x", "y", "y", "x"], [0, 1, 2, 2]) == [0, 0, 0, 0]


def examples_of(texts: list[str], labels: list[str]) -> list[Example]:
    rows = enumerate(zip(texts, labels, strict=True), start=2)
    return [Example(line, text, None, label) for line, (text, label) in rows]


def test_texts_that_differ_in_capitals_and_blanks_are_equal() -> None:
    texts = [f"Text {n // 2}" if n % 2 else f"text  {n // 2} " for n in range(80)]
    examples = examples_of(texts, ["a", "b"] * 40)
    parts = split_examples(own_task(TASKS["csv"], labels="a,b"), examples, (0.5, 0.5), 1)
    assert (parts[::2] == parts[1::2]).all()
    assert collections.Counter(parts.tolist()) == {0: 40, 1: 40}


def test_a_blank_customer_is_shared_by_no_rows() -> None:
    texts = [f"text {n}" for n in range(200)]
    examples = [
        Example(n + 2, text, None, "ab"[n % 2], "" if n < 130 else f"c{n % 7}")
        for n, text in enumerate(texts)
    ]
    task = own_task(TASKS["csv"], labels="a,b", split_by="customer")
    parts = split_examples(task, examples, (0.8, 0.2), 1)
    assert 20 < parts[:130].sum() < 32
    for customer in range(7):
        assert len({parts[n] for n in range(130, 200) if n % 7 == customer}) == 1


def test_numbers_have_the_same_range_on_both_sides() -> None:
    numbers = [str(n**2) for n in range(200)]
    task = own_task(TASKS["csv"], labels="number")
    parts = split_examples(task, examples_of(numbers, numbers), (0.8, 0.2), 1)
    held = np.flatnonzero(parts)
    assert len(held) == 40
    # Four of each twenty.
    assert np.bincount(held // 20).tolist() == [4] * 10


def test_what_cannot_be_divided_is_told() -> None:
    task = own_task(TASKS["csv"], labels="a,b")
    few = examples_of([str(n) for n in range(12)], list("ab") * 6)
    with pytest.raises(
        UserError, match=r"^12 rows with 12 different .* would have 2 rows, too few"
    ):
        split_examples(task, few, (0.9, 0.1), 1)
    one = examples_of(["a text"] * 100, list("ab") * 50)
    with pytest.raises(UserError, match=r"100 rows with 1 different texts or groups: .* 0 rows"):
        split_examples(task, one, (0.5, 0.5), 1)
    rare = examples_of([str(n) for n in range(100)], ["a"] * 99 + ["b"])
    with pytest.raises(
        UserError, match="'b' has 1 row, and 5 folds need as many of each; use fewer"
    ):
        check_folds(task, rare, 5)
    check_folds(own_task(TASKS["csv"], labels="number"), few, 5)

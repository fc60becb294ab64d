"""What pre-training will see of a corpus is told, and what looks wrong is warned of."""

import re
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from prepared import TEXT, make

from corpus import Describe, Prepare
from formats.vocab import Vocabulary, load_vocab
from pretraining.describe import duplicates, look_for_faults, look_into
from pretraining.pairs import PairConfig, Pairs
from pretraining.shards import Corpus
from pretraining.text import prepare_text


def warned(found: Corpus, max_len: int = 64, max_pred: int | None = None) -> str:
    return " | ".join(look_into(found, PairConfig(max_len, max_pred), batch_size=8).warnings)


def test_describe_tells_what_will_be_trained_on(tmp_path: Path, vocab: Path, run: Callable) -> None:
    found = make(tmp_path, vocab, TEXT)
    status, out, _ = run(f"describe {tmp_path}/ids --max_len 64 --batch_size 8", Prepare, Describe)
    assert status == 0
    lines = dict(line.split(":", 1) for line in out.splitlines())
    tokens = len(found.tokens)
    assert lines["documents"].split() == "44, 6.8 sentences each on average".split()
    assert lines["sentences"].strip().startswith("300, from 343 lines; ")
    assert lines["tokens"].strip() == f"{tokens:,} of {len(TEXT):,} bytes; 0.00% are [UNK]"
    assert lines["masked"].strip().endswith("at most 10 in an instance")
    assert "warning" not in out


def test_the_share_of_duplicates_is_exact_and_estimated_where_there_are_many(
    tmp_path: Path, vocab: Path
) -> None:
    found = make(
        tmp_path,
        vocab,
        "\n".join(f"lamp {i}" for i in range(3000))
        + "\n"
        + "\n".join(["the map"] * 1000)
        + "\nred\n\nx",
    )
    assert duplicates(found) == pytest.approx(999 / 4002)
    found = make(
        tmp_path, vocab, "\n".join(f"lamp {i % 4000}" for i in range(8000)) + "\n\nx", name="twice"
    )
    assert duplicates(found, most=500) == pytest.approx(0.5, abs=0.08)


def test_describe_warns_of_what_looks_wrong(tmp_path: Path, vocab: Path) -> None:
    event = "the red lamp was sold at the market on monday morning . "
    assert "single document" in warned(make(tmp_path, vocab, "the lamp\n" * 50, name="one"))
    assert "blank lines between documents missing" in warned(
        make(tmp_path, vocab, "the lamp\n" * 12000 + "\nmap", name="long")
    )
    assert "most documents are a single sentence" in warned(
        make(tmp_path, vocab, "the lamp\n\n" * 50, name="short")
    )
    assert "`split_sentences=True`" in warned(
        make(tmp_path, vocab, ((event * 6 + "\n") * 20 + "\n") * 9, name="paragraphs")
    )
    assert "are [UNK]" in warned(
        make(tmp_path, vocab, ("the ☃ lamp\n" * 9 + "\n") * 9, name="unknown")
    )
    assert "max_pred=2 masks" in warned(make(tmp_path, vocab, TEXT), max_pred=2)
    assert "are the same as another" in warned(
        make(tmp_path, vocab, ("the red lamp .\n" * 9 + "\n") * 9, name="same")
    )
    cased = tmp_path / "vocab.txt"
    cased.write_text(
        "".join(f"{t}\n" for t in [*load_vocab(vocab), *(f"Word{i}" for i in range(50))])
    )
    found = make(tmp_path, Vocabulary.read(cased).with_rules(None, True), TEXT, name="casing")
    assert "do_lower_case=True, and 50 of the vocabulary's" in warned(found)


def test_a_sample_of_a_large_text_gives_the_warnings_of_the_whole(
    tmp_path: Path, vocab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pretraining.pairs.BLOCK", 600)
    monkeypatch.setattr("pretraining.describe.SAMPLE", 5)
    event = "the red lamp was sold at the market on monday morning . "
    texts = {"paragraphs": ((event * 6 + "\n") * 20 + "\n") * 40, "fine": TEXT * 9}
    for name, text in texts.items():
        pairs = Pairs(make(tmp_path, vocab, text, name=name), PairConfig(64), seed=3)
        assert pairs.n_blocks > 10
        whole = look_into(pairs.corpus, pairs.config, batch_size=8).warnings
        sampled = look_for_faults(pairs, batch_size=8)
        # The figures in them may differ a little.
        assert [re.sub("[0-9]+", "", line) for line in sampled] == [
            re.sub("[0-9]+", "", line) for line in whole
        ]
        assert len(whole) == (2 if name == "paragraphs" else 1)
    edges = [(0, 20), (100, 120)]
    # All of the 20 are the same sentence, and so are the others.
    assert duplicates(Corpus(tmp_path / "paragraphs"), edges) == pytest.approx(39 / 40)


def test_hard_wrapped_lines_are_warned_of(tmp_path: Path, vocab: Path) -> None:
    words = " ".join(vocab.read_text().split()[5:]) + " "
    wrapped = "\n\n".join("\n".join(textwrap.wrap(words * 40, 60)) for _ in range(3))
    (tmp_path / "text.txt").write_text(wrapped)
    prepare_text([tmp_path / "text.txt"], vocab, tmp_path / "wrapped")
    assert Corpus(tmp_path / "wrapped").about["hard_wrapped"]
    assert "lines seem to be hard-wrapped, so sentences are cut at line ends" in warned(
        Corpus(tmp_path / "wrapped"), 32
    )
    (tmp_path / "plain.txt").write_text(TEXT)
    prepare_text([tmp_path / "plain.txt"], vocab, tmp_path / "plain")
    assert not Corpus(tmp_path / "plain").about["hard_wrapped"]

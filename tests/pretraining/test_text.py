"""From text to a prepared corpus: every token is kept, what is not text is named, nothing is left
half.
"""

import errno
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from prepared import TEXT, make

from corpus import Describe, Prepare
from formats.vocab import load_vocab
from pretraining import shards
from pretraining.sentences import Layout, layout, sentences
from pretraining.shards import Corpus
from pretraining.text import prepare_text
from system.files import find_files
from tokenization import FullTokenizer, Learn
from utils import UserError

ROOT = Path(__file__).resolve().parents[2]


def content(found: Corpus) -> list[list[list[int]]]:
    """The documents of a corpus as sentences of ids."""
    tokens, starts, documents = (
        getattr(found, name)[0 : len(getattr(found, name))]
        for name in ("tokens", "sentences", "documents")
    )
    return [
        [tokens[starts[s] : starts[s + 1]].tolist() for s in range(a, b)]
        for a, b in itertools.pairwise(documents)
    ]


# ----------------------------------------------------------------------------------------- the text


def test_a_corpus_is_the_sentences_and_documents_of_the_text(tmp_path: Path, vocab: Path) -> None:
    encode = FullTokenizer(vocab).encode
    found = make(tmp_path, vocab, "\n\nthe lamp\n \n\nthe map .\r\nred\n\u200b\n", "\ufeffgreen\n")
    assert content(found) == [
        [encode("the lamp")],
        [encode("the map ."), encode("red")],
        [encode("green")],
    ]
    assert found.counts == {
        "documents": 3,
        "sentences": 4,
        "tokens": 7,
        "unknown": 0,
        "lines": 9,
        "bytes": 42,
    }
    assert found.tokens.parts[0].dtype == np.uint8  # the smallest type for a small vocabulary
    assert [str(shards.id_type(n)) for n in (256, 257, 65536, 65537)] == [
        "uint8",
        "uint16",
        "uint16",
        "uint32",
    ]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("job", [50, 333, 2000])
def test_pieces_and_workers_do_not_change_the_result(
    tmp_path: Path, vocab: Path, monkeypatch: pytest.MonkeyPatch, job: int, workers: int
) -> None:
    texts = TEXT, TEXT.replace("\n", "\r\n"), TEXT.replace("\n\n", "\n")
    whole = make(tmp_path, vocab, *texts)
    monkeypatch.setattr("pretraining.text.JOB", job)
    assert content(make(tmp_path, vocab, *texts, name="pieces", workers=workers)) == content(whole)


def test_lines_longer_than_a_piece_stay_whole(
    tmp_path: Path, vocab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "red lamp " * 500 + "\n" + "map\n" + "green " * 800
    monkeypatch.setattr("pretraining.text.JOB", 100)
    assert [[len(s) for s in d] for d in content(make(tmp_path, vocab, text))] == [[1000, 1, 800]]


def test_files_are_found_by_list_glob_and_folder(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "sub/c.txt", ".hidden", "d.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    names = lambda found: [str(p.relative_to(tmp_path)) for p in found]  # noqa: E731
    assert names(find_files(f"{tmp_path}/*.txt")) == ["a.txt", "b.txt"]
    assert names(find_files(f"{tmp_path}/b.txt,{tmp_path}/a.txt, {tmp_path}/b.txt")) == [
        "b.txt",
        "a.txt",
    ]
    assert names(find_files(str(tmp_path))) == ["a.txt", "b.txt", "d.md", "sub/c.txt"]
    with pytest.raises(UserError, match=r"nothing\*.txt does not exist"):
        find_files(f"{tmp_path}/nothing*.txt")


# ---------------------------------------------------------------------------------------- sentences

WRAPPED = """Mr. Smith went to the harbour on Monday. He had sold the old
violin, which nobody wanted to have, for three pounds and was
glad of it. It rained, and so he walked along the harbour for
a while, thought of his brother and of the old house in the
north, where it had rained like this, and was in no hurry to
come home. It stopped.
"Good evening," said the baker, who had waited for him there
since the morning; and both went home.

CHAPTER II

On Tuesday it was dry.
"""


def split(text: str, form: Layout) -> list[str | None]:
    return [s and s.strip() for s in sentences(text.split("\n"), form, "en")]


def test_hard_wrapped_lines_are_joined_to_paragraphs_and_split() -> None:
    pytest.importorskip("sentencex")
    found = split(WRAPPED, Layout(61, True))
    assert found == [
        "Mr. Smith went to the harbour on Monday.",
        "He had sold the old violin, which nobody wanted to have, for three pounds and was glad of "
        "it.",
        "It rained, and so he walked along the harbour for a while, thought of his brother and of "
        "the old house in the north, where it had rained like this, and was in no hurry to come "
        "home.",
        "It stopped.",
        '"Good evening," said the baker, who had waited for him there since the morning; and both '
        "went home.",
        "CHAPTER II",
        "On Tuesday it was dry.",
    ]


def test_a_paragraph_a_line_is_split_and_keeps_its_document() -> None:
    pytest.importorskip("sentencex")
    expected = ["It rains.", "He goes.", "She stays.", None, "It ends."]
    assert split("It rains. He goes.\nShe stays.\n\nIt ends.", Layout()) == expected


def test_blank_lines_between_paragraphs_do_not_end_documents(tmp_path: Path) -> None:
    pytest.importorskip("sentencex")
    book = "A title.\n\nIt rains. He goes.\n\nShe stays.\n\n\nA new chapter.\n\nIt ends.\n"
    (tmp_path / "book.txt").write_text(book * 3)
    form = layout(tmp_path / "book.txt")
    assert form == Layout(0, True)
    assert split(book, form) == [
        "A title.",
        "It rains.",
        "He goes.",
        "She stays.",
        None,
        "A new chapter.",
        "It ends.",
    ]


def test_the_layout_of_a_file_is_seen_from_its_beginning(tmp_path: Path) -> None:
    cases = {
        WRAPPED * 5: (61, True),
        "A line. And one.\nAnother.\nA third.\n\n" * 20: (0, False),
        "A paragraph.\n\n" * 20: (0, True),
        "one document\n" * 50: (0, False),
        "": (0, False),
    }
    for text, (width, between) in cases.items():
        (tmp_path / "text.txt").write_text(text)
        form = layout(tmp_path / "text.txt")
        assert (form.width > 0, form.paragraphs) == (width > 0, between), text[:40]


# ------------------------------------------------------------------------------ one file, one truth


def test_a_corpus_is_prepared_once_and_only_from_the_same_text(
    tmp_path: Path, vocab: Path, run: Callable
) -> None:
    first = make(tmp_path, vocab, TEXT)
    made = (first.folder / "shard-0-of-1").stat().st_mtime_ns
    assert (make(tmp_path, vocab, TEXT).folder / "shard-0-of-1").stat().st_mtime_ns == made
    with pytest.raises(UserError, match=r"was prepared from something else \(text\)"):
        make(tmp_path, vocab, TEXT + "more")
    (tmp_path / "text0.txt").write_text(TEXT)
    line = f"prepare {tmp_path}/text0.txt --vocab {vocab} --out {tmp_path}/new --workers 2"
    status, out, _ = run(line, Prepare, Describe)
    assert (status, out) == (
        0,
        f"{tmp_path}/new/shard-0-of-1: 44 documents, 300 sentences, {len(first.tokens)} tokens\n",
    )


def test_shards_made_apart_are_used_together_and_a_missing_one_is_named(
    tmp_path: Path, vocab: Path, run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make(tmp_path, vocab, TEXT)
    monkeypatch.setattr("pretraining.text.JOB", 500)
    for i in (2, 0):
        assert (
            run(
                f"prepare {tmp_path}/text0.txt --vocab {vocab} --out {tmp_path}/apart --shard "
                f"{i}/3",
                Prepare,
                Describe,
            )[0]
            == 0
        )
    with pytest.raises(UserError, match="shards 1/3 are missing"):
        Corpus(tmp_path / "apart")
    run(
        f"prepare {tmp_path}/text0.txt --vocab {vocab} --out {tmp_path}/apart --shard 1/3",
        Prepare,
        Describe,
    )
    assert content(Corpus(tmp_path / "apart")) == content(whole)
    for wrong in ("3/3", "1", "x/2"):
        status, _, err = run(
            f"prepare {tmp_path}/text0.txt --vocab {vocab} --out {tmp_path}/apart --shard {wrong}",
            Prepare,
            Describe,
        )
        assert (status, err.count("\n")) == (2, 1)
    prepare_text([tmp_path / "text0.txt"], vocab, tmp_path / "other", shard=(0, 2))
    (tmp_path / "text0.txt").write_text(TEXT + " more")
    prepare_text([tmp_path / "text0.txt"], vocab, tmp_path / "other", shard=(1, 2))
    with pytest.raises(UserError, match=r"differs from .* in text"):
        Corpus(tmp_path / "other")


@pytest.mark.parametrize("array", ["tokens", "sentences", "documents"])
def test_a_truncated_or_altered_corpus_is_named_when_opened(
    tmp_path: Path, vocab: Path, array: str
) -> None:
    make(tmp_path, vocab, TEXT)
    file = tmp_path / "ids/shard-0-of-1" / f"{array}.bin"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match=rf"{array}.bin was altered"):
        Corpus(tmp_path / "ids")
    file.write_bytes(data[:-1])
    with pytest.raises(
        UserError, match=rf"{array}.bin: {len(data) - 1} bytes; expected {len(data)} bytes"
    ):
        Corpus(tmp_path / "ids")


def test_another_format_is_refused(tmp_path: Path, vocab: Path) -> None:
    make(tmp_path, vocab, TEXT)
    file = tmp_path / "ids/shard-0-of-1/shard.json"
    file.write_text(file.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(UserError, match="has format 2; expected 1"):
        Corpus(tmp_path / "ids")
    file.write_text('{"format": 1}')
    with pytest.raises(UserError, match=r"shard.json lacks arrays, counts, kind, shard"):
        Corpus(tmp_path / "ids")


def test_pages_looked_at_are_given_back(tmp_path: Path, vocab: Path) -> None:
    def mapped() -> int:
        return int(
            next(line for line in open("/proc/self/status") if line.startswith("RssFile")).split()[
                1
            ]
        )

    if not os.path.exists("/proc/self/status"):
        pytest.skip("needs Linux")
    found = make(tmp_path, vocab, "the red lamp was sold at the market .\n" * 200_000 + "\nmap")
    before = mapped()
    found.sentences.parts[0].sum()
    looked_at = mapped() - before
    found.release()
    assert looked_at > 1000  # KB of 1600
    assert mapped() - before < looked_at / 4


# ----------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "holds no text"),
        (b"\n \n\xe2\x80\x8b\n", "holds no text"),
        (
            TEXT.encode() + "\nnaïve".encode("latin-1") + b"\nx",
            "text0.txt, line 344: not UTF-8 text",
        ),
        (TEXT.encode() + b"\n\n\0\1\2", "line 345: a zero byte, so a binary file or UTF-16"),
        (TEXT.encode("utf-32"), "text0.txt"),
    ],
)
def test_what_is_not_text_is_named_and_nothing_is_left(
    tmp_path: Path,
    vocab: Path,
    run: Callable,
    text: bytes,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert TEXT.count("\n") == 342
    monkeypatch.setattr("pretraining.text.JOB", 700)
    (tmp_path / "text0.txt").write_bytes(text)
    status, _, err = run(
        f"prepare {tmp_path}/text0.txt --vocab {vocab} --out {tmp_path}/deep/ids --workers 2",
        Prepare,
        Describe,
    )
    line = err.splitlines()[-1]
    assert status == 2
    assert message in line
    assert os.listdir(tmp_path) == ["text0.txt"]


def test_a_full_disk_leaves_nothing(
    tmp_path: Path, vocab: Path, run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "tokens.bin")

    (tmp_path / "text0.txt").write_text(TEXT)
    monkeypatch.setattr(shards.ArrayFile, "append", full)
    status, _, err = run(
        f"prepare {tmp_path}/text0.txt --vocab {vocab} --out {tmp_path}/ids", Prepare, Describe
    )
    assert (status, err.splitlines()[-1]) == (
        2,
        "prog.py: tokens.bin: No space left on device; make room and start again",
    )
    assert os.listdir(tmp_path) == ["text0.txt"]


def test_killed_while_preparing_the_next_start_does_it_and_no_worker_stays(
    tmp_path: Path, vocab: Path
) -> None:
    (tmp_path / "text0.txt").write_text("\n".join(f"lamp{i} map{i}" for i in range(2_000_000)))
    command = [
        sys.executable,
        str(ROOT / "corpus.py"),
        "prepare",
        str(tmp_path / "text0.txt"),
        "--vocab",
        str(vocab),
        "--out",
        str(tmp_path / "ids"),
        "--workers",
        "2",
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    while not (left := list((tmp_path / "ids").glob(".shard-0-of-1.*.part"))):
        time.sleep(0.01)
    time.sleep(0.3)
    process.kill()
    process.wait()
    assert {*(tmp_path / "ids").iterdir()} == {*left, tmp_path / "ids/.shard-0-of-1.lock"}
    for _ in range(100):  # the workers notice within about a second
        if subprocess.run(["pgrep", "-s", str(process.pid)], capture_output=True).returncode:
            break
        time.sleep(0.1)
    else:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail("worker processes stayed")
    (tmp_path / "text0.txt").write_text(TEXT)
    make(tmp_path, vocab, TEXT)
    assert [p.name for p in (tmp_path / "ids").iterdir()] == ["shard-0-of-1"]


# ------------------------------------------------------------------------------------- a vocabulary


def test_a_learned_vocabulary_spells_the_text_it_was_learned_from(
    tmp_path: Path, run: Callable
) -> None:
    (tmp_path / "text.txt").write_text(
        "\ufeffDer Kaffee war heiß, der Tee kalt.\n여름 바다 여름 산\n" * 30
    )
    status, out, _ = run(
        f"learn {tmp_path}/text.txt --vocab_size 68 --out {tmp_path}/v/vocab.txt", *([Learn] * 2)
    )
    vocab = load_vocab(tmp_path / "v/vocab.txt")
    assert (status, len(vocab)) == (0, 68)
    assert f"{tmp_path}/v/vocab.txt: 68 tokens" in out
    assert list(vocab)[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = FullTokenizer(tmp_path / "v/vocab.txt", True)
    tokens = tokenizer.tokenize("Der Kaffee war heiß, der Tee kalt. 바다")
    assert "[UNK]" not in tokens
    assert "kaffee" in tokens
    assert json.loads((tmp_path / "v/tokenizer_config.json").read_text()) == {"do_lower_case": True}
    Learn(
        [str(tmp_path / "text.txt")],
        out=str(tmp_path / "cased/vocab.txt"),
        vocab_size=70,
        lower_case=False,
    ).run()
    assert "Kaffee" in load_vocab(tmp_path / "cased/vocab.txt")
    for line, message in (
        (f"{tmp_path}/text.txt --out {tmp_path}/v/vocab.txt", "exists already"),
        (f"{tmp_path}/no.txt --out {tmp_path}/x.txt", "does not exist"),
        ("--vocab_size 9", "missing"),
        (f"{tmp_path}/text.txt --out {tmp_path}/x.txt --vocab_size 5", "expected more than the 5"),
    ):
        status, _, err = run(f"learn {line}", *([Learn] * 2))
        assert (status, err.count("\n")) == (2, 1)
        assert message in err


def test_the_vocabulary_of_a_corpus_has_a_digest_too(tmp_path: Path, vocab: Path) -> None:
    make(tmp_path, vocab, TEXT)
    file = tmp_path / "ids/shard-0-of-1/vocab.txt"
    lines = file.read_text().splitlines()
    lines[-1], lines[-2] = lines[-2], lines[-1]
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(
        UserError, match=r"vocab\.txt was altered \(its digest differs\); prepare the corpus again"
    ):
        Corpus(tmp_path / "ids")
    file.unlink()
    with pytest.raises(UserError, match=r"has no vocab\.txt; prepare the corpus again"):
        Corpus(tmp_path / "ids")

"""A vocabulary that suits a text: the words that save most, their rows, what is left of a large
one; and text in the forms that corpora come in.
"""

import gzip
import json
import random
import string
from pathlib import Path

import numpy as np
import pytest
import torch

import corpus
import models
import pretrained
from formats import corpora
from formats.rules import SPECIAL
from formats.vocab import Vocabulary
from pretraining.new_words import Words, choose, count_words
from pretraining.shards import Corpus
from pretraining.text import prepare_text
from tasks.vocabularies import ROWS, extend, shrink, with_tokens
from tokenization import FullTokenizer
from utils import UserError


def tokenizer_of(folder: Path, tokens: list[str]) -> FullTokenizer:
    """By Google's rule, of some tokens."""
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens))
    return FullTokenizer(Vocabulary.read(folder / "vocab.txt").with_rules(None, True))


def letters(characters: str) -> list[str]:
    return [*characters, *(f"##{char}" for char in characters)]


def source_of(
    tokenizer: FullTokenizer, tiny: models.Config, n_rows: int = 0
) -> pretrained.Pretrained:
    """Random weights, as many rows as there are tokens."""
    config = models.Config(
        **{**vars(tiny), "vocab_size": n_rows or len(tokenizer.vocab), "max_len": 64}
    )
    torch.manual_seed(3)
    model = models.PretrainModel(config)
    torch.nn.init.normal_(model.masked_lm.bias)
    tensors = {name: t.clone() for name, t in model.state_dict().items()}
    found = pretrained.Pretrained("random weights", Path("model.pt"), config, tensors)
    found.found_tokenizer = tokenizer
    return found


def hidden(
    source: pretrained.Pretrained, tokenizer: FullTokenizer, texts: list[str]
) -> torch.Tensor:
    model = models.PretrainModel(source.config)
    pretrained.load(model, source)
    with torch.no_grad():
        return model.eval().transformer(*tokenizer(texts, 64).values())


# ------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize("seed", range(8))
def test_each_new_word_is_the_one_that_saves_most_tokens(tmp_path: Path, seed: int) -> None:
    random.seed(seed)
    some = ["ab", "##ab", "##cd", "abc", "##dc", "ca"]
    tokenizer = tokenizer_of(tmp_path, [*SPECIAL, *letters("abcd"), *random.sample(some, 4)])
    words = Words()
    for _ in range(25):
        words["".join(random.choices("abcd", k=random.randint(1, 7)))] += random.randint(1, 5)
    words.n_texts = 1
    chosen, tokens = choose(words, tokenizer, 6), list(tokenizer.pieces)
    # By brute force: every candidate is added, and all words are tokenised again.
    several = [word for word in words if len(tokenizer.encode(word)) > 1]
    candidates = {
        w for word in several for w in (word, *(f"##{word[i:]}" for i in range(1, len(word))))
    }
    for token in chosen:
        before = words.tokens(tokenizer)
        saved = {
            other: before
            - words.tokens(FullTokenizer(with_tokens(tokenizer.vocabulary, [*tokens, other])))
            for other in candidates - set(tokens)
        }
        assert saved[token] > 0
        assert token == min(saved, key=lambda other: (-saved[other], other))
        tokens.append(token)
        tokenizer = FullTokenizer(with_tokens(tokenizer.vocabulary, tokens))
    assert len(chosen) == 6


def test_no_word_becomes_unknown_by_a_new_one(tmp_path: Path) -> None:
    # "abc" is a ##bc; with "ab" as a token its end would be ##c, which is no piece.
    tokenizer = tokenizer_of(tmp_path, [*SPECIAL, "a", "b", "##b", "##bc"])
    words = Words({"ab": 9, "abc": 1})
    assert choose(words, tokenizer, 1) == ["abc"]


def test_words_are_counted_as_they_are_tokenised(tmp_path: Path, sample: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Élan-vital, ELAN!\n\nso so\x1csosi\n")
    words = count_words([text], FullTokenizer(sample / "vocab.txt"))
    expected = {"elan": 2, "-": 1, "vital": 1, ",": 1, "!": 1, "so": 1, "sososi": 1}
    assert (dict(words), words.n_texts) == (expected, 2)


def test_a_new_row_is_the_mean_of_the_pieces_it_replaces(
    tmp_path: Path, tiny: models.Config
) -> None:
    tokenizer = tokenizer_of(tmp_path, [*SPECIAL, "[unused1]", *letters("abc"), "##bc", "ca"])
    source, words = source_of(tokenizer, tiny), Words({"abc": 3, "cabc": 2, "ab": 1, "cab": 5})
    old, ids = source.tensors["transformer.embedding.token.weight"], tokenizer.pieces
    more, vocabulary = extend(source, tokenizer, words, ["abc", "cab"])
    new = more.tensors["transformer.embedding.token.weight"]
    assert list(vocabulary.tokens)[-2:] == ["abc", "cab"]
    # "abc" is a ##bc. "cab" is ca ##b, and in "cabc" ca and the half of ##bc.
    stands_for = {
        "abc": {"a": 3, "##bc": 3},
        "cab": {"ca": 7, "##b": 5, "##bc": 1},
    }
    for token, pieces in stands_for.items():
        for name, rows in more.tensors.items():
            if name in ROWS:
                theirs = source.tensors[name].double()
                mean = sum(n * theirs[ids[piece]] for piece, n in pieces.items())
                mean = mean / sum(pieces.values())
                row = rows[vocabulary.tokens[token]].double()
                torch.testing.assert_close(row, mean, rtol=0, atol=1e-7)
    assert torch.equal(new[: len(old)], old)
    # The place of [unused1], which no other word had.
    more, vocabulary = extend(source, tokenizer, words, ["##ab"], unused=True)
    assert vocabulary.tokens["##ab"] == ids["[unused1]"]
    assert more.config.vocab_size == source.config.vocab_size


def test_texts_without_new_words_keep_their_hidden_states(
    tmp_path: Path, tiny: models.Config
) -> None:
    tokenizer = tokenizer_of(tmp_path, [*SPECIAL, *letters(string.ascii_lowercase)])
    source = source_of(tokenizer, tiny, n_rows=64)
    more, vocabulary = extend(source, tokenizer, {"whales": 1}, ["whale", "##les", "##ab"])
    # The rows behind the last token are taken before new ones are made.
    assert more.config.vocab_size == 64
    texts = ["when no such word is there", "a b c"]
    new = FullTokenizer(vocabulary)
    assert torch.equal(hidden(source, tokenizer, texts), hidden(more, new, texts))
    assert new.tokenize("whales") == ["whale", "##s"]


def test_what_is_left_of_a_vocabulary_gives_a_text_the_same_tokens_and_states(
    tmp_path: Path, tiny: models.Config
) -> None:
    # "cax" is unknown only as long as "ca" is a token: without it, it would be c ##ax.
    some = ["whale", "##fish", "ship", "ca", "##ax", "unit", "##ab"]
    tokenizer = tokenizer_of(tmp_path, ["[unused1]", *SPECIAL, *some, *letters("cshipwale")])
    source, texts = source_of(tokenizer, tiny), ["Whale ship", "cax, ships"]
    text = tmp_path / "text.txt"
    text.write_text("\n".join(texts) + "\n")
    fewer, vocabulary = shrink(source, tokenizer, count_words([text], tokenizer))
    new = FullTokenizer(vocabulary)
    assert [new.tokenize(t) for t in texts] == [tokenizer.tokenize(t) for t in texts]
    assert torch.equal(hidden(source, tokenizer, texts), hidden(fewer, new, texts))
    assert set(SPECIAL) <= set(vocabulary.tokens)
    assert not {"unit", "##ab", "[unused1]", "##fish"} & set(vocabulary.tokens)
    assert len(fewer.tensors["masked_lm.bias"]) == len(vocabulary.tokens) == fewer.config.vocab_size


# ---------------------------------------------------------------------------------------- commands


def test_a_folder_with_new_words_is_read_by_every_command_and_by_transformers(
    tmp_path: Path, sample: Path, tiny: models.Config, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoTokenizer

    from encoder import load
    from tasks.exports import write_hugging_face

    tokenizer = FullTokenizer(sample / "vocab.txt")
    write_hugging_face(source_of(tokenizer, tiny), tmp_path / "start", tokenizer.vocabulary)
    text = tmp_path / "text.txt"
    text.write_text("zebrafish zebrafish and zebras\nzebrafish\n")
    start, out = str(tmp_path / "start"), tmp_path / "more"
    corpus.Extend(pretrain_file=start, data_file=str(text), n_words=2, out=str(out)).run()
    printed = capsys.readouterr().out
    assert "2 new words, zebrafish" in printed
    assert "tokens a text: " in printed
    new = load(out).tokenizer
    assert new.tokenize("A zebrafish") == AutoTokenizer.from_pretrained(out).tokenize("A zebrafish")
    assert new.tokenize("zebrafish") == ["zebrafish"]
    # And back: what the sample's text needs is what it had.
    corpus.Shrink(
        pretrain_file=str(out), data_file=str(sample / "corpus.txt"), out=str(tmp_path / "less")
    ).run()
    assert "zebrafish" not in load(tmp_path / "less").tokenizer.vocab


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"n_words": 0}, "--n_words 0: expected 1 or more"),
        ({"data_file": "TEXT/digits.txt"}, "digits.txt has no words; expected a text"),
        ({"data_file": "TEXT/known.txt"}, "no word of it would save a token; nothing to add"),
        ({"data_file": "TEXT/absent.txt"}, "absent.txt"),
        ({"out": "TEXT"}, "exists already; name another target"),
        ({"out": "model.pt"}, "expected the name of a folder"),
    ],
)
def test_what_gives_no_words_is_said_in_a_line(
    tmp_path: Path, sample: Path, tiny: models.Config, flags: dict, message: str
) -> None:
    from tasks.exports import write_hugging_face

    tokenizer = FullTokenizer(sample / "vocab.txt")
    write_hugging_face(source_of(tokenizer, tiny), tmp_path / "start", tokenizer.vocabulary)
    (tmp_path / "digits.txt").write_text("12 + 12 = 24\n")
    (tmp_path / "known.txt").write_text("the the\n")
    given = {
        "pretrain_file": str(tmp_path / "start"),
        "data_file": "TEXT/known.txt",
        "out": "TEXT/out",
    }
    values = {
        name: value.replace("TEXT", str(tmp_path)) if isinstance(value, str) else value
        for name, value in (given | flags).items()
    }
    with pytest.raises(UserError, match=message.replace("+", r"\+")):
        corpus.Extend(**values).run()
    assert not (tmp_path / "out").exists()


def test_new_words_are_refused_where_tokens_were_added_behind(
    tmp_path: Path, tiny: models.Config
) -> None:
    from dataclasses import replace

    from formats.rules import AddedToken

    plain = tokenizer_of(tmp_path, [*SPECIAL, *letters("ab")])
    rules = replace(plain.rules, added=(AddedToken("[E1]", len(plain.pieces)),))
    tokenizer = FullTokenizer(plain.vocabulary.with_rules(rules, True))
    with pytest.raises(UserError, match=r"\[E1\] was added behind the vocabulary"):
        extend(source_of(tokenizer, tiny), tokenizer, {"ab": 1}, ["ab"])


# ---------------------------------------------------------------------------------- forms of a text

DOCUMENTS = [["First sentence.", "Second one."], ["Another <text>."]]


def written(folder: Path, form: str) -> Path:
    """The documents as a file of a form."""
    plain = "\n".join("".join(f"{line}\n" for line in lines) for lines in DOCUMENTS)
    objects = [json.dumps({"text": "\n\n".join(lines), "body": "x"}) for lines in DOCUMENTS]
    articles = "".join(
        f'<doc id="{n}" url="u?a=1" title="A &amp; B">\nA & B\n\n'
        + "\n\n".join(lines)
        + "\n\n</doc>\n"
        for n, lines in enumerate(DOCUMENTS)
    )
    contents = {"jsonl": "\n".join(objects), "wiki": articles}.get(
        form.split(".")[0], plain
    ).encode()
    if form.endswith("gz"):
        contents = gzip.compress(contents)
    if form.endswith("zst"):
        zstandard = pytest.importorskip("zstandard")
        # Two frames, as parallel compressors write them.
        half = len(contents) // 2
        parts = contents[:half], contents[half:]
        contents = b"".join(zstandard.ZstdCompressor().compress(part) for part in parts)
    if form == "utf-16":
        contents = plain.encode("utf-16")
    (folder / form).write_bytes(contents)
    return folder / form


FORMS = ("plain.gz", "plain.zst", "jsonl", "jsonl.gz", "jsonl.zst", "wiki", "wiki.gz", "utf-16")


@pytest.mark.parametrize("form", FORMS)
def test_a_corpus_of_another_form_is_that_of_its_plain_text(
    tmp_path: Path, sample: Path, form: str
) -> None:
    folders = []
    for name in ("plain.txt", form):
        folders.append(tmp_path / f"{name}-ids")
        prepare_text([written(tmp_path, name)], sample / "vocab.txt", folders[-1])
    plain, other = (Corpus(folder).arrays for folder in folders)
    for name in ("tokens", "sentences", "documents"):
        assert np.array_equal(plain[name][:], other[name][:])
    assert len(plain["documents"]) == 3
    # Nothing but the shard is left.
    names = [{path.name for path in folder.rglob("*")} for folder in folders]
    assert names[0] == names[1]


def test_a_column_of_json_lines_is_named(tmp_path: Path, sample: Path) -> None:
    file = written(tmp_path, "jsonl")
    assert list(corpora.lines([file], "body")) == ["x\n", "\n", "x\n", "\n", "\n"]
    with pytest.raises(UserError, match="line 1: found text, body; expected a text named story"):
        list(corpora.lines([file], "story"))
    # Another column is another corpus.
    prepare_text([file], sample / "vocab.txt", tmp_path / "ids", column="body")
    with pytest.raises(UserError, match="was prepared from something else"):
        prepare_text([file], sample / "vocab.txt", tmp_path / "ids")


@pytest.mark.parametrize("form", ["plain.gz", "plain.zst"])
def test_a_packed_text_that_is_cut_short_is_damaged(
    tmp_path: Path, sample: Path, form: str
) -> None:
    file = written(tmp_path, form)
    file.write_bytes(file.read_bytes()[:-9])
    if form.endswith("gz"):
        with pytest.raises(UserError, match=r"plain.gz: damaged"):
            prepare_text([file], sample / "vocab.txt", tmp_path / "ids")
        assert not (tmp_path / "ids" / "shard-0-of-1").exists()
    else:
        file.write_bytes(file.read_bytes()[:12] + b"\xff" * 20)
        with pytest.raises(UserError, match=r"plain.zst: damaged"):
            prepare_text([file], sample / "vocab.txt", tmp_path / "ids")


def test_a_zstd_file_that_ends_within_a_frame_is_damaged(tmp_path: Path, sample: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    text = "".join(f"line {i} of a text that is long enough\n" for i in range(20_000))
    packed = zstandard.ZstdCompressor().compress(text.encode())
    (tmp_path / "whole.zst").write_bytes(packed + packed)
    assert "".join(corpora.lines([tmp_path / "whole.zst"])) == text + text + "\n"
    for n in (len(packed) // 2, len(packed) + len(packed) // 2, 2 * len(packed) - 2):
        (tmp_path / "cut.zst").write_bytes((packed + packed)[:n])
        with pytest.raises(UserError, match=r"cut\.zst: damaged"):
            list(corpora.lines([tmp_path / "cut.zst"]))


def test_odd_titles_and_half_characters_are_read(tmp_path: Path) -> None:
    title = 'What is a "vector" > b'
    (tmp_path / "wiki").write_text(f'<doc id="1" title="{title}">\n{title}\n\nIt is so.\n</doc>\n')
    assert list(corpora.lines([tmp_path / "wiki"])) == ["It is so.\n", "\n", "\n"]
    (tmp_path / "cut.jsonl").write_text('{"text": "hi \\ud83d there"}\n{"text": "b"}\n')
    assert next(corpora.lines([tmp_path / "cut.jsonl"])) == "hi ? there\n"

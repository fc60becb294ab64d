"""Tokenization: Google's rule to the letter, whatever is remembered; offsets; casing."""

import random
import re
import sys
import unicodedata
from pathlib import Path

import plain_tokenizer as plain
import pytest

import tokenization
from formats.vocab import Vocabulary
from tokenization import FullTokenizer, split_line
from utils import UserError

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def make(folder: Path, tokens: list[str], lower_case: bool = True) -> FullTokenizer:
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *tokens]) + "\n", encoding="utf-8")
    return FullTokenizer(folder / "vocab.txt", lower_case)


class EveryWord(dict):
    """A vocabulary that has every word, so that ids tell words apart."""

    def __contains__(self, key: object) -> bool:
        return True

    def __missing__(self, key: str) -> int:
        self[key] = len(self)
        return self[key]


@pytest.mark.parametrize("lower_case", [True, False])
def test_every_unicode_character_alone_inside_a_word_and_between_words(
    tmp_path: Path, lower_case: bool
) -> None:
    tokenizer = make(tmp_path, [], lower_case)
    tokenizer.pieces = EveryWord(tokenizer.pieces)
    everything = [chr(code) for code in range(sys.maxunicode + 1)]

    def check(texts: list[str]) -> None:
        for text in texts:
            expected = [tokenizer.pieces[word] for word in plain.words(text, lower_case)]
            assert tokenizer.encode(text) == expected, ascii(text)

    def in_words(chars: list[str]) -> list[str]:
        # Most code points are not assigned, or private. All of a word's change it if one does.
        if all(unicodedata.category(char) in ("Cn", "Co") for char in chars):
            return [f"Ab{''.join(chars[i : i + 64])}Cd" for i in range(0, len(chars), 64)]
        return [text for char in chars for text in (char, f"Ab{char}Cd")]

    # Many at a time, where a space on either side puts the lone character between words; one by one
    # where they differ.
    for start in range(0, len(everything), 512):
        chars = everything[start : start + 512]
        joined = " ".join(in_words(chars))
        expected = [tokenizer.pieces[word] for word in plain.words(joined, lower_case)]
        if tokenizer.encode(joined) != expected:
            check([text for c in chars for text in (c, f"Ab{c}Cd", f"ab {c} cd")])
            raise AssertionError(f"U+{start:04X} ff. differ together, not alone")
    for char in everything:  # those that split, vanish or join what is around them
        if char.isspace() or unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp"):
            check(
                [char, f"a{char}b", f"a{char} {char}b", f"a {char}{char} b", f"{char}a", f"a{char}"]
            )


ALPHABET = (
    "abXYZ019 "
    "\t\n.,-[]#'\x00\x07\x0b\x0c\x1c\x85\xa0\u2028\u200b\ufffd"
    "\xadé\u0301\u0323\u302eÉßİΣσς中文한글각\u1112"
)


@pytest.mark.parametrize("lower_case", [True, False])
def test_random_mixtures_equal_the_plain_rule_and_offsets_point_at_the_text(
    tmp_path: Path, lower_case: bool
) -> None:
    rng = random.Random(7)
    vocab = [
        "a",
        "b",
        "c",
        "x",
        "##x",
        "X",
        "##Y",
        "ab",
        "##ab",
        "abc",
        "##c",
        "##a",
        "e",
        "##e",
        ".",
        ",",
        "中",
        "σ",
        "##σ",
        "ς",
        "i",
        "##i",
        "0",
        "##1",
        "9",
        "#",
        "[",
        "]",
        "'",
        "-",
        "ᄒ",
        "##ᅡ",
        "##ᆫ",
    ]
    tokenizer = make(tmp_path, vocab, lower_case)
    for _ in range(20_000):
        text = "".join(rng.choices(ALPHABET, k=rng.randint(0, 14)))
        tokens = plain.tokenize(text, tokenizer.vocab, lower_case)
        assert tokenizer.tokenize(text) == tokens, repr(text)
        ids, spans = tokenizer.encode_with_offsets(text)
        assert tokenizer.convert_ids_to_tokens(ids) == tokens, repr(text)
        starts = [start for start, _ in spans]
        assert (
            starts == sorted(starts) or "\u0323" in text or "\u302e" in text
        )  # canonical order may swap two
        for token, (start, end) in zip(tokens, spans, strict=True):
            assert 0 <= start < end <= len(text)
            inside = "".join(plain.words(text[start:end], lower_case))
            assert token == "[UNK]" or set(token.removeprefix("##")) <= set(inside + "ςσ"), (
                text,
                token,
                text[start:end],
            )


def test_offsets_worked_by_hand(tmp_path: Path) -> None:
    tokenizer = make(
        tmp_path, ["un", "##ter", "baum", "##en", ",", "i", "##stanbul", "中", "a", "##b"]
    )
    cases = {
        "Ünter  Bäumen": [("un", 0, 2), ("##ter", 2, 5), ("baum", 7, 11), ("##en", 11, 13)],
        "Ba\u0308umen,": [
            ("baum", 0, 5),
            ("##en", 5, 7),
            (",", 7, 8),
        ],  # the accent is a character of its own
        "İstanbul": [("i", 0, 1), ("##stanbul", 1, 8)],  # lower() makes two of the first
        "a\x07b 中a": [("a", 0, 1), ("##b", 2, 3), ("中", 4, 5), ("a", 5, 6)],
        "zzz a": [("[UNK]", 0, 3), ("a", 4, 5)],
    }
    for text, expected in cases.items():
        ids, spans = tokenizer.encode_with_offsets(text)
        assert [
            (token, *span)
            for token, span in zip(tokenizer.convert_ids_to_tokens(ids), spans, strict=True)
        ] == expected


def test_worked_example_of_the_paper_and_special_tokens_in_text(tmp_path: Path) -> None:
    tokenizer = make(tmp_path, ["un", "##aff", "##able", "[", "]", "mask"])
    assert tokenizer.tokenize("UNaffable") == ["un", "##aff", "##able"]
    assert tokenizer.tokenize("[MASK]") == ["[", "mask", "]"]
    assert tokenizer.encode("") == []


def test_words_over_200_characters_are_unknown(tmp_path: Path) -> None:
    tokenizer = make(tmp_path, ["a", "##a"])
    assert tokenizer.tokenize("a" * 200) == ["a"] + ["##a"] * 199
    assert tokenizer.tokenize("a" * 201) == ["[UNK]"]


def test_memory_is_bounded_and_results_do_not_depend_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenization, "MEMO_SIZE", 10)
    tokenizer = make(tmp_path, ["a", "b", "##a", "##b"])
    rng = random.Random(0)
    for _ in range(300):
        text = " ".join("".join(rng.choices("ab", k=rng.randint(1, 60))) for _ in range(5))
        assert tokenizer.tokenize(text) == plain.tokenize(text, tokenizer.vocab, True)
        assert len(tokenizer._piece_ids) <= 10
        assert all(len(piece) <= tokenization.LONGEST_REMEMBERED for piece in tokenizer._piece_ids)


def test_tokens_and_ids_go_both_ways_and_strangers_are_named(tmp_path: Path) -> None:
    tokenizer = make(tmp_path, ["a"])
    assert tokenizer.convert_tokens_to_ids(["[CLS]", "a"]) == [2, 5]
    assert tokenizer.convert_ids_to_tokens([2, 5]) == ["[CLS]", "a"]
    with pytest.raises(UserError, match="'zebra' is not among the 6 tokens"):
        tokenizer.convert_tokens_to_ids(["zebra"])
    with pytest.raises(UserError, match="id 6 is outside"):
        tokenizer.convert_ids_to_tokens([6])


def test_a_file_that_is_no_vocabulary_is_refused(tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text("hello\nworld\n")
    with pytest.raises(
        UserError, match=r"no \[PAD\], \[UNK\], \[CLS\], \[SEP\], \[MASK\] among its 2 lines"
    ):
        FullTokenizer(tmp_path / "v.txt")
    (tmp_path / "v.txt").write_bytes(b"[PAD]\n\xff\xfe\n")
    with pytest.raises(UserError, match="line 2: not UTF-8"):
        FullTokenizer(tmp_path / "v.txt")
    with pytest.raises(UserError, match="does not exist"):
        FullTokenizer(tmp_path / "none.txt")


@pytest.mark.parametrize(
    ("folder", "tokens", "settings", "expected"),
    [
        ("uncased_L-2", ["a"], None, True),
        ("bert-base-cased", ["a", "Ada"], None, False),
        ("multi_cased_L-12", ["a", "Ada"], None, False),
        # Within another word it says nothing, and the tokens decide.
        ("bert-lowercased", ["ada", "lives"], None, True),
        ("showcased", ["ada", "lives"], None, True),
        ("Uncasedness", ["Ada", "Oslo"], None, False),
        ("encased-bert", ["ada"], None, True),
        ("model", ["a", "b"], None, True),
        ("model", ["a", "B"], None, False),
        ("bert-x", ["a"], '{"do_lower_case": false}', False),
    ],
)
def test_casing_follows_from_the_checkpoint(
    tmp_path: Path, folder: str, tokens: list[str], settings: str | None, expected: bool
) -> None:
    (tmp_path / folder).mkdir()
    make(tmp_path / folder, tokens, expected)
    vocab = tmp_path / folder / "vocab.txt"
    if settings:
        (tmp_path / folder / "tokenizer_config.json").write_text(settings)
    assert Vocabulary.read(vocab).rules.do_lower_case is expected
    # Told by a name or setting, not guessed from the tokens.
    if folder in ("uncased_L-2", "bert-base-cased", "multi_cased_L-12", "bert-x"):
        with pytest.raises(
            UserError, match=f"do_lower_case={not expected} contradicts the vocabulary"
        ):
            FullTokenizer(vocab, not expected)


@pytest.mark.parametrize(
    ("folder", "tokens", "message"),
    [
        ("bert-cased", ["ada"], "the name bert-cased says cased, and none of its tokens have"),
        ("bert_UNCASED", ["Ada", "b"], "the name bert_UNCASED says uncased, and 1 of its tokens"),
    ],
)
def test_a_name_that_contradicts_its_vocabulary_is_asked_about(
    tmp_path: Path, folder: str, tokens: list[str], message: str
) -> None:
    (tmp_path / folder).mkdir()
    for lower_case in (True, False):
        with pytest.raises(UserError, match=message):
            make(tmp_path / folder, tokens, lower_case)
    vocab = tmp_path / folder / "vocab.txt"
    with pytest.raises(UserError, match=message):
        Vocabulary.read(vocab)
    # The file that the message names decides.
    vocab.with_name("tokenizer_config.json").write_text('{"do_lower_case": true}')
    assert Vocabulary.read(vocab).rules.do_lower_case is True


@pytest.mark.real
def test_equal_to_tokenizers_on_wikipedia_and_the_released_vocabularies_load(real: Path) -> None:
    from tokenizers import BertWordPieceTokenizer

    for name, size, lower_case in (
        ("uncased", 30522, True),
        ("cased", 28996, False),
        ("chinese", 21128, True),
        ("multilingual-cased", 119547, False),
    ):
        vocab = real / f"vocab/bert-base-{name}/vocab.txt"
        ours = FullTokenizer(
            vocab, Vocabulary.read(vocab).rules.do_lower_case if name != "chinese" else True
        )
        assert len(ours.vocab) == size
        assert ours.do_lower_case is lower_case
        theirs = BertWordPieceTokenizer(str(vocab), lowercase=lower_case, strip_accents=lower_case)
        lines = (
            (real / "corpus/wikipedia.txt")
            .read_text(encoding="utf-8")
            .split("\n")[:: 1 if name == "uncased" else 10]
        )
        for line in lines:
            assert ours.encode(line) == theirs.encode(line, add_special_tokens=False).ids


def test_called_it_gives_the_batch_that_a_model_takes(sample: Path) -> None:
    from transformers import BertTokenizer

    texts = ["anna sold it .", ("boris", "bought the red lamp from anna ."), ""]
    ours = FullTokenizer(sample / "vocab.txt")(texts, max_len=9)
    theirs = BertTokenizer(str(sample / "vocab.txt"))
    pairs = [(t, None) if isinstance(t, str) else t for t in texts]
    for i, (a, b) in enumerate(pairs):
        expected = theirs(a, b, truncation="longest_first", max_length=9)
        n = len(expected["input_ids"])
        for name, name_there in (
            ("input_ids", "input_ids"),
            ("segment_ids", "token_type_ids"),
            ("input_mask", "attention_mask"),
        ):
            row = ours[name][i].tolist()
            assert row == expected[name_there] + [0] * (len(row) - n)
    with pytest.raises(UserError, match="expected a text or a pair of texts"):
        FullTokenizer(sample / "vocab.txt")([("a", "b", "c")])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("line", "texts"),
    [
        ("a ||| b", ("a", "b")),
        ("a ||| b ||| c", ("a ||| b", "c")),
        ("a|||b ||| c", ("a|||b", "c")),
        ("  a  |||  b  ", ("a ", " b")),
        (" ||| b", ("||| b", None)),
        ("a ||| ", ("a |||", None)),
        ("a|||b", ("a|||b", None)),
        ("a\t|||\tb", ("a\t|||\tb", None)),
        ("a ||||| b", ("a ||||| b", None)),
        ("a ||| ||| b", ("a |||", "b")),
        ("", ("", None)),
    ],
)
def test_a_line_is_a_pair_where_google_s_extract_features_sees_one(
    line: str, texts: tuple[str, str | None]
) -> None:
    # Its regular expression, on the stripped line.
    match = re.match(r"^(.*) \|\|\| (.*)$", line.strip())
    assert texts == (match.groups() if match else (line.strip(), None))
    assert split_line(line) == texts

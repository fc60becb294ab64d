"""Files of words and tags as they are found: strays, notations, headers, comments, layouts."""

import collections
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tag
from tasks import TagTask
from tasks.notations import are_entities, notation_of
from tasks.words import read_texts, split_words, with_column
from tokenization import FullTokenizer
from utils import UserError

# Forty words in ten sentences, each with a name of two words.
NAMES = "Ada B-PER\nStone I-PER\nleft O\n. O\n\n" * 10


def written(folder: Path, text: str) -> Path:
    (folder / "x.txt").write_text(text, encoding="utf-8")
    return folder / "x.txt"


def rows_of(file: Path, column: str | None = None) -> list[list[tuple[str, str]]]:
    """The words and tags of each sentence."""
    return [list(zip(t.words, t.tags, strict=True)) for t in read_texts(file, column)]


# -------------------------------------------------------------------------------------- stray tags


@pytest.mark.parametrize("stray", ["0", "PER", "o", "B_PER"])
def test_a_stray_tag_is_asked_about_before_it_is_learnt(
    sample: Path, tmp_path: Path, run: Callable, stray: str
) -> None:
    file = written(tmp_path, NAMES.replace("left O", f"left {stray}", 1))
    line = f"--train_file {file} --model_cfg {sample}/config.json --vocab {sample}/vocab.txt "
    status, _, err = run(f"{line} --save_dir {tmp_path}/run", tag.Tag)
    assert status == 2
    assert err.strip().endswith(
        f"x.txt: 1 of 40 tags mark no entity: '{stray}' in line 3; expected O or B-PER as the "
        "others; mend these lines"
    )
    assert not (tmp_path / "run").exists()


def test_a_stray_tag_counts_as_outside_where_tags_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    task = TagTask(labels=("B-PER", "I-PER", "O"))
    (text, *_) = task.read(written(tmp_path, NAMES.replace("left O", "left 0", 1)))
    assert text.tags == ["B-PER", "I-PER", "O", "O"]
    assert "1 of 40 tags mark no entity: '0' in line 3" in capsys.readouterr().err
    # What a model was trained with stays, whatever it is.
    task = TagTask(labels=("0", "B-PER", "I-PER", "O"))
    (text, *_) = task.read(tmp_path / "x.txt")
    assert text.tags == ["B-PER", "I-PER", "0", "O"]
    assert not capsys.readouterr().err


def test_twenty_stray_tags_are_listed_and_the_others_counted(tmp_path: Path) -> None:
    file = written(tmp_path, "Ada B-PER\nleft 0\n\n" * 22 + "a O\n" * 1000)
    with pytest.raises(UserError, match=r"'0' in line 59 and 2 more; expected O or B-PER"):
        TagTask().read(file, training=True)


def test_tags_are_of_entities_from_95_percent_on() -> None:
    assert notation_of(collections.Counter({"O": 30, "B-PER": 8, "NN": 1, "0": 1})) == "B-PER"
    assert notation_of(collections.Counter({"O": 29, "B-PER": 8, "NN": 1, "0": 2})) == ""


# --------------------------------------------------------------------------------------- notations


@pytest.mark.parametrize(
    ("notation", "name", "other", "outside"),
    [
        ("B_PER", "B_PER", "E_PER", "O"),
        ("PER-B", "PER-B", "PER-I", "O"),
        ("PER_B", "PER_B", "PER_L", "O"),
        ("b-per", "b-PER", "i-PER", "o"),
        ("b-per", "b-PER", "i-PER", "O"),
        ("B-PER", "B-PER", "M-PER", "O"),
    ],
)
def test_tags_of_other_notations_are_read_as_bio(
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    notation: str,
    name: str,
    other: str,
    outside: str,
) -> None:
    text = NAMES.replace("B-PER", name).replace("I-PER", other).replace(" O", f" {outside}")
    texts = TagTask().read(written(tmp_path, text), training=True)
    assert [t.tags for t in texts] == [["B-PER", "I-PER", "O", "O"]] * 10
    said = f"its tags are written as {notation}; they are read as B-PER"
    assert (said in capsys.readouterr().err) == (notation != "B-PER")


def test_a_model_that_has_learnt_another_notation_keeps_it(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = written(tmp_path, NAMES.replace("-PER", "_PER"))
    (text, *_) = TagTask(labels=("B_PER", "I_PER", "O")).read(file)
    assert text.tags == ["B_PER", "I_PER", "O", "O"]
    assert not capsys.readouterr().err


def test_what_marks_no_entities_is_left_as_it_is() -> None:
    # Prefixes alone mark chunks where there is an O; without one they are letters.
    assert are_entities(["B", "I", "O"])
    for tags in (["B", "M", "E", "S"], ["O"], ["NN", "VB-S", "O"], ["B-PER", "PER"], ["B_PER"]):
        assert not are_entities(tags), tags


# ----------------------------------------------------------------------------- what is in the lines


@pytest.mark.parametrize(
    ("header", "row", "column", "expected"),
    [
        ("WORD\tTAG", "{}\t{}", None, "tags: 'TAG'"),
        ("Token POS Tag", "{} NN {}", None, "tags: 'Tag'"),
        ("Token POS Tag", "{} NN {}", "tag", "tags: 'Tag'"),
        ("tag word", "{1} {0}", None, "tags: 'tag'"),
        ("id\tform\tner", "1\t{}\t{}", "ner", "tags: 'ner'"),
    ],
)
def test_a_header_names_the_columns_and_is_no_word(
    tmp_path: Path, header: str, row: str, column: str | None, expected: str
) -> None:
    lines = [header, row.format("Ada", "B-PER"), "", row.format("left", "O")]
    file = written(tmp_path, "\n".join(lines) + "\n")
    assert rows_of(file, column) == [[("Ada", "B-PER")], [("left", "O")]]
    (first, _) = read_texts(file, column)
    assert first.layout
    assert expected in first.layout.describe("")
    # Where a file is tagged, its header gets a name for the new column.
    separator = "\t" if "\t" in row else " "
    assert next(iter(with_column(first, ["X"]))) == f"{header}{separator}predicted"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # A word alone in the first sentence, and in the middle.
        ("# O\n\na X\n# O\n", "#:O|a:X #:O"),
        ("#\tO\n", "#:O"),
        # Comments have another number of columns than the file, or say what they are.
        ("# sent_id = 1\na\tX\n#\tY\n\n# text = a\n# words\nb\tY\n", "a:X #:Y|b:Y"),
        ("# sent_id = 1\n# NN B-NP O\na NN B-NP X\n\n# text = a\nb NN O Y\n", "#:O a:X|b:Y"),
        ("# newdoc\n# Y\na X\n", "#:Y a:X"),
    ],
)
def test_a_number_sign_is_a_word_or_begins_a_comment(
    tmp_path: Path, text: str, expected: str
) -> None:
    found = rows_of(written(tmp_path, text))
    assert "|".join(" ".join(f"{w}:{t}" for w, t in rows) for rows in found) == expected
    # A word of it gets its tag, a comment none.
    texts = list(read_texts(tmp_path / "x.txt"))
    lines = [line for t in texts for line in with_column(t, ["NEW"] * len(t.words))]
    assert sum("NEW" in line for line in lines) == expected.count(":")
    assert not any("NEW" in line for line in lines if " = " in line)


def test_a_comment_stands_before_the_words(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="line 2: 1 columns; expected 2"):
        list(read_texts(written(tmp_path, "a\tX\n# sent_id = 1\nb\tY\n")))


@pytest.mark.parametrize("blank", ["\u00a0", "\u3000", " \t", "\ufeff"])
def test_white_space_of_any_kind_is_a_blank_line(tmp_path: Path, blank: str) -> None:
    file = written(tmp_path, f"a X\n{blank}\nb Y\n{blank}\n")
    assert rows_of(file) == [[("a", "X")], [("b", "Y")]]
    lines = [line for t in read_texts(file) for line in with_column(t, ["N"])]
    assert lines == ["a X N", blank, "b Y N", blank]


def test_lines_of_medline_begin_documents(tmp_path: Path) -> None:
    text = "###MEDLINE:1\n\nIL-2\tB-DNA\n\ngene\tO\n\n###MEDLINE:2\n\nCD28\tB-protein\n"
    texts = list(read_texts(written(tmp_path, text), by_document=True))
    assert [t.words for t in texts] == [["IL-2", "gene"], ["CD28"]]
    lines = [line for t in texts for line in with_column(t, ["X"] * len(t.words))]
    assert "###MEDLINE:2" in lines


CONLL_U_PLUS = """# global.columns = ID FORM UPOS NER MISC
# text = Ada left
1\tAda\tPROPN\tB-PER\t_
2\tleft\tVERB\tO\t_
"""


def test_conll_u_plus_names_its_columns(tmp_path: Path) -> None:
    file = written(tmp_path, CONLL_U_PLUS)
    assert rows_of(file, "ner") == [[("Ada", "B-PER"), ("left", "O")]]
    assert rows_of(file) == [[("Ada", "PROPN"), ("left", "VERB")]]
    with pytest.raises(UserError, match="2 to 4 or upos, ner, misc"):
        rows_of(file, "lemma")


# ------------------------------------------------------------------------------- other layouts


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "B-PER\tAda\nO\tleft\n\nO\there\n",
            r"column 0 has tags, such as B-PER; expected words; .*awk -F'\\t' '{print \$2 FS \$1}'",
        ),
        ("O Ada\nO left\n\nB_X VB here\n".replace("O ", "O NN "), "column 0 has tags, such as B_X"),
        ("Ada|NNP|B-PER left|VBD|O\nBob|NNP|B-PER\n", r"a sentence a line, .*tr ' \|'"),
        ("Ada/NNP left/VBD\n", "has a sentence a line, 'Ada/NNP left/VBD'"),
        ("Ada left\tB-PER O\nBob\tB-PER\n", "a sentence a line, .*write each word and its tag"),
        ('Sentence #,Word,Tag\nSentence: 1,Ada,B-PER\n,",",O\n', "is a csv, with ','"),
        ("Word;Tag\nAda;B-PER\nleft;O\n", "is a csv, with ';'"),
        ('{"tokens": ["Ada"], "tags": ["O"]}\n' * 2, "is JSON lines; expected a word and its tag"),
        ('["Ada", "B-PER"]\n["left", "O"]\n', "is JSON lines; expected a word and its tag"),
        ('[\n {"tokens": ["Ada"],\n "tags": ["O"]}\n]\n', "is a JSON array; expected a word"),
        ('{\n "tokens": [["Ada"]]\n}\n', "is a JSON object; expected a word and its tag"),
    ],
)
def test_a_file_of_another_layout_is_named(
    tmp_path: Path, text: str, message: str, labelled: bool
) -> None:
    with pytest.raises(UserError, match=message) as error:
        list(read_texts(written(tmp_path, text), labelled=labelled))
    assert "\n" not in str(error.value)


def test_brackets_commas_and_slashes_are_words(tmp_path: Path) -> None:
    text = '[ O\n{ O\n, O\n\n" O\n/ O\nand/or X-/Y\n\na|b O\n'
    assert [len(rows) for rows in rows_of(written(tmp_path, text))] == [3, 3, 1]
    assert rows_of(written(tmp_path, ", O\n1,000 O\n")) == [[(",", "O"), ("1,000", "O")]]


# ----------------------------------------------------------------------------------- summary, words


def test_the_summary_says_what_the_file_is(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    file = written(tmp_path, "Ada NN O B-PER\nleft VB O O\nOslo NN O B-LOC\n\nBob NN O B-PER\n")
    tokenizer = FullTokenizer(tmp_path / "vocab.txt", False)
    _, data = TagTask().load_training(file, tokenizer)
    assert data.summary == (
        f"{file}: 2 sentences, 4 words, 3 tags, 3 entities; words: column 0, word; tags: column 3, "
        "ner (B-PER 2, O 1, B-LOC 1); 4 columns between spaces; entities: PER 2, LOC 1"
    )
    _, data = TagTask(column="1").load_training(file, tokenizer)
    assert data.summary == (
        f"{file}: 2 sentences, 4 words, 2 tags; words: column 0, word; tags: column 1, pos (NN 3, "
        "VB 1); 4 columns between spaces"
    )


FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        # A family, a skin tone, a heart in a colour, flags, keys, a region's flag: one word each.
        (f"a {FAMILY} b", f"a|{FAMILY}|b"),
        ("\U0001f44d\U0001f3fd\u2764\ufe0f!", "\U0001f44d\U0001f3fd|\u2764\ufe0f|!"),
        ("\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7", "\U0001f1e9\U0001f1ea|\U0001f1eb\U0001f1f7"),
        ("1\ufe0f\u20e32\ufe0f\u20e3 #\ufe0f\u20e3", "1\ufe0f\u20e3|2\ufe0f\u20e3|#\ufe0f\u20e3"),
        ("\U0001f3f4\U000e0067\U000e0062\U000e007f.", "\U0001f3f4\U000e0067\U000e0062\U000e007f|."),
        # What is invisible is no word, and divides none.
        ("a \u200d \u200f b\u200f \ufeffc \x96", "a|b|c"),
        ("co\u00adop \u200fx", "co\u00adop|x"),
        ("\u0645\u06cc\u200c\u062e", "\u0645\u06cc\u200c\u062e"),
    ],
)  # fmt: skip
def test_emoji_are_words_and_invisible_characters_are_not(text: str, words: str) -> None:
    assert split_words(text) == words.split("|")


class Table:
    def __repr__(self) -> str:
        return "a  b\n0  1"


@pytest.mark.parametrize(
    "given", [None, float("nan"), 3, {}, [1], ("a", None), b"a", np.array(["a"]), Table()]
)
def test_an_input_that_is_no_text_is_named_by_its_number(given: object) -> None:
    with pytest.raises(UserError, match=r"^input 2 is .*; expected a text or its words$"):
        list(TagTask().examples_of(["a", given]))


def test_the_strings_of_numpy_are_texts() -> None:
    given = [np.str_("a b"), [np.str_("a"), "b"], ("a", "b")]
    assert [text.words for text in TagTask().examples_of(given)] == [["a", "b"]] * 3


# ------------------------------------------------------------------------------- numbers and types


@pytest.mark.parametrize("separator", [" ", "\t"])
@pytest.mark.parametrize("first", [0, 1])
def test_the_number_of_a_word_is_no_word(tmp_path: Path, separator: str, first: int) -> None:
    words = [("Ada", "B-PER"), ("Stone", "I-PER"), ("left", "O")]
    lines = [separator.join((str(i), *pair)) for i, pair in enumerate(words, start=first)]
    file = written(tmp_path, "\n".join([*lines, "", ""]) * 2)
    assert rows_of(file) == [words, words]


@pytest.mark.parametrize(
    "text",
    ["0\tAda\tB-PER\n0\tleft\tO\n\n1\tBo\tB-PER\n1\tleft\tO\n", "7 B-A\n9 O\n3 O\n"],
)
def test_a_column_of_numbers_is_not_learnt_as_words(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"column 0 has numbers, such as .; expected words"):
        rows_of(written(tmp_path, text))


def test_types_that_differ_in_capitals_alone_are_asked_about(sample: Path, tmp_path: Path) -> None:
    file = written(tmp_path, NAMES + "Ada B-Per\nleft O\n")
    tokenizer = FullTokenizer(sample / "vocab.txt")
    with pytest.raises(UserError, match="the types 'PER' and 'Per' are alike but for how they are"):
        TagTask().load_training(file, tokenizer)


@pytest.mark.parametrize("outside", ["o", "0", "OTHER"])
def test_another_word_for_outside_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture, outside: str
) -> None:
    task = TagTask()
    task.read(written(tmp_path, NAMES.replace(" O\n", f" {outside}\n")))
    told = capsys.readouterr().err
    assert (
        f"20 of 40 tags mark entities, such as 'B-PER', others do not, such as '{outside}'" in told
    )
    task.read(written(tmp_path, "Ada NNP\nleft VBD\n\n" * 9))
    assert not capsys.readouterr().err


def test_marks_of_ontonotes_are_no_words(tmp_path: Path) -> None:
    file = written(tmp_path, "#begin document (x);\nAda B-PER\nleft O\n#end document\n")
    assert rows_of(file) == [[("Ada", "B-PER"), ("left", "O")]]

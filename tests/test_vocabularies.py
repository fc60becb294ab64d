"""The files of a tokenizer against transformers: vocab.txt, tokenizer.json,
tokenizer_config.json.
"""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import plain_tokenizer as plain
import pytest
import torch

import checkpoint
import pretrained
import tokenization
from formats.rules import tokenizer_json
from formats.vocab import (
    Vocabulary,
    find_vocab_file,
    load_vocab,
)
from formats.weights import write_pt
from models import Config, PretrainModel
from system.files import read_json, write_json
from tokenization import FullTokenizer
from utils import UserError

TEXT = "Ünter Bäumen, THE cat 中国 naïve"
PIECES = (
    "unter bau ##men under ##ter ba the cat nai ##ve naive , 中国 中 国 ##国 Ü ü ünter bäumen "
    "##nter the cats naïve"
).split()


@pytest.fixture
def vocab(tmp_path: Path) -> Path:
    """A vocabulary in a folder of its own."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(PIECES)]
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain/vocab.txt").write_text("\n".join(tokens) + "\n")
    return tmp_path / "plain/vocab.txt"


def by_transformers(folder: Path) -> list[str]:
    """The tokens that transformers makes of TEXT with a folder's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder).tokenize(TEXT)


def saved_by_transformers(vocab: Path, folder: Path, **settings: object) -> Path:
    """What transformers writes of a tokenizer: tokenizer.json and tokenizer_config.json, no
    vocab.txt.
    """
    from transformers import BertTokenizer

    settings = {"do_lower_case": True, "tokenizer_class": "BertTokenizer", **settings}
    write_json(vocab.parent / "tokenizer_config.json", settings)
    BertTokenizer.from_pretrained(vocab.parent).save_pretrained(folder)
    (vocab.parent / "tokenizer_config.json").unlink()
    assert not (folder / "vocab.txt").exists()
    return folder


SETTINGS = [
    {},
    {"do_lower_case": False},
    {"strip_accents": False},
    {"do_lower_case": False, "strip_accents": True},
    {"tokenize_chinese_chars": False},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_tokenizer_of_transformers_is_read_as_it_is_and_survives_being_saved(
    vocab: Path, tmp_path: Path, settings: dict
) -> None:
    folder = saved_by_transformers(vocab, tmp_path / "hf", **settings)
    file = find_vocab_file(folder)
    assert file == folder / "tokenizer.json"
    assert load_vocab(file) == load_vocab(vocab)
    lower = Vocabulary.read(file).rules.do_lower_case
    assert lower == settings.get("do_lower_case", True)
    expected = by_transformers(folder)
    tokenizer = FullTokenizer(file, lower)
    assert tokenizer.tokenize(TEXT) == expected
    ids, spans = tokenizer.encode_with_offsets(TEXT)
    assert tokenizer.convert_ids_to_tokens(ids) == expected
    assert spans == sorted(spans)
    Vocabulary.read(file).with_rules(None, lower).save(tmp_path / "again")
    assert FullTokenizer(tmp_path / "again/vocab.txt", lower).tokenize(TEXT) == expected
    write_json(
        tmp_path / "again/tokenizer_config.json",
        read_json(tmp_path / "again/tokenizer_config.json") | {"tokenizer_class": "BertTokenizer"},
    )
    assert by_transformers(tmp_path / "again") == expected


def test_the_settings_matter(vocab: Path, tmp_path: Path) -> None:
    found = [
        by_transformers(saved_by_transformers(vocab, tmp_path / str(i), **settings))
        for i, settings in enumerate(SETTINGS)
    ]
    assert len({tuple(tokens) for tokens in found}) == len(SETTINGS)


def test_two_files_that_disagree_are_refused(vocab: Path, tmp_path: Path) -> None:
    folder = saved_by_transformers(vocab, tmp_path / "hf", strip_accents=False)
    shutil.copy(vocab, folder)
    assert find_vocab_file(folder) == folder / "vocab.txt"
    settings = read_json(folder / "tokenizer_config.json")
    write_json(folder / "tokenizer_config.json", settings | {"strip_accents": True})
    with pytest.raises(
        UserError, match=r"has strip_accents=False, and tokenizer_config\.json beside it True"
    ):
        FullTokenizer(folder / "vocab.txt")
    write_json(folder / "tokenizer_config.json", settings)
    lines = (folder / "vocab.txt").read_text().splitlines()
    lines[6], lines[7] = lines[7], lines[6]
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n")
    with pytest.raises(
        UserError, match=r"vocab\.txt and tokenizer\.json beside it have different tokens"
    ):
        find_vocab_file(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"type": "BPE"}}, "type of its model is 'BPE'; only 'WordPiece' is BERT's"),
        (
            {"model": {"continuing_subword_prefix": "@@"}},
            "prefix of its model is '@@'; only '##' is",
        ),
        ({"normalizer": {"type": "NFC"}}, "type of its normalizer is 'NFC'"),
        ({"normalizer": {"clean_text": False}}, "clean_text of its normalizer is False"),
        ({"normalizer": {"strip_accents": "no"}}, "strip_accents is 'no'; expected bool"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "type of its pre_tokenizer is 'Whitespace'"),
        ({"model": {"vocab": {"[PAD]": 0, "a": 2}}}, "the ids of its 2 tokens are not 0 to 1"),
        ({"model": None}, "model is None; expected a JSON object"),
    ],
)
def test_a_tokenizer_that_works_otherwise_is_refused(
    vocab: Path, tmp_path: Path, changes: dict, message: str
) -> None:
    folder = saved_by_transformers(vocab, tmp_path / "hf")
    values = read_json(folder / "tokenizer.json")
    for part, change in changes.items():
        values[part] = values[part] | change if isinstance(change, dict) else change
    write_json(folder / "tokenizer.json", values)
    with pytest.raises(UserError, match=message):
        load_vocab(folder / "tokenizer.json")


# Names of the files that say which tokens are added, and what is in them; ids 28 and 29 are free.
PLAIN = {"lstrip": False, "rstrip": False, "single_word": False}
ADDED: dict[str, dict[str, Any]] = {
    "nothing": {
        "tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    },
    "named": {
        "tokenizer_config.json": {
            "tokenizer_class": "BertTokenizerFast",
            "do_lower_case": True,
            "additional_special_tokens": ["[CAT]", "the", "<e 1>"],
        }
    },
    "today": {
        "tokenizer_config.json": {
            "tokenizer_class": "BertTokenizer",
            "extra_special_tokens": ["[CAT]", "<e 1>"],
            "do_lower_case": False,
        }
    },
    "with flags": {
        "tokenizer_config.json": {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": True,
            "added_tokens_decoder": {
                "4": {"content": "[MASK]", **PLAIN, "lstrip": True, "special": True},
                "8": {"content": "under", **PLAIN, "normalized": False, "special": False},
                "28": {"content": "Ünter", **PLAIN, "rstrip": True, "normalized": True},
                "29": {"content": "中a", **PLAIN, "lstrip": True, "special": False},
            },
        }
    },
    "split": {
        "tokenizer_config.json": {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": True,
            "split_special_tokens": True,
            "added_tokens_decoder": {
                "28": {"content": "<s>", **PLAIN, "normalized": False, "special": True},
                "12": {"content": "cat", **PLAIN, "normalized": True, "special": False},
            },
        }
    },
    "before": {
        "tokenizer_config.json": {"do_lower_case": True},
        "config.json": {"model_type": "bert", "tokenizer_class": "BertTokenizer"},
        "model.safetensors": {},
        "special_tokens_map.json": {
            "mask_token": {"content": "[MASK]", **PLAIN, "lstrip": True, "normalized": False},
            "additional_special_tokens": ["the"],
        },
        "added_tokens.json": {"Covid": 29, "<e 1>": 28},
    },
}


def random_texts(n: int) -> list[str]:
    """Texts in which tokens stand beside letters, white space and each other."""
    parts = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", "[mask]", "[CAT]", "[cat]", "[", "THE"]
    parts += ["<e 1>", "<e  1>", "<s>", "the", "under", "Under", "ünter", "Ünter", "中a", "中", "a"]
    parts += ["Covid", "covid", "cat", "É", "ba", "men", ".", "x" * 100, "x" * 101]
    parts += [" ", " ", "  ", "\t", "\u2028", "\u0301"]
    rng = random.Random(3)
    return ["".join(rng.choices(parts, k=rng.randint(0, 8))) for _ in range(n)]


def check_equal(theirs: Any, ours: FullTokenizer, texts: list[str]) -> None:
    """That a tokenizer of transformers gives the same ids and offsets."""
    for text in texts:
        expected = theirs(text, add_special_tokens=False, return_offsets_mapping=True)
        found = ours.encode_with_offsets(text)
        assert found == (expected["input_ids"], expected["offset_mapping"]), repr(text)
        assert ours.encode(text) == expected["input_ids"], repr(text)


def for_transformers(file: Path, folder: Path, lower: bool, masks: bool = False) -> Any:
    """What AutoTokenizer makes of a vocabulary and its rules, written for it."""
    from transformers import AutoTokenizer

    Vocabulary.read(file).save_for_transformers(folder, max_len=40, masks=masks)
    write_json(folder / "config.json", {"model_type": "bert"})
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("form", ADDED)
def test_tokens_that_a_folder_adds_are_kept_whole_as_transformers_keeps_them(
    vocab: Path, tmp_path: Path, form: str
) -> None:
    from transformers import AutoTokenizer

    write_json(vocab.parent / "config.json", {"model_type": "bert"})
    for name, values in ADDED[form].items():
        write_json(vocab.parent / name, values)
    theirs = AutoTokenizer.from_pretrained(vocab.parent)
    theirs.save_pretrained(tmp_path / "saved")
    texts, lower = random_texts(400), Vocabulary.read(vocab).rules.do_lower_case
    check_equal(theirs, FullTokenizer(vocab, lower), texts)
    # What transformers writes of it has a tokenizer.json; a run, its copies and a folder for
    # transformers have what save_vocab and save_for_transformers write.
    check_equal(theirs, FullTokenizer(tmp_path / "saved/tokenizer.json", lower), texts)
    Vocabulary.read(vocab).with_rules(None, lower).save(tmp_path / "run")
    again = FullTokenizer(tmp_path / "run/vocab.txt", lower)
    assert again.rules == FullTokenizer(vocab, lower).rules
    check_equal(theirs, again, texts)
    folder = tmp_path / "folder"
    assert for_transformers(tmp_path / "run/vocab.txt", folder, lower)(texts) == theirs(texts)
    check_equal(theirs, FullTokenizer(folder / "vocab.txt", lower), texts)


def test_added_tokens_count_as_tokens_of_the_model(vocab: Path) -> None:
    for name, values in ADDED["before"].items():
        write_json(vocab.parent / name, values)
    Vocabulary.read(vocab).check_size(30)
    with pytest.raises(UserError, match=r"has 30 tokens, the model 28; set its vocab_size"):
        Vocabulary.read(vocab).check_size(28)
    # A copy of the vocabulary elsewhere is used by the rules of the weights.
    (vocab.parent.parent / "copy").mkdir()
    copy = Path(shutil.copy(vocab, vocab.parent.parent / "copy"))
    weights = vocab.with_name("model.safetensors")
    Vocabulary.read(copy, weights).check_size(30, weights)
    rules = Vocabulary.read(copy, weights).rules
    assert FullTokenizer(copy, True, rules).tokenize("Covid") == ["Covid"]
    tokenizer = FullTokenizer(vocab)
    assert tokenizer.convert_tokens_to_ids(["<e 1>", "Covid"]) == [28, 29]
    assert tokenizer.tokenize("COVID <e 1>cats") == ["Covid", "<e 1>", "cats"]


def test_googles_rule_stays_where_nothing_is_transformers(vocab: Path, tmp_path: Path) -> None:
    texts = random_texts(200)
    for settings in (None, {"do_lower_case": True}):  # as in Google's folders; a run's
        if settings:
            write_json(vocab.parent / "tokenizer_config.json", settings)
        tokenizer = FullTokenizer(vocab)
        for text in texts:
            assert tokenizer.tokenize(text) == plain.tokenize(text, tokenizer.vocab, True)
    Vocabulary.read(vocab).with_rules(None, True).save(tmp_path / "run")
    assert read_json(tmp_path / "run/tokenizer_config.json") == {"do_lower_case": True}
    # transformers then splits [SEP] too, and takes words of up to 200 characters.
    check_equal(for_transformers(vocab, tmp_path / "folder", True), tokenizer, texts)
    check_equal(
        for_transformers(vocab, tmp_path / "folder", True),
        FullTokenizer(tmp_path / "folder/vocab.txt"),
        texts,
    )
    # A model that fills [MASK] is asked with it in the text.
    theirs = for_transformers(vocab, tmp_path / "masks", True, masks=True)
    assert theirs.tokenize("the [MASK]") == ["the", "[MASK]"]
    check_equal(theirs, FullTokenizer(tmp_path / "masks/vocab.txt"), texts)


@pytest.mark.parametrize("longest", [3, 100, 150])
def test_the_longest_word_is_what_tokenizer_json_says(
    vocab: Path, tmp_path: Path, longest: int
) -> None:
    folder = saved_by_transformers(vocab, tmp_path / "hf")
    values = read_json(folder / "tokenizer.json")
    values["model"]["max_input_chars_per_word"] = longest
    vocabulary = values["model"]["vocab"]
    vocabulary |= {"x": len(vocabulary), "##x": len(vocabulary) + 1}
    write_json(folder / "tokenizer.json", values)
    Vocabulary.read(folder / "tokenizer.json").with_rules(None, True).save(tmp_path / "run")
    theirs = for_transformers(tmp_path / "run/vocab.txt", tmp_path / "folder", True)
    for file in ("hf/tokenizer.json", "run/vocab.txt", "folder/vocab.txt"):
        tokenizer = FullTokenizer(tmp_path / file)
        assert tokenizer.tokenize("x" * longest) == ["x"] + ["##x"] * (longest - 1)
        assert tokenizer.tokenize("x" * (longest + 1)) == ["[UNK]"]
        check_equal(theirs, tokenizer, random_texts(50))


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("tokenizer_config.json", {"unk_token": "<unk>"}, r"unk_token is '<unk>'; only \[UNK\] is"),
        (
            "special_tokens_map.json",
            {"mask_token": {"content": "<m>"}},
            r"mask_token is '<m>'; only \[MASK\] is",
        ),
        (
            "tokenizer_config.json",
            {"tokenizer_class": "BertJapaneseTokenizer"},
            "tokenizer_class is 'BertJapaneseTokenizer', which does not split text as BERT does",
        ),
        (
            "tokenizer_config.json",
            {"tokenizer_class": "PreTrainedTokenizerFast"},
            "expected BertTokenizer, or a tokenizer.json beside it",
        ),
        (
            "config.json",
            {"tokenizer_class": "BertJapaneseTokenizer"},
            r"config\.json: tokenizer_class is 'BertJapaneseTokenizer'",
        ),
        (
            "tokenizer_config.json",
            {"word_tokenizer_type": "mecab"},
            "word_tokenizer_type is 'mecab', which is not supported; only 'basic' is",
        ),
        (
            "tokenizer_config.json",
            {"do_basic_tokenize": False},
            "do_basic_tokenize is False, which is not supported; only True is",
        ),
        (
            "added_tokens.json",
            {"covid": 31},
            "the token 'covid' has the id 31, and its place among the tokens is 28",
        ),
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": {"7": {"content": "the", "special": True}}},
            "the token 'the' has the id 7, and its place among the tokens is 11",
        ),
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": {"28": {"content": "x", "single_word": True}}},
            "single_word of the token 'x' is true, which is not supported; only false is",
        ),
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": {"28": {"content": "x", "lstrip": "no"}}},
            "lstrip of 'x' is 'no'; expected bool",
        ),
        ("added_tokens.json", {"covid": "x"}, "covid is 'x'; expected int"),
        (
            "tokenizer_config.json",
            {"additional_special_tokens": [7]},
            "a token is 7; expected a text",
        ),
    ],
)
def test_what_changes_tokens_and_is_not_computed_is_refused(
    vocab: Path, file: str, values: dict, message: str
) -> None:
    write_json(vocab.parent / "model.safetensors", {})
    write_json(vocab.parent / file, values)
    with pytest.raises(UserError, match=message):
        FullTokenizer(vocab)


def test_files_that_disagree_about_a_token_are_refused(vocab: Path, tmp_path: Path) -> None:
    write_json(
        vocab.parent / "tokenizer_config.json",
        {"tokenizer_class": "BertTokenizer", "additional_special_tokens": ["the"]},
    )
    folder = saved_by_transformers(vocab, tmp_path / "hf", additional_special_tokens=["the"])
    assert FullTokenizer(folder / "tokenizer.json").tokenize("Xthe") == ["[UNK]", "the"]
    settings = read_json(folder / "tokenizer_config.json")
    decoder = {"11": {"content": "the", **PLAIN, "rstrip": True, "special": True}}
    write_json(folder / "tokenizer_config.json", settings | {"added_tokens_decoder": decoder})
    with pytest.raises(UserError, match=r"tokenizer\.json: 'the' has other settings in another"):
        FullTokenizer(folder / "tokenizer.json")


@pytest.mark.real
def test_a_line_separator_is_a_token_of_chinese(real: Path, tmp_path: Path) -> None:
    source = real / "vocab/bert-base-chinese/vocab.txt"
    tokens = source.read_bytes().decode().removesuffix("\n").split("\n")
    shutil.copy(source, tmp_path)
    assert list(load_vocab(tmp_path / "vocab.txt")) == tokens
    rules = Vocabulary.read(source).rules
    values = tokenizer_json({token: i for i, token in enumerate(tokens)}, rules)
    write_json(tmp_path / "tokenizer.json", values)
    assert find_vocab_file(tmp_path) == tmp_path / "vocab.txt"
    assert Vocabulary.read(tmp_path / "tokenizer.json").digest == Vocabulary.read(source).digest


def test_white_space_that_is_a_token_is_kept(vocab: Path, tmp_path: Path) -> None:
    lines = [*vocab.read_text().splitlines(), "\u2028", "##\u2028", "last"]
    file = tmp_path / "vocab.txt"
    file.write_bytes("\r\n".join([*lines, ""]).encode())
    assert list(load_vocab(file)) == lines
    values = tokenizer_json(
        {token: i for i, token in enumerate(lines)}, Vocabulary.read(file).rules
    )
    write_json(tmp_path / "tokenizer.json", values)
    assert find_vocab_file(tmp_path) == file


def test_tokens_that_are_never_split_are_refused(vocab: Path) -> None:
    write_json(
        vocab.parent / "tokenizer_config.json", {"do_lower_case": True, "never_split": ["<e1>"]}
    )
    with pytest.raises(
        UserError, match=r"never_split is \['<e1>'\], which is not supported; only None is"
    ):
        FullTokenizer(vocab)


def test_a_token_on_two_lines_is_named(vocab: Path) -> None:
    vocab.write_text(vocab.read_text() + "naive\n")
    with pytest.raises(
        UserError, match=r"the token 'naive' stands on line 16 and on line 29; expected each once"
    ):
        load_vocab(vocab)


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_converted_folder_tokenises_in_transformers_as_here(
    vocab: Path, tmp_path: Path, settings: dict, run: Callable
) -> None:
    source = saved_by_transformers(vocab, tmp_path / "hf", **settings)
    cfg = Config(
        vocab_size=len(load_vocab(vocab)), dim=32, n_layers=1, n_heads=2, dim_ff=64, max_len=40
    )
    torch.manual_seed(0)
    model = PretrainModel(cfg)
    write_pt(source / "model.pt", {"config": vars(cfg), "model": model.state_dict()})
    begin = pretrained.find(source)
    for target in ("there", "back.pt"):
        assert (
            run(
                f"convert {source} {tmp_path / target / target}",
                checkpoint.Convert,
                checkpoint.Inspect,
            )[0]
            == 0
        )
    assert by_transformers(tmp_path / "there/there") == begin.tokenizer.tokenize(TEXT)
    again = pretrained.find(tmp_path / "back.pt/back.pt")
    assert again.tokenizer.tokenize(TEXT) == begin.tokenizer.tokenize(TEXT)


def test_no_folder_is_written_without_a_tokenizer(
    tiny: Config, tmp_path: Path, run: Callable
) -> None:
    write_pt(
        tmp_path / "a/model.pt", {"config": vars(tiny), "model": PretrainModel(tiny).state_dict()}
    )
    for target in ("hf", "ours.pt"):
        status, _, err = run(
            f"convert {tmp_path}/a {tmp_path}/{target}", checkpoint.Convert, checkpoint.Inspect
        )
        assert (status, "no vocab.txt or tokenizer.json beside" in err) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    lines = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *(f"w{i}" for i in range(tiny.vocab_size - 5)),
    ]
    (tmp_path / "vocab.txt").write_text("\n".join(lines) + "\n")
    line = f"convert {tmp_path}/a {tmp_path}/hf --vocab {tmp_path}/vocab.txt"
    assert run(line, checkpoint.Convert, checkpoint.Inspect)[0] == 0
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(tmp_path / "hf").tokenize("w7 w8") == ["w7", "w8"]


def test_the_same_text_gives_the_same_vocabulary(tmp_path: Path) -> None:
    # Many ties: every pair of letters occurs as often as every other.
    letters = "abcdefghijklmnopqrst"
    text = "\n".join(" ".join(a + b + a for b in letters) for a in letters)
    (tmp_path / "text.txt").write_text(text)
    found = set()
    for i in range(6):
        out = tmp_path / str(i) / "vocab.txt"
        tokenization.Learn([str(tmp_path / "text.txt")], out=str(out), vocab_size=120).run()
        found.add(out.read_text())
    assert len(found) == 1
    tokens = found.pop().splitlines()
    assert tokens[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert tokens[5:25] == list(letters)
    assert tokens[25:45] == [f"##{letter}" for letter in letters]
    assert len(tokens) == 120


def test_a_vocabulary_other_than_the_models_is_refused(tmp_path: Path, sample: Path) -> None:
    words = (sample / "vocab.txt").read_text().splitlines()
    cfg = Config(vocab_size=len(words), dim=32, n_layers=1, n_heads=2, dim_ff=64, max_len=40)
    write_pt(
        tmp_path / "run/model.pt", {"config": vars(cfg), "model": PretrainModel(cfg).state_dict()}
    )
    Vocabulary.read(sample / "vocab.txt").with_rules(None, True).save(tmp_path / "run")
    words[20], words[21] = words[21], words[20]
    (tmp_path / "swapped.txt").write_text("\n".join(words) + "\n")
    with pytest.raises(
        UserError, match=rf"has '{words[20]}' as token 20, and .+ beside the weights '{words[21]}'"
    ):
        pretrained.find(tmp_path / "run", vocab=str(tmp_path / "swapped.txt"))
    # A run's own vocabulary has a digest in run.json.
    digest = Vocabulary.read(tmp_path / "run/vocab.txt").digest[:16]
    (tmp_path / "run/run.json").write_text(json.dumps({"sha256 of vocab": digest}))
    pretrained.find(tmp_path / "run")
    shutil.copy(tmp_path / "swapped.txt", tmp_path / "run/vocab.txt")
    with pytest.raises(
        UserError, match="is not the vocabulary that the model was trained with, whose digest"
    ):
        pretrained.find(tmp_path / "run")
    (tmp_path / "run/vocab.txt").unlink()
    with pytest.raises(
        UserError, match=r"swapped\.txt is not the vocabulary that the model was trained with"
    ):
        pretrained.find(tmp_path / "run", vocab=str(tmp_path / "swapped.txt"))
    pretrained.find(tmp_path / "run", vocab=str(sample / "vocab.txt"))

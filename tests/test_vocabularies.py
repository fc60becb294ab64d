"""The files of a tokenizer against transformers: vocab.txt, tokenizer.json,
tokenizer_config.json.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import checkpoint
import pretrained
import tokenization
from formats.vocab import casing, find_vocab_file, load_vocab, save_vocab, vocab_digest
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
    lower = casing(file)
    assert lower == settings.get("do_lower_case", True)
    expected = by_transformers(folder)
    tokenizer = FullTokenizer(file, lower)
    assert tokenizer.tokenize(TEXT) == expected
    ids, spans = tokenizer.encode_with_offsets(TEXT)
    assert tokenizer.convert_ids_to_tokens(ids) == expected
    assert spans == sorted(spans)
    save_vocab(file, tmp_path / "again", lower)
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
        ({"added_tokens": [{"content": "<e1>"}]}, "adds the token '<e1>', which is never split"),
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


def test_tokens_that_are_never_split_are_refused(vocab: Path) -> None:
    write_json(
        vocab.parent / "tokenizer_config.json", {"do_lower_case": True, "never_split": ["<e1>"]}
    )
    with pytest.raises(
        UserError, match=r"never_split is \['<e1>'\]; such tokens are not supported"
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
                checkpoint.convert,
                checkpoint.inspect,
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
            f"convert {tmp_path}/a {tmp_path}/{target}", checkpoint.convert, checkpoint.inspect
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
    assert run(line, checkpoint.convert, checkpoint.inspect)[0] == 0
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
        tokenization.learn([str(tmp_path / "text.txt")], out=str(out), vocab_size=120)
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
    save_vocab(sample / "vocab.txt", tmp_path / "run", True)
    words[20], words[21] = words[21], words[20]
    (tmp_path / "swapped.txt").write_text("\n".join(words) + "\n")
    with pytest.raises(
        UserError, match=rf"has '{words[20]}' as token 20, and .+ beside the weights '{words[21]}'"
    ):
        pretrained.find(tmp_path / "run", vocab=str(tmp_path / "swapped.txt"))
    # A run's own vocabulary has a digest in run.json.
    digest = vocab_digest(tmp_path / "run/vocab.txt")[:16]
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

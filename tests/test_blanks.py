"""Blanks filled and texts scored: against transformers' BertForMaskedLM and a plain loop."""

import io
import itertools
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import encoder
import features
import models
from formats.weights import write_pt
from utils import UserError

COMMANDS = (features.Extract, features.Similar, features.Fewshot, features.Fill, features.Score)
WORDS = "the a film book was is and very it good fine great bad poor awful mask".split()
TEXTS = [
    "the [MASK] was good",
    "[MASK]",
    "a film[MASK] [mask] is [MASK] and [MASK] good",
    "the [MASK] ||| it was [MASK]",
    "a ||| very [MASK] book",
]
WHOLE = ["the film was very good", "book", "", "it is the film ||| a good film", "Xyz [mask] films"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that transformers writes of a small BertForMaskedLM, with its vocabulary."""
    from transformers import BertConfig, BertForMaskedLM

    folder = tmp_path_factory.mktemp("weights")
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "##s", "[", "]"]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokens),
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=32,
        initializer_range=0.3,
    )
    theirs = BertForMaskedLM(config)
    torch.nn.init.normal_(theirs.cls.predictions.bias)
    theirs.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def theirs(weights: Path) -> Any:
    """The model and the tokenizer of transformers, in float64."""
    from transformers import BertForMaskedLM, BertTokenizer

    model = BertForMaskedLM.from_pretrained(weights).double().eval()
    return model, BertTokenizer.from_pretrained(weights)


def logs(theirs: Any, ids: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
    """(S, V) ln P by transformers."""
    model, _ = theirs
    with torch.no_grad():
        return model(ids[None], token_type_ids=segments[None]).logits[0].log_softmax(-1)


def read(theirs: Any, text: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The ids and segments of a line by transformers."""
    pair = [part.strip() for part in text.split("|||")]
    found = theirs[1](*pair, return_tensors="pt")
    return found["input_ids"][0], found["token_type_ids"][0]


def doubled(weights: Path, batch_size: int = 32) -> encoder.Encoder:
    """The model in float64."""
    found = encoder.load(weights, batch_size=batch_size, head="masked_lm")
    found.model.double()
    return found


def test_words_and_probabilities_are_those_of_transformers(weights: Path, theirs: Any) -> None:
    for text, masks in zip(TEXTS, doubled(weights).fill(TEXTS, top=7), strict=True):
        ids, segments = read(theirs, text)
        expected = logs(theirs, ids, segments)[ids == theirs[1].mask_token_id].exp()
        assert len(masks) == len(expected) == text.count("[MASK]")
        for found, probabilities in zip(masks, expected, strict=True):
            best = probabilities.topk(7)
            assert [word for word, _ in found] == theirs[1].convert_ids_to_tokens(best.indices)
            assert [p for _, p in found] == pytest.approx(best.values.tolist(), abs=1e-12)


def test_all_words_add_up_to_one(weights: Path) -> None:
    for (found,) in doubled(weights).fill(["a [MASK]", "[MASK] film"], top=100):
        assert len(found) == len({word for word, _ in found}) == len(WORDS) + 8
        assert sum(p for _, p in found) == pytest.approx(1, abs=1e-12)


def test_candidates_are_those_of_the_fill_mask_pipeline(weights: Path, theirs: Any) -> None:
    from transformers import FillMaskPipeline

    pipeline = FillMaskPipeline(*theirs)
    words = ["film", "book", "s", "very", "Film", "awful"]
    known = [word for word in words if word != "s"]
    for top in (2, 5):
        (found,) = next(doubled(weights).fill(["the [MASK] was good"], top, known))
        expected = pipeline("the [MASK] was good", targets=["film", "book", "very", "awful"])
        assert len(expected) == 4
        expected = [(row["token_str"], row["score"]) for row in expected][:top]
        assert [word for word, _ in found] == [word for word, _ in expected]
        assert [p for _, p in found] == pytest.approx([p for _, p in expected], abs=1e-10)


def test_a_score_is_the_sum_over_tokens_masked_in_turn(weights: Path, theirs: Any) -> None:
    scores = list(doubled(weights).score(WHOLE))
    assert [found.text for found in scores] == WHOLE
    assert [found.n_tokens for found in scores] == [5, 1, 0, 7, 6]
    for text, found in zip(WHOLE, scores, strict=True):
        ids, segments = read(theirs, text)
        total = 0.0
        for i, token in enumerate(ids.tolist()):
            if token not in (theirs[1].cls_token_id, theirs[1].sep_token_id):
                masked = ids.clone()
                masked[i] = theirs[1].mask_token_id
                total += float(logs(theirs, masked, segments)[i, token])
        assert found.score == pytest.approx(total, abs=1e-10)


@pytest.mark.parametrize("ask", ["fill", "score"])
def test_texts_stream_and_keep_their_order(
    weights: Path, monkeypatch: pytest.MonkeyPatch, ask: str
) -> None:
    # Fewer than the [MASK]s of a batch.
    monkeypatch.setattr(encoder, "SLICE", 3)
    rng = random.Random(1)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(0, 12))) for _ in range(150)]
    if ask == "fill":
        texts = [text + " [MASK]" * rng.randint(1, 4) for text in texts]
    taken = []

    def watched() -> Iterator[str]:
        for text in texts:
            taken.append(text)
            yield text

    alone = doubled(weights, batch_size=1)
    most = 0
    for i, found in enumerate(getattr(doubled(weights, batch_size=2), ask)(watched())):
        most = max(most, len(taken) - i)
        expected = next(getattr(alone, ask)([texts[i]]))
        if ask == "score":
            assert found == (texts[i], pytest.approx(expected.score, abs=1e-10), expected.n_tokens)
            continue
        assert [[word for word, _ in best] for best in found] == [
            [word for word, _ in best] for best in expected
        ]
        probabilities = [p for best in found for _, p in best]
        assert probabilities == pytest.approx([p for best in expected for _, p in best], abs=1e-10)
    assert i == 149
    # No more than a chunk is ahead: 64 inputs, which are some ten texts where each has copies.
    assert most == 64 if ask == "fill" else 10 < most < 40


def test_empty_texts_fill_no_memory(weights: Path) -> None:
    left = iter([""] * 3000)
    found = encoder.load(weights, head="masked_lm").score(left)
    assert next(found) == ("", 0.0, 0)
    assert len(list(left)) == 3000 - 1024  # a chunk is taken at a time
    assert list(found) == [("", 0.0, 0)] * 1023


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_other_dtypes_are_near(weights: Path, dtype: str) -> None:
    texts = [text for text in WHOLE if text]
    exact = [found.score for found in encoder.load(weights, head="masked_lm").score(texts)]
    near = [
        found.score for found in encoder.load(weights, dtype=dtype, head="masked_lm").score(texts)
    ]
    assert near == pytest.approx(exact, rel=0.1)


def test_a_mask_whose_id_is_that_of_padding_is_told_from_it(tmp_path: Path) -> None:
    tokens = ["[MASK]", "[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens) + "\n")
    torch.manual_seed(0)
    config = models.Config(len(tokens), dim=8, n_layers=1, n_heads=1, dim_ff=8, max_len=16)
    model = models.PretrainModel(config)
    write_pt(tmp_path / "m.pt", {"config": vars(config), "model": model.state_dict()})
    found = list(
        encoder.load(tmp_path / "m.pt", head="masked_lm").fill(
            ["[MASK]", "the [MASK] film was good"]
        )
    )
    assert [len(masks) for masks in found] == [1, 1]


# ------------------------------------------------------------------------------------ the commands


def test_the_tables_have_what_a_notebook_gets(weights: Path, run: Callable) -> None:
    filler = encoder.load(weights, head="masked_lm")
    texts = ["the[MASK]was[MASK]", "[MASK]"]
    status, out, err = run(f"fill {weights} {' '.join(texts)} --top 2", *COMMANDS)
    assert (status, err) == (0, "")
    rows = ["index\tmask\tword\tprobability"]
    for index, masks in enumerate(filler.fill(texts, top=2)):
        for mask, best in enumerate(masks):
            rows += [f"{index}\t{mask}\t{word}\t{p:.6f}" for word, p in best]
    assert len(rows) == 7
    assert out.splitlines() == rows
    _, out, _ = run(f"fill --pretrain_file {weights} [MASK] --words bad,Film", *COMMANDS)
    assert sorted(row.split("\t")[2] for row in out.splitlines()[1:]) == ["bad", "film"]


def test_lines_of_a_pipe_are_texts(
    weights: Path, monkeypatch: pytest.MonkeyPatch, run: Callable
) -> None:
    def pipe(text: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

    pipe("a good\tfilm\r\n\nthe book ||| it is bad\n")
    status, out, err = run(f"score {weights}", *COMMANDS)
    assert (status, err) == (0, "")
    lines = ["a good\tfilm", "", "the book ||| it is bad"]
    rows = ["index\tscore\ttokens\ttext"]
    for index, found in enumerate(encoder.load(weights, head="masked_lm").score(lines)):
        text = found.text.replace("\t", " ")
        rows.append(f"{index}\t{found.score:.6f}\t{found.n_tokens}\t{text}")
    assert out.splitlines() == rows
    assert [row.split("\t")[2] for row in rows[1:]] == ["3", "0", "5"]
    pipe("a [MASK]\nthe [MASK] ||| [MASK]\n")
    status, out, _ = run(f"fill {weights} --top 1", *COMMANDS)
    assert [row.split("\t")[:2] for row in out.splitlines()[1:]] == [
        ["0", "0"],
        ["1", "0"],
        ["1", "1"],
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "fill {w} [MASK] film",
            "text 1, 'film', has no [MASK]; write it where a word is wanted, or use score",
        ),
        ("score {w} a[MASK]", "text 0, 'a[MASK]', has a [MASK]; write a word in its place, or"),
        ("score {w} {long}", "has 33 tokens with [CLS] and [SEP]; expected at most max_len=32;"),
        ("fill {w} {long}[MASK]", "has 34 tokens with [CLS] and [SEP]; expected at most"),
        ("score {w} a.a.a --max_len 6", "max_len=6; shorten it, or raise max_len (the model takes"),
        ("fill {w} [MASK] --top 0", "top=0; expected at least 1"),
        (
            "fill {w} [MASK] --words good,Films",
            "words: 'Films' becomes film ##s; expected words that are one token of",
        ),
        ("fill {w} [MASK] --words good,xyz", "words: 'xyz' becomes [UNK]; expected"),
        ("fill {w} [MASK] --words good,", "words: '' becomes no token; expected"),
        ("fill {w} [MASK] --max_len 40", "max_len=40 is more than the 32 positions"),
        ("fill {w} [MASK] --batch_size 0", "batch_size=0; expected at least 1"),
        (
            "score {t}/headless.pt a",
            "headless.pt has no masked_lm; name weights that pretrain.py or Google made, which "
            "have one",
        ),
    ],
)
def test_a_mistake_ends_in_one_line(
    weights: Path, tmp_path: Path, run: Callable, line: str, message: str
) -> None:
    config = models.Config(len(WORDS) + 8, dim=8, n_layers=1, n_heads=1, dim_ff=8, max_len=32)
    model = models.Classifier(config)
    write_pt(tmp_path / "headless.pt", {"config": vars(config), "model": model.state_dict()})
    (tmp_path / "vocab.txt").write_bytes((weights / "vocab.txt").read_bytes())
    long = ".".join(["a"] * 16)  # 16 words, 15 points
    status, out, err = run(line.format(w=weights, t=tmp_path, long=long), *COMMANDS)
    assert message in err
    assert (status, "Traceback" in out + err, len(err.splitlines())) == (2, False, 1)


def test_what_is_wrong_in_a_later_chunk_comes_after_what_was_right(weights: Path) -> None:
    found = encoder.load(weights, batch_size=1, head="masked_lm").score(["a"] * 40 + ["[MASK]"])
    assert len(list(itertools.islice(found, 32))) == 32
    with pytest.raises(UserError, match=r"text 40, '\[MASK\]', has a"):
        next(found)

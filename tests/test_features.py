"""Texts to vectors, ranking, few shots: against transformers, a formula and scikit-learn."""

import io
import json
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from sklearn.linear_model import Ridge

import checkpoint
import features
import models
from encoder import load as load_encoder
from formats import names
from formats.weights import write_pt
from system.files import write_json
from tasks import fewshot
from tokenization import FullTokenizer

COMMANDS = (features.Extract, features.Similar, features.Fewshot)
WORDS = "the a film book was is and very it good fine great bad poor awful".split()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small encoder, its vocabulary, and lines of text."""
    folder = tmp_path_factory.mktemp("weights")
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "##s"]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    torch.manual_seed(0)
    config = models.Config(
        vocab_size=len(tokens), dim=24, n_layers=3, n_heads=2, dim_ff=48, max_len=128, init_std=0.3
    )
    model = models.Classifier(config)
    write_pt(folder / "model.pt", {"config": vars(config), "model": model.state_dict()})
    rng = random.Random(1)
    lines = [" ".join(rng.choices(WORDS, k=rng.randint(1, 12))) for _ in range(70)]
    lines[3] = "good films ||| a bad book"
    lines[5] = ""
    (folder / "lines.txt").write_text("\n".join(lines) + "\n")
    return folder


def expected(weights: Path, line: str, layers: list[int]) -> tuple[list[str], np.ndarray]:
    """Tokens, and the outputs of transformers' encoder: (tokens, layers, D)."""
    from transformers import BertConfig, BertModel

    found = checkpoint.read(weights / "model.pt")
    theirs = BertModel(BertConfig(**found.config.to_released())).eval()
    state = theirs.state_dict()
    for row in names.table_rows(found.config.n_layers):
        theirs_of = [name.removeprefix("bert.") for name in row.hugging_face]
        if row.ours in found.tensors and theirs_of[0] in state:
            parts = found.tensors[row.ours].chunk(len(theirs_of))
            for name, part in zip(theirs_of, parts, strict=True):
                state[name].copy_(part)
    tokenizer = FullTokenizer(weights / "vocab.txt")
    a, _, b = line.partition("|||")
    tokens = ["[CLS]", *tokenizer.tokenize(a), "[SEP]"]
    segments = [0] * len(tokens)
    if b:
        tokens += [*tokenizer.tokenize(b), "[SEP]"]
        segments += [1] * (len(tokens) - len(segments))
    ids = torch.tensor([tokenizer.convert_tokens_to_ids(tokens)])
    with torch.no_grad():
        hidden = theirs(
            ids, token_type_ids=torch.tensor([segments]), output_hidden_states=True
        ).hidden_states
    return tokens, torch.stack([hidden[1:][layer][0] for layer in layers], 1).numpy()


def test_the_json_is_google_s_and_its_numbers_those_of_transformers(
    weights: Path, tmp_path: Path, run: Callable
) -> None:
    line = f"extract --pretrain_file {weights} --input_file {weights}/lines.txt "
    line += f"--output_file {tmp_path}/out.jsonl --layers=-1,-3"
    status, _, err = run(line, *COMMANDS)
    assert status == 0, err
    rows = [json.loads(text) for text in (tmp_path / "out.jsonl").read_text().splitlines()]
    lines = (weights / "lines.txt").read_text().splitlines()
    assert [row["linex_index"] for row in rows] == list(range(70))
    for i in (0, 3, 5, 69):
        tokens, values = expected(weights, lines[i], [-1, -3])
        assert [f["token"] for f in rows[i]["features"]] == tokens
        assert [[layer["index"] for layer in f["layers"]] for f in rows[i]["features"]] == [
            [-1, -3]
        ] * len(tokens)
        got = np.array([[layer["values"] for layer in f["layers"]] for f in rows[i]["features"]])
        assert np.abs(got - values).max() < 5e-6
        assert (np.round(got, 6) == got).all()


@pytest.mark.parametrize("pooling", ["none", "cls", "mean", "max"])
def test_arrays_have_the_same_numbers_in_every_form(
    weights: Path, tmp_path: Path, run: Callable, pooling: str
) -> None:
    found = {}
    for form in features.FORMATS:
        line = f"extract {weights} {weights}/lines.txt {tmp_path}/{form} --pooling {pooling} "
        line += f"--format {form} --layers 0,-1"
        status, _, err = run(line, *COMMANDS)
        assert status == 0, err
    found = {
        "npz": dict(np.load(tmp_path / "npz")),
        "safetensors": load_file(tmp_path / "safetensors"),
    }
    rows = [json.loads(text) for text in (tmp_path / "jsonl").read_text().splitlines()]
    lines = (weights / "lines.txt").read_text().splitlines()
    for arrays in found.values():
        assert arrays["starts"].tolist() == found["npz"]["starts"].tolist()
        assert np.array_equal(arrays["values"], found["npz"]["values"])
        assert len(arrays["starts"]) == 71
    for i in (0, 3, 5, 69):
        part = found["npz"]["values"][found["npz"]["starts"][i] : found["npz"]["starts"][i + 1]]
        _, values = expected(weights, lines[i], [0, -1])
        wanted = {
            "none": values,
            "cls": values[:1],
            "mean": values.mean(0, keepdims=True),
            "max": values.max(0, keepdims=True),
        }[pooling]
        assert part.shape == wanted.shape
        assert np.abs(part - wanted).max() < 5e-6
        if pooling != "none":
            got = np.array([layer["values"] for layer in rows[i]["layers"]])
            assert np.abs(got - wanted[0]).max() < 5e-6


def sentence_encoder(weights: Path, folder: Path, pooling: dict, *more: str) -> Path:
    """The weights in a folder of sentence-transformers, cut at 6 tokens."""
    shutil.copytree(weights, folder)
    names = ["Transformer", "Pooling", *more]
    modules = [
        {
            "idx": i,
            "path": f"{i}_{name}" if i else "",
            "type": f"sentence_transformers.models.{name}",
        }
        for i, name in enumerate(names)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    write_json(folder / "1_Pooling/config.json", pooling)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 6, "do_lower_case": False})
    return folder


@pytest.mark.parametrize(
    ("settings", "pooling"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_mean_tokens": True, "include_prompt": True}, "mean"),
        ({"word_embedding_dimension": 24, "pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode": "cls"}, "cls"),
    ],
)
def test_a_sentence_encoder_s_own_pooling_and_length_are_the_defaults(
    weights: Path, tmp_path: Path, run: Callable, settings: dict, pooling: str
) -> None:
    folder = sentence_encoder(weights, tmp_path / "st", settings, "Normalize")
    lines = (weights / "lines.txt").read_text().splitlines()
    query = "good"

    def vector(line: str, length: int) -> np.ndarray:
        # A single text loses its end before [SEP].
        tokens = line.split()[: length - 2]
        _, values = expected(weights, " ".join(tokens), [-1])
        pooled = {"cls": values[0], "mean": values.mean(0), "max": values.max(0)}[pooling][0]
        return pooled / np.linalg.norm(pooled)

    texts = [line for line in lines if len(line.split()) > 5 and "|||" not in line][:5]
    (tmp_path / "lines.txt").write_text("\n".join(texts) + "\n")
    line = (
        f"similar --pretrain_file {folder} --input_file {tmp_path}/lines.txt --query {query} --n 0"
    )
    for flags, length in (("", 6), (" --max_len 9", 9)):
        status, out, err = run(line + flags, *COMMANDS)
        assert status == 0, err
        found = dict(row.split("\t")[::-1] for row in out.splitlines())
        for text in texts:
            wanted = vector(text, length) @ vector(query, length)
            assert float(found[text]) == pytest.approx(wanted, abs=1.1e-4)
    # Token vectors are the encoder's, at the folder's length.
    line = f"extract {folder} {tmp_path}/lines.txt {tmp_path}/out.jsonl --layers=-1"
    assert run(line, *COMMANDS)[0] == 0
    rows = [json.loads(row) for row in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert max(len(row["features"]) for row in rows) == 6


@pytest.mark.parametrize(
    ("settings", "more", "files", "message"),
    [
        (
            {"pooling_mode_cls_token": True},
            ("LSTM",),
            {},
            "'LSTM' changes the vectors in a way that is not computed here; --pooling cls",
        ),
        (
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
            (),
            {},
            "pools by 'cls and mean', which is not computed here",
        ),
        ({"pooling_mode_weightedmean_tokens": True}, (), {}, "pools by 'weightedmean_tokens'"),
        ({"pooling_mode": "lasttoken"}, (), {}, "pools by 'lasttoken'"),
        (
            {"pooling_mode": "cls"},
            (),
            {
                "config_sentence_transformers.json": {
                    "default_prompt_name": "query",
                    "prompts": {"query": "find: "},
                }
            },
            "makes its vectors by more than pooling; --pooling cls",
        ),
    ],
)
def test_pooling_that_is_not_computed_is_refused_unless_a_flag_names_another(
    weights: Path,
    tmp_path: Path,
    run: Callable,
    settings: dict,
    more: tuple[str, ...],
    files: dict,
    message: str,
) -> None:
    folder = sentence_encoder(weights, tmp_path / "st", settings, *more)
    for name, values in files.items():
        write_json(folder / name, values)
    line = f"similar --pretrain_file {folder} --input_file {weights}/lines.txt --query good"
    status, out, err = run(line, *COMMANDS)
    assert (status, out, message in err) == (2, "", True)
    assert run(f"{line} --pooling mean", *COMMANDS)[0] == 0


def test_a_length_that_is_none_and_texts_lower_cased_elsewhere_are_refused(
    weights: Path, tmp_path: Path, run: Callable
) -> None:
    folder = sentence_encoder(weights, tmp_path / "st", {"pooling_mode": "cls"})
    write_json(folder / "tokenizer_config.json", {"do_lower_case": False})
    line = f"similar --pretrain_file {folder} --input_file {weights}/lines.txt --query good"
    for values, message in (
        ({"max_seq_length": "long"}, "max_seq_length is 'long'; expected int"),
        ({"do_lower_case": True}, "do_lower_case is true, and the vocabulary is cased"),
    ):
        write_json(folder / "sentence_bert_config.json", values)
        status, _, err = run(line, *COMMANDS)
        assert (status, message in err) == (2, True)


def test_lines_stream_and_keep_their_order(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load_encoder(weights / "model.pt", batch_size=2)
    lines = (weights / "lines.txt").read_text().splitlines() * 3
    taken = []

    def watched():
        for i, line in enumerate(lines):
            taken.append(i)
            yield line

    most = 0
    for i, text in enumerate(encoder.extract(watched(), [-1], "mean")):
        most = max(most, len(taken) - i)
        single = next(encoder.extract([lines[i]], [-1], "mean"))
        assert np.abs(text.values - single.values).max() < 1e-5
    assert (i, most) == (209, 64)  # no more than a chunk is ahead


def test_the_most_similar_line_is_the_query_itself(weights: Path, run: Callable) -> None:
    lines = (weights / "lines.txt").read_text().splitlines()
    monkey = " ".join(reversed(lines[7].split()))
    line = [
        "similar",
        "--pretrain_file",
        str(weights),
        "--input_file",
        str(weights / "lines.txt"),
        "--n",
        "3",
    ]
    status, out, err = run(" ".join(line) + f" --query={lines[7].replace(' ', '_')}", *COMMANDS)
    assert status == 0, err
    encoder = load_encoder(weights / "model.pt")
    found = np.stack([t.values[0] for t in encoder.extract([monkey, *lines], [-1], "mean")]).astype(
        np.float64
    )
    norms = found / np.linalg.norm(found, axis=1, keepdims=True)
    assert features.cosine(found[1:], found[:1]) == pytest.approx(norms[1:] @ norms[0], abs=1e-12)
    assert len(out.splitlines()) == 3
    scores = [float(row.split("\t")[0]) for row in out.splitlines()]
    assert scores == sorted(scores, reverse=True)


# ---------------------------------------------------------------------------------------- few shots


def test_ridge_equals_scikit_learn_for_every_strength() -> None:
    rng = np.random.default_rng(0)
    for n, dim in ((2, 30), (10, 30), (200, 30)):
        x, y = rng.normal(size=(n, dim)), rng.normal(size=(n, 3))
        x = np.hstack([x, np.full((n, 1), fewshot.CONSTANT)])
        found = fewshot.ridge(x, y, fewshot.STRENGTHS)
        for weights, strength in zip(found, fewshot.STRENGTHS, strict=True):
            theirs = Ridge(alpha=strength, fit_intercept=False, solver="svd").fit(x, y).coef_.T
            assert np.abs(weights - theirs).max() < 1e-8
            # Zero at the solution.
            gradient = x.T @ y - x.T @ x @ weights - strength * weights
            assert np.abs(gradient).max() < 1e-6 * max(1, np.abs(x.T @ y).max())


def test_a_sweep_is_the_protocol_written_out() -> None:
    rng = np.random.default_rng(3)
    labels = np.repeat([0, 1, 2], 40)
    x = rng.normal(size=(120, 8)) + labels[:, None] * 0.7
    held, dev = (x[::3] + 0.1, labels[::3]), (x[1::3] - 0.1, labels[1::3])
    draws = [fewshot.draw(labels, 10, seed) for seed in (0, 1)]
    assert all((labels[d] == np.arange(3)[:, None]).all() for d in draws)
    assert not np.array_equal(*draws)
    assert np.array_equal(fewshot.draw(labels, 4, 0), draws[0][:, :4])
    for select in ("train", "dev"):
        for shot in fewshot.sweep(x, labels, draws, held, dev, (1, 5, 10), select):
            for drawn, accuracy, strength in zip(
                draws, shot.accuracies, shot.strengths, strict=True
            ):
                rows = drawn[:, : shot.k].ravel()
                mean, deviation = x[rows].mean(0), x[rows].std(0) + 1e-5
                scores = {}
                for name, (v, y) in (("train", held), ("dev", dev)):
                    for value in 2.0 ** np.arange(-10, 20):
                        a = np.hstack(
                            [(x[rows] - mean) / deviation, np.full((len(rows), 1), 100.0)]
                        )
                        target = np.where(labels[rows][:, None] == np.arange(3), 1.0, -1.0)
                        w = np.linalg.solve(a.T @ a + value * np.eye(9), a.T @ target)
                        b = np.hstack([(v - mean) / deviation, np.full((len(v), 1), 100.0)])
                        scores[name, value] = ((b @ w).argmax(1) == y).mean()
                best = max(2.0 ** np.arange(-10, 20), key=lambda value: scores[select, value])
                assert (strength, accuracy) == (best, scores["dev", best])


def test_few_shots_of_a_task_and_too_few_examples(
    weights: Path, tmp_path: Path, run: Callable
) -> None:
    rng = random.Random(2)
    for name, n in (("train", 120), ("dev", 40)):
        rows = []
        for _ in range(n):
            label = rng.choice("01")
            words = [
                *rng.choices(WORDS[:9], k=3),
                rng.choice(WORDS[9:12] if label == "1" else WORDS[12:]),
            ]
            rows.append(f"{' '.join(words)}\t{label}")
        (tmp_path / f"{name}.tsv").write_text("sentence\tlabel\n" + "\n".join(rows) + "\n")
    line = f"fewshot --pretrain_file {weights} --task sst2 --data_dir {tmp_path} "
    line += f"--out {tmp_path}/out.json"
    status, out, err = run(line, *COMMANDS)
    assert status == 0, err
    assert [row.split()[0] for row in out.splitlines()] == ["1", "5", "10", "25"]
    assert "examples to draw from; skipped: 100, 500, 1000 of each class" in err
    results = json.loads((tmp_path / "out.json").read_text())["shots"]
    for row, (k, shot) in zip(out.splitlines(), results.items(), strict=True):
        mean, spread = np.mean(shot["accuracies"]), np.std(shot["accuracies"], ddof=1)
        assert row == f"{k:>5} of each class: {mean:.4f} +- {spread:.4f}"
    assert run(line, *COMMANDS)[1] == out  # the draws are fixed
    on_dev = run(line + " --select dev", *COMMANDS)[1]
    means = [[float(row.split()[4]) for row in text.splitlines()] for text in (out, on_dev)]
    assert all(b >= a for a, b in zip(*means, strict=True))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "extract {w} {w}/lines.txt {t}/o --layers=-4",
            "layers=-4: the model has 3 layers; expected -3",
        ),
        ("extract {w} {w}/lines.txt {t}/o --layers one", "--layers one: expected numbers"),
        (
            "extract {w} {w}/lines.txt {t}/o --format csv",
            "--format csv: expected one of jsonl, npz, safetensors",
        ),
        (
            "extract {w} {w}/lines.txt {t}/o --pooling sum",
            "--pooling sum: expected one of none, cls, mean, max",
        ),
        ("extract {w} {w}/lines.txt - --format npz", "--format npz needs an --output_file"),
        ("extract {w} {w}/no.txt {t}/o --layers=-1", "no.txt does not exist"),
        ("extract {w} {t}/latin.txt {t}/o --layers=-1", "latin.txt, line 2: not UTF-8"),
        (
            "extract {w} {w}/lines.txt {t}/o --max_len 140",
            "max_len=140 is more than the 128 positions",
        ),
        ("similar {w} {t}/empty.txt --query good", "has no lines; expected a text a line"),
        ("similar {w} {w}/lines.txt --query good --layer 7", "layers=7: the model has 3 layers"),
        ("fewshot {w} --task sst2", "fewshot needs --data_dir, or --data_file and --eval_file"),
        (
            "fewshot {w} --task stsb --data_file {t}/s.tsv --eval_file {t}/s.tsv",
            "stsb has no classes",
        ),
        (
            "fewshot {w} --task sst2 --data_file {t}/few.tsv --eval_file {t}/few.tsv --shots 5",
            "expected 5 or more",
        ),
        ("fewshot {w} --task sst2 --data_dir x --shots few", "--shots few: expected numbers"),
    ],
)
def test_a_mistake_ends_in_one_line(
    weights: Path, tmp_path: Path, run: Callable, line: str, message: str
) -> None:
    (tmp_path / "latin.txt").write_bytes(b"good\n\xff\n")
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "s.tsv").write_text("sentence1\tsentence2\tscore\na\tb\t1.0\n")
    (tmp_path / "few.tsv").write_text("sentence\tlabel\na\t1\nb\t0\na film\t1\nb\t0\n")
    before = sorted(tmp_path.iterdir())
    status, out, err = run(
        line.format(w=weights, t=tmp_path), features.Extract, features.Similar, features.Fewshot
    )
    assert message in err
    assert (status, "Traceback" in out + err) == (2, False)
    assert sorted(tmp_path.iterdir()) == before


def test_vectors_stream_to_a_pipe(
    weights: Path, monkeypatch: pytest.MonkeyPatch, run: Callable
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"good\na bad film\n")))
    status, out, _ = run(f"extract {weights} - - --pooling cls --layers=-1", *COMMANDS)
    assert (status, [json.loads(row)["linex_index"] for row in out.splitlines()]) == (0, [0, 1])


def test_what_is_cut_off_is_told_once_for_a_command(
    weights: Path, tmp_path: Path, run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    # More than one chunk, so that the counts of all of them are added.
    monkeypatch.setattr("encoder.CHUNK", 1)
    lines = ["the film was good", "the film " * 50, "good", "bad book ||| " + "fine " * 30]
    file = tmp_path / "lines.txt"
    file.write_text("\n".join(lines) + "\n")
    usual = f"--pretrain_file {weights} --input_file {file} --max_len 20"
    extract = f"extract {usual} --batch_size 2 --output_file {tmp_path}/out.jsonl --layers=-1"
    # Of 20 tokens 18 are the text's, 17 of a pair; in all 6 + 102 + 3 + 35 before they are cut.
    cut = "2 of {} rows are longer than max_len=20; {} of their tokens are cut off, {} of all"
    assert run(extract, *COMMANDS)[2].splitlines() == [
        f"{file}: " + cut.format(4, 97, f"{97 / 146:.1%}")
    ]
    similar = f"similar {usual} --query book"
    assert run(similar, *COMMANDS)[2].splitlines() == [
        f"--query and {file}: " + cut.format(5, 97, f"{97 / 149:.1%}")
    ]
    rows = [f"{'good ' * 30}\t1", f"{'bad ' * 3}\t0"] * 4
    (tmp_path / "train.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    own = f"--data_file {tmp_path}/train.tsv --eval_file {tmp_path}/train.tsv"
    few = f"fewshot --pretrain_file {weights} --task sst2 {own} --shots 1 --draws 1 --max_len 20"
    told = [line for line in run(few, *COMMANDS)[2].splitlines() if "cut off" in line]
    assert len(told) == 1
    assert f"{tmp_path}/train.tsv and {tmp_path}/train.tsv: " in told[0]
    nothing = extract.replace("--max_len 20", "--max_len 128")
    assert run(nothing, *COMMANDS)[2] == ""

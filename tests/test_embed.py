"""embed.py: vectors are trained, judged, searched and mined; sentence-transformers' folders."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_pipelines import CONFIG, TEXTS, trained

import checkpoint
import embed
import encoder
import finetune
import models
import pretrained
import rank
import train
from formats.arrays import read_npy
from formats.sentence_encoders import Form
from system.files import read_json, write_json
from tasks import VectorTask
from tasks.table_rows import Objects
from tasks.vectors import encoder_of
from utils import UserError

WORDS = "red green blue white black brown grey pink gold silver".split()
ROWS = [{"query": f"anna sold {w}", "text": f"boris bought {w} ."} for w in WORDS]


def large(model: torch.nn.Module) -> torch.nn.Module:
    """Larger weights than a new model has: a random one would give all texts one vector."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3 if parameter.dim() > 1 else 1)
    return model


@pytest.mark.parametrize(
    "form",
    [
        Form(),
        Form("cls", normalize=False),
        Form("max", query_prompt="word5 ", document_prompt="word6 word7 "),
        Form("mean", dense=5),
        Form("cls", dense=24, activation="identity", normalize=False),
    ],
    ids=str,
)
def test_vectors_are_sentence_transformers_there_and_back(tmp_path: Path, form: Form) -> None:
    theirs = pytest.importorskip("sentence_transformers")
    torch.manual_seed(3)
    settings = dataclasses.asdict(form) | {"max_len": 6}
    run = trained(tmp_path / "run", large(encoder_of(CONFIG, form)), settings)
    texts = [*TEXTS, "word8 " * 20, ""]
    ours = embed.load(run)
    found = {kind: ours.encode(texts, kind) for kind in ("", "query", "document")}
    assert ours.max_len == 6
    checkpoint.convert(str(run), str(tmp_path / "folder"))
    model = theirs.SentenceTransformer(str(tmp_path / "folder"), device="cpu")
    kinds = {"": model.encode(texts), "query": model.encode_query(texts)}
    kinds["document"] = model.encode_document(texts)
    for kind, expected in kinds.items():
        np.testing.assert_allclose(found[kind], expected, atol=1e-6)
    assert not np.allclose(found["query"], found["document"]) or not form.query_prompt
    # Theirs, as that library writes it, without a word of ours beside it.
    model.save(str(tmp_path / "theirs"))
    for folder in ("folder", "theirs"):
        back = embed.load(tmp_path / folder)
        assert (back.form, back.max_len) == (form, 6)
        np.testing.assert_allclose(back.encode(texts), found[""], atol=1e-6)
    assert embed.load(run).digest == ours.digest
    assert embed.load(run, form={"pooling": "layers"}).digest != ours.digest


def test_an_onnx_has_the_vectors_pooled(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    form = Form("mean", dense=5)
    settings = dataclasses.asdict(form) | {"max_len": 16}
    run = trained(tmp_path / "run", large(encoder_of(CONFIG, form)), settings)
    checkpoint.convert(str(run), str(tmp_path / "model.onnx"))
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert [output.name for output in session.get_outputs()] == ["sentence_embedding"]
    whole, alone = finetune.load(run), finetune.load(tmp_path / "model.onnx")
    np.testing.assert_allclose(alone.predict(TEXTS), whole.predict(TEXTS), atol=1e-5)


def test_a_dense_layer_of_another_width_is_refused(tmp_path: Path) -> None:
    form = Form("mean", dense=5)
    settings = dataclasses.asdict(form) | {"max_len": 16}
    run = trained(tmp_path / "run", encoder_of(CONFIG, form), settings)
    checkpoint.convert(str(run), str(tmp_path / "folder"))
    for name in ("task.json", "2_Dense/config.json"):
        values = read_json(tmp_path / "folder" / name)
        key = "dense" if name == "task.json" else "out_features"
        write_json(tmp_path / "folder" / name, values | {key: 7})
    with pytest.raises(UserError, match=r"dense.*\(5, 16\).*\(7, 16\)|dense.*7.*5"):
        embed.load(tmp_path / "folder")


# ------------------------------------------------------------------------------------- the commands


@pytest.fixture
def command(sample: Path, tmp_path: Path, run: Callable) -> Callable[[str], tuple[int, str, str]]:
    """A command line of embed.py, run; {s} is the sample's folder, {t} the test's."""

    def call(line: str) -> tuple[int, str, str]:
        return run(line.format(s=sample, t=tmp_path), embed.Embed)

    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "texts.txt").write_text("".join(f"{row['text']}\n" for row in ROWS))
    scored = [f"{row['query']},{row['text']},{i}" for i, row in enumerate(ROWS)]
    (tmp_path / "sts.csv").write_text("\n".join(["sentence1,sentence2,score", *scored]) + "\n")
    return call


TRAIN = (
    "--train_file {t}/pairs.jsonl --eval_file {t}/pairs.jsonl --model_cfg {s}/config.json --vocab "
    "{s}/vocab.txt --save_dir {t}/run --max_len 16 --lr 3e-3 --n_epochs 40 --batch_size 10"
)


def test_what_is_trained_is_found_mined_and_written(command: Callable, tmp_path: Path) -> None:
    status, out, err = command(TRAIN + " --gradient_accumulation 3")
    assert status == 0, err
    status, out, err = command("--mode eval --model_file {t}/run --data_file {t}/pairs.jsonl")
    metrics = json.loads((tmp_path / "run/eval/pairs.json").read_text())
    assert metrics["MRR@10"] > 0.9
    assert f"MRR@10: {metrics['MRR@10']}" in out
    line = "--mode predict --model_file {t}/run --data_file {t}/texts.txt --out {t}/v.npy"
    status, out, err = command(line)
    assert status == 0, err
    vectors, about = read_npy(tmp_path / "v.npy")
    model = embed.load(tmp_path / "run")
    assert about == {"model": model.digest}
    np.testing.assert_array_equal(vectors, model.encode([row["text"] for row in ROWS]))
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), vectors)
    status, out, err = command(
        "--mode eval --model_file {t}/run --data_file {t}/pairs.jsonl --bitext True"
    )
    assert float(dict(x.split(": ") for x in out.splitlines() if ": " in x)["Accuracy"]) > 0.7
    # With vectors and without, and from a file of queries.
    (tmp_path / "q.txt").write_text("anna sold pink\n\nanna sold blue\n")
    search = "--mode search --model_file {t}/run --data_file {t}/texts.txt --top 3"
    (tmp_path / "q1.txt").write_text("anna sold pink\n")
    _, alone, _ = command(f"{search} --queries {{t}}/q1.txt")
    status, out, err = command(f"{search} --queries {{t}}/q.txt --vectors {{t}}/v.npy")
    assert status == 0, err
    found = [json.loads(line) for line in out.splitlines()]
    assert [row["rank"] for row in found] == [1, 2, 3, 1, 2, 3]
    # Batches of other queries round otherwise.
    for mine, line in zip(found[:3], alone.splitlines(), strict=True):
        assert mine == json.loads(line) | {"score": pytest.approx(mine["score"], abs=1e-6)}
    assert (found[0]["text"], found[0]["id"]) == ("boris bought pink .", "8")
    assert found[3]["text"] == "boris bought blue ."
    query = model.encode(["anna sold pink"])
    assert found[0]["score"] == pytest.approx(float(vectors[7] @ query[0]), abs=1e-6)
    status, out, err = command(f"{search} --clusters 2 --vectors {{t}}/v.npy")
    groups = [json.loads(line) for line in out.splitlines()]
    assert sum(group["size"] for group in groups) == 10
    # Nine texts do not fit, so that those at ranks 10 to 50 are one at most.
    line = "--mode mine --model_file {t}/run --data_file {t}/pairs.jsonl --out {t}/mined.jsonl"
    status, out, err = command(line)
    assert status == 0, err
    mined = [json.loads(line) for line in (tmp_path / "mined.jsonl").read_text().splitlines()]
    assert [row["text"] for row in mined] == [row["text"] for row in ROWS]
    assert all(row["text"] not in row["negatives"] for row in mined)
    again = TRAIN.replace("pairs.jsonl", "mined.jsonl", 1).replace("{t}/run", "{t}/run2")
    status, _, err = command(again.replace("--n_epochs 40", "--total_steps 2"))
    assert status == 0, err


def test_scores_are_learnt_and_judged(command: Callable, tmp_path: Path) -> None:
    line = TRAIN.replace("pairs.jsonl", "sts.csv")
    status, _, err = command(line.replace("epochs 40", "epochs 200") + " --widths 8,16")
    assert status == 0, err
    metrics = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert metrics[-1]["eval_Spearman"] > 0.9
    assert json.loads((tmp_path / "run/task.json").read_text())["loss_name"] == "cosent"


def test_training_goes_on_from_what_a_folder_says(tmp_path: Path) -> None:
    form = Form("cls", normalize=False, dense=5, query_prompt="word5 ")
    settings = dataclasses.asdict(form) | {"max_len": 12}
    run = trained(tmp_path / "run", large(encoder_of(CONFIG, form)), settings)
    checkpoint.convert(str(run), str(tmp_path / "folder"))
    (tmp_path / "folder/task.json").unlink()
    rows = [{"query": f"word{i}", "text": f"word{i + 9} word1"} for i in range(8)]
    cfg = train.Config(batch_size=4, total_steps=1, lr=1e-9)
    for source in ("run", "folder"):
        made = finetune.prepare(VectorTask(), Objects(rows), tmp_path / source, cfg=cfg)
        assert (made.task.form, made.task.max_len) == (form, 12)
        # The dense layer is that of the weights.
        start = pretrained.read(tmp_path / source)
        assert torch.equal(made.model().dense.weight, start.tensors["dense.weight"])
    other = VectorTask(pooling="max", max_len=20)
    made = finetune.prepare(other, Objects(rows), tmp_path / "folder", cfg=cfg)
    assert (made.task.form.pooling, made.task.max_len) == ("max", 20)
    # Elsewhere, as a .pt, the form goes along.
    checkpoint.convert(str(tmp_path / "folder"), str(tmp_path / "one" / "model.pt"))
    assert embed.load(tmp_path / "one").form == form


def test_a_collection_trains_is_mined_and_ranked_again(
    command: Callable, tmp_path: Path, run: Callable, sample: Path
) -> None:
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    texts = [json.dumps({"_id": f"t{i}", "text": row["text"]}) for i, row in enumerate(ROWS)]
    queries = [json.dumps({"_id": f"q{i}", "text": row["query"]}) for i, row in enumerate(ROWS)]
    (folder / "corpus.jsonl").write_text("\n".join(texts) + "\n")
    (folder / "queries.jsonl").write_text("\n".join(queries) + "\n")
    for name, numbers in (("train", range(8)), ("test", range(2, 10))):
        qrels = [f"q{i}\tt{i}\t1" for i in numbers]
        text = "\n".join(["query-id\tcorpus-id\tscore", *qrels]) + "\n"
        (folder / f"qrels/{name}.tsv").write_text(text)
    line = TRAIN.replace("--train_file {t}/pairs.jsonl", "--data_dir {t}/beir")
    line = line.replace("--eval_file {t}/pairs.jsonl", "--eval_file {t}/beir,{t}/sts.csv")
    status, out, err = command(line.replace("epochs 40", "epochs 20"))
    assert status == 0, err
    # The same command again has nothing to do; another text makes it another run.
    status, out, err = command(line.replace("epochs 40", "epochs 20"))
    assert "is there already" in out
    status, out, err = command("--mode eval --model_file {t}/run --data_file {t}/beir,{t}/sts.csv")
    assert status == 0, err
    assert "nDCG@10" in out
    assert "Spearman" in out
    search = "--mode search --model_file {t}/run --data_dir {t}/beir --queries {t}/beir --top 4"
    status, out, err = command(f"{search} --out {{t}}/found.jsonl")
    assert status == 0, err
    # Of one query nothing was found.
    found = (tmp_path / "found.jsonl").read_text().splitlines()
    (tmp_path / "found.jsonl").write_text("\n".join(found[:-4]) + "\n")
    ranker = f"--model_cfg {sample}/config.json --vocab {sample}/vocab.txt --max_len 24"
    ranker += (
        f" --save_dir {tmp_path}/ranker --data_dir {folder} --candidates {tmp_path}/found.jsonl"
    )
    status, out, err = run(f"{ranker} --total_steps 2 --batch_size 4", rank.Rank)
    assert status == 0, err
    again = f"--mode eval --model_file {tmp_path}/ranker --data_dir {folder} --candidates "
    status, out, err = run(f"{again}{tmp_path}/found.jsonl", rank.Rank)
    assert status == 0, err
    metrics = json.loads((tmp_path / "ranker/eval/beir.json").read_text())
    # Seven of eight queries have candidates.
    assert metrics["recall@100"] <= 7 / 8
    (tmp_path / "found.jsonl").write_text(found[0].replace('"q0"', '"q77"') + "\n")
    status, out, err = run(f"{again}{tmp_path}/found.jsonl", rank.Rank)
    assert (status, "has no query of" in err) == (2, True)
    status, out, err = command("--mode mine --model_file {t}/run --data_dir {t}/beir")
    assert [json.loads(row)["query"] for row in out.splitlines()] == [r["query"] for r in ROWS[:8]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--mode search --model_file {t}/run --data_file {t}/texts.txt", "--queries or --clusters"),
        (
            "--mode search --model_file {t}/run --data_file {t}/texts.txt --queries {t}/empty.txt",
            "empty.txt has no queries",
        ),
        (
            "--mode search --model_file {t}/run --data_file {t}/texts.txt --queries a --vectors "
            "{t}/other.npy",
            "other.npy was made by another model",
        ),
        (
            "--mode search --model_file {t}/run --data_file {t}/pairs.jsonl --queries a --vectors "
            "{t}/nan.npy",
            "no numbers",
        ),
        (
            "--mode search --model_file {t}/run --data_file {t}/texts.txt --queries a --index x",
            "--index x: expected faiss",
        ),
        (
            "--mode search --model_file {t}/run --data_file {t}/texts.txt --queries {t}/no.txt",
            "no.txt: there is no such file",
        ),
        ("--mode mine --model_file {t}/run --data_file {t}/sts.csv", "its pairs have a number"),
        ("--mode predict --model_file {t}/run --data_file {t}/texts.txt", "--out vectors.npy"),
        (TRAIN.replace("_size 10", "_size 1"), "--batch_size 1: --loss contrastive compares"),
        (TRAIN + " --loss cosent", "have none"),
        (TRAIN + " --loss triplet", "--loss 'triplet': expected contrastive"),
        (TRAIN + " --pooling sum", "--pooling 'sum': expected mean"),
        (TRAIN + " --dense 4 --activation relu", "--activation 'relu': expected tanh or identity"),
        (TRAIN + " --dense -4", "--dense -4: expected the width of a layer"),
        (TRAIN.replace("pairs.jsonl", "none", 1), "none does not exist"),
        (TRAIN + " --widths 4,999", "the vectors have 128 elements"),
        (TRAIN + " --queries a", "--mode train has no use for --queries"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    command: Callable, tmp_path: Path, sample: Path, line: str, message: str
) -> None:
    if "--model_file" in line:
        start = pretrained.find(None, f"{sample}/config.json", f"{sample}/vocab.txt")
        cfg = train.Config(total_steps=1, batch_size=4)
        finetune.prepare(VectorTask(max_len=16), Objects(ROWS), start, cfg=cfg).fit(
            tmp_path / "run"
        )
    from formats.arrays import write_npy

    (tmp_path / "empty.txt").write_text("\n\n")
    for name, digest, value in (("other", "x", 1.0), ("nan", None, np.nan)):
        digest = digest or (embed.load(tmp_path / "run").digest if "nan.npy" in line else "")
        with open(tmp_path / f"{name}.npy", "wb") as f:
            values: Any = np.full((10, 128), value, np.float32)
            write_npy(f, [values], (10, 128), {"model": digest})
    status, _, err = command(line)
    assert status == 2, err
    assert message in err
    assert len(err.strip().splitlines()) == 1, err


@pytest.mark.real
def test_minilm_on_sts_and_cranfield(real: Path) -> None:
    pytrec_eval = pytest.importorskip("pytrec_eval")
    start = pretrained.find(real / "minilm")
    saved = finetune.load(real / "minilm", VectorTask.saved(start), start)
    found = saved.evaluate(real / "sts/sts-test.csv")
    assert found["Spearman"] == pytest.approx(0.82047, abs=1e-5)
    data: Any = saved.load(real / "retrieval/cranfield")
    vectors = saved.outputs(data)
    metrics = saved.task.metrics(data, vectors)
    n = len(data.judged.grades)
    scores = vectors[:n] @ vectors[n:].T
    run = {
        query: {name: float(s) for name, s in zip(data.judged.texts, row, strict=True)}
        for query, row in zip(data.judged.grades, scores, strict=True)
    }
    # trec_eval is given as many texts as are ranked here.
    run = {q: dict(sorted(r.items(), key=lambda x: -x[1])[:1000]) for q, r in run.items()}
    judge = pytrec_eval.RelevanceEvaluator(data.judged.grades, {"ndcg_cut_10", "map", "recall_100"})
    theirs = judge.evaluate(run).values()
    for name, their_name in (
        ("nDCG@10", "ndcg_cut_10"),
        ("MAP", "map"),
        ("recall@100", "recall_100"),
    ):
        expected = np.mean([one[their_name] for one in theirs])
        assert metrics[name] == pytest.approx(expected, abs=1e-6)
    assert isinstance(encoder.load(real / "minilm").model, models.SentenceEncoder)

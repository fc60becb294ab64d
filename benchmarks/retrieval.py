"""Vectors beside sentence-transformers: what training reaches, how fast encoding is; rankers.

    $ BERT_DATA=... python benchmarks/retrieval.py train [--seeds 3] [--dtype bf16]
    $ BERT_DATA=... python benchmarks/retrieval.py steps [--dtype fp32]
    $ BERT_DATA=... python benchmarks/retrieval.py encode [--texts 5000] [--repeats 3]
    $ BERT_DATA=... python benchmarks/retrieval.py search [--vectors 1000000]
    $ BERT_DATA=... python benchmarks/retrieval.py collections
    $ BERT_DATA=... python benchmarks/retrieval.py rerank [--folds 5]

`train`: 2,000 questions of SQuAD with their paragraphs, batch 64, from minilm (all-MiniLM-L6-v2,
which was trained on these) with its two upper blocks drawn anew; judged by 2,000 questions of dev
among its 2,067 paragraphs. Both sides have the same first weights, batches, rates, temperature, and
Adam with bias correction; a paragraph that comes twice in a batch is a wrong answer there, and none
here.
"""

import contextlib
import dataclasses
import functools
import gc
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import as_command, data, report, seconds
from peers import quiet

import embed
import finetune
import pretrained
import train as training
from formats.names import OURS
from system.cli import command
from tasks import RankTask, VectorTask, exports, nearest, ranking
from tasks.pairs import Judged, read_judged
from tasks.table_rows import Objects
from training.batches import move

MINILM = "all-MiniLM-L6-v2"
WIDTH = 384
LR = 3e-4  # there are 32 updates


def squad(name: str, most: int) -> tuple[list[dict[str, str]], list[str]]:
    """Questions with their paragraphs, spread evenly over a file; and all of its paragraphs."""
    articles = json.loads(data(f"squad/{name}-v1.1.json").read_text())["data"]
    paragraphs = [p for article in articles for p in article["paragraphs"]]
    rows = [{"query": q["question"], "text": p["context"]} for p in paragraphs for q in p["qas"]]
    chosen = [rows[i * len(rows) // most] for i in range(most)]
    return chosen, list(dict.fromkeys(p["context"] for p in paragraphs))


def judged(rows: list[dict[str, str]], texts: list[str]) -> Judged:
    """Questions, and all paragraphs to find."""
    place = {text: str(i) for i, text in enumerate(texts)}
    queries = {str(i): row["query"] for i, row in enumerate(rows)}
    grades = {str(i): {place[row["text"]]: 1} for i, row in enumerate(rows)}
    return Judged("dev", queries, {name: text for text, name in place.items()}, grades)


def metrics(found: Judged, encode: Any) -> dict[str, float]:
    """How well what is sought is found by an encoder's vectors."""
    queries = embed.unit(encode([found.queries[name] for name in found.grades]))
    texts = embed.unit(encode(list(found.texts.values())))
    places, scores = nearest.search(texts, queries, ranking.DEPTH)
    names = list(found.texts)
    run = {
        query: {names[i]: float(s) for i, s in zip(row, values, strict=True)}
        for query, row, values in zip(found.grades, places, scores, strict=True)
    }
    return ranking.measure(run, found.grades)


# ----------------------------------------------------------------------------------------- training


def train(seeds: int = 3, dtype: str = "bf16", questions: int = 2000, parts: int = 8) -> None:
    """Train both sides and judge them.

    Args:
        seeds: pairs of runs.
        dtype: of products, on both sides.
        questions: to train on, and to judge by.
        parts: of a batch, in a further run of ours.
    """
    rows, _ = squad("train", questions)
    dev = judged(*squad("dev", questions))
    lines = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as name:
            lines.append(one_seed(rows, dev, seed, dtype, parts, Path(name)))
        for side, (mrr, ndcg) in lines[-1].items():
            print(f"seed {seed}, {side}: MRR@10 {mrr:.4f}, nDCG@10 {ndcg:.4f}", flush=True)
    table = ["| | MRR@10 | nDCG@10 |", "|---|---|---|"]
    for side in lines[0]:
        columns = list(zip(*(line[side] for line in lines if side in line), strict=True))
        cells = [
            f"{statistics.mean(c):.4f} +- {statistics.stdev(c) if len(c) > 1 else 0.0:.4f}"
            for c in columns
        ]
        table.append(f"| {side} | {' | '.join(cells)} |")
    title = f"{questions} questions of SQuAD to their paragraphs, minilm, {dtype}, {seeds} seeds"
    report(f"retrieval_training_{dtype}", title, "\n".join(table))


def one_seed(
    rows: list[dict[str, str]], dev: Judged, seed: int, dtype: str, parts: int, folder: Path
) -> dict[str, tuple[float, float]]:
    """MRR@10 and nDCG@10 of each side."""
    cfg = training.Config(
        seed=seed, batch_size=64, lr=LR, n_epochs=1, warmup=0.1, dtype=dtype, bias_correction=True
    )
    task, tuning = VectorTask(max_len=128), finetune.FineTuneConfig(reinit_layers=2)
    start = pretrained.find(data("minilm"))
    found = {}
    # That parts change nothing but rounding is seen once.
    for n in (1,) if seed else (1, parts):
        one = dataclasses.replace(cfg, gradient_accumulation=n)
        run = finetune.prepare(task, Objects(rows), start, cfg=one, tuning=tuning)
        model = run.model()
        if n == 1:
            tensors = {k: v.clone() for k, v in model.state_dict().items()}
            first = pretrained.Pretrained(OURS, folder / "x.pt", start.config, tensors)
            exports.write_hugging_face(first, folder / "start", start.vocabulary)
            if not seed:
                found["start (of seed 0)"] = judge(folder / "start", dev)
        run.fit(folder / f"run{n}")
        name = "ours" if n == 1 else f"ours, {n} parts (seed 0)"
        found[name] = judge(folder / f"run{n}", dev)
    found["sentence-transformers"] = Theirs(run, cfg, folder / "start").judged(
        dev, folder / "their"
    )
    gc.collect()
    return found


def judge(folder: Path, dev: Judged) -> tuple[float, float]:
    """What a folder of ours reaches."""
    model = embed.load(folder, max_len=128)
    values = metrics(dev, lambda texts: model.encode(texts, bar=False))
    return values["MRR@10"], values["nDCG@10"]


class Theirs:
    """sentence-transformers: its model and loss, our batches and rates."""

    def __init__(self, run: finetune.Run, cfg: training.Config, folder: Path):
        from sentence_transformers import SentenceTransformer, losses
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

        with quiet():
            words = Transformer(str(folder), max_seq_length=128)
            pooling = Pooling(words.get_embedding_dimension(), "mean")
            self.model = SentenceTransformer(modules=[words, pooling], device="cpu").train()
        self.loss = losses.MultipleNegativesRankingLoss(self.model, scale=20.0)
        plain: dict[bool, list] = {True: [], False: []}
        for name, parameter in self.model.named_parameters():
            plain["LayerNorm" in name or "bias" in name].append(parameter)
        groups = [
            {"params": plain[False], "weight_decay": 0.01},
            {"params": plain[True], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, cfg.lr, eps=1e-6)
        self.examples, self.cfg = run.data.examples, cfg
        self.batches = run.data.features.batches(cfg.batch_size, cfg.seed)
        torch.manual_seed(cfg.seed)

    def step(self, n: int) -> None:
        """Update number n."""
        cfg = self.cfg
        pairs = [self.examples[i] for i in self.batches.rows(n)]
        texts = [self.model.preprocess([p.query for p in pairs])]
        texts.append(self.model.preprocess([p.texts[0] for p in pairs]))
        done = n / len(self.batches)
        rate = done / cfg.warmup if done < cfg.warmup else 1 - done
        for group in self.optimizer.param_groups:
            group["lr"] = cfg.lr * rate
        with torch.autocast("cpu", torch.bfloat16, enabled=cfg.dtype == "bf16"):
            value = self.loss([move_all(text) for text in texts], torch.empty(0))
        value.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def judged(self, dev: Judged, folder: Path) -> tuple[float, float]:
        """What it reaches at the end; vectors of its folder are its own here, too."""
        for n in range(len(self.batches)):
            self.step(n)
        self.model.eval().save(str(folder))
        return judge(folder, dev)


def move_all(text: dict[str, Any]) -> dict[str, Any]:
    """Tensors of a text on the CPU; everything else as it is."""
    return {k: move(v, torch.device("cpu")) if hasattr(v, "shape") else v for k, v in text.items()}


def steps(dtype: str = "bf16", repeats: int = 5) -> None:
    """Seconds of an update of each side in turn, on the same batches."""
    rows, _ = squad("train", 64 * (repeats + 1))
    cfg = training.Config(seed=0, batch_size=64, lr=1e-4, n_epochs=1, warmup=0.1, dtype=dtype)
    start = pretrained.find(data("minilm"))
    run = finetune.prepare(VectorTask(max_len=128), Objects(rows), start, cfg=cfg)
    other = Theirs(run, cfg, data("minilm"))
    batches = run.data.features.batches(64, 0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = training.Trainer(cfg, run.model(), batches, folder)
        trainer.model.train()

        def ours(n: int) -> None:
            trainer.compute(trainer.wrapped, run.task.loss, trainer.micro_batches(n))
            trainer.optimizer.step()
            trainer.optimizer.zero_grad()

        times: dict[str, list[float]] = {"ours": [], "sentence-transformers": []}
        for n in range(repeats + 1):
            times["ours"].append(seconds(functools.partial(ours, n)))
            times["sentence-transformers"].append(seconds(functools.partial(other.step, n)))
    # The first of each warms up.
    medians = {side: statistics.median(taken[1:]) for side, taken in times.items()}
    table = ["| | s an update | ours is so many times as fast |", "|---|---|---|"]
    for side, median in medians.items():
        table.append(f"| {side} | {median:.2f} | {median / medians['ours']:.2f} |")
    title = f"Updates of 64 pairs of SQuAD, minilm, {dtype}"
    report(f"retrieval_steps_{dtype}", title, "\n".join(table))


# ----------------------------------------------------------------------------------------- encoding


def encode(texts: int = 5000, repeats: int = 3) -> None:
    """Encode paragraphs and questions of mixed length, float32, on every side in turn."""
    import onnxruntime
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules as models

    rows, paragraphs = squad("dev", texts)
    mixed = [t for row in rows for t in (row["query"], row["text"])][:texts]
    mixed = list(dict.fromkeys([*mixed, *paragraphs, *[row["query"] for row in rows]]))[:texts]
    ours = embed.load(data("minilm"))
    with quiet():
        words = models.Transformer(str(data("minilm")), max_seq_length=256)
        pooling = models.Pooling(words.get_embedding_dimension(), "mean")
        model = SentenceTransformer(
            modules=[words, pooling, models.Normalize()], device="cpu"
        ).eval()
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "model.onnx"
        import checkpoint

        with contextlib.redirect_stdout(None):
            checkpoint.convert(str(data("minilm")), str(file))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(file, options)
    sides = {
        "ours": lambda: ours.encode(mixed, bar=False),
        "sentence-transformers": lambda: model.encode(mixed, show_progress_bar=False),
        "onnxruntime in its place": lambda: by_onnx(model, session, mixed),
    }
    vectors = {side: function() for side, function in sides.items()}
    times: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(repeats):
        for side, function in sides.items():
            times[side].append(seconds(function))
    mine = statistics.median(times["ours"])
    table = ["| | texts/s | ours is so many times as fast | largest difference |"]
    table.append("|---|---|---|---|")
    for side, taken in times.items():
        median = statistics.median(taken)
        differs = np.abs(vectors[side] - vectors["ours"]).max()
        table.append(
            f"| {side} | {len(mixed) / median:.1f} | {median / mine:.2f} | {differs:.1e} |"
        )
    report("retrieval_encoding", f"{len(mixed)} texts of SQuAD, minilm, fp32", "\n".join(table))


def by_onnx(model: Any, session: Any, texts: list[str]) -> np.ndarray:
    """Sorted as sentence-transformers does it, in its batches of 32."""
    order = np.argsort([-len(text) for text in texts], kind="stable")
    found = np.empty((len(texts), WIDTH), np.float32)
    for i in range(0, len(order), 32):
        rows = order[i : i + 32]
        batch = model.preprocess([texts[row] for row in rows])
        names = [one.name for one in session.get_inputs()]
        inputs = {name: batch[name].numpy() for name in names if name in batch}
        if "token_type_ids" in names and "token_type_ids" not in inputs:
            inputs["token_type_ids"] = np.zeros_like(inputs["input_ids"])
        hidden = session.run(None, inputs)[0]
        mask = inputs["attention_mask"][..., None]
        vectors = (hidden * mask).sum(1) / mask.sum(1)
        found[rows] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return found


# ------------------------------------------------------------------------------------------- search


def search(vectors: int = 1_000_000, repeats: int = 5) -> None:
    """The ten nearest of many random vectors, beside their product alone."""
    rng = np.random.default_rng(0)
    many = rng.standard_normal((vectors, WIDTH), np.float32)
    many /= np.linalg.norm(many, axis=1, keepdims=True)
    table = ["| queries | product alone, s | search, s | ratio |", "|---|---|---|---|"]
    for n in (1, 100):
        queries = torch.from_numpy(many[:n] + rng.standard_normal((n, WIDTH), np.float32) / 20)
        whole = torch.from_numpy(many)

        def product(queries: torch.Tensor = queries, whole: torch.Tensor = whole) -> None:
            for start in range(0, vectors, nearest.BLOCK):
                queries @ whole[start : start + nearest.BLOCK].T

        def ours(queries: torch.Tensor = queries) -> None:
            nearest.search(many, queries.numpy(), 10)

        times: list[list[float]] = [[], []]
        for _ in range(repeats):
            for taken, function in zip(times, (product, ours), strict=True):
                taken.append(seconds(function))
        alone, mine = (statistics.median(taken) for taken in times)
        table.append(f"| {n} | {alone:.3f} | {mine:.3f} | {mine / alone:.2f} |")
    report("retrieval_search", f"Search among {vectors:,} vectors of {WIDTH}", "\n".join(table))


def collections() -> None:
    """minilm and BM25 on Cranfield, judged alike."""
    from rank_bm25 import BM25Okapi

    found = read_judged(data("retrieval/cranfield"))
    model = embed.load(data("minilm"))
    bm25 = BM25Okapi([text.lower().split() for text in found.texts.values()])
    names = list(found.texts)
    run = {}
    for name in found.grades:
        scores = bm25.get_scores(found.queries[name].lower().split())
        run[name] = dict(zip(names, scores.tolist(), strict=True))
    sides = {
        "minilm": metrics(found, lambda texts: model.encode(texts, bar=False)),
        "BM25 (rank-bm25, words between blanks)": ranking.measure(run, found.grades),
    }
    table = [f"| | {' | '.join(ranking.METRICS)} |", "|---|---|---|---|---|"]
    for side, values in sides.items():
        table.append(f"| {side} | " + " | ".join(f"{values[m]:.4f}" for m in values) + " |")
    report("retrieval_cranfield", "Cranfield: 225 queries, 1,400 texts", "\n".join(table))


# ---------------------------------------------------------------------------------------- reranking


def rerank(
    folds: int = 5, dtype: str = "bf16", depth: int = 20, max_len: int = 128, lr: float = 1e-4
) -> None:
    """A ranker from minilm on Cranfield, over folds of the queries: what two first stages found.

    Args:
        folds: of the queries; each is ranked by a model that was trained on the others.
        depth: texts of each query and first stage that are ranked again.
    """
    from rank_bm25 import BM25Okapi

    found = read_judged(data("retrieval/cranfield"))
    names = list(found.texts)
    model = embed.load(data("minilm"))
    vectors = model.encode(list(found.texts.values()), bar=False)
    asked = model.encode([found.queries[q] for q in found.grades], bar=False)
    bm25 = BM25Okapi([text.lower().split() for text in found.texts.values()])
    stages: dict[str, dict[str, dict[str, float]]] = {"BM25": {}, "minilm": {}}
    for query, vector in zip(found.grades, asked, strict=True):
        words = bm25.get_scores(found.queries[query].lower().split())
        for stage, scores in (("BM25", words), ("minilm", vectors @ vector)):
            stages[stage][query] = {names[i]: float(scores[i]) for i in np.argsort(-scores)[:depth]}
    again: dict[str, dict[str, dict[str, float]]] = {stage: {} for stage in stages}
    queries = list(found.grades)
    for fold in range(folds):
        test = queries[fold::folds]
        rest = [query for query in queries if query not in test]
        ranker = trained_ranker(found, stages, rest, fold, dtype, max_len, lr)
        for stage, run in stages.items():
            for query in test:
                texts = list(run[query])
                given = (found.queries[query], [found.texts[name] for name in texts])
                (answer,) = ranker.predict([given])
                by_text = dict(zip(answer.texts, answer.scores, strict=True))
                again[stage][query] = {n: by_text[found.texts[n]] for n in texts}
        print(f"fold {fold} done")
    table = ["| first stage | nDCG@10 as found | ranked again | by folds |", "|---|---|---|---|"]
    for stage in stages:
        by_fold = []
        for fold in range(folds):
            grades = {query: found.grades[query] for query in queries[fold::folds]}
            pair = [ranking.measure(run[stage], grades)["nDCG@10"] for run in (stages, again)]
            by_fold.append(pair)
        columns = list(zip(*by_fold, strict=True))
        cells = [f"{statistics.mean(c):.4f} +- {statistics.stdev(c):.4f}" for c in columns]
        each = ", ".join(f"{b - a:+.3f}" for a, b in by_fold)
        table.append(f"| {stage} | {cells[0]} | {cells[1]} | {each} |")
    title = f"Cranfield: the first {depth} ranked again by a ranker from minilm, {folds} folds"
    report("retrieval_reranking", title, "\n".join(table))


def trained_ranker(
    found: Judged,
    stages: dict[str, dict[str, dict[str, float]]],
    queries: list[str],
    seed: int,
    dtype: str,
    max_len: int,
    lr: float,
) -> finetune.Saved:
    """A ranker of some queries, taught by what was judged and what the first stages found."""
    rows = []
    for query in queries:
        texts = {name for run in stages.values() for name in list(run[query])[:10]}
        texts |= found.grades[query].keys()
        # Two texts of Cranfield are empty.
        for name in sorted(name for name in texts if found.texts[name].strip()):
            grade = max(found.grades[query].get(name, 0), 0)
            row = {"query": found.queries[query], "text": found.texts[name], "grade": grade}
            rows.append(row)
    cfg = training.Config(seed=seed, batch_size=8, lr=lr, n_epochs=1, warmup=0.1, dtype=dtype)
    task = RankTask(max_len=max_len)
    run = finetune.prepare(task, Objects(rows), pretrained.find(data("minilm")), cfg=cfg)
    with tempfile.TemporaryDirectory() as folder:
        return finetune.load(run.fit(folder).file, dtype=dtype)


if __name__ == "__main__":
    command(
        *(as_command(function) for function in (train, steps, encode, search, collections, rerank))
    )

"""A text of one's own, its words, and smaller models: what is gained, beside transformers.

    $ BERT_DATA=... python benchmarks/domains.py words  # tokens a text before and after
    $ BERT_DATA=... python benchmarks/domains.py pretrain [--seeds 3] [--steps 300] [--dtype bf16]
    $ BERT_DATA=... python benchmarks/domains.py classify [--seeds 3] [--steps 300]
    $ BERT_DATA=... python benchmarks/domains.py distil [--seeds 3] [--dtype bf16]

`pretrain`: minilm (all-MiniLM-L6-v2, without a masked-LM head) goes on with corpus/novels, the
first 99% of each to train on, the rest held out. transformers' side has the same text, batches,
rates and steps, and its own resized embeddings and head.
"""

import dataclasses
import functools
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
from optim import BertAdam, parameter_groups, rate
from pretrained import Pretrained
from pretraining.builder import CorpusBuilder
from pretraining.new_words import choose, count_words
from system.cli import command
from tasks import TASKS, PretrainTask, SentenceTask, exports
from tasks.lessons import Lesson
from tasks.metrics import spearman
from tasks.pairs import read_pairs
from tasks.vocabularies import ROWS, extend, with_tokens
from tokenization import FullTokenizer
from training import inference

MAX_LEN, BATCH, LR = 64, 16, 1e-4
N_WORDS = 1000


def spread(values: list[float], digits: int = 3) -> str:
    """Mean and standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{digits}f} +- {deviation:.{digits}f}"


# ------------------------------------------------------------------------------------------- words


def words(n_words: int = N_WORDS) -> None:
    """How many tokens a text has before and after, and what the best of all choices would save.

    Args:
        n_words: to add.
    """
    table = [
        "| text | vocabulary | tokens a line | with new words | | all words as tokens |",
        "|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as name:
        german = Path(name) / "german.txt"
        german.write_text("\n".join(tagged_lines()) + "\n")
        novels = sorted(data("corpus/novels").glob("*.txt"))
        cased = "bert-base-multilingual-cased"
        for title, files, vocab, lower in (
            ("corpus/novels", novels, data("minilm/vocab.txt"), True),
            ("GermEval's dev lines", [german], data(f"vocab/{cased}/vocab.txt"), False),
        ):
            tokenizer = FullTokenizer(vocab, do_lower_case=lower)
            counted = count_words(files, tokenizer)
            new = choose(counted, tokenizer, n_words)
            tokens = [*tokenizer.pieces, *new]
            before = counted.tokens(tokenizer)
            after = counted.tokens(FullTokenizer(with_tokens(tokenizer.vocabulary, tokens)))
            least = counted.total() / counted.n_texts
            table.append(
                f"| {title} | {vocab.parent.name} | {before:.2f} | {after:.2f} | "
                f"{after / before - 1:+.1%} | {least / before - 1:+.1%} |"
            )
    report("domain_words", f"Tokens a text, {n_words} words added", "\n".join(table))


def tagged_lines() -> list[str]:
    """The sentences of GermEval's dev set."""
    file = data("tagging/germeval2014/NER-de-dev.tsv")
    blocks = file.read_text().split("\n\n")
    rows = [[x.split("\t")[1] for x in b.splitlines() if x and x[0] != "#"] for b in blocks]
    return [" ".join(row) for row in rows if row]


# ------------------------------------------------------------------------------------- pre-training


def pretrain(seeds: int = 3, steps: int = 300, dtype: str = "bf16") -> None:
    """Continue pre-training of minilm on novels: heads and vocabularies, and transformers.

    Args:
        seeds: of each arm; transformers has the first alone.
        steps: updates.
        dtype: of products, on both sides.
    """
    found: dict[str, list[dict[int, float]]] = {}
    sts: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text, held_out = divide(folder)
        start = pretrained.find(data("minilm"))
        counted = count_words([text], start.tokenizer)
        new = choose(counted, start.tokenizer, N_WORDS)
        means, vocabulary = extend(start, start.tokenizer, counted, new)
        means.found_tokenizer = FullTokenizer(vocabulary)
        arms: dict[str, tuple[Pretrained, bool]] = {
            "head from frequencies": (start, True),
            "random head": (start, False),
            "1,000 words, means": (means, True),
            "1,000 words, resized by transformers": (
                resized(means, len(start.vocabulary.tokens)),
                True,
            ),
        }
        sts["before"] = [similarity(data("minilm"))]
        for seed in range(seeds):
            for arm, (weights, frequencies) in arms.items():
                run_folder = folder / f"{len(found)}-{arm.split()[0]}-{seed}-{len(arm)}"
                run = prepare(weights, text, held_out, folder, seed, steps, dtype)
                losses = curve(run, run_folder, frequencies)
                found.setdefault(arm, []).append(losses)
                if weights is start:
                    sts.setdefault(arm, []).append(similarity(run_folder))
                print(f"seed {seed}, {arm}: {losses} {sts.get(arm, [])[-1:]}", flush=True)
        run = prepare(means, text, held_out, folder, 0, steps, dtype)
        theirs, ratio = beside_transformers(run, folder, means, steps, dtype)
        print(f"transformers: {theirs}, {ratio}", flush=True)
    table = [
        "| | step 0 | a third | step " + f"{steps} | Spearman on STS benchmark |",
        "|---|---|---|---|---|",
    ]
    for arm, each in found.items():
        cells = [spread([losses[step] for losses in each]) for step in (0, steps // 3, steps)]
        similar = spread(sts[arm], 4) if arm in sts else ""
        table.append(f"| {arm} | {' | '.join(cells)} | {similar} |")
    table.append(
        f"| transformers, 1,000 words, its own rows and head (seed 0) | {theirs[0]:.3f} | | "
        f"{theirs[steps]:.3f} | |"
    )
    note = (
        "Loss of a character on held-out text. minilm itself on STS benchmark: "
        f"{sts['before'][0]:.4f}. "
        f"Our steps take transformers' time divided by {ratio:.2f} (medians, in turn)."
    )
    title = f"minilm on novels, {steps} steps of {BATCH} x {MAX_LEN} tokens, {dtype}, {seeds} seeds"
    report(f"domain_pretraining_{dtype}", title, "\n".join([*table, "", note]))


def divide(folder: Path) -> tuple[Path, Path]:
    """The novels: the first 99% of the lines of each, and the rest."""
    parts: tuple[list[str], list[str]] = ([], [])
    for file in sorted(data("corpus/novels").glob("*.txt")):
        lines = file.read_text(encoding="utf-8-sig").splitlines()
        n = len(lines) * 99 // 100
        parts[0].extend([*lines[:n], ""])
        parts[1].extend([*lines[n:], ""])
    for name, lines in zip(("train", "held_out"), parts, strict=True):
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return folder / "train.txt", folder / "held_out.txt"


def resized(more: Pretrained, n: int) -> Pretrained:
    """Weights whose new rows are those that transformers gives to embeddings it resizes."""
    from transformers import BertModel

    with quiet():
        model = BertModel.from_pretrained(data("minilm"))
        torch.manual_seed(0)
        model.resize_token_embeddings(more.config.vocab_size)
    rows = more.tensors[ROWS[0]].clone()
    rows[n:] = model.embeddings.word_embeddings.weight.detach()[n:]
    return dataclasses.replace(more, tensors=more.tensors | {ROWS[0]: rows})


def prepare(
    weights: Pretrained, text: Path, held_out: Path, folder: Path, seed: int, steps: int, dtype: str
) -> finetune.Run:
    """A run of masked words alone."""
    builder = CorpusBuilder(folder / "prepared")
    task = PretrainTask(max_len=MAX_LEN, next_sentence=False, builder=builder, seed=seed)
    cfg = training.Config(
        seed=seed, batch_size=BATCH, lr=LR, total_steps=steps, warmup=0.1, schedule="linear",
        save_steps=max(1, steps // 3), dtype=dtype, bias_correction=True,
    )  # fmt: skip
    return finetune.prepare(task, str(text), weights, [str(held_out)], cfg)


def curve(run: finetune.Run, folder: Path, frequencies: bool) -> dict[int, float]:
    """The held-out loss of a character at the start and at every checkpoint."""
    begun = {} if frequencies else {"seed": run.cfg.seed}
    losses = {0: held_out_loss(run, run.model(begun))}
    model = run.model
    run.model = lambda _: model(begun)  # type: ignore[method-assign]
    run.fit(folder)
    for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()):
        if "eval_character_loss" in line:
            losses[line["step"]] = line["eval_character_loss"]
    return losses


def held_out_loss(run: finetune.Run, model: Any) -> float:
    """The loss of a character by a model as it is."""
    batches = run.eval_data[0].features.batches(BATCH)
    outputs = inference.predict(
        model, batches, torch.device("cpu"), run.cfg.dtype, run.task.outputs
    )
    return run.task.metrics(run.eval_data[0], outputs)["character_loss"]


def similarity(weights: Path) -> float:
    """Spearman's correlation on STS benchmark's test part."""
    pairs = read_pairs(data("sts/sts-test.csv"), {"text_a": None, "text_b": None, "label": None})
    encoder = embed.load(weights)
    a, b = (
        embed.unit(encoder.encode(texts, bar=False))
        for texts in ([p.query for p in pairs.pairs], [p.texts[0] for p in pairs.pairs])
    )
    return spearman((a * b).sum(1), np.array([p.score for p in pairs.pairs], float))


def beside_transformers(
    run: finetune.Run, folder: Path, weights: Pretrained, steps: int, dtype: str
) -> tuple[dict[int, float], float]:
    """transformers' losses with its own rows and head, and how much faster our steps are."""
    from transformers import BertForMaskedLM

    exports.write_hugging_face(weights, folder / "theirs", weights.vocabulary)
    n = weights.config.vocab_size
    torch.manual_seed(0)
    with quiet():
        theirs = BertForMaskedLM.from_pretrained(data("minilm"), attn_implementation="sdpa")
        theirs.resize_token_embeddings(n)
    optimizer = torch.optim.AdamW(theirs.parameters(), LR, fused=True, weight_decay=0.01)
    batches = run.data.features.batches(BATCH, run.cfg.seed)

    def scores(batch: Any) -> torch.Tensor:
        labels = torch.full_like(batch.input_ids, -100)
        rows = torch.arange(len(labels))[:, None].expand_as(batch.positions)
        used = batch.weights > 0
        labels[rows[used], batch.positions[used]] = batch.words[used]
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
            return theirs(
                input_ids=batch.input_ids,
                token_type_ids=batch.segment_ids,
                attention_mask=batch.input_mask,
                labels=labels,
            ).loss

    def held_out() -> float:
        theirs.eval()
        total, count = 0.0, 0
        data_ = run.eval_data[0].features
        held = data_.batches(BATCH)
        with torch.no_grad():
            for i in range(len(held)):
                slots = int((held[i].weights > 0).sum())
                total, count = total + float(scores(held[i])) * slots, count + slots
        theirs.train()
        return total / data_.masked_characters

    model = run.model({})
    own = BertAdam(parameter_groups(model), LR, steps, bias_correction=True)

    def our_step(batch: Any) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
            loss, _ = run.task.loss(model, batch.packed())
        loss.backward()
        own.step(loss=loss)
        own.zero_grad()

    def their_step(batch: Any, step: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = LR * rate("linear", step, steps // 10, steps)
        scores(batch).backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    losses, times = {0: held_out()}, {"ours": list[float](), "theirs": list[float]()}
    theirs.train()
    model.train()
    for step in range(steps):
        batch = batches[step]
        times["theirs"].append(seconds(lambda b=batch, s=step: their_step(b, s)))
        # In the same run, step by step in turn; their run is the one that is judged.
        if step % 5 == 0:
            times["ours"].append(seconds(lambda b=batch: our_step(b)))
    losses[steps] = held_out()
    return losses, statistics.median(times["theirs"]) / statistics.median(times["ours"])


# ------------------------------------------------------------------------------------- a classifier


def classify(seeds: int = 3, steps: int = 300, rows: int = 2000, dtype: str = "bf16") -> None:
    """IMDB: a classifier from minilm, and from minilm that went on with 5 MB of the reviews.

    Args:
        seeds: of each classifier.
        steps: of pre-training.
        rows: with labels, to train on and to test on.
        dtype: of products.
    """
    import pandas as pd

    columns = {"text_a": "text", "label": "label"}
    train, test = (
        pd.read_csv(data(f"csv/imdb_{part}.csv"), header=None, names=["text", "label"])
        for part in ("train", "test")
    )
    test = test.sample(min(rows, len(test)), random_state=0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Of the reviews of the training part, their labels unread.
        objects, size = list[str](), 0
        for text in train["text"].astype(str):
            objects.append(json.dumps({"text": text.replace("<br />", "\n")}))
            size += len(text)
            if size > 5_000_000:
                break
        half = len(objects) * 99 // 100
        (folder / "reviews.jsonl").write_text("\n".join(objects[:half]) + "\n")
        (folder / "held_out.jsonl").write_text("\n".join(objects[half:]) + "\n")
        start = pretrained.find(data("minilm"))
        files = folder / "reviews.jsonl", folder / "held_out.jsonl"
        run = prepare(start, *files, folder, 0, steps, dtype)
        losses = curve(run, folder / "reviews", True)
        found: dict[str, list[float]] = {"minilm": [], "after pre-training": []}
        for seed in range(seeds):
            cfg = training.Config(seed=seed, batch_size=32, lr=1e-4, n_epochs=1, dtype=dtype)
            some = train.sample(rows, random_state=seed)
            for side, weights in zip(found, (data("minilm"), folder / "reviews"), strict=True):
                task = SentenceTask.new(task="csv", max_len=128, **columns)
                tuned = finetune.prepare(task, some, weights, cfg=cfg)
                saved = finetune.load(tuned.fit(folder / f"{side}{seed}").file)
                found[side].append(saved.evaluate(test)["Accuracy"])
                print(f"seed {seed}, {side}: {found[side][-1]:.4f}", flush=True)
    table = ["| start | accuracy |", "|---|---|"]
    table += [f"| {side} | {spread(values, 4)} |" for side, values in found.items()]
    curve_text = ", ".join(f"{value:.3f} at step {step}" for step, value in losses.items())
    note = f"Loss of a character on held-out reviews: {curve_text}."
    title = f"IMDB, {rows:,} labelled rows, {steps} steps on 5 MB of reviews, {seeds} seeds"
    report(f"domain_classifier_{dtype}", title, "\n".join([*table, "", note]))


# ----------------------------------------------------------------------------------- smaller models


def distil(seeds: int = 3, dtype: str = "bf16", labelled: int = 10_000, more: int = 20_000) -> None:
    """SST-2: three layers with and without a teacher, or of the teacher; and their speed in int8.

    Args:
        seeds: of each arm.
        dtype: of products while training.
        labelled: rows with labels.
        more: rows without.
    """
    task, dev = TASKS["sst2"], data("glue/SST-2/dev.tsv")
    lines = data("glue/SST-2/train.tsv").read_text().splitlines()
    order = np.random.default_rng(0).permutation(len(lines) - 1) + 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = {"labelled": order[:labelled], "more": order[labelled : labelled + more]}
        for part, rows in parts.items():
            chosen = [lines[0], *(lines[i] for i in rows)]
            (folder / f"{part}.tsv").write_text("\n".join(chosen) + "\n")
        cfg = training.Config(batch_size=32, lr=1e-4, n_epochs=2, warmup=0.1, dtype=dtype)
        start = pretrained.find(data("minilm"))
        fit = finetune.prepare(task, folder / "labelled.tsv", start, [dev], cfg).fit(
            folder / "teacher"
        )
        teacher = finetune.load(fit.file)
        right, answers = answered(teacher, dev)
        print(f"teacher: {right:.4f}", flush=True)
        small = start.with_layers([0, 2, 5])
        own = pretrained.find(folder / "teacher").with_layers([0, 1, 2])
        files = {"teacher": folder / "teacher", "unlabelled_file": folder / "more.tsv"}
        # What each starts from, its rate, and what it is taught.
        arms: dict[str, tuple[Pretrained, float, dict[str, Any]]] = {
            "of minilm": (small, 1e-4, {}),
            "of minilm, taught": (small, 1e-4, files | {"lesson": Lesson(2.0, 0.75)}),
            "of the teacher, taught": (own, 5e-5, files | {"lesson": Lesson(2.0, 1.0)}),
        }
        found: dict[str, list[tuple[float, float]]] = {arm: [] for arm in arms}
        for seed in range(seeds):
            for arm, (weights, lr, given) in arms.items():
                one = dataclasses.replace(cfg, seed=seed, n_epochs=1, lr=lr)
                run = finetune.prepare(task, folder / "labelled.tsv", weights, (), one, **given)
                saved = finetune.load(run.fit(folder / f"{arm}{seed}" / "run").file)
                accuracy, theirs = answered(saved, dev)
                found[arm].append((accuracy, float((theirs == answers).mean())))
                print(f"seed {seed}, {arm}: {found[arm][-1]}", flush=True)
        table = [
            "| | accuracy | agrees with the teacher |",
            "|---|---|---|",
            f"| teacher, 6 layers | {right:.4f} | |",
        ]
        for arm, values in found.items():
            accuracy, agrees = zip(*values, strict=True)
            table.append(
                f"| 3 layers {arm} | {spread(list(accuracy), 4)} | {spread(list(agrees), 4)} |"
            )
        apart = [1 - statistics.mean(a for _, a in found[arm]) for arm in arms]
        last = folder / f"{arm}0" / "run"
        sides = {
            "teacher, fp32": finetune.load(fit.file, dtype="fp32"),
            "3 layers, fp32": finetune.load(last, dtype="fp32"),
            "3 layers, int8": finetune.load(last, dtype="int8"),
        }
        speeds = rows_per_second(sides, dev)
    closed = " and ".join(f"{1 - one / apart[0]:.0%}" for one in apart[1:])
    note = f"Of the difference to the teacher's answers {closed} are closed. "
    note += "; ".join(
        f"{side}: {speed:,.0f} rows/s ({speed / speeds['teacher, fp32']:.2f})"
        for side, speed in speeds.items()
    )
    title = (
        f"SST-2, {labelled:,} rows with labels, {more:,} without, one epoch, {dtype}, {seeds} seeds"
    )
    report(f"distillation_{dtype}", title, "\n".join([*table, "", note]))


def answered(saved: finetune.Saved, file: Path) -> tuple[float, np.ndarray]:
    """The accuracy on a file, and the answers."""
    loaded = saved.load(file)
    outputs = saved.outputs(loaded, bar=False)
    answers = outputs.argmax(1)
    return float((answers == loaded.features.labels).mean()), answers


def rows_per_second(sides: dict[str, finetune.Saved], file: Path) -> dict[str, float]:
    """How fast each side predicts a file that is tokenised, in turn; medians of seven."""
    loaded = {side: saved.load(file) for side, saved in sides.items()}
    times: dict[str, list[float]] = {side: [] for side in sides}
    for i in range(9):
        for side, saved in sides.items():
            taken = seconds(functools.partial(saved.outputs, loaded[side], bar=False))
            if i > 1:
                times[side].append(taken)
    return {side: len(loaded[side]) / statistics.median(t) for side, t in times.items()}


if __name__ == "__main__":
    command(*(as_command(function) for function in (words, pretrain, classify, distil)))

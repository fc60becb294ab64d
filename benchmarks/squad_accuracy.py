"""SQuAD 1.1 against transformers with the same recipe: minilm, 4,000 training questions, one epoch, the first 1,000 of dev.

    $ BERT_DATA=... python benchmarks/squad_accuracy.py [--seeds 2] [--dtype bf16] [--sides ours,transformers]

Batch 16, 1e-4, linear schedule with a tenth of warm-up, max_len 384, doc_stride 128, both with batches of similar length.
transformers: its tokenizer and model in plain loops. Its question-answering pipeline is gone in version 5;
`answer_theirs` does what that did: windows by its tokenizer, batches padded, the best span of each question by its offsets.
Then both answer with the same weights, ours, in float32, theirs at the better of two batch sizes. EM, F1 by questions.py.
"""
import json
import random
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import data, report, seconds

import checkpoint
import squad
from cli import command
from questions import Question, evaluate, read_squad

TRAIN, DEV, MAX_LEN, STRIDE, BATCH = 4000, 1000, 384, 128, 16


def part(file: str, n: int, folder: Path) -> Path:
    """The first n questions of a file, as a file of the same form."""
    left, articles = n, []
    for article in json.loads(data(file).read_text())["data"]:
        paragraphs = []
        for paragraph in article["paragraphs"]:
            if left > 0:
                paragraphs.append({**paragraph, "qas": paragraph["qas"][:left]})
                left -= len(paragraphs[-1]["qas"])
        articles.append({"title": article["title"], "paragraphs": paragraphs})
    out = folder / Path(file).name
    out.write_text(json.dumps({"version": "1.1", "data": articles}))
    return out


def ours(train_file: Path, seed: int, lr: float, dtype: str, folder: Path) -> Path:
    """Train; the last checkpoint."""
    settings = {"seed": seed, "lr": lr, "dtype": dtype, "n_epochs": 1, "batch_size": BATCH, "schedule": "linear",
                "bias_correction": True, "save_steps": 10**6}
    return squad.fit(str(train_file), str(data("minilm")), None, None, None, str(folder / "run"), None,
                     {"max_len": MAX_LEN, "doc_stride": STRIDE, "max_query_len": 64, "version_2_with_negative": None},
                     False, True, None, settings)


def theirs(questions: list[Question], dev: list[Question], seed: int, lr: float, dtype: str) -> dict:
    """EM and F1 of transformers."""
    from transformers import AutoTokenizer, BertForQuestionAnswering
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(data("minilm"))
    model = BertForQuestionAnswering.from_pretrained(data("minilm"))
    encoded = tokenizer([q.text for q in questions], [q.context for q in questions], truncation="only_second",
                        max_length=MAX_LEN, stride=MAX_LEN - 64 - 3 - STRIDE, return_overflowing_tokens=True,
                        return_offsets_mapping=True)
    rows = []
    for i, which in enumerate(encoded["overflow_to_sample_mapping"]):
        text, start = questions[which].answers[0]
        tokens = [n for n, (s, (a, b)) in enumerate(zip(encoded.sequence_ids(i), encoded["offset_mapping"][i], strict=True))
                  if s == 1 and a < start + len(text) and b > start]
        offsets = encoded["offset_mapping"][i]
        if tokens and offsets[tokens[0]][0] <= start and offsets[tokens[-1]][1] >= start + len(text):
            rows.append((encoded["input_ids"][i], encoded["token_type_ids"][i], tokens[0], tokens[-1]))
    rng = random.Random(seed)
    rng.shuffle(rows)
    pools = [sorted(rows[i:i + 50 * BATCH], key=lambda r: -len(r[0])) for i in range(0, len(rows), 50 * BATCH)]
    order = [row for rows_ in pools for row in rows_]
    batches = [order[i:i + BATCH] for i in range(0, len(order), BATCH)]
    rng.shuffle(batches)
    total, warm = len(batches), int(0.1 * len(batches))
    plain = ("bias", "LayerNorm.weight")
    optimizer = torch.optim.AdamW([{"params": [p for n, p in model.named_parameters() if n.endswith(plain) == exempt],
                                    "weight_decay": 0.0 if exempt else 0.01} for exempt in (False, True)], lr, eps=1e-6,
                                  fused=True)
    model.train()
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = lr * (step / warm if step < warm else (total - step) / (total - warm))
        width = max(len(row[0]) for row in batch)
        columns = [torch.tensor([values + [0] * (width - len(values)) for values in column]) for column in
                   ([r[0] for r in batch], [r[1] for r in batch], [[1] * len(r[0]) for r in batch])]
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
            loss = model(input_ids=columns[0], token_type_ids=columns[1], attention_mask=columns[2],
                         start_positions=torch.tensor([r[2] for r in batch]),
                         end_positions=torch.tensor([r[3] for r in batch])).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    return evaluate(dev, answer_theirs(model, tokenizer, dev, 1))


@torch.inference_mode()
def answer_theirs(model, tokenizer, dev: list[Question], size: int) -> dict[str, str]:
    """The best answer of every question, 30 tokens at most."""
    encoded = tokenizer([q.text for q in dev], [q.context for q in dev], truncation="only_second", max_length=MAX_LEN,
                        stride=MAX_LEN - 64 - 3 - STRIDE, return_overflowing_tokens=True, return_offsets_mapping=True)
    best = {q.id: (-float("inf"), "") for q in dev}
    for i in range(0, len(encoded["input_ids"]), size):
        names = ("input_ids", "token_type_ids", "attention_mask")
        batch = tokenizer.pad({name: encoded[name][i:i + size] for name in names}, return_tensors="pt")
        output = model(**batch)
        for j, (starts, ends) in enumerate(zip(output.start_logits.numpy(), output.end_logits.numpy(), strict=True)):
            question = dev[encoded["overflow_to_sample_mapping"][i + j]]
            context = np.array([s == 1 for s in encoded.sequence_ids(i + j)])
            starts, ends = (np.where(context, x[:len(context)], -1e9) for x in (starts, ends))
            total = np.tril(np.triu(np.ones((len(context),) * 2)), 29) * 1e9 - 1e9 + starts[:, None] + ends
            s, e = np.unravel_index(total.argmax(), total.shape)
            if starts[s] + ends[e] > best[question.id][0]:
                offsets = encoded["offset_mapping"][i + j]
                best[question.id] = (starts[s] + ends[e], question.context[offsets[s][0]:offsets[e][1]])
    return {name: text for name, (_, text) in best.items()}


def run(seeds: int = 2, lr: float = 1e-4, dtype: str = "bf16", sides: str = "ours,transformers") -> None:
    """Train both sides and compare.

    Args:
        seeds: how many.
        lr: learning rate.
        dtype: of training: fp32 or bf16; answering is float32.
        sides: of ours, transformers; speed is compared where ours is among them.
    """
    table = ["| side | seed | EM | F1 | minutes |", "|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as name:
        folder, file = Path(name), None
        train_file = part("squad/train-v1.1.json", TRAIN, folder)
        dev_file = part("squad/dev-v1.1.json", DEV, folder)
        dev = read_squad(dev_file)
        for seed in range(seeds):
            for side in sides.split(","):
                start = time.perf_counter()
                if side == "ours":
                    file = ours(train_file, seed, lr, dtype, folder / str(seed))
                    results = evaluate(dev, {a.id: a.best for a in squad.load(str(file)).answer(dev)})
                else:
                    results = theirs(read_squad(train_file), dev, seed, lr, dtype)
                table.append(f"| {side} | {seed} | {results['exact']:.2f} | {results['f1']:.2f} "
                             f"| {(time.perf_counter() - start) / 60:.1f} |")
                print(table[-1], flush=True)
        if file:
            table += answering(file, dev, folder / "hf")
    report("squad", f"SQuAD 1.1, minilm, {TRAIN} questions, one epoch, {dtype}", "\n".join(table))


def answering(file: Path, dev: list[Question], folder: Path) -> list[str]:
    """Both sides with the same weights: questions a second, and how many answers are the same."""
    from transformers import AutoTokenizer, BertForQuestionAnswering
    checkpoint.convert(str(file), str(folder))
    model, tokenizer = BertForQuestionAnswering.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    saved, rate, found = squad.load(str(file)), {}, {}
    sides = {"ours": lambda: {a.id: a.best for a in saved.answer(dev)},
             **{f"transformers, batch {n}": lambda n=n: answer_theirs(model, tokenizer, dev, n) for n in (1, 16)}}
    for side, answer in sides.items():
        rate[side] = len(dev) / seconds(lambda side=side, answer=answer: found.update({side: answer()}))
    best = max(value for side, value in rate.items() if side != "ours")
    same = sum(found["ours"][q.id] == found["transformers, batch 1"][q.id] for q in dev)
    return ["", "| answering, same weights | questions/s | times the better |", "|---|---|---|",
            *(f"| {side} | {value:.1f} | {value / best:.2f} |" for side, value in rate.items()), "",
            f"{same} of {len(dev)} answers are the same."]


if __name__ == "__main__":
    command(run)

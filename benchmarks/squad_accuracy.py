"""SQuAD 1.1 against transformers with the same recipe: minilm, 4,000 training questions, one epoch,
the first 1,000 of dev.

    $ BERT_DATA=... python benchmarks/squad_accuracy.py [--seeds 2] [--dtype bf16] \\
          [--sides ours,transformers]

Batch 16, 1e-4, linear schedule with a tenth of warm-up, max_len 384, doc_stride 128. Both begin
with the same answer layer and see the same windows in the same order, so only dropout differs. With
`--longest 128` questions that fit into one such window, of both sets, count alone: a few minutes
instead of twenty. transformers: its tokenizer and model in plain loops. Its question-answering
pipeline is gone in version 5; `answer_theirs` does what that did: windows by its tokenizer, batches
padded, the best span of each question by its offsets. Then both answer with the same weights, ours,
in float32, theirs at the better of two batch sizes. EM, F1 by squad_metrics.py.
"""

import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import as_command, data, report, seconds

import checkpoint
import finetune
import models
import pretrained
from system.cli import command
from tasks.encoding import Batches
from tasks.questions import QuestionTask, read_squad
from tasks.squad_metrics import Question, evaluate
from tokenization import FullTokenizer
from train import Config

TRAIN, DEV, MAX_LEN, STRIDE, BATCH = 4000, 1000, 384, 128, 16
TASK = QuestionTask(max_len=MAX_LEN, doc_stride=STRIDE)


def part(file: str, n: int, longest: int, folder: Path) -> Path:
    """The first n questions of a file that are not too long with their contexts, as a file of the
    same form.
    """
    tokenizer = FullTokenizer(data("minilm/vocab.txt"))
    left, articles = n, []
    for article in json.loads(data(file).read_text())["data"]:
        paragraphs = []
        for paragraph in article["paragraphs"]:
            if left > 0 and (
                not longest or len(tokenizer.encode(paragraph["context"])) <= longest - 30
            ):
                paragraphs.append({**paragraph, "qas": paragraph["qas"][:left]})
                left -= len(paragraphs[-1]["qas"])
        articles.append({"title": article["title"], "paragraphs": paragraphs})
    out = folder / Path(file).name
    out.write_text(json.dumps({"version": "1.1", "data": articles}))
    return out


def ours(train_file: Path, seed: int, lr: float, dtype: str, folder: Path) -> Path:
    """Train; the last checkpoint."""
    cfg = Config(
        seed=seed,
        lr=lr,
        dtype=dtype,
        n_epochs=1,
        batch_size=BATCH,
        schedule="linear",
        bias_correction=True,
        save_steps=10**6,
    )
    return finetune.prepare(TASK, train_file, data("minilm"), cfg=cfg).fit(folder / "run").file


def theirs(train_file: Path, dev: list[Question], seed: int, lr: float, dtype: str) -> dict:
    """EM and F1 of transformers."""
    from transformers import AutoTokenizer, BertForQuestionAnswering

    start = pretrained.find(data("minilm"))
    _, windows = TASK.load_training(train_file, start.tokenizer)
    batches = Batches(windows.features, BATCH, seed)
    torch.manual_seed(seed)
    head = models.QuestionAnswering(start.config).answer  # as ours begins
    model = BertForQuestionAnswering.from_pretrained(data("minilm"))
    model.qa_outputs.load_state_dict(head.state_dict())
    total, warm = len(batches), int(0.1 * len(batches))
    plain = ("bias", "LayerNorm.weight")
    optimizer = torch.optim.AdamW(
        [
            {
                "params": [p for n, p in model.named_parameters() if n.endswith(plain) == exempt],
                "weight_decay": 0.0 if exempt else 0.01,
            }
            for exempt in (False, True)
        ],
        lr,
        eps=1e-6,
        fused=True,
    )
    model.train()
    for step in range(total):
        input_ids, segment_ids, input_mask, labels = batches[step]
        for group in optimizer.param_groups:
            group["lr"] = lr * (step / warm if step < warm else (total - step) / (total - warm))
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
            loss = model(
                input_ids=input_ids,
                token_type_ids=segment_ids,
                attention_mask=input_mask,
                start_positions=labels[:, 0],
                end_positions=labels[:, 1],
            ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    return evaluate(
        dev, answer_theirs(model, AutoTokenizer.from_pretrained(data("minilm")), dev, 1)
    )


def answer_ours(saved: finetune.Saved, dev: list[Question]) -> dict[str, str]:
    """The best answer of every question."""
    windows = saved.task.make_windows(dev, saved.start.tokenizer)
    return {a.id: a.best for a in saved.task.answers(windows, saved.outputs(windows))}


@torch.inference_mode()
def answer_theirs(model, tokenizer, dev: list[Question], size: int) -> dict[str, str]:
    """The best answer of every question, 30 tokens at most."""
    encoded = tokenizer(
        [q.text for q in dev],
        [q.context for q in dev],
        truncation="only_second",
        max_length=MAX_LEN,
        stride=MAX_LEN - 64 - 3 - STRIDE,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    best = {q.id: (-float("inf"), "") for q in dev}
    for i in range(0, len(encoded["input_ids"]), size):
        names = ("input_ids", "token_type_ids", "attention_mask")
        batch = tokenizer.pad(
            {name: encoded[name][i : i + size] for name in names}, return_tensors="pt"
        )
        output = model(**batch)
        for j, (starts, ends) in enumerate(
            zip(output.start_logits.numpy(), output.end_logits.numpy(), strict=True)
        ):
            question = dev[encoded["overflow_to_sample_mapping"][i + j]]
            context = np.array([s == 1 for s in encoded.sequence_ids(i + j)])
            starts, ends = (np.where(context, x[: len(context)], -1e9) for x in (starts, ends))
            total = (
                np.tril(np.triu(np.ones((len(context),) * 2)), 29) * 1e9
                - 1e9
                + starts[:, None]
                + ends
            )
            s, e = np.unravel_index(total.argmax(), total.shape)
            if starts[s] + ends[e] > best[question.id][0]:
                offsets = encoded["offset_mapping"][i + j]
                best[question.id] = (
                    starts[s] + ends[e],
                    question.context[offsets[s][0] : offsets[e][1]],
                )
    return {name: text for name, (_, text) in best.items()}


def run(
    seeds: int = 2,
    lr: float = 1e-4,
    dtype: str = "bf16",
    sides: str = "ours,transformers",
    train: int = TRAIN,
    held_out: int = DEV,
    longest: int = 0,
) -> None:
    """Train both sides and compare.

    Args:
        seeds: how many.
        lr: learning rate.
        dtype: of training: fp32 or bf16; answering is float32.
        sides: of ours, transformers; speed is compared where ours is among them.
        train: questions to train on.
        held_out: questions of dev.
        longest: tokens that a question and its context may have, about; 0: any number.
    """
    table = ["| side | seed | EM | F1 | minutes |", "|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as name:
        folder, file = Path(name), None
        train_file = part("squad/train-v1.1.json", train, longest, folder)
        dev_file = part("squad/dev-v1.1.json", held_out, longest, folder)
        dev = read_squad(dev_file)
        for seed in range(seeds):
            for side in sides.split(","):
                begun = time.perf_counter()
                if side == "ours":
                    file = ours(train_file, seed, lr, dtype, folder / str(seed))
                    results = evaluate(dev, answer_ours(finetune.load(file), dev))
                else:
                    results = theirs(train_file, dev, seed, lr, dtype)
                table.append(
                    f"| {side} | {seed} | {results['exact']:.2f} | {results['f1']:.2f} | "
                    f"{(time.perf_counter() - begun) / 60:.1f} |"
                )
                print(table[-1], flush=True)
        if file:
            table += answering(file, dev, folder / "hf")
    name = f"squad_{longest}" if longest else "squad"
    report(name, f"SQuAD 1.1, minilm, {train} questions, one epoch, {dtype}", "\n".join(table))


def answering(file: Path, dev: list[Question], folder: Path) -> list[str]:
    """Both sides with the same weights: questions a second, and how many answers are the same."""
    from transformers import AutoTokenizer, BertForQuestionAnswering

    checkpoint.convert(str(file), str(folder))
    model, tokenizer = (
        BertForQuestionAnswering.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    saved, rate, found = finetune.load(file), {}, {}
    sides = {
        "ours": lambda: answer_ours(saved, dev),
        **{
            f"transformers, batch {n}": lambda n=n: answer_theirs(model, tokenizer, dev, n)
            for n in (1, 16)
        },
    }
    for side, answer in sides.items():
        rate[side] = len(dev) / seconds(
            lambda side=side, answer=answer: found.update({side: answer()})
        )
    best = max(value for side, value in rate.items() if side != "ours")
    same = sum(found["ours"][q.id] == found["transformers, batch 1"][q.id] for q in dev)
    return [
        "",
        "| answering, same weights | questions/s | times the better |",
        "|---|---|---|",
        *(f"| {side} | {value:.1f} | {value / best:.2f} |" for side, value in rate.items()),
        "",
        f"{same} of {len(dev)} answers are the same.",
    ]


if __name__ == "__main__":
    command(as_command(run))

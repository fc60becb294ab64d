"""Tags and choices against transformers: what both learn from the same batches, and how fast.

    $ BERT_DATA=... python benchmarks/kinds.py accuracy wnut17 [--seeds 3]
    $ BERT_DATA=... python benchmarks/kinds.py speed [--steps 12] [--repeats 3]

Accuracy: both sides start from minilm with one recipe. Rows, batches and their order are ours, made
once; fp32, AdamW with bias correction, weight decay .01 on all but biases and LayerNorm, a linear
schedule with warm-up, gradients clipped to 1. New heads and dropout are drawn by each side from the
seed. Scores are of a test set that no choice was made by. Minutes on a GPU, hours on a CPU.

Speed: tags of WNUT-17, batches of 32 of similar length, the same for all sides, which take turns
pass by pass. Predicting has onnxruntime beside it, on the model of transformers.
"""

import dataclasses
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import as_command, data, report, seconds
from peers import export, installed, onnxruntime_sides

import finetune
import pretrained
import train
from optim import BertAdam, parameter_groups
from system.cli import command
from tasks import ChoiceTask, TagTask, Task
from tasks.task import Data
from training import devices, inference
from training.batches import move


@dataclasses.dataclass(frozen=True)
class Case:
    """A task, its data, and how it is learnt."""

    task: Task
    train: str
    test: str
    n_train: int | None = None  # the first so many sentences; None: all
    lr: float = 1e-4
    n_epochs: int = 3


CASES = {
    "lines": Case(
        TagTask(),
        "tagging/UD_English-LinES/en_lines-ud-train.conllu",
        "tagging/UD_English-LinES/en_lines-ud-test.conllu",
    ),
    "wikiann_en": Case(TagTask(), "tagging/wikiann/en/train", "tagging/wikiann/en/test", 5000),
    "wnut17": Case(
        TagTask(),
        "tagging/wnut17/wnut17train.conll",
        "tagging/wnut17/emerging.test.annotated",
        n_epochs=5,
    ),
    "commonsenseqa": Case(
        ChoiceTask(),
        "choice/commonsenseqa/train_rand_split.jsonl",
        "choice/commonsenseqa/dev_rand_split.jsonl",
    ),
    "arc_easy": Case(
        ChoiceTask(), "choice/arc/arc_easy_train.jsonl", "choice/arc/arc_easy_test.jsonl"
    ),
}
DEVICE = devices.get_device()


def their_model(task: Task, attention: str = "sdpa") -> torch.nn.Module:
    """The model of transformers, with a fresh head."""
    from transformers import BertForMultipleChoice, BertForTokenClassification

    weights = data("minilm")
    if isinstance(task, TagTask):
        return BertForTokenClassification.from_pretrained(
            weights, num_labels=len(task.labels), attn_implementation=attention
        )
    return BertForMultipleChoice.from_pretrained(weights, attn_implementation=attention)


class Theirs(torch.nn.Module):
    """A model of transformers, called as ours is."""

    def __init__(self, model: torch.nn.Module, choices: bool):
        super().__init__()
        self.model, self.choices = model, choices

    def forward(self, input_ids: Any, segment_ids: Any, input_mask: Any) -> torch.Tensor:
        inputs = {"input_ids": input_ids, "token_type_ids": segment_ids}
        inputs["attention_mask"] = input_mask
        if self.choices:  # its (B, K, S) as questions of one choice
            inputs = {name: x[:, None] for name, x in inputs.items()}
            return self.model(**inputs).logits.squeeze(1)
        return self.model(**inputs).logits


def learn_theirs(task: Task, cfg: train.Config, rows: Data) -> Theirs:
    """Train transformers' model on our batches, in their order."""
    from transformers import get_linear_schedule_with_warmup

    torch.manual_seed(cfg.seed)
    model = Theirs(their_model(task), isinstance(task, ChoiceTask)).train().to(DEVICE)
    batches = rows.features.batches(cfg.batch_size, cfg.seed)
    n_steps = cfg.n_epochs * len(batches)
    decayed, others = list[torch.Tensor](), list[torch.Tensor]()
    for name, parameter in model.named_parameters():
        exempt = name.endswith("bias") or "LayerNorm" in name
        (others if exempt else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=cfg.lr, eps=1e-6, fused=True)
    n_warmup = round(cfg.warmup * n_steps)
    schedule = get_linear_schedule_with_warmup(optimizer, n_warmup, n_steps)
    for step in range(n_steps):
        loss, _ = task.loss(model, move(batches[step], DEVICE))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model.eval()


@torch.inference_mode()
def outputs_of(task: Task, model: torch.nn.Module, rows: Data) -> np.ndarray:
    """The outputs of the padded batches, in the order of the data."""
    batches, found, order = rows.features.batches(32), [], []
    for n in range(len(batches)):
        order.append(batches.rows(n))
        batch = move(batches[n], DEVICE)
        found.append(task.outputs(model, batch).cpu().numpy())
    values = np.concatenate(found)
    in_order = np.empty_like(values)
    in_order[np.concatenate(order)] = values
    return in_order


def training_rows(case: Case, tokenizer: Any) -> tuple[Task, Data]:
    """The task with the labels of its training data, and the data."""
    if case.n_train is None:
        return case.task.load_training(data(case.train), tokenizer)
    sentences = data(case.train).read_text(encoding="utf-8").split("\n\n")
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "train"
        part.write_text("\n\n".join(sentences[: case.n_train]), encoding="utf-8")
        return case.task.load_training(part, tokenizer)


def compare(case: Case, seeds: int) -> tuple[str, list[float], list[float]]:
    """The task's first metric, and its values of ours and of transformers, seed by seed."""
    start = pretrained.find(data("minilm"))
    task, rows = training_rows(case, start.tokenizer)
    test = task.load(data(case.test), start.tokenizer)
    ours, theirs = list[float](), list[float]()
    for seed in range(42, 42 + seeds):
        cfg = train.Config(
            seed,
            32,
            case.lr,
            case.n_epochs,
            save_steps=10**6,
            bias_correction=True,
            schedule="linear",
        )
        with tempfile.TemporaryDirectory() as folder:
            run = finetune.Run(cfg, start, task, rows, [], {}, finetune.FineTuneConfig())
            saved = finetune.load(run.fit(folder).file)
            found = task.metrics(test, saved.outputs(test))
        ours.append(found[task.metric_names[0]])
        model = learn_theirs(task, cfg, rows)
        theirs.append(task.metrics(test, outputs_of(task, model, test))[task.metric_names[0]])
        print(seed, task.metric_names[0], ours[-1], theirs[-1], flush=True)
    return task.metric_names[0], ours, theirs


def shown(values: list[float]) -> str:
    """'.512 ± .004 (.508 .514 .515)': mean, standard error, and each."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    each = " ".join(f"{value:.4f}" for value in values)
    return f"{statistics.mean(values):.4f} ± {error:.4f} ({each})"


def accuracy(name: str, seeds: int = 3) -> None:
    """Train both sides and compare what they have learnt.

    Args:
        name: lines, wikiann_en, wnut17, commonsenseqa or arc_easy.
        seeds: how many, from 42 on.
    """
    case = CASES[name]
    metric, ours, theirs = compare(case, seeds)
    part = f"the first {case.n_train:,} sentences, " if case.n_train else ""
    table = "| recipe | metric | ours | transformers |\n|---|---|---|---|\n"
    table += f"| {part}{case.n_epochs} epochs at {case.lr:g} | {metric} "
    table += f"| {shown(ours)} | {shown(theirs)} |"
    report(f"accuracy_{name}", f"Accuracy with minilm, ours and transformers: {name}", table)


# -------------------------------------------------------------------------------------------- speed


def training_sides(task: Task) -> dict[str, Callable[[Any], object]]:
    """A step of ours and one of transformers, each with its own optimizer."""
    start = pretrained.find(data("minilm"))
    model = task.model(start.config).train()
    start.load_into(model, task.fresh)
    ours = BertAdam(parameter_groups(model), 2e-5, 10**6)

    def our_step(batch: Any) -> None:
        loss, _ = task.loss(model, batch.packed())
        loss.backward()
        ours.step(loss=loss)
        ours.zero_grad()

    their = Theirs(their_model(task), isinstance(task, ChoiceTask)).train()
    optimizer = torch.optim.AdamW(their.parameters(), 2e-5, fused=True)

    def their_step(batch: Any) -> None:
        loss, _ = task.loss(their, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(their.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return {"ours": our_step, "transformers": their_step}


def predicting_sides(task: Task, folder: Path) -> dict[str, Callable[[Any], object]]:
    """The outputs of ours, of transformers and of onnxruntime."""
    start = pretrained.find(data("minilm"))
    model = task.model(start.config).eval()
    start.load_into(model, task.fresh)
    inference.prepack(model, torch.device("cpu"), "fp32")
    their = Theirs(their_model(task), isinstance(task, ChoiceTask)).eval()
    sides = {
        "ours": lambda batch: task.outputs(model, batch.packed()),
        "transformers": lambda batch: task.outputs(their, batch),
    }
    if installed("onnxruntime", "onnx", "onnxruntime"):
        file = export(folder, their_model(task, "eager").eval())
        sides["onnxruntime"] = onnxruntime_sides(file)["onnxruntime fp32"]
    return {name: torch.inference_mode()(side) for name, side in sides.items()}


def speed(steps: int = 12, repeats: int = 3) -> None:
    """Measure training and predicting tags.

    Args:
        steps: batches of a pass.
        repeats: passes of each side, in turn; medians are shown.
    """
    start = pretrained.find(data("minilm"))
    task, rows = TagTask().load_training(data(CASES["wnut17"].train), start.tokenizer)
    table = ["| what | side | words/s | ours is faster |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        for what, sides, batches in (
            ("training", training_sides(task), rows.features.batches(32, 42)),
            ("predicting", predicting_sides(task, Path(folder)), rows.features.batches(32)),
        ):
            # Evenly over the lengths.
            chosen = [batches[int(n)] for n in np.linspace(0, len(batches) - 1, steps)]
            n_words = sum(int((batch.labels >= 0).sum()) for batch in chosen)
            taken = {name: list[float]() for name in sides}
            # The first pass warms up. A side goes through all batches at once: threads of another
            # one, such as onnxruntime's, go on waiting for work for a while.
            for i in range(repeats + 1):
                for name, side in sides.items():
                    side(chosen[0])
                    passed = sum(seconds(lambda s=side, b=batch: s(b)) for batch in chosen)
                    if i:
                        taken[name].append(passed)
            for name, times in taken.items():
                ratio = statistics.median(np.array(times) / np.array(taken["ours"]))
                rate = n_words / statistics.median(times)
                table.append(f"| {what} | {name} | {rate:.0f} | {ratio:.2f} |")
    report("tags_speed", "Tags of WNUT-17 with minilm, fp32, the same batches", "\n".join(table))


if __name__ == "__main__":
    command(as_command(accuracy), as_command(speed))

"""What a folder for Hugging Face says of a model: its card, and how its scores are read."""

import json
import shlex
from pathlib import Path
from typing import Any

from system.files import read_settings
from utils import warn

# What the hub calls the task of each head.
PIPELINES = {
    "classifier": "text-classification",
    "tags": "token-classification",
    "choice": "multiple-choice",
    "answer": "question-answering",
    "masked_lm": "fill-mask",
    "encoder": "sentence-similarity",
    "ranker": "text-ranking",
}
# Which command trains a head for its own sake.
COMMANDS = {
    "classifier": "classify.py",
    "answer": "squad.py",
    "tags": "tag.py",
    "choice": "choose.py",
    "encoder": "embed.py",
    "ranker": "rank.py",
}
# What a run records that is no flag.
NO_FLAGS = ("labels", "metrics", "do_lower_case", "header", "weights", "pair rules")


def problem_type(task: dict[str, Any], n_labels: int) -> str:
    """How transformers reads a classifier's scores, by the task.json beside them."""
    if task.get("separator"):
        return "multi_label_classification"
    return "regression" if n_labels == 1 else "single_label_classification"


def card(folder: Path, head: str | None, best: dict[str, Any]) -> str:
    """README.md of a model: task, figures, data and command, as far as the run's folder says.

    Args:
        head: that it is used by; None: an encoder.
        best: of a run's checkpoint: step, metric and value.
    """
    pipeline = PIPELINES.get(head or "", "feature-extraction")
    script = COMMANDS.get(head or "", "pretrain.py")
    library = "sentence-transformers" if head == "encoder" else "transformers"
    task, run = read_settings(folder / "task.json"), read_settings(folder / "run.json")
    lines = [
        "---",
        f"library_name: {library}",
        f"pipeline_tag: {pipeline}",
        "tags: [bert]",
        "---",
    ]
    lines += [f"# BERT: {run.get('task') or task.get('task') or pipeline}", ""]
    if metrics := evaluation(folder / "metrics.jsonl", best.get("step")):
        lines += ["| on the evaluation file | |", "|---|---|"]
        lines += [f"| {name} | {value:.4f} |" for name, value in metrics.items()]
        lines += [""]
    if digests := {name: run[name] for name in run if name.startswith("sha256")}:
        lines += ["Digests of what it was made from:", ""]
        lines += [
            f"- {name.removeprefix('sha256 of ')}: {value}" for name, value in digests.items()
        ]
        lines += [f"- weights: {run['weights']}"] if "weights" in run else []
        lines += [""]
    if run:
        lines += ["The command, to which the names of the files have to be added:", ""]
        lines += [f"    {command(script, run)}", ""]
    return "\n".join(lines)


def command(script: str, run: dict[str, Any]) -> str:
    """The command line of a run, but for its files."""
    # The length of a run is said once.
    if run.get("total_steps"):
        run = {name: value for name, value in run.items() if name != "n_epochs"}
    flags = [
        f"--{name} {shlex.quote(str(value))}"
        for name, value in run.items()
        # Names with spaces or dots are digests and the shape; what is off or absent is the default.
        if name.isidentifier() and name not in NO_FLAGS and value not in (None, False, "")
    ]
    return " ".join(["python", script, *flags])


def evaluation(file: Path, step: int | None) -> dict[str, float]:
    """The evaluation that a metrics.jsonl has of a step.

    Lines that are damaged are passed over with a note: a card without figures is none the worse.
    """
    found: dict[str, float] = {}
    damaged = []
    # Damaged bytes are replaced, and then found to be no JSON.
    lines = file.read_text("utf-8", "replace").splitlines() if file.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            values = json.loads(line)
            at = values["step"]
            # SQuAD's total is no score.
            names = [name for name in values if name.startswith("eval_") and name != "eval_total"]
            figures = {name.removeprefix("eval_"): float(values[name]) for name in names}
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            damaged.append(number)
            continue
        if at == step:
            found |= figures
    if damaged:
        warn(f"{file}, line {damaged[0]}: no line of metrics; the card is written without it")
    return found

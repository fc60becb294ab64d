"""What a model costs: parameters, memory, and the time of a text.

print(describe(measure(saved, data)))
"""

import dataclasses
import time
from typing import Any, NamedTuple

import numpy as np
import torch

from tasks import quality
from tasks.task import Data
from training import inference
from training.batches import prepare

REPEATS = 9  # of which the median is taken


class Cost(NamedTuple):
    """What a model takes."""

    parameters: int
    megabytes: float  # of its parameters in float32
    alone: float  # milliseconds of a text by itself
    together: float  # the same among 32


def measure(saved: Any, data: Data) -> Cost:
    """The cost of a saved model on texts of some data, on this machine.

    Args:
        saved: a finetune.Saved.
    """
    parameters = sum(p.numel() for p in saved.model.parameters())
    ones, many = data.features.batches(1), data.features.batches(32)
    # They are sorted by length: the middle one is the usual one.
    middle = {1: ones[len(ones) // 2], 32: many[len(many) // 2]}
    times = {n: seconds(saved, batch) * 1000 for n, batch in middle.items()}
    n_rows = len(many.rows(len(many) // 2))
    return Cost(parameters, 4 * parameters / 1e6, times[1], times[32] / n_rows)


def seconds(saved: Any, batch: Any) -> float:
    """The median time of a batch."""
    batch, found = prepare(batch, saved.device), []
    with (
        torch.inference_mode(),
        torch.autocast(saved.device.type, torch.bfloat16, enabled=saved.dtype == "bf16"),
    ):
        saved.model.to(saved.device).eval()
        # The first few choose how products are computed.
        for i in range(REPEATS + 3):
            start = time.perf_counter()
            saved.task.outputs(saved.model, batch).cpu()
            if i >= 3:
                found.append(time.perf_counter() - start)
    return float(np.median(found))


def describe(cost: Cost) -> str:
    """A cost in words."""
    return (
        f"{cost.parameters / 1e6:.1f} M parameters, {cost.megabytes:.0f} MB; a text takes "
        f"{cost.alone:.2f} ms alone, {cost.together:.2f} ms among 32"
    )


def beside(saved: Any, teacher: Any, data: Data) -> list[str]:
    """Lines that say what a model and its teacher cost, and how much worse or better it answers."""
    # Measured as the student is: with products as fast as they can be, on the same inputs.
    inference.prepack(teacher.model, teacher.device, teacher.dtype)
    if type(teacher.task) is not type(saved.task):
        return [f"This model:  {describe(measure(saved, data))}"]
    task = saved.task
    # Its weights were read with the student's labels, in their order.
    there = dataclasses.replace(teacher, task=task)
    outputs = saved.outputs(data, bar=False)
    theirs = task.of_teacher(there.outputs(data, bar=False), teacher.task)
    ours, other = (task.metrics(data, found) for found in (outputs, theirs))
    metric = next(iter(ours))
    line = f"{metric} {ours[metric]:.4f} here, {other[metric]:.4f} of the teacher; difference "
    line += f"{ours[metric] - other[metric]:+.4f}"
    # Of what has one answer for each example, the interval by drawing examples.
    if hasattr(task, "outcome"):
        low, high = quality.difference(
            metric, task.outcome(data, outputs), task.outcome(data, theirs)
        )
        line += f", 95% interval {low:+.4f} to {high:+.4f}"
    return [
        f"This model:  {describe(measure(saved, data))}",
        f"The teacher: {describe(measure(there, data))}",
        line,
    ]

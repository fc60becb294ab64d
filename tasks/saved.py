"""A trained model of any kind of task: what evaluates and predicts."""

import dataclasses
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import models
import pretrained
import train
from formats.names import LABELLED
from formats.onnx import OnnxModel
from pretrained import Pretrained
from system.files import write_json
from system.progress import progress
from tasks import KINDS, VectorTask, kind_beside, quality
from tasks.inputs import inputs_of, length_of
from tasks.table_rows import source_of
from tasks.task import Data, Task
from training import devices, inference
from training.batches import drain
from utils import UserError, rank

CHUNK = 64  # batches of examples that are predicted at a time


@dataclasses.dataclass
class Saved:
    """A trained model, ready to evaluate and predict."""

    start: Pretrained
    task: Any  # a Task, of the kind that it was trained on
    model: nn.Module
    batch_size: int
    dtype: str
    device: torch.device
    n_gpus: int

    def __repr__(self) -> str:
        return f"<{self.describe()}, {self.task!r}>"

    @property
    def file(self) -> Path:
        """Where its weights were read from."""
        return self.start.file

    @property
    def folder(self) -> Path:
        """Where evaluations of it are written: the run's folder; one of its own for a .onnx."""
        return self.file.with_suffix("") if self.start.onnx else self.file.parent

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the labels, in the order of probabilities; of a number none."""
        return tuple(getattr(self.task, "labels", ()))

    def describe(self) -> str:
        """Which file it is, in words."""
        return self.start.describe()

    def load(self, file: Any, labelled: bool = True) -> Data:
        """A file of the task, or rows that Python has, as inputs of the model."""
        return self.task.load(source_of(file), self.start.tokenizer, labelled)

    def outputs(self, data: Data, bar: bool = True) -> np.ndarray:
        """(N, ...): the model's outputs for every input."""
        data.features.check(self.start.config)
        batches, name = data.features.batches(self.batch_size), f"{self.file} on {data.file}"
        return inference.predict(
            self.model, batches, self.device, self.dtype, self.task.outputs, bar, name=name
        )

    def evaluate(self, file: Any) -> dict[str, float]:
        """The metrics of a file with labels, or of sentences of such rows that Python has."""
        data = self.load(file)
        return self.task.metrics(data, self.outputs(data))

    def predict(self, inputs: Iterable[Any] | Path) -> Any:
        """An answer for each input, in order: a list of them for what has a length.

        Of any other iterable, such as a generator, and of a Path, a file of the task, answers come
        one by one, and memory does not grow. What takes long shows a bar.

        Args:
            inputs: of sentences texts or pairs, of questions (question, text), of tags texts or
                lists of words, of choices (context, [choice, ...]); of a DataFrame, a Dataset, a
                mapping of columns or mappings as rows, the task's columns are read.
        """
        total = None
        if isinstance(inputs, Path):
            parts = self.stream(inputs, self.task.read_unlabelled(inputs), bar=True)
        else:
            total = length_of(inputs)
            examples = self.task.examples_of(inputs_of(inputs, self.task.input_columns))
            parts = self.stream("the inputs", examples, bar=True, total=total)
        answers = (answer for _, found in parts for answer in found)
        return answers if total is None else list(answers)

    def stream(
        self,
        file: str | Path,
        examples: Iterator[Any],
        waiting: bool = True,
        bar: bool = False,
        total: int | None = None,
    ) -> Iterator[tuple[Data, list[Any]]]:
        """Examples of a file and their answers, a part at a time, so that memory does not grow.

        Args:
            waiting: fill a part before it is computed; False: take what a pipe has delivered.
            bar: show progress, if it takes longer than a few seconds.
            total: how many examples there are, where it is known.
        """
        most = CHUNK * self.batch_size
        # A part has many batches: examples are sorted by length within it, and little is padded.
        chunks = iter(lambda: list(islice(examples, most)), [])
        if not waiting:
            chunks = drain(examples, most)
        n, truncation = 0, np.zeros(3, int)
        with progress(bar and rank() == 0, total=total, unit=" inputs", delay=3) as shown:
            for chunk in chunks:
                data = self.task.encode_examples(file, chunk, self.start.tokenizer)
                yield data, self.task.answers(data, self.outputs(data, bar=False))
                n += len(data.features.second)  # choices count one by one
                truncation += data.features.truncation
                shown.update(len(chunk))
        # Features of each part count what was cut off; the message comes once for the whole.
        self.task.report_truncation(file, n, truncation)


def load(
    model_file: str | Path,
    task: Task | type[Task] | None = None,
    start: Pretrained | None = None,
    batch_size: int | None = None,
    dtype: str = "auto",
    data_parallel: bool = True,
    device: str = "auto",
    packed: bool = True,
) -> Saved:
    """A trained model.

    Args:
        model_file: its .pt, the folder of its run: the best checkpoint, or a .onnx.
        task: what it was trained on; a kind of task, or None: as the file beside it says.
        start: what pretrained.find() gave of model_file, where its parts lie elsewhere.
        batch_size: inputs that are computed at once; None: 32, on a GPU 32k tokens.
        dtype, device: as those of train.Config.
        packed: compute products in the way that is measured to be the fastest; False: as training
            does, so that the same weights and texts always give the same bits.
    """
    rows = devices.ROWS if batch_size is None else batch_size
    train.Config(batch_size=rows, dtype=dtype, device=device)  # checks these values
    runs_on = devices.get_device(device)
    start = start or pretrained.find(model_file, predicting=True)
    # The head in the file says which kind of task it was trained on, or else what lies beside it.
    task = task or kind_beside(start.folder)
    head = task.head if task else next((h for h in start.heads if h in KINDS), None)
    # Vectors need no head.
    if head not in (*start.heads, VectorTask.head):
        wanted = head or " or ".join(KINDS)
        raise UserError(pretrained.lacking(start, wanted, model_file))
    if task is None or isinstance(task, type):
        task = (task or KINDS[str(head)]).saved(start)
    assert isinstance(task, Task)
    task.check_start(start)
    start = task.match_head(start, training=False)
    if start.onnx:
        if device not in ("auto", "cpu"):
            raise UserError(f"`device={device}`: a .onnx is computed on the CPU; leave it out")
        return load_onnx(start, task, batch_size or devices.ROWS, dtype)
    with models.undrawn():
        model = task.model(start.config)
    pretrained.load(model, start, task.optional)
    dtype = devices.usable_dtype(dtype, runs_on)
    n_gpus = devices.count_gpus(runs_on, device, data_parallel)
    wrapped: nn.Module = model
    if n_gpus > 1:
        wrapped = inference.wrap(model, runs_on, dtype, n_gpus)
    elif packed:
        # One device needs no wrapper: inference.predict moves the model and computes in its dtype.
        inference.prepack(model, runs_on, dtype)
    rows = devices.rows_at_once(batch_size, task.max_len, runs_on)
    return Saved(start, task, wrapped, rows, dtype, runs_on, n_gpus)


def load_onnx(start: Pretrained, task: Task, batch_size: int, dtype: str) -> Saved:
    """A trained model that onnxruntime computes, its scores in the order of the task's labels."""
    if dtype not in ("auto", "fp32"):
        raise UserError(
            f"dtype={dtype}: {start.file} computes as it was converted (checkpoint.py convert, "
            "which has `int8`); leave dtype out"
        )
    assert start.onnx
    columns = start.tensors[f"{task.head}.bias"] if task.head in LABELLED else None
    model = OnnxModel(start.onnx, columns)
    return Saved(start, task, model, batch_size, "fp32", torch.device("cpu"), 1)


def decide(saved: Saved, data: Data, threshold: bool, calibrate: bool) -> str:
    """Choose a temperature and thresholds on data that was not trained on; what was chosen.

    They are stored in the task.json beside the model, and used from now on.
    """
    outputs, before = saved.outputs(data, bar=False), saved.task
    saved.task = before.decide(data, outputs, threshold, calibrate)
    write_json(saved.folder / before.settings_file, saved.task.to_json())
    said = []
    if calibrate:
        errors = [
            quality.calibration_error(task.outcome(data, outputs)) for task in (before, saved.task)
        ]
        said.append(
            f"temperature {saved.task.temperature:.4f}: expected calibration error "
            f"{errors[0]:.4f} before, {errors[1]:.4f} now"
        )
    if threshold:
        values = ", ".join(f"{value:.4f}" for value in saved.task.thresholds)
        said.append(f"threshold {values}")
    return f"Chosen on {data.file}: {'; '.join(said)}"

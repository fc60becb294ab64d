"""A teacher of a task: a trained model whose outputs of the same inputs are learnt, too.

    found = check("runs/large", lesson, False, task, start)
    teacher = Teacher.load(found, lesson, task, data, start, cfg)
    trainer.train(teacher.loss(task, data, trainer, model, 32))

What counts, and how much, is a Lesson's.
"""

import dataclasses
from pathlib import Path
from typing import Any, Self

import numpy as np

import pretrained
import train
from pretrained import Pretrained
from tasks import PretrainTask, RankTask, VectorTask, kept, kind_beside
from tasks.lessons import Lesson, MaskedLesson, States, TaughtBatches
from tasks.saved import Saved, load
from tasks.table_rows import as_path
from tasks.task import Data, digest_of
from training import inference, runs
from utils import UserError


@dataclasses.dataclass
class Teacher:
    """A trained model that teaches a run."""

    saved: Saved
    lesson: Lesson
    n_labelled: int | None = None  # rows of the run's data that have labels; None: all
    unlabelled: str = ""  # a digest of the file of the others

    @classmethod
    def load(
        cls,
        found: Pretrained,
        lesson: Lesson,
        task: Any,
        data: Data,
        start: Pretrained,
        cfg: train.Config,
    ) -> Self:
        """What check() has found, ready to teach; UserError where it answers something else.

        Args:
            task, data, start, cfg: of the run that learns.
        """
        kind, other = type(task), kind_beside(found.folder)
        # A ranker's scores teach vectors too.
        if kind is VectorTask and other is RankTask:
            kind = RankTask
            task.rows_to_rank(data)
        own = kind.saved(found)
        taught = task.as_taught(own, found, start) if kind is type(task) else own
        saved = load(found.file, taught, found, None, cfg.dtype, False, cfg.device, packed=False)
        saved.task = own
        return cls(saved, lesson)

    @property
    def settings(self) -> dict[str, Any]:
        """What a run's run.json says of it."""
        lesson = self.lesson
        said: dict[str, Any] = {
            "sha256 of teacher": runs.weights_digest(self.saved.model)[:16],
            "temperature of teacher": lesson.temperature,
            "teacher_weight": lesson.weight,
        }
        if lesson.layers:
            said["teacher_layers"] = lesson.layers
        if self.unlabelled:
            said["sha256 of unlabelled_file"] = self.unlabelled
        return said

    def with_unlabelled(self, task: Any, data: Data, rows: Any, start: Pretrained) -> Data:
        """Data with more rows, for which the teacher alone has answers."""
        self.n_labelled = len(data.features)
        self.unlabelled = digest_of(as_path(rows))[:16]
        return task.with_unlabelled(data, rows, start.tokenizer)

    def loss(self, task: Any, data: Data, trainer: train.Trainer, model: Any, rows: int) -> Any:
        """What a trainer takes instead of the task's loss; its batches get what is taught.

        Args:
            rows: that the teacher computes at a time, about.
        """
        lesson, saved, device, dtype = self.lesson, self.saved, trainer.device, trainer.cfg.dtype
        hidden = isinstance(task, PretrainTask) or lesson.layers
        if hidden and trainer.n_gpus > 1:
            raise UserError(
                "a teacher's hidden states are learnt on one GPU, or a process each; start several "
                "with torchrun, or add `data_parallel=False`"
            )
        if isinstance(task, PretrainTask):
            # Every epoch has other masks, so that it computes each batch when it is needed.
            theirs = inference.wrap(saved.model, device, dtype).eval()
            return MaskedLesson(lesson, theirs, model).loss(task)
        folder, outputs = trainer.save_dir.parent / "taught", task.taught
        # In order of length; no more at a time than a part of a training batch has.
        asked = data.features.batches(rows)

        def computed(batches: Any, outputs: Any, about: str = "") -> np.ndarray:
            parts = [saved.model]
            where = folder, device, dtype, outputs
            return kept.outputs_of(saved.model, parts, batches, *where, f"{task!r}{about}")

        states = None
        if lesson.layers:
            watched = States(saved.model, lesson.layers, training=False)

            def hidden_states(model: Any, batch: Any) -> Any:
                model(**batch.inputs)
                return watched.take()

            # A text that several rows have is computed, and kept, once.
            inputs = getattr(data.features, "ungrouped", data.features).batches(rows)
            states = computed(inputs, hidden_states, f" {lesson.layers}")
            watched.stop()
        # A ranker reads a query and a text together, which are inputs of its own.
        if isinstance(saved.task, RankTask) and isinstance(task, VectorTask):
            queries = task.rows_to_rank(data)
            ranked = saved.task.encode_examples(data.file, queries, saved.start.tokenizer)
            outputs, asked = saved.task.outputs, ranked.features.batches(rows)
        found = computed(asked, outputs)
        saved.model.to("cpu")  # its part is done
        found = task.of_teacher(found, saved.task)
        trainer.batches = TaughtBatches(trainer.batches, found, states, self.n_labelled)
        return lesson.loss(task, model)


def check(
    file: str | Path, lesson: Lesson, unlabelled: bool, task: Any, start: Pretrained
) -> Pretrained:
    """A teacher, as far as it can be judged before any data are read; UserError: it does not fit.

    Args:
        file: as saved.load() takes it.
        unlabelled: whether there are rows for which it alone has answers.
        task, start: of the run that learns.
    """
    if unlabelled and not task.may_lack_labels:
        raise UserError(
            "`unlabelled_file`: these rows have no labels that others could lack; put the texts "
            "into the data that is trained on"
        )
    if unlabelled and not lesson.weight:
        raise UserError("`unlabelled_file` and `teacher_weight=0`: leave one out")
    found = pretrained.find(file)
    if found.vocabulary.tokens != start.vocabulary.tokens:
        raise UserError(
            f"{found.file} has another vocabulary than the model that it is to teach; name a "
            "teacher of the same one"
        )
    if task.head not in (*found.heads, VectorTask.head):
        raise UserError(pretrained.lacking(found, task.head, file))
    if lesson.layers:
        check_layers(lesson.layers, task, found, start)
    return found


def check_layers(layers: tuple[int, ...], task: Any, theirs: Pretrained, ours: Pretrained) -> None:
    """UserError where hidden states of a teacher's layers cannot be learnt."""
    if isinstance(task, PretrainTask | VectorTask):
        raise UserError(
            "`teacher_layers`: of masked words and vectors the last hidden states are learnt "
            "already; leave it out"
        )
    n, most = ours.config.n_layers, theirs.config.n_layers
    if len(layers) != n:
        raise UserError(
            f"`teacher_layers` names {len(layers)} layers; expected one for each of the {n} that "
            "the model has"
        )
    if wrong := [layer for layer in layers if not 0 <= layer < most]:
        raise UserError(
            f"`teacher_layers`: no layer {wrong[0]}; the teacher has {most}, 0 to {most - 1}"
        )
    if theirs.config.dim != ours.config.dim:
        raise UserError(
            f"`teacher_layers`: the teacher's hidden states have {theirs.config.dim} elements, "
            f"these {ours.config.dim}; leave it out"
        )

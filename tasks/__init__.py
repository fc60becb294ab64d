"""Supervised tasks: rows, features, batches, metrics and reports; a kind of task in each file."""

from pathlib import Path

from system.files import read_settings
from tasks.choices import ChoiceTask
from tasks.pretrain import PretrainTask
from tasks.questions import QuestionTask
from tasks.rankers import RankTask
from tasks.resolve import own_task
from tasks.sentences import TASKS, SentenceTask, get_task
from tasks.tags import TagTask
from tasks.task import AnsweringTask, Task
from tasks.vectors import VectorTask

# By the name of the head in a checkpoint; a ranker's is a classifier, too.
KINDS: dict[str, type[AnsweringTask]] = {
    kind.head: kind for kind in (SentenceTask, QuestionTask, TagTask, ChoiceTask, VectorTask)
}
KINDS["ranker"] = RankTask


def kind_beside(folder: Path) -> type[AnsweringTask] | None:
    """The kind of task that the settings in a folder are of, where they alone say it."""
    for kind in KINDS.values():
        if kind.mark and kind.mark in read_settings(folder / kind.settings_file):
            return kind
    return None


__all__ = [
    "KINDS",
    "TASKS",
    "AnsweringTask",
    "ChoiceTask",
    "PretrainTask",
    "QuestionTask",
    "RankTask",
    "SentenceTask",
    "TagTask",
    "Task",
    "VectorTask",
    "get_task",
    "kind_beside",
    "own_task",
]

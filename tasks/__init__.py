"""Supervised tasks: rows, features, batches, metrics and reports; a kind of task in each file."""

from tasks.choices import ChoiceTask
from tasks.questions import QuestionTask
from tasks.resolve import own_task
from tasks.sentences import TASKS, SentenceTask, get_task
from tasks.tags import TagTask
from tasks.task import AnsweringTask, Task
from tasks.vectors import VectorTask

# By the name of the head in a checkpoint.
KINDS: dict[str, type[AnsweringTask]] = {
    kind.head: kind for kind in (SentenceTask, QuestionTask, TagTask, ChoiceTask, VectorTask)
}

__all__ = [
    "KINDS",
    "TASKS",
    "AnsweringTask",
    "ChoiceTask",
    "QuestionTask",
    "SentenceTask",
    "TagTask",
    "Task",
    "VectorTask",
    "get_task",
    "own_task",
]

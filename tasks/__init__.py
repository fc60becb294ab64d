"""Supervised tasks: rows, features, batches, metrics and reports; a kind of task in each file."""

from tasks.choices import ChoiceTask
from tasks.questions import QuestionTask
from tasks.sentences import TASKS, SentenceTask, get_task, own_task
from tasks.tags import TagTask
from tasks.task import Task

KINDS: tuple[type[Task], ...] = (SentenceTask, QuestionTask, TagTask, ChoiceTask)

__all__ = [
    "KINDS",
    "TASKS",
    "ChoiceTask",
    "QuestionTask",
    "SentenceTask",
    "TagTask",
    "Task",
    "get_task",
    "own_task",
]

"""Tasks with labels: their rows, features, batches, metrics and output; a kind of task a file."""

from tasks.sentences import TASKS, Example, Features, Task, get_task, own_task, read_examples

__all__ = ["TASKS", "Example", "Features", "Task", "get_task", "own_task", "read_examples"]

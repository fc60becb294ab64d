"""Multiple choice: which of some texts fits a context. SWAG, CommonsenseQA, ARC, OpenBookQA, COPA.

    task = ChoiceTask()
    data = task.load("dev_rand_split.jsonl", tokenizer)
    answers = task.answers(data, outputs)  # [Chosen("B", "bank", [.1, .9]), ...]

Each choice is an input, [CLS] context [SEP] choice [SEP], with a score of its own; a softmax over
the scores of a question's choices, any number of them, makes probabilities.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import models
from tasks import table_rows
from tasks.encoding import encode
from tasks.groups import GroupFeatures
from tasks.table_rows import Source, as_path
from tasks.task import AnsweringTask, Data, exact
from tokenization import FullTokenizer
from utils import UserError, short, show


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """A context and the choices that may follow from it."""

    line: int  # of the file, from 1
    context: str
    choices: list[str]
    names: list[str]  # what the file calls them: A, B, ... or 0, 1, ...
    answer: int | None  # which one is right; None: not known


class Chosen(NamedTuple):
    """The choice that fits best."""

    name: str  # as the file calls it, or its number from 0
    text: str
    probabilities: list[float]  # of every choice


# --------------------------------------------------------------------------------------------- task


@dataclasses.dataclass(frozen=True)
class ChoiceTask(AnsweringTask):
    """What is learned from contexts and choices."""

    name: str = "choice"
    max_len: int = dataclasses.field(default=128, kw_only=True)  # tokens of context and choice

    head: ClassVar[str] = "choice"
    fresh: ClassVar[tuple[str, ...]] = ("pooler", "choice")
    settings = ("max_len",)
    answer_columns = "index\tprediction\tchoice\tprobabilities"
    input_columns: ClassVar[tuple[str, ...]] = ("context", "choices")  # type: ignore[misc]
    metric_names: ClassVar[tuple[str, ...]] = ("Accuracy", "loss")  # type: ignore[misc]

    # ------------------------------------------------------------------------------------- rows

    def read_unlabelled(self, file: Source) -> Iterator[Question]:
        """The questions of a file; `-` is standard input, JSON lines."""
        return read_questions(file, labelled=False)

    def examples_of(self, inputs: Iterable[Any]) -> Iterator[Question]:
        """Pairs of a context and its choices."""
        for line, given in enumerate(inputs, start=1):
            is_pair = isinstance(given, list | tuple) and len(given) == 2
            if not is_pair or not isinstance(given[1], list | tuple):
                raise UserError(
                    f"input {line} is {show(given, 40)}; expected a context and a list of choices"
                )
            yield question(line, given[0], list(given[1]), None, f"input {line}", labelled=False)

    def load(self, file: Source, tokenizer: FullTokenizer, labelled: bool = True) -> Data:
        """A file of questions."""
        questions = list(read_questions(file, labelled))
        if not questions:
            raise UserError(f"{file} has no questions; expected a row for each")
        data = self.encode_examples(file, questions, tokenizer)
        self.report_truncation(file, len(data.features.second), data.features.truncation)
        counts = sorted({len(q.choices) for q in questions})
        most = "" if len(counts) == 1 else f" to {counts[-1]}"
        summary = f"{file}: {len(questions)} questions, {counts[0]}{most} choices each"
        return dataclasses.replace(data, summary=summary)

    def load_training(self, file: Source, tokenizer: FullTokenizer) -> tuple["ChoiceTask", Data]:
        """The task itself, and the data."""
        return self, self.load(file, tokenizer)

    def encode_examples(
        self, file: Source, examples: list[Question], tokenizer: FullTokenizer
    ) -> Data:
        """Questions that were read already."""
        # What occurs twice is one input.
        inputs: dict[tuple[str, str | None], int] = {}
        which = np.full((len(examples), max(len(q.choices) for q in examples)), -1)
        for row, q in zip(which, examples, strict=True):
            for i, choice in enumerate(q.choices):
                row[i] = inputs.setdefault((q.context, choice), len(inputs))
        found = encode(list(inputs), tokenizer, self.max_len)
        labels = np.array([q.answer or 0 for q in examples], np.int64)
        features = GroupFeatures.of(found, which, labels, [q.line for q in examples])
        return Data(as_path(file), features, examples)

    # ------------------------------------------------------------------------------------ model

    def model(self, config: models.Config) -> models.MultipleChoice:
        """A score for each choice."""
        return models.MultipleChoice(config)

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean cross-entropy of the choices of each question."""
        scores = self.outputs(model, batch)
        return F.cross_entropy(exact(scores), batch.labels), {}

    def outputs(self, model: nn.Module, batch: Any) -> Tensor:
        """(B, K): the score of each choice, minus infinity where there is none."""
        scores = model(**batch.inputs)  # (N,)
        # Index -1, of a choice that does not exist, is the last score.
        return F.pad(scores, (0, 1), value=-torch.inf)[batch.which]

    # ---------------------------------------------------------------------------------- answers

    def answers(self, data: Data, outputs: np.ndarray) -> list[Chosen]:
        """The best choice of each question."""
        probabilities = torch.from_numpy(outputs.astype(np.float64)).softmax(1).numpy()
        best = outputs.argmax(1)
        return [
            Chosen(q.names[i], q.choices[i], row[: len(q.choices)].tolist())
            for q, i, row in zip(data.examples, best, probabilities, strict=True)
        ]

    def lines(self, data: Data, answers: list[Chosen], first: int) -> Iterator[str]:
        """Of each question a number, the choice's name and text, the probability of each choice."""
        for index, answer in enumerate(answers, start=first):
            probabilities = " ".join(f"{p:.6f}" for p in answer.probabilities)
            yield f"{index}\t{answer.name}\t{' '.join(answer.text.split())}\t{probabilities}"

    def metrics(self, data: Data, outputs: np.ndarray) -> dict[str, float]:
        """Accuracy, and the loss."""
        labels = data.features.example_labels
        loss = F.cross_entropy(torch.from_numpy(outputs), torch.from_numpy(labels))
        return {"Accuracy": float((outputs.argmax(1) == labels).mean()), "loss": float(loss)}


# --------------------------------------------------------------------------------------------- rows


def swag(row: dict[str, Any]) -> tuple[str, list[Any], Any, Any]:
    """SWAG: the second sentence begins, and each ending goes on with it."""
    names = [name for name in row if re.fullmatch("ending[0-9]{1,9}", name)]
    endings = [row[name] for name in sorted(names, key=lambda name: int(name[6:]))]
    return row["sent1"], [f"{row['sent2']} {ending}" for ending in endings], None, row.get("label")


def arc(row: dict[str, Any]) -> tuple[str, list[Any], Any, Any]:
    """CommonsenseQA, ARC and OpenBookQA's JSON: the right one is named by its letter."""
    asked = row["question"]
    choices = asked["choices"]
    names = [choice["label"] for choice in choices]
    return asked["stem"], [choice["text"] for choice in choices], names, row.get("answerKey")


def openbook(row: dict[str, Any]) -> tuple[str, list[Any], Any, Any]:
    """OpenBookQA's table: (A) a choice (B) another."""
    # What stands before the first letter is empty.
    _, *parts = re.split(r"\(([A-Z0-9])\) ?", row["Choices"])
    choices = [part.strip() for part in parts[1::2]]
    return row["Question Stem"], choices, parts[::2], row.get("Answer Key")


def copa(row: dict[str, Any]) -> tuple[str, list[Any], Any, Any]:
    """COPA of SuperGLUE: what it asks for is a word, and becomes a question."""
    asked = {"cause": "What was the cause?", "effect": "What happened then?"}[row["question"]]
    return f"{row['premise']} {asked}", [row["choice1"], row["choice2"]], None, row.get("label")


def hellaswag(row: dict[str, Any]) -> tuple[str, list[Any], Any, Any]:
    """HellaSwag: as in SWAG the second sentence begins, and each ending goes on with it."""
    context, begun = row.get("ctx_a", row["ctx"]), row.get("ctx_b", "")
    endings = row["endings"]
    if isinstance(endings, str):  # a list in a cell
        endings = json.loads(endings)
    return context, [f"{begun} {ending}".strip() for ending in endings], None, known(row)


def piqa(row: dict[str, Any]) -> tuple[str, list[Any], Any, Any]:
    """PIQA: which of two ways leads to a goal."""
    return row["goal"], [row["sol1"], row["sol2"]], None, known(row)


def known(row: dict[str, Any]) -> Any:
    """The label; of test sets, where it is -1 or empty, none."""
    return None if row.get("label") in (None, "", -1, "-1") else row["label"]


def race(row: dict[str, Any]) -> tuple[str, list[Any], Any, Any]:
    """RACE: an article, and a question that its options answer or fill in."""
    asked, options = row["question"], row["options"]
    choices = [
        asked.replace("_", option) if "_" in asked else f"{asked} {option}" for option in options
    ]
    return row["article"], choices, ["A", "B", "C", "D", "E"][: len(choices)], row.get("answer")


def each_question(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The questions of a row: RACE's own files have all of an article in one."""
    if not isinstance(row.get("questions"), list):
        yield row
        return
    names = {"question": "questions", "options": "options", "answer": "answers"}
    columns = [row[theirs] for theirs in names.values() if theirs in row]
    for values in zip(*columns, strict=True):
        yield row | dict(zip(names, values, strict=False))


def plain(row: dict[str, Any]) -> tuple[str, list[Any], Any, Any]:
    """JSON lines of one's own: a context, a list of choices, the number of the right one."""
    # A question about the context follows it.
    context = f"{row['context']} {row['question']}" if "question" in row else row["context"]
    return context, row["choices"], None, row.get("label")


# How a row is read, by a column that no other form has.
FORMS: dict[str, Callable[[dict[str, Any]], tuple[str, list[Any], Any, Any]]] = {
    "ending0": swag,
    "Question Stem": openbook,
    "choice1": copa,
    "endings": hellaswag,
    "sol1": piqa,
    "article": race,
    "context": plain,
    "question": arc,
}
EXPECTED = (
    "rows of SWAG, HellaSwag, PIQA, RACE, CommonsenseQA, ARC, OpenBookQA or COPA, or of "
    '{"context": text, "choices": [text, ...], "label": number from 0}'
)


def read_questions(file: Source, labelled: bool = True) -> Iterator[Question]:
    """The rows of a file, one by one; UserError names the line where something is missing."""
    for line, row in table_rows.read_objects(file, set(FORMS), EXPECTED):
        where = f"{file}, line {line}"
        form = next((form for name, form in FORMS.items() if name in row), None)
        if form is None:
            raise UserError(f"{where}: found {short(', '.join(row))}; expected {EXPECTED}")
        try:
            found = [form(one) for one in each_question(row)]
        except KeyError as error:
            raise UserError(f"{where}: no {error}; expected {EXPECTED}")
        except (TypeError, ValueError, AttributeError):
            raise UserError(f"{where}: a value is of another type; expected {EXPECTED}")
        for context, choices, names, answer in found:
            yield question(line, context, choices, answer, where, labelled, names)


def question(
    line: int,
    context: Any,
    choices: Any,
    answer: Any,
    where: str,
    labelled: bool,
    names: list[str] | None = None,
) -> Question:
    """A question, checked."""
    if not isinstance(choices, list) or not all(isinstance(x, str) for x in (context, *choices)):
        wrong = choices if isinstance(context, str) else context
        raise UserError(f"{where}: {show(wrong, 40)}; expected a context and a list of texts")
    if len(choices) < 2:
        raise UserError(f"{where}: {len(choices)} choices; expected at least 2")
    # A NaN, or 1e400, names nothing.
    if odd := [name for name in names or [] if type(name) not in (str, int)]:
        raise UserError(f"{where}: a choice is called {show(odd[0], 40)}; expected a letter")
    names = [str(name) for name in names or range(len(choices))]
    if not labelled:
        return Question(line, context, choices, names, None)
    if answer is None:
        raise UserError(
            f"{where}: it is not said which choice is right; expected one of {', '.join(names)} "
            "(`mode=predict` needs none)"
        )
    # An answer that is no text is a number, as the names are.
    if str(answer) not in names:
        raise UserError(
            f"{where}: the right choice is {show(answer)}; expected one of {', '.join(names)}"
        )
    # OpenBookQA has a row with two choices of one name.
    if names.count(str(answer)) > 1:
        raise UserError(f"{where}: two choices are called {show(answer)}, the right one's name")
    return Question(line, context, choices, names, names.index(str(answer)))

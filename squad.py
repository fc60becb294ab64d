"""Fine-tune BERT on questions about texts (SQuAD, ReCoRD, MLQA), answer them, evaluate answers.

$ python squad.py --train_file train-v1.1.json --pretrain_file BERT --save_dir runs/squad
$ python squad.py --mode predict --predict_file dev-v1.1.json --model_file runs/squad
$ python squad.py --mode eval --predict_file dev-v1.1.json --model_file runs/squad
$ python squad.py --question "Who won?" --context_file report.txt --model_file runs/squad
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from command import TaskCommand, print_metrics
from system import forms
from system.cli import command
from system.files import read_json, read_text, whole_file
from system.flags import given_flags, only
from system.locks import locked
from utils import UserError, data_stream, json_text, warn

if TYPE_CHECKING:
    from finetune import Saved

# What measuring answers that were made before has a use for; it needs no model.
SCORING = "mode predict_file predictions null_odds null_score_diff_threshold language".split()
SCORING += ["data_parallel"]


@dataclasses.dataclass(kw_only=True)
class Squad(TaskCommand):
    """Fine-tune BERT on questions about texts, answer them, or evaluate answers."""

    kind = "answer"
    modes = ("train", "predict", "eval")
    task_fields = (
        *("max_len", "doc_stride", "max_query_len", "version_2_with_negative", "keep_outside"),
        *("max_answer_len", "n_best", "null_score_diff_threshold", "language"),
    )
    file_flag = "predict_file"

    # -- What to do
    mode: str = ""  # train, predict or eval; default: train, or with a question predict
    # -- Data
    train_file: str | None = only("train")  # SQuAD's JSON to train on, or ReCoRD's JSON lines
    eval_file: str | None = only("train")  # the same, evaluated after every epoch of training
    predict_file: str | None = only("predict eval")  # the same, to answer or to evaluate
    question: str | None = only("predict")  # one question, to answer from the context_file
    context_file: str | None = only("predict")  # a text file
    context: str | None = only("predict")  # the text itself, instead
    # print the answer to --question as JSON: its score, where it starts and ends, the n_best
    json: bool = only("predict", False)
    # answers made before ({id: text}); default: the model makes them
    predictions: str | None = only("eval")
    null_odds: str | None = only("eval")  # the null_odds.json of these predictions, for SQuAD 2.0
    # -- Windows of a text
    # tokens of a window; default 384, or what the model was trained with
    max_len: int | None = None
    # tokens from a window's start to the next one's; default 128, or what the model was trained
    # with
    doc_stride: int | None = None
    # tokens of a question at most; default 64, or what the model was trained with
    max_query_len: int | None = None
    # train on windows without the answer in SQuAD 1.1 too; default False
    keep_outside: bool | None = only("train")
    # -- Answers
    max_answer_len: int | None = only("predict eval")  # tokens of an answer at most; default 30
    # answers that are written to nbest_predictions.json; default 20
    n_best: int | None = only("predict eval")
    # whether questions may have no answer; default: as the training data have it
    version_2_with_negative: bool | None = None
    # SQuAD 2.0: there is no answer where its score beats the best one's by more than this; default
    # 0
    null_score_diff_threshold: float | None = only("predict eval")
    # of the answers that are evaluated, for articles, punctuation and words: en by SQuAD's rule
    # (the default); es, de, vi, ar, hi or zh by MLQA's
    language: str | None = only("train eval")
    # -- Output
    # folder for predictions.json, nbest_predictions.json and null_odds.json; default: predictions
    # beside the model
    out: str | None = only("predict eval")

    def check(self) -> None:
        self.mode = self.mode or ("train" if self.question is None else "predict")
        if self.mode == "eval" and self.predictions:
            self.check_scoring()
            return
        if self.mode == "eval" and self.null_odds:
            raise UserError("no --predictions, which is needed with --null_odds; see --help")
        super().check()
        if self.context_file and self.context:
            raise UserError("--context_file and --context are both given; keep one")
        for name in ("context_file", "context", "json"):
            if getattr(self, name) and self.question is None:
                raise UserError(f"no --question, which is needed with --{name}; see --help")
        if self.mode == "train":
            if self.language not in (None, "en") and not self.eval_file:
                raise UserError("--language is about evaluation; name an --eval_file")
        # A question that is empty is given all the same; answer_question says what is wrong.
        elif not self.model_file or not (
            self.predict_file or (self.question is not None and (self.context_file or self.context))
        ):
            raise UserError(
                f"--mode {self.mode} needs --model_file, and --predict_file or --question and "
                "--context_file or --context"
            )

    def check_scoring(self) -> None:
        """UserError where flags do not go with answers that were made before."""
        if not self.predict_file:
            raise UserError("--mode eval needs --predict_file, SQuAD's JSON with the right answers")
        if useless := [f"--{name}" for name in given_flags(self) if name not in SCORING]:
            raise UserError(
                f"--predictions were made before; leave out {', '.join(useless)}; see --help"
            )
        # The threshold is compared with the odds of each question, which answers alone lack.
        if self.null_score_diff_threshold and not self.null_odds:
            raise UserError(
                "no --null_odds, which is needed with --null_score_diff_threshold; see --help"
            )

    def train(self) -> None:
        """Train on --train_file."""
        self.fit(self.train_file)

    def load(self) -> "Saved":
        """The saved model, with the windows and answers that flags ask for."""
        saved = super().load()
        # Only a model that may abstain has a score for it.
        if self.null_score_diff_threshold and not saved.task.with_null:
            raise UserError(
                "--null_score_diff_threshold is for SQuAD 2.0, and this model always answers; "
                "leave it out"
            )
        return saved

    def eval(self) -> None:
        """Answer a file and measure the answers, or measure those that were made before."""
        if self.predictions:
            self.score()
        else:
            self.answer_file()

    def predict(self) -> None:
        """Answer a question, or a file of them."""
        if self.question is None:
            self.answer_file()
        else:
            self.answer_question(self.question)

    def answer_question(self, question: str) -> None:
        """Print the answer to --question."""
        saved = self.load()
        for name in ("predict_file", "out"):
            if getattr(self, name):
                raise UserError(f"--question has no use for --{name}; see --help")
        text = self.context or ""
        if self.context_file:
            forms.check(self.context_file, "context")
            text = read_text(self.context_file)
        if not question.strip() or not text.strip():
            raise UserError("an empty --question or --context_file; expected a text")
        answer = saved.predict([(question, text)])[0]
        # On stderr, so that stdout has the answer alone.
        warn(saved.describe())
        chosen = saved.task.chosen(answer)
        shown = chosen or "(no answer)"
        if self.json:
            shown = json_text(answer.found(chosen), "the answer", ensure_ascii=False)
        print(shown, file=data_stream())

    def answer_file(self) -> None:
        """Write the answers to --predict_file, and to evaluate print how good they are."""
        assert self.predict_file
        saved = self.load()
        folder = Path(self.out or saved.folder / "predictions")
        names = ("predictions.json", "nbest_predictions.json", "null_odds.json")
        self.check_outputs([folder / name for name in names])
        task, data = saved.task, saved.load(self.predict_file)
        answers = task.answers(data, saved.outputs(data))
        warn(saved.describe())
        # The three files have the names and the form of run_squad.py, for SQuAD's own evaluation.
        # All of them are this model's, even if another one answers at the same time.
        with locked(folder / ".lock"):
            write(folder / "predictions.json", {a.id: task.chosen(a) for a in answers})
            write(folder / "nbest_predictions.json", {a.id: a.n_best for a in answers})
            if task.with_null:
                write(folder / "null_odds.json", {a.id: a.null_odds for a in answers})
        print(f"Saved {folder}/predictions.json")
        # The official evaluation takes each question's best text and its odds; predictions.json
        # has the threshold applied already.
        if self.mode == "eval":
            print_metrics(task.measure(data.examples, answers))

    def score(self) -> None:
        """Measure answers that were made before."""
        from tasks.questions import read_squad
        from tasks.squad_metrics import check_language, evaluate

        assert self.predictions
        assert self.predict_file
        language = self.language or "en"
        check_language(language)
        answers = read_json(self.predictions, dict[str, str], pipe=True)
        odds = None
        if self.null_odds:
            odds = read_json(self.null_odds, dict[str, float], pipe=True)
        questions = read_squad(self.predict_file)
        threshold = self.null_score_diff_threshold or 0.0
        print_metrics(evaluate(questions, answers, odds, threshold, language))


def write(file: Path, values: dict) -> None:
    """A dict as JSON, as the official code writes it."""
    # indent=4 and the final line end are those of run_squad.py, so that files can be compared.
    text = json_text(values, file, indent=4)
    with whole_file(file) as f:
        f.write(f"{text}\n".encode())


if __name__ == "__main__":
    command(Squad, processes=True)

"""Fine-tune BERT on questions about texts (SQuAD, ReCoRD, MLQA), answer them, evaluate answers.

$ python squad.py --train_file train-v1.1.json --pretrain_file BERT --save_dir runs/squad
$ python squad.py --mode predict --predict_file dev-v1.1.json --model_file runs/squad
$ python squad.py --mode eval --predict_file dev-v1.1.json --model_file runs/squad
$ python squad.py --question "Who won?" --context_file report.txt --model_file runs/squad
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import modes
import train
from finetune import Saved
from system import forms
from system.cli import command
from system.files import read_json, read_text, whole_file
from system.flags import check_mode, given_flags
from system.locks import locked
from tasks import QuestionTask
from tasks.questions import read_squad
from tasks.squad_metrics import check_language, evaluate
from training.settings import INFERENCE, TRAINING_FLAGS
from utils import UserError, data_stream, json_text, note

# Which modes have a use for a flag; those that are not here are for all. Scoring is --mode eval of
# answers that were made before.
USED_IN = {
    "train_file": "train",
    "eval_file": "train",
    "pretrain_file": "train",
    "save_dir": "train",
    "log_dir": "train",
    "keep_outside": "train",
    "shard": "train",
    "predict_file": "predict eval score",
    "model_file": "predict eval",
    "question": "predict",
    "context_file": "predict",
    "out": "predict eval",
    "max_answer_len": "predict eval",
    "n_best": "predict eval",
    "null_score_diff_threshold": "predict eval score",
    "language": "train eval score",
    "predictions": "score",
    "null_odds": "score",
    "train_cfg": "train predict eval",
    "model_cfg": "train predict eval",
    "vocab": "train predict eval",
    "max_len": "train predict eval",
    "doc_stride": "train predict eval",
    "max_query_len": "train predict eval",
    "version_2_with_negative": "train predict eval",
    **dict.fromkeys(INFERENCE, "train predict eval"),
    **TRAINING_FLAGS,
}
# Flags that shape the inputs, and flags that only choose among the scores. The former are saved
# with a model.
WINDOW_FLAGS = ("max_len", "doc_stride", "max_query_len", "version_2_with_negative")
ANSWER_FLAGS = ("max_answer_len", "n_best", "null_score_diff_threshold", "language")


def main(
    mode: str | None = None,
    train_file: str | None = None,
    predict_file: str | None = None,
    pretrain_file: str | None = None,
    model_file: str | None = None,
    train_cfg: str | None = None,
    model_cfg: str | None = None,
    vocab: str | None = None,
    save_dir: str | None = None,
    log_dir: str | None = None,
    eval_file: str | None = None,
    max_len: int | None = None,
    doc_stride: int | None = None,
    max_query_len: int | None = None,
    max_answer_len: int = QuestionTask.max_answer_len,
    n_best: int = QuestionTask.n_best,
    null_score_diff_threshold: float = QuestionTask.null_score_diff_threshold,
    language: str = QuestionTask.language,
    version_2_with_negative: bool | None = None,
    keep_outside: bool = False,
    question: str | None = None,
    context_file: str | None = None,
    predictions: str | None = None,
    null_odds: str | None = None,
    out: str | None = None,
    data_parallel: bool = True,
    shard: bool = False,
    settings: dict[str, Any] | None = None,
) -> None:
    """Fine-tune BERT on questions about texts, answer them, or evaluate answers.

    Args:
        What to do:
            mode: train, predict or eval; default: train, or with a question predict.
        Data:
            train_file: SQuAD's JSON to train on, or ReCoRD's JSON lines (.jsonl).
            eval_file: the same, evaluated after every epoch of training.
            predict_file: the same, to answer or to evaluate.
            question: one question, to answer from the context_file.
            context_file: a text file.
            predictions: of eval, answers made before ({id: text}); default: the model makes them.
            null_odds: of eval, the null_odds.json of these predictions, for SQuAD 2.0.
        Windows of a text:
            max_len: tokens of a window; default 384, or what the model was trained with.
            doc_stride: tokens from a window's start to the next one's; default 128, or what the
                model was trained with.
            max_query_len: tokens of a question at most; default 64, or what the model was trained
                with.
            keep_outside: train on windows without the answer in SQuAD 1.1 too.
        Answers:
            max_answer_len: tokens of an answer at most.
            n_best: answers that are written to nbest_predictions.json.
            version_2_with_negative: whether questions may have no answer; default: as the training
                data have it.
            null_score_diff_threshold: SQuAD 2.0: there is no answer where its score beats the best
                one's by more than this.
            language: of the answers that are evaluated, for articles, punctuation and words: en by
                SQuAD's rule; es, de, vi, ar, hi or zh by MLQA's.
            out: folder for predictions.json, nbest_predictions.json and null_odds.json; default:
                predictions beside the model.
    """
    flags = SimpleNamespace(**locals())
    mode = mode or ("predict" if question is not None else "train")
    if mode not in ("train", "predict", "eval"):
        raise UserError(f"--mode {mode}: expected train, predict or eval")
    # Scoring needs neither a model nor a GPU, so it is separate from evaluating one.
    if mode == "eval" and predictions:
        score(flags)
        return
    if mode == "eval" and null_odds:
        raise UserError("no --predictions, which is needed with --null_odds; see --help")
    # A flag that another mode alone reads would be ignored silently, so it is an error here.
    check_mode(main, mode, vars(flags), USED_IN)
    if context_file and question is None:
        raise UserError("no --question, which is needed with --context_file; see --help")
    if mode == "train":
        fit(flags)
        return
    # A question that is empty is given all the same; answer_question says what is wrong with it.
    if not model_file or not (predict_file or (question is not None and context_file)):
        raise UserError(
            f"--mode {mode} needs --model_file, and --predict_file or --question and --context_file"
        )
    saved = load(flags)
    if question is None:
        answer_file(saved, flags, evaluating=mode == "eval")
    else:
        answer_question(saved, flags)


def fit(flags: SimpleNamespace) -> None:
    """--mode train"""
    # A flag that was not given is left to QuestionTask, where each default stands once.
    names = (*WINDOW_FLAGS, "keep_outside", "language")
    task = QuestionTask(**modes.given(flags, names))
    if flags.language != QuestionTask.language and not flags.eval_file:
        raise UserError("--language is about evaluation; name an --eval_file")
    modes.fit(task, flags, "predict_file")


def load(flags: SimpleNamespace) -> Saved:
    """The saved model, with the windows and answers that flags ask for."""
    # Windows may differ from those of training: a longer max_len costs memory, not correctness.
    changes = modes.given(flags, (*WINDOW_FLAGS, *ANSWER_FLAGS))
    saved = modes.load(QuestionTask, flags, changes)
    # Only a model that may abstain has a score for it.
    if flags.null_score_diff_threshold and not saved.task.with_null:
        raise UserError(
            "--null_score_diff_threshold is for SQuAD 2.0, and this model always answers; leave it "
            "out"
        )
    return saved


def answer_question(saved: Saved, flags: SimpleNamespace) -> None:
    """Print the answer to --question."""
    for name in ("predict_file", "out"):
        if getattr(flags, name):
            raise UserError(f"--question has no use for --{name}; see --help")
    forms.check(flags.context_file, "context")
    text = read_text(flags.context_file)
    if not flags.question.strip() or not text.strip():
        raise UserError("an empty --question or --context_file; expected a text")
    answer = saved.predict([(flags.question, text)])[0]
    # On stderr, so that stdout has the answer alone.
    note(saved.describe())
    print(saved.task.chosen(answer) or "(no answer)", file=data_stream())


def answer_file(saved: Saved, flags: SimpleNamespace, evaluating: bool) -> None:
    """Write the answers to --predict_file, and print how good they are."""
    folder = Path(flags.out or saved.folder / "predictions")
    names = ("predictions.json", "nbest_predictions.json", "null_odds.json")
    modes.check_outputs(flags, [folder / name for name in names])
    task, data = saved.task, saved.load(flags.predict_file)
    answers = task.answers(data, saved.outputs(data))
    note(saved.describe())
    # The three files have the names and the form of run_squad.py, for SQuAD's official evaluation.
    # All of them are this model's, even if another one answers at the same time.
    with locked(folder / ".lock"):
        write(folder / "predictions.json", {a.id: task.chosen(a) for a in answers})
        write(folder / "nbest_predictions.json", {a.id: a.n_best for a in answers})
        if task.with_null:
            write(folder / "null_odds.json", {a.id: a.null_odds for a in answers})
    print(f"Saved {folder}/predictions.json")
    # The official evaluation takes each question's best text and its odds; predictions.json has the
    # threshold applied already.
    if evaluating:
        print_results(task.measure(data.examples, answers))


def score(flags: SimpleNamespace) -> None:
    """--mode eval --predictions"""
    if not flags.predict_file:
        raise UserError("--mode eval needs --predict_file, SQuAD's JSON with the right answers")
    # check_mode knows the modes of the command line; scoring is --mode eval with other flags.
    names = given_flags(main, vars(flags))
    useless = [f"--{name}" for name in names if "score" not in USED_IN.get(name, "score").split()]
    if useless:
        raise UserError(
            f"--predictions were made before; leave out {', '.join(useless)}; see --help"
        )
    # The threshold is compared with the odds of each question, which answers alone do not have.
    if flags.null_score_diff_threshold and not flags.null_odds:
        raise UserError(
            "no --null_odds, which is needed with --null_score_diff_threshold; see --help"
        )
    check_language(flags.language)
    answers = read_json(flags.predictions, dict[str, str], pipe=True)
    odds = read_json(flags.null_odds, dict[str, float], pipe=True) if flags.null_odds else None
    questions = read_squad(flags.predict_file)
    threshold = flags.null_score_diff_threshold
    print_results(evaluate(questions, answers, odds, threshold, flags.language))


def write(file: Path, values: dict) -> None:
    """A dict as JSON, as the official code writes it."""
    # indent=4 and the final line end are those of run_squad.py, so that files can be compared.
    text = json_text(values, file, indent=4)
    with whole_file(file) as f:
        f.write(f"{text}\n".encode())


def print_results(results: dict[str, float]) -> None:
    """A result a line."""
    for name, value in results.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    command(main, settings=train.Config, processes=True)

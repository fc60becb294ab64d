"""Fine-tune BERT on questions about texts (SQuAD 1.1 and 2.0), answer them, evaluate the answers.

$ python squad.py --train_file train-v1.1.json --pretrain_file FOLDER --save_dir runs/squad $ python
squad.py --mode predict --predict_file dev-v1.1.json --model_file runs/squad --out runs/squad/dev $
python squad.py --mode eval --predict_file dev-v1.1.json --model_file runs/squad $ python squad.py
--question "Who won?" --context_file report.txt --model_file runs/squad
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import checkpoint
import models
import pretrained as start
import train
from cli import command
from tasks.questions import (
    N_BEST,
    Answer,
    Question,
    evaluate,
    find_answers,
    make_windows,
    read_squad,
)
from tasks.sentences import Batches
from tokenization import FullTokenizer
from utils import (
    UserError,
    file_digest,
    make,
    note,
    read_json,
    read_text,
    refuse,
    say,
    show,
    whole_file,
    write_json,
)


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
    max_len: int | None = None,
    doc_stride: int | None = None,
    max_query_len: int | None = None,
    max_answer_len: int = 30,
    n_best: int = N_BEST,
    null_score_diff_threshold: float = 0.0,
    version_2_with_negative: bool | None = None,
    keep_outside: bool = False,
    question: str | None = None,
    context_file: str | None = None,
    predictions: str | None = None,
    null_odds: str | None = None,
    out: str | None = None,
    data_parallel: bool = True,
    do_lower_case: bool | None = None,
    shard: bool = False,
    settings: dict[str, Any] | None = None,
) -> None:
    """Fine-tune BERT on questions about texts, answer them, or evaluate answers.

    Args:
        mode: train, predict or eval; default train, or with a question predict.
        train_file: SQuAD's JSON to train on.
        predict_file: SQuAD's JSON to answer, or to evaluate.
        pretrain_file: weights to start from: a TensorFlow checkpoint, a Hugging Face folder, a .pt.
            None: from scratch.
        model_file: a model trained here.
        train_cfg: JSON of train.Config; default config/train_squad.json.
        model_cfg: JSON of the model's shape, ours or Google's bert_config.json; default: what lies
            beside the weights.
        vocab: vocab.txt; default: what lies beside the weights.
        save_dir: folder of the run, which the same command goes on with; default runs/squad.
        log_dir: folder for TensorBoard's curves.
        max_len: tokens of a window; default 384, or what the model was trained with.
        doc_stride: tokens from a window's start to the next one's; default 128.
        max_query_len: tokens of a question at most; default 64.
        max_answer_len: tokens of an answer at most.
        n_best: answers that are written to nbest_predictions.json.
        null_score_diff_threshold: SQuAD 2.0: there is no answer where its score beats the best
            one's by more than this.
        version_2_with_negative: whether questions may have no answer; default: as the training data
            have it.
        keep_outside: train on windows without the answer too, where every question has one.
        question: one question, to answer from --context_file.
        context_file: a text.
        predictions: eval: answers made before ({id: text}); without them the model makes them.
        null_odds: eval: their null_odds.json, for SQuAD 2.0.
        out: folder for predictions.json, nbest_predictions.json and null_odds.json; default
            `predictions` beside the model.
        data_parallel: use all visible GPUs.
        do_lower_case: only to insist; it follows from the checkpoint.
        shard: started by torchrun, divide the model among the processes, where it does not fit into
            one GPU.
        settings: no flag of its own: every setting of train_cfg is one, such as --lr 3e-5
            (config/README.md).
    """
    if max_answer_len < 1 or n_best < 1:
        raise UserError(
            f"--max_answer_len {max_answer_len} --n_best {n_best}: expected 1 or more of each"
        )
    # What only answering heeds, where it is not as usual.
    answering = {
        "max_answer_len": max_answer_len if max_answer_len != 30 else None,
        "n_best": n_best if n_best != N_BEST else None,
    }
    threshold = {"null_score_diff_threshold": null_score_diff_threshold or None}
    mode = mode or ("predict" if question is not None else "train")
    if mode not in ("train", "predict", "eval"):
        raise UserError(f"--mode {mode}: expected train, predict or eval")
    shape = {
        "max_len": max_len,
        "doc_stride": doc_stride,
        "max_query_len": max_query_len,
        "version_2_with_negative": version_2_with_negative,
    }
    if mode == "train":
        refuse(
            "--mode train has no use for",
            predict_file=predict_file,
            model_file=model_file,
            question=question,
            context_file=context_file,
            predictions=predictions,
            null_odds=null_odds,
            out=out,
            **answering,
            **threshold,
        )
        if not train_file:
            raise UserError("--mode train needs --train_file, SQuAD's JSON")
        fit(
            train_file,
            pretrain_file,
            train_cfg,
            model_cfg,
            vocab,
            save_dir or "runs/squad",
            log_dir,
            shape,
            keep_outside,
            data_parallel,
            do_lower_case,
            settings,
            shard,
        )
        return
    refuse(
        f"--mode {mode} has no use for",
        train_file=train_file,
        pretrain_file=pretrain_file,
        save_dir=save_dir,
        log_dir=log_dir,
        keep_outside=keep_outside or None,
        shard=shard or None,
    )
    train.refuse_training_settings(mode, settings)
    if mode == "eval" and predictions:
        if not predict_file:
            raise UserError("--mode eval needs --predict_file, SQuAD's JSON with the right answers")
        refuse(
            "--predictions were made before; leave out",
            model_file=model_file,
            model_cfg=model_cfg,
            vocab=vocab,
            train_cfg=train_cfg,
            out=out,
            **shape,
            **answering,
            **(settings or {}),
        )
        if not null_odds:
            refuse("no --null_odds, which is needed with", **threshold)
        answers = read_json(predictions, dict[str, str])
        odds = read_json(null_odds, dict[str, float]) if null_odds else None
        report(evaluate(read_squad(predict_file), answers, odds, null_score_diff_threshold))
        return
    refuse(
        "no --mode eval --predictions, which is needed with",
        predictions=predictions,
        null_odds=null_odds,
    )
    if not model_file or not (predict_file or (question is not None and context_file)):
        raise UserError(
            f"--mode {mode} needs --model_file, and --predict_file or --question and --context_file"
        )
    saved = load(
        model_file, model_cfg, vocab, do_lower_case, shape, train_cfg, settings, data_parallel
    )
    if null_score_diff_threshold and not saved.with_null:
        raise UserError(
            "--null_score_diff_threshold is for SQuAD 2.0, and this model always answers; leave it "
            "out"
        )
    if question is not None:
        refuse("--question has no use for", predict_file=predict_file, out=out)
        text = read_text(str(context_file))
        if not question.strip() or not text.strip():
            raise UserError("an empty --question or --context_file; expected a text")
        answer = saved.answer(
            [Question("question", question, text)], max_answer_len, n_best, bar=False
        )[0]
        note(saved.source.words())
        none = saved.with_null and answer.null_odds > null_score_diff_threshold
        print("(no answer)" if none else answer.best)
        return
    questions = read_squad(str(predict_file))
    answers = saved.answer(questions, max_answer_len, n_best)
    note(saved.source.words())
    chosen = {
        a.id: "" if saved.with_null and a.null_odds > null_score_diff_threshold else a.best
        for a in answers
    }
    folder = Path(out or saved.source.file.parent / "predictions")
    write(folder / "predictions.json", chosen)
    write(folder / "nbest_predictions.json", {a.id: a.n_best for a in answers})
    if saved.with_null:
        write(folder / "null_odds.json", {a.id: a.null_odds for a in answers})
    print(f"Saved {folder}/predictions.json")
    if mode == "eval":
        odds = {a.id: a.null_odds for a in answers} if saved.with_null else None
        report(
            evaluate(questions, {a.id: a.best for a in answers}, odds, null_score_diff_threshold)
        )


def write(file: Path, values: dict) -> None:
    """A dict as JSON, as the official code writes it."""
    with whole_file(file) as f:
        f.write((json.dumps(values, indent=4) + "\n").encode())


def report(results: dict[str, float]) -> None:
    """Print results."""
    for name, value in results.items():
        print(f"{name}: {value}")


# ----------------------------------------------------------------------------------------- training


def get_loss(model: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean of the cross-entropies of start and end."""
    scores, positions = model(*batch[:-1]).float(), batch[-1]  # (B, S, 2), (B, 2)
    return F.cross_entropy(scores, positions), {}  # the mean over both


def fit(
    train_file: str,
    pretrain_file: str | None,
    train_cfg: str | None,
    model_cfg: str | None,
    vocab: str | None,
    save_dir: str,
    log_dir: str | None,
    shape: dict[str, Any],
    keep_outside: bool,
    data_parallel: bool,
    do_lower_case: bool | None,
    settings: dict[str, Any] | None,
    shard: bool = False,
) -> Path:
    """Train; returns the last checkpoint."""
    cfg = train.Config.from_json(
        train_cfg or Path(__file__).parent / "config" / "train_squad.json", **(settings or {})
    )
    if cfg.patience or cfg.stop_metric:
        raise UserError(
            "patience and stop_metric are about evaluation, and squad.py does not evaluate while "
            "it trains"
        )
    sizes = make(Sizes, given(shape), "the flags")
    begin = start.find(pretrain_file, model_cfg, vocab, do_lower_case, sizes.max_len)
    questions = read_squad(train_file)
    if shape["version_2_with_negative"] is None:
        sizes = dataclasses.replace(
            sizes, version_2_with_negative=any(q.impossible for q in questions)
        )
    with_null = sizes.version_2_with_negative
    kept = [
        q for q in questions if any(at >= 0 for _, at in q.answers) or (q.impossible and with_null)
    ]
    windows = make_windows(
        kept,
        begin.tokenizer,
        sizes.max_len,
        sizes.doc_stride,
        sizes.max_query_len,
        training=True,
        keep_outside=keep_outside or with_null,
    )
    if not len(windows.features):
        raise UserError(
            f"{train_file}: none of its {len(questions)} questions has an answer in its text; "
            "nothing to learn"
        )
    torch.manual_seed(cfg.seed)
    model, folder = models.QuestionAnswering(begin.config), Path(save_dir)
    begin.load(model, ("answer",), "with its answer layer")
    say(f"{train_file}: {len(kept)} of {len(questions)} questions, {len(windows.features)} windows")
    trainer = train.Trainer(
        cfg,
        model,
        Batches(windows.features, cfg.batch_size, cfg.seed),
        folder,
        {"config": dataclasses.asdict(begin.config)},
        data_parallel=data_parallel,
        log_dir=log_dir,
        shard=shard,
    )
    with begin.held(
        folder,
        model,
        cfg,
        {
            **dataclasses.asdict(sizes),
            "keep_outside": keep_outside,
            "sha256 of train_file": file_digest(train_file)[:16],
        },
    ):
        write_json(folder / "squad.json", dataclasses.asdict(sizes))
        say(train.device_name(trainer.device, trainer.n_gpus))
        return trainer.train(get_loss)


# ---------------------------------------------------------------------------------------- answering


def best_positions(model: nn.Module, batch: tuple[Tensor, ...], k: int = N_BEST) -> Tensor:
    """Of each window, (B, 4k + 2): the k best scores of a start and their positions, the same of an
    end, and the scores of [CLS] as either: no answer.
    """
    scores = model(*batch[:-1]).float()  # (B, S, 2)
    found = scores.topk(min(k, scores.shape[1]), dim=1)
    missing = k - found.values.shape[1]
    values, positions = (
        F.pad(found.values, (0, 0, 0, missing), value=-torch.inf),
        F.pad(found.indices, (0, 0, 0, missing)),
    )
    return torch.cat(
        [values[..., 0], positions[..., 0], values[..., 1], positions[..., 1], scores[:, 0]], dim=1
    )


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How questions and texts become windows: squad.json of a run."""

    max_len: int = 384  # tokens of a window
    doc_stride: int = 128  # tokens from a window's start to the next one's
    max_query_len: int = 64  # tokens of a question
    version_2_with_negative: bool = False  # whether no answer is an answer

    def __post_init__(self) -> None:
        for name in ("max_len", "doc_stride", "max_query_len"):
            if not 1 <= getattr(self, name) < 2**31:
                raise UserError(f"{name}={show(getattr(self, name))}; expected tokens, 1 or more")


@dataclasses.dataclass
class Saved:
    """A saved model, ready to answer."""

    source: checkpoint.Checkpoint
    tokenizer: FullTokenizer
    trainer: train.Trainer
    sizes: Sizes

    def __repr__(self) -> str:
        return f"<{self.source.words()}, {self.sizes}>"

    @property
    def with_null(self) -> bool:
        """Whether no answer is an answer."""
        return self.sizes.version_2_with_negative

    def answer(
        self,
        questions: list[Question],
        max_answer_len: int = 30,
        n_best: int = N_BEST,
        bar: bool = True,
    ) -> list[Answer]:
        """The best answers of every question."""
        windows = make_windows(
            questions,
            self.tokenizer,
            self.sizes.max_len,
            self.sizes.doc_stride,
            self.sizes.max_query_len,
        )
        k = max(N_BEST, n_best)
        scores = self.trainer.evaluate(
            lambda model, batch: best_positions(model, batch, k),
            Batches(windows.features, self.trainer.cfg.batch_size),
            bar,
        )
        return find_answers(questions, windows, scores, max_answer_len, self.with_null, n_best)


def load(
    model_file: str,
    model_cfg: str | None = None,
    vocab: str | None = None,
    do_lower_case: bool | None = None,
    shape: dict[str, Any] | None = None,
    train_cfg: str | None = None,
    settings: dict[str, Any] | None = None,
    data_parallel: bool = True,
) -> Saved:
    """A saved model. What is not given is read from its folder."""
    begin = start.find(model_file, model_cfg, vocab, do_lower_case, head="answer")
    assert begin.source
    values: dict[str, Any] = {"max_len": min(Sizes.max_len, begin.config.max_len)}
    beside = begin.source.file.parent / "squad.json"
    if beside.is_file():
        values |= dataclasses.asdict(make(Sizes, read_json(beside), beside))
    sizes = make(Sizes, values | given(shape or {}), "the flags")
    checkpoint.check_length(begin.config, sizes.max_len)
    cfg = (
        train.Config.from_json(train_cfg, **(settings or {}))
        if train_cfg
        else train.Config(**(settings or {}))
    )
    model = models.QuestionAnswering(begin.config)
    checkpoint.load(model, begin.source)
    trainer = train.Trainer(cfg, model, data_parallel=data_parallel)
    return Saved(begin.source, begin.tokenizer, trainer, sizes)


def given(flags: dict[str, Any]) -> dict[str, Any]:
    """The flags that were given."""
    return {name: value for name, value in flags.items() if value is not None}


if __name__ == "__main__":
    command(main, settings=train.Config, processes=True)

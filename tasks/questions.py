"""Questions about texts, SQuAD 1.1, 2.0 and alike: an answer is a piece of the text.

    task = QuestionTask(max_len=384, doc_stride=128)
    data = task.load("dev-v1.1.json", tokenizer)  # windows over the texts
    answers = task.answers(data, outputs)  # of every question, the best pieces

Rules and names follow run_squad.py of google-research/bert.
"""

import array
import collections
import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import models
from tasks import squad_metrics
from tasks.encoding import Features, most_context
from tasks.lessons import NOTHING, divergence
from tasks.question_files import read_squad
from tasks.squad_metrics import Question
from tasks.table_rows import Source, as_path
from tasks.task import AnsweringTask, Data, exact
from tokenization import FullTokenizer
from utils import UserError, short, show, warn

N_BEST = 20  # starts and ends of a window that are looked at, and answers that are written


@dataclasses.dataclass(frozen=True)
class Windows:
    """N windows over the contexts of questions. Positions are tokens of a window, [CLS] being 0."""

    question: np.ndarray  # (N,) which question each belongs to
    start: np.ndarray  # (N,) at which token of the context the piece starts
    shift: np.ndarray  # (N,) position of the piece's first token
    size: np.ndarray  # (N,) tokens of the piece
    # Of a context, (tokens, 2): the characters each token stands for.
    spans: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, repr=False)
class QuestionData(Data):
    """Questions as inputs of a model: [CLS] question [SEP] piece of context [SEP].

    The labels (N, 2) are the positions of the answer's first and last token.
    """

    windows: Windows = dataclasses.field(kw_only=True)


@dataclasses.dataclass(frozen=True)
class Answer:
    """What was found for a question."""

    id: str
    n_best: list[dict[str, Any]]  # text, probability, start_logit, end_logit; the best first
    best: str  # the best text that is not empty
    null_odds: float  # score of no answer, less that of the best
    places: list[int | None]  # where each of the n_best starts in the context

    def found(self, chosen: str) -> dict[str, Any]:
        """An answer as a program reads it; context[start:end] is its text, of none they are None.

        `chosen`: the text that the task has decided on, "" of none; all others come as n_best.
        """
        all_found = [
            {
                "answer": one["text"],
                "score": one["probability"],
                "start": place,
                "end": None if place is None else place + len(one["text"]),
            }
            for one, place in zip(self.n_best, self.places, strict=True)
        ]
        nothing = {"answer": "", "score": 0.0, "start": None, "end": None}
        first = next((one for one in all_found if one["answer"] == chosen), nothing)
        return first | {"n_best": all_found}


@dataclasses.dataclass(frozen=True)
class QuestionTask(AnsweringTask):
    """How questions and texts become windows, and scores answers."""

    name: str = "squad"
    max_len: int = dataclasses.field(default=384, kw_only=True)  # tokens of a window
    doc_stride: int = 128  # tokens from a window's start to the next one's
    max_query_len: int = 64  # tokens of a question
    # Whether no answer is an answer; None: as the training data have it.
    version_2_with_negative: bool | None = None
    keep_outside: bool = False  # train on windows without the answer in 1.1 too
    max_answer_len: int = 30  # tokens
    n_best: int = N_BEST  # answers of a question; in 2.0 no answer may come behind them
    # There is no answer where its score beats the best one's by more than this.
    null_score_diff_threshold: float = 0.0
    language: str = "en"  # of the answers, one of squad_metrics.ARTICLES

    head: ClassVar[str] = "answer"
    fresh: ClassVar[tuple[str, ...]] = ("answer",)
    settings_file: ClassVar[str] = "squad.json"
    settings = ("max_len", "doc_stride", "max_query_len", "version_2_with_negative")
    metric_names: ClassVar[tuple[str, ...]] = squad_metrics.METRICS  # type: ignore[misc]
    input_columns: ClassVar[tuple[str, ...]] = ("question", "context")  # type: ignore[misc]

    def __post_init__(self) -> None:
        for name in ("max_len", "doc_stride", "max_query_len", "max_answer_len", "n_best"):
            value = getattr(self, name)
            if not 1 <= value < 2**31:
                raise UserError(f"{name}={show(value)}; expected a number, 1 or more")
        squad_metrics.check_language(self.language)

    @property
    def with_null(self) -> bool:
        """Whether no answer is an answer."""
        return bool(self.version_2_with_negative)

    # ------------------------------------------------------------------------------------- rows

    def load(self, file: Source, tokenizer: FullTokenizer, labelled: bool = True) -> QuestionData:
        """SQuAD's JSON, or ReCoRD's JSON lines."""
        data = self.make_windows(read_squad(file), tokenizer)
        return self.reported(file, data, f"{len(data.examples)} questions")

    def load_training(
        self, file: Source, tokenizer: FullTokenizer
    ) -> tuple["QuestionTask", QuestionData]:
        """Questions of a file, without those that have nothing to learn from."""
        task, questions = self, read_squad(file)
        # SQuAD 2.0 is recognised by its impossible questions; the model keeps what it learnt.
        if self.version_2_with_negative is None:
            negative = any(question.impossible for question in questions)
            task = dataclasses.replace(self, version_2_with_negative=negative)
        kept = [
            question
            for question in questions
            if any(at >= 0 for _, at in question.answers)
            or (question.impossible and task.with_null)
        ]
        # A question without an answer to point at has no loss, unless [CLS] stands for none.
        data = task.make_windows(kept, tokenizer, training=True)
        if not len(data.features):
            raise UserError(
                f"{file}: none of its {len(questions)} questions has an answer in its text; "
                "nothing to learn"
            )
        return task, self.reported(file, data, f"{len(kept)} of {len(questions)} questions")

    def read_unlabelled(self, file: Source) -> Iterator[Question]:
        """SQuAD's JSON."""
        return iter(read_squad(file))

    def examples_of(self, inputs: Iterable[Any]) -> Iterator[Question]:
        """Pairs of a question and a context."""
        for i, given in enumerate(inputs):
            is_pair = isinstance(given, list | tuple) and len(given) == 2
            if not is_pair or not all(isinstance(text, str) for text in given):
                raise UserError(
                    f"input {i + 1} is {show(given, 40)}; expected a question and a context"
                )
            yield Question(str(i), *given)

    def encode_examples(
        self, file: Source, examples: list[Question], tokenizer: FullTokenizer
    ) -> QuestionData:
        """Windows over the contexts of questions."""
        return dataclasses.replace(self.make_windows(examples, tokenizer), file=as_path(file))

    def make_windows(
        self, questions: list[Question], tokenizer: FullTokenizer, training: bool = False
    ) -> QuestionData:
        """Windows of max_len tokens at most, a doc_stride apart.

        For training each has the tokens of the first answer as its labels, or (0, 0), [CLS], where
        the question has none. A window that lacks the answer is left out, unless no answer is an
        answer or keep_outside is set: then its labels are (0, 0) too. A question whose answers are
        all misplaced is left out.
        """
        self.check_windows()
        cls, sep = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]"])
        keep_outside = self.keep_outside or self.with_null
        # Several questions share a context of some hundred tokens, which is tokenised once.
        contexts: dict[str, tuple[list[int], np.ndarray]] = {}
        ids, labels = array.array("i"), array.array("i")
        windows: list[tuple[int, ...]] = []  # end, shift, question, start, size
        n_truncated = n_lost = 0
        for number, question in enumerate(questions):
            if question.context not in contexts:
                tokens, pairs = tokenizer.encode_with_offsets(question.context)
                spans = np.array(pairs, np.int32).reshape(-1, 2)
                contexts[question.context] = tokens, spans
            context, spans = contexts[question.context]
            # A question that is longer than max_query_len loses its end, as in run_squad.py.
            query = tokenizer.encode(question.text)
            if (over := len(query) - self.max_query_len) > 0:
                n_truncated, n_lost = n_truncated + 1, n_lost + over
                query = query[: self.max_query_len]
            # [CLS] question [SEP] comes before the piece, and a [SEP] after it.
            shift, room = len(query) + 2, self.max_len - len(query) - 3
            first, last = -1, -1
            if training and question.answers:
                placed = [answer for answer in question.answers if answer[1] >= 0]
                if not placed:
                    continue
                # SQuAD's development sets have several answers, of which one is a target.
                first, last = token_span(spans, *placed[0])
            stride = min(room, self.doc_stride)
            # The last window is the first one that reaches the end.
            for start in range(0, max(0, len(context) - room) + stride, stride):
                size = min(room, len(context) - start)
                # An answer that a window cuts in two is not in it.
                inside = start <= first and last < start + size
                if training and question.answers and not inside and not keep_outside:
                    continue
                ids.extend([cls, *query, sep, *context[start : start + size], sep])
                windows.append((len(ids), shift, number, start, size))
                # From tokens of the context to positions in the window.
                offset = shift - start
                labels.extend([first + offset, last + offset] if inside else [0, 0])
        # (windows, 5) -> five columns; the reshape keeps this true of no windows at all.
        ends, shifts, numbers, starts, sizes = np.array(windows, np.int64).reshape(-1, 5).T
        features = Features(
            np.array(ids, np.int32),
            np.append(0, ends),
            shifts,
            np.array(labels, np.int64).reshape(-1, 2),
            numbers,  # messages name the lines of a batch; questions have these instead
            n_truncated=n_truncated,
            n_lost=n_lost,
        )
        spans_of = {context: spans for context, (_, spans) in contexts.items()}
        made = Windows(numbers, starts, shifts, sizes, spans_of)
        return QuestionData(Path("the inputs"), features, questions, windows=made)

    def reported(self, file: Source, data: QuestionData, what: str) -> QuestionData:
        """The data with a summary; says what was cut off, and where one text outweighs others."""
        self.report_truncation(file, len(data.features), data.features.truncation)
        texts = [data.examples[number].context for number in data.windows.question.tolist()]
        ((longest, n),) = collections.Counter(texts).most_common(1) or [("", 0)]
        asked = sum(question.context == longest for question in data.examples)
        # A short text with many questions is nothing unusual, nor is a file with a single text.
        if len(texts) / 2 < n < len(texts) and n > asked:
            warn(
                f"{file}: one text of {len(longest)} characters, {short(longest, 40)!r}, gives {n} "
                f"of the {len(texts)} windows; are several texts joined in it?"
            )
        summary = f"{file}: {what}, {len(data.features)} windows"
        return dataclasses.replace(data, file=as_path(file), summary=summary)

    def report_truncation(
        self, file: Source, n_rows: int, truncation: np.ndarray, remedy: str = ""
    ) -> None:
        """Say how much of the questions was cut off; of their texts nothing is."""
        n_truncated, n_lost, _ = truncation
        if n_truncated:
            warn(
                f"{file}: {n_truncated} questions are longer than "
                f"max_query_len={self.max_query_len}; {n_lost} of their tokens are cut off"
            )

    def check_windows(self) -> None:
        """UserError where windows have no room, or leave out tokens between them."""
        if self.max_len < self.max_query_len + 4:
            raise UserError(
                f"max_len={self.max_len}, doc_stride={self.doc_stride}; expected max_len of at "
                f"least max_query_len + 4 = {self.max_query_len + 4}, and a doc_stride of 1 or "
                "more"
            )
        # The longest question leaves the least room.
        room = self.max_len - self.max_query_len - 3
        if self.doc_stride > room:
            raise UserError(
                f"doc_stride={self.doc_stride} is more than the {room} tokens of context that a "
                f"window has beside a question of {self.max_query_len}; tokens between windows "
                "would not be seen; lower `doc_stride`"
            )

    # ------------------------------------------------------------------------------------ model

    def model(self, config: models.Config) -> models.QuestionAnswering:
        """Two scores for each token: of being the answer's first and its last."""
        return models.QuestionAnswering(config)

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean of the cross-entropies of start and end."""
        # (B, S, 2) against (B, 2) is the mean of both cross-entropies.
        scores = exact(model(**batch.inputs))
        return F.cross_entropy(scores, batch.labels), {}

    def taught(self, model: nn.Module, batch: Any) -> Tensor:
        """(B, max_len, 2): all scores of starts and ends."""
        scores = exact(model(**batch.inputs)).clamp(min=NOTHING)
        return F.pad(scores, (0, 0, 0, self.max_len - scores.shape[1]), value=NOTHING)

    def imitation(self, ours: Tensor, theirs: Tensor, batch: Any, temperature: float) -> Tensor:
        """The mean of the divergences of start and end."""
        return divergence(ours, theirs, temperature, dim=1).mean()

    def outputs(self, model: nn.Module, batch: Any) -> Tensor:
        """(B, 2, k + 1, 2): scores and positions of the k best starts and ends, and of [CLS].

        Only these leave the GPU: all scores of a long text would fill the memory.
        """
        k = max(N_BEST, self.n_best)
        scores = exact(model(**batch.inputs))  # (B, S, 2)
        best, positions = scores.topk(min(k, scores.shape[1]), dim=1)  # (B, k, 2)
        # A batch of short windows has fewer than k tokens, and those of all batches are stacked.
        n_missing = k - best.shape[1]
        best = F.pad(best, (0, 0, 0, n_missing), value=-torch.inf)
        positions = F.pad(positions, (0, 0, 0, n_missing + 1))
        # The scores of [CLS] stand for no answer, and are never padding: what is infinite among
        # them is no number.
        null = scores[:, :1].where(scores[:, :1].isfinite(), torch.nan)  # (B, 1, 2)
        return torch.stack([torch.cat([best, null], dim=1), positions], dim=1)

    # ---------------------------------------------------------------------------------- answers

    def answers(self, data: Data, outputs: np.ndarray) -> list[Answer]:
        """Of every question the best pieces of its context.

        A piece begins where its window gives the token the most context, and has max_answer_len
        tokens at most.
        """
        assert isinstance(data, QuestionData)
        windows = data.windows
        start, size = windows.start[:, None, None], windows.size[:, None, None]
        # (N, k, 2): scores of the best starts and ends, and which tokens of the context they are
        scores = outputs[:, 0, :-1]
        tokens = outputs[:, 1, :-1].astype(np.int64) - windows.shift[:, None, None] + start
        usable = (tokens >= start) & (tokens < start + size) & np.isfinite(scores)
        # (N, 2): of [CLS] as start and end, which is no answer
        null_scores = outputs[:, 0, -1]
        # Windows of a question follow each other, so that a search finds its first and last.
        bounds = np.searchsorted(windows.question, np.arange(len(data.examples) + 1))
        found = []
        for number, question in enumerate(data.examples):
            rows = np.arange(bounds[number], bounds[number + 1])
            pieces = self.best_pieces(
                question.context, windows, rows, scores[rows], tokens[rows], usable[rows]
            )
            # A question may have no usable piece; its answer is "" then.
            best = pieces[0] if pieces else Piece("", 0.0, 0.0)
            # The window where no answer scores least.
            least = rows[null_scores[rows].sum(1).argmin()]
            null = Piece("", *null_scores[least].tolist())
            # No answer is one of the n_best, or comes behind them, as one more.
            if self.with_null:
                pieces = sorted([*pieces, null], key=lambda piece: -piece.total)[: self.n_best]
                if null not in pieces:
                    pieces.append(null)
            pieces = pieces or [Piece("", 0.0, 0.0)]
            n_best, places = with_probabilities(pieces), [piece.place for piece in pieces]
            odds = null.total - best.start - best.end
            found.append(Answer(question.id, n_best, best.text, odds, places))
        return found

    def best_pieces(
        self,
        context: str,
        windows: Windows,
        rows: np.ndarray,
        scores: np.ndarray,
        tokens: np.ndarray,
        usable: np.ndarray,
    ) -> list["Piece"]:
        """The n_best pieces of a context in the windows `rows`, each text once.

        Of each of these windows, (windows, k, 2), the scores of starts and ends, their tokens and
        which may be used.
        """
        starts, ends = tokens[..., 0], tokens[..., 1]  # (windows, k)
        # With one window no other can give a token more context.
        if len(rows) > 1:
            for i in range(len(rows)):
                # The same start is scored in several windows: where it has the most context counts.
                best = most_context(starts[i], windows.start[rows], windows.size[rows])
                usable[i, :, 0] &= best == i
        # All pairs of a start and an end, of which the valid ones are ranked.
        length = ends[:, None, :] - starts[:, :, None] + 1  # (windows, k, k)
        valid = usable[:, :, None, 0] & usable[:, None, :, 1]
        valid &= (length >= 1) & (length <= self.max_answer_len)
        total = scores[:, :, None, 0] + scores[:, None, :, 1]
        w, s, e = np.nonzero(valid)
        spans = windows.spans[context]
        pieces: dict[str, Piece] = {}
        # The same text may be found in two places; the better one stands for it.
        for i in np.argsort(-total[w, s, e], kind="stable"):
            if len(pieces) >= self.n_best:
                break
            first, last = starts[w[i], s[i]], ends[w[i], e[i]]
            text = context[spans[first, 0] : spans[last, 1]]
            found = Piece(
                text,
                float(scores[w[i], s[i], 0]),
                float(scores[w[i], e[i], 1]),
                int(spans[first, 0]),
            )
            pieces.setdefault(text, found)
        return list(pieces.values())

    def chosen(self, answer: Answer) -> str:
        """The text to answer with; "" for no answer."""
        odds = answer.null_odds
        return "" if self.with_null and odds > self.null_score_diff_threshold else answer.best

    def metrics(self, data: Data, outputs: np.ndarray) -> dict[str, float]:
        """Exact match and F1 in percent; of 2.0 also apart, and the best thresholds."""
        return self.measure(data.examples, self.answers(data, outputs))

    def measure(self, questions: list[Question], answers: list[Answer]) -> dict[str, float]:
        """metrics() of answers."""
        odds = {a.id: a.null_odds for a in answers} if self.with_null else None
        texts = {answer.id: answer.best for answer in answers}
        return squad_metrics.evaluate(
            questions, texts, odds, self.null_score_diff_threshold, self.language
        )

    # --------------------------------------------------------------------------------- settings

    def run_settings(self, data: Data, eval_data: list[Data]) -> dict[str, Any]:
        """The settings of windows, and digests of the data."""
        return {**super().run_settings(data, eval_data), "keep_outside": self.keep_outside}


# ------------------------------------------------------------------------------------------ windows


def token_span(spans: np.ndarray, text: str, start: int) -> tuple[int, int]:
    """The first and the last token that has a character of an answer; (-1, -1) if none has."""
    stripped = start + len(text) - len(text.lstrip())
    end = start + len(text.rstrip())
    first = int(np.searchsorted(spans[:, 1], stripped, "right"))
    last = int(np.searchsorted(spans[:, 0], end, "left")) - 1
    return (first, last) if first <= last else (-1, -1)


# ------------------------------------------------------------------------------------------ answers


class Piece(NamedTuple):
    """A piece of a context, and the scores of its start and its end."""

    text: str
    start: float
    end: float
    place: int | None = None  # its first character in the context; None: it is no answer

    @property
    def total(self) -> float:
        """What pieces are ranked by."""
        return self.start + self.end


def with_probabilities(pieces: list[Piece]) -> list[dict[str, Any]]:
    """Pieces as nbest_predictions.json has them."""
    totals = np.array([piece.total for piece in pieces])
    probabilities = np.exp(totals - totals.max())
    probabilities /= probabilities.sum()
    return [
        {
            "text": piece.text,
            "probability": float(probability),
            "start_logit": piece.start,
            "end_logit": piece.end,
        }
        for piece, probability in zip(pieces, probabilities, strict=True)
    ]

"""Rankers, which read a query and a text together: how well does it fit?

    task = RankTask()
    task, data = task.load_training("rows.jsonl", tokenizer)
    task.answers(data, outputs)     # [Ranked(["the best text", ...], [2.3, ...]), ...]

Each text of a query is an input, [CLS] query [SEP] text [SEP], with a score of its own. A model has
the form of ms-marco-MiniLM's: a classifier with one score.
"""

import collections
import dataclasses
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import models
from pretrained import Pretrained
from system.files import file_digest
from tasks import ranking, table_rows
from tasks.encoding import encode
from tasks.groups import GroupFeatures
from tasks.lessons import soft_labels
from tasks.pairs import Judged, cell, read_judged, read_pairs
from tasks.table_rows import Objects, Source, as_path
from tasks.task import AnsweringTask, Data, exact
from tokenization import FullTokenizer
from utils import UserError, show, warn

LOSSES = ("softmax", "pointwise", "squared", "lambda")
MOST_TEXTS = 256  # of a query, that are trained on together
MAX_LEN = 256  # tokens of a query and a text
ABSENT = -torch.inf  # the score of a text that is not there


@dataclasses.dataclass(frozen=True, slots=True)
class Candidates:
    """A query and texts that may fit it."""

    line: int  # of the file, from 1
    name: str  # of the query
    query: str
    texts: list[str]
    names: list[str]  # of the texts
    grades: list[float]  # of each; more is better
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # as they were written
    # All texts that fit the query, also those that are no candidates.
    fits: dict[str, float] = dataclasses.field(default_factory=dict)


class Ranked(NamedTuple):
    """The texts of a query, the best first."""

    texts: list[str]
    scores: list[float]


# --------------------------------------------------------------------------------------------- rows


@dataclasses.dataclass(frozen=True, repr=False)
class RankData(Data):
    """Queries with texts to rank; and those of which no text is there."""

    absent: list[Candidates] = dataclasses.field(default_factory=list, kw_only=True)


def grouped(found: Iterable[tuple[int, str, str, float]]) -> list[Candidates]:
    """(line, query, text, grade) as the candidates of each query; of equal texts the best grade."""
    queries: dict[str, tuple[int, dict[str, float]]] = {}
    for line, query, text, grade in found:
        texts = queries.setdefault(query, (line, {}))[1]
        texts[text] = max(grade, texts.get(text, grade))
    groups = []
    for n, (query, (line, texts)) in enumerate(queries.items(), start=1):
        names = [str(i) for i in range(1, len(texts) + 1)]
        grades = list(texts.values())
        fits = {name: grade for name, grade in zip(names, grades, strict=True) if grade > 0}
        groups.append(Candidates(line, str(n), query, list(texts), names, grades, fits=fits))
    return groups


def read_rows(source: Source, columns: dict[str, str | None]) -> list[Candidates]:
    """The queries of a file: rows with a grade, or with texts that do not fit."""
    found = read_pairs(source, columns)
    rows: list[tuple[int, str, str, float]] = []
    for pair in found.pairs:
        first = 1.0 if pair.score is None else pair.score
        rows.append((pair.line, pair.query, pair.texts[0], first))
        rows += [(pair.line, pair.query, text, 0.0) for text in pair.texts[1:]]
    return grouped(rows)


def read_found(file: Source, judged: Judged | None = None) -> list[Candidates]:
    """What `embed.py --mode search` wrote, JSON lines of a query and a text each.

    Args:
        judged: which texts fit, by their ids.
    """
    queries: dict[str, Candidates] = {}
    for line, row in table_rows.objects(file, expected='{"query": ..., "text": ...}')[1]:
        where = f"{file}, line {line}"
        query, text = cell(row, None, ("query",), where), cell(row, None, ("text",), where)
        name = str(row.get("query_id", query))
        if name not in queries:
            fits: dict[str, float] = dict(judged.grades.get(name, {})) if judged else {}
            if judged and judged.queries.get(name, query) != query:
                raise UserError(
                    f"{where}: the query {name} is {show(query, 30)}, and in {judged.name} "
                    f"{show(judged.queries[name], 30)}; search with its queries.jsonl"
                )
            queries[name] = Candidates(line, name, query, [], [], [], fits=fits)
        one = queries[name]
        if one.query != query:
            raise UserError(
                f"{where}: the query {name} is {show(query, 30)}, and {show(one.query, 30)} "
                "before; give each query an id of its own"
            )
        one.texts.append(text)
        one.names.append(str(row.get("id", len(one.texts))))
        one.grades.append(float(one.fits.get(one.names[-1], 0)))
        one.rows.append(row | {"text": text})
    return list(queries.values())


# --------------------------------------------------------------------------------------------- task


@dataclasses.dataclass(frozen=True)
class RankTask(AnsweringTask):
    """What is learned from queries and texts that fit them more or less."""

    name: str = "ranking"
    # One of LOSSES; None: softmax, of queries with one text each pointwise.
    rank_loss: str | None = None
    # What search found, whose texts are ranked; None: those that were judged.
    candidates: str | None = None
    # Columns; None: the usual ones.
    text_a: str | None = None
    text_b: str | None = None
    label: str | None = None
    # Tokens of a query and a text; 0: MAX_LEN, or as many as the model takes.
    max_len: int = dataclasses.field(default=0, kw_only=True)

    head: ClassVar[str] = "classifier"
    mark: ClassVar[str] = "rank_loss"
    fresh: ClassVar[tuple[str, ...]] = ("pooler", "classifier")
    settings = ("rank_loss", "text_a", "text_b", "label", "max_len")
    input_columns: ClassVar[tuple[str, ...]] = ("query", "text")  # type: ignore[misc]
    metric_names: ClassVar[tuple[str, ...]] = ranking.METRICS  # type: ignore[misc]

    def __post_init__(self) -> None:
        if self.rank_loss not in (None, *LOSSES):
            raise UserError(f"`loss={show(self.rank_loss)}`: expected {', '.join(LOSSES)}")
        if 0 != self.max_len < 5:
            raise UserError(f"`max_len={self.max_len}`: a query and a text need at least 5 tokens")

    def for_start(self, start: Pretrained) -> "RankTask":
        """With a length that the model takes."""
        usual = min(MAX_LEN, start.config.max_len)
        return dataclasses.replace(self, max_len=self.max_len or usual)

    def run_settings(self, data: Data, eval_data: list[Data]) -> dict[str, Any]:
        found = super().run_settings(data, eval_data)
        if self.candidates:
            found["sha256 of candidates"] = file_digest(self.candidates)[:16]
        return found

    # ------------------------------------------------------------------------------------- data

    def read(self, file: Source, training: bool = False) -> list[Candidates]:
        """The queries of a file, or of a BEIR folder."""
        if isinstance(file, Objects) or not Path(file).is_dir():
            if self.candidates:
                raise UserError(f"`candidates` are of a collection's queries, and {file} is a file")
            columns = {"text_a": self.text_a, "text_b": self.text_b, "label": self.label}
            return read_rows(file, columns)
        judged = read_judged(Path(file), training)
        found = read_found(self.candidates, judged) if self.candidates else []
        by_name = {one.name: one for one in found if one.fits}
        if self.candidates and not by_name:
            raise UserError(
                f"{self.candidates} has no query of {file}; search with its queries.jsonl, whose "
                "ids say which is which"
            )
        groups = []
        for i, (name, grades) in enumerate(judged.grades.items(), start=1):
            one = by_name.get(name)
            if one is None:
                one = Candidates(i, name, judged.queries[name], [], [], [], fits=dict(grades))
            if training or not self.candidates:
                # What was judged and not found teaches too.
                missing = [text for text in grades if text not in one.names]
                one.texts.extend(judged.texts[text] for text in missing)
                one.names.extend(missing)
                one.grades.extend(float(grades[text]) for text in missing)
            groups.append(one)
        return groups

    def load(self, file: Source, tokenizer: FullTokenizer, labelled: bool = True) -> Data:
        """Queries and texts to rank."""
        groups = self.read(file) if labelled else list(self.read_unlabelled(file))
        if labelled and all(grade > 0 for one in groups for grade in one.grades):
            warn(f"{file}: all of its texts fit their queries, so that any order is right")
        there = [one for one in groups if one.texts]
        data = self.described(file, self.encode_examples(file, there, tokenizer))
        absent = [one for one in groups if not one.texts]
        return RankData(data.file, data.features, data.examples, data.summary, absent=absent)

    def load_training(self, file: Source, tokenizer: FullTokenizer) -> tuple["RankTask", Data]:
        """The task with the loss that suits the data; and the data."""
        groups = self.read(file, training=True)
        useful = [one for one in groups if len(set(one.grades)) > 1]
        loss = self.rank_loss or ("softmax" if useful else "pointwise")
        if loss in ("softmax", "lambda"):
            if not useful:
                raise UserError(
                    f"{file}: no query has texts of different grades, which `loss={loss}` "
                    "compares; use pointwise, or name candidates"
                )
            # All texts of a query alike teach nothing.
            groups = [one for one in useful if max(one.grades) > 0]
        if loss == "pointwise" and all(grade > 0 for one in groups for grade in one.grades):
            raise UserError(
                f"{file}: all of its texts fit, which teaches that everything does; `mode=mine` of "
                "embed.py finds texts that do not, or name `candidates`"
            )
        groups = [one for one in groups if one.texts]
        self.check_sizes(file, groups)
        task = dataclasses.replace(self, rank_loss=loss)
        return task, task.described(file, task.encode_examples(file, groups, tokenizer))

    def check_sizes(self, file: Any, examples: list[Candidates]) -> None:
        """UserError where a query has more texts than can be computed together."""
        if long := next((one for one in examples if len(one.texts) > MOST_TEXTS), None):
            raise UserError(
                f"{file}: the query {show(long.query, 30)} has {len(long.texts)} texts; expected "
                f"at most {MOST_TEXTS}, which are computed together"
            )

    def described(self, file: Source, data: Data) -> Data:
        """The data with a line about them."""
        n = sum(len(one.texts) for one in data.examples)
        fit = sum(grade > 0 for one in data.examples for grade in one.grades)
        self.report_truncation(file, n, data.features.truncation)
        summary = f"{file}: {len(data.examples)} queries, {n} texts, {fit} that fit"
        return dataclasses.replace(data, summary=summary)

    def encode_examples(
        self, file: Source, examples: list[Candidates], tokenizer: FullTokenizer
    ) -> Data:
        """Queries that were read already."""
        if not examples:
            raise UserError(f"{file} has no queries")
        inputs: dict[tuple[str, str | None], int] = {}
        most = max(1, *(len(one.texts) for one in examples))
        which = np.full((len(examples), most), -1)
        grades = np.zeros((len(examples), most), np.float32)
        for row, values, one in zip(which, grades, examples, strict=True):
            for i, (text, grade) in enumerate(zip(one.texts, one.grades, strict=True)):
                row[i], values[i] = inputs.setdefault((one.query, text), len(inputs)), grade
        encoded = encode(list(inputs), tokenizer, self.max_len or MAX_LEN)
        lines = [one.line for one in examples]
        return Data(as_path(file), GroupFeatures.of(encoded, which, grades, lines), examples)

    def read_unlabelled(self, file: Source) -> Iterator[Candidates]:
        """What search found."""
        return iter(read_found(file))

    def examples_of(self, inputs: Iterable[Any]) -> Iterator[Candidates]:
        """Pairs of a query and a text, or a list of texts."""
        for line, given in enumerate(inputs, start=1):
            is_pair = isinstance(given, list | tuple) and len(given) == 2
            texts = given[1] if is_pair else None
            texts = [texts] if isinstance(texts, str) else texts
            if not is_pair or not isinstance(given[0], str) or not isinstance(texts, list):
                raise UserError(
                    f"input {line} is {show(given, 40)}; expected a query and a list of texts"
                )
            if not texts or not all(isinstance(text, str) for text in texts):
                raise UserError(f"input {line}: {show(texts, 40)}; expected one text or more")
            names = [str(i) for i in range(len(texts))]
            yield Candidates(line, str(line), given[0], texts, names, [0.0] * len(texts))

    # ------------------------------------------------------------------------------------ model

    def model(self, config: models.Config) -> models.Classifier:
        """A score for each query with a text."""
        return models.Classifier(config, 1)

    def match_head(self, source: Pretrained, training: bool) -> Pretrained:
        """One score; a classifier of more labels is another task's."""
        n = len(source.tensors["classifier.bias"]) if "classifier" in source.heads else 1
        if n == 1:
            return dataclasses.replace(source, labels=None)
        if training:
            return source.without(self.head)
        raise UserError(
            f"{source.file} has {n} scores, one for each label; a ranker has one: train it with "
            "rank.py"
        )

    def outputs(self, model: nn.Module, batch: Any) -> Tensor:
        """(B, K): the score of each text, minus infinity where there is none."""
        scores = exact(model(**batch.inputs)).squeeze(1)  # (N,)
        # Index -1, of a text that does not exist, is the last score.
        return F.pad(scores, (0, 1), value=ABSENT)[batch.which]

    def imitation(self, ours: Tensor, theirs: Tensor, batch: Any, temperature: float) -> Tensor:
        """Squared error or divergence of each score by itself, or of a query's texts together."""
        there = batch.which >= 0
        if self.rank_loss not in ("pointwise", "squared"):
            return super().imitation(ours, theirs, batch, temperature)
        # A text that does not exist has the same score of both.
        ours, theirs = (scores.where(there, 0.0) for scores in (ours, theirs))
        if self.rank_loss == "squared":
            losses = (ours - theirs) ** 2
        else:
            losses = soft_labels(ours[..., None], theirs[..., None], temperature, dim=-1)
        return (losses.sum(1) / there.sum(1)).mean()

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean over the queries of a batch of the loss that the task names."""
        scores, grades, there = self.outputs(model, batch), batch.labels, batch.which >= 0
        if self.rank_loss in ("pointwise", "squared"):
            return pointwise(scores, grades, there, self.rank_loss == "squared"), {}
        if self.rank_loss == "lambda":
            return lambda_loss(scores, grades, there), {}
        return softmax_loss(scores, grades, there), {}

    # ---------------------------------------------------------------------------------- answers

    def answers(self, data: Data, outputs: np.ndarray) -> list[Ranked]:
        """The texts of each query, the best first; of equal scores the first one."""
        found = []
        for one, row in zip(data.examples, outputs, strict=True):
            order = np.argsort(-row[: len(one.texts)], kind="stable")
            found.append(Ranked([one.texts[i] for i in order], row[order].tolist()))
        return found

    def lines(self, data: Data, answers: list[Ranked], first: int) -> Iterator[str]:
        """A line of JSON for each text, as it was read, with its new rank and score."""
        for one, answer in zip(data.examples, answers, strict=True):
            rows = one.rows or [{"query": one.query, "text": text} for text in one.texts]
            by_text = collections.defaultdict(list)
            for row in rows:
                by_text[row["text"]].append(row)
            pairs = zip(answer.texts, answer.scores, strict=True)
            for rank, (text, score) in enumerate(pairs, start=1):
                row = by_text[text].pop(0)
                yield json.dumps(row | {"rank": rank, "score": score}, ensure_ascii=False)

    def metrics(self, data: Data, outputs: np.ndarray) -> dict[str, float]:
        """How well the texts are ranked; what fits and is no candidate counts as not found."""
        scores, grades = {}, {}
        for one, row in zip(data.examples, outputs, strict=True):
            scores[one.name] = dict(zip(one.names, row.tolist(), strict=False))
            grades[one.name] = one.fits
        # Where search found nothing, nothing is ranked.
        grades |= {one.name: one.fits for one in getattr(data, "absent", [])}
        if not any(grade > 0 for fits in grades.values() for grade in fits.values()):
            raise UserError(f"{data.file}: no text fits a query; expected grades of 1 or more")
        return ranking.measure(scores, grades)

    @classmethod
    def of_weights(cls, values: dict[str, Any], source: Pretrained) -> dict[str, Any]:
        """Weights from elsewhere have other settings beside them, or none."""
        return values | {"max_len": values["max_len"] or min(MAX_LEN, source.config.max_len)}


# ------------------------------------------------------------------------------------------- losses


def softmax_loss(scores: Tensor, grades: Tensor, there: Tensor) -> Tensor:
    """The cross-entropy of the texts of each query, whose shares are their grades'."""
    shares = grades.to(scores.dtype).clamp(min=0) * there
    shares = shares / shares.sum(1, keepdim=True).clamp(min=1e-12)
    logs = scores.log_softmax(1).masked_fill(~there, 0)
    return -(shares * logs).sum(1).mean()


def pointwise(scores: Tensor, grades: Tensor, there: Tensor, squared: bool) -> Tensor:
    """Of each text by itself: whether its grade is above 0, or the grade as a number."""
    scores = scores.masked_fill(~there, 0)
    if squared:
        losses = (scores - grades) ** 2
    else:
        truth = (grades > 0).to(scores.dtype)
        losses = F.binary_cross_entropy_with_logits(scores, truth, reduction="none")
    # The mean of each query's texts, so that parts of a batch add up.
    return ((losses * there).sum(1) / there.sum(1).clamp(min=1)).mean()


def lambda_loss(scores: Tensor, grades: Tensor, there: Tensor) -> Tensor:
    """ln(1 + exp(b - a)) of texts a that fit better than b, by how much nDCG would lose.

    Wang et al., "The LambdaLoss Framework for Ranking Metric Optimization" (2018), with the weights
    of LambdaRank: gains are grades, the discount is log2(rank + 1).
    """
    gains = grades.clamp(min=0) * there
    ranks = scores.detach().argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    discounts = 1 / torch.log2(ranks.to(scores.dtype) + 2)
    places = torch.arange(scores.shape[1], device=scores.device).to(scores.dtype)
    best = (gains.sort(1, descending=True).values / torch.log2(places + 2)).sum(1)
    # (B, K, K) of texts a and b
    lost = (gains[:, :, None] - gains[:, None]) * (discounts[:, :, None] - discounts[:, None])
    weights = lost.abs() / best.clamp(min=1e-12)[:, None, None]
    better = (gains[:, :, None] > gains[:, None]) & there[:, :, None] & there[:, None]
    known = scores.masked_fill(~there, 0)
    losses = F.softplus(known[:, None] - known[:, :, None])
    return (losses * weights * better).sum((1, 2)).mean()

"""Vectors of texts: what is alike is near. Pairs, triplets, numbers, groups, BEIR's collections.

    task = VectorTask(pooling="mean")
    task, data = task.load_training("pairs.jsonl", tokenizer)
    task.load("sts-dev.csv", tokenizer)     # judged by Spearman; a BEIR folder by nDCG@10 ...

A row is a query and texts, each an input of its own. The loss looks at all rows of a batch, so that
it is the same for any number of parts and processes.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import models
from formats.sentence_encoders import Form, stated_length
from pretrained import Pretrained
from system.files import read_settings
from tasks import bitext, contrast, ranking
from tasks.contrast import PairFeatures, Relations
from tasks.encoding import encode
from tasks.metrics import pearson, spearman
from tasks.nearest import search
from tasks.pairs import Judged, Pairs, as_judged, read_judged, read_pairs, read_texts
from tasks.rankers import Candidates
from tasks.table_rows import Objects, Source, as_path
from tasks.task import AnsweringTask, Data, exact
from tokenization import FullTokenizer
from training.whole import WholeLoss
from utils import UserError, show, typed

MAX_LEN = 256  # tokens of a text, where the folder does not say it
SIMILARITY = ("Spearman", "Pearson")
TRANSLATIONS = ("Accuracy", "F1")  # F1 at the best threshold
MOST_TEXTS = 64  # of a row


def length_of(start: Pretrained) -> int | None:
    """Tokens of a text that a run was trained on, or that a sentence encoder's folder says."""
    trained = read_settings(start.folder / VectorTask.settings_file)
    if VectorTask.mark in trained:
        return typed(trained.get("max_len"), int | None, "max_len")
    # Weights alone, which are converted, have no tokenizer to agree with.
    found = start.found_tokenizer
    return stated_length(start.folder, found is None or found.do_lower_case)


def encoder_of(config: models.Config, form: Form) -> models.SentenceEncoder:
    """A model whose vectors have a form."""
    return models.SentenceEncoder(config, form.pooling, form.normalize, form.dense, form.activation)


def form_of(start: Pretrained, given: Mapping[str, Any] | None = None) -> Form | None:
    """How what lies beside weights says that a text becomes a vector: a run's, or its folder.

    Args:
        given: what is said otherwise, of which the folder need not be understood.
    """
    return VectorTask.form_beside(start.folder) or Form.of(start.folder, given or {})


# --------------------------------------------------------------------------------------------- data


@dataclasses.dataclass(frozen=True, repr=False)
class VectorData(Data):
    """Texts to evaluate: pairs with numbers, or queries and texts to find."""

    judged: Judged | None = dataclasses.field(default=None, kw_only=True)
    # (pairs, 2) the texts of each pair with a number, which is its label.
    pairs: np.ndarray | None = dataclasses.field(default=None, kw_only=True)
    scores: np.ndarray | None = dataclasses.field(default=None, kw_only=True)

    def __len__(self) -> int:
        if self.judged:
            return len(self.judged.grades)
        return len(self.examples) if self.pairs is None else len(self.pairs)


@dataclasses.dataclass(frozen=True)
class VectorTask(AnsweringTask):
    """What is learned from texts that belong together."""

    name: str = "vectors"
    # As formats.sentence_encoders.Form has them; None: as the folder of the weights says.
    pooling: str | None = None
    normalize: bool | None = None
    dense: int | None = None
    activation: str | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    # One of contrast.LOSSES; None: contrastive, of pairs with numbers cosent.
    loss_name: str | None = None
    temperature: float = 0.05  # of contrastive
    both_ways: bool = False  # of contrastive: also the query among all queries
    margin: float = 0.2  # of cosines, in the loss of that name
    widths: tuple[int, ...] = ()  # first elements of a vector that are vectors too
    bitext: bool = False  # whether pairs are translations, judged by margins
    # Columns; None: the usual ones.
    text_a: str | None = None
    text_b: str | None = None
    label: str | None = None
    # Tokens; 0: as the folder of the weights says, else MAX_LEN.
    max_len: int = dataclasses.field(default=0, kw_only=True)

    may_lack_labels: ClassVar[bool] = False  # pairs are known to fit
    head: ClassVar[str] = "encoder"
    mark: ClassVar[str] = "pooling"
    fresh: ClassVar[tuple[str, ...]] = ("dense",)
    settings = (
        *("pooling", "normalize", "dense", "activation", "query_prompt", "document_prompt"),
        *("loss_name", "temperature", "both_ways", "margin", "widths"),
        *("text_a", "text_b", "label", "max_len"),
    )
    input_columns: ClassVar[tuple[str, ...]] = ("text",)  # type: ignore[misc]
    metric_names: ClassVar[tuple[str, ...]] = (  # type: ignore[misc]
        *SIMILARITY,
        *ranking.METRICS,
        *TRANSLATIONS,
    )

    def __post_init__(self) -> None:
        self.form  # noqa: B018 (checks its values)
        if self.loss_name not in (None, *contrast.LOSSES):
            raise UserError(f"`loss={show(self.loss_name)}`: expected {', '.join(contrast.LOSSES)}")
        if not self.temperature > 0:
            raise UserError(f"`temperature={self.temperature}`: expected more than 0")
        if any(width < 1 for width in self.widths) or 0 != self.max_len < 3:
            raise UserError(
                f"`widths={self.widths}` `max_len={self.max_len}`: expected widths of 1 or more, "
                "and 3 tokens or more"
            )

    @property
    def form(self) -> Form:
        """How a text becomes a vector."""
        return dataclasses.replace(Form(), **self.form_given)

    @property
    def form_given(self) -> dict[str, Any]:
        """What was said of the form."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(Form)}
        return {name: value for name, value in values.items() if value is not None}

    def for_start(self, start: Pretrained) -> "VectorTask":
        """With the form and the length that the folder of the weights states."""
        known = start.is_trained
        stated = (form_of(start, self.form_given) if known else None) or Form()
        form = dataclasses.replace(stated, **self.form_given)
        length = self.max_len or (length_of(start) if known else None) or MAX_LEN
        if not self.max_len:
            length = min(length, start.config.max_len)
        return dataclasses.replace(self, **dataclasses.asdict(form), max_len=length)

    @classmethod
    def form_beside(cls, folder: Path) -> Form | None:
        """What a run's folder says; None: it is none of vectors."""
        values = read_settings(folder / cls.settings_file)
        if cls.mark not in values:
            return None
        names = [field.name for field in dataclasses.fields(Form)]
        return Form(**{name: values[name] for name in names if name in values})

    @property
    def columns(self) -> dict[str, str | None]:
        """The columns that were named."""
        return {"text_a": self.text_a, "text_b": self.text_b, "label": self.label}

    # ------------------------------------------------------------------------------------- data

    def load(self, file: Source, tokenizer: FullTokenizer, labelled: bool = True) -> VectorData:
        """Pairs with numbers, pairs without, or a BEIR folder, to evaluate."""
        if not labelled:
            return self.encode_examples(file, list(self.read_unlabelled(file)), tokenizer)
        if not isinstance(file, Objects) and Path(file).is_dir():
            return self.judged_data(file, read_judged(Path(file)), tokenizer)
        found = read_pairs(file, self.columns)
        if not found.scored:
            return self.judged_data(file, as_judged(found), tokenizer)
        number: dict[str, int] = {}
        pairs = [
            [number.setdefault(t, len(number)) for t in (p.query, p.texts[0])] for p in found.pairs
        ]
        # Both texts are of one kind, so that no prompt tells them apart.
        data = self.encode_examples(
            file, [self.form.document_prompt + text for text in number], tokenizer
        )
        scores = np.array([pair.score for pair in found.pairs], float)
        return dataclasses.replace(
            data, summary=found.describe(), pairs=np.array(pairs), scores=scores
        )

    def judged_data(self, file: Source, judged: Judged, tokenizer: FullTokenizer) -> VectorData:
        """Queries, then the texts to find."""
        queries = [self.form.query_prompt + judged.queries[name] for name in judged.grades]
        texts = [self.form.document_prompt + text for text in judged.texts.values()]
        data = self.encode_examples(file, queries + texts, tokenizer)
        return dataclasses.replace(data, summary=judged.describe(), judged=judged)

    def load_training(self, file: Source, tokenizer: FullTokenizer) -> tuple["VectorTask", Data]:
        """The task with the loss that suits the data; and the data."""
        found = read_pairs(file, self.columns)
        loss = self.loss_name or ("cosent" if found.scored else "contrastive")
        if (loss in ("cosent", "cosine")) != found.scored:
            have = "have a number" if found.scored else "have none"
            raise UserError(
                f"`loss={loss}`: the pairs of {file} {have}; contrastive and margin are for pairs "
                "that belong together, cosent and cosine for pairs with a number"
            )
        if found.scored and len({pair.score for pair in found.pairs}) == 1:
            raise UserError(
                f"{file}: every pair has the score {found.pairs[0].score:g}, which teaches "
                "nothing; leave the column out where all pairs fit, or name the right one with "
                "`label`"
            )
        most = max(len(pair.texts) for pair in found.pairs)
        if loss == "margin" and most < 2:
            raise UserError(f"`loss=margin`: {file} has no texts that do not fit (negatives)")
        if most > MOST_TEXTS:
            raise UserError(f"{file}: a row has {most} texts; expected at most {MOST_TEXTS}")
        if loss == "contrastive" and len({pair.texts[0] for pair in found.pairs}) < 2 > most:
            raise UserError(f"{file}: one text fits all queries, so that none is wrong for any")
        task = dataclasses.replace(self, loss_name=loss)
        return task, task.training_data(file, found, tokenizer)

    def training_data(self, file: Source, found: Pairs, tokenizer: FullTokenizer) -> Data:
        """Rows of a query and its texts; a text that occurs twice is one input."""
        inputs, form = dict[str, int](), self.form
        which = np.full((len(found.pairs), 1 + max(len(p.texts) for p in found.pairs)), -1)
        fitting = set[tuple[int, int]]()

        def number(text: str, prompt: str) -> int:
            return inputs.setdefault(prompt + text, len(inputs))

        for row, pair in zip(which, found.pairs, strict=True):
            row[0] = number(pair.query, form.query_prompt)
            for i, text in enumerate(pair.texts, start=1):
                row[i] = number(text, form.document_prompt)
            fitting.add((row[0], row[1]))
        for query in {pair.query for pair in found.pairs}:
            # A text is no wrong answer to itself either.
            for text in {query, *found.related.get(query, ())}:
                if (place := inputs.get(form.document_prompt + text)) is not None:
                    fitting.add((inputs[form.query_prompt + query], place))
        group = np.full(len(inputs), -1)
        for text, n in found.groups.items():
            for prompt in (form.query_prompt, form.document_prompt):
                if (place := inputs.get(prompt + text)) is not None:
                    group[place] = n
        encoded = encode([(text, None) for text in inputs], tokenizer, self.max_len or MAX_LEN)
        self.report_truncation(file, len(encoded.second), encoded.truncation)
        scores = np.array([pair.score or 0.0 for pair in found.pairs], np.float32)
        # STS benchmark's are 0 to 5, a cosine is 1 at most.
        scores /= max(1.0, float(scores.max(initial=0)))
        lines = [pair.line for pair in found.pairs]
        keys = np.array(sorted(q * len(encoded.second) + t for q, t in fitting), np.int64)
        features = PairFeatures.of(encoded, which, scores, lines, fitting=keys, group=group)
        return Data(as_path(file), features, list(found.pairs), found.describe())

    def encode_examples(
        self, file: Source, examples: Sequence[str], tokenizer: FullTokenizer
    ) -> VectorData:
        """Texts as they are."""
        features = encode([(text, None) for text in examples], tokenizer, self.max_len or MAX_LEN)
        self.report_truncation(file, len(features), features.truncation)
        return VectorData(as_path(file), features, list(examples))

    def read_unlabelled(self, file: Source) -> Iterator[str]:
        """The texts of a file."""
        return (text for _, text in read_texts(str(file), self.text_a))

    def examples_of(self, inputs: Iterable[Any]) -> Iterator[str]:
        """Texts."""
        for line, text in enumerate(inputs, start=1):
            if not isinstance(text, str):
                raise UserError(f"input {line} is {show(text, 40)}; expected a text")
            yield text

    # ------------------------------------------------------------------------------------ model

    def model(self, config: models.Config) -> models.SentenceEncoder:
        """A vector for each text."""
        return encoder_of(config, self.form)

    def check_start(self, start: Pretrained) -> None:
        super().check_start(start)
        width = self.form.dense or start.config.dim
        if wide := [one for one in self.widths if one > width]:
            raise UserError(f"`widths={wide[0]}`: the vectors have {width} elements")

    def check_batch_size(self, n: int) -> None:
        if n < 2 and self.loss_name in ("contrastive", "cosent"):
            raise UserError(
                f"`batch_size={n}`: `loss={self.loss_name}` compares the rows of a batch; expected "
                "2 or more, the more the better"
            )

    def loss_of(self, vectors: Tensor, relations: Relations) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch's vectors (B, K, D); with shorter ones the mean over all widths."""
        widths = sorted({*self.widths, vectors.shape[-1]})
        losses = [self.loss_at(vectors[..., :width], relations) for width in widths]
        return torch.stack(losses).mean(), {}

    def loss_at(self, vectors: Tensor, relations: Relations) -> Tensor:
        """The loss that the task names."""
        if self.loss_name == "cosent":
            return contrast.cosent(vectors, relations)
        if self.loss_name == "cosine":
            return contrast.cosine(vectors, relations)
        if self.loss_name == "margin":
            return contrast.margin(vectors, relations, self.margin)
        return contrast.contrastive(vectors, relations, self.temperature, self.both_ways)

    def rows_to_rank(self, data: Data) -> list[Candidates]:
        """The training rows as a ranker reads them; UserError where all have one text."""
        if max(len(pair.texts) for pair in data.examples) < 2:
            raise UserError(
                f"{data.file}: a ranker teaches by how much a text is above others, and these rows "
                "have one each; add texts that do not fit, which `mode=mine` finds"
            )
        rows = []
        for n, pair in enumerate(data.examples):
            names = [str(i) for i in range(len(pair.texts))]
            texts, none = list(pair.texts), [0.0] * len(pair.texts)
            rows.append(Candidates(pair.line, str(n), pair.query, texts, names, none, fits={}))
        return rows

    def as_taught(self, teacher: Any, theirs: Pretrained, ours: Pretrained) -> "VectorTask":
        """With the teacher's own pooling; UserError where its vectors are of another width."""
        prompts = ("query_prompt", "document_prompt")
        if any(getattr(teacher.form, name) != getattr(self.form, name) for name in prompts):
            raise UserError(
                f"the teacher's prompts are {show(teacher.form.query_prompt)} and "
                f"{show(teacher.form.document_prompt)}; set `query_prompt` and `document_prompt` so"
            )
        widths = [
            task.form.dense or one.config.dim for task, one in ((teacher, theirs), (self, ours))
        ]
        if widths[0] != widths[1]:
            raise UserError(
                f"the teacher's vectors have {widths[0]} elements, these {widths[1]}; add "
                f"`dense={widths[0]}`"
            )
        return dataclasses.replace(self, **dataclasses.asdict(teacher.form))

    def imitation(self, ours: Tensor, theirs: Tensor, batch: Any, temperature: float) -> Tensor:
        """How far vectors (B, K, D) are from the teacher's in direction.

        Of a ranker's scores (B, K - 1): by how much a query's first text should be above the
        others, squared (Hofstaetter et al., arXiv 2010.02666).
        """
        there = ours.abs().sum(-1) > 0  # (B, K)
        if theirs.dim() == 3:
            angles = (1 - F.cosine_similarity(ours, theirs, dim=-1)) * there
            return (angles.sum(1) / there.sum(1)).mean()
        cosines = F.cosine_similarity(ours[:, :1], ours[:, 1:], dim=-1) / self.temperature
        others = there[:, 2:]
        scores = theirs[:, :1] - theirs[:, 1:].where(others, 0.0)
        margins = cosines[:, :1] - cosines[:, 1:] - scores
        return (margins**2 * others).sum() / others.sum().clamp(min=1)

    @property
    def loss(self) -> WholeLoss:  # type: ignore[override]
        """Of all rows of a batch at once."""
        return WholeLoss(self.outputs, self.loss_of)

    def outputs(self, model: nn.Module, batch: Any) -> Tensor:
        """(B, D) the vector of each text; of training rows (B, K, D), zeros where there is none."""
        vectors = exact(model(**batch.inputs))  # (N, D)
        if batch.which is None:
            return vectors
        # Index -1, of a text that does not exist, is the last vector.
        return F.pad(vectors, (0, 0, 0, 1))[batch.which]

    # ---------------------------------------------------------------------------------- answers

    def answers(self, data: Data, outputs: np.ndarray) -> list[np.ndarray]:
        """The vectors themselves."""
        return list(outputs)

    def metrics(self, data: Data, outputs: np.ndarray) -> dict[str, float]:
        """Spearman's and Pearson's correlation of cosines and numbers; or how well is found."""
        assert isinstance(data, VectorData)
        vectors = F.normalize(torch.from_numpy(outputs).float(), dim=-1).numpy()
        if data.pairs is not None:
            assert data.scores is not None
            a, b = vectors[data.pairs[:, 0]], vectors[data.pairs[:, 1]]
            cosines = (a * b).sum(1, dtype=np.float64)
            return {
                "Spearman": spearman(cosines, data.scores),
                "Pearson": pearson(cosines, data.scores),
            }
        judged = data.judged
        assert judged
        n = len(judged.grades)
        if self.bitext:
            return translations(judged, vectors[:n], vectors[n:])
        names = list(judged.texts)
        places, scores = search(vectors[n:], vectors[:n], ranking.DEPTH)
        found = {
            query: {names[i]: float(score) for i, score in zip(row, values, strict=True)}
            for query, row, values in zip(judged.grades, places, scores, strict=True)
        }
        if judged.by_text:
            for query, row in found.items():
                itself = judged.queries[query]
                found[query] = {n: s for n, s in row.items() if judged.texts[n] != itself}
        return ranking.measure(found, judged.grades)

    # --------------------------------------------------------------------------------- settings

    @classmethod
    def of_weights(cls, values: dict[str, Any], source: Pretrained) -> dict[str, Any]:
        """A folder of sentence-transformers says its form in files of its own."""
        if cls.mark not in values and (form := Form.of(source.folder, {})):
            values = dataclasses.asdict(form) | values
        if (length := stated_length(source.folder, source.tokenizer.do_lower_case)) is not None:
            values = values | {"max_len": min(length, source.config.max_len)}
        if not values.get("max_len"):
            values = values | {"max_len": min(MAX_LEN, source.config.max_len)}
        if "widths" in values:
            values["widths"] = tuple(values["widths"])
        return values


def translations(judged: Judged, queries: np.ndarray, texts: np.ndarray) -> dict[str, float]:
    """How often the best margin finds a translation, and F1 at the best threshold."""
    number = {name: i for i, name in enumerate(judged.texts)}
    gold = {
        i: {number[name] for name, grade in grades.items() if grade > 0}
        for i, grades in enumerate(judged.grades.values())
    }
    places, margins = bitext.best_margins(queries, texts)
    right = [int(place) in gold[i] for i, place in enumerate(places)]
    return {"Accuracy": float(np.mean(right)), "F1": bitext.best_f1(places, margins, gold)[0]}

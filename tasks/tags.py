"""A tag for each word: named entities, parts of speech.

    task = TagTask()
    task, data = task.load_training("train.txt", tokenizer)
    answers = task.answers(data, outputs)  # [Tagged(words, tags, probabilities), ...]

The tag of a word is predicted at its first piece. What is longer than max_len is cut into windows
that overlap, and each word is tagged in the one that gives it the most context.
"""

import array
import collections
import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import models
from pretrained import Pretrained
from system.texts import check_encoding
from tasks import splits
from tasks.conlleval import Counts, chunks
from tasks.encoding import Batch, Batches, Features, window_starts
from tasks.labels import alike
from tasks.lessons import divergence
from tasks.notations import (
    are_entities,
    best_path,
    hyphenated,
    legal_steps,
    notation_of,
    to_bio,
)
from tasks.spans import Tagged, are_spans, as_object, read_spans, with_spans
from tasks.table_rows import Objects, Source, as_path, open_text
from tasks.task import AnsweringTask, Data, exact
from tasks.words import WORD, Text, read_texts, split_words, with_column
from tokenization import FullTokenizer
from utils import UserError, nearest, short, show, warn

CONTEXTS = ("sentence", "document")
DECODERS = ("greedy", "viterbi")
AGGREGATIONS = ("entities", "words")
IGNORED = -100  # the label of a token that has no tag
LISTED = 20  # tags, in a message


def count(names: collections.Counter[str]) -> str:
    """Names and how often each occurs, the most frequent first.  'O 9, B-PER 3'"""
    shown = [f"{short(name, 30) or 'no type'} {n}" for name, n in names.most_common(LISTED)]
    if len(names) > LISTED:
        shown.append("...")
    return ", ".join(shown)


def places(texts: list[Text], tags: list[str]) -> str:
    """The lines of some tags, the first of them.  "'0' in line 3, 'PER' in line 9 and 2 more" """
    found = [
        f"{show(tag, 30)} in line {text.line_of(i)}"
        for text in texts
        for i, tag in enumerate(text.tags)
        if tag in tags
    ]
    more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
    return ", ".join(found[:LISTED]) + more


def report_marks(file: Source, tags: collections.Counter[str]) -> None:
    """Say so where some tags mark entities, and too many others do not for a file of entities."""
    marks = [tag for tag in tags if re.fullmatch("[BI]-.+", tag)]
    if marks:
        other = next(tag for tag, _ in tags.most_common() if tag not in marks)
        warn(
            f"{file}: {sum(tags[tag] for tag in marks)} of {tags.total()} tags mark entities, such "
            f"as {show(marks[0])}, others do not, such as {show(other)}: all are taken as they "
            "are; outside of entities O is expected"
        )


# ------------------------------------------------------------------------------------------ batches


class TagFeatures(Features):
    """Inputs with a label for each token, in an array like `ids`."""

    def batches(self, batch_size: int, seed: int | None = None) -> "TagBatches":
        """Batches of these inputs."""
        return TagBatches(self, batch_size, seed)


class TagBatches(Batches):
    """Batches of inputs with labels for their tokens."""

    def __init__(self, features: Features, batch_size: int, seed: int | None = None):
        super().__init__(features, batch_size, seed)
        # (N,) labels of each input, which has two tokens at least.
        labelled = (features.labels != IGNORED).astype(int)
        self.n_labels = np.add.reduceat(labelled, features.starts[:-1])

    def shard(self, n: int, rank: int, world: int) -> Batch:
        """The rows rank, rank + world, ... of batch n, on the CPU."""
        rows = self.rows(n)
        # A part needs the labels of the whole batch: the loss is their mean.
        weight = len(rows) / max(int(self.n_labels[rows].sum()), 1)
        rows = rows[rank::world]
        inputs = self.padded(rows)
        features, real = self.features, inputs[2].bool().numpy()
        labels = features.spread(features.labels, rows, real, empty=IGNORED)
        weights = torch.full((len(rows),), weight)
        return Batch(*inputs, torch.from_numpy(labels), weights)


def window_of(tokens: np.ndarray, starts: np.ndarray, size: int) -> np.ndarray:
    """Which of some windows of one size gives each token the most context: the nearest middle."""
    # Halfway between the middles of two windows, both give as much, and the first one is taken.
    halfway = (starts[1:] + starts[:-1] + size - 1) / 2
    return np.searchsorted(halfway, tokens, "left")


# --------------------------------------------------------------------------------------------- data


@dataclasses.dataclass(frozen=True, repr=False)
class TagData(Data):
    """Texts as inputs of a model: [CLS] pieces of words [SEP]."""

    of_input: np.ndarray = dataclasses.field(kw_only=True)  # (words,) in which input each is tagged
    position: np.ndarray = dataclasses.field(kw_only=True)  # (words,) at which of its tokens


@dataclasses.dataclass(frozen=True)
class TagTask(AnsweringTask):
    """What is learned from words with tags."""

    name: str = "tags"
    # The tags in the order of their ids; (): those of the training data.
    labels: tuple[str, ...] = ()
    column: str | None = None  # of the tags, as read_texts has it
    context: str = "sentence"  # what fills an input: a sentence, or all that fits of a document
    # The best tag of each word, repaired as BIO says; or of entities the best legal sequence.
    decode: str = "greedy"
    # Answers are JSON with the spans of entities or of words; None: in the form of the texts' file.
    aggregation: str | None = None
    max_len: int = dataclasses.field(default=128, kw_only=True)  # tokens

    head: ClassVar[str] = "tags"
    fresh: ClassVar[tuple[str, ...]] = ("tags",)
    settings = ("labels", "column", "context", "max_len")
    input_columns: ClassVar[tuple[str, ...]] = ("tokens|words|text",)  # type: ignore[misc]

    def __post_init__(self) -> None:
        if self.context not in CONTEXTS:
            raise UserError(f"`context={show(self.context)}`: expected {' or '.join(CONTEXTS)}")
        if self.aggregation not in (None, *AGGREGATIONS):
            raise UserError(
                f"`aggregation={show(self.aggregation)}`: expected {' or '.join(AGGREGATIONS)}"
            )
        check_encoding(self.encoding)
        if self.decode not in DECODERS:
            raise UserError(f"`decode={show(self.decode)}`: expected {' or '.join(DECODERS)}")
        if self.decode == "viterbi" and self.labels and not self.is_entities:
            raise UserError("`decode=viterbi` is for entities, tagged in BIO; leave it out")
        if self.max_len < 3:
            raise UserError(f"max_len={self.max_len}; a word needs at least 3 tokens")

    @property
    def is_entities(self) -> bool:
        """Whether the tags mark entities, which F1 judges, and accuracy does not."""
        return are_entities(self.labels)

    # ------------------------------------------------------------------------------------- rows

    def read_unlabelled(self, file: Source) -> Iterator[Text]:
        """The texts of a file; `-` is standard input, a plain text a line."""
        if not isinstance(file, Objects) and str(file) == "-":
            lines = open_text(file, "tsv", encoding=self.encoding)[1]
            return self.examples_of(line.rstrip("\r\n") for line in lines)
        return self.texts_of(file, labelled=False)

    def texts_of(self, file: Source, labelled: bool = True) -> Iterator[Text]:
        """The texts of a file, one by one."""
        if isinstance(file, Objects) or are_spans(file):
            return read_spans(file, labelled, self.encoding)
        column = self.column if labelled else None
        return read_texts(file, column, labelled, self.context == "document", self.encoding)

    def examples_of(self, inputs: Iterable[Any]) -> Iterator[Text]:
        """Plain texts, which are split into words, or lists of words."""
        for line, given in enumerate(inputs, start=1):
            words = split_words(given) if isinstance(given, str) else given
            is_list = isinstance(words, list | tuple)
            if not is_list or not all(isinstance(word, str) for word in words):
                raise UserError(f"input {line} is {show(given, 40)}; expected a text or its words")
            # As lines they end with a blank one, as sentences of a file do.
            text = Text(line, list(words), [], [0], [*words, ""], list(range(len(words))))
            if isinstance(given, str):
                text.given = given
                text.offsets = [match.span() for match in WORD.finditer(given)]
            yield text

    def load(self, file: Source, tokenizer: FullTokenizer, labelled: bool = True) -> TagData:
        """A file of words and tags."""
        return self.encode_file(file, self.read(file, labelled), tokenizer)

    def load_training(self, file: Source, tokenizer: FullTokenizer) -> tuple["TagTask", TagData]:
        """The task with the tags of its training data; and the data."""
        texts = self.read(file, training=True)
        tags, n_words = {tag for t in texts for tag in t.tags}, sum(len(t.words) for t in texts)
        # Tags that hardly repeat are words or numbers: the wrong column was named.
        if len(tags) < 2 or len(tags) > max(10, n_words / 2):
            raise UserError(
                f"{file}: {len(tags)} tags of {n_words} words, such as {show(min(tags), 40)}; "
                "expected two or more that repeat; name the right column with `column`"
            )
        if are_entities(tags):
            kinds = collections.Counter(tag[2:] for t in texts for tag in t.tags if tag != "O")
            if same := alike(kinds):
                raise UserError(
                    f"{file}: the types {show(same[0])} and {show(same[1])} are alike but for how "
                    "they are written; make them one"
                )
            # A type whose names all have one word may have longer ones elsewhere.
            tags |= {prefix + tag[1:] for tag in tags - {"O"} for prefix in "BI"}
        task = dataclasses.replace(self, labels=tuple(sorted(tags)))
        if task.is_entities and tokenizer.do_lower_case:
            warn(
                "The vocabulary is lower-cased, and capital letters help to recognise names; a "
                "cased model finds more of them"
            )
        return task, task.encode_file(file, texts, tokenizer)

    def read(self, file: Source, labelled: bool = True, training: bool = False) -> list[Text]:
        """All texts of a file; the tags of chunks in BIO.

        Where most tags mark chunks, the others are mistakes: a UserError where they would be
        learnt; where they are compared they count as O, and a note says so.
        """
        texts = list(self.texts_of(file, labelled))
        tags = collections.Counter(tag for text in texts for tag in text.tags)
        if not (notation := notation_of(tags)):
            report_marks(file, tags)
            return texts
        bio = {tag: hyphenated(tag, notation) for tag in tags}
        # What a model was trained with stays as it is.
        if not training:
            bio |= {tag: tag for tag in tags if tag in self.labels}
        if any(new not in (None, tag) for tag, new in bio.items()):
            warn(f"{file}: its tags are written as {notation}; they are read as B-PER")
        strays = [tag for tag, new in bio.items() if new is None]
        if strays:
            n = sum(tags[tag] for tag in strays)
            message = (
                f"{file}: {n} of {tags.total()} tags mark no entity: "
                f"{places(texts, strays)}; expected O or {notation} as the others"
            )
            if training:
                raise UserError(f"{message}; mend these lines")
            warn(f"{message}; they count as O")
        for text in texts:
            text.tags = [bio[tag] or "O" for tag in text.tags]
        if are_entities({tag for text in texts for tag in text.tags}):
            for text in texts:
                text.tags = [tag for tags in text.sentences(text.tags) for tag in to_bio(tags)]
        return texts

    def encode_file(self, file: Source, texts: list[Text], tokenizer: FullTokenizer) -> TagData:
        """All texts of a file, and a line about them."""
        sentences = [tags for text in texts for tags in text.sentences(text.tags)]
        tags = collections.Counter(tag for text in texts for tag in text.tags)
        summary = f"{file}: {len(sentences)} sentences, {sum(len(t.words) for t in texts)} words, "
        summary += f"{len(tags)} tags"
        kinds = collections.Counter(kind for one in sentences for kind, _, _ in chunks(one))
        if self.is_entities:
            summary += f", {kinds.total()} entities"
        if texts and texts[0].layout:
            summary += f"; {texts[0].layout.describe(count(tags))}"
        if self.is_entities and kinds:
            summary += f"; entities: {count(kinds)}"
        data = self.encode_examples(file, texts, tokenizer)
        return dataclasses.replace(data, summary=summary)

    def encode_examples(
        self, file: Source, examples: list[Text], tokenizer: FullTokenizer
    ) -> TagData:
        """Texts that were read already, as windows of max_len tokens at most."""
        cls, sep, unknown = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]", "[UNK]"])
        room = self.max_len - 2
        ids, labels = array.array("i"), array.array("q")
        starts, lines, of_input, position = [0], list[int](), list[int](), list[int]()
        for text in examples:
            pieces, first = list[int](), list[int]()
            for word in text.words:
                first.append(len(pieces))
                # A word of control characters alone has no piece, and a tag all the same.
                pieces += tokenizer.encode(word) or [unknown]
            heads = np.array(first, int)
            # In which window each word is tagged, in rising order, and its label.
            offsets = np.array(window_starts(len(pieces), room))
            chosen = window_of(heads, offsets, min(room, len(pieces)))
            # Words that lack tags have some id all the same, which says where they stand.
            known = np.zeros(len(heads), int)
            if text.tags:
                known[:] = [self.label_id(tag, file, text) for tag in text.tags]
            of_input += (len(lines) + chosen).tolist()
            position += (heads - offsets[chosen] + 1).tolist()  # after [CLS]
            bounds = np.searchsorted(chosen, np.arange(len(offsets) + 1))
            for offset, start, end in zip(offsets, bounds, bounds[1:], strict=False):
                window = pieces[offset : offset + room]
                row = np.full(len(window) + 2, IGNORED)
                row[heads[start:end] - offset + 1] = known[start:end]
                ids.extend([cls, *window, sep])
                labels.extend(row.tolist())
                starts.append(len(ids))
                lines.append(text.line)
        features = TagFeatures(
            np.array(ids, np.int32),
            np.array(starts),
            # One text: no token is in segment 1.
            second=np.diff(starts),
            labels=np.array(labels, np.int64),
            lines=np.array(lines, int),
        )
        return TagData(
            as_path(file),
            features,
            examples,
            of_input=np.array(of_input, int),
            position=np.array(position, int),
        )

    def divide(
        self, data: Data, shares: Sequence[float], seed: int, tokenizer: FullTokenizer
    ) -> list[Data]:
        """The parts of data: a text counts for the rarest of its types, or of its tags."""
        texts: list[Text] = data.examples
        kinds = [{tag[2:] if self.is_entities else tag for tag in text.tags} for text in texts]
        counts = collections.Counter(kind for found in kinds for kind in found)
        rarest = [min(found, key=lambda kind: (counts[kind], kind)) for found in kinds]
        words = [tuple(word.lower() for word in text.words) for text in texts]
        part_of = splits.split_together(rarest, [words], shares, seed)
        parts = (
            [text for text, part in zip(texts, part_of, strict=True) if part == i]
            for i in range(len(shares))
        )
        return [self.encode_file(data.file, part, tokenizer) for part in parts]

    def held_out(self, examples: list[Text]) -> Objects:
        """Texts in the form that they had in JSON, or as `tokens` and `ner_tags`."""
        rows = [text.source or {"tokens": text.words, "ner_tags": text.tags} for text in examples]
        return Objects(rows, splits.HELD_OUT)

    def label_id(self, tag: str, file: Source, text: Text) -> int:
        """The id of a tag; UserError at one that the training data lack."""
        if tag in self.labels:
            return self.labels.index(tag)
        line = text.line_of(text.tags.index(tag))
        raise UserError(
            f"{file}, line {line}: the tag {show(tag)} is not in the training data"
            f"{nearest(tag, self.labels)}; their tags are {short(', '.join(self.labels), 100)}; is "
            "it a file of the same kind, and the same `column`?"
        )

    # ------------------------------------------------------------------------------------ model

    def model(self, config: models.Config) -> models.Tagger:
        """A score for each tag at each token."""
        return models.Tagger(config, len(self.labels))

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean cross-entropy over the words of a batch."""
        scores = exact(model(**batch.inputs))  # (B, S, tags)
        losses = F.cross_entropy(
            scores.transpose(1, 2), batch.labels, ignore_index=IGNORED, reduction="none"
        )
        # The weights contain the number of words in the whole batch, so that parts of it add up.
        return (losses.sum(1) * batch.weights).mean(), {}

    def taught(self, model: nn.Module, batch: Any) -> Tensor:
        """(B, max_len, tags): all scores."""
        scores = exact(model(**batch.inputs))
        return F.pad(scores, (0, 0, 0, self.max_len - scores.shape[1]))

    def imitation(self, ours: Tensor, theirs: Tensor, batch: Any, temperature: float) -> Tensor:
        """The mean over the words of a batch."""
        there = batch.labels != IGNORED  # (B, S)
        n = there.shape[1]
        losses = divergence(ours[:, :n], theirs[:, :n], temperature) * there
        return (losses.sum(1) * batch.weights).mean()

    def outputs(self, model: nn.Module, batch: Any) -> Tensor:
        """(B, 2, max_len): the best tag of each token and its probability; zeros where padded.

        To decode by Viterbi (B, tags, max_len): the logarithm of every tag's probability.
        """
        scores = exact(model(**batch.inputs))  # (B, S, tags)
        if self.decode == "viterbi":
            found = scores.log_softmax(-1).transpose(1, 2)
        else:
            best = scores.softmax(-1).max(-1)  # (B, S) x 2
            found = torch.stack([best.indices.float(), best.values], dim=1)
        # Windows of all batches are stacked later.
        return F.pad(found, (0, self.max_len - found.shape[2]))

    # ---------------------------------------------------------------------------------- answers

    def answers(self, data: Data, outputs: np.ndarray) -> list[Tagged]:
        """The tags of each text's words."""
        assert isinstance(data, TagData)
        scores = outputs[data.of_input, :, data.position]  # (words, 2), or (words, tags)
        if self.decode == "viterbi":
            scores = self.best_sequences(data.examples, scores)
        tags, probabilities = scores.T  # (words,) x 2
        names = [self.labels[int(tag)] for tag in tags]
        answers, start = [], 0
        for text in data.examples:
            end = start + len(text.words)
            found = names[start:end], probabilities[start:end].tolist()
            answers.append(Tagged(text.words, *found, text.given, text.offsets))
            start = end
        return answers

    def best_sequences(self, texts: list[Text], scores: np.ndarray) -> np.ndarray:
        """(words, 2): the tags of each sentence's best legal sequence, and their probabilities."""
        begin, legal = legal_steps(self.labels)
        tags, start = list[int](), 0
        for text in texts:
            bounds = [start + first for first in (*text.starts, len(text.words))]
            for a, b in itertools.pairwise(bounds):
                tags += best_path(scores[a:b], begin, legal)
            start += len(text.words)
        rows = np.arange(len(tags))
        return np.stack([np.array(tags, float), np.exp(scores[rows, tags])], axis=1)

    def count(self, texts: list[Text], answers: list[Tagged]) -> Counts:
        """Predicted tags against the gold ones."""
        counts = Counts()
        # The gold tags are BIO, whatever scheme a model from elsewhere has learnt.
        other_scheme = self.is_entities and any(label[0] not in "BIO" for label in self.labels)
        for text, answer in zip(texts, answers, strict=True):
            predicted = text.sentences(answer.tags)
            for gold, found in zip(text.sentences(text.tags), predicted, strict=True):
                counts.add(gold, to_bio(found) if other_scheme else found)
        return counts

    def metrics(self, data: Data, outputs: np.ndarray) -> dict[str, float]:
        """F1, precision and recall of entities as conlleval counts them, and accuracy."""
        return self.measure(self.count(data.examples, self.answers(data, outputs)))

    def measure(self, counts: Counts) -> dict[str, float]:
        """metrics() of counted words."""
        precision, recall, f1 = counts.overall
        found = {"F1": f1, "Precision": precision, "Recall": recall, "Accuracy": counts.accuracy}
        # Shares of the percentages that conlleval prints, so that both have the same digits.
        return {name: found[name] / 100 for name in self.metric_names}

    @property
    def metric_names(self) -> tuple[str, ...]:
        """F1 ... of entities; accuracy."""
        # Before training it is not known what the tags are.
        entities = self.is_entities or not self.labels
        return ("F1", "Precision", "Recall", "Accuracy") if entities else ("Accuracy",)

    def lines(self, data: Data, answers: list[Tagged], first: int) -> Iterator[str]:
        """The lines of a file, a tag after the columns of each word."""
        by_word = self.aggregation == "words" or not self.is_entities
        for text, answer in zip(data.examples, answers, strict=True):
            spans = answer.by_word if by_word else answer.entities
            if self.aggregation and (text.source is None or "tokens" in text.source):
                yield as_object(text, spans)
            elif text.source is None:
                yield from with_column(text, answer.tags)
            else:
                yield with_spans(text, answer.tags, spans)

    # --------------------------------------------------------------------------------- settings

    @classmethod
    def of_weights(cls, values: dict[str, Any], source: Pretrained) -> dict[str, Any]:
        """Weights from elsewhere name their labels in config.json, or not at all."""
        n_tags = len(source.tensors["tags.bias"])
        numbered = [f"LABEL_{i}" for i in range(n_tags)]
        return {"labels": source.labels or numbered} | values

    def match_head(self, source: Pretrained, training: bool) -> Pretrained:
        """Weights whose head has the task's tags; for training another one is left out."""
        if tuple(source.labels or ()) == self.labels or not training:
            return source
        if set(source.labels or ()) != set(self.labels):
            return source.without(self.head)
        # The same tags in another order: Hugging Face's are not sorted.
        rows = [source.labels.index(label) for label in self.labels]  # type: ignore[union-attr]
        tensors = {name: source.tensors[name][rows] for name in ("tags.weight", "tags.bias")}
        return dataclasses.replace(source, tensors=source.tensors | tensors)

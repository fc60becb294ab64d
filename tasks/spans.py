"""Texts with marked spans, as annotation tools write them, as words with tags; and back.

    for text in read_spans("doccano.jsonl"):
        text.words, text.tags       # ["Ada", "left", "."], ["B-PER", "O", "O"]

doccano, Prodigy, spaCy, Label Studio and `datasets`, each known by the keys of its objects:

    {"text": "Ada left.", "label": [[0, 3, "PER"]]}                         doccano, spaCy
    {"text": "Ada left.", "spans": [{"start": 0, "end": 3, "label": "PER"}]}            Prodigy
    {"data": {"text": ...}, "annotations": [{"result": [{"value": {...}}]}]}       Label Studio
    {"tokens": ["Ada", "left", "."], "ner_tags": ["B-PER", "O", "O"]}                datasets
"""

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from system import forms
from tasks import table_rows
from tasks.conlleval import Chunk, chunks
from tasks.words import WORD, Text
from utils import UserError, in_a_line, short, show, warn

SPAN_KEYS = ("label", "labels", "entities", "spans", "ents")
TAG_KEYS = ("ner_tags", "tags", "labels", "pos_tags", "upos")
START, END, TYPE = ("start", "start_offset"), ("end", "end_offset"), ("label", "type", "labels")
EXPECTED = 'an object with "text" and spans, or with "tokens" and their tags'


class Span(NamedTuple):
    """A marked part of a text."""

    start: int  # of its first character
    end: int  # behind its last
    type: str


class Entity(NamedTuple):
    """A name in a text, which is text[start:end] of what was given."""

    type: str
    text: str
    start: int
    end: int
    score: float  # the mean probability of its words' tags


class Tagged(NamedTuple):
    """The words of a text and their tags."""

    words: list[str]
    tags: list[str]
    probabilities: list[float]  # of each tag

    given: str = ""  # the text that the words are of; "": words with blanks between them
    offsets: Sequence[tuple[int, int]] = ()  # where each word stands in it

    @property
    def entities(self) -> list[Entity]:
        """The names among them."""
        return self.marked(chunks(self.tags))

    @property
    def by_word(self) -> list[Entity]:
        """The words that have a tag other than O, each by itself: of B-PER the type is PER."""
        kinds = [re.sub("^[BI]-", "", tag) for tag in self.tags]
        return self.marked([(kind, i, i + 1) for i, kind in enumerate(kinds) if kind != "O"])

    def marked(self, found: list[Chunk]) -> list[Entity]:
        """Runs of words, with where each stands."""
        given, offsets = (self.given, self.offsets) if self.given else joined(self.words)
        entities = []
        for kind, a, b in found:
            start, end = offsets[a][0], offsets[b - 1][1]
            score = sum(self.probabilities[a:b]) / (b - a)
            entities.append(Entity(kind, given[start:end], start, end, score))
        return entities


def are_spans(file: str | Path) -> bool:
    """Whether a file is JSON or Parquet, which have spans or tokens, not lines of words."""
    if str(file) == "-":
        return False
    return forms.recognise(file, unpack=True) in (
        "json lines",
        "json array",
        "json object",
        "parquet",
    )


def read_spans(
    file: table_rows.Source, labelled: bool = True, encoding: str | None = None
) -> Iterator[Text]:
    """The texts of a file, one by one; UserError names the line of a span that cannot be."""
    name, objects = table_rows.objects(file, encoding, EXPECTED, class_names=True)
    cut, overlapping = list[str](), list[str]()
    for line, values in objects:
        where = f"{name}, line {line}"
        if "tokens" in values:
            yield of_tokens(values, line, where, labelled)
            continue
        text = text_of(values, where)
        spans = sorted(set(spans_of(values, text, where))) if labelled else []
        yield of_text(values, text, kept(spans, text, line, overlapping), line, labelled, cut)
    for found, what in (
        (cut, "cut a word, which is split there"),
        (overlapping, "overlap another, and the longest is kept"),
    ):
        if found:
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            warn(f"{name}: spans {what} ({len(found)}): {'; '.join(found[:3])}{more}")


def of_tokens(values: dict[str, Any], line: int, where: str, labelled: bool) -> Text:
    """Words and tags of a row of `datasets`."""
    words, key = values["tokens"], next((key for key in TAG_KEYS if key in values), None)
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UserError(f"{where}: 'tokens' is {show(words, 40)}; expected a list of words")
    tags: list[str] = []
    if labelled:
        if key is None:
            raise UserError(f"{where}: no tags beside its tokens; expected {' or '.join(TAG_KEYS)}")
        tags = values[key]
        if not isinstance(tags, list) or len(tags) != len(words):
            raise UserError(f"{where}: {show(tags, 40)}; expected a tag for each of its tokens")
        if odd := [tag for tag in tags if not isinstance(tag, str)]:
            raise UserError(
                f"{where}: the tag {show(odd[0])} is a number, and nothing says its name; write "
                "tags as texts, or the file as Parquet from datasets, which has their names"
            )
    given, offsets = joined(words)
    text = Text(line, list(words), list(tags), [0], [*words, ""], list(range(len(words))))
    text.given, text.offsets, text.source = given, offsets, values
    return text


def joined(words: list[str]) -> tuple[str, list[tuple[int, int]]]:
    """Words with a blank between them, and where each stands."""
    offsets, start = [], 0
    for word in words:
        offsets.append((start, start + len(word)))
        start += len(word) + 1
    return " ".join(words), offsets


def text_of(values: dict[str, Any], where: str) -> str:
    """The text of an object; of Label Studio's the one of its data."""
    inside = values.get("data", values)
    text = inside.get("text") if isinstance(inside, dict) else None
    if not isinstance(text, str):
        raise UserError(f"{where}: found {short(', '.join(values), 60)}; expected {EXPECTED}")
    return text


def spans_of(values: dict[str, Any], text: str, where: str) -> Iterator[Span]:
    """The spans of an object, checked against its text; blanks at their ends are left out."""
    for item in items_of(values, where):
        start, end, kind = fields_of(item, where)
        if not 0 <= start < end <= len(text):
            raise UserError(
                f"{where}: a span from {start} to {end}, and the text has {len(text)} characters; "
                "mend the span"
            )
        said = item.get("text") if isinstance(item, dict) else None
        if isinstance(said, str) and said.strip() != text[start:end].strip():
            raise UserError(
                f"{where}: the span from {start} to {end} is {show(text[start:end], 30)}, and said "
                f"to be {show(said, 30)}; offsets have to count characters of the text"
            )
        marked = text[start:end]
        start += len(marked) - len(marked.lstrip())
        end -= len(marked) - len(marked.rstrip())
        if start < end:
            yield Span(start, end, kind)


def items_of(values: dict[str, Any], where: str) -> list[Any]:
    """What marks the spans of an object, as they stand there."""
    if "annotations" in values:
        # Label Studio: several people may have annotated a text, and some of them given up.
        done = [one for one in values["annotations"] if not one.get("was_cancelled")]
        if len(done) > 1:
            raise UserError(f"{where}: {len(done)} annotations of one text; keep one of them")
        results = done[0].get("result", []) if done else []
        return [one["value"] for one in results if isinstance(one.get("value"), dict)]
    key = next((key for key in SPAN_KEYS if isinstance(values.get(key), list)), None)
    if key is None:
        raise UserError(
            f"{where}: no spans; expected {', '.join(SPAN_KEYS)}, [] where there are none"
        )
    return values[key]


def fields_of(item: Any, where: str) -> tuple[int, int, str]:
    """Start, end and type of a span."""
    found: list[Any] = list(item) if isinstance(item, list | tuple) else []
    if isinstance(item, dict):
        found = [
            next((item[name] for name in names if name in item), None)
            for names in (START, END, TYPE)
        ]
        # Label Studio lists the types that a span may have.
        if len(found) == 3 and isinstance(found[2], list) and len(found[2]) == 1:
            [found[2]] = found[2]
    whole = len(found) >= 3 and type(found[0]) is type(found[1]) is int
    if not whole or not isinstance(found[2], str) or not found[2].strip():
        raise UserError(f"{where}: the span {show(item, 50)}; expected start, end and a type")
    return found[0], found[1], found[2].strip()


def kept(spans: list[Span], text: str, line: int, overlapping: list[str]) -> list[Span]:
    """The spans without those that overlap a longer one, which are reported."""
    found: list[Span] = []
    # The longest first, of equal ones the first.
    for span in sorted(spans, key=lambda span: (span.start - span.end, span.start)):
        if any(span.start < other.end and other.start < span.end for other in found):
            overlapping.append(f"line {line}, {in_a_line(short(text[span.start : span.end], 30))}")
        else:
            found.append(span)
    return sorted(found)


def of_text(
    values: dict[str, Any], text: str, spans: list[Span], line: int, labelled: bool, cut: list[str]
) -> Text:
    """The words of a text, split where a span begins or ends inside one, with their tags."""
    bounds = {bound for span in spans for bound in (span.start, span.end)}
    offsets = list[tuple[int, int]]()
    for match in WORD.finditer(text):
        inside = sorted(bound for bound in bounds if match.start() < bound < match.end())
        if inside:
            cut.append(f"line {line}, {in_a_line(short(match[0], 30))}")
        places = [match.start(), *inside, match.end()]
        offsets += itertools.pairwise(places)
    words = [text[start:end] for start, end in offsets]
    found = Text(line, words, [], [0], [*words, ""], list(range(len(words))))
    found.given, found.offsets, found.source = text, offsets, values
    if labelled:
        found.tags = ["O"] * len(words)
        for span in spans:
            rows = [i for i, (a, b) in enumerate(offsets) if span.start <= a and b <= span.end]
            for i in rows:
                found.tags[i] = f"{'B' if i == rows[0] else 'I'}-{span.type}"
    return found


# ------------------------------------------------------------------------------------------ writing


def with_spans(text: Text, tags: list[str], entities: list[Any]) -> str:
    """The object that a text stood in as a line of JSON, with other tags or spans in its form.

    Args:
        entities: tags.Entity each.
    """
    values = dict(text.source or {})
    if "tokens" in values:
        key = next((key for key in TAG_KEYS if key in values), TAG_KEYS[0])
        values[key] = tags
    elif "data" in values:
        # What Label Studio shows to an annotator, who corrects it.
        result = [
            {
                "from_name": "label",
                "to_name": "text",
                "type": "labels",
                "value": {"start": e.start, "end": e.end, "text": e.text, "labels": [e.type]},
            }
            for e in entities
        ]
        values["predictions"] = [{"result": result}]
    else:
        key = next((key for key in SPAN_KEYS if isinstance(values.get(key), list)), SPAN_KEYS[0])
        before = values.get(key) or []
        values[key] = [span_like(before[0] if before else [], e) for e in entities]
    return json.dumps(values, ensure_ascii=False, default=str)


def as_object(text: Text, spans: list[Entity]) -> str:
    """A text and its spans as a line of JSON, whatever form it came in."""
    given = text.given or joined(text.words)[0]
    values = (text.source or {}) | {"text": given, "spans": [span._asdict() for span in spans]}
    return json.dumps(values, ensure_ascii=False, default=str)


def span_like(example: Any, entity: Any) -> Any:
    """A span in the form of another: a list, or an object with the same keys."""
    if not isinstance(example, dict):
        return [entity.start, entity.end, entity.type]
    names = [next(name for name in known if name in example) for known in (START, END, TYPE)]
    return dict(zip(names, (entity.start, entity.end, entity.type), strict=True))

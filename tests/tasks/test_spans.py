"""Spans of annotation tools: what each marks, what is wrong with one, and the same form back."""

import collections
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import pretrained
from tasks.spans import Entity, Tagged, read_spans, with_spans
from tasks.tags import TagTask
from utils import UserError

TEXT = "Ada Lovelace left the U.N. in Paris-Nord."
SPANS = [(0, 12, "PER"), (22, 26, "ORG"), (30, 40, "LOC")]
WORDS = ["Ada", "Lovelace", "left", "the", "U.N.", "in", "Paris-Nord", "."]
TAGS = ["B-PER", "I-PER", "O", "O", "B-ORG", "O", "B-LOC", "O"]
ENTITIES = [Entity(kind, TEXT[a:b], a, b, 0.5) for a, b, kind in SPANS]

PRODIGY = [{"start": a, "end": b, "label": kind, "token_start": 1} for a, b, kind in SPANS]
DOCCANO = [{"id": 1, "start_offset": a, "end_offset": b, "label": kind} for a, b, kind in SPANS]
STUDIO = [
    {"value": {"start": a, "end": b, "text": TEXT[a:b], "labels": [kind]}, "type": "labels"}
    for a, b, kind in SPANS
]
FORMS: dict[str, Any] = {
    "doccano": {"id": 3, "text": TEXT, "label": SPANS},
    "doccano, objects": {"id": 3, "text": TEXT, "entities": DOCCANO, "relations": []},
    "Prodigy": {"text": TEXT, "spans": PRODIGY, "answer": "accept"},
    "spaCy": {"text": TEXT, "entities": SPANS},
    "Label Studio": {"id": 1, "data": {"text": TEXT}, "annotations": [{"result": STUDIO}]},
    "Label Studio, small": {"text": TEXT, "label": [one["value"] for one in STUDIO]},
    "datasets": {"id": "0", "tokens": WORDS, "ner_tags": TAGS},
}


def write(folder: Path, *rows: Any) -> Path:
    file = folder / "spans.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_words_and_tags(tmp_path: Path, form: str) -> None:
    other = {"text": "Nothing.", "label": []} if form != "datasets" else FORMS["datasets"]
    [text, _] = read_spans(write(tmp_path, FORMS[form], other))
    assert (text.words, text.tags) == (WORDS, TAGS)
    assert [text.given[a:b] for a, b in text.offsets] == WORDS
    (tmp_path / "array.json").write_text(json.dumps([FORMS[form]]))
    [text] = read_spans(tmp_path / "array.json")
    assert (text.words, text.tags) == (WORDS, TAGS)


def test_spacy_s_lists_and_datasets_with_numbers_are_read(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(json.dumps([[TEXT, {"entities": SPANS}]]))
    [text] = read_spans(tmp_path / "train.json")
    assert (text.words, text.tags) == (WORDS, TAGS)
    names = ["O", "B-PER", "I-PER", "B-ORG", "B-LOC"]
    numbers = [names.index(tag) for tag in TAGS]
    with pytest.raises(UserError, match=r"the tag 1 is a number, and nothing says its name"):
        list(read_spans(write(tmp_path, {"tokens": WORDS, "ner_tags": numbers})))
    frame = pd.DataFrame({"tokens": [WORDS], "ner_tags": [numbers]})
    table = __import__("pyarrow").Table.from_pandas(frame)
    feature = {"feature": {"names": names, "_type": "ClassLabel"}, "_type": "Sequence"}
    about = {"info": {"features": {"ner_tags": feature}}}
    table = table.replace_schema_metadata({"huggingface": json.dumps(about)})
    __import__("pyarrow.parquet").parquet.write_table(table, tmp_path / "x.parquet")
    [text] = read_spans(tmp_path / "x.parquet")
    assert (text.words, text.tags) == (WORDS, TAGS)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_predicted_comes_back_in_the_same_form(tmp_path: Path, form: str) -> None:
    given = FORMS[form]
    [text, _] = read_spans(write(tmp_path, given, given), labelled=False)
    found = json.loads(with_spans(text, TAGS, ENTITIES))
    if form == "Label Studio":
        # For whoever corrects it; what was annotated stays.
        [prediction] = found.pop("predictions")
        assert [one["value"] for one in prediction["result"]] == [one["value"] for one in STUDIO]
        assert found == given
        return
    # Read again it says the same.
    [again, _] = read_spans(write(tmp_path, found, given))
    assert (again.words, again.tags) == (WORDS, TAGS)
    assert found.keys() == given.keys()


def test_entities_are_parts_of_what_was_given() -> None:
    task = TagTask(labels=("B-LOC", "B-ORG", "B-PER", "I-PER", "O"))
    given = [TEXT, WORDS, "  Ada\tLovelace,  and  U.N.!"]
    for text in task.examples_of(given):
        tags = [*TAGS[:2], *["O"] * (len(text.words) - 2)]
        found = Tagged(text.words, tags, [0.5] * len(tags), text.given, text.offsets).entities
        whole = text.given or " ".join(text.words)
        assert [(e.type, whole[e.start : e.end], e.score) for e in found] == [
            ("PER", found[0].text, 0.5)
        ]
        assert found[0].text.split() == WORDS[:2]


def test_a_word_is_split_where_a_span_cuts_it(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    row = {"text": "A Berlin-based  firm", "label": [[2, 8, "LOC"], [16, 20, "ORG"]]}
    [text] = read_spans(write(tmp_path, row))
    assert list(zip(text.words, text.tags, strict=True)) == [
        ("A", "O"),
        ("Berlin", "B-LOC"),
        ("-based", "O"),
        ("firm", "B-ORG"),
    ]
    assert capsys.readouterr().err.endswith(
        "spans cut a word, which is split there (1): line 1, Berlin-based\n"
    )


def test_of_overlapping_spans_the_longest_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    spans = [[0, 3, "PER"], [0, 12, "PER"], [4, 17, "ORG"], [30, 41, "LOC"]]
    [text] = read_spans(write(tmp_path, {"text": TEXT, "label": spans}))
    assert text.tags == ["B-PER", "B-ORG", "I-ORG", "O", "O", "O", "B-LOC", "I-LOC"]
    told = "spans overlap another, and the longest is kept (1): line 1, Ada Lovelace\n"
    assert capsys.readouterr().err.endswith(told)


def test_blanks_at_the_ends_of_a_span_belong_to_no_word(tmp_path: Path) -> None:
    [text] = read_spans(write(tmp_path, {"text": TEXT, "label": [[0, 13, "PER"], [21, 27, "ORG"]]}))
    assert text.tags[:6] == TAGS[:6]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "Ada", "label": [[0, 4, "PER"]]}, "a span from 0 to 4, and the text has 3 char"),
        ({"text": "Ada", "label": [[2, 1, "PER"]]}, "a span from 2 to 1"),
        ({"text": "Ada", "label": [[0, 3]]}, r"the span \[0, 3\]; expected start, end and a type"),
        ({"text": "Ada", "label": [["0", "3", "PER"]]}, ".* expected start, end and a type"),
        ({"text": "Ada"}, r"no spans; expected label, .*, \[\] where there are none"),
        ({"txt": "Ada", "label": []}, "found txt, label; expected an object with"),
        ({"tokens": ["Ada"], "tags": []}, r"\[\]; expected a tag for each of its tokens"),
        ({"tokens": "Ada", "tags": []}, "'tokens' is 'Ada'; expected a list of words"),
        (
            {"text": "xAda", "label": [{"start": 0, "end": 3, "text": "Ada", "labels": ["P"]}]},
            "the span from 0 to 3 is 'xAd', and said to be 'Ada'",
        ),
        (
            {"data": {"text": "Ada"}, "annotations": [{"result": []}, {"result": []}]},
            "2 annotations of one text; keep one",
        ),
    ],
)
def test_a_span_that_cannot_be_is_named_by_its_line(
    tmp_path: Path, row: dict, message: str
) -> None:
    with pytest.raises(UserError, match=f"line 2: {message}"):
        list(read_spans(write(tmp_path, {"text": TEXT, "label": SPANS}, row)))


def test_a_tagger_trains_on_spans_and_answers_with_them(sample: Path, tmp_path: Path) -> None:
    import finetune
    import train

    rng = np.random.default_rng(1)
    rows = []
    for _ in range(60):
        words = rng.choice("green sold the lamp red bought it".split(), 6).tolist()
        text = "  ".join(words)
        found = [
            [m, m + len(word), "THING"]
            for m, word in zip(
                np.cumsum([0, *[len(w) + 2 for w in words[:-1]]]).tolist(), words, strict=True
            )
            if word == "lamp"
        ]
        rows.append({"text": text, "label": found})
    file = write(tmp_path, *rows)
    start = pretrained.find(None, str(sample / "config.json"), str(sample / "vocab.txt"))
    cfg = train.Config(batch_size=8, lr=1e-3, n_epochs=25)
    run = finetune.prepare(TagTask(max_len=32), file, start, file, cfg)
    result = run.fit(tmp_path / "run")
    assert result.last["F1"] > 0.9
    saved = finetune.load(result.file)
    for row, answer in zip(rows, saved.predict([row["text"] for row in rows]), strict=True):
        for entity in answer.entities:
            assert entity.text == row["text"][entity.start : entity.end]
    from tag import Tag

    out = tmp_path / "out.jsonl"
    Tag(mode="predict", model_file=str(tmp_path / "run"), data_file=str(file), out=str(out)).run()
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["text"] for row in found] == [row["text"] for row in rows]
    same = sum(a["label"] == b["label"] for a, b in zip(found, rows, strict=True))
    assert same > 54
    # From lines of plain text, spans too, which the reader takes back.
    plain = tmp_path / "plain.txt"
    plain.write_text("green lamp sold\n")
    answers = saved.predict([plain.read_text().strip()])
    for aggregation, wanted in (
        ("entities", answers[0].entities),
        ("words", answers[0].by_word),
    ):
        task = dataclasses.replace(saved.task, aggregation=aggregation)
        examples = task.examples_of([plain.read_text().strip()])
        data = task.encode_examples("plain", list(examples), saved.start.tokenizer)
        (line,) = task.lines(data, answers, 0)
        assert json.loads(line) == {
            "text": "green lamp sold",
            "spans": [span._asdict() for span in wanted],
        }
        (tmp_path / "again.jsonl").write_text(line + "\n")
        (again,) = read_spans(tmp_path / "again.jsonl")
        assert [word for word, tag in zip(again.words, again.tags, strict=True) if tag != "O"] == [
            "lamp"
        ]


def test_words_have_their_types_and_places_one_by_one() -> None:
    tags = ["B-PER", "I-PER", "O", "B-LOC"]
    answer = Tagged("Ada Lovelace left London".split(), tags, [0.5, 0.75, 1.0, 0.25])
    assert answer.by_word == [
        ("PER", "Ada", 0, 3, 0.5),
        ("PER", "Lovelace", 4, 12, 0.75),
        ("LOC", "London", 18, 24, 0.25),
    ]
    assert answer.entities == [
        ("PER", "Ada Lovelace", 0, 12, 0.625),
        ("LOC", "London", 18, 24, 0.25),
    ]


@pytest.mark.parametrize("form", ["columns", "objects"])
def test_one_file_of_tags_is_divided_by_its_types(form: str, sample: Path, tmp_path: Path) -> None:
    import finetune
    import train

    rows = [
        {
            "tokens": ["red", f"w{i}", "lamp"],
            "ner_tags": ["B-RARE" if i % 10 == 0 else "B-OFTEN", "O", "O"],
        }
        for i in range(200)
    ]
    # The same words once more have to be on the same side.
    rows += rows[:20]
    source: Any = rows
    if form == "columns":
        source = tmp_path / "tags.txt"
        blocks = [
            "".join(f"{w}\t{t}\n" for w, t in zip(row["tokens"], row["ner_tags"], strict=True))
            for row in rows
        ]
        # An umlaut in an encoding of its own.
        source.write_bytes("\n".join(blocks).replace("red", "röd").encode("cp1252"))
    task = TagTask(max_len=16, encoding="cp1252" if form == "columns" else None)
    start = pretrained.find(None, str(sample / "config.json"), str(sample / "vocab.txt"))
    cfg = train.Config(total_steps=1, batch_size=8)
    run = finetune.prepare(task, source, start, cfg=cfg, dev_split=0.1)
    (dev,) = run.eval_data
    kinds = collections.Counter(text.tags[0] for text in dev.examples)
    assert len(dev) + len(run.data) == 220
    assert abs(kinds["B-RARE"] - 2.2) <= 1
    assert abs(kinds["B-OFTEN"] - 19.8) <= 1
    sides = [{" ".join(text.words) for text in data.examples} for data in (run.data, dev)]
    assert not sides[0] & sides[1]
    run.fit(tmp_path / "run")
    # What was held out comes back from its file.
    again = dataclasses.replace(run.task, encoding=None).read(tmp_path / "run" / "dev.jsonl")
    assert [(text.words, text.tags) for text in again] == [
        (text.words, text.tags) for text in dev.examples
    ]
    assert (again[0].words[0] == "röd") == (form == "columns")


@pytest.mark.real
def test_every_entity_of_every_file_is_a_part_of_its_text(real: Path) -> None:
    from tasks.words import read_texts

    n = 0
    for name in ("wnut17/emerging.dev.conll", "germeval2014/NER-de-dev.tsv"):
        for text in read_texts(real / "tagging" / name):
            answer = Tagged(text.words, text.tags, [1.0] * len(text.words))
            given = " ".join(text.words)
            for entity in answer.entities:
                assert entity.text == given[entity.start : entity.end]
                n += 1
    assert n > 3000

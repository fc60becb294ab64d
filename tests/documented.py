"""Commands and Python of README and docs, and small files under the names that stand there."""

import csv
import itertools
import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fixed_instances import LENGTH, make_arrays, write_records
from kinds import sentences, write_questions
from seeds import records
from test_checkpoint import tensorflow_checkpoint

import checkpoint
import models
from formats.vocab import Vocabulary
from system.files import write_json

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = "choose classify checkpoint corpus embed features pretrain rank squad tag".split()
SCRIPTS += ["tokenization"]

# What the variables in commands stand for, relative to the folder of write().
VARIABLES = {
    "BERT_PRETRAIN": "uncased_L-12_H-768_A-12",
    "BERT_BASE_DIR": "uncased_L-12_H-768_A-12",
    "GLUE_DIR": "glue",
    "SAVE_DIR": "runs/saved",
    "DATA_FILE": "corpus.txt",
    "VOCAB": "bert/vocab.txt",
}
# Small, long enough for every --max_len and deep enough for every --layers that is shown.
SHAPE = {"dim": 16, "n_layers": 4, "n_heads": 2, "dim_ff": 32, "max_len": 512}


def commands(page: str) -> list[str]:
    """The command lines that a page shows, each whole: `echo text | python tag.py ...`."""
    text = (ROOT / page).read_text().replace("\\\n", " ")
    scripts = rf"(?:{'|'.join(SCRIPTS)})\.py"
    call = rf"(?:(?:echo|printf|cut) .*\| *)?(?:python|torchrun(?: --\w+ \S+)+) +{scripts}"
    found = re.findall(rf"^ *(?:\$ )?({call}.*)$|`({call}[^`]*)`", text, re.MULTILINE)
    # A line in another form would be passed over; what a command prints names no file.
    called = re.findall(rf"\b(?:python|torchrun)[^`|\n]*\b{scripts}[^`\n]*", text)
    called = [line for line in called if not re.search(r" (FILE|FOLDER)\b", line)]
    assert len(found) == len(called), (page, called)
    return [" ".join(block.split()) or inline for block, inline in found]


def snippets(page: str) -> list[str]:
    """The Python that a page shows."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def write(folder: Path, sample: Path) -> None:
    """All files that commands name, but for those that they write themselves."""
    shutil.copytree(sample, folder, dirs_exist_ok=True)
    write_weights(folder)
    # Commands make a vocab.txt of their own.
    (folder / "vocab.txt").unlink()
    words = sentences(sample)
    lines = [" ".join(one) for one in words]
    write_texts(folder, lines)
    write_tables(folder, lines)
    write_words(folder, words)
    write_pairs(folder, lines)
    write_others(folder, words)
    # Scripts beside the configurations that commands name, as in a clone.
    for script in SCRIPTS:
        (folder / f"{script}.py").symlink_to(ROOT / f"{script}.py")
    shutil.copytree(ROOT / "config", folder / "config")
    for name in ("bert_base", "bert_large"):
        shutil.copy(folder / "bert/config.json", folder / f"config/{name}.json")
    write_json(folder / "config/pretrain.json", {"batch_size": 8, "total_steps": 3})


def write_texts(folder: Path, lines: list[str]) -> None:
    """Plain text, and corpora."""
    for name in ("lines", "input", "report"):
        (folder / f"{name}.txt").write_text("\n".join(lines[:6]) + "\n")
    # A domain, with words of its own.
    own = [f"{line} zebrafish zebras" for line in (folder / "corpus.txt").read_text().split("\n")]
    (folder / "notes.txt").write_text("\n".join(own) + "\n")
    names = "general sample_text my_corpus folder1/a folder2/b dev_folder/c"
    for name in f"{names} books/a books/b books/c books/d".split():
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(folder / "corpus.txt", folder / f"{name}.txt")


def write_table(file: Path, rows: Iterable[Iterable[Any]]) -> None:
    """Rows as .csv or .tsv, by the name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w", newline="") as f:
        csv.writer(f, delimiter="," if file.suffix == ".csv" else "\t").writerows(rows)


def write_lines(file: Path, rows: Iterable[dict]) -> None:
    """Rows as JSON lines."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def write_tables(folder: Path, lines: list[str]) -> None:
    """What classify.py reads."""
    numbered = [(line, i % 2) for i, line in enumerate(lines)]
    (folder / "glue/MRPC").mkdir(parents=True)
    (folder / "MRPC").symlink_to("glue/MRPC")
    for name in ("train", "dev"):
        shutil.copy(folder / f"{name}.tsv", folder / "glue/MRPC")
        cola = ((f"gj{i}", label, "", line) for i, (line, label) in enumerate(numbered))
        write_table(folder / f"glue/CoLA/{name}.tsv", cola)
        write_table(folder / f"glue/SST-2/{name}.tsv", [("sentence", "label"), *numbered])
    write_table(folder / "glue/CoLA/test.tsv", [("index", "sentence"), *enumerate(lines)])
    for name in (
        "reviews.csv",
        "labelled.csv",
        "held_out.csv",
        "source/train.csv",
        "source/test.csv",
    ):
        # Enough of them to hold some out, no two the same.
        more = [(f"{line} {i}", label) for i, (line, label) in enumerate(numbered)]
        write_table(folder / name, [("text", "label"), *numbered, *more])
    write_table(folder / "reviews.tsv", enumerate(lines))
    for name in ("new.csv", "more.csv"):
        write_table(folder / name, [("text",), *((line,) for line in lines)])
    # Enough of them to hold some out.
    feedback = [
        (i, f"{line} {i}", ("good", "bad")[label], i % 9)
        for i, (line, label) in enumerate(numbered * 2)
    ]
    header = ("id", "Feedback Text", "Sentiment", "customer")
    write_table(folder / "feedback.csv", [header, *feedback])
    write_table(folder / "feedback_new.csv", [header, *feedback[:5]])
    documents = ((i, line, label) for i, (line, label) in enumerate(numbered))
    write_table(folder / "nsmc_train.tsv", [("id", "document", "label"), *documents])
    write_lines(
        folder / "x.jsonl",
        ({"title": a, "body": b, "tags": "sale,loan"} for a, b in itertools.pairwise(lines)),
    )
    for split in ("train", "val", "test"):
        answers = [{"label": i % 2 == 0} if split != "test" else {} for i in range(len(lines))]
        questions = (
            {"passage": line, "question": line, "idx": i, **answer}
            for i, (line, answer) in enumerate(zip(lines, answers, strict=True))
        )
        write_lines(folder / f"SuperGLUE/BoolQ/{split}.jsonl", questions)
    kinds = ("contradiction", "entailment", "neutral")
    pairs = [(line, line, kinds[i % 3]) for i, line in enumerate(lines)]
    for language in ("en", "de", "fr", "zh"):
        write_table(folder / f"XNLI/{language}.tsv", pairs)


def write_words(folder: Path, words: list[list[str]]) -> None:
    """What tag.py and choose.py read."""
    for name in ("train", "dev", "test", "new"):
        rows = (
            f"{word} {'B-PER' if i == 0 else 'O'}" for one in words for i, word in enumerate(one)
        )
        text = "\n".join(rows)
        # A full stop ends each sentence of the sample.
        (folder / f"{name}.txt").write_text(text.replace(". O", ". O\n") + "\n")
        asked = []
        for i, one in enumerate(words):
            choices = [{"label": "ABCDE"[k], "text": words[(i + k) % 40][0]} for k in range(5)]
            question = {"stem": " ".join(one), "choices": choices}
            asked.append({"id": str(i), "question": question, "answerKey": "ABCDE"[i % 5]})
        write_lines(folder / f"{name}.jsonl", asked)
    header = ("sent1", "sent2", "ending0", "ending1", "ending2", "ending3", "label")
    swag = [
        (" ".join(one), one[0], *(" ".join(words[(i + k) % 40]) for k in range(4)), i % 4)
        for i, one in enumerate(words)
    ]
    write_table(folder / "train.csv", [header, *swag])
    write_table(folder / "val.csv", [header, *swag])


def write_pairs(folder: Path, lines: list[str]) -> None:
    """What embed.py and rank.py read."""
    pairs = [{"query": a, "text": b} for a, b in itertools.pairwise(lines)]
    write_lines(folder / "pairs.jsonl", pairs)
    scored = [(a, b, i % 6) for i, (a, b) in enumerate(itertools.pairwise(lines))]
    write_table(folder / "sts-dev.csv", [("sentence1", "sentence2", "score"), *scored])
    (folder / "texts.txt").write_text("\n".join(lines) + "\n")
    for name in ("rows", "dev_rows"):
        rows = [row | {"grade": 1} for row in pairs]
        rows += [row | {"text": lines[0], "grade": 0} for row in pairs]
        write_lines(folder / f"{name}.jsonl", rows)
    texts = [{"_id": str(i), "title": "", "text": line} for i, line in enumerate(lines)]
    for name in ("corpus.jsonl", "cranfield/corpus.jsonl", "cranfield/queries.jsonl"):
        write_lines(folder / name, texts)
    fits = [(str(i), str(i + 1), 1) for i in range(len(pairs))]
    qrels = [("query-id", "corpus-id", "score"), *fits]
    write_table(folder / "cranfield/qrels/test.tsv", qrels)


def write_others(folder: Path, words: list[list[str]]) -> None:
    """What squad.py reads, and TensorFlow's records."""
    (folder / "MLQA").mkdir()
    for name in ("train-v1.1", "dev-v1.1", "dev-v2.0", "MLQA/test-context-de-question-de"):
        write_questions(words, folder / f"{name}.json")
    write_json(folder / "predictions.json", {str(i): one[2] for i, one in enumerate(words)})
    write_json(folder / "null_odds.json", {str(i): -1.0 for i in range(len(words))})
    queries = []
    for i, one in enumerate(words):
        text = " ".join(one)
        start = text.index(one[2])
        gold = {"start": start, "end": start + len(one[2]) - 1, "text": one[2]}
        asked = {"query": f"{one[0]} @placeholder", "idx": i}
        queries.append(
            {
                "idx": i,
                "passage": {"text": text, "entities": []},
                "qas": [asked | {"answers": [gold]}],
            }
        )
    write_lines(folder / "ReCoRD/train.jsonl", queries)
    write_lines(folder / "ReCoRD/val.jsonl", queries)
    found = {"text": ["cat"], "answer_start": [4]}
    flat = {"id": "1", "context": "the cat", "question": "who ?", "answers": found}
    write_lines(folder / "flat.jsonl", [flat])
    asked = [("the cat", "who ?", "cat"), ("a dog ran", "who ran ?", "dog")]
    for name in ("mine", "mine_dev"):
        write_table(folder / f"{name}.csv", [("context", "question", "answer"), *asked])
    # Padded as the official code pads for --max_seq_length 128.
    padding = {"input_ids", "input_mask", "segment_ids"}
    arrays = {
        name: np.pad(array, ((0, 0), (0, 128 - LENGTH))) if name in padding else array
        for name, array in make_arrays().items()
    }
    write_records(folder / "tf_examples.tfrecord", arrays)
    records(folder / "records")
    for name in ("MRPC_train.tf_record", "MRPC_eval.tf_record"):
        shutil.copy(folder / "records/train.tf_record", folder / name)
    shutil.copy(folder / "records/meta.json", folder / "MRPC_meta_data")


def write_weights(folder: Path) -> None:
    """Google's checkpoint, folders of Hugging Face, and saved models."""
    # Words that examples ask for.
    vocab = folder / "words.txt"
    vocab.write_text((folder / "vocab.txt").read_text() + "capital\ncity\n")
    torch.manual_seed(0)
    shape = json.loads((folder / "config.json").read_text()) | SHAPE
    config = models.Config.from_dict(shape | {"vocab_size": shape["vocab_size"] + 2})
    every_head = models.PretrainModel(config)
    google = folder / VARIABLES["BERT_PRETRAIN"]
    tensorflow_checkpoint(dict(every_head.state_dict()), config, google)
    shutil.copy(vocab, google / "vocab.txt")
    for name, model, labels in (
        ("bert", every_head, None),
        ("minilm", every_head, None),
        ("multilingual", every_head, None),
        ("runs/sst2", models.Classifier(config, 2), ["0", "1"]),
        ("runs/mine", models.Classifier(config, 2), ["bad", "good"]),
        ("runs/ner", models.Tagger(config, 3), ["B-PER", "I-PER", "O"]),
        ("runs/csqa", models.MultipleChoice(config), None),
    ):
        source = checkpoint.Checkpoint("ours", folder, config, dict(model.state_dict()), labels)
        (folder / name).mkdir(parents=True)
        checkpoint.write_hugging_face(source, folder / name, Vocabulary.read(vocab))

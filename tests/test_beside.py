"""What lies beside weights: a run's files against its record, names of labels, other files."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kinds
import pytest
import torch
import transformers

import checkpoint
import features
import finetune
import models
import pretrained
import train
from classify import Classify
from formats import beside
from system.files import read_json, write_json
from tasks import TASKS
from utils import UserError

CFG = train.Config(batch_size=16, n_epochs=1, lr=1e-3, save_steps=100)


# ----------------------------------------------------------------------------------- a run's record


@pytest.fixture(scope="module")
def runs(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small run of each kind of task."""
    found = {}
    for kind, task in kinds.TASK_OF.items():
        folder = tmp_path_factory.mktemp(kind)
        file = kinds.write(kind, sample, folder)
        start = pretrained.find(None, f"{sample}/config.json", f"{sample}/vocab.txt")
        finetune.prepare(task, file, start, cfg=CFG).fit(folder / "run")
        found[kind] = folder / "run"
    return found


EDITS: list[tuple[str, str, dict[str, Any]]] = [
    ("sentences", "task.json", {"labels": ["1", "0"]}),
    ("sentences", "task.json", {"max_len": 20}),
    ("sentences", "task.json", {"long": "window"}),
    ("sentences", "task.json", {"text_a": "#2 String"}),
    ("sentences", "task.json", {"separator": ","}),
    ("sentences", "tokenizer_config.json", {"do_lower_case": False}),
    ("sentences", "tokenizer_config.json", {"tokenizer_class": "BertTokenizer"}),
    ("sentences", "tokenizer_config.json", {"strip_accents": False}),
    ("tags", "task.json", {"labels": ["O", "B-START", "I-START", "B-LONG"]}),
    ("tags", "task.json", {"context": True}),
    ("choice", "task.json", {"max_len": 20}),
    ("questions", "squad.json", {"doc_stride": 8}),
    ("questions", "squad.json", {"version_2_with_negative": True}),
]


@pytest.mark.parametrize(("kind", "name", "change"), EDITS)
def test_an_edited_file_of_a_run_is_named_with_both_values(
    runs: dict[str, Path], tmp_path: Path, kind: str, name: str, change: dict
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(runs[kind], folder)
    values = read_json(folder / name)
    write_json(folder / name, values | change)
    (key,) = change
    old, new = (re.escape(repr(value)[:12]) for value in (values.get(key), change[key]))
    message = rf"{name}: {key} is {new}.* was trained with {old}.* as run.json beside it says"
    for opened in (lambda: finetune.load(folder), lambda: checkpoint.convert(str(folder), "x")):
        with pytest.raises(UserError, match=message):
            opened()
    # What an earlier version did not record is not compared.
    record = read_json(folder / "run.json")
    write_json(
        folder / "run.json",
        {name: record[name] for name in record.keys() - {key, "tokenizer rules"}},
    )
    if key not in ("labels", "tokenizer_class"):  # of other tags, and of tokens the model has none
        beside.check(folder)


def test_a_value_taken_out_of_a_run_s_file_is_noticed_and_a_flag_still_decides(
    runs: dict[str, Path], tmp_path: Path, sample: Path, run: Callable
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(runs["sentences"], folder)
    line = f"--mode eval --model_file {folder} --data_file {sample}/train.tsv --out {tmp_path}/o"
    status, _, err = run(f"{line} --max_len 20", Classify)
    assert (status, "longer than max_len=20" in err) == (0, True)
    values = read_json(folder / "task.json")
    del values["max_len"]
    write_json(folder / "task.json", values)
    with pytest.raises(UserError, match=r"max_len is None, and the model was trained with 64"):
        finetune.load(folder)


def test_a_run_without_its_tokenizer_config_is_tokenised_as_it_was(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    # A name that says cased, and a record that says that it is not.
    folder = tmp_path / "cased"
    shutil.copytree(runs["sentences"], folder)
    (folder / "tokenizer_config.json").unlink()
    assert pretrained.find(folder).tokenizer.do_lower_case is True


def test_a_run_keeps_the_rules_of_the_weights_it_began_from(
    runs: dict[str, Path], sample: Path, tmp_path: Path, run: Callable
) -> None:
    checkpoint.convert(str(runs["sentences"]), str(tmp_path / "googles"))
    folder = tmp_path / "theirs"
    checkpoint.convert(str(runs["sentences"]), str(folder))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    write_json(folder / "tokenizer_config.json", {"do_lower_case": True})
    text, long = "anna [SEP] it[MASK]", "a" * 150
    expected = transformers.AutoTokenizer.from_pretrained(folder)
    found = {}
    for name, begin in (("googles", tmp_path / "googles"), ("theirs", folder)):
        task = dataclasses.replace(TASKS["mrpc"], max_len=64)
        target = tmp_path / f"run-{name}"
        finetune.prepare(task, sample / "train.tsv", begin, cfg=CFG).fit(target)
        found[name] = read_json(target / "run.json")["tokenizer rules"]
        checkpoint.convert(str(target), str(tmp_path / f"copy-{name}/model.pt"))
        checkpoint.convert(str(target), str(tmp_path / f"again-{name}"))
        ids = pretrained.find(begin).tokenizer.encode(f"{text} {long}")
        for copy in (target, tmp_path / f"copy-{name}", tmp_path / f"again-{name}"):
            assert pretrained.find(copy).tokenizer.encode(f"{text} {long}") == ids
        again = transformers.AutoTokenizer.from_pretrained(tmp_path / f"again-{name}")
        assert again(f"{text} {long}", add_special_tokens=False)["input_ids"] == ids
        if name == "theirs":
            assert expected(f"{text} {long}", add_special_tokens=False)["input_ids"] == ids
    assert found == {"googles": {}, "theirs": {"tokenizer_class": "BertTokenizer"}}
    # A run that began with an earlier version goes on by Google's rule, as often as it is started.
    old = tmp_path / "run-theirs"
    record = read_json(old / "run.json")
    del record["tokenizer rules"]
    write_json(old / "run.json", record)
    write_json(old / "tokenizer_config.json", {"do_lower_case": True})
    googles = pretrained.find(tmp_path / "googles").tokenizer.encode(f"{text} {long}")
    assert googles != ids
    line = f"--task mrpc --data_file {sample}/train.tsv --pretrain_file {folder} --max_len 64 "
    line += f"--save_dir {tmp_path}/run-theirs --batch_size 16 --n_epochs 1 --lr 1e-3"
    for _ in range(2):
        status, _, err = run(f"{line} --save_steps 100", Classify)
        assert (status, read_json(old / "run.json")["tokenizer rules"]) == (0, {}), err
        assert pretrained.find(old).tokenizer.encode(f"{text} {long}") == googles
    start = pretrained.find(folder, save_dir=old)
    assert start.tokenizer.encode(f"{text} {long}") == googles
    prepared = finetune.prepare(task, sample / "train.tsv", folder, cfg=CFG)
    with pytest.raises(
        UserError, match=r"was begun by Google's rule.*find its weights with save_dir"
    ):
        prepared.fit(old)


# ------------------------------------------------------------------------------------- other files


@pytest.mark.parametrize("name", beside.REFUSED)
def test_a_file_of_another_model_is_refused_however_weights_are_opened(
    runs: dict[str, Path], tmp_path: Path, name: str, run: Callable
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(runs["sentences"], folder)
    (folder / name).write_text("{}")
    message = f"{name}: {beside.REFUSED[name]}; remove it"
    commands = features.Extract, features.Similar
    line = f"similar --pretrain_file {folder} --input_file {folder}/run.json --query a"
    for opened in (
        run(line, *commands),
        run(f"convert {folder} {tmp_path}/x", checkpoint.Convert, checkpoint.Compare),
    ):
        assert (opened[0], message in opened[2]) == (2, True)
    with pytest.raises(UserError, match=message):
        finetune.load(folder)


def test_every_file_that_changes_nothing_changes_nothing(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(runs["sentences"], folder)
    plain = finetune.load(folder).predict([("anna sold it .", "it .")] * 2)
    for name in beside.NO_EFFECT:
        (folder / name).write_text("{}")
        assert name not in beside.USED
    assert str(finetune.load(folder).predict([("anna sold it .", "it .")] * 2)) == str(plain)


# ------------------------------------------------------------------------------------------- labels


@pytest.fixture(scope="module")
def tagger(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of transformers with a head of five tags."""
    folder = tmp_path_factory.mktemp("tagger")
    shape = models.Config.from_json(f"{sample}/config.json").to_released()
    torch.manual_seed(0)
    config = transformers.BertConfig(**shape, num_labels=5)
    transformers.BertForTokenClassification(config).save_pretrained(folder)
    shutil.copy(sample / "vocab.txt", folder)
    return folder


LABELS = ["B-LOC", "B-PER", "I-LOC", "I-PER", "O"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"label2id": {name: i for i, name in enumerate(LABELS)}}, LABELS),
        ({"label2id": {name: 4 - i for i, name in enumerate(LABELS)}}, LABELS[::-1]),
        ({"id2label": {str(i): i + 1 for i in range(5)}}, ["1", "2", "3", "4", "5"]),
        ({"id2label": {str(i): name for i, name in enumerate(LABELS)}}, LABELS),
    ],
)
def test_labels_are_named_by_either_setting_and_may_be_numbers(
    tagger: Path, tmp_path: Path, settings: dict, expected: list[str]
) -> None:
    folder = tmp_path / "tagger"
    shutil.copytree(tagger, folder)
    values = read_json(folder / "config.json")
    del values["id2label"], values["label2id"]
    write_json(folder / "config.json", values | settings)
    assert pretrained.find(folder, predicting=True).labels == expected
    if "id2label" in settings:
        theirs = transformers.AutoConfig.from_pretrained(folder).id2label
        assert [str(theirs[i]) for i in range(5)] == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label2id": {"a": 0, "b": 0}}, "label2id gives two labels the same id"),
        ({"label2id": {"a": 0, "b": 2}}, "the ids of label2id are 0, 2; expected 0 to 1"),
        ({"label2id": {"a": "0"}}, "label2id: a is '0'; expected int"),
        ({"id2label": {"0": True}}, "id2label: 0 is True; expected str or int"),
    ],
)
def test_labels_that_make_no_sense_are_refused(
    tagger: Path, tmp_path: Path, settings: dict, message: str
) -> None:
    folder = tmp_path / "tagger"
    shutil.copytree(tagger, folder)
    values = read_json(folder / "config.json")
    del values["id2label"], values["label2id"]
    write_json(folder / "config.json", values | settings)
    with pytest.raises(UserError, match=message):
        checkpoint.read(folder)


def test_too_few_names_of_labels_matter_only_where_the_head_answers(
    tagger: Path, sample: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "tagger"
    shutil.copytree(tagger, folder)
    values = read_json(folder / "config.json")
    write_json(folder / "config.json", values | {"id2label": {"0": "a", "1": "b"}})
    message = "has 5 labels, and 2 names of labels lie beside it; mend id2label"
    for opened in (
        lambda: finetune.load(folder),
        lambda: checkpoint.convert(str(folder), str(tmp_path / "x")),
    ):
        with pytest.raises(UserError, match=message):
            opened()
    # For training the head starts anew, of the same kind of task or of another.
    for kind in ("tags", "sentences"):
        (tmp_path / kind).mkdir()
        file = kinds.write(kind, sample, tmp_path / kind)
        task = kinds.TASK_OF[kind]
        assert finetune.prepare(task, file, folder, cfg=CFG).model()
    assert json.loads((folder / "config.json").read_text())["id2label"] == {"0": "a", "1": "b"}

"""Small folders of valid files, one kind for each of the readers in tests/fuzz.py.

    tables(Path("seed"))                                        # seed/train.tsv, seed/own.csv, ...

A function makes a folder that does not exist yet; what it holds is the same every time.
"""

import dataclasses
import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch

import checkpoint
import finetune
import models
import pretrained
import train
from examples import sample as world
from formats import names
from formats.weights import write_pt
from pretraining.text import prepare_text
from system.files import write_json
from tasks import TASKS, SentenceTask, own_task

VOCAB = world.vocabulary()
TINY = models.Config(len(VOCAB), dim=8, n_layers=1, n_heads=2, dim_ff=16, max_len=32)
OWN = own_task(TASKS["csv"], text_a="text", label="label")
TABLES: dict[str, SentenceTask] = {  # which task the rows of each table are of
    "train.tsv": TASKS["mrpc"],
    "own.csv": OWN,
    "own.jsonl": own_task(TASKS["jsonl"], text_a="text", label="label"),
    "numbers.csv": own_task(OWN, labels="number"),
    "several.csv": own_task(OWN, separator=";"),
    "wic.jsonl": TASKS["wic"],
    "wsc.jsonl": TASKS["wsc"],
    "multirc.jsonl": TASKS["multirc"],
}


def sample(folder: Path) -> None:
    """The built-in sample, tiny, and how its texts are tokenised."""
    world.write(str(folder), n_train=6, n_dev=2, n_documents=4)
    write_json(folder / "config.json", dataclasses.asdict(TINY))
    write_json(folder / "tokenizer_config.json", {"do_lower_case": True})


def vocabulary(folder: Path) -> None:
    """A vocab.txt, and the same as a tokenizer.json."""
    sample(folder)
    ids = {token: i for i, token in enumerate(VOCAB)}
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##"}
    normalizer = {"type": "BertNormalizer", "clean_text": True, "lowercase": True}
    parts = {"model": model | {"vocab": ids}, "normalizer": normalizer}
    write_json(folder / "tokenizer.json", parts | {"pre_tokenizer": {"type": "BertPreTokenizer"}})


def configurations(folder: Path) -> None:
    """The settings of a model under our names and Google's, and those of training."""
    write_json(folder / "ours.json", dataclasses.asdict(TINY))
    write_json(folder / "google.json", {"model_type": "bert", **TINY.to_released()})
    write_json(folder / "train.json", dataclasses.asdict(train.Config()))


# ------------------------------------------------------------------------------------------- models


def model(folder: Path, module: torch.nn.Module, **files: dict[str, Any]) -> None:
    """A checkpoint of ours with what lies beside it; `files` are further JSON."""
    sample(folder)
    contents = {"step": 3, "config": dataclasses.asdict(TINY), "model": dict(module.state_dict())}
    write_pt(folder / "model_steps_3.pt", contents)
    for name, values in files.items():
        write_json(folder / f"{name}.json", values)


def classifier(folder: Path) -> None:
    """A fine-tuned classifier of sentences."""
    task = {"task": "csv", "text_a": "text", "labels": ["no", "yes"], "max_len": 24}
    model(folder, models.Classifier(TINY, 2), task=task)


def hugging_face(folder: Path) -> None:
    """A classifier as Hugging Face folders: the three formats of weights, and several files."""
    from safetensors.torch import load_file, save_file

    classifier(folder / "ours")
    checkpoint.convert(str(folder / "ours"), str(folder / "safetensors"))
    tensors = load_file(folder / "safetensors/model.safetensors")
    for name, write in (("zip", torch.save), ("legacy", write_legacy)):
        shutil.copytree(folder / "safetensors", folder / name)
        (folder / name / "model.safetensors").unlink()
        write(tensors, folder / name / "pytorch_model.bin")
    shutil.copytree(folder / "safetensors", folder / "several")
    (folder / "several/model.safetensors").unlink()
    places = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(tensors)}
    for place in set(places.values()):
        part = {name: t for name, t in tensors.items() if places[name] == place}
        save_file(part, folder / "several" / place)
    write_json(folder / "several/model.safetensors.index.json", {"weight_map": places})


def weights(folder: Path) -> None:
    """A classifier as Hugging Face's and sentence-transformers' folders, whole and in shards."""
    from safetensors.torch import load_file, save_file

    hugging_face(folder)
    for name in ("zip", "legacy", "ours"):
        shutil.rmtree(folder / name)
    whole, shards = folder / "whole", folder / "shards"
    (folder / "safetensors").rename(whole)
    vocabulary(folder / "made")
    shutil.copy(folder / "made" / "tokenizer.json", whole)
    shutil.rmtree(folder / "made")
    special = {"unk_token": "[UNK]", "cls_token": {"content": "[CLS]"}, "pad_token": "[PAD]"}
    write_json(whole / "special_tokens_map.json", special)
    write_json(whole / "added_tokens.json", {})
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    made = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(modules)
    ]
    (whole / "modules.json").write_text(json.dumps(made))
    pooling = {"word_embedding_dimension": TINY.dim, "pooling_mode_mean_tokens": True}
    write_json(whole / "1_Pooling" / "config.json", pooling)
    shutil.copytree(whole, shards)
    tensors = load_file(whole / "model.safetensors")
    (shards / "model.safetensors").unlink()
    names_of = [sorted(tensors)[::2], sorted(tensors)[1::2]]
    index: dict[str, str] = {}
    for number, own in enumerate(names_of, start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in own}, shards / file, {"format": "pt"})
        index |= dict.fromkeys(own, file)
    size = sum(tensor.nbytes for tensor in tensors.values())
    index_file = shards / "model.safetensors.index.json"
    write_json(index_file, {"metadata": {"total_size": size}, "weight_map": index})


# What a model of each kind of task is asked, in the folder of the kind's name.
INPUTS: dict[str, Any] = {
    "sentences": "anna sold it .",
    "pairs": ("anna sold it .", "boris sold it ."),
    "numbers": "anna sold it .",
    "questions": ("anna sold ?", "anna sold the red lamp to boris ."),
    "tags": ["anna", "sold", "it"],
    "choices": ("anna sold", ["it .", "the lamp ."]),
}


def kinds(folder: Path) -> None:
    """A model of each kind of task, and a number in a file beside it."""
    own = {"task": "csv", "text_a": "text", "labels": ["no", "yes"], "max_len": 24}
    model(folder / "sentences", models.Classifier(TINY, 2), task=own)
    model(folder / "pairs", models.Classifier(TINY, 2), task=own | {"text_b": "other"})
    model(folder / "numbers", models.Classifier(TINY, 1), task=own | {"labels": None})
    sizes = {"max_len": 32, "doc_stride": 4, "max_query_len": 8, "version_2_with_negative": True}
    model(folder / "questions", models.QuestionAnswering(TINY), squad=sizes)
    tags = {"labels": ["B-A", "I-A", "O"], "max_len": 12}
    model(folder / "tags", models.Tagger(TINY, 3), task=tags)
    model(folder / "choices", models.MultipleChoice(TINY), task={"max_len": 24})
    for kind in INPUTS:
        (folder / kind / "draw.txt").write_text("0")


def write_legacy(tensors: dict[str, torch.Tensor], file: Path) -> None:
    """PyTorch's format before 1.6, always the same bytes.

    It names storages by their addresses and sorts them by these, so there is one storage, and
    another name for it.
    """
    flat = torch.cat([t.flatten() for t in tensors.values()])
    parts = flat.split([t.numel() for t in tensors.values()])
    named = zip(tensors.items(), parts, strict=True)
    views = {name: part.view(t.shape) for (name, t), part in named}
    torch.save(views, file, _use_new_zipfile_serialization=False)
    address = str(flat.untyped_storage()._cdata).encode()
    pickled = b"X" + struct.pack("<I", len(address)) + address
    file.write_bytes(file.read_bytes().replace(pickled, b"X" + struct.pack("<I", 1) + b"0"))


def tensorflow(folder: Path) -> None:
    """A TensorFlow checkpoint of the encoder and the heads of pre-training."""
    import tensorflow as tf

    tensors = models.PretrainModel(TINY).state_dict()
    values = {}
    for row in names.table_rows(TINY.n_layers):
        if row.ours in tensors:
            parts = tensors[row.ours].chunk(len(row.tensorflow))
            for name, part in zip(row.tensorflow, parts, strict=True):
                values[name] = tf.constant((part.T if row.transposed else part).numpy())
    write_json(folder / "bert_config.json", TINY.to_released())
    tf.raw_ops.SaveV2(
        prefix=str(folder / "bert_model.ckpt"),
        tensor_names=list(values),
        shape_and_slices=[""] * len(values),
        tensors=list(values.values()),
    )


def questions(folder: Path) -> None:
    """A model that answers questions, SQuAD's JSON with two of them, and answers."""
    sizes = {"max_len": 32, "doc_stride": 4, "max_query_len": 8, "version_2_with_negative": True}
    right = [{"text": "red lamp", "answer_start": 14}]
    asked = [
        {"id": "a", "question": "anna sold ?", "answers": right, "is_impossible": False},
        {"id": "b", "question": "boris ?", "answers": [], "is_impossible": True},
    ]
    paragraph = {"context": "anna sold the red lamp to boris .", "qas": asked}
    data = {"version": "2.0", "data": [{"paragraphs": [paragraph]}]}
    answers = {"predictions": {"a": "lamp", "b": ""}, "odds": {"a": -1.5, "b": 2.0}}
    model(folder, models.QuestionAnswering(TINY), squad=sizes, dev=data, **answers)
    entry = {"idx": 1, "query": "@placeholder sold ?", "answers": [{"text": "anna", "start": 0}]}
    record = {"passage": {"text": "anna sold the red lamp ."}, "qas": [entry] * 2}
    world.write_lines(folder / "record.jsonl", [json.dumps(record)] * 2)


def pretrained_model(folder: Path) -> None:
    """A pre-trained model, and a prepared text to evaluate it on."""
    shape = {"max_len": 32, "max_pred": 5, "mask_prob": 0.15, "short_seq_prob": 0.1}
    shape |= {"next_sentence": True, "whole_word_mask": False}
    model(folder, models.PretrainModel(TINY), pretrain=shape)
    prepare(folder)


def prepare(folder: Path) -> None:
    """The corpus of a sample, prepared."""
    prepare_text([folder / "corpus.txt"], folder / "vocab.txt", folder / "corpus")


def prepare_run(folder: Path) -> finetune.Run:
    """A run on a sample: four updates, saved after two and after four."""
    settings = {"batch_size": 2, "total_steps": 4, "save_steps": 2, "log_steps": 1}
    return prepare_task(folder / "train.tsv", settings)


def prepare_task(file: Path, settings: dict[str, Any] | None = None) -> finetune.Run:
    """Everything that training on a table needs, read and checked."""
    task = dataclasses.replace(TABLES[file.name], max_len=24)
    shape, vocab = file.with_name("config.json"), file.with_name("vocab.txt")
    start = pretrained.find(None, str(shape), str(vocab))
    cfg = train.Config.from_json(file.with_name("train.json"), **(settings or {}))
    return finetune.prepare(task, file, start, cfg=cfg)


def run(folder: Path) -> None:
    """A run that has lost its last checkpoint."""
    sample(folder)
    prepare_run(folder).fit(folder / "run", data_parallel=False).file.unlink()


# --------------------------------------------------------------------------------------------- data


def tables(folder: Path) -> None:
    """Tables of several tasks."""
    sample(folder)
    rows = [("anna sold it .", "yes", 0.5), ("boris, again", "no", 1), ("a 'red' tent", "no", 2e-3)]
    own = [f'"{text}",{label}' for text, label, _ in rows]
    numbers = [f'"{text}",{number}' for text, _, number in rows]
    for name, lines in (
        ("own", own),
        ("numbers", numbers),
        ("several", [f"{line};x" for line in own]),
    ):
        world.write_lines(folder / f"{name}.csv", ["text,label", *lines])
    objects = [{"text": text, "label": label, "n": number} for text, label, number in rows]
    sentences = {"sentence1": "anna sold it", "sentence2": "boris sold", "start1": 5, "end1": 9}
    wic = sentences | {"start2": 6, "end2": 10, "label": True}
    target = {"span1_index": 0, "span1_text": "anna", "span2_index": 2, "span2_text": "it"}
    wsc = {"text": "anna sold it .", "target": target, "label": False}
    answers = [{"text": "anna", "label": 1}, {"text": "boris", "label": 0}]
    asked = [{"question": "who sold it ?", "answers": answers}] * 2
    multirc = {"passage": {"text": "anna sold it .", "questions": asked}}
    for name, lines in (
        ("own", objects),
        ("wic", [wic] * 3),
        ("wsc", [wsc] * 3),
        ("multirc", [multirc] * 3),
    ):
        world.write_lines(folder / f"{name}.jsonl", [json.dumps(values) for values in lines])


WORDS = {  # files of tagged words
    "conll.txt": "-DOCSTART- -X- -X- O\n\nanna NNP B-NP I-PER\nsold VBD B-VP O\n\nit PRP B-NP O\n",
    "germeval.txt": "#\thttp://x\n1\tanna\tB-PER\tO\n2\tsold\tO\tO\n\n1\tit\tO\tO\n",
    "wikiann.txt": "en:anna\tB-PER\nen:sold\tO\n\nen:it\tO\n",
    "ud.conllu": "# text = anna sold\n1\tanna\t_\tPROPN\t_\t_\t_\t_\t_\t_\n"
    "1-2\tannasold\t_\t_\t_\t_\t_\t_\t_\t_\n2\tsold\t_\tVERB\t_\t_\t_\t_\t_\t_\n",
}


def words(folder: Path) -> None:
    """Files of tagged words."""
    sample(folder)
    for name, text in WORDS.items():
        (folder / name).write_text(text)


def choices(folder: Path) -> None:
    """Files of multiple choice."""
    sample(folder)
    header = "id,sent1,sent2,ending0,ending1,label"
    world.write_lines(folder / "swag.csv", [header, "0,anna sold,it,was,is,1", '1,a,b,"c, d",e,0'])
    rows = ["ID\tQuestion Stem\tChoices\tAnswer Key", "1\tanna\t(A) sold (B) it\tB"]
    world.write_lines(folder / "openbook.tsv", rows)
    named = [{"label": name, "text": text} for name, text in (("A", "sold"), ("B", "it"))]
    asked = {"question": {"stem": "anna", "choices": named}, "answerKey": "A"}
    world.write_lines(folder / "arc.jsonl", [json.dumps(asked), json.dumps(asked)])


def corpus_folder(folder: Path) -> None:
    """A sample and its prepared corpus."""
    sample(folder)
    prepare(folder)


def records(folder: Path) -> None:
    """A TFRecord of a classification task, and the JSON beside it."""
    import tensorflow as tf

    sample(folder)
    features = {
        "input_ids": [2, 9, 10, 3, 11, 3, 0, 0],
        "input_mask": [1, 1, 1, 1, 1, 1, 0, 0],
        "segment_ids": [0, 0, 0, 0, 1, 1, 0, 0],
        "is_real_example": [1],
    }
    with tf.io.TFRecordWriter(str(folder / "train.tf_record")) as writer:
        for label in (0, 1, 1):
            example = tf.train.Example()
            for name, values in {**features, "label_ids": [label]}.items():
                example.features.feature[name].int64_list.value[:] = values
            writer.write(example.SerializeToString(deterministic=True))
    kind = {"processor_type": "MRPC", "task_type": "bert_classification"}
    write_json(folder / "meta.json", {**kind, "num_labels": 2, "max_seq_length": 8})


def instances(folder: Path) -> None:
    """Masked instances as npz, with a mask and with GluonNLP's valid_lengths."""
    folder.mkdir()
    lengths = np.array([8, 6, 7, 8])
    mask = (np.arange(8) < lengths[:, None]).astype(np.int64)
    arrays = {
        "input_ids": mask * (5 + np.arange(32).reshape(4, 8)),
        "segment_ids": mask * (np.arange(8) > 3),
        "masked_lm_positions": np.array([[1, 2], [3, 0], [2, 5], [1, 6]]),
        "masked_lm_ids": np.array([[7, 8], [9, 0], [10, 11], [12, 13]]),
        "masked_lm_weights": np.array([[1, 1], [1, 0], [1, 1], [1, 1]], np.float32),
        "next_sentence_labels": np.array([[0], [1], [0], [1]]),
    }
    np.savez(folder / "mask.npz", input_mask=mask, **arrays)
    np.savez(folder / "lengths.npz", valid_lengths=lengths, **arrays)

"""Weights in and out: TensorFlow, Hugging Face, ours; what does not fit is named, what is damaged
is noticed.
"""

import contextlib
import dataclasses
import errno
import itertools
import json
import logging
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import checkpoint
import models
from formats.weights import write_pt
from models import Classifier, Config, PretrainModel
from system.files import read_json, write_json
from utils import UserError


def random_model(cfg: Config, kind: type = PretrainModel) -> torch.nn.Module:
    torch.manual_seed(11)
    model = kind(cfg)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model.eval()


@pytest.fixture
def ours(tiny: Config, tmp_path: Path) -> Path:
    """A folder with a whole pre-trained checkpoint of ours and its vocabulary."""
    folder = tmp_path / "ours"
    tensors = dict(random_model(tiny).state_dict())
    write_pt(
        folder / "model_steps_5.pt",
        {"step": 5, "config": dataclasses.asdict(tiny), "model": tensors},
    )
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(95))]
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n")
    return folder


def tensorflow_checkpoint(
    tensors: dict[str, torch.Tensor], cfg: Config, folder: Path, extra: dict | None = None
) -> Path:
    """The weights as TensorFlow's own Saver writes them, under Google's names, with what a run
    leaves beside them.
    """
    import tensorflow.compat.v1 as tf

    d = cfg.dim
    variables: dict[str, np.ndarray] = {
        "global_step": np.int64(7),
        "bert/pooler/dense/kernel/adam_m": np.ones((d, d)),
    }

    def put(name: str, ours: str, kernel: bool = False) -> None:
        value = tensors[ours].numpy()
        variables[name] = value.T if kernel else value

    for kind, name in (("token", "word"), ("position", "position"), ("segment", "token_type")):
        put(f"bert/embeddings/{name}_embeddings", f"transformer.embedding.{kind}.weight")
    put("bert/embeddings/LayerNorm/gamma", "transformer.embedding.norm.weight")
    put("bert/embeddings/LayerNorm/beta", "transformer.embedding.norm.bias")
    for i in range(cfg.n_layers):
        block, layer = f"transformer.blocks.{i}", f"bert/encoder/layer_{i}"
        for j, name in enumerate(("query", "key", "value")):
            weight, bias = (
                tensors[f"{block}.attention.qkv.weight"],
                tensors[f"{block}.attention.qkv.bias"],
            )
            variables[f"{layer}/attention/self/{name}/kernel"] = weight[
                j * d : (j + 1) * d
            ].T.numpy()
            variables[f"{layer}/attention/self/{name}/bias"] = bias[j * d : (j + 1) * d].numpy()
        for name, mine in (
            ("attention/output/dense", "attention.out"),
            ("intermediate/dense", "feed_forward.fc1"),
            ("output/dense", "feed_forward.fc2"),
        ):
            put(f"{layer}/{name}/kernel", f"{block}.{mine}.weight", kernel=True)
            put(f"{layer}/{name}/bias", f"{block}.{mine}.bias")
        for name, mine in (("attention/output/LayerNorm", "norm1"), ("output/LayerNorm", "norm2")):
            put(f"{layer}/{name}/gamma", f"{block}.{mine}.weight")
            put(f"{layer}/{name}/beta", f"{block}.{mine}.bias")
    for name, mine in (
        ("bert/pooler/dense", "pooler.dense"),
        ("cls/predictions/transform/dense", "masked_lm.dense"),
    ):
        put(f"{name}/kernel", f"{mine}.weight", kernel=True)
        put(f"{name}/bias", f"{mine}.bias")
    put("cls/predictions/transform/LayerNorm/gamma", "masked_lm.norm.weight")
    put("cls/predictions/transform/LayerNorm/beta", "masked_lm.norm.bias")
    put("cls/predictions/output_bias", "masked_lm.bias")
    put("cls/seq_relationship/output_weights", "next_sentence.weight")
    put("cls/seq_relationship/output_bias", "next_sentence.bias")
    variables |= extra or {}
    folder.mkdir(parents=True)
    with tf.Graph().as_default(), tf.Session() as session:
        for name, value in variables.items():
            tf.get_variable(name, initializer=tf.zeros(np.shape(value), np.asarray(value).dtype))
        session.run(tf.global_variables_initializer())
        for variable in tf.global_variables():
            variable.load(variables[variable.op.name], session)
        tf.train.Saver().save(session, str(folder / "bert_model.ckpt"))
    write_json(folder / "bert_config.json", cfg.to_released())
    return folder


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_tensorflow_is_read_to_the_bit_with_all_heads_and_without_slots(
    tiny: Config, tmp_path: Path
) -> None:
    tensors = dict(random_model(tiny).state_dict())
    folder = tensorflow_checkpoint(tensors, tiny, tmp_path / "tf")
    for source in (folder, folder / "bert_model.ckpt", folder / "bert_model.ckpt.index"):
        found = checkpoint.read(source)
        assert found.kind == "TensorFlow checkpoint"
        assert found.config == tiny
        assert equal(found.tensors, tensors)
    stranger = tensorflow_checkpoint(
        tensors, tiny, tmp_path / "more", {"bert/encoder/extra": np.zeros(3, np.float32)}
    )
    with pytest.raises(UserError, match="bert/encoder/extra is left over"):
        checkpoint.read(stranger)
    with pytest.raises(
        UserError, match="bert/encoder/layer_3/attention/self/query/kernel is missing"
    ):
        checkpoint.read(folder, dataclasses.replace(tiny, n_layers=4))
    data = folder / "bert_model.ckpt.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-5000])
    with pytest.raises(UserError, match="truncated or altered"):
        checkpoint.read(folder)


def test_an_object_checkpoint_of_tensorflow_2_is_called_one(tmp_path: Path) -> None:
    import tensorflow

    root = tensorflow.train.Checkpoint(weight=tensorflow.Variable([1.0, 2.0]))
    prefix = root.write(str(tmp_path / "ckpt-1"))
    with pytest.raises(UserError, match=r"is an object checkpoint of TensorFlow 2, .*; convert it"):
        checkpoint.Inspect(prefix).run()
    for file in tmp_path.glob("*.index"):
        file.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match="index is a pointer of git-lfs"):
        checkpoint.Inspect(prefix).run()


def test_google_to_hugging_face_to_ours_to_hugging_face_is_bit_equal(
    tiny: Config, tmp_path: Path, ours: Path, run: Callable
) -> None:
    commands = (checkpoint.Convert, checkpoint.Inspect, checkpoint.Compare)
    google = tensorflow_checkpoint(dict(random_model(tiny).state_dict()), tiny, tmp_path / "tf")
    shutil.copy(ours / "vocab.txt", google)
    steps = [google, tmp_path / "hf", tmp_path / "mine" / "bert.pt", tmp_path / "hf2"]
    for source, target in itertools.pairwise(steps):
        status, out, _ = run(f"convert {source} {target}", *commands)
        assert status == 0
        assert "heads: pooler, masked_lm, next_sentence" in out
    assert (steps[1] / "model.safetensors").read_bytes() == (
        steps[3] / "model.safetensors"
    ).read_bytes()
    for step in steps[1:]:
        folder = step if step.is_dir() else step.parent
        assert (folder / "vocab.txt").read_bytes() == (ours / "vocab.txt").read_bytes()
        assert equal(checkpoint.read(step).tensors, checkpoint.read(google).tensors)
    assert run(f"compare {google} {steps[3]}", *commands)[0] == 0
    status, out, _ = run(f"inspect {steps[2]}", *commands)
    assert status == 0
    assert re.search(r"transformer.blocks.2.attention.qkv.weight +96x32 +float32", out)
    total = sum(p.numel() for p in PretrainModel(tiny).parameters())
    assert (
        f"pytorchic-bert checkpoint; heads: pooler, masked_lm, next_sentence; {total:,} parameters"
        in out
    )
    status, _, err = run(f"convert {google} {steps[1]}", *commands)
    assert (status, "exists already" in err) == (2, True)


def test_compare_finds_a_difference_and_a_missing_tensor(
    tiny: Config, ours: Path, tmp_path: Path, run: Callable
) -> None:
    found = checkpoint.read(ours)
    found.tensors["pooler.dense.bias"] = found.tensors["pooler.dense.bias"] + 0.5
    tensors = found.without("masked_lm").tensors
    write_pt(tmp_path / "b.pt", {"config": dataclasses.asdict(tiny), "model": tensors})
    line = f"compare {ours} {tmp_path / 'b.pt'}"
    status, out, _ = run(line, checkpoint.Convert, checkpoint.Compare)
    assert status == 1
    assert re.search(r"pooler.dense.bias +5.000e-01", out)
    assert re.search(rf"masked_lm.bias +only in {ours}", out)
    assert "largest difference 5.000e-01, 5 tensors without a partner" in out
    assert (
        run(f"compare {ours} {ours} --tolerance 0", checkpoint.Convert, checkpoint.Compare)[0] == 0
    )


@pytest.mark.parametrize(
    ("heads", "architecture"),
    [
        (("pooler", "masked_lm", "next_sentence"), "BertForPreTraining"),
        (("masked_lm",), "BertForMaskedLM"),
        (("pooler",), "BertModel"),
        (("pooler", "masked_lm"), "BertForMaskedLM"),
        (("pooler", "next_sentence"), "BertForNextSentencePrediction"),
        (("pooler", "answer"), "BertForQuestionAnswering"),
        (("pooler", "masked_lm", "next_sentence", "classifier"), "BertForSequenceClassification"),
        (("pooler", "classifier"), "BertForSequenceClassification"),
        (("answer",), "BertForQuestionAnswering"),
    ],
)
def test_transformers_loads_what_we_write_without_a_warning_and_with_equal_outputs(
    tiny: Config,
    tmp_path: Path,
    padded_batch: tuple,
    ours: Path,
    heads: tuple[str, ...],
    architecture: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture,
) -> None:
    tensors = {
        **random_model(tiny).state_dict(),
        **Classifier(tiny, 3).state_dict(),
        "answer.weight": torch.randn(2, 32),
        "answer.bias": torch.randn(2),
    }
    kept = {name: t for name, t in tensors.items() if name.split(".")[0] in ("transformer", *heads)}
    source = tmp_path / "model" / "m.pt"
    write_pt(source, {"config": dataclasses.asdict(tiny), "model": kept})
    shutil.copy(ours / "vocab.txt", source.parent)
    write_json(source.parent / "task.json", {"labels": ["no", "maybe", "yes"]})
    checkpoint.convert(str(source.parent), str(tmp_path / "hf"))
    said = capfd.readouterr().out
    transformers.utils.logging.enable_propagation()
    with caplog.at_level(logging.WARNING):
        theirs = getattr(transformers, architecture).from_pretrained(tmp_path / "hf").eval()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "UNEXPECTED" not in (printed := "".join(capfd.readouterr()))
    assert "MISSING" not in printed
    ids, segments, mask = padded_batch
    model = Classifier(tiny, 3).eval()
    checkpoint.load(model, checkpoint.read(source), fresh=("pooler", "classifier"))
    with torch.no_grad():
        output = theirs(ids, attention_mask=mask, token_type_ids=segments)
        hidden = model.transformer(ids, segments, mask)
        real = mask.bool()
        if architecture == "BertModel":
            assert (hidden - output.last_hidden_state)[real].abs().max() < 1e-5
        if architecture == "BertForSequenceClassification":
            assert (model(ids, segments, mask) - output.logits).abs().max() < 1e-5
            assert theirs.config.id2label == {0: "no", 1: "maybe", 2: "yes"}
            assert checkpoint.read(tmp_path / "hf").labels == ["no", "maybe", "yes"]
        if architecture == "BertForQuestionAnswering":
            spans = hidden @ tensors["answer.weight"].T + tensors["answer.bias"]
            assert (spans[..., 0] - output.start_logits)[real].abs().max() < 1e-5
        if "masked_lm" in heads and architecture != "BertForSequenceClassification":
            lm = models.MaskedLM(tiny)
            lm.load_state_dict(
                {
                    n.removeprefix("masked_lm."): t
                    for n, t in kept.items()
                    if n.startswith("masked_lm.")
                }
            )
            logits = (
                output.prediction_logits if architecture == "BertForPreTraining" else output.logits
            )
            assert (lm(hidden, kept["transformer.embedding.token.weight"]) - logits)[
                real
            ].abs().max() < 1e-4
    assert transformers.BertTokenizer.from_pretrained(tmp_path / "hf").do_lower_case is True
    written = checkpoint.read(tmp_path / "hf").tensors
    assert written.keys() <= kept.keys()
    assert all(torch.equal(t, kept[name]) for name, t in written.items())
    left_out = {name.split(".")[0] for name in kept.keys() - written.keys()}
    assert ("left out" in said) == bool(left_out)
    assert all(head in said.split("left out")[-1] for head in left_out)


def test_hugging_face_files_old_and_new_load(
    tiny: Config, tmp_path: Path, ours: Path, capsys: pytest.CaptureFixture
) -> None:
    checkpoint.convert(str(ours), str(tmp_path / "hf"))
    from safetensors.torch import load_file

    tensors = load_file(tmp_path / "hf/model.safetensors")
    old = {
        re.sub(
            "Norm.bias$",
            "Norm.beta",
            re.sub("Norm.weight$", "Norm.gamma", name.removeprefix("bert.")),
        ): t
        for name, t in tensors.items()
    }
    tied = {
        "cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"],
        "cls.predictions.decoder.bias": tensors["cls.predictions.bias"],
        "bert.embeddings.position_ids": torch.arange(40),
    }
    expected = checkpoint.read(ours).tensors
    for n, (contents, zipped) in enumerate(
        [(tensors, True), (tensors | tied, True), (old, True), (old, False)]
    ):
        folder = tmp_path / f"hf{n}"
        folder.mkdir()
        shutil.copy(tmp_path / "hf/config.json", folder)
        torch.save(contents, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
        assert equal(checkpoint.read(folder).tensors, expected)
    half = {name: t.half() for name, t in tensors.items()}
    torch.save(half, tmp_path / "hf0/pytorch_model.bin")
    capsys.readouterr()
    checkpoint.Inspect(str(tmp_path / "hf0")).run()  # shows the file, not what we make of it
    assert re.search(
        r"bert.encoder.layer.2.attention.self.value.weight +32x32 +float16", capsys.readouterr().out
    )
    assert all(t.dtype == torch.float32 for t in checkpoint.read(tmp_path / "hf0").tensors.values())


def test_whatever_does_not_fit_is_listed(tiny: Config, ours: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        checkpoint.read(ours, dataclasses.replace(tiny, dim_ff=48, vocab_size=90))
    for part in (
        "contradicts the model configuration",
        "transformer.embedding.token.weight is (100, 32), expected (90, 32)",
        "transformer.blocks.0.feed_forward.fc1.weight is (64, 32), expected (48, 32)",
        "; and 6 more",
    ):
        assert part in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError) as error:  # shapes, missing and left-over tensors together
        checkpoint.read(ours, dataclasses.replace(tiny, n_layers=5, dim=64))
    five, rest = str(error.value).split("; and ")
    assert five.count("is missing") == 5
    # Two blocks of 12 parameters, and another width of all others but two heads' biases and three
    # blocks' fc1.bias.
    parameters = len(PretrainModel(tiny).state_dict())
    assert rest == f"{2 * 12 + parameters - 5 - 5} more"
    with pytest.raises(
        UserError, match=r"transformer\.blocks\.2\.attention\.out\.bias is left over.*; and 7 more"
    ):
        checkpoint.read(ours, dataclasses.replace(tiny, n_layers=2))
    found = checkpoint.read(ours)
    assert checkpoint.load(Classifier(tiny), found, fresh=("pooler", "classifier")) == [
        "classifier"
    ]
    with pytest.raises(
        UserError, match=r"classifier\.weight is missing; classifier\.bias is missing"
    ):
        checkpoint.load(Classifier(tiny), found)
    del found.tensors["transformer.blocks.1.norm1.bias"]
    with pytest.raises(UserError, match=r"transformer.blocks.1.norm1.bias is missing"):
        checkpoint.load(Classifier(tiny), found, fresh=("classifier",))
    checkpoint.convert(str(ours), str(tmp_path / "hf"))
    from safetensors.torch import load_file, save_file

    tensors = load_file(tmp_path / "hf/model.safetensors")
    del (
        tensors["bert.encoder.layer.1.output.dense.bias"],
        tensors["cls.predictions.transform.dense.bias"],
    )
    save_file(tensors | {"bert.surprise": torch.zeros(1)}, tmp_path / "hf/model.safetensors")
    with pytest.raises(UserError) as error:
        checkpoint.read(tmp_path / "hf")
    for part in (
        "bert.encoder.layer.1.output.dense.bias is missing",
        "cls.predictions.transform.dense.bias is missing",
        "bert.surprise is left over",
    ):
        assert part in str(error.value)


def test_every_flipped_byte_and_every_truncation_of_a_checkpoint_is_noticed(ours: Path) -> None:
    file = ours / "model_steps_5.pt"
    content, rng = file.read_bytes(), random.Random(0)
    assert torch.load(file, weights_only=True)["step"] == 5  # torch reads it too
    places = [
        0,
        1,
        40,
        len(content) - 1,
        len(content) - 64,
        len(content) - 65,
        len(content) - 66,
        len(content) - 70,
    ]
    for place in places + [rng.randrange(len(content)) for _ in range(80)]:
        file.write_bytes(
            content[:place]
            + bytes([content[place] ^ (1 << rng.randrange(8))])
            + content[place + 1 :]
        )
        with pytest.raises(UserError, match=f"{file}.*altered|contradicts|not readable"):
            checkpoint.read(file)
    lengths = [0, 1, 22, 65, 66, len(content) - 1, len(content) - 64]
    for length in lengths + [rng.randrange(len(content)) for _ in range(40)]:
        file.write_bytes(content[:length])
        with pytest.raises(UserError, match=str(file)):
            checkpoint.read(file)
    file.write_bytes(content + b"x")
    with pytest.raises(UserError, match="truncated or altered"):
        checkpoint.read(file)


def test_a_pickle_that_runs_code_is_refused_and_not_run(tiny: Config, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "exploded"),)

    write_json(tmp_path / "config.json", dataclasses.asdict(tiny))
    for name, zipped in (
        ("pytorch_model.bin", True),
        ("pytorch_model.bin", False),
        ("model.pt", True),
    ):
        bomb = {"bert.embeddings.word_embeddings.weight": Bomb()}
        torch.save(bomb, tmp_path / name, _use_new_zipfile_serialization=zipped)
        with pytest.raises(UserError, match="not readable as weights"):
            checkpoint.read(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


def test_a_write_that_fails_leaves_the_earlier_file_and_no_rest(ours: Path) -> None:
    before = (ours / "model_steps_5.pt").read_bytes()
    # a process that may write 20 kB a file, as on a full disk, overwrites the checkpoint with a
    # larger one
    code = (
        "import resource, signal, torch; signal.signal(signal.SIGXFSZ, "
        "signal.SIG_IGN);resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "from system.cli import one_line_errors\nfrom formats.weights import write_pt\n"
        f"file = {str(ours / 'model_steps_5.pt')!r}\n"
        "with one_line_errors('p'): write_pt(file, {'x': torch.zeros(99999)})"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert (ours / "model_steps_5.pt").read_bytes() == before
    assert sorted(p.name for p in ours.iterdir()) == ["model_steps_5.pt", "vocab.txt"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "has no checkpoint; expected model.safetensors"),
        (
            lambda folder: torch.save({"a": torch.zeros(1)}, folder / "pytorch_model.bin"),
            "no config.json or bert_config.json",
        ),
        (
            lambda folder: [
                write_json(folder / "config.json", {"dim": 32, "n_heads": 2}),
                (folder / "model.safetensors").write_bytes(b"x" * 100),
            ],
            "not readable as weights",
        ),
        (
            lambda folder: [
                write_json(folder / "config.json", {"dim": 32, "n_heads": 2}),
                torch.save([1, 2], folder / "pytorch_model.bin"),
            ],
            "expected names and tensors, found a list",
        ),
        (
            lambda folder: write_pt(folder / "model_steps_1.pt", {"config": {2: 4}, "model": {}}),
            "config: a key is 2; expected str",
        ),
    ],
)
def test_a_folder_without_a_usable_checkpoint_is_named(
    tmp_path: Path, make: Callable, message: str
) -> None:
    make(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        checkpoint.read(tmp_path)
    assert str(tmp_path) in str(error.value)
    with pytest.raises(UserError, match="does not exist"):
        checkpoint.read(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match="is no checkpoint; expected"):
        checkpoint.read(tmp_path / "notes.txt")


@pytest.mark.real
def test_real_checkpoints_agree(real: Path) -> None:
    hugging_face, google = (
        checkpoint.read(real / "minilm").tensors,
        checkpoint.read(real / "minilm_tf").tensors,
    )
    assert set(google) - set(hugging_face) == {
        name for name in google if name.startswith(("masked_lm", "next_sentence"))
    }
    assert all(torch.equal(t, google[name]) for name, t in hugging_face.items())
    legacy = checkpoint.read(real / "hf_fixtures")
    assert legacy.heads == ["pooler"]
    assert legacy.config.n_layers == 3


# ----------------------------------------------------------------------------- which one, and whole


def write_vocab(folder: Path, n: int) -> None:
    """A vocabulary of n tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(n - 5))]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")


def test_a_runs_folder_stands_for_its_best_checkpoint(
    tiny: Config, tmp_path: Path, run: Callable
) -> None:
    write_vocab(tmp_path, tiny.vocab_size)
    best = {"metric": "Accuracy", "value": 0.75, "step": 10, "since": 1}
    models = {step: random_model(tiny) for step in (5, 10, 20)}
    for step, model in models.items():
        model.masked_lm.bias.data.fill_(float(step))
        contents = {
            "config": vars(tiny),
            "model": model.state_dict(),
            "step": step,
            "best": best if step >= 10 else {},
        }
        write_pt(tmp_path / f"model_steps_{step}.pt", contents)
    found = checkpoint.read(tmp_path)
    assert found.file.name == "model_steps_10.pt"
    assert found.tensors["masked_lm.bias"][0] == 10
    assert found.describe().endswith("model_steps_10.pt (the best of its run: Accuracy 0.7500)")
    assert (
        checkpoint.read(tmp_path / "model_steps_20.pt").file.name == "model_steps_20.pt"
    )  # named, it is that one
    status, out, _ = run(
        f"convert {tmp_path} {tmp_path}/hf", checkpoint.Convert, checkpoint.Inspect
    )
    assert (status, "model_steps_10.pt (the best of its run" in out) == (0, True)
    (tmp_path / "model_steps_10.pt").unlink()  # without it, or without evaluations, the last one
    assert checkpoint.read(tmp_path).file.name == "model_steps_20.pt"
    (tmp_path / "model_steps_20.pt").unlink()
    assert checkpoint.read(tmp_path).file.name == "model_steps_5.pt"


@pytest.mark.parametrize(
    ("architecture", "head", "n"),
    [
        ("BertForTokenClassification", "tags", 5),
        ("BertForMultipleChoice", "choice", 1),
        ("BertForSequenceClassification", "classifier", 3),
        ("BertForMaskedLM", "masked_lm", 0),
        ("BertForQuestionAnswering", "answer", 0),
    ],
)
def test_every_head_of_transformers_survives_both_ways(
    tiny: Config, tmp_path: Path, architecture: str, head: str, n: int
) -> None:
    import transformers

    names = {str(i): f"label {i}" for i in range(n or 2)}
    settings = transformers.BertConfig(
        **tiny.to_released(), id2label=names, label2id={b: int(a) for a, b in names.items()}
    )
    torch.manual_seed(0)
    model = getattr(transformers, architecture)(settings)
    model.save_pretrained(tmp_path / "hf")
    write_vocab(tmp_path / "hf", tiny.vocab_size)
    found = checkpoint.read(tmp_path / "hf")
    assert head in found.heads
    assert not {"classifier", "tags", "choice"} & (set(found.heads) - {head})
    assert found.labels == (
        [f"label {i}" for i in range(n)] if head in ("classifier", "tags") else None
    )
    checkpoint.convert(str(tmp_path / "hf"), str(tmp_path / "ours/model.pt"))
    checkpoint.convert(str(tmp_path / "ours"), str(tmp_path / "again"))
    again, loading = getattr(transformers, architecture).from_pretrained(
        tmp_path / "again", output_loading_info=True
    )
    assert not any(loading.values())
    assert equal(again.state_dict(), model.state_dict())
    written = read_json(tmp_path / "again/config.json")
    assert written["architectures"] == [architecture]
    if head in ("classifier", "tags"):
        assert written["id2label"] == names


def test_what_would_be_another_model_is_refused(tiny: Config, tmp_path: Path) -> None:
    import transformers

    transformers.BertForMaskedLM(transformers.BertConfig(**tiny.to_released())).save_pretrained(
        tmp_path
    )
    settings = read_json(tmp_path / "config.json")
    for change in (
        {"is_decoder": True},
        {"add_cross_attention": True},
        {"position_embedding_type": "relative_key"},
    ):
        (tmp_path / "config.json").write_text(json.dumps(settings | change))
        with pytest.raises(UserError, match=f"{next(iter(change))} is .*; only .* is BERT"):
            checkpoint.read(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(settings))
    from safetensors.torch import load_file, save_file

    tensors = load_file(tmp_path / "model.safetensors")
    bias = tensors["cls.predictions.bias"] + 1
    save_file(tensors | {"cls.predictions.decoder.bias": bias}, tmp_path / "model.safetensors")
    reason = "cls.predictions.decoder.bias differs from cls.predictions.bias; BERT shares them"
    assert checkpoint.read(tmp_path).unusable == {"masked_lm": reason}
    del tensors["cls.predictions.bias"]  # the decoder's is the only one
    save_file(tensors | {"cls.predictions.decoder.bias": bias}, tmp_path / "model.safetensors")
    assert torch.equal(checkpoint.read(tmp_path).tensors["masked_lm.bias"], bias)
    (tmp_path / "config.json").write_text(json.dumps(settings | {"id2label": {"0": "a", "2": "b"}}))
    with pytest.raises(UserError, match="the keys of id2label are 0, 2; expected 0 to 1"):
        checkpoint.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: torch.zeros(1).expand(t.shape), "repeats few numbers as a tensor of"),
        (
            lambda t: t.to_sparse(),
            "is cpu sparse_coo of float32; expected ordinary floating-point numbers",
        ),
        (lambda t: t.to("meta"), "is meta strided of float32"),
        (lambda t: t.to(torch.int8), "is cpu strided of int8"),
        (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "is quantised"),
        (lambda t: t.to(torch.complex64), "is cpu strided of complex64"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_not_plain_numbers_are_refused(
    tiny: Config, tmp_path: Path, change: Callable, message: str
) -> None:
    tensors = random_model(tiny).state_dict()
    name = "transformer.blocks.1.feed_forward.fc1.weight"
    tensors[name] = change(tensors[name])
    write_pt(tmp_path / "model.pt", {"config": vars(tiny), "model": tensors})
    with pytest.raises(UserError, match=f"{name} {message}|not readable as weights"):
        checkpoint.read(tmp_path / "model.pt")


def test_shapes_beyond_reason_are_refused_before_anything_is_made_of_them(
    tiny: Config, tmp_path: Path
) -> None:
    model = random_model(tiny).state_dict()
    for change, message in (
        ({"n_layers": 10**6}, "n_layers=1000000; expected at most 1,000"),
        ({"vocab_size": 10**12}, "vocab_size=1000000000000; expected at most"),
        ({"dim": 65536, "dim_ff": 10**6, "n_layers": 1000}, "has .* parameters; expected at most"),
    ):
        write_pt(tmp_path / "model.pt", {"config": vars(tiny) | change, "model": model})
        with pytest.raises(UserError, match=message):
            checkpoint.read(tmp_path / "model.pt")


@pytest.mark.parametrize("target", ["hf", "ours/model.pt"])
def test_a_conversion_cut_short_leaves_nothing_and_can_be_done_again(
    tiny: Config, tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_vocab(tmp_path / "from", tiny.vocab_size)
    write_pt(
        tmp_path / "from/model.pt", {"config": vars(tiny), "model": random_model(tiny).state_dict()}
    )
    fsync, calls = os.fsync, iter(range(100))
    vocabulary = {"vocab.txt", "tokenizer_config.json"}
    whole = {
        "hf": {"config.json", "model.safetensors", "README.md", "tokenizer.json", *vocabulary},
        "ours/model.pt": {"model.pt", *vocabulary},
    }

    def cut(at: int) -> Callable[[int], None]:
        def sync(number: int) -> None:
            if next(calls) == at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fsync(number)

        return sync

    cuts = 0
    while True:  # after every file that is put on the disk
        calls = iter(range(100))
        monkeypatch.setattr(os, "fsync", cut(cuts))
        with contextlib.suppress(OSError):
            checkpoint.convert(str(tmp_path / "from"), str(tmp_path / target))
            break
        left = [
            path for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != "from"
        ]
        # Nothing, or all of it, where only the new name was not yet on the disk.
        if (tmp_path / target).exists():
            assert {path.name for path in left} == whole[target], cuts
        else:
            assert left == [], cuts
        for path in left:
            path.unlink()
        shutil.rmtree(tmp_path / "hf", ignore_errors=True)
        cuts += 1
    monkeypatch.undo()
    assert cuts >= 3
    assert checkpoint.read(tmp_path / target).heads == ["pooler", "masked_lm", "next_sentence"]
    if target.endswith(".pt"):  # killed after the first files: they are the same again
        (tmp_path / target).unlink()
        checkpoint.convert(str(tmp_path / "from"), str(tmp_path / target))


def test_targets_and_names_that_mean_nothing_here_are_refused(
    tiny: Config, tmp_path: Path, run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_vocab(tmp_path / "from", tiny.vocab_size)
    write_pt(
        tmp_path / "from/model.pt", {"config": vars(tiny), "model": random_model(tiny).state_dict()}
    )
    monkeypatch.chdir(tmp_path)
    for line, message in (
        (
            "convert from m.h5",
            "m.h5: files ending in .h5 are not written here; expected a name ending in .pt",
        ),
        (
            "convert bert-base-uncased x",
            "the hub is not reached, and the cache lacks it; download config.json",
        ),
        (
            "convert google/bert_uncased_L-2_H-128_A-2 x",
            "the hub is not reached",
        ),
        ("convert runs/mrpc x", "runs/mrpc does not exist; expected a TensorFlow checkpoint"),
    ):
        status, _, err = run(line, checkpoint.Convert, checkpoint.Inspect)
        assert (status, message in err) == (2, True), err
    (tmp_path / "empty.pt").mkdir()
    (tmp_path / "link").symlink_to("empty.pt")
    for target in (".", "empty.pt"):
        status, _, err = run(f"convert from {target}", checkpoint.Convert, checkpoint.Inspect)
        assert (status, f"{target} exists already; name another target" in err) == (2, True)
    assert run("convert from link", checkpoint.Convert, checkpoint.Inspect)[0] == 0
    assert (tmp_path / "empty.pt/config.json").is_file()
    assert run("convert from model-v1.5", checkpoint.Convert, checkpoint.Inspect)[0] == 0
    assert os.listdir(tmp_path / "model-v1.5")


def test_a_truncated_pickle_is_named(tiny: Config, tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, tmp_path / "pytorch_model.bin")
    content = (tmp_path / "pytorch_model.bin").read_bytes()
    for size in (0, 2, 100, len(content) - 1):
        (tmp_path / "pytorch_model.bin").write_bytes(content[:size])
        with pytest.raises(UserError, match=r"pytorch_model\.bin: not readable as weights"):
            checkpoint.read(tmp_path, tiny)


def test_what_a_notebook_shows_of_a_checkpoint_is_a_line(ours: Path) -> None:
    shown = repr(checkpoint.read(ours))
    assert shown.count("\n") == 0
    assert len(shown) < 250
    assert (
        "42 tensors, heads: pooler, masked_lm, next_sentence>" in shown
        or "tensors, heads: " in shown
    )

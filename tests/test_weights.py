"""Weights as others save them: in several files, within other objects, with layers of their own.

What is right is read, what differs from BERT is named, and what a file is is said truly.
"""

import copy
import dataclasses
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import BertConfig, BertForPreTraining, BertForSequenceClassification

import checkpoint
import features
import finetune
import models
import pretrained
from encoder import load as load_encoder
from formats import finding, names, translate
from formats.weights import TENSORFLOW_STATE, check_finite, write_pt
from pretrain import Pretrain
from system.files import read_json, write_json
from tasks import own_task
from utils import UserError

CONFIG = models.Config(72, 16, 2, 2, 32, max_len=40)
NAMES = {0: "no", 1: "perhaps", 2: "yes"}
COMMANDS = (checkpoint.Convert, checkpoint.Inspect, checkpoint.Compare)


def write_vocab(folder: Path, n: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(n - 5))]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")


def released(folder: Path, kind: type = BertForPreTraining, **more: object) -> Path:
    """A folder of transformers' with random weights, of the shape of CONFIG."""
    torch.manual_seed(0)
    settings = BertConfig(**CONFIG.to_released() | more)
    model = kind(settings).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    write_vocab(folder, settings.vocab_size)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pre-trained model as transformers writes it."""
    return released(tmp_path / "hf")


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """A fine-tuned one with labels."""
    labels = {"id2label": NAMES, "label2id": {name: i for i, name in NAMES.items()}}
    return released(tmp_path / "classifier", BertForSequenceClassification, **labels)


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def saved(folder: Path, tensors: object, name: str = "pytorch_model.bin") -> Path:
    """A folder with a configuration and these weights alone."""
    new = folder.parent / f"{folder.name}-{len(list(folder.parent.iterdir()))}"
    new.mkdir()
    for file in ("config.json", "vocab.txt"):
        shutil.copy(folder / file, new)
    torch.save(tensors, new / name)
    return new


# --------------------------------------------------------------------------------- what is read too


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_all_files_that_an_index_names_are_read_and_each_has_what_it_says(
    folder: Path, tmp_path: Path, kind: str
) -> None:
    expected, new = checkpoint.read(folder), tmp_path / "sharded"
    model = BertForPreTraining.from_pretrained(folder)
    model.save_pretrained(new, max_shard_size="8KB")
    stem = "model"
    if kind == "bin":
        stem = "pytorch_model"
        for file in new.glob("*.safetensors"):
            torch.save(load_file(file), new / f"pytorch_{file.stem}.bin")
            file.unlink()
        index = read_json(new / "model.safetensors.index.json")
        (new / "model.safetensors.index.json").unlink()
        index["weight_map"] = {
            name: f"pytorch_{Path(file).stem}.bin" for name, file in index["weight_map"].items()
        }
        write_json(new / "pytorch_model.bin.index.json", index)
    index_file = new / f"{stem}.{kind}.index.json"
    parts = sorted(new.glob(f"{stem}-*.{kind}"))
    assert len(parts) >= 3
    for source in (new, index_file):
        assert checkpoint.read(source).file == index_file
        assert equal(checkpoint.read(source).tensors, expected.tensors)
    index = read_json(index_file)
    name = next(iter(index["weight_map"]))
    changes: list[tuple[dict, str]] = [
        (
            {name: "../../etc/x.bin"},
            r"weight_map names '\.\./\.\./etc/x\.bin'; expected files besid",
        ),
        ({name: "/tmp/x.bin"}, "weight_map names '/tmp/x.bin'"),
        ({name: "model-9.bin"}, r"names model-9\.bin, which does not lie beside it"),
        ({"bert.more": parts[0].name}, rf"{parts[0].name} lacks bert\.more, and .* otherwise"),
        ({name: 1}, "weight_map: .* is 1; expected str"),
    ]
    for change, message in changes:
        write_json(index_file, {"weight_map": index["weight_map"] | change})
        with pytest.raises(UserError, match=message):
            checkpoint.read(new)
    del index["weight_map"][name]
    write_json(index_file, index)
    with pytest.raises(UserError, match=f" has {name}, and {index_file.name} says otherwise"):
        checkpoint.read(new)


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "model.", "0.auto_model.", "bert_model.", "_orig_mod.module."],
)
@pytest.mark.parametrize("nested", ["", "state_dict", "model", "model_state_dict"])
def test_what_a_model_was_saved_within_is_taken_off_and_a_note_says_so(
    folder: Path, prefix: str, nested: str, capsys: pytest.CaptureFixture
) -> None:
    tensors = load_file(folder / "model.safetensors")
    expected = checkpoint.read(folder).tensors
    if prefix in ("0.auto_model.", "bert_model."):  # a bare BertModel within it
        tensors = {n.removeprefix("bert."): t for n, t in tensors.items() if n.startswith("bert.")}
        expected = {n: t for n, t in expected.items() if n.startswith(("transformer", "pooler"))}
    wrapped: dict = {prefix + name: tensor for name, tensor in tensors.items()}
    if prefix == "bert_model.":  # and a layer beside it, which reads nobody knows what
        wrapped["classifier.weight"] = torch.ones(2, 16)
    wrapped = {nested: wrapped, "epoch": 3} if nested else wrapped
    new = saved(folder, wrapped)
    assert equal(checkpoint.read(new).tensors, expected)
    notes = capsys.readouterr().err
    assert f"names are read without {prefix!r} before them" in notes
    assert ("left out, since they lack it: classifier.weight" in notes) == (prefix == "bert_model.")
    assert (f"its {nested!r} is read, the rest is not" in notes) == bool(nested)


def test_names_that_are_another_models_are_said_to_be(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    other = {name.replace("bert.", "roberta."): t for name, t in tensors.items()}
    with pytest.raises(UserError, match=r"word embeddings begin with 'roberta\.'; expected one"):
        checkpoint.read(saved(folder, other))
    two = {f"{side}.{name}": t for side in "ab" for name, t in tensors.items()}
    with pytest.raises(UserError, match=r"begin with 'a\.' and 'b\.'; expected one encoder"):
        checkpoint.read(saved(folder, two))
    twice = tensors | {"pooler.dense.bias": tensors["bert.pooler.dense.bias"]}
    with pytest.raises(UserError, match=r"has two tensors that are bert\.pooler\.dense\.bias"):
        checkpoint.read(saved(folder, twice))


def test_layers_of_other_models_are_left_out_and_named_and_damage_stays_an_error(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    tensors, expected = load_file(folder / "model.safetensors"), checkpoint.read(folder).tensors
    more = {
        "crf.transitions": torch.zeros(3, 3),
        "cls.weight": torch.zeros(5, 16),
        "classifier.0.weight": torch.zeros(2, 16),
        "bert.embeddings.position_ids": torch.arange(40),
        "loss.n_seen": torch.tensor(3),
    }
    new = saved(folder, tensors | more)
    capsys.readouterr()
    assert equal(checkpoint.read(new).tensors, expected)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(
        "left out, since BERT has no such tensors: crf.transitions; cls.weight; "
        "classifier.0.weight; loss.n_seen"
    )
    for name in ("bert.encoder.layer.0.extra", "cls.predictions.extra", "encoder.layer.7.bias"):
        with pytest.raises(UserError, match=rf"{name} is left over"):
            checkpoint.read(saved(folder, tensors | {name: torch.zeros(1)}))
    del tensors["cls.predictions.transform.dense.bias"]
    with pytest.raises(UserError, match=r"transform\.dense\.bias is missing"):
        checkpoint.read(saved(folder, tensors))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"classifier.weight": torch.zeros(3, 64)}, r"is \(3, 64\), expected \(labels, 16\)"),
        ({"classifier.bias": None}, r"it has no classifier\.bias"),
    ],
)
def test_a_classifier_that_is_not_berts_is_missed_only_where_it_is_wanted(
    classifier: Path, change: dict, reason: str, tmp_path: Path
) -> None:
    tensors = load_file(classifier / "model.safetensors") | change
    new = saved(classifier, {name: t for name, t in tensors.items() if t is not None})
    assert checkpoint.read(new).heads == ["pooler"]
    assert load_encoder(new, max_len=16).pool([("w1", None)]).shape == (1, 16)
    with pytest.raises(UserError, match=f"{reason}; train one first"):
        pretrained.find(new, head="classifier")


def test_a_decoder_of_its_own_is_missed_only_where_words_are_guessed(
    folder: Path, tmp_path: Path, run: Callable, capsys: pytest.CaptureFixture
) -> None:
    tensors = load_file(folder / "model.safetensors")
    decoder = torch.randn(72, 16)
    new = saved(folder, tensors | {"cls.predictions.decoder.weight": decoder})
    reason = (
        "cls.predictions.decoder.weight differs from bert.embeddings.word_embeddings.weight; BERT "
        "shares them"
    )
    capsys.readouterr()
    found = checkpoint.read(new)
    assert f"left out its masked_lm: {reason}" in capsys.readouterr().err
    assert found.heads == ["pooler", "next_sentence"]
    assert load_encoder(new, max_len=16).pool([("w1", None)]).shape == (1, 16)
    with pytest.raises(UserError, match=f"{reason}; name weights that"):
        load_encoder(new, head="masked_lm")
    (tmp_path / "text.txt").write_text("w1 w2\nw3\n\nw4 w5\nw6\n" * 9)
    line = f"--data_file {tmp_path}/text.txt --pretrain_file {new} --save_dir {tmp_path}/run"
    status, _, err = run(f"{line} --max_len 16 --total_steps 1", Pretrain)
    assert (status, f"{reason}; use other weights" in err) == (2, True), err
    status, out, err = run(f"convert {new} {tmp_path}/converted", *COMMANDS)
    assert (status, "heads: pooler, next_sentence" in out) == (0, True)
    assert reason in err
    tied = tensors | {
        "cls.predictions.decoder.weight": tensors[translate.WORDS[names.HUGGING_FACE][0]]
    }
    assert "masked_lm" in checkpoint.read(saved(folder, tied)).heads


@pytest.mark.parametrize(
    ("name", "is_state"),
    [
        ("bert/pooler/dense/kernel/adam_m", True),  # google-research/bert, albert's LAMB
        ("bert/pooler/dense/kernel/lamb_v", True),
        ("bert/pooler/dense/kernel/Adam", True),
        ("bert/pooler/dense/kernel/Adam_1", True),
        ("bert/pooler/dense/kernel/AdamWeightDecayOptimizer_1", True),
        ("bert/pooler/dense/kernel/LAMB/m", True),
        ("bert/pooler/dense/kernel/Momentum", True),
        ("bert/pooler/dense/kernel/ExponentialMovingAverage", True),
        ("global_step", True),
        ("beta1_power", True),
        ("loss_scale", True),
        ("bert/pooler/dense/kernel", False),
        ("bert/pooler/dense/kernel/m", False),
        ("output_weights", False),
        ("Adam/kernel", False),
    ],
)
def test_what_an_optimizer_leaves_is_told_by_its_ending(name: str, is_state: bool) -> None:
    assert bool(TENSORFLOW_STATE.search(name)) == is_state


# ------------------------------------------------------------------------ rows that have no token


def test_rows_without_a_token_are_free(
    tmp_path: Path, run: Callable, capsys: pytest.CaptureFixture
) -> None:
    labels = {"id2label": NAMES, "label2id": {name: i for i, name in NAMES.items()}}
    folder = released(tmp_path / "padded", BertForSequenceClassification, **labels)
    write_vocab(folder, 67)
    whole = released(tmp_path / "whole", BertForSequenceClassification, **labels)
    write_vocab(whole, 72)
    capsys.readouterr()
    texts = ["w1 w2", "w61 w3", "w65"]  # the last one is a token of the second alone
    padded, expected = (finetune.load(f).predict(texts) for f in (folder, whole))
    assert padded[:2] == expected[:2]
    assert "tokens, the model" not in capsys.readouterr().err
    for target in ("ours/m.pt", "again"):
        assert run(f"convert {folder} {tmp_path}/{target}", *COMMANDS)[0] == 0
        assert finetune.load(tmp_path / target).predict(texts) == padded
    write_vocab(folder, 73)
    with pytest.raises(UserError, match="has 73 tokens, the model 72; name the one it was trained"):
        pretrained.find(folder)
    # Another vocabulary than the one beside the weights may only add to it.
    write_vocab(folder, 67)
    write_vocab(tmp_path / "other", 60)
    with pytest.raises(UserError, match=r"has 60 tokens, and .* beside the weights 67; leave"):
        pretrained.find(folder, vocab=str(tmp_path / "other/vocab.txt"))
    # Far fewer tokens than rows are another model's, or a mistake: a note asks.
    large = released(tmp_path / "large", BertForSequenceClassification, vocab_size=300)
    write_vocab(large, 67)
    pretrained.find(large)
    assert "has 67 tokens, the model 300: is it the one it was trained" in capsys.readouterr().err
    # A model that begins from scratch is as large as its vocabulary.
    write_json(tmp_path / "shape.json", CONFIG.to_json())
    with pytest.raises(UserError, match="has 67 tokens, the model 72; set its vocab_size to 67"):
        pretrained.find(None, str(tmp_path / "shape.json"), str(folder / "vocab.txt"))


def test_a_classifier_from_elsewhere_takes_texts_and_pairs(classifier: Path) -> None:
    reference = BertForSequenceClassification.from_pretrained(classifier).eval()
    tokenizer = transformers.BertTokenizer.from_pretrained(classifier)
    inputs = [("w1 w2", "w3"), "w4", ("w5", "w6 w7")]
    answers = finetune.load(classifier).predict(inputs)
    for given, answer in zip(inputs, answers, strict=True):
        texts = (given,) if isinstance(given, str) else given
        with torch.no_grad():
            scores = reference(**tokenizer(*texts, return_tensors="pt")).logits[0]
        assert answer.probabilities == pytest.approx(scores.softmax(0).tolist(), abs=1e-6)
    with pytest.raises(UserError, match=r"input 1 is .*; expected a text"):
        finetune.load(classifier).predict([("w1", "w2", "w3")])


def test_what_kind_of_classifier_hugging_faces_settings_name(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    # transformers writes no names for two labels without any.
    two = released(tmp_path / "two", BertForSequenceClassification, num_labels=2)
    assert "id2label" not in read_json(two / "config.json")
    model = finetune.load(two)
    assert (model.task.labels, model.task.separator) == (("LABEL_0", "LABEL_1"), "")
    names = {"id2label": {0: "a"}, "label2id": {"a": 0}}
    kind = {"problem_type": "multi_label_classification"}
    one = released(tmp_path / "one", BertForSequenceClassification, **names, **kind)
    assert finetune.load(one).predict(["w1"])[0].answer in ("", "a")
    three = {"num_labels": 3, "problem_type": "regression"}
    wrong = released(tmp_path / "three", BertForSequenceClassification, **three)
    with pytest.raises(UserError, match="problem_type is regression, and the classifier has 3"):
        finetune.load(wrong)
    # A part of a head is damage, of our own files too.
    (tmp_path / "own").mkdir()
    checkpoint.convert(str(two), str(tmp_path / "own" / "m.pt"))
    saved_model = torch.load(tmp_path / "own" / "m.pt", weights_only=True)
    del saved_model["model"]["classifier.weight"]
    write_pt(tmp_path / "own" / "m.pt", saved_model)
    with pytest.raises(UserError, match=r"classifier\.weight is missing"):
        checkpoint.read(tmp_path / "own")


def test_pairs_for_a_model_of_one_segment_are_refused_before_anything_is_written(
    tmp_path: Path, run: Callable
) -> None:
    labels = {"id2label": NAMES, "label2id": {name: i for i, name in NAMES.items()}}
    folder = released(tmp_path / "one", BertForSequenceClassification, type_vocab_size=1, **labels)
    saved_model = finetune.load(folder)
    assert len(saved_model.predict(["w1", "w2"])) == 2
    message = "the model has one segment"
    with pytest.raises(UserError, match=message):
        saved_model.predict([("w1", "w2")])
    rows = tmp_path / "rows.csv"
    rows.write_text("text,b,label\n" + "w1,w2,no\nw3,w4,yes\nw1,w2,perhaps\n" * 4)
    pairs = own_task(saved_model.task, text_a="text", text_b="b", label="label", header=True)
    with pytest.raises(UserError, match=message):
        finetune.prepare(pairs, rows, folder)
    with pytest.raises(UserError, match=message):
        finetune.load(folder, pairs).evaluate(rows)
    (tmp_path / "lines.txt").write_text("w1 ||| w2\n")
    line = f"extract --pretrain_file {folder} --input_file {tmp_path}/lines.txt --layers=-1"
    status, _, err = run(
        f"{line} --output_file {tmp_path}/out --max_len 9", features.Extract, features.Fill
    )
    assert (status, message in err, (tmp_path / "out").exists()) == (2, True, False)
    (tmp_path / "text.txt").write_text("w1 w2\nw3\n\nw4 w5\nw6\n" * 9)
    line = f"--data_file {tmp_path}/text.txt --pretrain_file {folder} --save_dir {tmp_path}/run"
    status, _, err = run(f"{line} --max_len 16 --total_steps 1", Pretrain)
    assert (status, message in err, (tmp_path / "run").exists()) == (2, True, False)


# ------------------------------------------------------------------------ dhlee347/pytorchic-bert


class Norm(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        variance = centred.square().mean(-1, keepdim=True)
        return centred / (variance + 1e-12).sqrt() * self.gamma + self.beta


def module(**parts: nn.Module) -> nn.Module:
    """A module of parts that computes nothing itself."""
    whole = nn.Module()
    for name, part in parts.items():
        whole.add_module(name, part)
    return whole


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


class Other(nn.Module):
    """BERT under the names of dhlee347/pytorchic-bert, in plain PyTorch: the other side's facts."""

    def __init__(self, cfg: models.Config, n_labels: int, pretrained: bool):
        super().__init__()
        d = cfg.dim
        blocks = [
            module(
                attn=module(proj_q=nn.Linear(d, d), proj_k=nn.Linear(d, d), proj_v=nn.Linear(d, d)),
                proj=nn.Linear(d, d),
                norm1=Norm(d),
                pwff=module(fc1=nn.Linear(d, cfg.dim_ff), fc2=nn.Linear(cfg.dim_ff, d)),
                norm2=Norm(d),
            )
            for _ in range(cfg.n_layers)
        ]
        embed = module(
            tok_embed=nn.Embedding(cfg.vocab_size, d),
            pos_embed=nn.Embedding(cfg.max_len, d),
            seg_embed=nn.Embedding(cfg.n_segments, d),
            norm=Norm(d),
        )
        self.n_heads = cfg.n_heads
        self.transformer = module(embed=embed, blocks=nn.ModuleList(blocks))
        self.fc = nn.Linear(d, d)
        self.classifier = nn.Linear(d, n_labels)
        if pretrained:
            self.linear, self.norm = nn.Linear(d, d), Norm(d)
            self.decoder = nn.Linear(d, cfg.vocab_size, bias=False)
            self.decoder.weight = embed.tok_embed.weight
            self.decoder_bias = nn.Parameter(torch.zeros(cfg.vocab_size))

    def encode(self, ids: Tensor, segments: Tensor, mask: Tensor) -> Tensor:
        embed = self.transformer.embed
        x = (
            embed.tok_embed(ids)
            + embed.pos_embed.weight[: ids.shape[1]]
            + embed.seg_embed(segments)
        )
        x = embed.norm(x)
        for block in self.transformer.blocks:
            q, k, v = (
                getattr(block.attn, f"proj_{name}")(x)
                .unflatten(-1, (self.n_heads, -1))
                .transpose(1, 2)
                for name in "qkv"
            )
            scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
            weights = scores.masked_fill(mask[:, None, None] == 0, -torch.inf).softmax(-1)
            x = block.norm1(x + block.proj((weights @ v).transpose(1, 2).flatten(2)))
            x = block.norm2(x + block.pwff.fc2(gelu(block.pwff.fc1(x))))
        return x

    def classify(self, x: Tensor) -> Tensor:
        return self.classifier(torch.tanh(self.fc(x[:, 0])))

    def words(self, x: Tensor) -> Tensor:
        return self.decoder(self.norm(gelu(self.linear(x)))) + self.decoder_bias


def test_files_of_pytorchic_bert_give_its_outputs(
    tiny: models.Config, padded_batch: tuple, tmp_path: Path, run: Callable
) -> None:
    write_json(tmp_path / "cfg.json", tiny.to_json())
    write_vocab(tmp_path, tiny.vocab_size)
    vocab = tmp_path / "vocab.txt"
    ids, segments, mask = padded_batch
    real = mask.bool()
    for n_labels, is_pretrained in ((3, False), (2, True)):
        torch.manual_seed(5)
        other = Other(tiny, n_labels, is_pretrained)
        for parameter in other.parameters():
            nn.init.normal_(parameter, std=0.2)
        file = tmp_path / f"model_steps_{n_labels}.pt"
        torch.save(other.state_dict(), file)
        found = checkpoint.read(file, tiny)
        assert found.kind == "checkpoint of dhlee347/pytorchic-bert"
        model = (models.PretrainModel if is_pretrained else models.Classifier)(
            tiny, *[] if is_pretrained else [n_labels]
        )
        assert checkpoint.load(model, found) == []
        other, model = other.double().eval(), model.double().eval()
        with torch.no_grad():
            expected = other.encode(ids, segments, mask)
            hidden = model.transformer(ids, segments, mask)
            assert (hidden - expected)[real].abs().max() <= 1e-10
            if not is_pretrained:
                assert found.heads == ["pooler", "classifier"]
                scores = model(ids, segments, mask)
                assert (scores - other.classify(expected)).abs().max() <= 1e-10
                continue
            assert found.heads == ["pooler", "masked_lm", "next_sentence"]
            positions = torch.tensor([[3, 16], [8, 1], [2, 0], [11, 4], [0, 0]])
            words, order = model(ids, segments, mask, positions)
            there = other.words(expected)[torch.arange(5)[:, None], positions]
            assert (words - there).abs().max() <= 1e-10
            # Its label 1 is "B follows A", which is 0 here.
            assert (order - other.classify(expected).flip(1)).abs().max() <= 1e-10
    assert "heads: pooler, masked_lm, next_sentence;" in run(f"inspect {file}", *COMMANDS)[1]
    with pytest.raises(
        UserError, match=r"no config\.json .*; name the configuration with `model_cfg`"
    ):
        checkpoint.read(file)
    status, out, err = run(
        f"convert {file} {tmp_path}/hf --model_cfg {tmp_path}/cfg.json --vocab {vocab}",
        *COMMANDS,
    )
    assert (status, "heads: pooler, masked_lm, next_sentence" in out) == (0, True), err
    tensors = torch.load(file, weights_only=True)
    torch.save({f"module.{name}": t for name, t in tensors.items()}, file)
    assert equal(checkpoint.read(file, tiny).tensors, checkpoint.read(tmp_path / "hf").tensors)
    del tensors["transformer.blocks.1.pwff.fc1.bias"]
    torch.save(tensors, file)
    with pytest.raises(UserError, match=r"transformer\.blocks\.1\.pwff\.fc1\.bias is missing"):
        checkpoint.read(file, tiny)


# ----------------------------------------------------------------------- numbers that are none


def test_weights_that_are_not_finite_are_refused_but_to_look_at(
    classifier: Path, tmp_path: Path, run: Callable
) -> None:
    tensors = load_file(classifier / "model.safetensors")
    name = "bert.encoder.layer.1.output.dense.weight"
    tensors[name][3, :2] = torch.tensor([math.nan, math.inf])
    bad = saved(classifier, tensors)
    where = r"2 of the 512 numbers of transformer\.blocks\.1\.feed_forward\.fc2\.weight are NaN"
    for use in (finetune.load, checkpoint.read, load_encoder):
        with pytest.raises(UserError, match=where):
            use(bad)
    status, _, err = run(f"convert {bad} {tmp_path}/new", *COMMANDS)
    assert (status, (tmp_path / "new").exists(), err.count("\n")) == (2, False, 1)
    status, out, _ = run(f"inspect {bad}", *COMMANDS)
    assert status == 0
    assert f"{name:55} {'16x32':>12}  float32  2 NaN or infinite\n" in out
    assert out.endswith(" parameters, 2 of them NaN or infinite\n")
    assert "NaN" not in run(f"inspect {classifier}", *COMMANDS)[1]
    for pair in ((bad, bad), (bad, classifier), (classifier, bad)):
        status, out, _ = run(f"compare {pair[0]} {pair[1]} --tolerance 9", *COMMANDS)
        assert status == 1
        assert out.endswith("largest difference nan, 0 tensors without a partner\n")
    # Large numbers alone are none of it, though their sum is infinite.
    tensors[name].fill_(3e38)
    assert checkpoint.read(saved(classifier, tensors)).heads == ["pooler", "classifier"]
    # A number that float32 cannot hold would become infinite.
    tensors = {n: t.double() for n, t in tensors.items()}
    tensors[name][0, 0] = 1e39
    with pytest.raises(UserError, match="1 of the 512 numbers"):
        checkpoint.read(saved(classifier, tensors))


# ---------------------------------------------------------------------------- what a file is


@pytest.mark.filterwarnings("ignore")
def test_what_is_no_weights_is_called_what_it_is(folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 440\n"
    for name in ("model.safetensors", "pytorch_model.bin", "model_steps_3.pt"):
        new = saved(folder, tensors, name)
        (new / name).write_bytes(pointer)
        with pytest.raises(UserError, match=f"{name} is a pointer of git-lfs, not the file itself"):
            checkpoint.read(new)
    script = torch.jit.script(nn.Linear(2, 2))
    new = saved(folder, tensors, "model.pt")
    script.save(str(new / "model.pt"))
    with pytest.raises(UserError, match=r"is a program of torch\.jit\.save; save the state_dict"):
        checkpoint.read(new / "model.pt")
    for zipped in (True, False):
        whole = {"state_dict": {}, "model": nn.Linear(2, 2)}
        torch.save(whole, new / "model.pt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(
            UserError, match=r"an object of torch\.nn\.modules\.linear\.Linear, whi"
        ):
            checkpoint.read(new / "model.pt")
    nested = copy.copy(tensors)
    nested["bert.pooler.dense.bias"] = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    ours = dict(models.PretrainModel(CONFIG).state_dict())
    ours["pooler.dense.bias"] = nested["bert.pooler.dense.bias"]
    write_pt(tmp_path / "ours/m.pt", {"config": CONFIG.to_json(), "model": ours})
    for source in (saved(folder, nested), tmp_path / "ours/m.pt"):
        for use in (checkpoint.read, lambda file: checkpoint.Inspect(str(file)).run()):
            with pytest.raises(
                UserError, match=r"pooler\.dense\.bias is nested; expected ordinary"
            ):
                use(source)


@pytest.mark.parametrize(
    "damage",
    [
        b'{"step": 3, "eval_Acc',
        b"no json\n",
        b"[1, 2]\n",
        b'{"loss": 1}\n',
        b"\xff\xfe\n",
        b'{"step": 3, "eval_Accuracy": "x"}\n',
        b'{"step": 3, "eval_Accuracy": 1' + b"0" * 400 + b"}\n",
    ],
)
def test_a_model_is_converted_whatever_its_metrics_look_like(
    damage: bytes, tmp_path: Path, run: Callable
) -> None:
    model = models.Classifier(CONFIG, 3).state_dict()
    best = {"metric": "Accuracy", "value": 0.75, "step": 3, "since": 0}
    write_pt(
        tmp_path / "run/model_steps_3.pt",
        {"config": CONFIG.to_json(), "model": dict(model), "step": 3, "best": best},
    )
    write_vocab(tmp_path / "run", 72)
    figures = b'{"step": 3, "eval_Accuracy": 0.75}\n'
    (tmp_path / "run/metrics.jsonl").write_bytes(figures + damage)
    status, _, err = run(f"convert {tmp_path}/run {tmp_path}/new", *COMMANDS)
    assert (status, len(err.splitlines())) == (0, 1), err
    assert "metrics.jsonl, line 2: no line of metrics; the card is written without it" in err
    assert "| Accuracy | 0.7500 |" in (tmp_path / "new/README.md").read_text()


@pytest.mark.parametrize("n_labels", [2, 5])
def test_the_expected_shapes_are_those_of_the_models(tiny: models.Config, n_labels: int) -> None:
    config = dataclasses.replace(tiny, dim=8, n_heads=2, n_layers=2, dim_ff=24, n_segments=3)
    heads = [
        models.Classifier(config, n_labels),
        models.PretrainModel(config),
        models.Tagger(config, n_labels),
        models.QuestionAnswering(config),
        models.MultipleChoice(config),
    ]
    expected = {name: tuple(t.shape) for model in heads for name, t in model.state_dict().items()}
    assert translate.shapes(config, n_labels) == expected


def test_a_tensorflow_checkpoint_is_found_whatever_stands_before_ckpt(tmp_path: Path) -> None:
    (tmp_path / "ckpt-1.index").write_bytes(b"")
    (tmp_path / "ckpt-12.index").write_bytes(b"")
    assert finding.find_weights(tmp_path) == tmp_path / "ckpt-12"


def test_numbers_of_a_byte_are_looked_at_too(tmp_path: Path) -> None:
    odd = torch.tensor([1.0, float("nan")]).to(torch.float8_e4m3fn)
    with pytest.raises(UserError, match="1 of the 2 numbers of a are NaN or infinite"):
        check_finite({"a": odd}, tmp_path)
    check_finite({"a": odd[:1], "b": torch.full((2,), 3e38)}, tmp_path)

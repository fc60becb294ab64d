"""Models as ONNX: onnxruntime gives what PyTorch gives, for every kind of head."""

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path

import kinds
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import checkpoint
import finetune
import models
import pretrained
import train
from formats import onnx as onnx_files
from formats.names import OURS
from formats.vocab import Vocabulary
from tasks import exports
from utils import UserError

pytestmark = pytest.mark.slow

CONFIG = models.Config(70, 16, 2, 2, 32, max_len=24)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{i}" for i in range(65))]
KINDS: dict[str, Callable[[], nn.Module]] = {
    "classifier": lambda: models.Classifier(CONFIG, 3),
    "tags": lambda: models.Tagger(CONFIG, 3),
    "choice": lambda: models.MultipleChoice(CONFIG),
    "answer": lambda: models.QuestionAnswering(CONFIG),
    "masked_lm": lambda: models.PretrainModel(CONFIG),
    "pooler": lambda: models.BertModel(CONFIG),
    "encoder": lambda: models.BertModel(CONFIG, with_pooler=False),
}


def batch(n_rows: int, length: int) -> dict[str, Tensor]:
    torch.manual_seed(length)
    mask = (torch.arange(length) < torch.randint(1, length + 1, (n_rows, 1))).long()
    segments = (torch.arange(length) > 3).long() * mask
    ids = torch.randint(5, 70, (n_rows, length)) * mask
    return {"input_ids": ids, "segment_ids": segments, "input_mask": mask}


def as_theirs(inputs: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Inputs by the names that Hugging Face has for them, and so have the files."""
    return {onnx_files.THEIRS.get(name, name): x.numpy() for name, x in inputs.items()}


def tensors(output: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return output if isinstance(output, tuple) else (output,)


def saved(folder: Path, kind: str) -> tuple[nn.Module, Path]:
    torch.manual_seed(0)
    model = KINDS[kind]().eval()
    labels = ["x", "y", "z"] if kind in ("classifier", "tags") else None
    (folder / "words.txt").write_text("\n".join(WORDS) + "\n")
    source = checkpoint.Checkpoint(OURS, folder / "m.pt", CONFIG, model.state_dict(), labels)
    exports.write_with_vocab(folder / "own" / "m.pt", source, Vocabulary.read(folder / "words.txt"))
    return model, folder / "own" / "m.pt"


@pytest.fixture(params=list(kinds.TASK_OF))
def trained(request: pytest.FixtureRequest, sample: Path, tmp_path: Path) -> tuple[str, Path]:
    """A kind of task, and a file that a model in tmp_path/run was trained on."""
    file = kinds.write(request.param, sample, tmp_path)
    start = pretrained.find(None, f"{sample}/config.json", f"{sample}/vocab.txt")
    cfg = train.Config(batch_size=16, n_epochs=1, lr=1e-3)
    finetune.prepare(kinds.TASK_OF[request.param], file, start, cfg=cfg).fit(tmp_path / "run")
    return request.param, file


def test_a_model_of_any_kind_predicts_from_one_file(
    trained: tuple[str, Path], tmp_path: Path
) -> None:
    pytest.importorskip("onnxscript")
    kind, file = trained
    checkpoint.convert(str(tmp_path / "run"), str(tmp_path / "elsewhere/model.onnx"))
    whole, alone = finetune.load(tmp_path / "run"), finetune.load(tmp_path / "elsewhere/model.onnx")
    assert list((tmp_path / "elsewhere").iterdir()) == [alone.file]
    assert alone.task == whole.task
    assert alone.evaluate(file) == pytest.approx(whole.evaluate(file), abs=1e-6)
    data = whole.load(file)
    np.testing.assert_allclose(alone.outputs(data), whole.outputs(data), atol=1e-5)
    # Its labels in another order come with their own scores, and leave those of others alone.
    if kind == "sentences":
        turned = dataclasses.replace(whole.task, labels=whole.task.labels[::-1])
        scores = finetune.load(alone.file, turned, alone.start).outputs(data)
        np.testing.assert_allclose(scores[:, ::-1], whole.outputs(data), atol=1e-5)
        np.testing.assert_allclose(alone.outputs(data), whole.outputs(data), atol=1e-5)
        check_that_every_damage_is_noticed(alone.file)
    for refused, message in (
        (lambda: finetune.load(alone.file, dtype="bf16"), r"dtype=bf16: .*leave dtype out"),
        (lambda: checkpoint.read(alone.file), "evaluate and predict alone"),
        (lambda: pretrained.find(alone.file, "x.json", predicting=True), "x.json"),
    ):
        with pytest.raises(UserError, match=message):
            refused()


def check_that_every_damage_is_noticed(file: Path) -> None:
    contents, rng = file.read_bytes(), random.Random(0)
    damaged = file.with_name("damaged.onnx")
    for _ in range(60):
        i, bit = rng.randrange(len(contents)), 1 << rng.randrange(8)
        flipped = contents[:i] + bytes([contents[i] ^ bit]) + contents[i + 1 :]
        for content in (flipped, contents[:i]):
            damaged.write_bytes(content)
            with pytest.raises(UserError, match=r"is damaged, or another program|is no ONNX model"):
                finetune.load(damaged)


def test_what_is_no_model_of_ours_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([node], "g", [value], [result])
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    onnx.save(proto, tmp_path / "theirs.onnx")
    with pytest.raises(UserError, match="was not written by"):
        finetune.load(tmp_path / "theirs.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"\x08\x09broken")
    with pytest.raises(UserError, match="is no ONNX model"):
        finetune.load(tmp_path / "broken.onnx")
    with pytest.raises(UserError, match="does not exist"):
        finetune.load(tmp_path / "missing.onnx")


# Each export takes seconds; what all kinds have in common is tested further below.
@pytest.mark.parametrize("kind", ["masked_lm", "encoder"])
def test_onnxruntime_computes_what_pytorch_does(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, file = saved(tmp_path, kind)
    checkpoint.convert(str(file), str(tmp_path / "m.onnx"))
    assert "onnxruntime's numbers differ from PyTorch's by at most" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    for n_rows, length in ((1, 1), (5, 24)):
        inputs = batch(n_rows, length)
        if kind == "masked_lm":
            inputs["masked_positions"] = torch.zeros(n_rows, 3, dtype=torch.long)
        with torch.no_grad():
            net = model.transformer if kind == "encoder" else model
            expected = tensors(net(**inputs))
        found = session.run(None, as_theirs(inputs))
        for a, b in zip(
            expected if isinstance(expected, tuple) else [expected], found, strict=True
        ):
            np.testing.assert_allclose(a.numpy(), b, atol=2e-6)
    stated = session.get_modelmeta().custom_metadata_map
    assert stated["head"] == kind
    assert stated["vocab.txt"].split() == WORDS
    assert models.Config(**json.loads(stated["config.json"])) == CONFIG


def test_a_folder_has_what_programs_that_read_onnx_expect(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    transformers = pytest.importorskip("transformers")
    _, file = saved(tmp_path, "classifier")
    checkpoint.convert(str(file), str(tmp_path / "folder"), onnx=True)
    session = onnxruntime.InferenceSession(tmp_path / "folder/onnx/model.onnx")
    names = ["input_ids", "attention_mask", "token_type_ids"]
    assert sorted(x.name for x in session.get_inputs()) == sorted(names)
    assert [x.name for x in session.get_outputs()] == ["logits"]
    # What their tokenizer makes goes in by name, and their model's scores come out.
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "folder")
    given = tokenizer(
        ["word7 word8 word9", "word10"],
        ["word11", "word12 word13"],
        padding=True,
        return_tensors="pt",
    )
    assert set(given) == set(names)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "folder")
    with torch.no_grad():
        expected = model(**given).logits.numpy()
    (found,) = session.run(None, {name: x.numpy() for name, x in given.items()})
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for target in ("m.onnx", "m.pt"):
        with pytest.raises(UserError, match="--onnx is for a folder; leave it out"):
            checkpoint.convert(str(file), str(tmp_path / target), onnx=True)


def test_a_file_with_our_own_names_for_its_inputs_is_read_still(
    sample: Path, tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    file = kinds.write("sentences", sample, tmp_path)
    start = pretrained.find(None, f"{sample}/config.json", f"{sample}/vocab.txt")
    cfg = train.Config(batch_size=16, total_steps=1)
    finetune.prepare(kinds.TASK_OF["sentences"], file, start, cfg=cfg).fit(tmp_path / "run")
    checkpoint.convert(str(tmp_path / "run"), str(tmp_path / "new.onnx"))
    proto = onnx.load(tmp_path / "new.onnx")
    ours = {theirs: name for name, theirs in onnx_files.THEIRS.items()}
    for value in proto.graph.input:
        value.name = ours.get(value.name, value.name)
    for node in proto.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = ours.get(name, name)
    proto.DiscardUnknownFields()  # the digest, which is of other bytes
    (tmp_path / "old.onnx").write_bytes(proto.SerializeToString())
    old, new = (finetune.load(tmp_path / f"{name}.onnx") for name in ("old", "new"))
    assert old.start.onnx is not None
    assert old.start.onnx.inputs == list(onnx_files.INPUTS)
    data = new.load(file)
    assert np.array_equal(old.outputs(data), new.outputs(data))


def test_int8_is_near(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, file = saved(tmp_path, "classifier")
    checkpoint.convert(str(file), str(tmp_path / "m8.onnx"), int8=True)
    inputs = batch(4, 9)
    (found,) = onnxruntime.InferenceSession(tmp_path / "m8.onnx").run(None, as_theirs(inputs))
    with torch.no_grad():
        expected = model(**inputs).numpy()
    assert 0 < np.abs(found - expected).max() < 0.05
    onnx = pytest.importorskip("onnx")
    kinds = {tensor.data_type for tensor in onnx.load(tmp_path / "m8.onnx").graph.initializer}
    assert onnx.TensorProto.INT8 in kinds


def test_a_model_that_differs_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript")
    onnx = pytest.importorskip("onnx")
    empty = onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], []))
    monkeypatch.setattr(
        torch.onnx, "export", lambda model, inputs, file, **how: onnx.save(empty, file)
    )
    monkeypatch.setattr(onnx_files, "largest_difference", lambda model, contents: float("nan"))
    _, file = saved(tmp_path, "classifier")
    with pytest.raises(UserError, match="is not written: onnxruntime's numbers differ"):
        checkpoint.convert(str(file), str(tmp_path / "m.onnx"))
    assert not list(tmp_path.glob("*m.onnx*"))


def test_int8_is_for_onnx_alone(tmp_path: Path) -> None:
    _, file = saved(tmp_path, "classifier")
    with pytest.raises(UserError, match="--int8 is for a"):
        checkpoint.convert(str(file), str(tmp_path / "folder"), int8=True)


@pytest.mark.parametrize("kind", ["classifier", "tags", "answer", "pooler"])
def test_a_model_is_exported_whole_and_compiled_into_one_graph(kind: str) -> None:
    from torch._dynamo.testing import CompileCounter

    torch.manual_seed(0)
    model = KINDS[kind]().eval()
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    exported = torch.export.export(model, (*batch(3, 12).values(),), dynamic_shapes=(free,) * 3)
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=True)
    for n_rows, length in ((2, 5), (4, 24)):
        inputs = batch(n_rows, length)
        with torch.no_grad():
            expected = model(**inputs)
            for found in (exported.module()(*inputs.values()), compiled(**inputs)):
                pairs = (
                    zip(expected, found, strict=True) if kind == "pooler" else [(expected, found)]
                )
                for a, b in pairs:
                    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    assert counter.frame_count == 1

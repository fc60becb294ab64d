"""Models as ONNX: onnxruntime gives what PyTorch gives, for every kind of head."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import checkpoint
import models
import onnx_files
from utils import UserError

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


def tensors(output: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return output if isinstance(output, tuple) else (output,)


def saved(folder: Path, kind: str) -> tuple[nn.Module, Path]:
    torch.manual_seed(0)
    model = KINDS[kind]().eval()
    labels = ["x", "y", "z"] if kind in ("classifier", "tags") else None
    (folder / "words.txt").write_text("\n".join(WORDS) + "\n")
    source = checkpoint.Checkpoint(
        checkpoint.OURS, folder / "m.pt", CONFIG, model.state_dict(), labels
    )
    checkpoint.write_with_vocab(folder / "own" / "m.pt", source, folder / "words.txt", True)
    return model, folder / "own" / "m.pt"


# Each export takes seconds; what all kinds have in common is tested further below.
@pytest.mark.parametrize("kind", ["classifier", "masked_lm", "encoder"])
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
        found = session.run(None, {name: x.numpy() for name, x in inputs.items()})
        for a, b in zip(
            expected if isinstance(expected, tuple) else [expected], found, strict=True
        ):
            np.testing.assert_allclose(a.numpy(), b, atol=2e-6)
    with pytest.raises(UserError, match="name the folder that it was made from"):
        checkpoint.read(tmp_path / "m.onnx")
    stated = session.get_modelmeta().custom_metadata_map
    assert stated["head"] == kind
    assert stated["vocab"].split() == WORDS
    assert json.loads(stated["labels"]) == (
        ["x", "y", "z"] if kind in ("classifier", "tags") else None
    )
    assert models.Config(**json.loads(stated["config"])) == CONFIG


def test_int8_is_near(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, file = saved(tmp_path, "classifier")
    checkpoint.convert(str(file), str(tmp_path / "m8.onnx"), int8=True)
    inputs = batch(4, 9)
    (found,) = onnxruntime.InferenceSession(tmp_path / "m8.onnx").run(
        None, {name: x.numpy() for name, x in inputs.items()}
    )
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

"""Who benchmarks/predicting.py compares with: transformers, onnxruntime and OpenVINO.

Each is a function from a padded batch to the scores of its texts, with the same weights.
"""

import contextlib
import importlib.util
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from layers import kernels
from tasks.encoding import Batch
from tasks.sentences import SentenceTask
from tasks.table_config import Example

CALIBRATION_BATCHES = 10
INPUTS = ("input_ids", "attention_mask", "token_type_ids")  # of the exported model

# By name, which ends with the dtype: a padded batch -> the scores of its texts, (B, labels).
Sides = dict[str, Callable[[Batch], np.ndarray]]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the messages of training, loading, exporting and truncation."""
    nowhere = io.StringIO()
    with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


def installed(side: str, *packages: str) -> bool:
    """Whether a side's packages are there; if not, say what to install."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        print(f"No rows of {side}; for them: pip install {' '.join(missing)}", flush=True)
    return not missing


def their_model(weights: Path, attention: str = "sdpa") -> torch.nn.Module:
    """The model of transformers."""
    from transformers import BertForSequenceClassification

    load = BertForSequenceClassification.from_pretrained
    with quiet():
        return load(weights, attn_implementation=attention).eval()


def named(batch: Batch) -> dict[str, torch.Tensor]:
    """A batch under the names of Hugging Face."""
    tensors = (batch.input_ids, batch.input_mask, batch.segment_ids)
    return dict(zip(INPUTS, tensors, strict=True))


def feed(batch: Batch) -> dict[str, np.ndarray]:
    """A batch for the exported model."""
    return {name: tensor.numpy() for name, tensor in named(batch).items()}


def export(weights: Path, model: torch.nn.Module | None = None) -> Path:
    """The model of transformers, or another one of it, as ONNX in the folder of its weights."""
    file, ones = weights / "model.onnx", torch.ones(2, 16, dtype=torch.long)
    # Both peers fuse attention where the graph spells it out; that of SDPA onnxruntime leaves.
    model = model or their_model(weights, "eager")
    with quiet():
        torch.onnx.export(
            model,
            (ones, ones, ones),
            str(file),
            input_names=list(INPUTS),
            output_names=["logits"],
            dynamic_axes={name: {0: "batch", 1: "length"} for name in INPUTS},
            opset_version=17,
            dynamo=False,
        )
    return file


def onnxruntime_sides(file: Path) -> Sides:
    """onnxruntime in fp32 and in int8."""
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    quantized = file.with_name("int8.onnx")
    # Without VNNI weights of 7 bits do not overflow, as its documentation advises.
    known = kernels.processor()
    narrow = not (known.get("avx512_vnni") or known.get("avx_vnni"))
    with quiet():
        quantize_dynamic(file, quantized, weight_type=QuantType.QInt8, reduce_range=narrow)

    def side(path: Path) -> Callable[[Batch], np.ndarray]:
        providers = ["CPUExecutionProvider"]
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        return lambda batch: session.run(None, feed(batch))[0]

    return {"onnxruntime fp32": side(file), "onnxruntime int8": side(quantized)}


def openvino_sides(file: Path, batches: list[Batch]) -> Sides:
    """OpenVINO in fp32, and in int8 where NNCF is there."""
    import openvino

    core = openvino.Core()
    models = {"OpenVINO fp32": core.read_model(file)}
    if installed("OpenVINO int8", "nncf"):
        import nncf

        every = max(1, len(batches) // CALIBRATION_BATCHES)
        feeds = nncf.Dataset([feed(batch) for batch in batches[::every]])
        kind = nncf.ModelType.TRANSFORMER
        with quiet():
            models["OpenVINO int8"] = nncf.quantize(core.read_model(file), feeds, model_type=kind)
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        # Where the processor multiplies bf16 numbers, OpenVINO would do so.
        "INFERENCE_PRECISION_HINT": "f32",
    }

    def side(model: openvino.Model) -> Callable[[Batch], np.ndarray]:
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        # The next call writes into the same memory.
        return lambda batch: request.infer(feed(batch))[0].copy()

    return {name: side(model) for name, model in models.items()}


def peers(weights: Path, batches: list[Batch]) -> Sides:
    """transformers, and the peers whose packages are there."""
    model = their_model(weights)
    eager = torch.inference_mode()(lambda batch: model(**named(batch)).logits.numpy())
    sides: Sides = {"transformers fp32": eager}
    # PyTorch exports by onnx, so that both need it.
    has_onnxruntime = installed("onnxruntime", "onnx", "onnxruntime")
    has_openvino = installed("OpenVINO", "onnx", "openvino")
    if has_onnxruntime or has_openvino:
        file = export(weights)
    if has_onnxruntime:
        sides |= onnxruntime_sides(file)
    if has_openvino:
        sides |= openvino_sides(file, batches)
    return sides


def pipeline_of(weights: Path, task: SentenceTask, examples: list[Example]) -> Callable:
    """The pipeline of transformers: a batch size -> the probabilities of the examples."""
    from transformers import AutoTokenizer, pipeline

    tokenizer = AutoTokenizer.from_pretrained(weights)
    model = their_model(weights)
    pipe = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    texts = [
        e.text_a if e.text_b is None else {"text": e.text_a, "text_pair": e.text_b}
        for e in examples
    ]

    def run(size: int) -> np.ndarray:
        most = task.max_len
        found = pipe(texts, batch_size=size, top_k=None, truncation=True, max_length=most)
        scores = [{item["label"]: item["score"] for item in row} for row in found]
        return np.array([[row[label] for label in task.labels] for row in scores])

    return run

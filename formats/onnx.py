"""Models as ONNX, for programs without PyTorch.

difference = write(Path("model.onnx"), model, {"labels": '["0", "1"]'})
model = OnnxModel(OnnxFile(Path("model.onnx")))     # computed by onnxruntime
"""

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layers.packing import Packing
from system.files import DIGEST_SIZE, append_digest, check_file, digest_matches, named, whole_file
from utils import UserError, is_text, short

TOLERANCE = 1e-3  # of float32, PyTorch's numbers and onnxruntime's

INPUTS = ("input_ids", "segment_ids", "input_mask")
# What Hugging Face calls them, and so do the files; those of earlier versions have our names.
THEIRS = {"segment_ids": "token_type_ids", "input_mask": "attention_mask"}

# The files of a model's folder that its metadata may hold, by name.
BESIDE = ("config.json", "vocab.txt", "tokenizer_config.json", "task.json", "squad.json")

# The digest of a file stands at its end. To whoever parses it as the protocol buffer that it is, it
# is the text of a field that he does not know: its number, 1000, its kind and its length.
DIGEST_FIELD = b"\xc2\x3e" + bytes([DIGEST_SIZE])


def write(file: Path, model: Any, metadata: dict[str, str], int8: bool = False) -> float:
    """Write a model and what belongs to it as one file; returns the largest difference.

    Batch and length are free. Before the file gets its name, onnxruntime computes random batches
    and is compared with PyTorch: UserError if float32 differs by more than TOLERANCE. What int8
    changes is up to the caller to judge.

    Args:
        model: its cfg is the shape; it takes input_ids, segment_ids, input_mask, and if it is
            pre-trained masked_positions.
        metadata: text by name, which onnxruntime gives back; `head` and files in BESIDE.
        int8: quantise the weights as onnxruntime does.
    """
    try:
        import onnx
        import onnxruntime.quantization
        import onnxscript  # noqa: F401 (torch.onnx needs it)
    except ImportError as error:
        raise UserError(f"{file} needs {error.name}; pip install onnxscript onnxruntime") from None
    model = model.cpu().float().eval()
    example = random_inputs(model, 2, min(12, model.cfg.max_len))
    with torch.inference_mode():
        outputs = outputs_of(model, example)
    # What the axes of the inputs are called.
    axes = {name: {0: "batch", 1: "length"} for name in INPUTS}
    axes["masked_positions"] = {0: "batch", 1: "masked"}
    with tempfile.TemporaryDirectory() as folder, quiet(), named(folder):
        made = Path(folder) / "model.onnx"
        torch.onnx.export(
            model,
            tuple(example.values()),
            str(made),
            input_names=[THEIRS.get(name, name) for name in example],
            output_names=list(outputs),
            dynamic_shapes=tuple(axes[name] for name in example),
            external_data=False,
            verbose=False,
        )
        if int8:
            quantised = Path(folder) / "int8.onnx"
            onnxruntime.quantization.quantize_dynamic(made, quantised)
            made = quantised
        proto = onnx.load(str(made))
    for name, text in metadata.items():
        proto.metadata_props.add(key=name, value=text)
    contents = proto.SerializeToString()
    worst = largest_difference(model, contents)
    # A NaN compares with nothing, and is no small difference.
    if not int8 and not worst <= TOLERANCE:
        raise UserError(
            f"{file} is not written: onnxruntime's numbers differ from PyTorch's by {worst:.1e}; "
            "try another version of onnxruntime or onnxscript"
        )
    # Exporting takes a minute, in which another process may have written the file.
    with whole_file(file, replace=False) as f:
        f.write(contents + DIGEST_FIELD)
        append_digest(f)
    return worst


class OnnxFile:
    """A file of write(), open: onnxruntime's session, and what belongs to the model."""

    def __init__(self, file: Path):
        try:
            import onnxruntime
        except ImportError:
            raise UserError(f"{file} needs onnxruntime; pip install onnxruntime") from None
        check_file(file)
        with open(file, "rb") as f:
            f.seek(max(0, file.stat().st_size - DIGEST_SIZE - len(DIGEST_FIELD)))
            end = f.read()
        if end.startswith(DIGEST_FIELD) and not digest_matches(file):
            raise UserError(
                f"{file} is damaged, or another program has changed it; convert its model again"
            )
        options = onnxruntime.SessionOptions()
        # As many cores as PyTorch would use, and errors alone on stderr.
        options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
        # It takes a name as UTF-8 alone, or the contents.
        model = file if is_text(file) else file.read_bytes()
        try:
            self.session = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
            metadata: dict[str, str] = self.session.get_modelmeta().custom_metadata_map
        except Exception as error:
            # Its exceptions are its own, one for each way in which a file can be damaged.
            raise UserError(f"{file} is no ONNX model: {short(str(error), 100)}") from None
        inputs = {x.name for x in self.session.get_inputs()}
        # What each of our inputs is called in the file.
        self.inputs = [THEIRS.get(x, x) if THEIRS.get(x) in inputs else x for x in INPUTS]
        whole = {*self.inputs} <= inputs and {"head", "config.json"} <= metadata.keys()
        if not whole:
            raise UserError(f"{file} was not written by `checkpoint.py convert`; name one that was")
        self.file, self.head = file, metadata["head"]
        self.n_scores = self.session.get_outputs()[0].shape[-1]  # a name where they are free
        # Whoever reads a model's folder finds its files there; they are removed with this object.
        # The folder is called as the file is, for messages.
        self.beside = tempfile.TemporaryDirectory(prefix="onnx-")
        self.folder = Path(self.beside.name) / file.name
        with named(self.beside.name):
            self.folder.mkdir()
            for name in metadata.keys() & set(BESIDE):
                (self.folder / name).write_bytes(metadata[name].encode())


class OnnxModel(nn.Module):
    """The model in a file, computed on the CPU, and called as the one it was made from.

    Args:
        columns: which of the scores are given, and in which order; None: all as they are.
    """

    def __init__(self, onnx: OnnxFile, columns: Tensor | None = None):
        super().__init__()
        self.onnx, self.columns = onnx, columns
        # Whoever predicts asks the first parameter for the device.
        self.somewhere = nn.Parameter(torch.empty(0))

    def forward(
        self, input_ids: Tensor, segment_ids: Tensor, input_mask: Tensor | Packing
    ) -> Tensor:
        """(B, S) x 3 -> the first output."""
        inputs = (input_ids, segment_ids, Packing.of(input_mask).real)
        names = self.onnx.inputs
        fed = {name: x.long().numpy() for name, x in zip(names, inputs, strict=True)}
        try:
            found = self.onnx.session.run(None, fed)
        except Exception as error:
            raise UserError(
                f"{self.onnx.file}: onnxruntime fails: {short(str(error), 200)}"
            ) from None
        scores = torch.from_numpy(found[0])
        return scores if self.columns is None else scores[..., self.columns]


def random_inputs(model: Any, n_rows: int, length: int) -> dict[str, Tensor]:
    """A batch of random tokens, the first row full, the others padded."""
    ids = torch.randint(0, model.cfg.vocab_size, (n_rows, length))
    lengths = torch.randint(1, length + 1, (n_rows, 1))
    lengths[0] = length
    mask = (torch.arange(length) < lengths).long()
    segments = (torch.arange(length) >= lengths // 2).long() * mask * (model.cfg.n_segments > 1)
    inputs = {"input_ids": ids * mask, "segment_ids": segments, "input_mask": mask}
    if hasattr(model, "masked_lm"):
        inputs["masked_positions"] = torch.zeros(n_rows, 2, dtype=torch.long)
    return inputs


def outputs_of(model: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """A model's outputs by name."""
    found = model(**inputs)
    if isinstance(found, Tensor):
        if hasattr(model, "pooling"):
            return {"sentence_embedding": found}
        return {"last_hidden_state" if found.shape[-1:] == (model.cfg.dim,) else "logits": found}
    names = ("words", "order") if "masked_positions" in inputs else ("hidden_states", "pooled")
    return dict(zip(names, found, strict=True))


def largest_difference(model: Any, contents: bytes) -> float:
    """Between onnxruntime's and PyTorch's numbers, over batches of several sizes."""
    import onnxruntime

    session = onnxruntime.InferenceSession(contents, providers=["CPUExecutionProvider"])
    worst = 0.0
    for n_rows, length in ((1, 1), (3, 7), (8, model.cfg.max_len)):
        inputs = random_inputs(model, n_rows, length)
        with torch.inference_mode():
            expected = outputs_of(model, inputs).values()
        fed = {THEIRS.get(name, name): x.numpy() for name, x in inputs.items()}
        found = session.run(None, fed)
        for ours, theirs in zip(expected, found, strict=True):
            # Padding can be no answer, and is minus infinity on both sides.
            difference = (ours - torch.from_numpy(theirs)).masked_fill(ours.isinf(), 0).abs().max()
            worst = max(worst, difference.nan_to_num(torch.inf).item())
    return worst


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within it, exporting says nothing of its own packages."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(logging.NOTSET)

"""What a model that is not trained makes of every input: computed once, and kept in a file.

vectors = outputs_of(model, model.encoder_parts, batches, folder, device, "fp32", pooler_output)
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from system import distributed
from system.files import append_digest, digest_matches, whole_file
from tasks.encoding import Batches, PooledBatches
from training import inference, runs


def outputs_of(
    model: Any,
    parts: Sequence[nn.Module],
    batches: Any,
    folder: Path,
    device: torch.device,
    dtype: str,
    outputs: inference.Outputs,
    about: str = "",
) -> np.ndarray:
    """(N, ...): outputs by example. The file's name is a digest of all that they follow from.

    It ends with a digest of itself, so that a file that was cut short is made again.

    Args:
        parts: of the model, that the outputs follow from.
        about: what else they follow from.
    """
    # Whatever changes the outputs is part of the name: dtype, weights and tokens.
    features = batches.features
    digest = hashlib.sha256(f"{about}{dtype} {model.cfg}".encode())
    for part in parts:
        digest.update(runs.weights_digest(part).encode())
    for name in ("ids", "starts", "second", "which"):
        if (array := getattr(features, name, None)) is not None:
            digest.update(array.tobytes())
    file = folder / f"{digest.hexdigest()[:32]}.npy"
    found = None
    if file.is_file() and digest_matches(file):
        found = np.load(file, mmap_mode="r")
    lacking = found is None or len(found) != len(batches.lengths)
    # If one process lacks the file, all of them compute: predict() is a collective operation.
    if distributed.maximum(int(lacking)):
        # In order of length, not of training: they are stored by example.
        found = inference.predict(model, batches, device, dtype, outputs, bar=True)
        with whole_file(file) as f:
            np.save(f, found)
            append_digest(f)
    assert found is not None
    return found


def pool(
    model: Any, dtype: str, batches: Batches, folder: Path, device: torch.device
) -> PooledBatches:
    """Batches of pooled vectors instead of tokens, in the same order."""
    parts = model.encoder_parts
    vectors = outputs_of(model, parts, batches, folder, device, dtype, pooler_output)
    return PooledBatches(vectors, batches)


def pooler_output(model: Any, batch: Any) -> Tensor:
    """(B, D): what a sentence head reads."""
    return model.pool(**batch.inputs)

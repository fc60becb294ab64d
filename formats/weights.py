"""The bytes of other people's formats and of our .pt; what is in them pretrained.py knows.

tensors = read_weights(Path("model.safetensors"))   # {name: tensor}, or pytorch_model.bin, shards
tensors = read_tensorflow(Path("bert_model.ckpt"))  # {variable: tensor}
write_pt("model_steps_345.pt", contents); contents = read_pt(Path("model_steps_345.pt"))
"""

import contextlib
import glob
import hashlib
import os
import re
import sys
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
import torch
from torch import Tensor

from system.files import (
    DIGEST_SIZE,
    check_file,
    check_regular,
    digest_matches,
    read_json,
    whole_file,
)
from system.packages import tensorflow
from utils import UserError, is_text, short, show, typed, warn

# safetensors and the three endings that torch.save's files have.
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")

# The names of the files that say in which file each tensor is, where there are several.
INDEX = ".index.json"

# A name that every checkpoint of ours has, and no other.
OUR_NAME = "transformer.embedding.token.weight"

# Where training scripts keep the weights, among optimizer, step and so on.
NESTED = ("state_dict", "model_state_dict", "model")

# What optimizers leave in a TensorFlow checkpoint: the endings of Google's scripts, the slots of
# TensorFlow's own optimizers, which are called as these are, and counters.
TENSORFLOW_STATE = re.compile(
    r"""(^|/)(
    (adam|lamb)_[mv]
    | (Adam|AdamW|AdamWeightDecay|Adamax|Nadam|LAMB|LARS|Momentum|RMSProp|Adagrad|Adadelta|Adafactor
      |Ftrl|SGD)(Optimizer)?(_\d+)?(/[mv]|/momentum)?
    | ExponentialMovingAverage
    | global_step | beta[12]_power | (current_)?loss_scale | good_steps
    )$""",
    re.VERBOSE,
)


# --------------------------------------------------------------------------------------- TensorFlow


def read_tensorflow(prefix: Path) -> dict[str, Tensor]:
    """{variable: tensor} of a TensorFlow checkpoint, without the optimizer's state."""
    # TensorFlow would wait for a pipe for ever.
    for part in prefix.parent.glob(f"{glob.escape(prefix.name)}.*"):
        check_regular(part)
    try:
        # TensorFlow greets on stderr, whatever it is told.
        with silent_stderr():
            reader = tensorflow().train.load_checkpoint(str(prefix))
            names = sorted(reader.get_variable_to_shape_map())
            if "_CHECKPOINTABLE_OBJECT_GRAPH" in names:
                raise UserError(
                    f"{prefix} is an object checkpoint of TensorFlow 2, with names of its own; "
                    "convert it first, with convert_bert_original_tf2_checkpoint_to_pytorch.py of "
                    "transformers 4, or name the model's Hugging Face folder"
                )
            return {
                name: torch.from_numpy(np.array(reader.get_tensor(name)))
                for name in names
                if not TENSORFLOW_STATE.search(name)
            }
    except ImportError:
        raise UserError(
            f"{prefix} is a TensorFlow checkpoint; to read it, pip install tensorflow"
        ) from None
    except UserError:
        raise
    except Exception as error:
        refuse_pointer(Path(f"{prefix}.index"))
        # Its reader raises many of Python's exceptions for a damaged file.
        raise UserError(f"{prefix} is truncated or altered ({error}); fetch it again") from None


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """Discard what C++ code writes to stderr."""
    sys.stderr.flush()
    # C++ writes to file descriptor 2, which Python's sys.stderr does not control.
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


# ----------------------------------------------------------------------------- PyTorch, safetensors


def read_weights(file: Path) -> dict[str, Tensor]:
    """{name: tensor} of safetensors or of what torch.save has written, old format or new.

    Of an index, as Hugging Face's folders have it, all files that it names.
    """
    if file.name.endswith(INDEX):
        return read_shards(file)
    if file.suffix == ".safetensors":
        from safetensors.torch import load, load_file

        try:
            tensors = load_file(file) if is_text(file) else load(file.read_bytes())
        except Exception as error:
            # The library raises several exceptions for a damaged file.
            raise_unreadable(file, error)
    else:
        tensors = unnested(read_archive(file), file)
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        kind = type(tensors).__name__
        raise UserError(f"{file}: expected names and tensors, found a {kind} of other things")
    return {str(name): tensor for name, tensor in tensors.items()}


def read_shards(index: Path) -> dict[str, Tensor]:
    """The tensors of all files that an index names; UserError unless each is where it says."""
    where = typed(read_json(index).get("weight_map"), dict[str, str], f"{index}: weight_map")
    tensors: dict[str, Tensor] = {}
    names = sorted(set(where.values()))
    for name in names:
        # A path, such as ../x, would lead out of the folder.
        if Path(name).name != name or Path(name).suffix not in WEIGHTS:
            raise UserError(f"{index}: weight_map names {show(name)}; expected files beside it")
        if not index.with_name(name).is_file():
            raise UserError(f"{index} names {name}, which does not lie beside it; fetch it too")
    for name in names:
        file = index.with_name(name)
        found = read_weights(file)
        expected = {tensor for tensor, place in where.items() if place == name}
        if odd := sorted(found.keys() ^ expected):
            states = "lacks" if odd[0] in expected else "has"
            raise UserError(
                f"{file} {states} {short(odd[0])}, and {index.name} says otherwise; fetch both"
            )
        tensors |= found
    return tensors


def unnested(contents: Any, file: Path) -> Any:
    """The state dict in a checkpoint of a training script, or what else the file has."""
    if isinstance(contents, dict):
        # What write_pt() writes ends with a digest, and read_pt() has found none.
        ours = contents.get("model") if "config" in contents else None
        if isinstance(ours, dict) and OUR_NAME in ours:
            raise UserError(f"{file} is altered: it has no digest at its end; use an earlier one")
        for name in NESTED:
            if isinstance(contents.get(name), dict):
                warn(f"{file}: its {name!r} is read, the rest is not")
                return contents[name]
    return contents


def read_archive(file: Path, mapped: bool = False) -> Any:
    """What torch.save has written: tensors, `mapped` in the file or read, and plain values.

    UserError where a file is damaged, or would run code, allocate memory that it does not fill, or
    name other files.
    """
    check_file(file, "weights")
    try:
        # torch.save wrote plain pickles before version 1.6, zip archives since.
        if zipfile.is_zipfile(file):
            check_zip(file)
        # torch.load warns of things that a reader of weights cannot change.
        with warnings.catch_warnings(action="ignore"):
            # weights_only refuses a pickle that would run code. Weights of a GPU are read without
            # one.
            mapped = mapped and is_text(file)
            return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except UserError:
        raise
    except Exception as error:
        # Each format has its own exceptions; a pickle that would run code ends here too.
        raise_unreadable(file, error)


def check_zip(file: Path) -> None:
    """ValueError where a part of an archive is larger than the file, or is named like a path."""
    with zipfile.ZipFile(file) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise UserError(
                f"{file} is a program of torch.jit.save; save the state_dict() of the module that "
                "it was made from"
            )
        for entry in archive.infolist():
            # torch.save does not compress. A part that claims more than the file's size would fill
            # the memory.
            stored = entry.compress_type == zipfile.ZIP_STORED
            if not stored or entry.file_size > file.stat().st_size:
                raise ValueError(f"{entry.filename} claims {entry.file_size} bytes")
            # A part named ../x would be written outside of any folder it is unpacked to.
            if ".." in entry.filename.split("/") or entry.filename.startswith("/"):
                raise ValueError(f"{entry.filename} is no name of a part")


def raise_unreadable(file: Path, error: Exception) -> NoReturn:
    """Raise what to say of weights that a library cannot read."""
    # A missing file names itself; that is a better message.
    if isinstance(error, OSError) and error.filename:
        raise error
    refuse_pointer(file)
    # torch.load names the class of the first object that is neither a tensor nor a plain value.
    if found := re.search(r"Unsupported (?:global|class).*?([\w.]+\.\w+)", str(error)):
        raise UserError(
            f"{file}: not readable as weights: it pickles an object of {short(found[1])}, which "
            "could run code; where it was made, save the model's state_dict() alone"
        ) from None
    reason = short(str(error).split("\n")[0].split(". ")[0], 100)
    raise UserError(
        f"{file}: not readable as weights ({reason}); it is truncated, altered or something else"
    ) from None


def refuse_pointer(file: Path) -> None:
    """UserError where a file is what git leaves in the place of a large one."""
    with contextlib.suppress(OSError), open(file, "rb") as f:
        if f.read(100).startswith(b"version https://git-lfs"):
            raise UserError(
                f"{file} is a pointer of git-lfs, not the file itself; run `git lfs pull` in its "
                "folder, or download it"
            )


def check_tensors(tensors: dict[str, Tensor], file: Path) -> None:
    """UserError where a tensor is not made of plain numbers with memory for each of them."""
    for name, t in tensors.items():
        # Sparse, quantised and integer tensors would be cast without a word, to something else.
        if not (is_plain(t) and t.is_floating_point()):
            what = f"{t.device.type} {t.layout} of {t.dtype}".replace("torch.", "")
            if t.is_quantized:
                what = "quantised"
            if t.is_nested:
                what = "nested"
            raise UserError(
                f"{file}: {short(name)} is {what}; expected ordinary floating-point numbers"
            )
        # An expanded tensor claims any number of elements with the memory of one.
        if t.numel() * t.element_size() > t.untyped_storage().nbytes():
            raise UserError(
                f"{file}: {short(name)} repeats few numbers as a tensor of {t.numel()}; save a "
                "contiguous copy"
            )


def is_plain(t: Tensor) -> bool:
    """Whether a tensor is made of numbers one after the other."""
    return not (t.is_nested or t.layout != torch.strided or t.is_meta or t.is_quantized)


def check_finite(tensors: dict[str, Tensor], file: Path) -> None:
    """UserError where a number is infinite or NaN."""
    for name, t in tensors.items():
        # Of numbers of a byte PyTorch computes no sum.
        t = t.float() if t.element_size() == 1 else t
        # A sum takes a ninth of the time that looking at each number does, and is not finite where
        # one of them is not. Large numbers alone may add up to infinity too.
        if not t.sum().isfinite() and not t.isfinite().all():
            n = int((~t.isfinite()).sum())
            raise UserError(
                f"{file}: {n:,} of the {t.numel():,} numbers of {name} are NaN or infinite; use "
                "another checkpoint"
            )


# --------------------------------------------------------------------------- this project's own .pt


def checkpoints_in(folder: str | Path) -> list[Path]:
    """The model_steps_N.pt of a folder, fewest steps first."""
    found = Path(folder).glob("model_steps_*.pt")
    # A name such as model_steps_10_old.pt is not one of a run's.
    own = [file for file in found if re.fullmatch(r"model_steps_\d+", file.stem)]
    # By number: as text, 900 would come after 1000.
    return sorted(own, key=lambda file: int(file.stem.removeprefix("model_steps_")))


def write_pt(file: str | Path, contents: dict[str, Any]) -> None:
    """Write a .pt, whole or not at all, that torch.load can read; any altered byte is noticed.

    torch.save makes a zip archive; its comment, the last bytes of the file, takes the SHA-256 of
    all bytes before it.
    """
    with whole_file(file) as f:
        try:
            archive = Archive(f)
            torch.save(contents, archive)  # type: ignore[arg-type]
            archive.end()
        except (OSError, RuntimeError) as error:
            # torch.save raises a RuntimeError for a full disk.
            raise OSError(
                f"{file} could not be written whole; is the disk full? Make room and start the "
                "same command again: what was saved before is intact"
            ) from error


class Archive:
    """A zip archive that is written from its start to its end, and gets its digest as comment.

    The digest is computed on the way: reading a large file once more takes as long as writing it.
    """

    def __init__(self, file: BinaryIO):
        self.file, self.digest = file, hashlib.sha256()
        self.last = b""  # the last two bytes so far, held back: those of an archive are replaced

    def write(self, data: bytes | memoryview) -> None:
        """Write more of it."""
        data = memoryview(data).cast("B")
        if len(data) < 2:
            data = memoryview(self.last + data)
            self.last = b""
        for part in (self.last, data[:-2]):
            self.file.write(part)
            self.digest.update(part)
        self.last = bytes(data[-2:])

    def flush(self) -> None:
        """What is held back stays so."""

    def end(self) -> None:
        """Write the comment, whose length the archive's last two bytes state."""
        length = bytes([DIGEST_SIZE, 0])
        self.digest.update(length)
        self.file.write(length + self.digest.hexdigest().encode())


def read_pt(file: Path, whole: bool = True) -> dict[str, Any] | None:
    """The contents of a .pt of ours, its digest checked; None if it is something else.

    Args:
        whole: False: its tensors stay in the file, and the digest is not compared, to look at the
            numbers beside them.
    """
    check_regular(file)
    with open(file, "rb") as f:
        start = f.read(2)
        size = f.seek(0, os.SEEK_END)
        f.seek(max(0, size - DIGEST_SIZE - 2))
        tail = f.read()
    # A file of ours ends with the length of the comment, 64 in two bytes, and the digest. Without
    # these it is another program's, or an archive that was cut off.
    if not re.fullmatch(rb"\x40\x00[0-9a-f]{64}", tail):
        is_whole_archive = b"PK\x05\x06" in tail[-22:]
        is_archive = not start or start.startswith(b"PK")
        if is_whole_archive or not is_archive:
            return None
        raise UserError(
            f"{file} is truncated or altered: it has no digest at its end; use an earlier "
            "checkpoint"
        )
    if whole and not digest_matches(file):
        raise UserError(
            f"{file} is altered: its digest does not match its contents; use an earlier checkpoint"
        )
    return read_archive(file, mapped=not whole)

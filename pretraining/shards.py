"""The files of a prepared corpus: arrays mapped into memory, and a shard.json about them.

    corpus = Corpus("books-ids")
    corpus.tokens[corpus.sentences[0]:corpus.sentences[1]]      # the ids of the first sentence

DIR/shard-I-of-N holds shard.json and raw little-endian arrays, and is written whole or not at all.
Shards made apart, on other machines, are one corpus when they lie in one folder. docs/formats.md
describes the files.
"""

import contextlib
import dataclasses
import hashlib
import json
import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from system.distributed import local_rank
from system.files import file_digest, read_json, whole_folder, write_json
from system.locks import locked
from utils import UserError, make, short, show, typed, visible

FORMAT = 1  # of the files; a reader refuses another
# Arrays that say where things start, and their end: sentences in tokens, documents in sentences ...
OFFSETS = {"sentences": "tokens", "documents": "sentences", "instances": "tokens", "slots": "words"}


def is_prepared(folder: str | Path) -> bool:
    """Whether a folder holds a prepared corpus."""
    return Path(folder).is_dir() and any(Path(folder).glob("shard-*-of-*/shard.json"))


class ArrayFile:
    """An array on disk that grows at its end; knows its size and digest."""

    def __init__(self, file: Path, dtype: np.dtype):
        self.file, self.dtype = open(file, "wb"), dtype
        self.digest, self.size = hashlib.sha256(), 0

    def append(self, values: np.ndarray | list[int]) -> None:
        """Write values at the end."""
        # The bytes on disk are little-endian on every machine, by the dtype of the array.
        data = np.ascontiguousarray(values, self.dtype).tobytes()
        self.file.write(data)
        self.digest.update(data)
        self.size += len(data) // self.dtype.itemsize

    def __enter__(self) -> "ArrayFile":
        return self

    def __exit__(self, *_: object) -> None:
        # Windows removes no file that is open, and a shard that fails is removed.
        with contextlib.suppress(OSError):
            self.file.close()

    def close(self) -> dict[str, Any]:
        """Put everything on the disk; what shard.json says of the file."""
        self.file.flush()
        # The folder is renamed once all its arrays are on the disk.
        os.fsync(self.file.fileno())
        self.file.close()
        return {"dtype": self.dtype.str, "size": self.size, "sha256": self.digest.hexdigest()}


def id_type(n: int) -> np.dtype:
    """The smallest unsigned integer that holds n different ids."""
    # BERT's 30,522 tokens fit into two bytes, which halves what is read.
    return np.dtype(np.min_scalar_type(n - 1)).newbyteorder("<")


@contextlib.contextmanager
def new_shard(
    folder: Path, types: Mapping[str, str | np.dtype]
) -> Iterator[tuple[Path, dict[str, ArrayFile]]]:
    """A shard to fill: where its files lie until it is complete, and an array of each type."""
    with whole_folder(folder) as partial, contextlib.ExitStack() as stack:
        arrays = {
            name: stack.enter_context(ArrayFile(partial / f"{name}.bin", np.dtype(dtype)))
            for name, dtype in types.items()
        }
        # What comes first starts at 0.
        for name in OFFSETS.keys() & arrays.keys():
            arrays[name].append([0])
        yield partial, arrays


def write_shard(folder: Path, about: dict[str, Any], arrays: dict[str, ArrayFile]) -> None:
    """Close a shard's arrays and describe them."""
    about = about | {"arrays": {name: file.close() for name, file in arrays.items()}}
    # shard.json comes last: a folder that has one is complete.
    write_json(folder / "shard.json", about, everywhere=True)


def digests_of(files: list[Path]) -> list[list[str]]:
    """The name and the SHA-256 of each file that a corpus is made from."""
    return [[visible(file.name), file_digest(file)] for file in files]


def write_once(folder: Path, write: Callable[[], None]) -> None:
    """Have a shard written unless it is there; of two runs that begin at once one does."""
    if not (folder / "shard.json").is_file():
        with locked(folder.with_name(f".{folder.name}.lock")):
            # Another process may have written it while this one waited for the lock.
            if not (folder / "shard.json").is_file():
                write()


# ----------------------------------------------------------------------------------- arrays to read


class Joined:
    """Arrays of several shards, one after the other, addressed as one."""

    def __init__(self, parts: list[np.ndarray], shifts: list[int] | None = None):
        self.parts = parts
        self.shifts = shifts or [0] * len(parts)  # added to a part's values
        self.starts = np.cumsum([0, *map(len, parts)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: Any) -> Any:
        """The values at an index, an array of them, or a slice (a copy)."""
        # As int64, since parts may differ in type and in what is added to their values.
        if isinstance(index, slice):
            start, stop, _ = index.indices(len(self))
            pieces = [
                part[max(0, start - at) : max(0, stop - at)].astype(np.int64) + shift
                for part, at, shift in zip(self.parts, self.starts, self.shifts, strict=False)
            ]
            return np.concatenate(pieces)
        # A single shard, the usual case, needs no search for the shard of an index.
        if len(self.parts) == 1:
            return self.parts[0][index].astype(np.int64)
        index = np.asarray(index)
        which = np.searchsorted(self.starts, index, "right") - 1
        out = np.empty(index.shape, np.int64)
        for k in np.unique(which).tolist():
            chosen = which == k
            values = self.parts[k][index[chosen] - self.starts[k]]
            out[chosen] = values.astype(np.int64) + self.shifts[k]
        return out

    def search(self, value: int) -> int:
        """The first index whose value is not less, of rising values."""
        # Values rise through all shards, so the first part whose last value is large enough has it.
        for part, at, shift in zip(self.parts, self.starts, self.shifts, strict=False):
            if len(part) and value <= part[-1] + shift:
                return int(at) + int(np.searchsorted(part, value - shift))
        return len(self)


@dataclasses.dataclass(frozen=True)
class About:
    """What shard.json says; only instances have the last two, only text a tokenizer's settings."""

    format: int
    kind: str  # text, or instances
    shard: tuple[int, int]  # which one, of how many
    text: list[tuple[str, str]]  # names and SHA-256 of the files it was made from
    counts: dict[str, int]
    arrays: dict[str, dict[str, Any]]  # of each the dtype, the size and the SHA-256
    vocab: str | None = None  # SHA-256
    do_lower_case: bool | None = None
    strip_accents: bool | None = None
    tokenize_chinese_chars: bool | None = None
    # The next four where transformers' tokenizer is meant (formats/rules.py).
    tokenizer_class: str | None = None
    max_input_chars_per_word: int | None = None
    split_special_tokens: bool | None = None
    added_tokens_decoder: dict[str, dict[str, Any]] | None = None
    split_sentences: str | None = None  # language
    text_column: str | None = None  # of JSON lines, where it was named
    hard_wrapped: bool = False  # whether lines seem to end at a column
    max_len: int | None = None
    largest_id: int | None = None


ARRAYS = {
    "text": {"tokens", "sentences", "documents"},
    "instances": {"tokens", "instances", "second", "slots", "positions", "words", "order"},
}
COUNTS = {
    "text": {"documents", "sentences", "tokens", "unknown", "lines", "bytes"},
    "instances": {"instances", "tokens", "masked"},
}
# Which array a count is the size of; one that says where things start has their end too.
SIZES = {name: name for name in ("documents", "sentences", "tokens")}
SIZES |= {"instances": "order", "masked": "words"}
DTYPES = ("|u1", "u1", "<u2", "<u4", "<i4", "<i8")


def read_about(file: Path) -> dict[str, Any]:
    """A shard.json, checked."""
    values = read_json(file)
    if values.get("format") != FORMAT:
        raise UserError(
            f"{file} has format {show(values.get('format'))}; expected {FORMAT}, so prepare the "
            "corpus again"
        )
    if lacking := {"kind", "shard", "counts", "arrays"} - values.keys():
        raise UserError(f"{file} lacks {', '.join(sorted(lacking))}; prepare the corpus again")
    about = dataclasses.asdict(make(About, {"text": [], **values}, file))
    kind = about["kind"]
    # COUNTS is looked up last, when the kind is known to be one.
    if (
        kind not in ARRAYS
        or set(about["arrays"]) != ARRAYS[kind]
        or not COUNTS[kind] <= about["counts"].keys()
    ):
        arrays = short(", ".join(about["arrays"]), 100)
        raise UserError(
            f"{file}: {show(kind)} with the arrays {arrays} is no kind of corpus; prepare it again"
        )
    # The arrays are mapped by what stands here, so that it must not ask for more than there is.
    for name, array in about["arrays"].items():
        where = f"{file}: {name}"
        typed(array, dict[str, str | int], where)
        dtype, size = array.get("dtype"), array.get("size")
        if (
            dtype not in DTYPES
            or type(size) is not int
            or not 0 <= size < 2**48
            or type(array.get("sha256")) is not str
        ):
            raise UserError(
                f"{where} is {show(array)}; expected dtype, size and sha256, so prepare the corpus "
                "again"
            )
    for name, count in about["counts"].items():
        array = about["arrays"].get(SIZES.get(name))
        # Otherwise a run would end in the middle, with an index error.
        if not 0 <= count < 2**48 or (array and count != array["size"] - (SIZES[name] in OFFSETS)):
            raise UserError(
                f"{file}: {short(name)} is {show(count)}, which its arrays contradict; prepare it "
                "again"
            )
    if kind == "text" and about["do_lower_case"] is None:
        raise UserError(f"{file}: do_lower_case is missing; prepare the corpus again")
    if kind == "instances" and (about["max_len"] or 0) < 1:
        raise UserError(f"{file}: max_len is {show(about['max_len'])}; prepare the corpus again")
    return {name: value for name, value in about.items() if value is not None}


def find_shards(folder: Path) -> list[Path]:
    """The folders of a corpus's shards, in their order; UserError unless all are there."""
    # by the length of the names first, so that shard 10 comes after shard 9
    folders = sorted(folder.glob("shard-*-of-*"), key=lambda path: [len(path.name), path.name])
    if not folders:
        raise UserError(
            f"{folder} holds no prepared corpus; make one with python corpus.py prepare TEXT "
            "`vocab=V` `out=DIR`"
        )
    n = read_about(folders[0] / "shard.json")["shard"][1]
    # Exactly the parts of one split: 0/4 to 3/4, and no others beside them.
    if {path.name for path in folders} == {f"shard-{i}-of-{n}" for i in range(n)}:
        return folders
    if missing := [f"{i}/{n}" for i in range(n) if not (folder / f"shard-{i}-of-{n}").is_dir()]:
        raise UserError(f"{folder}: shards {', '.join(missing)} are missing; prepare them too")
    raise UserError(f"{folder}: shards of different splits; remove those of one")


def check_together(folders: list[Path], abouts: list[dict[str, Any]]) -> None:
    """UserError where shards do not belong together, or a vocabulary is not theirs."""
    for path, about in zip(folders, abouts, strict=True):
        for name in ("format", "kind", "text", "vocab", "do_lower_case", "split_sentences"):
            if about.get(name) != abouts[0].get(name):
                raise UserError(
                    f"{path} differs from {folders[0]} in {name}; prepare all shards from the same "
                    "text, vocabulary and settings"
                )
        vocab = path / "vocab.txt"
        # Token ids mean nothing without the vocabulary they were made with.
        if vocab.is_file() and file_digest(vocab) != about.get("vocab"):
            raise UserError(f"{vocab} was altered (its digest differs); prepare the corpus again")


def check_offsets(folders: list[Path], parts: dict[str, list[np.ndarray]]) -> None:
    """UserError where arrays that say where things start do not."""
    if local_rank() > 0:  # once on each machine is enough
        return
    for name, what in OFFSETS.items():
        # an instance may have no masked slot; nothing else is empty
        least = 0 if name == "slots" else 1
        for i, starts in enumerate(parts.get(name, [])):
            # Offsets have one entry more than there are things, the end of the last.
            end = len(parts[what][i]) - (what in OFFSETS)
            right = len(starts) and starts[0] == 0 and starts[-1] == end
            # In parts, so that little is in memory; they overlap by the step between two of them.
            parts_of_it = (starts[at : at + 2**20 + 1] for at in range(0, len(starts), 2**20))
            if not right or any((np.diff(part) < least).any() for part in parts_of_it):
                raise UserError(
                    f"{folders[i]}/{name}.bin does not say where things start; prepare the corpus "
                    "again"
                )


class Corpus:
    """A prepared corpus, all its shards, checked and mapped into memory.

    Attributes:
        kind: text, or instances.
        about: what shard.json says, of the first shard; counts are summed up.
        arrays: name -> Joined. Of text: `tokens` (ids), `sentences` (at which token each starts,
            and the end), `documents` (at which sentence each starts, and the end).
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        folders = find_shards(self.folder)
        # Before any array: shards that do not belong together are found in no time.
        abouts = [read_about(path / "shard.json") for path in folders]
        check_together(folders, abouts)
        self.about = abouts[0]
        self.kind: str = self.about["kind"]
        self.counts = {
            name: sum(about["counts"][name] for about in abouts) for name in self.about["counts"]
        }
        self._maps: list[mmap.mmap] = []
        parts = {
            name: [
                self._map(path / f"{name}.bin", about["arrays"][name])
                for path, about in zip(folders, abouts, strict=True)
            ]
            for name in self.about["arrays"]
        }
        check_offsets(folders, parts)
        self.release()
        self.arrays = {}
        for name, found in parts.items():
            shifts = None
            # Offsets count through all shards: each part's last is the next one's first.
            if name in OFFSETS:
                shifts = np.cumsum([0] + [int(part[-1]) for part in found[:-1]]).tolist()
                found = [*(part[:-1] for part in found[:-1]), found[-1]]
            self.arrays[name] = Joined(found, shifts)
        self.vocab_file = folders[0] / "vocab.txt" if (folders[0] / "vocab.txt").is_file() else None
        if self.kind == "text" and not self.vocab_file:
            raise UserError(f"{folders[0]} has no vocab.txt; prepare the corpus again")
        # What a run is trained on: the digests of all arrays, whatever the folder is called.
        self.key = hashlib.sha256(
            json.dumps([a["arrays"] for a in abouts], sort_keys=True).encode()
        ).hexdigest()

    def __repr__(self) -> str:
        return (
            f"<corpus {self.folder}: {', '.join(f'{n} {name}' for name, n in self.counts.items())}>"
        )

    def _map(self, file: Path, about: dict[str, Any]) -> np.ndarray:
        dtype = np.dtype(about["dtype"])
        if not file.is_file() or file.stat().st_size != about["size"] * dtype.itemsize:
            size = f"{file.stat().st_size} bytes" if file.is_file() else "missing"
            raise UserError(
                f"{file}: {size}; expected {about['size'] * dtype.itemsize} bytes, so prepare the "
                "corpus again"
            )
        # once on each machine is enough
        if local_rank() == 0 and file_digest(file) != about["sha256"]:
            raise UserError(f"{file} was altered (its digest differs); prepare the corpus again")
        if not about["size"]:
            # A file of no bytes cannot be mapped.
            return np.empty(0, dtype)
        with open(file, "rb") as f:
            self._maps.append(mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ))
        # The array looks into the map, so pages are read when they are asked for.
        return np.frombuffer(self._maps[-1], dtype)

    def __getattr__(self, name: str) -> Joined:
        # Only what Python does not find comes here: corpus.tokens is corpus.arrays["tokens"].
        if name in self.__dict__.get("arrays", ()):
            return self.arrays[name]
        raise AttributeError(name)

    def release(self) -> None:
        """Give the pages that were looked at back to the system: memory does not grow."""
        # Windows has no such call, and takes the pages of a file when others need the memory.
        for mapped in self._maps if hasattr(mmap, "MADV_DONTNEED") else []:
            mapped.madvise(mmap.MADV_DONTNEED)

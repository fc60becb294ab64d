"""Weights by name: from Hugging Face's hub, or out of a zip file as Google published them.

folder = fetch("bert-base-uncased")                         # in huggingface_hub's cache
folder = fetch("hf:owner/name@a-tag")                       # a branch, a tag or a commit
folder = unzipped(Path("uncased_L-12_H-768_A-12.zip"))      # in the user's cache
"""

import os
import re
import shutil
import zipfile
import zlib
from pathlib import Path

from formats.beside import USED
from system.files import file_digest, whole_folder
from system.locks import locked
from utils import UserError, short, warn

# Name, where it is on the hub, layers x width, casing, languages, what for.
TABLE = """
bert-base-uncased  google-bert  12 x 768  uncased  English  the usual choice
bert-large-uncased  google-bert  24 x 1024  uncased  English  best results, slow
bert-base-cased  google-bert  12 x 768  cased  English  names of people and places
bert-large-cased  google-bert  24 x 1024  cased  English  names, best results, slow
bert-large-uncased-whole-word-masking  google-bert  24 x 1024  uncased  English  questions
bert-large-cased-whole-word-masking  google-bert  24 x 1024  cased  English  names, questions
bert-base-multilingual-cased  google-bert  12 x 768  cased  104 languages  across languages
bert-base-multilingual-uncased  google-bert  12 x 768  uncased  102 languages  the older of these
bert-base-chinese  google-bert  12 x 768  -  Chinese  Chinese, by characters
bert-base-german-cased  google-bert  12 x 768  cased  German  German
"""
FAMILY = [re.split(r"\s{2,}", line) for line in TABLE.strip().splitlines()]
# Google's small models: any of these depths with any of these widths.
SMALL = re.compile(r"google/bert_uncased_L-(2|4|6|8|10|12)_H-(128|256|512|768)_A-(2|4|8|12)")
SMALL_LINE = "google/bert_uncased_L-2_H-128_A-2 to google/bert_uncased_L-12_H-768_A-12"

# Weights in one file, or an index and the files that it names. Of the two kinds the one that cannot
# run code is fetched, and beside it whatever is read.
SAFE = (
    *("model.safetensors", "model.safetensors.index.json", "model-*.safetensors"),
    "*_Dense/model.safetensors",
)
PICKLED = (
    "*_Dense/pytorch_model.bin",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "pytorch_model-*.bin",
)

REVISION = re.compile(r"refs(/[\w.+-]+)+|[\w.+-]+")

# What is taken out of a zip file, by the last part of its name.
IN_ZIP = re.compile(r"(bert_)?config\.json|vocab\.txt|\w[\w.-]*\.ckpt.*")
# Weights hardly compress: what claims many times the size of its zip file would fill the disk.
MOST_RATIO, MOST_MORE = 20, 2**26


def repository(name: str) -> tuple[str, str | None] | None:
    """The owner/name on the hub that a name means, and its revision; None for a path.

    Any other name of a repository needs hf: before it, since it might as well be a folder.
    """
    if name.startswith("hf:"):
        repo, at, revision = name.removeprefix("hf:").partition("@")
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repo) or ".." in repo or (at and not revision):
            raise UserError(f"{name}: expected hf:owner/name or hf:owner/name@revision")
    # What lies here comes before what could be downloaded.
    elif Path(name).exists():
        return None
    else:
        repo, _, revision = name.partition("@")
        known = {model: f"{owner}/{model}" for model, owner, *_ in FAMILY}
        repo = known.get(repo, repo)
        if repo not in known.values() and not SMALL.fullmatch(repo):
            return None
    # The cache would follow a path.
    if revision and (".." in revision or not REVISION.fullmatch(revision)):
        raise UserError(
            f"{name}: the revision is {short(revision)!r}; expected a branch, a tag, a commit, or "
            "refs/pr/N"
        )
    return repo, revision or None


def fetch(name: str) -> Path | None:
    """The folder of a model of the hub, downloaded if the cache lacks it; None for a path.

    huggingface_hub does it: its cache, offline mode, tokens and mirrors are honoured. UserError
    says what is wrong, and how to do without.
    """
    if (found := repository(name)) is None:
        return None
    repo, revision = found
    by_hand = f"download config.json, vocab.txt and {SAFE[0]} of {repo} into a folder"
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError:
        raise UserError(
            f"{name}: weights by name need huggingface_hub; pip install huggingface_hub, or "
            f"{by_hand} and name that"
        ) from None
    try:
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=[*USED, *SAFE]))
        if not any((folder / file).exists() for file in SAFE):
            # Of the same commit, even if the branch has moved meanwhile.
            snapshot_download(repo, revision=folder.name, allow_patterns=[*USED, *PICKLED])
    except errors.GatedRepoError:
        reason = "its owner wants you to accept terms first; do so, and set HF_TOKEN"
    except errors.RepositoryNotFoundError:
        reason = f"the hub has no {repo}, or it is private; check the name, or set HF_TOKEN"
    except errors.RevisionNotFoundError:
        reason = f"it has no revision {revision or 'main'}; name a branch, a tag or a commit"
    except errors.LocalEntryNotFoundError:
        reason = f"the hub is not reached, and the cache lacks it; {by_hand} and name that"
    except OSError as error:
        if not error.filename:
            raise UserError(f"{name}: {error}; try again, or {by_hand} and name that") from None
        # A cache that cannot be written, say; the error names the file.
        raise
    except Exception as error:
        # Its client raises many of Python's exceptions for a network that fails.
        reason = f"{short(str(error).splitlines()[0], 100)}; try again, or {by_hand} and name that"
    else:
        if any((folder / file).exists() for file in (*SAFE, *PICKLED)):
            return folder
        reason = f"the hub has neither {SAFE[0]} nor {PICKLED[0]} of it; {by_hand} and name that"
    raise UserError(f"{name}: {reason}")


def origin(file: Path) -> str | None:
    """owner/name@commit of a file in huggingface_hub's cache, and the digest of what is there."""
    found = re.fullmatch(r"models--(.+)", file.parent.parent.parent.name)
    if not found or file.parent.parent.name != "snapshots":
        return None
    # The cache names a large file by its SHA-256.
    blob = file.resolve().name
    digest = blob if re.fullmatch("[0-9a-f]{64}", blob) else file_digest(file)
    return f"{found[1].replace('--', '/')}@{file.parent.name} sha256 {digest}"


def unzipped(file: Path) -> Path:
    """The folder with what is in one of Google's zip files, in the user's cache.

    It is named by the file's digest, and made once, and again where it was altered. Only a
    checkpoint, its configuration and its vocabulary are taken out.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pytorchic-bert"
    folder = cache / f"{file.stem}-{file_digest(file)[:16]}"
    by_hand = f"unpack it yourself and name the folder, or set XDG_CACHE_HOME (now {cache.parent})"
    try:
        if is_unpacked(file, folder):
            return folder
        # All processes of torchrun are here at the same time, and one has to unpack.
        with locked(cache / ".lock"):
            if not is_unpacked(file, folder):
                # Altered, or half of what it was.
                shutil.rmtree(folder, ignore_errors=True)
                unpack(file, folder)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{file} cannot be unpacked ({error.strerror}); {by_hand}") from None
    except Exception as error:
        # Each way to pack has its own exceptions; an encrypted file is a RuntimeError.
        raise UserError(
            f"{file}: {short(str(error), 100)}; it is damaged or encrypted, fetch it again"
        ) from None
    warn(f"Unpacked {file} into {folder}")
    return folder


def unpack(file: Path, folder: Path) -> None:
    """Take a checkpoint and what belongs to it out of a zip file, whole or not at all."""
    with zipfile.ZipFile(file) as archive, whole_folder(folder) as partial:
        found = entries(archive, file)
        if not any(".ckpt" in name for name in found):
            raise UserError(f"{file} has no TensorFlow checkpoint, NAME.ckpt.index, in it")
        # No more than an entry claims is read of it: zipfile then finds another checksum.
        claimed, size = sum(entry.file_size for entry in found.values()), file.stat().st_size
        if claimed > MOST_RATIO * size + MOST_MORE:
            raise UserError(
                f"{file} would become {claimed:,} bytes, {claimed // size} times its size; weights "
                "do not compress like that: fetch it again"
            )
        for name, entry in found.items():
            with archive.open(entry) as there, open(partial / name, "wb") as here:
                shutil.copyfileobj(there, here)


def entries(archive: zipfile.ZipFile, file: Path) -> dict[str, zipfile.ZipInfo]:
    """What is taken out of a zip file, by the last part of its name.

    No file is written outside of a folder then; UserError where two would be the same.
    """
    found: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        name = Path(entry.filename).name
        if IN_ZIP.fullmatch(name) and not entry.is_dir():
            if name in found:
                raise UserError(
                    f"{file} has two files {name}, {found[name].filename} and {entry.filename}; "
                    "unpack the right one and name its folder"
                )
            found[name] = entry
    return found


def is_unpacked(file: Path, folder: Path) -> bool:
    """Whether a folder holds what unpack() makes of a zip file, to the checksum."""
    if not folder.is_dir():
        return False
    with zipfile.ZipFile(file) as archive:
        found = entries(archive, file)
    if {path.name for path in folder.iterdir()} != found.keys():
        return False
    return all(checksum(folder / name) == entry.CRC for name, entry in found.items())


def checksum(file: Path) -> int:
    """CRC-32 of a file, as zip files have it."""
    crc = 0
    with open(file, "rb") as f:
        while block := f.read(2**20):
            crc = zlib.crc32(block, crc)
    return crc

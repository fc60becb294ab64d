"""From text to a prepared corpus: tokens, and where sentences and documents start.

    prepare_text([Path("books.txt")], "vocab.txt", "books-ids", workers=8)
    Corpus("books-ids").counts["tokens"]

Files are cut into jobs of about a megabyte. Worker processes tokenise them, and their results are
written in order, so the number of workers does not change a byte.
"""

import array
import collections
import concurrent.futures
import concurrent.futures.process
import dataclasses
import functools
import itertools
import multiprocessing
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from formats import corpora
from formats.rules import UNKNOWN, Rules
from formats.vocab import Vocabulary
from pretraining import shards
from pretraining.sentences import Layout, check_splitter, layout, sentences
from system import forms
from system.files import read_json
from system.progress import progress
from tokenization import FullTokenizer
from utils import UserError

JOB = 2**20  # bytes of text that a worker takes at a time
BLANK = re.compile(rb"\n(?:[ \t\r]*\n)+")


def cores() -> int:
    """The cores this process may use."""
    # A container or a batch system may allow fewer cores than the machine has.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def language_of(split_sentences: bool | str) -> str | None:
    """The language to split sentences in, by the flag: True is English, False no splitting."""
    if isinstance(split_sentences, bool):
        return "en" if split_sentences else None
    return split_sentences


# ----------------------------------------------------------------------------------- jobs to arrays


@dataclasses.dataclass(frozen=True)
class Job:
    """A piece of a file, cut at a blank line or at least at a line's end."""

    file: Path
    start: int  # bytes
    end: int
    form: Layout


@dataclasses.dataclass(frozen=True)
class Tokenised:
    """What becomes of a job."""

    tokens: np.ndarray  # ids of all its sentences
    lengths: np.ndarray  # tokens of each sentence
    breaks: list[int]  # before which of its sentences a document begins
    lines: int


def cut(file: Path, size: int) -> list[int]:
    """Where to cut a file into jobs: after blank lines, or after lines where none is near."""
    cuts, at = [0], JOB
    with open(file, "rb") as f:
        while at < size:
            # one byte back, so that a blank line that ends just here is seen
            f.seek(at - 1)
            if blank := BLANK.search(f.read(JOB)):
                at += blank.end() - 1
            else:
                # a document longer than a job: only whole lines must stay together
                f.seek(at - 1)
                f.readline()
                at = f.tell()
            if at < size:
                cuts.append(at)
            at += JOB
    return [*cuts, size]


def read_text(job: Job) -> str:
    """A piece of a file; UserError names the line that is not text."""
    with open(job.file, "rb") as f:
        f.seek(job.start)
        content = f.read(job.end - job.start)
    # UTF-16 has a zero byte in every ASCII character, and may decode as UTF-8 all the same.
    if (bad := content.find(b"\0")) >= 0:
        raise UserError(
            f"{job.file}, line {line_number(job.file, job.start + bad)}: a zero byte, so a binary "
            "file or UTF-16; expected UTF-8 text"
        )
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{job.file}, line {line_number(job.file, job.start + error.start)}: not UTF-8 text; "
            "convert the file to UTF-8"
        ) from None
    return text if job.start else text.removeprefix("\ufeff")


def tokenise(job: Job, tokenizer: FullTokenizer, language: str | None) -> Tokenised:
    """Read and tokenise a job. What gives no token, such as a blank line, is no sentence."""
    lines = read_text(job).split("\n")
    # The job ends with a line end, after which there is no line.
    if not lines[-1]:
        lines.pop()
    # 32-bit integers in flat arrays: a job's results travel to the parent as a whole.
    flat, lengths = array.array("I"), array.array("I")
    # a file's end ends a document, so that the file's first job begins one
    breaks = [0] if job.start == 0 else []
    for sentence in sentences(lines, job.form, language):
        if sentence is None:
            breaks.append(len(lengths))
        elif ids := tokenizer.encode(sentence):
            flat.extend(ids)
            lengths.append(len(ids))
    return Tokenised(np.array(flat, np.uint32), np.array(lengths, np.int64), breaks, len(lines))


def line_number(file: Path, place: int) -> int:
    """The line of a file that a byte is on, from 1."""
    with open(file, "rb") as f:
        pieces = (f.read(min(JOB, place - at)) for at in range(0, place, JOB))
        return 1 + sum(piece.count(b"\n") for piece in pieces)


@functools.cache
def worker_tokenizer(file: Path, rules: Rules) -> FullTokenizer:
    """The tokenizer of a worker process, which it keeps for all its jobs."""
    return FullTokenizer(Vocabulary.read(file).with_rules(rules, bool(rules.do_lower_case)))


def work(file: Path, rules: Rules, language: str | None, job: Job) -> Tokenised:
    """A job in a worker process, which reads the vocabulary itself."""
    return tokenise(job, worker_tokenizer(file, rules), language)


def start_worker() -> None:
    """What a worker process does first."""
    # A Ctrl-C goes to every process of the terminal; the parent ends its workers in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The handler that fork has copied belongs to the parent.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = os.getppid()

    # a killed parent cannot stop its workers, which would wait for jobs for ever
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def run_jobs(
    jobs: list[Job], workers: int, tokenizer: FullTokenizer, language: str | None
) -> Iterator[Tokenised]:
    """The jobs' results in their order, computed in parallel, a bounded number in memory."""
    if workers == 1 or len(jobs) == 1:
        yield from (tokenise(job, tokenizer, language) for job in jobs)
        return
    work_on = functools.partial(work, tokenizer.vocabulary.file, tokenizer.rules, language)
    # fork starts a worker in milliseconds, where importing numpy anew takes longer than small texts
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    # Windows waits for no more than 63 at a time, of which the pool has two.
    if sys.platform == "win32":
        workers = min(workers, 61)
    with concurrent.futures.ProcessPoolExecutor(workers, context, start_worker) as executor:
        waiting: collections.deque[concurrent.futures.Future[Tokenised]] = collections.deque()
        try:
            for job in jobs:
                waiting.append(executor.submit(work_on, job))
                # two jobs for each worker: none waits, and results do not pile up in memory
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except concurrent.futures.process.BrokenProcessPool:
            raise UserError(
                "a worker process was killed, perhaps for want of memory; use fewer `workers`"
            ) from None
        finally:
            # An error in one job must not wait for those that are not needed any more.
            executor.shutdown(wait=False, cancel_futures=True)


# ---------------------------------------------------------------------------------- arrays to shard


def write_arrays(
    arrays: dict[str, shards.ArrayFile], jobs: list[Job], results: Iterator[Tokenised], unknown: int
) -> dict[str, int]:
    """Append the results of jobs to a shard's arrays; returns what shard.json says of the text."""
    # at which token each sentence starts, and at which sentence each document
    tokens, sentences, documents = arrays.values()
    n_bytes = sum(job.end - job.start for job in jobs)
    n_unknown = n_lines = last_document = 0
    with progress(total=n_bytes, unit="B", unit_scale=True, desc="Preparing") as bar:
        for job, done in zip(jobs, results, strict=True):
            breaks = sentences.size - 1 + np.unique(np.array(done.breaks, np.int64))
            # A document without a sentence is none.
            documents.append(breaks[breaks > last_document])
            last_document = max([last_document, *breaks.tolist()])
            # Where each sentence ends, which is where the next one starts.
            sentences.append(tokens.size + np.cumsum(done.lengths))
            tokens.append(done.tokens)
            n_unknown += int(np.count_nonzero(done.tokens == unknown))
            n_lines += done.lines
            bar.update(job.end - job.start)
    # The end of the last document, which nothing follows.
    if sentences.size - 1 > last_document:
        documents.append([sentences.size - 1])
    return {
        "documents": documents.size - 1,
        "sentences": sentences.size - 1,
        "tokens": tokens.size,
        "unknown": n_unknown,
        "lines": n_lines,
        "bytes": n_bytes,
    }


def check_texts(files: list[Path]) -> None:
    """UserError names the first file that is no plain text: markup, JSON, something compressed."""
    for file in files:
        forms.check(file, "corpus")


def prepare_text(
    files: list[Path],
    vocab: str | Path | Vocabulary,
    out: str | Path,
    workers: int = 1,
    shard: tuple[int, int] = (0, 1),
    language: str | None = None,
    settings: dict[str, Any] | None = None,
    column: str | None = None,
) -> Path:
    """Tokenise text into `out`/shard-I-of-N, or find that it is done; returns the shard's folder.

    Args:
        files: UTF-8 text, a sentence a line, a blank line between documents; a file's end ends a
            document too. Or what corpora.py reads.
        vocab: vocab.txt, or the vocabulary in it; it is copied into the shard.
        out: folder of the prepared corpus.
        workers: processes that tokenise.
        shard: (i, n): the i-th of n parts, about equal in bytes.
        language: split lines into sentences by this language's rules ("en").
        settings: source_settings() of these, where they are known already.
        column: of JSON lines; None: "text".
    """
    i, n = shard
    vocabulary = vocab if isinstance(vocab, Vocabulary) else Vocabulary.read(vocab)
    check_texts(files)
    if not 0 <= i < n:
        raise UserError(
            f"`shard={i}/{n}`: expected 0/{n} to {n - 1}/{n}, since shards count from 0"
        )
    if workers < 1:
        raise UserError(f"`workers={workers}`: expected at least 1")
    if language is not None:
        check_splitter(language)
    # Whatever changes the arrays. It is compared when a shard is there already.
    made_from = {
        "format": shards.FORMAT,
        "kind": "text",
        "shard": [i, n],
        **(settings or source_settings(files, vocabulary, language, column)),
    }
    folder = Path(out) / f"shard-{i}-of-{n}"
    shards.write_once(folder, lambda: write_text(files, vocabulary, folder, workers, made_from))
    there = read_json(folder / "shard.json")
    names = [*made_from, *({"text_column"} - made_from.keys())]
    if different := [name for name in names if there.get(name) != made_from.get(name)]:
        raise UserError(
            f"{folder} was prepared from something else ({', '.join(different)}); name another "
            "`out`, or remove it"
        )
    return folder


def write_text(
    files: list[Path], vocabulary: Vocabulary, folder: Path, workers: int, made_from: dict[str, Any]
) -> None:
    """Write the shard of prepare_text()."""
    (i, n), language = made_from["shard"], made_from["split_sentences"]
    tokenizer = FullTokenizer(vocabulary)
    id_type = shards.id_type(len(tokenizer.tokens))
    types: dict[str, str | np.dtype] = {"tokens": id_type, "sentences": "<i8", "documents": "<i8"}
    with shards.new_shard(folder, types) as (partial, arrays):
        vocabulary.save(partial, everywhere=True)
        plain = [as_plain(file, partial / "plain", made_from.get("text_column")) for file in files]
        jobs = []
        for file in plain:
            # How lines make sentences matters only where they are to be split.
            form = layout(file) if language else Layout()
            cuts = cut(file, file.stat().st_size)
            jobs += [Job(file, start, end, form) for start, end in itertools.pairwise(cuts)]
        # The i-th of n parts of the jobs, so that parts are about equal in bytes.
        jobs = jobs[len(jobs) * i // n : len(jobs) * (i + 1) // n]
        results = run_jobs(jobs, workers, tokenizer, language)
        counts = write_arrays(arrays, jobs, results, tokenizer.vocab[UNKNOWN])
        # Of many shards of a small text some have no job, or none with text.
        if counts["sentences"] == 0:
            names = ", ".join(map(str, files[:3]))
            if len(files) > 3:
                names += " ..."
            if n == 1:
                raise UserError(f"{names} holds no text")
            raise UserError(
                f"{names} has no text for shard {i} of {n}; use fewer shards, or add text"
            )
        # A note for later: `corpus.py describe` warns of lines that are cut at a column.
        hard_wrapped = language is None and any(layout(file).width for file in plain)
        shutil.rmtree(partial / "plain", ignore_errors=True)
        about = made_from | {"counts": counts, "hard_wrapped": hard_wrapped}
        shards.write_shard(partial, about, arrays)


def as_plain(file: Path, folder: Path, column: str | None) -> Path:
    """A file of plain text: itself, or what another form becomes, in a folder."""
    if corpora.is_plain(file):
        return file
    folder.mkdir(exist_ok=True)
    target = folder / f"{len(list(folder.iterdir()))}.txt"
    with open(target, "w", encoding="utf-8", newline="\n") as f:
        for n, line in enumerate(corpora.lines_of(file, column), start=1):
            # Later it would be refused under the name of a file that nobody knows.
            if "\0" in line:
                raise UserError(f"{file}: a zero byte in line {n} of its text; expected UTF-8 text")
            f.write(line)
    return target


def source_settings(
    files: list[Path], vocabulary: Vocabulary, language: str | None, column: str | None = None
) -> dict[str, Any]:
    """What a prepared text follows from; nothing else changes its arrays."""
    return {
        **({} if column is None else {"text_column": column}),
        "text": shards.digests_of(files),
        "vocab": vocabulary.digest,
        "do_lower_case": vocabulary.rules.do_lower_case,
        "split_sentences": language,
        **vocabulary.rules.unusual(),
    }

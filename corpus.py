"""From text to a prepared corpus, and what is in it.

$ python corpus.py prepare TEXT... --vocab vocab.txt --out DIR [--workers 8] [--shard 0/4]
[--split_sentences True] $ python corpus.py describe DIR --max_len 512
"""

import array
import collections
import concurrent.futures
import concurrent.futures.process
import dataclasses
import itertools
import math
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from cli import command
from pretraining.batches import POOL, Batches
from pretraining.pairs import Pairs, mix
from pretraining.sentences import Layout, check_splitter, layout, sentences
from pretraining.shards import FORMAT, ArrayFile, Corpus, id_type, write_shard
from tokenization import (
    UNKNOWN,
    FullTokenizer,
    casing,
    load_vocab,
    save_vocab,
    stated_rules,
    vocab_digest,
)
from utils import UserError, file_digest, find, locked, read_json, whole_folder

JOB = 2**20  # bytes of text that a worker takes at a time
BLANK = re.compile(rb"\n(?:[ \t\r]*\n)+")


# ----------------------------------------------------------------------------------- text to arrays


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
    """Where to cut a file into pieces of about a megabyte: after blank lines, or lines where no
    blank one is near.
    """
    cuts, at = [0], JOB
    with open(file, "rb") as f:
        while at < size:
            f.seek(at - 1)
            window = f.read(JOB)
            if blank := BLANK.search(window):
                at += blank.end() - 1
            else:
                while (newline := window.find(b"\n")) < 0 and at < size:
                    at += len(window)
                    window = f.read(JOB)
                    if not window:
                        break
                at = min(size, at + newline) if newline >= 0 else size
            if at < size:
                cuts.append(at)
            at += JOB
    return [*cuts, size]


def tokenise(job: Job, tokenizer: FullTokenizer, language: str | None) -> Tokenised:
    """Read a piece of a file and tokenise it; UserError names the line that is not text."""
    with open(job.file, "rb") as f:
        f.seek(job.start)
        content = f.read(job.end - job.start)
    content = content.removeprefix(b"\xef\xbb\xbf") if job.start == 0 else content
    if (bad := content.find(b"\0")) >= 0:
        raise UserError(
            f"{job.file}, line {line_number(job, content[:bad])}: a zero byte, so a binary file or "
            "UTF-16; "
            f"expected UTF-8 text"
        )
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{job.file}, line {line_number(job, content[: error.start])}: not UTF-8 text; convert "
            "the file "
            f"to UTF-8"
        ) from None
    flat, lengths = array.array("I"), array.array("I")
    breaks = [0] if job.start == 0 else []
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    for sentence in sentences(lines, job.form, language):
        if sentence is None:
            breaks.append(len(lengths))
        elif ids := tokenizer.encode(sentence):
            flat.extend(ids)
            lengths.append(len(ids))
    return Tokenised(
        np.frombuffer(flat, np.uint32) if flat else np.empty(0, np.uint32),
        np.array(lengths, np.int64),
        breaks,
        len(lines),
    )


def line_number(job: Job, before: bytes) -> int:
    """The line of a file that a place in a job is on, from 1."""
    with open(job.file, "rb") as f:
        n, left = 1 + before.count(b"\n"), job.start
        while left:
            piece = f.read(min(left, JOB))
            n, left = n + piece.count(b"\n"), left - len(piece)
    return n


WORKER: list[Any] = []  # in a worker process: its tokenizer and language


def start_worker(vocab: Path, do_lower_case: bool, language: str | None) -> None:
    """What a worker process does first. Ctrl-C is the parent's to handle; without a parent there is
    no work.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    WORKER[:] = [FullTokenizer(vocab, do_lower_case), language]


def work(job: Job) -> Tokenised:
    """A job in a worker process."""
    return tokenise(job, *WORKER)


def run_jobs(
    jobs: list[Job], workers: int, vocab: Path, do_lower_case: bool, language: str | None
) -> Iterator[Tokenised]:
    """The jobs' results in their order, computed in parallel, a bounded number of them in memory."""
    if workers == 1 or len(jobs) == 1:
        tokenizer = FullTokenizer(vocab, do_lower_case)
        yield from (tokenise(job, tokenizer, language) for job in jobs)
        return
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    with concurrent.futures.ProcessPoolExecutor(
        workers, context, start_worker, (vocab, do_lower_case, language)
    ) as pool:
        queue = iter(jobs)
        waiting = collections.deque(
            pool.submit(work, job) for job in itertools.islice(queue, 2 * workers)
        )
        try:
            while waiting:
                yield waiting.popleft().result()
                if (job := next(queue, None)) is not None:
                    waiting.append(pool.submit(work, job))
        except concurrent.futures.process.BrokenProcessPool:
            raise UserError(
                "a worker process was killed, perhaps for want of memory; use fewer --workers"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def prepare_text(
    files: list[Path],
    vocab: str | Path,
    out: str | Path,
    do_lower_case: bool,
    workers: int = 1,
    shard: tuple[int, int] = (0, 1),
    language: str | None = None,
) -> Path:
    """Tokenise text into `out`/shard-I-of-N, or find that it is done; returns the shard's folder.

    Args:
        files: UTF-8 text, a sentence a line, a blank line between documents; a file's end ends a
            document too.
        vocab: vocab.txt; it is copied into the shard.
        out: folder of the prepared corpus.
        workers: processes that tokenise.
        shard: (i, n): the i-th of n parts, about equal in bytes.
        language: split lines into sentences by this language's rules ("en").
    """
    (i, n), vocab = shard, Path(vocab)
    if not 0 <= i < n:
        raise UserError(
            f"--shard {i}/{n}: expected 0/{n} to {n - 1}/{n}, since shards count from 0"
        )
    if workers < 1:
        raise UserError(f"--workers {workers}: expected at least 1")
    if language is not None:
        check_splitter(language)
    made_from = {
        "format": FORMAT,
        "kind": "text",
        "shard": [i, n],
        **source_settings(files, vocab, do_lower_case, language),
    }
    folder = Path(out) / f"shard-{i}-of-{n}"
    if not (folder / "shard.json").is_file():
        with locked(folder.with_name(f".{folder.name}.lock")):  # others wait, and find it done
            if not (folder / "shard.json").is_file():
                write_text(files, vocab, folder, do_lower_case, workers, language, made_from)
    there = read_json(folder / "shard.json")
    if different := [name for name in made_from if there.get(name) != made_from[name]]:
        raise UserError(
            f"{folder} was prepared from something else ({', '.join(different)}); name another "
            "--out, or "
            f"remove it"
        )
    return folder


def write_text(
    files: list[Path],
    vocab: Path,
    folder: Path,
    do_lower_case: bool,
    workers: int,
    language: str | None,
    made_from: dict[str, Any],
) -> None:
    """Write the shard of prepare_text()."""
    tokenizer, (i, n) = FullTokenizer(vocab, do_lower_case), made_from["shard"]
    jobs = [
        Job(file, a, b, layout(file) if language else Layout())
        for file in files
        for a, b in itertools.pairwise(cut(file, file.stat().st_size))
    ]
    jobs = jobs[len(jobs) * i // n : len(jobs) * (i + 1) // n]
    with whole_folder(folder) as partial:
        save_vocab(vocab, partial, do_lower_case, everywhere=True)
        tokens = ArrayFile(partial / "tokens.bin", id_type(len(tokenizer.tokens)))
        starts, documents = (
            ArrayFile(partial / f"{name}.bin", np.dtype("<i8"))
            for name in ("sentences", "documents")
        )
        starts.append([0])
        documents.append([0])
        unknown_id, unknown, n_lines, last = tokenizer.vocab[UNKNOWN], 0, 0, 0
        with tqdm(
            total=sum(job.end - job.start for job in jobs),
            unit="B",
            unit_scale=True,
            desc="Preparing",
        ) as bar:
            results = run_jobs(jobs, workers, vocab, do_lower_case, language)
            for job, done in zip(jobs, results, strict=True):
                for at in (starts.size - 1 + b for b in done.breaks):
                    if at > last:
                        documents.append([at])
                        last = at
                starts.append(tokens.size + np.cumsum(done.lengths))
                tokens.append(done.tokens)
                unknown += int(np.count_nonzero(done.tokens == unknown_id))
                n_lines += done.lines
                bar.update(job.end - job.start)
        if starts.size == 1:
            what = (
                "holds no text"
                if n == 1
                else f"has no text for shard {i} of {n}; use fewer shards, or add text"
            )
            raise UserError(f"{', '.join(map(str, files[:3]))}{' ...' * (len(files) > 3)} {what}")
        if starts.size - 1 > last:
            documents.append([starts.size - 1])
        counts = {
            "documents": documents.size - 1,
            "sentences": starts.size - 1,
            "tokens": tokens.size,
            "unknown": unknown,
            "lines": n_lines,
            "bytes": sum(job.end - job.start for job in jobs),
        }
        arrays = {"tokens": tokens, "sentences": starts, "documents": documents}
        wrapped = language is None and any(layout(file).width for file in files)
        write_shard(partial, made_from | {"counts": counts, "hard_wrapped": wrapped}, arrays)


def source_settings(
    files: list[Path], vocab: Path, do_lower_case: bool, language: str | None
) -> dict[str, Any]:
    """What a prepared text follows from; nothing else changes its arrays."""
    rules = dataclasses.replace(stated_rules(vocab)[0], do_lower_case=do_lower_case)
    return {
        "text": [[file.name, file_digest(file)] for file in files],
        "vocab": vocab_digest(vocab),
        "do_lower_case": do_lower_case,
        "split_sentences": language,
        **rules.unusual(),
    }


# ----------------------------------------------------------------------------------------- describe


@dataclasses.dataclass
class Description:
    """What pre-training will see of a corpus."""

    figures: dict[str, str]  # name -> value, as printed
    warnings: list[str]


def duplicates(corpus: Corpus, most: int = 2**20) -> float:
    """The share of sentences that are the same as an earlier one.

    Exact up to `most` different sentences; of a larger corpus, those whose hash falls in a part of
    all hashes are counted, so memory stays the same.
    """
    seen: set[int] = set()
    part, counted = 1, 0  # the sentences whose hash is a multiple of `part` are counted
    for first in range(0, len(corpus.sentences) - 1, 2**14):
        starts = corpus.sentences[first : min(first + 2**14 + 1, len(corpus.sentences))]
        tokens = corpus.tokens[int(starts[0]) : int(starts[-1])]
        place = np.arange(len(tokens)) - np.repeat(starts[:-1] - starts[0], np.diff(starts))
        mixed = mix(mix((tokens + 1).astype(np.uint64)) + place.astype(np.uint64))
        hashes = np.add.reduceat(mixed, starts[:-1] - starts[0])
        for value in mix(hashes).tolist():
            if value % part == 0:
                counted += 1
                seen.add(value)
                if len(seen) > most:
                    part *= 2
                    kept = {v for v in seen if v % part == 0}
                    counted = round(counted * len(kept) / len(seen))
                    seen = kept
        corpus.release()
    return 1 - len(seen) / max(1, counted)


def look_into(
    corpus: Corpus,
    max_len: int,
    max_pred: int | None,
    mask_prob: float,
    batch_size: int,
    next_sentence: bool = True,
) -> Description:
    """Plan an epoch, build some of its batches, and judge them."""
    counts = corpus.counts
    if corpus.kind == "instances":
        n = counts["instances"]
        ones = int(corpus.order[0:n].sum())
        return Description(
            {
                "instances": f"{n:,} of {corpus.about['max_len']} tokens at most, {counts['tokens'] / n:.1f} on average",
                "masked": f"{counts['masked'] / counts['tokens']:.1%} of the tokens",
                "random second text": f"{ones / n:.1%}",
                "steps of an epoch": f"{-(-n // batch_size):,} of {batch_size} instances",
            },
            [],
        )
    single_document = counts["documents"] < 2
    pairs = Pairs(
        corpus, max_len, max_pred, mask_prob, next_sentence=next_sentence and not single_document
    )
    n = used = random = single = tokens = 0
    for blocks in np.split(np.arange(pairs.n_blocks), range(POOL, pairs.n_blocks, POOL)):
        plan = pairs.plan(blocks, 0)
        n, random, single = (
            n + len(plan),
            random + int(plan.order.sum()),
            single + int(plan.single.sum()),
        )
        used += int(plan.n_a.sum() + plan.n_b[plan.order == 0].sum())
        tokens += int(pairs.lengths(plan).sum())
    batches, masked, seen = Batches(pairs, batch_size, 0), 0, 0
    for i in range(0, len(batches), -(-len(batches) // 20)):
        arrays = batches.arrays(i)
        masked, seen = masked + int((arrays[5] > 0).sum()), seen + int(arrays[2].sum())
    lengths = np.sort(
        np.concatenate(
            [
                np.diff(corpus.sentences[a : a + 1001])
                for a in np.linspace(0, len(corpus.sentences) - 1, 50, dtype=int)
            ]
        )
    )
    half, nine_tenths = lengths[len(lengths) // 2], lengths[len(lengths) * 9 // 10]
    same, unknown = duplicates(corpus), counts["unknown"] / counts["tokens"]
    figures = {
        "documents": f"{counts['documents']:,}, {counts['sentences'] / counts['documents']:.1f} sentences each on average",
        "sentences": f"{counts['sentences']:,}, from {counts['lines']:,} lines; {same:.1%} are the same as another",
        "tokens": f"{counts['tokens']:,} of {counts['bytes']:,} bytes; {unknown:.2%} are {UNKNOWN}",
        "tokens of a sentence": f"{counts['tokens'] / counts['sentences']:.1f} on average; half have {half} at most, nine "
        f"tenths {nine_tenths}, the longest seen {lengths[-1]}",
        "instances of an epoch": f"{n:,}, {tokens / n:.1f} tokens each on average of {max_len} at most",
        "steps of an epoch": f"{len(batches):,} of {batch_size} instances",
        "text used": f"{used / counts['tokens']:.1%} of the tokens are in an instance of their own document",
        "masked": f"{masked / seen:.1%} of the tokens, at most {pairs.max_pred} in an instance",
    }
    if pairs.next_sentence:
        figures["random second text"] = (
            f"{random / n:.1%} of the pairs; {single / n:.1%} as one sentence was all"
        )
    return Description(
        figures,
        list(warnings(corpus, pairs, used, single / n, masked / seen, same, single_document)),
    )


def warnings(
    corpus: Corpus,
    pairs: Pairs,
    used: int,
    single: float,
    masked: float,
    same: float,
    single_document: bool,
) -> Iterator[str]:
    """What looks wrong, in words, with what to do."""
    counts = corpus.counts
    length = counts["tokens"] / counts["sentences"]
    if single_document:
        yield (
            "the text is a single document, so there is no random second text: separate documents "
            "by blank lines, or "
            "pre-train with --next_sentence False"
        )
    elif counts["sentences"] / counts["documents"] > 5000:
        yield (
            f"documents have {counts['sentences'] / counts['documents']:,.0f} sentences on "
            "average: are blank lines "
            f"between documents missing?"
        )
    elif counts["sentences"] / counts["documents"] < 2:
        yield (
            "most documents are a single sentence, so nearly every second text is random: are "
            "there blank lines between "
            "sentences? Documents should have several"
        )
    if counts["sentences"] >= 2 * counts["documents"] and single > 0.1 and length > 40:
        yield (
            f"lines seem to be paragraphs ({length:.0f} tokens on average): {single:.0%} of the "
            "pairs have a random "
            f"second text only since one line fills them, and {1 - used / counts['tokens']:.0%} of "
            "the text is cut off; "
            f"prepare with --split_sentences True"
        )
    if corpus.about.get("hard_wrapped"):
        yield (
            "lines seem to be hard-wrapped, so sentences are cut at line ends: prepare with "
            "--split_sentences True, "
            "which joins them first"
        )
    if counts["unknown"] > 0.01 * counts["tokens"]:
        yield (
            f"{counts['unknown'] / counts['tokens']:.1%} of the tokens are {UNKNOWN}: the "
            "vocabulary, or its casing "
            f"(do_lower_case={corpus.about['do_lower_case']}), does not fit the text; another one, "
            "or learn one with "
            f"python tokenization.py learn"
        )
    tokens = list(load_vocab(corpus.vocab_file or ""))
    capitals = sum(token != token.lower() for token in tokens if not token.startswith("["))
    if corpus.about["do_lower_case"] == (capitals > 0.01 * len(tokens)):
        yield (
            f"do_lower_case={corpus.about['do_lower_case']}, and {capitals} of the vocabulary's "
            f"{len(tokens)} tokens "
            f"have capitals; prepare the text with the other casing"
        )
    if masked < 0.9 * pairs.mask_prob:
        yield (
            f"max_pred={pairs.max_pred} masks {masked:.1%} of the tokens, not "
            f"{pairs.mask_prob:.0%}; leave --max_pred "
            f"out for {math.ceil(pairs.max_len * pairs.mask_prob)}"
        )
    if same > 0.1:
        yield f"{same:.0%} of the sentences are the same as another; menus, footers or copies should be taken out"


# ----------------------------------------------------------------------------------------- commands


def prepare(
    texts: list[str],
    *,
    vocab: str,
    out: str,
    workers: int | None = None,
    shard: str = "0/1",
    do_lower_case: bool | None = None,
    split_sentences: bool | str = False,
) -> None:
    """Tokenise text once, for pretrain.py --data_file DIR.

    Args:
        texts: files, globs or folders of UTF-8 text, a sentence a line, a blank line between
            documents.
        vocab: vocab.txt.
        out: folder of the prepared corpus.
        workers: processes; default: one for each core.
        shard: I/N prepares part I of N, from 0; all parts in one folder are used together.
        do_lower_case: only to insist; it follows from the vocabulary.
        split_sentences: split lines into sentences: True for English, or a language code; joins
            hard-wrapped lines first.
    """
    if not (match := re.fullmatch(r"(\d+)/(\d+)", shard)):
        raise UserError(f"--shard {shard}: expected I/N, such as 0/4")
    folder = prepare_text(
        find(",".join(texts)),
        vocab,
        out,
        casing(vocab, do_lower_case),
        cores() if workers is None else workers,
        (int(match[1]), int(match[2])),
        language(split_sentences),
    )
    counts = read_json(folder / "shard.json")["counts"]
    print(
        f"{folder}: {counts['documents']} documents, {counts['sentences']} sentences, "
        f"{counts['tokens']} tokens"
    )


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def language(split_sentences: bool | str) -> str | None:
    """The language to split sentences in, by the flag: True is English."""
    return (
        None if split_sentences is False else "en" if split_sentences is True else split_sentences
    )


def describe(
    folder: str,
    max_len: int = 512,
    max_pred: int | None = None,
    mask_prob: float = 0.15,
    batch_size: int = 256,
    next_sentence: bool = True,
) -> None:
    """Print what pre-training will see of a prepared corpus, and warn where something looks wrong.

    Args:
        folder: made by prepare, or by pretrain.py in its save_dir.
        max_len: tokens of an instance.
        max_pred: masked tokens of an instance at most; default max_len times mask_prob, rounded up.
        mask_prob: share of the tokens to mask.
        batch_size: instances of a step.
        next_sentence: False: no pairs.
    """
    found = look_into(Corpus(folder), max_len, max_pred, mask_prob, batch_size, next_sentence)
    for name, value in found.figures.items():
        print(f"{name + ':':24}{value}")
    for warning in found.warnings:
        print(f"warning: {warning}")


if __name__ == "__main__":
    command(prepare, describe)

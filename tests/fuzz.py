"""Every reader of files, given thousands of damaged ones: it reads them, or refuses them in a line.

    $ python tests/fuzz.py [--n 20000] [--only READER] [--seed 0] [--out FILE.md]

Each run takes a reader's seed, a small folder of valid files (tests/seeds.py), mutates one of them
(tests/mutations.py) and reads the folder. That may succeed, or end in a UserError or in an OSError
that names a file, which cli.py turns into one line. Any other exception is a traceback, and more
than ten seconds of processor time are a hang. What a run does follows from the reader's name and
the run's number: `--only READER --seed NUMBER --n 1` repeats it.
"""

import contextlib
import dataclasses
import datetime
import faulthandler
import io
import math
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import mutations as change
import numpy as np
import seeds
import torch

import checkpoint
import finetune
import models
import pretrained
import train
from benchmarks.common import as_command
from encoder import load as load_encoder
from formats.vocab import Vocabulary
from formats.weights import silent_stderr
from pretrain import Pretrain
from pretraining import instances, pairs, shards
from pretraining.batches import PairBatches
from pretraining.text import prepare_text
from squad import Squad
from system.cli import command
from tasks import ChoiceTask, QuestionTask, SentenceTask, TagTask
from tasks.conlleval import count_file
from tasks.encoding import Batches
from tasks.tags import IGNORED
from tokenization import FullTokenizer
from utils import UserError

SECONDS = 10  # of processor time for one file
MEMORY = 6 * 2**30  # bytes for one file, above what the process has


class Hang(BaseException):
    """A reader has taken too long."""


class BrokenPromise(Exception):
    """A reader has accepted what it should not have; the message says what was expected."""


def expect(holds: object, promise: str) -> None:
    """BrokenPromise unless it holds."""
    if not holds:
        raise BrokenPromise(promise)


# ------------------------------------------------------------------------------------------ readers
# Each takes the file that was mutated, and reads it or the folder that it lies in.


def read_configuration(file: Path) -> None:
    """Settings alone."""
    kind = train.Config if file.name == "train.json" else models.Config
    kind.from_json(file)


def read_checkpoint(file: Path) -> None:
    """Weights and what lies beside them."""
    checkpoint.read(file.parent)


def read_hugging_face(file: Path) -> None:
    """What a command starts from."""
    start = pretrained.find(file.parent, head="classifier")
    checkpoint.load(models.Classifier(start.config, 2), start, fresh=("classifier",))


def read_classifier(file: Path) -> None:
    """Load a fine-tuned model and predict two rows."""
    saved = finetune.load(file.parent)
    text = "anna sold it"
    inputs = [text if saved.task.text_b is None else (text, "again")] * 2
    examples = list(saved.task.examples_of(inputs))
    data = saved.task.encode_examples(file, examples, saved.start.tokenizer)
    scores = data.features.of_examples(saved.outputs(data, bar=False))
    expect(scores.shape == (2, saved.task.n_outputs), "a score for each row and label")
    expect(len(saved.task.answers(data, scores)) == 2, "an answer for each row")


def read_squad_model(file: Path) -> None:
    """Load a model and answer a question."""
    answers = finetune.load(file.parent).predict([("anna ?", "anna sold it .")])
    expect(len(answers) == 1, "an answer for each question")


def read_answers(file: Path) -> None:
    """Evaluate answers to questions."""
    data, answers, odds = (
        str(file.with_name(f"{name}.json")) for name in ("dev", "predictions", "odds")
    )
    Squad(mode="eval", predict_file=data, predictions=answers, null_odds=odds).run()


def read_record(file: Path) -> None:
    """Questions of ReCoRD as windows."""
    tokenizer = FullTokenizer(file.with_name("vocab.txt"))
    data = QuestionTask(max_len=24, max_query_len=8, doc_stride=4).load(file, tokenizer)
    windows = data.windows
    expect((windows.question < len(data.examples)).all(), "windows of questions that there are")


def read_pretrained(file: Path) -> None:
    """Evaluate a pre-trained model."""
    folder = file.parent
    Pretrain(mode="eval", model_file=str(folder), data_file=str(folder / "corpus")).run()


def read_run(file: Path) -> None:
    """Go on with a run."""
    seeds.prepare_run(file.parent.parent).fit(file.parent, data_parallel=False)


def read_vocabulary(file: Path) -> None:
    """A tokenizer, and what it makes of a text."""
    vocab = file if file.name == "tokenizer.json" else file.with_name("vocab.txt")
    tokenizer = FullTokenizer(Vocabulary.read(vocab))
    ids = tokenizer.encode("anna sold\tthe Lamp , \u4e00\u0301 [MASK] \ud800")
    expect(
        all(0 <= i < len(tokenizer.vocab) for i in ids),
        "ids of less than the size of the vocabulary",
    )
    expect(len(tokenizer.convert_ids_to_tokens(ids)) == len(ids), "a token for each id")


def read_table(file: Path) -> None:
    """A table as a task's inputs."""
    labels = seeds.prepare_task(file).data.features.labels
    expect(np.isfinite(labels).all(), "finite labels")


def read_words(file: Path) -> None:
    """Words and tags as a task's inputs, and a score of them."""
    folder = file.parent
    _, data = TagTask(max_len=8).load_training(file, FullTokenizer(folder / "vocab.txt", True))
    n_labels = int((data.features.labels != IGNORED).sum())
    expect(n_labels == sum(len(text.words) for text in data.examples), "a label for each word")
    count_file(file)


def read_choices(file: Path) -> None:
    """Questions as a task's inputs."""
    data = ChoiceTask(max_len=8).load(file, FullTokenizer(file.with_name("vocab.txt"), True))
    batch = data.features.batches(2)[0]
    expect(batch.which[torch.arange(len(batch.labels)), batch.labels].min() >= 0, "a right choice")


def read_records(file: Path) -> None:
    """A TFRecord as a task's inputs, and the JSON beside it."""
    folder = file.parent
    task = SentenceTask.new(meta_data_file=str(folder / "meta.json"))
    tokenizer = FullTokenizer(folder / "vocab.txt", True)
    batches = Batches(task.load(folder / "train.tf_record", tokenizer).features, 2)
    for n in range(len(batches)):
        ids = batches[n].input_ids
        expect((ids >= 0).all() and (ids < len(seeds.VOCAB)).all(), "ids of the vocabulary")
        expect(torch.isin(batches[n].segment_ids, torch.arange(2)).all(), "segments of 0 and 1")


def read_instances(file: Path) -> None:
    """Fixed instances as batches."""
    folder = file.with_name("corpus")
    instances.prepare_instances([file], folder)
    found = shards.Corpus(folder)
    batches = PairBatches(instances.FixedInstances(found, found.about["max_len"]), 2)
    check_batches(batches, most=9, largest=found.about["largest_id"])


def read_shard(file: Path) -> None:
    """A prepared text as batches."""
    made = pairs.Pairs(shards.Corpus(file.parent.parent), pairs.PairConfig(max_len=32))
    batches = PairBatches(made, 4, seed=0)
    check_batches(batches, most=2, largest=len(seeds.VOCAB) - 1)


def check_batches(batches: PairBatches, most: int, largest: int) -> None:
    """Build some batches; BrokenPromise where no model could train on them."""
    for n in range(min(most, len(batches))):
        batch = batches.arrays(n)
        for tokens in (batch.input_ids, batch.words):
            expect(((tokens >= 0) & (tokens <= largest)).all(), "ids from 0 to the largest")
        expect(np.isin(batch.segment_ids, (0, 1)).all(), "segments of 0 and 1")
        lengths = batch.input_mask.sum(1, keepdims=True)
        inside = (batch.positions >= 0) & (batch.positions < lengths)
        expect(inside.all(), "masked positions within the sequence")
        expect(np.isin(batch.order, (0, 1)).all(), "an order of 0 or 1")
        expect(np.isfinite(batch.weights).all(), "finite weights")


def read_text(file: Path) -> None:
    """Prepare a text."""
    folder = file.parent
    prepare_text([folder / "corpus.txt"], folder / "vocab.txt", folder / "prepared")


def read_folder(file: Path) -> None:
    """Predict with the weights in a folder, and take vectors from them."""
    folder = file.parent.parent if file.parent.name == "1_Pooling" else file.parent
    refusals = list[UserError]()
    for use in (predict_two, take_vectors):
        try:
            use(folder)
        except UserError as error:
            refusals.append(error)
    if refusals:
        raise refusals[0]


def predict_two(folder: Path) -> None:
    """Two answers of a classifier."""
    saved = finetune.load(folder)
    text = "anna sold it"
    answers = saved.predict([text if saved.task.text_b is None else (text, "again")] * 2)
    expect(len(answers) == 2, "an answer for each text")
    expect(all(map(math.isfinite, numbers_in(answers))), "finite probabilities")


def take_vectors(folder: Path) -> None:
    """The vectors of two lines."""
    encoder = load_encoder(folder, max_len=16)
    found = list(encoder.extract(["anna sold it", "again"], [-1], "mean"))
    expect(all(np.isfinite(text.values).all() for text in found), "finite vectors")


def numbers_in(value: object) -> Iterator[float]:
    """All numbers of nested answers."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from numbers_in(part)
    elif isinstance(value, int | float):
        yield value


def read_objects(file: Path) -> None:
    """Predict odd objects, which follow from the number in a file, with the model beside it."""
    rng = random.Random(file.read_text())
    saved = finetune.load(file.parent)
    inputs, n = change.odd_inputs(seeds.INPUTS[file.parent.name], rng)
    answers = list(saved.predict(inputs))
    expect(n in (None, len(answers)), "an answer for each input")
    expect(all(map(math.isfinite, numbers_in(answers))), "finite probabilities")


@dataclasses.dataclass(frozen=True)
class Reader:
    """Something that reads files."""

    share: int  # of the runs, in thousandths
    seed: Callable[[Path], None]  # makes a folder of valid files
    read: Callable[[Path], None]
    files: dict[str, tuple[change.Mutation, ...]]  # what may become of which file


OURS = {"model_steps_3.pt": change.OURS, "config.json": change.JSON, "task.json": change.JSON}
VOCABULARY = {"vocab.txt": change.TEXT, "tokenizer_config.json": change.JSON}
HUGGING_FACE = {
    "several/model.safetensors.index.json": change.JSON,
    "safetensors/model.safetensors": change.SAFETENSORS,
    "zip/pytorch_model.bin": change.TORCH,
    "legacy/pytorch_model.bin": change.TORCH,
    "zip/config.json": change.JSON,
    "zip/vocab.txt": change.TEXT,
    "zip/tokenizer_config.json": change.JSON,
}
RUN = {
    "run/model_steps_2.pt": change.OURS,
    "run/metrics.jsonl": change.JSON_LINES,
    "run/run.json": change.JSON,
}
SHARD = {
    "corpus/shard-0-of-1/shard.json": change.JSON,
    "corpus/shard-0-of-1/tokens.bin": change.SHARD_ARRAY,
    "corpus/shard-0-of-1/sentences.bin": change.SHARD_ARRAY,
    "corpus/shard-0-of-1/documents.bin": change.SHARD_ARRAY,
    "corpus/shard-0-of-1/vocab.txt": change.TEXT,
}
TENSORFLOW = {
    "bert_model.ckpt.index": change.BYTES,
    "bert_model.ckpt.data-00000-of-00001": change.BYTES,
    "bert_config.json": change.JSON,
}


def each(kinds: tuple[change.Mutation, ...], *names: str) -> dict[str, tuple[change.Mutation, ...]]:
    """The same mutations for several files."""
    return dict.fromkeys(names, kinds)


CONFIGURATIONS = each(change.JSON, "ours.json", "google.json", "train.json")
JSON_TABLES = [name for name in seeds.TABLES if name.endswith(".jsonl")]
TABLES = each(change.TEXT, *seeds.TABLES) | each(change.JSON_LINES, *JSON_TABLES)
TOKENIZER = VOCABULARY | each(change.JSON, "tokenizer.json")
SQUAD = each(change.JSON, "squad.json", "config.json")
ANSWERS = each(change.JSON, "dev.json", "predictions.json", "odds.json")
RECORD = each(change.JSON_LINES, "record.jsonl")
PRETRAINED = each(change.JSON, "pretrain.json", "config.json")
INSTANCES = each(change.NPZ, "mask.npz", "lengths.npz")
WORDS = each(change.TEXT, *seeds.WORDS)
CHOICES = each(change.TEXT, "swag.csv", "openbook.tsv") | each(change.JSON_LINES, "arc.jsonl")
FOLDER_FILES = (
    "config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "modules.json",
    "1_Pooling/config.json",
)
FOLDERS = each(change.FOLDER, *(f"whole/{name}" for name in FOLDER_FILES))
FOLDERS |= each(change.FOLDER, "shards/model.safetensors.index.json", "shards/config.json")
FOLDERS |= each(change.WEIGHTS, "whole/model.safetensors")
FOLDERS |= each(change.WEIGHTS, "shards/model-00001-of-00002.safetensors")
OBJECTS = each((change.draw_again,), *(f"{kind}/draw.txt" for kind in seeds.INPUTS))
RECORDS = each(change.RECORDS, "train.tf_record") | each(change.JSON, "meta.json")

READERS = {
    "configurations": Reader(100, seeds.configurations, read_configuration, CONFIGURATIONS),
    "checkpoints": Reader(110, seeds.classifier, read_checkpoint, OURS),
    "hugging_face": Reader(120, seeds.hugging_face, read_hugging_face, HUGGING_FACE),
    "classifier": Reader(80, seeds.classifier, read_classifier, OURS | VOCABULARY),
    "squad_model": Reader(40, seeds.questions, read_squad_model, SQUAD),
    "answers": Reader(50, seeds.questions, read_answers, ANSWERS),
    "record": Reader(10, seeds.questions, read_record, RECORD),
    "pretrained": Reader(50, seeds.pretrained_model, read_pretrained, PRETRAINED),
    "run": Reader(60, seeds.run, read_run, RUN),
    "vocabulary": Reader(60, seeds.vocabulary, read_vocabulary, TOKENIZER),
    "words": Reader(30, seeds.words, read_words, WORDS),
    "choices": Reader(30, seeds.choices, read_choices, CHOICES),
    "tables": Reader(80, seeds.tables, read_table, TABLES),
    "instances": Reader(60, seeds.instances, read_instances, INSTANCES),
    "shards": Reader(60, seeds.corpus_folder, read_shard, SHARD),
    "text": Reader(30, seeds.sample, read_text, each(change.TEXT, "corpus.txt", "vocab.txt")),
    "records": Reader(20, seeds.records, read_records, RECORDS),
    "folders": Reader(100, seeds.weights, read_folder, FOLDERS),
    "objects": Reader(100, seeds.kinds, read_objects, OBJECTS),
    "tensorflow": Reader(10, seeds.tensorflow, read_checkpoint, TENSORFLOW),
}
NEED_TENSORFLOW = ("records", "tensorflow")


# ------------------------------------------------------------------------------------------ running


@dataclasses.dataclass
class Result:
    """What became of the runs of a reader."""

    files: int = 0
    successes: int = 0
    refusals: int = 0
    longest: str = ""  # message of a refusal
    tracebacks: dict[str, list[int]] = dataclasses.field(
        default_factory=dict
    )  # what and where: runs
    hangs: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    messages: dict[str, str] = dataclasses.field(default_factory=dict)  # of the first of each

    def add(self, found: dict[str, list[int]], error: BaseException, number: int) -> None:
        """Note a traceback or a hang."""
        what = describe(error)
        found.setdefault(what, []).append(number)
        self.messages.setdefault(what, " ".join(str(error).split())[:100])

    def row(self, name: str) -> str:
        """A row of the table."""
        failed = (sum(map(len, found.values())) for found in (self.tracebacks, self.hangs))
        counts = (self.files, self.successes, self.refusals, *failed, len(self.longest))
        return f"| {name} | {' | '.join(map(str, counts))} |"

    def failures(self) -> list[str]:
        """Each distinct traceback or hang, in words."""
        return [
            f"{what}, {len(numbers)} times, first in run {numbers[0]}; {self.messages[what]}"
            for what, numbers in sorted((self.tracebacks | self.hangs).items())
        ]


def fuzz(name: str, numbers: range, folder: Path) -> Result:
    """Have a reader read mutations of its seed."""
    result = Result()
    with alone():
        torch.manual_seed(0)
        READERS[name].seed(folder / "seed")
        for number in numbers:
            attempt(name, number, folder, result)
    return result


def attempt(name: str, number: int, folder: Path, result: Result) -> None:
    """Mutate one file and read it."""
    reader, rng, work = READERS[name], random.Random(f"{name} {number}"), folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(folder / "seed", work)
    part = rng.choice(list(reader.files))
    mutate = rng.choice(reader.files[part])
    mutate(work / part, rng)
    result.files += 1
    try:
        with limits():
            reader.read(work / part)
        result.successes += 1
    except UserError as error:
        result.refusals += 1
        result.longest = max(result.longest, " ".join(str(error).split()), key=len)
    except OSError as error:
        if error.filename is None:
            result.add(result.tracebacks, error, number)
        else:
            result.refusals += 1
    except Hang as error:
        result.add(result.hangs, error, number)
    except Exception as error:
        result.add(result.tracebacks, error, number)


def describe(error: BaseException) -> str:
    """What went wrong, and in which line of the project."""
    if isinstance(error, BrokenPromise):
        return f"accepted without {error}"
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(f"{ROOT}/")]
    tested = [frame for frame in ours if not frame.filename.startswith(f"{ROOT}/tests/")]
    # Where a hang is noticed is chance: the first line tells, of a traceback the last.
    place = (tested or ours)[0 if isinstance(error, Hang) else -1]
    file = Path(place.filename).relative_to(ROOT)
    return f"{type(error).__name__} at {file}:{place.name}:{place.lineno}"


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """No output, no warnings, no GPU, whose driver would take more memory than there is to be."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        stack.enter_context(silent_stderr())
        stack.enter_context(mock.patch("torch.cuda.is_available", return_value=False))
        stack.enter_context(mock.patch("torch.cuda.device_count", return_value=0))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def limits() -> Iterator[None]:
    """Hang after some seconds of processor time, MemoryError beyond some memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGPROF, stop)
    # cli.command ends the process on a second signal, whichever it is.
    wakeup = signal.set_wakeup_fd(-1)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, before[1]))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.signal(signal.SIGPROF, handler)
        signal.set_wakeup_fd(wakeup)


def stop(number: int, frame: types.FrameType | None) -> None:
    """End a reader that takes too long."""
    raise Hang(f"more than {SECONDS} s")


def main(n: int = 20000, only: str | None = None, seed: int = 0, out: str | None = None) -> None:
    """Fuzz the readers.

    Args:
        n: files in all.
        only: one reader, which gets all of them.
        seed: number of each reader's first run.
        out: Markdown to write the results to.
    """
    if only and only not in READERS:
        raise UserError(f"--only {only}: expected one of {', '.join(READERS)}")
    faulthandler.enable(os.fdopen(os.dup(2), "w"))
    columns = ("reader", "files", "read", "refused", "tracebacks", "hangs", "longest message")
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    print("\n".join(lines), flush=True)
    failures = []
    total = sum(reader.share for reader in READERS.values())
    for name in [only] if only else READERS:
        files = n if only else math.ceil(n * READERS[name].share / total)
        with tempfile.TemporaryDirectory() as folder:
            result = fuzz(name, range(seed, seed + files), Path(folder))
        lines.append(result.row(name))
        print(lines[-1], flush=True)
        failures += [f"- {name}: {line}" for line in result.failures()]
    print("\n".join(["", *failures]))
    if out:
        head = [
            "# Damaged files of every kind that is read",
            "",
            f"{datetime.date.today()}, torch {torch.__version__}",
        ]
        head += ["", f"    python tests/fuzz.py --n {n} --seed {seed}", ""]
        Path(out).write_text(
            "\n".join([*head, *lines, "", *(failures or ["No traceback, no hang."])]) + "\n"
        )
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    command(as_command(main))

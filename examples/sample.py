"""A little world to learn from without a download: people hand things to each other.

    $ python examples/sample.py FOLDER  # train.tsv, dev.tsv, corpus.txt, vocab.txt, *.json

Every sentence is made here, from the tables below, and every file follows from the seed: the same
on every machine. A pair is a paraphrase (1) when both sentences tell the same event in other words
and another order. It is none (0) when the second says that it did not come to it ("refused to
sell"), which a small model soon learns to see, or when it tells another event with some of the same
details. To see that takes comparing the two, which labels alone hardly teach. The corpus tells
every event several times: whoever has learnt to guess its masked words, and which sentences belong
together, has learnt to compare.
"""

import dataclasses
import random
import sys
from collections.abc import Iterator
from pathlib import Path

if __name__ == "__main__":  # run as a script, the modules are one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from system import distributed
from system.cli import command
from system.files import whole_file, write_json
from utils import UserError, rank

SAMPLE = Path("runs/sample")  # where --demo True writes it

PEOPLE = """anna boris carla david elena felix greta hugo irene jonas katia lukas marta nils olga
    pavel""".split()
THINGS = "bicycle lamp violin map coat kettle ladder clock basket mirror radio tent".split()
COLOURS = "red blue green yellow black white".split()
PLACES = "harbour market library station garden bakery museum bridge".split()
DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
HOURS = "morning noon evening night".split()
DEALS = {  # what the giver and the taker did, and what each would do
    "sale": ("sold", "bought", "sell", "buy"),
    "loan": ("lent", "borrowed", "lend", "borrow"),
    "gift": ("gave", "received", "give", "receive"),
    "delivery": ("sent", "got", "send", "get"),
}
DETAILS = {
    "thing": THINGS,
    "colour": COLOURS,
    "place": PLACES,
    "day": DAYS,
    "hour": HOURS,
    "deal": list(DEALS),
}
FORMS = (
    "{giver} {gave} the {colour} {thing} to {taker} at the {place} on {day} {hour} .",
    "{taker} {took} the {colour} {thing} from {giver} at the {place} on {day} {hour} .",
    "on {day} {hour} , {giver} {gave} {taker} the {colour} {thing} at the {place} .",
    "on {day} {hour} , at the {place} , {taker} {took} the {colour} {thing} from {giver} .",
    "at the {place} , {giver} {gave} the {colour} {thing} to {taker} on {day} {hour} .",
    "it was at the {place} that {taker} {took} the {colour} {thing} from {giver} on {day} {hour} .",
)
UNREAL = ("did not", "refused to", "forgot to", "hoped to", "was too late to")
SPECIAL = "[PAD] [UNK] [CLS] [SEP] [MASK]".split()

Event = dict[str, str]


def make_event(rng: random.Random) -> Event:
    """Who handed what to whom, how, where and when."""
    event = {detail: rng.choice(table) for detail, table in DETAILS.items()}
    event["giver"], event["taker"] = rng.sample(PEOPLE, 2)
    return event


def tell(event: Event, form: str, unreal: str | None = None) -> str:
    """The event as a sentence, or with `unreal` ("refused to") as one that did not happen."""
    gave, took, give, take = DEALS[event["deal"]]
    verbs = (
        {"gave": f"{unreal} {give}", "took": f"{unreal} {take}"}
        if unreal
        else {"gave": gave, "took": took}
    )
    return form.format(**event, **verbs)


def pairs(n: int, seed: int) -> Iterator[tuple[int, str, str]]:
    """n pairs (label, sentence, sentence), two of three of them paraphrases as in MRPC."""
    rng = random.Random(seed)
    for _ in range(n):
        event, (first, second) = make_event(rng), rng.sample(FORMS, 2)
        kind = rng.choices(("same", "unreal", "other"), (4, 1, 1))[0]
        other = make_event(rng) | {
            detail: event[detail] for detail in DETAILS if rng.random() < 0.3
        }
        yield (
            int(kind == "same"),
            tell(event, first),
            tell(
                other if kind == "other" else event,
                second,
                rng.choice(UNREAL) if kind == "unreal" else None,
            ),
        )


def documents(n: int, seed: int) -> Iterator[list[str]]:
    """n documents: an event, told in several sentences."""
    rng = random.Random(seed)
    for _ in range(n):
        event = make_event(rng)
        yield [tell(event, form) for form in rng.sample(FORMS, len(FORMS))]


def vocabulary() -> list[str]:
    """The special tokens, every word but the names, and letters to spell these with."""
    rng = random.Random(0)
    texts = [*FORMS, *UNREAL, *(" ".join(deal) for deal in DEALS.values())]
    words = {word for text in texts for word in text.split() if "{" not in word}
    words |= {word for table in DETAILS.values() for word in table}
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    shuffled = sorted(words - set(letters) - set(".,"))
    rng.shuffle(shuffled)  # so that nothing can be read off an id
    return [*SPECIAL, ".", ",", *letters, *(f"##{c}" for c in letters), *shuffled]


def write(folder: str, n_train: int = 4000, n_dev: int = 1000, n_documents: int = 4000) -> None:
    """Write the sample.

    The files: train.tsv, dev.tsv, corpus.txt, held_out.txt, vocab.txt, config.json (a small model),
    train.json and pretrain.json.

    Args:
        folder: where; files of these names there are replaced.
        n_train: pairs to train on.
        n_dev: pairs to evaluate on.
        n_documents: documents of the corpus.
    """
    if min(n_train, n_dev, n_documents) < 1:
        raise UserError(
            f"n_train={n_train}, n_dev={n_dev}, n_documents={n_documents}; expected at least 1 of "
            "each"
        )
    out, vocab = Path(folder), vocabulary()
    for name, n, seed in (("train.tsv", n_train, 1), ("dev.tsv", n_dev, 2)):
        lines = ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"]
        lines += [
            f"{label}\t{2 * i}\t{2 * i + 1}\t{a}\t{b}"
            for i, (label, a, b) in enumerate(pairs(n, seed))
        ]
        write_lines(out / name, lines)
    for name, n, seed in (
        ("corpus.txt", n_documents, 3),
        ("held_out.txt", max(10, n_documents // 20), 4),
    ):
        write_lines(
            out / name, [line for document in documents(n, seed) for line in (*document, "")]
        )
    write_lines(out / "vocab.txt", vocab)
    write_json(
        out / "config.json",
        {
            "vocab_size": len(vocab),
            "dim": 128,
            "n_layers": 2,
            "n_heads": 4,
            "dim_ff": 512,
            "p_drop_hidden": 0.1,
            "p_drop_attn": 0.1,
            "max_len": 128,
            "n_segments": 2,
        },
    )
    write_json(
        out / "train.json",
        {
            "seed": 42,
            "batch_size": 32,
            "lr": 5e-4,
            "n_epochs": 3,
            "warmup": 0.1,
            "save_steps": 100,
            "bias_correction": True,
        },
    )
    write_json(
        out / "pretrain.json",
        {
            "seed": 42,
            "batch_size": 64,
            "lr": 1e-3,
            "n_epochs": 5,
            "warmup": 0.1,
            "save_steps": 500,
            "bias_correction": True,
        },
    )


def write_lines(file: Path, lines: list[str]) -> None:
    """A text file, whole or not at all."""
    with whole_file(file) as f:
        f.write(("\n".join(lines) + "\n").encode())


# -------------------------------------------------------------------------------------- --demo True


def make() -> None:
    """Write the sample to SAMPLE, in one process of several."""
    if rank() == 0:
        write(str(SAMPLE))
    # The first process writes the sample; the others must not read it half written.
    distributed.wait_for_all()


def fine_tune(
    save_dir: str | None, log_dir: str | None, data_parallel: bool = True, shard: bool = False
) -> None:
    """Train on the sample's pairs from scratch, and evaluate."""
    import finetune
    import pretrained
    import train
    from classify import Classify
    from tasks import TASKS
    from tasks.rows import read_examples

    print(f"Training on the built-in sample in {SAMPLE}")
    make()
    task = dataclasses.replace(TASKS["mrpc"], max_len=64)
    start = pretrained.find(None, f"{SAMPLE}/config.json", f"{SAMPLE}/vocab.txt")
    # The sample has a configuration of its own: a tiny model needs a higher rate than a pre-trained
    # BERT.
    cfg = train.Config.from_json(SAMPLE / "train.json")
    run = finetune.prepare(task, f"{SAMPLE}/train.tsv", start, cfg=cfg)
    folder = save_dir or "runs/sample_model"
    result = run.fit(folder, log_dir, data_parallel, shard)
    dev = f"{SAMPLE}/dev.tsv"
    # The model is loaded from its file, as the user's next command would do it.
    Classify(mode="eval", model_file=str(result.file), data_file=dev).run()
    labels = [example.label for example in read_examples(task, dev)]
    majority = max(map(labels.count, set(labels))) / len(labels)
    print(
        f"Always answering the most frequent label would give an accuracy of {majority}\n\n"
        "Next, with data of your own and weights from Google or Hugging Face:\n"
        "  python classify.py --task csv --data_file train.csv --eval_file dev.csv "
        "--pretrain_file FOLDER --save_dir runs/mine\n"
        "  python classify.py --mode predict --model_file runs/mine --data_file new.csv"
    )


def pretrain(
    save_dir: str | None, log_dir: str | None, data_parallel: bool = True, shard: bool = False
) -> None:
    """Pre-train on the sample's corpus, and evaluate on documents held out."""
    from pretrain import Pretrain

    print(f"Pre-training on the built-in corpus in {SAMPLE}")
    make()
    folder = save_dir or "runs/sample_pretrain"
    # Short instances of a small model make the demonstration take minutes on a CPU.
    Pretrain(
        data_file=f"{SAMPLE}/corpus.txt",
        eval_file=f"{SAMPLE}/held_out.txt",
        model_cfg=f"{SAMPLE}/config.json",
        vocab=f"{SAMPLE}/vocab.txt",
        train_cfg=f"{SAMPLE}/pretrain.json",
        max_len=64,
        save_dir=folder,
        log_dir=log_dir,
        data_parallel=data_parallel,
        shard=shard,
    ).run()
    print(
        "\nNext, fine-tune from it:\n"
        f"  python classify.py --task mrpc --train_cfg {SAMPLE}/train.json --data_file "
        f"{SAMPLE}/train.tsv --pretrain_file {folder} --save_dir runs/sample_tuned --max_len 64"
    )


@dataclasses.dataclass
class Sample:
    """Write the sample: train.tsv, dev.tsv, corpus.txt, held_out.txt, vocab.txt, settings."""

    folder: str  # where; files of these names there are replaced
    n_train: int = 4000  # pairs to train on
    n_dev: int = 1000  # pairs to evaluate on
    n_documents: int = 4000  # documents of the corpus

    def run(self) -> None:
        write(self.folder, self.n_train, self.n_dev, self.n_documents)


if __name__ == "__main__":
    command(Sample)

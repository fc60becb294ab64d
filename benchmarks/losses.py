"""The losses of 20 seeded steps of every command that trains, to compare two versions of the code
to the bit.

    $ python benchmarks/losses.py > after.txt                   # here
    $ python benchmarks/losses.py ../before > before.txt        # in another checkout
    $ diff before.txt after.txt

The commands are run as a user would, on data that this script makes from a seed alone. With
BERT_DATA they also run on real data with real weights.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

STEPS = ["--total_steps", "20", "--log_steps", "1", "--seed", "7"]
MODEL = {"vocab_size": 0, "dim": 64, "n_layers": 3, "n_heads": 4, "dim_ff": 128, "max_len": 64}
MODEL |= {"p_drop_hidden": 0.1, "p_drop_attn": 0.1, "n_segments": 2}


def write_inputs(folder: Path) -> None:
    """A vocabulary, a model's shape, pairs, questions, tags, choices, instances and text: all from
    one seed.
    """
    rng = random.Random(0)
    words = [f"w{i}" for i in range(300)]
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in vocab))
    (folder / "model.json").write_text(json.dumps(MODEL | {"vocab_size": len(vocab)}))

    def text(longest: int) -> str:
        return " ".join(rng.choices(words, k=rng.randint(2, longest)))

    rows = [f"{text(20)}\t{text(20)}\t{rng.choice(('no', 'yes'))}" for _ in range(400)]
    (folder / "pairs.tsv").write_text("\n".join(["text_a\ttext_b\tlabel", *rows]) + "\n")

    paragraphs = []
    for i in range(100):
        context = text(90)
        answer = rng.choice(context.split())
        start = context.index(answer)
        question = {
            "id": str(i),
            "question": text(8),
            "answers": [{"text": answer, "answer_start": start}],
        }
        paragraphs.append({"context": context, "qas": [question]})
    squad = {"version": "1.1", "data": [{"title": "made", "paragraphs": paragraphs}]}
    (folder / "squad.json").write_text(json.dumps(squad))

    draw = np.random.default_rng(0)
    n, length, slots = 600, 48, 6
    lengths = draw.integers(12, length + 1, n)
    mask = np.arange(length) < lengths[:, None]
    positions = np.sort(np.argsort(draw.random((n, 10)), axis=1)[:, :slots] + 1, axis=1)
    np.savez(
        folder / "instances.npz",
        input_ids=draw.integers(5, len(vocab), (n, length)) * mask,
        segment_ids=(np.arange(length) >= lengths[:, None] // 2) * mask,
        input_mask=mask.astype(np.int64),
        masked_lm_positions=positions,
        masked_lm_ids=draw.integers(5, len(vocab), (n, slots)),
        masked_lm_weights=np.ones((n, slots), np.float32),
        next_sentence_labels=draw.integers(0, 2, (n, 1)),
    )

    rows = []
    for _ in range(300):
        tagged = [f"{word}\t{rng.choice(('O', 'O', 'B-A', 'B-B'))}" for word in text(20).split()]
        rows += [*tagged, ""]
    (folder / "tags.txt").write_text("\n".join(rows))
    questions = [
        {"context": text(12), "choices": [text(6) for _ in range(3)], "label": rng.randrange(3)}
        for _ in range(300)
    ]
    (folder / "choices.jsonl").write_text("".join(f"{json.dumps(q)}\n" for q in questions))
    documents = ["\n".join(text(12) for _ in range(12)) for _ in range(100)]
    (folder / "corpus.txt").write_text("\n\n".join(documents) + "\n")


def commands(made: Path, real: Path | None) -> dict[str, list[str]]:
    """What is run, by name."""
    weights = ["--model_cfg", f"{made}/model.json", "--vocab", f"{made}/vocab.txt"]
    pairs = [
        "--task",
        "tsv",
        "--data_file",
        f"{made}/pairs.tsv",
        "--text_a",
        "text_a",
        "--text_b",
        "text_b",
    ]
    squad = ["--train_file", f"{made}/squad.json", "--doc_stride", "16", "--max_query_len", "10"]
    instances = ["--data_file", f"{made}/instances.npz", "--max_len", "48", "--batch_size", "32"]
    instances += ["--gradient_accumulation", "2"]
    found = {
        "classify, made": ["classify.py", *pairs, *weights, "--max_len", "64", "--label", "label"],
        "squad, made": ["squad.py", *squad, *weights, "--max_len", "64"],
        "pretrain, made": ["pretrain.py", *instances, *weights],
        "tag, made": ["tag.py", "--train_file", f"{made}/tags.txt", *weights, "--max_len", "32"],
        "choose, made": ["choose.py", "--train_file", f"{made}/choices.jsonl", *weights],
        "pretrain, text": ["pretrain.py", "--data_file", f"{made}/corpus.txt", *weights],
    }
    found["choose, made"] += ["--max_len", "64"]
    found["pretrain, text"] += ["--max_len", "48", "--batch_size", "32", "--mask_prob", "0.2"]
    # One row at a time, as the first versions did.
    found["pretrain, text"] += ["--gradient_accumulation", "32"]
    if real:
        minilm = ["--pretrain_file", f"{real}/minilm"]
        mrpc = ["--task", "mrpc", "--data_file", f"{real}/glue/MRPC/train.tsv"]
        squad = [
            "--train_file",
            f"{real}/squad/dev-v1.1.json",
            "--max_len",
            "128",
            "--doc_stride",
            "32",
        ]
        found["classify, MRPC, minilm"] = ["classify.py", *mrpc, *minilm]
        found["squad, SQuAD 1.1, minilm"] = ["squad.py", *squad, "--batch_size", "8", *minilm]
    return found


def main() -> None:
    """Print each command's losses."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent).resolve()
    real = os.environ.get("BERT_DATA")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder)
        for number, (title, command) in enumerate(
            commands(folder, Path(real) if real else None).items()
        ):
            save_dir = folder / f"run{number}"
            script, *flags = command
            line = [sys.executable, str(root / script), *flags, *STEPS, "--save_dir", str(save_dir)]
            subprocess.run(
                line, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder
            )
            lines = map(json.loads, (save_dir / "metrics.jsonl").read_text().splitlines())
            losses = [line["loss"] for line in lines if "loss" in line]
            assert len(losses) == 20
            print(f"{title}: {' '.join(map(repr, losses))}", flush=True)


if __name__ == "__main__":
    main()

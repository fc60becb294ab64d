"""Fine-tune BERT on a sentence task, and evaluate it.

    $ python classify.py                                    # the built-in sample: makes it, trains, evaluates
    $ python classify.py --task mrpc --mode train --data_file train.tsv --pretrain_file FOLDER --save_dir runs/mrpc
    $ python classify.py --mode eval --model_file runs/mrpc/model_steps_345.pt --data_file dev.tsv
"""
import dataclasses
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import checkpoint
import models
import train
from metrics import METRICS
from tasks import Batches, Task, encode, get_task, read_examples
from tokenization import FullTokenizer, casing
from utils import UserError, command, file_digest, read_json, refuse, write_json

SAMPLE = Path("runs/sample")


def main(task: str | None = None, mode: str = "train", train_cfg: str | None = None, model_cfg: str | None = None,
         data_file: str | None = None, model_file: str | None = None, pretrain_file: str | None = None,
         data_parallel: bool = True, vocab: str | None = None, save_dir: str | None = None, log_dir: str | None = None,
         max_len: int | None = None, do_lower_case: bool | None = None) -> None:
    """Fine-tune BERT on a sentence task, or evaluate it. Without a flag: on the built-in sample.

    Args:
        task: mrpc or mnli; a saved model knows its own.
        mode: train or eval.
        train_cfg: JSON of train.Config; default config/train_TASK.json.
        model_cfg: JSON of the model's shape, ours or Google's bert_config.json; default: what lies beside the weights.
        data_file: the task's TSV.
        model_file: a model trained here, to evaluate.
        pretrain_file: weights to start from: a TensorFlow checkpoint, a Hugging Face folder, a .pt. None: from scratch.
        data_parallel: use all visible GPUs.
        vocab: vocab.txt; default: what lies beside the weights.
        save_dir: folder of the run, which the same command goes on with; default runs/TASK.
        log_dir: folder for TensorBoard's curves.
        max_len: longest input in tokens; default 128, or what the model was trained with.
        do_lower_case: only to insist; it follows from the checkpoint.
    """
    if mode not in ("train", "eval"):
        raise UserError(f"--mode {mode}: expected train or eval")
    if mode == "eval":
        if not model_file or not data_file:
            raise UserError("--mode eval needs --model_file and --data_file")
        refuse("--mode eval has no use for", pretrain_file=pretrain_file, save_dir=save_dir, log_dir=log_dir)
        evaluate(model_file, data_file, task, train_cfg, model_cfg, vocab, max_len, do_lower_case, data_parallel)
        return
    if model_file:
        raise UserError("--model_file is for --mode eval; to start from weights use --pretrain_file")
    if data_file is None:
        refuse("no --data_file, which is needed with", task=task, train_cfg=train_cfg, model_cfg=model_cfg,
               pretrain_file=pretrain_file, vocab=vocab, max_len=max_len, do_lower_case=do_lower_case)
        run_sample(save_dir, log_dir)
        return
    run = prepare(get_task(task or "mrpc"), data_file, train_cfg, model_cfg, pretrain_file, vocab,
                  128 if max_len is None else max_len, do_lower_case)
    run.fit(save_dir or f"runs/{run.task.name}", log_dir, data_parallel)


@dataclasses.dataclass
class Run:
    """Everything a training run needs, checked; nothing is written yet."""

    task: Task
    cfg: train.Config
    model: models.Classifier
    tokenizer: FullTokenizer
    vocab: Path
    max_len: int
    batches: Batches
    settings: dict

    def fit(self, save_dir: str, log_dir: str | None = None, data_parallel: bool = True) -> str:
        """Train, and return the last model's file. The folder gets all that evaluating needs."""
        folder, config = Path(save_dir), dataclasses.asdict(self.model.transformer.cfg)
        trainer = train.Trainer(self.cfg, self.model, self.batches, folder, {"config": config}, data_parallel=data_parallel,
                                log_dir=log_dir)
        train.claim(folder, self.settings)
        checkpoint.copy_vocab(self.vocab, folder, self.tokenizer.do_lower_case)
        write_json(folder / "config.json", config)
        write_json(folder / "task.json", {"task": self.task.name, "labels": self.task.labels, "max_len": self.max_len})
        print(train.device_name(trainer.device, trainer.n_gpus), flush=True)
        return str(trainer.train(get_loss))


def get_loss(model: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean cross-entropy of a batch."""
    input_ids, segment_ids, input_mask, label_ids = batch
    return F.cross_entropy(model(input_ids, segment_ids, input_mask).float(), label_ids), {}


def predict(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    """The score of every label, (B, labels)."""
    return model(*batch[:3])


def prepare(task: Task, data_file: str, train_cfg: str | None, model_cfg: str | None, pretrain_file: str | None,
            vocab: str | None, max_len: int, do_lower_case: bool | None) -> Run:
    """Read and check everything before anything is written or trained."""
    cfg = train.Config.from_json(train_cfg or Path(__file__).parent / "config" / f"train_{task.name}.json")
    config = models.Config.from_json(model_cfg) if model_cfg else None
    examples = read_examples(task, data_file)
    source = checkpoint.read(pretrain_file, config) if pretrain_file else None
    if config is None:
        if source is None:
            raise UserError("neither --pretrain_file nor --model_cfg; name weights to start from, or the shape of a model")
        config = source.config
    vocab_file = checkpoint.find_vocab(vocab, source)
    tokenizer = get_tokenizer(vocab_file, do_lower_case, [source.file] if source else [])
    checkpoint.check_fit(config, vocab_file, max_len)
    features = encode(examples, task, tokenizer, max_len)
    torch.manual_seed(cfg.seed)
    model = models.Classifier(config, len(task.labels))
    if source:
        if source.labels is None or label_columns(source.labels, task) != list(range(len(task.labels))):
            source.tensors = {name: t for name, t in source.tensors.items() if not name.startswith("classifier.")}
        new = checkpoint.load(model, source, fresh=("pooler", "classifier"))
        print(f"{source.kind} {source.file}, " + (f"new: {', '.join(new)}" if new else "with its classifier"), flush=True)
    settings = {
        **dataclasses.asdict(cfg), "task": task.name, "max_len": max_len, "do_lower_case": tokenizer.do_lower_case,
        **{f"model_cfg.{name}": value for name, value in dataclasses.asdict(config).items()},
        "sha256 of data_file": file_digest(data_file)[:16], "sha256 of vocab": file_digest(vocab_file)[:16],
        "sha256 of initial weights": train.weights_digest(model)[:16],
    }
    return Run(task, cfg, model, tokenizer, vocab_file, max_len, Batches(features, cfg.batch_size, cfg.seed), settings)


def get_tokenizer(vocab_file: Path, do_lower_case: bool | None, checkpoints: list[Path]) -> FullTokenizer:
    """The tokenizer with the casing that fits the checkpoint."""
    return FullTokenizer(vocab_file, casing(vocab_file, do_lower_case, *checkpoints))


def label_columns(theirs: list[str], task: Task) -> list[int] | None:
    """Which column of a classifier's scores each label of the task has; None if its labels are others.

    label_columns(["neutral", "entailment", "contradiction"], MNLI) -> [2, 1, 0]. LABEL_0 ... are the task's own order.
    """
    names = [name.lower() for name in theirs]
    if names == [f"label_{i}" for i in range(len(task.labels))]:
        return list(range(len(names)))
    return [names.index(label.lower()) for label in task.labels] if {*names} == {*map(str.lower, task.labels)} else None


def evaluate(model_file: str, data_file: str, task: str | None = None, train_cfg: str | None = None,
             model_cfg: str | None = None, vocab: str | None = None, max_len: int | None = None,
             do_lower_case: bool | None = None, data_parallel: bool = True) -> dict[str, float]:
    """Print and return a saved model's metrics. What is not given is read from the folder of the model."""
    source = checkpoint.read(model_file, models.Config.from_json(model_cfg) if model_cfg else None)
    if "classifier" not in source.heads:
        raise UserError(f"{source.file} has no classifier; train one first, with --mode train --pretrain_file {model_file}")
    beside = source.file.parent / "task.json"
    saved = read_json(beside) if beside.is_file() else {}
    if not (name := task or saved.get("task")):
        raise UserError(f"no task.json beside {source.file}; name the task with --task")
    kind = get_task(name)
    n_labels = len(source.tensors["classifier.bias"])
    if saved.get("task", kind.name) != kind.name:
        raise UserError(f"{source.file} was trained on {saved['task']}, not on {kind.name}; leave --task out")
    columns = label_columns(source.labels or [f"LABEL_{i}" for i in range(n_labels)], kind)
    if columns is None:
        raise UserError(f"{source.file} has the labels {', '.join(source.labels or [str(n_labels)])}, and {kind.name} has "
                        f"{', '.join(kind.labels)}; name the same labels in its configuration")
    cfg = train.Config.from_json(train_cfg) if train_cfg else train.Config()
    max_len = saved.get("max_len", 128) if max_len is None else max_len
    vocab_file = checkpoint.find_vocab(vocab, source)
    tokenizer = get_tokenizer(vocab_file, do_lower_case, [source.file])
    checkpoint.check_fit(source.config, vocab_file, max_len)
    features = encode(read_examples(kind, data_file), kind, tokenizer, max_len)
    model = models.Classifier(source.config, n_labels)
    checkpoint.load(model, source)
    trainer = train.Trainer(cfg, model, data_parallel=data_parallel)
    print(train.device_name(trainer.device, trainer.n_gpus), flush=True)
    scores = trainer.evaluate(predict, Batches(features, cfg.batch_size))[:, columns]
    results = {name: METRICS[name](scores.argmax(1), features.labels) for name in kind.metrics}
    for name, value in results.items():
        print(f"{name}: {value}")
    return results


def run_sample(save_dir: str | None, log_dir: str | None) -> None:
    """The main job on the built-in sample, from scratch: make it, train, evaluate, tell what comes next."""
    from examples import sample
    print(f"No --data_file: training on the built-in sample in {SAMPLE}")
    sample.write(str(SAMPLE))
    task = get_task("mrpc")
    run = prepare(task, f"{SAMPLE}/train.tsv", f"{SAMPLE}/train.json", f"{SAMPLE}/config.json", None,
                  f"{SAMPLE}/vocab.txt", 64, True)
    file = run.fit(save_dir or "runs/sample_model", log_dir)
    evaluate(file, f"{SAMPLE}/dev.tsv")
    labels = [example.label for example in read_examples(task, f"{SAMPLE}/dev.tsv")]
    majority = max(map(labels.count, set(labels))) / len(labels)
    print(f"Always answering the most frequent label would give an accuracy of {majority}\n\n"
          f"Next, with data of your own and weights from Google or Hugging Face:\n"
          f"  python classify.py --task mrpc --data_file MRPC/train.tsv --pretrain_file FOLDER --save_dir runs/mrpc\n"
          f"  python classify.py --mode eval --model_file runs/mrpc/model_steps_345.pt --data_file MRPC/dev.tsv")


if __name__ == "__main__":
    command(main)

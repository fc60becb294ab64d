"""The same training several times: from several seeds, by folds of the data, over a grid.

results, best = fit_seeds(run, 5, Path("runs/mrpc"))    # run: what finetune.prepare() gave
fit_folds(run, 5, Path("runs/mine"))                    # every row is answered by a model
                                                        # that was not trained on it
"""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

from system.files import write_json
from system.flags import flag_fields, read
from tasks import answer_tables, quality, reports, splits
from tasks.metrics import Outcome
from tasks.saved import load
from training import runs
from training.checkpoints import direction
from training.settings import Config
from utils import UserError, log, nearest, show


def fit_seeds(
    run: Any,
    n: int,
    folder: Path,
    log_dir: str | None = None,
    data_parallel: bool = True,
    shard: bool = False,
) -> tuple[list[Any], Any]:
    """Train from n seeds, each into a folder of its own, and compare them.

    Returns what each came to, a finetune.Result, and the best of them.
    """
    # The table of seeds has a column for each metric, so without an evaluation it would be empty.
    if not run.eval_data:
        raise UserError("`seeds` compares evaluations; name an `eval_file` or a `data_dir`")
    # Beside some other model, results.json and the seeds' folders would be taken for its own.
    runs.check_unused(folder)
    results, outcomes = [], []
    # Seeds are consecutive from the configuration's own, so that five seeds contain the runs of
    # three.
    for seed in range(run.cfg.seed, run.cfg.seed + n):
        log(f"Seed {seed}")
        name = f"seed-{seed}"
        # The data were read once. Each seed differs in its initial weights, the order and dropout
        # alone.
        one = dataclasses.replace(run, cfg=dataclasses.replace(run.cfg, seed=seed))
        logs = f"{log_dir}/{name}" if log_dir else None
        result = one.fit(folder / name, logs, data_parallel, shard)
        results.append(result)
        outcomes.append(
            {
                "seed": seed,
                "last": result.last,
                "best": result.best,
                "file": str(result.file),
                "best_file": str(result.best_file),
            }
        )
    # A constant answer shows which seeds failed to learn: BERT-large collapses on small data sets
    # at some seeds.
    metric = run.task.metric_names[0]
    constant = run.task.majority_baseline(run.eval_data[0].features.example_labels)
    text, summary = reports.seeds_table(outcomes, metric, constant, direction(metric))
    write_json(folder / "results.json", summary)
    print(f"{text}\nSaved {folder / 'results.json'}")
    return results, results[outcomes.index(summary["best"])]


def fit_folds(
    run: Any,
    n: int,
    folder: Path,
    log_dir: str | None = None,
    data_parallel: bool = True,
) -> list[Any]:
    """Train n times, each time on all rows but a fold that is evaluated; no model of all rows.

    Each fold has a folder of its own. results.json has the metrics of each, their mean and standard
    deviation, and those of all answers together with their interval; out_of_fold.csv has these.
    """
    if run.teacher and run.teacher.unlabelled:
        raise UserError("`unlabelled_file` and folds do not go together; leave one out")
    if run.eval_data:
        raise UserError("`folds` evaluates parts of the data; leave `eval_file` out")
    task, tokenizer = run.task, run.start.tokenizer
    runs.check_unused(folder)
    splits.check_folds(task, run.data.examples, n)
    answer_tables.out_of_fold_columns(task)
    parts = task.divide(run.data, [1 / n] * n, run.cfg.seed, tokenizer)
    answered, results = list[tuple[Any, Any, Any]](), []
    for i, part in enumerate(parts):
        log(f"Fold {i + 1} of {n}, evaluated: {part.summary}")
        others = [e for other in parts if other is not part for e in other.examples]
        # In the order of the file: what is trained on does not depend on how it was dealt out.
        others.sort(key=lambda example: example.line)
        data = task.encode_examples(run.data.file, others, tokenizer)
        rows = task.held_out(part.examples)
        dev = dataclasses.replace(part, file=rows)
        settings = {**task.run_settings(data, [dev]), **dataclasses.asdict(run.tuning)}
        settings |= run.teacher.settings if run.teacher else {}
        one = dataclasses.replace(run, data=data, eval_data=[dev], settings=settings, held_out=rows)
        name = f"fold-{i + 1}"
        logs = f"{log_dir}/{name}" if log_dir else None
        result = one.fit(folder / name, logs, data_parallel)
        results.append(result)
        # The last checkpoint: the best one was chosen on these very rows.
        saved = load(
            result.file, dtype=run.cfg.dtype, data_parallel=data_parallel, device=run.cfg.device
        )
        outputs = saved.outputs(dev, bar=False)
        outcome = task.outcome(dev, outputs)
        answered.append((part.examples, task.answers(dev, outputs), outcome))
    text, summary = reports.folds_table([result.last for result in results])
    together = Outcome.together([outcome for _, _, outcome in answered])
    metric = task.metric_names[0]
    low, high = quality.interval(metric, together)
    summary |= {"of all answers": task.measure(together), "interval": [low, high]}
    write_json(folder / "results.json", summary)
    pairs = [
        pair for examples, answers, _ in answered for pair in zip(examples, answers, strict=True)
    ]
    answer_tables.write_out_of_fold(task, sorted(pairs, key=lambda pair: pair[0].line), folder)
    print(
        f"{text}\nOf all answers: {metric} {summary['of all answers'][metric]:.4f}, 95% interval "
        f"{low:.4f} to {high:.4f}\nSaved {folder / 'results.json'}, {folder / 'out_of_fold.csv'}"
    )
    return results


# ---------------------------------------------------------------------------------------- a grid

MOST = 500  # runs of a grid


def parse_grid(text: str) -> list[dict[str, Any]]:
    """Each combination of some settings' values: "lr=1e-5,2e-5 batch_size=16" -> two dicts."""
    known, columns = dict(flag_fields(Config)), dict[str, list[Any]]()
    for part in text.split():
        name, sign, given = part.partition("=")
        if not sign or not given or name in columns:
            raise UserError(
                f"grid={show(text)}: expected each setting once, as in `lr=1e-5,2e-5 batch_size=16`"
            )
        if name not in known:
            raise UserError(
                f"grid: {show(name)} is no setting of training{nearest(name, known)}; they are in "
                "config/README.md"
            )
        columns[name] = [read(value, known[name]) for value in given.split(",")]
    if not columns:
        raise UserError("grid is empty; expected settings, as in `lr=1e-5,2e-5 batch_size=16,32`")
    return [dict(zip(columns, row, strict=True)) for row in itertools.product(*columns.values())]


def fit_grid(
    run: Any,
    grid: list[dict[str, Any]],
    n_seeds: int,
    folder: Path,
    log_dir: str | None = None,
    data_parallel: bool = True,
    shard: bool = False,
) -> Path:
    """Train every combination of settings, from n seeds each; the folder of the best run.

    Each run has a folder of its own, named after its settings, and resumes there. results.json
    has all of them, those with the best mean first.
    """
    if not run.eval_data:
        raise UserError("`grid` compares evaluations; name an `eval_file`, or `dev_split`")
    if len(grid) * n_seeds > MOST:
        raise UserError(
            f"grid: {len(grid)} combinations with {n_seeds} seeds are {len(grid) * n_seeds} runs; "
            f"expected at most {MOST}"
        )
    runs.check_unused(folder)
    # All of them are checked before the first is trained.
    configs = [dataclasses.replace(run.cfg, **settings_of(combination)) for combination in grid]
    rows = []
    for number, (combination, cfg) in enumerate(zip(grid, configs, strict=True), start=1):
        shown = ", ".join(f"{name} {value}" for name, value in combination.items())
        log(f"Combination {number} of {len(grid)}: {shown}")
        name = "_".join(f"{name}-{value}" for name, value in combination.items())
        found = []
        for seed in range(cfg.seed, cfg.seed + n_seeds):
            place = Path(name) / f"seed-{seed}" if n_seeds > 1 else Path(name)
            one = dataclasses.replace(run, cfg=dataclasses.replace(cfg, seed=seed))
            logs = f"{log_dir}/{place}" if log_dir else None
            result = one.fit(folder / place, logs, data_parallel, shard)
            found.append({"folder": str(place), "best": result.best, "last": result.last})
        rows.append({"settings": combination, "runs": found})
    metric = run.cfg.stop_metric or run.task.metric_names[0]
    text, summary, best = reports.grid_table(rows, metric, direction(metric))
    write_json(folder / "results.json", summary)
    print(f"{text}\nThe best run: {folder / best}\nSaved {folder / 'results.json'}")
    return folder / best


def settings_of(combination: dict[str, Any]) -> dict[str, Any]:
    """The settings of a combination, and what they make useless."""
    # A file's total_steps would overrule n_epochs.
    return ({"total_steps": None} if "n_epochs" in combination else {}) | combination

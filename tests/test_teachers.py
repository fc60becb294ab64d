"""Smaller models: some of the layers, and what a teacher of any kind of task teaches."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import kinds
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import checkpoint
import classify
import embed
import finetune
import models
import pretrain
import pretrained
import train
from formats.weights import checkpoints_in
from layers.inputs import packing_of
from pretraining.builder import CorpusBuilder
from system.signals import Interrupted
from tasks import TASKS, PretrainTask, SentenceTask, Task
from tasks.exports import write_hugging_face
from tasks.lessons import Lesson, divergence, soft_labels
from training import inference
from utils import UserError

CFG = train.Config(seed=1, batch_size=10, n_epochs=2, lr=1e-3, save_steps=2, log_steps=1)


def start_of(sample: Path) -> pretrained.Pretrained:
    return pretrained.find(None, str(sample / "config.json"), str(sample / "vocab.txt"))


@dataclasses.dataclass
class Case:
    """A kind of task with its file, and a teacher that was trained on it."""

    kind: str
    task: Task
    file: Path
    teacher: Path
    sample: Path

    @property
    def layers(self) -> tuple[int, ...]:
        """Those whose hidden states may be learnt."""
        return () if self.kind == "vectors" else (1, 0)

    def prepare(
        self,
        teacher: bool = True,
        weight: float = 0.5,
        layers: tuple[int, ...] = (),
        more: Path | None = None,
        **cfg: Any,
    ) -> finetune.Run:
        lesson = Lesson(2.0, weight, layers)
        how: dict[str, Any] = {"teacher": self.teacher, "lesson": lesson, "unlabelled_file": more}
        settings = dataclasses.replace(CFG, **cfg)
        start = start_of(self.sample)
        return finetune.prepare(
            self.task, self.file, start, (), settings, **(how if teacher else {})
        )


@pytest.fixture(scope="module", params=list(kinds.TASK_OF))
def case(request: Any, sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp(request.param)
    file = kinds.write(request.param, sample, folder)
    task = kinds.TASK_OF[request.param]
    cfg = dataclasses.replace(CFG, seed=9, n_epochs=1)
    run = finetune.prepare(task, file, start_of(sample), (), cfg)
    run.fit(folder / "teacher")
    return Case(request.param, task, file, folder / "teacher", sample)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.read(checkpoints_in(folder)[-1]).tensors


def same(a: Path, b: Path) -> bool:
    ours, theirs = weights(a), weights(b)
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


# ------------------------------------------------------------------------------------ every kind


def test_a_teacher_without_weight_changes_no_bit(case: Case, tmp_path: Path) -> None:
    for name, run in {"plain": case.prepare(False), "taught": case.prepare(weight=0)}.items():
        run.fit(tmp_path / name)
    assert same(tmp_path / "plain", tmp_path / "taught")


def test_a_stopped_run_with_a_teacher_goes_on_to_the_same_bits(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case.prepare(layers=case.layers).fit(tmp_path / "whole" / "run")
    computed, predict = list[str](), inference.predict

    def counted(*given: Any, **more: Any) -> np.ndarray:
        computed.append("once")
        return predict(*given, **more)

    monkeypatch.setattr(inference, "predict", counted)
    update, calls = train.Trainer.update, []

    def stopped(self: train.Trainer, *given: Any) -> None:
        calls.append(1)
        if len(calls) == 4:
            raise Interrupted(15)
        update(self, *given)

    monkeypatch.setattr(train.Trainer, "update", stopped)
    with pytest.raises(Interrupted):
        case.prepare(layers=case.layers).fit(tmp_path / "stopped" / "run")
    monkeypatch.setattr(train.Trainer, "update", update)
    case.prepare(layers=case.layers).fit(tmp_path / "stopped" / "run")
    assert same(tmp_path / "whole" / "run", tmp_path / "stopped" / "run")
    # What the teacher says was computed once, for both: its outputs and its hidden states.
    n = 2 if case.layers else 1
    assert computed == ["once"] * n
    assert len(list((tmp_path / "stopped" / "taught").iterdir())) == n


def test_what_is_learnt_from_a_teacher_does_not_depend_on_the_parts(
    case: Case, tmp_path: Path
) -> None:
    gradients = []
    for parts in (1, 3):
        more = None if case.kind == "vectors" else case.file
        run = case.prepare(gradient_accumulation=parts, batch_size=9, layers=case.layers, more=more)
        config = dataclasses.replace(run.start.config, p_drop_hidden=0.0, p_drop_attn=0.0)
        run.start = dataclasses.replace(run.start, config=config)
        model = run.model().double()
        assert run.teacher
        run.teacher.saved.model.double()
        batches = run.data.features.batches(9, 1)
        trainer = train.Trainer(run.cfg, model, batches, tmp_path / str(parts) / "run")
        loss = run.teacher.loss(run.task, run.data, trainer, model, 10)
        trainer.model.train()
        trainer.compute(trainer.wrapped, loss, trainer.micro_batches(0))
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, one in gradients[0].items():
        torch.testing.assert_close(one, gradients[1][name], rtol=1e-9, atol=1e-12)


def test_the_loss_of_labels_is_that_of_the_rows_that_have_them(case: Case, tmp_path: Path) -> None:
    if case.kind == "vectors":
        with pytest.raises(UserError, match="these rows have no labels that others could lack"):
            case.prepare(more=case.file)
        return
    plain, run = case.prepare(False), case.prepare(more=case.file)
    n_labelled, n = len(plain.data.features), len(run.data.features)
    assert n > n_labelled
    model, seen = run.model().eval(), 0
    trainer = train.Trainer(run.cfg, model, run.data.features.batches(10, 1), tmp_path / "a" / "b")
    assert run.teacher
    loss = run.teacher.loss(run.task, run.data, trainer, model, 10)
    for number in range(len(trainer.batches)):
        rows, given = trainer.batches.rows(number), trainer.batches[number]
        with torch.no_grad():
            found = loss(model, given)[1]["loss_task"].item()
            # The rows that have labels as a batch of their own, of the data without the others.
            part: Any = plain.data.features.batches(10, 1)
            part.rows = lambda n, rows=rows: rows[rows < n_labelled]
            own = run.task.loss(model, part[0])[0].item() if (rows < n_labelled).any() else 0.0
        share = (rows < n_labelled).mean()
        if case.kind == "tags" and own:
            # It is the mean over words.
            share = given.batch.weights[0].item() / part[0].weights[0].item() * share
        assert found == pytest.approx(own * share, rel=1e-5, abs=1e-7)
        seen += int((rows >= n_labelled).sum())
    assert seen == n - n_labelled


@pytest.mark.parametrize("kind", ["choice", "ranking"])
def test_groups_that_are_joined_keep_their_texts(kind: str, sample: Path, tmp_path: Path) -> None:
    file, task = kinds.write(kind, sample, tmp_path), kinds.TASK_OF[kind]
    lines = file.read_text().splitlines()
    tokenizer, parts = start_of(sample).tokenizer, []
    # The second part has groups of fewer texts than the first, or the other way round.
    for name, rows in {"first": lines[:5], "second": lines[5:]}.items():
        (tmp_path / name).write_text("\n".join(rows) + "\n")
        parts.append(task.load(tmp_path / name, tokenizer).features)

    def texts(features: Any) -> list[list[list[int]]]:
        inputs = np.split(features.ids, features.starts[1:-1])
        return [[inputs[i].tolist() for i in row if i >= 0] for row in features.which]

    for one, other in (parts, parts[::-1]):
        both = one.joined(other)
        assert texts(both) == texts(one) + texts(other)
        assert both.labels.shape[0] == both.which.shape[0] == len(both)
        assert both.lines.tolist() == [*one.lines.tolist(), *other.lines.tolist()]


def test_hidden_states_of_chosen_layers_are_compared(case: Case, tmp_path: Path) -> None:
    if case.kind == "vectors":
        with pytest.raises(UserError, match="of masked words and vectors the last hidden states"):
            case.prepare(layers=(1, 0))
        return
    run = case.prepare(layers=case.layers)
    assert run.teacher
    config = dataclasses.replace(run.start.config, p_drop_hidden=0.0, p_drop_attn=0.0)
    run.start = dataclasses.replace(run.start, config=config)
    model, teacher = run.model().train(), run.teacher.saved.model
    trainer = train.Trainer(run.cfg, model, run.data.features.batches(10, 1), tmp_path / "a" / "b")
    loss = run.teacher.loss(run.task, run.data, trainer, model, 10)
    given = trainer.batches[0]

    def cls(one: Any) -> list[torch.Tensor]:
        outputs = list[torch.Tensor]()
        one.transformer(*given.batch[:3], outputs=outputs)
        packing = packing_of(given.batch.segment_ids, given.batch.input_mask)
        return [packing.pad(x)[:, 0] for x in outputs[1:]]  # (inputs, D)

    with torch.no_grad():
        found = loss(model, given)[1]["loss_teacher"].item()
        ours = run.task.taught(model, given.batch)
        expected = run.task.imitation(ours, given.taught, given.batch, 2.0).item()
        mine, theirs = cls(model), cls(teacher)
    # Our first block is compared with the teacher's second, and the other way round.
    angles = sum(1 - F.cosine_similarity(a, b) for a, b in zip(mine, theirs[::-1], strict=True)) / 2
    if given.batch.which is not None:
        groups = [[angles[i] for i in row if i >= 0] for row in given.batch.which]
        angles = torch.stack([torch.stack(group).mean() for group in groups])
    assert found == pytest.approx(expected + float(angles.mean()), rel=1e-5)
    assert run.settings["teacher_layers"] == (1, 0)


def test_the_teacher_itself_is_imitated_without_a_loss(case: Case) -> None:
    run = case.prepare()
    assert run.teacher
    model, batch = run.teacher.saved.model.eval(), run.data.features.batches(10, 1)[0]
    with torch.no_grad():
        theirs = run.task.taught(model, batch)
        assert run.task.imitation(theirs, theirs, batch, 2.0).abs() < 1e-6
        other = theirs + torch.randn_like(theirs)
        assert run.task.imitation(other, theirs, batch, 2.0) > 1e-3


def test_a_teacher_is_recorded_and_compared(case: Case, tmp_path: Path) -> None:
    case.prepare().fit(tmp_path / "run")
    recorded = json.loads((tmp_path / "run" / "run.json").read_text())
    assert recorded["teacher_weight"] == 0.5
    with pytest.raises(UserError, match=r"teacher_weight was 0.5, now 0.25"):
        case.prepare(weight=0.25).fit(tmp_path / "run")


# ------------------------------------------------------------------------------------ the formulas


def test_divergence_is_that_of_softmaxes_at_a_temperature() -> None:
    ours, theirs = [2.0, -1.0, 0.5], [0.0, 3.0, -math.inf]
    p, q = ([math.exp(s / 3) for s in row] for row in (theirs, ours))
    p, q = ([x / sum(row) for x in row] for row in (p, q))
    expected = 9 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a)
    found = divergence(torch.tensor([ours]), torch.tensor([theirs]), 3.0)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_labels_by_themselves_have_the_divergence_of_coins() -> None:
    ours, theirs = [2.0, -1.0], [0.5, 1.5]
    expected = 0.0
    for a, b in zip(ours, theirs, strict=True):
        q, p = (1 / (1 + math.exp(-x / 2)) for x in (a, b))
        expected += 4 * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))) / 2
    found = soft_labels(torch.tensor([ours]), torch.tensor([theirs]), 2.0)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_rows_without_labels_have_the_teacher_s_answers_alone(sample: Path, tmp_path: Path) -> None:
    file = kinds.write("sentences", sample, tmp_path)
    task = kinds.TASK_OF["sentences"]
    finetune.prepare(task, file, start_of(sample), (), CFG).fit(tmp_path / "teacher")
    more = tmp_path / "more.tsv"
    more.write_text("\n".join(file.read_text().splitlines()[:9]) + "\n")
    run = finetune.prepare(
        *(task, file, start_of(sample), (), CFG),
        teacher=tmp_path / "teacher",
        lesson=Lesson(2.0, 0.25),
        unlabelled_file=more,
    )
    assert len(run.data.features) == 53 + 8
    model, seen = run.model().eval(), 0
    trainer = train.Trainer(run.cfg, model, run.data.features.batches(10, 3), tmp_path / "a" / "b")
    assert run.teacher
    get_loss = run.teacher.loss(run.task, run.data, trainer, model, 10)
    for n in range(len(trainer.batches)):
        given = trainer.batches[n]
        with torch.no_grad():
            loss, means = get_loss(model, given)
            ours = model(**given.batch.inputs)
        expected = 0.0
        rows = zip(ours, given.taught, given.batch.labels, given.labelled, strict=True)
        for scores, teacher, label, labelled in rows:
            p, q = ((x / 2).softmax(0) for x in (teacher, scores))
            expected += 0.25 * 4 * float((p * (p / q).log()).sum())
            if labelled:
                expected -= 0.75 * float(scores.log_softmax(0)[label])
            seen += int(not labelled)
        assert loss.item() == pytest.approx(expected / len(ours), rel=1e-4)
    assert seen == 8
    # A batch that has no label at all is learnt from, too.
    none = torch.zeros_like(given.labelled)
    loss, means = get_loss(model, given._replace(labelled=none))
    assert means["loss_task"].item() == 0
    loss.backward()


def test_masked_words_are_taught_as_distilbert_was(sample: Path, tmp_path: Path) -> None:
    def prepare(folder: str, **more: Any) -> finetune.Run:
        task = PretrainTask(max_len=32, builder=CorpusBuilder(tmp_path / "cache"))
        file = str(sample / "corpus.txt")
        return finetune.prepare(task, file, start_of(sample), (), CFG_SHORT, **more)

    CFG_SHORT = dataclasses.replace(CFG, total_steps=4, seed=2)
    prepare("teacher").fit(tmp_path / "teacher")
    run = prepare("student", teacher=tmp_path / "teacher", lesson=Lesson(2.0, 0.75))
    model = run.model().eval()
    trainer = train.Trainer(run.cfg, model, run.data.features.batches(10, 1), tmp_path / "run")
    assert run.teacher
    loss = run.teacher.loss(run.task, run.data, trainer, model, 10)
    batch = trainer.batches[0]
    teacher: Any = run.teacher.saved.model
    with torch.no_grad():
        found, _ = loss(model, batch)
        inputs = batch[:3]
        places = batch.positions[..., None]
        states = [m.transformer(*inputs) for m in (model, teacher)]
        states = [s.gather(1, places.expand(-1, -1, s.shape[-1])) for s in states]
        scores = [
            m.masked_lm(s, m.transformer.embedding.token.weight)
            for m, s in zip((model, teacher), states, strict=True)
        ]
        p, q = ((s / 2).log_softmax(-1) for s in reversed(scores))
        words = 4 * (p.exp() * (p - q)).sum(-1)
        angle = 1 - F.cosine_similarity(*states, dim=-1)
        taught = ((5 * words + angle) / 6 * batch.weights).sum(1).mean()
        own = run.task.loss(model, batch)[0]
    assert found.item() == pytest.approx(float(0.25 * own + 0.75 * taught), rel=1e-5)
    # And through the loop, where it resumes to the bit.
    settings = {"teacher": tmp_path / "teacher"}
    prepare("whole", **settings).fit(tmp_path / "whole")
    part = prepare("part", **settings)
    with pytest.MonkeyPatch.context() as patch:
        update, calls = train.Trainer.update, []

        def stopped(self: train.Trainer, *given: Any) -> None:
            calls.append(1)
            if len(calls) == 3:
                raise Interrupted(15)
            update(self, *given)

        patch.setattr(train.Trainer, "update", stopped)
        with pytest.raises(Interrupted):
            part.fit(tmp_path / "part")
    prepare("part", **settings).fit(tmp_path / "part")
    assert same(tmp_path / "whole", tmp_path / "part")


def test_numbers_of_a_teacher_are_in_the_student_s_units(sample: Path, tmp_path: Path) -> None:
    texts = [line for line in (sample / "corpus.txt").read_text().splitlines() if line]
    rows = [{"text": text, "label": float(len(text))} for text in texts[:40]]
    task = SentenceTask.new(task="jsonl", labels="number", max_len=32)
    finetune.prepare(task, rows, start_of(sample), (), CFG).fit(tmp_path / "teacher")
    other = [row | {"label": 3 * row["label"] + 7} for row in rows]
    run = finetune.prepare(task, other, start_of(sample), (), CFG, teacher=tmp_path / "teacher")
    assert run.teacher
    own = run.teacher.saved.task
    converted = run.task.of_teacher(np.array([[0.5]], np.float32), own)
    number = 0.5 * own.spread + own.mean
    assert converted.item() * run.task.spread + run.task.mean == pytest.approx(number, rel=1e-5)


def test_a_ranker_teaches_vectors_by_how_far_its_scores_are_apart(
    sample: Path, tmp_path: Path
) -> None:
    file = kinds.write("ranking", sample, tmp_path)
    finetune.prepare(kinds.TASK_OF["ranking"], file, start_of(sample), (), CFG).fit(
        tmp_path / "ranker"
    )
    pairs, task = kinds.write("vectors", sample, tmp_path), kinds.TASK_OF["vectors"]
    how = {"teacher": tmp_path / "ranker", "lesson": Lesson(2.0, 1.0)}
    run = finetune.prepare(task, pairs, start_of(sample), (), CFG, **how)
    model = run.model().eval()
    trainer = train.Trainer(run.cfg, model, run.data.features.batches(10, 1), tmp_path / "run")
    assert run.teacher
    loss = run.teacher.loss(run.task, run.data, trainer, model, 10)
    ranker = finetune.load(tmp_path / "ranker")
    given, rows = trainer.batches[0], trainer.batches.rows(0)
    with torch.no_grad():
        vectors = loss.outputs(model, given)
        found = loss.loss(vectors, trainer.batches.whole(0))[0].item()
    terms = []
    for row, place in zip(vectors, rows, strict=True):
        pair = run.data.examples[place]
        (answer,) = ranker.predict([(pair.query, list(pair.texts))])
        score = dict(zip(answer.texts, answer.scores, strict=True))
        theirs = [score[text] for text in pair.texts]
        ours = [float(row[0] @ row[1 + i]) / task.temperature for i in range(len(pair.texts))]
        terms += [
            (ours[0] - a - (theirs[0] - b)) ** 2 for a, b in zip(ours[1:], theirs[1:], strict=True)
        ]
    assert found == pytest.approx(np.mean(terms), rel=1e-4)
    run.fit(tmp_path / "whole")
    # Where all rows have one text it could not tell them apart.
    lines = [json.loads(line) for line in pairs.read_text().splitlines()]
    pairs.write_text("".join(f"{json.dumps(x | {'negatives': []})}\n" for x in lines))
    with pytest.raises(UserError, match="a ranker teaches by how much a text is above others"):
        finetune.prepare(task, pairs, start_of(sample), (), CFG, **how)


# ------------------------------------------------------------------------------------------ layers


def test_some_layers_of_weights_are_a_model_of_these_layers(sample: Path, tmp_path: Path) -> None:
    start = start_of(sample)
    config = dataclasses.replace(start.config, n_layers=4, p_drop_hidden=0.0)
    torch.manual_seed(1)
    model = models.BertModel(config).eval()
    found = dataclasses.replace(start, kind="weights", config=config, tensors=model.state_dict())
    write_hugging_face(found, tmp_path, start.vocabulary)
    run = classify.Classify(pretrain_file=str(tmp_path), keep_layers="0,2,3")
    some = run.smaller(pretrained.find(str(tmp_path)))
    small = models.BertModel(some.config).eval()
    pretrained.load(small, some)
    model.transformer.blocks = torch.nn.ModuleList(model.transformer.blocks[i] for i in (0, 2, 3))
    batch = start.tokenizer(["anna sold a lamp .", "boris"])
    assert torch.equal(model(**batch)[0], small(**batch)[0])
    for n, expected in {1: [0], 2: [0, 3], 3: [0, 1, 3], 4: [0, 1, 2, 3]}.items():
        even = classify.Classify(n_layers=n).smaller(pretrained.find(str(tmp_path)))
        whole = pretrained.find(str(tmp_path)).tensors
        for i, block in enumerate(expected):
            name = "transformer.blocks.{}.attention.qkv.weight"
            assert torch.equal(even.tensors[name.format(i)], whole[name.format(block)])
        assert even.config.n_layers == n


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"keep_layers": "0,9"}, "--keep_layers|keep_layers=0,9.*rising numbers from 0 to"),
        ({"keep_layers": "1,0"}, "rising numbers from 0 to"),
        ({"keep_layers": "0-2"}, "--keep_layers 0-2: expected numbers, as 0,2,5"),
        ({"n_layers": 99}, "--n_layers 99: expected 1 to"),
        ({"n_layers": 1, "keep_layers": "0"}, "both choose layers; keep one"),
    ],
)
def test_layers_that_do_not_exist_are_named(sample: Path, flags: dict, message: str) -> None:
    start = dataclasses.replace(start_of(sample), kind="weights")
    with pytest.raises(UserError, match=message):
        classify.Classify(**flags).smaller(start)


def test_layers_are_of_weights(sample: Path) -> None:
    with pytest.raises(UserError, match="name a `pretrain_file`"):
        classify.Classify(n_layers=1).smaller(start_of(sample))


# ---------------------------------------------------------------------------------------- mistakes


@pytest.fixture(scope="module")
def sentences(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of own labels, and a teacher of it."""
    folder = tmp_path_factory.mktemp("own")
    texts = [line for line in (sample / "corpus.txt").read_text().splitlines() if line]
    for name, labels in {"rows": "ab", "others": "xy", "reversed": "ba"}.items():
        rows = [{"text": text, "label": labels[i % 2]} for i, text in enumerate(texts[:40])]
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    task = SentenceTask.new(task="jsonl", max_len=32)
    run = finetune.prepare(task, folder / "rows.jsonl", start_of(sample), (), CFG)
    run.fit(folder / "teacher")
    return folder


def taught(sample: Path, file: Path, teacher: Path, **more: Any) -> finetune.Run:
    task = SentenceTask.new(task="jsonl", max_len=32, **more)
    return finetune.prepare(task, file, start_of(sample), (), CFG, teacher=teacher)


def test_labels_in_another_order_are_the_same_labels(sample: Path, sentences: Path) -> None:
    run = taught(sample, sentences / "rows.jsonl", sentences / "teacher", labels="b,a")
    plain = taught(sample, sentences / "rows.jsonl", sentences / "teacher")
    assert run.task.labels == ("b", "a")
    assert run.teacher
    assert plain.teacher
    batch = run.data.features.batches(4)[0]
    ours, theirs = (r.task.taught(r.teacher.saved.model.eval(), batch) for r in (run, plain))
    assert torch.equal(ours, theirs.flip(1))


def test_a_teacher_of_something_else_is_refused(
    sample: Path, sentences: Path, tmp_path: Path
) -> None:
    teacher = sentences / "teacher"
    with pytest.raises(UserError, match="has the labels a, b, and jsonl has"):
        taught(sample, sentences / "others.jsonl", teacher)
    # Of another kind of task.
    file = kinds.write("tags", sample, tmp_path)
    with pytest.raises(UserError, match=r"is a model of classify\.py, and has no tags"):
        finetune.prepare(kinds.TASK_OF["tags"], file, start_of(sample), (), CFG, teacher=teacher)
    # Of another vocabulary.
    words = (sample / "vocab.txt").read_text().splitlines()
    (tmp_path / "vocab.txt").write_text("\n".join([*words, "zebra"]) + "\n")
    config = json.loads((sample / "config.json").read_text())
    size = next(name for name in config if name == "vocab_size")
    (tmp_path / "config.json").write_text(json.dumps(config | {size: len(words) + 1}))
    start = pretrained.find(None, str(tmp_path / "config.json"), str(tmp_path / "vocab.txt"))
    with pytest.raises(UserError, match="has another vocabulary than the model"):
        finetune.prepare(
            SentenceTask.new(task="jsonl"),
            sentences / "rows.jsonl",
            start,
            (),
            CFG,
            teacher=teacher,
        )
    with pytest.raises(UserError, match="`boost` trains on vectors"):
        finetune.prepare(
            *(TASKS["mrpc"], kinds.write("sentences", sample, tmp_path), start_of(sample), (), CFG),
            finetune.FineTuneConfig(freeze_encoder=True, boost=True),
            teacher=teacher,
        )


def test_costs_are_of_the_student_s_labels_and_rows(
    sample: Path, sentences: Path, tmp_path: Path
) -> None:
    from tasks import costs

    run = taught(sample, sentences / "rows.jsonl", sentences / "teacher", labels="b,a")
    result = run.fit(tmp_path / "run")
    saved = finetune.load(result.file)
    data = saved.load(sentences / "rows.jsonl")
    assert run.teacher
    line = costs.beside(saved, run.teacher.saved, data)[-1]
    teacher = finetune.load(sentences / "teacher")
    metric = saved.task.metric_names[0]
    ours, theirs = (one.evaluate(sentences / "rows.jsonl")[metric] for one in (saved, teacher))
    assert line.startswith(f"{metric} {ours:.4f} here, {theirs:.4f} of the teacher")


def test_vectors_of_another_width_are_found_before_training(sample: Path, tmp_path: Path) -> None:
    file, task = kinds.write("vectors", sample, tmp_path), kinds.TASK_OF["vectors"]
    wide = dataclasses.replace(task, dense=8)
    finetune.prepare(wide, file, start_of(sample), (), CFG).fit(tmp_path / "teacher")
    with pytest.raises(UserError, match="the teacher's vectors have 8 elements, these"):
        finetune.prepare(task, file, start_of(sample), (), CFG, teacher=tmp_path / "teacher")


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((0,), "names 1 layers; expected one for each of the 2 that the model has"),
        ((0, 2), "no layer 2; the teacher has 2, 0 to 1"),
    ],
)
def test_layers_of_a_teacher_that_do_not_fit_are_refused_before_data_are_read(
    layers: tuple[int, ...], message: str, sample: Path, sentences: Path
) -> None:
    how: dict[str, Any] = {"teacher": sentences / "teacher", "lesson": Lesson(layers=layers)}
    task = SentenceTask.new(task="jsonl", max_len=32)
    with pytest.raises(UserError, match=message):
        finetune.prepare(task, sentences / "there is none", start_of(sample), (), CFG, **how)


def test_a_lesson_that_would_teach_nothing_is_refused(sample: Path, sentences: Path) -> None:
    with pytest.raises(UserError, match="`teacher_layers` and `teacher_weight=0`: leave one out"):
        Lesson(weight=0, layers=(0, 1))
    rows, teacher = sentences / "rows.jsonl", sentences / "teacher"
    task = SentenceTask.new(task="jsonl", max_len=32)
    tuning = finetune.FineTuneConfig(freeze_encoder=True)
    how: dict[str, Any] = {"teacher": teacher, "lesson": Lesson(layers=(0, 1))}
    with pytest.raises(UserError, match="`freeze_encoder` keeps the hidden states"):
        finetune.prepare(task, rows, start_of(sample), (), CFG, tuning, **how)
    how = {"teacher": teacher, "lesson": Lesson(weight=0), "unlabelled_file": rows}
    with pytest.raises(UserError, match="`unlabelled_file` and `teacher_weight=0`"):
        finetune.prepare(task, rows, start_of(sample), (), CFG, **how)


def test_unlabelled_queries_of_too_many_texts_are_refused(sample: Path, tmp_path: Path) -> None:
    file, task = kinds.write("ranking", sample, tmp_path), kinds.TASK_OF["ranking"]
    finetune.prepare(task, file, start_of(sample), (), CFG).fit(tmp_path / "teacher")
    found = [{"query": "who", "text": f"text {i}", "rank": i, "score": 0.0} for i in range(300)]
    more = tmp_path / "found.jsonl"
    more.write_text("".join(f"{json.dumps(row)}\n" for row in found))
    how: dict[str, Any] = {"teacher": tmp_path / "teacher", "unlabelled_file": more}
    with pytest.raises(UserError, match="the query 'who' has 300 texts; expected at most"):
        finetune.prepare(task, file, start_of(sample), (), CFG, **how)


def test_hidden_states_of_another_width_are_refused(
    sample: Path, sentences: Path, tmp_path: Path
) -> None:
    config = json.loads((sample / "config.json").read_text())
    narrow = tmp_path / "config.json"
    narrow.write_text(json.dumps(config | {"dim": config["dim"] // 2}))
    start = pretrained.find(None, str(narrow), str(sample / "vocab.txt"))
    how: dict[str, Any] = {"teacher": sentences / "teacher", "lesson": Lesson(layers=(0, 1))}
    task = SentenceTask.new(task="jsonl", max_len=32)
    with pytest.raises(UserError, match=r"the teacher's hidden states have .* elements, these"):
        finetune.prepare(task, sentences / "rows.jsonl", start, (), CFG, **how)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"teacher_weight": 0.5}, "are for a --teacher; name one"),
        ({"temperature": 3.0}, "are for a --teacher; name one"),
        ({"teacher_layers": "0,1"}, "are for a --teacher; name one"),
        ({"teacher": "t", "teacher_layers": "0;1"}, "--teacher_layers 0;1: expected numbers, as"),
        ({"teacher": "t", "teacher_weight": 1.5}, "teacher_weight=1.5`: expected a share, 0 to 1"),
        ({"teacher": "t", "temperature": 0.0}, "temperature=0.0`: expected more than 0"),
    ],
)
def test_flags_of_a_teacher_need_one(flags: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        classify.Classify(**flags).lesson()


def test_the_temperature_of_vectors_is_that_of_their_loss() -> None:
    assert embed.Embed(temperature=0.1).lesson() == {}
    assert embed.Embed(temperature=0.1, teacher="t").lesson()["lesson"] == Lesson()


def test_rows_without_labels_need_a_teacher(sample: Path, sentences: Path) -> None:
    file = sentences / "rows.jsonl"
    with pytest.raises(UserError, match="its rows have a teacher's answers alone; add"):
        finetune.prepare(
            SentenceTask.new(task="jsonl"), file, start_of(sample), (), CFG, unlabelled_file=file
        )


# ------------------------------------------------------------------------------------- the command


def test_a_run_ends_with_what_the_model_costs_and_answers_beside_its_teacher(
    sample: Path, sentences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = str(sentences / "rows.jsonl")
    classify.Classify(
        task="jsonl",
        data_file=rows,
        eval_file=rows,
        unlabelled_file=str(sentences / "others.jsonl"),
        pretrain_file=str(sentences / "teacher"),
        n_layers=1,
        teacher=str(sentences / "teacher"),
        max_len=32,
        save_dir=str(tmp_path / "run"),
        settings={"n_epochs": 1},
    ).run()
    out = capsys.readouterr().out
    own = sum(t.numel() for t in weights(tmp_path / "run").values())
    theirs = sum(t.numel() for t in weights(sentences / "teacher").values())
    assert own < theirs
    assert f"This model:  {own / 1e6:.1f} M parameters" in out
    assert f"The teacher: {theirs / 1e6:.1f} M parameters" in out
    assert "of the teacher; difference" in out
    assert "95% interval" in out
    assert "40 rows of" in out


def test_pre_training_with_a_teacher_ends_with_what_the_model_costs(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = str(sample / "corpus.txt")

    def train_in(folder: str, **flags: Any) -> None:
        pretrain.Pretrain(
            data_file=text,
            eval_file=text,
            model_cfg=str(sample / "config.json"),
            vocab=str(sample / "vocab.txt"),
            max_len=32,
            save_dir=str(tmp_path / folder),
            settings={"total_steps": 2, "save_steps": 2, "batch_size": 8},
            **flags,
        ).run()

    train_in("teacher")
    capsys.readouterr()
    train_in("student", teacher=str(tmp_path / "teacher"))
    out = capsys.readouterr().out
    n = sum(t.numel() for t in weights(tmp_path / "student").values())
    assert f"This model:  {n / 1e6:.1f} M parameters" in out
    assert f"The teacher: {n / 1e6:.1f} M parameters" in out
    results = json.loads((tmp_path / "student/eval_results.json").read_text())
    assert f"masked_lm_accuracy {results['masked_lm_accuracy']:.4f} here, " in out

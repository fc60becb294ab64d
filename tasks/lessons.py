"""Learning from a teacher: its outputs of the same inputs, computed once, are part of the loss.

    lesson = Lesson(temperature=2.0, weight=0.75)
    batches = TaughtBatches(batches, outputs)       # (N, ...) as task.taught() gives them
    trainer.train(lesson.loss(task, model))

Hinton et al., "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531); of masked words
Sanh et al., "DistilBERT" (arXiv 1910.01108); of hidden states Sun et al., "Patient Knowledge
Distillation" (arXiv 1908.09355).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layers.inputs import packing_of
from training.whole import WholeLoss
from utils import UserError

NOTHING = -1e4  # the score of what is no choice: its probability is 0, its logarithm a number


class TaughtBatch(NamedTuple):
    """A batch and what the teacher makes of it."""

    batch: Any
    taught: Tensor  # (B, ...)
    states: Tensor | None = None  # (B, L, D); of rows of K inputs (B, K, L, D)
    labelled: Tensor | None = None  # (B,) which rows have labels; None: all

    def packed(self, rounded: bool = False) -> "TaughtBatch":
        """The same with the packing that the model would make of the mask."""
        return self._replace(batch=self.batch.packed(rounded))


class TaughtBatches:
    """The batches of others, each with the teacher's outputs (N, ...).

    Args:
        states: its hidden states of every input, (inputs, L, D).
        n_labelled: how many of the N have labels; those behind them have the teacher's alone.
    """

    def __init__(
        self,
        batches: Any,
        outputs: np.ndarray,
        states: np.ndarray | None = None,
        n_labelled: int | None = None,
    ):
        self.batches, self.outputs, self.states = batches, outputs, states
        self.n_labelled = n_labelled
        self.first, self.rows, self.describe = batches.first, batches.rows, batches.describe
        self.longest = batches.longest
        # Only where a loss looks at whole batches.
        if hasattr(batches, "whole"):
            self.whole = self.whole_batch

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, n: int) -> TaughtBatch:
        return self.shard(n, 0, 1)

    def shard(self, n: int, rank: int, world: int) -> TaughtBatch:
        """The rows rank, rank + world, ... of batch n."""
        rows = self.rows(n)[rank::world]
        taught, labelled = torch.from_numpy(self.outputs[rows]), None
        if self.n_labelled is not None:
            labelled = torch.from_numpy(rows < self.n_labelled)
        batch, states = self.batches.shard(n, rank, world), self.states_of(rows)
        return TaughtBatch(batch, taught, states, labelled)

    def states_of(self, rows: np.ndarray) -> Tensor | None:
        """The hidden states of some rows' inputs, zeros where a row has no such input."""
        if self.states is None:
            return None
        which = getattr(self.batches.features, "which", None)
        if which is None:
            return torch.from_numpy(self.states[rows])
        states = self.states[which[rows]]  # (B, K, L, D)
        states[which[rows] < 0] = 0
        return torch.from_numpy(states)

    def whole_batch(self, n: int) -> tuple[Any, Tensor]:
        """What is known of all rows of batch n, for a WholeLoss."""
        return self.batches.whole(n), torch.from_numpy(self.outputs[self.rows(n)])


class Once:
    """A model that computes a batch once, however often it is asked."""

    def __init__(self, model: Any):
        self.model, self.found = model, None

    def __call__(self, *inputs: Any, **more: Any) -> Any:
        """What the model gave of the first inputs."""
        if self.found is None:
            self.found = self.model(*inputs, **more)
        return self.found


class Some:
    """A model's outputs of some rows of a batch, for a loss of these alone."""

    def __init__(self, model: Any, rows: Tensor):
        self.model, self.rows = model, rows

    def __call__(self, *inputs: Any, **more: Any) -> Any:
        """What the model gave of these rows."""
        return self.model(*inputs, **more)[self.rows]


class States:
    """The hidden states of [CLS] behind some of a model's blocks, whenever the model is called.

    Args:
        model: a BertModel, whose encoder tells them from now on.
        blocks: which, counted from 0.
        training: whether while it is trained, or while it is not.
    """

    def __init__(self, model: Any, blocks: Sequence[int], training: bool):
        self.blocks, self.training, self.found = list(blocks), training, torch.empty(0)
        encoder: nn.Module = model.transformer
        self.hooks = [
            encoder.register_forward_pre_hook(self.ask, with_kwargs=True),
            encoder.register_forward_hook(self.keep, with_kwargs=True),
        ]

    def ask(self, module: nn.Module, inputs: Any, more: dict[str, Any]) -> Any:
        """Let the encoder list what its blocks give."""
        # Who asks for them, too, gets them.
        if module.training == self.training and more.get("outputs") is None:
            more = {**more, "outputs": []}
        return inputs, more

    def keep(self, module: nn.Module, inputs: Any, more: dict[str, Any], output: Any) -> None:
        """Keep the first token's of each input, (N, L, D)."""
        if module.training != self.training:
            self.found = torch.empty(0)
            return
        packing = packing_of(inputs[1], inputs[2])
        first = packing.rows(packing.first).squeeze(1)
        # The embeddings come before the first block. The last one may give [CLS] alone, (N, 1, D).
        outputs = [more["outputs"][1 + i] for i in self.blocks]
        states = [x.flatten(0, 1) if x.dim() == 3 else x[first] for x in outputs]
        self.found = exact(torch.stack(states, 1))

    def stop(self) -> None:
        """Let the encoder be as it was."""
        for hook in self.hooks:
            hook.remove()

    def take(self) -> Tensor:
        """Those of the last batch, which are forgotten here: their graph keeps the whole model."""
        found, self.found = self.found, torch.empty(0)
        return found


@dataclasses.dataclass(frozen=True)
class Lesson:
    """How much a teacher counts."""

    temperature: float = 2.0  # what scores are divided by, so that more than the best counts
    weight: float = 0.75  # of the teacher in the loss; the data's own answers have the rest
    # Which of its blocks, one for each block of the model, the model's [CLS] is to resemble.
    layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.temperature < 1e6:
            raise UserError(f"`temperature={self.temperature}`: expected more than 0")
        if not 0 <= self.weight <= 1:
            raise UserError(f"`teacher_weight={self.weight}`: expected a share, 0 to 1")
        if self.layers and not self.weight:
            raise UserError("`teacher_layers` and `teacher_weight=0`: leave one out")

    def mix(self, own: Tensor, taught: Tensor) -> Tensor:
        """A loss of both."""
        return (1 - self.weight) * own + self.weight * taught

    def loss(self, task: Any, student: Any = None) -> Any:
        """What the Trainer takes: the task's loss, and how far outputs are from the teacher's.

        Args:
            student: the model that is trained, where its hidden states count.
        """
        if isinstance(task.loss, WholeLoss):
            return self.whole_loss(task)
        states = States(student, range(len(self.layers)), training=True) if self.layers else None

        def loss(model: nn.Module, given: TaughtBatch) -> tuple[Tensor, dict[str, Tensor]]:
            once: Any = Once(model)
            own, means = own_loss(task, once, given)
            ours = task.taught(once, given.batch)
            taught = task.imitation(ours, given.taught, given.batch, self.temperature)
            if states and given.states is not None:
                ours, which = states.take(), given.batch.which
                if which is not None:
                    # (B, K, L, D): index -1, of an input that does not exist, is the last one.
                    ours = F.pad(ours, (0, 0, 0, 0, 0, 1))[which]
                taught = taught + angles(ours, given.states)
            return self.mix(own, taught), {**means, "loss_task": own, "loss_teacher": taught}

        return loss

    def whole_loss(self, task: Any) -> WholeLoss:
        """The same of all rows of a batch at once."""
        plain = task.loss

        def outputs(model: nn.Module, given: TaughtBatch) -> Tensor:
            return plain.outputs(model, given.batch)

        def loss(found: Tensor, whole: Any) -> tuple[Tensor, dict[str, Tensor]]:
            about, theirs = whole
            own, means = plain.loss(found, about)
            taught = task.imitation(found, theirs, None, self.temperature)
            return self.mix(own, taught), {**means, "loss_task": own, "loss_teacher": taught}

        return WholeLoss(outputs, loss)


def own_loss(task: Any, model: Any, given: TaughtBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """A task's loss of the rows of a batch that have labels, divided by all rows."""
    batch, rows = given.batch, given.labelled
    if rows is None:
        return task.loss(model, batch)
    if not rows.any():
        return given.taught.new_zeros(()), {}
    names = [name for name in ("labels", "weights", "which") if getattr(batch, name) is not None]
    part = batch._replace(**{name: getattr(batch, name)[rows] for name in names})
    # Where a row has several inputs, it names its own among those of all.
    some = Some(model, rows) if batch.which is None else model
    loss, means = task.loss(some, part)
    return loss * rows.sum() / len(rows), means


def angles(ours: Tensor, theirs: Tensor) -> Tensor:
    """How far hidden states (B, ..., L, D) are from the teacher's in direction: 1 - cosine.

    The mean over blocks, the inputs of a row and the rows of a batch.
    """
    losses = 1 - F.cosine_similarity(ours, theirs, dim=-1)
    there = theirs.abs().amax((-1, -2)) > 0  # (B,) or (B, K): of inputs that exist
    losses = losses.mean(-1) * there
    if losses.dim() == 2:
        losses = losses.sum(1) / there.sum(1)
    return losses.mean()


def exact(scores: Tensor) -> Tensor:
    """Scores in float32: bf16 has too few digits for a softmax. Those of float64 stay so."""
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def divergence(ours: Tensor, theirs: Tensor, temperature: float, dim: int = -1) -> Tensor:
    """Kullback-Leibler divergence of softmaxes over a dimension, times the squared temperature.

    So its gradient is as large at any temperature. Scores of minus infinity are of no choice.
    """
    p = (theirs.clamp(min=NOTHING) / temperature).log_softmax(dim)
    q = (ours.clamp(min=NOTHING) / temperature).log_softmax(dim)
    return temperature**2 * (p.exp() * (p - q)).sum(dim)


def soft_labels(ours: Tensor, theirs: Tensor, temperature: float, dim: int = 1) -> Tensor:
    """Cross-entropy of independent labels with the teacher's probabilities, less its least value.

    (B, labels) x 2 -> (B,), the mean over the labels.
    """
    p = (theirs / temperature).sigmoid()
    losses = F.binary_cross_entropy_with_logits(ours / temperature, p, reduction="none")
    least = F.binary_cross_entropy_with_logits(theirs / temperature, p, reduction="none")
    return temperature**2 * (losses - least).mean(dim)


class MaskedLesson(NamedTuple):
    """DistilBERT's: the words that the teacher expects, and the direction of hidden states.

    Its weights 5, 2 and 1 are those of a Lesson's usual weight. Hidden states are those of masked
    tokens, the only ones that a model's last block computes.
    """

    lesson: Lesson
    teacher: Any  # a PretrainModel, as inference.wrap() has it
    student: Any  # the PretrainModel that is trained, to see what its encoder gives

    def loss(self, task: Any) -> Any:
        """What the Trainer takes."""
        seen = dict[str, Tensor]()

        def keep(name: str) -> Any:
            return lambda module, inputs, output: seen.__setitem__(name, output)

        self.student.transformer.register_forward_hook(keep("student"))
        self.teacher.model.transformer.register_forward_hook(keep("teacher"))

        def loss(model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
            with torch.no_grad():
                inputs = (batch.input_ids, batch.segment_ids, batch.input_mask, batch.positions)
                theirs = self.teacher(*inputs)[0].float()
            once: Any = Once(model)
            own, means = task.loss(once, batch)
            words, n = once.found[0].float(), min(once.found[0].shape[-1], theirs.shape[-1])
            # (B, P): the weights have the number of slots in them. Rows behind the last token,
            # which make their number a round one, are no words.
            words = divergence(words[..., :n], theirs[..., :n], self.lesson.temperature)
            taught = (batch.weights * words).sum(1).mean()
            # Kept any longer, their graph would keep the whole model.
            ours, states = seen.pop("student").float(), seen.pop("teacher").float()
            # Narrower states have no direction in common.
            ours, states = ours[:, 1:], states[:, 1:]  # [CLS] comes before the masked tokens
            if ours.shape[-1] == states.shape[-1]:
                angle = 1 - F.cosine_similarity(ours, states, dim=-1)  # (B, P)
                taught = (5 * taught + (batch.weights * angle).sum(1).mean()) / 6
            mixed = self.lesson.mix(own, taught)
            return mixed, {**means, "loss_task": own, "loss_teacher": taught}

        return loss

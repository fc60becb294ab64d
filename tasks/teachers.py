"""Learning from a teacher: its outputs of the same inputs, computed once, are part of the loss.

    lesson = Lesson(temperature=2.0, weight=0.75)
    batches = TaughtBatches(batches, outputs)       # (N, ...) as task.taught() gives them
    trainer.train(lesson.loss(task))

Hinton et al., "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531); of masked words
Sanh et al., "DistilBERT" (arXiv 1910.01108).
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.whole import WholeLoss
from utils import UserError

NOTHING = -1e4  # the score of what is no choice: its probability is 0, its logarithm a number


class TaughtBatch(NamedTuple):
    """A batch and what the teacher makes of it."""

    batch: Any
    taught: Tensor  # (B, ...)

    def packed(self, rounded: bool = False) -> "TaughtBatch":
        """The same with the packing that the model would make of the mask."""
        return self._replace(batch=self.batch.packed(rounded))


class TaughtBatches:
    """The batches of others, each with the teacher's outputs (N, ...)."""

    def __init__(self, batches: Any, outputs: np.ndarray):
        self.batches, self.outputs = batches, outputs
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
        taught = torch.from_numpy(self.outputs[self.rows(n)[rank::world]])
        return TaughtBatch(self.batches.shard(n, rank, world), taught)

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


@dataclasses.dataclass(frozen=True)
class Lesson:
    """How much a teacher counts."""

    temperature: float = 2.0  # what scores are divided by, so that more than the best counts
    weight: float = 0.75  # of the teacher in the loss; the data's own answers have the rest

    def __post_init__(self) -> None:
        if not 0 < self.temperature < 1e6:
            raise UserError(f"`temperature={self.temperature}`: expected more than 0")
        if not 0 <= self.weight <= 1:
            raise UserError(f"`teacher_weight={self.weight}`: expected a share, 0 to 1")

    def mix(self, own: Tensor, taught: Tensor) -> Tensor:
        """A loss of both."""
        return (1 - self.weight) * own + self.weight * taught

    def loss(self, task: Any) -> Any:
        """What the Trainer takes: the task's loss, and how far outputs are from the teacher's."""
        if isinstance(task.loss, WholeLoss):
            return self.whole_loss(task)

        def loss(model: nn.Module, given: TaughtBatch) -> tuple[Tensor, dict[str, Tensor]]:
            once: Any = Once(model)
            own, means = task.loss(once, given.batch)
            ours = task.taught(once, given.batch)
            taught = task.imitation(ours, given.taught, given.batch, self.temperature)
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
            ours, states = seen["student"].float(), seen["teacher"].float()
            # Narrower states have no direction in common.
            ours, states = ours[:, 1:], states[:, 1:]  # [CLS] comes before the masked tokens
            if ours.shape[-1] == states.shape[-1]:
                angle = 1 - F.cosine_similarity(ours, states, dim=-1)  # (B, P)
                taught = (5 * taught + (batch.weights * angle).sum(1).mean()) / 6
            mixed = self.lesson.mix(own, taught)
            return mixed, {**means, "loss_task": own, "loss_teacher": taught}

        return loss

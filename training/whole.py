"""A loss that looks at all examples of a batch at once, computed part by part.

    trainer.train(WholeLoss(outputs, loss))

Every example may be compared with every other one of its batch, wherever that was computed. So the
outputs of all parts, in all processes, come first; the loss and its gradient with respect to them
follow; then each part is computed once more, with the gradient of its own outputs. Memory depends
on a part, the result on the batch alone (Gao et al., arXiv 2101.06983).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from system import distributed
from utils import size


class WholeLoss(NamedTuple):
    """What the Trainer takes in place of a function of a model and a batch."""

    # (b, ...) of the rows of a part, in their order
    outputs: Callable[[nn.Module, Any], Tensor]
    # (B, ...) outputs of the whole batch, and what its batches.whole(n) says -> the loss, and
    # further means to log
    loss: Callable[[Tensor, Any], tuple[Tensor, dict[str, Tensor]]]


class Part(Protocol):
    """Some rows of a batch, which are computed together."""

    @property
    def batch(self) -> Any: ...
    @property
    def rows(self) -> range: ...  # which of the batch they are; none: a row that counts nothing


def whole_outputs(parts: Sequence[Part], outputs: Sequence[Tensor], n_rows: int) -> Tensor:
    """(B, ...) in the order of the batch, the same in every process."""
    found = outputs[0].new_zeros(n_rows, *outputs[0].shape[1:])
    for part, output in zip(parts, outputs, strict=True):
        if part.rows:
            found[part.rows.start :: part.rows.step] = output
    # Each row is another process's, or zero.
    return distributed.total(found)


def output_gradients(
    loss: WholeLoss, outputs: Tensor, whole: Any
) -> tuple[Tensor, dict[str, Tensor]]:
    """The gradient of the loss with respect to all outputs, and the loss with its metrics."""
    # A loss of scores in bf16 would be none.
    outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32)).requires_grad_()
    value, metrics = loss.loss(outputs, whole)
    (gradient,) = torch.autograd.grad(value, outputs)
    # Gradients of parameters are averaged over the processes, and this is a sum.
    return gradient * size(), {"loss": value, **metrics}


def backward(output: Tensor, part: Part, gradient: Tensor) -> None:
    """The backward pass of a part, whose rows have their gradients among those of all."""
    own = gradient[part.rows.start :: part.rows.step] if part.rows else torch.zeros_like(output)
    output.backward(own.to(output.dtype))


def random_state(device: torch.device) -> list[Tensor]:
    """The states that dropout on a device follows from."""
    states = [torch.get_rng_state()]
    return states + (torch.cuda.get_rng_state_all() if device.type == "cuda" else [])


def restore_random_state(states: list[Tensor]) -> None:
    """Draw again what was drawn after random_state()."""
    torch.set_rng_state(states[0])
    if states[1:]:
        torch.cuda.set_rng_state_all(states[1:])

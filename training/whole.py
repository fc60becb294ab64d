"""A loss that looks at all examples of a batch at once, computed part by part.

    trainer.train(WholeLoss(outputs, loss))

Every example may be compared with every other one of its batch, wherever that was computed. So the
outputs of all parts, in all processes, come first; the loss and its gradient with respect to them
follow; then each part is computed once more, with the gradient of its own outputs. Memory depends
on a part, the result on the batch alone (Gao et al., arXiv 2101.06983).
"""

from collections.abc import Callable, Iterable, Sequence
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


class Made(Protocol):
    """What an update computes on."""

    @property
    def n_rows(self) -> int: ...  # of the whole batch
    @property
    def parts(self) -> Sequence[Part]: ...  # of this process
    @property
    def whole(self) -> Any: ...  # what is known of all rows


def backward_whole(
    loss: WholeLoss,
    model: nn.Module,
    made: Made,
    device: torch.device,
    in_turn: Iterable[tuple[int, Part]],
) -> dict[str, Tensor]:
    """The gradients of a loss of the whole batch, and its metrics, the loss first.

    Args:
        in_turn: the parts, numbered, each given within what its backward pass needs.
    """
    # What a single part computes is kept for its backward pass.
    outputs, states, alone = list[Tensor](), [], len(made.parts) == 1
    with torch.set_grad_enabled(alone):
        for part in made.parts:
            states.append(random_state(device))
            outputs.append(loss.outputs(model, part.batch))
    found = whole_outputs(made, [output.detach() for output in outputs])
    value, metrics = loss.loss(found, made.whole)
    (gradients,) = torch.autograd.grad(value, found)
    # Gradients of parameters are averaged over the processes, and this is a sum.
    gradients = gradients * size()
    for i, part in in_turn:
        if not alone:
            # Dropout drops the same elements again.
            restore_random_state(states[i])
            outputs[i] = loss.outputs(model, part.batch)
        own = torch.zeros_like(outputs[i])
        if part.rows:
            own = gradients[part.rows.start :: part.rows.step].to(own.dtype)
        outputs[i].backward(own)
    return {name: one.detach() for name, one in {"loss": value, **metrics}.items()}


def whole_outputs(made: Made, outputs: Sequence[Tensor]) -> Tensor:
    """(B, ...) in the order of the batch, the same in every process."""
    found = outputs[0].new_zeros(made.n_rows, *outputs[0].shape[1:])
    for part, output in zip(made.parts, outputs, strict=True):
        if part.rows:
            found[part.rows.start :: part.rows.step] = output
    # Each row is another process's, or zero. A loss of scores in bf16 would be none.
    found = distributed.total(found)
    return found.to(torch.promote_types(found.dtype, torch.float32)).requires_grad_()


def random_state(device: torch.device) -> list[Tensor]:
    """The states that dropout on a device follows from."""
    states = [torch.get_rng_state()]
    return states + (torch.cuda.get_rng_state_all() if device.type == "cuda" else [])


def restore_random_state(states: list[Tensor]) -> None:
    """Draw again what was drawn after random_state()."""
    torch.set_rng_state(states[0])
    if states[1:]:
        torch.cuda.set_rng_state_all(states[1:])

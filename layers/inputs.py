"""What a model of BERT is called with: its inputs by their names, and the packing of its mask."""

from typing import Any

import torch
from torch import Tensor, nn

from layers.packing import Packing
from utils import UserError

# (B, S), 1: a real token, 0: padding; or where the real ones are
Mask = Tensor | Packing

# The names of Google and of transformers -> ours
SYNONYMS = {"token_type_ids": "segment_ids", "attention_mask": "input_mask"}


class Module(nn.Module):
    """A module called with BERT's inputs, by position or by Google's or transformers' names."""

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        # Both names of an input at once would leave open which one counts.
        ours = {SYNONYMS.get(name, name): value for name, value in named.items()}
        if len(ours) < len(named):
            raise TypeError(f"{', '.join(named)}: two names of the same input")
        return super().__call__(*inputs, **ours)


def packing_of(segment_ids: Tensor, input_mask: Mask) -> Packing:
    """The packing of a mask; UserError where mask and segments stand in each other's place.

    transformers takes the segments third. On a GPU the error comes later, so that nothing waits.
    """
    # A packing, or a graph that is being made, has been checked by whoever made the batch.
    if isinstance(input_mask, Tensor) and not torch.compiler.is_compiling():
        # Segments begin with 0; a mask begins with 1, unless padding stands on the left.
        swapped = (segment_ids[:, :1] != 0) & (input_mask[:, :1] == 0)  # (B, 1)
        if swapped.device.type == "cuda":
            torch._assert_async(~swapped.any(), "input_mask and segment_ids are exchanged")
        elif swapped.any():
            raise UserError(
                "segment_ids begin with 1 and input_mask with 0; the order is model(input_ids, "
                "segment_ids, input_mask), or name them: attention_mask=, token_type_ids="
            )
    return Packing.of(input_mask)

"""Examples of different lengths as one row of real tokens, and attention within each of them.

    packing = Packing.of(input_mask)        # (B, S): 1: a real token, 0: padding
    x = packing.pack(hidden)                # (B, S, D) -> (T, D)
    x = self_attention(q, k, v, packing, n_heads=12)    # (T, D) x 3 -> (T, D)
    hidden = packing.pad(x)                 # (T, D) -> (B, S, D)

A layer that looks at one token at a time computes the T real tokens as a long list. Attention alone
has to know which token belongs to which example. It is computed in one of three ways:

- on a CPU for neighbours of the same length together, which needs neither padding nor a mask;
- on a GPU for the padded batch with a mask;
- or there by the flash kernel, which takes the list and where each example starts.
"""

import functools
import itertools
from typing import NamedTuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor

from layers.kernels import attention


class Packing(NamedTuple):
    """Where the T real tokens of a padded batch (B, S) are, and which belong together."""

    real: Tensor  # (B, S), True: a real token
    cells: Tensor  # (T,) indices of the real tokens into B * S
    positions: Tensor  # (T,) of each token in its example: its column in the padded batch
    starts: Tensor  # (B + 1,) int32: where each example starts among the T, and the end
    lengths: tuple[int, ...]  # (B,) tokens of each example
    longest: int  # no example has more
    padded: bool = False  # True: the T are all B * S tokens, and padding is masked
    rounded: bool = False  # True: [PAD] may make up T

    @classmethod
    def of(cls, input_mask: Union[Tensor, "Packing"], rounded: bool = False) -> "Packing":
        """The packing of a mask (B, S); one that is made already stays as it is.

        On a GPU this waits until the mask is there, so a loader makes it on the CPU.

        Args:
            rounded: make up T with [PAD] to one of eight sizes between a power of two and the next,
                so that sizes repeat from batch to batch. These tokens, if there are any, are one
                more example. A batch that needs none is computed in the same way as one that does.
        """
        if isinstance(input_mask, Packing):
            return input_mask
        real = input_mask.bool()
        n_rows, n_columns = real.shape
        if torch.compiler.is_compiling():
            # All tokens, padding included: torch.export and torch.compile of a whole model take no
            # shapes that depend on the mask's values.
            cells = torch.arange(n_rows * n_columns, device=real.device)
            positions = torch.arange(n_columns, device=real.device).expand(real.shape).flatten()
            starts = torch.arange(n_rows + 1, device=real.device, dtype=torch.int32) * n_columns
            return cls(real, cells, positions, starts, (), n_columns, padded=True)
        cells = real.flatten().nonzero().squeeze(1)
        n_tokens = real.sum(1)
        starts = F.pad(n_tokens.cumsum(0), (1, 0))
        longest = n_columns
        if rounded:
            extra = -len(cells) % size_step(len(cells))
            # One past the last cell: pack() finds a [PAD] there, and pad() drops what comes of it.
            cells = F.pad(cells, (0, extra), value=real.numel())
            starts = F.pad(starts, (0, 1), value=len(cells))
            # A power of two that is the same whatever was missing.
            longest = 1 << (max(n_columns, size_step(len(cells))) - 1).bit_length()
        positions = cells % n_columns if n_columns else cells
        lengths = tuple(n_tokens.tolist())
        return cls(real, cells, positions, starts.int(), lengths, longest, rounded=rounded)

    @property
    def exact(self) -> bool:
        """Whether it is known that no [PAD] makes up T."""
        # A graph serves every batch, made up or not, and a compiled one padded or not.
        return not (torch.compiler.is_compiling() or self.rounded)

    @property
    def full(self) -> bool:
        """Whether the T are all tokens of the batch, so that reshaping is enough."""
        return self.padded or (self.exact and len(self.cells) == self.real.numel())

    def pack(self, x: Tensor) -> Tensor:
        """(B, S, ...) -> (T, ...)"""
        x = x.flatten(0, 1)
        if self.full:
            return x
        if self.exact:
            return x[self.cells]
        # [PAD] is 0, and its cell comes after all others.
        return torch.cat([x, x.new_zeros(1, *x.shape[1:])])[self.cells]

    def pad(self, x: Tensor) -> Tensor:
        """(T, ...) -> (B, S, ...), zeros where padded"""
        if not self.full:
            empty = x.new_zeros(self.real.numel() + 1, *x.shape[1:])
            x = empty.index_copy_(0, self.cells, x)[:-1]
        return x.unflatten(0, self.real.shape)

    @property
    def first(self) -> Tensor:
        """(B, 1) position of each example's first real token: of [CLS], also behind padding."""
        # Of several largest ones argmax gives the first.
        return self.real.int().argmax(1, keepdim=True)

    def rows(self, positions: Tensor) -> Tensor:
        """(B, M) positions -> (B, M) indices into T"""
        if self.padded:
            return positions + self.starts[:-1, None]
        # Counting the real tokens up to each position gives its index among all of them.
        index = self.real.flatten().cumsum(0) - 1
        return index.view(self.real.shape).gather(1, positions)


def size_step(n_tokens: int) -> int:
    """The distance of sizes, eight of which lie between a power of two and the next."""
    return max(1, 2 ** (n_tokens.bit_length() - 4))


# ---------------------------------------------------------------------------------------- attention


def in_heads(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    n_heads: int,
    may_attend: Tensor | None,
    p_drop: float,
    maps: list[Tensor] | None = None,
) -> Tensor:
    """Attention in H heads of W = D / H elements: (B, M, D), 2 x (B, S, D) -> (B, M, D)."""
    # (B, S, D) -> (B, S, H, W) -> (B, H, S, W)
    q, k, v = (x.unflatten(-1, (n_heads, -1)).transpose(1, 2) for x in (q, k, v))
    out = attention(q, k, v, may_attend, p_drop, maps)
    return out.transpose(1, 2).flatten(2)


def self_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    packing: Packing,
    n_heads: int,
    p_drop: float = 0.0,
    flash: bool = False,
    maps: list[Tensor] | None = None,
) -> Tensor:
    """Each token gathers from all tokens of its example: (T, D) x 3 -> (T, D).

    Args:
        q: or (B, M, D), the queries of M tokens of each example: -> (B, M, D).
        p_drop: probability of dropping an attention weight.
        flash: use the GPU's kernel for packed tokens, in bf16.
        maps: gets the weights appended, (B, H, S, S), or (B, H, M, S).
    """
    if flash and maps is None and q.dtype == torch.bfloat16:
        return attention_packed(q, k, v, packing, n_heads, p_drop)
    # The groups of a batch differ from the next one's, and would each need a graph of their own.
    if q.device.type == "cpu" and packing.exact and maps is None:
        return attention_by_length(q, k, v, packing.lengths, n_heads, p_drop)
    return attention_padded(q, k, v, packing, n_heads, p_drop, maps)


def attention_by_length(
    q: Tensor, k: Tensor, v: Tensor, lengths: tuple[int, ...], n_heads: int, p_drop: float
) -> Tensor:
    """Neighbours of the same length at once. A batch is sorted by length, so they are few calls."""
    groups = [(len(list(group)), length) for length, group in itertools.groupby(lengths)]
    n_tokens = [n * length for n, length in groups]
    some = q.dim() == 3  # queries of M tokens of each example
    n_queries = [n for n, _ in groups] if some else n_tokens
    found = []
    parts = zip(groups, q.split(n_queries), k.split(n_tokens), v.split(n_tokens), strict=True)
    for (n, length), q_part, k_part, v_part in parts:
        shape = (n, length)  # (n * length, D) -> (n, length, D)
        q_part = q_part if some else q_part.unflatten(0, shape)
        k_part, v_part = k_part.unflatten(0, shape), v_part.unflatten(0, shape)
        out = in_heads(q_part, k_part, v_part, n_heads, None, p_drop)
        found.append(out if some else out.flatten(0, 1))
    # Without examples there is nothing to put together.
    return torch.cat(found) if found else q


def attention_padded(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    packing: Packing,
    n_heads: int,
    p_drop: float,
    maps: list[Tensor] | None,
) -> Tensor:
    """The whole batch at once, padded, with a mask."""
    some = q.dim() == 3  # queries of M tokens of each example
    nothing_padded = packing.full and not packing.padded
    may_attend = None if nothing_padded else packing.real[:, None, None, :]  # (B, 1, 1, S)
    q = q if some else packing.pad(q)
    out = in_heads(q, packing.pad(k), packing.pad(v), n_heads, may_attend, p_drop, maps)
    return out if some else packing.pack(out)


def attention_packed(
    q: Tensor, k: Tensor, v: Tensor, packing: Packing, n_heads: int, p_drop: float
) -> Tensor:
    """The list of tokens as it is, by the kernel of Dao et al., "FlashAttention-2"."""
    starts, longest = packing.starts, packing.longest
    starts_q, longest_q = starts, longest
    if q.dim() == 3:
        # M queries of each example, and none of the tokens that make up a round number.
        longest_q = q.shape[1]
        examples = torch.arange(len(starts), device=q.device, dtype=torch.int32)
        starts_q = examples.clamp(max=len(q)) * longest_q
    # (T, D) -> (T, H, W)
    heads = (x.flatten(0, -2).unflatten(-1, (n_heads, -1)) for x in (q, k, v))
    # An operator of PyTorch's own attention. varlen_attn, its public form, cannot drop.
    out = torch.ops.aten._flash_attention_forward(
        *heads, starts_q, starts, longest_q, longest, p_drop, False, False
    )[0]
    return out.flatten(-2).view(q.shape)


@functools.cache
def flash_differs(device: torch.device, width: int) -> str:
    """How the flash kernel's outputs or gradients differ from the padded way's; "": they do not.

    It is private to PyTorch, so each run tries it before relying on it, with heads of its width:
    for all tokens and for the first of each example, with tokens to a round number and without.
    """
    mask = (torch.arange(40) < torch.tensor([40, 7, 1, 23])[:, None]).to(device)
    first = torch.zeros(4, 1, dtype=torch.long, device=device)
    generator = torch.Generator().manual_seed(0)
    for rounded in (False, True):
        packing = Packing.of(mask, rounded)
        inputs = torch.randn(3, len(packing.cells), 2 * width, generator=generator)
        for rows in (None, packing.rows(first)):
            results = []
            for flash in (False, True):
                qkv = inputs.to(device, torch.bfloat16).requires_grad_()
                try:
                    results.append(attend_once(qkv, packing, rows, flash))
                except (AttributeError, RuntimeError, TypeError) as error:
                    # PyTorch goes on to list what it could have done elsewhere.
                    return str(error).split("\n")[0].split(". ")[0]
            for name, padded, packed in zip(("outputs", "gradients"), *results, strict=True):
                difference = float((padded - packed).abs().max() / padded.abs().max())
                # bf16 has eight bits; a NaN is not less than anything.
                if not difference < 0.02:
                    return f"{name} differ by {difference:.2g} of the largest"
    return ""


def attend_once(
    qkv: Tensor, packing: Packing, rows: Tensor | None, flash: bool
) -> tuple[Tensor, Tensor]:
    """The outputs of two heads, and the gradient of the sum of their squares; of real tokens."""
    q, k, v = qkv.unbind()
    q = q if rows is None else q[rows]
    out = self_attention(q, k, v, packing, 2, flash=flash).float()
    # What tokens give that make up a round number is dropped.
    out = out if rows is not None else out[: sum(packing.lengths)]
    (gradient,) = torch.autograd.grad(out.square().sum(), qkv)
    return out.detach(), gradient.float()

"""BERT: the Transformer encoder and the heads that were released with it.

    hidden = Transformer(Config())(input_ids, segment_ids, input_mask)      # (B, S) x 3 -> (B, S, D)

The model of Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers" (arXiv
1810.04805), equal to Google's code and to Hugging Face's BertModel up to rounding.

Shapes: B examples, S tokens of the longest one, T real tokens of the whole batch, M positions asked
for in each example, D width, H heads, W = D / H width of a head, V vocabulary.

Padding costs nothing: an ordinary padded batch comes in and goes out, but between the two only the
T real tokens are computed on, as one long (T, D) list. Attention alone needs to know which token
belongs to which example; `Packing` tells.
"""

import dataclasses
import math
import types
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kernels import Linear, linear
from utils import UserError, make, nearest, read_json, show

ACTIVATIONS = {
    "gelu": F.gelu,  # exact, with the error function
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}

# Google's and Hugging Face's names of the settings -> ours
RELEASED_NAMES = {
    "vocab_size": "vocab_size",
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "dim_ff",
    "hidden_dropout_prob": "p_drop_hidden",
    "attention_probs_dropout_prob": "p_drop_attn",
    "max_position_embeddings": "max_len",
    "type_vocab_size": "n_segments",
    "hidden_act": "hidden_act",
    "initializer_range": "init_std",
    "layer_norm_eps": "norm_eps",
}

# What a released configuration may say that would make another model of it.
BERT_ALONE = {
    "model_type": "bert",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "is_encoder_decoder": False,
    "add_cross_attention": False,
}

# Far more than any BERT has: a damaged file or a slip of the finger is refused before memory is
# asked for.
LARGEST = {
    "vocab_size": 10_000_000,
    "dim": 65_536,
    "n_layers": 1_000,
    "n_heads": 65_536,
    "dim_ff": 1_000_000,
    "max_len": 1_000_000,
    "n_segments": 1_000,
}
MOST_PARAMETERS = 10**12


@dataclasses.dataclass(frozen=True)
class Config:
    """The shape of a BERT. The defaults are BERT-base, uncased."""

    vocab_size: int = 30522  # word pieces
    dim: int = 768  # width of a token's vector
    n_layers: int = 12  # Transformer blocks
    n_heads: int = 12  # attention heads of a block, dim / n_heads wide each
    dim_ff: int = 3072  # width inside the feed-forward part
    p_drop_hidden: float = 0.1  # probability of dropping an element of a block's output
    p_drop_attn: float = 0.1  # probability of dropping an attention weight
    max_len: int = 512  # positions: the longest input, in tokens
    n_segments: int = 2  # segment (sentence) ids
    hidden_act: str = "gelu"  # gelu (exact), gelu_new (tanh) or relu
    init_std: float = 0.02  # of the truncated normal that fresh weights are drawn from
    norm_eps: float = 1e-12  # inside the root of LayerNorm

    def __post_init__(self) -> None:
        for name, most in LARGEST.items():
            if (value := getattr(self, name)) < 1:
                raise UserError(f"{name}={show(value)}; expected at least 1")
            if value > most:
                raise UserError(f"{name}={show(value)}; expected at most {most:,}")
        if (n := self.n_parameters) > MOST_PARAMETERS:
            raise UserError(
                f"a model of this shape has {n:,} parameters; expected at most {MOST_PARAMETERS:,}"
            )
        if self.dim % self.n_heads:
            raise UserError(
                f"dim={self.dim} is not divisible by n_heads={self.n_heads}; change one of them"
            )
        for name in ("p_drop_hidden", "p_drop_attn"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}; expected a probability, 0 <= p < 1")
        if self.hidden_act not in ACTIVATIONS:
            raise UserError(
                f"hidden_act={show(self.hidden_act)}; expected one of {', '.join(ACTIVATIONS)}"
            )

    @property
    def n_parameters(self) -> int:
        """Parameters of the encoder's matrices: nearly all there are."""
        block = 4 * self.dim**2 + 2 * self.dim * self.dim_ff
        return (self.vocab_size + self.max_len + self.n_segments) * self.dim + self.n_layers * block

    @classmethod
    def from_json(cls, file: str | Path) -> "Config":
        """Read this project's JSON or Google's / Hugging Face's bert_config.json."""
        return cls.from_dict(read_json(file), file)

    @classmethod
    def from_dict(cls, values: dict, source: str | Path = "the model configuration") -> "Config":
        """Settings under our names, all checked, or a released configuration, whose other keys are
        passed over.
        """
        if "hidden_size" not in values:
            return make(cls, values, source)
        for key, expected in BERT_ALONE.items():
            if values.get(key, expected) != expected:
                raise UserError(
                    f"{source}: {key} is {show(values[key])}; only {expected!r} is BERT"
                )
        for key in values.keys() - RELEASED_NAMES.keys():
            if hint := nearest(key, RELEASED_NAMES, cutoff=0.9):
                raise UserError(f"{source}: unknown key {key!r}{hint}")
        return make(
            cls, {RELEASED_NAMES[k]: v for k, v in values.items() if k in RELEASED_NAMES}, source
        )

    def to_released(self) -> dict:
        """The same settings under the names of Google and Hugging Face."""
        return {theirs: getattr(self, ours) for theirs, ours in RELEASED_NAMES.items()}


# ------------------------------------------------------------------------------------------ dropout


def keep_mask(x: Tensor, p: float) -> Tensor:
    """A tensor like `x` that is 0 with probability p and 1 / (1 - p) elsewhere, from PyTorch's CPU
    generator.

    Each element compares 16 random bits with p, so the rate is exact to 1/65536; drawing a float
    for each, as F.dropout does on a CPU, takes seven times as long.
    """
    bits = (
        torch.empty((x.numel() + 3) // 4, dtype=torch.int64)
        .random_(-(2**63), None)
        .view(torch.int16)
    )
    dropped = round(p * 2**16) - 2**15  # of -32768..32767, the values below this
    return bits[: x.numel()].view(x.shape).ge(dropped).to(x.dtype).mul_(1 / (1 - p))


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """F.dropout, fast on a CPU too."""
    if not training or p == 0:
        return x
    return x * keep_mask(x, p) if x.device.type == "cpu" else F.dropout(x, p)


# ------------------------------------------------------------------------------------------ packing


def check_first(real: Tensor) -> None:
    """UserError where an example of a mask (B, S) does not begin with a real token: in place of the
    mask stands something else, such as the segments, which transformers takes third. On a GPU the
    error comes later, so that nothing waits.
    """
    if torch.compiler.is_compiling() or not real.numel():
        return
    if real.device.type == "cuda":
        torch._assert_async(real[:, 0].all(), "input_mask does not begin with 1")
    elif not real[:, 0].all():
        raise UserError(
            "input_mask does not begin with 1 in every row; the order is model(input_ids, "
            "segment_ids, input_mask), "
            "or name them: attention_mask=, token_type_ids="
        )


class Packing:
    """The way from a padded (B, S, ...) batch to the list of its T real tokens (T, ...) and back."""

    def __init__(self, input_mask: Tensor):
        real = input_mask.bool()
        check_first(real)
        self.real = real  # (B, S)
        self.tokens = real.flatten().nonzero().squeeze(1)  # (T,) indices into B * S
        self.full = len(self.tokens) == real.numel()  # nothing is padded: reshaping does
        self.may_attend = (
            None if self.full else real[:, None, None, :]
        )  # (B, 1, 1, S), True: a token to look at

    def pack(self, x: Tensor) -> Tensor:  # (B, S, ...) -> (T, ...)
        x = x.flatten(0, 1)
        return x if self.full else x[self.tokens]

    def pad(self, x: Tensor) -> Tensor:  # (T, ...) -> (B, S, ...), zeros where padded
        if not self.full:
            x = x.new_zeros(self.real.numel(), *x.shape[1:]).index_copy_(0, self.tokens, x)
        return x.unflatten(0, self.real.shape)

    def rows(self, positions: Tensor) -> Tensor:  # (B, M) positions -> (B, M) indices into T
        return (self.real.flatten().cumsum(0) - 1).view(self.real.shape).gather(1, positions)


# -------------------------------------------------------------------------------------- the encoder


class Module(nn.Module):
    """A module that is called with BERT's inputs, by position or under the names of either Google
    or transformers.
    """

    NAMES = types.MappingProxyType(
        {"token_type_ids": "segment_ids", "attention_mask": "input_mask"}
    )

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        ours = {self.NAMES.get(name, name): value for name, value in named.items()}
        if len(ours) < len(named):
            raise TypeError(f"{', '.join(named)}: two names of the same input")
        return super().__call__(*inputs, **ours)


class Embedding(nn.Module):
    """Token + position + segment, normalised."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.token = nn.Embedding(cfg.vocab_size, cfg.dim)
        self.position = nn.Embedding(cfg.max_len, cfg.dim)
        self.segment = nn.Embedding(cfg.n_segments, cfg.dim)
        self.norm = nn.LayerNorm(cfg.dim, cfg.norm_eps)
        self.p_drop = cfg.p_drop_hidden

    def forward(
        self, token: Tensor, position: Tensor, segment: Tensor
    ) -> Tensor:  # (T,) x 3 -> (T, D)
        x = self.token(token) + self.position(position) + self.segment(segment)
        return dropout(self.norm(x), self.p_drop, self.training)


class SelfAttention(nn.Module):
    """Every token gathers from all tokens of its example: softmax(q k' / sqrt(W)) v, in H heads
    side by side.
    """

    def __init__(self, cfg: Config):
        super().__init__()
        self.n_heads, self.p_drop = cfg.n_heads, cfg.p_drop_attn
        self.qkv = Linear(cfg.dim, 3 * cfg.dim)  # query, key and value in one product
        self.out = Linear(cfg.dim, cfg.dim)

    def heads(self, x: Tensor) -> Tensor:  # (B, S, D) -> (B, H, S, W)
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)

    def forward(
        self, x: Tensor, packing: Packing, rows: Tensor | None, maps: list | None
    ) -> Tensor:
        # (T, D) -> (T, D), or -> (B, M, D) for the rows alone
        if rows is None:
            q, k, v = packing.pad(self.qkv(x)).chunk(3, dim=-1)  # (B, S, D) each
        else:
            dim = x.shape[-1]
            (wq, wkv), (bq, bkv) = (
                t.split((dim, 2 * dim)) for t in (self.qkv.weight, self.qkv.bias)
            )
            q = linear(x[rows], wq, bq)  # (B, M, D)
            k, v = packing.pad(linear(x, wkv, bkv)).chunk(2, dim=-1)  # (B, S, D) each
        out = self.attend(self.heads(q), self.heads(k), self.heads(v), packing.may_attend, maps)
        out = out.transpose(1, 2).flatten(2)  # (B, H, S, W) -> (B, S, D)
        return self.out(packing.pack(out) if rows is None else out)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, may_attend: Tensor | None, maps: list | None
    ) -> Tensor:
        p_drop = self.p_drop if self.training else 0.0
        if maps is None and (p_drop == 0 or q.device.type != "cpu"):
            return F.scaled_dot_product_attention(q, k, v, may_attend, p_drop)
        # Written out where the weights are asked for, and on a CPU, whose fused kernel cannot drop.
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])  # (B, H, S, S)
        if may_attend is not None:
            scores = scores.masked_fill(~may_attend, torch.finfo(scores.dtype).min)
        weights = scores.softmax(-1)
        if maps is not None:
            maps.append(weights)
        return dropout(weights, self.p_drop, self.training) @ v


class FeedForward(nn.Module):
    """Two linear layers around the activation, each token by itself."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.fc1 = Linear(cfg.dim, cfg.dim_ff)
        self.fc2 = Linear(cfg.dim_ff, cfg.dim)
        self.activation = ACTIVATIONS[cfg.hidden_act]

    def forward(self, x: Tensor) -> Tensor:  # (T, D) -> (T, F) -> (T, D)
        return self.fc2(self.activation(self.fc1(x)))


class Block(nn.Module):
    """Attention, then feed-forward; after each, dropout, the residual and LayerNorm (BERT
    normalises after).
    """

    def __init__(self, cfg: Config):
        super().__init__()
        self.attention = SelfAttention(cfg)
        self.norm1 = nn.LayerNorm(cfg.dim, cfg.norm_eps)
        self.feed_forward = FeedForward(cfg)
        self.norm2 = nn.LayerNorm(cfg.dim, cfg.norm_eps)
        self.p_drop = cfg.p_drop_hidden

    def forward(
        self, x: Tensor, packing: Packing, rows: Tensor | None = None, maps: list | None = None
    ) -> Tensor:
        h = self.attention(x, packing, rows, maps)
        if rows is not None:
            x = x[rows]  # (T, D) -> (B, M, D)
        x = self.norm1(x + dropout(h, self.p_drop, self.training))
        return self.norm2(x + dropout(self.feed_forward(x), self.p_drop, self.training))


class Transformer(Module):
    """The encoder: embeddings and n_layers blocks."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.cfg = cfg
        self.embedding = Embedding(cfg)
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.n_layers))
        self.checkpointing = (
            False  # True: keep only blocks' inputs, compute the rest again going backward
        )

    def forward(
        self,
        input_ids: Tensor,
        segment_ids: Tensor,
        input_mask: Tensor,
        positions: Tensor | None = None,
        maps: list | None = None,
        outputs: list | None = None,
    ) -> Tensor:
        """(B, S) token ids, segment ids and mask (1: real token, 0: padding) -> (B, S, D), zeros
        where padded.

        With `positions`, (B, M) tokens of each example, only their vectors: (B, M, D), zeros where
        padded. The last block then computes no others, since nothing after it mixes tokens. A list
        given as `maps` receives the attention weights of each block, (B, H, S, S), the last of them
        for the positions alone; one given as `outputs` what the embeddings and each block give, (T,
        D), the real tokens one after the other.
        """
        packing = Packing(input_mask)
        position = packing.tokens % input_ids.shape[1]
        x = self.embedding(packing.pack(input_ids), position, packing.pack(segment_ids))  # (T, D)
        for i, block in enumerate(self.blocks):
            if outputs is not None:
                outputs.append(x)
            rows = (
                packing.rows(positions)
                if positions is not None and i == len(self.blocks) - 1
                else None
            )
            if self.checkpointing and self.training and maps is None:
                x = checkpoint(block, x, packing, rows, use_reentrant=False)
            else:
                x = block(x, packing, rows, maps)
        if outputs is not None:
            outputs.append(x)
        return (
            packing.pad(x)
            if positions is None
            else x * packing.real.gather(1, positions)[..., None]
        )


# ---------------------------------------------------------------------------------------- the heads


class Pooler(nn.Module):
    """What the sentence heads read: a tanh layer on the vector of [CLS]."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.dense = Linear(cfg.dim, cfg.dim)

    def forward(self, first: Tensor) -> Tensor:  # (B, D) -> (B, D)
        return torch.tanh(self.dense(first))


class MaskedLM(nn.Module):
    """Scores every word of the vocabulary at a position; the matrix is the token embedding itself."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.dense = Linear(cfg.dim, cfg.dim)
        self.norm = nn.LayerNorm(cfg.dim, cfg.norm_eps)
        self.bias = nn.Parameter(torch.zeros(cfg.vocab_size))
        self.activation = ACTIVATIONS[cfg.hidden_act]

    def forward(self, x: Tensor, token_embedding: Tensor) -> Tensor:  # (..., D), (V, D) -> (..., V)
        return linear(self.norm(self.activation(self.dense(x))), token_embedding, self.bias)


def pool(
    model: Any, input_ids: Tensor, segment_ids: Tensor, input_mask: Tensor
) -> Tensor:  # (B, S) x 3 -> (B, D)
    first = input_ids.new_zeros(len(input_ids), 1)  # only [CLS] is read
    return model.pooler(model.transformer(input_ids, segment_ids, input_mask, first).squeeze(1))


class Classifier(Module):
    """Labels, or a number, for a sentence or a pair: encoder, pooler, dropout, linear."""

    def __init__(self, cfg: Config, n_labels: int = 2):
        super().__init__()
        self.transformer = Transformer(cfg)
        self.pooler = Pooler(cfg)
        self.classifier = Linear(cfg.dim, n_labels)
        self.p_drop = cfg.p_drop_hidden
        self.frozen = False
        initialise(self, cfg.init_std)

    def forward(
        self, input_ids: Tensor, segment_ids: Tensor | None = None, input_mask: Tensor | None = None
    ) -> Tensor:
        """(B, S) token ids, segment ids and mask, or instead of the first the pooled vectors (B,
        D), -> (B, labels).
        """
        if input_ids.is_floating_point():
            pooled = input_ids
        elif segment_ids is None or input_mask is None:
            raise UserError("a classifier needs input_ids, segment_ids and input_mask")
        else:
            pooled = pool(self, input_ids, segment_ids, input_mask)
        return self.classifier(dropout(pooled, self.p_drop, self.training))

    def freeze(self) -> None:
        """Train the last layer alone: encoder and pooler keep their weights and drop nothing,
        whatever train() says.
        """
        self.frozen = True
        for module in (self.transformer, self.pooler):
            module.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Classifier":
        super().train(mode)
        if self.frozen:
            self.transformer.eval()
            self.pooler.eval()
        return self

    def reinitialise(self, n_blocks: int) -> None:
        """Start the top blocks and the pooler anew (Zhang et al., "Revisiting Few-sample BERT
        Fine-tuning", 2006.05987).
        """
        for module in (
            *self.transformer.blocks[len(self.transformer.blocks) - n_blocks :],
            self.pooler,
        ):
            initialise(module, self.transformer.cfg.init_std)


class QuestionAnswering(Module):
    """Where in a text the answer to a question starts and ends."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.transformer = Transformer(cfg)
        self.answer = Linear(cfg.dim, 2)
        initialise(self, cfg.init_std)

    def forward(
        self, input_ids: Tensor, segment_ids: Tensor, input_mask: Tensor
    ) -> Tensor:  # (B, S) x 3 -> (B, S, 2)
        scores = self.answer(self.transformer(input_ids, segment_ids, input_mask))
        return scores.masked_fill(input_mask[..., None] == 0, -torch.inf)  # padding is no answer


class PretrainModel(Module):
    """BERT as it is pre-trained: guess masked words, and whether the second sentence follows the
    first.
    """

    def __init__(self, cfg: Config):
        super().__init__()
        self.transformer = Transformer(cfg)
        self.pooler = Pooler(cfg)
        self.masked_lm = MaskedLM(cfg)
        self.next_sentence = Linear(cfg.dim, 2)  # 0: B follows A, 1: B is random
        initialise(self, cfg.init_std)

    def forward(
        self, input_ids: Tensor, segment_ids: Tensor, input_mask: Tensor, masked_positions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(B, S) x 3 and (B, P) positions -> scores of the words there (B, P, V) and of the order
        (B, 2).
        """
        positions = F.pad(masked_positions, (1, 0))  # [CLS] is position 0
        x = self.transformer(input_ids, segment_ids, input_mask, positions)
        words = self.masked_lm(x[:, 1:], self.transformer.embedding.token.weight)
        return words, self.next_sentence(self.pooler(x[:, 0]))


def initialise(model: nn.Module, std: float) -> None:
    """Google's start: matrices and embeddings from a normal cut at two standard deviations, biases
    0, LayerNorm 1 and 0.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.LayerNorm):
            module.reset_parameters()

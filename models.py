"""BERT: the Transformer encoder and the heads that were released with it.

    model = BertModel(Config())
    hidden, pooled = model(input_ids, segment_ids, input_mask)  # (B, S) x 3 -> (B, S, D), (B, D)

The model of Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers" (arXiv
1810.04805), equal to Google's code and to Hugging Face's BertModel up to rounding.

Shapes: B examples, S tokens of the longest one, T real tokens of the whole batch, M positions asked
for in each example, D width, H heads, W = D / H width of a head, V vocabulary.

Padding costs nothing: an ordinary padded batch comes in and goes out, but in between only the T
real tokens are computed, as one long (T, D) list (packing.py). Who has many batches makes the
packing of each beforehand, and passes it in the mask's place.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from layers.inputs import Mask, Module, packing_of
from layers.kernels import ACTIVATIONS, Linear, ResidualNorm, Stream, dropout, linear
from layers.packing import Packing, self_attention
from system.files import read_json
from utils import UserError, make, nearest, show

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
    "classifier_dropout": "p_drop_classifier",
}

# Other words of transformers for the same functions.
ACTIVATION_NAMES = {
    "gelu_python": "gelu",
    "gelu_fast": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
}

# A released configuration that says otherwise describes another model.
BERT_ALONE = {
    "model_type": "bert",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "is_encoder_decoder": False,
    "add_cross_attention": False,
}

# Far more than any BERT has: a damaged file is refused before memory is asked for.
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
    p_drop_classifier: float | None = None  # before a classifier's scores; None: p_drop_hidden

    def __post_init__(self) -> None:
        for name, most in LARGEST.items():
            if (value := getattr(self, name)) < 1:
                raise UserError(f"{name}={show(value)}; expected at least 1")
            if value > most:
                raise UserError(f"{name}={show(value)}; expected at most {most:,}")
        # The encoder's matrices: nearly all parameters there are.
        block = 4 * self.dim**2 + 2 * self.dim * self.dim_ff
        n = (self.vocab_size + self.max_len + self.n_segments) * self.dim + self.n_layers * block
        if n > MOST_PARAMETERS:
            raise UserError(
                f"a model of this shape has {n:,} parameters; expected at most {MOST_PARAMETERS:,}"
            )
        # Each head has W = dim / n_heads elements of a vector.
        if self.dim % self.n_heads:
            raise UserError(
                f"dim={self.dim} is not divisible by n_heads={self.n_heads}; change one of them"
            )
        for name in ("p_drop_hidden", "p_drop_attn", "p_drop_classifier"):
            p = getattr(self, name)
            if p is not None and not 0 <= p < 1:
                raise UserError(f"{name}={p}; expected a probability, 0 <= p < 1")
        for name in ("init_std", "norm_eps"):
            if (value := getattr(self, name)) <= 0:
                raise UserError(f"{name}={value}; expected more than 0")
        if self.hidden_act not in ACTIVATIONS:
            raise UserError(
                f"hidden_act={show(self.hidden_act)}; expected one of {', '.join(ACTIVATIONS)}"
            )

    @property
    def p_drop_head(self) -> float:
        """Probability of dropping an element of what a classifier reads."""
        return self.p_drop_hidden if self.p_drop_classifier is None else self.p_drop_classifier

    def check_length(self, max_len: int) -> None:
        """UserError where inputs could be longer than the model takes."""
        if max_len > self.max_len:
            raise UserError(
                f"max_len={max_len} is more than the {self.max_len} positions of the model; lower "
                "`max_len`"
            )

    def check_pairs(self) -> None:
        """UserError where the model cannot tell the second text of a pair from the first."""
        if self.n_segments < 2:
            raise UserError(
                "the model has one segment (type_vocab_size, n_segments), and pairs of texts need "
                "two; join the two texts to one, or name weights with two segments"
            )

    @classmethod
    def from_json(cls, file: str | Path) -> "Config":
        """Read this project's JSON or Google's / Hugging Face's bert_config.json."""
        return cls.from_dict(read_json(file), file)

    @classmethod
    def from_dict(cls, values: dict, source: str | Path = "the model configuration") -> "Config":
        """Settings under our names, or a released configuration, whose other keys are ignored."""
        # A configuration of Google's or Hugging Face's is recognised by their name of the width.
        if "hidden_size" not in values:
            return make(cls, values, source)
        for key, expected in BERT_ALONE.items():
            if values.get(key, expected) != expected:
                raise UserError(
                    f"{source}: {key} is {show(values[key])}; only {expected!r} is BERT"
                )
        # Without a model_type the class alone says what it is: RobertaModel, say.
        classes = values.get("architectures")
        unsure = isinstance(classes, list) and "model_type" not in values
        if unsure and classes and not any(str(name).startswith("Bert") for name in classes):
            raise UserError(
                f"{source}: architectures is {show(classes)}; only classes of BERT, such as "
                "BertModel, are read"
            )
        # Released files have many other keys, so that only one which looks misspelt is an error.
        for key in values.keys() - RELEASED_NAMES.keys():
            if hint := nearest(key, RELEASED_NAMES, cutoff=0.9):
                raise UserError(f"{source}: unknown key {key!r}{hint}")
        known = {RELEASED_NAMES[k]: v for k, v in values.items() if k in RELEASED_NAMES}
        if isinstance(name := known.get("hidden_act"), str):
            known["hidden_act"] = ACTIVATION_NAMES.get(name, name)
        # The same probability is nothing of its own; runs were begun before it was read.
        p_drop = known.get("p_drop_hidden", cls.p_drop_hidden)
        if "p_drop_classifier" in known and known["p_drop_classifier"] == p_drop:
            del known["p_drop_classifier"]
        return make(cls, known, source)

    def to_json(self) -> dict[str, Any]:
        """The settings under our names, without those that are not set."""
        # Files of earlier versions, and runs that were begun by them, lack these.
        return {name: v for name, v in vars(self).items() if v is not None}

    def to_released(self) -> dict[str, Any]:
        """The same settings under the names of Google and Hugging Face."""
        ours = self.to_json()
        return {theirs: ours[name] for theirs, name in RELEASED_NAMES.items() if name in ours}


# -------------------------------------------------------------------------------------- the encoder


class Embedding(nn.Module):
    """Token + position + segment, normalised."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.token = nn.Embedding(cfg.vocab_size, cfg.dim)
        self.position = nn.Embedding(cfg.max_len, cfg.dim)
        self.segment = nn.Embedding(cfg.n_segments, cfg.dim)
        self.norm = nn.LayerNorm(cfg.dim, cfg.norm_eps)
        self.p_drop = cfg.p_drop_hidden

    def forward(self, token: Tensor, position: Tensor, segment: Tensor) -> Tensor:
        # (T,) x 3 -> (T, D)
        x = self.token(token) + self.position(position) + self.segment(segment)
        return dropout(self.norm(x), self.p_drop, self.training)


class SelfAttention(nn.Module):
    """Each token gathers from all tokens of its example: softmax(q k' / sqrt(W)) v, in H heads."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.n_heads, self.p_drop = cfg.n_heads, cfg.p_drop_attn
        self.head_dim = cfg.dim // cfg.n_heads
        self.flash = False  # True: by the GPU's kernel for packed tokens
        # Query, key and value in one product.
        self.qkv = Linear(cfg.dim, 3 * cfg.dim)
        self.out = Linear(cfg.dim, cfg.dim)

    def forward(
        self, x: Tensor, packing: Packing, rows: Tensor | None, maps: list[Tensor] | None
    ) -> Tensor:
        # (T, D) -> (T, D), or with rows (B, M) -> (B, M, D)
        dim = x.shape[-1]
        if rows is None:
            q, k, v = self.qkv(x).chunk(3, dim=-1)  # (T, D) each
        else:
            # Queries of the wanted tokens, keys and values of all.
            q = self.qkv.part(x[rows], 0, dim)  # (B, M, D)
            k, v = self.qkv.part(x, dim, 3 * dim).chunk(2, dim=-1)  # (T, D) each
        p_drop = self.p_drop if self.training else 0.0
        return self.out(self_attention(q, k, v, packing, self.n_heads, p_drop, self.flash, maps))


class FeedForward(nn.Module):
    """Two linear layers around the activation, each token by itself."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.fc1 = Linear(cfg.dim, cfg.dim_ff)
        self.fc2 = Linear(cfg.dim_ff, cfg.dim)
        self.activation = cfg.hidden_act

    def forward(self, x: Tensor) -> Tensor:  # (T, D) -> (T, F) -> (T, D)
        return self.fc2(self.fc1(x, self.activation))


class Block(nn.Module):
    """Attention, then feed-forward; after each, dropout, the residual and LayerNorm."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.attention = SelfAttention(cfg)
        self.norm1 = ResidualNorm(cfg.dim, cfg.norm_eps, cfg.p_drop_hidden)
        self.feed_forward = FeedForward(cfg)
        self.norm2 = ResidualNorm(cfg.dim, cfg.norm_eps, cfg.p_drop_hidden)

    def forward(
        self,
        x: Stream,
        packing: Packing,
        rows: Tensor | None = None,
        maps: list[Tensor] | None = None,
    ) -> Stream:
        h = self.attention(x.low, packing, rows, maps)
        residual = x.full if rows is None else x.full[rows]  # (T, D) or (B, M, D)
        x = self.norm1(residual, h)
        return self.norm2(x.full, self.feed_forward(x.low))


class Transformer(Module):
    """The encoder: embeddings and n_layers blocks."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.cfg = cfg
        self.embedding = Embedding(cfg)
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.n_layers))
        # True: keep the blocks' inputs alone and compute the rest again in the backward pass.
        self.checkpointing = False

    def forward(
        self,
        input_ids: Tensor,
        segment_ids: Tensor,
        input_mask: Mask,
        positions: Tensor | None = None,
        maps: list[Tensor] | None = None,
        outputs: list[Tensor] | None = None,
    ) -> Tensor:
        """(B, S) token ids, segment ids, mask (1: real, 0: padding) -> (B, S, D), zeros if padded.

        Padding may be anywhere; a token's position is its column, as in transformers.

        Args:
            positions: (B, M) tokens of each example whose vectors are wanted: -> (B, M, D). The
                last block then computes no others, since nothing after it mixes tokens.
            maps: gets the attention weights of each block, (B, H, S, S); of the last block for the
                positions alone.
            outputs: gets what the embeddings and each block give, (T, D), the real tokens one after
                the other.
        """
        packing = packing_of(segment_ids, input_mask)
        ids, segments = packing.pack(input_ids), packing.pack(segment_ids)
        # Looking at the segments would make a GPU wait, which other models need not.
        if self.cfg.n_segments == 1 and not torch.compiler.is_compiling() and segments.any():
            self.cfg.check_pairs()
        x = self.embedding(ids, packing.positions, segments)  # (T,) x 3 -> (T, D)
        stream = Stream(x, x)
        last = len(self.blocks) - 1
        for i, block in enumerate(self.blocks):
            if outputs is not None:
                outputs.append(stream.full)
            # Only the last block may leave tokens out: the next one needs the keys of all of them.
            wanted = packing.rows(positions) if positions is not None and i == last else None
            # checkpoint() restores the random state, so that dropout drops the same elements again.
            if self.checkpointing and self.training and maps is None:
                stream = checkpoint(block, stream, packing, wanted, use_reentrant=False)
            else:
                stream = block(stream, packing, wanted, maps)
        x = stream.full
        if outputs is not None:
            outputs.append(x)
        if positions is None:
            x = packing.pad(x)
            return x * packing.real[..., None] if packing.padded else x
        # Unused slots may point at padding, whose vector is zero as without `positions`.
        return x * packing.real.gather(1, positions)[..., None]


# ---------------------------------------------------------------------------------------- the heads


class Pooler(nn.Module):
    """What the sentence heads read: a tanh layer on the vector of [CLS]."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.dense = Linear(cfg.dim, cfg.dim)

    def forward(self, first: Tensor) -> Tensor:  # (B, D) -> (B, D)
        return torch.tanh(self.dense(first))


class MaskedLM(nn.Module):
    """Scores every word of the vocabulary at a position; its matrix is the token embedding."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.dense = Linear(cfg.dim, cfg.dim)
        self.norm = nn.LayerNorm(cfg.dim, cfg.norm_eps)
        self.bias = nn.Parameter(torch.zeros(cfg.vocab_size))
        self.activation = cfg.hidden_act

    def forward(self, x: Tensor, token_embedding: Tensor) -> Tensor:  # (..., D), (V, D) -> (..., V)
        x = self.norm(self.dense(x, self.activation))
        return linear(x, token_embedding, self.bias)


class BertModel(Module):
    """Encoder and pooler; the models below add a head.

    `heads` are built after the encoder, and then everything is initialised once, in that order:
    which random number a weight gets is part of what a seed means.
    """

    pooler: Pooler

    def __init__(
        self,
        cfg: Config,
        heads: Callable[[], dict[str, nn.Module]] = dict,
        with_pooler: bool = True,
    ):
        super().__init__()
        self.cfg = cfg
        self.frozen = False
        self.transformer = Transformer(cfg)
        if with_pooler:
            self.pooler = Pooler(cfg)
        for name, head in heads().items():
            self.add_module(name, head)
        initialise(self, cfg.init_std)

    def forward(self, input_ids: Tensor, segment_ids: Tensor, input_mask: Mask) -> Any:
        """(B, S) x 3 -> the hidden states (B, S, D) and the pooled vectors (B, D).

        What is pooled is the first real token, [CLS]. transformers pools position 0, which is [PAD]
        where a row is padded on the left.
        """
        packing = packing_of(segment_ids, input_mask)
        hidden = self.transformer(input_ids, segment_ids, packing)
        first = packing.first[..., None].expand(-1, -1, hidden.shape[-1])  # (B, 1, D)
        cls = hidden.gather(1, first)
        return hidden, self.pooler(cls.squeeze(1))

    def pool(self, input_ids: Tensor, segment_ids: Tensor, input_mask: Mask) -> Tensor:
        """(B, S) x 3 -> (B, D), without computing what only other tokens need."""
        packing = packing_of(segment_ids, input_mask)
        cls = self.transformer(input_ids, segment_ids, packing, packing.first)  # (B, 1, D)
        return self.pooler(cls.squeeze(1))

    @property
    def encoder_parts(self) -> list[nn.Module]:
        """All but the head."""
        return [self.transformer, *([self.pooler] if hasattr(self, "pooler") else [])]

    def freeze(self) -> None:
        """Train the head alone; encoder and pooler drop nothing, whatever train() says."""
        self.frozen = True
        for module in self.encoder_parts:
            module.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "BertModel":
        super().train(mode)
        # A frozen encoder gives the same vectors whenever it is asked, and boost relies on that.
        if self.frozen:
            for module in self.encoder_parts:
                module.eval()
        return self

    def reinitialise(self, n_blocks: int) -> None:
        """Start the top blocks and the pooler anew.

        Zhang et al., "Revisiting Few-sample BERT Fine-tuning" (arXiv 2006.05987).
        """
        first = len(self.transformer.blocks) - n_blocks
        # The pooler stands for [CLS] of the top block, and starts anew with it.
        for module in (*self.transformer.blocks[first:], *self.encoder_parts[1:]):
            initialise(module, self.cfg.init_std)


class Classifier(BertModel):
    """Labels, or a number, for a sentence or a pair: encoder, pooler, dropout, linear."""

    classifier: Linear

    def __init__(self, cfg: Config, n_labels: int = 2):
        super().__init__(cfg, lambda: {"classifier": Linear(cfg.dim, n_labels)})

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        segment_ids: Tensor | None = None,
        input_mask: Mask | None = None,
        pooled: Tensor | None = None,
    ) -> Tensor:
        """(B, S) token ids, segment ids and mask, or pooled vectors (B, D), -> (B, labels)."""
        if pooled is None:
            if input_ids is None or segment_ids is None or input_mask is None:
                raise UserError("a classifier needs input_ids, segment_ids and input_mask")
            pooled = self.pool(input_ids, segment_ids, input_mask)
        return self.classifier(dropout(pooled, self.cfg.p_drop_head, self.training))


class SentenceEncoder(BertModel):
    """A vector for a text: those of its tokens pooled, through a dense layer, at length 1."""

    dense: Linear

    def __init__(
        self,
        cfg: Config,
        pooling: str = "mean",
        normalize: bool = False,
        dense: int = 0,
        activation: str = "tanh",
    ):
        """The encoder, and what pools.

        Args:
            pooling: cls; mean or max over the tokens; layers: the mean over the tokens of the first
                and the last block (Li et al., arXiv 2011.05864).
            dense: width of a further layer; 0: none.
            activation: after it, tanh or identity.
        """

        def heads() -> dict[str, nn.Module]:
            return {"dense": Linear(cfg.dim, dense)} if dense else {}

        super().__init__(cfg, heads, with_pooler=False)
        self.pooling, self.normalize, self.activation = pooling, normalize, activation

    def forward(self, input_ids: Tensor, segment_ids: Tensor, input_mask: Mask) -> Tensor:
        """(B, S) x 3 -> (B, D), or as wide as the dense layer."""
        packing = packing_of(segment_ids, input_mask)
        real, outputs = packing.real[..., None], list[Tensor]()
        if self.pooling == "cls":
            x = self.transformer(input_ids, segment_ids, packing, packing.first).squeeze(1)
        else:
            wanted = outputs if self.pooling == "layers" else None
            x = self.transformer(input_ids, segment_ids, packing, outputs=wanted)  # (B, S, D)
            # A mean in bf16 would lose small numbers.
            x = x.to(torch.promote_types(x.dtype, torch.float32))
            if self.pooling == "layers":
                x = (x + packing.pad(outputs[1]) * real) / 2
            if self.pooling == "max":
                x = x.masked_fill(~real, -torch.inf).amax(1)
            else:
                x = x.sum(1) / real.sum(1)
        if hasattr(self, "dense"):
            x = self.dense(x)
            x = torch.tanh(x) if self.activation == "tanh" else x
        return nn.functional.normalize(x, dim=-1) if self.normalize else x


class QuestionAnswering(BertModel):
    """Where in a text the answer to a question starts and ends."""

    answer: Linear

    def __init__(self, cfg: Config):
        # An answer is found among the tokens, and nothing reads the pooled vector.
        super().__init__(cfg, lambda: {"answer": Linear(cfg.dim, 2)}, with_pooler=False)

    def forward(self, input_ids: Tensor, segment_ids: Tensor, input_mask: Mask) -> Tensor:
        """(B, S) x 3 -> (B, S, 2), minus infinity for padding."""
        packing = packing_of(segment_ids, input_mask)
        scores = self.answer(self.transformer(input_ids, segment_ids, packing))
        # Padding can be neither a start nor an end, in the loss as in the answers.
        return scores.masked_fill(~packing.real[..., None], -torch.inf)


class Tagger(BertModel):
    """A tag for each token: encoder, dropout, linear."""

    tags: Linear

    def __init__(self, cfg: Config, n_tags: int):
        super().__init__(cfg, lambda: {"tags": Linear(cfg.dim, n_tags)}, with_pooler=False)

    def forward(self, input_ids: Tensor, segment_ids: Tensor, input_mask: Mask) -> Tensor:
        """(B, S) x 3 -> (B, S, tags)"""
        hidden = self.transformer(input_ids, segment_ids, input_mask)
        return self.tags(dropout(hidden, self.cfg.p_drop_head, self.training))


class MultipleChoice(BertModel):
    """How well a choice fits its context: encoder, pooler, dropout, linear."""

    choice: Linear

    def __init__(self, cfg: Config):
        super().__init__(cfg, lambda: {"choice": Linear(cfg.dim, 1)})

    def forward(self, input_ids: Tensor, segment_ids: Tensor, input_mask: Mask) -> Tensor:
        """(N, S) x 3, an input for each choice, -> (N,) scores, to compare within a question."""
        pooled = self.pool(input_ids, segment_ids, input_mask)
        return self.choice(dropout(pooled, self.cfg.p_drop_head, self.training)).squeeze(1)


class PretrainModel(BertModel):
    """BERT as it is pre-trained: guess masked words, and whether B follows A."""

    masked_lm: MaskedLM
    next_sentence: Linear  # 0: B follows A, 1: B is random

    def __init__(self, cfg: Config):
        super().__init__(
            cfg, lambda: {"masked_lm": MaskedLM(cfg), "next_sentence": Linear(cfg.dim, 2)}
        )

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor,
        segment_ids: Tensor,
        input_mask: Mask,
        masked_positions: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """(B, S) x 3, (B, P) -> scores of the words there (B, P, V) and of the order (B, 2)."""
        packing = packing_of(segment_ids, input_mask)
        positions = torch.cat([packing.first, masked_positions], 1)  # [CLS] before them
        x = self.transformer(input_ids, segment_ids, packing, positions)
        words = self.masked_lm(x[:, 1:], self.transformer.embedding.token.weight)
        return words, self.next_sentence(self.pooler(x[:, 0]))


# Whether models draw their weights when they are built.
DRAWING = contextvars.ContextVar("drawing", default=True)


@contextlib.contextmanager
def undrawn() -> Iterator[None]:
    """Within it, models are built without drawing weights, which are loaded next.

    Drawing those of BERT-base takes seconds. Where a model is trained they are drawn all the same:
    which number a new head gets follows from the seed and from all draws before.
    """
    token = DRAWING.set(False)
    try:
        yield
    finally:
        DRAWING.reset(token)


def initialise(model: nn.Module, std: float) -> None:
    """Google's start: weights from a normal cut at two deviations, biases 0, LayerNorm 1 and 0."""
    if not DRAWING.get():
        return
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.LayerNorm):
            module.reset_parameters()

"""The parameters of BERT and what they are called elsewhere: one table for all formats.

table_rows(12)[0].ours              # "transformer.embedding.token.weight"
table_rows(12)[0].hugging_face      # ["bert.embeddings.word_embeddings.weight"]
"""

import dataclasses
import re

# What a file is called in messages, and by which its names are told apart.
OURS = "pytorchic-bert checkpoint"
HUGGING_FACE = "Hugging Face weights"
TENSORFLOW = "TensorFlow checkpoint"
DHLEE347 = "checkpoint of dhlee347/pytorchic-bert"
ONNX = "ONNX model"

# One row a module: our name, Hugging Face's, what kind of parameters it has, and TensorFlow's name
# where that is not Hugging Face's with slashes. N is a block's number, QKV the three matrices that
# we keep as one.
TABLE = """
transformer.embedding.token            bert.embeddings.word_embeddings                  weight
transformer.embedding.position         bert.embeddings.position_embeddings              weight
transformer.embedding.segment          bert.embeddings.token_type_embeddings            weight
transformer.embedding.norm             bert.embeddings.LayerNorm                        norm
transformer.blocks.N.attention.qkv     bert.encoder.layer.N.attention.self.QKV          linear
transformer.blocks.N.attention.out     bert.encoder.layer.N.attention.output.dense      linear
transformer.blocks.N.norm1             bert.encoder.layer.N.attention.output.LayerNorm  norm
transformer.blocks.N.feed_forward.fc1  bert.encoder.layer.N.intermediate.dense          linear
transformer.blocks.N.feed_forward.fc2  bert.encoder.layer.N.output.dense                linear
transformer.blocks.N.norm2             bert.encoder.layer.N.output.LayerNorm            norm
pooler.dense        bert.pooler.dense                    linear
masked_lm.dense     cls.predictions.transform.dense      linear
masked_lm.norm      cls.predictions.transform.LayerNorm  norm
masked_lm           cls.predictions                      bias    cls/predictions/output_bias
next_sentence       cls.seq_relationship                 output  cls/seq_relationship/output_
classifier          classifier                           output  output_
answer              qa_outputs                           output  cls/squad/output_
tags                tags                                 output  tags/output_
choice              choice                               output  choice/output_
dense               2_Dense.linear                       linear
"""

# The same modules in the model_steps_N.pt of github.com/dhlee347/pytorchic-bert, where norms have
# gamma and beta. Its `classifier` is that of next sentences in a file of pre-training.
DHLEE347_TABLE = """
transformer.embedding.token            transformer.embed.tok_embed
transformer.embedding.position         transformer.embed.pos_embed
transformer.embedding.segment          transformer.embed.seg_embed
transformer.embedding.norm             transformer.embed.norm
transformer.blocks.N.attention.qkv     transformer.blocks.N.attn.proj_QKV
transformer.blocks.N.attention.out     transformer.blocks.N.proj
transformer.blocks.N.norm1             transformer.blocks.N.norm1
transformer.blocks.N.feed_forward.fc1  transformer.blocks.N.pwff.fc1
transformer.blocks.N.feed_forward.fc2  transformer.blocks.N.pwff.fc2
transformer.blocks.N.norm2             transformer.blocks.N.norm2
pooler.dense                           fc
masked_lm.dense                        linear
masked_lm.norm                         norm
masked_lm                              decoder_
next_sentence                          next_sentence
classifier                             classifier
"""

# The parameters of each kind: our and Hugging Face's name -> TensorFlow's ending, dhlee347's. A
# kernel is (in, out) where our weight is (out, in); an output's weights are (out, in) in TensorFlow
# too.
KINDS = {
    "linear": {"weight": ("/kernel", ".weight"), "bias": ("/bias", ".bias")},
    "norm": {"weight": ("/gamma", ".gamma"), "bias": ("/beta", ".beta")},
    "output": {"weight": ("weights", ".weight"), "bias": ("bias", ".bias")},
    "weight": {"weight": ("", ".weight")},
    "bias": {"bias": ("", "bias")},
}

# What a checkpoint may lack, and which of these have names for their outputs.
HEADS = ("pooler", "masked_lm", "next_sentence", "classifier", "answer", "tags", "choice", "dense")
LABELLED = ("classifier", "tags")

# Hugging Face calls these heads "classifier" too; the class in config.json says which it is.
CLASSIFIERS = {"BertForTokenClassification": "tags", "BertForMultipleChoice": "choice"}

# The classes of transformers and the heads they have; the first that a checkpoint fills is written.
ARCHITECTURES: dict[str, set[str]] = {
    "BertForSequenceClassification": {"pooler", "classifier"},
    "BertForTokenClassification": {"tags"},
    "BertForMultipleChoice": {"pooler", "choice"},
    "BertForPreTraining": {"pooler", "masked_lm", "next_sentence"},
    "BertForQuestionAnswering": {"answer"},
    "BertForNextSentencePrediction": {"pooler", "next_sentence"},
    "BertForMaskedLM": {"masked_lm"},
    "BertModel": set(),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One of our parameters and the names it has elsewhere: three for query, key and value."""

    ours: str
    hugging_face: list[str]
    tensorflow: list[str]
    dhlee347: list[str]  # none of a head that it lacks
    transposed: bool  # whether TensorFlow's is (in, out)

    @property
    def head(self) -> str:
        """The module it belongs to: transformer, or a head."""
        return self.ours.split(".")[0]


def table_rows(n_layers: int) -> list[Row]:
    """The name table written out for every parameter of every head."""
    found = []
    dhlee347 = dict(line.split() for line in DHLEE347_TABLE.strip().splitlines())
    for line in TABLE.strip().splitlines():
        # The fourth column is there only where TensorFlow's name is not Hugging Face's with
        # slashes.
        ours, hugging_face, kind, *other = line.split()
        tensorflow = hugging_face.replace(".", "/").replace("layer/N", "layer_N")
        if other:
            tensorflow = other[0]
        parts = ("query", "key", "value") if "QKV" in hugging_face else ("",)
        for n in range(n_layers) if ".N." in ours else [0]:
            a, b, c, d = (
                re.sub(r"(?<=[._])N(?=[./])", str(n), name)
                for name in (ours, hugging_face, tensorflow, dhlee347.get(ours, ""))
            )
            for name, (ending, theirs) in KINDS[kind].items():
                found.append(
                    Row(
                        f"{a}.{name}",
                        [f"{b.replace('QKV', part)}.{name}" for part in parts],
                        [c.replace("QKV", part) + ending for part in parts],
                        [d.replace("QKV", part[:1]) + theirs for part in parts] if d else [],
                        transposed=ending == "/kernel",
                    )
                )
    return found


def names_of(row: Row, kind: str) -> list[str]:
    """What a parameter of ours is called in a file of a kind."""
    names = {TENSORFLOW: row.tensorflow, DHLEE347: row.dhlee347, OURS: [row.ours]}
    return names.get(kind, row.hugging_face)

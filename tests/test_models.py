"""The model against transformers' BERT, in float64 and float32; what it computes and what it does
not.
"""

import math
import re
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForPreTraining, BertForSequenceClassification, BertModel
from transformers.activations import ACT2FN

import checkpoint
import models
from formats import names, translate
from layers import kernels
from layers.kernels import dropout, keep_mask
from layers.packing import Packing
from models import Classifier, Config, PretrainModel, Transformer
from utils import UserError

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def theirs(kind: type, cfg: Config, **more: object) -> torch.nn.Module:
    """transformers' model of our shape with random weights of some size, not training."""
    torch.manual_seed(3)
    model = kind(BertConfig(**cfg.to_released(), attn_implementation="eager", **more)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def copy(model: torch.nn.Module, source: torch.nn.Module) -> None:
    """Their weights into our model, through the name table."""
    tensors = {translate.modern_name(name): t for name, t in source.state_dict().items()}
    tied = re.compile(r"position_ids$|^cls\.predictions\.decoder\.")
    tensors = {name: t for name, t in tensors.items() if not tied.search(name)}
    cfg = model.transformer.cfg
    found, problems = translate.to_ours(tensors, names.HUGGING_FACE, cfg, "classifier")
    assert problems == []
    assert checkpoint.load(model, checkpoint.Checkpoint("", Path("memory"), cfg, found)) == []
    model.to(next(source.parameters()).dtype)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_hidden_states_pooled_output_and_attention_equal_transformers(
    tiny: Config, padded_batch: Batch, activation: str, dtype: torch.dtype, limit: float
) -> None:
    cfg = Config(**{**vars(tiny), "hidden_act": activation})
    reference, model = theirs(BertModel, cfg).double(), models.BertModel(cfg).eval()
    copy(model, reference)
    reference.to(dtype)
    model.to(dtype)
    ids, segments, mask = padded_batch
    maps: list[torch.Tensor] = []
    with torch.no_grad():
        expected = reference(
            ids, attention_mask=mask, token_type_ids=segments, output_attentions=True
        )
        hidden, pooled = model(ids, segments, mask)
        with_maps = model.transformer(ids, segments, mask, maps=maps)
        pooled_alone = model.pool(ids, segments, mask)
    real = mask.bool()
    assert (hidden - expected[0])[real].abs().max() <= limit
    assert (with_maps - expected[0])[real].abs().max() <= limit
    assert (pooled - expected[1]).abs().max() <= limit
    assert (pooled_alone - expected[1]).abs().max() <= limit
    assert not hidden[~real].any()
    for ours, their in zip(maps, expected.attentions, strict=True):
        assert (ours - their).transpose(1, 2)[real].abs().max() <= limit


def test_gradients_equal_transformers(tiny: Config, padded_batch: Batch) -> None:
    cfg = Config(**{**vars(tiny), "p_drop_hidden": 0.0, "p_drop_attn": 0.0})
    reference = theirs(BertForSequenceClassification, cfg, num_labels=3).double().train()
    model = Classifier(cfg, 3).train()
    copy(model, reference)
    ids, segments, mask = padded_batch
    labels = torch.tensor([0, 2, 1, 1, 0])
    logits = reference(ids, attention_mask=mask, token_type_ids=segments).logits
    torch.nn.functional.cross_entropy(logits, labels).backward()
    ours = model(ids, segments, mask)
    torch.nn.functional.cross_entropy(ours, labels).backward()
    assert (ours - logits).abs().max() <= 1e-10
    gradients = {name: p.grad for name, p in reference.named_parameters()}
    expected, _ = translate.to_ours(gradients, names.HUGGING_FACE, cfg, "classifier")
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad.float(), expected[name], atol=1e-6, rtol=1e-5), name


def test_pretraining_heads_equal_transformers(tiny: Config, padded_batch: Batch) -> None:
    reference, model = theirs(BertForPreTraining, tiny).double(), PretrainModel(tiny).eval()
    copy(model, reference)
    ids, segments, mask = padded_batch
    positions = torch.tensor([[3, 16], [8, 1], [2, 0], [11, 4], [0, 0]])
    with torch.no_grad():
        expected = reference(ids, attention_mask=mask, token_type_ids=segments)
        words, order = model(ids, segments, mask, positions)
    at = expected.prediction_logits[torch.arange(5)[:, None], positions]
    assert words.shape == (5, 2, 100)
    assert (words - at).abs().max() <= 1e-10
    assert (order - expected.seq_relationship_logits).abs().max() <= 1e-10


def test_positions_asked_for_equal_the_whole_output(tiny: Config, padded_batch: Batch) -> None:
    model = Transformer(tiny).double().eval()
    positions = torch.tensor([[16, 2], [0, 8], [1, 1], [5, 11], [0, 0]])
    with torch.no_grad():
        whole = model(*padded_batch)
        some = model(*padded_batch, positions=positions)
    assert (some - whole[torch.arange(5)[:, None], positions]).abs().max() < 1e-12


def test_an_example_does_not_depend_on_its_batch_nor_on_holes_in_the_mask(
    tiny: Config, padded_batch: Batch
) -> None:
    model = Transformer(tiny).double().eval()
    with torch.no_grad():
        together = model(*padded_batch)
        for i, length in enumerate([17, 9, 3, 12, 1]):
            alone = model(*(t[i : i + 1, :length] for t in padded_batch))
            assert (together[i, :length] - alone[0]).abs().max() < 1e-12
        ids, segments, mask = (t[:1].clone() for t in padded_batch)
        mask[0, [2, 7]] = 0
        holes = model(ids, segments, mask)
        ids[0, [2, 7]] = 99  # what is masked out must not matter
        assert torch.equal(holes, model(ids, segments, mask))


def test_padding_anywhere_gives_the_hidden_states_of_transformers(tiny: Config) -> None:
    reference, model = theirs(BertModel, tiny).double(), models.BertModel(tiny).eval()
    copy(model, reference)
    torch.manual_seed(4)
    left, holes, right = [0, 0, 0, 1, 1, 1, 1], [0, 1, 1, 0, 1, 0, 0], [1, 1, 1, 1, 0, 0, 0]
    mask = torch.tensor([left, [1] * 7, holes, right])
    ids = torch.randint(1, 100, mask.shape)
    segments = (torch.arange(7) > 3).long() * mask
    real, first = mask.bool(), torch.tensor([3, 0, 1, 0])
    with torch.no_grad():
        expected = reference(ids, attention_mask=mask, token_type_ids=segments)[0]
        hidden, pooled = model(ids, segments, mask)
        assert (hidden - expected)[real].abs().max() <= 1e-10
        assert not hidden[~real].any()
        # What is pooled is the first real token: [CLS].
        cls = expected[torch.arange(4), first]
        assert (pooled - reference.pooler(cls[:, None])).abs().max() <= 1e-10
        for same in (mask, mask.bool(), Packing.of(mask), Packing.of(mask, rounded=True)):
            assert (model.pool(ids, segments, same) - pooled).abs().max() <= 1e-12
        pretrain = PretrainModel(tiny).double().eval()
        copy_of = pretrain.transformer(ids, segments, mask)
        words, order = pretrain(ids, segments, mask, first[:, None])
        tokens = pretrain.transformer.embedding.token.weight
        there = pretrain.masked_lm(copy_of[torch.arange(4), first], tokens)
        assert (words[:, 0] - there).abs().max() <= 1e-12
        follows = pretrain.next_sentence(pretrain.pooler(copy_of[torch.arange(4), first]))
        assert (order - follows).abs().max() <= 1e-12
        # A row of padding alone gives zeros, and leaves the others as they are.
        mask[1] = 0
        without, found = model(ids, segments * mask, mask), model.pool(ids, segments * mask, mask)
        assert not without[0][1].any()
        assert (without[0] - hidden)[[0, 2, 3]].abs().max() <= 1e-12
        assert (found - without[1]).abs().max() <= 1e-12
        assert found.isfinite().all()
    torch.manual_seed(0)
    assert model.train().pool(ids, segments * mask, mask).isfinite().all()


def test_gradient_checkpointing_changes_no_bit(tiny: Config, padded_batch: Batch) -> None:
    model = Classifier(tiny).train()
    gradients = []
    for model.transformer.checkpointing in (False, True):
        torch.manual_seed(5)
        model.zero_grad()
        model(*padded_batch).logsumexp(1).sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_pooled_vectors_stand_for_the_inputs(tiny: Config, padded_batch: Batch) -> None:
    model = Classifier(tiny, 3).eval()
    with torch.no_grad():
        scores = model(pooled=model.pool(*padded_batch))
        assert torch.equal(scores, model(*padded_batch))
    with pytest.raises(UserError, match="needs input_ids, segment_ids and input_mask"):
        model(padded_batch[0])


def test_attention_weights_are_kept_nowhere(tiny: Config, padded_batch: Batch) -> None:
    model = Classifier(tiny).eval()
    known = {id(t) for t in [*model.parameters(), *model.buffers()]}
    model(*padded_batch)
    for module in model.modules():
        for value in vars(module).values():
            assert not isinstance(value, torch.Tensor) or id(value) in known
            assert not isinstance(value, list | tuple) or not any(
                isinstance(v, torch.Tensor) for v in value
            )


def test_dropout_has_the_exact_rate_keeps_the_mean_and_follows_the_generator() -> None:
    x = torch.ones(1000, 1003)
    for p in (0.1, 0.5, 0.9):
        torch.manual_seed(0)
        mask = keep_mask(x, p)
        assert sorted(mask.unique().tolist()) == [0.0, torch.tensor(1 / (1 - p)).item()]
        error = abs((mask == 0).double().mean().item() - p)
        assert error < 4 * math.sqrt(p * (1 - p) / x.numel()) + 2**-16
        torch.manual_seed(0)
        assert torch.equal(mask, keep_mask(x, p))
        assert not torch.equal(mask, keep_mask(x, p))
    rows = (keep_mask(x, 0.1) == 0).double().mean(1)  # no pattern across rows or neighbours
    assert abs(rows.std().item() - math.sqrt(0.09 / 1003)) < 1e-3
    dropped = (keep_mask(x, 0.1) == 0).double() - 0.1
    assert abs((dropped[:, 1:] * dropped[:, :-1]).mean().item()) < 4 * 0.09 / 1000
    assert dropout(x, 0.1, training=False) is x
    assert dropout(x, 0.0, training=True) is x
    bf16 = keep_mask(x.bfloat16(), 0.1)
    assert bf16.dtype == torch.bfloat16


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[int, ...], float]]:
    """The shape and the probability of every dropout mask that is drawn from now on."""
    masks: list[tuple[tuple[int, ...], float]] = []

    def record(x: torch.Tensor, p: float) -> torch.Tensor:
        masks.append((tuple(x.shape), p))
        return keep_mask(x, p)

    monkeypatch.setattr(kernels, "keep_mask", record)
    return masks


def test_dropout_stands_where_googles_does(
    tiny: Config, padded_batch: Batch, drawn: list[tuple[tuple[int, ...], float]]
) -> None:
    cfg = Config(**{**vars(tiny), "n_layers": 2, "p_drop_hidden": 0.3, "p_drop_attn": 0.2})
    Classifier(cfg).train()(*padded_batch)
    tokens, first = (42, 32), (5, 1, 32)  # 42 real tokens; the last block goes on with [CLS] alone
    lengths = (17, 9, 3, 12, 1)  # each another one, so that each is attended to by itself
    assert drawn == [
        (tokens, 0.3),  # embeddings
        *(((1, 4, n, n), 0.2) for n in lengths),
        (tokens, 0.3),
        (tokens, 0.3),  # attention, both sub-layers
        *(((1, 4, 1, n), 0.2) for n in lengths),
        (first, 0.3),
        (first, 0.3),
        ((5, 32), 0.3),  # and the pooled output
    ]
    drawn.clear()
    Classifier(cfg).eval()(*padded_batch)
    assert drawn == []


def test_a_position_that_is_padding_gives_zeros_not_another_examples_vector(tiny: Config) -> None:
    model = Transformer(tiny).eval()
    ids, mask = (
        torch.randint(1, 100, (3, 6)),
        torch.tensor([[1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0], [1, 1, 0, 1, 1, 1]]),
    )
    with torch.no_grad():
        some = model(ids, ids * 0, mask, positions=torch.tensor([[0, 4], [1, 5], [2, 5]]))
    assert not some[[0, 1, 1, 2], [1, 0, 1, 0]].any()
    assert some[0, 0].any()
    assert some[2, 1].any()
    assert some.isfinite().all()


def test_fresh_weights_are_googles() -> None:
    torch.manual_seed(0)
    model = PretrainModel(Config(vocab_size=5000, dim=256, n_layers=2, n_heads=4, dim_ff=512))
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            assert not p.any(), name
        elif "norm" in name:
            assert torch.equal(p, torch.ones_like(p)), name
        else:
            assert p.abs().max() <= 0.04, name
            # a normal cut at two standard deviations keeps .8796 of its standard deviation
            assert abs(p.std().item() - 0.02 * 0.8796) < 0.001, name


def test_a_configuration_is_read_under_either_set_of_names(tmp_path: Path) -> None:
    ours, released = tmp_path / "ours.json", tmp_path / "bert_config.json"
    ours.write_text(
        '{"dim": 48, "n_layers": 2, "n_heads": 3, "dim_ff": 96, "vocab_size": 50, '
        '"p_drop_attn": 0.2}'
    )
    released.write_text(
        '{"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, '
        '"intermediate_size": 96, "vocab_size": 50, "attention_probs_dropout_prob": 0.2, '
        '"directionality": "bidi"}'
    )
    assert Config.from_json(ours) == Config.from_json(released)
    assert Config.from_dict(Config(dim=48, n_heads=3).to_released()) == Config(dim=48, n_heads=3)


@pytest.mark.parametrize(
    ("theirs_name", "ours_name"),
    [("gelu_python", "gelu"), ("gelu_fast", "gelu_new"), ("gelu_pytorch_tanh", "gelu_new")],
)
def test_other_words_for_an_activation_are_the_same_function(
    theirs_name: str, ours_name: str
) -> None:
    cfg = Config.from_dict({"hidden_size": 16, "num_attention_heads": 2, "hidden_act": theirs_name})
    assert cfg.hidden_act == ours_name
    x = torch.linspace(-9, 9, 10_000, dtype=torch.float64)
    expected = ACT2FN[theirs_name](x)
    assert (kernels.ACTIVATIONS[ours_name](x) - expected).abs().max() <= 1e-11


def test_the_dropout_of_a_classifier_is_its_own_where_the_configuration_says_so(
    tiny: Config, padded_batch: Batch, drawn: list[tuple[tuple[int, ...], float]], tmp_path: Path
) -> None:
    released = BertConfig(**tiny.to_released(), classifier_dropout=0.5)
    released.save_pretrained(tmp_path)
    cfg = Config.from_json(tmp_path / "config.json")
    for kind in (Classifier, lambda cfg: models.Tagger(cfg, 3), models.MultipleChoice):
        kind(cfg).train()(*padded_batch)
        assert drawn[-1][1] == 0.5
        kind(tiny).train()(*padded_batch)
        assert drawn[-1][1] == 0.1
    assert {p for _, p in drawn[:-1]} <= {0.1, 0.5}
    # Both sets of names keep it, and where it is not set both are what they were before.
    assert Config.from_dict(cfg.to_released()) == Config.from_dict(cfg.to_json()) == cfg
    assert cfg.to_released()["classifier_dropout"] == 0.5
    assert "p_drop_classifier" not in tiny.to_json()
    assert "classifier_dropout" not in tiny.to_released()
    # Of a run that was begun before it was read: the usual value is none of its own.
    usual = BertConfig(**tiny.to_released(), classifier_dropout=tiny.p_drop_hidden)
    assert Config.from_dict(usual.to_dict()) == tiny
    with pytest.raises(UserError, match=r"p_drop_classifier=1\.0; expected a probability"):
        Config(p_drop_classifier=1.0)


def test_a_model_of_one_segment_refuses_a_second_text(padded_batch: Batch) -> None:
    ids, segments, mask = padded_batch
    model = Classifier(Config(100, 32, 1, 4, 64, max_len=40, n_segments=1)).eval()
    assert model(ids, segments * 0, mask).isfinite().all()
    with pytest.raises(UserError, match=r"the model has one segment .* pairs of texts need two"):
        model(ids, segments, mask)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"n_layer": 2}', r"unknown key 'n_layer' \(did you mean n_layers\?\)"),
        ('{"dim": 100, "n_heads": 12}', "dim=100 is not divisible by n_heads=12"),
        ('{"dim": "768"}', "dim is '768'; expected int"),
        ('{"p_drop_attn": 1.5}', "p_drop_attn=1.5; expected a probability"),
        ('{"hidden_act": "swish"}', "expected one of gelu, gelu_new, relu"),
        (
            '{"hidden_size": 768, "hidden_actt": "gelu"}',
            r"unknown key 'hidden_actt' \(did you mean hidden_act\?\)",
        ),
        ('{"hidden_size": 768, "model_type": "roberta"}', "model_type is 'roberta'"),
        ('{"hidden_size": 768, "architectures": ["RobertaModel"]}', "architectures is .'RobertaM"),
        (
            '{"hidden_size": 768, "position_embedding_type": "relative_key"}',
            "only 'absolute' is BERT",
        ),
        ('{"n_layers": 0}', "n_layers=0; expected at least 1"),
        ('{"init_std": 0}', "init_std=0; expected more than 0"),
        ('{"hidden_size": 768, "layer_norm_eps": -1}', "norm_eps=-1; expected more than 0"),
        ("[1]", "expected a JSON object"),
        ('{"dim": 1,}', "line 1: not JSON"),
    ],
)
def test_a_wrong_configuration_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        Config.from_json(tmp_path / "c.json")
    assert str(tmp_path / "c.json") in str(error.value)


@pytest.mark.real
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_minilm_equals_transformers(real: Path, dtype: torch.dtype, limit: float) -> None:
    reference = BertModel.from_pretrained(real / "minilm").eval().to(dtype)
    found = checkpoint.read(real / "minilm")
    model = Classifier(found.config).eval()
    checkpoint.load(model, found, fresh=("classifier",))
    model.to(dtype)
    torch.manual_seed(0)
    lengths = torch.randint(2, 129, (16, 1))
    mask = (torch.arange(128) < lengths).long()
    ids, segments = (
        torch.randint(1000, 30000, mask.shape) * mask,
        (torch.arange(128) > lengths // 2).long() * mask,
    )
    with torch.no_grad():
        expected = reference(ids, attention_mask=mask, token_type_ids=segments)
        hidden = model.transformer(ids, segments, mask)
        pooled = model.pool(ids, segments, mask)
    assert (hidden - expected[0])[mask.bool()].abs().max() <= limit
    assert (pooled - expected[1]).abs().max() <= limit


def test_the_names_of_transformers_are_understood_and_its_order_is_refused(
    tiny: Config, padded_batch: tuple
) -> None:
    ids, segments, mask = padded_batch
    for kind, more in (
        (Transformer, {}),
        (models.BertModel, {}),
        (Classifier, {}),
        (models.QuestionAnswering, {}),
        (PretrainModel, {"masked_positions": ids[:, :2] * 0}),
    ):
        torch.manual_seed(0)
        model = kind(tiny).eval()
        expected = model(ids, segments, mask, **more)
        for found in (
            model(input_ids=ids, attention_mask=mask, token_type_ids=segments, **more),
            model(ids, token_type_ids=segments, input_mask=mask, **more),
            model(ids, segment_ids=segments, attention_mask=mask, **more),
        ):
            assert torch.equal(
                torch.cat([t.flatten() for t in found]), torch.cat([t.flatten() for t in expected])
            )
        with pytest.raises(TypeError, match="two names of the same input"):
            model(ids, segments, input_mask=mask, attention_mask=mask, **more)
        for swapped in (segments, torch.zeros_like(ids)):
            with pytest.raises(
                UserError, match="segment_ids begin with 1 and input_mask with 0; the order is"
            ):
                model(ids, mask, swapped, **more)


def test_shapes_beyond_reason_are_refused() -> None:
    for values, message in (
        ({"n_layers": 10**6}, "n_layers=1000000; expected at most 1,000"),
        ({"vocab_size": 10**12}, "vocab_size=1000000000000; expected at most 10,000,000"),
        ({"hidden_size": 64, "num_attention_heads": 4, "is_decoder": True}, "is_decoder is True"),
    ):
        with pytest.raises(UserError, match=message):
            Config.from_dict(values)

"""ProjectedAttention against nn.MultiheadAttention, by itself and inside torch's transformers."""

import copy
import itertools
import warnings

import pytest
import torch
from torch import nn

from paredown.modifiers.decomposition.forms.projected_attention import ProjectedAttention, projected_attention

BATCH, QUERIES, KEYS, HEADS, WIDTH = 3, 4, 5, 2, 8
CAUSAL = nn.Transformer.generate_square_subsequent_mask(KEYS, dtype=torch.float64)
KINDS = {
    "packed": {},
    "no bias": {"bias": False},
    "other widths": {"kdim": 6, "vdim": 10},
    "other widths, no bias": {"kdim": 6, "bias": False},
    "added": {"add_bias_kv": True, "add_zero_attn": True},
    "added keys": {"add_bias_kv": True, "kdim": 6},
    "added zeros": {"add_zero_attn": True, "num_heads": 1},
}


def pair(num_heads=HEADS, **options):
    torch.manual_seed(0)
    old = nn.MultiheadAttention(WIDTH, num_heads, **options).double()
    for parameter in old.parameters():
        nn.init.normal_(parameter, std=0.5)
    return old, projected_attention(old)


def inputs(old, batched=True):
    def one(length, width):
        sizes = (length,) if not batched else (BATCH, length) if old.batch_first else (length, BATCH)
        return torch.randn(*sizes, width, dtype=torch.float64, requires_grad=True)

    return one(QUERIES, WIDTH), one(KEYS, old.kdim), one(KEYS, old.vdim)


def masks(kind, form, heads, batched=True):
    """Of padding or of attention, (N, S), (L, S) or (N x heads, L, S): True, or what is added; never all of a row."""
    shapes = {
        "padding": (BATCH, KEYS) if batched else (KEYS,),
        "2-D": (QUERIES, KEYS),
        "3-D": ((BATCH if batched else 1) * heads, QUERIES, KEYS),
    }
    hidden = torch.rand(shapes[kind]) < 0.4
    hidden[..., 0] = False
    if form == "bool":
        return hidden
    return torch.randn(shapes[kind], dtype=torch.float64).masked_fill(hidden, -torch.inf)


def assert_same(ours, theirs, tolerance=1e-10):
    assert (ours is None) == (theirs is None)
    if ours is not None:
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        assert torch.allclose(ours, theirs, atol=tolerance, rtol=tolerance)


def assert_same_calls(old, new, arguments, **options):
    """The results and all gradients."""
    results, gradients = [], []
    for attention in (old, new):
        torch.manual_seed(1)
        result = attention(*arguments, **options)
        loss = sum(
            (part * torch.arange(part.numel()).reshape(part.shape).sin()).sum() for part in result if part is not None
        )
        attention.zero_grad()
        gradients.append(torch.autograd.grad(loss, arguments, retain_graph=True))
        loss.backward()
        results.append(result)
    for ours, theirs in zip(results[1], results[0], strict=True):
        assert_same(ours, theirs)
    for ours, theirs in zip(gradients[1], gradients[0], strict=True):
        assert_same(ours, theirs)
    for name, theirs in parameter_gradients(old).items():
        assert_same(parameter_gradients(new)[name], theirs)


def parameter_gradients(attention):
    """By the names of ProjectedAttention."""
    found = {name: parameter.grad for name, parameter in attention.named_parameters()}
    for packed, kind in (("in_proj_weight", "weight"), ("in_proj_bias", "bias")):
        if packed in found:
            parts = found.pop(packed).chunk(3)
            found.update({f"{name}_proj.{kind}": part for name, part in zip("qkv", parts, strict=True)})
    return {name.replace("_proj_weight", "_proj.weight"): gradient for name, gradient in found.items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("batched", [False, True])
def test_it_computes_the_same_with_every_mask(kind, batch_first, batched):
    old, new = pair(batch_first=batch_first, **KINDS[kind])
    arguments = inputs(old, batched)
    for padding, attention, need_weights in itertools.product(
        [None, "bool", "float"],
        [None, ("2-D", "bool"), ("2-D", "float"), ("3-D", "bool"), ("3-D", "float")],
        [True, False],
    ):
        if padding and attention and attention[1] != padding:
            continue
        assert_same_calls(
            *(old, new, arguments),
            key_padding_mask=padding and masks("padding", padding, old.num_heads, batched),
            attn_mask=attention and masks(*attention, old.num_heads, batched),
            need_weights=need_weights,
            average_attn_weights=bool(padding),
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("need_weights", [False, True])
def test_the_causal_hint_means_the_same(kind, padded, need_weights):
    old, new = pair(batch_first=True, **KINDS[kind])
    _, keys, values = inputs(old)
    query = torch.randn(BATCH, KEYS, WIDTH, dtype=torch.float64, requires_grad=True)
    padding = masks("padding", "float", HEADS) if padded else None
    for mask in (CAUSAL, torch.zeros_like(CAUSAL)):
        assert_same_calls(
            *(old, new, (query, keys, values)),
            attn_mask=mask,
            is_causal=True,
            key_padding_mask=padding,
            need_weights=need_weights,
        )
    with pytest.raises(RuntimeError, match="attn_mask"):
        new(query, keys, values, is_causal=True)


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_dropout_is_that_of_the_weights(need_weights, batch_first):
    old, new = pair(batch_first=batch_first, dropout=0.5)
    arguments = inputs(old)
    assert_same_calls(old, new, arguments, need_weights=need_weights)
    assert not torch.equal(new(*arguments)[0], new(*arguments)[0])
    old.eval(), new.eval()
    assert torch.equal(new(*arguments)[0], new(*arguments)[0])
    assert_same_calls(old, new, arguments, need_weights=need_weights)


def test_the_fused_path_of_self_attention_gives_the_same():
    old, new = pair(batch_first=True)
    old.eval(), new.eval()
    x = torch.randn(BATCH, KEYS, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        for padding in (None, masks("padding", "bool", HEADS)):
            for ours, theirs in zip(new(x, x, x, padding), old(x, x, x, padding), strict=True):
                assert_same(ours, theirs)


def test_gradients_of_a_learned_mask():
    old, new = pair()
    arguments, mask = inputs(old), masks("2-D", "float", HEADS).requires_grad_()
    for need_weights in (False, True):
        found = [
            torch.autograd.grad(
                attention(*arguments, attn_mask=mask, need_weights=need_weights)[0].square().sum(), mask
            )
            for attention in (new, old)
        ]
        assert_same(found[0][0], found[1][0])


def test_wrong_inputs_are_refused():
    _, new = pair()
    query, key, value = inputs(new)
    for wrong in ({"attn_mask": torch.zeros(QUERIES, 1)}, {"key_padding_mask": torch.zeros(KEYS, BATCH)}):
        with pytest.raises(RuntimeError, match=next(iter(wrong))):
            new(query, key, value, **wrong)
    with pytest.raises(RuntimeError, match="dimensions"):
        new(query[0], key, value)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_conversion_keeps(kind):
    old, _ = pair(batch_first=True, dropout=0.1, **KINDS[kind])
    old.half().eval().requires_grad_(False)
    new = projected_attention(old)
    assert not any(module.training for module in new.modules())
    assert all(p.dtype == torch.float16 and not p.requires_grad for p in new.parameters())
    assert sum(p.numel() for p in new.parameters()) == sum(p.numel() for p in old.parameters())
    assert new.out_proj.weight is old.out_proj.weight
    assert new.bias_k is old.bias_k
    if old.in_proj_weight is None:
        assert new.k_proj.weight is old.k_proj_weight
    else:
        assert new.k_proj.weight.data_ptr() not in [p.data_ptr() for p in old.parameters()]
    for name in ("embed_dim", "kdim", "vdim", "num_heads", "head_dim", "dropout", "batch_first", "add_zero_attn"):
        assert getattr(new, name) == getattr(old, name)
    assert type(new.out_proj) is nn.Linear


def test_copies_and_state():
    _, new = pair(add_bias_kv=True)
    arguments = inputs(new)
    other = projected_attention(nn.MultiheadAttention(WIDTH, HEADS, add_bias_kv=True).double())
    other.load_state_dict(new.state_dict())
    assert {"bias_k", "bias_v", "q_proj.weight", "out_proj.bias"} < set(new.state_dict())
    for same in (other, copy.deepcopy(new)):
        assert torch.equal(same(*arguments)[0], new(*arguments)[0])


def test_autocast():
    old, new = (attention.float() for attention in pair())
    arguments = [tensor.detach().float() for tensor in inputs(old)]
    with torch.autocast("cpu", torch.bfloat16):
        for need_weights in (False, True):
            options = {"need_weights": need_weights, "attn_mask": masks("2-D", "bool", HEADS)}
            for ours, theirs in zip(new(*arguments, **options), old(*arguments, **options), strict=True):
                assert_same(ours, theirs, 0.05)


def test_compile_and_export():
    _, new = pair(batch_first=True, add_zero_attn=True)
    new.eval()
    arguments = tuple(tensor.detach() for tensor in inputs(new))
    options = {"key_padding_mask": masks("padding", "bool", HEADS), "attn_mask": masks("2-D", "bool", HEADS)}
    expected = new(*arguments, **options)
    compiled = torch.compile(new, fullgraph=True, backend="eager")
    exported = torch.export.export(new, arguments, options).module()
    for call in (compiled, exported):
        for ours, theirs in zip(call(*arguments, **options), expected, strict=True):
            assert_same(ours, theirs)


def test_export_of_a_batch_of_any_size():
    _, new = pair(batch_first=True)
    new.eval()
    x, batch = torch.randn(BATCH, KEYS, WIDTH, dtype=torch.float64), torch.export.Dim("batch", min=1, max=64)
    shapes = {"query": {0: batch}, "key": {0: batch}, "value": {0: batch}, "need_weights": None}
    exported = torch.export.export(new, (x, x.clone(), x.clone()), {"need_weights": False}, dynamic_shapes=shapes)
    more = torch.cat([x, x, x])
    assert_same(exported.module()(more, more, more, need_weights=False)[0], new(more, more, more)[0])


def factorized(linear):
    """Two layers that compute what one does, exactly."""
    left, right = (
        nn.Linear(linear.out_features, linear.out_features),
        nn.Linear(linear.in_features, linear.out_features, bias=False),
    )
    nn.init.eye_(left.weight)
    right.weight, left.bias = linear.weight, linear.bias
    return nn.Sequential(right, left).to(linear.weight)


def decomposed(model, attention=True, feedforward=True):
    """A copy in which every attention is projected, and all its linear layers are pairs; torch's fused paths are off."""
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if attention and isinstance(module, nn.MultiheadAttention):
            new = projected_attention(module)
            for key in ("q_proj", "k_proj", "v_proj", "out_proj"):
                setattr(new, key, factorized(getattr(new, key)))
            model.set_submodule(name, new)
        if isinstance(module, nn.TransformerEncoderLayer) and feedforward:
            module.activation_relu_or_gelu = 0
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False
    for module in list(model.modules()):
        if feedforward and isinstance(module, (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)):
            module.linear1, module.linear2 = factorized(module.linear1), factorized(module.linear2)
    return model.train(model.training)


def encoder(batch_first, norm_first=False, activation="relu"):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(
        WIDTH, HEADS, 16, 0.0, activation, batch_first=batch_first, norm_first=norm_first
    )
    nested = batch_first and not norm_first
    return nn.TransformerEncoder(layer, 2, nn.LayerNorm(WIDTH), enable_nested_tensor=nested).double()


@pytest.mark.filterwarnings("ignore:.*nested tensors")
@pytest.mark.parametrize(("attention", "feedforward"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("norm_first", [False, True])
def test_inside_an_encoder(attention, feedforward, batch_first, norm_first):
    old = encoder(batch_first, norm_first, "gelu")
    new = decomposed(old, attention, feedforward)
    x = torch.randn(*((BATCH, KEYS) if batch_first else (KEYS, BATCH)), WIDTH, dtype=torch.float64)
    ragged = torch.arange(KEYS) >= torch.tensor([KEYS, 3, 4])[:, None]
    shown = ~ragged if batch_first else ~ragged.T
    every = [{}, {"src_key_padding_mask": ragged}, {"mask": CAUSAL}, {"mask": CAUSAL, "is_causal": True}]
    for training, options, gradients in itertools.product([False, True], every, [False, True]):
        with torch.set_grad_enabled(gradients):
            theirs, ours = old.train(training)(x, **options), new.train(training)(x, **options)
        if "src_key_padding_mask" in options:
            theirs, ours = theirs[shown], ours[shown]
        assert_same(ours, theirs)


def test_a_layer_by_itself_calls_the_projections():
    old = encoder(True).layers[0].eval()
    new = copy.deepcopy(old)
    new.self_attn = projected_attention(new.self_attn)
    called = []
    new.self_attn.q_proj.register_forward_hook(lambda *_: called.append(1))
    x = torch.randn(BATCH, KEYS, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        assert_same(new(x), old(x))
    assert called


@pytest.mark.parametrize("batch_first", [False, True])
def test_inside_a_transformer(batch_first):
    torch.manual_seed(0)
    with warnings.catch_warnings(action="ignore"):
        old = nn.Transformer(WIDTH, HEADS, 1, 2, 16, 0.0, batch_first=batch_first).double()
    new = decomposed(old)
    source, target = torch.randn(2, BATCH, KEYS, WIDTH, dtype=torch.float64)
    ragged = torch.arange(KEYS) >= torch.tensor([KEYS, 3, 4])[:, None]
    if not batch_first:
        source, target = source.transpose(0, 1), target.transpose(0, 1)
    options = {"tgt_mask": CAUSAL.isinf(), "src_key_padding_mask": ragged, "memory_key_padding_mask": ragged}
    for training in (False, True):
        old.train(training), new.train(training)
        assert_same(new(source, target, **options), old(source, target, **options))
        with torch.no_grad():
            assert_same(new(source, target, **options), old(source, target, **options))


def test_nested_tensors_are_refused_in_words():
    model = encoder(True).eval()
    for layer in model.layers:
        layer.self_attn = projected_attention(layer.self_attn)
    ragged = torch.arange(KEYS) >= torch.tensor([KEYS, 3, 4])[:, None]
    x = torch.randn(BATCH, KEYS, WIDTH, dtype=torch.float64)
    with (
        torch.no_grad(),
        warnings.catch_warnings(action="ignore"),
        pytest.raises(RuntimeError, match="use_nested_tensor"),
    ):
        model(x, src_key_padding_mask=ragged)


def test_it_tells_its_sizes():
    assert "embed_dim=8, num_heads=2" in repr(pair()[1])
    assert isinstance(pair()[1], ProjectedAttention)

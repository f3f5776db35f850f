"""A MultiheadAttention that is written out computes what torch's does."""

import pytest
import torch
from torch import nn

from paredown.modifiers.quantization.layers.attention import AttentionOutputs, Projections, attention_in
from paredown.modifiers.quantization.layers.quantizers import ActivationQuantizer
from paredown.modifiers.quantization.numbers.scheme import ActivationScheme

CAUSAL = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1)
PADDING = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])


@pytest.mark.parametrize(
    ("settings", "call"),
    [
        ({"batch_first": True}, {}),
        ({}, {"need_weights": False}),
        ({"batch_first": True, "bias": False}, {"attn_mask": CAUSAL, "need_weights": False}),
        ({"batch_first": True}, {"key_padding_mask": PADDING}),
        ({"batch_first": True}, {"attn_mask": torch.randn(8, 5, 5).double(), "average_attn_weights": False}),
        ({"batch_first": True, "kdim": 12, "vdim": 20}, {"average_attn_weights": False}),
        ({"batch_first": True, "add_bias_kv": True}, {}),  # left to torch
    ],
)
def test_it_is_torch_s(settings, call):
    torch.manual_seed(0)
    model = nn.MultiheadAttention(16, 4, **settings).double().eval()
    sizes = (16, model.kdim, model.vdim)
    given = [torch.randn(2, 5, size).double() for size in sizes]
    if model._qkv_same_embed_dim and "add_bias_kv" not in settings:
        given = [given[0]] * 3
    given = given if settings.get("batch_first") else [each.transpose(0, 1) for each in given]
    with torch.no_grad():
        want = model(*given, **call)
        with attention_in(Projections()):
            got = model(*given, **call)
    torch.testing.assert_close(got[0], want[0])
    assert (got[1] is None) == (want[1] is None)
    if want[1] is not None:
        torch.testing.assert_close(got[1], want[1])


def test_without_a_batch():
    model, x = nn.MultiheadAttention(16, 4).eval(), torch.randn(5, 16)
    with torch.no_grad(), attention_in(Projections()):
        got = model(x, x, x)
    want = model(x, x, x)
    assert got[1].shape == want[1].shape
    torch.testing.assert_close(got[0], want[0])


def test_what_goes_into_the_output_is_rounded():
    torch.manual_seed(0)
    model, x = nn.MultiheadAttention(16, 4, bias=False, batch_first=True).eval(), torch.randn(2, 5, 16)
    model.out_proj.weight = nn.Parameter(torch.eye(16))
    link = AttentionOutputs(ActivationQuantizer(ActivationScheme(bits=4, observer="minmax"), dynamic=True))
    result = link.around(nn.MultiheadAttention.forward, model, x, x, x)[0]
    assert len(result.unique()) <= 16

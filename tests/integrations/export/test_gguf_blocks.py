"""Blocks of ggml, unpacked by the package gguf."""

import pytest
import torch

from paredown.framework.errors import ExportError
from paredown.integrations.export.gguf_blocks import blocks_of, floats_of, reason_not_to_store
from paredown.integrations.export.stored_weights import StoredWeight
from paredown.modifiers.quantization.numbers.scheme import WeightScheme

gguf = pytest.importorskip("gguf")


def unpacked(stored):
    return torch.from_numpy(gguf.dequantize(stored.data.numpy(), gguf.GGMLQuantizationType[stored.kind]))


def weight(bits, scale, group=0):
    codes = torch.randint(-(1 << bits - 1), 1 << bits - 1, (6, 128), dtype=torch.int8)
    return StoredWeight(codes, scale, None, 1 if group else 0, group, (6, 128), bits)


@pytest.mark.parametrize(("bits", "kind"), [(2, "Q4_0"), (4, "Q4_0"), (5, "Q8_0"), (8, "Q8_0")])
@pytest.mark.parametrize("group", [32, 64])
def test_all_codes_come_back_bit_for_bit(bits, kind, group):
    scale = torch.rand(6, 128 // group).half().float()
    given = weight(bits, scale, group)
    stored = blocks_of(given)
    assert (stored.kind, stored.exact) == (kind, True)
    assert torch.equal(unpacked(stored), given.codes * scale.repeat_interleave(group, 1))


@pytest.mark.parametrize("shape", [(), (6,)])
def test_a_scale_of_a_channel_or_of_all_is_repeated(shape):
    scale = torch.rand(shape).half().float()
    given = weight(8, scale)
    assert torch.equal(unpacked(blocks_of(given)), given.codes * scale.reshape(-1, 1))


def test_scales_that_float16_does_not_hold():
    assert not blocks_of(weight(4, torch.full((6,), 0.1))).exact
    with pytest.raises(ExportError, match="too large for float16: 1e\\+06"):
        blocks_of(weight(4, torch.full((6,), 1e6)))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32])
def test_floats_keep_their_type_and_vectors_are_float32(kind):
    matrix = torch.randn(4, 6).to(kind)
    assert torch.equal(unpacked(floats_of(matrix, None)), matrix.float())
    assert floats_of(matrix[0], torch.float16).kind == "F32"
    assert not floats_of(torch.randn(4, 6), torch.bfloat16).exact


@pytest.mark.parametrize(
    ("fields", "columns", "why"),
    [
        ({"format": "fp8_e4m3"}, 64, "format fp8_e4m3"),
        ({"bits": 4, "symmetric": False}, 64, "zero point"),
        ({"bits": 4, "group_size": 48}, 96, "group_size is 48"),
        ({"bits": 4}, 48, "rows of 48 weights"),
        ({"bits": 4, "group_size": 64}, 128, None),
        ({"bits": 8, "block": (4, 32)}, 128, None),
    ],
)
def test_what_they_do_not_hold_is_named(fields, columns, why):
    reason = reason_not_to_store(WeightScheme(**fields), columns)
    assert reason is None if why is None else why in reason

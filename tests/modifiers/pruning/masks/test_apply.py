"""Masks: exact counts, bits left alone, any layout."""

import math

import pytest
import torch
from torch import nn

from paredown.modifiers.pruning.masks.apply import (
    apply_masks_,
    empty_mask,
    fast_mask,
    mask_of,
    prune_smallest_,
    to_bool,
)
from paredown.modifiers.pruning.selection.select import smallest

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("form", ["fast", "compact"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed", "strided"])
def test_pruning_zeroes_the_smallest_and_nothing_else(form, dtype, layout):
    torch.manual_seed(0)
    weights = [(torch.randn(16, 8, 3, 3) * 4).round().div(4).to(dtype), torch.randn(40, 30).to(dtype)]
    weights[0] = {
        "contiguous": lambda w: w,
        "channels_last": lambda w: w.to(memory_format=torch.channels_last),
        "transposed": lambda w: w.transpose(0, 1),
        "strided": lambda w: w[:, ::2],
    }[layout](weights[0])
    before = [weight.clone() for weight in weights]
    total = sum(weight.numel() for weight in weights)
    for count in (0, 1, total // 2, total - 1, total):
        pruned = smallest(before, count)
        weights = [weight.copy_(old) for weight, old in zip(weights, before, strict=True)]
        masks = prune_smallest_(weights, count, form=form)
        for weight, old, mask, marks in zip(weights, before, masks, pruned, strict=True):
            assert torch.equal(to_bool(mask), ~marks)
            assert torch.equal(weight, old.masked_fill(marks, 0))


@pytest.mark.parametrize("form", ["fast", "compact"])
def test_masks_of_an_earlier_call_are_reused(form):
    weights = [torch.randn(100_000), torch.randn(300, 30).t()]
    masks = prune_smallest_(weights, 50_000, form=form)
    again = prune_smallest_(weights, 80_000, form=form, out=masks)
    assert all(a is b for a, b in zip(masks, again, strict=True))
    assert sum(int((weight == 0).sum()) for weight in weights) == 80_000
    assert sum(int((~to_bool(mask)).sum()) for mask in masks) == 80_000


def test_mixed_widths_share_one_threshold():
    weights = [torch.randn(1000).half(), torch.randn(1000), torch.randn(1000).double()]
    marks = smallest(weights, 2000)
    masks = prune_smallest_(weights, 2000)
    assert [mask.dtype for mask in masks] == [torch.int16, torch.int32, torch.int64]
    assert all(torch.equal(to_bool(mask), ~mark) for mask, mark in zip(masks, marks, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", ["fast", "compact"])
def test_applying_keeps_every_other_bit_and_clears_nan(dtype, form):
    weight = torch.tensor([math.nan, math.inf, -0.0, 1.5, -2.0, math.nan, 6e-8, -math.inf]).to(dtype)
    keep = torch.tensor([False, False, True, True, False, True, True, True])
    held = weight.clone()
    apply_masks_([held], [keep if form == "compact" else fast_mask(keep, dtype)])
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    assert torch.equal(held.view(integer), weight.view(integer) * keep)


@pytest.mark.parametrize("form", ["fast", "compact"])
def test_applying_to_a_channels_last_parameter(form):
    weight = nn.Parameter(torch.randn(64, 64, 3, 3).to(memory_format=torch.channels_last))
    keep = torch.rand(weight.shape) < 0.3
    mask = empty_mask(weight, form)
    mask.copy_(keep if form == "compact" else fast_mask(keep))
    assert mask.stride() == weight.stride()
    old = weight.detach().clone()
    apply_masks_([weight, weight], [mask, keep])
    assert torch.equal(weight, old * keep)
    assert weight.requires_grad


@pytest.mark.parametrize("form", ["fast", "compact"])
def test_mask_of_the_zeros_that_are_there(form):
    weight = torch.randn(8, 4, 3, 3).relu().to(memory_format=torch.channels_last)
    weight[0, 0, 0, 0] = math.nan
    mask = mask_of(nn.Parameter(weight), form)
    assert mask.dtype == (torch.int32 if form == "fast" else torch.bool)
    assert torch.equal(to_bool(mask), weight != 0)

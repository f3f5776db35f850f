"""AdaRound against every rounding there is, where these can be counted."""

import itertools

import pytest
import torch
from sample_models import batches, conv_net, recipe_of

from paredown import Recipe, ScheduledManager
from paredown.modifiers.quantization.adaround import adaround_weight
from paredown.modifiers.quantization.layers.stored import Grid
from paredown.modifiers.quantization.numbers.fake_quantize import fake_quantize
from paredown.modifiers.quantization.numbers.scales import weight_parameters
from paredown.modifiers.quantization.numbers.scheme import WeightScheme


def result_error(new, weight, moments):
    return torch.einsum("oi,ij,oj->", (new - weight).double(), moments.double(), (new - weight).double()).item()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("symmetric", [True, False])
def test_near_the_best_of_all_roundings(seed, symmetric):
    torch.manual_seed(seed)
    n, scheme = 9, WeightScheme(bits=3, symmetric=symmetric)
    x = torch.randn(300, n) @ (torch.randn(n, n) / 2 + 0.3)
    moments = x.T @ x / len(x)
    weight = torch.randn(1, n)
    weight[0, 2] = 0
    grid = Grid(*weight_parameters(weight, scheme))
    floor = (weight / grid.scale).floor()
    low, high = scheme.lowest - grid.zero_point, scheme.highest - grid.zero_point
    every = []
    for up in itertools.product((0.0, 1.0), repeat=n):
        values = (floor + torch.tensor([up])).clamp(low, high) * grid.scale * (weight != 0)
        every.append(result_error(values, weight, moments))
    nearest = fake_quantize(weight, grid.scale, grid.zero_point, scheme)
    got = adaround_weight(weight, moments[None], grid, scheme, iterations=1000)
    error = result_error(got, weight, moments)
    assert error <= result_error(nearest, weight, moments) * (1 + 1e-6)
    assert error >= min(every) * (1 - 1e-5) - 1e-9
    assert error <= sorted(every)[len(every) // 50]  # among the best two in a hundred
    assert got[0, 2] == 0


def test_on_a_network_the_output_moves_less_than_by_rounding_to_the_nearest():
    data = [(x.cumsum(2) / 4,) for x, _ in batches(6, image=True)]
    moved = {}
    for kind in ("weight_quantization", "adaround"):
        model = conv_net()
        want = model.eval()(data[0][0])
        fields = {"type": kind, "weights": {"bits": 3, "granularity": "channel"}}
        ScheduledManager(Recipe.load(recipe_of(1, q=fields))).apply(model, data=data)
        moved[kind] = (model(data[0][0]) - want).norm().item()
    assert moved["adaround"] < 0.8 * moved["weight_quantization"]

"""The histogram against counting by hand, and what is read off it against brute force."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from paredown.modifiers.quantization.numbers.fake_quantize import fake_quantize
from paredown.modifiers.quantization.numbers.histogram import BINS, SOLVERS, count_, percentile_range
from paredown.modifiers.quantization.numbers.observers import Observation
from paredown.modifiers.quantization.numbers.scheme import ActivationScheme


def histogram_of(batches):
    counts, width = torch.zeros(BINS, dtype=torch.int64), torch.zeros(())
    for batch in batches:
        count_(counts, width, batch, batch.abs().max())
    return counts, width


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.floats(-1e4, 1e4, width=32, allow_subnormal=False), min_size=1, max_size=30), min_size=1, max_size=6
    ),
    st.randoms(),
)
def test_counts_are_exact_and_know_no_order(batches, random):
    counts, width = histogram_of([torch.tensor(batch) for batch in batches])
    everything = torch.tensor([value for batch in batches for value in batch])
    edges = np.arange(-BINS // 2, BINS // 2 + 1) * (2.0 * width.item() / BINS)
    assert np.array_equal(counts.numpy(), np.histogram(everything.double().numpy(), edges)[0])
    assert width > everything.abs().max()
    shuffled = [value for batch in batches for value in batch]
    random.shuffle(shuffled)
    again, other = histogram_of([torch.tensor([value]) for value in shuffled])
    assert torch.equal(counts, again)
    assert width == other


@pytest.mark.parametrize("symmetric", [True, False])
def test_percentiles_to_the_width_of_a_bin(symmetric):
    torch.manual_seed(0)
    x = torch.randn(40_000) * 2 + 0.5
    scheme = ActivationScheme(observer="percentile", percentile=99.0, symmetric=symmetric)
    counts, width = histogram_of(x.split(7000))
    low, high = percentile_range(counts, width, scheme)
    resolution = 2 * width / BINS * 1.01
    if symmetric:
        assert abs(high - x.abs().quantile(0.99)) < resolution
        assert low == -high
    else:
        assert abs(high - x.quantile(0.995)) < resolution
        assert abs(low - x.quantile(0.005)) < resolution


@pytest.mark.parametrize("bits", [8, 4])
def test_least_squares_beats_the_extremes_on_a_long_tail(bits):
    torch.manual_seed(0)
    x = torch.cat([torch.randn(50_000), torch.tensor([40.0])])
    errors = {}
    for observer in ("minmax", "mse"):
        scheme = ActivationScheme(bits=bits, observer=observer)
        seen = Observation.unseen(scheme)
        seen.observe(x, scheme)
        errors[observer] = (fake_quantize(x, *seen.solved(scheme), scheme) - x).square().mean().item()
    ends = [(x.min() * a, x.max() * b) for a in np.linspace(0.3, 1, 36) for b in np.linspace(0.05, 1, 60)]
    scheme = ActivationScheme(bits=bits)
    best = min(_squared_error(x, low, high, scheme) for low, high in ends)
    assert errors["mse"] < errors["minmax"] * (0.99 if bits == 8 else 0.8)
    if bits == 8:
        assert errors["mse"] < 1.5 * best


def _squared_error(x, low, high, scheme):
    from paredown.modifiers.quantization.numbers.scales import affine_parameters

    return (fake_quantize(x, *affine_parameters(low, high, scheme), scheme) - x).square().mean().item()


def test_entropy_clips_outliers_and_keeps_the_bulk():
    torch.manual_seed(0)
    scheme = ActivationScheme(bits=4, observer="histogram", symmetric=True)
    seen = Observation.unseen(scheme)
    x = torch.cat([torch.randn(100_000), torch.full((3,), 60.0)])
    seen.observe(x, scheme)
    low, high = SOLVERS["histogram"](seen.counts, seen.width, scheme)
    assert 2 < high < 40
    uniform = torch.rand(100_000) * 2 - 1
    other = Observation.unseen(scheme)
    other.observe(uniform, scheme)
    assert SOLVERS["histogram"](other.counts, other.width, scheme)[1] > 0.9


def _activations(kind, n):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, generator=generator)
    if kind == "mostly zeros":
        return torch.where(torch.rand(n, generator=generator) < 0.9, 0.0, x)
    shapes = {"relu": torch.relu, "relu6": lambda x: nn.functional.relu6(4 * x), "gelu": nn.functional.gelu}
    return shapes[kind](x)


@pytest.mark.parametrize("count", [4_000, 130_000])
@pytest.mark.parametrize("kind", ["mostly zeros", "relu", "relu6", "gelu"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_entropy_keeps_the_range_of_what_is_zero_or_near_it_for_the_most_part(kind, count, symmetric):
    x = _activations(kind, count)
    errors = {}
    for observer in ("mse", "histogram"):
        scheme = ActivationScheme(observer=observer, symmetric=symmetric)
        seen = Observation.unseen(scheme)
        seen.observe(x, scheme)
        errors[observer] = (fake_quantize(x, *seen.solved(scheme), scheme) - x).square().mean().item()
    assert errors["histogram"] < 2 * errors["mse"]


@pytest.mark.parametrize("observer", SOLVERS)
@pytest.mark.parametrize("x", [torch.zeros(10), torch.full((10,), 3.0), torch.full((10,), -1e-30)])
def test_constant_tensors_give_a_scale(observer, x):
    scheme = ActivationScheme(observer=observer)
    seen = Observation.unseen(scheme)
    seen.observe(x, scheme)
    scale, zero_point = seen.solved(scheme)
    assert scale > 0
    assert torch.isfinite(scale)
    assert torch.allclose(fake_quantize(x, scale, zero_point, scheme), x, rtol=0.02, atol=1e-6)


@pytest.mark.parametrize("observer", SOLVERS)
def test_the_observation_compiles(observer):
    scheme = ActivationScheme(observer=observer)
    x = torch.randn(1000)
    ends = []
    for compiled in (False, True):
        seen = Observation.unseen(scheme)
        step = lambda x, seen=seen: seen.observe(x, scheme)  # noqa: E731
        (torch.compile(step, fullgraph=True, backend="eager") if compiled else step)(x)
        ends.append(seen)
    assert torch.equal(ends[0].counts, ends[1].counts)
    assert ends[0].low == ends[1].low

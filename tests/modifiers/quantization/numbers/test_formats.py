"""Small floating-point formats against torch's own casts and against the list of all their numbers."""

import pytest
import torch

from paredown.modifiers.quantization.numbers.formats import (
    FLOAT_FORMATS,
    float_codes,
    round_float_,
    round_integer_,
    values_of,
)

TORCH = {"fp8_e4m3": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}
FP4 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]


def numbers_of(name):
    """Every finite number of a format, in order; fp4 by its definition, fp8 by torch's."""
    if name == "fp4_e2m1":
        return torch.tensor(sorted({*FP4, *(-value for value in FP4)}))
    every = torch.arange(256, dtype=torch.uint8).view(TORCH[name]).float()
    return every[torch.isfinite(every)].unique()


@pytest.mark.parametrize("name", FLOAT_FORMATS)
def test_nearest_number_ties_to_even(name):
    numbers = numbers_of(name)
    torch.manual_seed(0)
    x = torch.cat([torch.randn(5000), torch.randn(5000) * numbers.max() / 3, (numbers[1:] + numbers[:-1]) / 2, numbers])
    got = round_float_(x.clone(), FLOAT_FORMATS[name])
    nearest = (x.clamp(numbers.min(), numbers.max())[:, None].double() - numbers.double()).abs()
    assert torch.isin(got, numbers).all()
    assert torch.equal((got.double() - x.clamp(numbers.min(), numbers.max()).double()).abs(), nearest.min(1).values)
    if name in TORCH:
        inside = x.abs() <= numbers.max()
        assert torch.equal(got[inside], x[inside].to(TORCH[name]).float())


def test_fp4_ties():
    x = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, -0.25, -5.0, 7.0])
    assert round_float_(x, FLOAT_FORMATS["fp4_e2m1"]).tolist() == [0, 1, 1, 2, 2, 4, 4, 0, -4, 6]


@pytest.mark.parametrize("name", FLOAT_FORMATS)
def test_codes_and_back(name):
    numbers = numbers_of(name)
    codes = float_codes(numbers, name)
    assert codes.dtype == torch.uint8
    assert int(codes.max()) < 2 ** FLOAT_FORMATS[name].bits
    assert torch.equal(values_of(codes, name), numbers)


def test_stochastic_rounding_is_unbiased():
    torch.manual_seed(0)
    for value in (0.3, -1.75):
        drawn = round_integer_(torch.full((200_000,), value), stochastic=True)
        assert set(drawn.unique().tolist()) == {float(torch.tensor(value).floor()), float(torch.tensor(value).ceil())}
        assert abs(drawn.mean().item() - value) < 0.005
    eighth = round_float_(torch.full((200_000,), 1.03), FLOAT_FORMATS["fp8_e4m3"], stochastic=True)
    assert set(eighth.unique().tolist()) == {1.0, 1.125}
    assert abs(eighth.mean().item() - 1.03) < 0.002

"""The small floating-point formats, and rounding to their numbers or to integers.

Rounding to a format is done by arithmetic on the exponent, in any float type, so that it runs on every device and
rounds stochastically as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["FLOAT_FORMATS", "FloatFormat", "float_codes", "round_float_", "round_integer_", "values_of"]


@dataclass(frozen=True)
class FloatFormat:
    """A floating-point format with a sign: width, bits of the mantissa, least normal exponent, largest number."""

    bits: int
    mantissa: int
    least_exponent: int
    largest: float


#: e4m3 and e5m2: Micikevicius et al., 2022, arXiv:2209.05433; e2m1: OCP Microscaling Formats 1.0 (arXiv:2310.10537)
FLOAT_FORMATS: Mapping[str, FloatFormat] = {  # a plain dict: dynamo breaks the graph at a mappingproxy
    "fp8_e4m3": FloatFormat(8, 3, -6, 448.0),
    "fp8_e5m2": FloatFormat(8, 2, -14, 57344.0),
    "fp4_e2m1": FloatFormat(4, 1, 0, 6.0),
}
_TORCH = {"fp8_e4m3": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}
_FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def round_integer_(x: Tensor, stochastic: bool = False) -> Tensor:
    """Round in place: to the nearest integer, ties to even, or up with the probability of the remainder."""
    return x.add_(torch.rand_like(x)).floor_() if stochastic else x.round_()


def round_float_(x: Tensor, form: FloatFormat, stochastic: bool = False) -> Tensor:
    """Round in place to the numbers of a format, ties to even; beyond the largest, to the largest."""
    x.clamp_(-form.largest, form.largest)
    exponent = torch.frexp(x.detach())[1] - 1
    step = torch.exp2((exponent.clamp(min=form.least_exponent) - form.mantissa).to(x.dtype))
    return round_integer_(x.div_(step), stochastic).mul_(step).clamp_(-form.largest, form.largest)


def float_codes(numbers: Tensor, name: str) -> Tensor:
    """The bit patterns, uint8, of numbers that lie in the format (fp4: 0 to 15, the sign is the highest bit)."""
    if name in _TORCH:
        return numbers.to(_TORCH[name]).view(torch.uint8)
    table = torch.tensor(_FP4, dtype=numbers.dtype, device=numbers.device)
    index = torch.searchsorted(table, numbers.abs().contiguous())
    return (index + 8 * torch.signbit(numbers)).to(torch.uint8)


def values_of(codes: Tensor, name: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """The numbers of bit patterns: the inverse of `float_codes`."""
    if name in _TORCH:
        return codes.view(_TORCH[name]).to(dtype)
    table = torch.tensor((*_FP4, *(-value for value in _FP4)), dtype=dtype, device=codes.device)
    return table[codes.long()]

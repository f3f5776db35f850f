"""Schemes: how numbers are quantized, their width, their grid, and which of them share a scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, Strict, model_validator

from paredown.framework.modifier.fields import Options
from paredown.modifiers.quantization.numbers.formats import FLOAT_FORMATS

__all__ = ["ActivationScheme", "Bits", "QuantizationScheme", "WeightScheme", "same_grid"]

Bits = Annotated[int, Strict(), Field(ge=2, le=8)]
Size = Annotated[int, Strict(), Field(ge=1)]
Format = Literal["int", "fp8_e4m3", "fp8_e5m2", "fp4_e2m1"]
Percentile = Annotated[float, Strict(), Field(gt=50, le=100, allow_inf_nan=False)]
S = TypeVar("S", bound="QuantizationScheme")
#: what applies to one granularity only, with what it is then
SIZES = {"group_size": "group", "block": "block"}


class QuantizationScheme(Options):
    """Numbers q that stand for x = S (q - Z), with scale S and zero point Z (Jacob et al., 2017, arXiv:1712.05877).

    Symmetric: Z = 0 and q in [-(2^(b-1) - 1), 2^(b-1) - 1], the narrow range, so that -x is representable where x is.
    Affine: q in [0, 2^b - 1]; zero is always exactly on the grid. The floating-point formats are symmetric; their q are
    the numbers of the format, and what lies beyond the largest becomes the largest.
    """

    bits: Bits | Literal["auto"] = 8
    """Width of the numbers, 2 to 8. Default: the format's (8 for integers)."""
    format: Format = "int"
    """How the bits are read: integers, fp8 (arXiv:2209.05433) or fp4 (OCP Microscaling Formats 1.0)."""
    granularity: Literal["tensor", "channel", "group", "block", "token"] = "tensor"
    """What shares a scale."""
    symmetric: bool = True
    """Zero point 0 and a range around it; otherwise the range is used in full."""
    narrow: bool = True
    """For symmetric integers: leave out -2^(b-1). Otherwise the scale is 2 absmax / (2^b - 1), as in llm-compressor."""
    rounding: Literal["nearest", "stochastic"] = "nearest"
    """To the nearest, ties to even; or, in training, up with the probability of the remainder (arXiv:1502.02551), drawn
    from torch's generator as dropout does."""
    observer: str = "minmax"
    """How the range is found from the values that were seen."""
    percentile: Percentile = 99.99
    """For ``observer: percentile``: the share of values, in percent, that lies inside of the range."""

    @model_validator(mode="before")
    @classmethod
    def _completed(cls, given: Any) -> Any:
        return _completed(given) if isinstance(given, Mapping) else given

    @model_validator(mode="after")
    def _consistent(self) -> QuantizationScheme:
        if self.format != "int":
            self._check_float()
        if "percentile" in self.model_fields_set and self.observer != "percentile":
            raise ValueError(f"percentile is for observer: percentile, and the observer is {self.observer!r}")
        return self

    def _check_float(self) -> None:
        width = FLOAT_FORMATS[self.format].bits
        if self.bits != width:
            raise ValueError(f"format {self.format} has {width} bits, and bits is {self.bits}: leave bits out")
        if not self.symmetric:
            raise ValueError(f"format {self.format} has no zero point: it is symmetric")

    @property
    def width(self) -> int:
        """The width; the widest where it is still to be chosen."""
        return 8 if self.bits == "auto" else self.bits

    def at_width(self: S, bits: int) -> S:
        """The same scheme at another width."""
        return self.model_copy(update={"bits": bits})

    @property
    def lowest(self) -> int:
        """The smallest integer."""
        if not self.symmetric:
            return 0
        return -self.highest if self.narrow else -self.highest - 1

    @property
    def highest(self) -> int:
        """The largest integer."""
        return (1 << self.width - 1) - 1 if self.symmetric else (1 << self.width) - 1

    @property
    def half_range(self) -> float:
        """What a symmetric grid's largest magnitude is divided by to give the scale."""
        if self.format != "int":
            return FLOAT_FORMATS[self.format].largest
        return float(self.highest) if self.narrow else (2.0**self.width - 1) / 2


class WeightScheme(QuantizationScheme):
    """How weights are quantized; by default int8, symmetric, with a scale for each output channel."""

    bits: Bits | Literal["auto"] = 8
    """Width of the numbers, 2 to 8; ``auto``: chosen for each layer, under the modifier's ``budget``. Default: the
    format's (8 for integers)."""
    granularity: Literal["tensor", "channel", "group", "block"] = "channel"
    """What shares a scale: the whole weight; each output channel; ``group_size`` consecutive weights of an output
    channel; a ``block`` of rows and columns."""
    group_size: Size | None = None
    """Weights in a group, for ``granularity: group`` (implied): it divides the weights of an output channel. Default:
    128; 32 for fp4."""
    block: tuple[Size, Size] | None = None
    """Rows and columns of a block, for ``granularity: block`` (implied). Default: [128, 128]."""
    scales: Literal["float", "float16", "power_of_two", "fp8_e4m3"] = "float"
    """What a scale may be: any number (of float16 where the recipe's engine stores that), one of float16, a power of
    two (MXFP4), or an fp8 number times the weight's own factor (NVFP4)."""
    observer: Literal["minmax", "percentile", "mse"] = "minmax"
    """``minmax``: the largest magnitude, at every step; ``percentile``, ``mse``: searched for when the weight is first
    quantized and at every update, and held in between; ``mse`` minimises the squared error."""


class ActivationScheme(QuantizationScheme):
    """How a layer's inputs are quantized; by default uint8, affine, from a moving average of the ranges of batches.

    Affine uint8 is the default because a rectified input then uses all 256 values and because inference engines fuse
    the rectifier into it (zero point 0).
    """

    bits: Bits = 8
    """Width of the numbers, 2 to 8. Default: the format's (8 for integers)."""
    granularity: Literal["tensor", "token"] = "tensor"
    """What shares a scale: the whole tensor, or, where the scale is found at run time, each token (the last
    dimension)."""
    symmetric: bool = False
    """Zero point 0 and a range around it; otherwise the range is used in full."""
    observer: Literal["minmax", "moving_average", "percentile", "histogram", "mse"] = "moving_average"
    """``minmax``: the extremes of all batches; ``moving_average``: of their extremes, with momentum 0.01;
    ``percentile``, ``histogram`` (least Kullback-Leibler divergence) and ``mse`` (least squared error): from a
    histogram of everything that was seen, at every update."""


def same_grid(one: WeightScheme, other: WeightScheme) -> bool:
    """Whether two schemes mean the same numbers, however their scale is found and values are rounded to them."""
    ways = {"observer", "percentile", "rounding"}
    return one.model_dump(exclude=ways) == other.model_dump(exclude=ways)


def _completed(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that follow from others: the granularity from its size, the width and symmetry from the format."""
    fields = dict(given)
    for size, granularity in SIZES.items():
        if fields.get(size) is not None and fields.setdefault("granularity", granularity) != granularity:
            raise ValueError(
                f"{size} is for granularity: {granularity}, and the granularity is {fields['granularity']}"
            )
    form = FLOAT_FORMATS.get(fields.get("format", "int"))
    if form is not None:
        fields.setdefault("bits", form.bits)
        fields.setdefault("symmetric", True)
    if fields.get("granularity") == "group":
        default = 32 if form is not None and form.bits == 4 else 128
        fields["group_size"] = default if fields.get("group_size") is None else fields["group_size"]
    if fields.get("granularity") == "block":
        fields["block"] = fields.get("block") or (128, 128)
    return fields

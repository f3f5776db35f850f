"""What a plan says of a layer that is quantized, and of the results that are rounded beside it."""

from __future__ import annotations

from paredown.framework.model.graph.results import Result
from paredown.modifiers.quantization.layers.schemes import LayerSchemes
from paredown.modifiers.quantization.numbers.scheme import WeightScheme

__all__ = ["bits_of", "effects_of", "named_result"]


def effects_of(schemes: LayerSchemes, dynamic: bool) -> list[str]:
    """Of a layer's schemes, a text a part.

    >>> effects_of(LayerSchemes(WeightScheme(bits=4, group_size=32), None), dynamic=False)
    ['4-bit weights per group']
    """
    parts = [] if schemes.weights is None else [_weights(schemes.weights)]
    if schemes.activations is not None:
        parts.append(f"{schemes.activations.bits}-bit inputs{' as they come' if dynamic else ''}")
    return parts


def bits_of(schemes: LayerSchemes) -> int | None:
    """The width of the weights; None where they are left as they are, or it is still to be chosen."""
    return None if schemes.weights is None or schemes.weights.bits == "auto" else schemes.weights.width


def named_result(result: Result) -> str:
    """Where a result is made.

    >>> named_result(Result("stem")), named_result(Result("", 3))
    ('the result of stem', 'call 3 in the model')
    """
    place = result.module or "the model"
    return f"the result of {place}" if result.call is None else f"call {result.call} in {place}"


def _weights(scheme: WeightScheme) -> str:
    if scheme.bits == "auto":
        return f"weights of a width to be chosen per {scheme.granularity}"
    kind = "" if scheme.format == "int" else f" {scheme.format}"
    return f"{scheme.bits}-bit{kind} weights per {scheme.granularity}"

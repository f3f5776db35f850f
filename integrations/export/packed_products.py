"""Vectors of a file that are another one times a number that is there too, as the scales of biases are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["products_of"]


def products_of(vectors: Mapping[str, Any], numbers: Mapping[str, Any]) -> Mapping[str, tuple[str, str]]:
    """Which vectors are another one times a number, bit by bit; none that is such a product is a factor of another.

    Args:
        vectors: arrays of float32, (n,), by name.
        numbers: of float32, by name.

    Returns:
        By the name of a product those of the vector and the number.
    """
    found: dict[str, tuple[str, str]] = {}
    for name, vector in vectors.items():
        if name in {factor for factor, _ in found.values()}:
            continue
        others = {key: each for key, each in vectors.items() if key != name and key not in found}
        pair = _factors(vector, others, numbers)
        if pair is not None:
            found[name] = pair
    return found


def _factors(vector: Any, others: Mapping[str, Any], numbers: Mapping[str, Any]) -> tuple[str, str] | None:
    for name, other in others.items():
        if other.shape != vector.shape:
            continue
        for number, value in numbers.items():
            if vector[0] == other[0] * value and (vector.view(np.uint32) == (other * value).view(np.uint32)).all():
                return name, number
    return None

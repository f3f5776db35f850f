"""The floor: the least that each layer keeps, whatever its weights are worth and however zeros are shared out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from paredown.framework.errors import TargetError

__all__ = ["DEFAULT_FLOOR", "checked_floor", "least_kept", "limits_of", "refuse_more_than"]

#: of each layer's weights, where the recipe says nothing
DEFAULT_FLOOR = 0.01


def checked_floor(floor: float | None, shares: Iterable[float | None]) -> float | None:
    """A recipe's floor. Raises ValueError where it leaves no room for one of the shares of zeros."""
    most = max((share for share in shares if share is not None), default=0.0)
    if floor is not None and floor > 1 - most + 1e-9:
        raise ValueError(f"each layer keeps {floor:g} of its weights, and a sparsity of {most:g} leaves {1 - most:g}")
    return floor


def least_kept(sizes: Mapping[str, int], shares: Mapping[str, float], floor: float | None) -> dict[str, int]:
    """How many units of each weight stay in any case: their part of all units, rounded up.

    Args:
        sizes: units of each.
        shares: of zeros that is asked of each.
        floor: 0 to 1; None: `DEFAULT_FLOOR`, or half of what the share leaves where that is less.

    >>> least_kept({"a": 1000, "b": 20}, {"a": 0.8, "b": 1.0}, None)
    {'a': 10, 'b': 0}
    """
    parts = {name: min(DEFAULT_FLOOR, (1 - shares[name]) / 2) if floor is None else floor for name in sizes}
    return {name: min(math.ceil(parts[name] * size - 1e-9), size) for name, size in sizes.items()}


def limits_of(sizes: Mapping[str, int], least: Mapping[str, int], held: Mapping[str, int]) -> dict[str, int]:
    """How many units of each weight may go at most; what is pruned already, ``held``, stays pruned."""
    return {name: max(size - least[name], held.get(name, 0)) for name, size in sizes.items()}


def refuse_more_than(limits: Mapping[str, int], sizes: Mapping[str, int], count: int) -> None:
    """Raise TargetError where ``count`` units are to go and the floors leave less."""
    total, most = sum(sizes.values()), sum(limits.values())
    if count > most:
        raise TargetError(
            f"{count} of {total} units are to go, {count / total:.4g} of them, and the least that each layer keeps "
            f"(layer_floor) lets {most} go, {most / total:.4g}: ask for less, or set layer_floor lower (0: none)"
        )

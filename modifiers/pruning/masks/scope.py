"""Scopes: which units compete, the last of pruning's three axes, and how many each layer, or all together, give up."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from paredown.framework.errors import TargetError
from paredown.framework.model.targets import match
from paredown.framework.modifier.fields import Options, Pattern, Share
from paredown.modifiers.pruning.scoring.prunable import layer_of

__all__ = [
    "LayerShares",
    "ScopeField",
    "erdos_renyi_kernel_shares",
    "lamp_scores",
    "outlier_shares",
    "shares_by_pattern",
    "shares_within",
    "uniform_plus_shares",
    "whole_counts",
]

SCOPES = ("global", "local", "erk", "uniform_plus", "lamp", "owl")
FORMS = f"{', '.join(map(repr, SCOPES))}, or {{layers: {{pattern: share}}}}"


class LayerShares(Options):
    """``{layers: {"layer1.*": 0.5, head: 0.2}}``: final shares by pattern; a later pattern overrides an earlier one."""

    layers: dict[Pattern, Share] = Field(min_length=1)
    """Share of zeros at the end, by class name, module name with globs, or "re:" pattern."""


def _chosen(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) != {"layers"}:
            raise ValueError(f"{value!r} is no scope; one of {FORMS}")
        return LayerShares.model_validate(value)
    if isinstance(value, LayerShares) or value in SCOPES:
        return value
    raise ValueError(f"{value!r} is no scope; one of {FORMS}")


ScopeField = Annotated[
    Literal["global", "local", "erk", "uniform_plus", "lamp", "owl"] | LayerShares,
    BeforeValidator(_chosen),
    Field(description=f"What competes: {FORMS}."),
]


def erdos_renyi_kernel_shares(shapes: Mapping[str, torch.Size], share: float) -> dict[str, float]:
    """Shares of zeros by which a layer's density is proportional to the sum of its dimensions over their product
    (Evci et al., 2019, arXiv:1911.11134, section 3); layers that would be denser than 1 stay dense.

    Args:
        shapes: of the weights by name.
        share: of all weights together.
    """
    sizes = {name: shape.numel() for name, shape in shapes.items()}
    raw = {name: sum(shape) / max(shape.numel(), 1) for name, shape in shapes.items()}
    dense: set[str] = set()
    left = (1 - share) * sum(sizes.values())
    while True:
        room = left - sum(sizes[name] for name in dense)
        scale = room / max(sum(raw[name] * sizes[name] for name in raw if name not in dense), 1e-300)
        over = {name for name in raw if name not in dense and raw[name] * scale > 1}
        if not over:
            break
        dense |= over
    return {name: 0.0 if name in dense else 1 - max(raw[name] * scale, 0.0) for name in raw}


def uniform_plus_shares(
    sizes: Mapping[str, int], share: float, first: str | None, last: str | None, most: float = 0.8
) -> dict[str, float]:
    """The same share everywhere, but the first convolution stays dense and the last linear layer keeps a fifth of its
    weights (Gale et al., 2019, arXiv:1902.09574, section 4); the others make up for it.

    Where that cannot reach ``share`` the two give up more as well.

    Args:
        sizes: of the weights by name.
        share: of all weights together.
        first, last: the two layers; None where there is none.
        most: share of zeros that the last layer has at most.
    """
    limits = {name: 0.0 if name == first else min(most, 1.0) if name == last else 1.0 for name in sizes}
    total = share * sum(sizes.values())
    if sum(limits[name] * size for name, size in sizes.items()) < total:
        lacking = total - sum(limits[name] * size for name, size in sizes.items())
        room = sum((1 - limits[name]) * size for name, size in sizes.items())
        return {name: limit + (1 - limit) * lacking / room for name, limit in limits.items()}
    level = _level(sizes, limits, total)
    return {name: min(level, limit) for name, limit in limits.items()}


def _level(sizes: Mapping[str, int], limits: Mapping[str, float], total: float) -> float:
    """The water level at which the layers, each up to its limit, hold ``total``."""
    held, open_size = 0.0, float(sum(sizes.values()))
    for name in sorted(limits, key=limits.__getitem__):
        if (total - held) / open_size <= limits[name]:
            break
        held += limits[name] * sizes[name]
        open_size -= sizes[name]
        if not open_size:
            return limits[name]
    return (total - held) / open_size


def lamp_scores(scores: Tensor) -> Tensor:
    """LAMP (Lee et al., 2020, arXiv:2010.07611, equation 4): a score over the sum of those at least as high in its
    layer. Ranked together, the result takes from each layer what it can spare.

    Args:
        scores: not negative, of any shape; for magnitudes their squares. Equal scores count in the order of the index.
    """
    ranked, order = scores.detach().flatten().sort(stable=True)
    above = ranked.to(torch.float64).flip(0).cumsum_(0).flip(0)
    shares = ranked / above.clamp_min_(torch.finfo(torch.float64).tiny)
    return torch.empty_like(shares).scatter_(0, order, shares).view(scores.shape)


def outlier_shares(
    scores: Mapping[str, Tensor], share: float, threshold: float = 5.0, spread: float = 0.08
) -> dict[str, float]:
    """OWL (Yin et al., 2023, arXiv:2310.05175, section 4): layers with more outliers give up less.

    A block's outlier ratio is the share of its scores above ``threshold`` times their mean; shares of zeros lie within
    ``share`` +- ``spread``, falling with the ratio. Layers of one block of a chain (``layers.3.``) have one share.

    Args:
        scores: by weight, not negative.
        share: mean share of zeros over all weights.
    """
    blocks: dict[str, list[str]] = {}
    for name in scores:
        found = re.match(r"(?:.*?\.)?\d+(?=\.)", name)
        blocks.setdefault(found[0] if found else name, []).append(name)
    ratios = {block: _outliers([scores[name] for name in names], threshold) for block, names in blocks.items()}
    low, high = min(ratios.values()), max(ratios.values())
    scaled = {block: (ratio - low) / ((high - low) or 1.0) * 2 * spread for block, ratio in ratios.items()}
    sizes = {block: sum(scores[name].numel() for name in names) for block, names in blocks.items()}
    mean = sum(scaled[block] * sizes[block] for block in blocks) / sum(sizes.values())
    return {name: min(max(share + mean - scaled[block], 0.0), 1.0) for block, names in blocks.items() for name in names}


def _outliers(scores: Sequence[Tensor], threshold: float) -> float:
    count = sum(each.numel() for each in scores)
    mean = sum(float(each.double().sum()) for each in scores) / count
    return sum(int((each > threshold * mean).sum()) for each in scores) / count


def shares_by_pattern(
    model: nn.Module, weights: Mapping[str, nn.Parameter], shares: Mapping[str, float], otherwise: float
) -> dict[str, float]:
    """The final share of each weight.

    Raises:
        TargetError: a pattern means none of the layers.
    """
    found = dict.fromkeys(weights, otherwise)
    for pattern, share in shares.items():
        layers = match(model, [pattern], [], (nn.Module,)).modules
        meant = [name for name in weights if layer_of(name) in layers]
        if not meant:
            raise TargetError(f"scope: layers: {pattern!r} means none of the layers that are pruned")
        found.update(dict.fromkeys(meant, share))
    return found


def shares_within(
    sizes: Mapping[str, int],
    shares: Mapping[str, float],
    total: int,
    least: Mapping[str, int],
    most: Mapping[str, int],
) -> dict[str, float]:
    """Shares that add up to ``total`` with each layer between its least and its most.

    Where they do already they are as they were. Else what the layers keep is scaled by one factor, up to their limits,
    so that layers which are not at a limit keep their proportions.

    Args:
        sizes: of the layers.
        shares: 0 to 1 of each.
        total: from the sum of ``least`` to that of ``most``.
        least, most: of each layer, how many go; a layer without a least may keep everything.
    """
    kept = {name: (1 - shares[name]) * size for name, size in sizes.items()}
    low = {name: sizes[name] - most[name] for name in sizes}
    high = {name: size - least.get(name, 0) for name, size in sizes.items()}

    def scaled(factor: float) -> dict[str, float]:
        return {name: min(max(kept[name] * factor, low[name]), high[name]) for name in sizes}

    wanted = sum(sizes.values()) - total
    inside = all(low[name] - 1 < kept[name] < high[name] + 1 for name in sizes)
    if inside and abs(sum(kept.values()) - wanted) < 1:  # what rounding settles
        return dict(shares)
    factor = _level_of(lambda factor: sum(scaled(factor).values()), wanted)
    return {name: 1 - value / sizes[name] for name, value in scaled(factor).items()}


def _level_of(rising: Callable[[float], float], wanted: float) -> float:
    """Where a function that rises from 0 on reaches a value, or comes nearest to it from below."""
    low, high = 0.0, 1.0
    while rising(high) < wanted and high < 1e12:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) <= wanted else (low, middle)
    return low


def whole_counts(
    sizes: Mapping[str, int],
    shares: Mapping[str, float],
    total: int,
    least: Mapping[str, int] | None = None,
    most: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Counts near ``shares`` x ``sizes`` that add up to ``total``: those with the largest remainders are rounded up.

    Args:
        sizes: of the layers.
        shares: 0 to 1 of each.
        total: at most the sum of the sizes.
        least: what a layer has at least, as long as all of that is no more than ``total``.
        most: what a layer has at most; their sum is at least ``total``. None: its size.
    """
    most = sizes if most is None else most
    floor = dict.fromkeys(sizes, 0) | dict(least or {})
    floor = floor if sum(floor.values()) <= total else dict.fromkeys(sizes, 0)
    wanted = {name: min(max(shares[name], 0.0), 1.0) * size for name, size in sizes.items()}
    counts = {name: min(max(int(value), floor[name]), most[name]) for name, value in wanted.items()}
    order = sorted(sizes, key=lambda name: counts[name] - wanted[name])
    while (missing := total - sum(counts.values())) != 0:
        step = 1 if missing > 0 else -1
        able = [n for n in (order if step > 0 else order[::-1]) if floor[n] <= counts[n] + step <= most[n]]
        for name in able[: abs(missing)]:
            counts[name] += step
    return counts

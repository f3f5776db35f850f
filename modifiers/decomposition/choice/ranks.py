"""The rank: how a recipe writes it, and what it means for a layer."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, Strict
from torch import Tensor

from paredown.framework.modifier.fields import Budget, Options, Pattern
from paredown.modifiers.decomposition.forms.base import Form, Ranks

__all__ = ["Budgeted", "Cost", "Energy", "Faster", "LayerRank", "LayerRanks", "Rank", "Ratio", "chosen_ranks"]

FORMS_TOLD = (
    "an integer, {ratio: 2}, {energy: 0.95}, vbmf, {latency: 1.5}, {budget: {parameters: 0.5}}, or "
    "{layers: {pattern: rank}}"
)
ShareOfCost = Annotated[float, Strict(), Field(gt=0, lt=1, allow_inf_nan=False)]
#: variational Bayes keeps this share of the full rank at least: on layers of 32 to 128 channels it finds 0 to 11
FLOOR = 1 / 8


class Ratio(Options):
    """``{ratio: 2}``: the layer's weights divided by two."""

    ratio: Annotated[float, Strict(), Field(gt=1, allow_inf_nan=False)]
    """By what the number of the layer's weights is divided."""


class Energy(Options):
    """``{energy: 0.95}``: the smallest rank that keeps this share of the squared singular values, mode by mode."""

    energy: Annotated[float, Strict(), Field(gt=0, le=1, allow_inf_nan=False)]
    """Share of the squared singular values that is kept."""


class Faster(Options):
    """``{latency: 1.5}``: the largest of some ranks with which the layer is measured to be so many times faster."""

    latency: Annotated[float, Strict(), Field(gt=1, allow_inf_nan=False)]
    """How many times faster the layer is to be, on ``example_inputs``."""


class Cost(Budget):
    """What the model may cost afterwards, as a share of what it cost before; one of the three."""

    parameters: ShareOfCost | None = None
    """Of the parameters of the whole model."""
    bytes: ShareOfCost | None = None
    """Of the bytes of all parameters, each in its own type."""
    macs: ShareOfCost | None = None
    """Of the multiply-accumulates of the layers in one forward of the example inputs, or of the first batch."""


class Budgeted(Options):
    """``{budget: {parameters: 0.5}}``: one target for the whole model; how much each layer gives up is decided by what
    that does to the model's output on ``data``."""

    budget: Cost


def _picked(value: Any, forms: Mapping[str, type[Options]]) -> Any:
    """Pick the form by its one key, so that a mistake is reported for that form alone."""
    if isinstance(value, dict):
        if len(value) != 1 or next(iter(value)) not in forms:
            raise ValueError(f"{value!r} is no rank; {FORMS_TOLD}")
        return forms[next(iter(value))].model_validate(value)
    if value != "vbmf" and (isinstance(value, bool) or not isinstance(value, (int, *forms.values()))):
        raise ValueError(f"{value!r} is no rank; {FORMS_TOLD}")
    return value


LayerRank = int | Ratio | Energy | Literal["vbmf"]


def _of_a_layer(value: Any) -> Any:
    return _picked(value, {"ratio": Ratio, "energy": Energy})


OwnRank = Annotated[
    Annotated[int, Strict(), Field(ge=1)] | Ratio | Energy | Literal["vbmf"], BeforeValidator(_of_a_layer)
]


class LayerRanks(Options):
    """``{layers: {pattern: rank}}``: a rank for each; layers that no pattern means are left alone."""

    layers: Annotated[dict[Pattern, OwnRank], Field(min_length=1)]
    """By module name, glob, class name or ``re:``; the last pattern that means a layer counts."""


def _any(value: Any) -> Any:
    return _picked(
        value, {"ratio": Ratio, "energy": Energy, "latency": Faster, "budget": Budgeted, "layers": LayerRanks}
    )


Rank = Annotated[
    Annotated[int, Strict(), Field(ge=1)] | Ratio | Energy | Faster | Budgeted | LayerRanks | Literal["vbmf"],
    BeforeValidator(_any),
    Field(description=f"What is kept: {FORMS_TOLD}. An integer is clamped to the full rank."),
]


def chosen_ranks(rank: LayerRank, form: Form, tensor: Tensor) -> Ranks:
    """The ranks that one layer gets. Those of a convolution that are computed are multiples of 16 from 16 on."""
    if isinstance(rank, int):
        return form.clamped(rank)
    if isinstance(rank, Ratio):
        return form.of_ratio(rank.ratio)
    if isinstance(rank, Energy):
        return form.rounded(form.rank_for_energy(tensor, rank.energy), up=True)
    found = form.rank_by_variational_bayes(tensor)
    floor = tuple(max(1, round(full * FLOOR)) for full in form.full)
    if any(rank < least for rank, least in zip(found, floor, strict=True)):
        geometry = form.geometry
        warnings.warn(
            f"vbmf found rank {found} in a layer of {geometry.inputs} to {geometry.outputs}: an eighth of the full "
            f"rank, {floor}, is the least",
            stacklevel=2,
        )
    return form.rounded(tuple(map(max, found, floor)), up=True)

"""The scheme of each layer: the modifier's, with its overrides for some layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import Field, ValidationError
from torch import nn

from paredown.framework.engine.profile import Profile
from paredown.framework.errors import TargetError, did_you_mean
from paredown.framework.model.targets import match
from paredown.framework.model.weights import WeightLayout
from paredown.framework.modifier.fields import Options
from paredown.modifiers.quantization.layers.kinds import weight_names
from paredown.modifiers.quantization.numbers.scheme import SIZES, ActivationScheme, QuantizationScheme, WeightScheme
from paredown.modifiers.quantization.numbers.weight_layout import misfit

__all__ = ["LayerSchemes", "Override", "for_engine", "merged", "misfit_of", "overrides_by_layer"]

S = TypeVar("S", bound=QuantizationScheme)


class Override(Options):
    """What is different for some layers; null leaves that part of them as it is."""

    weights: dict[str, Any] | None = Field(default_factory=dict)
    """Fields of the weights' scheme, such as ``{bits: 4}``."""
    activations: dict[str, Any] | None = Field(default_factory=dict)
    """Fields of the activations' scheme."""


@dataclass(frozen=True)
class LayerSchemes:
    """How one layer is quantized; None leaves a part as it is."""

    weights: WeightScheme | None
    activations: ActivationScheme | None


def merged(base: LayerSchemes, overrides: Iterable[Override]) -> LayerSchemes:
    """The schemes with every override on top, the last one first; a part that none names stays as it is.

    Raises:
        ValueError: unknown fields, or fields that do not fit each other; names the part.
    """
    weights, activations = base.weights, base.activations
    for override in overrides:
        with _naming("weights", WeightScheme):
            weights = _merged(WeightScheme, weights, override.weights)
        with _naming("activations", ActivationScheme):
            activations = _merged(ActivationScheme, activations, override.activations)
    return LayerSchemes(weights, activations)


def overrides_by_layer(
    model: nn.Module, overrides: Mapping[str, Override], kinds: tuple[type[nn.Module], ...]
) -> dict[str, list[Override]]:
    """What is different for which layer, in the recipe's order.

    Raises:
        TargetError: a pattern means no layer of these kinds.
    """
    found: dict[str, list[Override]] = {}
    for pattern, override in overrides.items():
        try:
            names = match(model, [pattern], [], kinds).modules
        except TargetError as error:
            raise TargetError(f"overrides: {error}") from None
        for name in names:
            found.setdefault(name, []).append(override)
    return found


def for_engine(schemes: LayerSchemes, profile: Profile) -> LayerSchemes:
    """The schemes with weights' scales as an engine stores them, and with inputs of the zero point 0 where it has no
    other, as far as the recipe leaves that open.

    Raises:
        ValueError: the recipe asks for other inputs than the engine has.
    """
    weights, inputs = schemes.weights, schemes.activations
    if weights is not None and weights.scales == "float" and profile.scales != "float":
        weights = weights.model_copy(update={"scales": profile.scales})
    if inputs is not None and profile.symmetric_inputs and not inputs.symmetric:
        if "symmetric" in inputs.model_fields_set:
            raise ValueError("activations.symmetric is false, and the engine has inputs of the zero point 0 alone")
        inputs = inputs.model_copy(update={"symmetric": True})
    return LayerSchemes(weights, inputs)


def misfit_of(module: nn.Module, scheme: WeightScheme | None) -> str | None:
    """Why a layer's weights cannot be divided as the scheme asks, or None."""
    if scheme is None:
        return None
    layout = WeightLayout.of(module)
    weights: Sequence[Any] = [module._parameters[name] for name in weight_names(module)]
    shapes = [tuple(layout.rows(weight.detach()).shape) for weight in weights]
    return next((reason for shape in shapes if (reason := misfit(shape, scheme))), None)


@contextmanager
def _naming(part: str, kind: type[QuantizationScheme]) -> Iterator[None]:
    """Tell of the first mistake in a scheme in one line."""
    try:
        yield
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        place = ".".join(str(each) for each in (part, *detail["loc"]))
        if detail["type"] == "extra_forbidden":
            raise ValueError(
                f"{place}: unknown field{did_you_mean(str(detail['loc'][-1]), kind.model_fields)}"
            ) from None
        raise ValueError(f"{place}: {detail['msg'].removeprefix('Value error, ')}") from None


def _merged(kind: type[S], base: S | None, fields: Mapping[str, Any] | None) -> S | None:
    if fields is None:
        return None
    given = {} if base is None else base.model_dump(exclude_unset=True)
    if fields.get("granularity", given.get("granularity")) != given.get("granularity"):
        given = {name: value for name, value in given.items() if name not in SIZES}
    if "format" in fields:
        given = {name: value for name, value in given.items() if name not in ("bits", "symmetric")}
    return kind(**{**given, **fields}) if fields else base

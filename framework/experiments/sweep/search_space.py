"""The space of a search: the ranges that overrides vary, and the overrides of a job at a point of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from paredown.framework.errors import ArgumentError, ParedownError
from paredown.framework.experiments.sweep.manifest import Manifest
from paredown.framework.experiments.sweep.overrides import check_jobs, check_range, parsed
from paredown.framework.recipe import Recipe

__all__ = ["SearchSpace", "check_search", "optuna"]


def optuna() -> Any:
    """The package optuna.

    Raises:
        ParedownError: it is not installed.
    """
    try:
        import optuna as package
    except ImportError:
        raise ParedownError("a search needs optuna: pip install 'paredown[sweep]'") from None
    return package


def check_search(recipe: Recipe, wanted: Manifest) -> None:
    """Refuse a search that varies nothing, or whose ranges end where the recipe does not hold.

    Raises:
        RecipeError: with the mistakes at the ends of all ranges.
        ArgumentError: nothing is varied.
        ParedownError: optuna is not installed.
    """
    space = SearchSpace.of(wanted.overrides)
    if not space.ranges:
        raise ArgumentError("nothing is varied; write a.b=interval(0.5,0.98) or a.b=1,2,3", "overrides")
    check_jobs(recipe, (space.overrides(values) for values in space.ends()))


@dataclass(frozen=True)
class SearchSpace:
    """The ranges of a search by the key of their override, and the overrides that all jobs share."""

    ranges: Mapping[str, Any]
    fixed: Sequence[str]

    @classmethod
    def of(cls, overrides: Sequence[str]) -> SearchSpace:
        """The space of overrides in Hydra's grammar."""
        read = parsed(overrides)
        fixed = [one.input_line for one in read if not one.is_sweep_override()]
        return cls({one.get_key_element(): _range(one) for one in read if one.is_sweep_override()}, fixed)

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        """The overrides of the job with these values."""
        return [*self.fixed, *(f"{key}={_text(self.ranges[key], value)}" for key, value in values.items())]

    def ends(self) -> Iterator[dict[str, Any]]:
        """The values at both ends of each range, and every choice, while the others have their first value."""
        ends = {name: getattr(one, "choices", None) or (one.low, one.high) for name, one in self.ranges.items()}
        first = {name: values[0] for name, values in ends.items()}
        for name, values in ends.items():
            yield from ({**first, name: value} for value in values)


def _range(override: Any) -> Any:
    """The distribution of an override: an interval, a range with a step, or a choice."""
    if override.is_interval_sweep():
        return _interval(override)
    check_range(override)
    texts = list(override.sweep_string_iterator())
    if override.is_range_sweep() and len(texts) > 1:
        return _steps(sorted(yaml.safe_load(text) for text in texts))
    return optuna().distributions.CategoricalDistribution(texts)


def _interval(override: Any) -> Any:
    given = override.value()
    tags = getattr(given, "tags", ())
    if given.start > given.end or ("log" in tags and given.start <= 0):
        message = f"{override.input_line}: an interval goes from the smaller to the larger, of log from above 0"
        raise ArgumentError(message, "overrides")
    whole = isinstance(given.start, int) or "int" in tags
    convert = int if whole else float
    return _distribution(whole)(convert(given.start), convert(given.end), log="log" in tags)


def _steps(numbers: Sequence[Any]) -> Any:
    whole = all(isinstance(number, int) for number in numbers)
    return _distribution(whole)(numbers[0], numbers[-1], step=numbers[1] - numbers[0])


def _distribution(whole: bool) -> Any:
    kinds = optuna().distributions
    return kinds.IntDistribution if whole else kinds.FloatDistribution


def _text(space: Any, value: Any) -> str:
    """A value as an override has it; a number keeps six digits."""
    if not isinstance(value, float):
        return str(value)
    return repr(min(max(float(f"{value:.6g}"), space.low), space.high))

"""A recipe with a setting for each layer, chosen by a scan of the model's sensitivity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from paredown.framework.calibration.sensitivity import Sensitivity, choose
from paredown.framework.errors import ArgumentError, ScheduleError
from paredown.framework.modifier.base import Modifier
from paredown.framework.modifier.training import Training
from paredown.framework.recipe import Recipe
from paredown.framework.storage.files import write_text

__all__ = ["SettingsRecipe"]


@dataclass(frozen=True)
class SettingsRecipe:
    """A recipe to be written to ``path``, whose settings save a share, ``target``, of the cost of the layers."""

    path: Path
    target: float

    def fields(self, training: Training, modifier: Modifier, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The modifier's fields with a setting for each layer.

        Raises:
            ArgumentError: the modifier has no such fields.
        """
        fields = modifier.with_settings(training, settings)
        if fields is None:
            raise ArgumentError(
                f"{modifier.name} ({modifier.type}) as it is written has no fields for a setting of each layer's own",
                "settings",
            )
        return fields

    def write(
        self, recipe: Recipe, training: Training, modifier: Modifier, found: Sequence[Sensitivity]
    ) -> dict[str, Any]:
        """Choose the settings and write the recipe; returns its path, target and settings in plain values.

        Raises:
            ArgumentError: the target cannot be met, or the file cannot be written.
        """
        try:
            choice = choose(found, self.target)
        except ScheduleError as error:
            raise ArgumentError(str(error), "target") from None
        fields = self.fields(training, modifier, choice.settings)
        try:
            write_text(self.path, _with_fields(recipe, modifier.name, fields).to_yaml())
        except OSError as error:
            raise ArgumentError(f"{self.path} cannot be written: {error.strerror}", "settings") from error
        return {"path": str(self.path), "target": self.target, "reached": choice.saved, "settings": choice.settings}


def _with_fields(recipe: Recipe, modifier: str, fields: Mapping[str, Any]) -> Recipe:
    """The recipe with other fields of a modifier, without those that are None, and without results, which were another
    recipe's."""
    values = yaml.safe_load(recipe.to_yaml())
    values.pop("results", None)
    merged = {**values["modifiers"][modifier], **fields}
    removed = {name for name, value in fields.items() if value is None}
    values["modifiers"][modifier] = {name: value for name, value in merged.items() if name not in removed}
    return Recipe.load(values)

"""A recipe in which each layer has the setting that a scan of the model's sensitivity speaks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from paredown.framework.cli.console import write

if TYPE_CHECKING:
    from paredown.framework.calibration.sensitivity import Sensitivity
    from paredown.framework.modifier.base import Modifier
    from paredown.framework.modifier.training import Training
    from paredown.framework.recipe import Recipe

__all__ = ["Wanted"]


@dataclass(frozen=True)
class Wanted:
    """A recipe to be written to ``path`` whose settings save a share, ``target``, of what the layers cost."""

    path: Path
    target: float

    @classmethod
    def of(cls, path: Path | None, target: float | None) -> Wanted | None:
        """None where neither was given.

        Raises:
            typer.BadParameter: one of them is missing, or the file is no recipe by its name (exit code 2).
        """
        if path is None and target is None:
            return None
        if path is None or target is None:
            raise typer.BadParameter("--recipe and --target go together", param_hint="--recipe")
        if path.suffix not in (".yaml", ".yml"):
            raise typer.BadParameter(f"{path}: .yaml or .yml", param_hint="--recipe")
        return cls(path, target)

    def fields(self, training: Training, modifier: Modifier, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The modifier's fields with a setting for each layer.

        Raises:
            typer.BadParameter: it has none (exit code 2).
        """
        fields = modifier.with_settings(training, settings)
        if fields is None:
            raise typer.BadParameter(
                f"{modifier.name} ({modifier.type}) as it is written has no fields for a setting of each layer's own",
                param_hint="--recipe",
            )
        return fields

    def write(
        self, recipe: Recipe, training: Training, modifier: Modifier, found: Sequence[Sensitivity]
    ) -> dict[str, Any]:
        """Choose, check and write; what was written, in plain values.

        Raises:
            typer.BadParameter: the target cannot be met (exit code 2).
        """
        from paredown.framework.calibration.sensitivity import choose
        from paredown.framework.errors import ScheduleError

        try:
            choice = choose(found, self.target)
        except ScheduleError as error:
            raise typer.BadParameter(str(error), param_hint="--target") from None
        fields = self.fields(training, modifier, choice.settings)
        write(_with_fields(recipe, modifier.name, fields).to_yaml(), self.path)
        return {"path": str(self.path), "target": self.target, "reached": choice.saved, "settings": choice.settings}


def _with_fields(recipe: Recipe, modifier: str, fields: Mapping[str, Any]) -> Recipe:
    """The recipe with other fields of a modifier, None for those that go; without results, which are not its own."""
    from paredown.framework.recipe import Recipe

    values = recipe.written()
    values.pop("results", None)
    merged = {**values["modifiers"][modifier], **fields}
    gone = {name for name, value in fields.items() if value is None}
    values["modifiers"][modifier] = {name: value for name, value in merged.items() if name not in gone}
    return Recipe.load(values)

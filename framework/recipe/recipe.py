"""A recipe: loaded from any source, merged, resolved and validated."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from paredown.framework.errors import Mistake, RecipeError
from paredown.framework.modifier.base import Modifier
from paredown.framework.modifier.time import Time
from paredown.framework.recipe.checking.document import validated
from paredown.framework.recipe.checking.schema import recipe_schema
from paredown.framework.recipe.reading.extending import extended
from paredown.framework.recipe.reading.foreign import foreign_mistake
from paredown.framework.recipe.reading.instances import written_out
from paredown.framework.recipe.reading.sources import Document, find_file, read_file, read_mapping
from paredown.framework.recipe.resolving.overrides import misspelt_variables, overridden, with_variables
from paredown.framework.recipe.tree.merging import with_value
from paredown.framework.recipe.tree.nodes import Node
from paredown.framework.recipe.tree.positions import Position, shown
from paredown.framework.recipe.tree.writing import FIELDS, to_yaml

if TYPE_CHECKING:
    from paredown.framework.recipe.reading.omegaconf import App

__all__ = ["Recipe"]


@dataclass(frozen=True, eq=False)
class Recipe:
    """A validated recipe. Made by `Recipe.load`; never changed afterwards.

    Attributes:
        name: the recipe's own, or that of its file.
        modifiers: the modifiers by name, in the recipe's order.
        run_epochs: the length of the training run; None in a recipe without times.
        engine: the name of the program that the compressed model is for; None where none is named.
    """

    name: str
    modifiers: Mapping[str, Modifier]
    run_epochs: float | None
    engine: str | None
    _written: Node
    _resolved: Node

    @classmethod
    def load(
        cls,
        source: str | os.PathLike[str] | Mapping[str, Any] | Recipe | Any,
        overrides: Iterable[str] = (),
        variables: Mapping[str, object] | None = None,
    ) -> Recipe:
        """Read, merge, resolve and validate a recipe.

        Args:
            source: a path to .yaml, .yml or a Markdown card; a recipe's name (bundled, of an installed package, in a
                folder of PAREDOWN_RECIPES); ``hub:team/name@revision``; a dict, whose modifiers may be instances of
                their classes; a node of an OmegaConf config; a checkpoint or a folder that paredown wrote; a recipe.
            overrides: changes such as ``"modifiers.prune.end=20"``, ``"+variables.x=1"``, ``"~modifiers.prune"``.
            variables: values for what the recipe names under ``variables``.

        Raises:
            RecipeError: the recipe is invalid; the error has all mistakes with their positions.

        >>> recipe = Recipe.load({"recipe": 1, "name": "none", "modifiers": {}})
        >>> recipe.name, dict(recipe.modifiers)
        ('none', {})
        """
        try:
            return _load(source, list(overrides), dict(variables or {}))
        except RecursionError:
            file = os.fsdecode(source) if isinstance(source, (str, os.PathLike)) else "recipe"
            raise RecipeError([Position(file).mistake("nested too deeply")]) from None

    @property
    def description(self) -> str:
        """The recipe's own description; "" where it has none."""
        return str(self._plain("description") or "")

    @property
    def tags(self) -> tuple[str, ...]:
        """Words to find the recipe by."""
        return tuple(self._plain("tags") or ())

    @property
    def variables(self) -> dict[str, Any]:
        """The values under `variables`, which are meant to be changed, resolved."""
        return dict(self._plain("variables") or {})

    @property
    def results(self) -> list[dict[str, Any]]:
        """The evidence that travels with the recipe."""
        return list(self._plain("results") or ())

    def claims(self, what: str) -> bool:
        """Whether one of its modifiers claims something, such as ``schedule of lr``."""
        return any(what in modifier.claims for modifier in self.modifiers.values())

    def written(self) -> dict[str, Any]:
        """The recipe as its author wrote it, with variables and expressions, merged with what it extends, and named."""
        return _in_order({"name": self.name, **self._written.plain()})

    def to_yaml(self) -> str:
        """The YAML of `written`."""
        return to_yaml(self.written())

    def resolved(self) -> dict[str, Any]:
        """What will run: plain values, no interpolations; times as numbers of epochs, "N steps" or "P%"."""
        values: dict[str, Any] = _in_order(self._resolved.plain())
        for name, modifier in self.modifiers.items():
            fields = values["modifiers"][name]
            fields.update({f: t.plain() for f in fields if isinstance(t := getattr(modifier, f, None), Time)})
        return values

    @staticmethod
    def schema() -> dict[str, Any]:
        """The JSON Schema (draft 2020-12) of a recipe file, over all modifiers that are installed."""
        return recipe_schema()

    def _plain(self, field: str) -> Any:
        node = self._resolved.child(field)
        return None if node is None else node.plain()

    def __deepcopy__(self, memo: dict[int, Any]) -> Recipe:
        return self

    def __repr__(self) -> str:
        return f"Recipe({self.name!r}, modifiers=[{', '.join(self.modifiers)}], run_epochs={self.run_epochs})"


def _load(source: Any, overrides: list[str], variables: dict[str, object]) -> Recipe:
    document, app = _read(source)
    if foreign := foreign_mistake(document):
        raise RecipeError([foreign])
    if document.root.mapping is None:
        message = f"found {shown(document.root.plain())}; a recipe is a mapping of fields"
        raise RecipeError([*document.mistakes, document.root.position.mistake(message)])
    whole = extended(document)
    root, variable_mistakes = with_variables(whole.root, variables)
    root, override_mistakes = overridden(root, overrides)
    misspelt = [] if app is None else misspelt_variables(root)
    return _finished(root, app, document.name, [*whole.mistakes, *variable_mistakes, *override_mistakes, *misspelt])


def _finished(root: Node, app: App | None, name: str, mistakes: list[Mistake]) -> Recipe:
    from paredown.framework.recipe.resolving.interpolation import (
        resolved,  # OmegaConf's parser takes 30 ms: not at import
    )

    values = resolved(root, app)
    content = validated(values.root, values.broken)
    mistakes += [*values.mistakes, *content.mistakes]
    if mistakes:
        raise RecipeError(list(dict.fromkeys(mistakes)))
    own = values.root.child("name")
    named = str(own.value) if own is not None and own.value else name
    written = root
    for path in values.outside:
        written = with_value(written, path, values.root.at(path) or values.root)
    return Recipe(named, content.modifiers, content.run_epochs, content.engine, written, values.root)


def _read(source: Any) -> tuple[Document, App | None]:
    from paredown.framework.recipe.reading.omegaconf import app_around, is_config, read_config

    if isinstance(source, Recipe):
        return Document(source._written, source.name, None), None
    if is_config(source):
        return read_config(source), app_around(source)
    if isinstance(source, Mapping):
        return read_mapping(written_out(source)), None
    if isinstance(source, (str, os.PathLike)):
        return read_file(find_file(source)), None
    raise TypeError(f"a recipe loads from a path, a name, a mapping or a config, not from {type(source).__name__}")


def _in_order(values: dict[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in FIELDS if name in values}

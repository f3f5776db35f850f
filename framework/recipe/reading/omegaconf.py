"""Reads a recipe from an OmegaConf config, such as that of a user's Hydra app."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import Container, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from paredown.framework.errors import RecipeError, first_line
from paredown.framework.recipe.reading.sources import Document
from paredown.framework.recipe.tree.nodes import Node, plain_node
from paredown.framework.recipe.tree.positions import Path, Position, dotted

__all__ = ["App", "app_around", "is_config", "read_config"]


@dataclass(frozen=True)
class App:
    """The config around a recipe, to which values under `variables` may refer.

    Attributes:
        root: the whole config.
        prefix: the path of the recipe in it.
    """

    root: Container
    prefix: Path

    def inside(self, path: Path) -> Path | None:
        """The path in the recipe, if ``path`` of the app leads into the recipe."""
        return path[len(self.prefix) :] if path[: len(self.prefix)] == self.prefix else None

    def value(self, path: Path, position: Position) -> Node | None:
        """The app's value, resolved as the app resolves it; None where it has none.

        Raises:
            RecipeError: the app's own config does not resolve.
        """
        try:
            value = OmegaConf.select(self.root, dotted(path), throw_on_missing=True)
            plain = OmegaConf.to_container(value, resolve=True) if is_config(value) else value
        except Exception as error:  # an app's own resolvers may fail in any way
            message = f"{dotted(path)} of the app does not resolve: {first_line(error)}"
            raise RecipeError([position.mistake(message)]) from error
        return None if plain is None else plain_node(plain, Position(f"{dotted(path)} of the app"))


def is_config(source: object) -> bool:
    """Whether it is a node of OmegaConf."""
    return isinstance(source, Container)


def read_config(source: Container) -> Document:
    """Read a recipe from a config, its interpolations unresolved.

    Raises:
        RecipeError: it is a list, or contains a value that a recipe cannot contain.
    """
    position = Position("config")
    if isinstance(source, ListConfig):
        raise RecipeError([position.mistake("a list; a recipe is a mapping of fields")])
    try:
        values: Any = OmegaConf.to_container(source, resolve=False)
    except (OmegaConfBaseException, ValueError) as error:
        raise RecipeError([position.mistake(f"cannot be read: {error}")]) from error
    return Document(plain_node(_without_removed(values), position), "config", None)


def _without_removed(values: Any) -> Any:
    """Without modifiers that are null: the app has merged its config already, and they are what it removed."""
    modifiers = values.get("modifiers") if isinstance(values, dict) and "extends" not in values else None
    if not isinstance(modifiers, dict):
        return values
    return {**values, "modifiers": {name: one for name, one in modifiers.items() if one is not None}}


def app_around(source: Container) -> App | None:
    """The config around a recipe; None where the recipe is the whole config."""
    root = source._get_root()
    if root is source or not isinstance(root, Container):
        return None
    keys: list[str] = []
    node: Any = source
    while node is not None and node is not root:
        keys.insert(0, str(node._key()))
        node = node._get_parent()
    return App(root, tuple(keys))

"""paredown's recipes as the config group `recipe` of any Hydra app: `defaults: [{recipe: prune90}]`, `recipe=int8`.

Hydra finds this package by its import name, ``hydra_plugins.paredown_recipes``, and imports it with every app: nothing
of paredown is imported before a recipe is asked for.
"""

from __future__ import annotations

from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin

__all__ = ["RecipeConfigSource", "RecipeSearchPath"]

GROUP = "recipe"
SCHEME = "paredown"


class RecipeSearchPath(SearchPathPlugin):
    """Puts the recipes behind the app's own configs."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(provider="paredown", path=f"{SCHEME}://recipes")


class RecipeConfigSource(ConfigSource):
    """Serves the recipes of all collections as `Recipe.load` merges them; variables and expressions are kept.

    A key that the recipe does not write may be set without ``+``; `Recipe.load` checks it, and knows the nearest name.
    """

    @staticmethod
    def scheme() -> str:
        return SCHEME

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        path = config_path.strip("/")
        if path == GROUP or not path.startswith(f"{GROUP}/"):
            return path in ("", GROUP)
        return any(name.startswith(f"{_name(path)}/") for name in _names())

    def is_config(self, config_path: str) -> bool:
        return config_path.startswith(f"{GROUP}/") and _name(config_path) in _names()

    def load_config(self, config_path: str) -> ConfigResult:
        from omegaconf import OmegaConf

        if not self.is_config(config_path):
            raise ConfigLoadError(f"no recipe {config_path!r}")
        config = OmegaConf.create(_values(_name(config_path)))
        OmegaConf.set_struct(config, False)
        for value in (config._get_node(name) for name in config):
            if OmegaConf.is_dict(value):
                OmegaConf.set_struct(value, False)
        return ConfigResult(self.provider, self.full_path(), config, {"package": None})

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        path = config_path.strip("/")
        if path == "":
            return [] if results_filter == ObjectType.CONFIG else [GROUP]
        if path != GROUP and not path.startswith(f"{GROUP}/"):
            return []
        above = "" if path == GROUP else f"{_name(path)}/"
        below = [name.removeprefix(above).split("/") for name in _names() if name.startswith(above)]
        groups = {parts[0] for parts in below if len(parts) > 1}
        configs = {parts[0] for parts in below if len(parts) == 1}
        wanted = {ObjectType.GROUP: groups, ObjectType.CONFIG: configs}
        return sorted(groups | configs if results_filter is None else wanted[results_filter])


def _name(config_path: str) -> str:
    """The recipe's name: ``recipe/mnist/x.yaml`` is mnist/x."""
    return config_path.strip("/").removeprefix(f"{GROUP}/").removesuffix(".yaml")


def _names() -> list[str]:
    from paredown.framework.recipe.reading.collections import recipe_names

    return list(recipe_names())


def _values(name: str) -> Any:
    from paredown import Recipe

    return Recipe.load(name).written()

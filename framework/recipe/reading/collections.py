"""Finds recipes by name: `mnist/prune-quantize-distill`, `team/vision/prune90`.

A name is looked up in the folders of the environment variable `PAREDOWN_RECIPES`, in packages that announce themselves
by an entry point of the group `paredown.recipes` (its name comes first in the recipe's), and in paredown's own.
"""

from __future__ import annotations

import os
from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from paredown.framework.errors import did_you_mean

__all__ = ["ENTRY_POINT_GROUP", "VARIABLE", "Collection", "collections", "named_file", "near_names", "recipe_names"]

BUNDLED = "paredown.recipes"
ENTRY_POINT_GROUP = "paredown.recipes"
VARIABLE = "PAREDOWN_RECIPES"
SUFFIXES = (".yaml", ".yml", ".md")


@dataclass(frozen=True)
class Collection:
    """A folder of recipes.

    Attributes:
        folder: where the files are.
        prefix: the beginning of their names; "" for none.
        label: its name in messages.
    """

    folder: Path
    prefix: str
    label: str

    def files(self) -> Iterator[tuple[str, Path]]:
        """The recipes by their names: every .yaml and .yml, and cards (.md) that begin with front matter."""
        for suffix in SUFFIXES:
            for path in sorted(self.folder.rglob(f"*{suffix}")):
                if suffix != ".md" or _is_card(path):
                    yield self.prefix + path.relative_to(self.folder).with_suffix("").as_posix(), path


def collections() -> Iterator[Collection]:
    """All of them, in the order in which a name is looked up."""
    for folder in os.environ.get(VARIABLE, "").split(os.pathsep):
        if folder:
            yield Collection(Path(folder), "", f"{VARIABLE}={folder}")
    for point in entry_points(group=ENTRY_POINT_GROUP):
        yield from _of_package(point.value, f"{point.name}/", point.value)
    yield from _of_package(BUNDLED, "", "bundled")


def recipe_names() -> dict[str, str]:
    """The names of all recipes, sorted, each with the collection that it comes from."""
    found: dict[str, str] = {}
    for collection in collections():
        for name, _ in collection.files():
            found.setdefault(name, collection.label)
    return dict(sorted(found.items()))


def named_file(name: str) -> Path | None:
    """The file of a recipe, with or without suffix in its name; None where no recipe has the name."""
    for collection in collections():
        for found, path in collection.files():
            if name in (found, found + path.suffix):
                return path
    return None


def near_names(name: str) -> str:
    """The end of a message that names the nearest recipe, or where to find them."""
    return did_you_mean(name, recipe_names()) or "; `paredown recipes list` names the recipes that are installed"


def _of_package(package: str, prefix: str, label: str) -> Iterator[Collection]:
    """The folder of a package, found without running it, nor the packages that it is in."""
    top, *inner = package.split(".")
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        if Path(folder, *inner).is_dir():
            yield Collection(Path(folder, *inner), prefix, label)


def _is_card(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(7).removeprefix(BOM_UTF8)[:4].rstrip() == b"---"
    except OSError:
        return False

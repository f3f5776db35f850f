"""Finding modifier classes by their type name: the built-in package, and entry points of `paredown.modifiers`.

Discovery happens on first use, never at import. A plug-in that fails to import takes nothing down: its failure is
told when its type is asked for.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType, ModuleType
from typing import get_args

from paredown.framework.errors import ParedownError
from paredown.framework.modifier.base import Modifier

__all__ = ["ENTRY_POINT_GROUP", "Registry", "registry", "type_name"]

BUILT_IN_PACKAGE = "paredown.modifiers"
ENTRY_POINT_GROUP = "paredown.modifiers"


@dataclass(frozen=True)
class Registry:
    """Modifier classes by type name, and the entry points that failed to import, by name, with their reason."""

    types: Mapping[str, type[Modifier]]
    failures: Mapping[str, str]


@cache
def registry() -> Registry:
    """All modifiers that are installed.

    Raises:
        ParedownError: two classes have one type name; both are named.
    """
    failures: dict[str, str] = {}
    modules = [*_built_in_modules(), *_plug_in_modules(entry_points(group=ENTRY_POINT_GROUP), failures)]
    found: dict[str, type[Modifier]] = {}
    for modifier in _classes(modules):
        name = type_name(modifier)
        if found.setdefault(name, modifier) is not modifier:
            raise ParedownError(
                f"two modifiers are called {name!r}: {_place(found[name])} and {_place(modifier)}; "
                "rename one, or uninstall the package that brings it"
            )
    return Registry(MappingProxyType(dict(sorted(found.items()))), MappingProxyType(failures))


def type_name(modifier: type[Modifier]) -> str:
    """The value of its ``type: Literal[...]`` field; "" for a base class without one."""
    values = get_args(modifier.model_fields["type"].annotation)
    return str(values[0]) if values else ""


def _built_in_modules() -> Iterator[ModuleType]:
    package = importlib.import_module(BUILT_IN_PACKAGE)
    for info in pkgutil.walk_packages(package.__path__, f"{BUILT_IN_PACKAGE}."):
        yield importlib.import_module(info.name)


def _plug_in_modules(points: Iterable[EntryPoint], failures: dict[str, str]) -> Iterator[ModuleType]:
    for point in points:
        try:
            loaded = point.load()
        except Exception as error:  # a stranger's module may fail in any way
            failures[point.name] = f"{point.value}: {type(error).__name__}: {error}"
            continue
        yield loaded if inspect.ismodule(loaded) else importlib.import_module(loaded.__module__)


def _classes(modules: list[ModuleType]) -> Iterator[type[Modifier]]:
    for module in modules:
        for value in vars(module).values():
            own = inspect.isclass(value) and issubclass(value, Modifier) and value.__module__ == module.__name__
            if own and type_name(value):
                yield value


def _place(modifier: type[Modifier]) -> str:
    return f"{modifier.__module__}.{modifier.__qualname__}"

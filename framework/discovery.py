"""Finding classes that take part by being there: in a built-in package, and behind entry points of other packages.

It happens on first use, never at import. What fails to import takes nothing down: the failure is kept beside.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterable, Iterator, MutableMapping
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import TypeVar

__all__ = ["classes_in", "modules_of_package", "modules_of_plug_ins"]

C = TypeVar("C")


def modules_of_package(package: str) -> Iterator[ModuleType]:
    """All modules of an installed package, imported."""
    found = importlib.import_module(package)
    for info in pkgutil.walk_packages(found.__path__, f"{package}."):
        yield importlib.import_module(info.name)


def modules_of_plug_ins(group: str, failures: MutableMapping[str, str]) -> Iterator[ModuleType]:
    """The modules that entry points of a group name, or whose objects they name.

    Args:
        failures: gets the reason of each that does not import, by the name of the entry point.
    """
    points: Iterable[EntryPoint] = entry_points(group=group)
    for point in points:
        try:
            loaded = point.load()
        except Exception as error:  # a stranger's module may fail in any way
            failures[point.name] = f"{point.value}: {type(error).__name__}: {error}"
            continue
        yield loaded if inspect.ismodule(loaded) else importlib.import_module(loaded.__module__)


def classes_in(modules: Iterable[ModuleType], base: type[C]) -> Iterator[type[C]]:
    """The subclasses of a class that modules define themselves."""
    for module in modules:
        for value in vars(module).values():
            if inspect.isclass(value) and issubclass(value, base) and value.__module__ == module.__name__:
                yield value

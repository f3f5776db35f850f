"""Finding modifier classes by their type name: the built-in package, entry points, and classes that were registered.

Discovery happens on first use, never at import. A plug-in that fails to import takes nothing down: its failure is
part of the error when its type is asked for.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import NoReturn, TypeVar, get_args

from paredown.framework.discovery import classes_in, modules_of_package, modules_of_plug_ins
from paredown.framework.errors import ParedownError
from paredown.framework.modifier.base import Modifier

__all__ = ["ENTRY_POINT_GROUP", "Registry", "class_name", "missing_classes", "register", "registry", "type_name"]

BUILT_IN_PACKAGE = "paredown.modifiers"
ENTRY_POINT_GROUP = "paredown.modifiers"

M = TypeVar("M", bound=type[Modifier])

#: classes of scripts and notebooks, by type name
_registered: dict[str, type[Modifier]] = {}


@dataclass(frozen=True)
class Registry:
    """Modifier classes by type name, and the entry points that failed to import, by name, with their reason."""

    types: Mapping[str, type[Modifier]]
    failures: Mapping[str, str]


def registry() -> Registry:
    """All modifiers that are installed or were registered.

    Raises:
        ParedownError: two classes have one type name; both are named.
    """
    installed = _installed()
    if not _registered:
        return installed
    for name, own in _registered.items():
        if name in installed.types:
            _refuse_two(name, installed.types[name], own)
    types = dict(sorted({**installed.types, **_registered}.items()))
    return Registry(MappingProxyType(types), installed.failures)


def register(modifier: M) -> M:
    """Make a modifier class of a script or notebook known, so that recipes can name its type.

    It returns the class, and works as a decorator. A class that is defined again, as in a notebook cell that is run
    twice, replaces the one before.

    Raises:
        ParedownError: it is no modifier class with a ``type: Literal[...]``, or another class has this type name.
    """
    if not inspect.isclass(modifier) or not issubclass(modifier, Modifier):
        raise ParedownError(f"register: a subclass of paredown.Modifier is wanted, not {modifier!r}")
    name = type_name(modifier)
    if not name:
        raise ParedownError(f'{class_name(modifier)} has no type name: give it the field type: Literal["..."] = "..."')
    known = _installed().types.get(name) or _registered.get(name)
    if known is not None and class_name(known) != class_name(modifier):
        _refuse_two(name, known, modifier)
    if name not in _installed().types:
        _registered[name] = modifier
    return modifier


def class_name(modifier: type[Modifier]) -> str:
    """The module and name of a modifier class: as a checkpoint names it."""
    return f"{modifier.__module__}.{modifier.__qualname__}"


def missing_classes(modifiers: object) -> str | None:
    """What a checkpoint's ``modifiers`` need that is not known here, as the end of an error; None: nothing.

    Args:
        modifiers: from names to mappings with "type" and "class"; of a stranger's file, anything.
    """
    entries = modifiers.values() if isinstance(modifiers, Mapping) else ()
    known = registry().types
    missing = {
        str(each.get("class")): each["type"]
        for each in entries
        if isinstance(each, Mapping) and isinstance(each.get("type"), str) and each["type"] not in known
    }
    if not missing:
        return None
    named = ", ".join(f"{name} (type {kind!r})" for name, kind in missing.items())
    return f"needs the modifier class {named}: define or import it, and call paredown.register on it, before this"


@cache
def _installed() -> Registry:
    failures: dict[str, str] = {}
    modules = [*modules_of_package(BUILT_IN_PACKAGE), *modules_of_plug_ins(ENTRY_POINT_GROUP, failures)]
    found: dict[str, type[Modifier]] = {}
    for modifier in classes_in(modules, Modifier):
        name = type_name(modifier)
        if name and found.setdefault(name, modifier) is not modifier:
            _refuse_two(name, found[name], modifier)
    return Registry(MappingProxyType(dict(sorted(found.items()))), MappingProxyType(failures))


def type_name(modifier: type[Modifier]) -> str:
    """The value of its ``type: Literal[...]`` field; "" for a base class without one."""
    values = get_args(modifier.model_fields["type"].annotation)
    return str(values[0]) if values else ""


def _refuse_two(name: str, first: type[Modifier], second: type[Modifier]) -> NoReturn:
    raise ParedownError(
        f"two modifiers are called {name!r}: {class_name(first)} and {class_name(second)}; "
        "rename one, or uninstall the package that brings it"
    )

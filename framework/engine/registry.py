"""Finding engines by their name: the built-in ones, and those of entry points. On first use, never at import."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from paredown.framework.discovery import classes_in, modules_of_package, modules_of_plug_ins
from paredown.framework.engine.contract import Engine
from paredown.framework.errors import ExportError, did_you_mean

__all__ = ["DEFAULT", "engine_called", "engines", "unknown_engine"]

BUILT_IN_PACKAGE = "paredown.integrations.engines"
ENTRY_POINT_GROUP = "paredown.engines"
#: what is exported to where no engine is named
DEFAULT = "onnxruntime"


@cache
def engines() -> Mapping[str, type[Engine]]:
    """All engines by name, also those whose programs are not installed.

    Raises:
        ExportError: two have one name.
    """
    found: dict[str, type[Engine]] = {}
    modules = [*modules_of_package(BUILT_IN_PACKAGE), *modules_of_plug_ins(ENTRY_POINT_GROUP, {})]
    for engine in classes_in(modules, Engine):  # type: ignore[type-abstract]
        if inspect.isabstract(engine):
            continue
        if found.setdefault(engine.name, engine) is not engine:
            raise ExportError(f"two engines are called {engine.name!r}: {found[engine.name]} and {engine}")
    return MappingProxyType(dict(sorted(found.items())))


def engine_called(name: str) -> Engine:
    """The engine of a name.

    Raises:
        ExportError: there is none, or what it needs is not installed.
    """
    found = engines().get(name)
    if found is None:
        raise ExportError(unknown_engine(name))
    found.require()
    return found()


def unknown_engine(name: object) -> str:
    """What is said of a name that no engine has."""
    near = did_you_mean(name, engines()) if isinstance(name, str) else ""
    return f"unknown engine {name!r}; the engines are {', '.join(engines())}{near}"

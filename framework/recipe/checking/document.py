"""Validates a resolved recipe: the fields beside the modifiers, the modifiers, the times."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from paredown.framework.engine.registry import engines, unknown_engine
from paredown.framework.errors import Mistake, did_you_mean
from paredown.framework.modifier.base import Modifier
from paredown.framework.modifier.registry import registry
from paredown.framework.recipe.checking.modifiers import ModifierValidation
from paredown.framework.recipe.checking.schedule import schedule_mistakes
from paredown.framework.recipe.tree.nodes import Node
from paredown.framework.recipe.tree.positions import Path, Position, from_where, shown
from paredown.framework.recipe.tree.writing import FIELDS

__all__ = ["Validated", "validated"]

FORMAT_VERSION = 1
MOST_EPOCHS = 1e15
#: of ``run``
RUN_FIELDS = ("epochs", "engine")

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*", re.ASCII)


@dataclass(frozen=True)
class Validated:
    """The content of a recipe, with the mistakes in it."""

    modifiers: Mapping[str, Modifier]
    run_epochs: float | None
    engine: str | None
    mistakes: tuple[Mistake, ...]


def validated(root: Node, broken: frozenset[Path] = frozenset()) -> Validated:
    """Check a resolved recipe as a whole.

    Args:
        root: the tree; a mapping.
        broken: paths that did not resolve and are therefore missing; they cause no further mistakes.
    """
    validation = _Validation(root, broken)
    validation.check_shape()
    modifiers = validation.modifiers()
    epochs, engine = validation.run_epochs(), validation.engine()
    mistakes = [*validation.mistakes]
    known = epochs is not None or not validation.is_given(("run", "epochs"))
    windows = [*modifiers.values(), *validation.times_alone]
    mistakes.extend(schedule_mistakes(windows, root, epochs, check_run=known))
    return Validated(modifiers, epochs, engine, tuple(mistakes))


class _Validation:
    def __init__(self, root: Node, broken: frozenset[Path]) -> None:
        self.root = root
        self.broken = broken
        self.mistakes: list[Mistake] = []
        self.times_alone: list[Modifier] = []

    def is_given(self, path: Path) -> bool:
        """Whether the recipe has a value there, valid or not."""
        return self.root.at(path) is not None or any(path[: len(each)] == each for each in self.broken)

    def check_shape(self) -> None:
        """The fields beside the modifiers."""
        for name in self.root.mapping or {}:
            if name not in FIELDS:
                message = (
                    f"unknown field {name!r}{did_you_mean(name, FIELDS) or '; the fields are ' + ', '.join(FIELDS)}"
                )
                self._add((name,), message, of_key=True)
        self._check_version()
        for name, is_right, wanted in _SHAPES:
            node = self.root.at((name,))
            if node is not None and node.value is not None and not is_right(node):
                self._found((name,), node, wanted)
        self._check_elements()

    def run_epochs(self) -> float | None:
        """The length of the run, if it is given and right."""
        run = self.root.at(("run",))
        for name in (run.mapping or {}) if run is not None else ():
            if name not in RUN_FIELDS:
                near = did_you_mean(name, RUN_FIELDS) or f"; run has {' and '.join(RUN_FIELDS)}"
                self._add(("run", name), f"unknown field {name!r}{near}", of_key=True)
        node = self.root.at(("run", "epochs"))
        if node is None or node.value is None:
            return None
        epochs = node.value
        if isinstance(epochs, bool) or not isinstance(epochs, (int, float)) or not 0 < epochs <= MOST_EPOCHS:
            self._found(("run", "epochs"), node, "a number of epochs, more than 0")
            return None
        return epochs

    def engine(self) -> str | None:
        """The engine that the model is for, if it is given and known."""
        node = self.root.at(("run", "engine"))
        if node is None or node.value is None:
            return None
        if not isinstance(node.value, str) or node.value not in engines():
            self._add(
                ("run", "engine"), unknown_engine(node.plain()) + from_where(self.root.place(("run", "engine"))[1])
            )
            return None
        return node.value

    def modifiers(self) -> dict[str, Modifier]:
        """The modifiers that are right."""
        node = self.root.at(("modifiers",))
        if node is None or node.value is None:
            if not self.is_given(("modifiers",)) or node is not None:
                self._add(("modifiers",), "missing; a mapping from names to modifiers")
            return {}
        if node.mapping is None:
            self._found(("modifiers",), node, "a mapping: every modifier has a name (modifiers: {prune: {type: ...}})")
            return {}
        validation = ModifierValidation(self.root, self.broken, registry())
        made = {name: validation.modifier(name) for name in node.mapping if self._is_name(name)}
        self.mistakes.extend(validation.mistakes)
        self.times_alone.extend(validation.times_alone)
        return {name: modifier for name, modifier in made.items() if modifier is not None}

    def _check_version(self) -> None:
        node = self.root.at(("recipe",))
        if node is None:
            if not self.is_given(("recipe",)):
                start = Position(self.root.position.file, self.root.position.line, self.root.position.column)
                message = f"missing; the version of the format, recipe: {FORMAT_VERSION}"
                self.mistakes.append(start.mistake(message, "recipe"))
        elif node.value != FORMAT_VERSION or isinstance(node.value, bool):
            self._found(("recipe",), node, f"{FORMAT_VERSION}, the version of the format that this paredown reads")

    def _check_elements(self) -> None:
        for name, is_right, wanted in (("tags", _is_text, "a text"), ("results", _is_mapping, "a mapping")):
            node = self.root.at((name,))
            if node is not None and isinstance(node.value, tuple):
                for index, element in enumerate(node.value):
                    if not is_right(element):
                        self._found((name, index), element, wanted)
        variables = self.root.at(("variables",))
        for name in (variables.mapping or {}) if variables is not None else ():
            if not _NAME.fullmatch(name):
                self._add(("variables", name), f"{shown(name)} is no name; letters, digits, _ and -", of_key=True)

    def _is_name(self, name: str) -> bool:
        if _NAME.fullmatch(name):
            return True
        message = f"{shown(name)} is no name of a modifier; letters, digits, _ and -, a letter first"
        self._add(("modifiers", name), message, of_key=True)
        return False

    def _found(self, path: Path, node: Node, wanted: str) -> None:
        origin = self.root.place(path)[1]
        self._add(path, f"found {shown(node.plain())}; must be {wanted}{from_where(origin)}")

    def _add(self, path: Path, message: str, *, of_key: bool = False) -> None:
        self.mistakes.append(self.root.place(path, of_key=of_key)[0].mistake(message, path))


def _is_text(node: Node) -> bool:
    return isinstance(node.value, str)


def _is_mapping(node: Node) -> bool:
    return node.mapping is not None


def _is_list(node: Node) -> bool:
    return isinstance(node.value, tuple)


_SHAPES: tuple[tuple[str, Callable[[Node], bool], str], ...] = (
    ("name", _is_text, "a text"),
    ("description", _is_text, "a text"),
    ("tags", _is_list, "a list of texts"),
    ("run", _is_mapping, "a mapping: run: {epochs: 30}"),
    ("variables", _is_mapping, "a mapping from names to values"),
    ("results", _is_list, "a list of mappings"),
)

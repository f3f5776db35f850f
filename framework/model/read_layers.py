"""Layers whose attributes another module reads, as its source code shows: it may never call their forward."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from paredown.framework.model.links import base_class
from paredown.framework.model.targets import named_modules

__all__ = ["Use", "uses_of", "weight_is_read"]

#: of a tensor, what says nothing of its values
DESCRIPTIONS = ("shape", "dtype", "device", "size", "dim", "ndim", "numel", "element_size", "is_cuda", "requires_grad")


@dataclass(frozen=True)
class Use:
    """What a forward does with something that it reaches through ``self``.

    Attributes:
        path: the attributes behind ``self``: ("qkv", "weight") of ``self.qkv.weight``.
        called: whether the last of them is called.
    """

    path: tuple[str, ...]
    called: bool


def uses_of(model: nn.Module, name: str) -> Iterator[Use]:
    """How the modules above a layer use it in their forward: paths that begin behind the layer, empty for itself.

    Nothing is known of code without a source, of torch's own layers, and of what goes through containers.
    """
    modules, parts = named_modules(model), name.split(".")
    for depth in range(len(parts)):
        above = modules.get(".".join(parts[:depth]))
        below = tuple(parts[depth:])
        kind: Any = None if above is None else base_class(above)
        for use in () if kind is None else _uses_in(kind):
            if use.path[: len(below)] == below:
                yield Use(use.path[len(below) :], use.called)


def weight_is_read(model: nn.Module, name: str) -> bool:
    """Whether the code of a module above a layer reads the values of the layer's weight."""
    paths = (use.path for use in uses_of(model, name))
    return any(path[:1] == ("weight",) and not set(path[1:2]) & set(DESCRIPTIONS) for path in paths)


@functools.lru_cache(maxsize=1024)
def _uses_in(kind: type[nn.Module]) -> frozenset[Use]:
    """The uses in a class's forward, and in the methods and properties that it goes through."""
    found: set[Use] = set()
    waiting, known = ["forward"], {"forward"}
    while waiting:
        uses = _uses_in_function(_function(kind, waiting.pop()))
        found |= uses
        more = {use.path[0] for use in uses if _function(kind, use.path[0]) is not None} - known
        known |= more
        waiting += sorted(more)
    return frozenset(found)


def _function(kind: type[nn.Module], name: str) -> Any:
    """A method or a property's function, if its author is not torch."""
    member = inspect.getattr_static(kind, name, None)
    function = member.fget if isinstance(member, property) else member
    own = inspect.isfunction(function) and not (function.__module__ or "").startswith("torch.nn.")
    return function if own else None


def _uses_in_function(function: Any) -> set[Use]:
    if function is None:
        return set()
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    except (OSError, TypeError, SyntaxError):  # no source, or not on lines of its own
        return set()
    definition = next((node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)), None)
    if definition is None or not definition.args.args:
        return set()
    visitor = _Uses(definition.args.args[0].arg)
    visitor.visit(definition)
    return visitor.found


class _Uses(ast.NodeVisitor):
    """Gathers the paths behind ``self``, also through local names for parts of them."""

    def __init__(self, own: str) -> None:
        self.names: dict[str, tuple[str, ...]] = {own: ()}
        self.found: set[Use] = set()

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        path = self._path(node.value)
        if path and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            self.names[node.targets[0].id] = path

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id in ("isinstance", "hasattr"):
            return
        path = self._path(node.func)
        if path:
            self.found.add(Use(path, True))
        else:
            self.visit(node.func)
        for argument in (*node.args, *node.keywords):
            self.visit(argument)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        path = self._path(node)
        if path:
            self.found.add(Use(path, False))
        else:
            self.generic_visit(node)

    def _path(self, node: ast.AST) -> tuple[str, ...] | None:
        if isinstance(node, ast.Name):
            return self.names.get(node.id)
        above = self._path(node.value) if isinstance(node, ast.Attribute) else None
        return None if above is None else (*above, node.attr)  # type: ignore[attr-defined]

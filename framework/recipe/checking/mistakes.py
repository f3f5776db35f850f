"""Turns pydantic's validation errors of a modifier into mistakes with positions and with what is allowed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from paredown.framework.errors import Mistake, did_you_mean
from paredown.framework.recipe.tree.nodes import Node
from paredown.framework.recipe.tree.positions import Path, from_where, shown

__all__ = ["field_mistakes"]

#: the start of pydantic's error type, and what the value must be
_KINDS = (
    ("float", "a number"),
    ("int", "a whole number"),
    ("bool", "true or false"),
    ("string", "a text"),
    ("tuple", "a list"),
    ("list", "a list"),
    ("set", "a list"),
    ("frozen_set", "a list"),
    ("dict", "a mapping"),
    ("model", "a mapping of fields"),
    ("none", "null"),
    ("finite_number", "a finite number"),
)
_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
#: of several errors of one value (one for each member of a union), the first of these kinds is reported
_PREFERRED = ("value_error", "extra_forbidden", "missing", "greater", "less", "literal_error")


def field_mistakes(error: ValidationError, model: type[BaseModel], root: Node, at: Path) -> Iterator[Mistake]:
    """The mistakes of a validation error.

    Args:
        error: what ``model.model_validate`` raised.
        model: the class of the modifier.
        root: the resolved recipe.
        at: the path of the modifier in it.
    """
    details = [(_path(detail, root, at), detail) for detail in error.errors(include_url=False)]
    order = {path: number for number, path in reversed(list(enumerate(path for path, _ in details)))}
    details.sort(key=lambda pair: order[pair[0]])
    for path, group in groupby(details, key=lambda pair: pair[0]):
        yield _mistake([detail for _, detail in group], model, root, path, path[len(at) :])


def _path(detail: ErrorDetails, root: Node, at: Path) -> Path:
    """The path of an error in the recipe; names of union members, that pydantic puts in, fall out."""
    path: Path = at
    node = root.at(at)
    for part in detail["loc"]:
        below = node.child(part) if node is not None else None
        if below is not None:
            path, node = (*path, part), below
    if detail["type"] == "missing" and path[-1:] != detail["loc"][-1:]:  # else it is there, and null
        path = (*path, detail["loc"][-1])
    return path


def _mistake(details: Sequence[ErrorDetails], model: type[BaseModel], root: Node, path: Path, inside: Path) -> Mistake:
    detail = min(details, key=lambda each: _rank(each["type"]))
    unknown = detail["type"] == "extra_forbidden"
    place, origin = root.place(path, of_key=unknown)
    fields = _fields(model, inside[:-1])
    if unknown:
        return place.mistake(_unknown_field(str(path[-1]), fields), path)
    if detail["type"] == "missing":
        return place.mistake(f"{path[-1]} is required{_described(fields.get(str(path[-1])))}", path)
    message = _message(details, detail, fields.get(str(path[-1])))
    return place.mistake(message + from_where(origin), path)


def _rank(kind: str) -> int:
    return next((rank for rank, start in enumerate(_PREFERRED) if kind.startswith(start)), len(_PREFERRED))


def _unknown_field(name: str, fields: Mapping[str, Any]) -> str:
    near = did_you_mean(name, fields)
    return f"unknown field {name!r}" + (near or (f"; the fields are {', '.join(fields)}" if fields else ""))


def _described(field: Any) -> str:
    text = getattr(field, "description", None)
    return f": {text.strip().splitlines()[0]}" if text else ""


def _message(details: Sequence[ErrorDetails], detail: ErrorDetails, field: Any) -> str:
    """What was found, and what is allowed."""
    kind, found = detail["type"], shown(detail["input"])
    if kind == "value_error":
        message = detail["msg"].removeprefix("Value error, ")
        message += _near(message, detail["input"])
        return message if _names(message, detail["input"]) else f"found {found}; {message}"
    if kind == "literal_error":
        return f"found {found}; {_choices(details, detail['input'])}"
    if kind == "too_short":
        return f"found {found}; must have at least one{_without(field)}"
    if bounds := _bounds(detail, field):
        return f"found {found}; must be {bounds}{_as_share(detail['input'], bounds)}"
    kinds = [words for each in details if (words := _kind(each["type"]))]
    if kinds:
        return f"found {found}; must be {' or '.join(dict.fromkeys(kinds))}{_as_share(detail['input'])}"
    return f"found {found}; {detail['msg'][:1].lower()}{detail['msg'][1:]}"


def _without(field: Any) -> str:
    required = field is None or field.is_required()
    return "" if required else ", or be left out for its default"


def _as_share(value: object, bounds: str = "") -> str:
    """The share that a percentage is, where a number was wanted, or one of 0 to 1."""
    text = value.strip() if isinstance(value, str) else f"{value}%" if bounds == "between 0 and 1" else ""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", text, re.ASCII)
    if match is None or float(match[1]) > 100:
        return ""
    return f"; {match[1]}% is written {float(match[1]) / 100:.12g}"


def _near(message: str, value: object) -> str:
    """The nearest of the words that the message allows, to a word or key that is not among them."""
    allowed = re.findall(r"\w{3,}", message.partition("; ")[2])
    given = [value] if isinstance(value, str) else list(value) if isinstance(value, dict) else []
    wrong = [one for one in given if isinstance(one, str) and one not in allowed]
    return next((near for one in wrong if (near := did_you_mean(one, allowed))), "")


def _names(message: str, value: object) -> bool:
    """Whether the message shows the found value already; a mapping that was checked as a whole is not repeated."""
    return isinstance(value, (dict, BaseModel)) or repr(value)[:40] in message or str(value)[:40] in message


def _choices(details: Sequence[ErrorDetails], value: object) -> str:
    allowed = ", ".join(dict.fromkeys(_literals(details)))
    near = did_you_mean(value, [text.strip("'") for text in allowed.split(", ")]) if isinstance(value, str) else ""
    others = [words for each in details if (words := _kind(each["type"]))]
    more = f", or {' or '.join(dict.fromkeys(others))}" if others else ""
    return f"one of {allowed}{more}{near}"


def _literals(details: Iterable[ErrorDetails]) -> Iterator[str]:
    for detail in details:
        if detail["type"] == "literal_error":
            yield from str(detail["ctx"]["expected"]).replace(" or ", ", ").split(", ")


def _bounds(detail: ErrorDetails, field: Any) -> str:
    if not detail["type"].startswith(("greater_than", "less_than")):
        return ""
    limits = dict(detail.get("ctx", {}))
    for bound in _metadata(field):
        limits.update({name: getattr(bound, name) for name in _BOUNDS if hasattr(bound, name)})
    if {"ge", "le"} <= limits.keys():
        return f"between {limits['ge']:g} and {limits['le']:g}"
    return " and ".join(f"{words} {limits[name]:g}" for name, words in _BOUNDS.items() if name in limits)


def _metadata(field: Any) -> Iterator[Any]:
    """What bounds a field's value, also where it may be null."""
    yield from getattr(field, "metadata", ())
    for part in get_args(getattr(field, "annotation", None)):
        for inner in getattr(part, "__metadata__", ()):
            yield from _metadata(inner)


def _kind(error: str) -> str:
    suffixes = ("_type", "_parsing", "_from_float", "_required", "_attributes_type", "finite_number", "_unicode")
    if not error.endswith(suffixes):
        return ""
    return next((words for start, words in _KINDS if error.startswith(start)), "")


def _fields(model: type[BaseModel], inside: Path) -> Mapping[str, Any]:
    """The fields that are known at a path inside a modifier; empty where they are not known."""
    for part in inside:
        field = model.model_fields.get(str(part))
        inner = next(_models(field.annotation), None) if field is not None else None
        if inner is None:
            return {}
        model = inner
    return model.model_fields


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)

"""The JSON Schema of a recipe file, from the modifiers' own models: completion and hover text in editors."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from paredown.framework.engine.registry import engines
from paredown.framework.modifier.base import Modifier
from paredown.framework.modifier.registry import registry
from paredown.framework.modifier.time import Time

__all__ = ["recipe_schema"]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_NAME = "^[A-Za-z_][A-Za-z0-9_-]*$"
_INTERPOLATION = {
    "type": "string",
    "pattern": r"\$\{",
    "description": 'A reference such as ${variables.sparsity}, or ${expr:"${modifiers.prune.end} + 6"}.',
}
_INTERPOLATED = {"$ref": "#/$defs/interpolation"}
#: keywords of a schema whose values are schemas: by name, in a list, alone
_BY_NAME, _IN_LIST, _ALONE = ("properties", "$defs"), ("anyOf", "oneOf", "allOf", "prefixItems"), ("items",)


def recipe_schema() -> dict[str, Any]:
    """The schema over all modifiers that are installed, as plain values."""
    types = registry().types
    definitions: dict[str, Any] = {"interpolation": _INTERPOLATION}
    for name, modifier in types.items():
        definitions.update(_definitions(name, modifier))
    return {
        "$schema": DIALECT,
        "title": "paredown recipe",
        "description": "Compression of a PyTorch model: modifiers, each with its window in the training run.",
        "type": "object",
        "properties": _fields(),
        "additionalProperties": False,
        "if": {"required": ["extends"]},
        "then": {"properties": {"modifiers": {"additionalProperties": _partial(types)}}},
        "else": {"required": ["recipe", "modifiers"], "properties": {"modifiers": _whole(types)}},
        "$defs": definitions,
    }


def _fields() -> dict[str, Any]:
    text, number = {"type": "string"}, {"type": "number", "exclusiveMinimum": 0}
    engine = {"enum": list(engines()), "description": "The program that the compressed model is for."}
    run = {
        "epochs": _or_interpolated({**number, "description": "Length of the training run, in epochs."}),
        "engine": _or_interpolated(engine),
    }
    return {
        "recipe": {"const": 1, "description": "The version of the format."},
        "name": {**text, "description": "Default: the name of the file."},
        "description": {**text, "description": "What the recipe does, and for whom."},
        "tags": {"type": "array", "items": text, "description": "Words to find the recipe by."},
        "extends": {**text, "description": "A recipe that this one starts from; null removes what it brings."},
        "run": {
            "type": ["object", "null"],
            "properties": run,
            "additionalProperties": False,
            "description": "The run that the times refer to.",
        },
        "variables": {
            "type": ["object", "null"],
            "propertyNames": {"pattern": _NAME},
            "description": "What is meant to be changed, as ${variables.name}.",
        },
        "modifiers": {
            "type": "object",
            "propertyNames": {"pattern": _NAME},
            "description": "From a name of your choice, which logs, overrides and checkpoints use, to a modifier.",
        },
        "results": {"type": "array", "items": {"type": "object"}, "description": "Evidence from runs of this recipe."},
    }


def _whole(types: Iterable[str]) -> dict[str, Any]:
    return {"additionalProperties": {"oneOf": [_reference(name) for name in types]}}


def _partial(types: Iterable[str]) -> dict[str, Any]:
    """In a recipe that extends another, a modifier may give some fields only, or null."""
    known = {"type": "object", "properties": {"type": {"enum": list(types)}}}
    return {"anyOf": [known, {"type": "null"}]}


def _definitions(name: str, modifier: type[Modifier]) -> dict[str, Any]:
    """The definition of a modifier, and those of the models inside it, under names of their own."""
    schema = modifier.model_json_schema(ref_template=f"#/$defs/{name}.{{model}}", schema_generator=_Generator)
    inner = schema.pop("$defs", {})
    schema = _interpolatable(schema)
    schema["title"] = name
    schema["description"] = inspect.getdoc(modifier) or ""
    schema["properties"]["type"] = {"const": name, "description": schema["description"].split("\n")[0]}
    schema["required"] = sorted({*schema.get("required", ()), "type"})
    return {name: schema, **{f"{name}.{model}": _interpolatable(each) for model, each in inner.items()}}


class _Generator(GenerateJsonSchema):
    def encode_default(self, dft: Any) -> Any:
        return dft.plain() if isinstance(dft, Time) else super().encode_default(dft)


def _interpolatable(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema where every field and every element may also be an interpolation."""
    result = dict(schema)
    for keyword in _BY_NAME:
        if keyword in result:
            result[keyword] = {name: _or_interpolated(_interpolatable(each)) for name, each in result[keyword].items()}
    for keyword in _IN_LIST:
        if keyword in result:
            result[keyword] = [_interpolatable(each) for each in result[keyword]]
    for keyword in _ALONE:
        if isinstance(result.get(keyword), Mapping):
            result[keyword] = _or_interpolated(_interpolatable(result[keyword]))
    return result


def _or_interpolated(schema: Mapping[str, Any]) -> dict[str, Any]:
    shown = {key: schema[key] for key in ("title", "description", "default") if key in schema}
    return {**shown, "anyOf": [{key: each for key, each in schema.items() if key not in shown}, _INTERPOLATED]}


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/$defs/{name}"}

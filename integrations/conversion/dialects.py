"""Finds the variables and the modifiers of an old recipe, whichever dialect it is written in.

SparseML wrote modifiers as tags (`- !GMPruningModifier`) in lists whose keys end in `modifiers`, later as keys of such
a mapping, in stages; llm-compressor kept the latter, and takes modifiers without a stage too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from paredown.integrations.conversion.notes import Notes
from paredown.integrations.conversion.reading import Value, refuse

__all__ = ["OldModifier", "OldRecipe", "old_recipe"]

METADATA = ("version", "framework", "recipe_metadata", "metadata", "sparseml_version")
STAGE_FIELDS = ("run_type", "args")


@dataclass(frozen=True)
class OldModifier:
    """A modifier as it was written: by a tag or by a key, with what its stage defines."""

    name: str
    fields: dict[str, Value]
    line: int
    tagged: bool
    run_type: str | None = None
    stage: str | None = None
    #: variables of its stage by the names that they have in the new recipe
    renamed: dict[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return f"!{self.name}" if self.tagged else self.name


@dataclass
class OldRecipe:
    """The variables and modifiers of an old recipe."""

    file: str
    variables: dict[str, Value] = field(default_factory=dict)
    modifiers: list[OldModifier] = field(default_factory=list)


def old_recipe(root: Value, file: str, notes: Notes) -> OldRecipe:
    """Find variables and modifiers.

    Raises:
        RecipeError: there is nothing that could be a modifier, or one is written as neither dialect does.
    """
    recipe = OldRecipe(file)
    if isinstance(root.value, tuple):
        recipe.modifiers.extend(_listed(root, file, _Stage()))
    elif root.items:
        _Sections(recipe, notes).read(root)
    if not recipe.modifiers:
        raise refuse(file, root.line, "no modifiers: neither a recipe of SparseML nor one of llm-compressor")
    return recipe


@dataclass(frozen=True)
class _Stage:
    """What a stage defines for its modifiers; empty for those outside of one."""

    stage: str | None = None
    run_type: str | None = None
    renamed: dict[str, str] = field(default_factory=dict)


class _Sections:
    """The keys of a recipe, and of its stages."""

    def __init__(self, recipe: OldRecipe, notes: Notes) -> None:
        self.recipe, self.notes = recipe, notes

    def read(self, root: Value) -> None:
        for key, value in root.items.items():
            if _is_group(key) or _is_modifier(key):
                self._group(key, value, _Stage())
            elif any(_is_group(name) or _is_modifier(name) for name in value.items):
                self._stage(key, value)
            else:
                self._variable(key, value, key)

    def _stage(self, stage: str, value: Value) -> None:
        run_type = value.items.get("run_type")
        variables = {
            **(value.items["args"].items if "args" in value.items else {}),
            **{key: given for key, given in value.items.items() if not _is_group(key) and not _is_modifier(key)},
        }
        renamed: dict[str, str] = {}
        for key, given in variables.items():
            if key not in STAGE_FIELDS:
                taken = key in self.recipe.variables and self.recipe.variables[key].plain() != given.plain()
                renamed[key] = f"{stage.removesuffix('_stage')}_{key}" if taken else key
                self._variable(renamed[key], given, key)
        for key, group in value.items.items():
            if _is_group(key) or _is_modifier(key):
                self._group(key, group, _Stage(stage, str(run_type.value) if run_type else None, renamed))

    def _group(self, key: str, value: Value, stage: _Stage) -> None:
        if _is_modifier(key):
            value = Value({key: value}, value.line)
        self.recipe.modifiers.extend(_listed(value, self.recipe.file, stage))

    def _variable(self, name: str, value: Value, key: str) -> None:
        if key in METADATA:
            self.notes.left_out(value.line, key, "about the old tool or run")
        else:
            self.recipe.variables[name] = value


def _is_group(key: str) -> bool:
    return key == "modifiers" or key.endswith("_modifiers")


def _is_modifier(key: str) -> bool:
    return key.endswith("Modifier")


def _listed(group: Value, file: str, stage: _Stage) -> Iterator[OldModifier]:
    """The modifiers of a list of tags, of a mapping, or of a list of mappings with one key."""
    for entry in group.elements if group.value is not None else ():
        if entry.tag is not None:
            yield OldModifier(entry.tag, _fields(entry, entry.tag, file), entry.line, True, **vars(stage))
            continue
        if not entry.items:
            raise refuse(file, entry.line, f"{entry.plain()!r} is no modifier; one is a tag or a key with its fields")
        for name, fields in entry.items.items():
            if not _is_modifier(name):
                raise refuse(file, fields.line, f"{name!r} is no modifier: the names of modifiers end in 'Modifier'")
            yield OldModifier(name, _fields(fields, name, file), fields.line, False, **vars(stage))


def _fields(value: Value, name: str, file: str) -> dict[str, Value]:
    if value.value in (None, ""):
        return {}
    if not isinstance(value.value, dict):
        raise refuse(file, value.line, f"{name} has no fields, but {value.plain()!r}")
    return dict(value.items)

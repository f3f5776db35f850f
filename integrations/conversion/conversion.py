"""Translates an old recipe to the mapping of a new one, with notes on what is left out or differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paredown.integrations.conversion.dialects import OldRecipe, old_recipe
from paredown.integrations.conversion.fields import Fields
from paredown.integrations.conversion.notes import Notes
from paredown.integrations.conversion.reading import read, refuse
from paredown.integrations.conversion.table import EPOCH_RANGE, TRANSLATORS, why_not
from paredown.integrations.conversion.translators.overlaps import New, without_overlaps
from paredown.integrations.conversion.translators.run_length import run_length
from paredown.integrations.conversion.translators.stages import Stage, shifted, stages_of
from paredown.integrations.conversion.translators.times import is_trained
from paredown.integrations.conversion.variables import Variables

__all__ = ["Converted", "convert"]

SHORT_NAMES = {
    "quantization_aware_training": "quantize",
    "static_quantization": "quantize",
    "dynamic_quantization": "quantize",
    "weight_quantization": "quantize",
    "constant_sparsity": "keep_zeros",
    "knowledge_distillation": "distill",
    "feature_distillation": "distill_features",
    "magnitude_pruning": "prune",
    "movement_pruning": "prune",
    "fisher_pruning": "prune",
    "wanda_pruning": "prune",
    "sparsegpt": "prune",
}


@dataclass
class Converted:
    """A new recipe as a mapping, and the notes on it."""

    recipe: dict[str, Any]
    notes: Notes


def convert(text: str, file: str) -> Converted:
    """Translate the text of an old recipe.

    Args:
        text: YAML, or a Markdown card where ``file`` ends in .md.
        file: the name in error messages.

    Raises:
        RecipeError: it is not a recipe of SparseML or llm-compressor, or nothing of it has a counterpart.
    """
    notes = Notes()
    root = read(text, file)
    old = old_recipe(root, file, notes)
    variables = Variables(old)
    trained = [modifier for modifier in old.modifiers if is_trained(Fields(modifier, variables, Notes()))]
    stages = stages_of(old, variables)
    epochs = run_length(trained, variables) if trained else None
    if total := max((stage.begins + stage.length for stage in stages.values()), default=0):
        epochs = (total, total) if epochs is None or total > epochs[1] else epochs
    variables.epochs = epochs[1] if epochs else 0
    modifiers = without_overlaps(_translated(old, variables, stages, notes), notes)
    if not modifiers:
        listed = "".join(f"\n  {note}" for note in notes.sorted())
        raise refuse(file, root.line, f"nothing in it has a counterpart{listed}")
    kept = variables.kept()
    _list_variables(old, variables, set(kept), notes)
    run = {"run": {"epochs": epochs[0]}} if epochs else {}
    return Converted(
        {"recipe": 1, **run, **({"variables": kept} if kept else {}), "modifiers": _named(modifiers)}, notes
    )


def _translated(old: OldRecipe, variables: Variables, stages: Mapping[str, Stage], notes: Notes) -> list[New]:
    found: list[New] = []
    run = variables.epochs
    for modifier in old.modifiers:
        fields = Fields(modifier, variables, notes)
        stage = stages.get(modifier.stage or "")
        variables.epochs = stage.length if stage and stage.length else run
        if modifier.name == EPOCH_RANGE:
            fields.expect("start_epoch", 0, 0.0, -1, -1.0, reason="a run starts at 0")
            fields.value("end_epoch")
        elif modifier.name in TRANSLATORS:
            new = TRANSLATORS[modifier.name](fields)
            made = [new] if isinstance(new, dict) else new or []
            found += [New.of(shifted(one, fields, stage) if stage else one, fields) for one in made]
            if not new:
                continue
        else:
            notes.left_out(modifier.line, modifier.title, why_not(modifier.name))
            continue
        fields.finish()
    variables.epochs = run
    return found


def _named(modifiers: list[New]) -> dict[str, Any]:
    """The modifiers by name: what they do, and from the second of a kind on a number."""
    named: dict[str, Any] = {}
    counts: Counter[str] = Counter()
    for new in modifiers:
        base = SHORT_NAMES.get(new.kind, new.kind)
        counts[base] += 1
        named[base if counts[base] == 1 else f"{base}_{counts[base]}"] = new.fields
    return named


def _list_variables(old: OldRecipe, variables: Variables, kept: set[str], notes: Notes) -> None:
    for name, value in old.variables.items():
        if name in variables.inlined:
            notes.differs(value.line, name, "no number; its value is written where it was used")
        elif name not in kept:
            notes.left_out(value.line, name, "no number, and no modifier uses it")

"""Old recipes of one modifier, translated or refused, for the tests of the converter."""

import pytest

from paredown import RecipeError
from paredown.integrations.conversion.conversion import convert

GM = """\
modifiers:
  - !{tag}
    params: __ALL_PRUNABLE__
    init_sparsity: 0.1
    final_sparsity: 0.8
    start_epoch: -1
    end_epoch: {end}
    update_frequency: {frequency}
    {extra}
"""
PRUNE = """\
final: {final}
modifiers:
  - !GMPruningModifier
    params: {params}
    init_sparsity: 0.0
    final_sparsity: eval(final)
    start_epoch: 0.0
    end_epoch: 2.0
    update_frequency: 0.5
"""


def new_of(text):
    """The new modifiers, and what was listed as (line, subject)."""
    converted = convert(text, "old.yaml")
    return converted.recipe["modifiers"], [(note.line, note.subject) for note in converted.notes.sorted()]


def pruning(tag="GMPruningModifier", end=5, frequency=-1, extra="inter_func: cubic"):
    return new_of(GM.format(tag=tag, end=end, frequency=frequency, extra=extra))


def problem(text, file="old.yaml"):
    """The message that refuses it."""
    with pytest.raises(RecipeError) as caught:
        convert(text, file)
    return str(caught.value)

"""Recipes of other tools are recognised, and nothing else is."""

import pytest
from small_recipes import PRUNE, recipe, refused, write

TAGGED = "sp: 0.8\nmodifiers:\n  - !GMPruningModifier\n      start_epoch: 0\n"
GROUPED = "pruning_modifiers:\n  - !GMPruningModifier\n      start_epoch: 0\n"
STAGED = "sparsity_stage:\n  run_type: oneshot\n  obcq_modifiers:\n    SparseGPTModifier:\n      sparsity: 0.5\n"
LISTED = "- !EpochRangeModifier\n  start_epoch: 0\n"
PLAIN = "quant_stage:\n  quant_modifiers:\n    GPTQModifier: {scheme: W4A16}\n"


@pytest.mark.parametrize("text", [TAGGED, GROUPED, STAGED, LISTED, PLAIN])
def test_an_old_recipe_is_one_mistake_that_names_the_command(text, tmp_path):
    error = refused(write(tmp_path, "old.yaml", text), "paredown convert")
    assert len(error.errors) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"modifiers": {"prune": PRUNE}},
        {"modifiers": [PRUNE]},
        {"recipe": 1, "modifiers": [{"GMPruningModifier": {}}]},
        {"stage": {"modifiers": {"prune": PRUNE}}},
    ],
)
def test_a_mistake_in_an_own_recipe_is_said_as_such(wrong):
    assert "convert" not in str(refused(wrong, ""))


def test_a_variable_may_be_called_so():
    refused(recipe(variables={"OneModifier": 1}, modifiers={}, end=2), "unknown field 'end'")

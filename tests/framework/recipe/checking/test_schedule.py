import pytest
from small_recipes import PRUNE, prune, recipe, refused

from paredown import Recipe, RecipeError


def test_times_are_needed_only_where_there_are_times():
    assert (
        Recipe.load({"recipe": 1, "modifiers": {"f": {"type": "magnitude_pruning", "final_sparsity": 0.5}}}).run_epochs
        is None
    )
    refused({"recipe": 1, "modifiers": {"prune": PRUNE}}, "run.epochs")


def test_a_window_may_be_a_point():
    same = recipe()
    same["modifiers"]["prune"].update(start=3)
    assert prune(same)["start"] == prune(same)["end"] == 3


def test_windows_are_checked_beside_mistakes_in_fields():
    prune = {"type": "magnitude_pruning", "end": 9, "final_sparsty": 0.5}
    with pytest.raises(RecipeError) as caught:
        Recipe.load({"recipe": 1, "run": {"epochs": 8}, "modifiers": {"prune": prune}})
    told = str(caught.value)
    assert "final_sparsty" in told
    assert "modifiers.prune.end: found 9 epochs; the run ends after 8 epochs" in told

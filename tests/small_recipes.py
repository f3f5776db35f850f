"""Recipes of one modifier, for the tests of the recipe language."""

import pytest
import yaml

from paredown import Recipe, RecipeError

PRUNE = {"type": "magnitude_pruning", "start": 1, "end": 3, "final_sparsity": 0.9}


def recipe(**more):
    return {"recipe": 1, "name": "t", "run": {"epochs": 4}, "modifiers": {"prune": dict(PRUNE)}, **more}


def prune(source, **options):
    return Recipe.load(source, **options).resolved()["modifiers"]["prune"]


def write(folder, name, values):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values, sort_keys=False))
    return path


def refused(source, words, **options):
    with pytest.raises(RecipeError) as caught:
        Recipe.load(source, **options)
    assert words in str(caught.value)
    return caught.value

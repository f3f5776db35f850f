"""What is allowed, in place of what was found."""

import pytest
from small_recipes import PRUNE, recipe, refused

from paredown import Recipe


@pytest.mark.parametrize(
    ("fields", "path", "words"),
    [
        ({"targets": []}, "modifiers.prune.targets", "at least one, or be left out for its default"),
        ({"targets": ["fc", "re:[a"]}, "modifiers.prune.targets[1]", "is no regular expression"),
        ({"ignore": ["re:(a"]}, "modifiers.prune.ignore[0]", "is no regular expression"),
        ({"scope": {"layers": {"re:*": 0.5}}}, "modifiers.prune.scope.layers.re:*", "is no regular expression"),
        ({"final_sparsity": "90%"}, "modifiers.prune.final_sparsity", "90% is written 0.9"),
        ({"final_sparsity": 90}, "modifiers.prune.final_sparsity", "90% is written 0.9"),
        ({"end": -1}, "modifiers.prune.end", "leave the field out for its default"),
    ],
)
def test_what_other_tools_write_is_answered_by_what_to_write(fields, path, words):
    error = refused(recipe(modifiers={"prune": {**PRUNE, **fields}}), words)
    assert error.path == path


def test_no_ignore_is_a_list_too():
    assert Recipe.load(recipe(modifiers={"prune": {**PRUNE, "ignore": []}})).modifiers["prune"].ignore == ()

"""The overrides of a sweep: their grammar, and the mistakes of all jobs."""

import pytest

from paredown import Recipe, RecipeError
from paredown.framework.experiments.sweep.overrides import check_jobs, combinations, recipe_overrides, split_hydra


def test_combinations_are_in_hydras_grammar():
    assert combinations(["a.b=1,2", "c=x", "d=range(0,2)"]) == [
        ("a.b=1", "c=x", "d=0"), ("a.b=1", "c=x", "d=1"), ("a.b=2", "c=x", "d=0"), ("a.b=2", "c=x", "d=1")
    ]  # fmt: skip
    assert combinations([]) == [()]
    assert combinations(["a=[x,y],[z]", "~b"]) == [("a=[x,y]", "~b"), ("a=[z]", "~b")]
    assert recipe_overrides(["a=[x,y]", "~b", "+c='on'", "d=null", "e=${expr:\"2 * 3\"}", "f=60%", "g={bits: 4}"]) == [
        'a=["x", "y"]', "~b", '+c="on"', "d=null", 'e="${expr:\\"2 * 3\\"}"', 'f="60%"', 'g={"bits": 4}'
    ]  # fmt: skip
    assert split_hydra(["hydra.x=1", "hydrant=1", "+hydra.y=1", "hydra/launcher=joblib"])[0] == ["hydrant=1"]


def test_the_mistakes_of_all_jobs_are_raised_at_once():
    recipe = Recipe.load(
        {"recipe": 1, "run": {"epochs": 4}, "modifiers": {"p": {"type": "magnitude_pruning", "final_sparsity": 0.5}}}
    )
    jobs = combinations(["modifiers.p.final_sparsty=0.5,0.6", "modifiers.p.end=3,9", "modifiers.q.end=1"])
    with pytest.raises(RecipeError) as caught:
        check_jobs(recipe, jobs)
    told = str(caught.value)
    assert "modifiers.p.final_sparsty=0.6: modifiers.p.final_sparsty: unknown field" in told
    assert told.count("did you mean 'final_sparsity'") == 2
    assert "modifiers.p.end=9" in told
    assert told.count("modifiers has no 'q'") == 1

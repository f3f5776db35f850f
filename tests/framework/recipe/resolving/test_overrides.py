import pytest
from small_recipes import prune, recipe, refused

from paredown import Recipe


def test_overrides():
    overrides = [
        "modifiers.prune.curve=linear",
        "modifiers.prune.end=null",
        "~modifiers.prune.start",
        "+variables.new=3",
        "modifiers.prune.targets=[Linear, Conv2d]",
        "modifiers.prune.final_sparsity=${variables.s}",
    ]
    found = prune(recipe(variables={"s": 0.5}), overrides=overrides)
    assert found == {
        "type": "magnitude_pruning",
        "final_sparsity": 0.5,
        "curve": "linear",
        "targets": ["Linear", "Conv2d"],
    }


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("modifiers.prun.end=2", "override 1: modifiers.prun: modifiers has no 'prun'; did you mean 'prune'?"),
        ("variables.sparsty=2", "did you mean 'sparsity'?"),
        (
            "modifiers.prune.curv=linear",
            "override 1: modifiers.prune.curv: unknown field 'curv'; did you mean 'curve'?",
        ),
        ("modifiers.prune.final_sparsity=2", "override 1: modifiers.prune.final_sparsity: found 2"),
        ("~modifiers.prune.curve", "modifiers.prune has no 'curve'"),
        ("modifiers.prune.targets.0=Linear", "give the whole list"),
        ("nonsense", "has no value"),
        ("modifiers..end=3", "write a.b=value"),
        ("run.epochs=", "has no value"),
        ("run.epochs=[1", "is missing"),
        ("run.epoch=3", "did you mean 'epochs'?"),
        ("runn.epochs=3", "did you mean 'run'?"),
    ],
)
def test_wrong_overrides(override, words):
    source = recipe(variables={"sparsity": 1})
    source["modifiers"]["prune"]["targets"] = ["Linear"]
    refused(source, words, overrides=[override])


def test_variables_from_python():
    source = recipe(variables={"s": 0.5})
    source["modifiers"]["prune"]["final_sparsity"] = "${variables.s}"
    assert prune(source, variables={"s": 0.7})["final_sparsity"] == 0.7
    refused(source, "the value comes from variables.s (variable s)", variables={"s": 7})
    refused(source, "variable S: variables.S", variables={"S": 0.7})
    refused(source, "a value of type 'object'", variables={"s": object()})


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("s=0.5", "variables.s"),
        ("prune.end=2", "modifiers.prune.end"),
        ("final_sparsity=0.5", "modifiers.prune.final_sparsity"),
    ],
)
def test_a_place_that_is_written_without_what_it_is_in(override, meant):
    refused(recipe(variables={"s": 0.9}), f"did you mean {meant}?", overrides=[override])


def test_a_field_of_the_recipe_may_have_a_variables_name():
    assert Recipe.load(recipe(variables={"description": 1}), overrides=["description=x"]).description == "x"

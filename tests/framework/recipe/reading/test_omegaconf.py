import yaml
from omegaconf import OmegaConf
from small_recipes import prune, recipe, refused

from paredown import Recipe


def test_what_an_app_sets_to_null_is_removed():
    modifiers = {**recipe()["modifiers"], "gone": None}
    app = OmegaConf.create({"recipe": {**recipe(), "modifiers": modifiers}})
    assert list(Recipe.load(app.recipe).modifiers) == ["prune"]
    refused({**recipe(), "modifiers": modifiers}, "null removes an inherited modifier")


def test_inside_an_app():
    source = recipe(variables={"s": "${share}", "t": '${expr:"${variables.s} / 2"}', "u": "${deep.recipe.variables.s}"})
    source["modifiers"]["prune"]["final_sparsity"] = "${variables.t}"
    app = OmegaConf.create({"share": 0.8, "variables": {"s": 7}, "deep": {"recipe": source}})
    loaded = Recipe.load(app.deep.recipe)
    assert prune(loaded)["final_sparsity"] == 0.4
    assert loaded.variables["u"] == 0.8
    assert prune(yaml.safe_load(loaded.to_yaml()))["final_sparsity"] == 0.4
    app.deep.recipe.modifiers.prune.final_sparsity = "${share}"
    refused(app.deep.recipe, "only values under variables")

"""`paredown plan`: the effects of a recipe."""

import json


def test_plan(folder, paredown):
    code, out, err = paredown("plan", "recipe.yaml", "--task", "job:task")
    assert code == 0, err
    assert "prune (magnitude_pruning): from 1 epochs to 3 epochs, steps 8 to 24" in out
    data = json.loads(paredown("plan", "recipe.yaml", "--task", "job:task", "--json")[1])
    assert [m["name"] for m in data["modifiers"]] == ["prune", "quantize"]

"""`paredown recipes list` and `paredown recipes show`."""

import json

GOOD = "recipe: 1\nname: x\nrun: {epochs: 4}\nmodifiers:\n  p: {type: magnitude_pruning, end: 3, final_sparsity: 0.5}\n"


def test_recipes(paredown, tmp_path):
    assert paredown("recipes", "list")[0] == 0
    assert isinstance(json.loads(paredown("recipes", "list", "--json")[1]), list)
    (tmp_path / "good.yaml").write_text(GOOD)
    code, out, _ = paredown("recipes", "show", "good.yaml")
    assert code == 0
    assert "final_sparsity: 0.5" in out
    assert json.loads(paredown("recipes", "show", "good.yaml", "--json")[1])["modifiers"]["p"]["end"] == 3
    (tmp_path / "bad.yaml").write_text(GOOD.replace("end: 3", "end: 9"))
    code, out, err = paredown("recipes", "show", "bad.yaml")
    assert (code, out) == (1, "")
    assert "bad.yaml:5:37" in err

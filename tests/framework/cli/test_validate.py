"""`paredown validate`: its output and its exit codes."""

import json

GOOD = "recipe: 1\nname: x\nrun: {epochs: 4}\nmodifiers:\n  p: {type: magnitude_pruning, end: 3, final_sparsity: 0.5}\n"


def test_validate(paredown, tmp_path):
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "bad.yaml").write_text(GOOD.replace("end: 3", "end: 9"))
    assert paredown("validate", "good.yaml") == (0, "good.yaml: holds (p)\n", "")
    assert paredown("validate", "good.yaml", "--quiet") == (0, "", "")
    code, out, err = paredown("validate", "good.yaml", "bad.yaml")
    assert (code, out) == (1, "good.yaml: holds (p)\n")
    assert "bad.yaml:5:37: modifiers.p.end: found 9 epochs" in err
    assert err.endswith("bad.yaml: 1 mistake\n")
    assert paredown("validate", "bad.yaml", "modifiers.p.end=2", "-q")[0] == 0
    assert "override 1" in paredown("validate", "good.yaml", "modifiers.p.final_sparsity=2")[2]


def test_validate_as_json(paredown, tmp_path):
    (tmp_path / "bad.yaml").write_text(GOOD.replace("end: 3", "end: 9"))
    code, out, err = paredown("validate", "bad.yaml", "--json")
    error = json.loads(out)["recipes"][0]["errors"][0]
    assert (code, err, error["line"], error["column"], error["path"]) == (1, "", 5, 37, "modifiers.p.end")
    assert paredown("validate", "bad.yaml", "--json", "--output", "out/result.json")[0] == 1
    assert json.loads((tmp_path / "out/result.json").read_text())["recipes"][0]["valid"] is False

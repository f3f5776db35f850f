"""`paredown verify`: recorded numbers hold or do not, and no foreign code runs unasked."""

import json

import pytest
import yaml
from changed_recipes import BASE, changed
from tiny_task import RECIPE

from paredown import Recipe
from paredown.framework.recipe.reading.collections import recipe_names


@pytest.fixture
def recorded(paredown, tmp_path):
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    made = paredown(
        "run", "tiny.yaml", "--task", "tiny_task:task", "--record", "--seeds", "2", "--output", "out", "--quiet"
    )
    assert made == (0, "", "")
    return yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text())


def test_a_recorded_recipe_is_verified(recorded, paredown, tmp_path):
    entry = recorded["results"][0]
    assert entry["run"] == {"task": "tiny_task:task", "seeds": [0, 1], "apply": False}
    code, out, err = paredown("verify", "out/recipe.yaml", "--task", "tiny_task:task")
    assert (code, out.splitlines()[-1]) == (0, "every recorded number holds"), err
    for model, key, value in (
        ("compressed", "accuracies", [x - 0.2 for x in entry["compressed"]["accuracies"]]),
        ("dense", "accuracies", [x - 0.2 for x in entry["dense"]["accuracies"]]),
        ("dense", "accuracies", [entry["dense"]["accuracies"][0] + 0.3, *entry["dense"]["accuracies"][1:]]),
        ("compressed", "bytes", int(entry["compressed"]["bytes"] * 0.9)),
    ):
        forged = changed(key, value, entry[model])
        text = yaml.safe_dump({**recorded, "results": [{**entry, model: forged}]})
        (tmp_path / "forged.yaml").write_text(text)
        code, out, _ = paredown("verify", "forged.yaml", "--task", "tiny_task:task")
        assert (code, out.splitlines()[-1]) == (1, "the recorded numbers do not hold")
        assert sum("does not hold" in line for line in out.splitlines()[:-1]) == 1
    numbers = json.loads(paredown("verify", "forged.yaml", "--task", "tiny_task:task", "--json")[1])[0]["numbers"]
    assert [one["name"] for one in numbers if not one["holds"]] == ["compressed bytes"]


def test_a_recipe_from_elsewhere_starts_no_code(recorded, paredown):
    code, _, err = paredown("verify", "out/recipe.yaml")
    assert code == 2
    assert "code from elsewhere" in err
    assert "--task" in err


def test_a_recipe_without_a_recorded_run_proves_nothing(paredown, tmp_path):
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({**BASE, "results": [{"task": "by hand", "dense": None}]}))
    code, _, err = paredown("verify", "r.yaml")
    assert code == 1
    assert "--record" in err


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", [name for name in sorted(recipe_names()) if Recipe.load(name).results])
def test_bundled_recipes_keep_what_they_record(name, paredown):
    code, out, err = paredown("verify", name)
    assert code == 0, out + err

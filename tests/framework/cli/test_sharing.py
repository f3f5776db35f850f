"""`paredown diff`, `card` and `verify`: recipes that travel."""

import json
from xml.etree import ElementTree

import pytest
import yaml

from paredown import Recipe
from paredown.framework.recipe.comparing import differences
from paredown.framework.recipe.reading.collections import recipe_names

BASE = {
    "recipe": 1,
    "name": "base",
    "run": {"epochs": 4},
    "variables": {"s": 0.5},
    "modifiers": {
        "prune": {"type": "magnitude_pruning", "start": 1, "end": 3, "every": 0.5, "final_sparsity": "${variables.s}"},
        "quantize": {"type": "quantization_aware_training", "start": 3},
    },
}


def changed(path, value, base=BASE):
    copy = json.loads(json.dumps(base))
    *above, last = path.split(".")
    place = copy
    for key in above:
        place = place[key]
    place[last] = value
    return copy


def paths(first, second):
    return [one.path for one in differences(Recipe.load(first), Recipe.load(second))]


def test_meaning_is_compared_not_text():
    same = [
        changed("name", "other"),
        changed("description", "words"),
        changed("modifiers.prune.final_sparsity", 0.5),
        changed("modifiers.prune.final_sparsity", '${expr:"${variables.s} * 1"}'),
        changed("modifiers.prune.start", "25%"),
        changed("modifiers.prune.start", 1.0),
        changed("modifiers.prune.scope", "global"),
        changed("modifiers.quantize.weights", {"bits": 8}),
        {**BASE, "modifiers": dict(reversed(BASE["modifiers"].items()))},
        changed("results", [{"task": "x"}]),
    ]
    for other in same:
        assert paths(BASE, other) == [], other
    assert paths(BASE, changed("variables.s", 0.6)) == ["modifiers.prune.final_sparsity"]
    assert paths(BASE, changed("run.epochs", 5)) == ["run.epochs"]
    assert paths(BASE, changed("modifiers.quantize.weights", {"bits": 4})) == ["modifiers.quantize.weights.bits"]
    assert paths(BASE, changed("modifiers.prune.type", "random_pruning")) == ["modifiers.prune.type"]
    extra = changed("modifiers.distill", {"type": "knowledge_distillation"})
    assert paths(BASE, extra) == ["modifiers.distill.type"]
    assert paths(extra, BASE) == ["modifiers.distill.type"]


def test_of_modifiers_that_start_together_the_order_counts():
    together = changed("modifiers.quantize.start", 1)
    turned = {**together, "modifiers": dict(reversed(together["modifiers"].items()))}
    assert paths(together, turned) == ["order of what starts at 1"]


def test_diff(paredown, tmp_path):
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(BASE))
    (tmp_path / "b.yaml").write_text("# other\n" + yaml.safe_dump(changed("modifiers.prune.end", 2), sort_keys=False))
    code, out, err = paredown("diff", "a.yaml", "b.yaml")
    assert (code, err) == (1, "")
    assert [line.split() for line in out.splitlines() if line.startswith(("modifiers.prune.end", "prune"))] == [
        ["modifiers.prune.end", "3", "2"],
        ["prune", "1", "to", "3", "1", "to", "2"],
    ]
    assert paredown("diff", "a.yaml", "a.yaml")[:2] == (0, "a.yaml and a.yaml mean the same\n")
    assert json.loads(paredown("diff", "a.yaml", "b.yaml", "--json")[1]) == [
        {"path": "modifiers.prune.end", "first": 3, "second": 2}
    ]
    assert paredown("diff", "a.yaml", "nowhere.yaml")[0] == 2


@pytest.mark.parametrize("name", sorted(recipe_names()))
def test_a_card_is_the_recipe(name, paredown, tmp_path):
    assert paredown("card", name, "--output", "card.md") == (0, "", "")
    assert differences(Recipe.load("card.md"), Recipe.load(name)) == []
    assert Recipe.load("card.md").results == Recipe.load(name).results
    text = (tmp_path / "card.md").read_text()
    for modifier in Recipe.load(name).modifiers.values():
        assert f"| `{modifier.name}` | `{modifier.type}` |" in text
    picture = tmp_path / "card-timeline.svg"
    if picture.exists():
        assert "](card-timeline.svg)" in text
        drawn = ElementTree.fromstring(picture.read_text())
        named = {element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")}
        assert set(Recipe.load(name).modifiers) <= named


def test_a_card_tells_results(paredown, tmp_path):
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({**BASE, "results": [
        {"task": "digits | zeros", "dense": {"accuracies": [0.9, 0.8], "bytes": 2000},
         "compressed": {"accuracies": [0.7], "bytes": 1000}, "size_ratio": 0.5}]}))  # fmt: skip
    out = paredown("card", "r.yaml")[1]
    assert "| digits \\| zeros | 0.8500 (of 2) | 0.7000 (of 1) | 2,000 | 1,000 | 0.5 |" in out
    assert "paredown verify r.yaml" in out


@pytest.fixture
def recorded(paredown, tmp_path):
    from tiny_task import RECIPE

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

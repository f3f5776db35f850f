"""`paredown card`: a card is a recipe, and shows its results."""

from xml.etree import ElementTree

import pytest
import yaml
from changed_recipes import BASE

from paredown import Recipe
from paredown.framework.recipe.comparing import differences
from paredown.framework.recipe.reading.collections import recipe_names


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


def test_a_card_shows_results(paredown, tmp_path):
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({**BASE, "results": [
        {"task": "digits | zeros", "dense": {"accuracies": [0.9, 0.8], "bytes": 2000},
         "compressed": {"accuracies": [0.7], "bytes": 1000}, "size_ratio": 0.5,
         "run": {"task": "team.job:task", "seeds": [0], "apply": True}}]}))  # fmt: skip
    out = paredown("card", "r.yaml")[1]
    assert "| digits \\| zeros | 0.8500 (of 2) | 0.7000 (of 1) | 2,000 | 1,000 | 0.5 |" in out
    assert "paredown run r.yaml --task team.job:task --apply\nparedown verify r.yaml --task team.job:task\n" in out


def test_the_commands_of_a_card_keep_overrides_and_odd_names(paredown, tmp_path):
    (tmp_path / "my recipe.yaml").write_text(yaml.safe_dump(BASE))
    out = paredown("card", "my recipe.yaml", "modifiers.prune.end=2")[1]
    assert "paredown run 'my recipe.yaml' modifiers.prune.end=2 --task my_project.job:task\n" in out
    assert "paredown verify" not in out
    assert """from_yaml("my recipe.yaml", overrides=['modifiers.prune.end=2'])""" in out


def test_a_card_shows_other_metrics(paredown, tmp_path):
    entry = {
        "task": "words",
        "metrics": {"error": {"goal": "min", "unit": "%", "scale": 100}},
        "dense": {"metrics": {"error": [0.25]}},
        "compressed": {"metrics": {"error": [0.5]}},
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({**BASE, "results": [entry]}))
    out = paredown("card", "r.yaml")[1]
    assert "error, dense | error, compressed" in out
    assert "| words | 25 % (of 1) | 50 % (of 1) |" in out

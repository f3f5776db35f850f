import pytest
import torch
from omegaconf import OmegaConf
from small_recipes import prune, recipe, refused, write

from paredown import Recipe


def test_sources(tmp_path):
    path = write(tmp_path, "mine.yaml", {k: v for k, v in recipe().items() if k != "name"})
    assert Recipe.load(path).name == Recipe.load(str(path)).name == "mine"
    card = write(tmp_path, "card.md", "---\n" + path.read_text() + "---\n# Results\n")
    torch.save({"manager": {"recipe": Recipe.load(path).to_yaml()}}, tmp_path / "state.pt")
    expected = prune(path)
    for source in (card, tmp_path / "state.pt", tmp_path, Recipe.load(path), OmegaConf.create(recipe())):
        assert prune(source) == expected
    torch.save({"x": 1}, tmp_path / "other.pt")
    refused(tmp_path / "other.pt", "a checkpoint without a recipe")
    refused(write(tmp_path, "bare.md", "# Title\n"), "no recipe; a card starts with")
    refused(write(tmp_path, "open.md", "---\nrecipe: 1\n"), "has no end")
    refused(write(tmp_path, "r.txt", "recipe: 1\n"), "not a recipe")
    refused("recipe: 1\nmodifiers: {}\n", "no such file")
    with pytest.raises(TypeError):
        Recipe.load(3)


def test_the_name_of_the_file_travels(tmp_path):
    (tmp_path / "mine.yaml").write_text("recipe: 1\nmodifiers: {}\n")
    (tmp_path / "other.yaml").write_text(Recipe.load(tmp_path / "mine.yaml").to_yaml())
    assert Recipe.load(tmp_path / "other.yaml").name == "mine"

from small_recipes import PRUNE, prune, recipe, refused, write

from paredown import Recipe


def test_extends_merges_removes_and_chains(tmp_path):
    write(tmp_path, "a/first.yaml", recipe(tags=["x"], results=[{"size": 1}]))
    write(tmp_path, "a/second.yaml", {"extends": "first.yaml", "modifiers": {"prune": {"curve": "linear"}}})
    child = {
        "recipe": 1,
        "extends": "a/second.yaml",
        "modifiers": {"prune": {"end": None}, "again": {**PRUNE, "start": 2}},
    }
    loaded = Recipe.load(write(tmp_path, "child.yaml", child))
    assert prune(loaded) == {"type": "magnitude_pruning", "start": 1, "final_sparsity": 0.9, "curve": "linear"}
    assert list(loaded.modifiers) == ["prune", "again"]
    assert loaded.tags == ("x",)
    assert loaded.results == []
    elsewhere = write(tmp_path, "b/alone.yaml", loaded.to_yaml())
    assert Recipe.load(elsewhere).resolved() == loaded.resolved()
    child["modifiers"]["prune"] = None
    assert list(Recipe.load(write(tmp_path, "child.yaml", child)).modifiers) == ["again"]


def test_extends_in_a_circle(tmp_path):
    write(tmp_path, "a.yaml", {"extends": "b.yaml"})
    write(tmp_path, "b.yaml", {"extends": "a.yaml"})
    error = refused(tmp_path / "a.yaml", "a.yaml -> b.yaml -> a.yaml")
    assert error.file.endswith("b.yaml")


def test_a_long_chain_is_merged_and_an_endless_one_refused(tmp_path):
    write(tmp_path, "0.yaml", recipe())
    for number in range(1, 60):
        write(tmp_path, f"{number}.yaml", {"recipe": 1, "extends": f"{number - 1}.yaml", "tags": [str(number)]})
    loaded = Recipe.load(tmp_path / "59.yaml")
    assert (loaded.run_epochs, loaded.tags) == (4, ("59",))
    for number in range(60, 140):
        write(tmp_path, f"{number}.yaml", {"recipe": 1, "extends": f"{number - 1}.yaml"})
    refused(tmp_path / "139.yaml", "a chain of more than 100 recipes")

"""A user's own Hydra app: paredown's recipes as a config group, sweeps, interpolation, misspelt overrides."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize

from paredown import Recipe, RecipeError
from paredown.framework.recipe.reading.collections import recipe_names

ROOT = Path(__file__).parents[3]
APP = """
import hydra, torch
from hydra.core.hydra_config import HydraConfig
from paredown import Recipe, ScheduledManager

@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(cfg):
    torch.manual_seed(0)
    model = torch.nn.Linear(50, 40, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    manager = ScheduledManager(Recipe.load(cfg.recipe))
    manager.modify(model, optimizer, steps_per_epoch=5)
    for _ in range(cfg.trainer.epochs * 5):
        optimizer.zero_grad()
        model(torch.randn(8, 50)).pow(2).mean().backward()
        optimizer.step()
    report = manager.finalize()
    report.save(f"{HydraConfig.get().runtime.output_dir}/report.json")
    print("SPARSITY", round((model.weight == 0).float().mean().item(), 4), "SCOPE", cfg.recipe.modifiers.prune.get("scope"))

if __name__ == "__main__":
    main()
"""
CONFIG = """
defaults: [{recipe: prune90}, _self_]
trainer: {epochs: 4}
recipe:
  run: {epochs: "${recipe.variables.epochs}"}
  variables: {epochs: "${trainer.epochs}"}
"""


def composed(*overrides):
    with initialize(version_base=None, config_path=None):
        return compose(overrides=list(overrides))


@pytest.mark.parametrize("name", recipe_names())
def test_every_bundled_recipe_is_in_the_group(name):
    recipe = Recipe.load(composed(f"+recipe={name}").recipe)
    assert recipe.resolved() == Recipe.load(name).resolved()
    assert recipe.name == Recipe.load(name).name


def test_variables_and_expressions_are_kept():
    config = composed("+recipe=mnist/prune-quantize-distill", "recipe.variables.sparsity=0.5")
    assert "${" in str(config)
    assert Recipe.load(config.recipe).modifiers["prune"].final_sparsity == 0.5


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("recipe.modifiers.prune.final_sparsty=0.9", "did you mean 'final_sparsity'"),
        ("recipe.modifiers.prun.final_sparsity=0.9", "did you mean 'prune'"),
        ("recipe.modifers.prune.final_sparsity=0.9", "did you mean 'modifiers'"),
        ("recipe.run.epoch=9", "did you mean 'epochs'"),
        ("recipe.variables.sparsty=0.9", "did you mean 'sparsity'"),
        ("recipe.variables.sparsity=1.5", "final_sparsity"),
    ],
)
def test_a_misspelt_override_is_told_in_the_recipes_own_words(override, told):
    with pytest.raises(RecipeError, match=told):
        Recipe.load(composed("+recipe=prune90", override).recipe)


def test_collections_of_ones_own_are_in_the_group(tmp_path, monkeypatch):
    (tmp_path / "team").mkdir()
    (tmp_path / "team" / "half.yaml").write_text("extends: prune90\nvariables: {sparsity: 0.5}\n")
    monkeypatch.setenv("PAREDOWN_RECIPES", str(tmp_path))
    recipe = Recipe.load(composed("+recipe=team/half").recipe)
    assert recipe.modifiers["prune"].final_sparsity == 0.5


def test_two_recipes_side_by_side():
    config = composed("+recipe@first=prune90", "+recipe@second=int8")
    assert [Recipe.load(config[name]).name for name in ("first", "second")] == ["prune90", "int8"]


@pytest.mark.parametrize("name", ["prune90@recipe", "mnist@recipe=prune-quantize-distill"])
def test_the_package_of_recipes_on_hydras_search_path(tmp_path, name):
    (tmp_path / "config.yaml").write_text("hydra: {searchpath: ['pkg://paredown.recipes']}\n")
    from hydra import initialize_config_dir

    with initialize_config_dir(version_base=None, config_dir=str(tmp_path)):
        override = f"+{name}" if "=" in name else f"+recipe@recipe={name.partition('@')[0]}"
        assert Recipe.load(compose("config", overrides=[override]).recipe).modifiers["prune"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel, installed into a folder of its own; nothing of the source tree is on the path."""
    work = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns(".*", "__pycache__", "runs", "build", "dist", "*.egg-info", "tests", "docs")
    shutil.copytree(ROOT, work / "tree", symlinks=True, ignore=ignored)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(work), str(work / "tree")]
    assert subprocess.run(build, capture_output=True).returncode == 0
    (wheel,) = work.glob("*.whl")
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(work / "site"),
        str(wheel),
    ]
    assert subprocess.run(install, capture_output=True).returncode == 0
    return work / "site"


@pytest.fixture
def app(tmp_path, installed):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text(CONFIG)
    (tmp_path / "app.py").write_text(APP)

    def run(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(installed)}
        return subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    return run


@pytest.mark.slow
def test_an_app_with_the_installed_wheel(app, installed, tmp_path):
    where = app("-c", "import paredown, hydra_plugins.paredown_recipes as p; print(paredown.__file__, p.__file__)")
    assert where.stdout.count(str(installed)) == 2, where.stderr

    one = app("app.py", "trainer.epochs=5")
    assert "SPARSITY 0.9 " in one.stdout, one.stderr
    help = app("app.py", "--help").stdout
    assert "recipe: acdc90" in help
    assert "recipe/mnist: prune-quantize-distill" in help

    swept = app("app.py", "-m", "recipe.modifiers.prune.scope=local,global", "recipe.variables.sparsity=0.5,0.6")
    for scope in ("local", "global"):
        for sparsity in (0.5, 0.6):
            assert f"SPARSITY {sparsity} SCOPE {scope}" in swept.stdout, swept.stderr
    told = app("-m", "paredown.framework.cli.main", "sweep", "multirun")
    assert "4 finished" in told.stdout, told.stderr
    assert "prune.scope=global" in told.stdout

    recipes = app("app.py", "-m", "recipe=prune90,movement90", "hydra/launcher=joblib")
    assert recipes.returncode == 0, recipes.stderr
    typo = app("app.py", "recipe.modifiers.prune.final_sparsty=0.5")
    assert typo.returncode == 1
    assert "did you mean 'final_sparsity'" in typo.stderr
    absent = app("app.py", "recipe=prune9")
    assert absent.returncode == 1
    assert "prune90" in absent.stderr

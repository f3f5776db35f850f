"""A sweep is created with all of its jobs checked, or not at all."""

import sys
from pathlib import Path

import pytest

from paredown import ParedownError, RecipeError
from paredown.framework.errors import ArgumentError
from paredown.framework.experiments.sweep import create_sweep
from paredown.framework.experiments.sweep.manifest import read_manifest

SWEPT = "modifiers.prune.final_sparsity"


def test_the_manifest_of_a_new_sweep(recipe):
    folder = create_sweep(recipe, "tiny_task:task", [f"{SWEPT}=0.5,0.6", "hydra/launcher=joblib"], seeds=2)
    assert folder.parent == Path("runs")
    manifest = read_manifest(folder)
    assert manifest.jobs == ((f"{SWEPT}=0.5",), (f"{SWEPT}=0.6",))
    assert (manifest.count, manifest.seeds, manifest.hydra) == (2, 2, ("hydra/launcher=joblib",))
    assert manifest.working_folder == str(Path.cwd())


@pytest.mark.parametrize(
    ("overrides", "options", "argument", "message"),
    [
        ([f"{SWEPT}=(1"], {}, "overrides", "Error parsing override"),
        ([f"{SWEPT}=interval(0,1)"], {}, "overrides", "in Python trials"),
        (["hydra.sweep.dir=x"], {}, "overrides", "in Python by folder"),
        (["hydra/launcher=jobli"], {}, "overrides", "joblib"),
        ([], {"objectives": ["size"]}, "objectives", "'size'; one of accuracy, bytes"),
        ([], {"folder": "taken"}, "folder", "holds the results of a run"),
        ([], {"folder": "sweep"}, "folder", "holds a sweep; paredown run --resume sweep"),
        ([], {"folder": "file/x"}, "folder", "cannot be written"),
        ([], {"task": "tiny_task:nothing"}, "task", "cannot be imported"),
    ],
)
def test_a_wrong_argument(recipe, overrides, options, argument, message):
    Path("file").touch()
    for name in ("taken/report.json", "sweep/sweep.json"):
        Path(name).parent.mkdir()
        Path(name).write_text("{}")
    with pytest.raises(ArgumentError, match=message) as caught:
        create_sweep(recipe, **{"task": "tiny_task:task", "overrides": overrides, **options})
    assert caught.value.argument == argument
    assert not Path("runs").exists()


def test_mistakes_of_a_search(recipe, monkeypatch):
    pytest.importorskip("optuna")

    def create(*overrides):
        create_sweep(recipe, "tiny_task:task", overrides, trials=2)

    with pytest.raises(RecipeError, match="did you mean 'final_sparsity'"):
        create("modifiers.prune.final_sparsty=interval(0.1,0.9)")
    with pytest.raises(RecipeError, match="between 0 and 1"):
        create(f"{SWEPT}=interval(0.1,1.9)")
    with pytest.raises(ArgumentError, match="nothing is varied"):
        create(f"{SWEPT}=0.5")
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ParedownError, match=r"pip install 'paredown\[sweep\]'"):
        create(f"{SWEPT}=interval(0.1,0.9)")
    assert not Path("runs").exists()

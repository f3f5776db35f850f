"""Sweeps from Python, in an empty folder."""

import pytest
import tiny_task
import yaml

from paredown import Recipe
from paredown.framework.experiments.sweep import SweepEnded, create_sweep, run_sweep


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Recipe.load(yaml.safe_load(tiny_task.RECIPE))


@pytest.fixture
def swept(recipe):
    """Creates and runs a sweep; returns its rows."""

    def run(*overrides, task="task", **options):
        *_, ended = run_sweep(create_sweep(recipe, f"tiny_task:{task}", overrides, **options))
        assert isinstance(ended, SweepEnded)
        return ended.sweep.rows

    return run

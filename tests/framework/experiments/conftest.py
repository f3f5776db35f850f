"""Sweeps from Python, in an empty folder, on one thread."""

import pytest
import tiny_task
import torch
import yaml

from paredown import Recipe
from paredown.framework.experiments.sweep import SweepEnded, create_sweep, run_sweep


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small models on a busy machine are many times slower with more
    yield Recipe.load(yaml.safe_load(tiny_task.RECIPE))
    torch.set_num_threads(threads)


@pytest.fixture
def swept(recipe):
    """Creates and runs a sweep; returns its rows."""

    def run(*overrides, task="task", **options):
        *_, ended = run_sweep(create_sweep(recipe, f"tiny_task:{task}", overrides, **options))
        assert isinstance(ended, SweepEnded)
        return ended.sweep.rows

    return run

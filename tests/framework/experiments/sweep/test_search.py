"""A search: optuna's trials are jobs, and a longer search continues a shorter one."""

import json
from pathlib import Path

import pytest

from paredown.framework.experiments.sweep import run_sweep

optuna = pytest.importorskip("optuna")
SWEPT = "modifiers.prune.final_sparsity"
RANGES = [f"{SWEPT}=interval(0.3,0.9)", "run.epochs=range(3,6)", "modifiers.prune.curve=cubic,linear"]


def study_of(folder):
    return optuna.load_study(study_name="paredown", storage=f"sqlite:///{folder}/optuna.db")


def test_a_search(swept):
    rows = swept(*RANGES, "modifiers.prune.start=0.5", trials=3, folder="out")
    assert len(rows) == 3
    assert {row.overrides[0] for row in rows} == {"modifiers.prune.start=0.5"}
    assert all(0.3 <= float(row.overrides[1].partition("=")[2]) <= 0.9 for row in rows)
    study = study_of("out")
    assert [trial.values for trial in study.trials] == [
        [row.compressed["accuracy"], row.compressed["bytes"]] for row in rows
    ]
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert isinstance(study.trials[0].params["run.epochs"], int)

    manifest = json.loads(Path("out", "sweep.json").read_text())
    Path("out", "sweep.json").write_text(json.dumps({**manifest, "trials": 5}))
    *_, ended = run_sweep("out")
    at_once = swept(*RANGES, "modifiers.prune.start=0.5", trials=5, folder="at-once")
    assert [row.overrides for row in ended.sweep.rows] == [row.overrides for row in at_once]


def test_other_objectives_and_failures(swept):
    objectives = ["accuracy", "nonzeros", "macs"]
    rows = swept(f"{SWEPT}=0.95,0.96", task="failing", trials=2, objectives=objectives, folder="out")
    assert [row.state for row in rows] == ["failed", "failed"]
    study = study_of("out")
    assert [trial.state.name for trial in study.trials] == ["FAIL", "FAIL"]
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE", "MINIMIZE"]


def test_a_job_that_diverges_is_a_failed_trial(swept):
    rows = swept(f"{SWEPT}=0.95,0.96", task="diverging", trials=2, folder="out")
    assert [(row.state, row.compressed.get("accuracy")) for row in rows] == [("failed", None)] * 2
    assert [trial.state.name for trial in study_of("out").trials] == ["FAIL", "FAIL"]

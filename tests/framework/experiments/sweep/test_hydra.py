"""Hydra around a sweep: the cores of each job."""

import tiny_task

from paredown.framework.experiments.sweep.hydra import composed


def test_the_cores_are_shared_among_jobs(tmp_path, monkeypatch):
    monkeypatch.setattr("paredown.framework.experiments.sweep.hydra._cores", lambda: 8)
    for launcher, jobs, wanted in [
        (["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], 6, 4),
        (["hydra/launcher=joblib"], 6, 1),
        (["hydra/launcher=joblib", "hydra.launcher.n_jobs=-5"], 6, 2),
        (["hydra/launcher=joblib", "hydra.launcher.n_jobs=4"], 1, 8),
        (["hydra/launcher=submitit_local"], 3, 2),
        ([], 3, None),
    ]:
        with composed(tiny_task.RECIPE, tmp_path, launcher) as hydra:
            assert hydra.threads(jobs) == wanted, launcher

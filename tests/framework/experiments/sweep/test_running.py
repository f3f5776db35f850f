"""Sweeps run from Python and by `paredown run -m`: events, every launcher, failing jobs, killed sweeps."""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_task
import torch

from paredown import ParedownError, Recipe
from paredown.framework.errors import ArgumentError
from paredown.framework.experiments.sweep import (
    JobEnded,
    JobStarted,
    SweepEnded,
    SweepStarted,
    collect,
    create_sweep,
    run_sweep,
)

TESTS = Path(tiny_task.__file__).parent
LAUNCHERS = {
    "basic": [],
    "joblib": ["hydra.launcher.n_jobs=2"],
    "submitit_local": [],
    "ray": ["+hydra.launcher.ray.init.num_cpus=2"],
}
MODULES = {"joblib": "hydra_joblib_launcher", "submitit_local": "hydra_submitit_launcher", "ray": "hydra_ray_launcher"}
SWEPT = "modifiers.prune.final_sparsity"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "recipe.yaml").write_text(tiny_task.RECIPE)
    (tmp_path / "tiny_task.py").write_text(Path(tiny_task.__file__).read_text())
    return tmp_path


def command(*arguments):
    return [str(Path(sys.executable).with_name("paredown")), *map(str, arguments)]


def paredown(folder, *arguments):
    environment = {**os.environ, "COLUMNS": "300"}
    return subprocess.run(command(*arguments), cwd=folder, capture_output=True, text=True, env=environment)


def sweep(folder, *arguments, task="task"):
    return paredown(folder, "run", "recipe.yaml", "--task", f"tiny_task:{task}", "-m", *arguments)


def table(folder, *names):
    """What a sweep gave, without what is measured by a clock."""
    told = paredown(folder, "sweep", *names, "--json")
    assert told.returncode == 0, told.stderr
    untimed = ("overrides", "state", "accuracy", "accuracy_spread", "bytes", "macs", "nonzeros", "seeds", "error")
    return [{name: row[name] for name in untimed} for row in json.loads(told.stdout)]


def test_the_events_of_a_sweep_from_python(recipe):
    place = create_sweep(recipe, "tiny_task:failing", [f"{SWEPT}=0.5,0.95"], "out")
    assert place == Path("out")
    events = list(run_sweep(place))
    assert [type(event) for event in events] == [SweepStarted, JobStarted, JobEnded, JobStarted, JobEnded, SweepEnded]
    assert events[0] == SweepStarted(place, jobs=2, finished=0)
    assert events[1] == JobStarted(0, (f"{SWEPT}=0.5",))
    assert (events[2].number, events[2].row.state) == (0, "finished")
    assert events[2].row.compressed["accuracy"] > 0.5
    assert (events[4].number, events[4].row.state) == (1, "failed")
    assert events[4].row.error == "ValueError: the evaluation <failed> here"
    assert [row.state for row in events[5].sweep.rows] == ["finished", "failed"]
    assert collect([place]).rows == events[5].sweep.rows
    assert (place / "sweep.html").exists()

    again = list(run_sweep(place))
    assert again[0] == SweepStarted(place, jobs=2, finished=1)
    assert [event.number for event in again if isinstance(event, (JobStarted, JobEnded))] == [1, 1]


def test_the_events_of_a_launcher_that_runs_jobs_together(recipe):
    pytest.importorskip("joblib")
    options = [f"{SWEPT}=0.5,0.6", "hydra/launcher=joblib", "hydra.launcher.n_jobs=1"]
    events = list(run_sweep(create_sweep(recipe, "tiny_task:task", options, "out")))
    assert [type(event) for event in events[1:-1]] == [JobStarted, JobStarted, JobEnded, JobEnded]
    assert [row.state for row in events[-1].sweep.rows] == ["finished", "finished"]


def test_nothing_runs_before_the_events_are_iterated(recipe):
    place = create_sweep(recipe, "tiny_task:task", [f"{SWEPT}=0.5"], "out")
    events = run_sweep(place)
    assert [row.state for row in collect([place]).rows] == ["waiting"]
    assert next(events) == SweepStarted(place, jobs=1, finished=0)
    events.close()
    assert [row.state for row in collect([place]).rows] == ["waiting"]


def test_what_cannot_be_resumed(recipe):
    with pytest.raises(ParedownError, match="is no sweep"):
        run_sweep("nowhere")
    with pytest.raises(ArgumentError, match="another launcher is all that it takes"):
        run_sweep("nowhere", ["a=1"])


def test_jobs_that_diverge_have_failed_and_win_nothing(swept):
    rows = swept(f"{SWEPT}=0.95,0.96", task="diverging")
    assert [row.state for row in rows] == ["failed", "failed"]
    assert [row.compressed.get("accuracy") for row in rows] == [None, None]
    assert all("diverged" in row.error for row in rows)


def test_a_finished_job_whose_report_is_damaged_runs_again(swept):
    swept(f"{SWEPT}=0.5,0.6", folder="out")
    report = Path("out", "1", "report.json")
    whole = json.loads(report.read_text())["compressed"]["values"]
    report.write_text("{")
    list(run_sweep("out"))
    assert json.loads(report.read_text())["compressed"]["values"] == whole


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_each_launcher_runs_four_jobs_of_which_one_fails(folder, launcher):
    if launcher in MODULES and importlib.util.find_spec(f"hydra_plugins.{MODULES[launcher]}") is None:
        pytest.skip(f"hydra-{launcher}-launcher is not installed")
    options = [f"{SWEPT}=0.5,0.95,0.6,0.7", f"hydra/launcher={launcher}", *LAUNCHERS[launcher], "--output", "out"]
    ran = sweep(folder, *options, task="failing")
    assert ran.returncode == 1, ran.stderr
    assert "1 of 4 jobs failed" in ran.stderr
    assert "ValueError: the evaluation <failed> here" in ran.stdout
    rows = table(folder, "out")
    assert [row["state"] for row in rows] == ["finished", "failed", "finished", "finished"]
    assert [row["overrides"] for row in rows] == [[f"{SWEPT}={value}"] for value in (0.5, 0.95, 0.6, 0.7)]
    assert "second line" in (folder / "out" / "1" / "error.txt").read_text()
    for number in (0, 2, 3):
        names = {path.name for path in (folder / "out" / str(number)).iterdir()}
        assert names == {
            "checkpoint.pt",
            "recipe.yaml",
            "report.html",
            "report.json",
            "status.json",
            ".hydra",
            ".claim",
        }
    kept = Recipe.load(folder / "out" / "3" / "recipe.yaml")
    assert kept.modifiers["prune"].final_sparsity == 0.7
    assert "&lt;failed&gt;" in (folder / "out" / "sweep.html").read_text()


def test_a_sweep_gives_what_single_runs_give(folder):
    ran = sweep(folder, f"{SWEPT}=0.5,0.8", "--seeds", "2", "--output", "out", "--record", "-q")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    alone = paredown(
        folder, "run", "recipe.yaml", f"{SWEPT}=0.8", "-t", "tiny_task:task", "--seeds", "2", "-o", "alone", "-q"
    )
    assert alone.returncode == 0, alone.stderr
    one, other = (json.loads((folder / name / "report.json").read_text()) for name in ("out/1", "alone"))
    for model in ("dense", "compressed"):
        one[model].pop("latency"), other[model].pop("latency")
        assert one[model] == other[model]
    assert one["history"] == other["history"]
    for seed in ("", "seed-1/"):
        weights = [torch.load(folder / name / f"{seed}checkpoint.pt")["model"] for name in ("out/1", "alone")]
        assert str(weights[0]) == str(weights[1])
    assert Recipe.load(folder / "out" / "1" / "recipe.yaml").results[0]["task"] == "signs of sums"


@pytest.mark.slow
def test_a_worker_that_dies_takes_no_other_job_with_it(folder):
    pytest.importorskip("joblib")
    options = [f"{SWEPT}=0.95,0.5,0.6", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "--output", "out"]
    ran = sweep(folder, *options, task="dying")
    assert ran.returncode == 1
    rows = table(folder, "out")
    assert [row["state"] for row in rows] == ["failed", "finished", "finished"]
    assert "the launcher gave up" in rows[0]["error"]


def killed(folder, arguments, when):
    """Start a command, and kill it with everything it started as soon as ``when`` holds."""
    environment = {**os.environ, "COLUMNS": "300"}
    started = subprocess.Popen(
        command(*arguments), cwd=folder, env=environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until = time.monotonic() + 300
    while not when() and started.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    assert started.poll() is None, "it ended before it could be killed"
    with contextlib.suppress(ProcessLookupError):
        os.killpg(started.pid, signal.SIGKILL)
    started.wait()


SLOW = """
import dataclasses, time, tiny_task

class Slow(tiny_task.Batches):
    def __iter__(self):
        for batch in super().__iter__():
            time.sleep(0.01)
            yield batch

def task():
    return dataclasses.replace(tiny_task.task(), train_loader=Slow(0))
"""


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_killed_sweep_goes_on_to_the_same_table(folder, launcher):
    (folder / "slow_task.py").write_text(SLOW)
    options = [f"{SWEPT}=0.5,0.6,0.7,0.8", f"hydra/launcher={launcher}", *LAUNCHERS[launcher], "--seeds", "2"]
    whole = ["run", "recipe.yaml", "--task", "slow_task:task", "-m", *options, "--output"]
    assert paredown(folder, *whole, "whole").returncode == 0
    killed(folder, [*whole, "killed"], lambda: list(folder.glob("killed/1/**/half.pt")))
    half = list((folder / "killed").rglob("half.pt"))
    states = [row["state"] for row in table(folder, "killed")]
    assert half
    assert "running" not in states
    assert "waiting" in states
    killed(folder, ["run", "-m", "resume=killed"], lambda: list(folder.glob("killed/2/**/half.pt")))
    again = paredown(folder, "run", "-m", "resume=killed")
    assert again.returncode == 0, again.stderr
    assert table(folder, "killed") == table(folder, "whole")
    for number in range(4):
        one, other = (torch.load(folder / name / str(number) / "checkpoint.pt") for name in ("whole", "killed"))
        assert str(one["model"]) == str(other["model"])
        assert str(one["optimizers"]) == str(other["optimizers"])
    before = (folder / "killed" / "0" / "report.json").stat().st_mtime_ns
    assert paredown(folder, "run", "--resume", "killed").returncode == 0
    assert (folder / "killed" / "0" / "report.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_damaged_half_trained_checkpoint_means_a_new_start(folder):
    assert sweep(folder, f"{SWEPT}=0.5", "--output", "out", "-q").returncode == 0
    wanted = table(folder, "out")
    (folder / "out" / "0" / "half.pt").write_bytes(b"damaged")
    for name in ("report.json", "status.json"):
        (folder / "out" / "0" / name).unlink()
    (folder / "out" / "dense" / "seed-0.pt").write_bytes(b"damaged")
    assert paredown(folder, "run", "--resume", "out", "-q").returncode == 0
    assert table(folder, "out") == wanted

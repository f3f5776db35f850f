"""`paredown run -m`: every launcher, mistakes before the start, failing jobs, killed sweeps."""

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

from paredown import Recipe, RecipeError
from paredown.framework.cli.main import main
from paredown.framework.experiments.sweep.hydra import hydra_around
from paredown.framework.experiments.sweep.overrides import check_jobs, combinations, recipe_overrides, split_hydra

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
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "300"}
    return subprocess.run(command(*arguments), cwd=folder, capture_output=True, text=True, env=environment)


def sweep(folder, *arguments, task="task"):
    return paredown(folder, "run", "recipe.yaml", "--task", f"tiny_task:{task}", "-m", *arguments)


def table(folder, *names):
    """What a sweep gave, without what is measured by a clock."""
    told = paredown(folder, "sweep", *names, "--json")
    assert told.returncode == 0, told.stderr
    untimed = ("overrides", "state", "accuracy", "accuracy_spread", "bytes", "macs", "nonzeros", "seeds", "error")
    return [{name: row[name] for name in untimed} for row in json.loads(told.stdout)]


def test_combinations_are_in_hydras_grammar():
    assert combinations(["a.b=1,2", "c=x", "d=range(0,2)"]) == [
        ("a.b=1", "c=x", "d=0"), ("a.b=1", "c=x", "d=1"), ("a.b=2", "c=x", "d=0"), ("a.b=2", "c=x", "d=1")
    ]  # fmt: skip
    assert combinations([]) == [()]
    assert combinations(["a=[x,y],[z]", "~b"]) == [("a=[x,y]", "~b"), ("a=[z]", "~b")]
    assert recipe_overrides(["a=[x,y]", "~b", "+c='on'", "d=null", "e=${expr:\"2 * 3\"}", "f=60%", "g={bits: 4}"]) == [
        'a=["x", "y"]', "~b", '+c="on"', "d=null", 'e="${expr:\\"2 * 3\\"}"', 'f="60%"', 'g={"bits": 4}'
    ]  # fmt: skip
    assert split_hydra(["hydra.x=1", "hydrant=1", "+hydra.y=1", "hydra/launcher=joblib"])[0] == ["hydrant=1"]


def test_the_mistakes_of_all_jobs_are_told_at_once():
    recipe = Recipe.load(
        {"recipe": 1, "run": {"epochs": 4}, "modifiers": {"p": {"type": "magnitude_pruning", "final_sparsity": 0.5}}}
    )
    jobs = combinations(["modifiers.p.final_sparsty=0.5,0.6", "modifiers.p.end=3,9", "modifiers.q.end=1"])
    with pytest.raises(RecipeError) as caught:
        check_jobs(recipe, jobs)
    told = str(caught.value)
    assert "modifiers.p.final_sparsty=0.6: modifiers.p.final_sparsty: unknown field" in told
    assert told.count("did you mean 'final_sparsity'") == 2
    assert "modifiers.p.end=9" in told
    assert told.count("modifiers has no 'q'") == 1


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
        with hydra_around(tiny_task.RECIPE, tmp_path, launcher) as hydra:
            assert hydra.threads(jobs) == wanted, launcher


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
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "300"}
    started = subprocess.Popen(
        command(*arguments), cwd=folder, env=environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until = time.monotonic() + 60
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


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["run", "recipe.yaml", "-t", "tiny_task:task", "-m", "modifiers.prun.end=1,2"], 1, "did you mean 'prune'"),
        (["run", "recipe.yaml", "-t", "tiny_task:task", "-m", "variables.spasity=1,2"], 1, "did you mean 'sparsity'"),
        (["run", "recipe.yaml", "-t", "tiny_task:task", "-m", f"{SWEPT}=interval(0,1)"], 2, "--sweeper optuna"),
        (["run", "recipe.yaml", "-t", "tiny_task:task", "-m", f"{SWEPT}=range(0,1,0.000001)"], 2, "at most"),
        (["run", "recipe.yaml", "-t", "tiny_task:task", "-m", f"{SWEPT}=(1"], 2, "OVERRIDE"),
        (["run", "recipe.yaml", "-t", "tiny_task:task", "-m", f"{SWEPT}=glob(*)"], 2, "config group"),
        (["run", "recipe.yaml", "-t", "tiny_task:task", "-m", "hydra/launcher=jobli"], 2, "joblib"),
        (["run", "recipe.yaml", "-t", "tiny_task:task", "-m", "hydra.lancher.n_jobs=2"], 2, "lancher"),
        (["run", "recipe.yaml", "-t", "tiny_task:task", "-m", "hydra.sweep.dir=x"], 2, "--output"),
        (["run", "recipe.yaml", "-t", "tiny_task:task", "-m", "hydra/sweeper=basic"], 2, "--sweeper optuna"),
        (["run", "recipe.yaml", "-t", "tiny_task:nothing", "-m", f"{SWEPT}=0.5,0.6"], 2, "nothing"),
        (["run", "recipe.yaml", "-t", "tiny_task:task", "--sweeper", "ax", "a=1"], 2, "optuna"),
        (["run", "recipe.yaml", "-t", "tiny_task:task", "--sweeper", "optuna"], 2, "nothing is varied"),
        (["run", "recipe.yaml", "-t", "tiny_task:task", "--sweeper", "optuna", f"{SWEPT}=interval(.9,.2)"], 2, "smaller"),
        (["run", "recipe.yaml", "-t", "tiny_task:task", "-m", "--output", "."], 2, "holds the results of a run"),
        (["run", "recipe.yaml", "-m", f"{SWEPT}=0.5"], 2, "--task"),
        (["run", "-m"], 2, "RECIPE"),
        (["run", "--resume", "nowhere"], 1, "no sweep"),
        (["run", "-m", "resume=."], 1, "no sweep"),
        (["run", "--resume", ".", "a=1"], 2, "another launcher"),
    ],
)  # fmt: skip
def test_mistakes_are_messages_and_nothing_is_started(folder, arguments, code, told, monkeypatch, capsys):
    (folder / "report.json").write_text("{}")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["paredown", *arguments])
    monkeypatch.setenv("COLUMNS", "300")
    try:
        found = main()
    except SystemExit as exit:
        found = exit.code
    error = capsys.readouterr().err
    assert found == code, error
    assert told in error
    assert not (folder / "runs").exists()

"""`paredown run`: everything that a run writes, and a sweep that is not started."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_task
import torch

from paredown import Recipe

SWEPT = "modifiers.prune.final_sparsity"


def executable(folder, *arguments):
    exe = Path(sys.executable).with_name("paredown")
    return subprocess.run([exe, *arguments], cwd=folder, capture_output=True, text=True)


def test_run_writes_everything_and_report_reads_it(folder, paredown):
    ran = executable(folder, "run", "recipe.yaml", "--task", "job:task", "--seeds", "2", "--output", "out", "--record")
    assert ran.returncode == 0, ran.stderr
    assert "Plan of small" in ran.stdout
    assert "accuracy (2 seeds)" in ran.stdout
    assert {p.name for p in (folder / "out").iterdir()} >= {
        "report.html",
        "report.json",
        "recipe.yaml",
        "checkpoint.pt",
    }
    data = json.loads((folder / "out" / "report.json").read_text())
    weights = 6 * 32 + 32 * 2
    assert data["compressed"]["nonzeros"] <= data["dense"]["nonzeros"] - round(0.8 * weights)
    assert len(data["compressed"]["values"]["accuracy"]) == 2
    assert min(data["compressed"]["values"]["accuracy"]) > 0.7
    kept = Recipe.load(folder / "out" / "recipe.yaml")
    assert kept.results[0]["compressed"]["accuracies"] == data["compressed"]["values"]["accuracy"]
    assert set(torch.load(folder / "out" / "checkpoint.pt", weights_only=True)) >= {"model", "manager"}
    page = (folder / "out" / "report.html").read_text()
    assert "<svg" in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")

    code, out, _ = paredown("report", "out")
    assert code == 0
    assert "accuracy (2 seeds)" in out
    assert paredown("report", "out/report.json", "--output", "page.html")[0] == 0
    assert (folder / "page.html").read_text() == page


def test_overrides_one_shot_and_json(folder, paredown):
    code, out, err = paredown(
        "run", "recipe.yaml", "modifiers.prune.final_sparsity=0.5", "--task", "job:task", "--apply", "--json"
    )
    assert code == 0, err
    data = json.loads(out)
    assert data["dense"]["nonzeros"] - data["compressed"]["nonzeros"] == 128
    assert torch.load(folder / "runs" / "latest" / "checkpoint.pt", weights_only=True)["optimizers"] == []


def test_an_accuracy_may_be_a_tensor_and_no_number(folder, paredown):
    code, out, err = paredown("run", "recipe.yaml", "--task", "job:as_a_tensor", "--output", "out")
    assert code == 0, err
    told = json.loads((folder / "out" / "report.json").read_text(), parse_constant=pytest.fail)
    assert (told["dense"]["values"]["accuracy"], told["compressed"]["values"]["accuracy"]) == ([0.5], [None])
    assert "nan" in paredown("report", "out")[1]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
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
        (["run", "recipe.yaml", "-t", "tiny_task:task", "--sweeper", "optuna", f"{SWEPT}=.5,.6", "--objectives", "size"], 2, "one of accuracy, bytes"),
    ],
)  # fmt: skip
def test_a_sweep_with_a_mistake_is_not_started(paredown, tmp_path, monkeypatch, arguments, code, message):
    (tmp_path / "recipe.yaml").write_text(tiny_task.RECIPE)
    (tmp_path / "report.json").write_text("{}")
    monkeypatch.setenv("COLUMNS", "300")
    found, _, error = paredown(*arguments)
    assert found == code, error
    assert message in error
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("value", ["0.5,0.6", "range(1,3)", "choice(0.5,0.6)"])
def test_several_values_without_multirun(value, folder, paredown):
    code, _, err = paredown("run", "recipe.yaml", f"{SWEPT}={value}", "--task", "job:task")
    assert code == 2
    assert "add -m" in " ".join(err.split())


def test_a_list_is_one_value(folder, paredown):
    code, _, err = paredown("run", "recipe.yaml", "modifiers.prune.targets=[a,b]", "--task", "job:task")
    assert code == 1
    assert "-m" not in err.split()

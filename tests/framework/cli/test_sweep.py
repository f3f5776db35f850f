"""`paredown sweep`: the table of a sweep that `paredown run -m` ran, and its winner."""

import csv
import json
import sys
from pathlib import Path

import pytest
import tiny_task

from paredown import Recipe
from paredown.framework.cli.main import main

SWEPT = "modifiers.prune.final_sparsity"


class Folder:
    """A folder to run commands in."""

    def __init__(self, path, monkeypatch, capsys):
        self.path, self.monkeypatch, self.capsys = path, monkeypatch, capsys

    def __truediv__(self, name):
        return self.path / name

    def __call__(self, *arguments):
        self.capsys.readouterr()
        self.monkeypatch.setattr(sys, "argv", ["paredown", *map(str, arguments)])
        try:
            code = main() or 0
        except SystemExit as exit:
            code = exit.code or 0
        told = self.capsys.readouterr()
        return code, told.out, told.err


@pytest.fixture
def paredown(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    Path("recipe.yaml").write_text(tiny_task.RECIPE)
    return Folder(tmp_path, monkeypatch, capsys)


@pytest.fixture
def swept(paredown):
    code, told, problems = paredown(
        "run", "recipe.yaml", "-t", "tiny_task:failing", "-m", f"{SWEPT}=0.5,0.95,0.6,0.8", "run.epochs=3", "-o", "out"
    )
    assert code == 1, problems
    assert "out: 4 jobs" in told
    assert "3 finished, 1 failed" in told
    return paredown


def test_the_table_in_all_forms(swept):
    code, told, _ = swept("sweep", "out")
    assert code == 0
    assert f"{SWEPT.removeprefix('modifiers.')}=0.95 run.epochs=3" in told
    assert "out/1: failed: ValueError: the evaluation <failed> here" in told
    rows = json.loads(swept("sweep", "out", "--json")[1])
    assert [row["state"] for row in rows] == ["finished", "failed", "finished", "finished"]
    assert all(row["dense"]["bytes"] > row["bytes"] for row in rows if row["state"] == "finished")
    assert swept("sweep", "out", "-o", "tables/x.json")[0] == 0
    assert json.loads((swept / "tables/x.json").read_text()) == rows
    assert swept("sweep", "out", "--output", "x.csv")[0] == 0
    with (swept / "x.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [float(line["bytes"] or 0) for line in lines] == [row["bytes"] or 0 for row in rows]
    assert lines[1]["error"].startswith("ValueError")
    assert swept("sweep", "out", "--output", "x.html")[0] == 0
    page = (swept / "x.html").read_text()
    assert page.count("<circle") == 9
    assert "&lt;failed&gt;" in page


def test_the_winner_is_a_recipe_with_its_results(swept):
    code, told, problems = swept("sweep", "out", "--pick", "accuracy > 0 and bytes < dense", "--output", "winner.yaml")
    assert (code, told) == (0, "")
    assert problems == f"picked out/3 ({SWEPT}=0.8 run.epochs=3)\n"
    winner = Recipe.load("winner.yaml")
    assert winner.modifiers["prune"].final_sparsity == 0.8
    assert winner.run_epochs == 3
    report = json.loads(Path("out/3/report.json").read_text())
    assert winner.results[0]["compressed"]["bytes"] == report["compressed"]["bytes"]
    assert winner.results[0]["task"] == "signs of sums"
    assert swept("validate", "winner.yaml")[0] == 0
    assert winner.results[0]["run"] == {"task": "tiny_task:failing", "seeds": [0], "apply": False}
    verified = swept("verify", "winner.yaml", "--task", "tiny_task:task")
    assert verified[0] == 0, verified
    by_accuracy = swept("sweep", "out", "--pick", "bytes > 0", "--by", "accuracy")
    rows = json.loads(swept("sweep", "out", "--json")[1])
    best = max((row for row in rows if row["accuracy"]), key=lambda row: row["accuracy"])
    assert f"picked {best['folder']} " in by_accuracy[2]
    assert Recipe.load(_file("again.yaml", by_accuracy[1])).results


def _file(name, text):
    Path(name).write_text(text)
    return name


def test_mistakes_are_messages(swept):
    for arguments, code, told in [
        (["nowhere"], 2, "nowhere: no such folder"),
        (["out/dense"], 2, "no jobs"),
        (["out", "--output", "x.txt"], 2, ".html, .csv or .json"),
        (["out", "--pick", "acuracy > 0"], 2, "did you mean 'accuracy'"),
        (["out", "--pick", "bytes > 0", "--by", "byte"], 2, "did you mean 'bytes'"),
        (["out", "--pick", "accuracy > 1"], 1, "none of 3 finished jobs holds"),
        (["out", "--output", "recipe.yaml/x.html"], 2, "cannot be written"),
    ]:
        found, _, problems = swept("sweep", *arguments)
        assert (found, told in problems) == (code, True), problems


def test_a_failed_job_runs_again_when_the_sweep_goes_on(swept):
    manifest = json.loads((swept / "out" / "sweep.json").read_text())
    (swept / "out" / "sweep.json").write_text(json.dumps({**manifest, "task": "tiny_task:task"}))
    code, told, problems = swept("run", "-m", "resume=out")
    assert code == 0, problems
    assert "4 jobs, 3 of them finished" in told
    assert "4 finished" in told
    assert not (swept / "out" / "1" / "error.txt").exists()


def test_a_search_is_shown_like_a_sweep(paredown):
    pytest.importorskip("optuna")
    search = ["run", "recipe.yaml", "-t", "tiny_task:task", "--sweeper", "optuna", f"{SWEPT}=interval(0.3,0.9)"]
    code, told, problems = paredown(*search, "--trials", "2", "-o", "out")
    assert (code, problems) == (0, "")
    assert told.startswith("out: 2 jobs\n")
    assert "2 finished" in told
    longer = json.loads((paredown / "out" / "sweep.json").read_text())
    (paredown / "out" / "sweep.json").write_text(json.dumps({**longer, "trials": 3}))
    code, told, problems = paredown("run", "--resume", "out", "--json")
    assert (code, problems, len(json.loads(told))) == (0, "", 3)

"""A sweep's folders as rows: whatever is in them, none is lost and none raises."""

import json
import random

import pytest

from paredown.framework.errors import ParedownError
from paredown.framework.experiments.sweep.claims import claim
from paredown.framework.experiments.sweep.collecting import collect, pareto_front
from paredown.framework.experiments.sweep.job_status import JobStatus, write_status
from paredown.framework.experiments.sweep.manifest import Manifest, write_manifest
from paredown.framework.experiments.sweep.page import html_page
from paredown.framework.experiments.sweep.table import cells, head, short_cells, short_head, summary, to_csv, to_json
from paredown.framework.report import Report, Summary
from paredown.framework.report.metrics import ACCURACY


def summary_of(accuracies=(0.9,), size=1000, latency=1.0, **changed):
    values = {"parameters": 100, "nonzeros": 10, "bytes": size, "macs": size * 2, "latency": (0.5, latency, 2.0)}
    measured = {"accuracy": tuple(accuracies)} if accuracies else {}
    return Summary(**{**values, "values": measured, **changed})


def job(folder, accuracies=(0.9,), size=1000, overrides=("modifiers.prune.end=1",), **status):
    report = Report("tiny", summary_of((0.95,), 4000), summary_of(accuracies, size), metrics=(ACCURACY,))
    report.save(folder / "report.json")
    write_status(folder, JobStatus("finished", tuple(overrides), 1.0, 3.5, **status))
    return folder


def test_a_sweep_with_everything_in_it(tmp_path):
    sweep = tmp_path / "sweep"
    names = ["a=1", "a=2", "a=3", "a=4", "a=5", "a=6"]
    write_manifest(sweep, Manifest("tiny", "", "t:t", "/", jobs=tuple((name,) for name in names)))
    job(sweep / "0", (0.9, 0.8), 1000, ["a=1"])
    write_status(sweep / "1", JobStatus("failed", ("a=2",), 1.0, 2.0, error="ValueError: no"))
    write_status(sweep / "2", JobStatus("running", ("a=3",), 1.0, doing="seed 0"))
    job(sweep / "3", (0.95,), 2000, ["a=4"])
    (sweep / "3" / "report.json").write_text((sweep / "3" / "report.json").read_text()[:200])
    write_status(sweep / "4", JobStatus("running", ("a=5",), 1.0, doing="seed 1"))
    (sweep / "dense").mkdir()
    with claim(sweep / "4") as claimed:
        assert claimed
        rows = collect([sweep]).rows
    assert [row.state for row in rows] == ["finished", "failed", "unfinished", "unfinished", "running", "waiting"]
    assert [row.overrides for row in rows] == [(name,) for name in names]
    assert rows[0].compressed["accuracy"] == pytest.approx(0.85)
    assert rows[0].spread("accuracy") == pytest.approx(0.0707, abs=1e-4)
    assert rows[0].seconds == 2.5
    assert rows[1].error == "ValueError: no"
    assert rows[2].doing == "seed 0"
    assert "report.json cannot be read" in rows[3].error


@pytest.mark.parametrize("name", ["report.json", "status.json", ".hydra/overrides.yaml"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"3",
        b'"x"',
        b"\xff\xfe",
        b"{}",
        b'{"state": 3, "overrides": 5}',
        b"a: [",
        b"[" * 5000,
        b'{"dense": {"parameters": "x"}}',
        b'{"started": "x"}',
        b"- {a: b}\n- 3\n",
        b"!!python/object:os.system x",
    ],
)
def test_a_broken_file_loses_no_other_job(tmp_path, name, content):
    job(tmp_path / "0")
    job(tmp_path / "1")
    (tmp_path / "1" / ".hydra").mkdir()
    (tmp_path / "1" / name).write_bytes(content)
    found = collect([tmp_path])
    assert found.rows[0].state == "finished"
    assert len(found.rows) == 2
    assert len(cells(found)[1]) == len(head(found))
    assert len(short_cells(found)[1]) == len(short_head(found))
    assert json.loads(to_json(found))[1]["folder"] == str(tmp_path / "1")
    assert len(to_csv(found).splitlines()) >= 3
    assert html_page(found, "x")


@pytest.mark.parametrize(
    "change",
    [
        {"values": {"accuracy": ["x"]}},
        {"bytes": "many"},
        {"latency": [1]},
        {"latency": 3},
        {"nonzeros": None},
        {"parameters": [1]},
        {"bytes": float("nan")},
        {"values": 3},
        {"unknown": 1},
    ],
)
def test_a_report_with_a_wrong_value(tmp_path, change):
    job(tmp_path / "0")
    path = job(tmp_path / "1") / "report.json"
    plain = json.loads(path.read_text())
    plain["compressed"].update(change)
    path.write_text(json.dumps(plain))
    found = collect([tmp_path])
    assert [row.state for row in found.rows] == ["finished", "unfinished"]
    assert "report.json cannot be read" in found.rows[1].error


def test_a_job_that_diverged_has_failed_and_wins_nothing(tmp_path):
    job(tmp_path / "0", (0.1,))
    job(tmp_path / "1", (0.9, float("nan")), size=1)
    found = collect([tmp_path])
    assert [row.state for row in found.rows] == ["finished", "failed"]
    assert "accuracy" not in found.rows[1].compressed
    assert "diverged" in found.rows[1].error


def test_folders_of_a_users_own_hydra_app(tmp_path):
    for number in range(12):
        folder = tmp_path / "multirun" / "2027-01-31" / "12-00-00" / str(number)
        Report("mine", summary_of(), summary_of(size=number + 1)).save(folder / "report.json")
        (folder / ".hydra").mkdir()
        (folder / ".hydra" / "overrides.yaml").write_text(f"- recipe=prune90\n- x={number}\n")
    (tmp_path / "multirun" / "2027-01-31" / "12-00-00" / "12" / ".hydra").mkdir(parents=True)
    (tmp_path / "multirun" / "2027-01-31" / "12-00-00" / "12" / ".hydra" / "overrides.yaml").write_text("[x=12]")
    rows = collect([tmp_path]).rows
    assert [row.overrides[-1] for row in rows] == [f"x={number}" for number in range(13)]
    assert [row.state for row in rows] == ["finished"] * 12 + ["unfinished"]


def test_several_folders_and_the_same_twice(tmp_path):
    for name in ("a", "b"):
        job(tmp_path / name / "0")
    found = collect([tmp_path / "a", tmp_path / "b", tmp_path / "a" / "0"])
    assert [row[0] for row in cells(found)] == ["a/0", "b/0"]
    assert summary(found) == "2 finished"
    with pytest.raises(ParedownError, match="no such folder"):
        collect([tmp_path / "c"])


def test_marks_are_the_pareto_fronts(tmp_path):
    for number, (accuracy, size) in enumerate([(0.9, 10), (0.8, 20), (0.95, 30), (0.95, 30)]):
        job(tmp_path / str(number), (accuracy,), size)
    found = collect([tmp_path])
    assert [found.marks(row)[:2] for row in found.rows] == [("bytes", "macs"), (), ("bytes", "macs"), ("bytes", "macs")]
    assert [row.compressed["bytes"] for row in found.fronts["bytes"]] == [10, 30, 30]


def test_a_report_without_accuracy_is_on_no_front(tmp_path):
    Report("x", summary_of(()), summary_of(())).save(tmp_path / "0" / "report.json")
    found = collect([tmp_path])
    assert found.fronts == {"bytes": (), "macs": (), "latency": ()}
    assert "No finished job" in html_page(found, "x")


def test_what_comes_from_outside_is_escaped(tmp_path):
    evil = "a='<script>alert(1)</script>'"
    job(tmp_path / "0", overrides=[evil])
    write_status(tmp_path / "1", JobStatus("failed", (evil,), 1.0, 2.0, error="<img src=x onerror=alert(1)>"))
    job(tmp_path / "<b>", overrides=["=cmd|x"])
    found = collect([tmp_path])
    page = html_page(found, "<i>title</i>")
    for word in ("<script", "<img", "<b>", "<i>t"):
        assert word not in page
    assert "&lt;script&gt;" in page
    assert "'=cmd|x" in to_csv(found)


def test_the_page_stands_alone(tmp_path):
    for number in range(3):
        job(tmp_path / str(number), (0.9 + number / 100,), 1000 + number)
    page = html_page(collect([tmp_path]), "sweep")
    assert page.count("<circle") == 9
    assert "http" not in page
    assert "src=" not in page
    assert "<title>modifiers.prune.end=1\naccuracy" in page


def beaten(one, other):
    return other[0] <= one[0] and other[1] >= one[1] and other != one


@pytest.mark.parametrize("seed", range(200))
def test_the_pareto_front_against_its_definition(seed):
    draw = random.Random(seed)
    points = [(draw.randint(0, 9), draw.randint(0, 9) / 10) for _ in range(draw.randint(0, 25))]
    wanted = {i for i, point in enumerate(points) if not any(beaten(point, other) for other in points)}
    front = pareto_front(points)
    assert set(front) == wanted
    assert len(front) == len(wanted)
    assert [points[i][0] for i in front] == sorted(points[i][0] for i in front)

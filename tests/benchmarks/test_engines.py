"""The benchmark runs and prints its rows; its promises are for the whole of it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "engines.py"


def quick(*arguments):
    command = [sys.executable, SCRIPT, "--quick", "--engine", "onnxruntime", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_runs_and_prints_the_rows():
    told = quick()
    row = r"^CNN +onnxruntime +{} +(\d\.\d+) +(\d+\.\d+) +(\d+\.\d+) +(\d+\.\d)"
    rows = {kind: re.search(row.format(kind), told, re.MULTILINE) for kind in ("float", "static int8", "tool, static")}
    assert all(rows.values()), told
    assert [float(each) for each in rows["float"].groups()[:3]] == [1, 1, 1]
    assert float(rows["static int8"][1]) < 0.4
    assert float(rows["static int8"][4]) > 35
    assert "100%" in told


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_small_trained_networks_are_not_refused():
    assert "onnxruntime: 3 exports of 3 networks, 0 refused" in quick("--refusals")

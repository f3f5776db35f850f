"""The benchmark of sweeps runs, and a killed sweep comes to the same table; the times are for `make bench`."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "sweeps.py"


@pytest.mark.slow
def test_it_prints_both_times_and_the_table():
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    command = [sys.executable, str(SCRIPT), "--quick", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = dict(re.findall(r"^(\w+)  +(\S+)", done.stdout, re.MULTILINE))
    assert {"basic", "joblib", "ratio"} <= set(rows)
    assert "4 finished" in done.stdout
    assert "the same table: kept" in done.stdout

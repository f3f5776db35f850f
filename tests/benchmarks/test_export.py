"""The benchmark runs and prints its row; its promises are for the trained model."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "export.py"


@pytest.mark.slow
def test_it_runs_and_prints_the_row():
    ran = subprocess.run([sys.executable, SCRIPT, "--quick"], capture_output=True, text=True, check=True)
    row = re.search(r"^CNN, static int8 +(\d\.\d+) +(\d+\.\d+)x +(\d\.\d+)", ran.stdout, re.MULTILINE)
    assert row, ran.stdout
    assert float(row[1]) < 1
    assert "QLinearConv" in ran.stdout

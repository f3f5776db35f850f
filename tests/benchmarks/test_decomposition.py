"""The benchmarks run on small kernels and one seed; their promises are for the whole of it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
def test_every_method_is_measured_beside_its_peer():
    pytest.importorskip("tensorly")
    script = BENCHMARKS / "decomposition.py"
    ran = subprocess.run([sys.executable, script, "--quick"], capture_output=True, text=True, check=False)
    assert len(re.findall(r"^[a-z ]+ +\d+ +\d+ +\d+\.\d+ +x\d", ran.stdout, re.MULTILINE)) == 4, ran.stdout


@pytest.mark.slow
def test_every_method_has_its_accuracy():
    pytest.importorskip("mlxtend")
    script = BENCHMARKS / "decomposition_accuracy.py"
    ran = subprocess.run([sys.executable, script, "--quick"], capture_output=True, text=True, check=True)
    rows = re.findall(r"^\| [a-z, ]+ \| +4x \|(?: +\d+\.\d\d \|){6}", ran.stdout, re.MULTILINE)
    assert len(rows) == 5, ran.stdout

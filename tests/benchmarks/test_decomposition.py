"""The benchmark runs on small kernels; its promises are for large ones."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "decomposition.py"


@pytest.mark.slow
def test_every_method_is_measured_beside_its_peer():
    pytest.importorskip("tensorly")
    ran = subprocess.run([sys.executable, SCRIPT, "--quick"], capture_output=True, text=True, check=False)
    assert len(re.findall(r"^[a-z ]+ +\d+ +\d+ +\d+\.\d+ +x\d", ran.stdout, re.MULTILINE)) == 8, ran.stdout

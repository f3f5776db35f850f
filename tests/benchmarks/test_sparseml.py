"""Without the peer the benchmark compares ours with the documented formula."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_ours_follows_the_documented_formula():
    script = Path(__file__).parents[2] / "benchmarks" / "sparseml.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert "GlobalMagnitude cubic" in done.stdout

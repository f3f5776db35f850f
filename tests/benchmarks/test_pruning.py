"""The benchmark runs; its promises are for machines that do nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_small_benchmark_prints_its_table():
    script = Path(__file__).parents[2] / "benchmarks" / "pruning.py"
    done = subprocess.run([sys.executable, script, "--small"], capture_output=True, text=True, check=True)
    assert "global_unstructured" in done.stdout
    assert "held mask, compact" in done.stdout

"""The benchmark runs; what it compares with need not be there."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_small_benchmark_prints_its_table():
    script = Path(__file__).parents[2] / "benchmarks" / "structured_pruning.py"
    done = subprocess.run([sys.executable, script, "--small"], capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if "paredown  " in line]
    assert [line.split()[0] for line in lines] == ["resnet18", "vit", "lstm"]
    assert not any("BREAKS" in line for line in lines)

"""The benchmark runs and has a row for every variant, installed or not; its promises are for quiet machines."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "qat.py"
VARIANTS = ("fp32", "paredown", "torch.ao", "torch.ao fused", "torchao", "brevitas", "nncf")


@pytest.mark.slow
def test_it_runs_and_prints_the_tables():
    command = [sys.executable, SCRIPT, "--quick", "--modes", "eager"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    tables = ran.stdout.split(": step / fp32 step")[1:]
    assert len(tables) == 3
    for table in tables:
        assert [name for name in VARIANTS if re.search(rf"^  {re.escape(name)}  ", table, re.MULTILINE)] == [*VARIANTS]
        assert float(re.search(r"^  fp32 +(\d\.\d+)", table, re.MULTILINE)[1]) == 1
        assert float(re.search(r"^  paredown +(\d+\.\d+)", table, re.MULTILINE)[1]) > 0

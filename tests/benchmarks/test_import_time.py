"""The benchmark of the import runs and says what it measured; whether the promise is kept is for `make bench`."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "import_time.py"


@pytest.mark.slow
def test_it_prints_the_difference():
    command = [sys.executable, str(SCRIPT), "--rounds", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    rows = dict(re.findall(r"^(.+?)  +(\S+) s\b", done.stdout, re.MULTILINE))
    assert list(rows) == ["import torch", "import torch, paredown", "difference"]
    assert float(rows["import torch, paredown"]) > float(rows["import torch"])

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "pruning_accuracy.py"


@pytest.mark.slow
def test_the_quick_table():
    done = subprocess.run([sys.executable, SCRIPT, "--quick", "--data", "digits8"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = {line[:30].strip(): float(line[30:].split()[0]) for line in done.stdout.splitlines() if "±" in line}
    assert len(rows) == 23
    assert rows["gradual, magnitude, global"] > rows["one-shot, random"] + 30
    assert "orders of the literature" in done.stdout

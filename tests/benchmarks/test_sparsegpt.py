"""The benchmark runs on a random model; its promises are for the pretrained one."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "sparsegpt.py"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_small_benchmark_measures_every_row():
    ran = subprocess.run([sys.executable, SCRIPT, "--quick"], capture_output=True, text=True, check=True)
    rows = re.findall(r"^(\S.*?)  .* (\d\.\d{4}) +(\d+\.\d\d)$", ran.stdout, re.MULTILINE)
    methods = ("magnitude", "wanda", "wanda, updated", "sparsegpt", "sparsegpt, updated")
    assert [name for name, _, _ in rows] == ["dense", *(f"{s} {m}" for s in ("50%", "2:4") for m in methods)]
    assert [zeros for _, zeros, _ in rows] == ["0.0000"] + ["0.5000"] * 10
    assert all(float(value) > 1 for _, _, value in rows)
    assert "--llmcompressor names no interpreter" in ran.stdout

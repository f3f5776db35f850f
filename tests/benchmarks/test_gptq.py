"""The benchmark runs on a random model; its promises are for the pretrained one."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gptq.py"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_quick_benchmark_measures_every_row():
    ran = subprocess.run([sys.executable, SCRIPT, "--quick"], capture_output=True, text=True, check=True)
    perplexities = dict(re.findall(r"^(\S.*?)  .* (\d+\.\d\d)$", ran.stdout, re.MULTILINE))
    assert list(perplexities) == [
        "fp32",
        "round to nearest",
        "gptq",
        "awq",
        "nearest, affine",
        "gptq, affine",
        "half_quadratic",
    ]
    assert all(float(value) > 1 for value in perplexities.values())
    assert "--llmcompressor names no interpreter" in ran.stdout

"""The benchmark runs and compares what a plan foresees with the file; its promises are for the whole of it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytest.importorskip("mlxtend")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_bytes_come_out_as_foreseen():
    script = Path(__file__).parents[2] / "benchmarks" / "plan.py"
    done = subprocess.run(
        [sys.executable, script, "--quick"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout
    foreseen, found = map(float, re.search(r"^static-int8 +(\S+) +(\S+)", done.stdout, re.MULTILINE).groups())
    assert foreseen == pytest.approx(found, rel=0.05)
    assert found < 0.9

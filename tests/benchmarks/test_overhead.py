import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "overhead.py"


def test_it_runs_and_prints_the_table():
    ran = subprocess.run([sys.executable, SCRIPT, "--small"], capture_output=True, text=True, check=True)
    for name in ("plain", "idle", "held", "held compact", "torch.nn.utils.prune", "torch.ao.pruning"):
        assert name in ran.stdout

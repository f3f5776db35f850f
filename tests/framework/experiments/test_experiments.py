"""What holds for all experiments: they run without the command line and its libraries."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent.parent
IMPORTED = """
import pkgutil, sys
from importlib import import_module
import paredown.framework.experiments as room

names = [found.name for found in pkgutil.walk_packages(room.__path__, room.__name__ + ".")]
assert "paredown.framework.experiments.sweep.running" in names
for name in names:
    import_module(name)
print(*sorted({name.split(".")[0] for name in sys.modules}), *(name for name in sys.modules if "framework.cli" in name))
"""


def test_no_module_of_the_command_line_is_imported():
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    names = done.stdout.split()
    assert "paredown" in names
    assert not {"typer", "click", "rich", "paredown.framework.cli"} & set(names)

"""The time and the memory that it takes to open a file, in a process that does nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

__all__ = ["Opening", "opened_apart"]

#: Linux's own count of a process's memory can be reset, and is not inherited as that of getrusage is
PROGRAM = """
import json, pathlib, time
{imports}
status = pathlib.Path("/proc/self/status")
def resident(field):
    if not status.exists():
        return None
    return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith(field))
if status.exists():
    pathlib.Path("/proc/self/clear_refs").write_text("5")
before, begin = resident("VmRSS"), time.process_time()
opened = {expression}
seconds, peak = time.process_time() - begin, resident("VmHWM")
print(json.dumps([seconds, None if peak is None else max(peak - before, 0)]))
"""


@dataclass(frozen=True)
class Opening:
    """Opening a file once.

    Attributes:
        seconds: of CPU time.
        peak: bytes by which the process was larger meanwhile than before; None where that is not known.
    """

    seconds: float
    peak: int | None

    def __str__(self) -> str:
        memory = "" if self.peak is None else f", {self.peak / 2**20:.0f} MB at the peak"
        return f"{self.seconds:.2f} s{memory}"


def opened_apart(program: tuple[str, str] | None) -> Opening | None:
    """Open a file in a process of its own; None where that cannot be done.

    Args:
        program: Python that imports what is needed, and an expression that opens the file (`Engine.opening`).
    """
    if program is None:
        return None
    source = PROGRAM.format(imports=program[0], expression=program[1])
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    return None if done.returncode else Opening(*json.loads(done.stdout.splitlines()[-1]))

"""What `import paredown` costs beside `import torch`.

    python benchmarks/import_time.py      # 15 rounds; under a minute

Each measurement is a fresh interpreter; the two take turns, and the medians are shown. What is promised is at most
0.3 s more than torch alone: exits with 1 above that and the noise of the measurement (half the distance of the
quartiles of the differences).
"""

from __future__ import annotations

import functools
import statistics
import subprocess
import sys
from collections.abc import Sequence

from harness import command_line, in_turns, wall_seconds

PROMISED = 0.3
STATEMENTS = {"import torch": "import torch", "import torch, paredown": "import torch, paredown"}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="measurements of each; at least 2")
    rounds = max(parser.parse_args(arguments).rounds, 2)
    starts = {name: functools.partial(seconds_of, statement) for name, statement in STATEMENTS.items()}
    times = in_turns(starts, rounds, warm_up=1)  # which brings files into the page cache
    for name, values in times.items():
        print(f"{name:<28}{statistics.median(values):>8.3f} s")
    alone, together = times.values()
    differences = [both - one for one, both in zip(alone, together, strict=True)]
    low, difference, high = statistics.quantiles(differences, n=4)
    noise = (high - low) / 2
    print(f"{'difference':<28}{difference:>8.3f} s   (noise {noise:.3f}; medians of {rounds}, interleaved)")
    kept = difference <= PROMISED + noise
    print(f"at most {PROMISED} s: {'kept' if difference <= PROMISED else 'within noise' if kept else 'NOT KEPT'}")
    return 0 if kept else 1


def seconds_of(statement: str) -> float:
    """The wall-clock time of a fresh interpreter that runs one statement."""
    return wall_seconds(lambda: subprocess.run([sys.executable, "-c", statement], check=True))


if __name__ == "__main__":
    sys.exit(main())

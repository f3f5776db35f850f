"""What the benchmarks share: the command line, measuring in turns and in processes, tables, and the verdict at the end.

It needs torch and not paredown, so that a script can also run in the interpreter of a peer.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


def command_line(description: str | None, **switches: str) -> argparse.ArgumentParser:
    """Make a parser of arguments that shows a text as it stands, with switches by their names and explanations."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, explanation in switches.items():
        parser.add_argument(f"--{name}", action="store_true", help=explanation)
    return parser


def one_quiet_thread() -> None:
    """Make torch compute on one thread in this process, and silence warnings."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")


def wall_seconds(act: Callable[[], object]) -> float:
    """Call a function once and measure how many seconds passed meanwhile."""
    begin = time.perf_counter()
    act()
    return time.perf_counter() - begin


def cpu_seconds(act: Callable[[], object]) -> float:
    """Call a function once and measure the CPU time of this process, which other programs disturb little."""
    begin = time.process_time()
    act()
    return time.process_time() - begin


def in_turns(
    alternatives: Mapping[str, Callable[[], Result]], rounds: int, warm_up: int = 0
) -> dict[str, list[Result]]:
    """Call several functions in turns, so that what disturbs the machine disturbs all, and list what each returned.

    In every round another one is first. Rounds of warming up come before the others and are not listed.
    """
    names = list(alternatives)
    found: dict[str, list[Result]] = {name: [] for name in names}
    for turn in range(warm_up + rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            result = alternatives[name]()
            if turn >= warm_up:
                found[name].append(result)
    return found


def ratios(measured: Mapping[str, Sequence[float]], to: str) -> dict[str, list[float]]:
    """Divide what was measured in turns by the measurement of one alternative in the same round."""
    return {name: [a / b for a, b in zip(values, measured[to], strict=True)] for name, values in measured.items()}


def medians(measured: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Take the median of the measurements under each name."""
    return {name: statistics.median(values) for name, values in measured.items()}


def mean_of(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Take the mean of each column over rows that all have the columns of the first one."""
    return {name: statistics.mean(row[name] for row in rows) for name in rows[0]}


def map_in_processes(function: Callable[..., Result], jobs: Sequence[tuple[Any, ...]], processes: int) -> list[Result]:
    """Call a function with the arguments of each job, in so many fresh processes if more than one; results in order."""
    if processes <= 1:
        return [function(*job) for job in jobs]
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        return list(pool.map(function, *zip(*jobs, strict=True)))


def printed_json(
    command: Sequence[str], environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> Any:
    """Run a program in a process of its own and read the JSON in the last line that it prints.

    Where the program fails, RuntimeError has what it wrote to stderr.
    """
    variables = {**os.environ, **(environment or {})}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables, cwd=folder)
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}:\n{done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1])


class Table:
    """A table on the screen, line by line: each row is printed when it is measured.

    A column is a heading and the format of its numbers, as in ("seconds", ">10.4f"). Text in it, like the heading, gets
    the part of the format before the point: the side and the width.
    """

    def __init__(self, *columns: tuple[str, str]) -> None:
        """Print the headings."""
        self.formats = [each for _, each in columns]
        self.row(*(heading for heading, _ in columns))

    def row(self, *cells: str | float) -> None:
        """Print a line of cells, which may be fewer than there are columns."""
        pairs = zip(cells, self.formats, strict=False)
        texts = [format(cell, each.partition(".")[0] if isinstance(cell, str) else each) for cell, each in pairs]
        print("".join(texts), flush=True)


def verdict(shortfalls: Iterable[str]) -> int:
    """Print what was promised and is not kept, or that everything holds, and return the exit status."""
    lines = [f"FALLS SHORT: {line}" for line in shortfalls]
    print("\n".join(lines) or "holds")
    return 1 if lines else 0

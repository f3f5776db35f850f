"""Sweeps: many jobs of one recipe with other values, their folders, and the table of their results."""

from paredown.framework.experiments.sweep.collecting import Sweep, collect
from paredown.framework.experiments.sweep.condition import Condition
from paredown.framework.experiments.sweep.creating import create_sweep
from paredown.framework.experiments.sweep.picking import pick, winning_recipe
from paredown.framework.experiments.sweep.progress import (
    JobEnded,
    JobStarted,
    LauncherFailed,
    Progress,
    SweepEnded,
    SweepStarted,
)
from paredown.framework.experiments.sweep.row import Row
from paredown.framework.experiments.sweep.running import run_sweep

__all__ = [
    "Condition",
    "JobEnded",
    "JobStarted",
    "LauncherFailed",
    "Progress",
    "Row",
    "Sweep",
    "SweepEnded",
    "SweepStarted",
    "collect",
    "create_sweep",
    "pick",
    "run_sweep",
    "winning_recipe",
]

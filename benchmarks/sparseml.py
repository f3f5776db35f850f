"""Sparsity over 30 epochs, step by step: SparseML's recipe in SparseML, and its translation in paredown.

    python benchmarks/sparseml.py --peer PYTHON     # an interpreter that has sparseml 1.8.0 and torch; a minute
    python benchmarks/sparseml.py                   # without the peer: ours against the formula

SparseML is discontinued and pins old versions, so it gets an environment of its own, for instance

    python -m venv peer
    peer/bin/pip install sparseml==1.8.0 sparsezoo==1.8.0 "setuptools<81" torch

The documented formula: on the grid start, start + frequency, ... and at the end, the share of zeros is that of the
curve (cubic, linear, inverse cubic) between the initial and the final sparsity. `off` is the largest distance to it
over all steps, in weights of a hundred thousand; `steps off` is at how many steps it is more than what rounding and the
translation explain (one weight a layer; 0.3% of the way for the straight pieces of inverse_cubic).

Exits with 1 where ours departs from the formula.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any

import torch
from harness import Table, command_line, printed_json, verdict
from torch import nn

STEPS, EPOCHS = 20, 30
START, END = 2, 26
CASES: dict[str, dict[str, Any]] = {
    "GMPruning cubic": {"tag": "GMPruningModifier", "curve": "cubic", "every": 1.0},
    "GMPruning linear": {"tag": "GMPruningModifier", "curve": "linear", "every": 0.5},
    "GMPruning inverse_cubic": {"tag": "GMPruningModifier", "curve": "inverse_cubic", "every": 0.5},
    "GMPruning every 0.1": {"tag": "GMPruningModifier", "curve": "cubic", "every": 0.1},
    "GMPruning every 0.7": {"tag": "GMPruningModifier", "curve": "cubic", "every": 0.7},
    "GlobalMagnitude cubic": {"tag": "GlobalMagnitudePruningModifier", "curve": "cubic", "every": 0.5},
    "Constant": {"tag": "ConstantPruningModifier", "curve": None, "every": None},
}
SHARES = {"cubic": lambda p: 1 - (1 - p) ** 3, "linear": lambda p: p, "inverse_cubic": lambda p: 1 - (1 - p) ** (1 / 3)}
INITIAL, FINAL = 0.05, 0.9


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line(__doc__)
    parser.add_argument("--peer", metavar="PYTHON", help="the interpreter that has sparseml 1.8.0")
    parser.add_argument("--as-peer", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.as_peer:
        print(json.dumps({name: sparseml_curve(recipe_of(**case)) for name, case in CASES.items()}))
        return 0
    peer = peer_curves(options.peer) if options.peer else None
    ours, theirs = (("ours off", ">10.1f"), ("steps off", ">11")), (("SparseML off", ">14.1f"), ("steps off", ">11"))
    table = Table(("", "<26"), *ours, *theirs, ("  who is right by the formula", "<"))
    right = {name: compare(table, name, case, peer) for name, case in CASES.items()}
    return verdict(f"{name} departs from the formula" for name, kept in right.items() if not kept)


def recipe_of(tag: str, curve: str | None, every: float | None) -> str:
    """The old recipe."""
    fields = [f"start_epoch: {float(START)}", "params: __ALL_PRUNABLE__"]
    if curve is None:
        fields[0] = "start_epoch: 0.0"
    else:
        fields += [f"end_epoch: {float(END)}", f"update_frequency: {every}", f"inter_func: {curve}"]
        fields += [f"init_sparsity: {INITIAL}", f"final_sparsity: {FINAL}"]
    lines = "".join(f"    {field}\n" for field in fields)
    return f"modifiers:\n  - !EpochRangeModifier\n    start_epoch: 0.0\n    end_epoch: {EPOCHS}.0\n  - !{tag}\n{lines}"


def model_of(pruned: bool) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(100, 400), nn.ReLU(), nn.Linear(400, 140), nn.ReLU(), nn.Linear(140, 30))
    layers = [layer for layer in model if isinstance(layer, nn.Linear)]
    for layer in layers if pruned else ():
        layer.weight.data.flatten()[::2] = 0
    return model


def run(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[float]:
    """The share of zeros after each step of a loop with random data."""
    generator = torch.Generator().manual_seed(1)
    curve = []
    for _ in range(EPOCHS * STEPS):
        optimizer.zero_grad()
        model(torch.randn(8, 100, generator=generator)).square().mean().backward()
        optimizer.step()
        curve.append(share_of_zeros(model))
    return curve


def share_of_zeros(model: nn.Module) -> float:
    found = [parameter for name, parameter in model.named_parameters() if "weight" in name]
    return sum(int((one == 0).sum()) for one in found) / sum(one.numel() for one in found)


def our_curve(text: str) -> list[float]:
    from paredown import Recipe, ScheduledManager
    from paredown.integrations.conversion.conversion import convert

    model = model_of("Constant" in text)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    manager = ScheduledManager(Recipe.load(convert(text, "old.yaml").recipe))
    manager.modify(model, optimizer, steps_per_epoch=STEPS)
    curve = run(model, optimizer)
    manager.finalize()
    return curve


def sparseml_curve(text: str) -> list[float]:
    from sparseml.pytorch.optim import ScheduledModifierManager  # type: ignore[import-not-found]

    model = model_of("Constant" in text)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    manager = ScheduledModifierManager.from_yaml(text)
    wrapped = manager.modify(model, optimizer, steps_per_epoch=STEPS)
    curve = run(model, wrapped)
    manager.finalize(model)
    return curve


def peer_curves(python: str) -> dict[str, list[float]]:
    path = Path(__file__).resolve()
    # run by path, its folder last, so that this file does not stand in for the package of its name
    folder = f"import sys; sys.path.append({str(path.parent)!r})"
    code = f"{folder}; import runpy; runpy.run_path({str(path)!r}, run_name='__main__')"
    command = [python, "-W", "ignore", "-c", code, "--as-peer"]
    found: dict[str, list[float]] = printed_json(command, folder=path.parent.parent)
    return found


def formula(case: dict[str, Any], first: int) -> list[float]:
    """What the documentation says: a grid, and the value at its last point; `first` is the step that start means."""
    if case["curve"] is None:
        return [0.5] * (EPOCHS * STEPS)
    every = Fraction(str(case["every"]))
    curve = []
    for step in range(EPOCHS * STEPS):
        epoch = Fraction(step + 1 - first, STEPS)
        if epoch < START:
            curve.append(0.0)
            continue
        place = Fraction(START) + floor((epoch - START) / every) * every if epoch < END else Fraction(END)
        progress = float((place - START) / (END - START))
        curve.append(INITIAL + (FINAL - INITIAL) * SHARES[case["curve"]](progress))
    return curve


def compare(table: Table, name: str, case: dict[str, Any], peer: dict[str, list[float]] | None) -> bool:
    """Print one row; whether ours is the formula's."""
    allowed = 4e-5 + (0.0026 if case["curve"] == "inverse_cubic" else 0)
    ours = distances(our_curve(recipe_of(**case)), case, allowed)
    row = (name, ours[0] * 1e5, ours[1])
    if peer is None:
        table.row(*row)
        return ours[1] == 0
    theirs = distances(peer[name], case, allowed)
    right = {(True, True): "both", (True, False): "paredown", (False, True): "SparseML", (False, False): "neither"}
    table.row(*row, theirs[0] * 1e5, theirs[1], f"  {right[ours[1] == 0, theirs[1] == 0]}")
    return ours[1] == 0


def distances(curve: list[float], case: dict[str, Any], allowed: float) -> tuple[float, int]:
    """The largest distance to the formula, and at how many steps it is too large.

    Whether the step at `start` is the last one before or the first one after is a matter of counting.
    """
    found = []
    for first in (0, 1):
        apart = [abs(one - wanted) for one, wanted in zip(curve, formula(case, first), strict=True)]
        found.append((sum(one > allowed for one in apart), max(apart)))
    count, largest = min(found)
    return largest, count


if __name__ == "__main__":
    sys.exit(main())

"""What the manager costs a training step: ratios of interleaved medians, on one thread.

    python benchmarks/overhead.py            25 million weights (about two minutes)
    python benchmarks/overhead.py --small    1 million, to see that it runs

Side by side: the plain loop; the loop with a manager whose modifier is not active; masks held by paredown (fast and
compact), by torch.nn.utils.prune and by torch.ao.pruning. Exits with 1 where paredown falls short of its promise:
idle at most 1.01 of the plain step, held masks at most 0.6 ns a weight (allowances for noise: 0.02, and 0.2 ns).
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
import torch.nn.utils.prune as torch_prune
from harness import Table, command_line, in_turns, medians, verdict, wall_seconds
from torch import nn

from paredown import Recipe, ScheduledManager

IDLE, HELD_NANOSECONDS = 1.01 + 0.02, 0.6 + 0.2

Step = Callable[[], float]


def network(width: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*[layer for _ in range(6) for layer in (nn.Linear(width, width), nn.ReLU())])


def pruning(start: float, end: float, masks: str = "fast") -> Recipe:
    prune = {"type": "magnitude_pruning", "start": start, "end": end, "final_sparsity": 0.9, "masks": masks}
    return Recipe.load({"recipe": 1, "name": "overhead", "run": {"epochs": 100}, "modifiers": {"prune": prune}})


def stepper(model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> Step:
    def step() -> None:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    return lambda: wall_seconds(step)


def loops(width: int, x: torch.Tensor) -> dict[str, Step]:
    steps: dict[str, Step] = {}
    recipes = {
        "plain": None,
        "idle": pruning(50, 60),
        "held": pruning(0, 0.001),
        "held compact": pruning(0, 0.001, "compact"),
    }
    for name, recipe in recipes.items():
        model = network(width)
        optimizer = torch.optim.SGD(model.parameters(), 1e-6, momentum=0.9)
        if recipe is not None:
            ScheduledManager(recipe).modify(model, optimizer, steps_per_epoch=1000)
        steps[name] = stepper(model, optimizer, x)
    steps["torch.nn.utils.prune"] = with_torch_prune(width, x)
    steps["torch.ao.pruning"] = with_torch_ao(width, x)
    return steps


def with_torch_prune(width: int, x: torch.Tensor) -> Step:
    model = network(width)
    for layer in model:
        if isinstance(layer, nn.Linear):
            torch_prune.l1_unstructured(layer, "weight", 0.9)
    return stepper(model, torch.optim.SGD(model.parameters(), 1e-6, momentum=0.9), x)


def with_torch_ao(width: int, x: torch.Tensor) -> Step:
    from torch.ao.pruning import WeightNormSparsifier  # type: ignore[attr-defined]

    model = network(width)
    sparsifier = WeightNormSparsifier(sparsity_level=0.9, sparse_block_shape=(1, 1), zeros_per_block=1)
    sparsifier.prepare(model, [{"tensor_fqn": f"{i}.weight"} for i, m in enumerate(model) if isinstance(m, nn.Linear)])
    return stepper(model, torch.optim.SGD(model.parameters(), 1e-6, momentum=0.9), x)


def main() -> int:
    small = command_line(__doc__, small="1 million weights, no promises").parse_args().small
    torch.set_num_threads(1)
    width, rounds = (408, 5) if small else (2048, 15)
    times = in_turns(loops(width, torch.randn(192, width)), rounds, warm_up=3)
    short = told(medians(times), rounds, weights=6 * width * width)
    return 0 if small else verdict(short)


def told(median: dict[str, float], rounds: int, weights: int) -> list[str]:
    """Print the table; what was promised and is not kept."""
    plain = median["plain"]
    print(f"{weights:,} weights, one thread, step of {plain:.3f} s, medians of {rounds} interleaved")
    table = Table(("", "<22"), ("step / plain", ">14.3f"), ("ns a weight", ">14.2f"))
    cost = {name: 1e9 * (seconds - plain) / weights for name, seconds in median.items()}
    for name, seconds in median.items():
        table.row(name, seconds / plain, cost[name])
    idle = [] if median["idle"] / plain <= IDLE else ["idle <= 1.01 was promised"]
    held = [] if cost["held"] <= HELD_NANOSECONDS else ["held <= 0.6 ns a weight was promised"]
    return idle + held


if __name__ == "__main__":
    sys.exit(main())

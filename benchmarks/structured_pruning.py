"""Physical pruning side by side with torch-pruning: what works, what breaks, how long it takes, what comes out.

    python benchmarks/structured_pruning.py                      # 30 architectures; about five minutes
    python benchmarks/structured_pruning.py --small              # three of them; seconds
    python benchmarks/structured_pruning.py resnet18 llama       # some

Half of the channels of each group go, by magnitude, without anything declared about the model (torch-pruning is told
which layer gives the output, since it would cut that too). Just before channels are removed they are set to zero: the
difference is that of the outputs before and after, relative to the largest output. The architectures are those of the
tests, small. torch-pruning also cuts channels over which a layer norm averages, which changes what the others give;
paredown leaves these alone. Eight of the networks are in the style of detectors. It is compared where it is installed
(pip install --no-deps torch-pruning==1.6.1).

Exits with 1 where a model that paredown cut gives something else, or breaks, or keeps over 5% more parameters than
torch-pruning leaves of it where what that leaves is right.
"""

from __future__ import annotations

import copy
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detector_nets import DETECTORS
from harness import Table, command_line, one_quiet_thread, verdict
from torch import Tensor, nn

from paredown.framework.measure.latency import measure_latency
from paredown.framework.model.forward import call
from paredown.framework.model.graph.fusion import export_graph, tensors_of
from paredown.framework.model.surgery import Surgery
from paredown.framework.model.temporary import evaluating
from paredown.modifiers.pruning.removal.channels import (
    Removal,
    analyse,
    commit,
    find_frozen,
    find_groups,
    fixed_places,
    gone_at,
    runner,
    verified,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from architectures import ARCHITECTURES

SHARE = 0.5
SMALL = ("resnet18", "vit", "lstm")
TOLERANCE = 1e-4
#: parameters that may be left beside those that the other tool leaves
ABOVE = 1.05
NETS: dict[str, Callable[[], tuple[nn.Module, Any]]] = {**ARCHITECTURES, **DETECTORS}
LIMIT = 60  # seconds for one model and tool


@dataclass
class Outcome:
    """What one tool made of one model."""

    analysis: float = 0.0
    pruning: float = 0.0
    difference: float = 0.0
    parameters: float = 1.0
    latency: float = 1.0
    told: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line(__doc__, small="three architectures")
    parser.add_argument("names", nargs="*", help="of architectures; all, if none is given")
    options = parser.parse_args(arguments)
    one_quiet_thread()
    names = options.names or (SMALL if options.small else NETS)
    tools: dict[str, Callable[[nn.Module, Any], Outcome]] = {"paredown": by_paredown}
    if torch_pruning() is None:
        print("torch-pruning is not installed: only paredown is shown")
    else:
        tools["torch-pruning"] = by_torch_pruning
    spent = (("analysis", ">10"), ("pruning", ">10"))
    came_out = (("difference", ">12.1e"), ("parameters", ">12.2f"), ("latency", ">9.2f"))
    table = Table(("", "<16"), ("", "<14"), *spent, *came_out, ("", "<"))
    return verdict([line for name in names for line in compared(table, name, tools)])


def compared(table: Table, name: str, tools: Mapping[str, Callable[[nn.Module, Any], Outcome]]) -> list[str]:
    """Print a row for each tool; where ours did not give what it had to."""
    short, left = [], {}
    for tool, prune in tools.items():
        model, inputs = NETS[name]()
        original = copy.deepcopy(model)
        try:
            with at_most(LIMIT):
                outcome = prune(model, inputs)
            outcome.parameters = _count(model) / _count(original)
            outcome.latency = _latency(model, original, inputs)
        except Exception as error:  # whatever a tool raises: it is the result
            outcome = Outcome(told=f"BREAKS: {type(error).__name__}: {str(error).partition(chr(10))[0][:60]}")
        _tell(table, name, tool, outcome)
        if outcome.difference <= TOLERANCE and "BREAKS" not in outcome.told:
            left[tool] = outcome.parameters
        if tool == "paredown" and (outcome.difference > TOLERANCE or "BREAKS" in outcome.told):
            short.append(f"{name} breaks, or gives something else once it is cut")
    if left.get("paredown", 0.0) > ABOVE * left.get("torch-pruning", 1.0):
        short.append(
            f"{name} keeps {left['paredown']:.3f} of its parameters, with torch-pruning {left['torch-pruning']:.3f}"
        )
    return short


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in what takes longer."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"no end after {seconds} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def by_paredown(model: nn.Module, inputs: Any) -> Outcome:
    start = time.perf_counter()
    analysis = analyse(export_graph(model, inputs), model)
    groups = find_groups(analysis, fixed_places(model))
    analysed = time.perf_counter()
    weights = dict(model.named_parameters())
    removals = [Removal(group, _smallest(weights, group.slices, group.units)) for group in groups]
    made = verified(model, runner(model, inputs, None), analysis, removals)
    seconds = time.perf_counter() - analysed
    with torch.no_grad():
        for (name, dimension), indices in gone_at(made.cut.removals).items():
            if name in weights:
                weights[name].index_fill_(dimension, indices, 0)
    wanted = _output(model, inputs)
    begin = time.perf_counter()
    commit(Surgery(model, [], {}), made.cut)
    seconds += time.perf_counter() - begin
    left = len({frozen.layer for frozen in find_frozen(analysis, {})})
    told = f"{len(made.cut.removals)} groups" + (f", {len(made.refused)} put back" if made.refused else "")
    return Outcome(
        analysed - start, seconds, _difference(_output(model, inputs), wanted), told=f"{told}; {left} layers stay"
    )


def _smallest(weights: Mapping[str, Tensor], slices: Mapping[tuple[str, int], Tensor], units: int) -> Tensor:
    total = torch.zeros(units)
    for (name, dimension), indices in slices.items():
        if name in weights:
            squares = (
                weights[name].detach().square().movedim(dimension, 0).reshape(weights[name].shape[dimension], -1).sum(1)
            )
            total += squares[indices].sum(1)
    return total.argsort()[: int(SHARE * units)].sort().values


def by_torch_pruning(model: nn.Module, inputs: Any) -> Outcome:
    tp: Any = torch_pruning()
    last = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))][-1:]
    start = time.perf_counter()
    pruner = tp.pruner.MagnitudePruner(
        model,
        inputs if len(inputs) > 1 else inputs[0],
        importance=tp.importance.MagnitudeImportance(p=2),
        pruning_ratio=SHARE,
        ignored_layers=last,
        output_transform=lambda output: sum(part.sum() for part in tensors_of(output)),
    )
    analysed = time.perf_counter()
    worst, seconds, count = 0.0, 0.0, 0
    groups = iter(pruner.step(interactive=True))
    while True:
        begin = time.perf_counter()
        group = next(groups, None)
        seconds += time.perf_counter() - begin
        if group is None:
            break
        _zero(group)
        wanted = _output(model, inputs)
        begin = time.perf_counter()
        group.prune()
        seconds += time.perf_counter() - begin
        count += 1
        worst = max(worst, _difference(_output(model, inputs), wanted))
    told = f"{count} groups" + ("; GIVES SOMETHING ELSE" if worst > TOLERANCE else "")
    return Outcome(analysed - start, seconds, worst, told=told)


@torch.no_grad()
def _zero(group: Any) -> None:
    """Set to zero what a group of torch-pruning is about to remove."""
    for dependency, indices in group:
        layer, kind = dependency.target.module, dependency.handler.__name__
        if isinstance(layer, nn.Parameter):
            continue
        weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
        transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
        out = "out_channels" in kind
        if isinstance(weight, Tensor):
            dimension = 0 if weight.dim() == 1 or out != transposed else 1
            if weight.dim() > dimension and max(indices, default=-1) < weight.shape[dimension]:
                weight.index_fill_(dimension, torch.tensor(indices), 0)
        if isinstance(bias, Tensor) and out:
            bias[torch.tensor(indices)] = 0


def torch_pruning() -> Any:
    """The module, or None where it is not installed."""
    try:
        import torch_pruning as tp
    except ImportError:
        return None
    return tp


def _output(model: nn.Module, inputs: Any) -> tuple[Tensor, ...]:
    with evaluating(model):
        return tensors_of(call(model, inputs, None))


def _difference(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> float:
    pairs = [(a.double(), b.double()) for a, b in zip(ours, theirs, strict=True)]
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)) for a, b in pairs)


def _latency(model: nn.Module, original: nn.Module, inputs: Any) -> float:
    measured = measure_latency({"before": original, "after": model}, inputs)
    return measured["after"].median / measured["before"].median


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _tell(table: Table, name: str, tool: str, outcome: Outcome) -> None:
    if "BREAKS" in outcome.told:
        table.row(name, tool, f"  {outcome.told}")
        return
    seconds = (f"{outcome.analysis:.2f}s", f"{outcome.pruning:.2f}s")
    share = (outcome.difference, outcome.parameters, outcome.latency)
    table.row(name, tool, *seconds, *share, f"  {outcome.told}")


if __name__ == "__main__":
    sys.exit(main())

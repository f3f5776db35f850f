"""The channel groups of a model that a modifier may cut, and why others stay."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from paredown.framework.errors import TargetError
from paredown.framework.model.forward import Forward
from paredown.framework.model.graph.fusion import Graph, export_graph
from paredown.framework.model.targets import match, named_modules, named_parameters, plain_name
from paredown.framework.modifier.training import Training
from paredown.modifiers.pruning.removal.channel_budget import Costs
from paredown.modifiers.pruning.removal.channels import (
    Analysis,
    ChannelGroup,
    Cut,
    Removal,
    Trials,
    Verified,
    analyse,
    find_frozen,
    find_groups,
    fixed_places,
    runner,
    trial_cut,
    with_settings,
)
from paredown.modifiers.pruning.removal.dead_channels import dead_units
from paredown.modifiers.pruning.scoring.prunable import layer_of

__all__ = ["ChannelView", "look", "parameters_after"]


@dataclass(frozen=True)
class ChannelView:
    """A model's groups.

    Attributes:
        model: the user's own module.
        inputs, forward: what it is traced and compared with.
        analysis: what goes together.
        groups: those that a modifier may cut.
        reasons: why target layers are left alone, by layer.
    """

    model: nn.Module
    inputs: Any
    forward: Forward | None
    analysis: Analysis
    groups: tuple[ChannelGroup, ...]
    reasons: dict[str, str] = field(default_factory=dict)

    @functools.cached_property
    def costs(self) -> Costs:
        """What the model costs, and would cost with fewer channels."""
        return Costs(self.model, self.analysis, self.inputs, self.forward)

    @property
    def tensors(self) -> list[str]:
        """The names of all tensors in which groups have slices."""
        return list(dict.fromkeys(name for group in self.groups for name, _ in group.slices))

    def verified(self, removals: Sequence[Removal]) -> Verified:
        """What can be cut of these, tried out."""
        return self._trials.verified(removals)

    def dead(self, groups: Sequence[ChannelGroup]) -> dict[str, Tensor]:
        """By the name of a group, which of its units contribute nothing."""
        return dead_units(groups, named_parameters(self.model), self._trials.run)

    @functools.cached_property
    def _trials(self) -> Trials:
        return Trials(self.model, runner(self.model, self.inputs, self.forward), self.analysis)

    def with_settings(self, cut: Cut) -> tuple[Cut, str | None]:
        """The cut with the changes of the model's config that go with it, and a remark where there are none."""
        return with_settings(self.model, cut, self.inputs, self.forward)

    def latency(self, training: Training, cut: Cut) -> float:
        """Milliseconds of a forward with this cut, in the engine."""
        with trial_cut(self.model, cut.kept, cut.attributes):
            measured = training.latency({"it": self.model}, self.inputs, self.forward)
        return measured["it"].median


def look(training: Training, ignore: Sequence[str], heads: bool = False) -> ChannelView:
    """Analyse a model, and pick the groups that have outputs of a target and none of an ignored layer.

    Args:
        training: with example inputs or data.
        ignore: patterns of layers that stay as they are.
        heads: whether only attention heads count.

    Raises:
        TargetError: the model cannot be traced.
    """
    example = training.data.example()
    assert example is not None
    inputs, forward = example
    model = training.model
    graph = export_graph(model, inputs, forward)
    analysis = analyse(graph, model, _in_training(graph, model, inputs, forward))
    refused = fixed_places(model)
    groups, reasons = [], {}
    targets, ignored = training.targets(), _ignored(training, ignore)
    for group in find_groups(analysis, refused):
        if heads and not group.heads:
            continue
        kept_back = next((name for name in group.layers if name in ignored), None)
        if not any(name in targets for name in group.layers):
            continue
        if kept_back is not None:
            reasons[group.name] = f"it goes together with {kept_back}, which is ignored"
        elif group.units > 1:
            groups.append(group)
    whole = {name for group in groups for name in group.layers}
    for frozen in find_frozen(analysis, refused):
        if frozen.layer in targets and frozen.layer not in whole and (frozen.heads or not heads):
            reasons.setdefault(frozen.layer, frozen.reason)
    return ChannelView(model, inputs, forward, analysis, tuple(groups), reasons)


def _in_training(graph: Graph, model: nn.Module, inputs: Any, forward: Forward | None) -> Graph | None:
    """The graph of a training forward, if that reads parameters that an eval forward does not: auxiliary heads."""
    used = {name for node, name in graph.parameters.items() if graph.users_of(node)}
    read = {id(tensor) for name, tensor in _all_names(model) if name in used}
    unread = any(id(tensor) not in read for _, tensor in _all_names(model))
    if not unread or runner(model, inputs, forward).trains == "not":
        return None
    try:
        return export_graph(model, inputs, forward, training=True)
    except TargetError:  # a training forward that cannot be traced: the trial shows what it does not bear
        return None


def _all_names(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(plain_name(name), each) for name, each in model.named_parameters(remove_duplicate=False)]


def parameters_after(model: nn.Module, cut: Cut) -> dict[str, int]:
    """The number of own parameters of each module that a cut changes."""
    shapes = {name: list(parameter.shape) for name, parameter in named_parameters(model).items()}
    changed: dict[str, None] = {}
    for (name, dimension), kept in cut.kept.items():
        if name in shapes:
            shapes[name][dimension] = len(kept)
            changed[layer_of(name)] = None
    return {layer: _count(shapes, layer) for layer in changed}


def _count(shapes: dict[str, list[int]], layer: str) -> int:
    return sum(math.prod(shape) for name, shape in shapes.items() if layer_of(name) == layer)


def _ignored(training: Training, ignore: Sequence[str]) -> set[str]:
    if not ignore:
        return set()
    kept = match(training.model, (), ignore, (nn.Module,)).modules
    return {name for name in named_modules(training.model) if name not in kept}

"""Channel groups: units that can be removed, each a set of slices that only go together."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from paredown.framework.model.graph.fusion import is_convolution
from paredown.framework.model.graph.trace import operator_name
from paredown.modifiers.pruning.removal.channels.analysis import Analysis
from paredown.modifiers.pruning.removal.channels.solving import NEVER

__all__ = ["ChannelGroup", "Frozen", "Place", "find_frozen", "find_groups"]

#: a dimension of a parameter or buffer
Place = tuple[str, int]


@dataclass(frozen=True)
class ChannelGroup:
    """Units of one kind: any of them can be removed, and with each go all of its slices.

    Attributes:
        name: of the first dimension in which outputs are produced, with a number where two have one name.
        slices: for each place the indices of each unit's slices, of shape (units, slices of one unit).
        outputs: the places where outputs are produced.
        reads: those of weights that sum over the units.
        passes: those of weights by which each channel is multiplied.
        heads: whether the units are attention heads.
    """

    name: str
    slices: Mapping[Place, Tensor]
    outputs: tuple[Place, ...]
    heads: bool = False
    reads: tuple[Place, ...] = ()
    passes: tuple[Place, ...] = ()

    @property
    def units(self) -> int:
        """How many units there are."""
        return len(next(iter(self.slices.values())))

    @property
    def width(self) -> int:
        """Channels of one unit, at the place that gives the group its name."""
        return self.slices[self.outputs[0]].shape[1]

    @property
    def key(self) -> str:
        """The name, and what a unit is made of: the same for the same group after units were removed."""
        made = ",".join(f"{name}:{dimension}x{each.shape[1]}" for (name, dimension), each in self.slices.items())
        return f"{self.name}:{zlib.crc32(made.encode()):08x}"

    @property
    def layers(self) -> tuple[str, ...]:
        """The modules whose outputs are produced."""
        return tuple(dict.fromkeys(layer_of(tensor) for tensor, _ in self.outputs))


@dataclass(frozen=True)
class Frozen:
    """Outputs of a module that cannot be removed: how many of how many, why, and whether they are attention heads'."""

    layer: str
    channels: int
    of: int
    reason: str
    heads: bool = False


def layer_of(tensor: str) -> str:
    """The module that a parameter or buffer belongs to; of one that is parametrized, the module that has it."""
    module = tensor.rpartition(".")[0]
    return "" if module.startswith("parametrizations.") else module.partition(".parametrizations.")[0]


def find_groups(analysis: Analysis, refused: Mapping[Place, str]) -> list[ChannelGroup]:
    """All groups, in the order of the graph.

    Args:
        analysis: of the model.
        refused: places that must stay, with the reason.
    """
    classes = analysis.classes
    blocked = _blocked(analysis, refused)
    of, place, index = _table(analysis)
    free = (classes.reason[of] == NEVER) & ~torch.isin(of, torch.tensor(sorted(blocked), dtype=torch.int64))
    of, place, index = of[free], place[free], index[free]
    order = torch.argsort(of, stable=True)
    units = torch.split(order, torch.bincount(of)[torch.unique(of)].tolist()) if len(order) else ()
    marked = Marked(*(_marked(analysis, each) for each in _roles(analysis)))
    kinds: dict[tuple[tuple[int, int], ...], list[Tensor]] = {}
    for unit in units:
        places, counts = torch.unique_consecutive(place[unit], return_counts=True)
        kinds.setdefault(tuple(zip(places.tolist(), counts.tolist(), strict=True)), []).append(unit)
    groups: list[ChannelGroup] = []
    for kind, members in kinds.items():
        group = _group(analysis, kind, torch.stack(members), index, marked, groups)
        if group is not None:
            groups.append(group)
    return groups


def find_frozen(analysis: Analysis, refused: Mapping[Place, str]) -> list[Frozen]:
    """For each module that has outputs that stay: how many and the first reason."""
    classes, produced = analysis.classes, _marked(analysis, analysis.labels.produced)
    blocked = _blocked(analysis, refused)
    found = []
    for number, origin in enumerate(analysis.labels.origins):
        if number not in produced:
            continue
        of = classes.of[origin.first : origin.first + origin.size]
        stays = [reason for reason in classes.reason[of].tolist() if reason < NEVER]
        others = [blocked[each] for each in of.tolist() if each in blocked]
        if stays or others:
            why = classes.reasons[min(stays)] if stays else others[0]
            heads = bool(torch.isin(of, analysis.along_heads).any())
            layer = layer_of(origin.tensor)
            found.append(Frozen(layer, max(len(stays), len(others)), origin.size, why, heads))
    return [*_computed(analysis), *found]


def _computed(analysis: Analysis) -> Iterator[Frozen]:
    """The layers whose weight is no parameter, but made of some."""
    graph = analysis.graph
    for node in graph.nodes:
        if operator_name(node) != "linear" and not is_convolution(node):
            continue
        weight, layer = node.args[1], graph.module_of(node)
        if layer is None or not isinstance(weight, Node) or graph.own_parameter(weight) is not None:
            continue
        makers = _makers(weight)
        made_by = list(dict.fromkeys(operator_name(each).strip("_") for each in makers if each.op == "call_function"))
        if all(each in graph.parameters for each in makers if each.op == "placeholder"):
            channels = node.meta["val"].shape[-1 if operator_name(node) == "linear" else 1]
            yield Frozen(
                layer, channels, channels,
                f"its weight is computed ({', '.join(made_by[:3])}), by a parametrization: take that off before, "
                "torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight'), and put it on again afterwards",
            )  # fmt: skip


def _makers(weight: Node) -> list[Node]:
    """All that a weight is made of and by, the last first."""
    found: dict[Node, None] = {}
    waiting = [weight]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found[node] = None
            waiting += node.all_input_nodes
    return list(found)


def _table(analysis: Analysis) -> tuple[Tensor, Tensor, Tensor]:
    """For each index of each place: its class, the place's number, the index."""
    origins = analysis.labels.origins
    if not origins:
        return (torch.empty(0, dtype=torch.int64),) * 3
    of = torch.cat([analysis.classes.of[each.first : each.first + each.size] for each in origins])
    place = torch.arange(len(origins)).repeat_interleave(torch.tensor([each.size for each in origins]))
    return of, place, torch.cat([torch.arange(each.size) for each in origins])


@dataclass(frozen=True)
class Marked:
    """The numbers of the origins in which units are produced, summed over, or multiplied one by one."""

    produced: set[int]
    read: set[int]
    passed: set[int]


def _roles(analysis: Analysis) -> tuple[list[Tensor], ...]:
    return analysis.labels.produced, analysis.labels.read, analysis.labels.passed


def _marked(analysis: Analysis, factors: list[Tensor]) -> set[int]:
    """The numbers of the origins that have one of these labels."""
    if not factors:
        return set()
    mark = torch.zeros(analysis.labels.count, dtype=torch.bool)
    mark[torch.cat([factor.reshape(-1) for factor in factors])] = True
    origins = enumerate(analysis.labels.origins)
    return {number for number, each in origins if bool(mark[each.first : each.first + each.size].any())}


def _blocked(analysis: Analysis, refused: Mapping[Place, str]) -> dict[int, str]:
    """The classes that have a slice at a refused place, and those without which a dimension would be empty."""
    of_all = analysis.classes.of
    blocked: dict[int, str] = {}
    for origin in analysis.labels.origins:
        of = of_all[origin.first : origin.first + origin.size]
        reason = refused.get((origin.tensor, origin.dimension))
        if reason is not None:
            blocked.update(dict.fromkeys(of.tolist(), reason))
        elif bool((of == of[0]).all()):
            blocked.setdefault(int(of[0]), f"all channels of {origin.tensor.rpartition('.')[0]} hang together")
    return blocked


def _group(
    analysis: Analysis,
    kind: tuple[tuple[int, int], ...],
    members: Tensor,
    index: Tensor,
    marked: Marked,
    groups: list[ChannelGroup],
) -> ChannelGroup | None:
    slices: dict[Place, Tensor] = {}
    columns = torch.split(index[members], [count for _, count in kind], dim=1)
    for (number, _), part in zip(kind, columns, strict=True):
        origin = analysis.labels.origins[number]
        slices[origin.tensor, origin.dimension] = part
    numbers = dict(zip([number for number, _ in kind], slices, strict=True))
    outputs, reads, passes = (
        tuple(place for number, place in numbers.items() if number in role)
        for role in (marked.produced, marked.read, marked.passed)
    )
    if not outputs:
        return None
    name = layer_of(outputs[0][0]) or outputs[0][0]
    same = sum(group.name.partition("#")[0] == name for group in groups)
    first = analysis.labels.origins[kind[0][0]].first + int(index[members[0, 0]])
    heads = bool(torch.isin(analysis.classes.of[first], analysis.along_heads))
    return ChannelGroup(f"{name}#{same + 1}" if same else name, slices, outputs, heads, reads, passes)

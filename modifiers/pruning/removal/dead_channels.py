"""Dead channels: units whose removal changes nothing, since all that produces them, or all that reads them, is zero."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from paredown.modifiers.pruning.removal.channel_choice import step_of
from paredown.modifiers.pruning.removal.channels import ChannelGroup, Removal, Runner, gone_at, masked
from paredown.modifiers.pruning.removal.channels.trial import relative_error

__all__ = ["all_dead", "dead_units"]

#: what sums over more zeros differ by, in units of the precision
ROUNDING = 4.0
#: how often the units of a group that are not dead together are divided
DIVISIONS = 16

Marks = dict[str, Tensor]


def dead_units(groups: Sequence[ChannelGroup], parameters: Mapping[str, nn.Parameter], run: Runner) -> Marks:
    """Which units of each group are dead, by the group's name: bool, of shape (units,).

    Candidates are those with zeros in front or behind; they are dead if the model gives the same without them, which
    it does not where a bias, a normalisation or an activation makes something of zero. What becomes dead when they are
    gone is found too.

    Args:
        groups: that are looked through.
        parameters: of the model, by name.
        run: the model on its example inputs.
    """
    dead = {group.name: torch.zeros(group.units, dtype=torch.bool) for group in groups}
    tried = {name: marks.clone() for name, marks in dead.items()}
    wanted = None
    while True:
        with masked(run.model, gone_at(_removals(groups, dead))):
            found = {group.name: _looks_dead(group, parameters) & ~tried[group.name] for group in groups}
        found = {name: marks for name, marks in found.items() if bool(marks.any())}
        if not found:
            return dead
        wanted = run() if wanted is None else wanted
        for name, marks in found.items():
            tried[name] |= marks
        _accept(groups, dead, found, lambda marks, wanted=wanted: _same(run, groups, marks, wanted))  # type: ignore[misc]


def all_dead(groups: Iterable[ChannelGroup], dead: Marks, round_to: int) -> list[Removal]:
    """The removal of dead units and of no other: what stays is a multiple of ``round_to`` channels."""
    removals = []
    for group in groups:
        step = step_of(group.width, round_to)
        alive = int((~dead[group.name]).sum())
        stays = min(max(step, -(-alive // step) * step), group.units)
        units = dead[group.name].nonzero().reshape(-1)[: group.units - stays]
        if len(units):
            removals.append(Removal(group, units))
    return removals


def _looks_dead(group: ChannelGroup, parameters: Mapping[str, nn.Parameter]) -> Tensor:
    """By unit, whether all that produces it is zero, or all that reads it, or something that it has to pass."""
    zero = {place: _zero(parameters[place[0]], place[1])[slices].all(1)
            for place, slices in group.slices.items() if place[0] in parameters}  # fmt: skip
    found = torch.zeros(group.units, dtype=torch.bool)
    produced = [place for place in group.outputs if place not in group.reads]
    for places in (produced, group.reads):
        known = [zero[place] for place in places if place in zero]
        if known:
            found |= torch.stack(known).all(0)
    for place in group.passes:
        found |= zero.get(place, torch.zeros_like(found))
    return found


def _zero(parameter: nn.Parameter, dimension: int) -> Tensor:
    rows = parameter.detach().movedim(dimension, 0).reshape(parameter.shape[dimension], -1)
    return (rows == 0).all(1).cpu()


def _removals(groups: Iterable[ChannelGroup], marks: Mapping[str, Tensor]) -> list[Removal]:
    found = [Removal(group, marks[group.name].nonzero().reshape(-1)) for group in groups if group.name in marks]
    return [removal for removal in found if len(removal.units)]


def _same(run: Runner, groups: Sequence[ChannelGroup], marks: Marks, wanted: tuple[Tensor, ...]) -> bool:
    """Whether the model gives the same with zeros in the place of these units."""
    with masked(run.model, gone_at(_removals(groups, marks))):
        ours = run()
    return all(
        relative_error(a, b) <= (ROUNDING * torch.finfo(b.dtype).eps if b.is_floating_point() else 0)
        for a, b in zip(ours, wanted, strict=True)
    )


def _accept(groups: Sequence[ChannelGroup], dead: Marks, found: Marks, same: Callable[[Marks], bool]) -> None:
    """Add to ``dead`` what of ``found`` may go: all, or by group and halves."""
    if same({name: marks | found.get(name, False) for name, marks in dead.items()}):
        for name, marks in found.items():
            dead[name] |= marks
        return
    for name, marks in found.items():
        waiting, divisions = [marks.nonzero().reshape(-1)], DIVISIONS
        while waiting:
            units = waiting.pop()
            more = dead[name].clone()
            more[units] = True
            if same({**dead, name: more}):
                dead[name] = more
            elif len(units) > 1 and divisions:
                divisions -= 1
                waiting += [units[: len(units) // 2], units[len(units) // 2 :]]

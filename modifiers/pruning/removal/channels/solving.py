"""Solving for the classes of labels that go together, and which of them can go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from paredown.modifiers.pruning.removal.channels.labels import Axes, Labels, Pending, Record, axes_of

__all__ = ["Classes", "components", "solve"]

ROUNDS = 6
NEVER = 2**31


@dataclass
class Classes:
    """The class of each label, and why a class stays.

    Attributes:
        of: class by label, of shape (labels,); a class is named by its smallest label.
        reason: by class an index into ``reasons``, or `NEVER` where the class can go.
        reasons: why.
    """

    of: Tensor
    reason: Tensor
    reasons: Sequence[str]

    def stays(self, factor: Tensor) -> Tensor:
        """Which elements of a factor stay, of its shape."""
        return self.reason[self.of[factor]] < NEVER


def components(count: int, edges: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The connected components of ``count`` labels: for each the smallest label of its component, shape (count,).

    >>> components(5, [(torch.tensor([1, 4]), torch.tensor([3, 3]))]).tolist()
    [0, 1, 2, 1, 1]
    """
    parent = torch.arange(count)
    if not edges:
        return parent
    left, right = (torch.cat([edge[side] for edge in edges]) for side in (0, 1))
    while True:
        a, b = parent[left], parent[right]
        if torch.equal(a, b):
            return parent
        parent.scatter_reduce_(0, torch.maximum(a, b), torch.minimum(a, b), "amin")
        while not torch.equal(shorter := parent[parent], parent):
            parent = shorter


def solve(labels: Labels) -> Classes:
    """Draw the conclusions; adds to ``labels`` what is decided on the way."""
    classes = _classes(labels)
    for pending in labels.pending:
        _decide(labels, classes, pending)
    classes = _classes(labels)
    for turn in range(ROUNDS):
        if not _repaired(labels, classes, freeze=turn == ROUNDS - 2):
            break
        classes = _classes(labels)
    return classes


def _classes(labels: Labels) -> Classes:
    of = components(labels.count, labels.edges)
    reason = torch.full((labels.count,), NEVER)
    if labels.frozen:
        kept = of[torch.cat([factor for factor, _ in labels.frozen])]
        order = torch.arange(len(labels.frozen)).repeat_interleave(
            torch.tensor([factor.numel() for factor, _ in labels.frozen])
        )
        reason.scatter_reduce_(0, kept, order, "amin")
    return Classes(of, reason, [reason for _, reason in labels.frozen])


def _decide(labels: Labels, classes: Classes, pending: Pending) -> None:
    factor, other = pending.factor, pending.other
    free = axes_of(factor) - pending.sized
    if free and bool(_whole(factor, classes, free).all()):
        labels.records.append(Record(factor, pending.where, pending.sized))
        if other is not None:
            labels.freeze(other, f"{pending.where} meets it with channels that go along another dimension")
    elif other is None:
        labels.freeze(factor, f"{pending.where} meets it with a value of fixed size")
    else:
        labels.unite(factor, other)


def _repaired(labels: Labels, classes: Classes, freeze: bool) -> bool:
    """Make channels whole slices by uniting, or freeze them; whether anything was to be done."""
    changed = False
    for record in labels.records:
        allowed = axes_of(record.factor) - record.forbidden
        broken = ~_whole(record.factor, classes, allowed)
        if not bool(broken.any()):
            continue
        changed = True
        if freeze or not allowed:
            labels.freeze(record.factor[broken], f"{record.where}: its channels are not whole slices there")
        else:
            kept = max(allowed, key=lambda axis: (record.factor.shape[axis], axis))
            labels.unite_along(record.factor, axes_of(record.factor) - {kept})
    return changed


def _whole(factor: Tensor, classes: Classes, allowed: Axes) -> Tensor:
    """Which elements stay, or have a class that is made of whole slices along one allowed axis; of factor's shape."""
    ids, place = torch.unique(classes.of[factor], return_inverse=True)
    stays = classes.reason[ids] < NEVER
    elements = torch.bincount(place.reshape(-1), minlength=len(ids))
    good = stays
    for axis in sorted(allowed):
        size = factor.shape[axis]
        index = torch.arange(size).view([-1 if each == axis else 1 for each in range(factor.dim())])
        pairs = torch.unique(place * size + index)
        slices = torch.bincount(pairs // size, minlength=len(ids))
        good = good | (elements == slices * (factor.numel() // size))
    return good[place]

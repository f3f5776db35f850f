"""Labels of channels: one for each index of a parameter's dimension, and what a model's operators say about them.

A value that depends on channels carries *factors*: integer tensors of its own shape that tell, element by element,
with which label it goes. An element goes if any of its factors' labels goes. Along dimensions where a factor does not
vary it is stored with size 1, so that it costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["Axes", "Labels", "Origin", "Pending", "Record", "Value", "aligned", "axes_of", "compressed"]

Axes = frozenset[int]


@dataclass(frozen=True)
class Value:
    """A value of the graph.

    Attributes:
        shape: its shape for the example inputs.
        factors: labels, each of as many dimensions, with size 1 where the labels do not vary.
        pliable: the same number everywhere, made on the spot (``torch.zeros``): it takes any size.
        loose: the axes along which that is so, where it is not so along all.
        contents: the elements of an integer value that does not depend on the inputs (an index).
    """

    shape: tuple[int, ...]
    factors: tuple[Tensor, ...] = ()
    pliable: bool = False
    contents: Tensor | None = None
    loose: Axes = frozenset()

    @property
    def sized(self) -> Axes:
        """The axes along which the size is fixed, or that of labels."""
        if self.pliable:
            return frozenset()
        return frozenset(axis for axis, size in enumerate(self.shape) if size > 1 and axis not in self.loose)


@dataclass(frozen=True)
class Origin:
    """Where labels come from: those from ``first`` on belong to a dimension of a parameter or buffer."""

    tensor: str
    dimension: int
    first: int
    size: int


@dataclass(frozen=True)
class Record:
    """A factor somewhere in the graph: its classes have to be whole slices along an axis that is not forbidden."""

    factor: Tensor
    where: str
    forbidden: Axes = frozenset()


@dataclass(frozen=True)
class Pending:
    """Two factors that meet along some axes only, or a factor that meets a value of fixed size.

    Where the factor's channels turn out to be slices along an axis at which the partner has size 1, the partner does
    not change; else the two go together (or, without ``other``, the factor stays).
    """

    factor: Tensor
    other: Tensor | None
    sized: Axes
    where: str


@dataclass
class Labels:
    """All labels of a model, and what was found out about them so far; `solving` draws the conclusions.

    Of weights, ``produced`` are the labels of outputs, ``read`` of inputs that are summed over, and ``passed`` those of
    rows by which each channel alone is multiplied.
    """

    count: int = 0
    origins: list[Origin] = field(default_factory=list)
    edges: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    frozen: list[tuple[Tensor, str]] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    pending: list[Pending] = field(default_factory=list)
    produced: list[Tensor] = field(default_factory=list)
    read: list[Tensor] = field(default_factory=list)
    passed: list[Tensor] = field(default_factory=list)
    heads: list[Tensor] = field(default_factory=list)

    def new(self, tensor: str, dimension: int, size: int) -> Tensor:
        """Labels for a dimension of a parameter, of shape (size,)."""
        self.origins.append(Origin(tensor, dimension, self.count, size))
        self.count += size
        return torch.arange(self.count - size, self.count)

    def unknown(self, size: int, reason: str) -> Tensor:
        """Labels, of shape (size,), for what belongs to no parameter and cannot go."""
        labels = torch.full((size,), self.count)
        self.count += 1
        self.frozen.append((labels[:1], reason))
        return labels

    def unite(self, first: Tensor, second: Tensor) -> None:
        """What has a label of ``first`` and what has the one of ``second`` at the same place goes together."""
        first, second = torch.broadcast_tensors(first, second)  # type: ignore[no-untyped-call]
        if first.numel():
            self.edges.append((first.reshape(-1), second.reshape(-1)))

    def unite_along(self, factor: Tensor, axes: Iterable[int]) -> Tensor:
        """Unite along axes; gives the factor with size 1 there."""
        narrowed = factor
        for axis in axes:
            narrowed = narrowed.narrow(axis, 0, 1)
        if narrowed.numel() < factor.numel():
            self.unite(narrowed, factor)
        return narrowed

    def freeze(self, factor: Tensor, reason: str) -> None:
        """What has one of these labels stays."""
        self.frozen.append((factor.reshape(-1), reason))

    def freeze_all(self, values: Iterable[Value], reason: str) -> None:
        """Whatever these values depend on stays."""
        for value in values:
            for factor in value.factors:
                self.freeze(factor, reason)

    def forbid(self, value: Value, axis: int, where: str) -> None:
        """No slices along this axis of the value can go."""
        for factor in value.factors:
            if factor.shape[axis] > 1:
                self.records.append(Record(factor, where, frozenset({axis})))

    def whole(self, factor: Tensor, where: str) -> None:
        """Remember a factor for the rule of whole slices."""
        if len(axes_of(factor)) > 1:
            self.records.append(Record(factor, where))


def axes_of(factor: Tensor) -> Axes:
    """The axes along which a factor varies."""
    return frozenset(axis for axis, size in enumerate(factor.shape) if size > 1)


def slices_gone(factor: Tensor, axis: int, removed: Tensor) -> Tensor:
    """Along one axis of a factor, the slices of which all labels go; bool.

    Args:
        factor: labels.
        axis: of the factor.
        removed: by label, whether it goes.
    """
    return removed[factor].movedim(axis, 0).reshape(factor.shape[axis], -1).all(1)


def compressed(labels: Tensor) -> Tensor:
    """Labels of a value's full shape, with size 1 where they do not vary."""
    for axis in range(labels.dim()):
        if labels.shape[axis] > 1 and labels.stride(axis) == 0:
            labels = labels.narrow(axis, 0, 1)
    for axis in range(labels.dim()):
        if labels.shape[axis] > 1:
            first = labels.narrow(axis, 0, 1)
            if torch.equal(labels, first.expand_as(labels)):
                labels = first
    return labels


def aligned(factor: Tensor, dimensions: int) -> Tensor:
    """A factor with leading dimensions of size 1, as broadcasting reads it."""
    return factor.reshape((1,) * (dimensions - factor.dim()) + tuple(factor.shape))

"""Structures: which weights are removed together, the second of pruning's three axes.

A structure divides a weight into units (single weights, blocks, kernels, channels). It works on weights *output first*:
(out, in, kernel...), of a Linear (out, in); `output_first` gives that view.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BeforeValidator, Field, Strict
from torch import Tensor, nn

from paredown.framework.model.kinds import TRANSPOSED
from paredown.framework.model.weights import WeightLayout
from paredown.framework.modifier.fields import Options

__all__ = ["BlockShape", "Pattern", "Structure", "StructureField", "output_first", "pattern_named", "structure_of"]

NAMES = ("unstructured", "kernel", "channel")
FORMS = "'unstructured', 'kernel', 'channel', N:M such as '2:4', or {block: [rows, columns]}"
Size = Annotated[int, Strict(), Field(ge=1)]
#: elements whose comparisons stay in the cache of a CPU
CACHED = 1 << 16


class BlockShape(Options):
    """``{block: [1, 4]}``: blocks of rows (outputs) times columns (inputs)."""

    block: tuple[Size, Size]
    """Outputs and inputs of a block."""


def _chosen(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) != {"block"}:
            raise ValueError(f"{value!r} is no structure; one of {FORMS}")
        return BlockShape.model_validate(value)
    if isinstance(value, BlockShape) or value in NAMES:
        return value
    if pattern_named(value) is None:
        raise ValueError(f"{value!r} is no structure; one of {FORMS}")
    return value


StructureField = Annotated[
    Literal["unstructured", "kernel", "channel"] | Annotated[str, Field(pattern=r"^\d+:\d+$")] | BlockShape,
    BeforeValidator(_chosen),
    Field(description=f"What is removed together: {FORMS}."),
]


def output_first(tensor: Tensor, module: nn.Module) -> Tensor:
    """The view (out, in, kernel...) of a tensor in the shape of the module's weight."""
    return tensor.transpose(0, 1) if WeightLayout.of(module).inputs_first else tensor


class Structure(ABC):
    """How a weight is divided into units."""

    #: units are single weights
    single: ClassVar[bool] = False
    #: each weight goes or stays by itself
    free: ClassVar[bool] = False

    def refusal(self, weight: Tensor, module: nn.Module) -> str | None:
        """Why a weight (output first) cannot be divided so; None: it can."""
        if isinstance(module, TRANSPOSED) and module.groups > 1:
            return "the outputs of a grouped transposed convolution lie in two dimensions of its weight"
        return self.misfit(weight)

    def view(self, tensor: Tensor, module: nn.Module) -> Tensor:
        """A tensor of the weight's shape as `units` takes it, and back again."""
        return output_first(tensor, module)

    @abstractmethod
    def misfit(self, weight: Tensor) -> str | None:
        """Why a weight of this shape cannot be divided so."""

    @abstractmethod
    def count(self, shape: torch.Size) -> int:
        """How many units a weight of this shape has, output first."""

    @abstractmethod
    def units(self, scores: Tensor) -> Tensor:
        """The mean score of each unit."""

    @abstractmethod
    def spread(self, marks: Tensor, shape: torch.Size) -> Tensor:
        """Marks of units as marks of the weights that they hold."""


class _Single(Structure):
    single: ClassVar[bool] = True
    free: ClassVar[bool] = True

    def refusal(self, weight: Tensor, module: nn.Module) -> str | None:
        return None

    def view(self, tensor: Tensor, module: nn.Module) -> Tensor:
        return tensor

    def misfit(self, weight: Tensor) -> str | None:
        return None

    def count(self, shape: torch.Size) -> int:
        return shape.numel()

    def units(self, scores: Tensor) -> Tensor:
        return scores

    def spread(self, marks: Tensor, shape: torch.Size) -> Tensor:
        return marks


@dataclass(frozen=True)
class Pattern(_Single):
    """N:M: of ``of`` weights that follow each other along the inputs, ``kept`` stay. Units are single weights; those
    that have to stay come last, whatever they score (`units`)."""

    kept: int
    of: int
    free: ClassVar[bool] = False

    @property
    def share(self) -> float:
        """Share of zeros where the pattern is complete."""
        return 1 - self.kept / self.of

    def refusal(self, weight: Tensor, module: nn.Module) -> str | None:
        return Structure.refusal(self, weight, module)

    def view(self, tensor: Tensor, module: nn.Module) -> Tensor:
        return output_first(tensor, module)

    def misfit(self, weight: Tensor) -> str | None:
        if weight.shape[1] % self.of:
            return f"its {weight.shape[1]} inputs cannot be divided into groups of {self.of}"
        return None

    def units(self, scores: Tensor) -> Tensor:
        return scores.masked_fill(~self.removable(scores), torch.inf)

    def room(self, size: int) -> int:
        """How many of so many weights can go."""
        return size // self.of * (self.of - self.kept)

    def removable(self, scores: Tensor) -> Tensor:
        """Bool, True for the ``of - kept`` smallest scores of each group; ties by index, lowest first."""
        rows = max(1, CACHED // max(scores[0].numel(), 1))
        return torch.cat([self._least(part) for part in torch.split(scores, rows)]) if len(scores) else scores.bool()

    def _least(self, scores: Tensor) -> Tensor:
        """A weight's rank in its group is counted in comparisons of whole slices: twenty times faster than sorting."""
        groups = _divided(scores, 1, self.of).movedim(2, 0).contiguous()
        ranks = torch.zeros(groups.shape, dtype=torch.uint8, device=scores.device)
        for later in range(1, self.of):
            for earlier in range(later):
                above = groups[later] >= groups[earlier]
                ranks[later] += above
                ranks[earlier] += above.logical_not_()
        return (ranks < self.of - self.kept).movedim(0, 2).reshape(scores.shape)


@dataclass(frozen=True)
class _Block(Structure):
    rows: int
    columns: int

    def misfit(self, weight: Tensor) -> str | None:
        out, inputs = weight.shape[:2]
        if out % self.rows or inputs % self.columns:
            return (
                f"its {out} outputs and {inputs} inputs cannot be divided into blocks of {self.rows} x {self.columns}"
            )
        return None

    def count(self, shape: torch.Size) -> int:
        return shape.numel() // (self.rows * self.columns)

    def units(self, scores: Tensor) -> Tensor:
        return _divided(_divided(scores, 1, self.columns), 0, self.rows).mean((1, 3))

    def spread(self, marks: Tensor, shape: torch.Size) -> Tensor:
        tall = marks.unsqueeze(2).unsqueeze(1).expand(-1, self.rows, -1, self.columns, *marks.shape[2:])
        return tall.flatten(2, 3).flatten(0, 1)


class _Kernel(Structure):
    def misfit(self, weight: Tensor) -> str | None:
        return "it has no kernels: structure kernel is for convolutions" if weight.dim() < 3 else None

    def count(self, shape: torch.Size) -> int:
        return shape[0] * shape[1]

    def units(self, scores: Tensor) -> Tensor:
        return scores.flatten(2).mean(2)

    def spread(self, marks: Tensor, shape: torch.Size) -> Tensor:
        return marks.view(*marks.shape, *[1] * (len(shape) - 2)).expand(shape)


class _Channel(Structure):
    def misfit(self, weight: Tensor) -> str | None:
        return None

    def count(self, shape: torch.Size) -> int:
        return shape[0]

    def units(self, scores: Tensor) -> Tensor:
        return scores.flatten(1).mean(1)

    def spread(self, marks: Tensor, shape: torch.Size) -> Tensor:
        return marks.view(-1, *[1] * (len(shape) - 1)).expand(shape)


def pattern_named(value: Any) -> Pattern | None:
    """The N:M that a text means; None for anything else.

    >>> pattern_named("2:4"), pattern_named("4:2")
    (Pattern(kept=2, of=4), None)
    """
    found = re.fullmatch(r"(\d+):(\d+)", value) if isinstance(value, str) else None
    return Pattern(int(found[1]), int(found[2])) if found and 0 < int(found[1]) < int(found[2]) else None


def structure_of(value: str | BlockShape) -> Structure:
    """The structure that a recipe's value means.

    >>> structure_of("2:4").removable(torch.tensor([[3.0, -1.0, 2.0, 0.0]]))
    tensor([[False,  True, False,  True]])
    """
    if isinstance(value, BlockShape):
        return _Block(*value.block)
    pattern = pattern_named(value)
    if pattern is not None:
        return pattern
    return {"unstructured": _Single(), "kernel": _Kernel(), "channel": _Channel()}[value]


def _divided(tensor: Tensor, dimension: int, size: int) -> Tensor:
    """The view with one dimension divided into (groups, size)."""
    shape = tensor.shape
    return tensor.reshape(*shape[:dimension], shape[dimension] // size, size, *shape[dimension + 1 :])

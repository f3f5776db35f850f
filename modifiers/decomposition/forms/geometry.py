"""The geometry of a layer: its sizes, stride, padding and dilation, and its weight as one tensor."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from paredown.framework.model.kinds import CONVOLUTIONS, LINEAR, TRANSPOSED, Conv1D

__all__ = ["KINDS", "Geometry", "Kernel"]

#: the layers that can be decomposed
KINDS: tuple[type[nn.Module], ...] = (
    *LINEAR,
    *CONVOLUTIONS,
    *TRANSPOSED,
    nn.Embedding,
)


@dataclass(frozen=True)
class Kernel:
    """How a convolution moves over its input, an entry for each axis of space."""

    size: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] | str = ()
    dilation: tuple[int, ...] = ()
    output_padding: tuple[int, ...] = ()
    padding_mode: str = "zeros"
    transposed: bool = False

    def along(self, axes: Sequence[int]) -> Kernel:
        """The part of a kernel that lies along these axes: 1 along the others."""

        def only(values: tuple[int, ...], other: int) -> tuple[int, ...]:
            return tuple(value if axis in axes else other for axis, value in enumerate(values))

        padding = self.padding if isinstance(self.padding, str) and axes else only(self._numbers(self.padding), 0)
        return Kernel(
            size=only(self.size, 1),
            stride=only(self.stride, 1),
            padding=padding,
            dilation=only(self.dilation, 1),
            output_padding=only(self.output_padding, 0),
            padding_mode=self.padding_mode if axes else "zeros",
            transposed=self.transposed,
        )

    def _numbers(self, padding: tuple[int, ...] | str) -> tuple[int, ...]:
        return (0,) * len(self.size) if isinstance(padding, str) else padding

    def positions(self, axes: Sequence[int]) -> int:
        """The weights of one input and output channel along these axes."""
        return math.prod(self.size[axis] for axis in axes)


@dataclass(frozen=True)
class Geometry:
    """A layer without its weight; plain values throughout.

    ``inputs`` and ``outputs`` are channels or features; of an embedding the number of its rows, and their size.
    ``inputs_first``: a linear layer that keeps its weight as (inputs, outputs), as transformers' Conv1D does.
    """

    kind: Literal["linear", "embedding", "convolution"]
    inputs: int
    outputs: int
    groups: int = 1
    kernel: Kernel = Kernel()
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    inputs_first: bool = False

    @classmethod
    def of(cls, module: nn.Module) -> Geometry:
        """Of a Linear, a Conv1D, an Embedding, or a convolution of one to three axes, transposed or not.

        Raises:
            TypeError: another kind of layer.
        """
        if isinstance(module, nn.Linear):
            return cls("linear", module.in_features, module.out_features)
        if isinstance(module, Conv1D):
            inputs, outputs = module.get_parameter("weight").shape
            return cls("linear", inputs, outputs, inputs_first=True)
        if isinstance(module, nn.Embedding):
            names = ("padding_idx", "scale_grad_by_freq", "sparse")
            options = {name: getattr(module, name) for name in names}
            return cls("embedding", module.num_embeddings, module.embedding_dim, options=options)
        if not isinstance(module, (*CONVOLUTIONS, *TRANSPOSED)):
            raise TypeError(f"no decomposition of a {type(module).__name__}")
        conv: Any = module
        kernel = Kernel(
            size=conv.kernel_size,
            stride=conv.stride,
            padding=conv.padding,
            dilation=conv.dilation,
            output_padding=conv.output_padding,
            padding_mode=conv.padding_mode,
            transposed=conv.transposed,
        )
        return cls("convolution", conv.in_channels, conv.out_channels, conv.groups, kernel)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Geometry:
        """From what `to_plain` gave, or a checkpoint made of it."""
        kernel: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in plain["kernel"].items()
        }
        return cls(**{**plain, "kernel": Kernel(**kernel)})

    def to_plain(self) -> dict[str, Any]:
        """As plain values, for a checkpoint."""
        plain: dict[str, Any] = {**dataclasses.asdict(self), "options": dict(self.options)}
        lists = {name: list(v) if isinstance(v, tuple) else v for name, v in plain["kernel"].items()}
        return {**plain, "kernel": lists}

    @property
    def axes(self) -> tuple[int, ...]:
        """Of space."""
        return tuple(range(len(self.kernel.size)))

    @property
    def positions(self) -> int:
        """The places of the kernel: 1 where there is none."""
        return math.prod(self.kernel.size)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of `tensor_of`."""
        return self.groups, self.outputs // self.groups, self.inputs // self.groups, self.positions

    def tensor_of(self, weight: Tensor) -> Tensor:
        """The weight of such a layer as (groups, out, in, positions): what every decomposition starts from."""
        if self.kind == "embedding" or self.inputs_first:
            return weight.T[None, :, :, None]
        groups, out, inputs, positions = self.shape
        if self.kernel.transposed:
            return weight.reshape(groups, inputs, out, positions).transpose(1, 2)
        return weight.reshape(groups, out, inputs, positions)

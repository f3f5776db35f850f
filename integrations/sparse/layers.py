"""Linear layers and 1x1 convolutions with a weight in CSR: the same objects, of a class with another forward."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paredown.framework.errors import ParedownError
from paredown.framework.model.forward import is_transformed
from paredown.integrations.sparse.rows import SparseRows, linear, pointwise, sparse_rows

__all__ = ["DTYPES", "POINTWISE", "is_sparse", "mostly_zeros", "put_dense_", "put_sparse_", "rebuild"]

#: of weights that torch's products on the CPU take
DTYPES = (torch.float32, torch.float64)
#: convolutions, by class what computes them densely
POINTWISE: Mapping[type[nn.Module], Callable[..., Tensor]] = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d}
Product = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]


class SkipsZeros(nn.Module):
    """What converted layers have beside their own class; their state dict holds the dense weight."""

    weight: nn.Parameter
    bias: nn.Parameter | None
    base: type[nn.Module]

    def dense(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What the layer computes, with a matrix as its weight."""
        raise NotImplementedError

    def sparse(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The same with a matrix in CSR."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and (self.training or self.weight.requires_grad):
            raise ParedownError(
                "a layer whose weight is in CSR (sparse_layers.convert) cannot be trained: "
                "sparse_layers.restore(model) makes it dense again; model.eval() is for inference"
            )
        result: Tensor = _computed(self, x)
        return result

    def __reduce_ex__(self, protocol: Any) -> Any:
        return rebuild, (self.base,), super().__reduce_ex__(protocol)[2]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        own = self._parameters["weight"]
        assert isinstance(own, SparseRows)
        with self._with(None):
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._parameters["weight"] = own.mapped(fn)
        return self

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        with self._with(nn.Parameter(dense_weight(self), requires_grad=False)):
            super()._save_to_state_dict(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        with self._with(nn.Parameter(dense_weight(self), requires_grad=False)):
            super()._load_from_state_dict(*args, **kwargs)
            loaded: Any = self._parameters["weight"]
        if mostly_zeros(loaded):
            self._parameters["weight"] = sparse_rows(loaded)
        else:
            put_dense_(self, loaded)

    @contextmanager
    def _with(self, weight: nn.Parameter | None) -> Iterator[None]:
        """With another weight, for a while."""
        own = self._parameters["weight"]
        self._parameters["weight"] = weight
        try:
            yield
        finally:
            self._parameters["weight"] = own


class SparseLinear(SkipsZeros):
    """See `SkipsZeros`."""

    def dense(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    def sparse(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return linear(x, weight, bias)


class SparsePointwise(SkipsZeros):
    """See `SkipsZeros`."""

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]

    def dense(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        kind = next(kind for kind in POINTWISE if issubclass(self.base, kind))
        return POINTWISE[kind](x, weight[(..., *(None for _ in self.kernel_size))], bias, self.stride)

    def sparse(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if x.dim() == len(self.kernel_size) + 1:
            return pointwise(x[None], weight, bias, self.stride)[0]
        return pointwise(x, weight, bias, self.stride)


def mostly_zeros(weight: Tensor) -> bool:
    """Whether CSR takes less memory than the dense weight: an index is as large as a value."""
    return int(torch.count_nonzero(weight.detach())) * 2 < weight.numel()


def is_sparse(module: nn.Module) -> bool:
    """Whether a layer is converted."""
    return isinstance(module, SkipsZeros)


def put_sparse_(module: nn.Module, weight: SparseRows) -> None:
    """Convert a layer: `sparse_rows` of its weight in the place of it, and another class."""
    kind: Any = type(module)
    module.__class__ = _sparse_class(kind)
    module._parameters["weight"] = weight


def put_dense_(module: nn.Module, weight: nn.Parameter | None = None) -> None:
    """Convert a layer back.

    Args:
        weight: the parameter that it had; None: a new one of the weight that it has, which can be trained.
    """
    layer: Any = module
    layer._parameters["weight"] = nn.Parameter(dense_weight(layer)) if weight is None else weight
    layer.__class__ = layer.base


def dense_weight(layer: SkipsZeros) -> Tensor:
    """The weight in the shape that the state dict has it in."""
    return layer.weight.detach().to_dense()[(..., *(None for _ in getattr(layer, "kernel_size", ())))]


def rebuild(base: Any) -> nn.Module:
    """A converted layer without contents: what its pickle calls."""
    layer: nn.Module = object.__new__(_sparse_class(base))
    return layer


@functools.cache
def _sparse_class(base: Any) -> Any:
    kind = SparseLinear if issubclass(base, nn.Linear) else SparsePointwise
    names = {key: getattr(base, key) for key in ("__module__", "__qualname__", "__doc__")}
    return type(base.__name__, (kind, base), {**names, "base": base})


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _computed(layer: SkipsZeros, x: Tensor) -> Tensor:
    weight, bias = layer.weight, layer.bias
    if not _takes(x, weight):
        return layer.dense(x, weight.to_dense(), bias)
    if torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad)):
        result: Tensor = _WithGradient.apply(x, weight, bias, layer)  # type: ignore[no-untyped-call]
        return result
    return layer.sparse(x, weight, bias)


def _takes(x: Tensor, weight: Tensor) -> bool:
    """Whether torch has a sparse product for them; else the weight is made dense for a moment."""
    plain = x.device.type == weight.device.type == "cpu" and x.dtype == weight.dtype and weight.dtype in DTYPES
    return plain and x.numel() > 0 and not torch.is_autocast_enabled("cpu") and not is_transformed()


class _WithGradient(torch.autograd.Function):
    """The sparse product, and the gradients of its inputs and its bias by the dense one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, layer: SkipsZeros) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(x, bias)
        return layer.sparse(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        given = [None if each is None else each.detach() for each in ctx.saved_tensors]
        needed = ctx.needs_input_grad[0], ctx.needs_input_grad[2]
        wanted = [each.requires_grad_() for each, need in zip(given, needed, strict=True) if need and each is not None]
        with torch.enable_grad():
            out = ctx.layer.dense(given[0], ctx.layer.weight.to_dense(), given[1])
        found = iter(torch.autograd.grad(out, wanted, gradients))
        x, bias = (next(found) if need else None for need in needed)
        return x, None, bias, None

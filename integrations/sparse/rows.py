"""Weights in compressed sparse rows (CSR) and their products: what is zero is neither read nor multiplied.

torch hands the products to MKL, whose kernels for one column and for several differ; many columns are taken in blocks
that stay in a cache.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["SparseRows", "linear", "pointwise", "sparse_rows"]

#: bytes of the inputs in a block of columns, and the fewest columns in one
BLOCK_BYTES, LEAST_COLUMNS = 1 << 17, 32


class SparseRows(nn.Parameter):
    """A matrix in CSR as the weight of a layer: a parameter that is not trained, and can be copied and pickled."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            memo[id(self)] = SparseRows(self.detach().clone(), requires_grad=False)
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _rebuild, (self.crow_indices(), self.col_indices(), self.values(), tuple(self.shape))

    def mapped(self, change: Callable[[Tensor], Tensor]) -> SparseRows:
        """The matrix of changed tensors: on another device, of another type."""
        starts, columns, values = (change(each) for each in (self.crow_indices(), self.col_indices(), self.values()))
        return _rebuild(starts, columns, values, tuple(self.shape))


def sparse_rows(weight: Tensor) -> SparseRows:
    """The matrix of a dense weight (outputs, inputs, 1, ...): four bytes of index for each value that is not zero."""
    with _beta_is_known():
        compressed = weight.detach().flatten(1).to_sparse_csr()
    return _rebuild(
        compressed.crow_indices().int(), compressed.col_indices().int(), compressed.values(), tuple(compressed.shape)
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`torch.nn.functional.linear` of inputs (..., inputs) with a weight in CSR; the result is contiguous."""
    rows = x.reshape(-1, x.shape[-1])
    if len(rows) == 1:
        out = torch.mv(weight, rows[0]) if bias is None else torch.addmv(bias, weight, rows[0])
        return out.view(*x.shape[:-1], weight.shape[0])
    across = None if bias is None else bias[:, None]
    size = max(BLOCK_BYTES // (rows.shape[1] * rows.element_size()), LEAST_COLUMNS)
    if len(rows) <= size:
        return _product(weight, rows.t(), across).t().contiguous().view(*x.shape[:-1], weight.shape[0])
    out = rows.new_empty(len(rows), weight.shape[0])
    for start in range(0, len(rows), size):
        out[start : start + size] = _product(weight, rows[start : start + size].t(), across).t()
    return out.view(*x.shape[:-1], weight.shape[0])


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, ...]) -> Tensor:
    """A convolution of inputs (batch, inputs, ...) with kernels of size 1 whose weights are a matrix in CSR.

    The result has the memory format of the inputs.
    """
    steps = (slice(None), slice(None), *(slice(None, None, step) for step in stride))
    taken = x[steps].contiguous()
    places = math.prod(taken.shape[2:])
    across = None if bias is None else bias.detach()[:, None]
    out = x.new_empty(taken.shape[0], weight.shape[0], places)
    for image, result in zip(taken.view(*taken.shape[:2], places), out, strict=True):
        _product(weight, image, across, out=result)
    shaped = out.view(*out.shape[:2], *taken.shape[2:])
    last = x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return shaped.contiguous(memory_format=torch.channels_last) if last else shaped


def _product(weight: Tensor, columns: Tensor, across: Tensor | None, out: Tensor | None = None) -> Tensor:
    return torch.mm(weight, columns, out=out) if across is None else torch.addmm(across, weight, columns, out=out)


def _rebuild(starts: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, ...]) -> SparseRows:
    with _beta_is_known():
        checked = torch.sparse_csr_tensor(starts, columns, values, shape, check_invariants=values.device.type == "cpu")
        return SparseRows(checked, requires_grad=False)


@contextmanager
def _beta_is_known() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state")
        yield

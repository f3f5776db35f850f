"""Layers whose weight is a train of small cores (Novikov et al., 2015, arXiv:1509.06569).

The weight is a matrix W whose rows and columns are numbered by digits, the first one the most significant, a core for
each digit: W[(i1 ... id), (j1 ... jd)] = G1[:, i1, j1, :] ... Gd[:, id, jd, :]. What the digits number beyond the
weight's own rows and columns is left out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paredown.modifiers.decomposition.forms.tensor_train import matrix_of

__all__ = ["TensorTrainEmbedding", "TensorTrainLinear", "train_rows", "train_times"]

#: how many times longer a multiplication of `train_times` takes than one of a dense layer: it goes through more memory
CORE_BY_CORE = 2


class TensorTrainLinear(nn.Module):
    """An ``nn.Linear`` whose weight is a train of cores.

    The input is multiplied by core after core; where that takes longer than to multiply the cores out first (many
    vectors, high ranks), they are multiplied out. What is exported is for many vectors.

    Args:
        cores: (rank before, digits of the outputs, digits of the inputs, rank after) each; the outer ranks are 1.
        in_features, out_features: at most the products of the digits.
        bias: (out_features), taken as the very Parameter.
    """

    bias: nn.Parameter | None

    def __init__(
        self, cores: Sequence[Tensor], in_features: int, out_features: int, bias: nn.Parameter | None = None
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.cores = nn.ParameterList(cores)
        self.register_parameter("bias", bias)
        self._padding = math.prod(core.shape[2] for core in cores) - in_features
        self._dense_from = _vectors_to_be_dense(cores, in_features * out_features)

    @property
    def weight(self) -> Tensor:
        """(out_features, in_features), computed again at every read; what is written to it is lost."""
        return matrix_of(list(self.cores), (self.out_features, self.in_features))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        exporting = torch.compiler.is_exporting()
        if self._dense_from is not None and (exporting or math.prod(x.shape[:-1]) > self._dense_from):
            return F.linear(x, self.weight, self.bias)
        padded = F.pad(x, (0, self._padding))
        out = train_times(list(self.cores), padded.reshape(-1, padded.shape[-1]))[:, : self.out_features]
        out = out if self.bias is None else out + self.bias.to(out.dtype)
        return out.reshape(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """The sizes."""
        has_bias = self.bias is not None
        return f"{self.in_features}, {self.out_features}, ranks={_ranks(self.cores)}, bias={has_bias}"


class TensorTrainEmbedding(nn.Module):
    """An ``nn.Embedding`` whose weight is a train of cores.

    Of each core the rows are looked up that the digits of an index mean, and multiplied; with more indices than rows
    it can take less to multiply all rows out first.

    Args:
        cores: (rank before, digits of the index, digits of the entry, rank after) each; the outer ranks are 1.
        num_embeddings, embedding_dim: at most the products of the digits. An index beyond num_embeddings that the
            digits can number gives what the cores hold there.
        padding_idx: kept for those who read it; its row is like the others.
    """

    def __init__(
        self, cores: Sequence[Tensor], num_embeddings: int, embedding_dim: int, padding_idx: int | None = None
    ) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim, self.padding_idx = num_embeddings, embedding_dim, padding_idx
        self.cores = nn.ParameterList(cores)
        self._rows = math.prod(core.shape[1] for core in cores)

    @property
    def weight(self) -> Tensor:
        """(num_embeddings, embedding_dim), computed again at every read; what is written to it is lost."""
        return matrix_of(list(self.cores), (self.num_embeddings, self.embedding_dim))

    def forward(self, indices: Tensor) -> Tensor:
        """(...) to (..., embedding_dim)."""
        cores = list(self.cores)
        if not torch.compiler.is_exporting() and indices.numel() > self._rows:
            return F.embedding(indices, self.weight).to(cores[0].dtype)
        rows = train_rows(cores, indices.reshape(-1))[:, : self.embedding_dim]
        return rows.reshape(*indices.shape, self.embedding_dim).to(cores[0].dtype)

    def extra_repr(self) -> str:
        """The sizes."""
        return f"{self.num_embeddings}, {self.embedding_dim}, ranks={_ranks(self.cores)}"


def train_times(cores: Sequence[Tensor], x: Tensor) -> Tensor:
    """A TT-matrix times vectors, last core first.

    Args:
        cores: (rank before, rows, columns, rank after) each.
        x: (vectors, product of the columns).

    Returns:
        (vectors, product of the rows).
    """
    remaining, done, state = x.numel(), 1, x
    for core in reversed(cores):
        before, rows, columns, after = core.shape
        remaining //= columns
        # (vectors x the columns before, this column and rank, the rows behind)
        matrix, state = core.reshape(before * rows, columns * after), state.reshape(remaining, columns * after, done)
        state = matrix @ state if done > 1 else F.linear(state[..., 0], matrix)
        done *= rows
    return state.reshape(x.shape[0], done)


def train_rows(cores: Sequence[Tensor], indices: Tensor) -> Tensor:
    """Rows of a TT-matrix.

    Args:
        cores: (rank before, rows, columns, rank after) each.
        indices: (n), below the product of the rows.

    Returns:
        (n, product of the columns).
    """
    later = math.prod([core.shape[1] for core in cores[1:]])
    state = cores[0].index_select(1, indices // later)[0]
    for core in cores[1:]:
        _, rows, columns, after = core.shape
        digits, later = indices % later // (later // rows), later // rows
        chosen = core.index_select(1, digits).transpose(0, 1).flatten(2)
        state = (state @ chosen).reshape(indices.shape[0], state.shape[1] * columns, after)
    return state[..., 0]


def _vectors_to_be_dense(cores: Sequence[Tensor], dense: int) -> float | None:
    """For more vectors than this the cores are multiplied out, ``dense`` multiplications each from there; or never."""
    saved = CORE_BY_CORE * _multiplications_of_a_vector(cores) - dense
    return _multiplications_to_matrix(cores) / saved if saved > 0 else None


def _multiplications_of_a_vector(cores: Sequence[Tensor]) -> int:
    """Those of `train_times`."""
    columns = math.prod(core.shape[2] for core in cores)
    done, count = 1, 0
    for core in reversed(cores):
        columns //= core.shape[2]
        count += columns * core.numel() * done
        done *= core.shape[1]
    return count


def _multiplications_to_matrix(cores: Sequence[Tensor]) -> int:
    """Those of `matrix_of`."""
    entries = itertools.accumulate((core.shape[1] * core.shape[2] for core in cores), int.__mul__)
    return sum(before * core.numel() for before, core in zip(entries, cores[1:], strict=False))


def _ranks(cores: nn.ParameterList) -> tuple[int, ...]:
    return tuple(core.shape[3] for core in list(cores)[:-1])

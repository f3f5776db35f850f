"""Kernels as a small core between two matrices: of their output channels and of their input channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from paredown.modifiers.decomposition.forms.factorization import wide

__all__ = ["balanced_tucker", "clamped_ranks", "leading_basis", "tucker2"]

#: a relative error above which float32 finds bases that are as good as those that float64 finds
COARSE = 0.01


def tucker2(
    tensor: Tensor, ranks: Sequence[int], sweeps: int = 10, tolerance: float = 1e-5
) -> tuple[Tensor, Tensor, Tensor]:
    """Tucker-2 of a kernel (Kim et al., 2016, arXiv:1511.06530): tensor ~ sum_ab output[o,a] core[a,b,p] inputs[b,i].

    The start is a sequentially truncated higher-order SVD; each sweep is one of higher-order orthogonal iteration (De
    Lathauwer et al., 2000).

    Args:
        tensor: (groups, out, in, positions).
        ranks: of the output and the input channels; clamped.
        sweeps: how many times, at most, each basis is chosen again for the other.
        tolerance: a sweep that lessens the relative error by less is the last one.

    Returns:
        Output (groups, out, r_out), core (groups, r_out, r_in, positions) and inputs (groups, r_in, in) as of
        `balanced_tucker`, in the tensor's type.
    """
    r_out, r_in = clamped_ranks(tensor.shape, ranks)
    slices = wide(tensor).movedim(3, 1).contiguous()
    norm = _norm(slices)
    inputs = leading_basis(slices.mT, r_in)
    output, core = _fitted(slices, inputs, r_out)
    error = _lost(core, norm)
    precision = slices.dtype if error > COARSE else torch.float64
    for _ in range(sweeps if error > tolerance else 0):
        inputs = leading_basis((output.mT[:, None] @ slices).mT, r_in, precision)
        output, core = _fitted(slices, inputs, r_out, precision)
        before, error = error, _lost(core, norm)
        if before - error < tolerance:
            break
    return balanced_tucker(output, core, inputs.mT, tensor.dtype)


def clamped_ranks(shape: Sequence[int], ranks: Sequence[int]) -> tuple[int, int]:
    """The ranks at most as large as is of use: no side has more than its channels, or than the core's others.

    Args:
        shape: (..., out, in, positions).
        ranks: of the output and the input channels.
    """
    *_, out, inputs, positions = shape
    r_out = min(ranks[0], out, min(ranks[1], inputs) * positions)
    return r_out, min(ranks[1], inputs, r_out * positions)


def leading_basis(slices: Tensor, rank: int, precision: torch.dtype = torch.float64) -> Tensor:
    """The directions of the columns of slices, side by side, that hold most of them.

    Args:
        slices: (groups, positions, rows, columns), float32 or float64.
        rank: at most rows, and at most positions * columns.
        precision: what eigenvectors are computed in.

    Returns:
        Orthonormal, (groups, rows, rank), in the type of the slices.
    """
    groups, positions, rows, columns = slices.shape
    if rank == rows:
        return torch.eye(rows, dtype=slices.dtype, device=slices.device).expand(groups, -1, -1)
    if rank == positions * columns:
        basis: Tensor = torch.linalg.qr(slices.transpose(1, 2).flatten(2))[0]
        return basis
    vectors: Tensor = torch.linalg.eigh(_gram(slices, precision))[1]
    return vectors.flip(-1)[..., :rank].to(slices.dtype)


def balanced_tucker(output: Tensor, core: Tensor, inputs: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The same product with an all-orthogonal core whose singular values are shared by thirds, and decided signs.

    The k-th output column and the k-th row of inputs have the cube root of the k-th singular value of the core's
    unfolding for norm, and a positive largest entry.

    Args:
        output: with orthonormal columns, (groups, out, r_out).
        core: by slices, (groups, positions, r_out, r_in).
        inputs: with orthonormal rows, (groups, r_in, in).
        dtype: of what is returned.

    Returns:
        Output, core (groups, r_out, r_in, positions) and inputs.
    """
    left, right = (torch.linalg.eigh(_gram(slices, torch.float64))[1].flip(-1).to(core) for slices in (core, core.mT))
    core = left.mT[:, None] @ core @ right[:, None]
    output, inputs = output @ left, right.mT @ inputs
    tall = _cube_root(core.norm(dim=(1, 3))) * _signs(output.mT)
    flat = _cube_root(core.norm(dim=(1, 2))) * _signs(inputs)
    core = core.movedim(1, 3) / (tall[:, :, None] * flat[:, None, :])[..., None]
    return (output * tall[:, None]).to(dtype), core.to(dtype), (inputs * flat[..., None]).to(dtype)


def _fitted(slices: Tensor, inputs: Tensor, rank: int, precision: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """The best basis of the output for one of the inputs, and the core between the two."""
    reduced = slices @ inputs[:, None]
    output = leading_basis(reduced, rank, precision)
    return output, output.mT[:, None] @ reduced


def _lost(core: Tensor, norm: float) -> float:
    """The relative error of a projection onto orthonormal bases."""
    return max(0.0, 1 - (_norm(core) / norm) ** 2) ** 0.5 if norm else 0.0


def _norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64))


def _gram(slices: Tensor, precision: torch.dtype) -> Tensor:
    """The sum of the slices' products with their own transposes, (groups, rows, rows)."""
    gram = torch.zeros(slices.shape[0], *slices.shape[2:3] * 2, dtype=precision, device=slices.device)
    for part in slices.unbind(1):
        wider = part.to(precision)
        gram.baddbmm_(wider, wider.mT)
    return gram


def _cube_root(values: Tensor) -> Tensor:
    """1 where there is nothing to share."""
    return torch.where(values > 0, values, 1) ** (1 / 3)


def _signs(rows: Tensor) -> Tensor:
    """Of the largest entry of each row."""
    signs = rows.gather(-1, rows.abs().argmax(-1, keepdim=True))[..., 0].sign()
    return torch.where(signs == 0, 1, signs)

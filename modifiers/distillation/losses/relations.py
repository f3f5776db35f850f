"""Losses between the relations of a batch's samples to each other, for student and teacher."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from paredown.modifiers.distillation.losses.logit_rows import wide

__all__ = ["angle_loss", "distance_loss", "similarity_loss"]


def distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber's loss of the distances between samples, in units of their mean (RKD, Park et al., 2019, arXiv:1904.05068).

    The unit is the mean over all pairs i != j (the official code leaves out the pairs that coincide), and the loss the
    mean over batch^2 pairs, as in the official code, which counts i = j as 0. Scaling a model's embeddings changes
    nothing. A batch of one gives 0.

    Args:
        student, teacher: embeddings (batch, ...) of the same batch, each flattened to (batch, features); features may
            differ; float16 and bfloat16 are computed in float32.

    Returns:
        0-d, in float32 at least; the gradient flows into both arguments.

    Raises:
        ValueError: the batches differ.

    >>> distance_loss(torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.0], [10.0], [30.0]]))
    tensor(0.)
    """
    ours, theirs = (_distances(embeddings) for embeddings in _flat(student, teacher))
    return F.smooth_l1_loss(ours, theirs)


def angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber's loss of the cosines of the angles in all triples of samples (RKD, arXiv:1904.05068).

    The mean over batch^3 triples as in the official code; where two of three coincide the cosine is 0. Scaling and
    turning a model's embeddings changes nothing. Temporaries have batch^2 x features and batch^3 elements. Arguments,
    result and errors are those of `distance_loss`.

    >>> angle_loss(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0], [1.0], [2.0]])).item() > 0
    True
    """
    ours, theirs = (_cosines(embeddings) for embeddings in _flat(student, teacher))
    return F.smooth_l1_loss(ours, theirs)


def similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """||G(t) - G(s)||^2 / batch^2, G the rows of A A^T at length 1 (Tung & Mori, 2019, arXiv:1907.09682).

    Scaling and turning a model's embeddings changes nothing. Arguments, result and errors are those of
    `distance_loss`.

    >>> similarity_loss(torch.eye(2), torch.ones(2, 3))
    tensor(0.2929)
    """
    ours, theirs = (_unit(embeddings @ embeddings.T) for embeddings in _flat(student, teacher))
    return (ours - theirs).square().mean()


def _flat(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    if len(student) != len(teacher):
        raise ValueError(f"the student's batch has {len(student)} samples, the teacher's {len(teacher)}")
    return wide(student).reshape(len(student), -1), wide(teacher).reshape(len(teacher), -1)


def _distances(embeddings: Tensor) -> Tensor:
    """(batch, batch), in units of their mean; cdist has the gradient 0 where two samples coincide."""
    distances = torch.cdist(embeddings, embeddings, compute_mode="donot_use_mm_for_euclid_dist")
    batch = len(embeddings)
    mean = distances.sum() / max(batch * (batch - 1), 1)
    return distances / mean.where(mean != 0, 1)


def _cosines(embeddings: Tensor) -> Tensor:
    """(batch, batch, batch): at [i, j, k] the cosine of the angle at i between j and k."""
    directions = _unit(embeddings - embeddings.unsqueeze(1))
    return directions @ directions.mT


def _unit(vectors: Tensor) -> Tensor:
    """Vectors along the last dimension at length 1; those of length 0 stay, with a gradient no larger than others'."""
    length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors.div(length.where(length != 0, 1))

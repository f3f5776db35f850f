"""Reading a softmax cross-entropy off its gradient: what each row weighs, and whether it is one at all.

The gradient of a row is w (p - t): w its weight, p its probabilities, t its targets. A single row says nothing: any
gradient that sums to zero is that of some cross-entropy. What tells one from losses that only look like it (focal,
poly-1, an entropy bonus) is that neither weights nor targets depend on the probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["RowWeights", "row_weights"]

#: relative errors that rounding leaves in a gradient of a type
TOLERANCES = {torch.float64: 1e-8, torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.03}


@dataclass
class RowWeights:
    """What each row of a cross-entropy weighs, (rows,), and whether the gradient is none of a cross-entropy, 0-d."""

    weights: Tensor
    refused: Tensor


@dataclass
class _Rows:
    """Rows of probabilities and their gradients.

    Attributes:
        probabilities, gradient: (rows, classes).
        scale: 0-d; of the loss, as it was declared.
        tolerance: relative error of the gradient.
        least: absolute error of the gradient, where it underflows.
        counted: (rows,), those with a gradient.
    """

    probabilities: Tensor
    gradient: Tensor
    scale: Tensor
    tolerance: float
    least: float
    counted: Tensor

    def among(self, off: Tensor) -> Tensor:
        """The largest of (rows,) errors; those without a gradient do not count."""
        return torch.where(self.counted, off, 0.0).amax()


def row_weights(probabilities: Tensor, gradient: Tensor, scale: Tensor, sent: torch.dtype) -> RowWeights:
    """Find the weights of the rows.

    Either all targets are single classes: then each row shows its weight, and these are equal, or one for each class
    (class weights), whatever the reduction. Or targets are labels that were smoothed or mixed by twos: then the
    weights are those of a mean or a sum, and all targets share the same least value.

    Args:
        probabilities: (rows, classes), the softmax of the logits.
        gradient: (rows, classes), of the loss by the logits.
        scale: 0-d; what the loss was multiplied by, as far as it was declared.
        sent: the type in which the gradient came.
    """
    rounding = torch.finfo(sent)
    rows = _Rows(
        probabilities,
        gradient,
        scale.to(probabilities.dtype),
        TOLERANCES.get(sent, TOLERANCES[torch.float32]),
        rounding.smallest_normal * rounding.eps,
        gradient.abs().amax(-1) > 0,
    )
    shown = _shown(rows)
    single, no_single = _of_single_classes(rows, shown)
    weights, refused = single, no_single
    if _may_hold(no_single):
        mixed, no_mixed = _of_mixed_labels(rows)
        weights, refused = torch.where(no_single, mixed, single), no_single & no_mixed
    rounded = rows.tolerance * gradient.abs().sum(-1) + rounding.eps * weights + rows.least * gradient.shape[-1]
    unbalanced = (rows.counted & (gradient.sum(-1).abs() > 4 * rounded)).any()
    return RowWeights(weights, refused | unbalanced)


def _may_hold(condition: Tensor) -> bool:
    """Whether a condition holds, or is not known yet, in a graph that is being compiled."""
    return torch.compiler.is_compiling() or bool(condition)


@dataclass
class _Shown:
    """What rows show if their targets are single classes; all are (rows,).

    Attributes:
        weights: of the rows.
        off: how far the gradients are from that, relatively.
        labels: the classes.
        rest: the probability of all other classes.
        blur: what rounding leaves of doubt in a weight.
    """

    weights: Tensor
    off: Tensor
    labels: Tensor
    rest: Tensor
    blur: Tensor


def _shown(rows: _Rows) -> _Shown:
    labels = rows.gradient.argmin(-1, keepdim=True)
    others = torch.ones_like(rows.gradient).scatter(-1, labels, 0.0)
    rest = (rows.probabilities * others).sum(-1).clamp(min=1e-30)
    weights = (rows.gradient * others).sum(-1) / rest
    wanted = weights[:, None] * rows.probabilities
    error = ((rows.gradient - wanted).abs() - 4 * rows.least).clamp(min=0)
    off = (error * others / wanted.abs().clamp(min=1e-30)).amax(-1)
    return _Shown(weights, off, labels[:, 0], rest, rows.tolerance * weights.abs() + 4 * rows.least / rest)


def _of_single_classes(rows: _Rows, shown: _Shown) -> tuple[Tensor, Tensor]:
    """The weights where all targets are single classes, and whether they are none, or depend on the probabilities
    (0-d)."""
    common, equal = _common_weight(rows, shown)
    saturated = common * shown.rest <= 4 * rows.least  # no gradient is left, and none is missing
    weights = torch.where(equal, common * (rows.counted | saturated), shown.weights)
    wrong = (rows.among(shown.off) > rows.tolerance) | (rows.counted & (shown.weights <= 0)).any()
    if _may_hold(~equal):
        equal = equal | _one_for_each_class(rows, shown)
    return weights, wrong | ~equal


def _common_weight(rows: _Rows, shown: _Shown) -> tuple[Tensor, Tensor]:
    """The weight of all rows, and whether they have the same: where the probabilities differ, or that of a mean or a
    sum (0-d)."""
    sure = shown.rest * rows.counted
    mean = (shown.weights * sure).sum() / sure.sum().clamp(min=1e-30)
    equal = rows.among((shown.weights - mean).abs() / shown.blur.clamp(min=1e-30)) <= 2
    most, least = (torch.where(rows.counted, shown.rest, end) for end in (0.0, 1.0))
    differ = most.amax() - least.amin() > 10 * rows.tolerance
    known = torch.stack([(mean / each - 1).abs() for each in _known_weights(rows)]).amin() <= rows.tolerance
    return mean, equal & (differ | known)


def _one_for_each_class(rows: _Rows, shown: _Shown) -> Tensor:
    """Whether rows of one class weigh the same, and that is shown: by rows that differ, or by the weights' sum."""
    order = torch.where(rows.counted, shown.labels, -1).argsort()
    label, weight, rest, blur, counted = (
        each[order] for each in (shown.labels, shown.weights, shown.rest, shown.blur, rows.counted)
    )
    pairs = (label[1:] == label[:-1]) & counted[1:] & counted[:-1]
    apart = (weight[1:] - weight[:-1]).abs() > 2 * (blur[1:] + blur[:-1])
    proven = pairs & ((rest[1:] - rest[:-1]).abs() > 10 * rows.tolerance)
    whole = ((shown.weights * rows.counted).sum() / rows.scale - 1).abs() <= rows.tolerance
    return ~(pairs & apart).any() & (proven.any() | whole)


def _of_mixed_labels(rows: _Rows) -> tuple[Tensor, Tensor]:
    """The weights where targets are labels, smoothed or mixed by twos, and whether they are none (0-d)."""
    weights, refused = torch.zeros_like(rows.gradient[:, 0]), torch.ones_like(rows.counted[0])
    for known in _known_weights(rows):
        misread = _not_mixed(rows, known)
        weights = torch.where(refused & ~misread, known * rows.counted, weights)
        refused = refused & misread
    return weights, refused


def _known_weights(rows: _Rows) -> tuple[Tensor, Tensor, Tensor]:
    """What a row weighs in a mean over all rows, in a mean over those with a gradient, and in a sum, rising."""
    return (
        rows.scale / len(rows.counted),
        rows.scale / rows.counted.sum().clamp(min=1),
        rows.scale * torch.ones_like(rows.scale),
    )


def _not_mixed(rows: _Rows, weight: Tensor) -> Tensor:
    """Whether more than two classes of a row have a target above the least one, or that is not the same everywhere."""
    sent = rows.gradient / weight
    targets = rows.probabilities - sent
    errors = rows.tolerance * torch.maximum(rows.probabilities, sent.abs()) + 4 * rows.least / weight
    least = _least_target(rows, targets, errors)
    off = (targets - least).abs() / errors
    above = off.scatter(-1, targets.topk(2, dim=-1).indices, 0.0) if targets.shape[-1] > 2 else off.amin(-1, True)
    below = ((least - targets) / errors).amax(-1)
    alone = (rows.counted.sum() < 2) & (least > 10 * rows.tolerance) & (targets.shape[-1] < 4)
    return (rows.among(torch.maximum(above.amax(-1), below)) > 2) | alone


def _least_target(rows: _Rows, targets: Tensor, errors: Tensor) -> Tensor:
    """The least target, where it is known best: of the row and class with the smallest error; (0-d)."""
    lowest = targets.scatter(-1, targets.argmax(-1, keepdim=True), float("inf"))
    counted = rows.counted[:, None]
    sure = torch.where(counted, errors, torch.inf)
    near = torch.where(counted, lowest, torch.inf).amin()
    close = torch.where((lowest - near).abs() <= 2 * (sure + sure.amin()), sure, torch.inf)
    place = close.reshape(-1).argmin(0, keepdim=True)
    return targets.reshape(-1).gather(0, place)[0].clamp(min=0)

"""Masks of pruned weights: how they are kept and applied.

Two forms. *Fast*: integers of the weight's width, all ones where a weight is kept and 0 where it is pruned, applied by
a bitwise AND on the weight's own bits. *Compact*: bool, True where a weight is kept, one byte a weight. Both turn a
pruned weight into +0.0 whatever it was (a product would leave NaN a NaN) and leave every other bit alone.

The mask of a DTensor is a plain tensor: that of the part which this process holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from paredown.framework.distributed.shards import own_part
from paredown.modifiers.pruning.selection.chunks import INTEGER_OF_WIDTH, bits_of, chunks
from paredown.modifiers.pruning.selection.select import Threshold, find_threshold, tied
from paredown.modifiers.pruning.selection.threshold import ordered_keys

__all__ = [
    "MaskForm",
    "apply_masks_",
    "converted",
    "empty_mask",
    "fast_mask",
    "fits",
    "mask_keeping",
    "mask_of",
    "prune_at_",
    "prune_smallest_",
    "to_bool",
]

MaskForm = Literal["fast", "compact"]


def empty_mask(weight: Tensor, form: MaskForm = "fast") -> Tensor:
    """An uninitialised mask in the shape, memory order and place of ``weight``."""
    dtype = torch.bool if form == "compact" else INTEGER_OF_WIDTH[weight.element_size()]
    return torch.empty_like(own_part(weight), dtype=dtype, requires_grad=False)


def fast_mask(keep: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The fast form, for weights of ``dtype``, of a bool tensor that is True where a weight is kept."""
    return keep.to(INTEGER_OF_WIDTH[dtype.itemsize]).neg_()


def mask_of(weight: Tensor, form: MaskForm = "fast") -> Tensor:
    """The mask of the zeros that a weight has: it keeps what is not 0."""
    mask = empty_mask(weight, form)
    for part, target in chunks(own_part(weight), mask):
        kept = part != 0
        target.copy_(kept if form == "compact" else fast_mask(kept, weight.dtype))
    return mask


def mask_keeping(keep: Tensor, weight: Tensor, form: MaskForm = "fast") -> Tensor:
    """The mask of a weight from a bool tensor that is True where it is kept."""
    mask = empty_mask(weight, form)
    return mask.copy_(keep) if form == "compact" else mask.copy_(keep).neg_()


def fits(mask: Tensor, weight: Tensor) -> bool:
    """Whether a mask lies on the weight's device and is of the weight's width."""
    return mask.device == weight.device and mask.dtype in (torch.bool, INTEGER_OF_WIDTH[weight.element_size()])


def converted(mask: Tensor, weight: Tensor) -> Tensor:
    """A mask in the same form for another device, width or memory order of the weight."""
    new = empty_mask(weight, "compact" if mask.dtype == torch.bool else "fast")
    return new.copy_(mask)


def to_bool(mask: Tensor) -> Tensor:
    """The compact form of a mask of either form: True where a weight is kept."""
    return mask if mask.dtype == torch.bool else mask != 0


@torch.no_grad()
def apply_masks_(weights: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    """Set pruned weights to zero, in place. Each mask is of either form and of its weight's shape.

    Costs about the time of reading the weights once: 0.3 ns a weight for either form of float32 masks on one core.
    """
    for weight, mask in zip(weights, masks, strict=True):
        bits = bits_of(own_part(weight))
        if mask.dtype != torch.bool:
            torch.bitwise_and(bits, mask, out=bits)
        elif bits.device.type == "cpu":
            for part, kept in chunks(bits, mask):
                part.mul_(kept.to(part.dtype))  # converted in the cache: five times faster than mixed types
        else:
            bits.mul_(mask)


@torch.no_grad()
def prune_smallest_(
    weights: Sequence[Tensor],
    count: int,
    *,
    form: MaskForm = "fast",
    names: Sequence[str] | None = None,
    out: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """Zero exactly ``count`` weights of smallest magnitude over all tensors, in place, and return their masks.

    Selecting, marking and zeroing are fused and chunked: besides the masks, about 2% of the weights' memory is needed.
    Ties go by tensor, then flat index, lowest first. Nothing is changed when an error is raised.

    Args:
        weights: tensors of any shapes, layouts, floating-point types and devices.
        count: how many, 0 to the number of all weights.
        form: of the masks.
        names: for error messages, one for each tensor.
        out: masks of an earlier call, to be overwritten and returned.

    Raises:
        ValueError: ``count`` is out of range.
        TargetError: a weight is NaN; names the tensor.
    """
    threshold = find_threshold(weights, count, names=names)
    return prune_at_(weights, threshold, form=form, out=out)


@torch.no_grad()
def prune_at_(
    weights: Sequence[Tensor], threshold: Threshold, *, form: MaskForm = "fast", out: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """Zero the weights that a threshold of theirs selects, in place, and return their masks; see `prune_smallest_`."""
    masks = [empty_mask(weight, form) for weight in weights] if out is None else list(out)
    weights = [own_part(weight) for weight in weights]
    bits = [bits_of(weight) for weight in weights]
    for weight, mask, memory in zip(weights, masks, bits, strict=True):
        for part, target, place in chunks(weight, mask, memory):
            _mark_(part, target, place, threshold)
    for part, target, place in tied(threshold, weights, masks, bits):
        target.masked_fill_(part, 0)
        place.masked_fill_(part, 0)
    return masks


def _mark_(weight: Tensor, mask: Tensor, bits: Tensor, threshold: Threshold) -> None:
    """Write the mask of one piece and zero its weights. Keys are not negative, so the difference cannot overflow."""
    keep = ordered_keys(weight, threshold.dtype).neg_().add_(max(threshold.last, -1))
    keep.bitwise_right_shift_(8 * keep.element_size() - 1)  # -1, all ones, where the key is above the last one pruned
    if keep.dtype != bits.dtype:
        keep = keep.to(bits.dtype)
    bits.bitwise_and_(keep)
    mask.copy_(keep)

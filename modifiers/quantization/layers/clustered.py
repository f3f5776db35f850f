"""The state of weights that share few values, and finding these values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from paredown.framework.storage.state import PerParameter
from paredown.modifiers.quantization.numbers.clusters import chosen_levels, nearest_place, shared_values
from paredown.modifiers.quantization.numbers.tied_values import tied, tied_codes

__all__ = ["Clusters", "assigned", "joined", "nearer", "tie_momenta_", "tied_weight", "turned"]

#: a value of 0 is for weights that are zero: of the largest value, what another has at least
LEAST = 1e-6
#: distance to the middle between two integers
BORDER = 1e-3


@dataclass
class Clusters:
    """Which weights share a value.

    Attributes:
        codes: by weight the places of its elements among its shared values, 0 where they are zero.
        scales: by weight what an element's shared value is multiplied by; without an entry 1. Of the weight's shape, or
            1 in some dimensions.
        own: by weight what its elements would be by themselves, where they follow their own gradients; shared values
            are the means of these.
    """

    codes: PerParameter = field(default_factory=PerParameter)
    scales: PerParameter = field(default_factory=PerParameter)
    own: PerParameter = field(default_factory=PerParameter)

    def scale(self, weight: nn.Parameter) -> Tensor | None:
        """The entry of ``scales``, if there is one."""
        return self.scales.get(weight)

    def of_each(self, weight: nn.Parameter) -> Tensor:
        """What the elements are by themselves, after a step or somebody else has written the weight."""
        own = self.own.get(weight)
        if own is None:
            return weight.detach()
        return own + (weight.detach() - tied_weight(own, self.codes[weight], self.scale(weight)))


def assigned(
    weight: Tensor,
    count: int,
    scale: Tensor | None = None,
    levels: Tensor | None = None,
    importance: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The codes of a weight's elements and what they become: at most ``count`` values, 0 among them for zeros.

    Args:
        weight: any shape, finite.
        count: at least 2.
        scale: what values are multiplied by, broadcasting against the weight. Default: 1.
        levels: where values have to be among these, in rising order.
        importance: of the squared error of each element, broadcasting against the weight. Default: all the same.

    Returns:
        codes: uint8, or int16 for 256 values without zeros, in the weight's shape.
        new: the weight's shape and type.
    """
    kept = weight != 0
    wide = weight.double() if scale is None else weight.double() / scale
    values, most = wide[kept], count - int(not bool(kept.all()))
    codes = torch.zeros_like(weight, dtype=torch.uint8 if most < 256 else torch.int16)
    if not len(values):
        return codes, weight.clone()
    by = None if importance is None else importance.double().expand(weight.shape)
    by = by if scale is None else scale.double().square().expand(weight.shape) * (1 if by is None else by)
    shares = None if by is None else by[kept]
    if levels is None:
        centers = _not_zero(shared_values(values, most, shares))
    else:
        centers = chosen_levels(values, levels, most, shares)
    codes[kept] = nearest_place(values, centers).to(codes.dtype) + 1
    new = torch.cat([centers.new_zeros(1), centers]).to(weight.device)[codes.long()]
    return codes, (new if scale is None else new * scale).to(weight.dtype)


def _not_zero(centers: Tensor) -> Tensor:
    least = LEAST * centers.abs().max()
    return torch.where(centers.abs() < least, least, centers)


def tied_weight(weight: Tensor, codes: Tensor, scale: Tensor | None) -> Tensor:
    """The nearest weight whose elements of one code share a value, 0 for code 0.

    With a scale, values keep a thousandth away from the borders between integers, so that all elements round alike.
    """
    if scale is None:
        return torch.where(codes != 0, tied(weight, codes), 0)
    shared = tied_codes(weight, codes, scale)
    whole = shared.round()
    room = 0.5 - (shared.abs() * torch.finfo(weight.dtype).eps).clamp(BORDER, 0.5)
    shared = whole + (shared - whole).clamp(-room, room)
    return torch.where(codes != 0, shared[codes.long()] * scale, 0).to(weight.dtype)


def joined(weight: Tensor, codes: Tensor, scale: Tensor | None) -> Tensor:
    """The codes where elements that were zero and are not any more have joined the nearest of the shared values."""
    grown = (codes == 0) & (weight != 0)
    return torch.where(grown, nearer(weight, codes, scale, grown), codes) if bool(grown.any()) else codes


def nearer(weight: Tensor, codes: Tensor, scale: Tensor | None, where: Tensor | None = None) -> Tensor:
    """The codes of the shared values that are nearest to elements, of those that are not zero or where it is said."""
    where = codes != 0 if where is None else where
    shared = tied_codes(weight, codes, scale)
    used = torch.bincount(codes.reshape(-1).long(), minlength=len(shared)) > 0
    used[0] = False
    if not bool(used.any()):
        return codes
    values, places = shared[used].sort()
    own = used.nonzero()[:, 0][places]
    wide = weight.double() if scale is None else weight.double() / scale
    return torch.where(where, own[nearest_place(wide, values)].to(codes.dtype), codes)


def turned(weight: Tensor, codes: Tensor, scale: Tensor, new_scale: Tensor) -> Tensor:
    """The codes for another scale: where it has another sign, the nearest of the shared values that there are."""
    flipped = ((scale < 0) != (new_scale < 0)) & (codes != 0)
    moved = torch.where(flipped, 0, codes)
    return joined(torch.where(flipped | (codes != 0), weight, 0), moved, new_scale)


def tie_momenta_(optimizers: Sequence[Optimizer], weight: nn.Parameter, codes: Tensor, scale: Tensor | None) -> None:
    """Give elements that share a value the same past, in place: what optimizers remember of them."""
    for optimizer in optimizers:
        for value in optimizer.state.get(weight, {}).values():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                squared = bool((value >= 0).all())  # second moments stay positive, whatever the scales' signs
                value.copy_(tied(value, codes, None if squared else scale))

"""Notices what is written into parameters between steps by somebody else than the managed optimizers' steps.

An optimizer around the optimizer, a schedule-free one, a second step, ``load_state_dict``, averages that are swapped
in: all of them write behind the hooks. In-place operations move a parameter's version counter, which is an attribute to
read. Writing through ``parameter.data`` does not; so a few values of one parameter at a time are looked at, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from paredown.framework.distributed.shards import own_part

__all__ = ["OutsideWrites"]

#: values of a parameter that are looked at, and, where looking waits for the device, how often that is done
SAMPLES, RARELY = 16, 7


class OutsideWrites:
    """Which of some parameters were written since they were noted.

    Costs an attribute read a parameter (about 0.1 µs), and the look at one parameter's samples (10 µs on a CPU).
    """

    def __init__(self) -> None:
        self._parameters: list[nn.Parameter] = []
        self._versions: list[int] = []
        self._turn = 0
        self._sampled: tuple[nn.Parameter, torch.Tensor] | None = None

    def note(self, parameters: Iterable[nn.Parameter]) -> None:
        """Note how parameters are now, in place of those that were noted before."""
        self._parameters = list(parameters)
        self._versions = [parameter._version for parameter in self._parameters]
        self._sampled = self._sample()

    def found(self) -> Sequence[nn.Parameter]:
        """Those that were written since; all, where values changed behind the version counters."""
        pairs = zip(self._parameters, self._versions, strict=True)
        written = [parameter for parameter, version in pairs if parameter._version != version]
        return self._parameters if not written and self._changed_unseen() else written

    def _sample(self) -> tuple[nn.Parameter, torch.Tensor] | None:
        self._turn += 1
        if not self._parameters:
            return None
        chosen = self._parameters[self._turn % len(self._parameters)]
        if chosen.device.type != "cpu" and self._turn % RARELY:
            return None
        return chosen, _samples(chosen).clone()

    def _changed_unseen(self) -> bool:
        if self._sampled is None:
            return False
        parameter, before = self._sampled
        now = _samples(parameter)
        return now.shape == before.shape and now.device == before.device and not torch.equal(now, before)


def _samples(parameter: nn.Parameter) -> torch.Tensor:
    """A few values, spread over the part that this process holds."""
    flat = own_part(parameter)
    if not flat.numel():
        return flat.reshape(-1)
    places = torch.linspace(0, flat.numel() - 1, min(SAMPLES, flat.numel()), device=flat.device).long()
    return flat.take(places)

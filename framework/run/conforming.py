"""Bringing another model of the same kind (an average, a copy) to what a recipe has made of the one that is trained."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from paredown.framework.errors import ParedownError
from paredown.framework.model.links import add_link, links_of, remove_links
from paredown.framework.model.surgery import Rebuild, Surgery
from paredown.framework.model.targets import named_modules, named_parameters, unwrap

__all__ = ["Conforming"]

#: a parameter, and what brings its counterpart in another model to what is held of it
Held = tuple[nn.Parameter, Callable[[nn.Parameter], None]]
#: the place of the model in what averages it: torch.optim.swa_utils.AveragedModel, and averages made after it
INSIDE = "module"


class Conforming:
    """Gives other models the structure, the zeros and the quantizers of a run's model; their weights stay their own.

    Args:
        model: that of the run.
        records: what surgery did to it so far; the list grows.
        rebuild: makes a replacing module, from a modifier's name, the module and its record.
    """

    def __init__(self, model: nn.Module, records: Sequence[Mapping[str, Any]], rebuild: Rebuild) -> None:
        self.model = model
        self.records = records
        self.rebuild = rebuild
        self._done: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()

    def conform(self, other: nn.Module, held: Iterable[Held]) -> None:
        """Bring a model in line.

        Args:
            other: of the same class, as it was handed over or as it was when it was brought in line last.
            held: parameters of the run's model of which something is held, with what brings a counterpart to it.

        Raises:
            ParedownError: it is another kind of model; it is as it was then.
        """
        own = self._inside(other)
        self._follow_structure(own)
        _copy_links(self.model, own)
        _make_alike(self.model, own, held)

    def _inside(self, other: Any) -> nn.Module:
        if not isinstance(other, nn.Module):
            raise ParedownError(f"conform: a torch.nn.Module is wanted, not a {type(other).__name__}")
        inner = getattr(other, INSIDE, None)
        if isinstance(inner, nn.Module) and INSIDE not in self.model._modules:
            return unwrap(inner)
        return unwrap(other)

    def _follow_structure(self, other: nn.Module) -> None:
        if _shapes(other) == _shapes(self.model):
            self._done[other] = len(self.records)
            return
        missing = list(self.records[self._done.get(other, 0) :])
        surgery = Surgery(other, [], {})
        try:
            surgery.replay(missing, self.rebuild)
        except Exception as error:
            surgery.take_back()
            raise ParedownError(f"{REFUSAL} ({error})") from error
        if _shapes(other) != _shapes(self.model):
            surgery.take_back()
            raise ParedownError(REFUSAL)
        _begin_anew(self.model, other, [each["module"] for each in missing if each["operation"] == "replace"])
        self._done[other] = len(self.records)


REFUSAL = (
    "conform: the other model cannot be brought in line with this one: it has to be a copy of it, as it was handed to "
    "modify or as it is now, and to be brought in line after each change; its structure is as it was"
)


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in named_parameters(model).items()}


@torch.no_grad()
def _begin_anew(model: nn.Module, other: nn.Module, replaced: Iterable[str]) -> None:
    """What was replaced has no past of its own: its tensors are those of the model."""
    ours, theirs = named_modules(model), named_modules(other)
    for name in replaced:
        if name in ours and name in theirs:
            own = named_parameters(ours[name])
            for key, parameter in named_parameters(theirs[name]).items():
                parameter.copy_(own[key])


def _copy_links(model: nn.Module, other: nn.Module) -> None:
    """Copies of the links that are part of the model, in place of those that are there, and of buffers that belong to
    them."""
    theirs = named_modules(other)
    counterparts = _counterparts(model, other)
    for name, module in named_modules(model).items():
        own = theirs[name]
        remove_links(own, [link for link in links_of(own) if link.permanent])
        for link in [link for link in links_of(module) if link.permanent]:
            add_link(own, copy.deepcopy(link, dict(counterparts)))
        for key, buffer in module.named_buffers(recurse=False):
            if key not in own._buffers or own.get_buffer(key).shape != buffer.shape:
                own.register_buffer(key, buffer.clone(), key not in module._non_persistent_buffers_set)


def _counterparts(model: nn.Module, other: nn.Module) -> dict[int, Any]:
    """By the ids of modules and parameters, their places in the other model: what a copy of a link refers to."""
    found: dict[int, Any] = {}
    look: Callable[[nn.Module], Mapping[str, Any]]
    for look in (named_modules, named_parameters):
        theirs = look(other)
        found |= {id(each): theirs[name] for name, each in look(model).items()}
    return found


@torch.no_grad()
def _make_alike(model: nn.Module, other: nn.Module, held: Iterable[Held]) -> None:
    names = {id(parameter): name for name, parameter in named_parameters(model).items()}
    theirs = named_parameters(other)
    for parameter, bring in held:
        bring(theirs[names[id(parameter)]])

"""Surgery: changing a model's structure while its optimizers and the modifiers' states follow.

Every operation is recorded as plain values, so that a checkpoint replays what was done and never decides again.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from paredown.framework.errors import TargetError
from paredown.framework.model.fused_layers import bypass_reason
from paredown.framework.model.links import add_link, links_of, remove_links
from paredown.framework.model.optimizers import ParameterGroups
from paredown.framework.model.targets import named_modules, named_parameters
from paredown.framework.model.weights import tied_to
from paredown.framework.storage.state import PerParameter, containers

__all__ = ["Rebuild", "Surgery", "refusal_to_replace"]

HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called",
)
#: makes a replacing module from a modifier's name, the module that is replaced and what was recorded
Rebuild = Callable[[str, nn.Module, Mapping[str, Any]], nn.Module]


class Surgery:
    """Operations on one model and the optimizers that train it.

    Args:
        model: the user's own module (unwrapped).
        optimizers: those that hold its parameters; may be empty.
        states: the modifiers' states by name, in which entries of parameters follow.
        forbidden: why the structure cannot change any more (a wrapper that counted the parameters), if so.

    Attributes:
        groups: the optimizers' param groups, which follow.
        changed: whether parameters came, went or changed their shape or whether they train, since somebody looked.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        states: Mapping[str, Any],
        forbidden: str | None = None,
    ) -> None:
        self.model = model
        self.groups = ParameterGroups(optimizers)
        self.states = states
        self.forbidden = forbidden
        self.records: list[dict[str, Any]] = []
        self._undo: list[Callable[[], object]] = []
        self._settled = False
        self.changed = False

    def replace(self, name: str, new: nn.Module, modifier: str, spec: Mapping[str, Any]) -> None:
        """Put ``new`` where the module ``name`` stands, under all its names.

        The new parameters take the old ones' places in their param groups; a Parameter that is used again keeps its
        optimizer state. Mode, hooks and managed links move over.

        Args:
            name: plain name of the module.
            new: the module that takes its place, on the old one's device.
            modifier, spec: who did it and what it needs to rebuild ``new`` (plain values): for checkpoints.

        Raises:
            TargetError: the module cannot be replaced; see `refusal_to_replace`.
        """
        reason = refusal_to_replace(self.model, name, self.states) or self.forbidden
        if reason:
            raise TargetError(f"{name}: {reason}")
        old = named_modules(self.model)[name]
        self._remember(self.groups.restoring())
        new.train(old.training)
        self._exchange(old, new)
        self._remember(lambda: self._exchange(new, old))
        self.groups.replace(dict(old.named_parameters()), dict(new.named_parameters()))
        self.changed = True
        self.records.append({"operation": "replace", "module": name, "modifier": modifier, "spec": dict(spec)})

    def shrink(self, name: str, dimension: int, kept: Tensor) -> None:
        """Keep only the indices ``kept`` of one dimension of the parameter or buffer ``name``, in place.

        The parameter's identity, ties, hooks and place in the optimizer stay; momenta of its shape are sliced, state
        of another shape is dropped, and entries in the modifiers' states follow.
        """
        if self.forbidden:
            raise TargetError(f"{name}: {self.forbidden}")
        tensor = {**named_parameters(self.model), **dict(self.model.named_buffers())}[name]
        self._keep_contents(tensor)
        shape = tensor.shape
        kept = kept.to(tensor.device)
        with torch.no_grad():
            tensor.set_(_in_layout_of(tensor, tensor.index_select(dimension, kept)))  # type: ignore[call-overload]
        tensor.grad = None
        self.groups.slice(tensor, shape, dimension, kept)
        for container in self._containers():
            if isinstance(tensor, nn.Parameter):
                container.shrink(tensor, dimension, kept)
        self.changed = True
        self.records.append({"operation": "shrink", "tensor": name, "dimension": dimension, "kept": kept.cpu()})

    def set_attribute(self, module: str, key: str, value: Any) -> None:
        """Give a module's attribute a new plain value: a size that follows its tensors.

        A dotted key leads through objects that hold settings (``config.intermediate_size``): they may belong to other
        models too, so the model gets a copy of its own.

        Args:
            module: plain name; "" for the model.
            key: of an attribute; in settings it may be a new one.
            value: a number, text, or a list of them.
        """
        if self.forbidden:
            raise TargetError(f"{module}: {self.forbidden}")
        holder: Any = named_modules(self.model)[module]
        *path, last = key.split(".")
        if path:
            self._own(holder, path[0])
        for part in path:
            holder = getattr(holder, part)
        there, before = hasattr(holder, last), getattr(holder, last, None)
        setattr(holder, last, value)
        self._remember(lambda: setattr(holder, last, before) if there else delattr(holder, last))
        self.records.append({"operation": "attribute", "module": module, "key": key, "value": value})

    def remove(self, name: str, indices: Sequence[int]) -> None:
        """Take children out of the ModuleList or Sequential ``name``; those behind them move up.

        Parameters that are nowhere else leave the optimizers.

        Raises:
            TargetError: there is no such container, it would be left without a child, or the structure is fixed.
        """
        if self.forbidden:
            raise TargetError(f"{name}: {self.forbidden}")
        container = named_modules(self.model)[name]
        before: dict[str, Any] = dict(container._modules)
        if not isinstance(container, (nn.ModuleList, nn.Sequential)) or len(set(indices)) >= len(before):
            raise TargetError(f"{name} is no list of layers that can lose {len(indices)} of them")
        own = {id(parameter) for parameter in self.model.parameters()}
        self._remember(self.groups.restoring())
        kept = [child for place, child in enumerate(before.values()) if place not in set(indices)]
        container._modules.clear()
        container._modules.update({str(place): child for place, child in enumerate(kept)})
        self._remember(functools.partial(_put_back, container, before))
        gone = own - {id(parameter) for parameter in self.model.parameters()}
        self._forget(gone)
        self.changed = True
        self.records.append({"operation": "remove", "module": name, "indices": [int(index) for index in indices]})

    def replay(self, records: Iterable[Mapping[str, Any]], rebuild: Rebuild) -> None:
        """Do again what a checkpoint recorded; ``rebuild(modifier, module, spec)`` makes a replacing module."""
        for record in records:
            if record["operation"] == "shrink":
                self.shrink(record["tensor"], record["dimension"], record["kept"])
                continue
            if record["operation"] == "attribute":
                self.set_attribute(record["module"], record["key"], record["value"])
                continue
            if record["operation"] == "remove":
                self.remove(record["module"], record["indices"])
                continue
            old = named_modules(self.model)[record["module"]]
            new = rebuild(record["modifier"], old, record["spec"])
            self.replace(record["module"], new, record["modifier"], record["spec"])

    def has_made(self, records: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the structure is fixed by now, and just these changes were made before."""
        return self.forbidden is not None and _alike(self.records, list(records))

    def take_back(self) -> None:
        """Undo everything since `settle`: for a checkpoint that is loaded after ``modify``."""
        self.changed = self.changed or bool(self._undo)
        for undo in reversed(self._undo):
            undo()
        self._undo.clear()
        self.records.clear()

    def settle(self) -> None:
        """Forget how to undo; from the first optimizer step on nothing is taken back."""
        self._undo.clear()
        self._settled = True

    def note_change(self) -> None:
        """Note that parameters came, went or changed whether they train."""
        self.changed = True

    def _remember(self, undo: Callable[[], object]) -> None:
        if not self._settled:
            self._undo.append(undo)

    def _containers(self) -> Iterable[PerParameter]:
        return (container for state in self.states.values() for container in containers(state))

    def _exchange(self, old: nn.Module, new: nn.Module) -> None:
        for parent in list(self.model.modules()):
            for key, child in parent._modules.items():
                if child is old:
                    parent._modules[key] = new
        _move_surroundings(old, new)

    def _keep_contents(self, tensor: Tensor) -> None:
        if self._settled:
            return
        before = tensor.detach().clone()

        def restore() -> None:
            with torch.no_grad():
                tensor.set_(before)  # type: ignore[call-overload]

        self._remember(restore)

    def _own(self, module: nn.Module, key: str) -> None:
        """Give the model a copy of the settings object that a module holds, wherever it or a part of it is held."""
        original = getattr(module, key)
        copies: dict[int, Any] = {}
        copy.deepcopy(original, copies)
        for holder in self.model.modules():
            for name, value in list(vars(holder).items()):
                if name == key and id(value) in copies:
                    vars(holder)[name] = copies[id(value)]
                    self._remember(functools.partial(vars(holder).__setitem__, name, value))

    def _forget(self, gone: set[int]) -> None:
        """Let optimizers and states forget parameters that left the model."""
        self.groups.remove(gone)
        for container in self._containers():
            for parameter in [parameter for parameter in container if id(parameter) in gone]:
                del container[parameter]


def refusal_to_replace(model: nn.Module, name: str, states: Mapping[str, Any]) -> str | None:
    """Why the module cannot be replaced, or None.

    It is the model itself, its parent reads it, its weight is tied, it is quantized, or someone's state hangs on it.
    """
    module = named_modules(model)[name]
    if module is model:
        return "the model itself cannot be replaced; wrap it into a module"
    reason = bypass_reason(model, name)
    if reason is not None:
        return reason
    own = {id(parameter) for parameter in module.parameters()}
    tied = tied_to(model, name)
    if tied is not None:
        return f"its weight is tied to {tied!r}"
    if any(link.permanent for inner in module.modules() for link in links_of(inner)):
        return "it is quantized already"
    for modifier, state in states.items():
        held = {id(parameter) for container in containers(state) for parameter in container}
        if held & own:
            return f"the modifier {modifier!r} holds state of its weight"
    return None


def _alike(one: Any, other: Any) -> bool:
    """Whether two records hold the same values."""
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_alike, one, other))
    return bool(one == other)


def _in_layout_of(model: Tensor, tensor: Tensor) -> Tensor:
    """A tensor in the memory format of another one."""
    if model.dim() == 4 and model.is_contiguous(memory_format=torch.channels_last) and not model.is_contiguous():
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor.contiguous()


def _put_back(container: nn.Module, children: Mapping[str, Any]) -> None:
    container._modules.clear()
    container._modules.update(children)


def _move_surroundings(old: nn.Module, new: nn.Module) -> None:
    for hooks in HOOKS:
        moved = old.__dict__.get(hooks)
        if moved:
            new.__dict__[hooks] = moved.copy()
            moved.clear()
    links = links_of(old)
    for link in reversed(links):
        add_link(new, link)
    remove_links(old, links)

"""Saves, restores and slices the state of a modifier.

A state is a dataclass. Its fields hold plain values, tensors, generators, further dataclasses, and `PerParameter`
containers: tensors kept by parameter, which surgery slices along when the parameter shrinks.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from paredown.framework.distributed.shards import is_sharded, own_part, whole_of_part
from paredown.framework.errors import CheckpointError
from paredown.framework.storage.bits import pack_bits, unpack_bits

__all__ = ["PerParameter", "containers", "restore", "to_plain"]

S = TypeVar("S")


class PerParameter(MutableMapping[nn.Parameter, Tensor]):
    """Tensors by parameter (by identity), in the order of insertion.

    Each tensor has its parameter's shape, or 1 in some of its dimensions. Bool tensors are bit-packed in checkpoints.
    """

    #: a later modifier with the same claim takes its entries over
    handed_on: ClassVar[bool] = True

    def __init__(self, tensors: Mapping[nn.Parameter, Tensor] | None = None) -> None:
        self._entries: dict[int, tuple[nn.Parameter, Tensor]] = {}
        self.update(tensors or {})

    def __getitem__(self, parameter: nn.Parameter) -> Tensor:
        return self._entries[id(parameter)][1]

    def __setitem__(self, parameter: nn.Parameter, tensor: Tensor) -> None:
        self._entries[id(parameter)] = (parameter, tensor)

    def __delitem__(self, parameter: nn.Parameter) -> None:
        del self._entries[id(parameter)]

    def __iter__(self) -> Iterator[nn.Parameter]:
        return (parameter for parameter, _ in self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, parameter: object) -> bool:
        return id(parameter) in self._entries

    def shrink(self, parameter: nn.Parameter, dimension: int, kept: Tensor) -> None:
        """Follow a parameter that keeps only the indices ``kept`` of ``dimension``."""
        if parameter in self and self[parameter].shape[dimension] != 1:
            tensor = self[parameter]
            self[parameter] = tensor.index_select(dimension, kept.to(tensor.device))

    def encode(self, tensor: Tensor, parameter: nn.Parameter) -> Any:
        """The form of one tensor in a checkpoint. Of a parameter that is split among processes it is a DTensor."""
        if is_sharded(parameter):
            return whole_of_part(tensor.detach().clone(), parameter)
        return pack_bits(tensor) if tensor.dtype == torch.bool else tensor.detach().cpu().clone()

    def decode(self, plain: Any, parameter: nn.Parameter) -> Tensor:
        """One tensor from its form in a checkpoint, on the parameter's device."""
        tensor = unpack_bits(plain) if isinstance(plain, dict) else own_part(plain)
        return tensor.to(parameter.device, copy=True)


def to_plain(value: Any, names: Mapping[int, str]) -> Any:
    """A state as tensors and plain values, which ``torch.load(weights_only=True)`` reads.

    Args:
        value: the state, or a part of it.
        names: the model's parameter names by the parameters' ids.
    """
    if isinstance(value, PerParameter):
        return {names[id(parameter)]: value.encode(tensor, parameter) for parameter, tensor in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {part.name: to_plain(getattr(value, part.name), names) for part in dataclasses.fields(value)}
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, Mapping):
        return {key: to_plain(part, names) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(part, names) for part in value]
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    return value


def restore(kind: type[S], plain: Mapping[str, Any], parameters: Mapping[str, nn.Parameter], device: Any) -> S:
    """The state of class ``kind`` from what `to_plain` gave.

    Raises:
        CheckpointError: a parameter that the model does not have, or fields that the class does not have.
    """
    hints = typing.get_type_hints(kind)
    fields = {part.name: part for part in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if set(plain) - set(fields):
        raise CheckpointError(
            f"the checkpoint's {kind.__name__} has unknown fields: {sorted(set(plain) - set(fields))}"
        )
    return kind(**{name: _restored(hints[name], part, parameters, device) for name, part in plain.items()})


def containers(state: Any) -> Iterator[PerParameter]:
    """All `PerParameter` containers in a state."""
    if isinstance(state, PerParameter):
        yield state
    elif dataclasses.is_dataclass(state) and not isinstance(state, type):
        for part in dataclasses.fields(state):
            yield from containers(getattr(state, part.name))
    elif isinstance(state, Mapping):
        for part in state.values():
            yield from containers(part)


def _restored(hint: Any, plain: Any, parameters: Mapping[str, nn.Parameter], device: Any) -> Any:
    hint = _without_none(hint)
    origin = typing.get_origin(hint) or hint
    if plain is None:
        return None
    if isinstance(origin, type) and issubclass(origin, PerParameter):
        return _restored_container(origin, plain, parameters)
    if dataclasses.is_dataclass(origin) and isinstance(origin, type):
        return restore(origin, plain, parameters, device)
    if origin is torch.Generator:
        on_cpu = len(plain) == len(torch.Generator().get_state())
        generator = torch.Generator("cpu" if on_cpu else device)
        generator.set_state(plain)
        return generator
    if isinstance(origin, type) and issubclass(origin, dict):
        part = (typing.get_args(hint) or (Any, Any))[1]
        return {key: _restored(part, value, parameters, device) for key, value in plain.items()}
    return plain.to(device) if isinstance(plain, Tensor) else plain


def _without_none(hint: Any) -> Any:
    """The one type that an optional field may have."""
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    optional = typing.get_origin(hint) in (typing.Union, types.UnionType) and len(kinds) == 1
    return kinds[0] if optional else hint


def _restored_container(
    kind: type[PerParameter], plain: Mapping[str, Any], parameters: Mapping[str, nn.Parameter]
) -> PerParameter:
    container = kind()
    for name, value in plain.items():
        if name not in parameters:
            raise CheckpointError(f"the checkpoint holds state for {name!r}, a parameter that the model does not have")
        container[parameters[name]] = container.decode(value, parameters[name])
    return container

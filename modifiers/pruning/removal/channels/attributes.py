"""The sizes that modules keep as attributes, brought in step with their tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils._pytree import tree_leaves

from paredown.framework.model.graph.trace import operator_name
from paredown.framework.model.links import base_class
from paredown.modifiers.pruning.removal.channels.analysis import Analysis
from paredown.modifiers.pruning.removal.channels.convolutions import by_whole_groups
from paredown.modifiers.pruning.removal.channels.groups import Place
from paredown.modifiers.pruning.removal.channels.labels import Value, slices_gone

__all__ = ["Attribute", "ChangedSizes", "Sizes", "candidates", "layer_attributes", "sizes_after"]

#: old size -> new sizes that it becomes
Sizes = dict[int, set[int]]
#: operators that are given sizes as numbers
SIZED = (
    *("view", "reshape", "unflatten", "_unsafe_view", "expand", "broadcast_to", "repeat", "split", "split_with_sizes"),
    *("unsafe_split", "tensor_split", "narrow", "slice", "zeros", "ones", "full", "empty", "new_zeros", "new_ones"),
    *("new_full", "new_empty", "group_norm", "layer_norm"),
)


@dataclass(frozen=True)
class Attribute:
    """An attribute of a module that gets a new value; ``kind`` is the module's class."""

    module: str
    key: str
    value: int | tuple[int, ...]
    kind: type[nn.Module] = nn.Module


def layer_attributes(modules: Mapping[str, nn.Module], kept: Mapping[Place, Tensor]) -> list[Attribute]:
    """What standard layers keep of their sizes, after only the indices ``kept`` of these places stay."""
    cut = {id(_tensor(modules, name)): name for name, _ in kept}
    found = []
    for name, (module, _) in _with_aliases(modules).items():
        own = (*module._parameters.values(), *module._buffers.values())
        if any(id(tensor) in cut for tensor in own if tensor is not None):  # also where it is tied
            values = _values(module, _Shapes(module, kept, cut))
            found += [Attribute(name, key, value, base_class(module)) for key, value in values.items()]
    return found


def _tensor(modules: Mapping[str, nn.Module], name: str) -> object:
    layer, _, key = name.rpartition(".")
    return getattr(modules.get(layer), key, None)


@dataclass(frozen=True)
class _Shapes:
    """The sizes of a module's tensors after the cut."""

    module: nn.Module
    kept: Mapping[Place, Tensor]
    names: Mapping[int, str]

    def size(self, key: str, dimension: int) -> int | None:
        tensor = getattr(self.module, key, None)
        if not isinstance(tensor, Tensor):
            return None
        kept = self.kept.get((self.names.get(id(tensor), ""), dimension))
        return tensor.shape[dimension] if kept is None else len(kept)


def _values(module: nn.Module, shapes: _Shapes) -> dict[str, Any]:
    if isinstance(module, _ConvNd):
        return _convolution(module, shapes)
    if isinstance(module, nn.Linear):
        return _given(in_features=shapes.size("weight", 1), out_features=shapes.size("weight", 0))
    if isinstance(module, _NormBase):
        return _given(num_features=shapes.size("weight", 0) or shapes.size("running_mean", 0))
    if isinstance(module, nn.GroupNorm):
        channels = shapes.size("weight", 0)
        groups = None if channels is None else channels * module.num_groups // module.num_channels
        return _given(num_channels=channels, num_groups=groups)
    if isinstance(module, nn.PReLU):
        return _given(num_parameters=shapes.size("weight", 0))
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return _given(embedding_dim=shapes.size("weight", 1))
    if isinstance(module, nn.RNNBase):
        return _given(input_size=shapes.size("weight_ih_l0", 1), hidden_size=shapes.size("weight_hh_l0", 1))
    if isinstance(module, nn.RNNCellBase):
        return _given(input_size=shapes.size("weight_ih", 1), hidden_size=shapes.size("weight_hh", 1))
    if hasattr(module, "nf"):  # the transposed linear layer of transformers' older models
        return _given(nx=shapes.size("weight", 0), nf=shapes.size("weight", 1))
    return {}


def _given(**values: int | None) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _convolution(module: _ConvNd, shapes: _Shapes) -> dict[str, Any]:
    first, second = shapes.size("weight", 0), shapes.size("weight", 1)
    if first is None or second is None:
        return {}
    groups = module.groups
    transposed = isinstance(module, _ConvTransposeNd)
    if by_whole_groups(groups, module.in_channels // groups, module.out_channels // groups):
        groups = first // ((module.in_channels if transposed else module.out_channels) // groups)
    if transposed:
        return {"in_channels": first, "out_channels": second * groups, "groups": groups}
    return {"in_channels": second * groups, "out_channels": first, "groups": groups}


@dataclass(frozen=True)
class ChangedSizes:
    """Which sizes become which, by module, and "" for the model.

    Attributes:
        named: sizes that the module's own code gives to operators as numbers (the parts of a split, the shape of a
            view): where an attribute has such a number, it is that size.
        within: those that the code of modules inside gives too.
        all: all sizes of values in the module's forward.
    """

    named: Mapping[str, Sizes]
    within: Mapping[str, Sizes]
    all: Mapping[str, Sizes]

    def after(self, modules: Iterable[str], size: int) -> set[int]:
        """What a size of a module, under all its names, becomes: by the most telling of the three that knows it."""
        for known in (self.named, self.within, self.all):
            found = set().union(*(known.get(name, {}).get(size, set()) for name in modules))
            if found:
                return found
        return set()


def sizes_after(analysis: Analysis, removed: Tensor) -> ChangedSizes:
    """Which sizes become which in the forwards of modules.

    Args:
        analysis: of the model.
        removed: by label, whether it goes.
    """
    named: dict[str, Sizes] = {}
    within: dict[str, Sizes] = {}
    found: dict[str, Sizes] = {"": {}}
    for node, result in analysis.values.items():
        if node.op != "call_function":
            continue
        values = result if isinstance(result, tuple) else (result,)
        pairs = {pair for value in values for pair in _pairs(value, removed)}
        pairs |= set(_group_pairs(node, pairs))
        given = {*_given_sizes(node, pairs), *_given_places(analysis, node, removed)}
        stack = analysis.graph.stack_of(node)
        _note(found, {"", *stack}, pairs)
        _note(within, stack, given)
        _note(named, stack[-1:], given)
    return ChangedSizes(named, within, found)


def _note(sizes: dict[str, Sizes], modules: Iterable[str], pairs: Iterable[tuple[int, int]]) -> None:
    for module in modules:
        for before, after in pairs:
            sizes.setdefault(module, {}).setdefault(before, set()).add(after)


def _pairs(value: Value, removed: Tensor) -> Iterator[tuple[int, int]]:
    for factor in value.factors:
        gone = removed[factor]
        if not bool(gone.any()):
            continue
        for axis, size in enumerate(factor.shape):
            if size > 1:
                slices = gone.movedim(axis, 0).reshape(size, -1).all(1)
                count = int(slices.sum())
                if count:
                    yield size, size - count


def _given_sizes(node: Any, pairs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Those of the sizes that the operator is given as numbers."""
    if operator_name(node) in SIZED:
        numbers = {leaf for leaf in tree_leaves((node.args[1:], node.kwargs)) if type(leaf) is int}
        yield from ((before, after) for before, after in pairs if before in numbers)


def _given_places(analysis: Analysis, node: Any, removed: Tensor) -> Iterator[tuple[int, int]]:
    """Where a slice begins and ends."""
    source = analysis.values.get(node.args[0]) if operator_name(node) in ("slice", "narrow") else None
    if not isinstance(source, Value) or len(node.args) < 3:
        return
    axis = int(node.args[1]) % len(source.shape)
    for factor in source.factors:
        if factor.shape[axis] > 1:
            gone = slices_gone(factor, axis, removed)
            for place in node.args[2:4]:
                if isinstance(place, int) and 0 < place <= len(gone) and bool(gone[:place].any()):
                    yield place, place - int(gone[:place].sum())


def _group_pairs(node: Any, pairs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Numbers of groups that change with the channels."""
    if operator_name(node) == "group_norm":
        groups = int(node.args[1])
        for before, after in pairs:
            if before % groups == 0 and before == node.meta["val"].shape[1]:
                yield groups, after * groups // before


def candidates(modules: Mapping[str, nn.Module], sizes: ChangedSizes, known: Iterable[Attribute]) -> list[Attribute]:
    """Integer attributes of modules that have a size that changes in the module's forward, to exactly one other."""
    settled = {(attribute.module, attribute.key) for attribute in known}
    layers = {name for name, _ in settled}
    found = []
    for name, (module, aliases) in _with_aliases(modules).items():
        if name in layers and base_class(module).__module__.startswith("torch."):
            continue
        for key, value in _integers(module):
            after = set() if (name, key) in settled else sizes.after(aliases, value)
            if len(after) == 1:
                found.append(Attribute(name, key, next(iter(after)), base_class(module)))
    return found


def _with_aliases(modules: Mapping[str, nn.Module]) -> dict[str, tuple[nn.Module, list[str]]]:
    """Modules under the first of their names, with all of them."""
    first: dict[int, str] = {}
    found: dict[str, tuple[nn.Module, list[str]]] = {}
    for name, module in modules.items():
        own = first.setdefault(id(module), name)
        found.setdefault(own, (module, []))[1].append(name)
    return found


def _integers(module: nn.Module) -> Iterator[tuple[str, int]]:
    for key, value in vars(module).items():
        if isinstance(value, int) and not isinstance(value, (bool, torch.dtype)) and not key.startswith("_"):
            yield key, value

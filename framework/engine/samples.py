"""What an exported file is compared on: batches of data, or example inputs with noise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map, tree_structure

from paredown.framework.model.batches import samples_in
from paredown.framework.model.forward import Forward

__all__ = ["LEAST", "example_of", "samples_of"]

#: samples that a file is compared on, at least
LEAST = 32
#: of what is added to example inputs, in standard deviations of them
NOISE = 0.1


def samples_of(
    example_inputs: Any, data: Iterable[Any] | None, forward: Forward | None, fixed: bool = False, least: int = LEAST
) -> list[Any]:
    """Arguments of a model, in batches that hold at least so many samples together.

    Args:
        example_inputs: a tensor, a tuple of positional arguments, or a dict of named ones.
        data: batches; those that are not like the example inputs are passed over.
        fixed: only batches of the size of the example inputs.
        least: samples; where the data has fewer, example inputs with noise follow.
    """
    found: list[Any] = []
    count = 0
    for batch in _candidates(example_inputs, data, forward):
        if not _alike(batch, example_inputs, fixed):
            continue
        found.append(batch)
        count += samples_in(batch)
        if count >= least:
            break
    return found


def example_of(batch: Any, forward: Forward | None) -> Any:
    """A batch of data as arguments of the model: ``(batch[0],)`` for a tuple or list, else itself."""
    return (batch[0],) if isinstance(batch, (tuple, list)) and forward is None and batch else batch


def _candidates(example_inputs: Any, data: Iterable[Any] | None, forward: Forward | None) -> Iterator[Any]:
    device = next((leaf.device for leaf in tree_leaves(example_inputs) if isinstance(leaf, Tensor)), None)
    for batch in () if data is None else data:
        given = example_of(batch, forward)
        if isinstance(given, Mapping) and isinstance(example_inputs, Mapping):
            given = {name: value for name, value in given.items() if name in example_inputs}
        yield tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, given)
    yield example_inputs
    generator = torch.Generator().manual_seed(0)
    for _ in range(LEAST):
        yield tree_map(lambda leaf: _with_noise(leaf, generator), example_inputs)


def _with_noise(leaf: Any, generator: torch.Generator) -> Any:
    if not isinstance(leaf, Tensor) or not leaf.is_floating_point() or leaf.numel() < 2:
        return leaf
    noise = torch.randn(leaf.shape, generator=generator).to(leaf.device, leaf.dtype)
    return leaf + NOISE * leaf.float().std().to(leaf.dtype) * noise


def _alike(batch: Any, example_inputs: Any, fixed: bool) -> bool:
    """Whether two arguments have one structure, and their tensors one type and one shape, the first dimension aside."""
    ours, theirs = _tensors(batch), _tensors(example_inputs)
    first = 0 if fixed else 1
    return tree_structure(_as_arguments(batch)) == tree_structure(_as_arguments(example_inputs)) and all(
        a.dtype == b.dtype and a.dim() == b.dim() and a.shape[first:] == b.shape[first:]
        for a, b in zip(ours, theirs, strict=True)
    )


def _as_arguments(given: Any) -> Any:
    return (given,) if isinstance(given, Tensor) else tuple(given) if isinstance(given, list) else given


def _tensors(arguments: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)]

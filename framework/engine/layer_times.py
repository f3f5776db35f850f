"""`LayerTimes`: how long single layers take in an engine, each measured once."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from paredown.framework.engine.contract import Engine
from paredown.framework.engine.timing import measure_in
from paredown.framework.model.links import base_class, links_of

__all__ = ["LayerTimes"]

#: of a layer, and before them
REPETITIONS, WARM_UP = 15, 2
PLAIN = (bool, int, float, str, tuple, type(None))


class LayerTimes:
    """A table of CPU times in an engine: layers of one form, on inputs of one shape, are measured once.

    Of one form are modules of the same classes, with the same plain attributes (strides, paddings), parameters of the
    same shapes and types, and the same quantizers, whatever their values are.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._known: dict[Hashable, float] = {}

    def milliseconds(self, layer: nn.Module, inputs: Any) -> float:
        """The median of one forward of a layer in a file of its own, in one thread.

        Args:
            inputs: a tensor, a tuple of positional arguments, or a dict of named ones.

        Raises:
            ExportError: the engine cannot write the layer.
        """
        key = (_form(layer), _shapes(inputs))
        if key not in self._known:
            measured = measure_in(self.engine, {"it": layer}, inputs, repetitions=REPETITIONS, warm_up=WARM_UP)
            self._known[key] = measured["it"].median
        return self._known[key]


def _form(layer: nn.Module) -> Hashable:
    return tuple((name, *_own_form(module)) for name, module in layer.named_modules())


def _own_form(module: nn.Module) -> tuple[Any, ...]:
    plain = {name: value for name, value in vars(module).items() if isinstance(value, PLAIN) and name != "training"}
    tensors = {**module._parameters, **module._buffers}
    shapes = tuple((name, tuple(each.shape), each.dtype) for name, each in tensors.items() if each is not None)
    return base_class(module), repr(sorted(plain.items())), shapes, tuple(link.form for link in links_of(module))


def _shapes(inputs: Any) -> Hashable:
    leaves = tree_leaves(inputs)
    return tuple((tuple(x.shape), x.dtype) if isinstance(x, Tensor) else repr(x) for x in leaves)

"""Counting the multiply-accumulates of a forward, by layer, with weights and without."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary

from paredown.framework.model.forward import Forward, call
from paredown.framework.model.targets import named_modules
from paredown.framework.model.temporary import buffers_kept, evaluating

__all__ = ["REPEATING", "Products", "count_products"]

#: operators that repeat a parameter for each sample: what they give is a value of the sample's, and no weight
REPEATING = ("expand", "expand_as", "broadcast_to", "repeat", "tile")


@dataclass
class Products:
    """Multiply-accumulates of a forward.

    Attributes:
        total: all of them.
        with_weights: those where a factor is a parameter or buffer, or made of such and of no input.
        of_layer: those, by the innermost module with parameters of its own in whose forward they are.
    """

    total: int = 0
    with_weights: int = 0
    of_layer: dict[str, int] = field(default_factory=dict)

    def add(self, macs: int, layer: str | None, weighted: bool) -> None:
        self.total += macs
        if not weighted:
            return
        self.with_weights += macs
        if layer is not None:
            self.of_layer[layer] = self.of_layer.get(layer, 0) + macs


def count_products(model: nn.Module, example_inputs: Any, forward: Forward | None) -> Products:
    """Count an eval forward of a model, which is as it was afterwards.

    Attention is counted as the products that it is made of, since torch counts no fused kernel of the CPU.
    """
    layers = _Layers(model)
    counter = _Counter(model, layers)
    with evaluating(model), buffers_kept(model), _laid_open(), layers, counter:
        call(model, example_inputs, forward)
    return counter.products


class _Layers:
    """The modules with parameters of their own whose forward is running. (torch's own tracker also follows the
    backward pass, and breaks where a view of a parameter is handed to a module while no gradients are wanted.)"""

    def __init__(self, model: nn.Module) -> None:
        modules = named_modules(model).items()
        owners = {name: each for name, each in modules if any(True for _ in each.parameters(recurse=False))}
        self.names = {id(module): name for name, module in reversed(owners.items())}
        self.running: list[str] = []

    def __enter__(self) -> None:
        self.hooks = ExitStack()
        for hook in (register_module_forward_pre_hook(self._enter), register_module_forward_hook(self._leave)):
            self.hooks.callback(hook.remove)

    def __exit__(self, *error: object) -> None:
        self.hooks.close()

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        if id(module) in self.names:
            self.running.append(self.names[id(module)])

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if id(module) in self.names:
            self.running.pop()


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operators for which torch knows how many operations they take, and follows what is made of weights."""

    def __init__(self, model: nn.Module, layers: _Layers) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.layers = layers
        self.products = Products()
        self.weights: Any = WeakIdKeyDictionary()
        for tensor in (*model.parameters(), *model.buffers()):
            self.weights[tensor] = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        with self:
            made = func.decompose(*args, **named)
        if made is not NotImplemented:
            return made
        operands = [each for each in tree_leaves((args, named)) if isinstance(each, Tensor)]
        weighted = [each in self.weights for each in operands]
        result = func(*args, **named)
        packet = func._overloadpacket
        count = RECURRENT.get(packet) or flop_registry.get(packet)
        if count is not None:
            layer = self.layers.running[-1] if self.layers.running else None
            self.products.add(count(*args, **named, out_val=result) // 2, layer, any(weighted))
        self._follow(result, all(weighted) and packet.__name__ not in REPEATING)
        return result

    def _follow(self, result: Any, weight: bool) -> None:
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                if weight:
                    self.weights[tensor] = True
                else:
                    self.weights.pop(tensor, None)


@contextmanager
def _laid_open() -> Iterator[None]:
    """Attention by products of matrices, not by fused kernels."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _recurrent(inputs: Tensor, weights: Sequence[Tensor]) -> int:
    """Operations of a recurrent layer: each matrix is multiplied by at each step of each sample."""
    return 2 * math.prod(inputs.shape[:-1]) * sum(each.numel() for each in weights if each.dim() == 2)


def _one_layer(inputs: Tensor, first: Tensor, second: Tensor, *others: Any, **named: Any) -> int:
    return _recurrent(inputs, (first, second))


def _all_layers(inputs: Tensor, weights: Sequence[Tensor], *others: Any, **named: Any) -> int:
    return _recurrent(inputs, weights)


#: fused recurrent kernels, which torch does not count
RECURRENT: Mapping[Any, Callable[..., int]] = {
    torch.ops.aten.mkldnn_rnn_layer: _one_layer,
    torch.ops.aten._cudnn_rnn: _all_layers,
}

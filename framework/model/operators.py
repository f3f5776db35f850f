"""Acting on the results of operators that a module's forward calls itself, such as a residual addition.

A link sees what goes into a module and what comes out of it. What lies between, in a forward that somebody else wrote,
is reached by the number of the call: the additions, concatenations and rectifiers inside of a module, those of its
children included, are counted in the order in which Python calls them, by a `torch.overrides.TorchFunctionMode`. It
works under `torch.compile` and `torch.export` too, and costs 2 µs for each operator of that module in eager mode. What
links around the children compute is seen too: they use none of the operators that are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.traceback import annotate
from torch.overrides import TorchFunctionMode

__all__ = ["CALL", "NumberedCalls", "ReplacedFunction", "TreatedResults"]

#: the key under ``node.meta["custom"]`` of an exported graph
CALL = "paredown_call"

SUMS = (torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__)
RECTIFIERS = (F.relu, torch.relu, Tensor.relu, F.relu6, F.hardtanh)
CONCATENATIONS = (torch.cat, torch.concat, torch.concatenate)


class TreatedResults(TorchFunctionMode):
    """Counts the calls, from 0, and passes the results of some of them through functions.

    Args:
        treatments: by the number of the call.
    """

    def __init__(self, treatments: Mapping[int, Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        self.treatments = treatments
        self.calls = 0

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if not _is_counted(function, args):
            return result
        treatment = self.treatments.get(self.calls)
        self.calls += 1
        return result if treatment is None else treatment(result)


class NumberedCalls(TorchFunctionMode):
    """While a model is traced: writes the number of the call into the nodes of the graph, see `CALL`."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not _is_counted(function, args):
            return function(*args, **(kwargs or {}))
        number, self.calls = self.calls, self.calls + 1
        with annotate({CALL: number}):
            return function(*args, **(kwargs or {}))


def _is_counted(function: Any, args: tuple[Any, ...]) -> bool:
    """Whether it computes an activation from activations: floating point, of two dimensions or more."""
    if function in RECTIFIERS:
        return _is_activation(args[0])
    if function in SUMS:
        return len(args) > 1 and _is_activation(args[0]) and _is_activation(args[1]) and args[0].shape == args[1].shape
    return function in CONCATENATIONS and bool(args) and all(_is_activation(part) for part in args[0])


def _is_activation(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() >= 2 and value.is_floating_point()


class ReplacedFunction(TorchFunctionMode):
    """Calls something else where a forward calls a function of torch.

    Args:
        name: of the function, such as ``lstm`` or ``multi_head_attention_forward``.
        replacement: called with the same arguments; `NotImplemented` as its result means: call the function after all.
    """

    def __init__(self, name: str, replacement: Callable[..., Any]) -> None:
        super().__init__()
        self.name = name
        self.replacement = replacement

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(function, "__name__", "") == self.name:
            result = self.replacement(*args, **(kwargs or {}))
            if result is not NotImplemented:
                return result
        return function(*args, **(kwargs or {}))

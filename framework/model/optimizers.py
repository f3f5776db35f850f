"""The user's optimizers: found in lists and wrappers, their param groups and momenta kept in step with the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from paredown.framework.distributed.shards import own_part
from paredown.framework.errors import TargetError

__all__ = [
    "ONLY_MATRICES",
    "ParameterGroups",
    "clear_momenta_",
    "complete_momenta_",
    "copies_of_weights",
    "each_of",
    "forget_",
    "layers_of",
    "takes_matrices_only",
    "train_any",
    "trained_by",
    "wrappers_in",
]


def each_of(given: Any) -> list[Any]:
    """One, or the elements of a list."""
    return list(given) if isinstance(given, (list, tuple)) else [given]


def layers_of(given: Any) -> list[Any]:
    """Wrappers, outermost first, and last what is in them; a wrapper may inherit from Optimizer, as Accelerate's."""
    layers = [given]
    while (inner := _wrapped_by(layers[-1])) is not None:
        layers.append(inner)
    return layers


def _wrapped_by(wrapper: Any) -> Any:
    """What a wrapper holds as its ``optimizer``; of an Optimizer, another one by any name that trains the same."""
    inner = getattr(wrapper, "optimizer", None)
    if not isinstance(wrapper, Optimizer) or isinstance(inner, Optimizer):
        return inner
    held = [value for value in vars(wrapper).values() if isinstance(value, Optimizer) and value is not wrapper]
    same = [value for value in held if trained_by([value]) & trained_by([wrapper])]
    return same[0] if len(same) == 1 else None


def wrappers_in(given: Any) -> list[Any]:
    """What is around the optimizers that a user gives."""
    return [wrapper for one in each_of(given) for wrapper in layers_of(one)[:-1]]


def trained_by(optimizers: Iterable[Any]) -> set[int]:
    """The ids of the parameters that optimizers hold."""
    return {id(parameter) for one in optimizers for group in one.param_groups for parameter in group["params"]}


def train_any(optimizers: Iterable[Any], model: nn.Module) -> bool:
    """Whether the optimizers hold one of the model's parameters."""
    held = trained_by(optimizers)
    return any(id(parameter) in held for parameter in model.parameters())


class ParameterGroups:
    """The param groups of a run's optimizers, kept in step with the model's structure.

    Args:
        optimizers: those that hold the model's parameters; may be empty.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self.optimizers = optimizers

    @property
    def groups(self) -> list[dict[str, Any]]:
        """All param groups of all optimizers."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def add(self, tensor: Tensor, beside: Tensor) -> None:
        """Let the optimizer that trains ``beside`` train a tensor of a modifier too, in the same param group.

        Raises:
            TargetError: no optimizer trains ``beside``, or the one that does takes matrices only.
        """
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                if any(parameter is beside for parameter in group["params"]):
                    if takes_matrices_only(optimizer) and tensor.dim() != 2:
                        raise TargetError(f"{ONLY_MATRICES}, and what belongs to the layer is none")
                    group["params"].append(tensor)
                    return
        raise TargetError("no optimizer trains the layer, so none can train what belongs to it")

    def remove(self, gone: set[int]) -> None:
        """Let the optimizers forget tensors, given by their ids."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                lost = [parameter for parameter in group["params"] if id(parameter) in gone]
                group["params"][:] = [parameter for parameter in group["params"] if id(parameter) not in gone]
                for parameter in lost:
                    optimizer.state.pop(parameter, None)

    def replace(self, old: Mapping[str, nn.Parameter], new: Mapping[str, nn.Parameter]) -> None:
        """Put the new parameters into the groups of the old ones: a bias to the bias's, the rest to the weight's.

        A parameter that stays keeps its optimizer state.
        """
        staying = {id(parameter) for parameter in new.values()}
        heirs: dict[int, list[nn.Parameter]] = {id(parameter): [] for parameter in old.values()}
        first = next(iter(old.values()))
        for name, parameter in new.items():
            if all(parameter is not known for known in old.values()):
                model = _forerunner(name, old, first)
                parameter.requires_grad_(model.requires_grad)
                heirs[id(model)].append(parameter)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["params"][:] = _inherited(group["params"], heirs, staying)
            for parameter in old.values():
                if id(parameter) not in staying:
                    optimizer.state.pop(parameter, None)

    def slice(self, parameter: Tensor, shape: torch.Size, dimension: int, kept: Tensor) -> None:
        """Slice what optimizers remember of a parameter that had ``shape``; state of another shape is dropped."""
        for optimizer in self.optimizers:
            _slice_momenta(optimizer, parameter, shape, dimension, kept)

    def restoring(self) -> Callable[[], None]:
        """A function that puts the parameters back into the groups in which they are now."""
        groups = self.groups
        before = [list(group["params"]) for group in groups]

        def restore() -> None:
            for group, parameters in zip(groups, before, strict=True):
                group["params"][:] = parameters

        return restore


#: with what to do about it
ONLY_MATRICES = "Muon trains matrices only: let another optimizer (AdamW) train this layer, or add it to ignore"


def takes_matrices_only(optimizer: Optimizer) -> bool:
    """Whether an optimizer refuses parameters of other than two dimensions."""
    return type(optimizer).__name__ == "Muon"


def complete_momenta_(optimizer: Optimizer) -> None:
    """Give parameters that are new in a group momenta of zeros, where a fused step takes momenta of all or of none."""
    for group in optimizer.param_groups:
        if not group.get("fused") or not group.get("momentum"):
            continue
        without = [each for each in group["params"] if optimizer.state.get(each, {}).get("momentum_buffer") is None]
        if len(without) < len(group["params"]):
            for parameter in without:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def clear_momenta_(optimizers: Sequence[Optimizer], marks: Iterable[tuple[nn.Parameter, Tensor]]) -> None:
    """Set to zero, in place, what optimizers remember of single weights (momentum, second moments).

    Args:
        optimizers: some of which train the weights.
        marks: weights with a bool of their shape, or of the part in this process, True where to forget; one at a time
            is held.
    """
    if not any(optimizer.state for optimizer in optimizers):
        return
    for weight, mark in marks:
        for optimizer in optimizers:
            for value in optimizer.state.get(weight, {}).values():
                if isinstance(value, Tensor) and value.shape == weight.shape:
                    own_part(value).masked_fill_(mark, 0)


#: how far, by its length, what is a copy or an average of a weight may be from it; momenta are far
NEARBY = 0.5


def copies_of_weights(optimizers: Sequence[Optimizer], weights: Sequence[nn.Parameter]) -> list[str]:
    """Under which names optimizers keep copies or averages of weights, which they write back: found by their values.

    A schedule-free optimizer (arXiv:2405.15682) builds what is evaluated from one, Lookahead (arXiv:1907.08610) what is
    trained.
    """
    found: set[str] = set()
    for optimizer in optimizers:
        for weight in weights:
            own = own_part(weight)
            for key, value in optimizer.state.get(weight, {}).items():
                if isinstance(value, Tensor) and value.shape == weight.shape and own.numel():
                    kept = torch.where(own != 0, own_part(value).to(own.dtype), 0)
                    if bool((kept - own).norm() < NEARBY * own.norm()):
                        found.add(str(key))
    return sorted(found)


def forget_(optimizers: Sequence[Optimizer], parameters: Iterable[nn.Parameter]) -> None:
    """Take all of parameters' state from optimizers, step counts too: they start over at the next step."""
    for parameter in parameters:
        for optimizer in optimizers:
            optimizer.state.pop(parameter, None)


def _forerunner(name: str, old: Mapping[str, nn.Parameter], first: nn.Parameter) -> nn.Parameter:
    """The parameter of a replaced module that a new one takes after: of its name, or a bias for a bias."""
    kind = name.rpartition(".")[2]
    if name in old or kind in old:
        return old[name if name in old else kind]
    return next((parameter for known, parameter in old.items() if known.endswith(kind)), first)


def _inherited(
    parameters: Sequence[nn.Parameter], heirs: Mapping[int, list[nn.Parameter]], staying: set[int]
) -> Iterator[nn.Parameter]:
    for parameter in parameters:
        yield from heirs.get(id(parameter), ())
        if id(parameter) not in heirs or id(parameter) in staying:
            yield parameter


def _slice_momenta(optimizer: Optimizer, parameter: Tensor, shape: torch.Size, dimension: int, kept: Tensor) -> None:
    entries = optimizer.state.get(parameter)
    if not entries:
        return
    tensors = {key: value for key, value in entries.items() if isinstance(value, Tensor) and value.dim() > 0}
    if any(value.shape != shape for value in tensors.values()):
        optimizer.state.pop(parameter)
        return
    for key, value in tensors.items():
        entries[key] = value.index_select(dimension, kept)

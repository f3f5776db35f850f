"""The early exits of a run in progress: auxiliary classifiers that are trained with the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from paredown.framework.errors import TargetError
from paredown.framework.modifier.training import Training
from paredown.modifiers.distillation.signals.early_exits import Exit

__all__ = ["RunningExits"]


class RunningExits:
    """The exits of one modifier, each built when it is first needed, and again where its layer has changed its shape.

    Args:
        training: the run.
        sizes: for each layer the arguments of `Exit`; what is built is written down here.
    """

    def __init__(self, training: Training, sizes: dict[str, list[Any]]) -> None:
        self.training = training
        self.sizes = sizes
        known = training.modules.by_name()
        self.made = {layer: exit_ for layer, exit_ in known.items() if isinstance(exit_, Exit)}
        for layer in sizes:
            if layer not in self.made:
                self._build(layer)

    def of(self, layer: str, feature: Tensor, logits: Tensor, goal: Tensor | None) -> Exit:
        """The exit of a layer.

        Args:
            layer: its name.
            feature: what it gives, (batch, channels, *space), (batch, tokens, width) or (batch, width).
            logits: of the model.
            goal: what the exit's embedding is to be like, if there is such a thing.

        Raises:
            TargetError: there is none yet, and a compiled forward cannot build it; or no exit gives such logits.
        """
        known = self.made.get(layer)
        if torch.compiler.is_compiling():
            if known is None:
                raise TargetError(
                    f"{self.training.name}: exits cannot be built in a compiled forward: give modify example_inputs"
                )
            return known
        sizes = _sizes(layer, feature, logits, goal)
        if known is not None and self.sizes[layer] == sizes:
            return known
        self.sizes[layer] = sizes
        return self._build(layer)

    def all(self) -> Mapping[str, Exit]:
        """The exits that were built."""
        return self.made

    def _build(self, layer: str) -> Exit:
        sizes, place = self.sizes[layer], list(self.sizes).index(layer)
        made = self.training.modules.grow(layer, lambda: Exit(*sizes), self.training.model, seed=place)
        self.made[layer] = made
        return made


def _sizes(layer: str, feature: Tensor, logits: Tensor, goal: Tensor | None) -> list[Any]:
    """The arguments of `Exit`."""
    if logits.dim() > 3 or logits.dim() > feature.dim():
        raise TargetError(
            f"{layer}: an exit on a feature of the shape {tuple(feature.shape)} gives no logits of the shape "
            f"{tuple(logits.shape)}, only (batch, classes), or (batch, tokens, classes) where the layer has tokens"
        )
    if feature.dim() == 3:
        kind, width = ("each token" if logits.dim() == 3 else "tokens"), feature.shape[2]
    else:
        kind, width = ("flat" if feature.dim() == 2 else "space"), feature.shape[1]
    return [kind, feature.dim(), width, width if goal is None else goal.shape[-1], logits.shape[-1]]

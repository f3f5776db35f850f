"""`self_distillation`: the whole model teaches classifiers at its shallow layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from paredown.framework.auxiliary.gradient_transfer import GradientTransfer
from paredown.framework.auxiliary.losses import Pass
from paredown.framework.errors import TargetError
from paredown.framework.model.forward import call
from paredown.framework.model.targets import match_roots, named_modules
from paredown.framework.model.temporary import evaluating
from paredown.framework.modifier.base import Foreseen
from paredown.framework.modifier.curves import Number, ScheduledNumber
from paredown.framework.modifier.fields import Pattern, Share
from paredown.framework.modifier.training import Training
from paredown.modifiers.distillation.distillation import Compute, Distillation
from paredown.modifiers.distillation.losses.divergences import kl_divergence_loss
from paredown.modifiers.distillation.losses.features import relative_squared_loss
from paredown.modifiers.distillation.signals.captured import Capture
from paredown.modifiers.distillation.signals.early_exits import EarlyExits, Exit
from paredown.modifiers.distillation.signals.features import (
    channel_dimension,
    embeddings,
    hidden_state,
    tokens_that_count,
)
from paredown.modifiers.distillation.signals.outputs import labelled, labels_of, logits_of, predicts_next
from paredown.modifiers.distillation.signals.running_exits import RunningExits

__all__ = ["Exits", "SelfDistillation"]


@dataclass
class Exits:
    """How the exits were built: for each layer the arguments of `Exit`."""

    sizes: dict[str, list[Any]] = field(default_factory=dict)


class SelfDistillation(Distillation):
    """Be your own teacher (Zhang et al., 2019, arXiv:1905.08094): exits at shallow layers learn from the deepest.

    The total is (1 - weight) x the loop's loss + weight x the mean over the exits of (1 - imitation) x the loop's loss
    at the exit + imitation x T^2 KL(model || exit) [+ hint_weight x the squared error of the exit's embedding to that
    of the layer ``hint``, relative to its size]. The model learns through its exits. They are trained by an optimizer
    like the loop's, saved with the run, and gone at the end, or left on the model as ``model.exits``: then
    `paredown.modifiers.distillation.signals.early_exits.early_exit` leaves the model at the first one that is sure.

    What the loop's loss would be at an exit is read off its gradient at the model's logits, which tells the targets of
    a softmax cross-entropy; of a forward that is given ``labels``, the cross-entropy with them is taken. Any other loss
    is an error at the first backward. `last_losses` has the term without what is read off.
    """

    example: ClassVar[Mapping[str, Any]] = {"exits": ["Conv2d"]}
    state_type: ClassVar = Exits

    type: Literal["self_distillation"] = "self_distillation"
    exits: Annotated[tuple[Pattern, ...], Field(min_length=1)]
    """The layers that get an exit: names, globs, class names or ``re:`` patterns."""
    weight: ScheduledNumber = 0.5
    """Of the exits in the total: a number, or a curve over the window."""
    temperature: Annotated[Number, Field(gt=0)] = 3.0
    """Softens both distributions."""
    imitation: Share = 0.3
    """Of an exit's loss: the share of the model's logits; the rest is the loop's own loss."""
    hint: Pattern | None = None
    """The deepest layer before the classifier, whose feature is a target for those that the exits classify."""
    hint_weight: Annotated[Number, Field(ge=0)] = 0.03
    """Of ``hint``, beside the other two parts."""
    keep_exits: bool = False
    """Whether the exits stay on the model: one that can be left early."""

    @property
    def permanent(self) -> bool:
        return self.keep_exits

    def unused_fields(self) -> Sequence[str]:
        return ["hint_weight"] if self.hint is None and "hint_weight" in self.model_fields_set else []

    def check(self, training: Training) -> None:
        for pattern in (*self.exits, *([] if self.hint is None else [self.hint])):
            match_roots(training.model, pattern)
        if self.keep_exits and hasattr(training.model, "exits"):
            raise TargetError(f"{self.name}: the model has an attribute 'exits' already, so none can be left on it")

    def foresee(self, training: Training) -> Sequence[Foreseen]:
        kept = ", and stays" if self.keep_exits else ""
        return [Foreseen(layer, f"an exit learns from the whole model{kept}") for layer in self._layers(training)]

    def on_start(self, training: Training) -> Exits:
        return Exits()

    def attach(self, training: Training, state: Exits) -> None:
        super().attach(training, state)
        if training.progress >= 1 and self.keep_exits:
            RunningExits(training, state.sizes).all()

    def on_end(self, training: Training, state: Exits) -> None:
        if not self.keep_exits:
            self.detach(training, state)
            return
        training.losses.remove()
        training.links.remove()

    def on_finalize(self, training: Training, state: Exits) -> None:
        if self.keep_exits and state.sizes:
            exits = EarlyExits(RunningExits(training, state.sizes).all())
            training.model.exits = exits.train(training.model.training)

    def term(self, training: Training, state: Exits, settings: dict[str, Tensor]) -> Compute:
        modules = named_modules(training.model)
        captures = {layer: Capture(layer) for layer in self._layers(training)}
        deepest = None if self.hint is None else Capture(next(iter(match_roots(training.model, self.hint))))
        for capture in [*captures.values(), *([] if deepest is None else [deepest])]:
            training.links.add(modules[capture.name], capture)
        exits = RunningExits(training, state.sizes)
        self._prepare(training, exits, captures, deepest)
        ahead = predicts_next(training.model)

        def term(forward: Pass) -> Tensor:
            own = logits_of(forward.output)
            goal = None if deepest is None else _pooled(deepest, forward, modules).detach()
            parts = []
            for layer, capture in captures.items():
                feature = _feature(capture, modules)
                exit_ = exits.of(layer, feature, own, goal)
                parts.append(self._part(forward, exit_, feature, own, goal, len(captures), ahead))
            return torch.stack(parts).mean()

        return term

    def _part(
        self, forward: Pass, exit_: Exit, feature: Tensor, own: Tensor, goal: Tensor | None, count: int, ahead: bool
    ) -> Tensor:
        """The term of one exit; what it is to learn from the loop's loss is added to the forward."""
        embedding = exit_.embedding(feature, tokens_that_count(forward, feature))
        logits: Tensor = exit_.classifier(embedding)
        labels = labels_of(forward, own, ahead)
        part = self.imitation * kl_divergence_loss(logits, own.detach(), self.temperature, labelled(labels))
        if labels is None:
            forward.transfers.append(GradientTransfer(own, logits, forward.weight * (1 - self.imitation) / count, -1))
        else:
            part = part + (1 - self.imitation) * F.cross_entropy(logits.flatten(0, -2), labels.flatten())
        if goal is not None:
            part = part + self.hint_weight * relative_squared_loss(embedding, goal.expand_as(embedding))
        return part

    def _layers(self, training: Training) -> Sequence[str]:
        return list(dict.fromkeys(layer for pattern in self.exits for layer in match_roots(training.model, pattern)))

    def _prepare(
        self, training: Training, exits: RunningExits, captures: Mapping[str, Capture], deepest: Capture | None
    ) -> None:
        """Build the exits before the first forward, where the example inputs show their sizes."""
        example = training.data.example()
        if example is None or exits.sizes:
            return
        modules = named_modules(training.model)
        with evaluating(training.model):
            output = call(training.model, *example)
        forward = Pass(output, (), {}, torch.empty(0))
        goal = None if deepest is None else _pooled(deepest, forward, modules)
        for layer, capture in captures.items():
            exits.of(layer, _feature(capture, modules), logits_of(output), goal)


def _feature(capture: Capture, modules: Mapping[str, nn.Module]) -> Tensor:
    """What a layer gave; convolutions over one axis as tokens."""
    feature = hidden_state(capture.take(), capture.name)
    over_axis = feature.dim() == 3 and channel_dimension(feature, modules[capture.name]) == 1
    return feature.transpose(1, 2) if over_axis else feature


def _pooled(capture: Capture, forward: Pass, modules: Mapping[str, nn.Module]) -> Tensor:
    """One vector a sample: the mean over space or tokens."""
    feature = _feature(capture, modules)
    return feature.flatten(2).mean(2) if feature.dim() > 3 else embeddings(feature, tokens_that_count(forward, feature))

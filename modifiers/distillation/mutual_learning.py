"""`mutual_learning`: networks that learn together, each from the others' outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, Strict
from torch import Tensor, nn

from paredown.framework.auxiliary.gradient_transfer import GradientTransfer
from paredown.framework.auxiliary.losses import Pass
from paredown.framework.auxiliary.modules import seeded
from paredown.framework.errors import TargetError
from paredown.framework.modifier.base import Foreseen
from paredown.framework.modifier.curves import ScheduledNumber
from paredown.framework.modifier.training import Training
from paredown.modifiers.distillation.distillation import Compute, Distillation
from paredown.modifiers.distillation.losses.divergences import kl_divergence_loss
from paredown.modifiers.distillation.losses.softening import Temperature, moving, temperature_in
from paredown.modifiers.distillation.signals.outputs import (
    class_dimension_of,
    labelled,
    labels_of,
    logits_of,
    loss_in,
    predicts_next,
)

__all__ = ["MutualLearning", "Peers"]


@dataclass
class Peers:
    """What peers were made of: ``operations`` is the number of changes of structure that the model had then."""

    operations: int = 0


class MutualLearning(Distillation):
    """Deep mutual learning (Zhang et al., 2018, arXiv:1706.00384): peers are trained beside the model, on its batches.

    The loss of each network is (1 - weight) x the loop's loss + weight x the mean over the others of T^2 KL(other ||
    own). Peers are copies of the model with their weights drawn again, or modules given in Python for this modifier
    (``modify(..., teacher={"mutual": [peer]})``); their optimizers are like the loop's, and step when it does. They are
    saved with the run, and gone at the end.

    What the loop's loss would be for a peer is read off its gradient at the model's logits, which tells the targets of
    a softmax cross-entropy (label smoothing, soft targets and ignored labels too); of a model that gives its loss
    beside the logits, a peer's own is taken. Any other loss is an error at the first backward.
    """

    example: ClassVar = {}
    state_type: ClassVar = Peers

    type: Literal["mutual_learning"] = "mutual_learning"
    peers: Annotated[int, Strict(), Field(ge=1)] = 1
    """Networks beside the model; as many as are given in Python, if some are."""
    weight: ScheduledNumber = 0.5
    """Of what the others say: a number, or a curve over the window. 0.5 weighs both alike, as the paper does."""
    temperature: Temperature = 1.0
    """Softens all distributions: a number, or a curve over the window."""
    seed: int = 0
    """Of the peers' weights."""

    @property
    def copies_model(self) -> bool:
        return True

    def settings(self, progress: float) -> dict[str, float]:
        return moving(self.temperature, progress)

    def check(self, training: Training) -> None:
        for given in training.teachers.given_by_name:
            if not isinstance(given, nn.Module):
                raise TargetError(f"{self.name}: a peer is a module, not a {type(given).__name__}")

    def foresee(self, training: Training) -> Sequence[Foreseen]:
        return [Foreseen("(output)", f"{self.peers} peer{'s' * (self.peers > 1)} trained beside the model")]

    def on_start(self, training: Training) -> Peers:
        return Peers(len(training.surgery.records))

    def term(self, training: Training, state: Peers, settings: dict[str, Tensor]) -> Compute:
        peers = self._peers(training, state)
        temperature = temperature_in(settings, self.temperature)
        ahead = predicts_next(training.model)

        def term(forward: Pass) -> Tensor:
            own = logits_of(forward.output)
            others = []
            for peer in peers:
                output = peer(*forward.args, **forward.kwargs)
                others.append(logits_of(output))
                forward.transfers.append(_following(forward, output))
            weights = labelled(labels_of(forward, own, ahead))
            losses = [_of_others(place, [own, *others], temperature, weights) for place in range(len(peers) + 1)]
            return losses[0] + sum(loss - loss.detach() for loss in losses[1:])

        return term

    def _peers(self, training: Training, state: Peers) -> list[nn.Module]:
        given = training.teachers.given_by_name
        count = len(given) or self.peers
        made = [given[place] if given else self._peer(training, state, place) for place in range(count)]
        return [
            training.modules.add(str(place), peer.train(), trained_like=training.model)
            for place, peer in enumerate(made)
        ]

    def _peer(self, training: Training, state: Peers, place: int) -> nn.Module:
        """A copy of the model with its weights drawn again."""
        peer = training.copy_as_of(state.operations)
        wanted = {name: parameter.requires_grad for name, parameter in training.model.named_parameters()}
        with seeded(self.seed + place, training.device):
            for module in peer.modules():
                draw = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
                if callable(draw):
                    draw()
        for name, parameter in peer.named_parameters():
            parameter.requires_grad_(wanted.get(name, True))
        return peer


def _following(forward: Pass, output: object) -> GradientTransfer:
    """A peer learns from the loop's loss as the model does."""
    share = 1 - forward.weight
    ours, theirs = loss_in(forward.output), loss_in(output)
    if ours is not None and theirs is not None:
        return GradientTransfer(ours, theirs, share)
    own, other = logits_of(forward.output), logits_of(output)
    if own.shape != other.shape:
        raise TargetError(f"the model's logits have the shape {tuple(own.shape)}, a peer's {tuple(other.shape)}")
    return GradientTransfer(own, other, share, class_dimension_of(own))


def _of_others(place: int, logits: Sequence[Tensor], temperature: float | Tensor, weights: Tensor | None) -> Tensor:
    """What the others say to one network."""
    dimension = class_dimension_of(logits[0])
    own, *others = (each.movedim(dimension, -1) for each in (logits[place], *logits[:place], *logits[place + 1 :]))
    return torch.stack([kl_divergence_loss(own, other.detach(), temperature, weights) for other in others]).mean()

"""Classifiers at layers inside of a model, and leaving it at the first one that is sure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from paredown.framework.errors import TargetError
from paredown.framework.model.kinds import CONVOLUTION_BY_AXES
from paredown.framework.model.links import Link, add_link, remove_links
from paredown.framework.model.targets import named_modules
from paredown.framework.model.temporary import evaluating
from paredown.modifiers.distillation.signals.features import embeddings, hidden_state
from paredown.modifiers.distillation.signals.outputs import logits_of

__all__ = ["EarlyExits", "Exit", "early_exit"]

NORMS: dict[int, Any] = {3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


class Exit(nn.Module):
    """A classifier on what a layer gives (Be Your Own Teacher, arXiv:1905.08094).

    Args:
        kind: ``space`` for (batch, channels, *space), a 3x3 convolution, batch-norm and ReLU before the mean over
            space; ``tokens`` for (batch, tokens, width), a layer norm before the mean over tokens; ``each token``, the
            same for logits of each token; ``flat`` for (batch, width), a Linear layer and ReLU.
        dimensions: of the feature.
        width: of its channels.
        hidden: width of what is classified.
        classes: logits.
    """

    def __init__(self, kind: str, dimensions: int, width: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.kind = kind
        if kind == "space":
            convolution = CONVOLUTION_BY_AXES[dimensions - 2](width, hidden, 3, padding=1, bias=False)
            self.body = nn.Sequential(convolution, NORMS[dimensions](hidden), nn.ReLU())
        elif kind == "flat":
            self.body = nn.Sequential(nn.Linear(width, hidden), nn.ReLU())
        else:
            self.body = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden))
        self.classifier = nn.Linear(hidden, classes)

    def embedding(self, feature: Tensor, tokens: Tensor | None = None) -> Tensor:
        """What is classified: (batch, hidden), or (batch, tokens, hidden) where each token is."""
        computed: Tensor = self.body(feature)
        if self.kind == "space":
            return computed.flatten(2).mean(2)
        return embeddings(computed, tokens) if self.kind == "tokens" else computed

    def forward(self, feature: Tensor, tokens: Tensor | None = None) -> Tensor:
        logits: Tensor = self.classifier(self.embedding(feature, tokens))
        return logits


class EarlyExits(nn.Module):
    """The exits of a model: its child ``exits``.

    Attributes:
        layers: the names of the layers that they follow, in the order of the exits.
    """

    def __init__(self, exits: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.layers = list(exits)
        self.each = nn.ModuleList(exits.values())


class _LeftError(Exception):
    def __init__(self, logits: Tensor, layer: str) -> None:
        super().__init__(layer)
        self.logits, self.layer = logits, layer


class _ExitGate(Link):
    """Leaves the model where an exit is sure of all samples of the batch."""

    def __init__(self, layer: str, classifier: nn.Module, threshold: float) -> None:
        self.layer, self.classifier, self.threshold = layer, classifier, threshold

    def around(self, call: Callable[..., Any], module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        output = call(module, *args, **kwargs)
        logits = self.classifier(hidden_state(output, self.layer))
        if bool((logits.softmax(-1).amax(-1) >= self.threshold).all()):
            raise _LeftError(logits, self.layer)
        return output


def early_exit(model: nn.Module, *args: Any, threshold: float = 0.9, **kwargs: Any) -> tuple[Tensor, str]:
    """The logits of the first exit that is sure of all samples of the batch, or of the model.

    The model runs in eval mode, without gradients; what lies behind the exit is not computed.

    Args:
        model: one that `self_distillation` left with its exits (``keep_exits: true``).
        args, kwargs: what it is called with.
        threshold: probability of the most probable class from which on an exit is sure, in 0..1.

    Returns:
        The logits, and the name of the layer that was the last one to run; "" for the whole model.

    Raises:
        TargetError: the model has no exits.
    """
    exits = getattr(model, "exits", None)
    if not isinstance(exits, EarlyExits):
        raise TargetError("the model has no exits: self_distillation with keep_exits: true leaves them on it")
    gates = _gates(model, exits, threshold)
    for module, gate in gates:
        add_link(module, gate)
    try:
        with evaluating(model):
            return logits_of(model(*args, **kwargs)), ""
    except _LeftError as leaving:
        return leaving.logits, leaving.layer
    finally:
        for module, gate in gates:
            remove_links(module, [gate])


def _gates(model: nn.Module, exits: EarlyExits, threshold: float) -> Sequence[tuple[nn.Module, _ExitGate]]:
    modules = named_modules(model)
    return [
        (modules[layer], _ExitGate(layer, classifier, threshold))
        for layer, classifier in zip(exits.layers, exits.each, strict=True)
    ]

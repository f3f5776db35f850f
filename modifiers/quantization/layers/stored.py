"""The state of a quantization modifier, and putting quantizers on layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from torch import Tensor, nn

from paredown.framework.model.links import links_of, remove_links
from paredown.framework.model.targets import named_modules
from paredown.framework.modifier.training import Training
from paredown.modifiers.quantization.layers.attention import AttentionOutputs
from paredown.modifiers.quantization.layers.kinds import parent_attention
from paredown.modifiers.quantization.layers.quantizers import (
    ActivationQuantizer,
    ChildWeights,
    Place,
    Quantizer,
    WeightQuantizer,
)
from paredown.modifiers.quantization.layers.recurrent import HiddenStates
from paredown.modifiers.quantization.layers.result_quantizers import PREFIX, ResultQuantizers, call_of
from paredown.modifiers.quantization.layers.shared_codes import kept_scales
from paredown.modifiers.quantization.numbers.observers import Observation

#: a module has at most one of each
KINDS = (WeightQuantizer, ChildWeights, ResultQuantizers, HiddenStates, AttentionOutputs)

__all__ = ["Grid", "QuantizedLayers", "put", "put_weight_quantizer", "remove_buffers"]


@dataclass
class Grid:
    """Scale and zero point of one weight, in the shapes in which they are kept."""

    scale: Tensor
    zero_point: Tensor


@dataclass
class QuantizedLayers:
    """The state of a quantization modifier.

    Attributes:
        layers: what is quantized, by name.
        kept: those whose grid was taken over from an earlier modifier, and whether that one had rewritten the weights.
        bits: widths of weights that differ from the scheme's: chosen under a budget, or on their way down.
        grids: of the weights whose grid is fixed, by "layer.parameter".
        norms: for layers that are quantized as after folding, the batch-norm behind them, by name.
        ranges: what was seen of activations, by the place: "layer:input", "layer:output",
            "module:result_3".
        frozen: ranges move no more.
        batch_norm_frozen: batch-norms use their running statistics.
        passing: activations are observed but not rounded yet.
        checked: whether the first training step was looked at.
    """

    layers: list[str] = field(default_factory=list)
    kept: dict[str, bool] = field(default_factory=dict)
    bits: dict[str, int] = field(default_factory=dict)
    grids: dict[str, Grid] = field(default_factory=dict)
    norms: dict[str, str] = field(default_factory=dict)
    ranges: dict[str, Observation] = field(default_factory=dict)
    frozen: bool = False
    batch_norm_frozen: bool = False
    passing: bool = False
    checked: bool = False

    def places(self) -> Iterator[tuple[str, Place, Observation]]:
        """Every module of which a place is observed, the place, and what was seen there."""
        for key, observation in self.ranges.items():
            name, _, place = key.rpartition(":")
            yield name, place, observation

    def unseen(self) -> list[str]:
        """The layers where a place was not seen yet."""
        return [name for name, _, observation in self.places() if not observation.seen]

    def spoiled(self) -> list[str]:
        """The layers where a NaN or an infinity passed a place."""
        return [name for name, _, observation in self.places() if observation.spoiled]


def put(training: Training, module: nn.Module, quantizer: Quantizer) -> bool:
    """Put a quantizer around a module, in the place of one that does the same; False where that is of a later modifier,
    which has taken over."""
    number = call_of(quantizer.place) if isinstance(quantizer, ActivationQuantizer) else None
    if isinstance(quantizer, ActivationQuantizer) and number is not None:
        before = next((link for link in links_of(module) if isinstance(link, ResultQuantizers)), ResultQuantizers({}))
        quantizer.owner = training.name
        quantizer = before.replaced(number, quantizer)
    others = [link for link in links_of(module) if _does_the_same(link, quantizer)]
    opened = list(training.states)
    owners = [link.owner for link in others if isinstance(link, Quantizer) and link.owner in opened]
    if any(opened.index(owner) > opened.index(training.name) for owner in owners):
        return False
    remove_links(module, others)
    quantizer.owner = training.name
    training.links.add(module, quantizer)
    return True


def put_weight_quantizer(training: Training, name: str, quantizer: WeightQuantizer, grids: dict[str, Grid]) -> None:
    """Put a quantizer around the weights of the layer ``name``, with the grids that are known of it."""
    modules = named_modules(training.model)
    module = modules[name]
    if not put(training, module, quantizer):
        return
    for key in quantizer.names:
        grid = grids.get(f"{name}.{key}")
        quantizer.set_grid(module, key, *((grid.scale, grid.zero_point) if grid else quantizer.grid(module, key)))
    quantizer.fixed |= all(kept_scales(module, key, quantizer.scheme) is not None for key in quantizer.names)
    above = parent_attention(training.model, name)
    if above is not None:
        put(training, modules[above], ChildWeights())


def remove_buffers(model: nn.Module, names: Iterable[str]) -> None:
    """Take away what quantizers registered on the modules ``names``."""
    modules = named_modules(model)
    for name in names:
        buffers = modules[name]._buffers
        results = {key.rpartition("_scale")[0] for key in buffers if key.startswith(PREFIX) and key.endswith("_scale")}
        for key in (*modules[name]._parameters, "input", "output", *results):
            for part in ("scale", "zero_point"):
                buffers.pop(f"{key}_{part}", None)


def _does_the_same(link: object, quantizer: Quantizer) -> bool:
    if isinstance(quantizer, ActivationQuantizer):
        return isinstance(link, ActivationQuantizer) and link.place == quantizer.place
    return isinstance(link, next(kind for kind in KINDS if isinstance(quantizer, kind)))

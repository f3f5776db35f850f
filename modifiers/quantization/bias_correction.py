"""`bias_correction`: the mean error that rounding adds to a layer's output is taken out of its bias."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from paredown.framework.distributed.processes import sum_of_all
from paredown.framework.errors import TargetError
from paredown.framework.model.graph.fusion import batch_norms_after
from paredown.framework.model.kinds import LINEAR
from paredown.framework.model.links import Link, base_class, links_of
from paredown.framework.model.targets import named_modules
from paredown.framework.modifier.base import Foreseen, TargetedModifier
from paredown.framework.modifier.training import Training
from paredown.modifiers.quantization.layers.quantizers import ActivationQuantizer, WeightQuantizer
from paredown.modifiers.quantization.post_training import Samples


class BiasCorrection(TargetedModifier):
    """Bias correction (Nagel et al., 2019, arXiv:1906.04721, section 4.2): rounding must not shift a channel's mean.

    Rounded weights, times inputs whose mean is not 0, shift the mean of a layer's result. On ``data`` each quantized
    layer is run twice on its own inputs, as it is and unrounded, and the mean difference of each channel (Eq. 17, with
    the rounding of the inputs included) goes into its bias; where it has none, into the running mean of the batch-norm
    behind it. It acts once, at ``start``: put it after the modifier that quantizes.
    """

    example: ClassVar = {}
    claims: ClassVar = frozenset({"bias"})
    kinds: ClassVar = (*LINEAR, nn.modules.conv._ConvNd)

    type: Literal["bias_correction"] = "bias_correction"
    samples: Samples | None = None
    """How much of ``data`` is used; 200 are usually enough. Default: all."""

    @property
    def acts_once(self) -> bool:
        return True

    @property
    def calibrates(self) -> bool:
        return True

    def claimed(self, training: Training) -> Sequence[nn.Parameter]:
        biases = (module._parameters.get("bias") for module in training.targets().values())
        return [bias for bias in biases if bias is not None]

    def check(self, training: Training) -> None:
        super().check(training)
        training.data.require()

    def foresee(self, training: Training) -> Sequence[Foreseen]:
        places, norms = self._biases(training), training.targets()
        return [
            Foreseen(name, "mean of its result corrected, if it is quantized by then")
            if name in places
            else Foreseen(name, "it has no bias, and no batch-norm of its own behind it", refused=True)
            for name in norms
        ]

    def on_update(self, training: Training, state: None) -> None:
        modules, places = named_modules(training.model), self._biases(training)
        means = {name: _MeanError() for name in places if _is_quantized(modules[name])}
        for name, mean in means.items():
            training.links.add(modules[name], mean)
        try:
            training.data.run(self.samples)
        finally:
            training.links.remove()
        with torch.no_grad():
            for name, mean in means.items():
                if mean.count:
                    places[name](mean.mean())
        training.record("correct", layers=list(means))

    def _biases(self, training: Training) -> Mapping[str, Callable[[Tensor], object]]:
        """How to add a vector to each layer's result, by the layer's name."""
        targets = training.targets()
        found: dict[str, Callable[[Tensor], object]] = {
            name: bias.add_ for name, module in targets.items() if (bias := module._parameters.get("bias")) is not None
        }
        if len(found) == len(targets):
            return found
        modules = named_modules(training.model)
        for name, norm in self._batch_norms(training).items():
            if name in targets and name not in found:
                found[name] = modules[norm].get_buffer("running_mean").sub_
        return found

    def _batch_norms(self, training: Training) -> Mapping[str, str]:
        try:
            graph = training.data.graph()
        except TargetError:
            return {}
        return {} if graph is None else batch_norms_after(graph)


@dataclass(eq=False)
class _MeanError(Link):
    """Around a quantized layer: the mean of what it would give unrounded, less what it gives, for each channel."""

    total: Tensor | None = None
    count: int = 0

    def around(self, call: Callable[..., Any], module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        result = call(module, *args, **kwargs)
        error = base_class(module).forward(module, *args, **kwargs) - result
        channel = error.dim() - 1 if isinstance(module, LINEAR) else error.dim() - module.weight.dim() + 1  # type: ignore[operator]
        by_channel = error.detach().movedim(channel, 0).flatten(1)
        summed = by_channel.sum(1)
        self.total = summed if self.total is None else self.total + summed
        self.count += by_channel.shape[1]
        return result

    def mean(self) -> Tensor:
        """Over all data and processes, (channels,)."""
        assert self.total is not None
        count = sum_of_all(torch.tensor(self.count, device=self.total.device))
        return sum_of_all(self.total) / count


def _is_quantized(module: nn.Module) -> bool:
    return any(isinstance(link, (WeightQuantizer, ActivationQuantizer)) for link in links_of(module))

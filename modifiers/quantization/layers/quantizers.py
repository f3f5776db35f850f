"""The links around a quantized layer's forward: one for its weights, one for its input, one for its output.

They are part of the model: copied and pickled with it. Their numbers are buffers of the layer, ``weight_scale``,
``input_scale``, ``input_zero_point`` and so on, by the name of what is quantized.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from paredown.framework.distributed.shards import put_together
from paredown.framework.model.forward import recomputes
from paredown.framework.model.links import Link, links_of
from paredown.framework.model.weights import ROWS_FIRST, WeightLayout
from paredown.modifiers.quantization.layers.shared_codes import kept_scales
from paredown.modifiers.quantization.numbers.fake_quantize import fake_quantize, quantize, round_through
from paredown.modifiers.quantization.numbers.observers import Observation
from paredown.modifiers.quantization.numbers.scales import affine_parameters, weight_parameters
from paredown.modifiers.quantization.numbers.scheme import ActivationScheme, WeightScheme
from paredown.modifiers.quantization.numbers.weight_layout import spread, view_for

__all__ = [
    "ActivationQuantizer",
    "ChildWeights",
    "Place",
    "Quantizer",
    "WeightQuantizer",
    "batch_norm_factor",
    "weight_quantizer",
    "write_grid",
]

#: "input", "output", or "result_3": what the call of that number in the forward gives
Place = str


class Quantizer(Link):
    """What is part of a model; ``owner`` is the name of the modifier that put it there."""

    permanent = True
    owner: str = ""


class WeightQuantizer(Quantizer):
    """Quantizes a layer's own weights.

    Args:
        scheme: of all of them.
        names: of the layer's own parameters.
        layout: where the weights have their output channels.
        fixed: take the grid from the buffers; otherwise it follows the weight.
        in_eval: in eval mode too.
        norm: a batch-norm behind the layer: what is quantized is the weight times its factor, as after folding.

    Attributes:
        rewritten: the weights themselves were given values on the grid.
    """

    def __init__(
        self,
        scheme: WeightScheme,
        names: tuple[str, ...] = ("weight",),
        layout: WeightLayout = ROWS_FIRST,
        fixed: bool = False,
        in_eval: bool = True,
        norm: nn.Module | None = None,
    ) -> None:
        self.scheme = scheme
        self.names = names
        self.layout = layout
        self.fixed = fixed
        self.in_eval = in_eval
        self.norm = norm
        self.rewritten = False

    @property
    def form(self) -> str:
        return f"{super().form} {self.scheme!r}"

    def around(self, call: Callable[..., Any], module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        return _with_quantized([(module, self)], call, module, args, kwargs)

    def stored_codes(self, module: nn.Module) -> Mapping[str, tuple[Tensor, int]]:
        """The weights as they would be stored: their codes, and their width in bits."""
        return {name: (self.codes(module, name), self.scheme.width) for name in self.names}

    def codes(self, module: nn.Module, name: str) -> Tensor:
        """The codes of one weight, in its shape."""
        return self.layout.kept(self.row_codes(module, name))

    def row_codes(self, module: nn.Module, name: str) -> Tensor:
        """The codes of one weight, output channels first."""
        weight = self._rows(module, name)
        scale, zero_point = (spread(part, self.scheme) for part in self.grid(module, name))
        shift, zero_point = _fraction(scale, zero_point)
        return quantize(view_for(weight, self.scheme) + shift, scale, zero_point, self.scheme).reshape(weight.shape)

    def grid(self, module: nn.Module, name: str) -> tuple[Tensor, Tensor]:
        """Scale and zero point of one weight, as they are kept."""
        if not self.fixed:
            shared = kept_scales(module, name, self.scheme)
            if shared is not None:
                return shared, torch.zeros_like(shared, dtype=torch.int32)
            return weight_parameters(self._rows(module, name), self.scheme)
        scale: Tensor = getattr(module, f"{name}_scale")
        zero_point = module._buffers.get(f"{name}_zero_point")
        return scale, torch.zeros_like(scale, dtype=torch.int32) if zero_point is None else zero_point

    def quantized(self, module: nn.Module, name: str) -> Tensor:
        """What the layer computes with instead of the weight ``name``."""
        weight = self._rows(module, name)
        kept = self.grid(module, name)
        if not self.fixed:
            write_grid(module, name, *kept)
        new = self._on_grid(module, weight, *kept)
        return self.layout.kept(new if self.norm is None else new / batch_norm_factor(self.norm, weight))

    def _on_grid(self, module: nn.Module, weight: Tensor, *kept: Tensor) -> Tensor:
        scale, zero_point = (spread(part, self.scheme) for part in kept)
        view, stochastic = view_for(weight, self.scheme), self.scheme.rounding == "stochastic" and module.training
        if zero_point.is_floating_point():
            shift, zero_point = _fraction(scale, zero_point)
            shifted = fake_quantize(view + shift, scale, zero_point, self.scheme, stochastic) - shift
            return shifted.to(weight.dtype).reshape(weight.shape)
        if self.fixed or not self.scheme.symmetric:
            return fake_quantize(view, scale, zero_point, self.scheme, stochastic).reshape(weight.shape)
        clip = stochastic or not self.scheme.narrow or self.scheme.scales != "float"
        return round_through(view, scale, self.scheme, stochastic, clip).reshape(weight.shape)

    def _rows(self, module: nn.Module, name: str) -> Tensor:
        """One weight, output channels first; times the batch-norm's factor, where there is one."""
        rows = self.layout.rows(put_together(module._parameters[name]))
        return rows if self.norm is None else rows * batch_norm_factor(self.norm, rows)

    def set_grid(self, module: nn.Module, name: str, scale: Tensor, zero_point: Tensor) -> None:
        """Register the grid of one weight, or put another one in its place."""
        module.register_buffer(f"{name}_scale", scale.clone())
        module._buffers.pop(f"{name}_zero_point", None)  # of another quantizer
        if not self.scheme.symmetric:
            module.register_buffer(f"{name}_zero_point", zero_point.clone())


class ChildWeights(Quantizer):
    """Around a MultiheadAttention, which reads the weight of its ``out_proj`` and never calls it: the child's quantizer
    acts for the time of the parent's forward."""

    def around(self, call: Callable[..., Any], module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        child: Any = module.out_proj
        link = weight_quantizer(child)
        return _with_quantized([(child, link)] if link is not None else [], call, module, args, kwargs)


class ActivationQuantizer(Quantizer):
    """Quantizes what goes into a layer, or what comes out of it; observes it too while an observation is given.

    Args:
        scheme: of the tensor.
        place: the first positional argument (of an attention the query, key and value), what the module returns, or the
            result of a call inside of it (see `result_quantizers`).
        dynamic: the range is that of the tensor itself, each time.
        observation: followed in training mode; a copy of the module is without it.
        always: observe in eval mode too, for calibration.
        passing: let values pass as they are.
        in_eval: quantize in eval mode too.
    """

    def __init__(
        self,
        scheme: ActivationScheme,
        place: Place = "input",
        dynamic: bool = False,
        observation: Observation | None = None,
        always: bool = False,
        passing: bool = False,
        in_eval: bool = True,
    ) -> None:
        self.scheme = scheme
        self.place = place
        self.dynamic = dynamic
        self.observation = observation
        self.always = always
        self.passing = passing
        self.in_eval = in_eval

    @property
    def form(self) -> str:
        return f"{super().form} {self.scheme!r} {self.place}{' dynamic' * self.dynamic}"

    @property
    def idle_in_eval_mode(self) -> bool:
        return self.observation is not None and not self.always

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "observation": None, "always": False}

    def around(self, call: Callable[..., Any], module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        if self.place == "input":
            args, kwargs = self._inputs(module, args, kwargs)
            return call(module, *args, **kwargs)
        output = call(module, *args, **kwargs)
        return self.treated(output, module) if isinstance(output, Tensor) else output

    def add_buffers(self, module: nn.Module) -> None:
        """Register scale and zero point where they are not there yet; a scale of 0 stands for none yet."""
        if self.dynamic or f"{self.place}_scale" in module._buffers:
            return
        device = next((parameter.device for parameter in module.parameters()), None)
        module.register_buffer(f"{self.place}_scale", torch.zeros((), device=device))
        module.register_buffer(f"{self.place}_zero_point", torch.zeros((), dtype=torch.int32, device=device))

    def set_grid(self, module: nn.Module, scale: Tensor, zero_point: Tensor) -> None:
        """Put a grid into the buffers."""
        write_grid(module, self.place, scale, zero_point)

    def _inputs(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        names = ("query", "key", "value") if isinstance(module, nn.MultiheadAttention) else ("input",)
        given = [*args[: len(names)], *(kwargs[name] for name in names[len(args) :] if name in kwargs)]
        treated: list[Any] = []
        for place, x in enumerate(given):  # the query and key of a self-attention stay one tensor
            same = next((before for before in range(place) if given[before] is x), None)
            treated.append(self._activation(x, module) if same is None else treated[same])
        count = min(len(args), len(names))
        named = dict(zip([name for name in names[len(args) :] if name in kwargs], treated[count:], strict=True))
        return (*treated[:count], *args[count:]), {**kwargs, **named}

    def _activation(self, x: Any, module: nn.Module) -> Any:
        return self.treated(x, module) if isinstance(x, Tensor) and x.is_floating_point() else x

    def treated(self, x: Tensor, module: nn.Module) -> Tensor:
        """A tensor at this place of the module: observed and rounded."""
        if self.observation is not None and (module.training or self.always) and x.numel() and not recomputes():
            self._observe(x, module, self.observation)
        if self.passing or not (self.in_eval or module.training):
            return x
        if self.dynamic:
            return self._rounded(x, module, *self._own_grid(x))
        scale: Any = getattr(module, f"{self.place}_scale")
        zero_point: Any = getattr(module, f"{self.place}_zero_point")
        if torch.compiler.is_compiling():
            return torch.where(scale > 0, self._rounded(x, module, scale, zero_point), x)
        return self._rounded(x, module, scale, zero_point) if scale > 0 else x  # 0: nothing was seen yet

    def _rounded(self, x: Tensor, module: nn.Module, scale: Tensor, zero_point: Tensor) -> Tensor:
        stochastic = self.scheme.rounding == "stochastic" and module.training
        return fake_quantize(x, scale, zero_point, self.scheme, stochastic)

    def _own_grid(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach()
        if self.scheme.granularity == "token":
            return affine_parameters(x.amin(-1, keepdim=True), x.amax(-1, keepdim=True), self.scheme)
        return affine_parameters(*x.aminmax(), self.scheme)

    def _observe(self, x: Tensor, module: nn.Module, observation: Observation) -> None:
        with torch.no_grad():
            observation.observe(x, self.scheme)
            scale, zero_point = observation.parameters(self.scheme)
            if len(observation.counts):  # a range that was solved for stays until the next update
                own: Any = getattr(module, f"{self.place}_scale")
                zero_point = torch.where(own > 0, getattr(module, f"{self.place}_zero_point"), zero_point)
                scale = torch.where(own > 0, own, scale)
            self.set_grid(module, scale, zero_point)


def batch_norm_factor(norm: Any, rows: Tensor) -> Tensor:
    """gamma / sqrt(running variance + eps) of each channel, broadcasting against the weight before it, output channels
    first; never 0."""
    factor = (norm.running_var.detach() + norm.eps).rsqrt()
    factor = factor if norm.weight is None else factor * norm.weight.detach()
    factor = torch.where(factor == 0, torch.ones_like(factor), factor).to(rows.dtype)
    return factor.reshape(-1, *[1] * (rows.dim() - 1))


def _fraction(scale: Tensor, zero_point: Tensor) -> tuple[Tensor | float, Tensor]:
    """A real zero point as an integer one and a shift of the values: S (q - Z) = S (q - round(Z)) - shift."""
    if not zero_point.is_floating_point():
        return 0.0, zero_point
    whole = zero_point.round()
    return scale * (zero_point - whole), whole.to(torch.int32)


def weight_quantizer(module: nn.Module) -> WeightQuantizer | None:
    """The quantizer of a module's own weights, if it has one."""
    return next((link for link in links_of(module) if isinstance(link, WeightQuantizer)), None)


def _with_quantized(
    quantizers: list[tuple[nn.Module, WeightQuantizer]],
    call: Callable[..., Any],
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Any:
    """Call with quantized tensors in the parameters' places."""
    replaced = list(_replacements(quantizers))
    own = [owner._parameters[name] for owner, name, _ in replaced]
    for owner, name, tensor in replaced:
        owner._parameters[name] = tensor  # type: ignore[assignment]
    try:
        return call(module, *args, **kwargs)
    finally:
        for (owner, name, _), parameter in zip(replaced, own, strict=True):
            owner._parameters[name] = parameter
        if isinstance(module, nn.RNNBase):
            module._init_flat_weights()  # it keeps its weights in a list of its own


def _replacements(quantizers: list[tuple[nn.Module, WeightQuantizer]]) -> Iterator[tuple[nn.Module, str, Tensor]]:
    for owner, link in quantizers:
        if link.in_eval or owner.training:
            for name in link.names:
                yield owner, name, link.quantized(owner, name)


def write_grid(module: nn.Module, name: str, scale: Tensor, zero_point: Tensor) -> None:
    """Bring a grid (of a weight, of "input" or "output") into the module's buffers, where these are registered."""
    with torch.no_grad():
        for part, value in (("scale", scale), ("zero_point", zero_point)):
            buffer = module._buffers.get(f"{name}_{part}")
            if buffer is not None:
                buffer.copy_(value)

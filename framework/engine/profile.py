"""What an engine really computes, as data: what is trained for it follows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from torch import nn

from paredown.framework.model.links import base_class

__all__ = ["ANY_ENGINE", "CONCATENATION", "CONVOLUTION", "LINEAR", "RETURNED", "SUM", "Profile", "Scales", "Way"]

#: how a layer is quantized: fixed grids of its inputs, grids that are found at run time, or its weights alone
Way = Literal["static", "dynamic", "weights"]
#: the numbers in which scales of weights are stored
Scales = Literal["float", "float16"]
#: results that are rounded although no quantized layer reads them
CONVOLUTION, LINEAR, SUM, CONCATENATION, RETURNED = "convolution", "linear", "sum", "concatenation", "returned"
CONVOLUTIONS = frozenset({"Conv1d", "Conv2d", "Conv3d"})
ALL_CONVOLUTIONS = CONVOLUTIONS | {"ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"}
PRODUCTS = frozenset({"Linear", "Conv1D", "MultiheadAttention"})


@dataclass(frozen=True)
class Profile:
    """What an engine computes in integers, and what in floating point.

    Attributes:
        integer: by the way of quantization the kinds of layers that have an integer kernel; layers of other kinds are
            computed in floating point, and their inputs are then not rounded.
        rounded: the results that are rounded although no quantized layer reads them.
        widths: of weights that are computed in integers beside 8-bit inputs; narrower than 8 they are stored as int8.
        granularities: of weights that are computed in integers.
        symmetric_inputs: whether quantized layers' inputs must have the zero point 0.
        scales: of weights, as the file stores them; "float": as they are.
        folds_constants: whether weights that are stored as integers and used in floating point are unpacked once, when
            the file is opened.
        folds: the operators that unpack constants and are computed once, when a file is opened, by ONNX's names, each
            with numpy's names of the types for which that holds; without any, files are not packed.
        reasons: why layers of a kind are computed in floating point, or all that are quantized in a way that no kernel
            knows, where there is more to say.
    """

    integer: Mapping[Way, frozenset[str]] = field(
        default_factory=lambda: MappingProxyType(
            {"static": ALL_CONVOLUTIONS | PRODUCTS | {"LSTM", "GRU", "RNN"}, "dynamic": PRODUCTS | {"LSTM"}}
        )
    )
    rounded: frozenset[str] = frozenset({CONVOLUTION, SUM, CONCATENATION})
    widths: frozenset[int] = frozenset(range(2, 9))
    granularities: frozenset[str] = frozenset({"tensor", "channel"})
    symmetric_inputs: bool = False
    scales: Scales = "float"
    folds_constants: bool = True
    folds: Mapping[str, frozenset[str]] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)

    def float_reason(self, module: nn.Module, way: Way, bits: int = 8, granularity: str = "channel") -> str | None:
        """Why a layer that is quantized in this way is computed in floating point; None: it is in integers.

        Args:
            bits, granularity: of its weights.
        """
        if way == "weights":
            return "only its weights are quantized"
        kinds = [kind.__name__ for kind in base_class(module).__mro__]
        if any(kind in self.integer.get(way, ()) for kind in kinds):
            return self._weights_reason(bits, granularity)
        keys = kinds if way in self.integer else [*kinds, way]
        known = next((self.reasons[key] for key in keys if key in self.reasons), None)
        return known or f"it has no integer kernel for {base_class(module).__name__} with {way} inputs"

    def _weights_reason(self, bits: int, granularity: str) -> str | None:
        if granularity not in self.granularities:
            return f"weights of granularity {granularity} have no integer kernel"
        return None if bits in self.widths else f"weights of {bits} bits have no integer kernel"


#: where no engine is named: what most of them compute
ANY_ENGINE = Profile()

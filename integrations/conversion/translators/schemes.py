"""Translates quantization schemes: the presets of llm-compressor, and the arguments that both tools share."""

from __future__ import annotations

from typing import Any

from paredown.integrations.conversion.fields import Fields
from paredown.integrations.conversion.reading import Value

__all__ = ["PRESETS", "Scheme", "parts", "preset"]

#: `weights` and `activations`; None leaves that part as it is
Scheme = tuple[dict[str, Any] | None, dict[str, Any] | None]

_INT8: dict[str, Any] = {"bits": 8, "granularity": "channel", "symmetric": True, "narrow": False}
_INT4: dict[str, Any] = {"bits": 4, "group_size": 128, "symmetric": True, "narrow": False}
_TOKEN8: dict[str, Any] = {"bits": 8, "granularity": "token", "symmetric": True, "narrow": False}
_FP8: dict[str, Any] = {"format": "fp8_e4m3", "granularity": "tensor", "symmetric": True}
_FP8_TOKEN: dict[str, Any] = {"format": "fp8_e4m3", "granularity": "token", "symmetric": True}
_NVFP4: dict[str, Any] = {"format": "fp4_e2m1", "group_size": 16, "scales": "fp8_e4m3"}

PRESETS: dict[str, Scheme] = {
    "W8A16": (_INT8, None),
    "W4A16": (_INT4, None),
    "W4A16_ASYM": ({"bits": 4, "group_size": 128, "symmetric": False}, None),
    "W8A8": (_INT8, _TOKEN8),
    "INT8": (_INT8, _TOKEN8),
    "W4A8": (_INT4, _TOKEN8),
    "W4AFP8": (_INT4, _FP8_TOKEN),
    "FP8": (_FP8, _FP8),
    "FP8_DYNAMIC": ({**_FP8, "granularity": "channel"}, _FP8_TOKEN),
    "FP8_BLOCK": ({"format": "fp8_e4m3", "block": [128, 128]}, _FP8_TOKEN),
    "NVFP4A16": (_NVFP4, None),
    "UNQUANTIZED": (None, None),
}

_FORMATS = {("float", "8"): "fp8_e4m3", ("float", "4"): "fp4_e2m1"}
_OBSERVERS = {"minmax": "minmax", "mse": "mse", "static_minmax": "minmax", "moving_average": "moving_average"}


def preset(fields: Fields, name: str, field: str = "scheme") -> Scheme | None:
    """The preset of that name; an unknown one is listed."""
    found = PRESETS.get(name.upper())
    if found is None:
        fields.left_out(field, f"{name}: one of {', '.join(PRESETS)}")
    elif name.upper() == "FP8_BLOCK":
        fields.differs("a scale for each token; the preset had one for each 128 values of it", field)
    return found


def parts(fields: Fields, group: Value) -> Scheme:
    """`weights` and `activations` from a mapping with `weights` and `input_activations`; what else it has is listed."""
    for name, value in group.items.items():
        if name not in ("targets", "weights", "input_activations") and value.value is not None:
            reason = "the outputs of layers are quantized as the inputs of the next ones"
            reason = reason if name == "output_activations" else "no counterpart"
            fields.notes.left_out(value.line, f"{fields.old.title}: {name}", reason)
    inputs = _part(fields, group.items.get("input_activations"), "activations")
    return _part(fields, group.items.get("weights"), "weights"), inputs


def _part(fields: Fields, value: Value | None, kind: str) -> dict[str, Any] | None:
    """One of them from arguments such as num_bits, symmetric, strategy and dynamic."""
    if value is None or not value.items:
        return None
    reader = _Arguments(fields, value, kind)
    new = reader.numbers() | reader.granularity() | reader.observer()
    reader.finish()
    return new


class _Arguments:
    """The arguments of one part; those that are not translated are listed."""

    def __init__(self, fields: Fields, value: Value, kind: str) -> None:
        self.fields, self.value, self.kind = fields, value, kind
        self.seen = {
            "num_bits",
            "type",
            "symmetric",
            "strategy",
            "dynamic",
            "group_size",
            "observer",
            "block_structure",
        }

    def get(self, name: str, default: Any = None) -> Any:
        given = self.value.items.get(name)
        if given is None or given.value is None:
            return default
        given = self.fields.variables.resolved(given, self.fields.old.renamed)
        return self.fields.variables.plain(given, self.fields.old.renamed)

    def numbers(self) -> dict[str, Any]:
        bits, symmetric = self.get("num_bits", 8), self.get("symmetric", self.kind == "weights")
        number_format = _FORMATS.get((str(self.get("type", "int")), str(bits)))
        if number_format is not None:
            return {"format": number_format}
        return {"bits": bits, "symmetric": symmetric} | ({"narrow": False} if symmetric is True else {})

    def granularity(self) -> dict[str, Any]:
        strategy, size = self.get("strategy"), self.get("group_size")
        if self.kind == "activations":
            return self._of_activations(strategy)
        if strategy == "block":
            return {"block": self.get("block_structure", [128, 128])}
        if strategy in ("group", "tensor_group") or (strategy is None and size not in (None, -1)):
            return {"group_size": size or 128} | ({"scales": "fp8_e4m3"} if strategy == "tensor_group" else {})
        return {"granularity": strategy or ("channel" if size == -1 else "tensor")}

    def _of_activations(self, strategy: Any) -> dict[str, Any]:
        if strategy not in (None, "tensor", "token"):
            self.left_out("strategy", "inputs have one scale, or one for each token")
        dynamic = self.get("dynamic", False)
        if dynamic not in (True, False):
            self.left_out("dynamic", "true or false")
        if strategy == "token" and dynamic is False and "dynamic" in self.value.items:
            self.left_out("dynamic", "a scale for each token is found at run time")
        return {"granularity": "token" if strategy == "token" or dynamic else "tensor"}

    def observer(self) -> dict[str, Any]:
        name = str(self.get("observer"))
        if name == "None" or self.get("dynamic", False) is True:
            return {}
        if name not in _OBSERVERS or (self.kind == "weights" and name == "moving_average"):
            self.left_out("observer", f"one of {', '.join(_OBSERVERS)}")
            return {}
        return {"observer": _OBSERVERS[name]}

    def finish(self) -> None:
        for name, value in self.value.items.items():
            if name not in self.seen and value.value not in (None, {}, ()):
                self.left_out(name, "no counterpart")

    def left_out(self, name: str, reason: str) -> None:
        line = self.value.items[name].line
        self.fields.notes.left_out(line, f"{self.fields.old.title}: {self.kind}: {name}", reason)

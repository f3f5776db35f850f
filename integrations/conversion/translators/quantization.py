"""Translates modifiers that quantize during training."""

from __future__ import annotations

from typing import Any

from paredown.integrations.conversion.fields import Fields
from paredown.integrations.conversion.reading import Value
from paredown.integrations.conversion.translators.schemes import Scheme, parts
from paredown.integrations.conversion.translators.targets import layers
from paredown.integrations.conversion.translators.times import window

__all__ = ["frozen", "quantization_aware", "static"]

New = dict[str, Any] | None
SIMPLE = {"symmetric": True, "narrow": False}
FUSING = "batch-norms need no folding in training; exporters fold them"


def quantization_aware(fields: Fields) -> New:
    """SparseML's QuantizationModifier, with a scheme or with the older fields."""
    weights, activations = _scheme(fields)
    new: dict[str, Any] = {"type": "quantization_aware_training", **_targets(fields), **window(fields)}
    new |= {"weights": weights, "activations": activations, **_overrides(fields)}
    _without(fields)
    return new | frozen(fields)


def frozen(fields: Fields) -> dict[str, Any]:
    """When ranges and batch-norms stop moving."""
    found: dict[str, Any] = {}
    for old, name in (
        ("disable_quantization_observer_epoch", "freeze_observers"),
        ("freeze_bn_stats_epoch", "freeze_batch_norm"),
    ):
        if fields.number(old, -1) != -1:
            found[name] = fields.plain(old)
    return found


def static(fields: Fields) -> New:
    """The same modifier where nothing is trained: ranges come from the calibration data."""
    new = quantization_aware(fields)
    if new is None:
        return None
    for name in ("freeze_observers", "freeze_batch_norm"):
        if new.pop(name, None) is not None:
            fields.notes.left_out(fields.old.line, f"{fields.old.title}: {name}", "it acts once, without training")
    return {**new, "type": "static_quantization"}


def _scheme(fields: Fields) -> Scheme:
    given = fields.value("scheme")
    if given is not None:
        return _scheme_of(fields, given)
    weight_bits, activation_bits = fields.plain("weight_bits", 8), fields.plain("activation_bits", 8)
    activations: dict[str, Any] = {"bits": activation_bits, "granularity": "tensor", "symmetric": False}
    if fields.flag("tensorrt", False):
        activations |= SIMPLE
    return {"bits": weight_bits, "granularity": "tensor", **SIMPLE}, activations


def _scheme_of(fields: Fields, given: Value) -> Scheme:
    """A scheme by its name, or by its parts."""
    if given.items:
        return parts(fields, given)
    activations: dict[str, Any] = {"bits": 8, "granularity": "tensor", "symmetric": False}
    if given.value == "tensorrt":
        activations |= SIMPLE
    elif given.value not in ("default", "deepsparse"):
        raise fields.refused("scheme", f"found {given.plain()!r}; one of default, deepsparse, tensorrt, or a mapping")
    return {"bits": 8, "granularity": "tensor", **SIMPLE}, activations


def _targets(fields: Fields) -> dict[str, Any]:
    targets = [str(one.value) for one in fields.texts("submodules")]
    ignore = [str(one.value) for name in ("ignore", "exclude_module_types") for one in fields.texts(name)]
    if not fields.flag("quantize_embeddings", True):
        ignore += ["Embedding", "EmbeddingBag"]
    new = {"targets": layers(targets)} if targets and targets != ["__ALL__"] else {}
    return new | ({"ignore": layers(ignore)} if ignore else {})


def _overrides(fields: Fields) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, kind in (
        ("quantize_linear_activations", "Linear"),
        ("quantize_conv_activations", "Conv2d"),
        ("quantize_embedding_activations", "Embedding"),
    ):
        if not fields.flag(name, True):
            found[kind] = {"activations": None}
            fields.differs(f"written for {kind}, of which the model has to have one", name)
    given = fields.value("scheme_overrides")
    for pattern, scheme in (given.items if given else {}).items():
        weights, activations = (None, None) if scheme.value is None else _scheme_of(fields, scheme)
        found[layers([pattern])[0]] = {"weights": weights, "activations": activations}
    return {"overrides": found} if found else {}


def _without(fields: Fields) -> None:
    fields.expect("model_fuse_fn_name", "no_fuse", reason=FUSING)
    fields.expect("model_fuse_fn_kwargs", {}, reason=FUSING)
    fields.expect("exclude_batchnorm", True, reason="batch-norms are never quantized")
    fields.expect("strict", True, reason="a pattern that means nothing is always an error")
    fields.expect("reduce_range", False)
    fields.expect("num_calibration_steps", reason="observers follow the training run")
    fields.expect("post_oneshot_calibration", False)
    for name in ("custom_quantizable_module_types", "activation_qconfig_kwargs", "weight_qconfig_kwargs"):
        fields.expect(name, [], {})

"""Translates modifiers that act once, on calibration data: llm-compressor's, and those of SparseML's last years."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from paredown.integrations.conversion.fields import Fields
from paredown.integrations.conversion.reading import Value
from paredown.integrations.conversion.translators import quantization
from paredown.integrations.conversion.translators.schemes import Scheme, parts, preset
from paredown.integrations.conversion.translators.structures import is_pattern, listed_share, structure
from paredown.integrations.conversion.translators.targets import layers, pruned
from paredown.integrations.conversion.translators.times import is_trained, window

__all__ = ["LLM_COMPRESSOR"]

New = dict[str, Any] | list[dict[str, Any]] | None
MEMORY = "the model runs block by block by itself"
CALIBRATION = "batches, while `samples` counts samples: give as much `data` as is to be used"
#: a part of a recipe's layers, and how they are rounded
Group = tuple[list[str], Scheme]


def one_shot_pruning(kind: str) -> Callable[[Fields], New]:
    """SparseGPT and Wanda."""

    def translate(fields: Fields) -> New:
        shape = structure(fields, "mask_structure")
        sparsity = fields.value("sparsity")
        if shape is None:
            return None
        if sparsity is not None and isinstance(sparsity.value, tuple):
            reason = "one share for each layer by its number; write `scope: {layers: {pattern: share}}`"
            fields.notes.left_out(sparsity.line, f"{fields.old.title}.sparsity", reason)
            return None
        new = {"type": kind, **_layers(fields), **_profile(fields), **shape}
        if "structure" not in shape:
            new["final_sparsity"] = fields.plain("sparsity")
        elif is_pattern(shape["structure"]) and sparsity is not None:
            listed_share(fields, shape["structure"], "sparsity", 0)
        _without(fields)
        return new | (_sparsegpt(fields) if kind == "sparsegpt" else {})

    return translate


def _profile(fields: Fields) -> dict[str, Any]:
    if fields.plain("sparsity_profile") != "owl":
        return {}
    for name in ("owl_m", "owl_lmbda"):
        fields.expect(name, reason="the scope `owl` has the paper's own numbers")
    return {"scope": "owl"}


def _sparsegpt(fields: Fields) -> dict[str, Any]:
    fields.expect("preserve_sparsity_mask", True, reason="zeros that are there always stay")
    new: dict[str, Any] = {}
    for old, name in (("block_size", "block_size"), ("dampening_frac", "damping")):
        if fields.value(old) is not None:
            new[name] = fields.plain(old)
    return new


def _layers(fields: Fields) -> dict[str, Any]:
    targets, ignore = fields.texts("targets"), [str(one.value) for one in fields.texts("ignore")]
    named = [] if any(one.value == "__ALL__" for one in targets) else pruned(fields, targets) if targets else ["Linear"]
    return ({"targets": named} if named else {}) | ({"ignore": layers(ignore)} if ignore else {})


def _without(fields: Fields) -> None:
    for name in ("sequential_update", "sequential_targets", "offload_hessians", "offload_device"):
        fields.expect(name, True, False, reason=MEMORY)
    fields.expect("num_calibration_steps", reason=CALIBRATION)


def quantization_modifier(fields: Fields) -> New:
    """Rounding to the nearest; where it is trained, quantization-aware training."""
    older = ("submodules", "scheme_overrides", "disable_quantization_observer_epoch", "freeze_bn_stats_epoch")
    is_older = fields.old.tagged or any(name in fields.old.fields for name in older)
    if is_older and "config_groups" not in fields.old.fields:
        return legacy_quantization(fields)
    fields.expect("num_calibration_steps", reason=CALIBRATION)
    if is_trained(fields):
        return _trained_groups(fields)
    fields.expect("disable_quantization_observer_epoch", reason="it acts once, without training")
    return _in_groups(fields, _kind_of)


def _trained_groups(fields: Fields) -> New:
    found = []
    times = window(fields) | quantization.frozen(fields)
    for new in _in_groups(fields, lambda scheme: "quantization_aware_training"):
        activations = new.get("activations")
        if activations is not None and activations["granularity"] == "token":
            fields.differs("one scale for a whole input; in training none is found at run time")
            new["activations"] = {**activations, "granularity": "tensor"}
        found.append({"activations": None, **new, **times})
    return found


def legacy_quantization(fields: Fields) -> New:
    return quantization.quantization_aware(fields) if is_trained(fields) else quantization.static(fields)


def _kind_of(scheme: Scheme) -> str:
    activations = scheme[1]
    if activations is None:
        return "weight_quantization"
    return "dynamic_quantization" if activations["granularity"] == "token" else "static_quantization"


def gptq(fields: Fields) -> New:
    new = _rounded_weights(fields, "gptq")
    settings: dict[str, Any] = {}
    if fields.value("dampening_frac") is not None:
        settings["damping"] = fields.plain("dampening_frac")
    if fields.value("actorder") is not None:
        order = fields.plain("actorder")
        settings["activation_order"] = order not in (False, "none")
        if order in (True, "group", "dynamic"):
            fields.differs("a group's scale is that of the original weights", "actorder")
    fields.expect("block_size", 128, reason="columns that are updated at once; the result is the same")
    fields.expect("quantize", True)
    _without(fields)
    return [{**one, **settings} if one["type"] == "gptq" else one for one in new]


def awq(fields: Fields) -> New:
    fields.expect("mappings", reason="which layers share their inputs is read off the model's graph")
    fields.expect("duo_scaling", reason="the factor follows the inputs' magnitudes alone")
    _without(fields)
    return _rounded_weights(fields, "awq")


def _rounded_weights(fields: Fields, kind: str) -> list[dict[str, Any]]:
    """Weights by `kind`; inputs whose scale is found at run time are a modifier of their own."""
    found: list[dict[str, Any]] = []
    for new in _in_groups(fields, lambda scheme: kind):
        if (activations := new.get("activations")) is not None and activations["granularity"] == "token":
            found.append({key: value for key, value in new.items() if key != "activations"})
            found.append({**new, "type": "dynamic_quantization", "weights": None})
        else:
            found.append(new)
    return found


def _in_groups(fields: Fields, kind: Callable[[Scheme], str]) -> list[dict[str, Any]]:
    ignore = layers([str(one.value) for one in fields.texts("ignore")])
    fields.expect("kv_cache_scheme", reason="caches of keys and values are not quantized")
    found: list[dict[str, Any]] = []
    earlier: list[str] = []
    for targets, scheme in _groups(fields):
        if scheme != (None, None):
            found.append(_group(kind(scheme), targets, [*ignore, *earlier], scheme))
        earlier += targets
    return found


def _group(kind: str, targets: list[str], ignore: list[str], scheme: Scheme) -> dict[str, Any]:
    new: dict[str, Any] = {"type": kind, "targets": targets}
    if ignore:
        new["ignore"] = ignore
    new["weights"] = scheme[0]
    return new if scheme[1] is None else {**new, "activations": scheme[1]}


def _groups(fields: Fields) -> list[Group]:
    given, scheme = fields.value("config_groups"), fields.value("scheme")
    named = layers([str(one.value) for one in fields.texts("targets")]) or ["Linear"]
    if given is not None:
        return [found for one in given.items.values() if (found := _configured(fields, one)) is not None]
    if scheme is None:
        fields.drop("it has neither a scheme nor config_groups")
        return []
    if scheme.items and not {"weights", "input_activations"} & set(scheme.items):
        return [group for name, targets in scheme.items.items() for group in _preset(fields, name, _names(targets))]
    if scheme.items:
        return [(named, parts(fields, scheme))]
    return _preset(fields, str(scheme.value), named)


def _preset(fields: Fields, name: str, targets: list[str]) -> list[Group]:
    found = preset(fields, name)
    return [] if found is None else [(targets, found)]


def _configured(fields: Fields, group: Value) -> Group | None:
    if not group.items:
        fields.notes.left_out(group.line, f"{fields.old.title}: {group.plain()!r}", "a group is a mapping")
        return None
    targets = group.items.get("targets")
    return (_names(targets) if targets else ["Linear"]), parts(fields, group)


def _names(targets: Value) -> list[str]:
    return layers([str(one.value) for one in targets.elements])


def smoothquant(fields: Fields) -> New:
    fields.expect("mappings", reason="which layers share their inputs is read off the model's graph")
    fields.expect("num_calibration_steps", reason=CALIBRATION)
    fields.expect("calibration_function", reason="the data given to the run goes through the model as it is")
    new: dict[str, Any] = {"type": "smoothquant", **_ignored(fields)}
    return new | ({"strength": fields.plain("smoothing_strength")} if fields.value("smoothing_strength") else {})


def _ignored(fields: Fields) -> dict[str, Any]:
    ignore = layers([str(one.value) for one in fields.texts("ignore")])
    return {"ignore": ignore} if ignore else {}


#: translators by the name of the old modifier
LLM_COMPRESSOR: dict[str, Callable[[Fields], New]] = {
    "SparseGPTModifier": one_shot_pruning("sparsegpt"),
    "WandaPruningModifier": one_shot_pruning("wanda_pruning"),
    "QuantizationModifier": quantization_modifier,
    "LegacyQuantizationModifier": legacy_quantization,
    "GPTQModifier": gptq,
    "AWQModifier": awq,
    "SmoothQuantModifier": smoothquant,
}

"""Translates modifiers that prune weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from paredown.integrations.conversion.fields import Fields
from paredown.integrations.conversion.reading import Value
from paredown.integrations.conversion.translators.structures import is_pattern, listed_share, structure
from paredown.integrations.conversion.translators.targets import ALL_PRUNABLE, pruned
from paredown.integrations.conversion.translators.times import every, is_trained, window

__all__ = ["PRUNING"]

New = dict[str, Any] | None
POINTS = 40
GRADIENTS = "the gradients are those of the training loop itself"


def gradual(kind: str, scope: str, **more: Callable[[Fields], dict[str, Any]]) -> Callable[[Fields], New]:
    """A translator of a modifier with a schedule of sparsity; `scope` is the old modifier's default."""

    def translate(fields: Fields) -> New:
        targets = _targets(fields)
        if targets is None:
            return None
        shape = structure(fields)
        if shape is None:
            return None
        new = {"type": kind, **targets, **window(fields), **every(fields), "scope": _scope(fields, scope)}
        new |= shape | _sparsities(fields, shape) | _curve(fields) | _hold(fields)
        for read in more.values():
            new |= read(fields)
        new.update(_shares(fields))
        return new

    return translate


def _targets(fields: Fields) -> dict[str, Any] | None:
    final = fields.value("final_sparsity")
    if final is not None and final.items:
        return {}
    given = fields.texts("params")
    if not given:
        fields.drop("no parameters are named")
        return None
    targets = pruned(fields, given)
    if targets is None:
        fields.drop("none of its params is the weight of a layer")
        return None
    return {"targets": targets} if targets else {}


def _shares(fields: Fields) -> dict[str, Any]:
    """`final_sparsity: {0.8: [names]}` to a scope by layers."""
    final = fields.value("final_sparsity")
    if final is None or not final.items:
        return {}
    shares: dict[str, float] = {}
    for share, names in final.items.items():
        value = Value(share, names.line)
        number = fields.variables.plain(value, fields.old.renamed)
        for name in pruned(fields, list(names.elements)) or []:
            shares[name] = number  # type: ignore[assignment]
    fields.value("params")
    return {"targets": list(shares), "scope": {"layers": shares}}


def _scope(fields: Fields, default: str) -> str:
    return "global" if fields.flag("global_sparsity", default == "global") else "local"


def _sparsities(fields: Fields, shape: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    initial = fields.value("init_sparsity")
    if initial is not None and initial.value == "__FROM_PARAM__":
        fields.differs("starts from 0; zeros that are there stay and count", "init_sparsity")
    elif initial is not None and is_trained(fields):
        found["initial_sparsity"] = fields.plain("init_sparsity")
    elif initial is not None:
        fields.expect("init_sparsity", 0, 0.0, reason="it acts once, and reaches its final sparsity at that")
    final = fields.value("final_sparsity")
    if final is None:
        raise fields.refused("final_sparsity", "it is missing")
    pattern = shape.get("structure")
    if is_pattern(pattern):
        listed_share(fields, pattern, "final_sparsity")
    elif not final.items:
        found["final_sparsity"] = fields.plain("final_sparsity")
    return found


def _curve(fields: Fields) -> dict[str, Any]:
    name = fields.plain("inter_func", "cubic")
    if not is_trained(fields):
        return {}
    if name in ("linear", "cubic"):
        return {"curve": name}
    if name != "inverse_cubic":
        fields.left_out("inter_func", "one of linear, cubic and inverse_cubic; cubic is used")
        return {}
    first, last = fields.number("init_sparsity", 0), fields.number("final_sparsity")
    if first is None or last is None:
        fields.left_out("inter_func", "its points need an initial and a final sparsity; cubic is used")
        return {}
    fields.differs(f"{POINTS} straight pieces between {first:g} and {last:g}: no knob moves them", "inter_func")
    return {"curve": [inverse_cubic(index / POINTS, first, last) for index in range(POINTS + 1)]}


def inverse_cubic(progress: float, first: float, last: float) -> list[float]:
    """A point of 1 - (1 - p)^(1/3), the pieces shorter towards the end, where it is steep."""
    place = 1 - (1 - progress) ** 3
    return [round(place, 6), round(first + (last - first) * progress, 6)]


def _hold(fields: Fields) -> dict[str, Any]:
    unwritten = not fields.old.tagged and "leave_enabled" not in fields.old.fields
    if unwritten and fields.old.name == "MagnitudePruningModifier" and is_trained(fields):
        fields.differs("zeros are held after its end, as in SparseML; llm-compressor let go of them")
    return {} if fields.flag("leave_enabled", True) else {"hold": False}


def _fisher(fields: Fields) -> dict[str, Any]:
    fields.expect("grad_sampler_kwargs", reason=GRADIENTS)
    fields.expect("num_recomputations", 1, reason="masks are chosen once in an update of a training run")
    fields.expect("damp", reason="it was a number; `damping` is a share of the diagonal's mean, 0.01 unless written")
    for name in ("use_gradient_buffering", "grads_device", "num_pages", "available_devices"):
        fields.expect(name, reason="it defines how the old tool computes, not what")
    count, size = fields.value("num_grads"), fields.value("fisher_block_size")
    new: dict[str, Any] = {"block_size": fields.plain("fisher_block_size")} if size else {}
    if count is not None and count.items:
        fields.left_out("num_grads", "one number for the whole run; 256 unless written")
    elif count is not None:
        new["gradients"] = fields.plain("num_grads")
    return new


def _retired(fields: Fields) -> dict[str, Any]:
    fields.expect("phased", False, reason="use ACDCPruningModifier, as SparseML 1.x asked for itself")
    fields.expect("score_type", "magnitude", reason="the criterion is part of the modifier's type")
    fields.expect("scheduler_args", {})
    return {}


def acdc(fields: Fields) -> New:
    targets, shape = _targets(fields), structure(fields)
    if targets is None or shape is None:
        return None
    return {
        "type": "acdc",
        **targets,
        **window(fields),
        **every(fields),
        "scope": _scope(fields, "global"),
        **shape,
        "final_sparsity": fields.plain("compression_sparsity"),
        **_hold(fields),
        **_momenta(fields),
    }


def rigl(fields: Fields) -> New:
    targets = _targets(fields)
    if targets is None:
        return None
    fields.expect("mask_type", "unstructured", reason="rigl moves single weights")
    fields.expect("num_grads", 1, reason=GRADIENTS)
    fields.expect("grad_sampler_kwargs", {}, reason=GRADIENTS)
    new = {"type": "rigl", **targets, **window(fields), **every(fields), **_rigl_scope(fields)}
    new["final_sparsity"] = fields.plain("final_sparsity")
    if fields.value("init_update_fraction"):
        new["drop"] = fields.plain("init_update_fraction")
    return new | _hold(fields) | _momenta(fields)


def _rigl_scope(fields: Fields) -> dict[str, Any]:
    strategy = fields.plain("sparsity_strategy", "erdos_renyi_kernel")
    if fields.flag("global_sparsity", False):
        return {"scope": "global"}
    if strategy == "erdos_renyi":
        fields.differs("erk: the size of a kernel counts too", "sparsity_strategy")
    return {"scope": "local" if strategy == "uniform" else "erk"}


def _momenta(fields: Fields) -> dict[str, Any]:
    return {} if fields.flag("momentum_buffer_reset", True) else {"clear_momenta": False}


def constant(fields: Fields) -> New:
    targets = _targets(fields)
    fields.expect("update_frequency", -1, reason="zeros are kept after every step")
    if targets is None:
        return None
    times = window(fields)
    return {"type": "constant_sparsity", **targets, **times, **({"hold": False} if "end" in times else {})}


def structured(fields: Fields) -> New:
    fields.expect("param_groups", reason="what goes together is read off the model, by channel_pruning")
    if fields.value("params") is None:
        fields.old.fields.setdefault("params", Value(ALL_PRUNABLE, fields.old.line))
    fields.old.fields.setdefault("mask_type", Value("filter", fields.old.line))
    return gradual("magnitude_pruning", "local")(fields)


_MAGNITUDE = gradual("magnitude_pruning", "local", retired=_retired)

#: translators by the name of the old modifier
PRUNING: dict[str, Callable[[Fields], New]] = {
    "GMPruningModifier": _MAGNITUDE,
    "MagnitudePruningModifier": _MAGNITUDE,
    "GlobalMagnitudePruningModifier": gradual("magnitude_pruning", "global", retired=_retired),
    "MovementPruningModifier": gradual("movement_pruning", "local"),
    "OBSPruningModifier": gradual("fisher_pruning", "global", fisher=_fisher),
    "MFACPruningModifier": gradual("fisher_pruning", "local", fisher=_fisher),
    "MFACGlobalPruningModifier": gradual("fisher_pruning", "global", fisher=_fisher),
    "ACDCPruningModifier": acdc,
    "RigLPruningModifier": rigl,
    "ConstantPruningModifier": constant,
    "StructuredPruningModifier": structured,
}

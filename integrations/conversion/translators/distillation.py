"""Translates modifiers that learn from a teacher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from paredown.integrations.conversion.fields import Fields
from paredown.integrations.conversion.translators.targets import layers
from paredown.integrations.conversion.translators.times import window

__all__ = ["DISTILLATION"]

New = dict[str, Any] | None
OUTPUTS = "all of the logits are compared, and the teacher gets what the student gets"


def knowledge(fields: Fields) -> New:
    for name in ("distill_output_keys", "teacher_input_keys"):
        fields.expect(name, [], reason=OUTPUTS)
    fields.expect("update_frequency", -1, reason="the loss counts in every step")
    numbers = {"weight": fields.plain("hardness", 0.5), "temperature": fields.plain("temperature", 2.0)}
    return {"type": "knowledge_distillation", **window(fields), **numbers}


def per_layer(fields: Fields) -> New:
    students = [str(one.value) for one in fields.texts("student_layer_names")]
    teachers = [str(one.value) for one in fields.texts("teacher_layer_names")]
    if not students or len(students) != len(teachers):
        reason = "it would need as many student_layer_names as teacher_layer_names"
        fields.drop(reason)
        return None
    fields.expect("update_frequency", -1, reason="the loss counts in every step")
    fields.expect("epsilon", 1e-6, reason="it keeps a division from zero")
    if fields.flag("project_features", True):
        fields.differs("features are projected only where their channels differ")
    return {
        "type": "feature_distillation",
        **window(fields),
        "pairs": dict(zip(students, teachers, strict=True)),
        "loss": "relative" if fields.flag("normalize", True) else "mse",
        "mode": "add",
        "weight": fields.plain("gain", 1.5),
        "warmup": 0,
    }


def output(fields: Fields) -> New:
    """`OutputDistillationModifier`: outputs of layers, by comparisons of its own."""
    for name in ("projection", "projection_args", "transforms_args", "comparison_args", "offload_layer_output"):
        fields.expect(name, False, {}, [])
    if fields.number("orig_scale", 1) != 1:
        fields.left_out("orig_scale", "the loop's own loss stays whole beside `mode: add`")
    comparison = fields.plain("comparison", "kl_divergence")
    common = {"mode": "add", "weight": fields.plain("distill_scale", 1), **window(fields)}
    if comparison == "kl_divergence":
        fields.expect("transforms", "identity", "kl_divergence", "softmax", reason="logits are softened")
        fields.left_out("targets", "the model's own logits are compared")
        return {"type": "knowledge_distillation", "temperature": 1, **common}
    fields.expect("transforms", "identity", [])
    loss = {"l2": "mse", "mse": "mse", "square_head": "relative", "cosine_similarity": "cosine"}.get(str(comparison))
    if loss is None:
        fields.drop(f"comparison {comparison} has no counterpart")
        return None
    pairs = dict(_pairs(fields))
    return {"type": "feature_distillation", "pairs": pairs, "loss": loss, "warmup": 0, **common}


def _pairs(fields: Fields) -> list[tuple[str, str]]:
    value = fields.value("targets")
    found: list[tuple[str, str]] = []
    for one in value.elements if value else ():
        names = layers([str(name.value) for name in one.elements])
        found.append((names[0], names[-1]))
    if not found:
        raise fields.refused("targets", "no layers are named")
    return found


#: translators by the name of the old modifier
DISTILLATION: dict[str, Callable[[Fields], New]] = {
    "DistillationModifier": knowledge,
    "KnowledgeDistillationModifier": knowledge,
    "PerLayerDistillationModifier": per_layer,
    "OutputDistillationModifier": output,
}

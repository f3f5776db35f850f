"""The table of old modifiers: their translators, or why they have none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from paredown.integrations.conversion.fields import Fields
from paredown.integrations.conversion.translators.distillation import DISTILLATION
from paredown.integrations.conversion.translators.llm_compressor import LLM_COMPRESSOR
from paredown.integrations.conversion.translators.pruning import PRUNING
from paredown.integrations.conversion.translators.training import TRAINING

__all__ = ["EPOCH_RANGE", "TRANSLATORS", "WITHOUT", "why_not"]

EPOCH_RANGE = "EpochRangeModifier"

#: by the name of the old modifier: its fields to one or several new modifiers, or to none, which it then has listed
TRANSLATORS: dict[str, Callable[[Fields], dict[str, Any] | list[dict[str, Any]] | None]] = {
    **PRUNING,
    **TRAINING,
    **DISTILLATION,
    **LLM_COMPRESSOR,
}

#: modifiers without a counterpart, and what to do
WITHOUT = {
    "ASRegModifier": "no penalty on activations; add the term to the loss of the loop",
    "LayerPruningModifier": "layers are not removed by name; `layer_pruning` removes the least needed share of a list",
    "LayerThinningModifier": "zeros of whole channels are not cut out afterwards; `channel_pruning` removes channels",
    "LogarithmicEqualizationModifier": "no factors by logarithms; `smoothquant` moves factors by magnitude",
    "PowerpropagationModifier": "no weights to a power; `movement_pruning` or `acdc` train sparse too",
    "TopKASTPruningModifier": "no gradients of a second share of weights; `rigl` and `acdc` train sparse too",
    "SetParamModifier": "set the parameter in the model before the run; `freeze` keeps it",
    "GradualParamModifier": "parameters are not moved along a schedule",
    "SparsificationLoggingModifier": "logging follows every modifier by itself",
    "QuIPModifier": "no rotations of weights",
    "SpinQuantModifier": "no rotations of weights",
    "IMatrixGatherer": "importances are not gathered",
}


def why_not(name: str) -> str:
    """Why a modifier is not translated.

    >>> why_not("SparsificationLoggingModifier")
    'logging follows every modifier by itself'
    """
    return WITHOUT.get(name, "unknown; neither SparseML 1.8 nor llm-compressor has it")

from pathlib import Path

import pytest

from paredown.framework.modifier.registry import registry
from paredown.integrations.conversion.conversion import convert
from paredown.integrations.conversion.table import TRANSLATORS, WITHOUT, why_not

#: the modifiers for PyTorch of SparseML 1.8 by tag, and those of its stages and of llm-compressor 0.6
TAGGED = [
    "ACDCPruningModifier",
    "ASRegModifier",
    "ConstantPruningModifier",
    "DistillationModifier",
    "EpochRangeModifier",
    "GMPruningModifier",
    "GlobalMagnitudePruningModifier",
    "GradualParamModifier",
    "LayerPruningModifier",
    "LayerThinningModifier",
    "LearningRateFunctionModifier",
    "LearningRateModifier",
    "MFACPruningModifier",
    "MagnitudePruningModifier",
    "MovementPruningModifier",
    "OBSPruningModifier",
    "PerLayerDistillationModifier",
    "PowerpropagationModifier",
    "QuantizationModifier",
    "RigLPruningModifier",
    "SetLearningRateModifier",
    "SetParamModifier",
    "SetWeightDecayModifier",
    "SparsificationLoggingModifier",
    "StructuredPruningModifier",
    "TopKASTPruningModifier",
    "TrainableParamsModifier",
]


STAGED = [
    "AWQModifier",
    "ConstantPruningModifier",
    "GPTQModifier",
    "LegacyQuantizationModifier",
    "LogarithmicEqualizationModifier",
    "MagnitudePruningModifier",
    "OutputDistillationModifier",
    "QuantizationModifier",
    "SmoothQuantModifier",
    "SparseGPTModifier",
    "WandaPruningModifier",
]


@pytest.mark.parametrize("name", [*TAGGED, *STAGED])
def test_every_modifier_is_translated_or_has_a_reason(name):
    assert (name in TRANSLATORS) + (name in WITHOUT) + (name == "EpochRangeModifier") == 1


@pytest.mark.parametrize("name", [*TAGGED, *STAGED])
def test_every_modifier_is_in_the_document(name):
    page = Path(__file__).parents[3] / "docs" / "from-sparseml.md"
    assert f"`{name}`" in page.read_text(encoding="utf-8")


def test_an_unknown_modifier_is_named_as_unknown():
    assert why_not("MadeUpModifier").startswith("unknown")


def test_new_types_exist():
    for path in (Path(__file__).parent / "recipes").iterdir():
        for new in convert(path.read_text(), path.name).recipe["modifiers"].values():
            assert new["type"] in registry().types, new["type"]

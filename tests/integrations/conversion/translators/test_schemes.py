import pytest
from old_recipes import new_of

from paredown import Recipe
from paredown.integrations.conversion.conversion import convert
from paredown.integrations.conversion.translators.schemes import PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_presets_make_recipes_that_hold(name):
    if name == "UNQUANTIZED":
        return
    for modifier in ("QuantizationModifier", "GPTQModifier", "AWQModifier"):
        Recipe.load(convert(f"{modifier}:\n  scheme: {name}\n", "old.yaml").recipe)


ARGUMENTS = [
    (
        "{num_bits: 8, strategy: channel, symmetric: true}",
        {"bits": 8, "symmetric": True, "narrow": False, "granularity": "channel"},
    ),
    (
        "{num_bits: 4, strategy: group, group_size: 64}",
        {"bits": 4, "symmetric": True, "narrow": False, "group_size": 64},
    ),
    ("{num_bits: 8, type: float, strategy: tensor}", {"format": "fp8_e4m3", "granularity": "tensor"}),
    (
        "{num_bits: 8, type: float, strategy: block, block_structure: [64, 64]}",
        {"format": "fp8_e4m3", "block": [64, 64]},
    ),
    (
        "{num_bits: 4, type: float, strategy: tensor_group, group_size: 16}",
        {"format": "fp4_e2m1", "group_size": 16, "scales": "fp8_e4m3"},
    ),
    (
        "{num_bits: 4, symmetric: false, group_size: -1, observer: mse}",
        {"bits": 4, "symmetric": False, "granularity": "channel", "observer": "mse"},
    ),
]


@pytest.mark.parametrize(("old", "new"), ARGUMENTS)
def test_arguments_of_weights(old, new):
    text = f"QuantizationModifier:\n  config_groups:\n    one:\n      weights: {old}\n"
    modifiers, listed = new_of(text)
    assert modifiers["quantize"]["weights"] == new
    assert listed == []


def test_arguments_that_are_unknown_are_listed_with_their_line():
    text = "QuantizationModifier:\n  config_groups:\n    one:\n      weights:\n        num_bits: 8\n        strange: 3\n      output_activations: {num_bits: 8}\n"
    assert new_of(text)[1] == [
        (6, "QuantizationModifier: weights: strange"),
        (7, "QuantizationModifier: output_activations"),
    ]

"""The small translations, one by one."""

import ast
from pathlib import Path

import pytest
import yaml

from paredown.framework.modifier.registry import registry
from paredown.integrations.conversion.conversion import convert
from paredown.integrations.conversion.expressions import parts_of, written
from paredown.integrations.conversion.table import TRANSLATORS, WITHOUT, why_not
from paredown.integrations.conversion.translators.schemes import PRESETS
from paredown.integrations.conversion.translators.targets import layer_patterns, prefix_pattern

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


def test_an_unknown_modifier_is_told_as_that():
    assert why_not("MadeUpModifier").startswith("unknown")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("eval(epochs)", "${variables.epochs}"),
        ("eval(epochs * 0.6)", '${expr:"${variables.epochs} * 0.6"}'),
        ("eval(2 * 3)", '${expr:"2 * 3"}'),
        ("eval((a + b) * c)", '${expr:"(${variables.a} + ${variables.b}) * ${variables.c}"}'),
        ("eval(a - (b - c))", '${expr:"${variables.a} - (${variables.b} - ${variables.c})"}'),
        ("eval(eval(a) + eval(b * 2))", '${expr:"${variables.a} + ${variables.b} * 2"}'),
        ("eval(a % 3)", '${expr:"mod(${variables.a}, 3)"}'),
        ("eval(math.ceil(a / 3))", '${expr:"-(-(${variables.a} / 3) // 1)"}'),
        ("eval(round(a, 2))", '${expr:"round(${variables.a}, 2)"}'),
        ("eval(-a ** 2)", '${expr:"-${variables.a} ** 2"}'),
    ],
)
def test_expressions(old, new):
    assert written(parts_of(old), str) == new


@pytest.mark.parametrize(
    "text", ["-(a - b) * (c + 2) ** 2 // 3", "a - b - c", "a / (b / c)", "2 ** -c", "(-a) ** 2", "a ** b ** c"]
)
def test_expressions_keep_their_structure(text):
    again = "".join(part if isinstance(part, str) else part[0] for part in parts_of(f"eval({text})"))
    values = {"a": 5.0, "b": 3.0, "c": 2.0}
    assert eval(again, values) == eval(text, values)
    assert ast.dump(ast.parse(again)) == ast.dump(ast.parse(text))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("__ALL__", []),
        ("__ALL_PRUNABLE__", ["Linear", "Conv1d", "Conv2d", "Conv3d"]),
        ("layer1.0.conv1.weight", ["layer1.0.conv1"]),
        ("encoder.self_attn.in_proj_weight", ["encoder.self_attn"]),
        ("re:.*weight", []),
        ("re:.*weight$", []),
        (r"re:.*\.weight", []),
        (r"re:layer1.*\.weight", ["re:layer1.*"]),
        (r"re:^blocks\.\d+\.(conv1|conv2)\.weight$", [r"re:blocks\.\d+\.(conv1|conv2)"]),
        ("re:(a.weight|b.weight)", ["re:(a|b)"]),
        ("re:layer1[.]0", ["re:layer1[.]0.*"]),
        ("re:.*bias", None),
        ("fc.bias", None),
        ("scale", None),
    ],
)
def test_parameters_to_layers(old, new):
    assert layer_patterns(old) == new


def test_patterns_that_matched_a_beginning():
    assert [prefix_pattern(old) for old in ("^a", "a$", "a.*", "a|b$")] == ["a.*", "a", "a.*", "a|b"]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_make_recipes_that_hold(name):
    from paredown import Recipe

    if name == "UNQUANTIZED":
        return
    for modifier in ("QuantizationModifier", "GPTQModifier", "AWQModifier"):
        Recipe.load(convert(f"{modifier}:\n  scheme: {name}\n", "old.yaml").recipe)


def new_of(text):
    """The new modifiers, and what was listed as (line, subject)."""
    converted = convert(text, "old.yaml")
    return converted.recipe["modifiers"], [(note.line, note.subject) for note in converted.notes.sorted()]


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


GM = """\
modifiers:
  - !{tag}
    params: __ALL_PRUNABLE__
    init_sparsity: 0.1
    final_sparsity: 0.8
    start_epoch: -1
    end_epoch: {end}
    update_frequency: {frequency}
    {extra}
"""


def pruning(tag="GMPruningModifier", end=5, frequency=-1, extra="inter_func: cubic"):
    return new_of(GM.format(tag=tag, end=end, frequency=frequency, extra=extra))


def test_minus_one_means_the_start_and_every_step():
    modifiers, listed = pruning()
    assert {"start", "end"} & set(modifiers["prune"]) == {"end"}
    assert modifiers["prune"]["every"] == "1 steps"
    assert listed == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("unstructured", None),
        ("block4", {"block": [1, 4]}),
        ("[4, 1]", {"block": [4, 1]}),
        ("'1:4'", "1:4"),
        ("tensorrt", "2:4"),
        ("filter", "channel"),
    ],
)
def test_mask_types(old, new):
    assert pruning(extra=f"mask_type: {old}")[0]["prune"].get("structure") == new


def test_a_sparsity_beside_a_pattern_that_says_another():
    modifiers, listed = pruning(extra="mask_type: '2:4'")
    assert "final_sparsity" not in modifiers["prune"]
    assert listed == [(5, "!GMPruningModifier.final_sparsity")]


@pytest.mark.parametrize(
    ("tag", "extra", "scope"),
    [
        ("GMPruningModifier", "", "local"),
        ("GMPruningModifier", "global_sparsity: True", "global"),
        ("GlobalMagnitudePruningModifier", "", "global"),
        ("MovementPruningModifier", "", "local"),
        ("OBSPruningModifier", "", "global"),
        ("OBSPruningModifier", "global_sparsity: False", "local"),
        ("MFACPruningModifier", "", "local"),
    ],
)
def test_scopes(tag, extra, scope):
    assert pruning(tag, extra=extra)[0]["prune"]["scope"] == scope


def test_fields_without_a_counterpart_are_listed_with_their_line():
    extra = "damp: 1e-7\n    num_recomputations: 4\n    grad_sampler_kwargs: {}\n    invented: 3"
    assert pruning("OBSPruningModifier", extra=extra)[1] == [
        (9, "!OBSPruningModifier.damp"),
        (10, "!OBSPruningModifier.num_recomputations"),
        (11, "!OBSPruningModifier.grad_sampler_kwargs"),
        (12, "!OBSPruningModifier.invented"),
    ]


def test_every_leftover_of_a_recipe_has_its_line():
    path = Path(__file__).parent / "recipes" / "leftovers.yaml"
    lines = path.read_text().splitlines()
    converted = convert(path.read_text(), path.name)
    tags = {line.strip().removeprefix("- ") for line in lines if "!" in line}
    told = {note.subject.split(".")[0].split(":")[0] for note in converted.notes.notes}
    assert tags - told == {"!EpochRangeModifier"}
    for note in converted.notes.notes:
        word = note.subject.partition(".")[2] or note.subject
        assert word.rpartition(": ")[2].removeprefix("bias") in lines[note.line - 1], note


def test_variables_of_a_stage_keep_apart():
    text = "goal: 1\n" + "".join(
        f"{stage}_stage:\n  goal: {goal}\n  run_type: oneshot\n  a_modifiers:\n"
        f"    WandaPruningModifier:\n      sparsity: eval(goal)\n      targets: ['{goal}']\n"
        for stage, goal in (("one", 0.5), ("two", 0.25))
    )
    converted = convert(text, "old.yaml").recipe
    assert converted["variables"] == {"goal": 1, "one_goal": 0.5, "two_goal": 0.25}
    assert converted["modifiers"]["prune_2"]["final_sparsity"] == "${variables.two_goal}"


def test_the_run_is_as_long_as_its_longest_modifier():
    text = "modifiers:\n  - !EpochRangeModifier\n    start_epoch: 0\n    end_epoch: 5\n" + GM.format(
        tag="GMPruningModifier", end=9, frequency=1, extra=""
    ).removeprefix("modifiers:\n")
    assert convert(text, "old.yaml").recipe["run"] == {"epochs": 9}


def test_new_types_exist():
    for path in (Path(__file__).parent / "recipes").iterdir():
        for new in convert(path.read_text(), path.name).recipe["modifiers"].values():
            assert new["type"] in registry().types, new["type"]


def test_written_text_reads_back():
    path = Path(__file__).parent / "recipes" / "card_with_variables.md"
    converted = convert(path.read_text(), path.name)
    from paredown.integrations.conversion.new_file import text_of

    assert yaml.safe_load(text_of(converted, path.name)) == converted.recipe


def test_groups_in_a_stage_that_is_trained():
    text = (
        "num_epochs: 9\na_stage:\n  run_type: train\n  a_modifiers:\n    QuantizationModifier:\n      start: 2\n"
        "      disable_quantization_observer_epoch: 5\n      config_groups:\n        one: {weights: {num_bits: 4}}\n"
    )
    new = new_of(text)[0]["quantize"]
    assert (new["type"], new["start"], new["freeze_observers"]) == ("quantization_aware_training", 2, 5)
    assert new["activations"] is None


def test_a_pattern_that_is_no_regular_expression():
    from paredown import RecipeError

    with pytest.raises(RecipeError, match=r"old.yaml:3.*no regular expression"):
        new_of(GM.replace("__ALL_PRUNABLE__", "'re:('").format(tag="GMPruningModifier", end=1, frequency=1, extra=""))


def test_milestones_are_epochs_of_the_run_and_cycles_end_with_their_modifier():
    text = (
        "modifiers:\n  - !EpochRangeModifier\n    end_epoch: 9\n  - !LearningRateModifier\n    start_epoch: 2\n"
        "    end_epoch: {end}\n    init_lr: 0.1\n    lr_class: {name}\n    lr_kwargs: {{{numbers}}}\n"
    )
    steps = new_of(text.format(end=-1, name="MultiStepLR", numbers="milestones: [4, 6], gamma: 0.5"))[0]
    assert [(one["start"], one["final"]) for one in steps.values()] == [(2, 0.1), (4, 0.05), (6, 0.025)]
    cycles = new_of(text.format(end=6, name="CosineAnnealingWarmRestarts", numbers="cycle_epochs: 3, lr_min: 0.0"))[0]
    assert [(one["start"], one["end"]) for one in cycles.values()] == [(2, 5), (5, 6)]
    assert cycles["learning_rate_2"]["final"] == pytest.approx(0.075)
    assert cycles["learning_rate_2"]["curve"][-1] == [1, pytest.approx(0.075)]

import pytest

from paredown.integrations.conversion.translators.targets import layer_patterns, prefix_pattern


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

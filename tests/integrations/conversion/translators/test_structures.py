import pytest
from old_recipes import pruning


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

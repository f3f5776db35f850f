import pytest
from old_recipes import pruning


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

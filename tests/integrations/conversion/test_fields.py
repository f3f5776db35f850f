import pytest
from old_recipes import GM, new_of, pruning

from paredown import RecipeError


def test_fields_without_a_counterpart_are_listed_with_their_line():
    extra = "damp: 1e-7\n    num_recomputations: 4\n    grad_sampler_kwargs: {}\n    invented: 3"
    assert pruning("OBSPruningModifier", extra=extra)[1] == [
        (9, "!OBSPruningModifier.damp"),
        (10, "!OBSPruningModifier.num_recomputations"),
        (11, "!OBSPruningModifier.grad_sampler_kwargs"),
        (12, "!OBSPruningModifier.invented"),
    ]


def test_a_pattern_that_is_no_regular_expression():
    with pytest.raises(RecipeError, match=r"old.yaml:3.*no regular expression"):
        new_of(GM.replace("__ALL_PRUNABLE__", "'re:('").format(tag="GMPruningModifier", end=1, frequency=1, extra=""))

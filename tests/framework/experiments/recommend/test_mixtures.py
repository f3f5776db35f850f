import pytest

from paredown.framework.experiments.recommend.mixtures import Mixture, known_choices, mixtures
from paredown.framework.modifier.proposals import STAGES
from paredown.framework.modifier.registry import registry


def chosen(*stages, trained=True):
    known = known_choices(trained)
    return [known[stage][0] for stage in stages]


@pytest.mark.parametrize("trained", [True, False])
def test_every_proposal_makes_a_valid_recipe(trained):
    for stage, choices in known_choices(trained).items():
        for choice in choices:
            recipe = Mixture((choice,)).recipe(4 if trained else None, "onnxruntime")
            (modifier,) = recipe.modifiers.values()
            assert modifier.type == choice.type
            assert stage in STAGES
            assert choice.proposal.words
            assert trained or not registry().types[choice.type].needs_training


def test_stages_act_one_after_the_other():
    recipe = Mixture(tuple(chosen("shape", "zeros", "grid"))).recipe(8, "onnxruntime", chosen("teacher", "rate"))
    modifiers = recipe.modifiers
    assert list(modifiers) == ["shrink", "prune", "quantize", "distill", "learning_rate"]
    assert modifiers["prune"].start.value == modifiers["shrink"].end.value == 2
    assert modifiers["quantize"].start.value >= modifiers["prune"].end.value
    assert modifiers["distill"].start.value == 0
    assert modifiers["distill"].end is None
    assert modifiers["quantize"].freeze_observers.value > modifiers["quantize"].start.value
    assert recipe.run_epochs == 8


def test_a_stage_that_is_missing_leaves_its_time():
    recipe = Mixture(tuple(chosen("zeros"))).recipe(8, "onnxruntime")
    assert recipe.modifiers["prune"].start.value == 0
    alone = Mixture(tuple(chosen("grid"))).recipe(8, "onnxruntime")
    assert alone.modifiers["quantize"].start.value == 0


def test_a_mixture_takes_one_choice_of_a_stage_at_most():
    known = known_choices(True)
    given = [*known["shape"][:2], *known["zeros"][:3], *known["grid"][:1]]
    found = mixtures(given)
    assert len(found) == len({one.key for one in found}) == 3 * 4 * 2
    assert all(len({each.proposal.stage for each in one.choices}) == len(one.choices) for one in found)
    assert Mixture() in found

"""Stages that were trained one after the other become windows of one run."""

import pytest
import torch
from sample_models import batches, mlp, train

from paredown import Recipe, ScheduledManager
from paredown.integrations.conversion.conversion import convert

TRAINED = """
sparsity_stage:
  run_type: train
  length: 4
  pruning_modifiers:
    - !EpochRangeModifier {start_epoch: 0, end_epoch: eval(length)}
    - !GMPruningModifier {params: __ALL_PRUNABLE__, init_sparsity: 0.1, final_sparsity: 0.5, start_epoch: 1, end_epoch: 3}
    - !DistillationModifier {start_epoch: 0, hardness: 0.5, temperature: 2}
"""
ONE_SHOT = """
quantization_stage:
  run_type: oneshot
  quant_modifiers:
    QuantizationModifier: {scheme: {weights: {num_bits: 8}, input_activations: {num_bits: 8}}}
"""
AGAIN = """
quantization_stage:
  run_type: train
  begin: 0.5
  quant_modifiers:
    - !EpochRangeModifier {start_epoch: 0, end_epoch: 2}
    - !QuantizationModifier {start_epoch: eval(begin), disable_quantization_observer_epoch: eval(begin + 1)}
"""
ABSOLUTE = AGAIN.replace("begin: 0.5", "begin: 4").replace(
    "start_epoch: 0, end_epoch: 2", "start_epoch: 4, end_epoch: 6"
)


def converted(text):
    made = convert(text, "old.yaml")
    begun = [note for note in made.notes.notes if "its stage begins" in str(note)]
    return Recipe.load(made.recipe), begun


def windows(recipe):
    return {
        name: tuple(one.get(field) for field in ("start", "end", "freeze_observers"))
        for name, one in recipe.resolved()["modifiers"].items()
    }


def test_a_one_shot_stage_comes_after_the_training_before_it():
    recipe, begun = converted(TRAINED + ONE_SHOT)
    assert recipe.run_epochs == 4
    assert windows(recipe) == {"prune": (1, 3, None), "distill": (None, None, None), "quantize": (4, None, None)}
    assert len(begun) == 1
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    manager = ScheduledManager(recipe)
    manager.modify(model, optimizer, 10, data=batches(10))
    train(model, optimizer, batches(10), 4)
    before = model[0].weight.detach().clone()
    manager.finalize()
    assert float((before == 0).float().mean()) == pytest.approx(0.5, abs=0.01)
    assert any("scale" in name for name in model.state_dict())


def test_a_one_shot_stage_before_a_trained_one_stays_at_the_start():
    recipe, begun = converted(ONE_SHOT + TRAINED)
    assert windows(recipe)["quantize"] == (None, None, None)
    assert not begun


def test_a_second_trained_stage_goes_on_where_the_first_ends():
    recipe, begun = converted(TRAINED + AGAIN)
    assert recipe.run_epochs == 6
    assert windows(recipe) == {"prune": (1, 3, None), "distill": (None, 4, None), "quantize": (4.5, None, 5.5)}
    assert len(begun) == 1


def test_epochs_that_count_from_the_beginning_of_the_run_stay():
    recipe, begun = converted(TRAINED + ABSOLUTE)
    assert recipe.run_epochs == 6
    assert windows(recipe)["quantize"] == (4, None, 5)
    assert not begun

"""What went wrong with SparseML, without a word, is exact here or a clear error."""

import pytest
import torch
from sample_models import batches, mlp, pruning, recipe_of, size, train, zeros
from torch import nn

import paredown
from paredown import Recipe, RecipeError, ScheduledManager, ScheduleError
from paredown.framework.modifier.curves import share_of
from paredown.framework.run.schedule import in_order

STEPS = 4
DATA = batches(STEPS)


def manager_of(final=0.8, epochs=4, **window):
    return ScheduledManager(Recipe.load(recipe_of(epochs, prune=pruning(final, **window))))


def started(manager, steps_per_epoch=STEPS, **modify):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    manager.modify(model, optimizer, steps_per_epoch, **modify)
    return model, optimizer


def exact(model, share=0.8):
    return zeros(model) == share_of(share, size(model))


def mistake(**fields):
    with pytest.raises(RecipeError) as caught:
        Recipe.load(recipe_of(prune={**pruning(), **fields}))
    return str(caught.value)


def test_stepping_the_original_optimizer():
    """0% sparsity: only the wrapper that `modify` returned knew of the recipe."""
    model = mlp()
    original = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    manager = manager_of()
    returned = manager.modify(model, original, STEPS)
    assert returned is original
    train(model, original, DATA, 4)
    manager.finalize()
    assert exact(model)


def accumulating(model, optimizer, loader, epochs=4, k=4):
    for _ in range(epochs):
        for index, (x, y) in enumerate(loader):
            (nn.functional.cross_entropy(model(x), y) / k).backward()
            if index % k == k - 1:
                optimizer.step()
                optimizer.zero_grad()


def test_the_loader_with_accumulation_declared():
    """0% sparsity: the length of the loader counts batches, and a step was taken every fourth."""
    loader = batches(4 * STEPS)
    manager = manager_of()
    model, optimizer = started(manager, loader, accumulate=4)
    accumulating(model, optimizer, loader)
    manager.finalize()
    assert exact(model)


def test_the_loader_with_accumulation_undeclared():
    loader = batches(4 * STEPS)
    manager = manager_of()
    model, optimizer = started(manager, len(loader))
    with pytest.warns(UserWarning, match="steps_per_epoch=4, accumulate=4"):
        accumulating(model, optimizer, loader)
    with pytest.raises(ScheduleError, match="window ends at step 48, the run stopped after 16: sparsity 0 was"):
        manager.finalize()


def test_steps_per_epoch_five_instead_of_four():
    """0.779 for 0.80: the last update fell behind the end of the loop. Where it fits, it is made exactly."""
    manager = manager_of(end=3)
    model, optimizer = started(manager, steps_per_epoch=5)
    train(model, optimizer, DATA, 4)
    manager.finalize()
    assert exact(model)


def test_steps_per_epoch_five_instead_of_four_and_the_window_to_the_end():
    manager = manager_of(end=4)
    model, optimizer = started(manager, steps_per_epoch=5)
    train(model, optimizer, DATA, 4)
    assert not manager.done
    with pytest.raises(ScheduleError, match=r"window ends at step 20.*stopped after 16: sparsity 0\.7\d* .*0\.8 was"):
        manager.finalize()


@pytest.mark.parametrize("every", [0.3, 0.7, "3 steps", 2.5])
def test_a_grid_that_misses_the_end(every):
    manager = manager_of(start=0.5, end=3, every=every)
    model, optimizer = started(manager)
    train(model, optimizer, DATA, 4)
    manager.finalize()
    assert exact(model)


@pytest.mark.parametrize("end", [2.5, 4])
def test_a_checkpoint_with_an_edited_end(tmp_path, end):
    """It could not be loaded."""
    first = manager_of(end=3)
    model, optimizer = started(first)
    train(model, optimizer, DATA, 2)
    paredown.save(tmp_path / "c.pt", model, optimizer, first)
    edited = manager_of(end=end)
    model, optimizer = started(edited)
    paredown.resume(tmp_path / "c.pt", model, optimizer, edited)
    before = zeros(model)
    assert before
    train(model, optimizer, DATA, 2)
    edited.finalize()
    assert exact(model)


@pytest.mark.parametrize("which", ["a weight", "the whole first layer"])
def test_frozen_parameters(which):
    """A crash: their gradient is None."""
    model = mlp()
    (model[0].weight if which == "a weight" else model[0]).requires_grad_(False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    manager = manager_of()
    optimizer = torch.optim.SGD(trained, 0.05, momentum=0.9)
    manager.modify(model, optimizer, STEPS)
    train(model, optimizer, DATA, 4)
    manager.finalize()
    assert exact(model)


@pytest.mark.parametrize("field", ["start", "end"])
def test_minus_one(field):
    """`end: -1` froze the run at the initial sparsity: it meant "never" for the end, and "now" for the updates."""
    told = mistake(**{field: -1})
    assert f"modifiers.prune.{field}: -1 is no time" in told


def test_no_end_is_the_end_of_the_run():
    recipe = recipe_of(4, prune={"type": "magnitude_pruning", "final_sparsity": 0.8, "start": 1})
    manager = ScheduledManager(Recipe.load(recipe))
    model, optimizer = started(manager)
    train(model, optimizer, DATA, 4)
    manager.finalize()
    assert exact(model)


def test_an_unknown_field():
    """It was dropped, and the run went on without it."""
    assert "did you mean 'final_sparsity'?" in mistake(final_sparsty=0.5)
    assert "modifiers.prune.init_sparsity" in mistake(init_sparsity=0.05)


def test_no_start_is_the_start_of_the_run():
    """The modifier never ran."""
    fields = {"type": "magnitude_pruning", "final_sparsity": 0.8, "initial_sparsity": 0.2, "end": 3}
    manager = ScheduledManager(Recipe.load(recipe_of(4, prune=fields)))
    model, optimizer = started(manager)
    assert exact(model, 0.2)
    train(model, optimizer, DATA, 4)
    manager.finalize()
    assert exact(model)


def test_forward_references():
    """A wrong number: expressions were worked out in the order of the file."""
    text = {
        "recipe": 1,
        "run": {"epochs": "${expr:'${variables.begin} + ${variables.length}'}"},
        "variables": {"length": "${expr:'${variables.begin} * 3'}", "begin": "${variables.unit}", "unit": 1},
        "modifiers": {
            "prune": {
                "type": "magnitude_pruning",
                "start": "${expr:'${modifiers.keep.end} - ${variables.unit}'}",
                "final_sparsity": 0.8,
            },
            "keep": {"type": "constant_sparsity", "targets": ["4"], "end": "${expr:'${variables.length} - 1'}"},
        },
    }
    recipe = Recipe.load(text)
    assert recipe.run_epochs == 4
    assert recipe.variables == {"length": 3, "begin": 1, "unit": 1}
    resolved = recipe.resolved()["modifiers"]
    assert (resolved["prune"]["start"], resolved["keep"]["end"]) == (1, 2)


def test_references_in_a_circle_are_an_error():
    with pytest.raises(RecipeError, match=r"variables\.a.*variables\.b"):
        Recipe.load({"recipe": 1, "variables": {"a": "${variables.b}", "b": "${variables.a}"}, "modifiers": {}})


def test_of_those_due_at_once_who_follows_others_comes_after_them_wherever_it_stands():
    quantize = {"type": "static_quantization"}
    modifiers = {
        "q": quantize,
        "c": {"type": "weight_clustering"},
        "g": {"type": "gptq"},
        "p": {"type": "magnitude_pruning", "final_sparsity": 0.5},
    }
    ordered = [
        modifier.name for modifier in in_order(Recipe.load({"recipe": 1, "modifiers": modifiers}).modifiers, None)
    ]
    assert ordered == ["g", "p", "c", "q"]
    later = recipe_of(4, **modifiers, late={"type": "weight_clustering", "start": 1})
    assert [modifier.name for modifier in in_order(Recipe.load(later).modifiers, None)][-1] == "late"

import pytest
import torch
from sample_models import batches, mlp, recipe_of, train

from paredown import Recipe, ScheduledManager, TargetError


def hooked(**fields):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-2)
    manager = ScheduledManager(Recipe.load(recipe_of(3, still={"type": "freeze", **fields})))
    manager.modify(model, optimizer, 10)
    return model, optimizer, manager


def test_it_stands_still_in_the_window_and_moves_outside():
    model, optimizer, manager = hooked(targets=["0", "2.bias"], start=1, end=2)
    first = model[0].weight.clone()
    train(model, optimizer, batches())
    second, other = model[0].weight.clone(), model[2].weight.clone()
    assert not torch.equal(first, second)
    train(model, optimizer, batches())
    assert torch.equal(model[0].weight, second)
    assert not torch.equal(model[2].weight, other)
    assert model[2].weight.requires_grad
    train(model, optimizer, batches())
    assert not torch.equal(model[0].weight, second)
    manager.finalize()


def test_what_was_frozen_before_stays_frozen():
    model = mlp()
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    manager = ScheduledManager(Recipe.load(recipe_of(1, still={"type": "freeze", "targets": ["0", "2"], "end": 1})))
    manager.modify(model, optimizer, 10)
    train(model, optimizer, batches())
    manager.finalize()
    assert not model[0].weight.requires_grad
    assert model[2].weight.requires_grad


def test_a_misspelt_name_is_told():
    with pytest.raises(TargetError, match="still: target '9' matches nothing"):
        hooked(targets=["9"])

"""Training that is left in eval mode is named as such; what torch.func differentiates is not the loop's."""

import warnings

import pytest
import torch
from sample_models import batches, mlp, pruning, recipe_of, train
from torch.nn import functional as F

from paredown import ParedownError, Recipe, ScheduledManager


def managed(epochs=2, **modifiers):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    manager = ScheduledManager(Recipe.load(recipe_of(epochs, **modifiers)))
    manager.modify(model, optimizer, 10)
    return model, optimizer, manager


MODIFIERS = ["knowledge_distillation", "quantization_aware_training", "learned_step_size"]


@pytest.mark.parametrize("kind", MODIFIERS)
@pytest.mark.parametrize("compiled", [False, True])
def test_eval_mode_is_told_once(kind, compiled):
    torch._dynamo.reset()
    model, optimizer, _ = managed(m={"type": kind})
    model.eval()
    forward = torch.compile(model, backend="eager") if compiled else model
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        train(forward, optimizer, batches(3))
    (told,) = [str(one.message) for one in heard if "train()" in str(one.message)]
    assert told.startswith("the model is in eval mode while it is trained, and m work")
    assert not any("not called" in str(one.message) for one in heard)


@pytest.mark.parametrize("kind", MODIFIERS[1:])
def test_ranges_that_nothing_set_name_eval_mode_too(kind):
    model, optimizer, manager = managed(m={"type": kind})
    model.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ParedownError, match=r"in eval mode in \d+ training steps.*model\.train\(\)"):
            train(model, optimizer, batches(20))
            manager.finalize()


@pytest.mark.parametrize("kind", MODIFIERS)
def test_an_evaluation_with_gradients_between_two_steps_is_none(kind):
    model, optimizer, manager = managed(m={"type": kind})
    for x, y in batches(4):
        F.cross_entropy(model.eval()(x), y)
        model.train()
        train(model, optimizer, [(x, y)])
    assert manager.run.eval_mode_steps == 0


def test_pruning_works_in_eval_mode():
    model, optimizer, manager = managed(4, m=pruning(0.5))
    train(model.eval(), optimizer, batches(4))
    assert manager.run.step == 4
    assert manager.run.eval_mode_steps == 0


def test_functional_gradients_are_those_of_the_plain_model():
    model = mlp()
    x, y = batches()[0]
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}

    def loss(weights):
        return F.cross_entropy(torch.func.functional_call(model, weights, (x,)), y)

    wanted = torch.func.grad(loss)(weights)
    manager = ScheduledManager(Recipe.load(recipe_of(4, m=pruning(0.5))))
    manager.modify(model, torch.optim.SGD(model.parameters(), lr=0.05), 10)
    found = torch.func.grad(loss)(weights)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    rows = torch.func.vmap(torch.func.grad(lambda w, x: torch.func.functional_call(model, w, (x,)).sum()), (None, 0))
    assert rows(weights, x)["0.weight"].shape == (len(x), *weights["0.weight"].shape)

import itertools

import pytest
import torch
from sample_models import batches, conv_net, recipe_of, train
from torch import nn

from paredown import Recipe, ScheduledManager, TargetError

DATA = batches(4, image=True)


def hooked(model, **fields):
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    manager = ScheduledManager(Recipe.load(recipe_of(3, still={"type": "batch_norm_freeze", **fields})))
    manager.modify(model, optimizer, 4)
    return optimizer, manager


def test_statistics_stand_still_in_the_window_whatever_the_mode():
    model = conv_net()
    optimizer, manager = hooked(model, start=1, end=2)
    seen = []

    def after():
        model.train()  # as loops do again and again
        seen.append(model.norm.running_mean.clone())

    train(model, optimizer, DATA, 3, after=after)
    manager.finalize()
    moved = [not torch.equal(one, other) for one, other in itertools.pairwise(seen)]
    assert moved == [True] * 3 + [False] * 4 + [True] * 4


def test_training_computes_as_evaluation_does():
    model = conv_net()
    optimizer, manager = hooked(model, start=0)
    x = DATA[0][0]
    with torch.no_grad():
        assert torch.equal(model.train()(x), model.eval()(x))
    model.train()
    weight = model.norm.weight.detach().clone()
    train(model, optimizer, DATA, 3)
    assert not torch.equal(model.norm.weight, weight)
    manager.finalize()


def test_without_statistics_there_is_nothing_to_freeze():
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, track_running_stats=False))
    with pytest.raises(TargetError, match="it keeps no running statistics"):
        hooked(model)

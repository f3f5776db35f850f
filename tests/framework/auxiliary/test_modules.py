"""Modules beside the model, and optimizers like the user's."""

import pytest
import torch
from sample_models import mlp
from torch import nn

from paredown import CheckpointError, ScheduleError
from paredown.framework.auxiliary.mirrored_optimizer import mirrored_optimizers
from paredown.framework.auxiliary.modules import AuxiliaryModules, seeded

KINDS = {
    "SGD": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
    "Adam": lambda p: torch.optim.Adam(p, 0.01, amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, 0.01, betas=(0.8, 0.9)),
    "RAdam": lambda p: torch.optim.RAdam(p, 0.01),
    "NAdam": lambda p: torch.optim.NAdam(p, 0.01),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.5),
    "Adagrad": lambda p: torch.optim.Adagrad(p, 0.01),
    "Adamax": lambda p: torch.optim.Adamax(p, 0.01),
    "fused": lambda p: torch.optim.AdamW(p, 0.01, fused=True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_optimizer_of_torch_has_a_like(kind):
    model, other, reference = mlp(), mlp(seed=1), mlp(seed=1)
    theirs = KINDS[kind](reference.parameters())
    (like,) = mirrored_optimizers([KINDS[kind](model.parameters())], other, model)
    for step in range(3):
        x = torch.randn(4, 16, generator=torch.Generator().manual_seed(step))
        for network, optimizer in ((other, like), (reference, theirs)):
            network.zero_grad()
            network(x).square().mean().backward()
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), reference.parameters(), strict=True))


def test_several_optimizers_each_have_their_like():
    model, twin, adapter = mlp(), mlp(seed=1), nn.Linear(3, 3)
    named = dict(model.named_parameters())
    optimizers = [
        torch.optim.SGD([named["0.weight"], named["0.bias"]], 0.1),
        torch.optim.AdamW([{"params": [named["2.weight"]]}, {"params": [named["4.weight"]], "lr": 0.5}], 0.01),
    ]
    likes = mirrored_optimizers(optimizers, twin, model)
    assert [type(like.optimizer) for like in likes] == [torch.optim.SGD, torch.optim.AdamW]
    assert [group["lr"] for group in likes[1].optimizer.param_groups] == [0.01, 0.5]
    held = {id(p) for like in likes for group in like.optimizer.param_groups for p in group["params"]}
    assert held == {
        id(p) for name, p in twin.named_parameters() if name in ("0.weight", "0.bias", "2.weight", "4.weight")
    }
    (alone,) = mirrored_optimizers(optimizers, adapter, model)
    assert type(alone.optimizer) is torch.optim.SGD


def test_a_class_that_cannot_be_built_again_is_named():
    class Own(torch.optim.SGD):
        def __init__(self, parameters, secret):
            super().__init__(parameters, 0.1)

    model = mlp()
    with pytest.raises(ScheduleError, match="no second Own can be built"):
        mirrored_optimizers([Own(model.parameters(), 3)], mlp(), model)


def test_gradients_that_are_not_finite_are_left_out():
    model = mlp()
    extras = AuxiliaryModules([torch.optim.SGD(model.parameters(), 0.5)])
    layer = extras.add("a", "b", nn.Linear(2, 2), trained_like=model)
    before = layer.weight.detach().clone()
    for value, scale, moved in ((float("inf"), 1.0, 0.0), (float("nan"), 1.0, 0.0), (8.0, 4.0, -1.0)):
        layer.weight.grad = torch.full_like(layer.weight, value)
        layer.bias.grad = torch.zeros_like(layer.bias)
        extras.step(scale)
        assert torch.allclose(layer.weight, before + moved)
        assert layer.weight.grad is None


def test_what_was_saved_is_taken_by_what_is_added_later():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.5, momentum=0.9)
    extras = AuxiliaryModules([optimizer])
    layer = extras.add("a", "b", nn.Linear(2, 2), trained_like=model)
    layer(torch.ones(1, 2)).sum().backward()
    extras.step(1.0)
    state = extras.state_dict()
    again = AuxiliaryModules([optimizer])
    again.load_state_dict(state)
    assert again.state_dict().keys() == state.keys()
    later = again.add("a", "b", nn.Linear(2, 2), trained_like=model)
    assert torch.equal(later.weight, layer.weight)
    for each in (layer, later):
        each(torch.ones(1, 2)).sum().backward()
    extras.step(1.0)
    again.step(1.0)
    assert torch.equal(later.weight, layer.weight)
    again.remove("a")
    assert not again.state_dict()
    again.load_state_dict(state)
    with pytest.raises(CheckpointError, match="a/b does not fit"):
        again.add("a", "b", nn.Linear(3, 2), trained_like=model)


def test_random_numbers_of_ones_own():
    torch.manual_seed(1)
    want = torch.rand(2)
    torch.manual_seed(1)
    with seeded(5, torch.device("cpu")):
        first = torch.rand(2)
    assert torch.equal(torch.rand(2), want)
    with seeded(5, torch.device("cpu")):
        assert torch.equal(torch.rand(2), first)

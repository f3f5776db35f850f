"""Activation checkpointing runs a forward again in the backward; ranges are those of one forward."""

import pytest
import torch
from sample_models import batches, mlp, recipe_of, train
from torch import nn
from torch.utils.checkpoint import checkpoint

from paredown import Recipe, ScheduledManager


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.net, self.reentrant = mlp(), reentrant

    def forward(self, x):
        if self.reentrant is None:
            return self.net(x)
        return self.net[4](checkpoint(self.net[:4], x.requires_grad_(), use_reentrant=self.reentrant))


def trained(reentrant, kind):
    model = Checkpointed(reentrant)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    manager = ScheduledManager(Recipe.load(recipe_of(2, quantize={"type": kind})))
    manager.modify(model, optimizer, 10)
    train(model, optimizer, batches(10), 2)
    manager.finalize()
    return model.state_dict()


@pytest.mark.parametrize("kind", ["quantization_aware_training", "learned_step_size"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_weights_and_ranges_are_those_without_checkpointing(kind, reentrant):
    plain, checkpointed = trained(None, kind), trained(reentrant, kind)
    assert plain.keys() == checkpointed.keys()
    for name, tensor in plain.items():
        assert torch.equal(tensor, checkpointed[name]), name

"""Rules for gradients: what they change, and that they come off."""

import copy

import torch
from torch import nn

from paredown.framework.model.gradients import Gradients


def test_a_rule_acts_in_every_backward_until_it_is_removed():
    layer, gradients = nn.Linear(3, 2), Gradients()
    gradients.add(layer.weight, lambda gradient: 2 * gradient)
    plain = copy.deepcopy(layer)
    x = torch.randn(4, 3)
    for _ in range(2):
        layer(x).sum().backward()
        plain(x).sum().backward()
    assert torch.equal(layer.weight.grad, 2 * plain.weight.grad)
    gradients.remove()
    for module in (layer, plain):
        module.zero_grad()
        module(x).sum().backward()
    assert torch.equal(layer.weight.grad, plain.weight.grad)


def test_what_is_not_trained_has_none():
    Gradients().add(nn.Parameter(torch.ones(2), requires_grad=False), lambda gradient: gradient)

"""Layers of zoo classes: those that compute what the ordinary layer does are decomposed, others are told."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from paredown import ScheduledManager


class Wrapped(nn.Conv2d):
    """As detectors have it: a norm and an activation that may be there."""

    norm, activation = None, None

    def forward(self, x):
        x = self._conv_forward(x, self.weight, self.bias)
        x = x if self.norm is None else self.norm(x)
        return x if self.activation is None else self.activation(x)


class Standardized(nn.Conv2d):
    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return functional.conv2d(x, weight, self.bias, self.stride, self.padding)


class Noisy(nn.Linear):
    """An ordinary layer in eval mode only."""

    def forward(self, x):
        y = super().forward(x)
        return y + 0.1 if self.training else y


def decomposed(*layers):
    torch.manual_seed(0)
    model = nn.Sequential(*layers)
    recipe = {"recipe": 1, "modifiers": {"cut": {"type": "svd_decomposition", "rank": 2, "guard": "none"}}}
    report = ScheduledManager(recipe).apply(model, example_inputs=torch.randn(2, 3, 8, 8))
    return model, {event["layer"]: event["reason"] for event in report.events if event["event"] == "left alone"}


@pytest.mark.parametrize("activation", [None, torch.relu])
def test_an_ordinary_forward_in_other_words_is_decomposed(activation):
    odd = Wrapped(8, 16, 3)
    odd.activation = activation
    model, reasons = decomposed(nn.Conv2d(3, 8, 3), odd)
    assert isinstance(model[0], nn.Sequential)
    assert isinstance(model[1], nn.Sequential) == (activation is None)
    assert "a forward of its own, which two layers would not compute" in reasons.get("1", "") or activation is None


def test_what_computes_something_else_is_left_alone():
    model, reasons = decomposed(nn.Conv2d(3, 8, 3), Standardized(8, 16, 3), nn.Flatten(), Noisy(256, 32))
    assert set(reasons) == {"1", "3"}
    assert isinstance(model[1], Standardized)

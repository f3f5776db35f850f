"""Dead channels: a masked network becomes its exact smaller self, and what is alive stays."""

import pytest
import torch
from torch import nn

from paredown import ScheduledManager


class Net(nn.Module):
    def __init__(self, act):
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.depth, self.b = nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 24, 1)
        self.act, self.lstm, self.out = act, nn.LSTM(24, 12, batch_first=True), nn.Linear(12, 4)

    def forward(self, x):
        y = self.act(self.b(self.depth(self.act(self.norm(self.a(x))))))
        return self.out(self.lstm(y.mean(2).transpose(1, 2))[0][:, -1])


def net(act=None):
    torch.manual_seed(0)
    model = Net(act or nn.ReLU()).eval()
    with torch.no_grad():
        for tensor in (*model.norm.parameters(), *model.norm.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.5)
    return model, torch.randn(2, 3, 8, 8)


def zero(*parts):
    with torch.no_grad():
        for part in parts:
            part.zero_()


def apply(model, x, **fields):
    more = {"final_sparsity": "dead", "round_to": 1, **fields}
    recipe = {"recipe": 1, "modifiers": {"cut": {"type": "channel_pruning", **more}}}
    return ScheduledManager(recipe).apply(model, example_inputs=x)


def test_zeros_in_front_behind_and_on_the_way_go_and_nothing_changes():
    model, x = net()
    zero(model.a.weight[:3], model.a.bias[:3], model.norm.weight[:3], model.norm.bias[:3])  # nothing comes
    zero(model.b.weight[:, 5:7])  # nobody reads it
    zero(model.depth.weight[9:11], model.depth.bias[9:11], model.depth.bias[:3])  # nothing passes
    zero(model.b.weight[:8], model.b.bias[:8])
    zero(model.lstm.weight_ih_l0[:, 20:])
    with torch.no_grad():
        wanted = model(x)
    apply(model, x)
    assert (model.a.out_channels, model.b.out_channels) == (9, 12)
    assert torch.allclose(model(x), wanted, atol=1e-6)


def test_what_makes_something_of_zero_is_alive():
    model, x = net(nn.Sigmoid())
    zero(model.b.weight[:8], model.b.bias[:8])  # a half for each
    zero(model.a.weight[:4], model.a.bias[:4])  # but the batch-norm has a bias
    apply(model, x)
    assert (model.a.out_channels, model.b.out_channels) == (16, 24)


def test_what_only_the_dead_read_is_dead_too():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)
    )
    zero(model[6].weight[:, :4], model[4].weight[4:, :2], model[2].weight[2:, 5])
    x = torch.randn(4, 6)
    with torch.no_grad():
        wanted = model(x)
    apply(model, x)
    assert [model[place].out_features for place in (0, 2, 4)] == [7, 6, 4]
    assert torch.allclose(model(x), wanted, atol=1e-6)


def test_rounding_keeps_the_dead_and_never_takes_the_living():
    model, x = net()
    zero(model.b.weight[:5], model.b.bias[:5])
    apply(model, x, round_to=8, targets=["b"])
    assert model.b.out_channels == 24
    zero(model.b.weight[:11], model.b.bias[:11])
    apply(model, x, round_to=8, targets=["b"])
    assert model.b.out_channels == 16


@pytest.mark.parametrize("scope", ["local", "global"])
def test_a_share_takes_the_dead_first(scope):
    model, x = net()
    zero(model.b.weight[:12], model.b.bias[:12])
    with torch.no_grad():
        model.lstm.weight_ih_l0[:, :12] *= 100  # what reads them does not make them worth something
        wanted = model(x)
    apply(model, x, final_sparsity=0.5, scope=scope, targets=["b"])
    assert model.b.out_channels == 12
    assert torch.allclose(model(x), wanted, atol=1e-6)

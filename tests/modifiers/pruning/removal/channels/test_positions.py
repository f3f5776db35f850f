"""Operators that act on each channel alone: half of the channels in front of them go, exactly."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from paredown.framework.model.graph.fusion import export_graph
from paredown.framework.model.surgery import Surgery
from paredown.modifiers.pruning.removal.channels import Removal, analyse, commit, find_groups, runner, verified
from paredown.modifiers.pruning.removal.channels.cutting import gone_at
from paredown.modifiers.pruning.removal.channels.trial import masked

GRID = torch.rand(2, 8, 8, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
BACK = torch.arange(63, -1, -1)


def each_place(x, index):
    return index.expand(x.shape[0], x.shape[1], 64)


def assigned(x):
    y = torch.zeros_like(x)
    y[:, :, 1:] = x[:, :, :-1]
    y[:, :, 0, ::2] = x[:, :, 1, ::2]
    y[..., 3] += 1
    return y


def put(x):
    y = x.clone()
    y[:, :, [0, 3]] = x[:, :, [1, 2]]
    y[:, :, :, [1]] = 0.5
    return y


OPERATORS = {
    "grid_sample": lambda x: functional.grid_sample(x, GRID, align_corners=False),
    "fold": lambda x: functional.fold(functional.unfold(x, 2, stride=2), (8, 8), 2, stride=2),
    "unfold": lambda x: functional.unfold(x, 3, padding=1).view(len(x), x.shape[1], 9, 64).mean(2).view_as(x),
    "rfft2": lambda x: torch.fft.irfft2(torch.fft.rfft2(x), s=(8, 8)),
    "fftn": lambda x: torch.fft.fftshift(torch.fft.fftn(x, dim=(2, 3)), dim=(2, 3)).real,
    "fft": lambda x: torch.view_as_real(torch.fft.fft(x)).sum(-1),
    "gather": lambda x: x.flatten(2).gather(2, each_place(x, BACK)).view_as(x),
    "gather by each channel's own": lambda x: x.flatten(2).gather(2, x.flatten(2).argsort(-1)).view_as(x),
    "take_along_dim": lambda x: torch.take_along_dim(x.flatten(2), BACK[None, None], 2).view_as(x),
    "scatter": lambda x: torch.zeros_like(x).flatten(2).scatter(2, each_place(x, BACK), x.flatten(2)).view_as(x),
    "scatter_add": lambda x: x.flatten(2).scatter_add(2, each_place(x, BACK // 2), x.flatten(2)).view_as(x),
    "index_add": lambda x: x.index_add(2, torch.tensor([0, 1]), x[:, :, 2:4]),
    "index_fill": lambda x: x.index_fill(3, torch.tensor([0, 2]), 0.0),
    "topk": lambda x: x.flatten(2).topk(64, -1).values.view_as(x),
    "kthvalue": lambda x: x * x.flatten(2).kthvalue(3, -1, keepdim=True).values[..., None],
    "quantile": lambda x: x - x.flatten(2).quantile(0.5, -1)[..., None, None],
    "cummax": lambda x: x.cummax(3).values,
    "select_scatter": lambda x: x.select_scatter(x[:, :, 0], 2, 3),
    "slices": assigned,
    "indices": put,
}


class Around(nn.Module):
    def __init__(self, operator):
        super().__init__()
        self.operator = operator
        self.first, self.second = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 4, 1)

    def forward(self, x):
        return self.second(self.operator(self.first(x)))


def cut_half(model, inputs):
    """What a cut of every second unit was, and the outputs with zeros in their place."""
    analysis = analyse(export_graph(model, inputs), model)
    removals = [Removal(each, torch.arange(0, each.units, 2)) for each in find_groups(analysis, {}) if each.units > 1]
    made = verified(model, runner(model, inputs, None), analysis, removals)
    dense = copy.deepcopy(model)
    with masked(dense, gone_at(made.cut.removals)), torch.no_grad():
        wanted = dense(inputs)
    commit(Surgery(model, [], {}), made.cut)
    return made, wanted


@pytest.mark.parametrize("name", OPERATORS)
def test_half_of_the_channels_in_front_go(name):
    torch.manual_seed(0)
    model, x = Around(OPERATORS[name]).eval(), torch.randn(2, 3, 8, 8)
    made, wanted = cut_half(model, x)
    assert not made.refused
    assert model.first.out_channels == model.second.in_channels == 6
    assert torch.allclose(model(x), wanted, atol=1e-5)


ACROSS = {
    "fft over channels": lambda x: torch.fft.fft(x, dim=1).real,
    "topk of channels": lambda x: x.topk(12, 1).values,
    "a channel by its number": lambda x: x.index_fill(1, torch.tensor([3]), 0.0),
    "assigned to a channel": lambda x: x.clone().index_put((torch.tensor([0]), torch.tensor([3])), torch.zeros(8, 8)),
    "gathered over channels": lambda x: x.gather(1, torch.arange(11, -1, -1).view(1, 12, 1, 1).expand(2, 12, 8, 8)),
}


@pytest.mark.parametrize("name", ACROSS)
def test_what_mixes_channels_holds_them(name):
    torch.manual_seed(0)
    model, x = Around(ACROSS[name]).eval(), torch.randn(2, 3, 8, 8)
    made, wanted = cut_half(model, x)
    assert not made.cut.removals or torch.allclose(model(x), wanted, atol=1e-5)
    assert model.first.out_channels == 12

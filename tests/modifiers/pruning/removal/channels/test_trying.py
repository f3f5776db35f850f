"""Finding what can be cut: sizes that modules keep, groups that only conflict with each other, rounding."""

import copy

import pytest
import torch
from torch import nn

from paredown.framework.model.graph.fusion import export_graph
from paredown.framework.model.surgery import Surgery
from paredown.modifiers.pruning.removal.channels import (
    Removal,
    analyse,
    commit,
    find_groups,
    gone_at,
    masked,
    runner,
    verified,
)


class Block(nn.Module):
    """Halves that are split by a size that the module keeps, one through two more convolutions, as detectors have it."""

    def __init__(self, inputs, c, outputs, knot=False):
        super().__init__()
        self.c, self.knot = c, knot
        self.cv1, self.cv2 = nn.Conv2d(inputs, 2 * c, 1), nn.Conv2d(3 * c, outputs, 1)
        self.m1, self.m2 = nn.Conv2d(c, c, 3, padding=1), nn.Conv2d(c, c, 3, padding=1)

    def forward(self, x):
        a, b = self.cv1(x).split((self.c, self.c), 1)
        y = self.m1(b).relu()
        if self.knot:  # one attribute for two sizes that have nothing to do with each other
            y = y.flatten(2).view(len(y), self.c, *y.shape[2:])
        return self.cv2(torch.cat([a, b, self.m2(y)], 1))


def cut(model, x, count):
    analysis = analyse(export_graph(model, x), model)
    groups = [group for group in find_groups(analysis, {}) if group.units > 1]
    removals = [Removal(group, torch.arange(count(place, group.units))) for place, group in enumerate(groups)]
    made = verified(model, runner(model, x, None), analysis, removals)
    dense = copy.deepcopy(model)
    with masked(dense, gone_at(made.cut.removals)), torch.no_grad():
        wanted = dense(x)
    commit(Surgery(model, [], {}), made.cut)
    assert torch.allclose(model(x), wanted, atol=1e-5)
    return made


def differently(place, units):
    return min(units // 4 + place, units - 1)


def test_a_size_belongs_to_the_module_whose_code_gives_it_to_operators():
    torch.manual_seed(0)
    model = nn.Sequential(Block(3, 16, 12), nn.ReLU(), Block(12, 16, 16), nn.ReLU(), nn.Conv2d(16, 4, 1)).eval()
    made = cut(model, torch.randn(2, 3, 6, 6), differently)
    assert not made.refused
    assert all(2 * model[place].c == model[place].cv1.out_channels < 32 for place in (0, 2))


def test_a_conflict_refuses_its_own_groups_only():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 12, 1), Block(12, 16, 12, knot=True), Block(12, 8, 16), nn.Conv2d(16, 4, 1)
    ).eval()
    made = cut(model, torch.randn(2, 3, 6, 6), differently)
    assert set(made.refused) == {"1.cv1", "1.m1"}
    assert len(made.cut.removals) == 7


def test_a_knot_is_solved_by_equal_numbers():
    torch.manual_seed(0)
    model = nn.Sequential(Block(3, 16, 12, knot=True), nn.Conv2d(12, 4, 1)).eval()
    assert not cut(model, torch.randn(2, 3, 6, 6), lambda place, units: units // 2).refused
    assert model[0].c == 8


def deep(width, depth):
    block = lambda i: nn.Sequential(nn.Conv2d(i, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.SiLU())  # noqa: E731
    return nn.Sequential(block(3), *[block(width) for _ in range(depth)], nn.Conv2d(width, 4, 1))


@pytest.mark.parametrize("depth", [24, 48])
def test_rounding_that_grows_in_a_deep_net_is_no_difference(depth):
    torch.manual_seed(0)
    model = deep(8, depth)
    assert not cut(model.eval(), torch.randn(1, 3, 2, 2), lambda place, units: units // 2).refused


class Scaled(nn.Module):
    """In training mode it divides by a size that no attribute keeps."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x):
        y = self.first(x)
        return self.second(y / y.shape[1] if self.training else y)


def test_a_difference_in_training_mode_is_none_of_rounding():
    torch.manual_seed(0)
    made = cut(Scaled().eval(), torch.randn(4, 6), lambda place, units: units // 2)
    assert "in training mode its output differs" in made.refused["first"]


class Helped(nn.Module):
    """A head that only training has."""

    def __init__(self):
        super().__init__()
        self.stem, self.out, self.aux = nn.Linear(6, 16), nn.Linear(16, 3), nn.Linear(16, 5)

    def forward(self, x):
        y = self.stem(x).relu()
        return (self.out(y), self.aux(y)) if self.training else self.out(y)


def test_a_head_of_training_only_shrinks_along():
    model, x = Helped().eval(), torch.randn(4, 6)
    analysis = analyse(export_graph(model, x), model, export_graph(model, x, training=True))
    (group,) = [group for group in find_groups(analysis, {}) if group.units > 1]
    assert set(group.slices) == {("stem.weight", 0), ("stem.bias", 0), ("out.weight", 1), ("aux.weight", 1)}
    assert not model.training

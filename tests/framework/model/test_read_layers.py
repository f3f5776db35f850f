"""What a forward does with its children, read off its source."""

import pytest
import torch
from torch import nn

from paredown.framework.model.read_layers import uses_of, weight_is_read


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        nn.init.normal_(self.layer.weight)  # no forward


class Called(Base):
    def forward(self, x):
        return self.layer(x.to(self.layer.weight.dtype)).view(self.layer.weight.shape[0], -1)


class Checked(Base):
    def forward(self, x):
        return self.layer(x) if isinstance(self.layer.weight, torch.Tensor) and self.layer.weight.size(0) else x


class Read(Base):
    def forward(self, x):
        return nn.functional.linear(x, self.layer.weight)


class ReadByName(Base):
    def forward(self, x):
        projection = self.layer
        weight = projection.weight
        return x @ weight.t()


class ReadInMethod(Base):
    def forward(self, x):
        return self.project(x)

    def project(self, x):
        return x @ self.turned

    @property
    def turned(self):
        return self.layer.weight.t()


class ReadFromAbove(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Called()

    def forward(self, x):
        return self.inner(x) + self.inner.layer.weight.sum()


class Both(Base):
    def forward(self, x):
        return self.layer(x) + self.layer.weight.norm()


@pytest.mark.parametrize(
    ("kind", "read", "called"),
    [
        (Called, False, True),
        (Checked, False, True),
        (Read, True, False),
        (ReadByName, True, False),
        (ReadInMethod, True, False),
        (Both, True, True),
    ],
)
def test_what_a_parent_does_with_a_layer(kind, read, called):
    model = nn.Sequential(kind())
    assert weight_is_read(model, "0.layer") == read
    assert any(use.called and not use.path for use in uses_of(model, "0.layer")) == called


def test_modules_further_up_are_looked_at():
    assert weight_is_read(ReadFromAbove(), "inner.layer")


def test_torch_and_what_has_no_source_tell_nothing():
    assert not weight_is_read(nn.MultiheadAttention(4, 2), "out_proj")
    space = {"Base": Base, "nn": nn}
    exec("class Hidden(Base):\n    def forward(self, x):\n        return x @ self.layer.weight", space)
    assert not weight_is_read(space["Hidden"](), "layer")

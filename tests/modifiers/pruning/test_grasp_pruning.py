import math

import pytest
import torch
from torch import nn

from paredown import Recipe, ScheduledManager, TargetError

DATA = [
    (torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(k)), torch.tensor([k % 4, 1, 2, 3])) for k in range(3)
]
RECIPE = {"recipe": 1, "modifiers": {"grasp": {"type": "grasp_pruning", "final_sparsity": 0.5, "scope": "local"}}}


class Attention(nn.Module):
    """Attention by torch's fused kernel, or by products."""

    def __init__(self, fused):
        super().__init__()
        torch.manual_seed(0)
        self.fused = fused
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        q, k, v = self.q(x), self.k(x), self.v(x)
        if self.fused:
            return self.head(nn.functional.scaled_dot_product_attention(q, k, v).mean(1))
        return self.head(((q @ k.mT / math.sqrt(8)).softmax(-1) @ v).mean(1))


def test_through_fused_attention_the_same_go_as_through_products():
    zeros = []
    for fused in (True, False):
        model = Attention(fused).double()
        ScheduledManager(Recipe.load(RECIPE)).apply(model, data=[(x.double(), y) for x, y in DATA])
        zeros.append([module.weight == 0 for module in model.modules() if isinstance(module, nn.Linear)])
    assert all(torch.equal(one, other) for one, other in zip(*zeros, strict=True))


def test_an_operator_without_a_second_derivative_is_named():
    class Distances(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.places = nn.Linear(8, 2)
            self.head = nn.Linear(25, 4)

        def forward(self, x):
            places = self.places(x)
            return self.head(torch.cdist(places, places.exp()).flatten(1))

    with pytest.raises(TargetError, match="second derivatives, and an operator of the model has none .*cdist"):
        ScheduledManager(Recipe.load(RECIPE)).apply(Distances(), data=DATA)

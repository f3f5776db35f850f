"""The multiply-accumulates that a cut will leave, foreseen from the graph, against torch's count of the cut model."""

import pytest
import torch
from architectures import ARCHITECTURES
from torch import nn

from paredown.framework.measure.products import count_products
from paredown.framework.model.graph.fusion import export_graph
from paredown.framework.model.surgery import Surgery
from paredown.modifiers.pruning.removal.channel_budget import Costs
from paredown.modifiers.pruning.removal.channels import (
    Removal,
    analyse,
    commit,
    find_groups,
    fixed_places,
    runner,
    verified,
)

pytestmark = pytest.mark.filterwarnings("ignore")


class Raw(nn.Module):
    """Products with parameters of the model's own, in all the ways in which they are written."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(16, 24)), nn.Parameter(torch.randn(24, 20))
        self.third, self.bias = nn.Parameter(torch.randn(20, 12)), nn.Parameter(torch.randn(12))
        self.lstm, self.cell = nn.LSTM(12, 10, batch_first=True), nn.GRUCell(10, 8)
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        x = torch.einsum("bti,ih->bth", x, self.first).relu() @ self.second
        x = torch.addmm(self.bias, x.relu().flatten(0, 1), self.third).view(len(x), -1, 12)
        return self.out(self.cell(self.lstm(x.relu())[0][:, -1]))


NETS = {**ARCHITECTURES, "raw": lambda: (Raw(), torch.randn(2, 5, 16))}


@pytest.mark.parametrize("name", NETS)
def test_what_is_foreseen_is_what_is_counted(name):
    torch.manual_seed(0)
    model, inputs = NETS[name]()
    analysis = analyse(export_graph(model, inputs), model)
    costs = Costs(model, analysis, inputs, None)
    assert costs._rest == 0
    groups = [group for group in find_groups(analysis, fixed_places(model)) if group.units > 1]
    removals = [Removal(group, torch.arange(group.units // 3 or 1)) for group in groups]
    made = verified(model, runner(model, inputs, None), analysis, removals)
    assert made.cut.removals
    macs, parameters = costs.macs(made.cut.removals), costs.parameters(made.cut.removals)
    commit(Surgery(model, [], {}), made.cut)
    assert macs == count_products(model, inputs, None).with_weights
    assert parameters == sum(each.numel() for each in model.parameters())

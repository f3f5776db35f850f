"""What was aimed at and what was reached, of channels, heads and layers."""

import pytest
import torch
from sample_models import mlp
from torch import nn

from paredown import ScheduledManager, ScheduleError


class FixedHidden(nn.Module):
    """Its caller fixes the hidden size of the GRU."""

    def __init__(self):
        super().__init__()
        self.front, self.gru, self.out = nn.Linear(16, 32), nn.GRU(32, 96, batch_first=True), nn.Linear(96, 4)

    def forward(self, x):
        return self.out(self.gru(self.front(x).relu(), torch.zeros(1, len(x), 96))[0][:, -1])


def apply(model, x, **fields):
    more = {"type": "channel_pruning", **fields}
    manager = ScheduledManager({"recipe": 1, "modifiers": {"cut": more}})
    return manager, manager.apply(model, example_inputs=x)


@pytest.mark.parametrize("aim", [{"final_sparsity": 0.9}, {"budget": {"macs": 0.3}}, {"budget": {"parameters": 0.3}}])
def test_what_a_refused_group_puts_out_of_reach_is_told_with_both_numbers(aim):
    torch.manual_seed(0)
    wanted = str(aim.get("final_sparsity") or next(iter(aim["budget"].values())))
    with pytest.raises(ScheduleError, match=f"was reached, {wanted} was wanted .*gru"):
        apply(FixedHidden(), torch.randn(4, 5, 16), **aim)


def test_what_is_refused_is_made_up_for_where_all_compete():
    torch.manual_seed(0)
    model = FixedHidden()
    model.front = nn.Sequential(nn.Linear(16, 400), nn.ReLU(), nn.Linear(400, 32))
    manager, _ = apply(model, torch.randn(4, 5, 16), final_sparsity=0.4, round_to=1)
    assert manager.done
    assert model.gru.hidden_size == 96
    gone = 400 - model.front[0].out_features + 32 - model.front[2].out_features
    assert gone == round(0.4 * (400 + 32 + 3 * 96))


def test_rounding_to_the_nearest_is_no_miss_but_to_all_is():
    manager, _ = apply(mlp(20), torch.randn(2, 16), final_sparsity=0.5)
    assert manager.done
    with pytest.raises(ScheduleError, match=r"sparsity 0 was reached, 0\.4 was wanted .*round_to: 32"):
        apply(mlp(32), torch.randn(2, 16), final_sparsity=0.4, round_to=32)


def test_layers_of_which_one_has_to_stay():
    block = lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU())  # noqa: E731
    model = nn.Sequential(nn.Sequential(*[block() for _ in range(4)]), nn.Linear(8, 2))
    with pytest.raises(ScheduleError, match=r"sparsity 0\.75 was reached, 1 was wanted"):
        apply(model, torch.randn(2, 8), type="layer_pruning", final_sparsity=1.0)

"""Two processes: zeros and weights are the same on both, and those of one process on all the data."""

import pytest
import torch
from sample_models import mlp, recipe_of
from two_processes import alike_in_two_processes

from paredown import Recipe, ScheduledManager

RECIPES = {
    "sparsegpt": {"type": "sparsegpt", "final_sparsity": 0.6},
    "wanda": {"type": "wanda_pruning", "structure": "2:4"},
    "wanda, updated": {"type": "wanda_pruning", "final_sparsity": 0.6, "update_weights": True},
    "exact": {"type": "optimal_brain_compression", "final_sparsity": 0.6},
}


def run(name, rank, world):
    generator = torch.Generator().manual_seed(3)
    batches = [(torch.randn(8, 16, generator=generator).double()[rank::world],) for _ in range(6)]
    model = mlp().double()
    ScheduledManager(Recipe.load(recipe_of(1, p=RECIPES[name]))).apply(model, data=batches)
    return model.state_dict()


@pytest.mark.slow
def test_two_processes_agree(tmp_path):
    for name, key, value, alone in alike_in_two_processes(run, RECIPES, tmp_path):
        assert torch.allclose(value, alone, rtol=1e-5, atol=1e-7), (name, key)

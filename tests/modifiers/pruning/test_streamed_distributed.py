"""Two processes: zeros and weights are the same on both, and those of one process on all the data."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from sample_models import mlp, recipe_of

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


def process(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save({name: run(name, rank, 2) for name in RECIPES}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_agree(tmp_path):
    mp.spawn(process, (str(tmp_path),), nprocs=2)
    both = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for name in RECIPES:
        alone = run(name, 0, 1)
        for key, value in both[0][name].items():
            assert torch.equal(value, both[1][name][key]), (name, key)
            assert torch.allclose(value, alone[key], rtol=1e-5, atol=1e-7), (name, key)

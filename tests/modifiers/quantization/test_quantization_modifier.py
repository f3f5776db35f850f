"""Two processes: ranges, widths and learned scales are the same on both, and those of one process on all the data."""

import pytest
import torch
from sample_models import mlp, recipe_of
from torch import nn
from two_processes import alike_in_two_processes

from paredown import Recipe, ScheduledManager

RECIPES = {
    "moving average": {"type": "quantization_aware_training"},
    "histogram": {"type": "quantization_aware_training", "activations": {"observer": "mse"}, "every": "2 steps"},
    "learned": {"type": "learned_step_size", "weights": {"bits": 4}},
    "static": {"type": "static_quantization"},
    "gptq": {"type": "gptq", "weights": {"bits": 4, "granularity": "channel"}},
}


def data():
    generator = torch.Generator().manual_seed(3)
    return [(torch.randn(8, 16, generator=generator), torch.randint(0, 4, (8,), generator=generator)) for _ in range(6)]


def run(name, rank, world):
    torch.manual_seed(0)
    model = mlp().double()
    batches = [(x.double()[rank::world], y[rank::world]) for x, y in data()]
    manager = ScheduledManager(Recipe.load(recipe_of(1, q=RECIPES[name])))
    if name in ("static", "gptq"):
        manager.apply(model, data=batches)
        return model.state_dict()
    wrapped = nn.parallel.DistributedDataParallel(model) if world > 1 else model
    optimizer = torch.optim.SGD(wrapped.parameters(), 0.01)
    manager.modify(wrapped, optimizer, len(batches))
    for x, y in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(wrapped(x), y).backward()
        optimizer.step()
    manager.finalize()
    return model.state_dict()


@pytest.mark.slow
def test_two_processes_agree(tmp_path):
    for name, key, value, alone in alike_in_two_processes(run, RECIPES, tmp_path):
        if name != "learned":  # its processes average what each learned from its own half
            assert torch.allclose(value.double(), alone.double(), rtol=1e-5, atol=1e-7), (name, key)

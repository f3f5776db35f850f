"""Whole runs: resumed at any step, scaled gradients, several processes, several optimizers."""

import pytest
import torch
from resuming import assert_resumes, going
from sample_models import batches, mlp, recipe_of
from torch import nn
from two_processes import alike_in_two_processes

from paredown import Recipe, ScheduledManager

CASES = {
    "gradual 2:4": {"type": "magnitude_pruning", "structure": "2:4", "end": 2, "every": "3 steps"},
    "blocks by erk": {
        "type": "taylor_pruning",
        "structure": {"block": [2, 1]},
        "scope": "erk",
        "final_sparsity": 0.6,
        "every": "2 steps",
    },
    "owl": {"type": "taylor_pruning", "scope": "owl", "final_sparsity": 0.6, "every": "2 steps"},
    "movement that comes back": {"type": "movement_pruning", "final_sparsity": 0.6, "every": "2 steps"},
    "fisher": {"type": "fisher_pruning", "final_sparsity": 0.6, "every": "4 steps", "block_size": 7},
    "random": {"type": "random_pruning", "final_sparsity": 0.6, "every": "1 steps", "scope": "local"},
    "rigl": {"type": "rigl", "final_sparsity": 0.6, "every": "2 steps"},
    "set": {"type": "rigl", "growth": "random", "final_sparsity": 0.6, "every": "2 steps"},
    "acdc": {"type": "acdc", "final_sparsity": 0.6, "every": "3 steps", "start": "1 steps", "end": "13 steps"},
    "ticket": {
        "type": "lottery_ticket",
        "final_sparsity": 0.6,
        "every": "4 steps",
        "end": "12 steps",
        "rewind_to": "1 steps",
    },
    "handed back": {
        "type": "magnitude_pruning",
        "final_sparsity": 0.6,
        "every": "2 steps",
        "end": "8 steps",
        "hold": False,
    },
}
DATA = batches(6)


def begun(fields, model=None, optimizer=torch.optim.AdamW):
    model = mlp() if model is None else model
    optimizer = optimizer(model.parameters(), 1e-2)
    manager = ScheduledManager(Recipe.load(recipe_of(3, p=fields)))
    manager.modify(model, optimizer, 6, data=DATA)
    return model, optimizer, manager


go = going(DATA)


@pytest.mark.parametrize("name", CASES)
def test_resumed_at_any_step_the_weights_are_the_same_bits(name, tmp_path):
    assert_resumes(lambda: begun(CASES[name]), go, 18, (2, 5, 7, 8, 13), tmp_path)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("fused", [False, True])
def test_a_gradient_scaler_changes_no_mask(fused, kind):
    masks = []
    for scaled in (False, True):
        model = mlp()
        optimizer = kind(model.parameters(), 1e-2, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=scaled, growth_interval=3)
        manager = ScheduledManager(Recipe.load(recipe_of(2, p=CASES["owl"])))
        manager.modify(model, optimizer, 6, grad_scaler=scaler if scaled else None)
        for step in range(12):
            x, y = DATA[step % 6]
            optimizer.zero_grad()
            scaler.scale(nn.functional.cross_entropy(model(x), y)).backward()
            scaler.step(optimizer)
            scaler.update()
        masks.append(torch.cat([p.flatten() for p in model.parameters()]))
    torch.testing.assert_close(masks[0], masks[1], rtol=1e-4, atol=1e-5)
    assert torch.equal(masks[0] == 0, masks[1] == 0)


def test_a_second_optimizers_step_is_not_watched_twice():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 4)

        def forward(self, x):
            return self.b(torch.relu(self.a(x)))

    model = Pair()
    optimizers = [torch.optim.SGD(model.a.parameters(), 0.1), torch.optim.SGD(model.b.parameters(), 0.1)]
    manager = ScheduledManager(
        Recipe.load(recipe_of(2, p={"type": "taylor_pruning", "final_sparsity": 0.5, "every": "6 steps"}))
    )
    manager.modify(model, optimizers, 6)
    for step in range(5):
        x, y = DATA[step]
        for optimizer in optimizers:
            optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        for optimizer in optimizers:
            optimizer.step()
    assert manager.run.states["p"].watched.count == 5


def run(name, rank, world):
    torch.manual_seed(0)
    model = mlp().double()
    data = [(x.double()[rank::world], y[rank::world]) for x, y in batches(6)]
    wrapped = nn.parallel.DistributedDataParallel(model) if world > 1 else model
    optimizer = torch.optim.SGD(wrapped.parameters(), 0.05)
    manager = ScheduledManager(Recipe.load(recipe_of(3, p=CASES[name])))
    manager.modify(wrapped, optimizer, 6, data=data)
    for step in range(18):
        x, y = data[step % 6]
        optimizer.zero_grad()
        nn.functional.cross_entropy(wrapped(x), y).backward()
        optimizer.step()
    manager.finalize()
    return model.state_dict()


@pytest.mark.slow
def test_two_processes_agree_with_each_other_and_with_one(tmp_path):
    for _, _, value, alone in alike_in_two_processes(run, CASES, tmp_path):
        torch.testing.assert_close(value, alone, rtol=1e-9, atol=1e-12)

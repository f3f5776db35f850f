"""DistributedDataParallel in its variants: the same bits in both processes, zeros where one process has them."""

from contextlib import nullcontext

import pytest
import torch
from sample_models import batches, mlp, pruning, recipe_of
from torch import nn
from two_processes import alike_in_two_processes, in_processes

from paredown import Recipe, ScheduledManager
from paredown.framework.errors import ParedownError

EPOCHS, LENGTH = 4, 10
RECIPE = recipe_of(
    EPOCHS,
    svd={"type": "svd_decomposition", "targets": ["4"], "rank": 3, "guard": "none"},
    prune=pruning(0.7, targets=["0", "2"]),
    quantize={"type": "quantization_aware_training", "targets": ["0", "2"], "start": 2},
    distill={"type": "knowledge_distillation", "temperature": 4, "weight": 0.5},
)
VARIANTS = {
    "plain": {},
    "static_graph": {"static_graph": True},
    "find_unused_parameters": {"find_unused_parameters": True},
    "no_sync": {},
    "uneven": {},
}


def shares(name, x, rank, world):
    if world == 1:
        return x
    return (x[:5], x[5:])[rank] if name == "uneven" else x[rank::world]


def run(name, rank, world):
    model = mlp().double()
    accumulate = 2 if name == "no_sync" else 1
    manager = ScheduledManager(Recipe.load(RECIPE))
    manager.prepare(model)
    net = nn.parallel.DistributedDataParallel(model, **VARIANTS[name]) if world > 1 else model
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
    manager.modify(net, optimizer, LENGTH // accumulate, accumulate=accumulate)
    for number, (x, y) in enumerate(batches(LENGTH) * EPOCHS, 1):
        due = number % accumulate == 0
        x, y = shares(name, x.double(), rank, world), shares(name, y, rank, world)
        with nullcontext() if due or world == 1 else net.no_sync():
            (nn.functional.cross_entropy(net(x), y) / accumulate).backward()
        if due:
            optimizer.step()
            optimizer.zero_grad()
    manager.finalize()
    return {key: value for key, value in model.state_dict().items()}


@pytest.mark.slow
def test_both_processes_hold_the_same(tmp_path):
    for name, key, value, alone in alike_in_two_processes(run, VARIANTS, tmp_path):
        if name != "uneven":  # a mean of means over parts of different size is not the mean of all
            assert torch.allclose(value.double(), alone.double(), atol=1e-6), (name, key)
            assert torch.equal(value == 0, alone == 0), (name, key)


def late_changes(rank, world):
    told = {}
    changes = {
        "svd": {"type": "svd_decomposition", "targets": ["4"], "rank": 3, "guard": "none", "start": 1},
        "channels": {"type": "channel_pruning", "targets": ["2"], "final_sparsity": 0.25, "round_to": 1, "start": 1},
    }
    for name, change in changes.items():
        model = mlp()
        before = [parameter.clone() for parameter in model.parameters()]
        net = nn.parallel.DistributedDataParallel(model)
        optimizer = torch.optim.SGD(net.parameters(), 0.0)
        manager = ScheduledManager(Recipe.load(recipe_of(EPOCHS, change=change)))
        try:
            manager.modify(net, optimizer, LENGTH, example_inputs=(batches()[0][0],))
            for x, y in batches(LENGTH) * 2:
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(x), y).backward()
                optimizer.step()
        except ParedownError as error:
            told[name] = str(error)
        told[f"{name} kept"] = all(map(torch.equal, before, model.parameters()))
        manager.release()
    return told


@pytest.mark.slow
def test_structure_does_not_change_under_the_wrapper(tmp_path):
    for told in in_processes(late_changes, 2, tmp_path):
        for name in ("svd", "channels"):
            assert "prepare" in told[name], told
            assert told[f"{name} kept"]

"""DistributedDataParallel in its variants: the same bits in both processes, zeros where one process has them."""

from contextlib import nullcontext

import pytest
import torch
from sample_models import batches, mlp, pruning, recipe_of
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
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
    return model.state_dict()


@pytest.mark.slow
def test_both_processes_hold_the_same(tmp_path):
    for name, key, value, alone in alike_in_two_processes(run, VARIANTS, tmp_path):
        if name != "uneven":  # a mean of means over parts of different size is not the mean of all
            assert torch.allclose(value.double(), alone.double(), atol=1e-6), (name, key)
            assert torch.equal(value == 0, alone == 0), (name, key)


CHANGES = {
    "svd": {"svd": {"type": "svd_decomposition", "targets": ["4"], "rank": 3, "guard": "none", "start": 1}},
    "channels": {
        "cut": {"type": "channel_pruning", "targets": ["0"], "final_sparsity": 0.5, "round_to": 1, "start": 1, "end": 2}
    },
    "frozen": {"freeze": {"type": "freeze", "targets": ["0"], "start": 1, "end": 2}},
    "all": {
        "freeze": {"type": "freeze", "targets": ["2.bias"], "start": 0, "end": 1},
        "svd": {"type": "svd_decomposition", "targets": ["4"], "rank": 3, "guard": "none", "start": 1},
        "prune": pruning(0.7, targets=["0", "2"]),
        "quantize": {"type": "quantization_aware_training", "targets": ["0", "2"], "start": 2},
        "distill": {"type": "knowledge_distillation", "temperature": 4, "weight": 0.5},
    },
}
WRAPPERS = {"plain": {}, "static_graph": {"static_graph": True}, "views": {"gradient_as_bucket_view": True}}


def changed_under_the_wrapper(name, rank, world):
    kind, wrapping = name.split(", ")
    model = mlp().double()
    net = nn.parallel.DistributedDataParallel(model, **WRAPPERS[wrapping]) if world > 1 else model
    if wrapping == "views" and world > 1:
        net.register_comm_hook(None, allreduce_hook)
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
    manager = ScheduledManager(Recipe.load(recipe_of(EPOCHS, **CHANGES[kind])))
    manager.modify(net, optimizer, LENGTH, example_inputs=(batches()[0][0].double(),))
    for x, y in batches(LENGTH) * EPOCHS:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x.double()[rank::world]), y[rank::world]).backward()
        optimizer.step()
    manager.finalize()
    if wrapping == "views" and world > 1:
        assert net._comm_hooks
    return model.state_dict()


@pytest.mark.slow
def test_structure_changes_under_the_wrapper(tmp_path):
    """The reducer is rebuilt: what comes out is what an explicit mean of the gradients gives, that of one process."""
    names = [f"{kind}, {wrapping}" for kind in CHANGES for wrapping in WRAPPERS]
    for name, key, value, alone in alike_in_two_processes(changed_under_the_wrapper, names, tmp_path):
        assert value.shape == alone.shape, (name, key)
        assert torch.allclose(value.double(), alone.double(), atol=1e-6), (name, key)


def own_group(rank, world):
    model = mlp()
    group = torch.distributed.new_group([0, 1])
    net = nn.parallel.DistributedDataParallel(model, process_group=group)
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    manager = ScheduledManager(Recipe.load(recipe_of(EPOCHS, svd={**CHANGES["svd"]["svd"], "start": 0})))
    try:
        manager.modify(net, optimizer, LENGTH)
    except ParedownError as error:
        return str(error)


@pytest.mark.slow
def test_a_wrapper_that_cannot_count_again_is_refused(tmp_path):
    for told in in_processes(own_group, 2, tmp_path):
        assert "process group of its own" in told
        assert "manager.prepare(model) before" in told

"""FSDP2: all four families on split parameters, checkpoints on another number of processes, refusals that say why."""

import atexit
import time
from pathlib import Path

import pytest
import torch
from sample_models import batches, mlp, pruning, recipe_of
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from two_processes import in_processes, weights_of_script

import paredown
from paredown import Recipe, ScheduledManager
from paredown.framework.distributed.shards import outlive_gloo, put_together
from paredown.framework.errors import ParedownError
from paredown.integrations import distributed

EPOCHS, LENGTH, MIDDLE = 4, 10, 23
FAMILIES = {
    "svd": {"type": "svd_decomposition", "targets": ["4"], "rank": 3, "guard": "none"},
    "cut": {"type": "channel_pruning", "targets": ["2"], "final_sparsity": 0.25, "round_to": 1},
    "prune": pruning(0.7, targets=["0", "2"]),
    "quantize": {"type": "quantization_aware_training", "targets": ["0", "2"], "start": 2},
    "distill": {"type": "knowledge_distillation", "temperature": 4, "weight": 0.5},
}


def begun(world, recipe=FAMILIES, split=True, optimizer=torch.optim.AdamW):
    model = mlp().double()
    manager = ScheduledManager(Recipe.load(recipe_of(EPOCHS, **recipe)))
    manager.prepare(model, example_inputs=(data()[0][0],))
    if split:
        for layer in model:
            if any(True for _ in layer.parameters()):
                fully_shard(layer)
        fully_shard(model)
    elif world > 1:
        model = nn.parallel.DistributedDataParallel(model)
    optimizer = optimizer(model.parameters(), 0.02)
    manager.modify(model, optimizer, LENGTH)
    return model, optimizer, manager


def data():
    return [(x.double(), y) for x, y in batches(LENGTH)]


def go(model, optimizer, first, last, rank, world):
    for step in range(first, last):
        x, y = data()[step % LENGTH]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[rank::world]), y[rank::world]).backward()
        optimizer.step()


def whole(model):
    return {
        name.removeprefix("module."): put_together(tensor).detach().clone()
        for name, tensor in model.state_dict().items()
    }


def families(rank, world, split):
    model, optimizer, manager = begun(world, split=split)
    go(model, optimizer, 0, EPOCHS * LENGTH, rank, world)
    report = manager.finalize()
    held = whole(model)
    manager.release()
    return {"weights": held, "nonzeros": report.compressed.nonzeros, "dense": report.dense.nonzeros}


@pytest.mark.slow
def test_all_families_give_what_one_process_gives(tmp_path):
    alone = families(0, 1, split=False)
    for split in (True, False):
        first, second = in_processes(families, 2, tmp_path / str(split), split)
        for name, tensor in first["weights"].items():
            assert torch.equal(tensor, second["weights"][name]), name
            assert torch.allclose(tensor, alone["weights"][name], atol=1e-6), name
            assert torch.equal(tensor == 0, alone["weights"][name] == 0), name
        assert first["nonzeros"] == second["nonzeros"] == alone["nonzeros"]
        assert first["dense"] == alone["dense"]


def distilled(rank, world, split):
    together = {
        "self": {"type": "self_distillation", "exits": ["2"], "weight": 0.3},
        "features": {"type": "feature_distillation", "pairs": {"0": "0"}, "weight": 0.2},
        "relations": {"type": "relational_distillation", "weight": 0.2},
    }
    model, optimizer, manager = begun(world, together, split)
    go(model, optimizer, 0, EPOCHS * LENGTH, rank, world)
    manager.finalize()
    return whole(model)


@pytest.mark.slow
def test_other_distillation_on_parts_is_that_on_wholes(tmp_path):
    parts, wholes = (in_processes(distilled, 2, tmp_path / str(split), split)[0] for split in (True, False))
    for name, tensor in parts.items():
        assert torch.allclose(tensor, wholes[name], atol=1e-6), name


def held(rank, world):
    model, optimizer, manager = begun(world, {"prune": pruning(0.8, end=3)})
    go(model, optimizer, 0, 3 * LENGTH, rank, world)
    reached = whole(model)
    go(model, optimizer, 3 * LENGTH, 3 * LENGTH + 50, rank, world)
    return [reached, whole(model)]


@pytest.mark.slow
def test_the_count_is_exact_and_zeros_stay(tmp_path):
    for reached, later in in_processes(held, 2, tmp_path):
        pruned = [name for name in reached if name.endswith("weight")]
        total, zero = (sum(f(reached[n]) for n in pruned) for f in (torch.Tensor.numel, lambda t: int((t == 0).sum())))
        assert zero == int(0.8 * total + 0.5)
        for name in pruned:
            assert torch.equal(reached[name] == 0, later[name] == 0)
            assert not torch.equal(reached[name], later[name])


def saved(rank, world, folder):
    parts = begun(world)
    go(*parts[:2], 0, MIDDLE, rank, world)
    distributed.save(folder, *parts, note="middle")
    go(*parts[:2], MIDDLE, EPOCHS * LENGTH, rank, world)
    parts[2].finalize()
    return whole(parts[0])


def resumed(rank, world, folder):
    parts = begun(world)
    extra = distributed.resume(folder, *parts)
    assert extra == {"note": "middle"}
    assert parts[2].run.step == MIDDLE
    go(*parts[:2], MIDDLE, EPOCHS * LENGTH, rank, world)
    parts[2].finalize()
    return whole(parts[0])


@pytest.mark.slow
def test_a_checkpoint_goes_on_with_another_number_of_processes(tmp_path):
    folder = str(tmp_path / "checkpoint")
    wanted = in_processes(saved, 2, tmp_path / "two", folder)[0]
    for world in (2, 4, 1):
        for found in in_processes(resumed, world, tmp_path / f"again {world}", folder):
            for name, tensor in wanted.items():
                if world == 2:
                    assert torch.equal(tensor, found[name]), name
                assert torch.allclose(tensor, found[name], atol=1e-6), (name, world)
                assert torch.equal(tensor == 0, found[name] == 0), (name, world)


#: where the layer has just been decomposed, and its factors have no momenta yet
LATE = {"svd": {**FAMILIES["svd"], "start": 2}, "prune": FAMILIES["prune"]}


def whole_run(rank, world, folder):
    parts = begun(world, LATE, split=False)
    go(*parts[:2], 0, 2 * LENGTH, rank, world)
    distributed.save(folder, *parts)
    go(*parts[:2], 2 * LENGTH, EPOCHS * LENGTH, rank, world)
    return whole(parts[0])


def resumed_whole(rank, world, folder):
    parts = begun(world, LATE, split=False)
    distributed.resume(folder, *parts)
    go(*parts[:2], 2 * LENGTH, EPOCHS * LENGTH, rank, world)
    return whole(parts[0])


@pytest.mark.slow
def test_a_checkpoint_of_whole_models_at_a_change_of_structure(tmp_path):
    folder = str(tmp_path / "checkpoint")
    wanted = in_processes(whole_run, 2, tmp_path / "run", folder)[0]
    assert "4.0.weight" in wanted
    for found in in_processes(resumed_whole, 2, tmp_path / "again", folder):
        assert all(torch.equal(tensor, found[name]) for name, tensor in wanted.items())


def refusals(rank, world, folder):
    told = {}

    def attempt(name, act):
        try:
            act()
        except ParedownError as error:
            told[name] = str(error)

    def modified(modifiers, early=None, teacher=None):
        model = mlp()
        optimizer = early(model) if early else None
        for layer in model:
            fully_shard(layer)
        fully_shard(model)
        optimizer = optimizer or torch.optim.SGD(model.parameters(), 0.1)
        manager = ScheduledManager(Recipe.load(recipe_of(EPOCHS, **modifiers)))
        manager.modify(model, optimizer, LENGTH, teacher=teacher)
        return model, optimizer, manager

    def managed(model, optimizer, **modifiers):
        manager = ScheduledManager(Recipe.load(recipe_of(EPOCHS, **modifiers)))
        manager.modify(model, optimizer, LENGTH)

    def sharded_late():
        model = mlp()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        managed(model, optimizer, p=pruning())
        fully_shard(model)
        model(torch.randn(4, 16)).sum().backward()
        optimizer.step()

    def tensor_parallel():
        model = mlp()
        parallelize_module(model, init_device_mesh("cpu", (world,)), {"0": ColwiseParallel(), "2": RowwiseParallel()})
        managed(model, torch.optim.SGD(model.parameters(), 0.1), q={"type": "quantization_aware_training"})

    def zero_redundancy():
        model = mlp()
        optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.SGD, lr=0.1)
        managed(model, optimizer, p=pruning())

    attempt("svd", lambda: modified({"svd": {**FAMILIES["svd"], "start": 1}}))
    attempt("blocks", lambda: modified({"prune": {**pruning(0.5), "structure": {"block": [1, 4]}}}))
    attempt("gradients", lambda: modified({"prune": {**pruning(0.5), "type": "movement_pruning"}}))
    attempt("teacher", lambda: modified({"distill": FAMILIES["distill"]}))
    attempt("average", lambda: modified({"distill": {**FAMILIES["distill"], "teacher": "ema"}}))
    attempt("peers", lambda: modified({"peers": {"type": "mutual_learning", "weight": 0.5}}))
    attempt("early optimizer", lambda: modified({"p": pruning()}, lambda m: torch.optim.SGD(m.parameters(), 0.1)))
    attempt("saved", lambda: paredown.save(f"{folder}/c.pt", *modified({"p": pruning()})))
    attempt("sharded late", sharded_late)
    attempt("tensor parallel", tensor_parallel)
    attempt("zero", zero_redundancy)
    attempt("missing", lambda: distributed.resume(f"{folder}/none", *modified({"p": pruning()})))
    modified({"distill": FAMILIES["distill"]}, teacher=mlp(seed=2))
    return told


def ending(rank, world, split):
    registered = []
    outlive_gloo.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atexit, "register", lambda *given: registered.append(given))
        for _ in range(2):
            begun(world, {"prune": FAMILIES["prune"]}, split)
    return [seconds for act, *seconds in registered if act is time.sleep]


@pytest.mark.slow
@pytest.mark.parametrize("split", [True, False])
def test_a_process_with_a_split_model_waits_for_gloo_at_its_end(split, tmp_path):
    for waits in in_processes(ending, 2, tmp_path, split):
        assert waits == [[0.2]] * split


@pytest.mark.slow
def test_what_needs_whole_weights_is_refused_with_what_to_do(tmp_path):
    for told in in_processes(refusals, 2, tmp_path, str(tmp_path)):
        assert "svd (svd_decomposition) needs whole weights" in told["svd"]
        assert "manager.prepare(model) before fully_shard" in told["svd"]
        assert "prune (magnitude_pruning) needs whole weights" in told["blocks"]
        assert "DistributedDataParallel" in told["blocks"]
        assert "movement_pruning" in told["gradients"]
        assert "manager.prepare(model) before fully_shard" in told["teacher"]
        assert "copies the model while it trains" in told["average"]
        assert "none of the model's parameters any more" in told["sharded late"]
        assert "q (quantization_aware_training) needs weights that are whole" in told["tensor parallel"]
        assert "ZeroRedundancyOptimizer keeps momenta" in told["zero"]
        assert "peers (mutual_learning) copies" in told["peers"]
        assert "the optimizer holds none of the model's parameters" in told["early optimizer"]
        assert "paredown.integrations.distributed.save" in told["saved"]
        assert "there is no checkpoint" in told["missing"]


def columns(rank, world):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    model = mlp()
    mesh = init_device_mesh("cpu", (world,))
    parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    manager = ScheduledManager(Recipe.load(recipe_of(EPOCHS, prune=pruning(0.7))))
    manager.modify(model, optimizer, LENGTH)
    for x, y in batches(LENGTH) * EPOCHS:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    manager.finalize()
    return whole(model)


@pytest.mark.slow
def test_tensor_parallel_weights_are_pruned_by_exact_count(tmp_path):
    first, second = in_processes(columns, 2, tmp_path)
    names = [name for name in first if name.endswith("weight")]
    total = sum(first[name].numel() for name in names)
    assert sum(int((first[name] == 0).sum()) for name in names) == int(0.7 * total + 0.5)
    assert all(torch.equal(first[name], second[name]) for name in first)


ELASTIC = """
import os, sys, torch, torch.distributed as dist
from pathlib import Path
from torch import nn
import paredown
from paredown import Recipe, ScheduledManager
from sample_models import batches, mlp, recipe_of

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
checkpoint, killed = Path("checkpoint.pt"), Path("killed")
model = nn.parallel.DistributedDataParallel(mlp())
optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
manager = ScheduledManager(Recipe.load("recipe.yaml"))
manager.modify(model, optimizer, 10)
first = paredown.resume(checkpoint, model, optimizer, manager)["step"] if checkpoint.exists() else 0
for step in range(first, 40):
    x, y = batches()[step % 10]
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x[rank::world]), y[rank::world]).backward()
    optimizer.step()
    if step == 26 and "kill" in sys.argv and rank == 1 and not killed.exists():
        killed.touch()
        os.kill(os.getpid(), 9)
    if rank == 0 and (step + 1) % 5 == 0:
        paredown.save(checkpoint, model, optimizer, manager, step=step + 1)
manager.finalize()
if rank == 0:
    torch.save(model.module.state_dict(), "weights.pt")
dist.destroy_process_group()
"""


def elastic(folder: Path, *arguments: str):
    recipe = recipe_of(EPOCHS, **{name: FAMILIES[name] for name in ("prune", "quantize", "distill")})
    return weights_of_script(folder, ELASTIC, recipe, *arguments, restarts=1)


@pytest.mark.slow
def test_a_job_whose_worker_is_killed_ends_as_the_one_that_was_not(tmp_path):
    wanted, found = elastic(tmp_path / "whole"), elastic(tmp_path / "killed", "kill")
    assert (tmp_path / "killed" / "killed").exists()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)

"""Every kind of distillation: with every other family in one recipe, resumed anywhere; and in two processes."""

import pytest
import torch
import torch.distributed as dist
from distilling import manager_of
from resuming import assert_resumes, going
from sample_models import batches, conv_net, mlp, recipe_of, train
from torch import nn
from torch.nn import functional as F
from two_processes import alike_in_two_processes

from paredown import Recipe, ScheduledManager, ScheduleError

KD = {"type": "knowledge_distillation"}
MODIFIERS = {
    "low": {"type": "svd_decomposition", "targets": ["head"], "rank": 3, "start": 1, "guard": "none"},
    "prune": {"type": "magnitude_pruning", "targets": ["Conv2d"], "final_sparsity": 0.5, "start": 1, "end": 4},
    "quantize": {"type": "quantization_aware_training", "targets": ["Conv2d"], "start": 3},
    "again": {**KD, "weight": 0.3, "teacher": "start", "start": 2},
    "average": {**KD, "weight": 0.2, "teacher": "ema", "decay": 0.7, "start": 2.5},
    "features": {
        "type": "feature_distillation",
        "pairs": {"body": "body"},
        "weight": 0.1,
        "teacher": "start",
        "start": 3.5,
    },
    "peers": {"type": "mutual_learning", "weight": 0.1, "start": 1.5},
    "exits": {"type": "self_distillation", "exits": ["norm"], "weight": 0.1, "start": 0.5},
}


def begun():
    model = conv_net(3, channels=16)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    manager = ScheduledManager(Recipe.load(recipe_of(6, **MODIFIERS)))
    manager.modify(model, optimizer, 4)
    return model, optimizer, manager


go = going(batches(4, image=True))


def test_all_together_resume(tmp_path):
    model = assert_resumes(begun, go, 24, (0, 3, 6, 9, 12, 15, 20), tmp_path)
    assert sum(int((m.weight == 0).sum()) for m in (model.stem, model.body)) > 0
    assert not hasattr(model, "exits")


CASES = {
    "knowledge_distillation": {"temperature": 3.0},
    "knowledge_distillation, ema": {"teacher": "ema", "decay": 0.7},
    "feature_distillation": {"pairs": {"body": "body"}, "loss": "mse", "warmup": 0},
    "attention_distillation": {"pairs": {"body": "body"}},
    "mutual_learning": {"peers": 2},
    "self_distillation": {"exits": ["stem"]},
}


def distilled(name, rank, world):
    """The state of the student, and of what was trained beside it, after five steps."""
    kind, fields = name.partition(",")[0], CASES[name]
    student = conv_net(1).double()
    student.norm = nn.Identity()
    teacher = conv_net(0, channels=12).double()
    model = nn.parallel.DistributedDataParallel(student) if world > 1 else student
    optimizer = torch.optim.AdamW(student.parameters(), 1e-2)
    manager = manager_of(kind, **fields)
    manager.modify(model, optimizer, 5, teacher=None if "teacher" in fields else teacher)
    torch.manual_seed(rank)
    extras = {}
    for x, y in batches(5, image=True):
        optimizer.zero_grad()
        F.cross_entropy(model(x.double()[rank::world]), y[rank::world]).backward()
        optimizer.step()
    for key, module in manager.run.modules.of("distill").items():
        exits = {name: value for name, value in module.state_dict().items() if "running" not in name}
        extras.update({f"extra {key} {name}": value for name, value in exits.items()})
    assert dist.is_initialized() == (world > 1)
    manager.release()
    return {**student.state_dict(), **extras}


@pytest.mark.slow
def test_processes_agree(tmp_path):
    for name, key, ours, alone in alike_in_two_processes(distilled, CASES, tmp_path):
        if not name.startswith("self"):  # batch-norms of exits see a half of the batch
            assert torch.allclose(ours, alone, atol=1e-6), (name, key)


@pytest.mark.parametrize(
    ("field", "reached", "wanted"),
    [
        ({"weight": {"initial": 0.0, "final": 0.9}}, "0.45", "0.9"),
        ({"weight": 0.5, "temperature": {"initial": 8, "final": 2}}, "5", "2"),
        ({"weight": [[0, 0.2], [0.75, 0.8]]}, "0.6", "0.8"),
    ],
)
def test_a_ramp_that_stops_halfway_is_owed(field, reached, wanted):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    manager = ScheduledManager(Recipe.load(recipe_of(2, kd={"type": "knowledge_distillation", **field})))
    manager.modify(model, optimizer, 10)
    train(model, optimizer, batches(10))
    assert not manager.done
    with pytest.raises(ScheduleError, match=f"reached {reached} and is to reach {wanted}"):
        manager.finalize()
    train(model, optimizer, batches(10))
    manager.finalize()

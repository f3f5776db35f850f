"""Under DistributedDataParallel, each process with half of the batch, as in one process with all of it."""

import pytest
import torch
import torch.distributed as dist
from distilling import manager_of
from sample_models import batches, conv_net
from torch import nn
from torch.nn import functional as F
from two_processes import alike_in_two_processes

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
    for key, module in manager.training.extras.of("distill").items():
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

import pytest
import torch
from distilling import manager_of, sgd
from sample_models import batches, mlp, train
from torch import nn

from paredown.modifiers.distillation.losses.divergences import top_k_loss
from paredown.modifiers.distillation.signals.teacher_cache import Memory
from paredown.modifiers.distillation.signals.top_classes import compressed, spread_out

KD = "knowledge_distillation"


class Counting(nn.Module):
    """A teacher that counts how often it was asked."""

    def __init__(self, seed=0):
        super().__init__()
        self.net, self.asked = mlp(seed=seed), 0

    def forward(self, x):
        self.asked += 1
        return self.net(x)


def trained(data, epochs=3, **fields):
    student, teacher = mlp(seed=1), Counting()
    manager, optimizer = manager_of(KD, **fields), sgd(student)
    manager.modify(student, optimizer, 10, teacher=teacher)
    train(student, optimizer, data, epochs)
    return torch.cat([p.detach().flatten() for p in student.parameters()]), teacher.asked


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_each_sample_is_asked_for_once_and_the_end_is_the_same(where):
    data = batches(5)
    plain, asked = trained(data)
    cached, asked_once = trained(data, cache=where)
    assert (asked, asked_once) == (15, 5)
    assert torch.equal(plain, cached)


def test_the_order_of_the_samples_is_free():
    data = batches(4)
    x, y = torch.cat([x for x, _ in data]), torch.cat([y for _, y in data])
    generator = torch.Generator().manual_seed(0)
    shuffled = []
    for _ in range(2):
        order = torch.randperm(len(x), generator=generator)
        shuffled += [(x[part], y[part]) for part in order.split(8)]
    plain, _ = trained([*data, *shuffled], 1)
    cached, asked = trained([*data, *shuffled], 1, cache="memory")
    assert asked == 4
    assert torch.allclose(plain, cached, atol=1e-6)


def test_what_is_new_is_asked_for():
    data = batches(4)
    changed = [(x + 1e-3, y) for x, y in data]
    assert trained([*data, *changed], 1, cache="disk")[1] == 8


def test_most_probable_classes_alone():
    data = batches(3)
    full, _ = trained(data, temperature=2.0)
    ends = [trained(data, cache={where: 3}, temperature=2.0) for where in ("memory", "disk")]
    assert torch.equal(ends[0][0], ends[1][0])
    assert ends[0][1] == 3
    assert torch.allclose(ends[0][0], full, atol=1e-5)  # of 4 classes one is left over: nothing is lost


def test_the_share_of_the_others_is_kept():
    torch.manual_seed(0)
    logits = torch.randn(6, 50, dtype=torch.float64) * 3
    for temperature in (1.0, 4.0):
        values, classes, rest = compressed(logits, 5, temperature)
        again = spread_out(values, classes, rest, 50)
        assert torch.equal(again.gather(-1, classes.long()), logits.topk(5).values)
        soft = [(z / temperature).softmax(-1) for z in (logits, again)]
        kept = [p.gather(-1, classes.long()) for p in soft]
        assert torch.allclose(kept[0], kept[1], atol=1e-6)
        student = torch.randn(6, 50, dtype=torch.float64)
        losses = [top_k_loss(student, taught, temperature, k=5) for taught in (logits, again)]
        assert abs(losses[0] - losses[1]) < 1e-5


def test_the_memory_gives_back_what_it_got():
    for on_disk in (False, True):
        memory = Memory(on_disk)
        keys = [bytes([place]) * 16 for place in range(3)]
        tensors = [
            torch.randn(3, 4).to(torch.bfloat16),
            torch.arange(6, dtype=torch.int32).view(3, 2),
            torch.randn(3, 2, 2, dtype=torch.float64),
        ]
        assert memory.recall(keys) is None
        memory.keep(keys, tensors)
        for ours, theirs in zip(memory.recall(keys[::-1]), tensors, strict=True):
            assert ours.dtype == theirs.dtype
            assert torch.equal(ours, theirs.flip(0))
        assert memory.recall([keys[0], b"x"]) is None


def test_a_compiled_forward_always_asks():
    torch._dynamo.reset()
    student, teacher = mlp(seed=1), mlp()
    manager, optimizer = manager_of(KD, cache="memory"), sgd(student)
    manager.modify(student, optimizer, 10, teacher=teacher)
    forward = torch.compile(student, backend="aot_eager", fullgraph=True)
    x, y = batches(1)[0]
    nn.functional.cross_entropy(forward(x), y).backward()
    optimizer.step()
    assert manager.last_losses["distill"] > 0

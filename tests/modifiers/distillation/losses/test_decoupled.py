"""Decoupled distillation against its formula, and against the KL divergence that it takes apart."""

import math

import numpy as np
import pytest
import torch

from paredown.modifiers.distillation.losses.decoupled import decoupled_loss, decoupled_parts
from paredown.modifiers.distillation.losses.logit_rows import kl_divergence_rows

TARGETS = torch.tensor([3, 0, 4, 1])


def drawn(*shape):
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def naive_parts(student, teacher, target, temperature):
    p, q = (np.exp(x / temperature) / np.exp(x / temperature).sum() for x in (teacher, student))
    b, c = p[target], q[target]
    of_target = b * math.log(b / c) + (1 - b) * math.log((1 - b) / (1 - c))
    others = [place for place in range(len(p)) if place != target]
    of_others = sum(p[i] / (1 - b) * math.log(p[i] / (1 - b) / (q[i] / (1 - c))) for i in others)
    return of_target, of_others


@pytest.mark.parametrize("temperature", [1.0, 4.0, torch.tensor(2.0, dtype=torch.float64)])
def test_value(temperature):
    student, teacher = drawn(4, 5)
    rows = zip(student.numpy(), teacher.numpy(), TARGETS.tolist(), strict=True)
    parts = np.array([naive_parts(*row, float(temperature)) for row in rows])
    found = decoupled_parts(student, teacher, TARGETS, temperature)
    assert np.allclose(torch.stack(found, -1).numpy(), parts, rtol=1e-12)
    losses = (0.5 * parts[:, 0] + 3 * parts[:, 1]) * float(temperature) ** 2
    loss = decoupled_loss(student, teacher, TARGETS, temperature, None, 0.5, 3.0)
    assert loss.item() == pytest.approx(losses.mean(), rel=1e-13)
    weights = torch.tensor([1.0, 0.0, 0.5, 2.0])
    loss = decoupled_loss(student, teacher, TARGETS, temperature, weights, 0.5, 3.0)
    assert loss.item() == pytest.approx(np.average(losses, weights=weights.numpy()), rel=1e-13)


@pytest.mark.parametrize("classes", [2, 5, 100])
def test_the_parts_make_up_the_divergence(classes):
    student, teacher = drawn(6, classes) * 3
    targets = torch.arange(6) % classes
    of_target, of_others = decoupled_parts(student, teacher, targets, 2.0)
    others = 1 - torch.softmax(teacher / 2, -1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    assert torch.allclose((of_target + others * of_others) * 4, kl_divergence_rows(student, teacher, 2.0), rtol=1e-12)


def test_gradient():
    student, teacher = drawn(4, 5).requires_grad_()
    weights = torch.tensor([1.0, 0.0, 0.5, 2.0])
    assert torch.autograd.gradcheck(lambda s, t: decoupled_loss(s, t, TARGETS, 2.0), (student, teacher))
    assert torch.autograd.gradcheck(lambda s, t: decoupled_loss(s, t, TARGETS, 2.0, weights), (student, teacher))


def test_nothing_to_learn():
    student = drawn(4, 5)[0].requires_grad_()
    loss = decoupled_loss(student, student.detach(), TARGETS)
    loss.backward()
    assert abs(loss.item()) < 1e-13
    assert student.grad.abs().max() < 1e-13


def test_rows_that_do_not_count_may_have_any_target():
    student, teacher = drawn(2, 2, 5)
    targets = TARGETS.reshape(2, 2).clone()
    kept = torch.tensor([[True, False], [False, True]])
    targets[~kept] = -100
    student[0, 1] = math.nan
    student.requires_grad_()
    loss = decoupled_loss(student, teacher, targets, weights=kept)
    loss.backward()
    assert loss.item() == pytest.approx(decoupled_loss(student[kept], teacher[kept], targets[kept]).item(), rel=1e-14)
    assert (student.grad[~kept] == 0).all()
    assert (student.grad[kept] != 0).all()
    assert decoupled_loss(student, teacher, torch.full((2, 2), -100), weights=torch.zeros(2, 2)) == 0


@pytest.mark.parametrize("target", [0, 1])
def test_extreme_logits_stay_finite(target):
    student = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    teacher = student.detach().flip(-1).requires_grad_()
    loss = decoupled_loss(student, teacher, torch.tensor([target]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()
    assert torch.isfinite(teacher.grad).all()


def test_narrow_logits_are_computed_in_float32():
    student, teacher = drawn(4, 5).bfloat16()
    loss = decoupled_loss(student, teacher, TARGETS)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(decoupled_loss(student.double(), teacher.double(), TARGETS).item(), rel=1e-5)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"targets.*\(3,\).*\(2, 3\)"):
        decoupled_loss(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(2, 4\)"):
        decoupled_loss(torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64))


def test_compiles_whole():
    student, teacher = drawn(4, 5)
    weights = torch.tensor([True, False, True, True])
    compiled = torch.compile(decoupled_loss, fullgraph=True, backend="aot_eager")
    expected = decoupled_loss(student, teacher, TARGETS, 4.0, weights)
    assert torch.allclose(compiled(student, teacher, TARGETS, 4.0, weights), expected, rtol=1e-14)

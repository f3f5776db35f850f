"""Losses between features against their formulas, written out in float64."""

import math

import numpy as np
import pytest
import torch

from paredown.modifiers.distillation.losses.features import cosine_loss, relative_squared_loss, squared_loss


def naive_squared(s, t, weights):
    return (weights * (s - t) ** 2).sum() / weights.sum()


def naive_relative(s, t, weights):
    return (weights * (s - t) ** 2).sum() / (weights * t**2).sum()


def naive_cosine(s, t, weights):
    pairs = zip(s.reshape(-1, s.shape[-1]), t.reshape(-1, t.shape[-1]), strict=True)
    losses = [1 - a @ b / math.sqrt((a @ a) * (b @ b)) for a, b in pairs]
    return np.average(losses, weights=weights[..., 0].ravel())


LOSSES = {squared_loss: naive_squared, relative_squared_loss: naive_relative, cosine_loss: naive_cosine}
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)


def drawn(*shape):
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@each_loss
@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 7), (2, 3, 4, 5)])
def test_value(loss, shape):
    student, teacher = drawn(*shape)
    found = loss(student, teacher)
    assert found.dim() == 0
    naive = LOSSES[loss](student.numpy(), teacher.numpy(), np.ones(shape))
    assert found.item() == pytest.approx(naive, rel=1e-13)
    weights = torch.arange(student.shape[-2]).double().reshape(-1, 1) / 2
    naive = LOSSES[loss](student.numpy(), teacher.numpy(), np.broadcast_to(weights.numpy(), shape))
    assert loss(student, teacher, weights.float()).item() == pytest.approx(naive, rel=1e-13)


@each_loss
def test_gradient(loss):
    student, teacher = drawn(2, 3, 4)
    student.requires_grad_()
    teacher.requires_grad_(loss is not relative_squared_loss)
    weights = torch.tensor([[0.5, 0.0, 2.0], [1.0, 1.0, 1.0]]).unsqueeze(-1)
    assert torch.autograd.gradcheck(loss, (student, teacher))
    assert torch.autograd.gradcheck(lambda s, t: loss(s, t, weights), (student, teacher))


def test_the_teachers_size_gets_no_gradient():
    student, teacher = drawn(2, 3)
    teacher.requires_grad_()
    relative_squared_loss(student, teacher).backward()
    assert torch.allclose(teacher.grad, 2 * (teacher - student).detach() / teacher.detach().square().sum())


@each_loss
def test_nothing_to_learn(loss):
    student = drawn(2, 3, 4)[0].requires_grad_()
    value = loss(student, student.detach())
    value.backward()
    assert abs(value.item()) < 1e-15
    assert student.grad.abs().max() < 1e-15


@each_loss
@pytest.mark.parametrize("garbage", [1e30, math.nan])
def test_tokens_that_do_not_count(loss, garbage):
    student, teacher = drawn(2, 3, 4)
    kept = torch.tensor([[True, False, True], [True, True, False]])
    student[0, 1] = teacher[1, 2] = garbage
    student.requires_grad_()
    value = loss(student, teacher, kept.unsqueeze(-1))
    value.backward()
    assert value.item() == pytest.approx(loss(student[kept], teacher[kept]).item(), rel=1e-14)
    assert (student.grad[~kept] == 0).all()
    assert (student.grad[kept] != 0).all()


@each_loss
def test_nothing_counts(loss):
    student, teacher = drawn(2, 3)
    student.requires_grad_()
    value = loss(student, teacher, torch.zeros(2, 1))
    value.backward()
    assert value == 0
    assert (student.grad == 0).all()


@each_loss
def test_zeros_stay_finite(loss):
    student = torch.zeros(2, 3, requires_grad=True)
    value = loss(student, torch.zeros(2, 3))
    value.backward()
    assert value == (loss is cosine_loss)
    assert (student.grad == 0).all()


def test_units():
    student, teacher = drawn(4, 5)
    assert torch.allclose(relative_squared_loss(student * 9, teacher * 9), relative_squared_loss(student, teacher))
    assert torch.allclose(cosine_loss(student * 9, teacher * 2), cosine_loss(student, teacher))
    assert cosine_loss(student, -student).item() == pytest.approx(2)


@pytest.mark.parametrize("dimension", [1, -3])
def test_cosine_along_channels(dimension):
    student, teacher = drawn(2, 5, 3, 4)
    weights = torch.rand(2, 1, 3, 4)
    found = cosine_loss(student, teacher, weights, dimension)
    last = cosine_loss(*(x.movedim(1, -1) for x in (student, teacher)), weights.movedim(1, -1))
    assert torch.allclose(found, last, rtol=1e-14)


@each_loss
def test_narrow_features_are_computed_in_float32(loss):
    student, teacher = drawn(4, 50).bfloat16()
    value = loss(student, teacher)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(loss(student.double(), teacher.double()).item(), rel=1e-5)


@each_loss
def test_shapes_must_agree(loss):
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(2, 4\)"):
        loss(torch.zeros(2, 3), torch.zeros(2, 4))
    for weights in (torch.ones(3, 1), torch.ones(1, 2, 1)):
        with pytest.raises(ValueError, match="do not broadcast"):
            loss(torch.zeros(2, 3), torch.zeros(2, 3), weights)


@each_loss
def test_compiles_whole(loss):
    student, teacher = drawn(2, 3, 4)
    weights = torch.tensor([True, False, True]).unsqueeze(-1)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(student, teacher, weights), loss(student, teacher, weights), rtol=1e-14)

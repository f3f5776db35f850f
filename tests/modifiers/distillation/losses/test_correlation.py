"""Correlation of probabilities against its formula, written out in float64."""

import math

import numpy as np
import pytest
import torch

from paredown.modifiers.distillation.losses.correlation import correlation_loss


def drawn(*shape):
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def pearson(a, b, weights):
    a, b = (x - np.average(x, weights=weights) for x in (a, b))
    return (weights * a * b).sum() / (np.sqrt((weights * a * a).sum() * (weights * b * b).sum()) + 1e-8)


def naive(student, teacher, temperature, weights, inter=1.0, intra=1.0):
    q, p = (np.exp(x.numpy() / temperature) for x in (student, teacher))
    q, p = q / q.sum(-1, keepdims=True), p / p.sum(-1, keepdims=True)
    ones = np.ones(q.shape[1])
    rows = np.average([pearson(a, b, ones) for a, b in zip(q, p, strict=True)], weights=weights)
    columns = np.mean([pearson(a, b, weights) for a, b in zip(q.T, p.T, strict=True)])
    return temperature**2 * (inter * (1 - rows) + intra * (1 - columns))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("factors", [(1.0, 1.0), (2.0, 0.5)])
def test_value(temperature, factors):
    student, teacher = drawn(6, 5)
    found = correlation_loss(student, teacher, temperature, None, *factors)
    assert found.item() == pytest.approx(naive(student, teacher, temperature, np.ones(6), *factors), rel=1e-12)
    weights = torch.tensor([0.5, 0.0, 2.0, 1.0, 1.0, 0.25])
    found = correlation_loss(student, teacher, torch.tensor(temperature), weights, *factors)
    assert found.item() == pytest.approx(naive(student, teacher, temperature, weights.numpy(), *factors), rel=1e-12)


def test_gradient():
    student, teacher = drawn(4, 5).requires_grad_()
    weights = torch.tensor([0.5, 0.0, 2.0, 1.0])
    assert torch.autograd.gradcheck(lambda s, t: correlation_loss(s, t, 2.0), (student, teacher))
    assert torch.autograd.gradcheck(lambda s, t: correlation_loss(s, t, 2.0, weights), (student, teacher))


def test_shift_and_scale_of_the_probabilities_do_not_matter():
    """A student who mixes the teacher's rows with one distribution correlates fully between rows."""
    teacher = drawn(6, 5)[1]
    uniform = torch.full((5,), 0.2, dtype=torch.float64)
    student = (0.3 * torch.softmax(teacher, -1) + 0.7 * uniform).log()
    assert correlation_loss(student, teacher).item() == pytest.approx(0, abs=1e-5)
    assert correlation_loss(teacher, teacher).item() == pytest.approx(0, abs=1e-5)
    other = torch.softmax(torch.arange(5.0, dtype=torch.float64), -1)
    student = (0.3 * torch.softmax(teacher, -1) + 0.7 * other).log()
    assert correlation_loss(student, teacher, inter=0.0).item() == pytest.approx(0, abs=1e-5)
    assert correlation_loss(student, teacher, intra=0.0).item() > 0.01


def test_rows_that_do_not_count():
    student, teacher = drawn(2, 3, 5)
    student[0, 1], teacher[1, 2] = math.nan, 1e30
    kept = torch.tensor([[True, False, True], [True, True, False]])
    student.requires_grad_()
    loss = correlation_loss(student, teacher, 2.0, kept)
    loss.backward()
    assert loss.item() == pytest.approx(correlation_loss(student[kept], teacher[kept], 2.0).item(), rel=1e-13)
    assert (student.grad[~kept] == 0).all()
    assert (student.grad[kept] != 0).all()


@pytest.mark.parametrize("weights", [None, torch.tensor([0.0, 0.3, 0.0])])
def test_a_single_row_has_no_intra_part(weights):
    student, teacher = (x[: 1 if weights is None else 3] for x in drawn(3, 5))
    student.requires_grad_()
    assert correlation_loss(student, teacher, weights=weights, inter=0.0) == 0
    loss = correlation_loss(student, teacher, weights=weights)
    loss.backward()
    assert 0 < loss < 2
    assert torch.isfinite(student.grad).all()


def test_no_row_counts():
    student, teacher = drawn(3, 5)
    student.requires_grad_()
    loss = correlation_loss(student, teacher, weights=torch.zeros(3))
    loss.backward()
    assert loss == 0
    assert (student.grad == 0).all()


@pytest.mark.parametrize("student", [torch.zeros(3, 4), torch.tensor([[1e4, -1e4, 0.0, 0.0]] * 3)])
def test_what_is_constant_stays_finite(student):
    student = student.clone().requires_grad_()
    teacher = drawn(3, 4)[1].float()
    loss = correlation_loss(student, teacher, 4.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


def test_narrow_logits_are_computed_in_float32():
    student, teacher = drawn(4, 5).bfloat16()
    loss = correlation_loss(student, teacher, 2.0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(correlation_loss(student.double(), teacher.double(), 2.0).item(), rel=1e-5)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(2, 4\)"):
        correlation_loss(torch.zeros(2, 3), torch.zeros(2, 4))


def test_compiles_whole():
    student, teacher = drawn(4, 5)
    weights = torch.tensor([True, False, True, True])
    compiled = torch.compile(correlation_loss, fullgraph=True, backend="aot_eager")
    expected = correlation_loss(student, teacher, 4.0, weights)
    assert torch.allclose(compiled(student, teacher, 4.0, weights), expected, rtol=1e-13)

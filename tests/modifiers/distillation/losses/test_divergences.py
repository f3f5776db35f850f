"""The losses between logits against their formulas, written out in float64."""

import math

import numpy as np
import pytest
import torch

from paredown.modifiers.distillation.losses.divergences import (
    jensen_shannon_loss,
    kl_divergence_loss,
    reverse_kl_loss,
    squared_logit_loss,
    standardized,
    top_k_loss,
)


def softmax(x):
    powers = np.exp(x - x.max())
    return powers / powers.sum()


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def naive_kl(s, t, temperature):
    return kl(softmax(t / temperature), softmax(s / temperature)) * temperature**2


def naive_reverse(s, t, temperature):
    return naive_kl(t, s, temperature)


def naive_jensen_shannon(s, t, temperature):
    p, q = softmax(t / temperature), softmax(s / temperature)
    return (kl(p, (p + q) / 2) + kl(q, (p + q) / 2)) / 2 * temperature**2


def naive_squared(s, t, temperature):
    return sum((a - b) ** 2 for a, b in zip(s, t, strict=True)) / len(s)


def naive_top_k(s, t, temperature, k=3):
    p, q = softmax(t / temperature), softmax(s / temperature)
    order = sorted(range(len(p)), key=lambda place: -p[place])
    p, q = ([*x[order[:k]], x[order[k:]].sum()] if k < len(x) else x for x in (p, q))
    return kl(p, q) * temperature**2


def top_three(student, teacher, temperature=1.0, weights=None):
    return top_k_loss(student, teacher, temperature, weights, k=3)


LOSSES = {
    kl_divergence_loss: naive_kl,
    reverse_kl_loss: naive_reverse,
    jensen_shannon_loss: naive_jensen_shannon,
    squared_logit_loss: naive_squared,
    top_three: naive_top_k,
}
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)


def drawn(*shape, dtype=torch.float64):
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def expected(loss, student, teacher, temperature, weights=None):
    pairs = zip(*(x.double().reshape(-1, x.shape[-1]).numpy() for x in (student, teacher)), strict=True)
    rows = [LOSSES[loss](s, t, float(temperature)) for s, t in pairs]
    return np.average(rows, weights=weights)


@each_loss
@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 11), (4,), (6, 2)])
@pytest.mark.parametrize("temperature", [1, 4.0, 0.5, torch.tensor(2.0, dtype=torch.float64)])
def test_value(loss, shape, temperature):
    student, teacher = drawn(*shape)
    found = loss(student, teacher, temperature)
    assert found.dim() == 0
    assert found.item() == pytest.approx(expected(loss, student, teacher, temperature), rel=1e-13, abs=1e-14)


@each_loss
def test_gradient(loss):
    student, teacher = drawn(3, 5).requires_grad_()
    weights = torch.tensor([0.5, 0.0, 2.0])
    assert torch.autograd.gradcheck(lambda s, t: loss(s, t, 2.0), (student, teacher))
    assert torch.autograd.gradcheck(lambda s, t: loss(s, t, 2.0, weights), (student, teacher))


@each_loss
def test_nothing_to_learn(loss):
    student = drawn(3, 5)[0].requires_grad_()
    value = loss(student, student.detach(), 3.0)
    value.backward()
    assert abs(value.item()) < 1e-14
    assert student.grad.abs().max() < 1e-14


@each_loss
def test_weights(loss):
    student, teacher = drawn(2, 3, 5)
    weights = torch.tensor([[0.5, 0.0, 2.0], [1.0, 1.0, 0.25]], dtype=torch.float16)
    found = loss(student, teacher, 2.0, weights)
    assert found.item() == pytest.approx(expected(loss, student, teacher, 2.0, weights.numpy().ravel()), rel=1e-13)


@each_loss
@pytest.mark.parametrize("garbage", [1e30, math.inf, math.nan])
def test_rows_that_do_not_count(loss, garbage):
    student, teacher = drawn(4, 5)
    student[1], teacher[1], teacher[3] = garbage, -garbage, garbage
    student.requires_grad_()
    kept = torch.tensor([True, False, True, False])
    value = loss(student, teacher, 2.0, kept)
    value.backward()
    assert value.item() == pytest.approx(loss(student[kept], teacher[kept], 2.0).item(), rel=1e-14)
    assert (student.grad[~kept] == 0).all()
    assert (student.grad[kept] != 0).all()


@each_loss
def test_no_row_counts(loss):
    student, teacher = drawn(4, 5).requires_grad_()
    value = loss(student, teacher, 2.0, torch.zeros(4))
    assert value == 0
    assert all((gradient == 0).all() for gradient in torch.autograd.grad(value, (student, teacher)))


@each_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_logits_are_computed_in_float32(loss, dtype):
    student, teacher = drawn(64, 100, dtype=dtype)
    student.requires_grad_()
    found = loss(student, teacher, 2.0)
    found.backward()
    assert found.dtype == torch.float32
    assert student.grad.dtype == dtype
    assert found.item() == pytest.approx(expected(loss, student.detach(), teacher, 2.0), rel=1e-5)


@each_loss
def test_extreme_logits_stay_finite(loss):
    student = torch.tensor([[1e4, -1e4, 0.0, 5.0, 1.0]], requires_grad=True)
    value = loss(student, student.detach().flip(-1), 4.0)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(student.grad).all()


@each_loss
def test_shapes_must_agree(loss):
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(2, 4\)"):
        loss(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"\(3,\).*\(2,\)"):
        loss(torch.zeros(2, 3), torch.zeros(2, 3), 1.0, torch.ones(3))


@each_loss
def test_compiles_whole(loss):
    student, teacher = (logits.clone().requires_grad_() for logits in drawn(4, 6))
    weights = torch.tensor([True, False, True, True])
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for arguments in [(4.0,), (torch.tensor(4.0), weights)]:
        ours, theirs = compiled(student, teacher, *arguments), loss(student, teacher, *arguments)
        assert torch.allclose(ours, theirs, rtol=1e-14)
        assert torch.allclose(*(torch.autograd.grad(value, student)[0] for value in (ours, theirs)), atol=1e-15)


@pytest.mark.parametrize("loss", [kl_divergence_loss, reverse_kl_loss])
def test_high_temperatures_compare_logits(loss):
    """T^2 KL tends to (s - t)^2 / (2 classes), summed over classes, where both have the mean 0 (Hinton et al.)."""
    student, teacher = (x - x.mean(-1, keepdim=True) for x in drawn(3, 5))
    limit = squared_logit_loss(student, teacher).item() / 2
    assert loss(student, teacher, 1e4).item() == pytest.approx(limit, rel=1e-3)


def test_jensen_shannon_is_symmetric_and_bounded():
    student, teacher = drawn(50, 5) * 10
    assert jensen_shannon_loss(student, teacher) == pytest.approx(jensen_shannon_loss(teacher, student).item())
    assert 0 < jensen_shannon_loss(student, teacher) < math.log(2)
    apart = torch.tensor([[1e4, -1e4]])
    assert jensen_shannon_loss(apart, -apart).item() == pytest.approx(math.log(2))


def test_more_classes_apart_tell_more():
    student, teacher = drawn(4, 9)
    values = [top_k_loss(student, teacher, 2.0, k=k).item() for k in range(1, 12)]
    assert (np.diff(values) > -1e-14).all()
    assert values[0] < values[3] < values[6]
    assert values[8:] == [kl_divergence_loss(student, teacher, 2.0).item()] * 3
    with pytest.raises(ValueError, match="k is 0"):
        top_k_loss(student, teacher, k=0)


def test_standardized():
    logits = drawn(3, 7)[0]
    found = standardized(logits)
    rows = logits.numpy()
    naive = (rows - rows.mean(-1, keepdims=True)) / (rows.std(-1, keepdims=True, ddof=1) + 1e-7)
    assert np.allclose(found.numpy(), naive, atol=1e-14)
    assert torch.allclose(standardized(logits * 3 + 5), found, atol=1e-6)
    assert torch.autograd.gradcheck(standardized, (logits.requires_grad_(),))
    assert standardized(logits.bfloat16()).dtype == torch.float32


def test_standardized_rows_without_spread():
    logits = torch.full((2, 3), 0.1, requires_grad=True)
    standardized(logits).square().sum().backward()
    assert torch.isfinite(logits.grad).all()

"""The loss against the formula, written out in float64."""

import pytest
import torch

from paredown.modifiers.distillation.losses import kl_divergence_loss


def naive(student, teacher, temperature):
    p, q = (torch.exp(x / temperature) for x in (teacher, student))
    p, q = p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True)
    return (p * (p / q).log()).sum(-1).mean() * temperature**2


@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 11), (4,)])
@pytest.mark.parametrize("temperature", [1, 4.0, 0.5])
def test_value_and_gradient(shape, temperature):
    torch.manual_seed(0)
    teacher = torch.randn(shape, dtype=torch.float64)
    student = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    again = student.detach().clone().requires_grad_()
    loss, expected = kl_divergence_loss(student, teacher, temperature), naive(again, teacher, temperature)
    assert abs(loss.item() - expected.item()) <= 1e-14 * max(1, abs(expected.item()) * 4)
    loss.backward()
    expected.backward()
    assert torch.allclose(student.grad, again.grad, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_logits_are_computed_in_float32(dtype):
    student, teacher = torch.randn(64, 1000).to(dtype), torch.randn(64, 1000).to(dtype)
    loss = kl_divergence_loss(student, teacher, 2.0)
    assert loss.dtype == torch.float32
    assert torch.allclose(loss.double(), naive(student.double(), teacher.double(), 2.0), rtol=1e-5)


def test_extreme_logits_stay_finite():
    student = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = kl_divergence_loss(student, student.detach().flip(-1), 4.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(2, 4\)"):
        kl_divergence_loss(torch.zeros(2, 3), torch.zeros(2, 4))


def test_compiles_whole():
    student, teacher = torch.randn(4, 6), torch.randn(4, 6)
    compiled = torch.compile(kl_divergence_loss, fullgraph=True, backend="eager")
    assert torch.equal(compiled(student, teacher, 4.0), kl_divergence_loss(student, teacher, 4.0))

"""A loss in chunks of rows against the same loss in one piece."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from paredown.modifiers.distillation.losses.chunks import in_row_chunks
from paredown.modifiers.distillation.losses.decoupled import decoupled_rows
from paredown.modifiers.distillation.losses.logit_rows import kl_divergence_rows, reverse_kl_rows, top_k_rows

SOFT = partial(kl_divergence_rows, temperature=2.0)
PEAK = """
import sys, torch
from peak_memory import peak_of
from paredown.modifiers.distillation.losses.chunks import in_row_chunks
from paredown.modifiers.distillation.losses.logit_rows import kl_divergence_rows

def learn(student, teacher, at_once):
    whole = lambda: kl_divergence_rows(student, teacher).mean()
    (in_row_chunks(kl_divergence_rows, student, teacher, None, at_once) if at_once else whole()).backward()

torch.set_num_threads(1)
learn(torch.randn(4, 3, requires_grad=True), torch.randn(4, 3), int(sys.argv[1]))  # what is imported on first use
student, teacher = torch.randn(1024, 32000, requires_grad=True), torch.randn(1024, 32000)
print(peak_of(lambda: learn(student, teacher, int(sys.argv[1]))))
"""


def drawn(dtype=torch.float64):
    pair = torch.randn(2, 10, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return pair[0].to(dtype).requires_grad_(), pair[1].to(dtype)


@pytest.mark.parametrize("rows_loss", [SOFT, reverse_kl_rows, partial(top_k_rows, k=3)])
@pytest.mark.parametrize("rows_at_once", [1, 3, 5, 10, 64])
@pytest.mark.parametrize("weighted", [False, True])
def test_same_as_in_one_piece(rows_loss, rows_at_once, weighted):
    student, teacher = drawn()
    weights = torch.arange(10.0) / 3 if weighted else None
    found = in_row_chunks(rows_loss, student, teacher, weights, rows_at_once)
    expected = (rows_loss(student, teacher) * (0.1 if weights is None else weights)).sum()
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    gradients = (torch.autograd.grad(3 * loss, student)[0] for loss in (found, expected))
    assert torch.allclose(*gradients, rtol=1e-12, atol=1e-14)


def test_gradient():
    student, teacher = drawn()
    weights = torch.rand(10)
    assert torch.autograd.gradcheck(lambda s: in_row_chunks(SOFT, s, teacher, weights, 4), (student,))


def test_targets_are_cut_alike():
    student, teacher = drawn()
    targets = torch.arange(10) % 7
    found = in_row_chunks(decoupled_rows, student, teacher, None, 4, targets)
    assert found.item() == pytest.approx(decoupled_rows(student, teacher, targets).mean().item(), rel=1e-12)


def test_rows_that_do_not_count():
    student, teacher = drawn()
    kept = torch.arange(10) % 3 != 0
    with torch.no_grad():
        student[0] = torch.nan
    loss = in_row_chunks(SOFT, student, teacher, kept, 4)
    loss.backward()
    assert loss.item() == pytest.approx(SOFT(student[kept], teacher[kept]).sum().item(), rel=1e-12)
    assert (student.grad[~kept] == 0).all()
    assert (student.grad[kept] != 0).all()
    assert in_row_chunks(SOFT, student, teacher, torch.zeros(10), 4) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_logits_are_computed_in_float32(dtype):
    student, teacher = drawn(dtype)
    loss = in_row_chunks(SOFT, student, teacher, None, 4)
    loss.backward()
    exact = student.detach().double().requires_grad_()
    expected = SOFT(exact, teacher.double()).mean()
    expected.backward()
    assert loss.dtype == torch.float32
    assert student.grad.dtype == dtype
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(student.grad.double(), exact.grad, rtol=2 * torch.finfo(dtype).eps, atol=1e-7)


def test_small_gradients_survive_float16_where_the_loss_is_scaled():
    """1 / rows alone would take them below what float16 holds, before the scale of the loss comes in."""
    student = torch.zeros(2**15, 4, dtype=torch.float16, requires_grad=True)
    teacher = torch.tensor([[0.002, 0.0, 0.0, 0.0]]).expand(2**15, 4)
    (in_row_chunks(kl_divergence_rows, student, teacher, None, 2**13) * 2.0**16).backward()
    exact = torch.zeros(2**15, 4, requires_grad=True)
    (kl_divergence_rows(exact, teacher).mean() * 2.0**16).backward()
    assert exact.grad.abs().min() / 2**16 < torch.finfo(torch.float16).smallest_normal * 1e-3
    assert torch.allclose(student.grad.float(), exact.grad, rtol=5e-3)


def test_only_the_student_learns():
    student, teacher = drawn()
    weights = torch.rand(10, requires_grad=True)
    in_row_chunks(SOFT, student, teacher.requires_grad_(), weights, 4).backward()
    assert teacher.grad is None
    assert weights.grad is None
    assert not in_row_chunks(SOFT, student.detach(), teacher, None, 4).requires_grad
    with torch.no_grad():
        assert in_row_chunks(SOFT, student, teacher, None, 4).item() == pytest.approx(
            SOFT(student, teacher).mean().item()
        )


def test_the_graph_can_be_kept():
    student, teacher = drawn()
    loss = in_row_chunks(SOFT, student, teacher, None, 4)
    first, second = (torch.autograd.grad(loss, student, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_rows_must_agree():
    for teacher, weights, at_once in [(2, None, 4), (3, torch.ones(2), 4), (3, None, 0)]:
        with pytest.raises(ValueError, match="all must agree"):
            in_row_chunks(SOFT, torch.zeros(3, 2), torch.zeros(teacher, 2), weights, at_once)


def test_compiles_whole():
    student, teacher = drawn()
    weights = torch.rand(10)
    compiled = torch.compile(in_row_chunks, fullgraph=True, backend="aot_eager")
    losses = compiled(SOFT, student, teacher, weights, 4), in_row_chunks(SOFT, student, teacher, weights, 4)
    assert torch.allclose(*losses, rtol=1e-14)
    assert torch.allclose(*(torch.autograd.grad(loss, student)[0] for loss in losses), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures resident sets")
def test_peak_memory():
    """Freed memory goes back at once, so that the peak is that of what is held."""
    path = os.pathsep.join([str(Path(__file__).parents[4] / "benchmarks"), *sys.path])
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "PYTHONPATH": path}
    chunked, whole = (
        int(
            subprocess.run(
                [sys.executable, "-c", PEAK, at_once], env=environment, capture_output=True, check=True
            ).stdout
        )
        for at_once in ("64", "0")
    )
    assert chunked < 0.6 * whole

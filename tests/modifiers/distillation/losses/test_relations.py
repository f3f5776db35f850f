"""Relational losses against their formulas, in plain loops."""

import math

import pytest
import torch

from paredown.modifiers.distillation.losses.relations import angle_loss, distance_loss, similarity_loss

LOSSES = [distance_loss, angle_loss, similarity_loss]
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)


def drawn(batch=5, *widths):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, width, generator=generator, dtype=torch.float64) for width in widths or (3, 4)]


def huber(x):
    return x * x / 2 if abs(x) < 1 else abs(x) - 0.5


def naive_distances(rows):
    found = [[math.dist(a, b) for b in rows] for a in rows]
    mean = sum(map(sum, found)) / (len(rows) * (len(rows) - 1))
    return [x / mean for line in found for x in line]


def naive_angles(rows):
    found = []
    for at in rows:
        for one in rows:
            for other in rows:
                a, b = [x - y for x, y in zip(one, at, strict=True)], [x - y for x, y in zip(other, at, strict=True)]
                sizes = math.hypot(*a) * math.hypot(*b)
                found.append(sum(x * y for x, y in zip(a, b, strict=True)) / sizes if sizes else 0.0)
    return found


def naive_similarities(rows):
    found = []
    for a in rows:
        line = [sum(x * y for x, y in zip(a, b, strict=True)) for b in rows]
        found += [x / math.hypot(*line) for x in line]
    return found


@pytest.mark.parametrize(
    ("loss", "relations", "apart"),
    [
        (distance_loss, naive_distances, huber),
        (angle_loss, naive_angles, huber),
        (similarity_loss, naive_similarities, lambda x: x * x),
    ],
)
@pytest.mark.parametrize("batch", [2, 3, 6])
def test_value(loss, relations, apart, batch):
    student, teacher = drawn(batch)
    pairs = list(zip(relations(student.tolist()), relations(teacher.tolist()), strict=True))
    naive = sum(apart(ours - theirs) for ours, theirs in pairs) / len(pairs)
    assert loss(student, teacher).item() == pytest.approx(naive, rel=1e-12, abs=1e-15)


@each_loss
def test_gradient(loss):
    student, teacher = drawn(4)
    assert torch.autograd.gradcheck(loss, (student.requires_grad_(), teacher.requires_grad_()))


@each_loss
def test_nothing_to_learn(loss):
    student = drawn()[0].requires_grad_()
    value = loss(student, student.detach())
    value.backward()
    assert value == 0
    assert (student.grad == 0).all()


@each_loss
def test_scale_and_rotation_do_not_matter(loss):
    student, teacher = drawn()
    rotation = torch.linalg.qr(drawn(4, 4)[0]).Q
    expected = loss(student, teacher)
    assert torch.allclose(loss(student * 7, teacher), expected, rtol=1e-12)
    assert torch.allclose(loss(student, 0.1 * teacher @ rotation), expected, rtol=1e-12)
    assert loss(teacher @ rotation * 3, teacher).item() == pytest.approx(0, abs=1e-15)


@each_loss
def test_one_sample(loss):
    student, teacher = drawn(1)
    student.requires_grad_()
    value = loss(student, teacher)
    value.backward()
    assert value == 0
    assert (student.grad == 0).all()


@each_loss
@pytest.mark.parametrize("same", [slice(0, 2), slice(None)])
@pytest.mark.parametrize("value", [0.0, 0.7])
def test_samples_that_coincide(loss, same, value):
    student, teacher = (x.float() for x in drawn())
    student[same] = value
    student.requires_grad_()
    loss(student, teacher).backward()
    assert torch.isfinite(student.grad).all()
    assert student.grad.abs().max() < 10


@each_loss
def test_embeddings_are_flattened(loss):
    student, teacher = drawn(5, 6, 8)
    assert loss(student.reshape(5, 2, 3), teacher.reshape(5, 2, 2, 2)) == loss(student, teacher)


@each_loss
def test_narrow_embeddings_are_computed_in_float32(loss):
    student, teacher = (x.bfloat16() for x in drawn())
    value = loss(student, teacher)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(loss(student.double(), teacher.double()).item(), rel=1e-4)


@each_loss
def test_batches_must_agree(loss):
    with pytest.raises(ValueError, match=r"2 samples, the teacher's 3"):
        loss(torch.zeros(2, 3), torch.zeros(3, 3))


@each_loss
def test_compiles_whole(loss):
    student, teacher = drawn()
    student.requires_grad_()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    ours, theirs = compiled(student, teacher), loss(student, teacher)
    assert torch.allclose(ours, theirs, rtol=1e-13)
    assert torch.allclose(*(torch.autograd.grad(value, student)[0] for value in (ours, theirs)), rtol=1e-11)

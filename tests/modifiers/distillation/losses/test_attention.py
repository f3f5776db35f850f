"""Losses between attention against their formulas, written out in float64."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from paredown.modifiers.distillation.losses.attention import (
    activation_map,
    attention_distribution_loss,
    attention_squared_loss,
    attention_transfer_loss,
    relation_loss,
)

QUERIES = torch.tensor([[1.0, 0.5, 0.0], [0.0, 2.0, 1.0]])
each_query_loss = pytest.mark.parametrize("loss", [attention_distribution_loss, attention_squared_loss])


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def probabilities(*shape):
    return [drawn(*shape, seed=seed).softmax(-1) for seed in (0, 1)]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def naive_map(feature, power):
    sums = [sum(np.abs(channel) ** power for channel in sample) / len(sample) for sample in feature.numpy()]
    return np.array([x.ravel() / math.sqrt((x**2).sum()) for x in sums])


@pytest.mark.parametrize("shape", [(3, 4, 6), (3, 2, 4, 5), (2, 3, 2, 3, 4)])
@pytest.mark.parametrize("power", [1, 2, 4])
def test_activation_transfer(shape, power):
    student, teacher = drawn(*shape), drawn(shape[0], 7, *shape[2:], seed=1)
    ours, theirs = naive_map(student, power), naive_map(teacher, power)
    assert np.allclose(activation_map(student, power).numpy(), ours, rtol=1e-13)
    naive = ((ours - theirs) ** 2).sum(-1).mean()
    assert attention_transfer_loss(student, teacher, power).item() == pytest.approx(naive, rel=1e-13)


@pytest.mark.parametrize("smaller", [(4, 3), (3, 6)])
def test_maps_are_pooled_to_the_smaller_size(smaller):
    student, teacher = drawn(2, 3, 4, 6), drawn(2, 5, *smaller, seed=1)
    size = tuple(map(min, zip(smaller, (4, 6), strict=True)))
    ours, theirs = (F.adaptive_avg_pool2d(x.square().mean(1), size).flatten(1) for x in (student, teacher))
    ours, theirs = (x / x.square().sum(-1, keepdim=True).sqrt() for x in (ours, theirs))
    expected = (ours - theirs).square().sum(-1).mean()
    assert torch.allclose(attention_transfer_loss(student, teacher), expected, rtol=1e-13)
    assert torch.allclose(attention_transfer_loss(teacher, student), expected, rtol=1e-13)


def test_activation_transfer_knows_no_scale():
    student, teacher = drawn(2, 3, 4, 4), drawn(2, 3, 4, 4, seed=1)
    expected = attention_transfer_loss(student, teacher)
    assert torch.allclose(attention_transfer_loss(student * 1e3, teacher * -0.01), expected, rtol=1e-12)
    assert attention_transfer_loss(student, student * 3).item() == pytest.approx(0, abs=1e-15)
    zero = torch.zeros(2, 3, 4, 4, requires_grad=True)
    attention_transfer_loss(zero, teacher.float()).backward()
    assert (zero.grad == 0).all()


@pytest.mark.parametrize("shape", [(2, 4, 4), (3, 3, 4, 4), (2, 3), (2, 1, 1, 1, 1, 1)])
def test_features_must_be_alike(shape):
    with pytest.raises(ValueError, match="features of the shapes"):
        attention_transfer_loss(torch.zeros(2, 3, 4, 4) if len(shape) in (3, 4) else torch.zeros(shape), drawn(*shape))


@pytest.mark.parametrize("weights", [None, QUERIES])
def test_attention_distributions(weights):
    student, teacher = probabilities(2, 4, 3, 5)
    rows = np.array(
        [
            [[kl(teacher[b, h, q].tolist(), student[b, h, q].tolist()) for q in range(3)] for h in range(4)]
            for b in (0, 1)
        ]
    )
    naive = np.average(rows.mean(1), weights=None if weights is None else weights.numpy())
    assert attention_distribution_loss(student, teacher, weights).item() == pytest.approx(naive, rel=1e-12)


@pytest.mark.parametrize("weights", [None, QUERIES])
def test_attention_scores(weights):
    student, teacher = drawn(2, 4, 3, 5), drawn(2, 4, 3, 5, seed=1)
    rows = ((student - teacher) ** 2).mean((1, 3)).numpy()
    naive = np.average(rows, weights=None if weights is None else weights.numpy())
    assert attention_squared_loss(student, teacher, weights).item() == pytest.approx(naive, rel=1e-13)


def test_masked_scores_count_as_equal():
    student, teacher = drawn(1, 1, 2, 4), drawn(1, 1, 2, 4, seed=1)
    expected = (student - teacher)[..., :3].square().sum() / 8
    student[..., 3] = teacher[..., 3] = -math.inf
    student.requires_grad_()
    loss = attention_squared_loss(student, teacher)
    loss.backward()
    assert torch.allclose(loss, expected)
    assert (student.grad[..., 3] == 0).all()
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_probabilities_of_zero_are_safe(dtype):
    student = torch.tensor([[[[1.0, 0.0, 0.0]]]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[[[0.5, 0.5, 0.0]]]], dtype=dtype, requires_grad=True)
    loss = attention_distribution_loss(student, teacher)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()
    assert torch.isfinite(teacher.grad).all()
    assert attention_distribution_loss(teacher, teacher) == 0


@each_query_loss
def test_queries_that_do_not_count(loss):
    student, teacher = probabilities(2, 4, 3, 5)
    kept = QUERIES != 0
    student[0, :, 2] = math.nan
    student.requires_grad_()
    value = loss(student, teacher, kept)
    value.backward()
    alone = loss(*(x.transpose(1, 2)[kept].unsqueeze(2) for x in (student, teacher)))
    assert value.item() == pytest.approx(alone.item(), rel=1e-13)
    gradient = student.grad.transpose(1, 2)
    assert (gradient[~kept] == 0).all()
    assert (gradient[kept] != 0).all()
    assert loss(student, teacher, torch.zeros(2, 3)) == 0


def naive_relations(student, teacher, heads, weights):
    total = 0.0
    for b, counts in enumerate(weights.tolist()):
        kept = [token for token, count in enumerate(counts) if count]
        for h in range(heads):
            both = []
            for states in (teacher, student):
                size = states.shape[-1] // heads
                rows = states[b, kept, h * size : (h + 1) * size].numpy()
                powers = np.exp(rows @ rows.T / math.sqrt(size))
                both.append(powers / powers.sum(-1, keepdims=True))
            total += sum(counts[token] * kl(p, q) for token, p, q in zip(kept, *both, strict=True)) / heads
    return total / weights.sum().item()


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("weights", [None, QUERIES, torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 0.0]])])
def test_relations(heads, weights):
    student, teacher = drawn(2, 3, 4), drawn(2, 3, 6, seed=1)
    naive = naive_relations(student, teacher, heads, torch.ones(2, 3) if weights is None else weights)
    assert relation_loss(student, teacher, heads, weights).item() == pytest.approx(naive, rel=1e-12)


def test_tokens_that_do_not_count():
    student, teacher = drawn(2, 3, 4), drawn(2, 3, 6, seed=1)
    kept = QUERIES != 0
    student[~kept], teacher[0, 2] = math.nan, 1e30
    student.requires_grad_()
    value = relation_loss(student, teacher, 2, kept)
    value.backward()
    alone = [relation_loss(student[b, kept[b]][None], teacher[b, kept[b]][None], 2).item() for b in (0, 1)]
    assert value.item() == pytest.approx(sum(alone) / 2, rel=1e-13)
    assert (student.grad[~kept] == 0).all()
    assert (student.grad[kept] != 0).all()
    nothing = relation_loss(student, teacher, 2, torch.zeros(2, 3))
    nothing.backward()
    assert nothing == 0
    assert torch.isfinite(student.grad).all()


def test_turning_the_states_does_not_matter():
    states = drawn(2, 3, 4)
    rotation = torch.linalg.qr(drawn(4, 4, seed=1)).Q
    assert relation_loss(states @ rotation, states).item() == pytest.approx(0, abs=1e-15)


def test_relations_must_be_alike():
    for teacher, heads, weights in [((2, 4, 4), 1, None), ((2, 3, 5), 2, None), ((2, 3, 4), 1, torch.ones(2, 4))]:
        with pytest.raises(ValueError, match="must agree, and"):
            relation_loss(torch.zeros(2, 3, 4), torch.zeros(teacher), heads, weights)


CASES = [
    (attention_transfer_loss, (drawn(2, 3, 4, 4), drawn(2, 2, 3, 3, seed=1)), ()),
    (attention_distribution_loss, probabilities(2, 2, 3, 4), (QUERIES,)),
    (attention_squared_loss, (drawn(2, 2, 3, 4), drawn(2, 2, 3, 4, seed=1)), (QUERIES,)),
    (relation_loss, (drawn(2, 3, 4), drawn(2, 3, 6, seed=1)), (2, QUERIES)),
]
each_case = pytest.mark.parametrize(("loss", "pair", "more"), CASES, ids=[case[0].__name__ for case in CASES])


@each_case
def test_gradient(loss, pair, more):
    leaves = tuple(x.clone().requires_grad_() for x in pair)
    assert torch.autograd.gradcheck(lambda s, t: loss(s, t, *more), leaves)
    if more:
        assert torch.autograd.gradcheck(loss, leaves)


@each_case
def test_narrow_types_are_computed_in_float32(loss, pair, more):
    student, teacher = (x.bfloat16() for x in pair)
    value = loss(student, teacher, *more)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(loss(student.double(), teacher.double(), *more).item(), rel=1e-4)


@each_case
def test_compiles_whole(loss, pair, more):
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(*pair, *more), loss(*pair, *more), rtol=1e-13)

"""SparseGPT against a plain float64 implementation that inverts what is left before every column."""

import pytest
import torch
from correlated_inputs import correlated, cost, damped, moments_of

from paredown.modifiers.pruning.scoring.units import Pattern
from paredown.modifiers.pruning.sparsegpt import sparsegpt_rows


def reference(weight, moments, choose, step):
    """One column at a time: what goes is chosen every ``step`` columns, its error is spread over those to come."""
    moments = damped(moments)
    weight, n = weight.clone(), len(moments)
    pruned = weight == 0
    for at in range(n):
        if at % step == 0:
            soon = range(at, min(at + step, n))
            score = torch.stack([weight[:, c] ** 2 / torch.linalg.inv(moments[c:, c:])[0, 0] for c in soon], 1)
            score[pruned[:, soon]] = -1
            pruned[:, soon] |= choose(score, at // step)
        inverse = torch.linalg.inv(moments[at:, at:])
        error = weight[:, at] * pruned[:, at] / inverse[0, 0]
        weight[:, at:] -= error[:, None] * inverse[0]
        weight[:, at] *= ~pruned[:, at]
    return weight, pruned


def smallest_of_block(counts):
    def choose(score, block):
        order = score.T.flatten().argsort(stable=True)[: counts[block]]
        return torch.zeros(score.numel(), dtype=torch.bool).index_fill(0, order, True).view(score.T.shape).T

    return choose


def smallest_of_four(score, block):
    return torch.zeros_like(score, dtype=torch.bool).scatter(1, score.topk(2, dim=1, largest=False).indices, True)


@pytest.mark.parametrize(("share", "counts"), [(0.5, [48, 48, 24]), (0.3, [29, 29, 14]), (0.9, [86, 87, 43])])
def test_as_the_plain_algorithm(share, counts):
    moments = moments_of(correlated(400, 40))
    weight = torch.randn(6, 40, dtype=torch.float64)
    want, gone = reference(weight, moments, smallest_of_block(counts), 16)
    got, pruned = sparsegpt_rows(weight, moments[None], sum(counts), 16)
    assert torch.equal(pruned, gone)
    assert int(pruned.sum()) == sum(counts) == round(share * 240)
    assert torch.allclose(got, want, atol=1e-9)
    assert torch.equal(got == 0, pruned)


@pytest.mark.parametrize("block_size", [4, 10, 128])
def test_two_of_four_as_the_plain_algorithm_for_any_block(block_size):
    moments = moments_of(correlated(400, 40))
    weight = torch.randn(6, 40, dtype=torch.float64)
    want, gone = reference(weight, moments, smallest_of_four, 4)
    got, pruned = sparsegpt_rows(weight, moments[None], Pattern(2, 4), block_size)
    assert torch.equal(pruned, gone)
    assert torch.allclose(got, want, atol=1e-9)
    assert (pruned.view(6, -1, 4).sum(2) == 2).all()


def test_blocks_of_128_of_a_wide_layer():
    moments = moments_of(correlated(900, 300))
    weight = torch.randn(3, 300, dtype=torch.float64)
    want, _ = reference(weight, moments, smallest_of_block([192, 192, 66]), 128)
    got, _ = sparsegpt_rows(weight, moments[None], 450)
    assert torch.allclose(got, want, atol=1e-8)


@pytest.mark.parametrize("goal", [100, 150, 200, Pattern(2, 4)])
def test_zeros_stay_and_count(goal):
    weight = torch.randn(8, 40)
    weight[:, :12] = 0
    weight[3] = 0
    zero = weight == 0
    got, pruned = sparsegpt_rows(weight, moments_of(correlated(400, 40)).float()[None], goal, 16)
    assert (pruned | ~zero).all()
    assert not got[pruned].any()
    if goal == Pattern(2, 4):
        want = zero.view(8, -1, 4).sum(2).clamp(min=2)
        assert torch.equal(pruned.view(8, -1, 4).sum(2), want)
    else:
        assert int(pruned.sum()) == max(goal, int(zero.sum()))


def test_groups_are_layers_of_their_own():
    moments = torch.stack([moments_of(correlated(300, 24, seed)) for seed in range(3)])
    weight = torch.randn(12, 24, dtype=torch.float64)
    for goal in (145, Pattern(1, 4)):
        got, pruned = sparsegpt_rows(weight, moments, goal, 8)
        alone = [
            sparsegpt_rows(part, own[None], goal if goal == Pattern(1, 4) else int(gone.sum()), 8)
            for part, own, gone in zip(weight.chunk(3), moments, pruned.chunk(3), strict=True)
        ]
        assert torch.equal(torch.cat([gone for _, gone in alone]), pruned)
        assert torch.allclose(torch.cat([new for new, _ in alone]), got)
        assert int(pruned.sum()) == (145 if goal == 145 else 216)


def test_inputs_that_are_always_zero_go_first_and_dependent_ones_do_no_harm():
    x = correlated(100, 16)
    x[:, 3] = 0
    x[:, 5] = x[:, 4]
    weight = torch.randn(4, 16)
    got, pruned = sparsegpt_rows(weight, moments_of(x).float()[None], 20)
    assert pruned[:, 3].all()
    assert torch.isfinite(got).all()
    plain, pruned = sparsegpt_rows(weight, torch.zeros(1, 16, 16), 20)
    assert torch.equal(plain[~pruned], weight[~pruned])


def test_better_than_leaving_the_others_as_they_are():
    moments = moments_of(correlated(600, 64))
    weight = torch.randn(16, 64, dtype=torch.float64)
    got, pruned = sparsegpt_rows(weight, moments[None], 512)
    assert cost(got, weight, moments) < 0.8 * cost(weight.masked_fill(pruned, 0), weight, moments)

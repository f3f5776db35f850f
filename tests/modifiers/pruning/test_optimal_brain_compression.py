"""ExactOBS against an implementation that inverts what is left at every step, and against all masks of tiny rows."""

import heapq
import itertools

import pytest
import torch
from correlated_inputs import correlated, cost, damped, moments_of
from sample_models import recipe_of
from torch import nn

from paredown import Recipe, ScheduledManager
from paredown.modifiers.pruning import optimal_brain_compression
from paredown.modifiers.pruning.optimal_brain_compression import optimal_brain_rows, removal_traces
from paredown.modifiers.pruning.scoring.units import Pattern
from paredown.modifiers.pruning.sparsegpt import sparsegpt_rows


def plain_trace(row, moments, allowed=lambda column, gone: True):
    """The columns in the order in which they go, and their losses."""
    row, left, gone, losses = row.clone(), list(range(len(row))), [], []
    while candidates := [at for at, column in enumerate(left) if allowed(column, gone)]:
        inverse = torch.linalg.inv(moments[left][:, left])
        score = row[left] ** 2 / inverse.diagonal()
        at = min(candidates, key=lambda place: score[place].item())
        losses.append(score[at].item())
        row[left] -= inverse[:, at] * row[left[at]] / inverse[at, at]
        gone.append(left.pop(at))
    return gone, losses


def merged(traces, count):
    """How many go of each row: always the next one of least loss (algorithm 2 of the paper)."""
    heap = [(losses[0], row) for row, (_, losses) in enumerate(traces)]
    heapq.heapify(heap)
    taken = [0] * len(traces)
    for _ in range(count):
        _, row = heapq.heappop(heap)
        taken[row] += 1
        losses = traces[row][1]
        if taken[row] < len(losses):
            heapq.heappush(heap, (losses[taken[row]], row))
    return taken


def solved(row, gone, moments):
    kept = [column for column in range(len(row)) if column not in gone]
    new = torch.zeros_like(row)
    if kept:
        new[kept] = torch.linalg.solve(moments[kept][:, kept], (moments @ row)[kept])
    return new


@pytest.mark.parametrize("batch", [1, 1 << 21])
@pytest.mark.parametrize("count", [0, 1, 40, 71, 120])
def test_as_the_plain_algorithm(count, batch, monkeypatch):
    monkeypatch.setattr(optimal_brain_compression, "BATCH", batch)
    moments = moments_of(correlated(200, 20))
    weight = torch.randn(6, 20, dtype=torch.float64) * torch.linspace(0.3, 2, 6)[:, None]
    traces = [plain_trace(row, damped(moments)) for row in weight]
    order, losses = removal_traces(weight, torch.linalg.inv(damped(moments))[None])
    assert order.tolist() == [gone for gone, _ in traces]
    assert torch.allclose(losses, torch.tensor([losses for _, losses in traces], dtype=torch.float64))
    got, pruned = optimal_brain_rows(weight, moments[None], count)
    taken = merged(traces, count)
    assert pruned.sum(1).tolist() == taken
    for row, (gone, _), number, new in zip(weight, traces, taken, got, strict=True):
        assert torch.allclose(new, solved(row, gone[:number], damped(moments)), atol=1e-8)


def test_two_of_four_as_the_plain_algorithm():
    def allowed(column, gone):
        return sum(other // 4 == column // 4 for other in gone) < 2

    moments = moments_of(correlated(200, 16))
    weight = torch.randn(5, 16, dtype=torch.float64)
    got, pruned = optimal_brain_rows(weight, moments[None], Pattern(2, 4))
    assert (pruned.view(5, -1, 4).sum(2) == 2).all()
    for row, new in zip(weight, got, strict=True):
        gone, _ = plain_trace(row, damped(moments), allowed)
        assert torch.allclose(new, solved(row, gone, damped(moments)), atol=1e-8)


def test_one_weight_is_the_best_of_all_and_three_are_near_it():
    moments = moments_of(correlated(60, 7))
    weight = torch.randn(30, 7, dtype=torch.float64)
    for count, most in ((1, 1 + 1e-9), (3, 1.35)):
        best = greedy = 0.0
        for row in weight:
            options = itertools.combinations(range(7), count)
            best += min(cost(solved(row, gone, damped(moments))[None], row[None], damped(moments)) for gone in options)
            new, _ = optimal_brain_rows(row[None], moments[None], count)
            greedy += cost(new, row[None], damped(moments))
        assert best - 1e-12 <= greedy <= most * best


@pytest.mark.parametrize("goal", [60, 120, Pattern(2, 4)])
def test_zeros_stay_and_count(goal):
    weight = torch.randn(8, 20)
    weight[:, :7] = 0
    weight[3] = 0
    zero = weight == 0
    got, pruned = optimal_brain_rows(weight, moments_of(correlated(400, 20)).float()[None], goal)
    assert (pruned | ~zero).all()
    assert not got[pruned].any()
    if goal == Pattern(2, 4):
        assert torch.equal(pruned.view(8, -1, 4).sum(2), zero.view(8, -1, 4).sum(2).clamp(min=2))
    else:
        assert int(pruned.sum()) == max(goal, int(zero.sum()))


def test_nearer_than_sparsegpt():
    moments = moments_of(correlated(600, 48))
    weight = torch.randn(16, 48, dtype=torch.float64)
    exact, _ = optimal_brain_rows(weight, moments[None], 500)
    swept, _ = sparsegpt_rows(weight, moments[None], 500)
    assert cost(exact, weight, moments) < 0.9 * cost(swept, weight, moments)


def test_wide_layers_are_left_alone_with_the_reason():
    model = nn.Sequential(nn.Linear(30, 20), nn.Linear(20, 4))
    before = model[0].weight.detach().clone()
    fields = {"type": "optimal_brain_compression", "final_sparsity": 0.5, "most_columns": 20}
    manager = ScheduledManager(Recipe.load(recipe_of(1, p=fields)))
    assert "30 weights an output are more than most_columns, 20" in str(manager.plan(model))
    manager.apply(model, data=[(torch.randn(40, 30),)])
    assert torch.equal(model[0].weight, before)
    assert int((model[1].weight == 0).sum()) == 40

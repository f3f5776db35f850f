"""Inverse, saliencies and updates against dense float64 algebra."""

import pytest
import torch
from sample_models import batches, mlp, recipe_of
from torch import nn

from paredown import Recipe, ScheduledManager
from paredown.modifiers.pruning.fisher_pruning import add_gradient_, inverse_fisher, saliencies, weight_update


def made(n=7, size=5, count=9, damping=0.2):
    torch.manual_seed(0)
    blocks = -(-n // size)
    gradients = torch.randn(count, n).double()
    sums = torch.zeros(blocks, size, size).double()
    for gradient in gradients:
        add_gradient_(sums, gradient)
    padded = nn.functional.pad(gradients, (0, blocks * size - n)).view(count, blocks, size)
    plain = torch.stack([sum(torch.outer(g[b], g[b]) for g in padded) / count for b in range(blocks)])
    mean = sum(float(block[i, i]) for block in plain for i in range(size)) / (blocks * size)
    return inverse_fisher(sums / count, damping), plain + damping * mean * torch.eye(size).double()


def test_the_inverse():
    inverse, dense = made()
    torch.testing.assert_close(inverse @ dense, torch.eye(5).double().expand(2, 5, 5))
    torch.testing.assert_close(inverse_fisher(torch.zeros(1, 3, 3), 0.1), torch.eye(3)[None])


def test_saliencies_are_the_least_rise_of_the_quadratic():
    inverse, dense = made()
    weight = torch.randn(7).double()
    found = saliencies(weight, inverse)
    for place in range(7):
        matrix, inside = dense[place // 5], place % 5
        rest = [i for i in range(5) if i != inside]
        change = torch.zeros(5).double()
        change[inside] = -weight[place]
        change[rest] = torch.linalg.solve(matrix[rest][:, rest], matrix[rest, inside] * weight[place])
        assert float(found[place]) == pytest.approx(float(0.5 * change @ matrix @ change))


def test_the_update_solves_the_constrained_problem():
    inverse, dense = made(n=10)
    weight = torch.randn(2, 5).double()
    pruned = torch.tensor([[True, False, True, False, False], [False, True, True, True, False]])
    found = weight + weight_update(weight, pruned, inverse)
    assert found[pruned].abs().max() < 1e-12
    for row in range(2):
        matrix, gone = dense[row], pruned[row]
        change = torch.zeros(5).double()
        change[gone] = -weight[row][gone]
        change[~gone] = torch.linalg.solve(matrix[~gone][:, ~gone], -matrix[~gone][:, gone] @ change[gone])
        torch.testing.assert_close(found[row], weight[row] + change)


def test_in_a_model_it_hurts_less_than_magnitude():
    torch.manual_seed(0)
    data = [(x, y) for x, y in batches(40, size=2)]

    def trained():
        model = mlp()
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(20):
            for x, y in data:
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x), y).backward()
                optimizer.step()
        return model

    def loss(kind, **more):
        model = trained()
        fields = {"type": kind, "final_sparsity": 0.6, **more}
        ScheduledManager(Recipe.load(recipe_of(p=fields))).apply(model, data=data)
        assert sum(int((m.weight == 0).sum()) for m in model if isinstance(m, nn.Linear)) == round(0.6 * 1664)
        with torch.no_grad():
            return sum(float(nn.functional.cross_entropy(model(x), y)) for x, y in data)

    updated, left, magnitude = (
        loss("fisher_pruning"),
        loss("fisher_pruning", update_weights=False),
        loss("magnitude_pruning"),
    )
    assert updated < magnitude
    assert left < magnitude

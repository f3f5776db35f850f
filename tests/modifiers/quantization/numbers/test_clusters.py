"""k-means on a line, beside brute force and scikit-learn."""

from itertools import combinations

import pytest
import torch
from sklearn.cluster import KMeans

from paredown.modifiers.quantization.numbers.clusters import chosen_levels, nearest_place, shared_values


def error(values, centers, importance=1.0):
    values = values.double().reshape(-1)
    nearest = centers[nearest_place(values, centers)]
    return float((importance * (values - nearest).square()).sum())


def brute_force(values, clusters, importance):
    order = values.argsort()
    values, importance = values[order], importance[order]
    best = float("inf")
    for cuts in combinations(range(1, len(values)), clusters - 1):
        parts = zip((0, *cuts), (*cuts, len(values)), strict=True)
        errors = 0.0
        for begin, end in parts:
            own, by = values[begin:end], importance[begin:end]
            errors += float((by * (own - (by * own).sum() / by.sum()).square()).sum())
        best = min(best, errors)
    return best


@pytest.mark.parametrize("clusters", [1, 2, 3, 4])
def test_few_numbers_get_the_best_values_that_there_are(clusters):
    torch.manual_seed(clusters)
    values, importance = torch.randn(13).double(), torch.rand(13).double()
    centers = shared_values(values, clusters, importance)
    assert len(centers) == clusters
    assert error(values, centers, importance) == pytest.approx(brute_force(values, clusters, importance))


@pytest.mark.parametrize(("size", "clusters"), [(700, 7), (5000, 15), (5000, 63), (100_000, 15)])
def test_no_worse_than_scikit_learn(size, clusters):
    torch.manual_seed(0)
    values = torch.randn(size) * torch.rand(size).exp()
    starts = 10 if size <= 5000 else 2
    peer = KMeans(clusters, n_init=starts, random_state=0).fit(values[:, None].double().numpy()).inertia_
    assert error(values, shared_values(values, clusters)) <= 1.001 * peer


def test_as_many_values_as_there_are_stay_as_they_are():
    values = torch.tensor([[3.0, -1.0], [3.0, 2.0]])
    assert shared_values(values, 5).tolist() == [-1.0, 2.0, 3.0]
    assert shared_values(torch.full((9,), 0.5), 4).tolist() == [0.5]


def test_an_importance_of_nothing_counts_for_nothing():
    values = torch.tensor([0.0, 1.0, 50.0, 51.0])
    assert shared_values(values, 2, torch.tensor([1.0, 1.0, 0.0, 0.0])).tolist() == [0.0, 1.0]
    assert shared_values(values, 2, torch.zeros(4)).tolist() == [0.5, 50.5]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_levels_are_the_best_of_all_choices(count):
    torch.manual_seed(count)
    values, importance, levels = 4 * torch.randn(200).double(), torch.rand(200).double(), torch.arange(-4, 5).double()
    chosen = chosen_levels(values, levels, count, importance)
    choices = (torch.tensor(each).double() for each in combinations(levels.tolist(), count))
    assert len(chosen) == count
    assert error(values, chosen, importance) == pytest.approx(min(error(values, each, importance) for each in choices))


def test_all_levels_where_there_are_no_more():
    levels = torch.tensor([-1.0, 1.0])
    assert torch.equal(chosen_levels(torch.randn(5), levels, 4), levels.double())

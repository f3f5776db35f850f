"""Decomposition for what layers give out on data, and batch-norms whose statistics follow."""

import copy

import pytest
import torch
from decomposing import METHODS, manager_of
from sample_models import conv_net
from torch import nn

from paredown import ScheduleError


def images(count=8, size=32, channels=8, seed=0):
    """Smooth, correlated across channels."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(channels, channels, generator=generator) @ torch.diag(torch.logspace(0, -2, channels))
    noise = torch.randn(count, size, channels, 5, 5, generator=generator)
    mixed = torch.einsum("cd,nsdhw->nschw", mix, noise)
    return [(nn.functional.interpolate(batch, (10, 10), mode="bilinear"),) for batch in mixed]


LAYERS = {
    "linear": (lambda: nn.Linear(10, 24), ["svd_decomposition"]),
    "1x1": (lambda: nn.Conv2d(8, 24, 1), METHODS),
    "conv2d": (lambda: nn.Conv2d(8, 24, 3, padding=1), METHODS),
    "strided": (lambda: nn.Conv2d(8, 24, (3, 5), stride=2, dilation=(2, 1), bias=False), METHODS),
    "grouped": (lambda: nn.Conv2d(8, 24, 3, groups=2), METHODS),
    "transposed": (lambda: nn.ConvTranspose2d(8, 24, 3, stride=2), METHODS),
}
CASES = [(kind, method, {}) for kind, (_, methods) in LAYERS.items() for method in methods]
CASES += [(kind, "svd_decomposition", {"convolution": "channel"}) for kind in LAYERS]


@pytest.mark.parametrize(("kind", "method", "more"), CASES)
def test_the_output_on_the_data_is_nearer(kind, method, more):
    torch.manual_seed(0)
    data = images()
    model = nn.Sequential(LAYERS[kind][0]()).double()
    data = [(x.double(),) for (x,) in data]
    plain, aware = copy.deepcopy(model), copy.deepcopy(model)
    manager_of(method, 3, **more).apply(plain, data=data)
    manager_of(method, 3, activation_aware=True, **more).apply(aware, data=data)
    x = torch.cat([batch[0] for batch in data])
    want = model(x)
    assert (aware(x) - want).norm() < 0.9 * (plain(x) - want).norm()
    assert [type(layer) for layer in aware[0]] == [type(layer) for layer in plain[0]]


def test_the_optimum_of_a_linear_layer():
    """No other matrix of the rank has less error of the output: whitening and singular values."""
    torch.manual_seed(0)
    x = torch.randn(600, 12, dtype=torch.float64) @ torch.randn(12, 12, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(12, 20)).double()
    want = x @ model[0].weight.T + model[0].bias
    responses = x @ model[0].weight.detach().T
    best = torch.linalg.svdvals(responses)[4:].norm()
    manager_of("svd_decomposition", 4, activation_aware=True).apply(model, data=[(x,)])
    assert best * (1 - 1e-9) <= (model(x) - want).norm() <= 1.001 * best


@pytest.mark.parametrize("method", METHODS)
def test_full_rank_stays_exact(method):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 12, 3)).double()
    data = [(x.double(),) for (x,) in images()]
    want = model(data[0][0])
    manager_of(method, 10**6, activation_aware=True).apply(model, data=data)
    assert torch.allclose(model(data[0][0]), want, atol=1e-7)


def test_an_embedding_by_how_often_its_rows_are_read():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 16), nn.Linear(16, 4))
    often = torch.randint(0, 10, (400, 2))
    plain, aware = copy.deepcopy(model), copy.deepcopy(model)
    manager_of("svd_decomposition", 6, targets=["0"]).apply(plain, data=[(often,)])
    manager_of("svd_decomposition", 6, targets=["0"], activation_aware=True).apply(aware, data=[(often,)])
    assert (aware(often) - model(often)).norm() < 0.7 * (plain(often) - model(often)).norm()


def test_data_is_asked_for_and_looked_at():
    model = nn.Sequential(nn.Linear(8, 8))
    manager = manager_of("svd_decomposition", 2, activation_aware=True)
    with pytest.raises(ScheduleError, match="low .* needs batches to calibrate on"):
        manager.apply(model)
    bad = torch.randn(300, 8)
    bad[3, 3] = float("nan")
    with pytest.raises(ScheduleError, match="what went into 0 held NaN"):
        manager_of("svd_decomposition", 2, activation_aware=True).apply(model, data=[(bad,)])
    assert isinstance(model[0], nn.Linear)
    with pytest.warns(UserWarning, match="fewer than 256 vectors to 0"):
        manager_of("svd_decomposition", 2, activation_aware=True).apply(model, data=[(torch.randn(10, 8),)])


def batch_norm_data():
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(64, 1, 8, 8, generator=generator),) for _ in range(4)]


def test_batch_norms_behind_a_decomposed_layer_are_estimated_anew():
    data = batch_norm_data()
    model = conv_net().train()
    for (x,) in data * 20:
        model(x)
    model.eval()
    before = copy.deepcopy(model.norm.state_dict())
    manager_of("svd_decomposition", 1, targets=["stem"]).apply(model, data=data)
    responses = torch.cat([model.stem(x) for (x,) in data])
    assert torch.allclose(model.norm.running_mean, responses.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(model.norm.running_var, responses.var((0, 2, 3)), rtol=1e-2)
    assert torch.equal(model.norm.num_batches_tracked, before["num_batches_tracked"])
    assert not model.training
    assert (model.norm.momentum, model.norm.training) == (0.1, False)


def test_batch_norms_before_it_stay_and_so_do_all_if_asked():
    data, model = batch_norm_data(), conv_net().eval()
    before = model.norm.running_mean.clone()
    manager_of("svd_decomposition", 1, targets=["body"]).apply(model, data=data)
    assert torch.equal(model.norm.running_mean, before)
    model = conv_net().eval()
    manager_of("svd_decomposition", 1, targets=["stem"], recalibrate_batch_norm=False).apply(model, data=data)
    assert torch.equal(model.norm.running_mean, before)


def test_batch_norms_need_data_if_they_are_asked_for():
    manager = manager_of("svd_decomposition", 1, recalibrate_batch_norm=True)
    with pytest.raises(ScheduleError, match="needs batches to calibrate on"):
        manager.apply(conv_net())
    manager = manager_of("svd_decomposition", 1)
    assert "batch-norms are estimated again where data is given" in str(manager.plan(conv_net()))
    manager.apply(conv_net())


def test_data_that_fails_changes_nothing():
    model = conv_net()
    before = copy.deepcopy(model.state_dict())
    data = [*batch_norm_data(), (torch.randn(4, 3, 8, 8),)]
    with pytest.raises(ScheduleError, match="could not be run on a batch"):
        manager_of("svd_decomposition", 1).apply(model, data=data)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert isinstance(model.stem, nn.Conv2d)

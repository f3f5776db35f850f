"""taylor, snip, grasp and synflow against autograd, finite differences and a closed form, in float64."""

import pytest
import torch
from sample_models import batches, conv_net, mlp, recipe_of
from torch import nn

from paredown import Recipe, ScheduledManager, ScheduleError
from paredown.framework.modifier.curves import share_of

DATA = [(x.double(), y) for x, y in batches(3)]


def layers(model):
    return [model[0].weight, model[2].weight, model[4].weight]


def gradients(model, x, y):
    return torch.autograd.grad(nn.functional.cross_entropy(model(x), y), layers(model))


def applied(kind, share=0.4, model=None, **more):
    model = mlp().double() if model is None else model
    manager = ScheduledManager(Recipe.load(recipe_of(p={"type": kind, "final_sparsity": share, **more})))
    manager.apply(model, data=DATA, example_inputs=(DATA[0][0],))
    return model


def assert_least_went(model, scores, share=0.4):
    flat = torch.cat([score.flatten() for score in scores])
    want = torch.zeros(len(flat), dtype=torch.bool)
    want[flat.argsort(stable=True)[: share_of(share, len(flat))]] = True
    assert torch.equal(torch.cat([(w == 0).flatten() for w in layers(model)]), want)


def test_taylor_is_the_mean_of_squares():
    model = mlp().double()
    each = [gradients(model, x, y) for x, y in DATA]
    scores = [sum((w * g[place]).square() for g in each) / 3 for place, w in enumerate(layers(model))]
    assert_least_went(applied("taylor_pruning"), scores)


def test_snip_takes_all_batches_together():
    model = mlp().double()
    each = [gradients(model, x, y) for x, y in DATA]
    scores = [(w * sum(g[place] for g in each)).abs() for place, w in enumerate(layers(model))]
    assert_least_went(applied("snip_pruning"), scores)


def test_grasp_by_finite_differences():
    model = mlp().double()
    weights = layers(model)

    def mean_gradients():
        each = [gradients(model, x, y) for x, y in DATA]
        return [sum(g[place] for g in each) / 3 for place in range(3)]

    flow = mean_gradients()
    step = 1e-5
    with torch.no_grad():
        torch._foreach_add_(weights, flow, alpha=step)
    after = mean_gradients()
    with torch.no_grad():
        torch._foreach_add_(weights, flow, alpha=-2 * step)
    before = mean_gradients()
    products = [(a - b) / (2 * step) for a, b in zip(after, before, strict=True)]
    original = layers(mlp().double())
    scores = [w.detach() * product for w, product in zip(original, products, strict=True)]
    found = applied("grasp_pruning")
    flat = torch.cat([score.flatten() for score in scores])
    gone = torch.cat([(w == 0).flatten() for w in layers(found)])
    assert int(gone.sum()) == share_of(0.4, len(flat))
    assert float(flat[gone].max()) <= float(flat[~gone].min()) + 1e-9


def test_synflow_in_closed_form():
    model = nn.Sequential(
        nn.Linear(6, 5, bias=False), nn.ReLU(), nn.Linear(5, 4, bias=False), nn.ReLU(), nn.Linear(4, 3, bias=False)
    ).double()
    a, b, c = (w.detach().abs() for w in layers(model))
    ones_in, ones_out = torch.ones(6).double(), torch.ones(3).double()
    scores = [
        a * torch.outer(b.T @ c.T @ ones_out, ones_in),
        b * torch.outer(c.T @ ones_out, a @ ones_in),
        c * torch.outer(ones_out, b @ a @ ones_in),
    ]
    ScheduledManager(Recipe.load(recipe_of(p={"type": "synflow_pruning", "final_sparsity": 0.4, "rounds": 1}))).apply(
        model, example_inputs=(torch.randn(2, 6).double(),)
    )
    assert_least_went(model, scores)


def test_synflow_rounds_keep_every_layer_alive():
    torch.manual_seed(0)
    widths = [64, 64, 64, 4]
    model = nn.Sequential(*[layer for i in range(3) for layer in (nn.Linear(widths[i], widths[i + 1]), nn.ReLU())][:-1])
    before = [p.detach().clone() for p in model.parameters()]
    fields = {"type": "synflow_pruning", "final_sparsity": 0.98, "rounds": 50}
    ScheduledManager(Recipe.load(recipe_of(p=fields))).apply(model, example_inputs=(torch.randn(1, 64),))
    assert sum(int((w == 0).sum()) for w in layers(model)) == share_of(0.98, sum(w.numel() for w in layers(model)))
    assert all((w != 0).any() for w in layers(model))
    for now, then in zip(model.parameters(), before, strict=True):
        assert torch.equal(now[now != 0], then[now != 0])


@pytest.mark.parametrize("kind", ["taylor_pruning", "snip_pruning"])
def test_in_training_they_read_the_loops_own_gradients(kind):
    model = mlp().double()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    fields = {"type": kind, "final_sparsity": 0.4, "end": "3 steps", "every": "3 steps"}
    ScheduledManager(Recipe.load(recipe_of(p=fields))).modify(model, optimizer, 3)
    twin = mlp().double()
    watched = [torch.zeros_like(w) for w in layers(twin)]
    for x, y in DATA:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        found = gradients(twin, x, y)
        everything = torch.autograd.grad(nn.functional.cross_entropy(twin(x), y), list(twin.parameters()))
        with torch.no_grad():
            torch._foreach_add_(list(twin.parameters()), list(everything), alpha=-0.1)
        for total, weight, gradient in zip(watched, layers(twin), found, strict=True):
            total += (weight * gradient).square() if kind == "taylor_pruning" else gradient
    scores = (
        watched if kind == "taylor_pruning" else [(w * g).abs() for w, g in zip(layers(twin), watched, strict=True)]
    )
    assert_least_went(model, scores)


def test_without_gradients_or_data_the_line_to_add_is_told():
    model = mlp()
    fields = {"type": "taylor_pruning", "final_sparsity": 0.4, "curve": "constant"}
    manager = ScheduledManager(Recipe.load(recipe_of(p=fields)))
    with pytest.raises(ScheduleError, match=r"modify\(\.\.\., data=loader\)"):
        manager.modify(model, torch.optim.SGD(model.parameters(), 0.1), 3)


def test_a_loss_that_cannot_be_told():
    manager = ScheduledManager(Recipe.load(recipe_of(p={"type": "taylor_pruning", "final_sparsity": 0.4})))
    with pytest.raises(ScheduleError, match="needs the loss"):
        manager.apply(mlp(), data=[torch.randn(4, 16)])


def test_a_models_own_loss_and_a_regression():
    class WithLoss(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp()

        def forward(self, x, labels):
            return {"loss": nn.functional.cross_entropy(self.net(x), labels)}

    x, y = batches(1)[0]
    model = WithLoss()
    fields = {"type": "taylor_pruning", "final_sparsity": 0.4}
    ScheduledManager(Recipe.load(recipe_of(p=fields))).apply(model, data=[{"x": x, "labels": y}])
    other = mlp()
    ScheduledManager(Recipe.load(recipe_of(p=fields))).apply(other, data=[(x, y)])
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    ScheduledManager(Recipe.load(recipe_of(p=fields))).apply(mlp(), data=[(x, torch.randn(8, 4))])


def test_convolutions_by_channel():
    model = conv_net()
    x, y = batches(1, image=True)[0]
    found = torch.autograd.grad(nn.functional.cross_entropy(model.eval()(x), y), [model.stem.weight])
    scores = (model.stem.weight * found[0]).square().flatten(1).mean(1)
    fields = {"type": "taylor_pruning", "final_sparsity": 0.5, "structure": "channel", "targets": ["stem"]}
    ScheduledManager(Recipe.load(recipe_of(p=fields))).apply(model, data=[(x, y)])
    gone = (model.stem.weight == 0).flatten(1).all(1)
    assert set(gone.nonzero().flatten().tolist()) == set(scores.argsort()[:4].tolist())

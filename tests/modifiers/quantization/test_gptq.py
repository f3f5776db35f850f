"""GPTQ against a plain float64 implementation of optimal brain quantization in a fixed order, and by what it promises."""

import copy

import pytest
import torch
from sample_models import recipe_of
from torch import nn

from paredown import Recipe, ScheduledManager, TargetError
from paredown.framework.calibration.second_moments import input_columns
from paredown.modifiers.quantization.gptq import gptq_weight
from paredown.modifiers.quantization.layers.stored import Grid
from paredown.modifiers.quantization.numbers.fake_quantize import fake_quantize
from paredown.modifiers.quantization.numbers.scales import weight_parameters
from paredown.modifiers.quantization.numbers.scheme import WeightScheme
from paredown.modifiers.quantization.numbers.weight_layout import spread, view_for


def correlated(samples, n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(n, n, generator=generator, dtype=torch.float64) / n**0.5
    return torch.randn(samples, n, generator=generator, dtype=torch.float64) @ (mixing + torch.eye(n))


def reference(weight, moments, grid, scheme, order, damping):
    """One weight at a time: round it, and update the others of its row by the inverse of what is left (OBQ, Eq. 2)."""
    weight = weight.double().clone()
    scale, zero_point = (
        spread(part, scheme).expand(view_for(weight, scheme).shape).reshape(weight.shape)
        for part in (grid.scale, grid.zero_point)
    )
    moments = moments.double() + damping * moments.diagonal().mean() * torch.eye(len(moments))
    kept = weight != 0
    left = list(order)
    while left:
        at = left[0]
        inverse = torch.linalg.inv(moments[left][:, left])
        new = fake_quantize(weight[:, at], scale[:, at], zero_point[:, at], scheme) * kept[:, at]
        error = (weight[:, at] - new) / inverse[0, 0]
        weight[:, left] -= error[:, None] * inverse[0][None]
        weight[:, at] = new
        left = left[1:]
    return weight


def result_error(new, weight, moments):
    return torch.einsum("oi,ij,oj->", new - weight, moments, new - weight).item()


@pytest.mark.parametrize("activation_order", [False, True])
@pytest.mark.parametrize("fields", [{"bits": 4}, {"bits": 3, "group_size": 8}, {"bits": 2, "symmetric": False}])
def test_as_the_plain_algorithm(activation_order, fields):
    scheme = WeightScheme(**fields)
    x = correlated(400, 32)
    moments = x.T @ x / len(x)
    weight = torch.randn(6, 32, dtype=torch.float64)
    weight[1, ::4] = 0
    grid = Grid(*weight_parameters(weight, scheme))
    order = moments.diagonal().argsort(descending=True).tolist() if activation_order else range(32)
    want = reference(weight, moments, grid, scheme, order, 0.01)
    got = gptq_weight(weight, moments[None], grid, scheme, activation_order, 0.01)
    assert torch.allclose(got, want, atol=1e-9)
    nearest = fake_quantize(
        view_for(weight, scheme), spread(grid.scale, scheme), spread(grid.zero_point, scheme), scheme
    ).reshape(weight.shape)
    assert result_error(got, weight, moments) < result_error(nearest, weight, moments)


def test_blocks_change_nothing():
    """Lazy updates of 128 columns at a time are exact: a wide layer equals the plain algorithm too."""
    scheme = WeightScheme(bits=4, group_size=20)
    x = correlated(900, 300)
    moments = x.T @ x / len(x)
    weight = torch.randn(3, 300, dtype=torch.float64)
    grid = Grid(*weight_parameters(weight, scheme))
    want = reference(weight, moments, grid, scheme, range(300), 0.01)
    assert torch.allclose(gptq_weight(weight, moments[None], grid, scheme, False, 0.01), want, atol=1e-8)


def test_inputs_that_are_always_zero_and_linearly_dependent_ones():
    x = correlated(100, 16)
    x[:, 3] = 0
    x[:, 5] = x[:, 4]
    scheme = WeightScheme(bits=4)
    weight = torch.randn(4, 16)
    grid = Grid(*weight_parameters(weight, scheme))
    got = gptq_weight(weight, (x.T @ x / 100).float()[None], grid, scheme)
    assert torch.isfinite(got).all()
    none = gptq_weight(weight, torch.zeros(1, 16, 16), grid, scheme)
    assert torch.allclose(none, fake_quantize(weight, grid.scale, grid.zero_point, scheme))


def test_two_of_four_stay_two_of_four():
    model = nn.Sequential(nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 8)).double()
    for layer in (model[0], model[2]):
        pairs = layer.weight.data.view(-1, 4)
        pairs.scatter_(1, pairs.abs().topk(2, dim=1, largest=False).indices, 0)
    zeros = [layer.weight == 0 for layer in (model[0], model[2])]
    apply(model, [(correlated(200, 32),)], bits=4)
    for layer, pattern in zip((model[0], model[2]), zeros, strict=True):
        assert torch.equal(layer.weight == 0, pattern | (layer.weight == 0))
        assert (layer.weight.view(-1, 4) == 0).sum(1).ge(2).all()


def apply(model, data, targets=(), **weights):
    fields = {"type": "gptq", "weights": {"granularity": "channel", **weights}}
    fields |= {"targets": list(targets)} if targets else {}
    return ScheduledManager(Recipe.load(recipe_of(1, q=fields))).apply(model, data=data)


class Blocks(nn.Module):
    """A chain of residual blocks with something before and after it, as transformers have."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(12, 16)
        self.blocks = nn.ModuleList(nn.ModuleDict({"a": nn.Linear(16, 24), "b": nn.Linear(24, 16)}) for _ in range(3))
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x + block["b"](torch.relu(block["a"](x)))
        return self.head(x)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(16, 24), nn.Linear(24, 16)

    def forward(self, x, scale, *, shift=0.0):
        return (x + self.b(torch.relu(self.a(x))) * scale + shift, None)


class Chain(Blocks):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x):
        x = self.stem(x)
        for place, block in enumerate(self.blocks):
            x = block(x, 0.5 + place, shift=0.1 * place)[0]
        return self.head(x)


@pytest.mark.parametrize("build", [Blocks, Chain])
def test_each_layer_sees_what_the_rounded_ones_before_it_give(build):
    """Block by block, or layer by layer where there is no chain: by hand with the plain algorithm."""
    torch.manual_seed(0)
    model = build().double()
    data = [(correlated(60, 12, seed),) for seed in range(3)]
    by_hand = copy.deepcopy(model)
    apply(model, data, bits=4)
    layers = [(name, module) for name, module in by_hand.named_modules() if isinstance(module, nn.Linear)]
    together = [[pair] for pair in layers]
    if build is Chain:
        together = [[layers[0]], *[layers[at : at + 2] for at in (1, 3, 5)], [layers[7]]]
    for unit in together:
        seen = {name: [] for name, _ in unit}
        hooks = [
            m.register_forward_pre_hook(lambda m, a, kept=seen[n]: kept.append(a[0].reshape(-1, a[0].shape[-1])))
            for n, m in unit
        ]
        with torch.no_grad():
            for (x,) in data:
                by_hand(x)
            for (name, module), hook in zip(unit, hooks, strict=True):
                hook.remove()
                x = torch.cat(seen[name])
                scheme = WeightScheme(bits=4)
                grid = Grid(*weight_parameters(module.weight, scheme))
                moments = x.T @ x / len(x)
                order = moments.diagonal().argsort(descending=True).tolist()
                module.weight.copy_(reference(module.weight, moments, grid, scheme, order, 0.01))
    for name, module in layers:
        assert torch.allclose(model.get_submodule(name).weight, module.weight, atol=1e-7), name


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
        nn.Conv2d(4, 4, (3, 2), dilation=2, padding="same", padding_mode="circular"),
        nn.Conv1d(4, 6, 3, padding=2, dilation=2),
        nn.Linear(5, 3),
    ],
    ids=str,
)
def test_columns_are_what_the_weight_multiplies(layer):
    layer = layer.double()
    x = torch.randn(*((2, 4, 9, 8)[: layer.weight.dim()] if layer.weight.dim() > 2 else (2, 7, 5)), dtype=torch.float64)
    columns = input_columns(layer, x)
    rows = layer.weight.reshape(columns.shape[0], -1, columns.shape[1])
    product = torch.bmm(rows, columns).reshape(layer.weight.shape[0], -1)
    out = layer(x).movedim(-1 if isinstance(layer, nn.Linear) else 1, 0).flatten(1)
    assert torch.allclose(product + layer.bias[:, None], out, atol=1e-10)


def test_convolutions_end_nearer_to_what_they_gave():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3, groups=2), nn.Flatten(), nn.LazyLinear(5))
    data = [(torch.randn(16, 3, 10, 10).cumsum(2) / 3,) for _ in range(4)]
    model(data[0][0])
    want = model(data[0][0])
    nearest = copy.deepcopy(model)
    fields = {"type": "weight_quantization", "weights": {"bits": 3}}
    ScheduledManager(Recipe.load(recipe_of(1, q=fields))).apply(nearest)
    apply(model, data, bits=3)
    assert (model(data[0][0]) - want).norm() < 0.8 * (nearest(data[0][0]) - want).norm()


def test_sizes_that_do_not_fit_are_refused_before_anything_runs():
    model = nn.Sequential(nn.Linear(48, 8), nn.Linear(8, 50), nn.Linear(50, 4))
    before = copy.deepcopy(model.state_dict())

    def never():
        raise AssertionError("the data was touched")
        yield

    with pytest.raises(TargetError) as error:
        apply(model, never(), granularity="group", group_size=16, bits=4)
    assert "1: its 8 weights" in str(error.value)
    assert "2: its 50 weights" in str(error.value)
    assert "0:" not in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_tied_weights_are_left_alone():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.inner, self.head = nn.Embedding(10, 8), nn.Linear(8, 8), nn.Linear(8, 10, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, x):
            return self.head(self.inner(self.embedding(x)))

    model = Tied()
    before = model.head.weight.detach().clone()
    apply(model, [(torch.randint(0, 10, (4, 6)),)], bits=4)
    assert torch.equal(model.head.weight, before)
    plan = ScheduledManager(
        Recipe.load(recipe_of(1, q={"type": "gptq", "weights": {"bits": 4, "granularity": "channel"}}))
    )
    assert "tied to 'embedding'" in str(plan.plan(Tied()))

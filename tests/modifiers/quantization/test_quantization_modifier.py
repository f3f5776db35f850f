"""Two processes find the same ranges, widths and scales; what follows what; what is left alone.

Of two processes the figures are those of one process on all the data.
"""

import warnings

import pytest
import torch
from sample_models import mlp, recipe_of
from torch import nn
from two_processes import alike_in_two_processes

import paredown
from paredown import ParedownError, Recipe, ScheduledManager, TargetError
from paredown.framework.model.links import links_of
from paredown.modifiers.quantization.layers.quantizers import weight_quantizer

RECIPES = {
    "moving average": {"type": "quantization_aware_training"},
    "histogram": {"type": "quantization_aware_training", "activations": {"observer": "mse"}, "every": "2 steps"},
    "learned": {"type": "learned_step_size", "weights": {"bits": 4}},
    "static": {"type": "static_quantization"},
    "gptq": {"type": "gptq", "weights": {"bits": 4, "granularity": "channel"}},
}


def data():
    generator = torch.Generator().manual_seed(3)
    return [(torch.randn(8, 16, generator=generator), torch.randint(0, 4, (8,), generator=generator)) for _ in range(6)]


def run(name, rank, world):
    torch.manual_seed(0)
    model = mlp().double()
    batches = [(x.double()[rank::world], y[rank::world]) for x, y in data()]
    manager = ScheduledManager(Recipe.load(recipe_of(1, q=RECIPES[name])))
    if name in ("static", "gptq"):
        manager.apply(model, data=batches)
        return model.state_dict()
    wrapped = nn.parallel.DistributedDataParallel(model) if world > 1 else model
    optimizer = torch.optim.SGD(wrapped.parameters(), 0.01)
    manager.modify(wrapped, optimizer, len(batches))
    for x, y in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(wrapped(x), y).backward()
        optimizer.step()
    manager.finalize()
    return model.state_dict()


@pytest.mark.slow
def test_two_processes_agree(tmp_path):
    for name, key, value, alone in alike_in_two_processes(run, RECIPES, tmp_path):
        if name != "learned":  # its processes average what each learned from its own half
            assert torch.allclose(value.double(), alone.double(), rtol=1e-5, atol=1e-7), (name, key)


W4 = {"bits": 4, "group_size": 16, "narrow": False}
GPTQ = {"type": "gptq", "weights": W4}
TOKENS = {"granularity": "token", "symmetric": True}


def one_layer():
    torch.manual_seed(0)
    mix = torch.randn(32, 32) / 6
    data = [(torch.randn(128, 32) @ mix @ mix,) for _ in range(4)]
    return nn.Sequential(nn.Linear(32, 24)), data


def applied(model, data, **modifiers):
    ScheduledManager(Recipe.load(recipe_of(1, **modifiers))).apply(model, data=data)
    return model


def rounded_by_gptq():
    model, data = one_layer()
    return applied(model, data, q=GPTQ), data


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(
    "second",
    [
        {"type": "dynamic_quantization", "weights": W4, "activations": TOKENS},
        {"type": "dynamic_quantization", "weights": None, "activations": TOKENS},
        {"type": "static_quantization", "weights": W4},
        {"type": "quantization_aware_training", "weights": {**W4, "observer": "mse"}},
        {"type": "weight_quantization", "weights": W4},
    ],
    ids=lambda fields: f"{fields['type']}-{fields['weights'] is not None}",
)
def test_what_only_adds_inputs_leaves_chosen_weights_on_their_grid(second, together, tmp_path):
    model, data = rounded_by_gptq()
    grid, weight = model[0].weight_scale.clone(), model[0].weight.detach().clone()
    if together:
        model = applied(one_layer()[0], data, q=GPTQ, second=second)
    else:
        applied(model, data, second=second)
    assert torch.equal(model[0].weight_scale, grid)
    assert torch.equal(model[0].weight, weight)
    link = weight_quantizer(model[0])
    assert torch.allclose(link.quantized(model[0], "weight"), weight, atol=1e-6)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(
    "second",
    [
        {"type": "gptq", "weights": W4},
        {"type": "awq", "weights": W4},
        {"type": "adaround", "weights": W4},
        {"type": "half_quadratic", "weights": {"bits": 4, "group_size": 16}},
        {"type": "static_quantization"},
        {"type": "weight_quantization", "weights": {**W4, "group_size": 32}},
    ],
    ids=lambda fields: fields["type"],
)
def test_weights_are_not_rounded_twice(second, together):
    model, data = rounded_by_gptq()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ParedownError, match="second.*0 are on the grid that q chose.*nothing was changed"):
        if together:
            model, data = one_layer()
            before = {key: value.clone() for key, value in model.state_dict().items()}
            applied(model, data, q=GPTQ, second=second)
        else:
            applied(model, data, second=second)
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    "first",
    [
        {"type": "half_quadratic", "weights": {"bits": 3, "group_size": 8}},
        {"type": "static_quantization", "weights": {"symmetric": False}},
        {"type": "awq", "weights": W4, "round": False},
    ],
    ids=lambda fields: fields["type"],
)
def test_a_grid_under_float_weights_gives_way(first):
    want, data = rounded_by_gptq()
    fields = {**first, "activations": None}
    model = applied(one_layer()[0], data, first=fields, q=GPTQ)
    error = (model(data[0][0]) - one_layer()[0](data[0][0])).square().sum()
    alone = (want(data[0][0]) - one_layer()[0](data[0][0])).square().sum()
    assert error < 1.1 * alone
    assert ("weight_zero_point" in dict(model[0].named_buffers())) is False


def test_a_checkpoint_knows_whose_grid_it_was(tmp_path):
    model, data = one_layer()
    second = {"type": "dynamic_quantization", "weights": W4, "activations": TOKENS}
    manager = ScheduledManager(Recipe.load(recipe_of(1, q=GPTQ, second=second)))
    manager.apply(model, data=data)
    paredown.save(tmp_path / "c.pt", model, [], manager)
    loaded = paredown.load(tmp_path / "c.pt", one_layer()[0])
    assert torch.equal(loaded(data[0][0]), model(data[0][0]))


class Reader(nn.Module):
    """Reads the weight of one layer, and calls the other; ``calls``: the first is called too, on some way."""

    def __init__(self, calls=None):
        super().__init__()
        self.read, self.called, self.calls = nn.Linear(8, 8, bias=False), nn.Linear(8, 8), calls

    def forward(self, x):
        own = self.read
        x = self.read(x) if self.calls else nn.functional.linear(x, own.weight * 1.0)
        return self.called(x)


@pytest.mark.parametrize(
    "kind", ["static_quantization", "dynamic_quantization", "weight_quantization", "gptq", "awq", "half_quadratic"]
)
def test_a_layer_that_is_only_read_is_left_alone(kind):
    torch.manual_seed(0)
    model, x = Reader(), torch.randn(16, 8)
    fields = {"type": kind, "weights": {"bits": 4}} if kind in ("gptq", "awq") else {"type": kind}
    fields |= {"weights": {"bits": 4, "group_size": 8}} if kind == "half_quadratic" else {}
    manager = ScheduledManager(Recipe.load(recipe_of(1, q=fields)))
    assert "reads its weight" in str(manager.plan(model, example_inputs=(x,)))
    report = manager.apply(model, data=[(x,)], example_inputs=(x,))
    assert weight_quantizer(model.called) is not None
    assert weight_quantizer(model.read) is None
    assert [(event["layer"], event["reason"]) for event in report.events if event["event"] == "left alone"] == [
        ("read", "its parent reads its weight and never calls its forward")
    ]


def test_a_layer_that_is_called_after_all_is_quantized():
    model, x = Reader(calls=True), torch.randn(16, 8)
    applied(model, [(x,)], q={"type": "static_quantization"})
    assert weight_quantizer(model.read) is not None


def test_a_layer_that_training_never_called_stays_float():
    """Without example inputs the code says that it may be called; by the end it was not."""
    torch.manual_seed(0)
    model, x = Reader(), torch.randn(16, 8)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    manager = ScheduledManager(Recipe.load(recipe_of(1, q={"type": "quantization_aware_training"})))
    manager.modify(model, optimizer, 2)
    for _ in range(2):
        optimizer.zero_grad()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model(x).square().mean().backward()
            optimizer.step()
    report = manager.finalize()
    assert weight_quantizer(model.read) is None
    assert weight_quantizer(model.called) is not None
    assert not any("read" in name for name, _ in model.named_buffers())
    assert "read" in [event.get("layer") for event in report.events]


@pytest.mark.parametrize("fields", [GPTQ, {"type": "adaround"}, {"type": "sparsegpt", "final_sparsity": 0.5}], ids=str)
def test_a_modifier_that_would_treat_nothing_is_an_error(fields):
    model = nn.Sequential(nn.Embedding(10, 16), nn.Linear(16, 10, bias=False))
    model[1].weight = model[0].weight
    with pytest.raises(TargetError, match=r"q \(.*would treat nothing.*1: its weight is tied to '0'"):
        applied(model, [(torch.arange(10),)], q=fields)
    assert not links_of(model[1])

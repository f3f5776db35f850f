"""What moves over a quantization window: widths, ranges, warm-up; what differs between layers; what engines need."""

import copy

import pytest
import torch
from sample_models import batches, conv_net, mlp, recipe_of, train
from torch import nn

import paredown
from paredown import Recipe, RecipeError, ScheduledManager, TargetError
from paredown.framework.model.links import links_of
from paredown.modifiers.quantization.layers.quantizers import ActivationQuantizer, weight_quantizer

INT8 = {"type": "quantization_aware_training"}


def run(model, epochs=2, data=None, example_inputs=None, **fields):
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    manager = ScheduledManager(Recipe.load(recipe_of(epochs, q={**INT8, **fields})))
    manager.modify(model, optimizer, 10, data=data, example_inputs=example_inputs)
    return optimizer, manager


def test_the_width_comes_down_along_the_curve():
    model = mlp()
    optimizer, manager = run(model, weights={"bits": 4}, initial_bits=8, every="5 steps", end=1)
    seen = []
    train(model, optimizer, batches(20), 1, after=lambda: seen.append(weight_quantizer(model[0]).scheme.bits))
    assert seen == [8] * 4 + [6] * 5 + [4] * 11
    manager.finalize()
    codes, bits = weight_quantizer(model[0]).stored_codes(model[0])["weight"]
    assert bits == 4
    assert codes.abs().max() == 7


def test_inputs_pass_whole_while_they_warm_up():
    model = nn.Sequential(nn.Linear(1, 1, bias=False))
    optimizer, manager = run(model, weights=None, warm_up=1)
    x = torch.linspace(-1, 1, 301)[:, None]
    data = [(x, torch.zeros(301, dtype=torch.long))]
    train(model, optimizer, data * 9, 1)
    assert torch.equal(model(x), x * model[0].weight)
    train(model, optimizer, data * 2, 1)
    assert model(x).unique().numel() < 260
    assert [event["event"] for event in manager.events] == ["start", "warm"]


@pytest.mark.parametrize("observer", ["percentile", "histogram", "mse"])
def test_searched_ranges_move_at_updates_and_resume_exactly(observer, tmp_path):
    fields = {
        "activations": {"bits": 4, "observer": observer},
        "weights": {"bits": 4, "observer": "mse"},
        "every": "4 steps",
    }

    def begin():
        model = conv_net()
        return (model, *run(model, **fields))

    data = batches(20, image=True)
    whole = begin()
    scales = []
    train(*whole[:2], data, 1, after=lambda: scales.append(whole[0].body.input_scale.item()))
    changes = [step for step in range(1, 20) if scales[step] != scales[step - 1]]
    assert changes
    assert all(step % 4 == 3 for step in changes)
    for at in (2, 9, 13):
        model, optimizer, manager = begin()
        train(model, optimizer, data[:at], 1)
        paredown.save(tmp_path / "c.pt", model, optimizer, manager)
        model, optimizer, manager = begin()
        paredown.resume(tmp_path / "c.pt", model, optimizer, manager)
        train(model, optimizer, data[at:], 1)
        assert all(torch.equal(value, whole[0].state_dict()[name]) for name, value in model.state_dict().items())


def test_eval_mode_can_be_left_whole():
    model = mlp()
    plain = copy.deepcopy(model)
    run(model, quantize_in_eval=False, weights={"bits": 2})
    x = batches()[0][0]
    plain.load_state_dict(model.state_dict(), strict=False)
    assert torch.equal(model.eval()(x), plain.eval()(x))
    assert not torch.equal(model.train()(x), plain.train()(x))


def test_stochastic_rounding_in_training_only():
    model = mlp()
    run(model, weights={"bits": 3, "rounding": "stochastic"}, activations=None)
    x = batches()[0][0]
    assert not torch.equal(model.train()(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


def test_layers_may_differ():
    model = mlp()
    overrides = {"0": {"weights": {"bits": 8}}, "4": {"weights": {"group_size": 16}, "activations": None}}
    run(model, weights={"bits": 4}, overrides=overrides)
    schemes = [weight_quantizer(model[at]).scheme for at in (0, 2, 4)]
    assert [(scheme.bits, scheme.granularity) for scheme in schemes] == [(8, "channel"), (4, "channel"), (4, "group")]
    assert [any(isinstance(link, ActivationQuantizer) for link in links_of(model[at])) for at in (0, 2, 4)] == [
        True,
        True,
        False,
    ]


def test_overrides_that_mean_nothing_or_contradict():
    with pytest.raises(TargetError, match="overrides: target 'haed' matches nothing"):
        run(mlp(), overrides={"haed": {"weights": {"bits": 8}}})
    for override in ({"weights": {"bits": 9}}, {"weights": {"granularity": "tensor", "group_size": 4}}, {"inputs": {}}):
        with pytest.raises(RecipeError):
            Recipe.load(recipe_of(1, q={**INT8, "overrides": {"0": override}}))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.inner, self.act = nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()
        self.head = nn.Linear(4, 4)

    def forward(self, x):
        x = self.norm(self.stem(x))
        return self.head((x + self.act(self.inner(x))).mean((2, 3)))


def test_results_that_an_engine_needs_are_quantized_too():
    torch.manual_seed(0)
    model = Residual()
    x = torch.randn(4, 1, 8, 8)
    fields = {"type": "static_quantization"}
    ScheduledManager(Recipe.load(recipe_of(1, q=fields))).apply(model, data=[(x,)], example_inputs=(x,))
    outputs = {name for name in dict(model.named_modules()) if f"{name}.output_scale" in model.state_dict()}
    assert outputs == {"norm", "act"}
    assert "result_1_scale" in model.state_dict(), "the sum"
    plan = ScheduledManager(Recipe.load(recipe_of(1, q=fields))).plan(Residual(), example_inputs=(x,))
    assert "also quantized, so that an engine computes in integers: the result of norm, the result of act" in str(plan)
    with torch.no_grad():
        levels = model.act(model.inner(x.expand(4, 4, 8, 8) * 0.1))
    assert levels.unique().numel() <= 256
    without = Residual()
    ScheduledManager(Recipe.load(recipe_of(1, q=fields))).apply(without, data=iter([(x,)]))
    assert not any("output_scale" in name for name in without.state_dict())


def test_a_later_modifier_takes_the_weights_over():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    recipe = recipe_of(
        2,
        first={"type": "weight_quantization", "end": 1, "weights": {"bits": 8}},
        second={**INT8, "start": 1, "weights": {"bits": 3}},
    )
    manager = ScheduledManager(Recipe.load(recipe))
    manager.modify(model, optimizer, 10)
    train(model, optimizer, batches(), 2)
    manager.finalize()
    assert weight_quantizer(model[0]).scheme.bits == 3
    assert len([link for link in links_of(model[0]) if type(link).__name__ == "WeightQuantizer"]) == 1


@pytest.mark.parametrize("form", ["fp8_e4m3", "fp8_e5m2", "fp4_e2m1"])
def test_floating_point_formats_train(form):
    model = mlp(width=32)
    group = {"group_size": 16, "scales": "power_of_two"} if form == "fp4_e2m1" else {}
    optimizer, manager = run(
        model, weights={"format": form, **group}, activations={"format": "fp8_e4m3", "observer": "minmax"}
    )
    train(model, optimizer, batches(), 2)
    report = manager.finalize()
    assert all(torch.isfinite(p).all() for p in model.parameters())
    width = 4 if form == "fp4_e2m1" else 8
    rows = {row.name: row for row in report.layers}
    weight, bias = 32 * 32, 32
    assert rows["2"].bits[1] == pytest.approx((weight * width + bias * 32) / (weight + bias))


@pytest.mark.parametrize(
    ("fields", "graphs"),
    [
        ({}, 3),
        ({"activations": {"observer": "mse"}, "every": "3 steps"}, 3),
        ({"weights": {"bits": 4, "observer": "mse"}, "every": "3 steps"}, 3),
        ({"weights": {"bits": 6}, "initial_bits": 8, "every": "3 steps"}, 5),
        ({"freeze_observers": 1}, 4),
    ],
    ids=str,
)
def test_a_compiled_model_is_compiled_once_for_each_change(fields, graphs):
    torch._dynamo.reset()
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    model = conv_net()
    optimizer, manager = run(model, **fields)
    forward = torch.compile(model, backend=backend, fullgraph=True)
    for x, y in batches(20, image=True):
        optimizer.zero_grad()
        nn.functional.cross_entropy(forward(x), y).backward()
        optimizer.step()
    assert 0 < len(compiled) <= graphs
    torch._dynamo.reset()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "kind", ["static_quantization", "gptq", "awq", "adaround", "half_quadratic", "dynamic_quantization"]
)
def test_half_precision_stays(kind, dtype):
    model = conv_net().eval().to(dtype)
    data = [(x.to(dtype), y) for x, y in batches(3, image=True)]
    want = model(data[0][0]).float()
    fields = {"type": kind, "weights": {"bits": 6, "granularity": "channel"}}
    if kind == "adaround":
        fields["iterations"] = 100
    ScheduledManager(Recipe.load(recipe_of(1, q=fields))).apply(model, data=data)
    got = model(data[0][0])
    assert got.dtype == dtype
    assert (got.float() - want).norm() / want.norm() < 0.05

"""`bits: auto`: the budget is kept, and the layers that matter keep their bits."""

import pytest
import torch
from sample_engine import SampleEngine
from sample_models import batches, recipe_of
from torch import nn

from paredown import Recipe, RecipeError, ScheduledManager, ScheduleError
from paredown.framework.modifier.run import Run
from paredown.framework.run.schedule import Schedule
from paredown.modifiers.quantization.layers.quantizers import weight_quantizer

AUTO = {"bits": "auto"}


def uneven():
    """The first layer's result hardly reaches the output; the last one is it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.Linear(32, 32), nn.Linear(32, 4))
    with torch.no_grad():
        model[1].weight.mul_(1e-3)
        model[1].bias.normal_()
    return model


def apply(model, **fields):
    recipe = Recipe.load(recipe_of(1, q={"type": "weight_quantization", "weights": AUTO, **fields}))
    manager = ScheduledManager(recipe)
    manager.apply(model, data=batches(), example_inputs=(batches()[0][0],))
    return {name: weight_quantizer(m).scheme.bits for name, m in model.named_modules() if weight_quantizer(m)}


@pytest.mark.parametrize("share", [0.11, 0.15, 0.2])
def test_bytes_within_the_budget(share):
    model = uneven()
    widths = apply(model, budget={"bytes": share})
    layers = {name: model.get_submodule(name) for name in widths}
    spent = sum(m.weight.numel() * widths[name] / 8 + m.out_features * 4 for name, m in layers.items())
    assert spent <= share * sum(m.weight.numel() * 4 for m in layers.values())
    assert widths["2"] >= widths["0"]


def test_what_hardly_matters_gets_few_bits():
    widths = apply(uneven(), budget={"bytes": 0.15})
    assert widths["0"] < widths["2"]
    assert widths["0"] <= 3


def test_bit_operations():
    widths = apply(uneven(), budget={"bit_operations": 0.15})
    macs = {"0": 16 * 32, "1": 32 * 32, "2": 32 * 4}
    assert sum(macs[name] * widths[name] for name in widths) <= 0.15 * 32 * sum(macs.values())


def test_a_budget_that_cannot_be_met_says_what_can():
    with pytest.raises(ScheduleError, match=r"budget bytes 0.01: the least that these layers can cost is \d+"):
        apply(uneven(), budget={"bytes": 0.01})


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"weights": AUTO}, "needs a budget"),
        ({"budget": {"bytes": 0.1}}, "budget is for weights of bits: auto"),
        ({"weights": AUTO, "budget": {"bytes": 0.1, "bit_operations": 0.1}}, "a budget is one of"),
        ({"weights": AUTO, "budget": {"bytes": 2.0}}, "at most 1"),
    ],
)
def test_mistakes(fields, told):
    with pytest.raises(RecipeError, match=told):
        Recipe.load(recipe_of(1, q={"type": "weight_quantization", **fields}))


def test_the_state_keeps_the_widths(tmp_path):
    import paredown

    model = uneven()
    recipe = Recipe.load(recipe_of(1, q={"type": "weight_quantization", "weights": AUTO, "budget": {"bytes": 0.15}}))
    manager = ScheduledManager(recipe)
    manager.apply(model, data=batches())
    paredown.save(tmp_path / "c.pt", model, [], manager)
    again = paredown.load(tmp_path / "c.pt", uneven())
    x = batches()[0][0]
    assert torch.equal(again(x), model(x))


def by_latency(model, share, engine=None):
    """The widths of layers under a budget of latency; those that are missing stay in floating point."""
    fields = {"type": "weight_quantization", "weights": AUTO, "budget": {"latency": share}}
    modifier = Recipe.load(recipe_of(1, q=fields)).modifiers["q"]
    run = Run(model, engine=engine)
    run.take(batches(), None, (batches()[0][0],), None)
    return modifier.on_start(modifier.bind(run))


@pytest.mark.parametrize(("share", "quantized"), [(0.8, 1), (0.55, 2), (0.3, 3)])
def test_as_many_layers_stay_in_floats_as_the_time_allows(share, quantized):
    state = by_latency(uneven(), share, SampleEngine())
    assert len(state.layers) == quantized
    assert "0" in state.layers, "its result hardly reaches the output"
    assert set(state.bits.values()) == {8}


def test_a_time_that_no_width_gives_is_an_error():
    with pytest.raises(ScheduleError, match=r"budget latency 0.1: the least that these layers can cost"):
        by_latency(uneven(), 0.1, SampleEngine())


def test_latency_needs_an_engine():
    with pytest.raises(ScheduleError, match="needs an engine whose kernels are timed"):
        by_latency(uneven(), 0.5)


def test_layers_that_stay_in_floats_have_no_quantizers():
    model = uneven()
    fields = {"type": "static_quantization", "weights": AUTO, "budget": {"latency": 0.55}}
    recipe = {**recipe_of(1, q=fields)}
    modifiers = Recipe.load(recipe).modifiers
    run = Run(model, engine=SampleEngine())
    run.take(batches(), None, (batches()[0][0],), None)
    schedule = Schedule(modifiers, run)
    schedule.run_once()
    schedule.finalize()
    assert [weight_quantizer(layer) is not None for layer in model] == [True, True, False]
    assert not [key for key in model[2]._buffers if "scale" in key]
    assert any(event["event"] == "left alone" and event["layer"] == "2" for event in run.events)

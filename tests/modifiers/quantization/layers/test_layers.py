"""Defects that an adversarial round found, each with what should have happened."""

import copy
import warnings

import pytest
import torch
from sample_models import batches, mlp, recipe_of, train
from torch import nn

import paredown
from paredown import Recipe, RecipeError, ScheduledManager, ScheduleError
from paredown.modifiers.quantization.layers.quantizers import weight_quantizer

DATA = [(x,) for x, _ in batches()]


def recipe(epochs=1, **modifiers):
    return Recipe.load(recipe_of(epochs, **modifiers))


def apply(model, data=DATA, **fields):
    return ScheduledManager(recipe(q=fields)).apply(model, data=data)


def test_an_override_of_one_part_leaves_the_other_as_it_is():
    model = mlp()
    apply(model, None, type="weight_quantization", overrides={"4": {"weights": {"bits": 4}}})
    assert not any("input" in name for name in model.state_dict())
    model = mlp()
    apply(model, type="static_quantization", weights=None, overrides={"4": {"activations": {"bits": 4}}})
    assert not any("weight_" in name for name in model.state_dict())


@pytest.mark.parametrize("kind", ["gptq", "awq", "adaround", "smoothquant"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_calibration_data_that_is_not_finite_is_refused_by_name(kind, bad):
    model = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    before = copy.deepcopy(model.state_dict())
    data = [(DATA[0][0].clone(),), (DATA[1][0].clone(),)]
    data[1][0][0, 0] = bad
    fields = {} if kind == "smoothquant" else {"weights": {"bits": 4, "granularity": "channel"}}
    with pytest.raises(ScheduleError, match="q: what went into 1.* held NaN or infinity"):
        apply(model, data, type=kind, **fields)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_batch_that_is_not_finite_does_not_end_the_ranges():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    manager = ScheduledManager(recipe(2, q={"type": "quantization_aware_training"}))
    manager.modify(model, optimizer, 10)
    train(model, optimizer, batches(), 1)
    scale = model[0].input_scale.clone()
    with torch.no_grad():
        model(torch.full((8, 16), float("inf")))
    assert torch.equal(model[0].input_scale, scale)
    train(model, optimizer, batches(), 1)
    with pytest.warns(UserWarning, match="batches with NaN or infinity in what goes into 0"):
        manager.finalize()
    assert torch.isfinite(model(DATA[0][0])).all()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"type": "quantization_aware_training"}, {"type": "learned_step_size", "weights": {"bits": 4}}),
        ({"type": "learned_step_size", "weights": {"bits": 4}}, {"type": "quantization_aware_training"}),
        ({"type": "quantization_aware_training"}, {"type": "gptq", "weights": {"bits": 4, "granularity": "channel"}}),
        ({"type": "weight_quantization"}, {"type": "quantization_aware_training", "weights": {"bits": 3}}),
    ],
)
@pytest.mark.parametrize("steps", [25, 40])
def test_what_a_later_modifier_took_over_it_keeps(first, second, steps, tmp_path):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    manager = ScheduledManager(recipe(4, a={**first, "end": 1}, b={**second, "start": 1}))
    manager.modify(model, optimizer, 10, data=DATA)
    train(model, optimizer, batches(steps), 1)
    paredown.save(tmp_path / "before.pt", model, optimizer, manager)
    x = DATA[0][0]
    if steps == 40:
        manager.finalize()
        assert torch.equal(paredown.load(tmp_path / "before.pt", mlp()).eval()(x), model.eval()(x))
        paredown.save(tmp_path / "after.pt", model, optimizer, manager)
        assert torch.equal(paredown.load(tmp_path / "after.pt", mlp()).eval()(x), model.eval()(x))
    loaded = paredown.load(tmp_path / "before.pt", mlp()).eval()
    assert torch.equal(loaded(x), model.eval()(x))
    assert weight_quantizer(model[0]).owner == "b"


def test_adaround_is_for_integers():
    with pytest.raises(RecipeError, match="adaround rounds to integers"):
        recipe(q={"type": "adaround", "weights": {"format": "fp4_e2m1", "group_size": 16}})


def test_a_free_width_in_an_override_needs_a_budget_too():
    with pytest.raises(RecipeError, match="bits: auto needs a budget"):
        recipe(q={"type": "weight_quantization", "overrides": {"4": {"weights": {"bits": "auto"}}}})


@pytest.mark.parametrize("kind", ["gptq", "awq", "adaround"])
def test_a_later_batch_of_another_width_is_an_error_of_ours(kind):
    model = mlp()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ScheduleError, match="could not be run on a batch of data"):
        apply(model, [(torch.randn(8, 16),), (torch.randn(8, 15),)], type=kind, weights={"granularity": "channel"})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_encoder_with_padding_is_calibrated_on_plain_tensors():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    padding = torch.zeros(4, 5, dtype=torch.bool)
    padding[0, 3:] = True
    data = [{"src": torch.randn(4, 5, 8), "src_key_padding_mask": padding}]
    before = model.use_nested_tensor
    manager = ScheduledManager(recipe(q={"type": "static_quantization"}))
    manager.apply(model, data=data)
    with torch.no_grad():
        assert torch.isfinite(model(**data[0])[1:]).all()
    other = nn.TransformerEncoder(layer, 2)
    manager = ScheduledManager(recipe(q={"type": "quantization_aware_training"}))
    manager.modify(other, torch.optim.SGD(other.parameters(), 0.1), 2)
    assert not other.use_nested_tensor
    manager.release()
    assert other.use_nested_tensor is before


def test_ranges_per_token_are_for_dynamic_quantization():
    with pytest.raises(RecipeError, match="use dynamic_quantization"):
        recipe(q={"type": "static_quantization", "activations": {"granularity": "token"}})


def test_nothing_to_quantize_is_a_mistake():
    with pytest.raises(RecipeError, match="both null"):
        recipe(q={"type": "static_quantization", "weights": None, "activations": None})


def test_a_misspelt_field_in_an_override_is_named():
    with pytest.raises(RecipeError, match=r"overrides: 4: weights.bitz: unknown field; did you mean 'bits'\?"):
        recipe(q={"type": "weight_quantization", "overrides": {"4": {"weights": {"bitz": 4}}}})


def test_tracing_a_model_on_wrong_inputs_prints_nothing(capfd):
    model = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 8))
    with pytest.raises(paredown.ParedownError), warnings.catch_warnings():
        apply(model, [(torch.randn(8, 15),)], type="smoothquant")
    assert "Traceback" not in capfd.readouterr().err

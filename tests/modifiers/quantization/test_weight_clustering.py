"""Weights that share values: found, trained, held, beside pruning and beside quantizers."""

import copy

import pytest
import torch
from sample_models import batches, conv_net, mlp, pruning, recipe_of, train
from torch import nn
from two_processes import alike_in_two_processes

import paredown
from paredown import Recipe, ScheduledManager, ScheduleError, TargetError
from paredown.framework.model.links import links_of
from paredown.framework.model.weights import WeightLayout
from paredown.modifiers.quantization.layers.quantizers import weight_quantizer
from paredown.modifiers.quantization.layers.shared_codes import SharedCodes, grid_scale, levels_of, scale_of_each
from paredown.modifiers.quantization.numbers.scales import weight_parameters
from paredown.modifiers.quantization.numbers.scheme import WeightScheme

DATA = batches(4)
IMAGES = batches(4, image=True)


def clustering(**more):
    return {"type": "weight_clustering", "clusters": 6, **more}


def linears(model):
    return [m.weight for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]


def values(model):
    return [len(weight.unique()) for weight in linears(model)]


def applied(model, data=None, **modifiers):
    inputs = {} if data is None else {"data": data, "example_inputs": (data[0][0],)}
    ScheduledManager(Recipe.load({"recipe": 1, "name": "test", "modifiers": modifiers})).apply(model, **inputs)
    return model


def started(model, make=None, epochs=4, data=None, **modifiers):
    optimizer = torch.optim.Adam(model.parameters(), 1e-2) if make is None else make(model.parameters())
    manager = ScheduledManager(Recipe.load(recipe_of(epochs, **modifiers)))
    manager.modify(model, optimizer, 4, data=data)
    return optimizer, manager


def codes_of(module):
    return weight_quantizer(module).codes(module, "weight").unique()


@pytest.mark.parametrize("model", [mlp(), conv_net(), nn.Embedding(30, 8), nn.LSTM(8, 8), nn.MultiheadAttention(8, 2)])
def test_every_weight_has_few_values_and_vectors_stay(model):
    before = copy.deepcopy(model.state_dict())
    applied(model, c=clustering())
    for name, tensor in model.state_dict().items():
        if tensor.dim() > 1:
            assert 2 <= len(tensor.unique()) <= 6, name
        else:
            assert torch.equal(tensor, before[name]), name


def test_inputs_with_large_second_moments_get_the_smaller_errors():
    torch.manual_seed(0)
    x = torch.randn(400, 16) * torch.logspace(-1, 1, 16)
    errors = []
    for weighted in (True, False):
        model = nn.Sequential(nn.Linear(16, 64))
        torch.manual_seed(1)
        model[0].weight.data.normal_()
        want = model(x).detach()
        applied(model, [(x,)], c=clustering(clusters=16, weighted=weighted))
        errors.append(float((model(x).detach() - want).square().mean()))
    assert errors[0] < 0.85 * errors[1]


OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "adam": lambda p: torch.optim.Adam(p, 1e-2, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, 1e-2, weight_decay=0.3, foreach=True),
    "fused": lambda p: torch.optim.AdamW(p, 1e-2, fused=True),
    "adafactor": lambda p: torch.optim.Adafactor(p, 1e-2),
}


@pytest.mark.parametrize("gradients", ["shared", "own"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_values_move_together_under_any_optimizer(name, gradients):
    model = mlp()
    optimizer, manager = started(model, OPTIMIZERS[name], c=clustering(start=1, gradients=gradients))
    train(model, optimizer, DATA, 1)
    seen = []
    train(model, optimizer, DATA, 3, lambda: seen.append((max(values(model)), model[0].weight[0, 0].item())))
    manager.finalize()
    assert max(count for count, _ in seen) <= 6
    assert len({value for _, value in seen}) > 6
    assert max(values(model)) <= 6


def test_momentum_is_that_of_the_shared_value():
    """With plain SGD the values are those of descent along the mean gradient, in float64 by hand."""
    model = mlp().double()
    optimizer, manager = started(model, lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), c=clustering())
    weight, x, y = model[0].weight, DATA[0][0].double(), DATA[0][1]
    marks = [weight.detach() == value for value in weight.unique()]
    moved, by_hand = [0.0] * len(marks), [float(weight.detach()[mark][0]) for mark in marks]
    for _ in range(3):
        twin = copy.deepcopy(model)
        nn.functional.cross_entropy(twin(x), y).backward()
        for place, mark in enumerate(marks):
            moved[place] = 0.9 * moved[place] + float(twin[0].weight.grad[mark].mean())
            by_hand[place] -= 0.1 * moved[place]
        train(model, optimizer, [(x, y)])
    assert [float(weight.detach()[mark][0]) for mark in marks] == pytest.approx(by_hand)


def test_elements_change_their_values_only_with_gradients_of_their_own():
    changed = {}
    for gradients in ("shared", "own"):
        model = mlp()
        optimizer, manager = started(model, c=clustering(gradients=gradients, every="1 steps"))
        before = model[0].weight.detach().unique(return_inverse=True)[1]
        train(model, optimizer, DATA, 4)
        after = model[0].weight.detach().unique(return_inverse=True)[1]
        manager.finalize()
        changed[gradients] = len({*zip(before.flatten().tolist(), after.flatten().tolist(), strict=True)}) > 6
    assert changed == {"shared": False, "own": True}


@pytest.mark.parametrize("order", [("p", "c"), ("c", "p")])
def test_what_is_pruned_meanwhile_becomes_zero_and_counts(order):
    model = mlp()
    modifiers = {"p": pruning(0.7, start=0, end=3), "c": clustering(start=0.5 if order[0] == "p" else 0)}
    optimizer, manager = started(model, **{name: modifiers[name] for name in order})
    counts = []
    train(model, optimizer, DATA, 4, lambda: counts.append(max(values(model))))
    manager.finalize()
    share = sum(int((w == 0).sum()) for w in linears(model)) / sum(w.numel() for w in linears(model))
    assert share == pytest.approx(0.7, abs=0.01)
    assert max(counts[3:]) <= 6


def test_what_grows_again_joins_a_value():
    model = mlp()
    grow = {"type": "rigl", "final_sparsity": 0.6, "every": "2 steps", "end": 3}
    optimizer, manager = started(model, lambda p: torch.optim.SGD(p, 0.1), p=grow, c=clustering(start=1))
    train(model, optimizer, DATA, 1)
    zero, grown = model[2].weight == 0, []
    train(model, optimizer, DATA, 3, lambda: grown.append(int((zero & (model[2].weight != 0)).sum())))
    manager.finalize()
    assert max(grown) > 0
    assert max(values(model)) <= 6


def test_zeros_that_nobody_holds_stay_zero():
    model = mlp()
    with torch.no_grad():
        model[0].weight[:10] = 0
    optimizer, _ = started(model, c=clustering())
    train(model, optimizer, DATA, 2)
    assert bool((model[0].weight[:10] == 0).all())
    assert int((model[0].weight == 0).sum()) == 10 * 16


def test_what_somebody_else_writes_is_put_right_and_averages_conform():
    model = mlp()
    average = copy.deepcopy(model)
    optimizer, manager = started(model, c=clustering())
    train(model, optimizer, DATA, 1)
    with torch.no_grad():
        model[0].weight.add_(0.1 * torch.randn(model[0].weight.shape))
    model.train()(DATA[0][0])
    assert values(model)[0] <= 6
    assert any(event["event"] == "put right" for event in manager.events)
    manager.conform(average)
    assert max(values(average)) <= 6
    assert not torch.equal(average[0].weight, model[0].weight)


@pytest.mark.parametrize("hold", [True, False])
def test_after_the_window_values_are_held_or_free(hold):
    model = mlp()
    optimizer, manager = started(model, c=clustering(end=2, hold=hold))
    train(model, optimizer, DATA, 4)
    manager.finalize()
    assert (max(values(model)) <= 6) is hold


@pytest.mark.parametrize("gradients", ["shared", "own"])
def test_a_stop_changes_nothing(gradients, tmp_path):
    def run(stop):
        model = mlp()
        modifiers = {"p": pruning(0.5, start=0, end=3), "c": clustering(start=1, gradients=gradients)}
        optimizer, manager = started(model, **modifiers)
        train(model, optimizer, DATA, 2)
        if stop:
            paredown.save(tmp_path / "run.pt", model, optimizer, manager)
            model = mlp(seed=9)
            optimizer, manager = started(model, **modifiers)
            paredown.resume(tmp_path / "run.pt", model, optimizer, manager)
        train(model, optimizer, DATA, 2)
        manager.finalize()
        return model.state_dict()

    whole, stopped = run(False), run(True)
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)


# -- beside a quantizer ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "quantizer",
    [
        {"type": "static_quantization"},
        {"type": "weight_quantization", "weights": {"bits": 8, "group_size": 4}},
        {"type": "weight_quantization", "weights": {"format": "fp8_e4m3"}},
        {"type": "gptq", "weights": {"bits": 8, "granularity": "channel"}},
        {"type": "quantization_aware_training"},
    ],
)
@pytest.mark.parametrize("first", ["c", "q"])
def test_applied_beside_a_quantizer_there_are_few_codes(quantizer, first):
    torch.manual_seed(0)
    model = mlp()
    model[0].weight.data *= torch.logspace(-2, 1, 32)[:, None]
    dense = copy.deepcopy(model)
    modifiers = {"c": clustering(clusters=16), "q": quantizer}
    applied(model, DATA, **{first: modifiers[first], **modifiers})
    for layer in model[::2]:
        assert len(codes_of(layer)) <= 16
    error = (model[0].weight - dense[0].weight).square().sum(1) / dense[0].weight.square().sum(1)
    assert error.max() < 0.05


@pytest.mark.parametrize("windows", [(0, 0), (0, 2), (2, 0)])
@pytest.mark.parametrize("gradients", ["shared", "own"])
def test_trained_beside_a_quantizer_there_are_few_codes(windows, gradients):
    model = conv_net()
    quantize, cluster = windows
    optimizer, manager = started(
        model,
        lambda p: torch.optim.AdamW(p, 1e-2, weight_decay=0.1),
        data=IMAGES,
        q={"type": "quantization_aware_training", "start": quantize},
        c=clustering(start=cluster, gradients=gradients),
    )
    train(model, optimizer, IMAGES, 4)
    manager.finalize()
    for layer in (model.stem, model.body, model.head):
        assert len(codes_of(layer)) <= 6


def test_codes_are_one_list_after_folding_too():
    """Where a batch-norm's factor is negative the codes that are stored change their signs."""
    model = conv_net().eval()
    with torch.no_grad():
        model.norm.weight[::2] = -1.0
    applied(model, IMAGES, c=clustering(), q={"type": "static_quantization"})
    codes = weight_quantizer(model.stem).codes(model.stem, "weight")
    codes[::2] *= -1
    assert len(codes.unique()) <= 6


def test_a_loaded_and_a_copied_model_have_the_same_codes(tmp_path):
    model = conv_net()
    recipe = {"c": clustering(end=2), "q": {"type": "quantization_aware_training", "start": 2}}
    optimizer, manager = started(model, data=IMAGES, **recipe)
    train(model, optimizer, IMAGES, 4)
    manager.finalize()
    paredown.save(tmp_path / "run.pt", model, optimizer, manager)
    loaded, copied = paredown.load(tmp_path / "run.pt", conv_net(seed=5)), copy.deepcopy(model)
    for other in (loaded, copied):
        assert torch.equal(other.eval()(IMAGES[0][0]), model.eval()(IMAGES[0][0]))
        assert torch.equal(codes_of(other.body), codes_of(model.body))


@pytest.mark.parametrize(
    ("quantizer", "reason"),
    [
        ({"type": "weight_quantization", "weights": {"symmetric": False}}, "zero points"),
        ({"type": "half_quadratic", "weights": {"symmetric": False, "group_size": 4}}, "zero points"),
    ],
)
def test_grids_that_cannot_be_shared_are_refused_with_a_reason(quantizer, reason):
    model = mlp()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(TargetError, match=f"would treat nothing.*{reason}"):
        applied(model, DATA, c=clustering(), q=quantizer)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("granularity", [{}, {"granularity": "tensor"}, {"group_size": 4}, {"block": [2, 4]}])
@pytest.mark.parametrize(
    "module", [nn.Linear(8, 6), nn.Conv2d(4, 6, 2), nn.ConvTranspose2d(4, 6, 2), nn.ConvTranspose1d(4, 8, 2, groups=2)]
)
def test_the_scale_of_each_element_is_the_kept_one_again(granularity, module):
    scheme, layout = WeightScheme(**granularity), WeightLayout.of(module)
    weight = module.weight.detach()
    if layout.rows(weight)[0].numel() % 4 or len(layout.rows(weight)) % 2:
        pytest.skip("the shape does not divide")
    kept = weight_parameters(layout.rows(weight), scheme)[0]
    each = scale_of_each(kept, weight, layout, scheme)
    assert torch.equal(grid_scale(-each, weight, layout, scheme), kept)
    assert (weight.abs() <= each * 127.01).all()


def test_levels_are_the_numbers_of_the_grid_without_zero():
    assert levels_of(WeightScheme(bits=3)).tolist() == [-3, -2, -1, 1, 2, 3]
    assert levels_of(WeightScheme(), 2).tolist() == [-2, -1, 1, 2]
    assert levels_of(WeightScheme(format="fp4_e2m1"))[-1] == 6
    assert len(levels_of(WeightScheme(format="fp8_e4m3"))) == 252


# -- words -----------------------------------------------------------------------------------------------------------


def test_who_would_undo_it_has_to_come_before():
    manager = ScheduledManager(
        Recipe.load(recipe_of(4, c=clustering(), g={"type": "gptq", "start": 3, "weights": {"group_size": 4}}))
    )
    model = mlp()
    with pytest.raises(ScheduleError, match="g .gptq. writes the same weights later"):
        manager.modify(model, torch.optim.SGD(model.parameters(), 0.1), 4, data=DATA)


def test_it_says_what_it_will_do_and_what_it_did():
    model = mlp()
    manager = ScheduledManager(Recipe.load({"recipe": 1, "modifiers": {"c": clustering(clusters=16)}}))
    lines = manager.plan(model).modifiers[0].layers
    assert {line.bits for line in lines} == {4}
    assert "at most 16 values" in lines[0].effect
    manager.apply(model)
    (event,) = [event for event in manager.events if event["event"] == "cluster"]
    assert event["weights"] == 3
    assert 0 < event["largest_error"] < 0.02


def test_weights_that_are_not_finite_are_refused():
    model = mlp()
    model[0].weight.data[0, 0] = torch.nan
    with pytest.raises(TargetError, match="contains NaN"):
        applied(model, c=clustering())


def test_links_come_off_with_a_release():
    model = mlp()
    _, manager = started(model, data=DATA, c=clustering(), q={"type": "quantization_aware_training"})
    assert any(isinstance(link, SharedCodes) for link in links_of(model[0]))
    manager.release()
    assert not any(links_of(module) for module in model.modules())
    assert not model[0].weight._backward_hooks


def run(name, rank, world):
    model = mlp()
    wrapped = nn.parallel.DistributedDataParallel(model) if world > 1 else model
    optimizer = torch.optim.AdamW(wrapped.parameters(), 1e-2)
    manager = ScheduledManager(Recipe.load(recipe_of(4, c=clustering(gradients=name))))
    manager.modify(wrapped, optimizer, 4)
    data = [(x[rank::world], y[rank::world]) for x, y in DATA]
    train(wrapped, optimizer, data, 4)
    manager.finalize()
    return model.state_dict()


@pytest.mark.slow
def test_processes_agree(tmp_path):
    for name, key, value, _ in alike_in_two_processes(run, ["shared", "own"], tmp_path):
        assert value.dim() < 2 or len(value.unique()) <= 6, (name, key)

import copy

import pytest
import torch
from sample_models import batches, conv_net, mlp, recipe_of, train
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from paredown import Recipe, ScheduledManager, resume, save

DATA = batches(4, image=True)


def hooked(model, epochs=3, rate=0.05, **modifiers):
    optimizer = torch.optim.SGD(model.parameters(), rate)
    manager = ScheduledManager(Recipe.load(recipe_of(epochs, **modifiers)))
    manager.modify(model, optimizer, 4, example_inputs=(DATA[0][0],))
    return optimizer, manager


def mean_recipe(decay=0.9, **fields):
    return {"type": "exponential_moving_average", "decay": decay, **fields}


def test_averages_are_those_of_a_loop_in_float64():
    """The same loop without the modifier gives the weights of each step."""
    plain = conv_net()
    means = {name: value.double() for name, value in plain.state_dict().items()}
    count = 0

    def follow():
        nonlocal count
        count += 1
        kept = min(0.9, (1 + count) / (10 + count))
        for name, value in plain.state_dict().items():
            means[name] = kept * means[name] + (1 - kept) * value.double()

    train(plain, torch.optim.SGD(plain.parameters(), 0.05), DATA, 3, after=follow)
    model = conv_net()
    optimizer, manager = hooked(model, mean=mean_recipe())
    train(model, optimizer, DATA, 3)
    assert manager.done
    manager.finalize()
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), means[name], rtol=1e-5, atol=1e-6)


def test_without_warm_up_it_is_torchs_own():
    """With a decay that is below the bound from the first update on, as torch.optim.swa_utils computes it."""
    model = mlp()
    data = batches(8)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    manager = ScheduledManager(Recipe.load(recipe_of(2, mean=mean_recipe(0.15))))
    manager.modify(model, optimizer, 8)
    plain = mlp()
    theirs = AveragedModel(plain, multi_avg_fn=get_ema_multi_avg_fn(0.15))
    theirs.n_averaged += 1  # torch begins with a copy at the first update; ours began with the model as it was
    train(plain, torch.optim.SGD(plain.parameters(), 0.05), data, 2, after=lambda: theirs.update_parameters(plain))
    train(model, optimizer, data, 2)
    manager.finalize()
    for ours, other in zip(model.parameters(), theirs.module.parameters(), strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-6, atol=1e-7)


def test_evaluated_are_the_averages_and_trained_the_weights():
    model = conv_net()
    optimizer, manager = hooked(model, mean=mean_recipe())
    train(model, optimizer, DATA, 1)
    x = DATA[0][0]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.eval()
    raw = model(x)
    with torch.no_grad():
        evaluated = model(x)
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)(x)
    with torch.inference_mode():
        assert torch.equal(model(x), evaluated)
    assert not torch.allclose(raw, evaluated)
    torch.testing.assert_close(compiled, evaluated)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.train()
    train(model, optimizer, DATA, 2)
    manager.finalize()
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), copy.deepcopy(model).eval()(x))


def test_in_an_lstm():
    model = nn.LSTM(4, 8, batch_first=True)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    manager = ScheduledManager(Recipe.load(recipe_of(3, mean=mean_recipe())))
    manager.modify(model, optimizer, 4)
    x = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    for _ in range(8):
        optimizer.zero_grad()
        model(x)[0].square().mean().backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        averaged = model(x)[0]
    assert not torch.allclose(averaged, model(x)[0], atol=1e-5)


@pytest.mark.parametrize("first", ["mean", "zeros"])
def test_zeros_stay_zeros_and_channels_go(first):
    model = conv_net()
    others = {
        "zeros": {
            "type": "magnitude_pruning",
            "final_sparsity": 0.7,
            "start": 0,
            "end": 2,
            "targets": ["stem", "head"],
        },
        "mean": mean_recipe(),
        "channels": {"type": "channel_pruning", "final_sparsity": 0.5, "start": 1, "round_to": 1, "targets": ["body"]},
    }
    order = [first, *(name for name in others if name != first)]
    optimizer, manager = hooked(model, **{name: others[name] for name in order})
    train(model, optimizer, DATA, 2)
    with torch.no_grad():
        assert model.eval()(DATA[0][0]).isfinite().all()
    model.train()
    train(model, optimizer, DATA, 1)
    zeros = sum(int((layer.weight == 0).sum()) for layer in (model.stem, model.head))
    report = manager.finalize()
    assert model.body.out_channels == 8
    assert (
        zeros
        == sum(int((layer.weight == 0).sum()) for layer in (model.stem, model.head))
        > 0.6 * model.stem.weight.numel()
    )
    assert report.compressed.parameters < report.dense.parameters


def test_a_resumed_run_has_the_same_averages(tmp_path):
    ends = []
    for at in (None, 6):
        model = conv_net()
        optimizer, manager = hooked(model, mean=mean_recipe())
        if at is None:
            train(model, optimizer, DATA, 3)
        else:
            train(model, optimizer, (DATA * 2)[:at], 1)
            save(tmp_path / "run.pt", model, optimizer, manager)
            model = conv_net(seed=3)
            optimizer, manager = hooked(model, mean=mean_recipe())
            resume(tmp_path / "run.pt", model, optimizer, manager)
            train(model, optimizer, (DATA * 3)[at:], 1)
        manager.finalize()
        ends.append(model.state_dict())
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())

"""Another model of the same kind follows what a recipe does: `ScheduledManager.conform`."""

import copy

import pytest
import torch
from sample_models import batches, conv_net, mlp, recipe_of, train
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from paredown import ParedownError, Recipe, ScheduledManager

DATA = batches(4, image=True)
MODIFIERS = {
    "zeros": {"type": "magnitude_pruning", "final_sparsity": 0.7, "end": 2},
    "channels": {"type": "channel_pruning", "final_sparsity": 0.5, "start": 0, "end": 2, "every": 1, "round_to": 1},
    "svd": {"type": "svd_decomposition", "rank": 2, "start": 1, "guard": "none", "targets": ["head", "body"]},
    "quantizers": {"type": "quantization_aware_training", "start": 1},
}


def hooked(model, **modifiers):
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    manager = ScheduledManager(Recipe.load(recipe_of(3, **modifiers)))
    manager.modify(model, optimizer, 4, example_inputs=(DATA[0][0],))
    return optimizer, manager


def in_line(model, other):
    assert model.state_dict().keys() == other.state_dict().keys()
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert ours.shape == theirs.shape
        assert (theirs[ours == 0] == 0).all()


@pytest.mark.parametrize(
    "names", [[name] for name in MODIFIERS] + [["channels", "zeros", "quantizers"], ["svd", "zeros"]]
)
def test_an_average_follows_step_by_step(names):
    model = conv_net()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    optimizer, manager = hooked(model, **{name: MODIFIERS[name] for name in names})

    def after():
        manager.conform(average)
        average.update_parameters(model)
        manager.conform(average)
        in_line(model, average.module)

    train(model, optimizer, DATA, 3, after=after)
    manager.finalize()
    manager.conform(average)
    in_line(model, average.module)
    x = DATA[0][0]
    assert not torch.equal(average.module.eval()(x), model.eval()(x))  # its weights are its own
    average.module.load_state_dict(model.state_dict())
    assert torch.equal(average.module.eval()(x), model.eval()(x))  # and all else is the model's: quantizers too
    copy.deepcopy(average)


@pytest.mark.parametrize("names", [["channels", "zeros"], ["svd", "quantizers"]])
def test_a_copy_from_before_follows_at_once(names):
    model = conv_net()
    dense = copy.deepcopy(model)
    optimizer, manager = hooked(model, **{name: MODIFIERS[name] for name in names})
    train(model, optimizer, DATA, 3)
    manager.finalize()
    manager.conform(dense)
    in_line(model, dense)
    twin = copy.deepcopy(model)
    manager.conform(twin)  # one from after it stays as it is
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in model.state_dict().items())


def test_the_average_of_what_stays_is_kept():
    """Channels that remain keep the values of the copy, not those of the model."""
    model = conv_net()
    other = copy.deepcopy(model)
    before = other.stem.weight.detach().clone()
    optimizer, manager = hooked(model, channels=MODIFIERS["channels"])
    train(model, optimizer, DATA, 3)
    manager.finalize()
    manager.conform(other)
    kept = [next(row for row, old in enumerate(before) if torch.equal(old, new)) for new in other.stem.weight]
    assert kept == sorted(set(kept))
    assert len(kept) == model.stem.out_channels < len(before)


@pytest.mark.parametrize("other", [mlp(), conv_net(channels=6), "a model", torch.nn.Linear(2, 2)])
def test_another_kind_of_model_is_refused_and_stays(other):
    model = conv_net()
    optimizer, manager = hooked(model, channels=MODIFIERS["channels"])
    train(model, optimizer, DATA, 3)
    shapes = None if isinstance(other, str) else [each.shape for each in other.parameters()]
    with pytest.raises(ParedownError, match="conform"):
        manager.conform(other)
    assert shapes is None or shapes == [each.shape for each in other.parameters()]


def test_without_a_run_there_is_nothing_to_follow():
    with pytest.raises(ParedownError, match="there is no run"):
        ScheduledManager(Recipe.load(recipe_of(3, zeros=MODIFIERS["zeros"]))).conform(conv_net())

"""acdc, rigl and lottery_ticket step by step."""

import copy

import pytest
import torch
from sample_models import batches, conv_net, mlp, recipe_of, size, weights, zeros
from torch import nn

from paredown import Recipe, RecipeError, ScheduledManager, ScheduleError
from paredown.framework.modifier.curves import share_of
from paredown.modifiers.pruning.rigl import moved_connections


def begun(model, optimizer, epochs=4, steps=10, **fields):
    manager = ScheduledManager(Recipe.load(recipe_of(epochs, p=fields)))
    manager.modify(model, optimizer, steps)
    return manager


def stepped(model, optimizer, count, data=None):
    data = batches(10) if data is None else data
    for step in range(count):
        x, y = data[step % len(data)]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        yield step + 1


def test_acdc_alternates_and_ends_compressed():
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2, weight_decay=0.1)
    manager = begun(model, optimizer, type="acdc", final_sparsity=0.8, start=1, every=0.5, end=3)
    target = share_of(0.8, size(model))
    for step in stepped(model, optimizer, 40):
        compressed = step >= 10 and (((step - 10) // 5) % 2 == 0 or step >= 30)
        assert (zeros(model) == target) == (compressed or step in (15, 25)), step
        if step == 15:  # handed back: from zero, with cleared momenta
            gone = model[0].weight == 0
            assert optimizer.state[model[0].weight]["exp_avg"][gone].eq(0).all()
    manager.finalize()


def test_rigl_keeps_the_number_of_connections_in_every_layer():
    model = conv_net(channels=16)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    manager = begun(model, optimizer, type="rigl", final_sparsity=0.8, every="2 steps", end="30 steps")
    assert zeros(model) == share_of(0.8, size(model))
    masks = [w != 0 for w in weights(model)]
    counts = [int(mask.sum()) for mask in masks]
    moved = 0
    for step in stepped(model, optimizer, 40, batches(10, image=True)):
        held = manager.run.states["p"].masks
        now = [held[m.weight] != 0 for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
        assert [int(mask.sum()) for mask in now] == counts
        changed = sum(int((a & ~b).sum()) for a, b in zip(masks, now, strict=True))
        assert changed == 0 or (step % 2 == 0 and step < 30)
        for weight, mask, before in zip(weights(model), now, masks, strict=True):
            assert weight[~mask].eq(0).all()
            assert weight[mask & ~before].eq(0).all()  # grown from zero
        moved += changed
        masks = now
    assert moved > 20
    manager.finalize()


def test_rigl_drops_the_smallest_and_grows_where_the_gradient_is_largest():
    torch.manual_seed(0)
    model = nn.Linear(12, 10, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    manager = begun(
        model,
        optimizer,
        1,
        type="rigl",
        final_sparsity=0.5,
        every="4 steps",
        drop=0.5,
        curve=[[0, 0.25]],
        scope="local",
    )
    mask = model.weight != 0
    for _ in range(4):
        model.weight.grad = torch.randn_like(model.weight)
        gradient, before = model.weight.grad.abs(), model.weight.detach().clone()
        optimizer.step()
    alive = [i for i in range(120) if mask.flatten()[i]]
    dropped = sorted(alive, key=lambda i: float(before.flatten()[i].abs()))[:15]
    gaps = [i for i in range(120) if i not in alive or i in dropped]
    grown = sorted(gaps, key=lambda i: -float(gradient.flatten()[i]))[:15]
    want = (set(alive) - set(dropped)) | set(grown)
    held = manager.run.states["p"].masks[model.weight].flatten() != 0
    assert set(held.nonzero().flatten().tolist()) == want


def test_set_grows_by_chance_and_its_seed():
    masks = []
    for seed in (0, 0, 1):
        model = mlp()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        manager = begun(model, optimizer, type="rigl", growth="random", final_sparsity=0.7, every="2 steps", seed=seed)
        list(stepped(model, optimizer, 20))
        masks.append(torch.cat([m.flatten() != 0 for m in manager.run.states["p"].masks.values()]))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_moved_connections_takes_ties_by_index():
    keep = torch.tensor([True, True, True, False, False])
    found = moved_connections(torch.ones(5), keep, torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0]), 1)
    assert found.tolist() == [False, True, True, True, False]


@pytest.mark.parametrize("rewind", [0, "3 steps"])
def test_lottery_ticket_rewinds_everything_but_the_zeros(rewind):
    model = conv_net()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    begun(model, optimizer, type="lottery_ticket", final_sparsity=0.875, every=1, end=3, rewind_to=rewind)
    early = copy.deepcopy(model.state_dict()) if rewind == 0 else None
    for step in stepped(model, optimizer, 40, batches(10, image=True)):
        if rewind != 0 and step == 3:
            early = copy.deepcopy(model.state_dict())
        if step in (10, 20, 30):
            assert zeros(model) == share_of(1 - 0.5 ** (step / 10), size(model))
            for name, tensor in model.state_dict().items():
                same = tensor == early[name]
                assert (same | (tensor == 0)).all(), name
            assert not optimizer.state
    assert zeros(model) == share_of(0.875, size(model))


def test_iterative_pruning_with_retraining_keeps_weights_and_momenta():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    begun(model, optimizer, type="lottery_ticket", final_sparsity=0.75, every=1, end=2, rewind_to=None)
    start = model[0].weight.detach().clone()
    list(stepped(model, optimizer, 20))
    kept = model[0].weight != 0
    assert zeros(model) == share_of(0.75, size(model))
    assert (model[0].weight[kept] != start[kept]).float().mean() > 0.9
    assert optimizer.state[model[0].weight]["momentum_buffer"][kept].ne(0).any()


@pytest.mark.parametrize(
    ("fields", "told"),
    [({"rewind_to": 1.5, "end": 3}, "within the first round"), ({"end": 4}, "set end earlier")],
)
def test_a_ticket_that_cannot_be_is_told_before_anything_happens(fields, told):
    model = mlp()
    with pytest.raises(ScheduleError, match=told):
        begun(
            model,
            torch.optim.SGD(model.parameters(), 0.1),
            type="lottery_ticket",
            final_sparsity=0.5,
            every=1,
            **fields,
        )


def test_what_the_recipe_has_to_say():
    with pytest.raises(RecipeError, match="every is required"):
        Recipe.load(recipe_of(p={"type": "acdc", "final_sparsity": 0.5}))
    with pytest.raises(RecipeError, match="no criterion"):
        Recipe.load(recipe_of(p={"type": "acdc", "final_sparsity": 0.5, "every": 1, "criterion": "size"}))


# -- optimizer truth --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, 1e-2, amsgrad=True, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, 1e-2, fused=True),
        lambda p: torch.optim.AdamW(p, 1e-2, foreach=True),
        lambda p: torch.optim.RMSprop(p, 1e-2, momentum=0.9),
        lambda p: torch.optim.Adagrad(p, 1e-2),
    ],
)
def test_zeros_after_every_step_and_gradients_still_there(make):
    model = mlp()
    optimizer = make(model.parameters())
    begun(model, optimizer, type="magnitude_pruning", final_sparsity=0.7, end=1, every="1 steps", scope="local")
    last = 0
    for step in stepped(model, optimizer, 30):
        held = zeros(model)
        assert held >= last
        last = held
        if step > 10:
            assert held == sum(share_of(0.7, weight.numel()) for weight in weights(model))
            assert model[2].weight.grad[model[2].weight == 0].ne(0).any()


def test_momenta_of_pruned_weights_are_cleared_or_kept():
    for clear in (True, False):
        model = mlp()
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        begun(
            model,
            optimizer,
            type="magnitude_pruning",
            final_sparsity=0.9,
            start="5 steps",
            end="5 steps",
            clear_momenta=clear,
        )
        list(stepped(model, optimizer, 5))
        gone = model[0].weight == 0
        assert gone.any()
        for key in ("exp_avg", "exp_avg_sq"):
            assert optimizer.state[model[0].weight][key][gone].eq(0).all() == clear
            assert optimizer.state[model[0].weight][key][~gone].ne(0).any()


def test_an_average_of_weights_that_is_loaded_before_the_end_is_zero_where_pruned():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    manager = begun(model, optimizer, 2, type="magnitude_pruning", final_sparsity=0.9, end=1, every="1 steps")
    for _ in stepped(model, optimizer, 20):
        average.update_parameters(model)
    assert zeros(average.module) < zeros(model)
    model.load_state_dict(average.module.state_dict())
    manager.finalize()
    assert zeros(model) == share_of(0.9, size(model))


def test_handed_back_weights_train_again_from_zero_with_cleared_momenta():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    manager = begun(model, optimizer, type="magnitude_pruning", final_sparsity=0.9, end=2, every="5 steps", hold=False)
    for step in stepped(model, optimizer, 40):
        if step == 20:
            gone = model[0].weight == 0
            assert optimizer.state[model[0].weight]["momentum_buffer"][gone].eq(0).all()
    after = zeros(model)
    assert after < 0.5 * share_of(0.9, size(model))
    manager.finalize()
    assert zeros(model) == after


def test_a_later_modifier_starts_from_what_is_held():
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    recipe = recipe_of(
        4,
        first={"type": "magnitude_pruning", "final_sparsity": 0.5, "end": 1, "every": "1 steps"},
        second={"type": "movement_pruning", "final_sparsity": 0.8, "start": 2, "end": 3, "every": "1 steps"},
    )
    ScheduledManager(Recipe.load(recipe)).modify(model, optimizer, 10)
    for step in stepped(model, optimizer, 40):
        if 10 <= step < 20:
            assert zeros(model) == share_of(0.5, size(model))
        if step >= 30:
            assert zeros(model) == share_of(0.8, size(model))

import pytest
import torch
from sample_models import batches, mlp, recipe_of, train

from paredown import Recipe, ScheduledManager, ScheduleError
from paredown.framework.modifier.curves import curve_value


def hooked(fields, groups=None):
    model = mlp()
    optimizer = torch.optim.SGD(groups(model) if groups else model.parameters(), lr=0.1)
    manager = ScheduledManager(Recipe.load(recipe_of(4, rate={"type": "learning_rate", **fields})))
    return model, optimizer, manager


def test_it_follows_the_curve_and_stays():
    model, optimizer, manager = hooked({"start": 1, "end": 3, "final": 0.01, "curve": "cosine"})
    manager.modify(model, optimizer, 10)
    seen = []
    train(model, optimizer, batches(), 4, after=lambda: seen.append(optimizer.param_groups[0]["lr"]))
    for step, rate in enumerate(seen, 1):
        assert rate == pytest.approx(curve_value("cosine", (step - 10) / 20, 0.1, 0.01))
    assert seen[9] == 0.1
    assert seen[-1] == 0.01


def test_warm_up_from_an_initial_rate_and_groups_keep_their_ratio():
    model, optimizer, manager = hooked(
        {"end": 1, "initial": 0.0, "final": 0.2},
        lambda m: [{"params": m[0].parameters()}, {"params": m[2:].parameters(), "lr": 0.05}],
    )
    manager.modify(model, optimizer, 10)
    assert [group["lr"] for group in optimizer.param_groups] == [0.0, 0.0]
    train(model, optimizer, batches(5), 1)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.05])
    train(model, optimizer, batches(5), 1)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.2, 0.1])


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_scheduler_of_the_loop_is_refused(when):
    model, optimizer, manager = hooked({"final": 0.01})
    if when == "before":
        torch.optim.lr_scheduler.StepLR(optimizer, 1)
        with pytest.raises(ScheduleError, match="LR scheduler"):
            manager.modify(model, optimizer, 10)
        return
    manager.modify(model, optimizer, 10)
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    with pytest.raises(ScheduleError, match="LR scheduler"):
        train(model, optimizer, batches(1))


def test_tensor_rates_change_in_place():
    model = mlp()
    rate = torch.tensor(0.1)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    manager = ScheduledManager(Recipe.load(recipe_of(1, rate={"type": "learning_rate", "final": 0.0})))
    manager.modify(model, optimizer, 10)
    train(model, optimizer, batches(5))
    assert rate.item() == pytest.approx(0.05)


@pytest.mark.parametrize("when", ["each step", "after the window"])
def test_a_rate_that_the_loop_sets_too_is_an_error_with_both_values(when):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    manager = ScheduledManager(
        Recipe.load(recipe_of(2, lr={"type": "learning_rate", "initial": 0.1, "final": 0.01, "end": 1}))
    )
    manager.modify(model, optimizer, 10)

    def by_hand():
        optimizer.param_groups[0]["lr"] = 0.05

    if when == "each step":
        with pytest.raises(ScheduleError, match=r"is 0.05, and the recipe had set it to 0.0"):
            train(model, optimizer, batches(), 2, after=by_hand)
        return
    train(model, optimizer, batches(), 2)
    assert manager.done
    by_hand()
    assert not manager.done
    with pytest.raises(ScheduleError, match=r"the learning rate is 0.05, and the recipe had set it to 0.01"):
        manager.finalize()


def test_a_plateau_scheduler_is_noticed_where_it_acts():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.1)
    manager = ScheduledManager(Recipe.load(recipe_of(4, lr={"type": "learning_rate", "initial": 0.1, "final": 0.01})))
    manager.modify(model, optimizer, len(batches()))
    with pytest.raises(ScheduleError, match="ReduceLROnPlateau"):
        for _ in range(4):
            train(model, optimizer, batches(), 1)
            scheduler.step(1.0)

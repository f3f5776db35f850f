import pytest
import torch
from sample_models import batches, mlp, recipe_of, train

from paredown import Recipe, ScheduledManager, ScheduleError


def managed(**fields):
    return ScheduledManager(Recipe.load(recipe_of(4, decay={"type": "weight_decay", **fields})))


def test_weights_are_those_of_a_loop_that_sets_it_by_hand():
    """The decay of a step is that of the curve at the step's own number."""
    ours, by_hand = mlp(), mlp()
    by_hand.load_state_dict(ours.state_dict())
    optimizer = torch.optim.AdamW(ours.parameters(), lr=0.01, weight_decay=0.4)
    managed(start=1, end=3, final=0.0).modify(ours, optimizer, 10)
    train(ours, optimizer, batches(10), 4)

    other = torch.optim.AdamW(by_hand.parameters(), lr=0.01)
    for step in range(40):
        other.param_groups[0]["weight_decay"] = 0.4 * (1 - min(max((step - 10) / 20, 0), 1))
        train(by_hand, other, [batches(10)[step % 10]])
    for a, b in zip(ours.parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("decays", [(0.1, 0.0), (0.2, 0.05), (0.0, 0.0)])
def test_groups_keep_their_ratio_and_those_without_stay_without(decays):
    model = mlp()
    parts = model[:2].parameters(), model[2:].parameters()
    groups = [{"params": part, "weight_decay": own} for part, own in zip(parts, decays, strict=True)]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    managed(final=0.6, curve="constant").modify(model, optimizer, 10)
    train(model, optimizer, batches(1), 1)
    largest = max(decays)
    expected = [0.6 * own / largest for own in decays] if largest else [0.6, 0.6]
    assert [group["weight_decay"] for group in optimizer.param_groups] == pytest.approx(expected)


def test_an_optimizer_without_weight_decay_is_refused_before_anything_changes():
    model = mlp()
    optimizer = torch.optim.Rprop(model.parameters(), lr=0.1)
    with pytest.raises(ScheduleError, match=r"decay: Rprop has no weight decay: take an optimizer that has one"):
        managed(final=0.1).modify(model, optimizer, 10)
    assert not optimizer._optimizer_step_pre_hooks

"""Defects that an adversarial round found in pruning in place, one test each."""

import copy

import pytest
import torch
from sample_models import batches, mlp, recipe_of, size, weights, zeros
from torch import nn

import paredown
from paredown import Recipe, RecipeError, ScheduledManager, ScheduleError, TargetError
from paredown.framework.measure.size import bytes_on_disk
from paredown.framework.modifier.curves import share_of
from paredown.framework.storage.state import PerParameter
from paredown.modifiers.pruning.masks.scope import uniform_plus_shares
from paredown.modifiers.pruning.scoring.gradients import loss_of

DATA = batches(6)
GRADIENTS = ["taylor_pruning", "snip_pruning", "fisher_pruning", "movement_pruning", "grasp_pruning"]


def begun(model, modifiers, optimizer=None, epochs=3, **more):
    optimizer = torch.optim.SGD(model.parameters(), 0.1) if optimizer is None else optimizer
    manager = ScheduledManager(Recipe.load(recipe_of(epochs, **modifiers)))
    manager.modify(model, optimizer, 6, **more)
    return optimizer, manager


def go(model, optimizer, steps, first=0):
    for step in range(first, first + steps):
        x, y = DATA[step % 6]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


@pytest.mark.parametrize("kind", GRADIENTS)
def test_frozen_weights_are_left_alone_by_gradient_criteria(kind):
    model = mlp()
    model[0].weight.requires_grad_(False)
    fields = {"type": kind, "final_sparsity": 0.5, "end": 1}
    optimizer, manager = begun(model, {"p": fields}, data=DATA)
    go(model, optimizer, 18)
    manager.finalize()
    assert (model[0].weight != 0).all()
    assert zeros(model) == share_of(0.5, size(model) - model[0].weight.numel())
    plan = ScheduledManager(Recipe.load(recipe_of(p=fields))).plan(model, steps_per_epoch=6)
    assert "it is frozen" in str(plan)
    frozen = mlp().requires_grad_(False)
    with pytest.raises(TargetError, match="frozen"):
        ScheduledManager(Recipe.load(recipe_of(p={**fields, "targets": ["0"]}))).plan(frozen, steps_per_epoch=6)


def test_a_layer_that_never_gets_a_gradient_is_named():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.spare = mlp(), nn.Linear(4, 4)

        def forward(self, x):
            return self.net(x)

    model = Unused()
    optimizer, _ = begun(model, {"p": {"type": "taylor_pruning", "final_sparsity": 0.5, "every": "2 steps"}})
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(TargetError, match=r"cannot weigh spare\.weight: add its layer to ignore"):
        go(model, optimizer, 2)
    assert zeros(model) == 0
    assert torch.equal(model.spare.weight, before["spare.weight"])


@pytest.mark.parametrize("first", [{}, {"targets": ["0"]}])
def test_rigl_after_another_modifier_reaches_its_own_share(first):
    model = mlp()
    earlier = {"type": "magnitude_pruning", "final_sparsity": 0.5, "end": "2 steps", **first}
    later = {"type": "rigl", "final_sparsity": 0.9, "start": "4 steps", "every": "2 steps"}
    optimizer, manager = begun(model, {"a": earlier, "b": later})
    go(model, optimizer, 18)
    manager.finalize()
    assert zeros(model) == share_of(0.9, size(model))


@pytest.mark.parametrize("kind", ["sparsegpt", "constant_sparsity"])
def test_what_was_handed_back_is_not_handed_on(kind):
    model = mlp()
    if kind == "constant_sparsity":
        with torch.no_grad():
            model[0].weight[:16] = 0
    first = {"type": kind, "hold": False, **({"final_sparsity": 0.5} if kind == "sparsegpt" else {"end": "1 steps"})}
    later = {
        "type": "magnitude_pruning",
        "final_sparsity": 0.9,
        "start": "6 steps",
        "curve": "linear",
        "every": "1 steps",
    }
    optimizer, manager = begun(model, {"a": first, "b": later}, data=DATA)
    go(model, optimizer, 6)
    assert manager.run.states["b"].share == 0


@pytest.mark.parametrize(
    "kind",
    ["magnitude_pruning", "taylor_pruning", "snip_pruning", "fisher_pruning", "movement_pruning", "rigl", "acdc"],
)
@pytest.mark.parametrize("skipped", [0, 17])
def test_a_skipped_step_leaves_the_final_update_to_finalize(kind, skipped):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    fields = {"type": kind, "final_sparsity": 0.6, "every": "3 steps"}
    _, manager = begun(model, {"p": fields}, optimizer, grad_scaler=scaler)
    for step in range(18):
        x, y = DATA[step % 6]
        optimizer.zero_grad()
        scaler.scale(nn.functional.cross_entropy(model(x), y)).backward()
        if step == skipped:
            model[0].weight.grad[0, 0] = float("nan")
        scaler.step(optimizer)
        scaler.update()
    with pytest.warns(UserWarning, match="the final update was made by finalize"):
        manager.finalize()
    assert zeros(model) == share_of(0.6, size(model))


def test_synflow_does_not_overflow_in_deep_networks():
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(128, 128) for _ in range(40)])
    with torch.no_grad():
        for layer in model:
            layer.weight.mul_(20)
    fields = {"type": "synflow_pruning", "final_sparsity": 0.5, "rounds": 2}
    ScheduledManager(Recipe.load(recipe_of(p=fields))).apply(model, example_inputs=(torch.randn(1, 128),))
    assert max(float((w == 0).float().mean()) for w in weights(model)) < 0.9


def test_synflow_leaves_frozen_weights_frozen():
    model = mlp()
    model[0].weight.requires_grad_(False)
    fields = {"type": "synflow_pruning", "final_sparsity": 0.5, "rounds": 2}
    ScheduledManager(Recipe.load(recipe_of(p=fields))).apply(model, example_inputs=(DATA[0][0],))
    assert not model[0].weight.requires_grad
    assert zeros(model) == share_of(0.5, size(model))


def test_a_ticket_keeps_other_modifiers_zeros():
    model = mlp()
    held = {"type": "magnitude_pruning", "targets": ["0"], "final_sparsity": 0.5, "end": "1 steps"}
    ticket = {"type": "lottery_ticket", "targets": ["2"], "final_sparsity": 0.5, "every": "4 steps", "end": "12 steps"}
    optimizer, _ = begun(model, {"a": held, "b": ticket})
    for step in range(18):
        go(model, optimizer, 1, step)
        assert (model[0].weight == 0).float().mean() == 0.5


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"final_sparsity": 0.9, "curve": [[0, 0.5], [0.3, 0.8]]}, "the curve ends at 0.8, and final_sparsity is 0.9"),
        ({"structure": "2:4", "curve": [[0, 0.5], [1, 0.75]]}, "the curve ends at 0.75"),
        ({"final_sparsity": 1.0, "curve": [[0, 0.5], [1, 1.5]]}, r"both in 0\.\.1"),
    ],
)
def test_points_that_contradict_the_final_share(fields, told):
    with pytest.raises(RecipeError, match=told):
        Recipe.load(recipe_of(p={"type": "magnitude_pruning", **fields}))


def test_a_window_that_now_ends_later_is_open_again(tmp_path):
    def with_(**fields):
        model = mlp()
        optimizer, manager = begun(model, {"p": {"type": "magnitude_pruning", "every": "1 steps", **fields}})
        return model, optimizer, manager

    parts = with_(final_sparsity=0.5, end="6 steps")
    go(*parts[:2], 9)
    paredown.save(tmp_path / "c.pt", *parts)
    again = with_(final_sparsity=0.9, end="12 steps")
    paredown.resume(tmp_path / "c.pt", *again)
    assert not again[2].done
    go(*again[:2], 9, 9)
    again[2].finalize()
    assert zeros(again[0]) == share_of(0.9, size(again[0]))


def test_a_ticket_that_is_resumed_under_another_time_to_rewind_to(tmp_path):
    fields = {"type": "lottery_ticket", "final_sparsity": 0.5, "every": 1, "end": 2}
    model = mlp()
    optimizer, manager = begun(model, {"p": {**fields, "rewind_to": None}}, epochs=4)
    go(model, optimizer, 5)
    paredown.save(tmp_path / "c.pt", model, optimizer, manager)
    model = mlp()
    optimizer, manager = begun(model, {"p": {**fields, "rewind_to": "2 steps"}}, epochs=4)
    paredown.resume(tmp_path / "c.pt", model, optimizer, manager)
    with pytest.raises(ScheduleError, match="without having kept the weights of then"):
        go(model, optimizer, 1, 5)


def test_a_state_is_a_copy():
    model = mlp()
    optimizer, manager = begun(model, {"p": {"type": "taylor_pruning", "final_sparsity": 0.5, "every": "9 steps"}})
    go(model, optimizer, 3)
    kept = manager.state_dict()
    before = copy.deepcopy(kept)
    go(model, optimizer, 3, 3)
    then, now = (each["modifiers"]["p"]["state"]["watched"]["statistics"]["0.weight"] for each in (before, kept))
    assert torch.equal(then, now)
    tensor = torch.ones(2)
    assert PerParameter().decode(tensor, nn.Parameter(torch.ones(2))) is not tensor


def test_a_failure_in_a_later_round_takes_the_masks_back(monkeypatch):
    from paredown.modifiers.pruning.synflow_pruning import SynflowCriterion

    calls = []
    plain = SynflowCriterion.weigh

    def failing(self, *arguments):
        calls.append(1)
        if len(calls) == 4:
            raise TargetError("no more")
        return plain(self, *arguments)

    monkeypatch.setattr(SynflowCriterion, "weigh", failing)
    model = mlp()
    fields = {
        "type": "synflow_pruning",
        "final_sparsity": 0.5,
        "start": "3 steps",
        "end": "4 steps",
        "rounds": 6,
        "curve": "constant",
    }
    optimizer, _ = begun(model, {"p": fields}, example_inputs=(DATA[0][0],))
    go(model, optimizer, 2)
    with pytest.raises(TargetError, match="no more"):
        go(model, optimizer, 1, 2)
    assert zeros(model) == 0


def test_a_structure_that_takes_over_counts_whole_units():
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    first = {"type": "magnitude_pruning", "structure": "2:4", "end": "1 steps"}
    later = {
        "type": "magnitude_pruning",
        "structure": "channel",
        "final_sparsity": 0.5,
        "start": "6 steps",
        "curve": "linear",
        "every": "1 steps",
    }
    optimizer, manager = begun(model, {"a": first, "b": later})
    go(model, optimizer, 6)
    assert manager.run.states["b"].share == 0


@pytest.mark.parametrize("kind", ["grasp_pruning", "batch_norm_scale_pruning", "synflow_pruning", "wanda"])
def test_missing_inputs_are_told_before_anything_happens(kind):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 4))
    fields = {"type": kind, "final_sparsity": 0.5, "start": 1, "targets": ["0"]}
    if kind == "wanda":
        fields |= {"type": "acdc", "criterion": "wanda", "every": 1}
    with pytest.raises(ScheduleError, match="data=|example_inputs="):
        begun(model, {"p": fields})


@pytest.mark.parametrize("fields", [{"type": "random_pruning"}, {"type": "rigl"}, {"type": "geometric_median_pruning"}])
def test_nan_weights_are_refused_by_name(fields):
    model = mlp()
    with torch.no_grad():
        model[2].weight[3, 3] = float("nan")
    with pytest.raises(TargetError, match=r"2\.weight contains NaN"):
        begun(model, {"p": {"final_sparsity": 0.5, "curve": "constant", **fields}})


def test_the_loss_of_sequences():
    logits, tokens = torch.randn(2, 5, 7), torch.randint(0, 7, (2, 5))
    want = nn.functional.cross_entropy(logits.reshape(10, 7), tokens.reshape(10))
    torch.testing.assert_close(loss_of(logits, (None, tokens), "p"), want)
    torch.testing.assert_close(loss_of(logits.movedim(2, 1), (None, tokens), "p"), want)
    torch.testing.assert_close(
        loss_of(logits[0], (None, tokens[0][:, None]), "p"), nn.functional.cross_entropy(logits[0], tokens[0])
    )
    images, labels = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    torch.testing.assert_close(loss_of(images, (None, labels), "p"), nn.functional.cross_entropy(images, labels))
    for output, targets in (
        (torch.randn(2, 5, 5), torch.randint(0, 5, (2, 5))),
        (torch.randn(4), torch.randint(0, 2, (4,))),
    ):
        with pytest.raises(ScheduleError, match="needs the loss"):
            loss_of(output, (None, targets), "p")


def test_weight_norm_and_parametrized_recurrent_weights_are_refused():
    with pytest.warns(FutureWarning):
        normed = nn.utils.weight_norm(nn.Linear(8, 8))
    with pytest.raises(TargetError, match="computed, not stored"):
        begun(nn.Sequential(normed), {"p": {"type": "magnitude_pruning", "final_sparsity": 0.5}})


def test_each_optimizers_own_gradients_are_seen():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    optimizers = [torch.optim.SGD(model[place].parameters(), 0.0) for place in (0, 2)]
    _, manager = begun(model, {"p": {"type": "snip_pruning", "final_sparsity": 0.5, "every": "9 steps"}}, optimizers)
    sums = [torch.zeros_like(model[place].weight) for place in (0, 2)]
    for x, y in DATA[:4]:
        for optimizer in optimizers:
            optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        for total, place in zip(sums, (0, 2), strict=True):
            total += model[place].weight.grad
        for optimizer in optimizers:
            optimizer.step()
    watched = manager.run.states["p"].watched
    assert watched.count == 4
    for total, place in zip(sums, (0, 2), strict=True):
        torch.testing.assert_close(watched.statistics[model[place].weight], total)


def test_small_things():
    assert sum(uniform_plus_shares({"a": 3}, 0.8, None, "a").values()) == pytest.approx(0.8)
    with pytest.warns(UserWarning, match="zero-element"):
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 0), nn.Linear(0, 4))
    ScheduledManager(Recipe.load(recipe_of(p={"type": "magnitude_pruning", "final_sparsity": 0.5}))).apply(model)
    assert int((model[0].weight == 0).sum()) == 8
    large = nn.Linear(8, 4, bias=False)
    nn.init.uniform_(large.weight, 1e25, 2e25)
    ScheduledManager(Recipe.load(recipe_of(p={"type": "magnitude_pruning", "structure": "2:4"}))).apply(large)
    assert ((large.weight.view(-1, 4) == 0).sum(1) == 2).all()
    plan = ScheduledManager(
        Recipe.load(recipe_of(p={"type": "magnitude_pruning", "final_sparsity": 0.8, "scope": "erk"}))
    ).plan(mlp(), steps_per_epoch=2)
    assert plan.parameters[0] == plan.parameters[1]
    assert "0.8 of it zero" not in str(plan)
    views = nn.Module()
    square = torch.randn(64, 64)
    views.register_buffer("a", square)
    views.register_buffer("b", square.t())
    one = nn.Module()
    one.register_buffer("a", square)
    assert bytes_on_disk(views) > 1.8 * bytes_on_disk(one)


def test_a_layer_of_which_nothing_is_left_is_told():
    model = mlp()
    with torch.no_grad():
        model[4].weight.mul_(1e-3)
    fields = {"type": "magnitude_pruning", "final_sparsity": 0.5, "layer_floor": 0.0}
    report = ScheduledManager(Recipe.load(recipe_of(p=fields))).apply(model)
    assert any("nothing is left of 4.weight" in note for note in report.notes)
    for quiet in ({"scope": "local"}, {"final_sparsity": 1.0}):
        report = ScheduledManager(Recipe.load(recipe_of(p={**fields, **quiet}))).apply(mlp())
        assert not report.notes

"""Two lines in loops that somebody else wrote: the recipe's sparsity is met exactly, whatever the loop does."""

import warnings
import weakref

import pytest
import torch
from sample_models import batches, mlp, pruning, recipe_of, size, train, weights, zeros
from torch import nn

from paredown import ParedownError, Recipe, ScheduledManager, ScheduleError
from paredown.framework.modifier.curves import share_of


def manager_of(epochs=4, **modifiers):
    return ScheduledManager(Recipe.load(recipe_of(epochs, **modifiers)))


def hooked(optimizer_class=torch.optim.SGD, final=0.83, steps=10, rate=0.05, options=None, **modify):
    model = mlp()
    optimizer = optimizer_class(model.parameters(), lr=rate, **(options or {}))
    manager = manager_of(prune=pruning(final))
    assert manager.modify(model, optimizer, steps, **modify) is optimizer
    return model, optimizer, manager


class Watch:
    """Asserts after every step that a weight which was pruned stays zero."""

    def __init__(self, model):
        self.model = model
        self.most = 0

    def __call__(self):
        now = zeros(self.model)
        assert now >= self.most
        self.most = now


OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {}),
    "nesterov": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}),
    "adamw": (torch.optim.AdamW, {}),
    "adamw fused": (torch.optim.AdamW, {"fused": True}),
    "adam foreach": (torch.optim.Adam, {"foreach": True}),
    "rmsprop": (torch.optim.RMSprop, {"momentum": 0.9}),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_exact_with_every_optimizer(name):
    kind, options = OPTIMIZERS[name]
    model, optimizer, manager = hooked(kind, rate=1e-2, options=options)
    train(model, optimizer, batches(), 4, after=Watch(model))
    assert manager.done
    manager.finalize()
    assert zeros(model) == share_of(0.83, size(model))
    assert type(model) is nn.Sequential
    assert not optimizer._optimizer_step_post_hooks


def test_local_scope_is_exact_in_every_layer():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    manager_of(prune=pruning(0.83, scope="local")).modify(model, optimizer, 10)
    train(model, optimizer, batches(), 4)
    assert [int((w == 0).sum()) for w in weights(model)] == [share_of(0.83, w.numel()) for w in weights(model)]


def test_the_share_follows_the_curve_at_every_update():
    model, optimizer, manager = hooked()
    train(model, optimizer, batches(), 4)
    told = {event["step"]: event["sparsity"] for event in manager.events if event["event"] == "update"}
    assert list(told) == list(range(10, 31, 2))
    for step, share in told.items():
        assert share == pytest.approx(0.83 - 0.83 * (1 - (step - 10) / 20) ** 3)


def accumulating(model, optimizer, data, epochs=4, k=4):
    for _ in range(epochs):
        for index, (x, y) in enumerate(data):
            (nn.functional.cross_entropy(model(x), y) / k).backward()
            if index % k == k - 1:
                optimizer.step()
                optimizer.zero_grad()


@pytest.mark.parametrize("given", [5, "loader"])
def test_accumulation(given):
    data = batches(20)
    steps = torch.utils.data.DataLoader(data, batch_size=None) if given == "loader" else given
    model, optimizer, manager = hooked(steps=steps, accumulate=4)
    accumulating(model, optimizer, data)
    manager.finalize()
    assert zeros(model) == share_of(0.83, size(model))


def test_undeclared_accumulation_is_told_with_the_right_number():
    model, optimizer, _ = hooked(steps=20)
    with pytest.warns(UserWarning, match=r"steps_per_epoch=5, accumulate=4"):
        accumulating(model, optimizer, batches(4), epochs=1)


def test_accumulate_one_is_silent():
    model, optimizer, manager = hooked(steps=20, accumulate=1)
    accumulating(model, optimizer, batches(8), epochs=1)  # a warning would be an error
    assert manager.run.clock.steps == 2


def scaled(model, optimizer, scaler, epochs, skip_every=9):
    step = 0
    for _ in range(epochs):
        for x, y in batches():
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y) * (float("inf") if step % skip_every == 0 else 1.0)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            step += 1


@pytest.mark.parametrize("fused", [False, True])
def test_steps_that_the_scaler_skipped_do_not_count(fused):
    scaler = torch.amp.GradScaler("cpu")
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, fused=fused)
    manager = manager_of(prune=pruning(0.9, end=4))
    manager.modify(model, optimizer, 10, grad_scaler=scaler)
    scaled(model, optimizer, scaler, 4)
    assert (manager.run.clock.steps, manager.run.clock.skipped) == (35, 5)
    with pytest.warns(UserWarning, match="5 optimizer steps were skipped"):
        manager.finalize()
    assert zeros(model) == share_of(0.9, size(model))
    assert type(scaler) is torch.amp.GradScaler


@pytest.mark.parametrize("when", ["before", "after"])
def test_compiled_model_with_a_scheduler(when):
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    if when == "before":
        compiled(batches()[0][0])
    manager = manager_of(prune=pruning(0.7))
    manager.modify(compiled, optimizer, 10)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=41)
    train(compiled, optimizer, batches(), 4, after=lambda: (scheduler.step(), None)[1])
    manager.finalize()
    assert zeros(model) == share_of(0.7, size(model))


def test_compiled_optimizer_step():
    model, optimizer, manager = hooked(torch.optim.AdamW, rate=1e-2)
    step = torch.compile(lambda: optimizer.step(), backend="eager")
    watch = Watch(model)
    for _ in range(4):
        for x, y in batches():
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            step()
            watch()
    manager.finalize()
    assert zeros(model) == share_of(0.83, size(model))


def test_two_optimizers():
    model = mlp()
    first = torch.optim.SGD(model[0].parameters(), 0.05, momentum=0.9)
    second = torch.optim.AdamW([*model[2].parameters(), *model[4].parameters()], 1e-2)
    manager = manager_of(prune=pruning(0.9))
    manager.modify(model, [first, second], 10)
    watch = Watch(model)
    for _ in range(4):
        for x, y in batches():
            first.zero_grad()
            second.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            first.step()
            second.step()
            watch()
    manager.finalize()
    assert zeros(model) == share_of(0.9, size(model))


def test_a_step_with_a_closure():
    model, optimizer, manager = hooked()
    for _ in range(4):
        for x, y in batches():

            def closure(x=x, y=y):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x), y)
                loss.backward()
                return loss

            optimizer.step(closure)
    manager.finalize()
    assert zeros(model) == share_of(0.83, size(model))


def test_nothing_active_means_bit_identical_weights():
    ends = []
    for use in (False, True):
        model = mlp()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        if use:
            recipe = recipe_of(100, prune=pruning(0.9, 50, 60), distill={"type": "knowledge_distillation", "start": 70})
            ScheduledManager(Recipe.load(recipe)).modify(model, optimizer, 10)
        train(model, optimizer, batches(), 3)
        ends.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_an_early_stop_is_an_error_that_names_both_numbers():
    model, optimizer, manager = hooked()
    train(model, optimizer, batches(), 2)
    assert not manager.done
    with pytest.raises(
        ScheduleError, match=r"prune: its window ends at step 30.*after 20: sparsity 0\.7\d+ was .*0\.83"
    ):
        manager.finalize()
    train(model, optimizer, batches(), 2)  # nothing was taken off: the loop goes on
    manager.finalize()


def test_a_copied_optimizer_is_told():
    import copy

    model, optimizer, manager = hooked()
    train(model, copy.deepcopy(optimizer), batches(), 4)
    with pytest.raises(ScheduleError, match="a copy of it .* loses the hooks"):
        manager.finalize()


def test_not_strict_warns():
    model, optimizer, manager = hooked(strict=False)
    train(model, optimizer, batches(), 1)
    with pytest.warns(UserWarning, match=r"0\.83"):
        manager.finalize()


def test_a_modifier_that_never_ran_is_named():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    manager = manager_of(thaw={"type": "freeze", "targets": ["4"], "start": 3, "end": 4})
    manager.modify(model, optimizer, 10)
    train(model, optimizer, batches(), 1)
    with pytest.raises(ScheduleError, match="thaw never ran: it starts at step 30, and the run stopped after 10"):
        manager.finalize()


def test_release_and_again():
    model, optimizer, manager = hooked()
    train(model, optimizer, batches(), 2)
    manager.release()
    assert not optimizer._optimizer_step_post_hooks
    assert type(model) is nn.Sequential
    again = manager_of(prune=pruning(0.9))
    again.modify(model, optimizer, 10)
    train(model, optimizer, batches(), 4)
    again.finalize()
    assert zeros(model) == share_of(0.9, size(model))


def test_leaving_the_with_block_releases():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(RuntimeError, match="mine"), manager_of(prune=pruning(0.5)) as manager:
        manager.modify(model, optimizer, 10)
        raise RuntimeError("mine")
    assert not optimizer._optimizer_step_post_hooks
    assert type(model) is nn.Sequential


def test_a_gone_manager_does_not_hold_the_model():
    model, optimizer, manager = hooked()
    gone = weakref.ref(manager)
    del optimizer, manager
    import gc

    gc.collect()
    assert gone() is None
    manager_of(prune=pruning(0.5)).modify(model, torch.optim.SGD(model.parameters(), 0.1), 10)


def test_hold_false_gives_the_weights_back():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    manager = manager_of(prune=pruning(0.5, 0, 1, hold=False))
    manager.modify(model, optimizer, 10)
    train(model, optimizer, batches(), 1)
    assert zeros(model) == share_of(0.5, size(model))
    train(model, optimizer, batches(), 1)
    assert zeros(model) < 0.1 * size(model)


def test_a_later_window_takes_over():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    manager = manager_of(first=pruning(0.5, 0, 1), second=pruning(0.9, 1, 3, initial_sparsity=0.5))
    manager.modify(model, optimizer, 10)
    train(model, optimizer, batches(), 4, after=Watch(model))
    assert len(manager.run.states["first"].masks) == 0
    manager.finalize()
    assert zeros(model) == share_of(0.9, size(model))


@pytest.mark.parametrize("spoil", ["weight", "gradient"])
def test_nan_at_a_pruning_step_is_named_and_nothing_is_pruned(spoil):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    manager_of(prune=pruning(0.5, 0, 2, every=1, scope="local")).modify(model, optimizer, 2)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    with torch.no_grad():
        (model[2].weight if spoil == "weight" else model[2].weight.grad)[0, 0] = float("nan")
    before = zeros(model)
    with pytest.raises(ParedownError, match=r"2\.weight.*NaN"):
        optimizer.step()
    assert zeros(model) == before


def bad_calls():
    model = mlp()
    sgd = torch.optim.SGD(model.parameters(), 0.1)
    frozen = mlp().requires_grad_(False)
    return {
        "another model's optimizer": (mlp(), sgd, 10, {}, "none of the model's parameters"),
        "no step": (model, sgd, 0, {}, "at least one"),
        "no length": (model, sgd, iter([]), {}, "no length"),
        "half a step": (model, sgd, 2.5, {}, "optimizer steps"),
        "no optimizer": (model, [], 10, {}, "needs an optimizer"),
        "a string": (model, "sgd", 10, {}, "torch.optim.Optimizer is wanted"),
        "lbfgs": (model, torch.optim.LBFGS(model.parameters()), 10, {}, "LBFGS"),
        "frozen": (frozen, torch.optim.SGD(frozen.parameters(), 0.1), 10, {}, "no trainable"),
        "no module": (3, sgd, 10, {}, "nn.Module is wanted"),
        "accumulate 0": (model, sgd, 10, {"accumulate": 0}, "accumulate=0"),
        "too short": (model, sgd, 10, {"recipe": {"start": 0, "end": "41 steps"}}, "only 40 steps"),
        "backwards": (model, sgd, 10, {"recipe": {"start": "35 steps", "end": 3}}, "before its start"),
        "weight norm": (
            (normed := nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)))),
            torch.optim.SGD(normed.parameters(), 0.1),
            10,
            {},
            "parametrization",
        ),
    }


@pytest.mark.parametrize("name", bad_calls())
def test_bad_input_is_refused_before_anything_changes(name):
    model, optimizer, steps, more, told = bad_calls()[name]
    window = more.pop("recipe", {})
    before = {k: v.clone() for k, v in model.state_dict().items()} if isinstance(model, nn.Module) else {}
    with pytest.raises(ParedownError, match=told):
        manager_of(prune={**pruning(0.5, 0, 2), **window}).modify(model, optimizer, steps, **more)
    if before:
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        assert not any(
            "Scheduled" in str(hook) for hook in getattr(optimizer, "_optimizer_step_post_hooks", {}).values()
        )


def test_a_second_modify_is_refused():
    model, optimizer, manager = hooked()
    with pytest.raises(ParedownError, match="managed already"):
        manager_of(prune=pruning(0.5)).modify(model, optimizer, 10)
    with pytest.raises(ParedownError, match="has a run already"):
        manager.modify(mlp(), optimizer, 10)


def test_two_that_fight_are_both_named():
    model = mlp()
    manager = manager_of(first=pruning(0.5), second=pruning(0.9, 2, 4))
    with pytest.raises(ScheduleError, match=r"first and second both want the zeros of 0\.weight \(3 parameters"):
        manager.modify(model, torch.optim.SGD(model.parameters(), 0.1), 10)
    apart = manager_of(first=pruning(0.5, targets=["0"]), second=pruning(0.9, 2, 4, targets=["2"]))
    apart.modify(model, torch.optim.SGD(model.parameters(), 0.1), 10)


def test_one_recipe_in_two_managers():
    recipe = Recipe.load(recipe_of(prune=pruning(0.6)))
    runs = []
    for seed in (0, 1):
        model = mlp(seed=seed)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        manager = ScheduledManager(recipe)
        manager.modify(model, optimizer, 10)
        runs.append((model, optimizer, manager))
    for _ in range(4):
        for batch in batches():
            for model, optimizer, _ in runs:
                train(model, optimizer, [batch])
    for model, _, manager in runs:
        manager.finalize()
        assert zeros(model) == share_of(0.6, size(model))


def test_a_loaded_optimizer_state_keeps_the_hooks():
    model, optimizer, manager = hooked()
    train(model, optimizer, batches(), 1)
    optimizer.load_state_dict(optimizer.state_dict())
    train(model, optimizer, batches(), 3)
    manager.finalize()
    assert zeros(model) == share_of(0.83, size(model))


def test_bf16_autocast_and_in_place_on_the_output():
    model, optimizer, manager = hooked(torch.optim.AdamW, rate=1e-2)
    for _ in range(4):
        for x, y in batches():
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                z = model(x)
                z /= 2.0
                loss = nn.functional.cross_entropy(z.float(), y)
            loss.backward()
            optimizer.step()
    manager.finalize()
    assert zeros(model) == share_of(0.83, size(model))


def test_compact_masks_do_the_same():
    ends = []
    for form in ("fast", "compact"):
        model = mlp()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        manager = manager_of(prune=pruning(0.7, masks=form))
        manager.modify(model, optimizer, 10)
        train(model, optimizer, batches(), 4)
        ends.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_quiet_runs_warn_of_nothing():
    model, optimizer, manager = hooked()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, optimizer, batches(), 4)
        manager.finalize()


def test_a_loop_that_trains_on_after_the_recipe_is_told_once():
    model, optimizer, manager = hooked(steps=3)
    with pytest.warns(
        UserWarning, match=r"run.epochs is 4 and steps_per_epoch 3, which makes 12 optimizer steps"
    ) as told:
        train(model, optimizer, batches(), 4)
    assert sum("makes 12 optimizer steps" in str(one.message) for one in told) == 1
    manager.finalize()


@pytest.mark.parametrize(
    "modifier",
    [
        {"type": "freeze", "targets": ["0"], "end": 1},
        {"type": "learning_rate", "final": 0.01},
        {"type": "magnitude_pruning", "final_sparsity": 0.5, "start": 0, "end": 0},
        {"type": "quantization_aware_training"},
    ],
)
def test_no_step_seen_is_an_error_whatever_the_modifier(modifier):
    model = mlp()
    manager = manager_of(m=modifier)
    manager.modify(model, torch.optim.SGD(model.parameters(), 0.1), 10)
    train(model, torch.optim.SGD(model.parameters(), 0.1), batches(), 4)  # another one, built after modify
    with pytest.raises(ScheduleError, match="no step of the optimizer was seen"):
        manager.finalize()

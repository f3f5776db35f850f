"""A loop by Accelerate beside a plain loop with the two lines."""

import pytest
import torch
from sample_models import batches, conv_net, mlp, pruning, recipe_of, train
from torch import nn
from trainers import EPOCHS, FOUR_FAMILIES, data, furthest, optimizer_of, plain, scalars_in

from paredown import Recipe, ScheduledManager
from paredown.framework.errors import CheckpointError, ScheduleError

accelerate = pytest.importorskip("accelerate")
from paredown.integrations.accelerate import modify  # noqa: E402

LENGTH = 12


class Loop:
    """Somebody's loop by Accelerate."""

    def __init__(self, accumulate, recipe=FOUR_FAMILIES):
        self.accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
        model = conv_net()
        loader = torch.utils.data.DataLoader(data(LENGTH), batch_size=None)
        self.model, self.optimizer, self.loader = self.accelerator.prepare(model, optimizer_of(model), loader)
        self.manager = ScheduledManager(Recipe.load(recipe)) if recipe is not None else None
        if self.manager is not None:
            returned = modify(self.accelerator, self.manager, self.model, self.optimizer, self.loader)
            assert returned is self.optimizer

    def run(self, first=0, last=EPOCHS * LENGTH):
        for number in range(first, last):
            x, y = data(LENGTH)[number % LENGTH]
            with self.accelerator.accumulate(self.model):
                self.accelerator.backward(nn.functional.cross_entropy(self.model(x), y))
                self.optimizer.step()
                self.optimizer.zero_grad()


@pytest.mark.parametrize("accumulate", [1, 4])
def test_weights_are_those_of_a_plain_loop(accumulate):
    loop = Loop(accumulate)
    loop.run()
    assert loop.manager.run.step == EPOCHS * LENGTH // accumulate
    loop.manager.finalize()
    assert furthest(loop.accelerator.unwrap_model(loop.model), plain(accumulate, LENGTH)) == 0


@pytest.mark.parametrize(("accumulate", "stop"), [(1, 16), (1, 30), (4, 16), (4, 32)])
def test_a_run_that_is_resumed_in_a_window_ends_the_same(accumulate, stop, tmp_path):
    half = Loop(accumulate)
    half.run(0, stop)
    half.accelerator.save_state(tmp_path)
    loop = Loop(accumulate)
    loop.accelerator.load_state(tmp_path)
    loop.run(stop)
    loop.manager.finalize()
    assert furthest(loop.accelerator.unwrap_model(loop.model), plain(accumulate, LENGTH)) == 0


def test_a_checkpoint_without_a_recipe_is_refused(tmp_path):
    dense = Loop(1, recipe=None)
    dense.accelerator.save_state(tmp_path)
    with pytest.raises(CheckpointError, match="saved without paredown's modify"):
        Loop(1).accelerator.load_state(tmp_path)


def test_a_scheduler_on_the_prepared_optimizer_is_refused():
    recipe = recipe_of(EPOCHS, rate={"type": "learning_rate", "final": 0.01})
    loop = Loop(1, recipe=None)
    torch.optim.lr_scheduler.StepLR(loop.optimizer, 1)
    manager = ScheduledManager(Recipe.load(recipe))
    with pytest.raises(ScheduleError, match="LR scheduler on the same optimizer"):
        modify(loop.accelerator, manager, loop.model, loop.optimizer, loop.loader)


def test_a_loader_without_a_length_needs_a_number():
    loop = Loop(4, recipe=None)
    manager = ScheduledManager(Recipe.load(recipe_of(EPOCHS, prune=pruning(0.5))))
    with pytest.raises(ScheduleError, match="give modify the number of batches"):
        modify(loop.accelerator, manager, loop.model, loop.optimizer, iter(loop.loader))
    modify(loop.accelerator, manager, loop.model, loop.optimizer, LENGTH)
    assert manager.run.clock.steps_per_epoch == LENGTH // 4


class TwoModels:
    def __init__(self):
        self.accelerator = accelerate.Accelerator(cpu=True)
        nets = [conv_net(), conv_net(seed=1)]
        self.nets = self.accelerator.prepare(*nets)
        self.optimizers = self.accelerator.prepare(*(optimizer_of(net) for net in nets))
        recipes = FOUR_FAMILIES, recipe_of(EPOCHS, prune=pruning(0.5, targets=["body"]))
        self.managers = [ScheduledManager(Recipe.load(recipe)) for recipe in recipes]
        for manager, net, optimizer in zip(self.managers, self.nets, self.optimizers, strict=True):
            modify(self.accelerator, manager, net, optimizer, LENGTH)

    def run(self, epochs):
        for x, y in data(LENGTH) * epochs:
            for net, optimizer in zip(self.nets, self.optimizers, strict=True):
                optimizer.zero_grad()
                self.accelerator.backward(nn.functional.cross_entropy(net(x), y))
                optimizer.step()


def test_a_recipe_for_each_of_two_models_and_their_checkpoint(tmp_path):
    whole, resumed = TwoModels(), TwoModels()
    whole.run(2)
    whole.accelerator.save_state(tmp_path)
    whole.run(EPOCHS - 2)
    resumed.accelerator.load_state(tmp_path)
    resumed.run(EPOCHS - 2)
    for loop in (whole, resumed):
        for manager in loop.managers:
            manager.finalize()
    assert furthest(whole.nets[0], plain(1, LENGTH)) == 0
    for ours, theirs in zip(resumed.nets, whole.nets, strict=True):
        assert furthest(ours, theirs) == 0


def test_the_trackers_of_the_accelerator_get_every_layer(tmp_path):
    pytest.importorskip("tensorboard")
    accelerator = accelerate.Accelerator(cpu=True, log_with="tensorboard", project_dir=tmp_path)
    accelerator.init_trackers("run")
    model, optimizer, loader = accelerator.prepare(net := mlp(), torch.optim.SGD(net.parameters(), 0.1), [0] * 4)
    manager = ScheduledManager(recipe_of(1, prune=pruning(0.5, end=1)))
    modify(accelerator, manager, model, optimizer, loader)
    train(model, optimizer, batches(4), 1)
    manager.finalize()
    accelerator.end_training()
    assert any(tag.startswith("sparsity/") for tag in scalars_in(tmp_path))

"""A loop by Accelerate beside a plain loop with the two lines."""

import pytest
import torch
from sample_models import conv_net
from torch import nn
from trainers import EPOCHS, FOUR_FAMILIES, data, furthest, optimizer_of, plain

from paredown import Recipe, ScheduledManager
from paredown.framework.errors import CheckpointError

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
    assert loop.manager.training.step == EPOCHS * LENGTH // accumulate
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

"""Masks, removed channels, quantizers and a teacher in one recipe, resumed in the middle."""

import pytest
import torch
from resuming import assert_resumes, going
from sample_models import batches, conv_net, recipe_of

from paredown import Recipe, ScheduledManager

DATA = batches(4, image=True)
CHANNELS = {"type": "channel_pruning", "final_sparsity": 0.5, "round_to": 1, "every": 0.5, "end": 2, "scope": "local"}
MASKS = {"type": "magnitude_pruning", "final_sparsity": 0.6, "every": "1 steps"}
TOGETHER = {
    "masks that follow channels": {"mask": {**MASKS, "end": 1}, "shrink": {**CHANNELS, "start": 1}},
    "masks while channels go": {"mask": {**MASKS, "end": 3}, "shrink": CHANNELS},
    "scores that follow channels": {"mask": {**MASKS, "type": "movement_pruning", "end": 3}, "shrink": CHANNELS},
    "blocks of gradients that are dropped": {"mask": {**MASKS, "type": "fisher_pruning", "end": 3}, "shrink": CHANNELS},
    "rigl": {"mask": {"type": "rigl", "final_sparsity": 0.5, "every": "3 steps", "end": 3}, "shrink": CHANNELS},
    "a ticket": {
        "mask": {"type": "lottery_ticket", "final_sparsity": 0.5, "every": 1, "end": 3},
        "shrink": {**CHANNELS, "start": 1},
    },
    "quantizers and a teacher": {
        "shrink": CHANNELS,
        "mask": {**MASKS, "start": 2, "end": 3},
        "round": {"type": "quantization_aware_training", "start": 2},
        "distill": {"type": "knowledge_distillation", "weight": 0.5},
    },
}


def begun(modifiers):
    model = conv_net()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    manager = ScheduledManager(Recipe.load(recipe_of(4, **modifiers)))
    manager.modify(model, optimizer, 4, example_inputs=(DATA[0][0],))
    return model, optimizer, manager


go = going(DATA)


@pytest.mark.parametrize("name", TOGETHER)
def test_one_recipe_and_resumed_it_is_the_same(name, tmp_path):
    model = assert_resumes(lambda: begun(TOGETHER[name]), go, 16, (3, 6, 9), tmp_path)
    assert model.stem.weight.shape[0] + model.body.weight.shape[0] == 12
    zeros = sum(int((m.weight == 0).sum()) for m in (model.stem, model.body, model.head))
    total = sum(m.weight.numel() for m in (model.stem, model.body, model.head))
    assert zeros / total > 0.3

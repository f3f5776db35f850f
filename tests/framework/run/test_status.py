"""print(manager) says how far the run has come."""

import torch
from sample_models import batches, mlp, pruning, recipe_of, train

from paredown import ScheduledManager


def test_the_state_of_a_run_in_words():
    manager = ScheduledManager(
        recipe_of(2, prune=pruning(0.5, end=1), quantize={"type": "quantization_aware_training"})
    )
    assert str(manager).splitlines()[0].endswith(": new")
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    manager.modify(model, optimizer, 10)
    told = []
    train(model, optimizer, batches(10), 2, lambda: told.append(str(manager)))
    assert "running, step 15 of 20, epoch 1.5" in told[14]
    assert "prune (magnitude_pruning): ended, steps 10 to 10, sparsity 0.5" in told[14]
    assert "quantize (quantization_aware_training): open, steps 0 to 20" in told[14]
    manager.finalize()
    assert "finished" in str(manager)

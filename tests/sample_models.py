"""Small models, data, recipes and loops that tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]


def mlp(width: int = 32, inputs: int = 16, outputs: int = 4, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)
    )


class ConvNet(nn.Module):
    """A stem with batch-norm, a second convolution, a linear head; takes (batch, 1, height, width)."""

    def __init__(self, channels: int = 8, classes: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.body = nn.Conv2d(channels, 2 * channels, 3, padding=1)
        self.head = nn.Linear(2 * channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        return self.head(torch.relu(self.body(x)).mean((2, 3)))


def conv_net(seed: int = 0, channels: int = 8) -> ConvNet:
    torch.manual_seed(seed)
    return ConvNet(channels)


def batches(count: int = 10, size: int = 8, inputs: int = 16, image: bool = False, seed: int = 1) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    shape = (size, 1, 8, 8) if image else (size, inputs)
    return [
        (torch.randn(*shape, generator=generator), torch.randint(0, 4, (size,), generator=generator))
        for _ in range(count)
    ]


def recipe_of(epochs: float = 4, **modifiers: dict[str, Any]) -> dict[str, Any]:
    return {"recipe": 1, "name": "test", "run": {"epochs": epochs}, "modifiers": modifiers}


def pruning(final: float = 0.9, start: Any = 1, end: Any = 3, **more: Any) -> dict[str, Any]:
    return {
        "type": "magnitude_pruning",
        "targets": ["Linear", "Conv2d"],
        "start": start,
        "end": end,
        "every": 0.2,
        "final_sparsity": final,
        **more,
    }


def weights(model: nn.Module) -> list[Tensor]:
    return [m.weight.detach() for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]


def zeros(model: nn.Module) -> int:
    return sum(int((weight == 0).sum()) for weight in weights(model))


def size(model: nn.Module) -> int:
    return sum(weight.numel() for weight in weights(model))


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Iterable[Batch],
    epochs: int = 1,
    after: Callable[[], None] | None = None,
) -> None:
    """Somebody else's loop."""
    for _ in range(epochs):
        for x, y in data:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            if after is not None:
                after()

"""Small models, data, recipes and loops that tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from paredown import Modifier, Training
from paredown.framework.modifier.run import Run

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


class TokenNet(nn.Module):
    """A convolution over patches, layers of attention and linear layers, a head; takes (batch, 1, height, width)."""

    def __init__(self, width: int = 16, heads: int = 4, depth: int = 4, classes: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 2, 2)
        self.layers = nn.ModuleList([TokenLayer(width, heads) for _ in range(depth)])
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


class TokenLayer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(self.norm(x)).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        x = x + self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(x)


def token_net(seed: int = 0) -> TokenNet:
    torch.manual_seed(seed)
    return TokenNet()


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


def training_of(
    modifier: Modifier, model: nn.Module, data: Any = None, example_inputs: Any = None, forward: Any = None
) -> Training:
    """A run of one modifier that trains nothing, as that modifier sees it."""
    run = Run(model)
    run.take(data, None, example_inputs, forward)
    return modifier.bind(run)

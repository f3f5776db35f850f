"""Which results are quantized so that an engine computes in integers."""

import torch
import torch.nn.functional as F
from sample_models import mlp
from torch import nn

from paredown.framework.model.graph.results import Result, open_results
from paredown.framework.model.graph.trace import export_graph

LAYERS = (nn.Linear, nn.modules.conv._ConvNd)


def found(model, x, **options):
    layers = [name for name, module in model.named_modules() if isinstance(module, LAYERS)]
    return open_results(export_graph(model.eval(), (x,)), layers, **options)


class Block(nn.Module):
    """As torchvision has it: one rectifier that is called twice."""

    def __init__(self, channels, down=False):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.down = nn.Conv2d(channels, channels, 1) if down else None

    def forward(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x if self.down is None else self.down(x)
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2))
        self.blocks, self.head = nn.Sequential(Block(6), Block(6, down=True)), nn.Linear(6, 5)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def test_residual_sums_are_rounded_where_their_block_returns_them():
    """The first block's result is read by convolutions alone, which quantize their inputs."""
    assert found(ResNet(), torch.randn(2, 3, 12, 12)) == [
        Result("stem.2"),
        Result("blocks.0.bn2"),
        Result("blocks.1.bn2"),
        Result("blocks.1.down"),
        Result("blocks.1"),
    ]


class Inline(nn.Module):
    """Functions in one forward: calls 0 and 1 are rectifiers, 2 is the sum, 3 the rectifier behind it."""

    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b = (nn.Conv2d(c, 4, 3, padding=1) for c in (3, 4, 4))
        self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        return self.head(F.relu(x + self.b(F.relu(self.a(x)))).mean((2, 3)))


def test_functions_are_rounded_behind_their_rectifiers():
    assert found(Inline(), torch.randn(2, 3, 8, 8)) == [Result("", 0), Result("b"), Result("", 3)]


def test_an_engine_that_rounds_no_sums_leaves_them():
    assert found(Inline(), torch.randn(2, 3, 8, 8), rounded=("convolution",)) == [Result("", 0), Result("b")]
    assert found(Inline(), torch.randn(2, 3, 8, 8), rounded=()) == []


def test_what_is_pooled_is_rounded_before_and_what_is_returned_is_not():
    model = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 2, 1), nn.Flatten()),
    )
    assert found(model, torch.randn(2, 3, 16, 16)) == [Result("4")]
    everything = ("convolution", "sum", "concatenation", "returned")
    assert found(model, torch.randn(2, 3, 16, 16), rounded=everything) == [Result("4"), Result("6")]


class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        return self.c(torch.cat([self.a(x), self.b(x)], 1)).mean((2, 3))


def test_concatenations_take_part():
    assert found(Dense(), torch.randn(2, 3, 4, 4)) == [Result("a"), Result("b"), Result("c")]


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm = mlp(), nn.LayerNorm(4)

    def forward(self, x):
        return self.norm(x[:, :4] + self.a(x))


def test_sums_of_products_stay_whole():
    """Nothing but a convolution needs its result in 8 bits to be computed in integers."""
    assert found(Transformer(), torch.randn(2, 16)) == []

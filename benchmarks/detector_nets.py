"""Small networks in the style of detectors, whose blocks split, join and pool what they keep sizes of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["DETECTORS"]


class Conv(nn.Module):
    """A convolution, a batch-norm and an activation."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn, self.act = nn.BatchNorm2d(outputs), nn.SiLU()

    def forward(self, x: Tensor) -> Any:
        return self.act(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    """Two convolutions, added to what comes in where that is wanted."""

    def __init__(self, width: int, shortcut: bool) -> None:
        super().__init__()
        self.cv1, self.cv2, self.add = Conv(width, width, 3), Conv(width, width, 3), shortcut

    def forward(self, x: Tensor) -> Any:
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


class C2f(nn.Module):
    """Halves of a convolution, one through bottlenecks, all joined; split by a size that is kept, or chunked."""

    def __init__(self, inputs: int, outputs: int, count: int = 2, shortcut: bool = True, chunked: bool = False) -> None:
        super().__init__()
        self.c, self.chunked = outputs // 2, chunked
        self.cv1, self.cv2 = Conv(inputs, 2 * self.c), Conv((2 + count) * self.c, outputs)
        self.m = nn.ModuleList(Bottleneck(self.c, shortcut) for _ in range(count))

    def forward(self, x: Tensor) -> Any:
        y = self.cv1(x)
        parts = list(y.chunk(2, 1) if self.chunked else y.split((self.c, self.c), 1))
        parts.extend(m(parts[-1]) for m in self.m)
        return self.cv2(torch.cat(parts, 1))


class C3(nn.Module):
    """Two ways side by side."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.cv1, self.cv2, self.cv3 = Conv(inputs, half), Conv(inputs, half), Conv(2 * half, outputs)
        self.m = Bottleneck(half, True)

    def forward(self, x: Tensor) -> Any:
        return self.cv3(torch.cat([self.m(self.cv1(x)), self.cv2(x)], 1))


class Pooled(nn.Module):
    """Pooling of several sizes (SPPF)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = Conv(inputs, inputs // 2), Conv(inputs * 2, outputs)

    def forward(self, x: Tensor) -> Any:
        parts = [self.cv1(x)]
        for _ in range(3):
            parts.append(functional.max_pool2d(parts[-1], 5, 1, 2))
        return self.cv2(torch.cat(parts, 1))


class Aggregated(nn.Module):
    """Layers one after the other, some of which are joined (ELAN)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.a, self.b = Conv(inputs, half), Conv(inputs, half)
        self.m = nn.ModuleList(Conv(half, half, 3) for _ in range(4))
        self.out = Conv(4 * half, outputs)

    def forward(self, x: Tensor) -> Any:
        parts = [self.a(x), self.b(x)]
        for m in self.m:
            parts.append(m(parts[-1]))
        return self.out(torch.cat([parts[0], parts[1], parts[3], parts[5]], 1))


class Attended(nn.Module):
    """A half of the channels through attention over positions, with widths of heads that are kept (C2PSA)."""

    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.c, self.heads = width // 2, heads
        self.width = self.c // heads
        self.cv1, self.cv2 = Conv(width, width), Conv(width, width)
        self.qkv, self.proj = nn.Conv2d(self.c, 3 * self.c, 1), nn.Conv2d(self.c, self.c, 1)

    def forward(self, x: Tensor) -> Any:
        a, b = self.cv1(x).split((self.c, self.c), 1)
        n, _, h, w = b.shape
        q, k, v = self.qkv(b).view(n, 3, self.heads, self.width, h * w).unbind(1)
        scores = (q.transpose(-2, -1) @ k * self.width**-0.5).softmax(-1)
        y = (v @ scores.transpose(-2, -1)).reshape(n, -1, h, w)
        return self.cv2(torch.cat([a, b + self.proj(y)], 1))


class Detector(nn.Module):
    """A backbone of three scales, a neck that goes up and down, heads for boxes and classes."""

    def __init__(self, block: Callable[[int, int], nn.Module], widths: Sequence[int] = (16, 32, 48)) -> None:
        super().__init__()
        a, b, c = widths
        self.stem = nn.Sequential(Conv(3, a, 3, 2), block(a, a))
        self.two, self.three = (
            nn.Sequential(Conv(a, b, 3, 2), block(b, b)),
            nn.Sequential(Conv(b, c, 3, 2), block(c, c)),
        )
        self.pool, self.up, self.down = Pooled(c, c), block(b + c, b), block(b + c, c)
        self.stride = Conv(b, b, 3, 2)
        self.heads = nn.ModuleList(nn.Sequential(Conv(width, 16, 3), nn.Conv2d(16, 9, 1)) for width in (b, c))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        two = self.two(self.stem(x))
        three = self.pool(self.three(two))
        two = self.up(torch.cat([functional.interpolate(three, scale_factor=2.0), two], 1))
        three = self.down(torch.cat([self.stride(two), three], 1))
        return tuple(head(each).flatten(2) for head, each in zip(self.heads, (two, three), strict=True))


def _built(block: Callable[[int, int], nn.Module]) -> Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]:
    def build() -> tuple[nn.Module, tuple[Tensor, ...]]:
        torch.manual_seed(0)
        return Detector(block).eval(), (torch.randn(2, 3, 32, 32),)

    return build


#: by name, what builds the network and its example inputs
DETECTORS = {
    "yolo_c2f": _built(C2f),
    "yolo_c2f_plain": _built(lambda i, o: C2f(i, o, 1, shortcut=False)),
    "yolo_chunked": _built(lambda i, o: C2f(i, o, chunked=True)),
    "yolo_c3": _built(C3),
    "yolo_elan": _built(Aggregated),
    "yolo_attention": _built(lambda i, o: nn.Sequential(Conv(i, o), Attended(o))),
    "yolo_depthwise": _built(lambda i, o: nn.Sequential(Conv(i, i, 3, groups=i), C2f(i, o))),
    "yolo_mixed": _built(lambda i, o: nn.Sequential(C3(i, o), C2f(o, o, 1), Attended(o))),
}

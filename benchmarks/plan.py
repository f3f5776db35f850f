"""What a plan foresees of a file, beside the file: ten recipes that ship, on a ResNet and real digits.

    python benchmarks/plan.py                      trains each for three epochs, about fifteen minutes
    python benchmarks/plan.py --engine openvino    in another engine
    python benchmarks/plan.py --quick              one recipe on a small network, to see that it runs

A dense network is trained once. For each recipe the plan is made of it, as a user would before the run; then the recipe
is run (trained, or applied where it says so), and exported. A row: bytes and CPU time of the file over those of the
dense network's file, as foreseen and as they came out. Times are of one thread, in turns; the ratios are compared.

Exits with 1 where bytes are off by more than 5%, or the time by more than 15%.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from harness import Table, command_line, one_quiet_thread, verdict
from torch import nn

from paredown import Recipe, ScheduledManager
from paredown.integrations.tasks.mnist import Digits, ResNet, digits

BYTES, TIME = 0.05, 0.15
#: recipes that ship; how they are trained for fewer epochs, or None where nothing is trained
RECIPES: dict[str, list[str] | None] = {
    "static-int8": None,
    "int8": [],
    "channels50": [],
    "mnist/prune-quantize-distill": [
        "modifiers.prune.start=0",
        "modifiers.prune.end=1",
        "modifiers.quantize.freeze_observers=2",
        "modifiers.quantize.freeze_batch_norm=2",
    ],
    "svd-budget": None,
    "svd-steps": [],
    "dynamic-int8": None,
    "lsq-int4": [],
    "prune90": [],
    "decompose-distill": [],
}
QUICK = ("static-int8",)
WIDTHS, BATCH = (32, 64, 128), 16


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and print the table; the exit status."""
    parser = command_line(__doc__, quick="little, and no promises")
    parser.add_argument("--engine", default="onnxruntime")
    options = parser.parse_args(arguments)
    one_quiet_thread()
    torch.manual_seed(0)
    training, test = digits()
    epochs = 1 if options.quick else 3
    dense = ResNet((8, 16) if options.quick else WIDTHS)
    _train(dense, training, epochs)
    pairs = ((title, ">12.3f") for title in ("bytes: plan", "file", "time: plan", "file"))
    table = Table(("recipe", "<30"), *pairs)
    short: list[str] = []
    for name in QUICK if options.quick else RECIPES:
        short += _compared(table, name, dense, training, test.images[:BATCH], epochs, options.engine)
    return 0 if options.quick else verdict(short)


def _compared(
    table: Table, name: str, dense: nn.Module, training: Digits, x: torch.Tensor, epochs: int, engine: str
) -> Iterator[str]:
    """The row of a recipe; what it falls short of."""
    times = RECIPES[name]
    trained = times is not None
    overrides = [f"run.engine={engine}", *([f"run.epochs={epochs}", *times] if times is not None else [])]
    manager, model = ScheduledManager(Recipe.load(name, overrides)), copy.deepcopy(dense)
    steps = len(training) if trained else None
    plan = manager.plan(model, steps_per_epoch=steps, example_inputs=(x,), data=training)
    if plan.file is None:
        yield f"{name}: {'; '.join(plan.remarks)}"
        return
    if trained:
        _train(model, training, epochs, manager, x)
    else:
        manager.apply(model, data=training, example_inputs=(x,))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        made = manager.export(path, data=training, reference=dense, allow_slower=True)
    assert plan.file.latency is not None
    assert made.reference_bytes is not None
    assert made.speedup is not None
    sizes = plan.file.bytes[1] / plan.file.bytes[0], made.bytes / made.reference_bytes
    ratios = plan.file.latency[1] / plan.file.latency[0], 1 / made.speedup
    table.row(name, *sizes, *ratios)
    for what, (foreseen, found), most in (("bytes", sizes, BYTES), ("time", ratios, TIME)):
        if abs(foreseen / found - 1) > most:
            yield f"{name}: {what} {foreseen:.3f} were foreseen, {found:.3f} came out"


def _train(
    model: nn.Module,
    training: Digits,
    epochs: int,
    manager: ScheduledManager | None = None,
    x: torch.Tensor | None = None,
) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.02, 0.9, nesterov=True)
    if manager is not None:
        manager.modify(model, optimizer, steps_per_epoch=len(training), example_inputs=(x,), data=training)
    model.train()
    for _ in range(epochs):
        for images, labels in training:
            loss = nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            (loss if manager is None else manager.loss(loss)).backward()
            optimizer.step()
    if manager is not None:
        manager.finalize()
    model.eval()


if __name__ == "__main__":
    sys.exit(main())

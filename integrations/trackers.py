"""A run in TensorBoard, MLflow or Weights & Biases: listeners of the manager's event log, one line each.

    manager.events.listeners.append(TensorBoard(manager, "runs/prune90"))

Numbers that modifiers record (sparsity, bits) are curves over optimizer steps; what happens once (a window that opens,
ranges that freeze) is a mark; at each event come the losses by term, and the sparsity of every layer (the share of
zeros among all its parameters, biases too).
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from paredown.framework.errors import ParedownError
from paredown.framework.measure.counts import measure_model
from paredown.framework.run.manager import ScheduledManager

__all__ = ["JsonLines", "MLflow", "TensorBoard", "Tracker", "WeightsAndBiases", "numbers_of"]

#: of an event, the entries about when and whose it is
PLACE = ("step", "epoch", "modifier", "event")


def numbers_of(manager: ScheduledManager) -> dict[str, float]:
    """What a trainer's own logger gets: the whole model's sparsity and bits a parameter, the losses by term, and the
    newest number of every kind that a modifier recorded; counting reads each weight once."""
    if manager.run is None:
        return {}
    layers = measure_model(manager.run.model).layers
    total = max(sum(layer.parameters for layer in layers), 1)
    found = {
        "paredown/sparsity": 1 - sum(layer.nonzeros for layer in layers) / total,
        "paredown/bits": sum(layer.bits for layer in layers) / total,
    }
    found |= {f"paredown/loss/{name}": value for name, value in manager.last_losses.items()}
    for event in manager.events:
        found |= {f"paredown/{name}": value for name, value in _told(event)}
    return found


class Tracker(ABC):
    """Base: turns events into numbers and marks.

    Args:
        manager: whose events are logged; its layers and losses are logged too.
    """

    def __init__(self, manager: ScheduledManager) -> None:
        self.manager = manager

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Log an event."""
        step = int(event["step"])
        self.numbers({**dict(_told(event)), **dict(self._layers(event)), **self._losses()}, step)
        if event["event"] != "update":
            self.mark(f"{event['modifier']}: {event['event']}", dict(event), step)

    @abstractmethod
    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers by name at an optimizer step."""

    @abstractmethod
    def mark(self, title: str, event: Mapping[str, Any], step: int) -> None:
        """Log something that happened once."""

    def _losses(self) -> dict[str, float]:
        return {f"loss/{name}": value for name, value in self.manager.last_losses.items()}

    def _layers(self, event: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
        """Sparsity and bits a parameter of every layer; counting them reads each weight once."""
        if event["event"] not in ("update", "end", "finalize") or self.manager.run is None:
            return
        for layer in measure_model(self.manager.run.model).layers:
            if layer.parameters:
                yield f"sparsity/{layer.name}", layer.sparsity
                yield f"bits/{layer.name}", layer.bits / layer.parameters


class TensorBoard(Tracker):
    """Writes event files that ``tensorboard --logdir`` shows.

    Args:
        folder: where they go. The package tensorboard is needed.
    """

    def __init__(self, manager: ScheduledManager, folder: str | Path) -> None:
        super().__init__(manager)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ParedownError("TensorBoard is not installed: pip install tensorboard") from None
        self.writer: Any = SummaryWriter(str(folder))

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def mark(self, title: str, event: Mapping[str, Any], step: int) -> None:
        self.writer.add_text("events", title, step)


class MLflow(Tracker):
    """Logs into the active run of MLflow; one is started where there is none."""

    def __init__(self, manager: ScheduledManager) -> None:
        super().__init__(manager)
        try:
            import mlflow
        except ImportError:
            raise ParedownError("MLflow is not installed: pip install mlflow") from None
        self.mlflow: Any = mlflow
        if mlflow.active_run() is None:
            mlflow.start_run()

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        self.mlflow.log_metrics(dict(values), step=step)

    def mark(self, title: str, event: Mapping[str, Any], step: int) -> None:
        self.mlflow.set_tag(f"step {step}: {title}", "; ".join(f"{key}={event[key]}" for key in event))


class WeightsAndBiases(Tracker):
    """Logs into a run of Weights & Biases.

    Args:
        run: what ``wandb.init(...)`` gave, ``mode="offline"`` included.
    """

    def __init__(self, manager: ScheduledManager, run: Any) -> None:
        super().__init__(manager)
        self.run = run

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        self.run.log({**values, "optimizer step": step})

    def mark(self, title: str, event: Mapping[str, Any], step: int) -> None:
        self.run.log({"event": title, "optimizer step": step})


def _told(event: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in event.items():
        if name not in PLACE and isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{event['modifier']}/{name}", float(value)


class JsonLines:
    """A listener that appends each event to a file, a JSON object a line."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __call__(self, event: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")

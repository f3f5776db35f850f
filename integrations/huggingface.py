"""A recipe in the Hugging Face Trainer: `Trainer(..., callbacks=[ParedownCallback("recipe.yaml")])`."""

from __future__ import annotations

import importlib
import math
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from paredown.framework.errors import CheckpointError, ParedownError, ScheduleError
from paredown.framework.measure.size import stored_codes
from paredown.framework.model.targets import unwrap
from paredown.framework.run.checks import optimizers_in
from paredown.framework.run.manager import ScheduledManager
from paredown.framework.run.saved_runs import STATE_FILE
from paredown.framework.storage.files import load_plain
from paredown.integrations.trackers import MLflow, TensorBoard, Tracker, WeightsAndBiases, numbers_of
from paredown.integrations.trainers.recipe_callback import RecipeCallback

try:
    from transformers import TrainerCallback
except ImportError:
    raise ParedownError("transformers is not installed: pip install 'paredown[huggingface]'") from None

__all__ = ["STATE_FILE", "ParedownCallback", "RecipeArguments"]


SIMULATED = (
    "the model computes with quantizers, and save_pretrained and Trainer.save_model write float weights and scales, of "
    "which from_pretrained makes a float model. What was trained is made by paredown.load(folder, model) of a folder "
    "with the weights and the paredown.pt that lies in {folder}; paredown.integrations.compressed_tensors.export "
    "writes a folder that from_pretrained reads, paredown.export a file for an engine"
)


def _folder_of_logs(args: Any) -> str:
    return os.environ.get("TENSORBOARD_LOGGING_DIR") or getattr(args, "logging_dir", None) or str(args.output_dir)


def _wandb(manager: ScheduledManager, args: Any) -> Tracker | None:
    run = importlib.import_module("wandb").run
    return None if run is None else WeightsAndBiases(manager, run)


#: listeners by the names in ``TrainingArguments.report_to``
TRACKERS: Mapping[str, Callable[[ScheduledManager, Any], Tracker | None]] = {
    "mlflow": lambda manager, args: MLflow(manager),
    "tensorboard": lambda manager, args: TensorBoard(manager, _folder_of_logs(args)),
    "wandb": _wandb,
}


class ParedownCallback(RecipeCallback, TrainerCallback):
    """Runs a recipe inside of ``Trainer.train``, and keeps its state beside the Trainer's checkpoints.

    An epoch is as many optimizer steps as the Trainer makes in one. ``load_best_model_at_end`` never picks a checkpoint
    from before the recipe's targets were reached. Sparsity, bits and losses are among what the Trainer logs, and every
    layer's go to TensorBoard, MLflow and Weights & Biases where ``report_to`` names them. Where the recipe schedules
    the learning rate, the Trainer's own schedule (``lr_scheduler_type``, warm-up) has no effect; a scheduler in
    ``optimizers=`` is refused then. At the end the state of the recipe is written into ``output_dir`` too, so that
    `paredown.load` reads the folder that ``save_model()`` writes there.

    Args:
        recipe: whatever `Recipe.load` reads.
        resume_from_checkpoint: the folder that ``train(resume_from_checkpoint=...)`` gets; needed where the
            checkpoint's model has another structure (decomposition, channel pruning) or quantizers, and where the
            folder lies elsewhere than in ``output_dir``. By default what the training arguments say.
        common: ``overrides``, ``variables``, ``save_teacher``, ``strict``, ``data``, ``teacher``, ``example_inputs``
            and ``forward`` of `RecipeCallback`.

    Raises:
        ScheduleError: (from ``train``) the recipe is longer than the training.
        CheckpointError: (from ``train``) the checkpoint has no state of a recipe.
    """

    def __init__(self, recipe: Any, *, resume_from_checkpoint: str | Path | None = None, **common: Any) -> None:
        super().__init__(recipe, **common)
        self.resume_from_checkpoint = resume_from_checkpoint
        self._loaded_from: Path | None = None
        self._schedules = self.manager.recipe.claims("schedule of lr")
        self._rates: list[Any] = []
        self._running = False
        self._batches: int | None = None
        self._substeps = 0
        self._trackers: list[Tracker] = []

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The model as it was handed over: keep it as a teacher, make the changes of structure that are due."""
        wanted = self.resume_from_checkpoint or getattr(args, "resume_from_checkpoint", None)
        if isinstance(wanted, (str, Path)) and str(wanted).lower() not in ("true", "false"):
            self._load(Path(wanted))
        self.manager.prepare(kwargs["model"], **self._given, optimizer=kwargs.get("optimizer"))

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Hook the recipe into the optimizer."""
        if self._running:  # a training that an exception ended
            self.manager.release()
            self._loaded_from = None
        accumulate = args.gradient_accumulation_steps
        steps = self._steps_per_epoch(kwargs.get("train_dataloader"), accumulate, state.max_steps)
        if state.global_step:
            self._load(self._loaded_from or Path(args.output_dir) / f"checkpoint-{state.global_step}")
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        if self._schedules and not state.global_step:
            for group in optimizer.param_groups:  # without the Trainer's warm-up
                group["lr"] = group.get("initial_lr", group["lr"])
        if self.manager.run is not None and self.manager.run.model is not unwrap(model):
            self.manager.release()  # the Trainer built another one (model_init)
        self._batches, self._substeps = _batches(kwargs.get("train_dataloader")), 0
        scaler = getattr(optimizer, "scaler", None)
        own = optimizers_in(optimizer)  # without Accelerate's wrapper, on which the Trainer's scheduler hangs
        self.begin(model, own, steps, state.max_steps, accumulate=accumulate, grad_scaler=scaler, **self._given)
        self._running = True
        if state.is_world_process_zero:
            self._track(args)
        self._forget_early_best(state)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The last step of an epoch may have fewer batches, by whose number the Trainer divides its loss then."""
        run, accumulate = self.manager.run, args.gradient_accumulation_steps
        if run is None or self._batches is None:
            return
        steps = math.ceil(self._batches / accumulate)
        last = state.global_step % steps == steps - 1
        run.losses.accumulate(self._batches - accumulate * (steps - 1) if last else accumulate)

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count the batches of a step; the last one does not come here."""
        self._substeps += 1

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Refuse a step of other batches than its losses were divided by: a stream ended in the middle of one."""
        batches, self._substeps = self._substeps + 1, 0
        run = self.manager.run
        if run is not None and run.losses.link is not None and batches != run.losses.scaling.accumulate:
            raise ScheduleError(
                f"an optimizer step accumulates the gradients of {batches} batches, and the auxiliary losses were "
                f"divided by {run.losses.scaling.accumulate}: the data has no length and ended in the middle of a "
                "step; give it one that gradient_accumulation_steps divides"
            )

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the state beside the Trainer's own."""
        if state.is_world_process_zero:
            self._write(Path(args.output_dir) / f"checkpoint-{state.global_step}")
        self._forget_early_best(state)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Add what the recipe does to what the Trainer logs while it trains."""
        if not self._running or logs is None or "loss" not in logs:
            return
        numbers = numbers_of(self.manager)
        logs.update(numbers)
        if state.log_history:
            state.log_history[-1].update(numbers)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The Trainer's scheduler comes next: keep what the recipe has set."""
        self._rates = [group["lr"] for group in kwargs["optimizer"].param_groups]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A best model from before the targets were reached does not count: a dense model is always better."""
        self._forget_early_best(state)
        if self._schedules:
            for group, rate in zip(kwargs["optimizer"].param_groups, self._rates, strict=True):
                group["lr"] = rate
            kwargs["lr_scheduler"]._last_lr = self._rates  # which the Trainer logs

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Audit, and make it permanent."""
        self.report = self.manager.finalize()
        self._running = False
        self._untrack()
        if state.is_world_process_zero:
            self._write(Path(args.output_dir))
        model = unwrap(kwargs["model"])
        if hasattr(model, "save_pretrained") and any(stored_codes(module) for module in model.modules()):
            warnings.warn(SIMULATED.format(folder=args.output_dir), stacklevel=2)

    def _forget_early_best(self, state: Any) -> None:
        if not self.manager.done:
            state.best_metric = state.best_model_checkpoint = state.best_global_step = None

    def _write(self, folder: Path) -> None:
        """Write the state beside the weights, from which `paredown.load` makes the compressed model."""
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(self.manager.state_dict(self.save_teacher), folder / STATE_FILE)

    def _track(self, args: Any) -> None:
        """Follow the trackers that the Trainer reports to, with every layer; they are set up before this callback."""
        self._untrack()
        for name in args.report_to if self.manager.run is not None else ():
            tracker = TRACKERS[name](self.manager, args) if name in TRACKERS else None
            if tracker is not None:
                self._trackers.append(tracker)
                self.manager.events.listeners.append(tracker)

    def _untrack(self) -> None:
        for tracker in self._trackers:
            self.manager.events.listeners.remove(tracker)
        self._trackers.clear()

    def _load(self, folder: Path) -> None:
        file = folder / STATE_FILE
        if folder == self._loaded_from:
            return
        if not file.is_file():
            raise CheckpointError(
                f"{file} does not exist: the checkpoint was written without this callback, or lies elsewhere "
                "(ParedownCallback(..., resume_from_checkpoint=folder))"
            )
        self.manager.load_state_dict(load_plain(file))
        self._loaded_from = folder

    def _steps_per_epoch(self, loader: Any, accumulate: int, total: int) -> int:
        try:
            return max(math.ceil(len(loader) / accumulate), 1)
        except TypeError:  # a stream: the recipe's epochs share the steps
            return math.ceil(total / (self.manager.recipe.run_epochs or 1))


def _batches(loader: Any) -> int | None:
    """How many batches an epoch has; None for a stream."""
    try:
        return max(len(loader), 1)
    except TypeError:
        return None


@dataclass
class RecipeArguments:
    """For ``HfArgumentParser``: ``--recipe`` and ``--recipe_overrides`` in scripts such as ``run_glue.py``."""

    recipe: str | None = field(default=None, metadata={"help": "A recipe: a file, a card, or a name."})
    recipe_overrides: list[str] = field(default_factory=list, metadata={"help": "Such as run.epochs=3."})

    def callbacks(self, **given: Any) -> list[ParedownCallback]:
        """What ``Trainer(callbacks=...)`` gets: nothing without ``--recipe``. ``given`` goes to the callback."""
        return [ParedownCallback(self.recipe, overrides=self.recipe_overrides, **given)] if self.recipe else []

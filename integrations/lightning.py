"""A recipe in Lightning's Trainer: `Trainer(callbacks=[ParedownCallback("recipe.yaml")])`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from typing import Any

from torch import nn

from paredown.framework.errors import CheckpointError, ParedownError
from paredown.framework.run.restoring import Rebuilt, rebuild_model
from paredown.framework.run.saved_runs import MODULE
from paredown.integrations.trackers import numbers_of
from paredown.integrations.trainers.best_checkpoints import EarlyCheckpoints
from paredown.integrations.trainers.lightning_steps import accumulation_of, optimizers_of, steps_of
from paredown.integrations.trainers.recipe_callback import RecipeCallback

__all__ = ["ParedownCallback"]

LIBRARIES = ("lightning.pytorch", "pytorch_lightning")


def _callback_classes() -> tuple[type, ...]:
    """The Callback of Lightning, or of pytorch-lightning, whichever the user has imported; else what is installed."""
    imported = [name for name in LIBRARIES if name in sys.modules]
    for name in imported or LIBRARIES:
        try:
            importlib.import_module(name)
        except ImportError:
            continue
        imported = imported or [name]
    if not imported:
        raise ParedownError("Lightning is not installed: pip install 'paredown[lightning]'")
    return tuple(sys.modules[name].Callback for name in imported)


class ParedownCallback(RecipeCallback, *_callback_classes()):  # type: ignore[misc]
    """Runs a recipe inside of ``Trainer.fit``, and puts its state into Lightning's checkpoints.

    An epoch is as many optimizer steps as the trainer makes in one: batches divided by ``accumulate_grad_batches``,
    rounded up; a GradientAccumulationScheduler has to keep to one number in all epochs. With manual optimization the
    clock is the first optimizer that trains the model, and all optimizers are taken to step equally often.

    Args:
        recipe: whatever `Recipe.load` reads.
        module: which part of the LightningModule is compressed, by its name in it; by default all of it. Distillation
            needs the part whose ``forward`` the training step calls.
        accumulate: for manual optimization: over how many batches the training step accumulates gradients [1].
        common: ``overrides``, ``variables``, ``save_teacher``, ``strict``, ``data``, ``teacher``, ``example_inputs``
            and ``forward`` of `RecipeCallback`.

    Raises:
        ScheduleError: (from ``fit``) the recipe is longer than the training.
        CheckpointError: (from ``fit``) the checkpoint has no state of a recipe.
    """

    def __init__(self, recipe: Any, *, module: str = "", accumulate: int | None = None, **common: Any) -> None:
        super().__init__(recipe, **common)
        self.module, self.accumulate = module, accumulate
        self._rebuilt: Rebuilt | None = None
        self._restored = self._began = False
        self._early = EarlyCheckpoints()

    @property
    def state_key(self) -> str:
        """One for each part of a model, so that several recipes go into one checkpoint."""
        return str(self._generate_state_key(module=self.module))

    def setup(self, trainer: Any, pl_module: nn.Module, stage: str) -> None:
        """Before the optimizer is built and weights are loaded: the structure that is due at 0."""
        model = pl_module.get_submodule(self.module)
        if stage == "fit":
            self.report = None
            self.manager.prepare(model, **self._given)
            self._began = True
        own_hook: Any = pl_module.on_load_checkpoint

        def on_load_checkpoint(checkpoint: Any) -> None:  # comes before the weights are loaded; a callback's own after
            state = checkpoint.get("callbacks", {}).get(self.state_key)
            if self._began and stage != "fit":
                _check_structure(pl_module, checkpoint)
            elif state:
                self._rebuild(model, state, stage)
            elif stage == "fit":
                raise CheckpointError(
                    "the checkpoint was written without this callback, and holds no state of the recipe"
                )
            own_hook(checkpoint)

        pl_module.__dict__["on_load_checkpoint"] = on_load_checkpoint

    def on_fit_start(self, trainer: Any, pl_module: nn.Module) -> None:
        """Hook the recipe into the optimizers."""
        pl_module.__dict__.pop("on_load_checkpoint", None)
        automatic = bool(pl_module.automatic_optimization)
        accumulate = accumulation_of(trainer) if automatic else self.accumulate
        steps, total = steps_of(trainer, automatic, accumulate or 1, self.manager.recipe.run_epochs)
        model = pl_module.get_submodule(self.module)
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        optimizers = optimizers_of(model, trainer.optimizers)
        self.begin(model, optimizers, steps, total, accumulate=accumulate, grad_scaler=scaler)
        self._early.begin(self.manager.done)

    def on_train_batch_end(self, trainer: Any, *given: Any) -> None:
        """A checkpoint from before the targets were reached is no best one; and log what the recipe does."""
        self._early.forget_within_epoch(trainer, self._is_done)
        if trainer.loggers and trainer.global_step and trainer.global_step % trainer.log_every_n_steps == 0:
            self._log(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: nn.Module) -> None:
        """The same at the end of an epoch; Lightning's own checkpoints come after this."""
        self._early.forget(trainer, self._is_done)

    def on_validation_end(self, trainer: Any, pl_module: nn.Module) -> None:
        """The same after a validation."""
        if trainer.training and not trainer.sanity_checking:
            self._early.forget(trainer, self._is_done)

    def _is_done(self) -> bool:
        return self.manager.done

    def _log(self, trainer: Any) -> None:
        values = numbers_of(self.manager)
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step - 1)

    def on_fit_end(self, trainer: Any, pl_module: nn.Module) -> None:
        """Audit, and make it permanent."""
        if trainer.interrupted:
            self.manager.release()
        elif self.manager.run is not None:
            self.report = self.manager.finalize()
            if trainer.loggers:
                self._log(trainer)

    def on_exception(self, trainer: Any, pl_module: nn.Module, exception: BaseException) -> None:
        """Take everything off; what was prepared too, where no step was made."""
        self.abandon()

    def state_dict(self) -> dict[str, Any]:
        """What goes into Lightning's checkpoint."""
        if self.manager.run is None:
            return {}
        return {**self.manager.state_dict(self.save_teacher), MODULE: self.module}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """For strategies that load weights after the optimizer is built."""
        if state and self.manager.run is not None and self.report is None and not self._restored:
            self.manager.load_state_dict(state)

    def on_test_start(self, trainer: Any, pl_module: nn.Module) -> None:
        """The weights of a compressed model are loaded: freeze it as it is."""
        pl_module.__dict__.pop("on_load_checkpoint", None)
        if self._rebuilt is not None:
            self._rebuilt.finish()
            self._rebuilt = None

    on_validation_start = on_predict_start = on_test_start

    def _rebuild(self, model: nn.Module, state: Mapping[str, Any], stage: str) -> None:
        """Give the model the structure of a checkpoint, so that its weights fit in."""
        if stage == "fit":
            self._restored = True
            self.manager.load_state_dict(state)
        else:
            self._rebuilt = rebuild_model(self.manager.recipe, model, state)


def _check_structure(module: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Of a model whose training has begun: it cannot be given the structure of another moment."""
    mine, theirs = (
        {name: one.shape for name, one in of.items()} for of in (module.state_dict(), checkpoint["state_dict"])
    )
    if mine != theirs:
        raise CheckpointError(
            "the checkpoint's model has another structure than this one, which the recipe has changed since: test it "
            "with a new LightningModule, a new ParedownCallback and a new Trainer"
        )

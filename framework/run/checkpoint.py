"""Checkpoints: save a run, resume it, and load the compressed model for inference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from paredown.framework.distributed.shards import sharded_in
from paredown.framework.errors import CheckpointError
from paredown.framework.model.targets import unwrap
from paredown.framework.modifier.registry import missing_classes
from paredown.framework.recipe import Recipe
from paredown.framework.recipe.tree.yaml_nodes import read_yaml
from paredown.framework.run.checks import check_model, optimizers_in
from paredown.framework.run.manager import ScheduledManager
from paredown.framework.run.restoring import Rebuilt, rebuild_model
from paredown.framework.run.saved_runs import around, completed, read_saved
from paredown.framework.storage.files import load_plain, whole_file
from paredown.framework.storage.random_state import random_state, set_random_state
from paredown.framework.storage.sparse import pack_zeros, unpack_zeros

__all__ = ["check_plain", "load", "resume", "save"]

Model = TypeVar("Model", bound=nn.Module)
PLAIN = (type(None), bool, int, float, str, bytes, Tensor)


def save(
    path: str | Path,
    model: nn.Module,
    optimizer: Any,
    manager: ScheduledManager,
    *,
    teacher: bool = False,
    **extra: Any,
) -> None:
    """Write a checkpoint: model, optimizer(s), manager, the random generators, and ``extra``.

    Tensors of the model with many zeros are stored as a bit an element and the values that are not zero.

    The file appears whole or not at all (written beside, flushed to the disk, renamed), and `torch.load` reads it with
    ``weights_only=True``.

    Args:
        path: of the file.
        model, optimizer, manager: those of the run; ``optimizer`` may be a list.
        teacher: keep the initial teacher's tensors too, so that `resume` does not need the model it was made from.
        extra: tensors and plain values (numbers, text, lists, mappings), given back by `resume`.

    Raises:
        CheckpointError: ``extra`` holds something else.
    """
    check_plain(extra, "extra")
    if sharded_in(model.parameters()):
        raise CheckpointError(
            "the model's parameters are split among processes: "
            "call paredown.integrations.distributed.save in each of them"
        )
    managed = manager.state_dict(teacher=teacher)
    contents = {
        "model": pack_zeros(unwrap(model).state_dict()),
        "optimizers": [one.state_dict() for one in optimizers_in([] if optimizer is None else optimizer)],
        "manager": managed,
        "random": random_state(),
        "extra": extra,
    }
    with whole_file(Path(path)) as file:
        torch.save(contents, file)


def resume(path: str | Path, model: nn.Module, optimizer: Any, manager: ScheduledManager) -> dict[str, Any]:
    """Go on with a run from a checkpoint, after `ScheduledManager.modify` and before the first step.

    The end result is that of the run that was not interrupted (on the CPU bit for bit).

    Returns:
        What was given to `save` as ``extra``.

    Raises:
        CheckpointError: the file is missing or damaged, or does not fit the recipe, model or optimizer. The model is
            then as it was.
    """
    saved = _read(path)
    own, optimizers = unwrap(model), optimizers_in(optimizer)
    if len(optimizers) != len(saved["optimizers"]):
        raise CheckpointError(f"{path} has {len(saved['optimizers'])} optimizers, {len(optimizers)} were given")
    manager.load_state_dict(saved["manager"])
    try:
        _check_fit(own, saved["model"])
        for one, state in zip(optimizers, saved["optimizers"], strict=True):
            one.load_state_dict(state)
    except (ValueError, KeyError, CheckpointError) as error:
        manager.take_back()
        raise CheckpointError(f"{path} does not fit: {error}") from error
    own.load_state_dict(saved["model"])
    set_random_state(saved["random"])
    return dict(saved["extra"])


def load(path: str | Path, model: Model) -> Model:
    """Put a compressed model into a freshly built original, for inference: without optimizer and loop.

    Args:
        path: of a checkpoint that `save` wrote, or Lightning with a ParedownCallback; or of a folder with weights and
            ``paredown.pt``, such as ``checkpoint-500`` of the Hugging Face Trainer or a folder of Accelerate's
            ``save_state``.
        model: built as the one that was handed to ``modify`` or to the trainer, or (of Lightning's) the part of it that
            was compressed; changed in place and returned.

    Raises:
        CheckpointError: the file is missing or damaged, or does not fit the model.
    """
    saved = read_saved(Path(path))
    check_model(model)
    whole, tensors = around(unwrap(model), saved)
    rebuilt: list[Rebuilt] = []
    try:
        for place, state in saved.states.items():
            recipe = Recipe.load(read_yaml(str(state["recipe"]), str(path))[0].plain())
            rebuilt.append(rebuild_model(recipe, whole.get_submodule(place), state))
        tensors = completed(whole, tensors)
        _check_fit(whole, tensors)
    except (CheckpointError, AttributeError, KeyError) as error:
        for one in rebuilt:
            one.take_back()
        raise CheckpointError(f"{path} does not fit: {error}") from error
    whole.load_state_dict(tensors)
    for one in rebuilt:
        one.finish()
    return model


def _read(path: str | Path) -> dict[str, Any]:
    saved = load_plain(path)
    if not isinstance(saved, dict) or not {"model", "optimizers", "manager", "random", "extra"} <= set(saved):
        raise CheckpointError(f"{path} is no checkpoint that paredown.save wrote")
    manager = saved["manager"]
    missing = missing_classes(manager.get("modifiers") if isinstance(manager, Mapping) else None)
    if missing:
        raise CheckpointError(f"{path} {missing}")
    return {**saved, "model": unpack_zeros(saved["model"])}


def check_plain(value: Any, place: str) -> None:
    """Raise CheckpointError for what is neither tensor nor plain value."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            check_plain(part, f"{place}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for index, part in enumerate(value):
            check_plain(part, f"{place}[{index}]")
    elif not isinstance(value, PLAIN):
        raise CheckpointError(
            f"{place} is a {type(value).__name__}; tensors, numbers, text, lists and mappings are kept"
        )


def _check_fit(model: nn.Module, saved: Mapping[str, Any]) -> None:
    own = model.state_dict()
    differing = [name for name in {**own, **saved} if _shape(own.get(name)) != _shape(saved.get(name))]
    if differing:
        name = differing[0]
        raise CheckpointError(
            f"{name} is {_shape(saved.get(name))} there and {_shape(own.get(name))} in the model"
            + (f", and {len(differing) - 1} more differ" if len(differing) > 1 else "")
        )


def _shape(value: Any) -> str:
    if value is None:
        return "absent"
    return f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else "no tensor"

"""Reads the checkpoints that hold a compressed model: of `paredown.save`, of Lightning, and folders of weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from paredown.framework.errors import CheckpointError
from paredown.framework.modifier.registry import missing_classes
from paredown.framework.run.restoring import is_state
from paredown.framework.storage.files import load_plain, read_tensors
from paredown.framework.storage.sparse import unpack_zeros

__all__ = ["MODULE", "STATE_FILE", "SavedRun", "around", "completed", "read_saved"]

#: the state of a run in a folder of weights
STATE_FILE = "paredown.pt"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
#: of the state of a run: the part of the trained module that it belongs to, by its name
MODULE = "module"


@dataclass(frozen=True)
class SavedRun:
    """What a checkpoint holds of a compressed model.

    Attributes:
        tensors: of the whole module, by name.
        states: of the managers, by the part of the module that each compressed; "" for all of it.
    """

    tensors: Mapping[str, Any]
    states: Mapping[str, Mapping[str, Any]]


def read_saved(path: Path) -> SavedRun:
    """Read a checkpoint.

    Args:
        path: of a file of `paredown.save`, of a checkpoint that Lightning wrote with a ParedownCallback, or of a folder
            with weights and `STATE_FILE`, as the Hugging Face Trainer and Accelerate write it.

    Raises:
        CheckpointError: it is missing, damaged, or none of these.
    """
    saved = _of_folder(path) if path.is_dir() else _of_file(path)
    for state in saved.states.values():
        if missing := missing_classes(state.get("modifiers")):
            raise CheckpointError(f"{path} {missing}")
    return saved


def _of_file(path: Path) -> SavedRun:
    content = load_plain(path)
    found = content if isinstance(content, Mapping) else {}
    if isinstance(found.get("model"), Mapping) and is_state(found.get("manager")):
        return SavedRun(unpack_zeros(found["model"]), {"": found["manager"]})
    callbacks = found.get("callbacks")
    if not isinstance(found.get("state_dict"), Mapping) or not isinstance(callbacks, Mapping):
        raise CheckpointError(f"{path} is no checkpoint that paredown.save, or a trainer with a recipe, wrote")
    states = {str(state.get(MODULE, "")): state for state in callbacks.values() if is_state(state)}
    if not states:
        raise CheckpointError(f"{path} has no state of a recipe: it was written without a ParedownCallback")
    return SavedRun(found["state_dict"], states)


def _of_folder(folder: Path) -> SavedRun:
    if not (folder / STATE_FILE).is_file():
        raise CheckpointError(
            f"{folder} has no {STATE_FILE}, which a trainer's callback writes beside the weights of each checkpoint, "
            "and into the output folder at the end; copy it here"
        )
    state = load_plain(folder / STATE_FILE)
    if not is_state(state):
        raise CheckpointError(f"{folder / STATE_FILE} is no state of a recipe")
    return SavedRun(_weights(folder), {"": state})


def _weights(folder: Path) -> dict[str, Tensor]:
    for name in WEIGHTS:
        if (folder / name).is_file():
            return read_tensors(folder / name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            parts: Sequence[str] = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            return {key: value for part in parts for key, value in read_tensors(folder / part).items()}
    raise CheckpointError(f"{folder} has none of {', '.join(WEIGHTS)}")


def around(model: nn.Module, saved: SavedRun) -> tuple[nn.Module, dict[str, Any]]:
    """The module whose tensors were saved, and the tensors that belong to the model.

    It is the model itself, or, where the model is a part of what was trained, a module with it in its place.
    """
    own = set(model.state_dict())
    prefixes = {name[: -len(key)] for key in own for name in saved.tensors if f".{name}".endswith(f".{key}")}
    prefix = max(sorted(prefixes), key=lambda start: sum(f"{start}{key}" in saved.tensors for key in own), default="")
    root, place = model, model
    for part in reversed(prefix.split(".")[:-1]):
        root = nn.Module()
        root.add_module(part, place)
        place = root
    return root, {name: value for name, value in saved.tensors.items() if name.startswith(prefix)}


def completed(model: nn.Module, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors with those that a file leaves out because others of the model are the same ones (tied weights)."""
    own = model.state_dict(keep_vars=True)
    known = {id(own[name]): value for name, value in tensors.items() if name in own}
    tied = {name: known[id(tensor)] for name, tensor in own.items() if name not in tensors and id(tensor) in known}
    return {**tensors, **tied}

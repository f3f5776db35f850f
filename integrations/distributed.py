"""Checkpoints of models that are split among processes (FSDP2), through `torch.distributed.checkpoint`.

Each process writes its own parts; they load on another number of processes too. Models that every process holds whole
(DistributedDataParallel) are saved by `paredown.save`, by one process.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load as load_parts
from torch.distributed.checkpoint.state_dict_saver import save as save_parts

from paredown.framework.distributed.shards import is_sharded, own_part, whole_of_part
from paredown.framework.errors import CheckpointError
from paredown.framework.model.targets import named_parameters, unwrap
from paredown.framework.run.checkpoint import check_plain
from paredown.framework.run.checks import optimizers_in
from paredown.framework.run.manager import ScheduledManager
from paredown.framework.storage.files import load_plain, whole_file
from paredown.framework.storage.random_state import random_state, set_random_state

__all__ = ["resume", "save"]

#: what is no tensor that is split: written by the first process
PLAIN_FILE = "paredown.pt"
MARK = "part of"


def save(
    folder: str | Path,
    model: nn.Module,
    optimizer: Any,
    manager: ScheduledManager,
    *,
    teacher: bool = False,
    **extra: Any,
) -> None:
    """Write a checkpoint of a run on several processes; all of them call it.

    Args:
        folder: on a file system that all processes see; made where it is missing.
        model, optimizer, manager: those of the run; ``optimizer`` may be a list.
        teacher: keep the initial teacher's tensors too.
        extra: tensors and plain values, given back by `resume`; those of the first process count.

    Raises:
        CheckpointError: ``extra`` holds something else.
    """
    check_plain(extra, "extra")
    parts: dict[str, Tensor] = {}
    plain = {
        "manager": _without_parts(manager.state_dict(teacher), (), parts),
        "extra": extra,
        "random": _random_of_all(),
    }
    with manager.paused():
        tensors = _tensors(model, optimizer)
    _write(Path(folder), manager, plain, {**tensors, "parts": parts})


def resume(folder: str | Path, model: nn.Module, optimizer: Any, manager: ScheduledManager) -> dict[str, Any]:
    """Go on with a run, after `ScheduledManager.modify` and before the first step; all processes call it.

    The number of processes may be another one. With the same number the random generators of each are put back too.

    Returns:
        What was given to `save` as ``extra``.

    Raises:
        CheckpointError: the checkpoint is missing or unfinished, or does not fit the recipe or the model.
    """
    file = Path(folder) / PLAIN_FILE
    if not file.is_file():
        raise CheckpointError(f"{file} does not exist: there is no checkpoint, or it was not finished")
    plain = load_plain(file)
    parts = _room_for_parts(plain["manager"], named_parameters(unwrap(model)))
    place = str(Path(folder) / plain["folder"])
    if parts:
        load_parts({"parts": parts}, checkpoint_id=place)
    manager.load_state_dict(_with_parts(plain["manager"], parts))  # before the weights: they fit its structure
    with manager.paused():
        tensors = _tensors(model, optimizer)
        young = _without_momenta(tensors["optimizer"]["state"], place)
        load_parts(tensors, checkpoint_id=place)
        set_state_dict(
            unwrap(model),
            optimizers_in(optimizer),
            model_state_dict=tensors["model"],
            optim_state_dict=tensors["optimizer"],
            options=StateDictOptions(strict=False),  # of the young; what is missing else has been told by then
        )
        parameters = named_parameters(unwrap(model))
        for one in optimizers_in(optimizer):
            for name in parameters.keys() & young:
                one.state.pop(parameters[name], None)
    if len(plain["random"]) == dist.get_world_size():
        set_random_state(plain["random"][dist.get_rank()])
    return dict(plain["extra"])


def _tensors(model: nn.Module, optimizer: Any) -> dict[str, Any]:
    weights, momenta = get_state_dict(unwrap(model), optimizers_in(optimizer))
    return {"model": weights, "optimizer": momenta}


def _without_momenta(momenta: dict[str, Any], place: str) -> list[str]:
    """Take out what the checkpoint has no momenta of, as of a layer that had just been replaced: their names."""
    known = FileSystemReader(place).read_metadata().state_dict_metadata
    young = [name for name in momenta if not any(key.startswith(f"optimizer.state.{name}.") for key in known)]
    for name in young:
        del momenta[name]
    return young


def _without_parts(state: Any, path: tuple[str, ...], parts: dict[str, Tensor]) -> Any:
    """The state with a mark in the place of each DTensor, which goes into ``parts`` by its path."""
    if isinstance(state, Mapping):
        return {key: _without_parts(value, (*path, str(key)), parts) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [_without_parts(value, (*path, str(place)), parts) for place, value in enumerate(state)]
    if isinstance(state, Tensor) and is_sharded(state):
        parts["/".join(path)] = state
        return {MARK: list(path), "dtype": str(state.dtype).removeprefix("torch.")}
    return state


def _marks(state: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(state, Mapping):
        if MARK in state:
            yield state
        else:
            for value in state.values():
                yield from _marks(value)
    elif isinstance(state, (list, tuple)):
        for value in state:
            yield from _marks(value)


def _room_for_parts(state: Any, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Empty DTensors for what is marked in a state, each split as its parameter is now."""
    room: dict[str, Tensor] = {}
    for mark in _marks(state):
        like = next((parameters[name] for name in mark[MARK] if name in parameters), None)
        if like is None:
            raise CheckpointError(f"the checkpoint holds {'/'.join(mark[MARK])}, of no parameter that the model has")
        part = torch.empty_like(own_part(like), dtype=getattr(torch, mark["dtype"]))
        room["/".join(mark[MARK])] = whole_of_part(part, like)
    return room


def _with_parts(state: Any, parts: Mapping[str, Tensor]) -> Any:
    """The state with DTensors where they are marked."""
    if isinstance(state, Mapping):
        if MARK in state:
            return parts["/".join(state[MARK])]
        return {key: _with_parts(value, parts) for key, value in state.items()}
    return [_with_parts(value, parts) for value in state] if isinstance(state, (list, tuple)) else state


def _random_of_all() -> list[Any]:
    """The states of the random generators of every process."""
    states: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(states, random_state())
    return states


def _write(folder: Path, manager: ScheduledManager, plain: dict[str, Any], tensors: dict[str, Any]) -> None:
    """All parts into a folder of their own, then the file that names it: an earlier checkpoint holds until then."""
    first = dist.get_rank() == 0
    step = 0 if manager.run is None else manager.run.step
    names = (f"step-{step}" + f"-{number}" * bool(number) for number in itertools.count())
    name = next(name for name in names if not (folder / name).exists())
    dist.barrier()  # everybody has looked
    save_parts(tensors, checkpoint_id=str(folder / name))
    dist.barrier()
    if first:
        with whole_file(folder / PLAIN_FILE) as file:
            torch.save({**plain, "folder": name}, file)
        for earlier in folder.glob("step-*"):
            if earlier.name != name:
                shutil.rmtree(earlier)
    dist.barrier()

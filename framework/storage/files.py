"""Writing files so that no reader sees half of one, and reading files of tensors and plain values."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import torch
from torch import Tensor

from paredown.framework.errors import CheckpointError, ScheduleError, first_line

__all__ = ["load_plain", "read_tensors", "whole_file", "write_text"]


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A temporary file to write to, which replaces ``path`` at the end, when it is complete and on the disk.

    Folders are made where they are missing. After an exception ``path`` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with beside.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file whole, in UTF-8."""
    with whole_file(path) as file:
        file.write(text.encode())


def load_plain(path: str | Path) -> Any:
    """The content of a file of `torch.save`, on the CPU, read with ``weights_only=True``.

    Raises:
        CheckpointError: the file is missing, damaged, or holds more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, OSError, KeyError) as error:
        reason = first_line(error)
        raise CheckpointError(f"{path}: damaged, or no file of tensors and plain values ({reason})") from error


def read_tensors(source: Any) -> dict[str, Tensor]:
    """A state dict from a ``.safetensors`` file, or one that `torch.save` wrote.

    Raises:
        ScheduleError: there is no such file, or it is not a state dict.
    """
    path = Path(str(source))
    if not path.is_file():
        raise ScheduleError(f"the teacher {path} does not exist; name a file of tensors, or give modify(..., teacher=)")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        tensors = load_plain(path)
    except CheckpointError as error:
        raise ScheduleError(f"the teacher {error}") from None
    tensors = tensors.get("model", tensors) if isinstance(tensors, dict) else tensors
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise ScheduleError(f"the teacher {path} is no state dict: names with tensors are wanted")
    return tensors


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise ScheduleError(
            f"the teacher {path} needs the package safetensors: pip install 'paredown[huggingface]'"
        ) from None
    tensors: dict[str, Tensor] = load_file(path)
    return tensors

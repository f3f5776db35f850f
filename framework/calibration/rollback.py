"""Rollback: the contents of tensors kept on disk while they are changed, and restored after a failure."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

__all__ = ["Rollback"]


class Rollback:
    """A context that puts tensors back as they were if it is left by an exception; their contents lie in files.

    For changes in the memory of one part of a model: a copy in memory would be a second model.
    """

    def __init__(self) -> None:
        self._kept: dict[int, tuple[Tensor, Path]] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="paredown-")

    def keep(self, tensor: Tensor) -> None:
        """Remember what a tensor holds, before its first change."""
        if id(tensor) not in self._kept:
            path = Path(self._folder.name) / f"{len(self._kept)}.pt"
            torch.save(tensor.detach().clone(), path)
            self._kept[id(tensor)] = tensor, path

    def __enter__(self) -> Rollback:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            with torch.no_grad():
                for tensor, path in self._kept.values():
                    tensor.copy_(torch.load(path, map_location=tensor.device, weights_only=True))
        self._folder.cleanup()

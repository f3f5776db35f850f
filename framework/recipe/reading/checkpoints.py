"""Reads the recipe inside a checkpoint that paredown wrote."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paredown.framework.errors import RecipeError, first_line
from paredown.framework.modifier.registry import missing_classes
from paredown.framework.recipe.tree.positions import Position

__all__ = ["checkpoint_recipe", "is_checkpoint"]

#: the suffixes of checkpoints; those in a folder are tried after `recipe.yaml`
SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")


def is_checkpoint(path: Path) -> bool:
    """Whether the file is an archive as `torch.save` writes it."""
    return path.is_file() and zipfile.is_zipfile(path)


def checkpoint_recipe(path: Path) -> str:
    """The YAML text of the recipe in a checkpoint.

    Only tensors and plain values are read (``weights_only=True``), so a file from a stranger runs no code.

    Raises:
        RecipeError: not a readable checkpoint, or one without a recipe, or a modifier class is not known here.
    """
    content = _content(path)
    found = content if isinstance(content, Mapping) else {}
    callbacks = found.get("callbacks")
    trained = list(callbacks.values()) if isinstance(callbacks, Mapping) else []
    for holder in (found.get("manager"), found, *trained):
        if isinstance(holder, Mapping) and isinstance(text := holder.get("recipe"), str):
            missing = missing_classes(holder.get("modifiers"))
            if missing:
                raise RecipeError([Position(str(path)).mistake(f"it {missing}")])
            return text
    raise RecipeError([Position(str(path)).mistake("a checkpoint without a recipe; was it written by paredown.save?")])


def _content(path: Path) -> Any:
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a stranger's file may fail in any way
        message = f"cannot be read as a checkpoint: {first_line(error)}"
        raise RecipeError([Position(str(path)).mistake(message)]) from error

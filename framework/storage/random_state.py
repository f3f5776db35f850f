"""Saves and restores the random generators of Python, numpy and torch."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

__all__ = ["random_state", "set_random_state"]


def random_state() -> dict[str, Any]:
    """The state of every generator, as tensors and plain values."""
    version, numbers, position = random.getstate()
    kind, keys, place, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "python": [version, list(numbers), position],
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), place, has_gauss, gauss],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(saved: Mapping[str, Any]) -> None:
    """Restore every generator to a state that `random_state` returned."""
    version, numbers, position = saved["python"]
    random.setstate((version, tuple(numbers), position))
    kind, keys, *rest = saved["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(saved["torch"])
    if saved["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(saved["cuda"])

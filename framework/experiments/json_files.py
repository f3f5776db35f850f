"""Small JSON files in the folders of jobs: an object is written whole, and read with few kinds of errors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paredown.framework.storage.files import write_text

__all__ = ["read_object", "write_object"]

#: characters that are read of a file; a longer one is damaged
LONGEST = 100_000_000


def write_object(path: Path, values: Mapping[str, Any]) -> None:
    """Write a mapping as a JSON file, whole or not at all; missing folders are created."""
    write_text(path, json.dumps(values, indent=2))


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds no JSON object.
    """
    try:
        with path.open(encoding="utf-8") as file:
            plain: Any = json.loads(file.read(LONGEST))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(plain, dict):
        raise ValueError("no mapping")
    return plain

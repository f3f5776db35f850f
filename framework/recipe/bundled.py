"""The recipes that come with paredown, by name: `mnist/prune-quantize-distill`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from paredown.framework.recipe.positions import did_you_mean

__all__ = ["bundled_names", "bundled_path", "near_bundled"]

PACKAGE = "paredown.recipes"
SUFFIXES = (".yaml", ".yml", ".md")


def bundled_names() -> list[str]:
    """The names of all bundled recipes, sorted."""
    root = _root()
    found = (path for suffix in SUFFIXES[:2] for path in root.rglob(f"*{suffix}"))
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in found)


def bundled_path(name: str) -> Path | None:
    """The file of a bundled recipe, with or without suffix in its name; None where there is none."""
    if name.removesuffix(".yaml").removesuffix(".yml") not in bundled_names():
        return None
    candidates = (_root() / f"{name}{suffix}" for suffix in ("", *SUFFIXES[:2]))
    return next((path for path in candidates if path.is_file()), None)


def near_bundled(name: str) -> str:
    """The end of a message that names the nearest bundled recipe, or where to find them."""
    return did_you_mean(name, bundled_names()) or "; `paredown recipes list` names the bundled recipes"


def _root() -> Path:
    return Path(str(files(PACKAGE)))

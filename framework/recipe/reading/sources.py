"""Finds and reads the source of a recipe: a file, a Markdown card, a recipe's name, a checkpoint, a dict."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from paredown.framework.errors import Mistake, RecipeError
from paredown.framework.recipe.reading.checkpoints import SUFFIXES, checkpoint_recipe, is_checkpoint
from paredown.framework.recipe.reading.collections import named_file, near_names
from paredown.framework.recipe.reading.hub import PREFIX, hub_file
from paredown.framework.recipe.tree.nodes import Node, plain_node
from paredown.framework.recipe.tree.positions import Position, shown
from paredown.framework.recipe.tree.yaml_nodes import LONGEST_TEXT, read_yaml

__all__ = ["Document", "find_file", "front_matter", "read_file", "read_mapping"]

TEXT_SUFFIXES = (".yaml", ".yml", ".md")


@dataclass(frozen=True)
class Document:
    """One source, read but not yet merged with what it extends.

    Attributes:
        root: the tree of its values.
        file: its name in messages.
        path: the file; None for a dict.
        mistakes: those found so far.
    """

    root: Node
    file: str
    path: Path | None
    mistakes: tuple[Mistake, ...] = ()

    @property
    def folder(self) -> Path:
        """The folder that paths in `extends` are relative to."""
        return Path() if self.path is None else self.path.parent

    @property
    def name(self) -> str:
        """The recipe's name where the document has none."""
        return "recipe" if self.path is None else self.path.stem


def find_file(source: str | os.PathLike[str], folder: Path | None = None) -> Path:
    """The file that a path, a recipe's name, or an address on the Hub refers to.

    Args:
        source: what the user, or another recipe, names.
        folder: of the recipe that extends this one; a recipe opens no network, so it cannot extend one on the Hub.

    Raises:
        RecipeError: there is no such file; the message has the nearest name.
    """
    text = os.fsdecode(source)
    if text.startswith(PREFIX) and folder is None:
        return hub_file(text)
    found = (_existing(folder or Path(), text) or named_file(text)) if _is_possible(text) else None
    if found is None and "\n" in text:
        message = "no such file: a path is wanted, and this is text; write it to a .yaml file, or give it as a dict"
        raise RecipeError([Position(shown(text)).mistake(message)])
    if found is None:
        name = text if _is_possible(text) else shown(text)
        raise RecipeError([Position(name).mistake(f"no such file, and no recipe of that name{near_names(text)}")])
    return found


def read_file(path: Path) -> Document:
    """Read a recipe file, a card or a checkpoint.

    Raises:
        RecipeError: it cannot be read, or holds no tree of values.
    """
    file = str(path)
    if path.suffix.lower() not in TEXT_SUFFIXES and is_checkpoint(path):
        return _document(checkpoint_recipe(path), file, path)
    if path.suffix.lower() not in TEXT_SUFFIXES:
        raise RecipeError(
            [Position(file).mistake("not a recipe; one of .yaml, .yml, .md, or a checkpoint by paredown")]
        )
    text = _text(path)
    return _document(front_matter(text, file) if path.suffix.lower() == ".md" else text, file, path)


def read_mapping(source: Mapping[str, object]) -> Document:
    """Take a recipe from a dict."""
    return Document(plain_node(source, Position("dict")), "dict", None)


def front_matter(text: str, file: str) -> str:
    """The YAML between the first line `---` and the next; line numbers stay those of the page.

    >>> front_matter("---\\nrecipe: 1\\n---\\n# Title\\n", "card.md")
    '---\\nrecipe: 1\\n'

    Raises:
        RecipeError: there is no front matter, or it does not end.
    """
    lines = text.splitlines(keepends=True)
    if not lines or lines[0].rstrip() != "---":
        raise RecipeError([Position(file, 1, 1).mistake("no recipe; a card starts with YAML between two lines '---'")])
    for number, line in enumerate(lines[1:], 1):
        if line.rstrip() in ("---", "..."):
            return "".join(lines[:number])
    raise RecipeError([Position(file, 1, 1).mistake("the front matter has no end; close it with a line '---'")])


def _document(text: str, file: str, path: Path) -> Document:
    root, mistakes = read_yaml(text, file)
    return Document(root, file, path, tuple(mistakes))


def _is_possible(text: str) -> bool:
    return bool(text.strip()) and "\0" not in text and len(text) < 4096 and text.isprintable()


def _existing(folder: Path, text: str) -> Path | None:
    path = Path(os.path.normpath(folder / text))
    try:
        found = _in_folder(path) if path.is_dir() else path
        return found if found.is_file() else None
    except OSError as error:
        raise RecipeError([Position(text).mistake(f"cannot be read: {error.strerror}")]) from error


def _in_folder(folder: Path) -> Path:
    named = [folder / f"recipe{suffix}" for suffix in TEXT_SUFFIXES]
    saved = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    for path in (*named, *saved):
        if path.is_file():
            return path
    raise RecipeError([Position(str(folder)).mistake("a folder without a recipe and without a checkpoint")])


def _text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            raw = stream.read(4 * LONGEST_TEXT + 1)
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise RecipeError([Position(str(path), line, 1).mistake("not UTF-8 text; save the file as UTF-8")]) from None
    except OSError as error:
        raise RecipeError([Position(str(path)).mistake(f"cannot be read: {error.strerror}")]) from error
